//! Rotary embedding, token embedding and cross-entropy kernels against plain f64 code, at every level.

mod harness;

use athanor_ir::target::CpuLevel;
use athanor_passes::codegen::Generated;
use athanor_passes::codegen::cross_entropy::{
    CrossEntropySpec, GradTo, cross_entropy, cross_entropy_grad, cross_entropy_with_grad, part_entropy,
    part_entropy_grad,
};
use athanor_passes::codegen::embed::{EmbedSpec, embed, embed_grad};
use athanor_passes::codegen::rope::{Pairing, RopeSpec, rope};
use athanor_passes::codegen::simd::Float;
use harness::{Library, Tensor, levels};

fn tolerance(dtype: Float) -> f64 {
    match dtype {
        Float::F32 => 1e-6,
        // Half a unit in the last of 8 bits.
        Float::Bf16 => 1.0 / 256.0 + 1e-6,
        Float::F16 => 1.0 / 2048.0 + 1e-6,
    }
}

/// Compares element by element, relative to the value plus `floor`.
fn close(got: &Tensor, want: &[f64], bound: f64, floor: f64, what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.f64s().into_iter().zip(want).enumerate() {
        assert!((g - w).abs() <= bound * (w.abs() + floor), "{what}[{i}] is {g}, not {w}");
    }
}

/// Runs with 1, 2 and 5 workers on fresh outputs and returns them, after checking that they agree to the bit.
fn run(library: &Library, kernel: &Generated, inputs: &[&Tensor], outputs: impl Fn() -> Vec<Tensor>) -> Vec<Tensor> {
    let mut first: Option<Vec<Tensor>> = None;
    for workers in [1, 2, 5] {
        let outputs = outputs();
        let buffers: Vec<&Tensor> = inputs.iter().copied().chain(&outputs).collect();
        library.run(kernel, workers, &buffers);
        assert!(first.as_ref().is_none_or(|first| *first == outputs), "{workers} workers change the result");
        first = Some(outputs);
    }
    first.unwrap()
}

#[test]
fn rope_rotates_pairs_and_its_inverse_undoes_it() {
    let shapes = [
        (64, 64, Pairing::Halves),
        (40, 24, Pairing::Halves),
        (40, 38, Pairing::Neighbours),
        (8, 8, Pairing::Neighbours),
    ];
    for level in levels() {
        for dtype in [Float::F32, Float::Bf16, Float::F16] {
            for (head_dim, rotary_dim, pairing) in shapes {
                let spec =
                    RopeSpec { batch: 2, seq: 5, heads: 3, head_dim, rotary_dim, pairing, inverse: false, dtype };
                check_rope(&spec, level);
            }
        }
    }
}

fn check_rope(spec: &RopeSpec, level: CpuLevel) {
    let (len, half) = (spec.batch * spec.seq * spec.heads * spec.head_dim, spec.rotary_dim / 2);
    let angles = Tensor::random(Float::F32, spec.seq * half, 3).f64s();
    let cos = Tensor::of(Float::F32, &angles.iter().map(|a| (3.0 * a).cos() as f32).collect::<Vec<_>>());
    let sin = Tensor::of(Float::F32, &angles.iter().map(|a| (3.0 * a).sin() as f32).collect::<Vec<_>>());
    let kernels = [rope(spec, level, "turn"), rope(&RopeSpec { inverse: true, ..*spec }, level, "back")];
    let library = Library::build(&kernels, level);
    let x = Tensor::random(spec.dtype, len, 4);
    for (kernel, sign) in kernels.iter().zip([1.0, -1.0]) {
        let (xs, c, s) = (x.f64s(), cos.f64s(), sin.f64s());
        let mut want = xs.clone();
        for row in 0..len / spec.head_dim {
            let token = row / spec.heads % spec.seq;
            for i in 0..half {
                let (a, b) = match spec.pairing {
                    Pairing::Halves => (i, i + half),
                    Pairing::Neighbours => (2 * i, 2 * i + 1),
                };
                let (a, b) = (row * spec.head_dim + a, row * spec.head_dim + b);
                let (c, s) = (c[token * half + i], sign * s[token * half + i]);
                want[a] = xs[a] * c - xs[b] * s;
                want[b] = xs[b] * c + xs[a] * s;
            }
        }
        let y = run(&library, kernel, &[&x, &cos, &sin], || vec![Tensor::filled(spec.dtype, len)]);
        close(&y[0], &want, tolerance(spec.dtype), 0.1, &format!("{spec:?} {level}"));
    }
}

