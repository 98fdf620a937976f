//! Runs passes under MLIR's pass manager: decode, run, verify, emit, with MLIR's verifier after each.

pub use crate::observe::{Observe, Select, Timings};
use crate::observe::{PassTime, write_dump};
use crate::pass::Pass;
use athanor_ir::mlir::{Context, MlirModule, REFUSED, Step, View};
use athanor_ir::{Code, Diagnostic, Module, Result, verify::verify};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// A pass returned a module that is not valid.
pub const BROKEN_PASS: Code = Code {
    id: "P0005",
    title: "a pass returned a broken module",
    explain: "The verifier runs after every pass; what it found wrong was made by the pass that the message names. This \
              is a bug of the pass. Report it with the module before the pass: `--dump-ir DIR` writes it.",
};

/// A pass stopped with an internal error.
pub const INTERNAL: Code = Code {
    id: "P0006",
    title: "a pass stopped with an internal error",
    explain: "The pass met a case that its code holds to be impossible. This is a bug of the pass. Report it with the \
              module before the pass: `--dump-ir DIR` writes it.",
};

/// The module after `passes`, and the time each took.
///
/// # Errors
/// What a pass reports; [`BROKEN_PASS`], [`INTERNAL`]; an invalid `module`; a name in `observe` that is no pass of the
/// pipeline; a dump that cannot be written.
pub fn run(module: &Module, passes: &[Box<dyn Pass>], observe: &Observe) -> Result<(Module, Timings)> {
    let context = Context::new();
    let mut mlir = context.emit(module)?;
    let timings = run_on(&mut mlir, passes, observe)?;
    Ok((mlir.decode()?, timings))
}

/// As [`run`], on the MLIR form.
///
/// # Errors
/// As [`run`]. The module is then as the last pass that succeeded left it.
pub fn run_on(module: &mut MlirModule<'_>, passes: &[Box<dyn Pass>], observe: &Observe) -> Result<Timings> {
    let start = Instant::now();
    let passes = observe.check(passes)?;
    module.verify()?;
    if let Some(dir) = &observe.dump_dir {
        write_dump(dir, 0, "input", &module.print())?;
    }
    let times = RefCell::new(vec![]);
    let work: Vec<_> = passes
        .iter()
        .enumerate()
        .map(|(i, pass)| {
            let times = &times;
            move |view: View<'_>| {
                times.borrow_mut().push(step(view, pass.as_ref(), i + 1, observe)?);
                Ok(())
            }
        })
        .collect();
    let steps: Vec<Step<'_>> =
        passes.iter().zip(&work).map(|(p, work)| Step { name: p.name(), summary: p.summary(), work }).collect();
    module.run(&steps).map_err(|stopped| match stopped.done.checked_sub(1) {
        // MLIR's verifier refused what the last pass made.
        Some(last) if stopped.why.code == &REFUSED => Box::new(broken(passes[last].name(), &stopped.why)),
        _ => stopped.why,
    })?;
    Ok(Timings { passes: times.take(), total: start.elapsed() })
}

fn broken(pass: &str, why: &Diagnostic) -> Diagnostic {
    let text = format!("pass {pass} returned a module that is not valid: {why}");
    Diagnostic::error(&BROKEN_PASS, text).help("this is a bug of the pass; `athanor explain P0005` says more")
}

