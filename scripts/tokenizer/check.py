#!/usr/bin/env python3
"""Compares our ids of captions with those of transformers, open_clip and tokenizers, live.

    check.py --tokenize PROGRAM [--captions FOLDER] [--golden FILE]

`PROGRAM` is the `tokenize` of the crate `tests`. Texts: hard cases of this script's own, ImageNet's
class names in its prompt templates, and `cc3m_val_captions.txt`, `flickr8k_captions.tsv` and
`odd_texts.json` of `FOLDER`, each skipped by name where it is absent. `CLIPTokenizer` is built of
open_clip's merges, so nothing is downloaded; `file` is `tokenizers` with the tokenizer.json of an
exported model. `--golden tests/golden/tokenizer/ids.json` also keeps the ids for `cargo test`.

Prints a line per comparison, and the first texts that differ with the reason. Exit 0: every
difference has a reason that `docs/tokenizers.md` names; 1: not; 2: could not compare.
"""

import argparse
import gzip
import html
import json
import logging
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import ftfy
import tokenizers
import transformers
from open_clip import tokenizer as open_clip

ROOT = Path(__file__).resolve().parents[2]
CAPTIONS = ROOT.parent / "shared/data/captions"
CONTEXT, END = 77, 49407
SHOWN = 3
NAMES = ("openai", "openai-hf")
# Who cleans alike; `file` says only a part of `openai`.
SAME = {("openai", "open_clip"), ("openai-hf", "transformers"), ("openai-hf", "file")}
MARKS = ("<|startoftext|>", "<|endoftext|>", "<start_of_text>", "<end_of_text>")
# What `clip::text` leaves as it is; the rest of ftfy it does.
NOT_REPAIRED = {"fix_encoding": False, "remove_terminal_escapes": False}
HARD = [
    "P&EACUTE;REZ &ntilde; &NTILDE; &nTILDE; &LTIMES;", "this&not that &notit; &amp &ampx;",
    "&#39;s &#x2019;s &#8220;x&#8221; &#128; &#x81; &#0; &#1; &#59; &#xfffe; &#99999999999;",
    "&amp;amp;amp;amp;amp;rarr;", "<b> &amp;amp;amp;rarr; &ldquo;", "<b>&eacute;\n&ldquo;x&rdquo;",
    "&ldquo;x&rdquo; &hellip; &mdash; &reg; &copy 2024 &frac12; &deg;C", "&NotEqualTilde; &Tab;x",
    "ﬀ ﬁ ﬂ ﬃ ﬄ ﬅ ﬆ ĳ Ĳ ŉ ǆ ǅ Ǆ ǉ ǈ ǌ ǋ ǳ ǲ", "ＡＢＣ　１２３！ ｶﾞｷﾞ ￥￦ ﾊﾟ", "＆amp；",
    "„low“ ‚low‘ ‛x‟ ʼn dog’s o’clock", "a\x00b\x07c\x0bd\x1ee\x7ff", "\x80uro \x85 \x93x\x94 \x81",
    "a\u2028b\u2029c\r\nd\re\x0cf", "\u206ax\ufff9y\ufffcz\ufeff", "e\u0301 E\u0301 &#101;&#769; Å Å",
    "ΣΑΣ ΟΔΟΣ Σ", "İ I ı ẞ ß K Å", "'S 'T 'RE 'VE 'M 'LL 'D 'ſ it'ſ", "don't DON'T don’t rock'n'roll",
    "½ ² ① Ⅷ ٣ ४ 12,345", "a\u00a0b\u3000c\u2003d\u1680e", "\u180e\u200b\u200c\u200d\u2060",
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f 🇩🇪 👩‍🚀", "\U0001d173 𝒜𝓑 𐐀",
    "'s't're've'm'll'd", "' s '' ''s", "_a_ __b__ a_b", "can't've y'all'd", "\t\n ", "&", "&;", "&#;",
]


def until_end(ids):
    ids = list(ids)
    return ids[:ids.index(END) + 1]


class Peers:
    """Each: texts → ids, marks included, cut to 77 with the end mark last."""

    def __init__(self, files):
        self.simple = open_clip.SimpleTokenizer()
        merges = gzip.open(open_clip.default_bpe()).read().decode().split("\n")[1:48894 + 1]
        vocabulary = dict(self.simple.encoder)
        for ours, theirs in zip(MARKS[:2], MARKS[2:]):
            vocabulary[ours] = vocabulary.pop(theirs)
        logging.getLogger("transformers").setLevel(logging.ERROR)
        self.hugging_face = transformers.CLIPTokenizer(
            vocab=vocabulary, merges=[tuple(merge.split()) for merge in merges]
        )
        opened = tokenizers.Tokenizer.from_file
        self.files = {name: opened(str(path)) for name, path in files.items()}

    def open_clip(self, texts):
        return [until_end(row) for row in self.simple(texts, CONTEXT).tolist()]

    def transformers(self, texts):
        return self.hugging_face(texts, truncation=True, max_length=CONTEXT)["input_ids"]

    def file(self, name, texts):
        return [until_end(row.ids) for row in self.files[name].encode_batch(texts)]


