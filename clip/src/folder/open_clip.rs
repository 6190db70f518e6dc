//! `open_clip_config.json`, to and from [`ClipConfig`].
//!
//! open_clip builds many towers from this file; we have two of them. Every key is therefore known
//! here or refused: a key that changes the towers must not be read over.

use serde_json::{Map, Value, json};

use super::{layout::decimal, names, section::Section};
use crate::{
    ClipConfig,
    config::{Activation, ImageTower, OPENAI_MEAN, OPENAI_STD, Resnet, TextTower, Vit},
    text::Tokenizer,
};

/// Keys of `model_cfg` that we read, or that change no embedding.
const MODEL: [&str; 6] =
    ["embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_scale"];
/// Likewise of `vision_cfg`; those of timm and of pools count only for towers that are refused.
const VISION: [&str; 16] = [
    "layers",
    "width",
    "head_width",
    "patch_size",
    "image_size",
    "patch_dropout",
    "output_tokens",
    "attn_pooler_queries",
    "attn_pooler_heads",
    "timm_model_pretrained",
    "timm_pool",
    "timm_proj",
    "timm_proj_bias",
    "timm_drop",
    "timm_drop_path",
    "timm_patch_drop",
];
/// Key of `text_cfg` that names a tokenizer.
pub(super) const HF_TOKENIZER: &str = "hf_tokenizer_name";
/// Likewise of `text_cfg`.
const TEXT: [&str; 12] = [
    "context_length",
    "vocab_size",
    "width",
    "heads",
    "layers",
    HF_TOKENIZER,
    "output_tokens",
    "pad_id",
    "eos_id",
    "hf_model_pretrained",
    "hf_proj_type",
    "hf_pooler_type",
];
/// Variants of a block, in either tower.
const BLOCK: [&str; 6] =
    ["qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc"];

/// `open_clip_config.json`: `open_clip.create_model_from_pretrained("local-dir:FOLDER")` reads it.
///
/// open_clip takes its own tokenizer unless one is named, and any name stands for the one that lies
/// in the folder. Its own is ours of OpenAI's, whose cleaning a `tokenizer.json` says in part only.
pub fn open_clip_config(config: &ClipConfig, tokenizer: &Tokenizer) -> Value {
    let tokenizer_name = (!tokenizer.is_openai()).then_some(names::TOKENIZER);
    let vision_cfg = match &config.image {
        ImageTower::Resnet(tower) => json!({
            "image_size": tower.image_size,
            "layers": tower.layers,
            "width": tower.width,
            "head_width": tower.channels() / tower.heads,
            "patch_size": null,
        }),
        ImageTower::Vit(tower) => json!({
            "image_size": tower.image_size,
            "layers": tower.layers,
            "width": tower.width,
            "head_width": tower.width / tower.heads,
            "patch_size": tower.patch_size,
        }),
    };
    json!({
        "model_cfg": {
            "embed_dim": config.dim,
            "quick_gelu": config.activation == Activation::QuickGelu,
            "vision_cfg": vision_cfg,
            "text_cfg": {
                "context_length": config.text.context_length,
                "vocab_size": config.text.vocab_size,
                "width": config.text.width,
                "heads": config.text.heads,
                "layers": config.text.layers,
                HF_TOKENIZER: tokenizer_name,
            },
        },
        "preprocess_cfg": {
            "mean": config.mean.map(decimal),
            "std": config.std.map(decimal),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    })
}

/// Reads `open_clip_config.json`; where a key is absent or null, open_clip's default holds.
///
/// The error is the problem alone, for the caller to name the file: the key with its value, where
/// these towers cannot be what it says.
pub fn config_from_open_clip(form: &Value) -> Result<ClipConfig, String> {
    let form = without_nulls(form);
    let root = Section::of("", &form)?;
    let model = root.section("model_cfg")?;
    let (vision, text) = (model.section("vision_cfg")?, model.section("text_cfg")?);
    // SigLIP's bias and CoCa's decoder are not among `MODEL`.
    model
        .only(&MODEL, &[("nonscalar_logit_scale", json!(false)), ("output_dict", json!(false))])?;
    check_vision(&vision)?;
    check_text(&text)?;
    let is_quick = model.values.get("quick_gelu").unwrap_or(&Value::Bool(false));
    let activation = match is_quick {
        Value::Bool(true) => Activation::QuickGelu,
        Value::Bool(false) => Activation::Gelu,
        other => return Err(format!("`model_cfg.quick_gelu` is `{other}`, expected a boolean")),
    };
    let (mean, std) = pixel_statistics(&root)?;
    let parsed = ClipConfig {
        dim: model.size("embed_dim", 0)?,
        image: image_tower(&vision)?,
        text: TextTower {
            vocab_size: text.size("vocab_size", 49_408)?,
            context_length: text.size("context_length", 77)?,
            width: text.size("width", 512)?,
            layers: text.layers("layers", 12)?,
            heads: text.size("heads", 8)?,
        },
        activation,
        mean,
        std,
    };
    parsed.check().map_err(|error| error.to_string())?;
    Ok(parsed)
}

/// open_clip writes a key that is not set as null.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let set = map.iter().filter(|(_, value)| !value.is_null());
            set.map(|(key, value)| (key.clone(), without_nulls(value)))
                .collect::<Map<_, _>>()
                .into()
        }
        other => other.clone(),
    }
}

