//! Ops that route tokens to experts: result types, signatures and flops.
//!
//! Tokens have any leading dims. A *slot* is one of a token's k choices; *rows* are slots sorted by expert, so that the
//! rows of an expert lie together and a matrix product can take them whatever their number.

use crate::infer::{InferError, fail, want};
use crate::op::Op;
use crate::signature::{Signature, letters, parse_labels};
use crate::types::{DType, TensorType};

/// A grouped einsum by what it does with the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupedForm {
    /// Every row meets its expert's matrix: `rk,enk->rn`.
    Rows,
    /// Every expert sums over its rows: `rn,rk->enk`.
    Sums,
}

/// Form and labels of operands and result of a grouped einsum.
pub fn parse_grouped(spec: &str) -> Result<(GroupedForm, [Vec<char>; 3]), String> {
    let labels = parse_labels(spec)?;
    let [a, b, out] = &labels;
    let has = |l: &[char]| (l.first() == Some(&'r'), l.first() == Some(&'e'), l.contains(&'r') || l.contains(&'e'));
    let form = match (has(a), has(b), has(out)) {
        ((true, ..), (_, true, _), (true, ..)) => GroupedForm::Rows,
        ((true, ..), (true, ..), (_, true, _)) => GroupedForm::Sums,
        _ => return Err(format!("grouped einsum spec {spec:?} is not of the form rk,enk->rn or rn,rk->enk")),
    };
    let rest = |l: &[char]| l[1..].to_vec();
    let [ra, rb, ro] = [rest(a), rest(b), rest(out)];
    let tied = [&ra, &rb, &ro].iter().any(|l| l.iter().any(|c| *c == 'r' || *c == 'e'));
    let matrix = match form {
        // The matrix has the row's labels and the result's.
        GroupedForm::Rows => {
            ra.len() == 1 && ro.len() == 1 && ra != ro && (rb == [ro[0], ra[0]] || rb == [ra[0], ro[0]])
        }
        GroupedForm::Sums => {
            ra.len() == 1 && rb.len() == 1 && ra != rb && (ro == [ra[0], rb[0]] || ro == [rb[0], ra[0]])
        }
    };
    if tied || !matrix {
        return Err(format!("grouped einsum spec {spec:?} is not a product of matrices"));
    }
    Ok((form, labels))
}

/// Multiply-adds of the product twice: every row meets one matrix.
pub(crate) fn grouped_flops(spec: &str, ins: &[TensorType]) -> u64 {
    let Ok((form, _)) = parse_grouped(spec) else { return 0 };
    let last = |t: &TensorType| t.dims.last().map_or(0, |d| *d as u64);
    let per_row = match form {
        GroupedForm::Rows => ins[1].dims[1..].iter().fold(1u64, |a, d| a.saturating_mul(*d as u64)),
        GroupedForm::Sums => last(&ins[0]).saturating_mul(last(&ins[1])),
    };
    2u64.saturating_mul(ins[0].dims[0] as u64).saturating_mul(per_row)
}

fn ids(what: &str, t: &TensorType) -> Result<(), InferError> {
    want(t.dtype == DType::I32 && t.rank() > 0, || format!("wants i32 {what} […, k], got {t}"))
}

fn float(what: &str, t: &TensorType, rank: usize) -> Result<(), InferError> {
    want(t.dtype.is_float() && t.rank() == rank, || format!("wants float {what} of {rank} dims, got {t}"))
}

fn lead(t: &TensorType) -> &[usize] {
    &t.dims[..t.rank() - 1]
}

fn last(t: &TensorType) -> usize {
    t.dims[t.rank() - 1]
}

/// The dims of `t` with the last one replaced.
fn ending(t: &TensorType, n: usize) -> Vec<usize> {
    lead(t).iter().copied().chain([n]).collect()
}

