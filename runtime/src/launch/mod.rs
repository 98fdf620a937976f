//! Which rank a process is: from flags, or from the variables that the launcher of the cluster sets.
//!
//! Launching is the cluster's work. The same command runs under torchrun, msrun, mpirun (Open MPI, MPICH), srun and as a
//! Kubernetes Indexed Job; [`identify`] is a pure function of flags and environment. Sources are read in a fixed order and
//! the first that has a value gives it; what the others say about the same thing must agree.

pub mod codes;
pub mod hostlist;
mod sources;

use athanor_ir::{Diagnostic, Result};
use codes::{BAD_VALUE, CONTRADICTION, INCOMPLETE};
pub use sources::{Environment, Fact, Launcher, Said};

/// Port of the rendezvous when nobody names one: msrun's.
pub const DEFAULT_PORT: u16 = 8118;

/// Where the ranks meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Name or address of the host of rank 0.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// What a process knows about itself before it has spoken to any other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Rank among all, from 0.
    pub rank: usize,
    /// Number of ranks.
    pub size: usize,
    /// Rank among those of this machine, if the launcher says so.
    pub local_rank: Option<usize>,
    /// Number of ranks on this machine, if the launcher says so.
    pub local_size: Option<usize>,
    /// Where the ranks meet, if somebody says so.
    pub rendezvous: Option<Address>,
    /// Who gave the rank.
    pub launcher: Launcher,
}

/// What a process is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Be one of the ranks.
    Rank(Identity),
    /// msrun starts one process more, which only brings the others together.
    Scheduler,
}

/// Rank, number of ranks and rendezvous as flags of the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--rank`.
    pub rank: Option<usize>,
    /// `--world-size`.
    pub size: Option<usize>,
    /// `--master-addr`.
    pub host: Option<String>,
    /// `--master-port`.
    pub port: Option<u16>,
}

impl Flags {
    fn said(&self) -> Said {
        fn fact<T: Clone>(value: Option<&T>, from: &str) -> Option<Fact<T>> {
            value.map(|v| Fact { value: v.clone(), from: from.into() })
        }
        Said {
            rank: fact(self.rank.as_ref(), "--rank"),
            size: fact(self.size.as_ref(), "--world-size"),
            host: fact(self.host.as_ref(), "--master-addr"),
            port: fact(self.port.as_ref(), "--master-port"),
            ..Said::default()
        }
    }
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

/// Tells the rank of a process from `flags` and the environment `env`.
///
/// # Errors
/// [`CONTRADICTION`] with both values, [`INCOMPLETE`], [`BAD_VALUE`].
pub fn identify(flags: &Flags, env: Environment<'_>) -> Result<Role> {
    if sources::is_scheduler(env) {
        return Ok(Role::Scheduler);
    }
    let mut all = vec![(Launcher::Flags, flags.said())];
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
        (None, None) => return Ok(Role::Rank(alone())),
        (None, Some((_, size))) if size.value == 1 => return Ok(Role::Rank(alone())),
        (Some((_, rank)), None) => {
            let message = format!("`{}={}` gives a rank, and nothing the number of ranks", rank.from, rank.value);
            return Diagnostic::error(&INCOMPLETE, message)
                .help("set WORLD_SIZE or --world-size; 1 if every process is a run of its own")
                .err();
        }
        (None, Some((_, size))) => {
            let message = format!("`{}={}` gives a number of ranks, and nothing the rank", size.from, size.value);
            return Diagnostic::error(&INCOMPLETE, message)
                .help("set RANK or --rank, and give msrun its --node_rank; or unset what is left over from another job")
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
    let within = |f: fn(&Said) -> &Option<Fact<usize>>| {
        all.iter().find(|(l, _)| *l == launcher).and_then(|(_, s)| f(s).as_ref()).map(|f| f.value)
    };
    let (local_rank, local_size) = (within(|s| &s.local_rank), within(|s| &s.local_size));
    agree(&all, launcher, &rank, &size, local_size)?;
    Ok(Role::Rank(Identity {
        rank: rank.value,
        size: size.value,
        local_rank,
        local_size,
        rendezvous: rendezvous(&all)?,
        launcher,
    }))
}

fn alone() -> Identity {
    Identity { rank: 0, size: 1, local_rank: None, local_size: None, rendezvous: None, launcher: Launcher::Nobody }
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
    let daemons = |l: Launcher| l == Launcher::Slurm && matches!(taken, Launcher::OpenMpi | Launcher::Hydra);
    for (launcher, said) in all.iter().filter(|(l, _)| *l != taken && !daemons(*l)) {
        // One process per node may have started the ranks of its node.
        let per_node = local_size.filter(|l| *l > 0 && size.value.is_multiple_of(*l));
        let nodes = per_node.map(|l| (rank.value / l, size.value / l));
        let is = |a: &Option<Fact<usize>>, b: usize| a.as_ref().is_none_or(|f| f.value == b);
        let same = is(&said.rank, rank.value) && is(&said.size, size.value);
        let outer =
            !matches!(launcher, Launcher::Flags) && nodes.is_some_and(|(r, s)| is(&said.rank, r) && is(&said.size, s));
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

/// Where the ranks meet. Flags may not contradict `MASTER_ADDR`; the other sources only fill in.
fn rendezvous(all: &[(Launcher, Said)]) -> Result<Option<Address>> {
    let Some((_, host)) = first(all, |s| &s.host) else { return Ok(None) };
    let port = first(all, |s| &s.port);
    if port.is_some_and(|(_, p)| p.value == 0) {
        let from = port.map(|(_, p)| p.from.clone()).unwrap_or_default();
        return Diagnostic::error(&BAD_VALUE, format!("`{from}=0` is no port")).help("ports are 1 to 65535").err();
    }
    let set = |l: Launcher| all.iter().find(|(x, _)| *x == l).map(|(_, s)| s);
    if let (Some(flags), Some(torchrun)) = (set(Launcher::Flags), set(Launcher::Torchrun)) {
        if let (Some(a), Some(b)) = (&flags.host, &torchrun.host)
            && a.value != b.value
        {
            return contradiction(&a.from, &a.value, &b.from, &b.value);
        }
        if let (Some(a), Some(b)) = (&flags.port, &torchrun.port)
            && a.value != b.value
        {
            return contradiction(&a.from, &a.value, &b.from, &b.value);
        }
    }
    Ok(Some(Address { host: host.value.clone(), port: port.map_or(DEFAULT_PORT, |(_, p)| p.value) }))
}

#[cfg(test)]
mod tests;
