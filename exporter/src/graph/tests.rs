use std::collections::HashSet;

use candle_onnx::onnx::NodeProto;
use clip::weights::Array;

use super::*;

fn small(preset: &str) -> ClipConfig {
    let mut config = ClipConfig::preset(preset).expect("a preset");
    config.text.vocab_size = 64;
    config
}

/// Values of no meaning: these tests look at the graphs' form.
fn weights_of(config: &ClipConfig) -> Weights {
    let array = |shape: Vec<usize>| {
        let values = vec![0.25; shape.iter().product()];
        Array { shape, values }
    };
    weights::expected(config).into_iter().map(|(name, shape)| (name, array(shape))).collect()
}

fn models(preset: &str) -> [ModelProto; 2] {
    let config = small(preset);
    let weights = weights_of(&config);
    [
        vision_model(&config, &weights).expect("an image tower"),
        text_model(&config, &weights).expect("a text tower"),
    ]
}

fn nodes(model: &ModelProto) -> &[NodeProto] {
    &model.graph.as_ref().expect("a graph").node
}

#[test]
fn every_value_is_made_once_and_before_it_is_used() {
    for model in ["rn-micro", "vit-micro"].iter().flat_map(|preset| models(preset)) {
        let graph = model.graph.as_ref().expect("a graph");
        let inputs = graph.input.iter().map(|input| &input.name);
        let constants = graph.initializer.iter().map(|tensor| &tensor.name);
        let mut known: HashSet<&String> = inputs.chain(constants).collect();
        assert_eq!(known.len(), graph.input.len() + graph.initializer.len());
        for node in &graph.node {
            assert!(node.input.iter().all(|name| known.contains(name)), "{}", node.name);
            assert!(node.output.iter().all(|name| known.insert(name)), "{}", node.name);
        }
        let names: HashSet<_> = graph.node.iter().map(|node| &node.name).collect();
        assert_eq!(names.len(), graph.node.len(), "nodes have names of their own");
        assert!(graph.output.iter().all(|output| known.contains(&output.name)));
    }
}

#[test]
fn weights_feed_the_operators_that_quantisers_know_directly() {
    for model in ["rn-micro", "vit-micro"].iter().flat_map(|preset| models(preset)) {
        let graph = model.graph.as_ref().expect("a graph");
        let matrix = |name: &str| {
            graph.initializer.iter().any(|tensor| tensor.name == name && tensor.dims.len() >= 2)
        };
        for node in &graph.node {
            let constants = node.input.iter().filter(|name| matrix(name)).count();
            let expected = match node.op_type.as_str() {
                "Conv" => 1..=1,
                // The products of attention have none.
                "MatMul" => 0..=1,
                // Tables of tokens, positions and the mask.
                "Gather" | "Slice" | "Add" => 0..=1,
                _ => 0..=0,
            };
            assert!(expected.contains(&constants), "{} takes {constants} weights", node.name);
        }
        let with_weight = |node: &&NodeProto| node.input.iter().any(|name| matrix(name));
        assert!(nodes(&model).iter().any(|node| node.op_type == "MatMul" && with_weight(&node)));
    }
}

#[test]
fn every_parameter_reaches_a_tower() {
    for preset in ["rn-micro", "vit-micro"] {
        let config = small(preset);
        let models = models(preset);
        let constants: HashSet<&str> = models
            .iter()
            .flat_map(|model| &model.graph.as_ref().expect("a graph").initializer)
            .map(|tensor| tensor.name.as_str())
            .collect();
        // Folded into a neighbor, or no part of a tower.
        let folded = |name: &str| {
            let norm = name.contains(".bn") || name.contains("downsample.1");
            name == "logit_scale"
                || name == "visual.class_embedding"
                || (norm && !name.ends_with(".bias"))
        };
        let missing: Vec<_> = weights::expected(&config)
            .into_keys()
            .filter(|name| !folded(name) && !constants.contains(name.as_str()))
            .collect();
        assert!(missing.is_empty(), "{preset}: {missing:?}");
    }
}

#[test]
fn a_negative_variance_is_refused_by_name() {
    let config = small("rn-micro");
    let mut weights = weights_of(&config);
    let name = "visual.layer3.0.downsample.1.running_var";
    weights.get_mut(name).expect("a parameter").values[1] = -0.5;
    let error = vision_model(&config, &weights).expect_err("negative").to_string();
    assert_eq!(error, format!("parameter `{name}`: value 1 is -0.5, below 0"));
    weights.remove("visual.conv1.weight");
    let error = vision_model(&config, &weights).expect_err("missing").to_string();
    assert_eq!(error, "parameter `visual.conv1.weight`: is missing");
}
