//! The backward kernel: probabilities are recomputed block by block from the stored log-sum-exp.
//!
//! Per query head and block of keys × queries, five products: scores = K Qᵀ and dP = V dOᵀ give P and
//! dS = P ∘ (dP − rowsum(dO ∘ O)); then dV += P dO, dK += dS Q and dQ += dSᵀ K. dQ and dK are multiplied by the scale
//! where they are written out.

use athanor_ir::target::CpuLevel;

use super::AttentionSpec;
use super::layout::{Plan, Scratch};
use super::pack::prefetch_row;
use super::tile::{columns, product};
use crate::codegen::Generated;
use crate::codegen::emit::{Buf, Emit, Val};
use crate::codegen::llvm::KernelText;
use crate::codegen::simd::{LOWEST, f32_text};

const F32: &str = "f32";

/// Stands for the log-sum-exp of a query past the end of the sequence, or of one that sees no key: its probabilities come out
/// as 0.
const NO_QUERY: f64 = 1.0e30;

/// The buffers of a worker, as parameters of the helpers; all rows are packed f32.
struct Bufs {
    k: Buf,
    v: Buf,
    dk: Buf,
    dv: Buf,
    q: Buf,
    /// Transposed queries times scale · log2(e).
    qt: Buf,
    /// Gradient of the output, as rows and transposed.
    go: Buf,
    gt: Buf,
    dq: Buf,
    /// Per query: log-sum-exp in base 2, and rowsum(dO ∘ O).
    lse2: Buf,
    delta: Buf,
    /// `[k_block, q_block]`: probabilities and gradients of the scores.
    p: Buf,
    ds: Buf,
}

pub(super) fn generate(spec: &AttentionSpec, level: CpuLevel, symbol: &str) -> Generated {
    let plan = Plan::new(spec, level, symbol, (64, 64));
    let (rows, key_rows) = (plan.rows, plan.key_rows);
    let bufs = Bufs {
        k: Buf::arg("k", &[key_rows, plan.d], F32),
        v: Buf::arg("v", &[key_rows, plan.dv], F32),
        dk: Buf::arg("dk", &[key_rows, plan.d], F32),
        dv: Buf::arg("dv", &[key_rows, plan.dv], F32),
        q: Buf::arg("q", &[rows, plan.d], F32),
        qt: Buf::arg("qt", &plan.panels(rows, spec.head_dim), F32),
        go: Buf::arg("go", &[rows, plan.dv], F32),
        gt: Buf::arg("gt", &plan.panels(rows, spec.v_head_dim), F32),
        dq: Buf::arg("dq", &[rows, plan.d], F32),
        lse2: Buf::arg("lse2", &[rows], F32),
        delta: Buf::arg("delta", &[rows], F32),
        p: Buf::arg("p", &[plan.k_block, plan.q_block], F32),
        ds: Buf::arg("ds", &[plan.k_block, plan.q_block], F32),
    };
    let mut e = Emit::default();
    plan.emit_pack(&mut e, "pack_q", &spec.q("src"), &bufs.q);
    plan.emit_pack(&mut e, "pack_k", &spec.k("src"), &bufs.k);
    plan.emit_pack(&mut e, "pack_v", &spec.v("src"), &bufs.v);
    plan.emit_pack(&mut e, "pack_g", &spec.out("src"), &bufs.go);
    plan.emit_transpose(&mut e, "transpose_q", &bufs.q, &bufs.qt, spec.scale * std::f64::consts::LOG2_E);
    plan.emit_transpose(&mut e, "transpose_g", &bufs.go, &bufs.gt, 1.0);
    plan.emit_unpack_gradient(&mut e, &bufs.dq);
    plan.emit_unpack(&mut e, "unpack_k", &bufs.dk, &spec.k("dst"), spec.scale);
    plan.emit_unpack(&mut e, "unpack_v", &bufs.dv, &spec.v("dst"), 1.0);
    plan.emit_zero(&mut e, "zero_dk", &bufs.dk);
    plan.emit_zero(&mut e, "zero_dq", &bufs.dq);
    plan.emit_zero(&mut e, "zero_dv", &bufs.dv);
    plan.emit_rowsums(&mut e, &bufs.go, &bufs.lse2, &bufs.delta);
    plan.emit_probabilities(&mut e, &bufs);
    plan.emit_by_key(&mut e, "grad_v", &bufs.p, &bufs.go, &bufs.dv);
    plan.emit_by_key(&mut e, "grad_k", &bufs.ds, &bufs.q, &bufs.dk);
    plan.emit_by_query(&mut e, &bufs);
    let scratch = plan.emit_backward(&mut e, &bufs);
    Generated {
        text: KernelText { symbol: symbol.to_owned(), mlir: e.finish(), buffers: 10 + spec.extra_operands(1) },
        grid: spec.batch * spec.kv_heads,
        scratch_bytes_per_worker: scratch,
    }
}

