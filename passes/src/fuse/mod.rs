//! `fuse`: joins element-wise ops, norms and reductions over one space into groups that become one kernel each.

mod chunk;
mod group;
mod late;
mod products;
mod recompute;
mod rules;

use crate::egraph::rewrite;
use crate::options::{Kind, Options, Spec};
use crate::pass::Pass;
use crate::registry::Entry;
use athanor_ir::{Func, Level, Module, Result};

/// Joins element-wise ops, norms and reductions over one space into groups that become one kernel each.
///
/// Before that, equality saturation picks the form of products and losses; the vocabulary product with its loss and
/// gradients runs over blocks of tokens; and a sum of two matrix products accumulates in the second. An
/// element-wise function that several groups read is computed in each of them instead of being stored. Groups with equal
/// bodies call one function. A group never closes a cycle through ops outside it, and what it computes is what its ops
/// computed: intermediate values of narrow types may keep more digits inside a group.
#[derive(Debug, Default)]
pub struct Fuse {
    /// Blocks of tokens of the loss; `None` for as many as keep a block of logits within 128 MiB.
    pub loss_blocks: Option<usize>,
}

/// The row of `fuse` in the registry.
pub const ENTRY: Entry = Entry {
    name: "fuse",
    summary: "Joins element-wise ops, norms and reductions over one space into groups that become one kernel each.",
    options: &[Spec {
        name: "loss-blocks",
        kind: Kind::Int,
        default: "0",
        doc: "Blocks of tokens in which the loss over the vocabulary runs; 0 for as many as keep a block of logits \
              within 128 MiB.",
    }],
    build: |options: &Options| {
        let blocks = options.int("loss-blocks");
        Ok(Box::new(Fuse { loss_blocks: usize::try_from(blocks).ok().filter(|b| *b > 0) }))
    },
};

impl Pass for Fuse {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn summary(&self) -> &'static str {
        ENTRY.summary
    }

    fn run(&self, module: &Module) -> Result<Module> {
        let mut bodies = group::Bodies::default();
        let fuse = |f: &Func| {
            let f = rewrite(f, rules::RULES, rules::cost);
            let f = chunk::split_losses(&f, self.loss_blocks);
            late::late_copies(&group::fuse(&recompute::cheap(&products::accumulate(&f)), &mut bodies))
        };
        let mut funcs: Vec<Func> = module.funcs.iter().map(fuse).collect();
        funcs.extend(bodies.into_funcs());
        Ok(Module { level: Level::Kernel, funcs, ..module.clone() })
    }
}
