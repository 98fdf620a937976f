//! Communicators: what a group of ranks can do together.
//!
//! An engine gives every rank a [`Communicator`] per group. Reductions are taken in the order of the ranks of the group,
//! each element by one rank, so their bits do not depend on timing or engine. A rank that leaves or never comes is an error
//! of the others, not a hang.

mod call;
mod codes;
mod ledger;
pub mod local;
pub mod mpi;
pub mod reduce;

use athanor_ir::op::ReduceKind;
use athanor_ir::{DType, Diagnostic, Result};
pub use codes::{
    BAD_CALL, CODES, FOREIGN_MPI, MISMATCH, MISSING, MPI_FAILED, NO_MPI, RANK_LEFT, RANK_PANICKED, STALLED,
};
pub use ledger::{Ledger, Place, Position};

/// The calls of one rank to the other members of a group.
///
/// All members make the same collective calls in the same order with the same sizes; messages between two members arrive
/// in the order in which they were sent. Ranks in arguments are positions in the group. Data is row-major in the machine's
/// byte order.
pub trait Communicator: Send {
    /// Own position in the group.
    fn rank(&self) -> usize;

    /// The members' ranks among all, by position.
    fn members(&self) -> &[usize];

    /// Number of members.
    fn size(&self) -> usize {
        self.members().len()
    }

    /// Where this rank is in its work: what errors name. All groups of a rank share it.
    fn ledger(&self) -> &Ledger;

    /// Replaces `data` of every member by the sum or maximum over all of them.
    ///
    /// # Errors
    /// [`RANK_LEFT`], [`MISSING`], [`MISMATCH`], [`BAD_CALL`], as all of the following.
    fn all_reduce(&mut self, kind: ReduceKind, dtype: DType, data: &mut [u8]) -> Result<()>;

    /// `to` of member r becomes part r of the sum or maximum over all `from`, which have `size` times as many bytes.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    fn reduce_scatter(&mut self, kind: ReduceKind, dtype: DType, from: &[u8], to: &mut [u8]) -> Result<()>;

    /// `to` becomes the `from` of all members, one after the other.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    fn all_gather(&mut self, from: &[u8], to: &mut [u8]) -> Result<()>;

    /// Part j of `from` of member i becomes part i of `to` of member j; all parts have equal sizes.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    fn all_to_all(&mut self, from: &[u8], to: &mut [u8]) -> Result<()> {
        let n = self.size();
        let (sent, received) = (vec![from.len() / n; n], vec![to.len() / n; n]);
        self.all_to_all_v(from, &sent, to, &received)
    }

    /// As [`Self::all_to_all`] with parts of `sent[j]` bytes to member j and `received[i]` bytes from member i.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    fn all_to_all_v(&mut self, from: &[u8], sent: &[usize], to: &mut [u8], received: &[usize]) -> Result<()>;

    /// `data` of every member becomes that of `root`.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    fn broadcast(&mut self, root: usize, data: &mut [u8]) -> Result<()>;

    /// Sends and receives any number of messages at once; none of them waits for another of the same call.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    fn exchange(&mut self, sends: &[(usize, &[u8])], receives: &mut [(usize, &mut [u8])]) -> Result<()>;

    /// Sends to one member; returns when it has received.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    fn send(&mut self, to: usize, data: &[u8]) -> Result<()> {
        self.exchange(&[(to, data)], &mut [])
    }

    /// Receives from one member.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    fn receive(&mut self, from: usize, data: &mut [u8]) -> Result<()> {
        self.exchange(&[], &mut [(from, data)])
    }

    /// Returns when every member has come here.
    ///
    /// # Errors
    /// As [`Self::all_reduce`].
    fn barrier(&mut self) -> Result<()>;
}

/// The process's way to the other ranks: it makes communicators.
pub trait Engine: Send {
    /// Own rank among all.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn size(&self) -> usize;

    /// The communicator of the ranks `members`, of which this must be one. All of them call it, in the same order.
    ///
    /// # Errors
    /// [`BAD_CALL`].
    fn group(&self, members: &[usize]) -> Result<Box<dyn Communicator>>;
}

/// Refuses a group that does not hold `rank`, holds one twice, or one that does not exist; otherwise gives its position.
fn position(members: &[usize], rank: usize, size: usize) -> Result<usize> {
    let bad = members.iter().enumerate().find(|(i, m)| **m >= size || members[..*i].contains(m));
    match (members.iter().position(|m| *m == rank), bad) {
        (Some(at), None) => Ok(at),
        _ => bad_call(format!("{members:?} is no group of rank {rank} among {size}")),
    }
}

/// Refuses data whose size does not fit the call.
fn fits(ok: bool, what: &str, from: usize, to: usize, n: usize) -> Result<()> {
    if ok { Ok(()) } else { bad_call(format!("{what} of {from} bytes to {to} bytes in a group of {n}")) }
}

/// Refuses parts that are not those of the data.
fn parts(what: &str, counts: &[usize], bytes: usize, n: usize) -> Result<()> {
    let sum = counts.iter().try_fold(0usize, |a, b| a.checked_add(*b));
    if counts.len() == n && sum == Some(bytes) {
        Ok(())
    } else {
        bad_call(format!("{what} parts {counts:?} of {bytes} bytes in a group of {n}"))
    }
}

fn bad_call<T>(message: String) -> Result<T> {
    Diagnostic::error(&BAD_CALL, message)
        .help("the plan is damaged, or this is a fault of Athanor worth reporting")
        .err()
}

/// A share of `n` elements for member `at` of `size`: consecutive, in the order of the members.
fn share(n: usize, at: usize, size: usize) -> std::ops::Range<usize> {
    n * at / size..n * (at + 1) / size
}
