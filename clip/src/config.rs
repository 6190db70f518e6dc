//! What a CLIP model looks like: sizes of both towers, as numbers only. Those with a name are in
//! `presets`.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Both towers, the width of the embedding that they share, and the preprocessing of the images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClipConfig {
    /// Columns of an embedding (D).
    pub dim: usize,
    /// The image tower.
    pub image: ImageTower,
    /// The text tower.
    pub text: TextTower,
    /// Activation of all transformer blocks.
    pub activation: Activation,
    /// Mean of the normalised pixels, per channel, on a scale of 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation of the pixels, per channel, on a scale of 0 to 1.
    pub std: [f32; 3],
}

/// Sizes of the image tower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ImageTower {
    /// OpenAI's ModifiedResNet (CLIP, section 2.4; RN50 is one setting of it).
    Resnet(Resnet),
    /// Vision transformer.
    Vit(Vit),
}

/// OpenAI's ModifiedResNet: three-convolution stem, average pools for strides, attention pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resnet {
    /// Side of the square input, in pixels; a multiple of 32.
    pub image_size: usize,
    /// Bottleneck blocks of the four stages.
    pub layers: [usize; 4],
    /// Channels after the stem; the last stage has 32 times as many.
    pub width: usize,
    /// Heads of the attention pool; divides `32 * width`.
    pub heads: usize,
}

/// Vision transformer with class token, pre-norm blocks and `ln_pre`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vit {
    /// Side of the square input, in pixels; a multiple of `patch_size`.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Channels.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Heads; divides `width`.
    pub heads: usize,
}

/// Causal text transformer, pooled at the end token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextTower {
    /// Tokens of the vocabulary; the start token is the last but one, the end token the last.
    pub vocab_size: usize,
    /// Tokens per caption, both end marks included (T).
    pub context_length: usize,
    /// Channels.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Heads; divides `width`.
    pub heads: usize,
}

/// Activation of the transformer blocks' MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`: OpenAI's weights.
    QuickGelu,
    /// Exact GELU: most of open_clip's weights.
    Gelu,
}

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tower {
    /// Embeds images.
    Image,
    /// Embeds captions.
    Text,
}

/// OpenAI's pixel statistics.
pub const OPENAI_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// OpenAI's pixel statistics.
pub const OPENAI_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];
/// Greatest width, vocabulary, image side and so on that a configuration may ask for.
pub const SIZE_MAX: usize = 1 << 20;

impl ImageTower {
    /// Side of the square input, in pixels.
    pub fn image_size(&self) -> usize {
        match self {
            Self::Resnet(tower) => tower.image_size,
            Self::Vit(tower) => tower.image_size,
        }
    }

    /// Short name of the family and its sizes, equal for two towers of one shape.
    pub fn family(&self) -> String {
        match self {
            Self::Resnet(t) => {
                let layers = t.layers.map(|count| count.to_string()).join("-");
                format!("resnet-{layers}-w{}-{}px", t.width, t.image_size)
            }
            Self::Vit(t) => {
                format!("vit-p{}-w{}-l{}-{}px", t.patch_size, t.width, t.layers, t.image_size)
            }
        }
    }
}

impl Resnet {
    /// Channels of the last stage, and width of the attention pool.
    pub fn channels(&self) -> usize {
        32 * self.width
    }

    /// Side of the last feature map.
    pub fn grid(&self) -> usize {
        self.image_size / 32
    }
}

impl Vit {
    /// Patches of one image; the tower sees one token more.
    pub fn patches(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }
}

impl TextTower {
    /// Id of the start token.
    pub fn start(&self) -> u32 {
        (self.vocab_size - 2) as u32
    }

    /// Id of the end token, the highest of all: the text tower is pooled where it stands.
    pub fn end(&self) -> u32 {
        (self.vocab_size - 1) as u32
    }
}

impl ClipConfig {
    /// Refuses sizes that do not fit together; names the field.
    pub fn check(&self) -> Result<()> {
        let refuse = |field, problem: String| Err(Error::Config { field, problem });
        let sized = |field, value: usize| match value {
            1..=SIZE_MAX => Ok(()),
            _ => refuse(field, format!("{value} is not between 1 and {SIZE_MAX}")),
        };
        let divides = |field, part: usize, whole: usize| match whole.is_multiple_of(part) {
            true => Ok(()),
            false => refuse(field, format!("{part} does not divide {whole}")),
        };
        sized("dim", self.dim)?;
        match &self.image {
            ImageTower::Resnet(tower) => {
                sized("image.image_size", tower.image_size)?;
                sized("image.width", tower.width)?;
                sized("image.heads", tower.heads)?;
                for layers in tower.layers {
                    sized("image.layers", layers)?;
                }
                divides("image.image_size", 32, tower.image_size)?;
                divides("image.width", 2, tower.width)?;
                divides("image.heads", tower.heads, tower.channels())?;
            }
            ImageTower::Vit(tower) => {
                sized("image.image_size", tower.image_size)?;
                sized("image.patch_size", tower.patch_size)?;
                sized("image.width", tower.width)?;
                sized("image.layers", tower.layers)?;
                sized("image.heads", tower.heads)?;
                divides("image.patch_size", tower.patch_size, tower.image_size)?;
                divides("image.heads", tower.heads, tower.width)?;
            }
        }
        sized("text.vocab_size", self.text.vocab_size)?;
        sized("text.width", self.text.width)?;
        sized("text.layers", self.text.layers)?;
        sized("text.heads", self.text.heads)?;
        divides("text.heads", self.text.heads, self.text.width)?;
        if self.text.vocab_size < 4 {
            return refuse("text.vocab_size", format!("{} is below 4", self.text.vocab_size));
        }
        if !(3..=4096).contains(&self.text.context_length) {
            let problem = format!("{} is not between 3 and 4096", self.text.context_length);
            return refuse("text.context_length", problem);
        }
        let finite = |values: &[f32; 3]| values.iter().all(|value| value.is_finite());
        if !finite(&self.mean) || !finite(&self.std) || self.std.iter().any(|&std| std <= 0.0) {
            return refuse("std", "mean must be finite, std finite and above 0".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_must_divide_the_width() {
        let mut config = ClipConfig::preset("vit-micro").expect("a preset");
        config.text.heads = 7;
        let error = config.check().expect_err("7 does not divide 64").to_string();
        assert_eq!(error, "`text.heads`: 7 does not divide 64");
    }
}
