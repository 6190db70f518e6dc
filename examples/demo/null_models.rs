//! Clean models of the demo's family, and the statistics that the audit ships about them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
};

use clip::{Error, atomic_write::atomic_write};
use terminal::{Exit, Report};

use crate::{
    board::Board,
    cli,
    data::Data,
    method::{Trained, train},
    programs::{Job, Programs},
    recipe::{METHODS, Method},
};

/// Seed of the first null model; the demo's own seeds lie below.
const FIRST_SEED: u64 = 1_000_000;
/// Seed of the pictures with which all of them are searched.
const PROBE_SEED: u64 = 999_999;

/// Trains what is not there yet, searches all, and writes the statistics.
pub(crate) fn train_and_search(args: &cli::NullModels) -> Result<Exit, Report> {
    let programs = Programs::find(None)?;
    fs::create_dir_all(&args.out)
        .map_err(|source| Error::Write { path: args.out.clone(), source })?;
    let probe = Data::generate(&args.out.join("probe-data"), PROBE_SEED, None)?;
    probe.write_probe(&args.out.join("probe"))?;
    let trainer = programs.sha256("roclip-train")?;
    let members: Vec<_> =
        (0..args.count).map(|index| Member::of(index, &args.out, &trainer)).collect();
    let missing: Vec<_> = members.iter().filter(|member| !member.is_trained()).collect();
    let rows = probe.train_rows.len();
    let board = Board::new("null models", missing.iter().map(|m| m.work(rows)).sum(), true);
    train_all(&programs, &board, missing)?;
    board.finish();
    terminal::say("searching all of them: this takes as long as as many audits");
    let mut job = Job::new("search the null models", "roclip-audit").word("null");
    for member in &members {
        job = job.word(&member.model);
    }
    let training = format!(
        "`cargo xtask null-models --count {}`: {} in turn, without poison, one seed each from {} on; \
         source {}",
        args.count,
        METHODS.map(|method| method.words()).join(", "),
        FIRST_SEED,
        source(Path::new("."))
    );
    let job = job
        .flag("--images", args.out.join("probe"))
        .flag("--labels", &probe.classes)
        .flag_if("--templates", probe.templates.as_ref())
        .flag("--out", &args.null)
        .flag("--training", training);
    programs.run(&job, &args.out.join("search"), || ())?;
    terminal::say(format!("statistics of {} clean models: {}", args.count, args.null.display()));
    Ok(Exit::Done)
}

