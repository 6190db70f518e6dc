#!/usr/bin/env python3
"""Answers of plain Python, scikit-learn, SciPy and PyTorch to what `evaluate` counts.

    python3 scripts/evaluation/golden.py [--check]

Writes `tests/golden/evaluation/{rates,linear_probe}.json`, which the tests of `trainer` read; with
`--check` compares what is there instead. Needs `scripts/evaluation/requirements.txt`. Every number
goes into the files as it was used, so that both sides compute on the same.
"""

import json
import math
import random
import sys
from pathlib import Path

import numpy as np
import scipy
import sklearn
import torch
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, top_k_accuracy_score

FOLDER = Path(__file__).resolve().parents[2] / "tests/golden/evaluation"
SEED = 0


def rounded(values, digits=3):
    """As the file has them; + 0.0 turns -0.0 into 0.0."""
    return np.round(values, digits) + 0.0


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def hits(outcomes):
    return [int(sum(outcomes)), len(outcomes)]


def rank(cosines, key):
    """Keys before `key` in the order of falling cosines, equals in their own order."""
    return int(np.flatnonzero(np.argsort(-cosines, kind="stable") == key)[0])


def zero_shot(rng):
    """A class is the unit mean of its unit prompts; pictures go to the nearest."""
    labels, prompts, dim, count = 7, 4, 8, 90
    centers = rng.normal(size=(labels, dim))
    texts = rounded(centers[:, None] + 0.5 * rng.normal(size=(labels, prompts, dim)))
    classes = rng.integers(labels, size=count)
    images = rounded(centers[classes] + 1.1 * rng.normal(size=(count, dim)))
    names = unit(unit(texts).mean(axis=1))
    scores = unit(images) @ names.T
    found = {
        f"top{k}": [
            int(round(top_k_accuracy_score(classes, scores, k=k, normalize=False))), count,
        ]
        for k in (1, 3, 5)
    }
    return {
        "prompts": texts.tolist(), "images": images.tolist(), "classes": classes.tolist(),
        "ranks": [rank(row, own) for row, own in zip(scores, classes)], **found,
    }, centers, names


def backdoor(rng, centers, names):
    """Pictures of other classes, half of them moved towards the target by the stamp."""
    target, count = 2, 60
    others = [label for label in range(len(centers)) if label != target]
    classes = rng.choice(others, size=count)
    clean = rounded(centers[classes] + 1.2 * rng.normal(size=(count, centers.shape[1])))
    stamped = rounded(clean + rng.integers(2, size=(count, 1)) * centers[target])
    predicted = {
        name: np.argmax(unit(rows) @ names.T, axis=1)
        for name, rows in (("clean", clean), ("stamped", stamped))
    }
    return {
        "target": target, "classes": classes.tolist(),
        "clean": clean.tolist(), "stamped": stamped.tolist(),
        "asr": hits(predicted["stamped"] == target),
        "floor": hits(predicted["clean"] == target),
        "true_class": [
            int(accuracy_score(classes, predicted["stamped"], normalize=False)), count,
        ],
    }


def retrieval(rng):
    """Pictures with one to five texts each; some texts belong to several pictures."""
    count, dim = 40, 6
    images = rounded(rng.normal(size=(count, dim)))
    rows, distinct, texts = [], [], []
    for image in range(count):
        for number in range(int(rng.integers(1, 6))):
            shared = number == 0 and image % 8 == 7
            text = rows[0][1] if shared else f"text {image}.{number}"
            rows.append([image, text])
            if text not in distinct:
                distinct.append(text)
                texts.append(rounded(images[image] + 0.9 * rng.normal(size=dim)))
    rows = [rows[at] for at in rng.permutation(len(rows))]  # several rows of a picture lie apart
    order = list(dict.fromkeys(text for _, text in rows))
    texts = [texts[distinct.index(text)] for text in order]
    cosines = unit(images) @ unit(np.array(texts)).T
    own = [{order.index(text) for at, text in rows if at == image} for image in range(count)]
    ranks = {
        "image": [min(rank(cosines[i], text) for text in own[i]) for i in range(count)],
        "text": [
            min(rank(cosines[:, t], i) for i in range(count) if t in own[i])
            for t in range(len(order))
        ],
    }
    keys = (("image", "image_to_text"), ("text", "text_to_image"))
    return {
        "rows": rows, "images": images.tolist(), "distinct_texts": order,
        "texts": np.array(texts).tolist(),
        "image_ranks": ranks["image"], "text_ranks": ranks["text"],
        "hits": {
            f"{key}_r{k}": sum(rank < k for rank in ranks[side])
            for side, key in keys for k in (1, 5, 10)
        },
    }


