//! Result types from operand types, and with it what operands an op accepts.

use crate::attention::Attend;
use crate::collective::{Collective, CollectiveKind};
use crate::experts;
use crate::op::{Binary, Op, Unary};
use crate::signature::einsum_dims;
use crate::types::{DType, TensorType};
use std::fmt;

/// Why operands do not fit an op. The text names the rule that is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InferError(pub String);

impl fmt::Display for InferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for InferError {}

pub(crate) fn fail<T>(text: impl Into<String>) -> Result<T, InferError> {
    Err(InferError(text.into()))
}

pub(crate) fn want(ok: bool, text: impl FnOnce() -> String) -> Result<(), InferError> {
    if ok { Ok(()) } else { fail(text()) }
}

pub(crate) fn equal(what: &str, a: &TensorType, b: &TensorType) -> Result<(), InferError> {
    want(a == b, || format!("{what} have types {a} and {b}, which must be equal"))
}

/// Number of operands of `op`, `None` if any number ≥ 1 will do.
pub fn arity(op: &Op) -> Option<std::ops::RangeInclusive<usize>> {
    Some(match op {
        Op::Constant { .. } | Op::RopeTable { .. } => 0..=0,
        Op::Unary(_) | Op::Cast | Op::Reshape | Op::Transpose { .. } | Op::Broadcast { .. } => 1..=1,
        Op::Slice { .. } | Op::Reduce { .. } | Op::Collective(_) => 1..=1,
        Op::ToHost | Op::FromHost => 1..=1,
        Op::OwnSlice { .. } | Op::Await => 2..=2,
        Op::KeepSlice { .. } | Op::SumSlices { .. } => 3..=3,
        Op::Binary(_) | Op::Embed | Op::EmbedGrad { .. } | Op::RmsNorm { .. } => 2..=2,
        Op::CrossEntropy | Op::PartEntropy => 2..=2,
        Op::Einsum { .. } => 2..=3,
        Op::RmsNormGrad { .. } | Op::LayerNorm { .. } | Op::LayerNormGrad { .. } => 3..=3,
        Op::Rope { .. } => 3..=3,
        Op::Attention { .. } => 3..=4,
        Op::AttentionGrad { .. } => 6..=7,
        Op::AttentionStep { .. } => 6..=6,
        Op::AttentionStepGrad { .. } => 8..=8,
        Op::CrossEntropyGrad | Op::PartEntropyGrad => 4..=4,
        Op::AdamW { .. } => 8..=8,
        Op::Histogram { .. } | Op::Rounds { .. } => 1..=1,
        Op::Portion { .. } => 3..=3,
        Op::Repeat { .. } => 1..=usize::MAX,
        Op::Route { .. } | Op::Assign { .. } => 1..=2,
        Op::Pick | Op::PickGrad { .. } => 2..=2,
        Op::Dispatch { .. } | Op::Combine => 2..=3,
        Op::CombineDot => 3..=3,
        Op::GroupedEinsum { .. } => 3..=4,
        Op::Concat { .. } | Op::SumSquares => return None,
        Op::Handover { .. } => 0..=usize::MAX,
        Op::Call { .. } => 0..=usize::MAX,
    })
}

