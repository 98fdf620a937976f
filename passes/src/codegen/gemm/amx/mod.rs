//! bf16 macro-kernels on AMX tiles: 32 × 32 blocks of C, B packed in pairs of k, A read in place where it can be.
//!
//! Everything is one function: each function that uses tiles pays some 200 ns for their configuration.

mod pack;
mod prefetch;
mod tiles;

use athanor_ir::DType;
use athanor_ir::plan::{GemmSpec, MatRef};

use super::pack::Side;
use super::shift::{Shift, shifted};
use super::text::{Text, Value};
use super::{Generated, KernelText, MAX_WORKERS, Problem};
use pack::{Packed, Part};
use tiles::{Depth, Slice};

/// Rows and columns of a block of C: two by two tiles of 16.
pub const BLOCK: usize = 32;
/// Depth of a tile: 16 pairs.
pub const STEP: usize = 32;
/// Bytes of packed B, to stay in the L2 cache beside A.
const B_BYTES: usize = 1 << 20;
/// Depth of a packed block of k when sums can be kept in C between blocks.
const KC: usize = 1024;
/// A bf16 result is rounded once, so its sums are kept apart; up to this k they do not leave the tiles between blocks.
const WHOLE_K: usize = 4096;
/// Strips whose sums are kept when k is cut into blocks.
const CHUNK: usize = 32;
/// Depth of a slice of it: 32 rows of A and a panel of B this deep stay in the L1 cache together, so that only one of them
/// streams from L2, which cannot feed the tiles with both.
const SLICE: usize = 256;

/// A product on tiles.
#[derive(Debug)]
pub struct Product<'a> {
    /// Its shape; of an expert's part in a grouped product, with as many rows or as much k as all experts have.
    s: GemmSpec,
    residual: Option<(MatRef, String)>,
    /// Flat types of A, B and C.
    types: &'a [String; 3],
    /// A by rows and B by columns.
    sides: [Side; 2],
    /// Rows in the buffer of C.
    c_rows: usize,
    /// Depth of a block of k, a multiple of [`STEP`] or all of k.
    kc: usize,
    /// Panels of B packed at a time.
    panels: usize,
    /// A is packed; otherwise tiles are loaded from where it lies.
    pack_a: bool,
}

/// What is computed for one expert of a grouped product.
#[derive(Debug)]
pub struct Group {
    /// First row, and end of the rows, where rows are counted.
    pub rows: Option<(Value, Value)>,
    /// Where the expert's matrices lie.
    pub shift: Shift,
    /// First k and end of k, where k is counted.
    pub k: Option<(Value, Value)>,
    /// End of k of B where it is cut within a step from what other experts have.
    pub b_end: Option<Value>,
}

/// Writes the kernel.
pub fn generate(problem: &Problem) -> Generated {
    let spec = &problem.spec;
    let GemmSpec { m, n, k, a, b, c, .. } = *spec;
    let one_block = c.dtype == DType::BF16 && k <= WHOLE_K;
    let kc = if one_block { k } else { k.min(KC) };
    let whole = m.is_multiple_of(BLOCK) && k.is_multiple_of(STEP);
    let types = [problem.flat(a, m, k), problem.flat(b, k, n), problem.flat(c, m, n)];
    let product = Product {
        s: *spec,
        residual: problem.residual.map(|r| (r, problem.flat(r, m, n))),
        types: &types,
        sides: [Side::rows(a, m, k), Side::cols(b, n, k)],
        c_rows: m,
        kc,
        panels: panels(kc, n),
        pack_a: !(whole && a.col_stride == 1),
    };
    // Each worker packs what the others pack too: all of B when rows are shared out, all of A when columns are.
    let by_rows = m > n || (m == n && product.pack_a);
    let grid = if by_rows { m } else { n }.div_ceil(BLOCK);
    let mut t = Text::default();
    t.line(format_args!("func.func @{}({}) {{", problem.symbol, problem.params(product.scratch_bytes())));
    product.views(&mut t);
    let (lo, hi) = (Value::named("lo"), Value::named("hi"));
    let zero = t.index(0);
    let all = t.index(if by_rows { n } else { m }.div_ceil(BLOCK));
    let (strips, columns) = if by_rows { ((lo, hi), (zero, all)) } else { ((zero, all), (lo, hi)) };
    product.region(&mut t, None, &strips, &columns);
    t.line("return\n}");
    let text = KernelText { symbol: problem.symbol.clone(), mlir: t.finish(), buffers: problem.buffers() };
    Generated { text, grid, scratch_bytes_per_worker: product.scratch_bytes() }
}

