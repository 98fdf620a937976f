//! Fused loops give what the reference implementation gives, at every CPU level and for one or two workers.

use athanor_backends::cpu::features;
use athanor_backends::cpu::reference::{Tensor, interpret};
use athanor_ir::func::{Builder, Func, Loc, Role, ValueId};
use athanor_ir::module::{Level, Mesh, Module};
use athanor_ir::op::{Binary, F64, Op, ReduceKind, Unary};
use athanor_ir::target::CpuLevel;
use athanor_ir::types::{DType, TensorType};
use athanor_passes::codegen::llvm::build_shared_object;
use athanor_passes::codegen::loops::{Loops, generate};
use std::collections::HashMap;
use std::ffi::c_void;

type Kernel = unsafe extern "C" fn(*const *mut c_void, i64, i64, i64);

const EPS: F64 = F64(1e-5);

/// A buffer on a cache line.
struct Aligned(Vec<u128>);

impl Aligned {
    fn new(bytes: usize) -> Self {
        // Poison: a kernel that forgets an element is seen.
        Self(vec![0x7fc0_7fc0_7fc0_7fc0_7fc0_7fc0_7fc0_7fc0; bytes.div_ceil(16).max(1)])
    }

    fn of(bytes: &[u8]) -> Self {
        let mut a = Self::new(bytes.len());
        bytemuck::cast_slice_mut(&mut a.0)[..bytes.len()].copy_from_slice(bytes);
        a
    }

    fn ptr(&self) -> *mut c_void {
        self.0.as_ptr().cast_mut().cast()
    }
}

fn run_loops(l: &Loops, func: &Func, args: &[Tensor], workers: i64, level: CpuLevel) -> Vec<Tensor> {
    let dir = tempfile::tempdir().unwrap();
    let so = dir.path().join("k.so");
    let texts: Vec<_> = std::iter::once(l.main.clone()).chain(l.finish.iter().map(|f| f.0.clone())).collect();
    build_shared_object(&texts, level, None, &so).unwrap();
    // SAFETY: the library was just built from kernels that have no initialisers.
    let lib = unsafe { libloading::Library::new(&so) }.unwrap();
    let call = |symbol: &str, bufs: &[*mut c_void], grid: i64, workers: i64| {
        // SAFETY: the ABI of kernels; buffers have the sizes the kernel was generated for.
        let k: libloading::Symbol<'_, Kernel> = unsafe { lib.get(symbol.as_bytes()) }.unwrap();
        for w in 0..workers.min(grid) {
            let n = workers.min(grid);
            // SAFETY: as above.
            unsafe { k(bufs.as_ptr(), grid * w / n, grid * (w + 1) / n, w) };
        }
    };
    let ins: Vec<Aligned> = args.iter().map(|t| Aligned::of(&t.bytes)).collect();
    let outs: Vec<Aligned> = func.results.iter().map(|r| Aligned::new(func.ty(r.value).bytes())).collect();
    let partial = Aligned::new(l.partial_bytes);
    let mut bufs: Vec<*mut c_void> = ins.iter().map(Aligned::ptr).collect();
    bufs.extend((0..outs.len()).filter(|i| !l.sums.contains(i)).map(|i| outs[i].ptr()));
    if l.partial_bytes > 0 {
        bufs.push(partial.ptr());
    }
    call(&l.main.symbol, &bufs, l.rows as i64, workers);
    if let Some((text, grid)) = &l.finish {
        let mut bufs = vec![partial.ptr()];
        bufs.extend(l.sums.iter().map(|i| outs[*i].ptr()));
        call(&text.symbol, &bufs, *grid as i64, workers);
    }
    let tensor = |(r, a): (&athanor_ir::FuncResult, &Aligned)| {
        let ty = func.ty(r.value).clone();
        let bytes = bytemuck::cast_slice(&a.0)[..ty.bytes()].to_vec();
        Tensor { ty, bytes }
    };
    func.results.iter().zip(&outs).map(tensor).collect()
}

