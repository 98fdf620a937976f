//! Matrix products in plain Rust: what is left when neither the library nor a generated kernel can do one.

use super::pool::Pool;
use athanor_ir::plan::{GemmSpec, MatRef};
use athanor_ir::{DType, Result};
use half::{bf16, f16};
use std::ffi::c_void;

/// Rows of C, columns of C and depth that are worked on at a time: the packed blocks stay in the second-level cache.
const ROWS: usize = 32;
const COLS: usize = 128;
const DEPTH: usize = 256;

/// Base pointers of A, B and C.
struct Operands([*mut c_void; 3]);
// SAFETY: workers write disjoint rows of C and only read A and B.
unsafe impl Sync for Operands {}

/// Computes `spec` with all workers of `pool`, each a fixed range of row blocks of C.
///
/// Products are summed in f32, in f64 if an operand has it; the result does not depend on the number of workers.
///
/// # Safety
/// The pointers lead to operands of the shapes, strides and dtypes in `spec`; C overlaps neither of the others, and no
/// two elements of C share a byte.
pub(super) unsafe fn run(pool: &Pool, spec: &GemmSpec, operands: [*mut c_void; 3]) -> Result<()> {
    let wide = [spec.a, spec.b, spec.c].iter().any(|r| r.dtype == DType::F64);
    let operands = Operands(operands);
    pool.run(spec.m.div_ceil(ROWS), &|_, lo, hi| {
        // Borrowed whole, so that the closure captures the wrapper that may cross threads.
        let operands = &operands;
        for block in lo..hi {
            let rows = block * ROWS..((block + 1) * ROWS).min(spec.m);
            // SAFETY: as the caller promises; row blocks of C are disjoint.
            unsafe { if wide { rows_of::<f64>(spec, rows, operands) } else { rows_of::<f32>(spec, rows, operands) } }
        }
    })
}

/// A type to sum in.
trait Sum: Copy + Default + std::ops::Mul<Output = Self> + std::ops::AddAssign {
    fn from_f64(x: f64) -> Self;
    fn to_f64(self) -> f64;
}
impl Sum for f32 {
    fn from_f64(x: f64) -> Self {
        x as f32
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
}
impl Sum for f64 {
    fn from_f64(x: f64) -> Self {
        x
    }
    fn to_f64(self) -> f64 {
        self
    }
}

/// Rows `rows` of C.
///
/// # Safety
/// As for [`run`].
unsafe fn rows_of<T: Sum>(spec: &GemmSpec, rows: std::ops::Range<usize>, operands: &Operands) {
    let [a, b, c] = operands.0;
    let height = rows.len();
    let (mut packed_a, mut packed_b) = (vec![T::default(); ROWS * DEPTH], vec![T::default(); DEPTH * COLS]);
    let mut tile = [T::default(); ROWS * COLS];
    for first_col in (0..spec.n).step_by(COLS) {
        let width = COLS.min(spec.n - first_col);
        for i in 0..height {
            for j in 0..width {
                tile[i * COLS + j] = if spec.accumulate {
                    // SAFETY: inside C.
                    unsafe { T::from_f64(load(c, spec.c, rows.start + i, first_col + j)) }
                } else {
                    T::default()
                };
            }
        }
        for first in (0..spec.k).step_by(DEPTH) {
            let depth = DEPTH.min(spec.k - first);
            for i in 0..height {
                for l in 0..depth {
                    // SAFETY: inside A.
                    packed_a[i * DEPTH + l] = unsafe { T::from_f64(load(a, spec.a, rows.start + i, first + l)) };
                }
            }
            for l in 0..depth {
                for j in 0..width {
                    // SAFETY: inside B.
                    packed_b[l * COLS + j] = unsafe { T::from_f64(load(b, spec.b, first + l, first_col + j)) };
                }
            }
            for i in 0..height {
                let sums = &mut tile[i * COLS..i * COLS + width];
                for l in 0..depth {
                    let x = packed_a[i * DEPTH + l];
                    for (s, y) in sums.iter_mut().zip(&packed_b[l * COLS..l * COLS + width]) {
                        *s += x * *y;
                    }
                }
            }
        }
        for i in 0..height {
            for j in 0..width {
                // SAFETY: inside C, in rows that are this worker's.
                unsafe { store(c, spec.c, rows.start + i, first_col + j, tile[i * COLS + j].to_f64()) };
            }
        }
    }
}

/// # Safety
/// Element `[i, j]` of the operand lies in its buffer.
unsafe fn load(p: *const c_void, r: MatRef, i: usize, j: usize) -> f64 {
    let at = i * r.row_stride + j * r.col_stride;
    // SAFETY: as the caller promises; buffers need not be aligned for these reads.
    unsafe {
        match r.dtype {
            DType::F64 => p.cast::<f64>().add(at).read_unaligned(),
            DType::F32 => f64::from(p.cast::<f32>().add(at).read_unaligned()),
            DType::BF16 => p.cast::<bf16>().add(at).read_unaligned().to_f64(),
            DType::F16 => p.cast::<f16>().add(at).read_unaligned().to_f64(),
            DType::I32 => f64::from(p.cast::<i32>().add(at).read_unaligned()),
        }
    }
}

/// # Safety
/// As for [`load`], and nobody else touches the element.
unsafe fn store(p: *mut c_void, r: MatRef, i: usize, j: usize, x: f64) {
    let at = i * r.row_stride + j * r.col_stride;
    // SAFETY: as the caller promises.
    unsafe {
        match r.dtype {
            DType::F64 => p.cast::<f64>().add(at).write_unaligned(x),
            DType::F32 => p.cast::<f32>().add(at).write_unaligned(x as f32),
            DType::BF16 => p.cast::<bf16>().add(at).write_unaligned(bf16::from_f32(x as f32)),
            DType::F16 => p.cast::<f16>().add(at).write_unaligned(f16::from_f32(x as f32)),
            DType::I32 => p.cast::<i32>().add(at).write_unaligned(x as i32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_strides_give_the_product() {
        let pool = Pool::new(3).unwrap();
        for (m, n, k, accumulate) in [(70, 131, 300, false), (1, 5, 1, true), (33, 1, 257, true)] {
            let a: Vec<f32> = (0..m * k).map(|i| ((i * 7) % 13) as f32 - 6.0).collect();
            let b: Vec<f32> = (0..k * n).map(|i| ((i * 5) % 11) as f32 - 5.0).collect();
            let mut c = vec![2.0f32; m * n];
            let r = |row_stride, col_stride| MatRef { dtype: DType::F32, row_stride, col_stride };
            // A is stored transposed, C by columns.
            let spec = GemmSpec { m, n, k, a: r(1, m), b: r(n, 1), c: r(1, m), accumulate };
            let operands = [a.as_ptr().cast_mut().cast(), b.as_ptr().cast_mut().cast(), c.as_mut_ptr().cast()];
            // SAFETY: the buffers were made for this spec.
            unsafe { run(&pool, &spec, operands) }.unwrap();
            for i in 0..m {
                for j in 0..n {
                    let dot: f32 = (0..k).map(|l| a[l * m + i] * b[l * n + j]).sum();
                    let want = dot + if accumulate { 2.0 } else { 0.0 };
                    assert_eq!(c[j * m + i], want, "small integers are exact in f32: [{i},{j}]");
                }
            }
        }
    }
}
