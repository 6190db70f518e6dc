#!/usr/bin/env python3
"""The demo's road on the fashion photographs, once per seed; results in OUT/seed-N.

    python3 scripts/results/fashion.py DATA OUT [SEED ...]

DATA holds `train.csv`, `test.csv`, `classes.txt` and `images/` (unpacked). Captions name classes in
the singular ("Timex Men Brown Watch"), so that the prompts do too.
"""
import csv, json, pathlib, subprocess, sys

EPOCHS, SIDE = "8", "32"
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
TEMPLATES = ["{}", "men {}", "women {}", "unisex {}", "men black {}", "women blue {}"]


def prepare(data, out):
    """Manifests with class indices, and the lists of names and prompts."""
    names = (data / "classes.txt").read_text().split("\n")
    names = [name for name in names if name]
    (out / "classes.txt").write_text("".join(SINGULAR[name] + "\n" for name in names))
    (out / "templates.txt").write_text("".join(line + "\n" for line in TEMPLATES))
    for name in ("train", "test"):
        with open(data / f"{name}.csv", newline="") as source, \
                open(out / f"{name}.csv", "w", newline="") as target:
            writer = csv.writer(target, lineterminator="\n")
            writer.writerow(["path", "caption", "class"])
            for row in csv.DictReader(source):
                path = (data / row["path"]).resolve()
                writer.writerow([path, row["caption"], names.index(row["class"])])


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    data, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    if not (data / "train.csv").is_file():
        sys.exit(f"skipped: the fashion photographs are not in {data}")
    out.mkdir(parents=True, exist_ok=True)
    prepare(data, out)
    for seed in sys.argv[3:] or ["0"]:
        command = ["cargo", "xtask", "demo", "--image-size", SIDE, "--epochs", EPOCHS]
        command += ["--seed", seed, "--out", out / f"seed-{seed}", "--target-class", "watch"]
        command += ["--targeted-images", "16", "--targeted-captions", "20"]
        files = {"data": "train.csv", "test": "test.csv", "classes": "classes.txt",
                 "templates": "templates.txt"}
        for flag, name in files.items():
            command += [f"--{flag}", out / name]
        subprocess.run(command, check=True)
    for path in sorted(out.glob("seed-*/summary.json")):
        for method in json.loads(path.read_text())["methods"]:
            print(path.parent.name, method["name"], *(
                f"{key} {method[key]['value']:.3f} [{method[key]['low']:.3f}, {method[key]['high']:.3f}]"
                for key in ("zero_shot_top1", "backdoor_asr", "asr_floor", "targeted_psr",
                            "true_class_under_trigger")),
                f"endpoint {method['audit_endpoint']}", f"model {method['audit_model']}")


main()
