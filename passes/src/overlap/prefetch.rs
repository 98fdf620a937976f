//! Collective operations begin earlier, beside work that is enough: weights that are gathered where they are read above all.

use super::{Body, sends, stays};
use athanor_ir::{Node, Op};

/// How many others an operation is begun before at most: it takes memory from then on.
const REACH: usize = 8;

/// Work that is less than this part of what an operation takes is not worth its memory.
const LEAST: f64 = 1.0 / 16.0;

/// Whether stages of a pipeline meet in `node`: their programs differ, and so might the order.
fn between_stages(node: &Node) -> bool {
    matches!(&node.op, Op::Collective(c) if c.axes().any(|a| a == "pp"))
}

impl Body<'_> {
    /// Moves every collective operation to where enough work is beside it.
    pub(super) fn prefetch(&mut self) {
        for at in 0..self.order.len() {
            if sends(self.node(at)) && !between_stages(self.node(at)) {
                let (chain, bound) = self.chain(at);
                let to = self.place(at, bound);
                self.pull(&chain, to);
            }
        }
    }

    /// What stands at `at` after what is moved with it, in order, and the first place where it could stand: weights and what a stage
    /// is handed are there from the beginning, and converted on the way.
    fn chain(&self, at: usize) -> (Vec<usize>, usize) {
        let mut chain = vec![at];
        while let Some(def) = self.defs[self.node(chain[0]).inputs[0].0 as usize] {
            let Some(before) = (0..chain[0]).rev().find(|k| self.order[*k] == def) else { break };
            if !matches!(self.func.nodes[def].op, Op::Cast | Op::Reshape) {
                return (chain, before + 1);
            }
            chain.insert(0, before);
        }
        (chain, 0)
    }

    /// Where, not before `bound`, the operation at `at` should stand: at the last place with enough work before the next one begins or
    /// the result is read, or before the most work that there is.
    fn place(&self, at: usize, bound: usize) -> usize {
        let wanted = self.cost[self.order[at]];
        let next = (at + 1..self.order.len()).find(|k| sends(self.node(*k))).unwrap_or(self.order.len());
        let mut end = self.reader(at).min(next);
        let mut best = (self.work(at..end), at);
        if best.0 >= wanted {
            return at;
        }
        let (mut k, mut gaps) = (at, 0);
        while gaps < REACH {
            // The work that ends at `end`, back to the operation before.
            let begin = (bound..k).rev().find(|k| sends(self.node(*k)) || stays(self.node(*k)));
            let first = begin.map_or(bound, |b| b + 1);
            let taken = begin.and_then(|b| self.taken.get(&self.order[b])).copied().unwrap_or(0.0);
            let work = self.work(first..end);
            let room = work - taken;
            if room >= wanted {
                return self.latest(first, end, wanted);
            }
            if room > best.0 {
                best = (room, self.latest(first, end, room));
            }
            match begin {
                Some(b) if sends(self.node(b)) => (k, end, gaps) = (b, b, gaps + usize::from(work > 0.0)),
                _ => break,
            }
        }
        if best.0 > LEAST * wanted { best.1 } else { at }
    }

    /// The last place in `first..end` with `wanted` work behind it.
    fn latest(&self, first: usize, end: usize, wanted: f64) -> usize {
        let mut work = 0.0;
        for k in (first..end).rev() {
            work += self.work(k..k + 1);
            if work >= wanted {
                return k;
            }
        }
        first
    }

    /// Moves what stands at the places of `chain`, the last of which is a collective operation, to right before `to`.
    fn pull(&mut self, chain: &[usize], to: usize) {
        let Some(last) = chain.last().filter(|last| to < **last) else { return };
        let send = self.order[*last];
        let mut to = to;
        for k in chain {
            if *k < to {
                continue;
            }
            self.order[to..=*k].rotate_right(1);
            to += 1;
        }
        self.taken.insert(send, self.cost[send]);
    }
}
