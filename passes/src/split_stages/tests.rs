//! A small model of layers on pipelines: where ops go, what passes between positions, which stage steps which weight.

use super::*;
use crate::registry;
use athanor_ir::module::{Axis, Mesh};
use athanor_ir::pipeline::Kind;
use athanor_ir::run::RunSpec;
use athanor_ir::{Builder, DType, Func, Init, Level, Loc, Node, Op, ReduceKind, Role, TensorType, Unary};

/// The loss of a model with a layer x + down(silu(up(x))) for each of `pipeline`, trained in `micro` micro-batches.
pub(crate) fn module(pipeline: &Pipeline, micro: usize) -> Module {
    let mut f = Func::new("forward");
    let f32s = |dims: &[usize]| TensorType::new(DType::F32, dims);
    let ids = TensorType::new(DType::I32, [2, 4]);
    let weight = || Role::Weight { init: Init::Normal { std: 0.02 }, decay: true };
    let at = |block: &str| Loc { block: block.into(), ..Loc::default() };
    let tokens = f.param("tokens", ids.clone(), Role::Input, Loc::default());
    let labels = f.param("labels", ids, Role::Input, Loc::default());
    let table = f.param("model.embed.weight", f32s(&[16, 8]), weight(), at("model.embed"));
    let mut b = Builder::new(&mut f, at("model.embed"));
    let mut x = b.many(Op::Embed, &[tokens, table])[0];
    for l in 0..pipeline.all_layers() {
        b.loc = at(&format!("model.layers.{l}"));
        let loc = b.loc.clone();
        let [up, down] = [("up", [12, 8]), ("down", [8, 12])]
            .map(|(name, dims)| b.func.param(format!("model.layers.{l}.{name}"), f32s(&dims), weight(), loc.clone()));
        let y = b.einsum("bsh,kh->bsk", x, up);
        let y = b.unary(Unary::Silu, y);
        let y = b.einsum("bsk,hk->bsh", y, down);
        x = b.add(x, y);
    }
    b.loc = at("lm_head");
    let head = b.func.param("lm_head.weight", f32s(&[16, 8]), weight(), at("lm_head"));
    let logits = b.einsum("bsh,vh->bsv", x, head);
    let loss = b.many(Op::CrossEntropy, &[logits, labels])[0];
    let loss = b.reduce(ReduceKind::Sum, loss, &[0, 1]);
    f.result("loss", loss);
    let run = RunSpec {
        max_grad_norm: Some(1.0),
        accumulation: micro,
        pipeline: Some(pipeline.clone()),
        ..RunSpec::for_tests()
    };
    let mesh = Mesh { axes: vec![Axis { name: "pp".into(), size: pipeline.stages() }] };
    let module = Module { name: "small".into(), level: Level::Model, mesh, run, funcs: vec![f] };
    registry::build("autodiff,optimizer,slice-sequences,partition")
        .unwrap()
        .iter()
        .fold(module, |m, p| p.run(&m).unwrap())
}

pub(crate) fn pipeline(schedule: Kind, layers: &[&[usize]]) -> Pipeline {
    Pipeline { schedule, layers: layers.iter().map(|l| l.to_vec()).collect(), slices: 1 }
}

fn split(pipeline: &Pipeline) -> Module {
    let cut = split_stages(&module(pipeline, 4)).unwrap_or_else(|e| panic!("{e}"));
    athanor_ir::verify::verify(&cut).unwrap_or_else(|e| panic!("{e}"));
    cut
}

fn names(list: &[athanor_ir::Param]) -> Vec<&str> {
    list.iter().map(|p| p.name.as_str()).collect()
}

fn handover(f: &Func) -> (usize, &Node) {
    let found: Vec<_> = f.nodes.iter().enumerate().filter(|(_, n)| matches!(n.op, Op::Handover { .. })).collect();
    assert_eq!(found.len(), 1, "@{}", f.name);
    found[0]
}

#[test]
fn every_position_has_its_layers() {
    let m = split(&pipeline(Kind::OneFOneB, &[&[1, 2]]));
    let all: Vec<&str> = m.funcs.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(all, ["stage0.micro0", "stage0.update", "stage1.micro0", "stage1.update"]);
    let first = m.func("stage0.micro0").unwrap();
    let weights = ["model.embed.weight", "model.layers.0.up", "model.layers.0.down"];
    let own = names(&first.params);
    assert!(own.contains(&"tokens") && !own.contains(&"labels") && weights.iter().all(|w| own.contains(w)), "{own:?}");
    assert_eq!(own.len(), 1 + 2 * weights.len(), "weights and their gradients: {own:?}");
    let second = m.func("stage1.micro0").unwrap();
    assert!(names(&second.params).contains(&"handed.0") && !names(&second.params).contains(&"tokens"));
    assert!(second.find_result("loss").is_some() && second.find_result("grad.handed.0").is_some());
    assert!(first.find_result("loss").is_none());
}

