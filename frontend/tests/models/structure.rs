//! Names, initial values, decay, places and dtypes.

use athanor_frontend::config::Config;
use athanor_frontend::model::{Outputs, flops, forward};
use athanor_ir::infer::check;
use athanor_ir::{DType, Func, Init, Op, Role};

fn built(config: &Config) -> Func {
    let func = forward(&config.model, &config.sources, 4, Outputs::default()).unwrap();
    for n in &func.nodes {
        let types = |vs: &[athanor_ir::ValueId]| vs.iter().map(|v| func.ty(*v).clone()).collect::<Vec<_>>();
        check(&n.op, &types(&n.inputs), &types(&n.outputs)).unwrap_or_else(|e| panic!("{}: {e}", n.loc.block));
    }
    func
}

/// Name, dims, standard deviation or constant, decay of every weight.
fn weights(func: &Func) -> Vec<String> {
    let line = |p: &athanor_ir::Param| match &p.role {
        Role::Weight { init, decay } => {
            let init = match init {
                Init::Normal { std } => format!("normal {std:.4}"),
                Init::Constant { value } => format!("{value}"),
            };
            let ty = func.ty(p.value);
            assert_eq!(ty.dtype, DType::F32);
            Some(format!("{} {:?} {init}{}", p.name, ty.dims, if *decay { " decays" } else { "" }))
        }
        _ => None,
    };
    func.params.iter().filter_map(line).collect()
}

#[test]
fn qwen3_weights() {
    let config = super::config(&[
        "model_type: qwen3",
        "vocab_size: 96",
        "hidden_size: 32",
        "num_hidden_layers: 1",
        "num_attention_heads: 4",
        "num_key_value_heads: 2",
        "head_dim: 16",
        "intermediate_size: 48",
        "seq_length: 16",
        "initializer_range: 0.02",
        "pad_token_id: 0",
    ]);
    let before = 0.02 / 2f64.sqrt();
    let wanted = [
        "model.embed_tokens.weight [96, 32] normal 0.0200 decays".to_owned(),
        "model.layers.0.input_layernorm.weight [32] 1".into(),
        "model.layers.0.self_attn.q_proj.weight [64, 32] normal 0.0200 decays".into(),
        "model.layers.0.self_attn.k_proj.weight [32, 32] normal 0.0200 decays".into(),
        "model.layers.0.self_attn.v_proj.weight [32, 32] normal 0.0200 decays".into(),
        "model.layers.0.self_attn.q_norm.weight [16] 1".into(),
        "model.layers.0.self_attn.k_norm.weight [16] 1".into(),
        format!("model.layers.0.self_attn.o_proj.weight [32, 64] normal {before:.4} decays"),
        "model.layers.0.post_attention_layernorm.weight [32] 1".into(),
        "model.layers.0.mlp.gate_proj.weight [48, 32] normal 0.0200 decays".into(),
        "model.layers.0.mlp.up_proj.weight [48, 32] normal 0.0200 decays".into(),
        format!("model.layers.0.mlp.down_proj.weight [32, 48] normal {before:.4} decays"),
        "model.norm.weight [32] 1".into(),
        "lm_head.weight [96, 32] normal 0.0200 decays".into(),
    ];
    assert_eq!(weights(&built(&config)), wanted);
}

#[test]
fn the_first_rule_that_fits_a_name_gives_its_deviation() {
    let config = super::llama(&[
        "init_method_std: 0.02",
        "param_init_std_rules: [{target: 'decoder.layers.0.self_attention', init_method_std: 0.3},\
         \x20 {target: 'layers.0.*|lm_head', init_method_std: 0.5}]",
    ]);
    let found = weights(&built(&config));
    let line = |name: &str| found.iter().find(|l| l.starts_with(&format!("model.{name}.weight"))).unwrap().clone();
    for (name, wanted) in [
        ("layers.0.self_attn.v_proj", "normal 0.3000"),
        ("layers.0.self_attn.o_proj", "normal 0.3000"),
        ("layers.0.mlp.up_proj", "normal 0.5000"),
        ("layers.0.input_layernorm", " 1"),
        ("layers.1.self_attn.v_proj", "normal 0.0200"),
        ("embed_tokens", "normal 0.0200"),
    ] {
        assert!(line(name).contains(wanted), "{}", line(name));
    }
    assert!(found.iter().any(|l| l.starts_with("lm_head") && l.contains("normal 0.5000")), "{found:?}");
}

#[test]
fn biases_and_tied_embeddings() {
    let config = super::llama(&["attention_bias: True", "mlp_bias: True"]);
    let names = weights(&built(&config));
    assert!(names.contains(&"model.layers.1.self_attn.k_proj.bias [16] 0".to_owned()), "{names:?}");
    assert!(names.contains(&"model.layers.1.mlp.down_proj.bias [32] 0".to_owned()), "{names:?}");
    let lines: Vec<&str> = super::LLAMA.iter().copied().filter(|l| !l.starts_with("tie")).collect();
    let tied = super::config(&[&lines[..], &["tie_word_embeddings: True"]].concat());
    assert!(!weights(&built(&tied)).iter().any(|n| n.starts_with("lm_head")));
}

