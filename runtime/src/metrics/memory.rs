//! How much memory the process has used, and how much it may use beside the arena.

/// Bytes by which a run may raise the resident memory of its process beside the arena, for a plan of up to some hundred
/// kernels; `docs/backends.md` says what they are. `tests/memory.rs` holds both numbers.
pub const BESIDE_ARENA: u64 = 12 << 20;

/// As [`BESIDE_ARENA`], for a run that uses oneDNN: the library's code and data, the products that it compiles and their
/// scratch memory come on top.
pub const BESIDE_ARENA_WITH_LIBRARY: u64 = 32 << 20;

/// Resident memory of the process in bytes, as the operating system counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resident {
    /// Now.
    pub now: u64,
    /// The most so far (`VmHWM`).
    pub peak: u64,
}

/// Resident memory; `None` where `/proc/self/status` does not tell.
pub fn resident() -> Option<Resident> {
    parse(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn parse(status: &str) -> Option<Resident> {
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    };
    Some(Resident { now: field("VmRSS:")?, peak: field("VmHWM:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_counts_in_kib() {
        let text = "Name:\tathanor\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(parse(text), Some(Resident { now: 1 << 20, peak: 1 << 21 }));
        assert_eq!(parse("Name: x"), None);
    }
}
