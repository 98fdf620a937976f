//! Products of experts: rows sorted by expert, each multiplied by the matrix of its own.
//!
//! One kernel over the real spans of rows, which it reads when it runs: no row is padded, and the number of tokens of an expert
//! changes nothing but the loops' bounds.

mod amx;
mod vector;

use athanor_ir::DType;
use athanor_ir::plan::MatRef;
use athanor_ir::target::CpuLevel;

use super::Generated;
use super::text::{Text, Value};

/// Which product of a layer of experts; expert e has the rows
/// spans\[e, 0\] ≤ r < spans\[e, 1\].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// C\[r, :\] = A\[r, :\] · W\[e\]ᵀ, with W of shape \[experts, `c_cols`, `a_cols`\]: a layer's output.
    Transposed,
    /// C\[r, :\] = A\[r, :\] · W\[e\], with W of shape \[experts, `a_cols`, `c_cols`\]: the gradient by its input.
    Plain,
    /// C\[e\] = Σ A\[r, :\]ᵀ · B\[r, :\] over the rows of e, with B of shape \[rows, `c_cols`\] and C of shape
    /// \[experts, `a_cols`, `c_cols`\]: the gradient by its weights.
    Weights,
}

/// A product of experts. A is \[rows, `a_cols`\]; everything is contiguous; spans are i32 \[experts, 2\], and each begins
/// where the one before ends.
///
/// Rows before the first span and behind the last one, and the results of experts without rows, are zero (with `accumulate`:
/// as they were).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GroupedSpec {
    /// Which product.
    pub form: Form,
    /// Experts.
    pub experts: usize,
    /// Rows of all experts, used or not.
    pub rows: usize,
    /// Columns of A.
    pub a_cols: usize,
    /// Columns of the result.
    pub c_cols: usize,
    /// Dtype of A and B: f32 or bf16.
    pub operands: DType,
    /// Dtype of C: f32 or, with bf16 operands, bf16.
    pub result: DType,
    /// C += instead of C =.
    pub accumulate: bool,
}

impl GroupedSpec {
    /// Whether there is a kernel: f32, or bf16 with a result in f32 or, but for gradients of weights, whose sums are kept in
    /// the result, bf16; no dim is zero.
    pub fn supported(&self) -> bool {
        let dtypes = match (self.operands, self.result) {
            (DType::F32 | DType::BF16, DType::F32) => true,
            (DType::BF16, DType::BF16) => self.form != Form::Weights,
            _ => false,
        };
        dtypes && [self.experts, self.rows, self.a_cols, self.c_cols].iter().all(|d| *d > 0)
    }

    /// Elements of A, B and C.
    fn elements(&self) -> [usize; 3] {
        let (a, c) = (self.rows * self.a_cols, self.rows * self.c_cols);
        let stack = self.experts * self.a_cols * self.c_cols;
        if self.form == Form::Weights { [a, c, stack] } else { [a, stack, c] }
    }

    /// C as rows of `c_cols`.
    fn c(&self) -> MatRef {
        MatRef { dtype: self.result, row_stride: self.c_cols, col_stride: 1 }
    }
}

/// Generates the product; its buffers are A, B, the spans, C and the scratch. The grid is shares of the rows in use or,
/// for [`Form::Weights`], strips of each expert's result: either way equal work, however the rows are spread.
///
/// Each element is summed in one order whatever the shares, so the bits do not depend on them.
pub fn generate_grouped(spec: &GroupedSpec, level: CpuLevel, symbol: &str) -> Generated {
    if level == CpuLevel::Amx && spec.operands == DType::BF16 {
        amx::generate(spec, symbol)
    } else {
        vector::generate(spec, level, symbol)
    }
}

/// Number of parameters that are buffers.
const BUFFERS: usize = 5;

/// The parameter list, with bf16 in memory typed `bf16`.
fn params(spec: &GroupedSpec, bf16: &str, scratch_bytes: usize) -> String {
    let [a, b, c] = types(spec, bf16);
    format!(
        "%a: {a}, %b: {b}, %spans: {}, %c: {c}, %scratch: memref<{}xi8>, %lo: index, %hi: index, %worker: index",
        spans_type(spec),
        scratch_bytes * super::MAX_WORKERS
    )
}

fn spans_type(spec: &GroupedSpec) -> String {
    format!("memref<{}xi32>", 2 * spec.experts)
}

/// Flat types of A, B and C.
fn types(spec: &GroupedSpec, bf16: &str) -> [String; 3] {
    let element = |dtype: DType| if dtype == DType::BF16 { bf16.to_owned() } else { dtype.mlir().to_owned() };
    let [a, b, c] = spec.elements();
    let (x, y) = (element(spec.operands), element(spec.result));
    [format!("memref<{a}x{x}>"), format!("memref<{b}x{x}>"), format!("memref<{c}x{y}>")]
}

/// The end `at` of a span, counted over all of them, never beyond the rows there are.
fn bound(t: &mut Text, spec: &GroupedSpec, at: &Value) -> Value {
    let word = t.op(format_args!("memref.load %spans[{at}] : {}", spans_type(spec)));
    let row = t.op(format_args!("arith.index_castui {word} : i32 to index"));
    let rows = t.index(spec.rows);
    t.min(&row, &rows)
}

