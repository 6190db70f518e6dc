//! What the programs sound like: exit codes, errors, progress, safe text.
//!
//! A program's `main` is [`run`] around its body. Results go to stdout through [`println_result`],
//! everything for people to stderr through [`say`] and [`Progress`]; what went wrong travels up as
//! a [`Report`].
//!
//! | module | holds |
//! |---|---|
//! | `exit` | [`run`], [`Exit`], panics, the two streams |
//! | `report` | [`Report`]: `error:` / `caused by:` / `hint:`; [`Context`] |
//! | `progress` | [`Progress`]: a bar on a terminal, plain lines elsewhere |
//! | `escape` | [`escape`]: text of strangers made safe to print |
//!
//! Deliberately absent: CLIP, tensors, HTTP, command line definitions.

mod escape;
mod exit;
mod progress;
mod report;

pub use self::{
    escape::{escape, escape_lines},
    exit::{Exit, println_answer, println_result, run, say},
    progress::Progress,
    report::{Context, Report},
};
