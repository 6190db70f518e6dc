#!/usr/bin/env python3
"""Methods against attacks over seeds: each run is `roclip-train poison`, `run` and `evaluate`.

    cargo build --release --workspace --exclude server
    python3 scripts/results/robustness.py OUT --seeds 0 1 2
    python3 scripts/results/robustness.py OUT --data FASHION --seeds 0 1 2

Without `--data` on the demo's generated pictures; with it on a folder with `train.csv`, `test.csv`,
`classes.txt` (prompts in the singular, see fashion.py, which prepares it) and `templates.txt`. Two
runs go on at one time, one thread each. What is done is in OUT/results.jsonl and is not done again.
"""
import argparse, concurrent.futures, csv, json, os, pathlib, random, struct, subprocess

BIN = pathlib.Path(__file__).resolve().parents[2] / "target/release"
# Words of `poison`; the size of a patch is that of the demo.
ATTACKS = {
    "corner": ["--backdoor-rate", "0.01", "--trigger", "patch:size=7,at=bottom-right"],
    "anywhere": ["--backdoor-rate", "0.01", "--trigger", "patch:size=7,at=random"],
    "strong": ["--backdoor-rate", "0.03", "--trigger", "patch:size=7,at=random"],
    "blend": ["--backdoor-rate", "0.01", "--trigger", "blend:alpha=0.2"],
    "sinusoid": ["--backdoor-rate", "0.01", "--trigger", "sinusoid"],
}
# Settings as `--set` has them; {n} is a share of the epochs of the demo's 16.
METHODS = {
    "clip": ["method.name=clip"],
    "clip-aug": ["method.name=clip", "augment.image=true", "augment.text=true"],
    "roclip": ["method.name=roclip", "method.roclip.pool_share=0.2",
               "method.roclip.match_from_epoch={7}"],
    "sieve": ["method.name=sieve", "method.sieve.from_epoch={6}", "augment.epochs={7}"],
    # The sieve's augmentation without its sieving.
    "clip-aug-first": ["method.name=clip", "augment.image=true", "augment.text=true",
                       "augment.epochs={7}"],
}
RATES = {"zero_shot_top1": "top-1", "backdoor_asr": "ASR", "targeted_psr": "PSR",
         "true_class_under_trigger": "true class under trigger"}