/// Runs `body` for every expert with its number and its rows.
fn each_expert(t: &mut Text, spec: &GroupedSpec, body: impl FnOnce(&mut Text, &Value, (&Value, &Value))) {
    let (zero, experts) = (t.index(0), t.index(spec.experts));
    t.for_each(&zero, &experts, 1, |t, expert| {
        let first = t.mul_const(expert, 2);
        let lo = bound(t, spec, &first);
        let last = t.add_const(&first, 1);
        let hi = bound(t, spec, &last);
        body(t, expert, (&lo, &hi));
    });
}

/// This item range's share `lo..hi` of `grid` of the rows `first..end`.
fn share(t: &mut Text, grid: usize, (first, end): (&Value, &Value)) -> (Value, Value) {
    let rows = t.sub(end, first);
    let mut cut = |item: &str| {
        let part = t.op(format_args!("arith.muli {rows}, %{item} overflow<nsw, nuw> : index"));
        let part = t.div_const(&part, grid);
        t.add(first, &part)
    };
    (cut("lo"), cut("hi"))
}

/// The product of rows with their experts' matrices: `body` computes rows `.1` of expert `.0`, which are this range's
/// share; rows that no expert has become zero.
fn deal_rows(
    t: &mut Text,
    spec: &GroupedSpec,
    (grid, lanes, c_type): (usize, usize, &str),
    body: impl FnOnce(&mut Text, &Value, (&Value, &Value)),
) {
    let (zero, last, rows) = (t.index(0), t.index(2 * spec.experts - 1), t.index(spec.rows));
    let (first, used) = (bound(t, spec, &zero), bound(t, spec, &last));
    let mine = share(t, grid, (&first, &used));
    each_expert(t, spec, |t, expert, (lo, hi)| {
        let (lo, hi) = (t.max(lo, &mine.0), t.min(hi, &mine.1));
        let some = t.compare("ult", &lo, &hi);
        t.when(&some, |t| body(t, expert, (&lo, &hi)));
    });
    if !spec.accumulate {
        for unused in [(&zero, &first), (&used, &rows)] {
            let unused = share(t, grid, unused);
            let (lo, hi) = (t.mul_const(&unused.0, spec.c_cols), t.mul_const(&unused.1, spec.c_cols));
            zero_fill(t, spec, (lanes, c_type), (&lo, &hi));
        }
    }
}

/// Writes zeros to elements `lo..hi` of C.
fn zero_fill(t: &mut Text, spec: &GroupedSpec, (lanes, c_type): (usize, &str), (lo, hi): (&Value, &Value)) {
    let element = &c_type[c_type.find('x').map_or(0, |x| x + 1)..c_type.len() - 1];
    let vector = format!("vector<{lanes}x{element}>");
    let zero = if element.starts_with('i') { "0" } else { "0.0" };
    let wide = t.op(format_args!("arith.constant dense<{zero}> : {vector}"));
    let one = t.op(format_args!("arith.constant {zero} : {element}"));
    debug_assert_eq!(spec.elements()[2].to_string(), c_type["memref<".len()..c_type.find('x').unwrap_or(0)]);
    let count = t.sub(hi, lo);
    let lanes_value = t.index(lanes);
    let rest = t.op(format_args!("arith.remui {count}, {lanes_value} : index"));
    let whole = t.sub(hi, &rest);
    t.for_each(lo, &whole, lanes, |t, at| t.line(format_args!("vector.store {wide}, %c[{at}] : {c_type}, {vector}")));
    t.for_each(&whole, hi, 1, |t, at| t.line(format_args!("memref.store {one}, %c[{at}] : {c_type}")));
}

/// Writes zeros to the share `lo..hi` of an expert's result of [`Form::Weights`], whose first row in C is `c_row`: rows or
/// columns, `cut.1` at a time.
fn clear_share(t: &mut Text, spec: &GroupedSpec, c: (usize, &str), c_row: &Value, cut: (bool, usize)) {
    let (m, n) = (spec.a_cols, spec.c_cols);
    let (by_rows, size) = cut;
    let [first, end] = ["lo", "hi"].map(|item| {
        let at = t.mul_const(&Value::named(item), size);
        let extent = t.index(if by_rows { m } else { n });
        t.min(&at, &extent)
    });
    if by_rows {
        let (first, end) = (t.add(c_row, &first), t.add(c_row, &end));
        let (first, end) = (t.mul_const(&first, n), t.mul_const(&end, n));
        zero_fill(t, spec, c, (&first, &end));
    } else {
        let (zero, rows) = (t.index(0), t.index(m));
        t.for_each(&zero, &rows, 1, |t, row| {
            let row = t.add(row, c_row);
            let (first, end) = (t.offset((&row, n), (&first, 1)), t.offset((&row, n), (&end, 1)));
            zero_fill(t, spec, c, (&first, &end));
        });
    }
}
