//! The one block of memory that holds every buffer of a stage.

use memmap2::{Advice, MmapMut, MmapOptions};
use std::io;

/// Zeroed memory of a fixed size, page aligned (hence 64-byte aligned), given back when dropped.
pub(super) struct Arena {
    map: MmapMut,
    bytes: usize,
}

impl Arena {
    /// Reserves `bytes`; pages are taken from the system when they are first touched.
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        // An empty mapping is an error to the system; a stage without buffers is none to us.
        let map = MmapOptions::new().len(bytes.max(1)).map_anon()?;
        // Fewer page faults and TLB misses; a kernel without transparent huge pages refuses, which is no harm.
        #[cfg(target_os = "linux")]
        let _ = map.advise(Advice::HugePage);
        Ok(Self { map, bytes })
    }

    /// Size in bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// Everything.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.map[..self.bytes]
    }

    /// Everything, to write.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map[..self.bytes]
    }

    /// Start of the arena; it does not move.
    pub(super) fn base(&mut self) -> *mut u8 {
        self.map.as_mut_ptr()
    }
}
