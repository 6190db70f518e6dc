//! The JSON files of a model folder, to and from [`ClipConfig`].
//!
//! A ViT's `config.json` is that of `transformers.CLIPModel`. Transformers has no ModifiedResNet:
//! its folder has the same layout under a model type of its own, which other software refuses
//! instead of loading half of it; open_clip reads it through `open_clip_config.json`
//! ([`super::open_clip`]).

use serde_json::{Value, json};

use super::section::{EPSILON, Section};
use crate::{
    ClipConfig,
    config::{Activation, ImageTower, Resnet, TextTower, Vit},
};

/// Model type of a ModifiedResNet's `config.json`, of the whole and of its `vision_config`.
const RESNET_TYPE: &str = "clip_modified_resnet";
/// PIL's number for bicubic.
const BICUBIC: u32 = 3;
/// The logarithm of CLIP's first factor, 1 / 0.07.
const LOGIT_SCALE_INIT: f64 = 2.6592;

/// `config.json`.
pub fn config_to_json(config: &ClipConfig) -> Value {
    let text = &config.text;
    let text_config = json!({
        "model_type": "clip_text_model",
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.context_length,
        "hidden_size": text.width,
        "intermediate_size": 4 * text.width,
        "projection_dim": config.dim,
        "num_hidden_layers": text.layers,
        "num_attention_heads": text.heads,
        "hidden_act": activation_name(config.activation),
        "layer_norm_eps": EPSILON,
        "attention_dropout": 0.0,
        "bos_token_id": text.start(),
        "eos_token_id": text.end(),
        "pad_token_id": text.end(),
    });
    let (architecture, model_type, vision_config) = match &config.image {
        ImageTower::Vit(tower) => {
            let vision_config = json!({
                "model_type": "clip_vision_model",
                "image_size": tower.image_size,
                "patch_size": tower.patch_size,
                "num_channels": 3,
                "hidden_size": tower.width,
                "intermediate_size": 4 * tower.width,
                "projection_dim": config.dim,
                "num_hidden_layers": tower.layers,
                "num_attention_heads": tower.heads,
                "hidden_act": activation_name(config.activation),
                "layer_norm_eps": EPSILON,
                "attention_dropout": 0.0,
            });
            ("CLIPModel", "clip", vision_config)
        }
        ImageTower::Resnet(tower) => {
            let vision_config = json!({
                "model_type": RESNET_TYPE,
                "image_size": tower.image_size,
                "layers": tower.layers,
                "width": tower.width,
                "heads": tower.heads,
                "projection_dim": config.dim,
            });
            ("CLIP", RESNET_TYPE, vision_config)
        }
    };
    json!({
        "architectures": [architecture],
        "model_type": model_type,
        "projection_dim": config.dim,
        "logit_scale_init_value": LOGIT_SCALE_INIT,
        "text_config": text_config,
        "vision_config": vision_config,
    })
}

/// `preprocessor_config.json`, a `CLIPImageProcessor`: shorter side to the tower's size
/// (bicubic), centred square, RGB, 0 to 1, normalised.
pub fn preprocessor_to_json(config: &ClipConfig) -> Value {
    let side = config.image.image_size();
    json!({
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": true,
        "do_resize": true,
        "size": { "shortest_edge": side },
        "resample": BICUBIC,
        "do_center_crop": true,
        "crop_size": { "height": side, "width": side },
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": config.mean.map(decimal),
        "image_std": config.std.map(decimal),
    })
}

/// `tokenizer_config.json`: what transformers asks beside `tokenizer.json`.
pub fn tokenizer_config_to_json(config: &ClipConfig) -> Value {
    let mut form = special_tokens_to_json();
    form["tokenizer_class"] = json!("CLIPTokenizer");
    form["processor_class"] = json!("CLIPProcessor");
    form["model_max_length"] = json!(config.text.context_length);
    form["do_lower_case"] = json!(true);
    form["errors"] = json!("replace");
    form["clean_up_tokenization_spaces"] = json!(false);
    form
}

/// `special_tokens_map.json`. Transformers pads with the end token, we pad with 0: both give the
/// same rows, since attention is causal and the first end token is pooled.
pub fn special_tokens_to_json() -> Value {
    json!({
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    })
}

