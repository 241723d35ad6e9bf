#!/usr/bin/env python3
"""Writes goldens/minimizers.json: paths of minimizers over softmax regression on pooled digits, in fp64.

Needs numpy, scipy and scikit-learn (for its copy of the UCI digits); run it in this folder. trust_region is SciPy's
trust-ncg. The others are written here from the equations of Nocedal and Wright (2006), with the choices that
src/minimize documents, over a gradient and a Hessian in closed form.
"""
import json

import numpy as np
import scipy.optimize
from sklearn.datasets import load_digits

SAMPLES, L2 = 120, 1e-3
C1, C2 = 1e-4, 0.9


class Softmax:
    """L(W, b) = mean_i -log softmax(x_i W + b)_{y_i} + L2/2 (|W|^2 + |b|^2), theta = (b, W row by row)."""

    def __init__(self, x, y, classes):
        self.x, self.y, self.k = np.hstack([np.ones((len(x), 1)), x]), y, classes
        self.size = self.x.shape[1] * classes

    def p(self, theta):
        z = self.x @ theta.reshape(-1, self.k)
        z -= z.max(axis=1, keepdims=True)
        return z, np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)

    def value(self, theta):
        z, _ = self.p(theta)
        rows = np.arange(len(z))
        return (np.log(np.exp(z).sum(axis=1)) - z[rows, self.y]).mean() + L2 / 2 * theta @ theta

    def gradient(self, theta):
        _, p = self.p(theta)
        p[np.arange(len(p)), self.y] -= 1
        return (self.x.T @ p / len(p)).ravel() + L2 * theta

    def hessian(self, theta):
        _, p = self.p(theta)
        h = np.zeros((self.size, self.size))
        for row, q in zip(self.x, p):
            h += np.kron(np.outer(row, row), np.diag(q) - np.outer(q, q))
        return h / len(p) + L2 * np.eye(self.size)


class Line:
    """phi(a) = f(x + a d)."""

    def __init__(self, f, x, d):
        self.f, self.x, self.d = f, x, d
        self.at = lambda a: (a, f.value(x + a * d), f.gradient(x + a * d) @ d)
        self.start = self.at(0.0)

    def decreases(self, p):
        return p[1] <= self.start[1] + C1 * p[0] * self.start[2]

    def wolfe(self, p):
        return self.decreases(p) and abs(p[2]) <= -C2 * self.start[2]


def cubic(a, b):
    d1 = a[2] + b[2] - 3 * (a[1] - b[1]) / (a[0] - b[0])
    d2 = np.sign(b[0] - a[0]) * np.sqrt(d1**2 - a[2] * b[2])
    return b[0] - (b[0] - a[0]) * (b[2] + d2 - d1) / (b[2] - a[2] + 2 * d2)


def strong_wolfe(line, a):
    """Algorithms 3.5 and 3.6."""
    before = line.start
    while True:
        trial = line.at(a)
        if line.wolfe(trial):
            return trial[0]
        if not line.decreases(trial) or (before[0] > 0 and trial[1] >= before[1]):
            lo, hi = before, trial
            break
        if trial[2] >= 0:
            lo, hi = trial, before
            break
        guess = cubic(before, trial)
        least, most = a + 0.01 * (a - before[0]), 10 * a
        before, a = trial, min(max(guess, least), most) if guess > a else most
    while True:
        low, high = min(lo[0], hi[0]), max(lo[0], hi[0])
        inside = lambda s, share: low + share * (high - low) <= s <= high - share * (high - low)
        a = cubic(lo, hi)
        if not inside(a, 0.2):
            h = hi[0] - lo[0]
            a = lo[0] - lo[2] * h * h / (2 * (hi[1] - lo[1] - lo[2] * h))
        if not inside(a, 0.1):
            a = (lo[0] + hi[0]) / 2
        trial = line.at(a)
        if line.wolfe(trial):
            return trial[0]
        if not line.decreases(trial) or trial[1] >= lo[1]:
            hi = trial
        else:
            if trial[2] * (hi[0] - lo[0]) >= 0:
                hi = lo
            lo = trial


def armijo(line, a):
    while True:
        trial = line.at(a)
        if line.decreases(trial):
            return a
        quadratic = -line.start[2] * a * a / (2 * (trial[1] - line.start[1] - line.start[2] * a))
        a = min(max(quadratic, 0.1 * a), 0.5 * a)


def cautious(d):
    return min(1.0, 1.0 / np.abs(d).sum())


def gradient_descent(f, x, steps, search, momentum=0.0):
    """Along Polyak's velocity (1964) where there is a momentum, and where that descends."""
    expected, v = None, np.zeros_like(x)
    for _ in range(steps):
        g = f.gradient(x)
        v = momentum * v + g
        if g @ v <= 0:
            print("gradient_descent: the velocity begins anew")
            v, expected = g, None
        first = cautious(v) if expected is None else 2.02 * expected / (g @ v)
        new = x - search(Line(f, x, -v), first) * v
        expected = f.value(x) - f.value(new)
        x = new
        yield x


def newton(f, x, steps):
    for _ in range(steps):
        d = -np.linalg.solve(f.hessian(x), f.gradient(x))
        x = x + strong_wolfe(Line(f, x, d), 1.0) * d
        yield x


