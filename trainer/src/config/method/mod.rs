//! `[method]` and one struct for each method that has settings.

use serde::{Deserialize, Serialize};

use super::Problems;

/// A word out of a few.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$case_doc:meta])* $case:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $($(#[$case_doc])* $case),+ }
    };
}

mod cleanclip;
mod roclip;
mod safeclip;
mod sieve;

pub use cleanclip::Cleanclip;
pub use roclip::{Duplicates, Enqueue, Fill, LastEpoch, Retrieval, Roclip, TextTower, Wrap};
pub use safeclip::Safeclip;
pub use sieve::{Fate, Parts, Score, Sieve, Split};

/// `[method]`
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Method {
    /// `sieve` unless given, or `clip`, `roclip`, `roclip-as-published`, `cleanclip` or `safeclip`
    pub name: MethodName,
    /// Settings of `roclip` and `roclip-as-published`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roclip: Option<Roclip>,
    /// Settings of `sieve`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sieve: Option<Sieve>,
    /// Settings of `cleanclip`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cleanclip: Option<Cleanclip>,
    /// Settings of `safeclip`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safeclip: Option<Safeclip>,
}

/// Which loss is minimised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MethodName {
    /// InfoNCE of each image and its own caption
    Clip,
    /// InfoNCE of each image and its nearest pooled caption, every K-th epoch
    Roclip,
    /// The same with the defaults of its authors' released code: [`Roclip::as_published`]
    RoclipAsPublished,
    /// InfoNCE of each image and its own caption, without the pairs in doubt: unless another is
    /// asked for, captions that nobody has checked are not believed
    #[default]
    Sieve,
    /// InfoNCE of each image and its own caption, and of both with their augmented selves
    Cleanclip,
    /// InfoNCE of each image and its own caption for the pairs that are safe, and of views with
    /// their nearest neighbors in the same modality for the others
    Safeclip,
}

impl Method {
    /// Settings of `sieve`, defaults where none are given.
    pub fn sieve(&self) -> Sieve {
        self.sieve.clone().unwrap_or_default()
    }

    /// Settings of `cleanclip`, defaults where none are given.
    pub fn cleanclip(&self) -> Cleanclip {
        self.cleanclip.clone().unwrap_or_default()
    }

    /// Settings of `safeclip`, defaults where none are given.
    pub fn safeclip(&self) -> Safeclip {
        self.safeclip.clone().unwrap_or_default()
    }

    /// Settings of `roclip`, the defaults of the method's name where none are given.
    pub fn roclip(&self) -> Roclip {
        self.roclip.clone().unwrap_or_else(|| match self.name {
            MethodName::RoclipAsPublished => Roclip::as_published(),
            _ => Roclip::default(),
        })
    }

    /// Writes out the settings of the method: resolved, a run does not change when a default does.
    pub(super) fn fill_in(&mut self) {
        match self.name {
            MethodName::Clip => {}
            MethodName::Roclip | MethodName::RoclipAsPublished => self.roclip = Some(self.roclip()),
            MethodName::Sieve => self.sieve = Some(self.sieve()),
            MethodName::Cleanclip => self.cleanclip = Some(self.cleanclip()),
            MethodName::Safeclip => self.safeclip = Some(self.safeclip()),
        }
    }

    /// Most views of a pair in one batch.
    pub(super) fn views_max(&self) -> usize {
        match self.name {
            MethodName::Cleanclip | MethodName::Safeclip => 2,
            _ => 1,
        }
    }

    /// Whether it is RoCLIP, under either name.
    pub(super) fn is_roclip(&self) -> bool {
        matches!(self.name, MethodName::Roclip | MethodName::RoclipAsPublished)
    }

    /// `epochs`: those of the whole run.
    pub(super) fn check(&self, epochs: u32, problems: &mut Problems) {
        let chosen = self.roclip.is_none() || self.is_roclip();
        problems.require(chosen, "method.roclip", "left out unless `method.name` is `roclip`");
        let chosen = self.sieve.is_none() || self.name == MethodName::Sieve;
        problems.require(chosen, "method.sieve", "left out unless `method.name` is `sieve`");
        let chosen = self.cleanclip.is_none() || self.name == MethodName::Cleanclip;
        let limits = "left out unless `method.name` is `cleanclip`";
        problems.require(chosen, "method.cleanclip", limits);
        let chosen = self.safeclip.is_none() || self.name == MethodName::Safeclip;
        problems.require(chosen, "method.safeclip", "left out unless `method.name` is `safeclip`");
        match self.name {
            MethodName::Clip => {}
            MethodName::Roclip | MethodName::RoclipAsPublished => {
                self.roclip().check(epochs, problems);
            }
            MethodName::Sieve => self.sieve().check(epochs, problems),
            MethodName::Cleanclip => self.cleanclip().check(problems),
            MethodName::Safeclip => self.safeclip().check(epochs, problems),
        }
    }
}
