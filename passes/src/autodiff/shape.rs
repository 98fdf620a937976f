//! Derivatives of ops that move elements, and of reductions.

use super::Backward;
use super::elementwise::exceeds;
use athanor_ir::{Binary, Builder, Node, Op, ReduceKind, ValueId};

pub(super) fn reshape(back: &mut Backward<'_>, node: &Node, dy: ValueId) {
    let x = node.inputs[0];
    let dims = back.b.ty(x).dims;
    let dx = back.b.reshape(dy, &dims);
    back.add(x, dx);
}

pub(super) fn transpose(back: &mut Backward<'_>, perm: &[usize], node: &Node, dy: ValueId) {
    let mut inverse = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(i, p)| inverse[*p] = i);
    let dx = back.b.many(Op::Transpose { perm: inverse }, &[dy])[0];
    back.add(node.inputs[0], dx);
}

/// The sum over the repeated dims, of a weight's cast in the weight's own dtype.
pub(super) fn broadcast(back: &mut Backward<'_>, dims: &[usize], node: &Node, dy: ValueId) {
    let x = node.inputs[0];
    let repeated: Vec<usize> = (0..back.b.ty(dy).rank()).filter(|d| !dims.contains(d)).collect();
    let dy = if repeated.is_empty() { dy } else { back.b.cast(dy, back.kept_as[x.0 as usize]) };
    let dx = back.b.reduce(ReduceKind::Sum, dy, &repeated);
    back.add(x, dx);
}

/// Zeros outside the slice.
pub(super) fn slice(back: &mut Backward<'_>, (dim, start, len): (usize, usize, usize), node: &Node, dy: ValueId) {
    let (x, b) = (node.inputs[0], &mut back.b);
    let whole = b.ty(x).dims[dim];
    let zeros = |b: &mut Builder<'_>, n: usize| {
        let mut ty = b.ty(dy);
        ty.dims[dim] = n;
        (n > 0).then(|| b.constant(0.0, ty))
    };
    let before = zeros(b, start);
    let after = zeros(b, whole - start - len);
    let parts: Vec<ValueId> = before.into_iter().chain([dy]).chain(after).collect();
    let dx = if parts.len() == 1 { dy } else { b.many(Op::Concat { dim }, &parts)[0] };
    back.add(x, dx);
}

pub(super) fn concat(back: &mut Backward<'_>, dim: usize, node: &Node, dy: ValueId) {
    let mut start = 0;
    for x in &node.inputs {
        let len = back.b.ty(*x).dims[dim];
        if back.needs(*x) {
            let dx = back.b.slice(dy, dim, start, len);
            back.add(*x, dx);
        }
        start += len;
    }
}

/// Of a sum the gradient repeated; of a maximum shared equally between the elements that attain it.
pub(super) fn reduce(back: &mut Backward<'_>, kind: ReduceKind, dims: &[usize], node: &Node, dy: ValueId) {
    let (x, y, b) = (node.inputs[0], node.outputs[0], &mut back.b);
    let to = b.ty(x).dims;
    let kept: Vec<usize> = (0..to.len()).filter(|d| !dims.contains(d)).collect();
    let dx = match kind {
        ReduceKind::Sum => b.broadcast(dy, &kept, &to),
        ReduceKind::Max => {
            let max = b.broadcast(y, &kept, &to);
            let below = exceeds(b, max, x);
            let ty = b.ty(below);
            let one = b.constant(1.0, ty);
            let attains = b.binary(Binary::Sub, one, below);
            let count = b.reduce(ReduceKind::Sum, attains, dims);
            let share = b.binary(Binary::Div, dy, count);
            let share = b.broadcast(share, &kept, &to);
            b.mul(share, attains)
        }
    };
    back.add(x, dx);
}
