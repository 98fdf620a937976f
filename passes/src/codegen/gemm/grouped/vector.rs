//! Products of experts on vector registers, with the tiles and loops of the dense ones.

use athanor_ir::target::CpuLevel;

use super::super::pack::{Side, storage};
use super::super::shift::Shift;
use super::super::text::{Text, Value};
use super::super::vector::{Blocking, Product, Region, Tile};
use super::super::{Generated, KernelText};
use super::{BUFFERS, Form, GroupedSpec, clear_share, deal_rows, each_expert, params, types};

/// Writes the kernel.
pub fn generate(spec: &GroupedSpec, level: CpuLevel, symbol: &str) -> Generated {
    let GroupedSpec { form, experts, rows, a_cols, c_cols, .. } = *spec;
    let weights = form == Form::Weights;
    let (m, k) = if weights { (a_cols, None) } else { (rows, Some(a_cols)) };
    let blocking = Blocking::blocked((m, c_cols, k), spec.result, level);
    let bf16 = storage(athanor_ir::DType::BF16);
    let [a_type, b_type, c_type] = types(spec, bf16);
    let side = |across, along, extent, depth| Side { dtype: spec.operands, across, along, extent, depth };
    let (a, b) = match form {
        Form::Transposed => (side(a_cols, 1, rows, a_cols), side(a_cols, 1, experts * c_cols, a_cols)),
        Form::Plain => (side(a_cols, 1, rows, a_cols), side(1, c_cols, c_cols, experts * a_cols)),
        Form::Weights => (side(1, a_cols, a_cols, rows), side(1, c_cols, c_cols, rows)),
    };
    let product = Product {
        tile: Tile {
            symbol,
            blocking,
            a: blocking.read_a(&a, &a_type),
            b: format!("memref<{}xf32>", blocking.b_elements()),
            c: (spec.c(), c_type.clone()),
            residual: None,
            accumulate: spec.accumulate,
            blocks: blocking.blocks(spec.result, k.unwrap_or(usize::MAX)),
            ragged: weights,
        },
        a: (a, a_type),
        b: (b, b_type),
        m: weights.then_some(m),
        n: c_cols,
    };
    let mut t = Text::default();
    product.tiles(&mut t);
    t.line(format_args!("func.func @{symbol}({}) {{", params(spec, bf16, blocking.scratch_bytes())));
    product.scratch(&mut t);
    let grid = if weights {
        gradient(&mut t, spec, &product, (blocking.lanes, &c_type))
    } else {
        let grid = rows.div_ceil(blocking.mr);
        deal_rows(&mut t, spec, (grid, blocking.lanes, &c_type), |t, expert, rows| {
            rows_of(t, spec, &product, expert, rows);
        });
        grid
    };
    t.line("return\n}");
    let text = KernelText { symbol: symbol.to_owned(), mlir: t.finish(), buffers: BUFFERS };
    Generated { text, grid, scratch_bytes_per_worker: blocking.scratch_bytes() }
}

/// Rows `lo..hi`, all of `expert`.
fn rows_of(t: &mut Text, spec: &GroupedSpec, product: &Product<'_>, expert: &Value, (lo, hi): (&Value, &Value)) {
    let Blocking { mr, nr, .. } = product.tile.blocking;
    let (zero, depth, panels) = (t.index(0), t.index(spec.a_cols), t.index(spec.c_cols.div_ceil(nr)));
    let count = t.sub(hi, lo);
    let count = t.add_const(&count, mr - 1);
    let strips = t.div_const(&count, mr);
    let shift = match spec.form {
        Form::Plain => Shift { b_k: Some(t.mul_const(expert, spec.a_cols)), ..Shift::default() },
        _ => Shift { b_column: Some(t.mul_const(expert, spec.c_cols)), ..Shift::default() },
    };
    let region = Region {
        strips: (zero.clone(), strips),
        rows: Some((lo.clone(), hi.clone())),
        panels: (zero.clone(), panels),
        k: (zero, depth),
        shift,
    };
    product.region(t, &region);
}

/// The gradients of all experts, in strips of the longer dim; gives the number of strips.
fn gradient(t: &mut Text, spec: &GroupedSpec, product: &Product<'_>, c: (usize, &str)) -> usize {
    let Blocking { mr, nr, .. } = product.tile.blocking;
    let (m, n) = (spec.a_cols, spec.c_cols);
    let by_rows = m >= n;
    let (strips, panels) = (m.div_ceil(mr), n.div_ceil(nr));
    let mine = (Value::named("lo"), Value::named("hi"));
    let (zero, all) = (t.index(0), t.index(if by_rows { panels } else { strips }));
    let all = (zero.clone(), all);
    let (strip_range, panel_range) = if by_rows { (mine, all) } else { (all, mine) };
    each_expert(t, spec, |t, expert, (lo, hi)| {
        let c_row = t.mul_const(expert, m);
        let some = t.compare("ult", lo, hi);
        let compute = |t: &mut Text| {
            let region = Region {
                strips: strip_range,
                rows: None,
                panels: panel_range,
                k: (lo.clone(), hi.clone()),
                shift: Shift { c_row: Some(c_row.clone()), ..Shift::default() },
            };
            product.region(t, &region);
        };
        if spec.accumulate {
            t.when(&some, compute);
        } else {
            let size = if by_rows { mr } else { nr };
            t.choose(&some, compute, |t| clear_share(t, spec, c, &c_row, (by_rows, size)));
        }
    });
    if by_rows { strips } else { panels }
}
