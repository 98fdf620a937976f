//! `simplify`: algebra, constant folding and common subexpressions by equality saturation.

use crate::egraph::{ENode, Graph, Head, Rule, Term, find, rewrite, ty};
use crate::options::Options;
use crate::pass::Pass;
use crate::registry::Entry;
use athanor_ir::signature::parse_einsum;
use athanor_ir::{Binary, DType, F64, Module, Op, Result, TensorType, Unary};
use egg::Id;

/// Algebra, constant folding and common subexpressions by equality saturation.
///
/// The rules keep values exactly, or to the last bit where a composite (silu) replaces its definition. Each is a function
/// in this file; the cheapest form by elements touched is kept.
#[derive(Debug, Default)]
pub struct Simplify;

/// The row of `simplify` in the registry.
pub const ENTRY: Entry = Entry {
    name: "simplify",
    summary: "Algebra, constant folding and common subexpressions by equality saturation.",
    options: &[],
    build: |_: &Options| Ok(Box::new(Simplify)),
};

impl Pass for Simplify {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn summary(&self) -> &'static str {
        ENTRY.summary
    }

    fn run(&self, module: &Module) -> Result<Module> {
        let funcs = module.funcs.iter().map(|f| rewrite(f, RULES, cost)).collect();
        Ok(Module { funcs, ..module.clone() })
    }
}

/// Elements read and written, in millions, and work per element; a view is almost free.
fn cost(op: &Op, ins: &[TensorType], outs: &[TensorType]) -> f64 {
    let elements: usize = ins.iter().chain(outs).map(TensorType::elements).sum();
    let weight = match op {
        Op::Constant { .. } => return 1e-3,
        Op::Reshape => return 2e-3,
        Op::Broadcast { .. } => 0.1,
        Op::Unary(Unary::Neg | Unary::Square) | Op::Binary(_) | Op::Cast => 1.0,
        Op::Unary(Unary::Silu | Unary::SiluGrad | Unary::Gelu | Unary::GeluGrad) => 4.0,
        Op::Unary(_) => 3.0,
        _ => 1.0,
    };
    0.01 + weight * elements as f64 * 1e-3 + op.flops(ins, outs) as f64 * 1e-6
}

const RULES: &[Rule] = &[
    Rule { name: "neutral-element", apply: neutral },
    Rule { name: "fold-constants", apply: fold },
    Rule { name: "nested-views", apply: nested },
    Rule { name: "double-inverse", apply: double_inverse },
    Rule { name: "silu", apply: silu },
    Rule { name: "square", apply: square },
    Rule { name: "subtract", apply: subtract },
    Rule { name: "commute", apply: commute },
    Rule { name: "transpose-into-einsum", apply: transpose_into_einsum },
];

fn op(node: &ENode) -> Option<&Op> {
    if let Head::Op(op, types) = &node.head { (types.len() == 1).then_some(op) } else { None }
}

fn own_type(node: &ENode) -> Option<TensorType> {
    if let Head::Op(_, types) = &node.head {
        types.first().map(|(d, dims)| TensorType::new(*d, dims.clone()))
    } else {
        None
    }
}

/// The value that every element of `class` has.
fn constant(graph: &Graph, class: Id) -> Option<f64> {
    find(graph, class, |op, _| if let Op::Constant { value } = op { Some(value.0) } else { None })
}

fn splat(value: f64, ty: TensorType) -> Term {
    Term::Op(Op::Constant { value: F64(value) }, ty, vec![])
}

/// x+0, x−0, x·1, x/1 are x.
fn neutral(graph: &Graph, node: &ENode) -> Vec<Term> {
    let Some(Op::Binary(f)) = op(node) else { return vec![] };
    let [a, b] = node.children[..] else { return vec![] };
    let is = |class: Id, value: f64| constant(graph, class) == Some(value);
    let kept = match f {
        Binary::Add if is(b, 0.0) => a,
        Binary::Add if is(a, 0.0) => b,
        Binary::Sub if is(b, 0.0) => a,
        Binary::Mul if is(b, 1.0) => a,
        Binary::Mul if is(a, 1.0) => b,
        Binary::Div if is(b, 1.0) => a,
        _ => return vec![],
    };
    vec![Term::Class(kept)]
}

