#!/usr/bin/env python3
"""Makes `clip/assets/openai_merges.bin` and `clip/assets/html_entities.txt`.

    python3 scripts/tokenizer/assets.py bpe_simple_vocab_16e6.txt.gz [--check]

The first out of the file of OpenAI's CLIP, which open_clip ships too: both halves of each merge as
ids (little-endian u16), in the order in which they apply. The second out of Python's
`html.entities`: each name of the HTML Standard and its code points. With `--check` compares what is
there instead.
"""

import gzip
import hashlib
import struct
import sys
from html.entities import html5
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[2] / "clip/assets"
SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
MERGES = 49152 - 256 - 2
PRINTABLE = [*range(0x21, 0x7f), *range(0xa1, 0xad), *range(0xae, 0x100)]


def alphabet():
    """GPT-2's characters for bytes: printable ones first."""
    others = 256 - len(PRINTABLE)
    return [chr(byte) for byte in PRINTABLE] + [chr(0x100 + n) for n in range(others)]


def merges(packed):
    if hashlib.sha256(packed).hexdigest() != SHA256:
        sys.exit("error: not the `bpe_simple_vocab_16e6.txt.gz` of OpenAI's CLIP")
    lines = gzip.decompress(packed).decode().split("\n")[1:1 + MERGES]
    tokens = alphabet()
    ids = {token: id for id, token in enumerate(tokens + [f"{token}</w>" for token in tokens])}
    out = bytearray()
    for left, right in map(str.split, lines):
        out += struct.pack("<HH", ids[left], ids[right])
        ids[left + right] = len(ids)
    assert len(ids) == 512 + MERGES, "no token is learnt twice"
    return bytes(out)


def entities():
    lines = (f"{name} {' '.join(f'{ord(c):X}' for c in text)}\n" for name, text in html5.items())
    return "".join(sorted(lines)).encode()


def main():
    source, *options = sys.argv[1:] or sys.exit(__doc__)
    made = {
        "openai_merges.bin": merges(Path(source).read_bytes()),
        "html_entities.txt": entities(),
    }
    for name, content in made.items():
        if options != ["--check"]:
            (ASSETS / name).write_bytes(content)
        elif (ASSETS / name).read_bytes() != content:
            sys.exit(f"error: `{ASSETS / name}` is not what this script makes")


main()
