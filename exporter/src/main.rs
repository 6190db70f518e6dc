//! `roclip-export`: see the library.

use std::{env, path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    let ort_library = env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty());
    terminal::run("roclip-export", || exporter::run(ort_library.map(PathBuf::from)))
}
