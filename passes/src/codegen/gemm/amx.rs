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
/// Depth of a block of k when sums can be kept in C between blocks.
const KC: usize = 1024;

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
    // A bf16 result is rounded once, so its sums must not leave the tiles.
    let kc = if spec.c.dtype == DType::BF16 { spec.k } else { spec.k.min(KC) };
    let panels = (B_BYTES / (kc * BLOCK * 2)).clamp(1, spec.n.div_ceil(BLOCK));
    let whole = spec.m.is_multiple_of(BLOCK) && spec.k.is_multiple_of(STEP);
    let writer = Writer { p: problem, s: spec, kc, panels, pack_a: !(whole && spec.a.col_stride == 1) };
    let by_rows = spec.m >= spec.n;
    let grid = if by_rows { spec.m } else { spec.n }.div_ceil(BLOCK);
    let mut t = Text::default();
    writer.kernel(&mut t, by_rows);
    let text = KernelText { symbol: problem.symbol.clone(), mlir: t.finish(), buffers: problem.buffers() };
    GeneratedGemm { text, grid, scratch_bytes_per_worker: writer.scratch_bytes() }
}

/// What surrounds a strip of blocks.
struct Around<'a> {
    first_panel: &'a Value,
    last_panel: &'a Value,
    k_lo: &'a Value,
    k_hi: &'a Value,
    /// Sums start from nothing; otherwise from what C holds.
    fresh: bool,
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

    /// Packed B, packed A, and one block of sums.
    fn scratch_bytes(&self) -> usize {
        ((self.b_rows() + self.a_rows()) * STEP * 2 + BLOCK * BLOCK * 4).next_multiple_of(4096)
    }

    fn kernel(&self, t: &mut Text, by_rows: bool) {
        let GemmSpec { m, n, k, a, .. } = *self.s;
        let scratch = self.scratch_bytes();
        t.line(format_args!("func.func @{}({}) {{", self.p.symbol, self.p.params(scratch)));
        let start = t.mul_const(&Value::named("worker"), scratch);
        let scratch_type = format!("memref<{}xi8>", scratch * super::MAX_WORKERS);
        let mut view = |t: &mut Text, name: &str, at: usize, ty: &str| {
            let at = t.add_const(&start, at);
            t.line(format_args!("%{name} = memref.view %scratch[{at}][] : {scratch_type} to {ty}"));
        };
        let b_bytes = self.b_rows() * STEP * 2;
        view(t, "bp", 0, &self.packed_type(self.b_rows()));
        if self.pack_a {
            view(t, "ap", b_bytes, &self.packed_type(self.a_rows()));
        } else {
            t.line(format_args!(
                "%at = memref.reinterpret_cast %a to offset: [0], sizes: [{m}, {k}], strides: [{}, 1] : {} to {}",
                a.row_stride,
                self.p.flat(a, m, k),
                self.a_tile_type()
            ));
        }
        view(t, "sums", b_bytes + self.a_rows() * STEP * 2, SUMS);
        if self.direct() {
            t.line(format_args!(
                "%ct = memref.reinterpret_cast %c to offset: [0], sizes: [{m}, {n}], strides: [{}, 1] : {} to {}",
                self.s.c.row_stride,
                self.p.flat(self.s.c, m, n),
                self.c_tile_type()
            ));
        }

        let (lo, hi) = (Value::named("lo"), Value::named("hi"));
        let (zero, k_end) = (t.index(0), t.index(k));
        let all = t.index(if by_rows { n } else { m }.div_ceil(BLOCK));
        let (strips, columns) = if by_rows { ((lo, hi), (zero, all)) } else { ((zero, all), (lo, hi)) };
        t.for_each(&columns.0, &columns.1, self.panels, |t, first_panel| {
            let last_panel = t.add_const(first_panel, self.panels);
            let last_panel = &t.min(&last_panel, &columns.1);
            let k_lo = &t.index(0);
            let k_hi = &t.index(self.kc);
            let first = Around { first_panel, last_panel, k_lo, k_hi, fresh: !self.s.accumulate };
            self.block(t, &strips, &first);
            if self.kc < k {
                t.for_each(k_hi, &k_end, self.kc, |t, k_lo| {
                    let k_hi = t.add_const(k_lo, self.kc);
                    let k_hi = &t.min(&k_hi, &k_end);
                    self.block(t, &strips, &Around { k_lo, k_hi, fresh: false, ..first });
                });
            }
        });
        t.line("return\n}");
    }

    fn packed_type(&self, rows: usize) -> String {
        format!("memref<{rows}x{STEP}xbf16>")
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
    fn block(&self, t: &mut Text, strips: &(Value, Value), around: &Around<'_>) {
        let GemmSpec { m, n, k, a, b, .. } = *self.s;
        let whole_n = n.is_multiple_of(BLOCK);
        let packed = Packed { name: "%bp", ty: &self.packed_type(self.b_rows()), steps: self.steps() };
        let b_type = self.p.flat(b, k, n);
        let range = (around.first_panel, around.last_panel);
        amx_pack::pack_b(t, Side::cols(b, n, k), ("%b", &b_type), range, (around.k_lo, around.k_hi), packed);

        t.for_each(&strips.0, &strips.1, 1, |t, strip| {
            let row = &t.mul_const(strip, BLOCK);
            if self.pack_a {
                let packed = Packed { name: "%ap", ty: &self.packed_type(self.a_rows()), steps: self.steps() };
                let a_type = self.p.flat(a, m, k);
                amx_pack::pack_a(t, Side::rows(a, m, k), ("%a", &a_type), row, (around.k_lo, around.k_hi), packed);
            }
            t.for_each(around.first_panel, around.last_panel, 1, |t, panel| {
                let col = &t.mul_const(panel, BLOCK);
                let slot = t.sub(panel, around.first_panel);
                let b_row = &t.mul_const(&slot, self.steps() * BLOCK);
                let inside = |t: &mut Text| self.product(t, around, (row, col), b_row, self.direct());
                let staged = |t: &mut Text| self.product(t, around, (row, col), b_row, false);
                let whole_m = m.is_multiple_of(BLOCK);
                if !self.direct() || (whole_m && whole_n) {
                    inside(t);
                } else {
                    // Only the last strip and the last panel are staged.
                    let (rows, cols) = (t.index(m / BLOCK), t.index(n / BLOCK));
                    let row_in = t.compare("ult", strip, &rows);
                    let col_in = t.compare("ult", panel, &cols);
                    let both = t.op(format_args!("arith.andi {row_in}, {col_in} : i1"));
                    t.choose(&both, &mut (), |t, ()| inside(t), |t, ()| staged(t));
                }
            });
        });
    }

    /// One block of C over one block of k.
    fn product(&self, t: &mut Text, around: &Around<'_>, (row, col): (&Value, &Value), b_row: &Value, direct: bool) {
        let c_tiles: Vec<(Value, Value)> =
            (0..4).map(|i| (t.add_const(row, i / 2 * 16), t.add_const(col, i % 2 * 16))).collect();
        let c_type = self.c_tile_type();
        let init: Vec<Value> = c_tiles
            .iter()
            .map(|(r, c)| {
                if direct && !around.fresh {
                    t.op(format_args!("amx.tile_load %ct[{r}, {c}] : {c_type} into {SUM}"))
                } else {
                    t.op(format_args!("amx.tile_zero : {SUM}"))
                }
            })
            .collect();
        let zero = t.index(0);
        let (b_type, at_type) = (self.packed_type(self.b_rows()), self.a_tile_type());
        let ap_type = self.packed_type(self.a_rows());
        let rows: Vec<Value> = (0..2).map(|i| t.add_const(row, i * 16)).collect();
        let depth = t.sub(around.k_hi, around.k_lo);
        let sums = t.for_carry((&zero, &depth, STEP), &init, SUM, |t, k, sums| {
            // STEP rows of packed data per step of k, so k is also the row.
            let b_at = t.add(b_row, k);
            let b: Vec<Value> = (0..2)
                .map(|h| {
                    let at = t.add_const(&b_at, h * 16);
                    t.op(format_args!("amx.tile_load %bp[{at}, {zero}] : {b_type} into {HALF}"))
                })
                .collect();
            let a: Vec<Value> = (0..2)
                .map(|h| {
                    if self.pack_a {
                        let at = t.add_const(k, h * 16);
                        t.op(format_args!("amx.tile_load %ap[{at}, {zero}] : {ap_type} into {HALF}"))
                    } else {
                        let k = t.add(around.k_lo, k);
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
        });
        if direct {
            for ((r, c), sum) in c_tiles.iter().zip(&sums) {
                t.line(format_args!("amx.tile_store %ct[{r}, {c}], {sum} : {c_type}, {SUM}"));
            }
            return;
        }
        for (i, sum) in sums.iter().enumerate() {
            let (r, c) = (t.index(i / 2 * 16), t.index(i % 2 * 16));
            t.line(format_args!("amx.tile_store %sums[{r}, {c}], {sum} : {SUMS}, {SUM}"));
        }
        self.finish(t, around, row, col);
    }

    /// Moves a staged block to C: adds, rounds, and keeps within C.
    fn finish(&self, t: &mut Text, around: &Around<'_>, row: &Value, col: &Value) {
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
            Some(r) if around.fresh => Some(("%r", r)),
            _ => (!around.fresh).then_some(("%c", c)),
        };
        t.for_each(&zero, &rows, 1, |t, i| {
            let wide = format!("vector<{BLOCK}xf32>");
            let mut sum = t.op(format_args!("vector.load %sums[{i}, {zero}] : {SUMS}, {wide}"));
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

/// A staged block.
const SUMS: &str = "memref<32x32xf32>";
