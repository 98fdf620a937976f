//! What the stages of a plan do with each other, in order.

use athanor_ir::pipeline::{Act, Part, Task};
use athanor_ir::plan::{Action, Plan, Program, Stage, Step};
use athanor_ir::{Collective, CollectiveKind, DType, Op};
use std::fmt;

/// Element types and sizes of what is sent.
type Values = Vec<(DType, usize)>;

/// Something that a stage does with others.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'a> {
    /// A collective operation over axis pp.
    Together {
        /// Stages that take part.
        stages: Vec<usize>,
        /// Program.
        program: &'a str,
        /// Step of the program.
        step: usize,
        /// What is done.
        op: &'a Collective,
        /// Element type.
        dtype: DType,
        /// Size of the operand.
        bytes: usize,
    },
    /// A message to a stage.
    Send {
        /// The receiver.
        to: usize,
        /// The task whose result it is.
        task: Task,
        /// What is sent.
        values: Values,
    },
    /// A message from a stage.
    Receive {
        /// The sender.
        from: usize,
        /// The task whose result it is, of the sender.
        task: Task,
        /// What is expected.
        values: Values,
    },
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Together { program, step, op, dtype, bytes, .. } => {
                write!(f, "{} over {} of {bytes} bytes of {dtype} (program {program}, step {step})", op.name(), op.axes)
            }
            Self::Send { to, task, values } => write!(f, "a message of {task} to stage {to}{}", sizes(values)),
            Self::Receive { from, task, values } => write!(f, "a message of {task} from stage {from}{}", sizes(values)),
        }
    }
}

fn sizes(values: &Values) -> String {
    let each: Vec<String> = values.iter().map(|(dtype, bytes)| format!("{bytes} bytes of {dtype}")).collect();
    format!(" ({})", each.join(", "))
}

/// What every stage does with others, in the order of a step.
#[derive(Debug, Clone, Default)]
pub struct Events<'a> {
    /// By stage.
    pub stages: Vec<Vec<Event<'a>>>,
}

/// Collective operations of `plan` with their programs.
fn collectives(stage: &Stage) -> impl Iterator<Item = (&Program, usize, &Step, &Collective)> {
    stage.programs.iter().flat_map(move |p| {
        p.steps.iter().enumerate().filter_map(move |(i, s)| match &s.action {
            Action::Op(Op::Collective(c)) => Some((p, i, s, c)),
            _ => None,
        })
    })
}

/// Checks that the groups of collective operations are those of the mesh, and that those over pp stand where every stage comes
/// by: not in programs of micro-batches.
///
/// Members of a group over other axes are ranks of one stage: they run the same program and meet whatever it is.
pub(super) fn groups(plan: &Plan) -> Result<(), String> {
    for (s, stage) in plan.stages.iter().enumerate() {
        let of_micro_batches: Vec<String> =
            stage.pipeline.iter().flat_map(|p| &p.acts).filter_map(program_of).collect();
        for (p, i, _, c) in collectives(stage) {
            let here = || format!("{} over {} of stage {s} (program {}, step {i})", c.name(), c.axes, p.name);
            let Some(members) = c.members(&plan.mesh) else {
                return Err(format!("{} names an axis that the mesh does not have", here()));
            };
            if members != c.ranks {
                return Err(format!("{} is of {} ranks, and its axes have {members}", here(), c.ranks));
            }
            if c.axes().any(|a| a == "pp") && of_micro_batches.contains(&p.name) {
                return Err(format!(
                    "{} is in a program of micro-batches, which stages run at different times",
                    here()
                ));
            }
        }
    }
    Ok(())
}

/// Name of the program that an act runs.
pub(super) fn program_of(act: &Act) -> Option<String> {
    if let Act::Run { task, .. } = act { Some(task.part.program(task.chunk)) } else { None }
}

