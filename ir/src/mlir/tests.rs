//! Round trips of every op, of random functions and of strange texts; errors with their places.

use super::*;
use crate::func::{Func, Init, Loc, Node, Role, ValueId};
use crate::module::{Axis, Level, Mesh};
use crate::op::{F64, Op};
use crate::types::{DType, TensorType};
use crate::verify::INVALID_IR;
use proptest::prelude::*;

fn module(funcs: Vec<Func>) -> Module {
    Module { name: "m".into(), level: Level::Train, mesh: Mesh::default(), run: bare_run(), funcs }
}

fn round_trip(context: &Context, module: &Module) -> Module {
    let emitted = context.emit(module).unwrap();
    let text = emitted.print();
    assert_eq!(&emitted.decode().unwrap(), module, "without text");
    let parsed = context.parse("dump.mlir", &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(parsed.print(), text);
    parsed.decode().unwrap()
}

fn loc(block: &str, file: &str, line: u32, col: u32) -> Loc {
    Loc { block: block.into(), file: file.into(), line, col }
}

/// A function whose nodes are `ops`, each with as many operands and results as the dialect wants; types are arbitrary,
/// for the verifier of types is not asked here.
fn arbitrary_func(name: &str, ops: &[(Op, Loc, u8)], types: &[TensorType]) -> Func {
    let mut f = Func::new(name);
    let pick = |i: usize| types[i % types.len()].clone();
    let init = |i: usize| match i % 3 {
        0 => Role::Weight { init: Init::Normal { std: 0.02 }, decay: true },
        1 => Role::Weight { init: Init::Constant { value: -0.0 }, decay: false },
        _ => Role::Input,
    };
    for (i, _) in types.iter().enumerate() {
        f.param(format!("p{i}"), pick(i), init(i), loc("", "x.yaml", i as u32, 1));
    }
    f.param("m", pick(0), Role::Moment, Loc::default());
    f.param("g", pick(1), Role::Grad, Loc::default());
    f.param("handed.0", pick(1), Role::Handed, Loc::default());
    f.param("keys", pick(1), Role::Cache, Loc::default());
    let bias = Role::ExpertBias { load: "expert_load.x".into(), rate: 1e-3 };
    f.param("b", pick(0), bias, Loc::default());
    for (i, (op, loc, seed)) in ops.iter().enumerate() {
        let seed = usize::from(*seed);
        let (fewest, most) = table::operands(op);
        let n = fewest + seed % (most.unwrap_or(fewest + 3) - fewest + 1);
        let inputs: Vec<ValueId> = (0..n).map(|k| ValueId(((seed + 7 * k) % f.types.len()) as u32)).collect();
        let outs = table::results(op).unwrap_or(seed % 4);
        f.push(op.clone(), &inputs, (0..outs).map(|k| pick(i + k + seed)).collect(), loc);
    }
    let last = f.types.len() as u32 - 1;
    f.result("first", ValueId(0));
    f.result("last \"quoted\" ✓", ValueId(last));
    f
}

fn types() -> Vec<TensorType> {
    let f = |dtype, dims: &[usize]| TensorType::new(dtype, dims);
    vec![
        f(DType::F32, &[2, 3]),
        f(DType::BF16, &[]),
        f(DType::F64, &[7]),
        f(DType::F16, &[1, 0, 5]),
        f(DType::I32, &[4, 4]),
        f(DType::F32, &[2, 3]),
    ]
}

#[test]
fn every_op_makes_the_trip() {
    let context = Context::new();
    let ops = table::samples().into_iter().filter(|op| !matches!(op, Op::Call { .. }));
    for op in ops {
        for seed in 0..6 {
            let place = loc("model.layers.0", "dir/x.yaml", 12, 3);
            let m = module(vec![arbitrary_func("f", &[(op.clone(), place, seed)], &types())]);
            assert_eq!(round_trip(&context, &m), m, "{op:?}");
        }
    }
}

#[test]
fn calls_name_functions() {
    let context = Context::new();
    let mut g = Func::new("g with blanks");
    let x = g.param("x", TensorType::scalar(DType::F32), Role::Input, Loc::default());
    g.result("x", x);
    let mut f = Func::new("f");
    let x = f.param("x", TensorType::scalar(DType::F32), Role::Input, Loc::default());
    let call = Op::Call { callee: "g with blanks".into() };
    let y = f.push(call, &[x], vec![TensorType::scalar(DType::F32)], &Loc::default());
    f.result("y", y[0]);
    let m = module(vec![f, g]);
    assert_eq!(round_trip(&context, &m), m);
    crate::verify::verify(&m).unwrap();
    let mut broken = m.clone();
    broken.funcs.pop();
    let e = context.emit(&broken).unwrap().verify().unwrap_err();
    assert_eq!(e.code, &REFUSED);
    assert!(e.message.contains("g with blanks"), "{e}");
}

#[test]
fn floats_keep_their_bits() {
    let context = Context::new();
    let bits = [0, 1 << 63, 1, 0x7ff0_0000_0000_0000, 0xfff0_0000_0000_0000, 0x7ff8_0000_0000_0000];
    let bits = bits.into_iter().chain([0x7ff0_0000_0000_0001, 0xffff_ffff_ffff_ffff, 0.1_f64.to_bits(), u64::MAX / 3]);
    let ops: Vec<_> = bits
        .map(|b| F64(f64::from_bits(b)))
        .flat_map(|v| [Op::Constant { value: v }, Op::RopeTable { inv_freq: vec![v, v], scale: v }])
        .map(|op| (op, Loc::default(), 0))
        .collect();
    let m = module(vec![arbitrary_func("f", &ops, &types())]);
    assert_eq!(round_trip(&context, &m), m);
}

#[test]
fn attributes_of_the_module_make_the_trip() {
    let context = Context::new();
    let mut m = module(vec![]);
    m.name = "tabs\tand \"quotes\" and ünïcode \\ \n".into();
    m.level = Level::Kernel;
    let axis = |name: &str, size| Axis { name: name.into(), size };
    m.mesh.axes = vec![axis("tp", 4), axis("dp", 2)];
    m.run.seed = u64::MAX;
    m.run.max_grad_norm = Some(1.0);
    m.run.flops_per_sequence = 1e300;
    m.run.data = Some(serde_json::json!({"a b": [1, 2.5, -3, null, true, {"x": {}}], "unit": null, "i": i64::MIN}));
    m.run.hf_config = serde_json::json!({"": "an empty key", "json": "x", "deep": [[[]]]});
    assert_eq!(round_trip(&context, &m), m);
    m.run.hf_config = serde_json::json!({"json": "{"});
    assert_eq!(round_trip(&context, &m), m);
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z.]{0,12}", any::<String>(), "[\"\\\\\\n\\x00 @#]{0,6}"]
}

