//! Products against a naive one in f64. Without the library installed these tests say so and pass.

use super::*;

/// Deterministic values in (-1, 1).
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32) / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// An operand's bytes and its values as f64.
fn operand(r: MatRef, rows: usize, cols: usize, seed: u64) -> (Vec<u8>, Vec<f64>) {
    let len = (rows - 1) * r.row_stride + (cols - 1) * r.col_stride + 1;
    let values = values(len, seed);
    if r.dtype == DType::BF16 {
        let rounded: Vec<half::bf16> = values.iter().map(|v| half::bf16::from_f32(*v)).collect();
        (bytemuck::cast_slice(&rounded).to_vec(), rounded.iter().map(|v| v.to_f64()).collect())
    } else {
        (bytemuck::cast_slice(&values).to_vec(), values.iter().map(|v| f64::from(*v)).collect())
    }
}

/// Whether the library refuses the product as it may: without AVX-512, version 2.6 has none of bf16.
fn lacks(dnn: &OneDnn, spec: &GemmSpec) -> bool {
    let refused = dnn.prepare(spec, 1).is_err_and(|e| e.code.id == "B0104");
    refused && spec.a.dtype == DType::BF16 && !std::arch::is_x86_feature_detected!("avx512f")
}

fn check(dnn: &OneDnn, pool: &Pool, spec: &GemmSpec) {
    let GemmSpec { m, n, k, .. } = *spec;
    let (a, av) = operand(spec.a, m, k, 1);
    let (b, bv) = operand(spec.b, k, n, 2);
    let (mut c, cv) = operand(spec.c, m, n, 3);
    if lacks(dnn, spec) {
        return;
    }
    dnn.prepare(spec, pool.threads()).unwrap();
    // SAFETY: the buffers were made for this spec.
    unsafe { dnn.run(pool, spec, a.as_ptr().cast(), b.as_ptr().cast(), c.as_mut_ptr().cast()) }.unwrap();
    for i in 0..m {
        for j in 0..n {
            let at = i * spec.c.row_stride + j * spec.c.col_stride;
            let mut want = if spec.accumulate { cv[at] } else { 0.0 };
            let mut scale = want.abs();
            for l in 0..k {
                let term = av[i * spec.a.row_stride + l * spec.a.col_stride]
                    * bv[l * spec.b.row_stride + j * spec.b.col_stride];
                want += term;
                scale += term.abs();
            }
            let (got, rounding) = if spec.c.dtype == DType::BF16 {
                (half::bf16::from_le_bytes([c[2 * at], c[2 * at + 1]]).to_f64(), want.abs() / 256.0)
            } else {
                (f64::from(f32::from_le_bytes(c[4 * at..4 * at + 4].try_into().unwrap())), 0.0)
            };
            assert!((got - want).abs() <= rounding + 1e-6 * scale, "{spec:?} [{i},{j}]: {got} against {want}");
        }
    }
}

fn row_major(dtype: DType, cols: usize) -> MatRef {
    MatRef { dtype, row_stride: cols, col_stride: 1 }
}

fn transposed(dtype: DType, rows: usize) -> MatRef {
    MatRef { dtype, row_stride: 1, col_stride: rows }
}

#[test]
fn products_match_f64() {
    let Some(dnn) = OneDnn::load() else {
        eprintln!("oneDNN is not installed: nothing tested");
        return;
    };
    for threads in [1, 2, 3] {
        let pool = Pool::new(threads).unwrap();
        for (ab, cd) in [(DType::F32, DType::F32), (DType::BF16, DType::F32), (DType::BF16, DType::BF16)] {
            for (m, n, k) in [(1, 1, 1), (37, 65, 19), (100, 33, 70), (64, 96, 128)] {
                for (ta, tb) in [(false, true), (false, false), (true, false)] {
                    for accumulate in [false, true] {
                        let a = if ta { transposed(ab, m) } else { row_major(ab, k) };
                        let b = if tb { transposed(ab, k) } else { row_major(ab, n) };
                        check(&dnn, &pool, &GemmSpec { m, n, k, a, b, c: row_major(cd, n + 3), accumulate });
                    }
                }
            }
        }
    }
}

/// Large enough for scratchpads that matter, in equal parts, so that workers share one compiled product.
#[test]
fn workers_do_not_share_scratch_memory() {
    let Some(dnn) = OneDnn::load() else { return };
    let (m, n, k) = (512, 256, 256);
    for d in [DType::F32, DType::BF16] {
        let spec = GemmSpec { m, n, k, a: row_major(d, k), b: transposed(d, k), c: row_major(d, n), accumulate: false };
        if lacks(&dnn, &spec) {
            continue;
        }
        let (a, _) = operand(spec.a, m, k, 5);
        let (b, _) = operand(spec.b, k, n, 6);
        let run = |threads: usize| {
            let pool = Pool::new(threads).unwrap();
            let mut c = vec![0u8; m * n * d.bytes()];
            for _ in 0..20 {
                // SAFETY: the buffers were made for this spec.
                unsafe { dnn.run(&pool, &spec, a.as_ptr().cast(), b.as_ptr().cast(), c.as_mut_ptr().cast()) }.unwrap();
            }
            c
        };
        // The library may choose another kernel, with another order of its sums, for a share of other rows. Memory that
        // workers write over each other would show as another number altogether.
        let value = |bytes: &[u8]| match d {
            DType::F32 => f32::from_le_bytes(bytes.try_into().unwrap()),
            _ => half::bf16::from_le_bytes(bytes.try_into().unwrap()).to_f32(),
        };
        let values = |c: &[u8]| c.chunks_exact(d.bytes()).map(value).collect::<Vec<f32>>();
        let alone = values(&run(1));
        for threads in [2, 4] {
            let rounding = |x: f32| if d == DType::F32 { 1e-4 } else { x.abs() / 128.0 + 1e-4 };
            let same = values(&run(threads)).iter().zip(&alone).all(|(x, y)| (x - y).abs() <= rounding(*y));
            assert!(same, "{d:?} by {threads} threads");
        }
    }
}

#[test]
fn same_bits_every_time() {
    let Some(dnn) = OneDnn::load() else { return };
    let pool = Pool::new(2).unwrap();
    let (m, n, k) = (130, 70, 300);
    let d = DType::F32;
    let spec = GemmSpec { m, n, k, a: row_major(d, k), b: row_major(d, n), c: row_major(d, n), accumulate: false };
    let (a, _) = operand(spec.a, m, k, 5);
    let (b, _) = operand(spec.b, k, n, 6);
    let run = || {
        let mut c = vec![0u8; m * n * 4];
        // SAFETY: the buffers were made for this spec.
        unsafe { dnn.run(&pool, &spec, a.as_ptr().cast(), b.as_ptr().cast(), c.as_mut_ptr().cast()) }.unwrap();
        c
    };
    let first = run();
    assert!((0..20).all(|_| run() == first));
}

#[test]
fn what_it_cannot_do_is_refused() {
    let Some(dnn) = OneDnn::load() else { return };
    let d = DType::F16;
    let spec =
        GemmSpec { m: 2, n: 2, k: 2, a: row_major(d, 2), b: row_major(d, 2), c: row_major(d, 2), accumulate: false };
    let refused = dnn.prepare(&spec, 1).unwrap_err();
    assert_eq!(refused.code.id, "B0104");
    assert!(refused.message.contains("[2,2] f16"), "{refused}");
}
