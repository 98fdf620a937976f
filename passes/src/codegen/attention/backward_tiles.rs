//! The backward kernel on tile registers: the five products of [`super::backward`] on bf16 operands with f32 sums.
//!
//! A block is a range of keys times a range of queries. Its probabilities and score gradients are written as bf16 rows of
//! queries (left operands of dV and dK) and score gradients also as pairs of keys (right operand of dQ, which is summed
//! transposed), 32 × 32 at a time.

use super::AttentionSpec;
use super::layout::{DEPTH, Plan, Scratch};
use super::tiles::{Part, SUMS, load_sums, multiply, score_block, store_sums};
use crate::codegen::Generated;
use crate::codegen::emit::{Buf, Emit, Val};
use crate::codegen::llvm::KernelText;

/// Queries of a block.
const Q_BLOCK: usize = 512;

/// Scratch of a worker. `x_pairs` has rows 2i and 2i + 1 of `x` side by side; `xt` is transposed, in panels of 32 rows.
struct Parts {
    k: Part,
    k_pairs: Part,
    kt: Part,
    v: Part,
    dk: Part,
    dv: Part,
    q: Part,
    q_pairs: Part,
    qt: Part,
    go: Part,
    go_pairs: Part,
    gt: Part,
    /// Transposed sums of dQ in panels of 32 queries, then as rows.
    dqt: Part,
    dq: Part,
    lse2: Part,
    delta: Part,
    /// 32 × 32 scores and their products with the gradient of the output.
    s: Part,
    dp: Part,
    /// Probabilities and score gradients, per panel of 32 queries the keys' rows; `ds_pairs` per panel the pairs of keys.
    p: Part,
    ds: Part,
    ds_pairs: Part,
}

/// The buffers that the inner loops work on.
struct Open {
    k: Buf,
    kt: Buf,
    v: Buf,
    dk: Buf,
    dv: Buf,
    q_pairs: Buf,
    qt: Buf,
    go_pairs: Buf,
    gt: Buf,
    dqt: Buf,
    lse2: Buf,
    delta: Buf,
    s: Buf,
    dp: Buf,
    p: Buf,
    ds: Buf,
    ds_pairs: Buf,
}

/// A block: queries `q0..q1`, keys `k0..k1`.
#[derive(Clone, Copy)]
struct Block {
    q0: Val,
    q1: Val,
    k0: Val,
    k1: Val,
    /// Position of the first query of all among the keys, if it is not the first key's.
    start: Option<Val>,
}

