//! p-values from the same statistic of clean models.
//!
//! A null model is comparable when tower family, labels, templates and search are the same: a
//! statistic measures architecture and training scale as much as it measures backdoors, so there
//! is no threshold that fits all. With n null models the smallest p-value is 1/(n+1).

use std::{fs, path::Path};

use clip::{folder::hex, text::PromptTemplate};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    Error, Result,
    detector::{Capability, inversion::Recipe, statistics::Statistics},
};

/// `schema` of a file of null statistics.
pub const SCHEMA: &str = "roclip/null/1";
/// Comparable null models without which there is no verdict: the fewest whose smallest p-value,
/// 1/21, is below [`P_MAX`].
pub const NULL_MODELS_MIN: usize = 20;
/// Greatest p-value of a finding.
pub const P_MAX: f64 = 0.05;

/// Statistics of clean models as `roclip-audit null` writes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NullFile {
    /// [`SCHEMA`].
    pub schema: String,
    /// How the models were trained, in words or as the command that trained them.
    pub training: String,
    /// [`prompts_sha256`] of the labels and templates.
    pub prompts_sha256: String,
    /// The search that was made on each.
    pub recipe: Option<Recipe>,
    /// One entry per clean model.
    pub models: Vec<NullModel>,
}

/// One clean model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NullModel {
    /// Name of its folder.
    pub name: String,
    /// SHA-256 of its weights, lower-case hex.
    pub sha256: String,
    /// Family of its image tower.
    pub family: String,
    /// How well it tells the probe images apart.
    pub capability: Capability,
    /// The numbers to compare with.
    pub statistics: Statistics,
}

/// Null statistics that are shipped, one family of models per file.
const SHIPPED: [(&str, &str); 1] =
    [("shapes-rn-micro.json", include_str!("null/shapes-rn-micro.json"))];

/// What a model under audit must have in common with its null models.
#[derive(Debug, Clone, Copy)]
pub struct Stratum<'a> {
    /// Family of the image tower.
    pub family: &'a str,
    /// [`prompts_sha256`] of the labels and templates.
    pub prompts_sha256: &'a str,
    /// The search.
    pub recipe: &'a Recipe,
}

/// A statistic and its place among clean models.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    /// Comparable null models.
    pub comparable: usize,
    /// Share of clean models at least as suspicious, the audited one counted among them.
    pub p_value: f64,
    /// [`cannot_tell`] beside these clean models.
    pub cannot_tell: Option<String>,
    /// Least confidence and spread among the comparable null models.
    pub capability_min: Capability,
}

impl NullFile {
    /// Statistics shipped with the program.
    pub fn shipped() -> Result<Vec<Self>> {
        SHIPPED.iter().map(|(name, text)| Self::parse(Path::new(name), text)).collect()
    }

    /// A file that the user names.
    pub fn read(path: &Path) -> Result<Self> {
        let refuse = |source| clip::Error::Read { path: path.to_owned(), source };
        Self::parse(path, &fs::read_to_string(path).map_err(refuse)?)
    }

    fn parse(path: &Path, text: &str) -> Result<Self> {
        let refuse = |problem| Error::Null { path: path.to_owned(), problem };
        let no_json = |error| refuse(format!("no JSON: {error}"));
        let value: Value = serde_json::from_str(text).map_err(no_json)?;
        match value["schema"].as_str() {
            Some(SCHEMA) => Self::deserialize(value).map_err(|error| refuse(error.to_string())),
            other => {
                let found = other.unwrap_or("none");
                Err(refuse(format!("schema `{found}`, expected `{SCHEMA}`")))
            }
        }
    }

    /// The models that can be compared with one of `stratum`; never the audited one itself.
    fn comparable<'a>(
        &'a self,
        stratum: Stratum<'a>,
        sha256: &'a str,
    ) -> impl Iterator<Item = &'a NullModel> {
        let same_search = self.recipe.as_ref() == Some(stratum.recipe)
            && self.prompts_sha256 == stratum.prompts_sha256;
        self.models.iter().filter(move |model| {
            same_search && model.family == stratum.family && model.sha256 != sha256
        })
    }
}

