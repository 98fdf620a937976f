//! Ranks as processes that talk through MPI, on one machine or many.
//!
//! The library is opened at run time (`library.rs`), so that nothing is needed to build or to train on one rank. Of MPI we use
//! messages of bytes between two ranks, and nothing that blocks: what waits is our own loop (`world.rs`), which knows a time
//! limit, sees ranks that leave and sleeps when nothing happens. Members of a group first tell one another what they are about
//! to do (`group.rs`), so that no data moves before all have come to the same call; sums are then taken in the order of the
//! ranks by [`super::reduce`], and have the bits of every other engine.

mod exchange;
mod group;
mod launcher;
mod library;
mod meeting;
mod note;
mod process;
mod world;

use super::{Communicator, Engine, FOREIGN_MPI, local, position};
use athanor_ir::{Diagnostic, Result};
use group::Group;
use launcher::Launcher;
use process::Process;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use world::World;

/// How to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name or path of the library; otherwise those that fit the launcher are tried.
    pub library: Option<String>,
    /// Time without any progress after which a rank counts as missing.
    pub timeout: Duration,
    /// Bytes in the largest message; larger data is cut.
    pub cut: usize,
}

impl Default for Options {
    fn default() -> Self {
        // Pieces of this size keep both sides busy, and each that arrives is a sign of life.
        Self { library: None, timeout: local::TIMEOUT, cut: 4 << 20 }
    }
}

/// This process as a rank.
///
/// When it and all of its communicators are dropped, this rank leaves: it tells the others, waits until they leave too and ends
/// MPI. A rank that drops them after an error does not wait.
pub struct Mpi {
    world: Arc<World>,
    library: String,
}

impl Mpi {
    /// Number of ranks that the launcher of this process has started; none if it was started alone.
    pub fn launched() -> Option<usize> {
        Launcher::find().map(|l| l.ranks)
    }

    /// Starts MPI, which a process can do once. Returns when all ranks have.
    ///
    /// # Errors
    /// [`super::NO_MPI`], [`FOREIGN_MPI`], [`super::MPI_FAILED`].
    pub fn start(options: &Options) -> Result<Self> {
        let launcher = Launcher::find();
        let names =
            options.library.as_ref().map_or_else(|| Launcher::libraries(launcher.as_ref()), |l| vec![l.clone()]);
        let (library, mpi) = library::open(&names)?;
        mpi.init()?;
        // MPI counts bytes in 32 bits.
        let cut = options.cut.clamp(1, i32::MAX as usize);
        let world = Arc::new(World::new(mpi, options.timeout, cut)?);
        if let Some(Launcher { name, ranks, .. }) = launcher.filter(|l| l.ranks != world.size) {
            let text = format!("{name} has started {ranks} ranks, and {library} sees {}", world.size);
            return Diagnostic::error(&FOREIGN_MPI, text)
                .help(
                    "start the ranks with the mpirun of the installed MPI library, or install the MPI of this launcher",
                )
                .err();
        }
        let engine = Self { world, library };
        engine.meet()?;
        Ok(engine)
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

    /// Ends this process and all other ranks with `status`: the way out after an error that has been printed.
    pub fn abort(&self, status: i32) -> ! {
        self.world.abort(status)
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
