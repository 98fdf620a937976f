//! scratch
use athanor_ir::DType;
use athanor_ir::plan::{GemmSpec, MatRef};
use athanor_ir::target::CpuLevel;
use athanor_passes::codegen::gemm::{Epilogue, generate_fused};
fn main() {
    let rows = |dtype, s| MatRef { dtype, row_stride: s, col_stride: 1 };
    let cols = |dtype, s| MatRef { dtype, row_stride: 1, col_stride: s };
    for level in [CpuLevel::Avx512, CpuLevel::Amx] {
        for (x, y) in [(DType::F32, DType::F32), (DType::BF16, DType::F32), (DType::BF16, DType::BF16)] {
            for (m, n, k) in [
                (1, 1, 1),
                (37, 65, 19),
                (64, 96, 64),
                (3, 130, 33),
                (70, 5, 1100),
                (33, 1100, 1100),
                (34, 33, 4200),
                (4096, 512, 512),
                (512, 32000, 512),
                (4096, 512, 1536),
                (512, 1536, 4096),
            ] {
                for ta in [false, true] {
                    for tb in [false, true] {
                        for mode in 0..3 {
                            let a = if ta { cols(x, m) } else { rows(x, k) };
                            let b = if tb { cols(x, k) } else { rows(x, n) };
                            let spec = GemmSpec { m, n, k, a, b, c: rows(y, n), accumulate: mode == 1 };
                            let e = if mode == 2 { Epilogue::Residual(rows(y, n)) } else { Epilogue::None };
                            let g = generate_fused(&spec, e, level, "g").unwrap();
                            println!(
                                "{level} {spec:?} {e:?} {} {}\n{}",
                                g.grid, g.scratch_bytes_per_worker, g.text.mlir
                            );
                        }
                    }
                }
            }
        }
    }
}
