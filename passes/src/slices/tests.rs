//! Slices of a small model: their sums are what the whole sequence gives, and what is none is refused.

use super::*;
use crate::registry;
use athanor_backends::cpu::reference::{Tensor, interpret};
use athanor_ir::module::{Axis, Mesh};
use athanor_ir::pipeline::{Kind, Pipeline};
use athanor_ir::run::RunSpec;
use athanor_ir::{Binary, Builder, DType, F64, Func, Init, Level, Loc, Op, ReduceKind, Role, TensorType, ValueId};
use std::collections::HashMap;

/// Makes another residual stream `[2, 8, 6]` of what the layer gives.
type Layer = fn(&mut Builder<'_>, ValueId) -> ValueId;

/// Makes the loss of the residual stream, the sum of the losses of counted tokens, and their number.
type Last = fn(&mut Builder<'_>, ValueId, [ValueId; 2]) -> ValueId;

/// A loss of the next token but one, by an attention of two groups of two heads with rotated queries.
fn module(slices: usize, causal: bool, layer: Layer, last: Last) -> Module {
    let mut f = Func::new("forward");
    let f64s = |dims: &[usize]| TensorType::new(DType::F64, dims);
    let weight = || Role::Weight { init: Init::Normal { std: 0.02 }, decay: true };
    let ids = || TensorType::new(DType::I32, [2, 8]);
    let [tokens, labels] = ["tokens", "labels"].map(|n| f.param(n, ids(), Role::Input, Loc::default()));
    let mask = f.param("loss_mask", f64s(&[2, 8]), Role::Input, Loc::default());
    let [table, gain, wq, wk, out] =
        [("table", &[10, 6][..]), ("gain", &[6]), ("wq", &[8, 6]), ("wk", &[4, 6]), ("out", &[6, 8])]
            .map(|(name, dims)| f.param(name, f64s(dims), weight(), Loc::default()));
    let rotation = Op::RopeTable { inv_freq: vec![F64(1.0)], scale: F64(1.0) };
    let tables = f.push(rotation, &[], vec![f64s(&[8, 1]); 2], &Loc::default());
    let mut b = Builder::new(&mut f, Loc { block: "model.layers.0.self_attn".into(), ..Loc::default() });
    let x = b.many(Op::Embed, &[tokens, table])[0];
    let y = b.many(Op::RmsNorm { eps: F64(1e-5) }, &[x, gain])[0];
    let [q, k] = [(wq, 4), (wk, 2)].map(|(w, heads)| {
        let y = b.einsum("bsh,kh->bsk", y, w);
        let y = b.reshape(y, &[2, 8, heads, 2]);
        b.many(Op::Rope { interleaved: false, inverse: false }, &[y, tables[0], tables[1]])[0]
    });
    let v = b.einsum("bsh,kh->bsk", x, wk);
    let v = b.reshape(v, &[2, 8, 2, 2]);
    let y = b.many(Op::Attention { scale: F64(0.5), causal, alibi: false }, &[q, k, v])[0];
    let y = b.reshape(y, &[2, 8, 8]);
    let y = b.einsum("bsk,hk->bsh", y, out);
    let y = b.add(x, y);
    let y = layer(&mut b, y);
    b.loc = Loc { block: "lm_head".into(), ..Loc::default() };
    let logits = b.einsum("bsh,vh->bsv", y, table);
    let rest = b.slice(labels, 1, 1, 7);
    let end = b.constant(0.0, TensorType::new(DType::I32, [2, 1]));
    let further = b.many(Op::Concat { dim: 1 }, &[rest, end])[0];
    let loss = b.many(Op::CrossEntropy, &[logits, further])[0];
    let loss = b.mul(loss, mask);
    let sum = b.reduce(ReduceKind::Sum, loss, &[0, 1]);
    let count = b.reduce(ReduceKind::Sum, mask, &[0, 1]);
    let loss = last(&mut b, y, [sum, count]);
    f.result("loss", loss);
    let pipeline = Pipeline { schedule: Kind::Seqpipe, layers: vec![vec![1, 0]], slices };
    let run = RunSpec { accumulation: 2, pipeline: Some(pipeline), ..RunSpec::for_tests() };
    let mesh = Mesh { axes: vec![Axis { name: "pp".into(), size: 2 }] };
    let module = Module { name: "slices".into(), level: Level::Model, mesh, run, funcs: vec![f] };
    registry::build("autodiff,optimizer").unwrap().iter().fold(module, |m, p| p.run(&m).unwrap())
}

const PLAIN: Layer = |_, x| x;
const MEAN: Last = |b, _, [sum, count]| b.binary(Binary::Div, sum, count);

/// The mean, and the square of the sum over all tokens of the residual stream.
const BALANCED: Last = |b, x, sums| {
    let mean = MEAN(b, x, sums);
    let sum = b.reduce(ReduceKind::Sum, x, &[0, 1]);
    let square = b.mul(sum, sum);
    let square = b.reduce(ReduceKind::Sum, square, &[0]);
    b.add(mean, square)
};

/// A value for each parameter of `micro`, the same for the same name and type; zeros for what is kept between calls.
fn arguments(m: &Module) -> HashMap<String, Tensor> {
    let f = m.func("micro").unwrap();
    let value = |p: &athanor_ir::Param| {
        let ty = f.ty(p.value).clone();
        let seed = p.name.bytes().fold(7usize, |s, b| s.wrapping_mul(31).wrapping_add(b.into()));
        let at = |i: usize| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 3) % 97;
        let data: Vec<f64> = (0..ty.elements())
            .map(|i| match p.role {
                Role::Grad => 0.0,
                // What nobody has written yet is read by nobody.
                Role::Cache => f64::NAN,
                _ if ty.dtype == DType::I32 => (at(i) % 10) as f64,
                _ if p.name == "loss_mask" => f64::from(u8::from(at(i) % 3 > 0)),
                _ => at(i) as f64 / 48.5 - 1.0,
            })
            .collect();
        (p.name.clone(), Tensor::new(ty, &data))
    };
    f.params.iter().map(value).collect()
}

#[test]
fn sums_over_slices_are_those_of_the_whole_sequence() {
    let whole = module(4, true, PLAIN, MEAN);
    let want = interpret(&whole, "micro", &arguments(&whole)).unwrap();
    for slices in [2, 4, 8] {
        let sliced = slice_sequences(&module(slices, true, PLAIN, MEAN)).unwrap_or_else(|e| panic!("{e}"));
        athanor_ir::verify::verify(&sliced).unwrap_or_else(|e| panic!("{e}"));
        let mut args = arguments(&sliced);
        let mut run = |slice: usize, back: bool| -> f64 {
            args.insert(FIRST.into(), Tensor::scalar(DType::I32, -((slice * 8 / slices) as f64)));
            let results = interpret(&sliced, "micro", &args).unwrap_or_else(|e| panic!("{e}"));
            let loss = results["loss"].to_f64()[0];
            // One function does both parts: of the first pass the gradients, of the second the keys are left out.
            let kept =
                results.into_iter().filter(|(name, _)| args.contains_key(name) && name.starts_with("grad.") == back);
            args.extend(kept.collect::<Vec<_>>());
            loss
        };
        let losses: Vec<f64> = (0..slices).map(|i| run(i, false)).collect();
        (0..slices).rev().for_each(|i| _ = run(i, true));
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-12 * b.abs().max(1.0);
        assert!(close(losses.iter().sum(), want["loss"].to_f64()[0]), "{slices}: {losses:?}");
        let gradients: Vec<&String> = want.keys().filter(|name| name.starts_with("grad.")).collect();
        assert_eq!(gradients.len(), 5);
        for name in gradients {
            let pairs = args[name].to_f64().into_iter().zip(want[name].to_f64());
            let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst < 1e-12, "{slices} slices: {name} is {worst:.1e} off");
        }
    }
}