pub(super) fn generate(spec: &AttentionSpec, symbol: &str) -> Generated {
    let plan = Plan { q_block: Q_BLOCK, ..Plan::for_tiles(spec, symbol, 128) };
    let plan = Plan { q_block: plan.q_block.min(plan.rows), ..plan };
    let mut scratch = Scratch::default();
    let (rows, key_rows, d, dv) = (plan.rows, plan.key_rows, plan.d, plan.dv);
    let (panels, blocks) = (rows / DEPTH, plan.q_block / DEPTH);
    let parts = Parts {
        k: scratch.part(&[key_rows, d], "bf16"),
        k_pairs: scratch.part(&[key_rows / 2, d], "f32"),
        kt: scratch.part(&[key_rows / DEPTH, d, DEPTH / 2], "f32"),
        v: scratch.part(&[key_rows, dv], "bf16"),
        dk: scratch.part(&[key_rows, d], "f32"),
        dv: scratch.part(&[key_rows, dv], "f32"),
        q: scratch.part(&[rows, d], "bf16"),
        q_pairs: scratch.part(&[rows / 2, d], "f32"),
        qt: scratch.part(&[panels, d / 2, DEPTH], "f32"),
        go: scratch.part(&[rows, dv], "bf16"),
        go_pairs: scratch.part(&[rows / 2, dv], "f32"),
        gt: scratch.part(&[panels, dv / 2, DEPTH], "f32"),
        dqt: scratch.part(&[panels, d, DEPTH], "f32"),
        dq: scratch.part(&[rows, d], "f32"),
        lse2: scratch.part(&[rows], "f32"),
        delta: scratch.part(&[rows], "f32"),
        s: scratch.part(&[DEPTH, DEPTH], "f32"),
        dp: scratch.part(&[DEPTH, DEPTH], "f32"),
        p: scratch.part(&[blocks * plan.k_block, DEPTH], "bf16"),
        ds: scratch.part(&[blocks * plan.k_block, DEPTH], "bf16"),
        ds_pairs: scratch.part(&[blocks * plan.k_block / 2, 2 * DEPTH], "bf16"),
    };
    let mut e = Emit::default();
    let as_pairs = |part: &Part, width: usize| part.cast(&[rows, width / 2], "f32").param("src");
    plan.emit_pack(&mut e, "pack_q", &spec.q("src"), &parts.q.param("dst"));
    plan.emit_pack(&mut e, "pack_k", &spec.k("src"), &parts.k.param("dst"));
    plan.emit_pack(&mut e, "pack_v", &spec.v("src"), &parts.v.param("dst"));
    plan.emit_pack(&mut e, "pack_g", &spec.out("src"), &parts.go.param("dst"));
    plan.emit_pairs(&mut e, "pairs_k", &parts.k, &parts.k_pairs);
    plan.emit_pairs(&mut e, "pairs_q", &parts.q, &parts.q_pairs);
    plan.emit_pairs(&mut e, "pairs_g", &parts.go, &parts.go_pairs);
    plan.emit_transpose(&mut e, "transpose_k", &parts.k_pairs.param("src"), &parts.kt.param("dst"), 1.0);
    plan.emit_transpose(&mut e, "transpose_q", &as_pairs(&parts.q, d), &parts.qt.param("dst"), 1.0);
    plan.emit_transpose(&mut e, "transpose_g", &as_pairs(&parts.go, dv), &parts.gt.param("dst"), 1.0);
    plan.emit_untranspose(&mut e, "rows_q", &parts.dqt, &parts.dq);
    plan.emit_unpack_gradient(&mut e, &parts.dq.param("src"));
    plan.emit_unpack(&mut e, "unpack_k", &parts.dk.param("src"), &spec.k("dst"), spec.scale);
    plan.emit_unpack(&mut e, "unpack_v", &parts.dv.param("src"), &spec.v("dst"), 1.0);
    plan.emit_zero(&mut e, "zero_dk", &parts.dk.param("sums"));
    plan.emit_zero(&mut e, "zero_dq", &parts.dqt.cast(&[rows, d], "f32").param("sums"));
    plan.emit_zero(&mut e, "zero_dv", &parts.dv.param("sums"));
    plan.emit_rowsums(&mut e, &parts.go.param("go"), &parts.lse2.param("lse2"), &parts.delta.param("delta"));
    plan.emit_tile_kernel(&mut e, &parts, &scratch);
    Generated {
        text: KernelText { symbol: symbol.to_owned(), mlir: e.finish(), buffers: 10 + spec.extra_operands(1) },
        grid: spec.batch * spec.kv_heads,
        scratch_bytes_per_worker: scratch.bytes(),
    }
}

