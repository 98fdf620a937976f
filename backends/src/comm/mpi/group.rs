//! A group: its tags, the meeting at the start of every call, and the collectives.

use super::super::call::{self, Call, agree};
use super::super::{Communicator, Ledger, Position, bad_call, fits, parts, reduce, share};
use super::library::Mpi;
use super::meeting::{Met, Moves, Notes, others};
use super::note::{Transfer, WORDS};
use super::world::{GREET, World};
use athanor_ir::op::ReduceKind;
use athanor_ir::{DType, Diagnostic, Result};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

/// Tags of a group, added to the first that the receiver has given it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Channel {
    /// What a member is about to do.
    Meet,
    /// The data of collectives.
    Data,
    /// Sizes of messages between two members, the answers, and the messages.
    Letter,
    Answer,
    Message,
}
const CHANNELS: i32 = 5;

/// Bytes of other members' parts that a reduction holds at a time.
const SCRATCH: usize = 16 << 20;

/// A communicator over MPI.
pub(super) struct Group {
    pub world: Arc<World>,
    pub members: Vec<usize>,
    pub at: usize,
    /// The first tag of messages to each member, once all have said it.
    tags: Vec<i32>,
    /// That is under way.
    greeting: Option<Notes>,
    /// Collectives so far.
    round: u64,
    /// Why nothing goes any more.
    failed: Option<Box<Diagnostic>>,
    scratch: Vec<u8>,
}

impl Group {
    /// The group of `members`, in which this rank is at `at`. Does not wait for the others: they are met at the first call.
    ///
    /// Each member chooses the tags of what it receives and tells the others. So nobody has to find tags that are free
    /// everywhere, and the order in which ranks make their groups cannot lock them up.
    pub fn new(world: &Arc<World>, members: &[usize], at: usize) -> Result<Self> {
        let first = world.tags(CHANNELS)?;
        let mut tags = vec![0; members.len()];
        tags[at] = first;
        let mut hasher = DefaultHasher::new();
        members.hash(&mut hasher);
        let mut words = [0; WORDS];
        words[..2].copy_from_slice(&[hasher.finish(), first as u64]);
        let inner = world.lock();
        let greeting = Notes::exchange(&*inner.mpi, members, at, |_| words, |_| GREET, GREET)?;
        drop(inner);
        let (world, members) = (Arc::clone(world), members.to_vec());
        Ok(Self { world, members, at, tags, greeting: Some(greeting), round: 0, failed: None, scratch: vec![] })
    }

    /// The tag for messages to a member.
    pub fn to(&self, member: usize, channel: Channel) -> i32 {
        self.tags[member] + channel as i32
    }

    /// The tag of messages to this member.
    pub fn own(&self, channel: Channel) -> i32 {
        self.to(self.at, channel)
    }

