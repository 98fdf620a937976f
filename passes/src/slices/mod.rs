//! `slice-sequences`: from the program of a micro-batch to that of a slice of its sequences.

mod attention;
mod cut;
mod sums;

use crate::options::Options;
use crate::pass::Pass;
use crate::registry::Entry;
use athanor_ir::pipeline::FIRST;
use athanor_ir::{Code, Diagnostic, Module, Result};

/// Makes `micro` the program of a slice of a micro-batch's sequences, as many of which as the run's pipeline says come through one
/// after the other, and back in reverse order.
///
/// It is one program for all slices: shapes are those of s/S tokens, and the input `slice.first` says which slice it is, as the
/// position of a rank does where ranks have parts of sequences. What depends on inputs and constants alone is computed for whole
/// sequences, so that tokens may be shifted and counted, and a slice takes its own part (`nn.own_slice`).
///
/// Attention looks along the sequence: a slice writes its keys and values behind those of the slices before it (`nn.keep_slice`
/// into a parameter of role `cache`), and its queries are told where they are among them. Going back, the gradients of all keys
/// are summed over slices (`nn.sum_slices`): when a slice comes to its own, all later ones have added theirs.
///
/// What is summed over tokens, losses and gradients of weights, is the sum over slices then, as it is over micro-batches. A product
/// of two such sums, as the balance loss of experts is, is none: it is made of the sums over the slices so far, and counts in the
/// last slice. The backward part finds those of all slices.
#[derive(Debug, Default)]
pub struct SliceSequences;

/// The row of `slice-sequences` in the registry.
pub const ENTRY: Entry = Entry {
    name: "slice-sequences",
    summary: "Makes the program of a micro-batch that of a slice of its sequences, where the run's pipeline has slices.",
    options: &[],
    build: |_: &Options| Ok(Box::new(SliceSequences)),
};

impl Pass for SliceSequences {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn summary(&self) -> &'static str {
        ENTRY.summary
    }

    fn run(&self, module: &Module) -> Result<Module> {
        slice_sequences(module)
    }
}

/// The module's sequences cannot be cut into slices.
pub const CANNOT_SLICE: Code = Code {
    id: "P0702",
    title: "the sequences of the module cannot be cut into slices",
    explain: "`slice-sequences` runs on a module with `micro`, before it is cut over the mesh. Every input `[batch, sequence]` \
              is cut in as many equal slices as the run's pipeline says. Attention must be causal, no other op may need all of a \
              sequence, and nothing of a token may depend on a sum over all tokens.",
};

/// Codes of this pass.
pub const CODES: &[&Code] = &[&CANNOT_SLICE];

fn cannot<T>(text: String) -> Result<T> {
    Diagnostic::error(&CANNOT_SLICE, text).help("write `seq_split_num: 1`; `athanor explain P0702` says more").err()
}

/// The module of a slice; see [`SliceSequences`]. A module whose pipeline cuts no sequences stays as it is.
///
/// # Errors
/// [`CANNOT_SLICE`].
pub fn slice_sequences(module: &Module) -> Result<Module> {
    let slices = module.run.pipeline.as_ref().map_or(1, |p| p.slices);
    if slices <= 1 {
        return Ok(module.clone());
    }
    let Some(micro) = module.func("micro") else {
        return cannot("there is no function @micro; only training runs in a pipeline".into());
    };
    if micro.find_param(FIRST).is_some() {
        return cannot("@micro is the program of a slice already".into());
    }
    let sliced = cut::sliced(micro, slices)?;
    let funcs = module.funcs.iter().map(|f| if f.name == "micro" { sliced.clone() } else { f.clone() }).collect();
    Ok(Module { funcs, ..module.clone() })
}

#[cfg(test)]
mod tests;