/// Builds, runs and compares a group at every level this machine has; `tolerance` is relative to the largest element.
fn check(params: &[TensorType], tolerance: f64, build: impl Fn(&mut Builder<'_>, &[ValueId]) -> Vec<ValueId>) {
    let mut func = Func::new("group");
    let ins: Vec<ValueId> = params
        .iter()
        .enumerate()
        .map(|(i, t)| func.param(format!("p{i}"), t.clone(), Role::Input, Loc::default()))
        .collect();
    let outs = build(&mut Builder::new(&mut func, Loc::default()), &ins);
    outs.iter().enumerate().for_each(|(i, v)| func.result(format!("r{i}"), *v));
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    // The second moment of AdamW must not be negative; squares do for every operand of the tests.
    let args: Vec<Tensor> = params
        .iter()
        .enumerate()
        .map(|(i, t)| {
            let data: Vec<f64> = (0..t.elements()).map(|_| if i == 3 { random().powi(2) } else { random() }).collect();
            Tensor::new(t.clone(), &data)
        })
        .collect();
    let module = Module {
        name: "t".into(),
        level: Level::Kernel,
        mesh: Mesh::default(),
        run: run_spec(),
        funcs: vec![func.clone()],
    };
    let named: HashMap<String, Tensor> = args.iter().enumerate().map(|(i, t)| (format!("p{i}"), t.clone())).collect();
    let expected = interpret(&module, "group", &named).unwrap();
    for level in CpuLevel::ALL.into_iter().filter(|l| *l <= features::detect()) {
        let l = generate(&func, &[], 2, level, "group").expect("one space");
        for workers in [1, 2] {
            // Sums are over as many partial rows as there are workers.
            let l = if workers == 1 { generate(&func, &[], 1, level, "group").unwrap() } else { l.clone() };
            let got = run_loops(&l, &func, &args, workers, level);
            for (r, g) in func.results.iter().zip(&got) {
                let (want, got) = (expected[&r.name].to_f64(), g.to_f64());
                let scale = want.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
                let worst = want
                    .iter()
                    .zip(&got)
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, |m: f64, d| if d.is_nan() { f64::NAN } else { m.max(d) });
                assert!(
                    worst <= tolerance * scale,
                    "{} at {level}, {workers} workers: off by {worst} of {scale}",
                    r.name
                );
            }
        }
    }
}

/// Every f16 to f32, and f32 around every f16 (the numbers themselves, ties and their neighbours) to f16, bit by bit.
#[test]
fn conversions_of_f16_are_exact_at_every_level() {
    use half::f16;
    const N: usize = 1 << 16;
    let mut func = Func::new("group");
    let ty = |dtype| TensorType::new(dtype, [64, 4 * N / 64]);
    let narrow = func.param("p0", ty(DType::F16), Role::Input, Loc::default());
    let wide = func.param("p1", ty(DType::F32), Role::Input, Loc::default());
    let mut b = Builder::new(&mut func, Loc::default());
    let (widened, narrowed) = (b.cast(narrow, DType::F32), b.cast(wide, DType::F16));
    func.result("r0", widened);
    func.result("r1", narrowed);
    let bits = |i: usize| (i % N) as u16;
    let halves: Vec<u8> = (0..4 * N).flat_map(|i| bits(i).to_ne_bytes()).collect();
    // The place halfway to the next f16, just below it and just above: 13 bits of an f32 mantissa are cut off. Beyond the
    // normal f16 the f32 between two of them are taken by their numbers.
    let near = |i: usize| {
        let (x, next) = (f16::from_bits(bits(i)).to_f32(), f16::from_bits(bits(i).wrapping_add(1)).to_f32());
        let half = if next.is_finite() { f32::midpoint(x, next) } else { 65520.0f32.copysign(x) };
        match i / N {
            0 => x,
            1 => half,
            2 => half.next_up(),
            _ => half.next_down(),
        }
    };
    let singles: Vec<f32> = (0..4 * N).map(near).collect();
    let args = [
        Tensor { ty: ty(DType::F16), bytes: halves },
        Tensor { ty: ty(DType::F32), bytes: bytemuck::cast_slice(&singles).to_vec() },
    ];
    for level in CpuLevel::ALL.into_iter().filter(|l| *l <= features::detect()) {
        let l = generate(&func, &[], 1, level, "group").expect("one space");
        let got = run_loops(&l, &func, &args, 1, level);
        let f32s: Vec<f32> = got[0].bytes.chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap())).collect();
        for (i, x) in f32s.iter().enumerate() {
            let want = f16::from_bits(bits(i)).to_f32();
            assert!(x.to_bits() == want.to_bits() || (x.is_nan() && want.is_nan()), "{level}: {:#06x} is {x}", bits(i));
        }
        let f16s: Vec<u16> = got[1].bytes.chunks_exact(2).map(|b| u16::from_ne_bytes(b.try_into().unwrap())).collect();
        for (x, found) in singles.iter().zip(&f16s) {
            let (want, found) = (f16::from_f32(*x), f16::from_bits(*found));
            let same = want.to_bits() == found.to_bits() || (want.is_nan() && found.is_nan());
            assert!(same, "{level}: {x:e} is {found}, not {want}");
        }
    }
}

