//! The JSON files of a model folder, to and from [`ClipConfig`].
//!
//! A ViT's `config.json` is that of `transformers.CLIPModel`. Transformers has no ModifiedResNet:
//! its folder has the same layout under a model type of its own, which other software refuses
//! instead of loading half of it; open_clip reads it through `open_clip_config.json`.

use serde_json::{Map, Value, json};

use crate::{
    ClipConfig,
    config::{Activation, ImageTower, Resnet, TextTower, Vit},
};

/// Model type of a ModifiedResNet's `config.json`, of the whole and of its `vision_config`.
const RESNET_TYPE: &str = "clip_modified_resnet";
/// Blocks of a tower or of a stage that a `config.json` may ask for.
const LAYERS_MAX: usize = 1024;
/// PIL's number for bicubic.
const BICUBIC: u32 = 3;
/// Epsilon of every LayerNorm and BatchNorm.
const EPSILON: f64 = 1e-5;
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

/// `open_clip_config.json`: `open_clip.create_model_from_pretrained("local-dir:FOLDER")` reads it
/// and finds OpenAI's names in `model.safetensors`. `None` for a ViT, whose names are those of
/// transformers.
pub fn open_clip_config(config: &ClipConfig) -> Option<Value> {
    let ImageTower::Resnet(tower) = &config.image else { return None };
    Some(json!({
        "model_cfg": {
            "embed_dim": config.dim,
            "quick_gelu": config.activation == Activation::QuickGelu,
            "vision_cfg": {
                "image_size": tower.image_size,
                "layers": tower.layers,
                "width": tower.width,
                "head_width": tower.channels() / tower.heads,
                "patch_size": null,
            },
            "text_cfg": {
                "context_length": config.text.context_length,
                "vocab_size": config.text.vocab_size,
                "width": config.text.width,
                "heads": config.text.heads,
                "layers": config.text.layers,
                // Any name: of a local folder, open_clip takes the tokenizer that lies there.
                "hf_tokenizer_name": "tokenizer.json",
            },
        },
        "preprocess_cfg": {
            "mean": config.mean.map(decimal),
            "std": config.std.map(decimal),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }))
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
    let layers: Option<Vec<usize>> = vision.values.get("layers").and_then(|value| {
        value.as_array()?.iter().map(|count| Some(count.as_u64()? as usize)).collect()
    });
    let layers = layers
        .filter(|layers| layers.iter().all(|&count| count <= LAYERS_MAX))
        .and_then(|layers| layers.try_into().ok())
        .ok_or(format!("`vision_config.layers` is not four numbers up to {LAYERS_MAX}"))?;
    Ok(Resnet {
        image_size: required("image_size")?,
        layers,
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
    let three = |key: &str, default: [f32; 3]| -> Result<[f32; 3], String> {
        let Some(value) = form.values.get(key) else { return Ok(default) };
        let numbers: Option<Vec<f32>> = value
            .as_array()
            .and_then(|list| list.iter().map(|value| Some(value.as_f64()? as f32)).collect());
        let numbers = numbers.and_then(|numbers| numbers.try_into().ok());
        numbers.ok_or(format!("`{key}` is not a list of three numbers"))
    };
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
    Ok((three("image_mean", mean)?, three("image_std", std)?))
}

/// A JSON object that knows where it stands.
struct Section<'a> {
    prefix: String,
    values: &'a Map<String, Value>,
}

impl<'a> Section<'a> {
    fn of(prefix: &str, value: &'a Value) -> Result<Self, String> {
        let values = value.as_object().ok_or(format!("`{prefix}` is not a JSON object"))?;
        Ok(Self { prefix: prefix.to_owned(), values })
    }

    fn section(&self, key: &str) -> Result<Self, String> {
        let value = self.values.get(key).ok_or(format!("`{key}` is missing"))?;
        Self::of(&format!("{key}."), value)
    }

    fn text(&self, key: &str, default: &'static str) -> Result<&'a str, String> {
        let Some(value) = self.values.get(key) else { return Ok(default) };
        value.as_str().ok_or(format!("`{}{key}` is `{value}`, expected a text", self.prefix))
    }

    /// A whole number; a `default` of 0 means that the key must be there.
    fn size(&self, key: &str, default: usize) -> Result<usize, String> {
        match self.values.get(key) {
            None if default > 0 => Ok(default),
            None => Err(format!("`{}{key}` is missing", self.prefix)),
            Some(value) => {
                let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
                number.ok_or(format!("`{}{key}` is `{value}`, expected a size", self.prefix))
            }
        }
    }

    fn layers(&self, key: &str, default: usize) -> Result<usize, String> {
        let layers = self.size(key, default)?;
        match layers {
            1..=LAYERS_MAX => Ok(layers),
            _ => Err(format!("`{}{key}`: {layers} is not 1 to {LAYERS_MAX}", self.prefix)),
        }
    }

    /// A size that our towers cannot choose.
    fn fixed(&self, key: &str, expected: usize, default: usize) -> Result<(), String> {
        match self.size(key, default)? {
            found if found == expected => Ok(()),
            found => Err(format!("`{}{key}` is {found}, expected {expected}", self.prefix)),
        }
    }

    fn epsilon(&self) -> Result<(), String> {
        match self.values.get("layer_norm_eps").map_or(Some(EPSILON), Value::as_f64) {
            Some(epsilon) if (epsilon - EPSILON).abs() < 1e-9 => Ok(()),
            _ => Err(format!("`{}layer_norm_eps` is not {EPSILON}", self.prefix)),
        }
    }
}

/// The f64 whose digits are the shortest that name this f32: JSON says 0.48, not 0.47999998.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().expect("a number printed is a number")
}

#[cfg(test)]
mod tests;
