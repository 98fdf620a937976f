//! A small model on a mesh: what is cut, where ranks add up, and that the check finds every sum that is missing or too many.

mod context;
mod exchange;
mod experts;
mod ring;
mod sequence;
mod shared;
mod vocabulary;

use super::*;
use crate::registry;
use athanor_ir::module::Axis;
use athanor_ir::run::RunSpec;
use athanor_ir::{
    Builder, DType, Func, Init, Level, Loc, Mesh, Node, Op, ReduceKind, Role, TensorType, Unary, ValueId,
};

fn mesh(axes: &[(&str, usize)]) -> Mesh {
    Mesh { axes: axes.iter().map(|(name, size)| Axis { name: (*name).into(), size: *size }).collect() }
}

/// The loss Σ (x + down(silu(up(norm(x)))))² of x `[batch, 8]`, with an inner width of `inner`.
fn module(mesh: Mesh, batch: usize, inner: usize, accumulation: usize) -> Module {
    let run = RunSpec { max_grad_norm: Some(1.0), accumulation, ..RunSpec::for_tests() };
    module_of_run(mesh, batch, inner, run)
}

fn module_of_run(mesh: Mesh, batch: usize, inner: usize, run: RunSpec) -> Module {
    let mut f = Func::new("forward");
    let f32s = |dims: &[usize]| TensorType::new(DType::F32, dims);
    let weight = || Role::Weight { init: Init::Normal { std: 0.02 }, decay: true };
    let x = f.param("x", f32s(&[batch, 8]), Role::Input, Loc::default());
    let [gain, up, down] = [("gain", &[8][..]), ("up", &[inner, 8]), ("down", &[8, inner])]
        .map(|(name, dims)| f.param(name, f32s(dims), weight(), Loc::default()));
    let mut b = Builder::new(&mut f, Loc::default());
    let y = b.many(Op::RmsNorm { eps: athanor_ir::F64(1e-5) }, &[x, gain])[0];
    let y = b.einsum("bh,kh->bk", y, up);
    let y = b.unary(Unary::Silu, y);
    let y = b.einsum("bk,hk->bh", y, down);
    let y = b.add(x, y);
    let y = b.unary(Unary::Square, y);
    let loss = b.reduce(ReduceKind::Sum, y, &[0, 1]);
    f.result("loss", loss);
    let module = Module { name: "small".into(), level: Level::Model, mesh, run, funcs: vec![f] };
    registry::build("autodiff,optimizer").unwrap().iter().fold(module, |m, p| p.run(&m).unwrap())
}

fn cut(axes: &[(&str, usize)], accumulation: usize) -> Module {
    let cut = partition(&module(mesh(axes), 4, 6, accumulation)).unwrap_or_else(|e| panic!("{e}"));
    athanor_ir::verify::verify(&cut).unwrap_or_else(|e| panic!("{e}"));
    cut
}

/// Axes and sizes of the sums over ranks in function `name`.
fn sums(m: &Module, name: &str) -> Vec<(String, Vec<usize>)> {
    let f = m.func(name).unwrap();
    let sum = |n: &Node| match &n.op {
        Op::Collective(c) => Some((c.axes.clone(), f.ty(n.outputs[0]).dims.clone())),
        _ => None,
    };
    f.nodes.iter().filter_map(sum).collect()
}

fn spread(m: &Module, func: &str, param: &str) -> (Vec<usize>, String) {
    let f = m.func(func).unwrap();
    let p = f.find_param(param).unwrap_or_else(|| panic!("{param}"));
    let cut: Vec<String> = p.sharding.dims.iter().map(|d| d.join(",")).collect();
    (f.ty(p.value).dims.clone(), format!("[{}] {}", cut.join(" "), p.sharding.partial.join(",")))
}

fn named(axes: &str, dims: &[usize]) -> (String, Vec<usize>) {
    (axes.to_owned(), dims.to_vec())
}

#[test]
fn inner_widths_are_cut_by_columns_and_rows() {
    let m = cut(&[("tp", 2)], 1);
    assert_eq!(spread(&m, "micro", "up"), (vec![3, 8], "[tp ] ".into()));
    assert_eq!(spread(&m, "micro", "down"), (vec![8, 3], "[ tp] ".into()));
    assert_eq!(spread(&m, "micro", "gain"), (vec![8], "[] ".into()));
    assert_eq!(spread(&m, "update", "adam_m.up"), (vec![3, 8], "[tp ] ".into()));
    // One sum forward, behind the product that sums over the inner width, and one backward, before the norm.
    assert_eq!(sums(&m, "micro"), [named("tp", &[4, 8]), named("tp", &[4, 8])]);
    // The squares of what is cut are added up; those of the gain are on every rank.
    assert_eq!(sums(&m, "update"), [named("tp", &[])]);
}