fn run_spec() -> athanor_ir::run::RunSpec {
    athanor_ir::run::RunSpec::for_tests()
}

fn t(dims: &[usize]) -> TensorType {
    TensorType::new(DType::F32, dims)
}

fn bf16(dims: &[usize]) -> TensorType {
    TensorType::new(DType::BF16, dims)
}

#[test]
fn a_residual_and_its_norm_are_one_kernel_with_two_results() {
    for cols in [64, 37, 7, 100] {
        check(&[t(&[2, 3, cols]), t(&[2, 3, cols]), t(&[cols])], 1e-6, |b, p| {
            let sum = b.add(p[0], p[1]);
            let norm = b.many(Op::RmsNorm { eps: EPS }, &[sum, p[2]]);
            vec![sum, norm[0]]
        });
    }
}

#[test]
fn gradients_of_norms_sum_gains_over_rows() {
    for cols in [64, 5] {
        check(&[t(&[9, cols]), t(&[cols]), t(&[9, cols])], 3e-6, |b, p| b.many(Op::RmsNormGrad { eps: EPS }, p));
        check(&[t(&[9, cols]), t(&[cols]), t(&[9, cols])], 3e-6, |b, p| b.many(Op::LayerNormGrad { eps: EPS }, p));
        check(&[t(&[9, cols]), t(&[cols]), t(&[cols])], 3e-6, |b, p| b.many(Op::LayerNorm { eps: EPS }, p));
    }
}

#[test]
fn as_many_rows_as_columns_are_told_apart() {
    check(&[t(&[16, 16]), t(&[16]), t(&[16, 16])], 3e-6, |b, p| b.many(Op::RmsNormGrad { eps: EPS }, p));
}

#[test]
fn every_unary_function_is_accurate() {
    for f in Unary::ALL {
        check(&[t(&[4, 50])], 4e-7, |b, p| {
            let x = if matches!(f, Unary::Log | Unary::Sqrt | Unary::Rsqrt | Unary::Recip) {
                let square = b.mul(p[0], p[0]);
                let ty = b.ty(square);
                let some = b.constant(0.1, ty);
                b.add(square, some)
            } else {
                let ty = b.ty(p[0]);
                let wide = b.constant(6.0, ty);
                b.mul(p[0], wide)
            };
            vec![b.unary(f, x)]
        });
    }
}

#[test]
fn swiglu_in_bf16_rounds_once() {
    check(&[bf16(&[6, 80]), bf16(&[6, 80])], 8e-3, |b, p| {
        let gate = b.unary(Unary::Silu, p[0]);
        vec![b.mul(gate, p[1])]
    });
}

