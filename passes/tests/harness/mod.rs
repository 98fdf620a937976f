//! Builds generated kernels, loads them and runs them over a split grid.
#![allow(dead_code, reason = "each test program uses its part")]

pub mod against;
mod tiles;
pub use std::ffi::c_void;
use std::path::Path;

use athanor_ir::Result;
use athanor_ir::target::CpuLevel;
use athanor_passes::codegen::Generated;
use athanor_passes::codegen::llvm::{BuildReport, Instructions, KernelText, build_shared_object, build_with};
use athanor_passes::codegen::simd::Float;

/// What kernels are called as.
pub type Kernel = unsafe extern "C" fn(*const *mut c_void, i64, i64, i64);

/// Levels that this machine runs, the highest only if the kernel grants tile registers.
pub fn levels() -> Vec<CpuLevel> {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let v4 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    let amx = v4 && is_x86_feature_detected!("avx512bf16") && tiles_granted();
    [(CpuLevel::Portable, true), (CpuLevel::Avx2, avx2), (CpuLevel::Avx512, v4), (CpuLevel::Amx, amx)]
        .into_iter()
        .filter_map(|(level, ok)| ok.then_some(level))
        .collect()
}

/// Asks Linux for the tile registers of this process.
fn tiles_granted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST_PERMISSION: i64 = 0x1023;
    const TILE_DATA: i64 = 18;
    let result: i64;
    // SAFETY: the system call takes two integers and touches no memory of this process.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") REQUEST_PERMISSION, in("rsi") TILE_DATA,
            lateout("rcx") _, lateout("r11") _);
    }
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    result == 0 && text.contains("amx_bf16")
}

/// A buffer of floats or bytes that kernels write through a shared reference.
#[derive(Clone)]
pub struct Tensor {
    dtype: Float,
    // Aligned to 16 bytes as they are, to 64 from `offset` on.
    words: Vec<u128>,
    offset: usize,
    len: usize,
}

impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        self.bits() == other.bits()
    }
}

impl Tensor {
    fn new(dtype: Float, len: usize) -> Self {
        let words = vec![0u128; (len * 4).div_ceil(16) + 4];
        let offset = (0..4).find(|i| (words.as_ptr() as usize + 16 * i).is_multiple_of(64)).unwrap_or(0);
        Self { dtype, words, offset, len }
    }

    /// Values in -1..1 that the type holds exactly.
    pub fn random(dtype: Float, len: usize, seed: u64) -> Self {
        let mut tensor = Self::new(dtype, len);
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for i in 0..len {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            tensor.set(i, ((state >> 40) as f64 / f64::from(1 << 23) - 1.0) as f32);
        }
        tensor
    }

    /// A value that no result has, so that an element left unwritten shows.
    pub fn filled(dtype: Float, len: usize) -> Self {
        let mut tensor = Self::new(dtype, len);
        for i in 0..len {
            tensor.set(i, 1e30);
        }
        tensor
    }

    /// The values given, rounded to the type.
    pub fn of(dtype: Float, values: &[f32]) -> Self {
        let mut tensor = Self::new(dtype, values.len());
        for (i, x) in values.iter().enumerate() {
            tensor.set(i, *x);
        }
        tensor
    }

    /// Integers, in a buffer of the size of f32.
    pub fn ints(values: &[i32]) -> Self {
        Self::of(Float::F32, &values.iter().map(|x| f32::from_bits(*x as u32)).collect::<Vec<_>>())
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn ptr(&self) -> *mut c_void {
        self.words[self.offset..].as_ptr().cast_mut().cast()
    }

    pub fn set(&mut self, i: usize, x: f32) {
        assert!(i < self.len);
        // SAFETY: `i` is below the length the buffer was made for.
        unsafe {
            match self.dtype {
                Float::F32 => self.ptr().cast::<f32>().add(i).write(x),
                Float::Bf16 => {
                    let bits = x.to_bits();
                    self.ptr().cast::<u16>().add(i).write(((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16);
                }
                Float::F16 => self.ptr().cast::<half::f16>().add(i).write(half::f16::from_f32(x)),
            }
        }
    }

    fn bits(&self) -> Vec<u32> {
        // SAFETY: the buffer holds `len` elements of the type.
        (0..self.len)
            .map(|i| unsafe {
                match self.dtype {
                    Float::F32 => self.ptr().cast::<u32>().add(i).read_volatile(),
                    Float::Bf16 => u32::from(self.ptr().cast::<u16>().add(i).read_volatile()) << 16,
                    Float::F16 => self.ptr().cast::<half::f16>().add(i).read_volatile().to_f32().to_bits(),
                }
            })
            .collect()
    }

    /// Contents of a buffer of integers.
    pub fn i32s(&self) -> Vec<i32> {
        self.bits().into_iter().map(|b| b as i32).collect()
    }

    pub fn f64s(&self) -> Vec<f64> {
        self.bits().into_iter().map(|b| f64::from(f32::from_bits(b))).collect()
    }
}

/// A loaded shared object of kernels.
pub struct Library {
    library: libloading::Library,
    _folder: tempfile::TempDir,
}

impl Library {
    pub fn build(kernels: &[Generated], level: CpuLevel) -> Self {
        Self::build_of(kernels, |texts, out| build_shared_object(texts, level, None, out))
    }

    fn build_of(kernels: &[Generated], build: impl Fn(&[KernelText], &Path) -> Result<BuildReport>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("k.so");
        let texts: Vec<_> = kernels.iter().map(|k| k.text.clone()).collect();
        build(&texts, &out).unwrap_or_else(|e| panic!("{e}"));
        // SAFETY: the library was just built and has no initialisers.
        let library = unsafe { libloading::Library::new(&out) }.unwrap();
        Self { library, _folder: folder }
    }

    /// The kernel exported as `symbol`.
    pub fn kernel(&self, symbol: &str) -> Kernel {
        // SAFETY: built by `build_shared_object`, so the ABI is that of `Kernel`.
        *unsafe { self.library.get::<Kernel>(symbol.as_bytes()) }.unwrap()
    }

    /// The same for a level that this machine may lack: its wide vectors become several narrow ones, and tile instructions
    /// are carried out one by one.
    pub fn build_anywhere(kernels: &[Generated], level: CpuLevel) -> Self {
        let here = levels();
        if here.contains(&level) {
            return Self::build(kernels, level);
        }
        let tiles = level == CpuLevel::Amx;
        if tiles {
            tiles::emulate();
        }
        let vectors = here.last().copied().unwrap_or(CpuLevel::Portable);
        Self::build_of(kernels, |texts, out| build_with(texts, Instructions { vectors, tiles }, None, out))
    }

    /// Runs the grid split into `workers` uneven parts, last part first, each with its own scratch.
    pub fn run(&self, kernel: &Generated, workers: usize, buffers: &[&Tensor]) {
        let scratch = Tensor::random(Float::F32, (workers * kernel.scratch_bytes_per_worker).div_ceil(4), 9);
        let mut pointers: Vec<*mut c_void> = buffers.iter().map(|t| t.ptr()).collect();
        if kernel.scratch_bytes_per_worker > 0 {
            pointers.push(scratch.ptr());
        }
        assert_eq!(pointers.len(), kernel.text.buffers);
        let run = self.kernel(&kernel.text.symbol);
        for worker in (0..workers).rev() {
            let (lo, hi) = (worker * kernel.grid / workers, (worker + 1) * kernel.grid / workers);
            // SAFETY: the caller passes buffers of the sizes the kernel states.
            unsafe { run(pointers.as_ptr(), lo as i64, hi as i64, worker as i64) };
        }
    }
}
