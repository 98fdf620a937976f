//! Reductions over dims in the middle: `[outer, mid, inner]` to `[outer, inner]`.

use athanor_ir::op::ReduceKind;
use athanor_ir::target::CpuLevel;

use super::Generated;
use super::emit::{Buf, Emit, Val};
use super::llvm::KernelText;
use super::simd::{Float, LOWEST, Simd};

/// A reduction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReduceSpec {
    /// Sum or maximum.
    pub kind: ReduceKind,
    /// Dims before the reduced ones.
    pub outer: usize,
    /// Reduced dims.
    pub mid: usize,
    /// Dims behind them.
    pub inner: usize,
    /// Element type of the operand.
    pub from: Float,
    /// Element type of the result.
    pub to: Float,
}

/// Partial results in flight.
const UNROLL: usize = 4;

/// The kernel. Buffers: x `[outer, mid, inner]` → out `[outer, inner]`. A grid item is an index of the outer dims. Sums are
/// in f32, of [`UNROLL`] interleaved parts.
pub fn reduce(spec: &ReduceSpec, level: CpuLevel, symbol: &str) -> Generated {
    let simd = Simd::of(level);
    let x = Buf::arg("x", &[spec.outer, spec.mid, spec.inner], spec.from.name());
    let out = Buf::arg("out", &[spec.outer, spec.inner], spec.to.name());
    let sum = spec.kind == ReduceKind::Sum;
    let mut e = Emit::default();
    e.func(symbol, false, &[&x, &out], &["lo", "hi", "worker"], |e| {
        let (zero, end) = (e.index(0), e.index(spec.mid));
        let whole = e.index(spec.mid / UNROLL * UNROLL);
        e.each(Val::Arg("lo"), Val::Arg("hi"), 1, |e, o| {
            simd.cover(e, spec.inner, |e, s, c| {
                let start = s.splat(e, if sum { 0.0 } else { LOWEST });
                let join = |e: &mut Emit, a, b| if sum { s.op(e, "addf", a, b) } else { s.max(e, a, b) };
                let parts = e.fold((zero, whole, UNROLL), &[start; UNROLL], &s.ty(), |e, m, parts| {
                    let mut next = vec![];
                    for (u, part) in parts.iter().enumerate() {
                        let m = e.idx_c("addi", m, u);
                        let value = s.widen(e, &x, &[o, m, c], s.lanes);
                        next.push(join(e, value, *part));
                    }
                    next
                });
                let (a, b) = (join(e, parts[0], parts[1]), join(e, parts[2], parts[3]));
                let all = join(e, a, b);
                let all = e.fold((whole, end, 1), &[all], &s.ty(), |e, m, so_far| {
                    let value = s.widen(e, &x, &[o, m, c], s.lanes);
                    vec![join(e, value, so_far[0])]
                });
                s.narrow(e, all[0], &out, &[o, c], s.lanes);
            });
        });
    });
    let text = KernelText { symbol: symbol.to_owned(), mlir: e.finish(), buffers: 2 };
    Generated { text, grid: spec.outer, scratch_bytes_per_worker: 0 }
}
