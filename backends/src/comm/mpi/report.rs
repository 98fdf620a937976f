//! What a rank that waits tells all others: for whom, and where it is. Nobody can ask a rank that has stopped, so what is said
//! of it is where it was last met.

use super::super::{Ledger, Position};
use super::library::Mpi;
use super::note::{Note, WORDS};
use super::world::{Left, REPORT};
use athanor_ir::Result;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// What was said longer ago may not hold any more. Ranks that wait repeat themselves when they are asked.
const FRESH: Duration = Duration::from_secs(3);
/// A rank answers at most once in this time.
const ANSWER: Duration = Duration::from_secs(1);

/// One rank's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Report {
    rank: usize,
    waits_for: Option<usize>,
    position: Position,
    /// It asks all others, and may tell the user.
    asks: bool,
}

const NOBODY: u64 = u64::MAX;

impl Report {
    fn words(self) -> [u64; WORDS] {
        let [step, place] = self.position.words();
        let waits_for = self.waits_for.map_or(NOBODY, |r| r as u64);
        [self.rank as u64, waits_for, step, place, u64::from(self.asks), 0, 0, 0]
    }

    fn from_words([rank, waits_for, step, place, asks, ..]: [u64; WORDS]) -> Self {
        let waits_for = (waits_for != NOBODY).then_some(waits_for as usize);
        let position = Position::from_words([step, place]);
        Self { rank: rank as usize, waits_for, position, asks: asks != 0 }
    }
}

/// What this rank knows of where all are.
pub(super) struct Reports {
    /// Waits for the next words.
    next: Option<Note>,
    /// Own words on their way.
    sent: Vec<Note>,
    /// When they were sent.
    last: Option<Instant>,
    /// By rank: its last words.
    said: Vec<Option<(Report, Instant)>>,
    /// By rank: where it was met last.
    met: Vec<Option<Position>>,
    /// Another rank has asked, and was not answered yet.
    asked: bool,
    /// The rank for which this one waits, or waited when it failed.
    pub stuck: Option<usize>,
}

impl Reports {
    pub fn new(mpi: &dyn Mpi, size: usize) -> Result<Self> {
        let next = Some(Note::receive(mpi, None, REPORT)?);
        let (said, met) = (vec![None; size], vec![None; size]);
        Ok(Self { next, sent: vec![], last: None, said, met, asked: false, stuck: None })
    }

    /// Ranks were met at these positions.
    pub fn met(&mut self, positions: impl Iterator<Item = (usize, Position)>) {
        for (rank, position) in positions {
            self.met[rank] = Some(position);
            self.said[rank] = None;
        }
    }

    /// Hears what others say.
    pub fn hear(&mut self, mpi: &dyn Mpi) -> Result<()> {
        self.sent.retain_mut(|n| matches!(n.over(mpi), Ok(false)));
        while let Some(next) = &mut self.next {
            if !next.over(mpi)? {
                break;
            }
            let report = Report::from_words(next.words());
            if let Some(said) = self.said.get_mut(report.rank) {
                *said = Some((report, Instant::now()));
                self.asked |= report.asks;
            }
            self.next = Some(Note::receive(mpi, None, REPORT)?);
        }
        Ok(())
    }

    /// Tells all others where this rank, `rank`, waits.
    pub fn tell(&mut self, mpi: &dyn Mpi, rank: usize, position: Position, asks: bool) {
        let report = Report { rank, waits_for: self.stuck, position, asks };
        let others = (0..self.said.len()).filter(|r| *r != rank);
        // A rank that cannot be told is one that will be missed.
        self.sent.extend(others.filter_map(|to| Note::send(mpi, report.words(), to, REPORT).ok()));
        (self.last, self.asked) = (Some(Instant::now()), false);
        self.said[rank] = Some((report, Instant::now()));
    }

    /// Whether another rank waits for an answer.
    pub fn owes_answer(&self) -> bool {
        self.asked && self.last.is_none_or(|l| l.elapsed() > ANSWER)
    }