/// Identity of the class embeddings that are searched: SHA-256 of labels and templates in their
/// order, lower-case hex.
pub fn prompts_sha256(labels: &[String], templates: &[PromptTemplate]) -> String {
    let mut hash = Sha256::new();
    for line in labels.iter().cloned().chain(templates.iter().map(ToString::to_string)) {
        hash.update((line.len() as u64).to_le_bytes());
        hash.update(line);
    }
    hex(&hash.finalize())
}

/// Null models of all `files` that a model of `stratum` with these weights can be compared with.
pub fn comparable<'a>(
    files: &'a [NullFile],
    stratum: Stratum<'a>,
    sha256: &'a str,
) -> Vec<&'a NullModel> {
    let all = files.iter().flat_map(|file| file.comparable(stratum, sha256));
    let mut models: Vec<_> = all.collect();
    models.sort_by(|a, b| a.sha256.cmp(&b.sha256));
    models.dedup_by(|a, b| a.sha256 == b.sha256); // one model in two files is one model
    models
}

/// Why beside these no model could come to a verdict.
pub fn cannot_tell(models: &[&NullModel]) -> Option<String> {
    let null: Vec<f64> = models.iter().map(|model| model.statistics.primary()).collect();
    match models.len() {
        few @ 0..NULL_MODELS_MIN => Some(format!(
            "{few} comparable clean models (same tower, labels, templates and search), at least \
             {NULL_MODELS_MIN} are needed"
        )),
        _ if p_value(Statistics::greatest(), &null) > P_MAX => Some(
            "patches of clean models work as well as any could: no model would stand out".into(),
        ),
        _ => None,
    }
}

/// The audited model's place among the comparable null models of all `files`; `None` without any.
pub fn calibrate(
    files: &[NullFile],
    stratum: Stratum<'_>,
    sha256: &str,
    audited: &Statistics,
) -> Option<Calibration> {
    let models = comparable(files, stratum, sha256);
    let null: Vec<f64> = models.iter().map(|model| model.statistics.primary()).collect();
    let least = |of: fn(&Capability) -> f64| {
        models.iter().map(|model| of(&model.capability)).fold(f64::INFINITY, f64::min)
    };
    (!models.is_empty()).then(|| Calibration {
        comparable: models.len(),
        p_value: p_value(audited.primary(), &null),
        cannot_tell: cannot_tell(&models),
        capability_min: Capability {
            confidence: least(|capability| capability.confidence),
            spread: least(|capability| capability.spread),
        },
    })
}

