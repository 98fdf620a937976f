//! A run of several processes: all must run one program on one plan, which rank 0 has made or each has read, and they share the
//! cores of their machines.

use crate::checkpoint::Resume;
use crate::codes::{PLAN_FORMAT, PLAN_READ, RANKS_DIFFER};
use athanor_backends::comm::{Communicator, Engine};
use athanor_backends::machine::Cores;
use athanor_ir::plan::Plan;
use athanor_ir::{Diagnostic, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// What is to be trained.
#[derive(Debug)]
pub struct Job {
    /// The plan.
    pub plan: Plan,
    /// Its kernels, if it has any.
    pub kernels: Option<Kernels>,
    /// Where the run starts.
    pub resume: Resume,
}

/// A shared object with kernels.
#[derive(Debug)]
pub struct Kernels {
    /// Where it can be loaded from.
    pub path: PathBuf,
    /// Keeps a file without a name, of which nothing is left whatever happens to this process.
    _file: Option<File>,
}

impl Kernels {
    /// Those in the file `path`.
    pub fn at(path: PathBuf) -> Self {
        Self { path, _file: None }
    }

    /// Those with the contents `bytes`.
    fn unnamed(bytes: &[u8]) -> io::Result<Self> {
        let mut file = tempfile::tempfile()?;
        file.write_all(bytes)?;
        Ok(Self { path: format!("/proc/self/fd/{}", file.as_raw_fd()).into(), _file: Some(file) })
    }
}

/// The parts of a [`Job`] that are text.
#[derive(Serialize, Deserialize)]
struct Text<P> {
    plan: P,
    resume: Resume,
    kernels: bool,
}

/// Bytes of a version in [`Hello`].
const VERSION: usize = 64;
const HASH: usize = 32;

/// What ranks tell one another first: the version of the program, a hash of what they were asked to do, their cores.
struct Hello {
    version: [u8; VERSION],
    asked: [u8; HASH],
    cores: [u64; Cores::WORDS],
}

impl Hello {
    const BYTES: usize = VERSION + HASH + 8 * Cores::WORDS;

    fn bytes(&self) -> Vec<u8> {
        [&self.version[..], &self.asked, bytemuck::cast_slice(&self.cores)].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let mut hello = Self { version: [0; VERSION], asked: [0; HASH], cores: [0; Cores::WORDS] };
        let (version, rest) = bytes.split_at(VERSION);
        let (asked, cores) = rest.split_at(HASH);
        hello.version.copy_from_slice(version);
        hello.asked.copy_from_slice(asked);
        bytemuck::cast_slice_mut(&mut hello.cores).copy_from_slice(cores);
        hello
    }
}

/// All ranks of a run, as one of them sees them.
pub struct Company {
    world: Box<dyn Communicator>,
    threads: usize,
}

fn differ<T>(message: String, help: &str) -> Result<T> {
    Diagnostic::error(&RANKS_DIFFER, message).help(help).err()
}

impl Company {
    /// The ranks of `engine`, which run `version` of the program and were asked for `asked`, in any words. All ranks call it.
    ///
    /// # Errors
    /// [`RANKS_DIFFER`] if they were started with different programs or arguments, and if a rank has left.
    pub fn meet(engine: &dyn Engine, version: &str, asked: &str) -> Result<Self> {
        let everyone: Vec<usize> = (0..engine.size()).collect();
        let mut world = engine.group(&everyone)?;
        let cores = Cores::own();
        let mut own =
            Hello { version: [0; VERSION], asked: blake3::hash(asked.as_bytes()).into(), cores: cores.words() };
        let shown = version.len().min(VERSION);
        own.version[..shown].copy_from_slice(&version.as_bytes()[..shown]);
        let mut all = vec![0; Hello::BYTES * everyone.len()];
        world.all_gather(&own.bytes(), &mut all)?;
        let all: Vec<Hello> = all.chunks_exact(Hello::BYTES).map(Hello::from_bytes).collect();
        if let Some(other) = all.iter().position(|h| h.version != all[0].version) {
            let name = |h: &Hello| String::from_utf8_lossy(&h.version).trim_end_matches('\0').to_owned();
            return differ(
                format!("rank 0 runs Athanor {}, and rank {other} {}", name(&all[0]), name(&all[other])),
                "install the same version on all machines",
            );
        }
        if let Some(other) = all.iter().position(|h| h.asked != all[0].asked) {
            return differ(
                format!("rank {other} was started with other arguments than rank 0"),
                "start all ranks with one command",
            );
        }
        let all: Vec<Cores> = all.into_iter().map(|h| Cores::from_words(h.cores)).collect();
        Ok(Self { world, threads: cores.share(&all) })
    }

    /// Whether this is rank 0, which speaks for all.
    pub fn leads(&self) -> bool {
        self.world.rank() == 0
    }

    /// Cores of this machine that are for this rank.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// The job of rank 0 on all ranks; the others give `None`. All ranks call it.
    ///
    /// # Errors
    /// If a rank has left, files cannot be made, or what came is no plan.
    pub fn share(&mut self, own: Option<Job>) -> Result<Job> {
        let unreadable = |path: &Path, e: &io::Error| {
            Box::new(
                Diagnostic::error(&PLAN_READ, format!("cannot read {}: {e}", path.display())).help("compile again"),
            )
        };
        let no_plan = |e: serde_json::Error| {
            Box::new(Diagnostic::error(&PLAN_FORMAT, format!("the plan of rank 0: {e}")).help("compile again"))
        };
        let Some(job) = own else {
            let text: Text<Plan> = serde_json::from_slice(&self.broadcast(vec![])?).map_err(no_plan)?;
            let kernels = if text.kernels {
                let bytes = self.broadcast(vec![])?;
                let made = Kernels::unnamed(&bytes).or_else(|e| {
                    let dir = std::env::temp_dir();
                    Diagnostic::error(&PLAN_READ, format!("cannot keep the plan's kernels in {}: {e}", dir.display()))
                        .help("set TMPDIR to a directory that can be written to")
                        .err()
                });
                Some(made?)
            } else {
                None
            };
            return Ok(Job { plan: text.plan, kernels, resume: text.resume });
        };
        let text = Text { plan: &job.plan, resume: job.resume.clone(), kernels: job.kernels.is_some() };
        self.broadcast(serde_json::to_vec(&text).map_err(no_plan)?)?;
        if let Some(Kernels { path, .. }) = &job.kernels {
            self.broadcast(std::fs::read(path).map_err(|e| unreadable(path, &e))?)?;
        }
        Ok(job)
    }

    /// The bytes of rank 0 on all ranks; the others give none.
    fn broadcast(&mut self, mut bytes: Vec<u8>) -> Result<Vec<u8>> {
        let mut length = (bytes.len() as u64).to_ne_bytes();
        self.world.broadcast(0, &mut length)?;
        bytes.resize(u64::from_ne_bytes(length) as usize, 0);
        self.world.broadcast(0, &mut bytes)?;
        Ok(bytes)
    }

    /// Sees to it that all ranks have the same plan and kernels. All ranks call it.
    ///
    /// # Errors
    /// [`RANKS_DIFFER`], [`PLAN_READ`], and if a rank has left.
    pub fn agree(&mut self, plan: &Plan, kernels: Option<&Path>) -> Result<()> {
        let mut hash = blake3::Hasher::new();
        let hashed = serde_json::to_writer(&mut hash, plan)
            .map_err(io::Error::from)
            .and_then(|()| kernels.map_or(Ok(()), |path| hash.update_reader(File::open(path)?).map(|_| ())));
        hashed.or_else(|e| {
            Diagnostic::error(&PLAN_READ, format!("cannot read the plan's kernels: {e}")).help("compile again").err()
        })?;
        let own: [u8; HASH] = hash.finalize().into();
        let mut all = vec![0; HASH * self.world.size()];
        self.world.all_gather(&own, &mut all)?;
        match all.chunks_exact(HASH).position(|h| h != &all[..HASH]) {
            None => Ok(()),
            Some(other) => differ(
                format!("rank {other} has another plan than rank 0"),
                "give all ranks the same plan directory, or copies of it",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy::{self, Toy};
    use athanor_backends::comm::local;

    fn ranks<T: Send>(work: impl Fn(usize, &dyn Engine) -> Result<T> + Sync) -> Result<Vec<T>> {
        local::run(3, local::TIMEOUT, |member| work(member.rank(), &member))
    }

    fn meet(engine: &dyn Engine) -> Result<Company> {
        Company::meet(engine, "1.0", "train x.yaml")
    }

    #[test]
    fn ranks_of_another_version_or_command_are_refused() {
        let version = |rank| if rank == 2 { "1.1" } else { "1.0" };
        let e = ranks(|rank, engine| Company::meet(engine, version(rank), "").map(|_| ())).unwrap_err();
        assert_eq!((e.code, e.message.as_str()), (&RANKS_DIFFER, "rank 0 runs Athanor 1.0, and rank 2 1.1"));
        let asked = |rank| if rank == 1 { "train y.yaml" } else { "train x.yaml" };
        let e = ranks(|rank, engine| Company::meet(engine, "1.0", asked(rank)).map(|_| ())).unwrap_err();
        assert_eq!(e.message, "rank 1 was started with other arguments than rank 0");
    }

    #[test]
    fn ranks_with_another_plan_or_other_kernels_are_refused() {
        let steps = |rank| if rank == 2 { 4 } else { 3 };
        let plan = |steps| toy::plan(&Toy { steps, ..Toy::default() });
        let e = ranks(|rank, engine| meet(engine)?.agree(&plan(steps(rank)), None)).unwrap_err();
        assert_eq!((e.code, e.message.as_str()), (&RANKS_DIFFER, "rank 2 has another plan than rank 0"));
        let dir = tempfile::tempdir().unwrap();
        let kernels = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, name).unwrap();
            path
        };
        let files = [kernels("a"), kernels("b"), kernels("a")];
        let e = ranks(|rank, engine| meet(engine)?.agree(&plan(3), Some(&files[rank]))).unwrap_err();
        assert_eq!(e.message, "rank 1 has another plan than rank 0");
        ranks(|_, engine| meet(engine)?.agree(&plan(3), Some(&files[0]))).unwrap();
    }

    #[test]
    fn the_job_of_the_first_rank_becomes_that_of_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kernels.so");
        let contents: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
        std::fs::write(&path, &contents).unwrap();
        let plan = toy::plan(&Toy::default());
        let from = Resume::From("some/where".into());
        let jobs = ranks(|rank, engine| {
            let kernels = Some(Kernels::at(path.clone()));
            let own = (rank == 0).then(|| Job { plan: plan.clone(), kernels, resume: from.clone() });
            let mut company = meet(engine)?;
            assert_eq!(company.leads(), rank == 0);
            let job = company.share(own)?;
            let kernels = job.kernels.as_ref().map(|k| std::fs::read(&k.path).unwrap());
            Ok((job.plan, job.resume, kernels))
        })
        .unwrap();
        for job in jobs {
            assert!(job == (plan.clone(), from.clone(), Some(contents.clone())));
        }
    }
}
