//! Packing for AMX: tiles of 16 rows × 32 bf16, contiguous, zero beyond the end of k.
//!
//! A step of 32 k takes 32 rows of packed data: for A two tiles of 16 rows of A each, for B two tiles of 16 columns each,
//! a row holding one pair of k of all 16 columns.

use athanor_ir::DType;

use super::super::pack::{Side, transpose};
use super::super::text::{Text, Value};
use super::{BLOCK, STEP};

/// Packed panels of `steps` steps each.
#[derive(Clone, Copy)]
pub struct Packed<'a> {
    /// The memref, rows × 32 bf16.
    pub name: &'a str,
    /// Its type.
    pub ty: &'a str,
    /// Steps of k in a panel.
    pub steps: usize,
}

const ROW: &str = "vector<32xbf16>";

/// The part of an operand that belongs to an expert of a grouped product.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    /// What its columns are further than the panels say.
    pub column: Option<&'a Value>,
    /// End of its k, where that is known only at run time or lies within the operand.
    pub end: Option<&'a Value>,
}

/// 32 elements from flat memory; those not in `mask` are zero and not read.
pub fn load(t: &mut Text, (name, ty): (&str, &str), dtype: DType, at: &Value, mask: Option<&Value>) -> Value {
    let vector = format!("vector<32x{}>", dtype.mlir());
    match mask {
        None => t.op(format_args!("vector.load {name}[{at}] : {ty}, {vector}")),
        Some(mask) => {
            let zero = t.op(format_args!("arith.constant dense<0.0> : {vector}"));
            t.op(format_args!(
                "vector.maskedload {name}[{at}], {mask}, {zero} : {ty}, vector<32xi1>, {vector} into {vector}"
            ))
        }
    }
}

impl Packed<'_> {
    /// Stores one row of a tile.
    fn store(&self, t: &mut Text, row: &Value, vector: &Value) {
        let zero = t.index(0);
        t.line(format_args!("vector.store {vector}, {}[{row}, {zero}] : {}, {ROW}", self.name, self.ty));
    }
}

/// A mask of as many lanes as there are from `first` to `extent`, or nothing if there are always enough.
fn mask(t: &mut Text, first: &Value, extent: usize, size: usize) -> Option<Value> {
    (!extent.is_multiple_of(size)).then(|| {
        let extent = t.index(extent);
        let left = t.sub(&extent, first);
        t.op(format_args!("vector.create_mask {left} : vector<32xi1>"))
    })
}

