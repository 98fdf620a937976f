//! Einsum of two operands: both are gathered into rows along the contracted dims, then every pair of rows is a dot product.

use super::shape::{gather, strides};
use super::tensor::Array;
use athanor_ir::signature::parse_einsum;

/// The product, plus the third operand if there is one.
pub(super) fn einsum(spec: &str, ins: &[Array]) -> Result<Vec<f64>, String> {
    let [la, lb, lo] = parse_einsum(spec)?;
    let (a, b) = (&ins[0], &ins[1]);
    let extent = |c: &char| {
        let in_a = la.iter().position(|l| l == c).map(|i| a.dims[i]);
        in_a.or_else(|| lb.iter().position(|l| l == c).map(|i| b.dims[i])).unwrap_or(1)
    };
    // Labels: in both operands and the result, in the left and the result, in the right and the result, summed over.
    let (mut batch, mut left, mut right) = (vec![], vec![], vec![]);
    for c in &lo {
        match (la.contains(c), lb.contains(c)) {
            (true, true) => batch.push(*c),
            (true, false) => left.push(*c),
            _ => right.push(*c),
        }
    }
    let mut summed: Vec<char> = la.iter().copied().filter(|c| !lo.contains(c)).collect();
    summed.extend(lb.iter().filter(|c| !lo.contains(c) && !la.contains(c)));
    // A label that an operand lacks has stride 0 there.
    let pack = |x: &Array, labels: &[char], free: &[char]| {
        let s = strides(&x.dims);
        let order: Vec<char> = batch.iter().chain(free).chain(&summed).copied().collect();
        let dims: Vec<usize> = order.iter().map(extent).collect();
        let stride: Vec<usize> = order.iter().map(|c| labels.iter().position(|l| l == c).map_or(0, |i| s[i])).collect();
        gather(&x.data, 0, &dims, &stride)
    };
    let size = |labels: &[char]| labels.iter().map(extent).product::<usize>();
    let (nb, m, n, k) = (size(&batch), size(&left), size(&right), size(&summed));
    let (pa, pb) = (pack(a, &la, &left), pack(b, &lb, &right));
    let mut product = Vec::with_capacity(nb * m * n);
    for i in 0..nb {
        for row in 0..m {
            let x = &pa[(i * m + row) * k..][..k];
            product.extend((0..n).map(|col| dot(x, &pb[(i * n + col) * k..][..k])));
        }
    }
    // From batch-left-right order to the result's.
    let order: Vec<char> = batch.iter().chain(&left).chain(&right).copied().collect();
    let s = strides(&order.iter().map(extent).collect::<Vec<_>>());
    let dims: Vec<usize> = lo.iter().map(extent).collect();
    let stride: Vec<usize> = lo.iter().map(|c| order.iter().position(|o| o == c).map_or(0, |i| s[i])).collect();
    let mut out = gather(&product, 0, &dims, &stride);
    if let Some(acc) = ins.get(2) {
        out.iter_mut().zip(&acc.data).for_each(|(o, a)| *o += a);
    }
    Ok(out)
}

/// Σ x·y, in eight interleaved sums so that the compiler can keep them in vector registers.
pub(super) fn dot(x: &[f64], y: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (xs, ys) = (x.chunks_exact(8), y.chunks_exact(8));
    let tail: f64 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in xs.zip(ys) {
        for i in 0..8 {
            sums[i] += x[i] * y[i];
        }
    }
    sums.iter().sum::<f64>() + tail
}
