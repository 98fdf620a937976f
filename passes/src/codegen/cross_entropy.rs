//! Cross-entropy over the vocabulary: loss, gradient, and both in one visit of each row.
//!
//! A label outside the vocabulary (such as -100) marks a token that does not count: its loss and its gradient are 0.

use athanor_ir::target::CpuLevel;

use super::Generated;
use super::emit::{Buf, Emit, Val};
use super::llvm::KernelText;
use super::simd::{Float, LOWEST, Simd};

/// Logits of some tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrossEntropySpec {
    /// Tokens.
    pub tokens: usize,
    /// Logits of a token.
    pub vocab: usize,
    /// Element type of the logits.
    pub dtype: Float,
}

/// Where the gradient of the logits goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GradTo {
    /// Over the logits.
    InPlace,
    /// To a buffer of its own, of this element type.
    Buffer(Float),
}

/// Registers in flight in the loops over a row.
const UNROLL: usize = 4;

/// The loss. Buffers: logits `[T,V]`, labels i32 `[T]` → loss f32 `[T]`, lse f32 `[T]`. A grid item is a token.
pub fn cross_entropy(spec: &CrossEntropySpec, level: CpuLevel, symbol: &str) -> Generated {
    forward(spec, "loss", level, symbol, Label::store_loss)
}

/// Of a part of a vocabulary. Buffers: logits `[T,V]`, ids i32 `[T]` → logit f32 `[T]`, 0 where the id is not in the part,
/// lse f32 `[T]`. A grid item is a token.
pub fn part_entropy(spec: &CrossEntropySpec, level: CpuLevel, symbol: &str) -> Generated {
    forward(spec, "logit", level, symbol, |label, e, logit, t, _| {
        let own = label.logit(e);
        label.store_counting(e, logit, t, own);
    })
}

/// The log of the sum of exponentials of each row, and what `store` makes of its label and that: a buffer called `result`.
fn forward(
    spec: &CrossEntropySpec,
    result: &'static str,
    level: CpuLevel,
    symbol: &str,
    store: fn(&Label, &mut Emit, &Buf, Val, Val),
) -> Generated {
    let (simd, row) = (Simd::of(level), Row::of(spec));
    let (result, lse) = (row.scalar(result), row.scalar("lse"));
    let mut e = Emit::default();
    e.func(symbol, false, &[&row.logits, &row.labels, &result, &lse], &["lo", "hi", "worker"], |e| {
        e.each(Val::Arg("lo"), Val::Arg("hi"), 1, |e, t| {
            let label = row.label(e, t);
            let max = row.max(e, &simd, t);
            let sum = row.sum(e, &simd, t, max, false);
            let value = log_sum(e, &simd, max, sum);
            e.store(value, &lse, &[t]);
            store(&label, e, &result, t, value);
        });
    });
    row.finish(e, symbol, 4)
}

/// As [`cross_entropy_grad`], of a part of a vocabulary: a token whose id is elsewhere counts here too.
pub fn part_entropy_grad(spec: &CrossEntropySpec, to: GradTo, level: CpuLevel, symbol: &str) -> Generated {
    gradient(spec, to, true, level, symbol)
}

/// The gradient `(exp(logit − lse) − onehot) · drow`.
///
/// Buffers: logits `[T,V]`, labels i32 `[T]`, lse f32 `[T]`, drow f32 `[T]` → dlogits `[T,V]`; in place there is no last
/// buffer. A grid item is a token.
pub fn cross_entropy_grad(spec: &CrossEntropySpec, to: GradTo, level: CpuLevel, symbol: &str) -> Generated {
    gradient(spec, to, false, level, symbol)
}

