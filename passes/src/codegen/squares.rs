//! Sum of the squares of one tensor, one partial sum in f64 per worker.

use super::Generated;
use super::emit::{Buf, Emit, Val};
use super::llvm::KernelText;
use super::simd::Simd;
use athanor_ir::target::CpuLevel;

/// Elements that are summed in f32 lanes before they join the f64 sum: few enough that lanes lose nothing that matters.
const BLOCK: usize = 4096;

/// Buffers: x f32 \[n\], partial f64 \[slots\]. Grid: blocks of x; worker w writes slot w, and worker 0 also zeroes the
/// slots of workers that get no block.
pub fn generate(n: usize, slots: usize, level: CpuLevel, symbol: &str) -> Generated {
    let s = Simd::of(level);
    let x = Buf { val: Val::Param(0), dims: vec![n], element: "f32" };
    let out = Buf { val: Val::Param(1), dims: vec![slots], element: "f64" };
    let grid = n.div_ceil(BLOCK);
    let mut e = Emit::default();
    e.func(symbol, false, &[&x, &out], &["lo", "hi", "worker"], |e| {
        let nothing = e.val("arith.constant 0.0 : f64");
        for slot in grid.min(slots)..slots {
            let at = e.index(slot);
            e.store(nothing, &out, &[at]);
        }
        let total = e.fold((Val::Arg("lo"), Val::Arg("hi"), 1), &[nothing], "f64", |e, block, sum| {
            let from = e.idx_c("muli", block, BLOCK);
            let to = e.idx_c("addi", from, BLOCK);
            let end = e.index(n);
            let to = e.idx("minui", to, end);
            let length = e.idx("subi", to, from);
            let wide = s.lanes * 4;
            let main = e.floor_to(length, wide);
            let main_end = e.idx("addi", from, main);
            let zero = s.splat(e, 0.0);
            let lanes = e.fold((from, main_end, wide), &[zero; 4], &s.ty(), |e, i, acc| {
                (0..4)
                    .map(|u| {
                        let at = e.idx_c("addi", i, u * s.lanes);
                        let v = s.load(e, &x, &[at]);
                        s.fma(e, v, v, acc[u])
                    })
                    .collect()
            });
            let (ab, cd) = (s.op(e, "addf", lanes[0], lanes[1]), s.op(e, "addf", lanes[2], lanes[3]));
            let lanes = s.op(e, "addf", ab, cd);
            let main_sum = s.reduce_add(e, lanes, s.lanes);
            let rest = e.fold((main_end, to, 1), &[main_sum], "f32", |e, i, acc| {
                let v = e.load(&x, &[i]);
                let square = e.val(format_args!("arith.mulf {v}, {v} : f32"));
                vec![e.val(format_args!("arith.addf {}, {square} : f32", acc[0]))]
            });
            let block_sum = e.val(format_args!("arith.extf {} : f32 to f64", rest[0]));
            vec![e.val(format_args!("arith.addf {}, {block_sum} : f64", sum[0]))]
        });
        e.store(total[0], &out, &[Val::Arg("worker")]);
    });
    let text = KernelText { symbol: symbol.to_owned(), mlir: e.finish(), buffers: 2 };
    Generated { text, grid, scratch_bytes_per_worker: 0 }
}
