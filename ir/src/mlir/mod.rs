//! The MLIR form of a module: parse, print, verify, decode, emit.
//!
//! MLIR is the form between passes and in dumps; the decoded [`crate::Module`] is the form within a pass. A module is a
//! `builtin.module` with `nn.*` attributes that holds `func.func`s of `nn` ops:
//!
//! ```mlir
//! module attributes {nn.level = "model", nn.name = "mlp"} {
//!   func.func @forward(
//!       %arg0: tensor<2x3xf32> {nn.name = "x", nn.role = "input"},
//!       %arg1: tensor<5x3xf32> {nn.decay = true, nn.init = {normal = 2.0e-02 : f64}, nn.name = "w", nn.role = "weight"}
//!   ) -> (tensor<2x5xf32> {nn.name = "y"}) {
//!     %0 = "nn.einsum"(%arg0, %arg1) {spec = "bh,kh->bk"} : (tensor<2x3xf32>, tensor<5x3xf32>) -> tensor<2x5xf32>
//!         loc("model.layers.0.mlp"("x.yaml":12:3))
//!     return %0 : tensor<2x5xf32>
//!   }
//! }
//! ```
//!
//! Calls are `func.call`. Operands of differing types of a variadic op travel as one tuple, made by
//! `builtin.unrealized_conversion_cast`, because IRDL holds a variadic group to one type. `nn.run` (or some
//! of its keys) and `nn.mesh` may be left out, as may names and roles of parameters (inputs called `arg0`, …) and names
//! of results.

mod decode;
mod diag;
mod dialect;
mod emit;
mod ffi;
mod json;
mod layout;
mod steps;
mod table;

pub use dialect::generate as generate_dialect;
pub use steps::{Step, Stopped, View};

use crate::diag::{Code, Diagnostic, Result, SourceFile};
use crate::module::Module;
use crate::optimizer::{AdamWSpec, OptimizerSpec};
use crate::run::RunSpec;
use ffi::{Cx, OpRef};
use melior::ir::operation::OperationLike;
use std::ffi::CString;
use std::sync::Arc;

/// Text that is not MLIR.
pub const BAD_TEXT: Code = Code {
    id: "M0002",
    title: "the text is not MLIR",
    explain: "A dump is MLIR text in generic form. The message is MLIR's own, with the line and column where it \
              stopped. A float attribute needs a point (1.0e-5, not 1e-5) and a type (`: f64`).",
};

/// A module that MLIR's verifier refuses.
pub const REFUSED: Code = Code {
    id: "M0003",
    title: "MLIR refuses the module",
    explain: "The text reads as MLIR but breaks a rule that MLIR itself checks: number of operands and results, \
              attributes of nn ops, types of calls. After a pass this is a bug of the pass worth reporting.",
};

/// MLIR that is not a module of the nn dialect.
pub const NOT_NN: Code = Code {
    id: "M0004",
    title: "the module is not of the nn dialect",
    explain: "The module is valid MLIR but holds something the compiler's own form does not have: an op of another \
              dialect, control flow, a type other than a static tensor of f64, f32, bf16, f16 or i32, or an unknown \
              or ill-typed nn attribute.",
};

/// A text that nests so deep that reading it could exhaust the stack.
pub const TOO_DEEP: Code = Code {
    id: "M0005",
    title: "the text nests too deep",
    explain: "MLIR reads nested brackets by recursion. No module needs more than a few levels, so a text that nests \
              deeper than the limit is refused before it is read.",
};

/// Every code of this module.
pub const CODES: &[&Code] = &[&BAD_TEXT, &REFUSED, &NOT_NN, &TOO_DEEP];

/// An MLIR context in which the dialects `nn` and `func` are loaded. Single-threaded: a module is one program.
#[derive(Debug)]
pub struct Context {
    inner: melior::Context,
}

impl Context {
    /// A new context; takes about a millisecond.
    ///
    /// # Panics
    /// If the committed dialect does not load, which a test excludes.
    pub fn new() -> Self {
        let inner = melior::Context::new_with_threading(false);
        melior::dialect::DialectHandle::func().load_dialect(&inner);
        let cx = Cx::new(&inner);
        cx.load_irdl();
        let (loaded, heard) = diag::listen(&inner, || {
            melior::ir::Module::parse(&inner, dialect::TEXT).is_some_and(|m| melior::utility::load_irdl_dialects(&m))
        });
        assert!(loaded, "the nn dialect does not load: {heard:?}");
        Self { inner }
    }

