//! The one block of memory that holds every buffer of a stage.

use memmap2::{Advice, MmapMut, MmapOptions};
use std::io;

/// Shares of [`Arena::populate`] begin at multiples of this.
#[cfg(target_os = "linux")]
const HUGE_PAGE: usize = 2 << 20;

/// Zeroed memory of a fixed size, page aligned (hence 64-byte aligned), given back when dropped.
pub(super) struct Arena {
    map: MmapMut,
    bytes: usize,
}

impl Arena {
    /// Reserves `bytes`; pages are taken from the system by [`Self::populate`], or when they are first touched.
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        // An empty mapping is an error to the system; a stage without buffers is none to us.
        let map = MmapOptions::new().len(bytes.max(1)).map_anon()?;
        // Fewer page faults and TLB misses; a kernel without transparent huge pages refuses, which is no harm.
        #[cfg(target_os = "linux")]
        let _ = map.advise(Advice::HugePage);
        Ok(Self { map, bytes })
    }

    /// Takes the pages of share `share` of `shares` from the system now. The system clears each before it hands it out,
    /// which the first step would otherwise wait for; contents are not changed, and others may read and write meanwhile.
    /// A system that cannot do this does it at the first touch.
    pub(super) fn populate(&self, share: usize, shares: usize) {
        #[cfg(target_os = "linux")]
        {
            let pages = self.map.len().div_ceil(HUGE_PAGE);
            let at = |s: usize| (pages * s / shares * HUGE_PAGE).min(self.map.len());
            let (lo, hi) = (at(share), at(share + 1));
            if lo < hi {
                let _ = self.map.advise_range(Advice::PopulateWrite, lo, hi - lo);
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (share, shares);
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
