//! File and `--set` become one checked configuration.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Config, MethodName, Parts, Problems, Roclip, TokenizerSource, augment::Blur};
use crate::error::{Error, Result};

/// Reads `file`, applies `key=value` settings and the output folder `out`, fills in what depends on
/// the method, makes paths absolute, and checks. A path in the file starts from the file's folder.
///
/// A setting that makes a mistake is told by its own text, without the file. A path that is not
/// UTF-8 is refused: the resolved configuration is written as TOML.
pub fn open(file: &Path, settings: &[String], out: Option<&Path>) -> Result<Config> {
    let text =
        fs::read_to_string(file).map_err(|source| Error::Read { path: file.to_owned(), source })?;
    resolve(file, &text, settings, out)
}

/// [`open`] of a file that would hold `text`.
pub(crate) fn resolve(
    file: &Path,
    text: &str,
    settings: &[String],
    out: Option<&Path>,
) -> Result<Config> {
    let refuse = |problems| Error::Config { file: file.to_owned(), problems };
    let of_file = |error: toml::de::Error| refuse(vec![in_file(&error, text)]);
    let mut config: Config = toml::from_str(text).map_err(of_file)?;
    let mut table: toml::Table = toml::from_str(text).map_err(of_file)?;
    fill_in_published(&mut config, &table);
    let mut wrong = mistakes(&config, None, &[]);
    for setting in settings {
        config = set(&mut table, setting)
            .map_err(|problem| Error::Setting { problems: vec![of_setting(setting, &problem)] })?;
        wrong = mistakes(&config, Some(setting), &wrong);
    }
    let (in_settings, mut in_file): (Vec<_>, Vec<_>) =
        wrong.into_iter().partition(|(setting, _)| setting.is_some());
    if !in_file.is_empty() {
        in_file.extend(in_settings);
        return Err(refuse(in_file.into_iter().map(told).collect()));
    }
    if !in_settings.is_empty() {
        return Err(Error::Setting { problems: in_settings.into_iter().map(told).collect() });
    }
    let is_augmented = config.method.name != MethodName::Clip; // a part of the defences
    config.augment.image.get_or_insert(is_augmented);
    config.augment.text.get_or_insert(is_augmented);
    config.method.fill_in(config.optim.epochs);
    let mut blur = Blur::PUBLISHED;
    if config.method.name == MethodName::Sieve {
        blur = Blur::COARSE;
        let Parts { believer, scout, model } = config.parts();
        if believer > 0 {
            config.augment.from_epoch.get_or_insert(believer + 1);
        }
        let augmented = if scout > 0 { scout } else { (model / 2).max(1) };
        config.augment.epochs.get_or_insert(augmented);
        config.augment.blur_share.get_or_insert(1.0);
        // With a pool, only what an epoch trains on is asked.
        if !config.method.sieve().has_pool() {
            config.data.copies_max.get_or_insert(1);
        }
    }
    if let Some(out) = out {
        config.output.folder = absolute(out)?;
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    for path in config.paths() {
        *path = absolute(&folder.join(&*path))?;
    }
    config.model.resolve()?;
    let of_sizes = mistakes(&config, None, &[]); // of a pre-trained model, known only now
    if !of_sizes.is_empty() {
        return Err(refuse(of_sizes.into_iter().map(told).collect()));
    }
    let clip = config.clip().expect("`check` refused an unknown preset");
    config.augment.resolve_blur(clip.image.image_size(), blur);
    Ok(config)
}

/// What is wrong, and the setting that brought it, unless the file did.
type Mistake<'a> = (Option<&'a str>, String);

/// Everything that is wrong with a configuration. `before` is what was wrong before its last
/// `setting`: that one brought what is new, and what is wrong with its own key.
fn mistakes<'a>(
    config: &Config,
    setting: Option<&'a str>,
    before: &[Mistake<'a>],
) -> Vec<Mistake<'a>> {
    let mut problems = Problems::default();
    config.check(&mut problems);
    let key = setting.and_then(|setting| setting.split('=').next());
    let key = key.map(|key| format!("`{}`", key.trim()));
    let blamed = |line: String| {
        let is_own = key.as_ref().is_some_and(|key| line.starts_with(key));
        let known = before.iter().find(|(_, one)| *one == line && !is_own);
        (known.map_or(setting, |(setting, _)| *setting), line)
    };
    problems.into_lines().into_iter().map(blamed).collect()
}

