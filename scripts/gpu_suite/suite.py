"""Everything that is known of training on an NVIDIA GPU only on one, in under nine minutes.

    suite.py [--out FOLDER] [--dry] [--limit-s SECONDS] [--parts NAME …]

Runs from the folder that `scripts/gpu-suite` packs: needs neither network nor Rust, and takes torch,
and what open_clip needs beside it, from this Python if it has them. Without a GPU, or with --dry,
every part is rehearsed on the CPU at small sizes and its figures are "not measured". A part that
fails or takes too long is told in one line and stops no other. Exit 0: all parts done; 1: something
failed; 2: could not run.
"""

import argparse
import importlib.util
import json
import math
import os
import re
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pictures
import table
import work
from process import Failed, Server, ask, machine, on_signal, reason, run, say, write

HERE = Path(__file__).resolve().parent
# Packed packages of Python, before those of this machine.
SITE = HERE / "site"
# Pairs that the CPU checks; larger batches are these over and over.
CHECKED = 64
BATCH = 1024
# A launch counts pairs in its third axis, which ends at 65,535.
BATCH_MAX = 32_768
ROUNDS = 3
# Seconds that are left to our own turns, however long PyTorch takes to get warm.
OWN_TURNS_S = 60
# Greatest shares by which bf16 on the card may be apart from f32 on the CPU.
LOSS_OFF_MAX, GRADIENT_OFF_MAX = 0.02, 0.2
# Between the loss curves of the real run: each epoch's mean.
CURVE_OFF_MAX = 0.05
# What PyTorch is at its best in: of pictures channel by channel, or pixel by pixel.
PYTORCH = {"vit": ("eager", "compile"), "resnet": ("eager-channels-last", "compile-channels-last")}


class NotMeasured(Exception):
    """This machine lacks what a part needs; the text is one line."""


class Suite:
    """What the parts share: programs, the card or the reason why there is none, and the clock."""

    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        self.began = time.monotonic()
        self.part_ends = self.began
        self.libraries = libraries()
        self.card, self.ceiling, self.lacks = None, None, None
        self.models = ("ViT-B-32", "RN50")
        self.sizes = {"checked": CHECKED, "batch": BATCH, "pool": 20_000}
        self.cases, self.batches, self.peers, self.known = {}, {}, {}, None

    def rehearse(self, lacks):
        """From now on on the CPU, as small as shows that everything runs."""
        self.lacks = lacks
        self.models = ("vit-micro", "rn-micro")
        self.sizes = {"checked": 8, "batch": 16, "pool": 200}

    def on_card(self):
        return [] if self.lacks else ["--cuda"]

    def left(self):
        """Seconds that a process may still take."""
        seconds = min(self.part_ends, self.began + self.options.limit_s) - time.monotonic()
        if seconds < 1:
            raise Failed("its time was up")
        return seconds

    def ask(self, program, *arguments):
        return ask([HERE / program, *arguments], self.left(), **self.libraries)

    def prepared(self, model):
        """A seeded model and pairs with the CPU's losses and gradients, made once."""
        if model not in self.cases:
            folder = self.folder / model
            size = ["--preset", model, "--batch", self.sizes["checked"]]
            self.ask("side_by_side", "prepare", *size, "--out", folder)
            self.cases[model] = folder, json.loads((folder / "case.json").read_text())
        return self.cases[model]

    def batch(self, model):
        """The pairs of a step that are compared: what fits of as many as are asked for."""
        if model not in self.batches:
            self.batches[model] = fitting(self, model, self.sizes["batch"])
        return self.batches[model]

    def cold(self):
        """Waits until PyTorch's halves are warm, all of them: one that compiles slows what another
        times. Why those that did not get warm did not.
        """
        if self.known is None:
            cold = {}
            for model, peer in self.peers.items():
                try:
                    peer.answer(max(self.left() - OWN_TURNS_S, 1))
                except Failed as problem:
                    cold[model] = f"{problem} while it was to get warm"
                    peer.close()
            self.known = cold
        return self.known

    def close(self):
        """Ends PyTorch's half."""
        for peer in self.peers.values():
            peer.close()
        self.peers = {}