fn gradient(spec: &CrossEntropySpec, to: GradTo, part: bool, level: CpuLevel, symbol: &str) -> Generated {
    let (simd, row) = (Simd::of(level), Row::of(spec));
    let (lse, drow) = (row.scalar("lse"), row.scalar("drow"));
    let mut params = vec![&row.logits, &row.labels, &lse, &drow];
    let own;
    let out = match to {
        GradTo::InPlace => &row.logits,
        GradTo::Buffer(dtype) => {
            own = Buf::arg("dlogits", &[spec.tokens, spec.vocab], dtype.name());
            params.push(&own);
            &own
        }
    };
    let mut e = Emit::default();
    e.func(symbol, false, &params, &["lo", "hi", "worker"], |e| {
        e.each(Val::Arg("lo"), Val::Arg("hi"), 1, |e, t| {
            let label = row.label(e, t);
            let (lse, weight) = (e.load(&lse, &[t]), e.load(&drow, &[t]));
            if part {
                row.exp_rows(e, &simd, (out, t), (lse, weight));
                e.when(label.counts, |e| label.correct(e, &simd, (out, t), (lse, weight)));
            } else {
                let fill = |e: &mut Emit| row.exp_rows(e, &simd, (out, t), (lse, weight));
                label.fill_gradient(e, &simd, (out, t), (lse, weight), fill);
            }
        });
    });
    row.finish(e, symbol, params.len())
}

/// Loss and gradient. Buffers: logits `[T,V]` (the gradient replaces them), labels i32 `[T]`, drow f32 `[T]` → loss f32
/// `[T]`. A grid item is a token.
pub fn cross_entropy_with_grad(spec: &CrossEntropySpec, level: CpuLevel, symbol: &str) -> Generated {
    let (simd, row) = (Simd::of(level), Row::of(spec));
    let (loss, drow) = (row.scalar("loss"), row.scalar("drow"));
    // The exponentials of f32 rows wait in place for their sum; in bf16 that would round twice, so they are taken again.
    let keep = spec.dtype == Float::F32;
    let mut e = Emit::default();
    e.func(symbol, false, &[&row.logits, &row.labels, &drow, &loss], &["lo", "hi", "worker"], |e| {
        e.each(Val::Arg("lo"), Val::Arg("hi"), 1, |e, t| {
            let label = row.label(e, t);
            let weight = e.load(&drow, &[t]);
            let max = row.max(e, &simd, t);
            let sum = row.sum(e, &simd, t, max, keep);
            let lse = log_sum(e, &simd, max, sum);
            label.store_loss(e, &loss, t, lse);
            let fill = |e: &mut Emit| {
                if keep {
                    let factor = e.val(format_args!("arith.divf {weight}, {sum} : f32"));
                    row.each(e, &simd, |e, simd, c| {
                        let x = simd.load(e, &row.logits, &[t, c]);
                        let factor = simd.broadcast(e, factor);
                        let x = simd.op(e, "mulf", x, factor);
                        simd.store(e, x, &row.logits, &[t, c]);
                    });
                } else {
                    row.exp_rows(e, &simd, (&row.logits, t), (lse, weight));
                }
            };
            label.fill_gradient(e, &simd, (&row.logits, t), (lse, weight), fill);
        });
    });
    row.finish(e, symbol, 4)
}

/// The rows of logits.
struct Row {
    spec: CrossEntropySpec,
    logits: Buf,
    labels: Buf,
}

/// The label of a row, and its logit before anything is written in place.
struct Label {
    /// Index of the label; meaningless unless `counts`.
    at: Val,
    counts: Val,
    /// The label's logit as a one-lane vector.
    logit: Val,
}

impl Row {
    fn of(spec: &CrossEntropySpec) -> Self {
        Self {
            spec: *spec,
            logits: Buf::arg("logits", &[spec.tokens, spec.vocab], spec.dtype.name()),
            labels: Buf::arg("labels", &[spec.tokens], "i32"),
        }
    }

    fn scalar(&self, name: &'static str) -> Buf {
        Buf::arg(name, &[self.spec.tokens], "f32")
    }

    fn finish(&self, e: Emit, symbol: &str, buffers: usize) -> Generated {
        Generated {
            text: KernelText { symbol: symbol.to_owned(), mlir: e.finish(), buffers },
            grid: self.spec.tokens,
            scratch_bytes_per_worker: 0,
        }
    }

