//! Going back: steps that run again as often as data says.

use super::operands::{At, Operand};

/// Back to step `first` until `done` is `rounds`.
pub(super) struct Again {
    pub(super) rounds: Operand,
    pub(super) done: Operand,
    pub(super) first: usize,
}

impl Again {
    /// Counts what was done once more; whether it is to be done again.
    ///
    /// # Safety
    /// Both numbers are an i32 in the arena at `base`, and nobody else uses them meanwhile.
    pub(super) unsafe fn once_more(&self, base: *mut u8, at: At) -> bool {
        let (rounds, done) = (self.rounds.at(at).range.start, self.done.at(at).range.start);
        let number = |start: usize| base.wrapping_add(start).cast::<[u8; 4]>();
        // SAFETY: inside the arena.
        let (rounds, done) = unsafe { (i32::from_ne_bytes(*number(rounds)), &mut *number(done)) };
        let so_often = i32::from_ne_bytes(*done).saturating_add(1);
        *done = so_often.to_ne_bytes();
        so_often < rounds
    }
}
