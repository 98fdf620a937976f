//! Derivatives of element-wise ops.

use super::Backward;
use super::vjp::no_derivative;
use athanor_ir::{Binary, Builder, DType, Node, Result, Unary, ValueId};

fn constant_like(b: &mut Builder<'_>, value: f64, like: ValueId) -> ValueId {
    let ty = b.ty(like);
    b.constant(value, ty)
}

/// c·x
fn scaled(b: &mut Builder<'_>, c: f64, x: ValueId) -> ValueId {
    let c = constant_like(b, c, x);
    b.mul(c, x)
}

/// 1 − x
fn complement(b: &mut Builder<'_>, x: ValueId) -> ValueId {
    let one = constant_like(b, 1.0, x);
    b.binary(Binary::Sub, one, x)
}

pub(super) fn unary(back: &mut Backward<'_>, f: Unary, node: &Node, dy: ValueId) -> Result<()> {
    let (x, y, b) = (node.inputs[0], node.outputs[0], &mut back.b);
    let dx = match f {
        Unary::Neg => b.unary(Unary::Neg, dy),
        Unary::Exp => b.mul(dy, y),
        Unary::Log => b.binary(Binary::Div, dy, x),
        // ½/√x
        Unary::Sqrt => {
            let half = scaled(b, 0.5, dy);
            b.binary(Binary::Div, half, y)
        }
        // −½·x^(−3/2) = −½·y/x
        Unary::Rsqrt => {
            let half = scaled(b, -0.5, dy);
            let slope = b.binary(Binary::Div, y, x);
            b.mul(half, slope)
        }
        // −1/x² = −y²
        Unary::Recip => {
            let square = b.unary(Unary::Square, y);
            let slope = b.unary(Unary::Neg, square);
            b.mul(dy, slope)
        }
        // 1 − y²
        Unary::Tanh => {
            let square = b.unary(Unary::Square, y);
            let slope = complement(b, square);
            b.mul(dy, slope)
        }
        // y·(1 − y)
        Unary::Sigmoid => {
            let rest = complement(b, y);
            let slope = b.mul(y, rest);
            b.mul(dy, slope)
        }
        Unary::Silu => {
            let slope = b.unary(Unary::SiluGrad, x);
            b.mul(dy, slope)
        }
        Unary::Gelu => {
            let slope = b.unary(Unary::GeluGrad, x);
            b.mul(dy, slope)
        }
        Unary::GeluErf => {
            let slope = b.unary(Unary::GeluErfGrad, x);
            b.mul(dy, slope)
        }
        Unary::Square => {
            let slope = scaled(b, 2.0, x);
            b.mul(dy, slope)
        }
        // A step: flat on both sides.
        Unary::Sign => constant_like(b, 0.0, dy),
        Unary::SiluGrad | Unary::GeluGrad | Unary::GeluErfGrad => return no_derivative(node, ""),
    };
    back.add(x, dx);
    Ok(())
}

pub(super) fn binary(back: &mut Backward<'_>, f: Binary, node: &Node, dy: ValueId) {
    let [a, c] = [node.inputs[0], node.inputs[1]];
    let (need_a, need_c) = (back.needs(a), back.needs(c));
    let b = &mut back.b;
    let (da, dc) = match f {
        Binary::Add => (Some(dy), Some(dy)),
        Binary::Sub => (Some(dy), need_c.then(|| b.unary(Unary::Neg, dy))),
        Binary::Mul => (need_a.then(|| b.mul(dy, c)), need_c.then(|| b.mul(dy, a))),
        // dy/c and −dy·y/c
        Binary::Div => {
            let ratio = b.binary(Binary::Div, dy, c);
            let rest = need_c.then(|| {
                let part = b.mul(ratio, node.outputs[0]);
                b.unary(Unary::Neg, part)
            });
            (Some(ratio), rest)
        }
        // The larger (smaller) operand takes it all; of equal ones the right.
        Binary::Max | Binary::Min => {
            let left = if f == Binary::Max { exceeds(b, a, c) } else { exceeds(b, c, a) };
            let right = need_c.then(|| {
                let right = complement(b, left);
                b.mul(dy, right)
            });
            (need_a.then(|| b.mul(dy, left)), right)
        }
    };
    for (x, dx) in [(a, da), (c, dc)] {
        if let Some(dx) = dx.filter(|_| back.needs(x)) {
            back.add(x, dx);
        }
    }
}

/// 1 where x > y, else 0: the difference times a huge number, cut to \[0, 1\].
pub(super) fn exceeds(b: &mut Builder<'_>, x: ValueId, y: ValueId) -> ValueId {
    let dtype = b.ty(x).dtype;
    // binary16 has no number huge enough.
    let work = if dtype == DType::F16 { DType::F32 } else { dtype };
    let huge = if work == DType::F64 { 1e300 } else { 1e38 };
    let (x, y) = (b.cast(x, work), b.cast(y, work));
    let difference = b.binary(Binary::Sub, x, y);
    let steep = scaled(b, huge, difference);
    let (zero, one) = (constant_like(b, 0.0, steep), constant_like(b, 1.0, steep));
    let cut = b.binary(Binary::Max, steep, zero);
    let cut = b.binary(Binary::Min, cut, one);
    b.cast(cut, dtype)
}

pub(super) fn cast(back: &mut Backward<'_>, node: &Node, dy: ValueId) {
    let x = node.inputs[0];
    let dtype = back.b.ty(x).dtype;
    let dx = back.b.cast(dy, dtype);
    back.add(x, dx);
}
