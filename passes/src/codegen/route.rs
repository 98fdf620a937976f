//! The router: experts of a token, its weights for them, and how often each is chosen.

use athanor_ir::op::RouteMask;
use athanor_ir::target::CpuLevel;

use super::Generated;
use super::emit::{Buf, Emit, Val};
use super::llvm::KernelText;
use super::scratch::Scratch;
use super::simd::{Float, Simd};

/// A choice of experts: `nn.route`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteSpec {
    /// Tokens.
    pub tokens: usize,
    /// Experts that there are.
    pub experts: usize,
    /// Experts of a token.
    pub k: usize,
    /// Runs of experts; 1 for none. Divides `experts`.
    pub groups: usize,
    /// Groups that count.
    pub group_k: usize,
    /// Experts of a group whose sum is the group's score.
    pub group_top: usize,
    /// What becomes of experts outside the best groups.
    pub mask: RouteMask,
    /// Whether a bias is added to the scores.
    pub bias: bool,
    /// Element type of scores and bias.
    pub dtype: Float,
}

/// Rows of `n` numbers with `k` ids each: `nn.pick` and its gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PickSpec {
    /// Rows.
    pub rows: usize,
    /// Numbers of a row.
    pub n: usize,
    /// Ids of a row.
    pub k: usize,
    /// Element type of the numbers.
    pub dtype: Float,
}

/// The choice. Buffers: scores `[T,e]`[, bias `[e]`] → ids i32 `[T,k]`, scratch. A grid item is a token.
///
/// Sums of score and bias and of a group's best are rounded to the scores' type before they are compared, as in the
/// reference op; equals go to the lower index. A NaN counts as the largest number, so that it is chosen and seen.
pub fn route(spec: &RouteSpec, level: CpuLevel, symbol: &str) -> Generated {
    let one = Simd::of(level).narrowed(1);
    let experts = spec.experts;
    let scores = Buf::arg("scores", &[spec.tokens, experts], spec.dtype.name());
    let bias = Buf::arg("bias", &[experts], spec.dtype.name());
    let ids = Buf::arg("ids", &[spec.tokens, spec.k], "i32");
    let mut scratch = Scratch::default();
    let (values_at, groups_at) = (scratch.reserve_bytes(8 * experts), scratch.reserve_bytes(8 * spec.groups));
    let rounded_at = scratch.reserve_bytes(4);
    let bytes = scratch.buf();
    let mut bufs = vec![&scores];
    bufs.extend(spec.bias.then_some(&bias));
    bufs.extend([&ids, &bytes]);
    let mut e = Emit::default();
    e.func(symbol, false, &bufs, &["lo", "hi", "worker"], |e| {
        let values = scratch.array(e, values_at, &[experts], "f64");
        let of_groups = scratch.array(e, groups_at, &[spec.groups], "f64");
        let rounded = scratch.array(e, rounded_at, &[1], spec.dtype.name());
        let (zero, end) = (e.index(0), e.index(experts));
        e.each(Val::Arg("lo"), Val::Arg("hi"), 1, |e, t| {
            e.each(zero, end, 1, |e, i| {
                let mut x = wide(e, &one, &scores, &[t, i]);
                if spec.bias {
                    let b = wide(e, &one, &bias, &[i]);
                    x = sum(e, &one, &rounded, x, b);
                }
                let most = infinity(e, false);
                let sane = e.val(format_args!("arith.cmpf ord, {x}, {x} : f64"));
                let x = e.val(format_args!("arith.select {sane}, {x}, {most} : f64"));
                e.store(x, &values, &[i]);
            });
            if spec.groups > 1 {
                mask_groups(e, spec, &one, (&values, &of_groups, &rounded));
            }
            let mut last = None;
            for j in 0..spec.k {
                let best = next_best(e, &values, (zero, end), last);
                let id = e.val(format_args!("arith.index_cast {best} : index to i32"));
                let at = e.index(j);
                e.store(id, &ids, &[t, at]);
                last = Some(best);
            }
        });
    });
    let text = KernelText { symbol: symbol.to_owned(), mlir: e.finish(), buffers: bufs.len() };
    Generated { text, grid: spec.tokens, scratch_bytes_per_worker: scratch.bytes() }
}

/// An element as f64.
fn wide(e: &mut Emit, one: &Simd, buf: &Buf, at: &[Val]) -> Val {
    let x = one.scalar(e, buf, at);
    e.val(format_args!("arith.extf {x} : f32 to f64"))
}

