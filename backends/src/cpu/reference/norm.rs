//! RMS and layer normalisation over the last dim, and their gradients.

use super::contraction::dot;
use super::tensor::Array;

pub(super) fn rms(x: &Array, gain: &Array, eps: f64) -> Vec<f64> {
    let (_, n) = x.rows();
    let mut out = Vec::with_capacity(x.data.len());
    for row in x.data.chunks_exact(n) {
        let r = (dot(row, row) / n as f64 + eps).sqrt().recip();
        out.extend(row.iter().zip(&gain.data).map(|(x, g)| x * r * g));
    }
    out
}

/// dx = r·(dy·g − x·r²·mean(dy·g·x)), dgain = Σ dy·x·r.
pub(super) fn rms_grad(x: &Array, gain: &Array, dy: &Array, eps: f64) -> Vec<Vec<f64>> {
    let (_, n) = x.rows();
    let (mut dx, mut dgain) = (Vec::with_capacity(x.data.len()), vec![0.0; n]);
    for (row, dy) in x.data.chunks_exact(n).zip(dy.data.chunks_exact(n)) {
        let r = (dot(row, row) / n as f64 + eps).sqrt().recip();
        let mean = (0..n).map(|i| dy[i] * gain.data[i] * row[i]).sum::<f64>() / n as f64;
        dx.extend((0..n).map(|i| r * (dy[i] * gain.data[i] - row[i] * r * r * mean)));
        (0..n).for_each(|i| dgain[i] += dy[i] * row[i] * r);
    }
    vec![dx, dgain]
}

/// Mean and 1/√(variance + eps) of a row.
fn moments(row: &[f64], eps: f64) -> (f64, f64) {
    let n = row.len() as f64;
    let mean = row.iter().sum::<f64>() / n;
    let var = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
    (mean, (var + eps).sqrt().recip())
}

pub(super) fn layer(x: &Array, gain: &Array, bias: &Array, eps: f64) -> Vec<f64> {
    let (_, n) = x.rows();
    let mut out = Vec::with_capacity(x.data.len());
    for row in x.data.chunks_exact(n) {
        let (mean, r) = moments(row, eps);
        out.extend((0..n).map(|i| (row[i] - mean) * r * gain.data[i] + bias.data[i]));
    }
    out
}

/// With x̂ the normalised row: dx = r·(dy·g − mean(dy·g) − x̂·mean(dy·g·x̂)), dgain = Σ dy·x̂, dbias = Σ dy.
pub(super) fn layer_grad(x: &Array, gain: &Array, dy: &Array, eps: f64) -> Vec<Vec<f64>> {
    let (_, n) = x.rows();
    let (mut dx, mut dgain, mut dbias) = (Vec::with_capacity(x.data.len()), vec![0.0; n], vec![0.0; n]);
    for (row, dy) in x.data.chunks_exact(n).zip(dy.data.chunks_exact(n)) {
        let (mean, r) = moments(row, eps);
        let hat = |i: usize| (row[i] - mean) * r;
        let (mut m0, mut m1) = (0.0, 0.0);
        for i in 0..n {
            m0 += dy[i] * gain.data[i] / n as f64;
            m1 += dy[i] * gain.data[i] * hat(i) / n as f64;
            dgain[i] += dy[i] * hat(i);
            dbias[i] += dy[i];
        }
        dx.extend((0..n).map(|i| r * (dy[i] * gain.data[i] - m0 - hat(i) * m1)));
    }
    vec![dx, dgain, dbias]
}
