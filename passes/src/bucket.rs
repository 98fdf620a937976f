//! `bucket`: small sums over ranks together, since each waits for the slowest rank and for the network once.

use crate::options::{Kind, Options, Spec};
use crate::pass::Pass;
use crate::registry::Entry;
use athanor_ir::pipeline::is_micro;
use athanor_ir::{Builder, Collective, CollectiveKind, DType, Func, Module, Node, Op, Result, ValueId};

/// Joins small `all_reduce`s of the optimizer's step that do not wait for one another: operands are laid one after the other and
/// summed at once.
///
/// Of a kind, axes and dtype. Large ones stay apart: they take as long as their bytes do, and would have to be copied. Every
/// element is the same sum in the same order, so that no bit changes. Functions of micro-batches stay as they are.
#[derive(Debug)]
pub struct Bucket {
    /// Operands of at most so many bytes are joined.
    pub most: usize,
    /// Bytes of all operands that are joined.
    pub bytes: usize,
}

/// The row of `bucket` in the registry.
pub const ENTRY: Entry = Entry {
    name: "bucket",
    summary: "Joins small sums over ranks in the optimizer's step.",
    options: &[
        Spec { name: "most", kind: Kind::Int, default: "262144", doc: "Bytes of the largest operand that is joined." },
        Spec { name: "bytes", kind: Kind::Int, default: "16777216", doc: "Bytes of all operands that are joined." },
    ],
    build: |options: &Options| {
        let bytes = |name| usize::try_from(options.int(name)).unwrap_or(usize::MAX);
        Ok(Box::new(Bucket { most: bytes("most"), bytes: bytes("bytes") }))
    },
};

impl Pass for Bucket {
    fn name(&self) -> &'static str {
        ENTRY.name
    }

    fn summary(&self) -> &'static str {
        ENTRY.summary
    }

    fn run(&self, module: &Module) -> Result<Module> {
        let joined = |f: &Func| if is_micro(&f.name).is_some() { f.clone() } else { self.joined(f) };
        Ok(Module { funcs: module.funcs.iter().map(joined).collect(), ..module.clone() })
    }
}

/// Nodes that become one, in their order.
struct Group<'a> {
    kind: &'a Collective,
    dtype: DType,
    nodes: Vec<usize>,
    bytes: usize,
}

impl Bucket {
    /// `func` with its groups in the places of their first nodes.
    fn joined(&self, func: &Func) -> Func {
        let groups = self.groups(func);
        if groups.is_empty() {
            return func.clone();
        }
        let mut out = Func { nodes: vec![], ..func.clone() };
        for (i, node) in func.nodes.iter().enumerate() {
            match groups.iter().find(|g| g.nodes.contains(&i)) {
                Some(group) if group.nodes[0] == i => join(func, group, &mut out),
                Some(_) => {}
                None => out.nodes.push(node.clone()),
            }
        }
        out
    }

    /// Groups of at least two nodes: the operands of all are there before the first.
    fn groups<'a>(&self, func: &'a Func) -> Vec<Group<'a>> {
        let defs = func.defs();
        let mut all: Vec<Group<'a>> = vec![];
        for (i, node) in func.nodes.iter().enumerate() {
            let Op::Collective(kind @ Collective { kind: CollectiveKind::AllReduce { .. }, .. }) = &node.op else {
                continue;
            };
            let (x, ty) = (node.inputs[0], func.ty(node.inputs[0]));
            if ty.bytes() > self.most {
                continue;
            }
            // The last one of its kind is the one that is open.
            let open = all.iter_mut().rev().find(|g| g.kind == kind && g.dtype == ty.dtype);
            let there = |g: &Group<'_>| defs[x.0 as usize].is_none_or(|d| d < g.nodes[0]);
            match open.filter(|g| there(g) && g.bytes.saturating_add(ty.bytes()) <= self.bytes) {
                Some(group) => {
                    group.nodes.push(i);
                    group.bytes += ty.bytes();
                }
                None => all.push(Group { kind, dtype: ty.dtype, nodes: vec![i], bytes: ty.bytes() }),
            }
        }
        all.retain(|g| g.nodes.len() > 1);
        all
    }
}

