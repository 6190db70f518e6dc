//! The programs of the workspace: built as the demo's are, run to their end, killed at a moment.

use std::{
    env,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Time that one run of a program may take, on a machine that is busy with others.
const TIMEOUT: Duration = Duration::from_secs(180);
/// From one look at a running program to the next.
const POLL: Duration = Duration::from_millis(2);
/// The one program that is built alone.
const SERVER: &str = "roclip-serve";

/// Builds the programs, in the profile of this test, and gives the path of one.
///
/// `cargo xtask` builds with the same two commands, so that nothing is left to do after it. The
/// server is built alone: built together, it would share the features of the others.
pub fn program(name: &str) -> PathBuf {
    static BUILT: Mutex<Vec<&[&str]>> = Mutex::new(Vec::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let test = env::current_exe().expect("the test has a path");
    let folder = test.parent().and_then(Path::parent).expect("`<target>/<profile>/deps/<test>`");
    let packages: &[&str] = match name {
        SERVER => &["--package", "server"],
        _ => &["--workspace", "--exclude", "server"],
    };
    if !built.contains(&packages) {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
        cargo.args(["build", "--quiet"]).args(packages);
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status();
        assert!(status.is_ok_and(|status| status.success()), "`{name}` does not build");
        built.push(packages);
    }
    folder.join(name).with_extension(env::consts::EXE_EXTENSION)
}

/// What came of a program.
#[derive(Debug)]
pub struct Ended {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Its results.
    pub stdout: String,
    /// What it told people.
    pub stderr: String,
}

/// Runs a program to its end. Panics if that takes longer than it may.
pub fn run(command: &mut Command) -> Ended {
    run_until(command, || false)
}

/// Runs a program to its end, which may take as long as `limit`.
pub fn run_within(command: &mut Command, limit: Duration) -> Ended {
    watched(command, limit, || false)
}

/// Runs a program until its end or, by SIGKILL, until `is_moment` says so.
pub fn run_until(command: &mut Command, is_moment: impl FnMut() -> bool) -> Ended {
    watched(command, TIMEOUT, is_moment)
}

fn watched(command: &mut Command, limit: Duration, mut is_moment: impl FnMut() -> bool) -> Ended {
    let pipes = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stdout = read(child.stdout.take().expect("stdout is piped"));
    let stderr = read(child.stderr.take().expect("stderr is piped"));
    let (started, mut is_late) = (Instant::now(), false);
    while child.try_wait().expect("a child can be waited for").is_none() {
        is_late = started.elapsed() > limit;
        if is_late || is_moment() {
            kill(&mut child);
            break;
        }
        thread::sleep(POLL);
    }
    let status = child.wait().expect("a child can be waited for");
    let text = |reader: JoinHandle<String>| reader.join().expect("a reader does not panic");
    let ended = Ended { code: status.code(), stdout: text(stdout), stderr: text(stderr) };
    assert!(!is_late, "{command:?} was killed after {limit:?}: {ended:?}");
    ended
}

fn kill(child: &mut Child) {
    let _ = child.kill(); // it may have ended by itself
}

fn read(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut text = Vec::new();
        let _ = pipe.read_to_end(&mut text); // what was read until then is given
        String::from_utf8_lossy(&text).into_owned()
    })
}