fn told((setting, line): Mistake<'_>) -> String {
    setting.map_or(line.clone(), |setting| of_setting(setting, &line))
}

fn of_setting(setting: &str, problem: &str) -> String {
    format!("`--set {setting}`: {problem}")
}

pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    let refuse = |source| Error::Read { path: path.to_owned(), source };
    let path = std::path::absolute(path).map_err(refuse)?;
    if path.to_str().is_some() { Ok(path) } else { Err(Error::PathText { path }) }
}

impl Config {
    /// Every path that the file names; an absolute one stays as it is.
    fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let Self { data, model, augment, monitor, output, .. } = self;
        let given = !data.manifest.as_os_str().is_empty();
        let optional = [
            given.then_some(&mut data.manifest),
            data.cache_folder.as_mut(),
            model.pretrained.as_mut(),
            model.tokenizer.as_mut().and_then(TokenizerSource::path_mut),
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

/// `optim.lr=1e-3`: a value is TOML if it parses, a string otherwise. What the table then
/// describes.
fn set(table: &mut toml::Table, setting: &str) -> Result<Config, String> {
    let malformed = || "expected `key=value`".to_owned();
    let (key, value) = setting.split_once('=').ok_or_else(malformed)?;
    let value = value.trim();
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}"));
    let value = match parsed.ok().and_then(|mut table| table.remove("value")) {
        Some(value) => value,
        None => toml::Value::String(value.to_owned()),
    };
    let mut names: Vec<&str> = key.trim().split('.').collect();
    let last = names.pop().filter(|name| !name.is_empty()).ok_or_else(malformed)?;
    let mut at = &mut *table;
    for name in names {
        let inner = at.entry(name).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = inner.as_table_mut().ok_or_else(|| format!("`{name}` is no table"))?;
    }
    at.insert(last.to_owned(), value);
    let config: Result<Config, toml::de::Error> = table.clone().try_into();
    let mut config = config.map_err(|error| match expectation(error.message()) {
        Some((expected, _)) => format!("expected {expected}"), // what was found is in the setting
        None => error.message().replace('\n', " "),
    })?;
    fill_in_published(&mut config, table);
    Ok(config)
}

/// What `table`, out of which `config` was read, leaves out of `[method.roclip]` is by the method's
/// name, and so is what it leaves out of `[augment]`.
fn fill_in_published(config: &mut Config, table: &toml::Table) {
    if config.method.name != MethodName::RoclipAsPublished {
        return;
    }
    let given = table.get("method").and_then(|method| method.get("roclip")?.as_table());
    if let Some(given) = given {
        config.method.roclip = Roclip::published_but(given);
    }
    let given = table.get("augment").and_then(toml::Value::as_table);
    config.augment = std::mem::take(&mut config.augment).published_but(given);
}

/// What toml says of `text`, and where, on one line.
pub(crate) fn in_file(error: &toml::de::Error, text: &str) -> String {
    let (message, span) = (error.message(), error.span().unwrap_or_default());
    let word = text.get(span.clone()).unwrap_or_default();
    // toml takes a word that begins as `false` does for a misspelt one.
    let is_bare = ["invalid boolean", "invalid float", "string values must be quoted"];
    let is_bare = is_bare.iter().any(|start| message.starts_with(start))
        && word.starts_with(|first: char| first.is_alphabetic());
    let message = match expectation(message) {
        Some((expected, found)) => format!("expected {expected}, found {found}"),
        None if is_bare => format!("`{word}` is no value: text stands in quotes"),
        None => message.replace('\n', " "),
    };
    let before = text.get(..span.start).unwrap_or_default();
    let line = 1 + before.matches('\n').count();
    let column = 1 + before.chars().rev().take_while(|&symbol| symbol != '\n').count();
    format!("line {line}, column {column}: {message}")
}

/// What serde expected in the place of a value and what it found, without its names of types.
fn expectation(message: &str) -> Option<(&str, &str)> {
    let starts = ["invalid type: ", "invalid value: "];
    let rest = starts.iter().find_map(|start| message.strip_prefix(start))?;
    let (found, expected) = rest.rsplit_once(", expected ")?;
    let expected = match expected.trim_end() {
        "f64" => "a number",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number from 0 on",
        "a boolean" => "`true` or `false`",
        "a string" | "path string" => "text",
        other if other.starts_with("struct ") => "a table",
        other => other,
    };
    Some((expected, found))
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
            let (Error::Config { problems, .. } | Error::Setting { problems }) =
                resolved(text, settings).expect_err("refused")
            else {
                panic!("of another kind")
            };
            let all = problems.join("; ");
            let (start, rest) = expected.split_once("..").unwrap_or((expected, ""));
            assert!(all.starts_with(start) && all.contains(rest), "{all}");
            assert!(expected.contains("..") || all == start, "{all}");
            assert!(!all.contains('\n'), "{all}");
        };
        let good = "[data]\nmanifest = '/a.csv'\n";
        check("[data]\nmanifst = 'a'\n", &[], "line 2, column 1: unknown field `manifst`..");
        let optim = |line: &str| format!("{good}[optim]\n{line}\n");
        let word = "line 4, column 6: `fast` is no value: text stands in quotes";
        check(&optim("lr = fast"), &[], word);
        check(&optim("lr = 2 fast"), &[], "line 4, column 6: ..");
        let found = "line 4, column 6: expected a number, found string \"fast\"";
        check(&optim("lr = 'fast'"), &[], found);

