//! A training step of ours beside PyTorch's: `scripts/bench-train`.

use std::{
    ffi::OsString,
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::{
    Failure,
    command::{cargo, run, with_tools},
    peers::PEERS,
    root, say,
};

/// Makes the peers' environment, builds our half, and runs the comparison; `arguments` go to it.
pub(crate) fn compare(arguments: Vec<OsString>) -> Result<(), Failure> {
    PEERS.set_up()?;
    let mut bench = Command::new(PEERS.interpreter());
    bench.args(["-B", "scripts/bench_train/bench.py", "--ours"]).arg(ours()?); // -B: no caches there
    with_tools(bench.args(arguments).current_dir(root()));
    run(&mut bench)
}

/// What the tests are built with: alone, the trainer would have candle compiled anew with fewer
/// features.
pub(crate) const TOGETHER: [&str; 3] = ["--workspace", "--exclude", "server"];

/// Builds `trainer/benches/side_by_side` and returns the program.
fn ours() -> Result<PathBuf, Failure> {
    say("building the benchmark (a first build takes several minutes)");
    let mut build = cargo(&["build", "--release"]);
    build.args(TOGETHER).args(["--bench", "side_by_side"]);
    build.args(["--message-format", "json-render-diagnostics"]);
    let built = build.stderr(Stdio::inherit()).output();
    let built = built.map_err(|error| Failure::Refused(format!("cannot start cargo: {error}")))?;
    if !built.status.success() {
        return Err(Failure::Bad(format!("the benchmark does not build ({})", built.status)));
    }
    executable(&String::from_utf8_lossy(&built.stdout))
        .map(PathBuf::from)
        .ok_or_else(|| Failure::Bad("cargo did not say where the benchmark lies".into()))
}

/// The path in cargo's message about the benchmark; cargo writes one JSON object per line.
fn executable(messages: &str) -> Option<&str> {
    let mut lines = messages.lines().filter(|line| line.contains(r#""name":"side_by_side""#));
    let (_, rest) = lines.find_map(|line| line.split_once(r#""executable":""#))?;
    rest.split_once('"').map(|(path, _)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_in_the_message_of_the_benchmark() {
        let messages = r#"
            {"reason":"compiler-artifact","target":{"name":"trainer"},"executable":"/t/roclip-train"}
            {"reason":"compiler-artifact","target":{"name":"side_by_side"},"executable":"/t/deps/a-1"}
            {"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages), Some("/t/deps/a-1"));
        assert_eq!(executable(r#"{"target":{"name":"side_by_side"},"executable":null}"#), None);
    }
}
