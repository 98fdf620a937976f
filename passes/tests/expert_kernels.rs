//! Kernels that choose experts and move tokens to them and back, against the reference ops at every level.

mod harness;

use athanor_ir::op::{Op, RouteMask};
use athanor_passes::codegen::assign::{AssignSpec, assign};
use athanor_passes::codegen::route::{PickSpec, RouteSpec, histogram, pick, pick_grad, route};
use athanor_passes::codegen::rows::{RowsSpec, combine, combine_dot, dispatch};
use athanor_passes::codegen::simd::Float;
use harness::against::{Arg, check, reference};
use harness::{Library, Tensor, levels};

const DTYPES: [Float; 3] = [Float::F32, Float::Bf16, Float::F16];

/// Scores of few distinct values, so that many are equal.
fn coarse(dims: &[usize], seed: u64) -> Vec<f32> {
    Tensor::random(Float::F32, dims.iter().product(), seed)
        .f64s()
        .iter()
        .map(|x| (x * 4.0).round() as f32 / 4.0)
        .collect()
}

#[test]
fn routes_are_those_of_the_reference_ties_included() {
    let shapes =
        [(8, 2, 1, 1, 1), (64, 6, 8, 3, 2), (16, 4, 4, 2, 1), (12, 5, 3, 2, 4), (5, 5, 1, 1, 1), (256, 8, 8, 4, 2)];
    for (experts, k, groups, group_k, group_top) in shapes {
        for (mask, bias, dtype) in [
            (RouteMask::Zero, true, Float::F32),
            (RouteMask::NegInf, false, Float::F32),
            (RouteMask::Zero, false, Float::Bf16),
        ] {
            let spec = RouteSpec { tokens: 21, experts, k, groups, group_k, group_top, mask, bias, dtype };
            let mut args = vec![Arg::Floats(dtype, vec![3, 7, experts], coarse(&[21, experts], 1))];
            if bias {
                args.push(Arg::Floats(dtype, vec![experts], coarse(&[experts], 2)));
            }
            check(&Op::Route { k, groups, group_k, group_top, mask }, &args, |level| route(&spec, level, "route"));
        }
    }
    // Sums that differ by less than an f32 can tell at their size are equal.
    let spec = RouteSpec {
        tokens: 1,
        experts: 3,
        k: 2,
        groups: 1,
        group_k: 1,
        group_top: 1,
        mask: RouteMask::Zero,
        bias: true,
        dtype: Float::F32,
    };
    let args = [
        Arg::Floats(Float::F32, vec![1, 3], vec![1e-9, 3e-9, 2e-9]),
        Arg::Floats(Float::F32, vec![3], vec![1.0, 1.0, 1.0]),
    ];
    let op = Op::Route { k: 2, groups: 1, group_k: 1, group_top: 1, mask: RouteMask::Zero };
    assert_eq!(reference(&op, &args)[0].to_f64(), [0.0, 1.0]);
    check(&op, &args, |level| route(&spec, level, "route"));
}

#[test]
fn a_nan_or_an_infinite_score_still_gives_experts_that_exist() {
    for level in levels() {
        let spec = RouteSpec {
            tokens: 1,
            experts: 6,
            k: 3,
            groups: 3,
            group_k: 2,
            group_top: 2,
            mask: RouteMask::NegInf,
            bias: false,
            dtype: Float::F32,
        };
        let kernel = route(&spec, level, "route");
        let library = Library::build(std::slice::from_ref(&kernel), level);
        for row in [[f32::NAN; 6], [f32::NEG_INFINITY; 6], [0.0, f32::NAN, f32::INFINITY, 1.0, f32::NEG_INFINITY, 2.0]]
        {
            let ids = Tensor::filled(Float::F32, 3);
            library.run(&kernel, 1, &[&Tensor::of(Float::F32, &row), &ids]);
            let mut ids = ids.i32s();
            assert!(ids.iter().all(|i| (0..6).contains(i)), "{row:?} gives {ids:?}");
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), 3, "{row:?} gives {ids:?}");
        }
    }
}

