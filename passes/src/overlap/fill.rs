//! Work of the same layer between a collective operation and what reads it.

use super::{Body, sends, stays};
use athanor_ir::ValueId;
use athanor_ir::recompute::layer_of;
use std::collections::HashSet;

/// How many nodes behind the reader are looked at.
const WINDOW: usize = 256;

/// Work that is less than this part of what an operation sends is not worth a move.
const LEAST: f64 = 1.0 / 16.0;

impl Body<'_> {
    /// Fills the time of every collective operation of a layer with work, if there is some.
    pub(super) fn fill(&mut self) {
        for at in 0..self.order.len() {
            if sends(self.node(at)) {
                self.fill_behind(at);
            }
        }
    }

    fn fill_behind(&mut self, at: usize) {
        let (send, reader) = (self.order[at], self.reader(at));
        let wanted = self.cost[send];
        let mut there = self.work(at + 1..reader);
        if there < wanted && reader < self.order.len() {
            let moved = self.independent(at, reader, wanted - there);
            there += moved.iter().map(|k| self.cost[self.order[*k]]).sum::<f64>();
            // From the front, so that what is behind keeps its place.
            for (n, k) in moved.iter().enumerate() {
                self.order[reader + n..=*k].rotate_right(1);
            }
        }
        self.taken.insert(send, there.min(wanted));
    }

    /// Places behind `reader` of work for `wanted` bytes that may stand before it, in order.
    fn independent(&self, at: usize, reader: usize, wanted: f64) -> Vec<usize> {
        let Some((layer, _)) = layer_of(&self.node(at).loc.block) else { return vec![] };
        // Values that are not there before the reader, and nodes that could be.
        let mut late: HashSet<ValueId> = self.node(at).outputs.iter().copied().collect();
        let mut free: Vec<usize> = vec![];
        let (mut taken, mut found) = (HashSet::new(), 0.0);
        for k in reader..self.order.len().min(reader + WINDOW) {
            let node = self.node(k);
            let own = layer_of(&node.loc.block).is_some_and(|(l, _)| l == layer);
            if !own || sends(node) || stays(node) || node.inputs.iter().any(|v| late.contains(v)) {
                late.extend(&node.outputs);
                continue;
            }
            free.push(k);
            if self.cost[self.order[k]] < LEAST * self.cost[self.order[at]] {
                continue;
            }
            found += self.take(k, &free, &mut taken);
            if found >= wanted {
                break;
            }
        }
        let mut moved: Vec<usize> = taken.into_iter().collect();
        moved.sort_unstable();
        moved
    }

    /// Takes what stands at `k` and what it needs of the `free` places; what that is worth.
    fn take(&self, k: usize, free: &[usize], taken: &mut HashSet<usize>) -> f64 {
        if !taken.insert(k) {
            return 0.0;
        }
        let made = |p: usize, v: &ValueId| self.node(p).outputs.contains(v);
        let needed = free.iter().filter(|p| **p < k && self.node(k).inputs.iter().any(|v| made(**p, v)));
        self.cost[self.order[k]] + needed.map(|p| self.take(*p, free, taken)).sum::<f64>()
    }
}
