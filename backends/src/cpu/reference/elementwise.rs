//! Element-wise functions.

use super::tensor::Array;
use athanor_ir::{Binary, Unary};

pub(super) fn unary(f: Unary, x: &Array) -> Vec<f64> {
    x.data.iter().map(|x| f.eval(*x)).collect()
}

pub(super) fn binary(f: Binary, a: &Array, b: &Array) -> Vec<f64> {
    a.data.iter().zip(&b.data).map(|(a, b)| f.eval(*a, *b)).collect()
}
