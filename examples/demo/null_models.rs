//! Clean models of the demo's family, and the statistics that the audit ships about them.

use std::{
    fs,
    path::{Path, PathBuf},
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
    let members: Vec<_> = (0..args.count).map(|index| Member::of(index, &args.out)).collect();
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
        "`cargo xtask null-models --count {}`: {} in turn, without poison, one seed each from {} on",
        args.count,
        METHODS.map(|method| method.words()).join(", "),
        FIRST_SEED
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

/// One clean model.
struct Member {
    name: String,
    method: Method,
    seed: u64,
    folder: PathBuf,
    /// Where it lies once it is trained.
    model: PathBuf,
}

impl Member {
    fn of(index: u32, out: &Path) -> Self {
        let method = METHODS[index as usize % METHODS.len()];
        let seed = FIRST_SEED + u64::from(index);
        let name = format!("{}-{seed}", method.name);
        let (folder, model) = (out.join("work").join(&name), out.join("models").join(&name));
        Self { name, method, seed, folder, model }
    }

    /// Its settings lie beside it: a model of another recipe is trained anew.
    fn is_trained(&self) -> bool {
        let settings = fs::read_to_string(self.settings());
        self.model.exists() && settings.is_ok_and(|text| text == self.run_toml(&Data::default()))
    }

    fn settings(&self) -> PathBuf {
        self.model.with_extension("toml")
    }

    fn run_toml(&self, data: &Data) -> String {
        self.method.run_toml(data, None, self.method.epochs(None), self.seed)
    }

    fn steps(&self, rows: usize) -> (u32, usize) {
        (self.method.epochs(None), Method::steps_per_epoch(rows))
    }

    fn work(&self, rows: usize) -> u64 {
        let (epochs, steps) = self.steps(rows);
        u64::from(epochs) * steps as u64
    }

    fn train(&self, programs: &Programs, board: &Board) -> Result<(), Report> {
        let _ = fs::remove_dir_all(&self.folder); // left by an interrupted run
        let _ = fs::remove_dir_all(&self.model); // of another recipe
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
        atomic_write(&self.settings(), self.run_toml(&Data::default()).as_bytes())?;
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
