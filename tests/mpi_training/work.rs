//! What the trials work with: plans for several meshes, the numbers of one process, and the processes of a run.

use crate::installed::{Mpi, Running};
use libtest_mimic::Failed;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The command under test.
pub const ATHANOR: &str = env!("CARGO_BIN_EXE_athanor");
/// The configuration of all runs, which knows its data relative to the root of the repository.
pub const CONFIG: &str = "examples/w1_tiny.yaml";
/// Variable by which the processes of a run are found.
const MARK: &str = "ATHANOR_TRIAL";

/// Saved weights and moments by file, and what each step said, its numbers as text.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    steps: Vec<[String; 3]>,
    files: BTreeMap<String, Vec<u8>>,
}

/// A folder with everything that is made.
pub struct Work {
    dir: tempfile::TempDir,
    outcomes: Mutex<HashMap<usize, &'static Outcome>>,
}

/// Overrides for `n` ranks: the heads of each layer on two, and replicas of these; on four ranks the sequence in parts, of
/// which neighbours exchange tokens for heads and keys go round the others.
pub fn mesh(n: usize) -> Vec<String> {
    let [dp, cp, tp] = match n {
        2 => [1, 1, 2],
        4 => [1, 4, 1],
        _ => [4, 1, 2],
    };
    let pairs = [
        ("use_parallel", "True".to_owned()),
        ("runner_config.batch_size", "1".into()),
        ("parallel_config.data_parallel", dp.to_string()),
        ("parallel_config.model_parallel", tp.to_string()),
        ("parallel_config.context_parallel", cp.to_string()),
        ("parallel_config.context_parallel_algo", "hybrid_cp".into()),
        ("parallel_config.ulysses_degree_in_cp", cp.min(2).to_string()),
        ("model.model_config.use_ring_attention", if cp > 1 { "True" } else { "False" }.into()),
        ("callbacks", "[{type: MFLossMonitor}, {type: CheckpointMonitor, save_checkpoint_steps: 3}]".into()),
    ];
    pairs.into_iter().flat_map(|(k, v)| ["--set".to_owned(), format!("{k}={v}")]).collect()
}

