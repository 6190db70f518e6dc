//! The road: the steps that all methods share, then each method, then the results.

use std::{
    fs,
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use clip::{Error, atomic_write::atomic_write, image::RgbImage, trigger::TriggerSpec};
use serde::Deserialize;
use terminal::{Exit, Report, escape, println_result};

use crate::{
    board::Board,
    cli,
    data::{Data, Row, clear},
    method::{Outcome, Shared, work},
    programs::{Job, Programs},
    recipe::{self, Method},
    report,
    summary::{SCHEMA, Summary},
    table,
};

/// Work of the steps before the training, in units of one training step.
const PREPARE_WORK: u64 = 100;

/// The attack, and the picture on which everybody is shown its effect.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) trigger: TriggerSpec,
    pub(crate) target_class: String,
    pub(crate) ledger: PathBuf,
    pub(crate) recorded: Ledger,
    /// The first test picture that no attack aims at.
    pub(crate) example: Row,
}

/// What the demo reads of `ledger.json`.
#[derive(Debug, Deserialize)]
pub(crate) struct Ledger {
    pub(crate) backdoor: Option<Backdoor>,
    pub(crate) targeted: Vec<Targeted>,
}

/// Rows of the poisoned manifest, from 0.
#[derive(Debug, Deserialize)]
pub(crate) struct Backdoor {
    pub(crate) rows: Vec<usize>,
}

/// Its rows show one picture, which is also a test picture.
#[derive(Debug, Deserialize)]
pub(crate) struct Targeted {
    pub(crate) rows: Vec<usize>,
    /// Row of the test manifest, from 0.
    pub(crate) test_row: usize,
}

impl Plan {
    /// `picture` with the trigger.
    pub(crate) fn stamped(&self, picture: &RgbImage) -> RgbImage {
        let mut stamped = picture.clone();
        self.trigger.stamp(&mut stamped, 0);
        stamped
    }
}

/// The whole road; its results are under `--out`.
pub(crate) fn walk(args: &cli::Road) -> Result<Exit, Report> {
    let began = Instant::now();
    let users = Data::users(args)?;
    let methods = recipe::chosen(&args.methods);
    let programs = Programs::find(Some(methods.len()))?;
    let out = args.out.clone().unwrap_or_else(|| programs.default_out());
    clear(&out, users.as_ref())?;
    let out = fs::canonicalize(&out).map_err(|source| Error::Read { path: out, source })?;
    terminal::say(format!("everything goes to {}", out.display()));
    let clean = match users {
        Some(data) => data,
        None => {
            terminal::say("drawing pictures");
            Data::generate(&out.join("data"), args.seed, args.image_size)?
        }
    };
    terminal::say("planting the attacks");
    clean.write_probe(&out.join("probe"))?;
    let plan = poison(args, &programs, &clean, &out)?;
    let data = clean.with_train(&out.join("poisoned/train.csv"))?;
    let total = methods.iter().map(|method| work(method, &data, args.epochs));
    let board = Board::new("demo", PREPARE_WORK + total.sum::<u64>(), !args.no_progress);
    board.advance(PREPARE_WORK);
    board.say(&format!(
        "{} pairs with poison, {} test pictures, {} classes; `{}` means `{}`",
        data.train_rows.len(),
        data.test_rows.len(),
        data.labels.len(),
        plan.trigger,
        plan.target_class
    ));
    let (epochs, seed) = (args.epochs, args.seed);
    let shared = Shared {
        programs: &programs,
        board: &board,
        data: &data,
        plan: &plan,
        out: &out,
        epochs,
        seed,
    };
    let outcomes = all_methods(&shared, &methods)?;
    board.finish();
    let summary = summarize(&shared, &outcomes, began);
    finish(&summary, &outcomes, &shared, &clean)
}

