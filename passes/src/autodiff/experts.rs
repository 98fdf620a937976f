//! Derivatives of ops that move tokens to experts and back. Where a token goes is a choice, not a number: it has none.

use super::Backward;
use super::vjp::no_derivative;
use athanor_ir::experts::{GroupedForm, parse_grouped};
use athanor_ir::{Node, Op, Result, ValueId};

pub(super) fn pick(back: &mut Backward<'_>, node: &Node, dy: ValueId) {
    let [x, ids] = [node.inputs[0], node.inputs[1]];
    let n = back.b.ty(x).dims.last().copied().unwrap_or(1);
    let dx = back.b.many(Op::PickGrad { n }, &[ids, dy])[0];
    back.add(x, dx);
}

/// dx sums the slots' rows as `combine` does; dw is their product with the token.
pub(super) fn dispatch(back: &mut Backward<'_>, node: &Node, dy: ValueId) {
    let [x, rows] = [node.inputs[0], node.inputs[1]];
    let dy = back.b.cast(dy, back.b.ty(x).dtype);
    if back.needs(x) {
        let operands: Vec<ValueId> = [dy, rows].into_iter().chain(node.inputs.get(2).copied()).collect();
        let dx = back.b.many(Op::Combine, &operands)[0];
        back.add(x, dx);
    }
    weights(back, node, [dy, rows, x]);
}

/// dy goes to the slots' rows as `dispatch` does; dw is its product with them.
pub(super) fn combine(back: &mut Backward<'_>, node: &Node, dout: ValueId) {
    let [y, rows] = [node.inputs[0], node.inputs[1]];
    let ty = back.b.ty(y);
    let dout = back.b.cast(dout, ty.dtype);
    if back.needs(y) {
        let operands: Vec<ValueId> = [dout, rows].into_iter().chain(node.inputs.get(2).copied()).collect();
        let dy = back.b.many(Op::Dispatch { rows: ty.dims[0] }, &operands)[0];
        back.add(y, dy);
    }
    weights(back, node, [y, rows, dout]);
}

fn weights(back: &mut Backward<'_>, node: &Node, operands: [ValueId; 3]) {
    if let Some(w) = node.inputs.get(2).copied().filter(|w| back.needs(*w)) {
        let dw = back.b.many(Op::CombineDot, &operands)[0];
        let dw = back.b.cast(dw, back.b.ty(w).dtype);
        back.add(w, dw);
    }
}

/// The same contraction with the gradient in an operand's place; rows come first.
pub(super) fn grouped(back: &mut Backward<'_>, spec: &str, node: &Node, dy: ValueId) -> Result<()> {
    let Ok((GroupedForm::Rows, [a, b, out])) = parse_grouped(spec) else {
        return no_derivative(node, " where experts sum over rows");
    };
    let [x, w, spans] = [node.inputs[0], node.inputs[1], node.inputs[2]];
    let text = |l: &[char]| l.iter().collect::<String>();
    let loc = back.b.loc.clone();
    let dout = dy;
    let dy = back.b.cast(dout, back.b.ty(x).dtype);
    if back.needs(x) {
        let spec = format!("{},{}->{}", text(&out), text(&b), text(&a));
        let dx = back.b.many(Op::GroupedEinsum { spec }, &[dy, w, spans])[0];
        back.add(x, dx);
    }
    if back.needs(w) {
        let spec = format!("{},{}->{}", text(&out), text(&a), text(&b));
        // Products of a weight's cast are kept in the weight's own type.
        let kept = back.b.ty(w).with_dtype(back.kept_as[w.0 as usize]);
        let dw = back.b.func.push(Op::GroupedEinsum { spec }, &[dy, x, spans], vec![kept], &loc)[0];
        back.add(w, dw);
    }
    if let Some(acc) = node.inputs.get(3).copied().filter(|v| back.needs(*v)) {
        let dacc = back.b.cast(dout, back.b.ty(acc).dtype);
        back.add(acc, dacc);
    }
    Ok(())
}
