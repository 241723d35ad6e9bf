#!/usr/bin/env python3
"""Measures what Lockstep's own guarantees cost a whole training step.

    tools/measure_training.py reduction    lockstep reduction against parallel.reduction = "library", 2 workers
    tools/measure_training.py checkpoint   training with a background checkpoint every N steps against training without
    tools/measure_training.py workers      a gpt of GPT-2's form on 2 workers of one thread against 1 worker of two
    tools/measure_training.py activations  what the sweeps of a micro-batch hold, of shipped configurations

Both sides of the first three alternate; the table gives medians over the repeats and their ratio. Needs no package beyond Python itself.
"""
import argparse
import array
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent

MODELS = {
    "mlp 64-128-10, 2 x 32": ("digits_mlp.toml", ["train.micro_batches=2", "train.micro_batch_size=32"], 20000, 2000),
    "cnn, 2 x 32": ("digits_cnn.toml", ["train.micro_batches=2", "train.micro_batch_size=32"], 150, 15),
    "mlp 64-1024-1024-10, 2 x 64": (
        "digits_mlp.toml",
        ["model.hidden=[1024,1024]", "train.micro_batches=2", "train.micro_batch_size=64"],
        300,
        30,
    ),
}


def steps_of_run(lockstep, config, settings, steps, log_every, workers):
    """The lines of metrics.jsonl about steps."""
    with tempfile.TemporaryDirectory() as directory:
        command = [str(lockstep), "train", str(ROOT / "configs" / config), "--output", directory + "/run"]
        overrides = ["train.epochs=0", f"train.steps={steps}", f"train.log_every={log_every}", "train.evaluate_every=0",
                     "checkpoint.every=0"] + settings
        for override in overrides:
            command += ["--set", override]
        if workers > 1:
            command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-np", str(workers)] + command
        environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            sys.exit(f"measure_training: {' '.join(command)} ended with {run.returncode}:\n{run.stderr}")
        lines = [json.loads(line) for line in open(directory + "/run/metrics.jsonl", encoding="utf-8")]
    return [line for line in lines if "samples_per_second" in line]


def train(lockstep, config, settings, steps, log_every, workers):
    """Seconds a step: one figure for each line of the metrics but the first, which holds the warm-up."""
    times = steps_of_run(lockstep, config, settings, steps, log_every, workers)[1:]
    batch = 1.0
    for setting in settings:
        key, value = setting.split("=", 1)
        if key in ("train.micro_batches", "train.micro_batch_size"):
            batch *= int(value)
    return [batch / line["samples_per_second"] for line in times]


def row(name, a, b):
    a, b = statistics.median(a), statistics.median(b)
    print(f"{name:<30} {1e6 * a:>12.1f} {1e6 * b:>12.1f} {a / b:>8.3f}", flush=True)


def measure_reduction(lockstep, repeats):
    print(f"{'whole step, 2 workers':<30} {'lockstep us':>12} {'library us':>12} {'ratio':>8}")
    for name, (config, settings, steps, log_every) in MODELS.items():
        sides = {"lockstep": [], "library": []}
        for _ in range(repeats):
            for mode, figures in sides.items():
                figures.append(statistics.median(
                    train(lockstep, config, settings + [f"parallel.reduction={mode}"], steps, log_every, 2)))
        row(name, sides["lockstep"], sides["library"])


def measure_checkpoint(lockstep, repeats):
    every, steps = 100, 401
    settings = ["model.hidden=[1024,1024]", "train.micro_batches=1", "train.micro_batch_size=256"]
    print(f"{'whole step, 1 worker':<30} {'with us':>12} {'without us':>12} {'ratio':>8}")
    sides = {every: [], 0: []}
    for _ in range(repeats):
        for period, figures in sides.items():
            # The mean, not the median: the cost of a checkpoint falls on few steps.
            figures.append(statistics.mean(
                train(lockstep, "digits_mlp.toml", settings + [f"checkpoint.every={period}"], steps, 50, 1)))
    row(f"checkpoint every {every} steps", sides[every], sides[0])


def measure_workers(lockstep, repeats):
    """GPT-2's depth and form at a third of its width: 14 million parameters in the blocks, a vocabulary of bytes."""
    tokens = array.array("H", (random.Random(1).randrange(256) for _ in range(1 << 16)))
    print(f"{'whole step':<30} {'2 workers us':>12} {'1 worker us':>12} {'ratio':>8}")
    for compute in ("fp32", "bf16"):
        with tempfile.TemporaryDirectory() as directory:
            data = directory + "/tokens.bin"
            with open(data, "wb") as file:
                array.array("i", [20240520, 1, len(tokens), *[0] * 253]).tofile(file)
                tokens.tofile(file)
            settings = [f"data.train={data}", "data.classes=256", "data.context=256", "data.validation_fraction=0.0",
                        "model.layers=12", "model.width=312", "model.heads=12", "train.micro_batches=2",
                        "train.micro_batch_size=2", f"precision.compute={compute}"]  # fmt: skip
            sides = {2: [], 1: []}
            for _ in range(repeats):
                for workers, figures in sides.items():
                    figures.append(statistics.median(train(lockstep, "language/characters.toml",
                                                           settings + [f"device.threads={2 // workers}"], 12, 2, workers)))
        row(f"gpt 12 x 312, 2 x 2 x 256, {compute}", sides[2], sides[1])


def measure_activations(lockstep, _repeats):
    """The same bytes in every run."""
    print("| configuration | fp32 | bf16 |\n|---|---|---|")
    for config in ("digits_cnn", "digits_transformer", "digits_lstm", "digits_sequential", "exploding_gradients_rnn",
                   "digits_logistic", "digits_mlp"):  # fmt: skip
        held = [steps_of_run(lockstep, config + ".toml", [f"precision.compute={compute}"], 2, 1, 1)[-1]["activation_bytes"]
                for compute in ("fp32", "bf16")]  # fmt: skip
        print(f"| {config} | {held[0]:,} | {held[1]:,} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["reduction", "checkpoint", "workers", "activations"])
    parser.add_argument("--lockstep", type=pathlib.Path, default=ROOT / "build/release/bin/lockstep")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    measures = {"reduction": measure_reduction, "checkpoint": measure_checkpoint, "workers": measure_workers,
                "activations": measure_activations}  # fmt: skip
    measures[arguments.what](arguments.lockstep.resolve(), arguments.repeats)


if __name__ == "__main__":
    main()
