//! Architectures with a name.

use crate::{
    ClipConfig,
    config::{Activation, ImageTower, OPENAI_MEAN, OPENAI_STD, Resnet, TextTower, Vit},
};

/// Channels of a head, in all published sizes.
const HEAD: usize = 64;

impl ClipConfig {
    /// Names that [`ClipConfig::preset`] knows, the small ones first.
    pub const PRESETS: [&str; 10] = [
        "rn-micro",
        "vit-micro",
        "ViT-Ti-16",
        "ViT-S-32",
        "ViT-S-16",
        "ViT-B-32",
        "ViT-B-16",
        "ViT-L-14",
        "RN50",
        "RN101",
    ];

    /// A named architecture, or `None` if [`ClipConfig::PRESETS`] has no such name.
    ///
    /// The micro sizes are for tests and for data sets of a few thousand pairs. `RN50`, `RN101` and
    /// ViT B and L are those of CLIP's paper (appendix F), ViT S those of open_clip's
    /// `model_configs/ViT-S-16.json` and `ViT-S-32.json`. open_clip has no ViT of DeiT's tiny width
    /// with a text transformer of its own: `ViT-Ti-16` goes one step on from its ViT-S, with the
    /// image tower of DeiT-Ti (Touvron et al. 2021, table 1) and a text tower and an embedding of the
    /// same width. All have OpenAI's QuickGELU, where open_clip's plain names mean exact GELU.
    ///
    /// `vocab_size` is OpenAI's and is replaced where another tokenizer is used.
    pub fn preset(name: &str) -> Option<Self> {
        let (dim, image, text) = match name {
            "rn-micro" => (128, resnet(32, [1, 1, 1, 1], 16, 8), micro_text()),
            "vit-micro" => {
                let vit = Vit { image_size: 32, patch_size: 8, width: 128, layers: 4, heads: 4 };
                (128, ImageTower::Vit(vit), micro_text())
            }
            "ViT-Ti-16" => (192, vit(16, 192, 12), text(192)),
            "ViT-S-32" => (384, vit(32, 384, 12), text(384)),
            "ViT-S-16" => (384, vit(16, 384, 12), text(384)),
            "ViT-B-32" => (512, vit(32, 768, 12), text(512)),
            "ViT-B-16" => (512, vit(16, 768, 12), text(512)),
            "ViT-L-14" => (768, vit(14, 1024, 24), text(768)),
            "RN50" => (1024, resnet(224, [3, 4, 6, 3], 64, 32), text(512)),
            "RN101" => (512, resnet(224, [3, 4, 23, 3], 64, 32), text(512)),
            _ => return None,
        };
        let activation = Activation::QuickGelu;
        Some(Self { dim, image, text, activation, mean: OPENAI_MEAN, std: OPENAI_STD })
    }
}

fn resnet(image_size: usize, layers: [usize; 4], width: usize, heads: usize) -> ImageTower {
    ImageTower::Resnet(Resnet { image_size, layers, width, heads })
}

fn vit(patch_size: usize, width: usize, layers: usize) -> ImageTower {
    ImageTower::Vit(Vit { image_size: 224, patch_size, width, layers, heads: width / HEAD })
}

fn text(width: usize) -> TextTower {
    let (vocab_size, context_length) = (49_408, 77);
    TextTower { vocab_size, context_length, width, layers: 12, heads: width / HEAD }
}

fn micro_text() -> TextTower {
    TextTower { vocab_size: 49_408, context_length: 32, width: 64, layers: 1, heads: 4 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::expected;

    #[test]
    fn every_preset_is_sound() {
        for name in ClipConfig::PRESETS {
            ClipConfig::preset(name).expect(name).check().expect(name);
        }
        assert_eq!(ClipConfig::preset("ViT-B/32"), None);
    }

    /// Parameters of the image and of the text tower with their projections, as open_clip 3 counts
    /// those of its models of the same sizes; the logit scale is one more.
    #[test]
    fn presets_have_the_published_sizes() {
        let check = |name: &str, image: usize, text: usize| {
            let config = ClipConfig::preset(name).expect(name);
            let (mut found, mut running) = ([0; 2], 0);
            for (name, shape) in expected(&config) {
                let count = shape.iter().product::<usize>();
                match name.contains(".running_") {
                    true => running += count,
                    false => found[usize::from(!name.starts_with("visual."))] += count,
                }
            }
            assert_eq!(found, [image, text + 1], "{name}");
            assert_eq!(running > 0, matches!(config.image, ImageTower::Resnet(_)), "{name}");
        };
        check("ViT-Ti-16", 5_561_472, 14_876_736);
        check("ViT-S-32", 22_641_792, 40_444_032);
        check("ViT-S-16", 21_813_504, 40_444_032);
        check("ViT-B-32", 87_849_216, 63_428_096); // 151,277,313
        check("ViT-B-16", 86_192_640, 63_428_096); // 149,620,737
        check("ViT-L-14", 303_966_208, 123_650_304); // 427,616,513
        check("RN50", 38_316_896, 63_690_240); // 102,007,137
        check("RN101", 56_259_936, 63_428_096); // 119,688,033
    }
}
