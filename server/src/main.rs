use std::{env, path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    let ort_library = env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty());
    terminal::run("roclip-serve", || server::run(ort_library.map(PathBuf::from)))
}
