//! bf16 macro-kernels on AMX tiles.

use super::{GeneratedGemm, Problem};

/// Writes the kernel.
pub fn generate(problem: &Problem) -> GeneratedGemm {
    super::vector::generate(problem)
}
