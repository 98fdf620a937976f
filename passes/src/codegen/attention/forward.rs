//! The forward kernel: online softmax over key blocks, one block of queries at a time.

use athanor_ir::target::CpuLevel;

use super::AttentionSpec;
use super::layout::{Plan, Scratch};
use super::pack::prefetch_row;
use super::so_far::{joined, nothing_seen, plus};
use super::tile::{columns, product};
use crate::codegen::Generated;
use crate::codegen::emit::{Buf, Emit, Val};
use crate::codegen::llvm::KernelText;
use crate::codegen::simd::{LOWEST, f32_text};
use athanor_ir::alibi::slopes;

/// The buffers of a worker, as parameters of the helpers.
struct Bufs {
    /// `[rows, d]`: packed keys.
    k: Buf,
    /// `[rows, dv]`: packed values.
    v: Buf,
    /// `[q_block, d]`: packed queries.
    q: Buf,
    /// Transposed queries times scale · log2(e).
    qt: Buf,
    /// `[k_block, q_block]`: scores, then probabilities.
    s: Buf,
    /// `[q_block, dv]`: sums of probabilities times values.
    o: Buf,
    /// Per query: maximum so far, that before this block, sum of exponentials, factor on the sums so far.
    max: Buf,
    before: Buf,
    sum: Buf,
    alpha: Buf,
}

const F32: &str = "f32";

pub(super) fn generate(spec: &AttentionSpec, level: CpuLevel, symbol: &str) -> Generated {
    let plan = Plan::new(spec, level, symbol, (64, 128));
    let (qb, kb) = (plan.q_block, plan.k_block);
    let bufs = Bufs {
        k: Buf::arg("k", &[plan.key_rows, plan.d], F32),
        v: Buf::arg("v", &[plan.key_rows, plan.dv], F32),
        q: Buf::arg("q", &[qb, plan.d], F32),
        qt: Buf::arg("qt", &plan.panels(qb, spec.head_dim), F32),
        s: Buf::arg("s", &[kb, qb], F32),
        o: Buf::arg("o", &[qb, plan.dv], F32),
        max: Buf::arg("max", &[qb], F32),
        before: Buf::arg("before", &[qb], F32),
        sum: Buf::arg("sum", &[qb], F32),
        alpha: Buf::arg("alpha", &[qb], F32),
    };
    let mut e = Emit::default();
    plan.emit_pack(&mut e, "pack_q", &spec.q("src"), &bufs.q);
    plan.emit_pack(&mut e, "pack_k", &spec.k("src"), &bufs.k);
    plan.emit_pack(&mut e, "pack_v", &spec.v("src"), &bufs.v);
    plan.emit_transpose(&mut e, "transpose_q", &bufs.q, &bufs.qt, spec.scale * std::f64::consts::LOG2_E);
    plan.emit_start(&mut e, &bufs);
    plan.emit_scores(&mut e, &bufs);
    plan.emit_softmax(&mut e, &bufs);
    plan.emit_values(&mut e, &bufs);
    plan.emit_end(&mut e, &bufs);
    let scratch = plan.emit_forward(&mut e, &bufs);
    Generated {
        text: KernelText { symbol: symbol.to_owned(), mlir: e.finish(), buffers: 6 + spec.extra_operands(2) },
        grid: spec.batch * spec.kv_heads,
        scratch_bytes_per_worker: scratch,
    }
}

