//! The threads that kernels are timed on.

use sluicegate_kernels::pool::Pool;

/// The threads of rayon, entered from outside.
pub(crate) struct Threads(rayon::ThreadPool);

impl Threads {
    pub(crate) fn new(threads: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().map(Self)
    }
}

impl Pool for Threads {
    fn threads(&self) -> usize {
        self.0.current_num_threads()
    }
    fn run(&self, jobs: usize, job: &(dyn Fn(usize) + Sync)) {
        if jobs == 1 || self.threads() == 1 {
            return (0..jobs).for_each(job);
        }
        self.0.in_place_scope(|scope| {
            for i in 1..jobs {
                scope.spawn(move |_| job(i));
            }
            job(0);
        });
    }
}
