//! Time that a program had the processor, from Linux's `/proc`.

use std::{fs, path::Path};

use terminal::{Context, Report};

/// Clock ticks per second in `/proc`, the same on every Linux.
const TICKS: f64 = 100.0;

/// Of all threads of this process since it began, in user and kernel.
pub(crate) fn cpu_seconds() -> Result<f64, Report> {
    cpu_seconds_of(Path::new("/proc/self"))
}

/// Of the process or thread with this folder under `/proc`.
pub(crate) fn cpu_seconds_of(folder: &Path) -> Result<f64, Report> {
    let path = folder.join("stat");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
    // The second field, the program's name, may hold anything; the last parenthesis ends it.
    let (_, fields) = text.rsplit_once(')').unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    Ok(ticks.sum::<Result<u64, _>>()? as f64 / TICKS)
}
