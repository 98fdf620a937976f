//! The vector-Jacobian product of every op: one row each.

use super::{Backward, NO_DERIVATIVE, contraction, elementwise, experts, layers, shape};
use athanor_ir::{Diagnostic, Node, Op, Result};

/// Adds the gradients of the operands of `node`, given those of its results.
pub(super) fn backward(back: &mut Backward<'_>, node: &Node) -> Result<()> {
    let reached = node.outputs.iter().any(|o| back.grad(*o).is_some());
    if !reached || !node.inputs.iter().any(|v| back.needs(*v)) {
        return Ok(());
    }
    // Of an op with one result; the match below asks for it only there.
    let dy = node.outputs.iter().find_map(|o| back.grad(*o)).unwrap_or(node.outputs[0]);
    match &node.op {
        // Nothing flows into an op without operands.
        Op::Constant { .. } | Op::RopeTable { .. } => {}
        Op::Unary(f) => elementwise::unary(back, *f, node, dy)?,
        Op::Binary(f) => elementwise::binary(back, *f, node, dy),
        Op::Cast => elementwise::cast(back, node, dy),
        Op::Reshape => shape::reshape(back, node, dy),
        Op::Transpose { perm } => shape::transpose(back, perm, node, dy),
        Op::Broadcast { dims } => shape::broadcast(back, dims, node, dy),
        Op::Slice { dim, start, len } => shape::slice(back, (*dim, *start, *len), node, dy),
        Op::Concat { dim } => shape::concat(back, *dim, node, dy),
        Op::Reduce { kind, dims } => shape::reduce(back, *kind, dims, node, dy),
        Op::Einsum { spec } => contraction::einsum(back, spec, node, dy)?,
        Op::Embed => layers::embed(back, node, dy),
        Op::RmsNorm { eps } => layers::norm(back, Op::RmsNormGrad { eps: *eps }, node, dy),
        Op::LayerNorm { eps } => layers::norm(back, Op::LayerNormGrad { eps: *eps }, node, dy),
        Op::Rope { interleaved, inverse } => layers::rope(back, *interleaved, *inverse, node, dy)?,
        Op::Attention { scale, causal, alibi } => layers::attention(back, (*scale, *causal, *alibi), node)?,
        Op::CrossEntropy => layers::cross_entropy(back, node),
        Op::Pick => experts::pick(back, node, dy),
        Op::Dispatch { .. } => experts::dispatch(back, node, dy),
        Op::Combine => experts::combine(back, node, dy),
        Op::GroupedEinsum { spec } => experts::grouped(back, spec, node, dy)?,
        // Choices and counts are steps: no gradient flows through them.
        Op::Route { .. } | Op::Histogram { .. } | Op::Assign { .. } | Op::Rounds { .. } | Op::Portion { .. } => {}
        Op::PickGrad { .. }
        | Op::CombineDot
        | Op::EmbedGrad { .. }
        | Op::RmsNormGrad { .. }
        | Op::LayerNormGrad { .. }
        | Op::AttentionGrad { .. }
        | Op::AttentionStep { .. }
        | Op::AttentionStepGrad { .. }
        | Op::CrossEntropyGrad
        | Op::PartEntropy
        | Op::PartEntropyGrad
        | Op::SumSquares
        | Op::Collective(_)
        | Op::Handover { .. }
        | Op::KeepSlice { .. }
        | Op::OwnSlice { .. }
        | Op::SumSlices { .. }
        | Op::Await
        | Op::ToHost
        | Op::FromHost
        | Op::AdamW { .. } => return no_derivative(node, ""),
        // Calls are inlined before.
        Op::Repeat { .. } | Op::Call { .. } => return no_derivative(node, ""),
    }
    Ok(())
}

/// The error that `node` has no derivative, `through` one of its parts.
pub(super) fn no_derivative(node: &Node, through: &str) -> Result<()> {
    let text = format!("nn.{}{through} in block {:?} cannot be differentiated", node.op.name(), node.loc.block);
    Diagnostic::error(&NO_DERIVATIVE, text).help("keep it off the way from the weights to the loss").err()
}