impl Plan {
    /// The kernel itself; returns the bytes of scratch per worker.
    fn emit_backward(&self, e: &mut Emit, bufs: &Bufs) -> usize {
        let spec = &self.spec;
        let mut scratch = Scratch::default();
        let order = [
            &bufs.k,
            &bufs.v,
            &bufs.dk,
            &bufs.dv,
            &bufs.q,
            &bufs.qt,
            &bufs.go,
            &bufs.gt,
            &bufs.dq,
            &bufs.lse2,
            &bufs.delta,
            &bufs.p,
            &bufs.ds,
        ];
        let at = order.map(|b| scratch.reserve(&b.dims));
        let (q, k, v, out, lse) = (spec.q("q"), spec.k("k"), spec.v("v"), spec.out("out"), spec.lse());
        let (dout, dq, dk, dv) = (spec.out("dout"), spec.dq("dq"), spec.k("dk"), spec.v("dv"));
        let (bytes, origin, others) = (scratch.buf(), spec.origin(), spec.other_gradient());
        let operands = [&q, &k, &v, &out, &lse, &dout].into_iter().chain(&origin).chain(&others);
        let params: Vec<&Buf> = operands.chain([&dq, &dk, &dv, &bytes]).collect();
        e.func(&self.symbol, false, &params, &["lo", "hi", "worker"], |e| {
            let base = scratch.base(e);
            let start = Self::start(e, origin.as_ref());
            let [pk, pv, sk, sv, pq, qt, go, gt, sq, lse2, delta, p, ds] = std::array::from_fn(|i| {
                let from = e.idx_c("addi", base, at[i]);
                e.view(&bytes, from, &order[i].dims, F32)
            });
            let (zero, rows, seq) = (e.index(0), e.index(self.rows), e.index(spec.seq));
            let (keys, key_rows, all_keys) = (e.index(self.keys), e.index(self.key_rows), e.index(spec.keys));
            let call = |e: &mut Emit, name: &str, bufs: &[&Buf], at: &[Val]| e.call(&self.helper(name), bufs, at);
            e.each(Val::Arg("lo"), Val::Arg("hi"), 1, |e, item| {
                let b = e.idx_c("divui", item, spec.kv_heads);
                let g = e.idx_c("remui", item, spec.kv_heads);
                call(e, "pack_k", &[&k, &pk], &[b, g, zero, key_rows]);
                call(e, "pack_v", &[&v, &pv], &[b, g, zero, key_rows]);
                call(e, "zero_dk", &[&sk], &[]);
                call(e, "zero_dv", &[&sv], &[]);
                let first = e.idx_c("muli", g, spec.group());
                let last = e.idx_c("addi", first, spec.group());
                e.each(first, last, 1, |e, h| {
                    call(e, "pack_q", &[&q, &pq], &[b, h, zero, rows]);
                    call(e, "transpose_q", &[&pq, &qt], &[]);
                    call(e, "pack_g", &[&dout, &go], &[b, h, zero, rows]);
                    call(e, "transpose_g", &[&go, &gt], &[]);
                    call(e, "rowsums", &[&out, &lse, &go, &lse2, &delta], &[b, h]);
                    call(e, "zero_dq", &[&sq], &[]);
                    e.each(zero, keys, self.k_block, |e, k0| {
                        let k1 = e.idx_c("addi", k0, self.k_block);
                        let k1 = e.idx("minsi", k1, keys);
                        let from = if spec.causal {
                            let from = Self::seen_from(e, k0, zero, start);
                            e.floor_to(from, self.q_block)
                        } else {
                            zero
                        };
                        e.each(from, rows, self.q_block, |e, q0| {
                            let q1 = e.idx_c("addi", q0, self.q_block);
                            let q1 = e.idx("minsi", q1, rows);
                            let at = spec.with_start(&[q0, q1, k0, k1], start);
                            let with_head = spec.with_head(&at, h);
                            call(e, "probabilities", &[&pk, &qt, &pv, &gt, &lse2, &delta, &p, &ds], &with_head);
                            call(e, "grad_v", &[&p, &go, &sv], &at);
                            call(e, "grad_k", &[&ds, &pq, &sk], &at);
                            call(e, "grad_q", &[&ds, &pk, &sq], &at);
                        });
                    });
                    let rows: Vec<&Buf> = [&sq].into_iter().chain(&others).chain([&dq]).collect();
                    call(e, "unpack_q", &rows, &[b, h, zero, seq]);
                });
                call(e, "unpack_k", &[&sk, &dk], &[b, g, zero, all_keys]);
                call(e, "unpack_v", &[&sv, &dv], &[b, g, zero, all_keys]);
            });
        });
        scratch.bytes()
    }

