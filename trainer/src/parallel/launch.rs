//! What started this process, by its environment.

use crate::error::{Error, Result};

/// Variables in which Open MPI, MPICH, Slurm and torchrun say how many processes they have started.
const SIZES: [&str; 4] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", TORCHRUN];
const TORCHRUN: &str = "WORLD_SIZE";

/// Refuses to train alone beside others that were started with this process: each of them would
/// train on all data and write into the same folder. `variable` looks into the environment.
pub fn check_launch(ranks: usize, variable: impl Fn(&str) -> Option<String>) -> Result<()> {
    let size = |name| variable(name).and_then(|text| text.parse::<usize>().ok());
    let several = |name| Some((name, size(name).filter(|&size| size > 1)?));
    let found = SIZES.into_iter().find_map(several);
    let Some((name, processes)) = found.filter(|_| ranks == 1) else { return Ok(()) };
    let remedy = match name {
        TORCHRUN => "torchrun would need NCCL, which this program does not have; `mpirun` works",
        "SLURM_STEP_NUM_TASKS" => "`srun --mpi=pmix` and `parallel = \"mpi\"` join them",
        _ => "`parallel = \"mpi\"` joins them",
    };
    Err(Error::Launch { variable: name, processes, remedy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_processes_do_not_train_alone() {
        let check = |ranks: usize, set: &[(&str, &str)], expected: Option<&str>| {
            let variable =
                |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            let error = check_launch(ranks, variable).err().map(|error| error.to_string());
            match (expected, &error) {
                (None, None) => {}
                (Some(part), Some(text)) => assert!(text.contains(part), "{text}"),
                _ => panic!("{error:?}, expected {expected:?}"),
            }
        };
        check(1, &[], None);
        check(1, &[("WORLD_SIZE", "1"), ("RANK", "0")], None);
        check(1, &[("WORLD_SIZE", "2"), ("RANK", "1")], Some("NCCL"));
        check(
            1,
            &[("OMPI_COMM_WORLD_SIZE", "2"), ("WORLD_SIZE", "2")],
            Some("`parallel = \"mpi\"`"),
        );
        check(1, &[("SLURM_STEP_NUM_TASKS", "4")], Some("srun"));
        check(1, &[("OMPI_COMM_WORLD_SIZE", "1"), ("WORLD_SIZE", "4")], Some("NCCL"));
        check(2, &[("OMPI_COMM_WORLD_SIZE", "2"), ("WORLD_SIZE", "2")], None);
        check(1, &[("WORLD_SIZE", "many")], None);
    }
}
