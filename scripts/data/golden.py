#!/usr/bin/env python3
"""A Parquet table by pandas, and a shard by webdataset, of the same four pairs.

    python3 scripts/data/golden.py tests/golden/data

`trainer/src/data/golden.rs` tests against them. The pictures are lossless, PNG and WebP by turns;
pixel (x, y) of picture n is (31 x + n, 17 y, 5 (x + y)) modulo 256. Made with pandas 3.1.1, pyarrow
26.0.1, webdataset 1.0.2 and Pillow 13.0.0.
"""

import io
import sys
from pathlib import Path

import pandas
import webdataset
from PIL import Image

WIDTH, HEIGHT = 12, 12
CAPTIONS = ["a red bus", "zwölf Äpfel", 'said "no", twice', "last"]
CLASSES = [1, 0, 1, 0]
LONG = "folder/" * 20


def picture(number):
    image = Image.new("RGB", (WIDTH, HEIGHT))
    for y in range(HEIGHT):
        for x in range(WIDTH):
            image.putpixel((x, y), ((31 * x + number) % 256, 17 * y, 5 * (x + y)))
    return image


def encoded(number):
    buffer = io.BytesIO()
    picture(number).save(buffer, "WEBP" if number % 2 else "PNG", lossless=True)
    return buffer.getvalue()


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    table = {"url": [f"images/{n}.png" for n in range(4)], "TEXT": CAPTIONS, "label": CLASSES}
    table = pandas.DataFrame(table)
    table.to_parquet(folder / "pairs-snappy.parquet")
    table.to_parquet(folder / "pairs-zstd.parquet", compression="zstd")
    with webdataset.TarWriter(str(folder / "pairs.tar")) as shard:
        for number, caption in enumerate(CAPTIONS):
            sample = {
                "__key__": f"{LONG if number == 2 else ''}{number:06}",
                "webp" if number % 2 else "png": encoded(number),
                "cls": CLASSES[number],
            }
            shard.write(sample | ({"json": {"caption": caption}} if number == 3 else {"txt": caption}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
