//! Passes from module to module, and from module to plan.

pub mod codegen;
pub mod plan;
