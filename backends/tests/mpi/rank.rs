//! One rank under `mpirun`.

use super::script::{self, FAILURES};
use athanor_backends::comm::mpi::{Mpi, Options};
use athanor_backends::comm::{BAD_CALL, Communicator, Engine, local};
use athanor_backends::launch::identify;
use athanor_ir::op::ReduceKind::Sum;
use athanor_ir::{DType, Diagnostic, Result};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// Runs `scenario` and prints what this rank has to say: lines that begin with `rank`.
pub fn run(scenario: &str, library: &[String]) -> ExitCode {
    // Dropped after the engine.
    let mut linger = Linger(true);
    let failure = FAILURES.iter().find(|f| f.0 == scenario);
    let timeout = failure.map_or(Duration::from_secs(40), |f| f.1);
    let cut = if scenario == "script" { 1000 } else { Options::default().cut };
    let patience = if scenario == "stopped" { Duration::from_secs(1) } else { timeout };
    let options = Options { library: library.first().cloned(), timeout, patience, cut, ..Options::default() };
    let identity = identify(None, &|name| std::env::var(name).ok()).unwrap().expect("started by mpirun");
    let mpi = match Mpi::start(&identity, options) {
        Ok(mpi) => mpi,
        Err(e) => {
            println!("rank ?: {}: {e}", e.code.id);
            return ExitCode::FAILURE;
        }
    };
    assert_eq!((identity.rank, identity.size), (mpi.rank(), mpi.size()));
    let rank = mpi.rank();
    let result = match (failure, scenario) {
        (Some((_, timeout, work)), _) => {
            let own = told(work(&mpi));
            // Who only failed because another did is not the one that is told.
            let all = local::world(mpi.size(), *timeout);
            let wanted: Vec<String> = std::thread::scope(|s| {
                let ranks: Vec<_> = all.into_iter().map(|m| s.spawn(move || told(work(&m)))).collect();
                ranks.into_iter().map(|r| r.join().unwrap()).collect()
            });
            Ok(if own == wanted[rank] { format!("the same: {own}") } else { format!("{own}\nnot\n{}", wanted[rank]) })
        }
        (_, "script") => same(&mpi, script::all),
        (_, "large") => same(&mpi, script::large),
        (_, "threads") => threads(&mpi),
        (_, "panics") => panics(&mpi),
        (_, "killed") => killed(&mpi),
        (_, "killed-moving") => killed_moving(&mpi),
        (_, "gives-up") => gives_up(&mpi),
        (_, "all-fail") => everyone(&mpi).and_then(|mut c| c.barrier()).and_then(|()| spoiled(rank)),
        (_, "stopped") => stopped(&mpi),
        (_, "idle") => idle(&mpi),
        (_, "start") => Ok(String::new()),
        _ => panic!("no scenario {scenario}"),
    };
    let failed = result.is_err() || failure.is_some();
    if let Err(e) = result.as_ref().map_err(|e| mpi.conclude(e)) {
        match e {
            // In one piece: hydra passes on the first one after a death.
            Some(told) => {
                let text = format!("told by {rank}: {}: {told}\n", told.code.id);
                eprint!("{text}");
            }
            // And then ends all.
            None => std::thread::sleep(Duration::from_millis(300)),
        }
    }
    println!("rank {rank}: {}", result.unwrap_or_else(|e| format!("{}: {e}", e.code.id)));
    linger.0 = failed;
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Its drop gives the other ranks time to have their say: mpirun may end all when one ends with an error.
struct Linger(bool);

impl Drop for Linger {
    fn drop(&mut self) {
        if self.0 {
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

fn told(result: Result<()>) -> String {
    result.map_or_else(|e| format!("{}: {e}", e.code.id), |()| "done".into())
}

fn everyone(mpi: &Mpi) -> Result<Box<dyn Communicator>> {
    mpi.group(&(0..mpi.size()).collect::<Vec<_>>())
}

fn same(mpi: &Mpi, work: fn(&dyn Engine) -> Result<Vec<Vec<u8>>>) -> Result<String> {
    let own = work(mpi)?;
    let wanted = local::run(mpi.size(), local::TIMEOUT, |m| work(&m))?;
    let wanted = &wanted[mpi.rank()];
    let wrong = own.iter().zip(wanted).position(|(a, b)| a != b);
    Ok(match wrong {
        None if own.len() == wanted.len() => format!("the same, {} results with {}", own.len(), mpi.library()),
        _ => format!("result {wrong:?} of {} is another", own.len()),
    })
}

/// Two threads, each with a group of its own, and no order between them.
fn threads(mpi: &Mpi) -> Result<String> {
    let (mut a, mut b) = (everyone(mpi)?, everyone(mpi)?);
    let work = |comm: &mut dyn Communicator, start: f32| -> Result<f32> {
        let mut x = start.to_ne_bytes();
        for _ in 0..300 {
            comm.all_reduce(Sum, DType::F32, &mut x)?;
            x = (f32::from_ne_bytes(x) / 2.0).to_ne_bytes();
        }
        Ok(f32::from_ne_bytes(x))
    };
    let (a, b) = std::thread::scope(|s| {
        let other = s.spawn(|| work(&mut *a, 3.0));
        (work(&mut *b, 5.0), other.join().unwrap())
    });
    Ok(if (a?, b?) == (5.0, 3.0) { "the same".into() } else { "another".into() })
}

fn panics(mpi: &Mpi) -> Result<String> {
    let mut comm = everyone(mpi)?;
    comm.barrier()?;
    assert!(mpi.rank() != 1, "out of luck");
    comm.barrier().map(|()| "done".into())
}

fn kill() -> ! {
    let id = std::process::id().to_string();
    Command::new("kill").args(["-9", &id]).status().unwrap();
    std::thread::sleep(Duration::from_mins(1));
    unreachable!("killed before")
}

fn killed(mpi: &Mpi) -> Result<String> {
    let mut comm = everyone(mpi)?;
    comm.barrier()?;
    if mpi.rank() == 1 {
        kill();
    }
    comm.barrier().map(|()| "done".into())
}

fn killed_moving(mpi: &Mpi) -> Result<String> {
    let mut comm = everyone(mpi)?;
    comm.barrier()?;
    if mpi.rank() == 1 {
        std::thread::spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            kill()
        });
    }
    let mut x = vec![0; 64 << 20];
    loop {
        comm.all_reduce(Sum, DType::F32, &mut x)?;
    }
}

fn spoiled(rank: usize) -> Result<String> {
    Diagnostic::error(&BAD_CALL, format!("rank {rank} cannot go on")).err()
}

/// Rank 1 fails by itself while the others wait for it.
fn gives_up(mpi: &Mpi) -> Result<String> {
    let mut comm = everyone(mpi)?;
    comm.barrier()?;
    if mpi.rank() == 1 {
        std::thread::sleep(Duration::from_millis(300));
        return spoiled(1);
    }
    comm.barrier().map(|()| "done".into())
}

/// Rank 1 stops for some seconds; rank 2 waits for it and rank 0 for rank 2.
fn stopped(mpi: &Mpi) -> Result<String> {
    let (mut all, rank) = (everyone(mpi)?, mpi.rank());
    let [mut first, mut second] = [[1, 2], [0, 2]].map(|g| g.contains(&rank).then(|| mpi.group(&g)));
    all.barrier()?;
    all.ledger().begin(7);
    if rank == 1 {
        let id = std::process::id();
        Command::new("sh").args(["-c", &format!("(sleep 4; kill -CONT {id}) & kill -STOP {id}")]).status().unwrap();
        // The signal may take a moment.
        std::thread::sleep(Duration::from_millis(300));
    }
    for group in [&mut first, &mut second].into_iter().filter_map(Option::take) {
        group?.barrier()?;
    }
    Ok("done".into())
}

/// A rank that waits for two seconds computes for a small part of them.
fn idle(mpi: &Mpi) -> Result<String> {
    let mut comm = everyone(mpi)?;
    comm.barrier()?;
    let (start, before) = (Instant::now(), computed());
    if mpi.rank() == 0 {
        std::thread::sleep(Duration::from_secs(2));
    }
    comm.barrier()?;
    let (all, own) = (start.elapsed(), computed().saturating_sub(before));
    Ok(if own < all / 3 { "idle".into() } else { format!("computed {own:?} of {all:?}") })
}

/// Time for which this process had a core.
fn computed() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|t| t.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}
