//! Names on the Hugging Face hub, family by family.

use athanor_ir::names::{Blocks, Copied, Layout, NameTable, Row};

use super::{Sizes, joined, renamed};

/// A layer of ours.
const LAYER: &str = "model.layers.{l}.";
/// Projections that share an input, by the place of the joint tensor.
const QKV: [&str; 3] = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
const GATE_UP: [&str; 2] = ["mlp.gate_proj", "mlp.up_proj"];

pub(super) fn table(s: &Sizes) -> NameTable {
    let rows = match s.family.as_str() {
        "mixtral" => mixtral(),
        "chatglm" => chatglm(s),
        "glm" | "glm4" => joint(&GATE_UP, LAYER, "mlp.gate_up_proj", Blocks::One, &[1, 1]),
        "telechat" | "telechat2" => telechat2(s),
        "baichuan" => joint(&QKV, LAYER, "self_attn.W_pack", Blocks::One, &s.qkv()),
        "internlm2" => internlm2(s),
        // Llama and its like, whose names ours are; where they have experts, one tensor each.
        _ => experts("mlp.experts", ["gate_proj", "up_proj", "down_proj"]),
    };
    NameTable { name: "hugging_face".into(), rows, ignored: ignored(s), copies: copies(s) }
}

/// Tables that follow from the configuration, and layers of a prediction that the model was configured without.
fn ignored(s: &Sizes) -> Vec<String> {
    let mut out = vec!["*rotary_emb.inv_freq".to_owned(), "*rotary_pos_emb.inv_freq".into()];
    if s.family == "gpt2" {
        out.extend(["*.attn.bias".into(), "*.attn.masked_bias".into()]);
    }
    // Only where files come with such a layer: elsewhere a layer too many means another model.
    if s.mtp == 0 && matches!(s.family.as_str(), "deepseek_v3" | "glm4_moe" | "telechat3_moe") {
        out.push(format!("model.layers.{}.*", s.layers));
    }
    out
}

fn copies(s: &Sizes) -> Vec<Copied> {
    let embedding = match s.family.as_str() {
        "gpt2" => "transformer.wte.weight",
        "chatglm" => "transformer.embedding.word_embeddings.weight",
        "telechat" | "telechat2" => "transformer.word_embeddings.weight",
        "internlm2" => "model.tok_embeddings.weight",
        _ => "model.embed_tokens.weight",
    };
    let head = match s.family.as_str() {
        "chatglm" => "transformer.output_layer.weight",
        "internlm2" => "output.weight",
        _ => "lm_head.weight",
    };
    let mut out = vec![];
    if s.tied {
        out.push(Copied { theirs: head.into(), of: embedding.into(), beside: None });
    }
    // Each layer that predicts further tokens comes with the embedding and the output layer that it shares.
    for layer in (s.layers..).take(s.mtp) {
        let of_layer = |name: &str| format!("model.layers.{layer}.{name}");
        let beside = Some(of_layer("eh_proj.weight"));
        let head = if s.tied { embedding } else { head };
        for (name, of) in [("embed_tokens.weight", embedding), ("shared_head.head.weight", head)] {
            out.push(Copied { theirs: of_layer(name), of: of.into(), beside: beside.clone() });
        }
    }
    out
}

/// Gate, up and down of the experts below `at`, one tensor per expert.
fn experts(at: &str, [gate, up, down]: [&str; 3]) -> Vec<Row> {
    let row = |(ours, theirs): (&str, &str)| Row {
        ours: vec![format!("{LAYER}mlp.experts.{ours}")],
        theirs: format!("{LAYER}{at}.{{e}}.{theirs}.weight"),
        layout: Layout::PerExpert,
    };
    [("gate_proj", gate), ("up_proj", up), ("down_proj", down)].map(row).into()
}

/// Rows for weight and bias of layers of ours that are one in the file.
fn joint<const N: usize>(ours: &[&str; N], layer: &str, theirs: &str, blocks: Blocks, shares: &[usize]) -> Vec<Row> {
    let row = |kind: &str| {
        joined(ours.map(|o| format!("{LAYER}{o}.{kind}")), format!("{layer}{theirs}.{kind}"), blocks, shares.to_vec())
    };
    ["weight", "bias"].map(row).into()
}

/// Jiang et al. 2024, arXiv 2401.04088: w1 is the gate, w3 up, w2 down.
fn mixtral() -> Vec<Row> {
    let mut rows = renamed(LAYER, LAYER, &[("mlp.gate", "block_sparse_moe.gate")]);
    rows.extend(experts("block_sparse_moe.experts", ["w1", "w3", "w2"]));
    rows
}

/// GLM-2, GLM-3 and the first GLM-4: q, k and v are one behind the other, and so are gate and up.
fn chatglm(s: &Sizes) -> Vec<Row> {
    const THEIRS: &str = "transformer.encoder.layers.{l}.";
    let mut rows = joint(&QKV, THEIRS, "self_attention.query_key_value", Blocks::One, &s.qkv());
    rows.extend(joint(&GATE_UP, THEIRS, "mlp.dense_h_to_4h", Blocks::One, &[1, 1]));
    rows.extend(renamed(
        LAYER,
        THEIRS,
        &[
            ("input_layernorm", "input_layernorm"),
            ("self_attn.o_proj", "self_attention.dense"),
            ("post_attention_layernorm", "post_attention_layernorm"),
            ("mlp.down_proj", "mlp.dense_4h_to_h"),
        ],
    ));
    rows.extend(renamed(
        "",
        "transformer.",
        &[
            ("model.embed_tokens", "embedding.word_embeddings"),
            ("model.norm", "encoder.final_layernorm"),
            ("lm_head", "output_layer"),
        ],
    ));
    rows
}

/// `TeleChat` and `TeleChat2`: keys and values are one, head by head.
fn telechat2(s: &Sizes) -> Vec<Row> {
    const THEIRS: &str = "transformer.h.{l}.";
    let kv = ["self_attn.k_proj", "self_attn.v_proj"];
    let mut rows = joint(&kv, THEIRS, "self_attention.key_value", Blocks::Count(s.groups), &[1, 1]);
    rows.extend(renamed(
        LAYER,
        THEIRS,
        &[
            ("input_layernorm", "input_layernorm"),
            ("self_attn.q_proj", "self_attention.query"),
            ("self_attn.o_proj", "self_attention.dense"),
            ("post_attention_layernorm", "post_attention_layernorm"),
            ("mlp.gate_proj", "mlp.gate_proj"),
            ("mlp.up_proj", "mlp.up_proj"),
            ("mlp.down_proj", "mlp.down_proj"),
        ],
    ));
    rows.extend(renamed("model.", "transformer.", &[("embed_tokens", "word_embeddings"), ("norm", "ln_f")]));
    rows
}

/// `InternLM2`: q, k and v are one, group by group.
fn internlm2(s: &Sizes) -> Vec<Row> {
    let mut rows = joint(&QKV, LAYER, "attention.wqkv", Blocks::Count(s.groups), &s.qkv());
    rows.extend(renamed(
        LAYER,
        LAYER,
        &[
            ("input_layernorm", "attention_norm"),
            ("self_attn.o_proj", "attention.wo"),
            ("post_attention_layernorm", "ffn_norm"),
            ("mlp.gate_proj", "feed_forward.w1"),
            ("mlp.up_proj", "feed_forward.w3"),
            ("mlp.down_proj", "feed_forward.w2"),
        ],
    ));
    rows.extend(renamed("", "", &[("model.embed_tokens", "model.tok_embeddings"), ("lm_head", "output")]));
    rows
}
