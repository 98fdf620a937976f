use super::generate::{IMPOSSIBLE, Request, generate};
use super::messages::{Step, lower};
use super::simulate::{Costs, Report, simulate};
use super::validate::{Fault, rendezvous, validate};
use super::*;
use proptest::prelude::*;

fn make(kind: Kind, stages: usize, micro_batches: usize, chunks: usize, slices: usize) -> Schedule {
    generate(&Request { kind, stages, micro_batches, chunks, slices }).unwrap()
}

fn price(s: &Schedule, costs: Costs) -> Report {
    simulate(s, costs).unwrap_or_else(|e| panic!("{e:?}"))
}

/// Any schedule that exists for these numbers: kind, and what is rounded up for it.
fn any_schedule() -> impl Strategy<Value = (Kind, Schedule)> {
    use Kind::{DualpipeV, Gpipe, Interleaved, OneFOneB, Seqpipe, ZeroBubbleV};
    let kinds = prop::sample::select(vec![Gpipe, OneFOneB, Interleaved, Seqpipe, ZeroBubbleV, DualpipeV]);
    (kinds, 1usize..7, 1usize..14, 1usize..5, 1usize..5).prop_map(|(kind, p, m, v, slices)| match kind {
        Gpipe | OneFOneB => (kind, make(kind, p, m, 1, 1)),
        Interleaved => (kind, make(kind, p, m, v, 1)),
        Seqpipe => (kind, make(kind, p, m, 1, slices)),
        ZeroBubbleV | DualpipeV => (kind, make(kind, p + 1, m + 2 * p + 1, 2, 1)),
    })
}

fn any_costs() -> impl Strategy<Value = Costs> {
    (1u64..6, 1u64..6, 1u64..6).prop_map(|(f, b, w)| Costs { f, b, w })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_schedule_is_valid((kind, s) in any_schedule()) {
        let checked = validate(&s);
        prop_assert!(checked.is_ok(), "{kind:?}: {}", checked.unwrap_err());
    }

    /// (p − 1)(F + B), of a whole stage, of a chunk, of a slice.
    #[test]
    fn the_bubble_of_one_forward_one_backward_is_that_of_the_formula(
        p in 1usize..8, groups in 1usize..5, v in 1usize..5, slices in 1usize..5, costs in any_costs()
    ) {
        let bubble = (p as u64 - 1) * (costs.f + costs.b + costs.w);
        for kind in [Kind::Gpipe, Kind::OneFOneB] {
            prop_assert_eq!(price(&make(kind, p, groups, 1, 1), costs).bubble, bubble, "{:?}", kind);
        }
        prop_assert_eq!(price(&make(Kind::Interleaved, p, p * groups, v, 1), costs).bubble, bubble);
        prop_assert_eq!(price(&make(Kind::Seqpipe, p, groups, 1, slices), costs).bubble, bubble);
    }

    /// In unit costs only the fill of the pipeline is left: p − 1 chunks, and nothing between a stage's first and last task.
    #[test]
    fn zero_bubble_v_has_none(p in 2usize..8, more in 0usize..12) {
        let report = price(&make(Kind::ZeroBubbleV, p, 2 * p + more, 2, 1), Costs::UNIT);
        prop_assert_eq!((report.bubble, report.gaps), (p as u64 - 1, 0));
        prop_assert!(report.activations.iter().all(|a| *a == 2 * p));
    }

    /// (p − 1)(F&B + B − 3W) with B the whole backward pass, where forward and backward passes that overlap end together;
    /// here a pair is two tasks in turn, whose results leave one by one, so that it is an upper bound.
    #[test]
    fn dualpipe_v_stays_below_its_formula(p in 2usize..8, more in 0usize..12) {
        let costs = Costs::UNIT;
        let (whole, pair) = (costs.b + costs.w, costs.f + costs.b + costs.w);
        let report = price(&make(Kind::DualpipeV, p, 2 * p + more, 2, 1), costs);
        prop_assert!(report.bubble <= (p as u64 - 1) * (pair + whole - 3 * costs.w));
        prop_assert_eq!(report.bubble, p as u64 - 1);
        prop_assert!(report.activations.iter().all(|a| *a == 2 * p + 1));
    }

    /// A message that is not sent, not received, or received in another order is found.
    #[test]
    fn broken_messages_are_rejected((_, s) in any_schedule(), at in any::<prop::sample::Index>()) {
        let programs = lower(&s).unwrap();
        let halves: Vec<(usize, usize)> = programs
            .iter()
            .enumerate()
            .flat_map(|(stage, p)| {
                p.iter().enumerate().filter(|(_, x)| !matches!(x, Step::Run(_))).map(move |(i, _)| (stage, i))
            })
            .collect();
        prop_assume!(!halves.is_empty());
        let (stage, i) = halves[at.index(halves.len())];
        let mut dropped = programs.clone();
        dropped[stage].remove(i);
        prop_assert!(rendezvous(&dropped).is_err());
        let same = |x: &Step| match (x, &programs[stage][i]) {
            (Step::Receive { from: a, .. }, Step::Receive { from: b, .. }) => a == b,
            (Step::Send { to: a, .. }, Step::Send { to: b, .. }) => a == b,
            _ => false,
        };
        if let Some(j) = (i + 1..programs[stage].len()).find(|j| same(&programs[stage][*j])) {
            let mut swapped = programs.clone();
            swapped[stage].swap(i, j);
            prop_assert!(rendezvous(&swapped).is_err());
        }
    }

    /// What no order of a stage may be: without a task, with one twice, with a backward pass before its forward pass.
    #[test]
    fn broken_lists_are_rejected((_, s) in any_schedule(), stage in any::<prop::sample::Index>(), at in any::<prop::sample::Index>()) {
        let stage = stage.index(s.stages.len());
        let i = at.index(s.stages[stage].len());
        let mut missing = s.clone();
        let task = missing.stages[stage].remove(i);
        prop_assert_eq!(validate(&missing), Err(Fault::Missing(stage, task)));
        let mut twice = s.clone();
        twice.stages[stage].push(task);
        prop_assert_eq!(validate(&twice), Err(Fault::Foreign(stage, task)));
        let place = |part: Part| s.stages[stage].iter().position(|t| *t == Task { part, ..task }).unwrap();
        let (f, b) = (place(Part::F), place(Part::B));
        let mut early = s.clone();
        early.stages[stage].swap(f, b);
        prop_assert!(validate(&early).is_err());
    }
}

