//! Queries that see none of the keys, and results that go on from what other keys gave.

use super::AttentionSpec;
use super::layout::Plan;
use super::pack::prefetch_row;
use super::tiles::HIDDEN;
use crate::codegen::emit::{Buf, Emit, Val};
use crate::codegen::simd::Simd;

impl AttentionSpec {
    /// The results of other keys as operands of the forward kernel: out and lse, if there are any.
    pub(super) fn others(&self) -> Option<[Buf; 2]> {
        let out = || Buf::arg("others", &[self.batch, self.seq, self.heads, self.v_head_dim], "f32");
        self.so_far.then(|| [out(), Buf { val: Val::Arg("sums"), ..self.lse() }])
    }

    /// The gradient of queries by other keys as an operand of the backward kernel, if there is one.
    pub(super) fn other_gradient(&self) -> Option<Buf> {
        self.so_far.then(|| Buf::arg("others", &[self.batch, self.seq, self.heads, self.head_dim], "f32"))
    }
}

/// For queries that have seen nothing, whose largest score is still that of a hidden key, `lse` becomes −∞ and `inverse`, the
/// factor on their sums, 0. Their `sum` tells them from queries with a NaN.
pub(super) fn nothing_seen(e: &mut Emit, s: &Simd, [max, sum]: [Val; 2], [lse, inverse]: [Val; 2]) -> [Val; 2] {
    let hidden = s.splat(e, HIDDEN);
    let low = e.val(format_args!("arith.cmpf ole, {max}, {hidden} : {}", s.ty()));
    let number = e.val(format_args!("arith.cmpf ord, {sum}, {sum} : {}", s.ty()));
    let nothing = e.val(format_args!("arith.andi {low}, {number} : vector<{}xi1>", s.lanes));
    let (none, nought) = (no_sum(e, s), s.splat(e, 0.0));
    [s.select(e, nothing, none, lse), s.select(e, nothing, nought, inverse)]
}

/// −∞, the logarithm of a sum over nothing, in every lane.
fn no_sum(e: &mut Emit, s: &Simd) -> Val {
    e.val(format_args!("arith.constant dense<0xFF800000> : {}", s.ty()))
}

/// The logarithm of the sum of what `own` and `other` are the logarithms of, and the shares of the two. Where one of them is −∞
/// the other's share is 1 and the result is the other, exactly; where both are, the shares are 0.
pub(super) fn joined(e: &mut Emit, s: &Simd, own: Val, other: Val) -> [Val; 3] {
    let lowest = s.splat(e, crate::codegen::simd::LOWEST);
    let max = s.max(e, own, other);
    let max = s.max(e, lowest, max);
    let [a, b] = [own, other].map(|x| {
        let below = s.op(e, "subf", x, max);
        let below = s.times(e, below, std::f64::consts::LOG2_E, s.lanes);
        s.exp2(e, below)
    });
    let sum = s.op(e, "addf", a, b);
    let (nought, one) = (s.splat(e, 0.0), s.splat(e, 1.0));
    let empty = e.val(format_args!("arith.cmpf oeq, {sum}, {nought} : {}", s.ty()));
    let sum = s.select(e, empty, one, sum);
    let log = s.ln(e, sum);
    let total = s.op(e, "addf", max, log);
    let none = no_sum(e, s);
    let total = s.select(e, empty, none, total);
    [total, s.op(e, "divf", a, sum), s.op(e, "divf", b, sum)]
}

impl Plan {
    /// Writes a helper `(src [rows,padded], others f32 [b,s,heads,width], shares [rows], dst [b,s,heads,width]; b, head, first, count)`
    /// that stores `factor` times the packed rows and `shares` times the rows of `others`, without `shares` just those, from row `first`
    /// of the sequence on.
    pub(super) fn emit_unpack_onto(
        &self,
        e: &mut Emit,
        name: &str,
        (src, dst): (&Buf, &Buf),
        (others, shares): (&Buf, Option<&Buf>),
        factor: f64,
    ) {
        let (simd, width) = (self.simd, dst.dims[3]);
        let (src, dst) = (Buf { val: Val::Arg("src"), ..src.clone() }, Buf { val: Val::Arg("dst"), ..dst.clone() });
        let shares = shares.map(|s| Buf { val: Val::Arg("shares"), ..s.clone() });
        let params: Vec<&Buf> = [&src, others].into_iter().chain(&shares).chain([&dst]).collect();
        e.func(&self.helper(name), true, &params, &["b", "head", "first", "count"], |e| {
            let (b, head, zero) = (Val::Arg("b"), Val::Arg("head"), e.index(0));
            e.each(zero, Val::Arg("count"), 1, |e, r| {
                let row = e.idx("addi", Val::Arg("first"), r);
                prefetch_row(e, &dst, [b, row, head], true);
                prefetch_row(e, others, [b, row, head], false);
                let share = shares.as_ref().map(|s| e.load(s, &[r]));
                for (c, n) in simd.chunks(width) {
                    let c = e.index(c);
                    let x = simd.widen(e, &src, &[r, c], n);
                    let x = simd.times(e, x, factor, n);
                    let y = simd.widen(e, others, &[b, row, head, c], n);
                    let x = plus(e, x, y, share, n);
                    simd.narrow(e, x, &dst, &[b, row, head, c], n);
                }
            });
        });
    }
}

/// `x` plus `share` times `y`, or plus `y`, in `n` lanes.
pub(super) fn plus(e: &mut Emit, x: Val, y: Val, share: Option<Val>, n: usize) -> Val {
    let y = share.map_or(y, |share| {
        let share = e.val(format_args!("vector.broadcast {share} : f32 to vector<{n}xf32>"));
        e.val(format_args!("arith.mulf {y}, {share} : vector<{n}xf32>"))
    });
    e.val(format_args!("arith.addf {x}, {y} : vector<{n}xf32>"))
}