impl Plan {
    /// The kernel itself; returns the bytes of scratch per worker.
    fn emit_forward(&self, e: &mut Emit, bufs: &Bufs) -> usize {
        let spec = &self.spec;
        let mut scratch = Scratch::default();
        let order =
            [&bufs.k, &bufs.v, &bufs.q, &bufs.qt, &bufs.s, &bufs.o, &bufs.max, &bufs.before, &bufs.sum, &bufs.alpha];
        let at = order.map(|b| scratch.reserve(&b.dims));
        let (q, k, v, out, lse) = (spec.q("q"), spec.k("k"), spec.v("v"), spec.new_out("out"), spec.lse());
        let (bytes, origin, others) = (scratch.buf(), spec.origin(), spec.others());
        let operands = [&q, &k, &v].into_iter().chain(&origin).chain(others.iter().flatten());
        let params: Vec<&Buf> = operands.chain([&out, &lse, &bytes]).collect();
        e.func(&self.symbol, false, &params, &["lo", "hi", "worker"], |e| {
            let base = scratch.base(e);
            let start = Self::start(e, origin.as_ref());
            let [pk, pv, pq, qt, s, o, max, before, sum, alpha] = std::array::from_fn(|i| {
                let from = e.idx_c("addi", base, at[i]);
                e.view(&bytes, from, &order[i].dims, F32)
            });
            let (zero, rows, seq) = (e.index(0), e.index(self.key_rows), e.index(spec.seq));
            let (block, keys) = (e.index(self.q_block), e.index(self.keys));
            e.each(Val::Arg("lo"), Val::Arg("hi"), 1, |e, item| {
                let b = e.idx_c("divui", item, spec.kv_heads);
                let g = e.idx_c("remui", item, spec.kv_heads);
                e.call(&self.helper("pack_k"), &[&k, &pk], &[b, g, zero, rows]);
                e.call(&self.helper("pack_v"), &[&v, &pv], &[b, g, zero, rows]);
                let first = e.idx_c("muli", g, spec.group());
                let last = e.idx_c("addi", first, spec.group());
                e.each(first, last, 1, |e, h| {
                    e.each(zero, seq, self.q_block, |e, q0| {
                        e.call(&self.helper("pack_q"), &[&q, &pq], &[b, h, q0, block]);
                        e.call(&self.helper("transpose_q"), &[&pq, &qt], &[]);
                        e.call(&self.helper("start"), &[&o, &max, &before, &sum], &[]);
                        let end = if spec.causal {
                            let end = e.idx_c("addi", q0, self.q_block);
                            let end = self.seen(e, end, start);
                            e.idx("minsi", end, keys)
                        } else {
                            keys
                        };
                        e.each(zero, end, self.k_block, |e, k0| {
                            let k1 = e.idx_c("addi", k0, self.k_block);
                            let k1 = e.idx("minsi", k1, end);
                            let at = spec.with_start(&[q0, k0, k1], start);
                            e.call(&self.helper("scores"), &[&pk, &qt, &s, &max], &spec.with_head(&at, h));
                            e.call(&self.helper("softmax"), &[&s, &max, &before, &sum, &alpha], &at);
                            e.call(&self.helper("values"), &[&s, &pv, &o, &alpha], &at);
                        });
                        let parts = [&o, &max, &before, &sum, &alpha].into_iter().chain(others.iter().flatten());
                        let parts: Vec<&Buf> = parts.chain([&out, &lse]).collect();
                        e.call(&self.helper("end"), &parts, &[b, h, q0]);
                    });
                });
            });
        });
        scratch.bytes()
    }

    /// Nothing seen yet: maxima at their lowest, sums 0.
    fn emit_start(&self, e: &mut Emit, bufs: &Bufs) {
        let simd = self.simd;
        e.func(&self.helper("start"), true, &[&bufs.o, &bufs.max, &bufs.before, &bufs.sum], &[], |e| {
            let (zero, rows, width) = (e.index(0), e.index(self.q_block), e.index(self.dv));
            let (nought, lowest) = (simd.splat(e, 0.0), simd.splat(e, LOWEST));
            e.each(zero, rows, 1, |e, r| {
                e.each(zero, width, simd.lanes, |e, c| simd.store(e, nought, &bufs.o, &[r, c]));
            });
            e.each(zero, rows, simd.lanes, |e, r| {
                simd.store(e, lowest, &bufs.max, &[r]);
                simd.store(e, lowest, &bufs.before, &[r]);
                simd.store(e, nought, &bufs.sum, &[r]);
            });
        });
    }

    /// First query of the first tile that sees key `kk`, relative to the block at `q0`.
    pub(super) fn first_query(&self, e: &mut Emit, kk: Val, q0: Val) -> Val {
        let from = Self::seen_from(e, kk, q0, self.given_start());
        let from = e.idx("subi", from, q0);
        e.floor_to(from, self.wide)
    }