impl Plan {
    fn emit_tile_kernel(&self, e: &mut Emit, parts: &Parts, scratch: &Scratch) {
        let spec = &self.spec;
        let (q, k, v, out, lse) = (spec.q("q"), spec.k("k"), spec.v("v"), spec.out("out"), spec.lse());
        let (dout, dq, dk, dv) = (spec.out("dout"), spec.dq("dq"), spec.k("dk"), spec.v("dv"));
        let (bytes, origin, others) = (scratch.buf(), spec.origin(), spec.other_gradient());
        let operands = [&q, &k, &v, &out, &lse, &dout].into_iter().chain(&origin).chain(&others);
        let params: Vec<&Buf> = operands.chain([&dq, &dk, &dv, &bytes]).collect();
        e.func(&self.symbol, false, &params, &["lo", "hi", "worker"], |e| {
            let base = scratch.base(e);
            let start = Self::start(e, origin.as_ref());
            let (panels, key_panels) = (self.rows / DEPTH, self.key_rows / DEPTH);
            let pairs = |part: &Part, width: usize| part.cast(&[self.rows / 2, 2 * width], "bf16");
            let transposed = |part: &Part, width: usize| part.cast(&[panels * width / 2, 2 * DEPTH], "bf16");
            let open = Open {
                k: parts.k.open(e, &bytes, base),
                kt: parts.kt.cast(&[key_panels * self.d, DEPTH], "bf16").open(e, &bytes, base),
                v: parts.v.open(e, &bytes, base),
                dk: parts.dk.open(e, &bytes, base),
                dv: parts.dv.open(e, &bytes, base),
                q_pairs: pairs(&parts.q_pairs, self.d).open(e, &bytes, base),
                qt: transposed(&parts.qt, self.d).open(e, &bytes, base),
                go_pairs: pairs(&parts.go_pairs, self.dv).open(e, &bytes, base),
                gt: transposed(&parts.gt, self.dv).open(e, &bytes, base),
                dqt: parts.dqt.cast(&[panels * self.d, DEPTH], "f32").open(e, &bytes, base),
                lse2: parts.lse2.open(e, &bytes, base),
                delta: parts.delta.open(e, &bytes, base),
                s: parts.s.open(e, &bytes, base),
                dp: parts.dp.open(e, &bytes, base),
                p: parts.p.open(e, &bytes, base),
                ds: parts.ds.open(e, &bytes, base),
                ds_pairs: parts.ds_pairs.open(e, &bytes, base),
            };
            let k_pairs = parts.k_pairs.open(e, &bytes, base);
            let kt = parts.kt.open(e, &bytes, base);
            let [q_rows, q_pairs, qt] = [&parts.q, &parts.q_pairs, &parts.qt].map(|part| part.open(e, &bytes, base));
            let [go_rows, go_pairs, gt] =
                [&parts.go, &parts.go_pairs, &parts.gt].map(|part| part.open(e, &bytes, base));
            let q_as_pairs = parts.q.cast(&[self.rows, self.d / 2], "f32").open(e, &bytes, base);
            let go_as_pairs = parts.go.cast(&[self.rows, self.dv / 2], "f32").open(e, &bytes, base);
            let dqt = parts.dqt.open(e, &bytes, base);
            let dqt_zero = parts.dqt.cast(&[self.rows, self.d], "f32").open(e, &bytes, base);
            let dq_rows = parts.dq.open(e, &bytes, base);
            let (zero, rows, seq) = (e.index(0), e.index(self.rows), e.index(spec.seq));
            let (key_rows, keys) = (e.index(self.key_rows), e.index(spec.keys));
            let call = |e: &mut Emit, name: &str, bufs: &[&Buf], at: &[Val]| e.call(&self.helper(name), bufs, at);
            e.each(Val::Arg("lo"), Val::Arg("hi"), 1, |e, item| {
                let b = e.idx_c("divui", item, spec.kv_heads);
                let g = e.idx_c("remui", item, spec.kv_heads);
                call(e, "pack_k", &[&k, &open.k], &[b, g, zero, key_rows]);
                call(e, "pairs_k", &[&open.k, &k_pairs], &[]);
                call(e, "transpose_k", &[&k_pairs, &kt], &[]);
                call(e, "pack_v", &[&v, &open.v], &[b, g, zero, key_rows]);
                call(e, "zero_dk", &[&open.dk], &[]);
                call(e, "zero_dv", &[&open.dv], &[]);
                let first = e.idx_c("muli", g, spec.group());
                let last = e.idx_c("addi", first, spec.group());
                e.each(first, last, 1, |e, h| {
                    call(e, "pack_q", &[&q, &q_rows], &[b, h, zero, rows]);
                    call(e, "pairs_q", &[&q_rows, &q_pairs], &[]);
                    call(e, "transpose_q", &[&q_as_pairs, &qt], &[]);
                    call(e, "pack_g", &[&dout, &go_rows], &[b, h, zero, rows]);
                    call(e, "pairs_g", &[&go_rows, &go_pairs], &[]);
                    call(e, "transpose_g", &[&go_as_pairs, &gt], &[]);
                    call(e, "rowsums", &[&out, &lse, &go_rows, &open.lse2, &open.delta], &[b, h]);
                    call(e, "zero_dq", &[&dqt_zero], &[]);
                    e.each(zero, key_rows, self.k_block, |e, k0| {
                        let k1 = e.idx_c("addi", k0, self.k_block);
                        let k1 = e.idx("minsi", k1, key_rows);
                        let from = if spec.causal { Self::block_from(e, k0, zero, start) } else { zero };
                        e.each(from, rows, self.q_block, |e, q0| {
                            let q1 = e.idx_c("addi", q0, self.q_block);
                            let q1 = e.idx("minsi", q1, rows);
                            let block = Block { q0, q1, k0, k1, start };
                            self.write_probabilities(e, &open, block);
                            self.add_by_key(e, (&open.p, &open.go_pairs, &open.dv), block);
                            self.add_by_key(e, (&open.ds, &open.q_pairs, &open.dk), block);
                            self.add_by_query(e, &open, block);
                        });
                    });
                    call(e, "rows_q", &[&dqt, &dq_rows], &[]);
                    let rows: Vec<&Buf> = [&dq_rows].into_iter().chain(&others).chain([&dq]).collect();
                    call(e, "unpack_q", &rows, &[b, h, zero, seq]);
                });
                call(e, "unpack_k", &[&open.dk, &dk], &[b, g, zero, keys]);
                call(e, "unpack_v", &[&open.dv, &dv], &[b, g, zero, keys]);
            });
        });
    }

