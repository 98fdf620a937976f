//! Matrix products by oneDNN, opened at run time: nothing is linked, and a machine without it uses generated kernels.

mod api;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ffi::{OsStr, c_int, c_void};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use athanor_ir::plan::{GemmSpec, MatRef};
use athanor_ir::{DType, Diagnostic, Result};

use super::ONEDNN_FAILED;
use super::pool::{Pool, share};

/// Names to try, newest API first; Debian's libdnnl2 has the second.
const NAMES: [&str; 2] = ["libdnnl.so.3", "libdnnl.so.2"];

/// Rows or columns of C that a worker's share is a multiple of: two AMX tiles.
const UNIT: usize = 32;

/// The opened library and the products it has compiled.
pub struct OneDnn {
    cache: RwLock<HashMap<GemmSpec, Arc<api::Matmul>>>,
    /// Scratchpads that no execution is using: at most one per worker in the end, each as large as its largest product.
    scratch: Mutex<Vec<Vec<Line>>>,
    api: api::Api,
}

/// A cache line, for alignment.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code, reason = "only its size and alignment matter")] [u8; 64]);

/// How a product is shared out: by rows or by columns of C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Split {
    Rows,
    Cols,
}

impl OneDnn {
    /// Opens the library under its usual names; `None` when there is none.
    pub fn load() -> Option<Self> {
        NAMES.iter().find_map(|name| Self::open(OsStr::new(name)))
    }

    /// Opens the library file `name`.
    pub fn open(name: &OsStr) -> Option<Self> {
        Some(Self { api: api::Api::open(name)?, cache: RwLock::default(), scratch: Mutex::default() })
    }

    /// Major version of the library, 2 or 3.
    pub fn major(&self) -> u32 {
        self.api.major()
    }

    /// Whether this module can carry out `spec`: f32 × f32 → f32 or bf16 × bf16 → f32 or bf16, each operand contiguous in
    /// one dim.
    pub fn supports(spec: &GemmSpec) -> bool {
        let contiguous = [spec.a, spec.b, spec.c].iter().all(|r| r.row_stride == 1 || r.col_stride == 1);
        let dtypes = matches!(
            (spec.a.dtype, spec.b.dtype, spec.c.dtype),
            (DType::F32, DType::F32, DType::F32) | (DType::BF16, DType::BF16, DType::F32 | DType::BF16)
        );
        contiguous && dtypes && spec.m > 0 && spec.n > 0 && spec.k > 0
    }

    /// The implementation that the library chooses for `spec` on one thread, such as `brg:avx512_core_amx_bf16`.
    pub fn implementation(&self, spec: &GemmSpec) -> Result<String> {
        Ok(self.matmul(spec)?.implementation.clone())
    }

    /// Compiles what [`Self::run`] with `threads` workers will need, so that the first step is not slower.
    pub fn prepare(&self, spec: &GemmSpec, threads: usize) -> Result<()> {
        let (split, grid) = partition(spec);
        let shares = threads.min(grid);
        (0..shares).try_for_each(|s| self.matmul(&part(spec, split, share(grid, shares, s)).0).map(|_| ()))
    }

