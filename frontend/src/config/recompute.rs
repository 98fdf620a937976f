//! `recompute_config`: activations that are computed again.

use athanor_ir::Diagnostic;

use super::codes;
use super::node::{Kind, Node};
use super::reader::{FromNode, Rule, Section};
use super::scalar;
use super::span::Spanned;

/// A number of layers, or all or none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// `True` or `False`.
    All(bool),
    /// So many of the first layers.
    Layers(usize),
}

/// Which layers something applies to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All layers or none.
    All(bool),
    /// As little as lets the run fit into `context.max_device_memory`; of `recompute` only, and ours.
    Auto,
    /// So many layers of each pipeline stage.
    PerStage(Vec<Amount>),
    /// So many layers of each (chunk, stage): outer list by chunk.
    PerChunk(Vec<Vec<Amount>>),
    /// The operators whose path matches one of these, in all layers.
    Patterns(Vec<String>),
    /// The operators whose path matches a pattern, each with its own amounts.
    PatternAmounts(Vec<(String, Vec<Amount>)>),
}

/// The `recompute_config` section.
#[derive(Debug, Clone)]
pub struct RecomputeConfig {
    /// Layers computed again as a whole in the backward pass.
    pub recompute: Spanned<Selection>,
    /// Operators computed again in the layers that are not.
    pub select_recompute: Spanned<Selection>,
    /// The same for communication.
    pub select_comm_recompute: Spanned<Selection>,
    /// Gather optimizer-sharded weights again in the backward pass.
    pub parallel_optimizer_comm_recompute: Spanned<bool>,
    /// Do not keep what tensor parallel communication returned.
    pub mp_comm_recompute: Spanned<bool>,
    /// Keep the inputs of recomputed layers sliced over tensor parallel ranks.
    pub recompute_slice_activation: Spanned<bool>,
    /// Operators that are kept whatever the rest says.
    pub select_recompute_exclude: Spanned<Selection>,
    /// The same for communication.
    pub select_comm_recompute_exclude: Spanned<Selection>,
}

impl RecomputeConfig {
    /// Whether ranks with parts of sequences bring them together again for the backward pass: all that they bring together is read
    /// behind norms, which is what `select_comm_recompute` chooses in all layers or in none.
    pub fn joins_again(&self) -> bool {
        let chosen = self.select_comm_recompute.value == Selection::All(true);
        self.mp_comm_recompute.value || chosen && self.select_comm_recompute_exclude.value.is_none()
    }
}

impl FromNode for Amount {
    const EXPECTED: &'static str = "a boolean or a number of layers";
    fn from_node(node: &Node) -> Option<Self> {
        let text = node.text()?;
        match scalar::boolean(text) {
            Some(all) => Some(Self::All(all)),
            None => usize::from_node(node).map(Self::Layers),
        }
    }
}

impl FromNode for Selection {
    const EXPECTED: &'static str = "a boolean, a list of numbers or of patterns, or a mapping of patterns";
    fn from_node(node: &Node) -> Option<Self> {
        match &node.kind {
            Kind::Scalar { text, .. } if text == "auto" => Some(Self::Auto),
            Kind::Scalar { .. } => match Amount::from_node(node)? {
                Amount::All(all) => Some(Self::All(all)),
                Amount::Layers(_) => None,
            },
            Kind::Seq(items) => {
                if items.iter().all(|i| matches!(i.kind, Kind::Seq(_))) && !items.is_empty() {
                    return Vec::from_node(node).map(Self::PerChunk);
                }
                let amounts = Vec::from_node(node).map(Self::PerStage);
                amounts.or_else(|| Vec::from_node(node).map(Self::Patterns))
            }
            Kind::Map(entries) => {
                let amounts = |n: &Node| Amount::from_node(n).map(|a| vec![a]).or_else(|| Vec::from_node(n));
                let read = entries.iter().map(|e| Some((e.key.clone(), amounts(&e.value)?)));
                read.collect::<Option<_>>().map(Self::PatternAmounts)
            }
        }
    }
}

