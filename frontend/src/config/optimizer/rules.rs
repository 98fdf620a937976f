//! Constants of the optimizers that have more than Adam's.

use athanor_ir::optimizer::{AdamWSpec, Averaging, CameSpec, PmaSpec, SgdSpec};

use super::{BETA_RULE, IS_BETA};
use crate::config::node::{Kind, Node};
use crate::config::reader::{FromNode, Section, wrong_type};
use crate::config::span::Spanned;

/// Constants of Muon; those of AdamW, which steps the other weights, are the section's.
#[derive(Debug, Clone, PartialEq)]
pub struct MuonConfig {
    /// Decay of the momentum.
    pub momentum: f64,
    /// Look one step ahead.
    pub nesterov: bool,
    /// The update's root mean square: about what AdamW's is.
    pub matched_adamw_rms: f64,
    /// (a, b, c) of each of Newton and Schulz's iterations.
    pub coefficients: Vec<[f64; 3]>,
    /// Patterns of matrices that are left to AdamW.
    pub adamw_include: Vec<String>,
    /// `qk_clip_enabled`: weights of latent attention shrink where a score was above `qk_clip_threshold`.
    pub qk_clip: Spanned<bool>,
}

const NOT_NEGATIVE: fn(&f64) -> bool = |v| *v >= 0.0;

/// `use_fused` is a matter of kernels; the variants of the update that come with it are not to be had.
pub(super) fn fused(s: &mut Section<'_>) {
    s.get("use_fused", false);
    refuse(s, &[("amsgrad", "AMSGrad"), ("maximize", "maximising the loss")]);
}

pub(super) fn plain_adam(s: &mut Section<'_>) {
    refuse(
        s,
        &[
            ("use_amsgrad", "AMSGrad"),
            ("use_nesterov", "Adam with Nesterov's momentum"),
            ("use_lazy", "sparse updates"),
            ("use_offload", "keeping the optimizer's state on the host"),
        ],
    );
}

/// Reports each switch of `keys` that is on.
fn refuse<'a>(s: &mut Section<'a>, keys: &[(&'a str, &str)]) {
    for &(key, what) in keys {
        let on = s.get(key, false);
        if on.value {
            s.not_supported(on.span, what, &format!("write `{key}: False`"));
        }
    }
}

/// Names and patterns under `key`: a list of strings, or one.
pub(super) fn patterns<'a>(s: &mut Section<'a>, key: &'a str) -> Vec<Spanned<String>> {
    let Some(field) = s.field(key) else { return vec![] };
    let one = |node: &Node| String::from_node(node).map(|value| Spanned::at(value, node.span));
    let all = match &field.node.kind {
        Kind::Seq(items) => items.iter().map(|i| one(i)).collect(),
        _ => one(field.node).map(|p| vec![p]),
    };
    all.unwrap_or_else(|| {
        wrong_type(s.report, &s.path_of(key), field, "a list of strings");
        vec![]
    })
}

/// `MindFormers`' defaults: the average takes a tenth in every thousand steps.
pub(super) fn pma(s: &mut Section<'_>) -> PmaSpec {
    fused(s);
    let ema = s.one_of("fused_algo", &[("ema", true), ("sma", false)], true).value;
    let alpha = s.checked("ema_alpha", 0.2, "must be above 0 and below 1", |v| *v > 0.0 && *v < 1.0).value;
    PmaSpec {
        adamw: AdamWSpec::default(),
        averaging: if ema { Averaging::Ema { alpha } } else { Averaging::Sma },
        interleave_step: s.positive("interleave_step", 1000).value as u64,
        fused_num: s.positive("fused_num", 10).value as u64,
    }
}

pub(super) fn muon(s: &mut Section<'_>) -> MuonConfig {
    // What only says how work is dealt to devices, or how a kernel is written.
    s.take(&[
        "comm_strategy",
        "use_fused_adamw",
        "phase0_batch_memory_gb",
        "ns_batch_memory_gb",
        "phase4_batch_memory_gb",
        "qk_clip_threshold",
    ]);
    let steps = s.positive("ns_steps", 5).value;
    MuonConfig {
        momentum: s.checked("momentum", 0.95, BETA_RULE, IS_BETA).value,
        nesterov: s.get("nesterov", true).value,
        matched_adamw_rms: s.checked("matched_adamw_rms", 0.2, "must be above 0", |v| *v > 0.0).value,
        coefficients: coefficients(s, steps),
        adamw_include: match s.peek("adamw_include") {
            None => ["*word_embeddings*", "*output_layer*"].map(str::to_owned).to_vec(),
            Some(_) => patterns(s, "adamw_include").into_iter().map(|p| p.value).collect(),
        },
        qk_clip: s.get("qk_clip_enabled", true),
    }
}

