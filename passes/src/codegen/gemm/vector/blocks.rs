//! The loops around the register tiles: blocks of columns, of k and of rows, and their packing.

use super::super::MAX_WORKERS;
use super::super::pack::{Panels, Side, pack_panel, pack_rows};
use super::super::shift::{Shift, shifted};
use super::super::text::{Text, Value};
use super::tile::{Blocks, Place, Rows, Tile};
use super::{Blocking, Order};

/// A product on vector registers: its tiles and operands.
#[derive(Debug)]
pub struct Product<'a> {
    /// The register tiles.
    pub tile: Tile<'a>,
    /// A by rows, and its type.
    pub a: (Side, String),
    /// B by columns, and its type.
    pub b: (Side, String),
    /// Rows of the result, where all of them are computed.
    pub m: Option<usize>,
    /// Columns of the result.
    pub n: usize,
}

/// The part of a product that one run of the loops computes.
#[derive(Debug)]
pub struct Region {
    /// Strips of A.
    pub strips: (Value, Value),
    /// First row of strip 0 and end of the rows, where rows are counted.
    pub rows: Option<(Value, Value)>,
    /// Panels of B.
    pub panels: (Value, Value),
    /// k of A.
    pub k: (Value, Value),
    /// Where the expert lies, in a grouped product.
    pub shift: Shift,
}

/// A block of the loops around the register tiles.
struct Block {
    /// Packed panels `first_panel..last_panel`.
    first_panel: Value,
    last_panel: Value,
    /// k from `k_lo` to `k_hi`.
    k_lo: Value,
    k_hi: Value,
    depth: Value,
    /// This is the first block of k, and the last.
    first: Value,
    last: Option<Value>,
}

/// Runs `body` for whole items `lo..hi` of `extent/size`, and apart for the last one if it is not whole.
fn whole_and_edge(
    t: &mut Text,
    (lo, hi): (&Value, &Value),
    (extent, size): (usize, usize),
    mut body: impl FnMut(&mut Text, &Value, Option<usize>),
) {
    let whole = t.index(extent / size);
    let end = t.min(hi, &whole);
    if extent >= size {
        t.for_each(lo, &end, 1, |t, item| body(t, item, None));
    }
    if !extent.is_multiple_of(size) {
        // The edge belongs to this range only if the range reaches it.
        let here = t.compare("ugt", hi, &whole);
        t.when(&here, |t| body(t, &whole, Some(extent % size)));
    }
}

