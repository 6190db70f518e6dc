//! Training by several processes, tested where the machine has Open MPI.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Failure,
    command::{cargo, output, run, target_folder},
};

/// For the tests: a `roclip-train` with the feature `mpi`, or why there is none.
pub(crate) const PROGRAM: &str = "ROCLIP_TRAIN_MPI";
pub(crate) const LACKS: &str = "ROCLIP_MPI_LACKS";
/// Processes of a job.
const RANKS: &str = "2";

/// What is missing for the feature `mpi`, with the package that Debian has it in.
pub(crate) fn lacks() -> Option<&'static str> {
    let has = |program: &str| output(Command::new(program).arg("--version")).is_ok();
    if !has("mpicc") {
        Some("this machine lacks `mpicc` (Debian: `libopenmpi-dev`)")
    } else if !has("mpirun") {
        Some("this machine lacks `mpirun` (Debian: `openmpi-bin`)")
    } else if !has_libclang() {
        Some("this machine lacks libclang, which reads MPI's headers (Debian: `libclang-dev`)")
    } else {
        None
    }
}

/// Looks where bindgen looks first.
fn has_libclang() -> bool {
    let is_it = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with("libclang") && name.contains(".so")
    };
    let holds = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| is_it(entry.path()))
    };
    let told = env::var_os("LIBCLANG_PATH").map(PathBuf::from);
    let asked = output(Command::new("llvm-config").arg("--libdir")).ok();
    let asked = asked.map(|text| PathBuf::from(text.trim()));
    let triple = format!("/usr/lib/{}-linux-gnu", env::consts::ARCH);
    let usual = ["/usr/lib", "/usr/lib64", "/usr/local/lib", &triple].map(PathBuf::from);
    let versioned = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let versioned = versioned.map(|entry| entry.path().join("lib"));
    told.into_iter().chain(asked).chain(usual).chain(versioned).any(|folder| holds(&folder))
}

/// Where the program with the feature lies, beside the ordinary one.
pub(crate) fn program() -> PathBuf {
    folder().join("release/roclip-train")
}

fn folder() -> PathBuf {
    target_folder().join("mpi")
}

/// Builds the program, and lets the ranks of a job find out whether they work together.
pub(crate) fn check() -> Result<(), Failure> {
    if let Some(lacks) = lacks() {
        return Err(Failure::Refused(lacks.into()));
    }
    let lint = ["clippy", "--release", "--workspace", "--all-targets", "--features", "trainer/mpi"];
    run(cargo(&lint).args(["--", "-D", "warnings"]))?;
    run(cargo(&["build"]).args(selection()).args(["--bin", "roclip-train"]))?;
    let job = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", RANKS];
    let runner = format!("target.\"cfg(all())\".runner = {job:?}");
    let mut test = cargo(&["test", "--quiet", "--config", &runner]);
    test.args(selection()).args(["--test", "ranks", "--", "--exact", "mpi_conforms"]);
    // A test may run in a container, as root.
    test.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    run(&mut test)
}

/// The packages and features of the ordinary build and the one feature more, so that `trainer` alone
/// is compiled again; what comes out goes to a folder of its own.
fn selection() -> Vec<OsString> {
    let words = ["--release", "--workspace", "--exclude", "server", "--features", "trainer/mpi"];
    let build = format!("build.build-dir = {:?}", target_folder().display().to_string());
    let mut selection: Vec<OsString> = words.map(Into::into).to_vec();
    selection.extend(["--config".into(), build.into(), "--target-dir".into(), folder().into()]);
    selection
}
