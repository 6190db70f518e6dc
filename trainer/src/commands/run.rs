//! `roclip-train run`.

use terminal::{Exit, Progress, Report, println_result};

use crate::{
    cli::RunArgs,
    config,
    error::Error,
    train::{Summary, Watch, train},
};

/// Trains and prints what came of it; a run that diverged ends badly.
pub fn run(args: &RunArgs) -> Result<Exit, Report> {
    let config = config::open(&args.config, &args.set, args.out.as_deref())?;
    let shown = !args.no_progress && !args.quiet;
    let mut watch = Screen { progress: None, shown, quiet: args.quiet };
    match train(&config, args.resume, &mut watch) {
        Ok(summary) => {
            watch.finish();
            print(&summary, &config)?;
            Ok(Exit::Done)
        }
        Err(error @ Error::Diverged { .. }) => {
            drop(watch); // the bar stays where it is
            terminal::say(format!("error: {error}"));
            terminal::say("  hint: a lower `optim.lr` together with a new `--out`");
            Ok(Exit::Bad)
        }
        Err(error) => Err(error.into()),
    }
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
