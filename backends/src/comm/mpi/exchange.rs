//! Messages between two members. A letter says how large a message is, the answer that the receiver is there and expects as
//! much; then the message itself moves. So nobody who comes too late, never, or with another size touches anybody's data.

use super::super::call;
use super::group::{Channel, Group};
use super::note::{Note, Transfer, WORDS};
use super::world::{Inner, Step, Work};
use athanor_ir::{Diagnostic, Result};

/// One message, sent or received.
struct Message {
    member: usize,
    /// Address and size of the data.
    data: *mut [u8],
    sent: bool,
    /// Sent: the receiver's answer. Received: the sender's letter.
    wanted: Note,
    /// The other of the two, which this side has sent.
    said: Option<Note>,
    /// The data in pieces, once both sides agree.
    pieces: Option<Vec<Transfer>>,
}

impl Message {
    fn done(&self) -> bool {
        let moved = self.pieces.as_ref().is_some_and(|p| p.iter().all(Transfer::is_over));
        moved && self.said.as_ref().is_none_or(Note::is_over)
    }
}

/// All messages of a call.
struct Messages<'a> {
    group: &'a Group,
    all: Vec<Message>,
}

/// Sends and receives at once; see [`super::super::Communicator::exchange`].
pub(super) fn exchange(group: &Group, sends: &[(usize, &[u8])], receives: &mut [(usize, &mut [u8])]) -> Result<()> {
    let mut messages = Messages { group, all: vec![] };
    let begun = messages.begin(sends, receives).or_else(|e| group.world.blamed(e, || messages.what()));
    begun.and_then(|()| group.world.wait(&mut messages)).inspect_err(|e| {
        let mut open: Vec<Transfer> = messages.all.iter_mut().filter_map(|m| m.pieces.take()).flatten().collect();
        group.world.settle(&mut open, e);
    })
}

fn note(words: [u64; 2]) -> [u64; WORDS] {
    [words[0], words[1], 0, 0, 0, 0, 0, 0]
}

impl Messages<'_> {
    fn begin(&mut self, sends: &[(usize, &[u8])], receives: &mut [(usize, &mut [u8])]) -> Result<()> {
        let group = self.group;
        let inner = group.world.lock();
        for (member, data) in sends {
            let rank = group.members[*member];
            let wanted = Note::receive(&*inner.mpi, Some(rank), group.own(Channel::Answer))?;
            let letter = note([data.len() as u64, 0]);
            let said = Some(Note::send(&*inner.mpi, letter, rank, group.to(*member, Channel::Letter))?);
            let data = std::ptr::from_ref::<[u8]>(data).cast_mut();
            self.all.push(Message { member: *member, data, sent: true, wanted, said, pieces: None });
        }
        for (member, data) in receives {
            let wanted = Note::receive(&*inner.mpi, Some(group.members[*member]), group.own(Channel::Letter))?;
            let data = std::ptr::from_mut::<[u8]>(data);
            self.all.push(Message { member: *member, data, sent: false, wanted, said: None, pieces: None });
        }
        Ok(())
    }

    /// Goes on with message `i`, whose other side has said what it has or expects.
    fn agree(&mut self, i: usize, inner: &Inner) -> Result<()> {
        let (group, message) = (self.group, &mut self.all[i]);
        let (own, rank) = (group.members[group.at], group.members[message.member]);
        let (bytes, theirs) = (message.data.len(), message.wanted.words()[0] as usize);
        if !message.sent {
            let answer =
                Note::send(&*inner.mpi, note([bytes as u64, 0]), rank, group.to(message.member, Channel::Answer));
            message.said = Some(answer?);
        }
        if bytes != theirs {
            let error = if message.sent {
                call::sizes(own, bytes, rank, theirs)
            } else {
                call::sizes(rank, theirs, own, bytes)
            };
            return error.err();
        }
        let pieces = message.pieces.insert(vec![]);
        let cut = group.world.cut;
        for start in (0..bytes).step_by(cut) {
            let size = cut.min(bytes - start);
            // SAFETY: inside the data, which `exchange` has borrowed.
            let piece = unsafe { message.data.cast::<u8>().add(start) };
            let piece = std::ptr::slice_from_raw_parts_mut(piece, size);
            let transfer = if message.sent {
                // SAFETY: `exchange` does not return before all pieces are over.
                unsafe { Transfer::send(&*inner.mpi, piece, rank, group.to(message.member, Channel::Message)) }
            } else {
                // SAFETY: as above, and messages to be received do not overlap.
                unsafe { Transfer::receive(&*inner.mpi, piece, Some(rank), group.own(Channel::Message)) }
            };
            pieces.push(transfer?);
        }
        Ok(())
    }
}

impl Work for Messages<'_> {
    fn step(&mut self, inner: &mut Inner) -> Result<Step> {
        let mut moved = false;
        // The first error counts; all transfers are looked at all the same.
        let mut error: Option<Box<Diagnostic>> = None;
        let mut over = |result: Result<bool>| {
            result.unwrap_or_else(|e| {
                error.get_or_insert(e);
                true
            })
        };
        for m in &mut self.all {
            let pieces = m.pieces.iter_mut().flatten().filter(|p| !p.is_over());
            pieces.for_each(|p| moved |= over(p.over(&*inner.mpi)));
            let notes = m.said.iter_mut().chain([&mut m.wanted]).filter(|n| !n.is_over());
            notes.for_each(|n| moved |= over(n.over(&*inner.mpi)));
        }
        if let Some(e) = error {
            return Err(e);
        }
        for i in 0..self.all.len() {
            let m = &self.all[i];
            // Messages to or from a member go on in their order, as both sides count them.
            let next =
                |earlier: &Message| earlier.pieces.is_some() || earlier.member != m.member || earlier.sent != m.sent;
            if m.pieces.is_none() && m.wanted.is_over() && self.all[..i].iter().all(next) {
                self.agree(i, inner)?;
                moved = true;
            }
        }
        Ok(Step::of(self.all.iter().all(Message::done), moved))
    }

    fn absent(&self) -> Vec<usize> {
        self.all.iter().filter(|m| !m.done()).map(|m| self.group.members[m.member]).collect()
    }

    fn what(&self) -> String {
        self.group.world.ledger.at(format!("messages of rank {}", self.group.members[self.group.at]))
    }
}
