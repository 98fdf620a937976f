//! Packing: panels of an operand rearranged so that the inner loops read memory in order, widened to f32.

use athanor_ir::DType;
use athanor_ir::plan::MatRef;

use super::text::{Text, Value};
use crate::codegen::half::Half;

/// An operand seen from its panels: `across` is the dim that a panel is `width` of (rows of A, columns of B), `along` is k.
#[derive(Debug, Clone, Copy)]
pub struct Side {
    /// Element type.
    pub dtype: DType,
    /// Distance between neighbours across.
    pub across: usize,
    /// Distance between neighbours along k.
    pub along: usize,
    /// Extent across.
    pub extent: usize,
    /// Extent along k.
    pub depth: usize,
}

impl Side {
    /// A by rows.
    pub fn rows(r: MatRef, m: usize, k: usize) -> Self {
        Self { dtype: r.dtype, across: r.row_stride, along: r.col_stride, extent: m, depth: k }
    }

    /// B by columns.
    pub fn cols(r: MatRef, n: usize, k: usize) -> Self {
        Self { dtype: r.dtype, across: r.col_stride, along: r.row_stride, extent: n, depth: k }
    }
}

/// Where packed data goes: a flat memref, one panel per `panel` elements, `width` elements per k.
#[derive(Debug, Clone, Copy)]
pub struct Panels<'a> {
    /// The memref and its type.
    pub memref: (&'a str, &'a str),
    /// Elements of a panel across, a multiple of the vector length.
    pub width: usize,
}

/// Reads vectors of one operand.
struct Reader<'a> {
    side: Side,
    source: (&'a str, &'a str),
    lanes: usize,
}

impl Reader<'_> {
    /// `lanes` neighbours from `offset`, of which the first `count` exist (all when `None`), as f32.
    fn load(&self, t: &mut Text, offset: &Value, count: Option<&Value>) -> Value {
        let (name, ty) = self.source;
        let lanes = self.lanes;
        let mask = count.map(|count| t.op(format_args!("vector.create_mask {count} : vector<{lanes}xi1>")));
        load(t, lanes, (name, ty), self.side.dtype, offset, mask.as_ref())
    }
}

/// Emits the packing of one panel: `width` lanes across from `first`, k from `k_lo` to `k_hi`, to `target` elements into
/// `panels`. Lanes beyond the operand's extent hold anything; what is beyond `k_hi` is not read by anyone.
///
/// `full` promises that the panel lies within the extent.
#[allow(clippy::too_many_arguments, reason = "the places of a copy: from, what, to")]
pub fn pack_panel(
    t: &mut Text,
    lanes: usize,
    side: Side,
    source: (&str, &str),
    (first, full): (&Value, bool),
    (k_lo, k_hi): (&Value, &Value),
    panels: Panels<'_>,
    target: &Value,
) {
    let reader = Reader { side, source, lanes };
    if side.across == 1 {
        copy_panel(t, &reader, (first, full), (k_lo, k_hi), panels, target);
    } else if side.along == 1 {
        transpose_panel(t, &reader, first, (k_lo, k_hi), panels, target);
    } else {
        gather_panel(t, &reader, first, (k_lo, k_hi), panels, target);
    }
}

/// Emits the packing of `rows.1` rows of A, contiguous along k, from `rows.0`: row after row, each `target.2` elements
/// from the one before, widened to f32. Rows beyond the operand hold anything, and so does what is beyond `k_hi`.
#[allow(clippy::too_many_arguments, reason = "the places of a copy: from, what, to")]
pub fn pack_rows(
    t: &mut Text,
    lanes: usize,
    side: Side,
    source: (&str, &str),
    (first, rows): (&Value, usize),
    (k_lo, k_hi): (&Value, &Value),
    (name, ty, stride): (&str, &str, usize),
    target: &Value,
) {
    let reader = Reader { side, source, lanes };
    let panels = Panels { memref: (name, ty), width: stride };
    let last = t.index(side.extent - 1);
    let depth = t.sub(k_hi, k_lo);
    let whole = t.op(format_args!("arith.constant {lanes} : index"));
    let rest = t.op(format_args!("arith.remui {depth}, {whole} : index"));
    let whole = t.sub(&depth, &rest);
    let ragged = !side.depth.is_multiple_of(lanes);
    let zero = t.index(0);
    for r in 0..rows {
        let row = t.add_const(first, r);
        let row = t.min(&row, &last);
        let from = t.mul_const(&row, side.across);
        let from = t.add(&from, k_lo);
        let to = t.add_const(target, r * stride);
        let copy = |t: &mut Text, k: &Value, count: Option<&Value>| {
            let (from, to) = (t.add(&from, k), t.add(&to, k));
            let vector = reader.load(t, &from, count);
            store(t, panels, &to, &vector, lanes);
        };
        t.for_each(&zero, &whole, lanes, |t, k| copy(t, k, None));
        if ragged {
            let some = t.compare("ne", &rest, &zero);
            t.when(&some, |t| copy(t, &whole, Some(&rest)));
        }
    }
}

