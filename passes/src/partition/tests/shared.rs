//! What replicas share of weights: moments, gradients, weights; and that the check finds every operation that is missing.

use super::*;
use athanor_ir::run::LossScale;
use athanor_ir::{Shared, Sharing};

/// All replicas share.
pub(super) fn sharing(what: Shared, least: u64) -> Sharing {
    Sharing { what, least, over: Mesh::BATCH.map(str::to_owned).to_vec() }
}

/// The small model on `axes`, whose replicas along `over` share `what` of weights of 64 bytes and more.
fn shared(axes: &[(&str, usize)], what: Shared, over: &[&str], accumulation: usize) -> Module {
    let run = RunSpec { max_grad_norm: Some(1.0), accumulation, ..RunSpec::for_tests() };
    shared_in_run(axes, what, over, run)
}

fn shared_in_run(axes: &[(&str, usize)], what: Shared, over: &[&str], run: RunSpec) -> Module {
    let over = over.iter().map(|o| (*o).to_owned()).collect();
    let sharing = Some(Sharing { over, ..sharing(what, 64) });
    let m = partition(&module_of_run(mesh(axes), 4, 6, RunSpec { sharing, ..run })).unwrap_or_else(|e| panic!("{e}"));
    athanor_ir::verify::verify(&m).unwrap_or_else(|e| panic!("{e}"));
    m
}

fn counts(m: &Module, func: &str) -> [usize; 4] {
    let nodes = &m.func(func).unwrap().nodes;
    ["reduce_scatter", "own_part", "all_gather", "all_reduce"]
        .map(|name| nodes.iter().filter(|n| n.op.name() == name).count())
}

/// Every collective operation of `m`, left out, twice or over other axes, is found.
pub(super) fn everything_is_needed(m: &Module) {
    for (f, func) in m.funcs.iter().enumerate() {
        for n in (0..func.nodes.len()).filter(|n| matches!(func.nodes[*n].op, Op::Collective(_))) {
            let Op::Collective(c) = &func.nodes[n].op else { continue };
            let found = |what: &str, change: &dyn Fn(&mut Func, usize)| {
                let e = check(&mutated(m, f, n, change));
                assert!(e.is_err_and(|e| e.code == &PARTIAL), "{} {n} of @{} {what}", c.name(), func.name);
            };
            found("left out", &bypass);
            found("twice", &repeat);
            for other in m.mesh.axes.iter().filter(|a| a.name != c.axes) {
                found(&format!("over {}", other.name), &|f: &mut Func, n: usize| {
                    if let Op::Collective(c) = &mut f.nodes[n].op {
                        c.axes.clone_from(&other.name);
                    }
                });
            }
        }
    }
}

#[test]
fn replicas_share_the_steps_of_large_weights() {
    let m = shared(&[("dp", 2), ("tp", 3)], Shared::Moments, &["dp"], 1);
    assert_eq!(spread(&m, "update", "up"), (vec![2, 8], "[tp ] ".into()));
    assert_eq!(spread(&m, "update", "adam_m.up"), (vec![1, 8], "[tp,dp ] ".into()));
    assert_eq!(spread(&m, "update", "adam_v.down"), (vec![4, 2], "[dp tp] ".into()));
    assert_eq!(spread(&m, "update", "adam_v.gain"), (vec![8], "[] ".into()), "32 bytes are not worth it");
    // The gain's gradient and the squares of all are summed.
    assert_eq!(counts(&m, "update"), [2, 2, 2, 2]);
    // Squares of parts are added up over both axes, those of the gain not at all.
    let scalars = sums(&m, "update").into_iter().filter(|(_, dims)| dims.is_empty()).collect::<Vec<_>>();
    assert_eq!(scalars, [named("dp,tp", &[])]);
    everything_is_needed(&m);
}

