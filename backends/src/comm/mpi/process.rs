//! Whether a rank's process is still there, as far as this machine can see.

use crate::machine;
use std::fs;

/// A process, unmistakably: a number that is used again belongs to a process with another start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    /// The machine and its space of process numbers; 0 if not known.
    host: u64,
    id: u64,
    /// Clock ticks from the start of the machine to that of the process.
    start: u64,
}

impl Process {
    /// This process.
    pub fn own() -> Self {
        let id = u64::from(std::process::id());
        state(id).map_or(Self { host: 0, id, start: 0 }, |(_, start)| Self { host: machine::number(), id, start })
    }

    /// For sending.
    pub fn words(self) -> [u64; 3] {
        [self.host, self.id, self.start]
    }

    /// What [`Self::words`] gave.
    pub fn from_words([host, id, start]: [u64; 3]) -> Self {
        Self { host, id, start }
    }

    /// Whether the process, seen from `from`, is known to have ended. Of another machine nothing is known.
    pub fn gone(self, from: Self) -> bool {
        let seen = self.host != 0 && self.host == from.host;
        seen && state(self.id).is_none_or(|(state, start)| start != self.start || matches!(state, 'Z' | 'X'))
    }
}

/// State and start of a process from `/proc`.
fn state(id: u64) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name, in parentheses, may hold anything; state is field 3 and start field 22, counted from 1.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_that_has_ended_is_told_from_one_that_lives_or_is_elsewhere() {
        let own = Process::own();
        assert!(!own.gone(own));
        assert_eq!(Process::from_words(own.words()), own);
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let id = u64::from(child.id());
        let other = Process { id, start: state(id).unwrap().1, ..own };
        assert!(!other.gone(own));
        child.kill().unwrap();
        // Killed and not yet waited for: a zombie, soon.
        while state(id).is_some_and(|s| s.0 != 'Z') {
            std::thread::yield_now();
        }
        assert!(other.gone(own));
        child.wait().unwrap();
        assert!(other.gone(own));
        assert!(!Process { host: own.host ^ 1, ..other }.gone(own));
        assert!(Process { start: own.start + 1, ..own }.gone(own), "the number is used again");
    }
}
