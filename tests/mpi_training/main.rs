//! Training by the processes of `mpirun`, under every MPI that is here: the numbers and files of `--devices N`, bit by bit; what is
//! said when ranks are killed, stop, fail, or were started wrongly.
//!
//! Without an `mpirun` only what needs none is tried, and this is said; `make test-mpi` installs several.

#[path = "../../backends/tests/mpi/installed.rs"]
#[allow(dead_code, reason = "the engine's own tests use the rest")]
mod installed;
mod work;

use installed::{Ended, Mpi, Running};
use libtest_mimic::{Arguments, Failed, Trial};
use std::fs;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};
use work::{ATHANOR, CONFIG, Work, mesh, outcome, processes, signal, steps, train, until, words};

fn main() -> ExitCode {
    let work = match Work::new() {
        Ok(work) => Arc::new(work),
        Err(e) => {
            eprintln!("{e:?}");
            return ExitCode::FAILURE;
        }
    };
    let mut trials = vec![Trial::test("a_rank_without_mpi_is_refused", without_mpi)];
    let all = installed::find();
    // The variants of one launcher differ in the library only, which the trials of the engine look at.
    for mpi in all.iter().filter(|m| m.library.is_none()) {
        for (name, run) in TRIALS {
            let (mpi, work) = (mpi.clone(), Arc::clone(&work));
            trials.push(Trial::test(format!("{}::{name}", mpi.name), move || run(&mpi, &work)));
        }
    }
    if all.is_empty() {
        let name = "no mpirun is installed: `make test-mpi` brings some";
        trials.push(Trial::test(name, || Ok(())).with_ignored_flag(true));
    }
    // Each trial has as many processes as a machine has cores, or more.
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    libtest_mimic::run(&arguments, trials).exit_code()
}

type Run = fn(&Mpi, &Work) -> Result<(), Failed>;

const TRIALS: &[(&str, Run)] = &[
    ("processes_give_the_numbers_and_files_of_threads", same),
    ("a_killed_rank_is_named_with_what_the_others_waited_for", killed),
    ("a_stopped_rank_is_named_and_a_run_that_is_told_to_stop_saves", stopped),
    ("an_error_of_all_ranks_is_told_once", not_finite),
    ("an_error_of_one_rank_ends_all_and_is_told_once", spoiled),
    ("another_number_of_processes_is_refused", other_number),
    ("ranks_that_were_started_differently_are_refused", different),
];

const LIMIT: Duration = Duration::from_secs(10);

fn same(mpi: &Mpi, work: &Work) -> Result<(), Failed> {
    let run = |n: usize, what: &[String]| -> Result<(), Failed> {
        let out = work.empty("out")?;
        let mut command = work.mpirun(mpi, n, "same")?;
        let ended = Running::start(command.arg(ATHANOR).arg("train").args(what).args(train(&out)))?.end()?;
        let once = ended.output.matches("finished after").count() == 1 && work.left()?.is_empty();
        ended.is(ended.success && once, "one rank speaks, and nothing temporary is left")?;
        ended.is(outcome(&out)? == *work.local(n)?, &format!("{n} processes do what threads do: {what:?}"))
    };
    for n in [2, 4, 8] {
        run(n, &[work.short(n)?.to_string_lossy().into_owned()])?;
    }
    run(8, &[vec![CONFIG.to_owned(), "--threads".into(), "1".into()], mesh(8)].concat())
}

/// Starts a long run of `n` ranks and lets it take some steps.
fn begin(mpi: &Mpi, work: &Work, n: usize, mark: &str, arguments: &[&str]) -> Result<Running, Failed> {
    let (out, plan) = (work.empty(mark)?, work.long(n)?);
    let mut command = work.mpirun(mpi, n, mark)?;
    let running =
        Running::start(command.arg(ATHANOR).arg("train").arg(plan).arg("--quiet").args(train(&out)).args(arguments))?;
    until(&running, "took three steps", || steps(&out) > 3)?;
    Ok(running)
}

