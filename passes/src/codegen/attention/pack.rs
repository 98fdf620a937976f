//! Copies between the strided tensors of the graph and packed f32 rows, and the transpose of packed rows.

use super::layout::Plan;
use crate::codegen::emit::{Buf, Emit, Val};

/// Rows that copies from and to the graph's tensors ask for ahead: a head's rows lie too far apart for the hardware to
/// foresee them.
const AHEAD: usize = 8;

/// Prefetches the row `AHEAD` rows after `row` of a `[b,s,heads,width]` tensor.
pub(super) fn prefetch_row(e: &mut Emit, buf: &Buf, [b, row, head]: [Val; 3], write: bool) {
    let row = e.idx_c("addi", row, AHEAD);
    let per_line = if buf.element == "f32" { 16 } else { 32 };
    for c in (0..buf.dims[3]).step_by(per_line) {
        let c = e.index(c);
        e.prefetch(buf, &[b, row, head, c], write);
    }
}

impl Plan {
    /// Writes a helper `(src [b,s,heads,width], dst [rows,padded]; b, head, first, count)` that copies rows
    /// `first..first+count` of one head, widening if `dst` is wider; rows past the sequence and columns past the width become 0.
    pub fn emit_pack(&self, e: &mut Emit, name: &str, src: &Buf, dst: &Buf) {
        let (simd, width) = (self.simd, src.dims[3]);
        let (src, dst) = (Buf { val: Val::Arg("src"), ..src.clone() }, Buf { val: Val::Arg("dst"), ..dst.clone() });
        e.func(&self.helper(name), true, &[&src, &dst], &["b", "head", "first", "count"], |e| {
            let (b, head, first) = (Val::Arg("b"), Val::Arg("head"), Val::Arg("first"));
            let (zero, seq) = (e.index(0), e.index(src.dims[1]));
            let left = e.idx("subi", seq, first);
            let real = e.idx("minsi", left, Val::Arg("count"));
            let zeros = format!("vector<{}x{}>", simd.lanes, dst.element);
            let nought = e.val(format_args!("arith.constant dense<0.0> : {zeros}"));
            let pad = |e: &mut Emit, r: Val, from: usize| {
                for c in (from..dst.dims[1]).step_by(simd.lanes) {
                    let c = e.index(c);
                    e.stmt(format_args!("vector.store {nought}, {}[{r}, {c}] : {}, {zeros}", dst.val, dst.ty()));
                }
            };
            e.each(zero, real, 1, |e, r| {
                let row = e.idx("addi", first, r);
                prefetch_row(e, &src, [b, row, head], false);
                pad(e, r, width / simd.lanes * simd.lanes);
                for (c, n) in simd.chunks(width) {
                    let c = e.index(c);
                    let (from, to) = ([b, row, head, c], [r, c]);
                    if src.element == dst.element {
                        simd.copy(e, (&src, &from), (&dst, &to), n);
                    } else {
                        let x = simd.widen(e, &src, &from, n);
                        simd.narrow(e, x, &dst, &to, n);
                    }
                }
            });
            e.each(real, Val::Arg("count"), 1, |e, r| pad(e, r, 0));
        });
    }

    /// Writes a helper `(src [rows,padded], dst [b,s,heads,width]; b, head, first, count)` that multiplies `count` packed
    /// rows by `factor` and stores them from row `first` of the sequence on.
    pub fn emit_unpack(&self, e: &mut Emit, name: &str, src: &Buf, dst: &Buf, factor: f64) {
        let (simd, width) = (self.simd, dst.dims[3]);
        let (src, dst) = (Buf { val: Val::Arg("src"), ..src.clone() }, Buf { val: Val::Arg("dst"), ..dst.clone() });
        e.func(&self.helper(name), true, &[&src, &dst], &["b", "head", "first", "count"], |e| {
            let zero = e.index(0);
            e.each(zero, Val::Arg("count"), 1, |e, r| {
                let row = e.idx("addi", Val::Arg("first"), r);
                prefetch_row(e, &dst, [Val::Arg("b"), row, Val::Arg("head")], true);
                for (c, n) in simd.chunks(width) {
                    let c = e.index(c);
                    let x = simd.widen(e, &src, &[r, c], n);
                    let x = simd.times(e, x, factor, n);
                    simd.narrow(e, x, &dst, &[Val::Arg("b"), row, Val::Arg("head"), c], n);
                }
            });
        });
    }

    /// Writes a helper `(src [rows,padded], dst [rows/n, width, n])` that transposes packed rows into panels of `n` and
    /// multiplies them by `factor`. With factor 1 the elements may be pairs of bf16.
    pub fn emit_transpose(&self, e: &mut Emit, name: &str, src: &Buf, dst: &Buf, factor: f64) {
        let lanes = self.simd.lanes;
        let (src, dst) = (Buf { val: Val::Arg("src"), ..src.clone() }, Buf { val: Val::Arg("dst"), ..dst.clone() });
        e.func(&self.helper(name), true, &[&src, &dst], &[], |e| {
            let (zero, rows) = (e.index(0), e.index(src.dims[0]));
            e.each(zero, rows, lanes, |e, r| {
                let panel = e.idx_c("divui", r, dst.dims[2]);
                let lane = e.idx_c("remui", r, dst.dims[2]);
                let whole = dst.dims[1] / lanes * lanes;
                let hi = e.index(whole);
                e.each(zero, hi, lanes, |e, c| {
                    self.transpose_square(e, (&src, r, c), (&dst, panel, lane), lanes, factor);
                });
                if whole < dst.dims[1] {
                    let c = e.index(whole);
                    self.transpose_square(e, (&src, r, c), (&dst, panel, lane), dst.dims[1] - whole, factor);
                }
            });
        });
    }

    /// Transposes one square of `lanes` rows and columns and stores its first `count` columns.
    fn transpose_square(
        &self,
        e: &mut Emit,
        (src, r, c): (&Buf, Val, Val),
        (dst, panel, lane): (&Buf, Val, Val),
        count: usize,
        factor: f64,
    ) {
        let (simd, lanes) = (self.simd, self.simd.lanes);
        let mut square: Vec<Val> = (0..lanes)
            .map(|i| {
                let row = e.idx_c("addi", r, i);
                let x = simd.load(e, src, &[row, c]);
                simd.times(e, x, factor, lanes)
            })
            .collect();
        simd.transpose(e, &mut square);
        for (i, column) in square.into_iter().enumerate().take(count) {
            let dim = e.idx_c("addi", c, i);
            simd.store(e, column, dst, &[panel, dim, lane]);
        }
    }
}
