//! What slices of a sequence share, as generated kernels that write and read at the place of the slice.

use super::lower::{Site, copy_addend, float, generated};
use super::{Draft, KernelTable, PlanOptions};
use crate::codegen::slices::{self, SliceSpec, SumSpec};
use athanor_ir::diag::Result;
use athanor_ir::op::Op;
use athanor_ir::types::{DType, TensorType};

/// Appends the kernel of `op`; false if it is no such op, or none for its types.
///
/// What is kept and what is summed is written in place: it is copied first where it lies elsewhere.
pub(super) fn lower(
    draft: &mut Draft<'_>,
    kernels: &mut KernelTable,
    options: &PlanOptions,
    site: &Site,
    op: &Op,
) -> Result<bool> {
    let (x, out) = (&site.inputs[0].1, &site.outputs[0].1);
    let spec = |whole: &TensorType, part: &TensorType, dim: usize| {
        let size = |dims: &[usize]| dims.iter().product::<usize>();
        let (outer, inner) = (size(&whole.dims[..dim]), size(&whole.dims[dim + 1..]));
        SliceSpec { outer, all: whole.dims[dim], len: part.dims[dim], inner, bytes: whole.dtype.bytes() }
    };
    let stem = op.name();
    let kernel = match op {
        Op::KeepSlice { dim } => {
            let spec = spec(x, &site.inputs[1].1, *dim);
            let make = |symbol: &str| slices::keep(&spec, options.level, symbol);
            generated(kernels, options, site, (format!("{stem} {spec:?}"), stem), make)?
        }
        Op::OwnSlice { dim, .. } => {
            let spec = spec(x, out, *dim);
            let make = |symbol: &str| slices::own(&spec, options.level, symbol);
            generated(kernels, options, site, (format!("{stem} {spec:?}"), stem), make)?
        }
        Op::SumSlices { begin } => {
            let (Some(dtype), DType::F32) = (float(site.inputs[1].1.dtype), out.dtype) else { return Ok(false) };
            let inner = out.dims.last().copied().unwrap_or(1);
            let spec = SumSpec { rows: out.elements() / inner, inner, dtype, begin: *begin };
            let make = |symbol: &str| slices::sum(&spec, options.level, symbol);
            generated(kernels, options, site, (format!("{stem} {spec:?}"), stem), make)?
        }
        _ => return Ok(false),
    };
    let mut inputs = site.inputs.clone();
    if !matches!(op, Op::OwnSlice { .. }) {
        copy_addend(draft, site, Some(&inputs.remove(0)));
    }
    draft.run(site.index, kernels, kernel, inputs, site.outputs.clone());
    Ok(true)
}