impl Work {
    pub fn new() -> Result<Self, Failed> {
        Ok(Self { dir: tempfile::tempdir()?, outcomes: Mutex::default() })
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An empty folder of this name.
    pub fn empty(&self, name: &str) -> Result<PathBuf, Failed> {
        let path = self.path(name);
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    /// The plan `name` of the configuration for `n` ranks with `changes`, compiled once.
    pub fn plan(&self, name: &str, n: usize, changes: &[&str]) -> Result<PathBuf, Failed> {
        let path = self.path(name);
        if !path.exists() {
            let mut command = Command::new(ATHANOR);
            command.args(["compile", CONFIG, "--threads", "1", "-o"]).arg(&path).args(mesh(n)).args(changes);
            let output = command.output()?;
            if !output.status.success() {
                return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
            }
        }
        Ok(path)
    }

    /// A plan for `n` ranks that saves every third step.
    pub fn short(&self, n: usize) -> Result<PathBuf, Failed> {
        self.plan(&format!("plan-{n}"), n, &[])
    }

    /// A plan for `n` ranks that ends long after every trial.
    pub fn long(&self, n: usize) -> Result<PathBuf, Failed> {
        self.plan(&format!("long-{n}"), n, &["--set", "runner_config.epochs=100000", "--set", "callbacks=[]"])
    }

    /// What `athanor train PLAN --devices N` gives.
    pub fn local(&self, n: usize) -> Result<&'static Outcome, Failed> {
        let mut outcomes = self.outcomes.lock().map_err(|_| "another trial has panicked")?;
        if let Some(known) = outcomes.get(&n) {
            return Ok(known);
        }
        let out = self.empty("local")?;
        let mut command = Command::new(ATHANOR);
        command.arg("train").arg(self.short(n)?).args(["--devices", &n.to_string()]).args(train(&out));
        let output = command.output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        let outcome: &'static Outcome = Box::leak(Box::new(outcome(&out)?));
        outcomes.insert(n, outcome);
        Ok(outcome)
    }

    /// `mpirun` for `n` ranks, which are found by `mark` and keep temporary files where nobody else does.
    pub fn mpirun(&self, mpi: &Mpi, n: usize, mark: &str) -> Result<Command, Failed> {
        let mut command = mpi.mpirun(n, &[]);
        // Sockets of Open MPI have short names: its own files stay where they are.
        command.env(MARK, mark).env("TMPDIR", self.empty("tmp")?).env("NO_COLOR", "1");
        command.env("OMPI_MCA_orte_tmpdir_base", "/tmp").env("PRTE_MCA_prte_tmpdir_base", "/tmp");
        Ok(command)
    }

    /// What is left in the place for temporary files.
    pub fn left(&self) -> Result<Vec<String>, Failed> {
        let names = fs::read_dir(self.path("tmp"))?.map(|e| Ok(e?.file_name().to_string_lossy().into_owned()));
        let names: Vec<String> = names.collect::<Result<_, std::io::Error>>()?;
        Ok(names.into_iter().filter(|n| n.contains("athanor") || n.starts_with(".tmp")).collect())
    }
}

/// Arguments of a run that leaves metrics and checkpoints in `out`.
pub fn train(out: &Path) -> Vec<String> {
    let text = |p: PathBuf| p.to_string_lossy().into_owned();
    let metrics = text(out.join("metrics.jsonl"));
    ["--metrics-json", &metrics, "--output_dir", &text(out.to_path_buf())].map(str::to_owned).to_vec()
}

/// Steps that a run has told of.
pub fn steps(out: &Path) -> usize {
    fs::read_to_string(out.join("metrics.jsonl")).map_or(0, |t| t.lines().count())
}

/// What a run has left in `out`.
pub fn outcome(out: &Path) -> Result<Outcome, Failed> {
    let text = fs::read_to_string(out.join("metrics.jsonl"))?;
    let step = |line: &str| -> Result<[String; 3], Failed> {
        let line: serde_json::Value = serde_json::from_str(line)?;
        Ok(["step", "loss", "grad_norm"].map(|k| line[k].to_string()))
    };
    let steps = text.lines().map(step).collect::<Result<_, _>>()?;
    let mut files = BTreeMap::new();
    for iteration in fs::read_dir(out.join("checkpoint"))?.filter_map(Result::ok).filter(|e| e.path().is_dir()) {
        for file in fs::read_dir(iteration.path())? {
            let path = file?.path();
            let name = path.strip_prefix(out)?.to_string_lossy().into_owned();
            files.insert(name, fs::read(&path)?);
        }
    }
    Ok(Outcome { steps, files })
}

/// Waits half a minute at most until `done`.
pub fn until(running: &Running, what: &str, mut done: impl FnMut() -> bool) -> Result<(), Failed> {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > Duration::from_secs(30) {
            return Err(format!("never {what}\n{}", running.output()?).into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The processes of the run `mark`, by rank; those that a rank has started are later in their list.
pub fn processes(mark: &str) -> BTreeMap<usize, Vec<u32>> {
    let wanted = format!("{MARK}={mark}");
    let mut found: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok) {
        let Ok(id) = entry.file_name().to_string_lossy().parse() else { continue };
        let Ok(variables) = fs::read(entry.path().join("environ")) else { continue };
        let variables: Vec<_> = variables.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
        let number = |name: &str| variables.iter().find_map(|v| v.strip_prefix(name)?.parse().ok());
        let rank = number("OMPI_COMM_WORLD_RANK=").or_else(|| number("PMI_RANK="));
        if let Some(rank) = rank.filter(|_| variables.iter().any(|v| *v == wanted)) {
            found.entry(rank).or_default().push(id);
        }
    }
    found.values_mut().for_each(|ids| ids.sort_unstable());
    found
}

/// Sends `signal` to rank `rank` of the run `mark`.
pub fn signal(mark: &str, rank: usize, signal: &str) -> Result<(), Failed> {
    let id = processes(mark).get(&rank).map(|ids| ids[0].to_string()).ok_or("the rank is not there")?;
    Command::new("kill").args([signal, &id]).status()?;
    Ok(())
}

/// The words of what was printed, however its lines were cut.
pub fn words(output: &str) -> String {
    output.replace(['│', '×', '⚠'], " ").split_whitespace().collect::<Vec<_>>().join(" ")
}
