//! GFLOP/s of oneDNN's and our own products on the shapes of workload w1, interleaved in one run.
//!
//!     cargo run --release -p athanor-passes --example gemm_bench -- [f32|bf16|all] [THREADS] [FILTER]
//!
//! On one thread the time is the thread's CPU time, which a busy machine disturbs less; on more it is wall-clock time.
//! Every product is run in turn by each contestant, several rounds over; the median is printed. Results are compared, so
//! a wrong kernel cannot win.

use std::ffi::c_void;

use athanor_backends::cpu::features;
use athanor_backends::cpu::onednn::OneDnn;
use athanor_backends::cpu::pool::Pool;
use athanor_ir::DType;
use athanor_ir::plan::{GemmSpec, MatRef};
use athanor_passes::codegen::Generated;
use athanor_passes::codegen::gemm::generate;
use athanor_passes::codegen::llvm::build_shared_object;

type Kernel = unsafe extern "C" fn(*const *mut c_void, i64, i64, i64);

/// Tokens per micro-batch, width, feed-forward width, keys' width, vocabulary, tokens per chunk of the loss.
const T: usize = 4096;
const H: usize = 512;
const F: usize = 1536;
const KV: usize = 256;
const V: usize = 32000;
const CHUNK: usize = 512;

/// The products of a linear layer: name, (tokens, out, in).
const LAYERS: [(&str, usize, usize, usize); 5] =
    [("q,o", T, H, H), ("k,v", T, KV, H), ("gate,up", T, F, H), ("down", T, H, F), ("head", CHUNK, V, H)];

fn specs(x: DType, grad: DType) -> Vec<(String, GemmSpec)> {
    let row = |dtype, cols| MatRef { dtype, row_stride: cols, col_stride: 1 };
    let col = |dtype, rows| MatRef { dtype, row_stride: 1, col_stride: rows };
    let mut all = vec![];
    // `SHAPE=tokens,out,in` measures another linear layer instead.
    let shape: Option<Vec<usize>> =
        std::env::var("SHAPE").ok().map(|s| s.split(',').filter_map(|d| d.parse().ok()).collect());
    let layers = match shape.as_deref() {
        Some(&[t, o, i]) => vec![("SHAPE", t, o, i)],
        _ => LAYERS.to_vec(),
    };
    for (name, t, o, i) in layers {
        // y = x·Wᵀ, dx = dy·W, dW = dyᵀ·x with W of shape [o, i].
        let forward = GemmSpec { m: t, n: o, k: i, a: row(x, i), b: col(x, i), c: row(x, o), accumulate: false };
        let dgrad = GemmSpec { m: t, n: i, k: o, a: row(x, o), b: row(x, i), c: row(x, i), accumulate: false };
        let wgrad = GemmSpec { m: o, n: i, k: t, a: col(x, o), b: row(x, i), c: row(grad, i), accumulate: true };
        all.extend([
            (format!("{name} forward"), forward),
            (format!("{name} dgrad"), dgrad),
            (format!("{name} wgrad"), wgrad),
        ]);
    }
    all
}

/// A cache line. Buffers of a plan are aligned to it, and a tile row that straddles two lines costs double.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u64; 8]);

/// A buffer of `elements`, 64-byte aligned, with small values that differ.
fn buffer(dtype: DType, elements: usize, seed: u32) -> Vec<Line> {
    let mut all = vec![Line([0; 8]); (elements * dtype.bytes()).div_ceil(64)];
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    match dtype {
        DType::BF16 => {
            let all: &mut [half::bf16] = bytemuck::cast_slice_mut(&mut all);
            for v in all {
                *v = half::bf16::from_f32(next());
            }
        }
        _ => bytemuck::cast_slice_mut::<_, f32>(&mut all).iter_mut().for_each(|v| *v = next()),
    }
    all
}

