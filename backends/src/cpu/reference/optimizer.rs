//! The optimizer step.

use super::tensor::Array;

/// One AdamW step of every element; `[β₁, β₂, eps, decay]`.
pub(super) fn adamw(ins: &[Array], [beta1, beta2, eps, decay]: [f64; 4]) -> Vec<Vec<f64>> {
    let [lr, step_size, v_scale, g_scale] = [4, 5, 6, 7].map(|i| ins[i].data[0]);
    let mut out: Vec<Vec<f64>> = (0..3).map(|_| Vec::with_capacity(ins[0].data.len())).collect();
    for i in 0..ins[0].data.len() {
        let [p, g, m, v] = [0, 1, 2, 3].map(|k| ins[k].data[i]);
        let g = g * g_scale;
        let m = beta1 * m + (1.0 - beta1) * g;
        let v = beta2 * v + (1.0 - beta2) * g * g;
        let p = p * (1.0 - lr * decay) - step_size * m / ((v * v_scale).sqrt() + eps);
        [p, m, v].into_iter().zip(&mut out).for_each(|(x, o)| o.push(x));
    }
    out
}
