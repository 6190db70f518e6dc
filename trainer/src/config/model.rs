//! `[model]`: which towers, what they begin with, and which of them are trained.

use std::path::PathBuf;

use clip::{
    ClipConfig,
    config::{Activation, ImageTower, Tower},
    folder::{ModelFolder, names, tokenizer_path},
    text::Cleaning,
};
use serde::{Deserialize, Serialize};

use super::{Problems, TokenizerSource};
use crate::error::Result;

/// `[model]`
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// A name of `ClipConfig::PRESETS`, for new towers; `rn-micro` unless given
    pub preset: Option<String>,
    /// A model folder that the run begins with, in place of a preset: sizes, weights, tokenizer
    pub pretrained: Option<PathBuf>,
    /// `image` or `text`: this tower stays as it is (LiT, Zhai et al. 2022)
    pub lock: Option<Tower>,
    /// `quick_gelu` or `gelu`, in place of the preset's
    pub activation: Option<Activation>,
    /// Side of the input in pixels, in place of the preset's
    pub image_size: Option<usize>,
    /// Tokens per caption, in place of the preset's
    pub context_length: Option<usize>,
    /// `openai`, `openai-hf` or a `tokenizer.json`; without, one is learnt
    pub tokenizer: Option<TokenizerSource>,
    /// Greatest vocabulary of a learnt tokenizer
    pub vocab_size: usize,
    /// Sizes of `pretrained`, once it has been looked at
    #[serde(skip)]
    pub sizes: Option<ClipConfig>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            preset: None,
            pretrained: None,
            lock: None,
            activation: None,
            image_size: None,
            context_length: None,
            tokenizer: None,
            vocab_size: 4096,
            sizes: None,
        }
    }
}

impl Model {
    const PRESET: &str = "rn-micro";

    /// See [`Config::clip`](super::Config::clip).
    pub(super) fn clip(&self) -> Option<ClipConfig> {
        if self.pretrained.is_some() {
            return self.sizes.clone();
        }
        let mut clip = ClipConfig::preset(self.preset.as_deref().unwrap_or(Self::PRESET))?;
        if let Some(side) = self.image_size {
            match &mut clip.image {
                ImageTower::Resnet(tower) => tower.image_size = side,
                ImageTower::Vit(tower) => tower.image_size = side,
            }
        }
        if let Some(length) = self.context_length {
            clip.text.context_length = length;
        }
        if let Some(activation) = self.activation {
            clip.activation = activation;
        }
        Some(clip)
    }

    /// The tokenizer that is given; `None` if one is to be learnt.
    pub fn tokenizer_source(&self) -> Option<TokenizerSource> {
        let Some(folder) = &self.pretrained else { return self.tokenizer.clone() };
        // A folder that cannot be read is `resolve`'s to refuse.
        let file = tokenizer_path(folder).unwrap_or_else(|_| Some(folder.join(names::TOKENIZER)));
        let openai = TokenizerSource::OpenAi(Cleaning::OpenAi);
        Some(file.map_or(openai, TokenizerSource::File))
    }

    /// Puts the model that a folder will hold, of these sizes, in the place of new towers.
    pub(crate) fn begin_with(&mut self, folder: PathBuf) {
        let (pretrained, lock, sizes) = (Some(folder), self.lock, self.clip());
        *self = Self { pretrained, lock, sizes, ..Self::default() };
    }

    /// Looks at the folder of `pretrained`, if there is one; names the preset otherwise.
    pub(super) fn resolve(&mut self) -> Result<()> {
        match &self.pretrained {
            Some(folder) => self.sizes = Some(ModelFolder::open(folder)?.config),
            None => drop(self.preset.get_or_insert_with(|| Self::PRESET.into())),
        }
        Ok(())
    }

    /// Adds everything that is wrong, each with its key and its limits.
    pub(super) fn check(&self, problems: &mut Problems) {
        let vocabulary = (600..=1 << 20).contains(&self.vocab_size);
        problems.require(vocabulary, "model.vocab_size", "between 600 and 1048576");
        if self.pretrained.is_some() {
            return self.check_pretrained(problems);
        }
        match self.clip().map(|clip| clip.check()) {
            None => {
                let names = ClipConfig::PRESETS.join("`, `");
                problems.require(false, "model.preset", &format!("one of `{names}`"));
            }
            Some(Err(error)) => problems.add(format!("`model`: {error}")),
            Some(Ok(())) => {}
        }
    }

    /// What is the folder's to say is not said twice; sizes of inputs may be, and must fit.
    fn check_pretrained(&self, problems: &mut Problems) {
        for (is_free, key) in [
            (self.preset.is_none(), "model.preset"),
            (self.activation.is_none(), "model.activation"),
            (self.tokenizer.is_none(), "model.tokenizer"),
        ] {
            problems.require(is_free, key, "left out when `model.pretrained` is given");
        }
        let Some(sizes) = &self.sizes else { return };
        let (side, length) = (sizes.image.image_size(), sizes.text.context_length);
        for (asked, found, key) in [
            (self.image_size, side, "model.image_size"),
            (self.context_length, length, "model.context_length"),
        ] {
            let fits = asked.is_none_or(|asked| asked == found);
            let limits = format!("{found}, for which `model.pretrained` has positions");
            problems.require(fits, key, &limits);
        }
    }
}
