use super::*;
use crate::weights::{Array, expected};

const CAPTIONS: [&str; 4] =
    ["a red circle", "a red square", "a blue circle on a field", "a blue square"];

/// A folder of a small ViT whose parameters are all 0.5.
fn folder() -> (tempfile::TempDir, ClipConfig) {
    let mut config = ClipConfig::preset("vit-micro").expect("a preset");
    let captions = CAPTIONS.iter().cycle().take(40).copied();
    let tokenizer = Tokenizer::train(captions, 600, config.text.context_length).expect("words");
    config.text.vocab_size = tokenizer.vocab_size();
    let half = |shape: Vec<usize>| {
        let values = vec![0.5; shape.iter().product()];
        Array { shape, values }
    };
    let weights = expected(&config).into_iter().map(|(name, shape)| (name, half(shape)));
    let folder = tempfile::tempdir().expect("a temporary folder");
    write(folder.path(), &config, &tokenizer, &weights.collect()).expect("writable");
    (folder, config)
}

#[test]
fn a_written_folder_opens_with_what_was_written() -> Result<()> {
    let (folder, config) = folder();
    let opened = ModelFolder::open(folder.path())?;
    assert_eq!(opened.config, config);
    assert_eq!(opened.weights()?["logit_scale"].values, [0.5]);
    assert_eq!(opened.sha256()?.len(), 64);
    let ids = opened.tokenizer.encode(&["a red circle"])?;
    assert_eq!(ids.ids()[0], config.text.start());
    Ok(())
}

#[test]
fn a_folder_that_contradicts_itself_is_refused_by_file() {
    let check = |file: &str, from: &str, to: &str, expected: &str| {
        let (folder, _) = folder();
        let path = folder.path().join(file);
        let text = fs::read_to_string(&path).expect("just written");
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replace(from, to)).expect("writable");
        let error = ModelFolder::open(folder.path()).expect_err(expected).to_string();
        assert!(error.contains(file) && error.contains(expected), "{error}");
    };
    check("config.json", "{\n", "{{\n", "not valid JSON");
    check("tokenizer.json", "<|endoftext|>", "<|end|>", "not a CLIP tokenizer");
    check("tokenizer.json", "{", "[", "not a tokenizer");
    check("preprocessor_config.json", "\"resample\": 3", "\"resample\": 2", "`resample` is 2");
}

#[test]
fn preprocessing_is_found_where_transformers_5_writes_it() -> Result<()> {
    let (folder, config) = folder();
    let [old, new] = [names::PREPROCESSOR, names::PROCESSOR].map(|name| folder.path().join(name));
    let mut steps = read_json(&old)?;
    steps["image_mean"] = serde_json::json!([0.5, 0.5, 0.5]);
    write_json(&new, &serde_json::json!({ "image_processor": steps }))?;
    assert_eq!(ModelFolder::open(folder.path())?.config, config, "ours comes first");
    fs::remove_file(old).expect("there");
    assert_eq!(ModelFolder::open(folder.path())?.config.mean, [0.5; 3]);
    Ok(())
}

#[test]
fn a_missing_folder_or_file_is_named() {
    let missing = ModelFolder::open("no/such/folder").expect_err("missing").to_string();
    assert_eq!(missing, "cannot read `no/such/folder`");
    let (folder, _) = folder();
    fs::remove_file(folder.path().join(names::TOKENIZER)).expect("there");
    let error = ModelFolder::open(folder.path()).expect_err("incomplete").to_string();
    assert!(error.contains(names::TOKENIZER), "{error}");
}

fn openai() -> Tokenizer {
    Tokenizer::openai(Cleaning::OpenAi).expect("OpenAI's")
}

/// What open_clip saves of a model with OpenAI's vocabulary, but the weights: no tokenizer.
fn saved_by_open_clip(vocab_size: usize) -> (tempfile::TempDir, ClipConfig) {
    let mut config = ClipConfig::preset("rn-micro").expect("a preset");
    (config.text.vocab_size, config.text.width) = (vocab_size, 8);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let form = open_clip_config(&config, &openai());
    write_json(&folder.path().join(names::OPEN_CLIP_CONFIG), &form).expect("writable");
    (folder, config)
}

