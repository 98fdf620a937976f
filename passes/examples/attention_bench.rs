//! Speed of the attention kernels, one thread: `cargo run --release --example attention_bench [level] [dtype] [seq]`.

use std::ffi::c_void;

use athanor_ir::target::CpuLevel;
use athanor_passes::codegen::Generated;
use athanor_passes::codegen::attention::{AttentionSpec, backward, forward};
use athanor_passes::codegen::llvm::build_shared_object;
use athanor_passes::codegen::simd::Float;

type Kernel = unsafe extern "C" fn(*const *mut c_void, i64, i64, i64);

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

/// Zeroed memory that starts on a cache line.
fn buffer(bytes: usize) -> (Vec<u8>, *mut c_void) {
    let mut bytes = vec![0u8; bytes + 64];
    let at = bytes.as_ptr().align_offset(64);
    let pointer = bytes[at..].as_mut_ptr().cast();
    (bytes, pointer)
}

/// Numbers of a softmax's usual range in every buffer.
fn fill(pointer: *mut c_void, dtype: Float, len: usize) {
    let mut state = 88172645463325252u64;
    for i in 0..len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let x = (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        // SAFETY: the caller passes a buffer of `len` elements.
        unsafe {
            match dtype {
                Float::F32 => pointer.cast::<f32>().add(i).write(x),
                Float::Bf16 => pointer.cast::<u16>().add(i).write((x.to_bits() >> 16) as u16),
                Float::F16 => pointer.cast::<half::f16>().add(i).write(half::f16::from_f32(x)),
            }
        }
    }
}

/// Seconds of the fastest and of the median of `rounds` calls over the whole grid.
fn time(library: &libloading::Library, kernel: &Generated, pointers: &[*mut c_void], rounds: usize) -> (f64, f64) {
    // SAFETY: built by `build_shared_object`, so the ABI is that of `Kernel`.
    let run = unsafe { library.get::<Kernel>(kernel.text.symbol.as_bytes()) }.expect("the symbol");
    let mut seconds: Vec<f64> = (0..rounds)
        .map(|_| {
            let start = cpu_seconds();
            // SAFETY: the buffers have the sizes that the kernel states.
            unsafe { run(pointers.as_ptr(), 0, kernel.grid as i64, 0) };
            cpu_seconds() - start
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    (seconds[0], seconds[rounds / 2])
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| args.iter().any(|a| a == name);
    let level = CpuLevel::ALL.into_iter().find(|l| has(l.name())).unwrap_or(CpuLevel::Avx512);
    let dtype = if has("bf16") { Float::Bf16 } else { Float::F32 };
    let seq = args.iter().find_map(|a| a.parse().ok()).unwrap_or(512);
    if level == CpuLevel::Amx {
        request_tiles();
    }
    let spec = AttentionSpec {
        batch: 8,
        seq,
        keys: seq,
        first: false,
        heads: 8,
        kv_heads: 4,
        head_dim: 64,
        v_head_dim: 64,
        scale: 0.125,
        causal: true,
        alibi: false,
        dtype,
    };
    let kernels = [forward(&spec, level, "fwd"), backward(&spec, level, "bwd")];
    let folder = tempfile::tempdir().expect("a temporary folder");
    let out = folder.path().join("k.so");
    let texts: Vec<_> = kernels.iter().map(|k| k.text.clone()).collect();
    let report = build_shared_object(&texts, level, None, &out).unwrap_or_else(|e| panic!("{e}"));
    println!("{level} {} seq {seq}; build {:.2?}", dtype.name(), report.total);
    if let Some(keep) = std::env::var_os("KEEP") {
        std::fs::copy(&out, keep).expect("a copy of the object");
    }
    // SAFETY: the library was just built and has no initialisers.
    let library = unsafe { libloading::Library::new(&out) }.expect("the library");

    let q_len = spec.batch * seq * spec.heads * spec.head_dim;
    let kv_len = q_len / spec.group();
    let scratch = kernels.iter().map(|k| k.scratch_bytes_per_worker).max().unwrap_or(0);
    let sizes = [q_len, kv_len, kv_len, q_len, spec.batch * spec.heads * seq, q_len, q_len, kv_len, kv_len, scratch];
    let buffers: Vec<_> = sizes.iter().map(|len| buffer(len * 4)).collect();
    let p: Vec<*mut c_void> = buffers.iter().map(|b| b.1).collect();
    for i in [0, 1, 2, 5] {
        fill(p[i], dtype, sizes[i]);
    }
    for round in 0..3 {
        let (best, median) = time(&library, &kernels[0], &[p[0], p[1], p[2], p[3], p[4], p[9]], 9);
        let rate = |s: f64| spec.forward_flops() as f64 / s / 1e9;
        println!(
            "round {round} forward  {:6.2} ms best: {:6.1} GFLOP/s, median {:6.1}",
            best * 1e3,
            rate(best),
            rate(median)
        );
        let (best, median) = time(&library, &kernels[1], &p, 9);
        let rate = |s: f64| spec.backward_flops() as f64 / s / 1e9;
        println!(
            "round {round} backward {:6.2} ms best: {:6.1} GFLOP/s, median {:6.1}",
            best * 1e3,
            rate(best),
            rate(median)
        );
    }
}

/// Asks Linux for the tile registers of this process.
fn request_tiles() {
    let result: i64;
    // SAFETY: arch_prctl(ARCH_REQ_XCOMP_PERM, 18) takes two integers and touches no memory of this process.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") 158i64 => result, in("rdi") 0x1023i64, in("rsi") 18i64,
            lateout("rcx") _, lateout("r11") _);
    }
    assert!(result == 0, "this machine grants no tile registers");
}
