//! The model section and a config.json to a [`ModelConfig`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use athanor_ir::Diagnostic;

use super::family::Defaults;
use super::layouts;
use super::{
    Activation, Convention, Dtype, Family, InitStdRule, ModelConfig, Normalization, alias, family, hf, refuse, rope,
};
use crate::config::codes;
use crate::config::general::General;
use crate::config::generation::Generation;
use crate::config::known;
use crate::config::node::{Kind, Node};
use crate::config::reader::{self, Field, Rule, Section};
use crate::config::report::Report;
use crate::config::span::{Span, Spanned};

const DTYPES: &[(&str, Dtype)] = &[
    ("float32", Dtype::F32),
    ("fp32", Dtype::F32),
    ("bfloat16", Dtype::Bf16),
    ("bf16", Dtype::Bf16),
    ("float16", Dtype::F16),
    ("fp16", Dtype::F16),
];

/// What [`read`] needs from the rest of the file.
pub(in crate::config) struct Inputs<'a> {
    pub report: &'a Report,
    pub generation: Generation,
    pub general: &'a General,
    /// `seq_length` of the data set, which a model without one takes.
    pub data_seq_length: Option<Spanned<usize>>,
}

/// The two layers that a model is described by.
pub(in crate::config) struct Layers {
    hf: Option<(Arc<Node>, u32)>,
}

impl Layers {
    /// Reads the config.json if one is named.
    pub fn load(report: &Report, generation: Generation, general: &General, yaml_dir: Option<&Path>) -> Self {
        let named = general.pretrained_model_dir.as_ref().filter(|_| generation == Generation::G2);
        Self { hf: named.and_then(|n| hf::load(report, n, yaml_dir)) }
    }
}

/// Reads `model`. `layers` outlives the section because the section borrows from it.
pub(in crate::config) fn read<'a>(
    top: &mut Section<'a>,
    layers: &'a Layers,
    inputs: &Inputs<'a>,
) -> Option<ModelConfig> {
    let report = inputs.report;
    let mut model = top.section("model");
    let legacy = inputs.generation == Generation::G1;
    if legacy {
        // Part of the model, whether or not the model gets as far as being read.
        top.take(&["moe_config"]);
    }
    let own = model.field("model_config");
    // Without either of the two class names, the missing type says it all.
    let named = own.is_some_and(|f| f.node.get("type").is_some()) || model.peek("arch").is_some();
    let arch = (legacy && named).then(|| legacy_arch(&mut model)).flatten();
    let own_span = top.peek("model").map(|f| f.key_span);
    let span = own_span.or(inputs.general.pretrained_model_dir.as_ref().and_then(|d| d.span));
    model.finish(Rule::Open);
    let hf = layers.hf.as_ref();
    // A config.json that cannot be read has been reported; everything missing because of it need not be.
    if hf.is_none() && !legacy && inputs.general.pretrained_model_dir.is_some() {
        return None;
    }
    let mut fields: BTreeMap<&str, Field> =
        hf.map_or_else(BTreeMap::new, |(node, _)| alias::resolve(report, node, true));
    match own {
        Some(own) if matches!(own.node.kind, Kind::Map(_)) => fields.extend(alias::resolve(report, own.node, false)),
        Some(own) => reader::wrong_type(report, "model.model_config", own, "a mapping"),
        None => {}
    }
    let mut s = Section::from_fields(report, "model.model_config", span, fields);
    let arch = if legacy { arch } else { architecture(&mut s) };
    let family = family::read(&mut s, arch.clone(), legacy)?;
    s.take(&["type", "model_type", "architectures", "auto_register"]);
    let convention = match (legacy, hf) {
        (true, _) => Convention::Legacy,
        (false, Some(_)) => Convention::HuggingFace,
        (false, None) => Convention::Mcore,
    };
    let hf_file = hf.map(|(_, file)| *file);
    if refuse::needs_more(&mut s, top, legacy) {
        return None;
    }
    let config =
        body(&mut s, &Body { family, convention, arch, span, hf_file, data_seq_length: inputs.data_seq_length });
    finish(s, hf_file);
    config
}

