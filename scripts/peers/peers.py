"""How each peer embeds the pictures and texts of an exported folder.

A peer is a function: (folder, picture paths, texts) -> Rows. It uses the peer's own reading of the
folder for everything: weights, preprocessing and tokenizer. Each imports its libraries itself, so
that the light environment can run its one peer.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass
class Rows:
    images: np.ndarray  # [B, D], unit length
    texts: np.ndarray  # [B, D], unit length
    ids: list  # token ids per text, up to and with the end token
    versions: dict  # of the libraries that made them


def unit(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def pictures(paths):
    return [Image.open(path).convert("RGB") for path in paths]


def until_end(ids, end):
    ids = [int(id) for id in ids]
    return ids[: ids.index(end) + 1]


def onnxruntime(folder, paths, texts):
    """The two ONNX files, with Pillow and Hugging Face's tokenizers around them."""
    import onnxruntime as ort
    import PIL
    import tokenizers

    steps = json.loads((folder / "preprocessor_config.json").read_text())
    side = steps["size"]["shortest_edge"]
    mean, std = np.float32(steps["image_mean"]), np.float32(steps["image_std"])

    def pixels(image):
        scale = side / min(image.size)
        size = [int(length * scale) for length in image.size]
        image = image.resize(size, Image.Resampling(steps["resample"]))
        left, top = ((length - side) // 2 for length in size)
        image = image.crop((left, top, left + side, top + side))
        values = np.asarray(image, dtype=np.float32) * np.float32(steps["rescale_factor"])
        return ((values - mean) / std).transpose(2, 0, 1)

    def run(name, **inputs):
        session = ort.InferenceSession(folder / "onnx" / name, providers=["CPUExecutionProvider"])
        return session.run(None, inputs)[0]

    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    end = tokenizer.token_to_id("<|endoftext|>")
    encoded = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    values = np.stack([pixels(image) for image in pictures(paths)])
    # One by one and all at once, cut to the longest and at full length: the axes are open.
    images = run("vision_model.onnx", pixel_values=values)
    alone = [run("vision_model.onnx", pixel_values=value[None])[0] for value in values]
    rows = run("text_model.onnx", input_ids=np.asarray(encoded, dtype=np.int64))
    short = [until_end(ids, end) for ids in encoded]
    cut = [run("text_model.onnx", input_ids=np.asarray([ids], dtype=np.int64))[0] for ids in short]
    for whole, parts in ((images, alone), (rows, cut)):
        apart = float(np.abs(unit(whole) - unit(parts)).max())
        if not apart < 1e-5:
            raise SystemExit(f"error: the batch changes the rows by {apart:.1e}")
    versions = {module.__name__: module.__version__ for module in (ort, tokenizers, np, PIL)}
    return Rows(unit(images), unit(rows), short, versions)


def transformers(folder, paths, texts):
    """`CLIPModel` and `CLIPProcessor`; for folders of a ViT."""
    import torch
    import transformers as library

    model = library.CLIPModel.from_pretrained(folder).eval()
    processor = library.CLIPProcessor.from_pretrained(folder)
    # Each on its own as well, since users take either.
    tokenizer = library.AutoTokenizer.from_pretrained(folder)
    preprocess = library.CLIPImageProcessor.from_pretrained(folder)
    length = model.config.text_config.max_position_embeddings
    asked = dict(return_tensors="pt", padding="max_length", truncation=True, max_length=length)
    inputs = processor(text=texts, images=pictures(paths), **asked)
    alone = tokenizer(texts, **asked)["input_ids"]
    if not torch.equal(inputs["input_ids"], alone):
        raise SystemExit("error: CLIPProcessor and AutoTokenizer give different ids")
    if not torch.equal(
        inputs["pixel_values"], preprocess(pictures(paths), return_tensors="pt")["pixel_values"]
    ):
        raise SystemExit("error: CLIPProcessor and CLIPImageProcessor give different pixels")
    with torch.no_grad():
        out = model(**inputs)
    end = model.config.text_config.eos_token_id
    ids = [until_end(row, end) for row in inputs["input_ids"]]
    versions = {"transformers": library.__version__, "torch": torch.__version__}
    return Rows(unit(out.image_embeds), unit(out.text_embeds), ids, versions)


def open_clip(folder, paths, texts):
    """`create_model_from_pretrained("local-dir:…")`; for folders with `open_clip_config.json`."""
    import open_clip as library
    import torch

    name = f"local-dir:{folder}"
    model, preprocess = library.create_model_from_pretrained(name)
    tokenizer = library.get_tokenizer(name)
    model.eval()
    tokens = tokenizer(texts)
    with torch.no_grad():
        images = model.encode_image(torch.stack([preprocess(image) for image in pictures(paths)]))
        rows = model.encode_text(tokens)
    ids = [until_end(row, model.vocab_size - 1) for row in tokens]
    versions = {"open_clip": library.__version__, "torch": torch.__version__}
    return Rows(unit(images), unit(rows), ids, versions)


PEERS = {"onnxruntime": onnxruntime, "transformers": transformers, "open_clip": open_clip}
