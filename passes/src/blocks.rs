//! Blocks inside functions that many layers call: written relative to the layer of the call.

use athanor_ir::recompute::layer_of;

/// `block` as it looks from an op in block `from`: `model.layers.*.mlp` in the same layer, `model.layers.*-1` one layer
/// before. What is in no layer, or in one of another kind, stays as it is.
pub(crate) fn relative(block: &str, from: &str) -> String {
    let found = || {
        let ((layer, rest), (other, _)) = (layer_of(block)?, layer_of(from)?);
        let ((kind, number), (other_kind, other_number)) = (numbered(layer)?, numbered(other)?);
        let star = match number - other_number {
            0 => "*".to_owned(),
            apart => format!("*{apart:+}"),
        };
        (kind == other_kind).then(|| joined(kind, &star, rest))
    };
    found().unwrap_or_else(|| block.to_owned())
}

/// The block that [`relative`] wrote as `block` for `from`.
pub(crate) fn absolute(block: &str, from: &str) -> String {
    let found = || {
        let (kind, tail) = block.split_once(".*")?;
        let (apart, rest) = tail.split_once('.').unwrap_or((tail, ""));
        let apart: i64 = if apart.is_empty() { 0 } else { apart.parse().ok()? };
        let (other_kind, number) = numbered(layer_of(from)?.0)?;
        let number = number.checked_add(apart)?;
        (kind == other_kind && number >= 0).then(|| joined(kind, &number.to_string(), rest))
    };
    found().unwrap_or_else(|| block.to_owned())
}

/// `model.layers` and 3 of `model.layers.3`.
fn numbered(layer: &str) -> Option<(&str, i64)> {
    let (kind, number) = layer.rsplit_once('.')?;
    Some((kind, number.parse().ok()?))
}

fn joined(kind: &str, number: &str, rest: &str) -> String {
    if rest.is_empty() { format!("{kind}.{number}") } else { format!("{kind}.{number}.{rest}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back() {
        for (block, from, wanted) in [
            ("model.layers.3.mlp.experts", "model.layers.3.mlp", "model.layers.*.mlp.experts"),
            ("model.layers.2", "model.layers.3.input_layernorm", "model.layers.*-1"),
            ("model.layers.5", "model.norm", "model.layers.5"),
            ("model.norm", "model.layers.3", "model.norm"),
            ("model.h.2.mlp", "model.layers.3", "model.h.2.mlp"),
            ("", "model.layers.3", ""),
        ] {
            assert_eq!(relative(block, from), wanted);
            assert_eq!(absolute(wanted, from), block);
        }
    }
}