#[test]
fn what_slices_share_is_keys_values_and_their_gradients() {
    let sliced = slice_sequences(&module(4, true, PLAIN, MEAN)).unwrap();
    let f = sliced.func("micro").unwrap();
    let caches: Vec<(&str, &[usize])> =
        f.params.iter().filter(|p| p.role == Role::Cache).map(|p| (p.name.as_str(), &f.ty(p.value).dims[..])).collect();
    let of = "model.layers.0.self_attn";
    let names = ["keys", "values", "grad.keys", "grad.values"].map(|what| format!("{what}.{of}"));
    assert_eq!(caches.iter().map(|c| c.0).collect::<Vec<_>>(), names);
    assert!(caches.iter().all(|c| c.1 == [2, 8, 2, 2] && f.find_result(c.0).is_some()), "{caches:?}");
    // Everything else has the tokens of a slice: no value of the width of the model has all of them.
    let wide = f.types.iter().filter(|t| t.dims == [2, 8, 6] || t.dims == [2, 8, 10]);
    assert_eq!(wide.count(), 0);
    assert!(slice_sequences(&sliced).unwrap_err().message.contains("already"));
}

#[test]
fn what_needs_the_whole_sequence_is_refused() {
    let refused = |m: &Module, says: &str| {
        let e = slice_sequences(m).unwrap_err();
        assert!(e.code == &CANNOT_SLICE && e.message.contains(says), "{e} should say {says:?}");
    };
    refused(&module(3, true, PLAIN, MEAN), "8 tokens cannot be cut in 3 equal slices");
    refused(&module(2, false, PLAIN, MEAN), "is not causal");
    // Every token depends on all of them.
    let mixed: Layer = |b, x| {
        let sum = b.reduce(ReduceKind::Sum, x, &[1]);
        let all = b.broadcast(sum, &[0, 2], &[2, 8, 6]);
        b.mul(x, all)
    };
    refused(&module(2, true, mixed, MEAN), "reads a sum over tokens of which a slice has a part");
    // Losses come in the order in which slices go back: there is no sum of those so far.
    refused(&module(2, true, PLAIN, |b, _, [sum, _]| b.mul(sum, sum)), "is more than a sum over tokens");
}

