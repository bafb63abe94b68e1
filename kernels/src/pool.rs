//! Threads are the host's: a kernel splits its work into jobs and a [`Pool`] runs them.

use core::marker::PhantomData;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

mod team;

pub use team::Team;

/// Runs the jobs of a kernel. Hosts implement it over their own threads.
pub trait Pool: Sync {
    /// Threads that may run jobs at the same time, at least 1. Kernels cut their work by it; results do not depend on it.
    fn threads(&self) -> usize;
    /// Calls `job(i)` once for each `i` in `0..jobs`, in any order and on any thread, and returns when all are done. Where a number mostly goes to the
    /// same thread, that thread finds in its caches what it wrote in the layer before.
    fn run(&self, jobs: usize, job: &(dyn Fn(usize) + Sync));
    /// Multiplications below which kernels do not fork, because that would cost more than it gains. The default is about 30 us of one core
    /// with the widest vectors, for threads that must be woken.
    fn least_macs(&self) -> usize {
        1 << 21
    }
}

/// `pool`, or the calling thread alone when the work is small.
pub(crate) fn worth(pool: &dyn Pool, macs: usize) -> &dyn Pool {
    if macs < pool.least_macs() {
        &Serial
    } else {
        pool
    }
}

/// The calling thread alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Serial;

impl Pool for Serial {
    fn threads(&self) -> usize {
        1
    }
    fn run(&self, jobs: usize, job: &(dyn Fn(usize) + Sync)) {
        for i in 0..jobs {
            job(i);
        }
    }
}

/// A row-major matrix that one job may write: `rows` rows of `cols` elements, `ld` elements apart.
///
/// Tiles of one matrix never overlap, which is what makes [`Tile::row`] sound on many threads.
#[derive(Debug)]
pub struct Tile<'a> {
    at: *mut f32,
    rows: usize,
    cols: usize,
    ld: usize,
    of: PhantomData<&'a mut [f32]>,
}

// SAFETY: a tile is an exclusive borrow of its elements, like `&mut [f32]`.
unsafe impl Send for Tile<'_> {}

impl<'a> Tile<'a> {
    /// The whole of `out` as a matrix. Panics when `out` is too short for it.
    pub fn new(out: &'a mut [f32], rows: usize, cols: usize, ld: usize) -> Self {
        assert!(cols <= ld || rows <= 1, "rows overlap");
        if rows > 0 {
            let needed = (rows - 1).checked_mul(ld).and_then(|n| n.checked_add(cols));
            assert!(
                needed.is_some_and(|n| n <= out.len()),
                "output is too short"
            );
        }
        Self {
            at: out.as_mut_ptr(),
            rows,
            cols,
            ld,
            of: PhantomData,
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row `i`. Panics when there is none.
    #[inline(always)]
    pub fn row(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.rows, "row out of range");
        // SAFETY: the row lies inside the borrowed matrix (`new`, `sub`), and `&mut self` makes the borrow exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.at.add(i * self.ld), self.cols) }
    }

    /// The `R` rows from `first` on. Panics when there are fewer.
    #[inline(always)]
    pub(crate) fn in_order<const R: usize>(&mut self, first: usize) -> InOrder<'_, R> {
        assert!(
            R <= self.rows && first <= self.rows - R,
            "rows out of range"
        );
        InOrder {
            // SAFETY: the row lies inside the borrowed matrix, by the assertion.
            at: unsafe { self.at.add(first * self.ld) },
            ld: self.ld,
            len: self.cols,
            of: PhantomData,
        }
    }

