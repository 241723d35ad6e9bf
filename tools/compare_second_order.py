#!/usr/bin/env python3
"""Measures what second-order methods cost and what they are worth, beside AdamW and beside peers.

    tools/compare_second_order.py overhead   seconds of a step: Shampoo, SOAP and K-FAC beside AdamW
    tools/compare_second_order.py steps      steps and seconds to the loss where AdamW ends, each at its best learning rate
    tools/compare_second_order.py lbfgs      softmax regression of MNIST's size by L-BFGS beside scikit-learn and PyTorch
    tools/compare_second_order.py products   Hessian and Gauss-Newton products beside the gradient, on one and on two workers

overhead and products: all sides take turns, the table shows medians and ratios of medians. steps: every method gets as many steps
as AdamW and as many learning rates; losses are those of the training batches, in running means over a twentieth of the run, and the
goal is AdamW's last, counted from where AdamW itself first reaches it.
lbfgs: --python names an interpreter that has numpy, scikit-learn and torch; what it lacks is left out and said so.
--set adds settings for Lockstep: tools/compare_second_order.py overhead --set device.threads=1
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from compare_pytorch import read_metrics

ROOT = pathlib.Path(__file__).resolve().parent.parent
CNN = ROOT / "configs" / "digits_cnn.toml"
TEXT = ROOT / "configs" / "king_james.toml"
# Of ten million parameters: what a step costs does not depend on what it reads.
TEN_MILLION = ["model.layers=12", "model.width=264", "model.heads=6", "train.micro_batches=2", "train.micro_batch_size=4"]

# What a method needs beside its name.
METHODS = {
    "adamw": [],
    "shampoo": [],
    "soap": [],
    "kfac": ["optimizer.weight_decay=0", "optimizer.adamw_learning_rate_factor=0.03"],
}
# Learning rates to try, as factors of the method's own first guess.
FIRST_RATE = {"adamw": 0.003, "shampoo": 0.003, "soap": 0.003, "kfac": 0.1}


def fail(message):
    sys.exit("compare_second_order: " + message)


def run(command):
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    result = subprocess.run([str(word) for word in command], cwd=ROOT, env=environment, capture_output=True, text=True)
    if result.returncode != 0:
        fail(f"{' '.join(map(str, command))} ended with {result.returncode}:\n{result.stderr}")
    return result.stdout


def train(arguments, config, settings, directory):
    """The records of metrics.jsonl that are of training steps, and how long the run took."""
    output = os.path.join(directory, "run")
    words = [word for setting in settings + arguments.set for word in ("--set", setting)]
    begin = time.monotonic()
    run([arguments.lockstep, "train", config, "--output", output, "--overwrite", *words])
    return [r for r in read_metrics(os.path.join(output, "metrics.jsonl")) if "learning_rate" in r], time.monotonic() - begin


def of_method(method, config):
    settings = [f"optimizer.type={method}"] + METHODS[method]
    if config == TEXT and method != "adamw":  # a side of the embedding is the vocabulary
        settings.append('optimizer.adamw=["tokens*"]')
    return settings + (["clip.global_norm=0"] if method == "kfac" else [])


def of_config(arguments, config, directory):
    """What a configuration needs before it can run: the tokens of the text."""
    if config != TEXT:
        return []
    tokens = os.path.join(directory, "king_james.tokens.h5")
    run([arguments.lockstep, "tokenize", ROOT / "configs/data/king_james.txt.zst", "--tokenizer", "bytes", "--output", tokens])
    return [f"data.train={tokens}"]


def overhead(arguments, directory):
    rows = {"digits CNN, batch 64": (CNN, [], 500), "gpt, 10 million parameters, 8 x 256": (TEXT, TEN_MILLION, 200)}
    print("| median of whole periods of their work | AdamW | Shampoo | SOAP | K-FAC |\n|---|---|---|---|---|")
    for name, (config, settings, steps) in rows.items():
        if arguments.only and arguments.only not in name:
            continue
        settings = of_config(arguments, config, directory) + settings
        # A line a hundred steps: a period of all that a method does now and then. The first is not counted.
        common = ["train.epochs=0", f"train.steps={steps}", "train.log_every=100", "train.evaluate_every=0", "checkpoint.every=0"]
        seconds = {method: [] for method in METHODS}
        for _ in range(arguments.repeats):
            for method, times in seconds.items():
                records, _ = train(arguments, config, settings + common + of_method(method, config), directory)
                times += [1.0 / record["samples_per_second"] for record in records[1:]]
        medians = {method: statistics.median(times) for method, times in seconds.items()}
        cells = [f"{medians[m] / medians['adamw']:.3f}" for m in METHODS if m != "adamw"]
        print(f"| {name} | 1 | {' | '.join(cells)} |", flush=True)


def first_below(records, loss, width):
    """The step at which the mean loss of the last `width` records is first at most `loss`; None where it never is."""
    losses = [record["loss"] for record in records]
    for i in range(width, len(losses) + 1):
        if sum(losses[i - width : i]) / width <= loss:
            return records[i - 1]["step"]
    return None


def steps(arguments, directory):
    rows = {"digits CNN": (CNN, ["train.epochs=0", f"train.steps={arguments.steps or 264}"]),
            "characters": (TEXT, [f"train.steps={arguments.steps or 600}", "schedule.warmup=30_000"])}  # fmt: skip
    for name, (config, settings) in rows.items():
        if arguments.only and arguments.only not in name:
            continue
        settings = of_config(arguments, config, directory) + settings
        settings += ["train.log_every=1", "train.evaluate_every=0", "checkpoint.every=0"]
        found = {}
        for method in METHODS:
            for factor in arguments.factors:
                rate = FIRST_RATE[method] * factor
                records, seconds = train(
                    arguments, config, settings + of_method(method, config) + [f"optimizer.learning_rate={rate}"], directory)
                width = max(1, len(records) // 20)
                last = sum(record["loss"] for record in records[-width:]) / width
                print(f"  {name}, {method}, learning rate {rate:g}: {last:.4f}", file=sys.stderr, flush=True)
                if method not in found or last < found[method][0]:
                    found[method] = (last, rate, records, seconds, width)
        goal = found["adamw"][0]
        print(f"\n| {name}, {len(found['adamw'][2])} steps | learning rate | loss at the end | steps to AdamW's {goal:.4f} "
              "| of AdamW's | seconds, of AdamW's |\n|---|---|---|---|---|---|")  # fmt: skip
        for method, (last, rate, records, seconds, width) in found.items():
            at = first_below(records, goal, width)
            if at is None:
                print(f"| {method} | {rate:g} | {last:.4f} | not reached | | |", flush=True)
                continue
            share = at / first_below(found["adamw"][2], goal, width)
            in_time = share * seconds / found["adamw"][3]
            print(f"| {method} | {rate:g} | {last:.4f} | {at} | {share:.2f} | {in_time:.2f} |", flush=True)


# ---- softmax regression ------------------------------------------------------------------------------------------------

# Images of ten classes, of MNIST's size: a picture a class under noise. The objective is the mean cross-entropy alone, which all
# three have in common. The goal is a loss, so that stopping rules do not matter.
SAMPLES, SIDE, CLASSES = 60000, 28, 10
MAKE_IMAGES = """
import numpy, struct, sys
generator = numpy.random.default_rng(1)
n, side, classes = map(int, sys.argv[2:])
labels = generator.integers(0, classes, n)
images = 40 * generator.random((classes, side * side))[labels] + 215 * generator.random((n, side * side), dtype=numpy.float32)
with open(sys.argv[1] + "/images-idx3-ubyte", "wb") as file:
    file.write(struct.pack(">IIII", 0x803, n, side, side) + images.astype(numpy.uint8).tobytes())