/// Panels of B, `kc` deep, that are packed at a time.
fn panels(kc: usize, n: usize) -> usize {
    (B_BYTES / (kc * BLOCK * 2)).clamp(1, n.div_ceil(BLOCK))
}

/// A packed block: some panels, and some of k.
#[derive(Clone, Copy)]
struct Packing<'a> {
    group: Option<&'a Group>,
    first_panel: &'a Value,
    last_panel: &'a Value,
    k_lo: &'a Value,
    depth: Depth<'a>,
    /// First strip whose sums are kept.
    chunk: &'a Value,
    /// No block of k comes before.
    first: bool,
    /// No block of k follows.
    last: bool,
}

impl<'a> Product<'a> {
    /// A part of a grouped product: A is always packed.
    pub fn grouped(s: GemmSpec, types: &'a [String; 3], sides: [Side; 2], c_rows: usize) -> Self {
        let kc = s.k.min(KC);
        Self { s, residual: None, types, sides, c_rows, kc, panels: panels(kc, s.n), pack_a: true }
    }

    /// Steps of k in a packed panel.
    fn steps(&self) -> usize {
        self.kc.div_ceil(STEP)
    }

    fn b_rows(&self) -> usize {
        self.panels * self.steps() * BLOCK
    }

    fn a_rows(&self) -> usize {
        if self.pack_a { self.steps() * BLOCK } else { 0 }
    }

    /// Sums of a bf16 result wait in f32 until all blocks of k are done.
    fn keeps_sums(&self) -> bool {
        self.s.c.dtype == DType::BF16 && self.kc < self.s.k
    }

    fn sums_rows(&self) -> usize {
        let strips = if self.keeps_sums() { CHUNK.min(self.s.m.div_ceil(BLOCK)) } else { 1 };
        strips * self.panels * BLOCK
    }

    /// Packed B, packed A, and the sums of one strip, or of those in a chunk.
    pub fn scratch_bytes(&self) -> usize {
        ((self.b_rows() + self.a_rows()) * STEP * 2 + self.sums_rows() * BLOCK * 4).next_multiple_of(4096)
    }

    fn sums_type(&self) -> String {
        format!("memref<{}x{BLOCK}xf32>", self.sums_rows())
    }

    /// Names this worker's scratch, and A and C as matrices of tiles.
    pub fn views(&self, t: &mut Text) {
        let GemmSpec { m, n, k, a, .. } = self.s;
        let scratch = self.scratch_bytes();
        let start = t.mul_const(&Value::named("worker"), scratch);
        let scratch_type = format!("memref<{}xi8>", scratch * MAX_WORKERS);
        let view = |t: &mut Text, name: &str, at: usize, ty: &str| {
            let at = t.add_const(&start, at);
            t.line(format_args!("%{name} = memref.view %scratch[{at}][] : {scratch_type} to {ty}"));
        };
        let b_bytes = self.b_rows() * STEP * 2;
        view(t, "bp", 0, &packed_type(self.b_rows()));
        if self.pack_a {
            view(t, "ap", b_bytes, &packed_type(self.a_rows()));
        } else {
            t.line(format_args!(
                "%at = memref.reinterpret_cast %a to offset: [0], sizes: [{m}, {k}], strides: [{}, 1] : {} to {}",
                a.row_stride,
                self.types[0],
                self.a_tile_type()
            ));
        }
        view(t, "sums", b_bytes + self.a_rows() * STEP * 2, &self.sums_type());
        if self.direct() {
            t.line(format_args!(
                "%ct = memref.reinterpret_cast %c to offset: [0], sizes: [{}, {n}], strides: [{}, 1] : {} to {}",
                self.c_rows,
                self.s.c.row_stride,
                self.types[2],
                self.c_tile_type()
            ));
        }
    }

    /// Computes strips × columns of C, for all of k.
    pub fn region(&self, t: &mut Text, group: Option<&Group>, strips: &(Value, Value), columns: &(Value, Value)) {
        t.for_each(&columns.0, &columns.1, self.panels, |t, first_panel| {
            let last_panel = t.add_const(first_panel, self.panels);
            let last_panel = &t.min(&last_panel, &columns.1);
            if group.is_some() && !self.keeps_sums() {
                self.blocks(t, group, (first_panel, last_panel), (&strips.0, &strips.1));
                return;
            }
            let chunk = if self.keeps_sums() { CHUNK } else { self.s.m.div_ceil(BLOCK) };
            t.for_each(&strips.0, &strips.1, chunk, |t, first_strip| {
                let last_strip = t.add_const(first_strip, chunk);
                let last_strip = t.min(&last_strip, &strips.1);
                self.blocks(t, group, (first_panel, last_panel), (first_strip, &last_strip));
            });
        });
    }

