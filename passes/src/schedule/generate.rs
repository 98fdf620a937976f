//! The lists of each kind of schedule.

use super::interleaved::interleaved;
use super::vshape::{dualpipe_v, zero_bubble_v};
use super::{Kind, Part, Schedule, Task};
use athanor_ir::{Code, Diagnostic, Result};

/// A schedule that does not exist for these numbers.
pub const IMPOSSIBLE: Code = Code {
    id: "P0301",
    title: "there is no such pipeline schedule",
    explain: "Every schedule needs at least one stage, micro-batch and chunk. gpipe, 1f1b and seqpipe have one chunk of layers \
              per stage; zero_bubble_v and dualpipe_v have two, and at least twice as many micro-batches as stages; only \
              seqpipe cuts sequences.",
};

/// What a schedule is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Which.
    pub kind: Kind,
    /// Pipeline stages.
    pub stages: usize,
    /// Micro-batches of a step.
    pub micro_batches: usize,
    /// Chunks of layers per stage (`pp_interleave_num`).
    pub chunks: usize,
    /// Slices of a sequence (`seq_split_num`).
    pub slices: usize,
}

/// The schedule of `request`.
///
/// # Errors
/// [`IMPOSSIBLE`].
pub fn generate(request: &Request) -> Result<Schedule> {
    let Request { kind, stages: p, micro_batches: m, chunks: v, slices } = *request;
    let two = matches!(kind, Kind::ZeroBubbleV | Kind::DualpipeV);
    let wanted = match kind {
        Kind::Interleaved => v,
        _ if two => 2,
        _ => 1,
    };
    let refuse = |why: String, help: &str| Diagnostic::error(&IMPOSSIBLE, why).help(help).err();
    if p == 0 || m == 0 || v == 0 || slices == 0 {
        return refuse(format!("{p} stages, {m} micro-batches, {v} chunks and {slices} slices"), "each is at least 1");
    }
    if v != wanted {
        return refuse(
            format!("{kind:?} has {wanted} chunks of layers per stage, not {v}"),
            "change pp_interleave_num",
        );
    }
    if slices > 1 && kind != Kind::Seqpipe {
        return refuse(format!("{kind:?} does not cut sequences, and {slices} slices are asked for"), "use seqpipe");
    }
    if two && (p < 2 || m < 2 * p) {
        let why = format!("{kind:?} needs two stages and twice as many micro-batches, not {p} and {m}");
        return refuse(why, "raise micro_batch_num, or use 1f1b");
    }
    let per_stage = |list: &dyn Fn(usize) -> Vec<Task>| (0..p).map(list).collect::<Vec<_>>();
    let stages = match kind {
        Kind::Gpipe => per_stage(&|_| all(Part::F, m).chain(all(Part::B, m)).collect()),
        Kind::OneFOneB | Kind::Seqpipe => per_stage(&|s| one_f_one_b(p, m, slices, s)),
        Kind::Interleaved => interleaved(p, m, v),
        Kind::ZeroBubbleV => zero_bubble_v(p, m),
        Kind::DualpipeV => per_stage(&|s| dualpipe_v(p, m, s)),
    };
    Ok(Schedule { shape: kind.shape(), chunks: v, micro_batches: m, slices, split: kind.splits(), stages })
}

fn all(part: Part, m: usize) -> impl Iterator<Item = Task> {
    (0..m).map(move |micro| Task { part, chunk: 0, micro })
}

/// One forward, one backward. The backward pass of a sequence begins with its last slice, so that stage s runs
/// p − 1 − s + slices − 1 forward passes ahead.
fn one_f_one_b(p: usize, m: usize, slices: usize, stage: usize) -> Vec<Task> {
    let units = m * slices;
    let ahead = (p - 1 - stage + slices - 1).min(units);
    let f = |k: usize| Task { part: Part::F, chunk: 0, micro: k };
    let b = |k: usize| Task { part: Part::B, chunk: 0, micro: k / slices * slices + (slices - 1 - k % slices) };
    let mut list: Vec<Task> = (0..ahead).map(f).collect();
    for k in 0..units {
        list.extend((k + ahead < units).then(|| f(k + ahead)));
        list.push(b(k));
    }
    list
}
