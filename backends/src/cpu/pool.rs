//! A small persistent thread pool with a static, hence deterministic, partition of work.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};

use athanor_ir::{Diagnostic, Result};

use super::{NO_THREADS, WORKER_FAILED, features};

/// Spins before a waiting thread parks: some 50 µs, more than the gap between two steps of a plan.
const SPINS: u32 = 1500;

/// What every worker calls: `f(worker, lo, hi)`.
type Task<'a> = dyn Fn(usize, usize, usize) + Sync + 'a;

/// A job as the workers see it; the pointer is valid until the last worker has counted itself out.
#[derive(Clone, Copy)]
struct Job {
    task: *const Task<'static>,
    grid: usize,
    shares: usize,
}

/// State shared with the workers.
struct Shared {
    /// Counts jobs; a worker runs one job per increment. Also tells the workers to look at `stop`.
    epoch: AtomicUsize,
    job: UnsafeCell<Option<Job>>,
    /// Workers still busy with the current job.
    busy: AtomicUsize,
    stop: AtomicBool,
    /// One per spawned worker: it is parked, or about to.
    parked: Vec<AtomicBool>,
    /// The thread in `run`, when it has given up spinning.
    waiter: Mutex<Option<Thread>>,
    /// First panic of the current job.
    panic: Mutex<Option<String>>,
    threads: usize,
}

// SAFETY: `job` is written only by `run` (under the pool's lock) while no worker is busy, and read by workers only after
// they have seen the new epoch.
unsafe impl Sync for Shared {}
// SAFETY: the task pointer in `job` is `Sync`, and used only while `run` keeps it alive.
unsafe impl Send for Shared {}

/// Share `share` of `shares` of `0..grid`. With no more shares than items, no share is empty.
pub fn share(grid: usize, shares: usize, share: usize) -> (usize, usize) {
    // In u128 the product cannot overflow.
    let at = |s: usize| (grid as u128 * s as u128 / shares as u128) as usize;
    (at(share), at(share + 1))
}

/// A fixed number of workers. The calling thread is worker 0; the others live as long as the pool.
///
/// Workers flush denormals to zero (FTZ and DAZ): a denormal operand costs more than a hundred cycles, and optimizer
/// moments decay into that range.
pub struct Pool {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
    /// One job at a time.
    running: Mutex<()>,
}

impl Pool {
    /// A pool of `threads` workers (at least one), and AMX permission for the process where the CPU has tiles.
    pub fn new(threads: usize) -> Result<Self> {
        let threads = threads.max(1);
        // Asked before any worker exists, so that the workers inherit it.
        let _ = features::request_amx();
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            busy: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            parked: (1..threads).map(|_| AtomicBool::new(false)).collect(),
            waiter: Mutex::new(None),
            panic: Mutex::new(None),
            threads,
        });
        let mut pool = Self { shared, handles: Vec::with_capacity(threads - 1), running: Mutex::new(()) };
        for worker in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let handle = std::thread::Builder::new()
                .name(format!("athanor-worker-{worker}"))
                .spawn(move || shared.serve(worker))
                .map_err(|e| {
                    Diagnostic::error(&NO_THREADS, format!("cannot start worker {worker} of {threads}: {e}"))
                })?;
            pool.handles.push(handle);
        }
        Ok(pool)
    }

    /// Number of workers.
    pub fn threads(&self) -> usize {
        self.shared.threads
    }

    /// As [`Self::run_shares`] with a share for each worker.
    pub fn run(&self, grid: usize, f: &(dyn Fn(usize, usize, usize) + Sync)) -> Result<()> {
        self.run_shares(grid, self.threads(), f)
    }

    /// Calls `f(share, lo, hi)` once for each share of `0..grid`, and waits for all.
    ///
    /// There are `most` shares, or one per item if there are fewer items; their numbers start at 0 and none is empty.
    /// Share `s` of `n` is `grid·s/n .. grid·(s+1)/n` whatever the number of threads, so that what is computed share by
    /// share does not depend on it. Worker `w` of `t` runs the shares `w`, `w + t`, …. A panic in any share is reported
    /// as an error after all workers are done. `f` must not call `run` of the same pool.
    pub fn run_shares(&self, grid: usize, most: usize, f: &(dyn Fn(usize, usize, usize) + Sync)) -> Result<()> {
        let _one = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        let denormals = Denormals::flush();
        let shares = most.min(grid);
        let others = if shares > 1 { self.handles.len() } else { 0 };
        if others > 0 {
            // SAFETY: only the lifetime changes, and this function does not return before every worker is done with it.
            #[allow(clippy::transmute_ptr_to_ptr, reason = "a cast cannot lengthen the lifetime")]
            let task = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(std::ptr::from_ref(f)) };
            // SAFETY: no worker is busy: the last job has ended, and this thread holds `running`.
            unsafe { *shared.job.get() = Some(Job { task, grid, shares }) };
            shared.busy.store(others, Ordering::Relaxed);
            // SeqCst pairs with the worker's store to `parked`: one of the two sees the other.
            shared.epoch.fetch_add(1, Ordering::SeqCst);
            for (handle, parked) in self.handles.iter().zip(&shared.parked) {
                if parked.load(Ordering::SeqCst) {
                    handle.thread().unpark();
                }
            }
        }
        shared.call(f, 0, grid, shares);
        if others > 0 {
            shared.wait_for_workers();
        }
        drop(denormals);
        match shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take() {
            None => Ok(()),
            Some(text) => Diagnostic::error(&WORKER_FAILED, format!("a worker failed: {text}")).err(),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        for handle in self.handles.drain(..) {
            handle.thread().unpark();
            // A worker catches its panics, so it ends normally.
            let _ = handle.join();
        }
    }
}

