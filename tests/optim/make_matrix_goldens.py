#!/usr/bin/env python3
"""Writes goldens/shampoo.json and goldens/soap.json: paths in fp64 of the papers' equations in NumPy.

Shampoo: Gupta, Koren and Singer 2018 with the averages, blocks and grafting of Shi et al. 2023; SOAP: Vyas et al.
2024, algorithm 3, with the first moment kept in the parameter's own axes and projected at each step.

Needs numpy, and goldens/problems.json (make_goldens.py): python3 tests/optim/make_matrix_goldens.py
"""
import json
import pathlib

import numpy as np

STEPS = 100
KEPT = {1, 2, 3, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100}
FOLDER = pathlib.Path(__file__).parent / "goldens"


def gradient_of(name, problem):
    p = {key: np.array(value) for key, value in problem.items()}
    if name == "quadratic":
        matrix = p["matrix"].reshape(6, 6)
        return lambda theta: matrix @ theta - p["linear"]
    features = p["features"].reshape(len(p["labels"]), -1)
    return lambda theta: (features.T @ (1 / (1 + np.exp(-features @ theta)) - p["labels"]) / len(features)
                          + p["l2"] * theta)


def inverse_root(a, exponent, epsilon):
    values, vectors = np.linalg.eigh(a)
    values = values - min(values.min(), 0.0) + epsilon
    return vectors @ np.diag(values ** -exponent) @ vectors.T


class Shampoo:
    def __init__(self, shape, block=1024, beta1=0.9, beta2=0.999, epsilon=1e-8, root_epsilon=1e-12, exponent=0.25,
                 statistics_every=1, root_every=100, start=0, grafting="adam", grafting_beta2=0.999, weight_decay=0.01):
        self.__dict__.update(locals())
        self.start = start or (1 if grafting == "none" else root_every)
        self.k = self.gathered = 0
        self.m, self.v = np.zeros(shape), np.zeros(shape)
        rows = [slice(i, min(i + block, shape[0])) for i in range(0, shape[0], block)]
        columns = [slice(j, min(j + block, shape[1])) for j in range(0, shape[1], block)]
        self.blocks = [(r, c) for r in rows for c in columns]
        self.factors = [[np.zeros((r.stop - r.start,) * 2), np.zeros((c.stop - c.start,) * 2)] for r, c in self.blocks]
        self.roots = [None] * len(self.blocks)

    def step(self, theta, g, rate):
        self.k += 1
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        self.v = self.grafting_beta2 * self.v + (1 - self.grafting_beta2) * g * g
        mean = self.m / (1 - self.beta1 ** self.k)
        grafted = mean
        if self.grafting == "adam":
            grafted = mean / (np.sqrt(self.v / (1 - self.grafting_beta2 ** self.k)) + self.epsilon)
        if (self.k - 1) % self.statistics_every == 0:
            self.gathered += 1
            share = 1 if self.beta2 == 1 else 1 - self.beta2
            for factors, at in zip(self.factors, self.blocks):
                factors[0] = self.beta2 * factors[0] + share * g[at] @ g[at].T
                factors[1] = self.beta2 * factors[1] + share * g[at].T @ g[at]
        if self.k >= self.start and (self.k - self.start) % self.root_every == 0:
            lacking = 1 if self.beta2 == 1 else 1 - self.beta2 ** self.gathered
            self.roots = [[inverse_root(f / lacking, self.exponent, self.root_epsilon) for f in factors]
                          for factors in self.factors]
        direction = np.array(grafted)
        if self.k >= self.start:
            for (left, right), at in zip(self.roots, self.blocks):
                direction[at] = left @ mean[at] @ right
                if self.grafting != "none":
                    direction[at] *= np.linalg.norm(grafted[at]) / np.linalg.norm(direction[at])
        return theta - rate * (direction + self.weight_decay * theta)


