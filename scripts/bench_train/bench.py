"""Times one training step of ours beside PyTorch's: forward, backward and AdamW, f32, on the CPU.

    bench.py --ours PROGRAM [--preset NAME | --config FILE] [--image-size PIXELS] [--batch PAIRS …]
             [--threads COUNT …] [--contestants NAME …] [--rounds COUNT] [--out FOLDER] …

Each configuration is one seeded model and batch. Losses and gradients of every contestant are
compared with ours first; what differs is not timed. Then the contestants take turns, each turn in a
process of its own with unmeasured steps at its beginning. Without an architecture, a set of four.

Prints a table and writes it to FOLDER with all numbers as JSON. Exit 0: all timed; 1: something
differs or failed; 2: could not run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import table
from process import Failed, ask, machine, on_signal, say, write

STEP = Path(__file__).with_name("torch_step.py")
# Share of a parameter's greatest gradient, and of the loss, by which contestants may differ.
TOLERANCE = 1e-3
# Architecture, side of the pictures in pixels, pairs per step.
DEFAULTS = (("rn-micro", 32, 64), ("vit-small", 64, 64), ("vit-small", 64, 256), ("RN50", 64, 64))
PYTORCH = ("eager", "compile", "eager-channels-last", "compile-channels-last")


def busy_cores(seconds=0.5):
    """Cores that other work keeps busy; asked while no contestant runs."""
    def times():
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]  # all, idle

    (all_before, idle_before), _ = times(), time.sleep(seconds)
    all_after, idle_after = times()
    share = 1 - (idle_after - idle_before) / max(all_after - all_before, 1)
    return round(share * os.cpu_count(), 2)


class Contest:
    """One configuration at one number of threads."""

    def __init__(self, options, folder, threads):
        self.options, self.folder, self.threads = options, folder, threads
        self.case = json.loads((folder / "case.json").read_text())
        self.names = ["ours", *self.peers()]

    def peers(self):
        """Another layout of pictures is a matter of convolutions only."""
        if self.options.contestants:
            return self.options.contestants
        convolves = self.case["config"]["image"]["kind"] == "resnet"
        return PYTORCH if convolves else PYTORCH[:2]

    def ask_torch(self, what, name, *more):
        command = [sys.executable, STEP, what, self.folder, "--variant", name]
        command += ["--threads", self.threads, *more]
        # Compiled code is for one number of threads.
        compiled = self.folder / f"compiled-{self.threads}"
        return ask(command, self.options.limit_s, TORCHINDUCTOR_CACHE_DIR=compiled)

    def time(self, name):
        more = ["--warmup", self.options.warmup, "--seconds", self.options.seconds]
        more += ["--steps-min", self.options.steps_min]
        busy = busy_cores()
        if name == "ours":
            command = [self.options.ours, "time", self.folder, *more]
            answer = ask(command, self.options.limit_s, RAYON_NUM_THREADS=self.threads)
        else:
            answer = self.ask_torch("time", name, *more)
        expected, found = self.case["losses"][0], answer["first_loss"]
        if not abs(found - expected) <= TOLERANCE * abs(expected):
            raise Failed(f"the first loss is {found:.6f}, ours was {expected:.6f}")
        steps = answer["step_seconds"]
        answer["busy_cores_before"] = busy
        answer["images_per_second"] = self.case["batch"] * len(steps) / sum(steps)
        return answer

    def check(self):
        """Agreement by contestant, and what is wrong with it, if anything is."""
        agreement, differs = {}, []
        for name in self.names[1:]:
            try:
                found = agreement[name] = self.ask_torch("check", name)
            except Failed as problem:
                agreement[name] = {"failed": str(problem)}
                say(f"  {name}: not timed: {problem}")
                continue
            line = f"loss {found['loss_relative']:.1e}, gradient {found['gradient_relative']:.1e}"
            line += f" (`{found['worst_parameter']}`)"
            say(f"  {name}: differs from ours by {line}")
            apart = (found["loss_relative"], found["gradient_relative"])
            if not all(value <= TOLERANCE for value in apart):  # true for NaN
                differs.append(f"{name}: {line}")
        if differs:
            return agreement, f"more than {TOLERANCE:g} apart: {'; '.join(differs)}"
        if all("failed" in found for found in agreement.values()):
            return agreement, "nothing of PyTorch's runs here"
        return agreement, None

    def run(self):
        result = {
            "name": self.case["name"],
            "config": self.case["config"],
            "batch": self.case["batch"],
            "captions": self.case["captions"],
            "threads": self.threads,
        }
        result["agreement"], problem = self.check()
        if problem:
            say(f"  not timed: {problem}")
            return result | {"failed": problem}
        if not self.options.check_only:
            agreement = result["agreement"].items()
            failed = {name: found["failed"] for name, found in agreement if "failed" in found}
            result["contestants"] = summary(self.take_turns(failed), failed)
        return result

    def take_turns(self, failed):
        """Answers of each contestant, one per round; who fails is added to `failed` and rests."""
        runs = {name: [] for name in self.names}
        for turn in range(1, self.options.rounds + 1):
            for name in [name for name in self.names if name not in failed]:
                try:
                    answer = self.time(name)
                except Failed as problem:
                    failed[name] = str(problem)
                    say(f"  round {turn}, {name}: {problem}")
                    continue
                runs[name].append(answer)
                say(f"  round {turn}, {name}: {answer['images_per_second']:.1f} images/s")
        return runs


def summary(runs, failed):
    """Medians over the rounds; for memory, the greatest."""
    contestants = {}
    for name, rounds in runs.items():
        median = lambda key: statistics.median(answer[key] for answer in rounds)
        if name in failed:
            contestants[name] = {"failed": failed[name], "rounds": rounds}
            continue
        contestants[name] = {
            "images_per_second": median("images_per_second"),
            "cpu_seconds_per_step": median("cpu_seconds_per_step"),
            "peak_bytes": max(answer["peak_bytes"] for answer in rounds),
            "rounds": rounds,
        }
    return contestants


def commit():
    asked = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip() or None


def configurations(options):
    """Arguments of `prepare`, one list per configuration."""
    source = ["--config", options.config] if options.config else ["--preset", options.preset]
    context = ["--context-length", options.context_length] if options.context_length else []
    if options.config or options.preset:
        side = ["--image-size", options.image_size] if options.image_size else []
        return [[*source, *side, *context, "--batch", batch] for batch in options.batch or [64]]
    return [
        ["--preset", preset, "--image-size", options.image_size or side, *context, "--batch", batch]
        for preset, side, pairs in DEFAULTS
        for batch in options.batch or [pairs]
    ]


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def parse():
    parser = argparse.ArgumentParser(
        prog="bench-train",
        description="Times a training step of ours beside PyTorch's, on the CPU.",
        epilog="Paths are relative to the repository.",
    )
    parser.add_argument("--ours", type=Path, required=True, help=argparse.SUPPRESS)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--preset", help="rn-micro, vit-micro, vit-small, RN50 or ViT-B-32")
    what.add_argument("--config", type=Path, help="JSON file of another architecture")
    add = parser.add_argument
    add("--image-size", type=positive, metavar="PIXELS", help="side of the pictures")
    add("--context-length", type=positive, metavar="TOKENS", help="most tokens of a caption")
    add("--batch", type=positive, nargs="+", metavar="PAIRS", help="pairs per step")
    add("--threads", type=positive, nargs="+", default=[1, 2], metavar="COUNT")
    add("--contestants", choices=PYTORCH, nargs="+", help="PyTorch's; default: all that apply")
    add("--rounds", type=positive, default=3, help="turns of each contestant")
    add("--warmup", type=positive, default=3, help="unmeasured steps of a turn")
    add("--seconds", type=float, default=10, help="of measured steps in a turn")
    add("--steps-min", type=positive, default=3, help="measured steps of a turn at least")
    add("--seed", type=int, default=0, help="of weights, pictures and captions")
    add("--limit-s", type=positive, default=3600, help="seconds after which a process is ended")
    add("--check-only", action="store_true", help="compare losses and gradients, time nothing")
    add("--out", type=Path, default=Path("target/bench-train"), help="folder of the results")
    return parser.parse_args()


def main():
    options = parse()
    asked = {name: value for name, value in vars(options).items() if name not in ("ours", "out")}
    report = {
        "schema": "roclip/bench-train/1",
        "machine": machine(commit()),
        "settings": {name: str(v) if isinstance(v, Path) else v for name, v in asked.items()},
        "tolerance": TOLERANCE,
        "configurations": [],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    for arguments in configurations(options):
        # Weights and gradients are gigabytes; the system's temporary folder may be memory.
        with tempfile.TemporaryDirectory(prefix="case-", dir=options.out) as place:
            say("making " + " ".join(str(part) for part in arguments[1:]))
            prepare = [options.ours, "prepare", *arguments, "--seed", options.seed, "--out", place]
            ask(prepare, options.limit_s)
            for threads in options.threads:
                contest = Contest(options, Path(place), threads)
                case = contest.case
                say(f"{case['name']}, batch {case['batch']}, threads {threads}")
                report["configurations"].append(contest.run())
                write(options.out, "bench-train", report, table.markdown(report))
    print(table.markdown(report))
    return 1 if table.is_incomplete(report) else 0


if __name__ == "__main__":
    on_signal()
    try:
        sys.exit(main())
    except (Failed, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(2)