/// Weights have the slots' dims.
fn weights(rows: &TensorType, w: Option<&TensorType>) -> Result<(), InferError> {
    let fits = w.is_none_or(|w| w.dtype.is_float() && w.dims == rows.dims);
    want(fits, || format!("weights {} do not fit the slots {rows}", w.map(ToString::to_string).unwrap_or_default()))
}

/// Spans by the rank that has the experts: [p, e, 2].
fn spans_of_ranks(capacity: usize, t: &TensorType) -> Result<usize, InferError> {
    let fits = t.dtype == DType::I32 && matches!(t.dims[..], [p, e, 2] if p > 0 && e > 0) && capacity > 0;
    want(fits, || format!("wants i32 spans [p, e, 2] and room for a row, got {t} and room for {capacity}"))?;
    Ok(t.dims[0])
}

/// Result types; the number of operands is right.
pub(crate) fn infer(op: &Op, ins: &[TensorType]) -> Result<Vec<TensorType>, InferError> {
    Ok(match op {
        Op::Route { k, groups, group_k, group_top, .. } => {
            let scores = &ins[0];
            want(scores.dtype.is_float() && scores.rank() > 0, || format!("wants float scores […, e], got {scores}"))?;
            let e = last(scores);
            want(*groups > 0 && e.is_multiple_of(*groups), || format!("{groups} groups do not divide {e} experts"))?;
            let per = e / groups;
            let fits =
                (1..=*groups).contains(group_k) && (1..=per).contains(group_top) && *k > 0 && *k <= group_k * per;
            want(fits, || {
                format!("cannot choose {k} of {e} experts in {group_k} of {groups} groups by their {group_top} best")
            })?;
            if let Some(bias) = ins.get(1) {
                let row = TensorType::new(scores.dtype, [e]);
                want(*bias == row, || format!("bias {bias} is not {row}"))?;
            }
            vec![TensorType::new(DType::I32, ending(scores, *k))]
        }
        Op::Pick => {
            ids("ids", &ins[1])?;
            let fits = ins[0].rank() == ins[1].rank() && lead(&ins[0]) == lead(&ins[1]);
            want(fits, || format!("{} and ids {} differ in leading dims", ins[0], ins[1]))?;
            vec![ins[0].with_dims(ins[1].dims.clone())]
        }
        Op::PickGrad { n } => {
            ids("ids", &ins[0])?;
            weights(&ins[0], Some(&ins[1]))?;
            vec![ins[1].with_dims(ending(&ins[1], *n))]
        }
        Op::Histogram { bins } => {
            ids("ids", &ins[0])?;
            vec![TensorType::new(DType::F32, ending(&ins[0], *bins))]
        }
        Op::Assign { experts, capacity } => {
            ids("ids", &ins[0])?;
            weights(&ins[0], ins.get(1))?;
            want(ins.len() == 1 || *capacity > 0, || "weights decide only what a capacity drops".into())?;
            vec![ins[0].clone(), TensorType::new(DType::I32, [*experts, 2])]
        }
        Op::Rounds { capacity } => {
            spans_of_ranks(*capacity, &ins[0])?;
            vec![TensorType::scalar(DType::I32)]
        }
        Op::Portion { capacity } => {
            ids("rows", &ins[0])?;
            let ranks = spans_of_ranks(*capacity, &ins[1])?;
            let round = &ins[2];
            want(*round == TensorType::scalar(DType::I32), || {
                format!("wants the number of a round, i32, got {round}")
            })?;
            let sent = ranks.checked_mul(*capacity);
            let Some(sent) = sent else { return fail("sends more rows than can be counted") };
            vec![ins[0].clone(), TensorType::new(DType::I32, [sent, 1])]
        }
        Op::Dispatch { rows } => {
            ids("rows", &ins[1])?;
            float("tokens", &ins[0], ins[1].rank())?;
            want(lead(&ins[0]) == lead(&ins[1]), || format!("tokens {} and slots {} differ", ins[0], ins[1]))?;
            weights(&ins[1], ins.get(2))?;
            vec![ins[0].with_dims([*rows, last(&ins[0])])]
        }
        Op::Combine => {
            float("rows", &ins[0], 2)?;
            ids("rows", &ins[1])?;
            weights(&ins[1], ins.get(2))?;
            vec![ins[0].with_dims(ending(&ins[1], ins[0].dims[1]))]
        }
        Op::CombineDot => {
            float("rows", &ins[0], 2)?;
            ids("rows", &ins[1])?;
            let out = ins[0].with_dims(ending(&ins[1], ins[0].dims[1]));
            want(ins[2] == out, || format!("dout {} is not {out}", ins[2]))?;
            vec![ins[0].with_dims(ins[1].dims.clone())]
        }
        Op::GroupedEinsum { spec } => {
            let (form, labels) = parse_grouped(spec).map_err(InferError)?;
            let spans = &ins[2];
            want(spans.dtype == DType::I32 && matches!(spans.dims[..], [e, 2] if e > 0), || {
                format!("wants i32 spans [e, 2], got {spans}")
            })?;
            want(ins[0].dtype == ins[1].dtype && ins[0].dtype.is_float(), || {
                format!("operands have types {} and {}, which must have one float dtype", ins[0], ins[1])
            })?;
            let experts = spans.dims[0];
            let mut extents: Vec<(char, usize)> = vec![('e', experts)];
            for (l, t) in labels.iter().zip(&ins[..2]) {
                want(l.len() == t.rank(), || format!("{t} does not have the dims of {spec:?}"))?;
                for (c, d) in l.iter().zip(&t.dims) {
                    match extents.iter().find(|(known, _)| known == c) {
                        Some((_, n)) => want(n == d, || format!("{spec:?}: dim {c} is {n} and {d}"))?,
                        None => extents.push((*c, *d)),
                    }
                }
            }
            debug_assert!(form == GroupedForm::Rows || labels[2].contains(&'e'));
            let extent = |c: &char| extents.iter().find(|(known, _)| known == c).map_or(0, |(_, n)| *n);
            let t = ins[0].with_dims(labels[2].iter().map(extent).collect::<Vec<_>>());
            if let Some(acc) = ins.get(3) {
                want(acc.dims == t.dims && acc.dtype.is_float(), || {
                    format!("accumulator {acc} does not have the dims of the product {t}")
                })?;
                return Ok(vec![acc.clone()]);
            }
            vec![t]
        }
        _ => return fail("is no op of experts"),
    })
}

