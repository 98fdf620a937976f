//! A one-to-one relation of elements of two row-major tensors, as nested strides on either side.
//!
//! Every layout of [`athanor_ir::names::Layout`] is a few of these. Walking a range of one side gives runs of elements that
//! are equally spaced on both, so a tensor is read, written or compared piece by piece without holding it whole.

use std::ops::Range;

/// One nesting: `n` steps, so many elements apart on each side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loop {
    /// Steps.
    pub n: usize,
    /// Distance on our side.
    pub ours: usize,
    /// Distance on their side.
    pub theirs: usize,
}

/// Elements `start + Σ iⱼ·strideⱼ` of both sides, 0 ≤ iⱼ < nⱼ.
///
/// On each side, sorted by stride, the steps of a loop clear the span of those inside it: no two elements coincide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strided {
    ours: usize,
    theirs: usize,
    /// By their stride, largest first.
    by_theirs: Vec<Loop>,
    /// By ours, with the sides exchanged.
    by_ours: Vec<Loop>,
}

/// Equally spaced elements: those of the walked side begin at `at`, those of the other at `other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First element on the walked side.
    pub at: usize,
    /// Distance there.
    pub step: usize,
    /// First element on the other side.
    pub other: usize,
    /// Distance there.
    pub other_step: usize,
    /// Number of elements.
    pub n: usize,
}

impl Strided {
    /// The relation of `loops` from these first elements.
    pub fn new(ours: usize, theirs: usize, loops: &[Loop]) -> Self {
        let swapped: Vec<Loop> = loops.iter().map(|l| Loop { n: l.n, ours: l.theirs, theirs: l.ours }).collect();
        Self { ours, theirs, by_theirs: joined(loops.to_vec()), by_ours: joined(swapped) }
    }

    /// `n` elements in the same order on both sides.
    pub fn straight(ours: usize, theirs: usize, n: usize) -> Self {
        Self::new(ours, theirs, &[Loop { n, ours: 1, theirs: 1 }])
    }

    /// The range on our side, if the elements lie there as they do on theirs, without a gap.
    pub fn is_straight(&self) -> Option<(Range<usize>, usize)> {
        match self.by_theirs.as_slice() {
            [Loop { n, ours: 1, theirs: 1 }] => Some((self.ours..self.ours + n, self.theirs)),
            _ => None,
        }
    }

    /// Whether the span of its elements on our side meets `range`.
    pub fn meets_ours(&self, range: &Range<usize>) -> bool {
        let span: usize = self.by_ours.iter().map(|l| l.n.saturating_sub(1) * l.theirs).sum::<usize>() + 1;
        self.ours < range.end && range.start < self.ours + span
    }

    /// Whether elements come in the same order on both sides, so that a piece of one is near a piece of the other.
    pub fn keeps_order(&self) -> bool {
        self.by_theirs.windows(2).all(|w| w[0].ours >= w[1].ours)
    }

    /// Runs with an element in `range` of their side, in its order.
    pub fn walk_theirs(&self, range: &Range<usize>, run: &mut impl FnMut(Run)) {
        walk(&self.by_theirs, self.theirs, self.ours, range, run);
    }

    /// Runs with an element in `range` of our side, in its order.
    pub fn walk_ours(&self, range: &Range<usize>, run: &mut impl FnMut(Run)) {
        walk(&self.by_ours, self.ours, self.theirs, range, run);
    }

    /// The smallest range on our side that has all elements of `range` on theirs; empty if there are none.
    pub fn ours_of(&self, range: &Range<usize>) -> Range<usize> {
        let (mut low, mut high) = (usize::MAX, 0);
        self.walk_theirs(range, &mut |r| {
            low = low.min(r.other);
            high = high.max(r.other + (r.n - 1) * r.other_step + 1);
        });
        if low < high { low..high } else { 0..0 }
    }
}

