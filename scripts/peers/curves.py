"""Whether TensorBoard's own reader finds in a run what `metrics.jsonl` says, also once it was cut
short and resumed: each step once.
"""

import json
import shutil
import subprocess
import time

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import (
    SCALARS, EventAccumulator,
)
from tensorboard import version

ROWS, STEPS_PER_EPOCH, EPOCHS = 64, 8, 3
CONFIG = f"""
[data]
manifest = 'train.csv'
batch_size = {ROWS // STEPS_PER_EPOCH}
workers = 1
[method]
name = 'roclip'
[method.roclip]
pool_share = 0.25
[optim]
epochs = {EPOCHS}
[monitor]
test = 'test.csv'
classes = 'classes.txt'
[output]
tensorboard = true
record_every_steps = 1
checkpoint_every_steps = 3
"""
CHECKPOINT = "checkpoint.safetensors"


def write_data(place):
    colors = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 230)}
    rng = np.random.default_rng(1)
    rows = []
    for number in range(ROWS):
        name = list(colors)[number % len(colors)]
        noise = rng.integers(-20, 20, size=(32, 32, 3))
        pixels = np.clip(np.array(colors[name]) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
        rows.append((f"{number}.png", f"a {name} picture {number}", number % len(colors)))
    write = lambda path, lines: path.write_text("".join(f"{line}\n" for line in lines))
    write(place / "train.csv", ["path,caption"] + [f"{p},{c}" for p, c, _ in rows])
    write(place / "test.csv", ["path,caption,class"] + [f"{p},{c},{k}" for p, c, k in rows[:16]])
    write(place / "classes.txt", colors)
    (place / "run.toml").write_text(CONFIG)


def train(trainer, place, *words):
    command = [trainer, "run", "--config", place / "run.toml", "--out", place / "run", "--quiet"]
    return subprocess.Popen([str(part) for part in (*command, *words)], stdout=subprocess.DEVNULL)


def finish(process):
    if process.wait() != 0:
        raise SystemExit(f"error: `{' '.join(process.args)}` failed with exit {process.returncode}")


def run_twice(trainer, place):
    """To the end, and again from its first checkpoint on, as if it had been killed at its end."""
    first, run = place / "first", place / "run"
    process = train(trainer, place)
    while not (run / CHECKPOINT).exists() and process.poll() is None:
        time.sleep(0.001)
    shutil.copyfile(run / CHECKPOINT, first)
    finish(process)
    shutil.copyfile(first, run / CHECKPOINT)
    finish(train(trainer, place, "--resume"))


def expected(run):
    """Curves as the journal has them: tag -> steps and values."""
    curves = {}

    def collect(tag, step, value):
        value = value["value"] if isinstance(value, dict) and "value" in value else value
        if isinstance(value, dict):
            for key, inner in value.items():
                collect(f"{tag}/{key}", step, inner)
        elif isinstance(value, (int, float)):
            curves.setdefault(tag, []).append((step, np.float32(value)))

    for line in (run / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        step = entry.pop("step")
        if "alarm" not in entry:
            group = "epoch" if "epoch_loss" in entry else "step"
            for key, value in entry.items():
                collect(f"{group}/{key}", step, value)
    return curves


def compare(trainer, place):
    """Prints what came of it; returns whether the curves are those of the journal."""
    write_data(place)
    run_twice(trainer, place)
    reader = EventAccumulator(str(place / "run"), size_guidance={SCALARS: 0})
    reader.Reload()
    found = {
        tag: [(event.step, np.float32(event.value)) for event in reader.Scalars(tag)]
        for tag in reader.Tags()["scalars"]
    }
    curves = expected(place / "run")
    files = len(list((place / "run").glob("events.out.tfevents.*")))
    steps = [step for step, _ in found.get("step/loss", [])]
    good = (
        found == curves and files == 2 and steps == list(range(1, EPOCHS * STEPS_PER_EPOCH + 1))
    )
    print(
        f"{'ok' if good else 'DIFFERS':8}{'curves':12}{'tensorboard':14}"
        f"{version.VERSION}: {len(found)} curves, {len(steps)} steps in {files} files"
    )
    return good