/// Labels: tokens a, b, …, slots k, experts e, rows r, the ends of a span z.
///
/// Sorting sees every token, so what is sorted stays whole; the hidden dim h, experts and the dims of their matrices may be
/// split.
pub(crate) fn signature(op: &Op, ins: &[TensorType], outs: &[TensorType]) -> Option<Signature> {
    let tokens = |t: &TensorType| letters(t.rank().saturating_sub(1));
    let with = |mut lead: Vec<char>, last: char| {
        lead.push(last);
        lead
    };
    let sorted = |t: &TensorType| tokens(t).into_iter().chain(['k', 'r']).collect::<Vec<char>>();
    let weighted = |mut operands: Vec<Vec<char>>, slots: &[char]| {
        operands.extend((operands.len()..ins.len()).map(|_| slots.to_vec()));
        operands
    };
    Some(match op {
        Op::Route { .. } => {
            let t = tokens(&ins[0]);
            let mut operands = vec![with(t.clone(), 'e')];
            operands.extend(ins.get(1).map(|_| vec!['e']));
            Signature { operands, results: vec![with(t, 'k')], whole: vec!['e', 'k'] }
        }
        Op::Pick => {
            let t = tokens(&ins[0]);
            let operands = vec![with(t.clone(), 'e'), with(t.clone(), 'k')];
            Signature { operands, results: vec![with(t, 'k')], whole: vec!['e'] }
        }
        Op::PickGrad { .. } => {
            let t = tokens(&ins[0]);
            Signature { operands: vec![with(t.clone(), 'k'); 2], results: vec![with(t, 'e')], whole: vec!['e', 'k'] }
        }
        // Counts over parts of the dim add up.
        Op::Histogram { .. } => {
            let t = tokens(&ins[0]);
            Signature { operands: vec![with(t.clone(), 'm')], results: vec![with(t, 'e')], whole: vec!['e'] }
        }
        Op::Assign { .. } => {
            let slots = with(tokens(&ins[0]), 'k');
            let whole = slots.iter().copied().chain(['e', 'z']).collect();
            Signature { operands: vec![slots.clone(); ins.len()], results: vec![slots, vec!['e', 'z']], whole }
        }
        Op::Rounds { .. } => {
            let spans = vec!['p', 'e', 'z'];
            Signature { operands: vec![spans.clone()], results: vec![vec![]], whole: spans }
        }
        Op::Portion { .. } => {
            let slots = with(tokens(&ins[0]), 'k');
            let spans = vec!['p', 'e', 'z'];
            let whole = slots.iter().chain(&spans).copied().collect();
            Signature { operands: vec![slots.clone(), spans, vec![]], results: vec![slots, vec!['r', 'o']], whole }
        }
        Op::Dispatch { .. } => {
            let t = tokens(&ins[1]);
            let slots = with(t.clone(), 'k');
            let operands = weighted(vec![with(t, 'h'), slots.clone()], &slots);
            Signature { operands, results: vec![vec!['r', 'h']], whole: sorted(&ins[1]) }
        }
        Op::Combine => {
            let t = tokens(&ins[1]);
            let slots = with(t.clone(), 'k');
            let operands = weighted(vec![vec!['r', 'h'], slots.clone()], &slots);
            Signature { operands, results: vec![with(t, 'h')], whole: sorted(&ins[1]) }
        }
        Op::CombineDot => {
            let t = tokens(&ins[1]);
            let slots = with(t.clone(), 'k');
            let operands = vec![vec!['r', 'h'], slots.clone(), with(t, 'h')];
            Signature { operands, results: vec![slots], whole: sorted(&ins[1]) }
        }
        Op::GroupedEinsum { spec } => {
            let (_, [a, b, out]) = parse_grouped(spec).ok()?;
            let mut operands = vec![a, b, vec!['e', 'z']];
            operands.extend(ins.get(3).map(|_| out.clone()));
            debug_assert_eq!(outs.len(), 1);
            Signature { operands, results: vec![out], whole: vec!['r', 'z'] }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::infer::{check, infer};
    use crate::op::RouteMask;

    fn f(dims: &[usize]) -> TensorType {
        TensorType::new(DType::F32, dims)
    }

    fn i(dims: &[usize]) -> TensorType {
        TensorType::new(DType::I32, dims)
    }

    fn grouped(spec: &str) -> Op {
        Op::GroupedEinsum { spec: spec.into() }
    }

    #[test]
    fn grouped_products_tie_rows_and_experts() {
        assert_eq!(infer(&grouped("rk,enk->rn"), &[f(&[6, 4]), f(&[2, 3, 4]), i(&[2, 2])]), Ok(vec![f(&[6, 3])]));
        assert_eq!(infer(&grouped("rn,enk->rk"), &[f(&[6, 3]), f(&[2, 3, 4]), i(&[2, 2])]), Ok(vec![f(&[6, 4])]));
        assert_eq!(infer(&grouped("rn,rk->enk"), &[f(&[6, 3]), f(&[6, 4]), i(&[2, 2])]), Ok(vec![f(&[2, 3, 4])]));
        assert!(infer(&grouped("rk,enk->rn"), &[f(&[6, 4]), f(&[3, 3, 4]), i(&[2, 2])]).is_err());
        assert!(infer(&grouped("rk,enk->rn"), &[f(&[6, 5]), f(&[2, 3, 4]), i(&[2, 2])]).is_err());
        assert!(infer(&grouped("rn,rk->enk"), &[f(&[6, 3]), f(&[5, 4]), i(&[2, 2])]).is_err());
        for spec in ["rk,nk->rn", "ak,enk->an", "rk,enk->en", "rk,rk->ek", "rk,erk->rk", "rkm,enk->rn", ""] {
            assert!(parse_grouped(spec).is_err(), "{spec}");
        }
        assert_eq!(grouped("rk,enk->rn").flops(&[f(&[6, 4]), f(&[2, 3, 4]), i(&[2, 2])], &[f(&[6, 3])]), 2 * 6 * 12);
        assert_eq!(grouped("rn,rk->enk").flops(&[f(&[6, 3]), f(&[6, 4]), i(&[2, 2])], &[f(&[2, 3, 4])]), 2 * 6 * 12);
    }

    #[test]
    fn a_route_must_be_possible() {
        let route = |k, groups, group_k, group_top| Op::Route { k, groups, group_k, group_top, mask: RouteMask::Zero };
        assert_eq!(infer(&route(2, 4, 2, 2), &[f(&[5, 8]), f(&[8])]), Ok(vec![i(&[5, 2])]));
        for bad in [route(0, 1, 1, 1), route(5, 4, 2, 1), route(2, 3, 1, 1), route(2, 4, 5, 1), route(2, 4, 2, 3)] {
            assert!(infer(&bad, &[f(&[5, 8])]).is_err(), "{bad:?}");
        }
        assert!(infer(&route(2, 1, 1, 1), &[f(&[5, 8]), f(&[7])]).is_err());
    }

    #[test]
    fn rows_go_to_ranks_in_rounds() {
        let (rows, spans, round) = (i(&[2, 3, 2]), i(&[4, 8, 2]), i(&[]));
        let portion = Op::Portion { capacity: 5 };
        assert_eq!(infer(&portion, &[rows.clone(), spans.clone(), round.clone()]), Ok(vec![rows.clone(), i(&[20, 1])]));
        assert_eq!(infer(&Op::Rounds { capacity: 5 }, std::slice::from_ref(&spans)), Ok(vec![i(&[])]));
        assert!(infer(&portion, &[rows.clone(), i(&[8, 2]), round.clone()]).is_err());
        assert!(infer(&portion, &[rows.clone(), spans.clone(), i(&[1])]).is_err());
        assert!(infer(&Op::Portion { capacity: 0 }, &[rows, spans, round]).is_err());
    }

    #[test]
    fn rows_of_slots_lead_there_and_back() {
        let slots = i(&[2, 3, 2]);
        assert_eq!(
            infer(&Op::Assign { experts: 4, capacity: 0 }, std::slice::from_ref(&slots)),
            Ok(vec![slots.clone(), i(&[4, 2])])
        );
        assert_eq!(infer(&Op::Dispatch { rows: 12 }, &[f(&[2, 3, 7]), slots.clone()]), Ok(vec![f(&[12, 7])]));
        assert_eq!(infer(&Op::Combine, &[f(&[12, 7]), slots.clone(), f(&[2, 3, 2])]), Ok(vec![f(&[2, 3, 7])]));
        assert_eq!(infer(&Op::CombineDot, &[f(&[12, 7]), slots.clone(), f(&[2, 3, 7])]), Ok(vec![f(&[2, 3, 2])]));
        assert!(infer(&Op::Dispatch { rows: 12 }, &[f(&[2, 4, 7]), slots.clone()]).is_err());
        assert!(check(&Op::Combine, &[f(&[12, 7]), slots, f(&[2, 3])], &[f(&[2, 3, 7])]).is_err());
    }
}