    /// Writes the helper `unpack_q` that stores the gradient of a head's queries, with that by other keys if there is one.
    pub(super) fn emit_unpack_gradient(&self, e: &mut Emit, rows: &Buf) {
        let (spec, dst) = (&self.spec, self.spec.dq("dst"));
        match spec.other_gradient() {
            None => self.emit_unpack(e, "unpack_q", rows, &dst, spec.scale),
            Some(others) => self.emit_unpack_onto(e, "unpack_q", (rows, &dst), (&others, None), spec.scale),
        }
    }

    pub(super) fn emit_zero(&self, e: &mut Emit, name: &str, buf: &Buf) {
        let simd = self.simd;
        e.func(&self.helper(name), true, &[buf], &[], |e| {
            let (zero, rows, width) = (e.index(0), e.index(buf.dims[0]), e.index(buf.dims[1]));
            let nought = simd.splat(e, 0.0);
            e.each(zero, rows, 1, |e, r| {
                e.each(zero, width, simd.lanes, |e, c| simd.store(e, nought, buf, &[r, c]));
            });
        });
    }

    /// Log-sum-exp in base 2 and rowsum(dO ∘ O) of each query of a head.
    pub(super) fn emit_rowsums(&self, e: &mut Emit, go: &Buf, lse2: &Buf, delta: &Buf) {
        let (simd, spec) = (self.simd, &self.spec);
        let (out, lse) = (spec.out("out"), spec.lse());
        let params = [&out, &lse, go, lse2, delta];
        e.func(&self.helper("rowsums"), true, &params, &["b", "h"], |e| {
            let (b, h) = (Val::Arg("b"), Val::Arg("h"));
            let (zero, seq, rows) = (e.index(0), e.index(spec.seq), e.index(self.rows));
            let log2e = e.val(format_args!("arith.constant {} : f32", f32_text(std::f64::consts::LOG2_E)));
            let none = e.val(format_args!("arith.constant {} : f32", f32_text(NO_QUERY)));
            e.each(zero, seq, 1, |e, r| {
                prefetch_row(e, &out, [b, r, h], false);
                let natural = e.load(&lse, &[b, h, r]);
                let mut binary = e.val(format_args!("arith.mulf {natural}, {log2e} : f32"));
                if spec.first {
                    let lowest = e.val(format_args!("arith.constant {} : f32", f32_text(LOWEST)));
                    let nothing = e.val(format_args!("arith.cmpf olt, {binary}, {lowest} : f32"));
                    binary = e.val(format_args!("arith.select {nothing}, {none}, {binary} : f32"));
                }
                e.store(binary, lse2, &[r]);
                let mut sum: Option<Val> = None;
                let chunks = simd.chunks(spec.v_head_dim);
                for same in chunks.chunk_by(|a, b| a.1 == b.1) {
                    let n = same[0].1;
                    let mut acc = e.val(format_args!("arith.constant dense<0.0> : vector<{n}xf32>"));
                    for &(c, _) in same {
                        let c = e.index(c);
                        let x = simd.widen(e, &out, &[b, r, h, c], n);
                        let y = simd.widen(e, go, &[r, c], n);
                        let xy = e.val(format_args!("arith.mulf {x}, {y} fastmath<contract> : vector<{n}xf32>"));
                        acc = e.val(format_args!("arith.addf {acc}, {xy} fastmath<contract> : vector<{n}xf32>"));
                    }
                    let part = simd.reduce_add(e, acc, n);
                    sum = Some(match sum {
                        Some(sum) => e.val(format_args!("arith.addf {sum}, {part} : f32")),
                        None => part,
                    });
                }
                if let Some(sum) = sum {
                    e.store(sum, delta, &[r]);
                }
            });
            let nought = e.val("arith.constant 0.0 : f32");
            e.each(seq, rows, 1, |e, r| {
                e.store(none, lse2, &[r]);
                e.store(nought, delta, &[r]);
            });
        });
    }

