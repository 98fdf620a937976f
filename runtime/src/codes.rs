//! Codes of errors in running a plan (R) and in checkpoints (K).

use athanor_ir::Code;

/// A plan directory cannot be read.
pub const PLAN_READ: Code = Code {
    id: "R0001",
    title: "the plan cannot be read",
    explain: "A plan is a directory with plan.json in it, as `athanor compile -o` writes it. The path does not lead to one, or \
              a file in it cannot be read.",
};
/// The plan was written by another version.
pub const PLAN_VERSION: Code = Code {
    id: "R0002",
    title: "the plan has another format version",
    explain: "plan.json carries a format version, and a runner executes only its own. Compile the configuration again with \
              this version of athanor.",
};
/// plan.json is not a plan.
pub const PLAN_FORMAT: Code = Code {
    id: "R0003",
    title: "plan.json is damaged",
    explain: "plan.json is not valid JSON, lacks a field, or has one that this version does not know. The message gives line \
              and column. Compile the configuration again.",
};
/// A plan directory cannot be written.
pub const PLAN_WRITE: Code = Code {
    id: "R0004",
    title: "the plan cannot be written",
    explain: "A plan is written to a temporary directory beside its final place and renamed, so that it appears whole or not at \
              all. The parent directory must be writable, and what is already there must be a plan or an empty directory.",
};
/// The kernels do not belong to the plan.
pub const PLAN_KERNELS: Code = Code {
    id: "R0005",
    title: "the plan and its kernels do not belong together",
    explain: "Kernels are machine code for exactly one plan.json: run with another, they would write outside their buffers. A \
              plan directory records the checksums of both, and one of the files has changed since. Compile again instead \
              of editing or mixing plans.",
};
/// The plan is not one that can be trained.
pub const NOT_TRAINABLE: Code = Code {
    id: "R0006",
    title: "the plan cannot be trained",
    explain: "Training runs the programs micro and update of a single-stage plan for CPU, gives them tokens, labels, loss_mask and \
              the scalars of the optimizer, and reads loss and grad_norm. This plan lacks one of these, or wants an input \
              that the trainer does not know.",
};
/// Loss or gradient norm is NaN or infinite.
pub const NOT_FINITE: Code = Code {
    id: "R0007",
    title: "the loss is not finite",
    explain: "The loss or the gradient norm of a step is NaN or infinite, and going on would only destroy the weights. Nothing \
              was saved after it: the last checkpoint is good. Usual causes: a learning rate that is too high, no warm-up, \
              no gradient clipping, or damaged weights in load_checkpoint.",
};
/// Batches do not fit the plan.
pub const BATCH: Code = Code {
    id: "R0008",
    title: "the data does not fit the plan",
    explain: "The plan was compiled for a batch size, a sequence length and a set of inputs (tokens, labels, loss_mask, \
              position_ids), and the data gives something else, or the plan names no data at all.",
};
/// A log, metrics or plot file cannot be written.
pub const OUTPUT: Code = Code {
    id: "R0009",
    title: "an output file cannot be written",
    explain: "Log, metrics and plot files need a writable directory and room on the disk. A plot is an .svg file.",
};
/// Ranks were not started alike.
pub const RANKS_DIFFER: Code = Code {
    id: "R0010",
    title: "the ranks of a run differ",
    explain: "Processes that train together run one version of Athanor with one set of arguments on one plan: they compare these \
              before anything else, by their hashes. Different files under one name on different machines, or several commands \
              given to one mpirun, are the usual causes.",
};
/// A checkpoint cannot be opened.
pub const CKPT_OPEN: Code = Code {
    id: "K0001",
    title: "the checkpoint cannot be opened",
    explain: "`load_checkpoint` is a safetensors file, a Hugging Face directory (model.safetensors, or \
              model.safetensors.index.json with its parts), or a directory with a saved iteration.",
};
/// A safetensors file is damaged.
pub const SAFETENSORS: Code = Code {
    id: "K0002",
    title: "the safetensors file is damaged",
    explain: "A safetensors file is 8 bytes of header length, a JSON header, and the tensors without gaps. The message names the \
              byte offset where that breaks. A download that was cut short is the usual cause.",
};
/// Tensors do not match the model.
pub const TENSORS: Code = Code {
    id: "K0003",
    title: "the checkpoint does not fit the model",
    explain: "Every weight of the model must be in the checkpoint under its name with its shape, and nothing else may be there \
              but what is known to be redundant: rotary frequencies, attention masks, optimizer state, and second copies of \
              what the model has once, such as a tied output layer, if they are equal. Names are the Hugging Face hub's or \
              MindSpore Transformers', whichever fits. Up to 20 differences are listed, with the number of all.",
};
/// A checkpoint cannot be written.
pub const CKPT_WRITE: Code = Code {
    id: "K0004",
    title: "the checkpoint cannot be written",
    explain: "A checkpoint is written to a temporary directory and renamed when it is complete, so earlier ones stay good. The \
              output directory must be writable and have room for weights and optimizer state.",
};
/// There is nothing to resume from.
pub const NO_RESUME: Code = Code {
    id: "K0005",
    title: "there is no checkpoint to resume from",
    explain: "Resuming needs a directory with latest_checkpointed_iteration.txt, or one iteration_XXXXXXXX directory with \
              common.json, the weights and the optimizer state. Weights alone (a Hugging Face directory) go to \
              load_checkpoint and start a new run.",
};
/// The state of a checkpoint is damaged.
pub const CKPT_STATE: Code = Code {
    id: "K0006",
    title: "the state of the checkpoint is damaged",
    explain: "common.json or latest_checkpointed_iteration.txt does not have the form that a save gives it, or the samples consumed \
              so far are not a whole number of steps of the present global batch size.",
};
/// Another run saves into the same directory.
pub const OUTPUT_IN_USE: Code = Code {
    id: "K0010",
    title: "another run saves into this directory",
    explain: "Two runs with one output_dir would replace each other's checkpoints: both number them by the step. The first one \
              holds the directory until it ends, however it ends. Wait for it, or give this run an output_dir of its own.",
};

/// Two checkpoints differ.
pub const UNEQUAL: Code = Code {
    id: "K0007",
    title: "the checkpoints do not hold the same weights",
    explain: "Two checkpoints were compared value by value under the names that weights have here, whatever their own names,               layouts, files and types are. The message lists the weights that are in one only, have other dims, or other               values, with the first element that differs.",
};
/// A checkpoint has values that are not finite.
pub const NOT_FINITE_WEIGHTS: Code = Code {
    id: "K0008",
    title: "weights are not finite",
    explain: "A weight holds NaN or an infinity. Training from it would give no finite loss. The run that saved it diverged, or               the file was damaged after its header was written.",
};

/// All codes of this crate but those of the data.
pub const CODES: &[&Code] = &[
    &PLAN_READ,
    &PLAN_VERSION,
    &PLAN_FORMAT,
    &PLAN_WRITE,
    &PLAN_KERNELS,
    &NOT_TRAINABLE,
    &NOT_FINITE,
    &BATCH,
    &OUTPUT,
    &RANKS_DIFFER,
    &CKPT_OPEN,
    &SAFETENSORS,
    &TENSORS,
    &CKPT_WRITE,
    &NO_RESUME,
    &CKPT_STATE,
    &OUTPUT_IN_USE,
    &UNEQUAL,
    &NOT_FINITE_WEIGHTS,
];