def bfgs(f, x, steps):
    """Equation 6.17, begun with H = (y's / y'y) I before the first update."""
    h = None
    for _ in range(steps):
        g = f.gradient(x)
        d = -g if h is None else -h @ g
        new = x + strong_wolfe(Line(f, x, d), cautious(d) if h is None else 1.0) * d
        s, y = new - x, f.gradient(new) - g
        if h is None:
            h = np.eye(len(x)) * (y @ s) / (y @ y)
        v = np.eye(len(x)) - np.outer(s, y) / (y @ s)
        h = v @ h @ v.T + np.outer(s, s) / (y @ s)
        x = new
        yield x


def lbfgs(f, x, steps, history):
    """Algorithm 7.4, by the dense matrix that its recursion stands for."""
    pairs = []
    for _ in range(steps):
        g = f.gradient(x)
        d = -g
        if pairs:
            s, y = pairs[-1]
            h = np.eye(len(x)) * (y @ s) / (y @ y)
            for s, y in pairs:
                v = np.eye(len(x)) - np.outer(s, y) / (y @ s)
                h = v @ h @ v.T + np.outer(s, s) / (y @ s)
            d = -h @ g
        a = strong_wolfe(Line(f, x, d), 1.0 if pairs else cautious(d))
        new = x + a * d
        s, y = new - x, f.gradient(new) - g
        # B s = -a g: no pair of this convex path is damped.
        assert not pairs or y @ s >= 1e-2 * (s @ (-a * g))
        pairs = (pairs + [(s, y)])[-history:]
        x = new
        yield x


def newton_cg(f, x, steps, damping=0.0):
    """Algorithm 7.1 with the second choice of Eisenstat and Walker (1996); damped as in section 4.1 of Martens (2010)."""
    eta, before, ratios = 0.5, None, []
    for _ in range(steps):
        g, b = f.gradient(x), f.hessian(x) + damping * np.eye(len(x))
        size = np.linalg.norm(g)
        if before is not None:
            new = 0.9 * (size / before) ** 2
            if 0.9 * eta**2 > 0.1:
                new = max(new, 0.9 * eta**2)
            eta = min(new, 0.9)
        p, r, d = np.zeros_like(x), g.copy(), -g
        while True:
            bd = b @ d
            a = r @ r / (d @ bd)
            p, next_r = p + a * d, r + a * bd
            if np.linalg.norm(next_r) <= eta * size:
                break
            d = -next_r + (next_r @ next_r) / (r @ r) * d
            r = next_r
        s = strong_wolfe(Line(f, x, p), 1.0) * p
        ratio = (f.value(x + s) - f.value(x)) / (g @ s + s @ b @ s / 2)
        damping *= 1.5 if ratio < 0.25 else 2 / 3 if ratio > 0.75 else 1.0
        ratios.append(ratio)
        x = x + s
        before = size
        yield x
    print("newton_cg: ratios", ratios, "damping", damping)


def natural_gradient(f, x, steps, damping, rate):
    """Amari (1998): the Fisher information of softmax regression is its Hessian."""
    for _ in range(steps):
        d = -np.linalg.solve(f.hessian(x) + damping * np.eye(len(x)), f.gradient(x))
        x = x + (rate or strong_wolfe(Line(f, x, d), 1.0)) * d
        yield x


def trust_region(f, x, steps):
    path = []
    scipy.optimize.minimize(f.value, x, jac=f.gradient, hess=f.hessian, method="trust-ncg", callback=path.append,
                            options={"gtol": 0.0, "maxiter": steps})
    return path


def main():
    digits = load_digits()
    x = digits.images[:SAMPLES].reshape(-1, 4, 2, 4, 2).sum(axis=(2, 4)).reshape(SAMPLES, 16).astype(int)
    y = digits.target[:SAMPLES].astype(int)
    f = Softmax(x / 16.0, y, 10)
    start = np.zeros(f.size)
    # The features are scaled in fp32, exactly.
    result = {"inputs": x.ravel().tolist(), "divisor": 16, "labels": y.tolist(), "l2": L2, "paths": {}}
    paths = {
        "gradient_descent": gradient_descent(f, start, 10, strong_wolfe),
        "gradient_descent_armijo": gradient_descent(f, start, 10, armijo),
        "momentum": gradient_descent(f, start, 10, strong_wolfe, 0.9),
        "momentum_armijo": gradient_descent(f, start, 10, armijo, 0.5),
        "bfgs": bfgs(f, start, 12),
        "lbfgs": lbfgs(f, start, 12, 5),
        "newton": newton(f, start, 5),
        "newton_cg": newton_cg(f, start, 4),
        "newton_cg_damped": newton_cg(f, start, 6, 0.02),
        "natural_gradient": natural_gradient(f, start, 5, 0.05, None),
        "natural_gradient_rate": natural_gradient(f, start, 8, 0.05, 0.7),
        "trust_region": trust_region(f, start, 7),
    }
    for name, path in paths.items():
        points = [start, *path]
        result["paths"][name] = {
            "losses": [float(f.value(p)) for p in points],
            "lengths": [float(np.linalg.norm(b - a)) for a, b in zip(points, points[1:])],
            "end": [float(v) for v in points[-1]],
        }
        print(name, len(points) - 1, result["paths"][name]["losses"][-1], np.abs(f.gradient(points[-1])).max())
    with open("goldens/minimizers.json", "w") as file:
        json.dump(result, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