    /// The slope of head `h` of the helper, times log2(e), in every lane; `None` without slopes.
    pub(super) fn slope(&self, e: &mut Emit) -> Option<Val> {
        if !self.spec.alibi {
            return None;
        }
        let slopes = slopes(self.spec.heads);
        let table: Vec<String> = slopes.iter().map(|s| f32_text(s * std::f64::consts::LOG2_E)).collect();
        let ty = format!("vector<{}xf32>", table.len());
        let table = e.val(format_args!("arith.constant dense<[{}]> : {ty}", table.join(", ")));
        let slope = e.val(format_args!("vector.extract {table}[{}] : f32 from {ty}", Val::Arg("h")));
        Some(self.simd.broadcast(e, slope))
    }

    /// `tile` at key `kk` and query `qq` with slope·(key − query) added to each score. Distances are exact.
    pub(super) fn biased(&self, e: &mut Emit, tile: Vec<Val>, slope: Option<Val>, kk: Val, qq: Val) -> Vec<Val> {
        let Some(slope) = slope else { return tile };
        let simd = self.simd;
        let position = Self::position(e, qq, self.given_start());
        let apart = e.idx("subi", kk, position);
        let apart = e.val(format_args!("arith.index_cast {apart} : index to i32"));
        let apart = e.val(format_args!("arith.sitofp {apart} : i32 to f32"));
        let apart = simd.broadcast(e, apart);
        let add = |(x, score): (usize, Val)| {
            let (i, j) = (x / simd.cols, x % simd.cols);
            let lanes: Vec<String> =
                (0..simd.lanes).map(|l| f32_text(i as f64 - (j * simd.lanes + l) as f64)).collect();
            let lanes = e.val(format_args!("arith.constant dense<[{}]> : {}", lanes.join(", "), simd.ty()));
            let distance = simd.op(e, "addf", apart, lanes);
            simd.fma(e, distance, slope, score)
        };
        tile.into_iter().enumerate().map(add).collect()
    }

    /// Where the tile at key `kk` and query `qq` crosses the diagonal (or the end of the keys), `tile` with the scores of
    /// unseen keys at their lowest; elsewhere `tile` itself.
    pub(super) fn masked(&self, e: &mut Emit, tile: &[Val], kk: Val, qq: Val) -> Vec<Val> {
        let simd = self.simd;
        if !self.spec.causal && self.keys == self.spec.keys {
            return tile.to_vec();
        }
        let last = e.idx_c("addi", kk, simd.rows - 1);
        let bound =
            if self.spec.causal { Self::position(e, qq, self.given_start()) } else { e.index(self.spec.keys - 1) };
        let end = if self.spec.first && self.keys != self.spec.keys {
            let end = e.index(self.spec.keys - 1);
            e.idx("minsi", bound, end)
        } else {
            bound
        };
        let crosses = e.test("sgt", last, end);
        e.amend(crosses, tile, &simd.ty(), |e| {
            let ints = format!("vector<{}xi32>", simd.lanes);
            let cast = |e: &mut Emit, x: Val| {
                let x = e.val(format_args!("arith.index_cast {x} : index to i32"));
                e.val(format_args!("vector.broadcast {x} : i32 to {ints}"))
            };
            let lowest = simd.splat(e, LOWEST);
            let padded = self.spec.first && self.keys != self.spec.keys;
            let limits: Vec<Val> = (0..simd.cols)
                .map(|j| {
                    let at = cast(e, bound);
                    if !self.spec.causal {
                        return at;
                    }
                    let lanes: Vec<String> = (0..simd.lanes).map(|l| (j * simd.lanes + l).to_string()).collect();
                    let lanes = e.val(format_args!("arith.constant dense<[{}]> : {ints}", lanes.join(", ")));
                    let at = e.val(format_args!("arith.addi {at}, {lanes} : {ints}"));
                    if !padded {
                        return at;
                    }
                    let last = e.val(format_args!("arith.constant dense<{}> : {ints}", self.spec.keys - 1));
                    e.val(format_args!("arith.minsi {at}, {last} : {ints}"))
                })
                .collect();
            let mut out = Vec::with_capacity(tile.len());
            for (i, row) in tile.chunks(simd.cols).enumerate() {
                let key = e.idx_c("addi", kk, i);
                let key = cast(e, key);
                for (x, limit) in row.iter().zip(&limits) {
                    let seen = e.val(format_args!("arith.cmpi sle, {key}, {limit} : {ints}"));
                    out.push(simd.select(e, seen, *x, lowest));
                }
            }
            out
        })
    }

