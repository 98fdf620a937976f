//! Where the threads of a group meet: each says what it is about to do and shows its data; when all have come they work, and
//! nobody leaves before all have finished.

use super::super::Ledger;
use super::super::call::{self, Call};
use athanor_ir::{Diagnostic, Result};
use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A member's data while all are inside a call.
#[derive(Debug, Clone)]
pub(super) struct Post {
    start: *mut u8,
    bytes: usize,
    sent: Vec<usize>,
    received: Vec<usize>,
}

// SAFETY: the address is used by other threads only between the arrival of the last member and the end of the call, while
// the owner keeps the data in place and does not touch it but as the call says.
unsafe impl Send for Post {}
// SAFETY: as above.
unsafe impl Sync for Post {}

impl Post {
    /// Data that others only read.
    pub fn read(data: &[u8]) -> Self {
        Self::parts(data, &[], &[])
    }

    /// Data that others read and write.
    pub fn write(data: &mut [u8]) -> Self {
        Self { start: data.as_mut_ptr(), bytes: data.len(), sent: vec![], received: vec![] }
    }

    /// Data in parts by member, and the sizes of what is expected.
    pub fn parts(data: &[u8], sent: &[usize], received: &[usize]) -> Self {
        Self { start: data.as_ptr().cast_mut(), bytes: data.len(), sent: sent.to_vec(), received: received.to_vec() }
    }

    /// No data.
    pub fn none() -> Self {
        Self::read(&[])
    }

    /// Bytes for member `to`.
    pub fn sent(&self, to: usize) -> usize {
        self.sent[to]
    }

    /// Bytes expected from member `from`.
    pub fn received(&self, from: usize) -> usize {
        self.received[from]
    }

    /// Where the bytes for member `to` are.
    pub fn part(&self, to: usize) -> Range<usize> {
        let start = self.sent[..to].iter().sum();
        start..start + self.sent[to]
    }

    /// A part of the data.
    ///
    /// # Safety
    /// The owner is inside the call, and nobody writes this part meanwhile.
    pub unsafe fn slice(&self, range: Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.bytes, "part of a post");
        // SAFETY: inside the owner's data, which the caller says is in place.
        unsafe { std::slice::from_raw_parts(self.start.add(range.start), range.len()) }
    }

    /// Writes `from` at `at`.
    ///
    /// # Safety
    /// The owner is inside the call with data made by [`Self::write`], and nobody else uses this part meanwhile.
    pub unsafe fn fill(&self, at: usize, from: &[u8]) {
        assert!(at + from.len() <= self.bytes, "part of a post");
        // SAFETY: inside the owner's data, which the caller says is in place; `from` is another allocation.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.start.add(at), from.len()) }
    }
}

/// All ranks and the boards of their groups, under one lock with one bell.
#[derive(Debug)]
pub(super) struct World {
    state: Mutex<State>,
    bell: Condvar,
    timeout: Duration,
}

#[derive(Debug)]
struct State {
    /// How each rank left, if it has.
    left: Vec<Option<Left>>,
    boards: Vec<Board>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Ended,
    Panicked,
}

/// The meeting place of a group.
#[derive(Debug, Default)]
struct Board {
    members: Vec<usize>,
    /// Collectives that are over.
    round: u64,
    /// What each member has come with.
    posts: Vec<Option<(Call, Post)>>,
    /// The posts of all, once all are there.
    met: Option<Arc<Vec<Post>>>,
    /// Members that have finished their work.
    finished: usize,
    /// Why nobody may go on.
    failed: Option<Box<Diagnostic>>,
    /// Messages that nobody has begun to read, by sender and receiver.
    mail: HashMap<(usize, usize), VecDeque<Letter>>,
    /// Messages so far.
    letters: u64,
    /// Messages that are read and whose senders do not know yet.
    read: HashSet<u64>,
}

#[derive(Debug)]
struct Letter {
    id: u64,
    post: Post,
}

/// A call in which all members are present. When it is dropped this member has finished, and waits for the others.
pub(super) struct Meeting<'a> {
    world: &'a World,
    board: usize,
    posts: Arc<Vec<Post>>,
    round: u64,
}

impl Meeting<'_> {
    /// The data of all members.
    pub fn posts(&self) -> &[Post] {
        &self.posts
    }
}