/// Packs columns `panels.0 · 32 .. panels.1 · 32` of B, k from `k_lo` to `k_hi`.
pub fn pack_b(
    t: &mut Text,
    (side, part): (Side, Option<Part<'_>>),
    source: (&str, &str),
    panels: (&Value, &Value),
    (k_lo, k_hi): (&Value, &Value),
    packed: Packed<'_>,
) {
    // Steps outside, panels inside: rows of B are then read along their length.
    t.for_each(k_lo, k_hi, STEP, |t, k| {
        t.for_each(panels.0, panels.1, 1, |t, panel| {
            let mut col = t.mul_const(panel, BLOCK);
            if let Some(column) = part.and_then(|p| p.column) {
                col = t.add(&col, column);
            }
            let slot = t.sub(panel, panels.0);
            let slot = t.mul_const(&slot, packed.steps * BLOCK);
            let step = t.sub(k, k_lo);
            let target = t.add(&slot, &step);
            if side.across == 1 {
                let rows = depth_rows(t, (side, part), source, &col, k);
                for (p, [low, high]) in interleaved(t, &rows).iter().enumerate() {
                    let at = t.add_const(&target, p);
                    packed.store(t, &at, low);
                    let at = t.add_const(&target, p + 16);
                    packed.store(t, &at, high);
                }
            } else if side.along == 1 {
                for h in 0..2 {
                    let columns = across_rows(t, (side, part), source, (&col, h * 16), k);
                    for (p, pairs) in transpose_pairs(t, &columns).iter().enumerate() {
                        let at = t.add_const(&target, h * 16 + p);
                        packed.store(t, &at, pairs);
                    }
                }
            } else {
                gather(t, side, source, (&col, k), packed, &target, true);
            }
        });
    });
}

/// Packs rows `row .. row + 32` of A, k from `k_lo` to `k_hi`.
pub fn pack_a(
    t: &mut Text,
    (side, part): (Side, Option<Part<'_>>),
    source: (&str, &str),
    row: &Value,
    (k_lo, k_hi): (&Value, &Value),
    packed: Packed<'_>,
) {
    t.for_each(k_lo, k_hi, STEP, |t, k| {
        let target = t.sub(k, k_lo);
        if side.across == 1 {
            let rows = depth_rows(t, (side, part), source, row, k);
            for h in 0..2 {
                let half = interleaved_in_blocks(t, &rows, h * 4);
                for (i, row) in transpose_pairs(t, &half).iter().enumerate() {
                    // Lane i came from column 4·h + i of its 8 columns.
                    let at = t.add_const(&target, i / 4 * 8 + h * 4 + i % 4);
                    packed.store(t, &at, row);
                }
            }
        } else if side.along == 1 {
            for h in 0..2 {
                for (i, vector) in across_rows(t, (side, part), source, (row, h * 16), k).iter().enumerate() {
                    let at = t.add_const(&target, h * 16 + i);
                    packed.store(t, &at, vector);
                }
            }
        } else {
            gather(t, side, source, (row, k), packed, &target, false);
        }
    });
}

/// Rows k .. k + 32 of an operand that is contiguous across: 32 neighbours from `first` each, zero beyond the end of k.
fn depth_rows(
    t: &mut Text,
    (side, part): (Side, Option<Part<'_>>),
    source: (&str, &str),
    first: &Value,
    k: &Value,
) -> Vec<Value> {
    let across = mask(t, first, side.extent, BLOCK);
    let depth = match part.and_then(|p| p.end) {
        Some(end) => Some(end.clone()),
        None => (!side.depth.is_multiple_of(STEP)).then(|| t.index(side.depth)),
    };
    (0..STEP)
        .map(|i| {
            let k = t.add_const(k, i);
            let at = t.offset((&k, side.along), (first, 1));
            let Some(depth) = &depth else { return load(t, source, DType::BF16, &at, across.as_ref()) };
            // Beyond the end of k nothing may be read: the mask is empty there.
            let inside = t.compare("ult", &k, depth);
            let count = t.index(BLOCK);
            let none = t.index(0);
            let count = t.op(format_args!("arith.select {inside}, {count}, {none} : index"));
            let mut lanes = t.op(format_args!("vector.create_mask {count} : vector<32xi1>"));
            if let Some(across) = &across {
                lanes = t.op(format_args!("arith.andi {lanes}, {across} : vector<32xi1>"));
            }
            load(t, source, DType::BF16, &at, Some(&lanes))
        })
        .collect()
}

/// 16 neighbours across, from `first + offset`, of an operand that is contiguous along k: 32 k each.
fn across_rows(
    t: &mut Text,
    (side, part): (Side, Option<Part<'_>>),
    source: (&str, &str),
    (first, offset): (&Value, usize),
    k: &Value,
) -> Vec<Value> {
    let last = t.index(side.extent - 1);
    let depth = match part.and_then(|p| p.end) {
        Some(end) => {
            let left = t.sub(end, k);
            Some(t.op(format_args!("vector.create_mask {left} : vector<32xi1>")))
        }
        None => mask(t, k, side.depth, STEP),
    };
    (0..16)
        .map(|i| {
            let mut lane = t.add_const(first, offset + i);
            if part.is_some() || !side.extent.is_multiple_of(BLOCK) {
                // What is beyond the operand never reaches C: any row will do.
                lane = t.min(&lane, &last);
            }
            let at = t.offset((&lane, side.across), (k, 1));
            load(t, source, DType::BF16, &at, depth.as_ref())
        })
        .collect()
}

/// Per pair of rows: their first 16 elements interleaved, and their last 16.
fn interleaved(t: &mut Text, rows: &[Value]) -> Vec<[Value; 2]> {
    rows.chunks_exact(2)
        .map(|pair| {
            [0, 16].map(|from| {
                let order: Vec<String> =
                    (from..from + 16).flat_map(|l| [l.to_string(), (l + 32).to_string()]).collect();
                t.op(format_args!("vector.shuffle {}, {} [{}] : {ROW}, {ROW}", pair[0], pair[1], order.join(", ")))
            })
        })
        .collect()
}

/// Per pair of rows: elements `from .. from + 4` of every 8, interleaved; one instruction, unlike [`interleaved`].
fn interleaved_in_blocks(t: &mut Text, rows: &[Value], from: usize) -> Vec<Value> {
    let order: Vec<String> = (0..4)
        .flat_map(|block| (from..from + 4).map(move |l| block * 8 + l))
        .flat_map(|l| [l.to_string(), (l + 32).to_string()])
        .collect();
    let order = order.join(", ");
    rows.chunks_exact(2)
        .map(|pair| t.op(format_args!("vector.shuffle {}, {} [{order}] : {ROW}, {ROW}", pair[0], pair[1])))
        .collect()
}

/// 16 rows of 16 pairs, transposed.
fn transpose_pairs(t: &mut Text, rows: &[Value]) -> Vec<Value> {
    let words: Vec<Value> =
        rows.iter().map(|r| t.op(format_args!("vector.bitcast {r} : {ROW} to vector<16xi32>"))).collect();
    let turned = transpose(t, &words, "i32");
    turned.iter().map(|w| t.op(format_args!("vector.bitcast {w} : vector<16xi32> to {ROW}"))).collect()
}

/// One element at a time, for operands contiguous in no dim; `pairs` for B's layout.
fn gather(
    t: &mut Text,
    side: Side,
    (name, ty): (&str, &str),
    (first, k): (&Value, &Value),
    packed: Packed<'_>,
    target: &Value,
    pairs: bool,
) {
    let (zero, count) = (t.index(0), t.index(BLOCK));
    let (last, deepest) = (t.index(side.extent - 1), t.index(side.depth - 1));
    t.for_each(&zero, &count, 1, |t, lane| {
        t.for_each(&zero, &count, 1, |t, depth| {
            let across = t.add(first, lane);
            let across = t.min(&across, &last);
            let along = t.add(k, depth);
            let inside = t.compare("ule", &along, &deepest);
            let along = t.min(&along, &deepest);
            let from = t.offset((&across, side.across), (&along, side.along));
            let element = t.op(format_args!("memref.load {name}[{from}] : {ty}"));
            let none = t.op("arith.constant 0.0 : bf16");
            let element = t.op(format_args!("arith.select {inside}, {element}, {none} : bf16"));
            let (row, column) = if pairs {
                let two = t.index(2);
                let sixteen = t.index(16);
                let tile = t.op(format_args!("arith.divui {lane}, {sixteen} : index"));
                let lane = t.op(format_args!("arith.remui {lane}, {sixteen} : index"));
                let pair = t.op(format_args!("arith.divui {depth}, {two} : index"));
                let odd = t.op(format_args!("arith.remui {depth}, {two} : index"));
                (t.offset((&tile, 16), (&pair, 1)), t.offset((&lane, 2), (&odd, 1)))
            } else {
                (lane.clone(), depth.clone())
            };
            let row = t.add(&row, target);
            t.line(format_args!("memref.store {element}, {}[{row}, {column}] : {}", packed.name, packed.ty));
        });
    });
}
