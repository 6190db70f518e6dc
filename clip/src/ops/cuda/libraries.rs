//! Where NVIDIA's libraries lie.
#![cfg_attr(feature = "cuda", expect(unsafe_code, reason = "a library's start may do anything"))]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// NVRTC's other half, without the minor version: each NVRTC asks for its own by name, and finds what is loaded.
const BUILTINS: &str = "libnvrtc-builtins.so.13";

/// NVRTC's other half for CUDA 13, of whichever minor version lies in `folder`. If several do, all
/// of them: which one NVRTC asks for is known to it alone.
pub(super) fn builtins(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let shown = folder.display();
    let entries =
        fs::read_dir(folder).map_err(|error| format!("cannot read `{shown}`: {error}"))?;
    let is_one = |name: &str| {
        name.strip_prefix(BUILTINS).is_some_and(|rest| {
            let mut parts = rest.split('.'); // of `.0.88`
            parts.next() == Some("") && parts.all(|part| part.parse::<u32>().is_ok())
        })
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let named =
        |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(is_one);
    let mut found: Vec<PathBuf> = paths.filter(named).collect();
    found.sort();
    if found.is_empty() {
        return Err(format!("`{shown}` holds no `{BUILTINS}.*`"));
    }
    Ok(found)
}

/// A library of a folder: in it, or in that of its package beside CUDA's, as pip has it; otherwise
/// one that the system finds.
#[cfg(feature = "cuda")]
pub(super) fn open(
    folder: Option<&Path>,
    package: &str,
    library: &str,
) -> Option<libloading::Library> {
    let beside = Path::new("../..").join(package).join("lib");
    let places = folder.into_iter().flat_map(|folder| [folder.to_owned(), folder.join(&beside)]);
    let named = places.map(|folder| folder.join(library)).filter(|path| path.is_file());
    let mut paths = named.chain([library.into()]);
    // SAFETY: NVIDIA's library, whose start changes nothing that this program sees.
    paths.find_map(|path| unsafe { libloading::Library::new(path) }.ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_minor_version_beside_nvrtc_is_found() {
        let check = |files: &[&str], expected: &[&str]| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            for file in files {
                fs::write(folder.path().join(file), "").expect("a temporary folder");
            }
            let found = builtins(folder.path()).unwrap_or_default();
            let names: Vec<_> = found.iter().filter_map(|path| path.file_name()).collect();
            assert_eq!(names, expected, "of {files:?}");
        };
        let nvrtc = "libnvrtc.so.13";
        for name in ["libnvrtc-builtins.so.13.0", "libnvrtc-builtins.so.13.2", BUILTINS] {
            check(&[nvrtc, name], &[name]);
        }
        let linked = ["libnvrtc-builtins.so.13.1", "libnvrtc-builtins.so.13.1.80"];
        check(&linked, &linked);
        let others = ["libnvrtc-builtins.so.12.9", "libnvrtc-builtins.so.130.1"];
        check(&others, &[]);
        let others = ["libnvrtc-builtins.alt.so.13.0", "libnvrtc-builtins.so.13.0.sha256", nvrtc];
        check(&others, &[]);
        check(&[], &[]);
    }

    #[test]
    fn a_folder_that_lacks_it_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let name = folder.path().display();
        let problem = builtins(folder.path()).expect_err("an empty folder");
        assert_eq!(problem, format!("`{name}` holds no `libnvrtc-builtins.so.13.*`"));
        let problem = builtins(&folder.path().join("none")).expect_err("no folder");
        assert!(problem.starts_with(&format!("cannot read `{name}/none`: ")), "{problem}");
    }
}
