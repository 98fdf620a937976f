//! The scratch memory of a kernel: one part per worker.

use super::emit::{Buf, Emit, Val};

/// More workers than any host has; bounds the static type of the scratch buffer.
const MOST_WORKERS: usize = 4096;

/// Lays out one worker's scratch.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    bytes: usize,
}

impl Scratch {
    /// Reserves an f32 array and returns its first byte.
    pub fn reserve(&mut self, dims: &[usize]) -> usize {
        self.reserve_bytes(4 * dims.iter().product::<usize>())
    }

    /// Reserves bytes from a cache line on and returns the first.
    pub fn reserve_bytes(&mut self, bytes: usize) -> usize {
        let at = self.bytes;
        self.bytes = (at + bytes).next_multiple_of(64);
        at
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The kernel's scratch parameter.
    pub fn buf(&self) -> Buf {
        Buf::arg("scratch", &[self.bytes * MOST_WORKERS], "i8")
    }

    /// First byte of the scratch of the kernel's worker.
    pub fn base(&self, e: &mut Emit) -> Val {
        e.idx_c("muli", Val::Arg("worker"), self.bytes)
    }

    /// The array that [`Self::reserve_bytes`] put at byte `at`, in the scratch of the kernel's worker.
    pub fn array(&self, e: &mut Emit, at: usize, dims: &[usize], element: &'static str) -> Buf {
        let base = self.base(e);
        let from = e.idx_c("addi", base, at);
        e.view(&self.buf(), from, dims, element)
    }
}
