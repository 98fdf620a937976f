use super::*;
use athanor_ir::Code;

/// Variables as `NAME=value` words.
fn run(devices: Option<usize>, words: &str) -> Result<Option<Identity>> {
    let vars: Vec<(&str, &str)> = words.split_whitespace().filter_map(|w| w.split_once('=')).collect();
    identify(devices, &|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
}

fn refused(words: &str) -> Diagnostic {
    match run(None, words) {
        Err(e) => *e,
        Ok(identity) => panic!("{words}: {identity:?}"),
    }
}

const TORCHRUN: &str = "RANK=5 WORLD_SIZE=16 LOCAL_RANK=5 LOCAL_WORLD_SIZE=8 GROUP_RANK=0 MASTER_ADDR=10.0.0.1 \
                        MASTER_PORT=29500 TORCHELASTIC_RUN_ID=none";
const MSRUN: &str = "MS_WORKER_NUM=8 MS_SCHED_HOST=127.0.0.1 MS_SCHED_PORT=8118 MS_TOPO_TIMEOUT=600 MS_ROLE=MS_WORKER \
                     MS_NODE_ID=3 RANK_ID=3 RANK_SIZE=8 DEVICE_ID=3";
const OPEN_MPI: &str = "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=1 \
                        OMPI_COMM_WORLD_LOCAL_SIZE=2 OMPI_COMM_WORLD_NODE_RANK=1 PMIX_RANK=1 PMIX_NAMESPACE=prterun-1";
const HYDRA: &str = "PMI_RANK=2 PMI_SIZE=4 MPI_LOCALRANKID=2 MPI_LOCALNRANKS=4 PMI_FD=9";
const SLURM: &str = "SLURM_PROCID=3 SLURM_NTASKS=4 SLURM_STEP_NUM_TASKS=4 SLURM_LOCALID=1 SLURM_NODEID=1 SLURM_NNODES=2 \
                     SLURM_STEP_NODELIST=n[08-09] SLURM_STEP_RESV_PORTS=61000-61003";

#[test]
fn ranks_that_have_an_mpi_are_known() {
    use Launcher::{Hydra, OpenMpi, Slurm, Torchrun};
    // srun --mpi=pmi2 sets both families, and they agree; --mpi=pmix leaves the number of ranks to Slurm.
    let pmi2 = "SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST=n[0-1] PMI_RANK=1 PMI_SIZE=2 PMI_FD=12";
    let pmix = "SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 PMIX_RANK=1";
    // mpirun's daemons are tasks of Slurm.
    let daemons = "OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=3 SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2";
    // A script that tells libraries of torch what they want to hear.
    let both = "RANK=1 WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2";
    let alone = "RANK=0 WORLD_SIZE=1";
    let table = [
        (OPEN_MPI, 1, 4, OpenMpi, Some(OpenMpi)),
        (HYDRA, 2, 4, Hydra, Some(Hydra)),
        (pmi2, 1, 2, Hydra, Some(Hydra)),
        (pmix, 1, 2, OpenMpi, Some(OpenMpi)),
        (daemons, 2, 3, OpenMpi, Some(OpenMpi)),
        (both, 1, 2, Torchrun, Some(OpenMpi)),
        (alone, 0, 1, Torchrun, None),
        ("SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1", 0, 1, Slurm, None),
    ];
    for (words, rank, size, launcher, mpi) in table {
        assert_eq!(run(None, words), Ok(Some(Identity { rank, size, launcher, mpi })), "{words}");
        assert_eq!(run(Some(size), words).map(|i| i.map(|i| i.size)), Ok(Some(size)), "{words}");
    }
}

#[test]
fn a_process_that_nobody_has_started_is_no_rank() {
    for words in ["HOME=/root SLURM_NTASKS=4 SLURM_PROCID=0 MASTER_ADDR=10.0.0.1", "WORLD_SIZE=1", "PET_NNODES=1"] {
        assert_eq!(run(None, words), Ok(None), "{words}");
        assert_eq!(run(Some(8), words), Ok(None), "{words}");
    }
}

#[test]
fn ranks_without_mpi_are_told_what_to_use() {
    let kubeflow =
        "PET_NNODES=4 PET_NODE_RANK=2 PET_NPROC_PER_NODE=1 PET_MASTER_ADDR=job-node-0-0.job PET_MASTER_PORT=29400";
    // mpirun starts torchrun once per node, which starts eight ranks.
    let nested = "RANK=11 WORLD_SIZE=16 LOCAL_RANK=3 LOCAL_WORLD_SIZE=8 OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2";
    let cases = [
        (TORCHRUN, "torchrun has started this process (rank 5 of 16)", "`mpirun -n N athanor train …`"),
        (MSRUN, "msrun has started this process (rank 3 of 8)", "`mpirun -n N athanor train …`"),
        (
            "MS_ROLE=MS_SCHED RANK_ID=0 MS_WORKER_NUM=8",
            "msrun has started this process (this is its scheduler)",
            "mpirun",
        ),
        (SLURM, "srun has started this process (rank 3 of 4)", "`srun --mpi=pmix`"),
        (kubeflow, "Kubeflow Trainer has started this process (rank 2 of 4)", "MPIJob"),
        (
            "JOB_COMPLETION_INDEX=2 WORLD_SIZE=3 HOSTNAME=train-2.workers",
            "a Kubernetes Job has started this process (rank 2 of 3)",
            "MPIJob",
        ),
        (nested, "torchrun has started this process (rank 11 of 16)", "`mpirun -n N athanor train …`"),
    ];
    for (words, message, help) in cases {
        let e = refused(words);
        assert_eq!(e.code, &NEEDS_MPI, "{words}: {}", e.message);
        assert_eq!(e.message, format!("{message}, and ranks can only meet through MPI"), "{words}");
        assert!(e.help.as_ref().is_some_and(|h| h.contains(help)), "{words}: {:?}", e.help);
    }
}

#[test]
fn contradictions_are_refused_with_both_values() {
    let cases = [
        (
            "RANK=0 WORLD_SIZE=8 OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=4",
            "`WORLD_SIZE=8` contradicts `OMPI_COMM_WORLD_SIZE=4`",
        ),
        ("RANK=1 WORLD_SIZE=4 PMI_RANK=2 PMI_SIZE=4", "`RANK=1` contradicts `PMI_RANK=2`"),
        ("RANK_ID=1 RANK_SIZE=8 JOB_COMPLETION_INDEX=3", "`RANK_ID=1` contradicts `JOB_COMPLETION_INDEX=3`"),
        (
            "RANK=11 WORLD_SIZE=16 LOCAL_WORLD_SIZE=8 SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=2",
            "`WORLD_SIZE=16` contradicts `SLURM_STEP_NUM_TASKS=2`",
        ),
    ];
    for (words, message) in cases {
        let e = refused(words);
        assert_eq!((e.code, e.message.as_str()), (&CONTRADICTION, message), "{words}");
    }
    for (devices, words, message) in [
        (8, OPEN_MPI, "`--devices=8` contradicts `OMPI_COMM_WORLD_SIZE=4`"),
        (1, HYDRA, "`--devices=1` contradicts `PMI_SIZE=4`"),
        (2, "RANK=0 WORLD_SIZE=1", "`--devices=2` contradicts `WORLD_SIZE=1`"),
    ] {
        let e = run(Some(devices), words).unwrap_err();
        assert_eq!((e.code, e.message.as_str()), (&CONTRADICTION, message), "{words}");
    }
}

#[test]
fn half_a_description_is_refused() {
    let cases: [(&str, &Code, &str); 8] = [
        ("JOB_COMPLETION_INDEX=3 HOSTNAME=j-3", &INCOMPLETE, "JOB_COMPLETION_INDEX=3"),
        // msrun without --node_rank on several nodes.
        ("MS_WORKER_NUM=16 MS_ROLE=MS_WORKER DEVICE_ID=0", &INCOMPLETE, "MS_WORKER_NUM=16"),
        ("RANK=8 WORLD_SIZE=8", &BAD_VALUE, "RANK=8"),
        ("RANK=x WORLD_SIZE=8", &BAD_VALUE, "RANK=x"),
        ("RANK=-1 WORLD_SIZE=8", &BAD_VALUE, "RANK=-1"),
        ("PMI_RANK=4 PMI_SIZE=4", &BAD_VALUE, "PMI_RANK=4"),
        ("LOCAL_RANK=0,1,2,3 WORLD_SIZE=4", &BAD_VALUE, "LOCAL_RANK=0,1,2,3"),
        ("PET_NNODES=2 PET_NODE_RANK=0 PET_NPROC_PER_NODE=8", &BAD_VALUE, "PET_NPROC_PER_NODE=8"),
    ];
    for (words, code, named) in cases {
        let e = refused(words);
        assert_eq!(e.code, code, "{words}: {}", e.message);
        assert!(e.message.contains(named), "{words}: {}", e.message);
        assert!(e.help.is_some(), "{words}");
    }
}

#[test]
fn one_agent_per_node_is_no_contradiction() {
    // srun starts torchrun once per node; each starts eight ranks. What is refused is the lack of an MPI.
    let e = refused(
        "RANK=11 WORLD_SIZE=16 LOCAL_RANK=3 LOCAL_WORLD_SIZE=8 SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 \
         SLURM_STEP_NODELIST=n[0-1]",
    );
    assert_eq!((e.code, e.message.contains("rank 11 of 16")), (&NEEDS_MPI, true), "{}", e.message);
}