    /// P and dS of keys `k0..k1` and queries `q0..q1`.
    fn emit_probabilities(&self, e: &mut Emit, bufs: &Bufs) {
        let simd = self.simd;
        let params = [&bufs.k, &bufs.qt, &bufs.v, &bufs.gt, &bufs.lse2, &bufs.delta, &bufs.p, &bufs.ds];
        let indices = self.spec.with_head(&self.spec.with_start(&["q0", "q1", "k0", "k1"], Some("start")), "h");
        e.func(&self.helper("probabilities"), true, &params, &indices, |e| {
            let slope = self.slope(e);
            let (q0, q1, k0, k1) = (Val::Arg("q0"), Val::Arg("q1"), Val::Arg("k0"), Val::Arg("k1"));
            let (zero, dims, v_dims) = (e.index(0), e.index(self.spec.head_dim), e.index(self.spec.v_head_dim));
            let nought = simd.splat(e, 0.0);
            let columns = e.idx("subi", q1, q0);
            e.each(k0, k1, simd.rows, |e, kk| {
                let from = if self.spec.causal { self.first_query(e, kk, q0) } else { zero };
                let row = e.idx("subi", kk, k0);
                e.each(from, columns, self.wide, |e, qi| {
                    let qq = e.idx("addi", q0, qi);
                    let tile = self.score_tile(e, (&bufs.k, kk), (&bufs.qt, qq), (zero, dims), nought);
                    let tile = self.biased(e, tile, slope, kk, qq);
                    let tile = self.masked(e, &tile, kk, qq);
                    let lanes = |e: &mut Emit, from: Val, j: usize| e.idx_c("addi", from, j * simd.lanes);
                    for j in 0..simd.cols {
                        let (query, column) = (lanes(e, qq, j), lanes(e, qi, j));
                        let lse = simd.load(e, &bufs.lse2, &[query]);
                        for i in 0..simd.rows {
                            let x = simd.op(e, "subf", tile[i * simd.cols + j], lse);
                            let p = simd.exp2(e, x);
                            let r = e.idx_c("addi", row, i);
                            simd.store(e, p, &bufs.p, &[r, column]);
                        }
                    }
                    let tile = self.score_tile(e, (&bufs.v, kk), (&bufs.gt, qq), (zero, v_dims), nought);
                    for j in 0..simd.cols {
                        let (query, column) = (lanes(e, qq, j), lanes(e, qi, j));
                        let delta = simd.load(e, &bufs.delta, &[query]);
                        for i in 0..simd.rows {
                            let r = e.idx_c("addi", row, i);
                            let p = simd.load(e, &bufs.p, &[r, column]);
                            let x = simd.op(e, "subf", tile[i * simd.cols + j], delta);
                            let ds = simd.op(e, "mulf", p, x);
                            simd.store(e, ds, &bufs.ds, &[r, column]);
                        }
                    }
                });
            });
        });
    }

