//! Generated matrix products: macro-kernels that need no library.
//!
//! [`generate`] writes one kernel per product as MLIR text. Its grid is strips of the longer dim of C, so the thread pool
//! can split it anywhere; the result does not depend on where. f32 products (and bf16 ones without AMX and f16 ones, widened
//! while packing) use register-tiled vector kernels, bf16 ones on AMX use tiles.

mod amx;
mod grouped;
mod pack;
mod shift;
mod text;
mod vector;

pub use grouped::{Form, GroupedSpec, generate_grouped};

use athanor_ir::plan::{GemmSpec, MatRef};
use athanor_ir::target::CpuLevel;
use athanor_ir::{DType, Diagnostic, Result};

use super::llvm::KernelText;
use super::{Generated, UNSUPPORTED_GEMM};

/// Upper bound on workers that the type of a scratch buffer allows for.
pub const MAX_WORKERS: usize = 4096;

/// What is added to the product besides what `accumulate` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Epilogue {
    /// Nothing.
    #[default]
    None,
    /// `C = A·B + R`, R of C's shape, rows `row_stride` apart, columns contiguous.
    Residual(MatRef),
}

/// Generates the product `spec` for CPUs of `level`, exported as `symbol`; its buffers are A, B, the residual if there is
/// one, C, and the scratch, 64-byte aligned.
pub fn generate(spec: &GemmSpec, level: CpuLevel, symbol: &str) -> Result<Generated> {
    generate_fused(spec, Epilogue::None, level, symbol)
}

/// Generates the product `spec` followed by `epilogue`.
///
/// Supported: f32 × f32 → f32, and bf16 × bf16 or f16 × f16 → f32 or the same with f32 sums; any strides of A and B, C contiguous in one
/// dim (with a residual: in its rows). Anything else is a `P0905`.
pub fn generate_fused(spec: &GemmSpec, epilogue: Epilogue, level: CpuLevel, symbol: &str) -> Result<Generated> {
    let refuse = |why: &str| {
        Diagnostic::error(
            &UNSUPPORTED_GEMM,
            format!(
                "no generated product of [{},{}] {} by [{},{}] {} into {}: {why}",
                spec.m,
                spec.k,
                spec.a.dtype.mlir(),
                spec.k,
                spec.n,
                spec.b.dtype.mlir(),
                spec.c.dtype.mlir()
            ),
        )
        .err()
    };
    let dtypes = (spec.a.dtype, spec.b.dtype, spec.c.dtype);
    let narrow = |d: DType| matches!(d, DType::BF16 | DType::F16);
    let known = match dtypes {
        (DType::F32, DType::F32, c) => c == DType::F32,
        (a, b, c) => a == b && narrow(a) && (c == a || c == DType::F32),
    };
    if !known {
        return refuse("the dtypes must be f32, or bf16 or f16 with a result in f32 or the same");
    }
    if spec.m == 0 || spec.n == 0 || spec.k == 0 {
        return refuse("a dim is zero");
    }
    let residual = match epilogue {
        Epilogue::None => None,
        Epilogue::Residual(_) if spec.accumulate => return refuse("it cannot both accumulate and add a residual"),
        Epilogue::Residual(r) => Some(r),
    };
    if let Some(r) = residual
        && (r.col_stride != 1 || !(r.dtype == DType::F32 || narrow(r.dtype)))
    {
        return refuse("the residual must have contiguous rows of f32, bf16 or f16");
    }
    let (spec, swapped) = match (spec.c.row_stride, spec.c.col_stride) {
        (_, 1) => (*spec, false),
        (1, _) if residual.is_none() => (transposed(spec), true),
        _ => return refuse("the result is contiguous in neither dim, or not in its rows beside a residual"),
    };
    let tiles = spec.a.dtype == DType::BF16 && level == CpuLevel::Amx;
    let bf16 = if tiles { "bf16" } else { pack::storage(DType::BF16) };
    let problem = Problem { spec, residual, level, symbol: symbol.to_owned(), swapped, bf16 };
    if tiles { Ok(amx::generate(&problem)) } else { Ok(vector::generate(&problem)) }
}

/// Cᵀ = Bᵀ·Aᵀ.
fn transposed(spec: &GemmSpec) -> GemmSpec {
    let flip = |r: MatRef| MatRef { row_stride: r.col_stride, col_stride: r.row_stride, ..r };
    GemmSpec { m: spec.n, n: spec.m, a: flip(spec.b), b: flip(spec.a), c: flip(spec.c), ..*spec }
}

/// A checked product: C has contiguous rows.
struct Problem {
    spec: GemmSpec,
    residual: Option<MatRef>,
    level: CpuLevel,
    symbol: String,
    /// A and B have changed places to make C's rows contiguous; the buffers have not.
    swapped: bool,
    /// How bf16 is typed in memory.
    bf16: &'static str,
}

impl Problem {
    /// `memref<LENxTYPE>` of a whole operand, flat.
    fn flat(&self, r: MatRef, rows: usize, cols: usize) -> String {
        let element = if r.dtype == DType::BF16 { self.bf16 } else { pack::storage(r.dtype) };
        format!("memref<{}x{element}>", extent(r, rows, cols))
    }

    /// The kernel's parameter list: operands as flat memrefs, then `%scratch` and the range.
    fn params(&self, scratch_bytes: usize) -> String {
        let GemmSpec { m, n, k, a, b, c, .. } = self.spec;
        let (a, b) = (format!("%a: {}", self.flat(a, m, k)), format!("%b: {}", self.flat(b, k, n)));
        let (first, second) = if self.swapped { (b, a) } else { (a, b) };
        let residual = self.residual.map_or(String::new(), |r| format!("%r: {}, ", self.flat(r, m, n)));
        format!(
            "{first}, {second}, {residual}%c: {}, %scratch: memref<{}xi8>, %lo: index, %hi: index, %worker: index",
            self.flat(c, m, n),
            scratch_bytes * MAX_WORKERS
        )
    }

    /// Number of memrefs in [`Self::params`].
    fn buffers(&self) -> usize {
        4 + usize::from(self.residual.is_some())
    }
}

/// Number of elements from the first to the last of a matrix.
fn extent(r: MatRef, rows: usize, cols: usize) -> usize {
    (rows - 1) * r.row_stride + (cols - 1) * r.col_stride + 1
}
