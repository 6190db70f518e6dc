use super::*;

fn parse(config: &Value, preprocessor: &Value) -> Result<ClipConfig, String> {
    // Through text, as in a file.
    let again = |value: &Value| serde_json::from_str(&value.to_string()).expect("JSON");
    config_from_json(&again(config), &again(preprocessor))
}

#[test]
fn every_preset_comes_back_from_its_files() {
    for name in ClipConfig::PRESETS {
        let mut config = ClipConfig::preset(name).expect(name);
        config.activation = Activation::Gelu;
        config.std[1] = 0.1;
        let (form, preprocessor) = (config_to_json(&config), preprocessor_to_json(&config));
        assert_eq!(parse(&form, &preprocessor).expect(name), config);
    }
}

#[test]
fn keys_left_out_have_the_defaults_of_transformers() {
    let form = json!({ "model_type": "clip", "text_config": {}, "vision_config": {} });
    let config = parse(&form, &json!({ "size": 224, "crop_size": 224 })).expect("ViT-B/32");
    assert_eq!(config, ClipConfig::preset("ViT-B-32").expect("a preset"));
}

#[test]
fn what_these_towers_cannot_be_is_refused() {
    let config = ClipConfig::preset("vit-micro").expect("a preset");
    let check = |pointer: &str, value: Value, expected: &str| {
        let (mut form, mut steps) = (config_to_json(&config), preprocessor_to_json(&config));
        let place = form.pointer_mut(pointer).or_else(|| steps.pointer_mut(pointer));
        *place.expect(pointer) = value;
        assert_eq!(parse(&form, &steps).expect_err(expected), expected);
    };
    check(
        "/model_type",
        json!("siglip"),
        "`model_type` is `siglip`, expected `clip` or `clip_modified_resnet`",
    );
    check("/vision_config/hidden_act", json!("gelu"), "`hidden_act` differs between the towers");
    check(
        "/text_config/hidden_act",
        json!("relu"),
        "`hidden_act` is `relu`, expected `quick_gelu` or `gelu`",
    );
    check(
        "/text_config/hidden_size",
        json!("64"),
        "`text_config.hidden_size` is `\"64\"`, expected a size",
    );
    check(
        "/text_config/intermediate_size",
        json!(1),
        "`text_config.intermediate_size` is 1, expected 256",
    );
    check(
        "/vision_config/num_hidden_layers",
        json!(1u64 << 40),
        "`vision_config.num_hidden_layers`: 1099511627776 is not 1 to 1024",
    );
    check("/vision_config/patch_size", json!(7), "`image.patch_size`: 7 does not divide 32");
    check(
        "/vision_config/layer_norm_eps",
        json!(1e-6),
        "`vision_config.layer_norm_eps` is not 0.00001",
    );
    check("/text_config", json!(3), "`text_config.` is not a JSON object");
    check(
        "/crop_size/height",
        json!(31),
        "`crop_size` is `{\"height\":31,\"width\":32}`, expected the tower's 32",
    );
    check("/resample", json!(2), "`resample` is 2, expected 3");
    check("/do_center_crop", json!(false), "`do_center_crop` is not `true`");
    check("/image_std", json!([1.0, 1.0]), "`image_std` is not a list of three numbers");
}
