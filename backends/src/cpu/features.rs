//! What this CPU, and the operating system on it, can run.

use athanor_ir::target::CpuLevel;
use athanor_ir::{Diagnostic, Result};

use super::UNSUPPORTED_CPU;

/// The highest level this machine runs.
pub fn detect() -> CpuLevel {
    CpuLevel::ALL.into_iter().rev().find(|l| missing(*l).is_empty()).unwrap_or(CpuLevel::Portable)
}

/// Refuses a plan compiled for `level` when this machine lacks any of its features.
pub fn check(level: CpuLevel) -> Result<()> {
    let missing = missing(level);
    if missing.is_empty() {
        return Ok(());
    }
    Diagnostic::error(
        &UNSUPPORTED_CPU,
        format!("the plan is compiled for CPU level `{level}`, and this CPU lacks {}", missing.join(", ")),
    )
    .help(format!("compile the plan for `{}`, the highest level of this machine", detect()))
    .err()
}

/// Features of `level` that this machine lacks.
pub fn missing(level: CpuLevel) -> Vec<&'static str> {
    level.required_features().iter().copied().filter(|f| !has(f)).collect()
}

/// Whether the CPU has `feature` (a name of [`CpuLevel::required_features`]) and the operating system lets it be used.
#[cfg(target_arch = "x86_64")]
pub fn has(feature: &str) -> bool {
    match feature {
        "sse3" => is_x86_feature_detected!("sse3"),
        "ssse3" => is_x86_feature_detected!("ssse3"),
        "sse4.1" => is_x86_feature_detected!("sse4.1"),
        "sse4.2" => is_x86_feature_detected!("sse4.2"),
        "popcnt" => is_x86_feature_detected!("popcnt"),
        "avx" => is_x86_feature_detected!("avx"),
        "avx2" => is_x86_feature_detected!("avx2"),
        "fma" => is_x86_feature_detected!("fma"),
        "f16c" => is_x86_feature_detected!("f16c"),
        "bmi1" => is_x86_feature_detected!("bmi1"),
        "bmi2" => is_x86_feature_detected!("bmi2"),
        "lzcnt" => is_x86_feature_detected!("lzcnt"),
        "movbe" => is_x86_feature_detected!("movbe"),
        "avx512f" => is_x86_feature_detected!("avx512f"),
        "avx512bw" => is_x86_feature_detected!("avx512bw"),
        "avx512cd" => is_x86_feature_detected!("avx512cd"),
        "avx512dq" => is_x86_feature_detected!("avx512dq"),
        "avx512vl" => is_x86_feature_detected!("avx512vl"),
        "avx512bf16" => is_x86_feature_detected!("avx512bf16"),
        "avx512vnni" => is_x86_feature_detected!("avx512vnni"),
        "amx-tile" => amx::usable(24),
        "amx-bf16" => amx::usable(22),
        _ => false,
    }
}

/// No x86 feature exists on another architecture.
#[cfg(not(target_arch = "x86_64"))]
pub fn has(_feature: &str) -> bool {
    false
}

/// Asks Linux for the right to use AMX tile registers, for the whole process; true when granted (now or before).
///
/// Tiles fault without it. Asking again costs one system call.
pub fn request_amx() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return amx::request();
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    false
}

#[cfg(target_arch = "x86_64")]
mod amx {
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

    /// XCR0 bits of the tile configuration and the tile data.
    const TILE_STATE: u64 = 1 << 17 | 1 << 18;

    /// CPUID leaf 7 EDX `bit` is set, the tile state is enabled in XCR0, and Linux grants its use.
    pub fn usable(bit: u32) -> bool {
        if __cpuid(0).eax < 7 || __cpuid_count(7, 0).edx & (1 << bit) == 0 {
            return false;
        }
        // OSXSAVE: the operating system has enabled XGETBV.
        if __cpuid(1).ecx & (1 << 27) == 0 {
            return false;
        }
        // SAFETY: OSXSAVE is set, so XGETBV exists.
        let enabled = unsafe { xcr0() };
        enabled & TILE_STATE == TILE_STATE && super::request_amx()
    }

    #[target_feature(enable = "xsave")]
    unsafe fn xcr0() -> u64 {
        // SAFETY: the caller has checked OSXSAVE.
        unsafe { _xgetbv(0) }
    }

    #[cfg(target_os = "linux")]
    pub fn request() -> bool {
        /// `ARCH_REQ_XCOMP_PERM` of `asm/prctl.h`.
        const REQUEST: libc::c_long = 0x1023;
        /// `XFEATURE_XTILE_DATA`.
        const TILE_DATA: libc::c_long = 18;
        // SAFETY: a system call without pointers; an old kernel answers EINVAL.
        unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) == 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_nested_and_the_detected_one_runs() {
        let level = detect();
        assert!(check(level).is_ok());
        for lower in CpuLevel::ALL.into_iter().filter(|l| *l < level) {
            assert_eq!(missing(lower), Vec::<&str>::new());
        }
        assert!(!has("no-such-feature"));
    }

    #[test]
    fn a_refusal_names_the_features() {
        for level in CpuLevel::ALL.into_iter().filter(|l| *l > detect()) {
            let refused = check(level).unwrap_err();
            assert_eq!(refused.code.id, "B0101");
            assert!(refused.message.contains(missing(level)[0]), "{refused}");
            assert!(refused.help.as_deref().is_some_and(|h| h.contains(detect().name())));
        }
    }
}
