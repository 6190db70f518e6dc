//! `roclip-train poison`.

use clip::{text::read_labels, trigger::TriggerSpec};
use terminal::{Exit, Progress, Report, escape, println_result};

use crate::{
    Error, Result,
    cli::PoisonArgs,
    data::Manifest,
    poison::{self, Attack, Backdoor, Clean, Plan, Targeted, names},
};

/// Plans the attack, writes it, prints what was written.
pub fn run(args: &PoisonArgs) -> Result<Exit, Report> {
    let labels = read_labels(&args.classes)?;
    let attack = attack(args, &labels)?;
    let manifest = Manifest::open_classed(&args.manifest, &labels, false)?;
    let test = match (&attack.targeted, &args.test) {
        (Some(_), Some(path)) => Some(Manifest::open_classed(path, &labels, true)?),
        _ => None,
    };
    let clean = Clean { manifest: &manifest, test: test.as_ref(), labels: &labels };
    let plan = Plan::of(&clean, &attack)?;
    let pictures = plan.pictures() as u64;
    let progress = Progress::new("poison", pictures, pictures > 0 && !args.no_progress);
    let written =
        poison::write(&plan, &clean, &attack, &args.out, args.force, &|n| progress.step(n));
    match written {
        Err(error @ Error::Occupied { .. }) if !args.force => {
            return Err(Report::from(error)
                .hint("`--force` replaces an earlier result of this command, and nothing else"));
        }
        written => written?,
    };
    progress.finish();
    println_result(summary(args, &plan, &attack, &labels))?;
    Ok(Exit::Done)
}

fn attack(args: &PoisonArgs, labels: &[String]) -> Result<Attack> {
    let backdoor = match (&args.target_class, args.backdoor_rate) {
        (_, 0.0) => None,
        (None, _) => {
            let problem = "`--target-class` is missing".into();
            return Err(Error::Poison { attack: "backdoor", problem });
        }
        (Some(label), rate) => {
            let unknown =
                || Error::UnknownClass { label: label.clone(), expected: labels.to_vec() };
            let target_class = labels.iter().position(|l| l == label).ok_or_else(unknown)?;
            Some(Backdoor { rate, target_class, trigger: args.trigger })
        }
    };
    let targeted = match (args.targeted_images, &args.test) {
        (0, _) => None,
        (images, Some(_)) => Some(Targeted { images, captions: args.targeted_captions }),
        (_, None) => {
            let problem = "`--test` is missing, which their pictures come from".into();
            return Err(Error::Poison { attack: "targeted poisons", problem });
        }
    };
    if backdoor.is_none() && targeted.is_none() {
        let problem = "neither `--backdoor-rate` nor `--targeted-images` is above 0".into();
        return Err(Error::Poison { attack: "attacks", problem });
    }
    if let (Some(_), TriggerSpec::Patch(patch)) = (&backdoor, args.trigger)
        && patch.size > args.image_size
    {
        let (size, side) = (patch.size, args.image_size);
        let problem = format!("a patch of {size} pixels does not fit into pictures of {side}");
        return Err(Error::Poison { attack: "backdoor", problem });
    }
    Ok(Attack { backdoor, targeted, image_size: args.image_size, seed: args.seed })
}

fn summary(args: &PoisonArgs, plan: &Plan, attack: &Attack, labels: &[String]) -> String {
    let (rows, stamped, targets) = (plan.rows.len(), plan.stamped.len(), plan.targets.len());
    let added = targets * attack.targeted.map_or(0, |targeted| targeted.captions);
    let path = |name: &str| escape(&args.out.join(name).display().to_string());
    let (manifest, ledger) = (path(names::MANIFEST), path(names::LEDGER));
    let share = |count: usize| 100.0 * count as f64 / rows as f64;
    let clean = rows - stamped - added;
    let mut lines = vec![format!("{manifest}: {rows} rows, {clean} of them clean")];
    if let Some(backdoor) = &attack.backdoor {
        let label = escape(&labels[backdoor.target_class]);
        let (share, trigger) = (share(stamped), backdoor.trigger);
        lines.push(format!("backdoor: {stamped} rows ({share:.2}%), `{trigger}` means `{label}`"));
    }
    if targets > 0 {
        let share = share(added);
        lines.push(format!("targeted: {added} rows ({share:.2}%) for {targets} test pictures"));
    }
    lines.push(format!("{ledger}: which rows those are"));
    lines.join("\n")
}
