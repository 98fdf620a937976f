//! Generated products against a naive one in f64, on odd shapes, at every level.

mod harness;

use std::ffi::c_void;

use athanor_ir::DType;
use athanor_ir::plan::{GemmSpec, MatRef};
use athanor_ir::target::CpuLevel;
use athanor_passes::codegen::Generated;
use athanor_passes::codegen::gemm::{Epilogue, generate, generate_fused};
use harness::{Kernel, Library, levels};

/// Deterministic values in (-1, 1).
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32) / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// A matrix in memory, with NaN around it so that a read beyond it shows.
struct Matrix {
    r: MatRef,
    bytes: Vec<u8>,
}

const MARGIN: usize = 64;

impl Matrix {
    fn new(r: MatRef, rows: usize, cols: usize, seed: u64) -> Self {
        let len = (rows - 1) * r.row_stride + (cols - 1) * r.col_stride + 1;
        let mut all = vec![f32::NAN; MARGIN];
        all.extend(values(len, seed));
        all.extend([f32::NAN; MARGIN]);
        let bytes = match r.dtype {
            DType::BF16 => all.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
            DType::F16 => all.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
            _ => all.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        Self { r, bytes }
    }

    fn pointer(&mut self) -> *mut c_void {
        self.bytes[MARGIN * self.r.dtype.bytes()..].as_mut_ptr().cast()
    }

    fn at(&self, row: usize, col: usize) -> f64 {
        self.raw(MARGIN + row * self.r.row_stride + col * self.r.col_stride)
    }

    fn raw(&self, i: usize) -> f64 {
        match self.r.dtype {
            DType::BF16 => half::bf16::from_le_bytes([self.bytes[2 * i], self.bytes[2 * i + 1]]).to_f64(),
            DType::F16 => half::f16::from_le_bytes([self.bytes[2 * i], self.bytes[2 * i + 1]]).to_f64(),
            _ => f64::from(f32::from_le_bytes(self.bytes[4 * i..4 * i + 4].try_into().unwrap())),
        }
    }

    fn margins_untouched(&self) -> bool {
        let len = self.bytes.len() / self.r.dtype.bytes();
        (0..MARGIN).chain(len - MARGIN..len).all(|i| self.raw(i).is_nan())
    }
}

struct Case {
    spec: GemmSpec,
    epilogue: Epilogue,
    generated: Generated,
}

fn check(case: &Case, kernel: Kernel, pieces: usize, level: CpuLevel) {
    let GemmSpec { m, n, k, accumulate, .. } = case.spec;
    let mut a = Matrix::new(case.spec.a, m, k, 1);
    let mut b = Matrix::new(case.spec.b, k, n, 2);
    let mut c = Matrix::new(case.spec.c, m, n, 3);
    let before = Matrix::new(case.spec.c, m, n, 3);
    let mut residual = match case.epilogue {
        Epilogue::None => None,
        Epilogue::Residual(r) => Some(Matrix::new(r, m, n, 4)),
    };
    let per_worker = case.generated.scratch_bytes_per_worker;
    // Scratch comes dirty: NaN in every dtype.
    let mut scratch = vec![u64::MAX; per_worker * pieces / 8 + 8];
    let scratch_pointer = scratch.as_mut_ptr().wrapping_byte_add(64 - scratch.as_ptr() as usize % 64);
    let mut buffers = vec![a.pointer(), b.pointer()];
    buffers.extend(residual.as_mut().map(Matrix::pointer));
    buffers.extend([c.pointer(), scratch_pointer.cast()]);
    let grid = case.generated.grid;
    for piece in 0..pieces {
        let (lo, hi) = (grid * piece / pieces, grid * (piece + 1) / pieces);
        if lo < hi {
            // SAFETY: buffers are of the spec's sizes; symbol and ABI are the generator's.
            unsafe { kernel(buffers.as_ptr(), lo as i64, hi as i64, piece as i64) };
        }
    }
    for i in 0..m {
        for j in 0..n {
            let mut want = if accumulate { before.at(i, j) } else { 0.0 };
            want += residual.as_ref().map_or(0.0, |r| r.at(i, j));
            let mut scale = want.abs();
            for l in 0..k {
                let term = a.at(i, l) * b.at(l, j);
                want += term;
                scale += term.abs();
            }
            let rounding = match case.spec.c.dtype {
                DType::BF16 => want.abs() / 256.0,
                DType::F16 => want.abs() / 2048.0,
                _ => 0.0,
            };
            let got = c.at(i, j);
            assert!(
                (got - want).abs() <= rounding + 1e-6 * scale,
                "{level} {:?} {:?} in {pieces}: [{i},{j}] is {got}, should be {want}",
                case.spec,
                case.epilogue
            );
        }
    }
    assert!(c.margins_untouched(), "{level} {:?}", case.spec);
    for i in 0..m {
        // Gaps between rows belong to someone else.
        for gap in (n..case.spec.c.row_stride).take(usize::from(i + 1 < m && case.spec.c.col_stride == 1)) {
            assert_eq!(
                c.raw(MARGIN + i * case.spec.c.row_stride + gap),
                before.raw(MARGIN + i * case.spec.c.row_stride + gap)
            );
        }
    }
}

fn rows(dtype: DType, stride: usize) -> MatRef {
    MatRef { dtype, row_stride: stride, col_stride: 1 }
}

fn cols(dtype: DType, stride: usize) -> MatRef {
    MatRef { dtype, row_stride: 1, col_stride: stride }
}

fn specs() -> Vec<(GemmSpec, Epilogue)> {
    let mut all = vec![];
    let dtypes = [
        (DType::F32, DType::F32),
        (DType::BF16, DType::F32),
        (DType::BF16, DType::BF16),
        (DType::F16, DType::F32),
        (DType::F16, DType::F16),
    ];
    for (x, y) in dtypes {
        for (m, n, k) in [(1, 1, 1), (37, 65, 19), (64, 96, 64), (3, 130, 33), (70, 5, 1100)] {
            for (ta, tb) in [(false, true), (false, false), (true, false)] {
                let a = if ta { cols(x, m) } else { rows(x, k) };
                let b = if tb { cols(x, k) } else { rows(x, n) };
                let accumulate = (m + usize::from(ta)) % 2 == 0;
                all.push((GemmSpec { m, n, k, a, b, c: rows(y, n), accumulate }, Epilogue::None));
            }
        }
        // Deep enough for several blocks of k, also where sums are kept apart.
        let deep =
            GemmSpec { m: 34, n: 33, k: 4200, a: rows(x, 4200), b: rows(x, 33), c: rows(y, 33), accumulate: true };
        all.push((deep, Epilogue::None));
        all.push((GemmSpec { accumulate: false, ..deep }, Epilogue::Residual(rows(y, 33))));
        // Wide enough for several blocks of columns.
        let b = cols(x, 70);
        all.push((
            GemmSpec { m: 33, n: 600, k: 70, a: cols(x, 33), b, c: rows(y, 600), accumulate: false },
            Epilogue::None,
        ));
        let b = cols(x, 1100);
        all.push((
            GemmSpec { m: 33, n: 1100, k: 1100, a: rows(x, 1100), b, c: rows(y, 1100), accumulate: true },
            Epilogue::None,
        ));
        let (m, n, k) = (45, 33, 530);
        let a = MatRef { dtype: x, row_stride: 2 * k + 2, col_stride: 2 };
        let strided = GemmSpec { m, n, k, a, b: rows(x, n + 4), c: rows(y, n + 7), accumulate: false };
        all.push((strided, Epilogue::None));
        all.push((strided, Epilogue::Residual(rows(y, n + 1))));
        all.push((GemmSpec { a: rows(x, 1024), c: cols(y, m), ..strided }, Epilogue::None));
        all.push((GemmSpec { b: MatRef { dtype: x, row_stride: 3, col_stride: 3 * k }, ..strided }, Epilogue::None));
    }
    all
}

/// Compiles and checks every spec at `level`, without its instructions if this machine lacks it.
fn check_level(level: CpuLevel) {
    // At the AMX level only bf16 products differ from the level below; below it an f32 result of theirs is written as any.
    let specs = specs().into_iter().filter(|(s, _)| match level {
        CpuLevel::Amx => s.a.dtype == DType::BF16,
        _ => s.a.dtype == s.c.dtype,
    });
    let cases: Vec<Case> = specs
        .enumerate()
        .map(|(i, (spec, epilogue))| {
            let generated = generate_fused(&spec, epilogue, level, &format!("gemm{i}")).unwrap();
            Case { spec, epilogue, generated }
        })
        .collect();
    let kernels: Vec<Generated> = cases.iter().map(|c| c.generated.clone()).collect();
    let library = Library::build_anywhere(&kernels, level);
    // Tile instructions that this machine lacks are slow: one way of cutting must do.
    let all = if level == CpuLevel::Amx && !levels().contains(&level) { &[2][..] } else { &[1, 2, 5] };
    for case in &cases {
        let kernel = library.kernel(&case.generated.text.symbol);
        for pieces in all {
            check(case, kernel, *pieces, level);
        }
    }
}

#[test]
fn portable_products_match_f64() {
    check_level(CpuLevel::Portable);
}

#[test]
fn avx2_products_match_f64() {
    check_level(CpuLevel::Avx2);
}

#[test]
fn avx512_products_match_f64() {
    check_level(CpuLevel::Avx512);
}

#[test]
fn amx_products_match_f64() {
    check_level(CpuLevel::Amx);
}

#[test]
fn other_dtypes_are_refused() {
    let r = rows(DType::F64, 4);
    let spec = GemmSpec { m: 4, n: 4, k: 4, a: r, b: r, c: r, accumulate: false };
    let refused = generate(&spec, CpuLevel::Portable, "x").unwrap_err();
    assert_eq!(refused.code.id, "P0905");
    assert!(refused.message.contains("[4,4] f64"), "{refused}");
}
