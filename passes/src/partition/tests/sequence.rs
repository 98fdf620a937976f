//! Sequences in parts: where parts are cut, summed and brought together, and that the check finds what is missing.

use super::*;
use athanor_ir::run::Joined;
use athanor_ir::{CollectiveKind, F64};

const TOKENS: usize = 6;

/// A decoder of one layer, of width 8 with two heads and an inner width of 10, with a vocabulary of 12, for sequences of
/// [`TOKENS`] tokens.
fn decoder(mesh: Mesh, how: Joined, vocabulary: bool) -> Module {
    decoder_of(TOKENS, mesh, how, vocabulary)
}

fn decoder_of(length: usize, mesh: Mesh, how: Joined, vocabulary: bool) -> Module {
    let mut f = Func::new("forward");
    let f32s = |dims: &[usize]| TensorType::new(DType::F32, dims);
    let weight = || Role::Weight { init: Init::Normal { std: 0.02 }, decay: true };
    let ids = TensorType::new(DType::I32, [4, length]);
    let [tokens, labels] = ["tokens", "labels"].map(|n| f.param(n, ids.clone(), Role::Input, Loc::default()));
    let mut param = |name: &str, dims: &[usize]| f.param(name, f32s(dims), weight(), Loc::default());
    let table = param("table", &[12, 8]);
    let gains = ["gain.0", "gain.1", "gain.2"].map(|n| param(n, &[8]));
    let [q, k, v, o] = ["q", "k", "v", "o"].map(|n| param(n, &[8, 8]));
    let (up, down, head) = (param("up", &[10, 8]), param("down", &[8, 10]), param("head", &[12, 8]));
    let mut b = Builder::new(&mut f, Loc::default());
    let norm = |b: &mut Builder<'_>, x, gain| b.many(Op::RmsNorm { eps: F64(1e-5) }, &[x, gain])[0];
    let x = b.many(Op::Embed, &[tokens, table])[0];
    let y = norm(&mut b, x, gains[0]);
    let heads = |b: &mut Builder<'_>, w| {
        let y = b.einsum("bsh,kh->bsk", y, w);
        b.reshape(y, &[4, length, 2, 4])
    };
    let [q, k, v] = [q, k, v].map(|w| heads(&mut b, w));
    let a = b.many(Op::Attention { scale: F64(0.5), causal: true, alibi: false }, &[q, k, v])[0];
    let a = b.reshape(a, &[4, length, 8]);
    let a = b.einsum("bsk,hk->bsh", a, o);
    let x = b.add(x, a);
    let y = norm(&mut b, x, gains[1]);
    let y = b.einsum("bsh,kh->bsk", y, up);
    let y = b.unary(Unary::Silu, y);
    let y = b.einsum("bsk,hk->bsh", y, down);
    let x = b.add(x, y);
    let x = norm(&mut b, x, gains[2]);
    let logits = b.einsum("bsh,vh->bsv", x, head);
    let loss = b.many(Op::CrossEntropy, &[logits, labels])[0];
    let loss = b.reduce(ReduceKind::Sum, loss, &[0, 1]);
    f.result("loss", loss);
    let run = RunSpec {
        max_grad_norm: Some(1.0),
        accumulation: 2,
        cut_sequence: Some(how),
        cut_vocabulary: vocabulary,
        ..RunSpec::for_tests()
    };
    let module = Module { name: "decoder".into(), level: Level::Model, mesh, run, funcs: vec![f] };
    registry::build("autodiff,optimizer").unwrap().iter().fold(module, |m, p| p.run(&m).unwrap())
}

fn cut_decoder(axes: &[(&str, usize)], how: Joined, vocabulary: bool) -> Module {
    let m = partition(&decoder(mesh(axes), how, vocabulary)).unwrap_or_else(|e| panic!("{e}"));
    athanor_ir::verify::verify(&m).unwrap_or_else(|e| panic!("{e}"));
    m
}

