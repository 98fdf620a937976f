//! First values of weights: a function of seed, name and element index alone, so that every mesh draws the same.
//!
//! A weight has its own stream of `SplitMix64`, keyed by the first 8 bytes of `blake3(seed as 8 bytes, name)`; output k of the
//! stream is a function of k (it is counter-based). Elements 2j and 2j+1 (row-major, of the whole tensor) are the cosine and
//! the sine of Box and Muller's method on outputs 2j+1 and 2j+2. Logarithm and sine come from a library in pure Rust, so the
//! bits do not depend on the system either.

use athanor_backends::cpu::pool::Pool;
use athanor_ir::func::Init;
use athanor_ir::sharding::Slice;
use athanor_ir::{DType, Result};
use half::{bf16, f16};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Elements that a worker fills at a time.
const CHUNK: usize = 1 << 14;

/// The stream of one weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    key: u64,
}

impl Stream {
    /// The stream of weight `name` under `seed`.
    pub fn new(seed: u64, name: &str) -> Self {
        let mut hash = blake3::Hasher::new();
        hash.update(&seed.to_le_bytes()).update(name.as_bytes());
        let bytes = *hash.finalize().as_bytes();
        Self { key: u64::from_le_bytes(std::array::from_fn(|i| bytes[i])) }
    }

