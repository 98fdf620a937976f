//! Derivatives of ops that are a layer of their own: embedding, norms, rotation, attention, loss.

use super::Backward;
use super::vjp::no_derivative;
use athanor_ir::{Binary, F64, Node, Op, Result, Unary, ValueId};

/// Adds `grads` to the operands `xs` that need them.
fn add_each(back: &mut Backward<'_>, xs: &[ValueId], grads: &[ValueId]) {
    for (x, g) in xs.iter().zip(grads) {
        if back.needs(*x) {
            back.add(*x, *g);
        }
    }
}

pub(super) fn embed(back: &mut Backward<'_>, node: &Node, dy: ValueId) {
    let [ids, table] = [node.inputs[0], node.inputs[1]];
    let ty = back.b.ty(table).with_dtype(back.kept_as[table.0 as usize]);
    let op = Op::EmbedGrad { vocab: ty.dims[0] };
    let loc = back.b.loc.clone();
    let dtable = back.b.func.push(op, &[ids, dy], vec![ty], &loc)[0];
    back.add(table, dtable);
}

/// `RmsNorm` and `LayerNorm`: the gradients of (x, gain[, bias]) in one op.
pub(super) fn norm(back: &mut Backward<'_>, op: Op, node: &Node, dy: ValueId) {
    let dtype = back.b.ty(node.inputs[0]).dtype;
    let dy = back.b.cast(dy, dtype);
    let grads = back.b.many(op, &[node.inputs[0], node.inputs[1], dy]);
    add_each(back, &node.inputs, &grads);
}

/// Rotation back; the tables are constants of the model.
pub(super) fn rope(back: &mut Backward<'_>, interleaved: bool, inverse: bool, node: &Node, dy: ValueId) -> Result<()> {
    if node.inputs[1..].iter().any(|v| back.needs(*v)) {
        return no_derivative(node, " by its tables");
    }
    let op = Op::Rope { interleaved, inverse: !inverse };
    let dx = back.b.many(op, &[dy, node.inputs[1], node.inputs[2]])[0];
    back.add(node.inputs[0], dx);
    Ok(())
}

pub(super) fn attention(back: &mut Backward<'_>, (scale, causal, alibi): (F64, bool, bool), node: &Node) -> Result<()> {
    let [out, lse] = [node.outputs[0], node.outputs[1]];
    if node.inputs.len() > 3 {
        return no_derivative(node, " with keys that begin elsewhere");
    }
    let (Some(dout), None) = (back.grad(out), back.grad(lse)) else {
        return no_derivative(node, " through its log-sum-exp");
    };
    let dtype = back.b.ty(out).dtype;
    let dout = back.b.cast(dout, dtype);
    let inputs: Vec<ValueId> = node.inputs.iter().copied().chain([out, lse, dout]).collect();
    let grads = back.b.many(Op::AttentionGrad { scale, causal, alibi }, &inputs);
    add_each(back, &node.inputs, &grads);
    Ok(())
}

/// Through the loss, (softmax − onehot)·dloss; through the log-sum-exp, softmax·dlse.
pub(super) fn cross_entropy(back: &mut Backward<'_>, node: &Node) {
    let [logits, labels] = [node.inputs[0], node.inputs[1]];
    let [loss, lse] = [node.outputs[0], node.outputs[1]];
    if let Some(dloss) = back.grad(loss) {
        let dlogits = back.b.many(Op::CrossEntropyGrad, &[logits, labels, lse, dloss])[0];
        back.add(logits, dlogits);
    }
    if let Some(dlse) = back.grad(lse) {
        let b = &mut back.b;
        let (wide, to) = (b.ty(lse).dtype, b.ty(logits));
        let rows: Vec<usize> = (0..to.rank() - 1).collect();
        let x = b.cast(logits, wide);
        let (lse, dlse) = (b.broadcast(lse, &rows, &to.dims), b.broadcast(dlse, &rows, &to.dims));
        let below = b.binary(Binary::Sub, x, lse);
        let softmax = b.unary(Unary::Exp, below);
        let product = b.mul(softmax, dlse);
        let dlogits = b.cast(product, to.dtype);
        back.add(logits, dlogits);
    }
}
