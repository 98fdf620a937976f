//! Attention kernels against a plain f64 implementation, at every level this machine runs.

mod harness;

use athanor_ir::target::CpuLevel;
use athanor_passes::codegen::attention::{AttentionSpec, backward, forward};
use athanor_passes::codegen::simd::Float;
use harness::{Library, Tensor};

/// What attention and its gradients are, in f64 and by definition.
struct Reference {
    out: Vec<f64>,
    lse: Vec<f64>,
    dq: Vec<f64>,
    dk: Vec<f64>,
    dv: Vec<f64>,
}

/// `start` is the position of the first query among the keys.
fn reference(spec: &AttentionSpec, start: usize, q: &[f64], k: &[f64], v: &[f64], dout: &[f64]) -> Reference {
    let AttentionSpec {
        batch, seq, keys: t, heads, kv_heads, head_dim: d, v_head_dim: e, scale, causal, alibi, ..
    } = *spec;
    let slopes = if alibi { athanor_ir::alibi::slopes(heads) } else { vec![0.0; heads] };
    let at = |b: usize, s: usize, h: usize, n: usize, w: usize| ((b * seq + s) * n + h) * w;
    let key = |b: usize, s: usize, g: usize, w: usize| ((b * t + s) * kv_heads + g) * w;
    let mut r = Reference {
        out: vec![0.0; batch * seq * heads * e],
        lse: vec![0.0; batch * heads * seq],
        dq: vec![0.0; q.len()],
        dk: vec![0.0; k.len()],
        dv: vec![0.0; v.len()],
    };
    for (b, h, i) in (0..batch).flat_map(|b| (0..heads).flat_map(move |h| (0..seq).map(move |i| (b, h, i)))) {
        let g = h / (heads / kv_heads);
        let keys = if causal { start + i + 1 } else { t };
        let (qi, oi) = (at(b, i, h, heads, d), at(b, i, h, heads, e));
        let scores: Vec<f64> = (0..keys)
            .map(|j| {
                let product: f64 = (0..d).map(|x| q[qi + x] * k[key(b, j, g, d) + x]).sum();
                scale * product + slopes[h] * (j as f64 - (start + i) as f64)
            })
            .collect();
        let max = scores.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        r.lse[(b * heads + h) * seq + i] = max + sum.ln();
        let p: Vec<f64> = scores.iter().map(|s| (s - max).exp() / sum).collect();
        let mut dp = vec![0.0; keys];
        for j in 0..keys {
            let vj = key(b, j, g, e);
            for x in 0..e {
                r.out[oi + x] += p[j] * v[vj + x];
                r.dv[vj + x] += p[j] * dout[oi + x];
                dp[j] += dout[oi + x] * v[vj + x];
            }
        }
        let mean: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
        for j in 0..keys {
            let ds = p[j] * (dp[j] - mean) * scale;
            let kj = key(b, j, g, d);
            for x in 0..d {
                r.dq[qi + x] += ds * k[kj + x];
                r.dk[kj + x] += ds * q[qi + x];
            }
        }
    }
    r
}

fn spec(batch: usize, seq: usize, (heads, kv_heads): (usize, usize), (d, e): (usize, usize)) -> AttentionSpec {
    let scale = 1.3 / (d as f64).sqrt();
    let (causal, alibi, dtype) = (true, false, Float::F32);
    let (keys, first) = (seq, false);
    AttentionSpec { batch, seq, keys, first, heads, kv_heads, head_dim: d, v_head_dim: e, scale, causal, alibi, dtype }
}

/// Queries of which the first has `start` keys before it, of `keys` in all.
fn behind(start: usize, keys: usize, of: AttentionSpec, level: CpuLevel) {
    compare(&AttentionSpec { keys, first: true, ..of }, start, level);
}

/// Runs both kernels on the worker counts given and compares with the reference.
fn check(spec: &AttentionSpec, level: CpuLevel) {
    compare(spec, 0, level);
}

