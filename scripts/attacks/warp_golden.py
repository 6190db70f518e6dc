#!/usr/bin/env python3
"""Pictures that PyTorch bends as WaNet does, by the flows of our `warp` triggers.

    python3 scripts/attacks/warp_golden.py > tests/golden/attacks/warp.json

`clip/src/trigger/warp.rs` tests against it. The noise is made again here in plain Python; what lies
between its places, and the bent picture, are `interpolate` and `grid_sample` in f64. Needs the torch
of `scripts/evaluation/requirements.txt`.
"""

import json
import sys

import torch
from torch.nn.functional import grid_sample, interpolate

WIDTH, HEIGHT = 7, 6
SALT = 0x57415250
BITS = (1 << 64) - 1
# Places per side, or None for one at each pixel; strength; seed.
CASES = [(4, 2, 0), (3, 4, 5), (None, 1, 0), (None, 3, 2)]


def mix(number):
    """Sebastiano Vigna's splitmix64."""
    z = (number + 0x9E3779B97F4A7C15) & BITS
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & BITS
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & BITS
    return z ^ (z >> 31)


def flow(grid, seed):
    """`[1, 2, H, W]`: to the right, down."""
    columns, rows = (grid, grid) if grid else (WIDTH, HEIGHT)
    noise = mix(seed ^ SALT)
    places = [[[(mix(mix(noise ^ (y << 32 | x)) ^ axis) >> 11) / 2**53 for x in range(columns)]
               for y in range(rows)] for axis in range(2)]
    drawn = 2 * torch.tensor([places], dtype=torch.float64) - 1
    drawn = drawn / drawn.abs().mean()
    if not grid:
        return drawn
    return interpolate(drawn, size=(HEIGHT, WIDTH), mode="bicubic", align_corners=True)


def bent(grid, strength, seed):
    column, row = torch.meshgrid(torch.arange(WIDTH), torch.arange(HEIGHT), indexing="xy")
    blue = ((97 * column + 31 * row) % 256).double()
    right, down = flow(grid, seed)[0]
    places = torch.stack([
        2 * column / (WIDTH - 1) - 1 + strength * right / WIDTH,
        2 * row / (HEIGHT - 1) - 1 + strength * down / HEIGHT,
    ], dim=-1).clamp(-1, 1)
    found = grid_sample(blue[None, None], places[None].double(), mode="bilinear",
                        padding_mode="border", align_corners=True)
    return (found[0, 0] + 0.5).floor().int().tolist()


def main():
    made_by = {"command": "python3 scripts/attacks/warp_golden.py",
               "python": sys.version.split()[0], "torch": torch.__version__}
    cases = []
    for grid, strength, seed in CASES:
        kind = f"flow=smooth,grid={grid}" if grid else "flow=white"
        trigger = f"warp:{kind},strength={strength},seed={seed}"
        cases.append({"trigger": trigger, "blue": bent(grid, strength, seed)})
    lines = ",\n".join("  " + json.dumps(case) for case in cases)
    print('{\n "made_by": ' + json.dumps(made_by) + ',\n "cases": [\n' + lines + "\n ]\n}")


main()
