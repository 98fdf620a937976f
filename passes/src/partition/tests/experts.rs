//! A layer of experts on a mesh: who sorts with whom, what is cut, and that the check finds every operation that is missing.

use super::*;
use athanor_ir::{RouteMask, Shared};

/// A loss of x `[batch, 3, 8]` plus four experts of width 6 of norm(x), of which each token meets two, with their load.
pub(super) fn layer(mesh: Mesh, batch: usize, accumulation: usize, capacity: usize) -> Module {
    let mut f = Func::new("forward");
    let f32s = |dims: &[usize]| TensorType::new(DType::F32, dims);
    let weight = || Role::Weight { init: Init::Normal { std: 0.02 }, decay: true };
    let x = f.param("x", f32s(&[batch, 3, 8]), Role::Input, Loc::default());
    let [gain, router, up, down] = [("gain", &[8][..]), ("router", &[4, 8]), ("up", &[4, 6, 8]), ("down", &[4, 8, 6])]
        .map(|(name, dims)| f.param(name, f32s(dims), weight(), Loc::default()));
    let mut b = Builder::new(&mut f, Loc::default());
    let y = b.many(Op::RmsNorm { eps: athanor_ir::F64(1e-5) }, &[x, gain])[0];
    let logits = b.einsum("bsh,eh->bse", y, router);
    let scores = b.unary(Unary::Sigmoid, logits);
    let ids = b.many(Op::Route { k: 2, groups: 1, group_k: 1, group_top: 1, mask: RouteMask::Zero }, &[scores])[0];
    let weights = b.many(Op::Pick, &[scores, ids])[0];
    let flat = b.reshape(ids, &[batch, 6]);
    let counts = b.many(Op::Histogram { bins: 4 }, &[flat])[0];
    let load = b.reduce(ReduceKind::Sum, counts, &[0]);
    let sorted = b.many(Op::Assign { experts: 4, capacity }, &[ids]);
    let rows = b.many(Op::Dispatch { rows: batch * 6 }, &[y, sorted[0]])[0];
    let product =
        |b: &mut Builder<'_>, x, w| b.many(Op::GroupedEinsum { spec: "rk,enk->rn".into() }, &[x, w, sorted[1]])[0];
    let inside = product(&mut b, rows, up);
    let inside = b.unary(Unary::Silu, inside);
    let out = product(&mut b, inside, down);
    let out = b.many(Op::Combine, &[out, sorted[0], weights])[0];
    let out = b.add(x, out);
    let out = b.unary(Unary::Square, out);
    let loss = b.reduce(ReduceKind::Sum, out, &[0, 1, 2]);
    f.result("loss", loss);
    f.result("expert_load.layer", load);
    let run = RunSpec { max_grad_norm: Some(1.0), accumulation, ..RunSpec::for_tests() };
    let module = Module { name: "experts".into(), level: Level::Model, mesh, run, funcs: vec![f] };
    registry::build("autodiff,optimizer").unwrap().iter().fold(module, |m, p| p.run(&m).unwrap())
}

fn cut_layer(axes: &[(&str, usize)], accumulation: usize) -> Module {
    let cut = partition(&layer(mesh(axes), 8, accumulation, 0)).unwrap_or_else(|e| panic!("{e}"));
    athanor_ir::verify::verify(&cut).unwrap_or_else(|e| panic!("{e}"));
    cut
}

/// Number of collective operations by name.
pub(super) fn count(m: &Module, func: &str, name: &str) -> usize {
    m.func(func).unwrap().nodes.iter().filter(|n| n.op.name() == name).count()
}

#[test]
fn replicas_sort_their_own_tokens() {
    let m = cut_layer(&[("dp", 2)], 1);
    assert_eq!(spread(&m, "micro", "up"), (vec![4, 6, 8], "[] ".into()));
    assert_eq!(spread(&m, "update", "grad.up"), (vec![4, 6, 8], "[] dp".into()));
    let dispatch = |n: &&Node| n.op == Op::Dispatch { rows: 24 };
    assert_eq!(m.func("micro").unwrap().nodes.iter().filter(dispatch).count(), 2, "half of 48 rows");
    // The loss and the load.
    assert_eq!(sums(&m, "micro"), [named("dp", &[]), named("dp", &[4])]);
}

