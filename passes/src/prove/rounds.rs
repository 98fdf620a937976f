//! Whether ranks that do something together again and again do it as often.

use athanor_ir::plan::{Action, Buffer, Plan, Program, Stage};
use athanor_ir::{Collective, CollectiveKind, F64, Op, ReduceKind};
use std::ops::Range;

/// Checks what every program of `plan` repeats.
///
/// How often is data. Where ranks meet in what is repeated, it must be the largest number among all that meet there: an `all_reduce`
/// over a group that has all of theirs in it, made in the same program before, and left alone until the last round. Repeated
/// steps do not repeat others, and what counts rounds starts from 0 and is written by nothing else.
///
/// # Errors
/// The step that goes back.
pub(super) fn agreed(plan: &Plan) -> Result<(), String> {
    for (s, stage) in plan.stages.iter().enumerate() {
        for p in &stage.programs {
            let mut behind = 0;
            for (i, step) in p.steps.iter().enumerate() {
                let Action::Again { first } = step.action else { continue };
                let here = |text: String| {
                    format!("step {i} of program {} of stage {s} goes back to step {first}: {text}", p.name)
                };
                if first < behind || first > i {
                    return Err(here("that is no step of its own before it".into()));
                }
                repeated(stage, p, (first, i)).map_err(here)?;
                behind = i + 1;
            }
        }
    }
    Ok(())
}

/// Checks steps `first` to `last`, of which the last one goes back.
fn repeated(stage: &Stage, p: &Program, (first, last): (usize, usize)) -> Result<(), String> {
    let of = |list: &[usize]| list.iter().filter_map(|i| stage.buffers.get(*i)).collect::<Vec<&Buffer>>();
    let (reads, writes) = (of(&p.steps[last].inputs), of(&p.steps[last].outputs));
    let ([rounds, done], [counted]) = (&reads[..], &writes[..]) else {
        return Err("it does not say how often".into());
    };
    if done != counted {
        return Err("it counts rounds elsewhere than it reads them".into());
    }
    let made = |b: &Buffer, steps: Range<usize>| {
        let writes = |s: &usize| of(&p.steps[*s].outputs).iter().any(|o| o.shares(b));
        steps.rev().find(writes)
    };
    if made(rounds, first..last + 1).is_some() || made(done, first..last).is_some() {
        return Err("how often changes meanwhile".into());
    }
    let action = |step: Option<usize>| step.map(|s| &p.steps[s].action);
    if action(made(done, 0..first)) != Some(&Action::Op(Op::Constant { value: F64(0.0) })) {
        return Err("rounds are not counted from 0".into());
    }
    let met = p.steps[first..last].iter().filter_map(|s| collective(&s.action)).filter(|c| c.sends());
    let mut axes: Vec<&str> = met.flat_map(Collective::axes).collect();
    axes.sort_unstable();
    axes.dedup();
    if axes.is_empty() {
        return Ok(());
    }
    if axes.contains(&"pp") {
        return Err("stages run at different times and meet in it".into());
    }
    let largest = |c: &&Collective| c.kind == CollectiveKind::AllReduce { reduce: ReduceKind::Max };
    match action(made(rounds, 0..first)).and_then(collective).filter(largest) {
        Some(c) if axes.iter().all(|a| c.axes().any(|b| b == *a)) => Ok(()),
        Some(c) => {
            Err(format!("ranks along {} meet in it, and those along {} agree how often", axes.join(","), c.axes))
        }
        None => Err(format!("ranks along {} meet in it and do not agree how often", axes.join(","))),
    }
}

fn collective(action: &Action) -> Option<&Collective> {
    if let Action::Op(Op::Collective(c)) = action { Some(c) } else { None }
}
