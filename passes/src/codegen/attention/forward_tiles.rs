//! The forward kernel on tile registers: bf16 operands, f32 scores and sums.
//!
//! Blocks are 32 queries wide. Scores and sums are kept transposed (keys or value dims × queries), so that the softmax
//! works lane by lane and probabilities leave it in the paired form that the second product needs.

use super::AttentionSpec;
use super::layout::{DEPTH, Plan, Scratch};
use super::so_far::{joined, nothing_seen};
use super::tiles::{Part, SUMS, load_sums, multiply, score_block, store_sums};
use crate::codegen::Generated;
use crate::codegen::emit::{Buf, Emit, Val};
use crate::codegen::llvm::KernelText;
use crate::codegen::simd::LOWEST;

/// Scratch of a worker.
struct Parts {
    k: Part,
    v: Part,
    /// Values in pairs of rows, then transposed: panels of 32 keys.
    v_pairs: Part,
    vt: Part,
    q: Part,
    /// Transposed queries: panels of 32 queries.
    qt: Part,
    /// `[k_block, 32]` scores; `[k_block / 2, 64]` probabilities, in pairs of keys.
    s: Part,
    p: Part,
    /// Transposed sums of the whole head, panels of 32 queries; then as rows.
    ot: Part,
    o: Part,
    /// Per query of a block.
    max: Part,
    before: Part,
    sum: Part,
    /// Per query of the head; the logarithms of sums over other keys become their shares.
    lse: Part,
    shares: Part,
}

/// The buffers that the inner loops work on.
struct Open {
    k: Buf,
    vt: Buf,
    qt: Buf,
    s: Buf,
    p: Buf,
    ot: Buf,
    max: Buf,
    before: Buf,
    sum: Buf,
    lse: Buf,
    shares: Buf,
}

pub(super) fn generate(spec: &AttentionSpec, symbol: &str) -> Generated {
    let plan = Plan::for_tiles(spec, symbol, 256);
    let mut scratch = Scratch::default();
    let (rows, key_rows, d, dv, kb) = (plan.rows, plan.key_rows, plan.d, plan.dv, plan.k_block);
    let parts = Parts {
        k: scratch.part(&[key_rows, d], "bf16"),
        v: scratch.part(&[key_rows, dv], "bf16"),
        v_pairs: scratch.part(&[key_rows / 2, dv], "f32"),
        vt: scratch.part(&[key_rows / DEPTH, dv, DEPTH / 2], "f32"),
        q: scratch.part(&[rows, d], "bf16"),
        qt: scratch.part(&[rows / DEPTH, d / 2, DEPTH], "f32"),
        s: scratch.part(&[kb, DEPTH], "f32"),
        p: scratch.part(&[kb / 2, 2 * DEPTH], "bf16"),
        ot: scratch.part(&[rows / DEPTH, dv, DEPTH], "f32"),
        o: scratch.part(&[rows, dv], "f32"),
        max: scratch.part(&[DEPTH], "f32"),
        before: scratch.part(&[DEPTH], "f32"),
        sum: scratch.part(&[DEPTH], "f32"),
        lse: scratch.part(&[rows], "f32"),
        shares: scratch.part(&[if spec.so_far { rows } else { 0 }], "f32"),
    };
    let mut e = Emit::default();
    plan.emit_pack(&mut e, "pack_q", &spec.q("src"), &parts.q.param("dst"));
    plan.emit_pack(&mut e, "pack_k", &spec.k("src"), &parts.k.param("dst"));
    plan.emit_pack(&mut e, "pack_v", &spec.v("src"), &parts.v.param("dst"));
    plan.emit_pairs(&mut e, "pairs_v", &parts.v, &parts.v_pairs);
    plan.emit_transpose(&mut e, "transpose_v", &parts.v_pairs.param("src"), &parts.vt.param("dst"), 1.0);
    let q_pairs = parts.q.cast(&[rows, d / 2], "f32");
    plan.emit_transpose(&mut e, "transpose_q", &q_pairs.param("src"), &parts.qt.param("dst"), 1.0);
    plan.emit_untranspose(&mut e, "rows_o", &parts.ot, &parts.o);
    let (o, out) = (parts.o.param("src"), spec.new_out("dst"));
    match spec.others() {
        None => plan.emit_unpack(&mut e, "unpack_o", &o, &out, 1.0),
        Some([others, sums]) => {
            let shares = parts.shares.param("shares");
            plan.emit_unpack_onto(&mut e, "unpack_o", (&o, &out), (&others, Some(&shares)), 1.0);
            plan.emit_load_sums(&mut e, &sums, &shares);
        }
    }
    plan.emit_store_lse(&mut e, &parts.lse);
    plan.emit_kernel(&mut e, &parts, &scratch);
    Generated {
        text: KernelText { symbol: symbol.to_owned(), mlir: e.finish(), buffers: 6 + spec.extra_operands(2) },
        grid: spec.batch * spec.kv_heads,
        scratch_bytes_per_worker: scratch.bytes(),
    }
}