impl Product<'_> {
    fn blocking(&self) -> &Blocking {
        &self.tile.blocking
    }

    /// Writes the functions of the register tiles.
    pub fn tiles(&self, t: &mut Text) {
        let Blocking { mr, nr, .. } = *self.blocking();
        let whole = |m: usize| (m >= mr).then_some(Rows::Fixed(mr));
        let edge = |m: usize| (!m.is_multiple_of(mr)).then_some(Rows::Fixed(m % mr));
        let rows = self.m.map_or([Some(Rows::Counted), None], |m| [whole(m), edge(m)]);
        for rows in rows.into_iter().flatten() {
            if self.n >= nr {
                self.tile.function(t, rows, nr);
            }
            if !self.n.is_multiple_of(nr) {
                self.tile.function(t, rows, self.n % nr);
            }
        }
    }

    /// Cuts this worker's scratch into packed B, packed A and kept sums.
    pub fn scratch(&self, t: &mut Text) {
        let blocking = self.blocking();
        let scratch = blocking.scratch_bytes();
        let start = t.mul_const(&Value::named("worker"), scratch);
        let scratch_type = format!("memref<{}xi8>", scratch * MAX_WORKERS);
        t.line(format_args!("%bp = memref.view %scratch[{start}][] : {scratch_type} to {}", self.tile.b));
        if blocking.pack_a {
            let start = t.add_const(&start, blocking.a_at());
            t.line(format_args!("%ap = memref.view %scratch[{start}][] : {scratch_type} to {}", self.tile.a.0));
        }
        if let Blocks::Kept(ty) = &self.tile.blocks {
            let start = t.add_const(&start, blocking.sums_at());
            t.line(format_args!("%sums = memref.view %scratch[{start}][] : {scratch_type} to {ty}"));
        }
    }

    /// Computes a region.
    pub fn region(&self, t: &mut Text, region: &Region) {
        let Blocking { panels, kept, .. } = *self.blocking();
        t.for_each(&region.panels.0, &region.panels.1, panels, |t, first_panel| {
            let last_panel = t.add_const(first_panel, panels);
            let last_panel = t.min(&last_panel, &region.panels.1);
            let panels = (first_panel, &last_panel);
            if kept > 0 {
                t.for_each(&region.strips.0, &region.strips.1, kept, |t, first| {
                    let last = t.add_const(first, kept);
                    let last = t.min(&last, &region.strips.1);
                    self.blocks_of_k(t, region, panels, (first, &last));
                });
            } else {
                self.blocks_of_k(t, region, panels, (&region.strips.0, &region.strips.1));
            }
        });
    }

    fn blocks_of_k(&self, t: &mut Text, region: &Region, panels: (&Value, &Value), strips: (&Value, &Value)) {
        let (k_first, k_end) = (&region.k.0, &region.k.1);
        let kc = self.blocking().kc;
        t.for_each(k_first, k_end, kc, |t, k_lo| {
            let k_hi = t.add_const(k_lo, kc);
            let k_hi = t.min(&k_hi, k_end);
            let block = Block {
                first_panel: panels.0.clone(),
                last_panel: panels.1.clone(),
                depth: t.sub(&k_hi, k_lo),
                first: t.compare("eq", k_lo, k_first),
                last: matches!(self.tile.blocks, Blocks::Kept(_)).then(|| t.compare("eq", &k_hi, k_end)),
                k_lo: k_lo.clone(),
                k_hi,
            };
            self.pack_b(t, region, &block);
            if self.blocking().order == Order::StripByStrip {
                self.strip_by_strip(t, strips, &block);
            } else {
                self.panel_by_panel(t, region, strips, &block);
            }
        });
    }

    fn pack_b(&self, t: &mut Text, region: &Region, block: &Block) {
        let Blocking { lanes, nr, .. } = *self.blocking();
        let (side, b_type) = &self.b;
        let k = [&block.k_lo, &block.k_hi].map(|k| shifted(t, k, region.shift.b_k.as_ref()));
        whole_and_edge(t, (&block.first_panel, &block.last_panel), (self.n, nr), |t, panel, edge| {
            let first = t.mul_const(panel, nr);
            let first = shifted(t, &first, region.shift.b_column.as_ref());
            let index = t.sub(panel, &block.first_panel);
            let target = t.mul_const(&index, self.blocking().depth() * nr);
            let panels = Panels { memref: ("%bp", &self.tile.b), width: nr };
            pack_panel(t, lanes, *side, ("%b", b_type), (&first, edge.is_none()), (&k[0], &k[1]), panels, &target);
        });
    }

    /// Packs the strip of A from row `row` to element `target`.
    fn pack_a(&self, t: &mut Text, row: &Value, block: &Block, target: &Value) {
        let Blocking { lanes, mr, strip, .. } = *self.blocking();
        let (side, a_type) = &self.a;
        let (source, k) = (("%a", a_type.as_str()), (&block.k_lo, &block.k_hi));
        if self.rows_in_order() {
            pack_rows(t, lanes, *side, source, (row, mr), k, ("%ap", &self.tile.a.0, self.blocking().depth()), target);
            return;
        }
        let panels = Panels { memref: ("%ap", &self.tile.a.0), width: strip };
        let pack = |t: &mut Text, full: bool| {
            pack_panel(t, lanes, *side, source, (row, full), k, panels, target);
        };
        // Vectors are wider than the tile, so near the end they would reach beyond A.
        let reach = strip.next_multiple_of(lanes);
        if side.across == 1 && side.extent >= reach {
            let inside = t.index(side.extent - reach + 1);
            let inside = t.compare("ult", row, &inside);
            t.choose(&inside, |t| pack(t, true), |t| pack(t, false));
        } else {
            pack(t, false);
        }
    }

    /// Packed strips of A hold row after row, not k after k: they are copied from rows of A.
    fn rows_in_order(&self) -> bool {
        self.blocking().order == Order::PanelByPanel && self.a.0.along == 1
    }

    /// A strip of A stays in the L1 cache, packed or in place, while all panels pass.
    fn strip_by_strip(&self, t: &mut Text, strips: (&Value, &Value), block: &Block) {
        let Blocking { mr, nr, .. } = *self.blocking();
        let Some(m) = self.m else { return };
        whole_and_edge(t, strips, (m, mr), |t, index, edge| {
            let row = t.mul_const(index, mr);
            let (a, a_offset) = if self.blocking().pack_a {
                let zero = t.index(0);
                self.pack_a(t, &row, block, &zero);
                ("%ap", zero)
            } else {
                let base = t.mul_const(&row, self.a.0.across);
                ("%a", t.offset((&base, 1), (&block.k_lo, self.a.0.along)))
            };
            let rows = edge.unwrap_or(mr);
            whole_and_edge(t, (&block.first_panel, &block.last_panel), (self.n, nr), |t, panel, edge| {
                let inner = t.sub(panel, &block.first_panel);
                let b_offset = t.mul_const(&inner, self.blocking().depth() * nr);
                let col = t.mul_const(panel, nr);
                let place = Place {
                    a: (a, &a_offset),
                    b: &b_offset,
                    row: &row,
                    col: &col,
                    count: None,
                    sums: None,
                    depth: &block.depth,
                    first: &block.first,
                    last: None,
                };
                self.tile.call(t, Rows::Fixed(rows), edge.is_some(), &place);
            });
        });
    }

    /// A panel of B stays in the L1 cache while a block of strips, packed into L2, passes.
    fn panel_by_panel(&self, t: &mut Text, region: &Region, chunk: (&Value, &Value), block: &Block) {
        let Blocking { mr, nr, strips, .. } = *self.blocking();
        let per_strip = self.blocking().depth() * self.blocking().strip;
        let row_of = |t: &mut Text, strip: &Value| {
            let row = t.mul_const(strip, mr);
            shifted(t, &row, region.rows.as_ref().map(|r| &r.0))
        };
        t.for_each(chunk.0, chunk.1, strips, |t, first_strip| {
            let last_strip = t.add_const(first_strip, strips);
            let last_strip = t.min(&last_strip, chunk.1);
            t.for_each(first_strip, &last_strip, 1, |t, strip| {
                let row = row_of(t, strip);
                let slot = t.sub(strip, first_strip);
                let target = t.mul_const(&slot, per_strip);
                self.pack_a(t, &row, block, &target);
            });
            whole_and_edge(t, (&block.first_panel, &block.last_panel), (self.n, nr), |t, panel, edge| {
                let inner = t.sub(panel, &block.first_panel);
                let b = t.mul_const(&inner, self.blocking().depth() * nr);
                let col = t.mul_const(panel, nr);
                let tile = |t: &mut Text, strip: &Value, height: Rows| {
                    let row = row_of(t, strip);
                    let slot = t.sub(strip, first_strip);
                    let a = t.mul_const(&slot, per_strip);
                    let count = region.rows.as_ref().map(|(_, end)| {
                        let left = t.sub(end, &row);
                        let whole = t.index(mr);
                        t.min(&left, &whole)
                    });
                    let sums = block.last.as_ref().map(|_| {
                        let slot = t.sub(strip, chunk.0);
                        let slot = t.offset((&slot, self.blocking().panels), (&inner, 1));
                        t.mul_const(&slot, mr * nr)
                    });
                    let place = Place {
                        a: ("%ap", &a),
                        b: &b,
                        row: &shifted(t, &row, region.shift.c_row.as_ref()),
                        col: &col,
                        count: count.as_ref(),
                        sums: sums.as_ref(),
                        depth: &block.depth,
                        first: &block.first,
                        last: block.last.as_ref(),
                    };
                    self.tile.call(t, height, edge.is_some(), &place);
                };
                match self.m {
                    None => t.for_each(first_strip, &last_strip, 1, |t, strip| tile(t, strip, Rows::Counted)),
                    Some(m) => whole_and_edge(t, (first_strip, &last_strip), (m, mr), |t, strip, edge| {
                        tile(t, strip, Rows::Fixed(edge.unwrap_or(mr)));
                    }),
                }
            });
        });
    }
}
