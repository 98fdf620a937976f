//! Collective operations on operands in the arena.

use super::operands::Place;
use crate::comm::Communicator;
use athanor_ir::collective::{Collective, CollectiveKind};
use athanor_ir::{ReduceKind, Result};

/// Runs a collective operation with the other members of its group.
///
/// # Safety
/// Both ranges lie inside the arena at `base`, they are equal or disjoint, and nobody else uses the arena meanwhile.
pub(super) unsafe fn collective(
    base: *mut u8,
    op: &Collective,
    group: &mut dyn Communicator,
    from: &Place<'_>,
    to: &Place<'_>,
) -> Result<()> {
    // SAFETY: inside the arena, and not read through `from` where the two are one.
    let out = unsafe { std::slice::from_raw_parts_mut(base.add(to.range.start), to.range.len()) };
    // `None` where the operand is where the result goes.
    let ins = (from.range != to.range).then(|| {
        // SAFETY: inside the arena and apart from `out`.
        unsafe { std::slice::from_raw_parts(base.add(from.range.start), from.range.len()) }
    });
    let keeps_size =
        matches!(op.kind, CollectiveKind::AllReduce { .. } | CollectiveKind::SumEnds | CollectiveKind::OwnIds { .. });
    if let (true, Some(ins)) = (keeps_size, ins) {
        out.copy_from_slice(ins);
    }
    match (op.kind, ins) {
        (CollectiveKind::AllReduce { reduce }, _) => group.all_reduce(reduce, to.ty.dtype, out),
        (CollectiveKind::SumEnds, _) => group.all_reduce(ReduceKind::Sum, to.ty.dtype, out),
        (CollectiveKind::OwnIds { size }, _) => {
            own_ids(out, group.rank() * size);
            Ok(())
        }
        // The others change the size: in place they are of a group of one.
        (_, None) => Ok(()),
        (CollectiveKind::AllGather { .. }, Some(ins)) => group.all_gather(ins, out),
        (CollectiveKind::ReduceScatter { .. }, Some(ins)) => {
            group.reduce_scatter(ReduceKind::Sum, to.ty.dtype, ins, out)
        }
        (CollectiveKind::AllToAll { .. }, Some(ins)) => group.all_to_all(ins, out),
        (CollectiveKind::OwnPart { dim }, Some(ins)) => {
            let runs = from.ty.dims[..dim].iter().product::<usize>().max(1);
            let (run, every) = (out.len() / runs, ins.len() / runs);
            let start = group.rank() * run;
            for (i, part) in out.chunks_exact_mut(run.max(1)).enumerate() {
                part.copy_from_slice(&ins[i * every + start..][..run]);
            }
            Ok(())
        }
    }
}

/// Counts ids from `first`; those that are too far below stay below.
fn own_ids(ids: &mut [u8], first: usize) {
    let first = i32::try_from(first).unwrap_or(i32::MAX);
    for id in ids.as_chunks_mut().0 {
        *id = i32::from_ne_bytes(*id).saturating_sub(first).to_ne_bytes();
    }
}
