#!/usr/bin/env python3
"""Prints the table of src/text/normalization.cpp: characters that the normalizer of Hugging Face's tokenizers (Unicode
9) leaves as they are, and does not move, where Unicode 16 decomposes or reorders them.

Needs the packages tokenizers and unicodedata2 (16): python3 tests/text/unknown_to_normalizers.py
"""
import unicodedata2
from tokenizers import normalizers

NFD, NFKD = normalizers.NFD(), normalizers.NFKD()
MARKS = [chr(c) for c in (0x334, 0x323, 0x301, 0x345)]


def differs(character):
    if unicodedata2.combining(character):
        texts = [f"a{first}{second}" for mark in MARKS for first, second in ((mark, character), (character, mark))]
        if any(NFD.normalize_str(text) != unicodedata2.normalize("NFD", text) for text in texts):
            return True
    return bool(unicodedata2.decomposition(character)) and (
        NFKD.normalize_str(character) != unicodedata2.normalize("NFKD", character))


def main():
    ranges = []
    for c in range(0x80, 0x110000):
        if 0xD800 <= c < 0xE000 or not differs(chr(c)):
            continue
        if ranges and ranges[-1][1] == c - 1:
            ranges[-1][1] = c
        else:
            ranges.append([c, c])
    line = "   "
    for first, last in ranges:
        entry = f" {{0x{first:X}, 0x{last:X}}},"
        if len(line + entry) > 110:
            print(line)
            line = "   "
        line += entry
    print(line)


if __name__ == "__main__":
    main()