    fn label(&self, e: &mut Emit, t: Val) -> Label {
        let raw = e.load(&self.labels, &[t]);
        let at = e.val(format_args!("arith.index_cast {raw} : i32 to index"));
        let vocab = e.index(self.spec.vocab);
        let counts = e.test("ult", at, vocab);
        let zero = e.index(0);
        let safe = e.val(format_args!("arith.select {counts}, {at}, {zero} : index"));
        let one = Simd::of(CpuLevel::Portable).narrowed(1);
        let logit = one.widen(e, &self.logits, &[t, safe], 1);
        Label { at: safe, counts, logit }
    }

    /// Offsets of a row that the unrolled loop leaves over, with their widths.
    fn rest(&self, simd: &Simd) -> (usize, Vec<(usize, usize)>) {
        let whole = self.spec.vocab / (UNROLL * simd.lanes) * (UNROLL * simd.lanes);
        (whole, simd.chunks(self.spec.vocab).into_iter().filter(|(c, _)| *c >= whole).collect())
    }

    /// Covers a row, several registers per round.
    fn each(&self, e: &mut Emit, simd: &Simd, mut body: impl FnMut(&mut Emit, &Simd, Val)) {
        let (whole, rest) = self.rest(simd);
        if whole > 0 {
            let (zero, hi) = (e.index(0), e.index(whole));
            e.each(zero, hi, UNROLL * simd.lanes, |e, c| {
                for u in 0..UNROLL {
                    let c = e.idx_c("addi", c, u * simd.lanes);
                    body(e, simd, c);
                }
            });
        }
        for (c, n) in rest {
            let c = e.index(c);
            body(e, &simd.narrowed(n), c);
        }
    }

    /// Reduces a row: `step` takes lanes and the values so far; `reduction` (of MLIR's `vector.reduction`) and `combine`
    /// (of arith) join the lanes.
    fn reduce(
        &self,
        e: &mut Emit,
        simd: &Simd,
        init: f64,
        (reduction, combine): (&str, &str),
        mut step: impl FnMut(&mut Emit, &Simd, Val, Val) -> Val,
    ) -> Val {
        let (whole, rest) = self.rest(simd);
        let (zero, hi) = (e.index(0), e.index(whole));
        let start = simd.splat(e, init);
        let mut lanes = e.fold((zero, hi, UNROLL * simd.lanes), &[start; UNROLL], &simd.ty(), |e, c, so_far| {
            so_far
                .iter()
                .enumerate()
                .map(|(u, &value)| {
                    let c = e.idx_c("addi", c, u * simd.lanes);
                    step(e, simd, c, value)
                })
                .collect()
        });
        let mut parts = Vec::new();
        for (u, (c, n)) in rest.into_iter().enumerate() {
            let c = e.index(c);
            if n == simd.lanes {
                lanes[u] = step(e, simd, c, lanes[u]);
            } else {
                let part = simd.narrowed(n);
                let start = part.splat(e, init);
                let value = step(e, &part, c, start);
                parts.push((value, n));
            }
        }
        parts.extend(lanes.into_iter().map(|value| (value, simd.lanes)));
        let mut result: Option<Val> = None;
        for (value, n) in parts {
            let x = e.val(format_args!(
                "vector.reduction <{reduction}>, {value} fastmath<reassoc> : vector<{n}xf32> into f32"
            ));
            result = Some(result.map_or(x, |so_far| e.val(format_args!("arith.{combine} {so_far}, {x} : f32"))));
        }
        result.unwrap_or(zero)
    }

    fn max(&self, e: &mut Emit, simd: &Simd, t: Val) -> Val {
        self.reduce(e, simd, LOWEST, ("maxnumf", "maxnumf"), |e, simd, c, so_far| {
            let x = simd.widen(e, &self.logits, &[t, c], simd.lanes);
            simd.max(e, x, so_far)
        })
    }

