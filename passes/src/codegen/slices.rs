//! What slices of a sequence share: their parts are written and read at a place that the kernel is told.

use athanor_ir::target::CpuLevel;

use super::Generated;
use super::emit::{Buf, Emit, Val};
use super::llvm::KernelText;
use super::simd::{Float, Simd};

/// Parts of a dim: `outer` times `len` of `all` rows of `inner` elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceSpec {
    /// Product of the dims before it.
    pub outer: usize,
    /// Extent of the dim.
    pub all: usize,
    /// That of a part.
    pub len: usize,
    /// Product of the dims behind it.
    pub inner: usize,
    /// Bytes of an element.
    pub bytes: usize,
}

/// A sum over slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SumSpec {
    /// Rows of `inner` elements.
    pub rows: usize,
    /// Elements of a row.
    pub inner: usize,
    /// Element type of what is added.
    pub dtype: Float,
    /// Where the slice begins that comes first.
    pub begin: usize,
}

impl SliceSpec {
    fn element(&self) -> &'static str {
        match self.bytes {
            2 => "i16",
            4 => "i32",
            _ => "i64",
        }
    }

    /// As many elements as a register holds.
    fn simd(&self, level: CpuLevel) -> Simd {
        let simd = Simd::of(level);
        simd.narrowed(simd.lanes * 4 / self.bytes)
    }

    /// Row of the whole, and of the part, that grid item `item` is: one of the part's rows, which begin at `begin`. Also the number
    /// of the row among those of the whole, and the first row with the same outer indices.
    fn rows(&self, e: &mut Emit, item: Val, begin: Val) -> [Val; 2] {
        let row = if self.outer == 1 { item } else { e.idx_c("remui", item, self.len) };
        let at = e.idx("addi", begin, row);
        if self.outer == 1 {
            return [at, e.index(0)];
        }
        let outer = e.idx_c("divui", item, self.len);
        [at, e.idx_c("muli", outer, self.all)]
    }
}

/// `first`, where the sequence begins, counted from the slice, as the place where the slice begins.
fn begin(e: &mut Emit, first: &Buf) -> Val {
    let zero = e.index(0);
    let first = e.load(first, &[zero]);
    let first = e.val(format_args!("arith.index_cast {first} : i32 to index"));
    e.idx("subi", zero, first)
}

/// Writes a part at its place, and zeros behind it. Buffers: part `[outer·len, inner]`, first i32 → kept `[outer·all, inner]`, of
/// which what is before the part stays. A grid item is a row of the part.
pub fn keep(spec: &SliceSpec, level: CpuLevel, symbol: &str) -> Generated {
    let (simd, element) = (spec.simd(level), spec.element());
    let part = Buf::arg("part", &[spec.outer * spec.len, spec.inner], element);
    let first = Buf::arg("first", &[1], "i32");
    let kept = Buf::arg("kept", &[spec.outer * spec.all, spec.inner], element);
    let mut e = Emit::default();
    e.func(symbol, false, &[&part, &first, &kept], &["lo", "hi", "worker"], |e| {
        let begin = begin(e, &first);
        e.each(Val::Arg("lo"), Val::Arg("hi"), 1, |e, item| {
            let [at, outer] = spec.rows(e, item, begin);
            let row = e.idx("addi", outer, at);
            simd.cover(e, spec.inner, |e, simd, c| {
                simd.copy(e, (&part, &[item, c]), (&kept, &[row, c]), simd.lanes);
            });
            let (next, end) = (e.idx_c("addi", at, spec.len), e.index(spec.all));
            e.each(next, end, spec.len, |e, behind| {
                let row = e.idx("addi", outer, behind);
                simd.cover(e, spec.inner, |e, simd, c| {
                    let ty = format!("vector<{}x{element}>", simd.lanes);
                    let zeros = e.val(format_args!("arith.constant dense<0> : {ty}"));
                    e.stmt(format_args!("vector.store {zeros}, {}[{row}, {c}] : {}, {ty}", kept.val, kept.ty()));
                });
            });
        });
    });
    generated(e, symbol, spec.outer * spec.len)
}

/// Takes a part from its place. Buffers: x `[outer·all, inner]`, first i32 → own `[outer·len, inner]`. A grid item is a row.
pub fn own(spec: &SliceSpec, level: CpuLevel, symbol: &str) -> Generated {
    let (simd, element) = (spec.simd(level), spec.element());
    let x = Buf::arg("x", &[spec.outer * spec.all, spec.inner], element);
    let first = Buf::arg("first", &[1], "i32");
    let own = Buf::arg("own", &[spec.outer * spec.len, spec.inner], element);
    let mut e = Emit::default();
    e.func(symbol, false, &[&x, &first, &own], &["lo", "hi", "worker"], |e| {
        let begin = begin(e, &first);
        e.each(Val::Arg("lo"), Val::Arg("hi"), 1, |e, item| {
            let [at, outer] = spec.rows(e, item, begin);
            let row = e.idx("addi", outer, at);
            simd.cover(e, spec.inner, |e, simd, c| {
                simd.copy(e, (&x, &[row, c]), (&own, &[item, c]), simd.lanes);
            });
        });
    });
    generated(e, symbol, spec.outer * spec.len)
}

/// Adds to a sum, or begins it. Buffers: x `[rows, inner]`, first i32 → sum f32 `[rows, inner]`. A grid item is a row.
pub fn sum(spec: &SumSpec, level: CpuLevel, symbol: &str) -> Generated {
    let simd = Simd::of(level);
    let x = Buf::arg("x", &[spec.rows, spec.inner], spec.dtype.name());
    let first = Buf::arg("first", &[1], "i32");
    let sum = Buf::arg("sum", &[spec.rows, spec.inner], "f32");
    let mut e = Emit::default();
    e.func(symbol, false, &[&x, &first, &sum], &["lo", "hi", "worker"], |e| {
        let (begin, wanted) = (begin(e, &first), e.index(spec.begin));
        let alone = e.test("eq", begin, wanted);
        e.each(Val::Arg("lo"), Val::Arg("hi"), 1, |e, row| {
            simd.cover(e, spec.inner, |e, simd, c| {
                let x = simd.widen(e, &x, &[row, c], simd.lanes);
                let before = simd.load(e, &sum, &[row, c]);
                let both = simd.op(e, "addf", before, x);
                let now = e.val(format_args!("arith.select {alone}, {x}, {both} : {}", simd.ty()));
                simd.store(e, now, &sum, &[row, c]);
            });
        });
    });
    generated(e, symbol, spec.rows)
}

fn generated(e: Emit, symbol: &str, grid: usize) -> Generated {
    let text = KernelText { symbol: symbol.to_owned(), mlir: e.finish(), buffers: 3 };
    Generated { text, grid, scratch_bytes_per_worker: 0 }
}