impl Shared {
    /// Runs the shares of one worker, catching a panic.
    fn call(&self, task: &Task<'_>, worker: usize, grid: usize, shares: usize) {
        for s in (worker..shares).step_by(self.threads) {
            let (lo, hi) = share(grid, shares, s);
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| task(s, lo, hi))) {
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic_text(&*payload));
            }
        }
    }

    fn wait_for_workers(&self) {
        for _ in 0..SPINS {
            if self.busy.load(Ordering::Acquire) == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        *self.waiter.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::thread::current());
        while self.busy.load(Ordering::Acquire) != 0 {
            std::thread::park();
        }
        *self.waiter.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A worker's life.
    fn serve(&self, worker: usize) {
        let _denormals = Denormals::flush();
        let mut seen = 0;
        loop {
            seen = self.next_epoch(seen, &self.parked[worker - 1]);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            // SAFETY: the epoch was raised after the job was written, and the job stays until this worker has counted down.
            if let Some(job) = unsafe { *self.job.get() } {
                // SAFETY: as above, the task is alive.
                self.call(unsafe { &*job.task }, worker, job.grid, job.shares);
            }
            if self.busy.fetch_sub(1, Ordering::AcqRel) == 1
                && let Some(waiter) = &*self.waiter.lock().unwrap_or_else(PoisonError::into_inner)
            {
                waiter.unpark();
            }
        }
    }

    /// Waits until the epoch differs from `seen`: spinning at first, then parked.
    fn next_epoch(&self, seen: usize, parked: &AtomicBool) -> usize {
        for _ in 0..SPINS {
            let now = self.epoch.load(Ordering::Acquire);
            if now != seen {
                return now;
            }
            std::hint::spin_loop();
        }
        loop {
            parked.store(true, Ordering::SeqCst);
            let now = self.epoch.load(Ordering::SeqCst);
            if now != seen {
                parked.store(false, Ordering::Relaxed);
                return now;
            }
            std::thread::park();
        }
    }
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic without a message".into())
}

/// Sets flush-to-zero and denormals-are-zero in this thread until dropped.
struct Denormals {
    #[cfg(target_arch = "x86_64")]
    before: u32,
}

#[cfg(target_arch = "x86_64")]
impl Denormals {
    fn flush() -> Self {
        /// FTZ is bit 15 of MXCSR, DAZ bit 6.
        const FLUSH: u32 = 1 << 15 | 1 << 6;
        let mut before = 0u32;
        // SAFETY: stores the control word to a local.
        unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut before, options(nostack, preserves_flags)) };
        Self::load(before | FLUSH);
        Self { before }
    }

    fn load(word: u32) {
        // SAFETY: loads a control word that differs from the current one in FTZ and DAZ only.
        unsafe {
            std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const word, options(nostack, preserves_flags, readonly));
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Drop for Denormals {
    fn drop(&mut self) {
        Self::load(self.before);
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl Denormals {
    fn flush() -> Self {
        Self {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn every_item_is_done_once_in_a_share_that_does_not_depend_on_the_threads() {
        for threads in 1..=5 {
            let pool = Pool::new(threads).unwrap();
            for grid in [0, 1, 2, 3, 7, 64, 1000] {
                let hits: Vec<AtomicU64> = (0..grid).map(|_| AtomicU64::new(0)).collect();
                for shares in [1, 2, threads, 7] {
                    hits.iter().for_each(|h| h.store(0, Ordering::Relaxed));
                    pool.run_shares(grid, shares, &|share, lo, hi| {
                        assert!(share < shares.min(grid) && lo < hi);
                        for hit in &hits[lo..hi] {
                            hit.fetch_add(1 + share as u64 * 100, Ordering::Relaxed);
                        }
                    })
                    .unwrap();
                    let count = shares.min(grid);
                    for (i, hit) in hits.iter().enumerate() {
                        let owner = (0..count).find(|s| i < grid * (s + 1) / count).unwrap() as u64;
                        let (got, want) = (hit.load(Ordering::Relaxed), 1 + owner * 100);
                        assert_eq!(got, want, "{threads} threads, {shares} shares, item {i} of {grid}");
                    }
                }
            }
        }
    }

    #[test]
    fn many_short_jobs_with_pauses_do_not_hang() {
        let pool = Pool::new(3).unwrap();
        let total = AtomicU64::new(0);
        for i in 0..20_000u64 {
            if i % 2000 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            pool.run(6, &|_, lo, hi| {
                total.fetch_add((hi - lo) as u64, Ordering::Relaxed);
            })
            .unwrap();
        }
        assert_eq!(total.into_inner(), 120_000);
    }

    #[test]
    fn a_panic_is_an_error_and_the_pool_lives_on() {
        let pool = Pool::new(2).unwrap();
        for bad in 0..2 {
            let failed = pool.run(2, &|worker, _, _| assert!(worker != bad, "share of {worker}")).unwrap_err();
            assert_eq!(failed.code.id, "B0102");
            assert!(failed.message.contains(&format!("share of {bad}")), "{failed}");
            assert!(pool.run(2, &|_, _, _| {}).is_ok());
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn workers_flush_denormals_and_the_caller_gets_its_mode_back() {
        let pool = Pool::new(2).unwrap();
        let tiny = std::hint::black_box(f32::MIN_POSITIVE);
        let flushed = AtomicU64::new(0);
        pool.run(2, &|_, _, _| {
            if std::hint::black_box(tiny) * 0.5 == 0.0 {
                flushed.fetch_add(1, Ordering::Relaxed);
            }
        })
        .unwrap();
        assert_eq!(flushed.into_inner(), 2);
        assert!(std::hint::black_box(tiny) * 0.5 > 0.0);
    }
}
