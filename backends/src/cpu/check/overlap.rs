//! Buffers that live at the same time share no byte, unless one is a view of the other.

use super::{overlap, range, stride, within_programs};
use athanor_ir::Memory;
use athanor_ir::plan::{Buffer, Stage};
use std::ops::Range;

/// Checks all buffers of a stage, those of each memory for themselves.
///
/// What is kept between programs is disjoint. A value of one program that is kept (`live` is `None`) is a view inside
/// exactly one such buffer. Other values stay clear of them, and two of the same program that live at the same time are
/// disjoint or one contains the other (a view, or a result that takes an operand's place).
pub(super) fn check(stage: &Stage) -> Result<(), String> {
    Memory::ALL.into_iter().try_for_each(|memory| check_in(stage, memory))
}

fn check_in(stage: &Stage, memory: Memory) -> Result<(), String> {
    let here = || stage.buffers.iter().filter(|b| b.memory == memory);
    let mut kept: Vec<&Buffer> = here().filter(|b| is_kept(b)).collect();
    kept.sort_by_key(|b| b.offset);
    for pair in kept.windows(2) {
        if pair[0].offset + pair[0].bytes > pair[1].offset {
            return Err(format!("`{}` and `{}`, both kept between programs, overlap", pair[0].name, pair[1].name));
        }
    }
    for b in here().filter(|b| !is_kept(b) && stride(b) == 0) {
        let r = range(b);
        // The last buffer that starts before the end of this one is the only one that can hold it whole.
        let end = kept.partition_point(|k| k.offset < r.end);
        let neighbour = end.checked_sub(1).map(|i| kept[i]);
        match (b.live, neighbour.filter(|k| overlap(&range(k), &r))) {
            (None, Some(k)) if range(k).start <= r.start && r.end <= range(k).end => {}
            (None, _) => return Err(format!("`{}` has no life and is no view of a kept buffer", b.name)),
            (Some(_), Some(k)) => return Err(format!("`{}` overlaps `{}`, which is kept", b.name, k.name)),
            (Some(_), None) => {}
        }
    }
    stage.programs.iter().try_for_each(|p| {
        let mut used: Vec<usize> = p.steps.iter().flat_map(|s| s.inputs.iter().chain(&s.outputs)).copied().collect();
        used.sort_unstable();
        used.dedup();
        let mut local: Vec<&Buffer> = used
            .iter()
            .map(|i| &stage.buffers[*i])
            .filter(|b| b.memory == memory && !is_kept(b) && stride(b) == 0 && b.live.is_some())
            .collect();
        local.sort_by_key(|b| (b.offset, std::cmp::Reverse(b.bytes)));
        // Neighbours with the same place need only one comparison each with the rest.
        local.dedup_by(|b, a| range(a) == range(b) && a.live == b.live);
        apart(&local).map_err(|e| format!("program `{}`: {e}", p.name))
    })
}

pub(super) fn is_kept(b: &Buffer) -> bool {
    !within_programs(&b.role)
}

/// Buffers in the order of their places of which no two that live at the same time share a byte, but for views.
pub(super) fn apart(sorted: &[&Buffer]) -> Result<(), String> {
    let holds = |a: &Range<usize>, b: &Range<usize>| a.start <= b.start && b.end <= a.end;
    for (i, a) in sorted.iter().enumerate() {
        let ra = range(a);
        for b in sorted[i + 1..].iter().take_while(|b| b.offset < ra.end) {
            let rb = range(b);
            let (Some(la), Some(lb)) = (a.live, b.live) else { continue };
            if la.0 <= lb.1 && lb.0 <= la.1 && !holds(&ra, &rb) && !holds(&rb, &ra) {
                return Err(format!("`{}` and `{}` live at the same time and overlap", a.name, b.name));
            }
        }
    }
    Ok(())
}
