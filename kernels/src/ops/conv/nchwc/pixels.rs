//! Where the sums of a tile go: pixels of neighbouring blocks.
#![forbid(unsafe_code)]

use super::pass::WIDE;
use crate::isa::F32s;
use crate::pool::Rows;
use crate::tile::gemm::{Target, each_row};

/// What is not stored of the blocks of a tile: lanes that become zeros, and those that stay as they are, of other groups.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Lanes {
    pub(super) dead: [u32; WIDE],
    pub(super) others: [u32; WIDE],
}

impl Lanes {
    pub(super) const ALL: Self = Self {
        dead: [0; WIDE],
        others: [0; WIDE],
    };
}

/// Pixels of neighbouring blocks, from the elements `at` on: vector `j` of row `i` of a tile is pixel `i` of block `j`.
pub(super) struct Pixels<'a, R, const MR: usize> {
    pub(super) blocks: R,
    pub(super) at: usize,
    /// Which pixels from there on they are, unless they are side by side.
    pub(super) apart: Option<&'a [u32; MR]>,
    pub(super) lanes: Lanes,
}

impl<S: F32s, R: Rows<NV>, const MR: usize, const NV: usize> Target<S, MR, NV>
    for Pixels<'_, R, MR>
{
    #[inline(always)]
    fn load(&mut self, s: S, i: usize) -> [S::V; NV] {
        let pixel = self.apart.map_or(i, |apart| apart[i] as usize);
        let mut sums = [s.splat(0.0); NV];
        for j in 0..NV {
            sums[j] = s.load(&self.blocks.row(j)[self.at + pixel * S::LANES..]);
        }
        sums
    }
    #[inline(always)]
    fn store(&mut self, s: S, sums: &[[S::V; NV]; MR]) {
        let whole = self.lanes == Lanes::ALL;
        for j in 0..NV {
            let block = &mut self.blocks.row(j)[self.at..];
            let lanes = [s.these(self.lanes.dead[j]), s.these(self.lanes.others[j])];
            if let Some(apart) = self.apart {
                each_row!(MR, i => put(s, sums[i][j], lanes, &mut block[apart[i] as usize * S::LANES..]));
                continue;
            }
            let block = &mut block[..MR * S::LANES];
            if whole {
                each_row!(MR, i => s.store(sums[i][j], &mut block[i * S::LANES..]));
            } else {
                each_row!(MR, i => put(s, sums[i][j], lanes, &mut block[i * S::LANES..]));
            }
        }
    }
}

/// Stores a vector but for some lanes, with zeros in others.
#[inline(always)]
fn put<S: F32s>(s: S, sum: S::V, [dead, others]: [S::M; 2], to: &mut [f32]) {
    let sum = s.select(dead, s.splat(0.0), sum);
    s.store(s.select(others, s.load(to), sum), to);
}
