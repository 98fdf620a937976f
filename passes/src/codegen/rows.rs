//! Rows of tokens to rows sorted by expert, and back: `nn.dispatch`, `nn.combine` and the gradient of their weights.

use athanor_ir::target::CpuLevel;

use super::Generated;
use super::emit::{Buf, Emit, Val};
use super::llvm::KernelText;
use super::simd::{Float, Simd};

/// Tokens with `k` slots each, and the rows of the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowsSpec {
    /// Tokens.
    pub tokens: usize,
    /// Slots of a token.
    pub k: usize,
    /// Rows sorted by expert.
    pub rows: usize,
    /// Width of a row.
    pub hidden: usize,
    /// Element type of rows and tokens.
    pub dtype: Float,
    /// Element type of the slots' weights, if they have any.
    pub weights: Option<Float>,
}

/// Grid items of [`dispatch`], if there are as many rows; enough to deal to any host's workers.
const BLOCKS: usize = 256;

impl RowsSpec {
    fn slots(&self, name: &'static str, element: &'static str) -> Buf {
        Buf::arg(name, &[self.tokens, self.k], element)
    }

    fn of_tokens(&self, name: &'static str) -> Buf {
        Buf::arg(name, &[self.tokens, self.hidden], self.dtype.name())
    }

    fn sorted(&self, name: &'static str) -> Buf {
        Buf::arg(name, &[self.rows, self.hidden], self.dtype.name())
    }

    fn weights(&self) -> Option<Buf> {
        self.weights.map(|w| self.slots("weights", w.name()))
    }
}

/// The row of a slot as an index; −1 stays below 0.
fn row_of(e: &mut Emit, rows: &Buf, t: Val, j: Val) -> Val {
    let row = e.load(rows, &[t, j]);
    e.val(format_args!("arith.index_cast {row} : i32 to index"))
}

/// Tokens to rows. Buffers: x `[T,h]`, rows i32 `[T,k]`[, weights `[T,k]`] → out `[R,h]`.
///
/// A grid item is a block of rows of the result. Whoever has some items walks all slots and copies what falls into its
/// rows; they are cleared before if some have no slot.
pub fn dispatch(spec: &RowsSpec, level: CpuLevel, symbol: &str) -> Generated {
    let simd = Simd::of(level);
    let block = spec.rows.div_ceil(BLOCKS);
    let (x, rows, out) = (spec.of_tokens("x"), spec.slots("rows", "i32"), spec.sorted("out"));
    let weights = spec.weights();
    let mut bufs = vec![&x, &rows];
    bufs.extend(&weights);
    bufs.push(&out);
    let mut e = Emit::default();
    e.func(symbol, false, &bufs, &["lo", "hi", "worker"], |e| {
        let (zero, tokens, k, end) = (e.index(0), e.index(spec.tokens), e.index(spec.k), e.index(spec.rows));
        let from = e.idx_c("muli", Val::Arg("lo"), block);
        let to = e.idx_c("muli", Val::Arg("hi"), block);
        let to = e.idx("minui", to, end);
        let ours = |e: &mut Emit, row: Val| {
            let (above, below) = (e.test("sge", row, from), e.test("slt", row, to));
            e.val(format_args!("arith.andi {above}, {below} : i1"))
        };
        let filled = e.fold((zero, tokens, 1), &[zero], "index", |e, t, n| {
            e.fold((zero, k, 1), n, "index", |e, j, n| {
                let row = row_of(e, &rows, t, j);
                let ours = ours(e, row);
                let more = e.idx_c("addi", n[0], 1);
                vec![e.val(format_args!("arith.select {ours}, {more}, {} : index", n[0]))]
            })
        });
        let wanted = e.idx("subi", to, from);
        let holes = e.test("slt", filled[0], wanted);
        e.when(holes, |e| {
            e.each(from, to, 1, |e, row| {
                simd.cover(e, spec.hidden, |e, simd, c| {
                    let nothing = simd.splat(e, 0.0);
                    simd.narrow(e, nothing, &out, &[row, c], simd.lanes);
                });
            });
        });
        e.each(zero, tokens, 1, |e, t| {
            e.each(zero, k, 1, |e, j| {
                let row = row_of(e, &rows, t, j);
                let ours = ours(e, row);
                e.when(ours, |e| {
                    let weight = weights.as_ref().map(|w| simd.scalar(e, w, &[t, j]));
                    simd.cover(e, spec.hidden, |e, simd, c| {
                        let Some(weight) = weight else {
                            return simd.copy(e, (&x, &[t, c]), (&out, &[row, c]), simd.lanes);
                        };
                        let value = simd.widen(e, &x, &[t, c], simd.lanes);
                        let weight = simd.broadcast(e, weight);
                        let value = simd.op(e, "mulf", value, weight);
                        simd.narrow(e, value, &out, &[row, c], simd.lanes);
                    });
                });
            });
        });
    });
    let text = KernelText { symbol: symbol.to_owned(), mlir: e.finish(), buffers: bufs.len() };
    Generated { text, grid: spec.rows.div_ceil(block), scratch_bytes_per_worker: 0 }
}

