//! Values worked out by hand.

use super::*;
use athanor_ir::{DType, F64};

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
    let op = Op::Attention { scale: F64(0.5), causal: true };
    run_op(&op, &[q.view(), k.view(), v.view()], &mut outs).unwrap();
    let close = |a: &[f64], b: &[f64]| assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12), "{a:?} {b:?}");
    close(&out.to_f64(), &[10., 10., 15., 15.]);
    close(&lse.to_f64(), &[0.5, 1.5 + 2f64.ln(), 1.0, 2.0 + 2f64.ln()]);
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