    /// Row of `p` and `ds` for key `kk` and the panel of query `qq` (twice the row of `ds_pairs`).
    fn block_row(&self, e: &mut Emit, block: Block, kk: Val, qq: Val) -> Val {
        let panel = e.idx("subi", qq, block.q0);
        let panel = e.idx_c("divui", panel, DEPTH);
        let first = e.idx_c("muli", panel, self.k_block);
        let key = e.idx("subi", kk, block.k0);
        e.idx("addi", first, key)
    }

    /// First query of the block that sees key `kk`.
    fn query_from(&self, e: &mut Emit, block: Block, kk: Val) -> Val {
        if self.spec.causal { Self::block_from(e, kk, block.q0, block.start) } else { block.q0 }
    }

    fn write_probabilities(&self, e: &mut Emit, open: &Open, block: Block) {
        let zero = e.index(0);
        e.each(block.k0, block.k1, DEPTH, |e, kk| {
            let from = self.query_from(e, block, kk);
            e.each(from, block.q1, DEPTH, |e, qq| {
                let panel = e.idx_c("divui", qq, DEPTH);
                let pair = e.idx_c("muli", panel, self.d / 2);
                let sums = score_block(e, (&open.k, kk), (&open.qt, pair), self.d);
                store_sums(e, &sums, &open.s, zero, zero);
                let pair = e.idx_c("muli", panel, self.dv / 2);
                let sums = score_block(e, (&open.v, kk), (&open.gt, pair), self.dv);
                store_sums(e, &sums, &open.dp, zero, zero);
                if self.spec.causal {
                    let (crosses, ahead) = Self::crosses(e, kk, qq, block.start);
                    e.when(crosses, |e| self.hide_unseen(e, &open.s, zero, ahead));
                }
                if self.has_padding() {
                    let edge = e.index(self.key_rows - DEPTH);
                    let last = e.test("eq", kk, edge);
                    e.when(last, |e| self.hide_padding(e, &open.s, zero));
                }
                let row = self.block_row(e, block, kk, qq);
                self.write_square(e, open, row, qq);
            });
        });
    }