fn legacy_arch(model: &mut Section<'_>) -> Option<Spanned<String>> {
    let mut arch = model.section("arch");
    let class = arch.opt::<String>("type");
    if class.is_none() && arch.peek("type").is_none() {
        arch.missing("type", "add `arch: {type: LlamaForCausalLM}` under `model`");
    }
    arch.take(&["auto_register"]);
    arch.finish(Rule::Open);
    class
}

/// `architectures: [X]` or `architectures: X`.
fn architecture(s: &mut Section<'_>) -> Option<Spanned<String>> {
    let field = s.field("architectures")?;
    let node = match &field.node.kind {
        Kind::Seq(items) => items.first()?,
        _ => field.node,
    };
    Some(Spanned::at(node.text()?.to_owned(), node.span))
}

struct Body {
    family: Family,
    convention: Convention,
    arch: Option<Spanned<String>>,
    span: Option<Span>,
    hf_file: Option<u32>,
    data_seq_length: Option<Spanned<usize>>,
}

fn body(s: &mut Section<'_>, b: &Body) -> Option<ModelConfig> {
    let d = b.family.defaults(b.convention);
    let vocab_size = required(s, "vocab_size");
    let hidden_size = required(s, "hidden_size");
    let num_layers = required(s, "num_layers");
    let num_attention_heads = required(s, "num_attention_heads");
    let ffn_hidden_size = ffn_hidden_size(s, b, hidden_size, &d);
    // A missing size is reported and stands in as 1, so that the rest of the section is still read and reported.
    let complete = [&vocab_size, &hidden_size, &num_layers, &num_attention_heads, &ffn_hidden_size];
    let complete = complete.into_iter().all(Option::is_some);
    let or_one = |size: Option<Spanned<usize>>| size.unwrap_or(Spanned::default(1));
    let [vocab_size, hidden_size, num_layers] = [vocab_size, hidden_size, num_layers].map(or_one);
    let [num_attention_heads, ffn_hidden_size] = [num_attention_heads, ffn_hidden_size].map(or_one);
    let num_query_groups = s.positive("num_query_groups", num_attention_heads.value);
    let head_dim = d.head_dim.unwrap_or(hidden_size.value / num_attention_heads.value);
    let kv_channels = s.positive("kv_channels", head_dim);
    let seq_length = match (s.opt_checked("seq_length", "must be at least 1", |v| *v >= 1), b.data_seq_length) {
        (Some(own), _) => own,
        (None, Some(data)) => data,
        (None, None) => Spanned::default(d.seq_length),
    };
    let max_position_embeddings =
        s.positive("max_position_embeddings", d.max_position_embeddings.unwrap_or(seq_length.value));
    let around =
        rope::Surroundings { convention: b.convention, defaults: &d, max_position_embeddings, hf_file: b.hf_file };
    let position_embedding = rope::read(s, &around);
    let (add_qkv_bias, attention_output_bias, mlp_bias) = biases(s, b, &d);
    let (hidden_act, gated_linear_unit) = activation(s, b.convention, &d);
    let params_dtype = s.one_of("params_dtype", DTYPES, d.params_dtype);
    let mut config = ModelConfig {
        span: b.span,
        family: b.family,
        convention: b.convention,
        model_type: s.get("model_type", b.family.model_type().to_owned()),
        architecture: b.arch.clone().unwrap_or_else(|| Spanned::default(b.family.architecture().to_owned())),
        vocab_size,
        hidden_size,
        num_layers,
        num_attention_heads,
        num_query_groups,
        ffn_hidden_size,
        kv_channels,
        seq_length,
        max_position_embeddings,
        normalization: s.one_of(
            "normalization",
            &[("RMSNorm", Normalization::RmsNorm), ("LayerNorm", Normalization::LayerNorm)],
            d.normalization,
        ),
        layernorm_epsilon: s.checked("layernorm_epsilon", d.layernorm_epsilon, "must be above 0", |v| *v > 0.0),
        add_qkv_bias,
        attention_output_bias,
        mlp_bias,
        gated_linear_unit,
        hidden_act,
        qk_layernorm: s.get("qk_layernorm", d.qk_layernorm),
        position_embedding,
        softmax_scale: s.opt_checked("softmax_scale", "must be above 0", |v| *v > 0.0),
        tie_word_embeddings: tied(s, d.tie),
        hidden_dropout: s.dropout("hidden_dropout", d.hidden_dropout),
        attention_dropout: s.dropout("attention_dropout", d.attention_dropout),
        embedding_dropout: s.dropout("embedding_dropout", d.embedding_dropout),
        params_dtype,
        embedding_params_dtype: s.one_of("embedding_params_dtype", DTYPES, params_dtype.value),
        compute_dtype: s.one_of("compute_dtype", DTYPES, d.compute_dtype),
        layernorm_compute_dtype: s.one_of("layernorm_compute_dtype", DTYPES, Dtype::F32),
        softmax_compute_dtype: softmax_dtype(s, d.compute_dtype),
        rotary_dtype: s.one_of("rotary_dtype", DTYPES, Dtype::F32),
        fp32_residual_connection: residual(s),
        init_method_std: s.checked("init_method_std", d.init_method_std, "must not be negative", |v| *v >= 0.0),
        param_init_std_rules: init_rules(s),
        calculate_per_token_loss: s.get("calculate_per_token_loss", false),
        chunk_loss_num: s.get("chunk_loss_num", 0),
        ignore_token_id: s.get("ignore_token_id", -100),
        pad_token_id: s.get("pad_token_id", d.pad_token_id),
        input_sliced_sig: s.get("input_sliced_sig", false),
        layouts: layouts::read(s),
    };
    for (name, dropout) in [
        ("hidden_dropout", &mut config.hidden_dropout),
        ("attention_dropout", &mut config.attention_dropout),
        ("embedding_dropout", &mut config.embedding_dropout),
    ] {
        if dropout.is_set() || dropout.value == 0.0 {
            continue;
        }
        let message = format!("`{name}` is not given: it is 0 here, and {} in MindSpore Transformers", dropout.value);
        let found = Diagnostic::warning(&codes::COMPATIBILITY, message).help(format!("write `{name}: 0.0`"));
        s.error_at(found, None, "in this section");
        dropout.value = 0.0;
    }
    complete.then_some(config)
}

