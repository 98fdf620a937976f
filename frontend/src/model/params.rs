//! What the optimizer does with each weight: decay, learning rate, and whether Muon takes it.
//!
//! The rules are written over names of weights. A name is looked at as Hugging Face writes it and as `MindFormers`' training
//! models do; what is found is written into the module by Hugging Face's name, so that no pass has to know patterns.

use athanor_ir::optimizer::{MuonPart, MuonWeight, OptimizerSpec};
use athanor_ir::run::{LrGroup, RunSpec};
use athanor_ir::{Code, Diagnostic, Func, Result, Role};
use regex::Regex;

use crate::block::training_name;
use crate::config::{Config, Generation, MuonConfig, Spanned, UpdateRule};

/// A rule for the optimizer names no weight of the model, or cannot be had for it.
pub const BAD_PARAMETER_RULE: Code = Code {
    id: "C0112",
    title: "a rule of the optimizer does not fit the model",
    explain: "`grouped_lr_schedule`, `weight_decay_include` and `weight_decay_exclude` name weights by a part of their names \
              or by a pattern with `*`, `?` and `[…]`, over the names of MindFormers (`decoder.layers.0.mlp.linear_fc2.weight`) \
              or of Hugging Face. A group of learning rates without a weight is a mistake. Muon shrinks weights of latent \
              attention where a score was too large (QK-clip), which is not supported: say `qk_clip_enabled: False`.",
};

/// Whether names fit a rule: as a part of them, or as a shell pattern over the whole (`*`, `?`, `[abc]`, `[!abc]`).
struct Matcher<'a> {
    part: &'a str,
    whole: Option<Regex>,
}

impl<'a> Matcher<'a> {
    fn new(pattern: &'a str) -> Self {
        Self { part: pattern, whole: Regex::new(&shell_pattern(pattern)).ok() }
    }

    /// `name` is Hugging Face's.
    fn fits(&self, name: &str) -> bool {
        let one = |n: &str| n.contains(self.part) || self.whole.as_ref().is_some_and(|w| w.is_match(n));
        one(name) || one(&training_name(name))
    }
}

