//! Codes of errors in telling which rank a process is.

use athanor_ir::Code;

/// Two sources disagree.
pub const CONTRADICTION: Code = Code {
    id: "R0101",
    title: "two launchers say different things about this rank",
    explain: "Rank, number of ranks and rendezvous address come from flags and from the variables that torchrun, msrun, Open MPI, \
              hydra, Slurm and Kubernetes set. Where two of them speak about the same thing they must agree; one process per \
              node that starts the ranks of its node (torchrun under srun) counts as agreement. Variables left over from an \
              outer job are the usual cause: unset them, or start the ranks by one launcher.",
};
/// Something is needed and nobody says it.
pub const INCOMPLETE: Code = Code {
    id: "R0102",
    title: "the launcher does not say enough",
    explain: "A process that is one of several ranks must know its rank and their number. One of the two is given and the other \
              is not; the message names the variable that was found.",
};
/// A value is no number, address or host list, or lies outside its range.
pub const BAD_VALUE: Code = Code {
    id: "R0103",
    title: "a launcher's variable has no usable value",
    explain: "Ranks count from 0 and are below the number of ranks, ports are 1 to 65535, and a Slurm host list has the form \
              `n[0-3,7],login1`. The message names the variable and its value.",
};

/// Codes of this module.
pub const CODES: &[&Code] = &[&CONTRADICTION, &INCOMPLETE, &BAD_VALUE];
