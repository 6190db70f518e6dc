"""Compares our embeddings with those of other software on folders that `roclip-export` wrote and on
folders that the others saved, and our curves with what TensorBoard reads.

    check.py [--golden FOLDER]
        The whole comparison: makes the small models of the tests, exports them, asks every peer;
        reads what the peers save, exports that, asks again; looks whether new towers are drawn
        as open_clip draws its own; trains a small run and asks TensorBoard for its curves.
        `--golden tests/golden/peers` also keeps torch's answers for `cargo test`.
    check.py --peer NAME --export FOLDER --ours FILE
        One peer, one folder, one `embeddings.json`; what `cargo test` runs.

Prints one line per comparison. Exit 0: all within 1e-4; 1: not; 2: could not compare.
"""

import argparse
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import initial
import peers
import saved

TOLERANCE = 1e-4
ROOT = Path(__file__).resolve().parents[2]
# Which software opens which folder, as `roclip-export` writes it unless it is told otherwise.
ROADS = {
    "rn-micro": ("onnxruntime", "open_clip"),
    "vit-micro": ("onnxruntime", "transformers"),
}
FOR_OPEN_CLIP = ("--layout", "open-clip")
# Whose answers are kept.
GOLDEN = {"rn-micro": "open_clip", "vit-micro": "transformers"}


def compare(name, peer, folder, ours):
    """Prints the greatest differences; returns whether they are allowed, and the peer's rows."""
    paths = [Path(path) for path in ours["images"]]
    rows = peers.PEERS[peer](folder, paths, ours["texts"])
    end = max(max(ids) for ids in ours["input_ids"])
    same_ids = rows.ids == [peers.until_end(ids, end) for ids in ours["input_ids"]]
    errors = [
        float(np.abs(theirs - np.asarray(mine)).max())
        for theirs, mine in ((rows.images, ours["image_embeds"]), (rows.texts, ours["text_embeds"]))
    ]
    good = same_ids and all(error <= TOLERANCE for error in errors)  # false for NaN
    print(
        f"{'ok' if good else 'DIFFERS':8}{name:44}{peer:14}"
        f"images {errors[0]:.1e}  texts {errors[1]:.1e}  ids {'equal' if same_ids else 'DIFFER'}"
    )
    return good, rows


def run(*command):
    command = [str(part) for part in command]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    if done.returncode != 0:
        raise SystemExit(f"error: `{' '.join(command)}` failed with exit {done.returncode}")


def keep(folder, name, peer, ours, rows):
    """One small file with the peer's answers, and the pictures that it speaks of."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in ours["images"]:
        shutil.copyfile(path, folder / Path(path).name)
    short = lambda values: [[round(float(value), 7) for value in row] for row in values]
    golden = {
        "schema": "roclip/golden/1",
        "command": "cargo xtask peers --golden tests/golden/peers",
        "made_by": {"peer": peer, "python": platform.python_version(), **rows.versions},
        "preset": ours["preset"],
        "seed": ours["seed"],
        "sha256": ours["sha256"],
        "images": [Path(path).name for path in ours["images"]],
        "image_embeds": short(rows.images),
        "texts": ours["texts"],
        "input_ids": rows.ids,
        "text_embeds": short(rows.texts),
    }
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in golden.items())
    (folder / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def fine_tuned(place, built, name):
    """Trains from a model that transformers wrote, or from ours; the export and our embeddings."""
    begun, folder = place / name / "model", place / f"{name}-tuned"
    if "transformers" in ROADS[name]:
        saved.again_by_transformers(begun, place / "saved")
        begun = place / "saved"
    rows = zip(sorted((place / "pictures").iterdir()), ("a red circle", "noise", "two squares") * 2)
    lines = "".join(f"{picture},{caption}\n" for picture, caption in rows)
    (place / "train.csv").write_text("path,caption\n" + lines)
    config = '[data]\nmanifest = "train.csv"\nbatch_size = 4\n[method]\nname = "clip"\n'
    (place / "run.toml").write_text(config)
    settings = [f"model.pretrained={begun}", "optim.epochs=2", "optim.lr=1e-4"]
    settings = [word for setting in settings for word in ("--set", setting)]
    train = (built / "roclip-train", "run", "--config", place / "run.toml", "--quiet")
    run(*train, *settings, "--out", folder / "run")
    model, out = folder / "run/model", folder / "export"
    run(built / "roclip-export", "--model", model, "--out", out)
    return out, embed(built, model, place / "pictures")


def embed(built, model, pictures):
    """What we make of a model folder, whoever saved it."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        run(built / "tiny-model", "--embed", model, pictures, file.name)
        return json.loads(Path(file.name).read_text())