impl Plan {
    /// Copies the log-sum-exp of a head to its place.
    fn emit_store_lse(&self, e: &mut Emit, rows: &Part) {
        let (simd, lse, src) = (self.simd, self.spec.lse(), rows.param("src"));
        e.func(&self.helper("store_lse"), true, &[&src, &lse], &["b", "h"], |e| {
            let (zero, seq) = (e.index(0), e.index(self.spec.seq));
            let whole = self.spec.seq / simd.lanes * simd.lanes;
            let hi = e.index(whole);
            e.each(zero, hi, simd.lanes, |e, c| {
                let x = simd.load(e, &src, &[c]);
                simd.store(e, x, &lse, &[Val::Arg("b"), Val::Arg("h"), c]);
            });
            e.each(hi, seq, 1, |e, c| {
                let x = e.load(&src, &[c]);
                e.store(x, &lse, &[Val::Arg("b"), Val::Arg("h"), c]);
            });
        });
    }

    /// Copies the logarithms of sums over other keys of a head; those of queries past the sequence are 0.
    fn emit_load_sums(&self, e: &mut Emit, sums: &Buf, dst: &Buf) {
        e.func(&self.helper("load_sums"), true, &[sums, dst], &["b", "h"], |e| {
            let (zero, seq, rows) = (e.index(0), e.index(self.spec.seq), e.index(self.rows));
            e.each(zero, seq, 1, |e, r| {
                let x = e.load(sums, &[Val::Arg("b"), Val::Arg("h"), r]);
                e.store(x, dst, &[r]);
            });
            let nought = e.val("arith.constant 0.0 : f32");
            e.each(seq, rows, 1, |e, r| e.store(nought, dst, &[r]));
        });
    }

    fn emit_kernel(&self, e: &mut Emit, parts: &Parts, scratch: &Scratch) {
        let spec = &self.spec;
        let (q, k, v, out, lse) = (spec.q("q"), spec.k("k"), spec.v("v"), spec.new_out("out"), spec.lse());
        let (bytes, origin, others) = (scratch.buf(), spec.origin(), spec.others());
        let operands = [&q, &k, &v].into_iter().chain(&origin).chain(others.iter().flatten());
        let params: Vec<&Buf> = operands.chain([&out, &lse, &bytes]).collect();
        e.func(&self.symbol, false, &params, &["lo", "hi", "worker"], |e| {
            let base = scratch.base(e);
            let start = Self::start(e, origin.as_ref());
            let (panels, key_panels) = (self.rows / DEPTH, self.key_rows / DEPTH);
            let open = Open {
                k: parts.k.open(e, &bytes, base),
                vt: parts.vt.cast(&[key_panels * self.dv, DEPTH], "bf16").open(e, &bytes, base),
                qt: parts.qt.cast(&[panels * self.d / 2, 2 * DEPTH], "bf16").open(e, &bytes, base),
                s: parts.s.open(e, &bytes, base),
                p: parts.p.open(e, &bytes, base),
                ot: parts.ot.cast(&[panels * self.dv, DEPTH], "f32").open(e, &bytes, base),
                max: parts.max.open(e, &bytes, base),
                before: parts.before.open(e, &bytes, base),
                sum: parts.sum.open(e, &bytes, base),
                lse: parts.lse.open(e, &bytes, base),
                shares: parts.shares.open(e, &bytes, base),
            };
            let [v_rows, v_pairs, vt, q_rows, qt, ot, o] =
                [&parts.v, &parts.v_pairs, &parts.vt, &parts.q, &parts.qt, &parts.ot, &parts.o]
                    .map(|part| part.open(e, &bytes, base));
            let q_pairs = parts.q.cast(&[self.rows, self.d / 2], "f32").open(e, &bytes, base);
            let (zero, rows, seq) = (e.index(0), e.index(self.rows), e.index(spec.seq));
            let key_rows = e.index(self.key_rows);
            let call = |e: &mut Emit, name: &str, bufs: &[&Buf], at: &[Val]| e.call(&self.helper(name), bufs, at);
            e.each(Val::Arg("lo"), Val::Arg("hi"), 1, |e, item| {
                let b = e.idx_c("divui", item, spec.kv_heads);
                let g = e.idx_c("remui", item, spec.kv_heads);
                call(e, "pack_k", &[&k, &open.k], &[b, g, zero, key_rows]);
                call(e, "pack_v", &[&v, &v_rows], &[b, g, zero, key_rows]);
                call(e, "pairs_v", &[&v_rows, &v_pairs], &[]);
                call(e, "transpose_v", &[&v_pairs, &vt], &[]);
                let first = e.idx_c("muli", g, spec.group());
                let last = e.idx_c("addi", first, spec.group());
                e.each(first, last, 1, |e, h| {
                    call(e, "pack_q", &[&q, &q_rows], &[b, h, zero, rows]);
                    call(e, "transpose_q", &[&q_pairs, &qt], &[]);
                    if let Some([_, sums]) = &others {
                        call(e, "load_sums", &[sums, &open.shares], &[b, h]);
                    }
                    e.each(zero, rows, DEPTH, |e, q0| self.query_block(e, &open, q0, start));
                    call(e, "rows_o", &[&ot, &o], &[]);
                    let with = others.iter().flat_map(|[out, _]| [out, &open.shares]);
                    let rows: Vec<&Buf> = [&o].into_iter().chain(with).chain([&out]).collect();
                    call(e, "unpack_o", &rows, &[b, h, zero, seq]);
                    call(e, "store_lse", &[&open.lse, &lse], &[b, h]);
                });
            });
        });
    }