    /// Does `work`; what fails once fails for good, because members no longer agree on what comes next.
    pub fn attempt<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        let result = self.greet().and_then(|()| work(self));
        self.failed = result.as_ref().err().cloned();
        result
    }

    /// Ends the making of the group.
    fn greet(&mut self) -> Result<()> {
        let Some(mut greeting) = self.greeting.take() else { return Ok(()) };
        let what = || self.world.ledger.at(format!("the making of group {:?}", self.members));
        self.world.wait(&mut Met { notes: &mut greeting, what: &what })?;
        let words: Vec<[u64; WORDS]> = greeting.words(self.at);
        let own = &greeting.own;
        if let Some(other) = words.iter().position(|w| w[0] != own[0]) {
            let (a, b) = (self.members[self.at], self.members[other]);
            return call::mismatch(format!("rank {a} makes group {:?}, and rank {b} another", self.members)).err();
        }
        self.tags = words.iter().map(|w| w[1] as i32).collect();
        Ok(())
    }

    /// Meets all members in `call` and gives the two numbers that each has for this one.
    fn meet(&mut self, call: Call, numbers: impl Fn(usize) -> [u64; 2]) -> Result<Vec<[u64; 2]>> {
        self.round += 1;
        let position = self.world.ledger.position().words();
        let words = |member: usize| {
            let mut words = [0; WORDS];
            words[..4].copy_from_slice(&call.words());
            words[4..6].copy_from_slice(&numbers(member));
            words[6..].copy_from_slice(&position);
            words
        };
        let inner = self.world.lock();
        let to = |member| self.to(member, Channel::Meet);
        let begun = Notes::exchange(&*inner.mpi, &self.members, self.at, words, to, self.own(Channel::Meet));
        drop(inner);
        let mut notes = begun.or_else(|e| self.world.blamed(e, || self.what(call)))?;
        self.world.wait(&mut Met { notes: &mut notes, what: &|| self.what(call) })?;
        let words = notes.words(self.at);
        let positions = words.iter().map(|w| Position::from_words([w[6], w[7]]));
        self.world.met(self.members.iter().copied().zip(positions));
        let unknown = || Box::new(call::mismatch(format!("unknown numbers in {}", call.at(self.round, &self.members))));
        let calls: Option<Vec<Call>> = words.iter().map(|w| Call::from_words([w[0], w[1], w[2], w[3]])).collect();
        match call::different(&calls.ok_or_else(unknown)?, self.round, &self.members, &self.world.ledger) {
            Some(error) => Err(error),
            None => Ok(words.iter().map(|w| [w[4], w[5]]).collect()),
        }
    }

    /// The call in words, and where this rank makes it.
    fn what(&self, call: Call) -> String {
        self.world.ledger.at(call.at(self.round, &self.members))
    }

    /// Moves data of a collective in which all have met.
    fn transfer(&self, call: Call, sends: &[(usize, &[u8])], receives: &mut [(usize, &mut [u8])]) -> Result<()> {
        let what = || self.what(call);
        let mut moves = Moves { open: vec![], what: &what };
        let begun = {
            let inner = self.world.lock();
            self.begin(&*inner.mpi, sends, receives, &mut moves.open)
        };
        let begun = begun.or_else(|e| self.world.blamed(e, what));
        begun.and_then(|()| self.world.wait(&mut moves)).inspect_err(|e| self.world.settle(&mut moves.open, e))
    }

    fn begin(
        &self,
        mpi: &dyn Mpi,
        sends: &[(usize, &[u8])],
        receives: &mut [(usize, &mut [u8])],
        open: &mut Vec<Transfer>,
    ) -> Result<()> {
        for (from, data) in receives {
            for piece in data.chunks_mut(self.world.cut) {
                let (from, tag) = (Some(self.members[*from]), self.own(Channel::Data));
                // SAFETY: `transfer` does not return before all of `open` is over.
                open.push(unsafe { Transfer::receive(mpi, piece, from, tag) }?);
            }
        }
        for (to, data) in sends {
            for piece in data.chunks(self.world.cut) {
                // SAFETY: as above.
                open.push(unsafe { Transfer::send(mpi, piece, self.members[*to], self.to(*to, Channel::Data)) }?);
            }
        }
        Ok(())
    }

    /// Reduces `own`, a range of `data`, over all members, each of which does the same with the range that `range` gives it.
    fn reduce(
        &mut self,
        call: Call,
        (kind, dtype): (ReduceKind, DType),
        data: &[u8],
        range: impl Fn(usize) -> Range<usize>,
        mut done: impl FnMut(usize, &[u8]),
    ) -> Result<()> {
        let (at, n) = (self.at, self.size());
        let block = (SCRATCH / n).max(4096) / 8 * 8;
        let longest = (0..n).map(|i| range(i).len()).max().unwrap_or(0);
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut out = vec![];
        let result = (0..longest.div_ceil(block)).try_for_each(|b| {
            let part = |i: usize| {
                let r = range(i);
                let start = (r.start + b * block).min(r.end);
                start..(start + block).min(r.end)
            };
            let own = part(at);
            scratch.resize(own.len() * (n - 1), 0);
            let sends: Vec<(usize, &[u8])> = others(at, n).map(|i| (i, &data[part(i)])).collect();
            let mut receives: Vec<(usize, &mut [u8])> =
                others(at, n).zip(scratch.chunks_mut(own.len().max(1))).collect();
            self.transfer(call, &sends, &mut receives)?;
            let mut parts: Vec<&[u8]> = scratch.chunks(own.len().max(1)).collect();
            if !own.is_empty() {
                parts.insert(at, &data[own.clone()]);
                out.resize(own.len(), 0);
                reduce::reduce(kind, dtype, &parts, &mut out);
                done(own.start, &out);
            }
            Ok(())
        });
        self.scratch = scratch;
        result
    }
}

/// `data` in parts of `sizes` bytes, by member.
fn cut(mut data: &mut [u8], sizes: impl IntoIterator<Item = usize>) -> Vec<(usize, &mut [u8])> {
    let mut part = |size| {
        let (part, rest) = std::mem::take(&mut data).split_at_mut(size);
        data = rest;
        part
    };
    sizes.into_iter().map(&mut part).enumerate().collect()
}

impl Communicator for Group {
    fn rank(&self) -> usize {
        self.at
    }

    fn members(&self) -> &[usize] {
        &self.members
    }

    fn ledger(&self) -> &Ledger {
        &self.world.ledger
    }

    fn all_reduce(&mut self, kind: ReduceKind, dtype: DType, data: &mut [u8]) -> Result<()> {
        let (at, n, width) = (self.at, self.size(), dtype.bytes());
        fits(data.len().is_multiple_of(width), "all_reduce", data.len(), data.len(), n)?;
        let elements = data.len() / width;
        let range = |i: usize| {
            let r = share(elements, i, n);
            r.start * width..r.end * width
        };
        let call = Call::AllReduce { kind, dtype, bytes: data.len() };
        self.attempt(|this| {
            this.meet(call, |_| [0; 2])?;
            let mut own = vec![0; range(at).len()];
            this.reduce(call, (kind, dtype), data, range, |start, out| {
                let start = start - range(at).start;
                own[start..start + out.len()].copy_from_slice(out);
            })?;
            let mut parts = cut(data, (0..n).map(|i| range(i).len()));
            parts.remove(at).1.copy_from_slice(&own);
            let sends: Vec<(usize, &[u8])> = others(at, n).map(|i| (i, &own[..])).collect();
            this.transfer(call, &sends, &mut parts)
        })
    }