    /// Scores of keys `k0..k1` against the block of queries at `q0`, and the new maxima.
    fn emit_scores(&self, e: &mut Emit, bufs: &Bufs) {
        let simd = self.simd;
        let indices = self.spec.with_head(&self.spec.with_start(&["q0", "k0", "k1"], Some("start")), "h");
        e.func(&self.helper("scores"), true, &[&bufs.k, &bufs.qt, &bufs.s, &bufs.max], &indices, |e| {
            let slope = self.slope(e);
            let (q0, k0, k1) = (Val::Arg("q0"), Val::Arg("k0"), Val::Arg("k1"));
            let (zero, dims) = (e.index(0), e.index(self.spec.head_dim));
            let columns = self.columns_from(e, q0);
            let nought = simd.splat(e, 0.0);
            e.each(k0, k1, simd.rows, |e, kk| {
                let from = if self.spec.causal { self.first_query(e, kk, q0) } else { zero };
                e.each(from, columns, self.wide, |e, qi| {
                    let tile = self.score_tile(e, (&bufs.k, kk), (&bufs.qt, qi), (zero, dims), nought);
                    let qq = e.idx("addi", q0, qi);
                    let tile = self.biased(e, tile, slope, kk, qq);
                    let tile = self.masked(e, &tile, kk, qq);
                    let row = e.idx("subi", kk, k0);
                    for j in 0..simd.cols {
                        let at = e.idx_c("addi", qi, j * simd.lanes);
                        let mut max = simd.load(e, &bufs.max, &[at]);
                        for i in 0..simd.rows {
                            let x = tile[i * simd.cols + j];
                            let r = e.idx_c("addi", row, i);
                            simd.store(e, x, &bufs.s, &[r, at]);
                            max = simd.max(e, max, x);
                        }
                        simd.store(e, max, &bufs.max, &[at]);
                    }
                });
            });
        });
    }

    /// Product of packed rows (from row `r`) and a transposed matrix (from column `c`).
    pub(super) fn score_tile(
        &self,
        e: &mut Emit,
        (rows, r): (&Buf, Val),
        (panels, c): (&Buf, Val),
        dims: (Val, Val),
        nought: Val,
    ) -> Vec<Val> {
        let simd = self.simd;
        let panel = e.idx_c("divui", c, self.wide);
        let keys: Vec<Val> = (0..simd.rows).map(|i| e.idx_c("addi", r, i)).collect();
        let lanes: Vec<Val> = (0..simd.cols).map(|j| e.index(j * simd.lanes)).collect();
        product(
            e,
            &simd,
            dims,
            simd.cols,
            &vec![nought; simd.rows * simd.cols],
            |e, dim, i| simd.load_splat(e, rows, &[keys[i], dim]),
            |e, dim, j| simd.load(e, panels, &[panel, dim, lanes[j]]),
        )
    }

    /// Queries of the block at `q0` that exist, rounded up to a register tile.
    fn columns_from(&self, e: &mut Emit, q0: Val) -> Val {
        let rows = e.index(self.rows);
        let left = e.idx("subi", rows, q0);
        let block = e.index(self.q_block);
        e.idx("minsi", left, block)
    }

