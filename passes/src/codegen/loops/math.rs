//! Element-wise functions on vectors.

use crate::codegen::emit::{Emit, Val};
use crate::codegen::simd::Simd;
use athanor_ir::op::{Binary, Unary};

/// Largest argument of the exponential that stays finite, with room for one doubling.
const EXP2_LIMIT: f64 = 126.0;

fn times(s: &Simd, e: &mut Emit, x: Val, factor: f64) -> Val {
    s.times(e, x, factor, s.lanes)
}

fn min(s: &Simd, e: &mut Emit, a: Val, b: Val) -> Val {
    let less = e.val(format_args!("arith.cmpf olt, {a}, {b} : {}", s.ty()));
    s.select(e, less, a, b)
}

/// eˣ, at most 2^126.
fn exp(s: &Simd, e: &mut Emit, x: Val) -> Val {
    let x = times(s, e, x, std::f64::consts::LOG2_E);
    let limit = s.splat(e, EXP2_LIMIT);
    // The limit is the second operand, which a NaN does not replace.
    let big = e.val(format_args!("arith.cmpf ogt, {x}, {limit} : {}", s.ty()));
    let x = s.select(e, big, limit, x);
    s.exp2(e, x)
}

/// 1/(1 + eʸ).
fn sigmoid_of_minus(s: &Simd, e: &mut Emit, y: Val) -> Val {
    let one = s.splat(e, 1.0);
    let exp = exp(s, e, y);
    let below = s.op(e, "addf", one, exp);
    s.op(e, "divf", one, below)
}

fn sigmoid(s: &Simd, e: &mut Emit, x: Val) -> Val {
    let minus = times(s, e, x, -1.0);
    sigmoid_of_minus(s, e, minus)
}

/// 2/(1 + e⁻²ˣ) − 1: absolute error below 2e-7.
fn tanh(s: &Simd, e: &mut Emit, x: Val) -> Val {
    let twice = times(s, e, x, -2.0);
    let half = sigmoid_of_minus(s, e, twice);
    let two = times(s, e, half, 2.0);
    let one = s.splat(e, 1.0);
    s.op(e, "subf", two, one)
}

/// With y = √(2/π)·(x + 0.044715·x³): tanh y, 1 − tanh² y without cancellation, and x².
fn gelu_tanh(s: &Simd, e: &mut Emit, x: Val) -> (Val, Val, Val) {
    let x2 = s.op(e, "mulf", x, x);
    let c = s.splat(e, 0.044715);
    let one = s.splat(e, 1.0);
    let factor = s.fma(e, c, x2, one);
    let inner = s.op(e, "mulf", x, factor);
    let inner = times(s, e, inner, -2.0 * 0.797_884_560_802_865_4);
    let power = exp(s, e, inner);
    let below = s.op(e, "addf", one, power);
    let half = s.op(e, "divf", one, below);
    let two = times(s, e, half, 2.0);
    let tanh = s.op(e, "subf", two, one);
    let near = s.op(e, "mulf", power, half);
    let slope = s.op(e, "mulf", near, half);
    let slope = times(s, e, slope, 4.0);
    (tanh, slope, x2)
}

/// Φ(x), the standard normal distribution, within 1e-7, and e^(−x²/2).
///
/// Abramowitz and Stegun 7.1.26: erfc z = t·(a₁ + t·(a₂ + …))·e^(−z²) with t = 1/(1 + p·z), for z = |x|/√2.
fn normal(s: &Simd, e: &mut Emit, x: Val) -> (Val, Val) {
    const P: f64 = 0.327_591_1;
    const A: [f64; 5] = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    let (zero, one) = (s.splat(e, 0.0), s.splat(e, 1.0));
    let x2 = s.op(e, "mulf", x, x);
    let half = times(s, e, x2, -0.5);
    let power = exp(s, e, half);
    let minus = times(s, e, x, -1.0);
    let size = s.max(e, x, minus);
    let p = s.splat(e, P * std::f64::consts::FRAC_1_SQRT_2);
    let below = s.fma(e, p, size, one);
    let t = s.op(e, "divf", one, below);
    let mut sum = s.splat(e, A[0]);
    for a in &A[1..] {
        let a = s.splat(e, *a);
        sum = s.fma(e, sum, t, a);
    }
    let sum = s.op(e, "mulf", sum, t);
    let tail = s.op(e, "mulf", sum, power);
    let tail = times(s, e, tail, 0.5);
    let rest = s.op(e, "subf", one, tail);
    let negative = e.val(format_args!("arith.cmpf olt, {x}, {zero} : {}", s.ty()));
    (s.select(e, negative, tail, rest), power)
}

