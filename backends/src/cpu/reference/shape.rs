//! Ops that move elements, all of them one strided gather, and reductions, which fold after it.

use super::tensor::Array;
use athanor_ir::ReduceKind;

/// Row-major strides of `dims`, in elements.
pub(super) fn strides(dims: &[usize]) -> Vec<usize> {
    let mut out = vec![1; dims.len()];
    for i in (1..dims.len()).rev() {
        out[i - 1] = out[i] * dims[i];
    }
    out
}

/// The elements `src[start + Σ iᵈ·stride[d]]` for every index i below `dims`, the last dim fastest.
pub(super) fn gather(src: &[f64], start: usize, dims: &[usize], stride: &[usize]) -> Vec<f64> {
    let mut out = Vec::with_capacity(dims.iter().product());
    if dims.contains(&0) {
        return out;
    }
    let (inner, step) = (dims.last().copied().unwrap_or(1), stride.last().copied().unwrap_or(0));
    let outer = &dims[..dims.len().saturating_sub(1)];
    let (mut index, mut at) = (vec![0; outer.len()], start);
    loop {
        out.extend((0..inner).map(|i| src[at + i * step]));
        // Advance the outer index like an odometer.
        let mut d = outer.len();
        loop {
            if d == 0 {
                return out;
            }
            d -= 1;
            index[d] += 1;
            at += stride[d];
            if index[d] < outer[d] {
                break;
            }
            at -= index[d] * stride[d];
            index[d] = 0;
        }
    }
}

pub(super) fn transpose(x: &Array, perm: &[usize]) -> Vec<f64> {
    let s = strides(&x.dims);
    let pick = |v: &[usize]| perm.iter().map(|p| v[*p]).collect::<Vec<_>>();
    gather(&x.data, 0, &pick(&x.dims), &pick(&s))
}

pub(super) fn broadcast(x: &Array, dims: &[usize], to: &[usize]) -> Vec<f64> {
    let mut stride = vec![0; to.len()];
    for (d, s) in dims.iter().zip(strides(&x.dims)) {
        stride[*d] = s;
    }
    gather(&x.data, 0, to, &stride)
}

pub(super) fn slice(x: &Array, dim: usize, start: usize, len: usize) -> Vec<f64> {
    let s = strides(&x.dims);
    let mut dims = x.dims.clone();
    dims[dim] = len;
    gather(&x.data, start * s[dim], &dims, &s)
}

pub(super) fn concat(xs: &[Array], dim: usize) -> Vec<f64> {
    let outer: usize = xs[0].dims[..dim].iter().product();
    let mut out = Vec::with_capacity(xs.iter().map(|x| x.data.len()).sum());
    for row in 0..outer {
        for x in xs {
            let n = x.data.len() / outer;
            out.extend_from_slice(&x.data[row * n..(row + 1) * n]);
        }
    }
    out
}

pub(super) fn reduce(x: &Array, kind: ReduceKind, dims: &[usize]) -> Vec<f64> {
    let s = strides(&x.dims);
    let order: Vec<usize> = (0..x.dims.len()).filter(|d| !dims.contains(d)).chain(dims.iter().copied()).collect();
    let pick = |v: &[usize]| order.iter().map(|d| v[*d]).collect::<Vec<_>>();
    let folded: usize = dims.iter().map(|d| x.dims[*d]).product();
    let kept: usize = (0..x.dims.len()).filter(|d| !dims.contains(d)).map(|d| x.dims[d]).product();
    let rows = gather(&x.data, 0, &pick(&x.dims), &pick(&s));
    (0..kept)
        .map(|r| {
            let row = &rows[r * folded..(r + 1) * folded];
            match kind {
                ReduceKind::Sum => row.iter().sum(),
                ReduceKind::Max => row.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            }
        })
        .collect()
}
