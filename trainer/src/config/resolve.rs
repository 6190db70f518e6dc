//! File and `--set` become one checked configuration.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Config, MethodName, Problems};
use crate::error::{Error, Result};

/// Reads `file`, applies `key=value` settings and the output folder `out`, fills in what depends on
/// the method, makes paths absolute, and checks. A path in the file starts from the file's folder.
///
/// A path that is not UTF-8 is refused: the resolved configuration is written as TOML.
pub fn open(file: &Path, settings: &[String], out: Option<&Path>) -> Result<Config> {
    let refuse = |problems| Error::Config { file: file.to_owned(), problems };
    let text =
        fs::read_to_string(file).map_err(|source| Error::Read { path: file.to_owned(), source })?;
    // Parsed as it stands first, so that an error names the line that the user sees.
    toml::from_str::<Config>(&text).map_err(|error| refuse(vec![one_line(&error)]))?;
    let mut table: toml::Table =
        toml::from_str(&text).map_err(|error| refuse(vec![one_line(&error)]))?;
    for setting in settings {
        set(&mut table, setting).map_err(|problem| refuse(vec![problem]))?;
    }
    let mut config: Config =
        table.try_into().map_err(|error: toml::de::Error| refuse(vec![one_line(&error)]))?;
    let is_augmented = config.method.name != MethodName::Clip; // a part of the defences
    config.augment.image.get_or_insert(is_augmented);
    config.augment.text.get_or_insert(is_augmented);
    if let Some(out) = out {
        config.output.folder = absolute(out)?;
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    for path in config.paths() {
        *path = absolute(&folder.join(&*path))?;
    }
    let mut problems = Problems::default();
    config.check(&mut problems);
    let lines = problems.into_lines();
    if lines.is_empty() { Ok(config) } else { Err(refuse(lines)) }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    let refuse = |source| Error::Read { path: path.to_owned(), source };
    let path = std::path::absolute(path).map_err(refuse)?;
    if path.to_str().is_some() { Ok(path) } else { Err(Error::PathText { path }) }
}

impl Config {
    /// Every path that the file names; an absolute one stays as it is.
    fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let given = !self.data.manifest.as_os_str().is_empty();
        let manifest = given.then_some(&mut self.data.manifest);
        let Self { model, augment, monitor, output, .. } = self;
        let optional = [
            manifest,
            model.tokenizer.as_mut(),
            augment.thesaurus.as_mut(),
            monitor.test.as_mut(),
            monitor.classes.as_mut(),
            monitor.templates.as_mut(),
            monitor.ledger.as_mut(),
            Some(&mut output.folder),
        ];
        optional.into_iter().flatten()
    }
}

/// `optim.lr=1e-3`: a value is TOML if it parses, a string otherwise.
fn set(table: &mut toml::Table, setting: &str) -> Result<(), String> {
    let malformed = || format!("`--set {setting}`: expected `key=value`");
    let (key, value) = setting.split_once('=').ok_or_else(malformed)?;
    let value = value.trim();
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}"));
    let value = match parsed.ok().and_then(|mut table| table.remove("value")) {
        Some(value) => value,
        None => toml::Value::String(value.to_owned()),
    };
    let mut names: Vec<&str> = key.trim().split('.').collect();
    let last = names.pop().filter(|name| !name.is_empty()).ok_or_else(malformed)?;
    let mut at = table;
    for name in names {
        let inner = at.entry(name).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = inner
            .as_table_mut()
            .ok_or_else(|| format!("`--set {setting}`: `{name}` is no table"))?;
    }
    at.insert(last.to_owned(), value);
    Ok(())
}

/// The message and its place, without the picture that toml draws.
fn one_line(error: &toml::de::Error) -> String {
    let text = error.to_string();
    let place = text.lines().next().filter(|line| line.contains("at line"));
    let place = place.and_then(|line| line.split_once("at ")).map(|(_, place)| place);
    match place {
        Some(place) => format!("{place}: {}", error.message()),
        None => error.message().replace('\n', " "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str, settings: &[&str]) -> Result<Config> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("run.toml");
        fs::write(&file, text).expect("writable");
        open(&file, &settings.iter().map(ToString::to_string).collect::<Vec<_>>(), None)
    }

    #[test]
    fn settings_win_over_the_file_and_may_make_tables() -> Result<()> {
        let text = "[data]\nmanifest = '/a.csv'\n[optim]\nlr = 0.5";
        let config = resolved(text, &["optim.lr=1e-3", "method.name=roclip", "seed=7"])?;
        assert_eq!((config.optim.lr, config.seed), (1e-3, 7));
        assert_eq!(config.method.name, super::super::MethodName::Roclip);
        Ok(())
    }

    #[test]
    fn a_typo_in_file_or_setting_is_one_line() {
        let check = |text: &str, settings: &[&str], expected: &str| {
            let error = resolved(text, settings).expect_err("refused");
            let Error::Config { problems, .. } = error else { panic!("{error}") };
            assert!(problems.len() == 1 && problems[0].contains(expected), "{problems:?}");
            assert!(!problems[0].contains('\n'), "{problems:?}");
        };
        let good = "[data]\nmanifest = '/a.csv'\n";
        check("[data]\nmanifst = 'a'\n", &[], "line 2");
        check("[data]\nmanifst = 'a'\n", &[], "manifst");
        check(good, &["optim.learning=1"], "learning");
        check(good, &["lr"], "key=value");
        check(good, &["optim.lr=fast"], "fast");
    }

    #[test]
    fn the_resolved_configuration_is_valid_input() -> Result<()> {
        let config = resolved("[data]\nmanifest = '/a.csv'\n[method]\nname = 'roclip'", &[])?;
        let text = toml::to_string(&config).expect("TOML can hold it");
        assert_eq!(resolved(&text, &[])?, config);
        Ok(())
    }

    #[test]
    fn roclip_is_augmented_unless_told_otherwise() -> Result<()> {
        let check = |settings: &[&str], expected: [bool; 2]| -> Result<()> {
            let augment = resolved("[data]\nmanifest = 'a.csv'", settings)?.augment;
            assert_eq!([augment.image, augment.text], expected.map(Some));
            Ok(())
        };
        check(&[], [false, false])?;
        check(&["augment.image=true"], [true, false])?;
        check(&["method.name=roclip"], [true, true])?;
        check(&["method.name=roclip", "augment.text=false"], [true, false])
    }

    #[test]
    fn paths_are_absolute_and_start_from_the_file() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("run.toml");
        fs::write(&file, "[data]\nmanifest = 'a.csv'\n[output]\nfolder = '.'").expect("writable");
        let config = open(&file, &[], None)?;
        assert_eq!(config.data.manifest, folder.path().join("a.csv"));
        assert_eq!(config.output.folder, folder.path());
        let config = open(&file, &[], Some(Path::new("out")))?;
        let here = std::env::current_dir().expect("there is one");
        assert_eq!(config.output.folder, here.join("out"));
        Ok(())
    }

    #[cfg(unix)]
    #[test]
    fn a_path_that_is_not_utf8_is_refused() {
        use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("run.toml");
        fs::write(&file, "[data]\nmanifest = 'a.csv'").expect("writable");
        let out = Path::new(OsStr::from_bytes(b"o\xff"));
        let error = open(&file, &[], Some(out)).expect_err("refused");
        assert!(matches!(error, Error::PathText { .. }), "{error}");
    }
}
