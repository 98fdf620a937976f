//! Positions: learned, rotary with its scalings, or none.

use athanor_ir::Diagnostic;

use super::family::{Convention, Defaults};
use crate::config::codes;
use crate::config::node::Kind;
use crate::config::reader::{Field, Rule, Section};
use crate::config::span::{Span, Spanned};

/// How a model knows the order of its tokens.
#[derive(Debug, Clone, PartialEq)]
pub enum PositionEmbedding {
    /// A learned vector per position, added to the token embedding.
    LearnedAbsolute,
    /// Rotation of queries and keys.
    Rope(Rope),
    /// A penalty on distance, of another slope for each head (Press et al. 2022, arXiv 2108.12409).
    Alibi,
    /// Only the causal mask.
    None,
}

/// Rotary position embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: Spanned<f64>,
    /// Change of the frequencies for longer contexts.
    pub scaling: Spanned<RopeScaling>,
    /// Part of each head that is rotated.
    pub partial_rotary_factor: Spanned<f64>,
    /// Pairs are neighbours (2i, 2i+1) and not halves (i, i + d/2).
    pub interleaved: Spanned<bool>,
}

/// A change of the rotary frequencies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// Positions divided by `factor`.
    Linear {
        /// Divisor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// Divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are high frequencies.
        high_freq_factor: f64,
        /// Context length before the extension.
        original_max_position_embeddings: usize,
    },
    /// `YaRN`.
    Yarn(Yarn),
    /// NTK scaling by the length of the sequence, beyond `original_max_position_embeddings`.
    Dynamic {
        /// Factor of the context length.
        factor: f64,
        /// Context length before the extension.
        original_max_position_embeddings: usize,
    },
}

/// Parameters of `YaRN`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    /// Factor of the context length.
    pub factor: f64,
    /// Context length before the extension.
    pub original_max_position_embeddings: usize,
    /// Rotations above which a frequency is kept.
    pub beta_fast: f64,
    /// Rotations below which a frequency is divided by `factor`.
    pub beta_slow: f64,
    /// Magnitude, applied as `magnitude_of` says.
    pub attention_factor: f64,
    /// What the magnitude multiplies.
    pub magnitude_of: YarnMagnitude,
    /// Round the ends of the ramp to whole dims.
    pub truncate: bool,
}

/// What `YaRN`'s magnitude multiplies. The two agree when the magnitude is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum YarnMagnitude {
    /// Cosine and sine: the paper, Hugging Face and legacy `MindFormers`.
    CosSin,
    /// The angle: Mcore `MindFormers`.
    Angle,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kinds {
    Learned,
    None,
    Rope(Scale),
    Relative,
    /// The base is multiplied by the factor.
    Ntk,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Scale {
    Default,
    Linear,
    Llama3,
    Yarn,
    Dynamic,
    Other,
}

const MCORE_TYPES: &[(&str, Kinds)] = &[
    ("rope", Kinds::Rope(Scale::Default)),
    ("yarn", Kinds::Rope(Scale::Yarn)),
    ("none", Kinds::None),
    ("relative", Kinds::Relative),
    ("learned_absolute", Kinds::Learned),
    ("partial_rope", Kinds::Rope(Scale::Default)),
    ("default", Kinds::Rope(Scale::Default)),
    ("linear", Kinds::Rope(Scale::Linear)),
    ("llama3", Kinds::Rope(Scale::Llama3)),
    ("dynamic", Kinds::Rope(Scale::Dynamic)),
];

const LEGACY_METHODS: &[(&str, Kinds)] = &[
    ("None", Kinds::Rope(Scale::Default)),
    ("PI", Kinds::Rope(Scale::Linear)),
    ("LINEAR", Kinds::Rope(Scale::Linear)),
    ("NTK", Kinds::Ntk),
    ("YARN", Kinds::Rope(Scale::Yarn)),
    ("LLAMA3", Kinds::Rope(Scale::Llama3)),
    ("DYNAMIC_NTK", Kinds::Rope(Scale::Dynamic)),
];

const SCALING_TYPES: &[(&str, Scale)] = &[
    ("default", Scale::Default),
    ("rope", Scale::Default),
    ("linear", Scale::Linear),
    ("llama3", Scale::Llama3),
    ("yarn", Scale::Yarn),
    ("dynamic", Scale::Dynamic),
    ("longrope", Scale::Other),
    ("su", Scale::Other),
    ("mrope", Scale::Other),
    ("proportional", Scale::Other),
];

/// What the rest of the model says that positions depend on.
pub(super) struct Surroundings<'a> {
    pub convention: Convention,
    pub defaults: &'a Defaults,
    /// Attention has latents, whose class has a factor by default.
    pub latent: bool,
    pub max_position_embeddings: Spanned<usize>,
    /// Index of the config.json among the sources.
    pub hf_file: Option<u32>,
}