#[test]
fn gradients_are_summed_into_parts_as_soon_as_they_are_made() {
    for accumulation in [1, 2] {
        let m = shared(&[("dp", 2), ("tp", 3)], Shared::Gradients, &["dp"], accumulation);
        assert_eq!(spread(&m, "micro", "up"), (vec![2, 8], "[tp ] ".into()));
        assert_eq!(spread(&m, "update", "grad.up"), (vec![1, 8], "[tp,dp ] ".into()));
        assert_eq!(spread(&m, "update", "grad.gain"), (vec![8], "[] dp".into()));
        assert_eq!(counts(&m, "micro")[0], 2);
        assert_eq!(counts(&m, "update"), [0, 2, 2, 2], "parts are there; the weight is made whole");
        let micro = m.func("micro").unwrap();
        for (i, node) in micro.nodes.iter().enumerate().filter(|(_, n)| n.op.name() == "reduce_scatter") {
            assert_eq!(micro.nodes[i - 1].outputs[0], node.inputs[0], "right behind the product");
        }
        if accumulation > 1 {
            assert_eq!(spread(&m, "micro", "grad.down"), (vec![4, 2], "[dp tp] ".into()));
        }
        everything_is_needed(&m);
    }
}

#[test]
fn weights_are_gathered_forward_and_again_backward() {
    for accumulation in [1, 2] {
        let m = shared(&[("dp", 2), ("tp", 3)], Shared::Weights, &["dp"], accumulation);
        assert_eq!(spread(&m, "micro", "up"), (vec![1, 8], "[tp,dp ] ".into()));
        assert_eq!(spread(&m, "update", "up"), (vec![1, 8], "[tp,dp ] ".into()));
        assert_eq!(spread(&m, "update", "grad.up"), (vec![1, 8], "[tp,dp ] ".into()));
        assert_eq!([counts(&m, "micro")[0], counts(&m, "micro")[2]], [2, 4]);
        assert_eq!(counts(&m, "update"), [0, 0, 0, 2], "steps are of parts");
        everything_is_needed(&m);
    }
}

/// Some replicas share, and others have the same parts: what they share is summed inside, and the parts across.
#[test]
fn some_replicas_share_and_others_have_the_same_parts() {
    let axes = [("dp", 2), ("dp_shard", 2), ("tp", 2)];
    for what in [Shared::Moments, Shared::Gradients, Shared::Weights] {
        for accumulation in [1, 2] {
            let m = shared(&axes, what, &["dp_shard"], accumulation);
            assert_eq!(spread(&m, "micro", "x"), (vec![1, 8], "[dp,dp_shard ] ".into()));
            assert_eq!(spread(&m, "update", "adam_m.down"), (vec![4, 3], "[dp_shard tp] ".into()));
            let across = sums(&m, "update").into_iter().filter(|(axes, _)| axes == "dp").count();
            assert_eq!(across, 1, "the part of one gradient: three rows of the other are not cut");
            if what > Shared::Moments {
                assert_eq!(spread(&m, "update", "grad.down").1, "[dp_shard tp] dp");
            }
            everything_is_needed(&m);
        }
    }
}

/// The norm of scaled gradients has a function of its own; parts stay parts in it.
#[test]
fn the_norm_before_a_step_is_that_of_parts() {
    for what in [Shared::Moments, Shared::Gradients, Shared::Weights] {
        let loss_scale = Some(LossScale::Fixed { value: 1024.0 });
        let run = RunSpec { accumulation: 2, loss_scale, ..RunSpec::for_tests() };
        let m = shared_in_run(&[("dp", 2), ("dp_shard", 2)], what, &["dp_shard"], run);
        assert_eq!(spread(&m, "update", "adam_v.up").1, "[dp_shard ] ");
        let parts = what > Shared::Moments;
        assert_eq!(spread(&m, "grad_norm", "grad.up").1, if parts { "[dp_shard ] dp" } else { "[] dp,dp_shard" });
        assert_eq!(spread(&m, "update", "grad.up").1, if parts { "[dp_shard ] " } else { "[] " });
        assert_eq!(counts(&m, "update")[0], 0);
        everything_is_needed(&m);
    }
}
