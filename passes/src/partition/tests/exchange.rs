//! A layer of experts whose rows ranks exchange: what a round does, how much room it has, and that the check finds every operation
//! that is missing.

use super::experts::{count, layer};
use super::*;
use athanor_ir::run::{ExpertExchange, ExpertRows};

fn exchanged(axes: &[(&str, usize)], over_tp: bool, exchange: ExpertExchange) -> Module {
    let mut m = layer(mesh(axes), 8, 2, 0);
    (m.run.expert_exchange, m.run.experts_over_tp) = (exchange, over_tp);
    let cut = partition(&m).unwrap_or_else(|e| panic!("{e}"));
    athanor_ir::verify::verify(&cut).unwrap_or_else(|e| panic!("{e}"));
    cut
}

const ROWS: ExpertExchange = ExpertExchange { rows: ExpertRows::Exchanged, factor: 1.0 };

/// Names of the ops of function `name` that send.
fn sent(m: &Module, name: &str) -> Vec<&'static str> {
    let nodes = m.func(name).unwrap().nodes.iter();
    nodes.filter_map(|n| if let Op::Collective(c) = &n.op { Some(c.name()) } else { None }).collect()
}

#[test]
fn ranks_send_each_other_rows_in_rounds() {
    let m = exchanged(&[("dp", 2), ("ep", 2)], false, ROWS);
    assert_eq!(spread(&m, "micro", "up"), (vec![2, 6, 8], "[ep  ] ".into()));
    assert_eq!(spread(&m, "update", "grad.up"), (vec![2, 6, 8], "[ep  ] dp".into()));
    // Nobody has the tokens of others. Twice ranks agree on the number of rounds.
    assert_eq!((count(&m, "micro", "all_gather"), count(&m, "micro", "reduce_scatter")), (0, 0));
    assert_eq!(count(&m, "micro", "repeat"), 2);
    let names = ["experts_0", "experts_1"].map(|name| sent(&m, name));
    // Ids of experts, rows there and back; backward rows twice there and twice back.
    assert_eq!(names, [vec!["all_to_all"; 3], vec!["all_to_all"; 5]]);
    // Two sequences of three tokens of two slots each: six rows go to each of two ranks if all experts have as many.
    let f = m.func("experts_0").unwrap();
    let dispatch = f.nodes.iter().find(|n| n.op.name() == "dispatch").unwrap();
    assert_eq!(f.ty(dispatch.outputs[0]).dims, [2 * 8, 8]);
    let sums: Vec<_> = f.results.iter().map(|r| f.ty(r.value).dims.clone()).collect();
    assert_eq!(sums, [vec![2, 3, 8]]);
}

#[test]
fn room_is_planned_and_never_more_than_there_can_be() {
    let room = |axes: &[(&str, usize)], rows, factor| {
        let m = exchanged(axes, false, ExpertExchange { rows, factor });
        let rounds = m.func("micro").unwrap().nodes.iter().find_map(|n| match n.op {
            Op::Rounds { capacity } => Some(capacity),
            _ => None,
        });
        rounds.map(|room| (room, m.funcs.len()))
    };
    let by_two = [("ep", 2)];
    // Of 24 slots of 12 tokens half go to each rank.
    assert_eq!(room(&by_two, ExpertRows::Exchanged, 0.01).unwrap().0, 8);
    assert_eq!(room(&by_two, ExpertRows::Exchanged, 1.3).unwrap().0, 16);
    assert_eq!(room(&by_two, ExpertRows::Exchanged, 9.0).unwrap().0, 24);
    // A rank with one expert gets a token once.
    assert_eq!(room(&[("ep", 4)], ExpertRows::Exchanged, 9.0).unwrap().0, 6);
    // Left to itself a layer exchanges what at least halves the rows.
    assert!(room(&by_two, ExpertRows::Auto, 1.0).is_none());
    assert!(room(&by_two, ExpertRows::Auto, 0.5).is_some());
    assert!(room(&by_two, ExpertRows::Gathered, 0.5).is_none());
}

#[test]
fn tensor_parallel_ranks_send_rows_to_their_column() {
    let m = exchanged(&[("ep", 2), ("tp", 2)], true, ROWS);
    assert_eq!(spread(&m, "micro", "up"), (vec![1, 6, 8], "[ep,tp  ] ".into()));
    // The spans of the column's experts; what tokens get back is summed over the columns.
    assert_eq!(count(&m, "micro", "own_part"), 1);
    let f = m.func("experts_0").unwrap();
    assert_eq!(f.params[1].sharding.partial, ["tp"]);
    let m = exchanged(&[("ep", 2), ("tp", 2)], false, ROWS);
    assert_eq!(spread(&m, "micro", "up"), (vec![2, 3, 8], "[ep tp ] ".into()));
    assert_eq!(m.func("experts_0").unwrap().params[1].sharding.partial, ["tp"]);
}

#[test]
fn every_operation_of_a_round_is_needed() {
    let meshes: [(&[(&str, usize)], bool); 3] = [
        (&[("dp", 2), ("ep", 2)], false),
        (&[("dp", 2), ("ep", 2), ("tp", 2)], false),
        (&[("ep", 2), ("tp", 2)], true),
    ];
    for (axes, over_tp) in meshes {
        let m = exchanged(axes, over_tp, ROWS);
        let mut changed = 0;
        for (f, func) in m.funcs.iter().enumerate() {
            for n in (0..func.nodes.len()).filter(|n| matches!(func.nodes[*n].op, Op::Collective(_))) {
                let Op::Collective(c) = &func.nodes[n].op else { continue };
                let left_out = check(&mutated(&m, f, n, bypass));
                assert!(left_out.is_err_and(|e| e.code == &PARTIAL), "{} {n} of @{} left out", c.name(), func.name);
                for other in axes.iter().map(|a| a.0).filter(|o| *o != c.axes) {
                    let e = check(&mutated(&m, f, n, |f, n| {
                        if let Op::Collective(c) = &mut f.nodes[n].op {
                            c.axes = other.into();
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

/// What is summed up must be spread as it was before the round.
#[test]
fn a_round_leaves_sums_as_it_found_them() {
    let m = exchanged(&[("dp", 2), ("ep", 2)], false, ROWS);
    let f = m.funcs.iter().position(|f| f.name == "experts_1").unwrap();
    let mut other = m.clone();
    other.funcs[f].params.iter_mut().for_each(|p| p.sharding.partial.clear());
    assert!(check(&other).is_err_and(|e| e.code == &PARTIAL && e.message.contains("experts_1")));
}