fn any_loc() -> impl Strategy<Value = Loc> {
    let texts = (any_text(), any_text());
    (texts, 0..1_000_000_u32, 0..4_000_u32).prop_map(|((block, file), line, col)| {
        if file.is_empty() { loc(&block, "", 0, 0) } else { loc(&block, &file, line, col) }
    })
}

/// A sample op with its attributes drawn anew.
fn any_op() -> impl Strategy<Value = Op> {
    let floats = proptest::collection::vec(any::<u64>().prop_map(|b| F64(f64::from_bits(b))), 4);
    let ints = proptest::collection::vec(0..usize::MAX / 2, 0..5);
    let samples: Vec<Op> = table::samples().into_iter().filter(|o| !matches!(o, Op::Call { .. })).collect();
    (proptest::sample::select(samples), floats, ints, any_text(), any::<[bool; 2]>()).prop_map(|(op, f, v, t, b)| {
        let int = v.first().copied().unwrap_or(3);
        match op {
            Op::Constant { .. } => Op::Constant { value: f[0] },
            Op::Transpose { .. } => Op::Transpose { perm: v },
            Op::Broadcast { .. } => Op::Broadcast { dims: v },
            Op::Slice { .. } => Op::Slice { dim: int, start: v.len(), len: int / 2 },
            Op::Concat { .. } => Op::Concat { dim: int },
            Op::Reduce { kind, .. } => {
                Op::Reduce { kind: if b[0] { kind } else { crate::op::ReduceKind::Max }, dims: v }
            }
            Op::Einsum { .. } => Op::Einsum { spec: t },
            Op::EmbedGrad { .. } => Op::EmbedGrad { vocab: int },
            Op::Route { mask, .. } => Op::Route {
                k: int,
                groups: v.len(),
                group_k: int / 3,
                group_top: int / 2,
                mask: if b[0] { mask } else { crate::op::RouteMask::NegInf },
            },
            Op::PickGrad { .. } => Op::PickGrad { n: int },
            Op::Histogram { .. } => Op::Histogram { bins: int },
            Op::Assign { .. } => Op::Assign { experts: int, capacity: v.len() },
            Op::Dispatch { .. } => Op::Dispatch { rows: int },
            Op::GroupedEinsum { .. } => Op::GroupedEinsum { spec: t },
            Op::RmsNorm { .. } => Op::RmsNorm { eps: f[0] },
            Op::RmsNormGrad { .. } => Op::RmsNormGrad { eps: f[0] },
            Op::LayerNorm { .. } => Op::LayerNorm { eps: f[0] },
            Op::LayerNormGrad { .. } => Op::LayerNormGrad { eps: f[0] },
            Op::RopeTable { .. } => Op::RopeTable { inv_freq: f[..v.len().min(4)].to_vec(), scale: f[0] },
            Op::Rope { .. } => Op::Rope { interleaved: b[0], inverse: b[1] },
            Op::Attention { .. } => Op::Attention { scale: f[0], causal: b[0], alibi: b[1] },
            Op::AttentionGrad { .. } => Op::AttentionGrad { scale: f[0], causal: b[0], alibi: b[1] },
            Op::AdamW { .. } => Op::AdamW { beta1: f[0], beta2: f[1], eps: f[2], decay: f[3] },
            other => other,
        }
    })
}