fn required<'a>(s: &mut Section<'a>, key: &'a str) -> Option<Spanned<usize>> {
    let value = s.opt_checked(key, "must be at least 1", |v| *v >= 1);
    if value.is_none() && s.peek(key).is_none_or(|f| f.node.is_null()) {
        let help = "add it to `model.model_config`, or name a folder with a config.json in `pretrained_model_dir`";
        s.missing(key, help);
    }
    value
}

/// The inner width: given, or by the rule of the family.
fn ffn_hidden_size(
    s: &mut Section<'_>,
    b: &Body,
    hidden: Option<Spanned<usize>>,
    d: &Defaults,
) -> Option<Spanned<usize>> {
    let given = s.opt_checked::<usize>("ffn_hidden_size", "must be at least 1", |v| *v >= 1);
    let multiple_of = s.positive("multiple_of", 256);
    let multiplier = s.opt_checked::<f64>("ffn_dim_multiplier", "must be above 0", |v| *v > 0.0);
    let expand = s.positive("expand_ratio", 4);
    if given.is_some() || s.peek("ffn_hidden_size").is_some_and(|f| !f.node.is_null()) {
        return given;
    }
    let hidden = hidden?;
    if b.convention == Convention::Legacy && b.family == Family::Llama {
        // The legacy Llama layer: 4h, times (multiplier + 0.01), two thirds of it, up to a multiple.
        let wide = hidden.value.saturating_mul(4);
        let wide = multiplier.map_or(wide, |m| ((m.value + 0.01) * wide as f64) as usize);
        let narrow = (2.0 * wide as f64 / 3.0) as usize;
        let size = narrow.div_ceil(multiple_of.value).saturating_mul(multiple_of.value);
        return Some(Spanned { value: size, span: multiplier.and_then(|m| m.span).or(multiple_of.span) });
    }
    if !d.gated {
        return Some(Spanned { value: hidden.value.saturating_mul(expand.value), span: expand.span });
    }
    required(s, "ffn_hidden_size")
}

