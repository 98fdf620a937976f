//! Communication beside computation: a thread that takes the operations of a program one after the other.

use athanor_ir::Result;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, Scope};

/// How far the thread has come.
#[derive(Default)]
pub(super) struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Steps up to this one have ended.
    ended: Option<usize>,
    /// What ended the thread before its work was done.
    failed: Option<Result<()>>,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole whatever a thread was doing that panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// Tells whoever waits that the thread is gone, however it went.
struct Leaves<'a>(&'a Progress);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.set(|s| s.failed = s.failed.take().or(Some(Ok(()))));
    }
}

/// The way to a thread that carries out steps of a program. When it is dropped the thread ends after what it was given.
pub(super) struct Beside<'a> {
    given: Sender<usize>,
    last: Option<usize>,
    progress: &'a Progress,
}

impl<'a> Beside<'a> {
    /// Starts a thread that does `work` for each step that it is given; `None` if the system has no thread to give.
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        progress: &'a Progress,
        work: impl Fn(usize) -> Result<()> + Send + 'scope,
    ) -> Option<Self>
    where
        'a: 'scope,
    {
        let (given, steps): (_, Receiver<usize>) = channel();
        let all = move || {
            let _leaves = Leaves(progress);
            for step in steps {
                if let Err(e) = work(step) {
                    return progress.set(|s| s.failed = Some(Err(e)));
                }
                progress.set(|s| s.ended = Some(step));
            }
        };
        Builder::new().name("athanor-communication".into()).spawn_scoped(scope, all).ok()?;
        Some(Self { given, last: None, progress })
    }

    /// Has step `step` carried out after those before it.
    pub(super) fn give(&mut self, step: usize) {
        // A thread that has failed says so to whoever waits for its work.
        let _ = self.given.send(step);
        self.last = Some(step);
    }

    /// Waits until step `step` and those before it have ended.
    ///
    /// # Errors
    /// What the first of them failed with.
    pub(super) fn wait_for(&self, step: usize) -> Result<()> {
        let mut state = self.progress.lock();
        loop {
            if state.ended.is_some_and(|e| e >= step) {
                return Ok(());
            }
            if let Some(failed) = &state.failed {
                return failed.clone();
            }
            state = self.progress.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for all that was given.
    ///
    /// # Errors
    /// As [`Self::wait_for`].
    pub(super) fn end(self) -> Result<()> {
        self.last.map_or(Ok(()), |last| self.wait_for(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use athanor_ir::Diagnostic;
    use std::sync::mpsc::sync_channel;

    #[test]
    fn steps_are_carried_out_in_order_beside_the_caller() {
        let (progress, done) = (Progress::default(), Mutex::new(vec![]));
        let (go, gone) = sync_channel(0);
        let gone = Mutex::new(gone);
        std::thread::scope(|scope| {
            let work = |step| {
                gone.lock().unwrap().recv().unwrap();
                done.lock().unwrap().push(step);
                Ok(())
            };
            let mut beside = Beside::start(scope, &progress, work).unwrap();
            beside.give(2);
            beside.give(5);
            // The thread would wait for ever if giving did.
            go.send(()).unwrap();
            beside.wait_for(2).unwrap();
            assert_eq!(*done.lock().unwrap(), [2]);
            go.send(()).unwrap();
            beside.end().unwrap();
            assert_eq!(*done.lock().unwrap(), [2, 5]);
        });
    }

    #[test]
    fn a_failure_is_told_to_whoever_waits_and_ends_the_rest() {
        const FAILS: athanor_ir::Code = athanor_ir::Code { id: "T0001", title: "", explain: "" };
        let (progress, tried) = (Progress::default(), Mutex::new(vec![]));
        std::thread::scope(|scope| {
            let work = |step| {
                tried.lock().unwrap().push(step);
                if step == 4 { Diagnostic::error(&FAILS, "no").err() } else { Ok(()) }
            };
            let mut beside = Beside::start(scope, &progress, work).unwrap();
            [1, 4, 6].into_iter().for_each(|step| beside.give(step));
            assert_eq!(beside.wait_for(6).unwrap_err().code.id, "T0001");
            beside.wait_for(1).unwrap();
            assert_eq!(beside.end().unwrap_err().code.id, "T0001");
        });
        assert_eq!(*tried.lock().unwrap(), [1, 4]);
    }
}
