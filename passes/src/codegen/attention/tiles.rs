//! What the kernels on tile registers (AMX) share: tile products and the bf16 forms that their operands need.
//!
//! A tile product adds to 16 × 16 f32 the product of 16 rows of 32 bf16 and of 16 rows of 16 *pairs* of bf16 (elements 2k
//! and 2k + 1 of a column side by side). Pairs are moved about as f32 lanes; nothing computes with them in that form.

use super::layout::{DEPTH, Plan, Scratch};
use crate::codegen::emit::{Buf, Emit, Val};

/// 16 × 16 sums.
pub(super) const SUMS: &str = "!amx.tile<16x16xf32>";
const HALF: usize = DEPTH / 2;

/// Score of a key that a query does not see; not so low that its product with a scale would overflow.
pub(super) const HIDDEN: f64 = -1.0e30;

/// A buffer of a worker's scratch: its shape, its element type, and where it starts.
#[derive(Debug, Clone)]
pub(super) struct Part {
    buf: Buf,
    at: usize,
}

impl Scratch {
    /// Reserves an array.
    pub(super) fn part(&mut self, dims: &[usize], element: &'static str) -> Part {
        let bytes = dims.iter().product::<usize>() * if element == "f32" { 4 } else { 2 };
        Part { buf: Buf { val: Val::Arg("part"), dims: dims.to_vec(), element }, at: self.reserve_bytes(bytes) }
    }
}

impl Part {
    /// The same bytes in another shape.
    pub fn cast(&self, dims: &[usize], element: &'static str) -> Self {
        Self { buf: Buf { val: self.buf.val, dims: dims.to_vec(), element }, at: self.at }
    }

    /// The array as a parameter called `name`.
    pub fn param(&self, name: &'static str) -> Buf {
        Buf { val: Val::Arg(name), ..self.buf.clone() }
    }

    /// The array of the worker whose scratch starts at `base`.
    pub fn open(&self, e: &mut Emit, bytes: &Buf, base: Val) -> Buf {
        let at = e.idx_c("addi", base, self.at);
        e.view(bytes, at, &self.buf.dims, self.buf.element)
    }
}

/// Loads the four sum tiles of the 32 × 32 block at row `r` and column `c`.
pub(super) fn load_sums(e: &mut Emit, buf: &Buf, r: Val, c: Val) -> Vec<Val> {
    corners(e, r, c).map(|(r, c)| load(e, buf, r, c, SUMS)).into()
}

/// Four sum tiles of 0.
pub(super) fn zero_sums(e: &mut Emit) -> Vec<Val> {
    (0..4).map(|_| e.val(format_args!("amx.tile_zero : {SUMS}"))).collect()
}

/// Stores the four sum tiles of a 32 × 32 block.
pub(super) fn store_sums(e: &mut Emit, sums: &[Val], buf: &Buf, r: Val, c: Val) {
    for ((r, c), sum) in corners(e, r, c).into_iter().zip(sums) {
        e.stmt(format_args!("amx.tile_store {}[{r}, {c}], {sum} : {}, {SUMS}", buf.val, buf.ty()));
    }
}

/// Adds to the sums of a 32 × 32 block one product of depth 32: rows from `left.1`, column `left.2`; pairs from row
/// `right.1`, column (in pairs) `right.2`.
pub(super) fn multiply(e: &mut Emit, sums: &[Val], left: (&Buf, Val, Val), right: (&Buf, Val, Val)) -> Vec<Val> {
    const TILE: &str = "!amx.tile<16x32xbf16>";
    let below = e.idx_c("addi", left.1, HALF);
    let rows = [left.1, below].map(|r| load(e, left.0, r, left.2, TILE));
    let column = e.idx_c("muli", right.2, 2);
    let beside = e.idx_c("addi", column, DEPTH);
    let columns = [column, beside].map(|c| load(e, right.0, right.1, c, TILE));
    let mut out = Vec::with_capacity(4);
    for (i, sum) in sums.iter().enumerate() {
        let (a, b) = (rows[i / 2], columns[i % 2]);
        out.push(e.val(format_args!("amx.tile_mulf {a}, {b}, {sum} : {TILE}, {TILE}, {SUMS}")));
    }
    out
}

fn corners(e: &mut Emit, r: Val, c: Val) -> [(Val, Val); 4] {
    let (r1, c1) = (e.idx_c("addi", r, HALF), e.idx_c("addi", c, HALF));
    [(r, c), (r, c1), (r1, c), (r1, c1)]
}

fn load(e: &mut Emit, buf: &Buf, r: Val, c: Val, tile: &str) -> Val {
    e.val(format_args!("amx.tile_load {}[{r}, {c}] : {} into {tile}", buf.val, buf.ty()))
}

/// The product of 32 packed rows from `r` on with 32 columns of `panels`, both `width` deep; the columns are those of
/// the panel whose first row is `panel`.
pub(super) fn score_block(e: &mut Emit, rows: (&Buf, Val), panels: (&Buf, Val), width: usize) -> Vec<Val> {
    let zero = e.index(0);
    let mut sums = zero_sums(e);
    for step in (0..width).step_by(DEPTH) {
        let column = e.index(step);
        let pair = e.idx_c("addi", panels.1, step / 2);
        sums = multiply(e, &sums, (rows.0, rows.1, column), (panels.0, pair, zero));
    }
    sums
}