with open(sys.argv[1] + "/labels-idx1-ubyte", "wb") as file:
    file.write(struct.pack(">II", 0x801, n) + labels.astype(numpy.uint8).tobytes())
"""
READ_IMAGES = """
import json, numpy, sys, time
directory, threads, goal = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
begin = time.monotonic()
y = numpy.fromfile(directory + "/labels-idx1-ubyte", numpy.uint8)[8:].astype(numpy.int64)
x = numpy.fromfile(directory + "/images-idx3-ubyte", numpy.uint8)[16:].reshape(len(y), -1).astype(numpy.float32) / 255
reading = time.monotonic() - begin
"""
# The fewest iterations to the goal are searched for; the time is that of a fit of so many.
SCIKIT_LEARN = READ_IMAGES + """
import sklearn, warnings
from sklearn.linear_model import LogisticRegression
warnings.simplefilter("ignore")
def fit(iterations):
    begin = time.monotonic()
    model = LogisticRegression(C=numpy.inf, tol=0, max_iter=iterations).fit(x, y)
    seconds = time.monotonic() - begin
    scores = x.astype(numpy.float64) @ model.coef_.T + model.intercept_
    top = scores.max(1)
    loss = numpy.mean(numpy.log(numpy.exp(scores - top[:, None]).sum(1)) + top - scores[numpy.arange(len(y)), y])
    return seconds, float(loss)