impl<'a> Events<'a> {
    /// What the stages of `plan` do with each other in a step: messages of micro-batches, then the programs of the optimizer.
    ///
    /// # Errors
    /// An act that leads to another stage than the next position of the model is of.
    pub fn of(plan: &'a Plan) -> Result<Self, String> {
        let stage = |(s, stage): (usize, &'a Stage)| {
            let mut events = vec![];
            if let Some(p) = &stage.pipeline {
                let values = |list: &[usize]| -> Values {
                    list.iter().map(|i| (stage.buffers[*i].dtype, stage.buffers[*i].bytes)).collect()
                };
                for act in &p.acts {
                    match *act {
                        Act::Send { to, task, .. } => {
                            expect(plan, (s, task), to, None)?;
                            let chunk = &p.chunks[task.chunk];
                            let list = if task.part == Part::F { &chunk.leaves } else { &chunk.goes_back };
                            events.push(Event::Send { to, task, values: values(list) });
                        }
                        Act::Receive { from, task, chunk, .. } => {
                            expect(plan, (from, task), s, Some(chunk))?;
                            let chunk = &p.chunks[chunk];
                            let list = if task.part == Part::F { &chunk.arrives } else { &chunk.returns };
                            events.push(Event::Receive { from, task, values: values(list) });
                        }
                        Act::Pass { task, chunk, .. } => expect(plan, (s, task), s, Some(chunk))?,
                        Act::Run { .. } => {}
                    }
                }
            }
            for (p, step, s, op) in collectives(stage).filter(|(.., c)| c.sends() && c.axes().any(|a| a == "pp")) {
                let Some(x) = s.inputs.first().map(|i| &stage.buffers[*i]) else { continue };
                let count = plan.stages.len();
                let ends = op.kind == CollectiveKind::SumEnds;
                let stages = (0..count).filter(|s| !ends || [0, count - 1].contains(s)).collect();
                events.push(Event::Together { stages, program: &p.name, step, op, dtype: x.dtype, bytes: x.bytes });
            }
            Ok(events)
        };
        Ok(Self { stages: plan.stages.iter().enumerate().map(stage).collect::<Result<_, String>>()? })
    }

    /// Plays the events through, each waiting until those that it is with have come: nothing is buffered.
    ///
    /// # Errors
    /// Two stages that do not fit.
    pub fn matched(&self) -> Result<(), String> {
        let mut at = vec![0; self.stages.len()];
        let now = |stage: usize, at: &[usize]| self.stages.get(stage).and_then(|events| events.get(at[stage]));
        loop {
            let mut moved = false;
            for stage in 0..self.stages.len() {
                while let Some(Event::Send { to, task, values }) = now(stage, &at) {
                    let Some(Event::Receive { from, task: expected, values: wanted }) =
                        (*to < self.stages.len()).then(|| now(*to, &at)).flatten()
                    else {
                        break;
                    };
                    if *from != stage {
                        break;
                    }
                    if (task, values) != (expected, wanted) {
                        return Err(format!(
                            "stage {stage} sends {task}{} to stage {to}, which expects {expected}{}",
                            sizes(values),
                            sizes(wanted)
                        ));
                    }
                    at[stage] += 1;
                    at[*to] += 1;
                    moved = true;
                }
            }
            for first in 0..self.stages.len() {
                // The first member looks after the group.
                let Some(event @ Event::Together { stages, .. }) = now(first, &at) else { continue };
                if stages.first() != Some(&first) {
                    continue;
                }
                let what = |e: &Event<'_>| match e {
                    Event::Together { stages, op, dtype, bytes, .. } => {
                        Some((stages.clone(), (*op).clone(), *dtype, *bytes))
                    }
                    Event::Send { .. } | Event::Receive { .. } => None,
                };
                let others: Vec<_> = stages.iter().map(|s| now(*s, &at)).collect();
                if !others.iter().all(|e| matches!(e, Some(Event::Together { .. }))) {
                    continue;
                }
                if let Some((s, other)) =
                    stages.iter().zip(others).find_map(|(s, e)| e.filter(|e| what(e) != what(event)).map(|e| (s, e)))
                {
                    return Err(format!("stage {first} is in {event}, stage {s} in {other}"));
                }
                stages.iter().for_each(|s| at[*s] += 1);
                moved = true;
            }
            if !moved {
                break;
            }
        }
        let waits = |s: usize| now(s, &at).map_or_else(|| "has ended".to_owned(), |e| format!("waits in {e}"));
        match (0..self.stages.len()).find(|s| now(*s, &at).is_some()) {
            None => Ok(()),
            Some(first) => {
                let others: Vec<String> =
                    (0..self.stages.len()).filter(|s| *s != first).map(|s| format!("stage {s} {}", waits(s))).collect();
                Err(format!("stage {first} {}; {}", waits(first), others.join("; ")))
            }
        }
    }
}

/// Checks that the result of a task goes to the stage and chunk of the next position, or of the one before.
fn expect(plan: &Plan, (stage, task): (usize, Task), to: usize, chunk: Option<usize>) -> Result<(), String> {
    let Some(pipeline) = &plan.run.pipeline else { return Err("the run has no pipeline".into()) };
    let (stages, shape) = (pipeline.stages(), pipeline.schedule.shape());
    let here = shape.position(stages, stage, task.chunk);
    let next = match task.part {
        Part::F => Some(here + 1).filter(|next| *next < pipeline.positions()),
        Part::B => here.checked_sub(1),
        Part::W => None,
    };
    match next.map(|position| shape.at(stages, position)) {
        Some((at, of)) if at == to && chunk.is_none_or(|c| c == of) => Ok(()),
        Some((at, of)) => {
            Err(format!("{task} of stage {stage} goes to stage {to}, and chunk {of} of stage {at} reads it"))
        }
        None => Err(format!("{task} of stage {stage} goes to stage {to}, and nobody reads it")),
    }
}
