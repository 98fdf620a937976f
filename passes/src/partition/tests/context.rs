//! Sequences in parts: what ranks gather and exchange, and that the check finds what is missing, twice, or in another order.

use super::*;
use athanor_ir::{F64, Shared, Sharing};

/// The loss of the next token but one of tokens `[2, 8]`, by an attention of four heads of width 2 with rotated queries.
pub(super) fn attention(mesh: Mesh, accumulation: usize) -> Module {
    let mut f = Func::new("forward");
    let f32s = |dims: &[usize]| TensorType::new(DType::F32, dims);
    let weight = || Role::Weight { init: Init::Normal { std: 0.02 }, decay: true };
    let [tokens, labels] =
        ["tokens", "labels"].map(|n| f.param(n, TensorType::new(DType::I32, [2, 8]), Role::Input, Loc::default()));
    let [table, gain, heads, out] = [("table", &[10, 6][..]), ("gain", &[6]), ("heads", &[8, 6]), ("out", &[6, 8])]
        .map(|(name, dims)| f.param(name, f32s(dims), weight(), Loc::default()));
    let rotation = Op::RopeTable { inv_freq: vec![F64(1.0)], scale: F64(1.0) };
    let tables = f.push(rotation, &[], vec![f32s(&[8, 1]); 2], &Loc::default());
    let mut b = Builder::new(&mut f, Loc::default());
    let x = b.many(Op::Embed, &[tokens, table])[0];
    let y = b.many(Op::RmsNorm { eps: F64(1e-5) }, &[x, gain])[0];
    let k = b.einsum("bsh,kh->bsk", y, heads);
    let k = b.reshape(k, &[2, 8, 4, 2]);
    let q = b.many(Op::Rope { interleaved: false, inverse: false }, &[k, tables[0], tables[1]])[0];
    let op = Op::Attention { scale: F64(0.5), causal: true, alibi: false };
    let y = b.many(op, &[q, k, k])[0];
    let y = b.reshape(y, &[2, 8, 8]);
    let y = b.einsum("bsk,hk->bsh", y, out);
    let y = b.add(x, y);
    let logits = b.einsum("bsh,vh->bsv", y, table);
    let rest = b.slice(labels, 1, 1, 7);
    let end = b.constant(0.0, TensorType::new(DType::I32, [2, 1]));
    let further = b.many(Op::Concat { dim: 1 }, &[rest, end])[0];
    let loss = b.many(Op::CrossEntropy, &[logits, further])[0];
    let loss = b.reduce(ReduceKind::Sum, loss, &[0, 1]);
    f.result("loss", loss);
    let run = RunSpec { max_grad_norm: Some(1.0), accumulation, ..RunSpec::for_tests() };
    let module = Module { name: "sequences".into(), level: Level::Model, mesh, run, funcs: vec![f] };
    registry::build("autodiff,optimizer").unwrap().iter().fold(module, |m, p| p.run(&m).unwrap())
}

fn cut(axes: &[(&str, usize)], accumulation: usize) -> Module {
    let cut = partition(&attention(mesh(axes), accumulation)).unwrap_or_else(|e| panic!("{e}"));
    athanor_ir::verify::verify(&cut).unwrap_or_else(|e| panic!("{e}"));
    cut
}

pub(super) fn count(m: &Module, name: &str) -> usize {
    m.func("micro").unwrap().nodes.iter().filter(|n| n.op.name() == name).count()
}

/// Dims of the operands of the attention of `m`, its gradient's left out.
fn attended(m: &Module) -> Vec<Vec<usize>> {
    let f = m.func("micro").unwrap();
    let node = f.nodes.iter().find(|n| n.op.name() == "attention").unwrap();
    node.inputs.iter().map(|v| f.ty(*v).dims.clone()).collect()
}

#[test]
fn tokens_are_exchanged_for_heads() {
    let m = cut(&[("up", 2), ("tp", 2)], 1);
    assert_eq!(spread(&m, "micro", "tokens"), (vec![2, 4], "[ up] ".into()));
    assert_eq!(spread(&m, "micro", "heads"), (vec![4, 6], "[tp ] ".into()));
    assert_eq!(spread(&m, "update", "grad.heads"), (vec![4, 6], "[tp ] up".into()));
    assert_eq!(spread(&m, "update", "grad.table"), (vec![10, 6], "[] up".into()));
    assert_eq!(attended(&m), [vec![2, 8, 1, 2], vec![2, 8, 1, 2], vec![2, 8, 1, 2]]);
    // Queries, and keys that are values too; what comes back; its gradient, and the three that it gives.
    assert_eq!(count(&m, "all_to_all"), 2 + 1 + 1 + 3);
    // Two tables of positions and the labels one further, of which all are brought together.
    assert_eq!((count(&m, "own_part"), count(&m, "all_gather")), (3, 1));
}

#[test]
fn keys_and_values_are_gathered() {
    let m = cut(&[("cp", 2), ("tp", 2)], 1);
    assert_eq!(spread(&m, "micro", "tokens"), (vec![2, 4], "[ cp] ".into()));
    assert_eq!(attended(&m), [vec![2, 4, 2, 2], vec![2, 8, 2, 2], vec![2, 8, 2, 2], vec![]]);
    // Keys, which are values too, forward and backward, and labels; their two gradients; where the first key is, forward and backward.
    let counts = ["all_gather", "reduce_scatter", "own_ids", "all_to_all"].map(|name| count(&m, name));
    assert_eq!(counts, [3, 2, 2, 0]);
}