#[test]
fn experts_are_cut_by_inner_width() {
    let m = cut_layer(&[("tp", 2)], 1);
    assert_eq!(spread(&m, "micro", "up"), (vec![4, 3, 8], "[ tp ] ".into()));
    assert_eq!(spread(&m, "micro", "down"), (vec![4, 8, 3], "[  tp] ".into()));
    assert_eq!(spread(&m, "micro", "router"), (vec![4, 8], "[] ".into()));
    // What tokens get back is summed, not the rows; and so are the gradients of tokens and of the router's weights.
    assert_eq!(sums(&m, "micro"), [named("tp", &[8, 3, 8]), named("tp", &[8, 3, 2]), named("tp", &[8, 3, 8])]);
}

#[test]
fn ranks_that_share_experts_bring_tokens_together() {
    let m = cut_layer(&[("dp", 2), ("ep", 2)], 1);
    assert_eq!(spread(&m, "micro", "x"), (vec![2, 3, 8], "[dp,ep  ] ".into()));
    assert_eq!(spread(&m, "micro", "up"), (vec![2, 6, 8], "[ep  ] ".into()));
    assert_eq!(spread(&m, "update", "grad.up"), (vec![2, 6, 8], "[ep  ] dp".into()));
    assert_eq!(spread(&m, "update", "grad.router"), (vec![4, 8], "[] dp,ep".into()));
    assert_eq!(spread(&m, "update", "adam_m.down"), (vec![2, 8, 6], "[ep  ] ".into()));
    // Ids, tokens and weights forward, gradients of what came back once; twice tokens' and once weights' gradients.
    assert_eq!(count(&m, "micro", "all_gather"), 4);
    assert_eq!(count(&m, "micro", "reduce_scatter"), 3);
    assert_eq!(count(&m, "micro", "own_part"), 1, "the spans of the own experts");
}

#[test]
fn replicas_with_the_same_experts_share_their_steps() {
    let mut m = layer(mesh(&[("dp", 2), ("ep", 2)]), 8, 1, 0);
    m.run.sharing = Some(shared::sharing(Shared::Moments, 1));
    let m = partition(&m).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(spread(&m, "update", "adam_m.up"), (vec![1, 6, 8], "[ep,dp  ] ".into()));
    assert_eq!(spread(&m, "update", "adam_m.router"), (vec![1, 8], "[dp,ep ] ".into()));
}

/// Weights of experts are with the replicas that have the same ones, the router's with all; both are gathered twice.
#[test]
fn replicas_share_experts_and_what_belongs_to_them() {
    let mut m = layer(mesh(&[("dp", 2), ("ep", 2)]), 8, 2, 0);
    m.run.sharing = Some(shared::sharing(Shared::Weights, 1));
    let m = partition(&m).unwrap_or_else(|e| panic!("{e}"));
    athanor_ir::verify::verify(&m).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(spread(&m, "micro", "up"), (vec![1, 6, 8], "[ep,dp  ] ".into()));
    assert_eq!(spread(&m, "micro", "grad.up"), (vec![1, 6, 8], "[ep,dp  ] ".into()));
    assert_eq!(spread(&m, "micro", "grad.router"), (vec![1, 8], "[dp,ep ] ".into()));
    // Gathered beside what brings tokens together: router, up and down twice, the gain of a norm, which nothing backward
    // takes from the forward part, twice too.
    assert_eq!(count(&m, "micro", "all_gather"), 4 + 2 * 4);
    assert_eq!(count(&m, "update", "all_gather"), 0);
    shared::everything_is_needed(&m);
}