fn any_type() -> impl Strategy<Value = TensorType> {
    let dtype = proptest::sample::select(emit::DTYPES.to_vec());
    (dtype, proptest::collection::vec(0..9_usize, 0..4)).prop_map(|(d, dims)| TensorType::new(d, dims))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_function_makes_the_trip(
        ops in proptest::collection::vec((any_op(), any_loc(), any::<u8>()), 0..12),
        types in proptest::collection::vec(any_type(), 2..6),
    ) {
        let context = Context::new();
        let m = module(vec![arbitrary_func("f", &ops, &types), arbitrary_func("g", &ops, &types)]);
        prop_assert_eq!(round_trip(&context, &m), m);
    }

    #[test]
    fn no_text_makes_the_reader_panic(
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), 0..30_usize, any_text()), 0..3),
        copies in proptest::collection::vec(any::<[prop::sample::Index; 2]>(), 0..4),
        odd in proptest::sample::select(ODD.to_vec()),
    ) {
        let context = Context::new();
        let mut text = every_op_as_text(&context);
        for (at, len, with) in cuts {
            let from = text.floor_char_boundary(at.index(text.len()));
            let to = text.floor_char_boundary((from + len).min(text.len()));
            text.replace_range(from..to, &with);
        }
        // Tokens in the place of others read as MLIR more often than cuts do.
        let mut tokens = tokens(&text);
        for [from, to] in copies {
            let source = from.index(tokens.len() + 1);
            let token = tokens.get(source).copied().unwrap_or(odd);
            let to = to.index(tokens.len());
            tokens[to] = token;
        }
        if let Ok(parsed) = context.parse("x", &tokens.concat())
            && let Ok(m) = parsed.decode()
        {
            let _ = parsed.verify();
            prop_assert_eq!(&context.emit(&m).unwrap().decode().unwrap(), &m);
        }
    }
}

