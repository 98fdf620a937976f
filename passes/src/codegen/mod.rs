//! Kernels: from loop-level MLIR text to one shared object that the runtime loads.

pub mod assign;
pub mod attention;
pub mod cache;
pub mod copy;
pub mod cross_entropy;
pub mod embed;
pub mod emit;
pub mod gemm;
mod generated;
mod half;
mod link;
pub mod llvm;
mod llvm_c;
pub mod loops;
pub mod reduce;
pub mod rope;
pub mod route;
pub mod rows;
mod scratch;
pub mod simd;
pub mod slices;
pub mod squares;

pub use generated::Generated;

use athanor_ir::Code;

/// A kernel's MLIR text does not parse or cannot be lowered.
pub const BAD_KERNEL: Code = Code {
    id: "P0901",
    title: "generated kernel cannot be compiled",
    explain: "A kernel written by the compiler was refused by MLIR or LLVM. This is a defect of Athanor, not of the \
              configuration: please report it with the dump of the kernel (`athanor compile --dump-ir DIR`).",
};

/// The host has no program that makes a shared object.
pub const NO_LINKER: Code = Code {
    id: "P0902",
    title: "no linker found",
    explain: "Compiled CPU kernels are put into one shared object by `cc`, `ld` or `ld.lld-22`, and none of them could \
              be started. Install a C compiler or binutils (Debian: `apt install gcc` or `apt install binutils`).",
};

/// The linker ran and failed.
pub const LINK_FAILED: Code = Code {
    id: "P0903",
    title: "linking the kernels failed",
    explain: "The linker refused the compiled kernels. Its own words are in the message. A full disk and a missing \
              output folder are the usual causes.",
};

/// A file of the compiled kernels could not be written.
pub const KERNEL_IO: Code = Code {
    id: "P0904",
    title: "cannot write compiled kernels",
    explain: "Writing the kernel objects failed. Check that the output folder exists, is writable and has space.",
};

/// No generated product has this form.
pub const UNSUPPORTED_GEMM: Code = Code {
    id: "P0905",
    title: "matrix product has no generated kernel",
    explain: "Generated products multiply f32 by f32 into f32, and bf16 by bf16 or f16 by f16 into f32 or into the same. Other dtypes \
              run on the reference implementation.",
};

/// Codes of kernel compilation.
pub const CODES: &[&Code] = &[&BAD_KERNEL, &NO_LINKER, &LINK_FAILED, &KERNEL_IO, &UNSUPPORTED_GEMM];
