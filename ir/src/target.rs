//! Instruction-set levels of an x86-64 CPU that generated kernels are compiled for.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How much of a CPU's instruction set generated code may use; each level includes those before it.
///
/// The first three are the levels of the x86-64 psABI (v2, v3, v4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CpuLevel {
    /// x86-64-v2: 128-bit SSE4.2 vectors.
    Portable,
    /// x86-64-v3: 256-bit vectors with fused multiply-add.
    Avx2,
    /// x86-64-v4: 512-bit vectors and masks.
    Avx512,
    /// Sapphire Rapids: bf16 tiles and 512-bit bf16 conversions.
    Amx,
}

impl CpuLevel {
    /// Every level, lowest first.
    pub const ALL: [Self; 4] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Amx];

    /// Features that a CPU must have to run code of this level, by the names `/proc/cpuinfo` readers know.
    pub fn required_features(self) -> &'static [&'static str] {
        const AMX: &[&str] = &[
            "sse3",
            "ssse3",
            "sse4.1",
            "sse4.2",
            "popcnt",
            "avx",
            "avx2",
            "fma",
            "f16c",
            "bmi1",
            "bmi2",
            "lzcnt",
            "movbe",
            "avx512f",
            "avx512bw",
            "avx512cd",
            "avx512dq",
            "avx512vl",
            "avx512bf16",
            "avx512vnni",
            "amx-tile",
            "amx-bf16",
        ];
        match self {
            Self::Portable => &AMX[..5],
            Self::Avx2 => &AMX[..13],
            Self::Avx512 => &AMX[..18],
            Self::Amx => AMX,
        }
    }

    /// Kebab-case name, as in the plan and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
        }
    }

    /// Number of f32 in the widest vector register of this level.
    pub fn f32_lanes(self) -> usize {
        match self {
            Self::Portable => 4,
            Self::Avx2 => 8,
            Self::Avx512 | Self::Amx => 16,
        }
    }
}

impl fmt::Display for CpuLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
