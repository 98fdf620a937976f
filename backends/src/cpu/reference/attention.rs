//! Rotary positions and softmax attention.

use super::contraction::dot;
use super::tensor::Array;
use athanor_ir::F64;
use athanor_ir::alibi::slopes;

/// cos and sin of position·frequency for `len` positions.
pub(super) fn rope_table(inv_freq: &[F64], scale: f64, len: usize) -> Vec<Vec<f64>> {
    let angle = |p: usize| inv_freq.iter().map(move |f| p as f64 * f.0);
    let table = |f: fn(f64) -> f64| (0..len).flat_map(angle).map(|a| f(a) * scale).collect();
    vec![table(f64::cos), table(f64::sin)]
}

/// Rotates the pairs of the first r elements of each head: (x, y) → (x·cos − y·sin, y·cos + x·sin).
pub(super) fn rope(ins: &[Array], interleaved: bool, inverse: bool) -> Vec<f64> {
    let (x, cos, sin) = (&ins[0], &ins[1], &ins[2]);
    let (s, n, d, half) = (x.dims[1], x.dims[2], x.dims[3], cos.dims[1]);
    let mut out = x.data.clone();
    for (i, head) in out.chunks_exact_mut(d).enumerate() {
        let position = i / n % s;
        for j in 0..half {
            let (p, q) = if interleaved { (2 * j, 2 * j + 1) } else { (j, j + half) };
            let (c, s) = (cos.data[position * half + j], sin.data[position * half + j]);
            let s = if inverse { -s } else { s };
            (head[p], head[q]) = (head[p] * c - head[q] * s, head[q] * c + head[p] * s);
        }
    }
    out
}

/// Extents of an attention and where its rows lie.
struct Heads {
    b: usize,
    s: usize,
    /// Keys.
    t: usize,
    /// Position of the first query among the keys; it may be outside of them.
    start: i64,
    n: usize,
    g: usize,
    d: usize,
    e: usize,
    causal: bool,
    /// By query head; 0 without biases.
    slopes: Vec<f64>,
}

impl Heads {
    /// `first` is where the first key is, counted from the first query.
    fn new(ins: &[Array], first: Option<&Array>, causal: bool, alibi: bool) -> Self {
        let (q, k, v) = (&ins[0].dims, &ins[1].dims, &ins[2].dims);
        let slopes = if alibi { slopes(q[2]) } else { vec![0.0; q[2]] };
        let start = first.map_or(0, |f| -f.data[0] as i64);
        Self { b: q[0], s: q[1], t: k[1], start, n: q[2], g: k[2], d: q[3], e: v[3], causal, slopes }
    }

    /// Every (batch, query head, query position), with the key/value head and the number of visible positions.
    fn rows(&self) -> impl Iterator<Item = (usize, usize, usize, usize, usize)> {
        let &Self { b, s, t, start, n, g, causal, .. } = self;
        let seen = move |i: usize| if causal { (start + i as i64 + 1).clamp(0, t as i64) as usize } else { t };
        (0..b).flat_map(move |b| (0..n).flat_map(move |h| (0..s).map(move |i| (b, h, i, h * g / n, seen(i)))))
    }

    /// Row of q-like data (width `w`) at batch, position, head.
    fn q<'a>(&self, x: &'a [f64], w: usize, b: usize, i: usize, h: usize) -> &'a [f64] {
        &x[((b * self.s + i) * self.n + h) * w..][..w]
    }

    /// What distance adds to the score of query i and key j.
    fn bias(&self, h: usize, i: usize, j: usize) -> f64 {
        self.slopes[h] * (j as f64 - (self.start + i as i64) as f64)
    }

    /// Makes of `out` and `lse`, of some keys, with those of others what both give.
    fn join(&self, out: &mut [f64], lse: &mut [f64], other: &[f64], sums: &[f64]) {
        for (b, h, i, ..) in self.rows() {
            let (at, row) = ((b * self.n + h) * self.s + i, ((b * self.s + i) * self.n + h) * self.e);
            let largest = lse[at].max(sums[at]);
            if largest == f64::NEG_INFINITY {
                continue;
            }
            let total = largest + ((lse[at] - largest).exp() + (sums[at] - largest).exp()).ln();
            let (own, theirs) = ((lse[at] - total).exp(), (sums[at] - total).exp());
            for (x, y) in out[row..][..self.e].iter_mut().zip(&other[row..][..self.e]) {
                *x = *x * own + y * theirs;
            }
            lse[at] = total;
        }
    }

    /// Start of a row of k-like data.
    fn kv(&self, w: usize, b: usize, j: usize, h: usize) -> usize {
        ((b * self.t + j) * self.g + h) * w
    }
}

