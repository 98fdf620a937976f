//! What members of a group wait for: numbers from all others, and data that is on its way.

use super::library::Mpi;
use super::note::{Note, Transfer, WORDS};
use super::world::{Inner, Step, Work};
use athanor_ir::Result;

/// All positions but `at`.
pub(super) fn others(at: usize, n: usize) -> impl Iterator<Item = usize> {
    (0..n).filter(move |i| *i != at)
}

/// Numbers from every member to every other.
pub(super) struct Notes {
    pub own: [u64; WORDS],
    sends: Vec<Note>,
    receives: Vec<Note>,
}

impl Notes {
    pub fn exchange(
        mpi: &dyn Mpi,
        members: &[usize],
        at: usize,
        words: impl Fn(usize) -> [u64; WORDS],
        tag: impl Fn(usize) -> i32,
        own: i32,
    ) -> Result<Self> {
        let n = members.len();
        let receives = others(at, n).map(|i| Note::receive(mpi, Some(members[i]), own)).collect::<Result<_>>()?;
        let send = |i: usize| Note::send(mpi, words(i), members[i], tag(i));
        let sends = others(at, n).map(send).collect::<Result<_>>()?;
        Ok(Self { own: words(at), sends, receives })
    }

    /// The numbers by member, own ones included.
    pub fn words(&self, at: usize) -> Vec<[u64; WORDS]> {
        let mut words: Vec<_> = self.receives.iter().map(Note::words).collect();
        words.insert(at, self.own);
        words
    }
}

/// Waiting for notes.
pub(super) struct Met<'a> {
    pub notes: &'a mut Notes,
    pub what: &'a dyn Fn() -> String,
}

impl Work for Met<'_> {
    fn step(&mut self, inner: &mut Inner) -> Result<Step> {
        let (mut moved, mut open) = (false, false);
        for note in self.notes.receives.iter_mut().chain(&mut self.notes.sends) {
            if !note.is_over() {
                let over = note.over(&*inner.mpi)?;
                moved |= over;
                open |= !over;
            }
        }
        Ok(Step::of(!open, moved))
    }

    fn absent(&self) -> Vec<usize> {
        let notes = self.notes.receives.iter().chain(&self.notes.sends);
        notes.filter(|n| !n.is_over()).filter_map(Note::peer).collect()
    }

    fn what(&self) -> String {
        (self.what)()
    }
}

/// Waiting for data.
pub(super) struct Moves<'a> {
    pub open: Vec<Transfer>,
    pub what: &'a dyn Fn() -> String,
}

impl Work for Moves<'_> {
    fn step(&mut self, inner: &mut Inner) -> Result<Step> {
        let before = self.open.len();
        let mut error = None;
        self.open.retain_mut(|t| match t.over(&*inner.mpi) {
            Ok(over) => !over,
            Err(e) => {
                error.get_or_insert(e);
                false
            }
        });
        match (error, self.open.len()) {
            (Some(e), _) => Err(e),
            (None, 0) => Ok(Step::Done),
            (None, n) => Ok(if n < before { Step::Moved } else { Step::Stuck }),
        }
    }

    fn absent(&self) -> Vec<usize> {
        self.open.iter().filter_map(Transfer::peer).collect()
    }

    fn what(&self) -> String {
        (self.what)()
    }
}
