#!/usr/bin/env python3
"""Writes files/: directories of tiny random models of the library transformers, and the logits that it computes.

Weights are rounded to thousandths; "older" directories get the keys and tensors of transformers 4 and of files before
it. Needs torch, transformers and safetensors: python3 tests/exchange/make_files.py
"""
import json
import pathlib
import shutil

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

FOLDER = pathlib.Path(__file__).parent / "files"
VOCABULARY, LAYERS, WIDTH, LENGTH = 11, 2, 8, 6
TOKENS = [[0, 5, 8, 3, 10, 4], [7, 1, 1, 9, 2, 6]]


def llama_options(rope, **options):
    return dict(vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=12, num_hidden_layers=LAYERS,
                num_attention_heads=4, num_key_value_heads=2, head_dim=4, max_position_embeddings=32,
                rope_parameters=rope, bos_token_id=0, eos_token_id=10) | options  # fmt: skip


def gpt2(**options):
    config = transformers.GPT2Config(vocab_size=VOCABULARY, n_positions=LENGTH + 2, n_embd=WIDTH, n_layer=LAYERS,
                                     n_head=2, bos_token_id=0, eos_token_id=10, **options)  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def older_gpt2(folder):
    """As the first files of GPT-2: no prefix, masks among the weights, the head beside the table it is tied to."""
    weights = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    for layer in range(LAYERS):
        bare[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 8, 8).tril()
        bare[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    bare["lm_head.weight"] = bare["wte.weight"].clone()
    save_file(bare, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["n_ctx"] = config["n_positions"]
    config["torch_dtype"] = config.pop("dtype")
    config["task_specific_params"] = {"text-generation": {"do_sample": True}}
    del config["tie_word_embeddings"], config["n_inner"]
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def older_rope(folder):
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def write(name, model, older=None, dtype=torch.float32, shard=None):
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    rng = np.random.default_rng(5)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            values = np.round(0.4 * rng.standard_normal(tuple(parameter.shape)), 3)
            norm = "norm" in key or "ln_" in key
            parameter.copy_(torch.from_numpy(values + 1.0 if norm and key.endswith("weight") else values))
    model = model.to(dtype).eval()
    model.save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    # Anew: the tables of rotary positions are in fp32 then, whatever the weights are in.
    model = type(model).from_pretrained(folder, dtype=torch.float32)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if older:
        older(folder)
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor(TOKENS), use_cache=False).logits
    (folder / "logits.json").write_text(
        json.dumps({"tokens": TOKENS, "logits": [round(x, 7) for x in logits.flatten().tolist()]}) + "\n")  # fmt: skip
    print(name, sorted(path.name for path in folder.iterdir()))


def main():
    torch.manual_seed(0)
    llama3 = {"rope_type": "llama3", "rope_theta": 50.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 16}  # fmt: skip
    linear = {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}
    plain = {"rope_type": "default", "rope_theta": 1000.0}
    write("gpt2", gpt2(activation_function="gelu", n_inner=20, tie_word_embeddings=False))
    write("gpt2_older", gpt2(), older_gpt2)
    write("llama", transformers.LlamaForCausalLM(transformers.LlamaConfig(
        **llama_options(llama3, eos_token_id=[9, 10], rms_norm_eps=1e-5))), shard="2KB")  # fmt: skip
    write("llama_older", transformers.LlamaForCausalLM(transformers.LlamaConfig(
        **llama_options(linear, attention_bias=True, mlp_bias=True, tie_word_embeddings=True))), older_rope,
        torch.bfloat16)  # fmt: skip
    write("mistral", transformers.MistralForCausalLM(transformers.MistralConfig(
        **llama_options(plain, sliding_window=3))))  # fmt: skip
    write("qwen2", transformers.Qwen2ForCausalLM(transformers.Qwen2Config(
        **llama_options(plain, tie_word_embeddings=True))))  # fmt: skip
    write("qwen3", transformers.Qwen3ForCausalLM(transformers.Qwen3Config(
        **llama_options(plain, use_sliding_window=True, sliding_window=4, max_window_layers=0))))  # fmt: skip


if __name__ == "__main__":
    main()
