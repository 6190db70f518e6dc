#!/usr/bin/env python3
"""The demo's road on the fashion photographs, once per seed; results in OUT/seed-N.

    python3 scripts/results/fashion.py DATA OUT [SEED ...]

DATA holds `train.csv`, `test.csv`, `classes.txt` and `images/` (unpacked). Captions name classes in
the singular ("Timex Men Brown Watch"), so that the prompts do too.
"""
import json, pathlib, subprocess, sys

from photographs import prepare

EPOCHS, SIDE = "8", "32"


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    data, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
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