/// Neighbours across are contiguous: vectors are copied.
fn copy_panel(
    t: &mut Text,
    reader: &Reader<'_>,
    (first, full): (&Value, bool),
    (k_lo, k_hi): (&Value, &Value),
    panels: Panels<'_>,
    target: &Value,
) {
    let Reader { side, lanes, .. } = *reader;
    let left = (!full).then(|| {
        let extent = t.index(side.extent);
        t.sub(&extent, first)
    });
    t.for_each(k_lo, k_hi, 1, |t, k| {
        let from = t.offset((k, side.along), (first, 1));
        // The next panel lies beside this one, but each k may be in a page of its own, where no hardware prefetcher looks.
        let (name, ty) = reader.source;
        let next = t.add_const(&from, panels.width);
        t.line(format_args!("memref.prefetch {name}[{next}], read, locality<2>, data : {ty}"));
        let k = t.sub(k, k_lo);
        let to = t.offset((&k, panels.width), (target, 1));
        for h in (0..panels.width).step_by(lanes) {
            let count = left.as_ref().map(|left| {
                let h = t.index(h);
                t.sub(left, &h)
            });
            let from = t.add_const(&from, h);
            let vector = reader.load(t, &from, count.as_ref());
            let to = t.add_const(&to, h);
            store(t, panels, &to, &vector, lanes);
        }
    });
}

/// Neighbours along k are contiguous: square blocks are transposed in registers.
fn transpose_panel(
    t: &mut Text,
    reader: &Reader<'_>,
    first: &Value,
    (k_lo, k_hi): (&Value, &Value),
    panels: Panels<'_>,
    target: &Value,
) {
    let Reader { side, lanes, .. } = *reader;
    let last = t.index(side.extent - 1);
    for h in (0..panels.width).step_by(lanes) {
        // A lane beyond the operand repeats the last one: it may hold anything, but must not be read from beyond.
        let bases: Vec<Value> = (0..lanes)
            .map(|r| {
                let lane = t.add_const(first, h + r);
                let lane = t.min(&lane, &last);
                t.mul_const(&lane, side.across)
            })
            .collect();
        t.for_each(k_lo, k_hi, lanes, |t, k| {
            let count = (side.depth % lanes != 0).then(|| t.sub(k_hi, k));
            let rows: Vec<Value> = bases
                .iter()
                .map(|base| {
                    let at = t.add(base, k);
                    reader.load(t, &at, count.as_ref())
                })
                .collect();
            let columns = transpose(t, &rows, "f32");
            let k = t.sub(k, k_lo);
            let to = t.offset((&k, panels.width), (target, 1));
            for (x, column) in columns.iter().enumerate() {
                let to = t.add_const(&to, x * panels.width + h);
                store(t, panels, &to, column, lanes);
            }
        });
    }
}