    /// `sums[key] += Σ left[key, query] · rows[query]`: the gradient of values or of keys.
    fn emit_by_key(&self, e: &mut Emit, name: &str, left: &Buf, rows: &Buf, sums: &Buf) {
        let simd = self.simd;
        let indices = self.spec.with_start(&["q0", "q1", "k0", "k1"], Some("start"));
        e.func(&self.helper(name), true, &[left, rows, sums], &indices, |e| {
            let (q0, q1, k0, k1) = (Val::Arg("q0"), Val::Arg("q1"), Val::Arg("k0"), Val::Arg("k1"));
            let seq = e.index(self.spec.seq);
            let end = e.idx("minsi", q1, seq);
            e.each(k0, k1, simd.rows, |e, kk| {
                let from = if self.spec.causal { Self::seen_from(e, kk, q0, self.given_start()) } else { q0 };
                let row = e.idx("subi", kk, k0);
                let row: Vec<Val> = (0..simd.rows).map(|i| e.idx_c("addi", row, i)).collect();
                let scalar = |e: &mut Emit, query: Val, i: usize| {
                    let column = e.idx("subi", query, q0);
                    simd.load_splat(e, left, &[row[i], column])
                };
                self.add_product(e, (from, end), kk, sums, rows, scalar);
            });
        });
    }

    /// `dq[query] += Σ ds[key, query] · k[key]`.
    fn emit_by_query(&self, e: &mut Emit, bufs: &Bufs) {
        let simd = self.simd;
        let params = [&bufs.ds, &bufs.k, &bufs.dq];
        let indices = self.spec.with_start(&["q0", "q1", "k0", "k1"], Some("start"));
        e.func(&self.helper("grad_q"), true, &params, &indices, |e| {
            let (q0, q1, k0, k1) = (Val::Arg("q0"), Val::Arg("q1"), Val::Arg("k0"), Val::Arg("k1"));
            let from = if self.spec.causal {
                let from = Self::seen_from(e, k0, q0, self.given_start());
                e.floor_to(from, simd.rows)
            } else {
                q0
            };
            e.each(from, q1, simd.rows, |e, qq| {
                let end = if self.spec.causal {
                    let end = e.idx_c("addi", qq, simd.rows);
                    let end = self.seen(e, end, self.given_start());
                    e.idx("minsi", end, k1)
                } else {
                    k1
                };
                let column = e.idx("subi", qq, q0);
                let column: Vec<Val> = (0..simd.rows).map(|i| e.idx_c("addi", column, i)).collect();
                let scalar = |e: &mut Emit, key: Val, i: usize| {
                    let row = e.idx("subi", key, k0);
                    simd.load_splat(e, &bufs.ds, &[row, column[i]])
                };
                self.add_product(e, (k0, end), qq, &bufs.dq, &bufs.k, scalar);
            });
        });
    }

    /// Adds to the rows of `sums` from `at` on, for each index of the range, a scalar times that row of `right`.
    fn add_product(
        &self,
        e: &mut Emit,
        range: (Val, Val),
        at: Val,
        sums: &Buf,
        right: &Buf,
        scalar: impl Fn(&mut Emit, Val, usize) -> Val,
    ) {
        let simd = self.simd;
        let rows: Vec<Val> = (0..simd.rows).map(|i| e.idx_c("addi", at, i)).collect();
        for (first, count, cols) in columns(&simd, sums.dims[1]) {
            let (lo, hi) = (e.index(first), e.index(first + count * cols * simd.lanes));
            e.each(lo, hi, cols * simd.lanes, |e, c| {
                let at: Vec<Val> = (0..cols).map(|j| e.idx_c("addi", c, j * simd.lanes)).collect();
                let mut init = Vec::with_capacity(rows.len() * cols);
                for &r in &rows {
                    for &c in &at {
                        init.push(simd.load(e, sums, &[r, c]));
                    }
                }
                let out = product(e, &simd, range, cols, &init, &scalar, |e, x, j| simd.load(e, right, &[x, at[j]]));
                for (x, sum) in out.iter().enumerate() {
                    simd.store(e, *sum, sums, &[rows[x / cols], at[x % cols]]);
                }
            });
        }
    }
}
