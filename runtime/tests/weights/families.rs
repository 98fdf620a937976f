//! A small model of every family, written under its names on the hub, then through MindFormers' and back.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::Path;

use athanor_frontend::config::Layouts;
use athanor_frontend::model::names::tables;
use athanor_ir::DType;
use athanor_ir::names::NameTable;
use athanor_runtime::checkpoint::convert::{Checkpoint, Opening, convert};
use athanor_runtime::checkpoint::mapping::{Weight, map};
use athanor_runtime::checkpoint::write::{Source, write};
use serde_json::{Value, json};

use super::tensors;

const HIDDEN: usize = 12;
const HEADS: usize = 4;
const GROUPS: usize = 2;
const WIDTH: usize = 3;
const EXPERTS: usize = 3;

/// What a family has beside Llama's blocks.
#[derive(Default, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of a family")]
struct Has {
    qkv_bias: bool,
    output_bias: bool,
    down_bias: bool,
    qk_norm: bool,
    sandwich: bool,
    latent: bool,
    q_lora: bool,
    experts: bool,
    router_bias: bool,
    /// Name of the shared expert.
    shared: Option<&'static str>,
    mtp: bool,
    tied: bool,
}

fn families() -> Vec<(&'static str, Has)> {
    let dense = Has::default();
    let qkv_bias = Has { qkv_bias: true, ..dense };
    let moe = Has { experts: true, ..dense };
    let deepseek = Has { experts: true, latent: true, q_lora: true, shared: Some("shared_experts"), ..dense };
    let v3 = Has { router_bias: true, mtp: true, ..deepseek };
    vec![
        ("llama", dense),
        ("mistral", dense),
        ("qwen2", Has { tied: true, ..qkv_bias }),
        ("qwen3", Has { qk_norm: true, ..dense }),
        ("mixtral", moe),
        ("qwen2_moe", Has { qkv_bias: true, shared: Some("shared_expert"), ..moe }),
        ("qwen3_moe", Has { qk_norm: true, ..moe }),
        ("deepseek_v2", Has { q_lora: false, ..deepseek }),
        ("deepseek_v3", v3),
        ("deepseek_v3", Has { mtp: false, ..v3 }),
        ("chatglm", qkv_bias),
        ("glm", qkv_bias),
        ("glm4", Has { sandwich: true, ..qkv_bias }),
        (
            "glm4_moe",
            Has { qkv_bias: true, qk_norm: true, shared: Some("shared_experts"), router_bias: true, mtp: true, ..moe },
        ),
        ("telechat", Has { output_bias: true, down_bias: true, ..dense }),
        ("telechat2", Has { output_bias: true, down_bias: true, ..dense }),
        ("telechat3", dense),
        ("telechat3_moe", v3),
        ("baichuan", dense),
        ("internlm", Has { qkv_bias: true, output_bias: true, ..dense }),
        ("internlm2", dense),
        ("internlm2", Has { qkv_bias: true, output_bias: true, ..dense }),
    ]
}

fn config(family: &str, has: Has) -> Value {
    let mut c = json!({
        "model_type": family, "num_hidden_layers": 3, "num_attention_heads": HEADS, "tie_word_embeddings": has.tied,
        "num_nextn_predict_layers": usize::from(has.mtp),
    });
    let more = c.as_object_mut().unwrap();
    // ChatGLM calls it by a name of its own, and Baichuan's query is not grouped.
    match family {
        "chatglm" => more
            .extend([("multi_query_attention".into(), json!(true)), ("multi_query_group_num".into(), json!(GROUPS))]),
        "baichuan" => {}
        _ => more.extend([("num_key_value_heads".into(), json!(GROUPS))]),
    }
    if has.experts {
        let key = match family {
            "mixtral" => "num_local_experts",
            "qwen2_moe" | "qwen3_moe" => "num_experts",
            _ => "n_routed_experts",
        };
        more.insert(key.into(), json!(EXPERTS));
    }
    if has.latent {
        let q_lora = if has.q_lora { json!(5) } else { Value::Null };
        more.extend([
            ("kv_lora_rank".into(), json!(4)),
            ("qk_rope_head_dim".into(), json!(2)),
            ("q_lora_rank".into(), q_lora),
        ]);
    }
    c
}

