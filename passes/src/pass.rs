//! What a pass is.

use athanor_ir::{Module, Result};

/// A step of compilation from module to module.
///
/// A pass is pure: it reads nothing but the module and its own options, which are its fields. It does not change the
/// module it is given but returns the next one. The manager verifies what it returns.
pub trait Pass: Send {
    /// The kebab-case name in pipelines: `simplify`.
    fn name(&self) -> &'static str;

    /// One sentence that says what it does.
    fn summary(&self) -> &'static str;

    /// The module after this pass.
    ///
    /// # Errors
    /// A coded diagnostic when the module cannot be compiled by this pass, such as a missing function.
    fn run(&self, module: &Module) -> Result<Module>;
}
