#!/usr/bin/env python3
"""Writes files/: small vocabularies, texts and the ids that Hugging Face's tokenizers and tiktoken give them.

Needs the packages tokenizers and tiktoken: python3 tests/text/make_files.py
"""
import base64
import json
import pathlib

import tiktoken
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from generated_text import FIXED, generated

FOLDER = pathlib.Path(__file__).parent / "files"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TIKTOKEN = {
    "gpt2": r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s""",
    "cl100k": r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s""",
    "o200k": "|".join([
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""\p{N}{1,3}""", r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""", r"""\s*[\r\n]+""", r"""\s+(?!\S)""", r"""\s+"""]),
    "llama3": LLAMA3,
    "qwen2": QWEN2,
}


def training_text():
    english = ["the quick brown fox jumps over the lazy dog", "it's what we're here for, isn't it?", "in the beginning",
               "and they said unto him", "return self.value", "    if x == 0:\n        return\n", "12 345 2024 2025 1999"]
    return english * 40 + FIXED * 8 + [generated(2000, 7)]


def hugging_face(name):
    tokenizer = Tokenizer(models.BPE(ignore_merges=name == "llama3"))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name == "gpt2")
    pattern = {"llama3": LLAMA3, "qwen2": QWEN2}.get(name)
    tokenizer.pre_tokenizer = byte_level if pattern is None else pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(vocab_size=480, special_tokens=["<|endoftext|>"] if name == "gpt2" else [],
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    tokenizer.train_from_iterator(training_text(), trainer)
    if name != "gpt2":
        tokenizer.add_special_tokens(["<|begin_of_text|>", AddedToken("<|endoftext|>", normalized=False)])
        tokenizer.add_tokens([AddedToken("<keep>", normalized=True), AddedToken("<|keep|>", normalized=False)])
    if name == "llama3":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|begin_of_text|> $A", pair="$A $B",
            special_tokens=[("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))])
    return tokenizer


def main():
    FOLDER.mkdir(exist_ok=True)
    texts = FIXED + [generated(300, seed) for seed in range(100, 112)]
    expected = {}
    for name in ("gpt2", "llama3", "qwen2"):
        tokenizer = hugging_face(name)
        path = FOLDER / f"{name}.json"
        tokenizer.save(str(path), pretty=False)
        tokenizer = Tokenizer.from_file(str(path))
        expected[f"{name}.json"] = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        tokenizer.encode_special_tokens = True
        expected[f"{name}.json, special as text"] = [tokenizer.encode(text, add_special_tokens=False).ids
                                                      for text in texts]
    # GPT-2's pair of files, out of the same vocabulary; the old spelling of merges in tokenizer.json.
    stored = json.loads((FOLDER / "gpt2.json").read_text(encoding="utf-8"))
    merges = [" ".join(merge) for merge in stored["model"]["merges"]]
    (FOLDER / "vocab.bpe").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
    (FOLDER / "encoder.json").write_text(json.dumps(stored["model"]["vocab"]), encoding="utf-8")
    # .tiktoken: ranks are ids, bytes first.
    letters = {letter: byte for byte, letter in byte_letters().items()}
    ranks = {bytes([byte]): byte for byte in range(256)}
    for merge in stored["model"]["merges"]:
        token = bytes(letters[letter] for letter in "".join(merge))
        ranks.setdefault(token, len(ranks))
    (FOLDER / "small.tiktoken").write_text(
        "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()), encoding="ascii")
    for name, pattern in TIKTOKEN.items():
        encoding = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        expected[f"small.tiktoken, {name}"] = [encoding.encode_ordinary(text) for text in texts]
    (FOLDER / "expected.json").write_text(json.dumps({"texts": texts, "ids": expected, "training": training_text()}), encoding="ascii")


def byte_letters():
    """GPT-2's alphabet."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in plain}
    for byte in range(256):
        if byte not in letters:
            letters[byte] = chr(256 + len(letters) - len(plain))
    return letters


if __name__ == "__main__":
    main()
