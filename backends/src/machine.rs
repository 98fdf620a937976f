//! The machine that a process is on, and what of it the process may use.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A number for this machine and its space of process numbers, which ranks that share both agree on; 0 if it cannot be known.
pub fn number() -> u64 {
    let place = fs::read("/proc/sys/kernel/random/boot_id").ok().zip(fs::read_link("/proc/self/ns/pid").ok());
    place.map_or(0, |place| {
        let mut hasher = DefaultHasher::new();
        place.hash(&mut hasher);
        hasher.finish().max(1)
    })
}

/// Words of a mask of cores.
const WORDS: usize = 16;

/// The cores that a process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cores {
    machine: u64,
    /// How many it may keep busy, which may be fewer than it may run on.
    usable: u64,
    /// Those it may run on, a bit each; launchers bind ranks. All zero if not known.
    mask: [u64; WORDS],
}

impl Cores {
    /// [`Self::words`] of them.
    pub const WORDS: usize = WORDS + 2;

    /// Those of this process.
    pub fn own() -> Self {
        let usable = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        let mut mask = [0u64; WORDS];
        // SAFETY: the size is that of the mask. Where there are more cores it fails, and the mask stays zero.
        unsafe { libc::sched_getaffinity(0, size_of_val(&mask), mask.as_mut_ptr().cast()) };
        Self { machine: number(), usable, mask }
    }

    /// For sending.
    pub fn words(&self) -> [u64; WORDS + 2] {
        let mut words = [0; WORDS + 2];
        (words[0], words[1]) = (self.machine, self.usable);
        words[2..].copy_from_slice(&self.mask);
        words
    }

    /// What [`Self::words`] gave.
    pub fn from_words(words: [u64; WORDS + 2]) -> Self {
        let mut mask = [0; WORDS];
        mask.copy_from_slice(&words[2..]);
        Self { machine: words[0], usable: words[1], mask }
    }

    /// How many of them are for this process when those of `all` processes, this one among them, are at work: cores that
    /// several may use are shared evenly. At least 1.
    pub fn share(&self, all: &[Self]) -> usize {
        let unknown = |c: &Self| c.mask.iter().all(|w| *w == 0);
        let overlap = |c: &&Self| {
            let together = c.mask.iter().zip(&self.mask).any(|(a, b)| a & b != 0);
            c.machine == self.machine && c.machine != 0 && (together || unknown(c) || unknown(self))
        };
        (self.usable as usize / all.iter().filter(overlap).count().max(1)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(machine: u64, mask: u64) -> Cores {
        let mut all = [0; WORDS];
        all[0] = mask;
        Cores { machine, usable: u64::from(mask.count_ones()), mask: all }
    }

    #[test]
    fn cores_are_shared_by_the_ranks_that_may_use_them() {
        // Two ranks on a machine of eight, unbound; three bound ranks on another; one alone.
        let all = [on(1, 0xff), on(1, 0xff), on(2, 0x0f), on(2, 0xf0), on(2, 0x100), on(3, 0x3)];
        let shares: Vec<usize> = all.iter().map(|c| c.share(&all)).collect();
        assert_eq!(shares, [4, 4, 4, 4, 1, 2]);
        let crowd = vec![on(1, 0x3); 8];
        assert_eq!(crowd[0].share(&crowd), 1);
    }

    #[test]
    fn own_cores_survive_being_sent() {
        let own = Cores::own();
        assert_eq!(Cores::from_words(own.words()), own);
        assert_eq!(own.share(&[own]), std::thread::available_parallelism().unwrap().get());
    }
}