/// Whether `dtype` holds `value` exactly, as far as is easily told: binary16 is taken to hold nothing.
fn holds(dtype: DType, value: f64) -> bool {
    let as_f32 = value as f32;
    match dtype {
        DType::F64 => true,
        DType::F32 => f64::from(as_f32) == value,
        DType::BF16 => f64::from(as_f32) == value && as_f32.to_bits().trailing_zeros() >= 16,
        DType::F16 => false,
        DType::I32 => f64::from(value as i32) == value,
    }
}

/// Functions of constants, and constants under other dims. Only values that their types hold exactly are folded, to
/// values that f32 holds exactly, so that a folded constant is what the op would have given.
fn fold(graph: &Graph, node: &ENode) -> Vec<Term> {
    let (Some(op), Some(ty)) = (op(node), own_type(node)) else { return vec![] };
    let stored =
        |c: &Id| constant(graph, *c).filter(|v| crate::egraph::ty(graph, *c).is_some_and(|t| holds(t.dtype, *v)));
    let args: Option<Vec<f64>> = node.children.iter().map(stored).collect();
    let Some(args) = args else { return vec![] };
    let value = match (op, &args[..]) {
        (Op::Unary(f), [x]) => f.eval(*x),
        (Op::Binary(f), [a, b]) => f.eval(*a, *b),
        (Op::Cast | Op::Reshape | Op::Broadcast { .. } | Op::Transpose { .. } | Op::Slice { .. }, [x]) => *x,
        _ => return vec![],
    };
    let exact = holds(DType::F32, value) && holds(ty.dtype, value) && ty.dtype.bytes() >= 4;
    if exact && value.is_finite() { vec![splat(value, ty)] } else { vec![] }
}

/// A view of a view is one view; a view that changes nothing is its operand; a cast to a wider type and back is nothing.
fn nested(graph: &Graph, node: &ENode) -> Vec<Term> {
    let (Some(outer), Some(own)) = (op(node), own_type(node)) else { return vec![] };
    let [x] = node.children[..] else { return vec![] };
    let Some(from) = ty(graph, x) else { return vec![] };
    let trivial = match outer {
        Op::Reshape | Op::Cast | Op::Broadcast { .. } => *from == own,
        Op::Transpose { perm } => perm.iter().copied().eq(0..perm.len()),
        _ => false,
    };
    if trivial {
        return vec![Term::Class(x)];
    }
    let inner = find(graph, x, |op, children| {
        let y = *children.first()?;
        match (outer, op) {
            (Op::Reshape, Op::Reshape) => Some((Op::Reshape, y)),
            (Op::Transpose { perm: outer }, Op::Transpose { perm: inner }) => {
                Some((Op::Transpose { perm: outer.iter().map(|p| inner[*p]).collect() }, y))
            }
            (Op::Broadcast { dims: outer }, Op::Broadcast { dims: inner }) => {
                Some((Op::Broadcast { dims: inner.iter().map(|d| outer[*d]).collect() }, y))
            }
            (Op::Cast, Op::Cast) => {
                let (start, middle) = (ty(graph, y)?.dtype, from.dtype);
                // Nothing is lost in the middle if it holds every value of the start.
                let wider = start.is_float() && middle.is_float() && middle.bytes() > start.bytes();
                wider.then_some((Op::Cast, y))
            }
            _ => None,
        }
    });
    match inner {
        Some((Op::Cast, y)) if ty(graph, y) == Some(&own) => vec![Term::Class(y)],
        Some((op, y)) => vec![Term::Op(op, own, vec![Term::Class(y)])],
        None => vec![],
    }
}

