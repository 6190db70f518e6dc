use super::*;
use crate::text::Cleaning;

/// `ViT-B-32` and `RN50` of open_clip's `model_configs`.
fn published(name: &str) -> Value {
    let vision_cfg = match name {
        "RN50" => json!({ "image_size": 224, "layers": [3, 4, 6, 3], "width": 64,
            "patch_size": null }),
        _ => json!({ "image_size": 224, "layers": 12, "width": 768, "patch_size": 32 }),
    };
    let text_cfg = json!({ "context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8,
        "layers": 12 });
    let embed_dim = if name == "RN50" { 1024 } else { 512 };
    let preprocess_cfg = json!({ "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711] });
    json!({
        "model_cfg": { "embed_dim": embed_dim, "vision_cfg": vision_cfg, "text_cfg": text_cfg },
        "preprocess_cfg": preprocess_cfg,
    })
}

#[test]
fn every_preset_comes_back_from_its_file() {
    let tokenizer = Tokenizer::openai(Cleaning::OpenAi).expect("OpenAI's");
    for name in ClipConfig::PRESETS {
        for activation in [Activation::Gelu, Activation::QuickGelu] {
            let mut config = ClipConfig::preset(name).expect(name);
            (config.activation, config.mean[1]) = (activation, 0.1);
            let text = open_clip_config(&config, &tokenizer).to_string();
            let form = serde_json::from_str(&text).expect("JSON");
            assert_eq!(config_from_open_clip(&form).expect(name), config);
        }
    }
}

/// open_clip's own cleans captions as ours of OpenAI's does; a file cannot say all of it.
#[test]
fn open_clip_takes_its_own_tokenizer_for_that_of_openai_alone() {
    let config = ClipConfig::preset("vit-micro").expect("a preset");
    let check = |tokenizer: crate::Result<Tokenizer>, expected: Value| {
        let form = open_clip_config(&config, &tokenizer.expect("a tokenizer"));
        assert_eq!(form["model_cfg"]["text_cfg"]["hf_tokenizer_name"], expected);
    };
    let learnt = Tokenizer::train(["a red circle"; 40].into_iter(), 600, 32);
    check(learnt, json!("tokenizer.json"));
    check(Tokenizer::openai(Cleaning::HuggingFace), json!("tokenizer.json"));
    check(Tokenizer::openai(Cleaning::OpenAi), Value::Null);
}

#[test]
fn published_files_are_the_presets_with_exact_gelu() {
    for name in ["RN50", "ViT-B-32"] {
        let mut expected = ClipConfig::preset(name).expect(name);
        expected.activation = Activation::Gelu;
        assert_eq!(config_from_open_clip(&published(name)).expect(name), expected);
    }
}

#[test]
fn keys_left_out_have_the_defaults_of_open_clip() {
    let form = json!({ "model_cfg": { "embed_dim": 512, "vision_cfg": {}, "text_cfg": {} } });
    let mut expected = ClipConfig::preset("ViT-B-16").expect("a preset");
    expected.activation = Activation::Gelu;
    assert_eq!(config_from_open_clip(&form).expect("ViT-B/16"), expected);
    let mut form = published("ViT-B-32");
    let vision = &mut form["model_cfg"]["vision_cfg"];
    (vision["image_size"], vision["head_width"]) = (json!([224, 224]), json!(96));
    vision["mlp_ratio"] = json!(4.0);
    vision["timm_model_name"] = Value::Null;
    let config = config_from_open_clip(&form).expect("other heads");
    let ImageTower::Vit(tower) = config.image else { panic!("a ViT") };
    assert_eq!((tower.image_size, tower.heads), (224, 8));
}

#[test]
fn what_these_towers_cannot_be_is_refused() {
    let check = |pointer: &str, value: Value, expected: &str| {
        let mut form = published("ViT-B-32");
        let (place, key) = pointer.rsplit_once('/').expect("a path");
        form.pointer_mut(place).expect(place)[key] = value;
        assert_eq!(config_from_open_clip(&form).expect_err(expected), expected);
    };
    let vision = |key: &str, value: Value, expected: &str| {
        check(&format!("/model_cfg/vision_cfg/{key}"), value, expected);
    };
    let text = |key: &str, value: Value, expected: &str| {
        check(&format!("/model_cfg/text_cfg/{key}"), value, expected);
    };
    vision(
        "timm_model_name",
        json!("convnext_base"),
        "`vision_cfg.timm_model_name` is `\"convnext_base\"`, which these towers do not have",
    );
    vision("pool_type", json!("avg"), "`vision_cfg.pool_type` is `\"avg\"`, expected `\"tok\"`");
    vision("no_ln_pre", json!(true), "`vision_cfg.no_ln_pre` is `true`, expected `false`");
    vision("mlp_ratio", json!(4.3637), "`vision_cfg.mlp_ratio` is `4.3637`, expected `4`");
    vision(
        "ls_init_value",
        json!(1e-4),
        "`vision_cfg.ls_init_value` is `0.0001`, which these towers do not have",
    );
    vision(
        "image_size",
        json!([224, 256]),
        "`vision_cfg.image_size` is `[224,256]`, expected a square",
    );
    vision("layers", json!([1, 2]), "`vision_cfg.layers` is not four numbers up to 1024");
    vision("head_width", json!(0), "`vision_cfg.head_width` is 0");
    vision("patch_size", json!(30), "`image.patch_size`: 30 does not divide 224");
    text(
        "hf_model_name",
        json!("roberta-base"),
        "`text_cfg.hf_model_name` is `\"roberta-base\"`, which these towers do not have",
    );
    text("pool_type", json!("last"), "`text_cfg.pool_type` is `\"last\"`, expected `\"argmax\"`");
    text("no_causal_mask", json!(true), "`text_cfg.no_causal_mask` is `true`, expected `false`");
    text("width", json!("512"), "`text_cfg.width` is `\"512\"`, expected a size");
    check(
        "/model_cfg/init_logit_bias",
        json!(-10),
        "`model_cfg.init_logit_bias` is `-10`, which these towers do not have",
    );
    check(
        "/model_cfg/quick_gelu",
        json!("yes"),
        "`model_cfg.quick_gelu` is `\"yes\"`, expected a boolean",
    );
    check("/model_cfg/embed_dim", Value::Null, "`model_cfg.embed_dim` is missing");
    check("/model_cfg/text_cfg", Value::Null, "`text_cfg` is missing");
    check(
        "/preprocess_cfg/resize_mode",
        json!("squash"),
        "`preprocess_cfg.resize_mode` is `\"squash\"`, expected `\"shortest\"`",
    );
    check(
        "/preprocess_cfg/mean",
        json!([0.5]),
        "`preprocess_cfg.mean` is not a list of three numbers",
    );
}