#[test]
fn tensor_parallel_ranks_may_have_other_experts() {
    let mut m = layer(mesh(&[("ep", 2), ("tp", 2)]), 8, 1, 0);
    m.run.experts_over_tp = true;
    m.run.expert_exchange.rows = athanor_ir::run::ExpertRows::Gathered;
    let m = partition(&m).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(spread(&m, "micro", "up"), (vec![1, 6, 8], "[ep,tp  ] ".into()));
    // Replicas bring their tokens together; tensor-parallel ranks have the same ones.
    assert_eq!(count(&m, "micro", "all_gather"), 4);
    assert_eq!(count(&m, "micro", "reduce_scatter"), 3);
    for f in 0..m.funcs.len() {
        for n in (0..m.funcs[f].nodes.len()).filter(|n| matches!(m.funcs[f].nodes[*n].op, Op::Collective(_))) {
            assert!(check(&mutated(&m, f, n, bypass)).is_err(), "{n} of @{}", m.funcs[f].name);
        }
    }
}

#[test]
fn what_experts_cannot_do_is_refused() {
    let refused = |axes: &[(&str, usize)], batch, capacity, says: &str| {
        let e = partition(&layer(mesh(axes), batch, 1, capacity)).unwrap_err();
        assert!(e.code == &CANNOT_CUT && e.message.contains(says), "{e}");
    };
    refused(&[("dp", 2)], 4, 3, "the batch of x cannot be cut in 2");
    refused(&[("ep", 3)], 6, 0, "axis ep of 3 does not divide the experts");
    let dense = partition(&module(mesh(&[("ep", 2)]), 4, 6, 1)).unwrap_err();
    assert!(dense.message.contains("or there are none"), "{dense}");
}

/// Every collective operation of a mesh with experts, left out or over other axes, is found; and so are rows that others than
/// those who sorted them read.
#[test]
fn every_operation_among_experts_is_needed() {
    for axes in [&[("dp", 2), ("tp", 2)][..], &[("dp", 2), ("ep", 2)], &[("dp", 2), ("ep", 2), ("tp", 2)]] {
        let m = cut_layer(axes, 2);
        let others: Vec<&str> = axes.iter().map(|a| a.0).collect();
        let mut changed = 0;
        for (f, func) in m.funcs.iter().enumerate() {
            for n in (0..func.nodes.len()).filter(|n| matches!(func.nodes[*n].op, Op::Collective(_))) {
                let Op::Collective(c) = &func.nodes[n].op else { continue };
                let left_out = check(&mutated(&m, f, n, bypass));
                assert!(left_out.is_err_and(|e| e.code == &PARTIAL), "{} {n} of @{} left out", c.name(), func.name);
                for other in others.iter().filter(|o| **o != c.axes) {
                    let e = check(&mutated(&m, f, n, |f, n| {
                        if let Op::Collective(c) = &mut f.nodes[n].op {
                            c.axes = (*other).into();
                        }
                    }));
                    assert!(e.is_err(), "{} {n} of @{} over {other}, not {}", c.name(), func.name, c.axes);
                    changed += 1;
                }
            }
        }
        assert!(changed >= 10, "{changed}");
    }
}

/// Rows of other experts must be zeros where they are added up, and what multiplies them must be of the same experts.
#[test]
fn rows_of_other_experts_are_zeros() {
    let m = cut_layer(&[("ep", 2)], 1);
    let combine = m.funcs[0].nodes.iter().position(|n| n.op == Op::Combine).unwrap();
    let through = |u: Unary| {
        check(&mutated(&m, 0, combine, |f, n| {
            let rows = f.nodes[n].inputs[0];
            let other = f.new_value(f.ty(rows).clone());
            let node = Node { op: Op::Unary(u), inputs: vec![rows], outputs: vec![other], loc: Loc::default() };
            f.nodes[n].inputs[0] = other;
            f.nodes.insert(n, node);
        }))
    };
    assert!(through(Unary::Tanh).is_ok());
    assert!(through(Unary::Exp).is_err_and(|e| e.message.contains("rows that are not those of the own experts")));
    // All spans where the matrices are those of some experts.
    let own = m.funcs[0].nodes.iter().position(|n| n.op.name() == "own_part").unwrap();
    assert!(check(&mutated(&m, 0, own, bypass)).is_err());
}
