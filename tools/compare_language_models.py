#!/usr/bin/env python3
"""Compares training of language models with PyTorch: same model, batch, optimizer and clipping, alternating runs.

    tools/compare_language_models.py --lockstep build/release/bin/lockstep --python PYTHON_WITH_TORCH

Rows: seconds a step and peak memory of GPT-2 (124 million parameters, the head and its loss included) in fp32 and bf16 (PyTorch:
autocast) for batches of 4 x 64 and 1 x 1024 tokens, in bf16 for 4 x 1024, and of a model of characters. Each side is the whole
program: AdamW with decay on matrices alone, the gradient clipped to a norm of 1, random tokens. PyTorch is written the way a
practised user would: fused attention and AdamW, gradients set to None; with --compile also through torch.compile, and the better
of the two counts. A figure is the median over all steps of a process but the first ones, a row the median over alternated
processes. Memory is the process's largest resident set, libraries included. PYTHON_WITH_TORCH needs torch alone; this script
itself needs nothing.

--llmc DIRECTORY adds llm.c: its own train_gpt2 is started there (4 x 64 tokens, fp32; it prints its times). --layers, --width,
--vocabulary make the GPT-2 rows smaller, to try the script (heads have 64 numbers). Exit status 77 where PyTorch is missing.

With --device cuda both train on the first GPU, in bf16 with windows of 1024 tokens: tokens a second, MFU and peak memory of tensors.
Lockstep tunes its products and records its steps as CUDA graphs; PyTorch runs eagerly, compiled, and for small batches compiled
with the whole step in one CUDA graph, all of them with fused attention and AdamW. Of the largest model both recompute every block
in the backward sweep. All of PyTorch's processes start at once, and compile while Lockstep is measured; before the first kernel
each waits for its turn on the GPU. A figure is printed as soon as it is there, the table of ratios last; what is not finished after
--limit seconds is left out. --rehearse runs all of it with tiny models, PyTorch on the CPU, for a Lockstep over stand-ins for CUDA.
"""

import argparse
import array
import contextlib
import fcntl
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time

from compare_pytorch import read_metrics

PEAK = 989e12  # bf16 operations a second of an H100 SXM or H200, by NVIDIA's data sheets
GPT2 = {"layers": 12, "width": 768, "heads": 12, "vocabulary": 50257, "steps": 8}
CHARACTERS = {"layers": 4, "width": 128, "heads": 4, "vocabulary": 128, "steps": 600}


def workload(title, model, batch, context, compute):
    return model | {"title": f"{title}, {batch} x {context} tokens, {compute}", "batch": batch, "context": context,
                    "compute": compute}  # fmt: skip


WORKLOADS = {}
for compute in ("fp32", "bf16"):
    WORKLOADS[f"gpt2-{compute}"] = workload("GPT-2 124M", GPT2, 4, 64, compute)
    WORKLOADS[f"gpt2-long-{compute}"] = workload("GPT-2 124M", GPT2, 1, 1024, compute)
    WORKLOADS[f"characters-{compute}"] = workload("characters, 4 layers of 128", CHARACTERS, 12, 64, compute)
WORKLOADS["gpt2-large-bf16"] = workload("GPT-2 124M", GPT2 | {"steps": 4}, 4, 1024, "bf16")

# On a GPU, by worth. The vocabulary is padded to a multiple of 128, as one does there.
PADDED = {"vocabulary": 50304, "steps": 40}
GPT2_SIZES = {
    "124M": PADDED | {"layers": 12, "width": 768, "heads": 12},
    "355M": PADDED | {"layers": 24, "width": 1024, "heads": 16},
    "1558M": PADDED | {"layers": 48, "width": 1600, "heads": 25, "recompute": True},
}
GPU_WORKLOADS = {
    f"{size}-{batch}": workload(f"GPT-2 {size}", GPT2_SIZES[size], batch, 1024, "bf16") | {"sides": sides.split()}
    for size, batch, sides in (
        ("124M", 64, "eager compile"),
        ("355M", 32, "eager compile"),
        ("1558M", 16, "eager compile"),
        ("124M", 16, "eager compile graph"),
        ("124M", 4, "eager compile graph"),
        ("355M", 4, "eager compile graph"),
    )
}
TINY = {"layers": 2, "width": 64, "heads": 2, "vocabulary": 256, "steps": 10, "batch": 2, "context": 32}

