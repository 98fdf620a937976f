//! The reference implementation of every op: naive loops in f64, each result rounded once to its dtype.
//!
//! It is the oracle that passes, generated kernels and libraries are compared with, so it favours being evidently
//! right. [`run_op`] executes one op on raw buffers, [`interpret`] a whole function.

mod attention;
mod contraction;
mod elementwise;
mod experts;
mod interpret;
mod loss;
mod norm;
mod optimizer;
mod shape;
mod slices;
mod tensor;

pub use interpret::{CODES, INTERPRET, interpret};
pub use tensor::{Tensor, View, ViewMut};

use athanor_ir::infer::check;
use athanor_ir::{Op, TensorType};
use tensor::{Array, load, store};

/// Runs `op` on `ins` into `outs`; the error says which rule the operands or their data break.
///
/// Everything is computed in f64 from the operands' values and rounded to nearest even when stored.
pub fn run_op(op: &Op, ins: &[View<'_>], outs: &mut [ViewMut<'_>]) -> Result<(), String> {
    let in_types: Vec<TensorType> = ins.iter().map(|v| v.ty.clone()).collect();
    let out_types: Vec<TensorType> = outs.iter().map(|v| v.ty.clone()).collect();
    check(op, &in_types, &out_types).map_err(|e| format!("nn.{}: {e}", op.name()))?;
    if let Some(t) = in_types.iter().chain(&out_types).find(|t| t.elements() == 0) {
        return Err(format!("nn.{}: {t} has no elements", op.name()));
    }
    let arrays = ins.iter().map(load).collect::<Result<Vec<Array>, String>>()?;
    let results = compute(op, &arrays, &out_types).map_err(|e| format!("nn.{}: {e}", op.name()))?;
    for (out, data) in outs.iter_mut().zip(&results) {
        store(out, data)?;
    }
    Ok(())
}

/// The values of each result; operands are checked to fit the op.
fn compute(op: &Op, ins: &[Array], outs: &[TensorType]) -> Result<Vec<Vec<f64>>, String> {
    let one = |data: Vec<f64>| Ok(vec![data]);
    match op {
        Op::Constant { value } => one(vec![value.0; outs[0].elements()]),
        Op::Unary(f) => one(elementwise::unary(*f, &ins[0])),
        Op::Binary(f) => one(elementwise::binary(*f, &ins[0], &ins[1])),
        Op::Cast | Op::Reshape | Op::Await | Op::ToHost | Op::FromHost => one(ins[0].data.clone()),
        Op::Transpose { perm } => one(shape::transpose(&ins[0], perm)),
        Op::Broadcast { dims } => one(shape::broadcast(&ins[0], dims, &outs[0].dims)),
        Op::Slice { dim, start, len } => one(shape::slice(&ins[0], *dim, *start, *len)),
        Op::Concat { dim } => one(shape::concat(ins, *dim)),
        Op::KeepSlice { dim } => one(slices::keep(&ins[0], &ins[1], *dim, slices::start(&ins[2])?)?),
        Op::OwnSlice { dim, len } => one(slices::own(&ins[0], (*dim, *len), slices::start(&ins[1])?)?),
        Op::SumSlices { begin } => one(slices::sum(&ins[0], &ins[1], slices::start(&ins[2])? == *begin)),
        Op::Reduce { kind, dims } => one(shape::reduce(&ins[0], *kind, dims)),
        Op::Einsum { spec } => one(contraction::einsum(spec, ins)?),
        Op::Embed => one(loss::embed(&ins[0], &ins[1])),
        Op::EmbedGrad { vocab } => one(loss::embed_grad(&ins[0], &ins[1], *vocab)),
        Op::RmsNorm { eps } => one(norm::rms(&ins[0], &ins[1], eps.0)),
        Op::RmsNormGrad { eps } => Ok(norm::rms_grad(&ins[0], &ins[1], &ins[2], eps.0)),
        Op::LayerNorm { eps } => one(norm::layer(&ins[0], &ins[1], &ins[2], eps.0)),
        Op::LayerNormGrad { eps } => Ok(norm::layer_grad(&ins[0], &ins[1], &ins[2], eps.0)),
        Op::RopeTable { inv_freq, scale } => Ok(attention::rope_table(inv_freq, scale.0, outs[0].dims[0])),
        Op::Rope { interleaved, inverse } => one(attention::rope(ins, *interleaved, *inverse)),
        Op::Attention { scale, causal, alibi } => Ok(attention::forward(ins, scale.0, *causal, *alibi)),
        Op::AttentionStep { scale, alibi } => Ok(attention::forward(ins, scale.0, true, *alibi)),
        Op::AttentionStepGrad { scale, alibi } => Ok(attention::backward(ins, scale.0, true, *alibi)),
        Op::AttentionGrad { scale, causal, alibi } => Ok(attention::backward(ins, scale.0, *causal, *alibi)),
        Op::CrossEntropy => loss::cross_entropy(&ins[0], &ins[1]),
        Op::CrossEntropyGrad => one(loss::cross_entropy_grad(ins)?),
        Op::PartEntropy => Ok(loss::part_entropy(&ins[0], &ins[1])),
        Op::PartEntropyGrad => one(loss::part_entropy_grad(ins)),
        Op::Route { k, groups, group_k, group_top, mask } => {
            let choice =
                experts::Choice { k: *k, groups: *groups, group_k: *group_k, group_top: *group_top, mask: *mask };
            one(experts::route(&ins[0], ins.get(1), &choice))
        }
        Op::Pick => one(experts::pick(&ins[0], &ins[1])?),
        Op::PickGrad { n } => one(experts::pick_grad(&ins[0], &ins[1], *n)?),
        Op::Histogram { bins } => one(experts::histogram(&ins[0], *bins)?),
        Op::Assign { experts, capacity } => experts::assign(&ins[0], ins.get(1), *experts, *capacity),
        Op::Dispatch { rows } => one(experts::dispatch(&ins[0], &ins[1], ins.get(2), *rows)?),
        Op::Combine => one(experts::combine(&ins[0], &ins[1], ins.get(2))?),
        Op::CombineDot => one(experts::combine_dot(&ins[0], &ins[1], &ins[2])?),
        Op::GroupedEinsum { spec } => one(experts::grouped(spec, ins, outs[0].elements())?),
        Op::Rounds { capacity } => one(vec![experts::rounds(&ins[0], *capacity)]),
        Op::Portion { capacity } => Ok(experts::portion(&ins[0], &ins[1], &ins[2], *capacity)),
        Op::SumSquares => one(vec![ins.iter().flat_map(|x| &x.data).map(|v| v * v).sum()]),
        Op::AdamW { beta1, beta2, eps, decay } => Ok(optimizer::adamw(ins, [beta1.0, beta2.0, eps.0, decay.0])),
        Op::Collective(c) => Err(format!("it is of {} ranks together and cannot be computed by one", c.ranks)),
        Op::Handover { .. } => Err("it is between two programs and no step of one".into()),
        Op::Repeat { callee } | Op::Call { callee } => {
            Err(format!("@{callee} is run by `interpret`, which has the module"))
        }
    }
}

#[cfg(test)]
mod tests;
