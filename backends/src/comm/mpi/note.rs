//! Transfers under way, and notes: messages of a few numbers that own their memory.

use super::library::{Mpi, Request};
use athanor_ir::Result;
use std::ptr::NonNull;

/// A message of which MPI has been told.
#[derive(Debug)]
pub(super) struct Transfer {
    /// None when it is over.
    request: Option<Request>,
    peer: Option<usize>,
    receives: bool,
}

impl Transfer {
    /// Begins to send to rank `to`.
    ///
    /// # Safety
    /// The data stays in place, and is not written, until [`Self::over`].
    pub unsafe fn send(mpi: &dyn Mpi, data: *const [u8], to: usize, tag: i32) -> Result<Self> {
        // SAFETY: as the caller says.
        let request = named(unsafe { mpi.send(data, to, tag) }, Some(to))?;
        Ok(Self { request: Some(request), peer: Some(to), receives: false })
    }

    /// Begins to receive from rank `from`, or from any.
    ///
    /// # Safety
    /// The data stays in place, and nobody touches it, until [`Self::over`].
    pub unsafe fn receive(mpi: &dyn Mpi, data: *mut [u8], from: Option<usize>, tag: i32) -> Result<Self> {
        // SAFETY: as the caller says.
        let request = named(unsafe { mpi.receive(data, from, tag) }, from)?;
        Ok(Self { request: Some(request), peer: from, receives: true })
    }

    /// Whether it is over. It is after an error.
    pub fn over(&mut self, mpi: &dyn Mpi) -> Result<bool> {
        let Some(request) = &mut self.request else { return Ok(true) };
        let over = named(mpi.test(request), self.peer);
        if !matches!(over, Ok(false)) {
            self.request = None;
        }
        over
    }

    /// Asks to take it back if it is a receive.
    pub fn cancel(&mut self, mpi: &dyn Mpi) {
        if let Some(request) = self.request.as_mut().filter(|_| self.receives) {
            mpi.cancel(request);
        }
    }

    /// Whether [`Self::over`] has said so.
    pub fn is_over(&self) -> bool {
        self.request.is_none()
    }

    /// The other side, where it is one.
    pub fn peer(&self) -> Option<usize> {
        self.peer
    }
}

/// An error of a transfer names the other side.
fn named<T>(result: Result<T>, peer: Option<usize>) -> Result<T> {
    result.map_err(|mut error| {
        if let Some(peer) = peer {
            error.message = format!("message between this rank and rank {peer}: {}", error.message);
        }
        error
    })
}

/// Numbers in a note.
pub(super) const WORDS: usize = 8;

/// A message of eight numbers. Its memory is its own, so that nobody has to wait for it.
#[derive(Debug)]
pub(super) struct Note {
    words: NonNull<[u64; WORDS]>,
    transfer: Transfer,
}

// SAFETY: it owns its words.
unsafe impl Send for Note {}

impl Note {
    /// Begins to send.
    pub fn send(mpi: &dyn Mpi, words: [u64; WORDS], to: usize, tag: i32) -> Result<Self> {
        // SAFETY: the words are freed when the transfer is over, or never.
        Self::begin(words, |data| unsafe { Transfer::send(mpi, data, to, tag) })
    }

    /// Begins to receive.
    pub fn receive(mpi: &dyn Mpi, from: Option<usize>, tag: i32) -> Result<Self> {
        // SAFETY: as above.
        Self::begin([0; WORDS], |data| unsafe { Transfer::receive(mpi, data, from, tag) })
    }

    fn begin(words: [u64; WORDS], begin: impl FnOnce(*mut [u8]) -> Result<Transfer>) -> Result<Self> {
        let words = NonNull::from(Box::leak(Box::new(words)));
        let data = std::ptr::slice_from_raw_parts_mut(words.as_ptr().cast::<u8>(), WORDS * 8);
        // After an error MPI has taken no note of the words; they are not worth freeing.
        Ok(Self { words, transfer: begin(data)? })
    }

    /// Whether it has arrived, or is safely on its way.
    pub fn over(&mut self, mpi: &dyn Mpi) -> Result<bool> {
        self.transfer.over(mpi)
    }

    /// Whether [`Self::over`] has said so.
    pub fn is_over(&self) -> bool {
        self.transfer.is_over()
    }

    /// The numbers, all 0 before a received note is [`Self::over`].
    pub fn words(&self) -> [u64; WORDS] {
        match self.transfer.request {
            // SAFETY: nobody else has them now.
            None => unsafe { self.words.read() },
            Some(_) => [0; WORDS],
        }
    }

    /// The other side, where it is one.
    pub fn peer(&self) -> Option<usize> {
        self.transfer.peer()
    }

    /// Takes back a receive that no message will come for.
    pub fn take_back(mut self, mpi: &dyn Mpi) {
        self.transfer.cancel(mpi);
        // Taking back a receive is a local matter and ends at once, or the note has just come.
        while matches!(self.over(mpi), Ok(false)) {}
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        // A note that is still under way keeps its words for good: 64 bytes, and only after an error.
        if self.is_over() {
            // SAFETY: from a box in `begin`, and MPI is done with it.
            drop(unsafe { Box::from_raw(self.words.as_ptr()) });
        }
    }
}