    /// The 32 queries at `q0`. Written in place: a call would cost a configuration of the tile registers.
    fn query_block(&self, e: &mut Emit, open: &Open, q0: Val, start: Option<Val>) {
        let simd = self.simd;
        let zero = e.index(0);
        let columns: Vec<Val> = [0, simd.lanes].map(|c| e.index(c)).into();
        let panel = e.idx_c("divui", q0, DEPTH);
        let first_sum = e.idx_c("muli", panel, self.dv);
        let first_pair = e.idx_c("muli", panel, self.d / 2);
        let sum_rows = e.index(self.dv);
        let (nought, lowest) = (simd.splat(e, 0.0), simd.splat(e, LOWEST));
        for &c in &columns {
            simd.store(e, lowest, &open.max, &[c]);
            simd.store(e, lowest, &open.before, &[c]);
            simd.store(e, nought, &open.sum, &[c]);
        }
        let each_sum = |e: &mut Emit, body: &dyn Fn(&mut Emit, Val)| {
            e.each(zero, sum_rows, 1, |e, r| {
                let r = e.idx("addi", first_sum, r);
                body(e, r);
            });
        };
        each_sum(e, &|e, r| {
            for &c in &columns {
                simd.store(e, nought, &open.ot, &[r, c]);
            }
        });
        let keys = e.index(self.key_rows);
        let end = if self.spec.causal {
            let end = e.idx_c("addi", q0, DEPTH);
            let end = Self::blocks_seen(e, end, start);
            e.idx("minsi", end, keys)
        } else {
            keys
        };
        e.each(zero, end, self.k_block, |e, k0| {
            let k1 = e.idx_c("addi", k0, self.k_block);
            let k1 = e.idx("minsi", k1, end);
            let count = e.idx("subi", k1, k0);
            e.each(zero, count, DEPTH, |e, r| {
                let key = e.idx("addi", k0, r);
                let sums = score_block(e, (&open.k, key), (&open.qt, first_pair), self.d);
                store_sums(e, &sums, &open.s, r, zero);
                if start.is_some() {
                    let (crosses, ahead) = Self::crosses(e, key, q0, start);
                    e.when(crosses, |e| self.hide_unseen(e, &open.s, r, ahead));
                }
            });
            let last_rows = |e: &mut Emit, end: Val, hide: &dyn Fn(&mut Emit, Val)| {
                let last = e.test("eq", k1, end);
                e.when(last, |e| {
                    let row = e.idx_c("subi", count, DEPTH);
                    hide(e, row);
                });
            };
            if start.is_none() && self.spec.causal {
                last_rows(e, end, &|e, row| self.hide_unseen(e, &open.s, row, None));
            }
            if self.has_padding() {
                last_rows(e, keys, &|e, row| self.hide_padding(e, &open.s, row));
            }
            let alpha = self.softmax(e, open, &columns, count);
            each_sum(e, &|e, r| {
                for (&c, &alpha) in columns.iter().zip(&alpha) {
                    let x = simd.load(e, &open.ot, &[r, c]);
                    let x = simd.op(e, "mulf", x, alpha);
                    simd.store(e, x, &open.ot, &[r, c]);
                }
            });
            e.each(zero, sum_rows, DEPTH, |e, dim| {
                let r = e.idx("addi", first_sum, dim);
                let sums = load_sums(e, &open.ot, r, zero);
                let sums = e.fold((zero, count, DEPTH), &sums, SUMS, |e, key, sums| {
                    let pair = e.idx_c("divui", key, 2);
                    let key = e.idx("addi", k0, key);
                    let panel = e.idx_c("divui", key, DEPTH);
                    let row = e.idx_c("muli", panel, self.dv);
                    let row = e.idx("addi", row, dim);
                    multiply(e, sums, (&open.vt, row, zero), (&open.p, pair, zero))
                });
                store_sums(e, &sums, &open.ot, r, zero);
            });
        });
        let mut inverses = Vec::new();
        for &c in &columns {
            let sum = simd.load(e, &open.sum, &[c]);
            let max = simd.load(e, &open.max, &[c]);
            let log = simd.ln(e, sum);
            let scale = simd.splat(e, self.spec.scale);
            let mut lse = simd.fma(e, max, scale, log);
            let at = e.idx("addi", q0, c);
            let one = simd.splat(e, 1.0);
            let mut inverse = simd.op(e, "divf", one, sum);
            if self.spec.first {
                [lse, inverse] = nothing_seen(e, &simd, [max, sum], [lse, inverse]);
            }
            if self.spec.so_far {
                let other = simd.load(e, &open.shares, &[at]);
                let [total, own, theirs] = joined(e, &simd, lse, other);
                lse = total;
                inverse = simd.op(e, "mulf", inverse, own);
                simd.store(e, theirs, &open.shares, &[at]);
            }
            simd.store(e, lse, &open.lse, &[at]);
            inverses.push(inverse);
        }
        each_sum(e, &|e, r| {
            for (&c, &inverse) in columns.iter().zip(&inverses) {
                let x = simd.load(e, &open.ot, &[r, c]);
                let x = simd.op(e, "mulf", x, inverse);
                simd.store(e, x, &open.ot, &[r, c]);
            }
        });
    }

