//! Rewrites that pick the form a kernel has: conversions move into the products and losses that can do them for free.

use crate::egraph::{ENode, Graph, Head, Rule, Term, find, ty};
use athanor_ir::{DType, Op, TensorType};
use egg::Id;

/// The rules of the CPU backend.
pub(super) const RULES: &[Rule] = &[
    Rule { name: "product-to-f32", apply: product_to_f32 },
    Rule { name: "loss-of-narrow-logits", apply: loss_of_narrow },
    Rule { name: "narrow-loss-gradient", apply: narrow_gradient },
];

/// Bytes moved and operations, in the proportion of a core's bandwidth and its arithmetic.
pub(super) fn cost(op: &Op, ins: &[TensorType], outs: &[TensorType]) -> f64 {
    op.bytes(ins, outs) as f64 * 1e-6 + op.flops(ins, outs) as f64 * 1e-8
}

/// The bf16 or f16 value that a cast to f32 of class `x` widens.
fn widened(graph: &Graph, x: Id) -> Option<Id> {
    find(graph, x, |op, c| (*op == Op::Cast && ty(graph, c[0]).is_some_and(|t| narrow(t.dtype))).then(|| c[0]))
}

fn narrow(dtype: DType) -> bool {
    matches!(dtype, DType::BF16 | DType::F16)
}

fn cast_to(node: &ENode, dtype: DType) -> Option<(Id, TensorType)> {
    match &node.head {
        Head::Op(Op::Cast, types) if types[0].0 == dtype => {
            Some((node.children[0], TensorType::new(dtype, types[0].1.clone())))
        }
        _ => None,
    }
}

/// A bf16 or f16 product widened to f32 is kept in f32, which is how it was accumulated.
fn product_to_f32(graph: &Graph, node: &ENode) -> Vec<Term> {
    let Some((x, own)) = cast_to(node, DType::F32) else { return vec![] };
    let product =
        find(graph, x, |op, c| (matches!(op, Op::Einsum { .. }) && c.len() == 2).then(|| (op.clone(), c.to_vec())));
    let Some((op, c)) = product else { return vec![] };
    if ty(graph, c[0]).is_none_or(|t| !narrow(t.dtype)) {
        return vec![];
    }
    vec![Term::Op(op, own, c.into_iter().map(Term::Class).collect())]
}

/// The loss widens each logit itself.
fn loss_of_narrow(graph: &Graph, node: &ENode) -> Vec<Term> {
    let Head::Result(i) = node.head else { return vec![] };
    let tuple = node.children[0];
    let logits = find(graph, tuple, |op, c| (*op == Op::CrossEntropy).then(|| (c[0], c[1])));
    let Some((logits, labels)) = logits else { return vec![] };
    let Some(narrow) = widened(graph, logits) else { return vec![] };
    let types = graph[tuple].data.clone();
    vec![Term::Part(i, Op::CrossEntropy, types, vec![Term::Class(narrow), Term::Class(labels)])]
}

/// The gradient of the loss rounds each logit's gradient itself.
fn narrow_gradient(graph: &Graph, node: &ENode) -> Vec<Term> {
    let Some((x, own)) = [DType::BF16, DType::F16].into_iter().find_map(|d| cast_to(node, d)) else { return vec![] };
    let grad = find(graph, x, |op, c| (*op == Op::CrossEntropyGrad).then(|| c.to_vec()));
    let Some(mut args) = grad else { return vec![] };
    let Some(narrow) = widened(graph, args[0]) else { return vec![] };
    args[0] = narrow;
    vec![Term::Op(Op::CrossEntropyGrad, own, args.into_iter().map(Term::Class).collect())]
}