/// Biases of q, k, v; of the attention output; of the feed-forward layer.
fn biases(s: &mut Section<'_>, b: &Body, d: &Defaults) -> (Spanned<bool>, Spanned<bool>, Spanned<bool>) {
    let all = s.get("add_bias_linear", d.bias);
    let qkv = s.opt::<bool>("add_qkv_bias");
    let or_all = |own: Option<Spanned<bool>>, default: bool| match own {
        Some(own) if own.value || !all.value => own,
        _ if all.value => all,
        _ => Spanned::default(default),
    };
    // Hugging Face's `attention_bias` covers the output projection, MindFormers' alias of it does not.
    let output = qkv.filter(|_| b.convention == Convention::HuggingFace && b.family != Family::Qwen2);
    let output = output.filter(|v| v.span.map(|s| s.file) == b.hf_file);
    let legacy_output = s.opt::<bool>("attn_proj_has_bias");
    let mlp = s.opt::<bool>("mlp_bias");
    let fc = [s.opt::<bool>("add_mlp_fc1_bias_linear"), s.opt::<bool>("add_mlp_fc2_bias_linear")];
    if let [Some(one), Some(two)] = fc
        && one.value != two.value
    {
        s.not_supported(one.span, "a bias in only one of the feed-forward projections", "give both the same value");
    }
    (or_all(qkv, d.qkv_bias), or_all(legacy_output.or(output), false), or_all(mlp.or(fc[0]), false))
}

fn activation(s: &mut Section<'_>, convention: Convention, d: &Defaults) -> (Spanned<Activation>, Spanned<bool>) {
    // MindSpore's GELU is the tanh approximation; Hugging Face's is exact.
    let gelu = if convention == Convention::HuggingFace { Activation::Gelu } else { Activation::GeluTanh };
    let table = [
        ("silu", (Activation::Silu, false)),
        ("swish", (Activation::Silu, false)),
        ("swiglu", (Activation::Silu, true)),
        ("fusedswiglu", (Activation::Silu, true)),
        ("gelu", (gelu, false)),
        // Ours: exact whatever the convention.
        ("gelu_erf", (Activation::Gelu, false)),
        ("gelu_new", (Activation::GeluTanh, false)),
        ("gelu_fast", (Activation::GeluTanh, false)),
        ("gelu_pytorch_tanh", (Activation::GeluTanh, false)),
        ("fast_gelu", (Activation::QuickGelu, false)),
        ("quick_gelu", (Activation::QuickGelu, false)),
        ("relu", (Activation::Relu, false)),
    ];
    let act = s.one_of("hidden_act", &table, (d.hidden_act, false));
    let gated = s.get("gated_linear_unit", d.gated || act.value.1);
    if act.value.1 && !gated.value {
        let found = Diagnostic::error(&codes::CONTRADICTION, "`hidden_act: swiglu` is a gated activation")
            .help("remove `gated_linear_unit: False`, or use `hidden_act: silu`");
        let found = s.report.mark(found, act.span, "gated");
        s.report.push(s.report.mark(found, gated.span, "not gated"));
    }
    (act.map(|a| a.0), gated)
}

