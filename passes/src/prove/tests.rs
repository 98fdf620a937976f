use super::*;
use crate::plan::{PlanOptions, build};
use crate::split_stages::split_stages;
use crate::split_stages::tests::{module, pipeline};
use athanor_ir::collective::{Collective, CollectiveKind};
use athanor_ir::pipeline::{Act, Kind, Part, Pipeline};
use athanor_ir::plan::{Action, Buffer, BufferRole, Program, Step};
use athanor_ir::target::CpuLevel;
use athanor_ir::{DType, Loc, Memory, Op, ReduceKind, Sharding};

fn plan(kind: Kind, layers: &[&[usize]], micro: usize) -> Plan {
    let module = split_stages(&module(&pipeline(kind, layers), micro)).unwrap();
    let options = PlanOptions { threads: 1, level: CpuLevel::Portable, config_hash: String::new(), reference: true };
    build(&module, &options).unwrap_or_else(|e| panic!("{e}")).plan
}

/// Plans of every kind of schedule; building them has proven them.
fn plans() -> Vec<Plan> {
    vec![
        plan(Kind::Gpipe, &[&[1, 1, 1]], 4),
        plan(Kind::OneFOneB, &[&[1, 1, 1]], 5),
        plan(Kind::Interleaved, &[&[1, 1], &[1, 1]], 4),
        plan(Kind::ZeroBubbleV, &[&[1, 1], &[1, 1]], 6),
        plan(Kind::DualpipeV, &[&[1, 1], &[1, 1]], 6),
    ]
}

fn acts(plan: &mut Plan, stage: usize) -> &mut Vec<Act> {
    &mut plan.stages[stage].pipeline.as_mut().unwrap().acts
}

fn find(plan: &mut Plan, stage: usize, wanted: impl Fn(&Act) -> bool) -> usize {
    acts(plan, stage).iter().rposition(wanted).unwrap()
}

fn receives(act: &Act) -> bool {
    matches!(act, Act::Receive { .. })
}

/// `change` made to each of the plans is found.
fn refused(code: &Code, says: &str, change: impl Fn(&mut Plan)) {
    for mut plan in plans() {
        change(&mut plan);
        let kind = plan.run.pipeline.as_ref().unwrap().schedule;
        let e = prove(&plan).expect_err(&format!("{kind:?}: {says}"));
        assert!(e.code == code && e.message.contains(says), "{kind:?}: {e}");
    }
}

#[test]
fn plans_of_every_schedule_are_proven() {
    plans().iter().for_each(|p| prove(p).unwrap());
}

#[test]
fn messages_that_do_not_match_are_found() {
    // A receive that is left out: what needs it runs without.
    refused(&HAZARD, "before what it needs", |p| {
        let i = find(p, 0, receives);
        acts(p, 0).remove(i);
    });
    // The optimizer's sum over stages is left out on the first one.
    refused(&UNMATCHED, "stage 0 has ended", |p| {
        let update = p.stages[0].programs.iter_mut().find(|q| q.name == "update").unwrap();
        update.steps.retain(|s| !matches!(s.action, Action::Op(Op::Collective(_))));
    });
    // Messages that are never received.
    for plan in plans() {
        let mut events = Events::of(&plan).unwrap();
        events.stages[0].clear();
        assert!(events.matched().unwrap_err().contains("stage 0 has ended"));
    }
}

#[test]
fn wrong_peers_orders_and_sizes_are_found() {
    refused(&UNMATCHED, "reads it", |p| {
        let i = find(p, 0, |a| matches!(a, Act::Send { .. }));
        let stages = p.stages.len();
        if let Act::Send { to, .. } = &mut acts(p, 0)[i] {
            *to = (*to + 1) % stages;
        }
    });
    // Two messages between the same stages in another order: each waits for the other, or gets what is not meant for it.
    for mut plan in plans() {
        let all: Vec<usize> = (0..acts(&mut plan, 1).len()).filter(|i| receives(&acts(&mut plan, 1)[*i])).collect();
        let pair = all.windows(2).find(|w| {
            let list = acts(&mut plan, 1);
            matches!((list[w[0]], list[w[1]]), (Act::Receive { from: a, .. }, Act::Receive { from: b, .. }) if a == b)
        });
        let Some([a, b]) = pair else { continue };
        acts(&mut plan, 1).swap(*a, *b);
        assert!(prove(&plan).is_err());
    }
    refused(&UNMATCHED, "which expects", |p| {
        let chunk = p.stages[1].pipeline.as_ref().unwrap().chunks[0].arrives[0];
        p.stages[1].buffers[chunk].dtype = DType::BF16;
    });
}