#[test]
fn embedding_takes_rows_and_sums_gradients() {
    for level in levels() {
        for dtype in [Float::F32, Float::Bf16, Float::F16] {
            for (tokens, vocab, hidden) in [(37, 150, 72), (9, 7, 21), (1, 64, 3)] {
                let spec = EmbedSpec { tokens, vocab, hidden, dtype };
                let kernels = [embed(&spec, level, "take"), embed_grad(&spec, level, "grad")];
                let library = Library::build(&kernels, level);
                let ids: Vec<i32> = (0..tokens as i32)
                    .map(|t| {
                        if t % 9 == 8 {
                            [-1, vocab as i32, i32::MIN, i32::MAX][t as usize / 9 % 4]
                        } else {
                            t * t % vocab as i32 / 2
                        }
                    })
                    .collect();
                let id_buffer = Tensor::ints(&ids);
                let table = Tensor::random(dtype, vocab * hidden, 5);
                let dout = Tensor::random(dtype, tokens * hidden, 6);
                let (rows, grads) = (table.f64s(), dout.f64s());
                let (mut want, mut want_grad) = (vec![0.0; tokens * hidden], vec![0.0; vocab * hidden]);
                for (t, &id) in ids.iter().enumerate().filter(|(_, id)| (0..vocab as i32).contains(id)) {
                    for c in 0..hidden {
                        want[t * hidden + c] = rows[id as usize * hidden + c];
                        want_grad[id as usize * hidden + c] += grads[t * hidden + c];
                    }
                }
                let out = run(&library, &kernels[0], &[&id_buffer, &table], || vec![Tensor::filled(dtype, want.len())]);
                close(&out[0], &want, 0.0, 0.0, &format!("rows, {spec:?} {level}"));
                let got = run(&library, &kernels[1], &[&id_buffer, &dout], || {
                    vec![Tensor::filled(Float::F32, want_grad.len())]
                });
                close(&got[0], &want_grad, 1e-6, 1.0, &format!("gradient, {spec:?} {level}"));
            }
        }
    }
}

#[test]
fn cross_entropy_and_its_gradients() {
    for level in levels() {
        for dtype in [Float::F32, Float::Bf16, Float::F16] {
            for (tokens, vocab, spread) in
                [(5, 1000, 4.0), (7, 77, 30.0), (3, 5, 1.0), (2, 32_003, 90.0), (4, 128, 0.1)]
            {
                check_loss(&CrossEntropySpec { tokens, vocab, dtype }, spread, level);
            }
        }
    }
}

