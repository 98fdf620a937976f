//! Rotary position embedding.

use athanor_ir::target::CpuLevel;

use super::Generated;
use super::emit::{Buf, Emit, Val};
use super::llvm::KernelText;
use super::simd::{Float, Simd};

/// Which dims of a head form a pair that is rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pairing {
    /// Dim `i` with dim `i + rotary_dim / 2` (Llama as Hugging Face stores it).
    Halves,
    /// Dim `2i` with dim `2i + 1`.
    Neighbours,
}

/// A rotary embedding of queries or of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RopeSpec {
    /// Sequences.
    pub batch: usize,
    /// Tokens of a sequence; a row of the tables per token.
    pub seq: usize,
    /// Heads.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// The first so many dims are rotated (even, at most `head_dim`), the others copied.
    pub rotary_dim: usize,
    /// How dims pair up.
    pub pairing: Pairing,
    /// Rotates backwards: the gradient.
    pub inverse: bool,
    /// Element type of x and y; the tables are f32.
    pub dtype: Float,
}

/// The kernel. Buffers: x `[b,s,n,d]`, cos f32 `[s, r/2]`, sin f32 `[s, r/2]` → y `[b,s,n,d]`. A grid item is a token.
pub fn rope(spec: &RopeSpec, level: CpuLevel, symbol: &str) -> Generated {
    let simd = Simd::of(level);
    let dims = [spec.batch, spec.seq, spec.heads, spec.head_dim];
    let half = spec.rotary_dim / 2;
    let (x, y) = (Buf::arg("x", &dims, spec.dtype.name()), Buf::arg("y", &dims, spec.dtype.name()));
    let (cos, sin) = (Buf::arg("cos", &[spec.seq, half], "f32"), Buf::arg("sin", &[spec.seq, half], "f32"));
    let mut e = Emit::default();
    e.func(symbol, false, &[&x, &cos, &sin, &y], &["lo", "hi", "worker"], |e| {
        let (zero, heads) = (e.index(0), e.index(spec.heads));
        e.each(Val::Arg("lo"), Val::Arg("hi"), 1, |e, item| {
            let b = e.idx_c("divui", item, spec.seq);
            let s = e.idx_c("remui", item, spec.seq);
            e.each(zero, heads, 1, |e, h| {
                for (c, n) in simd.chunks(half) {
                    let at = e.index(c);
                    let cos = simd.widen(e, &cos, &[s, at], n);
                    let sin = simd.widen(e, &sin, &[s, at], n);
                    rotate(e, &simd.narrowed(n), spec, (&x, &y), [b, s, h], c, (cos, sin));
                }
                for (c, n) in simd.chunks(spec.head_dim - spec.rotary_dim) {
                    let at = e.index(spec.rotary_dim + c);
                    simd.copy(e, (&x, &[b, s, h, at]), (&y, &[b, s, h, at]), n);
                }
            });
        });
    });
    Generated {
        text: KernelText { symbol: symbol.to_owned(), mlir: e.finish(), buffers: 4 },
        grid: spec.batch * spec.seq,
        scratch_bytes_per_worker: 0,
    }
}

/// Rotates pairs `c..c + simd.lanes` of one head.
fn rotate(
    e: &mut Emit,
    simd: &Simd,
    spec: &RopeSpec,
    (x, y): (&Buf, &Buf),
    [b, s, h]: [Val; 3],
    c: usize,
    (cos, sin): (Val, Val),
) {
    let n = simd.lanes;
    let turn = |e: &mut Emit, first: Val, second: Val| {
        // (first, second) · (cos, sin) in the plane; the inverse turns the other way.
        let (plus, minus) = if spec.inverse { ("subf", "addf") } else { ("addf", "subf") };
        let (fc, ss) = (simd.op(e, "mulf", first, cos), simd.op(e, "mulf", second, sin));
        let (sc, fs) = (simd.op(e, "mulf", second, cos), simd.op(e, "mulf", first, sin));
        (simd.op(e, minus, fc, ss), simd.op(e, plus, sc, fs))
    };
    match spec.pairing {
        Pairing::Halves => {
            let (at, there) = (e.index(c), e.index(spec.rotary_dim / 2 + c));
            let first = simd.widen(e, x, &[b, s, h, at], n);
            let second = simd.widen(e, x, &[b, s, h, there], n);
            let (first, second) = turn(e, first, second);
            simd.narrow(e, first, y, &[b, s, h, at], n);
            simd.narrow(e, second, y, &[b, s, h, there], n);
        }
        Pairing::Neighbours => {
            let at = e.index(2 * c);
            let both = simd.widen(e, x, &[b, s, h, at], 2 * n);
            let (pair, ty) = (format!("vector<{}xf32>", 2 * n), simd.ty());
            let pick = |e: &mut Emit, from: usize| {
                let lanes: Vec<String> = (0..n).map(|l| (2 * l + from).to_string()).collect();
                e.val(format_args!("vector.shuffle {both}, {both} [{}] : {pair}, {pair}", lanes.join(", ")))
            };
            let (first, second) = (pick(e, 0), pick(e, 1));
            let (first, second) = turn(e, first, second);
            let lanes: Vec<String> = (0..2 * n).map(|l| (l / 2 + n * (l % 2)).to_string()).collect();
            let woven = e.val(format_args!("vector.shuffle {first}, {second} [{}] : {ty}, {ty}", lanes.join(", ")));
            simd.narrow(e, woven, y, &[b, s, h, at], 2 * n);
        }
    }
}
