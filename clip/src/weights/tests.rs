use super::*;

/// As it lies in a file.
type Tensor = (String, Vec<usize>, Dtype, Vec<u8>);

/// Small enough to write often; every kind of parameter is there.
fn small(preset: &str) -> ClipConfig {
    let mut config = ClipConfig::preset(preset).expect("a preset");
    config.text.vocab_size = 64;
    config.text.width = 8;
    config.dim = 6;
    match &mut config.image {
        ImageTower::Resnet(tower) => (tower.width, tower.heads) = (4, 2),
        ImageTower::Vit(tower) => (tower.width, tower.heads, tower.layers) = (12, 2, 2),
    }
    config.check().expect("sizes that fit");
    config
}

/// Every value differs from every other, so that nothing can change places unseen.
fn numbered(config: &ClipConfig) -> Weights {
    let mut next = 0;
    let array = |shape: Vec<usize>| {
        let count = shape.iter().product::<usize>();
        let values = (next..next + count).map(|value| value as f32).collect();
        next += count;
        Array { shape, values }
    };
    let (names, shapes): (Vec<_>, Vec<_>) = expected(config).into_iter().unzip();
    names.into_iter().zip(shapes.into_iter().map(array)).collect()
}

fn written(config: &ClipConfig) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    write(&path, &numbered(config), config).expect("writable");
    (folder, path)
}

/// A file with exactly these tensors.
fn with_tensors(tensors: &[Tensor]) -> tempfile::NamedTempFile {
    let views = tensors.iter().map(|(name, shape, dtype, bytes)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).expect("whole"))
    });
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let bytes = safetensors::serialize(views, None).expect("a safetensors file");
    fs::write(file.path(), bytes).expect("writable");
    file
}

fn tensors(config: &ClipConfig) -> Vec<Tensor> {
    let f32_tensor = |(name, array): (String, Array)| {
        let bytes = array.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        (name, array.shape, Dtype::F32, bytes)
    };
    numbered(config).into_iter().map(f32_tensor).collect()
}

#[test]
fn both_dialects_give_back_what_was_written() {
    for preset in ["rn-micro", "vit-micro"] {
        let config = small(preset);
        let (_folder, path) = written(&config);
        assert_eq!(read(&path, &config).expect(preset), numbered(&config), "{preset}");
        let ours = with_tensors(&tensors(&config));
        assert_eq!(read(ours.path(), &config).expect(preset), numbered(&config), "{preset}");
    }
}

#[test]
fn a_text_tower_of_its_own_is_found_under_its_prefix() {
    for preset in ["rn-micro", "vit-micro"] {
        let config = small(preset);
        let mut tensors = tensors(&config);
        for (name, ..) in &mut tensors {
            if name != "logit_scale" && !name.starts_with("visual.") {
                name.insert_str(0, "text.");
            }
        }
        let file = with_tensors(&tensors);
        assert_eq!(read(file.path(), &config).expect(preset), numbered(&config), "{preset}");
        tensors.retain(|(name, ..)| name != "text.ln_final.bias");
        let error = read(with_tensors(&tensors).path(), &config).expect_err("gone").to_string();
        assert!(error.starts_with("parameter `text.ln_final.bias`: is missing from"), "{error}");
    }
}

#[test]
fn for_open_clip_a_vit_has_the_names_of_openai() {
    let config = small("vit-micro");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("open_clip_model.safetensors");
    write_open_clip(&path, &numbered(&config), &config).expect("writable");
    let bytes = fs::read(&path).expect("just written");
    let file = SafeTensors::deserialize(&bytes).expect("whole");
    assert_eq!(file.tensor("visual.proj").expect("a projection").shape(), [12, 6]);
    let found = file.names().into_iter().map(str::to_owned);
    assert_eq!(found.collect::<HashSet<_>>(), expected(&config).into_keys().collect());
    assert_eq!(read(&path, &config).expect("ours"), numbered(&config));
}

#[test]
fn a_vit_has_the_names_of_hugging_face() {
    let config = small("vit-micro");
    let (_folder, path) = written(&config);
    let bytes = fs::read(path).expect("just written");
    let file = SafeTensors::deserialize(&bytes).expect("whole");
    let shape = |name: &str| file.tensor(name).expect(name).shape().to_vec();
    assert_eq!(shape("visual_projection.weight"), [6, 12]);
    assert_eq!(shape("text_projection.weight"), [6, 8]);
    assert_eq!(shape("vision_model.pre_layrnorm.bias"), [12]);
    assert_eq!(shape("vision_model.encoder.layers.1.self_attn.k_proj.weight"), [12, 12]);
    assert_eq!(shape("text_model.encoder.layers.0.mlp.fc1.weight"), [32, 8]);
    assert_eq!(shape("text_model.embeddings.position_embedding.weight"), [32, 8]);
    assert!(file.names().iter().all(|name| {
        name.starts_with("vision_model.")
            || name.starts_with("text_model.")
            || ["visual_projection.weight", "text_projection.weight", "logit_scale"].contains(name)
    }));
}

