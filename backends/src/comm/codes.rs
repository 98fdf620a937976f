//! Codes of errors between ranks.

use athanor_ir::Code;

/// A rank has ended while others wait for it.
pub const RANK_LEFT: Code = Code {
    id: "B0301",
    title: "a rank has left the run",
    explain: "The other ranks were waiting for it in a collective operation and cannot go on without it. The message names the \
              rank; why it ended is in its own error.",
};
/// A rank did not come in time.
pub const MISSING: Code = Code {
    id: "B0302",
    title: "a rank is missing from a collective operation",
    explain: "All members of a group take part in its collective operations in the same order. Within the time limit some did \
              not come: they hang, are much slower than the rest, or wait for somebody else. The message names them, the \
              number of the operation in its group and the place in the program.",
};
/// Ranks do different things.
pub const MISMATCH: Code = Code {
    id: "B0303",
    title: "ranks call different collective operations",
    explain: "Members of a group met in operations of different kinds, types or sizes. Ranks that run different plans or \
              programs are the usual cause: all must be started from one configuration by one version.",
};
/// A rank's thread has panicked.
pub const RANK_PANICKED: Code = Code {
    id: "B0304",
    title: "a rank has failed inside",
    explain: "The thread of a rank ended by a panic, which is a fault of Athanor worth reporting. The message names the rank.",
};
/// A call that no plan makes.
pub const BAD_CALL: Code = Code {
    id: "B0305",
    title: "a collective operation is called wrongly",
    explain: "A group is a list of different ranks with the caller among them, and the sizes of data must fit the operation. \
              A plan that the compiler wrote keeps to this: this one was changed or damaged.",
};

/// No MPI library can be used.
pub const NO_MPI: Code = Code {
    id: "B0306",
    title: "no MPI library can be opened",
    explain: "Ranks in processes of their own talk through MPI, whose library is opened at run time: Open MPI 4 and 5, MPICH and \
              what is compatible with it, or any library with the standard ABI of MPI 5. The message names what was tried and \
              why each was refused. Debian's packages are openmpi-bin and mpich; LD_LIBRARY_PATH names other places.",
};
/// The library and the launcher are of different kinds.
pub const FOREIGN_MPI: Code = Code {
    id: "B0307",
    title: "the MPI library does not belong to the launcher",
    explain: "mpirun or srun has started a number of processes, and the MPI library that was opened sees another number. The \
              library of one MPI knows nothing of the launcher of another, and each process then believes to be alone.",
};
/// A call of the library has failed.
pub const MPI_FAILED: Code = Code {
    id: "B0308",
    title: "the MPI library reports an error",
    explain: "The text is the library's own. A connection between machines that broke is a usual cause; the run ends, and can be \
              resumed from its last checkpoint.",
};
/// A rank lets the others wait for long.
pub const STALLED: Code = Code {
    id: "B0309",
    title: "ranks wait for another one",
    explain: "A rank has not come to an operation for which others have waited for the time that `--stall-warning` gives, or while \
              they were told to stop. They go on waiting: it may be slow, stopped, or saving. The message lists what each rank \
              does; one that says nothing is where to look. After half an hour without any progress the run ends with B0302.",
};

/// Codes of this module.
pub const CODES: &[&Code] =
    &[&RANK_LEFT, &MISSING, &MISMATCH, &RANK_PANICKED, &BAD_CALL, &NO_MPI, &FOREIGN_MPI, &MPI_FAILED, &STALLED];
