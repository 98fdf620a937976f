//! How weights are fused in files of `MindFormers`.

use crate::config::reader::Section;

/// How weights are fused in files of `MindFormers`; it changes no number, only which element of a file is which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // Each is a switch under its own name.
pub struct Layouts {
    /// `use_contiguous_weight_layout_attention`: all q, all k, all v; if not, group by group.
    pub contiguous_attention: bool,
    /// `use_interleaved_weight_layout_mlp`: rows of gate and up alternate.
    pub interleaved_mlp: bool,
    /// `mla_qkv_concat`: the latent projections are one.
    pub mla_qkv_concat: bool,
    /// Experts are `[e·h, 2f]`, as the graph mode saves them, not `[e, h, 2f]`; both are read.
    pub flat_experts: bool,
}

impl Default for Layouts {
    fn default() -> Self {
        Self { contiguous_attention: false, interleaved_mlp: true, mla_qkv_concat: false, flat_experts: true }
    }
}

/// The switches of the section.
pub(super) fn read(s: &mut Section<'_>) -> Layouts {
    let usual = Layouts::default();
    Layouts {
        contiguous_attention: s.get("use_contiguous_weight_layout_attention", usual.contiguous_attention).value,
        interleaved_mlp: s.get("use_interleaved_weight_layout_mlp", usual.interleaved_mlp).value,
        mla_qkv_concat: s.get("mla_qkv_concat", usual.mla_qkv_concat).value,
        ..usual
    }
}
