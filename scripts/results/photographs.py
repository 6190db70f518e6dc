#!/usr/bin/env python3
"""Manifests of real photographs for a sweep: class indices, names and prompts.

    python3 scripts/results/photographs.py DATA OUT

DATA holds `train.csv`, `test.csv`, `classes.txt` and `images/` (unpacked): the fashion photographs,
whose titles name classes in the singular ("Timex Men Brown Watch"), so that the prompts do too, or
CIFAR-10 with its written captions.
"""
import csv, pathlib, sys

SINGULAR = {
    "Backpacks": "backpack", "Belts": "belt", "Caps": "cap", "Casual Shoes": "casual shoe",
    "Dresses": "dress", "Earrings": "earrings", "Flats": "flat", "Flip Flops": "flip flop",
    "Formal Shoes": "formal shoe", "Handbags": "handbag", "Heels": "heel", "Jeans": "jeans",
    "Kurtas": "kurta", "Lipstick": "lipstick", "Nail Polish": "nail polish",
    "Perfume and Body Mist": "perfume", "Sandals": "sandal", "Sarees": "sari", "Shirts": "shirt",
    "Shorts": "shorts", "Socks": "socks", "Sports Shoes": "sports shoe",
    "Sunglasses": "sunglasses", "Ties": "tie", "Tops": "top", "Track Pants": "track pants",
    "Trousers": "trousers", "Tshirts": "t-shirt", "Wallets": "wallet", "Watches": "watch",
}
TITLES = ["{}", "men {}", "women {}", "unisex {}", "men black {}", "women blue {}"]
SENTENCES = ["a photo of the {}.", "a small {}.", "a photo of one {}.",
             "a close-up photo of the {}.", "look at this {}!", "the {} fills most of the image."]


def lines(path, texts):
    path.write_text("".join(text + "\n" for text in texts))


def prepare(data, out):
    """Manifests with class indices, and the lists of names and prompts."""
    if not (data / "train.csv").is_file():
        sys.exit(f"skipped: the photographs are not in {data}")
    out.mkdir(parents=True, exist_ok=True)
    names = [name for name in (data / "classes.txt").read_text().split("\n") if name]
    is_fashion = "Watches" in names
    lines(out / "classes.txt", [SINGULAR[name] for name in names] if is_fashion else names)
    lines(out / "templates.txt", TITLES if is_fashion else SENTENCES)
    for name in ("train", "test"):
        with open(data / f"{name}.csv", newline="") as source, \
                open(out / f"{name}.csv", "w", newline="") as target:
            writer = csv.writer(target, lineterminator="\n")
            writer.writerow(["path", "caption", "class"])
            for row in csv.DictReader(source):
                number = row["class"] if row["class"].isdigit() else names.index(row["class"])
                writer.writerow([(data / row["path"]).resolve(), row["caption"], number])


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    prepare(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
