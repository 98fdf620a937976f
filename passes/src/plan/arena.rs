//! Offsets in the arena: values that live at the same time never share a byte.

/// A block to place: size in bytes, and the first and last step that touch it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Size in bytes.
    pub bytes: usize,
    /// First step, inclusive.
    pub first: usize,
    /// Last step, inclusive.
    pub last: usize,
}

/// Buffers start on cache lines, which vector loads and tiles want.
pub const ALIGN: usize = 64;

/// `n` rounded up to [`ALIGN`].
pub const fn align(n: usize) -> usize {
    n.div_ceil(ALIGN) * ALIGN
}

/// An offset for each block and the bytes used in all.
///
/// Greedy by size: the largest block first, each at the lowest gap among the blocks already placed that live at the same
/// time. Blocks of equal size go in order of birth, so the result is a function of the input alone.
pub fn place(blocks: &[Block]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(blocks[i].bytes), blocks[i].first, i));
    let mut offsets = vec![0; blocks.len()];
    // Placed blocks by offset, so that one sweep finds the lowest gap.
    let mut placed: Vec<(usize, usize)> = Vec::with_capacity(blocks.len());
    let mut peak = 0;
    for i in order {
        let b = blocks[i];
        let mut at = 0;
        for &(offset, j) in &placed {
            let other = blocks[j];
            if other.last < b.first || b.last < other.first {
                continue;
            }
            if offset >= at + b.bytes {
                break;
            }
            at = at.max(align(offset + other.bytes));
        }
        offsets[i] = at;
        peak = peak.max(at + b.bytes);
        let index = placed.partition_point(|p| *p < (at, i));
        placed.insert(index, (at, i));
    }
    (offsets, align(peak))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(bytes: usize, first: usize, last: usize) -> Block {
        Block { bytes, first, last }
    }

    #[test]
    fn blocks_with_disjoint_lives_share_a_place() {
        let (offsets, peak) = place(&[block(100, 0, 1), block(100, 2, 3)]);
        assert_eq!((offsets, peak), (vec![0, 0], 128));
    }

    #[test]
    fn a_block_that_fits_a_gap_goes_there() {
        let (offsets, peak) = place(&[block(256, 0, 3), block(64, 0, 9), block(256, 4, 9), block(64, 2, 3)]);
        assert_eq!(offsets, vec![0, 256, 0, 320]);
        assert_eq!(peak, 384);
    }

    proptest! {
        #[test]
        fn no_two_living_blocks_overlap(raw in prop::collection::vec((1usize..500, 0usize..30, 0usize..10), 1..60)) {
            let blocks: Vec<Block> = raw.iter().map(|&(b, f, l)| block(b, f, f + l)).collect();
            let (offsets, peak) = place(&blocks);
            for i in 0..blocks.len() {
                prop_assert!(offsets[i] % ALIGN == 0 && offsets[i] + blocks[i].bytes <= peak);
                for j in 0..i {
                    let apart_in_time = blocks[i].last < blocks[j].first || blocks[j].last < blocks[i].first;
                    let apart_in_space = offsets[i] + blocks[i].bytes <= offsets[j]
                        || offsets[j] + blocks[j].bytes <= offsets[i];
                    prop_assert!(apart_in_time || apart_in_space);
                }
            }
        }
    }
}
