//! What a kernel generator returns.

use super::llvm::KernelText;

/// A generated kernel and what its caller must provide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// The kernel.
    pub text: KernelText,
    /// Number of grid items; `lo..hi` partitions them, and the result does not depend on the partition.
    pub grid: usize,
    /// Bytes of the last buffer (scratch) per worker; 0 where the kernel has no scratch buffer.
    pub scratch_bytes_per_worker: usize,
}
