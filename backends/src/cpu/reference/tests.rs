//! Values worked out by hand.

use super::*;
use athanor_ir::{DType, F64, RouteMask};

fn run(op: &Op, ins: &[&Tensor], out: &TensorType) -> Vec<f64> {
    let mut result = Tensor::zeros(out.clone());
    let views: Vec<View<'_>> = ins.iter().map(|t| t.view()).collect();
    run_op(op, &views, &mut [ViewMut { ty: out, bytes: &mut result.bytes }]).unwrap();
    result.to_f64()
}

fn f64s(dims: &[usize]) -> TensorType {
    TensorType::new(DType::F64, dims)
}

#[test]
fn einsum_contracts_permutes_and_accumulates() {
    let a = Tensor::from_f64(&[2, 3], &[1., 2., 3., 4., 5., 6.]);
    let b = Tensor::from_f64(&[2, 3], &[1., 0., 1., 0., 1., 0.]);
    let op = |s: &str| Op::Einsum { spec: s.into() };
    assert_eq!(run(&op("ak,bk->ab"), &[&a, &b], &f64s(&[2, 2])), [4., 2., 10., 5.]);
    assert_eq!(run(&op("ak,bk->ba"), &[&a, &b], &f64s(&[2, 2])), [4., 10., 2., 5.]);
    assert_eq!(run(&op("ab,ab->a"), &[&a, &b], &f64s(&[2])), [4., 5.]);
    assert_eq!(run(&op("ab,cd->c"), &[&a, &b], &f64s(&[2])), [42., 21.]);
    let acc = Tensor::from_f64(&[2, 2], &[100.; 4]);
    assert_eq!(run(&op("ak,bk->ab"), &[&a, &b, &acc], &f64s(&[2, 2])), [104., 102., 110., 105.]);
}

#[test]
fn shapes_move_elements() {
    let x = Tensor::from_f64(&[2, 3], &[1., 2., 3., 4., 5., 6.]);
    assert_eq!(run(&Op::Transpose { perm: vec![1, 0] }, &[&x], &f64s(&[3, 2])), [1., 4., 2., 5., 3., 6.]);
    assert_eq!(run(&Op::Slice { dim: 1, start: 1, len: 2 }, &[&x], &f64s(&[2, 2])), [2., 3., 5., 6.]);
    let row = Tensor::from_f64(&[2], &[7., 8.]);
    let op = Op::Broadcast { dims: vec![0] };
    assert_eq!(run(&op, &[&row], &f64s(&[2, 2])), [7., 7., 8., 8.]);
    let op = Op::Concat { dim: 1 };
    assert_eq!(run(&op, &[&x, &x], &f64s(&[2, 6])), [1., 2., 3., 1., 2., 3., 4., 5., 6., 4., 5., 6.]);
    let op = Op::Reduce { kind: athanor_ir::ReduceKind::Max, dims: vec![0] };
    assert_eq!(run(&op, &[&x], &f64s(&[3])), [4., 5., 6.]);
}

#[test]
fn attention_of_equal_keys_averages_visible_values() {
    let q = Tensor::from_f64(&[1, 2, 2, 1], &[1., 2., 3., 4.]);
    let k = Tensor::from_f64(&[1, 2, 1, 1], &[1., 1.]);
    let v = Tensor::from_f64(&[1, 2, 1, 1], &[10., 20.]);
    let (ot, lt) = (f64s(&[1, 2, 2, 1]), f64s(&[1, 2, 2]));
    let (mut out, mut lse) = (Tensor::zeros(ot.clone()), Tensor::zeros(lt.clone()));
    let mut outs = [ViewMut { ty: &ot, bytes: &mut out.bytes }, ViewMut { ty: &lt, bytes: &mut lse.bytes }];
    let op = Op::Attention { scale: F64(0.5), causal: true, alibi: false };
    run_op(&op, &[q.view(), k.view(), v.view()], &mut outs).unwrap();
    let close = |a: &[f64], b: &[f64]| assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12), "{a:?} {b:?}");
    close(&out.to_f64(), &[10., 10., 15., 15.]);
    close(&lse.to_f64(), &[0.5, 1.5 + 2f64.ln(), 1.0, 2.0 + 2f64.ln()]);
}

