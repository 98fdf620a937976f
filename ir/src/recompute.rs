//! What is computed again in the backward pass instead of being kept for it.
//!
//! The choice travels with the module ([`crate::run::RunSpec::recompute`]) and is carried out by the pass `recompute`.

use serde::{Deserialize, Serialize};

/// Operators of some layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operators {
    /// Layers by their blocks: `model.layers.3`.
    pub layers: Vec<String>,
    /// Paths within a layer, the op's name last: `mlp.silu`, `add` for the layer's own sum.
    pub paths: Vec<String>,
}

impl Operators {
    /// Whether operator `path` of `layer` is one of them.
    pub fn has(&self, layer: &str, path: &str) -> bool {
        self.layers.iter().any(|l| l == layer) && self.paths.iter().any(|p| p == path)
    }
}

/// What a module's backward pass computes again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recompute {
    /// Layers that keep nothing but what they read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
    /// Operators whose results are not kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub operators: Vec<Operators>,
    /// Operators whose results are kept whatever the rest says.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<Operators>,
    /// Bytes that the arena may take: as little as that needs is computed again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<u64>,
    /// What came of it; set by the pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done: Option<Recomputed>,
}

/// What a pass `recompute` did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recomputed {
    /// Layers of which something is computed again.
    pub layers: usize,
    /// Values computed again.
    pub values: usize,
    /// Floating-point operations that this adds to a micro-batch.
    pub flops: u64,
    /// Those of a micro-batch without it.
    pub of_flops: u64,
}

impl Recomputed {
    /// Both together, of different parts of a model.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            layers: self.layers + other.layers,
            values: self.values + other.values,
            flops: self.flops + other.flops,
            of_flops: self.of_flops + other.of_flops,
        }
    }
}

impl Recompute {
    /// True if nothing is asked for.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether operator `path` of `layer` is chosen, as one of them or with the whole layer.
    pub fn has(&self, layer: &str, path: &str) -> bool {
        let chosen = self.layers.iter().any(|l| l == layer) || self.operators.iter().any(|o| o.has(layer, path));
        chosen && !self.keeps(layer, path)
    }

    /// Whether operator `path` of `layer` is kept whatever the rest says.
    pub fn keeps(&self, layer: &str, path: &str) -> bool {
        self.keep.iter().any(|o| o.has(layer, path))
    }
}

/// The layer that `block` is or is part of, and the path within it: `model.layers.3` and `mlp.experts` of
/// `model.layers.3.mlp.experts`. The first part that is a number ends the layer's name.
pub fn layer_of(block: &str) -> Option<(&str, &str)> {
    let mut end = 0;
    for part in block.split('.') {
        end += part.len();
        if end > part.len() && !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) {
            return Some((&block[..end], block.get(end + 1..).unwrap_or_default()));
        }
        end += 1;
    }
    None
}

/// Number of the layer that `block` is or is part of: 3 of `model.layers.3.mlp.experts`.
pub fn number_of_layer(block: &str) -> Option<usize> {
    layer_of(block)?.0.rsplit('.').next()?.parse().ok()
}

/// The path of an op called `op` in block `rest` of a layer.
pub fn operator_path(rest: &str, op: &str) -> String {
    if rest.is_empty() { op.to_owned() } else { format!("{rest}.{op}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_ends_with_its_number() {
        assert_eq!(layer_of("model.layers.3.mlp.experts"), Some(("model.layers.3", "mlp.experts")));
        assert_eq!(layer_of("transformer.h.11"), Some(("transformer.h.11", "")));
        for none in ["model.norm", "", "3.mlp", "model..x", "layers.3a"] {
            assert_eq!(layer_of(none), None, "{none}");
        }
    }

    #[test]
    fn what_is_kept_counts_before_what_is_chosen() {
        let one = |path: &str| vec![Operators { layers: vec!["l.0".into()], paths: vec![path.into()] }];
        let choice = Recompute { layers: vec!["l.1".into()], operators: one("mlp.silu"), ..Recompute::default() };
        assert!(choice.has("l.1", "anything") && choice.has("l.0", "mlp.silu") && !choice.has("l.0", "mlp.mul"));
        let choice = Recompute { keep: one("mlp.silu"), ..choice };
        assert!(choice.has("l.1", "mlp.silu") && !choice.has("l.0", "mlp.silu"));
    }

    #[test]
    fn the_empty_choice_is_not_written() {
        assert_eq!(serde_json::to_string(&Recompute::default()).unwrap(), "{}");
        assert!(serde_json::from_str::<Recompute>("{}").unwrap().is_none());
    }
}