    /// The first of the ranks that have asked of late: the one that tells the user.
    pub fn first_asking(&self) -> Option<usize> {
        self.fresh().find(|r| r.asks).map(|r| r.rank)
    }

    fn fresh(&self) -> impl Iterator<Item = &Report> {
        self.said.iter().flatten().filter(|(_, at)| at.elapsed() < FRESH).map(|(r, _)| r)
    }

    /// The note that waits for words, to be taken back at the end.
    pub fn close(&mut self) -> Option<Note> {
        self.next.take()
    }

    /// A line for each thing that ranks do, with the ranks that do it; `left` says who has left.
    pub fn lines(&self, left: &[Option<Left>], ledger: &Ledger) -> String {
        let mut lines: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (rank, left) in left.iter().enumerate() {
            let said = self.fresh().find(|r| r.rank == rank);
            let met = self.met[rank].map(|p| ledger.text(p));
            let line = match (*left, said, met) {
                (Some(how @ (Left::Died | Left::Panicked | Left::Ended)), _, Some(met)) => {
                    format!("{}; last met at {met}", how.words())
                }
                (Some(how @ (Left::Died | Left::Panicked | Left::Ended)), _, None) => how.words().into(),
                (_, Some(Report { waits_for: Some(other), position, .. }), _) => {
                    format!("waiting for rank {other} at {}", ledger.text(*position))
                }
                (_, Some(Report { position, .. }), _) => format!("at {}", ledger.text(*position)),
                (_, None, Some(met)) => format!("nothing heard since {met}"),
                (_, None, None) => "nothing heard yet".into(),
            };
            lines.entry(line).or_default().push(rank);
        }
        let mut lines: Vec<(Vec<usize>, String)> = lines.into_iter().map(|(line, ranks)| (ranks, line)).collect();
        lines.sort();
        lines.iter().fold(String::new(), |mut out, (ranks, line)| {
            let _ = write!(out, "\n  {}: {line}", names(ranks));
            out
        })
    }
}

/// `rank 3`, `ranks 0 to 2, 5`.
pub(super) fn names(ranks: &[usize]) -> String {
    let runs = ranks.chunk_by(|a, b| a + 1 == *b);
    let runs: Vec<String> = runs
        .map(|run| match run {
            [one] => one.to_string(),
            [first, .., last] => format!("{first} to {last}"),
            [] => String::new(),
        })
        .collect();
    format!("rank{} {}", if ranks.len() == 1 { "" } else { "s" }, runs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::Place;

    #[test]
    fn words_of_a_rank_survive_being_sent() {
        let position = Position { step: 3, place: Place::Step { stage: 1, program: 2, step: 40 } };
        for waits_for in [None, Some(0), Some(70_000)] {
            let report = Report { rank: 5, waits_for, position, asks: waits_for.is_none() };
            assert_eq!(Report::from_words(report.words()), report);
        }
    }

    #[test]
    fn ranks_that_do_the_same_share_a_line() {
        let position = Position { step: 3, place: Place::Save };
        let says = |rank, waits_for| Some((Report { rank, waits_for, position, asks: false }, Instant::now()));
        let reports = Reports {
            next: None,
            sent: vec![],
            last: None,
            said: vec![says(0, Some(4)), says(1, Some(4)), None, says(3, Some(4)), None, None],
            met: vec![None, None, Some(position), None, Some(position), None],
            asked: false,
            stuck: None,
        };
        let mut left = [None; 6];
        left[2] = Some(Left::Died);
        let wanted = "\n  ranks 0 to 1, 3: waiting for rank 4 at step 3, saving\n  rank 2: has died; last met at step 3, \
                      saving\n  rank 4: nothing heard since step 3, saving\n  rank 5: nothing heard yet";
        assert_eq!(reports.lines(&left, &Ledger::default()), wanted);
    }
}
