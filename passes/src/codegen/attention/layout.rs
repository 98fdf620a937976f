//! Sizes of blocks.

use athanor_ir::target::CpuLevel;

use super::AttentionSpec;
pub(super) use crate::codegen::scratch::Scratch;
use crate::codegen::simd::Simd;

/// bf16 numbers in a row of a tile register, which is also the depth of a tile product and here the side of a block.
pub(super) const DEPTH: usize = 32;

/// What the generators of both directions need to know.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub spec: AttentionSpec,
    pub simd: Simd,
    pub symbol: String,
    /// Queries of a register tile.
    pub wide: usize,
    /// Queries of a block, a multiple of `wide`.
    pub q_block: usize,
    /// Keys of a block, a multiple of `wide`.
    pub k_block: usize,
    /// Rows of packed queries: their number rounded up to `wide`.
    pub rows: usize,
    /// Rows of packed keys and values: their number rounded up to `wide`.
    pub key_rows: usize,
    /// The keys rounded up to the rows of a register tile: no key at or above it is touched.
    pub keys: usize,
    /// Packed row of q or k, in f32.
    pub d: usize,
    /// Packed row of v or out, in f32.
    pub dv: usize,
}

impl Plan {
    pub fn new(spec: &AttentionSpec, level: CpuLevel, symbol: &str, (q_block, k_block): (usize, usize)) -> Self {
        let simd = Simd::of(level);
        let wide = simd.lanes * simd.cols;
        let (rows, key_rows) = (spec.seq.next_multiple_of(wide), spec.keys.next_multiple_of(wide));
        Self {
            spec: *spec,
            simd,
            symbol: symbol.to_owned(),
            wide,
            q_block: q_block.next_multiple_of(wide).min(rows),
            k_block: k_block.next_multiple_of(wide).min(key_rows),
            rows,
            key_rows,
            keys: spec.keys.next_multiple_of(simd.rows),
            d: spec.head_dim.next_multiple_of(simd.lanes),
            dv: spec.v_head_dim.next_multiple_of(simd.lanes),
        }
    }

    /// The plan of a kernel on tile registers: every size is a multiple of 32, the depth of one tile product.
    pub fn for_tiles(spec: &AttentionSpec, symbol: &str, k_block: usize) -> Self {
        let simd = Simd::of(CpuLevel::Amx);
        let (rows, key_rows) = (spec.seq.next_multiple_of(DEPTH), spec.keys.next_multiple_of(DEPTH));
        Self {
            spec: *spec,
            simd,
            symbol: symbol.to_owned(),
            wide: DEPTH,
            q_block: DEPTH,
            k_block: k_block.next_multiple_of(DEPTH).min(key_rows),
            rows,
            key_rows,
            keys: key_rows,
            d: spec.head_dim.next_multiple_of(DEPTH),
            dv: spec.v_head_dim.next_multiple_of(DEPTH),
        }
    }

    /// Name of a helper of this kernel.
    pub fn helper(&self, name: &str) -> String {
        format!("{}_{name}", self.symbol)
    }

    /// Shape of a transposed matrix of `rows` queries and `width` dims: panels of `wide` queries, each dim by dim.
    pub fn panels(&self, rows: usize, width: usize) -> Vec<usize> {
        vec![rows / self.wide, width, self.wide]
    }
}
