#!/usr/bin/env python3
"""What torchvision makes of a small picture with given factors.

    python3 scripts/augment/golden.py [--check]

Writes `tests/golden/augment/torchvision.json`, which the tests of `clip` read; with `--check`
compares what is there instead. Needs torch and torchvision as `scripts/peers/requirements.txt` pins
them. `tensor` are the values of torchvision on floats, `[3, H, W]`; `pillow` those on 8-bit pictures,
which is how RoCLIP was published: Pillow rounds after every change.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

FILE = Path(__file__).resolve().parents[2] / "tests/golden/augment/torchvision.json"
SIDE, SEED = 10, 0


def cases():
    for factor in (0.6, 1.4):
        yield "brightness", [factor], lambda image, f=factor: F.adjust_brightness(image, f)
        yield "contrast", [factor], lambda image, f=factor: F.adjust_contrast(image, f)
        yield "saturation", [factor], lambda image, f=factor: F.adjust_saturation(image, f)
    for angle in (-0.1, 0.07, 0.5):
        yield "hue", [angle], lambda image, f=angle: F.adjust_hue(image, f)
    yield "gray", [], lambda image: F.rgb_to_grayscale(image, 3)
    for kernel, sigma in ((3, 0.29), (7, 1.5)):
        yield "blur", [kernel, sigma], lambda image, k=kernel, s=sigma: F.gaussian_blur(image, k, s)
    for left, top, wide, high in ((2, 1, 7, 6), (0, 0, 10, 10), (0, 3, 10, 5)):
        yield "crop", [left, top, wide, high], lambda image, l=left, t=top, w=wide, h=high: (
            F.resized_crop(image, t, l, h, w, [SIDE, SIDE], InterpolationMode.BILINEAR)
        )


def document():
    rng = np.random.default_rng(SEED)
    # Smooth with noise, and some pixels of the corners of the cube: gray, white, black, pure.
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    planes = np.stack([x, y, 0.5 + 0.5 * np.sin(7 * x + 3 * y)], axis=-1)
    picture = np.clip(255 * (planes + 0.15 * rng.normal(size=planes.shape)), 0, 255)
    picture = picture.astype(np.uint8)
    picture[0, :5] = [[128] * 3, [255] * 3, [0] * 3, [255, 0, 0], [0, 255, 255]]
    image = Image.fromarray(picture)
    tensor = F.to_tensor(image)
    found = []
    for change, arguments, make in cases():
        exact, rounded = make(tensor), np.asarray(make(image))
        found.append({
            "change": change, "arguments": arguments,
            "tensor": [round(float(value), 7) for value in exact.flatten()],
            "pillow": rounded.transpose(2, 0, 1).flatten().tolist(),
        })
    made_by = {
        "command": "python3 scripts/augment/golden.py",
        **{module.__name__: module.__version__ for module in (np, PIL, torch, torchvision)},
    }
    return {"made_by": made_by, "side": SIDE, "picture": picture.flatten().tolist(), "cases": found}


def same(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a if k != "made_by")
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return math.isclose(a, b, abs_tol=1e-6) if isinstance(a, float) else a == b


def main():
    made = document()
    if sys.argv[1:] == ["--check"]:
        if not same(json.loads(FILE.read_text()), made):
            sys.exit(f"error: `{FILE}` is not what this script makes")
        return
    FILE.parent.mkdir(parents=True, exist_ok=True)
    cases = ",\n  ".join(json.dumps(case) for case in made.pop("cases"))
    head = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in made.items())
    FILE.write_text("{\n" + head + ',\n "cases": [\n  ' + cases + "\n ]\n}\n")


main()
