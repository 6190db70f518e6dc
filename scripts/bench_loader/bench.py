"""Times our loader beside PyTorch's DataLoader: decode, resize, normalise, on one core.

    bench.py --ours PROGRAM [--side PIXELS] [--file-side PIXELS] [--pictures COUNT] [--rounds COUNT]
             [--seconds S] [--out FOLDER]

Seeded pictures are written as JPEG and as PNG, in files of their own and in a tar. The contestants
take turns on each, all on the same one core, each turn in a process of its own, whole epochs at a
time. The mean of the first pictures of every contestant is compared with ours; what differs is not
counted.

Prints a table and writes it to FOLDER with all numbers as JSON. Exit 0: all timed; 1: something
differs or failed; 2: could not run.
"""

import argparse
import csv
import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.with_name("bench_train")))
from process import Failed, ask, machine, on_signal, say, write  # noqa: E402

TORCH = Path(__file__).with_name("torch_loader.py")
# By which the mean of normalised pixels may differ: decoders and resizers round differently.
TOLERANCE = 0.02
# What a decoder sees of each kind, and how Pillow writes it.
KINDS = {"jpg": {"format": "JPEG", "quality": 90}, "png": {"format": "PNG"}}
CONTESTANTS = {"ours": None, "torch": 0, "torch, 1 worker": 1}


def picture(side, random):
    """Soft shapes with a little noise, about as hard to compress as a photograph."""
    coarse = random.integers(0, 256, (8, 8, 3), dtype=numpy.uint8)
    soft = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    noise = random.integers(-6, 7, (side, side, 3))
    return Image.fromarray((numpy.asarray(soft).astype(int) + noise).clip(0, 255).astype("uint8"))


def make(folder, kind, options):
    """`pairs.csv` with files beside it, and `pairs.tar` with the same."""
    folder.mkdir()
    random = numpy.random.default_rng(0)
    with (folder / "pairs.csv").open("w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(["path", "caption"])
        with tarfile.open(folder / "pairs.tar", "w") as shard:
            for number in range(options.pictures):
                name, encoded = f"{number:06}.{kind}", io.BytesIO()
                picture(options.file_side, random).save(encoded, **KINDS[kind])
                (folder / name).write_bytes(encoded.getvalue())
                rows.writerow([name, f"picture {number}"])
                caption = f"picture {number}".encode()
                for member, content in ((name, encoded.getvalue()), (f"{number:06}.txt", caption)):
                    about = tarfile.TarInfo(member)
                    about.size = len(content)
                    shard.addfile(about, io.BytesIO(content))


def time(contestant, source, options):
    more = ["--side", options.side, "--batch", options.batch, "--seconds", options.seconds]
    if contestant == "ours":
        return ask([options.ours, source, *more], options.limit_s)
    command = [sys.executable, TORCH, source, *more, "--workers", CONTESTANTS[contestant]]
    return ask(command, options.limit_s)


def contest(source, options):
    """Answers of each contestant by round, and the reasons of those that failed."""
    runs, failed = {name: [] for name in CONTESTANTS}, {}
    for turn in range(1, options.rounds + 1):
        for name in [name for name in CONTESTANTS if name not in failed]:
            try:
                answer = time(name, source, options)
                expected = runs["ours"][0]["means"] if runs["ours"] else answer["means"]
                apart = max(abs(a - b) for a, b in zip(answer["means"], expected))
                if not apart <= TOLERANCE:
                    raise Failed(f"its pictures differ from ours by {apart:.3f}")
            except Failed as problem:
                failed[name] = str(problem)
                say(f"  round {turn}, {name}: {problem}")
                continue
            answer["images_per_second"] = answer["images"] / answer["seconds"]
            runs[name].append(answer)
            say(f"  round {turn}, {name}: {answer['images_per_second']:.0f} images/s")
    return runs, failed


def medians(runs):
    speeds = {name: [turn["images_per_second"] for turn in turns] for name, turns in runs.items()}
    return {name: statistics.median(turns) for name, turns in speeds.items() if turns}


def markdown(report):
    about = report["machine"]
    lines = [
        f"{about['cpu']}, one core; roclip {about['commit']}, Python {about['python']}, "
        f"torch {report['torch']}.",
        "",
        "| pictures | contestant | images/s on one core | ours / it |",
        "| --- | --- | ---: | ---: |",
    ]
    for case in report["cases"]:
        found = medians(case["runs"])
        for name, turns in case["runs"].items():
            if name not in found:
                lines.append(f"| {case['name']} | {name} | {case['failed'][name]} | |")
                continue
            rounds = ", ".join(f"{turn['images_per_second']:.0f}" for turn in turns)
            ratio = f"{found['ours'] / found[name]:.2f}" if name != "ours" and "ours" in found else ""
            lines.append(f"| {case['name']} | {name} | {found[name]:.0f} ({rounds}) | {ratio} |")
    return "\n".join(lines)


def parse():
    parser = argparse.ArgumentParser(
        prog="bench-loader",
        description="Times our loader beside PyTorch's DataLoader, on one core.",
        epilog="Paths are relative to the repository.",
    )
    add = parser.add_argument
    add("--ours", type=Path, required=True, help=argparse.SUPPRESS)
    add("--side", type=int, default=64, metavar="PIXELS", help="of what comes out")
    add("--file-side", type=int, default=256, metavar="PIXELS", help="of the files' pictures")
    add("--pictures", type=int, default=256, metavar="COUNT", help="of each kind")
    add("--batch", type=int, default=64, metavar="PAIRS")
    add("--rounds", type=int, default=3, help="turns of each contestant")
    add("--seconds", type=float, default=3, help="after which no epoch of a turn begins")
    add("--limit-s", type=int, default=600, help="seconds after which a process is ended")
    add("--out", type=Path, default=Path("target/bench-loader"), help="folder of the results")
    return parser.parse_args()


def main():
    options = parse()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # the contestants inherit it
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(asked, capture_output=True, text=True).stdout.strip() or None
    skipped = ("ours", "out")
    report = {
        "schema": "roclip/bench-loader/1",
        "machine": machine(commit),
        "settings": {name: value for name, value in vars(options).items() if name not in skipped},
        "tolerance": TOLERANCE,
        "torch": None,
        "cases": [],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="case-", dir=options.out) as place:
        for kind in KINDS:
            folder = Path(place) / kind
            make(folder, kind, options)
            for form, source in (("files", "pairs.csv"), ("tar", "pairs.tar")):
                name = f"{KINDS[kind]['format']}, {form}"
                say(name)
                runs, failed = contest(folder / source, options)
                answers = [turn for turns in runs.values() for turn in turns if "versions" in turn]
                report["torch"] = report["torch"] or answers and answers[0]["versions"]["torch"]
                report["cases"].append({"name": name, "runs": runs, "failed": failed})
                write(options.out, "bench-loader", report, markdown(report))
    print(markdown(report))
    return 1 if any(case["failed"] for case in report["cases"]) else 0


if __name__ == "__main__":
    on_signal()
    try:
        sys.exit(main())
    except (Failed, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(2)
