//! Copies between the device's memory and the host's.

use super::operands::Place;
use crate::cpu::arena::Bases;
use crate::cpu::pool::Pool;
use athanor_ir::Result;

/// Bytes of a share at least: fewer are not worth another worker.
const BLOCK: usize = 1 << 16;

/// Addresses that workers share.
struct Ends(*const u8, *mut u8);
// SAFETY: workers read and write disjoint blocks.
unsafe impl Sync for Ends {}

/// Copies `from` to `to`, which has its size, with all workers of `pool`.
///
/// # Safety
/// Both lie inside the arenas at `bases`, in different memories, and nobody else uses them meanwhile.
pub(super) unsafe fn copy(pool: &Pool, bases: Bases, from: &Place<'_>, to: &Place<'_>) -> Result<()> {
    let bytes = from.range.len().min(to.range.len());
    let first = |place: &Place<'_>| bases.of(place.memory).wrapping_add(place.range.start);
    let ends = Ends(first(from).cast_const(), first(to));
    let ends = &ends;
    pool.run(bytes.div_ceil(BLOCK), &|_, lo, hi| {
        let (lo, hi) = (lo * BLOCK, (hi * BLOCK).min(bytes));
        // SAFETY: inside both operands, and apart from the blocks of other workers.
        unsafe { std::ptr::copy_nonoverlapping(ends.0.add(lo), ends.1.add(lo), hi - lo) }
    })
}
