//! Rewrites that pick the form a kernel has: conversions move into the products and losses that can do them for free.

use crate::egraph::{ENode, Graph, Head, Rule, Term, find, ty};
use athanor_ir::{Binary, DType, F64, Op, TensorType};
use egg::Id;

/// The rules of the CPU backend.
pub(super) const RULES: &[Rule] = &[
    Rule { name: "product-to-f32", apply: product_to_f32 },
    Rule { name: "loss-of-narrow-logits", apply: loss_of_narrow },
    Rule { name: "narrow-loss-gradient", apply: narrow_gradient },
    Rule { name: "join-parts", apply: join_parts },
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

/// A part of a concatenation that is not all zeros: first index, length and class.
type Span = (usize, usize, Id);

/// The parts of `class` along the dim that it is a concatenation along, without those that are zeros.
fn parts(graph: &Graph, class: Id) -> Option<(usize, Vec<Span>)> {
    let zeros = |x: Id| find(graph, x, |op, _| (*op == Op::Constant { value: F64(0.0) }).then_some(())).is_some();
    find(graph, class, |op, c| {
        let Op::Concat { dim } = op else { return None };
        let mut spans = vec![];
        let mut at = 0;
        for x in c {
            let length = ty(graph, *x)?.dims[*dim];
            if !zeros(*x) {
                spans.push((at, length, *x));
            }
            at += length;
        }
        // Without zeros there is nothing to win.
        (spans.len() < c.len()).then_some((*dim, spans))
    })
}

/// A sum of concatenations with zeros, each of which has what the other has not, is one concatenation: the gradient of a
/// value that was sliced.
fn join_parts(graph: &Graph, node: &ENode) -> Vec<Term> {
    let Head::Op(Op::Binary(Binary::Add), types) = &node.head else { return vec![] };
    let own = TensorType::new(types[0].0, types[0].1.clone());
    let (Some((dim, a)), Some((other, b))) = (parts(graph, node.children[0]), parts(graph, node.children[1])) else {
        return vec![];
    };
    let mut spans: Vec<Span> = a.into_iter().chain(b).collect();
    spans.sort_unstable_by_key(|(start, ..)| *start);
    if dim != other || spans.windows(2).any(|w| w[0].0 + w[0].1 > w[1].0) {
        return vec![];
    }
    let zeros = |length: usize| {
        let mut ty = own.clone();
        ty.dims[dim] = length;
        Term::Op(Op::Constant { value: F64(0.0) }, ty, vec![])
    };
    let mut terms = vec![];
    let mut at = 0;
    for (start, length, class) in spans {
        if start > at {
            terms.push(zeros(start - at));
        }
        terms.push(Term::Class(class));
        at = start + length;
    }
    let rest = own.dims[dim] - at;
    if rest > 0 {
        terms.push(zeros(rest));
    }
    vec![Term::Op(Op::Concat { dim }, own, terms)]
}