class Soap:
    def __init__(self, shape, beta1=0.95, beta2=0.95, epsilon=1e-8, basis_every=10, most_dimension=10000,
                 weight_decay=0.01):
        self.__dict__.update(locals())
        self.k = -1
        self.m, self.v = np.zeros(shape), np.zeros(shape)
        self.factors = [np.zeros((n, n)) for n in shape]
        self.bases = [np.eye(n) for n in shape]
        self.sides = [side for side in (0, 1) if shape[side] <= most_dimension]

    def gather(self, g):
        for factor, square in zip(self.factors, (g @ g.T, g.T @ g)):
            factor *= self.beta2
            factor += (1 - self.beta2) * square

    def step(self, theta, g, rate):
        self.k += 1
        if self.k == 0:
            self.gather(g)
            for side in self.sides:
                self.bases[side] = np.linalg.eigh(self.factors[side])[1][:, ::-1]
            return theta
        left, right = self.bases
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        projected = left.T @ g @ right
        self.v = self.beta2 * self.v + (1 - self.beta2) * projected * projected
        step = rate * np.sqrt(1 - self.beta2 ** self.k) / (1 - self.beta1 ** self.k)
        theta = theta - step * left @ ((left.T @ self.m @ right) / (np.sqrt(self.v) + self.epsilon)) @ right.T
        theta = theta * (1 - rate * self.weight_decay)
        self.gather(g)
        if self.k % self.basis_every == 0:
            for side in self.sides:
                basis, factor = self.bases[side], self.factors[side]
                order = np.argsort(-np.diag(basis.T @ factor @ basis), kind="stable")
                self.v = np.take(self.v, order, axis=side)
                self.bases[side] = np.linalg.qr(factor @ basis[:, order])[0]
        return theta


# file -> (class, [(its arguments, learning rate)]); tables spell the same arguments
CASES = {
    "shampoo": (Shampoo, [
        (dict(root_every=5, root_epsilon=1e-4), 0.05),
        (dict(block=2, root_every=4, root_epsilon=1e-6, beta1=0.8, beta2=0.9, weight_decay=0.1), 0.02),
        (dict(beta2=1, statistics_every=3, root_every=7, start=4, grafting="sgd", exponent=0.5, epsilon=1e-4,
              root_epsilon=1e-3), 0.005),
        (dict(grafting="none", root_every=2, root_epsilon=1e-3, beta2=0.99), 0.02),
    ]),
    # The gradient that made the bases comes again in the second update, diagonal in them: what is 0 there but for
    # rounding is divided by itself and epsilon.
    "soap": (Soap, [
        (dict(epsilon=1e-3), 0.05),
        (dict(beta1=0.8, beta2=0.9, epsilon=1e-2, basis_every=3, weight_decay=0.2), 0.02),
        (dict(epsilon=1e-3, basis_every=1, most_dimension=2), 0.03),
    ]),
}


def table(name, arguments):
    lines = [f"type = '{name}'"]
    for key, value in arguments.items():
        lines.append(f"{key} = '{value}'" if isinstance(value, str) else f"{key} = {value}")
    return "\n".join(lines)


def main():
    problems = json.loads((FOLDER / "problems.json").read_text())
    for file, (make, cases) in CASES.items():
        entries = []
        for arguments, rate in cases:
            # SOAP's basis of a factor with several eigenvalues of 0, as one gradient's row makes it, is anybody's.
            shapes = [("quadratic", (2, 3)), ("quadratic", (3, 2))]
            if make is Shampoo or arguments.get("most_dimension"):
                shapes.append(("logistic", (1, 5)))
            for problem, shape in shapes:
                method, gradient = make(shape, **arguments), gradient_of(problem, problems[problem])
                theta = np.array(problems[problem]["start"]).reshape(shape)
                path = []
                for step in range(1, STEPS + 1):
                    theta = method.step(theta, gradient(theta.ravel()).reshape(shape), rate)
                    if step in KEPT:
                        path.append(dict(step=step, parameters=theta.ravel().tolist()))
                entries.append(dict(optimizer=table(file, arguments), learning_rate=rate, problem=problem,
                                    shape=list(shape), path=path))
        (FOLDER / f"{file}.json").write_text(json.dumps(dict(numpy=np.__version__, cases=entries), indent=1) + "\n")


if __name__ == "__main__":
    main()