/// Number of collective operations of `micro` by name, on values with a sequence.
fn count(m: &Module, name: &str) -> usize {
    let micro = m.func("micro").unwrap();
    micro.nodes.iter().filter(|n| n.op.name() == name && micro.ty(n.inputs[0]).rank() > 1).count()
}

#[test]
fn between_products_ranks_have_parts_of_sequences() {
    let m = cut_decoder(&[("tp", 2)], Joined::Again, false);
    let micro = m.func("micro").unwrap();
    let of = |op: fn(&Op) -> bool| micro.nodes.iter().filter(move |n| op(&n.op));
    for n in of(|op| matches!(op, Op::RmsNorm { .. } | Op::RmsNormGrad { .. } | Op::Embed | Op::CrossEntropy)) {
        assert_eq!(micro.ty(n.outputs[0]).dims[1], TOKENS / 2, "{}", n.op.name());
    }
    for n in of(|op| matches!(op, Op::Attention { .. } | Op::Unary(Unary::Silu))) {
        assert_eq!(micro.ty(n.outputs[0]).dims[1], TOKENS, "{}", n.op.name());
    }
    // Behind attention and the inner layer, and what comes back through the norms in front of them.
    assert_eq!((count(&m, "reduce_scatter"), count(&m, "all_reduce")), (4, 0));
    // In front of attention and the inner layer; gradients of both, and again what they had read.
    assert_eq!(count(&m, "all_gather"), 2 + 2 + 2);
    assert_eq!(count(&m, "own_part"), 2, "tokens and labels");
    // Sums over tokens are summed over ranks when the step is taken.
    for (name, partial) in [("gain.0", "tp"), ("table", "tp"), ("head", "tp"), ("up", "")] {
        assert!(spread(&m, "update", &format!("grad.{name}")).1.ends_with(&format!("] {partial}")), "{name}");
    }
}

#[test]
fn joined_sequences_may_be_kept() {
    let m = cut_decoder(&[("tp", 2)], Joined::Kept, false);
    assert_eq!((count(&m, "reduce_scatter"), count(&m, "all_gather")), (4, 2 + 2));
}

/// Each part of a vocabulary reads all tokens.
#[test]
fn a_vocabulary_in_parts_joins_sequences() {
    let m = cut_decoder(&[("tp", 2)], Joined::Again, true);
    assert_eq!(spread(&m, "micro", "head"), (vec![6, 8], "[tp ] ".into()));
    // More than without: rows of the table, and the gradient of what the head reads.
    assert_eq!(count(&m, "reduce_scatter"), 4 + 2);
    // What the head reads, which stays there for its gradient, and the gradient of rows.
    assert_eq!(count(&m, "all_gather"), 6 + 2);
    assert_eq!(spread(&m, "update", "grad.table"), (vec![6, 8], "[tp ] ".into()));
}

#[test]
fn one_rank_or_no_wish_cuts_no_sequence() {
    let m = cut_decoder(&[("dp", 2)], Joined::Again, false);
    assert_eq!((count(&m, "own_part"), count(&m, "all_gather")), (0, 0));
    let mut plain = decoder(mesh(&[("tp", 2)]), Joined::Again, false);
    plain.run.cut_sequence = None;
    let m = partition(&plain).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((count(&m, "own_part"), count(&m, "all_gather"), count(&m, "all_reduce")), (0, 0, 4));
}

