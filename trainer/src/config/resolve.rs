//! File and `--set` become one checked configuration.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Config, MethodName, Problems, Roclip, TokenizerSource, augment::Blur};
use crate::error::{Error, Result};

/// Reads `file`, applies `key=value` settings and the output folder `out`, fills in what depends on
/// the method, but for what [`Config::for_pairs`] does, makes paths absolute, and checks. A path in
/// the file starts from the file's folder.
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
    config.method.fill_in();
    let mut blur = Blur::PUBLISHED;
    if config.method.name == MethodName::Sieve {
        blur = Blur::COARSE;
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
/// `setting`: that one brought what is wrong with other keys than were wrong before, and with its
/// own.
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
        let subject = |line: &str| line.split("` must be").next().map(str::to_owned); // limits change
        let known = before.iter().find(|(_, one)| subject(one) == subject(&line) && !is_own);
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
mod tests;
