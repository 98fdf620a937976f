//! What the backward pass computes again: from `recompute_config` to layers and operators of the model.
//!
//! Patterns are resolved here, so that no pass has to know them: the module names layers (`model.layers.3`) and operators in
//! them (`mlp.silu`: the block in the layer, then the op).

use athanor_ir::pipeline::Pipeline;
use athanor_ir::recompute::{Operators, Recompute, layer_of, operator_path};
use athanor_ir::{Code, Diagnostic, Func, Result};
use regex::Regex;

use crate::block::training_name;
use crate::config::{Amount, Config, Generation, Selection, Spanned, layers_by_number};

/// A pattern over operators that is no regular expression.
pub const BAD_OPERATOR_PATTERN: Code = Code {
    id: "C0113",
    title: "a pattern over operators cannot be read",
    explain: "`select_recompute` and `select_recompute_exclude` take patterns such as `mlp\\.mul`: the parts of a path within \
              a layer with `\\.` between them, each a regular expression (https://docs.rs/regex, without look-around and \
              back-references) for the whole of its part.",
};

/// A pattern over operators that fits none.
pub const NO_OPERATOR: Code = Code {
    id: "C0114",
    title: "a pattern over operators fits none of the model",
    explain: "Operators have the paths of their blocks as Hugging Face, the Mcore models or the legacy models of MindSpore \
              Transformers call them, and the name of the op (`athanor explain ops`) or what MindSpore Transformers calls \
              it. What a model has beyond that there, such as reshapes between operators, may not exist here; nothing is \
              kept for it either.",
};

/// The operators that are chosen when only layers are named.
fn default_patterns(generation: Generation) -> &'static [&'static str] {
    match generation {
        Generation::G1 => &[r"feed_forward\.mul", r"feed_forward\.w1\.activation\.silu"],
        _ => &[
            r"mlp\.mul",
            r"mlp\.activation_func\.silu",
            r"mlp\.shared_experts\.mul",
            r"mlp\.shared_experts\.activation_func\.silu",
        ],
    }
}

/// The layers of a model and the operators that each has, in their order, and the pipeline that they lie on.
pub(super) struct Model(pub(super) Vec<(String, Vec<String>)>, Option<Pipeline>);

impl Amount {
    /// So many of the first of `layers`.
    fn first(self, layers: &[String]) -> Vec<String> {
        let count = match self {
            Self::All(true) => layers.len(),
            Self::All(false) => 0,
            Self::Layers(n) => n.min(layers.len()),
        };
        layers[..count].to_vec()
    }
}

impl Model {
    fn of(forward: &Func) -> Self {
        let mut layers: Vec<(String, Vec<String>)> = vec![];
        for node in &forward.nodes {
            let Some((layer, rest)) = layer_of(&node.loc.block) else { continue };
            let path = operator_path(rest, node.op.name());
            let known = layers.iter().position(|l| l.0 == layer);
            let index = known.unwrap_or_else(|| {
                layers.push((layer.to_owned(), vec![]));
                layers.len() - 1
            });
            if !layers[index].1.contains(&path) {
                layers[index].1.push(path);
            }
        }
        Self(layers, None)
    }

    /// The model of `config`.
    pub(super) fn of_config(config: &Config, forward: &Func) -> Self {
        Self(Self::of(forward).0, config.pipeline())
    }

    /// The layers in their order.
    pub(super) fn layers(&self) -> Vec<String> {
        self.0.iter().map(|l| l.0.clone()).collect()
    }