/// −(−x), 1/(1/x).
fn double_inverse(graph: &Graph, node: &ENode) -> Vec<Term> {
    let Some(Op::Unary(f @ (Unary::Neg | Unary::Recip))) = op(node) else { return vec![] };
    let inner = find(graph, node.children[0], |op, c| (*op == Op::Unary(*f)).then(|| c[0]));
    // 1/(1/x) rounds twice; only the sign change is exact.
    if *f == Unary::Neg { inner.map(Term::Class).into_iter().collect() } else { vec![] }
}

/// x·sigmoid(x) is silu(x).
fn silu(graph: &Graph, node: &ENode) -> Vec<Term> {
    let (Some(Op::Binary(Binary::Mul)), Some(ty)) = (op(node), own_type(node)) else { return vec![] };
    let [a, b] = node.children[..] else { return vec![] };
    let sigmoid_of = |class: Id| find(graph, class, |op, c| (*op == Op::Unary(Unary::Sigmoid)).then(|| c[0]));
    let hit = |x: Id, s: Id| sigmoid_of(s).is_some_and(|y| graph.find(y) == graph.find(x));
    let x = if hit(a, b) {
        a
    } else if hit(b, a) {
        b
    } else {
        return vec![];
    };
    vec![Term::Op(Op::Unary(Unary::Silu), ty, vec![Term::Class(x)])]
}

/// x·x is x².
fn square(graph: &Graph, node: &ENode) -> Vec<Term> {
    let (Some(Op::Binary(Binary::Mul)), Some(ty)) = (op(node), own_type(node)) else { return vec![] };
    let [a, b] = node.children[..] else { return vec![] };
    if graph.find(a) == graph.find(b) {
        vec![Term::Op(Op::Unary(Unary::Square), ty, vec![Term::Class(a)])]
    } else {
        vec![]
    }
}

/// a + (−b) is a − b.
fn subtract(graph: &Graph, node: &ENode) -> Vec<Term> {
    let (Some(Op::Binary(Binary::Add)), Some(ty)) = (op(node), own_type(node)) else { return vec![] };
    let [a, b] = node.children[..] else { return vec![] };
    let negated = |class: Id| find(graph, class, |op, c| (*op == Op::Unary(Unary::Neg)).then(|| c[0]));
    let minus = |x: Id, y: Id| Term::Op(Op::Binary(Binary::Sub), ty.clone(), vec![Term::Class(x), Term::Class(y)]);
    match (negated(a), negated(b)) {
        (_, Some(y)) => vec![minus(a, y)],
        (Some(x), None) => vec![minus(b, x)],
        _ => vec![],
    }
}

/// a+b is b+a, a·b is b·a: sums and products of the same operands are one.
fn commute(graph: &Graph, node: &ENode) -> Vec<Term> {
    let (Some(Op::Binary(f @ (Binary::Add | Binary::Mul | Binary::Max | Binary::Min))), Some(ty)) =
        (op(node), own_type(node))
    else {
        return vec![];
    };
    let [a, b] = node.children[..] else { return vec![] };
    let (a, b) = (graph.find(a), graph.find(b));
    // Only when the turned form is there already; it would double the graph otherwise.
    let turned = ENode { head: Head::Op(Op::Binary(*f), vec![(ty.dtype, ty.dims.clone())]), children: vec![b, a] };
    graph.lookup(turned).map(Term::Class).into_iter().collect()
}

