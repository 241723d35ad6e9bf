#!/usr/bin/env python3
"""Writes goldens/*.json: outputs, gradients and running statistics of small models as PyTorch computes them in fp64.

Parameters carry Lockstep's names and layouts (linear (in,out), convolution (O,KH,KW,C), images (N,H,W,C)); the code below
translates. Needs torch and numpy: python3 tests/nn/make_goldens.py
"""
import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

FOLDER = pathlib.Path(__file__).parent / "goldens"
MOMENTUM = 0.1


class Model:
    """Parameters and running statistics by name, and the layers that use them; activations are (N,C,H,W) inside."""

    def __init__(self, shapes, seed):
        rng = np.random.default_rng(seed)
        self.parameters, self.statistics = {}, {}
        for name, shape in shapes.items():
            values = torch.from_numpy(np.round(0.6 * rng.standard_normal(shape), 3))
            if name.endswith("gamma"):
                values += 1.0
            self.parameters[name] = values.requires_grad_()

    def linear(self, scope, x):
        return x @ self.parameters[scope + ".weight"] + self.parameters[scope + ".bias"]

    def convolution(self, scope, x, stride, padding):
        weight = self.parameters[scope + ".weight"].permute(0, 3, 1, 2)
        return F.conv2d(x, weight, self.parameters.get(scope + ".bias"), stride, padding)

    def batch_norm(self, scope, x, training):
        channels = x.shape[1]
        mean = self.statistics.setdefault(scope + ".running_mean", torch.zeros(channels, dtype=torch.float64))
        variance = self.statistics.setdefault(scope + ".running_variance", torch.ones(channels, dtype=torch.float64))
        gamma, beta = self.parameters[scope + ".gamma"], self.parameters[scope + ".beta"]
        return F.batch_norm(x, mean, variance, gamma, beta, training, MOMENTUM, 1e-5)

    def normed(self, scope, x, stride, padding, training):
        return self.batch_norm(
            scope + ".norm", self.convolution(scope + ".convolution", x, stride, padding), training
        )

    def residual(self, scope, x, stride, training):
        projected = scope + ".projection.convolution.weight" in self.parameters
        shortcut = self.normed(scope + ".projection", x, stride, 0, training) if projected else x
        y = F.relu(self.normed(scope + ".first", x, stride, 1, training))
        return F.relu(self.normed(scope + ".second", y, 1, 1, training) + shortcut)


def norm_shapes(scope, channels):
    return {scope + ".gamma": (channels,), scope + ".beta": (channels,)}


def normed_shapes(scope, inputs, outputs, kernel):
    return {scope + ".convolution.weight": (outputs, kernel, kernel, inputs)} | norm_shapes(scope + ".norm", outputs)


def linear_shapes(scope, inputs, outputs):
    return {scope + ".weight": (inputs, outputs), scope + ".bias": (outputs,)}


def mlp(name, activation):
    def forward(model, x, training):
        x = activation(model.linear("hidden.0", x.flatten(1)))
        return model.linear("output", activation(model.linear("hidden.1", x)))

    toml = f"[model]\ntype = 'mlp'\nhidden = [5, 4]\nactivation = '{name}'\n"
    shapes = linear_shapes("hidden.0", 6, 5) | linear_shapes("hidden.1", 5, 4) | linear_shapes("output", 4, 3)
    return toml, (2, 3), shapes, forward


def gelu_tanh(x):
    return F.gelu(x, approximate="tanh")


def cnn():
    def forward(model, x, training):
        x = F.relu(model.normed("stem", x.permute(0, 3, 1, 2), 1, 1, training))
        x = model.residual("stages.0.0", x, 1, training)
        x = model.residual("stages.1.0", x, 2, training)
        return model.linear("output", x.mean((2, 3)))

    toml = "[model]\ntype = 'cnn'\nchannels = [2, 3]\nstrides = [1, 2]\n"
    shapes = normed_shapes("stem", 2, 2, 3)
    shapes |= normed_shapes("stages.0.0.first", 2, 2, 3) | normed_shapes("stages.0.0.second", 2, 2, 3)
    shapes |= normed_shapes("stages.1.0.first", 2, 3, 3) | normed_shapes("stages.1.0.second", 3, 3, 3)
    shapes |= normed_shapes("stages.1.0.projection", 2, 3, 1) | linear_shapes("output", 3, 3)
    return toml, (5, 4, 2), shapes, forward


