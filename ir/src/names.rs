//! Names and layouts of weights on disk: one table per naming, which is data and travels in the plan.
//!
//! Ours are the names of [`crate::plan::Buffer`]s: Hugging Face's of the Llama kind, with the experts of a layer in one
//! tensor (`….mlp.experts.gate_proj` `[e, f, h]`). Files have other names, fuse several of ours into one tensor or keep one
//! tensor per expert. A row of a table relates the two; a name that no row knows is the same on both sides.
//!
//! ```
//! use athanor_ir::names::{Layout, Row};
//! let row = Row {
//!     ours: vec!["model.layers.{l}.mlp.experts.gate_proj".into()],
//!     theirs: "model.layers.{l}.block_sparse_moe.experts.{e}.w1.weight".into(),
//!     layout: Layout::PerExpert,
//! };
//! let at = row.of_ours("model.layers.3.mlp.experts.gate_proj").unwrap();
//! assert_eq!(at.expert(7).fill(&row.theirs), "model.layers.3.block_sparse_moe.experts.7.w1.weight");
//! ```

use serde::{Deserialize, Serialize};

/// How the tensors of a file are named and laid out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameTable {
    /// Whose naming it is: `hugging_face`, `mindformers`.
    pub name: String,
    /// Weights that differ in name or layout; the first row that fits holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<Row>,
    /// Tensors that files may hold and the model does not need; `*` at either end stands for anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
    /// Tensors that files may hold a second time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<Copied>,
}

/// A relation between weights of the plan and tensors of a file.
///
/// In names, `{l}` is the number of a layer and `{e}` that of an expert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Our names, in the order in which the layout joins them.
    pub ours: Vec<String>,
    /// Their name.
    pub theirs: String,
    /// How the elements of one lie in the other.
    #[serde(default, skip_serializing_if = "Layout::is_same")]
    pub layout: Layout,
}

/// How elements of our tensors lie in theirs. Dims are (out, in), rows are dim 0; everything is row-major.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Layout {
    /// The same tensor.
    #[default]
    Same,
    /// Ours `[e, …]` is one tensor `[…]` per expert.
    PerExpert,
    /// Ours, joined along the rows, block by block.
    Joined {
        /// Where the joint is cut.
        blocks: Blocks,
        /// Rows of ours in proportion to each other.
        shares: Vec<usize>,
    },
    /// Ours `[e, fᵢ, h]`, each expert transposed, side by side: `[e, h, Σ fᵢ]`.
    Experts {
        /// Number of experts.
        experts: usize,
        /// The first two dims are one: `[e·h, Σ fᵢ]`. Either form is read.
        flat: bool,
        /// Each fᵢ in proportion to the others.
        shares: Vec<usize>,
    },
}

impl Layout {
    /// Whether only the name differs.
    pub fn is_same(&self) -> bool {
        *self == Self::Same
    }
}

/// How rows of several tensors alternate in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blocks {
    /// All rows of the first, then all of the second, …
    One,
    /// So many blocks, each with an equal part of every tensor: query heads, keys and values of a group.
    Count(usize),
    /// A row of the first, a row of the second, …
    EveryRow,
}

/// A tensor that repeats another one of the same file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copied {
    /// Its name in files.
    pub theirs: String,
    /// The name in files of what it repeats, bit for bit.
    pub of: String,
    /// It is written, too, if this tensor is; without, it may be there and is checked, but is not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<String>,
}

/// The numbers in a name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Layer.
    pub l: Option<usize>,
    /// Expert.
    pub e: Option<usize>,
}

impl Place {
    /// The same layer, expert `e`.
    #[must_use]
    pub fn expert(self, e: usize) -> Self {
        Self { e: Some(e), ..self }
    }

    /// The name that `pattern` has here; a number that is not known stays a placeholder.
    pub fn fill(self, pattern: &str) -> String {
        let put = |text: String, mark: &str, n: Option<usize>| match n {
            Some(n) => text.replace(mark, &n.to_string()),
            None => text,
        };
        put(put(pattern.to_owned(), "{l}", self.l), "{e}", self.e)
    }

    /// Where `name` has the form of `pattern`: the inverse of [`Place::fill`].
    pub fn of(pattern: &str, name: &str) -> Option<Self> {
        let mut place = Self::default();
        let (mut pattern, mut name) = (pattern, name);
        loop {
            let Some(at) = pattern.find('{') else { return (pattern == name).then_some(place) };
            name = name.strip_prefix(&pattern[..at])?;
            let digits = name.bytes().take_while(u8::is_ascii_digit).count();
            let (number, rest) = name.split_at(digits);
            // What does not print the same is not a number that fill wrote.
            let value: usize = number.parse().ok()?;
            if number.len() > 1 && number.starts_with('0') {
                return None;
            }
            let slot = if pattern[at..].starts_with("{l}") { &mut place.l } else { &mut place.e };
            if slot.is_some_and(|before| before != value) {
                return None;
            }
            *slot = Some(value);
            (pattern, name) = (pattern.get(at + 3..)?, rest);
        }
    }
}

impl Row {
    /// A weight that has another name only.
    pub fn renamed(ours: impl Into<String>, theirs: impl Into<String>) -> Self {
        Self { ours: vec![ours.into()], theirs: theirs.into(), layout: Layout::Same }
    }

    /// Where `name`, one of ours, stands, if this row is about it.
    pub fn of_ours(&self, name: &str) -> Option<Place> {
        self.ours.iter().find_map(|p| Place::of(p, name))
    }
}

impl NameTable {
    /// Whether a tensor called `name` can be passed over.
    pub fn ignores(&self, name: &str) -> bool {
        self.ignored.iter().any(|p| match (p.strip_prefix('*'), p.strip_suffix('*')) {
            (Some(end), _) => name.ends_with(end),
            (None, Some(start)) => name.starts_with(start),
            (None, None) => Place::of(p, name).is_some(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_and_put_back() {
        let pattern = "model.layers.{l}.mlp.experts.{e}.down_proj.weight";
        let name = "model.layers.10.mlp.experts.0.down_proj.weight";
        let place = Place::of(pattern, name).unwrap();
        assert_eq!(place, Place { l: Some(10), e: Some(0) });
        assert_eq!(place.fill(pattern), name);
        for other in [
            "model.layers.010.mlp.experts.0.down_proj.weight",
            "model.layers..mlp.experts.0.down_proj.weight",
            "model.layers.-1.mlp.experts.0.down_proj.weight",
            "model.layers.99999999999999999999999.mlp.experts.0.down_proj.weight",
            "model.layers.1.mlp.experts.0.down_proj.weights",
            "",
        ] {
            assert_eq!(Place::of(pattern, other), None, "{other}");
        }
        assert_eq!(Place::of("x.{l}.y.{l}", "x.1.y.2"), None);
        assert_eq!(Place::of("x.{l}", "x.7"), Some(Place { l: Some(7), e: None }));
    }

    #[test]
    fn what_is_passed_over_is_said_by_pattern() {
        let table = NameTable {
            ignored: vec!["*.inv_freq".into(), "h.{l}.attn.bias".into(), "model.layers.4.*".into()],
            ..NameTable::default()
        };
        assert!(table.ignores("model.rotary.inv_freq") && table.ignores("h.3.attn.bias"));
        assert!(!table.ignores("h.3.attn.bias.weight") && !table.ignores("inv_freq"));
        assert!(table.ignores("model.layers.4.enorm.weight") && !table.ignores("model.layers.40.enorm.weight"));
    }
}