/// As [`check`], with `start` keys before the first query.
fn compare(spec: &AttentionSpec, start: usize, level: CpuLevel) {
    let AttentionSpec { batch, seq, keys, heads, kv_heads, head_dim: d, v_head_dim: e, dtype, .. } = *spec;
    let (fwd, bwd) = (forward(spec, level, "fwd"), backward(spec, level, "bwd"));
    let library = Library::build_anywhere(&[fwd.clone(), bwd.clone()], level);
    let q = Tensor::random(dtype, batch * seq * heads * d, 1);
    let k = Tensor::random(dtype, batch * keys * kv_heads * d, 2);
    let v = Tensor::random(dtype, batch * keys * kv_heads * e, 3);
    let origin = spec.first.then(|| Tensor::ints(&[-(start as i32)]));
    let dout = Tensor::random(dtype, batch * seq * heads * e, 4);
    let want = reference(spec, start, &q.f64s(), &k.f64s(), &v.f64s(), &dout.f64s());

    let mut first: Option<Vec<Tensor>> = None;
    for workers in [1, 2, 3] {
        let out = Tensor::filled(dtype, dout.len());
        let lse = Tensor::filled(Float::F32, batch * heads * seq);
        let run = |kernel, operands: &[&Tensor], results: &[&Tensor]| {
            let all: Vec<&Tensor> = operands.iter().copied().chain(&origin).chain(results.iter().copied()).collect();
            library.run(kernel, workers, &all);
        };
        run(&fwd, &[&q, &k, &v], &[&out, &lse]);
        let grads = [Tensor::filled(dtype, q.len()), Tensor::filled(dtype, k.len()), Tensor::filled(dtype, v.len())];
        run(&bwd, &[&q, &k, &v, &out, &lse, &dout], &[&grads[0], &grads[1], &grads[2]]);
        let [dq, dk, dv] = grads;
        let got = vec![out, lse, dq, dk, dv];
        if let Some(first) = &first {
            assert!(*first == got, "{spec:?} {level}: {workers} workers change the result");
            continue;
        }
        // Inputs are exact in either type. In bf16, results are rounded once, and on tiles probabilities and score
        // gradients too; lse never is.
        let (one, grad) = match dtype {
            Float::F32 => (1e-5, 1e-5),
            Float::Bf16 => (1.0 / 200.0, 1.0 / 128.0),
            Float::F16 => (1.0 / 1600.0, 1.0 / 1024.0),
        };
        let names = [
            ("out", &want.out, one),
            ("lse", &want.lse, 1e-6),
            ("dq", &want.dq, grad),
            ("dk", &want.dk, grad),
            ("dv", &want.dv, grad),
        ];
        for ((name, want, bound), got) in names.into_iter().zip(&got) {
            // With one key every probability is 1 and the gradient of the scores is 0: then the bound is absolute.
            let largest = want.iter().fold(0.01, |m: f64, x| m.max(x.abs()));
            for (i, (w, g)) in want.iter().zip(got.f64s()).enumerate() {
                assert!((w - g).abs() <= bound * largest, "{spec:?} {level}: {name}[{i}] is {g}, not {w}");
            }
        }
        first = Some(got);
    }
}

#[test]
fn f32_matches_the_definition() {
    for level in CpuLevel::ALL {
        check(&spec(2, 70, (4, 2), (16, 16)), level);
        check(&spec(1, 1, (1, 1), (16, 24)), level);
        check(&spec(1, 130, (2, 1), (64, 64)), level);
        check(&spec(1, 257, (3, 3), (24, 40)), level);
        check(&spec(1, 33, (6, 2), (192, 128)), level);
        check(&spec(2, 40, (2, 2), (96, 64)), level);
        check(&AttentionSpec { causal: false, ..spec(1, 77, (2, 2), (32, 48)) }, level);
        check(&AttentionSpec { causal: false, ..spec(2, 64, (2, 1), (20, 256)) }, level);
    }
}

/// Heads that are and are not a power of two, over several blocks, and values narrower than keys.
#[test]
fn scores_with_slopes_match_the_definition() {
    for level in CpuLevel::ALL {
        check(&AttentionSpec { alibi: true, ..spec(1, 150, (5, 5), (24, 16)) }, level);
        check(&AttentionSpec { alibi: true, dtype: Float::Bf16, ..spec(1, 70, (4, 2), (16, 16)) }, level);
        check(&AttentionSpec { alibi: true, causal: false, ..spec(1, 77, (2, 1), (32, 32)) }, level);
    }
}