/// `f(x)`.
pub fn unary(s: &Simd, e: &mut Emit, f: Unary, x: Val) -> Val {
    let one = |e: &mut Emit| s.splat(e, 1.0);
    let root = |e: &mut Emit| e.val(format_args!("math.sqrt {x} : {}", s.ty()));
    match f {
        Unary::Neg => times(s, e, x, -1.0),
        Unary::Exp => exp(s, e, x),
        Unary::Log => s.ln(e, x),
        Unary::Sqrt => root(e),
        Unary::Rsqrt => {
            let (one, root) = (one(e), root(e));
            s.op(e, "divf", one, root)
        }
        Unary::Recip => {
            let one = one(e);
            s.op(e, "divf", one, x)
        }
        Unary::Tanh => tanh(s, e, x),
        Unary::Sigmoid => sigmoid(s, e, x),
        Unary::Silu => {
            let g = sigmoid(s, e, x);
            s.op(e, "mulf", x, g)
        }
        Unary::SiluGrad => {
            let (g, one) = (sigmoid(s, e, x), one(e));
            let rest = s.op(e, "subf", one, g);
            let factor = s.fma(e, x, rest, one);
            s.op(e, "mulf", g, factor)
        }
        Unary::Gelu => {
            let (t, _, _) = gelu_tanh(s, e, x);
            let one = one(e);
            let sum = s.op(e, "addf", one, t);
            let half = times(s, e, x, 0.5);
            s.op(e, "mulf", half, sum)
        }
        Unary::GeluGrad => {
            let (t, slope, x2) = gelu_tanh(s, e, x);
            let one = one(e);
            let sum = s.op(e, "addf", one, t);
            let first = times(s, e, sum, 0.5);
            let c = s.splat(e, 3.0 * 0.044715);
            let inner = s.fma(e, c, x2, one);
            let inner = times(s, e, inner, 0.797_884_560_802_865_4 * 0.5);
            let second = s.op(e, "mulf", x, slope);
            s.fma(e, second, inner, first)
        }
        Unary::GeluErf => {
            let (below, _) = normal(s, e, x);
            s.op(e, "mulf", x, below)
        }
        Unary::GeluErfGrad => {
            let (below, power) = normal(s, e, x);
            let density = times(s, e, power, 0.398_942_280_401_432_7);
            s.fma(e, x, density, below)
        }
        Unary::Square => s.op(e, "mulf", x, x),
        Unary::Sign => {
            let (zero, one, minus) = (s.splat(e, 0.0), one(e), s.splat(e, -1.0));
            let mut is = |order: &str, value: Val, rest: Val| {
                let mask = e.val(format_args!("arith.cmpf {order}, {x}, {zero} : {}", s.ty()));
                s.select(e, mask, value, rest)
            };
            let below = is("olt", minus, zero);
            is("ogt", one, below)
        }
    }
}

/// `f(a, b)`.
pub fn binary(s: &Simd, e: &mut Emit, f: Binary, a: Val, b: Val) -> Val {
    match f {
        Binary::Add => s.op(e, "addf", a, b),
        Binary::Sub => s.op(e, "subf", a, b),
        Binary::Mul => s.op(e, "mulf", a, b),
        Binary::Div => s.op(e, "divf", a, b),
        Binary::Max => s.max(e, a, b),
        Binary::Min => min(s, e, a, b),
    }
}