/// Three keys in two blocks, of which the second is behind the query: together they give what all keys give, and a block that
/// a query sees nothing of changes nothing.
#[test]
fn attention_goes_on_from_other_keys() {
    let q = Tensor::from_f64(&[1, 1, 1, 1], &[0.7]);
    let (k, v) = ([0.3, -1.1], [10., 20.]);
    let (ot, lt) = (f64s(&[1, 1, 1, 1]), f64s(&[1, 1, 1]));
    let run = |k: &[f64], v: &[f64], first: i32, others: Option<(&Tensor, &Tensor)>| {
        let shape = [1, k.len(), 1, 1];
        let (k, v) = (Tensor::from_f64(&shape, k), Tensor::from_f64(&shape, v));
        let first = Tensor::from_i32(&[], &[first]);
        let (mut out, mut lse) = (Tensor::zeros(ot.clone()), Tensor::zeros(lt.clone()));
        let mut outs = [ViewMut { ty: &ot, bytes: &mut out.bytes }, ViewMut { ty: &lt, bytes: &mut lse.bytes }];
        let mut ins = vec![q.view(), k.view(), v.view(), first.view()];
        ins.extend(others.iter().flat_map(|(out, lse)| [out.view(), lse.view()]));
        let (scale, causal, alibi) = (F64(1.0), true, false);
        let op = match others {
            None => Op::Attention { scale, causal, alibi },
            Some(_) => Op::AttentionStep { scale, alibi },
        };
        run_op(&op, &ins, &mut outs).unwrap();
        (out, lse)
    };
    let (want, log) = run(&k, &v, -1, None);
    let (a, la) = run(&k[..1], &v[..1], -1, None);
    let (b, lb) = run(&k[1..], &v[1..], 0, Some((&a, &la)));
    assert!((b.to_f64()[0] - want.to_f64()[0]).abs() < 1e-12 && (lb.to_f64()[0] - log.to_f64()[0]).abs() < 1e-12);
    let (unseen, nothing) = run(&k, &v, 1, None);
    assert_eq!((unseen.to_f64(), nothing.to_f64()), (vec![0.0], vec![f64::NEG_INFINITY]));
    let (same, lsame) = run(&k, &v, 5, Some((&b, &lb)));
    assert_eq!((same.to_f64(), lsame.to_f64()), (b.to_f64(), lb.to_f64()));
    let (still, none) = run(&k, &v, 5, Some((&unseen, &nothing)));
    assert_eq!((still.to_f64(), none.to_f64()), (vec![0.0], vec![f64::NEG_INFINITY]));
}

/// Head 0 of two has slope 2⁻⁴, head 1 2⁻⁸: keys are equal, so that the distance alone decides.
#[test]
fn attention_with_slopes_prefers_what_is_near() {
    let (q, k) = (Tensor::from_f64(&[1, 2, 2, 1], &[0.0; 4]), Tensor::from_f64(&[1, 2, 1, 1], &[1.0; 2]));
    let v = Tensor::from_f64(&[1, 2, 1, 1], &[0.0, 1.0]);
    let (ot, lt) = (f64s(&[1, 2, 2, 1]), f64s(&[1, 2, 2]));
    let (mut out, mut lse) = (Tensor::zeros(ot.clone()), Tensor::zeros(lt.clone()));
    let mut outs = [ViewMut { ty: &ot, bytes: &mut out.bytes }, ViewMut { ty: &lt, bytes: &mut lse.bytes }];
    let op = Op::Attention { scale: F64(1.0), causal: true, alibi: true };
    run_op(&op, &[q.view(), k.view(), v.view()], &mut outs).unwrap();
    let near = |slope: f64| 1.0 / (1.0 + (-slope).exp());
    let want = [0.0, 0.0, near(1.0 / 16.0), near(1.0 / 256.0)];
    assert!(out.to_f64().iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-12), "{:?}", out.to_f64());
}

