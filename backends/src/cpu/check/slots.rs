//! Slots of micro-batches in flight: they lie clear of everything else, and what a stage does names only what there is.

use super::overlap::{apart, is_kept};
use super::{overlap, range, stride};
use athanor_ir::Memory;
use athanor_ir::pipeline::Act;
use athanor_ir::plan::{Buffer, BufferRole, Chunk, Stage, StagePipeline};
use std::cmp::Reverse;

/// Acts of a step, beyond which a plan is taken for damaged.
const MOST: usize = 1 << 24;

/// Checks the slots of a stage and what it does in a step.
///
/// Slots are disjoint, inside the arena of their memory, and no other buffer reaches into one but as a value of the micro-batch. Values of a
/// chunk that live at the same time are disjoint in a slot, or one contains the other.
pub(super) fn check(stage: &Stage) -> Result<(), String> {
    let Some(p) = &stage.pipeline else {
        let in_flight = |b: &&Buffer| matches!(b.role, BufferRole::Stash { .. } | BufferRole::Cache { .. });
        return match stage.buffers.iter().find(in_flight) {
            Some(b) => Err(format!("`{}` lies in a slot or cache, and the stage has none", b.name)),
            None => Ok(()),
        };
    };
    Memory::ALL.into_iter().try_for_each(|memory| check_in(stage, p, memory))?;
    caches(stage, p)?;
    p.chunks.iter().enumerate().try_for_each(|(i, c)| passing(stage, c).map_err(|e| format!("chunk {i}: {e}")))?;
    acts(stage, p)
}

/// Checks the slots in `memory`.
fn check_in(stage: &Stage, p: &StagePipeline, memory: Memory) -> Result<(), String> {
    let (slots_at, slot_bytes) = p.slots_in(memory);
    let end = slot_bytes.checked_mul(p.slots).and_then(|all| all.checked_add(slots_at));
    let Some(end) = end.filter(|end| *end <= stage.bytes_in(memory)) else {
        return Err(format!("{} slots of {slot_bytes} bytes lie outside the arena", p.slots));
    };
    let mut stash: Vec<&Buffer> = vec![];
    for b in stage.buffers.iter().filter(|b| b.memory == memory) {
        let r = range(b);
        let BufferRole::Stash { chunk, stride } = b.role else {
            if overlap(&r, &(slots_at..end)) {
                let what = if is_kept(b) { "which is kept" } else { "which is no value in a slot" };
                return Err(format!("a slot overlaps `{}`, {what}", b.name));
            }
            continue;
        };
        if r.start < slots_at || r.end > slots_at + slot_bytes || stride != slot_bytes {
            return Err(format!("`{}` lies outside of its slot", b.name));
        }
        if chunk >= p.chunks.len() || b.live.is_none() {
            return Err(format!("`{}` is of no chunk, or has no life", b.name));
        }
        stash.push(b);
    }
    for chunk in 0..p.chunks.len() {
        let of = |b: &&&Buffer| matches!(b.role, BufferRole::Stash { chunk: c, .. } if c == chunk);
        let mut own: Vec<&Buffer> = stash.iter().filter(of).copied().collect();
        own.sort_by_key(|b| (b.offset, Reverse(b.bytes)));
        own.dedup_by(|b, a| range(a) == range(b) && a.live == b.live);
        apart(&own).map_err(|e| format!("chunk {chunk}: {e}"))?;
    }
    Ok(())
}

/// Checks the caches of micro-batches: one behind the other inside the device's arena, and nothing else reaches into them.
fn caches(stage: &Stage, p: &StagePipeline) -> Result<(), String> {
    let (first, end) = (p.caches_at, p.cache_bytes.checked_mul(p.caches).and_then(|all| all.checked_add(p.caches_at)));
    let Some(end) = end.filter(|end| *end <= stage.arena_bytes) else {
        return Err(format!("caches of {} micro-batches of {} bytes lie outside the arena", p.caches, p.cache_bytes));
    };
    if p.caches > 0 && overlap(&(first..end), &(p.slots_at..p.slots_at + p.slots * p.slot_bytes)) {
        return Err("caches and slots overlap".into());
    }
    for b in &stage.buffers {
        let r = range(b);
        let BufferRole::Cache { stride } = b.role else {
            if b.memory.is_device() && overlap(&r, &(first..end)) {
                return Err(format!("a cache overlaps `{}`, which is none", b.name));
            }
            continue;
        };
        let inside = first <= r.start && r.end <= first + p.cache_bytes && p.caches > 0;
        if !b.memory.is_device() || !inside || stride != p.cache_bytes {
            return Err(format!("`{}` lies outside of the caches of its micro-batch", b.name));
        }
    }
    Ok(())
}

/// What passes between a chunk and its neighbours: it arrives in slots, and leaves from values of the micro-batch.
fn passing(stage: &Stage, chunk: &Chunk) -> Result<(), String> {
    let buffer = |i: &usize| {
        let b = stage.buffers.get(*i).ok_or_else(|| format!("buffer {i} does not exist"))?;
        if b.memory.is_device() { Ok(b) } else { Err(format!("`{}` passes between stages and is on the host", b.name)) }
    };
    for i in chunk.arrives.iter().chain(&chunk.returns) {
        let b = buffer(i)?;
        if stride(b) == 0 {
            return Err(format!("`{}` arrives and lies in no slot", b.name));
        }
    }
    chunk.leaves.iter().chain(&chunk.goes_back).try_for_each(|i| buffer(i).map(|_| ()))
}

fn acts(stage: &Stage, p: &StagePipeline) -> Result<(), String> {
    if p.acts.len() > MOST {
        return Err(format!("more than {MOST} acts"));
    }
    for (i, act) in p.acts.iter().enumerate() {
        let (chunk, slot) = match act {
            Act::Pass { chunk, to, .. } => (*chunk, *to),
            Act::Run { task, slot } | Act::Send { task, slot, .. } => (task.chunk, *slot),
            Act::Receive { chunk, slot, .. } => (*chunk, *slot),
        };
        if chunk >= p.chunks.len() || slot >= p.slots {
            return Err(format!("act {i} is of chunk {chunk} in slot {slot}, of {} and {}", p.chunks.len(), p.slots));
        }
        if let Act::Pass { task, slot, .. } = act
            && (task.chunk >= p.chunks.len() || *slot >= p.slots)
        {
            return Err(format!("act {i} passes on {task} in slot {slot}, which does not exist"));
        }
        if let Act::Run { task, .. } = act
            && stage.program(&task.part.program(task.chunk)).is_none()
        {
            return Err(format!("act {i} runs {task}, and there is no such program"));
        }
    }
    Ok(())
}
