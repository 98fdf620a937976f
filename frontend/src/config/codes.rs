//! The diagnostics of reading a configuration.

use athanor_ir::Code;

macro_rules! codes {
    ($($name:ident = $id:literal, $title:literal, $explain:literal;)*) => {
        $(#[doc = $title] pub const $name: Code = Code { id: $id, title: $title, explain: $explain };)*
        /// Every code of this module, for `athanor explain`.
        pub const CODES: &[&Code] = &[$(&$name),*];
    };
}

codes! {
    SYNTAX = "C0001", "the text is not valid YAML",
        "The file could not be read as YAML. The marked place is where the reader gave up; the cause is often a line \
         or two above it: a missing colon, a tab used for indentation, or an unclosed quote or bracket.";
    UNREADABLE = "C0002", "a file cannot be read",
        "The configuration, a file named by `base_config`, or the config.json under `pretrained_model_dir` is \
         missing, is not UTF-8 text, or is too large to be a configuration. Relative paths are tried against the \
         folder of the YAML file first and the working directory second.";
    UNKNOWN_KEY = "C0003", "unknown key in a section with a fixed set of keys",
        "Neither MindSpore Transformers nor Athanor knows this key in this section, so its value would be dropped. \
         Correct the spelling, move it to the section it belongs to, or remove it.";
    UNKNOWN_OPEN_KEY = "C0004", "unknown key in a section that accepts any key",
        "MindSpore Transformers accepts any key here and ignores the ones it does not know. Athanor does the same \
         but says so, because a misspelt key is otherwise found only in the loss curve.";
    NO_EFFECT = "C0005", "known keys without an effect here",
        "These keys mean something to MindSpore Transformers (graph mode, Ascend memory pools, profiling, inference \
         and so on) and nothing to a pretraining run of Athanor. They are accepted so that a file works unchanged.";
    WRONG_TYPE = "C0006", "a value of the wrong type",
        "The key expects another type of value. Numbers may be written `1e-5` or `1.e-5`; booleans are `True`, \
         `False`, `yes`, `no`, `on` and `off` without quotes.";
    OUT_OF_RANGE = "C0007", "a value outside of what is allowed",
        "The value has the right type but cannot be used: it is out of range or not one of the accepted names.";
    MISSING_KEY = "C0008", "a required key is missing",
        "This key has no sensible default. For the model section the values can also come from the config.json of a \
         Hugging Face model named by `pretrained_model_dir`.";
    ALIAS_CONFLICT = "C0009", "two names of one setting have different values",
        "Several spellings are accepted for one setting (`num_layers`, `num_hidden_layers` and `n_layer`, say). Two \
         of them are present with different values, so it is not clear which is meant. Keep one.";
    GENERATION = "C0010", "a configuration generation that is not supported yet",
        "MindSpore Transformers has had four layouts of its YAML. Athanor reads the legacy layout (G1: \
         `model.model_config.type`) and the Mcore layout (G2: `use_legacy: False`); the `training_args` layout \
         (G2.5) and the PyNative layout (G3: `parallelism` and `training`) are recognised and refused for now.";
    NOT_SUPPORTED = "C0011", "known, but not supported yet",
        "The setting changes what is computed and Athanor cannot do it yet. It is refused instead of ignored, \
         because ignoring it would train another model than the one asked for.";
    TOO_LARGE = "C0012", "the configuration is nested too deeply or expands to too much",
        "Mappings may be nested ten deep (MindSpore Transformers has the same limit), a file may hold 8 MiB, and \
         anchors, aliases and merge keys may not expand to more than a million values.";
    DUPLICATE_KEY = "C0013", "a key is given twice",
        "YAML readers keep the last of two equal keys without a word. Remove one of them.";
    BASE_CONFIG = "C0014", "the chain of base files cannot be followed",
        "`base_config` names one file or a list of files whose settings this file builds on. The chain may be ten \
         files deep and may not lead back to a file that is already being read.";
    OVERRIDE = "C0015", "an override from the command line cannot be applied",
        "Overrides have the form `a.b.c=value`. Each part names a mapping, and the value is read as a number, a \
         boolean, a list in brackets, or else a string.";
    CONTRADICTION = "C0016", "settings contradict each other",
        "Each value is fine on its own but they cannot hold together. The marked lines name all that take part.";
    UNKNOWN_TYPE = "C0017", "an unknown class name",
        "`type` selects a class of MindSpore Transformers by name. This name is not one of them.";
    COMPATIBILITY = "C0018", "a default or an alias worth knowing",
        "The value is what MindSpore Transformers would use, and it may surprise.";
    CLASS_ELSEWHERE = "C0019", "a class that lives outside of the configuration",
        "`auto_register` loads Python code of a research folder. Athanor has no Python in it: what the class does \
         must exist here under a name of its own.";
}