    /// The layers that `amounts` choose: one amount for each of as many pieces of the model, first to last.
    ///
    /// The pieces are the stages of the pipeline, or their chunks. On one device they follow each other, with the layers dealt
    /// out evenly.
    fn counted(&self, amounts: &[Amount]) -> Vec<String> {
        if let Some(pipeline) = self.1.as_ref().filter(|p| [p.stages(), p.positions()].contains(&amounts.len())) {
            return self.counted_on(pipeline, amounts);
        }
        let (layers, pieces) = (self.layers(), amounts.len().max(1));
        let start = |piece: usize| piece * layers.len() / pieces;
        let chosen = |(i, amount): (usize, &Amount)| amount.first(&layers[start(i)..start(i + 1)]);
        amounts.iter().enumerate().flat_map(chosen).collect()
    }

    /// As [`Self::counted`], one amount for each stage of `pipeline`, whose layers are dealt to its chunks in turn, or one for each
    /// chunk and stage.
    fn counted_on(&self, pipeline: &Pipeline, amounts: &[Amount]) -> Vec<String> {
        let (layers, stages, chunks) = (self.layers(), pipeline.stages(), pipeline.layers.len());
        let at = |layer: usize| pipeline.schedule.shape().at(stages, pipeline.position_of(layer));
        let of = |stage: usize, chunk: usize| -> Vec<String> {
            let inside = |l: &usize| *l < pipeline.all_layers() && at(*l) == (stage, chunk);
            let own: Vec<String> = (0..layers.len()).filter(inside).map(|l| layers[l].clone()).collect();
            match (amounts.get(chunk * stages + stage), amounts[stage]) {
                (Some(amount), _) if amounts.len() > stages || chunks == 1 => amount.first(&own),
                (_, Amount::Layers(n)) => Amount::Layers(n / chunks + usize::from(chunk < n % chunks)).first(&own),
                (_, all) => all.first(&own),
            }
        };
        (0..chunks).flat_map(|chunk| (0..stages).flat_map(move |stage| of(stage, chunk)).collect::<Vec<_>>()).collect()
    }

    /// The operators of `layers` that `pattern` fits, of each layer what it has.
    pub(super) fn fitting(&self, pattern: &Pattern, layers: &[String]) -> Vec<Operators> {
        let mut found: Vec<Operators> = vec![];
        for (layer, paths) in self.0.iter().filter(|l| layers.contains(&l.0)) {
            let paths: Vec<String> = paths.iter().filter(|p| pattern.fits(p)).cloned().collect();
            match found.iter_mut().find(|o| o.paths == paths) {
                _ if paths.is_empty() => {}
                Some(known) => known.layers.push(layer.clone()),
                None => found.push(Operators { layers: vec![layer.clone()], paths }),
            }
        }
        found
    }
}

/// The parts of a pattern, each for the whole of a part of a path.
pub(super) struct Pattern(Vec<Regex>);

impl Pattern {
    fn new(text: &str) -> std::result::Result<Self, regex::Error> {
        text.split(r"\.")
            .map(|part| Regex::new(&format!("^(?:{part})$")))
            .collect::<std::result::Result<_, _>>()
            .map(Self)
    }

    /// Whether this is the operator, or a block that it is in, under one of its names.
    fn fits(&self, path: &str) -> bool {
        names(path).iter().any(|name| {
            let parts: Vec<&str> = name.split('.').collect();
            self.0.len() <= parts.len() && self.0.iter().zip(&parts).all(|(r, part)| r.is_match(part))
        })
    }
}

/// What the operator `path` is called: as here, and in the Mcore and the legacy models of `MindFormers`.
fn names(path: &str) -> Vec<String> {
    let (block, op) = path.rsplit_once('.').unwrap_or(("", path));
    let whole = format!("model.layers.0.{block}");
    let mcore = training_name(&whole);
    let mcore = mcore.strip_prefix("decoder.layers.0.").unwrap_or(block);
    // The block as a whole has no weight that would have its name there.
    let mcore = mcore.replacen("self_attn", "self_attention", 1);
    let mut blocks = vec![block.to_owned(), mcore, legacy(block)];
    blocks.dedup();
    let mut ops = vec![op];
    ops.extend(match op {
        "einsum" | "grouped_einsum" => Some("matmul"),
        "attention" => Some("flash_attention"),
        "rms_norm" | "layer_norm" => Some("norm"),
        _ => None,
    });
    let mut out: Vec<String> = blocks.iter().flat_map(|b| ops.iter().map(|op| operator_path(b, op))).collect();
    // Activations are cells of their own there.
    if matches!(op, "silu" | "gelu" | "gelu_erf") {
        out.extend(blocks.iter().map(|b| operator_path(&operator_path(b, "activation_func"), op)));
        out.push(operator_path(&legacy(block), &format!("w1.activation.{op}")));
    }
    out
}

