use super::*;

/// Variables as `NAME=value` words.
fn run(flags: &Flags, words: &str) -> Result<Role> {
    let vars: Vec<(&str, &str)> = words.split_whitespace().filter_map(|w| w.split_once('=')).collect();
    identify(flags, &|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
}

fn rank(words: &str) -> Identity {
    match run(&Flags::default(), words) {
        Ok(Role::Rank(i)) => i,
        other => panic!("{words}: {other:?}"),
    }
}

fn refused(words: &str) -> Diagnostic {
    match run(&Flags::default(), words) {
        Err(e) => *e,
        Ok(role) => panic!("{words}: {role:?}"),
    }
}

/// Launcher, its variables as they were seen, rank, size, local rank, local size, rendezvous.
type Row = (Launcher, &'static str, usize, usize, Option<usize>, Option<usize>, Option<(&'static str, u16)>);

#[test]
fn every_launcher_is_recognised_by_its_variables() {
    let table: [Row; 9] = [
        (
            Launcher::Torchrun,
            "RANK=5 WORLD_SIZE=16 LOCAL_RANK=5 LOCAL_WORLD_SIZE=8 GROUP_RANK=0 MASTER_ADDR=10.0.0.1 MASTER_PORT=29500 \
             TORCHELASTIC_RUN_ID=none",
            5,
            16,
            Some(5),
            Some(8),
            Some(("10.0.0.1", 29500)),
        ),
        (
            Launcher::Msrun,
            "MS_WORKER_NUM=8 MS_SCHED_HOST=127.0.0.1 MS_SCHED_PORT=8118 MS_TOPO_TIMEOUT=600 MS_ROLE=MS_WORKER MS_NODE_ID=3 \
             RANK_ID=3 RANK_SIZE=8 DEVICE_ID=3",
            3,
            8,
            Some(3),
            None,
            Some(("127.0.0.1", 8118)),
        ),
        (
            Launcher::OpenMpi,
            "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=1 OMPI_COMM_WORLD_LOCAL_SIZE=2 \
             OMPI_COMM_WORLD_NODE_RANK=1 PMIX_RANK=1 PMIX_NAMESPACE=prterun-1",
            1,
            4,
            Some(1),
            Some(2),
            None,
        ),
        (
            Launcher::Hydra,
            "PMI_RANK=2 PMI_SIZE=4 MPI_LOCALRANKID=2 MPI_LOCALNRANKS=4 PMI_FD=9",
            2,
            4,
            Some(2),
            Some(4),
            None,
        ),
        (
            Launcher::Slurm,
            "SLURM_PROCID=3 SLURM_NTASKS=4 SLURM_STEP_NUM_TASKS=4 SLURM_LOCALID=1 SLURM_NODEID=1 SLURM_NNODES=2 \
             SLURM_STEP_NODELIST=n[08-09] SLURM_STEP_RESV_PORTS=61000-61003",
            3,
            4,
            Some(1),
            None,
            Some(("n08", 61000)),
        ),
        // srun --mpi=pmi2 sets both families, and they agree.
        (
            Launcher::Hydra,
            "SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST=n[0-1] PMI_RANK=1 PMI_SIZE=2 PMI_FD=12",
            1,
            2,
            None,
            None,
            Some(("n0", DEFAULT_PORT)),
        ),
        (
            Launcher::Kubeflow,
            "PET_NNODES=4 PET_NODE_RANK=2 PET_NPROC_PER_NODE=1 PET_MASTER_ADDR=job-node-0-0.job PET_MASTER_PORT=29400",
            2,
            4,
            None,
            None,
            Some(("job-node-0-0.job", 29400)),
        ),
        (
            Launcher::Kubernetes,
            "JOB_COMPLETION_INDEX=2 WORLD_SIZE=3 HOSTNAME=train-2.workers",
            2,
            3,
            None,
            None,
            Some(("train-0.workers", DEFAULT_PORT)),
        ),
        (Launcher::Nobody, "HOME=/root SLURM_NTASKS=4 SLURM_PROCID=0 MASTER_ADDR=10.0.0.1", 0, 1, None, None, None),
    ];
    for (launcher, words, rank_, size, local_rank, local_size, meet) in table {
        let rendezvous = meet.map(|(host, port)| Address { host: host.into(), port });
        let wanted = Identity { rank: rank_, size, local_rank, local_size, rendezvous, launcher };
        assert_eq!(rank(words), wanted, "{words}");
    }
}

#[test]
fn one_agent_per_node_is_no_contradiction() {
    // srun starts torchrun once per node; each starts eight ranks.
    let i = rank(
        "RANK=11 WORLD_SIZE=16 LOCAL_RANK=3 LOCAL_WORLD_SIZE=8 SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 \
         SLURM_STEP_NODELIST=n[0-1]",
    );
    assert_eq!((i.rank, i.size, i.launcher), (11, 16, Launcher::Torchrun));
    // mpirun's daemons are tasks of Slurm.
    let i = rank("OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=3 SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2");
    assert_eq!((i.rank, i.size, i.launcher), (2, 3, Launcher::OpenMpi));
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
    let flags = Flags { rank: Some(1), size: Some(4), ..Flags::default() };
    let e = run(&flags, "RANK=1 WORLD_SIZE=8").unwrap_err();
    assert_eq!(e.message, "`--world-size=4` contradicts `WORLD_SIZE=8`");
    let flags = Flags { host: Some("a".into()), ..Flags::default() };
    let e = run(&flags, "RANK=1 WORLD_SIZE=8 MASTER_ADDR=b").unwrap_err();
    assert_eq!(e.message, "`--master-addr=a` contradicts `MASTER_ADDR=b`");
}

#[test]
fn half_a_description_is_refused() {
    let cases = [
        ("JOB_COMPLETION_INDEX=3 HOSTNAME=j-3", &INCOMPLETE, "JOB_COMPLETION_INDEX=3"),
        // msrun without --node_rank on several nodes.
        ("MS_WORKER_NUM=16 MS_ROLE=MS_WORKER DEVICE_ID=0", &INCOMPLETE, "MS_WORKER_NUM=16"),
        ("RANK=8 WORLD_SIZE=8", &BAD_VALUE, "RANK=8"),
        ("RANK=x WORLD_SIZE=8", &BAD_VALUE, "RANK=x"),
        ("RANK=-1 WORLD_SIZE=8", &BAD_VALUE, "RANK=-1"),
        ("LOCAL_RANK=0,1,2,3 WORLD_SIZE=4", &BAD_VALUE, "LOCAL_RANK=0,1,2,3"),
        ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=70000", &BAD_VALUE, "MASTER_PORT=70000"),
        ("SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST=n[0-", &BAD_VALUE, "SLURM_STEP_NODELIST=n[0-"),
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
fn flags_come_before_every_variable() {
    let flags = Flags { rank: Some(3), size: Some(4), host: Some("h".into()), port: Some(9000) };
    let wanted = Identity {
        rank: 3,
        size: 4,
        local_rank: None,
        local_size: None,
        rendezvous: Some(Address { host: "h".into(), port: 9000 }),
        launcher: Launcher::Flags,
    };
    assert_eq!(run(&flags, ""), Ok(Role::Rank(wanted)));
}

#[test]
fn the_scheduler_of_msrun_is_no_rank() {
    let role = run(&Flags::default(), "MS_ROLE=MS_SCHED RANK_ID=0 MS_WORKER_NUM=8");
    assert_eq!(role, Ok(Role::Scheduler));
}
