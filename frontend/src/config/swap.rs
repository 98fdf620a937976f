//! `swap_config`: values of the forward pass that wait for the backward pass on the host.

use athanor_ir::Diagnostic;

use super::codes;
use super::node::{Kind, Node};
use super::reader::{Field, FromNode, Rule, Section, wrong_type};
use super::recompute::{Amount, Selection};
use super::span::{Span, Spanned};
use super::{Config, validate::Mark};

/// Layers by number, counted through all of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Numbers {
    /// All or none.
    All(bool),
    /// These.
    Some(Vec<usize>),
}

/// An entry of `layer_swap`, or of `op_swap` with a pattern.
#[derive(Debug, Clone)]
pub struct SwapEntry {
    /// `op_name`: a pattern over operators.
    pub op_name: Option<Spanned<String>>,
    /// `backward_prefetch`: ops by which a value is back before it is read.
    pub backward_prefetch: Spanned<usize>,
    /// `layers`.
    pub layers: Spanned<Numbers>,
}

/// The `swap_config` section.
#[derive(Debug, Clone)]
pub struct SwapConfig {
    /// `swap`: whether any of it applies.
    pub swap: Spanned<bool>,
    /// `default_prefetch`: of entries that do not say, and of all layers if there is no entry.
    pub default_prefetch: Spanned<usize>,
    /// `layer_swap`.
    pub layer_swap: Vec<SwapEntry>,
    /// `op_swap`.
    pub op_swap: Vec<SwapEntry>,
}

impl FromNode for Numbers {
    const EXPECTED: &'static str = "True or a list of layers";
    fn from_node(node: &Node) -> Option<Self> {
        match &node.kind {
            Kind::Seq(_) => Vec::from_node(node).map(Self::Some),
            _ => bool::from_node(node).map(Self::All),
        }
    }
}

pub(super) fn read(mut s: Section<'_>) -> SwapConfig {
    let swap = s.get("swap", false);
    let default_prefetch = s.get("default_prefetch", 1);
    let layer_swap = entries(&mut s, "layer_swap", default_prefetch, false);
    let op_swap = entries(&mut s, "op_swap", default_prefetch, true);
    s.finish(Rule::Strict);
    SwapConfig { swap, default_prefetch, layer_swap, op_swap }
}

/// The list under `key`, or one entry without a list around it.
fn entries<'a>(s: &mut Section<'a>, key: &'a str, prefetch: Spanned<usize>, of_ops: bool) -> Vec<SwapEntry> {
    let Some(field) = s.field(key) else { return vec![] };
    let path = s.path_of(key);
    let items: Vec<(String, Field<'a>)> = match &field.node.kind {
        Kind::Map(_) => vec![(path, field)],
        Kind::Seq(items) => {
            let item = |(i, node): (usize, &'a std::sync::Arc<Node>)| {
                (format!("{path}[{i}]"), Field { written: "", key_span: node.span, node })
            };
            items.iter().enumerate().map(item).collect()
        }
        Kind::Scalar { .. } => {
            wrong_type(s.report, &path, field, "a list of mappings");
            return vec![];
        }
    };
    items
        .into_iter()
        .filter_map(|(path, field)| entry(Section::new(s.report, path, Some(field)), prefetch, of_ops))
        .collect()
}

fn entry(mut s: Section<'_>, prefetch: Spanned<usize>, of_ops: bool) -> Option<SwapEntry> {
    let op_name = if of_ops { s.opt::<String>("op_name") } else { None };
    let layers = s.opt::<Numbers>("layers");
    let backward_prefetch = s.get("backward_prefetch", prefetch.value);
    for (key, help) in [
        ("op_name", r"add a pattern over operators, such as `op_name: 'mlp\.mul'`"),
        ("layers", "add the numbers of layers, such as `layers: [0, 1]`, or `layers: True` for all"),
    ] {
        if (of_ops || key == "layers") && s.peek(key).is_none_or(|f| f.node.is_null()) {
            s.missing(key, help);
        }
    }
    s.finish_with(Rule::Strict, &[]);
    let complete = op_name.is_some() || !of_ops;
    layers.filter(|_| complete).map(|layers| SwapEntry { op_name, backward_prefetch, layers })
}

