"""Captioned pictures for a short real run, and what its journal says."""

import json
import random
import struct
import zlib

COLORS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 70, 220), "gray": (120,) * 3}
SHAPES = {
    "square": lambda x, y: abs(x) < 8 and abs(y) < 8,
    "disk": lambda x, y: x * x + y * y < 80,
    "bar": lambda x, y: abs(y) < 4,
    "cross": lambda x, y: abs(x) < 3 or abs(y) < 3,
}
SIDE = 32
CONFIG = """\
seed = 1
device = "{device}"
[data]
manifest = "{manifest}"
batch_size = 64
[model]
preset = "rn-micro"
[method]
name = "clip"
[optim]
epochs = 4
[output]
folder = "{out}"
"""


def write(folder, count):
    """`count` shapes of one color on noise, each with its caption, and the manifest `pairs.csv`."""
    folder.mkdir()
    rows = ["path,caption"]
    for row in range(count):
        rng = random.Random(row)
        color, shape = rng.choice(list(COLORS)), rng.choice(list(SHAPES))
        (folder / f"{row}.png").write_bytes(png(picture(COLORS[color], SHAPES[shape], rng)))
        rows.append(f"{row}.png,a photo of a {color} {shape}")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")


def picture(color, covers, rng):
    """Rows of RGB bytes."""
    left, top = (rng.randrange(10, SIDE - 10) for _ in range(2))
    return [
        bytes(
            value
            for x in range(SIDE)
            for value in (color if covers(x - left, y - top) else (rng.randrange(200, 256),) * 3)
        )
        for y in range(SIDE)
    ]


def png(rows):
    """A PNG of 8-bit RGB rows, none of them filtered."""
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", SIDE, len(rows), 8, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def epoch_means(run):
    """Mean loss of each epoch, in nats."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["epoch_loss"] for line in lines if "epoch_loss" in line]
