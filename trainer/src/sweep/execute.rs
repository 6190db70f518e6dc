//! Cells side by side, each in child processes.

use std::{
    collections::BTreeMap,
    fs,
    num::NonZero,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use clip::atomic_write::atomic_write;
use serde_json::Value;

use super::{
    attack::Poisoning,
    cell::{Cell, Training, Work},
    child::{Lock, Program, shell_line},
    doubted,
    plan::Plan,
    results::{CellResult, Stopped, Store, rates},
    stop::{self, TOP1},
};
use crate::error::{Result, one_line};

/// What a sweep tells while it goes on.
pub trait Watch: Sync {
    /// A cell is done.
    fn done(&self, result: &CellResult);
    /// A cell failed; the others go on.
    fn failed(&self, failure: &Failure);
    /// One line for people.
    fn say(&self, line: String);
}

/// A cell that could not be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Name of its folder
    pub cell: String,
    /// What went wrong, on one line
    pub problem: String,
}

/// Does every cell that is not done and need not wait, `jobs` at a time; those that failed. What is
/// done is in the store at once. An error ends the sweep: the store cannot be written.
pub fn execute(
    plan: &Plan,
    store: &mut Store,
    jobs: NonZero<usize>,
    watch: &dyn Watch,
) -> Result<Vec<Failure>> {
    let is_due = |cell: &&Cell| !cell.waits && !store.has(&cell.name);
    let todo: Vec<&Cell> = plan.cells.iter().filter(is_due).collect();
    let sweep = Sweep { plan, program: Program::find()?, watch };
    let failures = Mutex::new(Vec::new());
    let fail = |cell: &Cell, problem: String| {
        let failure = Failure { cell: cell.name.clone(), problem };
        watch.failed(&failure);
        failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
    };
    let not_made = sweep.poison_all(&todo, jobs)?;
    let shared = Mutex::new(&mut *store);
    let keep = |cell: &Cell, result: Result<CellResult, String>| -> Result<()> {
        match result {
            Ok(result) => {
                watch.done(&result);
                shared.lock().unwrap_or_else(PoisonError::into_inner).add(result)?;
            }
            Err(problem) => fail(cell, problem),
        }
        Ok(())
    };
    let made = |poisoning: &usize| not_made.get(poisoning).map_or(Ok(()), |p| Err(p.clone()));
    let trained: Vec<(&Cell, &Training)> = todo
        .iter()
        .filter_map(|cell| match &cell.work {
            Work::Train(training) => Some((*cell, &**training)),
            Work::Stop { .. } | Work::Unpoisoned { .. } => None,
        })
        .collect();
    let (tuned, new): (Vec<_>, Vec<_>) =
        trained.into_iter().partition(|(_, training)| training.start.is_some());
    let known = || shared.lock().unwrap_or_else(PoisonError::into_inner).results().to_vec();
    let train = |some: &[(&Cell, &Training)], before: &[CellResult]| {
        each(jobs, some, |(cell, training)| {
            let made = training.shown.as_ref().map_or(Ok(()), made);
            keep(cell, made.and_then(|()| sweep.train(cell, training, before)))
        })
    };
    train(&new, &[])?;
    // These begin with what has been trained, or look at it.
    train(&tuned, &known())?;
    let others: Vec<&Cell> =
        todo.iter().copied().filter(|cell| !matches!(cell.work, Work::Train(_))).collect();
    let trained = known();
    each(jobs, &others, |cell| match &cell.work {
        Work::Train(_) => Ok(()),
        Work::Stop { target, epochs } => {
            let [target, epochs] = [target, epochs].map(|&index| &plan.cells[index]);
            keep(cell, sweep.stop(cell, target, epochs, &trained))
        }
        Work::Unpoisoned { run, poisoning, evaluate } => {
            let set = &plan.poisonings[*poisoning];
            let shown = |()| sweep.show(cell, &plan.cells[*run], set, evaluate, &trained);
            keep(cell, made(poisoning).and_then(shown))
        }
    })?;
    Ok(failures.into_inner().unwrap_or_else(PoisonError::into_inner))
}

