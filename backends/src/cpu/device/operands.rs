//! Where in the arenas the operands of a step lie, in the slot that a program runs on.

use crate::cpu::check::{range, stride};
use athanor_ir::plan::Buffer;
use athanor_ir::{Memory, TensorType};
use std::borrow::Cow;
use std::ffi::c_void;
use std::ops::Range;

/// Addresses in the arena, handed to kernels.
pub(super) struct Addresses {
    /// In slot 0.
    pub(super) first: Vec<*mut c_void>,
    /// Distance of each from slot to slot; empty if none lies in slots.
    pub(super) strides: Vec<usize>,
}

impl Addresses {
    /// The addresses in slot `slot`.
    pub(super) fn in_slot(&self, slot: usize) -> Cow<'_, [*mut c_void]> {
        if slot == 0 || self.strides.is_empty() {
            return Cow::Borrowed(&self.first);
        }
        // Whoever runs a program has compared the slot with the number of slots, which `check` found inside the arena.
        let shifted = |(p, stride): (&*mut c_void, &usize)| p.wrapping_byte_add(slot * stride);
        Cow::Owned(self.first.iter().zip(&self.strides).map(shifted).collect())
    }
}

/// Addresses of one run of a step.
pub(super) struct Given<'a>(pub(super) &'a [*mut c_void]);
// SAFETY: as for [`Addresses`].
unsafe impl Sync for Given<'_> {}

impl Given<'_> {
    pub(super) fn as_ptr(&self) -> *const *mut c_void {
        self.0.as_ptr()
    }
}

// SAFETY: they lead into the arena, which lives as long as the device and is used by one step at a time; within a step
// the workers of a kernel write disjoint parts.
unsafe impl Send for Addresses {}
// SAFETY: as above.
unsafe impl Sync for Addresses {}

/// A value of a reference op: its type and bytes of an arena.
pub(super) struct Operand {
    ty: TensorType,
    memory: Memory,
    /// In slot 0.
    first: Range<usize>,
    /// Bytes from slot to slot; 0 for what lies in none.
    stride: usize,
}

impl Operand {
    pub(super) fn of(ty: TensorType, b: &Buffer) -> Self {
        Self { ty, memory: b.memory, first: range(b), stride: stride(b) }
    }

    pub(super) fn in_slot(&self, slot: usize) -> Place<'_> {
        let shift = slot * self.stride;
        Place { ty: &self.ty, memory: self.memory, range: self.first.start + shift..self.first.end + shift }
    }
}

/// An operand in the slot that a program runs on.
pub(super) struct Place<'a> {
    pub(super) ty: &'a TensorType,
    pub(super) memory: Memory,
    pub(super) range: Range<usize>,
}