/// One triple for `steps` iterations, or a list of `[triple, iterations]`.
fn coefficients(s: &mut Section<'_>, steps: usize) -> Vec<[f64; 3]> {
    let usual = || vec![[3.4445, -4.775, 2.0315]; steps];
    let Some(field) = s.field("ns_coefficients") else { return usual() };
    let triple = |node: &Node| -> Option<[f64; 3]> { Vec::from_node(node)?.try_into().ok() };
    let segment = |node: &Node| -> Option<Vec<[f64; 3]>> {
        let Kind::Seq(parts) = &node.kind else { return None };
        let [values, count] = &parts[..] else { return None };
        // More iterations than this are a slip of the pen.
        let count = usize::from_node(count).filter(|n| (1..=1000).contains(n))?;
        Some(vec![triple(values)?; count])
    };
    let segments = |node: &Node| -> Option<Vec<[f64; 3]>> {
        let Kind::Seq(items) = &node.kind else { return None };
        let all = items.iter().map(|i| segment(i)).collect::<Option<Vec<_>>>()?.concat();
        (!all.is_empty()).then_some(all)
    };
    let found = triple(field.node).map(|t| vec![t; steps]).or_else(|| segments(field.node));
    found.unwrap_or_else(|| {
        let expected = "three numbers, or a list of [three numbers, iterations]";
        wrong_type(s.report, &s.path_of("ns_coefficients"), field, expected);
        usual()
    })
}

pub(super) fn came(s: &mut Section<'_>) -> CameSpec {
    refuse(
        s,
        &[
            ("relative_step", "a rate that follows from the step"),
            ("warmup_init", "a rate that follows from the step"),
            ("compression", "averages in float16"),
        ],
    );
    s.take(&["loss_scale"]);
    let unit = |v: &f64| (0.0..=1.0).contains(v);
    let eps = s.opt_checked::<Vec<f64>>("eps", "must be three numbers that are not negative", |v| {
        v.len() == 3 && v.iter().all(NOT_NEGATIVE)
    });
    let eps = eps.and_then(|v| <[f64; 3]>::try_from(v.value).ok());
    CameSpec {
        beta1: s.checked("beta1", 0.9, "must be above 0 and below 1", |v| *v > 0.0 && *v < 1.0).value,
        beta3: s.checked("beta3", 0.99, BETA_RULE, IS_BETA).value,
        decay_rate: s.checked("decay_rate", 0.8, "must be between 0 and 1", unit).value,
        eps: eps.unwrap_or([1e-30, 1e-3, 1e-16]),
        clip_threshold: s.checked("clip_threshold", 1.0, "must be above 0", |v| *v > 0.0).value,
        weight_decay: 0.0,
        scale_parameter: s.get("scale_parameter", false).value,
    }
}

pub(super) fn sgd(s: &mut Section<'_>) -> SgdSpec {
    let nesterov = s.get("nesterov", false);
    let dampening = s.checked("dampening", 0.0, "must not be negative", NOT_NEGATIVE);
    let momentum = s.checked("momentum", 0.0, "must not be negative", NOT_NEGATIVE);
    scale_of_its_own(s);
    if nesterov.value && (momentum.value == 0.0 || dampening.value != 0.0) {
        let found = athanor_ir::Diagnostic::error(
            &crate::config::codes::CONTRADICTION,
            "Nesterov's momentum needs `momentum` above 0 and `dampening` 0",
        );
        s.error_at(found.help("give a `momentum`, or write `nesterov: False`"), nesterov.span, "asked for here");
    }
    SgdSpec {
        momentum: momentum.value,
        dampening: dampening.value,
        nesterov: nesterov.value,
        weight_decay: 0.0,
        decay_all: true,
    }
}

pub(super) fn momentum(s: &mut Section<'_>) -> SgdSpec {
    let momentum = s.opt_checked("momentum", "must not be negative", NOT_NEGATIVE);
    if momentum.is_none() && s.peek("momentum").is_none() {
        s.missing("momentum", "add `momentum: 0.9`");
    }
    let nesterov = s.get("use_nesterov", false).value;
    scale_of_its_own(s);
    let momentum = momentum.map_or(0.0, |m| m.value);
    SgdSpec { momentum, dampening: 0.0, nesterov, weight_decay: 0.0, decay_all: false }
}

/// `loss_scale` of the optimizer divides gradients once more.
fn scale_of_its_own(s: &mut Section<'_>) {
    let scale = s.get("loss_scale", 1.0);
    if scale.value != 1.0 {
        s.not_supported(scale.span, "a loss scale in the optimizer", "use `runner_wrapper.scale_sense`");
    }
}