#[test]
fn slots_that_are_taken_are_found() {
    // Every micro-batch in one slot: the second one finds it taken.
    refused(&HAZARD, "slot 0 has micro-batch", |p| {
        for act in acts(p, 0) {
            match act {
                Act::Run { slot, .. } | Act::Send { slot, .. } | Act::Receive { slot, .. } => *slot = 0,
                Act::Pass { slot, to, .. } => (*slot, *to) = (0, 0),
            }
        }
    });
    refused(&HAZARD, "is in slot", |p| {
        let i = find(p, 0, |a| matches!(a, Act::Run { task, .. } if task.part == Part::B));
        if let Act::Run { slot, .. } = &mut acts(p, 0)[i] {
            *slot += 1;
        }
    });
    refused(&HAZARD, "twice", |p| {
        let i = find(p, 0, |a| matches!(a, Act::Run { task, .. } if task.part == Part::F));
        let act = acts(p, 0)[i];
        acts(p, 0).insert(i + 1, act);
    });
    refused(&HAZARD, "after another program", |p| {
        let i = find(p, 0, |a| matches!(a, Act::Send { task, .. } if task.part == Part::F && task.micro == 0));
        let next = acts(p, 0)[i..].iter().position(|a| matches!(a, Act::Run { .. })).unwrap() + i;
        let send = acts(p, 0).remove(i);
        acts(p, 0).insert(next, send);
    });
    refused(&HAZARD, "never ends", |p| {
        let i = find(p, 0, |a| matches!(a, Act::Run { .. }));
        acts(p, 0).remove(i);
    });
}

#[test]
fn collectives_must_be_those_of_the_mesh() {
    refused(&UNMATCHED, "its axes have", |p| {
        let collective = |s: &mut Step| {
            if let Action::Op(Op::Collective(c)) = &mut s.action {
                c.ranks += 1;
            }
        };
        p.stages[0].programs.iter_mut().flat_map(|q| &mut q.steps).for_each(collective);
    });
    refused(&UNMATCHED, "at different times", |p| {
        let kind = CollectiveKind::AllReduce { reduce: ReduceKind::Sum };
        let op = Op::Collective(Collective { kind, axes: "pp".into(), ranks: p.stages.len() });
        let step = Step::new(Action::Op(op), vec![0], vec![0], Loc::default());
        p.stages[0].programs[0].steps.push(step);
    });
}

/// Ranks of a stage are a class: their number does not matter.
#[test]
fn eight_thousand_ranks_are_as_many_classes_as_stages() {
    let mut p = plan(Kind::OneFOneB, &[&[1, 1, 1]], 5);
    for (name, size) in [("dp", 64), ("tp", 43)] {
        p.mesh.axes.push(athanor_ir::module::Axis { name: name.into(), size });
    }
    assert!(p.mesh.ranks() > 8192);
    prove(&p).unwrap();
    assert_eq!(Events::of(&p).unwrap().stages.len(), 3);
}

/// A program in which two ranks exchange x as often as they need, four numbers at a time.
fn repeated() -> Plan {
    let mut p = plan(Kind::OneFOneB, &[&[1, 1, 1]], 5);
    p.mesh.axes = ["ep", "tp"].map(|name| athanor_ir::module::Axis { name: name.into(), size: 2 }).into();
    p.run.pipeline = None;
    let buffer = |name: &str, dtype, dims: &[usize], offset| Buffer {
        name: name.into(),
        dtype,
        dims: dims.into(),
        memory: Memory::Device,
        offset,
        bytes: 4 * dims.iter().product::<usize>(),
        role: BufferRole::Activation,
        sharding: Sharding::default(),
        live: None,
    };
    let scalar = |name, offset| buffer(name, DType::I32, &[], offset);
    let x = |name, offset| buffer(name, DType::F32, &[4], offset);
    let buffers = vec![
        scalar("needed", 0),
        scalar("rounds", 64),
        scalar("done", 128),
        x("x", 192),
        x("y", 256),
        scalar("view", 64),
    ];
    let collective = |kind| Action::Op(Op::Collective(Collective { kind, axes: "ep".into(), ranks: 2 }));
    let step =
        |action, inputs: &[usize], outputs: &[usize]| Step::new(action, inputs.into(), outputs.into(), Loc::default());
    let steps = vec![
        step(collective(CollectiveKind::AllReduce { reduce: ReduceKind::Max }), &[0], &[1]),
        step(Action::Op(Op::Constant { value: athanor_ir::F64(0.0) }), &[], &[2]),
        step(collective(CollectiveKind::AllToAll { cut: 0, join: 0 }), &[3], &[4]),
        step(Action::Again { first: 2 }, &[1, 2], &[2]),
    ];
    p.stages.truncate(1);
    let stage = &mut p.stages[0];
    (stage.buffers, stage.pipeline) = (buffers, None);
    stage.programs = vec![Program { name: "micro".into(), steps, results: vec![] }];
    p
}

