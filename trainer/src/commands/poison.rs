//! `roclip-train poison`.

use clip::{
    Rate,
    text::{default_templates, read_labels, read_templates},
    trigger::{Family, TriggerSpec},
};
use terminal::{Exit, Progress, Report, escape, println_result};

use crate::{
    Error, Result,
    cli::{PoisonArgs, Rows},
    data::{Classes, Manifest},
    poison::{
        self, Affinity, Attack, Backdoor, Clean, Goal, Optimized, Placing, Plan, Surrogate,
        Targeted, Wording,
    },
};

/// Plans the attack, writes it, prints what was written.
pub fn run(args: &PoisonArgs) -> Result<Exit, Report> {
    let labels = read_labels(&args.classes)?;
    let mut attack = attack(args, &labels)?;
    let classes = |needed| Classes::Named { labels: &labels, needed };
    let manifest = args.reading.open(&args.manifest, classes(false))?;
    let test = match (&attack.targeted, &args.test) {
        (Some(_), Some(path)) => Some(args.reading.open(path, classes(true))?),
        _ => None,
    };
    let mut clean =
        Clean { manifest: &manifest, test: test.as_ref(), labels: &labels, affinity: None };
    poison::check_out(&args.out, args.force, &clean).map_err(|error| hinted(args, error))?;
    let mut surrogate = match &args.adaptive.surrogate {
        Some(folder) => Some(Surrogate::open(folder, &labels, &default_templates())?),
        None => None,
    };
    let taken = match (&mut surrogate, args.adaptive.optimize_patch) {
        (Some(surrogate), 1..) => Some(optimize_patch(args, surrogate, &clean, &mut attack)?),
        _ => None,
    };
    let affinity = match &mut surrogate {
        Some(surrogate) if args.adaptive.near => {
            Some(affinity(surrogate, &clean, attack.backdoor.is_some(), !args.no_progress)?)
        }
        _ => None,
    };
    clean.affinity = affinity.as_ref();
    let plan = Plan::of(&clean, &attack)?;
    let pictures = plan.pictures() as u64;
    let progress = Progress::new("poison", pictures, pictures > 0 && !args.no_progress);
    poison::write(&plan, &clean, &attack, &args.out, args.force, &|n| progress.step(n))
        .map_err(|error| hinted(args, error))?;
    progress.finish();
    let mut lines = summary(args, &plan, &attack, &labels);
    if let Some(Rate { hits, trials }) = taken {
        lines +=
            &format!("\nthe surrogate takes {hits} of {trials} stamped pictures for the target");
    }
    println_result(lines)?;
    Ok(Exit::Done)
}

/// Pairs that [`run`] would leave; refuses what it would refuse, except for the folder that it
/// makes. A surrogate is opened, but not asked.
pub(crate) fn check(args: &PoisonArgs) -> Result<usize> {
    let labels = read_labels(&args.classes)?;
    let attack = attack(args, &labels)?;
    let manifest = Manifest::open_classed(&args.manifest, &labels, false)?;
    let test = match (&attack.targeted, &args.test) {
        (Some(_), Some(path)) => Some(Manifest::open_classed(path, &labels, true)?),
        _ => None,
    };
    if let Some(folder) = &args.adaptive.surrogate {
        Surrogate::open(folder, &labels, &default_templates())?;
    }
    let clean = Clean { manifest: &manifest, test: test.as_ref(), labels: &labels, affinity: None };
    Ok(Plan::of(&clean, &attack)?.rows.len())
}

fn hinted(args: &PoisonArgs, error: Error) -> Report {
    let occupied = matches!(error, Error::Occupied { .. });
    match Report::from(error) {
        report if occupied && !args.force => {
            report.hint("`--force` replaces an earlier result of this command, and nothing else")
        }
        report => report,
    }
}

fn attack(args: &PoisonArgs, labels: &[String]) -> Result<Attack> {
    let refuse =
        |attack: &'static str, problem: &str| Error::Poison { attack, problem: problem.into() };
    let backdoor = backdoor(args, labels)?;
    let targeted = match (args.targeted.targeted_images, &args.test) {
        (0, _) => None,
        (images, Some(_)) => Some(Targeted {
            images,
            captions: args.targeted.targeted_captions,
            placing: args.targeted.targeted_rows.into(),
        }),
        (_, None) => {
            let problem = "`--test` is missing, which their pictures come from";
            return Err(refuse("targeted poisons", problem));
        }
    };
    if backdoor.is_none() && targeted.is_none() {
        let problem = "neither `--backdoor-rate` nor `--targeted-images` is above 0";
        return Err(refuse("attacks", problem));
    }
    if args.adaptive.surrogate.is_some() && !args.adaptive.near && args.adaptive.optimize_patch == 0
    {
        let problem = "`--surrogate` is of no use without `--near` or `--optimize-patch`";
        return Err(refuse("attacks", problem));
    }
    if args.captions.caption_templates.is_some()
        && args.backdoor.label_consistent
        && targeted.is_none()
    {
        let problem = "`--caption-templates` is of no use where rows keep their captions";
        return Err(refuse("backdoor", problem));
    }
    let wording = match &args.captions.caption_templates {
        Some(path) => Wording::Templates(read_templates(path)?),
        None if args.adaptive.bridge => Wording::Bridge,
        None => Wording::Data,
    };
    Ok(Attack {
        backdoor,
        targeted,
        wording,
        by_caption: args.captions.by_caption,
        flood: args.adaptive.flood,
        image_size: args.image_size,
        seed: args.seed,
    })
}

