//! The op table: attributes and arity of every op, from which the dialect, decoding and emitting follow.
//!
//! [`visit`] and [`results`] match exhaustively, so a new op must be given its row; [`build`] and [`samples`] are held
//! to the same list by tests.

use crate::collective::{Collective, CollectiveKind};
use crate::infer::arity;
use crate::op::{Binary, F64, Op, ReduceKind, RouteMask, Unary};

/// Spellings of [`ReduceKind`].
const REDUCE: &[&str] = &[ReduceKind::Sum.name(), ReduceKind::Max.name()];

/// Spellings of [`RouteMask`].
const MASK: &[&str] = &[RouteMask::Zero.name(), RouteMask::NegInf.name()];

/// The value of an op's attribute.
#[derive(Debug, Clone, Copy)]
pub(super) enum Field<'a> {
    /// `1.0 : f64`
    Float(f64),
    /// `1 : i64`, not negative
    Int(usize),
    /// `true`
    Bool(bool),
    /// Any string.
    Text(&'a str),
    /// One of these strings.
    Word(&'static str, &'static [&'static str]),
    /// `array<i64: 1, 2>`, not negative
    Ints(&'a [usize]),
    /// `array<f64: 1.0, 2.0>`
    Floats(&'a [F64]),
}

/// Calls `see` with name and value of each attribute of `op`.
pub(super) fn visit<'a>(op: &'a Op, mut see: impl FnMut(&'static str, Field<'a>)) {
    match op {
        Op::Constant { value } => see("value", Field::Float(value.0)),
        Op::Unary(_) | Op::Binary(_) | Op::Cast | Op::Reshape | Op::Embed => {}
        Op::CrossEntropy | Op::CrossEntropyGrad | Op::SumSquares | Op::Await | Op::ToHost | Op::FromHost => {}
        Op::PartEntropy | Op::PartEntropyGrad => {}
        Op::Pick | Op::Combine | Op::CombineDot => {}
        Op::Route { k, groups, group_k, group_top, mask } => {
            see("k", Field::Int(*k));
            see("groups", Field::Int(*groups));
            see("group_k", Field::Int(*group_k));
            see("group_top", Field::Int(*group_top));
            see("mask", Field::Word(mask.name(), MASK));
        }
        Op::PickGrad { n } => see("n", Field::Int(*n)),
        Op::Histogram { bins } => see("bins", Field::Int(*bins)),
        Op::Assign { experts, capacity } => {
            see("experts", Field::Int(*experts));
            see("capacity", Field::Int(*capacity));
        }
        Op::Dispatch { rows } => see("rows", Field::Int(*rows)),
        Op::Rounds { capacity } | Op::Portion { capacity } => see("capacity", Field::Int(*capacity)),
        Op::Transpose { perm } => see("perm", Field::Ints(perm)),
        Op::Broadcast { dims } => see("dims", Field::Ints(dims)),
        Op::Slice { dim, start, len } => {
            see("dim", Field::Int(*dim));
            see("start", Field::Int(*start));
            see("len", Field::Int(*len));
        }
        Op::Concat { dim } | Op::KeepSlice { dim } => see("dim", Field::Int(*dim)),
        Op::OwnSlice { dim, len } => {
            see("dim", Field::Int(*dim));
            see("len", Field::Int(*len));
        }
        Op::SumSlices { begin } => see("begin", Field::Int(*begin)),
        Op::Reduce { kind, dims } => {
            see("kind", Field::Word(kind.name(), REDUCE));
            see("dims", Field::Ints(dims));
        }
        Op::Einsum { spec } | Op::GroupedEinsum { spec } => see("spec", Field::Text(spec)),
        Op::EmbedGrad { vocab } => see("vocab", Field::Int(*vocab)),
        Op::RmsNorm { eps } | Op::RmsNormGrad { eps } | Op::LayerNorm { eps } | Op::LayerNormGrad { eps } => {
            see("eps", Field::Float(eps.0));
        }
        Op::RopeTable { inv_freq, scale } => {
            see("inv_freq", Field::Floats(inv_freq));
            see("scale", Field::Float(scale.0));
        }
        Op::Rope { interleaved, inverse } => {
            see("interleaved", Field::Bool(*interleaved));
            see("inverse", Field::Bool(*inverse));
        }
        Op::Attention { scale, causal, alibi } | Op::AttentionGrad { scale, causal, alibi } => {
            see("scale", Field::Float(scale.0));
            see("causal", Field::Bool(*causal));
            see("alibi", Field::Bool(*alibi));
        }
        Op::AttentionStep { scale, alibi } | Op::AttentionStepGrad { scale, alibi } => {
            see("scale", Field::Float(scale.0));
            see("alibi", Field::Bool(*alibi));
        }
        Op::AdamW { beta1, beta2, eps, decay } => {
            see("beta1", Field::Float(beta1.0));
            see("beta2", Field::Float(beta2.0));
            see("eps", Field::Float(eps.0));
            see("decay", Field::Float(decay.0));
        }
        Op::Collective(c) => {
            match c.kind {
                CollectiveKind::AllReduce { reduce } => see("kind", Field::Word(reduce.name(), REDUCE)),
                CollectiveKind::SumEnds | CollectiveKind::Shift => {}
                CollectiveKind::AllGather { dim }
                | CollectiveKind::ReduceScatter { dim }
                | CollectiveKind::OwnPart { dim } => see("dim", Field::Int(dim)),
                CollectiveKind::AllToAll { cut, join } => {
                    see("cut", Field::Int(cut));
                    see("join", Field::Int(join));
                }
                CollectiveKind::OwnIds { size } => see("size", Field::Int(size)),
                CollectiveKind::BlockIds { size, back } => {
                    see("size", Field::Int(size));
                    see("back", Field::Int(back));
                }
            }
            see("axes", Field::Text(&c.axes));
            see("ranks", Field::Int(c.ranks));
        }
        Op::Handover { last } => see("last", Field::Bool(*last)),
        Op::Repeat { callee } | Op::Call { callee } => see("callee", Field::Text(callee)),
    }
}

/// Typed access to the attributes of an operation; each method fails if the attribute is missing or of another type.
pub(super) trait Fields {
    /// Why an attribute cannot be read.
    type Error;
    fn float(&mut self, name: &'static str) -> Result<F64, Self::Error>;
    fn int(&mut self, name: &'static str) -> Result<usize, Self::Error>;
    fn bool(&mut self, name: &'static str) -> Result<bool, Self::Error>;
    fn text(&mut self, name: &'static str) -> Result<String, Self::Error>;
    fn word<T>(&mut self, name: &'static str, of: impl Fn(&str) -> Option<T>) -> Result<T, Self::Error>;
    fn ints(&mut self, name: &'static str) -> Result<Vec<usize>, Self::Error>;
    fn floats(&mut self, name: &'static str) -> Result<Vec<F64>, Self::Error>;
}

/// The op called `name` with attributes from `f`; `None` if there is no such op.
pub(super) fn build<F: Fields>(name: &str, f: &mut F) -> Result<Option<Op>, F::Error> {
    let reduce = |s: &str| [ReduceKind::Sum, ReduceKind::Max].into_iter().find(|k| k.name() == s);
    let mask = |s: &str| [RouteMask::Zero, RouteMask::NegInf].into_iter().find(|k| k.name() == s);
    Ok(Some(match name {
        "constant" => Op::Constant { value: f.float("value")? },
        "cast" => Op::Cast,
        "reshape" => Op::Reshape,
        "transpose" => Op::Transpose { perm: f.ints("perm")? },
        "broadcast" => Op::Broadcast { dims: f.ints("dims")? },
        "slice" => Op::Slice { dim: f.int("dim")?, start: f.int("start")?, len: f.int("len")? },
        "concat" => Op::Concat { dim: f.int("dim")? },
        "reduce" => Op::Reduce { kind: f.word("kind", reduce)?, dims: f.ints("dims")? },
        "einsum" => Op::Einsum { spec: f.text("spec")? },
        "embed" => Op::Embed,
        "embed_grad" => Op::EmbedGrad { vocab: f.int("vocab")? },
        "rms_norm" => Op::RmsNorm { eps: f.float("eps")? },
        "rms_norm_grad" => Op::RmsNormGrad { eps: f.float("eps")? },
        "layer_norm" => Op::LayerNorm { eps: f.float("eps")? },
        "layer_norm_grad" => Op::LayerNormGrad { eps: f.float("eps")? },
        "rope_table" => Op::RopeTable { inv_freq: f.floats("inv_freq")?, scale: f.float("scale")? },
        "rope" => Op::Rope { interleaved: f.bool("interleaved")?, inverse: f.bool("inverse")? },
        "attention" => Op::Attention { scale: f.float("scale")?, causal: f.bool("causal")?, alibi: f.bool("alibi")? },
        "attention_grad" => {
            Op::AttentionGrad { scale: f.float("scale")?, causal: f.bool("causal")?, alibi: f.bool("alibi")? }
        }
        "attention_step" => Op::AttentionStep { scale: f.float("scale")?, alibi: f.bool("alibi")? },
        "attention_step_grad" => Op::AttentionStepGrad { scale: f.float("scale")?, alibi: f.bool("alibi")? },
        "cross_entropy" => Op::CrossEntropy,
        "cross_entropy_grad" => Op::CrossEntropyGrad,
        "part_entropy" => Op::PartEntropy,
        "part_entropy_grad" => Op::PartEntropyGrad,
        "route" => Op::Route {
            k: f.int("k")?,
            groups: f.int("groups")?,
            group_k: f.int("group_k")?,
            group_top: f.int("group_top")?,
            mask: f.word("mask", mask)?,
        },
        "pick" => Op::Pick,
        "pick_grad" => Op::PickGrad { n: f.int("n")? },
        "histogram" => Op::Histogram { bins: f.int("bins")? },
        "assign" => Op::Assign { experts: f.int("experts")?, capacity: f.int("capacity")? },
        "dispatch" => Op::Dispatch { rows: f.int("rows")? },
        "combine" => Op::Combine,
        "combine_dot" => Op::CombineDot,
        "grouped_einsum" => Op::GroupedEinsum { spec: f.text("spec")? },
        "rounds" => Op::Rounds { capacity: f.int("capacity")? },
        "portion" => Op::Portion { capacity: f.int("capacity")? },
        "sum_squares" => Op::SumSquares,
        "adam_w" => Op::AdamW {
            beta1: f.float("beta1")?,
            beta2: f.float("beta2")?,
            eps: f.float("eps")?,
            decay: f.float("decay")?,
        },
        "all_reduce" => collective(CollectiveKind::AllReduce { reduce: f.word("kind", reduce)? }, f)?,
        "all_gather" => collective(CollectiveKind::AllGather { dim: f.int("dim")? }, f)?,
        "reduce_scatter" => collective(CollectiveKind::ReduceScatter { dim: f.int("dim")? }, f)?,
        "all_to_all" => collective(CollectiveKind::AllToAll { cut: f.int("cut")?, join: f.int("join")? }, f)?,
        "shift" => collective(CollectiveKind::Shift, f)?,
        "sum_ends" => collective(CollectiveKind::SumEnds, f)?,
        "own_part" => collective(CollectiveKind::OwnPart { dim: f.int("dim")? }, f)?,
        "handover" => Op::Handover { last: f.bool("last")? },
        "keep_slice" => Op::KeepSlice { dim: f.int("dim")? },
        "own_slice" => Op::OwnSlice { dim: f.int("dim")?, len: f.int("len")? },
        "sum_slices" => Op::SumSlices { begin: f.int("begin")? },
        "await" => Op::Await,
        "to_host" => Op::ToHost,
        "from_host" => Op::FromHost,
        "own_ids" => collective(CollectiveKind::OwnIds { size: f.int("size")? }, f)?,
        "block_ids" => collective(CollectiveKind::BlockIds { size: f.int("size")?, back: f.int("back")? }, f)?,
        "repeat" => Op::Repeat { callee: f.text("callee")? },
        "call" => Op::Call { callee: f.text("callee")? },
        _ => {
            let unary = Unary::ALL.into_iter().find(|u| u.name() == name).map(Op::Unary);
            return Ok(unary.or_else(|| Binary::ALL.into_iter().find(|b| b.name() == name).map(Op::Binary)));
        }
    }))
}

fn collective<F: Fields>(kind: CollectiveKind, f: &mut F) -> Result<Op, F::Error> {
    Ok(Op::Collective(Collective { kind, axes: f.text("axes")?, ranks: f.int("ranks")? }))
}

/// Number of results, `None` if any number.
pub(super) const fn results(op: &Op) -> Option<usize> {
    Some(match op {
        Op::Constant { .. } | Op::Unary(_) | Op::Binary(_) | Op::Cast | Op::Reshape | Op::Transpose { .. } => 1,
        Op::Broadcast { .. } | Op::Slice { .. } | Op::Concat { .. } | Op::Reduce { .. } | Op::Einsum { .. } => 1,
        Op::Embed | Op::EmbedGrad { .. } | Op::RmsNorm { .. } | Op::LayerNorm { .. } | Op::Rope { .. } => 1,
        Op::CrossEntropyGrad | Op::PartEntropyGrad | Op::SumSquares | Op::Collective(_) => 1,
        Op::Route { .. } | Op::Pick | Op::PickGrad { .. } | Op::Histogram { .. } | Op::Dispatch { .. } => 1,
        Op::Combine | Op::CombineDot | Op::GroupedEinsum { .. } | Op::ToHost | Op::FromHost => 1,
        Op::Rounds { .. } | Op::KeepSlice { .. } | Op::OwnSlice { .. } | Op::SumSlices { .. } | Op::Await => 1,
        Op::Assign { .. } | Op::Portion { .. } => 2,
        Op::RmsNormGrad { .. } | Op::RopeTable { .. } | Op::Attention { .. } | Op::AttentionStep { .. } => 2,
        Op::CrossEntropy | Op::PartEntropy => 2,
        Op::LayerNormGrad { .. } | Op::AttentionGrad { .. } | Op::AttentionStepGrad { .. } | Op::AdamW { .. } => 3,
        Op::Handover { .. } | Op::Repeat { .. } | Op::Call { .. } => return None,
    })
}

/// Fewest and most operands; the most is `None` if there is no bound that the dialect can state.
pub(super) fn operands(op: &Op) -> (usize, Option<usize>) {
    match arity(op) {
        Some(r) if r.end().saturating_sub(*r.start()) <= 1 => (*r.start(), Some(*r.end())),
        Some(r) => (*r.start(), None),
        None => (1, None),
    }
}

/// One op of every name, in the order of the enum.
pub(super) fn samples() -> Vec<Op> {
    let one = F64(1.0);
    let mut ops = vec![Op::Constant { value: one }];
    ops.extend(Unary::ALL.map(Op::Unary));
    ops.extend(Binary::ALL.map(Op::Binary));
    ops.extend([
        Op::Cast,
        Op::Reshape,
        Op::Transpose { perm: vec![0] },
        Op::Broadcast { dims: vec![0] },
        Op::Slice { dim: 0, start: 0, len: 1 },
        Op::Concat { dim: 0 },
        Op::Reduce { kind: ReduceKind::Sum, dims: vec![0] },
        Op::Einsum { spec: "ab,bc->ac".into() },
        Op::Embed,
        Op::EmbedGrad { vocab: 1 },
        Op::RmsNorm { eps: one },
        Op::RmsNormGrad { eps: one },
        Op::LayerNorm { eps: one },
        Op::LayerNormGrad { eps: one },
        Op::RopeTable { inv_freq: vec![one], scale: one },
        Op::Rope { interleaved: false, inverse: false },
        Op::Attention { scale: one, causal: true, alibi: false },
        Op::AttentionGrad { scale: one, causal: true, alibi: false },
        Op::AttentionStep { scale: one, alibi: false },
        Op::AttentionStepGrad { scale: one, alibi: false },
        Op::CrossEntropy,
        Op::CrossEntropyGrad,
        Op::PartEntropy,
        Op::PartEntropyGrad,
        Op::Route { k: 1, groups: 1, group_k: 1, group_top: 1, mask: RouteMask::Zero },
        Op::Pick,
        Op::PickGrad { n: 1 },
        Op::Histogram { bins: 1 },
        Op::Assign { experts: 1, capacity: 0 },
        Op::Dispatch { rows: 1 },
        Op::Combine,
        Op::CombineDot,
        Op::GroupedEinsum { spec: "rk,enk->rn".into() },
        Op::Rounds { capacity: 1 },
        Op::Portion { capacity: 1 },
        Op::SumSquares,
        Op::AdamW { beta1: one, beta2: one, eps: one, decay: one },
    ]);
    let collective = |kind| Op::Collective(Collective { kind, axes: "dp".into(), ranks: 2 });
    ops.push(collective(CollectiveKind::AllReduce { reduce: ReduceKind::Sum }));
    ops.push(collective(CollectiveKind::AllGather { dim: 0 }));
    ops.push(collective(CollectiveKind::ReduceScatter { dim: 0 }));
    ops.push(collective(CollectiveKind::SumEnds));
    ops.push(collective(CollectiveKind::OwnPart { dim: 0 }));
    ops.extend([Op::Handover { last: false }, Op::KeepSlice { dim: 0 }, Op::OwnSlice { dim: 0, len: 1 }]);
    ops.extend([Op::SumSlices { begin: 0 }, Op::Await, Op::ToHost, Op::FromHost]);
    ops.push(collective(CollectiveKind::OwnIds { size: 1 }));
    ops.push(collective(CollectiveKind::AllToAll { cut: 0, join: 0 }));
    ops.push(collective(CollectiveKind::Shift));
    ops.push(collective(CollectiveKind::BlockIds { size: 1, back: 1 }));
    ops.push(Op::Repeat { callee: "f".into() });
    ops.push(Op::Call { callee: "f".into() });
    ops
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::{Deserializer, Error as _, Visitor, value::Error};
    use std::collections::BTreeSet;

    /// Takes the names of an enum's variants from its serde description.
    struct Variants;

    impl<'de> Deserializer<'de> for Variants {
        type Error = Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            Err(Error::custom("not an enum"))
        }

        fn deserialize_enum<V: Visitor<'de>>(
            self,
            _: &'static str,
            variants: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Error> {
            Err(Error::custom(variants.join(" ")))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map struct identifier ignored_any
        }
    }

    #[test]
    fn every_variant_of_op_has_a_sample() {
        use serde::Deserialize;
        let listed = Op::deserialize(Variants).unwrap_err().to_string();
        let listed: BTreeSet<&str> = listed.split(' ').collect();
        let name = |op: &Op| match serde_json::to_value(op).unwrap() {
            serde_json::Value::String(s) => s,
            serde_json::Value::Object(o) => o.keys().next().unwrap().clone(),
            other => panic!("{other}"),
        };
        let sampled: Vec<String> = samples().iter().map(name).collect();
        assert_eq!(sampled.iter().map(String::as_str).collect::<BTreeSet<_>>(), listed);
    }
}
