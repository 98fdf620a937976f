//! bf16 macro-kernels on AMX tiles: 32 × 32 blocks of C, B packed in pairs of k, A read in place where it can be.
//!
//! Everything is one function: each function that uses tiles pays some 200 ns for their configuration.

use athanor_ir::DType;
use athanor_ir::plan::GemmSpec;

use super::amx_pack::{self, Packed};
use super::pack::Side;
use super::text::{Text, Value};
use super::{GeneratedGemm, KernelText, Problem};

/// Rows and columns of a block of C: two by two tiles of 16.
pub const BLOCK: usize = 32;
/// Depth of a tile: 16 pairs.
pub const STEP: usize = 32;
const SUM: &str = "!amx.tile<16x16xf32>";
const HALF: &str = "!amx.tile<16x32xbf16>";
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

struct Writer<'a> {
    p: &'a Problem,
    s: &'a GemmSpec,
    /// Depth of a block of k, a multiple of [`STEP`] or all of k.
    kc: usize,
    /// Panels of B packed at a time.
    panels: usize,
    /// A is packed; otherwise tiles are loaded from where it lies.
    pack_a: bool,
}

/// Writes the kernel.
pub fn generate(problem: &Problem) -> GeneratedGemm {
    let spec = &problem.spec;
    let one_block = spec.c.dtype == DType::BF16 && spec.k <= WHOLE_K;
    let kc = if one_block { spec.k } else { spec.k.min(KC) };
    let panels = (B_BYTES / (kc * BLOCK * 2)).clamp(1, spec.n.div_ceil(BLOCK));
    let whole = spec.m.is_multiple_of(BLOCK) && spec.k.is_multiple_of(STEP);
    let writer = Writer { p: problem, s: spec, kc, panels, pack_a: !(whole && spec.a.col_stride == 1) };
    // Each worker packs what the others pack too: all of B when rows are shared out, all of A when columns are.
    let by_rows = spec.m > spec.n || (spec.m == spec.n && writer.pack_a);
    let grid = if by_rows { spec.m } else { spec.n }.div_ceil(BLOCK);
    let mut t = Text::default();
    writer.kernel(&mut t, by_rows);
    let text = KernelText { symbol: problem.symbol.clone(), mlir: t.finish(), buffers: problem.buffers() };
    GeneratedGemm { text, grid, scratch_bytes_per_worker: writer.scratch_bytes() }
}

/// A packed block: some panels, and some of k.
struct Packing<'a> {
    first_panel: &'a Value,
    last_panel: &'a Value,
    k_lo: &'a Value,
    depth: usize,
    /// First strip whose sums are kept.
    chunk: &'a Value,
    /// No block of k comes before.
    first: bool,
    /// No block of k follows.
    last: bool,
}

/// A block of C over a slice of k.
#[derive(Clone, Copy)]
struct Slice<'a> {
    row: &'a Value,
    col: &'a Value,
    /// The panel's place among the packed ones.
    slot: &'a Value,
    /// Row of the staged sums.
    sums: &'a Value,
    /// Start within the packed block.
    at: &'a Value,
    depth: usize,
    /// Tiles start from what earlier slices left.
    resume: bool,
    /// No slice follows in this packed block.
    last: bool,
    /// Sums are kept in C itself.
    direct: bool,
}

