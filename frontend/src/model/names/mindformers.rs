//! Names and fused layouts of `MindFormers`' training models (Mcore), the same for every family.

use athanor_ir::names::{Blocks, Copied, Layout, NameTable, Row};

use super::{Sizes, joined, renamed};
use crate::config::Layouts;

pub(super) fn table(s: &Sizes, layouts: Layouts) -> NameTable {
    let mut rows = vec![];
    // Layers that predict further tokens have numbers of their own: they come before the pattern of all layers.
    for k in 0..s.mtp {
        let (ours, theirs) = (format!("model.layers.{}.", s.layers + k), format!("mtp.layers.{k}."));
        let around =
            [("enorm", "enorm"), ("hnorm", "hnorm"), ("eh_proj", "eh_proj"), ("shared_head.norm", "final_layernorm")];
        rows.extend(renamed(&ours, &theirs, &around));
        rows.extend(layer(&ours, &format!("{theirs}transformer_layer."), s, layouts));
    }
    rows.extend(layer("model.layers.{l}.", "decoder.layers.{l}.", s, layouts));
    rows.extend(renamed(
        "",
        "",
        &[
            ("model.embed_tokens", "embedding.word_embeddings"),
            ("model.norm", "decoder.final_layernorm"),
            ("lm_head", "output_layer"),
        ],
    ));
    let tied = |()| Copied {
        theirs: "output_layer.weight".into(),
        of: "embedding.word_embeddings.weight".into(),
        beside: None,
    };
    NameTable {
        name: "mindformers".into(),
        rows,
        ignored: vec![],
        copies: s.tied.then_some(()).map(tied).into_iter().collect(),
    }
}

/// Rows of a layer that is called `ours` and `theirs`.
fn layer(ours: &str, theirs: &str, s: &Sizes, layouts: Layouts) -> Vec<Row> {
    let o = |name: &str| format!("{ours}{name}");
    let t = |name: &str| format!("{theirs}{name}");
    let mut rows = vec![];
    if s.kv_latent > 0 {
        rows.extend(latent(ours, theirs, s, layouts));
    } else {
        let blocks = if layouts.contiguous_attention { Blocks::One } else { Blocks::Count(s.groups) };
        for kind in ["weight", "bias"] {
            let parts = ["q", "k", "v"].map(|p| o(&format!("self_attn.{p}_proj.{kind}")));
            rows.push(joined(parts, t(&format!("self_attention.linear_qkv.{kind}")), blocks, s.qkv()));
        }
        rows.extend(renamed(
            ours,
            theirs,
            &[("self_attn.q_norm", "self_attention.q_layernorm"), ("self_attn.k_norm", "self_attention.k_layernorm")],
        ));
    }
    let blocks = if layouts.interleaved_mlp { Blocks::EveryRow } else { Blocks::One };
    let shared = if s.family == "qwen2_moe" { "mlp.shared_expert." } else { "mlp.shared_experts." };
    for (from, to) in [("mlp.", "mlp."), (shared, "mlp.shared_experts.")] {
        for kind in ["weight", "bias"] {
            let parts = ["gate", "up"].map(|p| o(&format!("{from}{p}_proj.{kind}")));
            rows.push(joined(parts, t(&format!("{to}linear_fc1.{kind}")), blocks, vec![1, 1]));
            rows.push(Row::renamed(o(&format!("{from}down_proj.{kind}")), t(&format!("{to}linear_fc2.{kind}"))));
        }
    }
    // Gate and up of routed experts are never interleaved.
    let stacked = |names: &[&str], to: &str| Row {
        ours: names.iter().map(|n| o(&format!("mlp.experts.{n}"))).collect(),
        theirs: t(to),
        layout: Layout::Experts { experts: s.experts, flat: layouts.flat_experts, shares: vec![1; names.len()] },
    };
    rows.push(stacked(&["gate_proj", "up_proj"], "mlp.experts.weight1"));
    rows.push(stacked(&["down_proj"], "mlp.experts.weight2"));
    rows.push(Row::renamed(o("mlp.gate.e_score_correction_bias"), t("mlp.router.expert_bias")));
    rows.extend(renamed(
        ours,
        theirs,
        &[
            ("input_layernorm", "input_layernorm"),
            ("post_attention_layernorm", "pre_mlp_layernorm"),
            ("post_self_attn_layernorm", "post_self_attn_layernorm"),
            ("post_mlp_layernorm", "post_mlp_layernorm"),
            ("self_attn.o_proj", "self_attention.linear_proj"),
            ("mlp.gate", "mlp.router"),
            ("mlp.shared_expert_gate", "mlp.shared_experts.shared_expert_gate"),
        ],
    ));
    rows
}

/// Rows of latent attention.
fn latent(ours: &str, theirs: &str, s: &Sizes, layouts: Layouts) -> Vec<Row> {
    let norm = [("self_attn.q_a_layernorm", "self_attention.q_layernorm")];
    let mut rows = renamed(ours, theirs, &norm);
    if layouts.mla_qkv_concat && s.q_lora > 0 {
        for kind in ["weight", "bias"] {
            let parts = ["q_a_proj", "kv_a_proj_with_mqa"].map(|p| format!("{ours}self_attn.{p}.{kind}"));
            let joint = format!("{theirs}self_attention.linear_qkv.{kind}");
            rows.push(joined(parts, joint, Blocks::One, vec![s.q_lora, s.kv_latent]));
        }
        rows.extend(renamed(
            ours,
            theirs,
            &[
                ("self_attn.q_b_proj", "self_attention.linear_qb"),
                ("self_attn.kv_b_proj", "self_attention.linear_kvb"),
                ("self_attn.kv_a_layernorm", "self_attention.k_layernorm"),
            ],
        ));
    } else {
        rows.extend(renamed(
            ours,
            theirs,
            &[
                ("self_attn.q_proj", "self_attention.linear_q_proj"),
                ("self_attn.q_a_proj", "self_attention.linear_q_down_proj"),
                ("self_attn.q_b_proj", "self_attention.linear_q_up_proj"),
                ("self_attn.kv_a_proj_with_mqa", "self_attention.linear_kv_down_proj"),
                ("self_attn.kv_b_proj", "self_attention.linear_kv_up_proj"),
                ("self_attn.kv_a_layernorm", "self_attention.kv_layernorm"),
            ],
        ));
    }
    rows
}
