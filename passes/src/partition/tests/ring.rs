//! Keys and values that go from rank to rank: what is sent, and that the check finds a shift too few, too many or elsewhere.

use super::context::{attention, count};
use super::*;
use athanor_ir::{CollectiveKind, F64};

fn ring(axes: &[(&str, usize)]) -> Module {
    let mut whole = attention(mesh(axes), 1);
    whole.run.keys = athanor_ir::run::Keys::Ring;
    let cut = partition(&whole).unwrap_or_else(|e| panic!("{e}"));
    athanor_ir::verify::verify(&cut).unwrap_or_else(|e| panic!("{e}"));
    cut
}

/// Number of operands and dims of the keys of every `name`.
fn steps(m: &Module, name: &str) -> Vec<(usize, Vec<usize>)> {
    let f = m.func("micro").unwrap();
    let of = f.nodes.iter().filter(|n| n.op.name() == name);
    of.map(|n| (n.inputs.len(), f.ty(n.inputs[1]).dims.clone())).collect()
}

#[test]
fn keys_and_values_go_round() {
    let m = ring(&[("cp", 4), ("tp", 2)]);
    assert_eq!(spread(&m, "micro", "tokens"), (vec![2, 2], "[ cp] ".into()));
    // The own keys, then those of each rank before, on from what there is.
    let blocks = |own, more| [vec![(own, vec![2, 2, 2, 2])], vec![(more, vec![2, 2, 2, 2]); 3]].concat();
    assert_eq!([steps(&m, "attention"), steps(&m, "attention_step")].concat(), blocks(3, 6));
    assert_eq!([steps(&m, "attention_grad"), steps(&m, "attention_step_grad")].concat(), blocks(6, 8));
    // Keys, which are values too, three times there and three times back; their gradients all the way home.
    let counts = ["shift", "block_ids", "all_gather", "reduce_scatter"].map(|name| count(&m, name));
    assert_eq!(counts, [3 + 3 + 4, 6, 1, 0]);
    // No rank has all keys.
    let all = |f: &Func| f.types.iter().any(|t| t.dims == [2, 8, 2, 2]);
    assert!(!all(m.func("micro").unwrap()));
}

#[test]
fn tokens_are_exchanged_before_keys_go_round() {
    let m = ring(&[("cp", 2), ("up", 2)]);
    assert_eq!(spread(&m, "micro", "tokens"), (vec![2, 2], "[ cp,up] ".into()));
    assert_eq!(steps(&m, "attention_step"), [(6, vec![2, 4, 2, 2])]);
    let counts = ["shift", "all_to_all"].map(|name| count(&m, name));
    assert_eq!(counts, [1 + 1 + 2, 2 + 1 + 1 + 3]);
}

#[test]
fn without_an_axis_to_go_round_nothing_changes() {
    assert_eq!(count(&ring(&[("up", 2)]), "shift"), 0);
}

/// Every operation between ranks is needed, once, over its axis.
#[test]
fn a_shift_too_few_too_many_or_elsewhere_is_found() {
    for axes in [&[("cp", 2), ("tp", 2)][..], &[("cp", 4), ("tp", 2)], &[("dp", 2), ("cp", 2)], &[("cp", 2), ("up", 2)]]
    {
        let m = ring(axes);
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
                if matches!(c.kind, CollectiveKind::Shift | CollectiveKind::BlockIds { .. }) {
                    assert!(check(&mutated(&m, f, n, repeat)).is_err(), "{what} twice");
                    changed += 1;
                }
            }
        }
        let ranks = m.mesh.size("cp");
        assert_eq!(changed, 4 * (ranks - 1) + ranks);
    }
}

/// What a step of the ring must be told, and what it must go on from.
#[test]
fn steps_of_a_ring_fit_one_another() {
    let m = ring(&[("cp", 4), ("tp", 2)]);
    let f = m.funcs.iter().position(|f| f.name == "micro").unwrap();
    let nodes = |name: &str| -> Vec<usize> {
        let of = m.funcs[f].nodes.iter().enumerate().filter(|(_, n)| n.op.name() == name);
        of.map(|(n, _)| n).collect()
    };
    let wrong = |n: usize, what: &str, change: &dyn Fn(&mut Func, usize)| {
        let e = check(&mutated(&m, f, n, change));
        assert!(e.is_err_and(|e| e.code == &PARTIAL), "{what} of {n}");
    };
    let becomes = |kind: CollectiveKind| {
        move |f: &mut Func, n: usize| {
            let Op::Collective(c) = &mut f.nodes[n].op else { return };
            c.kind = kind;
        }
    };
    for n in nodes("block_ids") {
        let Op::Collective(c) = &m.funcs[f].nodes[n].op else { continue };
        let CollectiveKind::BlockIds { size, back } = c.kind else { continue };
        wrong(n, "parts of another size", &becomes(CollectiveKind::BlockIds { size: size * 2, back }));
        wrong(n, "another block", &becomes(CollectiveKind::BlockIds { size, back: back - 1 }));
        wrong(n, "the own part", &becomes(CollectiveKind::OwnIds { size }));
    }
    for (name, more, at) in [("attention", "attention_step", 3), ("attention_grad", "attention_step_grad", 6)] {
        let steps = [nodes(name), nodes(more)].concat();
        let first = m.funcs[f].nodes[steps[0]].op.clone();
        for n in &steps[1..] {
            let begins = |f: &mut Func, n: usize, operands| {
                f.nodes[n].op = first.clone();
                f.nodes[n].inputs.truncate(operands);
            };
            wrong(*n, "not told where", &|f, n| begins(f, n, at));
            wrong(*n, "from nothing", &|f, n| begins(f, n, at + 1));
        }
        wrong(steps[2], "from the first, not the second", &|f, n| {
            let first = f.nodes[steps[0]].outputs.clone();
            f.nodes[n].inputs[at + 1] = first[0];
        });
        wrong(steps[1], "values of the own part", &|f, n| f.nodes[n].inputs[2] = f.nodes[steps[0]].inputs[2]);
        wrong(steps[3], "the last but one is the last", &|f, n| {
            let before = f.nodes[steps[2]].outputs[0];
            let of_last = f.nodes[n].outputs[0];
            f.nodes[n + 1..]
                .iter_mut()
                .flat_map(|n| &mut n.inputs)
                .filter(|v| **v == of_last)
                .for_each(|v| *v = before);
        });
    }
    let last_but_one = m.funcs[f].nodes[nodes("attention_step")[1]].outputs.clone();
    for (i, what) in [(3, "out"), (4, "sums")] {
        for n in [nodes("attention_grad"), nodes("attention_step_grad")].concat() {
            wrong(n, &format!("{what} of some keys"), &|f, n| f.nodes[n].inputs[i] = last_but_one[i - 3]);
        }
    }
    let zeros = nodes("constant")
        .into_iter()
        .filter(|z| nodes("block_ids").iter().any(|n| m.funcs[f].nodes[*n].inputs == m.funcs[f].nodes[*z].outputs));
    for z in zeros {
        wrong(z, "not from 0", &|f, n| f.nodes[n].op = Op::Constant { value: F64(1.0) });
    }
}