def there_and_back(place, built, name, ours):
    """What the others save of a model of ours, read by us, and the open_clip layout of either."""
    model, out = place / name / "model", place / name / "for-open-clip"
    run(built / "roclip-export", "--model", model, "--out", out, *FOR_OPEN_CLIP)
    yield f"{name}, for open_clip", "open_clip", out, ours
    again = place / name / "again-open-clip"
    saved.again_by_open_clip(out, again)
    yield f"{name}, saved by open_clip", "open_clip", again, embed(built, again, place / "pictures")
    if "transformers" in ROADS[name]:
        exported = place / name / "export"
        for kind, save in (
            ("saved", saved.again_by_transformers),
            ("random", saved.random_by_transformers),
        ):
            again = place / name / f"{kind}-transformers"
            save(exported, again)
            ours = embed(built, again, place / "pictures")
            yield f"{name}, {kind} by transformers", "transformers", again, ours
            out = place / name / f"{kind}-for-open-clip"
            run(built / "roclip-export", "--model", again, "--out", out, *FOR_OPEN_CLIP)
            yield f"{name}, {kind} by transformers, exported", "open_clip", out, ours


def from_open_clip(place, built):
    """Models of open_clip's, read by us; exported, read by open_clip and by transformers."""
    for name in saved.RANDOM:
        model = place / "open_clip" / name
        model.parent.mkdir(exist_ok=True)
        saved.random_by_open_clip(name, model)
        ours = embed(built, model, place / "pictures")
        yield f"{name} of open_clip", "open_clip", model, ours
        for peer, layout in (("open_clip", FOR_OPEN_CLIP), ("transformers", ())):
            if peer == "transformers" and name.lower().startswith("rn"):
                continue
            out = place / "open_clip" / f"{name}-{peer}"
            run(built / "roclip-export", "--model", model, "--out", out, *layout)
            yield f"{name} of open_clip, exported", peer, out, ours
            shutil.rmtree(out)
        shutil.rmtree(model)


def whole(golden):
    good = True
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        # `cargo xtask peers` has built both.
        built = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
        run(built / "tiny-model", place, *ROADS)
        export = built / "roclip-export"
        for name, asked in ROADS.items():
            out = place / name / "export"
            run(export, "--model", place / name / "model", "--out", out)
            ours = json.loads((place / name / "embeddings.json").read_text())
            for peer in asked:
                fine, rows = compare(name, peer, out, ours)
                good = good and fine
                if golden and fine and peer == GOLDEN[name]:
                    keep(golden, name, peer, ours, rows)
            out, ours = fine_tuned(place, built, name)
            for peer in asked:
                fine, _ = compare(f"{name}, tuned", peer, out, ours)
                good = good and fine
        for case in others(place, built):
            fine, _ = compare(*case)
            good = good and fine
        good = initial.compare(run, built, place) and good
        return curves(built / "roclip-train", place) and good


def others(place, built):
    for name in ROADS:
        ours = json.loads((place / name / "embeddings.json").read_text())
        yield from there_and_back(place, built, name, ours)
    yield from from_open_clip(place, built)


def curves(trainer, place):
    import curves as other  # its reader is no part of the light environment

    place = place / "curves"
    place.mkdir()
    return other.compare(trainer, place)


def main():
    parser = argparse.ArgumentParser(description="Compares our embeddings with other software's.")
    parser.add_argument("--golden", type=Path, help="keep torch's answers in this folder")
    parser.add_argument("--peer", choices=peers.PEERS, help="ask only this one")
    parser.add_argument("--export", type=Path, help="of this folder")
    parser.add_argument("--ours", type=Path, help="about these embeddings")
    options = parser.parse_args()
    one = (options.peer, options.export, options.ours)
    if any(one) and not all(one):
        parser.error("--peer, --export and --ours belong together")
    if all(one):
        ours = json.loads(options.ours.read_text())
        good, _ = compare(options.export.name, options.peer, options.export, ours)
    else:
        good = whole(options.golden)
    return 0 if good else 1


if __name__ == "__main__":
    # Nothing may be fetched: the folder is all that a peer gets.
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    logging.disable(logging.WARNING)  # that models are random, which they shall be
    try:
        sys.exit(main())
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
    except SystemExit as stop:
        if not isinstance(stop.code, str):
            raise
        print(stop.code, file=sys.stderr)
    sys.exit(2)
