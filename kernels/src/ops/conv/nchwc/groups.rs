//! Which outputs of a block are whose: groups are whole blocks, or blocks are computed once for each group that has outputs in them, and store its own alone.
#![forbid(unsafe_code)]

use core::ops::Range;

use crate::Isa;
use crate::ops::ConvShape;

/// Elements that cost what is beside a row of a map that is copied, and FMAs of a cycle, in which it copies one; of a map that is split by steps, so many times as many.
const OF_A_ROW: usize = 14;
const FMAS: usize = 2;
const SPLIT: usize = 2;

/// Groups of outputs, in blocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Groups {
    lanes: usize,
    outputs: usize,
    /// Outputs of a group.
    each: usize,
}

impl Groups {
    pub(super) fn new(isa: Isa, shape: &ConvShape) -> Self {
        Self {
            lanes: isa.lanes(),
            outputs: shape.c_out,
            each: (shape.c_out / shape.groups.max(1)).max(1),
        }
    }

    /// Whether no block has outputs of two groups.
    pub(super) fn are_blocks(&self) -> bool {
        self.each >= self.outputs || self.each.is_multiple_of(self.lanes)
    }

    /// The blocks that a group has outputs in.
    fn blocks(self, group: usize) -> Range<usize> {
        let end = |groups: usize| groups.saturating_mul(self.each);
        end(group) / self.lanes..end(group + 1).div_ceil(self.lanes)
    }

    /// The groups with outputs in some blocks, and in which of these.
    pub(super) fn of(self, blocks: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let Self { lanes, each, .. } = self;
        let end = (blocks.end * lanes).min(self.outputs);
        (blocks.start * lanes / each..end.div_ceil(each)).map(move |group| {
            let of_group = self.blocks(group);
            let start = of_group.start.max(blocks.start);
            (group, start..of_group.end.min(blocks.end))
        })
    }

    /// Whether no group before this one has outputs in a block that it has some in.
    pub(super) fn is_first(self, group: usize, block: usize) -> bool {
        group * self.each <= block * self.lanes
    }

    /// The lanes of a block that are outputs of other groups than this one. Those behind the last output are the last group's.
    pub(super) fn others(self, group: usize, block: usize) -> u32 {
        if self.are_blocks() {
            return 0;
        }
        let Self { lanes, each, .. } = self;
        let within = |output: usize| output.saturating_sub(block * lanes).min(lanes);
        let end = match (group + 1) * each {
            end if end >= self.outputs => lanes,
            end => within(end),
        };
        let first = |lanes: usize| ((1u64 << lanes) - 1) as u32;
        first(lanes) & !(first(end) & !first(within(group * each)))
    }
}

/// Whether a convolution in blocks is estimated to take less time than in planes, which are copied with their padding and split by steps, and whose tiles compute
/// some pixels of it. With 16 registers tiles of one vector of outputs are slow: 1.3 to 1.4 of the time for groups of 12.
pub(super) fn pay(isa: Isa, shape: &ConvShape, (h, w): (usize, usize)) -> bool {
    let groups = Groups::new(isa, shape);
    if groups.are_blocks() {
        return true;
    }
    let Ok((oh, ow)) = shape.output((h, w)) else {
        return false;
    };
    let lanes = isa.lanes();
    // What so many groups have of blocks, all have.
    let some = shape.groups.clamp(1, lanes);
    let vectors = (0..some)
        .map(|group| groups.blocks(group).len())
        .fold(0, usize::saturating_add);
    let product = |of: &[usize]| of.iter().fold(1, |n: usize, &x| n.saturating_mul(x));
    let [down, across] = shape.kernel;
    let depth = product(&[down, across, shape.c_in / shape.groups.max(1)]);
    let in_blocks = product(&[vectors, lanes, depth, oh, ow, shape.groups]) / some;
    let beside = shape.kernel[1].saturating_sub(1);
    let in_planes = product(&[shape.c_out, depth, oh, ow.saturating_add(beside)]);
    let copied = product(&[shape.c_in, h, w.saturating_add(OF_A_ROW), FMAS, lanes]);
    let copied = match (shape.kernel, shape.stride) {
        ([1, 1], [1, 1]) => 0,
        (_, [1, 1]) => copied,
        _ => copied / SPLIT,
    };
    // Both estimates are worth no more than that.
    let in_blocks = in_blocks.saturating_add(in_blocks / 16);
    isa.registers() >= 32 && in_blocks < in_planes.saturating_add(copied)
}
