//! `run.toml`: types, defaults, and what makes a configuration refuse to start.

mod augment;
mod data;
mod method;
mod model;
mod monitor;
mod optim;
mod problems;
mod resolve;
mod tokenizer;

use std::path::PathBuf;

use clip::{
    ClipConfig,
    config::{ImageTower, Tower},
};
use serde::{Deserialize, Serialize};

pub use augment::{Augment, TextForm};
pub use data::Data;
pub use method::{
    Cleanclip, Duplicates, Enqueue, Fate, Fill, LastEpoch, Method, MethodName, Parts, Retrieval,
    Roclip, Safeclip, Score, Sieve, Split, TextTower, Wrap,
};
pub use model::Model;
pub use monitor::{Alarms, Monitor};
pub use optim::Optim;
pub use problems::Problems;
pub use resolve::open;
pub(crate) use resolve::{absolute, in_file, resolve};
pub use tokenizer::TokenizerSource;

/// A whole run; every table may be left out except `[data]`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Decides weights, order, augmentation: all of a run
    pub seed: u64,
    /// `cpu` or `cuda`
    pub device: Device,
    /// `single`, `mpi` or `nccl`: whether this process trains alone
    pub parallel: Parallel,
    /// What is trained on
    pub data: Data,
    /// What is trained
    pub model: Model,
    /// Which loss
    pub method: Method,
    /// How a pair is varied before each use
    pub augment: Augment,
    /// How weights move
    pub optim: Optim,
    /// What is watched, and never used by the method
    pub monitor: Monitor,
    /// Where results go
    pub output: Output,
}

/// Where the towers live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// The processor
    #[default]
    Cpu,
    /// An NVIDIA GPU, in a build with the feature `cuda`
    Cuda,
}

/// Which processes train together; how many is the launcher's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Parallel {
    /// One alone
    #[default]
    Single,
    /// All of an MPI job, in a build with the feature `mpi`
    Mpi,
    /// All that a launcher has started, with a GPU each, in a build with the feature `cuda`
    Nccl,
}

/// `[output]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Output {
    /// Folder of the run
    pub folder: PathBuf,
    /// Steps from one checkpoint to the next within an epoch; each epoch ends with one
    pub checkpoint_every_steps: Option<u64>,
    /// Steps from one line of `metrics.jsonl` to the next
    pub record_every_steps: u64,
    /// Whether curves are written for TensorBoard, too
    pub tensorboard: bool,
}

impl Default for Output {
    fn default() -> Self {
        Self {
            folder: "run".into(),
            checkpoint_every_steps: None,
            record_every_steps: 10,
            tensorboard: false,
        }
    }
}

/// Most pairs of one batch on a GPU: a launch counts them in its third axis.
const CUDA_BATCH_MAX: usize = (1 << 16) - 1;

impl Config {
    /// The towers that `[model]` describes; the vocabulary is the tokenizer's, known later. `None`
    /// for an unknown preset, and for a pre-trained model until [`open`] has read its sizes.
    pub fn clip(&self) -> Option<ClipConfig> {
        self.model.clip()
    }

    /// Epochs of the run, by the towers that they train: of the model, and with the sieve of others
    /// before it that are given up.
    pub fn parts(&self) -> Parts {
        let model = self.optim.epochs;
        match self.method.name {
            MethodName::Sieve => self.method.sieve().parts(model),
            _ => Parts { believer: 0, scout: 0, model },
        }
    }

    /// With what depends on the number of `pairs`, which [`open`] does not know: the sieve's epochs
    /// that are given up, and with them those with augmentation. Those that cannot be read count,
    /// too: no picture has to be, so that a run that goes on comes to the same.
    pub fn for_pairs(&self, pairs: usize) -> Self {
        let mut config = self.clone();
        if config.method.name != MethodName::Sieve {
            return config;
        }
        let model = config.optim.epochs;
        config.method.sieve.get_or_insert_default().fill_in(model, pairs);
        let Parts { believer, scout, .. } = config.parts();
        if believer > 0 {
            config.augment.from_epoch.get_or_insert(believer + 1);
        }
        let augmented = if scout > 0 { scout } else { (model / 2).max(1) };
        config.augment.epochs.get_or_insert(augmented);
        config
    }

