#!/usr/bin/env python3
"""Compares the tokens that `lockstep tokenize` writes with those of Hugging Face's tokenizers and tiktoken, on text of
every script; times all three on one thread when asked to.

compare_with_peers.py [--megabytes N] [--times] LOCKSTEP [VOCABULARY...]

A vocabulary is a tokenizer.json, or PATTERN:FILE.tiktoken; without any, those of files/ and one that
`lockstep tokenizer train` makes. Exit 77 where one of the packages tokenizers, tiktoken, h5py and numpy is missing.
"""
import argparse
import base64
import json
import pathlib
import subprocess
import sys
import tempfile
import time

try:
    import h5py
    import numpy
    import tiktoken
    from tokenizers import Tokenizer
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

from generated_text import FIXED, generated
from make_files import TIKTOKEN

HERE = pathlib.Path(__file__).parent


def documents(megabytes):
    found = list(FIXED)
    size, seed = 0, 1
    while size < megabytes * 1e6:
        text = generated(20000, seed)
        if seed % 5 == 0:  # plain English weighs most in what people have
            text = "".join(c if c.isascii() else " the" for c in text)
        if seed % 17 == 0:
            text += " " * 30000 + "\n" * 3000 + "word"
        found.append(text)
        size += len(text.encode())
        seed += 1
    return found


def peer(name):
    """Encodes a text as the peer does, special tokens as text."""
    if ":" in name:
        pattern, path = name.split(":", 1)
        ranks = {}
        for line in pathlib.Path(path).read_bytes().splitlines():
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)
        encoding = tiktoken.Encoding(name, pat_str=TIKTOKEN[pattern], mergeable_ranks=ranks, special_tokens={})
        return encoding.encode_ordinary
    tokenizer = Tokenizer.from_file(name)
    tokenizer.encode_special_tokens = True
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def first_difference(ours, theirs):
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    return f"token {at}: {ours[at:at + 6]} instead of {theirs[at:at + 6]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lockstep")
    parser.add_argument("vocabularies", nargs="*")
    parser.add_argument("--megabytes", type=float, default=1)
    parser.add_argument("--times", action="store_true")
    arguments = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory() as scratch:
        corpus, output = f"{scratch}/corpus.jsonl", f"{scratch}/tokens.h5"
        texts = documents(arguments.megabytes)
        with open(corpus, "w", encoding="utf-8") as file:
            for text in texts:
                file.write(json.dumps({"text": text}) + "\n")
        vocabularies = arguments.vocabularies
        if not vocabularies:
            made = f"{scratch}/tokenizer.json"
            subprocess.run([arguments.lockstep, "tokenizer", "train", corpus, "--vocabulary-size", "2000", "--output",
                            made], check=True)
            vocabularies = [str(HERE / "files" / name) for name in ("gpt2.json", "llama3.json", "qwen2.json")]
            vocabularies += [f"{pattern}:{HERE}/files/small.tiktoken" for pattern in TIKTOKEN] + [made]
        for name in vocabularies:
            command = [arguments.lockstep, "tokenize", corpus, "--output", output, "--begin", "none", "--end", "none",
                       "--threads", "1", "--tokenizer", name.split(":", 1)[-1]]
            if ":" in name:
                command += ["--pattern", name.split(":", 1)[0]]
            start = time.perf_counter()
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            own_seconds = time.perf_counter() - start
            encode = peer(name)
            with h5py.File(output) as file:
                tokens, begins = numpy.array(file["tokens"]), numpy.array(file["documents"], dtype=numpy.int64)
            different, peer_seconds = [], 0.0
            for i, text in enumerate(texts):
                start = time.perf_counter()
                theirs = encode(text)
                peer_seconds += time.perf_counter() - start
                ours = tokens[begins[i]:begins[i + 1]].tolist()
                if ours != theirs:
                    different.append(f"document {i}: {first_difference(ours, theirs)}")
            times = f", the peer takes {peer_seconds / own_seconds:.1f} times as long" if arguments.times else ""
            print(f"{name}: {len(tokens)} tokens, {len(texts)} documents: "
                  f"{'equal' if not different else 'DIFFERENT in ' + str(len(different))}{times}", flush=True)
            print("".join(f"  {line}\n" for line in different[:3]), end="")
            failures += len(different) > 0
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
