//! Elements that move without changing: slices, concatenations, transposes and broadcasts that are no views.

use athanor_ir::target::CpuLevel;

use super::Generated;
use super::emit::{Buf, Emit, Val};
use super::llvm::KernelText;
use super::simd::Simd;

/// Elements that go from one source to the result: element (i₀, i₁, …) of `dims` lies at `from` + Σ iₙ·`src[n]` and goes to
/// `to` + Σ iₙ·`dst[n]`. A stride of 0 in `src` repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Elements of the source.
    pub elements: usize,
    /// Sizes of the space.
    pub dims: Vec<usize>,
    /// Strides in the source.
    pub src: Vec<usize>,
    /// Strides in the result.
    pub dst: Vec<usize>,
    /// First element in the source.
    pub from: usize,
    /// First element in the result.
    pub to: usize,
}

/// Grid items that are wanted: enough to deal to workers evenly.
const ITEMS: usize = 64;

/// Elements of a run that is cut into grid items.
const RUN: usize = 4096;

impl Part {
    /// The same copy with as few dims as possible.
    #[must_use]
    pub fn collapsed(&self) -> Self {
        let mut out = Self { dims: vec![], src: vec![], dst: vec![], ..self.clone() };
        for (i, &n) in self.dims.iter().enumerate().filter(|(_, n)| **n != 1) {
            match (out.dims.last_mut(), out.src.last_mut(), out.dst.last_mut()) {
                (Some(dim), Some(src), Some(dst)) if *src == n * self.src[i] && *dst == n * self.dst[i] => {
                    (*dim, *src, *dst) = (*dim * n, self.src[i], self.dst[i]);
                }
                _ => {
                    out.dims.push(n);
                    out.src.push(self.src[i]);
                    out.dst.push(self.dst[i]);
                }
            }
        }
        if out.dims.is_empty() {
            (out.dims, out.src, out.dst) = (vec![1], vec![1], vec![1]);
        }
        // One run is cut, so that there is more than one item.
        if out.dims.len() == 1 && out.dims[0] > RUN {
            let n = out.dims[0];
            if let Some(run) = (RUN / 4..=RUN).rev().find(|r| n.is_multiple_of(*r)) {
                (out.dims, out.src, out.dst) =
                    (vec![n / run, run], vec![run * out.src[0], out.src[0]], vec![run * out.dst[0], out.dst[0]]);
            }
        }
        out
    }

    /// How many of the leading dims are the grid: the last one never is.
    fn grid_dims(&self) -> usize {
        let mut items = 1;
        let lead = &self.dims[..self.dims.len() - 1];
        lead.iter()
            .position(|n| {
                items *= n;
                items >= ITEMS
            })
            .map_or(lead.len(), |i| i + 1)
    }
}

/// The copy of one part. Buffers: x → out, of elements of `bytes` bytes; x has `part.elements`, out has `elements`.
/// A grid item is an index of the leading dims.
pub fn copy(part: &Part, elements: usize, bytes: usize, level: CpuLevel, symbol: &str) -> Generated {
    let part = part.collapsed();
    let dims = part.grid_dims();
    let grid = part.dims[..dims].iter().product();
    generate(&[(part, dims)], grid, elements, bytes, level, symbol)
}

/// Several sources side by side. Buffers: x₀, x₁, … → out. All parts have the same first dim, which is the grid, and a run
/// behind it.
pub fn join(parts: &[Part], elements: usize, bytes: usize, level: CpuLevel, symbol: &str) -> Generated {
    let grid = parts.first().map_or(1, |p| p.dims[0]);
    let parts: Vec<(Part, usize)> = parts.iter().map(|p| (p.clone(), 1)).collect();
    generate(&parts, grid, elements, bytes, level, symbol)
}

/// Every part with the number of its leading dims that are the grid.
fn generate(
    parts: &[(Part, usize)],
    grid: usize,
    elements: usize,
    bytes: usize,
    level: CpuLevel,
    symbol: &str,
) -> Generated {
    let element = match bytes {
        2 => "i16",
        4 => "i32",
        _ => "i64",
    };
    let simd = Simd::of(level);
    // As many elements as a register holds.
    let simd = simd.narrowed(simd.lanes * 4 / bytes);
    let buf = |i: usize, n: usize| Buf { val: Val::Param(i as u32), dims: vec![n], element };
    let mut bufs: Vec<Buf> = parts.iter().enumerate().map(|(i, (p, _))| buf(i, p.elements)).collect();
    bufs.push(buf(parts.len(), elements));
    let out = &bufs[parts.len()];
    let mut e = Emit::default();
    e.func(symbol, false, &bufs.iter().collect::<Vec<_>>(), &["lo", "hi", "worker"], |e| {
        e.each(Val::Arg("lo"), Val::Arg("hi"), 1, |e, item| {
            for ((part, dims), x) in parts.iter().zip(&bufs) {
                let (mut src, mut dst) = (e.index(part.from), e.index(part.to));
                let mut rest = item;
                for d in (0..*dims).rev() {
                    let i = if d == 0 { rest } else { e.idx_c("remui", rest, part.dims[d]) };
                    rest = if d == 0 { rest } else { e.idx_c("divui", rest, part.dims[d]) };
                    (src, dst) = (ahead(e, src, i, part.src[d]), ahead(e, dst, i, part.dst[d]));
                }
                nest(e, &simd, part, *dims, (x, src), (out, dst));
            }
        });
    });
    let text = KernelText { symbol: symbol.to_owned(), mlir: e.finish(), buffers: bufs.len() };
    Generated { text, grid, scratch_bytes_per_worker: 0 }
}

/// `at` + `i`·`stride`.
fn ahead(e: &mut Emit, at: Val, i: Val, stride: usize) -> Val {
    if stride == 0 {
        return at;
    }
    let by = e.idx_c("muli", i, stride);
    e.idx("addi", at, by)
}

/// Loops over the dims from `d` on.
fn nest(e: &mut Emit, simd: &Simd, part: &Part, d: usize, (x, src): (&Buf, Val), (out, dst): (&Buf, Val)) {
    let n = part.dims[d];
    let (zero, end) = (e.index(0), e.index(n));
    if d + 1 < part.dims.len() {
        e.each(zero, end, 1, |e, i| {
            let (src, dst) = (ahead(e, src, i, part.src[d]), ahead(e, dst, i, part.dst[d]));
            nest(e, simd, part, d + 1, (x, src), (out, dst));
        });
        return;
    }
    match (part.src[d], part.dst[d]) {
        (1, 1) => simd.cover(e, n, |e, simd, c| {
            let (from, to) = (e.idx("addi", src, c), e.idx("addi", dst, c));
            simd.copy(e, (x, &[from]), (out, &[to]), simd.lanes);
        }),
        (0, 1) => {
            let value = e.load(x, &[src]);
            simd.cover(e, n, |e, simd, c| {
                let to = e.idx("addi", dst, c);
                let ty = format!("vector<{}x{}>", simd.lanes, x.element);
                let wide = e.val(format_args!("vector.broadcast {value} : {} to {ty}", x.element));
                e.stmt(format_args!("vector.store {wide}, {}[{to}] : {}, {ty}", out.val, out.ty()));
            });
        }
        (from, to) => e.each(zero, end, 1, |e, i| {
            let (src, dst) = (ahead(e, src, i, from), ahead(e, dst, i, to));
            let value = e.load(x, &[src]);
            e.store(value, out, &[dst]);
        }),
    }
}