/// A product of a transposed operand is a product of the operand under other labels.
fn transpose_into_einsum(graph: &Graph, node: &ENode) -> Vec<Term> {
    let (Some(Op::Einsum { spec }), Some(own)) = (op(node), own_type(node)) else { return vec![] };
    let Ok(labels) = parse_einsum(spec) else { return vec![] };
    let mut terms = vec![];
    for side in 0..2 {
        let hit = find(graph, node.children[side], |op, c| match op {
            Op::Transpose { perm } => Some((perm.clone(), c[0])),
            _ => None,
        });
        let Some((perm, x)) = hit else { continue };
        // Result dim i of the transpose is operand dim perm[i].
        let mut sides = [labels[0].clone(), labels[1].clone()];
        for (i, p) in perm.iter().enumerate() {
            sides[side][*p] = labels[side][i];
        }
        let text = |l: &[char]| l.iter().collect::<String>();
        let spec = format!("{},{}->{}", text(&sides[0]), text(&sides[1]), text(&labels[2]));
        let mut args: Vec<Term> = node.children.iter().map(|c| Term::Class(*c)).collect();
        args[side] = Term::Class(x);
        terms.push(Term::Op(Op::Einsum { spec }, own.clone(), args));
    }
    terms
}

#[cfg(test)]
mod tests {
    use super::*;
    use athanor_ir::{Builder, DType, Func, Loc, Role, ValueId};

    /// `make` simplified: names of the ops that are left.
    fn ops(make: impl Fn(&mut Builder<'_>, ValueId) -> Vec<ValueId>) -> Vec<&'static str> {
        let mut func = Func::new("f");
        let x = func.param("x", TensorType::new(DType::F32, [4, 8]), Role::Input, Loc::default());
        let results = make(&mut Builder::new(&mut func, Loc::default()), x);
        results.iter().enumerate().for_each(|(i, v)| func.result(format!("r{i}"), *v));
        rewrite(&func, RULES, cost).nodes.iter().map(|n| n.op.name()).collect()
    }

    /// The product and its negation are each read twice and are each a function of the other.
    #[test]
    fn values_that_are_functions_of_each_other_do_not_close_a_ring() {
        let found = ops(|b, x| {
            let product = b.einsum("ab,cb->ac", x, x);
            let minus = b.unary(Unary::Neg, product);
            let back = b.unary(Unary::Neg, minus);
            [back, minus].into_iter().flat_map(|v| [Unary::Tanh, Unary::Exp].map(|f| b.unary(f, v))).collect()
        });
        assert_eq!(found, ["einsum", "tanh", "exp", "neg", "tanh", "exp"]);
    }

    #[test]
    fn there_and_back_is_nothing() {
        let found = ops(|b, x| {
            let y = b.unary(Unary::Tanh, x);
            let flat = b.reshape(y, &[32]);
            let same = b.reshape(flat, &[4, 8]);
            let turned = b.many(Op::Transpose { perm: vec![1, 0] }, &[y])[0];
            let again = b.many(Op::Transpose { perm: vec![1, 0] }, &[turned])[0];
            let reads = [same, flat, turned, again].map(|v| [b.unary(Unary::Exp, v), b.unary(Unary::Sqrt, v)]);
            reads.concat()
        });
        assert_eq!(found.iter().filter(|n| **n == "tanh").count(), 1);
        assert_eq!(found.iter().filter(|n| matches!(**n, "reshape" | "transpose")).count(), 2, "{found:?}");
        assert_eq!(found.len(), 1 + 2 + 6, "{found:?}");
    }

    /// 257 is 256 in bf16: what is folded is the value that is stored.
    #[test]
    fn constants_are_folded_as_they_are_stored() {
        let mut func = Func::new("f");
        let narrow = TensorType::new(DType::BF16, [4]);
        let mut b = Builder::new(&mut func, Loc::default());
        let k = b.constant(257.0, narrow.clone());
        let exact = b.constant(256.0, narrow);
        let wide = [k, exact].map(|k| b.cast(k, DType::F32));
        wide.iter().enumerate().for_each(|(i, v)| func.result(format!("r{i}"), *v));
        let out = rewrite(&func, RULES, cost);
        let constants: Vec<_> = out
            .nodes
            .iter()
            .filter_map(|n| match n.op {
                Op::Constant { value } => Some((value.0, out.ty(n.outputs[0]).dtype)),
                _ => None,
            })
            .collect();
        assert_eq!(constants, [(257.0, DType::BF16), (256.0, DType::F32)]);
    }
}
