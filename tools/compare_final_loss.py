#!/usr/bin/env python3
"""Trains the same language model in Lockstep and in PyTorch and compares where they end.

    tools/compare_final_loss.py --lockstep build/release/bin/lockstep --python PYTHON_WITH_TORCH --text TEXT

Both begin with Lockstep's initial weights (exported), read the same windows of bytes in the same order (tests/data/permutation.py
is a second program of the sampler's), and take the same steps: AdamW with decay on matrices alone, the gradient clipped to a norm of
1, warmup and a cosine schedule. A row is a seed: the mean loss of the last tenth of the steps and the loss of the text's last
twentieth, which is not trained on, and what PyTorch's are above Lockstep's. Exit status 1 where one of these is beyond --bound, 77
where PyTorch is missing. TEXT is a file, plain or .zst; the default is the one of configs/data.

The defaults are a GPT-2 of 10 million parameters; --layers 4 --width 192 --steps 300 --batch 8 is some minutes on two cores.
PYTHON_WITH_TORCH needs torch (and numpy) alone; this script itself needs nothing but the command zstd for a .zst.
"""

import argparse
import array
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from compare_language_models import torch_model
from compare_pytorch import read_metrics

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "data"))
from permutation import permutation  # noqa: E402

CONFIG = """
[run]
name = "compare"
seed = {seed}
[data]
format = "tokens"
train = "{train}"
validation = "{validation}"
classes = 256
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
log_every = 1
evaluate_every = {steps}
[optimizer]
type = "adamw"
learning_rate = {learning_rate}
weight_decay = 0.1
decay_biases = false
[schedule]
type = "cosine"
warmup = {warmup}
[clip]
global_norm = 1.0
[precision]
compute = "{compute}"
[checkpoint]
every = {steps}
[device]
type = "cpu"
threads = {threads}
"""


def write_tokens(path, text):
    """A token file of llm.c: 256 numbers of header, then 16 bits a token."""
    with open(path, "wb") as file:
        array.array("i", [20240520, 1, len(text), *[0] * 253]).tofile(file)
        array.array("H", list(text)).tofile(file)


# ---- the PyTorch side; runs in a process of its own ------------------------------------------------------------------


def read_safetensors(path):
    import torch

    data = pathlib.Path(path).read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:begin]).items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            values = torch.frombuffer(bytearray(data[begin + first : begin + last]), dtype=torch.float32)
            tensors[name.removeprefix("transformer.")] = values.reshape(entry["shape"])
    return tensors


def load(model, path):
    """GPT-2's names of Hugging Face, whose products are (in, out)."""
    import torch

    tensors = read_safetensors(path)
    names = {"tokens.": "wte.", "positions.": "wpe.", "norm.": "ln_f."}
    of_block = {"norm1.": "ln_1.", "norm2.": "ln_2.", "qkv.": "attn.c_attn.", "output.": "attn.c_proj.", "expand.": "mlp.c_fc.",
                "contract.": "mlp.c_proj."}  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("blocks."):
                block, rest = name.removeprefix("blocks.").split(".", 1)
                ours = next(ours for ours in of_block if rest.startswith(ours))
                theirs = f"h.{block}.{of_block[ours]}{rest.removeprefix(ours)}"
                turned = rest.endswith("weight") and parameter.dim() == 2
            else:
                ours = next(ours for ours in names if name.startswith(ours))
                theirs, turned = names[ours] + name.removeprefix(ours), False
            value = tensors.pop(theirs)
            parameter.copy_(value.T if turned else value)
    assert not tensors, f"left over: {list(tensors)}"


