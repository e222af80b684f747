//! What a launcher has told this process.
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::rendezvous::Rendezvous;
use super::{Alone, Communicator, SocketRank};
use crate::error::{Error, Result};

/// What started this process as one of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// Open MPI's `mpirun`.
    OpenMpi,
    /// The launcher of MPICH or of an MPI derived from it.
    Pmi,
    /// Slurm's `srun`.
    Slurm,
    /// PyTorch's `torchrun`, or another that sets its variables.
    Torchrun,
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenMpi => "Open MPI's `mpirun`",
            Self::Pmi => "an MPI launcher",
            Self::Slurm => "Slurm's `srun`",
            Self::Torchrun => "a launcher that sets `RANK` and `WORLD_SIZE`, such as `torchrun`",
        })
    }
}

/// This process among those that a launcher has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launched {
    /// The launcher.
    pub launcher: Launcher,
    /// This process's number, from 0.
    pub rank: usize,
    /// The number of processes, more than one.
    pub size: usize,
    /// This process's number on its machine, from 0; the rank where the launcher does not tell.
    pub local_rank: usize,
    /// The number of processes on this machine; 1 where the launcher does not tell.
    pub local_size: usize,
}

/// The variables of each launcher: rank, size, local rank and local size. A batch script of Slurm has `SLURM_NTASKS`, but is one process: only `srun`
/// sets the variables of a step.
const VARIABLES: [(Launcher, [&str; 4]); 4] = [
    (
        Launcher::OpenMpi,
        [
            "OMPI_COMM_WORLD_RANK",
            "OMPI_COMM_WORLD_SIZE",
            "OMPI_COMM_WORLD_LOCAL_RANK",
            "OMPI_COMM_WORLD_LOCAL_SIZE",
        ],
    ),
    (Launcher::Pmi, ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"]),
    (Launcher::Slurm, ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"]),
    (Launcher::Torchrun, ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"]),
];

impl Launched {
    /// The first launcher whose variables of rank and size are both there; `None` without one, or if there is only one process.
    ///
    /// `torchrun` may itself be a task of another launcher, whose variables its processes inherit: it counts first where it also gives the
    /// address of rank 0.
    ///
    /// # Errors
    /// [`Error::Config`] if a variable is not a number, or the rank is not below the size.
    pub fn detect(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let mut launchers = VARIABLES;
        if Rendezvous::detect(&variable)?.is_some() {
            launchers.rotate_right(1);
        }
        for (launcher, [rank, size, local_rank, local_size]) in launchers {
            let (Some(rank_text), Some(size_text)) = (variable(rank), variable(size)) else { continue };
            let (rank, size) = (number(rank, &rank_text)?, number(size, &size_text)?);
            if rank >= size {
                return Err(Error::config(format!(
                    "rank {rank} of {launcher}: expected less than its {size} processes"
                )));
            }
            let local = variable(local_size).and_then(|text| match launcher {
                Launcher::Slurm => tasks_of_node(&text, variable("SLURM_NODEID")?.parse().ok()?),
                _ => text.parse().ok(),
            });
            let local_size = local.filter(|n| (1..=size).contains(n)).unwrap_or(1);
            let local_rank = variable(local_rank).map_or(Ok(rank), |text| number(local_rank, &text))?;
            return Ok((size > 1).then_some(Self { launcher, rank, size, local_rank, local_size }));
        }
        Ok(None)
    }

    /// [`Self::detect`] in the variables of this process.
    ///
    /// # Errors
    /// As [`Self::detect`].
    pub fn of_environment() -> Result<Option<Self>> {
        Self::detect(|name| std::env::var(name).ok())
    }

    /// The variables by which a process knows that it is one of several: without them a child of this process is one by itself.
    pub fn variables() -> impl Iterator<Item = &'static str> {
        VARIABLES.into_iter().flat_map(|(_, names)| names)
    }

    /// This process's share of the machine's cores: those that the launcher has bound it to, or an equal part of all.
    #[must_use]
    pub fn threads(&self) -> usize {
        let allowed = std::thread::available_parallelism().map_or(1, usize::from);
        (online_cores().unwrap_or(allowed) / self.local_size).clamp(1, allowed)
    }

    /// Connects this process with the others; without a launcher it is [`Alone`].
    ///
    /// A launcher of MPI's processes connects them by MPI, in a build with the feature `mpi`. Otherwise they meet at the address that
    /// `MASTER_ADDR` and `MASTER_PORT` give.
    ///
    /// # Errors
    /// [`Error::Config`] if this build cannot connect the processes: they would all do the same work; what goes wrong in connecting.
    pub fn connect(launched: Option<Self>, timeout: Duration) -> Result<Arc<dyn Communicator>> {
        let Some(launched) = launched else { return Ok(Arc::new(Alone)) };
        #[cfg(feature = "mpi")]
        if launched.launcher != Launcher::Torchrun {
            return Ok(Arc::new(super::MpiRank::start(launched, timeout)?));
        }
        let address = Rendezvous::detect(|name| std::env::var(name).ok())?;
        let address = address.ok_or_else(|| launched.without_engine())?;
        Ok(Arc::new(SocketRank::start(&address, launched.rank, launched.size, timeout)?))
    }

    fn without_engine(&self) -> Error {
        let Self { launcher, size, .. } = self;
        let (problem, hint) = match launcher {
            Launcher::Torchrun => (
                "without the address of rank 0 in `MASTER_ADDR` and `MASTER_PORT`",
                "set both, which `torchrun` does; for a run of one process unset `RANK` and `WORLD_SIZE`",
            ),
            _ => (
                "but built without MPI: each would do the same work by itself",
                "build it with `cargo build --release --features mpi`, or set `MASTER_ADDR` and `MASTER_PORT` to an address of rank 0, or start one process",
            ),
        };
        Error::Config {
            message: format!("started as one of {size} processes by {launcher}, {problem}"),
            hint: Some(hint.into()),
        }
    }
}

fn number(name: &str, text: &str) -> Result<usize> {
    text.parse()
        .map_err(|_| Error::config(format!("environment variable `{name}`: expected a number, got `{text}`")))
}

/// The number for a node in Slurm's list of numbers of tasks, such as `4(x2),3`: 4 on the first two nodes, 3 on the third.
fn tasks_of_node(list: &str, node: usize) -> Option<usize> {
    let mut nodes = 0;
    for group in list.split(',') {
        let (tasks, times) = group.split_once("(x").unwrap_or((group, "1)"));
        nodes += times.strip_suffix(')')?.parse::<usize>().ok()?;
        if node < nodes {
            return tasks.parse().ok();
        }
    }
    None
}

/// The machine's cores, whatever this process may use of them.
#[cfg(unix)]
fn online_cores() -> Option<usize> {
    let cores = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN).ok()??;
    usize::try_from(cores).ok()
}

#[cfg(not(unix))]
fn online_cores() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use mixce_base::Hint as _;

    use super::*;

    fn detect(variables: &[(&str, &str)]) -> Result<Option<Launched>> {
        Launched::detect(|name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn launchers_are_told_apart_by_their_variables() {
        let is = |variables: &[(&str, &str)], launcher, [rank, size, local_rank, local_size]: [usize; 4]| {
            let want = Launched { launcher, rank, size, local_rank, local_size };
            assert_eq!(detect(variables).unwrap(), Some(want));
        };
        let open_mpi = [
            ("OMPI_COMM_WORLD_RANK", "3"),
            ("OMPI_COMM_WORLD_SIZE", "4"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
        ];
        is(&open_mpi, Launcher::OpenMpi, [3, 4, 1, 2]);
        is(&[("PMI_RANK", "1"), ("PMI_SIZE", "2")], Launcher::Pmi, [1, 2, 1, 1]);
        let slurm = [
            ("SLURM_PROCID", "9"),
            ("SLURM_STEP_NUM_TASKS", "11"),
            ("SLURM_STEP_TASKS_PER_NODE", "4(x2),3"),
            ("SLURM_NODEID", "2"),
            ("SLURM_LOCALID", "1"),
        ];
        is(&slurm, Launcher::Slurm, [9, 11, 1, 3]);
        let torchrun = [("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "4")];
        is(&torchrun, Launcher::Torchrun, [5, 8, 1, 4]);
        // One `torchrun` a node, which Slurm has started.
        let address = [("MASTER_ADDR", "node0"), ("MASTER_PORT", "29500")];
        let both = [&slurm[..], &torchrun[..]].concat();
        is(&both, Launcher::Slurm, [9, 11, 1, 3]);
        is(&[&both[..], &address[..]].concat(), Launcher::Torchrun, [5, 8, 1, 4]);
        is(&[&slurm[..], &address[..]].concat(), Launcher::Slurm, [9, 11, 1, 3]);
    }

    #[test]
    fn one_process_is_not_several() {
        assert_eq!(detect(&[]).unwrap(), None);
        // The script of a Slurm job of 4 tasks: `srun` has not started anything yet.
        assert_eq!(detect(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")]).unwrap(), None);
        assert_eq!(detect(&[("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "1")]).unwrap(), None);
    }

    #[test]
    fn nonsense_and_launchers_without_an_engine_are_refused() {
        let error = detect(&[("RANK", "x"), ("WORLD_SIZE", "2")]).unwrap_err().to_string();
        assert!(error.contains("`RANK`: expected a number, got `x`"), "{error}");
        let error = detect(&[("PMI_RANK", "2"), ("PMI_SIZE", "2")]).unwrap_err().to_string();
        assert!(error.contains("rank 2") && error.contains("2 processes"), "{error}");
        let torchrun = detect(&[("RANK", "0"), ("WORLD_SIZE", "2")]).unwrap();
        let error = Launched::connect(torchrun, Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("torchrun"), "{error}");
        assert!(error.to_string().contains("`MASTER_ADDR` and `MASTER_PORT`"), "{error}");
        assert!(error.hint().unwrap().contains("unset `RANK`"));
        #[cfg(not(feature = "mpi"))]
        {
            let mpi = detect(&[("PMI_RANK", "0"), ("PMI_SIZE", "2")]).unwrap();
            let error = Launched::connect(mpi, Duration::from_secs(1)).unwrap_err();
            assert!(error.to_string().contains("built without MPI"), "{error}");
            assert!(error.hint().unwrap().contains("--features mpi"));
        }
    }

    #[test]
    fn the_cores_are_shared() {
        let launched =
            Launched { launcher: Launcher::OpenMpi, rank: 0, size: 4096, local_rank: 0, local_size: 1 };
        let of = |local_size| Launched { local_size, ..launched }.threads();
        assert_eq!(of(4096), 1);
        assert!(of(1) >= of(2));
    }
}