#[test]
fn every_node_names_its_block_and_the_line_that_asked_for_it() {
    let config = super::llama(&["compute_dtype: float32"]);
    let func = built(&config);
    let text = &config.sources[0].text;
    let line = |key: &str| text.lines().position(|l| l.trim_start().starts_with(key)).unwrap() as u32 + 1;
    for n in &func.nodes {
        assert!(!n.loc.block.is_empty() && &*n.loc.file == "pretrain.yaml" && n.loc.line > 0, "{:?}", n.loc);
        let expected = match &*n.loc.block {
            "model.layers.1.mlp" => line("intermediate_size"),
            "model.layers.0.self_attn" => line("num_attention_heads"),
            "model.norm" => line("rms_norm_eps"),
            "lm_head" => line("tie_word_embeddings"),
            _ => continue,
        };
        assert_eq!(n.loc.line, expected, "{:?}", n.loc);
    }
}

/// Operand dtypes of the products, residual adds and norms.
fn dtypes(func: &Func) -> (Vec<DType>, Vec<DType>, Vec<DType>) {
    let of = |wanted: fn(&Op, &str) -> bool| {
        let nodes = func.nodes.iter().filter(|n| wanted(&n.op, &n.loc.block));
        let mut found: Vec<DType> = nodes.map(|n| func.ty(n.inputs[0]).dtype).collect();
        found.dedup();
        found
    };
    (
        of(|op, _| matches!(op, Op::Einsum { .. } | Op::Attention { .. })),
        of(|op, block| matches!(op, Op::Binary(athanor_ir::Binary::Add)) && block.split('.').count() == 3),
        of(|op, _| matches!(op, Op::RmsNorm { .. })),
    )
}

#[test]
fn mixed_precision_casts_products_and_keeps_the_residual_stream_as_asked() {
    let (f32, bf16) = (vec![DType::F32], vec![DType::BF16]);
    let at = |lines: &[&str]| dtypes(&built(&super::llama(lines)));
    assert_eq!(at(&["compute_dtype: float32"]), (f32.clone(), f32.clone(), f32.clone()));
    assert_eq!(at(&["compute_dtype: bfloat16"]), (bf16.clone(), bf16.clone(), bf16.clone()));
    let wide = at(&["compute_dtype: bfloat16", "fp32_residual_connection: True"]);
    assert_eq!(wide, (bf16, f32.clone(), f32));
}

#[test]
fn a_loss_per_token_comes_as_sum_and_count() {
    let config = super::llama(&[]);
    let outputs = Outputs { logits: true, per_token_loss: true, ..Outputs::default() };
    let func = forward(&config.model, &config.sources, 4, outputs).unwrap();
    let names: Vec<&str> = func.results.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["loss_sum", "token_count", "logits"]);
}

/// By hand, per token: the products of two layers and the head, six operations per weight, and causal attention.
#[test]
fn flops_count_products_and_half_of_attention() {
    let weights = 2 * (32 * (32 + 2 * 16) + 32 * 32 + 3 * 32 * 48) + 32 * 96;
    let attention = 2 * 6 * 32 * 16;
    let wanted = f64::from(16 * (6 * weights + attention));
    assert_eq!(flops::per_sequence(&super::llama(&[]).model), wanted);
}

#[test]
fn the_gelu_is_the_one_that_is_asked_for() {
    let of = |name: &str| {
        let func = built(&super::llama(&[&format!("hidden_act: {name}"), "gated_linear_unit: False"]));
        func.nodes.iter().find(|n| n.op.name().starts_with("gelu")).map(|n| n.op.name())
    };
    assert_eq!((of("gelu_erf"), of("gelu_new"), of("silu")), (Some("gelu_erf"), Some("gelu"), None));
}

/// Baichuan's 13B models: slopes instead of a rotation, and a `config.json` that says so by what it does not have.
#[test]
fn alibi_stands_in_for_a_rotation() {
    let config = super::llama(&["model_type: baichuan", "use_alibi_mask: True", "num_key_value_heads: 4"]);
    let ops: Vec<Op> = built(&config).nodes.into_iter().map(|n| n.op).collect();
    let attention = ops.iter().filter(|op| matches!(op, Op::Attention { alibi: true, causal: true, .. })).count();
    assert_eq!(attention, 2, "one a layer");
    assert!(!ops.iter().any(|op| matches!(op, Op::Rope { .. } | Op::Attention { alibi: false, .. })));
    let mut config = config;
    config.lr_schedule.total_steps = Some(athanor_frontend::config::Spanned::default(1));
    let hf = athanor_frontend::run::spec(&config).unwrap().hf_config;
    assert_eq!((hf.get("max_position_embeddings"), &hf["model_max_length"]), (None, &serde_json::json!(4096)));
}
