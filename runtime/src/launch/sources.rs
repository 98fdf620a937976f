//! What each launcher's variables say, one function per launcher.

use super::hostlist;

/// Values of environment variables, by name.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Who started the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launcher {
    /// Flags of the command line.
    Flags,
    /// PyTorch's torchrun, and whatever sets its variables (`MindCluster`, Kubeflow's `PyTorchJob`).
    Torchrun,
    /// MindSpore's msrun.
    Msrun,
    /// Open MPI's mpirun, or anything that speaks `PMIx`.
    OpenMpi,
    /// MPICH's hydra, or anything that speaks PMI.
    Hydra,
    /// Slurm's srun.
    Slurm,
    /// Kubeflow Trainer, which says what torchrun's flags would be.
    Kubeflow,
    /// A Kubernetes Indexed Job or `JobSet`.
    Kubernetes,
    /// Nobody: one process.
    Nobody,
}

/// A value and what it was read from: `RANK`, `--rank`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact<T> {
    /// The value.
    pub value: T,
    /// The variable or flag.
    pub from: String,
}

/// A variable whose value cannot be used: its name, its value, and why.
pub type Unusable = (String, String, String);

/// What one launcher says; anything may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// Rank among all.
    pub rank: Option<Fact<usize>>,
    /// Number of ranks.
    pub size: Option<Fact<usize>>,
    /// Rank among those of this machine.
    pub local_rank: Option<Fact<usize>>,
    /// Number of ranks on this machine.
    pub local_size: Option<Fact<usize>>,
    /// Host of the rendezvous.
    pub host: Option<Fact<String>>,
    /// Port of the rendezvous.
    pub port: Option<Fact<u16>>,
}

fn text(env: Environment<'_>, names: &[&str]) -> Option<Fact<String>> {
    let found = names.iter().find_map(|n| env(n).filter(|v| !v.trim().is_empty()).map(|v| (n, v)));
    found.map(|(name, value)| Fact { value: value.trim().to_owned(), from: (*name).to_owned() })
}

/// The first of `names` that is set, as a number.
fn number<T: std::str::FromStr>(env: Environment<'_>, names: &[&str]) -> Result<Option<Fact<T>>, Unusable> {
    let Some(Fact { value, from }) = text(env, names) else { return Ok(None) };
    match value.parse() {
        Ok(number) => Ok(Some(Fact { value: number, from })),
        Err(_) => Err((from, value, "is not a number in range".into())),
    }
}

/// `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE`, `MASTER_ADDR`, `MASTER_PORT`.
pub fn torchrun(env: Environment<'_>) -> Result<Said, Unusable> {
    // MindCluster lists all ranks of a pod here for a process that is to start them.
    if let Some(Fact { value, from }) = text(env, &["LOCAL_RANK"]).filter(|f| f.value.contains(',')) {
        return Err((from, value, "lists several ranks: start one process for each, for example with msrun".into()));
    }
    Ok(Said {
        rank: number(env, &["RANK"])?,
        size: number(env, &["WORLD_SIZE"])?,
        local_rank: number(env, &["LOCAL_RANK"])?,
        local_size: number(env, &["LOCAL_WORLD_SIZE"])?,
        host: text(env, &["MASTER_ADDR"]),
        port: number(env, &["MASTER_PORT"])?,
    })
}

/// `RANK_ID`, `RANK_SIZE` or `MS_WORKER_NUM`, `DEVICE_ID`, `MS_LOCAL_WORKER`, `MS_SCHED_HOST`, `MS_SCHED_PORT`.
pub fn msrun(env: Environment<'_>) -> Result<Said, Unusable> {
    Ok(Said {
        rank: number(env, &["RANK_ID", "MS_NODE_ID"])?,
        size: number(env, &["RANK_SIZE", "MS_WORKER_NUM"])?,
        local_rank: number(env, &["DEVICE_ID"])?,
        local_size: number(env, &["MS_LOCAL_WORKER"])?,
        host: text(env, &["MS_SCHED_HOST"]),
        port: number(env, &["MS_SCHED_PORT"])?,
    })
}

