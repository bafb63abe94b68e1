//! Threads of our own for kernels: rayon's, which look for work for a while before they sleep.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sluicegate_kernels::pool::{Pool, Team};

use crate::{Error, Result};

/// How long a helper looks for work after the last: the time between two layers, or two calls that follow each other, and no more.
const LINGER: Duration = Duration::from_micros(500);

/// A pool of threads, of which the caller is one. The others sleep when nothing was forked for half a millisecond, and waking them is
/// not waited for: the caller does what they do not take.
#[derive(Debug)]
pub struct Threads {
    team: Arc<Team>,
    /// What the helpers are, if there are any.
    carriers: Option<rayon::ThreadPool>,
    /// Helpers that are awake.
    awake: Arc<AtomicUsize>,
}

impl Threads {
    /// A pool of `threads`, at least one.
    ///
    /// # Errors
    /// [`Error::Model`] when the system has no more threads.
    pub fn new(threads: usize) -> Result<Self> {
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
            awake: Arc::new(AtomicUsize::new(0)),
        })
    }

    /// Wakes the helpers that sleep.
    fn wake(&self) {
        let Some(carriers) = &self.carriers else {
            return;
        };
        while self.awake.load(Ordering::Relaxed) + 1 < self.team.threads() {
            self.awake.fetch_add(1, Ordering::Relaxed);
            let (team, awake) = (Arc::clone(&self.team), Arc::clone(&self.awake));
            carriers.spawn(move || {
                let mut since = Instant::now();
                // A panic is the caller's: the team tells it.
                while catch_unwind(AssertUnwindSafe(|| {
                    team.help(|worked| {
                        if worked {
                            since = Instant::now();
                        }
                        since.elapsed() < LINGER
                    });
                }))
                .is_err()
                {
                    since = Instant::now();
                }
                awake.fetch_sub(1, Ordering::Relaxed);
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
