//! The einsum-like signature of every op: one label per dim, from which sharding, flops and bytes follow.

use crate::experts;
use crate::op::Op;
use crate::types::TensorType;
use std::fmt;

/// Labels of every dim of every operand and result. Equal labels are the same index; a label that results lack is
/// summed (or otherwise combined) over; a label that must stay whole on one rank is in `whole`.
///
/// Prints like einsum: `bsh,kh->bsk`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// Labels of each operand's dims.
    pub operands: Vec<Vec<char>>,
    /// Labels of each result's dims.
    pub results: Vec<Vec<char>>,
    /// Labels whose dim an op reads as a whole (softmax, norm, rotation), so that no axis may split it.
    pub whole: Vec<char>,
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |side: &[Vec<char>]| side.iter().map(|l| l.iter().collect()).collect::<Vec<String>>().join(",");
        write!(f, "{}->{}", list(&self.operands), list(&self.results))
    }
}

/// Operand and result labels of an einsum spec with two operands; what they have in common is not looked at.
pub fn parse_labels(spec: &str) -> Result<[Vec<char>; 3], String> {
    let bad = || format!("einsum spec {spec:?} is not of the form ab,bc->ac with one letter per dim");
    let (ins, out) = spec.split_once("->").ok_or_else(bad)?;
    let (a, b) = ins.split_once(',').ok_or_else(bad)?;
    let side = |s: &str| -> Result<Vec<char>, String> {
        let labels: Vec<char> = s.chars().collect();
        let fresh = labels.iter().enumerate().all(|(i, c)| c.is_ascii_lowercase() && !labels[..i].contains(c));
        if fresh { Ok(labels) } else { Err(bad()) }
    };
    Ok([side(a)?, side(b)?, side(out)?])
}

/// Operand and result labels of an einsum spec with two operands, each label of the result being in one of them.
pub fn parse_einsum(spec: &str) -> Result<[Vec<char>; 3], String> {
    let [a, b, out] = parse_labels(spec)?;
    if out.iter().all(|c| a.contains(c) || b.contains(c)) {
        Ok([a, b, out])
    } else {
        Err(format!("einsum spec {spec:?} has a label in its result that no operand has"))
    }
}

/// Dims of the result of einsum `spec` on operands of dims `a` and `b`.
pub fn einsum_dims(spec: &str, a: &[usize], b: &[usize]) -> Result<Vec<usize>, String> {
    let [la, lb, lo] = parse_einsum(spec)?;
    if la.len() != a.len() || lb.len() != b.len() {
        return Err(format!(
            "einsum {spec:?} wants ranks {} and {}, got {} and {}",
            la.len(),
            lb.len(),
            a.len(),
            b.len()
        ));
    }
    let extent = |c: char| {
        let in_a = la.iter().position(|l| *l == c).map(|i| a[i]);
        let in_b = lb.iter().position(|l| *l == c).map(|i| b[i]);
        match (in_a, in_b) {
            (Some(x), Some(y)) if x != y => {
                Err(format!("einsum {spec:?}: dim {c} is {x} on the left and {y} on the right"))
            }
            (Some(x), _) | (None, Some(x)) => Ok(x),
            (None, None) => Err(format!("einsum {spec:?}: dim {c} is nowhere")),
        }
    };
    la.iter().chain(&lb).try_for_each(|c| extent(*c).map(|_| ()))?;
    lo.iter().map(|c| extent(*c)).collect()
}

pub(crate) fn letters(n: usize) -> Vec<char> {
    ('a'..='z').take(n).collect()
}

