//! One forward, one backward over several chunks of layers per stage, after Megatron-LM's interleaved schedule.

use super::simulate::Costs;
use super::{Part, Schedule, Shape, Task};
use std::collections::HashMap;

/// The lists of all stages: micro-batches in groups of `p`, each group through chunk 0, chunk 1, …; backwards in reverse
/// order of chunks. Stage s runs 2(p − 1 − s) + (v − 1)·p forward passes ahead.
pub(super) fn interleaved(p: usize, m: usize, v: usize) -> Vec<Vec<Task>> {
    let order = |part: Part| -> Vec<Task> {
        let group = |first: usize| {
            (0..v).flat_map(move |c| {
                let chunk = if part == Part::F { c } else { v - 1 - c };
                (first..(first + p).min(m)).map(move |micro| Task { part, chunk, micro })
            })
        };
        (0..m).step_by(p).flat_map(group).collect()
    };
    let (forward, backward) = (order(Part::F), order(Part::B));
    let ahead: Vec<usize> = (0..p).map(|s| (2 * (p - 1 - s) + (v - 1) * p).min(m * v)).collect();
    if !m.is_multiple_of(p) {
        return eager(p, m, v, &forward, &backward, &ahead);
    }
    let list = |ahead: &usize| {
        let mut list = forward[..*ahead].to_vec();
        for (k, b) in backward.iter().enumerate() {
            list.extend(forward.get(k + ahead));
            list.push(*b);
        }
        list
    };
    ahead.iter().map(list).collect()
}

/// The same orders where the last group is smaller than `p`, so that strict turns of forward and backward passes would
/// wait for one another: in unit-cost time a stage takes its next backward pass if it is ready, else its next forward pass
/// if no more than `ahead` + 1 are in flight.
fn eager(p: usize, m: usize, v: usize, forward: &[Task], backward: &[Task], ahead: &[usize]) -> Vec<Vec<Task>> {
    let stages = vec![vec![]; p];
    let mut made = Schedule { shape: Shape::Loop, chunks: v, micro_batches: m, slices: 1, split: false, stages };
    let mut end: HashMap<(usize, Task), u64> = HashMap::new();
    let (mut free, mut f, mut b) = (vec![0; p], vec![0; p], vec![0; p]);
    let mut now = 0;
    while made.stages.iter().any(|s| s.len() < 2 * m * v) {
        for stage in 0..p {
            let ready =
                |task: &Task| made.needs(stage, *task).iter().all(|n| end.get(n).is_some_and(|e: &u64| *e <= now));
            if free[stage] > now {
                continue;
            }
            let back = backward.get(b[stage]).filter(|t| ready(t));
            let room = f[stage] - b[stage] <= ahead[stage];
            let Some(task) = back.or_else(|| forward.get(f[stage]).filter(|t| room && ready(t))).copied() else {
                continue;
            };
            *(if task.part == Part::F { &mut f[stage] } else { &mut b[stage] }) += 1;
            free[stage] = now + Costs::UNIT.of(task.part, false);
            end.insert((stage, task), free[stage]);
            made.stages[stage].push(task);
        }
        now += 1;
    }
    made.stages
}