/// Rows to tokens. Buffers: y `[R,h]`, rows i32 `[T,k]`[, weights `[T,k]`] → out `[T,h]`. A grid item is a token; its
/// slots are added in their order, in f32.
pub fn combine(spec: &RowsSpec, level: CpuLevel, symbol: &str) -> Generated {
    let simd = Simd::of(level);
    let (y, rows, out) = (spec.sorted("y"), spec.slots("rows", "i32"), spec.of_tokens("out"));
    let weights = spec.weights();
    let mut bufs = vec![&y, &rows];
    bufs.extend(&weights);
    bufs.push(&out);
    let mut e = Emit::default();
    e.func(symbol, false, &bufs, &["lo", "hi", "worker"], |e| {
        e.each(Val::Arg("lo"), Val::Arg("hi"), 1, |e, t| {
            let slots: Vec<(Val, Val, Option<Val>)> = (0..spec.k)
                .map(|j| {
                    let j = e.index(j);
                    let row = row_of(e, &rows, t, j);
                    let (zero, end) = (e.index(0), e.index(spec.rows));
                    let kept = e.test("ult", row, end);
                    let safe = e.val(format_args!("arith.select {kept}, {row}, {zero} : index"));
                    (safe, kept, weights.as_ref().map(|w| simd.scalar(e, w, &[t, j])))
                })
                .collect();
            simd.cover(e, spec.hidden, |e, simd, c| {
                let nothing = simd.splat(e, 0.0);
                let mut sum = nothing;
                for (row, kept, weight) in &slots {
                    let x = simd.widen(e, &y, &[*row, c], simd.lanes);
                    // A dropped slot reads row 0, which may hold anything.
                    let x = e.val(format_args!("arith.select {kept}, {x}, {nothing} : {}", simd.ty()));
                    sum = match weight {
                        Some(w) => {
                            let w = simd.broadcast(e, *w);
                            simd.fma(e, x, w, sum)
                        }
                        None => simd.op(e, "addf", sum, x),
                    };
                }
                simd.narrow(e, sum, &out, &[t, c], simd.lanes);
            });
        });
    });
    let text = KernelText { symbol: symbol.to_owned(), mlir: e.finish(), buffers: bufs.len() };
    Generated { text, grid: spec.tokens, scratch_bytes_per_worker: 0 }
}

/// Partial sums of a dot product in flight.
const UNROLL: usize = 4;

