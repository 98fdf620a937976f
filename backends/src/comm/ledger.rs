//! Where a rank is in its work, for what is said about ranks that wait for one another.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A place in the work of a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Place {
    /// Before the first step: meeting, plan, weights.
    #[default]
    Start,
    /// Between two steps of the run.
    Between,
    /// A step of a program of the plan, by index.
    Step {
        /// Stage of the plan.
        stage: u16,
        /// Program of the stage.
        program: u16,
        /// Step of the program.
        step: u32,
    },
    /// What one stage of a pipeline gives another.
    Message {
        /// Its micro-batch.
        micro: u32,
        /// A gradient instead of an activation.
        back: bool,
    },
    /// Bringing weights together to save them, or waiting for them to be saved.
    Save,
}

/// A place, and in which step of the run, counted from 1; 0 before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Step of the run.
    pub step: u64,
    /// Place in it.
    pub place: Place,
}

/// Says what a step of a program is: its op, block and YAML line.
type Describe = Box<dyn Fn(u16, u16, u32) -> String + Send + Sync>;

/// The position of a rank, which it keeps up to date and its communicators read.
#[derive(Default)]
pub struct Ledger {
    step: AtomicU64,
    place: AtomicU64,
    describe: OnceLock<Describe>,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ledger({:?})", self.position())
    }
}

/// Bit of a place that is a step of a program.
const STEP: u64 = 1 << 63;

impl Place {
    /// The place as a number, for ranks that do not share memory.
    fn word(self) -> u64 {
        match self {
            Self::Start => 0,
            Self::Between => 1,
            Self::Save => 2,
            Self::Message { micro, back } => 3 | u64::from(back) << 8 | u64::from(micro) << 16,
            Self::Step { stage, program, step } => {
                STEP | u64::from(stage & 0x7fff) << 48 | u64::from(program) << 32 | u64::from(step)
            }
        }
    }

    fn from_word(word: u64) -> Self {
        match word {
            1 => Self::Between,
            2 => Self::Save,
            w if w & (STEP | 0xff) == 3 => Self::Message { micro: (w >> 16) as u32, back: w >> 8 & 1 != 0 },
            w if w & STEP != 0 => {
                Self::Step { stage: (w >> 48) as u16 & 0x7fff, program: (w >> 32) as u16, step: w as u32 }
            }
            _ => Self::Start,
        }
    }
}

impl Position {
    /// For sending.
    pub(super) fn words(self) -> [u64; 2] {
        [self.step, self.place.word()]
    }

    /// What [`Self::words`] gave.
    pub(super) fn from_words([step, place]: [u64; 2]) -> Self {
        Self { step, place: Place::from_word(place) }
    }
}

impl Ledger {
    /// Begins a step of the run, counted from 1.
    pub fn begin(&self, step: u64) {
        self.step.store(step, Relaxed);
    }

    /// Comes to `place`.
    pub fn enter(&self, place: Place) {
        self.place.store(place.word(), Relaxed);
    }

    /// Tells what steps of programs are called, all ranks' as they run one plan; the first description stays.
    pub fn describe_by(&self, describe: impl Fn(u16, u16, u32) -> String + Send + Sync + 'static) {
        // A second plan in one process does not happen outside tests of this file.
        let _ = self.describe.set(Box::new(describe));
    }

    /// Where the rank is.
    pub fn position(&self) -> Position {
        Position::from_words([self.step.load(Relaxed), self.place.load(Relaxed)])
    }

    /// Words for `position` of any rank: `step 5, all_reduce of model.layers.0.mlp (x.yaml:3:5)`.
    pub fn text(&self, position: Position) -> String {
        let place = match (position.place, self.describe.get()) {
            (Place::Start, _) => "the start of the run".into(),
            (Place::Between, _) => "its end".into(),
            (Place::Save, _) => "saving".into(),
            (Place::Message { micro, back }, _) => {
                format!("{} of micro-batch {micro} for the next stage", if back { "gradients" } else { "activations" })
            }
            (Place::Step { stage, program, step }, Some(describe)) => describe(stage, program, step),
            (Place::Step { program, step, .. }, None) => format!("program {program}, step {step}"),
        };
        if position.step == 0 { place } else { format!("step {}, {place}", position.step) }
    }

    /// `what` and where it happens, once a plan is known.
    pub(super) fn at(&self, what: String) -> String {
        if self.describe.get().is_none() {
            return what;
        }
        format!("{what} at {}", self.text(self.position()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_being_sent_as_numbers() {
        let step = Place::Step { stage: 0x7fff, program: u16::MAX, step: u32::MAX };
        let messages = [true, false].map(|back| Place::Message { micro: u32::MAX, back });
        let steps = [step, Place::Step { stage: 0, program: 0, step: 3 }];
        for place in [Place::Start, Place::Between, Place::Save].into_iter().chain(steps).chain(messages) {
            let position = Position { step: 7, place };
            assert_eq!(Position::from_words(position.words()), position);
        }
    }

    #[test]
    fn a_call_is_placed_once_there_is_a_plan() {
        let ledger = Ledger::default();
        ledger.enter(Place::Step { stage: 0, program: 1, step: 12 });
        assert_eq!(ledger.at("barrier".into()), "barrier");
        ledger.describe_by(|stage, program, step| format!("op {stage}/{program}/{step}"));
        assert_eq!(ledger.at("barrier".into()), "barrier at op 0/1/12");
        ledger.begin(3);
        assert_eq!(ledger.at("barrier".into()), "barrier at step 3, op 0/1/12");
        ledger.enter(Place::Between);
        assert_eq!(ledger.at("barrier".into()), "barrier at step 3, its end");
    }
}
