//! Slices, concatenations, transposes and broadcasts that are no views, as generated copies.

use super::layout::Place;
use super::lower::{Site, generated};
use super::matrix::strides;
use super::{Draft, KernelTable, PlanOptions};
use crate::codegen::copy::{self, Part};
use athanor_ir::diag::Result;
use athanor_ir::op::Op;
use athanor_ir::types::TensorType;

/// Appends the copies of `op`; false if it moves no elements.
pub(super) fn lower(
    draft: &mut Draft<'_>,
    kernels: &mut KernelTable,
    options: &PlanOptions,
    site: &Site,
    op: &Op,
) -> Result<bool> {
    let (x, out) = (&site.inputs[0].1, &site.outputs[0].1);
    let dst = strides(&out.dims);
    let part = |dims: &[usize], src: Vec<usize>, dst: Vec<usize>, from: usize| {
        Some(Part { elements: x.elements(), dims: dims.to_vec(), src, dst, from, to: 0 })
    };
    let from_x = strides(&x.dims);
    let one = match op {
        Op::Slice { dim, start, .. } => {
            let from = start * from_x[*dim];
            part(&out.dims, from_x, dst, from)
        }
        Op::Transpose { perm } => part(&out.dims, perm.iter().map(|p| from_x[*p]).collect(), dst, 0),
        Op::Broadcast { dims } => {
            let mut src = vec![0; out.rank()];
            dims.iter().zip(&from_x).for_each(|(d, s)| src[*d] = *s);
            part(&out.dims, src, dst, 0)
        }
        Op::Concat { dim } => return concat(draft, kernels, options, site, *dim),
        _ => None,
    };
    let Some(part) = one else { return Ok(false) };
    let key = format!("copy {part:?} {out}");
    let kernel = generated(kernels, options, site, (key, op.name()), |symbol| {
        copy::copy(&part, out.elements(), out.dtype.bytes(), options.level, symbol)
    })?;
    draft.run(site.index, kernels, kernel, site.inputs.clone(), site.outputs.clone());
    Ok(true)
}

/// Operands side by side: all in one kernel over the dims before `dim`, or each as a run of its own if there are none.
fn concat(
    draft: &mut Draft<'_>,
    kernels: &mut KernelTable,
    options: &PlanOptions,
    site: &Site,
    dim: usize,
) -> Result<bool> {
    let (place, out) = &site.outputs[0];
    let bytes = out.dtype.bytes();
    let outer: usize = out.dims[..dim].iter().product();
    let run = |t: &TensorType| t.elements() / outer;
    if outer > 1 {
        let mut to = 0;
        let parts: Vec<Part> = site
            .inputs
            .iter()
            .map(|(_, t)| {
                let (elements, dims) = (t.elements(), vec![outer, run(t)]);
                to += run(t);
                Part { elements, dims, src: vec![run(t), 1], dst: vec![run(out), 1], from: 0, to: to - run(t) }
            })
            .collect();
        let kernel =
            generated(kernels, options, site, (format!("join {parts:?} {}", out.dtype), "concat"), |symbol| {
                copy::join(&parts, out.elements(), bytes, options.level, symbol)
            })?;
        draft.run(site.index, kernels, kernel, site.inputs.clone(), site.outputs.clone());
        return Ok(true);
    }
    let mut offset = place.offset;
    for (from, t) in &site.inputs {
        let n = t.elements();
        let part = Part { elements: n, dims: vec![n], src: vec![1], dst: vec![1], from: 0, to: 0 };
        let kernel = generated(kernels, options, site, (format!("copy {part:?} {}", t.dtype), "concat"), |symbol| {
            copy::copy(&part, n, bytes, options.level, symbol)
        })?;
        let to = (Place { offset, ..*place }, t.clone());
        draft.run(site.index, kernels, kernel, vec![(*from, t.clone())], vec![to]);
        offset += t.bytes();
    }
    Ok(true)
}