/// The gradient of the weights. Buffers: y `[R,h]`, rows i32 `[T,k]`, dout `[T,h]` → dw `[T,k]`. A grid item is a token.
pub fn combine_dot(spec: &RowsSpec, level: CpuLevel, symbol: &str) -> Generated {
    let simd = Simd::of(level);
    let (y, rows, dout) = (spec.sorted("y"), spec.slots("rows", "i32"), spec.of_tokens("dout"));
    // Rounded as bits: where branches join, LLVM would take a narrow type through f32 and a library function.
    let dw = spec.slots("dw", if spec.dtype == Float::F32 { "f32" } else { "i16" });
    let mut e = Emit::default();
    e.func(symbol, false, &[&y, &rows, &dout, &dw], &["lo", "hi", "worker"], |e| {
        let (zero, k, end) = (e.index(0), e.index(spec.k), e.index(spec.rows));
        e.each(Val::Arg("lo"), Val::Arg("hi"), 1, |e, t| {
            e.each(zero, k, 1, |e, j| {
                let row = row_of(e, &rows, t, j);
                let kept = e.test("ult", row, end);
                let nothing = e.val("arith.constant 0.0 : f32");
                let sum = e.amend(kept, &[nothing], "f32", |e| vec![dot(e, &simd, spec.hidden, (&y, row), (&dout, t))]);
                let one = simd.narrowed(1).broadcast(e, sum[0]);
                let value = match spec.dtype {
                    Float::F32 => sum[0],
                    Float::Bf16 => {
                        let short = simd.round_bf16(e, one, 1);
                        bits_of(e, short, "bf16")
                    }
                    Float::F16 => {
                        let short = simd.round_f16(e, one, 1);
                        bits_of(e, short, "f16")
                    }
                };
                e.store(value, &dw, &[t, j]);
            });
        });
    });
    let text = KernelText { symbol: symbol.to_owned(), mlir: e.finish(), buffers: 4 };
    Generated { text, grid: spec.tokens, scratch_bytes_per_worker: 0 }
}

/// The bits of the only lane of `x`.
fn bits_of(e: &mut Emit, x: Val, element: &str) -> Val {
    let bits = e.val(format_args!("arith.bitcast {x} : vector<1x{element}> to vector<1xi16>"));
    e.val(format_args!("vector.extract {bits}[0] : i16 from vector<1xi16>"))
}

/// The product of two rows of `width`.
fn dot(e: &mut Emit, simd: &Simd, width: usize, (a, i): (&Buf, Val), (b, j): (&Buf, Val)) -> Val {
    let whole = width / (UNROLL * simd.lanes) * (UNROLL * simd.lanes);
    let term = |e: &mut Emit, s: &Simd, c: Val, sum: Val| {
        let (x, y) = (s.widen(e, a, &[i, c], s.lanes), s.widen(e, b, &[j, c], s.lanes));
        s.fma(e, x, y, sum)
    };
    let (zero, hi) = (e.index(0), e.index(whole));
    let start = simd.splat(e, 0.0);
    let mut lanes = e.fold((zero, hi, UNROLL * simd.lanes), &[start; UNROLL], &simd.ty(), |e, c, sums| {
        sums.iter()
            .enumerate()
            .map(|(u, sum)| {
                let c = e.idx_c("addi", c, u * simd.lanes);
                term(e, simd, c, *sum)
            })
            .collect()
    });
    let mut rest = vec![];
    for (u, (c, n)) in simd.chunks(width).into_iter().filter(|(c, _)| *c >= whole).enumerate() {
        let c = e.index(c);
        if n == simd.lanes {
            lanes[u] = term(e, simd, c, lanes[u]);
        } else {
            let part = simd.narrowed(n);
            let nothing = part.splat(e, 0.0);
            let x = term(e, &part, c, nothing);
            rest.push(part.reduce_add(e, x, n));
        }
    }
    let pairs = [simd.op(e, "addf", lanes[0], lanes[1]), simd.op(e, "addf", lanes[2], lanes[3])];
    let all = simd.op(e, "addf", pairs[0], pairs[1]);
    let mut sum = simd.reduce_add(e, all, simd.lanes);
    for x in rest {
        sum = e.val(format_args!("arith.addf {sum}, {x} : f32"));
    }
    sum
}
