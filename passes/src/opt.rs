//! Text to text through a pipeline: what `athanor opt` does.

use crate::manager::run_on;
use crate::observe::{Observe, Timings};
use crate::registry::build;
use athanor_ir::Result;
use athanor_ir::mlir::Context;

/// Reads MLIR text, runs `pipeline` on it and prints the result. An empty pipeline verifies and prints.
///
/// `input_name` is the file name for messages. Any dump can be continued from: it is a complete program.
///
/// # Errors
/// A coded diagnostic for text that cannot be read, a pipeline that names unknown passes or options, and whatever the
/// passes report.
pub fn opt(input_name: &str, text: &str, pipeline: &str, observe: &Observe) -> Result<(String, Timings)> {
    let passes = build(pipeline)?;
    let context = Context::new();
    let mut module = context.parse(input_name, text)?;
    let timings = run_on(&mut module, &passes, observe)?;
    Ok((module.print(), timings))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "module attributes {nn.level = \"train\", nn.name = \"t\"} {
  func.func @f(
      %arg0: tensor<2xf32> {nn.name = \"x\", nn.role = \"input\"} loc(unknown)) -> (
      tensor<2xf32> {nn.name = \"y\"}) {
    return %arg0 : tensor<2xf32> loc(unknown)
  } loc(unknown)
} loc(unknown)
";

    #[test]
    fn an_empty_pipeline_prints_what_it_read() {
        assert_eq!(opt("t.mlir", TEXT, "", &Observe::default()).unwrap().0, TEXT);
        assert_eq!(opt("t.mlir", TEXT, "dce,dce", &Observe::default()).unwrap().0, TEXT);
    }

    #[test]
    fn a_bad_pipeline_is_told_before_the_text_is_read() {
        let e = opt("t.mlir", "nonsense", "dec", &Observe::default()).unwrap_err();
        assert_eq!(e.code, &crate::registry::UNKNOWN_PASS);
        let e = opt("t.mlir", "nonsense", "", &Observe::default()).unwrap_err();
        assert_eq!(e.code, &athanor_ir::mlir::BAD_TEXT);
    }
}
