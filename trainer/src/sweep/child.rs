//! Child processes of this program, and locks that they hold as long as they live.

use std::{
    env,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::error::{Error, Result};

/// Threads of one child.
const THREADS: &str = "RAYON_NUM_THREADS";

/// A file that one process at a time holds. A child that is given it holds it, too, until its end:
/// if this process is killed, the next one waits for what goes on without it.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// `None` if another process holds it. Makes the file and its folder.
    pub(super) fn try_take(path: &Path) -> Result<Option<Self>> {
        let refuse = |source| Error::Write { path: path.to_owned(), source };
        let file = Self::file(path).map_err(refuse)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(refuse(source)),
        }
    }

    /// Waits for it; `on_wait` is called first, if another process holds it.
    pub(super) fn take(path: &Path, on_wait: impl FnOnce()) -> Result<Self> {
        if let Some(lock) = Self::try_take(path)? {
            return Ok(lock);
        }
        on_wait();
        let locked = Self::file(path).and_then(|file| file.lock().map(|()| Self(file)));
        locked.map_err(|source| Error::Write { path: path.to_owned(), source })
    }

    fn file(path: &Path) -> io::Result<File> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        OpenOptions::new().create(true).truncate(false).write(true).open(path)
    }
}

/// This program, as its own child.
#[derive(Debug)]
pub(super) struct Program(PathBuf);

impl Program {
    pub(super) fn find() -> Result<Self> {
        let refuse = |source| Error::Read { path: "roclip-train".into(), source };
        env::current_exe().map(Self).map_err(refuse)
    }

    /// Runs to the end, on one thread; what it says goes to `log`, its result to `out`. What went
    /// wrong is in its own words.
    pub(super) fn run(
        &self,
        words: &[String],
        log: &Path,
        out: Option<&Path>,
        lock: &Lock,
    ) -> Result<(), String> {
        let told = |error: io::Error| format!("cannot run `roclip-train {}`: {error}", words[0]);
        let create = |path: &Path| File::create(path).map(Stdio::from).map_err(told);
        let held = lock.0.try_clone().map_err(told)?;
        let mut command = Command::new(&self.0);
        command.args(words).env(THREADS, "1").stdin(held).stderr(create(log)?);
        command.stdout(out.map_or(Ok(Stdio::null()), create)?);
        let status = command.status().map_err(told)?;
        if status.success() {
            return Ok(());
        }
        let text = fs::read_to_string(log).unwrap_or_default();
        let said = last_error(&text).unwrap_or_else(|| format!("it ended with {status}"));
        Err(format!("`roclip-train {}`: {said} (`{}`)", words[0], log.display()))
    }
}

/// The last `error:` of a program with its causes, on one line.
fn last_error(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.iter().rposition(|line| line.starts_with("error: "))?;
    let causes = lines[first + 1..].iter().map_while(|line| line.strip_prefix("  caused by: "));
    let told = lines[first].trim_start_matches("error: ");
    Some([told].into_iter().chain(causes).collect::<Vec<_>>().join(": "))
}

/// What a shell would run to do the same.
pub(super) fn shell_line(words: &[String]) -> String {
    let plain = |symbol: char| symbol.is_ascii_alphanumeric() || "_-./=:,+".contains(symbol);
    let quoted = |word: &String| match !word.is_empty() && word.chars().all(plain) {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    };
    let words: Vec<_> = words.iter().map(quoted).collect();
    format!("{THREADS}=1 roclip-train {}", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once() -> Result<()> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a/lock");
        let lock = Lock::try_take(&path)?.expect("nobody holds it");
        assert!(Lock::try_take(&path)?.is_none());
        let held = lock.0.try_clone().expect("a child's copy");
        drop(lock);
        assert!(Lock::try_take(&path)?.is_none(), "the child still lives");
        drop(held);
        let mut waited = false;
        Lock::take(&path, || waited = true)?;
        assert!(!waited);
        Ok(())
    }

    #[test]
    fn a_failing_child_speaks_for_itself() {
        let text = "warning: x\nerror: cannot read `a`\n  caused by: No such file\n  hint: no\n";
        assert_eq!(last_error(text).as_deref(), Some("cannot read `a`: No such file"));
        assert_eq!(last_error("10%\n"), None);
    }

    #[test]
    fn a_shell_reads_the_words_again() {
        let words = ["run", "--config", "a b/it's.toml", ""].map(str::to_owned);
        let line = shell_line(&words);
        assert_eq!(line, r"RAYON_NUM_THREADS=1 roclip-train run --config 'a b/it'\''s.toml' ''");
    }
}