low, high = 0, 8
while fit(high)[1] > goal:
    low, high = high, 2 * high
    if high > 4096: sys.exit("scikit-learn does not reach the goal")
while high - low > 1:
    middle = (low + high) // 2
    low, high = (low, middle) if fit(middle)[1] <= goal else (middle, high)
times = sorted(fit(high) for _ in range(3))
print(json.dumps({"version": sklearn.__version__, "seconds": times[1][0], "loss": times[1][1], "iterations": high,
                  "reading": reading}))
"""
PYTORCH = READ_IMAGES + """
import torch
torch.set_num_threads(threads)
x, y = torch.from_numpy(x), torch.from_numpy(y)
class Reached(Exception): pass
def fit():
    model = torch.nn.Linear(x.shape[1], int(y.max()) + 1)
    torch.nn.init.zeros_(model.weight)
    torch.nn.init.zeros_(model.bias)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4096, max_eval=8192, history_size=10, tolerance_grad=0,
                                  tolerance_change=0, line_search_fn="strong_wolfe")
    losses = []
    def evaluate():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        losses.append(loss.item())
        if losses[-1] <= goal: raise Reached
        return loss
    begin = time.monotonic()
    try:
        optimizer.step(evaluate)
        sys.exit("PyTorch does not reach the goal")
    except Reached:
        return time.monotonic() - begin, losses[-1], len(losses)
times = sorted(fit() for _ in range(3))
print(json.dumps({"version": torch.__version__, "seconds": times[1][0], "loss": times[1][1], "evaluations": times[1][2],
                  "reading": reading}))
