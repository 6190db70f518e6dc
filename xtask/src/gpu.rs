//! Programs for machines with an NVIDIA GPU: `scripts/gpu-build`, `scripts/gpu-suite`.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use crate::{
    Failure,
    command::{artifact, cargo, messages, output, run, target_folder},
    python, root, say,
    tools::{self, cannot, make_folder},
};

/// Built together, with one set of features.
const PACKAGES: [&str; 6] =
    ["--release", "--package", "clip", "--package", "trainer", "--features=trainer/cuda"];
/// Bytes that may travel to a machine with a GPU.
const PACKAGE_MAX: u64 = 64 << 20;
/// What the package holds beside programs, below `scripts`.
const SCRIPTS: [&str; 7] = [
    "gpu_suite/run",
    "gpu_suite/suite.py",
    "gpu_suite/table.py",
    "gpu_suite/work.py",
    "gpu_suite/pictures.py",
    "bench_train/process.py",
    "bench_train/torch_step.py",
];
/// The packages of Python that it holds, too, in [`SITE`].
const REQUIREMENTS: &str = "scripts/gpu_suite/requirements.txt";
const SITE: &str = "site";
/// What a program asks of the machine with the GPU.
const NEEDS: &str = "it needs, where the GPU is: driver 580 or newer, a GPU of compute capability \
                     8.0 or above, and of CUDA 13 libnvrtc.so.13, libnvrtc-builtins.so.13.* and \
                     libcublasLt.so.13, as PyTorch's wheels bring them: name their folder in \
                     ROCLIP_CUDA_LIBRARIES, most often .../site-packages/nvidia/cu13/lib; ResNets \
                     are faster with libcudnn.so.9, which is looked for beside it, too";

/// One of them exists where there is a driver of NVIDIA's GPUs.
const DRIVERS: [&str; 2] = ["/proc/driver/nvidia/version", "/dev/dxg"];

