//! `overlap`: work to do while ranks send each other something.

mod fill;
mod prefetch;
mod price;

use crate::options::{Kind, Options, Spec};
use crate::pass::Pass;
use crate::registry::Entry;
use athanor_ir::pipeline::func_of_stage;
use athanor_ir::{Func, Module, Node, Op, Result, ValueId};
use price::Price;
use std::collections::{HashMap, HashSet};

/// Moves work between collective operations and what reads them, and gathers weights before they are needed.
///
/// What ranks send each other takes as long as so much work as its bytes stand for. Behind each operation inside of a layer comes
/// work of the same layer that needs nothing of it, such as a shared expert behind the exchange of tokens, or the gradients of weights
/// behind the sum of those of activations. Then each begins earlier, where what it sends is there and work is enough for it that no
/// other operation has taken: weights that are gathered where they are read, most of all. Nothing is computed twice or otherwise:
/// every element keeps its bits. What stages of a pipeline do together stays in its order.
#[derive(Debug)]
pub struct Overlap {
    /// Floating-point operations in the time of a byte on the network.
    pub flops: usize,
    /// Bytes of memory in the time of a byte on the network.
    pub bytes: usize,
}

/// The row of `overlap` in the registry.
pub const ENTRY: Entry = Entry {
    name: "overlap",
    summary: "Moves work beside what ranks send each other.",
    options: &[
        Spec {
            name: "flops",
            kind: Kind::Int,
            default: "4096",
            doc: "Floating-point operations in the time of a byte sent.",
        },
        Spec {
            name: "bytes",
            kind: Kind::Int,
            default: "32",
            doc: "Bytes read or written in the time of a byte sent.",
        },
    ],
    build: |options: &Options| {
        let at_least_one = |name| usize::try_from(options.int(name)).unwrap_or(1).max(1);
        Ok(Box::new(Overlap { flops: at_least_one("flops"), bytes: at_least_one("bytes") }))
    },
};

impl Default for Overlap {
    fn default() -> Self {
        Self { flops: 4096, bytes: 32 }
    }
}

impl Pass for Overlap {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn summary(&self) -> &'static str {
        ENTRY.summary
    }

    fn run(&self, module: &Module) -> Result<Module> {
        Ok(self.spread(module, None))
    }
}

impl Overlap {
    /// `module` with the work of every function spread; of a pipeline that of stage `stage` alone, if that is given.
    pub(crate) fn spread(&self, module: &Module, stage: Option<usize>) -> Module {
        let price = Price { module, flops: self.flops as f64, bytes: self.bytes as f64 };
        let of = |func: &Func| {
            let of = func_of_stage(&func.name).map(|(of, _)| of);
            if stage.is_some() && of.is_some() && of != stage || !func.nodes.iter().any(sends) {
                return func.clone();
            }
            let mut body = Body::of(func, &price);
            body.fill();
            body.prefetch();
            Func { nodes: body.order.iter().map(|i| func.nodes[*i].clone()).collect(), ..func.clone() }
        };
        Module { funcs: module.funcs.iter().map(of).collect(), ..module.clone() }
    }
}

/// Whether ranks send each other something in `node`.
fn sends(node: &Node) -> bool {
    matches!(&node.op, Op::Collective(c) if c.sends())
}

/// Whether `node` stays where it is: parts of a pipeline's stage end there, or it was put there for the memory's sake.
fn stays(node: &Node) -> bool {
    matches!(node.op, Op::Handover { .. } | Op::ToHost | Op::FromHost)
}

/// The nodes of a function in their new order.
struct Body<'a> {
    func: &'a Func,
    /// Indices of nodes.
    order: Vec<usize>,
    /// Node that makes each value.
    defs: Vec<Option<usize>>,
    /// What each node takes, in bytes sent; of a collective operation what it sends.
    cost: Vec<f64>,
    /// How much of the work behind a collective operation is beside it, or beside one before it.
    taken: HashMap<usize, f64>,
}

impl<'a> Body<'a> {
    fn of(func: &'a Func, price: &Price<'_>) -> Self {
        let cost =
            func.nodes.iter().map(|n| if sends(n) { price.sent(func, n) } else { price.work(func, n) }).collect();
        Self { func, order: (0..func.nodes.len()).collect(), defs: func.defs(), cost, taken: HashMap::new() }
    }

    fn node(&self, at: usize) -> &'a Node {
        &self.func.nodes[self.order[at]]
    }

    /// Where the first reader of what stands at `at` is.
    fn reader(&self, at: usize) -> usize {
        let made: HashSet<ValueId> = self.node(at).outputs.iter().copied().collect();
        let reads = |k: &usize| self.node(*k).inputs.iter().any(|v| made.contains(v));
        (at + 1..self.order.len()).find(reads).unwrap_or(self.order.len())
    }

    /// Work that stands in `range`.
    fn work(&self, range: std::ops::Range<usize>) -> f64 {
        range.filter(|k| !sends(self.node(*k))).map(|k| self.cost[self.order[k]]).sum()
    }
}
