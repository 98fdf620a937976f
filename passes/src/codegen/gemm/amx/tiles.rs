//! One block of C on tiles: the product, and the way of its sums to C.

use athanor_ir::DType;
use athanor_ir::plan::GemmSpec;

use super::super::shift::shifted;
use super::super::text::{Text, Value};
use super::{BLOCK, Packing, Product, STEP, pack, packed_type};

const SUM: &str = "!amx.tile<16x16xf32>";
const HALF: &str = "!amx.tile<16x32xbf16>";

/// Length of a piece of k.
#[derive(Clone, Copy)]
pub enum Depth<'a> {
    /// This much.
    Fixed(usize),
    /// Known at run time.
    Counted(&'a Value),
}

impl Depth<'_> {
    /// As a value.
    pub fn value(self, t: &mut Text) -> Value {
        match self {
            Self::Fixed(depth) => t.index(depth),
            Self::Counted(depth) => depth.clone(),
        }
    }
}

/// A block of C over a slice of k.
#[derive(Clone, Copy)]
pub struct Slice<'a> {
    /// Its row of A.
    pub row: &'a Value,
    /// Its column.
    pub col: &'a Value,
    /// The panel's place among the packed ones.
    pub slot: &'a Value,
    /// Row of the staged sums.
    pub sums: &'a Value,
    /// Start within the packed block.
    pub at: &'a Value,
    /// Length.
    pub depth: Depth<'a>,
    /// Tiles start from what earlier slices left.
    pub resume: bool,
    /// No slice follows in this packed block.
    pub last: bool,
    /// Sums are kept in C itself.
    pub direct: bool,
}

impl Product<'_> {
    /// One block of C over one slice of k.
    pub(super) fn product(&self, t: &mut Text, packing: &Packing<'_>, slice: &Slice<'_>) {
        let (name, ty) = if slice.direct { ("%ct", self.c_tile_type()) } else { ("%sums", self.sums_type()) };
        let (row, col) = if slice.direct {
            (Self::c_row(t, packing, slice.row), slice.col.clone())
        } else {
            (slice.sums.clone(), t.index(0))
        };
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
    pub(super) fn finish_before(&self, t: &mut Text, packing: &Packing<'_>, slice: &Slice<'_>) {
        let block = t.index(BLOCK);
        let (col, sums) = (&t.sub(slice.col, &block), &t.sub(slice.sums, &block));
        self.finish(t, packing, &Slice { col, sums, ..*slice });
    }

    /// The row of C that belongs to `row` of A.
    fn c_row(t: &mut Text, packing: &Packing<'_>, row: &Value) -> Value {
        shifted(t, row, packing.group.and_then(|g| g.shift.c_row.as_ref()))
    }

    /// Adds the products of a slice to four tiles.
    fn multiply(&self, t: &mut Text, packing: &Packing<'_>, slice: &Slice<'_>, init: &[Value]) -> Vec<Value> {
        let (zero, depth) = (t.index(0), slice.depth.value(t));
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
        let GemmSpec { m, n, c, .. } = self.s;
        let c_type = &self.types[2];
        let zero = t.index(0);
        let mut rows = t.index(BLOCK);
        if let Some((_, end)) = packing.group.and_then(|g| g.rows.as_ref()) {
            let left = t.sub(end, row);
            rows = t.min(&rows, &left);
        } else if !m.is_multiple_of(BLOCK) {
            let all = t.index(m);
            let left = t.sub(&all, row);
            rows = t.min(&rows, &left);
        }
        let mask = (!n.is_multiple_of(BLOCK)).then(|| {
            let all = t.index(n);
            let left = t.sub(&all, col);
            t.op(format_args!("vector.create_mask {left} : vector<{BLOCK}xi1>"))
        });
        let addend = match &self.residual {
            Some((r, ty)) if fresh => Some(("%r", *r, ty)),
            _ => (!fresh).then_some(("%c", c, c_type)),
        };
        t.for_each(&zero, &rows, 1, |t, i| {
            let wide = format!("vector<{BLOCK}xf32>");
            let at = t.add(slice.sums, i);
            let mut sum = t.op(format_args!("vector.load %sums[{at}, {zero}] : {sums_type}, {wide}"));
            let at_row = t.add(row, i);
            let at_row = Self::c_row(t, packing, &at_row);
            if let Some((name, r, ty)) = addend {
                let at = t.offset((&at_row, r.row_stride), (col, 1));
                let mut other = pack::load(t, (name, ty), r.dtype, &at, mask.as_ref());
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