/// y += a·x
fn axpy(y: &mut [f64], a: f64, x: &[f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
}

/// out and the log of the sum of exponentials of each row of scores, together with those of other keys where they are given.
pub(super) fn forward(ins: &[Array], scale: f64, causal: bool, alibi: bool) -> Vec<Vec<f64>> {
    let t = Heads::new(ins, ins.get(3), causal, alibi);
    let (q, k, v) = (&ins[0].data, &ins[1].data, &ins[2].data);
    let mut out = vec![0.0; t.b * t.s * t.n * t.e];
    let mut lse = vec![0.0; t.b * t.n * t.s];
    let mut scores = vec![0.0; t.t];
    for (b, h, i, kh, seen) in t.rows() {
        let row = t.q(q, t.d, b, i, h);
        for (j, score) in scores[..seen].iter_mut().enumerate() {
            *score = scale * dot(row, &k[t.kv(t.d, b, j, kh)..][..t.d]) + t.bias(h, i, j);
        }
        let max = scores[..seen].iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores[..seen].iter().map(|x| (x - max).exp()).sum();
        let total = max + sum.ln();
        lse[(b * t.n + h) * t.s + i] = total;
        let place = &mut out[((b * t.s + i) * t.n + h) * t.e..][..t.e];
        for (j, score) in scores[..seen].iter().enumerate() {
            axpy(place, (score - total).exp(), &v[t.kv(t.e, b, j, kh)..][..t.e]);
        }
    }
    if let [.., other, sums] = &ins[3..] {
        t.join(&mut out, &mut lse, &other.data, &sums.data);
    }
    vec![out, lse]
}

/// With p the probabilities: dv = pᵀ·dout, ds = p·(dout·vᵀ − Σ dout·out)·scale, dq = ds·k, dk = dsᵀ·q.
pub(super) fn backward(ins: &[Array], scale: f64, causal: bool, alibi: bool) -> Vec<Vec<f64>> {
    let t = Heads::new(ins, ins.get(6), causal, alibi);
    let [q, k, v, out, lse, dout] = [0, 1, 2, 3, 4, 5].map(|i| &ins[i].data);
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    for (b, h, i, kh, seen) in t.rows() {
        let (row, drow) = (t.q(q, t.d, b, i, h), t.q(dout, t.e, b, i, h));
        let shared = dot(drow, t.q(out, t.e, b, i, h));
        let total = lse[(b * t.n + h) * t.s + i];
        for j in 0..seen {
            let (kj, vj) = (t.kv(t.d, b, j, kh), t.kv(t.e, b, j, kh));
            let p = (scale * dot(row, &k[kj..][..t.d]) + t.bias(h, i, j) - total).exp();
            let ds = p * (dot(drow, &v[vj..][..t.e]) - shared) * scale;
            axpy(&mut dv[vj..][..t.e], p, drow);
            axpy(&mut dq[((b * t.s + i) * t.n + h) * t.d..][..t.d], ds, &k[kj..][..t.d]);
            axpy(&mut dk[kj..][..t.d], ds, row);
        }
    }
    if let Some(other) = ins.get(7) {
        axpy(&mut dq, 1.0, &other.data);
    }
    vec![dq, dk, dv]
}