/// Result types of `op` on operands of types `ins`.
///
/// Ops whose result is not determined by the operands (constant, cast, reshape, broadcast, `rope_table`, call, and the
/// dtype of contractions and `cross_entropy_grad`) return what can be said; [`check`] compares with the declared types.
pub fn infer(op: &Op, ins: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
    let n = ins.len();
    match arity(op) {
        Some(r) if !r.contains(&n) => return fail(format!("takes {} operands, not {n}", r.start())),
        None if n == 0 => return fail("takes at least one operand"),
        _ => {}
    }
    let undetermined = || fail("result type must be given");
    Ok(match op {
        Op::Constant { .. }
        | Op::Cast
        | Op::Reshape
        | Op::Broadcast { .. }
        | Op::RopeTable { .. }
        | Op::Handover { last: false }
        | Op::Repeat { .. }
        | Op::Call { .. } => {
            return undetermined();
        }
        Op::Handover { last: true } | Op::ToHost | Op::FromHost => ins.to_vec(),
        Op::Await => vec![ins[0].clone()],
        Op::Unary(u) => {
            let int_ok = matches!(u, Unary::Neg | Unary::Square | Unary::Sign);
            want(int_ok || ins[0].dtype.is_float(), || format!("wants a float operand, got {}", ins[0]))?;
            vec![ins[0].clone()]
        }
        Op::Binary(b) => {
            equal("operands", &ins[0], &ins[1])?;
            want(*b != Binary::Div || ins[0].dtype.is_float(), || format!("wants float operands, got {}", ins[0]))?;
            vec![ins[0].clone()]
        }
        Op::Transpose { perm } => {
            let mut sorted = perm.clone();
            sorted.sort_unstable();
            want(sorted.iter().copied().eq(0..ins[0].rank()), || {
                format!("perm {perm:?} does not permute the dims of {}", ins[0])
            })?;
            vec![ins[0].with_dims(perm.iter().map(|&p| ins[0].dims[p]).collect::<Vec<_>>())]
        }
        Op::Slice { dim, start, len } => {
            let fits = *dim < ins[0].rank() && start.checked_add(*len).is_some_and(|e| e <= ins[0].dims[*dim]);
            want(fits && *len > 0, || format!("slice {start}+{len} of dim {dim} does not fit {}", ins[0]))?;
            let mut t = ins[0].clone();
            t.dims[*dim] = *len;
            vec![t]
        }
        Op::KeepSlice { .. } | Op::OwnSlice { .. } | Op::SumSlices { .. } => vec![slices(op, ins)?],
        Op::Concat { dim } => {
            want(*dim < ins[0].rank(), || format!("{} has no dim {dim}", ins[0]))?;
            let mut t = ins[0].clone();
            for other in &ins[1..] {
                let mut o = other.clone();
                want(o.rank() == t.rank(), || format!("{o} and {} differ in rank", ins[0]))?;
                let extent = o.dims[*dim];
                o.dims[*dim] = ins[0].dims[*dim];
                equal("operands (but for the joined dim)", &ins[0], &o)?;
                t.dims[*dim] += extent;
            }
            vec![t]
        }
        Op::Reduce { dims, .. } => {
            want(dims.windows(2).all(|w| w[0] < w[1]) && dims.iter().all(|d| *d < ins[0].rank()), || {
                format!("dims {dims:?} are not increasing dims of {}", ins[0])
            })?;
            let kept = (0..ins[0].rank()).filter(|d| !dims.contains(d)).map(|d| ins[0].dims[d]);
            vec![ins[0].with_dims(kept.collect::<Vec<_>>())]
        }
        Op::Einsum { spec } => {
            want(ins[0].dtype == ins[1].dtype && ins[0].dtype.is_float(), || {
                format!("operands have types {} and {}, which must have one float dtype", ins[0], ins[1])
            })?;
            let t = ins[0].with_dims(einsum_dims(spec, &ins[0].dims, &ins[1].dims).map_err(InferError)?);
            if let Some(acc) = ins.get(2) {
                want(acc.dims == t.dims, || format!("accumulator {acc} does not have the dims of the product {t}"))?;
                return Ok(vec![acc.clone()]);
            }
            vec![t]
        }
        Op::Embed => {
            want(ins[0].dtype == DType::I32 && ins[1].rank() == 2, || {
                format!("wants i32 ids and a table of rank 2, got {} and {}", ins[0], ins[1])
            })?;
            let mut dims = ins[0].dims.clone();
            dims.push(ins[1].dims[1]);
            vec![ins[1].with_dims(dims)]
        }
        Op::EmbedGrad { vocab } => {
            let lead = ins[1].dims.split_last();
            want(ins[0].dtype == DType::I32 && lead.is_some_and(|(_, l)| l == ins[0].dims), || {
                format!("wants i32 ids […] and a gradient […, h], got {} and {}", ins[0], ins[1])
            })?;
            vec![ins[1].with_dims([*vocab, ins[1].dims[ins[1].rank() - 1]])]
        }
        Op::RmsNorm { .. } | Op::RmsNormGrad { .. } | Op::LayerNorm { .. } | Op::LayerNormGrad { .. } => {
            let x = &ins[0];
            want(x.rank() > 0 && x.dtype.is_float(), || format!("wants a float operand with dims, got {x}"))?;
            let row = TensorType::new(ins[1].dtype, [x.dims[x.rank() - 1]]);
            equal("the gain and the last dim", &ins[1], &row)?;
            match op {
                Op::RmsNorm { .. } => vec![x.clone()],
                Op::LayerNorm { .. } => {
                    equal("gain and bias", &ins[1], &ins[2])?;
                    vec![x.clone()]
                }
                _ => {
                    equal("x and dy", x, &ins[2])?;
                    let rows = if matches!(op, Op::RmsNormGrad { .. }) { 1 } else { 2 };
                    let mut out = vec![x.clone()];
                    out.extend(std::iter::repeat_n(row, rows));
                    out
                }
            }
        }
        Op::Rope { .. } => {
            let (x, cos) = (&ins[0], &ins[1]);
            equal("cos and sin", cos, &ins[2])?;
            let fits = x.rank() == 4 && cos.rank() == 2 && cos.dims[0] == x.dims[1] && 2 * cos.dims[1] <= x.dims[3];
            want(fits, || format!("wants x [b, s, n, d] and tables [s, r/2] with r ≤ d, got {x} and {cos}"))?;
            vec![x.clone()]
        }
        Op::Attention { .. } | Op::AttentionGrad { .. } | Op::AttentionStep { .. } | Op::AttentionStepGrad { .. } => {
            match op.attend() {
                Some(attend) => attend.infer(ins)?,
                None => return undetermined(),
            }
        }
        Op::CrossEntropy | Op::CrossEntropyGrad | Op::PartEntropy | Op::PartEntropyGrad => {
            let (logits, labels) = (&ins[0], &ins[1]);
            let lead = logits.dims.split_last().map(|(_, l)| l.to_vec());
            want(labels.dtype == DType::I32 && lead.as_ref() == Some(&labels.dims) && logits.dtype.is_float(), || {
                format!("wants float logits […, v] and i32 labels […], got {logits} and {labels}")
            })?;
            let rows = TensorType::new(DType::F32.max_float(logits.dtype), labels.dims.clone());
            if let Op::CrossEntropy | Op::PartEntropy = op {
                vec![rows.clone(), rows]
            } else {
                equal("lse and labels' dims", &ins[2], &rows)?;
                equal("dloss and labels' dims", &ins[3], &rows)?;
                vec![logits.clone()]
            }
        }
        Op::Route { .. }
        | Op::Pick
        | Op::PickGrad { .. }
        | Op::Histogram { .. }
        | Op::Assign { .. }
        | Op::Dispatch { .. }
        | Op::Combine
        | Op::CombineDot
        | Op::Rounds { .. }
        | Op::Portion { .. }
        | Op::GroupedEinsum { .. } => experts::infer(op, ins)?,
        Op::Collective(Collective {
            kind: CollectiveKind::OwnIds { .. } | CollectiveKind::BlockIds { .. }, ..
        }) => {
            want(ins[0].dtype == DType::I32, || format!("wants i32 ids, got {}", ins[0]))?;
            vec![ins[0].clone()]
        }
        Op::Collective(c) => vec![ins[0].with_dims(c.dims(&ins[0].dims).map_err(InferError)?)],
        Op::SumSquares => vec![TensorType::scalar(DType::F64)],
        Op::AdamW { .. } => {
            for t in &ins[1..4] {
                equal("p, g, m and v", &ins[0], t)?;
            }
            for t in &ins[4..] {
                want(t.rank() == 0, || format!("per-step scalars have no dims, got {t}"))?;
            }
            vec![ins[0].clone(), ins[2].clone(), ins[3].clone()]
        }
    })
}