    /// Adds everything that is wrong, each with its key and its limits.
    pub fn check(&self, problems: &mut Problems) {
        self.data.check(problems);
        let rows = self.method.views_max() * self.data.batch_size;
        let fits = self.device != Device::Cuda || rows <= CUDA_BATCH_MAX;
        let limit = CUDA_BATCH_MAX / self.method.views_max();
        let limit = format!("at most {limit} when `device` is `cuda`");
        problems.require(fits, "data.batch_size", &limit);
        let device = self.parallel != Parallel::Nccl || self.device == Device::Cuda;
        problems.require(device, "device", "`cuda` when `parallel` is `nccl`");
        self.model.check(problems);
        self.augment.check(self.clip().map(|clip| clip.image.image_size()), problems);
        self.optim.check(problems);
        self.check_towers(problems);
        let varies = self.augment.from_epoch.is_none_or(|first| first <= self.parts().all());
        problems.require(varies, "augment.from_epoch", "at most the epochs of the run");
        self.method.check(self.optim.epochs, problems);
        self.monitor.check(problems);
        let output = &self.output;
        let steps = output.checkpoint_every_steps != Some(0);
        problems.require(steps, "output.checkpoint_every_steps", "at least 1");
        problems.require(output.record_every_steps >= 1, "output.record_every_steps", "at least 1");
    }

    /// Whether pictures go through a ResNet.
    pub(crate) fn has_resnet(&self) -> bool {
        self.clip().is_some_and(|clip| matches!(clip.image, ImageTower::Resnet(_)))
    }

