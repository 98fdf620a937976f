//! Choosing experts, moving tokens to them and back, products by expert.

use super::Case;
use athanor_backends::cpu::reference::Tensor;
use athanor_ir::{Op, RouteMask};
use proptest::prelude::*;

fn config() -> ProptestConfig {
    ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() }
}

/// Spans of `e` experts one after the other, somewhere in `rows` rows.
fn spans(e: usize, rows: usize, cuts: &[usize]) -> Tensor {
    let mut at: Vec<i32> = cuts.iter().cycle().take(e + 1).map(|c| (c % (rows + 1)) as i32).collect();
    at.sort_unstable();
    Tensor::from_i32(&[e, 2], &at.windows(2).flatten().copied().collect::<Vec<_>>())
}

/// Rows of `slots` slots: a permutation of all of them, some dropped.
fn places(dims: &[usize], seed: u64, dropped: usize) -> Tensor {
    let n: usize = dims.iter().product();
    let mut order: Vec<u64> = (0..n as u64).collect();
    order.sort_by_key(|i| (seed ^ i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).rotate_left(29));
    let row = |i: &u64| if (*i as usize) < n - dropped.min(n) { *i as i32 } else { -1 };
    Tensor::from_i32(dims, &order.iter().map(row).collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn pick(t in 1..4usize, n in 1..5usize, ids in prop::collection::vec(0..5usize, 6), k in 1..3usize, seed: u64) {
        let ids: Vec<i32> = ids.iter().cycle().take(t * k).map(|i| (i % n) as i32).collect();
        Case::new(&[&[t, n]], seed).ids(vec![Tensor::from_i32(&[t, k], &ids)]).check(|b, x| b.many(Op::Pick, x));
    }

    #[test]
    fn dispatch_and_combine(t in 1..4usize, k in 1..3usize, h in 1..4usize, weighted: bool, dropped in 0..3usize, seed: u64) {
        let rows = places(&[t, k], seed, dropped);
        let operands = |x: &[athanor_ir::ValueId]| {
            let w = weighted.then_some(x[1]);
            [x[0], x[2]].into_iter().chain(w).collect::<Vec<_>>()
        };
        Case::new(&[&[t, h], &[t, k]], seed).ids(vec![rows.clone()]).check(|b, x| {
            b.many(Op::Dispatch { rows: t * k }, &operands(x))
        });
        Case::new(&[&[t * k, h], &[t, k]], seed).ids(vec![rows]).check(|b, x| b.many(Op::Combine, &operands(x)));
    }

    #[test]
    fn grouped_products(r in 1..6usize, e in 1..4usize, n in 1..4usize, k in 1..4usize, transposed: bool,
                        cuts in prop::collection::vec(0..7usize, 1..4), accumulate: bool, seed: u64) {
        let spec = if transposed { "rk,ekn->rn" } else { "rk,enk->rn" };
        let w = if transposed { [e, k, n] } else { [e, n, k] };
        Case::new(&[&[r, k], &w, &[r, n]], seed).ids(vec![spans(e, r, &cuts)]).check(|b, x| {
            let acc = accumulate.then_some(x[2]);
            let operands: Vec<_> = [x[0], x[1], x[3]].into_iter().chain(acc).collect();
            b.many(Op::GroupedEinsum { spec: spec.into() }, &operands)
        });
    }

    /// A whole layer: choose, weigh, send, multiply, bring back. Scores are apart, so that no choice changes.
    #[test]
    fn a_layer_of_experts(t in 1..4usize, seed: u64, order in Just([0.1, 0.5, -0.3, 0.8]).prop_shuffle()) {
        let (e, k, h) = (4, 2, 2);
        let scores: Vec<f64> = (0..t).flat_map(|i| { let mut s = order; s.rotate_left(i); s }).collect();
        let apart = Tensor::from_f64(&[t, e], &scores);
        Case::new(&[&[t, e], &[t, h], &[e, h, h]], seed).within(-0.05, 0.05).ids(vec![apart]).check(|b, x| {
            let scores = b.add(x[0], x[3]);
            let route = Op::Route { k, groups: 1, group_k: 1, group_top: 1, mask: RouteMask::NegInf };
            let ids = b.many(route, &[scores])[0];
            let w = b.many(Op::Pick, &[scores, ids])[0];
            let assigned = b.many(Op::Assign { experts: e, capacity: 0 }, &[ids]);
            let sent = b.many(Op::Dispatch { rows: t * k }, &[x[1], assigned[0]])[0];
            let y = b.many(Op::GroupedEinsum { spec: "rk,enk->rn".into() }, &[sent, x[2], assigned[1]])[0];
            b.many(Op::Combine, &[y, assigned[0], w])
        });
    }
}
