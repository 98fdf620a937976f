//! Interrupts: the first asks the work to stop at the next good place, the second ends the process.

use signal_hook::consts::{SIGINT, SIGTERM};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Handlers of SIGINT and SIGTERM that set a flag, until dropped; once it is set, another signal ends the process at once
/// with exit code 130.
#[derive(Debug)]
pub struct Signals(Vec<signal_hook::SigId>);

impl Signals {
    /// Installs the handlers. A signal that cannot be handled ends the process, as it did before.
    pub fn new(stop: &Arc<AtomicBool>) -> Self {
        use signal_hook::flag;
        let mut ids = vec![];
        for signal in [SIGINT, SIGTERM] {
            ids.extend(flag::register_conditional_shutdown(signal, 130, Arc::clone(stop)));
            ids.extend(flag::register(signal, Arc::clone(stop)));
        }
        Self(ids)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.0.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}

/// Until dropped, SIGINT and SIGTERM remove a directory of unfinished work and end the process with exit code 130: for work
/// that cannot stop half-way, such as compiling.
#[derive(Debug)]
pub struct RemoveOnInterrupt(Option<signal_hook::iterator::Handle>);

impl RemoveOnInterrupt {
    /// Watches over `dir`. Where signals cannot be handled they end the process, and `dir` stays.
    pub fn new(dir: PathBuf) -> Self {
        let watch = || {
            let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
            let handle = signals.handle();
            std::thread::Builder::new().name("athanor-signals".into()).spawn(move || {
                if signals.forever().next().is_some() {
                    // Others may still write into it: what they make after the first round is seen by the second.
                    let gone = || std::fs::remove_dir_all(&dir).is_ok() || !dir.exists();
                    let _ = (0..5).any(|_| gone());
                    std::process::exit(130);
                }
            })?;
            Ok::<_, std::io::Error>(handle)
        };
        Self(watch().ok())
    }
}

impl Drop for RemoveOnInterrupt {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.close();
        }
    }
}
