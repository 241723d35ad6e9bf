#!/usr/bin/env python3
"""Writes files/*_lora: adapters as PEFT saves them, over the models of files/, with the logits, losses and gradients that
it computes in fp64; and files/*_peft: adapters as their users have them, with their configuration and the logits.

In the former queries, keys and values have the same A, and so do gate and up: each is one product in Lockstep, whose gradient of A is
the sum of theirs. Needs torch, transformers and peft: python3 tests/exchange/make_lora_files.py
"""
import json
import pathlib
import re
import shutil
import sys

import numpy as np
import peft
import torch
import torch.nn.functional as F
import transformers

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "nn"))
from make_gpt_goldens import in_fp64  # noqa: E402

FOLDER = pathlib.Path(__file__).parent / "files"
RANK, ALPHA = 2, 3
PARTS = {"q": "attention.qkv", "k": "attention.qkv", "v": "attention.qkv", "gate": "expand", "up": "expand",
         "o": "attention.output", "down": "contract"}  # fmt: skip
GPT2 = {"attn.c_attn": "attention.qkv", "attn.c_proj": "attention.output", "mlp.c_fc": "expand", "mlp.c_proj": "contract"}


def product_of(name):
    """Lockstep's name of the product that a module is, or is a part of."""
    block = re.search(r"\.(?:h|layers)\.(\d+)\.", name).group(1)
    end = name.split(f".{block}.", 1)[1]
    return f"blocks.{block}." + (GPT2[end] if end in GPT2 else PARTS[end.split(".")[-1].removesuffix("_proj")])


def write(name, targets):
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_pretrained(FOLDER / name).double()
    if name != "gpt2":
        in_fp64(base, base.config.rope_parameters, base.config.head_dim)
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, task_type="CAUSAL_LM",
                             fan_in_fan_out=name == "gpt2")  # fmt: skip
    model = peft.get_peft_model(base, config).double()
    rng = np.random.default_rng(3)
    inner, layers = {}, {}
    for module_name, module in model.named_modules():
        if not isinstance(module, peft.tuners.lora.LoraLayer):
            continue
        product = product_of(module_name)
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        if product not in inner:
            inner[product] = np.round(rng.standard_normal(tuple(a.shape)), 3)
        with torch.no_grad():
            a.copy_(torch.from_numpy(inner[product]))
            b.copy_(torch.from_numpy(np.round(rng.standard_normal(tuple(b.shape)), 3)))
        layers.setdefault(product, []).append((a, b))
    tokens = torch.from_numpy(rng.integers(0, base.config.vocab_size, (2, 5)))
    labels = torch.from_numpy(rng.integers(0, base.config.vocab_size, (2, 5)))
    logits = model(input_ids=tokens, use_cache=False).logits
    assert logits.dtype == torch.float64
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    losses.sum().backward()
    golden = {
        "rank": RANK,
        "alpha": ALPHA,
        "tokens": tokens.flatten().tolist(),
        "labels": labels.flatten().tolist(),
        "logits": logits.flatten().tolist(),
        "losses": losses.tolist(),
        # In Lockstep's layout.
        "parameters": {
            product: {
                "lora_a": inner[product].T.flatten().tolist(),
                "lora_b": torch.cat([b.T for _, b in parts], 1).flatten().tolist(),
                "gradient_a": sum(a.grad for a, _ in parts).T.flatten().tolist(),
                "gradient_b": torch.cat([b.grad.T for _, b in parts], 1).flatten().tolist(),
            }
            for product, parts in layers.items()
        },
    }
    folder = FOLDER / f"{name}_lora"
    shutil.rmtree(folder, ignore_errors=True)
    model.float().save_pretrained(folder)
    (folder / "README.md").unlink()
    (folder / "adapter_config.json").unlink()  # has the path of the model
    (folder / "adapter_model.safetensors").chmod(0o644)
    (folder / "golden.json").write_text(json.dumps(golden) + "\n")
    print(name, sorted(layers), losses.sum().item())


def write_peft(name, targets, **options):
    """Every module has an A of its own."""
    torch.manual_seed(1)
    base = transformers.AutoModelForCausalLM.from_pretrained(FOLDER / name)
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, task_type="CAUSAL_LM",
                             fan_in_fan_out=name == "gpt2", **options)  # fmt: skip
    model = peft.get_peft_model(base, config)
    rng = np.random.default_rng(4)
    for module_name, module in model.named_modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            for matrix in (module.lora_A["default"].weight, module.lora_B["default"].weight):
                with torch.no_grad():
                    matrix.copy_(torch.from_numpy(np.round(rng.standard_normal(tuple(matrix.shape)), 3)))
    folder = FOLDER / f"{name}_peft"
    shutil.rmtree(folder, ignore_errors=True)
    model.peft_config["default"].base_model_name_or_path = f"../{name}"
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    (folder / "adapter_model.safetensors").chmod(0o644)
    model = model.double()
    if name != "gpt2":
        in_fp64(base, base.config.rope_parameters, base.config.head_dim)
    tokens = torch.from_numpy(rng.integers(0, base.config.vocab_size, (2, 5)))
    logits = model(input_ids=tokens, use_cache=False).logits
    assert logits.dtype == torch.float64
    golden = {"tokens": tokens.tolist(), "logits": logits.flatten().tolist()}
    (folder / "logits.json").write_text(json.dumps(golden) + "\n")
    print(folder.name, logits.sum().item())


if __name__ == "__main__":
    write("gpt2", ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"])
    write("llama", ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    write("qwen2", ["q_proj", "k_proj", "v_proj", "o_proj"])
    write_peft("gpt2", ["c_attn", "mlp.c_proj"])
    write_peft("llama", ["q_proj", "v_proj", "up_proj"])
    write_peft("qwen2", ["q_proj", "k_proj", "down_proj"], rank_pattern={"k_proj": 3, "layers.1.mlp.down_proj": 1},
               alpha_pattern={"k_proj": 5}, use_rslora=True)  # fmt: skip