/// The regular expression of a shell pattern; `*` crosses dots, as in Python's `fnmatch`.
fn shell_pattern(pattern: &str) -> String {
    let mut out = String::from("^(?s:");
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        let tail = rest.as_str();
        match c {
            '*' => out.push_str(".*"),
            '?' => out.push('.'),
            '[' if tail.get(1..).is_some_and(|t| t.contains(']')) => {
                let end = tail.char_indices().skip(1).find(|(_, c)| *c == ']').map_or(0, |(i, _)| i);
                let (negated, set) = match tail[..end].strip_prefix('!') {
                    Some(set) => ("[^", set),
                    None => ("[", &tail[..end]),
                };
                out.push_str(negated);
                for c in set.chars() {
                    out.extend(matches!(c, '\\' | '^' | '[').then_some('\\'));
                    out.push(c);
                }
                out.push(']');
                rest = tail[end + 1..].chars();
            }
            c => out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    out + ")$"
}

/// Writes the rules of `config` into the weights of `func` and into `run`.
///
/// # Errors
/// [`BAD_PARAMETER_RULE`].
pub(super) fn assign(config: &Config, func: &mut Func, run: &mut RunSpec) -> Result<()> {
    decay(config, func);
    groups(config, func, run)?;
    if let (UpdateRule::Muon(rule), OptimizerSpec::Muon(spec)) = (&config.optimizer.rule, &mut run.optimizer) {
        spec.weights = muon(config, rule, func)?;
    }
    Ok(())
}

fn is_weight(role: &Role) -> bool {
    matches!(role, Role::Weight { .. })
}

/// `weight_decay_include` counts before `weight_decay_exclude`, which counts before the rule of ranks and biases.
fn decay(config: &Config, func: &mut Func) {
    fn matchers(list: &[Spanned<String>]) -> Vec<Matcher<'_>> {
        list.iter().map(|p| Matcher::new(&p.value)).collect()
    }
    let o = &config.optimizer;
    let (with, without) = (matchers(&o.weight_decay_include), matchers(&o.weight_decay_exclude));
    let fits = |list: &[Matcher<'_>], name: &str| list.iter().any(|m| m.fits(name));
    for p in &mut func.params {
        if let Role::Weight { decay, .. } = &mut p.role {
            *decay = fits(&with, &p.name) || (*decay && !fits(&without, &p.name));
        }
    }
}

/// The weights of each group of learning rates; the first pattern that fits decides.
fn groups(config: &Config, func: &Func, run: &mut RunSpec) -> Result<()> {
    let patterns: Vec<(usize, Matcher<'_>)> = (config.lr_groups.iter().enumerate())
        .flat_map(|(k, group)| group.params.value.iter().map(move |p| (k, Matcher::new(p))))
        .collect();
    let mut weights = vec![vec![]; config.lr_groups.len()];
    for p in func.params.iter().filter(|p| is_weight(&p.role)) {
        if let Some((k, _)) = patterns.iter().find(|(_, m)| m.fits(&p.name)) {
            weights[*k].push(p.name.clone());
        }
    }
    for (k, group) in config.lr_groups.iter().enumerate() {
        if weights[k].is_empty() {
            let text = format!("no weight is called like {}", group.params.value.join(", "));
            let help = "write names as in MindFormers or Hugging Face; `athanor inspect` lists those of the model";
            return refuse(config, group.params.span, text, help);
        }
    }
    let lr = std::mem::take(&mut run.lr_groups).into_iter();
    run.lr_groups = lr.zip(weights).map(|(group, weights)| LrGroup { weights, ..group }).collect();
    Ok(())
}

fn refuse<T>(config: &Config, span: Option<crate::config::Span>, text: String, help: &str) -> Result<T> {
    let found = Diagnostic::error(&BAD_PARAMETER_RULE, text).help(help);
    match span.and_then(|s| Some((s, config.sources.get(s.file as usize)?))) {
        Some((s, file)) => found.at(file, s.start as usize..s.end as usize, "asked for here").err(),
        None => found.err(),
    }
}

/// The matrices that Muon takes, `[rows, columns]` or `[experts, rows, columns]`, in the parts that `MindFormers` orthogonalises
/// apart: the two halves of each head of latent attention, and its compressed key apart from the shared rotary one.
fn muon(config: &Config, rule: &MuonConfig, func: &Func) -> Result<Vec<MuonWeight>> {
    let adamw: Vec<Matcher<'_>> = rule.adamw_include.iter().map(|p| Matcher::new(p)).collect();
    let mut out = vec![];
    for p in func.params.iter().filter(|p| is_weight(&p.role)) {
        let dims = &func.ty(p.value).dims;
        let ([rows, cols] | [_, rows, cols]) = dims[..] else { continue };
        if adamw.iter().any(|m| m.fits(&p.name)) {
            continue;
        }
        if p.name.ends_with("kv_b_proj.weight") && rule.qk_clip.value {
            let text = "Muon with QK-clip is not supported for latent attention".to_owned();
            let help = "write `qk_clip_enabled: False`: scores are then not watched";
            return refuse(config, rule.qk_clip.span.or(config.optimizer.kind.span), text, help);
        }
        let sizes = latent_parts(config.model.num_attention_heads.value, func, &p.name).unwrap_or_else(|| vec![rows]);
        let period: usize = sizes.iter().sum();
        let scale = |part: usize| {
            let rows = part * (rows / period.max(1));
            rule.matched_adamw_rms * (rows.max(cols) as f64).sqrt()
        };
        // The graph of MindFormers scales all parts by the size of the last one.
        let last = sizes.last().copied().filter(|_| config.generation == Generation::G2);
        let parts = sizes.iter().map(|r| MuonPart { rows: *r, scale: scale(last.unwrap_or(*r)) }).collect();
        out.push(MuonWeight { name: p.name.clone(), parts });
    }
    Ok(out)
}

/// Rows of the parts of a projection of latent attention, in one head where there are heads. The sizes are those of the
/// other projections of the block: `q_b_proj` (or `q_proj`) has heads of (content, rotary) rows, `kv_a_proj_with_mqa` the
/// compressed rows and one rotary head, `kv_b_proj` heads of (content, value).
fn latent_parts(heads: usize, func: &Func, name: &str) -> Option<Vec<usize>> {
    let (block, own) = name.strip_suffix(".weight")?.rsplit_once('.')?;
    let rows = |projection: &str| {
        let param = func.find_param(&format!("{block}.{projection}.weight"))?;
        func.ty(param.value).dims.first().copied()
    };
    let joint = rows("kv_a_proj_with_mqa")?;
    let latent = rows("kv_a_layernorm")?;
    let rotary = joint.checked_sub(latent)?;
    let queries = rows("q_b_proj").or_else(|| rows("q_proj"))?;
    let content = (queries / heads.max(1)).checked_sub(rotary)?;
    match own {
        "q_b_proj" | "q_proj" => Some(vec![content, rotary]),
        "kv_a_proj_with_mqa" => Some(vec![latent, rotary]),
        "kv_b_proj" => Some(vec![content, (rows("kv_b_proj")? / heads.max(1)).checked_sub(content)?]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Matcher, latent_parts};
    use athanor_ir::{DType, Func, Init, Loc, Role, TensorType};

    #[test]
    fn patterns_are_parts_of_names_or_shell_patterns() {
        let fits = |pattern: &str, name: &str| Matcher::new(pattern).fits(name);
        assert!(fits("embedding.*", "model.embed_tokens.weight"));
        assert!(fits("output_layer.weight", "lm_head.weight"));
        assert!(!fits("layers.[02].*fc?.weight", "model.layers.2.mlp.down_proj.weight"));
        assert!(fits("*layers.[02].*fc?.weight", "model.layers.2.mlp.down_proj.weight"));
        assert!(!fits("*layers.[!02].*fc?.weight", "model.layers.2.mlp.down_proj.weight"));
        assert!(fits("self_attn.q_proj", "model.layers.0.self_attn.q_proj.bias"));
        assert!(!fits("norm*", "model.layers.0.input_layernorm.weight") && fits("*norm*", "model.norm.weight"));
        assert!(fits("a[", "xa[y") && !fits("a[", "xay"));
    }

    #[test]
    fn latent_attention_is_taken_apart_by_the_sizes_of_its_weights() {
        let mut func = Func::new("forward");
        for (name, dims) in [
            ("q_b_proj", vec![4 * 96, 192]),
            ("kv_a_proj_with_mqa", vec![128 + 32, 512]),
            ("kv_a_layernorm", vec![128]),
            ("kv_b_proj", vec![4 * (64 + 48), 128]),
            ("o_proj", vec![512, 4 * 48]),
        ] {
            let role = Role::Weight { init: Init::Constant { value: 0.0 }, decay: true };
            func.param(format!("a.{name}.weight"), TensorType::new(DType::F32, dims), role, Loc::default());
        }
        let parts = |name: &str| latent_parts(4, &func, &format!("a.{name}.weight"));
        assert_eq!(parts("q_b_proj"), Some(vec![64, 32]));
        assert_eq!(parts("kv_a_proj_with_mqa"), Some(vec![128, 32]));
        assert_eq!(parts("kv_b_proj"), Some(vec![64, 48]));
        assert_eq!(parts("o_proj"), None);
        assert_eq!(latent_parts(4, &func, "b.q_proj.weight"), None);
    }
}