#[test]
fn replicas_add_up_gradients_once_in_a_step() {
    let m = cut(&[("dp", 2)], 3);
    assert_eq!(spread(&m, "micro", "x"), (vec![2, 8], "[dp ] ".into()));
    assert_eq!(spread(&m, "micro", "grad.up"), (vec![6, 8], "[] dp".into()));
    assert_eq!(spread(&m, "update", "grad.up"), (vec![6, 8], "[] dp".into()));
    assert_eq!(sums(&m, "micro"), [named("dp", &[])], "the loss alone");
    assert_eq!(sums(&m, "update"), [named("dp", &[8]), named("dp", &[6, 8]), named("dp", &[8, 6])]);
    // Sums take the place of what they are the sum of.
    assert!(
        ["gain", "up", "down"].iter().all(|w| m.func("update").unwrap().find_result(&format!("grad.{w}")).is_some())
    );
}

#[test]
fn one_rank_is_left_alone() {
    let m = module(Mesh::default(), 4, 6, 1);
    assert_eq!(partition(&m).unwrap(), m);
}

#[test]
fn what_cannot_be_cut_is_refused() {
    let refused = |axes: &[(&str, usize)], says: &str| {
        let e = partition(&module(mesh(axes), 4, 6, 1)).unwrap_err();
        assert!(e.code == &CANNOT_CUT && e.message.contains(says), "{e}");
    };
    refused(&[("dp", 3)], "the batch of x cannot be cut in 3");
    refused(&[("tp", 4)], "axis tp of 4 has nothing to cut");
    refused(&[("xp", 2)], "axis \"xp\"");
    let twice = partition(&cut(&[("dp", 2)], 1)).unwrap_err();
    assert!(twice.message.contains("spread over the mesh already"), "{twice}");
}

/// The module with the collective operation `index` of function `f` changed.
fn mutated(m: &Module, f: usize, index: usize, change: impl Fn(&mut Func, usize)) -> Module {
    let mut m = m.clone();
    change(&mut m.funcs[f], index);
    m
}

/// Everybody who reads the result of node `n` reads its operand instead.
fn bypass(f: &mut Func, n: usize) {
    let (from, to) = (f.nodes[n].outputs[0], f.nodes[n].inputs[0]);
    let rename = |v: &mut ValueId| {
        if *v == from {
            *v = to;
        }
    };
    f.nodes.iter_mut().flat_map(|n| &mut n.inputs).for_each(rename);
    f.results.iter_mut().map(|r| &mut r.value).for_each(rename);
}

/// The sum of node `n` is summed again.
fn repeat(f: &mut Func, n: usize) {
    let first = f.nodes[n].outputs[0];
    let twice = f.new_value(f.ty(first).clone());
    let later = f.nodes[n + 1..].iter_mut().flat_map(|n| &mut n.inputs);
    later.chain(f.results.iter_mut().map(|r| &mut r.value)).filter(|v| **v == first).for_each(|v| *v = twice);
    let again = Node { inputs: vec![first], outputs: vec![twice], ..f.nodes[n].clone() };
    f.nodes.insert(n + 1, again);
}

/// What is done to a sum, and how.
type Mutation = (&'static str, fn(&mut Func, usize));

fn over_another_axis(f: &mut Func, n: usize) {
    if let Op::Collective(c) = &mut f.nodes[n].op {
        c.axes = if c.axes == "tp" { "dp" } else { "tp" }.into();
    }
}

#[test]
fn every_sum_is_needed_and_none_may_be_taken_twice() {
    for accumulation in [1, 2] {
        let m = cut(&[("dp", 2), ("tp", 2)], accumulation);
        let mut changed = 0;
        for (f, func) in m.funcs.iter().enumerate() {
            for n in (0..func.nodes.len()).filter(|n| matches!(func.nodes[*n].op, Op::Collective(_))) {
                let ways: [Mutation; 3] =
                    [("left out", bypass), ("twice", repeat), ("over another axis", over_another_axis)];
                for (what, change) in ways {
                    let e = check(&mutated(&m, f, n, change));
                    assert!(e.is_err_and(|e| e.code == &PARTIAL), "sum {n} of @{} {what}", func.name);
                    changed += 1;
                }
            }
        }
        assert!(changed >= 3 * 7, "{changed}");
    }
}

#[test]
fn functions_hand_gradients_on_as_the_next_one_takes_them() {
    let m = cut(&[("dp", 2)], 2);
    let mut other = m.clone();
    let p = other.funcs[1].params.iter_mut().find(|p| p.name == "grad.up").unwrap();
    p.sharding.partial.clear();
    assert!(check(&other).is_err_and(|e| e.message.contains("grad.up")));
    let mut weight = m.clone();
    weight.funcs[0].params.iter_mut().find(|p| p.name == "up").unwrap().sharding.partial.push("dp".into());
    assert!(check(&weight).is_err_and(|e| e.message.contains("no gradient")));
}
