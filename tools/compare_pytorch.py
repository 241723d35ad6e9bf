#!/usr/bin/env python3
"""Compares training speed with PyTorch in eager mode: same model, data, optimizer and batch, alternating runs.

    tools/compare_pytorch.py --lockstep build/release/bin/lockstep --python PYTHON_WITH_TORCH

Rows: steps a second of a small and a wide MLP and a residual CNN, in fp32 and bf16 (PyTorch: autocast), and of recurrent layers
(rnn, lstm, gru, over 8 steps of 8 pixels or 64 of one) on the digits data set, and the time from process start to the first
finished step. PyTorch is written the way a practised user would for a small data set on a CPU: everything preloaded, one
shuffle an epoch, gradients set to None, and the fastest of its fused and foreach optimizers and of its two memory formats. Its
figure is the best variant's. PYTHON_WITH_TORCH needs torch, numpy and h5py; this script itself needs nothing.

With --device cuda both train on the first GPU: Lockstep with its steps recorded as CUDA graphs, PyTorch with its data set on the
device. h5py is not needed then (random samples of the same shapes take its place, which are as fast). Exit status 77 where PyTorch
or its GPU is missing. --rehearse has PyTorch on the CPU, for a Lockstep over stand-ins for CUDA.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DIGITS = os.path.join(REPOSITORY, "configs", "data", "digits.h5")

COMMON_TOML = """
[run]
name = "compare"
seed = 1

[data]
train = "{data}"
shuffle = true
last_batch = "drop"

[train]
steps = 1
micro_batches = 1
micro_batch_size = {batch}

[optimizer]
type = "adam"
learning_rate = 1e-3

