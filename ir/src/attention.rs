//! What the four ops of attention have in common.

use crate::infer::{InferError, equal, want};
use crate::op::{F64, Op};
use crate::types::{DType, TensorType};

/// An op of attention: to all keys or to some of them, or the gradient of either.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is asked for by itself")]
pub struct Attend {
    /// Multiplies the scores.
    pub scale: F64,
    /// Position i sees positions ≤ i only.
    pub causal: bool,
    /// Scores have slopes.
    pub alibi: bool,
    /// It is the gradient.
    pub back: bool,
    /// It goes on from what other keys gave.
    pub step: bool,
}

impl Op {
    /// What is asked of attention; `None` of another op.
    pub fn attend(&self) -> Option<Attend> {
        let all = |scale, causal, alibi, back, step| Some(Attend { scale, causal, alibi, back, step });
        match *self {
            Self::Attention { scale, causal, alibi } => all(scale, causal, alibi, false, false),
            Self::AttentionGrad { scale, causal, alibi } => all(scale, causal, alibi, true, false),
            Self::AttentionStep { scale, alibi } => all(scale, true, alibi, false, true),
            Self::AttentionStepGrad { scale, alibi } => all(scale, true, alibi, true, true),
            _ => None,
        }
    }
}

impl Attend {
    /// Which operand says where the first key is.
    pub const fn first(self) -> usize {
        if self.back { 6 } else { 3 }
    }

    /// Labels of the operands, those that may be left out too, and of the results.
    pub(crate) const fn labels(self) -> (&'static [&'static str], &'static [&'static str]) {
        if self.back {
            (&["bsnd", "btgd", "btge", "bsne", "bns", "bsne", "", "bsnd"], &["bsnd", "btgd", "btge"])
        } else {
            (&["bsnd", "btgd", "btge", "", "bsne", "bns"], &["bsne", "bns"])
        }
    }

    /// Result types for operands `ins`, of which there are as many as the op takes.
    pub(crate) fn infer(self, ins: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
        let (q, k, v) = (&ins[0], &ins[1], &ins[2]);
        let first = ins.get(self.first());
        let says_where = first.is_none_or(|f| self.causal && *f == TensorType::scalar(DType::I32));
        want(says_where, || "where the first key is wants to be an i32 scalar, of causal attention".into())?;
        let fits = [q, k, v].iter().all(|t| t.rank() == 4 && t.dtype == q.dtype && t.dims[0] == q.dims[0])
            && (q.dims[1] == k.dims[1] || first.is_some() && q.dims[1] < k.dims[1])
            && k.dims[..3] == v.dims[..3]
            && q.dims[3] == k.dims[3]
            && k.dims[2] > 0
            && q.dims[2].is_multiple_of(k.dims[2]);
        want(fits, || {
            format!("wants q [b,s,n,d], k [b,t,g,d], v [b,t,g,e] with n a multiple of g, and s = t, got {q}, {k}, {v}")
        })?;
        let out = q.with_dims([q.dims[0], q.dims[1], q.dims[2], v.dims[3]]);
        let lse = wide(&q.with_dims([q.dims[0], q.dims[2], q.dims[1]]));
        if !self.back {
            if let [so_far, sums] = &ins[self.first().min(ins.len() - 1) + 1..] {
                equal("out of other keys and its place", so_far, &wide(&out))?;
                equal("lse of other keys and its place", sums, &lse)?;
            }
            return Ok(vec![out, lse]);
        }
        equal("out and its place", &ins[3], &out)?;
        equal("lse and its place", &ins[4], &lse)?;
        equal("dout and out", &ins[5], &out)?;
        if let Some(so_far) = ins.get(7) {
            equal("dq by other keys and its place", so_far, &wide(q))?;
        }
        Ok(vec![q.clone(), k.clone(), v.clone()])
    }

    /// Whether a first result of type `given` is right where `expected` is inferred: what other keys are to be added to is kept in
    /// f32.
    pub(crate) fn is_first_result(given: &TensorType, expected: &TensorType) -> bool {
        given == expected || *given == wide(expected)
    }
}

/// `ty` in f32, or in f64 if it is in that: what sums and logarithms of sums are in.
pub fn wide(ty: &TensorType) -> TensorType {
    ty.with_dtype(if ty.dtype == DType::F64 { DType::F64 } else { DType::F32 })
}