/// The commit that `folder` is at, and whether its files differ from it.
fn source(folder: &Path) -> String {
    let git = |words: &[&str]| {
        let output = Command::new("git").args(words).current_dir(folder).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    match (git(&["rev-parse", "HEAD"]), git(&["status", "--porcelain"])) {
        (Some(commit), Some(changes)) if changes.is_empty() => commit,
        (Some(commit), Some(_)) => format!("{commit} with changes"),
        _ => "unknown".into(),
    }
}

/// One clean model.
struct Member {
    name: String,
    method: Method,
    seed: u64,
    folder: PathBuf,
    /// Where it lies once it is trained.
    model: PathBuf,
    /// SHA-256 of the program that trains it.
    trainer: String,
}

impl Member {
    fn of(index: u32, out: &Path, trainer: &str) -> Self {
        let method = METHODS[index as usize % METHODS.len()];
        let seed = FIRST_SEED + u64::from(index);
        let name = format!("{}-{seed}", method.name);
        let (folder, model) = (out.join("work").join(&name), out.join("models").join(&name));
        Self { name, method, seed, folder, model, trainer: trainer.to_owned() }
    }

    /// Its key lies beside it: a model of another recipe or program is trained anew.
    fn is_trained(&self) -> bool {
        let kept = fs::read_to_string(self.settings());
        self.model.exists() && kept.is_ok_and(|text| text == self.key())
    }

    /// All that decides its weights: the settings, and the program that they are for.
    fn key(&self) -> String {
        format!("# roclip-train: SHA-256 {}\n{}", self.trainer, self.run_toml(&Data::default()))
    }

    fn settings(&self) -> PathBuf {
        self.model.with_extension("toml")
    }

    fn run_toml(&self, data: &Data) -> String {
        self.method.run_toml(data, None, self.method.epochs(None), self.seed)
    }

    fn steps(&self, rows: usize) -> (u32, usize) {
        (self.method.run_epochs(None), Method::steps_per_epoch(rows))
    }

    fn work(&self, rows: usize) -> u64 {
        let (epochs, steps) = self.steps(rows);
        u64::from(epochs) * steps as u64
    }

    fn train(&self, programs: &Programs, board: &Board) -> Result<(), Report> {
        let _ = fs::remove_dir_all(&self.folder); // left by an interrupted run
        let _ = fs::remove_dir_all(&self.model); // of another recipe or program
        board.doing(&self.name, "drawing pictures");
        let data = Data::generate(&self.folder.join("data"), self.seed, None)?;
        let steps = self.steps(data.train_rows.len());
        let toml = self.run_toml(&data);
        let Trained { model, .. } = train(programs, board, &self.name, &toml, steps, &self.folder)?;
        let parent = self.model.parent().expect("models lie in a folder");
        fs::create_dir_all(parent)
            .and_then(|()| fs::rename(&model, &self.model))
            .and_then(|()| fs::remove_dir_all(&self.folder))
            .map_err(|source| Error::Write { path: self.model.clone(), source })?;
        atomic_write(&self.settings(), self.key().as_bytes())?;
        board.doing(&self.name, "");
        board.say(&format!("{} is trained", self.name));
        Ok(())
    }
}

fn train_all(programs: &Programs, board: &Board, missing: Vec<&Member>) -> Result<(), Report> {
    let (waiting, failed) = (Mutex::new(missing), Mutex::new(None));
    thread::scope(|scope| {
        for _ in 0..programs.workers {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
                    let Some(member) = next else { break };
                    if let Err(report) = member.train(programs, board) {
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        failed.get_or_insert(report);
                        programs.stop();
                        break;
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_kept_only_for_its_settings_and_its_program() {
        let out = tempfile::tempdir().expect("a temporary folder");
        let member = Member::of(2, out.path(), "aa");
        assert!(!member.is_trained(), "nothing is there");
        fs::create_dir_all(&member.model).expect("a folder can be made");
        assert!(!member.is_trained(), "it says not how it was trained");
        let write = |text: &str| fs::write(member.settings(), text).expect("a file can be written");
        write(&member.run_toml(&Data::default()));
        assert!(!member.is_trained(), "it says not by which program");
        write(&member.key());
        assert!(member.is_trained());
        assert!(!Member::of(2, out.path(), "ab").is_trained(), "another program");
        write(&member.key().replace("lr = ", "lr = 1"));
        assert!(!member.is_trained(), "another setting");
        write(&Member { seed: member.seed + 3, ..Member::of(2, out.path(), "aa") }.key());
        assert!(!member.is_trained(), "another seed");
    }

    #[test]
    fn the_source_is_a_commit_and_its_changes() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path();
        assert_eq!(source(root), "unknown");
        let git = |words: &str| {
            let mut git = Command::new("git");
            git.args(["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]);
            let ended = git.args(words.split(' ')).current_dir(root).output();
            ended.is_ok_and(|output| output.status.success())
        };
        if !git("init --quiet") {
            return; // a machine without git: the source is unknown
        }
        assert_eq!(source(root), "unknown", "no commit yet");
        assert!(git("commit --quiet --allow-empty --message first"));
        let commit = source(root);
        assert!(commit.len() >= 40 && commit.chars().all(|c| c.is_ascii_hexdigit()), "{commit}");
        fs::write(root.join("new.rs"), "").expect("a file can be written");
        assert_eq!(source(root), format!("{commit} with changes"));
    }
}