#[test]
fn row_statistics_feed_the_next_phase() {
    // A softmax: two reductions in a row, one of them a maximum.
    check(&[t(&[5, 3, 33])], 1e-6, |b, p| {
        let to = b.ty(p[0]).dims;
        let max = b.reduce(ReduceKind::Max, p[0], &[2]);
        let max = b.broadcast(max, &[0, 1], &to);
        let shifted = b.binary(Binary::Sub, p[0], max);
        let exp = b.unary(Unary::Exp, shifted);
        let sum = b.reduce(ReduceKind::Sum, exp, &[2]);
        let log = b.unary(Unary::Log, sum);
        let below = b.broadcast(sum, &[0, 1], &to);
        vec![b.binary(Binary::Div, exp, below), log]
    });
}

#[test]
fn the_optimizer_step_reads_its_scalars() {
    let s = || TensorType::scalar(DType::F32);
    let big = || t(&[24, 100]);
    check(&[big(), big(), big(), big(), s(), s(), s(), s()], 1e-6, |b, p| {
        let scalar: Vec<ValueId> = p[4..].iter().map(|v| b.unary(Unary::Square, *v)).collect();
        let ins: Vec<ValueId> = p[..4].iter().copied().chain(scalar).collect();
        b.many(Op::AdamW { beta1: F64(0.9), beta2: F64(0.95), eps: F64(1e-8), decay: F64(0.1) }, &ins)
    });
}

#[test]
fn a_bias_and_its_gradient() {
    check(&[t(&[4, 8, 40]), t(&[40])], 1e-6, |b, p| {
        let wide = b.broadcast_like(p[1], p[0]);
        let y = b.add(p[0], wide);
        vec![b.unary(Unary::Gelu, y), b.reduce(ReduceKind::Sum, p[0], &[0, 1])]
    });
}

#[test]
fn groups_without_a_common_space_are_refused() {
    let mut func = Func::new("g");
    let x = func.param("x", t(&[4, 6, 8]), Role::Input, Loc::default());
    let mut b = Builder::new(&mut func, Loc::default());
    let (a, c) = (b.reduce(ReduceKind::Sum, x, &[2]), b.reduce(ReduceKind::Sum, x, &[1, 2]));
    func.result("a", a);
    func.result("c", c);
    assert_eq!(generate(&func, &[], 1, CpuLevel::Portable, "g"), None);
}

/// A value per column is written by no row, and a sum over rows is not known before the last.
#[test]
fn groups_with_results_per_column_or_that_read_their_own_sums_are_refused() {
    let refused = |build: &dyn Fn(&mut Builder<'_>, ValueId, ValueId) -> Vec<ValueId>| {
        let mut func = Func::new("g");
        let x = func.param("x", t(&[16, 8]), Role::Input, Loc::default());
        let gain = func.param("gain", t(&[8]), Role::Input, Loc::default());
        let results = build(&mut Builder::new(&mut func, Loc::default()), x, gain);
        results.iter().enumerate().for_each(|(i, v)| func.result(format!("r{i}"), *v));
        generate(&func, &[], 1, CpuLevel::Portable, "g").is_none()
    };
    assert!(refused(&|b, x, gain| {
        let bent = b.unary(Unary::Tanh, gain);
        let wide = b.broadcast_like(bent, x);
        vec![b.mul(x, wide), bent]
    }));
    assert!(refused(&|b, x, _| {
        let sum = b.reduce(ReduceKind::Sum, x, &[0]);
        let wide = b.broadcast_like(sum, x);
        vec![b.mul(x, wide), sum]
    }));
    assert!(refused(&|b, x, _| {
        let sum = b.reduce(ReduceKind::Sum, x, &[0]);
        vec![sum, b.unary(Unary::Neg, sum), b.unary(Unary::Tanh, x)]
    }));
    assert!(!refused(&|b, x, _| {
        let sum = b.reduce(ReduceKind::Sum, x, &[0]);
        vec![b.cast(sum, DType::BF16), b.unary(Unary::Tanh, x)]
    }));
}