fn value(dtype: DType, buffer: &[Line], i: usize) -> f64 {
    match dtype {
        DType::BF16 => bytemuck::cast_slice::<_, half::bf16>(buffer)[i].to_f64(),
        _ => f64::from(bytemuck::cast_slice::<_, f32>(buffer)[i]),
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let which = args.first().map_or("all", String::as_str);
    let threads = args.get(1).and_then(|t| t.parse().ok()).unwrap_or(2);
    let filter = args.get(2).cloned().unwrap_or_default();
    let level = features::detect();
    let pool = Pool::new(threads).expect("threads");
    let library = OneDnn::load();
    println!(
        "level {level}, {threads} threads, oneDNN {}",
        library.as_ref().map_or("missing".into(), |l| l.major().to_string())
    );
    let mut runs = vec![];
    if which != "bf16" {
        runs.push(("f32", specs(DType::F32, DType::F32)));
    }
    if which != "f32" {
        runs.push(("bf16", specs(DType::BF16, DType::F32)));
    }
    for (dtype, specs) in runs {
        let specs: Vec<_> = specs.into_iter().filter(|(name, _)| name.contains(&filter)).collect();
        let generated: Vec<Generated> = specs
            .iter()
            .enumerate()
            .map(|(i, (_, spec))| generate(spec, level, &format!("gemm{i}")).expect("generated"))
            .collect();
        let out = std::env::temp_dir().join(format!("gemm-bench-{}.so", std::process::id()));
        let texts: Vec<_> = generated.iter().map(|g| g.text.clone()).collect();
        let report = build_shared_object(&texts, level, None, &out).expect("built");
        let slowest = report.kernels.iter().map(|k| k.lower + k.optimize + k.emit).max().unwrap_or_default();
        println!("{} kernels compiled in {:.0?}, the slowest in {slowest:.0?}", texts.len(), report.total);
        // SAFETY: the library was just built from the kernels above.
        let object = unsafe { libloading::Library::new(&out) }.expect("loads");
        // `KEEP=FILE` leaves the shared object for a disassembler.
        if let Some(keep) = std::env::var_os("KEEP") {
            std::fs::copy(&out, keep).expect("copied");
        }
        let _ = std::fs::remove_file(&out);

        println!("{dtype:5} {:16} {:>6} {:>6} {:>6}  {:>8} {:>8}  ours/oneDNN", "", "m", "n", "k", "oneDNN", "ours");
        let (mut sums, mut work) = ([0.0f64; 2], 0.0);
        for ((name, spec), generated) in specs.iter().zip(&generated) {
            // SAFETY: kernels have this type.
            let kernel = *unsafe { object.get::<Kernel>(generated.text.symbol.as_bytes()) }.expect("symbol");
            let times = bench(&pool, library.as_ref(), spec, generated, kernel);
            let flops = 2.0 * (spec.m * spec.n * spec.k) as f64;
            let [theirs, ours] = times.map(|t| flops / t / 1e9);
            println!(
                "{dtype:5} {name:16} {:6} {:6} {:6}  {theirs:8.0} {ours:8.0}  {:.2}",
                spec.m,
                spec.n,
                spec.k,
                ours / theirs
            );
            sums = [sums[0] + times[0], sums[1] + times[1]];
            work += flops;
        }
        let [theirs, ours] = sums.map(|t| work / t / 1e9);
        println!("{dtype:5} {:16} {:6} {:6} {:6}  {theirs:8.0} {ours:8.0}  {:.2}", "all", "", "", "", ours / theirs);
    }
}

/// Median seconds of oneDNN and of ours.
fn bench(pool: &Pool, library: Option<&OneDnn>, spec: &GemmSpec, generated: &Generated, kernel: Kernel) -> [f64; 2] {
    let a = buffer(spec.a.dtype, spec.m * spec.k, 1);
    let b = buffer(spec.b.dtype, spec.k * spec.n, 2);
    let zero = vec![Line([0; 8]); (spec.m * spec.n * spec.c.dtype.bytes()).div_ceil(64)];
    let mut results = [zero.clone(), zero];
    let mut scratch = vec![Line([0; 8]); (generated.scratch_bytes_per_worker * pool.threads()).div_ceil(64)];
    let pointers = results.each_mut().map(|c| c.as_mut_ptr() as usize);
    let scratch = scratch.as_mut_ptr() as usize;
    // SAFETY: buffers are of the spec's sizes.
    let try_once = |l: &&OneDnn| unsafe {
        l.run(pool, spec, a.as_ptr().cast(), b.as_ptr().cast(), pointers[0] as *mut c_void).is_ok()
    };
    // What the library refuses it does not compete in.
    let library = library.filter(try_once);
    results[0].fill(Line([0; 8]));
    let run = |who: usize| {
        let start = clock(pool.threads());
        if who == 1 {
            pool.run(generated.grid, &|worker, lo, hi| {
                let buffers: [*mut c_void; 4] = [
                    a.as_ptr().cast_mut().cast(),
                    b.as_ptr().cast_mut().cast(),
                    pointers[1] as *mut c_void,
                    scratch as *mut c_void,
                ];
                // SAFETY: buffers are of the spec's sizes.
                unsafe { kernel(buffers.as_ptr(), lo as i64, hi as i64, worker as i64) };
            })
            .expect("runs");
        } else if let Some(library) = library {
            // SAFETY: as above.
            unsafe { library.run(pool, spec, a.as_ptr().cast(), b.as_ptr().cast(), pointers[0] as *mut c_void) }
                .expect("runs");
        }
        clock(pool.threads()) - start
    };
    let mut times = [vec![], vec![]];
    for round in 0..rounds() {
        for who in [0, 1] {
            // Alternating who goes first evens out what one leaves in the caches for the other.
            let who = (who + round) % 2;
            run(who);
            times[who].push((0..3).map(|_| run(who)).fold(f64::MAX, f64::min));
        }
    }
    if library.is_some() && std::env::var_os("NOCHECK").is_none() {
        let runs = if spec.accumulate { 4 * rounds() } else { 1 } as f64;
        for i in (0..spec.m * spec.n).step_by(997) {
            let [theirs, ours] = [0, 1].map(|who| value(spec.c.dtype, &results[who], i) / runs);
            let tolerance =
                if spec.c.dtype == DType::BF16 { 0.02 * ours.abs() + 0.2 } else { 1e-3 * (spec.k as f64).sqrt() };
            assert!((theirs - ours).abs() <= tolerance, "{spec:?} at {i}: oneDNN {theirs}, ours {ours}");
        }
    }
    if library.is_none() {
        times[0] = vec![f64::NAN];
    }
    times.map(median)
}

/// Seconds on the clock that fits the number of threads.
fn clock(threads: usize) -> f64 {
    let id = if threads == 1 { libc::CLOCK_THREAD_CPUTIME_ID } else { libc::CLOCK_MONOTONIC };
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the local.
    unsafe { libc::clock_gettime(id, &raw mut now) };
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}

fn rounds() -> usize {
    std::env::var("ROUNDS").ok().and_then(|r| r.parse().ok()).unwrap_or(7)
}
