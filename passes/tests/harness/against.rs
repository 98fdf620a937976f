//! Kernels against the reference ops.

use super::{Library, Tensor, levels};
use athanor_backends::cpu::reference::{Tensor as Value, interpret};
use athanor_ir::func::{Func, Loc, Role};
use athanor_ir::module::{Level, Mesh, Module};
use athanor_ir::op::Op;
use athanor_ir::run::RunSpec;
use athanor_ir::target::CpuLevel;
use athanor_ir::types::{DType, TensorType};
use athanor_passes::codegen::Generated;
use athanor_passes::codegen::simd::Float;
use std::collections::HashMap;

/// An operand: integers, or floats that their type holds exactly.
#[derive(Clone)]
pub enum Arg {
    Ints(Vec<usize>, Vec<i32>),
    Floats(Float, Vec<usize>, Vec<f32>),
}

impl Arg {
    pub fn random(dtype: Float, dims: &[usize], seed: u64) -> Self {
        let x = Tensor::random(dtype, dims.iter().product(), seed).f64s();
        Self::Floats(dtype, dims.to_vec(), x.into_iter().map(|x| x as f32).collect())
    }

    pub fn value(&self) -> Value {
        let (ty, data): (TensorType, Vec<f64>) = match self {
            Self::Ints(dims, x) => {
                (TensorType::new(DType::I32, dims.clone()), x.iter().map(|x| f64::from(*x)).collect())
            }
            Self::Floats(d, dims, x) => {
                (TensorType::new(dtype_of(*d), dims.clone()), x.iter().map(|x| f64::from(*x)).collect())
            }
        };
        Value::new(ty, &data)
    }

    pub fn buffer(&self) -> Tensor {
        match self {
            Self::Ints(_, x) => Tensor::ints(x),
            Self::Floats(d, _, x) => Tensor::of(*d, x),
        }
    }
}

fn dtype_of(float: Float) -> DType {
    match float {
        Float::F32 => DType::F32,
        Float::Bf16 => DType::BF16,
        Float::F16 => DType::F16,
    }
}

/// What the reference op gives.
pub fn reference(op: &Op, args: &[Arg]) -> Vec<Value> {
    let types: Vec<TensorType> = args.iter().map(|a| a.value().ty).collect();
    typed(op, args, athanor_ir::infer::infer(op, &types).unwrap())
}

/// As [`reference`] with the types of the results.
fn typed(op: &Op, args: &[Arg], types: Vec<TensorType>) -> Vec<Value> {
    let values: Vec<Value> = args.iter().map(Arg::value).collect();
    let mut func = Func::new("f");
    let ins: Vec<_> = values
        .iter()
        .enumerate()
        .map(|(i, v)| func.param(format!("p{i}"), v.ty.clone(), Role::Input, Loc::default()))
        .collect();
    let outs = func.push(op.clone(), &ins, types, &Loc::default());
    outs.iter().enumerate().for_each(|(i, v)| func.result(format!("r{i}"), *v));
    let module = Module {
        name: "t".into(),
        level: Level::Kernel,
        mesh: Mesh::default(),
        run: RunSpec::for_tests(),
        funcs: vec![func],
    };
    let named: HashMap<String, Value> = values.into_iter().enumerate().map(|(i, v)| (format!("p{i}"), v)).collect();
    let mut found = interpret(&module, "f", &named).unwrap();
    (0..outs.len()).map(|i| found.remove(&format!("r{i}")).unwrap()).collect()
}

/// Compares the kernel with the reference op at every level, with 1, 2 and 5 workers: integers exactly, floats to the
/// rounding of their type, on numbers of the size of 1.
pub fn check(op: &Op, args: &[Arg], kernel: impl Fn(CpuLevel) -> Generated) {
    compare(op, (None, args), &reference(op, args), kernel);
}

/// As [`check`] where the operands do not tell the dims of the result.
pub fn check_to(dims: &[usize], op: &Op, args: &[Arg], kernel: impl Fn(CpuLevel) -> Generated) {
    let ty = args[0].value().ty.with_dims(dims);
    compare(op, (None, args), &typed(op, args, vec![ty]), kernel);
}

/// As [`check`] where the result lies where the first operand does, which the kernel is not given beside it.
pub fn check_in_place(op: &Op, args: &[Arg], kernel: impl Fn(CpuLevel) -> Generated) {
    compare(op, (Some(&args[0]), &args[1..]), &reference(op, args), kernel);
}

fn compare(op: &Op, (before, args): (Option<&Arg>, &[Arg]), want: &[Value], kernel: impl Fn(CpuLevel) -> Generated) {
    for level in levels() {
        let kernel = kernel(level);
        let library = Library::build(std::slice::from_ref(&kernel), level);
        for workers in [1, 2, 5] {
            let outs: Vec<Tensor> = want
                .iter()
                .map(|w| {
                    let float = match w.ty.dtype {
                        DType::BF16 => Float::Bf16,
                        DType::F16 => Float::F16,
                        _ => Float::F32,
                    };
                    before.map_or_else(|| Tensor::filled(float, w.ty.elements()), Arg::buffer)
                })
                .collect();
            let ins: Vec<Tensor> = args.iter().map(Arg::buffer).collect();
            library.run(&kernel, workers, &ins.iter().chain(&outs).collect::<Vec<_>>());
            for (r, (w, got)) in want.iter().zip(&outs).enumerate() {
                let (found, bound) = match w.ty.dtype {
                    DType::I32 => (got.i32s().into_iter().map(f64::from).collect(), 0.0),
                    DType::BF16 => (got.f64s(), 1.0 / 256.0 + 1e-6),
                    DType::F16 => (got.f64s(), 1.0 / 2048.0 + 1e-6),
                    _ => (got.f64s(), 1e-6),
                };
                for (i, (w, g)) in w.to_f64().iter().zip(found).enumerate() {
                    let what = format!("{op:?} {level}, {workers} workers: result {r}[{i}]");
                    assert!((w - g).abs() <= bound * (w.abs() + 1.0), "{what} is {g}, not {w}");
                }
            }
        }
    }
}
