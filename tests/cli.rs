//! The command line as its users see it: the sessions under `tests/cli/` are run and their output compared.
//!
//! `TRYCMD=overwrite cargo test --test cli` writes what the command says now; read the difference before it is committed.

#[test]
fn sessions() {
    let cases = trycmd::TestCases::new();
    cases.env("NO_COLOR", "1").env("COLUMNS", "100").case("tests/cli/*.md");
    // The runner knows neither configurations nor passes.
    #[cfg(not(feature = "compiler"))]
    for name in ["check", "help", "opt", "run", "explain"] {
        cases.skip(format!("tests/cli/{name}.md"));
    }
    cases.run();
}