/// Reads everything about positions.
pub(super) fn read(s: &mut Section<'_>, around: &Surroundings<'_>) -> Spanned<PositionEmbedding> {
    let legacy = around.convention == Convention::Legacy;
    let default = if around.defaults.learned_positions { Kinds::Learned } else { Kinds::Rope(Scale::Default) };
    let table = if legacy { LEGACY_METHODS } else { MCORE_TYPES };
    let kind = s.one_of("position_embedding_type", table, default);
    if kind.value == Kinds::Relative {
        s.not_supported(kind.span, "relative position embedding", "use `position_embedding_type: rope`");
    }
    let legacy_field = if legacy { s.field("scaling_factor") } else { None };
    let scaling_field = s.field("rope_scaling");
    let theta = theta(s, scaling_field, around);
    let in_map =
        |s: &Section<'_>, key: &str| scaling_field.and_then(|f| f.node.get(key)).is_some() && s.peek(key).is_none();
    let partial_default = around.defaults.partial_rotary_factor;
    let mut partial =
        s.checked("partial_rotary_factor", partial_default, "must be above 0 and at most 1", |v| *v > 0.0 && *v <= 1.0);
    let mut rope_scaling = match (scaling_field, kind.value) {
        (Some(field), _) if matches!(field.node.kind, Kind::Map(_)) => {
            let path = s.path_of("rope_scaling");
            let mut map = Section::new(s.report, path, Some(field));
            if in_map(s, "partial_rotary_factor") {
                partial = map.checked("partial_rotary_factor", partial_default, "must be above 0 and at most 1", |v| {
                    *v > 0.0 && *v <= 1.0
                });
            }
            from_map(map, field, around)
        }
        (Some(field), _) => {
            crate::config::reader::wrong_type(s.report, &s.path_of("rope_scaling"), field, "a mapping");
            Spanned::default(RopeScaling::Default)
        }
        (None, Kinds::Rope(scale)) => from_flat(s, scale, kind.span, legacy_field, around),
        _ => Spanned::default(RopeScaling::Default),
    };
    let mut theta = theta;
    if kind.value == Kinds::Ntk {
        theta.value *= s.get("scaling_factor", 1.0).value;
        rope_scaling = Spanned::default(RopeScaling::Default);
    }
    // GLM's way to a longer context.
    theta.value *= s.checked("rope_ratio", 1.0, "must be above 0", |v| *v > 0.0).value;
    let interleaved = s.get("rotary_interleaved", around.latent || around.defaults.rotary_interleaved);
    let rope = Rope { theta, scaling: rope_scaling, partial_rotary_factor: partial, interleaved };
    kind.map(|k| match k {
        Kinds::Learned => PositionEmbedding::LearnedAbsolute,
        Kinds::None => PositionEmbedding::None,
        Kinds::Rope(_) | Kinds::Relative | Kinds::Ntk => PositionEmbedding::Rope(rope),
    })
}

/// The base, from the model section or from inside of `rope_parameters`. The YAML goes before the config.json.
fn theta(s: &mut Section<'_>, scaling: Option<Field<'_>>, around: &Surroundings<'_>) -> Spanned<f64> {
    let rule = "must be above 0";
    let top = s.opt_checked::<f64>("rotary_base", rule, |v| *v > 0.0);
    let nested = scaling.filter(|f| matches!(f.node.kind, Kind::Map(_))).and_then(|field| {
        let mut map = Section::new(s.report, s.path_of("rope_scaling"), Some(field));
        map.opt_checked::<f64>("rope_theta", rule, |v| *v > 0.0)
    });
    let (Some(top), Some(nested)) = (top, nested) else {
        return top.or(nested).unwrap_or(Spanned::default(around.defaults.rotary_base));
    };
    let from_hf = |v: Spanned<f64>| v.span.map(|s| s.file) == around.hf_file;
    if from_hf(top) == from_hf(nested) && top.value != nested.value {
        let found =
            Diagnostic::error(&codes::ALIAS_CONFLICT, "the base of the rotary embedding has two different values")
                .help("keep one of them");
        let found = s.report.mark(found, top.span, "one");
        s.report.push(s.report.mark(found, nested.span, "the other"));
    }
    if from_hf(top) && !from_hf(nested) { nested } else { top }
}

/// `rope_scaling: {type|rope_type, factor, …}` or `rope_parameters`.
fn from_map(mut map: Section<'_>, field: Field<'_>, around: &Surroundings<'_>) -> Spanned<RopeScaling> {
    let key = if map.peek("rope_type").is_some() { "rope_type" } else { "type" };
    let scale = map.one_of(key, SCALING_TYPES, Scale::Default);
    map.take(&["rope_theta", "rope_type", "type", "partial_rotary_factor"]);
    let value = parameters(&mut map, scale.value, scale.span, around);
    map.finish_with(Rule::Open, &["attn_factor", "finetuned", "short_factor", "long_factor", "mrope_section"]);
    Spanned::at(value, field.key_span)
}