fn check_loss(spec: &CrossEntropySpec, spread: f32, level: CpuLevel) {
    let CrossEntropySpec { tokens, vocab, dtype } = *spec;
    let what = format!("{spec:?} spread {spread} {level}");
    let other = if dtype == Float::F32 { Float::Bf16 } else { Float::F32 };
    let kernels = [
        cross_entropy(spec, level, "loss"),
        cross_entropy_grad(spec, GradTo::InPlace, level, "grad"),
        cross_entropy_grad(spec, GradTo::Buffer(other), level, "grad_to"),
        cross_entropy_with_grad(spec, level, "fused"),
        part_entropy(spec, level, "part"),
        part_entropy_grad(spec, GradTo::InPlace, level, "part_grad"),
    ];
    let library = Library::build(&kernels, level);
    let raw: Vec<f32> =
        Tensor::random(Float::F32, tokens * vocab, 7).f64s().iter().map(|x| *x as f32 * spread).collect();
    let logits = || Tensor::of(dtype, &raw);
    let labels: Vec<i32> =
        (0..tokens as i32).map(|t| if t == 2 { -100 } else { (t * 31 + 4) % vocab as i32 }).collect();
    let label_buffer = Tensor::ints(&labels);
    let weights: Vec<f32> = (0..tokens).map(|t| 0.25 * t as f32 + 0.5).collect();
    let drow = Tensor::of(Float::F32, &weights);

    let (mut loss, mut lse, mut grad) = (vec![0.0; tokens], vec![0.0; tokens], vec![0.0; tokens * vocab]);
    for (t, row) in logits().f64s().chunks(vocab).enumerate() {
        let max = row.iter().copied().fold(f64::MIN, f64::max);
        lse[t] = max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
        if let Ok(label) = usize::try_from(labels[t]) {
            loss[t] = lse[t] - row[label];
            for c in 0..vocab {
                grad[t * vocab + c] =
                    ((row[c] - lse[t]).exp() - f64::from(u8::from(c == label))) * f64::from(weights[t]);
            }
        }
    }

    // Of a part of the vocabulary: a token whose label is elsewhere has exponentials here, too.
    let (mut own, mut part) = (vec![0.0; tokens], grad.clone());
    for (t, row) in logits().f64s().chunks(vocab).enumerate() {
        match usize::try_from(labels[t]) {
            Ok(label) => own[t] = row[label],
            Err(_) => (0..vocab).for_each(|c| part[t * vocab + c] = (row[c] - lse[t]).exp() * f64::from(weights[t])),
        }
    }

    let scalars = || vec![Tensor::filled(Float::F32, tokens), Tensor::filled(Float::F32, tokens)];
    let x = logits();
    let got = run(&library, &kernels[0], &[&x, &label_buffer], scalars);
    // A loss near 0 is the difference of two numbers of the size of the logits.
    let size = f64::from(spread) + 10.0;
    close(&got[0], &loss, 1e-6, size, &format!("loss, {what}"));
    close(&got[1], &lse, 1e-6, size, &format!("lse, {what}"));
    // The exponent carries the rounding of logit and lse, so a probability's relative error grows with their size.
    let bound = |dtype| tolerance(dtype) + 1.2e-7 * size;
    // Below its smallest normal number the digits of an f16 are spaced as there.
    let floor = |dtype| if dtype == Float::F16 { f64::from(2f32.powi(-14)) } else { 1e-6 };
    let got_to =
        run(&library, &kernels[2], &[&x, &label_buffer, &got[1], &drow], || vec![Tensor::filled(other, grad.len())]);
    close(&got_to[0], &grad, bound(other), floor(other), &format!("gradient, {what}"));

    let got_part = run(&library, &kernels[4], &[&x, &label_buffer], scalars);
    assert_eq!(got_part[0].f64s(), own, "logit of a part, {what}");
    assert!(got_part[1] == got[1], "lse of a part, {what}");
    for workers in [1, 3] {
        let x = logits();
        library.run(&kernels[5], workers, &[&x, &label_buffer, &got[1], &drow]);
        close(&x, &part, bound(dtype), floor(dtype), &format!("gradient of a part, {what}"));
        let x = logits();
        library.run(&kernels[1], workers, &[&x, &label_buffer, &got[1], &drow]);
        close(&x, &grad, bound(dtype), floor(dtype), &format!("gradient in place, {what}"));
        let x = logits();
        let fused_loss = Tensor::filled(Float::F32, tokens);
        library.run(&kernels[3], workers, &[&x, &label_buffer, &drow, &fused_loss]);
        assert!(fused_loss == got[0], "the fused kernel computes the same loss, {what}");
        close(&x, &grad, bound(dtype), floor(dtype), &format!("fused gradient, {what}"));
    }
}

#[test]
fn a_nan_logit_shows_in_the_loss() {
    for level in levels() {
        let spec = CrossEntropySpec { tokens: 1, vocab: 100, dtype: Float::F32 };
        let kernel = cross_entropy(&spec, level, "loss");
        let library = Library::build(std::slice::from_ref(&kernel), level);
        let mut x = Tensor::random(Float::F32, 100, 8);
        x.set(41, f32::NAN);
        let (loss, lse) = (Tensor::filled(Float::F32, 1), Tensor::filled(Float::F32, 1));
        library.run(&kernel, 1, &[&x, &Tensor::ints(&[3]), &loss, &lse]);
        assert!(loss.f64s()[0].is_nan(), "{level}: {:?}", loss.f64s());
    }
}
