#!/usr/bin/env python3
"""A second program of the definition of data/permutation.h; prints the orders that permutation_test.cpp pins."""
import math

MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15


def mix64(x):
    x = (x + GAMMA) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def philox(key, c):
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & 0xFFFFFFFF, (p0 >> 32) ^ c[3] ^ k1, p0 & 0xFFFFFFFF]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


def permutation(seed, stream, n, purpose=2):
    mixed = mix64(mix64(seed) ^ purpose)
    key = (mixed & 0xFFFFFFFF, mixed >> 32)
    lines = math.isqrt(n - 1) + 1
    lines += lines % 2
    columns = -(-n // lines)
    keys = []
    for i in range(0, 24 if n < 64 else 10, 2):
        r = philox(key, [i, 0, stream & 0xFFFFFFFF, (stream >> 32) & 0xFFFFFFFF])
        keys += [(r[0] << 32) | r[1], (r[2] << 32) | r[3]]

    def row(position):
        while True:
            line, column = divmod(position, columns)
            for i in range(0, len(keys), 2):
                line = (line + (mix64((keys[i] + column * GAMMA) & MASK) * lines >> 64)) % lines
                column = (column + (mix64((keys[i + 1] + line * GAMMA) & MASK) * columns >> 64)) % columns
            position = line * columns + column
            if position < n:
                return position

    return row


if __name__ == "__main__":
    print([permutation(1, 0, 12)(i) for i in range(12)])
    print([permutation(1, (1 << 33) + 1, 12)(i) for i in range(12)])
    print([permutation(7, 3, 1 << 40)(i) for i in (0, 1, 123456789012)])
