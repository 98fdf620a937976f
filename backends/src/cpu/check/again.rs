//! Steps that go back: to a step before them, and over values that live until the last round.

use super::{stride, tensor_type};
use athanor_ir::plan::{Action, Buffer, Program, Stage};
use athanor_ir::{DType, TensorType};

/// Checks the steps of `p` that go back.
///
/// How often and how often so far are two i32s. What repeated steps touch of what others touch too must live through all of them:
/// in the next round it is read again.
pub(super) fn check(stage: &Stage, p: &Program) -> Result<(), String> {
    for (i, step) in p.steps.iter().enumerate() {
        let Action::Again { first } = step.action else { continue };
        let of = |list: &[usize]| list.iter().map(|b| &stage.buffers[*b]).collect::<Vec<&Buffer>>();
        let (ins, outs) = (of(&step.inputs), of(&step.outputs));
        let ([rounds, done], [counted]) = (&ins[..], &outs[..]) else {
            return Err(format!("step {i}: goes back without saying how often"));
        };
        let scalar = TensorType::scalar(DType::I32);
        let fits = [rounds, done].iter().all(|b| tensor_type(b) == scalar) && !rounds.shares(done);
        if !fits || *done != *counted || first > i {
            return Err(format!("step {i}: cannot go back to step {first} by `{}` and `{}`", rounds.name, done.name));
        }
        let touched = p.steps[first..=i].iter().flat_map(|s| s.inputs.iter().chain(&s.outputs));
        for b in touched.map(|b| &stage.buffers[*b]).filter(|b| stride(b) == 0) {
            let Some(live) = b.live else { continue };
            if (live.0 < first || live.1 > i) && (live.0 > first || live.1 < i) {
                return Err(format!(
                    "step {i}: goes back to step {first}, and `{}` lives from step {} to step {} only",
                    b.name, live.0, live.1
                ));
            }
        }
    }
    Ok(())
}