/// Type of what an op of slices of a sequence gives.
fn slices(op: &Op, ins: &[TensorType]) -> Result<TensorType, InferError> {
    let (whole, first) = (&ins[0], &ins[ins.len() - 1]);
    want(*first == TensorType::scalar(DType::I32), || format!("where the slice begins wants to be i32, not {first}"))?;
    let part = |dim: usize, len: usize| {
        want(whole.dims.get(dim).is_some_and(|n| (1..=*n).contains(&len)), || {
            format!("{whole} has no slices of {len} in dim {dim}")
        })?;
        let mut part = whole.clone();
        part.dims[dim] = len;
        Ok(part)
    };
    match op {
        Op::OwnSlice { dim, len } => part(*dim, *len),
        Op::KeepSlice { dim } => {
            equal("the part and a slice", &part(*dim, ins[1].dims.get(*dim).copied().unwrap_or(0))?, &ins[1])?;
            Ok(whole.clone())
        }
        _ => {
            let fits = whole.dims == ins[1].dims && whole.dtype.is_float() && ins[1].dtype.is_float();
            want(fits && whole.dtype.bytes() >= ins[1].dtype.bytes(), || {
                format!("a sum of type {whole} cannot take in {}", ins[1])
            })?;
            Ok(whole.clone())
        }
    }
}