/// Tokens that a text of ours does not hold.
const ODD: &[&str] =
    &["-1", "9223372036854775807", "18446744073709551615", "?", "*", "i64", "i1", "index", "tuple", "@f", "0xFFF", "-"];

fn every_op_as_text(context: &Context) -> String {
    let ops = table::samples().into_iter().filter(|op| !matches!(op, Op::Call { .. }));
    let ops: Vec<_> = ops.map(|op| (op, loc("b", "f", 1, 2), 5)).collect();
    context.emit(&module(vec![arbitrary_func("f", &ops, &types())])).unwrap().print()
}

/// Words and single other characters.
fn tokens(text: &str) -> Vec<&str> {
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == '%' || c == '.';
    text.split_inclusive(|c| !word(c))
        .flat_map(|part| {
            let last = part.chars().next_back().filter(|c| !word(*c)).map_or(0, char::len_utf8);
            let (before, after) = part.split_at(part.len() - last);
            [before, after]
        })
        .filter(|t| !t.is_empty())
        .collect()
}

#[allow(clippy::unnecessary_box_returns, reason = "errors come in a box")]
fn error(text: &str) -> Box<Diagnostic> {
    let context = Context::new();
    match context.parse("t.mlir", text) {
        Err(e) => e,
        Ok(m) => m.verify().unwrap_err(),
    }
}

/// Line and column of the mark.
fn place(e: &Diagnostic) -> Option<(u32, u32)> {
    let source = e.source.as_ref()?;
    Some(crate::diag::line_col(&source.text, e.labels.first()?.range.start))
}

#[test]
fn errors_say_where() {
    let e = error("module {\n  func.func @f() {\n    \"nn.foo\"() : () -> ()\n    return\n  }\n}\n");
    assert_eq!(e.code, &BAD_TEXT);
    assert!(e.message.contains("nn.foo") && place(&e) == Some((3, 5)), "{e}");
    let e = error("module {\n  oh\n}\n");
    assert!(e.code == &BAD_TEXT && place(&e) == Some((2, 3)), "{e}");
    let e = error(
        "func.func @f(%a: tensor<2xf32>) {\n  %b = \"nn.cast\"(%a) {x = 1} : (tensor<2xf32>) -> tensor<2xf16>\n  return\n}",
    );
    assert!(e.code == &NOT_NN && e.message.contains("\"x\"") && place(&e) == Some((2, 8)), "{e}");
    let e = error("func.func @f(%a: tensor<?xf32>) {\n  return\n}");
    assert!(e.code == &NOT_NN && e.message.contains("static") && place(&e) == Some((1, 14)), "{e}");
    let e = error("func.func @f(%a: tensor<2xf32> {nn.role = \"boss\"}) {\n  return\n}");
    assert!(e.code == &NOT_NN && e.message.contains("boss"), "{e}");
    let e = error("module attributes {nn.run = {sed = 1}} {}");
    assert!(e.code == &NOT_NN && e.message.contains("unknown field `sed`"), "{e}");
    let e = error("func.func @f(%a: tensor<4611686018427387904x4611686018427387904xf32>) {\n  return\n}");
    assert!(e.code == &NOT_NN && e.message.contains("larger than"), "{e}");
    let e = error("func.func @f() {\n %a = \"nn.constant\"() {value = 1 : i64} : () -> tensor<f32>\n  return\n}");
    assert!(e.code == &BAD_TEXT && e.message.contains("builtin.float"), "{e}");
    let e = error("func.func @f() {\n %a = \"nn.constant\"() {value = 1.0 : f32} : () -> tensor<f32>\n  return\n}");
    assert!(e.code == &NOT_NN && e.message.contains("\"value\" of nn.constant is not an f64"), "{e}");
    let e = error(
        "func.func @f(%a: tensor<2xf32>) -> tensor<2xf32> {\n %b = \"nn.slice\"(%a) {dim = 0, start = 1, len = 2} : (tensor<2xf32>) -> tensor<2xf32>\n  return %b : tensor<2xf32>\n}",
    );
    assert_eq!(e.code, &INVALID_IR);
    assert_eq!(error(&"(".repeat(100_000)).code, &TOO_DEEP);
    assert_eq!(error("module {}\0").code, &BAD_TEXT);
}