struct Sweep<'a> {
    plan: &'a Plan,
    program: Program,
    watch: &'a dyn Watch,
}

impl Sweep<'_> {
    /// Makes the poisoned sets that the cells need; what kept one from being made, by its number.
    fn poison_all(&self, todo: &[&Cell], jobs: NonZero<usize>) -> Result<BTreeMap<usize, String>> {
        let needed = |cell: &&Cell| match &cell.work {
            Work::Train(training) => training.shown,
            Work::Stop { .. } => None,
            Work::Unpoisoned { poisoning, .. } => Some(*poisoning),
        };
        let mut numbers: Vec<usize> = todo.iter().filter_map(needed).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let failed = Mutex::new(BTreeMap::new());
        each(jobs, &numbers, |&number| {
            if let Err(problem) = self.poison(number) {
                failed.lock().unwrap_or_else(PoisonError::into_inner).insert(number, problem);
            }
            Ok(())
        })?;
        Ok(failed.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn poison(&self, number: usize) -> Result<(), String> {
        let (set, place) = (&self.plan.poisonings[number], &self.plan.place);
        let folder = place.poisoned(&set.name);
        let lock = self.lock(&folder.with_added_extension("lock"), &set.name)?;
        if place.ledger(&set.name).exists() {
            return Ok(()); // the folder appears as a whole
        }
        self.program.run(&set.words, &folder.with_added_extension("log"), None, &lock)
    }

    fn lock(&self, path: &Path, name: &str) -> Result<Lock, String> {
        let waits = || {
            let line = format!("`{name}` is still at work for a sweep that has ended: waiting");
            self.watch.say(line);
        };
        Lock::take(path, waits).map_err(|error| one_line(&error))
    }

    /// Trains or continues, evaluates, collects.
    fn train(
        &self,
        cell: &Cell,
        training: &Training,
        results: &[CellResult],
    ) -> Result<CellResult, String> {
        let (plan, place) = (self.plan, &self.plan.place);
        let start = training.start.map(|run| done(&plan.cells[run], results)).transpose()?;
        let (folder, run) = (place.cell(&cell.name), place.run(&cell.name));
        let lock = self.lock(&folder.join("lock"), &cell.name)?;
        let config = folder.join("run.toml");
        let text = toml::to_string(&training.config).expect("its paths are text");
        atomic_write(&config, text.as_bytes()).map_err(|error| one_line(&error))?;
        let words = ["run", "--config", &config.display().to_string(), "--resume", "--no-progress"];
        let words = words.map(str::to_owned);
        self.program.run(&words, &folder.join("run.log"), None, &lock)?;
        let document = folder.join("evaluation.json");
        let log = folder.join("evaluate.log");
        self.program.run(&training.evaluate, &log, Some(&document), &lock)?;
        let (document, summary) = (json(&document)?, json(&run.join("summary.json"))?);
        let set = training.trained_on.map(|number| &plan.poisonings[number]);
        let ledger = set.map(|set| place.ledger(&set.name));
        let manifest = &training.config.data.manifest;
        let poison = set.map(|set| shell_line(&set.words));
        let mut before = start.map(|run| run.commands.clone()).unwrap_or_default();
        before.pop(); // an evaluation of its own
        let commands = [shell_line(&words), shell_line(&training.evaluate)];
        Ok(CellResult {
            rates: rates(&document),
            doubted: doubted::count(&run, manifest, ledger.as_deref())?,
            train_seconds: summary["train_seconds"].as_f64(),
            commands: before.into_iter().chain(poison).chain(commands).collect(),
            ..empty(cell)
        })
    }

    /// Evaluates the model of `run` under an attack that it has not seen.
    fn show(
        &self,
        cell: &Cell,
        run: &Cell,
        set: &Poisoning,
        evaluate: &[String],
        results: &[CellResult],
    ) -> Result<CellResult, String> {
        let mut commands = done(run, results)?.commands.clone();
        commands.pop(); // its own evaluation
        commands.extend([&*set.words, evaluate].map(shell_line));
        let folder = self.plan.place.cell(&cell.name);
        let lock = self.lock(&folder.join("lock"), &cell.name)?;
        let document = folder.join("evaluation.json");
        self.program.run(evaluate, &folder.join("evaluate.log"), Some(&document), &lock)?;
        Ok(CellResult { rates: rates(&json(&document)?), commands, ..empty(cell) })
    }

    /// Looks for the epoch of a run in which the control stops.
    fn stop(
        &self,
        cell: &Cell,
        target: &Cell,
        epochs: &Cell,
        results: &[CellResult],
    ) -> Result<CellResult, String> {
        let top1 = done(target, results)?.rates.get(TOP1).map(|rate| rate.value());
        let top1 = top1.ok_or_else(|| format!("`{}` has no {TOP1}", target.name))?;
        let commands = done(epochs, results)?.commands.clone();
        let journal = self.plan.place.run(&epochs.name).join("metrics.jsonl");
        let found = stop::first_epoch(&journal, top1)?;
        let epoch = found.as_ref().map(|epoch| epoch.number);
        let train_seconds = found.as_ref().and_then(|epoch| epoch.seconds);
        let rates = found.map(|epoch| epoch.rates).unwrap_or_default();
        let stopped = Some(Stopped { run: epochs.name.clone(), epoch, top1 });
        Ok(CellResult { rates, stopped, train_seconds, commands, ..empty(cell) })
    }
}

fn done<'a>(cell: &Cell, results: &'a [CellResult]) -> Result<&'a CellResult, String> {
    let found = results.iter().find(|result| result.cell == cell.name);
    found.ok_or_else(|| format!("it needs `{}`, which is not done", cell.name))
}

