//! Sums and maxima over ranks, in the order of the ranks.

use athanor_ir::DType;
use athanor_ir::op::ReduceKind;
use half::{bf16, f16};

/// `out` becomes the sum or maximum over `parts`, element by element in the order of `parts`. All have equal sizes; sums of
/// bf16 and f16 accumulate in f32 and are rounded once, sums of i32 wrap.
pub fn reduce(kind: ReduceKind, dtype: DType, parts: &[&[u8]], out: &mut [u8]) {
    match dtype {
        DType::F64 => each(kind, parts, out, f64::from_ne_bytes, f64::to_ne_bytes, |a, b| a + b, f64::max),
        DType::F32 => each(kind, parts, out, f32::from_ne_bytes, f32::to_ne_bytes, |a, b| a + b, f32::max),
        DType::I32 => each(kind, parts, out, i32::from_ne_bytes, i32::to_ne_bytes, i32::wrapping_add, i32::max),
        DType::BF16 => {
            let wide = |b| bf16::from_ne_bytes(b).to_f32();
            each(kind, parts, out, wide, |x| bf16::from_f32(x).to_ne_bytes(), |a, b| a + b, f32::max);
        }
        DType::F16 => {
            let wide = |b| f16::from_ne_bytes(b).to_f32();
            each(kind, parts, out, wide, |x| f16::from_f32(x).to_ne_bytes(), |a, b| a + b, f32::max);
        }
    }
}

/// Elements in a block: small enough that the sums of a block stay in the cache while the ranks' parts pass.
const BLOCK: usize = 1024;

fn each<T: Copy + Default, const N: usize>(
    kind: ReduceKind,
    parts: &[&[u8]],
    out: &mut [u8],
    read: impl Fn([u8; N]) -> T,
    write: impl Fn(T) -> [u8; N],
    add: impl Fn(T, T) -> T,
    max: impl Fn(T, T) -> T,
) {
    let mut sums = [T::default(); BLOCK];
    let at = |bytes: &[u8]| {
        let mut element = [0; N];
        element.copy_from_slice(bytes);
        read(element)
    };
    for (block, out) in out.chunks_mut(BLOCK * N).enumerate() {
        let start = block * BLOCK * N;
        for (i, part) in parts.iter().enumerate() {
            let elements = part[start..start + out.len()].chunks_exact(N);
            match (i, kind) {
                (0, _) => sums.iter_mut().zip(elements).for_each(|(s, b)| *s = at(b)),
                (_, ReduceKind::Sum) => sums.iter_mut().zip(elements).for_each(|(s, b)| *s = add(*s, at(b))),
                (_, ReduceKind::Max) => sums.iter_mut().zip(elements).for_each(|(s, b)| *s = max(*s, at(b))),
            }
        }
        out.chunks_exact_mut(N).zip(&sums).for_each(|(o, s)| o.copy_from_slice(&write(*s)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_taken_in_the_order_of_the_ranks() {
        // (1 + 2^30) − 2^30 is 0 in f32, 1 + (2^30 − 2^30) is 1.
        let parts = [1.0f32, 1e9, -1e9].map(f32::to_ne_bytes);
        let sum = |order: [usize; 3]| {
            let mut out = [0; 4];
            reduce(ReduceKind::Sum, DType::F32, &order.map(|i| &parts[i][..]), &mut out);
            f32::from_ne_bytes(out)
        };
        assert_eq!((sum([0, 1, 2]), sum([1, 2, 0])), (0.0, 1.0));
    }

    #[test]
    fn narrow_floats_are_rounded_once() {
        // In bf16 256 + 1 is 256 again; 256 + 1 + 1 is 258.
        let parts = [256.0f32, 1.0, 1.0].map(|x| bf16::from_f32(x).to_ne_bytes());
        let mut out = [0; 2];
        reduce(ReduceKind::Sum, DType::BF16, &[&parts[0], &parts[1], &parts[2]], &mut out);
        assert_eq!(bf16::from_ne_bytes(out).to_f32(), 258.0);
    }

    #[test]
    fn every_element_of_a_long_buffer_is_reduced() {
        let part = |r: i32| (0..3000).flat_map(|i: i32| (i * r).to_ne_bytes()).collect::<Vec<u8>>();
        let parts = [part(1), part(-2), part(3)];
        let refs: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        for (kind, factor) in [(ReduceKind::Sum, 2), (ReduceKind::Max, 3)] {
            let mut out = vec![0; 12000];
            reduce(kind, DType::I32, &refs, &mut out);
            let right = |(i, b): (usize, &[u8])| b == (i as i32 * factor).to_ne_bytes();
            assert!(out.chunks_exact(4).enumerate().all(right), "{kind:?}");
        }
    }
}
