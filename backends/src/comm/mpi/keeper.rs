//! A moment for the other ranks when this one is killed.
//!
//! When a connection of a rank to MPICH's hydra ends (`PMI_FD`, standard output), hydra looks whether the rank has ended, and then
//! kills all others at once, with SIGKILL: nobody could say what it was waiting for. So a child, which does nothing else,
//! holds on to these connections for a few seconds after the rank has died without a word. Hydra looks again when somebody
//! prints, but passes on first what was printed: who reports a death does it in one piece.

use crate::launch::Launcher;
use libc::{c_int, c_uint};

/// Seconds from the death of a rank to that of its keeper.
const SECONDS: c_uint = 3;

/// The child. Dropping it ends it; a rank that is killed does not get there.
pub(super) struct Keeper {
    /// It reads from the other end until this one is closed.
    pipe: c_int,
    child: libc::pid_t,
}

impl Keeper {
    /// Starts the child if `launcher` is one that needs it.
    pub fn start(launcher: Launcher) -> Option<Self> {
        if launcher != Launcher::Hydra {
            return None;
        }
        let held: c_int = std::env::var("PMI_FD").ok()?.trim().parse().ok()?;
        let mut ends = [0; 2];
        // SAFETY: two descriptors are written.
        if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
            return None;
        }
        let [read, write] = ends;
        // SAFETY: the child calls only what is safe between `fork` and `exec`, and ends itself.
        match unsafe { libc::fork() } {
            0 => {
                // SAFETY: just forked.
                unsafe { keep(read, held) }
            }
            child => {
                // SAFETY: the child has its own.
                unsafe { libc::close(read) };
                if child > 0 {
                    return Some(Self { pipe: write, child });
                }
                // SAFETY: nobody else knows it.
                unsafe { libc::close(write) };
                None
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // SAFETY: own descriptor and own child; one byte is the sign that all is well.
        unsafe {
            libc::write(self.pipe, [1u8].as_ptr().cast(), 1);
            libc::close(self.pipe);
            libc::waitpid(self.child, std::ptr::null_mut(), 0);
        }
    }
}

/// The life of the child: holds `held` and the standard streams, nothing else, waits for a byte or the end of `read`.
///
/// # Safety
/// Only in a child that was just forked.
unsafe fn keep(read: c_int, held: c_int) -> ! {
    // SAFETY: system calls only; they concern this process alone.
    unsafe {
        // Whoever ends the rank with these means the rank; the child follows.
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::signal(signal, libc::SIG_IGN);
        }
        let (low, high) = (read.min(held), read.max(held));
        for (from, to) in [(3, low - 1), (low + 1, high - 1), (high + 1, c_int::MAX)] {
            if from <= to {
                libc::syscall(libc::SYS_close_range, from, to, 0);
            }
        }
        let mut byte = 0u8;
        let heard = loop {
            let n = libc::read(read, (&raw mut byte).cast(), 1);
            if n >= 0 || *libc::__errno_location() != libc::EINTR {
                break n > 0;
            }
        };
        if !heard {
            libc::sleep(SECONDS);
        }
        libc::_exit(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::{AsRawFd, IntoRawFd};
    use std::time::Instant;

    /// Whether the end of a connection comes at once when the keeper is dropped, and later when its rank is just gone.
    #[test]
    fn a_connection_ends_with_its_rank_or_some_time_after_a_death() {
        for killed in [false, true] {
            let (mut far, near) = std::io::pipe().unwrap();
            let mut ends = [0; 2];
            // SAFETY: two descriptors are written.
            assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
            let held = near.as_raw_fd();
            // SAFETY: as in `start`.
            let child = unsafe { libc::fork() };
            if child == 0 {
                // SAFETY: just forked.
                unsafe { keep(ends[0], held) }
            }
            let keeper = Keeper { pipe: ends[1], child };
            // SAFETY: own descriptors; the child has its own.
            unsafe {
                libc::close(near.into_raw_fd());
                libc::close(ends[0]);
            }
            let start = Instant::now();
            if killed {
                // SAFETY: what the system does for a rank that is killed.
                unsafe { libc::close(keeper.pipe) };
            } else {
                drop(keeper);
                assert_eq!(far.read(&mut [0]).unwrap(), 0);
                continue;
            }
            assert_eq!(far.read(&mut [0]).unwrap(), 0);
            assert!(start.elapsed().as_secs() >= u64::from(SECONDS) - 1, "{:?}", start.elapsed());
            // SAFETY: own child.
            unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
            std::mem::forget(keeper);
        }
    }
}