impl Op {
    /// The signature for operands `ins` and results `outs`; `None` for a call or a repetition, whose callee has the answer.
    pub fn signature(&self, ins: &[TensorType], outs: &[TensorType]) -> Option<Signature> {
        let same = |n: usize| {
            let l = letters(outs.first().map_or(0, TensorType::rank));
            Signature { operands: vec![l.clone(); n], results: vec![l], whole: vec![] }
        };
        let of = |operands: Vec<&str>, results: Vec<&str>, whole: &str| Signature {
            operands: operands.into_iter().map(|s| s.chars().collect()).collect(),
            results: results.into_iter().map(|s| s.chars().collect()).collect(),
            whole: whole.chars().collect(),
        };
        Some(match self {
            Self::Call { .. } | Self::Repeat { .. } => return None,
            Self::Constant { .. } => same(0),
            Self::Unary(_) | Self::Cast | Self::ToHost | Self::FromHost => same(1),
            Self::Binary(_) => same(2),
            Self::Reshape => reshape_signature(&ins[0].dims, &outs[0].dims),
            Self::Transpose { perm } => {
                let l = letters(perm.len());
                let out = perm.iter().map(|p| l[*p]).collect();
                Signature { operands: vec![l], results: vec![out], whole: vec![] }
            }
            Self::Broadcast { dims } => {
                let out = letters(outs[0].rank());
                Signature { operands: vec![dims.iter().map(|d| out[*d]).collect()], results: vec![out], whole: vec![] }
            }
            Self::Slice { dim, .. } => {
                let mut s = same(1);
                s.whole.push(s.results[0][*dim]);
                s
            }
            Self::KeepSlice { dim } | Self::OwnSlice { dim, .. } => {
                let mut s = same(ins.len());
                s.operands[ins.len() - 1].clear();
                s.whole.push(s.results[0][*dim]);
                s
            }
            Self::SumSlices { .. } => {
                let mut s = same(3);
                s.operands[2].clear();
                s
            }
            Self::Concat { dim } => {
                let mut s = same(ins.len());
                s.whole.push(s.results[0][*dim]);
                s
            }
            Self::Reduce { dims, .. } => {
                let l = letters(ins[0].rank());
                let out = (0..l.len()).filter(|d| !dims.contains(d)).map(|d| l[d]).collect();
                Signature { operands: vec![l], results: vec![out], whole: vec![] }
            }
            Self::Einsum { spec } => {
                let [a, b, out] = parse_einsum(spec).ok()?;
                let mut operands = vec![a, b];
                if ins.len() == 3 {
                    operands.push(out.clone());
                }
                Signature { operands, results: vec![out], whole: vec![] }
            }
            Self::Embed => {
                let ids = letters(ins[0].rank());
                let out = ids.iter().copied().chain(['z']).collect();
                Signature { operands: vec![ids, vec!['v', 'z']], results: vec![out], whole: vec![] }
            }
            Self::EmbedGrad { .. } => {
                let ids = letters(ins[0].rank());
                let dy = ids.iter().copied().chain(['z']).collect();
                Signature { operands: vec![ids, dy], results: vec![vec!['v', 'z']], whole: vec![] }
            }
            Self::RmsNorm { .. } | Self::LayerNorm { .. } | Self::RmsNormGrad { .. } | Self::LayerNormGrad { .. } => {
                let x = letters(ins[0].rank());
                let last = vec![*x.last()?];
                let operands = ins.iter().map(|t| if t.rank() == 1 { last.clone() } else { x.clone() }).collect();
                let results = outs.iter().map(|t| if t.rank() == 1 { last.clone() } else { x.clone() }).collect();
                Signature { operands, results, whole: last }
            }
            Self::RopeTable { .. } => of(vec![], vec!["sd", "sd"], ""),
            Self::Rope { .. } => of(vec!["bsnd", "sr", "sr"], vec!["bsnd"], "dr"),
            // With slopes by head, a head must know which one it is.
            Self::Attention { .. }
            | Self::AttentionGrad { .. }
            | Self::AttentionStep { .. }
            | Self::AttentionStepGrad { .. } => {
                let attend = self.attend()?;
                let (operands, results) = attend.labels();
                let whole = if attend.alibi { "tdeng" } else { "tde" };
                of(operands.get(..ins.len())?.to_vec(), results.to_vec(), whole)
            }
            Self::CrossEntropy | Self::CrossEntropyGrad | Self::PartEntropy | Self::PartEntropyGrad => {
                let logits = letters(ins[0].rank());
                let rows = logits[..logits.len() - 1].to_vec();
                let side = |n: usize| std::iter::repeat_n(rows.clone(), n);
                match self {
                    Self::CrossEntropy | Self::PartEntropy => Signature {
                        operands: std::iter::once(logits).chain(side(1)).collect(),
                        results: side(2).collect(),
                        whole: vec![],
                    },
                    _ => Signature {
                        operands: std::iter::once(logits.clone()).chain(side(3)).collect(),
                        results: vec![logits],
                        whole: vec![],
                    },
                }
            }
            Self::Route { .. }
            | Self::Pick
            | Self::PickGrad { .. }
            | Self::Histogram { .. }
            | Self::Assign { .. }
            | Self::Dispatch { .. }
            | Self::Combine
            | Self::CombineDot
            | Self::Rounds { .. }
            | Self::Portion { .. }
            | Self::GroupedEinsum { .. } => return experts::signature(self, ins, outs),
            Self::Collective(c) => {
                let mut s = same(1);
                s.whole.extend(c.moved().filter_map(|dim| s.results[0].get(dim)));
                s
            }
            Self::SumSquares => Signature {
                operands: ins.iter().map(|t| letters(t.rank())).collect(),
                results: vec![vec![]],
                whole: vec![],
            },
            // It comes after values were cut, too.
            Self::Await => {
                let (x, y) = (letters(ins[0].rank()), letters(ins[0].rank() + ins[1].rank()));
                let other = y[x.len()..].to_vec();
                Signature { operands: vec![x.clone(), other], results: vec![x], whole: y }
            }
            // Of values that are whole or cut alike: it comes after values were cut.
            Self::Handover { .. } => Signature {
                operands: ins.iter().map(|t| letters(t.rank())).collect(),
                results: outs.iter().map(|t| letters(t.rank())).collect(),
                whole: letters(ins.iter().chain(outs).map(TensorType::rank).max().unwrap_or(0)),
            },
            Self::AdamW { .. } => {
                let l = letters(outs[0].rank());
                let operands = ins.iter().map(|t| if t.rank() == l.len() { l.clone() } else { vec![] }).collect();
                Signature { operands, results: vec![l; 3], whole: vec![] }
            }
        })
    }