#[test]
fn a_wrong_parameter_is_named() {
    let config = small("rn-micro");
    let check = |expected: &str, change: &dyn Fn(&mut Vec<Tensor>)| {
        let mut tensors = tensors(&config);
        change(&mut tensors);
        let file = with_tensors(&tensors);
        let error = read(file.path(), &config).expect_err(expected).to_string();
        assert!(error.starts_with(expected), "{error}");
    };
    check("parameter `ln_final.bias`: is missing from", &|tensors| {
        tensors.retain(|(name, ..)| name != "ln_final.bias");
    });
    check("parameter `visual.fc`: does not belong to", &|tensors| {
        tensors.push(("visual.fc".into(), vec![1], Dtype::F32, vec![0; 4]));
    });
    let change = |tensors: &mut Vec<Tensor>, shape, dtype, bytes| {
        let at = tensors.iter().position(|(name, ..)| name == "visual.bn1.running_var");
        let at = at.expect("a parameter of the architecture");
        tensors[at] = (tensors[at].0.clone(), shape, dtype, bytes);
    };
    check("parameter `visual.bn1.running_var`: has shape [2, 2], expected [2]", &|tensors| {
        change(tensors, vec![2, 2], Dtype::F32, vec![0; 16]);
    });
    check("parameter `visual.bn1.running_var`: has type I64, expected F32", &|tensors| {
        change(tensors, vec![2], Dtype::I64, vec![0; 16]);
    });
    check("parameter `visual.bn1.running_var`: value 1 is NaN, not a number", &|tensors| {
        let bytes = [1.0, f32::NAN].iter().flat_map(|value| value.to_le_bytes()).collect();
        change(tensors, vec![2], Dtype::F32, bytes);
    });
}

#[test]
fn a_file_cut_anywhere_is_one_clear_error() {
    let config = small("vit-micro");
    let (_folder, path) = written(&config);
    let bytes = fs::read(&path).expect("just written");
    for length in [0, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).expect("writable");
        let error = read(&path, &config).expect_err("cut").to_string();
        assert!(error.contains("not a whole safetensors file"), "{error}");
        let error = read_logit_scale(&path).expect_err("cut").to_string();
        assert!(error.contains("not a whole safetensors file"), "{error}");
    }
    fs::write(&path, [0xff; 64]).expect("writable");
    assert!(read(&path, &config).is_err());
}

#[test]
fn half_precision_is_widened() {
    let config = small("rn-micro");
    for (dtype, one_and_a_half) in [(Dtype::F16, 0x3e00u16), (Dtype::BF16, 0x3fc0)] {
        let mut tensors = tensors(&config);
        let (_, _, kind, bytes) = &mut tensors[0];
        let count = bytes.len() / 4;
        (*kind, *bytes) = (dtype, one_and_a_half.to_le_bytes().repeat(count));
        let file = with_tensors(&tensors);
        let weights = read(file.path(), &config).expect("half precision");
        assert_eq!(weights[&tensors[0].0].values, vec![1.5; count]);
    }
    let check = |bits, value: f32| assert_eq!(half_value(bits), value);
    check(0x0001, 2f32.powi(-24));
    check(0x7bff, 65_504.0);
    check(0xc000, -2.0);
    check(0xfc00, f32::NEG_INFINITY);
    assert!(half_value(0x7e00).is_nan());
}

#[test]
fn the_logit_scale_is_found_alone() {
    for preset in ["rn-micro", "vit-micro"] {
        let config = small(preset);
        let (_folder, path) = written(&config);
        let expected = numbered(&config)["logit_scale"].values[0];
        assert_eq!(read_logit_scale(&path).expect(preset), expected);
    }
}

#[test]
fn weights_of_another_architecture_are_not_written() {
    let config = small("rn-micro");
    let mut weights = numbered(&config);
    weights.remove("logit_scale");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    let error = write(&path, &weights, &config).expect_err("incomplete").to_string();
    assert_eq!(error, "parameter `logit_scale`: is missing");
    assert!(!path.exists());
}
