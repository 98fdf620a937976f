//! Every derivative against central differences in f64, and the training step that is made of them.
//!
//! Each property draws shapes and attributes, builds a function whose loss is a random weighting of one op's result, and
//! compares the gradient of every element of every operand with (f(x+h) − f(x−h)) / 2h.

mod experts;
mod layers;
mod ops;
mod step;

use athanor_backends::cpu::reference::{Tensor, interpret};
use athanor_ir::run::RunSpec;
use athanor_ir::{Builder, DType, Func, Init, Level, Loc, Mesh, Module, ReduceKind, Role, TensorType, ValueId};
use athanor_passes::autodiff::gradients;
use std::collections::HashMap;

/// Half the distance of the two points of a difference. The error is about H² + 1e-16/H.
const H: f64 = 1e-5;
/// Largest difference from the gradient, relative to the larger of it and one.
const TOLERANCE: f64 = 1e-6;

/// Uniform numbers in [−1, 1) that depend on a seed alone.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// A module around one function; nothing of its run is looked at.
pub fn module(func: Func) -> Module {
    let run = RunSpec::for_tests();
    Module { name: "check".into(), level: Level::Model, mesh: Mesh::default(), run, funcs: vec![func] }
}

/// What a property differentiates.
struct Case {
    /// Dims of the operands that get gradients; their elements are drawn from `low..high`.
    shapes: Vec<Vec<usize>>,
    low: f64,
    high: f64,
    /// Integer operands, after the others.
    ids: Vec<Tensor>,
    seed: u64,
}

impl Case {
    fn new(shapes: &[&[usize]], seed: u64) -> Self {
        Self { shapes: shapes.iter().map(|s| s.to_vec()).collect(), low: -1.0, high: 1.0, ids: vec![], seed }
    }

    fn within(self, low: f64, high: f64) -> Self {
        Self { low, high, ..self }
    }

    fn ids(self, ids: Vec<Tensor>) -> Self {
        Self { ids, ..self }
    }

    /// Compares; `build` gets the operands and returns the values that the loss weighs.
    fn check(self, build: impl Fn(&mut Builder<'_>, &[ValueId]) -> Vec<ValueId>) {
        let mut draw = Draw(self.seed);
        let mut args = HashMap::new();
        let mut func = Func::new("forward");
        let mut operands = vec![];
        for (i, dims) in self.shapes.iter().enumerate() {
            let (name, ty) = (format!("x{i}"), TensorType::new(DType::F64, dims.clone()));
            let scale = |u: f64| self.low + (self.high - self.low) * (u + 1.0) / 2.0;
            let data: Vec<f64> = (0..ty.elements()).map(|_| scale(draw.next())).collect();
            args.insert(name.clone(), Tensor::from_f64(dims, &data));
            let role = Role::Weight { init: Init::Constant { value: 0.0 }, decay: false };
            operands.push(func.param(name, ty, role, Loc::default()));
        }
        for (i, t) in self.ids.iter().enumerate() {
            args.insert(format!("ids{i}"), t.clone());
            operands.push(func.param(format!("ids{i}"), t.ty.clone(), Role::Input, Loc::default()));
        }
        let mut b = Builder::new(&mut func, Loc::default());
        let outs = build(&mut b, &operands);
        let mut parts = vec![];
        for (i, y) in outs.into_iter().enumerate() {
            let ty = b.ty(y);
            let data: Vec<f64> = (0..ty.elements()).map(|_| draw.next()).collect();
            args.insert(format!("probe{i}"), Tensor::from_f64(&ty.dims, &data));
            let probe = b.func.param(format!("probe{i}"), ty.clone(), Role::Input, Loc::default());
            let weighed = b.mul(y, probe);
            parts.push(b.reduce(ReduceKind::Sum, weighed, &(0..ty.rank()).collect::<Vec<_>>()));
        }
        let loss = parts.into_iter().reduce(|x, y| b.add(x, y)).expect("a result");
        func.result("loss", loss);

        let forward = module(func.clone());
        let back = module(Func { name: "micro".into(), ..gradients(&func, "loss", 1.0).unwrap() });
        athanor_ir::verify::verify(&Module { level: Level::Train, ..back.clone() }).unwrap();
        let grads = interpret(&back, "micro", &args).unwrap();
        let at = |args: &HashMap<String, Tensor>| interpret(&forward, "forward", args).unwrap()["loss"].to_f64()[0];
        for (i, dims) in self.shapes.iter().enumerate() {
            let name = format!("x{i}");
            let (x, grad) = (args[&name].to_f64(), grads[&format!("grad.{name}")].to_f64());
            for k in 0..x.len() {
                let mut side = |h: f64| {
                    let mut moved = x.clone();
                    moved[k] += h;
                    args.insert(name.clone(), Tensor::from_f64(dims, &moved));
                    at(&args)
                };
                let difference = (side(H) - side(-H)) / (2.0 * H);
                let error = (difference - grad[k]).abs() / grad[k].abs().max(1.0);
                assert!(error < TOLERANCE, "d loss / d {name}[{k}] is {}, differences say {difference}", grad[k]);
            }
            args.insert(name, Tensor::from_f64(dims, &x));
        }
    }
}
