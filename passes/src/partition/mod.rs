//! `partition`: from the program of all devices together to that of one rank, which is the same for every rank.

mod agreed;
mod blocks;
mod check;
mod context;
mod exchange;
mod experts;
mod factors;
mod fetch;
mod gathered;
mod held;
mod local;
mod ring;
mod rounds;
mod sequence;
mod share;
pub(crate) mod spread;
mod vocabulary;

use crate::options::Options;
use crate::pass::Pass;
use crate::registry::Entry;
use athanor_ir::{Code, Diagnostic, Module, Result};
pub use check::check;
use factors::Factors;

/// Cuts a module over the ranks of its mesh: local shapes, and collective operations where ranks need each other.
///
/// A *factor* is a set of dims that are one index by the labels of [`athanor_ir::Op::signature`], over all functions: the
/// batch, the heads of a layer, the inner width of a feed-forward layer. Axes `dp` and `ep` cut the batch. Axis `tp` cuts every
/// factor of weights that no op needs whole: a product that makes such a dim is parallel by columns, one that sums over it
/// by rows, and heads of queries and of keys are cut together.
///
/// What an op sums over a cut dim is *partial*: the whole is the sum over the ranks of the axis. Partial values stay so
/// through ops that are linear in them, and an `all_reduce` stands before anything else reads them. Gradients stay partial
/// from one micro-batch to the next; `update` (or `grad_norm` before it) sums them over the ranks once, in place, and squares
/// of a gradient that is cut are summed over its axis. Parameters say how they are spread: [`athanor_ir::Sharding`].
///
/// Axis `ep` also cuts experts: ranks along it share the experts of every layer. They bring their tokens together (`all_gather`),
/// sort all of them, and each multiplies the rows of its own experts; what tokens get back is partial over `ep`, and each rank
/// gets the sum of its own tokens (`reduce_scatter`). Ranks along `dp` sort apart: no token is dropped, so that it changes nothing.
/// Where that is less to have room for, each rank sorts its own tokens instead and sends the others the rows of their experts, a
/// planned number in a round, until none is left (`exchange.rs`).
///
/// With `cut_vocabulary` in the run axis `tp` cuts embedding and output layer by their rows: ids are counted from the first of the
/// own part, rows of the others are zeros, and the loss is made of each part's logarithm of a sum and the one logit.
///
/// With `cut_sequence` in the run ranks along `tp` share the tokens where they share nothing else: what a product by rows leaves
/// partial becomes each rank's part of the sum (`reduce_scatter` of the sequence), norms, sums of the residual stream and routers
/// run on parts, and parts are brought together (`all_gather`) before what needs all of them. The backward pass brings the
/// same parts together again, so that no more than parts is kept for it. Gradients that are sums over tokens are partial.
///
/// Axes `cp` and `up` cut the sequence of every input `[batch, sequence]`. Gradients of weights are partial over them as over `dp`;
/// what looks along the sequence is in `context.rs`. With `keys` of the run a ring, keys and values go round the ranks along
/// `cp` a part at a time (`shift`), and attention is put together from what each part gives.
///
/// With `sharing` in the run, ranks with other tokens share the steps of AdamW: each sums its part of a gradient (`reduce_scatter`), keeps the
/// moments of that part, moves that part of the weight, and gathers the others'. They may share gradients, too: each
/// micro-batch's is summed into parts as soon as it is made. And they may share weights: `micro` gathers one where a block reads
/// it, forward and again backward, and `update` gathers nothing. Which replicas share, the run says: those along `dp` may
/// have the same parts, which are then summed (`all_reduce`) where their step is.
///
/// The result is checked by [`check`], which derives from the parameters alone where partial sums are and who reads them.
#[derive(Debug, Default)]
pub struct Partition;

/// The row of `partition` in the registry.
pub const ENTRY: Entry = Entry {
    name: "partition",
    summary: "Cuts the module over the ranks of its mesh: local shapes, and collective operations between ranks.",
    options: &[],
    build: |_: &Options| Ok(Box::new(Partition)),
};

impl Pass for Partition {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn summary(&self) -> &'static str {
        ENTRY.summary
    }

    fn run(&self, module: &Module) -> Result<Module> {
        partition(module)
    }
}

/// The module cannot be cut over its mesh.
pub const CANNOT_CUT: Code = Code {
    id: "P0501",
    title: "the module cannot be cut over the mesh",
    explain: "`partition` runs on a module with a mesh that was not cut before: axes dp, dp_shard and ep cut the first dim of \
              every input, the batch, and no op may need all of it, as experts with a capacity do; axes cp and up cut the second \
              one, the sequence, and axis up must divide attention's heads; axis ep cuts the experts of every \
              layer, which it must divide; axis tp cuts heads and inner widths, of which there must be some whose \
              size is a multiple of the axis. Other axes are not known here.",
};

/// A sum over ranks is missing or too many.
pub const PARTIAL: Code = Code {
    id: "P0502",
    title: "a partial sum is read as if it were whole",
    explain: "In a program for one rank of many, a sum over a dim that is cut is partial until the ranks have added theirs up. \
              A module in which something else reads it, or in which whole values are added up over ranks, computes other \
              numbers than one rank alone. In a dump that was edited by hand a collective operation is missing or too many; \
              otherwise this is a bug of the pass.",
};

/// Codes of this pass.
pub const CODES: &[&Code] = &[&CANNOT_CUT, &PARTIAL];

fn cannot<T>(text: String) -> Result<T> {
    Diagnostic::error(&CANNOT_CUT, text)
        .help("change the degrees of parallelism; `athanor explain P0501` says more")
        .err()
}

/// The module of one rank; see [`Partition`]. A module for one rank stays as it is.
///
/// # Errors
/// [`CANNOT_CUT`].
pub fn partition(module: &Module) -> Result<Module> {
    if module.mesh.ranks() == 1 {
        return Ok(module.clone());
    }
    if let Some(axis) =
        module.mesh.axes.iter().find(|a| !["dp", "dp_shard", "ep", "cp", "up", "tp", "pp"].contains(&a.name.as_str()))
    {
        return cannot(format!("there is no rule for what axis {:?} of the mesh cuts", axis.name));
    }
    let mut params = module.funcs.iter().flat_map(|f| &f.params);
    if let Some(p) = params.find(|p| !p.sharding.is_whole()) {
        return cannot(format!("parameter {} is spread over the mesh already", p.name));
    }
    let factors = Factors::of(module)?;
    let cut = local::cut(&exchange::side_by_side(module, &factors), &factors)?;
    check(&cut)?;
    Ok(cut)
}

#[cfg(test)]
mod tests;
