#!/usr/bin/env python3
"""Writes goldens/*.json: the paths that PyTorch's optimizers take in fp64 over two small problems.

Needs torch and numpy: python3 tests/optim/make_goldens.py
"""
import json
import pathlib

import numpy as np
import torch

STEPS = 100
KEPT = {1, 2, 3, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100}
FOLDER = pathlib.Path(__file__).parent / "goldens"


def make_problems():
    rng = np.random.default_rng(20240607)
    d = 6
    rotation, _ = np.linalg.qr(rng.standard_normal((d, d)))
    matrix = rotation @ np.diag(np.geomspace(0.1, 100.0, d)) @ rotation.T
    matrix = (matrix + matrix.T) / 2
    quadratic = dict(matrix=matrix, linear=rng.standard_normal(d), start=2 * rng.standard_normal(d))

    n, d = 48, 5
    features = rng.standard_normal((n, d)) * np.array([0.3, 1.0, 3.0, 1.0, 0.1])
    labels = (features @ rng.standard_normal(d) + 0.5 * rng.standard_normal(n) > 0).astype(float)
    logistic = dict(features=features, labels=labels, start=0.5 * rng.standard_normal(d), l2=0.01)
    return dict(quadratic=quadratic, logistic=logistic)


def make_loss(name, problem):
    tensors = {key: torch.tensor(value, dtype=torch.float64) for key, value in problem.items()}
    if name == "quadratic":
        return lambda theta: 0.5 * theta @ tensors["matrix"] @ theta - tensors["linear"] @ theta

    def logistic_loss(theta):
        logits = tensors["features"] @ theta
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, tensors["labels"])
        return loss + 0.5 * tensors["l2"] * (theta @ theta)

    return logistic_loss


def walk(make_optimizer, loss, start, shape):
    theta = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64).reshape(shape))
    optimizer = make_optimizer([theta])
    path = []
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        loss(theta.flatten()).backward()
        optimizer.step()
        if step in KEPT:
            path.append(dict(step=step, parameters=theta.flatten().tolist()))
    return path


SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
NADAM, ADAGRAD, RMSPROP = torch.optim.NAdam, torch.optim.Adagrad, torch.optim.RMSprop
ADAFACTOR = torch.optim.Adafactor
MATRIX_CLASSES = [ADAFACTOR]  # treat matrices in another way than vectors
# file -> [(our [optimizer] table, learning rate, PyTorch's class, its arguments)]
CASES = {
    "sgd": [
        ("type = 'sgd'", 0.01, SGD, {}),
        ("type = 'sgd'\nweight_decay = 0.2", 0.005, SGD, dict(weight_decay=0.2)),
    ],
    "momentum_classical": [
        ("type = 'momentum'\nform = 'classical'", 0.005, SGD, dict(momentum=0.9)),
        ("type = 'momentum'\nform = 'classical'\nmomentum = 0.8\ndampening = 0.5\nweight_decay = 0.1", 0.01, SGD,
         dict(momentum=0.8, dampening=0.5, weight_decay=0.1)),
    ],
    "nesterov_classical": [
        ("type = 'nesterov'\nform = 'classical'", 0.005, SGD, dict(momentum=0.9, nesterov=True)),
        ("type = 'nesterov'\nform = 'classical'\nmomentum = 0.5\nweight_decay = 0.1", 0.01, SGD,
         dict(momentum=0.5, nesterov=True, weight_decay=0.1)),
    ],
    "adam": [
        ("type = 'adam'", 0.05, ADAM, {}),
        ("type = 'adam'\nbeta1 = 0.8\nbeta2 = 0.99\nepsilon = 1e-5\nweight_decay = 0.1", 0.02, ADAM,
         dict(betas=(0.8, 0.99), eps=1e-5, weight_decay=0.1)),
    ],
    "adamw": [
        ("type = 'adamw'", 0.05, ADAMW, {}),
        ("type = 'adamw'\nbeta1 = 0.8\nbeta2 = 0.99\nepsilon = 1e-5\nweight_decay = 0.3", 0.02, ADAMW,
         dict(betas=(0.8, 0.99), eps=1e-5, weight_decay=0.3)),
    ],
    "amsgrad": [
        ("type = 'adam'\nvariant = 'amsgrad'", 0.05, ADAM, dict(amsgrad=True)),
        ("type = 'adam'\nvariant = 'amsgrad'\nbeta2 = 0.9\nweight_decay = 0.1", 0.02, ADAM,
         dict(amsgrad=True, betas=(0.9, 0.9), weight_decay=0.1)),
        ("type = 'adamw'\nvariant = 'amsgrad'\nbeta2 = 0.9\nweight_decay = 0.3", 0.02, ADAMW,
         dict(amsgrad=True, betas=(0.9, 0.9), weight_decay=0.3)),
    ],
    "nadam": [
        ("type = 'nadam'", 0.05, NADAM, {}),
        ("type = 'nadam'\nbeta1 = 0.8\nbeta2 = 0.99\nepsilon = 1e-2\nmomentum_decay = 0.05\nweight_decay = 0.1", 0.005,
         NADAM, dict(betas=(0.8, 0.99), eps=1e-2, momentum_decay=0.05, weight_decay=0.1)),
    ],
    "adagrad": [
        ("type = 'adagrad'", 0.3, ADAGRAD, {}),
        ("type = 'adagrad'\nepsilon = 1e-3\nweight_decay = 0.1", 0.2, ADAGRAD, dict(eps=1e-3, weight_decay=0.1)),
    ],
    "rmsprop": [
        ("type = 'rmsprop'", 0.005, RMSPROP, {}),
        ("type = 'rmsprop'\nrho = 0.9\nepsilon = 1e-4\nweight_decay = 0.1", 0.002, RMSPROP,
         dict(alpha=0.9, eps=1e-4, weight_decay=0.1)),
        ("type = 'rmsprop'\ncentered = true\nepsilon = 1e-3", 0.002, RMSPROP, dict(centered=True, eps=1e-3)),
        ("type = 'rmsprop'\ncentered = true\nrho = 0.9\nepsilon = 1e-3\nweight_decay = 0.1", 0.002, RMSPROP,
         dict(centered=True, alpha=0.9, eps=1e-3, weight_decay=0.1)),
    ],
    "adafactor": [
        ("type = 'adafactor'", 0.05, ADAFACTOR, {}),
        ("type = 'adafactor'\ndecay_exponent = 0.5\nthreshold = 2\nscale_floor = 0.5\nepsilon = 1e-3\nweight_decay = 0.1",
         0.02, ADAFACTOR, dict(beta2_decay=-0.5, d=2.0, eps=(1e-3, 0.5), weight_decay=0.1)),
    ],
}


def write(name, content):
    (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def main():
    torch.set_default_dtype(torch.float64)  # NAdam keeps its product of momenta in the default type
    FOLDER.mkdir(exist_ok=True)
    problems = make_problems()
    write("problems", {name: {key: value.ravel().tolist() if isinstance(value, np.ndarray) else value
                              for key, value in problem.items()} for name, problem in problems.items()})
    for file, cases in CASES.items():
        entries = []
        for table, rate, optimizer_class, arguments in cases:
            for name, problem in problems.items():
                shapes = [[problem["start"].size]]
                if optimizer_class in MATRIX_CLASSES and name == "quadratic":
                    shapes += [[2, 3], [3, 2]]
                for shape in shapes:
                    path = walk(lambda parameters: optimizer_class(parameters, lr=rate, **arguments),
                                make_loss(name, problem), problem["start"], shape)
                    entries.append(dict(optimizer=table, learning_rate=rate, problem=name, shape=shape, path=path))
        write(file, dict(torch=torch.__version__.split("+")[0], cases=entries))


if __name__ == "__main__":
    main()