/// Whether this process is msrun's scheduler, which is no rank.
pub fn is_scheduler(env: Environment<'_>) -> bool {
    env("MS_ROLE").is_some_and(|r| r.trim() == "MS_SCHED")
}

/// `OMPI_COMM_WORLD_*`; `PMIX_RANK` alone has no number of ranks beside it.
pub fn open_mpi(env: Environment<'_>) -> Result<Said, Unusable> {
    Ok(Said {
        rank: number(env, &["OMPI_COMM_WORLD_RANK", "PMIX_RANK"])?,
        size: number(env, &["OMPI_COMM_WORLD_SIZE"])?,
        local_rank: number(env, &["OMPI_COMM_WORLD_LOCAL_RANK"])?,
        local_size: number(env, &["OMPI_COMM_WORLD_LOCAL_SIZE"])?,
        ..Said::default()
    })
}

/// `PMI_RANK`, `PMI_SIZE`, `MPI_LOCALRANKID`, `MPI_LOCALNRANKS`.
pub fn hydra(env: Environment<'_>) -> Result<Said, Unusable> {
    Ok(Said {
        rank: number(env, &["PMI_RANK"])?,
        size: number(env, &["PMI_SIZE"])?,
        local_rank: number(env, &["MPI_LOCALRANKID"])?,
        local_size: number(env, &["MPI_LOCALNRANKS"])?,
        ..Said::default()
    })
}

/// A step of srun: `SLURM_PROCID` and friends. Without a step (the script of sbatch, a shell of salloc) nothing is said.
pub fn slurm(env: Environment<'_>) -> Result<Said, Unusable> {
    let Some(size) = number(env, &["SLURM_STEP_NUM_TASKS"])? else { return Ok(Said::default()) };
    let host = match text(env, &["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"]) {
        None => None,
        Some(Fact { value, from }) => match hostlist::expand(&value) {
            Ok(hosts) => hosts.into_iter().next().map(|value| Fact { value, from }),
            Err(why) => return Err((from, value, format!("is no host list: {why}"))),
        },
    };
    // `61000-61003`: the first of the ports that Slurm keeps free for the step.
    let ports = |name: &str| env(name).map(|v| v.split(['-', ',']).next().unwrap_or_default().to_owned());
    Ok(Said {
        rank: number(env, &["SLURM_PROCID"])?,
        size: Some(size),
        local_rank: number(env, &["SLURM_LOCALID"])?,
        local_size: None,
        host,
        port: number(&ports, &["SLURM_STEP_RESV_PORTS"])?,
    })
}

/// `PET_NNODES`, `PET_NODE_RANK`: flags for torchrun, which make one rank per node of a process started without it.
pub fn kubeflow(env: Environment<'_>) -> Result<Said, Unusable> {
    if let Some(Fact { value, from }) = text(env, &["PET_NPROC_PER_NODE"]).filter(|f| f.value != "1") {
        let several = number::<usize>(env, &["RANK"])?.is_none() && text(env, &["PET_NODE_RANK"]).is_some();
        if several {
            return Err((from, value, "asks for several ranks per node: start them with torchrun".into()));
        }
        return Ok(Said::default());
    }
    Ok(Said {
        rank: number(env, &["PET_NODE_RANK"])?,
        size: number(env, &["PET_NNODES"])?,
        host: text(env, &["PET_MASTER_ADDR"]),
        port: number(env, &["PET_MASTER_PORT"])?,
        ..Said::default()
    })
}

/// `JOB_COMPLETION_INDEX`, and the host name `<job>-<index>` from which that of index 0 follows.
pub fn kubernetes(env: Environment<'_>) -> Result<Said, Unusable> {
    let rank: Option<Fact<usize>> = number(env, &["JOB_COMPLETION_INDEX"])?;
    let host = rank.as_ref().and_then(|rank| {
        let Fact { value, from } = text(env, &["HOSTNAME"])?;
        let (pod, domain) = value.split_once('.').map_or((value.as_str(), None), |(p, d)| (p, Some(d)));
        let job = pod.strip_suffix(&format!("-{}", rank.value))?;
        let domain = domain.map_or(String::new(), |d| format!(".{d}"));
        Some(Fact { value: format!("{job}-0{domain}"), from })
    });
    Ok(Said { rank, host, ..Said::default() })
}
