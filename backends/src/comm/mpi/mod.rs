//! Ranks as processes that talk through MPI, on one machine or many.
//!
//! The library is opened at run time (`library.rs`), so that nothing is needed to build or to train on one rank. Of MPI we use
//! messages of bytes between two ranks, and nothing that blocks: what waits is our own loop (`world.rs`), which knows a time
//! limit, sees ranks that leave and sleeps when nothing happens. Members of a group first tell one another what they are about
//! to do (`group.rs`), so that no data moves before all have come to the same call; sums are then taken in the order of the
//! ranks by [`super::reduce`], and have the bits of every other engine.

mod alarm;
mod exchange;
mod farewell;
mod group;
mod keeper;
mod library;
mod meeting;
mod note;
mod process;
mod report;
mod verdict;
mod world;

use super::{Communicator, Engine, FOREIGN_MPI, position};
use crate::launch::Identity;
use athanor_ir::{Diagnostic, Result};
use group::Group;
use keeper::Keeper;
use process::Process;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use world::World;

/// Time without any progress after which the run ends. The libraries of clusters wait as long.
pub const TIMEOUT: Duration = Duration::from_mins(30);
/// Time without any progress after which a warning says who waits for whom.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name or path of the library; otherwise those that fit the launcher are tried.
    pub library: Option<String>,
    /// Time without any progress after which a rank counts as missing.
    pub timeout: Duration,
    /// Time without any progress after which [`super::STALLED`] is told, and again after twice as long.
    pub patience: Duration,
    /// This process was told to stop. A rank that waits meanwhile tells for whom: launchers do not leave it much time.
    pub stop: Arc<AtomicBool>,
    /// Tells the user.
    pub tell: fn(&Diagnostic),
    /// Bytes in the largest message; larger data is cut.
    pub cut: usize,
}

impl Default for Options {
    fn default() -> Self {
        // Pieces of this size keep both sides busy, and each that arrives is a sign of life.
        let tell = |d: &Diagnostic| {
            // In one piece: other ranks may print too.
            let text = format!("{}: {d}\n", d.code.id);
            eprint!("{text}");
        };
        Self { library: None, timeout: TIMEOUT, patience: PATIENCE, stop: Arc::default(), tell, cut: 4 << 20 }
    }
}

/// This process as a rank.
///
/// When it and all of its communicators are dropped, this rank leaves: it tells the others, waits until they leave too and ends
/// MPI. A rank that drops them after an error does not wait.
pub struct Mpi {
    world: Arc<World>,
    library: String,
    /// Goes last.
    _keeper: Option<Keeper>,
}

/// Settings of UCX, below MPICH, that are made unless they are: it ends a process that reads the memory of another on its host, or
/// writes to it over TCP, when that has just died. Ranks are to say who has.
const SURVIVES: [(&str, &str); 2] = [("UCX_TLS", "^cma"), ("UCX_TCP_PUT_ENABLE", "n")];

impl Mpi {
    /// Starts MPI as `own`, which a process can do once, before it starts threads of its own. Returns when all ranks have.
    ///
    /// # Errors
    /// [`super::NO_MPI`], [`FOREIGN_MPI`], [`super::MPI_FAILED`].
    pub fn start(own: &Identity, options: Options) -> Result<Self> {
        let launcher = own.mpi.unwrap_or(own.launcher);
        for (name, value) in SURVIVES.iter().filter(|(name, _)| std::env::var_os(name).is_none()) {
            // SAFETY: there are no other threads, which might read variables meanwhile.
            unsafe { std::env::set_var(name, value) }
        }
        let names = options.library.as_ref().map_or_else(|| library::names(launcher), |l| vec![l.clone()]);
        let keeper = Keeper::start(launcher);
        let (library, mpi) = library::open(&names)?;
        mpi.init()?;
        let world = Arc::new(World::new(mpi, options)?);
        if world.size != own.size {
            let text = format!("{} has started {} ranks, and {library} sees {}", launcher.name(), own.size, world.size);
            return Diagnostic::error(&FOREIGN_MPI, text)
                .help(
                    "start the ranks with the mpirun of the installed MPI library, or install the MPI of this launcher",
                )
                .err();
        }
        let engine = Self { world, library, _keeper: keeper };
        engine.meet()?;
        Ok(engine)
    }

    /// The end of a rank that cannot go on because of `error`: tells the others, and gives what is to be told to the user, with
    /// what each rank was doing, if this rank is the one to tell it. One rank tells: the one that failed first by itself, else
    /// the first of those that found out. Afterwards dropping the engine does not wait for the others.
    pub fn conclude(&self, error: &Diagnostic) -> Option<Diagnostic> {
        self.world.conclude(error)
    }

    /// All ranks tell which processes they are.
    fn meet(&self) -> Result<()> {
        let everyone: Vec<usize> = (0..self.world.size).collect();
        let mut group = Group::new(&self.world, &everyone, self.world.rank)?;
        let own = Process::own().words();
        let mut all = vec![[0; 3]; everyone.len()];
        group.all_gather(bytemuck::cast_slice(&own), bytemuck::cast_slice_mut(&mut all))?;
        self.world.know(all.into_iter().map(Process::from_words).collect());
        Ok(())
    }

    /// The library in use.
    pub fn library(&self) -> &str {
        &self.library
    }
}

impl fmt::Debug for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mpi(rank {} of {}, {})", self.world.rank, self.world.size, self.library)
    }
}

impl Engine for Mpi {
    fn rank(&self) -> usize {
        self.world.rank
    }

    fn size(&self) -> usize {
        self.world.size
    }

    fn group(&self, members: &[usize]) -> Result<Box<dyn Communicator>> {
        let at = position(members, self.world.rank, self.world.size)?;
        Ok(Box::new(Group::new(&self.world, members, at)?))
    }
}
