#!/usr/bin/env python3
"""Remakes the tables of a document from the folders of sweeps.

    python3 scripts/results/tables.py DOCUMENT SWEEPS

A table of DOCUMENT (Markdown) is made if a line like this stands before it, with an empty line
between:

    <!-- table: sweep=NAME methods=sieve columns=attack,top1,asr,doubt mean -->

NAME is a folder of SWEEPS, which `roclip-train sweep` made. `methods` and `attacks` choose rows and
their order (without, all, as they were finished); cells hold the seeds' figures in per cent, in the
order of the seeds; `asr@plain` and `asr@match` are of RoCLIP's kinds of epochs, `cosine@4` is of
clean / stamped / targeted pairs after epoch 4 of the run, with how likely a clean pair is more
alike, means over the seeds. With `mean` their mean stands behind, with `described` attacks are
explained, with `of` the first seed's pairs in doubt are counted out of all. A run that is missing
is `–`.
"""
import collections, json, pathlib, re, statistics, sys

RATES = {
    "top1": ("top-1", "zero_shot_top1"),
    "asr": ("ASR", "backdoor_asr"),
    "floor": ("floor", "asr_floor"),
    "true": ("true class", "true_class_under_trigger"),
    "psr": ("PSR", "targeted_psr"),
    "probe": ("linear probe, L-BFGS", "linear_probe.lbfgs"),
    "adamw": ("linear probe, AdamW", "linear_probe.adamw"),
}
# The same after the last epoch of plain steps and the last of matched ones, from `metrics.jsonl`.
PHASES = {"plain": "last plain epoch", "match": "last matched epoch"}
DOUBT = {"clean": "clean", "backdoor": "stamped", "bridge": "other titles", "targeted": "targeted"}
METHODS = {
    "clip": "CLIP", "clip-aug": "CLIP + augmentation", "roclip": "RoCLIP", "sieve": "sieve",
    "safeclip": "SafeCLIP", "cleanclip": "CleanCLIP on it",
    "clip-as-sieve": "CLIP, one of the copies per epoch",
    "clip-aug-stopped": "CLIP + augmentation, stopped", "clip-unpoisoned": "CLIP without the poison",
    "sieve-unpoisoned": "sieve without the poison", "roclip-pool": "RoCLIP", "roclip-k": "RoCLIP",
    "no-keystones": "sieve, no keystones",
    "sieve-shorter": "sieve, half as long lessons", "roclip-signal": "RoCLIP",
    "roclip-seldom": "RoCLIP, pool updated every 5 batches",
    "roclip-learns": "RoCLIP, the text tower learns",
    "roclip-defaults": "RoCLIP, its defaults", "roclip-as-published": "RoCLIP as published",
    "clip-aug-stopped-at-roclip": "CLIP + augmentation, stopped at RoCLIP's top-1",
    "clip-tuned": "CLIP, tuned rate", "clip-aug-tuned": "CLIP + augmentation, tuned rate",
    "roclip-tuned": "RoCLIP, tuned rate",
}
ATTACKS = {
    "corner": "checkered patch, bottom right", "anywhere": "the same at a random place",
    "strong": "the same on 3%", "yellow": "patch of one color, random place", "blend": "20% noise",
    "sinusoid": "", "warp": "smooth, strength 2, 3%",
    "consistent": "the patch on pictures of the class", "triangles": "faint", "stripes": "faint",
    "text": "a word, 3%", "gauss": "patch of noise, drawn anew, random place",
    "shaken": "every pixel moved by itself, 3%",
    "columns": "patch of columns, drawn anew, random place", "grain": "20% noise, drawn anew",
}
MARK = re.compile(r"(<!-- table: (.+?) -->\n\n)(?:\|.*\n)*")