/// The weights of such a model under our names.
fn weights(family: &str, has: Has) -> Vec<Weight> {
    let mut out = vec![];
    let mut add = |name: String, dims: &[usize]| out.push(Weight { name, dtype: DType::F32, dims: dims.to_vec() });
    add("model.embed_tokens.weight".into(), &[10, HIDDEN]);
    for l in 0..3 + usize::from(has.mtp) {
        let p = |name: &str| format!("model.layers.{l}.{name}");
        if l == 3 {
            add(p("enorm.weight"), &[HIDDEN]);
            add(p("hnorm.weight"), &[HIDDEN]);
            add(p("eh_proj.weight"), &[HIDDEN, 2 * HIDDEN]);
            add(p("shared_head.norm.weight"), &[HIDDEN]);
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            add(p(&format!("{norm}.weight")), &[HIDDEN]);
        }
        if has.sandwich {
            add(p("post_self_attn_layernorm.weight"), &[HIDDEN]);
            add(p("post_mlp_layernorm.weight"), &[HIDDEN]);
        }
        if has.latent {
            if has.q_lora {
                add(p("self_attn.q_a_proj.weight"), &[5, HIDDEN]);
                add(p("self_attn.q_a_layernorm.weight"), &[5]);
                add(p("self_attn.q_b_proj.weight"), &[HEADS * 5, 5]);
            } else {
                add(p("self_attn.q_proj.weight"), &[HEADS * 5, HIDDEN]);
            }
            add(p("self_attn.kv_a_proj_with_mqa.weight"), &[6, HIDDEN]);
            add(p("self_attn.kv_a_layernorm.weight"), &[4]);
            add(p("self_attn.kv_b_proj.weight"), &[HEADS * 6, 4]);
        } else {
            let groups = if family == "baichuan" { HEADS } else { GROUPS };
            for (name, heads) in [("q", HEADS), ("k", groups), ("v", groups)] {
                add(p(&format!("self_attn.{name}_proj.weight")), &[heads * WIDTH, HIDDEN]);
                if has.qkv_bias {
                    add(p(&format!("self_attn.{name}_proj.bias")), &[heads * WIDTH]);
                }
            }
        }
        if has.qk_norm {
            add(p("self_attn.q_norm.weight"), &[WIDTH]);
            add(p("self_attn.k_norm.weight"), &[WIDTH]);
        }
        add(p("self_attn.o_proj.weight"), &[HIDDEN, HEADS * WIDTH]);
        if has.output_bias {
            add(p("self_attn.o_proj.bias"), &[HIDDEN]);
        }
        let mut gated = |at: &str, f: usize| {
            add(p(&format!("{at}gate_proj.weight")), &[f, HIDDEN]);
            add(p(&format!("{at}up_proj.weight")), &[f, HIDDEN]);
            add(p(&format!("{at}down_proj.weight")), &[HIDDEN, f]);
        };
        if has.experts && l > 0 {
            if let Some(shared) = has.shared {
                gated(&format!("mlp.{shared}."), 4);
            }
            if family == "qwen2_moe" {
                add(p("mlp.shared_expert_gate.weight"), &[1, HIDDEN]);
            }
            add(p("mlp.gate.weight"), &[EXPERTS, HIDDEN]);
            if has.router_bias {
                add(p("mlp.gate.e_score_correction_bias"), &[EXPERTS]);
            }
            add(p("mlp.experts.gate_proj"), &[EXPERTS, 7, HIDDEN]);
            add(p("mlp.experts.up_proj"), &[EXPERTS, 7, HIDDEN]);
            add(p("mlp.experts.down_proj"), &[EXPERTS, HIDDEN, 7]);
        } else {
            gated("mlp.", 8);
            if has.down_bias {
                add(p("mlp.down_proj.bias"), &[HIDDEN]);
            }
        }
    }
    add("model.norm.weight".into(), &[HIDDEN]);
    if !has.tied {
        add("lm_head.weight".into(), &[10, HIDDEN]);
    }
    out
}

/// Weights whose elements are all different.
struct Numbered(Vec<Weight>);

impl Source for Numbered {
    fn dtype(&self, weight: usize) -> DType {
        self.0[weight].dtype
    }
    fn read(&self, weight: usize, range: Range<usize>) -> io::Result<Cow<'_, [u8]>> {
        Ok(Cow::Owned(range.flat_map(|i| ((weight << 16 | i) as f32).to_le_bytes()).collect()))
    }
    fn in_pieces(&self, _: usize) -> bool {
        true
    }
    fn in_memory(&self) -> bool {
        true
    }
}

fn open(path: &Path, tables: &[NameTable], expected: Option<&[Weight]>) -> Checkpoint {
    Checkpoint::open(path, &Opening { tables, expected, dtype: None }).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_family_goes_to_the_hub_to_mindformers_and_back() {
    let usual = Layouts::default();
    let other =
        Layouts { contiguous_attention: true, interleaved_mlp: false, mla_qkv_concat: true, flat_experts: false };
    for (family, has) in families() {
        let weights = weights(family, has);
        for layouts in [usual, other] {
            let all = tables(&config(family, has), layouts);
            let (hub, mf) = (&all[0], all.iter().find(|t| t.name == "mindformers").unwrap());
            let temp = tempfile::tempdir().unwrap();
            let at = |n: &str| temp.path().join(n);
            let stored = map(hub, &weights).unwrap();
            let names: BTreeSet<&str> = stored.iter().map(|s| s.name.as_str()).collect();
            assert_eq!(names.len(), stored.len(), "{family}: two tensors have one name");
            std::fs::create_dir(at("hub")).unwrap();
            write(&Numbered(weights.clone()), &stored, &hub.copies, &at("hub"), "model.safetensors", 5_000).unwrap();
            // What is there says what the model is.
            let first = open(&at("hub"), &all, None);
            assert_eq!(first.table.name, "hugging_face", "{family}");
            let sorted = |w: &[Weight]| w.iter().map(|w| (w.name.clone(), w.dims.clone())).collect::<BTreeSet<_>>();
            assert_eq!(sorted(&first.weights), sorted(&weights), "{family}");
            convert(&first, mf, &at("mf"), u64::MAX, &|_| ()).unwrap();
            let second = open(&at("mf"), &all, Some(&weights));
            assert_eq!(second.table.name, "mindformers", "{family}");
            // Their own projections are `linear_…`.
            let ours = |n: &&str| n.contains("model.layers") || n.contains("_proj.weight") && !n.contains("linear_");
            let left: Vec<&str> = second.tensors().names().filter(ours).collect();
            let known = |n: &&str| {
                n.contains("eh_proj") || n.contains("down_proj") || n.contains("up_proj") || n.contains("linear_q_proj")
            };
            assert!(left.iter().all(known), "{family}: {left:?}");
            convert(&second, hub, &at("back"), u64::MAX, &|_| ()).unwrap();
            assert!(tensors(&at("hub")) == tensors(&at("back")), "{family}");
            assert!(first.compare(&second, &|_| ()).unwrap().is_empty(), "{family}");
        }
    }
}
