//! Forks on a team: every share once, whoever is there to help, and panics.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sluicegate_kernels::pool::{Pool, Team};

/// Runs `test` with a team of `threads`, whose helpers look for work until it ends.
fn with_team(threads: usize, test: impl FnOnce(&Team)) {
    /// Sends the helpers home, also when the test fails.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (team, over) = (Team::new(threads), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _over = Over(&over);
        for _ in 1..threads {
            scope.spawn(|| {
                let help = || team.help(|_| !over.load(Ordering::Relaxed));
                while catch_unwind(AssertUnwindSafe(help)).is_err() {}
            });
        }
        test(&team);
    });
}

#[test]
fn a_team_does_every_share_once() {
    for threads in [1, 2, 4] {
        with_team(threads, |team| {
            assert_eq!(team.threads(), threads);
            for jobs in (0..40).cycle().take(20_000) {
                let done: Vec<_> = (0..jobs).map(|_| AtomicUsize::new(0)).collect();
                team.run(jobs, &|i| {
                    done[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(done.iter().all(|n| n.load(Ordering::Relaxed) == 1));
            }
        });
    }
}

#[test]
fn a_team_without_helpers_and_forks_within_forks() {
    let team = Team::new(3);
    let done = AtomicUsize::new(0);
    team.run(5, &|_| {
        team.run(4, &|_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
    });
    assert_eq!(done.into_inner(), 20);
}

#[test]
fn callers_share_a_team() {
    with_team(2, |team| {
        let done = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..5000 {
                        team.run(3, &|_| {
                            done.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(done.into_inner(), 3 * 5000 * 3);
    });
}

/// The caller hears of a panic, wherever it was, when no share runs any more; and the team goes on.
#[test]
fn a_panic_of_a_share_is_the_callers() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    with_team(4, |team| {
        for bad in (0..8).cycle().take(400) {
            let running = AtomicUsize::new(0);
            let run = catch_unwind(AssertUnwindSafe(|| {
                team.run(8, &|i| {
                    running.fetch_add(1, Ordering::Relaxed);
                    std::thread::yield_now();
                    running.fetch_sub(1, Ordering::Relaxed);
                    assert!(i != bad, "the bad share");
                });
            }));
            assert!(run.is_err() && running.into_inner() == 0);
            let done = AtomicUsize::new(0);
            team.run(8, &|_| {
                done.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(done.into_inner(), 8);
        }
    });
    std::panic::set_hook(hook);
}