/// No dim is contiguous: one element at a time.
fn gather_panel(
    t: &mut Text,
    reader: &Reader<'_>,
    first: &Value,
    (k_lo, k_hi): (&Value, &Value),
    panels: Panels<'_>,
    target: &Value,
) {
    let side = reader.side;
    let (zero, width) = (t.index(0), t.index(panels.width));
    let last = t.index(side.extent - 1);
    t.for_each(k_lo, k_hi, 1, |t, k| {
        t.for_each(&zero, &width, 1, |t, lane| {
            let across = t.add(first, lane);
            let across = t.min(&across, &last);
            let from = t.offset((&across, side.across), (k, side.along));
            let (name, ty) = reader.source;
            let mut element = t.op(format_args!("memref.load {name}[{from}] : {ty}"));
            match side.dtype {
                DType::BF16 => element = widen(t, &element, "i16", "i32", "f32"),
                DType::F16 => element = half(t, None, |h| h.widen(&element)),
                _ => {}
            }
            let k = t.sub(k, k_lo);
            let to = t.offset((&k, panels.width), (lane, 1));
            let to = t.add(&to, target);
            let (name, ty) = panels.memref;
            t.line(format_args!("memref.store {element}, {name}[{to}] : {ty}"));
        });
    });
}

/// A vector of f32 or bf16 from flat memory, as f32; lanes not in `mask` are zero and not read.
pub fn load(
    t: &mut Text,
    lanes: usize,
    (name, ty): (&str, &str),
    dtype: DType,
    at: &Value,
    mask: Option<&Value>,
) -> Value {
    let vector = format!("vector<{lanes}x{}>", storage(dtype));
    let raw = match mask {
        None => t.op(format_args!("vector.load {name}[{at}] : {ty}, {vector}")),
        Some(mask) => {
            let zero = if dtype == DType::F32 { "0.0" } else { "0" };
            let zero = t.op(format_args!("arith.constant dense<{zero}> : {vector}"));
            t.op(format_args!(
                "vector.maskedload {name}[{at}], {mask}, {zero} : {ty}, vector<{lanes}xi1>, {vector} into {vector}"
            ))
        }
    };
    match dtype {
        DType::F32 => return raw,
        DType::F16 => return half(t, Some(lanes), |h| h.widen(&raw)),
        _ => {}
    }
    widen(t, &raw, &vector, &format!("vector<{lanes}xi32>"), &format!("vector<{lanes}xf32>"))
}

/// How a dtype is typed in memory: bf16 and f16 as bits, because LLVM turns what it cannot do with them into library calls.
pub fn storage(dtype: DType) -> &'static str {
    if matches!(dtype, DType::BF16 | DType::F16) { "i16" } else { dtype.mlir() }
}

