//! The ops as their definition documents them: the doc comments of `enum Op` are the manual.

use crate::text::{table, wrapped};
use athanor_ir::{Collective, CollectiveKind, DType, Op, TensorType, op};

/// An op for people.
pub struct OpDoc {
    /// `rms_norm`
    pub name: String,
    /// Shapes and formula.
    pub doc: String,
    /// Attributes with their docs.
    pub attributes: Vec<(String, String)>,
}

/// The sources that define and document the ops.
const SOURCE: &str = concat!(
    include_str!("../../ir/src/op.rs"),
    include_str!("../../ir/src/element.rs"),
    include_str!("../../ir/src/collective.rs")
);

/// Every op, in order of definition; element-wise functions are ops of their own.
pub fn docs() -> Vec<OpDoc> {
    let operands = |name: &str, form: &str| {
        let mut ops = variants(name);
        for op in &mut ops {
            op.doc = format!("{form} → same dims, element-wise: {}", op.doc);
        }
        ops
    };
    let mut ops = vec![];
    for op in variants("Op") {
        match op.name.as_str() {
            "unary" => ops.extend(operands("Unary", "(x)")),
            "binary" => ops.extend(operands("Binary", "(a, b)")),
            "collective" => ops.extend(variants("CollectiveKind").into_iter().map(|mut c| {
                let more =
                    [("axes", "Axes of the mesh along which ranks are a group."), ("ranks", "Members of a group.")];
                c.attributes.extend(more.map(|(name, doc)| (name.to_owned(), doc.to_owned())));
                c
            })),
            _ => ops.push(op),
        }
    }
    ops
}

/// The variants of `pub enum NAME` with their doc comments.
fn variants(name: &str) -> Vec<OpDoc> {
    let head = format!("pub enum {name} {{");
    let body = SOURCE.split_once(&head).map_or("", |(_, rest)| rest);
    let mut found: Vec<OpDoc> = vec![];
    let mut doc = String::new();
    for line in body.lines().take_while(|l| *l != "}") {
        let depth = line.len() - line.trim_start().len();
        let text = line.trim();
        if let Some(comment) = text.strip_prefix("///") {
            if !doc.is_empty() {
                doc.push(if comment.is_empty() { '\n' } else { ' ' });
            }
            doc.push_str(comment.trim());
            continue;
        }
        let word: String = text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        if word.is_empty() {
            continue;
        }
        let doc = std::mem::take(&mut doc).replace("\\[", "[").replace("\\]", "]");
        match (depth, found.last_mut()) {
            (8, Some(op)) => op.attributes.push((word, doc)),
            _ => found.push(OpDoc { name: snake(&word), doc, attributes: vec![] }),
        }
    }
    found
}

