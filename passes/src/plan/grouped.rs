//! Which products of experts have a kernel, and with which operands.

use athanor_ir::experts::parse_grouped;
use athanor_ir::types::TensorType;

use crate::codegen::gemm::{Form, GroupedSpec};

/// The product `spec` of rows `r` sorted by expert `e`, with whether its operands changed places (the gradient of weights
/// stored the other way round), or `None` if no kernel does it.
pub fn as_grouped(
    spec: &str,
    a: &TensorType,
    b: &TensorType,
    c: &TensorType,
    accumulate: bool,
) -> Option<(GroupedSpec, bool)> {
    let (_, [la, lb, lc]) = parse_grouped(spec).ok()?;
    let (form, swapped) = match (&la[..], &lb[..], &lc[..]) {
        (['r', k], ['e', n2, k2], ['r', n]) if (k, n) == (k2, n2) => (Form::Transposed, false),
        (['r', k], ['e', k2, n2], ['r', n]) if (k, n) == (k2, n2) => (Form::Plain, false),
        (['r', m], ['r', n], ['e', m2, n2]) if (m, n) == (m2, n2) => (Form::Weights, false),
        (['r', n], ['r', m], ['e', m2, n2]) if (m, n) == (m2, n2) => (Form::Weights, true),
        _ => return None,
    };
    let (a, b) = if swapped { (b, a) } else { (a, b) };
    let experts = if form == Form::Weights { c } else { b }.dims[0];
    let spec = GroupedSpec {
        form,
        experts,
        rows: a.dims[0],
        a_cols: a.dims[1],
        c_cols: *c.dims.last()?,
        operands: a.dtype,
        result: c.dtype,
        accumulate,
    };
    (b.dtype == a.dtype && spec.supported()).then_some((spec, swapped))
}

#[cfg(test)]
mod tests {
    use super::*;
    use athanor_ir::DType;

    fn grouped(spec: &str, a: &[usize], b: &[usize], c: &[usize]) -> Option<(Form, [usize; 4], bool)> {
        let t = |dims: &[usize]| TensorType::new(DType::F32, dims);
        let (s, swapped) = as_grouped(spec, &t(a), &t(b), &t(c), false)?;
        Some((s.form, [s.experts, s.rows, s.a_cols, s.c_cols], swapped))
    }

    #[test]
    fn a_layer_of_experts_and_its_gradients_have_kernels() {
        let (w, x, y) = ([4, 8, 16], [100, 16], [100, 8]);
        assert_eq!(grouped("rk,enk->rn", &x, &w, &y), Some((Form::Transposed, [4, 100, 16, 8], false)));
        assert_eq!(grouped("rn,enk->rk", &y, &w, &x), Some((Form::Plain, [4, 100, 8, 16], false)));
        assert_eq!(grouped("rn,rk->enk", &y, &x, &w), Some((Form::Weights, [4, 100, 8, 16], false)));
        assert_eq!(grouped("rk,rn->enk", &x, &y, &w), Some((Form::Weights, [4, 100, 8, 16], true)));
    }

    #[test]
    fn other_labels_have_none() {
        assert_eq!(grouped("rk,ekn->rk", &[100, 16], &[4, 16, 8], &[100, 16]), None);
        assert_eq!(grouped("rkj,enkj->rn", &[100, 4, 4], &[4, 8, 4, 4], &[100, 8]), None);
    }
}
