//! Who tells the user how a run has failed: one rank, and the one that knows best.
//!
//! A rank that fails by itself tells its own error. What the others see of it, that a rank has left, is told only if that one
//! cannot speak: it has died, or hangs. Of several that could tell, it is the first to say so, or the lowest of those that say
//! so at the same time.

use super::super::{MISMATCH, MISSING, MPI_FAILED, RANK_LEFT};
use super::alarm::{ANSWERS, tell};
use super::world::{Left, World, pause};
use athanor_ir::{Code, Diagnostic};
use std::time::{Duration, Instant};

/// Time from the first word of a rank that fails to its end: the others hear it, and launchers pass on what is printed. They
/// end all ranks when one ends with an error, and drop what they have not passed on.
const LINGER: Duration = Duration::from_secs(1);
/// As [`LINGER`], of a rank that leaves it to another to tell.
const LISTEN: Duration = Duration::from_secs(2);

/// Time for the others to speak at the same time, when a rank has died: Open MPI 5 kills all half a second after it.
const AT_ONCE: Duration = Duration::from_millis(150);

/// How much a rank has to say: nothing, what it saw of others, its own error.
const SEEN: u64 = 1;
const OWN: u64 = 2;

/// Errors that another rank has caused.
const CAUSED: [&Code; 4] = [&RANK_LEFT, &MISSING, &MISMATCH, &MPI_FAILED];

/// What this rank knows of failures.
pub(super) struct Verdict {
    /// By rank.
    levels: Vec<u64>,
    /// When this rank has said that it fails.
    out: Option<Instant>,
    /// It tells.
    tells: bool,
}

impl Verdict {
    pub fn new(size: usize) -> Self {
        Self { levels: vec![0; size], out: None, tells: false }
    }

    /// Rank `rank` leaves with this much to say.
    pub fn heard(&mut self, rank: usize, level: u64) {
        if let Some(known) = self.levels.get_mut(rank) {
            *known = level.max(*known);
        }
    }

    /// Whether this rank has said that it fails.
    pub fn is_out(&self) -> bool {
        self.out.is_some()
    }

    /// Waits until a rank that fails may end.
    pub fn linger(&self) {
        let all = if self.tells { LINGER } else { LISTEN };
        if let Some(rest) = self.out.and_then(|o| all.checked_sub(o.elapsed())) {
            std::thread::sleep(rest);
        }
    }

    /// Whether another rank that has spoken before this one tells.
    fn is_told(&self, level: u64) -> bool {
        self.levels.iter().any(|l| *l >= level)
    }

    /// Whether another rank tells that has spoken at the same time as `rank`.
    fn is_outdone(&self, rank: usize, level: u64) -> bool {
        self.levels.iter().enumerate().any(|(r, l)| r != rank && (*l > level || *l == level && r < rank))
    }
}

impl World {
    /// See [`super::Mpi::conclude`].
    pub fn conclude(&self, error: &Diagnostic) -> Option<Diagnostic> {
        let level = if CAUSED.contains(&error.code) { SEEN } else { OWN };
        let mut inner = self.lock();
        if inner.verdict.is_out() {
            return None;
        }
        // What cannot be heard now is not heard: the error at hand counts.
        let _ = inner.hear();
        let told = inner.verdict.is_told(level);
        inner.verdict.out = Some(Instant::now());
        // Who keeps silent says so: the other must not keep silent for this one's sake.
        let mut notes = inner.take_leave(self.rank, Left::Failed, if told { 0 } else { level });
        tell(self, &mut inner, true);
        let answers = if inner.died().is_some() { AT_ONCE } else { ANSWERS };
        drop(inner);
        let start = Instant::now();
        while start.elapsed() < answers {
            let mut inner = self.lock();
            let _ = inner.hear();
            notes.retain_mut(|n| matches!(n.over(&*inner.mpi), Ok(false)));
            drop(inner);
            pause(start.elapsed());
        }
        let mut inner = self.lock();
        if told || inner.verdict.is_outdone(self.rank, level) {
            return None;
        }
        inner.verdict.tells = true;
        let mut error = error.clone();
        if level == SEEN {
            let lines = inner.reports.lines(&inner.left, &self.ledger);
            error.message = format!("{error}; where each rank is:{lines}");
        }
        Some(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rank_tells_and_its_own_error_counts_more_than_what_others_saw() {
        let mut verdict = Verdict::new(4);
        assert!(!verdict.is_told(SEEN));
        verdict.heard(2, SEEN);
        assert!(verdict.is_told(SEEN) && !verdict.is_told(OWN));
        // At the same time: the lower rank tells.
        assert!(verdict.is_outdone(3, SEEN) && !verdict.is_outdone(1, SEEN));
        assert!(!verdict.is_outdone(3, OWN));
        verdict.heard(3, OWN);
        assert!(verdict.is_outdone(1, SEEN) && !verdict.is_outdone(1, OWN));
        // A rank that only says goodbye has nothing to tell.
        verdict.heard(9, OWN);
        verdict.heard(3, 0);
        assert!(verdict.is_told(OWN));
    }
}
