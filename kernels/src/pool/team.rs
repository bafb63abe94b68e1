//! Threads that look for work instead of waiting to be woken.
//!
//! Kernels fork every few tens of microseconds, and waking a thread takes as long. So the threads of a team spin between forks; when to give
//! up is their own decision ([`Team::help`]), and whoever forks meanwhile does all shares itself.

use core::cell::UnsafeCell;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{Pool, Serial};

/// What a fork runs: the address of the caller's job.
type Job = *const (dyn Fn(usize) + Sync);

/// A pool whose threads are lent by the host: each calls [`Team::help`].
///
/// ```
/// use sluicegate_kernels::pool::{Pool, Team};
/// use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
///
/// let (team, done) = (Team::new(2), AtomicBool::new(false));
/// std::thread::scope(|scope| {
///     scope.spawn(|| team.help(|_| !done.load(Relaxed)));
///     team.run(8, &|i| println!("share {i}"));
///     done.store(true, Relaxed);
/// });
/// ```
#[derive(Debug)]
#[repr(align(128))] // a pair of cache lines of its own: the helpers read it all the time
pub struct Team {
    /// Shares of the current fork that nobody has taken.
    left: AtomicUsize,
    /// Shares that are not done.
    pending: AtomicUsize,
    /// Somebody forks: another caller works alone.
    busy: AtomicBool,
    /// A share panicked on a helper.
    failed: AtomicBool,
    /// Written by who holds `busy` while `pending` is zero, read by who has taken a share.
    job: UnsafeCell<Option<Job>>,
    threads: usize,
}

// SAFETY: `job` is written only under `busy` and while no share is pending, and read only between the taking of a share and its end; both are
// ordered by `left` and `pending`. The job itself is `Sync`.
unsafe impl Sync for Team {}
// SAFETY: as above; nothing belongs to a thread.
unsafe impl Send for Team {}

impl Team {
    /// A team of `threads`, the caller of [`Pool::run`] and helpers.
    pub fn new(threads: usize) -> Self {
        Self {
            left: AtomicUsize::new(0),
            pending: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            job: UnsafeCell::new(None),
            threads: threads.max(1),
        }
    }

    /// Takes shares until `go_on` says no, which is asked now and then, and told whether there was one since. When a share panics, so does
    /// this; it may be called again.
    pub fn help(&self, mut go_on: impl FnMut(bool) -> bool) {
        loop {
            let mut worked = false;
            for _ in 0..LOOKS {
                while let Some(share) = self.take() {
                    self.perform(share);
                    worked = true;
                }
                spin_loop();
            }
            if !go_on(worked) {
                return;
            }
        }
    }

    fn take(&self) -> Option<usize> {
        let mut left = self.left.load(Ordering::Relaxed);
        while left > 0 {
            let next = left - 1;
            match self
                .left
                .compare_exchange_weak(left, next, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => return Some(next),
                Err(now) => left = now,
            }
        }
        None
    }

    /// Runs a share that was taken.
    fn perform(&self, share: usize) {
        /// Ends a share, also one that panics.
        struct End<'a>(&'a Team, bool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                if !self.1 {
                    self.0.failed.store(true, Ordering::Relaxed);
                }
                self.0.pending.fetch_sub(1, Ordering::Release);
            }
        }
        let mut end = End(self, false);
        // SAFETY: the share was taken, so the fork that published it is waiting for it: `job` was written before `left`, which `take` acquired,
        // and what it points to lives until the share has ended.
        if let Some(job) = unsafe { *self.job.get() } {
            // SAFETY: as above.
            unsafe { (*job)(share) };
        }
        end.1 = true;
    }
}

/// Times that a helper looks for work before it asks whether to go on.
const LOOKS: usize = 128;

impl Pool for Team {
    fn threads(&self) -> usize {
        self.threads
    }

    /// Panics when a job does.
    fn run(&self, jobs: usize, job: &(dyn Fn(usize) + Sync)) {
        /// Waits for the shares of others, also when the caller's own panics, and then lets the next caller in.
        struct Join<'a>(&'a Team);
        impl Join<'_> {
            fn wait(&self) {
                while self.0.take().is_some() {
                    self.0.pending.fetch_sub(1, Ordering::Release);
                }
                while self.0.pending.load(Ordering::Acquire) > 0 {
                    spin_loop();
                }
            }
        }
        impl Drop for Join<'_> {
            fn drop(&mut self) {
                self.wait();
                self.0.busy.store(false, Ordering::Release);
            }
        }
        if jobs < 2 || self.threads == 1 || self.busy.swap(true, Ordering::Acquire) {
            return Serial.run(jobs, job);
        }
        let join = Join(self);
        self.failed.store(false, Ordering::Relaxed);
        let job: *const (dyn Fn(usize) + Sync + '_) = job;
        // SAFETY: only the lifetime changes; `Join` does not let this call end before every share has.
        let job = unsafe { core::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(job) };
        // SAFETY: `busy` is ours and no share is pending, so nobody reads.
        unsafe { *self.job.get() = Some(job) };
        self.pending.store(jobs, Ordering::Relaxed);
        self.left.store(jobs, Ordering::Release);
        while let Some(share) = self.take() {
            self.perform(share);
        }
        join.wait();
        assert!(
            !self.failed.load(Ordering::Relaxed),
            "a job panicked on another thread"
        );
    }

    fn least_macs(&self) -> usize {
        1 << 18
    }
}
