//! Prefetching for AMX: what is packed or loaded next comes into the caches while tiles are busy.

use athanor_ir::plan::GemmSpec;

use super::super::text::{Text, Value};
use super::tiles::{Depth, Slice};
use super::{BLOCK, Packing, Product, SLICE};

impl Product<'_> {
    /// Fetches a share of what follows, beside the block `slice` of a dense product.
    pub(super) fn prefetch(&self, t: &mut Text, packing: &Packing<'_>, strip: &Value, slice: &Slice<'_>) {
        let (Depth::Fixed(packed), Depth::Fixed(depth)) = (packing.depth, slice.depth) else { return };
        let GemmSpec { m, n, a, b, .. } = self.s;
        if !self.pack_a {
            self.prefetch_rows(t, packing, packed, slice);
        } else if a.row_stride == 1 {
            self.prefetch_columns(t, packing, depth, slice);
        }
        if m < n && b.row_stride == 1 && n > self.panels * BLOCK {
            self.prefetch_b(t, packing, packed, strip, slice);
        }
    }

    /// Fetches a share of what A will be read next, the next slice or the next strip, while this block is computed.
    fn prefetch_rows(&self, t: &mut Text, packing: &Packing<'_>, depth: usize, slice: &Slice<'_>) {
        let GemmSpec { a, .. } = self.s;
        let share = BLOCK.div_ceil(self.panels);
        let (next_row, next_k) = if slice.last {
            (t.add_const(slice.row, BLOCK), packing.k_lo.clone())
        } else {
            let at = t.add_const(slice.at, SLICE);
            (slice.row.clone(), t.add(packing.k_lo, &at))
        };
        let first = t.mul_const(slice.slot, share);
        let a_type = &self.types[0];
        let end = t.index(BLOCK);
        let inside = t.compare("ult", &first, &end);
        t.when(&inside, |t| {
            for r in 0..share {
                let row = t.add_const(&first, r);
                let row = t.add(&row, &next_row);
                let at = t.offset((&row, a.row_stride), (&next_k, 1));
                for line in (0..depth.min(SLICE)).step_by(32) {
                    let at = t.add_const(&at, line);
                    t.line(format_args!("memref.prefetch %a[{at}], read, locality<3>, data : {a_type}"));
                }
            }
        });
    }

    /// The same for a transposed A: 32 columns lie in one cache line per k, each k perhaps in a page of its own, where no
    /// hardware prefetcher looks. Spread over all blocks of the strip they cost nothing; fetched in one go they would.
    fn prefetch_columns(&self, t: &mut Text, packing: &Packing<'_>, depth: usize, slice: &Slice<'_>) {
        let GemmSpec { a, .. } = self.s;
        let share = depth.div_ceil(self.panels);
        let first = t.mul_const(slice.slot, share);
        let end = t.index(depth);
        let inside = t.compare("ult", &first, &end);
        let a_type = &self.types[0];
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
    fn prefetch_b(&self, t: &mut Text, packing: &Packing<'_>, depth: usize, strip: &Value, slice: &Slice<'_>) {
        let GemmSpec { m, b, .. } = self.s;
        let slices = depth.div_ceil(SLICE);
        let share = BLOCK.div_ceil(m.div_ceil(BLOCK) * slices);
        // Number of this block among all of this packing.
        let at = t.index(SLICE);
        let at = t.op(format_args!("arith.divui {}, {at} : index", slice.at));
        let at = t.offset((strip, slices), (&at, 1));
        let number = t.offset((&at, self.panels), (slice.slot, 1));
        let first = t.mul_const(&number, share);
        let end = t.index(self.panels * BLOCK);
        let inside = t.compare("ult", &first, &end);
        let b_type = &self.types[1];
        t.when(&inside, |t| {
            let col = t.offset((packing.last_panel, BLOCK), (&first, 1));
            for i in 0..share {
                let col = t.add_const(&col, i);
                let at = t.offset((&col, b.col_stride), (packing.k_lo, 1));
                for line in (0..depth).step_by(32) {
                    let at = t.add_const(&at, line);
                    t.line(format_args!("memref.prefetch %b[{at}], read, locality<2>, data : {b_type}"));
                }
            }
        });
    }
}