def sequential():
    def forward(model, x, training):
        x = torch.tanh(model.convolution("layers.0", x.permute(0, 3, 1, 2), 2, 2))
        x = model.batch_norm("layers.1", x, training)
        x = F.max_pool2d(x, 3, 1, 1)
        x = F.avg_pool2d(x, 2, 2, 1)
        x = x.permute(0, 2, 3, 1).flatten(1)
        gamma, beta = model.parameters["layers.5.gamma"], model.parameters["layers.5.beta"]
        return model.linear("layers.7", F.softplus(F.layer_norm(x, x.shape[1:], gamma, beta, 1e-5)))

    toml = """[model]
type = 'sequential'
layers = [
  {type = 'convolution', channels = 3, kernel = 5, stride = 2, padding = 2, activation = 'tanh'},
  {type = 'batch_norm'},
  {type = 'max_pool', kernel = 3, stride = 1, padding = 1},
  {type = 'average_pool', kernel = 2, stride = 2, padding = 1},
  {type = 'flatten'},
  {type = 'layer_norm'},
  {type = 'activation', function = 'softplus'},
  {type = 'linear', units = 3},
]
"""
    shapes = {"layers.0.weight": (3, 5, 5, 1), "layers.0.bias": (3,)} | norm_shapes("layers.1", 3)
    shapes |= norm_shapes("layers.5", 18) | linear_shapes("layers.7", 18, 3)
    return toml, (7, 6, 1), shapes, forward


def recurrent(kind):
    """Two stacked layers through torch.nn's own class, the second in both directions, then a linear layer."""
    gates = {"rnn_tanh": 1, "rnn_relu": 1, "lstm": 4, "gru": 3}[kind]
    features, units, steps = 2, 3, 4

    def layer_shapes(scope, inputs):
        shapes = {
            scope + "weight": (inputs, gates * units),
            scope + "recurrent_weight": (units, gates * units),
            scope + "bias": (gates * units,),
        }
        return shapes | ({scope + "recurrent_bias": (units,)} if kind == "gru" else {})

    def torch_parameters(model, scope):
        bias = model.parameters[scope + "bias"]
        rest = torch.zeros(gates * units, dtype=torch.float64)
        if kind == "gru":
            rest = torch.cat([rest[: 2 * units], model.parameters[scope + "recurrent_bias"]])
        return [model.parameters[scope + "weight"].T, model.parameters[scope + "recurrent_weight"].T, bias, rest]

    def run(x, tensors, both):
        module = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}.get(kind, torch.nn.RNN)
        options = {"nonlinearity": kind[4:]} if module is torch.nn.RNN else {}
        network = module(x.shape[2], units, batch_first=True, bidirectional=both, dtype=torch.float64, **options)
        names = [name for name, _ in network.named_parameters()]
        sequence, final = torch.func.functional_call(network, dict(zip(names, tensors)), (x,))
        return sequence, final[0] if kind == "lstm" else final

    def forward(model, x, training):
        sequence, _ = run(x, torch_parameters(model, "layers.0."), False)
        both = torch_parameters(model, "layers.1.forward.") + torch_parameters(model, "layers.1.backward.")
        _, final = run(sequence, both, True)
        return model.linear("layers.2", torch.cat([final[0], final[1]], 1))

    toml = f"""[model]
type = 'sequential'
layers = [
  {{type = 'recurrent', cell = '{kind}', units = {units}, return = 'sequence'}},
  {{type = 'recurrent', cell = '{kind}', units = {units}, direction = 'both'}},
  {{type = 'linear', units = 3}},
]
"""
    shapes = layer_shapes("layers.0.", features)
    shapes |= layer_shapes("layers.1.forward.", units) | layer_shapes("layers.1.backward.", units)
    return toml, (steps, features), shapes | linear_shapes("layers.2", 2 * units, 3), forward


