"""Model folders that other software saved, for us to read.

Those of random weights are harder than new models: biases, norms and running statistics differ from
channel to channel, so that a part that is left out or swapped changes the embeddings.
"""

import json
from pathlib import Path

TEXT = {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2}
VIT = {"image_size": 32, "layers": 3, "width": 96, "head_width": 24, "patch_size": 8}
RESNET = {"image_size": 64, "layers": [2, 1, 2, 1], "width": 16, "head_width": 32}
# What open_clip builds: a `model_cfg`, or the name of one of its own.
RANDOM = {
    "vit": {"embed_dim": 48, "vision_cfg": VIT, "text_cfg": TEXT},
    "vit-custom": {
        "embed_dim": 48,
        "custom_text": True,
        "quick_gelu": True,
        "vision_cfg": VIT,
        "text_cfg": TEXT,
    },
    "rn": {"embed_dim": 48, "quick_gelu": True, "vision_cfg": RESNET, "text_cfg": TEXT},
    "rn-custom": {"embed_dim": 48, "custom_text": True, "vision_cfg": RESNET, "text_cfg": TEXT},
    "ViT-B-32": "ViT-B-32",
    "RN50": "RN50",
}


def scatter(model):
    """Moves every value of `model` that a new one has alike, from a seed."""
    import torch

    random = torch.Generator().manual_seed(1)
    draw = lambda values: torch.randn(values.shape, generator=random)
    with torch.no_grad():
        for values in model.parameters():
            if values.dim() == 1:
                values += 0.1 * draw(values)
        for name, values in model.named_buffers():
            if name.endswith("running_mean"):
                values += 0.1 * draw(values)
            elif name.endswith("running_var"):
                values *= torch.exp(0.3 * draw(values))
    return model.eval()


def random_by_open_clip(name, out):
    """A model of `RANDOM`, saved by open_clip, without a tokenizer: OpenAI's is meant."""
    import open_clip
    import torch
    from open_clip.push_to_hf_hub import save_for_hf

    config = RANDOM[name]
    torch.manual_seed(1)
    if isinstance(config, str):
        model, config = open_clip.create_model(config), open_clip.get_model_config(config)
    else:
        # It builds what a folder without weights says.
        form = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.3] * 3}}
        out.mkdir()
        (out / "open_clip_config.json").write_text(json.dumps(form))
        model = open_clip.create_model(f"local-dir:{out}")
    save_for_hf(scatter(model), NoTokenizer(), config, out, safe_serialization=True)


class NoTokenizer:
    def save_pretrained(self, folder):
        pass


def again_by_open_clip(folder, out):
    """The folder as open_clip writes it, tokenizer included, from what it has read of ours."""
    import open_clip
    from open_clip.push_to_hf_hub import save_for_hf

    name = f"local-dir:{folder}"
    model, _ = open_clip.create_model_from_pretrained(name)
    config = json.loads((Path(folder) / "open_clip_config.json").read_text())["model_cfg"]
    save_for_hf(model, open_clip.get_tokenizer(name), config, out, safe_serialization=True)


def again_by_transformers(folder, out):
    """The folder as transformers writes it, from what it has read of ours."""
    import transformers

    transformers.CLIPModel.from_pretrained(folder).save_pretrained(out)
    transformers.CLIPProcessor.from_pretrained(folder).save_pretrained(out)


def random_by_transformers(folder, out):
    """Random weights in other sizes than those of `folder`, with its processor."""
    import torch
    import transformers

    config = transformers.CLIPConfig.from_pretrained(folder)
    for tower, width in ((config.text_config, 48), (config.vision_config, 96)):
        tower.hidden_size, tower.intermediate_size = width, 4 * width
        tower.num_hidden_layers, tower.num_attention_heads = 3, 6
        tower.hidden_act, tower.projection_dim = "gelu", 40
    config.projection_dim = 40
    torch.manual_seed(1)
    scatter(transformers.CLIPModel(config)).save_pretrained(out)
    transformers.CLIPProcessor.from_pretrained(folder).save_pretrained(out)