fn empty(cell: &Cell) -> CellResult {
    CellResult {
        cell: cell.name.clone(),
        attack: cell.attack.clone(),
        method: cell.method.clone(),
        seed: cell.seed,
        grid: cell.point.to_json(),
        rates: BTreeMap::new(),
        stopped: None,
        doubted: None,
        train_seconds: None,
        commands: Vec::new(),
    }
}

fn json(path: &Path) -> Result<Value, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string());
    text.and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()))
        .map_err(|problem| format!("`{}`: {problem}", path.display()))
}

/// `work` for each item, in their order, on `jobs` threads; after an error no item is begun.
fn each<T: Sync>(
    jobs: NonZero<usize>,
    items: &[T],
    work: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let worker = || -> Result<()> {
        while !failed.load(Ordering::Relaxed) {
            let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            work(item).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers = jobs.get().min(items.len());
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        let ends: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        ends.into_iter().try_for_each(|end| match end {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::Error, not_finite::NotFinite};

    #[test]
    fn every_item_is_done_once_and_an_error_ends_it() {
        let check = |jobs: usize, count: usize, bad: Option<usize>| {
            let done = Mutex::new(Vec::new());
            let items: Vec<usize> = (0..count).collect();
            let outcome = each(NonZero::new(jobs).expect("some"), &items, |&item| {
                done.lock().expect("no thread dies").push(item);
                if Some(item) == bad { Err(Error::NotFinite(NotFinite::Loss)) } else { Ok(()) }
            });
            let mut done = done.into_inner().expect("no thread died");
            done.sort_unstable();
            assert_eq!(outcome.is_err(), bad.is_some());
            match bad {
                None => assert_eq!(done, items),
                Some(bad) => assert!(done.contains(&bad) && done.len() <= bad + jobs, "{done:?}"),
            }
        };
        check(1, 5, None);
        check(3, 20, None);
        check(4, 0, None);
        check(1, 20, Some(3));
    }
}
