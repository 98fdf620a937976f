//! What a weight of each family is called, and with which others it is one.

use athanor_ir::names::{Blocks, Layout, NameTable, Row};
use serde_json::json;

use super::tables;
use crate::config::Layouts;

/// Tables of a small model of `family`.
fn of(family: &str, layouts: Layouts) -> [NameTable; 2] {
    let config = json!({
        "model_type": family, "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 2,
        "multi_query_attention": true, "multi_query_group_num": 2, "num_experts": 4, "num_nextn_predict_layers": 1,
    });
    tables(&config, layouts).try_into().unwrap()
}

/// The row about `ours` and what it is called; its own name if no row knows it.
fn theirs(table: &NameTable, ours: &str) -> (String, Option<Row>) {
    match table.rows.iter().find_map(|r| Some((r, r.of_ours(ours)?))) {
        Some((row, place)) => (place.expert(3).fill(&row.theirs), Some(row.clone())),
        None => (ours.to_owned(), None),
    }
}

#[test]
fn every_family_has_the_names_of_the_hub() {
    let cases = [
        ("llama", "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.q_proj.weight"),
        ("qwen3", "model.layers.1.self_attn.k_norm.weight", "model.layers.1.self_attn.k_norm.weight"),
        ("gpt2", "transformer.h.0.attn.c_attn.bias", "transformer.h.0.attn.c_attn.bias"),
        ("mixtral", "model.layers.1.mlp.gate.weight", "model.layers.1.block_sparse_moe.gate.weight"),
        ("mixtral", "model.layers.1.mlp.experts.up_proj", "model.layers.1.block_sparse_moe.experts.3.w3.weight"),
        ("mixtral", "model.layers.1.mlp.experts.down_proj", "model.layers.1.block_sparse_moe.experts.3.w2.weight"),
        (
            "qwen2_moe",
            "model.layers.2.mlp.shared_expert.up_proj.weight",
            "model.layers.2.mlp.shared_expert.up_proj.weight",
        ),
        ("qwen3_moe", "model.layers.2.mlp.experts.gate_proj", "model.layers.2.mlp.experts.3.gate_proj.weight"),
        ("deepseek_v3", "model.layers.3.mlp.experts.down_proj", "model.layers.3.mlp.experts.3.down_proj.weight"),
        ("deepseek_v2", "model.layers.1.self_attn.kv_b_proj.weight", "model.layers.1.self_attn.kv_b_proj.weight"),
        (
            "glm4_moe",
            "model.layers.1.mlp.gate.e_score_correction_bias",
            "model.layers.1.mlp.gate.e_score_correction_bias",
        ),
        ("chatglm", "model.embed_tokens.weight", "transformer.embedding.word_embeddings.weight"),
        (
            "chatglm",
            "model.layers.0.self_attn.k_proj.bias",
            "transformer.encoder.layers.0.self_attention.query_key_value.bias",
        ),
        ("chatglm", "model.layers.0.mlp.up_proj.weight", "transformer.encoder.layers.0.mlp.dense_h_to_4h.weight"),
        ("chatglm", "model.norm.weight", "transformer.encoder.final_layernorm.weight"),
        ("glm4", "model.layers.2.mlp.gate_proj.weight", "model.layers.2.mlp.gate_up_proj.weight"),
        ("glm4", "model.layers.2.post_mlp_layernorm.weight", "model.layers.2.post_mlp_layernorm.weight"),
        ("telechat2", "model.layers.2.self_attn.v_proj.weight", "transformer.h.2.self_attention.key_value.weight"),
        ("telechat2", "model.layers.2.mlp.down_proj.bias", "transformer.h.2.mlp.down_proj.bias"),
        ("telechat2", "model.norm.weight", "transformer.ln_f.weight"),
        ("telechat3", "model.layers.2.self_attn.v_proj.weight", "model.layers.2.self_attn.v_proj.weight"),
        ("baichuan", "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.W_pack.weight"),
        ("internlm2", "model.layers.0.self_attn.q_proj.weight", "model.layers.0.attention.wqkv.weight"),
        ("internlm2", "model.layers.0.mlp.up_proj.weight", "model.layers.0.feed_forward.w3.weight"),
        ("internlm2", "lm_head.weight", "output.weight"),
    ];
    for (family, ours, want) in cases {
        assert_eq!(theirs(&of(family, Layouts::default())[0], ours).0, want, "{family}");
    }
}

#[test]
fn a_family_that_was_published_twice_is_read_under_both_names() {
    let config = json!({"model_type": "glm", "num_attention_heads": 8, "num_key_value_heads": 2});
    let all = tables(&config, Layouts::default());
    let names: Vec<&str> = all.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["hugging_face", "chatglm", "mindformers"]);
    assert_eq!(theirs(&all[0], "model.layers.0.mlp.up_proj.weight").0, "model.layers.0.mlp.gate_up_proj.weight");
    assert_eq!(theirs(&all[1], "model.norm.weight").0, "transformer.encoder.final_layernorm.weight");
}

