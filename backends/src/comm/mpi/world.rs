//! What all groups of a process share: the library behind one lock, the way to wait, and who has left.
//!
//! Every wait polls. Polling costs a core, so a rank that sees nothing happen sleeps for an eighth of the time that it has
//! waited so far, a millisecond at most: a wait gets longer by an eighth at worst, and ranks that share cores do not starve
//! one another.

use super::super::{Ledger, MPI_FAILED, Position, call};
use super::Options;
use super::alarm::Alarm;
use super::library::Mpi;
use super::note::{Note, Transfer, WORDS};
use super::process::Process;
use super::report::Reports;
use super::verdict::Verdict;
use athanor_ir::{Diagnostic, Result};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Tag of the words of a rank that leaves.
const LEAVE: i32 = 0;
/// Tag of what members say to one another when they make a group.
pub(super) const GREET: i32 = 1;
/// Tag of what ranks say while they wait.
pub(super) const REPORT: i32 = 2;
/// The first tag of groups. The standard promises tags up to 32767.
const FIRST: i32 = 8;
const LAST: i32 = 32767;

/// Pause between looks at who has left. A rank counts as left at the second look that finds it so: what it has sent before
/// may still be on its way.
const LOOK: Duration = Duration::from_millis(50);
/// Time for the last words of a rank that fails, and for taking back what nobody will receive.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(500);

/// How a rank has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    Ended,
    Failed,
    Panicked,
    /// Without a word: its process is gone.
    Died,
}

impl Left {
    /// For messages.
    pub fn words(self) -> &'static str {
        match self {
            Self::Ended => "has left",
            Self::Failed => "has failed",
            Self::Panicked => "has panicked",
            Self::Died => "has died",
        }
    }
}

/// What is done under the lock.
pub(super) struct Inner {
    pub mpi: Box<dyn Mpi>,
    /// By rank.
    pub left: Vec<Option<Left>>,
    /// What ranks say while they wait.
    pub reports: Reports,
    /// Who has failed, and who tells.
    pub verdict: Verdict,
    /// Waits for the words of the next rank that leaves.
    pub notice: Option<Note>,
    /// Next free tag.
    tag: i32,
    /// A call has failed for more than its arguments.
    pub broken: bool,
}

/// All ranks, as this one sees them. Dropping it is leaving.
pub(super) struct World {
    pub rank: usize,
    pub size: usize,
    /// Largest message in bytes.
    pub cut: usize,
    pub options: Options,
    /// Where this rank is.
    pub ledger: Ledger,
    /// The ranks' processes, once they are known.
    processes: OnceLock<Vec<Process>>,
    inner: Mutex<Inner>,
}

/// How far a piece of work has come since it was last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Done,
    Moved,
    Stuck,
}

impl Step {
    /// Of work that is over or not, and of which something has moved or not.
    pub fn of(done: bool, moved: bool) -> Self {
        match (done, moved) {
            (true, _) => Self::Done,
            (false, true) => Self::Moved,
            (false, false) => Self::Stuck,
        }
    }
}

/// Something to wait for.
pub(super) trait Work {
    /// Goes as far as it can without waiting.
    fn step(&mut self, inner: &mut Inner) -> Result<Step>;

    /// Ranks that it waits for, most urgent first.
    fn absent(&self) -> Vec<usize>;

    /// What they are missing from.
    fn what(&self) -> String;
}

impl World {
    /// The ranks of `mpi`, which has been started.
    pub fn new(mpi: Box<dyn Mpi>, options: Options) -> Result<Self> {
        let (rank, size) = mpi.world()?;
        let notice = Some(Note::receive(&*mpi, None, LEAVE)?);
        let (left, reports) = (vec![None; size], Reports::new(&*mpi, size)?);
        let inner = Inner { mpi, left, reports, verdict: Verdict::new(size), notice, tag: FIRST, broken: false };
        // MPI counts bytes in 32 bits.
        let cut = options.cut.clamp(1, i32::MAX as usize);
        let (ledger, processes) = (Ledger::default(), OnceLock::new());
        Ok(Self { rank, size, cut, options, ledger, processes, inner: Mutex::new(inner) })
    }

    /// Ranks were met at these positions.
    pub fn met(&self, positions: impl Iterator<Item = (usize, Position)>) {
        self.lock().reports.met(positions);
    }

