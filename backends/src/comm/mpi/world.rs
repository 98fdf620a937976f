//! What all groups of a process share: the library behind one lock, the way to wait, and who has left.
//!
//! Every wait polls. Polling costs a core, so a rank that sees nothing happen sleeps for an eighth of the time that it has
//! waited so far, a millisecond at most: a wait gets longer by an eighth at worst, and ranks that share cores do not starve
//! one another.

use super::super::{MPI_FAILED, call};
use super::library::Mpi;
use super::note::{Note, Transfer};
use super::process::Process;
use athanor_ir::{Diagnostic, Result};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Tag of the words of a rank that leaves.
const LEAVE: i32 = 0;
/// Tag of what members say to one another when they make a group.
pub(super) const GREET: i32 = 1;
/// The first tag of groups. The standard promises tags up to 32767.
const FIRST: i32 = 8;
const LAST: i32 = 32767;

/// Pause between looks at who has left. A rank counts as left at the second look that finds it so: what it has sent before
/// may still be on its way.
const LOOK: Duration = Duration::from_millis(50);
/// Time for the last words of a rank that fails, and for taking back what nobody will receive.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Time for a launcher to pass on what was printed.
const PASS_ON: Duration = Duration::from_millis(200);

/// How a rank has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Ended,
    Failed,
    Panicked,
    /// Without a word: its process is gone.
    Died,
}

/// What is done under the lock.
pub(super) struct Inner {
    pub mpi: Box<dyn Mpi>,
    /// By rank.
    left: Vec<Option<Left>>,
    /// Waits for the words of the next rank that leaves.
    notice: Option<Note>,
    /// Next free tag.
    tag: i32,
    /// A call has failed for more than its arguments.
    broken: bool,
}

/// All ranks, as this one sees them. Dropping it is leaving.
pub(super) struct World {
    pub rank: usize,
    pub size: usize,
    /// Largest message in bytes.
    pub cut: usize,
    timeout: Duration,
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
    pub fn new(mpi: Box<dyn Mpi>, timeout: Duration, cut: usize) -> Result<Self> {
        let (rank, size) = mpi.world()?;
        let notice = Some(Note::receive(&*mpi, None, LEAVE)?);
        let inner = Inner { mpi, left: vec![None; size], notice, tag: FIRST, broken: false };
        Ok(Self { rank, size, cut, timeout, processes: OnceLock::new(), inner: Mutex::new(inner) })
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
        let result = self.poll(work);
        let Err(error) = result else { return Ok(()) };
        let mut inner = self.lock();
        inner.broken = true;
        // Some libraries see for themselves that a process is gone, and say it less clearly.
        if error.code == &MPI_FAILED {
            std::thread::sleep(LOOK);
            self.look_at(&mut inner, &(0..self.size).collect::<Vec<_>>());
            if let Some(dead) = inner.died() {
                return call::left(dead, "has died", &work.what()).err();
            }
        }
        Err(error)
    }

    fn poll(&self, work: &mut dyn Work) -> Result<()> {
        let mut moved = Instant::now();
        let (mut looked, mut doomed) = (moved, None);
        loop {
            let step = work.step(&mut self.lock())?;
            match step {
                Step::Done => return Ok(()),
                Step::Moved => (moved, doomed) = (Instant::now(), None),
                Step::Stuck => {
                    if let Some(error) = doomed.take_if(|_| looked.elapsed() > LOOK) {
                        return Err(error);
                    }
                    if moved.elapsed() > LOOK && looked.elapsed() > LOOK {
                        looked = Instant::now();
                        doomed = self.look(work)?;
                        if doomed.is_none() && moved.elapsed() > self.timeout {
                            return call::missing(work.absent(), &work.what(), self.timeout).err();
                        }
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
            (_, Left::Died) => call::left(rank, "has died", &what),
            (_, Left::Panicked) => call::left(rank, "has panicked", &what),
            (_, Left::Failed) => call::left(rank, "has failed", &what),
            (_, Left::Ended) => call::left(rank, "has left", &what),
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
                // In one piece: other ranks may print too.
                let text = format!("{}: {error}\n", error.code.id);
                eprint!("{text}");
                self.abort(1);
            }
            pause(start.elapsed());
        }
    }

    /// Ends all ranks with `status`.
    pub fn abort(&self, status: i32) -> ! {
        // Launchers drop what a rank has printed and they have not yet passed on.
        std::thread::sleep(PASS_ON);
        self.lock().mpi.abort(status);
        std::process::exit(status)
    }
}

impl Inner {
    /// Hears the words of ranks that have left.
    fn hear(&mut self) -> Result<()> {
        while let Some(notice) = &mut self.notice {
            if !notice.over(&*self.mpi)? {
                break;
            }
            let [rank, how, died, ..] = notice.words();
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

    /// A rank that is known to have died.
    fn died(&self) -> Option<usize> {
        self.left.iter().position(|l| *l == Some(Left::Died))
    }
}

/// Waits for a moment after `idle` without anything to do.
fn pause(idle: Duration) {
    if idle < Duration::from_micros(20) {
        std::hint::spin_loop();
    } else if idle < Duration::from_micros(200) {
        std::thread::yield_now();
    } else {
        std::thread::sleep((idle / 8).min(Duration::from_millis(1)));
    }
}

/// The end: own words on their way, and those of the others to come.
struct Farewell {
    notes: Vec<Note>,
    absent: Vec<usize>,
}

impl Work for Farewell {
    fn step(&mut self, inner: &mut Inner) -> Result<Step> {
        inner.hear()?;
        // A rank that is gone cannot be told.
        let before = (self.notes.len(), self.absent.len());
        self.notes.retain_mut(|n| matches!(n.over(&*inner.mpi), Ok(false)));
        self.absent.retain(|r| inner.left[*r].is_none());
        Ok(match (self.notes.len(), self.absent.len()) {
            (_, 0) => Step::Done,
            now if now == before => Step::Stuck,
            _ => Step::Moved,
        })
    }

    fn absent(&self) -> Vec<usize> {
        self.absent.clone()
    }

    fn what(&self) -> String {
        "the end of the run".into()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let mut inner = self.lock();
        let how = match (std::thread::panicking(), inner.broken) {
            (true, _) => Left::Panicked,
            (_, true) => Left::Failed,
            _ => Left::Ended,
        };
        let died = inner.died().map_or(u64::MAX, |r| r as u64);
        let words = [self.rank as u64, how as u64, died, 0, 0, 0, 0, 0];
        let others = (0..self.size).filter(|r| *r != self.rank);
        // Who cannot be told finds out by looking.
        let mut notes: Vec<Note> =
            others.clone().filter_map(|to| Note::send(&*inner.mpi, words, to, LEAVE).ok()).collect();
        if how == Left::Ended {
            drop(inner);
            let told = self.wait(&mut Farewell { notes, absent: others.collect() }).is_ok();
            inner = self.lock();
            inner.left[self.rank] = Some(how);
            // The library's own end waits for all ranks, without a limit.
            if told && inner.left.iter().all(|l| *l == Some(Left::Ended)) {
                let Inner { mpi, notice, .. } = &mut *inner;
                if let Some(notice) = notice.take() {
                    notice.take_back(&**mpi);
                }
                mpi.finalize();
            }
        } else {
            let start = Instant::now();
            while start.elapsed() < LAST_WORDS && !notes.is_empty() {
                notes.retain_mut(|n| matches!(n.over(&*inner.mpi), Ok(false)));
                pause(start.elapsed());
            }
        }
    }
}