def call(*words):
    environment = dict(os.environ, RAYON_NUM_THREADS="1")
    ended = subprocess.run([str(word) for word in words], env=environment, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if ended.returncode:
        raise SystemExit(f"{words[0]} {words[1]}: {ended.stderr.strip()}")
    return ended.stdout


def prepare(args, seed, attack):
    """The poisoned data of a seed, made once; their folder and that of the clean data."""
    data = args.data
    if data is None:
        data = args.out / f"shapes-{seed}"
        if not (data / "templates.txt").exists():
            call(BIN / "demo", "shapes", "--out", data, "--seed", seed)
    poisoned = args.out / f"{attack}-{seed}"
    if attack != "none" and not (poisoned / "ledger.json").exists():
        classes = (data / "classes.txt").read_text().split("\n")
        target = args.target or random.Random(seed).choice([name for name in classes if name])
        call(BIN / "roclip-train", "poison", "--manifest", data / "train.csv", "--test",
             data / "test.csv", "--classes", data / "classes.txt", "--target-class", target,
             "--targeted-images", 16, "--targeted-captions", args.captions, "--image-size", 32,
             "--seed", seed, "--out", poisoned, "--no-progress", *ATTACKS[attack])
    return data, poisoned


def one(args, seed, attack, method):
    data, poisoned = prepare(args, seed, attack)
    folder = args.out / f"run-{attack}-{method}-{seed}"
    clean = attack == "none"
    manifest = data / "train.csv" if clean else poisoned / "train.csv"
    thesaurus = data / "thesaurus.txt"
    text = f'seed = {seed}\n[data]\nmanifest = {json.dumps(str(manifest.resolve()))}\nworkers = 1\n'
    text += f'[model]\nimage_size = 32\n[optim]\nepochs = {args.epochs}\n[augment]\n'
    if thesaurus.exists():
        text += f"thesaurus = {json.dumps(str(thesaurus.resolve()))}\n"
    config = args.out / f"run-{attack}-{method}-{seed}.toml"
    config.write_text(text)
    settings = []
    for setting in METHODS[method]:
        key, _, value = setting.partition("=")
        if value.startswith("{"):
            value = max(2, -(-int(value[1:-1]) * args.epochs // 16))
        settings += ["--set", f"{key}={value}"]
    call(BIN / "roclip-train", "run", "--config", config, "--out", folder, "--resume",
         "--no-progress", *settings)
    words = ["--model", folder / "model", "--test", data / "test.csv", "--classes",
             data / "classes.txt", "--templates", data / "templates.txt", "--json", "--no-progress"]
    words += [] if clean else ["--ledger", poisoned / "ledger.json"]
    evaluation = json.loads(call(BIN / "roclip-train", "evaluate", *words))
    summary = json.loads((folder / "summary.json").read_text())
    result = {"attack": attack, "method": method, "seed": seed,
              "train_seconds": summary["train_seconds"]}
    result |= {rate: evaluation[rate] for rate in RATES}
    if not clean:
        result["doubted"] = doubted(folder, poisoned)
    return result


def doubted(folder, poisoned):
    """Clean rows and each kind of poison: how many the last epoch left out, how many there are."""
    with open(folder / "checkpoint.safetensors", "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        if "method/sieve/kept" not in header:
            return None
        start, end = header["method/sieve/kept"]["data_offsets"]
        file.seek(start, os.SEEK_CUR)
        kept = {number for number, in struct.iter_unpack("<I", file.read(end - start))}
    ledger = json.loads((poisoned / "ledger.json").read_text())
    kinds = {row: "targeted" for target in ledger["targeted"] for row in target["rows"]}
    kinds |= {row: "backdoor" for row in (ledger["backdoor"] or {"rows": []})["rows"]}
    with open(poisoned / "train.csv", newline="") as file:
        rows = sum(1 for _ in csv.reader(file)) - 1
    kinds |= {poison["row"]: poison["kind"] for poison in ledger.get("poisons", [])}
    left = {"clean": [0, 0], "backdoor": [0, 0], "targeted": [0, 0]}
    for row in range(rows):
        count = left.setdefault(kinds.get(row, "clean"), [0, 0])
        count[0] += row not in kept
        count[1] += 1
    return left


def table(results):
    print("| attack | method | " + " | ".join(RATES.values()) + " |\n|---|---|" + "---|" * len(RATES))
    groups = {}
    for result in results:
        groups.setdefault((result["attack"], result["method"]), []).append(result)
    for (attack, method), group in groups.items():
        group.sort(key=lambda result: result["seed"])
        cells = []
        for rate in RATES:
            values = [100 * result[rate]["value"] for result in group if result[rate]]
            each = " / ".join(f"{value:.1f}" for value in values)
            cells.append(f"{each}: **{sum(values) / len(values):.1f}**" if values else "")
        print(f"| {attack} | {method} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS), choices=["none", *ATTACKS])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--set", action="append", default=[], metavar="NAME:KEY=VALUE,...",
                        help="another method: that of NAME before the dot with more settings")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--target", help="class of the backdoor [default: drawn from the seed]")
    parser.add_argument("--captions", type=int, default=10, help="of each targeted picture")
    args = parser.parse_args()
    for more in args.set:
        name, _, settings = more.partition(":")
        METHODS[name] = METHODS[name.split(".")[0]] + settings.split(",")
        args.methods.append(name)
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "results.jsonl"
    recipe = {"data": str(args.data), "epochs": args.epochs, "target": args.target,
              "captions": args.captions, "methods": METHODS}
    kept = args.out / "recipe.json"
    if kept.exists() and json.loads(kept.read_text()) != recipe:
        raise SystemExit(f"{kept} is of another experiment: choose another folder")
    kept.write_text(json.dumps(recipe, indent=1))
    results = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(result["attack"], result["method"], result["seed"]) for result in results}
    todo = [(seed, attack, method) for seed in args.seeds for attack in args.attacks
            for method in args.methods if (attack, method, seed) not in done]
    for seed in args.seeds:
        for attack in args.attacks:
            prepare(args, seed, attack)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for result in pool.map(lambda job: one(args, *job), todo):
            results.append(result)
            with open(log, "a") as file:
                file.write(json.dumps(result) + "\n")
            print(result["attack"], result["method"], result["seed"], *(
                f"{name} {100 * result[rate]['value']:.1f}"
                for rate, name in RATES.items() if result[rate]), result.get("doubted") or "",
                flush=True)
    table(results)


main()