    /// What the towers, the method and the way to train them do not allow together.
    fn check_towers(&self, problems: &mut Problems) {
        let Self { model, method, optim, .. } = self;
        let learns = model.lock != Some(Tower::Image) || !method.is_roclip();
        let limits = "`text` or left out for `roclip`, whose matching epochs train the image tower";
        problems.require(learns, "model.lock", limits);
        let whole = self.has_resnet() && model.lock != Some(Tower::Image);
        let limits = "left out for a ResNet that is trained: its batch normalisation takes the \
                      statistics of the whole batch";
        problems.require(optim.micro_batch.is_none() || !whole, "optim.micro_batch", limits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let config: Config = toml::from_str(text).expect("well-formed");
        let mut problems = Problems::default();
        config.check(&mut problems);
        problems.into_lines()
    }

    #[test]
    fn defaults_and_a_manifest_are_enough() {
        let check = |more: &str, expected: &[&str]| {
            assert_eq!(problems(&format!("[data]\nmanifest = 'train.csv'\n{more}")), expected);
        };
        check("", &[]);
        check("[method.sieve]\nreferences = 9", &[]); // the method that is not named
        check("[optim]\nepochs = 0", &["`optim.epochs` must be at least 1"]);
        let other = "`method.roclip` must be left out unless `method.name` is `roclip`";
        check("[method.roclip]\npool_share = 0.2", &[other]);
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let lines = problems(
            "[data]\nmanifest = 'a.csv'\nbatch_size = 1\n[optim]\nlr = nan\n[model]\npreset = 'x'",
        );
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].starts_with("`data.batch_size` must be between"), "{lines:?}");
    }

    #[test]
    fn ranks_that_nccl_joins_need_gpus() {
        let lines = problems("parallel = 'mpi'\n[data]\nmanifest = 'a.csv'");
        assert_eq!(lines, Vec::<String>::new());
        let lines = problems("parallel = 'nccl'\n[data]\nmanifest = 'a.csv'");
        assert_eq!(lines, ["`device` must be `cuda` when `parallel` is `nccl`"]);
        for parallel in ["mpi", "nccl"] {
            let text = format!("parallel = '{parallel}'\ndevice = 'cuda'\n[data]\nmanifest = 'a'");
            assert_eq!(problems(&text), Vec::<String>::new());
        }
    }

    #[test]
    fn a_gpu_takes_batches_that_a_launch_can_count() {
        let lines = |size: usize| {
            problems(&format!("device = 'cuda'\n[data]\nmanifest = 'a.csv'\nbatch_size = {size}"))
        };
        assert_eq!(lines(65_535), Vec::<String>::new());
        let refused = "`data.batch_size` must be at most 65535 when `device` is `cuda`";
        assert_eq!(lines(65_536), [refused]);
    }

    #[test]
    fn a_block_of_another_method_is_refused() {
        for (name, key) in [
            ("roclip", "pool_share = 0.2"),
            ("sieve", "references = 9"),
            ("cleanclip", "clip_weight = 2.0"),
            ("safeclip", "growth = 0.1"),
        ] {
            let block = format!("[method]\nname = 'clip'\n[method.{name}]\n{key}");
            let lines = problems(&format!("[data]\nmanifest = 'a.csv'\n{block}"));
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(lines[0].contains(&format!("method.{name}")), "{lines:?}");
        }
    }

    #[test]
    fn roclip_must_match_before_its_end() {
        let check = |epochs: u32, from: u32, complaint: &[&str]| {
            let lines = problems(&format!(
                "[data]\nmanifest = 'a.csv'\n[optim]\nepochs = {epochs}\n\
                 [method]\nname = 'roclip'\n[method.roclip]\nmatch_from_epoch = {from}"
            ));
            assert_eq!(lines, complaint, "{epochs}, {from}");
        };
        check(3, 2, &[]);
        check(3, 3, &[]);
        let from = "`method.roclip.match_from_epoch` must be at least 2, at most `optim.epochs`, \
                    which is 3";
        check(3, 4, &[from]);
        check(3, 1, &[from]);
        let two = "`optim.epochs` must be at least 2 for RoCLIP: captions of the first fill the \
                   pool";
        check(1, 2, &[two]);
        check(0, 2, &["`optim.epochs` must be at least 1"]);
    }

    #[test]
    fn matching_has_limits() {
        let check = |line: &str, complaint: Option<&str>| {
            let lines = problems(&format!(
                "[data]\nmanifest = 'a.csv'\n[method]\nname = 'roclip'\n[method.roclip]\n{line}"
            ));
            let expected: Vec<_> =
                complaint.iter().map(|limits| format!("`method.roclip.{limits}")).collect();
            assert_eq!(lines, expected, "{line}");
        };
        check("pool_share = 0.5", None);
        check("pool_share = nan", Some("pool_share` must be above 0, at most 0.5"));
        check("pool_rows = 0", Some("pool_rows` must be at least 1"));
        check("match_every_epochs = 0", Some("match_every_epochs` must be at least 1"));
        check("match_chance = 1.0", None);
        check("match_chance = 0.0", Some("match_chance` must be above 0, at most 1"));
        check("match_from_agreement = 0.9", None);
        let signal = "match_from_agreement` must be above 0, below 1";
        check("match_from_agreement = 1.0", Some(signal));
        check("last_epoch = 'plain'", None);
        let last = "last_epoch` must be left out where `match_chance` is given or, for `plain`, all \
                    are matched";
        check("last_epoch = 'plain'\nmatch_every_epochs = 1", Some(last));
        check("last_epoch = 'match'\nmatch_chance = 0.5", Some(last));
        let some = "last_epoch` must be such that some epoch is matched before it";
        check("last_epoch = 'plain'\nmatch_from_epoch = 20", Some(some));
        check("enqueue_every_batches = 0", Some("enqueue_every_batches` must be at least 1"));
        check("fill = 'gaussian'\nmatch_from_epoch = 1", None);
        check("fill = 'gaussian'\nenqueue = 'matched'", None);
        let fill = "fill` must be `gaussian` where `enqueue` is `matched`: nothing else fills it";
        check("enqueue = 'matched'", Some(fill));
    }

    #[test]
    fn the_sieve_has_limits() {
        let check = |line: &str, complaint: Option<&str>| {
            let lines = problems(&format!(
                "[data]\nmanifest = 'a.csv'\n[optim]\nepochs = 6\n\
                 [method]\nname = 'sieve'\n[method.sieve]\n{line}"
            ));
            let expected: Vec<_> =
                complaint.iter().map(|limits| format!("`method.sieve.{limits}")).collect();
            assert_eq!(lines, expected, "{line}");
        };
        let from = Some("from_epoch` must be at least 2, at most `optim.epochs`");
        check("scout_epochs = 0\nfrom_epoch = 6", None);
        check("scout_epochs = 0\nfrom_epoch = 7", from);
        check("scout_epochs = 0\nfrom_epoch = 1", from);
        check("from_epoch = 4", None);
        let half = Some(
            "from_epoch` must be at least 2, at most 4, one more than `scout_epochs`; where that is \
             not given, half of `optim.epochs` counts",
        );
        check("from_epoch = 5", half);
        let scout = Some("from_epoch` must be at least 2, at most 6, one more than `scout_epochs`");
        check("scout_epochs = 5\nfrom_epoch = 7", scout);
        check("believer_epochs = 0\nscout_epochs = 5\nfrom_epoch = 6", None);
        check("score = 'pool'", None);
        for key in ["believer_epochs", "scout_epochs"] {
            let alone =
                format!("{key}` must be 0 where `score` is `pool` or `doubted` is `matched`");
            check(&format!("{key} = 3\nscore = 'pool'"), Some(&alone));
            check(&format!("{key} = 3\ndoubted = 'matched'"), Some(&alone));
            let counts = format!("{key}` must be less, so that the run has less than 2^32 epochs");
            check(&format!("{key} = 4294967290"), Some(&counts));
        }
        let both =
            "doubted` must be `left-out` unless `believer_epochs` and `scout_epochs` are above 0";
        check("doubted = 'recaptioned'", None);
        for line in ["score = 'pool'", "believer_epochs = 0", "scout_epochs = 0"] {
            check(&format!("doubted = 'recaptioned'\n{line}"), Some(both));
        }
        for key in ["crowd_factor", "keystone_ranges"] {
            for factor in ["0", "1.0", "20.5"] {
                check(&format!("{key} = {factor}"), None);
            }
            let limits = format!("{key}` must be 0, or at least 1");
            for factor in ["0.5", "-1", "nan", "inf"] {
                check(&format!("{key} = {factor}"), Some(&limits));
            }
        }
        check("views = 1", None);
        check("views = 0", Some("views` must be 1 or 2"));
        check("references = 2", None);
        check("references = 1", Some("references` must be at least 2"));
        check("smoothing = 0.0", None);
        check("smoothing = 1.0", None);
        check("smoothing = nan", Some("smoothing` must be between 0 and 1"));
        check("kept_first = 0.5", None);
        check("kept_first = 0.4", Some("kept_first` must be between 0.5 and 1"));
        check("kept_first = 0.8\nkept_last = 0.9", None);
        check("kept_last = 0.4", Some("kept_last` must be between 0.5 and 1"));
        check("split = 'share'\nkept_last = 0.9", None);
        let share = Some("kept_first` must be below 1, or `kept_last`, where `split` is `share`");
        check("split = 'share'", share);
    }

    #[test]
    fn a_monitor_without_test_images_is_refused() {
        for line in ["classes = 'c'", "templates = 't'", "ledger = 'l'", "every_epochs = 2"] {
            let lines = problems(&format!("[data]\nmanifest = 'a.csv'\n[monitor]\n{line}"));
            assert_eq!(lines.len(), 1, "{lines:?}");
            assert!(lines[0].starts_with("`monitor.test`"), "{lines:?}");
        }
    }

    #[test]
    fn an_unknown_key_names_itself_and_its_line() {
        let error = toml::from_str::<Config>("seed = 1\n[optim]\nlearning_rate = 1.0\n")
            .expect_err("no such key")
            .to_string();
        assert!(error.contains("learning_rate") && error.contains("line 3"), "{error}");
    }
}
