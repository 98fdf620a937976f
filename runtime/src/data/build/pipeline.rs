//! Parallel work that keeps the order of its input and holds only a few items at a time.

use crate::data::codes;
use athanor_ir::diag::{Diagnostic, Result};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// One item on its way to a worker, and where the worker puts the result.
type Job<T, U> = (T, SyncSender<Result<U>>);

/// Calls `work` on everything that `read` gives, on one thread per entry of `states`, and `write` on the results in
/// the order of reading. At most five items per worker are under way. The first error stops everything.
///
/// `read` runs on a thread of its own, `write` on the calling one.
pub(crate) fn ordered<S: Send, T: Send, U: Send>(
    read: &mut (dyn FnMut() -> Result<Option<T>> + Send),
    states: Vec<S>,
    work: impl Fn(&mut S, T) -> Result<U> + Sync,
    write: &mut dyn FnMut(U) -> Result<()>,
) -> Result<()> {
    let count = states.len();
    let (jobs, todo) = sync_channel::<Job<T, U>>(count);
    let (order, results) = sync_channel::<Receiver<Result<U>>>(4 * count);
    let todo = Mutex::new(todo);
    std::thread::scope(|scope| {
        let (todo, work) = (&todo, &work);
        for mut state in states {
            scope.spawn(move || {
                while let Some((item, reply)) = next(todo) {
                    // After an error the writer is gone: then nobody wants the result.
                    let _ = reply.send(guarded(|| work(&mut state, item)));
                }
            });
        }
        scope.spawn(move || {
            loop {
                let (reply, result) = sync_channel(1);
                let sent = match read() {
                    Ok(None) => return,
                    Ok(Some(item)) => order.send(result).is_ok() && jobs.send((item, reply)).is_ok(),
                    Err(e) => {
                        let _ = reply.send(Err(e));
                        let _ = order.send(result);
                        return;
                    }
                };
                if !sent {
                    return;
                }
            }
        });
        // By value: when writing fails, the queue must go before the threads are waited for.
        drain(results, write)
    })
}

fn next<J>(jobs: &Mutex<Receiver<J>>) -> Option<J> {
    jobs.lock().ok()?.recv().ok()
}

fn drain<U>(results: Receiver<Receiver<Result<U>>>, write: &mut dyn FnMut(U) -> Result<()>) -> Result<()> {
    for result in results {
        write(result.recv().unwrap_or_else(|_| lost())?)?;
    }
    Ok(())
}

/// Turns a panic of a library on odd input into an error.
fn guarded<U>(work: impl FnOnce() -> Result<U>) -> Result<U> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|_| lost())
}

fn lost<U>() -> Result<U> {
    Diagnostic::error(&codes::TOKENIZER, "the tokenizer failed on a document")
        .help("check tokenizer.json; the message above says more")
        .err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn counter(to: u64) -> impl FnMut() -> Result<Option<u64>> + Send {
        let mut i = 0;
        move || {
            i += 1;
            Ok((i <= to).then_some(i))
        }
    }

    fn fail<T>() -> Result<T> {
        Diagnostic::error(&codes::INPUT_TEXT, "bad").err()
    }

    #[test]
    fn results_come_in_order_whatever_the_workers_do() {
        let mut out = vec![];
        let work = |(): &mut (), i: u64| {
            std::thread::sleep(Duration::from_micros((i * 7919) % 300));
            Ok(i)
        };
        let mut write = |i| {
            out.push(i);
            Ok(())
        };
        ordered(&mut counter(300), vec![(); 4], work, &mut write).unwrap();
        assert_eq!(out, (1..=300).collect::<Vec<_>>());
    }

    #[test]
    fn a_slow_writer_holds_the_reader_back() {
        let (read, written) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let mut count = counter(100);
        let mut input = || {
            let ahead =
                read.fetch_add(1, Ordering::SeqCst) - written.load(Ordering::SeqCst).min(read.load(Ordering::SeqCst));
            assert!(ahead <= 16, "{ahead} items under way");
            count()
        };
        let mut write = |_| {
            std::thread::sleep(Duration::from_micros(200));
            written.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        ordered(&mut input, vec![(); 2], |(), i: u64| Ok(i), &mut write).unwrap();
        assert_eq!(written.into_inner(), 100);
    }

    #[test]
    fn errors_of_each_part_stop_everything() {
        let endless = || counter(u64::MAX);
        let fails = |i: u64| if i == 50 { fail() } else { Ok(i) };
        let mut done = 0;
        let mut read = endless();
        let mut input = || read().and_then(|i| i.map_or(Ok(None), |i| fails(i).map(Some)));
        let mut write = |_| {
            done += 1;
            Ok(())
        };
        assert!(ordered(&mut input, vec![(); 3], |(), i| Ok(i), &mut write).is_err());
        assert_eq!(done, 49);
        assert!(ordered(&mut endless(), vec![(); 3], |(), i| fails(i), &mut |_| Ok(())).is_err());
        assert!(ordered(&mut endless(), vec![(); 3], |(), i| Ok(i), &mut |i| fails(i).map(|_| ())).is_err());
    }
}