    /// Output `k` (from 1): `SplitMix64` of Steele, Lea and Flood.
    fn output(self, k: u64) -> u64 {
        let mut z = self.key.wrapping_add(k.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Standard normal elements 2j and 2j+1.
    pub fn pair(self, j: u64) -> (f64, f64) {
        // 53 bits, never 0: the logarithm is finite.
        let unit = |z: u64| ((z >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        let (u, v) = (unit(self.output(2 * j + 1)), unit(self.output(2 * j + 2)));
        let radius = libm::sqrt(-2.0 * libm::log(u));
        let (sin, cos) = libm::sincos(std::f64::consts::TAU * v);
        (radius * cos, radius * sin)
    }
}

/// Fills `bytes`, elements of `dtype` that are the part `slice` of a weight, with all workers.
///
/// # Errors
/// Only if a worker fails.
pub fn fill(bytes: &mut [u8], dtype: DType, init: &Init, stream: Stream, slice: &Slice, pool: &Pool) -> Result<()> {
    // Each chunk is locked once, by the worker that fills it.
    let chunks: Vec<Mutex<&mut [u8]>> = bytes.chunks_mut(CHUNK * dtype.bytes()).map(Mutex::new).collect();
    pool.run(chunks.len(), &|_, lo, hi| {
        for (c, chunk) in chunks.iter().enumerate().take(hi).skip(lo) {
            let mut chunk = chunk.lock().unwrap_or_else(PoisonError::into_inner);
            let (size, first) = (dtype.bytes(), c * CHUNK);
            let count = chunk.len() / size;
            for run in slice.runs_in(first..first + count) {
                let at = run.local - first;
                let place = &mut chunk[at * size..(at + run.len) * size];
                write(place, dtype, &values(init, stream, run.global..run.global + run.len));
            }
        }
    })
}

/// Elements `range` of a weight.
fn values(init: &Init, stream: Stream, range: Range<usize>) -> Vec<f64> {
    match init {
        Init::Constant { value } => vec![*value; range.len()],
        Init::Normal { std } => {
            let pairs = range.start / 2..range.end.div_ceil(2);
            let mut out: Vec<f64> = pairs
                .flat_map(|j| {
                    let (a, b) = stream.pair(j as u64);
                    [std * a, std * b]
                })
                .collect();
            // A range that begins with the second of a pair leaves the first one out.
            out.drain(..range.start % 2);
            out.truncate(range.len());
            out
        }
    }
}

/// Writes `values` as `dtype`, rounded to nearest even.
pub(crate) fn write(bytes: &mut [u8], dtype: DType, values: &[f64]) {
    fn each<const N: usize>(bytes: &mut [u8], values: &[f64], f: impl Fn(f64) -> [u8; N]) {
        for (place, v) in bytes.chunks_exact_mut(N).zip(values) {
            place.copy_from_slice(&f(*v));
        }
    }
    match dtype {
        DType::F64 => each(bytes, values, f64::to_ne_bytes),
        DType::F32 => each(bytes, values, |v| (v as f32).to_ne_bytes()),
        DType::BF16 => each(bytes, values, |v| bf16::from_f64(v).to_ne_bytes()),
        DType::F16 => each(bytes, values, |v| f16::from_f64(v).to_ne_bytes()),
        DType::I32 => each(bytes, values, |v| (v as i32).to_ne_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(threads: usize, count: usize, seed: u64, name: &str) -> Vec<f32> {
        let mut bytes = vec![0; 4 * count];
        let pool = Pool::new(threads).unwrap();
        let all = Slice::all(&[count]);
        fill(&mut bytes, DType::F32, &Init::Normal { std: 0.02 }, Stream::new(seed, name), &all, &pool).unwrap();
        bytes.chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap())).collect()
    }

    #[test]
    fn values_do_not_depend_on_workers_or_size() {
        let one = normal(1, 50_001, 7, "w");
        assert_eq!(one, normal(3, 50_001, 7, "w"));
        assert_eq!(one[..100], normal(1, 100, 7, "w"));
        assert_ne!(one[..8], normal(1, 8, 8, "w"));
        assert_ne!(one[..8], normal(1, 8, 7, "v"));
    }

    #[test]
    fn a_part_has_the_values_of_the_whole() {
        let (whole, pool) = (normal(2, 300 * 201, 7, "w"), Pool::new(2).unwrap());
        for (start, len) in [([0, 67], [300, 67]), ([150, 0], [150, 201]), ([7, 1], [3, 9])] {
            let slice = Slice { dims: vec![300, 201], start: start.to_vec(), len: len.to_vec() };
            let mut bytes = vec![0; 4 * slice.elements()];
            fill(&mut bytes, DType::F32, &Init::Normal { std: 0.02 }, Stream::new(7, "w"), &slice, &pool).unwrap();
            let part: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap())).collect();
            for (i, x) in part.iter().enumerate() {
                let (r, c) = (start[0] + i / len[1], start[1] + i % len[1]);
                assert_eq!(*x, whole[r * 201 + c], "{start:?} element {i}");
            }
        }
    }

    #[test]
    fn the_bits_are_fixed() {
        // A change here would start every run elsewhere.
        let got: Vec<u32> = normal(1, 4, 42, "model.embed_tokens.weight").iter().map(|x| x.to_bits()).collect();
        assert_eq!(got, FIRST);
    }
    const FIRST: [u32; 4] = [3_129_791_024, 3_152_619_568, 3_158_589_733, 999_154_209];

    #[test]
    fn moments_are_those_of_a_normal_distribution() {
        let x = normal(2, 200_000, 1, "w");
        let n = x.len() as f64;
        let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let var = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
        let fourth = x.iter().map(|v| (f64::from(*v) - mean).powi(4)).sum::<f64>() / n;
        // Five standard errors of each.
        assert!(mean.abs() < 5.0 * 0.02 / n.sqrt());
        assert!((var.sqrt() / 0.02 - 1.0).abs() < 5.0 / (2.0 * n).sqrt());
        assert!((fourth / var.powi(2) - 3.0).abs() < 5.0 * (96.0 / n).sqrt());
        // Neighbours are uncorrelated.
        let lag = x.windows(2).map(|w| f64::from(w[0]) * f64::from(w[1])).sum::<f64>() / n / var;
        assert!(lag.abs() < 5.0 / n.sqrt());
    }

    #[test]
    fn constants_fill_every_dtype() {
        let pool = Pool::new(1).unwrap();
        for dtype in [DType::F64, DType::F32, DType::BF16, DType::F16] {
            let mut bytes = vec![0xff; 6 * dtype.bytes()];
            let init = Init::Constant { value: 1.0 };
            fill(&mut bytes, dtype, &init, Stream::new(0, "n"), &Slice::all(&[6]), &pool).unwrap();
            let mut want = vec![0; bytes.len()];
            write(&mut want, dtype, &[1.0; 6]);
            assert_eq!(bytes, want);
            assert!(bytes.iter().any(|b| *b != 0));
        }
    }
}