def wilson():
    cases = [(0, 1), (1, 1), (0, 16), (2, 16), (16, 16), (7, 90), (923, 1000), (50_000, 100_000)]
    found = []
    for successes, trials in cases:
        low, high = binomtest(successes, trials).proportion_ci(method="wilson")
        found.append({"rate": [successes, trials], "low": float(low), "high": float(high)})
    return found


def adamw(train, classes):
    """The linear probe of RoCLIP's released code, with a start and orders that are written down."""
    (rows, own), batch_size, epochs = train, 32, 3
    layer = torch.nn.Linear(rows.shape[1], classes, dtype=torch.float64)
    values, own = torch.tensor(rows), torch.tensor(own)

    def head():
        with torch.no_grad():
            return torch.cat([layer.weight.flatten(), layer.bias]).tolist()

    start = head()
    orders = [torch.randperm(len(own)) for _ in range(epochs)]
    groups = [{"params": [layer.bias], "weight_decay": 0.0},
              {"params": [layer.weight], "weight_decay": 0.01}]
    optimizer = torch.optim.AdamW(groups, lr=0.005)
    steps = epochs * math.ceil(len(own) / batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    for order in orders:
        for batch in order.split(batch_size):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(values[batch]), own[batch]).backward()
            optimizer.step()
            schedule.step()
    answer = {"batch_size": batch_size, "start": start,
              "orders": [order.tolist() for order in orders], "end": head()}
    return answer, layer


def linear_probe(rng):
    classes, dim, counts = 5, 9, (150, 80)
    centers = rng.normal(size=(classes, dim))
    spread = np.geomspace(0.3, 3.0, dim)  # directions of unlike lengths
    sets = []
    for count in counts:
        own = rng.integers(classes, size=count)
        rows = rounded(spread * (centers[own] + 1.2 * rng.normal(size=(count, dim))))
        sets.append((rows, own))
    (rows, own), (test, expected) = sets
    logistic = []
    for c in (0.316, 10.0):
        model = LogisticRegression(C=c, tol=1e-10, max_iter=100_000).fit(rows, own)
        head = np.concatenate([model.coef_.flatten(), model.intercept_])
        logistic.append({"c": c, "head": head.tolist(),
                         "accuracy": hits(model.predict(test) == expected)})
    few, tested = own < 2, expected < 2
    two = []
    for c in (0.316, 10.0):
        model = LogisticRegression(C=c, tol=1e-10, max_iter=100_000).fit(rows[few], own[few])
        vector = np.concatenate([model.coef_.flatten(), model.intercept_])
        two.append({"c": c, "vector": vector.tolist(),
                    "accuracy": hits(model.predict(test[tested]) == expected[tested])})
    answer, layer = adamw(sets[0], classes)
    with torch.no_grad():
        predicted = layer(torch.tensor(test)).argmax(dim=1).numpy()
    answer["accuracy"] = hits(predicted == expected)
    names = ("train", "test")
    inputs = {
        name: {"rows": rows.tolist(), "classes": own.tolist()}
        for name, (rows, own) in zip(names, sets)
    }
    return {"classes": classes, **inputs, "logistic": logistic, "two_classes": two,
            "adamw": answer}


def documents():
    random.seed(SEED)
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    made_by = {
        "command": "python3 scripts/evaluation/golden.py",
        **{module.__name__: module.__version__ for module in (np, scipy, sklearn, torch)},
    }
    shots, centers, names = zero_shot(rng)
    rates = {"zero_shot": shots, "backdoor": backdoor(rng, centers, names),
             "retrieval": retrieval(rng), "wilson": wilson()}
    probe = linear_probe(rng)
    return {name: {"made_by": made_by, **content}
            for name, content in (("rates", rates), ("linear_probe", probe))}


def flat(value):
    if isinstance(value, dict):
        return [leaf for key in sorted(value) if key != "made_by" for leaf in flat(value[key])]
    if isinstance(value, list):
        return [leaf for item in value for leaf in flat(item)]
    return [value]


def same(a, b):
    if isinstance(a, float) or isinstance(b, float):
        return math.isclose(a, b, rel_tol=0, abs_tol=1e-6)
    return a == b


def main():
    for name, document in documents().items():
        path = FOLDER / f"{name}.json"
        if sys.argv[1:] == ["--check"]:
            found, expected = flat(json.loads(path.read_text())), flat(document)
            if len(found) != len(expected) or not all(map(same, found, expected)):
                sys.exit(f"error: `{path}` is not what this script makes")
            continue
        FOLDER.mkdir(parents=True, exist_ok=True)
        lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in document.items()]
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


main()