    /// Turns the first `count` rows of scores into probabilities; returns the factors on the sums so far.
    fn softmax(&self, e: &mut Emit, open: &Open, columns: &[Val], count: Val) -> Vec<Val> {
        /// Rows in flight while the maximum is searched.
        const AHEAD: usize = 4;
        let simd = self.simd;
        let ty = simd.ty();
        let zero = e.index(0);
        let before: Vec<Val> = columns.iter().map(|&c| simd.load(e, &open.before, &[c])).collect();
        let start = before.repeat(AHEAD);
        let maxima = e.fold((zero, count, AHEAD), &start, &ty, |e, r, so_far| {
            let mut out = Vec::new();
            for i in 0..AHEAD {
                let r = e.idx_c("addi", r, i);
                for (j, &c) in columns.iter().enumerate() {
                    let x = simd.load(e, &open.s, &[r, c]);
                    out.push(simd.max(e, x, so_far[2 * i + j]));
                }
            }
            out
        });
        let factor = simd.splat(e, self.spec.scale * std::f64::consts::LOG2_E);
        let (mut alpha, mut shifts, mut sums) = (Vec::new(), Vec::new(), Vec::new());
        for (j, &c) in columns.iter().enumerate() {
            let max = (1..AHEAD).fold(maxima[j], |max, i| simd.max(e, maxima[2 * i + j], max));
            simd.store(e, max, &open.max, &[c]);
            simd.store(e, max, &open.before, &[c]);
            let change = simd.op(e, "subf", before[j], max);
            let change = simd.op(e, "mulf", change, factor);
            let a = simd.exp2(e, change);
            let sum = simd.load(e, &open.sum, &[c]);
            sums.push(simd.op(e, "mulf", sum, a));
            alpha.push(a);
            let shift = simd.op(e, "mulf", max, factor);
            shifts.push(e.val(format_args!("arith.negf {shift} : {ty}")));
        }
        let sums = e.fold((zero, count, 2), &sums, &ty, |e, r, sums| {
            let below = e.idx_c("addi", r, 1);
            let pair = e.idx_c("divui", r, 2);
            let mut sums = sums.to_vec();
            for (j, &c) in columns.iter().enumerate() {
                let p = [r, below].map(|r| {
                    let x = simd.load(e, &open.s, &[r, c]);
                    let x = simd.fma(e, x, factor, shifts[j]);
                    simd.exp2(e, x)
                });
                for p in p {
                    sums[j] = simd.op(e, "addf", sums[j], p);
                }
                let pairs = simd.pair_bf16(e, p[0], p[1]);
                let c = e.idx_c("muli", c, 2);
                simd.store_bf16(e, pairs, &open.p, &[pair, c]);
            }
            sums
        });
        for (&c, sum) in columns.iter().zip(sums) {
            simd.store(e, sum, &open.sum, &[c]);
        }
        alpha
    }
}