def libraries():
    """Where CUDA's libraries lie, if torch brought them."""
    if os.environ.get("ROCLIP_CUDA_LIBRARIES"):
        return {}
    found = importlib.util.find_spec("nvidia")
    places = found.submodule_search_locations if found else ()
    places = [Path(place) / "cu13/lib" for place in places]
    return {"ROCLIP_CUDA_LIBRARIES": place for place in places if place.is_dir()}


def ceiling(suite):
    """The card's rate in products of bf16."""
    if suite.lacks:
        raise NotMeasured(suite.lacks)
    try:
        answer = suite.ask("side_by_side", "ceiling")
    except Failed as problem:  # no card, or none that our programs can use
        suite.rehearse(str(problem))
        raise NotMeasured(suite.lacks)
    suite.card = answer["device"]
    suite.ceiling = max(rate["flop_per_second"] for rate in answer["rates"])
    return answer


def prepare(suite):
    """The models to compare, and PyTorch beside: compiling takes it minutes, meanwhile it gets warm."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(suite.prepared, suite.models))
    batches = {model: suite.batch(model) for model in suite.models}  # before PyTorch takes memory
    for model, batch in batches.items() if not lacks_torch() else ():
        folder, case = suite.prepared(model)
        command = [sys.executable, "-B", HERE / "torch_step.py", "serve", folder, "--batch", batch]
        command += ["--variant", *PYTORCH[case["config"]["image"]["kind"]], *suite.on_card()]
        command += ["--warmup", 3, "--seconds", 3, "--steps-min", 3]
        paths = (str(SITE), os.environ.get("PYTHONPATH"))
        variables = {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        variables["TORCHINDUCTOR_CACHE_DIR"] = suite.folder / "compiled"
        suite.peers[model] = Server(command, suite.folder / f"torch-{model}.log", **variables)
    return {"batches": batches}


def fitting(suite, model, batch):
    """The batch, or what fits of it."""
    try:
        timed(suite, model, batch, 0, 1)
    except Failed as problem:
        fits = re.search(r"one of (\d+) would", str(problem))
        if not fits:
            raise
        return int(fits[1])
    return batch


def kernels(suite):
    """Every kernel, and small towers whole, against f64 on the CPU."""
    names = ("ops::cuda::tests", "towers_on_a_gpu", "restored_on_a_gpu", "ranks_on_machines")
    asked = {} if suite.lacks else {"ROCLIP_TEST_CARD": "1"}
    command = [HERE / "clip-tests", "--test-threads=4", *names]
    code, out, err = run(command, suite.left(), **suite.libraries, **asked)
    told = re.findall(r"^test (\S+) \.\.\. (ok|FAILED)$", "\n".join(out), re.MULTILINE)
    proofs = {name.removeprefix("ops::cuda::tests::"): result == "ok" for name, result in told}
    if any(line.startswith("skipped") for line in err):
        raise NotMeasured("no C++ compiler, which the emulator needs")
    if not proofs or (code != 0 and all(proofs.values())):
        raise Failed(reason(code, err))
    return {"proofs": proofs, "failed": sorted(name for name, good in proofs.items() if not good)}


def gradients(suite):
    """Loss and gradient of whole towers against f32 on the CPU."""
    answers = {}
    for model in suite.models:
        folder, _ = suite.prepared(model)
        answers[model] = suite.ask("side_by_side", "check", folder, *suite.on_card())
    apart = [
        f"{model}: {answer[key]:.3f} apart in its {key.split('_')[0]}"
        for model, answer in answers.items()
        for key, most in (("loss_relative", LOSS_OFF_MAX), ("gradient_relative", GRADIENT_OFF_MAX))
        if not answer[key] <= most  # true for NaN
    ]
    return {"models": answers, "failed": apart}


def curve(suite):
    """A real run, on the CPU and on the card: the mean losses of its epochs."""
    data = suite.folder / "data"
    pictures.write(data, 512)
    means = {}
    for device in ("cpu", *([] if suite.lacks else ["cuda"])):
        out = suite.folder / f"run-{device}"
        config = suite.folder / f"{device}.toml"
        manifest = data / "pairs.csv"
        config.write_text(pictures.CONFIG.format(device=device, manifest=manifest, out=out))
        command = [HERE / "roclip-train", "run", "--config", config, "--quiet"]
        code, _, err = run(command, suite.left(), **suite.libraries)
        if code != 0:
            raise Failed(f"{device}: {reason(code, err)}")
        means[device] = pictures.epoch_means(out)
    off = max((abs(a - b) / a for a, b in zip(means["cpu"], means.get("cuda", ()))), default=0)
    failed = [f"the curves are {off:.3f} apart"] if off > CURVE_OFF_MAX else []
    return {"losses": means, "off": off, "failed": failed}


def pool(suite):
    """What a pool of 2% of a million rows costs, and what the loader can give."""
    model = suite.models[0]
    sizes = ["--preset", model, "--batch", suite.sizes["batch"], "--pool", suite.sizes["pool"]]
    rounds = ["--rounds", ROUNDS, "--steps", 5, "--json", "--bench"]
    return suite.ask("epoch", *sizes, *rounds, *suite.on_card())


def timed(suite, model, batch, seconds=2.0, steps=3):
    """Our step, with the first loss as it must be: over repeated pairs, ln of how often higher."""
    folder, case = suite.prepared(model)
    arguments = ["--batch", batch, "--seconds", seconds, *suite.on_card()]
    arguments += ["--warmup", steps, "--steps-min", steps]
    return rated(suite, case, batch, suite.ask("side_by_side", "time", folder, *arguments))


def rated(suite, case, batch, answer):
    """Adds images per second and the share of the card's rate; refuses another loss."""
    expected = case["losses"][0] + math.log(batch / case["batch"])
    if not abs(answer["first_loss"] - expected) <= LOSS_OFF_MAX * abs(expected):
        raise Failed(f"the first loss is {answer['first_loss']:.4f}, the CPU's {expected:.4f}")
    seconds = statistics.median(answer["step_seconds"])
    flops = work.step(case["config"], batch, case["captions"]["max"])
    answer |= {"batch": batch, "images_per_second": batch / seconds, "flop": flops}
    answer["utilisation"] = flops / seconds / suite.ceiling if suite.ceiling else None
    return answer