    /// Floating-point operations of one execution: 2 per multiply-add of a contraction, 1 per element otherwise.
    ///
    /// Counts of absurd shapes stop at `u64::MAX`.
    pub fn flops(&self, ins: &[TensorType], outs: &[TensorType]) -> u64 {
        let elements = |t: &TensorType| t.elements() as u64;
        let product = |factors: &[u64]| factors.iter().fold(1u64, |a, b| a.saturating_mul(*b));
        let sum = |list: &[TensorType]| list.iter().map(elements).fold(0u64, u64::saturating_add);
        match self {
            Self::Einsum { spec } => {
                let Ok([a, b, _]) = parse_einsum(spec) else { return 0 };
                let free = b.iter().zip(&ins[1].dims).filter(|(c, _)| !a.contains(c)).map(|(_, d)| *d as u64);
                product(&[2, elements(&ins[0]), product(&free.collect::<Vec<_>>())])
            }
            Self::Attention { .. }
            | Self::AttentionGrad { .. }
            | Self::AttentionStep { .. }
            | Self::AttentionStepGrad { .. } => {
                let Some(attend) = self.attend() else { return 0 };
                let (q, v) = (&ins[0], &ins[2]);
                let [batch, seq, heads, d] = [0, 1, 2, 3].map(|i| q.dims[i] as u64);
                let pairs = product(&[batch, heads, seq, v.dims[1] as u64]) / if attend.causal { 2 } else { 1 };
                let e = v.dims[3] as u64;
                product(&[2, pairs, if attend.back { 3 * d + 2 * e } else { d + e }])
            }
            Self::GroupedEinsum { spec } => experts::grouped_flops(spec, ins),
            Self::Combine | Self::CombineDot => product(&[2, elements(&ins[1]), ins[0].dims[1] as u64]),
            Self::Reshape | Self::Broadcast { .. } | Self::Slice { .. } | Self::Concat { .. } | Self::Cast => 0,
            Self::KeepSlice { .. } | Self::OwnSlice { .. } | Self::Await => 0,
            Self::Constant { .. }
            | Self::Transpose { .. }
            | Self::Embed
            | Self::Collective(_)
            | Self::Handover { .. }
            | Self::ToHost
            | Self::FromHost => 0,
            Self::Reduce { .. } | Self::SumSquares => sum(ins),
            _ => sum(outs),
        }
    }

