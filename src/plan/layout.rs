//! The arena: values whose lives do not overlap share storage.

/// One block of storage and the steps in which it is alive, both ends included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    pub(super) bytes: usize,
    pub(super) from: usize,
    pub(super) to: usize,
}

/// Blocks start on cache lines.
const LINE: usize = 64;

/// An offset for each block and the size of the whole: the largest first, each at the lowest place that is free all its life
/// (greedy by size, as in Pisarchyk and Lee, arXiv 2001.03288).
pub(super) fn place(blocks: &[Block]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(blocks[i].bytes));
    let mut offsets = vec![0; blocks.len()];
    // Placed blocks by rising offset.
    let mut placed: Vec<usize> = Vec::with_capacity(blocks.len());
    let mut size = 0;
    for i in order {
        let block = blocks[i];
        let bytes = block.bytes.next_multiple_of(LINE);
        let mut at = 0;
        for &j in &placed {
            let other = blocks[j];
            let meets = other.from <= block.to && block.from <= other.to;
            if !meets {
                continue;
            }
            if offsets[j] >= at + bytes {
                break;
            }
            at = at.max(offsets[j] + other.bytes.next_multiple_of(LINE));
        }
        offsets[i] = at;
        size = size.max(at + bytes);
        let position = placed.partition_point(|&j| offsets[j] <= at);
        placed.insert(position, i);
    }
    (offsets, size)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn living_blocks_never_overlap(raw in prop::collection::vec((0usize..500, 0usize..20, 0usize..8), 0..40)) {
            let blocks: Vec<Block> =
                raw.iter().map(|&(bytes, from, life)| Block { bytes, from, to: from + life }).collect();
            let (offsets, size) = place(&blocks);
            for (i, a) in blocks.iter().enumerate() {
                prop_assert!(offsets[i] % LINE == 0 && offsets[i] + a.bytes <= size);
                for (j, b) in blocks.iter().enumerate().skip(i + 1) {
                    let meet = a.from <= b.to && b.from <= a.to && a.bytes > 0 && b.bytes > 0;
                    let apart = offsets[i] + a.bytes <= offsets[j] || offsets[j] + b.bytes <= offsets[i];
                    prop_assert!(!meet || apart, "{a:?} at {} and {b:?} at {}", offsets[i], offsets[j]);
                }
            }
        }

        #[test]
        fn a_chain_needs_two_blocks(bytes in 1usize..1000, steps in 2usize..30) {
            let blocks: Vec<Block> = (0..steps).map(|i| Block { bytes, from: i, to: i + 1 }).collect();
            prop_assert_eq!(place(&blocks).1, 2 * bytes.next_multiple_of(LINE));
        }
    }
}