        check(good, &["lr"], "`--set lr`: expected `key=value`");
        check(good, &["=1"], "`--set =1`: expected `key=value`");
        check(good, &["seed.x=1"], "`--set seed.x=1`: expected a whole number from 0 on");
        check(&format!("seed = 1\n{good}"), &["seed.x=1"], "`--set seed.x=1`: `seed` is no table");
        check(good, &["optim.learning=1"], "`--set optim.learning=1`: unknown field..`lr`");
        check(good, &["seed=1", "optim.lr=fast"], "`--set optim.lr=fast`: expected a number");
        check(good, &["optim.lr = fast"], "`--set optim.lr = fast`: expected a number");
        let whole = "expected a whole number from 0 to 4294967295";
        check(good, &["optim.epochs=-1"], &format!("`--set optim.epochs=-1`: {whole}"));
        check(good, &["optim.epochs=0.5"], &format!("`--set optim.epochs=0.5`: {whole}"));
        check(good, &["augment.text=1"], "`--set augment.text=1`: expected `true` or `false`");
        check(good, &["optim=1"], "`--set optim=1`: expected a table");
        check(good, &["device=gpu"], "`--set device=gpu`: unknown variant `gpu`..`cuda`");
    }

    /// Who makes a value that parses and is out of its limits is told, file or setting.
    #[test]
    fn a_mistake_is_told_of_who_made_it() {
        let check = |text: &str, settings: &[&str], expected: &str| {
            let error = resolved(text, settings).expect_err("refused").to_string();
            let found = error.split_once("run.toml`: ").map_or(&*error, |(_, lines)| lines);
            assert_eq!(found, expected);
            assert_eq!(found == error, expected.starts_with("`--set"), "{error}");
        };
        let good = "[data]\nmanifest = '/a.csv'\n";
        let lr = "`optim.lr` must be above 0";
        let both = format!("`data.manifest` must be given; `--set optim.lr=0`: {lr}");
        check("", &["optim.lr=0"], &both);
        check(good, &["optim.lr=0", "seed=1"], &format!("`--set optim.lr=0`: {lr}"));
        let bad = format!("{good}[optim]\nlr = -1\n");
        check(&bad, &["seed=1"], lr);
        check(&bad, &["optim.lr=0"], &format!("`--set optim.lr=0`: {lr}"));
        let from = "`method.roclip.match_from_epoch` must be at least 2, at most `optim.epochs`";
        let roclip = format!("{good}[method]\nname = 'roclip'\n");
        check(&roclip, &["optim.epochs=1"], &format!("`--set optim.epochs=1`: {from}"));
        let first = ["optim.epochs=0", "optim.lr=0", "optim.epochs=2"];
        check(good, &first, &format!("`--set optim.lr=0`: {lr}"));
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
    fn the_defaults_of_the_method_are_resolved() -> Result<()> {
        let check = |settings: &[&str], epochs: Option<u32>| -> Result<()> {
            let config = resolved("[data]\nmanifest = 'a.csv'", settings)?;
            let named = (config.method.roclip.is_some(), config.method.sieve.is_some());
            assert_eq!(named.0, config.method.name == MethodName::Roclip);
            assert_eq!(named.1, config.method.name == MethodName::Sieve);
            let named = (config.method.cleanclip.is_some(), config.method.safeclip.is_some());
            assert_eq!(named.0, config.method.name == MethodName::Cleanclip);
            assert_eq!(named.1, config.method.name == MethodName::Safeclip);
            assert_eq!(config.augment.epochs, epochs, "{settings:?}");
            Ok(())
        };
        check(&[], None)?;
        check(&["method.name=roclip"], None)?;
        check(&["method.name=cleanclip"], None)?;
        check(&["method.name=safeclip"], None)?;
        check(&["method.name=sieve"], Some(10))?;
        check(&["method.name=sieve", "optim.epochs=3"], Some(2))?;
        check(&["method.name=sieve", "method.sieve.scout_epochs=4"], Some(4))?;
        check(&["method.name=sieve", "method.sieve.scout_epochs=0"], Some(10))?;
        check(&["method.name=sieve", "augment.epochs=20"], Some(20))?;
        let from = |settings: &[&str]| -> Result<Option<u32>> {
            Ok(resolved("[data]\nmanifest = 'a.csv'", settings)?.augment.from_epoch)
        };
        assert_eq!(from(&["method.name=sieve"])?, Some(11));
        assert_eq!(from(&["method.name=sieve", "augment.from_epoch=1"])?, Some(1));
        assert_eq!(from(&["method.name=sieve", "method.sieve.believer_epochs=0"])?, None);
        assert_eq!(from(&[])?, None);
        Ok(())
    }

    #[test]
    fn the_sieve_blurs_and_caps_copies_unless_told_otherwise() -> Result<()> {
        let check =
            |settings: &[&str], kernel: Option<usize>, copies: Option<usize>| -> Result<_> {
                let settings = [&["model.image_size=32"], settings].concat();
                let config = resolved("[data]\nmanifest = 'a.csv'", &settings)?;
                assert_eq!(config.augment.blur_kernel, kernel, "{settings:?}");
                assert_eq!(config.data.copies_max, copies, "{settings:?}");
                Ok(config.augment.blur_sigma)
            };
        assert_eq!(check(&["method.name=sieve"], Some(5), Some(1))?, Some([1.0, 1.5]));
        let own = ["method.name=sieve", "augment.blur_share=0", "data.copies_max=9"];
        assert_eq!(check(&own, None, Some(9))?, None);
        assert_eq!(check(&["method.name=roclip"], None, None)?, None);
        Ok(())
    }

    #[test]
    fn what_is_left_out_is_as_published_where_the_name_says_so() -> Result<()> {
        let published = Roclip::as_published();
        let check = |file: &str, settings: &[&str], expected: Roclip| -> Result<()> {
            let text = format!("[data]\nmanifest = 'a.csv'\n[method]\n{file}");
            assert_eq!(resolved(&text, settings)?.method.roclip, Some(expected));
            Ok(())
        };
        let augment = |text: &str| -> Result<crate::config::Augment> {
            let text = format!("[data]\nmanifest = 'a.csv'\n[method]\n{text}");
            Ok(resolved(&text, &[])?.augment)
        };
        let name = "name = 'roclip-as-published'\n";
        let as_published = augment(&format!("{name}[augment]\nimage = true"))?;
        assert_eq!((as_published.crop_area_min, as_published.hue), (0.08, 0.1));
        let written = toml::to_string(&as_published).expect("TOML");
        assert_eq!(augment(&format!("{name}[augment]\n{written}"))?, as_published);
        let said = augment(&format!("{name}[augment]\nhue = 0.0"))?;
        assert_eq!((said.crop_area_min, said.hue), (0.08, 0.0));
        let mild = augment(&format!("{name}[augment]\npreset = 'mild'"))?;
        assert_eq!((mild.crop_area_min, mild.hue), (0.6, 0.0));
        check(name, &[], published.clone())?;
        let every = Roclip { match_every_epochs: 3, match_from_epoch: 3, ..published.clone() };
        check(&format!("{name}[method.roclip]\nmatch_every_epochs = 3"), &[], every.clone())?;
        check(name, &["method.roclip.match_every_epochs=3"], every)?;
        let from = Roclip { match_from_epoch: 1, ..published };
        check(name, &["method.roclip.match_from_epoch=1"], from)?;
        let cleaned = Roclip { match_every_epochs: 3, ..Roclip::default() };
        check("name = 'roclip'\n[method.roclip]\nmatch_every_epochs = 3", &[], cleaned)
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
