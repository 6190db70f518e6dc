"""Floating-point operations of a training step, counted from the shapes of a `ClipConfig`.

Matrix products alone: what a step has to compute, whoever computes it. The last block of a
transformer counts for the pooled token, and captions for their longest.
"""


def step(config, batch, tokens):
    """Forward and backward of `batch` pairs; back is twice forward."""
    image = config["image"]
    towers = (resnet if image["kind"] == "resnet" else vit)(image, config["dim"])
    towers += transformer(config["text"], tokens) + 2 * config["text"]["width"] * config["dim"]
    return 3 * batch * (towers + 2 * batch * config["dim"])


def transformer(tower, tokens):
    """Blocks of attention and an MLP of four times the width."""
    width = tower["width"]
    block = 24 * tokens * width**2 + 4 * tokens**2 * width
    last = 4 * tokens * width**2 + 20 * width**2 + 4 * tokens * width
    return (tower["layers"] - 1) * block + last


def vit(tower, dim):
    width, patch = tower["width"], tower["patch_size"]
    patches = (tower["image_size"] // patch) ** 2
    return (
        2 * 3 * patch**2 * width * patches
        + transformer(tower, patches + 1)
        + 2 * width * dim
    )


def resnet(tower, dim):
    """CLIP's: a stem of three convolutions, pooling instead of strides, attention at the end."""
    width, side = tower["width"], tower["image_size"] // 2
    half = width // 2
    flops = 2 * side**2 * 9 * (3 * half + half**2 + half * width)
    side, inputs = side // 2, width
    for stage, blocks in enumerate(tower["layers"]):
        planes = width << stage
        for block in range(blocks):
            within = side
            if block == 0 and stage > 0:
                side //= 2
            flops += 2 * within**2 * (inputs * planes + 9 * planes**2)
            flops += 2 * side**2 * 4 * planes**2
            if block == 0:
                flops += 2 * side**2 * inputs * 4 * planes
            inputs = 4 * planes
    places = side**2 + 1
    return flops + 4 * places * inputs**2 + 2 * inputs**2 + 4 * places * inputs + 2 * inputs * dim