/// `loops` by their stride, without those of one step, neighbours made one where both sides allow it.
fn joined(mut loops: Vec<Loop>) -> Vec<Loop> {
    // A relation of no elements keeps a loop that says so.
    if loops.iter().any(|l| l.n == 0) {
        return vec![Loop { n: 0, ours: 1, theirs: 1 }];
    }
    loops.retain(|l| l.n != 1);
    loops.sort_by_key(|l| std::cmp::Reverse(l.theirs));
    let mut out: Vec<Loop> = vec![];
    for l in loops {
        match out.last_mut() {
            Some(o) if o.theirs == l.n * l.theirs && o.ours == l.n * l.ours => {
                *o = Loop { n: o.n * l.n, ..l };
            }
            _ => out.push(l),
        }
    }
    if out.is_empty() {
        out.push(Loop { n: 1, ours: 1, theirs: 1 });
    }
    out
}

/// The walked side is `theirs` of `loops`.
fn walk(loops: &[Loop], at: usize, other: usize, range: &Range<usize>, run: &mut impl FnMut(Run)) {
    let Some((outer, inner)) = loops.split_first() else { return };
    let span: usize = 1 + inner.iter().map(|l| (l.n - 1) * l.theirs).sum::<usize>();
    // Step i covers at + i·stride .. + span; only those that meet the range are taken.
    let first = (range.start + 1).saturating_sub(at + span).div_ceil(outer.theirs);
    let end = range.end.saturating_sub(at).div_ceil(outer.theirs).min(outer.n);
    if first >= end {
        return;
    }
    if inner.is_empty() {
        let (step, other_step) = (outer.theirs, outer.ours);
        run(Run { at: at + first * step, step, other: other + first * other_step, other_step, n: end - first });
        return;
    }
    for i in first..end {
        walk(inner, at + i * outer.theirs, other + i * outer.ours, range, run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(s: &Strided, range: Range<usize>, ours: bool) -> Vec<(usize, usize)> {
        let mut out = vec![];
        let mut take = |r: Run| (0..r.n).for_each(|i| out.push((r.at + i * r.step, r.other + i * r.other_step)));
        if ours {
            s.walk_ours(&range, &mut take);
        } else {
            s.walk_theirs(&range, &mut take);
        }
        out
    }

    /// [2, 3] of ours transposed at element 4 of theirs, with a gap of 2 between rows.
    fn transposed() -> Strided {
        Strided::new(0, 4, &[Loop { n: 2, ours: 3, theirs: 1 }, Loop { n: 3, ours: 1, theirs: 4 }])
    }

    #[test]
    fn a_walk_gives_every_element_of_a_range_once_in_order() {
        let s = transposed();
        let all = vec![(4, 0), (5, 3), (8, 1), (9, 4), (12, 2), (13, 5)];
        assert_eq!(pairs(&s, 0..100, false), all);
        for low in 0..16 {
            for high in low..16 {
                let want: Vec<_> = all.iter().copied().filter(|(t, _)| (low..high).contains(t)).collect();
                assert_eq!(pairs(&s, low..high, false), want, "{low}..{high}");
            }
        }
        let mut other: Vec<_> = all.iter().map(|(t, o)| (*o, *t)).collect();
        other.sort_unstable();
        assert_eq!(pairs(&s, 0..100, true), other);
        assert_eq!(pairs(&s, 2..4, true), other[2..4]);
        assert_eq!(s.ours_of(&(8..10)), 1..5);
        assert_eq!(s.ours_of(&(6..8)), 0..0);
        assert!(!s.keeps_order() && s.is_straight().is_none());
    }

    #[test]
    fn loops_that_lie_behind_each_other_are_one() {
        let s = Strided::new(5, 7, &[Loop { n: 3, ours: 8, theirs: 8 }, Loop { n: 8, ours: 1, theirs: 1 }]);
        assert_eq!(s.is_straight(), Some((5..29, 7)));
        assert!(s.keeps_order());
        assert_eq!(pairs(&Strided::straight(2, 3, 1), 0..9, false), [(3, 2)]);
        assert_eq!(pairs(&Strided::straight(2, 3, 0), 0..9, true), []);
    }
}