#[test]
fn a_folder_of_open_clip_opens_without_a_tokenizer() -> Result<()> {
    let (folder, config) = saved_by_open_clip(49_408);
    let opened = ModelFolder::open(folder.path())?;
    assert_eq!(opened.config, config);
    let ids = opened.tokenizer.encode(&["a &amp;amp; b"])?;
    assert_eq!(ids.ids()[..5], [49_406, 320, 261, 321, 49_407], "cleaned as open_clip does");
    assert_eq!(ids.length(), config.text.context_length);
    Ok(())
}

/// open_clip takes the file in the folder if any name is given, and otherwise its own.
#[test]
fn a_tokenizer_beside_counts_if_open_clip_would_take_it() -> Result<()> {
    let (folder, _) = saved_by_open_clip(49_408);
    let file = folder.path().join(names::TOKENIZER);
    fs::write(&file, "no tokenizer").expect("writable");
    assert_eq!(tokenizer_path(folder.path())?, None);
    ModelFolder::open(folder.path())?;
    let path = folder.path().join(names::OPEN_CLIP_CONFIG);
    let mut form = read_json(&path)?;
    form["model_cfg"]["text_cfg"][HF_TOKENIZER] = "any".into();
    write_json(&path, &form)?;
    assert_eq!(tokenizer_path(folder.path())?, Some(file));
    let error = ModelFolder::open(folder.path()).expect_err("it is none").to_string();
    assert!(error.contains("tokenizer.json`: not a tokenizer"), "{error}");
    Ok(())
}

/// timm describes the image tower alone, under the name that transformers uses for the whole.
#[test]
fn the_config_json_of_timm_is_passed_over() -> Result<()> {
    let (folder, config) = saved_by_open_clip(49_408);
    let timms = serde_json::json!({ "architecture": "vit_base_patch32_clip_224" });
    write_json(&folder.path().join(names::CONFIG), &timms)?;
    assert_eq!(ModelFolder::open(folder.path())?.config, config);
    Ok(())
}

#[test]
fn what_a_folder_of_open_clip_lacks_is_named() {
    let check = |folder: &Path, expected: &str| {
        let error = ModelFolder::open(folder).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    };
    let (folder, _) = saved_by_open_clip(600);
    check(
        folder.path(),
        "without `hf_tokenizer_name` OpenAI's is taken, but its vocabulary is 49408",
    );
    let (folder, _) = saved_by_open_clip(49_408);
    let missing = ModelFolder::open(folder.path()).and_then(|folder| folder.weights());
    let missing = missing.expect_err("no weights").to_string();
    assert!(missing.contains(names::OPEN_CLIP_WEIGHTS), "{missing}");
    fs::write(folder.path().join(names::OPEN_CLIP_PICKLE), "").expect("writable");
    check(folder.path(), "open_clip_pytorch_model.bin`: is a pickle");
    fs::write(folder.path().join(names::OPEN_CLIP_WEIGHTS_EARLIER), "").expect("writable");
    ModelFolder::open(folder.path()).expect("there are others");
    let found = weights_path(folder.path());
    assert!(found.ends_with(names::OPEN_CLIP_WEIGHTS_EARLIER));
    let path = folder.path().join(names::OPEN_CLIP_CONFIG);
    fs::write(path, r#"{"model_cfg": {"vision_cfg": {"pool_type": "avg"}, "text_cfg": {}}}"#)
        .expect("writable");
    check(folder.path(), "open_clip_config.json`: `vision_cfg.pool_type` is `\"avg\"`");
}

#[test]
fn config_json_comes_before_the_file_of_open_clip() -> Result<()> {
    let (folder, config) = folder();
    let other = open_clip_config(&ClipConfig::preset("RN50").expect("a preset"), &openai());
    write_json(&folder.path().join(names::OPEN_CLIP_CONFIG), &other)?;
    let opened = ModelFolder::open(folder.path())?;
    assert_eq!(opened.config, config);
    assert!(weights_path(folder.path()).ends_with(names::WEIGHTS));
    Ok(())
}
