//! `roclip-train sweep`.

use std::{num::NonZero, thread};

use terminal::{Exit, Progress, Report, escape, println_result};

use crate::{
    cli::SweepArgs,
    config::absolute,
    sweep::{CellResult, Failure, Plan, Recipe, Store, Summary, Watch, execute, label},
};

/// The figures of a line about a cell.
const SHOWN: [&str; 3] = ["zero_shot_top1", "backdoor_asr", "targeted_psr"];

/// Checks all cells, does those that are not done, writes the tables and prints them.
pub fn run(args: &SweepArgs) -> Result<Exit, Report> {
    let recipe = Recipe::open(&args.config)?;
    let out = args.out.clone().unwrap_or_else(|| recipe.default_out());
    let plan = Plan::new(recipe, &absolute(&out)?, &args.attacks, &args.methods)?;
    if args.dry_run {
        return list(&plan);
    }
    let mut store = Store::open(&plan.place, &plan.recipe, &plan.unchecked())?;
    let (all, done) =
        (plan.chosen().count(), plan.chosen().filter(|cell| store.has(&cell.name)).count());
    let progress = Progress::new("sweep", all as u64, !args.no_progress);
    progress.resume_at(done as u64);
    let watch = Screen { progress, shown: !args.no_progress };
    let failures = execute(&plan, &mut store, jobs(args, &plan), &watch)?;
    watch.progress.finish();
    let summary = Summary::new(&plan, store.results());
    summary.write(&plan)?;
    println_result(shown(&summary.to_markdown()))?;
    match failures.len() {
        0 => Ok(Exit::Done),
        count => {
            let cells = if count == 1 { "cell" } else { "cells" };
            terminal::say(format!(
                "error: {count} {cells} of {all} failed, the same command tries again"
            ));
            Ok(Exit::Bad)
        }
    }
}

fn jobs(args: &SweepArgs, plan: &Plan) -> NonZero<usize> {
    let cores = || match plan.needs_gpu() {
        true => NonZero::<usize>::MIN,
        false => thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
    };
    args.jobs.and_then(NonZero::new).unwrap_or_else(cores)
}

/// One line for each cell, in their order.
fn list(plan: &Plan) -> Result<Exit, Report> {
    for cell in plan.chosen() {
        let (attack, method, point) = (&cell.attack, &cell.method, cell.point.short());
        let point = if point.is_empty() { point } else { format!(" {point}") };
        let line = format!("{attack} {method}{point} seed {}: {}", cell.seed, cell.name);
        println_result(escape(&line))?;
    }
    println_result(format!("{} cells", plan.chosen().count()))?;
    Ok(Exit::Done)
}

/// Line by line, made safe for a terminal.
fn shown(text: &str) -> String {
    text.trim_end().lines().map(escape).collect::<Vec<_>>().join("\n")
}

struct Screen {
    progress: Progress,
    shown: bool,
}

impl Watch for Screen {
    fn done(&self, result: &CellResult) {
        if self.shown {
            let rate = |name: &&str| {
                let rate = result.rates.get(*name)?;
                Some(format!("{} {:.1}%", label(name), 100.0 * rate.value()))
            };
            let rates: Vec<_> = SHOWN.iter().filter_map(rate).collect();
            let rates = match rates.is_empty() {
                true => "no epoch is as accurate".into(),
                false => rates.join(", "),
            };
            self.progress.say(format!("{}: {rates}", result.cell));
        }
        self.progress.step(1);
    }

    fn failed(&self, failure: &Failure) {
        self.progress.say(format!("error: cell `{}`: {}", failure.cell, failure.problem));
        self.progress.step(1);
    }

    fn say(&self, line: String) {
        if self.shown {
            self.progress.say(line);
        }
    }
}