/// The older way: the type of the scaling in one key and its parameters beside it, or (legacy) in `scaling_factor`.
fn from_flat(
    s: &mut Section<'_>,
    scale: Scale,
    span: Option<Span>,
    legacy: Option<Field<'_>>,
    around: &Surroundings<'_>,
) -> Spanned<RopeScaling> {
    let value = match legacy {
        Some(field) if matches!(field.node.kind, Kind::Map(_)) => {
            let mut map = Section::new(s.report, s.path_of("scaling_factor"), Some(field));
            let value = parameters(&mut map, scale, span, around);
            map.finish_with(Rule::Open, &[]);
            value
        }
        Some(_) if scale == Scale::Linear => {
            RopeScaling::Linear { factor: s.checked("scaling_factor", 1.0, "must be above 0", |v| *v > 0.0).value }
        }
        _ => parameters(s, scale, span, around),
    };
    Spanned { value, span }
}

/// Parameters of `scale` from the keys of `s`.
fn parameters(s: &mut Section<'_>, scale: Scale, span: Option<Span>, around: &Surroundings<'_>) -> RopeScaling {
    if scale == Scale::Default {
        return RopeScaling::Default;
    }
    if scale == Scale::Other {
        s.not_supported(span, "this scaling of the rotary embedding", "use linear, llama3, yarn or dynamic");
        return RopeScaling::Default;
    }
    // In the model section itself the factor goes by its long name.
    let factor_key = if s.peek("rotary_scaling_factor").is_some() { "rotary_scaling_factor" } else { "factor" };
    let factor = if around.latent && around.convention == Convention::Mcore {
        s.checked(factor_key, 40.0, "must be at least 1", |v| *v >= 1.0).value
    } else {
        required(s, factor_key, "must be at least 1", |v| *v >= 1.0)
    };
    let positive = |v: &f64| *v > 0.0;
    let original = s.positive("original_max_position_embeddings", around.max_position_embeddings.value);
    match scale {
        Scale::Linear => RopeScaling::Linear { factor },
        Scale::Dynamic => RopeScaling::Dynamic { factor, original_max_position_embeddings: original.value },
        Scale::Llama3 => {
            let low = required(s, "low_freq_factor", "must be above 0", positive);
            let high = required(s, "high_freq_factor", "must be above 0", positive);
            if high <= low {
                let found =
                    Diagnostic::error(&codes::CONTRADICTION, "`high_freq_factor` must be above `low_freq_factor`")
                        .help("Llama 3.1 has 1 and 4");
                s.error_at(found, s.peek("high_freq_factor").map(|f| f.node.span), "not above");
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original.value,
            }
        }
        Scale::Yarn | Scale::Default | Scale::Other => yarn(s, factor, original.value, around.convention),
    }
}

fn yarn(s: &mut Section<'_>, factor: f64, original: usize, convention: Convention) -> RopeScaling {
    let positive = |v: &f64| *v > 0.0;
    let coeff = s.checked("coeff", 0.1, "must not be negative", |v| *v >= 0.0).value;
    let magnitude = |scale: f64| if factor > 1.0 { coeff * scale * factor.ln() + 1.0 } else { 1.0 };
    let mscale = s.opt::<f64>("mscale").map(|v| v.value).filter(|v| *v != 0.0);
    let all_dim = s.opt::<f64>("mscale_all_dim").map(|v| v.value).filter(|v| *v != 0.0);
    let given = s.opt_checked::<f64>("attention_factor", "must be above 0", positive).map(|v| v.value);
    let attention_factor = given.unwrap_or_else(|| match (mscale, all_dim, convention) {
        (Some(one), Some(all), _) => magnitude(one) / magnitude(all),
        (_, _, Convention::HuggingFace) => magnitude(1.0),
        // MindFormers has one default for both, so they cancel.
        (one, all, _) => magnitude(one.unwrap_or(0.707)) / magnitude(all.unwrap_or(0.707)),
    });
    if convention == Convention::Mcore && attention_factor != 1.0 {
        let message =
            "the magnitude of YaRN multiplies the angle, as in Mcore models; Hugging Face multiplies cos and sin";
        let found = Diagnostic::note(&codes::COMPATIBILITY, message)
            .help("read the model from a config.json with `pretrained_model_dir` for the other");
        s.error_at(found, s.span, "");
    }
    RopeScaling::Yarn(Yarn {
        factor,
        original_max_position_embeddings: original,
        beta_fast: s.checked("beta_fast", 32.0, "must be above 0", positive).value,
        beta_slow: s.checked("beta_slow", 1.0, "must be above 0", positive).value,
        attention_factor,
        magnitude_of: if convention == Convention::Mcore { YarnMagnitude::Angle } else { YarnMagnitude::CosSin },
        truncate: s.get("truncate", true).value,
    })
}

fn required<'a>(s: &mut Section<'a>, key: &'a str, rule: &str, allowed: impl Fn(&f64) -> bool) -> f64 {
    let value = s.opt_checked(key, rule, allowed);
    if value.is_none() && s.peek(key).is_none() {
        s.missing(key, "this scaling of the rotary embedding needs it");
    }
    value.map_or(1.0, |v| v.value)
}