#[test]
fn storing_rounds_once_to_nearest_even() {
    let t = |x: f64| Tensor::scalar(DType::BF16, x).to_f64()[0];
    let (one, step) = (1.0, 2f64.powi(-7));
    assert_eq!(t(one + step / 2.0), one);
    assert_eq!(t(one + 1.5 * step), one + 2.0 * step);
    // Just above a tie, by less than f32 can tell: rounding through f32 would lose it.
    assert_eq!(t(one + step / 2.0 + 2f64.powi(-40)), one + step);
    assert_eq!(t(-(one + step / 2.0 + 2f64.powi(-40))), -(one + step));
}

#[test]
fn labels_beyond_the_vocabulary_are_refused() {
    let logits = Tensor::from_f64(&[1, 2], &[0.; 2]);
    let labels = Tensor::from_i32(&[1], &[2]);
    let ty = f64s(&[1]);
    let (mut a, mut b) = (vec![0; 8], vec![0; 8]);
    let mut outs = [ViewMut { ty: &ty, bytes: &mut a }, ViewMut { ty: &ty, bytes: &mut b }];
    let e = run_op(&Op::CrossEntropy, &[logits.view(), labels.view()], &mut outs).unwrap_err();
    assert!(e.contains("id 2 at element 0 is not below 2"), "{e}");
}

fn i32s(dims: &[usize]) -> TensorType {
    TensorType::new(DType::I32, dims)
}

fn routed(
    scores: &[f64],
    bias: &[f64],
    k: usize,
    [groups, group_k, group_top]: [usize; 3],
    mask: RouteMask,
) -> Vec<f64> {
    let n = bias.len();
    let (x, b) = (Tensor::from_f64(&[scores.len() / n, n], scores), Tensor::from_f64(&[n], bias));
    let op = Op::Route { k, groups, group_k, group_top, mask };
    run(&op, &[&x, &b], &i32s(&[scores.len() / n, k]))
}

#[test]
fn a_router_takes_the_best_and_the_first_among_equals() {
    let none = [1, 1, 1];
    assert_eq!(routed(&[0.1, 0.7, 0.7, 0.2], &[0.; 4], 3, none, RouteMask::Zero), [1., 2., 3.]);
    // The bias decides, though nobody sees it in the scores.
    assert_eq!(routed(&[0.1, 0.7, 0.6, 0.2], &[1., 0., 0., 0.], 2, none, RouteMask::Zero), [0., 1.]);
}

#[test]
fn only_the_best_groups_count() {
    // Groups of two: sums 0.9, 1.0, 0.8; the best single expert is in the last group, which does not count.
    let scores = [0.5, 0.4, 0.45, 0.55, 0.8, 0.0];
    assert_eq!(routed(&scores, &[0.; 6], 3, [3, 2, 2], RouteMask::Zero), [3., 0., 2.]);
    assert_eq!(routed(&scores, &[0.; 6], 2, [3, 1, 1], RouteMask::Zero), [4., 0.]);
    // With negative choices a masked 0 wins, a masked −∞ does not.
    let low = [-0.5, -0.6, -0.1, -0.2];
    assert_eq!(routed(&low, &[0.; 4], 2, [2, 1, 2], RouteMask::Zero), [0., 1.]);
    assert_eq!(routed(&low, &[0.; 4], 2, [2, 1, 2], RouteMask::NegInf), [2., 3.]);
}