impl DType {
    /// The wider of f32 and the operand's type: reductions of f64 stay in f64, of everything else are f32.
    fn max_float(self, other: Self) -> Self {
        if other == Self::F64 { Self::F64 } else { self }
    }
}

/// Whether declared result types `outs` are right for `op` on `ins`.
pub fn check(op: &Op, ins: &[TensorType], outs: &[TensorType]) -> Result<(), InferError> {
    let free = |k: usize| want(outs.len() == k, || format!("has {k} results, not {}", outs.len()));
    match op {
        Op::Constant { .. } => free(1),
        Op::Cast => {
            free(1)?;
            want(ins.len() == 1 && ins[0].dims == outs[0].dims, || "cast keeps the dims".into())
        }
        Op::Reshape => {
            free(1)?;
            want(ins.len() == 1 && ins[0].dtype == outs[0].dtype && ins[0].elements() == outs[0].elements(), || {
                "reshape keeps the dtype and the number of elements".into()
            })
        }
        Op::Broadcast { dims } => {
            free(1)?;
            let fits = ins.len() == 1
                && dims.len() == ins[0].rank()
                && dims.windows(2).all(|w| w[0] < w[1])
                && ins[0].dtype == outs[0].dtype
                && dims.iter().zip(&ins[0].dims).all(|(d, e)| outs[0].dims.get(*d) == Some(e));
            want(fits, || format!("dims {dims:?} do not map the operand into {}", outs[0]))
        }
        Op::RopeTable { inv_freq, .. } => {
            free(2)?;
            let fits = outs[0] == outs[1] && outs[0].rank() == 2 && outs[0].dims[1] == inv_freq.len();
            want(fits && ins.is_empty(), || format!("wants two tables [s, {}]", inv_freq.len()))
        }
        Op::Handover { last: false } => want(!ins.is_empty(), || "hands over one value at least".into()),
        Op::Repeat { .. } | Op::Call { .. } => Ok(()),
        _ => {
            let expected = infer(op, ins)?;
            // Products may be kept in another float type than the operands: f32 gradients of bf16 products.
            let same = |(i, (e, o)): (usize, (&TensorType, &TensorType))| match op {
                _ if i == 0 && op.attend().is_some() => Attend::is_first_result(o, e),
                Op::Einsum { .. }
                | Op::GroupedEinsum { .. }
                | Op::CrossEntropyGrad
                | Op::PartEntropyGrad
                | Op::EmbedGrad { .. } => e.dims == o.dims && o.dtype.is_float(),
                _ => e == o,
            };
            let ok = expected.len() == outs.len() && expected.iter().zip(outs).enumerate().all(same);
            want(ok, || {
                let list = |ts: &[TensorType]| ts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                format!("gives ({}), declared as ({})", list(&expected), list(outs))
            })
        }
    }
}
