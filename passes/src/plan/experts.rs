//! Ops that choose experts and move tokens to them, as generated kernels.

use super::lower::{Site, float, generated};
use super::{Draft, KernelTable, PlanOptions};
use crate::codegen::assign::{AssignSpec, assign};
use crate::codegen::route::{self, PickSpec, RouteSpec};
use crate::codegen::rows::{self, RowsSpec};
use athanor_ir::diag::Result;
use athanor_ir::op::Op;
use athanor_ir::types::{DType, TensorType};

/// A row of a histogram may not be longer: an f32 counts no further.
const MOST_COUNTED: usize = 1 << 24;

/// Appends the kernel of `op`; false if it has none.
pub(super) fn lower(
    draft: &mut Draft<'_>,
    kernels: &mut KernelTable,
    options: &PlanOptions,
    site: &Site,
    op: &Op,
) -> Result<bool> {
    let ty = |i: usize| &site.inputs[i].1;
    let last = |t: &TensorType| t.dims.last().copied().unwrap_or(1);
    let lead = |t: &TensorType| t.elements() / last(t);
    let level = options.level;
    let dtype = |t: &TensorType| float(t.dtype);
    // Of slots' weights, the operand after the others: none, or one of a type that kernels read.
    let weights = |at: usize| site.inputs.get(at).map_or(Some(None), |w| float(w.1.dtype).map(Some));
    let mut add = |make: &dyn Fn(&str) -> crate::codegen::Generated| -> Result<bool> {
        let key = format!("{op:?} {:?} {:?}", Site::types(&site.inputs), Site::types(&site.outputs));
        let kernel = generated(kernels, options, site, (key, op.name()), make)?;
        draft.run(site.index, kernels, kernel, site.inputs.clone(), site.outputs.clone());
        Ok(true)
    };
    match op {
        Op::Route { k, groups, group_k, group_top, mask } => {
            let Some(dtype) = dtype(ty(0)) else { return Ok(false) };
            let spec = RouteSpec {
                tokens: lead(ty(0)),
                experts: last(ty(0)),
                k: *k,
                groups: *groups,
                group_k: *group_k,
                group_top: *group_top,
                mask: *mask,
                bias: site.inputs.len() > 1,
                dtype,
            };
            add(&|symbol| route::route(&spec, level, symbol))
        }
        Op::Pick => {
            let Some(dtype) = dtype(ty(0)) else { return Ok(false) };
            let spec = PickSpec { rows: lead(ty(0)), n: last(ty(0)), k: last(ty(1)), dtype };
            add(&|symbol| route::pick(&spec, symbol))
        }
        Op::PickGrad { n } => {
            let Some(dtype) = dtype(ty(1)) else { return Ok(false) };
            let spec = PickSpec { rows: lead(ty(0)), n: *n, k: last(ty(0)), dtype };
            add(&|symbol| route::pick_grad(&spec, level, symbol))
        }
        Op::Histogram { bins } if last(ty(0)) <= MOST_COUNTED => {
            let shape = (lead(ty(0)), last(ty(0)), *bins);
            add(&|symbol| route::histogram(shape, level, symbol))
        }
        Op::Assign { experts, capacity } => {
            let Some(weights) = weights(1) else { return Ok(false) };
            let spec = AssignSpec { slots: ty(0).elements(), experts: *experts, capacity: *capacity, weights };
            add(&|symbol| assign(&spec, level, symbol))
        }
        Op::Dispatch { .. } | Op::Combine => {
            let (Some(dtype), Some(weights)) = (dtype(ty(0)), weights(2)) else { return Ok(false) };
            let out = &site.outputs[0].1;
            let to_rows = matches!(op, Op::Dispatch { .. });
            let sorted = if to_rows { out.dims[0] } else { ty(0).dims[0] };
            let spec =
                RowsSpec { tokens: lead(ty(1)), k: last(ty(1)), rows: sorted, hidden: last(ty(0)), dtype, weights };
            if to_rows {
                add(&|symbol| rows::dispatch(&spec, level, symbol))
            } else {
                add(&|symbol| rows::combine(&spec, level, symbol))
            }
        }
        Op::CombineDot if ty(0).dtype == ty(2).dtype && ty(0).dtype != DType::F64 => {
            let Some(dtype) = dtype(ty(0)) else { return Ok(false) };
            let spec = RowsSpec {
                tokens: lead(ty(1)),
                k: last(ty(1)),
                rows: ty(0).dims[0],
                hidden: last(ty(0)),
                dtype,
                weights: None,
            };
            add(&|symbol| rows::combine_dot(&spec, level, symbol))
        }
        _ => Ok(false),
    }
}
