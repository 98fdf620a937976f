//! Schedules over two chunks per stage in the shape of a V: stage 0 has the first and the last chunk of the model.

use super::{Part, Task};

/// `DualPipeV`, after the list of steps in deepseek-ai/DualPipe: forward of one chunk beside backward of the other, weight
/// gradients split off only where they fill a gap.
pub(super) fn dualpipe_v(p: usize, m: usize, stage: usize) -> Vec<Task> {
    let mut list = List::default();
    let ahead = p - 1 - stage;
    for _ in 0..2 * ahead {
        list.f(0);
    }
    for _ in 0..=stage {
        list.f(0);
        list.f(1);
    }
    for _ in 0..ahead {
        list.b(1);
        list.w();
        list.f(1);
    }
    for _ in 0..=(m - 2 * p + stage) {
        list.f(0);
        list.full(1);
        list.f(1);
        list.full(0);
    }
    for _ in 0..ahead {
        list.full(1);
        list.f(1);
        list.full(0);
    }
    // In the second half weight gradients are put off: backward passes reach the next stage sooner.
    for i in 0..2 * (stage + 1) {
        let chunk = 1 - i % 2;
        if i <= stage { list.full(chunk) } else { list.b(chunk) }
    }
    for _ in 0..ahead {
        list.w();
        list.b(0);
    }
    while list.w() {}
    list.tasks
}

/// A list in the making, which numbers the micro-batches of each part and chunk in order.
#[derive(Clone, Default)]
struct List {
    tasks: Vec<Task>,
    forward: [usize; 2],
    backward: [usize; 2],
    /// Backward passes whose weight part is to come, oldest first.
    open: std::collections::VecDeque<(usize, usize)>,
}

impl List {
    fn f(&mut self, chunk: usize) {
        self.tasks.push(Task { part: Part::F, chunk, micro: self.forward[chunk] });
        self.forward[chunk] += 1;
    }

    fn b(&mut self, chunk: usize) {
        let micro = self.backward[chunk];
        self.tasks.push(Task { part: Part::B, chunk, micro });
        self.open.push_back((chunk, micro));
        self.backward[chunk] += 1;
    }

    /// The oldest weight part that is left; false if there is none.
    fn w(&mut self) -> bool {
        let Some((chunk, micro)) = self.open.pop_front() else { return false };
        self.tasks.push(Task { part: Part::W, chunk, micro });
        true
    }

    /// A backward pass and its weight part at once.
    fn full(&mut self, chunk: usize) {
        self.b(chunk);
        if let Some((chunk, micro)) = self.open.pop_back() {
            self.tasks.push(Task { part: Part::W, chunk, micro });
        }
    }
}

/// Zero bubble in the shape of a V (arXiv 2405.15362): in unit time, each stage takes at every instant the backward pass
/// that is ready, else a forward pass if fewer than 2p chunks are in flight, else a weight part.
///
/// Memory is that of 1F1B: 2p chunks of half the size.
pub(super) fn zero_bubble_v(p: usize, m: usize) -> Vec<Vec<Task>> {
    let mut stages = vec![List::default(); p];
    let total = 6 * m;
    while stages.iter().any(|s| s.tasks.len() < total) {
        let before: Vec<([usize; 2], [usize; 2])> = stages.iter().map(|s| (s.forward, s.backward)).collect();
        let mut moved = false;
        for (stage, s) in stages.iter_mut().enumerate() {
            match s.next(stage, p, m, &before) {
                Some((Part::F, chunk)) => s.f(chunk),
                Some((Part::B, chunk)) => s.b(chunk),
                Some((Part::W, _)) => {
                    s.w();
                }
                None => continue,
            }
            moved = true;
        }
        // Chunks 0 always move while there are some left: an instant without work would repeat for ever.
        assert!(moved, "a stage of zero_bubble_v has nothing to do");
    }
    stages.into_iter().map(|s| s.tasks).collect()
}

impl List {
    /// Part and chunk to do at this instant of unit-cost time, when `before` it each stage had done so many forward and
    /// backward passes by chunk.
    fn next(&self, stage: usize, p: usize, m: usize, before: &[([usize; 2], [usize; 2])]) -> Option<(Part, usize)> {
        let (forward, backward) = (|s: usize, c: usize| before[s].0[c], |s: usize, c: usize| before[s].1[c]);
        let last = p - 1;
        let ready_f = |chunk: usize| {
            let k = self.forward[chunk];
            let fed = match chunk {
                0 => stage == 0 || forward(stage - 1, 0) > k,
                _ if stage == last => forward(last, 0) > k,
                _ => forward(stage + 1, 1) > k,
            };
            (k < m && fed).then_some((Part::F, chunk))
        };
        let ready_b = |chunk: usize| {
            let k = self.backward[chunk];
            let fed = match chunk {
                1 => (stage == 0 || backward(stage - 1, 1) > k) && forward(stage, 1) > k,
                _ if stage == last => backward(last, 1) > k,
                _ => backward(stage + 1, 0) > k,
            };
            (k < m && fed).then_some((Part::B, chunk))
        };
        // The last chunk may take the last place: it is what frees memory again.
        let flight: usize = (0..2).map(|c| self.forward[c] - self.backward[c]).sum();
        let [room0, room1] = [flight + 1 < 2 * p, flight < 2 * p];
        let b = ready_b(0).or_else(|| ready_b(1));
        let f = || ready_f(1).filter(|_| room1).or_else(|| ready_f(0).filter(|_| room0));
        b.or_else(f).or_else(|| self.open.front().map(|(chunk, _)| (Part::W, *chunk)))
    }
}
