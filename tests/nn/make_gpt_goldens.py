#!/usr/bin/env python3
"""Writes goldens/gpt_*.json: logits, losses, gradients and ten AdamW steps of tiny random models of the library
transformers, in fp64.

Parameters carry Lockstep's names and layouts (src/nn/gpt.h). What the library computes in fp32 whatever its parameters are
(RMS norms, the tables of rotary positions) is replaced by the same formulas in fp64. Needs torch, transformers and numpy:
python3 tests/nn/make_gpt_goldens.py
"""
import json
import math
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
import transformers

FOLDER = pathlib.Path(__file__).parent / "goldens"
VOCABULARY, POSITIONS, BATCH, LAYERS, WIDTH = 11, 6, 2, 2, 8
STEPS, RATE, DECAY = 10, 0.01, 0.1


class Rotary(torch.nn.Module):
    def __init__(self, parameters, size):
        super().__init__()
        turns = parameters["rope_theta"] ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        if parameters["rope_type"] == "linear":
            turns = turns / parameters["factor"]
        if parameters["rope_type"] == "llama3":
            context, factor = parameters["original_max_position_embeddings"], parameters["factor"]
            low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
            share = ((context * turns / (2 * math.pi) - low) / (high - low)).clamp(0, 1)
            turns = (1 - share) * turns / factor + share * turns
        self.turns = turns

    def forward(self, x, position_ids):
        angles = position_ids[..., None].double() * self.turns
        angles = torch.cat((angles, angles), -1)
        return angles.cos(), angles.sin()


def in_fp64(model, rope, size):
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            def forward(x, module=module):
                return module.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + module.variance_epsilon))

            module.forward = forward
    own = Rotary(rope, size)
    assert torch.allclose(own.turns.float(), model.model.rotary_emb.inv_freq.float(), rtol=1e-6)
    model.model.rotary_emb = own


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=POSITIONS + 2, n_embd=WIDTH, n_layer=LAYERS, n_head=2, n_inner=20,
        activation_function="gelu_new", resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation="sdpa",
        bos_token_id=0, eos_token_id=0)  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).double()
    p = dict(model.named_parameters())
    names = {"tokens.weight": "transformer.wte.weight", "positions.weight": "transformer.wpe.weight"}
    for i in range(LAYERS):
        ours, theirs = f"blocks.{i}.", f"transformer.h.{i}."
        for norm, name in (("attention_norm", "ln_1"), ("feedforward_norm", "ln_2")):
            names[ours + norm + ".gamma"] = theirs + name + ".weight"
            names[ours + norm + ".beta"] = theirs + name + ".bias"
        for product, name in (("attention.qkv", "attn.c_attn"), ("attention.output", "attn.c_proj"),
                              ("expand", "mlp.c_fc"), ("contract", "mlp.c_proj")):  # fmt: skip
            for part in ("weight", "bias"):
                names[ours + product + "." + part] = theirs + name + "." + part
    names["norm.gamma"], names["norm.beta"] = "transformer.ln_f.weight", "transformer.ln_f.bias"
    toml = f"""[model]
type = 'gpt'
layers = {LAYERS}
width = {WIDTH}
heads = 2
feedforward = 20
context = {POSITIONS + 2}
"""
    return model, {ours: [p[theirs]] for ours, theirs in names.items()}, toml


def llama_family(model, rope, options, bias=False, qk_norm=False):
    in_fp64(model, rope, 4)
    p = dict(model.named_parameters())
    ours = {"tokens.weight": [p["model.embed_tokens.weight"]]}
    for i in range(LAYERS):
        scope, theirs = f"blocks.{i}.", f"model.layers.{i}."
        ours[scope + "attention_norm.gamma"] = [p[theirs + "input_layernorm.weight"]]
        ours[scope + "feedforward_norm.gamma"] = [p[theirs + "post_attention_layernorm.weight"]]
        attention = theirs + "self_attn."
        ours[scope + "attention.qkv.weight"] = [p[attention + f"{x}_proj.weight"] for x in "qkv"]
        if bias:
            ours[scope + "attention.qkv.bias"] = [p[attention + f"{x}_proj.bias"] for x in "qkv"]
        if qk_norm:
            ours[scope + "attention.query_norm.gamma"] = [p[attention + "q_norm.weight"]]
            ours[scope + "attention.key_norm.gamma"] = [p[attention + "k_norm.weight"]]
        ours[scope + "attention.output.weight"] = [p[attention + "o_proj.weight"]]
        ours[scope + "expand.weight"] = [p[theirs + f"mlp.{x}_proj.weight"] for x in ("gate", "up")]
        ours[scope + "contract.weight"] = [p[theirs + "mlp.down_proj.weight"]]
    ours["norm.gamma"] = [p["model.norm.weight"]]
    if not model.config.tie_word_embeddings:
        ours["head.weight"] = [p["lm_head.weight"]]
    scaling = "" if rope["rope_type"] == "default" else f"rotary_scaling = '{rope['rope_type']}'\nrotary_factor = {rope['factor']}\n"
    if rope["rope_type"] == "llama3":
        scaling += f"rotary_original_context = {rope['original_max_position_embeddings']}\n"
    toml = f"""[model]
type = 'gpt'
layers = {LAYERS}
width = {WIDTH}
heads = 4
kv_heads = 2
head_size = 4
feedforward = 12
positions = 'rotary'
rotary_theta = {rope["rope_theta"]}
{scaling}norm = 'rms'
norm_epsilon = 1e-6
activation = 'swiglu'
qkv_bias = {str(bias).lower()}
output_bias = false
feedforward_bias = false
qk_norm = {str(qk_norm).lower()}
tied_head = {str(model.config.tie_word_embeddings).lower()}
{options}"""
    return model, ours, toml