/// Keys before the first query, as ranks have them that hold a part of a sequence: on and off the edges of tiles and blocks, to
/// the end of the keys and not.
#[test]
fn queries_behind_other_keys_match_the_definition() {
    for level in CpuLevel::ALL {
        for (start, keys) in [(0, 40), (0, 160), (40, 80), (5, 45), (63, 130), (120, 160), (257, 300)] {
            behind(start, keys, spec(1, 40, (2, 1), (16, 24)), level);
        }
        behind(70, 140, spec(2, 70, (4, 2), (16, 16)), level);
        behind(130, 390, AttentionSpec { dtype: Float::Bf16, ..spec(1, 130, (2, 2), (32, 16)) }, level);
        behind(1, 4, spec(1, 1, (1, 1), (16, 16)), level);
        behind(90, 180, AttentionSpec { alibi: true, ..spec(1, 90, (5, 5), (24, 16)) }, level);
        behind(33, 200, AttentionSpec { dtype: Float::F16, alibi: true, ..spec(1, 77, (2, 1), (32, 32)) }, level);
    }
}

#[test]
fn f16_matches_the_definition() {
    for level in CpuLevel::ALL {
        check(&AttentionSpec { dtype: Float::F16, ..spec(2, 70, (4, 2), (16, 16)) }, level);
        check(&AttentionSpec { dtype: Float::F16, ..spec(1, 100, (3, 3), (24, 40)) }, level);
        check(&AttentionSpec { dtype: Float::F16, causal: false, ..spec(1, 77, (2, 2), (32, 48)) }, level);
    }
}

#[test]
fn bf16_matches_the_definition() {
    for level in CpuLevel::ALL {
        check(&AttentionSpec { dtype: Float::Bf16, ..spec(2, 70, (4, 2), (16, 16)) }, level);
        check(&AttentionSpec { dtype: Float::Bf16, ..spec(1, 130, (2, 1), (64, 64)) }, level);
        check(&AttentionSpec { dtype: Float::Bf16, ..spec(1, 100, (3, 3), (24, 40)) }, level);
        check(&AttentionSpec { dtype: Float::Bf16, ..spec(1, 33, (2, 2), (192, 128)) }, level);
        check(&AttentionSpec { dtype: Float::Bf16, causal: false, ..spec(1, 77, (2, 2), (32, 48)) }, level);
    }
}

#[test]
fn sequences_of_several_blocks_match_the_definition() {
    for level in CpuLevel::ALL {
        // Scores up to 30 or so: maxima rise from block to block, and most probabilities are tiny.
        check(&AttentionSpec { scale: 6.0, ..spec(1, 300, (2, 1), (16, 32)) }, level);
        check(&AttentionSpec { dtype: Float::Bf16, ..spec(1, 840, (1, 1), (32, 16)) }, level);
        check(&AttentionSpec { dtype: Float::Bf16, causal: false, ..spec(1, 583, (2, 1), (16, 32)) }, level);
    }
}

#[test]
fn a_nan_shows_in_the_output() {
    for level in CpuLevel::ALL {
        for dtype in [Float::F32, Float::Bf16, Float::F16] {
            let spec = AttentionSpec { dtype, ..spec(1, 80, (1, 1), (32, 32)) };
            let kernel = forward(&spec, level, "fwd");
            let library = Library::build_anywhere(std::slice::from_ref(&kernel), level);
            let mut q = Tensor::random(dtype, 80 * 32, 1);
            q.set(40 * 32 + 7, f32::NAN);
            let (k, v) = (Tensor::random(dtype, 80 * 32, 2), Tensor::random(dtype, 80 * 32, 3));
            let (out, lse) = (Tensor::filled(dtype, 80 * 32), Tensor::filled(Float::F32, 80));
            library.run(&kernel, 1, &[&q, &k, &v, &out, &lse]);
            let nan: Vec<usize> = (0..80).filter(|row| lse.f64s()[*row].is_nan()).collect();
            assert_eq!(nan, [40], "{level}");
            assert!(out.f64s()[40 * 32..41 * 32].iter().all(|x| x.is_nan()), "{level}");
        }
    }
}