    /// Tells which processes the ranks are; until then only time tells who is gone.
    pub fn know(&self, processes: Vec<Process>) {
        // Set once, by who makes the world.
        let _ = self.processes.set(processes);
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing is left half-done under the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first of `n` tags that were not given out yet.
    pub fn tags(&self, n: i32) -> Result<i32> {
        let mut inner = self.lock();
        let first = inner.tag;
        if first + n > LAST {
            return super::super::bad_call(format!("more than {} groups in one run", (LAST - FIRST) / n));
        }
        inner.tag += n;
        Ok(first)
    }

    /// Waits until `work` is done.
    ///
    /// # Errors
    /// [`super::super::RANK_LEFT`] if a rank that it waits for has left, [`super::super::MISSING`] if nothing has moved for
    /// the time limit, and those of the work.
    pub fn wait(&self, work: &mut dyn Work) -> Result<()> {
        self.poll(work).or_else(|error| {
            self.lock().reports.stuck = work.absent().first().copied();
            self.blamed(error, || work.what())
        })
    }

    /// Fails with `error`, after which no call counts, or with the death that is behind it.
    ///
    /// Some libraries see for themselves that a process is gone, and say it less clearly.
    ///
    /// # Errors
    /// Always.
    pub fn blamed<T>(&self, error: Box<Diagnostic>, what: impl FnOnce() -> String) -> Result<T> {
        let mut inner = self.lock();
        inner.broken = true;
        if error.code == &MPI_FAILED {
            std::thread::sleep(LOOK);
            self.look_at(&mut inner, &(0..self.size).collect::<Vec<_>>());
            if let Some(dead) = inner.died() {
                return call::left(dead, "has died", &what()).err();
            }
        }
        Err(error)
    }

    fn poll(&self, work: &mut dyn Work) -> Result<()> {
        let mut moved = Instant::now();
        let (mut looked, mut doomed) = (moved, None);
        let mut alarm = Alarm::default();
        loop {
            let step = work.step(&mut self.lock())?;
            match step {
                Step::Done => return Ok(()),
                Step::Moved => {
                    (moved, doomed) = (Instant::now(), None);
                    alarm = Alarm::default();
                }
                Step::Stuck => {
                    if let Some(error) = doomed.take_if(|_| looked.elapsed() > LOOK) {
                        return Err(error);
                    }
                    if moved.elapsed() > LOOK && looked.elapsed() > LOOK {
                        looked = Instant::now();
                        doomed = self.look(work)?;
                        let timeout = self.options.timeout;
                        if doomed.is_none() && moved.elapsed() > timeout {
                            return call::missing(work.absent(), &work.what(), timeout).err();
                        }
                        alarm.look(self, work, moved.elapsed())?;
                    }
                    pause(moved.elapsed());
                }
            }
        }
    }

    /// Finds out who has left; an error if `work` waits for one of them.
    fn look(&self, work: &dyn Work) -> Result<Option<Box<Diagnostic>>> {
        let mut inner = self.lock();
        inner.hear()?;
        let absent = work.absent();
        self.look_at(&mut inner, &absent);
        let Some((rank, how)) = absent.iter().find_map(|r| inner.left[*r].map(|how| (*r, how))) else {
            return Ok(None);
        };
        let what = work.what();
        let error = match (inner.died(), how) {
            // Who leaves for another's death is not the culprit.
            (Some(dead), _) if dead != rank => call::left(dead, &format!("has died, then rank {rank} has left"), &what),
            _ => call::left(rank, how.words(), &what),
        };
        Ok(Some(Box::new(error)))
    }

    /// Finds out whether the processes of `ranks` are still there.
    fn look_at(&self, inner: &mut Inner, ranks: &[usize]) {
        let Some(processes) = self.processes.get() else { return };
        for rank in ranks {
            if inner.left[*rank].is_none() && processes[*rank].gone(processes[self.rank]) {
                inner.left[*rank] = Some(Left::Died);
            }
        }
    }

    /// Takes back `open` after `error`, so that the data may be used again. If others hold on to it, which they can do only in
    /// the middle of a message, all ranks end here: the error is printed, it has nowhere else to go.
    pub fn settle(&self, open: &mut [Transfer], error: &Diagnostic) {
        let mut inner = self.lock();
        open.iter_mut().for_each(|t| t.cancel(&*inner.mpi));
        drop(inner);
        let start = Instant::now();
        loop {
            inner = self.lock();
            // A transfer that fails is over.
            if open.iter_mut().all(|t| !matches!(t.over(&*inner.mpi), Ok(false))) {
                return;
            }
            drop(inner);
            if start.elapsed() > LAST_WORDS {
                if let Some(error) = self.conclude(error) {
                    (self.options.tell)(&error);
                }
                self.abort();
            }
            pause(start.elapsed());
        }
    }

    /// Ends all ranks.
    fn abort(&self) -> ! {
        let inner = self.lock();
        inner.verdict.linger();
        inner.mpi.abort(1);
        std::process::exit(1)
    }
}

impl Inner {
    /// Hears the words of ranks that wait, and of those that have left.
    pub fn hear(&mut self) -> Result<()> {
        self.reports.hear(&*self.mpi)?;
        while let Some(notice) = &mut self.notice {
            if !notice.over(&*self.mpi)? {
                break;
            }
            let [rank, how, died, level, ..] = notice.words();
            self.verdict.heard(rank as usize, level);
            let how = [Left::Ended, Left::Failed, Left::Panicked].get(how as usize).copied();
            for (rank, how) in [(rank, how), (died, Some(Left::Died))] {
                if let Some(left) = self.left.get_mut(rank as usize) {
                    *left = left.or(how);
                }
            }
            self.notice = Some(Note::receive(&*self.mpi, None, LEAVE)?);
        }
        Ok(())
    }

    /// Tells the other ranks that `rank`, this one, leaves: how, who has died to its knowledge, and how much it has to say.
    pub fn take_leave(&self, rank: usize, how: Left, level: u64) -> Vec<Note> {
        let died = self.died().map_or(u64::MAX, |r| r as u64);
        let words: [u64; WORDS] = [rank as u64, how as u64, died, level, 0, 0, 0, 0];
        let others = (0..self.left.len()).filter(|r| *r != rank);
        // Who cannot be told finds out by looking.
        others.filter_map(|to| Note::send(&*self.mpi, words, to, LEAVE).ok()).collect()
    }

    /// A rank that is known to have died.
    pub fn died(&self) -> Option<usize> {
        self.left.iter().position(|l| *l == Some(Left::Died))
    }
}

/// Waits for a moment after `idle` without anything to do.
pub(super) fn pause(idle: Duration) {
    if idle < Duration::from_micros(20) {
        std::hint::spin_loop();
    } else if idle < Duration::from_micros(200) {
        std::thread::yield_now();
    } else {
        std::thread::sleep((idle / 8).min(Duration::from_millis(1)));
    }
}