/// Conversions of f16 in `t`.
fn half(t: &mut Text, lanes: Option<usize>, convert: impl FnOnce(&mut Half<'_, Value>) -> Value) -> Value {
    let f16c = t.f16c;
    convert(&mut Half { emit: &mut |op: &str| t.op(op), lanes, f16c })
}

/// A vector of f32 as bits of `dtype`, rounded to nearest even.
pub fn narrow_to(t: &mut Text, lanes: usize, value: &Value, dtype: DType) -> Value {
    match dtype {
        DType::F16 => half(t, Some(lanes), |h| h.narrow(value)),
        _ => narrow(t, lanes, value),
    }
}

/// The f32 whose upper half the bf16 bits `raw` are; types are those of bits, of words and of the result.
fn widen(t: &mut Text, raw: &Value, bits: &str, words: &str, floats: &str) -> Value {
    let word = t.op(format_args!("arith.extui {raw} : {bits} to {words}"));
    let sixteen = constant(t, 16, words);
    let word = t.op(format_args!("arith.shli {word}, {sixteen} : {words}"));
    t.op(format_args!("arith.bitcast {word} : {words} to {floats}"))
}

fn constant(t: &mut Text, value: u32, ty: &str) -> Value {
    if ty.starts_with("vector") {
        t.op(format_args!("arith.constant dense<{value}> : {ty}"))
    } else {
        t.op(format_args!("arith.constant {value} : {ty}"))
    }
}

/// A vector of f32 as bf16 bits, rounded to nearest even; a NaN stays a (quiet) NaN.
pub fn narrow(t: &mut Text, lanes: usize, value: &Value) -> Value {
    let (floats, words) = (format!("vector<{lanes}xf32>"), format!("vector<{lanes}xi32>"));
    let word = t.op(format_args!("arith.bitcast {value} : {floats} to {words}"));
    let sixteen = constant(t, 16, &words);
    let high = t.op(format_args!("arith.shrui {word}, {sixteen} : {words}"));
    let one = constant(t, 1, &words);
    let odd = t.op(format_args!("arith.andi {high}, {one} : {words}"));
    let half = constant(t, 0x7fff, &words);
    let bias = t.op(format_args!("arith.addi {odd}, {half} : {words}"));
    let rounded = t.op(format_args!("arith.addi {word}, {bias} : {words}"));
    let rounded = t.op(format_args!("arith.shrui {rounded}, {sixteen} : {words}"));
    let nan = t.op(format_args!("arith.cmpf uno, {value}, {value} : {floats}"));
    let quiet = constant(t, 0x40, &words);
    let quiet = t.op(format_args!("arith.ori {high}, {quiet} : {words}"));
    let word = t.op(format_args!("arith.select {nan}, {quiet}, {rounded} : vector<{lanes}xi1>, {words}"));
    t.op(format_args!("arith.trunci {word} : {words} to vector<{lanes}xi16>"))
}

fn store(t: &mut Text, panels: Panels<'_>, to: &Value, vector: &Value, lanes: usize) {
    let (name, ty) = panels.memref;
    t.line(format_args!("vector.store {vector}, {name}[{to}] : {ty}, vector<{lanes}xf32>"));
}

/// Transposes a square of `lanes` vectors of 32-bit elements: 4, 8 or 16.
///
/// Within groups of four rows by interleaving elements and then pairs, then across groups by exchanging 128-bit blocks:
/// each of these is one instruction without an index register.
pub fn transpose(t: &mut Text, rows: &[Value], element: &str) -> Vec<Value> {
    let lanes = rows.len();
    let vector = format!("vector<{lanes}x{element}>");
    let mut shuffle = |a: &Value, b: &Value, order: &dyn Fn(usize) -> usize| {
        let order: Vec<String> = (0..lanes).map(|l| order(l).to_string()).collect();
        t.op(format_args!("vector.shuffle {a}, {b} [{}] : {vector}, {vector}", order.join(", ")))
    };
    // Lane l of the result: of a, or of b when `lanes` is added; `block` is the first lane of l's 128 bits.
    let block = |l: usize| l & !3;
    let groups: Vec<[Value; 4]> = rows
        .chunks_exact(4)
        .map(|r| {
            let mut elements = |a, b, upper| shuffle(a, b, &move |l| block(l) + upper + (l & 3) / 2 + (l & 1) * lanes);
            let (low, high) = (elements(&r[0], &r[1], 0), elements(&r[0], &r[1], 2));
            let (low2, high2) = (elements(&r[2], &r[3], 0), elements(&r[2], &r[3], 2));
            let mut pairs = |a, b, upper| shuffle(a, b, &move |l| block(l) + upper + (l & 1) + (l & 2) / 2 * lanes);
            [pairs(&low, &low2, 0), pairs(&low, &low2, 2), pairs(&high, &high2, 0), pairs(&high, &high2, 2)]
        })
        .collect();
    // Block b of groups[g][c] now holds column 4·b + c of rows 4·g .. 4·g + 4.
    let mut columns: Vec<Option<Value>> = vec![None; lanes];
    for c in 0..4 {
        let blocks: Vec<Value> = groups.iter().map(|g| g[c].clone()).collect();
        match &blocks[..] {
            [only] => columns[c] = Some(only.clone()),
            [a, b] => {
                for half in 0..2 {
                    columns[4 * half + c] = Some(shuffle(a, b, &|l| (l & 3) + 4 * half + l / 4 * lanes));
                }
            }
            [a, b, d, e] => {
                // Even or odd blocks of two vectors, twice.
                let mut every_other = |a: &Value, b: &Value, odd: usize| {
                    shuffle(a, b, &move |l| (l & 3) + 4 * odd + l / 4 % 2 * 8 + l / 8 * lanes)
                };
                for odd in 0..2 {
                    let (low, high) = (every_other(a, b, odd), every_other(d, e, odd));
                    columns[4 * odd + c] = Some(every_other(&low, &high, 0));
                    columns[8 + 4 * odd + c] = Some(every_other(&low, &high, 1));
                }
            }
            _ => {}
        }
    }
    columns.into_iter().flatten().collect()
}