    fn reduce_scatter(&mut self, kind: ReduceKind, dtype: DType, from: &[u8], to: &mut [u8]) -> Result<()> {
        let (at, n) = (self.at, self.size());
        let fit = to.len().checked_mul(n) == Some(from.len()) && to.len().is_multiple_of(dtype.bytes());
        fits(fit, "reduce_scatter", from.len(), to.len(), n)?;
        let bytes = to.len();
        let call = Call::ReduceScatter { kind, dtype, bytes };
        self.attempt(|this| {
            this.meet(call, |_| [0; 2])?;
            this.reduce(
                call,
                (kind, dtype),
                from,
                |i| i * bytes..(i + 1) * bytes,
                |start, out| {
                    let start = start - at * bytes;
                    to[start..start + out.len()].copy_from_slice(out);
                },
            )
        })
    }

    fn all_gather(&mut self, from: &[u8], to: &mut [u8]) -> Result<()> {
        let (at, n) = (self.at, self.size());
        fits(from.len().checked_mul(n) == Some(to.len()), "all_gather", from.len(), to.len(), n)?;
        let call = Call::AllGather { bytes: from.len() };
        self.attempt(|this| {
            this.meet(call, |_| [0; 2])?;
            let mut parts = cut(to, vec![from.len(); n]);
            parts.remove(at).1.copy_from_slice(from);
            let sends: Vec<(usize, &[u8])> = others(at, n).map(|i| (i, from)).collect();
            this.transfer(call, &sends, &mut parts)
        })
    }

    fn all_to_all_v(&mut self, from: &[u8], sent: &[usize], to: &mut [u8], received: &[usize]) -> Result<()> {
        let (at, n) = (self.at, self.size());
        parts("all_to_all: sent", sent, from.len(), n)?;
        parts("all_to_all: received", received, to.len(), n)?;
        let call = Call::AllToAll;
        // All members refuse or none does; so they tell one another whether their sizes agree.
        let wrong = self.attempt(|this| {
            let theirs = this.meet(call, |j| [sent[j] as u64, received[j] as u64])?;
            let apart = |j: &usize| theirs[*j] != [received[*j] as u64, sent[*j] as u64];
            let wrong = (0..n).find(apart).map_or([0; 2], |j| {
                if theirs[j][0] == received[j] as u64 { [at as u64 + 1, j as u64] } else { [j as u64 + 1, at as u64] }
            });
            this.round -= 1;
            let verdicts = this.meet(call, |_| wrong)?;
            if let Some([from, to]) = verdicts.into_iter().find(|v| v[0] != 0) {
                return Ok(Some((from as usize - 1, to as usize)));
            }
            let mut start = 0;
            let mut send = |bytes: usize| {
                start += bytes;
                &from[start - bytes..start]
            };
            let mut sends: Vec<(usize, &[u8])> = sent.iter().map(|b| send(*b)).enumerate().collect();
            let mut receives = cut(to, received.iter().copied());
            receives.remove(at).1.copy_from_slice(sends.remove(at).1);
            this.transfer(call, &sends, &mut receives)?;
            Ok(None)
        })?;
        agree(wrong, &self.members)
    }

    fn broadcast(&mut self, root: usize, data: &mut [u8]) -> Result<()> {
        let (at, n) = (self.at, self.size());
        fits(root < n, "broadcast", data.len(), root, n)?;
        let call = Call::Broadcast { root, bytes: data.len() };
        self.attempt(|this| {
            this.meet(call, |_| [0; 2])?;
            if at == root {
                let data = &*data;
                let sends: Vec<(usize, &[u8])> = others(at, n).map(|i| (i, data)).collect();
                this.transfer(call, &sends, &mut [])
            } else {
                this.transfer(call, &[], &mut [(root, data)])
            }
        })
    }

    fn exchange(&mut self, sends: &[(usize, &[u8])], receives: &mut [(usize, &mut [u8])]) -> Result<()> {
        let n = self.size();
        let peers = sends.iter().map(|s| s.0).chain(receives.iter().map(|r| r.0));
        if let Some(bad) = peers.into_iter().find(|p| *p >= n || *p == self.at) {
            return bad_call(format!("a message between member {} and member {bad} of {n}", self.at));
        }
        self.attempt(|this| super::exchange::exchange(this, sends, receives))
    }

    fn barrier(&mut self) -> Result<()> {
        self.attempt(|this| this.meet(Call::Barrier, |_| [0; 2]).map(|_| ()))
    }
}
