//! The two blocks of memory that hold every buffer of a stage: the device's and the host's.
//!
//! On a CPU both are the machine's memory. They are kept apart as two mappings, so that a plan's device memory is what a device
//! with memory of its own would need.

use athanor_ir::Memory;
use athanor_ir::plan::Stage;
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

/// The arenas of a stage.
pub(super) struct Arenas([Arena; 2]);

/// Starts of the arenas; they do not move.
#[derive(Clone, Copy)]
pub(super) struct Bases([*mut u8; 2]);

impl Arenas {
    /// Reserves what `stage` needs.
    pub(super) fn new(stage: &Stage) -> io::Result<Self> {
        let [device, host] = Memory::ALL.map(|memory| Arena::new(stage.bytes_in(memory)));
        Ok(Self([device?, host?]))
    }

    /// The arena in `memory`.
    pub(super) fn of(&self, memory: Memory) -> &Arena {
        &self.0[memory as usize]
    }

    /// The arena in `memory`, to write.
    pub(super) fn of_mut(&mut self, memory: Memory) -> &mut Arena {
        &mut self.0[memory as usize]
    }

    /// As [`Arena::populate`], of both.
    pub(super) fn populate(&self, share: usize, shares: usize) {
        self.0.iter().for_each(|arena| arena.populate(share, shares));
    }

    /// Where they start.
    pub(super) fn bases(&mut self) -> Bases {
        let [device, host] = &mut self.0;
        Bases([device.base(), host.base()])
    }
}

impl Bases {
    /// Start of the arena in `memory`.
    pub(super) fn of(self, memory: Memory) -> *mut u8 {
        self.0[memory as usize]
    }
}