fn tied(s: &mut Section<'_>, default: bool) -> Spanned<bool> {
    let tie = s.opt::<bool>("tie_word_embeddings");
    let untie = s.opt::<bool>("untie_embeddings_and_output_weights");
    if let (Some(tie), Some(untie)) = (&tie, &untie)
        && tie.value == untie.value
    {
        // The YAML may undo what the config.json says.
        if tie.span.map(|s| s.file) == untie.span.map(|s| s.file) {
            let message = "`tie_word_embeddings` and `untie_embeddings_and_output_weights` contradict each other";
            let found = Diagnostic::error(&codes::CONTRADICTION, message).help("keep `tie_word_embeddings`");
            let found = s.report.mark(found, tie.span, if tie.value { "tied" } else { "not tied" });
            s.report.push(s.report.mark(found, untie.span, if untie.value { "not tied" } else { "tied" }));
        } else if untie.span.map(|s| s.file) < tie.span.map(|s| s.file) {
            return untie.map(|u| !u);
        }
    }
    tie.or(untie.map(|u| u.map(|u| !u))).unwrap_or(Spanned::default(default))
}

/// `softmax_compute_dtype`, or the boolean `attention_softmax_in_fp32`.
fn softmax_dtype(s: &mut Section<'_>, compute: Dtype) -> Spanned<Dtype> {
    let in_f32 = s.opt::<bool>("attention_softmax_in_fp32").map(|v| v.map(|on| if on { Dtype::F32 } else { compute }));
    s.opt_one_of("softmax_compute_dtype", DTYPES).or(in_f32).unwrap_or(Spanned::default(Dtype::F32))
}

/// `fp32_residual_connection`, or `residual_dtype: float32`.
fn residual(s: &mut Section<'_>) -> Spanned<bool> {
    let dtype = s.opt_one_of("residual_dtype", DTYPES).map(|d| d.map(|d| d == Dtype::F32));
    s.opt("fp32_residual_connection").or(dtype).unwrap_or(Spanned::default(false))
}

fn init_rules(s: &mut Section<'_>) -> Vec<InitStdRule> {
    let Some(field) = s.field("param_init_std_rules") else { return vec![] };
    let Kind::Seq(items) = &field.node.kind else {
        reader::wrong_type(s.report, &s.path_of("param_init_std_rules"), field, "a list of mappings");
        return vec![];
    };
    let mut rules = vec![];
    for (i, item) in items.iter().enumerate() {
        let path = format!("{}[{i}]", s.path_of("param_init_std_rules"));
        let field = Field { written: "param_init_std_rules", key_span: item.span, node: item };
        let mut rule = Section::new(s.report, path, Some(field));
        let target = rule.opt::<String>("target");
        let std = rule.opt_checked::<f64>("init_method_std", "must not be negative", |v| *v >= 0.0);
        for (key, there) in [("target", target.is_some()), ("init_method_std", std.is_some())] {
            if !there && rule.peek(key).is_none() {
                rule.missing(key, "a rule is `{target: REGEX, init_method_std: NUMBER}`");
            }
        }
        rule.finish_with(Rule::Strict, &[]);
        rules.extend(target.zip(std).map(|(target, init_method_std)| InitStdRule { target, init_method_std }));
    }
    rules
}

/// Reports what is left of the section, the config.json apart from the YAML.
fn finish(mut s: Section<'_>, hf_file: Option<u32>) {
    let from_hf: Vec<_> = s.left().into_iter().filter(|(_, f)| Some(f.key_span.file) == hf_file).collect();
    let names: Vec<&str> = from_hf.iter().map(|(name, _)| *name).collect();
    s.take(&names);
    for (_, field) in from_hf {
        if !field.node.is_null() && !known::is_hf_bookkeeping(field.written) {
            s.report.idle("config.json", field.written, field.key_span);
        }
    }
    let idle: Vec<&str> = known::model_idle().chain(refuse::known()).collect();
    let more: Vec<&str> = alias::names().collect();
    s.finish_among(Rule::Strict, &idle, &more);
}
