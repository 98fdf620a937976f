//! Derivative of einsum: the same contraction with the gradient in an operand's place.

use super::Backward;
use super::vjp::no_derivative;
use athanor_ir::signature::parse_einsum;
use athanor_ir::{Node, Op, Result, ValueId};

/// For `A,B->O`: dA = `O,B->A` and dB = `O,A->B`; a label that only the operand itself has is repeated.
pub(super) fn einsum(back: &mut Backward<'_>, spec: &str, node: &Node, dy: ValueId) -> Result<()> {
    let Ok([a, b, out]) = parse_einsum(spec) else { return no_derivative(node, "") };
    for (x, labels, other, other_labels) in
        [(node.inputs[0], &a, node.inputs[1], &b), (node.inputs[1], &b, node.inputs[0], &a)]
    {
        if !back.needs(x) {
            continue;
        }
        let known: Vec<usize> =
            (0..labels.len()).filter(|i| out.contains(&labels[*i]) || other_labels.contains(&labels[*i])).collect();
        let text = |l: &[char]| l.iter().collect::<String>();
        let found: String = known.iter().map(|i| labels[*i]).collect();
        let spec = format!("{},{}->{found}", text(&out), text(other_labels));
        // Operands of one dtype; products of a weight's cast are kept in the weight's own.
        let ty = back.b.ty(x);
        let dy = back.b.cast(dy, back.b.ty(other).dtype);
        let dims: Vec<usize> = known.iter().map(|i| ty.dims[*i]).collect();
        let kept = ty.with_dims(dims).with_dtype(back.kept_as[x.0 as usize]);
        let loc = back.b.loc.clone();
        let part: ValueId = back.b.func.push(Op::Einsum { spec }, &[dy, other], vec![kept], &loc)[0];
        let dx = back.b.broadcast(part, &known, &ty.dims);
        back.add(x, dx);
    }
    if let Some(acc) = node.inputs.get(2).copied().filter(|v| back.needs(*v)) {
        let dtype = back.b.ty(acc).dtype;
        let dacc = back.b.cast(dy, dtype);
        back.add(acc, dacc);
    }
    Ok(())
}
