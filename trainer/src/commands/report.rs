//! `roclip-train report`.

use clip::atomic_write::atomic_write;
use terminal::{Exit, Report, escape, println_result};

use crate::{cli::ReportArgs, report};

/// Draws the page and says where it is.
pub fn run(args: &ReportArgs) -> Result<Exit, Report> {
    let page = report::page(&args.folders)?;
    atomic_write(&args.out, page.as_bytes())?;
    println_result(escape(&args.out.display().to_string()))?;
    Ok(Exit::Done)
}