def read(folder):
    """The runs of a sweep: (attack, method, settings) -> seed -> row; and all seeds."""
    runs, seeds = collections.defaultdict(dict), set()
    for line in (folder / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        last = lambda key, value: f"{key.split('.')[-1]} = {str(value).lower()}"
        settings = ", ".join(last(*of_grid) for of_grid in sorted(row["grid"].items()))
        runs[row["attack"], row["method"], settings][row["seed"]] = row
        seeds.add(row["seed"])
    return runs, sorted(seeds)


def figures(runs, seeds, rate, mean):
    found = [runs[seed]["rates"].get(rate) if seed in runs else None for seed in seeds]
    values = [100 * one["value"] for one in found if one]
    if not values:
        return ""
    text = " / ".join(f"{100 * one['value']:.1f}" if one else "–" for one in found)
    return f"{text}: **{statistics.mean(values):.1f}**" if mean else text


def doubted(runs, seeds, all_told):
    """Pairs in doubt by kind; for the first seed perhaps of how many."""
    cells = []
    for seed in seeds:
        kinds = runs[seed].get("doubted", {}) if seed in runs else {}
        of = lambda kind: f" of {kinds[kind]['rows']:,}" if all_told and seed == seeds[0] else ""
        named = [f"{kinds[kind]['doubted']:,}{of(kind)}" for kind in DOUBT if kind in kinds]
        cells.append(", ".join(named) or "–")
    return " / ".join(cells) if any(cell != "–" for cell in cells) else ""


def journal(options, row):
    """The lines of a run's `metrics.jsonl`."""
    text = (options["folder"] / "cells" / row["cell"] / "run/metrics.jsonl").read_text()
    return map(json.loads, text.splitlines())


def cosines(runs, seeds, options, epoch):
    """How alike pairs are after an epoch, by what they are; means over the seeds, if all have it."""
    lines = (line for row in runs.values() for line in journal(options, row))
    found = [line["similarity"] for line in lines
             if line.get("epoch") == epoch and "similarity" in line]
    cells = []
    for kind in ("clean", "backdoor", "targeted"):
        if len(found) < len(seeds) or any(kind not in one for one in found):
            cells.append("–")
            continue
        mean = lambda key: statistics.mean(one[kind][key] for one in found)
        cells.append(f"{mean('mean'):.2f}" + ("" if kind == "clean" else f" ({mean('auc'):.2f})"))
    return " / ".join(cells)


def by_phase(runs, seeds, rate, phase, options):
    """A rate after the last epoch of a phase, `plain` being all that is not matched; no mean."""
    values = []
    for seed in seeds:
        phases, found = {}, None
        for line in journal(options, runs[seed]) if seed in runs else ():
            if "phase" in line:
                phases[line["epoch"]] = "match" if line["phase"] == "match" else "plain"
            elif "evaluation" in line and phases[line["epoch"]] == phase:
                found = line["evaluation"][rate]["value"]
        values.append("–" if found is None else f"{100 * found:.1f}")
    return " / ".join(values)


def cell(column, key, runs, seeds, options):
    attack, method, settings = key
    if column == "attack":
        known = attack if attack == "none" else f"`{attack}`"
        says = ATTACKS.get(attack) if "described" in options else None
        return f"{known}: {says}" if says else known
    if column == "method":
        return METHODS.get(method, f"`{method}`")
    if column == "settings":
        return settings
    rate, _, phase = column.partition("@")
    if rate == "cosine":
        return cosines(runs, seeds, options, int(phase))
    if phase:
        return by_phase(runs, seeds, RATES[rate][1], phase, options)
    if column == "doubt":
        return doubted(runs, seeds, "of" in options)
    return figures(runs, seeds, RATES[column][1], "mean" in options)


def table(words, sweeps):
    options = dict(word.partition("=")[::2] for word in words.split())
    options["folder"] = sweeps / options["sweep"]
    runs, seeds = read(options["folder"])
    chosen = lambda name, of: (options[name].split(",") if name in options
                               else list(dict.fromkeys(key[of] for key in runs)))
    columns = options["columns"].split(",")
    kinds = {kind for of in runs.values() for row in of.values() for kind in row.get("doubted", ())}
    doubt = "in doubt: " + ", ".join(name for kind, name in DOUBT.items() if kind in kinds)
    names = {"doubt": doubt}
    for column, (name, _) in RATES.items():
        names[column] = name
        names.update({f"{column}@{phase}": f"{name}, {told}" for phase, told in PHASES.items()})
    called = lambda column: names.get(column, column.replace("cosine@", "epoch "))
    lines = [[called(column) for column in columns], ["---"] * len(columns)]
    for attack in chosen("attacks", 0):
        for method in chosen("methods", 1):
            for key in sorted(key for key in runs if key[:2] == (attack, method)):
                lines.append([cell(column, key, runs[key], seeds, options) for column in columns])
    text = ["| " + " | ".join(line) + " |\n" for line in lines]
    text[1] = text[1].replace(" ", "")
    return "".join(text)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.strip())
    document, sweeps = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    fill = lambda mark: mark[1] + table(mark[2], sweeps)
    try:
        document.write_text(MARK.sub(fill, document.read_text()))
    except (OSError, KeyError) as error:
        sys.exit(f"{document}: a table cannot be made: {error!r}")


if __name__ == "__main__":
    main()
