//! Ranks that exchange the rows of their experts, in one round or in many: the numbers are those of one device.

use super::{GLOBAL, OptLevel, Resume, STEPS, agree, parity};
use crate::support::mesh::{Compiled, DEEPSEEK, Spread, zero};
use athanor_ir::Op;
use athanor_ir::plan::Action;

const EXCHANGE: (&str, &str) = ("parallel_config.expert_exchange", "exchange");
/// So little room that rows go in many rounds.
const LITTLE: (&str, &str) = ("parallel_config.expert_exchange_factor", "0.1");
const BY_TWO: (&str, &str) = ("parallel_config.expert_parallel", "2");
const BY_FOUR: (&str, &str) = ("parallel_config.expert_parallel", "4");

const SEQUENCE: (&str, &str) = ("parallel_config.use_seq_parallel", "True");

fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&DEEPSEEK, more].concat()
}

#[test]
fn rows_that_fit_go_in_one_round() {
    parity(OptLevel::O0, 1, &with(&[EXCHANGE, BY_TWO]), &[[2, 1]]);
}

#[test]
fn rows_that_do_not_fit_go_in_other_rounds() {
    parity(OptLevel::O0, 1, &with(&[EXCHANGE, LITTLE, BY_TWO]), &[[4, 1]]);
    parity(OptLevel::O1, 2, &with(&[EXCHANGE, LITTLE, BY_TWO]), &[[2, 1]]);
}

#[test]
fn experts_with_parts_of_their_width_exchange_rows() {
    parity(OptLevel::O1, 1, &with(&[EXCHANGE, LITTLE, BY_TWO, SEQUENCE]), &[[2, 2]]);
}

#[test]
fn tensor_parallel_ranks_with_other_experts_exchange_rows() {
    parity(OptLevel::O1, 1, &with(&[EXCHANGE, LITTLE, BY_FOUR, SEQUENCE]), &[[2, 2]]);
}

#[test]
fn layers_that_are_computed_again_with_weights_in_parts_exchange_rows() {
    let again = ("recompute_config.recompute", "True");
    parity(OptLevel::O1, 1, &[with(&[EXCHANGE, LITTLE, BY_TWO, again]), zero(3)].concat(), &[[4, 1]]);
}

#[test]
fn stages_of_a_pipeline_exchange_rows() {
    let layers = ("model.model_config.offset", "[0, 1]");
    let on = Spread { pp: 2, dp: 2, tp: 1, micro: 2, sequences: GLOBAL };
    let stages = Compiled::new(on, OptLevel::O1, &with(&[EXCHANGE, LITTLE, BY_TWO, layers])).train(STEPS, Resume::No);
    let serial = Compiled::new(on.alone(), OptLevel::O1, &DEEPSEEK).train(STEPS, Resume::No);
    agree("stages", &stages, &serial);
}

/// Gradients that rounds make at once are added up where they are made, though the schedule puts weights' gradients off.
#[test]
fn stages_that_put_gradients_off_exchange_rows() {
    let model = [("load_checkpoint", ""), ("model.model_config.num_hidden_layers", "4")];
    let chunks = ("model.model_config.pp_interleave_num", "2");
    let schedule = ("parallel.pipeline_config.pipeline_scheduler", "zero_bubble_v");
    let on = Spread { pp: 2, dp: 2, tp: 1, micro: 4, sequences: 2 * GLOBAL };
    let changes = with(&[&[EXCHANGE, LITTLE, BY_TWO, chunks, schedule], &model[..]].concat());
    let stages = Compiled::new(on, OptLevel::O0, &changes).train(2, Resume::No);
    agree("stages", &stages, &Compiled::new(on.alone(), OptLevel::O0, &with(&model)).train(2, Resume::No));
}

/// What a rank has room for does not grow with the ranks that share experts.
#[test]
fn room_for_rows_is_planned() {
    let on = Spread { pp: 1, dp: 4, tp: 1, micro: 1, sequences: GLOBAL };
    let plan =
        |rows| Compiled::new(on, OptLevel::O0, &with(&[BY_FOUR, ("parallel_config.expert_exchange", rows)])).plan;
    let repeats = |plan: &athanor_ir::Plan| {
        let steps = plan.stages[0].programs.iter().flat_map(|p| &p.steps);
        steps.filter(|s| matches!(s.action, Action::Again { .. })).count()
    };
    let (gathered, exchanged, auto) = (plan("gather"), plan("exchange"), plan("auto"));
    // Two layers with experts, forward and backward.
    assert_eq!([&gathered, &exchanged, &auto].map(repeats), [0, 4, 4]);
    assert!(exchanged.stages[0].arena_bytes < gathered.stages[0].arena_bytes);
    let sends = |op: &Op| matches!(op, Op::Collective(c) if c.name() == "all_to_all" && c.axes == "ep");
    let exchanges = exchanged.stages[0].programs.iter().flat_map(|p| &p.steps);
    let exchanges = exchanges.filter(|s| matches!(&s.action, Action::Op(op) if sends(op))).count();
    // Of ids, rows there and back; backward of ids, rows and what was made of them, gradients there and back.
    assert_eq!(exchanges, 2 * (3 + 5));
}