/// One pass on the module operation.
fn step(view: View<'_>, pass: &dyn Pass, number: usize, observe: &Observe) -> Result<PassTime> {
    let name = pass.name();
    if observe.print_before.has(name) {
        observe.print("Before", name, &view.print());
    }
    let mut time = PassTime { pass: name.to_owned(), ..PassTime::default() };
    let start = Instant::now();
    let before = view.decode()?;
    time.decode = start.elapsed();

    let start = Instant::now();
    // MLIR calls this from C++, through which a panic cannot pass.
    let after = catch_unwind(AssertUnwindSafe(|| pass.run(&before))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        let text = format!("pass {name} stopped: {}", text.unwrap_or("no message"));
        Diagnostic::error(&INTERNAL, text).help("this is a bug of the pass; `athanor explain P0006` says more").err()
    })?;
    time.run = start.elapsed();

    let start = Instant::now();
    verify(&after).map_err(|e| broken(name, &e))?;
    time.verify = start.elapsed();

    let start = Instant::now();
    view.replace(&after).map_err(|e| broken(name, &e))?;
    time.emit = start.elapsed();

    if observe.print_after.has(name) {
        observe.print("After", name, &view.print());
    }
    if let Some(dir) = &observe.dump_dir {
        write_dump(dir, number, name, &view.print())?;
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use athanor_ir::verify::INVALID_IR;
    use athanor_ir::{Builder, DType, Func, Level, Loc, Op, Role, TensorType, Unary, ValueId};

    /// A pass made of a function.
    struct Of(&'static str, fn(&Module) -> Result<Module>);

    impl Pass for Of {
        fn name(&self) -> &'static str {
            self.0
        }
        fn summary(&self) -> &'static str {
            "A pass of a test."
        }
        fn run(&self, module: &Module) -> Result<Module> {
            (self.1)(module)
        }
    }

    fn of(name: &'static str, f: fn(&Module) -> Result<Module>) -> Box<dyn Pass> {
        Box::new(Of(name, f))
    }

    fn module() -> Module {
        let text = "func.func @f(%a: tensor<2xf32>) -> tensor<2xf32> {\n\
                    %0 = \"nn.exp\"(%a) : (tensor<2xf32>) -> tensor<2xf32>\n\
                    %1 = \"nn.tanh\"(%a) : (tensor<2xf32>) -> tensor<2xf32>\n return %0 : tensor<2xf32>\n}";
        let context = Context::new();
        context.parse("t.mlir", text).unwrap().decode().unwrap()
    }

    /// Appends one exp to the first result.
    #[allow(clippy::unnecessary_wraps, reason = "it is the body of a pass")]
    fn grow(m: &Module) -> Result<Module> {
        let mut m = m.clone();
        let f = &mut m.funcs[0];
        let x = f.results[0].value;
        let y = Builder::new(f, Loc::default()).unary(Unary::Exp, x);
        f.results[0].value = y;
        Ok(m)
    }

    #[test]
    fn passes_run_in_order_and_are_timed() {
        let passes = [
            of("grow", grow),
            Box::new(crate::dce::Dce),
            of("level", |m| Ok(Module { level: Level::Kernel, name: "after".into(), ..m.clone() })),
        ];
        let (after, timings) = run(&module(), &passes, &Observe::default()).unwrap();
        let ops: Vec<&str> = after.funcs[0].nodes.iter().map(|n| n.op.name()).collect();
        assert_eq!(ops, ["exp", "exp"]);
        assert_eq!((after.level, after.name.as_str()), (Level::Kernel, "after"));
        assert_eq!(timings.passes.iter().map(|t| t.pass.as_str()).collect::<Vec<_>>(), ["grow", "dce", "level"]);
        assert!(timings.to_string().contains("grow"));
    }

    #[test]
    fn functions_may_come_and_go() {
        let passes = [of("replace", |m| {
            let mut f = Func::new("g");
            let x = f.param("x", TensorType::scalar(DType::F32), Role::Input, Loc::default());
            f.result("x", x);
            Ok(Module { funcs: vec![f], ..m.clone() })
        })];
        let (after, _) = run(&module(), &passes, &Observe::default()).unwrap();
        assert_eq!(after.funcs.len(), 1);
        assert_eq!(after.funcs[0].name, "g");
    }

    #[test]
    fn errors_of_a_pass_come_back_as_they_are_and_stop_the_pipeline() {
        const NO: Code = Code { id: "P9999", title: "no", explain: "No." };
        let never: fn(&Module) -> Result<Module> = |_| panic!("must not run");
        let passes =
            [of("no", |_| Diagnostic::error(&NO, "no such function").help("add it").err()), of("never", never)];
        let e = run(&module(), &passes, &Observe::default()).unwrap_err();
        assert_eq!((e.code, e.message.as_str(), e.help.as_deref()), (&NO, "no such function", Some("add it")));
    }

    #[test]
    fn a_pass_that_breaks_the_module_is_named() {
        let passes = [of("ill-typed", |m| {
            let mut m = m.clone();
            m.funcs[0].nodes[0].op = Op::Reshape;
            m.funcs[0].types[1] = TensorType::scalar(DType::I32);
            Ok(m)
        })];
        let e = run(&module(), &passes, &Observe::default()).unwrap_err();
        assert_eq!(e.code, &BROKEN_PASS);
        assert!(e.message.contains("ill-typed") && e.message.contains("nn.reshape"), "{e}");
        // A mistake in the attributes of MLIR, which our verifier does not look at.
        let passes = [of("bad-call", |m| {
            let mut m = m.clone();
            m.funcs[0].nodes[0].inputs = vec![ValueId(9)];
            Ok(m)
        })];
        assert_eq!(run(&module(), &passes, &Observe::default()).unwrap_err().code, &BROKEN_PASS);
    }

    #[test]
    fn a_panic_in_a_pass_is_an_error() {
        let e = run(&module(), &[of("boom", |_| panic!("what {}", "now"))], &Observe::default()).unwrap_err();
        assert_eq!(e.code, &INTERNAL);
        assert!(e.message.contains("boom") && e.message.contains("what now"), "{e}");
    }

    #[test]
    fn an_invalid_module_does_not_reach_the_passes() {
        let mut m = module();
        m.level = Level::Model;
        let e = run(&m, &[], &Observe::default()).unwrap_err();
        assert_eq!(e.code, &INVALID_IR);
    }

    #[test]
    fn until_stops_after_its_pass_and_must_be_in_the_pipeline() {
        let passes = [of("grow", grow), of("boom", |_| panic!("must not run"))];
        let until = |p: &str| Observe { until: Some(p.into()), ..Observe::default() };
        let (after, _) = run(&module(), &passes, &until("grow")).unwrap();
        assert_eq!(after.funcs[0].nodes.len(), 3);
        let e = run(&module(), &passes, &until("gorw")).unwrap_err();
        assert_eq!(e.help.as_deref(), Some("did you mean `grow`?"));
        let observe = Observe { print_after: Select::Passes(vec!["x".into()]), ..Observe::default() };
        assert_eq!(run(&module(), &passes, &observe).unwrap_err().code, &crate::registry::UNKNOWN_PASS);
    }

    #[test]
    fn every_dump_can_be_continued_from() {
        let dir = tempfile::tempdir().unwrap();
        let observe = Observe { dump_dir: Some(dir.path().join("ir")), ..Observe::default() };
        let passes = [of("grow", grow), Box::new(crate::dce::Dce) as Box<dyn Pass>];
        let (after, _) = run(&module(), &passes, &observe).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join("ir").join(name)).unwrap();
        let context = Context::new();
        let parse = |name: &str| context.parse(name, &read(name)).unwrap().verify().unwrap();
        assert_eq!(parse("00_input.mlir"), module());
        assert_eq!(parse("02_dce.mlir"), after);
        let (again, _) = run(&parse("01_grow.mlir"), &passes[1..], &Observe::default()).unwrap();
        assert_eq!(again, after);
    }
}
