//! GFLOP/s of products of experts beside the dense product of the same work, interleaved in one run.
//!
//!     cargo run --release -p athanor-passes --example grouped_bench -- [f32|bf16] [THREADS] [ROWS,IN,OUT]
//!
//! The rows belong to experts in several ways: evenly, almost all to one, or to many. Times as in `gemm_bench`.

use std::ffi::c_void;

use athanor_backends::cpu::features;
use athanor_backends::cpu::pool::Pool;
use athanor_ir::DType;
use athanor_ir::plan::{GemmSpec, MatRef};
use athanor_passes::codegen::Generated;
use athanor_passes::codegen::gemm::{Form, GroupedSpec, generate, generate_grouped};
use athanor_passes::codegen::llvm::build_shared_object;

type Kernel = unsafe extern "C" fn(*const *mut c_void, i64, i64, i64);

/// Rows of each of `experts`, `rows` in all.
fn layouts(rows: usize) -> Vec<(&'static str, Vec<usize>)> {
    let even = |experts: usize| vec![rows / experts; experts];
    let mut skewed = vec![rows / 64; 8];
    skewed[3] += rows - skewed.iter().sum::<usize>();
    // Sizes 1 : 2 : … : 8, cut anywhere.
    let mut ragged: Vec<usize> = (1..=8).map(|i| rows * i / 36).collect();
    ragged[0] += rows - ragged.iter().sum::<usize>();
    vec![("8 even", even(8)), ("8 ragged", ragged), ("8 skewed", skewed), ("64 even", even(64))]
}

/// A cache line: buffers of a plan are aligned to it.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u64; 8]);

/// A buffer of `elements` that differ.
fn buffer(dtype: DType, elements: usize) -> Vec<Line> {
    let value = |i: usize| (i * 37 % 101) as f32 / 50.0 - 1.0;
    let bytes: Vec<u8> = match dtype {
        DType::BF16 => (0..elements).flat_map(|i| half::bf16::from_f32(value(i)).to_le_bytes()).collect(),
        _ => (0..elements).flat_map(|i| value(i).to_le_bytes()).collect(),
    };
    let mut all = vec![Line([0; 8]); bytes.len().div_ceil(64) + 1];
    bytemuck::cast_slice_mut(&mut all)[..bytes.len()].copy_from_slice(&bytes);
    all
}

fn clock(threads: usize) -> f64 {
    let id = if threads == 1 { libc::CLOCK_THREAD_CPUTIME_ID } else { libc::CLOCK_MONOTONIC };
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the local.
    unsafe { libc::clock_gettime(id, &raw mut now) };
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let operands = if args.first().is_some_and(|a| a == "bf16") { DType::BF16 } else { DType::F32 };
    let threads = args.get(1).and_then(|t| t.parse().ok()).unwrap_or(2);
    let shape: Vec<usize> =
        args.get(2).map_or("8192,512,1024", |s| s).split(',').filter_map(|d| d.parse().ok()).collect();
    let [rows, input, output] = shape[..] else { panic!("ROWS,IN,OUT") };
    let level = features::detect();
    let pool = Pool::new(threads).expect("threads");
    let forms = [("forward", Form::Transposed), ("dx", Form::Plain), ("dw", Form::Weights)];
    let mut kernels: Vec<(String, Option<Vec<i32>>, Generated)> = vec![];
    for (name, form) in forms {
        let result = if form == Form::Weights { DType::F32 } else { operands };
        let (a_cols, c_cols) = match form {
            Form::Transposed => (input, output),
            Form::Plain | Form::Weights => (output, input),
        };
        let row = |dtype, cols| MatRef { dtype, row_stride: cols, col_stride: 1 };
        let col = |dtype, rows| MatRef { dtype, row_stride: 1, col_stride: rows };
        let c = row(result, c_cols);
        let (m, k, a, b) = match form {
            Form::Transposed => (rows, a_cols, row(operands, a_cols), col(operands, a_cols)),
            Form::Plain => (rows, a_cols, row(operands, a_cols), row(operands, c_cols)),
            Form::Weights => (a_cols, rows, col(operands, a_cols), row(operands, c_cols)),
        };
        let dense = GemmSpec { m, n: c_cols, k, a, b, c, accumulate: false };
        let symbol = format!("k{}", kernels.len());
        kernels.push((format!("{name} dense"), None, generate(&dense, level, &symbol).expect("generated")));
        for (layout, sizes) in layouts(rows) {
            let mut spans = vec![];
            let mut next = 0;
            for size in &sizes {
                spans.extend([next, next + *size as i32]);
                next += *size as i32;
            }
            let experts = sizes.len();
            let spec = GroupedSpec { form, experts, rows, a_cols, c_cols, operands, result, accumulate: false };
            let symbol = format!("k{}", kernels.len());
            kernels.push((format!("{name} {layout}"), Some(spans), generate_grouped(&spec, level, &symbol)));
        }
    }
    let out = std::env::temp_dir().join(format!("grouped-bench-{}.so", std::process::id()));
    let texts: Vec<_> = kernels.iter().map(|k| k.2.text.clone()).collect();
    build_shared_object(&texts, level, None, &out).expect("built");
    // SAFETY: the library was just built from the kernels above.
    let object = unsafe { libloading::Library::new(&out) }.expect("loads");
    let _ = std::fs::remove_file(&out);
    // Large enough for every operand and result.
    let most = rows.max(64 * output) * input.max(output);
    let (a, b) = (buffer(operands, most), buffer(operands, most));
    let c = buffer(DType::F32, most);
    let scratch = kernels.iter().map(|k| k.2.scratch_bytes_per_worker).max().unwrap_or(0) * threads;
    let scratch = vec![Line([0; 8]); scratch.div_ceil(64)];
    let mut times = vec![vec![]; kernels.len()];
    for _ in 0..7 {
        for ((_, spans, kernel), times) in kernels.iter().zip(&mut times) {
            // SAFETY: kernels have this type.
            let run = *unsafe { object.get::<Kernel>(kernel.text.symbol.as_bytes()) }.expect("symbol");
            let mut buffers = vec![a.as_ptr() as usize, b.as_ptr() as usize];
            buffers.extend(spans.as_ref().map(|o| o.as_ptr() as usize));
            buffers.extend([c.as_ptr() as usize, scratch.as_ptr() as usize]);
            let once = || {
                let start = clock(threads);
                // SAFETY: buffers are at least of the sizes the kernel states.
                pool.run(kernel.grid, &|worker, lo, hi| unsafe {
                    run(buffers.as_ptr().cast(), lo as i64, hi as i64, worker as i64);
                })
                .expect("runs");
                clock(threads) - start
            };
            once();
            times.push(once().min(once()));
        }
    }
    println!("level {level}, {threads} threads, {operands:?} [{rows}, {input}] to {output}");
    for ((name, ..), mut times) in kernels.into_iter().zip(times) {
        times.sort_by(f64::total_cmp);
        let flops = 2.0 * (rows * input * output) as f64;
        println!("{name:18} {:6.1}", flops / times[times.len() / 2] / 1e9);
    }
}