def torch_worker(job):
    """Prints the losses of all steps, and that of the validation text."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(job["threads"])
    model = torch_model(job | {"vocabulary": 256})
    load(model, job["weights"])
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    adam = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], fused=True)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=job["compute"] == "bf16")

    def windows(path, rows):
        tokens = torch.frombuffer(bytearray(pathlib.Path(path).read_bytes()[1024:]), dtype=torch.uint16).long()
        return (torch.stack([tokens[row * job["context"] : (row + 1) * job["context"] + 1] for row in some]) for some in rows)

    losses = []
    for window, rate in zip(windows(job["train"], job["rows"]), job["rates"]):
        for group in adam.param_groups:
            group["lr"] = rate
        with autocast:
            loss = model(window[:, :-1], window[:, 1:].contiguous())
        adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        losses.append(loss.item())
    count, total = job["validation_windows"], 0.0
    with torch.no_grad(), autocast:
        for window in windows(job["validation"], [range(row, min(row + 16, count)) for row in range(0, count, 16)]):
            total += len(window) * model(window[:, :-1], window[:, 1:].contiguous()).item()
    print(json.dumps({"losses": losses, "validation": total / count}))


# ---- both --------------------------------------------------------------------------------------------------------------


def lockstep(arguments, *command):
    result = subprocess.run([arguments.lockstep, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if result.returncode != 0:
        sys.exit(f"compare_final_loss: lockstep {command[0]} ended with {result.returncode}:\n{result.stderr}")


def run(arguments, directory, data, seed):
    settings = vars(arguments) | data | {"seed": seed}
    config, start, output, weights = (os.path.join(directory, name) for name in ("gpt.toml", "start", "run", "weights"))
    pathlib.Path(config).write_text(CONFIG.format(**settings))
    # A step that goes nowhere leaves the initial weights.
    still = ["optimizer.learning_rate=0", "train.steps=1", "train.evaluate_every=0", "schedule.type=constant", "schedule.warmup=0"]
    lockstep(arguments, "train", config, "--output", start, "--overwrite", *(word for set in still for word in ("--set", set)))
    subprocess.run(["rm", "-rf", weights], check=True)
    lockstep(arguments, "export", os.path.join(start, "step-000000001.h5"), weights)
    lockstep(arguments, "train", config, "--output", output, "--overwrite")
    records = read_metrics(os.path.join(output, "metrics.jsonl"))
    steps = [record for record in records if "learning_rate" in record]
    ours = [record["loss"] for record in steps]
    validation = [record["validation_loss"] for record in records if "validation_loss" in record][-1]
    assert len(ours) == arguments.steps

    count = data["windows"]
    per_epoch = count // arguments.batch
    orders, rows = {}, []
    for step in range(arguments.steps):
        epoch, place = divmod(step, per_epoch)
        order = orders.setdefault(epoch, permutation(seed, epoch, count))
        rows.append([order(place * arguments.batch + i) for i in range(arguments.batch)])
    job = {name: settings[name] for name in ("layers", "width", "heads", "context", "compute", "threads", "train", "validation")}
    job |= {"weights": os.path.join(weights, "model.safetensors"), "rows": rows, "rates": [r["learning_rate"] for r in steps],
            "validation_windows": data["validation_windows"]}  # fmt: skip
    path = os.path.join(directory, "job.json")
    pathlib.Path(path).write_text(json.dumps(job))
    worker = [arguments.python, os.path.abspath(__file__), "--torch-worker", path]
    theirs = json.loads(subprocess.run(worker, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    tail = max(1, arguments.steps // 10)
    trained = [sum(losses[-tail:]) / tail for losses in (ours, theirs["losses"])]
    differences = [trained[1] - trained[0], theirs["validation"] - validation]
    print(f"| {seed} | {trained[0]:.4f} | {trained[1]:.4f} | {differences[0]:+.4f} | {validation:.4f} | {theirs['validation']:.4f} | "
          f"{differences[1]:+.4f} | {abs(ours[0] - theirs['losses'][0]):.1e} |", flush=True)  # fmt: skip
    return max(map(abs, differences))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lockstep", required=True, help="the lockstep command")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has torch")
    parser.add_argument("--text", default=str(ROOT / "configs" / "data" / "king_james.txt.zst"))
    parser.add_argument("--compute", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--bound", type=float, default=0.01)
    for name, default in {"layers": 8, "width": 320, "heads": 5, "context": 256, "batch": 16, "steps": 2000, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    arguments.warmup = arguments.steps // 20

    describe = [arguments.python, "-c", "import torch; print(torch.__version__)"]
    version = subprocess.run(describe, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if version.returncode != 0:
        print(f"compare_final_loss: {arguments.python} has no PyTorch", file=sys.stderr)
        sys.exit(77)
    if arguments.text.endswith(".zst"):
        text = subprocess.run(["zstd", "-dc", arguments.text], check=True, stdout=subprocess.PIPE).stdout
    else:
        text = pathlib.Path(arguments.text).read_bytes()
    parameters = arguments.layers * (12 * arguments.width**2 + 13 * arguments.width) + arguments.width * (258 + arguments.context)
    print(f"PyTorch {version.stdout.strip()}; {parameters:,} parameters, {arguments.steps} steps of {arguments.batch} x "
          f"{arguments.context} bytes, {arguments.compute}, {arguments.threads} threads\n")  # fmt: skip
    print("| seed | loss, last tenth | PyTorch | | validation | PyTorch | | first step |\n|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        cut = len(text) - len(text) // 20
        data = {name: os.path.join(directory, name + ".bin") for name in ("train", "validation")}
        write_tokens(data["train"], text[:cut])
        write_tokens(data["validation"], text[cut:])
        data |= {"windows": (cut - 1) // arguments.context, "validation_windows": (len(text) - cut - 1) // arguments.context}
        worst = max(run(arguments, directory, data, seed) for seed in arguments.seeds)
    sys.exit(0 if worst <= arguments.bound else 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--torch-worker"]:
        torch_worker(json.loads(pathlib.Path(sys.argv[2]).read_text()))
    else:
        main()