    /// Sum of exp(logit − max); with `keep` the exponentials replace the logits.
    fn sum(&self, e: &mut Emit, simd: &Simd, t: Val, max: Val, keep: bool) -> Val {
        self.reduce(e, simd, 0.0, ("add", "addf"), |e, simd, c, so_far| {
            let x = simd.widen(e, &self.logits, &[t, c], simd.lanes);
            let p = exp_above(e, simd, x, max);
            if keep {
                simd.store(e, p, &self.logits, &[t, c]);
            }
            simd.op(e, "addf", so_far, p)
        })
    }

    /// `out[t] = exp(logits[t] − lse) · weight`.
    fn exp_rows(&self, e: &mut Emit, simd: &Simd, (out, t): (&Buf, Val), (lse, weight): (Val, Val)) {
        self.each(e, simd, |e, simd, c| {
            let x = simd.widen(e, &self.logits, &[t, c], simd.lanes);
            let p = exp_above(e, simd, x, lse);
            let weight = simd.broadcast(e, weight);
            let p = simd.op(e, "mulf", p, weight);
            simd.narrow(e, p, out, &[t, c], simd.lanes);
        });
    }
}

impl Label {
    /// `loss[t] = lse − logit`, or 0 where the token does not count.
    fn store_loss(&self, e: &mut Emit, loss: &Buf, t: Val, lse: Val) {
        let logit = self.logit(e);
        let value = e.val(format_args!("arith.subf {lse}, {logit} : f32"));
        self.store_counting(e, loss, t, value);
    }

    /// The label's logit.
    fn logit(&self, e: &mut Emit) -> Val {
        e.val(format_args!("vector.extract {}[0] : f32 from vector<1xf32>", self.logit))
    }

    /// `value`, or 0 where the token does not count.
    fn store_counting(&self, e: &mut Emit, to: &Buf, t: Val, value: Val) {
        let nought = e.val("arith.constant 0.0 : f32");
        let value = e.val(format_args!("arith.select {}, {value}, {nought} : f32", self.counts));
        e.store(value, to, &[t]);
    }

    /// Writes the label's element of the gradient: anew, since what the row holds may be rounded already.
    fn correct(&self, e: &mut Emit, simd: &Simd, (out, t): (&Buf, Val), (lse, weight): (Val, Val)) {
        let one = simd.narrowed(1);
        let p = exp_above(e, &one, self.logit, lse);
        let whole = one.splat(e, 1.0);
        let above = one.op(e, "subf", p, whole);
        let weight = one.broadcast(e, weight);
        let value = one.op(e, "mulf", above, weight);
        one.narrow(e, value, out, &[t, self.at], 1);
    }

    /// Fills row `t` with `fill` and corrects the label's element, or with zeros where the token does not count.
    fn fill_gradient(
        &self,
        e: &mut Emit,
        simd: &Simd,
        (out, t): (&Buf, Val),
        (lse, weight): (Val, Val),
        fill: impl FnOnce(&mut Emit),
    ) {
        e.either(
            self.counts,
            |e| {
                fill(e);
                self.correct(e, simd, (out, t), (lse, weight));
            },
            |e| {
                let (zero, width) = (e.index(0), e.index(out.dims[1]));
                e.each(zero, width, 1, |e, c| {
                    let nought = e.val(format_args!("arith.constant 0.0 : {}", out.element));
                    e.store(nought, out, &[t, c]);
                });
            },
        );
    }
}

/// exp(x − origin) for x at most little above the origin.
fn exp_above(e: &mut Emit, simd: &Simd, x: Val, origin: Val) -> Val {
    let origin = simd.broadcast(e, origin);
    let x = simd.op(e, "subf", x, origin);
    let log2e = simd.splat(e, std::f64::consts::LOG2_E);
    let x = e.val(format_args!("arith.mulf {x}, {log2e} : {}", simd.ty()));
    simd.exp2(e, x)
}

/// max + log(sum).
fn log_sum(e: &mut Emit, simd: &Simd, max: Val, sum: Val) -> Val {
    let one = simd.narrowed(1);
    let sum = one.broadcast(e, sum);
    let log = one.ln(e, sum);
    let log = e.val(format_args!("vector.extract {log}[0] : f32 from vector<1xf32>"));
    e.val(format_args!("arith.addf {max}, {log} : f32"))
}