def shape_of_llama(rope, tied, **options):
    return dict(vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=12, num_hidden_layers=LAYERS,
                num_attention_heads=4, num_key_value_heads=2, head_dim=4, rms_norm_eps=1e-6, max_position_embeddings=64,
                tie_word_embeddings=tied, rope_parameters=rope, attn_implementation="sdpa", bos_token_id=0,
                eos_token_id=0, pad_token_id=None) | options  # fmt: skip


def llama():
    rope = {"rope_type": "llama3", "rope_theta": 50.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16}  # fmt: skip
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape_of_llama(rope, False))).double()
    return llama_family(model, rope, "")


def llama_linear():
    rope = {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape_of_llama(rope, True))).double()
    return llama_family(model, rope, "")


def qwen2():
    rope = {"rope_type": "default", "rope_theta": 1000.0}
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**shape_of_llama(rope, True))).double()
    return llama_family(model, rope, "", bias=True)


def qwen3():
    rope = {"rope_type": "default", "rope_theta": 1000.0}
    model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**shape_of_llama(rope, True))).double()
    return llama_family(model, rope, "", qk_norm=True)


def mistral():
    rope = {"rope_type": "default", "rope_theta": 1000.0}
    config = transformers.MistralConfig(**shape_of_llama(rope, False, sliding_window=3))
    return llama_family(transformers.MistralForCausalLM(config).double(), rope, "window = 3\n")


def joined(name, parts):
    """In Lockstep's layout: tables as they are, products (in, out), parts side by side."""
    table = name in ("tokens.weight", "positions.weight", "head.weight")
    turned = len(parts[0].shape) == 2 and not table
    return torch.cat([part.T if turned else part for part in parts], -1 if turned else 0)


def write(name, make):
    torch.manual_seed(0)
    model, ours, toml = make()
    turned = name == "gpt2"  # its products are (in, out) there as well
    join = (lambda _, parts: parts[0]) if turned else joined
    rng = np.random.default_rng(5)
    with torch.no_grad():
        for key, parts in ours.items():
            for part in parts:
                values = np.round(0.4 * rng.standard_normal(tuple(part.shape)), 3)
                part.copy_(torch.from_numpy(values + 1.0 if "gamma" in key else values))
    model.train()
    tokens = torch.from_numpy(rng.integers(0, VOCABULARY, (BATCH, POSITIONS)))
    labels = torch.from_numpy(rng.integers(0, VOCABULARY, (BATCH, POSITIONS)))

    def losses():
        logits = model(input_ids=tokens, use_cache=False).logits
        assert logits.dtype == torch.float64
        return logits, F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")

    logits, each = losses()
    each.sum().backward()
    golden = {
        "toml": toml,
        "classes": VOCABULARY,
        "shape": [BATCH, POSITIONS],
        "tokens": tokens.flatten().tolist(),
        "labels": labels.flatten().tolist(),
        "logits": logits.flatten().tolist(),
        "losses": each.tolist(),
        "parameters": [
            {"name": key, "values": join(key, parts).flatten().tolist(),
             "gradient": join(key, [part.grad for part in parts]).flatten().tolist()}
            for key, parts in ours.items()
        ],
    }  # fmt: skip
    assert {id(part) for parts in ours.values() for part in parts} == {id(part) for part in model.parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    steps = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = losses()[1].mean()
        loss.backward()
        optimizer.step()
        steps.append(loss.item())
    golden["adamw"] = {"learning_rate": RATE, "weight_decay": DECAY, "losses": steps}
    (FOLDER / f"gpt_{name}.json").write_text(json.dumps(golden) + "\n")
    print(name, steps[0], steps[-1])


if __name__ == "__main__":
    for made in (gpt2, llama, llama_linear, qwen2, qwen3, mistral):
        write(made.__name__, made)
