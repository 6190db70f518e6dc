//! Python environments, made from pinned requirements and kept until those change.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    Failure,
    command::{output, run, target_folder},
    root, say,
    tools::{self, cannot, make_folder, rename},
};

/// The machine's own Python; its pip fills folders of ours only, also as root.
pub(crate) fn system() -> Command {
    let mut command = Command::new("python3");
    command.env("PIP_ROOT_USER_ACTION", "ignore");
    command
}

/// An environment in the build folder.
pub(crate) struct Environment {
    /// Of the environment's folder.
    pub(crate) name: &'static str,
    /// Of the requirements file, below the repository.
    pub(crate) requirements: &'static str,
    /// Whether the wheels are kept under `tools/`, so that it can be made again offline.
    pub(crate) keeps_wheels: bool,
}

/// What the test command needs: small packages, no torch.
pub(crate) const LIGHT: Environment = Environment {
    name: "python",
    requirements: "scripts/peers/requirements-light.txt",
    keeps_wheels: true,
};

/// The interpreter of [`LIGHT`], whether it is there or not.
pub(crate) fn light_interpreter() -> PathBuf {
    LIGHT.interpreter()
}

/// Fills a folder with pinned packages, without what they need, for a Python that has the rest.
pub(crate) fn packages(requirements: &str, folder: &Path) -> Result<(), Failure> {
    let mut pip = system();
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    pip.args(["--only-binary=:all:", "--no-compile", "--requirement"])
        .arg(root().join(requirements));
    run(pip.arg("--no-warn-conflicts").arg("--target").arg(folder))
        .map_err(|_| tools::pip_failed(&format!("`{requirements}`")))
}

impl Environment {
    fn folder(&self) -> PathBuf {
        target_folder().join(self.name)
    }

    /// Its `python`.
    pub(crate) fn interpreter(&self) -> PathBuf {
        self.folder().join("bin/python")
    }

    /// Makes the environment unless one of the same requirements is there.
    pub(crate) fn set_up(&self) -> Result<(), Failure> {
        let is_new = "import sys; sys.exit(sys.version_info < (3, 11))"; // what the pins ask for
        let version = output(system().arg("--version"))?;
        output(system().args(["-c", is_new])).map_err(|_| {
            let found = version.trim();
            Failure::Refused(format!(
                "the peers of the tests need Python 3.11 or newer, not {found}"
            ))
        })?;
        let requirements = root().join(self.requirements);
        let mut pins = fs::read_to_string(&requirements)
            .map_err(|error| cannot("read", &requirements, &error))?;
        pins += &format!("# for {version}"); // wheels are for one version
        let stamp = self.folder().join("requirements.stamp");
        if fs::read_to_string(&stamp).is_ok_and(|made_from| made_from == pins) {
            return Ok(());
        }
        say(&format!("making the Python environment of `{}`", self.requirements));
        let folder = self.folder();
        let _ = fs::remove_dir_all(&folder); // left by an interrupted run, or out of date
        // Debian splits `ensurepip` off; the machine's own pip fills the environment instead.
        run(system().args(["-m", "venv", "--without-pip"]).arg(&folder))?;
        let site = output(
            Command::new(self.interpreter())
                .args(["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]),
        )?;
        self.install(&requirements, &pins, Path::new(site.trim()))?;
        fs::write(&stamp, pins).map_err(|error| cannot("write", &stamp, &error))
    }

    fn install(&self, requirements: &Path, pins: &str, site: &Path) -> Result<(), Failure> {
        let pip = |verb: &str| {
            let mut command = system();
            command.args(["-m", "pip", verb, "--quiet", "--disable-pip-version-check"]);
            command.arg("--requirement").arg(requirements);
            command
        };
        let failed = |_| tools::pip_failed(&format!("`{}`", self.requirements));
        // The machine's own packages are not ours to agree with.
        let into_site = |mut install: Command| {
            install.arg("--no-warn-conflicts").arg("--target").arg(site);
            run(&mut install).map_err(failed)
        };
        if !self.keeps_wheels {
            return into_site(pip("install"));
        }
        let wheels = tools::folder().join("wheels").join(self.name);
        let stamp = wheels.join("requirements.stamp");
        if !fs::read_to_string(&stamp).is_ok_and(|brought_for| brought_for == pins) {
            let partial = wheels.with_added_extension("partial");
            for old in [&partial, &wheels] {
                let _ = fs::remove_dir_all(old); // left by an interrupted run, or out of date
            }
            make_folder(&partial)?;
            let mut download = pip("download");
            run(download.arg("--only-binary=:all:").arg("--dest").arg(&partial)).map_err(failed)?;
            let inside = partial.join("requirements.stamp");
            fs::write(&inside, pins).map_err(|error| cannot("write", &inside, &error))?;
            rename(&partial, &wheels)?;
        }
        let mut install = pip("install");
        install.arg("--no-index").arg("--find-links").arg(wheels);
        into_site(install)
    }
}
