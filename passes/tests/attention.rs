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

/// `start` is the position of the first query among the keys, or outside of them.
fn reference(spec: &AttentionSpec, start: i64, q: &[f64], k: &[f64], v: &[f64], dout: &[f64]) -> Reference {
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
        let keys = if causal { (start + i as i64 + 1).clamp(0, t as i64) as usize } else { t };
        let (qi, oi) = (at(b, i, h, heads, d), at(b, i, h, heads, e));
        let scores: Vec<f64> = (0..keys)
            .map(|j| {
                let product: f64 = (0..d).map(|x| q[qi + x] * k[key(b, j, g, d) + x]).sum();
                scale * product + slopes[h] * (j as f64 - (start + i as i64) as f64)
            })
            .collect();
        if keys == 0 {
            r.lse[(b * heads + h) * seq + i] = f64::NEG_INFINITY;
            continue;
        }
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
    let (keys, first, so_far, result) = (seq, false, false, dtype);
    AttentionSpec {
        batch,
        seq,
        keys,
        first,
        so_far,
        heads,
        kv_heads,
        head_dim: d,
        v_head_dim: e,
        scale,
        causal,
        alibi,
        dtype,
        result,
    }
}

/// `spec` with other element types.
fn of(dtype: Float, spec: AttentionSpec) -> AttentionSpec {
    AttentionSpec { dtype, result: dtype, ..spec }
}

/// Queries of which the first has `start` keys before it, of `keys` in all.
fn behind(start: i64, keys: usize, of: AttentionSpec, level: CpuLevel) {
    compare(&AttentionSpec { keys, first: true, ..of }, start, level);
}

/// Runs both kernels on the worker counts given and compares with the reference.
fn check(spec: &AttentionSpec, level: CpuLevel) {
    compare(spec, 0, level);
}

/// As [`check`], with `start` keys before the first query.
fn compare(spec: &AttentionSpec, start: i64, level: CpuLevel) {
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
            let largest = want.iter().filter(|x| x.is_finite()).fold(0.01, |m: f64, x| m.max(x.abs()));
            for (i, (w, g)) in want.iter().zip(got.f64s()).enumerate() {
                assert!(*w == g || (w - g).abs() <= bound * largest, "{spec:?} {level}: {name}[{i}] is {g}, not {w}");
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
        check(&AttentionSpec { alibi: true, ..of(Float::Bf16, spec(1, 70, (4, 2), (16, 16))) }, level);
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
        behind(130, 390, of(Float::Bf16, spec(1, 130, (2, 2), (32, 16))), level);
        behind(1, 4, spec(1, 1, (1, 1), (16, 16)), level);
        behind(90, 180, AttentionSpec { alibi: true, ..spec(1, 90, (5, 5), (24, 16)) }, level);
        behind(33, 200, AttentionSpec { alibi: true, ..of(Float::F16, spec(1, 77, (2, 1), (32, 32))) }, level);
    }
}

/// Keys of which some or all are after the queries, or before all of them, as ranks have them that pass them on.
#[test]
fn keys_that_some_or_all_queries_do_not_see_match_the_definition() {
    for level in CpuLevel::ALL {
        for (start, keys) in [(-40, 40), (-39, 40), (-33, 70), (100, 70)] {
            behind(start, keys, spec(1, 40, (2, 1), (16, 24)), level);
        }
        for (start, keys) in [(-40, 40), (-7, 40), (100, 70)] {
            behind(start, keys, of(Float::Bf16, spec(1, 40, (2, 1), (32, 16))), level);
        }
        behind(-70, 70, spec(2, 70, (4, 2), (16, 16)), level);
        behind(-20, 77, AttentionSpec { alibi: true, ..of(Float::F16, spec(1, 77, (2, 1), (32, 32))) }, level);
    }
}