fn check_vision(vision: &Section<'_>) -> Result<(), String> {
    vision.only(
        &VISION,
        &with_block(&[
            ("timm_model_name", Value::Null),
            ("mlp_ratio", json!(4)),
            ("attentional_pool", json!(false)),
            ("no_ln_pre", json!(false)),
            ("pos_embed_type", json!("learnable")),
            ("final_ln_after_pool", json!(false)),
            ("pool_type", json!("tok")),
        ]),
    )
}

fn check_text(text: &Section<'_>) -> Result<(), String> {
    text.only(
        &TEXT,
        &with_block(&[
            ("hf_model_name", Value::Null),
            ("mlp_ratio", json!(4)),
            ("embed_cls", json!(false)),
            ("no_causal_mask", json!(false)),
            ("final_ln_after_pool", json!(false)),
            ("pool_type", json!("argmax")),
            ("proj_bias", json!(false)),
            ("proj_type", json!("linear")),
            ("tokenizer_kwargs", json!({})),
        ]),
    )
}

fn with_block(more: &[(&'static str, Value)]) -> Vec<(&'static str, Value)> {
    let block = BLOCK.map(|key| (key, json!(false)));
    let both = [("block_type", json!("default")), ("act_kwargs", json!({}))];
    let norm = [("norm_kwargs", json!({}))];
    [more, &block, &both, &norm].concat()
}

/// A list of `layers` makes a ModifiedResNet, one number a ViT.
fn image_tower(vision: &Section<'_>) -> Result<ImageTower, String> {
    let (width, image_size) = (vision.size("width", 768)?, side(vision)?);
    let heads = |channels: usize| match vision.size("head_width", 64)? {
        0 => Err(format!("`{}head_width` is 0", vision.prefix)),
        head_width => Ok(channels / head_width), // as open_clip: rounded down
    };
    Ok(match vision.values.get("layers") {
        Some(Value::Array(_)) => ImageTower::Resnet(Resnet {
            image_size,
            layers: vision.stages("layers")?,
            width,
            heads: heads(width.saturating_mul(32))?,
        }),
        _ => ImageTower::Vit(Vit {
            image_size,
            patch_size: vision.size("patch_size", 16)?,
            width,
            layers: vision.layers("layers", 12)?,
            heads: heads(width)?,
        }),
    })
}

/// One number, or height and width that are equal.
fn side(vision: &Section<'_>) -> Result<usize, String> {
    match vision.values.get("image_size") {
        Some(Value::Array(sides)) => match &sides[..] {
            [height, width] if height == width => height.as_u64().map(|side| side as usize),
            _ => None,
        }
        .ok_or_else(|| {
            let found = Value::from(sides.clone());
            format!("`{}image_size` is `{found}`, expected a square", vision.prefix)
        }),
        _ => vision.size("image_size", 224),
    }
}

/// Mean and standard deviation, once the other steps are known to be ours.
fn pixel_statistics(root: &Section<'_>) -> Result<([f32; 3], [f32; 3]), String> {
    let Some(steps) = root.values.get("preprocess_cfg") else {
        return Ok((OPENAI_MEAN, OPENAI_STD));
    };
    let steps = Section::of("preprocess_cfg.", steps)?;
    // open_clip takes the size from the tower, and a shorter side leaves nothing to fill.
    steps.only(
        &["mean", "std", "size", "fill_color"],
        &[
            ("interpolation", json!("bicubic")),
            ("resize_mode", json!("shortest")),
            ("mode", json!("RGB")),
        ],
    )?;
    Ok((steps.three("mean", OPENAI_MEAN)?, steps.three("std", OPENAI_STD)?))
}

#[cfg(test)]
mod tests;