#[test]
fn other_functions_of_sums_count_in_the_last_slice() {
    let sliced = slice_sequences(&module(4, true, PLAIN, BALANCED)).unwrap_or_else(|e| panic!("{e}"));
    athanor_ir::verify::verify(&sliced).unwrap_or_else(|e| panic!("{e}"));
    let f = sliced.func("micro").unwrap();
    let sums: Vec<&str> = f.params.iter().map(|p| p.name.as_str()).filter(|n| n.starts_with("sums.")).collect();
    assert_eq!(sums, ["sums.lm_head"]);
    let mut args = arguments(&sliced);
    let mut run = |slice: usize| {
        args.insert(FIRST.into(), Tensor::scalar(DType::I32, -((slice * 2) as f64)));
        let results = interpret(&sliced, "micro", &args).unwrap_or_else(|e| panic!("{e}"));
        let loss = results["loss"].to_f64()[0];
        args.extend(results.into_iter().filter(|(name, _)| !name.starts_with("grad.") && name != "loss"));
        loss
    };
    let losses: f64 = (0..4).map(&mut run).sum();
    let whole = module(1, true, PLAIN, BALANCED);
    let want = interpret(&whole, "micro", &arguments(&whole)).unwrap()["loss"].to_f64()[0];
    assert!((losses - want).abs() < 1e-12 * want, "{losses} is not {want}");
}

/// Slices go back in reverse order: what looks at earlier ones is before the turn, and what all have left is read behind it.
#[test]
fn stages_read_what_slices_share_behind_the_turn() {
    let sliced = slice_sequences(&module(4, true, PLAIN, BALANCED)).unwrap();
    let cut = registry::build("partition,split-stages").unwrap().iter().fold(sliced, |m, p| p.run(&m).unwrap());
    for (name, shared) in [("stage0.micro0", "attention_grad"), ("stage1.micro0", "mul")] {
        let f = cut.func(name).unwrap();
        let at = |wanted: &str| f.nodes.iter().position(|n| n.op.name() == wanted).unwrap_or(usize::MAX);
        let turn = at("handover");
        let awaits: Vec<usize> = (0..f.nodes.len()).filter(|i| f.nodes[*i].op == Op::Await).collect();
        assert!(awaits.iter().all(|i| *i > turn && f.nodes[turn].outputs.contains(&f.nodes[*i].inputs[1])), "{name}");
        let reads =
            |i: &usize| f.nodes.iter().any(|n| n.op.name() == shared && n.inputs.contains(&f.nodes[*i].outputs[0]));
        assert!(awaits.iter().any(reads), "{name}: {awaits:?}");
        // Sums and keys so far are made before, logits after.
        assert!(["keep_slice", "sum_slices"].map(at).iter().any(|i| *i < turn), "{name}");
        assert!(at("cross_entropy") > turn);
    }
}
