//! How a rank leaves: it tells the others, hears of them, and ends the library.

use super::library::Mpi;
use super::note::Note;
use super::world::{Inner, LAST_WORDS, Left, Step, Work, World, pause};
use athanor_ir::Result;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

/// How long the library may take to end after all ranks have said that they have ended.
const FINAL: Duration = Duration::from_secs(10);

/// Ends the library, or the process with what it has done.
///
/// By now every rank knows that all have ended and nothing is on its way. The library has been seen to wait for messages of its own all
/// the same: MPICH 4.0 over UCX, with ranks on two hosts that had more to do than cores.
fn finalize(mpi: &dyn Mpi) {
    let (ended, end) = channel::<()>();
    let watch = move || {
        if end.recv_timeout(FINAL) == Err(RecvTimeoutError::Timeout) {
            eprintln!(
                "MPI_Finalize has not come back for {} s; all ranks have ended, so this one leaves without it",
                FINAL.as_secs()
            );
            // SAFETY: it ends the process as it is. What the library has left to do at an exit may be what it waits in.
            unsafe { libc::_exit(0) }
        }
    };
    // Without the thread it takes as long as it takes.
    let watcher = Builder::new().name("athanor-finalize".into()).spawn(watch);
    mpi.finalize();
    drop(ended);
    if let Ok(watcher) = watcher {
        let _ = watcher.join();
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
        if inner.verdict.is_out() {
            return inner.verdict.linger();
        }
        let how = match (std::thread::panicking(), inner.broken) {
            (true, _) => Left::Panicked,
            (_, true) => Left::Failed,
            _ => Left::Ended,
        };
        let mut notes = inner.take_leave(self.rank, how, 0);
        if how == Left::Ended {
            drop(inner);
            let absent = (0..self.size).filter(|r| *r != self.rank).collect();
            let told = self.wait(&mut Farewell { notes, absent }).is_ok();
            inner = self.lock();
            inner.left[self.rank] = Some(how);
            // The library's own end waits for all ranks, without a limit.
            if told && inner.left.iter().all(|l| *l == Some(Left::Ended)) {
                let Inner { mpi, notice, reports, .. } = &mut *inner;
                for note in [notice.take(), reports.close()].into_iter().flatten() {
                    note.take_back(&**mpi);
                }
                finalize(&**mpi);
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