[device]
type = "{device}"
"""

WORKLOADS = {
    "mlp": {
        "title": "digits MLP 64-128-10, batch 32, fp32, Adam",
        "batch": 32,
        "steps": 60000,
        "model": '[model]\ntype = "mlp"\nhidden = [128]\nactivation = "relu"\n',
    },
    "cnn": {
        "title": "digits CNN 16-32-64 residual, batch 64, fp32, Adam",
        "batch": 64,
        "steps": 2000,
        "model": '[model]\ntype = "cnn"\nchannels = [16, 32, 64]\nstrides = [1, 2, 2]\nblocks = 1\n',
    },
}
WIDE = {
    "batch": 256,
    "steps": 8,
    "model": '[model]\ntype = "mlp"\nhidden = [2048, 2048, 2048]\nactivation = "relu"\n',
}
WORKLOADS["wide"] = WIDE | {"title": "MLP 64-2048-2048-2048-10, batch 256, fp32, Adam"}
WORKLOADS["wide-bf16"] = WIDE | {"title": "MLP 64-2048-2048-2048-10, batch 256, bf16, Adam", "bf16": True}
for name in ("mlp", "cnn"):
    title = WORKLOADS[name]["title"].replace("fp32", "bf16")
    WORKLOADS[f"{name}-bf16"] = WORKLOADS[name] | {"title": title, "bf16": True}
for cell in ("rnn", "lstm", "gru"):
    for length in (8, 64):
        WORKLOADS[f"{cell}-{length}"] = {
            "cell": (cell, length),
            "title": f"digits {cell.upper()} of 64 units over {length} steps, batch 32, fp32, Adam",
            "batch": 32,
            "steps": 24000 // length,
            "model": '[model]\ntype = "sequential"\n'
            f'[[model.layers]]\ntype = "reshape"\nshape = [{length}, {64 // length}]\n'
            f'[[model.layers]]\ntype = "recurrent"\ncell = "{"rnn_tanh" if cell == "rnn" else cell}"\nunits = 64\n'
            '[[model.layers]]\ntype = "linear"\nunits = 10\n',
        }


# Steps of a run of four seconds on a GPU, where small ones take about as long as large ones.
GPU_STEPS = 8000


# ---- the PyTorch side; runs in a process of its own ------------------------------------------------------------------


def torch_model(workload):
    """The network that Lockstep builds from the workload's [model] table."""
    from torch import nn

    if workload.startswith("mlp"):
        return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    if workload.startswith("wide"):
        widths = [64, 2048, 2048, 2048]
        hidden = [layer for a, b in zip(widths, widths[1:]) for layer in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(2048, 10))

    if "cell" in WORKLOADS[workload]:
        cell, length = WORKLOADS[workload]["cell"]

        class LastState(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = getattr(nn, cell.upper())(64 // length, 64, batch_first=True)
                self.output = nn.Linear(64, 10)

            def forward(self, x):
                return self.output(self.layer(x)[0][:, -1])

        return LastState()

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.norm1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(outputs)
            self.relu = nn.ReLU(inplace=True)
            self.projection = None
            if stride != 1 or inputs != outputs:
                self.projection = nn.Sequential(
                    nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
                )

        def forward(self, x):
            shortcut = x if self.projection is None else self.projection(x)
            y = self.relu(self.norm1(self.conv1(x)))
            return self.relu(self.norm2(self.conv2(y)) + shortcut)

    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
        Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def torch_data(workload, data):
    import torch

    try:
        import h5py
    except ImportError:
        x, y = torch.rand(1797, 8, 8, 1), torch.randint(10, (1797,))
    else:
        with h5py.File(data, "r") as file:
            x = torch.from_numpy(file["x"][:]).float()
            y = torch.from_numpy(file["y"][:]).long()
    if workload.startswith(("mlp", "wide")):
        return x.reshape(len(x), -1), y
    if "cell" in WORKLOADS[workload]:
        return x.reshape(len(x), WORKLOADS[workload]["cell"][1], -1), y
    return x.permute(0, 3, 1, 2).contiguous(), y


def torch_batches(x, y, batch):
    """Endless batches: one gather an epoch, then views."""
    import torch

    while True:
        order = torch.randperm(len(x), device=x.device)
        xs, ys = x.index_select(0, order), y.index_select(0, order)
        for begin in range(0, len(x) - batch + 1, batch):
            yield xs[begin : begin + batch], ys[begin : begin + batch]


def torch_trainer(workload, data, device, optimizer, channels_last):
    """A function that does one training step."""
    import torch
    import torch.nn.functional as F

    torch.manual_seed(1)
    model = torch_model(workload).to(device)
    x, y = (array.to(device) for array in torch_data(workload, data))
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, fused=optimizer == "fused", foreach=optimizer == "foreach")
    batches = torch_batches(x, y, WORKLOADS[workload]["batch"])
    bf16 = WORKLOADS[workload].get("bf16", False)

    def step():
        xb, yb = next(batches)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(model(xb), yb)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        return loss

    return step


def torch_throughput(workload, data, device, threads, seconds):
    """Steps a second of each variant, as {"fused": ...}."""
    import torch

    torch.set_num_threads(threads)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    formats = (False, True) if workload.startswith("cnn") else (False,)
    variants = [(optimizer, last) for optimizer in ("fused", "foreach") for last in formats]
    rates = {}
    for optimizer, last in variants:
        step = torch_trainer(workload, data, device, optimizer, last)
        chunk = 2 if workload.startswith("wide") and device == "cpu" else 20
        for _ in range(2 * chunk):
            step()
        wait()
        steps, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds / len(variants):
            for _ in range(chunk):
                step()
            wait()
            steps += chunk
        rates[optimizer + (", channels last" if last else "")] = steps / (time.perf_counter() - begin)
    return rates


def torch_worker(mode, workload, data, device, threads, seconds):
    if mode == "throughput":
        print(json.dumps(torch_throughput(workload, data, device, threads, seconds)))
        return
    import torch

    torch.set_num_threads(threads)
    torch_trainer(workload, data, device, "foreach", False)().item()
    print("done", flush=True)


def run_torch(arguments, workload, threads):
    command = torch_command(arguments, "throughput", workload, threads) + [str(arguments.seconds)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def torch_command(arguments, mode, workload, threads):
    worker = [arguments.python, os.path.abspath(__file__), "--torch-worker", mode, workload, arguments.data]
    return [*worker, "cpu" if arguments.rehearse else arguments.device, str(threads)]


def first_step_torch(arguments, workload, threads):
    """Seconds from starting the interpreter to the end of the first step."""
    begin = time.perf_counter()
    command = torch_command(arguments, "first-step", workload, threads) + ["0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    elapsed = time.perf_counter() - begin
    if process.wait() != 0 or line.strip() != "done":
        sys.exit("compare_pytorch: the PyTorch process failed")
    return elapsed


# ---- the Lockstep side -----------------------------------------------------------------------------------------------


def lockstep_command(arguments, directory, workload, threads, steps, log_every):
    config = os.path.join(directory, workload + ".toml")
    with open(config, "w") as file:
        batch = WORKLOADS[workload]["batch"]
        file.write(COMMON_TOML.format(data=arguments.data, batch=batch, device=arguments.device))
        file.write(WORKLOADS[workload]["model"])
    settings = {"device.threads": threads, "train.steps": steps, "train.log_every": log_every}
    if arguments.device == "cuda":
        settings["device.cuda_graph"] = "true"
    settings["precision.compute"] = "bf16" if WORKLOADS[workload].get("bf16") else "fp32"
    command = [arguments.lockstep, "train", config, "--output", os.path.join(directory, "run")]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    return command


def read_metrics(path):
    with open(path) as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


def run_lockstep(arguments, workload, threads):
    """Steps a second: the median over logged intervals, the first quarter left out as warm-up."""
    rate = WORKLOADS[workload]["steps"] if arguments.device == "cpu" else GPU_STEPS
    steps = max(12, int(rate * arguments.seconds / 4))
    with tempfile.TemporaryDirectory() as directory:
        command = lockstep_command(arguments, directory, workload, threads, steps, max(1, steps // 20))
        result = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if result.returncode != 0:
            sys.exit(f"compare_pytorch: lockstep failed with exit code {result.returncode}:\n{result.stderr}")
        records = read_metrics(os.path.join(directory, "run", "metrics.jsonl"))
    rates = [record["samples_per_second"] for record in records if "samples_per_second" in record]
    return statistics.median(rates[len(rates) // 4 :]) / WORKLOADS[workload]["batch"]


def first_step_lockstep(arguments, workload, threads):
    """Seconds from starting the command to the line that it logs when the first step is finished."""
    with tempfile.TemporaryDirectory() as directory:
        command = lockstep_command(arguments, directory, workload, threads, 1, 1)
        metrics = os.path.join(directory, "run", "metrics.jsonl")
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        elapsed = None
        while elapsed is None and process.poll() is None:
            if os.path.exists(metrics) and os.path.getsize(metrics) > 0:
                elapsed = time.perf_counter() - begin
            else:
                time.sleep(0.0005)
        if elapsed is None:
            elapsed = time.perf_counter() - begin  # over before the next look
        _, errors = process.communicate()
        if process.returncode != 0:
            sys.exit(f"compare_pytorch: lockstep failed with exit code {process.returncode}:\n{errors}")
    return elapsed


# ---- the table -------------------------------------------------------------------------------------------------------


def compare_throughput(arguments, workload, threads):
    ours, theirs = [], []
    for _ in range(arguments.repeats):
        theirs.append(run_torch(arguments, workload, threads))
        if arguments.lockstep:
            ours.append(run_lockstep(arguments, workload, threads))
    medians = {variant: statistics.median(run[variant] for run in theirs) for variant in theirs[0]}
    best = max(medians, key=medians.get)
    row = {"title": WORKLOADS[workload]["title"], "unit": "steps/s", "threads": threads}
    row["pytorch"], row["variant"] = medians[best], best
    if ours:
        row["lockstep"] = statistics.median(ours)
        row["ratio"] = row["lockstep"] / row["pytorch"]
    return row


def compare_first_step(arguments, workload, threads):
    ours, theirs = [], []
    for _ in range(arguments.repeats):
        theirs.append(first_step_torch(arguments, workload, threads))
        if arguments.lockstep:
            ours.append(first_step_lockstep(arguments, workload, threads))
    row = {"title": f"process start to first step, {workload.upper()}", "unit": "s", "threads": threads}
    row["pytorch"], row["variant"] = statistics.median(theirs), "foreach"
    if ours:
        row["lockstep"] = statistics.median(ours)
        row["ratio"] = row["pytorch"] / row["lockstep"]
    return row


def print_row(row):
    def figure(key, digits):
        return f"{row[key]:,.{digits}f}" if key in row else "-"

    digits = 3 if row["unit"] == "s" else 1 if row["pytorch"] < 100 else 0
    print(
        f"| {row['title']} | {row['threads']} | {row['unit']} | {figure('lockstep', digits)} | "
        f"{figure('pytorch', digits)} ({row['variant']}) | {figure('ratio', 2)} |",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lockstep", help="the lockstep command; without it only PyTorch is measured")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has torch, numpy and h5py")
    parser.add_argument("--data", default=DIGITS, help="HDF5 file with x (n,8,8,1) and y (n)")
    parser.add_argument("--repeats", type=int, default=5, help="alternations; medians are over them")
    parser.add_argument("--seconds", type=float, default=4.0, help="about how long one throughput run measures")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1 2; 1 with --device cuda")
    parser.add_argument("--rehearse", action="store_true", help="with --device cuda: PyTorch on the CPU")
    rows = [*WORKLOADS, "first-step"]
    parser.add_argument("--rows", nargs="+", default=rows, choices=rows)
    arguments = parser.parse_args()
    arguments.data = os.path.abspath(arguments.data)
    arguments.threads = arguments.threads or ([1, 2] if arguments.device == "cpu" else [1])

    describe = "import torch; print(torch.__version__)"
    if arguments.device == "cuda" and not arguments.rehearse:
        describe = "import torch; print(torch.__version__ + ', ' + torch.cuda.get_device_name())"
    version = subprocess.run([arguments.python, "-c", describe], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if version.returncode != 0:
        reason = (version.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"compare_pytorch: {arguments.python} has no PyTorch for {arguments.device}: {reason}", file=sys.stderr)
        sys.exit(77)
    print("PyTorch " + version.stdout)
    print("| | threads | unit | Lockstep | PyTorch | times faster |\n|---|---|---|---|---|---|", flush=True)
    for row in arguments.rows:
        for threads in arguments.threads:
            print_row(
                compare_first_step(arguments, "mlp", threads)
                if row == "first-step"
                else compare_throughput(arguments, row, threads)
            )


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "--torch-worker":
        mode_, workload_, data_, device_, threads_, seconds_ = sys.argv[2:]
        torch_worker(mode_, workload_, data_, device_, int(threads_), float(seconds_))
    else:
        main()
