//! Products of experts against the reference op in f64, at every level; those that this machine lacks without their
//! instructions.

mod harness;

use athanor_backends::cpu::reference::{Tensor as Reference, ViewMut, run_op};
use athanor_ir::target::CpuLevel;
use athanor_ir::{DType, Op, TensorType};
use athanor_passes::codegen::Generated;
use athanor_passes::codegen::gemm::{Form, GroupedSpec, generate_grouped};
use athanor_passes::codegen::simd::Float;
use harness::{Library, Tensor, levels};

/// Rows before those of the experts, of each expert, and behind them.
const LAYOUTS: [(usize, &[usize], usize); 6] = [
    (0, &[13, 0, 50, 7, 1], 0),
    (0, &[0, 0, 71, 0], 5),
    (0, &[29], 0),
    (4, &[0, 0, 0], 5),
    (0, &[3, 40, 0, 27, 31, 0, 0, 2], 17),
    (21, &[9, 34], 40),
];

fn float(dtype: DType) -> Float {
    if dtype == DType::BF16 { Float::Bf16 } else { Float::F32 }
}

struct Case {
    spec: GroupedSpec,
    spans: Vec<i32>,
    kernel: Generated,
}

fn cases(level: CpuLevel) -> Vec<Case> {
    let mut all = vec![];
    let dtypes = [(DType::F32, DType::F32), (DType::BF16, DType::F32), (DType::BF16, DType::BF16)];
    let mut add = |spec: GroupedSpec, first: usize, sizes: &[usize]| {
        if !spec.supported() {
            return;
        }
        let (mut spans, mut next) = (vec![], first as i32);
        for size in sizes {
            spans.extend([next, next + *size as i32]);
            next += *size as i32;
        }
        let kernel = generate_grouped(&spec, level, &format!("grouped{}", all.len()));
        all.push(Case { spec, spans, kernel });
    };
    for (operands, result) in dtypes {
        for form in [Form::Transposed, Form::Plain, Form::Weights] {
            for (i, (first, sizes, unused)) in LAYOUTS.into_iter().enumerate() {
                let (a_cols, c_cols) = [(32, 48), (19, 65), (37, 5), (64, 32), (700, 33), (48, 40)][i];
                let (experts, rows) = (sizes.len(), first + sizes.iter().sum::<usize>() + unused);
                let accumulate = i % 2 == 1;
                add(GroupedSpec { form, experts, rows, a_cols, c_cols, operands, result, accumulate }, first, sizes);
            }
            // Several blocks of rows, of the contracted dim with kept sums, of columns.
            for (rows, a_cols, c_cols) in [(1100, 34, 40), (1060, 1090, 7), (40, 34, 1100)] {
                let sizes = [rows - 3, 0, 3];
                let spec =
                    GroupedSpec { form, experts: 3, rows, a_cols, c_cols, operands, result, accumulate: rows > 1060 };
                add(spec, 0, &sizes);
            }
        }
    }
    all
}

/// The reference op's result in f64.
fn reference(case: &Case, a: &[f64], b: &[f64], before: &[f64]) -> Vec<f64> {
    let GroupedSpec { form, experts, rows, a_cols, c_cols, accumulate, .. } = case.spec;
    let (labels, b_dims, c_dims) = match form {
        Form::Transposed => ("rk,enk->rn", vec![experts, c_cols, a_cols], vec![rows, c_cols]),
        Form::Plain => ("rn,enk->rk", vec![experts, a_cols, c_cols], vec![rows, c_cols]),
        Form::Weights => ("rn,rk->enk", vec![rows, c_cols], vec![experts, a_cols, c_cols]),
    };
    let mut operands = vec![Reference::from_f64(&[rows, a_cols], a), Reference::from_f64(&b_dims, b)];
    operands.push(Reference::from_i32(&[experts, 2], &case.spans));
    operands.extend(accumulate.then(|| Reference::from_f64(&c_dims, before)));
    let mut out = Reference::zeros(TensorType::new(DType::F64, c_dims));
    let Reference { ty, bytes } = &mut out;
    let views: Vec<_> = operands.iter().map(Reference::view).collect();
    run_op(&Op::GroupedEinsum { spec: labels.into() }, &views, &mut [ViewMut { ty, bytes }]).unwrap();
    out.to_f64()
}

fn check(case: &Case, library: &Library, level: CpuLevel) {
    let GroupedSpec { form, experts, rows, a_cols, c_cols, operands, result, accumulate, .. } = case.spec;
    let (x, y) = (float(operands), float(result));
    let stack = experts * a_cols * c_cols;
    let (b_len, c_len) = if form == Form::Weights { (rows * c_cols, stack) } else { (stack, rows * c_cols) };
    let (a, b) = (Tensor::random(x, rows * a_cols, 1), Tensor::random(x, b_len, 2));
    let spans = Tensor::ints(&case.spans);
    let start = || if accumulate { Tensor::random(y, c_len, 3) } else { Tensor::filled(y, c_len) };
    let magnitudes = |t: &Tensor| t.f64s().into_iter().map(f64::abs).collect::<Vec<_>>();
    let want = reference(case, &a.f64s(), &b.f64s(), &start().f64s());
    let scale = reference(case, &magnitudes(&a), &magnitudes(&b), &magnitudes(&start()));
    let mut first: Option<Tensor> = None;
    // Tile instructions that this machine lacks are slow.
    let all = if level == CpuLevel::Amx && !levels().contains(&level) { &[1, 7][..] } else { &[1, 2, 7] };
    for workers in all {
        let c = start();
        library.run(&case.kernel, *workers, &[&a, &b, &spans, &c]);
        for (i, ((got, want), scale)) in c.f64s().into_iter().zip(&want).zip(&scale).enumerate() {
            let rounding = if result == DType::BF16 { want.abs() / 256.0 } else { 0.0 };
            assert!(
                (got - want).abs() <= rounding + 1e-6 * scale,
                "{level} {:?} {:?} by {workers}: element {i} is {got}, should be {want}",
                case.spec,
                case.spans
            );
        }
        assert!(*first.get_or_insert_with(|| c.clone()) == c, "{level} {:?}: the bits depend on the shares", case.spec);
    }
}

fn check_level(level: CpuLevel) {
    let cases = cases(level);
    let kernels: Vec<Generated> = cases.iter().map(|c| c.kernel.clone()).collect();
    let library = Library::build_anywhere(&kernels, level);
    cases.iter().for_each(|case| check(case, &library, level));
}

#[test]
fn portable_products_of_experts_match_f64() {
    check_level(CpuLevel::Portable);
}

#[test]
fn avx2_products_of_experts_match_f64() {
    check_level(CpuLevel::Avx2);
}

#[test]
fn avx512_products_of_experts_match_f64() {
    check_level(CpuLevel::Avx512);
}

#[test]
fn amx_products_of_experts_match_f64() {
    check_level(CpuLevel::Amx);
}
