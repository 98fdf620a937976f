//! Steps of our own under MLIR's pass manager, which verifies after each.

use super::ffi::{Cx, OpRef};
use super::{Context, MlirModule, REFUSED, decode, diag, emit, layout};
use crate::diag::{Diagnostic, Result};
use crate::module::Module;
use melior::ir::OperationRef;
use melior::ir::r#type::TypeId;
use melior::pass::{ExternalPass, PassManager, create_external};
use std::cell::RefCell;
use std::rc::Rc;

/// One step of [`MlirModule::run`].
pub struct Step<'a> {
    /// Name for MLIR's messages.
    pub name: &'a str,
    /// One sentence.
    pub summary: &'a str,
    /// The work. It must not panic: it is called from C++.
    pub work: &'a dyn Fn(View<'_>) -> Result<()>,
}

/// The module that a step works on.
#[derive(Clone, Copy)]
pub struct View<'a> {
    cx: Cx<'a>,
    root: OpRef<'a>,
}

impl View<'_> {
    /// The decoded form.
    ///
    /// # Errors
    /// [`super::NOT_NN`].
    pub fn decode(self) -> Result<Module> {
        decode::decode(self.cx, self.root).map_err(|broken| Box::new(broken.diagnostic(None)))
    }

    /// Puts `module` in place of what is there. On an error the old module stays.
    ///
    /// # Errors
    /// As [`Context::emit`].
    pub fn replace(self, module: &Module) -> Result<()> {
        emit::emit_into(self.cx, self.root, module)
    }

    /// MLIR text, as [`MlirModule::print`].
    pub fn print(self) -> String {
        layout::break_signatures(&self.root.print())
    }
}

/// Why a run of steps ended early.
#[derive(Debug)]
pub struct Stopped {
    /// Steps that did their work without an error. If MLIR's verifier refused the result of the last of them, `why`
    /// has the code [`REFUSED`].
    pub done: usize,
    /// The error.
    pub why: Box<Diagnostic>,
}

/// All steps share one identity; MLIR tells them apart by their names.
#[repr(align(8))]
struct StepId(#[allow(dead_code, reason = "gives the identity an address of its own")] u64);
static STEP_ID: StepId = StepId(0);

#[derive(Default)]
struct Progress {
    done: usize,
    error: Option<Box<Diagnostic>>,
}

impl<'c> MlirModule<'c> {
    /// Runs `steps` in order, each as an external pass of MLIR's pass manager with its verifier on.
    ///
    /// # Errors
    /// The first error of a step, or what MLIR's verifier says after one.
    pub fn run(&mut self, steps: &[Step<'_>]) -> std::result::Result<(), Stopped> {
        let context: &'c Context = self.context;
        let manager = PassManager::new(&context.inner);
        manager.enable_verifier(true);
        let progress = Rc::new(RefCell::new(Progress::default()));
        for step in steps {
            let (work, progress) = (step.work, Rc::clone(&progress));
            let callback = move |operation: OperationRef<'_, '_>, external: ExternalPass<'_>| {
                let root = OpRef::of_raw(operation.to_raw(), &context.inner);
                let result = work(View { cx: Cx::new(&context.inner), root });
                let mut progress = progress.borrow_mut();
                match result {
                    Ok(()) => progress.done += 1,
                    Err(e) => {
                        progress.error = Some(e);
                        external.signal_failure();
                    }
                }
            };
            let id = TypeId::create(&STEP_ID);
            manager.add_pass(create_external(callback, id, step.name, step.name, step.summary, "", &[]));
        }
        let (outcome, heard) = diag::listen(&context.inner, || manager.run(&mut self.inner));
        let progress = progress.take();
        // The text that was parsed is not the module any more.
        self.source = None;
        match (progress.error, outcome) {
            (Some(why), _) => Err(Stopped { done: progress.done, why }),
            (None, Ok(())) => Ok(()),
            (None, Err(_)) => {
                let why = Box::new(diag::explain(&heard, &REFUSED, "MLIR's pass manager failed", None));
                Err(Stopped { done: progress.done, why })
            }
        }
    }
}
