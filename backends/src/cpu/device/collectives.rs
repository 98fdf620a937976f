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
        (CollectiveKind::AllGather { dim }, Some(ins)) => {
            rows(dim, from, ins, out).try_for_each(|(ins, out)| group.all_gather(ins, out))
        }
        (CollectiveKind::ReduceScatter { dim }, Some(ins)) => {
            let dtype = to.ty.dtype;
            rows(dim, from, ins, out).try_for_each(|(ins, out)| group.reduce_scatter(ReduceKind::Sum, dtype, ins, out))
        }
        (CollectiveKind::OwnPart { dim }, Some(ins)) => {
            for (ins, out) in rows(dim, from, ins, out) {
                let start = group.rank() * out.len();
                out.copy_from_slice(&ins[start..start + out.len()]);
            }
            Ok(())
        }
    }
}

/// Operand and result for each index of the dims outside of `dim`: in a row the parts of the ranks lie side by side.
fn rows<'a>(
    dim: usize,
    from: &Place<'_>,
    ins: &'a [u8],
    out: &'a mut [u8],
) -> impl Iterator<Item = (&'a [u8], &'a mut [u8])> {
    let rows: usize = from.ty.dims[..dim].iter().product();
    let each = |bytes: usize| (bytes / rows.max(1)).max(1);
    ins.chunks_exact(each(ins.len())).zip(out.chunks_exact_mut(each(out.len())))
}

/// Counts ids from `first`; those that are too far below stay below.
fn own_ids(ids: &mut [u8], first: usize) {
    let first = i32::try_from(first).unwrap_or(i32::MAX);
    for id in ids.as_chunks_mut().0 {
        *id = i32::from_ne_bytes(*id).saturating_sub(first).to_ne_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::Engine;
    use crate::comm::local::run;
    use athanor_ir::{DType, TensorType};
    use std::time::Duration;

    /// What rank `rank` of `ranks` makes of the f32s `x` of dims `dims`.
    fn of(kind: CollectiveKind, group: &mut dyn Communicator, dims: &[usize], x: &[f32]) -> Result<Vec<f32>> {
        let op = Collective { kind, axes: "tp".into(), ranks: group.size() };
        let types = [dims.to_vec(), op.dims(dims).unwrap()].map(|d| TensorType::new(DType::F32, d));
        let bytes = types.clone().map(|t| t.bytes());
        let mut arena = vec![0.0f32; (bytes[0] + bytes[1]) / 4];
        arena[..x.len()].copy_from_slice(x);
        let from = Place { ty: &types[0], range: 0..bytes[0] };
        let to = Place { ty: &types[1], range: bytes[0]..bytes[0] + bytes[1] };
        // SAFETY: both lie in the arena, one behind the other.
        unsafe { collective(arena.as_mut_ptr().cast(), &op, group, &from, &to)? };
        Ok(arena.split_off(x.len()))
    }

    /// Parts of a dim that others are outside of are each rank's rows of it, and parts of a sum have the bits of the sum.
    #[test]
    fn inner_dims_are_cut_and_joined() {
        let dims = [3, 4, 2];
        let done = run(2, Duration::from_mins(1), |m| {
            let mut group = m.group(&[0, 1])?;
            let own: Vec<f32> = (0..24).map(|i| 1.0 / (i * 3 + 1 + m.rank()) as f32).collect();
            let mut of = |kind, dims: &[usize], x: &[f32]| of(kind, &mut *group, dims, x);
            let sum = of(CollectiveKind::AllReduce { reduce: ReduceKind::Sum }, &dims, &own)?;
            let scattered = of(CollectiveKind::ReduceScatter { dim: 1 }, &dims, &own)?;
            let part = of(CollectiveKind::OwnPart { dim: 1 }, &dims, &sum)?;
            let joined = of(CollectiveKind::AllGather { dim: 1 }, &[3, 2, 2], &part)?;
            Ok((m.rank(), sum, scattered, part, joined))
        });
        for (rank, sum, scattered, part, joined) in done.unwrap() {
            let rows = |r: usize| (0..4).map(move |i| r * 8 + rank * 4 + i);
            let wanted: Vec<f32> = (0..3).flat_map(rows).map(|i| sum[i]).collect();
            assert_eq!(part, wanted);
            assert_eq!(scattered, wanted);
            assert_eq!(joined, sum);
        }
    }
}
