#!/usr/bin/env python3
"""Holds what `lockstep export` writes against the models that it came from, with the library transformers.

compare_with_transformers.py LOCKSTEP [FOLDER...]

Each directory of Hugging Face (default: the models in files/; adapters have goldens of their own) becomes the initial weights of a run that moves them by
nothing, whose checkpoint is exported. AutoModelForCausalLM loads both: logits of drawn tokens in fp32 may differ by 1e-5,
and the Kullback-Leibler divergence of a token may be 1e-9. Exit status: 0; 1 when they differ; 77 without transformers.
"""
import pathlib
import struct
import subprocess
import sys
import tempfile

try:
    import torch
    import transformers
except ImportError as error:
    print(f"{error.name} is not installed: nothing was compared")
    sys.exit(77)

FILES = pathlib.Path(__file__).parent / "files"


def logits(folder, tokens):
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, local_files_only=True)  # fmt: skip
    wrong = {kind: names for kind, names in loading.items() if names and kind != "unexpected_keys"}
    if wrong:
        sys.exit(f"{folder}: {wrong}")
    with torch.no_grad():
        return model.eval()(input_ids=tokens, use_cache=False).logits.double()


def toml_of(config):
    """[model] of a configuration that transformers has read."""
    if config.model_type == "gpt2":
        return dict(layers=config.n_layer, width=config.n_embd, heads=config.n_head, feedforward=config.n_inner or 0,
                    context=config.n_positions, tied_head=config.tie_word_embeddings,
                    activation={"gelu": "gelu", "gelu_new": "gelu_tanh"}[config.activation_function])  # fmt: skip
    rope = config.rope_parameters
    bias, qwen = getattr(config, "attention_bias", False), config.model_type == "qwen2"
    keys = dict(layers=config.num_hidden_layers, width=config.hidden_size, heads=config.num_attention_heads,
                kv_heads=config.num_key_value_heads, head_size=getattr(config, "head_dim", 0) or 0,
                feedforward=config.intermediate_size, context=config.max_position_embeddings, positions="rotary",
                norm="rms", norm_epsilon=config.rms_norm_eps, activation="swiglu", qkv_bias=bias or qwen, output_bias=bias,
                feedforward_bias=getattr(config, "mlp_bias", False), qk_norm=config.model_type == "qwen3",
                tied_head=config.tie_word_embeddings, rotary_theta=float(rope["rope_theta"]),
                window=getattr(config, "sliding_window", None) or 0)  # fmt: skip
    if rope["rope_type"] != "default":
        keys |= dict(rotary_scaling=rope["rope_type"], rotary_factor=float(rope["factor"]))
    if rope["rope_type"] == "llama3":
        keys |= dict(rotary_low_frequency=float(rope["low_freq_factor"]),
                     rotary_high_frequency=float(rope["high_freq_factor"]),
                     rotary_original_context=rope["original_max_position_embeddings"])  # fmt: skip
    return keys


def as_toml(value):
    return str(value).lower() if isinstance(value, bool) else repr(value)


def through_lockstep(command, folder, scratch):
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    (scratch / "tokens.bin").write_bytes(struct.pack("<256i", 20240520, 1, 64, *[0] * 253) + bytes(128))
    model = "\n".join(f"{key} = {as_toml(value)}" for key, value in toml_of(config).items())
    (scratch / "run.toml").write_text(f"""
[data]
format = "tokens"
train = "{scratch}/tokens.bin"
context = 4
classes = {config.vocab_size}
[model]
type = "gpt"
{model}
[train]
steps = 1
micro_batches = 1
micro_batch_size = 4
initial_weights = "{folder}"
[optimizer]
type = "sgd"
learning_rate = 1e-40
[device]
type = "cpu"
""")
    for arguments in (["train", scratch / "run.toml", "--output", scratch / "run"],
                      ["export", scratch / "run/step-000000001.h5", scratch / "exported"]):  # fmt: skip
        done = subprocess.run([command, *arguments], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{folder}: {arguments[0]}: {done.stderr}")
    return scratch / "exported", config.vocab_size


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    folders = [pathlib.Path(name) for name in sys.argv[2:]] or sorted(path.parent for path in FILES.glob("*/config.json"))
    failed = False
    for folder in folders:
        with tempfile.TemporaryDirectory() as scratch:
            exported, vocabulary = through_lockstep(sys.argv[1], folder.resolve(), pathlib.Path(scratch))
            torch.manual_seed(0)
            tokens = torch.randint(vocabulary, (2, 7))
            ours, theirs = logits(exported, tokens), logits(folder, tokens)
        difference = ((ours - theirs).abs() / (1 + theirs.abs())).max().item()
        p, q = theirs.log_softmax(-1), ours.log_softmax(-1)
        divergence = (p.exp() * (p - q)).sum(-1).max().item()
        right = difference < 1e-5 and divergence < 1e-9
        failed = failed or not right
        print(f"{folder.name}: logits differ by {difference:.2e}, tokens by {divergence:.2e}{'' if right else ': WRONG'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
