//! Which rank a process is, from the variables that the launcher of the cluster sets.
//!
//! Launching is the cluster's work: the ranks are started by mpirun (Open MPI, MPICH) or srun and talk through MPI. Other
//! launchers are recognised so that their ranks are refused instead of each training alone. [`identify`] is a pure function
//! of the environment. Launchers are asked in a fixed order and the first that gives a value is taken; what the others say
//! about the same thing must agree.

pub mod codes;
mod sources;

use athanor_ir::{Diagnostic, Result};
use codes::{BAD_VALUE, CONTRADICTION, INCOMPLETE, NEEDS_MPI};
pub use sources::Launcher;
use sources::{Environment, Fact, Said};

/// What a process knows about itself before it has spoken to any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Rank among all, from 0.
    pub rank: usize,
    /// Number of ranks.
    pub size: usize,
    /// Who gave the rank.
    pub launcher: Launcher,
    /// Whose MPI the ranks can meet through.
    pub mpi: Option<Launcher>,
}

/// A launcher and how its variables are read.
type Source = (Launcher, fn(Environment<'_>) -> std::result::Result<Said, sources::Unusable>);

/// The launchers in the order in which they are asked: those that start single ranks before those that may have started
/// the launcher of a node.
const SOURCES: [Source; 7] = [
    (Launcher::Torchrun, sources::torchrun),
    (Launcher::Msrun, sources::msrun),
    (Launcher::OpenMpi, sources::open_mpi),
    (Launcher::Hydra, sources::hydra),
    (Launcher::Slurm, sources::slurm),
    (Launcher::Kubeflow, sources::kubeflow),
    (Launcher::Kubernetes, sources::kubernetes),
];

/// Who this process is by the environment `env`; `devices` is what the command line asks for. `None` for a process that no
/// launcher has started.
///
/// # Errors
/// [`CONTRADICTION`] with both values, [`INCOMPLETE`], [`BAD_VALUE`], and [`NEEDS_MPI`] for one of several ranks that cannot
/// meet the others.
pub fn identify(devices: Option<usize>, env: Environment<'_>) -> Result<Option<Identity>> {
    if sources::is_scheduler(env) {
        return needs_mpi(Launcher::Msrun, "this is its scheduler");
    }
    let mut all = vec![];
    for (launcher, read) in SOURCES {
        let said = read(env).or_else(|(name, value, why)| {
            Diagnostic::error(&BAD_VALUE, format!("`{name}={value}` {why}"))
                .help(format!("correct {name}, or unset it if it is left over from another job"))
                .err()
        })?;
        all.push((launcher, said));
    }
    let rank = first(&all, |s| &s.rank);
    let size = first(&all, |s| &s.size);
    let (launcher, rank, size) = match (rank, size) {
        (Some((launcher, rank)), Some((_, size))) => (launcher, rank.clone(), size.clone()),
        // A number of ranks alone says nothing about this process, unless it is one.
        (None, None) => return Ok(None),
        (None, Some((_, size))) if size.value == 1 => return Ok(None),
        (Some((_, rank)), None) => {
            let message = format!("`{}={}` gives a rank, and nothing the number of ranks", rank.from, rank.value);
            return Diagnostic::error(&INCOMPLETE, message)
                .help("set WORLD_SIZE; 1 if every process is a run of its own")
                .err();
        }
        (None, Some((_, size))) => {
            let message = format!("`{}={}` gives a number of ranks, and nothing the rank", size.from, size.value);
            return Diagnostic::error(&INCOMPLETE, message)
                .help("set RANK, and give msrun its --node_rank; or unset what is left over from another job")
                .err();
        }
    };
    if size.value == 0 || rank.value >= size.value {
        let message = format!(
            "`{}={}` is not a rank among `{}={}`: ranks count from 0",
            rank.from, rank.value, size.from, size.value
        );
        return Diagnostic::error(&BAD_VALUE, message)
            .help("correct the two, or start the ranks by one launcher")
            .err();
    }
    let taken = all.iter().find(|(l, _)| *l == launcher);
    let local_size = taken.and_then(|(_, s)| s.local_size.as_ref()).map(|f| f.value);
    agree(&all, launcher, &rank, &size, local_size)?;
    if let Some(devices) = devices.filter(|d| *d != size.value) {
        return contradiction("--devices", &devices, &size.from, &size.value);
    }
    // Variables of an MPI that speak of this very rank; those of another number are of the launcher of a node.
    let mpi = all.iter().find(|(l, s)| l.is_mpi() && s.rank.as_ref().is_some_and(|r| r.value == rank.value));
    let mpi = mpi.filter(|(_, s)| s.size.as_ref().is_none_or(|n| n.value == size.value)).map(|(l, _)| *l);
    if mpi.is_none() && size.value > 1 {
        return needs_mpi(launcher, &format!("rank {} of {}", rank.value, size.value));
    }
    Ok(Some(Identity { rank: rank.value, size: size.value, launcher, mpi }))
}

/// The first source that has a value.
fn first<T>(all: &[(Launcher, Said)], of: impl Fn(&Said) -> &Option<Fact<T>>) -> Option<(Launcher, &Fact<T>)> {
    all.iter().find_map(|(l, s)| of(s).as_ref().map(|f| (*l, f)))
}

/// Refuses when another source speaks of other ranks than the one that was taken.
fn agree(
    all: &[(Launcher, Said)],
    taken: Launcher,
    rank: &Fact<usize>,
    size: &Fact<usize>,
    local_size: Option<usize>,
) -> Result<()> {
    // mpirun starts its daemons as tasks of Slurm, one per node: Slurm's numbers are then those of the daemons.
    let daemons = |l: Launcher| l == Launcher::Slurm && taken.is_mpi();
    for (_, said) in all.iter().filter(|(l, _)| *l != taken && !daemons(*l)) {
        // One process per node may have started the ranks of its node.
        let per_node = local_size.filter(|l| *l > 0 && size.value.is_multiple_of(*l));
        let nodes = per_node.map(|l| (rank.value / l, size.value / l));
        let is = |a: &Option<Fact<usize>>, b: usize| a.as_ref().is_none_or(|f| f.value == b);
        let same = is(&said.rank, rank.value) && is(&said.size, size.value);
        let outer = nodes.is_some_and(|(r, s)| is(&said.rank, r) && is(&said.size, s));
        if same || outer {
            continue;
        }
        let pairs = [(&said.size, size), (&said.rank, rank)];
        let apart = pairs
            .iter()
            .find_map(|(other, taken)| other.as_ref().filter(|o| o.value != taken.value).map(|o| (*taken, o)));
        let Some((a, b)) = apart else { continue };
        return contradiction(&a.from, &a.value, &b.from, &b.value);
    }
    Ok(())
}

fn contradiction<T>(a: &str, value_a: &dyn std::fmt::Display, b: &str, value_b: &dyn std::fmt::Display) -> Result<T> {
    Diagnostic::error(&CONTRADICTION, format!("`{a}={value_a}` contradicts `{b}={value_b}`"))
        .help("unset the one that is left over from an outer job, or start the ranks by one launcher")
        .err()
}

fn needs_mpi<T>(launcher: Launcher, who: &str) -> Result<T> {
    let instead = match launcher {
        Launcher::Slurm => "use `srun --mpi=pmix` or `srun --mpi=pmi2`, or `mpirun` inside the allocation",
        Launcher::Kubernetes | Launcher::Kubeflow => {
            "use an MPIJob, or run `mpirun -n N athanor train …` in the first pod with the others as its hosts"
        }
        _ => "use `mpirun -n N athanor train …`, or `--devices N` for ranks that are threads of one process",
    };
    let message = format!("{} has started this process ({who}), and ranks can only meet through MPI", launcher.name());
    Diagnostic::error(&NEEDS_MPI, message).help(instead).err()
}

#[cfg(test)]
mod tests;
