//! The token embedding: rows of a table by token id, and the gradient of the table.

use athanor_ir::target::CpuLevel;

use super::Generated;
use super::emit::{Buf, Emit, Val};
use super::llvm::KernelText;
use super::simd::{Float, Simd};

/// A table lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbedSpec {
    /// Tokens of all sequences.
    pub tokens: usize,
    /// Rows of the table.
    pub vocab: usize,
    /// Width of a row.
    pub hidden: usize,
    /// Element type of the table and of the rows taken from it.
    pub dtype: Float,
}

/// Grid items of the gradient; enough for any host, and a power of two so that the remainder is cheap.
const CLASSES: usize = 64;

/// The lookup. Buffers: ids i32 `[T]`, table `[v,h]` → out `[T,h]`. A grid item is a token.
///
/// An id outside the table gives a row of zeros: whether ids are valid is checked where data is read.
pub fn embed(spec: &EmbedSpec, level: CpuLevel, symbol: &str) -> Generated {
    let simd = Simd::of(level);
    let ids = Buf::arg("ids", &[spec.tokens], "i32");
    let table = Buf::arg("table", &[spec.vocab, spec.hidden], spec.dtype.name());
    let out = Buf::arg("out", &[spec.tokens, spec.hidden], spec.dtype.name());
    let mut e = Emit::default();
    e.func(symbol, false, &[&ids, &table, &out], &["lo", "hi", "worker"], |e| {
        e.each(Val::Arg("lo"), Val::Arg("hi"), 1, |e, t| {
            let id = load_id(e, &ids, t);
            let vocab = e.index(spec.vocab);
            let known = e.test("ult", id, vocab);
            e.either(
                known,
                |e| {
                    simd.cover(e, spec.hidden, |e, simd, c| {
                        simd.copy(e, (&table, &[id, c]), (&out, &[t, c]), simd.lanes);
                    });
                },
                |e| {
                    let (zero, width) = (e.index(0), e.index(spec.hidden));
                    e.each(zero, width, 1, |e, c| {
                        let nought = e.val(format_args!("arith.constant 0.0 : {}", out.element));
                        e.store(nought, &out, &[t, c]);
                    });
                },
            );
        });
    });
    Generated {
        text: KernelText { symbol: symbol.to_owned(), mlir: e.finish(), buffers: 3 },
        grid: spec.tokens,
        scratch_bytes_per_worker: 0,
    }
}

/// The gradient of the table. Buffers: ids i32 `[T]`, dout `[T,h]` → dtable f32 `[v,h]`, which is overwritten.
///
/// A grid item is the rows of one remainder modulo the grid, so that frequent ids (small ones, in most vocabularies)
/// spread over workers. A row has one writer and adds its tokens in their order: the sums do not depend on the partition.
pub fn embed_grad(spec: &EmbedSpec, level: CpuLevel, symbol: &str) -> Generated {
    let simd = Simd::of(level);
    let classes = CLASSES.min(spec.vocab);
    let ids = Buf::arg("ids", &[spec.tokens], "i32");
    let dout = Buf::arg("dout", &[spec.tokens, spec.hidden], spec.dtype.name());
    let dtable = Buf::arg("dtable", &[spec.vocab, spec.hidden], "f32");
    let mut e = Emit::default();
    e.func(symbol, false, &[&ids, &dout, &dtable], &["lo", "hi", "worker"], |e| {
        let (lo, hi) = (Val::Arg("lo"), Val::Arg("hi"));
        let (zero, tokens, vocab) = (e.index(0), e.index(spec.tokens), e.index(spec.vocab));
        e.each(zero, vocab, classes, |e, first| {
            let from = e.idx("addi", first, lo);
            let to = e.idx("addi", first, hi);
            let to = e.idx("minsi", to, vocab);
            e.each(from, to, 1, |e, row| {
                simd.cover(e, spec.hidden, |e, simd, c| {
                    let zeros = simd.splat(e, 0.0);
                    simd.store(e, zeros, &dtable, &[row, c]);
                });
            });
        });
        e.each(zero, tokens, 1, |e, t| {
            let id = load_id(e, &ids, t);
            let class = e.idx_c("remui", id, classes);
            let tests = [e.test("ult", id, vocab), e.test("sge", class, lo), e.test("slt", class, hi)];
            let known = e.val(format_args!("arith.andi {}, {} : i1", tests[0], tests[1]));
            let ours = e.val(format_args!("arith.andi {known}, {} : i1", tests[2]));
            e.when(ours, |e| {
                simd.cover(e, spec.hidden, |e, simd, c| {
                    let x = simd.widen(e, &dout, &[t, c], simd.lanes);
                    let sum = simd.load(e, &dtable, &[id, c]);
                    let sum = simd.op(e, "addf", sum, x);
                    simd.store(e, sum, &dtable, &[id, c]);
                });
            });
        });
    });
    Generated {
        text: KernelText { symbol: symbol.to_owned(), mlir: e.finish(), buffers: 3 },
        grid: classes,
        scratch_bytes_per_worker: 0,
    }
}

/// An id as an index; a negative one becomes far larger than any table.
fn load_id(e: &mut Emit, ids: &Buf, t: Val) -> Val {
    let id = e.load(ids, &[t]);
    e.val(format_args!("arith.index_cast {id} : i32 to index"))
}
