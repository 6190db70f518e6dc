#!/usr/bin/env python3
"""What the triggers of a sweep do to models of the same method and seed that never saw them.

    python3 scripts/results/strangers.py SWEEP DATA METHOD

SWEEP is the folder of a sweep, DATA has `test.csv`, `classes.txt` and `templates.txt`. Each attack's
trigger is tried, with `roclip-train evaluate`, on the models of all attacks of its seed but those whose
trigger has the same first word (a patch at another place is no stranger). A table in Markdown: for each
attack and seed the ASR of its own model, and the least, the middle and the greatest of the others, in
per cent. What is known already is kept in SWEEP/strangers.json.
"""
import concurrent.futures, json, os, pathlib, statistics, subprocess, sys


def asr(model, ledger, data):
    command = ["target/release/roclip-train", "evaluate", "--model", model, "--ledger", ledger,
               "--test", data / "test.csv", "--classes", data / "classes.txt",
               "--templates", data / "templates.txt", "--json", "--no-progress"]
    environment = {**os.environ, "RAYON_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr.strip())
    return json.loads(done.stdout)["backdoor_asr"]["value"]


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__.strip())
    sweep, data, method = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
    models = {}
    for model in sorted(sweep.glob(f"cells/*-{method}-*/run/model")):
        attack, _, seed = model.parent.parent.name.partition(f"-{method}-")
        models[attack, seed] = model
    ledgers = {}
    for ledger in sorted(sweep.glob("poisoned/*/ledger.json")):
        attack, _, seed = ledger.parent.name.split("-")
        if (attack, seed) in models:
            ledgers[attack, seed] = ledger
    word = {key: json.loads(ledger.read_text())["backdoor"]["trigger"].split(":")[0]
            for key, ledger in ledgers.items()}
    kept = sweep / "strangers.json"
    known = json.loads(kept.read_text()) if kept.exists() else {}
    tasks = [(f"{attack}-{seed}-{other}", model, ledger)
             for (attack, seed), ledger in ledgers.items()
             for (other, its_seed), model in models.items()
             if seed == its_seed and (other == attack or word.get((other, seed)) != word[attack, seed])]
    todo = [task for task in tasks if task[0] not in known]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        rates = pool.map(lambda task: asr(*task[1:], data), todo)
        for (name, *_), rate in zip(todo, rates):
            known[name] = rate
            kept.write_text(json.dumps(known, indent=1))
    print("| attack | seed | own model | others: least, middle, greatest |")
    print("|---|---|---|---|")
    for attack, seed in ledgers:
        per_cent = {name.split("-")[2]: 100 * known[name] for name, *_ in tasks
                    if name.split("-")[:2] == [attack, seed]}
        own = per_cent.pop(attack)
        others = sorted(per_cent.values())
        if others:
            middle = statistics.median(others)
            spread = f"{others[0]:.1f}, {middle:.1f}, {others[-1]:.1f} of {len(others)}"
            print(f"| `{attack}` | {seed} | {own:.1f} | {spread} |")


main()