fn killed(mpi: &Mpi, work: &Work) -> Result<(), Failed> {
    for (n, victim) in [(8, 5), (4, 2), (2, 0)] {
        let mark = format!("killed-{}-{n}", std::process::id());
        let running = begin(mpi, work, n, &mark, &[])?;
        let start = Instant::now();
        signal(&mark, victim, "-KILL")?;
        let ended = running.end()?;
        let took = start.elapsed();
        let said = words(&ended.output);
        ended.is(!ended.success && took < LIMIT, &format!("ended {took:?} after the kill"))?;
        let wanted = format!("B0301 rank {victim} has died, and is missing from ");
        let told = said.matches("B0301").count();
        if mpi.hasty && told == 0 {
            ended.is(said.contains(&format!("process rank {victim} ")), "the launcher names the rank")?;
            continue;
        }
        ended.is(said.contains(&wanted) && told == 1, &wanted)?;
        // An operation of the model names its block and line; what ranks do between steps is named, too.
        let place = [" at step ", "; where each rank is: ", &format!("rank {victim}: has died; last met at ")];
        ended.is(place.iter().all(|p| said.contains(p)), "says where all are")?;
        let start = Instant::now();
        while !processes(&mark).is_empty() && start.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(50));
        }
        ended.is(processes(&mark).is_empty() && work.left()?.is_empty(), "no process and no file is left")?;
    }
    Ok(())
}

fn stopped(mpi: &Mpi, work: &Work) -> Result<(), Failed> {
    let mark = format!("stopped-{}", std::process::id());
    let running = begin(mpi, work, 2, &mark, &["--stall-warning", "1"])?;
    signal(&mark, 1, "-STOP")?;
    let told = until(&running, "named rank 1", || {
        let said = running.output().map(|o| words(&o)).unwrap_or_default();
        let [head, rest] =
            ["B0309 rank 0 has waited 1 s for rank 1 in all_reduce(", "rank 1: nothing heard since step "];
        said.contains(head) && said.contains(rest) && said.contains("rank 0: waiting for rank 1 at step ")
    });
    signal(&mark, 1, "-CONT")?;
    told?;
    let out = work.path(&mark);
    let before = steps(&out);
    until(&running, "went on", || steps(&out) > before + 2)?;
    signal(&mark, 1, "-TERM")?;
    let ended = running.end()?;
    let saved = fs::read_dir(out.join("checkpoint")).is_ok_and(|mut d| d.next().is_some());
    ended.is(saved && !ended.success, "all ranks stop after one step, and save")
}

/// Runs `command` to its end and expects an error `code` with `text`, told once, and nothing else about ranks.
fn refused(command: &mut Command, code: &str, text: &str) -> Result<Ended, Failed> {
    let ended = Running::start(command)?.end()?;
    let said = words(&ended.output);
    let digits = |w: &str| w.len() == 4 && w.bytes().all(|b| b.is_ascii_digit());
    let is_code = |w: &&str| w.strip_prefix(|c: char| c.is_ascii_uppercase()).is_some_and(digits);
    let codes: Vec<&str> = said.split(' ').filter(is_code).collect();
    ended.is(!ended.success && said.contains(text) && codes == [code], &format!("{code}, once: {text}"))?;
    Ok(ended)
}

fn not_finite(mpi: &Mpi, work: &Work) -> Result<(), Failed> {
    let out = work.empty("out")?;
    let rate = ["--set", "lr_schedule.learning_rate=1.e+38", "--threads", "1"];
    let mut command = work.mpirun(mpi, 2, "not-finite")?;
    command.arg(ATHANOR).args(["train", CONFIG]).args(mesh(2)).args(rate).args(train(&out));
    refused(&mut command, "R0007", "is NaN")?;
    let left = work.left()?;
    if left.is_empty() { Ok(()) } else { Err(format!("left: {left:?}").into()) }
}

/// Each rank has files of its own; those of rank 1 hold a token that the model does not have.
fn spoiled(mpi: &Mpi, work: &Work) -> Result<(), Failed> {
    let from = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/curves/w1-tiny");
    for rank in 0..2 {
        let to = work.empty(&format!("rank-{rank}/tests/golden/curves/w1-tiny"))?;
        for file in ["tokens.bin", "init.safetensors"] {
            fs::copy(from.join(file), to.join(file))?;
        }
        if rank == 1 {
            let mut tokens = fs::read(to.join("tokens.bin"))?;
            tokens[33 * 4 * 30..][..4].copy_from_slice(&9999i32.to_ne_bytes());
            fs::write(to.join("tokens.bin"), tokens)?;
        }
    }
    let (plan, out) = (work.plan("small", 2, &["--set", "callbacks=[]"])?, work.empty("out")?);
    let mut command = work.mpirun(mpi, 2, "spoiled")?;
    let inside = format!("cd {}-${{OMPI_COMM_WORLD_RANK:-$PMI_RANK}} && exec \"$@\"", work.path("rank").display());
    command.args(["sh", "-c", &inside, "rank", ATHANOR, "train"]).arg(plan).args(train(&out));
    refused(&mut command, "D0007", "9999").map(|_| ())
}

