//! Where in the arenas the operands of a step lie, in the slot and the caches that a program runs on.

use crate::cpu::check::{cache_stride, range, stride};
use athanor_ir::plan::Buffer;
use athanor_ir::{Memory, TensorType};
use std::borrow::Cow;
use std::ffi::c_void;
use std::ops::Range;

/// What of a stage's micro-batches a program runs on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct At {
    /// The slot of the micro-batch, or of its slice.
    pub slot: usize,
    /// The caches that the slices of the micro-batch share.
    pub cache: usize,
}

impl At {
    /// How far what has `strides` is from where it is in the first slot and the first caches.
    fn shift(self, strides: Strides) -> usize {
        self.slot * strides[0] + self.cache * strides[1]
    }
}

/// Distances from slot to slot and from micro-batch's caches to the next one's; 0 for what lies in none.
pub(super) type Strides = [usize; 2];

/// Those of `b`.
pub(super) fn strides(b: &Buffer) -> Strides {
    [stride(b), cache_stride(b)]
}

/// Addresses in the arena, handed to kernels.
pub(super) struct Addresses {
    /// In slot 0 and the first caches.
    pub(super) first: Vec<*mut c_void>,
    /// Those of each; empty if all are 0.
    pub(super) strides: Vec<Strides>,
}

impl Addresses {
    /// The addresses of what `at` says.
    pub(super) fn at(&self, at: At) -> Cow<'_, [*mut c_void]> {
        if at == At::default() || self.strides.is_empty() {
            return Cow::Borrowed(&self.first);
        }
        // Whoever runs a program has compared slot and caches with their numbers, which `check` found inside the arena.
        let shifted = |(p, strides): (&*mut c_void, &Strides)| p.wrapping_byte_add(at.shift(*strides));
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
    /// In slot 0 and the first caches.
    first: Range<usize>,
    strides: Strides,
}

impl Operand {
    pub(super) fn of(ty: TensorType, b: &Buffer) -> Self {
        Self { ty, memory: b.memory, first: range(b), strides: strides(b) }
    }

    pub(super) fn at(&self, at: At) -> Place<'_> {
        let shift = at.shift(self.strides);
        Place { ty: &self.ty, memory: self.memory, range: self.first.start + shift..self.first.end + shift }
    }
}

/// An operand in the slot and the caches that a program runs on.
pub(super) struct Place<'a> {
    pub(super) ty: &'a TensorType,
    pub(super) memory: Memory,
    pub(super) range: Range<usize>,
}
