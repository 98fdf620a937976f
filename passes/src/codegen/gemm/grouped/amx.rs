//! Products of experts on AMX tiles.

use athanor_ir::plan::{GemmSpec, MatRef};

use super::super::amx::{BLOCK, Group, Product, STEP};
use super::super::pack::Side;
use super::super::shift::Shift;
use super::super::text::{Text, Value};
use super::super::{Generated, KernelText};
use super::{BUFFERS, Form, GroupedSpec, clear_share, deal_rows, each_expert, params, types};

/// Elements that zeros are written by.
const LANES: usize = 32;

/// Writes the kernel; operands are bf16, and so is the result unless [`Form::Weights`] asks for f32.
pub fn generate(spec: &GroupedSpec, symbol: &str) -> Generated {
    let GroupedSpec { form, experts, rows, a_cols, c_cols, .. } = *spec;
    let types = types(spec, "bf16");
    let side = |across, along, extent, depth| Side { dtype: spec.operands, across, along, extent, depth };
    let (m, k, c_rows, sides) = match form {
        Form::Transposed => {
            let sides = [side(a_cols, 1, rows, a_cols), side(a_cols, 1, experts * c_cols, a_cols)];
            (rows, a_cols, rows, sides)
        }
        Form::Plain => {
            let sides = [side(a_cols, 1, rows, a_cols), side(1, c_cols, c_cols, experts * a_cols)];
            (rows, a_cols, rows, sides)
        }
        Form::Weights => {
            let sides = [side(1, a_cols, a_cols, rows), side(1, c_cols, c_cols, rows)];
            (a_cols, rows, experts * a_cols, sides)
        }
    };
    let matrix = |s: Side| MatRef { dtype: spec.operands, row_stride: s.across, col_stride: s.along };
    let (a, b) =
        (matrix(sides[0]), MatRef { row_stride: sides[1].along, col_stride: sides[1].across, ..matrix(sides[1]) });
    let dense = GemmSpec { m, n: c_cols, k, a, b, c: spec.c(), accumulate: spec.accumulate };
    let product = Product::grouped(dense, &types, sides, c_rows);
    let mut t = Text::default();
    t.line(format_args!("func.func @{symbol}({}) {{", params(spec, "bf16", product.scratch_bytes())));
    product.views(&mut t);
    let grid = if form == Form::Weights {
        gradient(&mut t, spec, &product, &types[2])
    } else {
        let grid = rows.div_ceil(BLOCK);
        deal_rows(&mut t, spec, (grid, LANES, &types[2]), |t, expert, rows| rows_of(t, spec, &product, expert, rows));
        grid
    };
    t.line("return\n}");
    let text = KernelText { symbol: symbol.to_owned(), mlir: t.finish(), buffers: BUFFERS };
    Generated { text, grid, scratch_bytes_per_worker: product.scratch_bytes() }
}

/// Rows `lo..hi`, all of `expert`.
fn rows_of(t: &mut Text, spec: &GroupedSpec, product: &Product<'_>, expert: &Value, (lo, hi): (&Value, &Value)) {
    let (zero, panels) = (t.index(0), t.index(spec.c_cols.div_ceil(BLOCK)));
    let count = t.sub(hi, lo);
    let count = t.add_const(&count, BLOCK - 1);
    let strips = t.div_const(&count, BLOCK);
    let mut b_end = None;
    let shift = if spec.form == Form::Plain {
        let first = t.mul_const(expert, spec.a_cols);
        b_end = (!spec.a_cols.is_multiple_of(STEP)).then(|| t.add_const(&first, spec.a_cols));
        Shift { b_k: Some(first), ..Shift::default() }
    } else {
        Shift { b_column: Some(t.mul_const(expert, spec.c_cols)), ..Shift::default() }
    };
    let group = Group { rows: Some((lo.clone(), hi.clone())), k: None, shift, b_end };
    product.region(t, Some(&group), &(zero.clone(), strips), &(zero, panels));
}

/// The gradients of all experts, in strips of the longer dim; gives the number of strips.
fn gradient(t: &mut Text, spec: &GroupedSpec, product: &Product<'_>, c_type: &str) -> usize {
    let (m, n) = (spec.a_cols, spec.c_cols);
    let by_rows = m >= n;
    let (strips, panels) = (m.div_ceil(BLOCK), n.div_ceil(BLOCK));
    let mine = (Value::named("lo"), Value::named("hi"));
    let (zero, all) = (t.index(0), t.index(if by_rows { panels } else { strips }));
    let (strip_range, panel_range) = if by_rows { (mine, (zero, all)) } else { ((zero, all), mine) };
    each_expert(t, spec, |t, expert, (lo, hi)| {
        let c_row = t.mul_const(expert, m);
        let some = t.compare("ult", lo, hi);
        let compute = |t: &mut Text| {
            let shift = Shift { c_row: Some(c_row.clone()), ..Shift::default() };
            let group = Group { rows: None, k: Some((lo.clone(), hi.clone())), shift, b_end: None };
            product.region(t, Some(&group), &strip_range, &panel_range);
        };
        if spec.accumulate {
            t.when(&some, compute);
        } else {
            t.choose(&some, compute, |t| clear_share(t, spec, (LANES, c_type), &c_row, (by_rows, BLOCK)));
        }
    });
    if by_rows { strips } else { panels }
}
