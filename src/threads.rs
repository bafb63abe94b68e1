//! Threads of our own for kernels: rayon's, which look for work for a while before they sleep.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sluicegate_kernels::pool::{Pool, Team};

use crate::{Error, Result};

/// How long a helper looks for work after the last, unless told otherwise: the time between two layers, or two calls that follow each other, and no
/// more.
const LINGER: Duration = Duration::from_micros(500);

/// A pool of threads, of which the caller is one. The others sleep when nothing was forked for a while, and waking them is not waited for: the caller
/// does what they do not take.
#[derive(Debug)]
pub struct Threads {
    team: Arc<Team>,
    /// What the helpers are, if there are any.
    carriers: Option<rayon::ThreadPool>,
    helpers: Arc<Helpers>,
    linger: Duration,
}

#[derive(Debug, Default)]
struct Helpers {
    awake: AtomicUsize,
    /// Nobody will fork any more.
    dismissed: AtomicBool,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.helpers.dismissed.store(true, Ordering::Relaxed);
    }
}

impl Threads {
    /// A pool of `threads`, at least one, which sleep half a millisecond after the last fork.
    ///
    /// # Errors
    /// [`Error::Model`] when the system has no more threads.
    pub fn new(threads: usize) -> Result<Self> {
        Self::lingering(threads, LINGER)
    }

    /// The same, but they look for work for so long before they sleep. To wake one takes 50 us and more, on a virtual machine up to milliseconds; calls that
    /// follow each other within `linger` find them awake, and that takes the power of as many busy cores.
    ///
    /// # Errors
    /// As [`Threads::new`].
    pub fn lingering(threads: usize, linger: Duration) -> Result<Self> {
        let threads = threads.max(1);
        let helpers = rayon::ThreadPoolBuilder::new()
            .num_threads(threads - 1)
            .thread_name(|i| format!("sluicegate-{}", i + 1));
        let carriers = (threads > 1)
            .then(|| helpers.build())
            .transpose()
            .map_err(|e| Error::Model(format!("{threads} threads cannot be started: {e}")))?;
        Ok(Self {
            team: Arc::new(Team::new(threads)),
            carriers,
            helpers: Arc::default(),
            linger,
        })
    }

    /// Wakes the helpers that sleep.
    fn wake(&self) {
        let Some(carriers) = &self.carriers else {
            return;
        };
        while self.helpers.awake.load(Ordering::Relaxed) + 1 < self.team.threads() {
            self.helpers.awake.fetch_add(1, Ordering::Relaxed);
            let (team, helpers) = (Arc::clone(&self.team), Arc::clone(&self.helpers));
            let linger = self.linger;
            carriers.spawn(move || {
                let mut since = Instant::now();
                // A panic is the caller's: the team tells it.
                while catch_unwind(AssertUnwindSafe(|| {
                    team.help(|worked| {
                        if worked {
                            since = Instant::now();
                        }
                        since.elapsed() < linger && !helpers.dismissed.load(Ordering::Relaxed)
                    });
                }))
                .is_err()
                {
                    since = Instant::now();
                }
                helpers.awake.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }
}

impl Pool for Threads {
    fn threads(&self) -> usize {
        self.team.threads()
    }

    fn run(&self, jobs: usize, job: &(dyn Fn(usize) + Sync)) {
        if jobs > 1 {
            self.wake();
        }
        self.team.run(jobs, job);
    }

    fn least_macs(&self) -> usize {
        self.team.least_macs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helpers_leave_with_their_pool() {
        let pool = Threads::lingering(3, Duration::from_secs(3600)).expect("three threads");
        let sum = AtomicUsize::new(0);
        pool.run(100, &|i| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 4950);
        let helpers = Arc::clone(&pool.helpers);
        drop(pool);
        let since = Instant::now();
        while Arc::strong_count(&helpers) > 1 {
            assert!(
                since.elapsed() < Duration::from_secs(60),
                "they still look for work"
            );
            std::thread::yield_now();
        }
    }
}