impl Drop for Meeting<'_> {
    fn drop(&mut self) {
        let mut state = self.world.lock();
        let board = &mut state.boards[self.board];
        board.finished += 1;
        if board.finished == board.members.len() {
            board.finished = 0;
            board.round += 1;
            board.met = None;
            self.world.bell.notify_all();
        }
        // Others may still read this member's data. They do nothing but compute and copy, so this ends.
        while state.boards[self.board].round == self.round {
            state = self.world.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl World {
    pub fn new(size: usize, timeout: Duration) -> Self {
        let state = State { left: vec![None; size], boards: vec![] };
        Self { state: Mutex::new(state), bell: Condvar::new(), timeout }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is left half-done under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.lock().left.len()
    }

    /// Rank `rank` will not come any more.
    pub fn leave(&self, rank: usize) {
        let how = if std::thread::panicking() { Left::Panicked } else { Left::Ended };
        self.lock().left[rank] = Some(how);
        self.bell.notify_all();
    }

    /// The board of a group, the same for all of its members.
    pub fn board(&self, members: &[usize]) -> usize {
        let mut state = self.lock();
        if let Some(i) = state.boards.iter().position(|b| b.members == members) {
            return i;
        }
        let posts = vec![None; members.len()];
        state.boards.push(Board { members: members.to_vec(), posts, ..Board::default() });
        state.boards.len() - 1
    }

    /// Waits until all members of `board` have come to `call`; this one is `at`.
    pub fn meet(&self, board: usize, at: usize, (call, post): (Call, Post), ledger: &Ledger) -> Result<Meeting<'_>> {
        let deadline = Instant::now() + self.timeout;
        let mut state = self.lock();
        let b = &mut state.boards[board];
        let round = b.round;
        b.posts[at] = Some((call, post));
        if b.failed.is_none() && b.posts.iter().all(Option::is_some) {
            let calls: Vec<Call> = b.posts.iter().flatten().map(|p| p.0).collect();
            match call::different(&calls, round + 1, &b.members, ledger) {
                Some(error) => b.failed = Some(error),
                None => b.met = Some(Arc::new(b.posts.iter_mut().filter_map(Option::take).map(|p| p.1).collect())),
            }
            self.bell.notify_all();
        }
        loop {
            let b = &state.boards[board];
            if let Some(posts) = &b.met {
                return Ok(Meeting { world: self, board, posts: Arc::clone(posts), round });
            }
            let absent: Vec<usize> = (0..b.members.len()).filter(|i| b.posts[*i].is_none()).collect();
            let what = ledger.at(call.at(round + 1, &b.members));
            state = self.wait(state, board, &absent, &what, deadline)?;
        }
    }

    /// Sends and receives at once; see [`super::Communicator::exchange`].
    pub fn exchange(
        &self,
        (board, at): (usize, usize),
        sends: &[(usize, &[u8])],
        receives: &mut [(usize, &mut [u8])],
        ledger: &Ledger,
    ) -> Result<()> {
        let deadline = Instant::now() + self.timeout;
        let mut state = self.lock();
        let b = &mut state.boards[board];
        let mut unread: Vec<(usize, u64)> = vec![];
        for (to, data) in sends {
            b.letters += 1;
            let letter = Letter { id: b.letters, post: Post::read(data) };
            b.mail.entry((at, *to)).or_default().push_back(letter);
            unread.push((*to, b.letters));
        }
        self.bell.notify_all();
        let mut open: Vec<usize> = (0..receives.len()).collect();
        let done = loop {
            let b = &mut state.boards[board];
            unread.retain(|(_, id)| !b.read.remove(id));
            // The first open receive of each sender whose message is there.
            let first = |i: &usize| !open.iter().any(|j| j < i && receives[*j].0 == receives[*i].0);
            let ready = open
                .iter()
                .copied()
                .find(|i| first(i) && b.mail.get(&(receives[*i].0, at)).is_some_and(|letters| !letters.is_empty()));
            if let Some(i) = ready {
                let (from, to) = &mut receives[i];
                let (sender, receiver) = (b.members[*from], b.members[at]);
                let Some(letters) = b.mail.get_mut(&(*from, at)) else { continue };
                if let Some(letter) = letters.pop_front_if(|l| l.post.bytes == to.len()) {
                    drop(state);
                    // SAFETY: the sender does not leave its call before the letter counts as read.
                    to.copy_from_slice(unsafe { letter.post.slice(0..to.len()) });
                    state = self.lock();
                    state.boards[board].read.insert(letter.id);
                    open.retain(|j| *j != i);
                    self.bell.notify_all();
                    continue;
                }
                let bytes = letters.front().map_or(0, |l| l.post.bytes);
                let e = Box::new(call::sizes(sender, bytes, receiver, to.len()));
                break Err(b.failed.get_or_insert(e).clone());
            }
            if open.is_empty() && unread.is_empty() {
                break Ok(());
            }
            let from: Vec<usize> = open.iter().map(|i| receives[*i].0).chain(unread.iter().map(|u| u.0)).collect();
            let what = ledger.at(format!("messages of rank {}", b.members[at]));
            match self.wait(state, board, &from, &what, deadline) {
                Ok(guard) => state = guard,
                Err(e) => {
                    state = self.lock();
                    break Err(e);
                }
            }
        };
        if done.is_err() {
            self.bell.notify_all();
            // What nobody has begun to read is taken back; what is being read is waited for.
            for (to, id) in &unread {
                let letters = state.boards[board].mail.entry((at, *to)).or_default();
                if let Some(i) = letters.iter().position(|l| l.id == *id) {
                    letters.remove(i);
                    continue;
                }
                while !state.boards[board].read.remove(id) {
                    state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        done
    }

    /// Waits for the bell; or fails the board, because one of the members `absent` has left or the time is over.
    fn wait<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        board: usize,
        absent: &[usize],
        what: &str,
        deadline: Instant,
    ) -> Result<MutexGuard<'a, State>> {
        let State { left, boards } = &mut *state;
        let b = &mut boards[board];
        if b.failed.is_none() {
            let gone = absent.iter().map(|i| b.members[*i]).find_map(|r| left[r].map(|how| (r, how)));
            if let Some((rank, how)) = gone {
                let how = if how == Left::Panicked { "has panicked" } else { "has left" };
                b.failed = Some(Box::new(call::left(rank, how, what)));
            } else if Instant::now() >= deadline {
                let ranks: Vec<usize> = absent.iter().map(|i| b.members[*i]).collect();
                b.failed = Some(Box::new(call::missing(ranks, what, self.timeout)));
            }
        }
        if let Some(e) = &b.failed {
            let e = e.clone();
            self.bell.notify_all();
            return Err(e);
        }
        let rest = deadline.saturating_duration_since(Instant::now());
        Ok(self.bell.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0)
    }
}