    /// Reads MLIR text; `name` is the file name for messages and for ops without a location of their own.
    ///
    /// A single function without a module around it is taken as a module of that function.
    ///
    /// # Errors
    /// [`BAD_TEXT`] or [`REFUSED`] with MLIR's message, marked in the text; [`TOO_DEEP`].
    pub fn parse(&self, name: &str, text: &str) -> Result<MlirModule<'_>> {
        let source = Arc::new(SourceFile { name: name.to_owned(), text: text.to_owned() });
        if let Err(at) = layout::check_depth(text) {
            let message = format!("{name}: brackets nest deeper than {} levels", layout::DEEPEST);
            return Diagnostic::error(&TOO_DEEP, message).at(&source, at..at + 1, "here").err();
        }
        let cx = Cx::new(&self.inner);
        let bytes = CString::new(text).map_err(|e| {
            let at = e.nul_position();
            let d = Diagnostic::error(&BAD_TEXT, format!("{name}: byte {at} is zero, which no text has"));
            d.at(&source, at..at + 1, "here").help("the file is not MLIR text")
        })?;
        let (operation, heard) = diag::listen(&self.inner, || cx.parse(name, &bytes));
        let Some(operation) = operation else {
            let mut d = diag::explain(&heard, &BAD_TEXT, "MLIR cannot read the text", Some(&source));
            d.help.get_or_insert_with(|| "the text must be MLIR as `athanor opt` prints it".into());
            return d.err();
        };
        let module = if operation.name().as_string_ref().as_str() == Ok("builtin.module") {
            melior::ir::Module::from_operation(operation)
        } else {
            use melior::ir::BlockLike;
            let module = melior::ir::Module::new(melior::ir::Location::unknown(&self.inner));
            module.body().append_operation(operation);
            Some(module)
        };
        match module {
            Some(module) => Ok(MlirModule { context: self, inner: module, source: Some(source) }),
            None => Diagnostic::error(&BAD_TEXT, format!("{name} holds no module")).err(),
        }
    }

    /// The MLIR form of `module`.
    ///
    /// # Errors
    /// [`crate::verify::INVALID_IR`] if a value is read before it is defined or a type is none that MLIR has.
    pub fn emit(&self, module: &Module) -> Result<MlirModule<'_>> {
        let inner = melior::ir::Module::new(melior::ir::Location::unknown(&self.inner));
        let handle = MlirModule { context: self, inner, source: None };
        emit::emit_into(Cx::new(&self.inner), handle.root(), module)?;
        Ok(handle)
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

/// A module in MLIR form.
#[derive(Debug)]
pub struct MlirModule<'c> {
    context: &'c Context,
    inner: melior::ir::Module<'c>,
    source: Option<Arc<SourceFile>>,
}

impl MlirModule<'_> {
    fn root(&self) -> OpRef<'_> {
        OpRef::of(self.inner.as_operation())
    }

    /// MLIR text with every location, one parameter of a function a line.
    pub fn print(&self) -> String {
        layout::break_signatures(&self.root().print())
    }

    /// The decoded form. Values are numbered in order of definition: parameters, then results op by op.
    ///
    /// # Errors
    /// [`NOT_NN`], naming the op and its place.
    pub fn decode(&self) -> Result<Module> {
        decode::decode(Cx::new(&self.context.inner), self.root())
            .map_err(|broken| Box::new(broken.diagnostic(self.source.as_ref())))
    }

    /// MLIR's verifier, then ours on the decoded form, which is returned.
    ///
    /// # Errors
    /// [`REFUSED`], [`NOT_NN`] or [`crate::verify::INVALID_IR`].
    pub fn verify(&self) -> Result<Module> {
        let (valid, heard) = diag::listen(&self.context.inner, || self.inner.as_operation().verify());
        if !valid {
            return diag::explain(&heard, &REFUSED, "MLIR refuses the module", self.source.as_ref()).err();
        }
        let module = self.decode()?;
        crate::verify::verify(&module)?;
        Ok(module)
    }
}

/// The run specification of a module that states none: nothing to train.
fn bare_run() -> RunSpec {
    let adamw = AdamWSpec { beta2: 0.999, ..AdamWSpec::default() };
    RunSpec { seed: 0, optimizer: OptimizerSpec::AdamW(adamw), ..RunSpec::for_tests() }
}

#[cfg(test)]
mod tests;