impl Writer<'_> {
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
    fn scratch_bytes(&self) -> usize {
        ((self.b_rows() + self.a_rows()) * STEP * 2 + self.sums_rows() * BLOCK * 4).next_multiple_of(4096)
    }

    fn sums_type(&self) -> String {
        format!("memref<{}x{BLOCK}xf32>", self.sums_rows())
    }

    fn kernel(&self, t: &mut Text, by_rows: bool) {
        let GemmSpec { m, n, k, a, .. } = *self.s;
        let scratch = self.scratch_bytes();
        t.line(format_args!("func.func @{}({}) {{", self.p.symbol, self.p.params(scratch)));
        let start = t.mul_const(&Value::named("worker"), scratch);
        let scratch_type = format!("memref<{}xi8>", scratch * super::MAX_WORKERS);
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
                self.p.flat(a, m, k),
                self.a_tile_type()
            ));
        }
        view(t, "sums", b_bytes + self.a_rows() * STEP * 2, &self.sums_type());
        if self.direct() {
            t.line(format_args!(
                "%ct = memref.reinterpret_cast %c to offset: [0], sizes: [{m}, {n}], strides: [{}, 1] : {} to {}",
                self.s.c.row_stride,
                self.p.flat(self.s.c, m, n),
                self.c_tile_type()
            ));
        }

        let (lo, hi) = (Value::named("lo"), Value::named("hi"));
        let zero = t.index(0);
        let all = t.index(if by_rows { n } else { m }.div_ceil(BLOCK));
        let (strips, columns) = if by_rows { ((lo, hi), (zero, all)) } else { ((zero, all), (lo, hi)) };
        t.for_each(&columns.0, &columns.1, self.panels, |t, first_panel| {
            let last_panel = t.add_const(first_panel, self.panels);
            let last_panel = &t.min(&last_panel, &columns.1);
            let chunk = if self.keeps_sums() { CHUNK } else { self.s.m.div_ceil(BLOCK) };
            t.for_each(&strips.0, &strips.1, chunk, |t, first_strip| {
                let last_strip = t.add_const(first_strip, chunk);
                let strips = (first_strip, &t.min(&last_strip, &strips.1));
                let k_lo = &t.index(0);
                let whole = k / self.kc;
                let depth = self.kc;
                let first_block =
                    Packing { first_panel, last_panel, k_lo, depth, chunk: first_strip, first: true, last: k == depth };
                self.block(t, strips, &first_block);
                let tail = k % self.kc;
                // Blocks in the middle look the same; the last one finishes.
                let middle = if tail > 0 { whole } else { whole - 1 };
                if middle > 1 {
                    let (second, end) = (t.index(self.kc), t.index(middle * self.kc));
                    t.for_each(&second, &end, self.kc, |t, k_lo| {
                        self.block(t, strips, &Packing { k_lo, first: false, ..first_block });
                    });
                }
                if middle > 0 {
                    let k_lo = &t.index(middle * self.kc);
                    let depth = k - middle * self.kc;
                    self.block(t, strips, &Packing { k_lo, depth, first: false, last: true, ..first_block });
                }
            });
        });
        t.line("return\n}");
    }

    fn a_tile_type(&self) -> String {
        format!("memref<{}x{}xbf16, strided<[{}, 1]>>", self.s.m, self.s.k, self.s.a.row_stride)
    }

    fn c_tile_type(&self) -> String {
        format!("memref<{}x{}xf32, strided<[{}, 1]>>", self.s.m, self.s.n, self.s.c.row_stride)
    }

    /// Whole blocks of C are tiles in memory: no staging.
    fn direct(&self) -> bool {
        self.s.c.dtype == DType::F32 && self.p.residual.is_none()
    }

    /// Packs a block of B and multiplies all strips of A with it.
    fn block(&self, t: &mut Text, strips: (&Value, &Value), packing: &Packing<'_>) {
        let GemmSpec { m, n, k, a, b, .. } = *self.s;
        let packed = Packed { name: "%bp", ty: &packed_type(self.b_rows()), steps: self.steps() };
        let b_type = self.p.flat(b, k, n);
        let panels = (packing.first_panel, packing.last_panel);
        let depth = (packing.k_lo, packing.depth);
        amx_pack::pack_b(t, Side::cols(b, n, k), ("%b", &b_type), panels, depth, packed);
        t.for_each(strips.0, strips.1, 1, |t, strip| {
            if self.pack_a {
                let row = t.mul_const(strip, BLOCK);
                let packed = Packed { name: "%ap", ty: &packed_type(self.a_rows()), steps: self.steps() };
                let a_type = self.p.flat(a, m, k);
                amx_pack::pack_a(t, Side::rows(a, m, k), ("%a", &a_type), &row, depth, packed);
            }
            // Slices outside, panels inside: a slice of A is used for all panels while it is in L1.
            let slices = packing.depth.div_ceil(SLICE);
            let zero = t.index(0);
            self.panels(t, packing, strip, &zero, packing.depth.min(SLICE), (false, slices == 1));
            if slices > 2 {
                let (second, last) = (t.index(SLICE), t.index((slices - 1) * SLICE));
                t.for_each(&second, &last, SLICE, |t, at| self.panels(t, packing, strip, at, SLICE, (true, false)));
            }
            if slices > 1 {
                let at = t.index((slices - 1) * SLICE);
                self.panels(t, packing, strip, &at, packing.depth - (slices - 1) * SLICE, (true, true));
            }
        });
    }

    /// One strip times one slice of all packed panels; (`resume`, `last`) as in [`Slice`].
    fn panels(
        &self,
        t: &mut Text,
        packing: &Packing<'_>,
        strip: &Value,
        at: &Value,
        depth: usize,
        (resume, last): (bool, bool),
    ) {
        let GemmSpec { m, n, .. } = *self.s;
        let row = &t.mul_const(strip, BLOCK);
        t.for_each(packing.first_panel, packing.last_panel, 1, |t, panel| {
            let col = &t.mul_const(panel, BLOCK);
            let slot = &t.sub(panel, packing.first_panel);
            let sums = &self.sums_row(t, packing, strip, slot);
            let slice = |direct| Slice { row, col, slot, sums, at, depth, resume, last, direct };
            if !self.pack_a {
                self.prefetch(t, packing, &slice(false));
            } else if self.s.a.row_stride == 1 {
                self.prefetch_columns(t, packing, &slice(false));
            }
            if m < n && self.s.b.row_stride == 1 && n > self.panels * BLOCK {
                self.prefetch_b(t, packing, strip, &slice(false));
            }
            if !self.direct() || (m.is_multiple_of(BLOCK) && n.is_multiple_of(BLOCK)) {
                self.product(t, packing, &slice(self.direct()));
                return;
            }
            // Only the last strip and the last panel are staged.
            let (rows, cols) = (t.index(m / BLOCK), t.index(n / BLOCK));
            let row_in = t.compare("ult", strip, &rows);
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

    /// One block of C over one slice of k.
    fn product(&self, t: &mut Text, packing: &Packing<'_>, slice: &Slice<'_>) {
        let (name, ty) = if slice.direct { ("%ct", self.c_tile_type()) } else { ("%sums", self.sums_type()) };
        let (row, col) =
            if slice.direct { (slice.row.clone(), slice.col.clone()) } else { (slice.sums.clone(), t.index(0)) };
        let places: Vec<String> = (0..4)
            .map(|i| {
                let (r, c) = (t.add_const(&row, i / 2 * 16), t.add_const(&col, i % 2 * 16));
                format!("{name}[{r}, {c}]")
            })
            .collect();
        let resume = slice.resume
            || (slice.direct && (self.s.accumulate || !packing.first))
            || (self.keeps_sums() && !packing.first);
        let init: Vec<Value> = places
            .iter()
            .map(|place| {
                if resume {
                    t.op(format_args!("amx.tile_load {place} : {ty} into {SUM}"))
                } else {
                    t.op(format_args!("amx.tile_zero : {SUM}"))
                }
            })
            .collect();
        let sums = self.multiply(t, packing, slice, &init);
        let finishes = slice.last && !slice.direct && (packing.last || !self.keeps_sums());
        if finishes && !self.direct() {
            // The block before: vectors move it to C while the tiles are still busy with this one.
            let zero = t.index(0);
            let second = t.compare("ugt", slice.slot, &zero);
            t.when(&second, |t| self.finish_before(t, packing, slice));
        }
        for (place, sum) in places.iter().zip(&sums) {
            t.line(format_args!("amx.tile_store {place}, {sum} : {ty}, {SUM}"));
        }
        if finishes && self.direct() {
            self.finish(t, packing, slice);
        }
    }

    /// Finishes the block to the left of `slice`.
    fn finish_before(&self, t: &mut Text, packing: &Packing<'_>, slice: &Slice<'_>) {
        let block = t.index(BLOCK);
        let (col, sums) = (&t.sub(slice.col, &block), &t.sub(slice.sums, &block));
        self.finish(t, packing, &Slice { col, sums, ..*slice });
    }

    /// Fetches a share of what A will be read next, the next slice or the next strip, while this block is computed.
    fn prefetch(&self, t: &mut Text, packing: &Packing<'_>, slice: &Slice<'_>) {
        let GemmSpec { m, k, a, .. } = *self.s;
        let share = BLOCK.div_ceil(self.panels);
        let (next_row, next_k) = if slice.last {
            (t.add_const(slice.row, BLOCK), packing.k_lo.clone())
        } else {
            let at = t.add_const(slice.at, SLICE);
            (slice.row.clone(), t.add(packing.k_lo, &at))
        };
        let first = t.mul_const(slice.slot, share);
        let a_type = self.p.flat(a, m, k);
        let end = t.index(BLOCK);
        let inside = t.compare("ult", &first, &end);
        t.when(&inside, |t| {
            for r in 0..share {
                let row = t.add_const(&first, r);
                let row = t.add(&row, &next_row);
                let at = t.offset((&row, a.row_stride), (&next_k, 1));
                for line in (0..packing.depth.min(SLICE)).step_by(32) {
                    let at = t.add_const(&at, line);
                    t.line(format_args!("memref.prefetch %a[{at}], read, locality<3>, data : {a_type}"));
                }
            }
        });
    }

    /// The same for a transposed A: 32 columns lie in one cache line per k, each k perhaps in a page of its own, where no
    /// hardware prefetcher looks. Spread over all blocks of the strip they cost nothing; fetched in one go they would.
    fn prefetch_columns(&self, t: &mut Text, packing: &Packing<'_>, slice: &Slice<'_>) {
        let GemmSpec { m, k, a, .. } = *self.s;
        let share = slice.depth.div_ceil(self.panels);
        let first = t.mul_const(slice.slot, share);
        let end = t.index(slice.depth);
        let inside = t.compare("ult", &first, &end);
        let a_type = self.p.flat(a, m, k);
        let next = t.add_const(slice.row, BLOCK);
        t.when(&inside, |t| {
            let first = t.add(&first, slice.at);
            let first = t.add(&first, packing.k_lo);
            for i in 0..share {
                let k = t.add_const(&first, i);
                let at = t.offset((&k, a.col_stride), (&next, 1));
                t.line(format_args!("memref.prefetch %a[{at}], read, locality<2>, data : {a_type}"));
            }
        });
    }

    /// Fetches a share of what will be packed next, the columns of B to the right, while there are few strips to hide it.
    fn prefetch_b(&self, t: &mut Text, packing: &Packing<'_>, strip: &Value, slice: &Slice<'_>) {
        let GemmSpec { m, n, k, b, .. } = *self.s;
        let slices = packing.depth.div_ceil(SLICE);
        let share = BLOCK.div_ceil(m.div_ceil(BLOCK) * slices);
        // Number of this block among all of this packing.
        let at = t.index(SLICE);
        let at = t.op(format_args!("arith.divui {}, {at} : index", slice.at));
        let at = t.offset((strip, slices), (&at, 1));
        let number = t.offset((&at, self.panels), (slice.slot, 1));
        let first = t.mul_const(&number, share);
        let end = t.index(self.panels * BLOCK);
        let inside = t.compare("ult", &first, &end);
        let b_type = self.p.flat(b, k, n);
        t.when(&inside, |t| {
            let col = t.offset((packing.last_panel, BLOCK), (&first, 1));
            for i in 0..share {
                let col = t.add_const(&col, i);
                let at = t.offset((&col, b.col_stride), (packing.k_lo, 1));
                for line in (0..packing.depth).step_by(32) {
                    let at = t.add_const(&at, line);
                    t.line(format_args!("memref.prefetch %b[{at}], read, locality<2>, data : {b_type}"));
                }
            }
        });
    }

    /// Adds the products of a slice to four tiles.
    fn multiply(&self, t: &mut Text, packing: &Packing<'_>, slice: &Slice<'_>, init: &[Value]) -> Vec<Value> {
        let (zero, depth) = (t.index(0), t.index(slice.depth));
        let (b_type, at_type) = (packed_type(self.b_rows()), self.a_tile_type());
        let ap_type = packed_type(self.a_rows());
        let rows: Vec<Value> = (0..2).map(|i| t.add_const(slice.row, i * 16)).collect();
        // STEP rows of packed data per step of k, so a depth is also a row.
        let b_row = t.offset((slice.slot, self.steps() * BLOCK), (slice.at, 1));
        let k_lo = t.add(packing.k_lo, slice.at);
        t.for_carry((&zero, &depth, STEP), init, SUM, |t, k, sums| {
            let b_at = t.add(&b_row, k);
            let b: Vec<Value> = (0..2)
                .map(|h| {
                    let at = t.add_const(&b_at, h * 16);
                    t.op(format_args!("amx.tile_load %bp[{at}, {zero}] : {b_type} into {HALF}"))
                })
                .collect();
            let a: Vec<Value> = (0..2)
                .map(|h| {
                    if self.pack_a {
                        let at = t.add(slice.at, k);
                        let at = t.add_const(&at, h * 16);
                        t.op(format_args!("amx.tile_load %ap[{at}, {zero}] : {ap_type} into {HALF}"))
                    } else {
                        let k = t.add(&k_lo, k);
                        t.op(format_args!("amx.tile_load %at[{}, {k}] : {at_type} into {HALF}", rows[h]))
                    }
                })
                .collect();
            (0..4)
                .map(|i| {
                    let (a, b) = (&a[i / 2], &b[i % 2]);
                    t.op(format_args!("amx.tile_mulf {a}, {b}, {} : {HALF}, {HALF}, {SUM}", sums[i]))
                })
                .collect()
        })
    }

    /// Moves a staged block to C: adds, rounds, and keeps within C.
    fn finish(&self, t: &mut Text, packing: &Packing<'_>, slice: &Slice<'_>) {
        let (row, col) = (slice.row, slice.col);
        let sums_type = self.sums_type();
        let fresh = !self.s.accumulate && (packing.first || self.keeps_sums());
        let GemmSpec { m, n, c, .. } = *self.s;
        let c_type = self.p.flat(c, m, n);
        let zero = t.index(0);
        let mut rows = t.index(BLOCK);
        if !m.is_multiple_of(BLOCK) {
            let all = t.index(m);
            let left = t.sub(&all, row);
            rows = t.min(&rows, &left);
        }
        let mask = (!n.is_multiple_of(BLOCK)).then(|| {
            let all = t.index(n);
            let left = t.sub(&all, col);
            t.op(format_args!("vector.create_mask {left} : vector<{BLOCK}xi1>"))
        });
        let addend = match self.p.residual {
            Some(r) if fresh => Some(("%r", r)),
            _ => (!fresh).then_some(("%c", c)),
        };
        t.for_each(&zero, &rows, 1, |t, i| {
            let wide = format!("vector<{BLOCK}xf32>");
            let at = t.add(slice.sums, i);
            let mut sum = t.op(format_args!("vector.load %sums[{at}, {zero}] : {sums_type}, {wide}"));
            let at_row = t.add(row, i);
            if let Some((name, r)) = addend {
                let at = t.offset((&at_row, r.row_stride), (col, 1));
                let ty = self.p.flat(r, m, n);
                let mut other = amx_pack::load(t, (name, &ty), r.dtype, &at, mask.as_ref());
                if r.dtype == DType::BF16 {
                    other = t.op(format_args!("arith.extf {other} : vector<{BLOCK}xbf16> to {wide}"));
                }
                sum = t.op(format_args!("arith.addf {sum}, {other} : {wide}"));
            }
            let at = t.offset((&at_row, c.row_stride), (col, 1));
            let mut ty = wide.clone();
            if c.dtype == DType::BF16 {
                ty = format!("vector<{BLOCK}xbf16>");
                sum = t.op(format_args!("arith.truncf {sum} : {wide} to {ty}"));
            }
            match &mask {
                None => t.line(format_args!("vector.store {sum}, %c[{at}] : {c_type}, {ty}")),
                Some(mask) => t.line(format_args!(
                    "vector.maskedstore %c[{at}], {mask}, {sum} : {c_type}, vector<{BLOCK}xi1>, {ty}"
                )),
            }
        });
    }
}

/// Packed steps: rows of tiles.
fn packed_type(rows: usize) -> String {
    format!("memref<{rows}x{STEP}xbf16>")
}
