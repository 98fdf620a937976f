//! The processes of a run: this one alone, or one of those that mpirun or srun has started.

use crate::failure::{Failure, print};
use athanor_backends::comm::mpi::{Mpi, Options};
use athanor_backends::comm::{Engine, MPI_FAILED};
use athanor_backends::launch::identify;
use athanor_ir::diag::Severity;
use athanor_ir::{Diagnostic, Result};
use athanor_runtime::company::Company;
use athanor_runtime::signals::Signals;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// This process among those of the run.
pub struct Ranks {
    /// Number of processes, if a launcher has started this one.
    pub processes: Option<usize>,
    /// The way to the other processes, if there are any.
    engine: Option<Mpi>,
    /// A process among others listens from the start: launchers leave those that are told to stop little time.
    _signals: Option<Signals>,
    /// Set when this process is told to stop.
    pub stop: Arc<AtomicBool>,
}

impl Ranks {
    /// Finds out by the environment who this process is, and starts MPI if it is one of several. `devices` is what the command
    /// line asks for; others are reported when they are waited for longer than `patience`.
    pub fn find(devices: Option<usize>, patience: Duration) -> Result<Self> {
        let stop = Arc::<AtomicBool>::default();
        let Some(own) = identify(devices, &|name| std::env::var(name).ok())? else {
            return Ok(Self { processes: None, engine: None, _signals: None, stop });
        };
        let processes = Some(own.size);
        if own.size == 1 {
            return Ok(Self { processes, engine: None, _signals: None, stop });
        }
        let tell = |d: &Diagnostic| print(std::slice::from_ref(d));
        let options = Options { patience, stop: Arc::clone(&stop), tell, ..Options::default() };
        let engine = Some(Mpi::start(&own, options)?);
        Ok(Self { processes, engine, _signals: Some(Signals::new(&stop)), stop })
    }

    /// The way to the other processes, if there are any.
    pub fn engine(&self) -> Option<&dyn Engine> {
        self.engine.as_ref().map(|mpi| mpi as &dyn Engine)
    }

    /// Meets the other processes, if there are any; `asked` is what this one was asked to do, in any words.
    pub fn meet(&self, asked: &str) -> Result<Option<Company>> {
        self.engine().map(|engine| Company::meet(engine, env!("CARGO_PKG_VERSION"), asked)).transpose()
    }

    /// Whether this process speaks for all.
    pub fn leads(&self) -> bool {
        self.engine().is_none_or(|e| e.rank() == 0)
    }

    /// The end of the run. Of several processes one tells how it has failed, and all exit alike.
    pub fn end(self, result: std::result::Result<(), Failure>) -> std::result::Result<(), Failure> {
        let (Some(mpi), Err(Failure::Diagnostics(all))) = (&self.engine, &result) else { return result };
        let unknown = Diagnostic::error(&MPI_FAILED, "the run has failed without a word");
        let first = all.iter().find(|d| d.severity == Severity::Error).unwrap_or(&unknown);
        if let Some(told) = mpi.conclude(first) {
            let said: Vec<Diagnostic> = all.iter().map(|d| if d == first { told.clone() } else { d.clone() }).collect();
            print(&said);
        }
        // Dropped here, the engine leaves what was printed the time to be passed on.
        Err(Failure::Told)
    }
}