def largest(suite):
    """The largest power of two of pairs that fits, found by trial, and its rate."""
    answers = {}
    for model in suite.models:
        best, batch = 0, suite.batch(model)
        largest = batch if suite.lacks else BATCH_MAX
        while batch <= largest:
            fits = fitting(suite, model, batch)
            best = max(best, fits)
            if fits < batch:
                break
            batch *= 2
        answers[model] = timed(suite, model, best)
    return {"models": answers}


def compared(model_number):
    def compare(suite):
        """Our steps and PyTorch's, in turns."""
        model = suite.models[model_number]
        batch = suite.batch(model)
        _, case = suite.prepared(model)
        peer, variants = suite.peers.get(model), PYTORCH[case["config"]["image"]["kind"]]
        rounds = {name: [] for name in ("ours", *variants)}
        found = {"model": model, "rounds": rounds, "lacks": lacks_torch()}
        started = None if peer else "its half was not started"
        found["lacks"] = found["lacks"] or suite.cold().get(model) or started
        for _ in range(ROUNDS):
            try:
                rounds["ours"].append(timed(suite, model, batch, 3.0))
            except Failed as problem:
                if not rounds["ours"]:
                    raise
                return {**found, "cut": str(problem)}
            for variant in variants if peer and not found["lacks"] else ():
                try:
                    answer = peer.ask(variant, suite.left())
                    rounds[variant].append(rated(suite, case, batch, answer))
                except Failed as problem:
                    found["lacks"] = str(problem)
                    break
        return found

    return compare


