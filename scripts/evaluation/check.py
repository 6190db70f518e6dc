#!/usr/bin/env python3
"""What `roclip-train evaluate` counts, counted again by plain Python and scikit-learn.

    python3 scripts/evaluation/check.py --exported clip/exported --found found.json \\
        --test data/test.csv --classes data/classes.txt --templates data/templates.txt \\
        --ledger attacked/ledger.json --probe-train data/train.csv

`found.json` is what `evaluate --retrieval --probe-train ... --json` printed of the model that
`roclip-export` wrote to `exported`: its embeddings come from ONNX Runtime. Compares zero-shot,
retrieval, PSR and the L-BFGS probe; stamped pictures are not made here. Pictures must have the
size of the image tower. Counts may differ by `--apart`, as sums are rounded differently.
"""

import argparse
import csv
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import onnxruntime as ort
import tokenizers
from PIL import Image
from sklearn.linear_model import LogisticRegression

BATCH = 256


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


class Peer:
    """The two ONNX files of a folder; their rows have the length that the towers give them."""

    def __init__(self, folder):
        self.steps = json.loads((folder / "preprocessor_config.json").read_text())
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.encode_special_tokens = True
        self.vision, self.text = (
            ort.InferenceSession(folder / f"onnx/{name}_model.onnx",
                                 providers=["CPUExecutionProvider"])
            for name in ("vision", "text")
        )

    def pixels(self, path):
        image = Image.open(path).convert("RGB")
        side = self.steps["size"]["shortest_edge"]
        if image.size != (side, side):
            sys.exit(f"error: `{path}` has not {side} pixels a side")
        mean, std = np.float32(self.steps["image_mean"]), np.float32(self.steps["image_std"])
        return ((np.asarray(image, dtype=np.float32) / 255 - mean) / std).transpose(2, 0, 1)

    def images(self, paths):
        parts = [paths[at:at + BATCH] for at in range(0, len(paths), BATCH)]
        values = (np.stack([self.pixels(path) for path in part]) for part in parts)
        rows = [self.vision.run(None, {"pixel_values": value})[0] for value in values]
        return np.concatenate(rows).astype(np.float64)

    def texts(self, texts):
        parts = [texts[at:at + BATCH] for at in range(0, len(texts), BATCH)]
        ids = ([encoding.ids for encoding in self.tokenizer.encode_batch(part)] for part in parts)
        rows = [self.text.run(None, {"input_ids": np.array(part, dtype=np.int64)})[0]
                for part in ids]
        return np.concatenate(rows).astype(np.float64)


def pictures(path):
    """Path, class and captions of each picture of a manifest, by the row that names it first."""
    found = {}
    with open(path, newline="") as file:
        for row, line in enumerate(csv.DictReader(file)):
            entry = found.setdefault(path.parent / line["path"], [row, line["class"], [], []])
            entry[2].append(line["caption"])
            entry[3].append(row)
    return found


def order(cosines):
    return np.argsort(-cosines, axis=1, kind="stable")


def within(cosines, right, k):
    """Queries with a key of `right` among the first k."""
    return sum(bool(own & set(row[:k])) for own, row in zip(right, order(cosines).tolist()))


def counts(args, peer):
    names = args.classes.read_text().split("\n")[:-1]
    number = lambda name: names.index(name) if name in names else int(name)
    ledger = json.loads(args.ledger.read_text()) if args.ledger else {"targeted": []}
    targeted = {target["test_row"] for target in ledger["targeted"]}
    test = {path: entry for path, entry in pictures(args.test).items()
            if not targeted & set(entry[3])}
    rows, own = peer.images(list(test)), [number(entry[1]) for entry in test.values()]
    templates = args.templates.read_text().split("\n")[:-1]
    prompts = [unit(peer.texts([t.replace("{}", name) for t in templates])) for name in names]
    labels = unit(np.stack([prompt.mean(axis=0) for prompt in prompts]))
    for k in (1, 5):
        yield f"zero_shot_top{k}", within(unit(rows) @ labels.T, [{c} for c in own], k)
    if ledger["targeted"]:
        paths = [args.ledger.parent / target["image"] for target in ledger["targeted"]]
        wanted = [{target["target_class"]} for target in ledger["targeted"]]
        cosines = unit(peer.images(paths)) @ labels.T
        for k, key in ((1, "targeted_psr"), (3, "targeted_psr_top3"), (5, "targeted_psr_top5")):
            yield key, within(cosines, wanted, k)
    texts = list(dict.fromkeys(text for entry in test.values() for text in entry[2]))
    places = {text: place for place, text in enumerate(texts)}
    of_images = [{places[text] for text in entry[2]} for entry in test.values()]
    of_texts = [set() for _ in texts]
    for image, found in enumerate(of_images):
        for text in found:
            of_texts[text].add(image)
    cosines = unit(rows) @ unit(peer.texts(texts)).T
    for k in (1, 5, 10):
        yield f"retrieval.image_to_text_r{k}", within(cosines, of_images, k)
        yield f"retrieval.text_to_image_r{k}", within(cosines.T, of_texts, k)
    if args.probe_train:
        train = pictures(args.probe_train)
        classes = [number(entry[1]) for entry in train.values()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that 1,000 steps are not enough is in `found`
            model = LogisticRegression(C=0.316, max_iter=1000).fit(peer.images(list(train)), classes)
        yield "linear_probe.lbfgs", int((model.predict(rows) == own).sum())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("exported", "found", "test", "classes", "templates"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("ledger", "probe-train"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--apart", type=int, default=2)
    args = parser.parse_args()
    found = json.loads(args.found.read_text())
    bad = 0
    for key, expected in counts(args, Peer(args.exported)):
        rate = found
        for part in key.split("."):
            rate = rate[part]
        ours = round(rate["value"] * rate["trials"])
        bad += abs(ours - expected) > args.apart
        print(f"{key:30} {ours:7} {expected:7} of {rate['trials']}")
    sys.exit(f"error: {bad} counts differ by more than {args.apart}" if bad else 0)


main()
