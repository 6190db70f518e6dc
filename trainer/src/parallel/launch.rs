//! What started this process, by its environment.

use clip::ops::Seat;

use crate::error::{Error, Result};

/// A launcher's variables: the number of this process, how many it has started, and the number of
/// this process among those of its machine.
struct Launcher {
    rank: &'static str,
    ranks: &'static str,
    local: &'static str,
    /// What joins its processes.
    remedy: &'static str,
}

/// From the innermost to the outermost: Slurm starts `mpirun`, `mpirun` starts torchrun.
const LAUNCHERS: [Launcher; 4] = [
    Launcher {
        rank: "RANK",
        ranks: "WORLD_SIZE",
        local: "LOCAL_RANK",
        remedy: "`parallel = \"nccl\"` joins them, with a GPU each",
    },
    Launcher {
        rank: "OMPI_COMM_WORLD_RANK",
        ranks: "OMPI_COMM_WORLD_SIZE",
        local: "OMPI_COMM_WORLD_LOCAL_RANK",
        remedy: "`parallel = \"mpi\"` joins them",
    },
    Launcher {
        rank: "PMI_RANK",
        ranks: "PMI_SIZE",
        local: "MPI_LOCALRANKID",
        remedy: "`parallel = \"mpi\"` joins them",
    },
    Launcher {
        rank: "SLURM_PROCID",
        ranks: "SLURM_STEP_NUM_TASKS",
        local: "SLURM_LOCALID",
        remedy: "`srun --mpi=pmix` and `parallel = \"mpi\"` join them",
    },
];

/// A number of the environment, into which `variable` looks.
fn number(variable: &impl Fn(&str) -> Option<String>, name: &str) -> Option<usize> {
    variable(name)?.parse().ok()
}

/// Who started several processes, and how many.
fn launched(
    variable: &impl Fn(&str) -> Option<String>,
) -> impl Iterator<Item = (&'static Launcher, usize)> {
    LAUNCHERS.iter().filter_map(|one| {
        let ranks = number(variable, one.ranks).filter(|&ranks| ranks > 1)?;
        Some((one, ranks))
    })
}

/// Refuses to train alone beside others that were started with this process: each of them would
/// train on all data and write into the same folder.
pub fn check_launch(ranks: usize, variable: impl Fn(&str) -> Option<String>) -> Result<()> {
    match launched(&variable).next() {
        Some((Launcher { ranks: name, remedy, .. }, processes)) if ranks == 1 => {
            Err(Error::Launch { variable: name, processes, remedy })
        }
        _ => Ok(()),
    }
}

/// The number of this process among those that were started with it on its machine, as the first
/// launcher says that knows it: Slurm sets MPICH's variables, too, but for this one.
pub(super) fn local_rank(variable: impl Fn(&str) -> Option<String>) -> usize {
    launched(&variable).find_map(|(one, _)| number(&variable, one.local)).unwrap_or(0)
}

