//! How a value is spread over the ranks of a mesh.

use crate::module::Mesh;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Which axes of the mesh cut which dims of a value, and over which axes it is a sum of what ranks hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sharding {
    /// For each dim the axes that cut it, outermost first; dims beyond the last entry are whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dims: Vec<Vec<String>>,
    /// Axes over which the value is partial: the whole is the sum over their ranks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partial: Vec<String>,
}

impl Sharding {
    /// Whether every rank holds all of it.
    pub fn is_whole(&self) -> bool {
        self.partial.is_empty() && !self.is_cut()
    }

    /// Whether a rank holds a part of the dims only.
    pub fn is_cut(&self) -> bool {
        self.dims.iter().any(|axes| !axes.is_empty())
    }

    /// Axes that cut some dim.
    pub fn cutting(&self) -> impl Iterator<Item = &str> {
        self.dims.iter().flatten().map(String::as_str)
    }

    /// The part of rank `rank` of a value whose part has the dims `local`.
    pub fn slice(&self, mesh: &Mesh, rank: usize, local: &[usize]) -> Slice {
        let at = mesh.coordinates(rank);
        let (mut dims, mut start) = (vec![], vec![]);
        for (d, len) in local.iter().enumerate() {
            let axes = self.dims.get(d).map_or(&[][..], Vec::as_slice);
            let (mut parts, mut index) = (1, 0);
            for axis in axes {
                let (i, size) = mesh.axis(axis).map_or((0, 1), |i| (at[i], mesh.axes[i].size));
                parts *= size;
                index = index * size + i;
            }
            dims.push(len * parts);
            start.push(len * index);
        }
        Slice { dims, start, len: local.to_vec() }
    }
}

/// A box of a row-major tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Dims of the whole tensor.
    pub dims: Vec<usize>,
    /// First index in each dim.
    pub start: Vec<usize>,
    /// Number of indices in each dim.
    pub len: Vec<usize>,
}

/// Elements that lie side by side in a box and in the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First element in the box.
    pub local: usize,
    /// First element in the whole.
    pub global: usize,
    /// Number of elements.
    pub len: usize,
}

impl Slice {
    /// All of a tensor of `dims`.
    pub fn all(dims: &[usize]) -> Self {
        Self { dims: dims.to_vec(), start: vec![0; dims.len()], len: dims.to_vec() }
    }

    /// Number of elements in the box.
    pub fn elements(&self) -> usize {
        self.len.iter().product()
    }

    /// The box in runs, in its order.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        self.runs_in(0..self.elements())
    }

    /// The elements `range` of the box in runs.
    pub fn runs_in(&self, range: Range<usize>) -> impl Iterator<Item = Run> + '_ {
        // Inner dims that are whole, and the one before them, lie side by side.
        let rank = self.dims.len();
        let whole = (0..rank).rev().take_while(|d| self.len[*d] == self.dims[*d]).count();
        let outer = rank.saturating_sub(whole + 1);
        let run = self.len[outer..].iter().product::<usize>().max(1);
        (range.start / run..range.end.div_ceil(run)).map(move |i| {
            let (low, high) = (range.start.max(i * run), range.end.min((i + 1) * run));
            Run { local: low, global: self.row(i, outer) + low - i * run, len: high - low }
        })
    }

    /// Where row `row` over the first `outer` dims begins in the whole.
    fn row(&self, row: usize, outer: usize) -> usize {
        let (mut rest, mut global, mut stride) = (row, 0, 1);
        for d in (0..self.dims.len()).rev() {
            let mut index = self.start[d];
            if d < outer {
                index += rest % self.len[d];
                rest /= self.len[d];
            }
            global += index * stride;
            stride *= self.dims[d];
        }
        global
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::Axis;

    fn mesh() -> Mesh {
        let axis = |name: &str, size| Axis { name: name.into(), size };
        Mesh { axes: vec![axis("dp", 2), axis("tp", 3)] }
    }

    fn cut(dims: &[&[&str]]) -> Sharding {
        let dims = dims.iter().map(|axes| axes.iter().map(|a| (*a).to_owned()).collect()).collect();
        Sharding { dims, partial: vec![] }
    }

    #[test]
    fn groups_are_ranks_that_differ_in_the_axes_only() {
        let m = mesh();
        assert_eq!(m.coordinates(4), [1, 1]);
        assert_eq!(m.group(&["tp"], 4), [3, 4, 5]);
        assert_eq!(m.group(&["dp"], 4), [1, 4]);
        assert_eq!(m.group(&["dp", "tp"], 4), [0, 1, 2, 3, 4, 5]);
        assert_eq!((m.size("dp"), m.size("pp")), (2, 1));
    }

    #[test]
    fn parts_cover_the_whole_once() {
        let m = mesh();
        for (sharding, local) in
            [(cut(&[&[], &["tp"]]), [4, 5]), (cut(&[&["dp"], &["tp"]]), [2, 3]), (cut(&[&["dp", "tp"]]), [2, 7])]
        {
            let slices: Vec<Slice> = (0..6).map(|r| sharding.slice(&m, r, &local)).collect();
            let elements: usize = slices[0].dims.iter().product();
            let mut seen = vec![0; elements];
            for s in &slices {
                let mut next = 0;
                for r in s.runs() {
                    assert_eq!(r.local, next, "{s:?}");
                    next += r.len;
                    seen[r.global..r.global + r.len].iter_mut().for_each(|n| *n += 1);
                }
                assert_eq!(next, local.iter().product::<usize>());
            }
            // Each element is with as many ranks as axes that do not cut it have.
            let times = 6 * local.iter().product::<usize>() / elements;
            assert!(seen.iter().all(|n| *n == times), "{sharding:?}: {seen:?}");
        }
        assert_eq!(cut(&[&["dp", "tp"]]).slice(&m, 4, &[2]).start, [8]);
    }

    #[test]
    fn runs_are_as_long_as_they_can_be() {
        let s = Slice { dims: vec![4, 6], start: vec![1, 0], len: vec![2, 6] };
        assert_eq!(s.runs().collect::<Vec<_>>(), [Run { local: 0, global: 6, len: 12 }]);
        assert_eq!(Slice::all(&[]).runs().collect::<Vec<_>>(), [Run { local: 0, global: 0, len: 1 }]);
        let s = Slice { dims: vec![2, 6], start: vec![0, 2], len: vec![2, 2] };
        let runs: Vec<_> = s.runs().map(|r| (r.local, r.global, r.len)).collect();
        assert_eq!(runs, [(0, 2, 2), (2, 8, 2)]);
        let part: Vec<_> = s.runs_in(1..3).map(|r| (r.local, r.global, r.len)).collect();
        assert_eq!(part, [(1, 3, 1), (2, 8, 1)]);
    }
}