/// a + b rounded to the type of `place`, a buffer of one element that it goes through.
///
/// The way over f32 rounds twice, which changes nothing: f64 has more than twice the digits of f32, and f32 of the others.
fn sum(e: &mut Emit, one: &Simd, place: &Buf, a: Val, b: Val) -> Val {
    let exact = e.val(format_args!("arith.addf {a}, {b} : f64"));
    let single = e.val(format_args!("arith.truncf {exact} : f64 to f32"));
    let at = e.index(0);
    let single = one.broadcast(e, single);
    one.narrow(e, single, place, &[at], 1);
    wide(e, one, place, &[at])
}

fn infinity(e: &mut Emit, negative: bool) -> Val {
    let bits = if negative { "0xFFF0000000000000" } else { "0x7FF0000000000000" };
    e.val(format_args!("arith.constant {bits} : f64"))
}

/// Index of the largest of `x[lo..hi]` among those that come after `last` in the order from the largest to the smallest,
/// the lower index first among equals. There must be one.
fn next_best(e: &mut Emit, x: &Buf, (lo, hi): (Val, Val), last: Option<Val>) -> Val {
    let bound = last.map(|last| (last, e.load(x, &[last])));
    let found = e.fold((lo, hi, 1), &[hi], "index", |e, i, best| {
        let none = e.test("eq", best[0], hi);
        let safe = e.val(format_args!("arith.select {none}, {lo}, {} : index", best[0]));
        let (value, so_far) = (e.load(x, &[i]), e.load(x, &[safe]));
        let more = e.val(format_args!("arith.cmpf ogt, {value}, {so_far} : f64"));
        let mut better = e.val(format_args!("arith.ori {none}, {more} : i1"));
        if let Some((last, bound)) = bound {
            let below = e.val(format_args!("arith.cmpf olt, {value}, {bound} : f64"));
            let equal = e.val(format_args!("arith.cmpf oeq, {value}, {bound} : f64"));
            let later = e.test("sgt", i, last);
            let next = e.val(format_args!("arith.andi {equal}, {later} : i1"));
            let after = e.val(format_args!("arith.ori {below}, {next} : i1"));
            better = e.val(format_args!("arith.andi {better}, {after} : i1"));
        }
        vec![e.val(format_args!("arith.select {better}, {i}, {} : index", best[0]))]
    });
    found[0]
}

/// Replaces the scores of experts outside the best groups.
fn mask_groups(e: &mut Emit, spec: &RouteSpec, one: &Simd, (values, of_groups, rounded): (&Buf, &Buf, &Buf)) {
    let per = spec.experts / spec.groups;
    let (zero, groups) = (e.index(0), e.index(spec.groups));
    e.each(zero, groups, 1, |e, g| {
        let lo = e.idx_c("muli", g, per);
        let hi = e.idx_c("addi", lo, per);
        let mut total = e.val("arith.constant 0.0 : f64");
        let mut last = None;
        for _ in 0..spec.group_top {
            let best = next_best(e, values, (lo, hi), last);
            let x = e.load(values, &[best]);
            total = sum(e, one, rounded, total, x);
            last = Some(best);
        }
        e.store(total, of_groups, &[g]);
    });
    let mut best: Vec<Val> = vec![];
    for _ in 0..spec.group_k {
        let next = next_best(e, of_groups, (zero, groups), best.last().copied());
        best.push(next);
    }
    e.each(zero, groups, 1, |e, g| {
        let mut out = e.val("arith.constant true");
        for chosen in &best {
            let other = e.test("ne", g, *chosen);
            out = e.val(format_args!("arith.andi {out}, {other} : i1"));
        }
        e.when(out, |e| {
            let masked = match spec.mask {
                RouteMask::Zero => e.val("arith.constant 0.0 : f64"),
                RouteMask::NegInf => infinity(e, true),
            };
            let lo = e.idx_c("muli", g, per);
            let hi = e.idx_c("addi", lo, per);
            e.each(lo, hi, 1, |e, i| e.store(masked, values, &[i]));
        });
    });
}

/// An id of slot (t, j) as an index, and whether it is below `n`; a negative one becomes far larger than any row.
fn id_of(e: &mut Emit, ids: &Buf, at: &[Val], n: usize) -> (Val, Val) {
    let id = e.load(ids, at);
    let id = e.val(format_args!("arith.index_cast {id} : i32 to index"));
    let end = e.index(n);
    (id, e.test("ult", id, end))
}