impl Plan {
    /// Writes a helper `(src bf16 [rows,width], dst f32 [rows/2,width])` that puts elements of rows 2i and 2i + 1 side by
    /// side.
    pub fn emit_pairs(&self, e: &mut Emit, name: &str, src: &Part, dst: &Part) {
        let simd = self.simd;
        let (src, dst) = (src.param("src"), dst.param("dst"));
        e.func(&self.helper(name), true, &[&src, &dst], &[], |e| {
            let (zero, rows, width) = (e.index(0), e.index(dst.dims[0]), e.index(dst.dims[1]));
            let n = simd.lanes;
            e.each(zero, rows, 1, |e, r| {
                let even = e.idx_c("muli", r, 2);
                let odd = e.idx_c("addi", even, 1);
                e.each(zero, width, n, |e, c| {
                    let [a, b] = [even, odd].map(|row| {
                        let ty = format!("vector<{n}xbf16>");
                        let x = e.val(format_args!("vector.load {}[{row}, {c}] : {}, {ty}", src.val, src.ty()));
                        let x = e.val(format_args!("arith.bitcast {x} : {ty} to vector<{n}xi16>"));
                        e.val(format_args!("arith.extui {x} : vector<{n}xi16> to vector<{n}xi32>"))
                    });
                    let by = e.val(format_args!("arith.constant dense<16> : vector<{n}xi32>"));
                    let high = e.val(format_args!("arith.shli {b}, {by} : vector<{n}xi32>"));
                    let pair = e.val(format_args!("arith.ori {a}, {high} : vector<{n}xi32>"));
                    let pair = e.val(format_args!("arith.bitcast {pair} : vector<{n}xi32> to {}", simd.ty()));
                    simd.store(e, pair, &dst, &[r, c]);
                });
            });
        });
    }

    /// Writes a helper `(src f32 [rows/32, width, 32], dst f32 [rows, width])` that turns panels back into rows.
    pub fn emit_untranspose(&self, e: &mut Emit, name: &str, src: &Part, dst: &Part) {
        let (simd, n) = (self.simd, self.simd.lanes);
        let (src, dst) = (src.param("src"), dst.param("dst"));
        e.func(&self.helper(name), true, &[&src, &dst], &[], |e| {
            let (zero, rows, width) = (e.index(0), e.index(dst.dims[0]), e.index(dst.dims[1]));
            e.each(zero, rows, n, |e, r| {
                let panel = e.idx_c("divui", r, DEPTH);
                let lane = e.idx_c("remui", r, DEPTH);
                e.each(zero, width, n, |e, c| {
                    let mut square: Vec<Val> = (0..n)
                        .map(|i| {
                            let dim = e.idx_c("addi", c, i);
                            simd.load(e, &src, &[panel, dim, lane])
                        })
                        .collect();
                    simd.transpose(e, &mut square);
                    for (i, x) in square.into_iter().enumerate() {
                        let row = e.idx_c("addi", r, i);
                        simd.store(e, x, &dst, &[row, c]);
                    }
                });
            });
        });
    }

    /// Whether packed keys past the last one would be seen if they were not hidden: by all queries, or by those that may be
    /// far behind the keys.
    pub fn has_padding(&self) -> bool {
        (self.spec.first || !self.spec.causal) && self.spec.keys != self.key_rows
    }

    /// Gives scores of keys past the last one their lowest value, in the last block of scores, whose first row is `row`.
    pub fn hide_padding(&self, e: &mut Emit, scores: &Buf, row: Val) {
        let lowest = self.simd.splat(e, HIDDEN);
        let (first, depth) = (e.index(self.spec.keys % DEPTH), e.index(DEPTH));
        e.each(first, depth, 1, |e, i| {
            let r = e.idx("addi", row, i);
            for c in [0, HALF] {
                let c = e.index(c);
                self.simd.store(e, lowest, scores, &[r, c]);
            }
        });
    }

    /// Gives scores of keys that a query does not see, since they are after it, their lowest value, in the block of scores whose
    /// first row is `row`. The block's first query is `ahead` positions after its first key; without that the two are one position.
    pub fn hide_unseen(&self, e: &mut Emit, scores: &Buf, row: Val, ahead: Option<Val>) {
        let simd = self.simd;
        let lowest = simd.splat(e, HIDDEN);
        let zero = e.index(0);
        let depth = e.index(DEPTH);
        let ints = format!("vector<{}xi32>", simd.lanes);
        e.each(zero, depth, 1, |e, i| {
            let r = e.idx("addi", row, i);
            let position = ahead.map_or(i, |ahead| e.idx("subi", i, ahead));
            let key = e.val(format_args!("arith.index_cast {position} : index to i32"));
            let key = e.val(format_args!("vector.broadcast {key} : i32 to {ints}"));
            for c in [0, HALF] {
                let lanes: Vec<String> = (c..c + HALF).map(|l| l.to_string()).collect();
                let query = e.val(format_args!("arith.constant dense<[{}]> : {ints}", lanes.join(", ")));
                let seen = e.val(format_args!("arith.cmpi sle, {key}, {query} : {ints}"));
                let c = e.index(c);
                let x = simd.load(e, scores, &[r, c]);
                let x = simd.select(e, seen, x, lowest);
                simd.store(e, x, scores, &[r, c]);
            }
        });
    }
}
