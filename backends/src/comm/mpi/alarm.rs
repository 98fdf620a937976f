//! A rank that waits for long asks the others where they are, and one of them tells the user who waits for whom.

use super::super::STALLED;
use super::report::names;
use super::world::{Inner, Work, World};
use athanor_ir::{Diagnostic, Result};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Time for the others to answer.
pub(super) const ANSWERS: Duration = Duration::from_millis(400);
/// A wait this long, in a process that was told to stop, is worth telling.
const STOPPING: Duration = Duration::from_millis(500);

/// The state of one wait.
#[derive(Default)]
pub(super) struct Alarm {
    /// When the others were asked.
    asked: Option<Instant>,
    /// Length of the wait at which they are asked next.
    next: Option<Duration>,
    /// Was told that this process is to stop.
    stopping: bool,
}

impl Alarm {
    /// Looks at a wait for `work` in which nothing has happened for `idle`.
    pub fn look(&mut self, world: &World, work: &dyn Work, idle: Duration) -> Result<()> {
        let mut inner = world.lock();
        inner.hear()?;
        inner.reports.stuck = work.absent().first().copied();
        let due = idle > self.next.unwrap_or(world.options.patience);
        let stopping = !self.stopping && idle > STOPPING && world.options.stop.load(Ordering::Relaxed);
        if self.asked.is_none() && (due || stopping) {
            self.stopping |= stopping;
            self.asked = Some(Instant::now());
            tell(world, &mut inner, true);
        } else if inner.reports.owes_answer() {
            tell(world, &mut inner, self.asked.is_some());
        }
        if self.asked.is_some_and(|a| a.elapsed() > ANSWERS) {
            self.asked = None;
            self.next = Some(idle * 2);
            if inner.reports.first_asking() == Some(world.rank) {
                let mut absent = work.absent();
                absent.sort_unstable();
                absent.dedup();
                let ranks = names(&absent);
                let lines = inner.reports.lines(&inner.left, &world.ledger);
                let text = format!(
                    "rank {} has waited {:.0} s for {ranks} in {}; where each rank is:{lines}",
                    world.rank,
                    idle.as_secs_f64(),
                    work.what()
                );
                let help =
                    "look at a rank of which nothing is heard: it may be stopped, slow, or its machine unreachable";
                (world.options.tell)(&Diagnostic::warning(&STALLED, text).help(help));
            }
        }
        Ok(())
    }
}

/// Tells the others where this rank waits.
pub(super) fn tell(world: &World, inner: &mut Inner, asks: bool) {
    let Inner { mpi, reports, .. } = inner;
    reports.tell(&**mpi, world.rank, world.ledger.position(), asks);
}