/// Appends the sum of all operands of `group` to `out`, and from it the results of its nodes.
fn join(func: &Func, group: &Group<'_>, out: &mut Func) {
    let members = || group.nodes.iter().map(|i| &func.nodes[*i]);
    let first = &func.nodes[group.nodes[0]];
    let mut b = Builder::new(out, first.loc.clone());
    let rows: Vec<ValueId> = members().map(|n| b.reshape(n.inputs[0], &[func.ty(n.inputs[0]).elements()])).collect();
    let all = b.many(Op::Concat { dim: 0 }, &rows)[0];
    let sum = b.many(Op::Collective(group.kind.clone()), &[all])[0];
    let mut start = 0;
    for node in members() {
        let mut b = Builder::new(out, node.loc.clone());
        let len = func.ty(node.outputs[0]).elements();
        let part = b.slice(sum, 0, start, len);
        start += len;
        // The old value, which others read.
        out.nodes.push(Node {
            op: Op::Reshape,
            inputs: vec![part],
            outputs: node.outputs.clone(),
            loc: node.loc.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use athanor_ir::{Loc, ReduceKind, Role, TensorType};

    fn sum(func: &mut Func, x: ValueId, axes: &str) -> ValueId {
        let kind = CollectiveKind::AllReduce { reduce: ReduceKind::Sum };
        let op = Op::Collective(Collective { kind, axes: axes.into(), ranks: 2 });
        Builder::new(func, Loc::default()).many(op, &[x])[0]
    }

    /// A step that sums gradients of `sizes` elements, each over its axes.
    fn step(sizes: &[(usize, &str)]) -> Func {
        let mut func = Func::new("update");
        let params: Vec<ValueId> = (0..sizes.len())
            .map(|i| {
                func.param(format!("grad.{i}"), TensorType::new(DType::F32, [sizes[i].0]), Role::Grad, Loc::default())
            })
            .collect();
        for (i, (x, (_, axes))) in params.iter().zip(sizes).enumerate() {
            let whole = sum(&mut func, *x, axes);
            func.result(format!("grad.{i}"), whole);
        }
        func
    }

    /// Elements of each collective.
    fn summed(func: &Func) -> Vec<usize> {
        let nodes = func.nodes.iter().filter(|n| matches!(n.op, Op::Collective(_)));
        nodes.map(|n| func.ty(n.inputs[0]).elements()).collect()
    }

    const PASS: Bucket = Bucket { most: 64, bytes: 128 };

    #[test]
    fn small_sums_of_one_kind_go_together_and_the_others_stay() {
        let func = step(&[(3, "dp"), (17, "dp"), (5, "dp"), (2, "tp"), (8, "dp")]);
        let joined = PASS.joined(&func);
        assert_eq!(summed(&joined), [16, 17, 2]);
        assert_eq!(joined.results, func.results);
        // Results keep their places and types.
        let defs = joined.defs();
        assert!(func.results.iter().all(|r| defs[r.value.0 as usize].is_some()));
    }

    #[test]
    fn a_bucket_that_is_full_is_followed_by_another() {
        assert_eq!(summed(&PASS.joined(&step(&[(16, "dp"), (16, "dp"), (16, "dp"), (4, "dp")]))), [32, 20]);
    }

    #[test]
    fn a_sum_that_waits_for_one_of_the_bucket_is_not_in_it() {
        let mut func = step(&[(4, "dp"), (4, "dp")]);
        let first = func.results[0].value;
        let double = Builder::new(&mut func, Loc::default()).add(first, first);
        let again = sum(&mut func, double, "dp");
        func.result("again", again);
        assert_eq!(summed(&PASS.joined(&func)), [8, 4]);
    }
}
