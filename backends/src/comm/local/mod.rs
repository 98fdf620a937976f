//! Ranks as threads of one process: the engine of `--devices N` and of tests.

mod board;

use super::call::{Call, agree};
use super::{Communicator, Engine, Ledger, fits, parts, position, reduce, share};
use super::{RANK_LEFT, RANK_PANICKED, bad_call};
use athanor_ir::op::ReduceKind;
use athanor_ir::{DType, Diagnostic, Result};
use board::{Post, World};
use std::sync::Arc;
use std::time::Duration;

/// Time after which a rank counts as missing.
pub const TIMEOUT: Duration = Duration::from_mins(2);

/// One rank of a world of threads. When it is dropped the rank has left.
#[derive(Debug)]
pub struct Member {
    world: Arc<World>,
    rank: usize,
    ledger: Arc<Ledger>,
}

/// The ranks of a new world of `size` ranks; each belongs into a thread of its own.
pub fn world(size: usize, timeout: Duration) -> Vec<Member> {
    let world = Arc::new(World::new(size, timeout));
    (0..size).map(|rank| Member { world: Arc::clone(&world), rank, ledger: Arc::default() }).collect()
}

impl Drop for Member {
    fn drop(&mut self) {
        self.world.leave(self.rank);
    }
}

impl Engine for Member {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.world.size()
    }

    fn group(&self, members: &[usize]) -> Result<Box<dyn Communicator>> {
        let at = position(members, self.rank, self.size())?;
        let (world, board, ledger) = (Arc::clone(&self.world), self.world.board(members), Arc::clone(&self.ledger));
        Ok(Box::new(Local { world, ledger, board, members: members.to_vec(), at, scratch: vec![] }))
    }
}

/// Runs `work` once per rank, each in its own thread, and gives the results by rank.
///
/// # Errors
/// The error of the rank that failed first; ranks that failed only because another had left do not count. A panic is
/// [`RANK_PANICKED`].
pub fn run<T: Send>(size: usize, timeout: Duration, work: impl Fn(Member) -> Result<T> + Sync) -> Result<Vec<T>> {
    let members = world(size, timeout);
    let results: Vec<Result<T>> = std::thread::scope(|scope| {
        let threads: Vec<_> = members
            .into_iter()
            .map(|m| {
                let (rank, work) = (m.rank, &work);
                let name = format!("athanor-rank-{rank}");
                (rank, std::thread::Builder::new().name(name).spawn_scoped(scope, move || work(m)))
            })
            .collect();
        let ended = |(rank, thread): (usize, std::io::Result<std::thread::ScopedJoinHandle<'_, Result<T>>>)| {
            let failed = |message: String| Diagnostic::error(&RANK_PANICKED, message).err();
            match thread.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(result)) => result,
                Ok(Err(panic)) => failed(format!("rank {rank} has panicked: {}", text(&*panic))),
                Err(e) => failed(format!("rank {rank} could not be started: {e}")),
            }
        };
        threads.into_iter().map(ended).collect()
    });
    let mut errors: Vec<_> = results.iter().filter_map(|r| r.as_ref().err()).collect();
    errors.sort_by_key(|e| e.code == &RANK_LEFT);
    if let Some(first) = errors.first() {
        return Err((*first).clone());
    }
    results.into_iter().collect()
}

/// What a panic said.
fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "without a message".into())
}

/// A group of threads.
struct Local {
    world: Arc<World>,
    ledger: Arc<Ledger>,
    board: usize,
    members: Vec<usize>,
    at: usize,
    scratch: Vec<u8>,
}

impl Local {
    /// Meets all members in `call`, runs `work` with their posts while all data stays in place, and waits for the others.
    fn meet(&mut self, call: Call, post: Post, work: impl FnOnce(&mut Self, &[Post])) -> Result<()> {
        let world = Arc::clone(&self.world);
        let meeting = world.meet(self.board, self.at, (call, post), &self.ledger)?;
        work(self, meeting.posts());
        Ok(())
    }
}

impl Communicator for Local {
    fn rank(&self) -> usize {
        self.at
    }

