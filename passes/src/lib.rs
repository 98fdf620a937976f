//! Compilation: passes from module to module, and the manager that runs them.

pub mod autodiff;
pub mod dce;
pub mod optimizer;
pub mod options;
pub mod pass;
pub mod pipeline;
pub mod registry;

pub use pass::Pass;

use athanor_ir::Code;

/// Every code that this crate reports.
pub const CODES: &[&Code] = &[
    &registry::UNKNOWN_PASS,
    &options::UNKNOWN_OPTION,
    &options::BAD_OPTION,
    &pipeline::BAD_PIPELINE,
    &autodiff::NO_FORWARD,
    &autodiff::NO_LOSS,
    &autodiff::NO_DERIVATIVE,
    &optimizer::NO_GRADIENTS,
];