/// The block as the legacy Llama calls it.
fn legacy(block: &str) -> String {
    const PARTS: [(&str, &str); 10] = [
        ("self_attn.q_proj", "attention.wq"),
        ("self_attn.k_proj", "attention.wk"),
        ("self_attn.v_proj", "attention.wv"),
        ("self_attn.o_proj", "attention.wo"),
        ("self_attn", "attention"),
        ("mlp.gate_proj", "feed_forward.w1"),
        ("mlp.down_proj", "feed_forward.w2"),
        ("mlp.up_proj", "feed_forward.w3"),
        ("mlp", "feed_forward"),
        ("input_layernorm", "attention_norm"),
    ];
    if block == "post_attention_layernorm" {
        return "ffn_norm".into();
    }
    let found =
        PARTS.iter().find(|(ours, _)| block.strip_prefix(ours).is_some_and(|r| r.is_empty() || r.starts_with('.')));
    found.map_or_else(|| block.to_owned(), |(ours, theirs)| format!("{theirs}{}", &block[ours.len()..]))
}

/// The layers that `selection` names as such; `None` where it names patterns.
fn of_layers(model: &Model, selection: &Selection) -> Option<Vec<String>> {
    match selection {
        Selection::All(all) => Some(if *all { model.layers() } else { vec![] }),
        Selection::PerStage(stages) => Some(model.counted(stages)),
        Selection::PerChunk(chunks) => Some(model.counted(&chunks.concat())),
        Selection::Auto | Selection::Patterns(_) | Selection::PatternAmounts(_) => None,
    }
}

/// Each pattern of `selection` with the layers that it is for.
fn patterns(config: &Config, model: &Model, selection: &Selection) -> Vec<(String, Vec<String>)> {
    let everywhere = |p: &String| (p.clone(), model.layers());
    match selection {
        Selection::Patterns(patterns) => patterns.iter().map(everywhere).collect(),
        Selection::PatternAmounts(list) => {
            list.iter().map(|(p, amounts)| (p.clone(), model.counted(amounts))).collect()
        }
        other => {
            let layers = of_layers(model, other).unwrap_or_default();
            let defaults = if layers.is_empty() { &[] } else { default_patterns(config.generation) };
            defaults.iter().map(|p| ((*p).to_owned(), layers.clone())).collect()
        }
    }
}

fn operators(config: &Config, model: &Model, selection: &Spanned<Selection>) -> Result<Vec<Operators>> {
    let mut out = vec![];
    for (text, layers) in patterns(config, model, &selection.value) {
        out.extend(model.fitting(&pattern(config, &text, selection)?, &layers));
    }
    Ok(out)
}

/// The pattern `text`, which stands at `at`.
///
/// # Errors
/// [`BAD_OPERATOR_PATTERN`].
pub(super) fn pattern<T>(config: &Config, text: &str, at: &Spanned<T>) -> Result<Pattern> {
    Pattern::new(text).map_err(|e| {
        let why = e.to_string();
        let why = why.lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned();
        let found = Diagnostic::error(&BAD_OPERATOR_PATTERN, format!("`{text}` is not a pattern: {why}"))
            .help(r"write the parts of a path with `\.` between them, such as `mlp\.mul`");
        Box::new(marked(config, found, at, "in these"))
    })
}