    /// Scores become probabilities relative to the new maxima; the sums so far are brought to the same scale.
    fn emit_softmax(&self, e: &mut Emit, bufs: &Bufs) {
        let simd = self.simd;
        let params = [&bufs.s, &bufs.max, &bufs.before, &bufs.sum, &bufs.alpha];
        let indices = self.spec.with_start(&["q0", "k0", "k1"], Some("start"));
        e.func(&self.helper("softmax"), true, &params, &indices, |e| {
            let (q0, k0, k1) = (Val::Arg("q0"), Val::Arg("k0"), Val::Arg("k1"));
            let zero = e.index(0);
            let columns = self.columns_from(e, q0);
            e.each(zero, columns, self.wide, |e, qi| {
                let at: Vec<Val> = (0..simd.cols).map(|j| e.idx_c("addi", qi, j * simd.lanes)).collect();
                let (mut maxima, mut sums) = (Vec::new(), Vec::new());
                for &at in &at {
                    let max = simd.load(e, &bufs.max, &[at]);
                    let before = simd.load(e, &bufs.before, &[at]);
                    let change = simd.op(e, "subf", before, max);
                    let alpha = simd.exp2(e, change);
                    let sum = simd.load(e, &bufs.sum, &[at]);
                    sums.push(simd.op(e, "mulf", sum, alpha));
                    simd.store(e, alpha, &bufs.alpha, &[at]);
                    simd.store(e, max, &bufs.before, &[at]);
                    maxima.push(max);
                }
                let end = self.last_key(e, (q0, qi), self.wide, k1);
                let rows = e.idx("subi", end, k0);
                let sums = e.fold((zero, rows, 2), &sums, &simd.ty(), |e, r, sums| {
                    let mut sums = sums.to_vec();
                    for i in 0..2 {
                        let r = e.idx_c("addi", r, i);
                        for j in 0..simd.cols {
                            let x = simd.load(e, &bufs.s, &[r, at[j]]);
                            let x = simd.op(e, "subf", x, maxima[j]);
                            let p = simd.exp2(e, x);
                            simd.store(e, p, &bufs.s, &[r, at[j]]);
                            sums[j] = simd.op(e, "addf", sums[j], p);
                        }
                    }
                    sums
                });
                for (&at, sum) in at.iter().zip(sums) {
                    simd.store(e, sum, &bufs.sum, &[at]);
                }
            });
        });
    }

    /// End of the keys that the `count` queries at `q0 + qi` see, at most `k1`.
    fn last_key(&self, e: &mut Emit, (q0, qi): (Val, Val), count: usize, k1: Val) -> Val {
        if !self.spec.causal {
            return k1;
        }
        let end = e.idx("addi", q0, qi);
        let end = e.idx_c("addi", end, count);
        let end = self.seen(e, end, self.given_start());
        e.idx("minsi", end, k1)
    }

    /// Adds probabilities times values.
    fn emit_values(&self, e: &mut Emit, bufs: &Bufs) {
        let simd = self.simd;
        let params = [&bufs.s, &bufs.v, &bufs.o, &bufs.alpha];
        let indices = self.spec.with_start(&["q0", "k0", "k1"], Some("start"));
        e.func(&self.helper("values"), true, &params, &indices, |e| {
            let (q0, k0, k1) = (Val::Arg("q0"), Val::Arg("k0"), Val::Arg("k1"));
            let zero = e.index(0);
            let seq = e.index(self.spec.seq);
            let left = e.idx("subi", seq, q0);
            let block = e.index(self.q_block);
            let queries = e.idx("minsi", left, block);
            e.each(zero, queries, simd.rows, |e, qi| {
                let end = self.last_key(e, (q0, qi), simd.rows, k1);
                let rows: Vec<Val> = (0..simd.rows).map(|i| e.idx_c("addi", qi, i)).collect();
                for (first, count, cols) in columns(&simd, self.dv) {
                    let (lo, hi) = (e.index(first), e.index(first + count * cols * simd.lanes));
                    e.each(lo, hi, cols * simd.lanes, |e, c| {
                        let at: Vec<Val> = (0..cols).map(|j| e.idx_c("addi", c, j * simd.lanes)).collect();
                        let mut init = Vec::new();
                        for &r in &rows {
                            let alpha = simd.load_splat(e, &bufs.alpha, &[r]);
                            for &c in &at {
                                let o = simd.load(e, &bufs.o, &[r, c]);
                                init.push(simd.op(e, "mulf", o, alpha));
                            }
                        }
                        let sums = product(
                            e,
                            &simd,
                            (k0, end),
                            cols,
                            &init,
                            |e, key, i| {
                                let row = e.idx("subi", key, k0);
                                simd.load_splat(e, &bufs.s, &[row, rows[i]])
                            },
                            |e, key, j| simd.load(e, &bufs.v, &[key, at[j]]),
                        );
                        for (x, sum) in sums.iter().enumerate() {
                            simd.store(e, *sum, &bufs.o, &[rows[x / cols], at[x % cols]]);
                        }
                    });
                }
            });
        });
    }

