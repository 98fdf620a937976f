//! Collective operations: what ranks of a group make of their parts together.

use crate::element::ReduceKind;
use crate::module::Mesh;
use serde::{Deserialize, Serialize};

/// A collective operation over some axes of the mesh. Ranks whose coordinates differ in these axes only are a group; its
/// members are in the order of their ranks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collective {
    /// What is done.
    pub kind: CollectiveKind,
    /// Names of the axes, separated by commas, slowest first: `tp`, `dp,tp`.
    pub axes: String,
    /// Members of a group: the product of the axes' sizes.
    pub ranks: usize,
}

/// What a [`Collective`] does; n is the number of members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CollectiveKind {
    /// (x) → same dims on every member: the sum or maximum over all members, in their order.
    AllReduce {
        /// Sum or maximum.
        reduce: ReduceKind,
    },
    /// (x) → `dim` n times as large on every member: the parts one after the other.
    AllGather {
        /// Joined dim.
        dim: usize,
    },
    /// (x) → `dim` n times smaller: each member's part of the sum over all members.
    ReduceScatter {
        /// Cut dim.
        dim: usize,
    },
    /// (x) → `cut` n times smaller and `join` n times larger: each member gives every other its part of `cut` and joins what it
    /// gets along `join`, in the order of the members. With one dim for both the parts change places.
    AllToAll {
        /// Cut dim.
        cut: usize,
        /// Joined dim.
        join: usize,
    },
    /// (x) → same dims: what the member before has; the first one gets that of the last.
    Shift,
    /// (x) → same dims on the first and the last position along the axis: the sum of both. The others take no part, so that the
    /// group has two members.
    SumEnds,
    /// (x) → `dim` n times smaller: the member's own part of what all of them have. Nothing is sent.
    OwnPart {
        /// Cut dim.
        dim: usize,
    },
    /// (ids i32) → same dims: ids counted from the first one of the member's own part. Nothing is sent.
    OwnIds {
        /// Ids of a part.
        size: usize,
    },
    /// (ids i32) → same dims: ids in the part of the member `back` before (the last one is before the first), counted from the
    /// first one of the member's own part. Nothing is sent.
    BlockIds {
        /// Ids of a part.
        size: usize,
        /// How far before it is: where what has been shifted so many times comes from.
        back: usize,
    },
}

impl Collective {
    /// The op's name without dialect.
    pub const fn name(&self) -> &'static str {
        match self.kind {
            CollectiveKind::AllReduce { .. } => "all_reduce",
            CollectiveKind::AllGather { .. } => "all_gather",
            CollectiveKind::ReduceScatter { .. } => "reduce_scatter",
            CollectiveKind::AllToAll { .. } => "all_to_all",
            CollectiveKind::Shift => "shift",
            CollectiveKind::SumEnds => "sum_ends",
            CollectiveKind::OwnPart { .. } => "own_part",
            CollectiveKind::OwnIds { .. } => "own_ids",
            CollectiveKind::BlockIds { .. } => "block_ids",
        }
    }

    /// The dims that are joined or cut.
    pub fn moved(&self) -> impl Iterator<Item = usize> {
        let dims = match self.kind {
            CollectiveKind::AllGather { dim }
            | CollectiveKind::ReduceScatter { dim }
            | CollectiveKind::OwnPart { dim } => [Some(dim), None],
            CollectiveKind::AllToAll { cut, join } => [Some(cut), Some(join)],
            CollectiveKind::AllReduce { .. }
            | CollectiveKind::Shift
            | CollectiveKind::SumEnds
            | CollectiveKind::OwnIds { .. }
            | CollectiveKind::BlockIds { .. } => [None; 2],
        };
        dims.into_iter().flatten()
    }

    /// Whether members send anything to one another.
    pub const fn sends(&self) -> bool {
        let alone = matches!(
            self.kind,
            CollectiveKind::OwnPart { .. } | CollectiveKind::OwnIds { .. } | CollectiveKind::BlockIds { .. }
        );
        !alone
    }

    /// The axes one by one.
    pub fn axes(&self) -> impl Iterator<Item = &str> {
        self.axes.split(',')
    }

    /// Members of a group on `mesh`; `None` if it does not have the axes.
    pub fn members(&self, mesh: &Mesh) -> Option<usize> {
        let sizes = self.axes().map(|a| mesh.axis(a).map(|i| mesh.axes[i].size));
        let all = sizes.into_iter().try_fold(1usize, |n, size| n.checked_mul(size?))?;
        Some(if self.kind == CollectiveKind::SumEnds { all.min(2) } else { all })
    }

    /// The group of rank `rank` on `mesh`, by rank; `None` if it takes no part.
    pub fn group(&self, mesh: &Mesh, rank: usize) -> Option<Vec<usize>> {
        let mut members = mesh.group(&self.axes().collect::<Vec<_>>(), rank);
        if self.kind == CollectiveKind::SumEnds && members.len() > 2 {
            members.drain(1..members.len() - 1);
        }
        members.contains(&rank).then_some(members)
    }

    /// Dims of the result for an operand of `dims`.
    ///
    /// # Errors
    /// Why there is none: a dim that does not exist or cannot be cut.
    pub fn dims(&self, dims: &[usize]) -> Result<Vec<usize>, String> {
        let mut out = dims.to_vec();
        if self.ranks == 0 {
            return Err("a group has one member at least".into());
        }
        let (cut, join) = match self.kind {
            CollectiveKind::AllReduce { .. }
            | CollectiveKind::Shift
            | CollectiveKind::SumEnds
            | CollectiveKind::OwnIds { .. }
            | CollectiveKind::BlockIds { .. } => (None, None),
            CollectiveKind::AllGather { dim } => (None, Some(dim)),
            CollectiveKind::ReduceScatter { dim } | CollectiveKind::OwnPart { dim } => (Some(dim), None),
            CollectiveKind::AllToAll { cut, join } => (Some(cut), Some(join)),
        };
        if let Some(dim) = cut {
            let size = out.get_mut(dim).filter(|s| s.is_multiple_of(self.ranks));
            *size.ok_or_else(|| format!("dim {dim} of {dims:?} cannot be cut in {}", self.ranks))? /= self.ranks;
        }
        if let Some(dim) = join {
            let size = out.get_mut(dim).ok_or_else(|| format!("dims {dims:?} have no dim {dim}"))?;
            *size = size.checked_mul(self.ranks).ok_or_else(|| format!("dim {dim} of {dims:?} becomes too large"))?;
        }
        Ok(out)
    }
}
