//! One node to steps: a library product, a generated kernel, or the reference op.

use super::matrix::as_gemm;
use super::{Draft, KernelTable, PlanOptions};
use athanor_ir::diag::Result;
use athanor_ir::module::Module;
use athanor_ir::op::Op;
use athanor_ir::plan::{Action, GemmSpec, Kernel, KernelKind};
use athanor_ir::types::TensorType;

/// Appends the steps of node `i` to `draft`.
pub(crate) fn node(
    _module: &Module,
    draft: &mut Draft<'_>,
    i: usize,
    kernels: &mut KernelTable,
    options: &PlanOptions,
) -> Result<()> {
    let node = &draft.func.nodes[i];
    let inputs: Vec<_> = node.inputs.iter().map(|v| draft.of(*v)).collect();
    let outputs: Vec<_> = node.outputs.iter().map(|v| draft.of(*v)).collect();
    let ins: Vec<TensorType> = inputs.iter().map(|x| x.1.clone()).collect();
    let outs: Vec<TensorType> = outputs.iter().map(|x| x.1.clone()).collect();
    if !options.reference
        && let Op::Einsum { spec } = &node.op
        && let Some((gemm, swapped)) = as_gemm(spec, &ins[0], &ins[1], &outs[0], ins.len() == 3)
    {
        let kernel = gemm_kernel(kernels, gemm, node.op.flops(&ins, &outs), node.op.bytes(&ins, &outs))?;
        if let Some(acc) = inputs.get(2)
            && acc.0 != outputs[0].0
        {
            draft.push(i, Action::Op(Op::Reshape), vec![acc.clone()], outputs.clone());
        }
        let [a, b] = if swapped { [1, 0] } else { [0, 1] };
        draft.run(i, kernels, kernel, vec![inputs[a].clone(), inputs[b].clone()], outputs);
        return Ok(());
    }
    draft.push(i, Action::Op(node.op.clone()), inputs, outputs);
    Ok(())
}

/// The kernel for a matrix product.
fn gemm_kernel(kernels: &mut KernelTable, spec: GemmSpec, flops: u64, bytes: u64) -> Result<usize> {
    kernels.get(format!("{spec:?}"), |_| {
        let name = format!("gemm {}x{}x{} {}", spec.m, spec.n, spec.k, spec.a.dtype);
        Ok((Kernel { name, kind: KernelKind::Gemm { spec, fallback: None }, flops, bytes }, 0, None))
    })
}
