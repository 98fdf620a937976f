//! What the slices of a sequence share: the slice in work begins at a place that is data.

use super::shape;
use super::tensor::Array;

/// Where the slice begins, from where the first token is, counted from the slice.
pub(super) fn start(first: &Array) -> Result<usize, String> {
    let at = -first.data[0];
    if at >= 0.0 { Ok(at as usize) } else { Err(format!("a slice begins at {at}")) }
}

/// That `len` elements from `start` on are among the `all` of a dim.
fn within(all: usize, start: usize, len: usize) -> Result<(), String> {
    let end = start.saturating_add(len);
    if end <= all { Ok(()) } else { Err(format!("a slice from {start} to {end} is not among {all}")) }
}

/// `kept` with `part` from `start` on in dim `dim`, and zeros behind it.
pub(super) fn keep(kept: &Array, part: &Array, dim: usize, start: usize) -> Result<Vec<f64>, String> {
    within(kept.dims[dim], start, part.dims[dim])?;
    let inner: usize = kept.dims[dim + 1..].iter().product();
    let (all, len) = (kept.dims[dim] * inner, part.dims[dim] * inner);
    let mut out = kept.data.clone();
    for (row, part) in out.chunks_mut(all).zip(part.data.chunks(len)) {
        row[start * inner..][..len].copy_from_slice(part);
        row[start * inner + len..].fill(0.0);
    }
    Ok(out)
}

/// `len` indices of dim `dim` from `start` on.
pub(super) fn own(x: &Array, (dim, len): (usize, usize), start: usize) -> Result<Vec<f64>, String> {
    within(x.dims[dim], start, len)?;
    Ok(shape::slice(x, dim, start, len))
}

/// `sum` + `x`, or `x` alone if it is the first to come.
pub(super) fn sum(sum: &Array, x: &Array, first: bool) -> Vec<f64> {
    if first { x.data.clone() } else { sum.data.iter().zip(&x.data).map(|(s, x)| s + x).collect() }
}
