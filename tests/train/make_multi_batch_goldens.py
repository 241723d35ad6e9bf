#!/usr/bin/env python3
"""Writes goldens/multi_batch.json: paths of multi-batch L-BFGS over softmax regression on pooled digits, in fp64.

Needs numpy, scipy and scikit-learn; run it in this folder. Algorithm 1 of Berahas, Nocedal and Takáč (2016, arXiv
1605.06049) as the paper writes it: the next batch is drawn before the curvature pair is made, and the gradients over
what the two share are computed by themselves. The digits are those of goldens/minimizers.json, in the order of the file.
"""
import json

import numpy as np

from make_minimizer_goldens import L2, Line, Softmax, armijo, cautious

SIZE, MICRO_BATCHES = 6, 5


def batches(samples, overlap, pad):
    """Rows of S_0, S_1, ... and of their O: pieces of the epochs, each with the beginning of the next behind it."""
    stride = (MICRO_BATCHES - overlap) * SIZE
    whole = samples // stride * stride
    epoch = list(range(samples)) + [None] * (-samples % stride) if pad else list(range(whole))
    k = 0
    while True:
        rows = [epoch[i % len(epoch)] for i in range(k * stride, k * stride + MICRO_BATCHES * SIZE)]
        counted = lambda rows: [r for r in rows if r is not None]
        yield counted(rows), counted(rows[stride:])
        k += 1


def direction(g, pairs):
    """Algorithm 7.4 of Nocedal and Wright (2006), by the dense matrix that its recursion stands for."""
    if not pairs:
        return -g
    s, y = pairs[-1]
    h = np.eye(len(g)) * (y @ s) / (y @ y)
    for s, y in pairs:
        v = np.eye(len(g)) - np.outer(s, y) / (y @ s)
        h = v @ h @ v.T + np.outer(s, s) / (y @ s)
    return -h @ g


def multi_batch_lbfgs(x, y, steps, overlap, history, rate=None, pad=False, pair="damp", least=1e-2, classes=10):
    part = lambda rows: Softmax(x[rows], y[rows], classes)
    stream = batches(len(x), overlap, pad)
    batch, shared = next(stream)
    w, pairs, few = np.zeros((x.shape[1] + 1) * classes), [], 0
    for _ in range(steps):
        f = part(batch)
        g = f.gradient(w)
        d = direction(g, pairs)
        first = 1.0 if pairs else cautious(d)
        a = rate * first if rate else armijo(Line(f, w, d), first)
        new = w + a * d
        yield f.value(w), f.value(new), new
        batch, next_shared = next(stream)
        # What an overlap of 0 means here: the same batch at both ends.
        over = part(shared) if shared else f
        s, c = new - w, over.gradient(new) - over.gradient(w)
        shared, w = next_shared, new
        # B s = -a g. Before the first pair nothing is known of B.
        bs = -a * g
        if pairs and c @ s < least * (s @ bs):
            few += 1
            if pair == "reject":
                continue
            theta = (1 - least) * (s @ bs) / (s @ bs - c @ s)
            c = theta * c + (1 - theta) * bs
        assert c @ s > 0
        pairs = (pairs + [(s, c)])[-history:]
    print(f"overlap {overlap}, {pair}: {few} of {steps} pairs have too little curvature")
    assert (few > 0) == (least > 0.1)


def main():
    with open("goldens/minimizers.json") as file:
        data = json.load(file)
    y = np.array(data["labels"])
    x = np.array(data["inputs"]).reshape(len(y), -1) / data["divisor"]
    cases = {
        "rate = 0.5\n": dict(overlap=0, rate=0.5, pad=True),
        "overlap = 2\nrate = 0.5\n": dict(overlap=2, rate=0.5),
        # Three samples of the last piece are left.
        "overlap = 2\n": dict(overlap=2, pad=True, samples=111),
        "overlap = 1\n": dict(overlap=1),
        "overlap = 1\nrate = 0.8\nleast_curvature = 0.5\n": dict(overlap=1, rate=0.8, least=0.5, pad=True),
        'overlap = 1\nrate = 0.8\nleast_curvature = 0.5\npair = "reject"\n': dict(
            overlap=1, rate=0.8, least=0.5, pair="reject"),
    }
    result = []
    for keys, options in cases.items():
        n = options.pop("samples", len(x))
        path = list(multi_batch_lbfgs(x[:n], y[:n], 20, history=5, **options))
        print(keys.replace("\n", "; "), path[0][0], path[-1][1])
        result.append({
            "keys": "history = 5\n" + keys,
            "samples": n,
            "micro_batches": MICRO_BATCHES,
            "micro_batch_size": SIZE,
            "pad": options.get("pad", False),
            "looks": "rate" not in options or options["overlap"] == 0,
            "losses": [float(p[0]) for p in path],
            "losses_after": [float(p[1]) for p in path],
            "end": [float(v) for v in path[-1][2]],
        })
    with open("goldens/multi_batch.json", "w") as file:
        json.dump(result, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
