//! The MPI engine under every MPI that is here: this program starts itself again under `mpirun`, as ranks that compare what
//! they get with the engine of local threads, bit by bit, and errors word by word.
//!
//! Without an `mpirun` nothing is run and this is said; `make test-mpi` installs several.

mod installed;
mod rank;
mod script;

use installed::Mpi;
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, scenario, rest @ ..] = &arguments[..]
        && first == "rank"
    {
        return rank::run(scenario, rest);
    }
    let mut trials = vec![];
    let all = installed::find();
    for mpi in &all {
        for (name, run) in TRIALS {
            let mpi = mpi.clone();
            trials.push(Trial::test(format!("{}::{name}", mpi.name), move || run(&mpi)));
        }
    }
    if all.is_empty() {
        trials.push(
            Trial::test("no mpirun is installed: `make test-mpi` brings some", || Ok(())).with_ignored_flag(true),
        );
    }
    // Each trial has as many processes as a machine has cores, or more.
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    libtest_mimic::run(&arguments, trials).exit_code()
}

type Run = fn(&Mpi) -> Result<(), Failed>;

const TRIALS: &[(&str, Run)] = &[
    ("every_call_gives_the_bits_of_local_threads", same_bits),
    ("large_data_is_cut", |mpi| mpi.expect(2, "large", "the same")),
    ("threads_of_a_rank_may_use_groups_of_their_own", |mpi| mpi.expect(2, "threads", "the same")),
    ("errors_are_those_of_local_threads", same_errors),
    ("a_rank_that_panics_is_named", |mpi| mpi.expect(3, "panics", "rank 1 has panicked, and is missing from barrier")),
    ("a_rank_that_was_killed_is_named", killed),
    ("a_rank_that_is_killed_while_data_moves_ends_the_others", killed_in_the_middle),
    ("a_rank_that_gives_up_ends_the_others", gives_up),
    ("waiting_leaves_the_cores_to_others", |mpi| mpi.expect(4, "idle", "idle")),
    ("a_library_of_another_mpi_is_refused", foreign),
];

fn same_bits(mpi: &Mpi) -> Result<(), Failed> {
    (1..=4).try_for_each(|ranks| mpi.expect(ranks, "script", "the same"))
}

fn same_errors(mpi: &Mpi) -> Result<(), Failed> {
    script::FAILURES.iter().try_for_each(|(name, ..)| mpi.expect(3, name, "the same"))
}

/// The launchers end all ranks when one is killed, and name it. Where they can be told not to, as Slurm does not by itself, the
/// others find out.
fn killed(mpi: &Mpi) -> Result<(), Failed> {
    let ended = mpi.run(3, "killed", &[])?;
    ended.is(!ended.success && ended.took < Duration::from_secs(10), "ended within 10 s")?;
    ended.is(["rank 1 ", "PID "].iter().any(|name| ended.output.contains(name)), "the launcher names the rank")?;
    let Some(options) = mpi.survive else { return Ok(()) };
    let ended = mpi.run(3, "killed", options)?;
    for rank in [0, 2] {
        let text = format!("rank {rank}: B0301: rank 1 has died, and is missing from barrier, operation 2 of ranks");
        ended.is(ended.output.contains(&text), &text)?;
    }
    ended.is(ended.took < Duration::from_secs(10), "ended within 10 s")
}

fn killed_in_the_middle(mpi: &Mpi) -> Result<(), Failed> {
    let ended = mpi.run(2, "killed-moving", mpi.survive.unwrap_or_default())?;
    let named = mpi.survive.is_none() || ended.output.contains("B0301: rank 1 has died");
    ended.is(named && ended.took < Duration::from_secs(10), "rank 1 is named within 10 s")
}

fn gives_up(mpi: &Mpi) -> Result<(), Failed> {
    let ended = mpi.run(3, "gives-up", &[])?;
    ended.is(!ended.success && ended.took < Duration::from_secs(10), "ended within 10 s")
}

fn foreign(mpi: &Mpi) -> Result<(), Failed> {
    let Some(library) = installed::foreign(mpi) else { return Ok(()) };
    let ended = mpi.with(library).run(2, "start", &[])?;
    let text = format!("B0307: {} has started 2 ranks, and {library} sees 1", mpi.launcher);
    ended.is(ended.output.contains(&text), &text)
}