/// Reads `config.json` and `preprocessor_config.json`; where a key is absent, the default of
/// transformers holds, as published folders rely on it.
///
/// The error is the problem alone, for the caller to name the file: a key that is missing or of
/// another type, sizes that do not fit together, or a variant that these towers cannot be.
pub fn config_from_json(config: &Value, preprocessor: &Value) -> Result<ClipConfig, String> {
    let root = Section::of("", config)?;
    let (text, vision) = (root.section("text_config")?, root.section("vision_config")?);
    let activation = activation(&text)?;
    let image = match root.text("model_type", "clip")? {
        "clip" => {
            if self::activation(&vision)? != activation {
                return Err("`hidden_act` differs between the towers".into());
            }
            ImageTower::Vit(vit(&vision)?)
        }
        RESNET_TYPE => ImageTower::Resnet(resnet(&vision)?),
        other => {
            let problem = format!("`model_type` is `{other}`, expected `clip` or `{RESNET_TYPE}`");
            return Err(problem);
        }
    };
    let (mean, std) = pixel_statistics(&Section::of("", preprocessor)?, image.image_size())?;
    let width = text.size("hidden_size", 512)?;
    text.fixed("intermediate_size", 4 * width, 2048)?;
    text.epsilon()?;
    let parsed = ClipConfig {
        dim: root.size("projection_dim", 512)?,
        image,
        text: TextTower {
            vocab_size: text.size("vocab_size", 49_408)?,
            context_length: text.size("max_position_embeddings", 77)?,
            width,
            layers: text.layers("num_hidden_layers", 12)?,
            heads: text.size("num_attention_heads", 8)?,
        },
        activation,
        mean,
        std,
    };
    parsed.check().map_err(|error| error.to_string())?;
    Ok(parsed)
}

fn vit(vision: &Section<'_>) -> Result<Vit, String> {
    let width = vision.size("hidden_size", 768)?;
    vision.fixed("intermediate_size", 4 * width, 3072)?;
    vision.fixed("num_channels", 3, 3)?;
    vision.epsilon()?;
    Ok(Vit {
        image_size: vision.size("image_size", 224)?,
        patch_size: vision.size("patch_size", 32)?,
        width,
        layers: vision.layers("num_hidden_layers", 12)?,
        heads: vision.size("num_attention_heads", 12)?,
    })
}

fn resnet(vision: &Section<'_>) -> Result<Resnet, String> {
    let required = |key| vision.size(key, 0);
    Ok(Resnet {
        image_size: required("image_size")?,
        layers: vision.stages("layers")?,
        width: required("width")?,
        heads: required("heads")?,
    })
}

fn activation(tower: &Section<'_>) -> Result<Activation, String> {
    match tower.text("hidden_act", "quick_gelu")? {
        "quick_gelu" => Ok(Activation::QuickGelu),
        "gelu" => Ok(Activation::Gelu),
        other => Err(format!("`hidden_act` is `{other}`, expected `quick_gelu` or `gelu`")),
    }
}

fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::QuickGelu => "quick_gelu",
        Activation::Gelu => "gelu",
    }
}

/// Mean and standard deviation, once the other steps are known to be ours.
fn pixel_statistics(form: &Section<'_>, side: usize) -> Result<([f32; 3], [f32; 3]), String> {
    let sides = |key: &str, names: [&str; 2]| -> Result<(), String> {
        let fits = |value: &Value| value.as_u64() == Some(side as u64);
        match form.values.get(key) {
            None => Ok(()),
            Some(value) if fits(value) => Ok(()),
            Some(Value::Object(form))
                if names.iter().all(|name| form.get(*name).is_some_and(fits)) =>
            {
                Ok(())
            }
            Some(value) => Err(format!("`{key}` is `{value}`, expected the tower's {side}")),
        }
    };
    sides("size", ["shortest_edge", "shortest_edge"])?;
    sides("crop_size", ["height", "width"])?;
    form.fixed("resample", BICUBIC as usize, BICUBIC as usize)?;
    for step in ["do_resize", "do_center_crop", "do_rescale", "do_normalize"] {
        if form.values.get(step).is_some_and(|value| *value != Value::Bool(true)) {
            return Err(format!("`{step}` is not `true`"));
        }
    }
    let (mean, std) = (crate::config::OPENAI_MEAN, crate::config::OPENAI_STD);
    Ok((form.three("image_mean", mean)?, form.three("image_std", std)?))
}

/// The f64 whose digits are the shortest that name this f32: JSON says 0.48, not 0.47999998.
pub(super) fn decimal(value: f32) -> f64 {
    value.to_string().parse().expect("a number printed is a number")
}

#[cfg(test)]
mod tests;
