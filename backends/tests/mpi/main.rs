//! The MPI engine under every MPI that is here: this program starts itself again under `mpirun`, as ranks that compare what
//! they get with the engine of local threads, bit by bit, and errors word by word.
//!
//! Without an `mpirun` nothing is run and this is said; `make test-mpi` installs several.

mod installed;
mod rank;
mod script;

use installed::{Ended, Mpi, Running};
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

/// Runs `scenario` on `ranks` ranks.
fn run(mpi: &Mpi, ranks: usize, scenario: &str, options: &[&str]) -> Result<Ended, Failed> {
    let mut command = mpi.mpirun(ranks, options);
    // As in training, ranks do not end when they are told to stop; launchers tell them before they kill them.
    command.args(["sh", "-c", "trap '' TERM; exec \"$@\"", "rank"]).arg(std::env::current_exe()?);
    command.args(["rank", scenario]).args(&mpi.library);
    Running::start(&mut command)?.end()
}

/// Runs `scenario` and expects each rank that reports to say `text`, and at least one to.
fn expect(mpi: &Mpi, ranks: usize, scenario: &str, text: &str) -> Result<(), Failed> {
    let ended = run(mpi, ranks, scenario, &[])?;
    let reports: Vec<&str> = ended.output.lines().filter(|l| l.starts_with("rank ")).collect();
    let ok = !reports.is_empty() && reports.iter().all(|l| l.contains(text));
    ended.is(ok, &format!("{scenario} on {ranks} ranks: {text}"))
}

/// A library in the system's folders that is not of this launcher.
fn foreign_library(mpi: &Mpi) -> Option<&'static str> {
    let other = if mpi.launcher.starts_with("Open MPI") { "libmpich.so.12" } else { "libmpi.so.40" };
    // SAFETY: an MPI library does nothing before it is initialised.
    unsafe { libloading::Library::new(other) }.is_ok().then_some(other)
}

type Run = fn(&Mpi) -> Result<(), Failed>;

const TRIALS: &[(&str, Run)] = &[
    ("every_call_gives_the_bits_of_local_threads", same_bits),
    ("large_data_is_cut", |mpi| expect(mpi, 2, "large", "the same")),
    ("threads_of_a_rank_may_use_groups_of_their_own", |mpi| expect(mpi, 2, "threads", "the same")),
    ("errors_are_those_of_local_threads", same_errors),
    ("a_rank_that_panics_is_named", |mpi| expect(mpi, 3, "panics", "rank 1 has panicked, and is missing from barrier")),
    ("a_rank_that_was_killed_is_named", killed),
    ("a_rank_that_is_killed_while_data_moves_ends_the_others", killed_in_the_middle),
    ("a_rank_that_fails_ends_the_others_with_its_own_error", gives_up),
    ("what_all_ranks_fail_with_is_told_once", all_fail),
    ("a_rank_that_stops_is_told_with_what_the_others_do", stopped),
    ("waiting_leaves_the_cores_to_others", |mpi| expect(mpi, 4, "idle", "idle")),
    ("a_library_of_another_mpi_is_refused", foreign),
];

fn same_bits(mpi: &Mpi) -> Result<(), Failed> {
    (1..=4).try_for_each(|ranks| expect(mpi, ranks, "script", "the same"))
}

fn same_errors(mpi: &Mpi) -> Result<(), Failed> {
    script::FAILURES.iter().try_for_each(|(name, ..)| expect(mpi, 3, name, "the same"))
}

/// Lines of ranks that tell the user something, without what they are told by.
fn told(output: &str) -> Vec<&str> {
    output.lines().filter_map(|l| l.strip_prefix("told by ")?.split_once(": ").map(|(_, l)| l)).collect()
}

/// The launchers end all ranks when one is killed, but leave the others the time to say for whom they waited.
fn killed(mpi: &Mpi) -> Result<(), Failed> {
    for options in [Some(&[][..]), mpi.survive].into_iter().flatten() {
        let ended = run(mpi, 3, "killed", options)?;
        if mpi.hasty && options.is_empty() {
            ended.is(!ended.success && ended.output.contains("rank 1"), "the launcher names the rank")?;
            continue;
        }
        let text =
            "B0301: rank 1 has died, and is missing from barrier, operation 2 of ranks [0, 1, 2]; where each rank is:";
        // With its fault tolerance on, Open MPI 5 delivers nothing from any source any more: each rank tells for itself.
        ended.is(mpi.hasty || told(&ended.output) == [text], text)?;
        let lines = "\n  ranks 0, 2: waiting for rank 1 at the start of the run\n  rank 1: has died; last met at the start of \
                     the run\n";
        ended.is(mpi.hasty || ended.output.contains(lines), lines)?;
        for rank in [0, 2].into_iter().filter(|_| mpi.survive.is_some()) {
            let text =
                format!("rank {rank}: B0301: rank 1 has died, and is missing from barrier, operation 2 of ranks");
            ended.is(ended.output.contains(&text), &text)?;
        }
        let failed = !ended.success || !options.is_empty();
        ended.is(failed && ended.took < Duration::from_secs(10), "ended within 10 s")?;
    }
    Ok(())
}

fn killed_in_the_middle(mpi: &Mpi) -> Result<(), Failed> {
    let ended = run(mpi, 2, "killed-moving", &[])?;
    let named =
        ended.output.contains("B0301: rank 1 has died, and is missing from all_reduce(sum, f32, 67108864 bytes)");
    let named = named || mpi.hasty && ended.output.contains("rank 1");
    ended.is(named && ended.took < Duration::from_secs(10), "rank 1 is named within 10 s")
}

fn gives_up(mpi: &Mpi) -> Result<(), Failed> {
    let ended = run(mpi, 3, "gives-up", &[])?;
    ended.is(told(&ended.output) == ["B0305: rank 1 cannot go on"], "told once, by rank 1")?;
    ended.is(!ended.success && ended.took < Duration::from_secs(10), "ended within 10 s")
}

fn all_fail(mpi: &Mpi) -> Result<(), Failed> {
    let ended = run(mpi, 4, "all-fail", &[])?;
    let once = matches!(told(&ended.output)[..], [one] if one.starts_with("B0305: rank "));
    ended.is(once && !ended.success && ended.took < Duration::from_secs(10), "told once, within 10 s")
}

fn stopped(mpi: &Mpi) -> Result<(), Failed> {
    let ended = run(mpi, 3, "stopped", &[])?;
    let warnings = ended.output.matches("B0309: ").count();
    let header = "B0309: rank 0 has waited 1 s for rank 2 in barrier, operation 1 of ranks [0, 2]; where each rank is:";
    let lines = "\n  rank 0: waiting for rank 2 at step 7, the start of the run\n  rank 1: nothing heard since the start of \
                 the run\n  rank 2: waiting for rank 1 at step 7, the start of the run\n";
    ended.is(warnings > 0 && ended.output.contains(header), header)?;
    ended.is(ended.output.contains(lines), lines)?;
    ended.is(ended.success && ended.output.matches(": done").count() == 3, "all went on")
}

fn foreign(mpi: &Mpi) -> Result<(), Failed> {
    let Some(library) = foreign_library(mpi) else { return Ok(()) };
    let mpi = Mpi { library: Some(library.into()), ..mpi.clone() };
    let ended = run(&mpi, 2, "start", &[])?;
    let text = format!("B0307: {} has started 2 ranks, and {library} sees 1", mpi.launcher);
    ended.is(ended.output.contains(&text), &text)
}
