//! MPI jobs of `roclip-train`, where this machine can have them.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{self, Write},
    process::Command,
};

/// Path of a `roclip-train` with the feature `mpi`; `cargo xtask test` sets it where it can.
const PROGRAM: &str = "ROCLIP_TRAIN_MPI";
/// Why it cannot.
const LACKS: &str = "ROCLIP_MPI_LACKS";

/// The program that ranks run; without one, says that `test` is skipped and why.
pub fn program(test: &str) -> Option<OsString> {
    let program = env::var_os(PROGRAM);
    if program.is_none() {
        let unset = || format!("{PROGRAM} is not set (`cargo xtask test` sets it)");
        let why = env::var(LACKS).unwrap_or_else(|_| unset());
        writeln!(io::stderr(), "skipped {test}: {why}").expect("stderr is open");
    }
    program
}

/// A job of `ranks`, more than there are cores if need be; the program's words follow.
pub fn job(ranks: usize, program: &OsString) -> Command {
    let mut mpirun = Command::new("mpirun");
    mpirun.args(["--oversubscribe", "--bind-to", "none", "-n", &ranks.to_string()]).arg(program);
    mpirun.env("RAYON_NUM_THREADS", "1");
    // A test may run in a container, as root.
    mpirun.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    mpirun
}

/// Kills, by SIGKILL, the process of `rank` of a job whose words hold `mark`; whether there was one.
pub fn kill_rank(rank: usize, mark: &str) -> bool {
    let variable = format!("OMPI_COMM_WORLD_RANK={rank}");
    let has = |file: &str, pid: &str, word: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default(); // it may be gone
        bytes.split(|&byte| byte == 0).any(|part| part == word.as_bytes())
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut pids = pids.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let found = pids.find(|pid| has("environ", pid, &variable) && has("cmdline", pid, mark));
    found.is_some_and(|pid| {
        let killed = Command::new("kill").args(["-KILL", &pid]).status();
        killed.is_ok_and(|status| status.success())
    })
}
