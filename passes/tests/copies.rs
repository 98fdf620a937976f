//! Copies and reductions against the reference ops at every level.

mod harness;

use athanor_ir::op::{Op, ReduceKind};
use athanor_passes::codegen::copy::{Part, copy, join};
use athanor_passes::codegen::reduce::{ReduceSpec, reduce};
use athanor_passes::codegen::simd::Float;
use harness::against::{Arg, check, check_to};

const DTYPES: [Float; 3] = [Float::F32, Float::Bf16, Float::F16];

#[test]
fn slices_joins_transposes_and_broadcasts_move_elements() {
    let part = |elements, dims: &[usize], src: &[usize], dst: &[usize], from, to| Part {
        elements,
        dims: dims.to_vec(),
        src: src.to_vec(),
        dst: dst.to_vec(),
        from,
        to,
    };
    for dtype in DTYPES {
        let bytes = dtype.bytes();
        let x = || Arg::random(dtype, &[3, 5, 70], 12);
        // Fully along the last dim, and from a middle one.
        let inner = part(1050, &[3, 5, 41], &[350, 70, 1], &[205, 41, 1], 9, 0);
        check(&Op::Slice { dim: 2, start: 9, len: 41 }, &[x()], |level| copy(&inner, 615, bytes, level, "slice"));
        let middle = part(1050, &[3, 2, 70], &[350, 70, 1], &[140, 70, 1], 140, 0);
        check(&Op::Slice { dim: 1, start: 2, len: 2 }, &[x()], |level| copy(&middle, 420, bytes, level, "slice"));
        let turned = part(1050, &[70, 3, 5], &[1, 350, 70], &[15, 5, 1], 0, 0);
        check(&Op::Transpose { perm: vec![2, 0, 1] }, &[x()], |level| copy(&turned, 1050, bytes, level, "turn"));
        let joined =
            [part(1050, &[3, 350], &[350, 1], &[560, 1], 0, 0), part(630, &[3, 210], &[210, 1], &[560, 1], 0, 350)];
        let y = Arg::random(dtype, &[3, 3, 70], 13);
        check(&Op::Concat { dim: 1 }, &[x(), y], |level| join(&joined, 1680, bytes, level, "join"));
        // Ways to repeat: over heads, along the last dim, in front, one element everywhere.
        let z = || Arg::random(dtype, &[6, 35], 14);
        let heads = part(210, &[6, 4, 35], &[35, 0, 1], &[140, 35, 1], 0, 0);
        let last = part(210, &[6, 35, 9], &[35, 1, 0], &[315, 9, 1], 0, 0);
        let front = part(210, &[7, 6, 35], &[0, 35, 1], &[210, 35, 1], 0, 0);
        let one = part(1, &[96, 100], &[0, 0], &[100, 1], 0, 0);
        for (part, kept, to) in
            [(&heads, vec![0, 2], [6, 4, 35]), (&last, vec![0, 1], [6, 35, 9]), (&front, vec![1, 2], [7, 6, 35])]
        {
            let n = to.iter().product();
            check_to(&to, &Op::Broadcast { dims: kept }, &[z()], |level| copy(part, n, bytes, level, "repeat"));
        }
        let scalar = Arg::random(dtype, &[], 15);
        check_to(&[96, 100], &Op::Broadcast { dims: vec![] }, &[scalar], |level| {
            copy(&one, 9600, bytes, level, "fill")
        });
    }
}

#[test]
fn token_ids_roll_by_one() {
    let ids = || Arg::Ints(vec![2, 9], (0..18).collect());
    let part = Part { elements: 18, dims: vec![2, 8], src: vec![9, 1], dst: vec![8, 1], from: 1, to: 0 };
    check(&Op::Slice { dim: 1, start: 1, len: 8 }, &[ids()], |level| copy(&part, 16, 4, level, "slice"));
}

#[test]
fn reductions_over_a_middle_dim() {
    for dtype in DTYPES {
        for (outer, mid, inner) in [(3, 9, 16), (1, 70, 37), (6, 4, 3)] {
            for kind in [ReduceKind::Sum, ReduceKind::Max] {
                let spec = ReduceSpec { kind, outer, mid, inner, from: dtype, to: dtype };
                let x = Arg::random(dtype, &[outer, mid, inner], 16);
                check(&Op::Reduce { kind, dims: vec![1] }, &[x], |level| reduce(&spec, level, "reduce"));
            }
        }
    }
}