    /// The blocks of k, for some panels and strips.
    fn blocks(
        &self,
        t: &mut Text,
        group: Option<&Group>,
        (first_panel, last_panel): (&Value, &Value),
        strips: (&Value, &Value),
    ) {
        let chunk = strips.0;
        let (k, kc) = (self.s.k, self.kc);
        let depth = Depth::Fixed(kc);
        let any = Packing { group, first_panel, last_panel, k_lo: chunk, depth, chunk, first: true, last: true };
        if let Some((k_first, k_end)) = group.and_then(|g| g.k.as_ref()) {
            t.for_each(k_first, k_end, self.kc, |t, k_lo| {
                let left = t.sub(k_end, k_lo);
                let most = t.index(self.kc);
                let depth = t.min(&left, &most);
                let first = t.compare("eq", k_lo, k_first);
                let block = |t: &mut Text, first: bool| {
                    self.block(t, strips, &Packing { k_lo, depth: Depth::Counted(&depth), first, ..any });
                };
                t.choose(&first, |t| block(t, true), |t| block(t, false));
            });
            return;
        }
        let k_lo = &t.index(0);
        let whole = k / kc;
        self.block(t, strips, &Packing { k_lo, last: k == kc, ..any });
        let tail = k % kc;
        // Blocks in the middle look the same; the last one finishes.
        let middle = if tail > 0 { whole } else { whole - 1 };
        if middle > 1 {
            let (second, end) = (t.index(kc), t.index(middle * kc));
            t.for_each(&second, &end, kc, |t, k_lo| {
                self.block(t, strips, &Packing { k_lo, first: false, last: k == kc, ..any });
            });
        }
        if middle > 0 {
            let k_lo = &t.index(middle * kc);
            let depth = Depth::Fixed(k - middle * kc);
            self.block(t, strips, &Packing { k_lo, depth, first: false, ..any });
        }
    }

    fn a_tile_type(&self) -> String {
        format!("memref<{}x{}xbf16, strided<[{}, 1]>>", self.s.m, self.s.k, self.s.a.row_stride)
    }

    fn c_tile_type(&self) -> String {
        format!("memref<{}x{}xf32, strided<[{}, 1]>>", self.c_rows, self.s.n, self.s.c.row_stride)
    }

    /// Whole blocks of C are tiles in memory: no staging.
    fn direct(&self) -> bool {
        self.s.c.dtype == DType::F32 && self.residual.is_none()
    }

    /// First row of a strip of A.
    fn row(t: &mut Text, packing: &Packing<'_>, strip: &Value) -> Value {
        let row = t.mul_const(strip, BLOCK);
        shifted(t, &row, packing.group.and_then(|g| g.rows.as_ref()).map(|r| &r.0))
    }

    /// Packs a block of B and multiplies all strips of A with it.
    fn block(&self, t: &mut Text, strips: (&Value, &Value), packing: &Packing<'_>) {
        let [a_type, b_type, _] = self.types;
        let packed = Packed { name: "%bp", ty: &packed_type(self.b_rows()), steps: self.steps() };
        let panels = (packing.first_panel, packing.last_panel);
        let end = |t: &mut Text| {
            let depth = packing.depth.value(t);
            t.add(packing.k_lo, &depth)
        };
        let group = packing.group;
        let k_hi = end(t);
        let k = [packing.k_lo, &k_hi].map(|k| shifted(t, k, group.and_then(|g| g.shift.b_k.as_ref())));
        let counted = group.and_then(|g| g.k.as_ref()).map(|k| &k.1);
        let part = group.map(|g| Part { column: g.shift.b_column.as_ref(), end: g.b_end.as_ref().or(counted) });
        pack::pack_b(t, (self.sides[1], part), ("%b", b_type), panels, (&k[0], &k[1]), packed);
        let part = group.map(|_| Part { column: None, end: counted });
        t.for_each(strips.0, strips.1, 1, |t, strip| {
            if self.pack_a {
                let row = Self::row(t, packing, strip);
                let packed = Packed { name: "%ap", ty: &packed_type(self.a_rows()), steps: self.steps() };
                let k_hi = end(t);
                pack::pack_a(t, (self.sides[0], part), ("%a", a_type), &row, (packing.k_lo, &k_hi), packed);
            }
            // Slices outside, panels inside: a slice of A is used for all panels while it is in L1.
            let zero = t.index(0);
            let depth = match packing.depth {
                Depth::Fixed(depth) => depth,
                Depth::Counted(depth) => {
                    self.counted_slices(t, packing, strip, depth);
                    return;
                }
            };
            let slices = depth.div_ceil(SLICE);
            self.panels(t, packing, strip, &zero, Depth::Fixed(depth.min(SLICE)), (false, slices == 1));
            if slices > 2 {
                let (second, last) = (t.index(SLICE), t.index((slices - 1) * SLICE));
                t.for_each(&second, &last, SLICE, |t, at| {
                    self.panels(t, packing, strip, at, Depth::Fixed(SLICE), (true, false));
                });
            }
            if slices > 1 {
                let at = t.index((slices - 1) * SLICE);
                self.panels(t, packing, strip, &at, Depth::Fixed(depth - (slices - 1) * SLICE), (true, true));
            }
        });
    }