impl SwapConfig {
    /// All entries, those over operators first.
    pub fn entries(&self) -> impl Iterator<Item = &SwapEntry> {
        self.op_swap.iter().chain(&self.layer_swap)
    }
}

/// Layers that the model of `config` does not have, where swapping is on.
pub(super) fn limits(config: &Config, mark: &Mark<'_>) -> Vec<Diagnostic> {
    let swap = &config.swap;
    if !swap.swap.value {
        return vec![];
    }
    let count = config.model.num_layers.value + config.model.mtp.as_ref().map_or(0, |mtp| mtp.num_layers.value);
    let refuse = |message: String, help: &str, span: Option<Span>, text: &str| {
        mark(Diagnostic::error(&codes::OUT_OF_RANGE, message).help(help), span, text)
    };
    let missing = |layers: &[usize], span| {
        layers.iter().find(|l| **l >= count).map(|l| {
            let help = format!("layers are numbered from 0 to {}", count.saturating_sub(1));
            refuse(format!("layer {l} does not exist"), &help, span, "names it")
        })
    };
    let mut found: Vec<Diagnostic> = swap
        .entries()
        .filter_map(|e| match &e.layers.value {
            Numbers::Some(layers) => missing(layers, e.layers.span),
            Numbers::All(_) => None,
        })
        .collect();
    let recompute = &config.recompute.recompute;
    if let Selection::PerStage(amounts) = &recompute.value {
        if let Some(layers) = layers_by_number(amounts) {
            found.extend(missing(&layers, recompute.span));
        } else {
            let message = "with `swap_config.swap` a list under `recompute` has numbers of layers";
            let help = "write `recompute: True`, or number the layers";
            found.push(refuse(message.into(), help, recompute.span, "no number"));
        }
    }
    found
}

/// The list under `recompute` as it counts where swapping is on: layers by number, through all of the model.
pub fn layers_by_number(amounts: &[Amount]) -> Option<Vec<usize>> {
    let number = |a: &Amount| if let Amount::Layers(n) = a { Some(*n) } else { None };
    amounts.iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::Numbers;
    use crate::config::testing::{complaints, with};

    const ON: (&str, &str) = ("swap_config.swap", "True");

    #[test]
    fn entries_have_layers_and_operators_a_pattern() {
        let c = with(&[
            ON,
            ("swap_config.default_prefetch", "4"),
            ("swap_config.layer_swap", "[{backward_prefetch: 2, layers: [0, 1]}, {layers: True}]"),
            ("swap_config.op_swap", "{op_name: 'mlp\\.mul', backward_prefetch: 3, layers: [1]}"),
        ])
        .swap;
        let all: Vec<_> = c.entries().map(|e| (e.backward_prefetch.value, e.layers.value.clone())).collect();
        let want = [(3, Numbers::Some(vec![1])), (2, Numbers::Some(vec![0, 1])), (4, Numbers::All(true))];
        assert_eq!(all, want);
        assert_eq!(c.op_swap[0].op_name.as_ref().unwrap().value, "mlp\\.mul");
        let quiet = with(&[("swap_config.layer_swap", "null")]).swap;
        assert!(!quiet.swap.value && quiet.default_prefetch.value == 1 && quiet.entries().next().is_none());
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (key, value) in [
            ("swap_config.layer_swap", "3"),
            ("swap_config.layer_swap", "[{layers: 3}]"),
            ("swap_config.layer_swap", "[{backward_prefetch: 1}]"),
            ("swap_config.layer_swap", "[{layers: [0], backward_prefetch: -1}]"),
            ("swap_config.layer_swap", "[{layers: [0], op_name: a}]"),
            ("swap_config.op_swap", "[{layers: [0]}]"),
            ("swap_config.op_swap", "[{op_name: mul, layers: [99]}]"),
            ("recompute_config.recompute", "[99]"),
            ("recompute_config.recompute", "[0, True]"),
        ] {
            assert_eq!(complaints(&[ON, (key, value)]).len(), 1, "{key}: {value}");
        }
        // Entries that do not apply may name layers of another model.
        assert!(complaints(&[("swap_config.layer_swap", "[{layers: [99]}]")]).is_empty());
    }
}