#[test]
fn ranks_that_meet_again_and_again_agree_how_often() {
    prove(&repeated()).unwrap();
    let refused = |says: &str, change: fn(&mut Vec<Step>)| {
        let mut p = repeated();
        change(&mut p.stages[0].programs[0].steps);
        let e = prove(&p).expect_err(says);
        assert!(e.code == &UNMATCHED && e.message.contains(says), "{e}");
    };
    // Each as often as it needs itself; or as those along another axis, or their sum, or as another value says.
    refused("do not agree how often", |steps| steps[3].inputs[0] = 0);
    refused("do not agree how often", |steps| steps[0].outputs[0] = 3);
    refused("those along tp agree how often", |steps| {
        if let Action::Op(Op::Collective(c)) = &mut steps[0].action {
            c.axes = "tp".into();
        }
    });
    refused("do not agree how often", |steps| {
        if let Action::Op(Op::Collective(c)) = &mut steps[0].action {
            c.kind = CollectiveKind::AllReduce { reduce: ReduceKind::Sum };
        }
    });
    // How often changes in a round, if only through a view.
    for overwritten in [1, 5, 2] {
        let mut p = repeated();
        p.stages[0].programs[0].steps[2].outputs[0] = overwritten;
        assert!(prove(&p).unwrap_err().message.contains("how often changes meanwhile"), "{overwritten}");
    }
    refused("counted from 0", |steps| steps[1].action = Action::Op(Op::Constant { value: athanor_ir::F64(1.0) }));
    refused("elsewhere than it reads them", |steps| steps[3].outputs[0] = 0);
    refused("no step of its own", |steps| steps[3].action = Action::Again { first: 4 });
    refused("no step of its own", |steps| {
        let again = steps[3].clone();
        steps.push(again);
    });
}

/// A plan whose micro-batches come through in two slices each.
fn sliced() -> Plan {
    let pipeline = Pipeline { slices: 2, ..pipeline(Kind::Seqpipe, &[&[1, 1, 1]]) };
    let module = split_stages(&module(&pipeline, 4)).unwrap();
    let options = PlanOptions { threads: 1, level: CpuLevel::Portable, config_hash: String::new(), reference: true };
    build(&module, &options).unwrap_or_else(|e| panic!("{e}")).plan
}

/// Exchanges the tasks of two acts of stage `stage` that run part `part` of two slices of micro-batch 1.
fn exchange(plan: &mut Plan, stage: usize, part: Part) {
    let runs = |act: &Act, unit: usize| matches!(act, Act::Run { task, .. } if task.part == part && task.micro == unit);
    let [a, b] = [2, 3].map(|unit| find(plan, stage, |act| runs(act, unit)));
    acts(plan, stage).swap(a, b);
}

#[test]
fn slices_that_overtake_each_other_are_found() {
    let refused = |says: &str, change: &dyn Fn(&mut Plan)| {
        let mut plan = sliced();
        prove(&plan).unwrap();
        change(&mut plan);
        let e = prove(&plan).expect_err(says);
        assert!(e.code == &HAZARD && e.message.contains(says), "{e} should say {says:?}");
    };
    refused("F3.0 runs out of the order of slices", &|p| exchange(p, 0, Part::F));
    refused("B2.0 runs out of the order of slices", &|p| exchange(p, 2, Part::B));
    // The slices of two micro-batches in the caches of one.
    refused("finds its caches taken by micro-batch 0", &|p| p.stages[0].pipeline.as_mut().unwrap().caches = 1);
    refused("slot 0 has slice 0 of micro-batch 0", &|p| {
        for act in acts(p, 0) {
            if let Act::Run { slot, .. } | Act::Send { slot, .. } | Act::Receive { slot, .. } = act {
                *slot = 0;
            }
        }
    });
    // A backward part before the last slice has come through.
    refused("before what it needs", &|p| {
        let last = find(p, 2, |a| matches!(a, Act::Run { task, .. } if task.part == Part::F && task.micro == 1));
        let back = find(p, 2, |a| matches!(a, Act::Run { task, .. } if task.part == Part::B && task.micro == 1));
        acts(p, 2).swap(last, back);
    });
}
