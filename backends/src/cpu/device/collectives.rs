//! Collective operations on operands in the arena.

use super::Groups;
use super::operands::{At, Operand, Place};
use crate::comm::{self, Communicator};
use athanor_ir::collective::{Collective, CollectiveKind};
use athanor_ir::{ReduceKind, Result};
use std::sync::{Mutex, PoisonError};

/// A collective operation of a plan.
pub(super) struct Meeting {
    pub(super) op: Collective,
    /// Of the device's groups.
    pub(super) group: usize,
    pub(super) from: Operand,
    pub(super) to: Operand,
}

/// A rank at work on a program, as other ranks meet it.
pub(super) struct Company {
    /// Start of the device's arena.
    pub(super) arena: *mut u8,
    /// Stage and program.
    pub(super) place: (u16, u16),
    pub(super) at: At,
}

// SAFETY: whoever uses the arena through it promises that nobody else works on the same bytes.
unsafe impl Sync for Company {}

impl Company {
    /// Carries out step `step`, one at a time with the group that it is with.
    ///
    /// # Safety
    /// The operands of `meeting` lie inside the arena, they are equal or disjoint, and nobody else uses their bytes meanwhile.
    pub(super) unsafe fn meet(&self, groups: &Mutex<&mut Groups>, step: usize, meeting: &Meeting) -> Result<()> {
        // A thread that panicked in a group has left it, which the group says.
        let mut groups = groups.lock().unwrap_or_else(PoisonError::into_inner);
        let group = groups[meeting.group].1.as_mut();
        let ((stage, program), step) = (self.place, step as u32);
        group.ledger().enter(comm::Place::Step { stage, program, step });
        let (from, to) = (meeting.from.at(self.at), meeting.to.at(self.at));
        // SAFETY: as promised.
        unsafe { collective(self.arena, &meeting.op, group, &from, &to) }
    }
}