#[test]
fn a_sequence_that_is_not_divided_stays_whole() {
    let m = partition(&decoder_of(5, mesh(&[("tp", 2)]), Joined::Again, false)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((count(&m, "own_part"), count(&m, "all_gather"), count(&m, "all_reduce")), (0, 0, 4));
}

fn over_another_dim(f: &mut Func, n: usize) {
    if let Op::Collective(c) = &mut f.nodes[n].op {
        c.kind = match c.kind {
            CollectiveKind::AllGather { dim } => CollectiveKind::AllGather { dim: usize::from(dim == 0) },
            CollectiveKind::ReduceScatter { dim } => CollectiveKind::ReduceScatter { dim: usize::from(dim == 0) },
            CollectiveKind::OwnPart { dim } => CollectiveKind::OwnPart { dim: usize::from(dim == 0) },
            other => other,
        };
    }
}

#[test]
fn everything_ranks_do_with_parts_is_needed_and_done_once() {
    for (how, vocabulary) in [(Joined::Again, false), (Joined::Kept, true)] {
        let m = cut_decoder(&[("dp", 2), ("tp", 2)], how, vocabulary);
        let mut changed = 0;
        for (f, func) in m.funcs.iter().enumerate() {
            for n in (0..func.nodes.len()).filter(|n| matches!(func.nodes[*n].op, Op::Collective(_))) {
                let Op::Collective(c) = &func.nodes[n].op else { continue };
                let mut ways: Vec<Mutation> = vec![("left out", bypass), ("over another axis", over_another_axis)];
                if c.moved().next().is_some() {
                    ways.extend([("twice", repeat as fn(&mut Func, usize)), ("over another dim", over_another_dim)]);
                }
                for (what, change) in ways {
                    let e = check(&mutated(&m, f, n, change));
                    assert!(e.is_err_and(|e| e.code == &PARTIAL), "{} {n} of @{} {what}", c.name(), func.name);
                    changed += 1;
                }
            }
        }
        assert!(changed >= 4 * 12, "{changed}");
    }
}

/// A table of positions belongs to the tokens that it was cut for.
#[test]
fn a_part_of_a_sequence_is_rotated_by_its_own_positions() {
    let mut f = Func::new("forward");
    let f32s = |dims: &[usize]| TensorType::new(DType::F32, dims);
    let weight = || Role::Weight { init: Init::Normal { std: 0.02 }, decay: true };
    let x = f.param("x", f32s(&[2, 4, 6]), Role::Input, Loc::default());
    let [up, down, key] = [("up", &[10, 6][..]), ("down", &[6, 10]), ("key", &[4, 6])]
        .map(|(name, dims)| f.param(name, f32s(dims), weight(), Loc::default()));
    let mut b = Builder::new(&mut f, Loc::default());
    let y = b.einsum("bsh,kh->bsk", x, up);
    let y = b.einsum("bsk,hk->bsh", y, down);
    let k = b.einsum("bsh,kh->bsk", y, key);
    let k = b.unary(Unary::Tanh, k);
    let k = b.reshape(k, &[2, 4, 1, 4]);
    let table = Op::RopeTable { inv_freq: vec![F64(1.0), F64(0.01)], scale: F64(1.0) };
    let tables = b.func.push(table, &[], vec![f32s(&[4, 2]); 2], &Loc::default());
    let k = b.many(Op::Rope { interleaved: false, inverse: false }, &[k, tables[0], tables[1]])[0];
    let loss = b.reduce(ReduceKind::Sum, k, &[0, 1, 2, 3]);
    f.result("loss", loss);
    let run = RunSpec { cut_sequence: Some(Joined::Again), ..RunSpec::for_tests() };
    let m = Module { name: "rope".into(), level: Level::Model, mesh: mesh(&[("tp", 2)]), run, funcs: vec![f] };
    let m = partition(&m).unwrap_or_else(|e| panic!("{e}"));
    athanor_ir::verify::verify(&m).unwrap_or_else(|e| panic!("{e}"));
    let own: Vec<usize> =
        (0..m.funcs[0].nodes.len()).filter(|n| m.funcs[0].nodes[*n].op.name() == "own_part").collect();
    assert_eq!(own.len(), 2, "cosines and sines");
    for n in own {
        assert!(check(&mutated(&m, 0, n, bypass)).is_err_and(|e| e.message.contains("two ways")));
    }
}