"""
SOFTMAX = """
[run]
name = "softmax"
[data]
train = "{directory}/images-idx3-ubyte"
[model]
type = "logistic"
[train]
steps = 400
micro_batch_size = {micro_batch_size}
log_every = 1
evaluate_every = 0
[optimizer]
type = "lbfgs"
tolerance = 0.0
[checkpoint]
every = 0
[device]
type = "cpu"
threads = {threads}
"""


def descend(arguments, config, directory):
    """The records of a run, and the seconds from the data in memory until the end of each."""
    output = os.path.join(directory, "run")
    run([arguments.lockstep, "train", config, "--output", output, "--overwrite",
         *(word for setting in arguments.set for word in ("--set", setting))])  # fmt: skip
    records = [record for record in read_metrics(os.path.join(output, "metrics.jsonl")) if "loss_after" in record]
    seconds = [0.0]
    for record in records:
        seconds.append(seconds[-1] + SAMPLES / record["samples_per_second"] - record["data_seconds"])
    return records, seconds[1:]


def lbfgs(arguments, directory):
    if subprocess.run([arguments.python, "-c", "import numpy"], capture_output=True).returncode != 0:
        print(f"compare_second_order: {arguments.python} has no numpy", file=sys.stderr)
        sys.exit(77)
    run([arguments.python, "-c", MAKE_IMAGES, directory, SAMPLES, SIDE, CLASSES])
    config = os.path.join(directory, "softmax.toml")
    pathlib.Path(config).write_text(SOFTMAX.format(directory=directory, threads=arguments.threads, micro_batch_size=1000))
    records, _ = descend(arguments, config, directory)
    start, best = records[0]["loss"], min(record["loss_after"] for record in records)
    goal = best + arguments.gap * (start - best)
    runs = []
    for _ in range(3):
        records, seconds = descend(arguments, config, directory)
        at = next(i for i, record in enumerate(records) if record["loss_after"] <= goal)
        evaluations = sum(record["gradients"] for record in records[: at + 1])
        runs.append((seconds[at], at + 1, evaluations))
    seconds, iterations, evaluations = sorted(runs)[1]
    print(f"{SAMPLES} x {SIDE * SIDE}, {CLASSES} classes, {arguments.threads} threads, "
          f"from {start:.4f} to {goal:.6f} (the best is {best:.6f})\n")  # fmt: skip
    print("| | seconds | of Lockstep's | iterations | evaluations | reading the data before |\n|---|---|---|---|---|---|")
    print(f"| Lockstep | {seconds:.3f} | 1 | {iterations} | {evaluations} | {records[0]['data_seconds']:.2f} |", flush=True)
    for package, name, program in (("sklearn", "scikit-learn", SCIKIT_LEARN), ("torch", "PyTorch", PYTORCH)):
        if subprocess.run([arguments.python, "-c", f"import {package}"], capture_output=True).returncode != 0:
            print(f"| {name} is not there | | | | | |")
            continue
        for name_of_threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name_of_threads] = str(arguments.threads)
        theirs = json.loads(run([arguments.python, "-c", program, directory, arguments.threads, goal]))
        counts = f"{theirs.get('iterations', '')} | {theirs.get('evaluations', '')} | {theirs['reading']:.2f}"
        ratio = theirs["seconds"] / seconds
        print(f"| {name} {theirs['version']} | {theirs['seconds']:.3f} | {ratio:.2f} | {counts} |", flush=True)


def products(arguments, directory):
    tool = arguments.lockstep.parent / "curvature_benchmark"
    rows = {"digits CNN, 1024 samples": (CNN, 1024, []),
            "gpt, 10 million parameters, 8 x 256": (TEXT, 8, TEN_MILLION)}  # fmt: skip
    print("| | gradient, 1 worker of 1 thread | Hessian product, the first; a further one | Gauss-Newton | further Hessian, 2 workers |\n"
          "|---|---|---|---|---|")
    for name, (config, samples, settings) in rows.items():
        if arguments.only and arguments.only not in name:
            continue
        settings = of_config(arguments, config, directory) + settings + ["device.threads=1", "train.evaluate_every=0"]
        one_step = ["train.epochs=0", "train.steps=1", "schedule.warmup=0"]
        train(arguments, config, settings + one_step, directory)
        checkpoint = os.path.join(directory, "run", "step-000000001.h5")
        found = {1: [], 2: []}
        for _ in range(arguments.repeats):
            for workers, figures in found.items():
                launcher = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", workers] if workers > 1 else []
                figures.append(json.loads(run([*launcher, tool, config, checkpoint, samples, *settings, *arguments.set])))
        sides = ("gradient", "first_hessian", "hessian", "first_gauss_newton", "gauss_newton")
        one, two = ({key: statistics.median(f[key] for f in found[workers]) for key in sides} for workers in found)
        times = [f"{one['first_' + side] / one['gradient']:.2f}; {one[side] / one['gradient']:.2f} x"
                 for side in ("hessian", "gauss_newton")]  # fmt: skip
        cells = [f"{one['gradient']:.4f} s", *times, f"{one['hessian'] / two['hessian']:.2f} times as fast"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measures = {"overhead": overhead, "steps": steps, "lbfgs": lbfgs, "products": products}
    parser.add_argument("what", choices=list(measures))
    parser.add_argument("--lockstep", type=pathlib.Path, default=ROOT / "build/release/bin/lockstep")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has numpy, scikit-learn and torch")
    parser.add_argument("--repeats", type=int, default=3, help="of overhead and products")
    parser.add_argument("--threads", type=int, default=2, help="of lbfgs")
    parser.add_argument("--gap", type=float, default=1e-4, help="lbfgs: share of the way to the best loss that is left at the goal")
    parser.add_argument("--steps", type=int, help="steps: of a run")
    parser.add_argument("--factors", type=float, nargs="+", default=[0.3, 1.0, 3.0], help="steps: on each first learning rate")
    parser.add_argument("--only", help="rows with this in their name")
    parser.add_argument("--set", nargs="+", default=[], help="settings for Lockstep")
    arguments = parser.parse_args()
    arguments.lockstep = arguments.lockstep.resolve()
    with tempfile.TemporaryDirectory() as directory:
        measures[arguments.what](arguments, directory)


if __name__ == "__main__":
    main()
