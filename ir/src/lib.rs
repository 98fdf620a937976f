//! The vocabulary that every other crate speaks: ops and their signatures, tensor types, modules, plans, diagnostics.

pub mod diag;
pub mod target;

pub use diag::{Code, Diagnostic, Result};
