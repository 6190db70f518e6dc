//! `roclip-train run`.

use std::{env, thread, time::Duration};

use terminal::{Context, Exit, Progress, Report, println_result};

use crate::{
    cli::RunArgs,
    config,
    error::Error,
    parallel::{self, Collective},
    train::{Summary, Watch, train},
};

/// Time within which a rank that failed ends the others.
const END_WAIT: Duration = Duration::from_secs(10);

/// Trains and prints what came of it, on the first rank; a run that diverged ends badly. A rank that
/// fails says so, and ends the others.
pub fn run(args: &RunArgs) -> Result<Exit, Report> {
    let config = config::open(&args.config, &args.set, args.out.as_deref())?;
    let collective = parallel::open(config.parallel)?;
    parallel::check_launch(collective.ranks(), |name| env::var(name).ok())?;
    let quiet = args.quiet || !collective.is_first();
    let mut watch = Screen { progress: None, shown: !args.no_progress && !quiet, quiet };
    match train(&config, args.resume, &collective, &mut watch) {
        Ok(_) if !collective.is_first() => Ok(Exit::Done),
        Ok(summary) => {
            watch.finish();
            print(&summary, &config)?;
            Ok(Exit::Done)
        }
        Err(error @ Error::Diverged { .. }) => {
            drop(watch); // the bar stays where it is
            if collective.is_first() {
                terminal::say(format!("error: {error}"));
                terminal::say("  hint: a lower `optim.lr` together with a new `--out`");
            }
            collective.all(true); // a launcher may end the others as soon as one has ended
            Ok(Exit::Bad)
        }
        Err(Error::Elsewhere { .. }) => Ok(wait_for_end(&*collective)),
        Err(error) if collective.ranks() > 1 => {
            drop(watch);
            Ok(end_all(error, &*collective))
        }
        Err(error) => Err(error.into()),
    }
}

/// Says which rank failed and why, before a launcher says that it ended them all.
fn end_all(error: Error, collective: &dyn Collective) -> Exit {
    let (rank, ranks) = (collective.rank(), collective.ranks());
    let failed = Err::<(), _>(error).context(format!("rank {rank} of {ranks} cannot go on"));
    if let Err(report) = failed {
        terminal::say(report.to_string());
    }
    collective.abort(Exit::Refused.code());
    Exit::Refused
}

/// Another rank has failed and is about to end them all. Leaving MPI at the same time has been seen
/// to keep `mpirun` for ever, so this rank waits for its end, and brings it about if it is late.
fn wait_for_end(collective: &dyn Collective) -> Exit {
    thread::sleep(END_WAIT);
    collective.abort(Exit::Refused.code());
    Exit::Refused
}

fn print(summary: &Summary, config: &config::Config) -> Result<(), Report> {
    let model = config.output.folder.join("model");
    let mut line = format!(
        "{}: {} steps over {} pairs, {:.0} s, {:.0} images/s",
        model.display(),
        summary.steps,
        summary.rows,
        summary.train_seconds,
        summary.images_per_second,
    );
    if let Some(doubted) = summary.doubted {
        line += &format!(", pairs in doubt: {doubted} (doubted.csv)");
    }
    if let Some(evaluation) = &summary.evaluation {
        line += &format!(", top-1 {:.1}%", 100.0 * evaluation.zero_shot_top1.value());
    }
    println_result(line)
}

/// A bar for each stage.
struct Screen {
    progress: Option<Progress>,
    shown: bool,
    quiet: bool,
}

impl Screen {
    /// The stage is done; of one that failed, the bar is dropped.
    fn finish(&mut self) {
        if let Some(progress) = self.progress.take() {
            progress.finish();
        }
    }

    fn say(&self, line: String) {
        match &self.progress {
            Some(progress) => progress.say(line),
            None => terminal::say(line),
        }
    }
}

impl Watch for Screen {
    fn begin(&mut self, stage: &str, total: u64, done: u64) {
        self.finish();
        let progress = Progress::new(stage, total, self.shown);
        progress.resume_at(done);
        self.progress = Some(progress);
    }

    fn advance(&self, parts: u64) {
        if let Some(progress) = &self.progress {
            progress.step(parts);
        }
    }

    fn status(&self, text: String) {
        if let Some(progress) = &self.progress {
            progress.note(text);
        }
    }

    fn note(&self, line: String) {
        if self.shown {
            self.say(line);
        }
    }

    fn warn(&self, line: String) {
        if !self.quiet {
            self.say(format!("warning: {line}"));
        }
    }
}
