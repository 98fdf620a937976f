//! Codes of what the command line itself refuses or remarks (A).

use athanor_ir::Code;

/// Options that change nothing here.
pub const NO_EFFECT: Code = Code {
    id: "A0001",
    title: "options without an effect here",
    explain: "These options belong to MindSpore Transformers' scripts and are accepted so that a command line works \
              unchanged, but what they choose does not exist here: the tokenizer's file says what kind it is, memory does \
              not depend on the size of the input, and no Python code is loaded.",
};

/// An option that asks for something that is not done.
pub const NOT_DONE: Code = Code {
    id: "A0002",
    title: "an option asks for something that is not supported",
    explain: "The option changes the result, and Athanor cannot do what it asks. It is refused instead of ignored, \
              because ignoring it would give something else than what was asked for.",
};

/// `explain` does not know the name.
pub const UNKNOWN_NAME: Code = Code {
    id: "A0003",
    title: "nothing of this name can be explained",
    explain: "`athanor explain` knows error codes (C0003), passes (fuse) and ops (rms_norm, nn.rms_norm). Without a name \
              it lists them all. The runner, which has no compiler in it, does not know the codes of the compiler.",
};

/// `inspect` cannot tell what a path is.
pub const UNKNOWN_KIND: Code = Code {
    id: "A0004",
    title: "the path is nothing that can be inspected",
    explain: "`athanor inspect` looks into plan directories (with plan.json), MLIR dumps (.mlir), checkpoints (.safetensors, \
              or a directory with model.safetensors or an index of its parts) and Megatron data sets (a prefix, or its \
              .bin or .idx).",
};

/// A file named on the command line cannot be read or written.
pub const FILE: Code = Code {
    id: "A0005",
    title: "a file named on the command line cannot be read or written",
    explain: "The message has the path and the system's reason. Output goes to a temporary file beside its place first, so \
              that nothing half-written is left.",
};

/// A plan is asked for something only a configuration can do.
pub const NEEDS_CONFIG: Code = Code {
    id: "A0006",
    title: "only a configuration can be changed, a plan cannot",
    explain: "A plan directory holds the decisions of the compiler: sizes, batch, steps and learning rates are fixed in it. \
              Options that override the configuration (`--set`, `-O`, MindSpore Transformers' own flags) need the YAML \
              file; compile it again. The runner has no compiler in it and takes plans only.",
};

/// The number of devices does not fit the plan.
pub const DEVICES: Code = Code {
    id: "A0007",
    title: "the number of devices does not fit the plan",
    explain: "A plan is compiled for a mesh of devices, which `athanor inspect` shows, and is run by as many. Compile the \
              configuration again for another number.",
};

/// Nothing says how weights are named.
pub const NO_NAMES: Code = Code {
    id: "A0008",
    title: "it is not known how the weights are named",
    explain: "Names and layouts of weights follow from the model: its family, its numbers of heads and experts. They are taken               from the config.json beside the checkpoint, or from what `--config` names: a config.json, a YAML file, or a               plan. The runner, which has no compiler in it, takes a plan.",
};

/// Every code of this area.
pub const CODES: &[&Code] =
    &[&NO_EFFECT, &NOT_DONE, &UNKNOWN_NAME, &UNKNOWN_KIND, &FILE, &NEEDS_CONFIG, &DEVICES, &NO_NAMES];
