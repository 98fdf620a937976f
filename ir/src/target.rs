//! CPU feature levels that kernels are generated for.

use serde::{Deserialize, Serialize};

/// A set of x86-64 instruction sets, each level including the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CpuLevel {
    /// x86-64-v2: SSE4.2.
    Portable,
    /// x86-64-v3: AVX2 and FMA.
    Avx2,
    /// x86-64-v4: AVX-512 F, BW, CD, DQ, VL.
    Avx512,
    /// Sapphire Rapids: AVX-512 BF16 and AMX BF16 tiles.
    Amx,
}