/// The note that the pattern `text` of `key`, which stands at `at`, fits no operator of `model`, if it fits none.
pub(super) fn unfit<T>(config: &Config, model: &Model, key: &str, text: &str, at: &Spanned<T>) -> Option<Diagnostic> {
    let fits = |pattern: &Pattern| model.0.iter().any(|(_, paths)| paths.iter().any(|p| pattern.fits(p)));
    // What is no pattern is an error elsewhere.
    if Pattern::new(text).is_ok_and(|p| fits(&p)) || Pattern::new(text).is_err() {
        return None;
    }
    let mut known: Vec<&str> = model.0.iter().flat_map(|l| &l.1).map(String::as_str).collect();
    known.sort_unstable();
    known.dedup();
    let found = Diagnostic::note(&NO_OPERATOR, format!("`{text}` of `{key}` fits no operator"))
        .help(format!("the operators of a layer are {}", known.join(", ")));
    Some(marked(config, found, at, "has no effect"))
}

fn marked<T>(config: &Config, found: Diagnostic, at: &Spanned<T>, text: &str) -> Diagnostic {
    match at.span.and_then(|s| Some((s, config.sources.get(s.file as usize)?))) {
        Some((s, file)) => found.at(file, s.start as usize..s.end as usize, text),
        None => found,
    }
}

/// What `config` has the backward pass of `forward` compute again.
///
/// # Errors
/// [`BAD_OPERATOR_PATTERN`].
pub(super) fn choice(config: &Config, forward: &Func) -> Result<Recompute> {
    let c = &config.recompute;
    let auto = c.recompute.value == Selection::Auto;
    // [0] names the first layer where layers are named.
    let numbered = config.swap.swap.value && matches!(c.recompute.value, Selection::PerStage(_));
    if !auto && !numbered && c.recompute.value.is_none() && c.select_recompute.value.is_none() {
        return Ok(Recompute::default());
    }
    let model = Model::of_config(config, forward);
    let layers = match &c.recompute.value {
        // Beside what is swapped, layers are named one by one.
        Selection::PerStage(list) if config.swap.swap.value => {
            let (layers, numbers) = (model.layers(), layers_by_number(list).unwrap_or_default());
            numbers.iter().filter_map(|l| layers.get(*l).cloned()).collect()
        }
        other => of_layers(&model, other).unwrap_or_default(),
    };
    Ok(Recompute {
        layers,
        operators: operators(config, &model, &c.select_recompute)?,
        keep: operators(config, &model, &c.select_recompute_exclude)?,
        budget: config.context.max_device_memory.filter(|_| auto).map(|m| m.value),
        done: None,
    })
}

