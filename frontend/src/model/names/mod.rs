//! Names and layouts of a model's weights in files: one table per family for the Hugging Face hub, one for `MindFormers`.
//!
//! A table follows from the config.json of the model. Our names are Llama's on the hub, with the experts of a layer in one
//! tensor; a family says how its own differ.

mod hugging_face;
mod mindformers;
#[cfg(test)]
mod tests;

use athanor_ir::names::{Blocks, Layout, NameTable, Row};
use serde_json::Value;

use crate::config::Layouts;

/// The namings of the model that `config` (a Hugging Face config.json) describes: the hub's, by which weights are saved, an
/// older one of the hub if there is one, and `MindFormers`'.
pub fn tables(config: &Value, layouts: Layouts) -> Vec<NameTable> {
    let sizes = Sizes::of(config);
    let mut tables = vec![hugging_face::table(&sizes)];
    if sizes.family == "glm" {
        // The same model was published under the names of its own code first.
        tables.push(NameTable {
            name: "chatglm".into(),
            ..hugging_face::table(&Sizes { family: "chatglm".into(), ..sizes.clone() })
        });
    }
    tables.push(mindformers::table(&sizes, layouts));
    tables
}

/// What the tables need to know of a model.
#[derive(Debug, Clone)]
struct Sizes {
    /// `model_type`.
    family: String,
    /// Decoder layers.
    layers: usize,
    /// Layers that predict further tokens, which follow.
    mtp: usize,
    /// Query heads.
    heads: usize,
    /// Key and value heads.
    groups: usize,
    /// Routed experts; 0 for a dense model.
    experts: usize,
    /// Rows of the latent query; 0 without.
    q_lora: usize,
    /// Rows of the latent key and value with the part that is rotated; 0 without latent attention.
    kv_latent: usize,
    /// The output layer is the embedding.
    tied: bool,
}

impl Sizes {
    fn of(config: &Value) -> Self {
        // Some files have the language model's settings in a section of their own.
        let text = config.get("text_config").filter(|t| t.is_object()).unwrap_or(config);
        let number = |keys: &[&str]| {
            let found = keys.iter().find_map(|k| text.get(*k).and_then(Value::as_u64));
            found.unwrap_or_default() as usize
        };
        let heads = number(&["num_attention_heads", "n_head"]).max(1);
        // ChatGLM has a switch and a number; others have the number.
        let groups = match text.get("multi_query_attention") {
            Some(Value::Bool(false)) => 0,
            _ => number(&["num_key_value_heads", "multi_query_group_num"]),
        };
        let latent = number(&["kv_lora_rank"]);
        let family = text.get("model_type").or_else(|| config.get("model_type")).and_then(Value::as_str);
        let family = family.unwrap_or_default().to_owned();
        let tied = match text.get("tie_word_embeddings").or_else(|| config.get("tie_word_embeddings")) {
            Some(Value::Bool(b)) => *b,
            _ => family == "gpt2",
        };
        Self {
            family,
            layers: number(&["num_hidden_layers", "n_layer", "num_layers"]),
            mtp: number(&["num_nextn_predict_layers"]),
            heads,
            groups: if groups == 0 { heads } else { groups },
            experts: number(&["n_routed_experts", "num_experts", "num_local_experts"]),
            q_lora: number(&["q_lora_rank"]),
            kv_latent: if latent == 0 { 0 } else { latent + number(&["qk_rope_head_dim"]) },
            tied,
        }
    }

    /// Rows of q, k and v in proportion.
    fn qkv(&self) -> Vec<usize> {
        vec![self.heads, self.groups, self.groups]
    }
}

/// A row that joins `ours` along their rows.
fn joined<const N: usize>(ours: [String; N], theirs: String, blocks: Blocks, shares: Vec<usize>) -> Row {
    Row { ours: ours.into(), theirs, layout: Layout::Joined { blocks, shares } }
}

/// Rows for `weight` and `bias` of linear layers that are called otherwise.
fn renamed(ours: &str, theirs: &str, layers: &[(&str, &str)]) -> Vec<Row> {
    let both = |(o, t): &(&str, &str)| {
        ["weight", "bias"].map(|kind| Row::renamed(format!("{ours}{o}.{kind}"), format!("{theirs}{t}.{kind}")))
    };
    layers.iter().flat_map(both).collect()
}