#[test]
fn one_activation_goes_and_one_gradient_comes_back() {
    let m = split(&pipeline(Kind::Interleaved, &[&[1, 1], &[1, 1]]));
    for (name, last) in
        [("stage0.micro0", false), ("stage1.micro0", false), ("stage0.micro1", false), ("stage1.micro1", true)]
    {
        let f = m.func(name).unwrap();
        let (i, node) = handover(f);
        assert_eq!((node.op.clone(), node.inputs.len(), node.outputs.len()), (Op::Handover { last }, 1, 1), "{name}");
        // Weights' gradients come after it, and the loss.
        let after = |n: &Node| matches!(n.op, Op::CrossEntropy | Op::CrossEntropyGrad | Op::EmbedGrad { .. });
        assert!(f.nodes[..i].iter().all(|n| !after(n)), "{name}");
    }
}

#[test]
fn empty_ends_pass_on_what_they_get() {
    let m = split(&pipeline(Kind::OneFOneB, &[&[0, 2, 0]]));
    let first = m.func("stage0.micro0").unwrap();
    assert!(
        first.nodes.iter().any(|n| n.op == Op::Embed)
            && first.nodes.iter().any(|n| n.op == Op::EmbedGrad { vocab: 16 })
    );
    let last = m.func("stage2.micro0").unwrap();
    let (i, node) = handover(last);
    assert_eq!((i, last.params.iter().find(|p| p.name == "handed.0").unwrap().value), (0, node.inputs[0]));
}

#[test]
fn each_stage_steps_its_weights_and_all_know_the_norm() {
    let m = split(&pipeline(Kind::OneFOneB, &[&[1, 1]]));
    let mut stepped = vec![];
    for stage in 0..2 {
        let f = m.func(&format!("stage{stage}.update")).unwrap();
        assert!(f.find_result("grad_norm").is_some());
        let sums: Vec<&Node> =
            f.nodes.iter().filter(|n| matches!(&n.op, Op::Collective(c) if c.axes == "pp")).collect();
        assert_eq!(sums.len(), 1);
        stepped.extend(f.results.iter().filter(|r| r.name.starts_with("adam_m.")).map(|r| r.name.clone()));
    }
    stepped.sort();
    let mut all: Vec<String> = ["model.embed.weight", "lm_head.weight"].map(|w| format!("adam_m.{w}")).to_vec();
    all.extend((0..2).flat_map(|l| ["up", "down"].map(|w| format!("adam_m.model.layers.{l}.{w}"))));
    all.sort();
    assert_eq!(stepped, all);
}

#[test]
fn what_cannot_be_split_is_refused() {
    let p = pipeline(Kind::OneFOneB, &[&[1, 1]]);
    let refused = |change: &dyn Fn(&mut Module), says: &str| {
        let mut m = module(&p, 2);
        change(&mut m);
        let e = split_stages(&m).unwrap_err();
        assert!(e.code == &CANNOT_SPLIT && e.message.contains(says), "{e}");
    };
    refused(&|m| m.run.pipeline = None, "says nothing");
    refused(&|m| m.mesh.axes[0].size = 3, "3 ranks");
    refused(&|m| m.funcs.retain(|f| f.name != "micro"), "@micro");
    // One weight in two layers of two stages.
    let tied = |m: &mut Module| {
        let f = &mut m.funcs[0];
        let [a, b] = ["model.layers.0.up", "model.layers.1.up"].map(|n| f.find_param(n).unwrap().value);
        f.nodes.iter_mut().flat_map(|n| &mut n.inputs).filter(|v| **v == b).for_each(|v| *v = a);
    };
    refused(
        &|m| {
            m.funcs[0].params.retain(|p| !p.name.starts_with("grad."));
            tied(m);
        },
        "one micro-batch in a step",
    );
    // Without axis pp there is nothing to do.
    let mut m = module(&p, 2);
    m.mesh.axes.clear();
    assert_eq!(split_stages(&m).unwrap(), m);
}