    /// Computes `spec` with all workers of `pool`: each takes a fixed range of rows or columns of C, so the result depends
    /// on the number of workers at most, never on their timing.
    ///
    /// # Safety
    /// `a`, `b` and `c` point to operands of the shapes, strides and dtypes in `spec`; `c` overlaps neither of the others.
    pub unsafe fn run(
        &self,
        pool: &Pool,
        spec: &GemmSpec,
        a: *const c_void,
        b: *const c_void,
        c: *mut c_void,
    ) -> Result<()> {
        let (split, grid) = partition(spec);
        let failed = Mutex::new(None);
        let data = Operands([a.cast_mut(), b.cast_mut(), c]);
        pool.run(grid, &|_, lo, hi| {
            let (mine, offsets) = part(spec, split, (lo, hi));
            let at = data.offset(offsets);
            // SAFETY: `part` keeps within `spec`, and the shares of C are disjoint.
            if let Err(e) = unsafe { self.run_here(&mine, at[0], at[1], at[2]) } {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
            }
        })?;
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Computes `spec` in the calling thread.
    ///
    /// # Safety
    /// As for [`Self::run`].
    pub unsafe fn run_here(&self, spec: &GemmSpec, a: *const c_void, b: *const c_void, c: *mut c_void) -> Result<()> {
        let matmul = self.matmul(spec)?;
        // Also needed when the product was compiled before, by another thread.
        self.api.one_thread();
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let lines = matmul.scratch_bytes.div_ceil(64);
        if scratch.len() < lines {
            scratch = vec![Line([0; 64]); lines];
        }
        // SAFETY: the caller vouches for the operands, `matmul` was made for `spec`, and this scratchpad is out of the list.
        let done = unsafe { self.api.execute(&matmul, [a.cast_mut(), b.cast_mut(), c], scratch.as_mut_ptr().cast()) };
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
        done.map_err(|status| Box::new(refuse(spec, status)))
    }

    fn matmul(&self, spec: &GemmSpec) -> Result<Arc<api::Matmul>> {
        if let Some(found) = self.cache.read().unwrap_or_else(PoisonError::into_inner).get(spec) {
            return Ok(Arc::clone(found));
        }
        if !Self::supports(spec) {
            return refuse(spec, 0).err();
        }
        // The library chooses blocking for the number of threads it may use.
        self.api.one_thread();
        let layout = |rows: usize, cols: usize, r: MatRef| api::Layout {
            dims: [rows as i64, cols as i64],
            strides: [r.row_stride as i64, r.col_stride as i64],
            dtype: dtype(r.dtype),
        };
        let made = self
            .api
            .matmul(
                &layout(spec.m, spec.k, spec.a),
                &layout(spec.k, spec.n, spec.b),
                &layout(spec.m, spec.n, spec.c),
                spec.accumulate,
            )
            .map_err(|status| Box::new(refuse(spec, status)))?;
        let mut cache = self.cache.write().unwrap_or_else(PoisonError::into_inner);
        Ok(match cache.entry(*spec) {
            std::collections::hash_map::Entry::Occupied(other) => {
                // Another worker was first.
                self.api.free(&made);
                Arc::clone(other.get())
            }
            std::collections::hash_map::Entry::Vacant(slot) => Arc::clone(slot.insert(Arc::new(made))),
        })
    }
}

impl Drop for OneDnn {
    fn drop(&mut self) {
        let cache = std::mem::take(&mut *self.cache.write().unwrap_or_else(PoisonError::into_inner));
        for matmul in cache.values() {
            self.api.free(matmul);
        }
    }
}

/// Base pointers that workers offset.
struct Operands([*mut c_void; 3]);

// SAFETY: workers write disjoint parts of C and only read A and B.
unsafe impl Sync for Operands {}

impl Operands {
    fn offset(&self, bytes: [usize; 3]) -> [*mut c_void; 3] {
        std::array::from_fn(|i| self.0[i].wrapping_byte_add(bytes[i]))
    }
}

/// Along which dim of C, and in how many units, `spec` is split: the longer one, so that less is packed twice.
fn partition(spec: &GemmSpec) -> (Split, usize) {
    if spec.m >= spec.n { (Split::Rows, spec.m.div_ceil(UNIT)) } else { (Split::Cols, spec.n.div_ceil(UNIT)) }
}

/// Units `lo..hi` of `spec`, and the byte offsets of its operands.
fn part(spec: &GemmSpec, split: Split, (lo, hi): (usize, usize)) -> (GemmSpec, [usize; 3]) {
    let mut mine = *spec;
    let bytes = |r: MatRef, elements: usize| elements * r.dtype.bytes();
    match split {
        Split::Rows => {
            let (first, end) = (lo * UNIT, (hi * UNIT).min(spec.m));
            mine.m = end - first;
            (mine, [bytes(spec.a, first * spec.a.row_stride), 0, bytes(spec.c, first * spec.c.row_stride)])
        }
        Split::Cols => {
            let (first, end) = (lo * UNIT, (hi * UNIT).min(spec.n));
            mine.n = end - first;
            (mine, [0, bytes(spec.b, first * spec.b.col_stride), bytes(spec.c, first * spec.c.col_stride)])
        }
    }
}

fn dtype(dtype: DType) -> c_int {
    if dtype == DType::BF16 { api::BF16 } else { api::F32 }
}

fn refuse(spec: &GemmSpec, status: c_int) -> Diagnostic {
    let why = match status {
        0 => "the dtypes or strides are not among those it is used for".to_owned(),
        1 => "out of memory".to_owned(),
        3 => "not implemented".to_owned(),
        other => format!("status {other}"),
    };
    let GemmSpec { m, n, k, a, b, c, .. } = spec;
    Diagnostic::error(
        &ONEDNN_FAILED,
        format!(
            "oneDNN cannot multiply [{m},{k}] {} by [{k},{n}] {} into {}: {why}",
            a.dtype.mlir(),
            b.dtype.mlir(),
            c.dtype.mlir()
        ),
    )
    .help("compile the plan for generated products, which need no library")
}
