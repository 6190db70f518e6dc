//! Parameter names of Hugging Face's `CLIPModel`, as in its
//! `convert_clip_original_pytorch_to_hf.py`.
//!
//! Two things differ beside the names: its projections are `[D, width]`, ours `[width, D]`; its
//! attention has three tensors where OpenAI stacks query, key and value in one.

use super::{Form, Piece};

/// Borders of the towers; the parts of a block are in [`BLOCK`].
const NAMES: [(&str, &str); 10] = [
    ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.ln_pre.", "vision_model.pre_layrnorm."), // its spelling
    ("visual.ln_post.", "vision_model.post_layernorm."),
    ("visual.transformer.resblocks.", "vision_model.encoder.layers."),
    ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final.", "text_model.final_layer_norm."),
    ("transformer.resblocks.", "text_model.encoder.layers."),
];

const BLOCK: [(&str, &str); 5] = [
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".attn.out_proj.", ".self_attn.out_proj."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
];

/// The tensors of a Hugging Face file that make up our parameter `name`, in order.
pub(crate) fn pieces(name: &str) -> Vec<Piece> {
    let piece = |name: String, form| Piece { name, form };
    match name {
        "visual.proj" => return vec![piece("visual_projection.weight".into(), Form::Transposed)],
        "text_projection" => {
            return vec![piece("text_projection.weight".into(), Form::Transposed)];
        }
        _ => {}
    }
    let mut renamed = name.to_owned();
    if let Some((ours, theirs)) = NAMES.iter().find(|(ours, _)| name.starts_with(ours)) {
        renamed.replace_range(..ours.len(), theirs);
    }
    if let Some((block, kind)) = renamed.split_once(".attn.in_proj_") {
        let part = |letter| piece(format!("{block}.self_attn.{letter}_proj.{kind}"), Form::Third);
        return ["q", "k", "v"].map(part).to_vec();
    }
    for (ours, theirs) in BLOCK {
        renamed = renamed.replace(ours, theirs);
    }
    vec![piece(renamed, Form::Same)]
}