    /// The same where the depth is known only at run time and sums are kept in C: every slice is a block of its own.
    fn counted_slices(&self, t: &mut Text, packing: &Packing<'_>, strip: &Value, depth: &Value) {
        let (zero, size) = (t.index(0), t.index(SLICE));
        let first = t.min(depth, &size);
        self.panels(t, packing, strip, &zero, Depth::Counted(&first), (false, true));
        t.for_each(&size, depth, SLICE, |t, at| {
            let left = t.sub(depth, at);
            let left = t.min(&left, &size);
            let packing = Packing { first: false, ..*packing };
            self.panels(t, &packing, strip, at, Depth::Counted(&left), (false, true));
        });
    }

    /// One strip times one slice of all packed panels; (`resume`, `last`) as in [`Slice`].
    fn panels(
        &self,
        t: &mut Text,
        packing: &Packing<'_>,
        strip: &Value,
        at: &Value,
        depth: Depth<'_>,
        (resume, last): (bool, bool),
    ) {
        let GemmSpec { m, n, .. } = self.s;
        let row = &Self::row(t, packing, strip);
        t.for_each(packing.first_panel, packing.last_panel, 1, |t, panel| {
            let col = &t.mul_const(panel, BLOCK);
            let slot = &t.sub(panel, packing.first_panel);
            let sums = &self.sums_row(t, packing, strip, slot);
            let slice = |direct| Slice { row, col, slot, sums, at, depth, resume, last, direct };
            if packing.group.is_none() {
                self.prefetch(t, packing, strip, &slice(false));
            }
            let counted = packing.group.and_then(|g| g.rows.as_ref());
            if !self.direct() || (counted.is_none() && m.is_multiple_of(BLOCK) && n.is_multiple_of(BLOCK)) {
                self.product(t, packing, &slice(self.direct()));
                return;
            }
            // Where a share begins decides which blocks are whole. What C had before is added to a staged block's sum, and
            // is what a whole block's sum starts with: the bits would depend on the shares.
            if counted.is_some() && (self.s.accumulate || self.kc < self.s.k) {
                self.product(t, packing, &slice(false));
                return;
            }
            // Only the last strip and the last panel are staged.
            let limit = if counted.is_some() { t.add_const(row, BLOCK) } else { t.index(m / BLOCK) };
            let cols = t.index(n / BLOCK);
            let row_in = match counted {
                Some((_, end)) => t.compare("ule", &limit, end),
                None => t.compare("ult", strip, &limit),
            };
            let col_in = t.compare("ult", panel, &cols);
            let both = t.op(format_args!("arith.andi {row_in}, {col_in} : i1"));
            t.choose(&both, |t| self.product(t, packing, &slice(true)), |t| self.product(t, packing, &slice(false)));
        });
        if last && !self.direct() && (packing.last || !self.keeps_sums()) {
            let col = &t.mul_const(packing.last_panel, BLOCK);
            let slot = &t.sub(packing.last_panel, packing.first_panel);
            let sums = &self.sums_row(t, packing, strip, slot);
            self.finish_before(t, packing, &Slice { row, col, slot, sums, at, depth, resume, last, direct: false });
        }
    }

    /// Row of the sums of a block.
    fn sums_row(&self, t: &mut Text, packing: &Packing<'_>, strip: &Value, slot: &Value) -> Value {
        if self.keeps_sums() {
            let strip = t.sub(strip, packing.chunk);
            t.offset((&strip, self.panels * BLOCK), (slot, BLOCK))
        } else {
            t.mul_const(slot, BLOCK)
        }
    }
}

/// Packed steps: rows of tiles.
fn packed_type(rows: usize) -> String {
    format!("memref<{rows}x{STEP}xbf16>")
}