    /// Bytes read and written by one execution when nothing is cached.
    pub fn bytes(&self, ins: &[TensorType], outs: &[TensorType]) -> u64 {
        match self {
            Self::Reshape | Self::Await => 0,
            _ => ins.iter().chain(outs).map(|t| t.bytes() as u64).fold(0, u64::saturating_add),
        }
    }
}

/// Labels of a reshape: runs of dims with equal products share the label of their outermost dims; the inner ones of a
/// split or merged run are new labels, `whole` because a split there would not be a rectangle on the other side.
fn reshape_signature(from: &[usize], to: &[usize]) -> Signature {
    let mut fresh = 'a'..='z';
    let mut next = || fresh.next().unwrap_or('?');
    let (mut a, mut b, mut whole) = (vec![], vec![], vec![]);
    let (mut i, mut j) = (0, 0);
    while i < from.len() || j < to.len() {
        // Extents of one are labelled on their own side.
        if i < from.len() && from[i] == 1 && to.get(j) != Some(&1) {
            a.push(next());
            i += 1;
            continue;
        }
        if j < to.len() && to[j] == 1 && from.get(i) != Some(&1) {
            b.push(next());
            j += 1;
            continue;
        }
        if i >= from.len() || j >= to.len() {
            break;
        }
        let shared = next();
        a.push(shared);
        b.push(shared);
        let (mut pa, mut pb) = (from[i], to[j]);
        i += 1;
        j += 1;
        while pa != pb {
            let (side, product, dims, at) =
                if pa < pb { (&mut a, &mut pa, from, &mut i) } else { (&mut b, &mut pb, to, &mut j) };
            let Some(d) = dims.get(*at) else { break };
            let label = next();
            side.push(label);
            whole.push(label);
            *product *= d;
            *at += 1;
        }
    }
    Signature { operands: vec![a], results: vec![b], whole }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::DType;

    fn t(dims: &[usize]) -> TensorType {
        TensorType::new(DType::F32, dims)
    }

    #[test]
    fn einsum_dims_follow_labels() {
        assert_eq!(einsum_dims("bsh,kh->bsk", &[2, 3, 4], &[5, 4]), Ok(vec![2, 3, 5]));
        assert!(einsum_dims("bsh,kh->bsk", &[2, 3, 4], &[5, 6]).is_err());
        assert!(einsum_dims("ab,b", &[1, 2], &[2]).is_err());
        assert!(einsum_dims("aa,ab->b", &[2, 2], &[2, 2]).is_err());
        assert!(einsum_dims("ab,bc->ad", &[1, 2], &[2, 2]).is_err());
    }

    #[test]
    fn splitting_heads_keeps_batch_and_sequence_labels() {
        let s = Op::Reshape.signature(&[t(&[2, 8, 64])], &[t(&[2, 8, 4, 16])]).unwrap();
        assert_eq!(s.to_string(), "abc->abcd");
        assert_eq!(s.whole, vec!['d']);
        let s = Op::Reshape.signature(&[t(&[2, 8, 64])], &[t(&[16, 64])]).unwrap();
        assert_eq!(s.to_string(), "abc->ac");
    }

    #[test]
    fn matmul_counts_two_flops_per_product() {
        let op = Op::Einsum { spec: "bsh,kh->bsk".into() };
        assert_eq!(op.flops(&[t(&[2, 3, 4]), t(&[5, 4])], &[t(&[2, 3, 5])]), 2 * 2 * 3 * 4 * 5);
    }
}