    /// From 32 × 32 scores to the bf16 forms at `row`.
    fn write_square(&self, e: &mut Emit, open: &Open, row: Val, qq: Val) {
        let simd = self.simd;
        let (zero, depth) = (e.index(0), e.index(DEPTH));
        let factor = simd.splat(e, self.spec.scale * std::f64::consts::LOG2_E);
        let columns = [0, simd.lanes].map(|c| e.index(c));
        let queries = columns.map(|c| e.idx("addi", qq, c));
        let shifts = queries.map(|q| {
            let lse = simd.load(e, &open.lse2, &[q]);
            e.val(format_args!("arith.negf {lse} : {}", simd.ty()))
        });
        let deltas = queries.map(|q| simd.load(e, &open.delta, &[q]));
        e.each(zero, depth, 2, |e, r| {
            let mut gradients = Vec::new();
            for i in 0..2 {
                let r = e.idx_c("addi", r, i);
                let to = e.idx("addi", row, r);
                let (mut p, mut ds) = (Vec::new(), Vec::new());
                for j in 0..2 {
                    let x = simd.load(e, &open.s, &[r, columns[j]]);
                    let x = simd.fma(e, x, factor, shifts[j]);
                    let probability = simd.exp2(e, x);
                    let x = simd.load(e, &open.dp, &[r, columns[j]]);
                    let x = simd.op(e, "subf", x, deltas[j]);
                    ds.push(simd.op(e, "mulf", probability, x));
                    p.push(probability);
                }
                let p = simd.join_bf16(e, p[0], p[1]);
                simd.store_bf16(e, p, &open.p, &[to, zero]);
                let joined = simd.join_bf16(e, ds[0], ds[1]);
                simd.store_bf16(e, joined, &open.ds, &[to, zero]);
                gradients.push(joined);
            }
            let to = e.idx("addi", row, r);
            let to = e.idx_c("divui", to, 2);
            for (c, part) in [0, DEPTH].into_iter().zip(0..) {
                let pairs = simd.weave_bf16(e, gradients[0], gradients[1], part);
                let c = e.index(c);
                simd.store_bf16(e, pairs, &open.ds_pairs, &[to, c]);
            }
        });
    }

    /// `sums[key] += Σ left[key, query] · right[query]`.
    fn add_by_key(&self, e: &mut Emit, (left, right, sums): (&Buf, &Buf, &Buf), block: Block) {
        let (zero, width) = (e.index(0), e.index(sums.dims[1]));
        e.each(block.k0, block.k1, DEPTH, |e, kk| {
            let from = self.query_from(e, block, kk);
            e.each(zero, width, DEPTH, |e, c| {
                let start = load_sums(e, sums, kk, c);
                let total = e.fold((from, block.q1, DEPTH), &start, SUMS, |e, qq, so_far| {
                    let row = self.block_row(e, block, kk, qq);
                    let pair = e.idx_c("divui", qq, 2);
                    multiply(e, so_far, (left, row, zero), (right, pair, c))
                });
                store_sums(e, &total, sums, kk, c);
            });
        });
    }

    /// `dqᵀ[dim, query] += Σ kᵀ[dim, key] · ds[key, query]`.
    fn add_by_query(&self, e: &mut Emit, open: &Open, block: Block) {
        let (zero, width) = (e.index(0), e.index(self.d));
        e.each(block.q0, block.q1, DEPTH, |e, qq| {
            let end = if self.spec.causal {
                let end = e.idx_c("addi", qq, DEPTH);
                let end = Self::blocks_seen(e, end, block.start);
                e.idx("minsi", end, block.k1)
            } else {
                block.k1
            };
            let panel = e.idx_c("divui", qq, DEPTH);
            let first = e.idx_c("muli", panel, self.d);
            e.each(zero, width, DEPTH, |e, dim| {
                let at = e.idx("addi", first, dim);
                let start = load_sums(e, &open.dqt, at, zero);
                let total = e.fold((block.k0, end, DEPTH), &start, SUMS, |e, kk, so_far| {
                    let panel = e.idx_c("divui", kk, DEPTH);
                    let row = e.idx_c("muli", panel, self.d);
                    let row = e.idx("addi", row, dim);
                    let pair = self.block_row(e, block, kk, qq);
                    let pair = e.idx_c("divui", pair, 2);
                    multiply(e, so_far, (&open.kt, row, zero), (&open.ds_pairs, pair, zero))
                });
                store_sums(e, &total, &open.dqt, at, zero);
            });
        });
    }
}
