//! Who runs the jobs of kernels.

use std::sync::Arc;

use sluicegate_kernels::pool::{Pool, Serial};

use crate::{Error, Options, Result};

/// The threads of a session.
#[derive(Clone)]
pub(super) enum Threads {
    One,
    Host(Arc<dyn Pool + Send + Sync>),
    #[cfg(feature = "rayon")]
    Own(Arc<rayon::ThreadPool>),
}

impl Threads {
    pub(super) fn new(options: &Options) -> Result<Self> {
        if let Some(pool) = &options.pool {
            return Ok(Threads::Host(Arc::clone(pool)));
        }
        match options.threads {
            0 | 1 => Ok(Threads::One),
            #[cfg(feature = "rayon")]
            n => rayon::ThreadPoolBuilder::new()
                .num_threads(n)
                .thread_name(|i| format!("sluicegate-{i}"))
                .build()
                .map(|pool| Threads::Own(Arc::new(pool)))
                .map_err(|e| Error::Model(format!("{n} threads cannot be started: {e}"))),
            #[cfg(not(feature = "rayon"))]
            n => Err(Error::Model(format!(
                "{n} threads need the feature `rayon`, or a pool of the host's in `Options::pool`"
            ))),
        }
    }

    /// How many kernels may cut their work for.
    pub(super) fn count(&self) -> usize {
        match self {
            Threads::One => 1,
            Threads::Host(pool) => pool.threads().max(1),
            #[cfg(feature = "rayon")]
            Threads::Own(pool) => pool.current_num_threads(),
        }
    }

    /// Runs a whole forward pass. It enters the pool once: entering it for every kernel would cost microseconds each.
    pub(super) fn enter<R: Send>(&self, pass: impl FnOnce(&dyn Pool) -> R + Send) -> R {
        match self {
            Threads::One => pass(&Serial),
            Threads::Host(pool) => pass(&**pool),
            #[cfg(feature = "rayon")]
            Threads::Own(pool) => pool.install(|| pass(&Inside)),
        }
    }
}

/// The rayon pool that the calling thread belongs to.
#[cfg(feature = "rayon")]
struct Inside;

#[cfg(feature = "rayon")]
impl Pool for Inside {
    fn threads(&self) -> usize {
        rayon::current_num_threads()
    }

    fn run(&self, jobs: usize, job: &(dyn Fn(usize) + Sync)) {
        use rayon::prelude::*;
        (0..jobs).into_par_iter().with_max_len(1).for_each(job);
    }
}