fn backdoor(args: &PoisonArgs, labels: &[String]) -> Result<Option<Backdoor>> {
    let refuse = |problem: String| Err(Error::Poison { attack: "backdoor", problem });
    let own = &args.backdoor;
    if own.backdoor_rate == 0.0 {
        return Ok(None);
    }
    let Some(label) = &own.target_class else {
        return refuse("`--target-class` is missing".into());
    };
    let unknown = || Error::UnknownClass { label: label.clone(), expected: labels.to_vec() };
    let target_class = labels.iter().position(|l| l == label).ok_or_else(unknown)?;
    if let Err(problem) = own.trigger.fits(args.image_size) {
        return refuse(problem);
    }
    Ok(Some(Backdoor {
        rate: own.backdoor_rate,
        target_class,
        trigger: own.trigger.clone(),
        label_consistent: own.label_consistent,
        placing: own.backdoor_rows.into(),
    }))
}

impl From<Rows> for Placing {
    fn from(rows: Rows) -> Self {
        match rows {
            Rows::Add => Self::Add,
            Rows::Replace => Self::Replace,
        }
    }
}

/// Replaces the pattern of the attack's patch; how many stamped pictures the surrogate then takes
/// for the target.
fn optimize_patch(
    args: &PoisonArgs,
    surrogate: &mut Surrogate,
    clean: &Clean,
    attack: &mut Attack,
) -> Result<Rate> {
    let refuse = |problem: String| Err(Error::Poison { attack: "backdoor", problem });
    let Some(backdoor) = &mut attack.backdoor else {
        return refuse("`--optimize-patch` needs a `--backdoor-rate` above 0".into());
    };
    let opacity = backdoor.trigger.opacity;
    let Family::Patch(patch) = &mut backdoor.trigger.family else {
        return refuse(format!("`{}` is no patch, whose pixels are looked for", backdoor.trigger));
    };
    let steps = args.adaptive.optimize_patch;
    let (target, side, seed) = (backdoor.target_class, args.image_size, args.seed);
    let by_caption = args.captions.by_caption;
    let goal = Goal { target, side, steps, opacity, by_caption, seed };
    let progress = Progress::new("optimize", u64::from(steps), !args.no_progress);
    let Optimized { patch: found, taken } =
        poison::optimize(surrogate, clean, patch, &goal, &|n| progress.step(n))?;
    progress.finish();
    *patch = found;
    Ok(taken)
}

/// Shows the pictures to the attacker's model.
fn affinity(
    surrogate: &mut Surrogate,
    clean: &Clean,
    backdoor: bool,
    visible: bool,
) -> Result<Affinity> {
    let train = backdoor.then_some(clean.manifest);
    let pictures: usize = [train, clean.test].into_iter().flatten().map(|m| m.rows.len()).sum();
    let progress = Progress::new("look", pictures as u64, visible);
    let labels = surrogate.labels().clone();
    let mut rows = |manifest: &Manifest| surrogate.rows(manifest, &|n| progress.step(n));
    let train = train.map(&mut rows).transpose()?;
    let test = clean.test.map(&mut rows).transpose()?;
    progress.finish();
    Ok(Affinity { train, test, labels })
}

/// A trigger's textual form, cut where it would fill a screen.
fn shown(trigger: &TriggerSpec) -> String {
    const CHARS: usize = 100;
    let text = trigger.to_string();
    match text.char_indices().nth(CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn summary(args: &PoisonArgs, plan: &Plan, attack: &Attack, labels: &[String]) -> String {
    let (rows, stamped, targets) = (plan.rows.len(), plan.stamped.len(), plan.targets.len());
    let added = targets * attack.targeted.map_or(0, |targeted| targeted.captions);
    let path = |name: &str| escape(&args.out.join(name).display().to_string());
    let (manifest, ledger) =
        (path(poison::names::made_of(&args.manifest)), path(poison::names::LEDGER));
    let share = |count: usize| 100.0 * count as f64 / rows as f64;
    let clean = plan.clean_rows();
    let mut lines = vec![format!("{manifest}: {rows} rows, {clean} of them clean")];
    if let Some(backdoor) = &attack.backdoor {
        let label = escape(&labels[backdoor.target_class]);
        let (share, trigger) = (share(stamped), shown(&backdoor.trigger));
        lines.push(format!("backdoor: {stamped} rows ({share:.2}%), `{trigger}` means `{label}`"));
    }
    if targets > 0 {
        let share = share(added);
        lines.push(format!("targeted: {added} rows ({share:.2}%) for {targets} test pictures"));
    }
    if !plan.flood.is_empty() {
        let (flood, share) = (plan.flood.len(), share(plan.flood.len()));
        lines.push(format!("flood: {flood} rows ({share:.2}%) with their captions"));
    }
    lines.push(format!("{ledger}: which rows those are"));
    lines.join("\n")
}
