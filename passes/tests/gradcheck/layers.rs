//! Embedding, norms, rotation, attention, loss, and calls.

use super::Case;
use athanor_backends::cpu::reference::{Tensor, interpret};
use athanor_ir::{Builder, DType, F64, Func, Init, Loc, Op, ReduceKind, Role, TensorType, Unary};
use athanor_passes::autodiff::autodiff;
use proptest::prelude::*;
use std::collections::HashMap;

fn config() -> ProptestConfig {
    ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() }
}

/// Ids below `below` that depend on `seed`.
fn ids(dims: &[usize], below: usize, seed: u64) -> Tensor {
    let n: usize = dims.iter().product();
    let at = |i: u64| (seed ^ i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).rotate_left(23) % below as u64;
    Tensor::from_i32(dims, &(0..n as u64).map(|i| at(i) as i32).collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn embed(lead in prop::collection::vec(1..4usize, 1..3), v in 1..5usize, h in 1..4usize, seed: u64) {
        let tokens = ids(&lead, v, seed);
        Case::new(&[&[v, h]], seed).ids(vec![tokens]).check(|b, x| b.many(Op::Embed, &[x[1], x[0]]));
    }

    #[test]
    fn rms_norm(lead in prop::collection::vec(1..4usize, 0..3), h in 1..6usize, eps in 1e-6..1e-1f64, seed: u64) {
        let dims: Vec<usize> = lead.into_iter().chain([h]).collect();
        Case::new(&[&dims, &[h]], seed)
            .within(0.3, 1.5)
            .check(|b, x| b.many(Op::RmsNorm { eps: F64(eps) }, x));
    }

    #[test]
    fn layer_norm(lead in prop::collection::vec(1..4usize, 0..3), h in 2..6usize, eps in 1e-1..1.0f64, seed: u64) {
        let dims: Vec<usize> = lead.into_iter().chain([h]).collect();
        Case::new(&[&dims, &[h], &[h]], seed).check(|b, x| b.many(Op::LayerNorm { eps: F64(eps) }, x));
    }

    #[test]
    fn rope(b in 1..3usize, s in 1..4usize, n in 1..3usize, half in 1..3usize, rest in 0..3usize,
            interleaved: bool, inverse: bool, seed: u64) {
        let inv_freq: Vec<F64> = (0..half).map(|i| F64(0.7 / (i + 1) as f64)).collect();
        Case::new(&[&[b, s, n, 2 * half + rest]], seed).check(|b, x| {
            let table = TensorType::new(DType::F64, [s, half]);
            let op = Op::RopeTable { inv_freq: inv_freq.clone(), scale: F64(1.1) };
            let loc = b.loc.clone();
            let tables = b.func.push(op, &[], vec![table.clone(), table], &loc);
            b.many(Op::Rope { interleaved, inverse }, &[x[0], tables[0], tables[1]])
        });
    }

    #[test]
    fn attention(b in 1..3usize, s in 1..5usize, g in 1..3usize, per in 1..3usize, d in 1..4usize, e in 1..4usize,
                 causal: bool, alibi: bool, scale in 0.2..1.5f64, seed: u64) {
        Case::new(&[&[b, s, g * per, d], &[b, s, g, d], &[b, s, g, e]], seed)
            .check(|b, x| vec![b.many(Op::Attention { scale: F64(scale), causal, alibi }, x)[0]]);
    }

    #[test]
    fn cross_entropy_through_loss_and_log_sum_exp(lead in prop::collection::vec(1..4usize, 1..3), v in 2..6usize,
                                                  z_loss: bool, seed: u64) {
        let labels = ids(&lead, v, seed);
        let logits: Vec<usize> = lead.into_iter().chain([v]).collect();
        Case::new(&[&logits], seed).within(-3.0, 3.0).ids(vec![labels]).check(|b, x| {
            let mut outs = b.many(Op::CrossEntropy, x);
            if z_loss { outs[1] = b.unary(Unary::Square, outs[1]) } else { outs.truncate(1) }
            outs
        });
    }

    #[test]
    fn masked_mean_of_the_loss(s in 1..6usize, v in 2..6usize, mask in prop::collection::vec(0..2u8, 6), seed: u64) {
        let labels = ids(&[s], v, seed);
        let mask = Tensor::from_f64(&[s], &mask[..s].iter().map(|m| f64::from(*m)).collect::<Vec<_>>());
        Case::new(&[&[s, v]], seed).ids(vec![labels, mask]).check(|b, x| {
            let loss = b.many(Op::CrossEntropy, &[x[0], x[1]])[0];
            let kept = b.mul(loss, x[2]);
            let (sum, count) = (b.reduce(ReduceKind::Sum, kept, &[0]), b.reduce(ReduceKind::Sum, x[2], &[0]));
            let small = b.constant(1e-8, TensorType::scalar(DType::F64));
            let count = b.add(count, small);
            vec![b.binary(athanor_ir::Binary::Div, sum, count)]
        });
    }
}

/// forward(x, w) = Σ layer(layer(x, w), w)², with layer(x, w) = tanh(x·w) a function of its own.
#[test]
fn calls_are_inlined_and_a_weight_used_twice_gets_both_gradients() {
    let ty = TensorType::new(DType::F64, [2, 2]);
    let weight = Role::Weight { init: Init::Constant { value: 0.0 }, decay: true };
    let mut layer = Func::new("layer");
    let x = layer.param("x", ty.clone(), Role::Input, Loc::default());
    let w = layer.param("w", ty.clone(), weight.clone(), Loc::default());
    let mut b = Builder::new(&mut layer, Loc::default());
    let y = b.einsum("sh,kh->sk", x, w);
    let y = b.unary(Unary::Tanh, y);
    layer.result("y", y);
    // Returned twice and untouched: the copies of inlining.
    layer.result("again", y);
    layer.result("x", x);

    let mut forward = Func::new("forward");
    let x = forward.param("x", ty.clone(), weight.clone(), Loc::default());
    let w = forward.param("w", ty.clone(), weight.clone(), Loc::default());
    let unused = forward.param("unused", ty.clone(), weight, Loc::default());
    let _ = unused;
    let call =
        |f: &mut Func, x| f.push(Op::Call { callee: "layer".into() }, &[x, w], vec![ty.clone(); 3], &Loc::default());
    let first = call(&mut forward, x);
    let second = call(&mut forward, first[1]);
    let mut b = Builder::new(&mut forward, Loc::default());
    let y = b.mul(second[0], second[2]);
    let loss = b.reduce(ReduceKind::Sum, y, &[0, 1]);
    forward.result("loss", loss);

    let mut module = super::module(forward);
    module.funcs.push(layer);
    module.run.accumulation = 4;
    athanor_ir::verify::verify(&module).unwrap();
    let after = autodiff(&module).unwrap();
    athanor_ir::verify::verify(&after).unwrap();
    assert_eq!(after.funcs.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["micro"]);

    let mut args: HashMap<String, Tensor> = HashMap::new();
    args.insert("x".into(), Tensor::from_f64(&[2, 2], &[0.3, -0.2, 0.5, 0.1]));
    args.insert("unused".into(), Tensor::from_f64(&[2, 2], &[0.0; 4]));
    let w = [0.4, 0.7, -0.6, 0.2];
    let at = |args: &HashMap<String, Tensor>| interpret(&module, "forward", args).unwrap()["loss"].to_f64()[0];
    args.insert("w".into(), Tensor::from_f64(&[2, 2], &w));
    let grads = interpret(&after, "micro", &args).unwrap();
    assert_eq!(grads["grad.unused"].to_f64(), [0.0; 4]);
    for k in 0..4 {
        let mut side = |h: f64| {
            let mut moved = w;
            moved[k] += h;
            args.insert("w".into(), Tensor::from_f64(&[2, 2], &moved));
            at(&args)
        };
        // Four micro-batches in a step: each gives a quarter.
        let difference = (side(super::H) - side(-super::H)) / (2.0 * super::H) / 4.0;
        let grad = grads["grad.w"].to_f64()[k];
        assert!((grad - difference).abs() < super::TOLERANCE, "{grad} {difference}");
    }
}

/// What cannot be differentiated says so, naming the op and the block.
#[test]
fn a_second_derivative_is_refused() {
    let mut func = Func::new("forward");
    let weight = Role::Weight { init: Init::Constant { value: 0.0 }, decay: true };
    let x = func.param("x", TensorType::scalar(DType::F32), weight, Loc::default());
    let mut b = Builder::new(&mut func, Loc { block: "model.mlp".into(), ..Loc::default() });
    let y = b.unary(Unary::SiluGrad, x);
    func.result("loss", y);
    let e = autodiff(&super::module(func)).unwrap_err();
    assert_eq!(e.code.id, "P0103");
    assert!(e.message.contains("nn.silu_grad") && e.message.contains("model.mlp"), "{e}");
}