/// Tokens 0, 1, 2 with two choices each among three experts, none for expert 1.
#[test]
fn slots_are_sorted_by_expert_and_come_back() {
    let ids = Tensor::from_i32(&[3, 2], &[2, 0, 0, 2, 2, 0]);
    let (rt, ot) = (i32s(&[3, 2]), i32s(&[3, 2]));
    let assign = |op: &Op, ins: &[&Tensor]| {
        let (mut rows, mut spans) = (Tensor::zeros(rt.clone()), Tensor::zeros(ot.clone()));
        let mut outs = [ViewMut { ty: &rt, bytes: &mut rows.bytes }, ViewMut { ty: &ot, bytes: &mut spans.bytes }];
        run_op(op, &ins.iter().map(|t| t.view()).collect::<Vec<_>>(), &mut outs).unwrap();
        (rows, spans.to_f64())
    };
    let (rows, spans) = assign(&Op::Assign { experts: 3, capacity: 0 }, &[&ids]);
    assert_eq!((rows.to_f64(), spans), (vec![3., 0., 1., 4., 5., 2.], vec![0., 3., 3., 3., 3., 6.]));
    let x = Tensor::from_f64(&[3, 1], &[10., 20., 30.]);
    let w = Tensor::from_f64(&[3, 2], &[1., 2., 3., 4., 5., 6.]);
    let sent = run(&Op::Dispatch { rows: 6 }, &[&x, &rows], &f64s(&[6, 1]));
    assert_eq!(sent, [10., 20., 30., 10., 20., 30.]);
    assert_eq!(run(&Op::Dispatch { rows: 6 }, &[&x, &rows, &w], &f64s(&[6, 1])), [20., 60., 180., 10., 80., 150.]);
    let y = Tensor::from_f64(&[6, 1], &sent);
    assert_eq!(run(&Op::Combine, &[&y, &rows, &w], &f64s(&[3, 1])), [30., 140., 330.]);
    assert_eq!(run(&Op::CombineDot, &[&y, &rows, &x], &f64s(&[3, 2])), [100., 100., 400., 400., 900., 900.]);
    assert_eq!(run(&Op::Histogram { bins: 3 }, &[&ids], &TensorType::new(DType::F32, [3, 3])), [1., 0., 1.].repeat(3));

    // Two slots an expert: the first ones, or the heaviest.
    let (rows, spans) = assign(&Op::Assign { experts: 3, capacity: 2 }, &[&ids]);
    assert_eq!((rows.to_f64(), spans.clone()), (vec![2., 0., 1., 3., -1., -1.], vec![0., 2., 2., 2., 2., 4.]));
    let (heaviest, _) = assign(&Op::Assign { experts: 3, capacity: 2 }, &[&ids, &w]);
    assert_eq!(heaviest.to_f64(), [-1., -1., 0., 2., 3., 1.]);
    assert_eq!(run(&Op::Dispatch { rows: 6 }, &[&x, &rows], &f64s(&[6, 1])), [10., 20., 10., 20., 0., 0.]);
    assert_eq!(run(&Op::Combine, &[&y, &rows, &w], &f64s(&[3, 1])), [1. * 30. + 2. * 10., 3. * 20. + 4. * 10., 0.]);
}