fn other_number(mpi: &Mpi, work: &Work) -> Result<(), Failed> {
    let mut command = work.mpirun(mpi, 3, "number")?;
    command.arg(ATHANOR).arg("train").arg(work.short(2)?);
    refused(&mut command, "A0007", "the plan is for 2 devices, not for 3")?;
    let mut command = work.mpirun(mpi, 3, "number")?;
    command.arg(ATHANOR).args(["train", CONFIG]).args(mesh(2));
    refused(&mut command, "C0016", "the configuration is for 2 device(s), and there are 3")?;
    let mut command = work.mpirun(mpi, 2, "number")?;
    command.arg(ATHANOR).args(["train", CONFIG, "--devices", "4"]).args(mesh(4));
    let ended = Running::start(&mut command)?.end()?;
    let text = "`--devices=4` contradicts `";
    ended.is(!ended.success && ended.output.contains("B0401") && ended.output.contains(text), text)
}

fn different(mpi: &Mpi, work: &Work) -> Result<(), Failed> {
    let plan = work.short(2)?;
    let one = |steps: &str| ["-n", "1", ATHANOR, "train", &plan.to_string_lossy(), "--steps", steps].map(str::to_owned);
    let mut command = work.mpirun(mpi, 1, "different")?;
    let [_, _, first @ ..] = one("3");
    command.args(first).arg(":").args(one("4"));
    refused(&mut command, "R0010", "rank 1 was started with other arguments than rank 0")?;
    // One name, two plans.
    let other = work.plan("other", 2, &["--set", "optimizer.weight_decay=0.2"])?;
    for (rank, plan) in [&plan, &other].into_iter().enumerate() {
        let link = work.empty(&format!("place-{rank}"))?.join("plan");
        std::os::unix::fs::symlink(plan, link)?;
    }
    let inside = format!("cd {}-${{OMPI_COMM_WORLD_RANK:-$PMI_RANK}} && exec \"$@\"", work.path("place").display());
    let mut command = work.mpirun(mpi, 2, "different")?;
    command.args(["sh", "-c", &inside, "rank", ATHANOR, "train", "plan"]);
    refused(&mut command, "R0010", "rank 1 has another plan than rank 0").map(|_| ())
}

fn without_mpi() -> Result<(), Failed> {
    let launchers: [(&str, &[(&str, &str)]); 4] = [
        ("torchrun has started this process (rank 1 of 4)", &[("RANK", "1"), ("WORLD_SIZE", "4")]),
        ("msrun has started this process (rank 3 of 8)", &[("RANK_ID", "3"), ("RANK_SIZE", "8")]),
        ("srun has started this process (rank 0 of 2)", &[("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "2")]),
        (
            "a Kubernetes Job has started this process (rank 1 of 3)",
            &[("JOB_COMPLETION_INDEX", "1"), ("WORLD_SIZE", "3")],
        ),
    ];
    for (text, variables) in launchers {
        let mut command = Command::new(ATHANOR);
        command.args(["train", CONFIG]).envs(variables.iter().copied());
        refused(&mut command, "B0404", text)?;
    }
    let mut command = Command::new(ATHANOR);
    command.args(["train", CONFIG, "--devices", "2"]).envs([("RANK", "0"), ("WORLD_SIZE", "4")]);
    refused(&mut command, "B0401", "`--devices=2` contradicts `WORLD_SIZE=4`")?;
    let mut command = Command::new(ATHANOR);
    command.args(["train", CONFIG]).envs([("RANK", "4"), ("WORLD_SIZE", "4")]);
    refused(&mut command, "B0403", "`RANK=4` is not a rank among `WORLD_SIZE=4`").map(|_| ())
}
