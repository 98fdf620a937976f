//! Speed of the cross-entropy, rotary and token embedding kernels, one thread, against a copy of the same memory:
//! `cargo run --release --example token_bench [level] [bf16]`.

use std::ffi::c_void;

use athanor_ir::target::CpuLevel;
use athanor_passes::codegen::Generated;
use athanor_passes::codegen::cross_entropy::{
    CrossEntropySpec, GradTo, cross_entropy, cross_entropy_grad, cross_entropy_with_grad,
};
use athanor_passes::codegen::embed::{EmbedSpec, embed, embed_grad};
use athanor_passes::codegen::llvm::build_shared_object;
use athanor_passes::codegen::rope::{Pairing, RopeSpec, rope};
use athanor_passes::codegen::simd::Float;

type Kernel = unsafe extern "C" fn(*const *mut c_void, i64, i64, i64);

const TOKENS: usize = 1024;
const VOCAB: usize = 32_000;
const HIDDEN: usize = 512;

unsafe extern "C" {
    fn clock_gettime(clock: i32, time: *mut [i64; 2]) -> i32;
}

/// Seconds this thread has spent on a CPU, which other work on the machine does not lengthen.
fn cpu_seconds() -> f64 {
    const THREAD_CPU_TIME: i32 = 3;
    let mut time = [0i64; 2];
    // SAFETY: on 64-bit Linux `timespec` is two 64-bit integers.
    let result = unsafe { clock_gettime(THREAD_CPU_TIME, &raw mut time) };
    assert!(result == 0, "no CPU clock");
    time[0] as f64 + time[1] as f64 * 1e-9
}

/// Random words that are numbers between -4 and 4 in the type (two to a word in bf16).
fn numbers(words: usize, dtype: Float) -> Vec<u32> {
    let mut state = 88172645463325252u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * 4.0
    };
    (0..words)
        .map(|_| match dtype {
            Float::F32 => next().to_bits(),
            Float::Bf16 => (next().to_bits() & 0xffff_0000) | next().to_bits() >> 16,
            Float::F16 => {
                [next(), next()].map(|x| u32::from(half::f16::from_f32(x).to_bits())).iter().fold(0, |w, h| w << 16 | h)
            }
        })
        .collect()
}

/// Numbers too small for the normal range count as 0, as in the workers of the runtime.
fn flush_denormals() {
    let control = 0x9fc0u32;
    // SAFETY: loads the rounding and exception control of this thread with every exception masked.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const control) };
}

fn median(mut run: impl FnMut()) -> f64 {
    let mut seconds: Vec<f64> = (0..7)
        .map(|_| {
            let start = cpu_seconds();
            run();
            cpu_seconds() - start
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[3]
}

fn main() {
    flush_denormals();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| args.iter().any(|a| a == name);
    let level = CpuLevel::ALL.into_iter().find(|l| has(l.name())).unwrap_or(CpuLevel::Avx512);
    let dtype = if has("bf16") { Float::Bf16 } else { Float::F32 };
    let ce = CrossEntropySpec { tokens: TOKENS, vocab: VOCAB, dtype };
    let table = EmbedSpec { tokens: 8 * TOKENS, vocab: VOCAB, hidden: HIDDEN, dtype };
    let turn = RopeSpec {
        batch: 8,
        seq: TOKENS,
        heads: 8,
        head_dim: 64,
        rotary_dim: 64,
        pairing: Pairing::Halves,
        inverse: false,
        dtype,
    };
    // Per kernel: sizes of its buffers in bytes, and how many bytes it must move at least.
    let (logits, rows) = (TOKENS * VOCAB * dtype.bytes(), 8 * TOKENS * HIDDEN * dtype.bytes());
    let (per_token, ids, tables) = (TOKENS * 4, 8 * TOKENS * 4, VOCAB * HIDDEN * dtype.bytes());
    let angles = TOKENS * 32 * 4;
    let cases: Vec<(Generated, Vec<usize>, usize)> = vec![
        (cross_entropy(&ce, level, "loss"), vec![logits, per_token, per_token, per_token], logits),
        (
            cross_entropy_grad(&ce, GradTo::InPlace, level, "loss_grad"),
            vec![logits, per_token, per_token, per_token],
            2 * logits,
        ),
        (cross_entropy_with_grad(&ce, level, "loss_both"), vec![logits, per_token, per_token, per_token], 2 * logits),
        (rope(&turn, level, "rope"), vec![rows, angles, angles, rows], 2 * rows),
        (embed(&table, level, "embed"), vec![ids, tables, rows], 2 * rows),
        (embed_grad(&table, level, "embed_grad"), vec![ids, rows, VOCAB * HIDDEN * 4], VOCAB * HIDDEN * 4 + rows),
    ];
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("k.so");
    let texts: Vec<_> = cases.iter().map(|(kernel, _, _)| kernel.text.clone()).collect();
    build_shared_object(&texts, level, None, &out).unwrap_or_else(|e| panic!("{e}"));
    // SAFETY: the library was just built and has no initialisers.
    let library = unsafe { libloading::Library::new(&out) }.expect("the library");
    for (kernel, sizes, moved) in &cases {
        let mut buffers: Vec<Vec<u32>> = sizes.iter().map(|bytes| numbers(bytes.div_ceil(4), dtype)).collect();
        if kernel.text.symbol.starts_with("embed") {
            buffers[0].iter_mut().for_each(|id| *id %= VOCAB as u32);
        }
        let pointers: Vec<*mut c_void> = buffers.iter_mut().map(|b| b.as_mut_ptr().cast()).collect();
        // SAFETY: built by `build_shared_object`, so the ABI is that of `Kernel`.
        let run = unsafe { library.get::<Kernel>(kernel.text.symbol.as_bytes()) }.expect("the symbol");
        // SAFETY: the buffers have the sizes that the kernel states.
        let seconds = median(|| unsafe { run(pointers.as_ptr(), 0, kernel.grid as i64, 0) });
        let (from, mut to) = (vec![1u8; moved / 2], vec![2u8; moved / 2]);
        let copy = median(|| to.copy_from_slice(std::hint::black_box(&from)));
        println!(
            "{:10} {level} {}: {:7.2} ms, {:5.1} GB/s, {:.2} of a copy",
            kernel.text.symbol,
            dtype.name(),
            seconds * 1e3,
            *moved as f64 / seconds / 1e9,
            copy / seconds
        );
    }
}