def transformer():
    """torch.nn's own pre-norm encoder layers, one of them causal and with the tanh form of GELU, between positions and the mean over them."""
    steps, features, heads, expansion = 5, 4, 2, 3

    def block_shapes(scope):
        shapes = norm_shapes(scope + ".attention_norm", features) | norm_shapes(scope + ".feedforward_norm", features)
        shapes |= linear_shapes(scope + ".attention.qkv", features, 3 * features)
        shapes |= linear_shapes(scope + ".attention.output", features, features)
        shapes |= linear_shapes(scope + ".expand", features, expansion * features)
        return shapes | linear_shapes(scope + ".contract", expansion * features, features)

    def block(model, scope, x, causal):
        layer = torch.nn.TransformerEncoderLayer(
            features, heads, expansion * features, 0.0, gelu_tanh if causal else F.gelu, batch_first=True, norm_first=True, dtype=torch.float64
        )
        ours = {"self_attn.in_proj_": ".attention.qkv.", "self_attn.out_proj.": ".attention.output."}
        ours |= {"linear1.": ".expand.", "linear2.": ".contract."}
        norms = {"norm1.": ".attention_norm.", "norm2.": ".feedforward_norm."}
        tensors = {}
        for theirs, name in ours.items():
            tensors[theirs + "weight"] = model.parameters[scope + name + "weight"].T
            tensors[theirs + "bias"] = model.parameters[scope + name + "bias"]
        for theirs, name in norms.items():
            tensors[theirs + "weight"] = model.parameters[scope + name + "gamma"]
            tensors[theirs + "bias"] = model.parameters[scope + name + "beta"]
        mask = torch.full((steps, steps), -torch.inf, dtype=torch.float64).triu(1) if causal else None
        return torch.func.functional_call(layer, tensors, (x,), {"src_mask": mask})

    def forward(model, x, training):
        x = x + model.parameters["layers.0.weight"]
        x = block(model, "layers.2", block(model, "layers.1", x, True), False)
        return model.linear("layers.4", x.mean(1))

    toml = """[model]
type = 'sequential'
layers = [
  {type = 'positions'},
  {type = 'transformer_block', heads = 2, expansion = 3, causal = true, activation = 'gelu_tanh'},
  {type = 'transformer_block', heads = 2, expansion = 3},
  {type = 'mean_positions'},
  {type = 'linear', units = 3},
]
"""
    shapes = {"layers.0.weight": (steps, features)} | block_shapes("layers.1") | block_shapes("layers.2")
    return toml, (steps, features), shapes | linear_shapes("layers.4", features, 3), forward


def write(name, case, seed):
    toml, sample, shapes, forward = case
    model = Model(shapes, seed)
    batch = 4
    x = torch.from_numpy(np.round(np.random.default_rng(seed + 100).standard_normal((batch, *sample)), 3))
    labels = [0, 2, 1, 2]
    outputs = forward(model, x, True)
    F.cross_entropy(outputs, torch.tensor(labels), reduction="sum").backward()
    record = {
        "toml": toml,
        "sample": list(sample),
        "input": x.flatten().tolist(),
        "labels": labels,
        "parameters": [
            {"name": key, "values": p.detach().flatten().tolist(), "gradient": p.grad.flatten().tolist()}
            for key, p in model.parameters.items()
        ],
        "training_output": outputs.flatten().tolist(),
        "statistics": [{"name": key, "values": s.flatten().tolist()} for key, s in model.statistics.items()],
        "evaluation_output": forward(model, x, False).flatten().tolist(),
    }
    (FOLDER / f"{name}.json").write_text(json.dumps(record, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    write("mlp", mlp("gelu", F.gelu), 1)
    write("cnn", cnn(), 2)
    write("sequential", sequential(), 3)
    for kind, seed in {"rnn_tanh": 4, "rnn_relu": 63, "lstm": 6, "gru": 7}.items():
        write(kind, recurrent(kind), seed)
    write("transformer", transformer(), 8)
    write("mlp_gelu_tanh", mlp("gelu_tanh", gelu_tanh), 9)
