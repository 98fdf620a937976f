//! Codes of errors in telling which rank a process is.

use athanor_ir::Code;

/// Two sources disagree.
pub const CONTRADICTION: Code = Code {
    id: "B0401",
    title: "two launchers say different things about this rank",
    explain: "Rank and number of ranks come from the variables that torchrun, msrun, Open MPI, hydra, Slurm and Kubernetes set, and \
              `--devices` says a number too. Where two of them speak about the same thing they must agree; one process per \
              node that starts the ranks of its node (mpirun under srun) counts as agreement. Variables left over from an \
              outer job are the usual cause: unset them, or start the ranks by one launcher.",
};
/// Something is needed and nobody says it.
pub const INCOMPLETE: Code = Code {
    id: "B0402",
    title: "the launcher does not say enough",
    explain: "A process that is one of several ranks must know its rank and their number. One of the two is given and the other \
              is not; the message names the variable that was found.",
};
/// A value is no number, address or host list, or lies outside its range.
pub const BAD_VALUE: Code = Code {
    id: "B0403",
    title: "a launcher's variable has no usable value",
    explain: "Ranks count from 0 and are below the number of ranks, and each process is one rank. The message names the variable \
              and its value.",
};
/// One of several ranks without an MPI.
pub const NEEDS_MPI: Code = Code {
    id: "B0404",
    title: "this launcher's ranks have no way to meet",
    explain: "Ranks in processes of their own meet through MPI, so they are started by what starts MPI programs: mpirun of Open MPI \
              or MPICH, or srun with --mpi=pmix or --mpi=pmi2. Processes that torchrun, msrun, a plain srun or a Kubernetes Job \
              have started know their rank and cannot reach the others; each training alone would be another run than the one \
              asked for. On one machine `--devices N` needs no launcher: ranks are then threads of one process.",
};

/// Codes of this module.
pub const CODES: &[&Code] = &[&CONTRADICTION, &INCOMPLETE, &BAD_VALUE, &NEEDS_MPI];