/// Programs by the names that the package gives them.
type Programs = [(&'static str, PathBuf); 4];

/// Builds `roclip-train` for GPUs and lets NVRTC compile its kernels.
pub(crate) fn build() -> Result<(), Failure> {
    proved_programs().map(drop)
}

fn proved_programs() -> Result<Programs, Failure> {
    let began = Instant::now();
    tools::set_up()?;
    tools::set_up_nvrtc();
    let programs = programs()?;
    match tools::nvrtc() {
        Some(nvrtc) => {
            let mut proof = Command::new(&programs[3].1);
            run(proof.args(["--quiet", "ops::cuda::nvrtc"]).env("ROCLIP_NVRTC", nvrtc))?;
        }
        None => say("without NVRTC: that the kernels compile is not proved"),
    }
    run(Command::new(&programs[3].1).args([
        "--quiet",
        "ops::cuda::card",
        "ops::cuda::tests::alone",
    ]))?;
    let (_, program) = &programs[0];
    check_refusal(program)?;
    let (seconds, size) = (began.elapsed().as_secs(), mib(bytes(program)?));
    say(&format!("built in {seconds} s: {} ({size} MiB)", program.display()));
    if let Ok(libc) = output(Command::new("getconf").arg("GNU_LIBC_VERSION")) {
        say(&format!("it was linked with {}, and starts with that or a newer one", libc.trim()));
    }
    say(NEEDS);
    Ok(programs)
}

/// Without a GPU the program that was built for one says so, in one line, and writes nothing.
fn check_refusal(program: &Path) -> Result<(), Failure> {
    if DRIVERS.iter().any(|path| Path::new(path).exists()) {
        say("with a driver: what is said without one is not tried");
        return Ok(());
    }
    let folder = target_folder().join("gpu-refusal");
    make_anew(&folder)?;
    let (manifest, out) = (folder.join("train.csv"), folder.join("run"));
    fs::write(&manifest, "path,caption\na.png,a\n")
        .map_err(|error| cannot("write", &manifest, &error))?;
    let config = folder.join("run.toml");
    let text = "device = \"cuda\"\ndata.manifest = \"train.csv\"\n";
    fs::write(&config, text).map_err(|error| cannot("write", &config, &error))?;
    let mut refused = Command::new(program);
    refused.arg("run").arg("--config").arg(config).arg("--out").arg(&out);
    let ended = refused.output().map_err(|error| cannot("start", program, &error))?;
    let told = String::from_utf8_lossy(&ended.stderr);
    let is_refused = ended.status.code() == Some(2) && told.lines().count() == 1;
    match is_refused && told.contains("no NVIDIA driver") && !out.exists() {
        true => Ok(()),
        false => Err(Failure::Bad(format!(
            "without a GPU `roclip-train` ended with {}, expected one line, code 2 and no folder \
             of a run\n{told}",
            ended.status
        ))),
    }
}

/// Packs what measures on a GPU, and runs it here; `arguments` go to it.
pub(crate) fn suite(arguments: Vec<OsString>) -> Result<(), Failure> {
    let programs = proved_programs()?;
    let folder = target_folder().join("gpu-suite");
    let package = folder.join("package");
    let size = pack(&programs, &package)?;
    say(&format!(
        "packed {} MiB in {}: where the GPU is, start `run` in it",
        mib(size),
        package.display()
    ));
    let mut suite = Command::new(package.join("run"));
    run(suite.arg("--out").arg(folder.join("results")).args(arguments))
}

/// Builds all programs in a folder of their own, so that those without a GPU stay as they are.
fn programs() -> Result<Programs, Failure> {
    let build = |arguments: &[&str]| {
        let mut cargo = cargo(arguments);
        cargo.args(PACKAGES).env("CARGO_TARGET_DIR", target_folder().join("cuda"));
        messages(cargo.env("CARGO_PROFILE_RELEASE_STRIP", "symbols"))
    };
    say("building for a GPU (a first build takes several minutes)");
    let programs =
        build(&["build", "--bin=roclip-train", "--bench=side_by_side", "--bench=epoch"])?;
    let tests = build(&["test", "--no-run", "--lib"])?;
    Ok([
        ("roclip-train", artifact(&programs, "roclip-train")?),
        ("side_by_side", artifact(&programs, "side_by_side")?),
        ("epoch", artifact(&programs, "epoch")?),
        ("clip-tests", artifact(&tests, "clip")?),
    ])
}

/// Makes the folder anew; returns its bytes.
fn pack(programs: &Programs, folder: &Path) -> Result<u64, Failure> {
    make_anew(folder)?;
    let scripts = SCRIPTS.map(|script| root().join("scripts").join(script));
    let names = scripts.iter().map(|path| path.file_name().expect("a file").into());
    let named = names.zip(&scripts);
    let programs = programs.iter().map(|(name, path)| (OsString::from(name), path));
    let mut size = 0;
    for (name, from) in named.chain(programs) {
        let to = folder.join(name);
        size += fs::copy(from, &to).map_err(|error| cannot("write", &to, &error))?;
    }
    match python::packages(REQUIREMENTS, &folder.join(SITE)) {
        Ok(()) => size += bytes_below(&folder.join(SITE))?,
        Err(Failure::Bad(reason) | Failure::Refused(reason)) => {
            say(&format!("without open_clip, unless the other machine has it: {reason}"));
        }
    }
    let describe = ["describe", "--always", "--dirty", "--abbrev=12"];
    let commit = output(Command::new("git").args(describe).current_dir(root()));
    let commit = commit.map_or("null".into(), |commit| format!("\"{}\"", commit.trim()));
    let about = folder.join("about.json");
    let written = fs::write(&about, format!("{{\"commit\": {commit}}}\n"));
    written.map_err(|error| cannot("write", &about, &error))?;
    match size <= PACKAGE_MAX {
        true => Ok(size),
        false => Err(Failure::Bad(format!(
            "the package has {} MiB, more than the {} that may travel",
            mib(size),
            mib(PACKAGE_MAX)
        ))),
    }
}

/// An empty folder, whatever was in it.
fn make_anew(folder: &Path) -> Result<(), Failure> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|error| cannot("remove", folder, &error))?;
    }
    make_folder(folder)
}

fn bytes(file: &Path) -> Result<u64, Failure> {
    Ok(fs::metadata(file).map_err(|error| cannot("read", file, &error))?.len())
}

/// Bytes of all files in a folder and the folders in it.
fn bytes_below(folder: &Path) -> Result<u64, Failure> {
    let mut size = 0;
    for entry in fs::read_dir(folder).map_err(|error| cannot("read", folder, &error))? {
        let path = entry.map_err(|error| cannot("read", folder, &error))?.path();
        size += if path.is_dir() { bytes_below(&path)? } else { bytes(&path)? };
    }
    Ok(size)
}

fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
