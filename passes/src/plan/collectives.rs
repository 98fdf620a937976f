//! Collective operations: ranks exchange parts that lie side by side, so that parts of an inner dim are moved together before or
//! apart afterwards.

use super::layout::Place;
use super::lower::Site;
use super::{Draft, KernelTable, PlanOptions, copies};
use athanor_ir::collective::{Collective, CollectiveKind};
use athanor_ir::diag::Result;
use athanor_ir::op::Op;
use athanor_ir::plan::Action;
use athanor_ir::types::TensorType;

/// A value in memory.
type Laid = (Place, TensorType);

/// Appends the steps of `c` between the operand and the result of `site`.
pub(super) fn lower(
    draft: &mut Draft<'_>,
    kernels: &mut KernelTable,
    options: &PlanOptions,
    site: &Site,
    c: &Collective,
) -> Result<()> {
    let (from, to, n) = (site.inputs[0].clone(), site.outputs[0].clone(), c.ranks);
    let outside = |dim: usize| from.1.dims[..dim].iter().product::<usize>();
    let raw = |kind| Action::Op(Op::Collective(Collective { kind, ..c.clone() }));
    match c.kind {
        CollectiveKind::AllGather { dim } if outside(dim) > 1 => {
            let (outer, rest) = (outside(dim), from.1.elements() / outside(dim));
            let parts = draft.temporary(from.1.with_dims([n * outer, rest]));
            let kind = CollectiveKind::AllGather { dim: 0 };
            draft.push(site.index, raw(kind), vec![shaped(&from, &[outer, rest])], vec![parts.clone()]);
            swap(draft, kernels, options, site.index, shaped(&parts, &[n, outer, rest]), &to)
        }
        CollectiveKind::ReduceScatter { dim } if outside(dim) > 1 => {
            let (outer, rest) = (outside(dim), to.1.elements() / outside(dim));
            let parts = draft.temporary(from.1.with_dims([n, outer, rest]));
            swap(draft, kernels, options, site.index, shaped(&from, &[outer, n, rest]), &parts)?;
            let kind = CollectiveKind::ReduceScatter { dim: 0 };
            draft.push(
                site.index,
                raw(kind),
                vec![shaped(&parts, &[n * outer, rest])],
                vec![shaped(&to, &[outer, rest])],
            );
            Ok(())
        }
        CollectiveKind::AllToAll { cut, join } => {
            let part = from.1.elements() / n;
            let mut sent = from.clone();
            if outside(cut) > 1 {
                let (outer, rest) = (outside(cut), part / outside(cut));
                sent = draft.temporary(from.1.with_dims([n, outer, rest]));
                swap(draft, kernels, options, site.index, shaped(&from, &[outer, n, rest]), &sent)?;
            }
            // Dims outside of the joined one, of a part.
            let outer = outside(join) / if cut < join { n } else { 1 };
            let arrived = if outer > 1 { draft.temporary(from.1.with_dims([n, part])) } else { to.clone() };
            let kind = CollectiveKind::AllToAll { cut: 0, join: 0 };
            draft.push(site.index, raw(kind), vec![shaped(&sent, &[n, part])], vec![shaped(&arrived, &[n, part])]);
            if outer > 1 {
                swap(draft, kernels, options, site.index, shaped(&arrived, &[n, outer, part / outer]), &to)?;
            }
            Ok(())
        }
        _ => {
            draft.push(site.index, raw(c.kind), vec![from], vec![to]);
            Ok(())
        }
    }
}

/// The same bytes with other dims.
fn shaped((place, ty): &Laid, dims: &[usize]) -> Laid {
    (*place, ty.with_dims(dims))
}

/// Moves `from [a, b, c]` to `to` as `[b, a, c]`.
fn swap(
    draft: &mut Draft<'_>,
    kernels: &mut KernelTable,
    options: &PlanOptions,
    node: usize,
    from: Laid,
    to: &Laid,
) -> Result<()> {
    let dims = &from.1.dims;
    let to = shaped(to, &[dims[1], dims[0], dims[2]]);
    let op = Op::Transpose { perm: vec![1, 0, 2] };
    if options.reference {
        draft.push(node, Action::Op(op), vec![from], vec![to]);
        return Ok(());
    }
    let site = Site::moves(node, from, to);
    if !copies::lower(draft, kernels, options, &site, &op)? {
        draft.push(node, Action::Op(op), site.inputs, site.outputs);
    }
    Ok(())
}