#[test]
fn activations_are_those_of_the_formulas() {
    let (p, m, v) = (4, 16, 2);
    assert_eq!(price(&make(Kind::Gpipe, p, m, 1, 1), Costs::UNIT).activations, [m; 4]);
    assert_eq!(price(&make(Kind::OneFOneB, p, m, 1, 1), Costs::UNIT).activations, [4, 3, 2, 1]);
    // p(1 + (p − 1)/(p·v)) micro-batches on the first stage, in chunks.
    let interleaved = price(&make(Kind::Interleaved, p, m, v, 1), Costs::UNIT).activations;
    assert_eq!(interleaved, [p * v + p - 1, 9, 7, 5]);
    // p + slices − 1 slices.
    assert_eq!(price(&make(Kind::Seqpipe, p, m, 1, 4), Costs::UNIT).activations, [7, 6, 5, 4]);
}

#[test]
fn stages_that_wait_for_one_another_are_named() {
    let mut s = make(Kind::OneFOneB, 2, 2, 1, 1);
    let t = |part, micro| Task { part, chunk: 0, micro };
    s.stages[0] = vec![t(Part::F, 0), t(Part::B, 0), t(Part::F, 1), t(Part::B, 1)];
    s.stages[1] = vec![t(Part::F, 0), t(Part::F, 1), t(Part::B, 0), t(Part::B, 1)];
    let fault = validate(&s).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "deadlock: stage 0 waits with B0.0 for B0.0 of stage 1; stage 1 waits with F1.0 for F1.0 of stage 0"
    );
}

#[test]
fn the_last_chunk_of_a_v_is_on_the_first_stage() {
    let s = make(Kind::ZeroBubbleV, 3, 6, 2, 1);
    let order: Vec<(usize, usize)> = (0..s.positions()).map(|x| s.at(x)).collect();
    assert_eq!(order, [(0, 0), (1, 0), (2, 0), (2, 1), (1, 1), (0, 1)]);
    assert!(order.iter().enumerate().all(|(x, (stage, chunk))| s.position(*stage, *chunk) == x));
}

#[test]
fn what_does_not_exist_is_refused() {
    let ask = |kind, stages, micro_batches, chunks, slices| {
        generate(&Request { kind, stages, micro_batches, chunks, slices }).unwrap_err().code
    };
    assert_eq!(ask(Kind::OneFOneB, 2, 4, 2, 1), &IMPOSSIBLE);
    assert_eq!(ask(Kind::ZeroBubbleV, 4, 7, 2, 1), &IMPOSSIBLE);
    assert_eq!(ask(Kind::DualpipeV, 4, 8, 1, 1), &IMPOSSIBLE);
    assert_eq!(ask(Kind::Gpipe, 2, 4, 1, 2), &IMPOSSIBLE);
    assert_eq!(ask(Kind::Seqpipe, 0, 4, 1, 2), &IMPOSSIBLE);
}