    /// Divides by the sums, joins what other keys gave, and writes the block's rows of `out` and `lse`.
    fn emit_end(&self, e: &mut Emit, bufs: &Bufs) {
        let (simd, spec) = (self.simd, &self.spec);
        let (out, lse, others) = (spec.new_out("out"), spec.lse(), spec.others());
        let parts = [&bufs.o, &bufs.max, &bufs.before, &bufs.sum, &bufs.alpha].into_iter();
        let params: Vec<&Buf> = parts.chain(others.iter().flatten()).chain([&out, &lse]).collect();
        e.func(&self.helper("end"), true, &params, &["b", "h", "q0"], |e| {
            let (b, h, q0) = (Val::Arg("b"), Val::Arg("h"), Val::Arg("q0"));
            let (zero, block, seq) = (e.index(0), e.index(self.q_block), e.index(spec.seq));
            let left = e.idx("subi", seq, q0);
            let count = e.idx("minsi", left, block);
            if let Some([_, sums]) = &others {
                e.each(zero, count, 1, |e, r| {
                    let row = e.idx("addi", q0, r);
                    let value = e.load(sums, &[b, h, row]);
                    e.store(value, &bufs.alpha, &[r]);
                });
            }
            e.each(zero, count, simd.lanes, |e, r| {
                let sum = simd.load(e, &bufs.sum, &[r]);
                let max = simd.load(e, &bufs.max, &[r]);
                let log = simd.ln(e, sum);
                let ln2 = simd.splat(e, std::f64::consts::LN_2);
                let mut value = simd.fma(e, max, ln2, log);
                let one = simd.splat(e, 1.0);
                let mut inverse = simd.op(e, "divf", one, sum);
                if spec.first {
                    [value, inverse] = nothing_seen(e, &simd, [max, sum], [value, inverse]);
                }
                if others.is_some() {
                    let other = simd.load(e, &bufs.alpha, &[r]);
                    let [total, own, theirs] = joined(e, &simd, value, other);
                    value = total;
                    inverse = simd.op(e, "mulf", inverse, own);
                    simd.store(e, theirs, &bufs.alpha, &[r]);
                }
                simd.store(e, value, &bufs.before, &[r]);
                simd.store(e, inverse, &bufs.sum, &[r]);
            });
            e.each(zero, count, 1, |e, r| {
                let row = e.idx("addi", q0, r);
                prefetch_row(e, &out, [b, row, h], true);
                let value = e.load(&bufs.before, &[r]);
                e.store(value, &lse, &[b, h, row]);
                let inverse = e.load(&bufs.sum, &[r]);
                let share = others.is_some().then(|| e.load(&bufs.alpha, &[r]));
                for (c, n) in simd.chunks(spec.v_head_dim) {
                    let c = e.index(c);
                    let x = simd.widen(e, &bufs.o, &[r, c], n);
                    let factor = e.val(format_args!("vector.broadcast {inverse} : f32 to vector<{n}xf32>"));
                    let mut x = e.val(format_args!("arith.mulf {x}, {factor} : vector<{n}xf32>"));
                    if let Some([out, _]) = &others {
                        let y = simd.widen(e, out, &[b, row, h, c], n);
                        x = plus(e, x, y, share, n);
                    }
                    simd.narrow(e, x, &out, &[b, row, h, c], n);
                }
            });
        });
    }
}
