//! One subcommand each: read what was named, audit, print.

pub mod endpoint;
pub mod model;
pub mod null;

use clip::text::{PromptTemplate, read_labels, read_templates};
use terminal::{Exit, Report, println_answer};

use crate::{Error, Result, cli::Probe, report, verdict::Audit};

/// Labels of the file, at least two.
fn labels(probe: &Probe) -> Result<Vec<String>> {
    let labels = read_labels(&probe.labels)?;
    match labels.len() {
        found @ 0..=1 => Err(Error::FewLabels { file: probe.labels.clone(), found }),
        _ => Ok(labels),
    }
}

/// Templates of the file, or `None` where none was named.
fn templates(probe: &Probe) -> Result<Option<Vec<PromptTemplate>>> {
    Ok(probe.templates.as_deref().map(read_templates).transpose()?)
}

/// Prints the audit in the form that was asked for and gives its exit code.
fn conclude(audit: &Audit, json: bool) -> Result<Exit, Report> {
    let text = if json { report::json::render(audit) } else { report::text::render(audit) };
    println_answer(text, audit.verdict.exit())
}