impl Selection {
    /// True if nothing is selected.
    pub fn is_none(&self) -> bool {
        match self {
            Self::All(all) => !all,
            Self::Auto => false,
            Self::PerStage(stages) => stages.iter().all(Amount::is_none),
            Self::PerChunk(chunks) => chunks.iter().flatten().all(Amount::is_none),
            Self::Patterns(patterns) => patterns.is_empty(),
            Self::PatternAmounts(patterns) => patterns.iter().all(|(_, a)| a.iter().all(Amount::is_none)),
        }
    }
}

impl Amount {
    fn is_none(&self) -> bool {
        matches!(self, Self::All(false) | Self::Layers(0))
    }
}

pub(super) fn read(mut s: Section<'_>, mcore: bool) -> RecomputeConfig {
    let mut of_operators = |key| {
        let rule = "chooses operators and cannot be `auto`";
        s.checked(key, Selection::All(false), rule, |chosen| *chosen != Selection::Auto)
    };
    let select_recompute = of_operators("select_recompute");
    let select_comm_recompute = of_operators("select_comm_recompute");
    let select_recompute_exclude = of_operators("select_recompute_exclude");
    let select_comm_recompute_exclude = of_operators("select_comm_recompute_exclude");
    let config = RecomputeConfig {
        recompute: s.get("recompute", Selection::All(false)),
        select_recompute,
        select_comm_recompute,
        parallel_optimizer_comm_recompute: s.get("parallel_optimizer_comm_recompute", false),
        mp_comm_recompute: s.get("mp_comm_recompute", true),
        recompute_slice_activation: s.get("recompute_slice_activation", false),
        select_recompute_exclude,
        select_comm_recompute_exclude,
    };
    if mcore && config.recompute_slice_activation.value {
        let message = "`recompute_config.recompute_slice_activation` does not exist for Mcore models";
        let found = Diagnostic::error(&codes::CONTRADICTION, message).help("write `recompute_slice_activation: False`");
        s.error_at(found, config.recompute_slice_activation.span, "must be False with `use_legacy: False`");
    }
    s.finish(Rule::Strict);
    config
}

#[cfg(test)]
mod tests {
    use super::{Amount, Selection};
    use crate::config::testing::{complaints, with};

    #[test]
    fn selections_in_every_form() {
        let read = |value| with(&[("recompute_config.recompute", value)]).recompute.recompute.value;
        assert_eq!(read("True"), Selection::All(true));
        assert_eq!(read("[3, True]"), Selection::PerStage(vec![Amount::Layers(3), Amount::All(true)]));
        assert_eq!(
            read("[[1, 2], [0, False]]"),
            Selection::PerChunk(vec![
                vec![Amount::Layers(1), Amount::Layers(2)],
                vec![Amount::Layers(0), Amount::All(false)]
            ])
        );
        let pattern = with(&[("recompute_config.select_recompute", "['mlp\\.mul']")]).recompute;
        assert_eq!(pattern.select_recompute.value, Selection::Patterns(vec!["mlp\\.mul".into()]));
        assert!(!pattern.select_recompute.value.is_none() && with(&[]).recompute.select_recompute.value.is_none());
        let by_pattern = with(&[("recompute_config.select_recompute", "{mul: [1, 2]}")]).recompute;
        let want = Selection::PatternAmounts(vec![("mul".into(), vec![Amount::Layers(1), Amount::Layers(2)])]);
        assert_eq!(by_pattern.select_recompute.value, want);
        assert_eq!(complaints(&[("recompute_config.recompute", "3")]).len(), 1);
        let memory = ("context.max_device_memory", "2GB");
        assert_eq!(with(&[("recompute_config.recompute", "auto"), memory]).recompute.recompute.value, Selection::Auto);
        assert_eq!(complaints(&[("recompute_config.select_recompute", "auto"), memory]).len(), 1);
        // Without an amount of memory there is nothing to fit into.
        assert_eq!(complaints(&[("recompute_config.recompute", "auto")]).len(), 1);
    }
}