#[test]
fn a_row_meets_the_matrix_of_its_expert() {
    let x = Tensor::from_f64(&[3, 2], &[1., 2., 3., 4., 5., 6.]);
    // Expert 0 has no row, expert 1 the first two; the last row is nobody's.
    let w = Tensor::from_f64(&[2, 1, 2], &[7., 7., 10., 1.]);
    let spans = Tensor::from_i32(&[2, 2], &[0, 0, 0, 2]);
    let op = |s: &str| Op::GroupedEinsum { spec: s.into() };
    let y = run(&op("rk,enk->rn"), &[&x, &w, &spans], &f64s(&[3, 1]));
    assert_eq!(y, [12., 34., 0.]);
    let dy = Tensor::from_f64(&[3, 1], &[1., 2., 3.]);
    assert_eq!(run(&op("rn,enk->rk"), &[&dy, &w, &spans], &f64s(&[3, 2])), [10., 1., 20., 2., 0., 0.]);
    assert_eq!(run(&op("rn,rk->enk"), &[&dy, &x, &spans], &f64s(&[2, 1, 2])), [0., 0., 7., 10.]);
    let acc = Tensor::from_f64(&[3, 1], &[100.; 3]);
    assert_eq!(run(&op("rk,enk->rn"), &[&x, &w, &spans, &acc], &f64s(&[3, 1])), [112., 134., 100.]);

    // The second of three experts alone: the rows of the others are none of its business.
    let (w, spans) = (Tensor::from_f64(&[1, 1, 2], &[10., 1.]), Tensor::from_i32(&[1, 2], &[1, 2]));
    assert_eq!(run(&op("rk,enk->rn"), &[&x, &w, &spans], &f64s(&[3, 1])), [0., 34., 0.]);
    assert_eq!(run(&op("rn,rk->enk"), &[&dy, &x, &spans], &f64s(&[1, 1, 2])), [6., 8.]);
}

#[test]
fn rows_and_spans_that_lead_outside_are_refused() {
    let x = Tensor::from_f64(&[2, 1], &[1., 2.]);
    let rows = Tensor::from_i32(&[2, 1], &[0, 2]);
    let ty = f64s(&[2, 1]);
    let mut bytes = vec![0; 16];
    let e = run_op(&Op::Dispatch { rows: 2 }, &[x.view(), rows.view()], &mut [ViewMut { ty: &ty, bytes: &mut bytes }]);
    assert!(e.unwrap_err().contains("slot 1 has row 2 of 2"));
    let (w, spans) = (Tensor::from_f64(&[1, 1, 1], &[1.]), Tensor::from_i32(&[1, 2], &[0, 3]));
    let op = Op::GroupedEinsum { spec: "rk,enk->rn".into() };
    let e = run_op(&op, &[x.view(), w.view(), spans.view()], &mut [ViewMut { ty: &ty, bytes: &mut bytes }]);
    assert!(e.unwrap_err().contains("do not follow one another in 2 rows"));
}

#[test]
fn rows_go_to_ranks_in_rounds() {
    // Ranks 0 and 1 have two experts each: rows 0 to 2 of the first, none of the second, row 3 of the third, 4 and 5 of the last.
    let rows = Tensor::from_i32(&[3, 2], &[0, 4, 1, 3, 5, 2]);
    let spans = Tensor::from_i32(&[2, 2, 2], &[0, 3, 3, 3, 3, 4, 4, 6]);
    let rounds = |capacity| run(&Op::Rounds { capacity }, &[&spans], &i32s(&[]));
    assert_eq!([1, 2, 3, 9].map(rounds), [[3.], [2.], [1.], [1.]]);
    let portion = |round| {
        let (pt, et) = (i32s(&[3, 2]), i32s(&[4, 1]));
        let (mut places, mut experts) = (Tensor::zeros(pt.clone()), Tensor::zeros(et.clone()));
        let mut outs = [ViewMut { ty: &pt, bytes: &mut places.bytes }, ViewMut { ty: &et, bytes: &mut experts.bytes }];
        let round = Tensor::from_i32(&[], &[round]);
        run_op(&Op::Portion { capacity: 2 }, &[rows.view(), spans.view(), round.view()], &mut outs).unwrap();
        (places.to_f64(), experts.to_f64())
    };
    assert_eq!(portion(0), (vec![0., 3., 1., 2., -1., -1.], vec![0., 0., 0., 1.]));
    // One row is left for each; the other place of each has none.
    assert_eq!(portion(1), (vec![-1., -1., -1., -1., 2., 0.], vec![0., 2., 1., 2.]));
    assert_eq!(portion(2), (vec![-1.; 6], vec![2.; 4]));
}
