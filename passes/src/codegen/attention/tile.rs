//! The register tile: every product of attention is this loop over other operands.

use crate::codegen::emit::{Emit, Val};
use crate::codegen::simd::Simd;

/// Register tile of `rows` × `cols` vectors: starts from `init` (row by row) and adds the product of a column of scalars
/// and a row of vectors for each index in `lo..hi`.
pub(super) fn product(
    e: &mut Emit,
    simd: &Simd,
    (lo, hi): (Val, Val),
    cols: usize,
    init: &[Val],
    scalar: impl Fn(&mut Emit, Val, usize) -> Val,
    vector: impl Fn(&mut Emit, Val, usize) -> Val,
) -> Vec<Val> {
    e.fold((lo, hi, 1), init, &simd.ty(), |e, at, sums| {
        let right: Vec<Val> = (0..cols).map(|j| vector(e, at, j)).collect();
        let mut next = Vec::with_capacity(sums.len());
        for (i, row) in sums.chunks(cols).enumerate() {
            let left = scalar(e, at, i);
            for (j, sum) in row.iter().enumerate() {
                next.push(simd.fma(e, left, right[j], *sum));
            }
        }
        next
    })
}

/// Covers `width` floats by tiles of `cols` vectors and one narrower tile: (first, count, vectors) per kind of tile.
pub(super) fn columns(simd: &Simd, width: usize) -> Vec<(usize, usize, usize)> {
    let vectors = width / simd.lanes;
    let (full, rest) = (vectors / simd.cols, vectors % simd.cols);
    let mut kinds = Vec::new();
    if full > 0 {
        kinds.push((0, full, simd.cols));
    }
    if rest > 0 {
        kinds.push((full * simd.cols * simd.lanes, 1, rest));
    }
    kinds
}