def lacks_torch():
    """What this Python lacks of PyTorch's half, if anything."""
    for name in ("torch", "torchvision", "timm", "open_clip"):
        if importlib.util.find_spec(name) is None:
            return f"no {name}"
    return None


def alone(part):
    """A part that has the card to itself."""
    def body(suite):
        suite.close()
        return part(suite)

    return body


# Name, seconds at most, what it does. Before PyTorch is warm, what is not timed.
PARTS = (
    ("ceiling", 30, ceiling),
    ("prepare", 90, prepare),
    ("kernels", 60, kernels),
    ("curve", 45, curve),
    ("gradients", 75, gradients),
    ("ViT", 155, compared(0)),
    ("RN50", 155, compared(1)),
    ("pool", 80, alone(pool)),
    ("largest", 120, alone(largest)),
)


def with_needed(parts):
    """And what comes before them."""
    return {"ceiling", *parts, *(("prepare",) if {"ViT", "RN50", "largest"} & set(parts) else ())}


def attempt(suite, name, limit_s, part):
    """What became of a part, whatever that is."""
    began = time.monotonic()
    suite.part_ends = began + (3 * limit_s if suite.lacks else limit_s)
    try:
        found = part(suite)
        failed = "; ".join(found.pop("failed", ()))
        outcome = {"rehearsed": found, "not_measured": suite.lacks} if suite.lacks else found
        outcome |= {"failed": failed} if failed else {}
    except NotMeasured as lacks:
        outcome = {"not_measured": str(lacks)}
    except Failed as problem:
        outcome = {"failed": str(problem)}
    except Exception as bug:  # of this script; the other parts are none the worse for it
        outcome = {"failed": f"{type(bug).__name__}: {bug}"}
    outcome["seconds"] = round(time.monotonic() - began, 1)
    told = outcome.get("failed") and f"failed: {outcome['failed']}"
    told = told or outcome.get("not_measured") and f"not measured: {outcome['not_measured']}"
    say(f"{name}: {told or 'done'} ({outcome['seconds']} s)")
    return outcome


def parse():
    parser = argparse.ArgumentParser(prog="run", description="Measures on this machine's GPU.")
    add = parser.add_argument
    add("--out", type=Path, default=Path("results"), help="folder of the results")
    add("--dry", action="store_true", help="rehearse on the CPU, even if there is a GPU")
    add("--limit-s", type=float, default=525, metavar="SECONDS", help="of all parts together")
    add("--parts", nargs="+", choices=[name for name, *_ in PARTS], help="these, and what they need")
    return parser.parse_args()


def main():
    options = parse()
    about = json.loads((HERE / "about.json").read_text())
    report = {"schema": "roclip/gpu-suite/1", "machine": machine(about["commit"]), "parts": {}}
    options.out.mkdir(parents=True, exist_ok=True)
    # Weights and gradients are gigabytes; the system's temporary folder may be memory.
    with tempfile.TemporaryDirectory(prefix="work-", dir=options.out) as place:
        suite = Suite(options, Path(place).resolve())
        if options.dry:
            suite.rehearse("a rehearsal without a card")
        try:
            for name, limit_s, part in PARTS:
                if options.parts and name not in with_needed(options.parts):
                    continue
                report["parts"][name] = attempt(suite, name, limit_s, part)
                report |= {"card": suite.card, "lacks": suite.lacks}
                report["seconds"] = time.monotonic() - suite.began
                write(options.out, "gpu-suite", report, table.markdown(report))
        finally:
            suite.close()
    print(table.markdown(report))
    return 1 if any("failed" in outcome for outcome in report["parts"].values()) else 0


if __name__ == "__main__":
    sys.path.insert(0, str(SITE))
    on_signal()
    try:
        sys.exit(main())
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(2)
