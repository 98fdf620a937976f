//! Matrix products: strides that stay inside the buffers.

use athanor_ir::plan::{Buffer, GemmSpec, MatRef};

/// Checks that `spec` fits its operands, that C is apart from A and B, and that no element of C is written twice.
pub(super) fn check(spec: &GemmSpec, a: &Buffer, b: &Buffer, c: &Buffer) -> Result<(), String> {
    let GemmSpec { m, n, k, .. } = *spec;
    if m == 0 || n == 0 || k == 0 {
        return Err(format!("a product of [{m},{k}] and [{k},{n}]"));
    }
    for (what, r, rows, cols, buffer) in [("a", spec.a, m, k, a), ("b", spec.b, k, n, b), ("c", spec.c, m, n, c)] {
        if r.dtype != buffer.dtype || !r.dtype.is_float() {
            return Err(format!("{what} is {}, but `{}` holds {}", r.dtype, buffer.name, buffer.dtype));
        }
        let elements = buffer.bytes / buffer.dtype.bytes();
        if span(r, rows, cols).is_none_or(|needed| needed > elements) {
            return Err(format!(
                "{what} [{rows},{cols}] with strides {} and {} reaches beyond `{}` of {elements} elements",
                r.row_stride, r.col_stride, buffer.name
            ));
        }
    }
    let inner = |stride: usize, count: usize| count == 1 || stride > 0;
    // Strides are small here: `span` has multiplied them already.
    let rows_outside = m == 1 || spec.c.row_stride > (n - 1) * spec.c.col_stride;
    let cols_outside = n == 1 || spec.c.col_stride > (m - 1) * spec.c.row_stride;
    let distinct = inner(spec.c.row_stride, m) && inner(spec.c.col_stride, n) && (rows_outside || cols_outside);
    if !distinct {
        return Err(format!("c has strides {} and {}, so elements coincide", spec.c.row_stride, spec.c.col_stride));
    }
    match [a, b].into_iter().find(|x| x.shares(c)) {
        Some(x) => Err(format!("c overlaps `{}`", x.name)),
        None => Ok(()),
    }
}

/// Elements from the first to the last of a matrix, both included; `None` if that is no number.
fn span(r: MatRef, rows: usize, cols: usize) -> Option<usize> {
    let rows = (rows - 1).checked_mul(r.row_stride)?;
    let cols = (cols - 1).checked_mul(r.col_stride)?;
    rows.checked_add(cols)?.checked_add(1)
}