    fn members(&self) -> &[usize] {
        &self.members
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn all_reduce(&mut self, kind: ReduceKind, dtype: DType, data: &mut [u8]) -> Result<()> {
        let (at, n) = (self.at, self.size());
        let width = dtype.bytes();
        fits(data.len().is_multiple_of(width), "all_reduce", data.len(), data.len(), n)?;
        let elements = share(data.len() / width, at, n);
        let range = elements.start * width..elements.end * width;
        let call = Call::AllReduce { kind, dtype, bytes: data.len() };
        self.meet(call, Post::write(data), |this, posts| {
            this.scratch.resize(range.len(), 0);
            // SAFETY: every member is inside this call until all are done, and this part of each buffer is touched by this
            // member alone.
            let parts: Vec<&[u8]> = posts.iter().map(|p| unsafe { p.slice(range.clone()) }).collect();
            reduce::reduce(kind, dtype, &parts, &mut this.scratch);
            for p in posts {
                // SAFETY: as above; the parts read are not used any more.
                unsafe { p.fill(range.start, &this.scratch) }
            }
        })
    }

    fn reduce_scatter(&mut self, kind: ReduceKind, dtype: DType, from: &[u8], to: &mut [u8]) -> Result<()> {
        let (at, n) = (self.at, self.size());
        let fit = to.len().checked_mul(n) == Some(from.len()) && to.len().is_multiple_of(dtype.bytes());
        fits(fit, "reduce_scatter", from.len(), to.len(), n)?;
        let range = at * to.len()..(at + 1) * to.len();
        let call = Call::ReduceScatter { kind, dtype, bytes: to.len() };
        self.meet(call, Post::read(from), |_, posts| {
            // SAFETY: every member is inside this call until all are done, and `from` is only read.
            let parts: Vec<&[u8]> = posts.iter().map(|p| unsafe { p.slice(range.clone()) }).collect();
            reduce::reduce(kind, dtype, &parts, to);
        })
    }

    fn all_gather(&mut self, from: &[u8], to: &mut [u8]) -> Result<()> {
        let n = self.size();
        fits(from.len().checked_mul(n) == Some(to.len()), "all_gather", from.len(), to.len(), n)?;
        let bytes = from.len();
        self.meet(Call::AllGather { bytes }, Post::read(from), |_, posts| {
            for (i, p) in posts.iter().enumerate() {
                // SAFETY: every member is inside this call until all are done, and `from` is only read.
                to[i * bytes..(i + 1) * bytes].copy_from_slice(unsafe { p.slice(0..bytes) });
            }
        })
    }

    fn all_to_all_v(&mut self, from: &[u8], sent: &[usize], to: &mut [u8], received: &[usize]) -> Result<()> {
        let (at, n) = (self.at, self.size());
        parts("all_to_all: sent", sent, from.len(), n)?;
        parts("all_to_all: received", received, to.len(), n)?;
        let mut wrong = None;
        self.meet(Call::AllToAll, Post::parts(from, sent, received), |_, posts| {
            // Every member sees the same counts, so that all of them refuse or none does.
            let apart = |i: usize, j: usize| posts[i].sent(j) != posts[j].received(i);
            wrong = (0..n * n).map(|k| (k / n, k % n)).find(|(i, j)| apart(*i, *j));
            if wrong.is_some() {
                return;
            }
            let mut start = 0;
            for (i, p) in posts.iter().enumerate() {
                let bytes = received[i];
                // SAFETY: every member is inside this call until all are done, and `from` is only read.
                to[start..start + bytes].copy_from_slice(unsafe { p.slice(p.part(at)) });
                start += bytes;
            }
        })?;
        agree(wrong, self.members())
    }

    fn broadcast(&mut self, root: usize, data: &mut [u8]) -> Result<()> {
        let (at, n) = (self.at, self.size());
        fits(root < n, "broadcast", data.len(), root, n)?;
        let bytes = data.len();
        let post = if at == root { Post::read(data) } else { Post::none() };
        self.meet(Call::Broadcast { root, bytes }, post, |_, posts| {
            if at != root {
                // SAFETY: every member is inside this call until all are done, and the root's data is only read.
                data.copy_from_slice(unsafe { posts[root].slice(0..bytes) });
            }
        })
    }

    fn exchange(&mut self, sends: &[(usize, &[u8])], receives: &mut [(usize, &mut [u8])]) -> Result<()> {
        let n = self.size();
        let peers = sends.iter().map(|s| s.0).chain(receives.iter().map(|r| r.0));
        if let Some(bad) = peers.into_iter().find(|p| *p >= n || *p == self.at) {
            return bad_call(format!("a message between member {} and member {bad} of {n}", self.at));
        }
        self.world.exchange((self.board, self.at), sends, receives, &self.ledger)
    }

    fn barrier(&mut self) -> Result<()> {
        self.meet(Call::Barrier, Post::none(), |_, _| {})
    }
}

#[cfg(test)]
mod tests;
