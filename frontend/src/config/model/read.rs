//! The model section and a config.json to a [`ModelConfig`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use athanor_ir::Diagnostic;

use super::family::Defaults;
use super::layouts;
use super::{
    Convention, Dtype, Family, InitStdRule, ModelConfig, Moe, Mtp, Normalization, alias, family, hf, latent, moe,
    refuse, rope, switches,
};
use crate::config::codes;
use crate::config::general::General;
use crate::config::generation::Generation;
use crate::config::known;
use crate::config::node::{Kind, Node};
use crate::config::pipeline::Offset;
use crate::config::reader::{self, Field, Rule, Section};
use crate::config::report::Report;
use crate::config::span::{Span, Spanned};

pub(super) const DTYPES: &[(&str, Dtype)] = &[
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
    let refused = refuse::needs_more(&mut s);
    let around = Body { family, convention, arch, span, hf_file, data_seq_length: inputs.data_seq_length };
    let config = body(&mut s, top, &around).filter(|_| !refused);
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

/// What is known of a model before its keys are read.
pub(super) struct Body {
    pub family: Family,
    pub convention: Convention,
    arch: Option<Spanned<String>>,
    span: Option<Span>,
    /// Index of the config.json among the sources.
    pub hf_file: Option<u32>,
    data_seq_length: Option<Spanned<usize>>,
}

fn body(s: &mut Section<'_>, top: &mut Section<'_>, b: &Body) -> Option<ModelConfig> {
    let d = b.family.defaults(b.convention);
    let sizes = d.sizes;
    let vocab_size = required(s, "vocab_size", sizes.map(|s| s.vocab));
    let hidden_size = required(s, "hidden_size", sizes.map(|s| s.hidden));
    let num_layers = required(s, "num_layers", sizes.map(|s| s.layers));
    let num_attention_heads = required(s, "num_attention_heads", sizes.map(|s| s.heads));
    let ffn_hidden_size = ffn_hidden_size(s, b, hidden_size, &d);
    // A missing size is reported and stands in as 1, so that the rest of the section is still read and reported.
    let complete = [&vocab_size, &hidden_size, &num_layers, &num_attention_heads, &ffn_hidden_size];
    let complete = complete.into_iter().all(Option::is_some);
    let or_one = |size: Option<Spanned<usize>>| size.unwrap_or(Spanned::default(1));
    let [vocab_size, hidden_size, num_layers] = [vocab_size, hidden_size, num_layers].map(or_one);
    let [num_attention_heads, ffn_hidden_size] = [num_attention_heads, ffn_hidden_size].map(or_one);
    let layernorm_epsilon = s.checked("layernorm_epsilon", d.layernorm_epsilon, "must be above 0", |v| *v > 0.0);
    let latent = latent::read(s, b.convention, &d, layernorm_epsilon.value);
    let num_query_groups = match &latent {
        // Every head has its own keys and values, whatever a config.json says for form's sake.
        Some(_) => {
            s.take(&["num_query_groups"]);
            num_attention_heads
        }
        None => query_groups(s, num_attention_heads.value, &d),
    };
    let head_dim = d.head_dim.unwrap_or(hidden_size.value / num_attention_heads.value);
    let kv_channels = match &latent {
        Some(latent) => Spanned { value: latent.head_dim(), span: latent.qk_head_dim.span },
        None => s.positive("kv_channels", head_dim),
    };
    let seq_length = match (s.opt_checked("seq_length", "must be at least 1", |v| *v >= 1), b.data_seq_length) {
        (Some(own), _) => own,
        (None, Some(data)) => data,
        (None, None) => Spanned::default(d.seq_length),
    };
    refuse::beyond_its_length(s, b.family, seq_length.value);
    let max_position_embeddings =
        s.positive("max_position_embeddings", d.max_position_embeddings.unwrap_or(seq_length.value));
    let around = rope::Surroundings {
        convention: b.convention,
        defaults: &d,
        latent: latent.is_some(),
        max_position_embeddings,
        hf_file: b.hf_file,
    };
    let position_embedding = positions(s, b, &around);
    let biases = switches::biases(s, b, &d);
    let (hidden_act, gated_linear_unit) = switches::activation(s, b.convention, &d);
    let params_dtype = s.one_of("params_dtype", DTYPES, d.params_dtype);
    let around =
        moe::Around { family: b.family, convention: b.convention, experts: d.experts, num_layers, ffn_hidden_size };
    let moe = experts(s, top, &around);
    let family = with_experts(b.family, b.convention, moe.as_ref());
    let mut config = ModelConfig {
        span: b.span,
        family,
        convention: b.convention,
        model_type: s.get("model_type", family.model_type().to_owned()),
        architecture: b.arch.clone().unwrap_or_else(|| Spanned::default(family.architecture().to_owned())),
        vocab_size,
        hidden_size,
        num_layers,
        num_attention_heads,
        num_query_groups,
        ffn_hidden_size,
        kv_channels,
        seq_length,
        max_position_embeddings,
        normalization: normalization(s, &d),
        layernorm_epsilon,
        add_qkv_bias: biases.qkv,
        attention_output_bias: biases.output,
        mlp_bias: biases.mlp,
        mlp_down_bias: biases.mlp_down,
        gated_linear_unit,
        hidden_act,
        activation_func_clamp_value: s.opt_checked("activation_func_clamp_value", "must be above 0", |v| *v > 0.0),
        qk_layernorm: s.get("qk_layernorm", d.qk_layernorm),
        sandwich_norm: s.get("sandwich_norm", d.sandwich_norm),
        norm_head: norm_head(s, b, vocab_size.value),
        position_embedding,
        softmax_scale: s.opt_checked("softmax_scale", "must be above 0", |v| *v > 0.0),
        mtp: mtp(s, &d),
        latent,
        moe,
        tie_word_embeddings: switches::tied(s, d.tie),
        hidden_dropout: s.dropout("hidden_dropout", d.hidden_dropout),
        attention_dropout: s.dropout("attention_dropout", d.attention_dropout),
        embedding_dropout: s.dropout("embedding_dropout", d.embedding_dropout),
        params_dtype,
        embedding_params_dtype: s.one_of("embedding_params_dtype", DTYPES, params_dtype.value),
        compute_dtype: s.one_of("compute_dtype", DTYPES, d.compute_dtype),
        layernorm_compute_dtype: s.one_of("layernorm_compute_dtype", DTYPES, Dtype::F32),
        softmax_compute_dtype: switches::softmax_dtype(s, d.compute_dtype),
        rotary_dtype: s.one_of("rotary_dtype", DTYPES, Dtype::F32),
        fp32_residual_connection: switches::residual(s),
        init_method_std: s.checked("init_method_std", d.init_method_std, "must not be negative", |v| *v >= 0.0),
        param_init_std_rules: init_rules(s),
        calculate_per_token_loss: s.get("calculate_per_token_loss", false),
        chunk_loss_num: s.get("chunk_loss_num", 0),
        use_ring_attention: s.get("use_ring_attention", false),
        offset: s.get("offset", Offset::All(0)),
        chunks: s.positive("virtual_pipeline_model_parallel_size", 1),
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

fn required<'a>(s: &mut Section<'a>, key: &'a str, default: Option<usize>) -> Option<Spanned<usize>> {
    let value = s.opt_checked(key, "must be at least 1", |v| *v >= 1);
    if value.is_none() && s.peek(key).is_none_or(|f| f.node.is_null()) {
        if default.is_some() {
            return default.map(Spanned::default);
        }
        let help = "add it to `model.model_config`, or name a folder with a config.json in `pretrained_model_dir`";
        s.missing(key, help);
    }
    value
}

/// Key and value heads; `ChatGLM` has a switch and a number for them.
fn query_groups(s: &mut Section<'_>, heads: usize, d: &Defaults) -> Spanned<usize> {
    let shared = s.opt::<bool>("multi_query_attention");
    let of_chatglm = s.opt_checked::<usize>("multi_query_group_num", "must be at least 1", |v| *v >= 1);
    let default = match (shared.map(|on| on.value), of_chatglm) {
        (Some(false), _) => Spanned { value: heads, span: shared.and_then(|s| s.span) },
        (_, Some(groups)) => groups,
        _ => Spanned::default(d.num_query_groups.unwrap_or(heads)),
    };
    let own = s.positive("num_query_groups", default.value);
    if own.is_set() { own } else { default }
}

/// Positions; Baichuan's 13B models have `ALiBi`, which only the class or a missing length tells.
fn positions(s: &mut Section<'_>, b: &Body, around: &rope::Surroundings<'_>) -> Spanned<super::PositionEmbedding> {
    let by_class = b.arch.as_ref().filter(|a| a.value.starts_with("Baichuan13B"));
    let by_length = b.family == Family::Baichuan
        && b.convention == Convention::HuggingFace
        && s.peek("max_position_embeddings").is_none()
        && s.peek("position_embedding_type").is_none();
    let mask = s.opt::<bool>("use_alibi_mask");
    let read = rope::read(s, around);
    match (mask, by_class, by_length) {
        (Some(on), ..) if on.value => Spanned { value: super::PositionEmbedding::Alibi, span: on.span },
        (None, Some(class), _) => Spanned { value: super::PositionEmbedding::Alibi, span: class.span },
        (None, None, true) => Spanned { value: super::PositionEmbedding::Alibi, span: b.span },
        _ => read,
    }
}

/// `normalization`, or `ChatGLM`'s `rmsnorm`.
fn normalization(s: &mut Section<'_>, d: &Defaults) -> Spanned<Normalization> {
    let names = [("RMSNorm", Normalization::RmsNorm), ("LayerNorm", Normalization::LayerNorm)];
    let rms = s.opt::<bool>("rmsnorm");
    let rms = rms.map(|r| r.map(|on| if on { Normalization::RmsNorm } else { Normalization::LayerNorm }));
    s.opt_one_of("normalization", &names).or(rms).unwrap_or(Spanned::default(d.normalization))
}

/// The output layer's rows are normalised in Baichuan2, which the legacy class or the size of the vocabulary tells.
fn norm_head(s: &mut Section<'_>, b: &Body, vocab: usize) -> Spanned<bool> {
    let second = match (&b.arch, b.convention) {
        (Some(class), Convention::Legacy) => class.value.contains("V2"),
        _ => vocab == 125_696,
    };
    s.get("norm_head", b.family == Family::Baichuan && second)
}

fn experts(s: &mut Section<'_>, top: &mut Section<'_>, around: &moe::Around) -> Option<Moe> {
    if around.convention == Convention::Legacy {
        let deepseek = matches!(around.family, Family::DeepseekV2 | Family::DeepseekV3);
        let extra_loss = s.get("return_extra_loss", deepseek);
        return moe::read_legacy(top, around, extra_loss);
    }
    s.take(&["return_extra_loss"]);
    let mut legacy = top.section("moe_config");
    if let Some(experts) = legacy.opt::<usize>("expert_num").filter(|n| n.value > 1) {
        let message = "`moe_config` belongs to the legacy layout; here experts are described in `model.model_config`";
        let found = Diagnostic::error(&codes::CONTRADICTION, message)
            .help("move its keys to `model.model_config`: `n_routed_experts`, `num_experts_per_tok`, …");
        legacy.error_at(found, experts.span, "experts");
    }
    moe::read(s, around)
}

/// Legacy experts are a section beside any Llama: what that makes of the family.
fn with_experts(family: Family, convention: Convention, moe: Option<&Moe>) -> Family {
    match (family, convention, moe) {
        (Family::Llama | Family::Qwen2, Convention::Legacy, Some(moe)) => {
            let gated = moe.shared.as_ref().is_some_and(|s| s.gated.value);
            if gated { Family::Qwen2Moe } else { Family::Mixtral }
        }
        _ => family,
    }
}

/// Prediction of the token after the next.
fn mtp(s: &mut Section<'_>, d: &Defaults) -> Option<Mtp> {
    let layers = s.get("mtp_num_layers", d.mtp_layers);
    let factor = s.checked("mtp_loss_scaling_factor", 0.3, "must not be negative", |v| *v >= 0.0);
    if layers.value > 1 {
        let help = "write `num_nextn_predict_layers: 1`; the original has no more either";
        s.not_supported(layers.span, "prediction of more than one further token", help);
    }
    (layers.value > 0).then_some(Mtp { num_layers: layers, loss_scaling_factor: factor })
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
    let like_llama = [Family::Llama, Family::Mixtral, Family::Baichuan, Family::InternLm, Family::InternLm2];
    if b.convention == Convention::Legacy && like_llama.contains(&b.family) {
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
    required(s, "ffn_hidden_size", d.sizes.map(|s| s.ffn))
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