/// Elements by id. Buffers: x `[T,n]`, ids i32 `[T,k]` → out `[T,k]`. A grid item is a row; an id outside it gives 0.
pub fn pick(spec: &PickSpec, symbol: &str) -> Generated {
    // Bits are moved: where branches join, LLVM would take a narrow type through f32 and a library function.
    let bits = if spec.dtype == Float::F32 { "i32" } else { "i16" };
    let x = Buf::arg("x", &[spec.rows, spec.n], bits);
    let ids = Buf::arg("ids", &[spec.rows, spec.k], "i32");
    let out = Buf::arg("out", &[spec.rows, spec.k], bits);
    let mut e = Emit::default();
    e.func(symbol, false, &[&x, &ids, &out], &["lo", "hi", "worker"], |e| {
        let (zero, k) = (e.index(0), e.index(spec.k));
        e.each(Val::Arg("lo"), Val::Arg("hi"), 1, |e, t| {
            e.each(zero, k, 1, |e, j| {
                let (id, known) = id_of(e, &ids, &[t, j], spec.n);
                let nought = e.val(format_args!("arith.constant 0 : {bits}"));
                let value = e.amend(known, &[nought], bits, |e| vec![e.load(&x, &[t, id])]);
                e.store(value[0], &out, &[t, j]);
            });
        });
    });
    let text = KernelText { symbol: symbol.to_owned(), mlir: e.finish(), buffers: 3 };
    Generated { text, grid: spec.rows, scratch_bytes_per_worker: 0 }
}

/// The gradient of [`pick`]. Buffers: ids i32 `[T,k]`, dy `[T,k]` → dx `[T,n]`. A grid item is a row.
pub fn pick_grad(spec: &PickSpec, level: CpuLevel, symbol: &str) -> Generated {
    let simd = Simd::of(level);
    let one = simd.narrowed(1);
    let ids = Buf::arg("ids", &[spec.rows, spec.k], "i32");
    let dy = Buf::arg("dy", &[spec.rows, spec.k], spec.dtype.name());
    let dx = Buf::arg("dx", &[spec.rows, spec.n], spec.dtype.name());
    let mut e = Emit::default();
    e.func(symbol, false, &[&ids, &dy, &dx], &["lo", "hi", "worker"], |e| {
        let (zero, k) = (e.index(0), e.index(spec.k));
        e.each(Val::Arg("lo"), Val::Arg("hi"), 1, |e, t| {
            simd.cover(e, spec.n, |e, simd, c| {
                let nothing = simd.splat(e, 0.0);
                simd.narrow(e, nothing, &dx, &[t, c], simd.lanes);
            });
            e.each(zero, k, 1, |e, j| {
                let (id, known) = id_of(e, &ids, &[t, j], spec.n);
                e.when(known, |e| {
                    let (old, more) = (one.widen(e, &dx, &[t, id], 1), one.widen(e, &dy, &[t, j], 1));
                    let sum = one.op(e, "addf", old, more);
                    one.narrow(e, sum, &dx, &[t, id], 1);
                });
            });
        });
    });
    let text = KernelText { symbol: symbol.to_owned(), mlir: e.finish(), buffers: 3 };
    Generated { text, grid: spec.rows, scratch_bytes_per_worker: 0 }
}

/// How often each of `bins` ids occurs in a row of `m`. Buffers: ids i32 `[l,m]` → counts f32 `[l,bins]`. A grid item is
/// a row. Counts are exact up to 2²⁴, which `m` may not exceed.
pub fn histogram((rows, m, bins): (usize, usize, usize), level: CpuLevel, symbol: &str) -> Generated {
    let simd = Simd::of(level);
    let ids = Buf::arg("ids", &[rows, m], "i32");
    let counts = Buf::arg("counts", &[rows, bins], "f32");
    let mut e = Emit::default();
    e.func(symbol, false, &[&ids, &counts], &["lo", "hi", "worker"], |e| {
        let (zero, end) = (e.index(0), e.index(m));
        e.each(Val::Arg("lo"), Val::Arg("hi"), 1, |e, row| {
            simd.cover(e, bins, |e, simd, c| {
                let nothing = simd.splat(e, 0.0);
                simd.store(e, nothing, &counts, &[row, c]);
            });
            e.each(zero, end, 1, |e, i| {
                let (id, known) = id_of(e, &ids, &[row, i], bins);
                e.when(known, |e| {
                    let old = e.load(&counts, &[row, id]);
                    let one = e.val("arith.constant 1.0 : f32");
                    let sum = e.val(format_args!("arith.addf {old}, {one} : f32"));
                    e.store(sum, &counts, &[row, id]);
                });
            });
        });
    });
    let text = KernelText { symbol: symbol.to_owned(), mlir: e.finish(), buffers: 2 };
    Generated { text, grid: rows, scratch_bytes_per_worker: 0 }
}
