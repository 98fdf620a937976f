//! What each launcher's variables say, one function per launcher.

/// Values of environment variables, by name.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Who started the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launcher {
    /// PyTorch's torchrun, and whatever sets its variables (`MindCluster`, Kubeflow's `PyTorchJob`).
    Torchrun,
    /// MindSpore's msrun.
    Msrun,
    /// Open MPI's mpirun, or anything that speaks `PMIx`.
    OpenMpi,
    /// MPICH's hydra, or anything that speaks PMI.
    Hydra,
    /// Slurm's srun without an MPI.
    Slurm,
    /// Kubeflow Trainer, which says what torchrun's flags would be.
    Kubeflow,
    /// A Kubernetes Indexed Job or `JobSet`.
    Kubernetes,
}

impl Launcher {
    /// For messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Torchrun => "torchrun",
            Self::Msrun => "msrun",
            Self::OpenMpi => "Open MPI's mpirun",
            Self::Hydra => "a launcher that speaks PMI",
            Self::Slurm => "srun",
            Self::Kubeflow => "Kubeflow Trainer",
            Self::Kubernetes => "a Kubernetes Job",
        }
    }

    /// Whether its ranks meet through MPI.
    pub fn is_mpi(self) -> bool {
        matches!(self, Self::OpenMpi | Self::Hydra)
    }
}

/// A value and the variable it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact<T> {
    /// The value.
    pub value: T,
    /// The variable.
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
    /// Number of ranks on this machine.
    pub local_size: Option<Fact<usize>>,
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

/// `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `LOCAL_WORLD_SIZE`.
pub fn torchrun(env: Environment<'_>) -> Result<Said, Unusable> {
    // MindCluster lists all ranks of a pod here for a process that is to start them.
    if let Some(Fact { value, from }) = text(env, &["LOCAL_RANK"]).filter(|f| f.value.contains(',')) {
        return Err((from, value, "lists several ranks: start one process for each, with mpirun".into()));
    }
    Ok(Said {
        rank: number(env, &["RANK"])?,
        size: number(env, &["WORLD_SIZE"])?,
        local_size: number(env, &["LOCAL_WORLD_SIZE"])?,
    })
}

/// `RANK_ID`, `RANK_SIZE` or `MS_WORKER_NUM`, `MS_LOCAL_WORKER`.
pub fn msrun(env: Environment<'_>) -> Result<Said, Unusable> {
    Ok(Said {
        rank: number(env, &["RANK_ID", "MS_NODE_ID"])?,
        size: number(env, &["RANK_SIZE", "MS_WORKER_NUM"])?,
        local_size: number(env, &["MS_LOCAL_WORKER"])?,
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
        local_size: number(env, &["OMPI_COMM_WORLD_LOCAL_SIZE"])?,
    })
}

/// `PMI_RANK`, `PMI_SIZE`, `MPI_LOCALNRANKS`.
pub fn hydra(env: Environment<'_>) -> Result<Said, Unusable> {
    Ok(Said {
        rank: number(env, &["PMI_RANK"])?,
        size: number(env, &["PMI_SIZE"])?,
        local_size: number(env, &["MPI_LOCALNRANKS"])?,
    })
}

/// A step of srun: `SLURM_PROCID` and friends. Without a step (the script of sbatch, a shell of salloc) nothing is said.
pub fn slurm(env: Environment<'_>) -> Result<Said, Unusable> {
    let Some(size) = number(env, &["SLURM_STEP_NUM_TASKS"])? else { return Ok(Said::default()) };
    Ok(Said { rank: number(env, &["SLURM_PROCID"])?, size: Some(size), local_size: None })
}

/// `PET_NNODES`, `PET_NODE_RANK`: flags for torchrun, which make one rank per node of a process started without it.
pub fn kubeflow(env: Environment<'_>) -> Result<Said, Unusable> {
    if let Some(Fact { value, from }) = text(env, &["PET_NPROC_PER_NODE"]).filter(|f| f.value != "1") {
        let several = number::<usize>(env, &["RANK"])?.is_none() && text(env, &["PET_NODE_RANK"]).is_some();
        if several {
            return Err((from, value, "asks for several ranks per node: start them with mpirun".into()));
        }
        return Ok(Said::default());
    }
    Ok(Said { rank: number(env, &["PET_NODE_RANK"])?, size: number(env, &["PET_NNODES"])?, local_size: None })
}

/// `JOB_COMPLETION_INDEX`; the number of ranks stands elsewhere.
pub fn kubernetes(env: Environment<'_>) -> Result<Said, Unusable> {
    Ok(Said { rank: number(env, &["JOB_COMPLETION_INDEX"])?, ..Said::default() })
}