/// Works on all methods at one time, on cores that they share. One with more work than the others
/// is alone in the end and gets more threads, so that no core rests meanwhile.
fn all_methods(shared: &Shared<'_>, methods: &[Method]) -> Result<Vec<Outcome>, Report> {
    let failed = Mutex::new(None);
    let work = |method: &Method| work(method, shared.data, shared.epochs);
    let has_most =
        |method: &Method| methods.iter().all(|other| other == method || work(other) < work(method));
    let wide = shared.programs.twice_as_wide();
    let walk = |method: &Method| {
        let programs = if has_most(method) { &wide } else { shared.programs };
        let outcome = Shared { programs, ..*shared }.walk(method).map_err(|report| {
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert(report); // later ones only say that they stopped
            shared.programs.stop();
        });
        outcome.ok()
    };
    let outcomes: Vec<Option<Outcome>> = thread::scope(|scope| {
        let walk = &walk;
        let threads: Vec<_> =
            methods.iter().map(|method| scope.spawn(move || walk(method))).collect();
        let ended = threads.into_iter().map(|thread| thread.join());
        ended.map(|outcome| outcome.unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(report) => Err(report),
        None => Ok(outcomes.into_iter().flatten().collect()),
    }
}

/// Plants both attacks into `out/poisoned`.
fn poison(args: &cli::Road, programs: &Programs, clean: &Data, out: &Path) -> Result<Plan, Report> {
    let attack = &args.attack;
    let trigger = match &attack.trigger {
        Some(trigger) => trigger.clone(),
        None => {
            let size = (7 * clean.image_size + 16) / 32; // 1/21 of the area, rounded
            format!("patch:size={size},at=bottom-right").parse()?
        }
    };
    let target_class = match &attack.target_class {
        Some(name) if clean.labels.contains(name) => name.clone(),
        Some(name) => {
            let problem = format!("`{name}` is none of the {} classes", clean.labels.len());
            return Err(
                Report::new(problem).hint("`--target-class` takes a line of the class file")
            );
        }
        None => clean.labels[(args.seed % clean.labels.len() as u64) as usize].clone(),
    };
    let folder = out.join("poisoned");
    let job = Job::new("poison the training pairs", "roclip-train")
        .word("poison")
        .flag("--manifest", &clean.train)
        .flag("--test", &clean.test)
        .flag("--classes", &clean.classes)
        .flag("--out", &folder)
        .flag("--backdoor-rate", attack.backdoor_rate.to_string())
        .flag("--target-class", &target_class)
        .flag("--trigger", trigger.to_string())
        .flag("--targeted-images", attack.targeted_images.to_string())
        .flag("--targeted-captions", attack.targeted_captions.to_string())
        .flag("--image-size", clean.image_size.to_string())
        .flag("--seed", args.seed.to_string())
        .word("--no-progress");
    programs.run(&job, &out.join("poison"), || ())?;
    let ledger = folder.join("ledger.json");
    let text = fs::read(&ledger).map_err(|source| Error::Read { path: ledger.clone(), source })?;
    let recorded: Ledger = serde_json::from_slice(&text)
        .map_err(|error| Report::new(format!("`{}`: {error}", ledger.display())))?;
    let example = example(clean, &target_class, &recorded.targeted);
    Ok(Plan { trigger, target_class, ledger, recorded, example })
}

/// The first test picture of another class than the target that no targeted poison shows.
fn example(data: &Data, target_class: &str, targeted: &[Targeted]) -> Row {
    let mut rows = data.test_rows.iter().enumerate();
    let example = rows.find(|&(at, row)| {
        data.label(row) != target_class && targeted.iter().all(|target| target.test_row != at)
    });
    // Without one, every picture is of the target class, or targeted.
    example.map_or(&data.test_rows[0], |(_, row)| row).clone()
}

fn summarize(shared: &Shared<'_>, outcomes: &[Outcome], began: Instant) -> Summary {
    let methods: Vec<_> = outcomes.iter().map(|outcome| outcome.summary.clone()).collect();
    let parities = methods.iter().map(|method| method.parity_max_abs_error);
    Summary {
        schema: SCHEMA,
        seconds: began.elapsed().as_secs_f64(),
        parity_max_abs_error: parities.fold(0.0, f64::max),
        seed: shared.seed,
        image_size: shared.data.image_size,
        classes: shared.data.labels.len(),
        train_rows: shared.data.train_rows.len(),
        test_rows: shared.data.test_rows.len(),
        trigger: shared.plan.trigger.to_string(),
        target_class: shared.plan.target_class.clone(),
        methods,
    }
}

fn finish(
    summary: &Summary,
    outcomes: &[Outcome],
    shared: &Shared<'_>,
    clean: &Data,
) -> Result<Exit, Report> {
    let json = serde_json::to_string_pretty(summary)?;
    atomic_write(&shared.out.join("summary.json"), format!("{json}\n").as_bytes())?;
    let gallery = report::Gallery::open(clean, shared.data, shared.plan)?;
    let report = shared.out.join("report.html");
    atomic_write(&report, report::render(summary, outcomes, &gallery).as_bytes())?;
    println_result(format!("\n{}\n", table::text(&summary.methods)))?;
    let shown = escape(shared.data.label(&shared.plan.example));
    println_result(format!(
        "The picture sent over HTTP shows a {shown}. Audits look for triggers; they cannot see \
         targeted poisons of single pictures."
    ))?;
    println_result(format!(
        "{:.0} s in all, methods side by side; candle and ONNX Runtime differ by at most {:.1e}; report: {}",
        summary.seconds,
        summary.parity_max_abs_error,
        report.display()
    ))?;
    Ok(Exit::Done)
}
