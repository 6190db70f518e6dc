#!/usr/bin/env python3
"""What the sieve does to pairs of which somebody else adds copies with wrong captions.

    python3 scripts/results/framed.py DATA OUT

DATA has `train.csv`, `test.csv`, `classes.txt` and `templates.txt` (photographs.py makes it); needs
NumPy and Pillow. For each of three seeds and each form of the attack, 48 pictures of a class that is
drawn are copied, with captions of other classes, and the sieve trains on all. Prints a table in
Markdown; what is in OUT already is kept.
"""
import concurrent.futures, csv, json, os, pathlib, random, subprocess, sys

import numpy
from PIL import Image

SEEDS = range(3)
VICTIMS = 48
SMALLEST = 200  # pairs of a class that is drawn
FORMS = {  # copies of each picture, deviation of the noise on a copy (of 255)
    "nothing is added": (0, 0),
    "2 copies": (2, 0),
    "3 copies": (3, 0),
    "20 copies with noise": (20, 8),
}
RUN = """\
seed = {seed}
data = {{ manifest = "train.csv", workers = 1 }}
model.image_size = 32
method.name = "sieve"
optim.epochs = 8
"""


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write(path, table):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "caption", "class"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def roclip_train(*words):
    environment = {**os.environ, "RAYON_NUM_THREADS": "1"}
    command = ["target/release/roclip-train", *words, "--no-progress"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr.strip())
    return done.stdout


def victims(table, seed):
    """The class and the rows that are copied."""
    draw = random.Random(seed)
    by_class = {}
    for at, row in enumerate(table):
        by_class.setdefault(row["class"], []).append(at)
    large = [name for name, members in by_class.items() if len(members) >= SMALLEST]
    name = draw.choice(sorted(large))
    return name, sorted(draw.sample(by_class[name], VICTIMS))


def attacked(place, table, seed, copies, noise):
    """Writes the pairs of one form: those that were there keep their rows."""
    name, chosen = victims(table, seed)
    draw, pixels = random.Random(seed), numpy.random.default_rng(seed)
    others = [row for row in table if row["class"] != name]
    added = []
    for at in chosen:
        for copy in range(copies):
            path = table[at]["path"]
            if noise:
                picture = numpy.asarray(Image.open(path).convert("RGB"), dtype=float)
                picture = picture + noise * pixels.standard_normal(picture.shape)
                path = place / "copies" / f"{at}-{copy}.png"
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(picture.round().clip(0, 255).astype("uint8")).save(path)
            added.append({"path": path, "caption": draw.choice(others)["caption"], "class": name})
    write(place / "train.csv", table + added)
    (place / "run.toml").write_text(RUN.format(seed=seed))


def measure(data, out, form, seed):
    place = out / f"{form.replace(' ', '-')}-{seed}"
    table = rows(data / "train.csv")
    if not (place / "run/summary.json").exists():
        place.mkdir(parents=True, exist_ok=True)
        attacked(place.resolve(), table, seed, *FORMS[form])
        run = ("run", "--config", str(place / "run.toml"), "--out", str(place / "run"))
        roclip_train(*run, "--resume", "--quiet")
    name, chosen = victims(table, seed)
    doubted = {int(row["row"]): row for row in rows(place / "run/doubted.csv")}
    own = [at for at, row in enumerate(table) if row["class"] == name and at not in set(chosen)]
    rest = [at for at, row in enumerate(table) if row["class"] != name]
    added = range(len(table), len(table) + VICTIMS * FORMS[form][0])
    write(place / "class.csv", [row for row in rows(data / "test.csv") if row["class"] == name])
    top1 = {}
    for key, test in (("all", data / "test.csv"), ("class", place / "class.csv")):
        told = roclip_train(
            "evaluate", "--model", str(place / "run/model"), "--test", str(test), "--json",
            "--classes", str(data / "classes.txt"), "--templates", str(data / "templates.txt"),
        )
        top1[key] = json.loads(told)["zero_shot_top1"]["value"]
    return {
        "name": (data / "classes.txt").read_text().split("\n")[int(name)],
        "victims": sum(at in doubted for at in chosen),
        "recaptioned": sum(
            at in doubted and doubted[at]["recaptioned"] == "yes" for at in chosen
        ),
        "own": share(doubted, own),
        "rest": share(doubted, rest),
        "added": share(doubted, added),
        **top1,
    }


def share(doubted, wanted):
    return sum(at in doubted for at in wanted) / len(wanted) if wanted else None


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.strip())
    data, out = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
    cells = [(form, seed) for form in FORMS for seed in SEEDS]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda cell: measure(data, out, *cell), cells))
    print(f"Classes: {', '.join(one['name'] for one in found[:len(SEEDS)])}.\n")
    print(f"| added | of the {VICTIMS} in doubt | of these with other captions "
          "| of the class's others | of other classes | of what was added | top-1 | of the class |")
    print("|---|---|---|---|---|---|---|---|")
    per_cent = lambda value: "" if value is None else f"{100 * value:.1f}"
    for at, form in enumerate(FORMS):
        three = found[at * len(SEEDS):][:len(SEEDS)]
        columns = [" / ".join(str(one[key]) for one in three) for key in ("victims", "recaptioned")]
        for key in ("own", "rest", "added", "all", "class"):
            values = [per_cent(one[key]) for one in three]
            columns.append(" / ".join(values) if all(values) else "")
        print(f"| {form} | {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