/// Runs a collective operation with the other members of its group.
///
/// # Safety
/// Both ranges lie inside the arena at `base`, they are equal or disjoint, and nobody else uses these bytes meanwhile.
unsafe fn collective(
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
    let begins_with_operand = matches!(
        op.kind,
        CollectiveKind::AllReduce { .. }
            | CollectiveKind::SumEnds
            | CollectiveKind::OwnIds { .. }
            | CollectiveKind::BlockIds { .. }
    );
    if let (true, Some(ins)) = (begins_with_operand, ins) {
        out.copy_from_slice(ins);
    }
    match (op.kind, ins) {
        (CollectiveKind::AllReduce { reduce }, _) => group.all_reduce(reduce, to.ty.dtype, out),
        (CollectiveKind::SumEnds, _) => group.all_reduce(ReduceKind::Sum, to.ty.dtype, out),
        (CollectiveKind::OwnIds { size }, _) => {
            add_to_ids(out, -offset(group.rank() * size));
            Ok(())
        }
        (CollectiveKind::BlockIds { size, back }, _) => {
            let (own, n) = (group.rank(), group.size());
            let of = (own + n - back % n) % n;
            add_to_ids(out, offset(of * size) - offset(own * size));
            Ok(())
        }
        // The others change the size: in place they are of a group of one.
        (_, None) => Ok(()),
        (CollectiveKind::AllGather { .. }, Some(ins)) => group.all_gather(ins, out),
        (CollectiveKind::ReduceScatter { .. }, Some(ins)) => {
            group.reduce_scatter(ReduceKind::Sum, to.ty.dtype, ins, out)
        }
        (CollectiveKind::AllToAll { .. }, Some(ins)) => group.all_to_all(ins, out),
        (CollectiveKind::Shift, Some(ins)) => shift(group, ins, out),
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

/// Every member sends `ins` to the one after it, the last to the first.
fn shift(group: &mut dyn Communicator, ins: &[u8], out: &mut [u8]) -> Result<()> {
    let (own, n) = (group.rank(), group.size());
    if n == 1 {
        out.copy_from_slice(ins);
        return Ok(());
    }
    group.exchange(&[((own + 1) % n, ins)], &mut [((own + n - 1) % n, out)])
}

/// A number of ids, as far as ids go.
fn offset(ids: usize) -> i32 {
    i32::try_from(ids).unwrap_or(i32::MAX)
}

/// Adds `by` to every id; those that are too far below stay below.
fn add_to_ids(ids: &mut [u8], by: i32) {
    for id in ids.as_chunks_mut().0 {
        *id = i32::from_ne_bytes(*id).saturating_add(by).to_ne_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::Engine;
    use crate::comm::local::run;
    use athanor_ir::{DType, Memory, TensorType};
    use std::time::Duration;

    /// What rank `rank` of `ranks` makes of the f32s `x` of dims `dims`.
    fn of(kind: CollectiveKind, group: &mut dyn Communicator, dims: &[usize], x: &[f32]) -> Result<Vec<f32>> {
        let op = Collective { kind, axes: "tp".into(), ranks: group.size() };
        let types = [dims.to_vec(), op.dims(dims).unwrap()].map(|d| TensorType::new(DType::F32, d));
        let bytes = types.clone().map(|t| t.bytes());
        let mut arena = vec![0.0f32; (bytes[0] + bytes[1]) / 4];
        arena[..x.len()].copy_from_slice(x);
        let from = Place { ty: &types[0], memory: Memory::Device, range: 0..bytes[0] };
        let to = Place { ty: &types[1], memory: Memory::Device, range: bytes[0]..bytes[0] + bytes[1] };
        // SAFETY: both lie in the arena, one behind the other.
        unsafe { collective(arena.as_mut_ptr().cast(), &op, group, &from, &to)? };
        Ok(arena.split_off(x.len()))
    }

    #[test]
    fn the_own_part_of_an_inner_dim_is_cut_out_of_every_row() {
        let x: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let done = run(2, Duration::from_mins(1), |m| {
            let part = of(CollectiveKind::OwnPart { dim: 1 }, &mut *m.group(&[0, 1])?, &[3, 4, 2], &x)?;
            Ok((m.rank(), part))
        });
        for (rank, part) in done.unwrap() {
            let rows = |r: usize| (0..4).map(move |i| (r * 8 + rank * 4 + i) as f32);
            assert_eq!(part, (0..3).flat_map(rows).collect::<Vec<f32>>());
        }
    }

    #[test]
    fn what_is_shifted_round_the_ring_comes_home() {
        for n in [1, 2, 3, 5] {
            let done = run(n, Duration::from_mins(1), |m| {
                let mut group = m.group(&(0..n).collect::<Vec<_>>())?;
                let own: Vec<f32> = (0..6).map(|i| (m.rank() * 10 + i) as f32).collect();
                let (mut x, mut seen) = (own.clone(), vec![]);
                for _ in 0..n {
                    x = of(CollectiveKind::Shift, &mut *group, &[2, 3], &x)?;
                    seen.push(x[0] as usize / 10);
                }
                assert_eq!(x, own);
                Ok((m.rank(), seen))
            });
            for (rank, seen) in done.unwrap() {
                assert_eq!(seen, (1..=n).map(|back| (rank + n - back) % n).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn ids_are_counted_from_the_own_part() {
        let done = run(3, Duration::from_mins(1), |m| {
            let mut group = m.group(&[0, 1, 2])?;
            let mut of = |kind| of_ids(kind, &mut *group);
            let blocks = [0, 1, 2].map(|back| of(CollectiveKind::BlockIds { size: 10, back }));
            Ok((of(CollectiveKind::OwnIds { size: 10 })?, blocks.into_iter().collect::<Result<Vec<_>>>()?))
        });
        let done = done.unwrap();
        assert_eq!(done[1], (vec![-10, -7], vec![vec![0, 3], vec![-10, -7], vec![10, 13]]));
        assert_eq!(done[2].1, [[0, 3], [-10, -7], [-20, -17]]);
    }

    /// What becomes of the ids 0 and 3.
    fn of_ids(kind: CollectiveKind, group: &mut dyn Communicator) -> Result<Vec<i32>> {
        let op = Collective { kind, axes: "cp".into(), ranks: group.size() };
        let ty = TensorType::new(DType::I32, [2]);
        let mut arena = [0, 3, 0, 0];
        let at = |from: usize| Place { ty: &ty, memory: Memory::Device, range: from..from + 8 };
        // SAFETY: both lie in the arena, one behind the other.
        unsafe { collective(arena.as_mut_ptr().cast(), &op, group, &at(0), &at(8))? };
        Ok(arena[2..].to_vec())
    }

    #[test]
    fn parts_of_a_sum_have_its_bits() {
        let done = run(2, Duration::from_mins(1), |m| {
            let mut group = m.group(&[0, 1])?;
            let own: Vec<f32> = (0..24).map(|i| 1.0 / (i * 3 + 1 + m.rank()) as f32).collect();
            let mut of = |kind, dims: &[usize], x: &[f32]| of(kind, &mut *group, dims, x);
            let sum = of(CollectiveKind::AllReduce { reduce: ReduceKind::Sum }, &[4, 6], &own)?;
            let part = of(CollectiveKind::ReduceScatter { dim: 0 }, &[4, 6], &own)?;
            let joined = of(CollectiveKind::AllGather { dim: 0 }, &[2, 6], &part)?;
            Ok((sum, joined))
        });
        for (sum, joined) in done.unwrap() {
            assert_eq!(joined, sum);
        }
    }
}