/// Notes on patterns of `config` that fit no operator of `forward`.
pub fn notes(config: &Config, forward: &Func) -> Vec<Diagnostic> {
    let model = Model::of_config(config, forward);
    let c = &config.recompute;
    let mut out = vec![];
    for (key, selection) in
        [("select_recompute", &c.select_recompute), ("select_recompute_exclude", &c.select_recompute_exclude)]
    {
        if !matches!(selection.value, Selection::Patterns(_) | Selection::PatternAmounts(_)) {
            continue;
        }
        for (text, _) in patterns(config, &model, &selection.value) {
            out.extend(unfit(config, &model, key, &text, selection));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        let paths =
            ["mlp.silu", "mlp.mul", "mlp.gate_proj.einsum", "self_attn.attention", "input_layernorm.rms_norm", "add"];
        Model((0..5).map(|i| (format!("model.layers.{i}"), paths.map(str::to_owned).to_vec())).collect(), None)
    }

    fn numbers(layers: &[String]) -> Vec<usize> {
        layers.iter().map(|l| l.rsplit_once('.').unwrap().1.parse().unwrap()).collect()
    }

    #[test]
    fn numbers_count_from_the_first_layer_of_each_piece() {
        use Amount::{All, Layers};
        let chosen = |s: &Selection| numbers(&of_layers(&model(), s).unwrap());
        assert_eq!(chosen(&Selection::All(true)), [0, 1, 2, 3, 4]);
        assert_eq!(chosen(&Selection::PerStage(vec![Layers(2)])), [0, 1]);
        assert_eq!(chosen(&Selection::PerStage(vec![Layers(9)])), [0, 1, 2, 3, 4]);
        assert_eq!(chosen(&Selection::PerStage(vec![Layers(1), All(true)])), [0, 2, 3, 4]);
        let chunks = vec![vec![Layers(1), All(false)], vec![Layers(0), All(true)]];
        assert_eq!(chosen(&Selection::PerChunk(chunks)), [0, 3, 4]);
        assert_eq!(chosen(&Selection::PerStage(vec![])), [0_usize; 0]);
    }

    #[test]
    fn numbers_count_on_the_stages_of_the_pipeline() {
        use Amount::{All, Layers};
        use athanor_ir::pipeline::Kind;
        let on = |schedule, layers: &[&[usize]], s: &Selection| {
            let layers = layers.iter().map(|l| l.to_vec()).collect();
            numbers(&of_layers(&Model(model().0, Some(Pipeline { schedule, layers, slices: 1 })), s).unwrap())
        };
        let stages = Selection::PerStage(vec![Layers(1), All(true)]);
        assert_eq!(on(Kind::OneFOneB, &[&[3, 2]], &stages), [0, 3, 4]);
        // Stage 0 has layers 0, 1 and 4, dealt in turn: one layer is of its first chunk.
        assert_eq!(on(Kind::ZeroBubbleV, &[&[2, 1], &[1, 1]], &stages), [0, 2, 3]);
        let chunks = Selection::PerChunk(vec![vec![Layers(1), Layers(0)], vec![Layers(1), All(true)]]);
        assert_eq!(on(Kind::Interleaved, &[&[2, 1], &[1, 1]], &chunks), [0, 3, 4]);
    }

    #[test]
    fn patterns_know_the_names_of_every_layout() {
        let fits = |pattern: &str, path: &str| Pattern::new(pattern).unwrap().fits(path);
        for pattern in
            [r"mlp\.silu", r"mlp\.activation_func\.silu", r"feed_forward\.w1\.activation\.silu", "mlp", r".*\.silu"]
        {
            assert!(fits(pattern, "mlp.silu"), "{pattern}");
        }
        assert!(fits(r"feed_forward\.mul", "mlp.mul") && !fits(r"feed_forward\.mul", "mlp.silu"));
        assert!(fits(r"attention_norm\.norm", "input_layernorm.rms_norm"));
        assert!(fits(r".*\.norm", "post_attention_layernorm.rms_norm"));
        assert!(fits(r"pre_mlp_layernorm", "post_attention_layernorm.rms_norm"));
        assert!(fits(r"self_attention\.flash_attention", "self_attn.attention"));
        assert!(fits(r"attention\.wq\.matmul", "self_attn.q_proj.einsum") && fits("add", "add"));
        // A part is fitted as a whole.
        assert!(!fits("ml", "mlp.silu") && !fits(r"mlp\.sil", "mlp.silu") && !fits(r"mlp\.silu\.x", "mlp.silu"));
        assert!(Pattern::new("mlp(").is_err());
    }

    #[test]
    fn each_layer_gets_what_it_has() {
        let mut model = model();
        model.0[1].1 = vec!["mlp.experts.mul".into()];
        let found = model.fitting(&Pattern::new(r"mlp\.mul").unwrap(), &model.counted(&[Amount::Layers(3)]));
        assert_eq!(found.len(), 1);
        assert_eq!((numbers(&found[0].layers), &found[0].paths[..]), (vec![0, 2], &["mlp.mul".to_owned()][..]));
    }
}
