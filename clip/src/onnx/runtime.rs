//! Finding and loading ONNX Runtime's library, once per process.

use std::{
    env,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
};

use ort::environment::Environment;

use crate::{Error, Result};

/// Alive until the process ends, as ONNX Runtime asks.
static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
static LOADING: Mutex<()> = Mutex::new(());

const FIX: &str = "give the path of ONNX Runtime's library (1.24 or later) with `--ort-lib` or \
                   `ORT_DYLIB_PATH`; the Python wheel `onnxruntime` has it as \
                   `onnxruntime/capi/libonnxruntime.so.*`";

/// Loads the library: the one named, else the one that lies beside the program.
///
/// The first call of a process decides; later ones do nothing. Libraries read no environment
/// variable: a program passes the value of `ORT_DYLIB_PATH`.
pub fn load_runtime(library: Option<&Path>) -> Result<()> {
    let _one_at_a_time = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    if ENVIRONMENT.get().is_some() {
        return Ok(());
    }
    let path = find(library)?;
    let refuse = |reason: String| {
        Error::Runtime(format!("cannot load `{}`: {reason}; {FIX}", path.display()))
    };
    let builder = ort::init_from(&path).map_err(|error| refuse(error.to_string()))?;
    let built = builder.with_name("roclip").with_telemetry(false).build();
    let environment = built.map_err(|error| refuse(error.to_string()))?;
    ENVIRONMENT.get_or_init(|| environment);
    Ok(())
}

/// The environment that [`load_runtime`] made.
pub(super) fn environment() -> Result<&'static Environment> {
    let missing = || Error::Runtime("ONNX Runtime was not loaded before its first use".into());
    ENVIRONMENT.get().ok_or_else(missing)
}

fn find(library: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = library {
        // Absolute, because ort looks for relative paths beside the program first.
        let found = path.canonicalize();
        return found.map_err(|source| {
            Error::Runtime(format!("cannot load `{}`: {source}; {FIX}", path.display()))
        });
    }
    let name = format!("{}onnxruntime{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX);
    let beside = env::current_exe().ok().and_then(|program| Some(program.parent()?.join(&name)));
    beside
        .filter(|path| path.is_file())
        .ok_or_else(|| Error::Runtime(format!("`{name}` is not beside the program; {FIX}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_missing_or_is_none_says_the_fix() {
        let missing = load_runtime(Some(Path::new("no/such.so"))).expect_err("missing").to_string();
        assert!(missing.starts_with("cannot load `no/such.so`: "), "{missing}");
        assert!(missing.contains("--ort-lib"), "{missing}");
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let broken = load_runtime(Some(file.path())).expect_err("not a library").to_string();
        assert!(broken.contains("--ort-lib"), "{broken}");
        let beside = load_runtime(None).expect_err("nothing beside a test").to_string();
        assert!(beside.contains("is not beside the program"), "{beside}");
    }
}
