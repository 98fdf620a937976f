//! Kernels of what slices share against the reference ops at every level.

mod harness;

use athanor_ir::op::Op;
use athanor_passes::codegen::simd::Float;
use athanor_passes::codegen::slices::{SliceSpec, SumSpec, keep, own, sum};
use harness::against::{Arg, check, check_in_place};

const DTYPES: [Float; 3] = [Float::F32, Float::Bf16, Float::F16];

/// Where the first of six tokens is, counted from the slice of two that begins at `begin`.
fn first(begin: i32) -> Arg {
    Arg::Ints(vec![], vec![-begin])
}

#[test]
fn parts_are_written_and_read_at_their_place() {
    for dtype in DTYPES {
        for (outer, inner) in [(1, 70), (3, 33), (2, 1)] {
            let spec = SliceSpec { outer, all: 6, len: 2, inner, bytes: dtype.bytes() };
            let (whole, part) =
                (|| Arg::random(dtype, &[outer, 6, inner], 21), || Arg::random(dtype, &[outer, 2, inner], 22));
            for begin in [0, 2, 4] {
                let op = Op::OwnSlice { dim: 1, len: 2 };
                check(&op, &[whole(), first(begin)], |level| own(&spec, level, "own"));
                let op = Op::KeepSlice { dim: 1 };
                check_in_place(&op, &[whole(), part(), first(begin)], |level| keep(&spec, level, "keep"));
            }
        }
    }
    let ids = Arg::Ints(vec![2, 6], (0..12).collect());
    let spec = SliceSpec { outer: 2, all: 6, len: 3, inner: 1, bytes: 4 };
    check(&Op::OwnSlice { dim: 1, len: 3 }, &[ids, first(3)], |level| own(&spec, level, "own"));
}

#[test]
fn sums_begin_with_the_slice_that_comes_first() {
    for dtype in DTYPES {
        for (rows, inner) in [(5, 70), (1, 9), (12, 16)] {
            let (before, x) =
                (|| Arg::random(Float::F32, &[rows, inner], 23), || Arg::random(dtype, &[rows, inner], 24));
            for begin in [0, 4] {
                let spec = SumSpec { rows, inner, dtype, begin: 4 };
                let op = Op::SumSlices { begin: 4 };
                check_in_place(&op, &[before(), x(), first(begin)], |level| sum(&spec, level, "sum"));
            }
        }
    }
}