fn ids(count: usize, below: i32, seed: u64) -> Vec<i32> {
    Tensor::random(Float::F32, count, seed).f64s().iter().map(|x| ((x + 1.0) / 2.0 * f64::from(below)) as i32).collect()
}

#[test]
fn picks_their_gradients_and_counts() {
    for (rows, n, k) in [(9, 64, 6), (5, 7, 2), (1, 3, 1)] {
        let chosen = Arg::Ints(vec![rows, k], ids(rows * k, n as i32, 3));
        for dtype in DTYPES {
            let spec = PickSpec { rows, n, k, dtype };
            let x = Arg::random(dtype, &[rows, n], 4);
            check(&Op::Pick, &[x, chosen.clone()], |_| pick(&spec, "pick"));
            let dy = Arg::random(dtype, &[rows, k], 5);
            // Equal ids of a row add up; in 16 bits every sum is rounded, so a row has each once.
            let own: Vec<i32> = (0..rows * k).map(|i| ((i % k + i / k) % n) as i32).collect();
            let chosen = if dtype == Float::F32 { chosen.clone() } else { Arg::Ints(vec![rows, k], own) };
            check(&Op::PickGrad { n }, &[chosen, dy], |level| pick_grad(&spec, level, "pick_grad"));
        }
        check(&Op::Histogram { bins: n }, &[chosen], |level| histogram((rows, k, n), level, "histogram"));
    }
}

#[test]
fn slots_are_sorted_by_expert_and_the_right_ones_dropped() {
    for (tokens, k, experts) in [(37, 3, 8), (5, 1, 2), (64, 2, 70)] {
        let slots = tokens * k;
        let chosen = Arg::Ints(vec![tokens, k], ids(slots, experts as i32, 6));
        for capacity in [0, 1, 7, 1000] {
            let op = Op::Assign { experts, capacity };
            let spec = AssignSpec { slots, experts, capacity, weights: None };
            check(&op, std::slice::from_ref(&chosen), |level| assign(&spec, level, "assign"));
            for dtype in DTYPES.into_iter().filter(|_| capacity > 0) {
                // Few distinct weights: position decides among equals.
                let weights = Arg::Floats(dtype, vec![tokens, k], coarse(&[slots], 7));
                let spec = AssignSpec { weights: Some(dtype), ..spec };
                check(&op, &[chosen.clone(), weights], |level| assign(&spec, level, "assign"));
            }
        }
    }
}

#[test]
fn tokens_go_to_their_rows_and_come_back() {
    for (tokens, k, experts, capacity, hidden) in
        [(21, 3, 5, 0, 72), (21, 3, 5, 6, 64), (6, 1, 2, 0, 3), (300, 2, 4, 90, 21)]
    {
        let chosen = Arg::Ints(vec![tokens, k], ids(tokens * k, experts as i32, 8));
        let assigned = reference(&Op::Assign { experts, capacity }, &[chosen]);
        let slots: Vec<i32> = assigned[0].to_f64().iter().map(|x| *x as i32).collect();
        let slots = Arg::Ints(vec![tokens, k], slots);
        // With a capacity some rows have no slot and some slots no row.
        let rows = if capacity > 0 { experts * capacity } else { tokens * k };
        for dtype in DTYPES {
            let (x, y) = (Arg::random(dtype, &[tokens, hidden], 9), Arg::random(dtype, &[rows, hidden], 10));
            for weights in [None, Some(Float::F32), Some(Float::Bf16)] {
                let spec = RowsSpec { tokens, k, rows, hidden, dtype, weights };
                let w = weights.map(|w| Arg::random(w, &[tokens, k], 11));
                let args =
                    |first: &Arg| [first.clone(), slots.clone()].into_iter().chain(w.clone()).collect::<Vec<_>>();
                check(&Op::Dispatch { rows }, &args(&x), |level| dispatch(&spec, level, "dispatch"));
                check(&Op::Combine, &args(&y), |level| combine(&spec, level, "combine"));
            }
            let spec = RowsSpec { tokens, k, rows, hidden, dtype, weights: None };
            check(&Op::CombineDot, &[y, slots.clone(), x], |level| combine_dot(&spec, level, "combine_dot"));
        }
    }
}
