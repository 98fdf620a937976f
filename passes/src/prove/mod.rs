//! Proof that the ranks of a plan fit together: collective operations and messages match, nobody waits for ever, and no value is
//! overwritten while it is needed.
//!
//! Ranks of a stage run one program: they are a *class*, and what they do together they do in one order. So the work is
//! proportional to the number of stages, whatever the number of ranks: what classes do with each other is played through
//! ([`events`]), and for one rank of each class who has which slot ([`slots`]) and what its streams do ([`athanor_ir::streams`]).

mod events;
mod slots;

pub use events::{Event, Events};

use athanor_ir::plan::Plan;
use athanor_ir::{Code, Diagnostic, Result, streams};

/// Ranks of a plan would wait for each other, or take each other's data for something else.
pub const UNMATCHED: Code = Code {
    id: "P0601",
    title: "the ranks of the plan do not fit together",
    explain: "Before a plan for several ranks is written, what its ranks do together is played through: ranks of a group must \
              come to the same collective operation, over the same group, of the same type and size, and a rank that sends must \
              meet one that receives the same, without any of them waiting for another that never comes, even if no message is \
              buffered. A plan that fails this would hang or compute nonsense; the compiler has made a mistake that is worth \
              reporting.",
};

/// A value of a micro-batch would be overwritten, or read before it is there.
pub const HAZARD: Code = Code {
    id: "P0602",
    title: "a stage of the plan would lose a value of a micro-batch",
    explain: "A stage of a pipeline keeps what a micro-batch needs later in a slot, and has as many slots as there are \
              micro-batches in flight. Before a plan is written, its order of work is followed: a slot has one micro-batch at a \
              time, from the first value that arrives to the last part that reads it, every part runs once and after what it \
              needs, and what a program leaves is sent before the next one runs. A plan that fails this would compute nonsense; \
              the compiler has made a mistake that is worth reporting.",
};

/// A step would work on the memory of another one that is still under way.
pub const RACE: Code = Code {
    id: "P0603",
    title: "two steps of the plan would get in each other's way",
    explain: "What ranks send each other may go on beside computation, on a stream of its own. Before a plan is written, both               streams are followed: a step waits for every step of the other stream that touches its memory, and ranks communicate               in one order, that of the program. A plan that fails this would compute nonsense, now and then; the compiler has               made a mistake that is worth reporting.",
};

/// Codes of this module.
pub const CODES: &[&Code] = &[&UNMATCHED, &HAZARD, &RACE];

/// Proves that the ranks of `plan` fit together.
///
/// # Errors
/// [`UNMATCHED`], [`HAZARD`], [`RACE`].
pub fn prove(plan: &Plan) -> Result<()> {
    if plan.mesh.ranks() == 1 {
        return Ok(());
    }
    let refuse = |code: &'static Code, text: String| {
        Diagnostic::error(code, text)
            .help(format!("report it with the configuration; `athanor explain {}` says more", code.id))
            .err()
    };
    events::groups(plan).or_else(|text| refuse(&UNMATCHED, text))?;
    slots::kept(plan).or_else(|text| refuse(&HAZARD, text))?;
    for (s, stage) in plan.stages.iter().enumerate() {
        let followed = stage.programs.iter().try_for_each(|p| streams::check(&stage.buffers, p));
        followed.or_else(|text| refuse(&RACE, format!("stage {s}: {text}")))?;
    }
    Events::of(plan).and_then(|events| events.matched()).or_else(|text| refuse(&UNMATCHED, text))
}

#[cfg(test)]
mod tests;
