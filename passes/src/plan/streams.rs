//! Communication beside computation: which collective operations go to a stream of their own, what waits for them, and until when
//! the memory that they work on is theirs.
//!
//! An operation is worth it if a kernel stands between it and the first step that needs it done. All operations are begun in the
//! order of the program, which is that of every rank: one that stays on the compute stream waits for those before it.

use super::layout::Place;
use super::{Draft, DraftStep};
use athanor_ir::Op;
use athanor_ir::plan::{Action, Buffer, Step, Stream};
use athanor_ir::streams::conflict;
use athanor_ir::types::TensorType;
use std::collections::HashMap;

/// Draft steps of the communication stream, each with the last step during which it may still be at work.
pub(crate) type Beside = HashMap<usize, usize>;

fn sends(step: &DraftStep) -> bool {
    matches!(&step.action, Action::Op(Op::Collective(c)) if c.sends())
}

/// Whether one of two steps writes what the other reads or writes.
fn tied(a: &DraftStep, b: &DraftStep) -> bool {
    type Laid = (Place, TensorType);
    let share = |(x, t): &Laid, (y, u): &Laid| {
        x.home == y.home && x.offset < y.offset + u.bytes() && y.offset < x.offset + t.bytes()
    };
    let writes = |s: &'_ DraftStep| s.outputs.iter().chain(&s.scratch).cloned().collect::<Vec<Laid>>();
    let meet = |xs: &[Laid], ys: &[Laid]| xs.iter().any(|x| ys.iter().any(|y| share(x, y)));
    let (of_a, of_b) = (writes(a), writes(b));
    meet(&of_a, &of_b) || meet(&of_a, &b.inputs) || meet(&a.inputs, &of_b)
}

/// The operations of `draft` that have work beside them; what moves the parts that one has gathered is put off until its reader.
pub(super) fn beside(draft: &mut Draft<'_>) -> Beside {
    let mut all = Beside::new();
    let mut first = 0;
    for end in draft.ends.clone() {
        put_off(&mut draft.steps[..end], first);
        let steps = &draft.steps[..end];
        // When the next operation must have ended, and with it this one.
        let mut next = end;
        for i in (first..end).rev().filter(|i| sends(&steps[*i])) {
            next = next.min(wall(steps, i));
            let needed = (i + 1..next).find(|k| !sends(&steps[*k]) && tied(&steps[i], &steps[*k])).unwrap_or(next);
            if steps[i + 1..needed].iter().any(|s| matches!(s.action, Action::Kernel(_))) {
                all.insert(i, needed - 1);
                next = needed;
            } else {
                next = i;
            }
        }
        first = end;
    }
    all
}

/// The first step behind `i` that a step may not be moved behind and an operation not be at work beyond: one that goes back over
/// `i`, or the first of those that another goes back over.
fn wall(steps: &[DraftStep], i: usize) -> usize {
    let back = |(k, s): (usize, &DraftStep)| match s.action {
        Action::Again { first } => Some(if first > i { first } else { k }),
        _ => None,
    };
    steps.iter().enumerate().skip(i + 1).find_map(back).unwrap_or(steps.len())
}

/// From step `first` on, moves each step that only places what the operation before it brought, of the same node, to right before
/// the first one that needs it.
fn put_off(steps: &mut [DraftStep], first: usize) {
    for i in (first + 1..steps.len()).rev() {
        if sends(&steps[i]) || !sends(&steps[i - 1]) || steps[i].node.is_none() || steps[i].node != steps[i - 1].node {
            continue;
        }
        let behind = wall(steps, i).max(i + 1);
        let needed = (i + 1..behind).find(|k| tied(&steps[i], &steps[*k])).unwrap_or(behind);
        steps[i..needed].rotate_left(1);
    }
}

/// Sets what each of the `steps` of a program waits for, given their streams.
pub(super) fn wait(buffers: &[Buffer], steps: &mut [Step]) {
    let mut flying: Vec<usize> = vec![];
    let mut ended: Option<usize> = None;
    for i in 0..steps.len() {
        let (before, step) = (&steps[..i], &steps[i]);
        let apart = |k: &usize| before[*k].sends().is_some() && step.sends().is_some();
        let back = matches!(step.action, Action::Again { .. });
        let needs = |k: &usize| back || apart(k) || conflict(buffers, step, &before[*k]);
        let after = match step.stream {
            Stream::Compute => flying.iter().rev().copied().find(|k| needs(k)),
            Stream::Communication => {
                let from = ended.map_or(0, |e| e + 1);
                (from..i).rev().filter(|k| before[*k].stream == Stream::Compute).find(|k| needs(k))
            }
        };
        match step.stream {
            Stream::Compute => flying.retain(|f| after.is_none_or(|a| *f > a)),
            Stream::Communication => {
                ended = ended.max(after);
                flying.push(i);
            }
        }
        steps[i].after = after;
    }
}
