//! Who has started this process, from the environment, and which MPI libraries fit.

use std::env;

/// What has started the ranks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Launcher {
    /// For messages.
    pub name: &'static str,
    /// Number of ranks it has started.
    pub ranks: usize,
    /// Its libraries, the likeliest first.
    libraries: [&'static str; 4],
}

const ABI: &str = "libmpi_abi.so.1";
const OPEN_MPI: &str = "libmpi.so.40";
const MPICH: &str = "libmpi.so.12";
/// MPICH's library as Debian calls it.
const MPICH_DEBIAN: &str = "libmpich.so.12";

impl Launcher {
    /// The launcher that has left its variables, if one has.
    pub fn find() -> Option<Self> {
        Self::of(|name| env::var(name).ok())
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let number = |name: &str| variable(name)?.trim().parse::<usize>().ok();
        let mpich_first = [ABI, MPICH, MPICH_DEBIAN, OPEN_MPI];
        // Slurm's own variables are there under an mpirun inside a job too: they come last.
        let (name, ranks, libraries) = if let Some(ranks) = number("OMPI_COMM_WORLD_SIZE") {
            ("Open MPI's mpirun", ranks, [OPEN_MPI, ABI, MPICH, MPICH_DEBIAN])
        } else if let Some(ranks) = number("PMI_SIZE") {
            ("a launcher that speaks PMI", ranks, mpich_first)
        } else {
            ("srun", number("SLURM_STEP_NUM_TASKS")?, mpich_first)
        };
        Some(Self { name, ranks, libraries })
    }

    /// Names of libraries to try, also without a launcher.
    pub fn libraries(launcher: Option<&Self>) -> Vec<String> {
        let names = launcher.map_or([ABI, OPEN_MPI, MPICH, MPICH_DEBIAN], |l| l.libraries);
        names.map(str::to_owned).to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Option<Launcher> {
        Launcher::of(|name| variables.iter().find(|v| v.0 == name).map(|v| v.1.to_owned()))
    }

    #[test]
    fn the_launcher_decides_which_library_is_tried_first() {
        let first = |variables: &[(&str, &str)]| {
            let launcher = of(variables).unwrap();
            (launcher.ranks, Launcher::libraries(Some(&launcher))[0].clone())
        };
        let slurm = ("SLURM_STEP_NUM_TASKS", "9");
        assert_eq!(first(&[("OMPI_COMM_WORLD_SIZE", "4"), slurm]), (4, OPEN_MPI.to_owned()));
        assert_eq!(first(&[("PMI_SIZE", "3"), slurm]), (3, ABI.to_owned()));
        assert_eq!(first(&[slurm]), (9, ABI.to_owned()));
        assert_eq!(of(&[("PMI_SIZE", "many")]), None);
        assert_eq!(Launcher::libraries(None).len(), 4);
    }
}