#[test]
fn what_a_hand_leaves_out_has_a_default() {
    let context = Context::new();
    let text = "func.func @f(%a: tensor<2xf32>) -> tensor<2xf32> {\n  return %a : tensor<2xf32>\n}";
    let m = context.parse("t.mlir", text).unwrap().verify().unwrap();
    let f = &m.funcs[0];
    assert_eq!((f.params[0].name.as_str(), f.results[0].name.as_str()), ("arg0", "result0"));
    assert_eq!(f.params[0].role, Role::Input);
    assert_eq!(f.params[0].loc, loc("", "t.mlir", 1, 14));
    assert_eq!(m.run, bare_run());
}

#[test]
fn a_module_that_cannot_be_emitted_is_an_error_and_the_old_one_stays() {
    let context = Context::new();
    let mut f = Func::new("f");
    let node = Node { op: Op::Cast, inputs: vec![ValueId(3)], outputs: vec![], loc: Loc::default() };
    f.nodes.push(node);
    assert_eq!(context.emit(&module(vec![f.clone()])).unwrap_err().code, &INVALID_IR);
    let old = module(vec![Func::new("old")]);
    let emitted = context.emit(&old).unwrap();
    let e = emit::emit_into(Cx::new(&context.inner), emitted.root(), &module(vec![Func::new("new"), f]));
    assert!(e.is_err());
    assert_eq!(emitted.decode().unwrap(), old);
}

/// Not a test of speed but its measurement: `cargo test --release -p athanor-ir --features mlir speed -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn speed_of_a_trip() {
    let context = Context::new();
    let mut f = Func::new("f");
    let x = f.param("x", TensorType::new(DType::F32, [64, 64]), Role::Input, Loc::default());
    let w = f.param("w", TensorType::new(DType::F32, [64, 64]), Role::Input, Loc::default());
    let gain = f.param("gain", TensorType::new(DType::F32, [64]), Role::Input, Loc::default());
    let mut b = crate::Builder::new(&mut f, Loc::default());
    let mut v = x;
    for i in 0..25_000_u32 {
        b.loc = loc(&format!("model.layers.{}.mlp", i / 100), "x.yaml", i / 1000, 3);
        v = b.einsum("ab,cb->ac", v, w);
        v = b.add(v, x);
        v = b.many(Op::Slice { dim: 0, start: 0, len: 64 }, &[v])[0];
        v = b.many(Op::RmsNorm { eps: F64(f64::from(i)) }, &[v, gain])[0];
    }
    f.result("v", v);
    let m = module(vec![f]);
    let time = |what: &str, work: &mut dyn FnMut()| {
        let mut ms: Vec<f64> = (0..7)
            .map(|_| {
                let t = std::time::Instant::now();
                work();
                t.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        ms.sort_by(f64::total_cmp);
        println!("{what}: median {:.1} ms (best {:.1})", ms[3], ms[0]);
    };
    time("emit", &mut || drop(context.emit(&m).unwrap()));
    let e = context.emit(&m).unwrap();
    time("decode", &mut || drop(e.decode().unwrap()));
    time("verify in MLIR", &mut || assert!(e.inner.as_operation().verify()));
    time("verify ours", &mut || crate::verify::verify(&m).unwrap());
    let text = e.print();
    println!("{} ops, {} MB of text", m.funcs[0].nodes.len(), text.len() >> 20);
    time("print", &mut || drop(e.print()));
    time("parse", &mut || drop(context.parse("x", &text).unwrap()));
}
