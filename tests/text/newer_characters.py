#!/usr/bin/env python3
"""Prints the table of src/text/newer_characters.cpp: characters that Hugging Face's tokenizers know (Unicode 16)
and the PCRE2 of this system (Unicode 14 in Debian 12) does not, or sees in another class, each range with an old
character of the same general category and the same length in UTF-8.

Needs the package tokenizers: python3 tests/text/newer_characters.py
"""
import ctypes

from tokenizers import Regex, pre_tokenizers

CODE_POINTS = [c for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000]
TEXT = "".join(map(chr, CODE_POINTS))
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf".split()
PCRE2_UTF, PCRE2_UCP, PCRE2_NO_UTF_CHECK = 0x80000, 0x20000, 0x40000000


def known_to_peers(pattern):
    split = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    return {ord(c) for piece, _ in split.pre_tokenize_str(TEXT) for c in piece}


def known_to_pcre2(pattern, library=ctypes.CDLL("libpcre2-8.so.0")):
    library.pcre2_compile_8.restype = library.pcre2_match_data_create_8.restype = ctypes.c_void_p
    library.pcre2_get_ovector_pointer_8.restype = ctypes.POINTER(ctypes.c_size_t)
    error, offset, bytes_of_pattern = ctypes.c_int(), ctypes.c_size_t(), pattern.encode()
    code = library.pcre2_compile_8(bytes_of_pattern, ctypes.c_size_t(len(bytes_of_pattern)), PCRE2_UTF | PCRE2_UCP,
                                   ctypes.byref(error), ctypes.byref(offset), None)
    assert code, f"{pattern}: error {error.value}"
    match = ctypes.c_void_p(library.pcre2_match_data_create_8(1, None))
    span = library.pcre2_get_ovector_pointer_8(match)
    found, text, at = set(), TEXT.encode(), 0
    while library.pcre2_match_8(ctypes.c_void_p(code), text, ctypes.c_size_t(len(text)), ctypes.c_size_t(at),
                                PCRE2_NO_UTF_CHECK, match, None) > 0:
        at = span[1]
        found.update(map(ord, text[span[0]:at].decode()))
    return found


def length(code_point):
    return len(chr(code_point).encode())


def main():
    proxies = {}
    peers_blank, pcre2_blank = known_to_peers(r"\s+"), known_to_pcre2(r"\s+")
    wrong_blanks = peers_blank ^ pcre2_blank
    for category in CATEGORIES:
        pattern = r"\p{%s}+" % category
        peers, pcre2 = known_to_peers(pattern), known_to_pcre2(pattern)
        old = sorted(peers & pcre2 - wrong_blanks, reverse=True)
        first = {length(c): c for c in old}
        for c in sorted(peers - pcre2 | peers & wrong_blanks):
            proxies[c] = first[length(c)]
    ranges = []
    for c in sorted(proxies):
        if ranges and ranges[-1][1] == c - 1 and ranges[-1][2] == proxies[c]:
            ranges[-1][1] = c
        else:
            ranges.append([c, c, proxies[c]])
    line = "   "
    for first, last, proxy in ranges:
        entry = f" {{0x{first:X}, 0x{last:X}, 0x{proxy:X}}},"
        if len(line + entry) > 110:
            print(line)
            line = "   "
        line += entry
    print(line)


if __name__ == "__main__":
    main()
