//! Compilation: passes from module to module, the manager that runs them, and the step from module to plan.

pub mod autodiff;
mod blocks;
pub mod bucket;
pub mod codegen;
pub mod compile;
pub mod dce;
mod egraph;
pub mod fuse;
pub mod manager;
pub mod observe;
pub mod offload;
pub mod opt;
pub mod optimizer;
pub mod options;
pub mod overlap;
pub mod partition;
pub mod pass;
pub mod pipeline;
pub mod plan;
pub mod prove;
pub mod recompute;
pub mod registry;
pub mod schedule;
pub mod simplify;
pub mod slices;
pub mod split_stages;

pub use observe::{Observe, Select, Timings};
pub use pass::Pass;

use athanor_ir::Code;

/// Every code that this crate reports.
pub const CODES: &[&Code] = &[
    &registry::UNKNOWN_PASS,
    &options::UNKNOWN_OPTION,
    &options::BAD_OPTION,
    &pipeline::BAD_PIPELINE,
    &manager::BROKEN_PASS,
    &manager::INTERNAL,
    &observe::CANNOT_DUMP,
    &codegen::BAD_KERNEL,
    &codegen::NO_LINKER,
    &codegen::LINK_FAILED,
    &codegen::KERNEL_IO,
    &autodiff::NO_FORWARD,
    &autodiff::NO_LOSS,
    &autodiff::NO_DERIVATIVE,
    &optimizer::NO_GRADIENTS,
    &optimizer::BAD_RULE,
    &partition::CANNOT_CUT,
    &partition::PARTIAL,
    &split_stages::CANNOT_SPLIT,
    &slices::CANNOT_SLICE,
    &prove::UNMATCHED,
    &prove::HAZARD,
    &prove::RACE,
    &recompute::TOO_LARGE,
    &schedule::generate::IMPOSSIBLE,
];