#[test]
fn joints_are_cut_as_the_family_cuts_them() {
    let cases = [
        ("chatglm", "self_attn.q_proj.weight", Blocks::One, vec![8, 2, 2]),
        ("telechat2", "self_attn.k_proj.weight", Blocks::Count(2), vec![1, 1]),
        ("internlm2", "self_attn.q_proj.weight", Blocks::Count(2), vec![8, 2, 2]),
        ("glm4", "mlp.up_proj.weight", Blocks::One, vec![1, 1]),
    ];
    for (family, ours, blocks, shares) in cases {
        let (_, row) = theirs(&of(family, Layouts::default())[0], &format!("model.layers.0.{ours}"));
        assert_eq!(row.unwrap().layout, Layout::Joined { blocks, shares }, "{family} {ours}");
    }
}

#[test]
fn mindformers_fuses_as_it_is_told() {
    let layout = |ours: &str, layouts: Layouts| {
        let (name, row) = theirs(&of("qwen3_moe", layouts)[1], &format!("model.layers.2.{ours}"));
        (name, row.unwrap().layout)
    };
    let usual = Layouts::default();
    let joined = |blocks, shares: &[usize]| Layout::Joined { blocks, shares: shares.to_vec() };
    let qkv = "decoder.layers.2.self_attention.linear_qkv.weight".to_owned();
    assert_eq!(layout("self_attn.v_proj.weight", usual), (qkv.clone(), joined(Blocks::Count(2), &[8, 2, 2])));
    let contiguous = Layouts { contiguous_attention: true, ..usual };
    assert_eq!(layout("self_attn.v_proj.weight", contiguous), (qkv, joined(Blocks::One, &[8, 2, 2])));
    let fc1 = "decoder.layers.2.mlp.linear_fc1.weight".to_owned();
    assert_eq!(layout("mlp.gate_proj.weight", usual), (fc1.clone(), joined(Blocks::EveryRow, &[1, 1])));
    let plain = Layouts { interleaved_mlp: false, ..usual };
    assert_eq!(layout("mlp.gate_proj.weight", plain), (fc1, joined(Blocks::One, &[1, 1])));
    let weight1 = "decoder.layers.2.mlp.experts.weight1".to_owned();
    let experts = |flat| Layout::Experts { experts: 4, flat, shares: vec![1, 1] };
    assert_eq!(layout("mlp.experts.up_proj", usual), (weight1.clone(), experts(true)));
    assert_eq!(layout("mlp.experts.up_proj", Layouts { flat_experts: false, ..usual }), (weight1, experts(false)));
    assert_eq!(layout("mlp.gate.weight", usual).0, "decoder.layers.2.mlp.router.weight");
    assert_eq!(layout("post_attention_layernorm.weight", usual).0, "decoder.layers.2.pre_mlp_layernorm.weight");
}

#[test]
fn latent_projections_are_apart_or_one() {
    let config = json!({
        "model_type": "deepseek_v3", "num_hidden_layers": 3, "num_attention_heads": 8, "n_routed_experts": 4,
        "num_nextn_predict_layers": 1, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    });
    let name = |ours: &str, mla_qkv_concat| {
        let all = tables(&config, Layouts { mla_qkv_concat, ..Layouts::default() });
        theirs(&all[1], ours)
    };
    let (q_a, kv_a) =
        ("model.layers.3.self_attn.q_a_proj.weight", "model.layers.0.self_attn.kv_a_proj_with_mqa.weight");
    let mtp = "mtp.layers.0.transformer_layer.self_attention.";
    assert_eq!(name(q_a, false).0, format!("{mtp}linear_q_down_proj.weight"));
    assert_eq!(name(kv_a, false).0, "decoder.layers.0.self_attention.linear_kv_down_proj.weight");
    let (joint, row) = name(q_a, true);
    assert_eq!(joint, format!("{mtp}linear_qkv.weight"));
    assert_eq!(row.unwrap().layout, Layout::Joined { blocks: Blocks::One, shares: vec![24, 24] });
    assert_eq!(name("model.layers.3.shared_head.norm.weight", true).0, "mtp.layers.0.final_layernorm.weight");
    assert_eq!(
        name("model.layers.3.mlp.experts.up_proj", true).0,
        "mtp.layers.0.transformer_layer.mlp.experts.weight1"
    );
}

#[test]
fn what_is_shared_is_a_copy() {
    let [hub, mf] = of("deepseek_v3", Layouts::default());
    let names: Vec<&str> = hub.copies.iter().map(|c| c.theirs.as_str()).collect();
    assert_eq!(names, ["model.layers.3.embed_tokens.weight", "model.layers.3.shared_head.head.weight"]);
    assert!(hub.copies.iter().all(|c| c.beside.as_deref() == Some("model.layers.3.eh_proj.weight")));
    assert!(mf.copies.is_empty());
    let config = json!({"model_type": "qwen2", "tie_word_embeddings": true});
    let [hub, mf] = <[NameTable; 2]>::try_from(tables(&config, Layouts::default())).unwrap();
    assert_eq!((hub.copies[0].theirs.as_str(), &hub.copies[0].beside), ("lm_head.weight", &None));
    assert_eq!(mf.copies[0].of, "embedding.word_embeddings.weight");
    // Configured without the prediction of further tokens, its layer may be in the file.
    let config = json!({"model_type": "deepseek_v3", "num_hidden_layers": 61, "n_routed_experts": 256});
    assert!(tables(&config, Layouts::default())[0].ignores("model.layers.61.mlp.experts.7.up_proj.weight"));
}
