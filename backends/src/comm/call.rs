//! What a member of a group is about to do, which all members must say alike, and what is said when they do not or do not come.

use super::{Ledger, MISMATCH, MISSING, RANK_LEFT};
use athanor_ir::op::ReduceKind;
use athanor_ir::{DType, Diagnostic, Result};
use std::fmt;
use std::time::Duration;

/// A collective operation; sizes are of the data of one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    AllReduce { kind: ReduceKind, dtype: DType, bytes: usize },
    ReduceScatter { kind: ReduceKind, dtype: DType, bytes: usize },
    AllGather { bytes: usize },
    AllToAll,
    Broadcast { root: usize, bytes: usize },
    Barrier,
}

const DTYPES: [DType; 5] = [DType::F64, DType::F32, DType::BF16, DType::F16, DType::I32];
const KINDS: [ReduceKind; 2] = [ReduceKind::Sum, ReduceKind::Max];

impl Call {
    /// The call as numbers, for members that do not share memory.
    pub fn words(self) -> [u64; 4] {
        let reduction = |kind: ReduceKind, dtype: DType| {
            let kind = KINDS.iter().position(|k| *k == kind).unwrap_or(KINDS.len());
            let dtype = DTYPES.iter().position(|d| *d == dtype).unwrap_or(DTYPES.len());
            (kind * 16 + dtype) as u64
        };
        match self {
            Self::AllReduce { kind, dtype, bytes } => [1, reduction(kind, dtype), bytes as u64, 0],
            Self::ReduceScatter { kind, dtype, bytes } => [2, reduction(kind, dtype), bytes as u64, 0],
            Self::AllGather { bytes } => [3, 0, bytes as u64, 0],
            Self::AllToAll => [4, 0, 0, 0],
            Self::Broadcast { root, bytes } => [5, 0, bytes as u64, root as u64],
            Self::Barrier => [6, 0, 0, 0],
        }
    }

    /// The call of [`Self::words`]; none if these are no such numbers.
    pub fn from_words(words: [u64; 4]) -> Option<Self> {
        let [call, reduction, bytes, root] = words.map(|w| w as usize);
        let of = || Some((*KINDS.get(reduction / 16)?, *DTYPES.get(reduction % 16)?));
        Some(match call {
            1 => of().map(|(kind, dtype)| Self::AllReduce { kind, dtype, bytes })?,
            2 => of().map(|(kind, dtype)| Self::ReduceScatter { kind, dtype, bytes })?,
            3 => Self::AllGather { bytes },
            4 => Self::AllToAll,
            5 => Self::Broadcast { root, bytes },
            6 => Self::Barrier,
            _ => return None,
        })
    }

    /// The call and its place in the life of the group, counted from 1.
    pub fn at(self, round: u64, members: &[usize]) -> String {
        format!("{self}, operation {round} of ranks {members:?}")
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AllReduce { kind, dtype, bytes } => write!(f, "all_reduce({}, {dtype}, {bytes} bytes)", kind.name()),
            Self::ReduceScatter { kind, dtype, bytes } => {
                write!(f, "reduce_scatter({}, {dtype}, {bytes} bytes)", kind.name())
            }
            Self::AllGather { bytes } => write!(f, "all_gather({bytes} bytes)"),
            Self::AllToAll => write!(f, "all_to_all"),
            Self::Broadcast { root, bytes } => write!(f, "broadcast({bytes} bytes from {root})"),
            Self::Barrier => write!(f, "barrier"),
        }
    }
}

/// [`MISMATCH`] if a member has come to another call than member 0.
pub(super) fn different(calls: &[Call], round: u64, members: &[usize], ledger: &Ledger) -> Option<Box<Diagnostic>> {
    let other = (1..calls.len()).find(|i| calls[*i] != calls[0])?;
    let (a, b) = (members[0], members[other]);
    let text = format!("rank {a} is in {} and rank {b} in {}", calls[0], calls[other].at(round, members));
    Some(Box::new(mismatch(ledger.at(text))))
}

/// [`MISMATCH`] of a message of `bytes` bytes where `expected` were expected.
pub(super) fn sizes(sender: usize, bytes: usize, receiver: usize, expected: usize) -> Diagnostic {
    mismatch(format!("rank {sender} sends {bytes} bytes to rank {receiver}, which expects {expected}"))
}

/// [`MISMATCH`] with its help.
pub(super) fn mismatch(text: String) -> Diagnostic {
    let help = "start all ranks from one configuration with one version of Athanor";
    Diagnostic::error(&MISMATCH, text).help(help)
}

/// [`RANK_LEFT`]: `rank` has left in the way `how` and is missing from `what`.
pub(super) fn left(rank: usize, how: &str, what: &str) -> Diagnostic {
    let text = format!("rank {rank} {how}, and is missing from {what}");
    Diagnostic::error(&RANK_LEFT, text).help("see the error of that rank, and resume from the last checkpoint")
}

/// [`MISSING`]: `ranks` have not come to `what` in time.
pub(super) fn missing(mut ranks: Vec<usize>, what: &str, timeout: Duration) -> Diagnostic {
    ranks.sort_unstable();
    ranks.dedup();
    let be = if ranks.len() == 1 { "is" } else { "are" };
    let names = ranks.iter().map(|r| format!("rank {r}")).collect::<Vec<_>>().join(", ");
    let text = format!("{names} {be} missing from {what} after {} s", timeout.as_secs_f64());
    Diagnostic::error(&MISSING, text).help("find out what that rank is doing; it may be waiting for another one")
}

/// Refuses, as [`super::BAD_CALL`], parts of member `from` for member `to` that are not what that expects.
pub(super) fn agree(wrong: Option<(usize, usize)>, members: &[usize]) -> Result<()> {
    match wrong {
        None => Ok(()),
        Some((from, to)) => super::bad_call(format!(
            "rank {} sends rank {} another number of bytes than that expects",
            members[from], members[to]
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_survives_being_sent_as_numbers() {
        let mut calls = vec![
            Call::AllGather { bytes: 1 << 40 },
            Call::AllToAll,
            Call::Broadcast { root: 3, bytes: 5 },
            Call::Barrier,
        ];
        for (kind, dtype) in KINDS.iter().flat_map(|k| DTYPES.iter().map(move |d| (*k, *d))) {
            calls.push(Call::AllReduce { kind, dtype, bytes: 8 });
            calls.push(Call::ReduceScatter { kind, dtype, bytes: 8 });
        }
        for call in calls {
            assert_eq!(Call::from_words(call.words()), Some(call));
        }
        assert_eq!(Call::from_words([0, 0, 0, 0]), None);
        assert_eq!(Call::from_words([1, 99, 0, 0]), None);
    }
}