/// `RmsNorm` as `rms_norm`.
fn snake(camel: &str) -> String {
    let mut out = String::new();
    for (i, c) in camel.chars().enumerate() {
        if c.is_ascii_uppercase() && i > 0 {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// The page of the op called `name`, with or without the dialect.
pub fn text(name: &str) -> Option<String> {
    let name = name.strip_prefix("nn.").unwrap_or(name);
    let op = docs().into_iter().find(|o| o.name == name)?;
    let mut out = format!("op nn.{}\n\n{}\n", op.name, wrapped(&op.doc));
    if let Some(letters) = letters(name) {
        out.extend(["\nSignature ", &letters, "\n"]);
    }
    if !op.attributes.is_empty() {
        let rows: Vec<Vec<String>> = op.attributes.into_iter().map(|(n, d)| vec![n, d]).collect();
        out.extend(["\nAttributes\n", &table(&rows, &[1])]);
    }
    out.push_str(
        "\nIn shapes b is batch, s sequence, n query heads, g key/value heads, d head dim, h hidden, v vocabulary, e experts, k choices\nof a token, r rows sorted by expert.\n",
    );
    Some(out)
}

/// The list of ops, the first line of each.
pub fn list() -> String {
    let row = |o: OpDoc| {
        let first = o.doc.lines().next().unwrap_or_default().to_owned();
        let short = if first.chars().count() > 90 { first.chars().take(89).chain(['…']).collect() } else { first };
        vec![format!("nn.{}", o.name), short]
    };
    let rows: Vec<Vec<String>> = docs().into_iter().map(row).collect();
    format!("Ops\n{}", table(&rows, &[1]))
}

/// The signature that sharding and costs follow from, on operands of the documented ranks.
fn letters(name: &str) -> Option<String> {
    let (op, ins, outs) = sample(name)?;
    let ty = |ranks: Vec<usize>| -> Vec<TensorType> {
        ranks.into_iter().map(|rank| TensorType::new(DType::F32, vec![2; rank])).collect()
    };
    let signature = op.signature(&ty(ins), &ty(outs))?;
    let whole: String = signature.whole.iter().collect();
    Some(if whole.is_empty() { signature.to_string() } else { format!("{signature}, {whole} whole on a rank") })
}

/// An op of this name with ranks of operands and results.
fn sample(name: &str) -> Option<(Op, Vec<usize>, Vec<usize>)> {
    let one = op::F64(1.0);
    let collective = |kind| (Op::Collective(Collective { kind, axes: "tp".into(), ranks: 2 }), vec![2], vec![2]);
    if let Some(u) = op::Unary::ALL.into_iter().find(|u| u.name() == name) {
        return Some((Op::Unary(u), vec![3], vec![3]));
    }
    if let Some(b) = op::Binary::ALL.into_iter().find(|b| b.name() == name) {
        return Some((Op::Binary(b), vec![3, 3], vec![3]));
    }
    Some(match name {
        "constant" => (Op::Constant { value: one }, vec![], vec![3]),
        "cast" => (Op::Cast, vec![3], vec![3]),
        "reshape" => (Op::Reshape, vec![3], vec![3]),
        "transpose" => (Op::Transpose { perm: vec![1, 0] }, vec![2], vec![2]),
        "broadcast" => (Op::Broadcast { dims: vec![1] }, vec![1], vec![2]),
        "slice" => (Op::Slice { dim: 1, start: 0, len: 2 }, vec![2], vec![2]),
        "concat" => (Op::Concat { dim: 1 }, vec![2, 2], vec![2]),
        "reduce" => (Op::Reduce { kind: op::ReduceKind::Sum, dims: vec![1] }, vec![2], vec![1]),
        "einsum" => (Op::Einsum { spec: "bsh,kh->bsk".into() }, vec![3, 2], vec![3]),
        "embed" => (Op::Embed, vec![2, 2], vec![3]),
        "embed_grad" => (Op::EmbedGrad { vocab: 2 }, vec![2, 3], vec![2]),
        "rms_norm" => (Op::RmsNorm { eps: one }, vec![3, 1], vec![3]),
        "rms_norm_grad" => (Op::RmsNormGrad { eps: one }, vec![3, 1, 3], vec![3, 1]),
        "layer_norm" => (Op::LayerNorm { eps: one }, vec![3, 1, 1], vec![3]),
        "layer_norm_grad" => (Op::LayerNormGrad { eps: one }, vec![3, 1, 3], vec![3, 1, 1]),
        "rope_table" => (Op::RopeTable { inv_freq: vec![one; 2], scale: one }, vec![], vec![2, 2]),
        "rope" => (Op::Rope { interleaved: false, inverse: false }, vec![4, 2, 2], vec![4]),
        "attention" => (Op::Attention { scale: one, causal: true, alibi: false }, vec![4, 4, 4], vec![4, 3]),
        "attention_grad" => {
            let op = Op::AttentionGrad { scale: one, causal: true, alibi: false };
            (op, vec![4, 4, 4, 4, 3, 4], vec![4, 4, 4])
        }
        "attention_step" => (Op::AttentionStep { scale: one, alibi: false }, vec![4, 4, 4, 0, 4, 3], vec![4, 3]),
        "attention_step_grad" => {
            (Op::AttentionStepGrad { scale: one, alibi: false }, vec![4, 4, 4, 4, 3, 4, 0, 4], vec![4, 4, 4])
        }
        "cross_entropy" => (Op::CrossEntropy, vec![2, 1], vec![1, 1]),
        "cross_entropy_grad" => (Op::CrossEntropyGrad, vec![2, 1, 1, 1], vec![2]),
        "part_entropy" => (Op::PartEntropy, vec![2, 1], vec![1, 1]),
        "part_entropy_grad" => (Op::PartEntropyGrad, vec![2, 1, 1, 1], vec![2]),
        "route" => {
            let mask = op::RouteMask::Zero;
            (Op::Route { k: 1, groups: 1, group_k: 1, group_top: 1, mask }, vec![2, 1], vec![2])
        }
        "pick" => (Op::Pick, vec![2, 2], vec![2]),
        "pick_grad" => (Op::PickGrad { n: 2 }, vec![2, 2], vec![2]),
        "histogram" => (Op::Histogram { bins: 2 }, vec![2], vec![2]),
        "assign" => (Op::Assign { experts: 2, capacity: 0 }, vec![2], vec![2, 2]),
        "dispatch" => (Op::Dispatch { rows: 2 }, vec![2, 2, 2], vec![2]),
        "combine" => (Op::Combine, vec![2, 2, 2], vec![2]),
        "combine_dot" => (Op::CombineDot, vec![2, 2, 2], vec![2]),
        "grouped_einsum" => (Op::GroupedEinsum { spec: "rk,enk->rn".into() }, vec![2, 3, 2], vec![2]),
        "all_reduce" => collective(CollectiveKind::AllReduce { reduce: op::ReduceKind::Sum }),
        "all_gather" => collective(CollectiveKind::AllGather { dim: 0 }),
        "reduce_scatter" => collective(CollectiveKind::ReduceScatter { dim: 0 }),
        "all_to_all" => collective(CollectiveKind::AllToAll { cut: 0, join: 1 }),
        "sum_ends" => collective(CollectiveKind::SumEnds),
        "own_part" => collective(CollectiveKind::OwnPart { dim: 0 }),
        "own_ids" => collective(CollectiveKind::OwnIds { size: 2 }),
        "shift" => collective(CollectiveKind::Shift),
        "block_ids" => collective(CollectiveKind::BlockIds { size: 2, back: 1 }),
        "sum_squares" => (Op::SumSquares, vec![2, 1], vec![0]),
        "keep_slice" => (Op::KeepSlice { dim: 1 }, vec![2, 2, 0], vec![2]),
        "own_slice" => (Op::OwnSlice { dim: 1, len: 2 }, vec![2, 0], vec![2]),
        "sum_slices" => (Op::SumSlices { begin: 2 }, vec![2, 2, 0], vec![2]),
        "await" => (Op::Await, vec![2, 1], vec![2]),
        "rounds" => (Op::Rounds { capacity: 2 }, vec![3], vec![0]),
        "portion" => (Op::Portion { capacity: 2 }, vec![2, 3, 0], vec![2, 3]),
        "to_host" => (Op::ToHost, vec![2], vec![2]),
        "from_host" => (Op::FromHost, vec![2], vec![2]),
        "handover" => (Op::Handover { last: true }, vec![2], vec![2]),
        "adam_w" => {
            let op = Op::AdamW { beta1: one, beta2: one, eps: one, decay: one };
            (op, vec![2, 2, 2, 2, 0, 0, 0, 0], vec![2, 2, 2])
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_has_every_op_and_each_has_a_signature_but_calls() {
        let names: Vec<String> = docs().into_iter().map(|o| o.name).collect();
        assert!(names.len() > 40, "{names:?}");
        for op in docs() {
            assert!(!op.doc.is_empty() && op.attributes.iter().all(|(_, d)| !d.is_empty()), "{}", op.name);
            let calls = ["call", "repeat"].contains(&op.name.as_str());
            assert_eq!(letters(&op.name).is_none(), calls, "{}", op.name);
            if let Some((made, ..)) = sample(&op.name) {
                assert_eq!(made.name(), op.name);
            }
        }
    }

    #[test]
    fn a_page_has_shapes_signature_and_attributes() {
        let page = text("nn.rms_norm").unwrap();
        assert!(page.contains("rsqrt(mean(x²) + eps)") && page.contains("Signature") && page.contains("eps"), "{page}");
        let page = text("silu").unwrap();
        assert!(page.contains("x·sigmoid(x)"), "{page}");
        assert!(text("unary").is_none() && text("nothing").is_none());
    }
}
