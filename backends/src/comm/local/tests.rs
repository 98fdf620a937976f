use super::super::{BAD_CALL, Communicator, Engine, MISMATCH, MISSING, RANK_LEFT, RANK_PANICKED};
use super::{Member, run};
use athanor_ir::op::ReduceKind::{Max, Sum};
use athanor_ir::{DType, Diagnostic, Result};
use proptest::prelude::*;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_millis(200);
const LATE: Duration = Duration::from_mins(1);

fn all(m: &Member) -> Result<Box<dyn Communicator>> {
    m.group(&(0..m.size()).collect::<Vec<_>>())
}

fn bytes(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|x| x.to_ne_bytes()).collect()
}

fn floats(x: &[u8]) -> Vec<f32> {
    x.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Value `i` of rank `r`: sums of these depend on the order in which they are taken.
fn value(r: usize, i: usize) -> f32 {
    ((r * 7919 + i * 104_729) % 1000) as f32 * 1.37e-3 - 0.5 + if (r + i).is_multiple_of(5) { 1e4 } else { 0.0 }
}

fn in_order(ranks: &[usize], i: usize) -> f32 {
    ranks[1..].iter().fold(value(ranks[0], i), |s, r| s + value(*r, i))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn reductions_have_the_bits_of_a_sum_in_rank_order(size in 1usize..6, n in 1usize..40) {
        let results = run(size, LATE, |m| {
            let mut comm = all(&m)?;
            let own: Vec<f32> = (0..n * size).map(|i| value(m.rank(), i)).collect();
            let mut sum = bytes(&own);
            comm.all_reduce(Sum, DType::F32, &mut sum)?;
            let mut part = vec![0; 4 * n];
            comm.reduce_scatter(Sum, DType::F32, &bytes(&own), &mut part)?;
            let mut whole = vec![0; 4 * n * size];
            comm.all_gather(&part, &mut whole)?;
            let mut largest = bytes(&own);
            comm.all_reduce(Max, DType::F32, &mut largest)?;
            Ok((floats(&sum), floats(&whole), floats(&largest)))
        });
        let ranks: Vec<usize> = (0..size).collect();
        let wanted: Vec<f32> = (0..n * size).map(|i| in_order(&ranks, i)).collect();
        let max: Vec<f32> = (0..n * size).map(|i| ranks.iter().map(|r| value(*r, i)).fold(f32::MIN, f32::max)).collect();
        for (sum, whole, largest) in results.unwrap() {
            prop_assert_eq!(&sum, &wanted);
            prop_assert_eq!(&whole, &wanted);
            prop_assert_eq!(&largest, &max);
        }
    }

    #[test]
    fn parts_of_any_size_reach_their_rank(size in 1usize..6, sizes in prop::collection::vec(0usize..9, 36)) {
        let count = |from: usize, to: usize| sizes[from * 6 + to];
        run(size, LATE, |m| {
            let (me, n) = (m.rank(), m.size());
            let from: Vec<u8> = (0..n).flat_map(|to| vec![(me * 16 + to) as u8; count(me, to)]).collect();
            let sent: Vec<usize> = (0..n).map(|to| count(me, to)).collect();
            let received: Vec<usize> = (0..n).map(|from| count(from, me)).collect();
            let mut to = vec![0; received.iter().sum()];
            all(&m)?.all_to_all_v(&from, &sent, &mut to, &received)?;
            let wanted: Vec<u8> = (0..n).flat_map(|from| vec![(from * 16 + me) as u8; count(from, me)]).collect();
            assert_eq!(to, wanted);
            Ok(())
        }).unwrap();
    }
}

#[test]
fn groups_of_one_world_do_not_disturb_one_another() {
    // A mesh of 2 × 3: sums along both axes, many times.
    let sums = run(6, LATE, |m| {
        let (row, col) = (m.rank() / 3, m.rank() % 3);
        let mut along = m.group(&[row * 3, row * 3 + 1, row * 3 + 2])?;
        let mut across = m.group(&[col, col + 3])?;
        let mut x = bytes(&[m.rank() as f32]);
        for _ in 0..50 {
            along.all_reduce(Sum, DType::F32, &mut x)?;
            across.all_reduce(Sum, DType::F32, &mut x)?;
            x = bytes(&[floats(&x)[0] / 6.0]);
        }
        Ok(floats(&x)[0])
    });
    assert_eq!(sums.unwrap(), vec![2.5; 6]);
}

#[test]
fn messages_arrive_in_order_and_none_waits_for_another_of_its_call() {
    run(3, LATE, |m| {
        let (me, mut comm) = (m.rank(), all(&m)?);
        let (next, before) = ((me + 1) % 3, (me + 2) % 3);
        let (mut first, mut second, mut back) = ([0; 2], [0; 2], [0; 1]);
        let own = [me as u8; 1];
        comm.exchange(
            &[(next, &[me as u8, 1]), (before, &own), (next, &[me as u8, 2])],
            &mut [(before, &mut first), (before, &mut second), (next, &mut back)],
        )?;
        assert_eq!((first, second, back), ([before as u8, 1], [before as u8, 2], [next as u8]));
        let mut token = [0u8];
        if me == 0 {
            comm.send(1, &[42])?;
        } else if me == 1 {
            comm.receive(0, &mut token)?;
            assert_eq!(token, [42]);
        }
        let mut all = [me as u8 + 7];
        comm.broadcast(2, &mut all)?;
        assert_eq!(all, [9]);
        comm.barrier()
    })
    .unwrap();
}

fn failure(size: usize, timeout: Duration, work: impl Fn(Member) -> Result<()> + Sync) -> Diagnostic {
    *run(size, timeout, work).unwrap_err()
}

#[test]
fn a_rank_that_leaves_fails_the_others_at_once() {
    let start = Instant::now();
    let e = failure(3, LATE, |m| {
        let mut comm = all(&m)?;
        comm.barrier()?;
        if m.rank() == 1 { Ok(()) } else { comm.barrier() }
    });
    assert_eq!(e.code, &RANK_LEFT);
    assert_eq!(e.message, "rank 1 has left, and is missing from barrier, operation 2 of ranks [0, 1, 2]");
    let e = failure(2, LATE, |m| if m.rank() == 1 { Ok(()) } else { all(&m)?.receive(1, &mut [0]) });
    assert_eq!(e.message, "rank 1 has left, and is missing from messages of rank 0");
    assert!(start.elapsed() < LATE / 2);
}

#[test]
fn the_error_of_the_rank_that_failed_first_is_reported() {
    let e = failure(3, LATE, |m| {
        let mut comm = all(&m)?;
        assert!(m.rank() != 2, "out of luck");
        comm.barrier()
    });
    assert_eq!((e.code, e.message.as_str()), (&RANK_PANICKED, "rank 2 has panicked: out of luck"));
}

#[test]
fn a_rank_that_never_comes_is_named() {
    let e = failure(3, SOON, |m| {
        let mut comm = all(&m)?;
        if m.rank() == 1 {
            std::thread::sleep(3 * SOON);
            Ok(())
        } else {
            comm.all_reduce(Sum, DType::F32, &mut [0; 8])
        }
    });
    assert_eq!(e.code, &MISSING);
    let wanted = "rank 1 is missing from all_reduce(sum, f32, 8 bytes), operation 1 of ranks [0, 1, 2] after 0.2 s";
    assert_eq!(e.message, wanted);
    // Two ranks that wait for one another's messages.
    let e = failure(2, SOON, |m| all(&m)?.receive(1 - m.rank(), &mut [0]));
    assert_eq!(e.code, &MISSING);
}

#[test]
fn ranks_in_different_calls_are_told_apart() {
    let e = failure(2, LATE, |m| {
        let mut comm = all(&m)?;
        if m.rank() == 0 {
            comm.all_reduce(Sum, DType::F32, &mut [0; 8])
        } else {
            comm.all_gather(&[0; 8], &mut [0; 16])
        }
    });
    assert_eq!(e.code, &MISMATCH);
    assert_eq!(
        e.message,
        "rank 0 is in all_reduce(sum, f32, 8 bytes) and rank 1 in all_gather(8 bytes), operation 1 of ranks [0, 1]"
    );
    let e = failure(2, LATE, |m| {
        let mut comm = all(&m)?;
        if m.rank() == 0 { comm.send(1, &[0; 3]) } else { comm.receive(0, &mut [0; 4]) }
    });
    assert_eq!((e.code, e.message.as_str()), (&MISMATCH, "rank 0 sends 3 bytes to rank 1, which expects 4"));
}

#[test]
fn calls_that_do_not_fit_are_refused() {
    let e = failure(2, LATE, |m| all(&m)?.all_gather(&[0; 4], &mut [0; 4]));
    assert_eq!(e.code, &BAD_CALL);
    let e = failure(2, LATE, |m| all(&m)?.all_to_all_v(&[0; 4], &[2, 2], &mut [0; 3], &[1, 2]));
    assert_eq!(e.code, &BAD_CALL);
    let e = failure(2, LATE, |m| m.group(&[0, 0, 1]).map(|_| ()));
    assert_eq!(e.message, "[0, 0, 1] is no group of rank 0 among 2");
}