CONFIG = """
[run]
name = "compare"
seed = 1

[data]
format = "tokens"
train = "{data}"
classes = {vocabulary}
context = {context}

[model]
type = "gpt"
layers = {layers}
width = {width}
heads = {heads}

[train]
steps = {steps}
micro_batches = 1
micro_batch_size = {batch}
log_every = {log_every}
recompute_every = {recompute_every}

[optimizer]
type = "adamw"
learning_rate = 1e-4
weight_decay = 0.1
decay_biases = false

[clip]
global_norm = 1.0

[precision]
compute = "{compute}"

[device]
type = "{device}"
threads = {threads}
"""
ON_GPU = """
cuda_graph = true
tune = true
"""


# ---- the PyTorch side; runs in a process of its own ------------------------------------------------------------------


def torch_model(w):
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.utils.checkpoint import checkpoint

    width, heads = w["width"], w["heads"]

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x):
            b, t, _ = x.shape
            q, k, v = (part.view(b, t, heads, -1).transpose(1, 2) for part in self.qkv(self.norm1(x)).split(width, 2))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.output(y.transpose(1, 2).reshape(b, t, width))
            return x + self.contract(F.gelu(self.expand(self.norm2(x)), approximate="tanh"))

    def apply(block, x):
        return checkpoint(block, x, use_reentrant=False) if w.get("recompute") else block(x)

    class Gpt(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.positions = nn.Embedding(w["vocabulary"], width), nn.Embedding(w["context"], width)
            self.blocks = nn.ModuleList(Block() for _ in range(w["layers"]))
            self.norm = nn.LayerNorm(width)
            nn.init.normal_(self.tokens.weight, std=0.02)

        def forward(self, tokens, targets):
            x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
            for block in self.blocks:
                x = apply(block, x)
            logits = F.linear(self.norm(x), self.tokens.weight)
            return F.cross_entropy(logits.view(-1, w["vocabulary"]), targets.view(-1))

    return Gpt()


def torch_training(w, device, adam_options=None):
    """The model, and its optimizer on the device."""
    import torch

    torch.manual_seed(1)
    model = torch_model(w).to(device)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return model, torch.optim.AdamW(groups, lr=1e-4, fused=True, **(adam_options or {}))


def torch_worker(w, compiled, threads):
    """Prints the seconds of each step and the peak memory."""
    import resource

    import torch

    torch.set_num_threads(threads)
    model, adam = torch_training(w, "cpu")
    run = torch.compile(model) if compiled else model
    windows = torch.randint(w["vocabulary"], (w["steps"], w["batch"], w["context"] + 1))
    times = []
    for window in windows:
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=w["compute"] == "bf16"):
            loss = run(window[:, :-1], window[:, 1:].contiguous())
        adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        loss.item()
        times.append(time.perf_counter() - begin)
    print(json.dumps({"times": times, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def take_turn(path):
    """Waits until nobody else computes on the GPU; until this process ends it is its own."""
    global turn  # pylint: disable=global-statement
    turn = open(path, "w", encoding="ascii")  # noqa: SIM115
    fcntl.flock(turn, fcntl.LOCK_EX)


def torch_gpu_worker(w, side, device, turn_path):
    """Prints seconds a step, of groups of steps, and the peak memory of tensors. side: eager, compile or graph."""
    import torch

    on_gpu = device == "cuda"
    torch.set_float32_matmul_precision("high")
    captured = side == "graph" and on_gpu
    model, adam = torch_training(w, device, {"capturable": True} if captured else None)
    run, waits = model, True
    if side != "eager":
        from torch._inductor.compile_fx import compile_fx

        def inductor(graph, inputs):
            nonlocal waits
            compiled = compile_fx(graph, inputs)
            if waits:
                take_turn(turn_path)
            waits = False
            return compiled

        if w.get("recompute"):
            for block in model.blocks:  # one for all of them; as a whole it would take minutes
                block.compile(backend=inductor)
        else:
            run = torch.compile(model, backend=inductor)
    windows = torch.randint(w["vocabulary"], (8, w["batch"], w["context"] + 1), device=device)
    tokens, targets = windows[0, :, :-1].contiguous(), windows[0, :, 1:].contiguous()

    def step():
        with torch.autocast(device, torch.bfloat16):
            loss = run(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)

    if side == "eager":
        take_turn(turn_path)
    if captured:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        step = graph.replay
    for _ in range(2):
        step()
    steps, times, begin = 0, [], time.perf_counter()
    while len(times) < 4 or time.perf_counter() - begin < (4.0 if on_gpu else 0.0):
        start = time.perf_counter()
        for _ in range(5):
            window = windows[steps % len(windows)]
            tokens.copy_(window[:, :-1])
            targets.copy_(window[:, 1:])
            step()
            steps += 1
        if on_gpu:
            torch.cuda.synchronize()
        times.append((time.perf_counter() - start) / 5)
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else 0.0
    print(json.dumps({"times": times, "peak": peak}), flush=True)


def settled(times):
    """The median without the first quarter, in which memory is first touched and code compiled."""
    return statistics.median(times[max(1, len(times) // 4) :])


def run_torch(arguments, w, compiled):
    worker = [arguments.python, os.path.abspath(__file__), "--torch-worker", json.dumps(w)]
    command = [*worker, "compile" if compiled else "eager", str(arguments.threads)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result = json.loads(output.splitlines()[-1])
    return settled(result["times"]), result["peak"]


# ---- Lockstep and llm.c ----------------------------------------------------------------------------------------------


def write_tokens(path, w):
    """A token file of llm.c: 256 numbers of header, then 16 bits a token."""
    draw = random.Random(1)
    count = 4 * w["batch"] * (w["context"] + 1) + 1
    with open(path, "wb") as file:
        array.array("i", [20240520, 1, count, *[0] * 253]).tofile(file)
        array.array("H", [draw.randrange(w["vocabulary"]) for _ in range(count)]).tofile(file)


def largest_resident_set(process_id):
    """MiB, so far."""
    with open(f"/proc/{process_id}/status", encoding="ascii") as status:
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read()).group(1)) / 1024


class Failure(Exception):
    """A program that gave no figures, and why."""


def run_lockstep(arguments, w, deadline=float("inf")):
    """Seconds a step and memory in MiB: on a CPU the process's, on a GPU that of tensors. Lets it train until there are figures
    enough, and ends it there: no checkpoint is part of them."""
    with tempfile.TemporaryDirectory() as directory:
        data, config, output = (os.path.join(directory, name) for name in ("tokens.bin", "gpt.toml", "run"))
        write_tokens(data, w)
        log_every = max(1, w["steps"] // (8 if arguments.device == "cuda" else 20))
        with open(config, "w", encoding="utf-8") as file:
            variables = w | {"steps": 10**9, "data": data, "log_every": log_every, "threads": arguments.threads}
            recompute_every = 1 if w.get("recompute") else 0
            file.write(CONFIG.format(**variables, device=arguments.device, recompute_every=recompute_every))
            if arguments.device == "cuda":
                file.write(ON_GPU)
        command = [arguments.lockstep, "train", config, "--output", output]
        metrics, times = os.path.join(output, "metrics.jsonl"), []
        with open(os.path.join(directory, "messages"), "w+", encoding="utf-8") as messages:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=messages)
            records = []
            while len(times) < w["steps"] // log_every:
                if process.poll() is not None:
                    messages.seek(0)
                    raise Failure(f"lockstep ended with {process.returncode}: {messages.read().strip()}")
                if time.monotonic() > deadline:
                    process.kill()
                    process.wait()
                    raise Failure("no time left")
                time.sleep(0.1)
                records = read_metrics(metrics) if os.path.exists(metrics) else []
                times = [w["batch"] / record["samples_per_second"] for record in records if "samples_per_second" in record]
            on_gpu = arguments.device == "cuda"
            memory = records[-1]["peak_bytes"] / 2**20 if on_gpu else largest_resident_set(process.pid)
            process.kill()
            process.wait()
    return settled(times), memory


def run_llmc(directory, threads):
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [os.path.join(os.path.abspath(directory), "train_gpt2")]
    output = subprocess.run(command, cwd=directory, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    times = [float(took) / 1000 for took in re.findall(r"^step \d+: .*\(took ([0-9.]+) ms\)", output, re.MULTILINE)]
    if not times:
        sys.exit(f"compare_language_models: {command[0]} printed no times of steps")
    return settled(times)


# ---- the table -------------------------------------------------------------------------------------------------------


def compare(arguments, w):
    sides = {"lockstep": lambda: run_lockstep(arguments, w), "eager": lambda: run_torch(arguments, w, False)}
    if arguments.compile:
        sides["compile"] = lambda: run_torch(arguments, w, True)
    runs = {side: [] for side in sides}
    for _ in range(arguments.repeats):
        for side, run in sides.items():
            runs[side].append(run())
    seconds = {side: statistics.median(run[0] for run in figures) for side, figures in runs.items()}
    memory = {side: statistics.median(run[1] for run in figures) for side, figures in runs.items()}
    best = min((side for side in sides if side != "lockstep"), key=seconds.get)
    print(
        f"| {w['title']} | {seconds['lockstep']:.4g} s | {seconds[best]:.4g} s ({best}) | "
        f"{seconds[best] / seconds['lockstep']:.2f} | {memory['lockstep']:,.0f} MiB | {memory['eager']:,.0f} MiB | "
        f"{memory['lockstep'] / memory['eager']:.2f} |",
        flush=True,
    )
    return seconds["lockstep"]


# ---- on a GPU --------------------------------------------------------------------------------------------------------


def operations_of_token(w):
    """Of a training step, attention causal: 6 N + 6 L C T, N the weights of products, the head's among them."""
    products = w["layers"] * 12 * w["width"] ** 2 + w["vocabulary"] * w["width"]
    return 6 * products + 6 * w["layers"] * w["width"] * w["context"]


class GpuTable:
    """What each program reached, printed as it comes."""

    def __init__(self):
        self.found = {}  # (row, side) -> (seconds, MiB)
        print("| | | tokens/s | MFU | memory of tensors, MiB |\n|---|---|---|---|---|", flush=True)

    def add(self, row, w, side, seconds, memory):
        self.found[row, side] = seconds, memory
        rate = w["batch"] * w["context"] / seconds
        share = rate * operations_of_token(w) / PEAK
        print(f"| {w['title']} | {side} | {rate:,.0f} | {share:.3f} | {memory:,.0f} |", flush=True)

    def print_ratios(self, workloads):
        print("\n| Lockstep is so many times faster | eager | compile | graph | memory of compile's |\n|---|---|---|---|---|")
        for row, w in workloads.items():
            if (row, "lockstep") not in self.found:
                continue
            seconds, memory = self.found[row, "lockstep"]
            cells = []
            for side in ("eager", "compile", "graph"):
                theirs = self.found.get((row, side))
                cells.append(f"{theirs[0] / seconds:.2f}" if theirs else "-")
            theirs = self.found.get((row, "compile"))
            cells.append(f"{memory / theirs[1]:.2f}" if theirs and theirs[1] else "-")
            print(f"| {w['title']} | {' | '.join(cells)} |", flush=True)


def compare_on_gpu(arguments, workloads):
    """Whether there is a figure of every program."""
    end = time.monotonic() + arguments.limit
    print(f"MFU of {PEAK / 1e12:.0f} TFLOP/s, 6 N + 6 L C T operations a token\n")
    table, missing = GpuTable(), []
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as running:
        turn_path = os.path.join(directory, "turn")
        with open(turn_path, "w", encoding="ascii") as ours:
            fcntl.flock(ours, fcntl.LOCK_EX)
            workers = {}
            environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "4"}
            for row, w in workloads.items():
                for side in w["sides"]:
                    command = [arguments.python, os.path.abspath(__file__), "--torch-gpu-worker", json.dumps(w), side]
                    command += ["cpu" if arguments.rehearse else "cuda", turn_path]
                    log = running.enter_context(open(os.path.join(directory, f"{row}-{side}"), "w+", encoding="utf-8"))
                    worker = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
                    running.callback(worker.kill)
                    workers[row, side] = worker, log
            for row, w in workloads.items():
                try:
                    table.add(row, w, "lockstep", *run_lockstep(arguments, w, end))
                except Failure as failure:
                    missing.append(f"{row} lockstep: {failure}")
        while workers and time.monotonic() < end:
            time.sleep(0.05)
            for (row, side), (worker, log) in list(workers.items()):
                if worker.poll() is None:
                    continue
                del workers[row, side]
                log.seek(0)
                lines = log.read().splitlines()
                if worker.returncode == 0:
                    result = json.loads(lines[-1])
                    table.add(row, workloads[row], side, settled(result["times"]), result["peak"])
                else:
                    missing.append(f"{row} {side}: {lines[-1] if lines else 'no message'}")
        missing += [f"{row} {side}: no time left" for row, side in workers]
    table.print_ratios(workloads)
    for line in missing:
        print(f"missing: {line}", flush=True)
    return not missing


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lockstep", required=True, help="the lockstep command")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has torch")
    parser.add_argument("--compile", action="store_true", help="PyTorch through torch.compile as well")
    parser.add_argument("--llmc", metavar="DIRECTORY", help="llm.c, built, with its starter pack")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="alternations; medians are over them")
    parser.add_argument("--steps", type=int, help="of every process")
    parser.add_argument("--rows", nargs="+", choices=[*WORKLOADS, *GPU_WORKLOADS])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds, on a GPU")
    parser.add_argument("--rehearse", action="store_true", help="all that --device cuda does, with tiny models")
    for name in ("layers", "width", "vocabulary"):
        parser.add_argument(f"--{name}", type=int, help="of the GPT-2 rows; for a trial")
    arguments = parser.parse_args()

    describe = [arguments.python, "-c", "import torch; print(torch.__version__)"]
    version = subprocess.run(describe, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if version.returncode != 0:
        reason = (version.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"compare_language_models: {arguments.python} has no PyTorch: {reason}", file=sys.stderr)
        sys.exit(77)
    known = GPU_WORKLOADS if arguments.device == "cuda" else WORKLOADS
    rows = arguments.rows or list(known)
    if not set(rows) <= set(known):
        parser.error(f"--rows: with --device {arguments.device} choose from {', '.join(known)}")
    if arguments.device == "cuda":
        print(f"PyTorch {version.stdout.strip()}", flush=True)
        workloads = {row: known[row] | (TINY if arguments.rehearse else {}) for row in rows}
        sys.exit(0 if compare_on_gpu(arguments, workloads) else 1)
    print(f"PyTorch {version.stdout.strip()}, {arguments.threads} threads\n")
    print("| | Lockstep | PyTorch | times faster | memory | PyTorch eager | ratio |\n|---|---|---|---|---|---|---|", flush=True)
    for row in rows:
        w = dict(WORKLOADS[row])
        trial = [name for name in ("layers", "width", "vocabulary") if getattr(arguments, name)]
        if row.startswith("gpt2") and trial:
            w |= {name: getattr(arguments, name) for name in trial}
            w["heads"] = max(1, w["width"] // 64)
            w["title"] += f" (trial: {', '.join(f'{name} {w[name]}' for name in trial)})"
        w["steps"] = arguments.steps or w["steps"]
        ours = compare(arguments, w)
        if row == "gpt2-fp32" and arguments.llmc:
            theirs = statistics.median(run_llmc(arguments.llmc, arguments.threads) for _ in range(arguments.repeats))
            print(f"| llm.c, 4 x 64 tokens, fp32 | {ours:.4g} s | {theirs:.4g} s | {theirs / ours:.2f} | | | |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--torch-worker"]:
        torch_worker(json.loads(sys.argv[2]), sys.argv[3] == "compile", int(sys.argv[4]))
    elif sys.argv[1:2] == ["--torch-gpu-worker"]:
        torch_gpu_worker(json.loads(sys.argv[2]), *sys.argv[3:])
    else:
        try:
            main()
        except Failure as reason:
            sys.exit(f"compare_language_models: {reason}")