def groups(folder):
    """Name and texts of each group, and whether they may be kept: captions of others may not."""
    yield "hard", HARD, True
    read = lambda name: (folder / name).read_text(encoding="utf-8")
    rows = lambda name: [line for line in read(name).split("\n") if line]

    def prompts():
        templates = rows("things_templates.txt")
        names = enumerate(rows("things.txt")[::4])
        return [templates[n % len(templates)].replace("{}", name) for n, name in names]

    for name, texts, kept in (
        ("odd_texts.json", lambda: json.loads(read("odd_texts.json")), True),
        ("things.txt", prompts, True),
        ("cc3m_val_captions.txt", lambda: rows("cc3m_val_captions.txt"), False),
        ("flickr8k_captions.tsv", lambda: [
            line.split("\t", 1)[1] for line in rows("flickr8k_captions.tsv")
        ], False),
    ):
        if (folder / name).is_file():
            yield name, texts(), kept
        else:
            print(f"skipped {name}: `{folder}` has no such file")


def reason(text, ours, theirs):
    """Why two ways to clean a text may give other ids; none: they must not."""
    if theirs != "open_clip" and any(mark in text for mark in MARKS):
        return "a mark's name is plain text for us"
    if ours == "openai" and ftfy.fix_text(text) != ftfy.fix_text(text, **NOT_REPAIRED):
        return "wrongly decoded text or a terminal's escape: only ftfy itself repairs it"
    if (ours, theirs) in SAME:
        return None
    sides = f"not by {'`openai-hf`' if theirs == 'open_clip' else theirs}"
    if html.unescape(text) != text or ftfy.fixes.unescape_html(text) != text:
        return f"HTML is unescaped, {sides}"
    if ftfy.fix_text(text, normalization=None) != text:
        return f"characters are repaired, {sides}"
    if text.lower() != "".join(map(str.lower, text)):
        return f"a last sigma has its own small letter, {sides}"
    if "'\u017f" in text:
        return f"the long s counts as an s after an apostrophe, {sides}"
    return None


def compare(group, texts, ours, theirs, rows, expected):
    """Prints how many texts differ and why the first do; returns whether all may."""
    apart = [n for n in range(len(texts)) if rows[n] != expected[n]]
    reasons = {n: reason(texts[n], ours, theirs) for n in apart}
    good = all(reasons.values())
    print(f"{'ok' if good else 'DIFFERS':8}{ours:11}{theirs:14}{group:23}"
          f"{len(texts):6} texts {len(apart):5} differ")
    by_need = sorted(apart, key=lambda n: reasons[n] is not None)  # those that may not come first
    for n in by_need[:SHOWN]:
        print(f"{'':8}{texts[n][:60]!r}: {reasons[n] or 'NO REASON'}")
        if not reasons[n]:
            print(f"{'':10}ours   {rows[n][:30]}\n{'':10}theirs {expected[n][:30]}")
    return good


def write_golden(path, cases):
    made_by = {
        "command": "python3 scripts/tokenizer/check.py --tokenize target/release/tokenize"
                   " --golden tests/golden/tokenizer/ids.json",
        "python": sys.version.split()[0],
        **{name: version(name) for name in
           ("open_clip_torch", "transformers", "tokenizers", "ftfy", "regex")},
    }
    lines = ",\n  ".join(json.dumps(case, separators=(",", ":")) for case in cases)
    head = json.dumps(made_by)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{\n "made_by": {head},\n "cases": [\n  {lines}\n ]\n}}\n')


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokenize", type=Path, required=True)
    parser.add_argument("--captions", type=Path, default=CAPTIONS)
    parser.add_argument("--golden", type=Path)
    arguments = parser.parse_args()
    good, cases, peers = True, [], None
    for group, texts, kept in groups(arguments.captions):
        with tempfile.TemporaryDirectory() as place:
            place = Path(place)
            (place / "texts.json").write_text(json.dumps(texts))
            subprocess.run([arguments.tokenize, place / "texts.json", place], check=True)
            ours = {name: json.loads((place / f"{name}.json").read_text()) for name in NAMES}
            peers = peers or Peers({name: place / f"{name}.tokenizer.json" for name in NAMES})
        shared = {"open_clip": peers.open_clip(texts), "transformers": peers.transformers(texts)}
        for name, rows in ours.items():
            for peer, expected in {**shared, "file": peers.file(name, texts)}.items():
                good &= compare(group, texts, name, peer, rows, expected)
        if kept:
            for text, first, second in zip(texts, shared["open_clip"], shared["transformers"]):
                case = {"text": text, "open_clip": first}
                cases.append(case if first == second else {**case, "transformers": second})
    if arguments.golden:
        write_golden(arguments.golden, cases)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