    /// Row `list[i] + shift` for each `i`. Panics when there is no such row.
    #[inline(always)]
    pub(crate) fn listed<const R: usize>(
        &mut self,
        list: &[u32; R],
        shift: isize,
    ) -> Listed<'_, R> {
        self.listed_or(list, shift, &mut [])
    }

    /// As [`Tile::listed`], but `spare` in the place of a row [`NOWHERE`]. Panics when it is needed and too short.
    #[inline(always)]
    pub(crate) fn listed_or<'t, const R: usize>(
        &'t mut self,
        list: &[u32; R],
        shift: isize,
        spare: &'t mut [f32],
    ) -> Listed<'t, R> {
        let mut at = [self.at; R];
        for (at, &row) in at.iter_mut().zip(list) {
            if row == NOWHERE && spare.len() >= self.cols {
                *at = spare.as_mut_ptr();
                continue;
            }
            let row = (row as usize).wrapping_add_signed(shift);
            assert!(row < self.rows, "row out of range");
            // SAFETY: the row lies inside the borrowed matrix, by the assertion.
            *at = unsafe { self.at.add(row * self.ld) };
        }
        Listed {
            at,
            len: self.cols,
            of: PhantomData,
        }
    }

    /// The part of this tile at `rows` x `cols`. Panics when it is not inside.
    #[inline(always)]
    pub fn sub(&mut self, rows: Range<usize>, cols: Range<usize>) -> Tile<'_> {
        assert!(
            rows.start <= rows.end && rows.end <= self.rows,
            "rows out of range"
        );
        assert!(
            cols.start <= cols.end && cols.end <= self.cols,
            "columns out of range"
        );
        Tile {
            // SAFETY: `start` is inside the matrix or one past its end, by the assertions.
            at: unsafe {
                if rows.is_empty() || cols.is_empty() {
                    self.at
                } else {
                    self.at.add(rows.start * self.ld + cols.start)
                }
            },
            rows: rows.len(),
            cols: cols.len(),
            ld: self.ld,
            of: PhantomData,
        }
    }

    /// Cuts the tile into blocks of `block.0` x `block.1` and has `pool` run `job(first_row, first_col, block)` once for each.
    pub fn split(
        self,
        pool: &dyn Pool,
        block: (usize, usize),
        job: impl Fn(usize, usize, Tile<'_>) + Sync,
    ) {
        self.split_with(pool, block, &mut [], 0, |r, c, tile, _| job(r, c, tile));
    }

    /// As [`Tile::split`]; `job` also gets `each` elements of `scratch` that no other thread uses meanwhile, with unspecified
    /// contents. As many threads work as `scratch` suffices for. Panics when it does not suffice for one.
    pub fn split_with(
        self,
        pool: &dyn Pool,
        block: (usize, usize),
        scratch: &mut [f32],
        each: usize,
        job: impl Fn(usize, usize, Tile<'_>, &mut [f32]) + Sync,
    ) {
        let cuts = (Cuts::Every(block.0.max(1)), Cuts::Every(block.1.max(1)));
        self.cut(pool, cuts, scratch, each, job);
    }

    /// As [`Tile::split_with`], cut along either axis. Panics when the cuts do not ascend or are beyond the tile.
    pub(crate) fn cut(
        self,
        pool: &dyn Pool,
        (rows, cols): (Cuts<'_>, Cuts<'_>),
        scratch: &mut [f32],
        each: usize,
        job: impl Fn(usize, usize, Tile<'_>, &mut [f32]) + Sync,
    ) {
        struct Shared(*mut f32);
        // SAFETY: the pointers are only used below, for blocks and parts that do not overlap.
        unsafe impl Sync for Shared {}
        if self.rows == 0 || self.cols == 0 {
            return;
        }
        let (down, across) = (rows.count(self.rows), cols.count(self.cols));
        let jobs = down * across;
        if jobs == 0 {
            return;
        }
        let parts = scratch.len().checked_div(each).unwrap_or(usize::MAX);
        assert!(parts > 0, "scratch is too short");
        let workers = pool.threads().min(jobs).min(parts);

        let (output, parts) = (Shared(self.at), Shared(scratch.as_mut_ptr()));
        let (output, parts) = (&output, &parts);
        let run = |i: usize, mine: &mut [f32]| {
            let (r, c) = (
                rows.block(i / across, self.rows),
                cols.block(i % across, self.cols),
            );
            let tile = Tile {
                // SAFETY: the block is inside the matrix, since `count` saw the cuts ascend; they do not overlap, and each `i` is claimed
                // once, so no other job has this block.
                at: unsafe { output.0.add(r.start * self.ld + c.start) },
                rows: r.len(),
                cols: c.len(),
                ld: self.ld,
                of: PhantomData,
            };
            job(r.start, c.start, tile, mine);
        };
        if workers == 1 {
            (0..jobs).for_each(|i| run(i, &mut scratch[..each]));
            return;
        }
        // Each thread begins with a part of the blocks that is always its own, as long as the pool numbers its threads: what it wrote in the last layer is
        // in its caches. Blocks are claimed here and not taken from the pool's index: a pool that repeats or forgets one stays harmless.
        let shares = workers.min(SHARES);
        let share = |n: usize| n * jobs / shares..(n + 1) * jobs / shares;
        let (arrived, taken) = (AtomicUsize::new(0), [const { AtomicUsize::new(0) }; SHARES]);
        let work = |index: usize| {
            let me = arrived.fetch_add(1, Ordering::Relaxed);
            if me >= workers {
                return;
            }
            // SAFETY: `workers * each` elements are inside `scratch`, and `me` is claimed once.
            let mine = unsafe { core::slice::from_raw_parts_mut(parts.0.add(me * each), each) };
            for n in 0..shares {
                let n = (index % shares + n) % shares;
                let next = || share(n).nth(taken[n].fetch_add(1, Ordering::Relaxed));
                while let Some(i) = next() {
                    run(i, mine);
                }
            }
        };
        pool.run(workers, &work);
        // A worker leaves only when no block is left, so this does nothing unless the pool started none.
        work(0);
    }
}

/// Parts that the blocks of a tile are claimed from, one a thread while there are no more threads than that.
const SHARES: usize = 16;

/// Where a tile is cut along an axis.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cuts<'a> {
    /// Before every so many.
    Every(usize),
    /// Into so many blocks of whole units, which differ by one unit at most.
    Even(usize, usize),
    /// Before each of these, times a unit; what is before the first belongs to it.
    At(&'a [u32], usize),
}

impl Cuts<'_> {
    /// Number of blocks that `len` is cut into. Panics unless the cuts ascend within it and units are whole.
    fn count(self, len: usize) -> usize {
        match self {
            Cuts::Every(n) => len.div_ceil(n),
            Cuts::Even(n, unit) => {
                assert!(len.is_multiple_of(unit), "cuts within a unit");
                n.min(len / unit)
            }
            Cuts::At(starts, unit) => {
                let last = starts.last().map_or(0, |&last| last as usize);
                let inside = last.checked_mul(unit).is_some_and(|last| last < len);
                assert!(inside && starts.is_sorted(), "cuts out of range");
                starts.len()
            }
        }
    }

    /// Block `i` of `len`.
    fn block(self, i: usize, len: usize) -> Range<usize> {
        match self {
            Cuts::Every(n) => i * n..len.min((i + 1) * n),
            Cuts::Even(n, unit) => {
                let (units, n) = (len / unit, n.min(len / unit));
                i * units / n * unit..(i + 1) * units / n * unit
            }
            Cuts::At(starts, unit) => {
                let start = if i == 0 { 0 } else { starts[i] as usize * unit };
                start..starts.get(i + 1).map_or(len, |&next| next as usize * unit)
            }
        }
    }
}

/// The number of a row that nobody wants.
pub(crate) const NOWHERE: u32 = u32::MAX;

/// Rows that are known to exist, of one length: a kernel that writes them need not check each.
pub(crate) trait Rows<const R: usize> {
    /// Row `i`.
    fn row(&mut self, i: usize) -> &mut [f32];
}

/// Rows of a tile, one below the other.
pub(crate) struct InOrder<'t, const R: usize> {
    // Invariant: `R` rows of `len` elements begin here, `ld` apart.
    at: *mut f32,
    ld: usize,
    len: usize,
    of: PhantomData<&'t mut f32>,
}

impl<const R: usize> Rows<R> for InOrder<'_, R> {
    #[inline(always)]
    fn row(&mut self, i: usize) -> &mut [f32] {
        assert!(i < R, "row out of range");
        // SAFETY: by the invariant; the tile is borrowed exclusively, and so is `self`.
        unsafe { core::slice::from_raw_parts_mut(self.at.add(i * self.ld), self.len) }
    }
}

/// Rows of a tile, in any order.
pub(crate) struct Listed<'t, const R: usize> {
    // Invariant: `len` elements begin at each.
    at: [*mut f32; R],
    len: usize,
    of: PhantomData<&'t mut f32>,
}

impl<const R: usize> Rows<R> for Listed<'_, R> {
    #[inline(always)]
    fn row(&mut self, i: usize) -> &mut [f32] {
        // SAFETY: by the invariant; the tile is borrowed exclusively, and so is `self`.
        unsafe { core::slice::from_raw_parts_mut(self.at[i], self.len) }
    }
}

impl<const R: usize, T: Rows<R>> Rows<R> for &mut T {
    #[inline(always)]
    fn row(&mut self, i: usize) -> &mut [f32] {
        (**self).row(i)
    }
}
