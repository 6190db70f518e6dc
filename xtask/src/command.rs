//! Running other programs.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::{Failure, python, root, say, tools};

/// `cargo ARGUMENTS…` in the repository, with the tools that builds and tests look for.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(root());
    // What `cargo run` says of xtask; build scripts that watch it would run again without need.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    with_tools(&mut command);
    command
}

/// Gives `command` the paths of protoc, ONNX Runtime, the Python of the tests and NVRTC.
pub(crate) fn with_tools(command: &mut Command) {
    command.env("PROTOC", tools::protoc()).env("ORT_DYLIB_PATH", tools::onnx_runtime());
    command.env("ROCLIP_PYTHON", python::light_interpreter());
    if let Some(folder) = tools::nvrtc() {
        command.env("ROCLIP_NVRTC", folder);
    }
}

/// Runs to the end, its output going where ours goes. A failure names the command.
pub(crate) fn run(command: &mut Command) -> Result<(), Failure> {
    let status = command.status().map_err(|error| cannot_start(command, &error))?;
    match status.success() {
        true => Ok(()),
        false => Err(Failure::Bad(format!("`{}` failed ({status})", shown(command)))),
    }
}

/// Runs to the end and returns stdout. A failure shows the end of stderr.
pub(crate) fn output(command: &mut Command) -> Result<String, Failure> {
    let output = command.output().map_err(|error| cannot_start(command, &error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = stderr.lines().collect();
    let tail = lines[lines.len().saturating_sub(12)..].join("\n  ");
    Err(Failure::Bad(format!("`{}` failed ({})\n  {tail}", shown(command), output.status)))
}

/// Runs to the end; each line of stdout is shown and handed to `read`. Returns whether it succeeded.
pub(crate) fn follow(command: &mut Command, mut read: impl FnMut(&str)) -> Result<bool, Failure> {
    let mut child =
        command.stdout(Stdio::piped()).spawn().map_err(|error| cannot_start(command, &error))?;
    let stdout = child.stdout.take().expect("stdout is piped");
    for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        say(&line);
        read(&line);
    }
    let status = child.wait().map_err(|error| cannot_start(command, &error))?;
    Ok(status.success())
}

/// Builds what `cargo` names, errors and warnings going where ours go; returns cargo's messages,
/// one JSON object per line.
pub(crate) fn messages(cargo: &mut Command) -> Result<String, Failure> {
    cargo.args(["--message-format", "json-render-diagnostics"]);
    let built = cargo.stderr(Stdio::inherit()).output();
    let built = built.map_err(|error| cannot_start(cargo, &error))?;
    match built.status.success() {
        true => Ok(String::from_utf8_lossy(&built.stdout).into_owned()),
        false => Err(Failure::Bad(format!("`{}` failed ({})", shown(cargo), built.status))),
    }
}

/// The program that cargo's messages name as that of a target.
pub(crate) fn artifact(messages: &str, target: &str) -> Result<PathBuf, Failure> {
    let name = format!(r#""name":"{target}""#);
    let mut lines = messages.lines().filter(|line| line.contains(&name));
    let path = lines.find_map(|line| {
        let (_, rest) = line.split_once(r#""executable":""#)?;
        rest.split_once('"').map(|(path, _)| PathBuf::from(path))
    });
    path.ok_or_else(|| Failure::Bad(format!("cargo did not say where `{target}` lies")))
}

/// Where cargo puts release binaries.
pub(crate) fn release_folder() -> PathBuf {
    target_folder().join("release")
}

/// Cargo's build folder, as its environment sets it.
pub(crate) fn target_folder() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

fn cannot_start(command: &Command, error: &std::io::Error) -> Failure {
    Failure::Refused(format!("cannot start `{}`: {error}", shown(command)))
}

fn shown(command: &Command) -> String {
    let parts = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = parts.map(|part| part.to_string_lossy().into_owned()).collect();
    let program = words[0].rsplit('/').next().unwrap_or_default().to_owned();
    let mut line = [vec![program], words[1..].to_vec()].concat().join(" ");
    if let Some((end, _)) = line.char_indices().nth(120) {
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_in_the_message_of_the_target() {
        let messages = r#"
            {"reason":"compiler-artifact","target":{"name":"trainer"},"executable":"/t/roclip-train"}
            {"reason":"compiler-artifact","target":{"name":"side_by_side"},"executable":null}
            {"reason":"compiler-artifact","target":{"name":"side_by_side"},"executable":"/t/deps/a-1"}
            {"reason":"build-finished","success":true}"#;
        let found = |target| artifact(messages, target).ok();
        assert_eq!(found("side_by_side"), Some(PathBuf::from("/t/deps/a-1")));
        assert_eq!(found("side"), None);
        let none = r#"{"target":{"name":"side_by_side"},"executable":null}"#;
        assert!(artifact(none, "side_by_side").is_err());
    }
}
