//! Threads for tests.

use std::sync::atomic::{AtomicUsize, Ordering};

use sluicegate_kernels::pool::Pool;

/// Threads started anew for each call.
pub(crate) struct Threads(pub(crate) usize);

impl Pool for Threads {
    fn threads(&self) -> usize {
        self.0
    }
    fn run(&self, jobs: usize, job: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..self.0 {
                scope.spawn(|| {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        if i >= jobs {
                            break;
                        }
                        job(i);
                    }
                });
            }
        });
    }
}
