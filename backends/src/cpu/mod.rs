//! The CPU device: feature checks, the thread pool, library products, and the reference implementation of every op.

mod arena;
pub mod check;
pub mod device;
pub mod features;
mod gemm;
pub mod onednn;
pub mod pool;
pub mod profile;
pub mod reference;

use athanor_ir::Code;

/// Compiled kernels need instructions that this CPU does not have.
pub const UNSUPPORTED_CPU: Code = Code {
    id: "B0101",
    title: "this CPU lacks instructions that the plan uses",
    explain: "Kernels are compiled for a CPU level (portable, avx2, avx512, amx). The machine that runs the plan must \
              have every instruction set of that level, and the operating system must have enabled its registers. \
              Compile again on this machine, or for a lower level.",
};

/// A worker thread panicked.
pub const WORKER_FAILED: Code = Code {
    id: "B0102",
    title: "a worker thread failed",
    explain: "A part of a kernel stopped with a panic. This is a defect: please report it with the message.",
};

/// Worker threads could not be started.
pub const NO_THREADS: Code = Code {
    id: "B0103",
    title: "cannot start worker threads",
    explain: "The operating system refused to start a thread: usually a limit on processes (`ulimit -u`) or on the \
              container's number of tasks.",
};

/// oneDNN refused a product.
pub const ONEDNN_FAILED: Code = Code {
    id: "B0104",
    title: "oneDNN refused a matrix product",
    explain: "The installed oneDNN library cannot carry out a matrix product of this shape, strides and dtype. The \
              generated kernels do not need the library.",
};

/// Codes of the CPU device.
pub const CODES: &[&Code] = &[
    &UNSUPPORTED_CPU,
    &WORKER_FAILED,
    &NO_THREADS,
    &ONEDNN_FAILED,
    &check::BAD_PLAN,
    &device::KERNELS,
    &device::NO_MEMORY,
    &device::STEP_FAILED,
    &device::BAD_THREADS,
    &device::NO_PROGRAM,
    &device::NO_GROUP,
];