/// Conformal p-value: `(1 + #{null >= statistic}) / (n + 1)`; ties count against a finding.
pub fn p_value(statistic: f64, null: &[f64]) -> f64 {
    let above = null.iter().filter(|&&value| value >= statistic).count();
    (1 + above) as f64 / (1 + null.len()) as f64
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn statistics(value: f64) -> Statistics {
        Statistics { success: value, lead: value, gap: value }
    }

    fn model(number: usize, value: f64) -> NullModel {
        NullModel {
            name: format!("clean-{number}"),
            sha256: format!("{number:064x}"),
            family: "resnet".into(),
            capability: Capability { confidence: 0.9 - number as f64 / 100.0, spread: 0.9 },
            statistics: statistics(value),
        }
    }

    fn file(count: usize) -> NullFile {
        NullFile {
            schema: SCHEMA.into(),
            training: "test".into(),
            prompts_sha256: "p".into(),
            recipe: Some(Recipe::new(32, 256)),
            models: (0..count).map(|number| model(number, number as f64)).collect(),
        }
    }

    #[test]
    fn the_smallest_p_value_is_one_over_n_plus_one() {
        let null: Vec<f64> = (0..20).map(f64::from).collect();
        assert_eq!(p_value(20.0, &null), 1.0 / 21.0);
        assert_eq!(p_value(19.0, &null), 2.0 / 21.0); // a tie counts
        assert_eq!(p_value(-1.0, &null), 1.0);
        assert_eq!(p_value(5.0, &[]), 1.0);
        assert!(p_value(f64::INFINITY, &[0.0; NULL_MODELS_MIN]) <= P_MAX);
        assert!(p_value(f64::INFINITY, &[0.0; NULL_MODELS_MIN - 2]) > P_MAX);
    }

    #[test]
    fn under_the_null_p_is_at_most_t_in_a_share_t_of_the_draws() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let draws = 20_000;
        let below = (0..draws).filter(|_| {
            let null: Vec<f64> = (0..20).map(|_| rng.random::<f64>()).collect();
            p_value(rng.random(), &null) <= P_MAX
        });
        let share = below.count() as f64 / f64::from(draws);
        assert!((share - 1.0 / 21.0).abs() < 0.006, "{share}");
    }

    #[test]
    fn only_like_is_compared_with_like() {
        let (files, recipe) = ([file(25)], Recipe::new(32, 256));
        let count = |family, prompts_sha256, recipe: &Recipe, sha256: &str| {
            let stratum = Stratum { family, prompts_sha256, recipe };
            calibrate(&files, stratum, sha256, &statistics(3.0)).map_or(0, |c| c.comparable)
        };
        assert_eq!(count("resnet", "p", &recipe, "other"), 25);
        assert_eq!(count("vit", "p", &recipe, "other"), 0);
        assert_eq!(count("resnet", "q", &recipe, "other"), 0);
        assert_eq!(count("resnet", "p", &Recipe::new(32, 100), "other"), 0);
        assert_eq!(count("resnet", "p", &recipe, &files[0].models[3].sha256), 24);
    }

    #[test]
    fn beside_few_models_or_models_that_do_all_nothing_can_be_told() {
        let told = |file: NullFile| cannot_tell(&file.models.iter().collect::<Vec<_>>());
        assert!(told(file(19)).expect("too few").starts_with("19 comparable"));
        let with = |count, saturated: usize| {
            let mut file = file(count);
            let first = file.models.iter_mut().take(saturated);
            first.for_each(|model| model.statistics = statistics(Statistics::greatest()));
            let others = file.models.iter_mut().skip(saturated);
            others.for_each(|model| model.statistics = statistics(0.5));
            told(file)
        };
        assert_eq!(with(20, 0), None);
        assert!(with(20, 1).expect("2 in 21 is no 1 in 20").contains("would stand out"));
        assert!(with(38, 1).is_some());
        assert_eq!(with(39, 1), None);
    }

    #[test]
    fn a_model_in_two_files_counts_once() {
        let files = [file(20), file(21)];
        let recipe = Recipe::new(32, 256);
        let stratum = Stratum { family: "resnet", prompts_sha256: "p", recipe: &recipe };
        let calibration = calibrate(&files, stratum, "", &statistics(20.5)).expect("comparable");
        assert_eq!((calibration.comparable, calibration.p_value), (21, 1.0 / 22.0));
        assert!((calibration.capability_min.confidence - 0.7).abs() < 1e-9);
    }

    #[test]
    fn a_file_survives_the_disk_and_a_broken_one_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("null.json");
        let text = serde_json::to_string(&file(3)).expect("plain data");
        fs::write(&path, &text).expect("written");
        assert_eq!(NullFile::read(&path).expect("just written"), file(3));
        let refused = |text: &str| {
            fs::write(&path, text).expect("written");
            NullFile::read(&path).expect_err("refused").to_string()
        };
        assert!(refused("{").contains("null.json"));
        assert!(refused(&text.replace("null/1", "null/9")).contains("expected `roclip/null/1`"));
    }

    #[test]
    fn the_shipped_null_models_suffice_for_a_verdict_of_this_search() {
        for file in NullFile::shipped().expect("the shipped statistics can be read") {
            assert_eq!(file.recipe, Some(Recipe::new(32, 256)));
            assert!(file.models.len() >= NULL_MODELS_MIN, "{}", file.models.len());
        }
    }
}
