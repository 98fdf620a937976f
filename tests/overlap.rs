//! Communication beside computation changes when ranks send, never what: plans with two streams have the bits of those with one, are
//! refused when a step does not wait for what it needs, and put what they should beside work.

mod support;

use athanor_backends::cpu::check;
use athanor_ir::plan::{Plan, Step, Stream};
use athanor_ir::{CollectiveKind, Op};
use athanor_passes::compile::OptLevel;
use athanor_passes::prove::{RACE, prove};
use athanor_runtime::checkpoint::Resume;
use support::mesh::{Changes, Compiled, DEEPSEEK, Spread, zero};

const ON: Spread = Spread { pp: 1, dp: 2, tp: 2, micro: 1, sequences: 4 };

/// Shared experts beside routed ones on ranks that share weights and experts.
fn plan(more: Changes<'_>) -> Compiled {
    let experts = ("parallel_config.expert_parallel", "2");
    Compiled::new(ON, OptLevel::O1, &[&DEEPSEEK[..], &zero(3), &[experts], more].concat())
}

fn steps(plan: &Plan) -> impl Iterator<Item = &Step> {
    plan.stages.iter().flat_map(|s| &s.programs).flat_map(|p| &p.steps)
}

fn beside(step: &Step) -> bool {
    step.stream == Stream::Communication
}

/// Puts all on one stream.
fn in_turn(plan: &mut Plan) {
    for step in plan.stages.iter_mut().flat_map(|s| &mut s.programs).flat_map(|p| &mut p.steps) {
        (step.stream, step.after) = (Stream::Compute, None);
    }
    prove(plan).unwrap();
}

#[test]
fn two_streams_have_the_bits_of_one() {
    for more in [&[][..], &[("parallel_config.use_seq_parallel", "True")]] {
        let mut plan = plan(more);
        assert!(steps(&plan.plan).any(beside));
        let bits = |p: &Compiled| -> Vec<(f64, f64)> {
            p.train(2, Resume::No).iter().map(|l| (l.loss, l.grad_norm)).collect()
        };
        let two = bits(&plan);
        in_turn(&mut plan.plan);
        assert_eq!(two, bits(&plan), "{more:?}");
    }
}

#[test]
fn a_step_that_does_not_wait_is_found() {
    let good = plan(&[]).plan;
    prove(&good).unwrap();
    let micro = good.stages[0].programs.iter().position(|p| p.name == "micro").unwrap();
    let waits: Vec<usize> = (0..good.stages[0].programs[micro].steps.len())
        .filter(|i| good.stages[0].programs[micro].steps[*i].after.is_some())
        .collect();
    assert!(waits.len() > 100, "{}", waits.len());
    for i in waits {
        let mut bad = good.clone();
        bad.stages[0].programs[micro].steps[i].after = None;
        // A step may wait for one that another step waits for later anyway, but not for nothing: one of the two is missed.
        let e = prove(&bad).expect_err(&format!("step {i}"));
        assert_eq!(e.code, &RACE, "step {i}: {e}");
        let e = check::check(&bad, 0).unwrap_err();
        assert_eq!(e.code.id, "B0201", "step {i}: {e}");
    }
    // One that sends on the other stream than it was.
    let first = good.stages[0].programs[micro].steps.iter().position(beside).unwrap();
    let mut bad = good.clone();
    bad.stages[0].programs[micro].steps[first + 1].stream = Stream::Communication;
    assert_eq!(prove(&bad).unwrap_err().code, &RACE);
}

#[test]
fn weights_and_the_tokens_of_experts_come_beside_work() {
    let plan = plan(&[]).plan;
    let gathers = |s: &&Step| s.sends().is_some_and(|c| matches!(c.kind, CollectiveKind::AllGather { .. }));
    let micro = plan.stages[0].program("micro").unwrap();
    let weights: Vec<&Step> = micro.steps.iter().filter(gathers).filter(|s| of_weight(&plan, s)).collect();
    let hidden = weights.iter().filter(|s| beside(s)).count();
    assert!(weights.len() > 30 && hidden * 10 >= weights.len() * 9, "{hidden} of {}", weights.len());
    // The tokens come to the experts of all ranks while the shared expert works.
    let tokens =
        micro.steps.iter().filter(gathers).filter(|s| !of_weight(&plan, s) && s.loc.block.ends_with("experts"));
    assert!(tokens.into_iter().any(beside));
}

fn of_weight(plan: &Plan, step: &Step) -> bool {
    use athanor_ir::plan::BufferRole;
    let stage = &plan.stages[0];
    let name = |i: &usize| matches!(stage.buffers[*i].role, BufferRole::Weight { .. });
    step.inputs.iter().any(name)
}

#[test]
fn the_reference_takes_its_steps_in_turn() {
    let plan = Compiled::new(ON, OptLevel::O0, &zero(3)).plan;
    assert!(steps(&plan).all(|s| s.stream == Stream::Compute && s.after.is_none()));
    assert!(steps(&plan).any(|s| matches!(&s.action, athanor_ir::plan::Action::Op(Op::Collective(_)))));
}
