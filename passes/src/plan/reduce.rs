//! Reductions that are no part of a row loop: over one run of dims that has others on both sides.

use super::lower::{Site, float, generated};
use super::{Draft, KernelTable, PlanOptions};
use crate::codegen::reduce::{ReduceSpec, reduce};
use athanor_ir::diag::Result;
use athanor_ir::op::ReduceKind;

/// Appends the kernel of the reduction over `dims`; false if they are no such run.
pub(super) fn lower(
    draft: &mut Draft<'_>,
    kernels: &mut KernelTable,
    options: &PlanOptions,
    site: &Site,
    (kind, dims): (ReduceKind, &[usize]),
) -> Result<bool> {
    let (x, out) = (&site.inputs[0].1, &site.outputs[0].1);
    let (Some(first), Some(last)) = (dims.first(), dims.last()) else { return Ok(false) };
    let run = (*first..=*last).all(|d| dims.contains(&d) || x.dims[d] == 1);
    let (Some(from), Some(to)) = (float(x.dtype), float(out.dtype)) else { return Ok(false) };
    let size = |dims: &[usize]| dims.iter().product::<usize>();
    let inner = size(&x.dims[last + 1..]);
    if !run || inner == 1 {
        return Ok(false);
    }
    let spec = ReduceSpec { kind, outer: size(&x.dims[..*first]), mid: size(&x.dims[*first..=*last]), inner, from, to };
    let kernel = generated(kernels, options, site, (format!("{spec:?}"), "reduce"), |symbol| {
        reduce(&spec, options.level, symbol)
    })?;
    draft.run(site.index, kernels, kernel, site.inputs.clone(), site.outputs.clone());
    Ok(true)
}
