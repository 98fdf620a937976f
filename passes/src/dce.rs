//! `dce`: drops nodes whose results nobody needs.

use crate::options::Options;
use crate::pass::Pass;
use crate::registry::Entry;
use athanor_ir::{Func, Module, Result};

/// Drops nodes whose results nobody needs.
///
/// Ops have no side effects, so a node lives only as long as a result of its function is reached from it. Parameters
/// stay: they are the function's interface.
#[derive(Debug, Default)]
pub struct Dce;

/// The row of `dce` in the registry.
pub const ENTRY: Entry = Entry {
    name: "dce",
    summary: "Drops nodes whose results nobody needs.",
    options: &[],
    build: |_: &Options| Ok(Box::new(Dce)),
};

impl Pass for Dce {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn summary(&self) -> &'static str {
        ENTRY.summary
    }

    fn run(&self, module: &Module) -> Result<Module> {
        let funcs = module.funcs.iter().map(Func::without_dead_nodes).collect();
        Ok(Module { funcs, ..module.clone() })
    }
}