/// Which of the launched processes this is, and where they meet: a port above torchrun's own. The
/// next one is for those who watch each other.
pub(super) fn seat(variable: impl Fn(&str) -> Option<String>) -> Result<Seat> {
    let Some((launcher, ranks)) = launched(&variable).next() else {
        return Ok(Seat { rank: 0, ranks: 1, meeting: None });
    };
    let refuse = |problem| Err(Error::Nccl { problem });
    let Some(rank) = number(&variable, launcher.rank).filter(|&rank| rank < ranks) else {
        let Launcher { rank: name, ranks: of, .. } = launcher;
        return refuse(format!("which needs a number below `{of}`, {ranks}, in `{name}`"));
    };
    let port = variable("MASTER_PORT").and_then(|port| port.parse::<u16>().ok());
    let port = port.filter(|&port| port < u16::MAX - 1);
    let (Some(host), Some(port)) = (variable("MASTER_ADDR"), port) else {
        let problem = "which needs `MASTER_ADDR`, the machine of rank 0, and `MASTER_PORT`, \
                       a number below 65534: the two ports after it must be free there";
        return refuse(problem.into());
    };
    Ok(Seat { rank, ranks, meeting: Some((host, port + 1)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An environment.
    fn variables(set: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        move |name| set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn several_processes_do_not_train_alone() {
        let check = |ranks: usize, set: &[(&str, &str)], expected: Option<&str>| {
            let error = check_launch(ranks, variables(set)).err().map(|error| error.to_string());
            match (expected, &error) {
                (None, None) => {}
                (Some(part), Some(text)) => assert!(text.contains(part), "{text}"),
                _ => panic!("{error:?}, expected {expected:?}"),
            }
        };
        check(1, &[], None);
        check(1, &[("WORLD_SIZE", "1"), ("RANK", "0")], None);
        check(1, &[("WORLD_SIZE", "2"), ("RANK", "1")], Some("`parallel = \"nccl\"`"));
        check(1, &[("OMPI_COMM_WORLD_SIZE", "2")], Some("`parallel = \"mpi\"`"));
        check(1, &[("SLURM_STEP_NUM_TASKS", "4")], Some("srun"));
        check(1, &[("OMPI_COMM_WORLD_SIZE", "1"), ("WORLD_SIZE", "4")], Some("nccl"));
        check(2, &[("OMPI_COMM_WORLD_SIZE", "2"), ("WORLD_SIZE", "2")], None);
        check(1, &[("WORLD_SIZE", "many")], None);
    }

    #[test]
    fn a_process_knows_its_number_on_its_machine() {
        let check = |set: &[(&str, &str)], expected| {
            assert_eq!(local_rank(variables(set)), expected, "{set:?}");
        };
        check(&[], 0);
        check(&[("WORLD_SIZE", "4"), ("RANK", "3"), ("LOCAL_RANK", "1")], 1);
        check(&[("WORLD_SIZE", "4"), ("RANK", "3")], 0);
        check(&[("LOCAL_RANK", "1")], 0); // alone
        check(&[("SLURM_STEP_NUM_TASKS", "8"), ("SLURM_LOCALID", "3")], 3);
        // One torchrun per machine, started by Slurm.
        let slurm = [("SLURM_STEP_NUM_TASKS", "2"), ("SLURM_LOCALID", "0")];
        check(&[&slurm[..], &[("WORLD_SIZE", "8"), ("LOCAL_RANK", "2")]].concat(), 2);
        let slurm = [("SLURM_STEP_NUM_TASKS", "8"), ("SLURM_LOCALID", "3")];
        check(&[&slurm[..], &[("PMI_SIZE", "8"), ("PMI_RANK", "7")]].concat(), 3);
    }

    #[test]
    fn ranks_meet_where_the_launcher_says() {
        type Expected<'a> = (usize, usize, Option<(&'a str, u16)>);
        let check = |set: &[(&str, &str)], expected: Result<Expected<'_>, &str>| match (
            seat(variables(set)),
            expected,
        ) {
            (Ok(seat), Ok((rank, ranks, meeting))) => {
                let meeting = meeting.map(|(host, port)| (host.to_owned(), port));
                assert_eq!(seat, Seat { rank, ranks, meeting });
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        };
        check(&[], Ok((0, 1, None)));
        let two = [("WORLD_SIZE", "2"), ("RANK", "1")];
        let at = |host, port| [&two[..], &[("MASTER_ADDR", host), ("MASTER_PORT", port)]].concat();
        check(&at("node-1", "29500"), Ok((1, 2, Some(("node-1", 29501)))));
        check(&at("fe80::1", "29500"), Ok((1, 2, Some(("fe80::1", 29501)))));
        check(&at("node-1", "65534"), Err("`MASTER_PORT`"));
        check(&two, Err("`MASTER_ADDR`"));
        check(&[("WORLD_SIZE", "2")], Err("a number below `WORLD_SIZE`, 2, in `RANK`"));
        check(&[("WORLD_SIZE", "2"), ("RANK", "2")], Err("in `RANK`"));
        let ompi = [("OMPI_COMM_WORLD_SIZE", "3"), ("OMPI_COMM_WORLD_RANK", "2")];
        let ompi = [&ompi[..], &[("MASTER_ADDR", "a"), ("MASTER_PORT", "1")]].concat();
        check(&ompi, Ok((2, 3, Some(("a", 2)))));
    }
}