/// Queries of the part `own` of a sequence in parts, which go from block to block of the keys: their own, those before, and those
/// behind, of which they see nothing. What comes of it is attention to all keys at once.
fn in_blocks(whole: &AttentionSpec, parts: usize, own: usize, level: CpuLevel) {
    let AttentionSpec { batch, keys: seq, heads, kv_heads, head_dim: d, v_head_dim: e, dtype, .. } = *whole;
    let size = seq / parts;
    assert_eq!(batch, 1, "a part is one piece then");
    let [q, k, v, dout] = [(heads * d, 1), (kv_heads * d, 2), (kv_heads * e, 3), (heads * e, 4)]
        .map(|(width, seed)| Tensor::random(dtype, seq * width, seed));
    let part = |x: &Tensor, i: usize| {
        let (all, n) = (x.f64s(), x.len() / parts);
        Tensor::of(dtype, &all[i * n..][..n].iter().map(|x| *x as f32).collect::<Vec<_>>())
    };
    let want = reference(whole, 0, &q.f64s(), &k.f64s(), &v.f64s(), &dout.f64s());
    let (q, dout) = (part(&q, own), part(&dout, own));
    let step = |back: usize| AttentionSpec {
        seq: size,
        keys: size,
        first: back > 0,
        so_far: back > 0,
        result: if back + 1 < parts { Float::F32 } else { dtype },
        ..*whole
    };
    let block = |back: usize| (own + parts - back) % parts;
    let origin = |back: usize| Tensor::ints(&[(block(back) * size) as i32 - (own * size) as i32]);
    // All steps but the first and the last are alike.
    let kind = |back: usize| back.min(1) + usize::from(back + 1 == parts);
    let kernels: Vec<_> = [0, 1, parts - 1]
        .into_iter()
        .enumerate()
        .flat_map(|(i, back)| {
            [forward(&step(back), level, &format!("fwd{i}")), backward(&step(back), level, &format!("bwd{i}"))]
        })
        .collect();
    let library = Library::build_anywhere(&kernels, level);
    let mut so_far: Option<(Tensor, Tensor)> = None;
    for back in 0..parts {
        let (kb, vb, first) = (part(&k, block(back)), part(&v, block(back)), origin(back));
        let out = Tensor::filled(step(back).result, dout.len());
        let lse = Tensor::filled(Float::F32, heads * size);
        let mut all = vec![&q, &kb, &vb];
        if let Some((out, lse)) = &so_far {
            all.extend([&first, out, lse]);
        }
        all.extend([&out, &lse]);
        library.run(&kernels[2 * kind(back)], 2, &all);
        so_far = Some((out, lse));
    }
    let (out, lse) = so_far.unwrap();
    let mut dq: Option<Tensor> = None;
    let (mut dk, mut dv) = (vec![], vec![]);
    for back in 0..parts {
        let (kb, vb, first) = (part(&k, block(back)), part(&v, block(back)), origin(back));
        let gradients = [(step(back).result, q.len()), (dtype, kb.len()), (dtype, vb.len())];
        let gradients = gradients.map(|(dtype, len)| Tensor::filled(dtype, len));
        let mut all = vec![&q, &kb, &vb, &out, &lse, &dout];
        if let Some(dq) = &dq {
            all.extend([&first, dq]);
        }
        all.extend(&gradients);
        library.run(&kernels[2 * kind(back) + 1], 2, &all);
        let [of_queries, of_keys, of_values] = gradients;
        if back > own {
            assert!(
                of_keys.f64s().iter().chain(&of_values.f64s()).all(|x| *x == 0.0),
                "nothing is seen of block {back}"
            );
        }
        dk.push((block(back), of_keys));
        dv.push((block(back), of_values));
        dq = Some(of_queries);
    }
    let bound = match dtype {
        Float::F32 => 1e-5,
        Float::Bf16 => 1.0 / 64.0,
        Float::F16 => 1.0 / 512.0,
    };
    let near = |name: &str, want: &[f64], got: &[f64]| {
        let largest = want.iter().fold(0.01, |m: f64, x| m.max(x.abs()));
        for (i, (w, g)) in want.iter().zip(got).enumerate() {
            assert!((w - g).abs() <= bound * largest, "{whole:?} {level}, part {own}: {name}[{i}] is {g}, not {w}");
        }
    };
    let rows = |x: &[f64], i: usize| x[i * (x.len() / parts)..(i + 1) * (x.len() / parts)].to_vec();
    near("out", &rows(&want.out, own), &out.f64s());
    near("dq", &rows(&want.dq, own), &dq.unwrap().f64s());
    let of_head = |h: usize| want.lse[h * seq + own * size..][..size].to_vec();
    near("lse", &(0..heads).flat_map(of_head).collect::<Vec<_>>(), &lse.f64s());
    // Own queries alone add to these: those of the last part are the last to see any key.
    if own + 1 == parts {
        let last = reference(
            &AttentionSpec { seq: size, ..*whole },
            (own * size) as i64,
            &q.f64s(),
            &k.f64s(),
            &v.f64s(),
            &dout.f64s(),
        );
        dk.iter().for_each(|(b, x)| near("dk", &rows(&last.dk, *b), &x.f64s()));
        dv.iter().for_each(|(b, x)| near("dv", &rows(&last.dv, *b), &x.f64s()));
    }
}

#[test]
fn keys_in_blocks_match_the_definition() {
    for level in CpuLevel::ALL {
        in_blocks(&spec(1, 160, (2, 1), (16, 24)), 4, 2, level);
        in_blocks(&of(Float::Bf16, spec(1, 280, (2, 1), (32, 16))), 4, 3, level);
        in_blocks(&of(Float::F16, spec(1, 99, (1, 1), (16, 16))), 3, 1, level);
        in_blocks(&AttentionSpec { alibi: true, ..spec(1, 80, (5, 5), (16, 16)) }, 2, 1, level);
    }
}

#[test]
fn f16_matches_the_definition() {
    for level in CpuLevel::ALL {
        check(&of(Float::F16, spec(2, 70, (4, 2), (16, 16))), level);
        check(&of(Float::F16, spec(1, 100, (3, 3), (24, 40))), level);
        check(&AttentionSpec { causal: false, ..of(Float::F16, spec(1, 77, (2, 2), (32, 48))) }, level);
    }
}

#[test]
fn bf16_matches_the_definition() {
    for level in CpuLevel::ALL {
        check(&of(Float::Bf16, spec(2, 70, (4, 2), (16, 16))), level);
        check(&of(Float::Bf16, spec(1, 130, (2, 1), (64, 64))), level);
        check(&of(Float::Bf16, spec(1, 100, (3, 3), (24, 40))), level);
        check(&of(Float::Bf16, spec(1, 33, (2, 2), (192, 128))), level);
        check(&AttentionSpec { causal: false, ..of(Float::Bf16, spec(1, 77, (2, 2), (32, 48))) }, level);
    }
}

#[test]
fn sequences_of_several_blocks_match_the_definition() {
    for level in CpuLevel::ALL {
        // Scores up to 30 or so: maxima rise from block to block, and most probabilities are tiny.
        check(&AttentionSpec { scale: 6.0, ..spec(1, 300, (2, 1), (16, 32)) }, level);
        check(&of(Float::Bf16, spec(1, 840, (1, 1), (32, 16))), level);
        check(&AttentionSpec { causal: false, ..of(Float::Bf16, spec(1, 583, (2, 1), (16, 32))) }, level);
    }
}

#[test]
fn a_nan_shows_in_the_output() {
    for level in CpuLevel::ALL {
        for dtype in [Float::F32, Float::Bf16, Float::F16] {
            let spec = of(dtype, spec(1, 80, (1, 1), (32, 32)));
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