#[test]
fn tokens_are_exchanged_before_keys_are_gathered() {
    let m = cut(&[("cp", 2), ("up", 2)], 1);
    assert_eq!(spread(&m, "micro", "tokens"), (vec![2, 2], "[ cp,up] ".into()));
    assert_eq!(spread(&m, "update", "grad.out"), (vec![6, 8], "[] cp,up".into()));
    assert_eq!(attended(&m), [vec![2, 4, 2, 2], vec![2, 8, 2, 2], vec![2, 8, 2, 2], vec![]]);
}

#[test]
fn replicas_and_parts_of_sequences_share_the_optimizer() {
    let mut m = attention(mesh(&[("dp", 2), ("up", 2)]), 1);
    let over = ["dp", "up"].map(str::to_owned).to_vec();
    m.run.sharing = Some(Sharing { what: Shared::Moments, least: 1, over });
    let m = partition(&m).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(spread(&m, "update", "adam_m.heads"), (vec![2, 6], "[dp,up ] ".into()));
    assert_eq!(spread(&m, "update", "grad.out"), (vec![6, 8], "[] dp,up".into()));
}

#[test]
fn sequences_and_heads_must_be_divided() {
    let refused = |axes: &[(&str, usize)], says: &str| {
        let e = partition(&attention(mesh(axes), 1)).unwrap_err();
        assert!(e.code == &CANNOT_CUT && e.message.contains(says), "{e}");
    };
    refused(&[("up", 3)], "the sequence of tokens cannot be cut in 3");
    refused(&[("up", 8)], "4 heads cannot be exchanged by 8 ranks");
    refused(&[("up", 4), ("tp", 2)], "2 heads cannot be exchanged by 4 ranks");
    let rows = partition(&module(mesh(&[("up", 3)]), 4, 6, 1)).unwrap_err();
    assert!(rows.message.contains("the sequence of x"), "{rows}");
}

/// The dims that are cut and joined change places.
fn other_way(f: &mut Func, n: usize) {
    if let Op::Collective(c) = &mut f.nodes[n].op
        && let athanor_ir::CollectiveKind::AllToAll { cut, join } = &mut c.kind
    {
        std::mem::swap(cut, join);
    }
}

#[test]
fn everything_ranks_tell_each_other_about_sequences_is_needed() {
    let meshes = [
        &[("up", 2), ("tp", 2)][..],
        &[("dp", 2), ("up", 2)],
        &[("cp", 2), ("tp", 2)],
        &[("dp", 2), ("cp", 2)],
        &[("cp", 2), ("up", 2)],
    ];
    for axes in meshes {
        let m = cut(axes, 2);
        let mut changed = 0;
        for (f, func) in m.funcs.iter().enumerate() {
            for n in (0..func.nodes.len()).filter(|n| matches!(func.nodes[*n].op, Op::Collective(_))) {
                let Op::Collective(c) = &func.nodes[n].op else { continue };
                let what = format!("{} {n} over {} of @{} on {axes:?}", c.name(), c.axes, func.name);
                assert!(check(&mutated(&m, f, n, bypass)).is_err_and(|e| e.code == &PARTIAL), "{what} left out");
                for (other, _) in axes.iter().filter(|(other, _)| *other != c.axes) {
                    let e = check(&mutated(&m, f, n, |f, n| {
                        if let Op::Collective(c) = &mut f.nodes[n].op {
                            c.axes = (*other).into();
                        }
                    }));
                    assert!(e.is_err(), "{what} over {other}");
                }
                if c.name() == "all_to_all" {
                    assert!(check(&mutated(&m, f, n, other_way)).is_err(), "{what} the other way");
                    assert!(check(&mutated(&m, f, n, repeat)).is_err(), "{what} twice");
                }
                changed += 1;
            }
        }
        assert!(changed >= 12, "{changed}");
    }
}

/// Attention that has some of the queries must be told where they are: by an operand, counted over the right ranks, in parts of
/// the right size, from 0.
#[test]
fn queries_are_told_where_they_are() {
    let m = cut(&[("dp", 2), ("cp", 2), ("up", 2)], 1);
    let f = m.funcs.iter().position(|f| f.name == "micro").unwrap();
    let nodes = |name: &str| -> Vec<usize> {
        let of = m.funcs[f].nodes.iter().enumerate().filter(|(_, n)| n.op.name() == name);
        of.map(|(n, _)| n).collect()
    };
    let wrong = |n: usize, what: &str, change: fn(&mut Func, usize)| {
        let e = check(&mutated(&m, f, n, change));
        assert!(e.is_err_and(|e| e.code == &PARTIAL), "{what}");
    };
    let size = |f: &mut Func, n: usize| {
        let Op::Collective(c) = &mut f.nodes[n].op else { return };
        c.kind = athanor_ir::CollectiveKind::OwnIds { size: 2 };
    };
    for n in nodes("own_ids") {
        wrong(n, "in parts of another size", size);
        wrong(n, "over another axis", |f, n| {
            if let Op::Collective(c) = &mut f.nodes[n].op {
                c.axes = "up".into();
            }
        });
        wrong(n, "counted twice", repeat);
    }
    for name in ["attention", "attention_grad"] {
        for n in nodes(name) {
            wrong(n, "not told", |f, n| _ = f.nodes[n].inputs.pop());
        }
    }
    let zeros = nodes("constant").into_iter().filter(|n| m.funcs[f].ty(m.funcs[f].nodes[*n].outputs[0]).rank() == 0);
    let read = |z: &usize| nodes("own_ids").iter().any(|n| m.funcs[f].nodes[*n].inputs == m.funcs[f].nodes[*z].outputs);
    let zeros: Vec<usize> = zeros.filter(read).collect();
    assert!(!zeros.is_empty());
    for z in zeros {
        wrong(z, "not from 0", |f, n| f.nodes[n].op = Op::Constant { value: F64(1.0) });
    }
}
