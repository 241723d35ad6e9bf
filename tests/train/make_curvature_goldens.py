#!/usr/bin/env python3
"""Writes goldens/curvature.json: paths in fp64 of K-FAC, from the equations of Martens and Grosse (2015), Grosse and
Martens (2016) and George et al. (2018); of Sophia-G (Liu et al. 2023), AdaHessian (Yao et al. 2021) and descent by
Hutchinson's diagonal; with the choices that src/optim documents.

Derivatives are PyTorch's; rows of layers, factors, inverses, draws (Philox 4x32-10, written here) and updates are NumPy's.
Needs numpy and torch; run it in this folder.
"""
import json

import numpy as np
import torch

MASK = (1 << 32) - 1
SEED, PREDICTIONS, SIGNS = 7, 22, 23
ALIGNMENT = 64  # of parameters in the flat array


def mix64(x):
    m = (1 << 64) - 1
    x = (x + 0x9E3779B97F4A7C15) & m
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & m
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & m
    return x ^ (x >> 31)


def philox(counter, purpose=PREDICTIONS):
    mixed = mix64(mix64(SEED) ^ purpose)
    k, c = [mixed & MASK, mixed >> 32], list(counter)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & MASK, (p0 >> 32) ^ c[3] ^ k[1], p0 & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def uniform(high, low):
    return (((high << 32) | low) >> 11) / 2.0**53


def uniform_draw(i, step, micro_batch):
    r = philox([i // 2, 0, step, micro_batch])
    return uniform(r[0], r[1]) if i % 2 == 0 else uniform(r[2], r[3])


def normal_draw(i, step, micro_batch):
    r = philox([i // 2, 0, step, micro_batch])
    radius = np.sqrt(-2 * np.log(1 - uniform(r[0], r[1])))
    turn = np.pi * 2 * uniform(r[2], r[3])
    return radius * (np.cos(turn) if i % 2 == 0 else np.sin(turn))


# ---- models: lists of (kind, ...); parameters are a weight and a bias a layer (a table has none).


def patches(x, kernel, stride, padding):
    x = torch.nn.functional.pad(x, (0, 0, padding, padding, padding, padding))
    count = (x.shape[1] - kernel) // stride + 1
    rows = [x[:, i * stride:i * stride + kernel, j * stride:j * stride + kernel, :].reshape(x.shape[0], -1)
            for i in range(count) for j in range(count)]
    return torch.stack(rows, 1).reshape(x.shape[0] * count * count, -1)


def forward(model, theta, x, rows):
    """Outputs; rows gets (a, z) of each layer, z with its gradient kept."""
    theta = iter(theta)
    h = x
    for kind, *options in model:
        if kind == "tanh":
            h = torch.tanh(h)
            continue
        w = next(theta)
        if kind == "linear":
            a = h.reshape(h.shape[0], -1)
            z = a @ w + next(theta)
            shape = z.shape
        elif kind == "table":
            a = torch.nn.functional.one_hot(h.reshape(-1), w.shape[0]).double()
            z = a @ w
            shape = (*h.shape, w.shape[1])
        else:
            a = patches(h, *options)
            z = a @ w.reshape(w.shape[0], -1).T + next(theta)
            side = int(round((a.shape[0] / h.shape[0]) ** 0.5))
            shape = (h.shape[0], side, side, w.shape[0])
        if z.requires_grad:
            z.retain_grad()
        rows.append((a, z))
        h = z.reshape(shape)
    return h.reshape(h.shape[0], -1)


def losses(task, outputs, targets):
    if task == "regression":
        return ((outputs - targets) ** 2).mean(1)
    if task == "logistic":
        return torch.nn.functional.softplus(outputs[:, 0]) - targets * outputs[:, 0]
    return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")


def scores(task, outputs, targets, weights, sampled, step, m):
    outputs = outputs.detach()
    n, k = outputs.shape
    result = torch.zeros_like(outputs)
    for i in range(n):
        if task == "regression":
            for j in range(k):
                result[i, j] = (-np.sqrt(2 / k) * normal_draw(i * k + j, step, m) if sampled
                                else 2 / k * (outputs[i, j] - targets[i, j]))
        elif task == "logistic":
            p = torch.sigmoid(outputs[i, 0])
            result[i, 0] = p - (float(uniform_draw(i, step, m) < p) if sampled else targets[i])
        else:
            p = torch.softmax(outputs[i], 0)
            label = targets[i]
            if sampled:
                label = int(np.searchsorted(np.cumsum(p.numpy()), uniform_draw(i, step, m), side="right"))
            result[i] = p
            result[i, label] -= 1
    return result * torch.sqrt(weights)[:, None]


# ---- the optimizer


class Kfac:
    defaults = dict(method="cholesky", fisher="sampled", factor_every=10, inverse_every=100, scales_every=1,
                    factor_decay=0.95, damping=1e-3, least_damping=1e-8, adapt_every=0, kl_clip=1e-3, max_size=4096,
                    momentum=0.9, weight_decay=0.0, beta1=0.9, beta2=0.999, epsilon=1e-8)

    def __init__(self, model, adamw, **options):
        self.__dict__.update(self.defaults | options)
        self.model, self.updates, self.gathered = model, 0, 0
        self.kinds = [kind for kind, *_ in model if kind != "tanh"]
        self.adamw = adamw  # layers
        self.state = [{} for _ in self.kinds]
        self.velocity, self.moments = {}, {}

    def square(self, layer, side, n):
        return n <= self.max_size and not (side == 0 and self.kinds[layer] == "table")

    def side(self, layer, side, x):
        return x.T @ x if self.square(layer, side, x.shape[1]) else (x * x).sum(0)

    def inverts(self):
        u, f = self.updates, self.factor_every
        return u % self.inverse_every == 0 or (u < self.inverse_every and u % f == 0 and bin(u // f).count("1") == 1)

    def sweep(self, theta, batches, task, step):
        """Rows a with their 1 and g of every layer, over all micro-batches; the weight."""
        all_rows, weight = [([], []) for _ in self.kinds], 0.0
        for m, (x, y, w) in enumerate(batches):
            rows = []
            outputs = forward(self.model, theta, x, rows)
            outputs.backward(scores(task, outputs, y, w, self.fisher == "sampled", step, m))
            weight += float(w.sum())
            for layer, (a, z) in enumerate(rows):
                a = a.detach().numpy()
                if self.kinds[layer] != "table":
                    a = np.hstack([a, np.ones((len(a), 1))])
                all_rows[layer][0].append(a)
                all_rows[layer][1].append(z.grad.numpy())
        return [(np.vstack(a), np.vstack(g)) for a, g in all_rows], weight

    def gather(self, theta, batches, task, step):
        factors = self.updates % self.factor_every == 0
        scales = (self.method == "ekfac" and self.updates > 0 and self.updates % self.scales_every == 0
                  and not self.inverts())
        if not factors and not scales:
            return
        self.gathered += factors
        rows, weight = self.sweep(theta, batches, task, step)
        for layer, (a, g) in enumerate(rows):
            if layer in self.adamw:
                continue
            s, d = self.state[layer], self.factor_decay
            if factors:
                s.setdefault("factors", [0.0, 0.0])
                s["factors"][0] = d * s["factors"][0] + (1 - d) * self.side(layer, 0, a) / len(a)
                s["factors"][1] = d * s["factors"][1] + (1 - d) * self.side(layer, 1, g) / weight
            if scales:
                x = [r if b is None else r @ b for r, b in zip((a, g), s["bases"])]
                s["scales"] = d * s["scales"] + (1 - d) * (x[0] ** 2).T @ (x[1] ** 2) / weight

    def invert(self):
        for layer, s in enumerate(self.state):
            if layer in self.adamw:
                continue
            factors = [f / (1 - self.factor_decay**self.gathered) for f in s["factors"]]
            means = [(np.trace(f) if f.ndim == 2 else f.sum()) / len(f) for f in factors]
            pi, root = np.sqrt(means[0] / means[1]), np.sqrt(self.damping)
            s["inverses"], s["bases"], s["values"] = [], [], []
            for f, added in zip(factors, (pi * root, root / pi)):
                if f.ndim == 1:
                    s["inverses"].append(np.diag(1 / (f + added)))
                    s["bases"].append(None)
                    s["values"].append(f)
                else:
                    s["inverses"].append(np.linalg.inv(f + added * np.eye(len(f))))
                    values, basis = np.linalg.eigh(f)
                    s["bases"].append(basis)
                    s["values"].append(np.maximum(values, 0))
            s["scales"] = np.outer(*s["values"])

    def direction(self, layer, d):
        s = self.state[layer]
        if self.method == "cholesky":
            return s["inverses"][0] @ d @ s["inverses"][1]
        q, p = [np.eye(n) if b is None else b for b, n in zip(s["bases"], d.shape)]
        scales = s["scales"] if self.method == "ekfac" else np.outer(*s["values"])
        return q @ ((q.T @ d @ p) / (scales + self.damping)) @ p.T

    def objective(self, theta, batches, task):
        total, weight = 0.0, 0.0
        for x, y, w in batches:
            total = total + (losses(task, forward(self.model, theta, x, []), y) * w).sum()
            weight += float(w.sum())
        return total / weight

    def curvature(self, theta, batches, task, v):
        """v'Gv of the Gauss-Newton matrix."""
        total, weight = 0.0, 0.0
        for x, y, w in batches:
            outputs, tangent = torch.func.jvp(lambda *t: forward(self.model, t, x, []), tuple(t.detach() for t in theta),
                                              tuple(v))
            hessian = torch.func.hessian(lambda o: (losses(task, o, y) * w).sum())(outputs)
            total += float((tangent.flatten() @ hessian.reshape(tangent.numel(), -1)) @ tangent.flatten())
            weight += float(w.sum())
        return total / weight

    def step(self, theta, batches, task, rate, step):
        theta = [t.clone().requires_grad_(True) for t in theta]
        loss = self.objective(theta, batches, task)
        gradients = [g.numpy() for g in torch.autograd.grad(loss, theta)]
        self.gather(theta, batches, task, step)
        if self.inverts():
            self.invert()
        # Parameters of each layer, joined to (inputs, outputs) with the bias below.
        index, directions, total, parts = 0, {}, 0.0, []
        for layer, kind in enumerate(self.kinds):
            own = [index] if kind == "table" else [index, index + 1]
            index += len(own)
            parts.append(own)
            if layer in self.adamw:
                continue
            w = gradients[own[0]]
            matrix = w.reshape(w.shape[0], -1).T if kind == "convolution" else w
            d = matrix if kind == "table" else np.vstack([matrix, gradients[own[1]]])
            found = self.direction(layer, d)
            total += rate**2 * abs((d * found).sum())
            directions[layer] = found
        shorter = np.sqrt(self.kl_clip / total) if 0 < self.kl_clip < total else 1.0
        new = [t.detach().numpy().copy() for t in theta]
        for layer, own in enumerate(parts):
            if layer in self.adamw:
                for i in own:
                    m, v = self.moments.get(i, (0.0, 0.0))
                    m = self.beta1 * m + (1 - self.beta1) * gradients[i]
                    v = self.beta2 * v + (1 - self.beta2) * gradients[i] ** 2
                    self.moments[i] = m, v
                    k = self.updates + 1
                    new[i] = (1 - rate * self.weight_decay) * new[i]
                    new[i] -= rate * (m / (1 - self.beta1**k)) / (np.sqrt(v / (1 - self.beta2**k)) + self.epsilon)
                continue
            found = directions[layer] * shorter
            bias = None if self.kinds[layer] == "table" else found[-1]
            weight = found if bias is None else found[:-1]
            pieces = [(weight.T if self.kinds[layer] == "convolution" else weight).reshape(new[own[0]].shape), bias]
            for i, piece in zip(own, pieces):
                self.velocity[i] = self.momentum * self.velocity.get(i, 0.0) + piece
                new[i] -= rate * (self.velocity[i] + self.weight_decay * new[i])
        self.updates += 1
        result = [torch.tensor(n) for n in new]
        if self.adapt_every and self.updates % self.adapt_every == 0:
            change = [r - t.detach() for r, t in zip(result, theta)]
            predicted = sum(float((torch.tensor(g) * c).sum()) for g, c in zip(gradients, change))
            predicted += 0.5 * self.curvature(theta, batches, task, change)
            predicted += 0.5 * self.damping * sum(float((c * c).sum()) for c in change)
            rho = (float(self.objective(result, batches, task)) - float(loss.detach())) / predicted
            if not rho >= 0.25:
                self.damping /= 0.9**self.adapt_every
            if rho > 0.75:
                self.damping *= 0.9**self.adapt_every
            self.damping = max(self.damping, self.least_damping)
        return result, float(loss.detach())


class Diagonal:
    """sophia, adahessian and diagonal."""

    def __init__(self, model, adamw, kind, **options):
        defaults = {"sophia": dict(beta1=0.965, beta2=0.99, rho=0.04, every=10, weight_decay=0.1),
                    "adahessian": dict(beta1=0.9, beta2=0.999, epsilon=1e-4, every=1, weight_decay=0.0),
                    "diagonal": dict(memory=0.5, smallest_curvature=1e-6, every=1, weight_decay=0.0)}
        self.__dict__.update(defaults[kind] | options)
        self.model, self.kind, self.updates, self.estimates, self.damping = model, kind, 0, 0, 0.0
        self.m = self.h = None

    def predicted(self, theta, batches, task, step):
        """g o g / weight of the summed losses of drawn targets."""
        total, weight = 0.0, 0.0
        for m, (x, y, w) in enumerate(batches):
            outputs = forward(self.model, theta, x, [])
            total = total + (outputs * scores(task, outputs, y, w, True, step, m)).sum()
            weight += float(w.sum())
        return [(g**2).numpy() / weight for g in torch.autograd.grad(total, theta)]

    def hutchinson(self, theta, gradients):
        signs, offset = [], 0
        for t in theta:
            of_t = []
            for i in range(offset, offset + t.numel()):
                word = philox([i // 128, self.updates, 0, 0], SIGNS)[i % 128 // 32]
                of_t.append(1.0 if (word >> (i % 32)) % 2 == 0 else -1.0)
            signs.append(torch.tensor(of_t, dtype=torch.float64).reshape(t.shape))
            offset += -(-t.numel() // ALIGNMENT) * ALIGNMENT
        products = torch.autograd.grad(gradients, theta, grad_outputs=signs)
        return [(z * p).detach().numpy() for z, p in zip(signs, products)]

    def step(self, theta, batches, task, rate, step):
        theta = [t.clone().requires_grad_(True) for t in theta]
        loss = Kfac.objective(self, theta, batches, task)
        gradients = torch.autograd.grad(loss, theta, create_graph=True)
        g = [part.detach().numpy() for part in gradients]
        if self.m is None:
            self.m, self.h = [0 * part for part in g], [0 * part for part in g]
        keep = {"sophia": lambda: self.beta2, "adahessian": lambda: self.beta2, "diagonal": lambda: self.memory}[self.kind]()
        if self.updates % self.every == 0:
            self.estimates += 1
            found = self.predicted(theta, batches, task, step) if self.kind == "sophia" else self.hutchinson(theta, gradients)
            if self.kind == "adahessian":
                found = [np.broadcast_to(abs(d).mean((1, 2), keepdims=True), d.shape) ** 2 if d.ndim == 4 else d**2
                         for d in found]
            self.h = [keep * h + (1 - keep) * d for h, d in zip(self.h, found)]
        self.updates += 1
        result = []
        for i, t in enumerate(theta):
            t, h = t.detach().numpy(), self.h[i] / (1 if self.kind == "sophia" else 1 - keep**self.estimates)
            if self.kind == "diagonal":
                result.append(t - rate * (g[i] + self.weight_decay * t) / np.maximum(abs(h), self.smallest_curvature))
                continue
            self.m[i] = self.beta1 * self.m[i] + (1 - self.beta1) * g[i]
            if self.kind == "sophia":
                d = np.clip(self.m[i] / (self.rho * h + 1e-15), -1, 1)
            else:
                d = self.m[i] / (1 - self.beta1**self.updates) / (np.sqrt(h) + self.epsilon)
            result.append(t - rate * (d + self.weight_decay * t))
        return [torch.tensor(r) for r in result], float(loss.detach())


MLP = [("linear",), ("tanh",), ("linear",)]
MLP_TEXT = 'type = "mlp"\nhidden = [5]\nactivation = "tanh"\n'
# Strides that leave fewer features than samples: the basis of a null space is anybody's.
CONVOLUTION = [("convolution", 3, 4, 1), ("tanh",), ("linear",)]
CONVOLUTION_TEXT = ('type = "sequential"\n[[model.layers]]\ntype = "convolution"\nchannels = 3\nkernel = 3\nstride = 4\n'
                    'padding = 1\nactivation = "tanh"\n[[model.layers]]\ntype = "flatten"\n'
                    '[[model.layers]]\ntype = "linear"\nunits = 3\n')
TABLE = [("table",), ("linear",)]
TABLE_TEXT = ('type = "sequential"\n[[model.layers]]\ntype = "embedding"\nrows = 7\nwidth = 3\n[[model.layers]]\n'
              'type = "flatten"\n[[model.layers]]\ntype = "linear"\nunits = 2\n')
LOGISTIC = [("linear",)]
LOGISTIC_TEXT = 'type = "logistic"\n'

MODELS = {
    "mlp": (MLP, MLP_TEXT, "classes", (4,), [(4, 5), (5,), (5, 3), (3,)]),
    "convolution": (CONVOLUTION, CONVOLUTION_TEXT, "classes", (5, 5, 2), [(3, 3, 3, 2), (3,), (12, 3), (3,)]),
    "table": (TABLE, TABLE_TEXT, "regression", (4,), [(7, 3), (12, 2), (2,)]),
    "logistic": (LOGISTIC, LOGISTIC_TEXT, "logistic", (4,), [(4, 1), (1,)]),
}
OFTEN = dict(factor_every=2, inverse_every=6, damping=0.03, weight_decay=0.1)
CASES = {
    "mlp_cholesky": ("mlp", OFTEN, []),
    "mlp_eigen": ("mlp", OFTEN | dict(method="eigen"), []),
    "mlp_ekfac": ("mlp", OFTEN | dict(method="ekfac"), []),
    "mlp_ekfac_diagonal": ("mlp", OFTEN | dict(method="ekfac", scales_every=3, max_size=5), []),
    "mlp_empirical": ("mlp", OFTEN | dict(fisher="empirical", kl_clip=0.0, momentum=0.0), []),
    "mlp_adapting": ("mlp", OFTEN | dict(adapt_every=2, kl_clip=0.0), []),
    "mlp_with_adamw": ("mlp", OFTEN, [1]),
    "mlp_diagonal": ("mlp", OFTEN | dict(max_size=5), []),
    "convolution_cholesky": ("convolution", OFTEN, []),
    "convolution_ekfac": ("convolution", OFTEN | dict(method="ekfac"), []),
    "table_cholesky": ("table", OFTEN, []),
    "table_eigen": ("table", OFTEN | dict(method="eigen"), []),
    "table_ekfac": ("table", OFTEN | dict(method="ekfac"), []),
    "logistic_cholesky": ("logistic", OFTEN, []),
    "logistic_empirical": ("logistic", OFTEN | dict(fisher="empirical", method="eigen"), []),
}
DIAGONAL_CASES = {
    "mlp_sophia": ("mlp", "sophia", dict(every=3, rho=0.5)),
    "convolution_sophia": ("convolution", "sophia", dict(every=2, rho=2.0)),
    "table_sophia": ("table", "sophia", dict(every=2)),
    "logistic_sophia": ("logistic", "sophia", dict(every=1, rho=1.0)),
    "mlp_adahessian": ("mlp", "adahessian", dict(weight_decay=0.1)),
    "convolution_adahessian": ("convolution", "adahessian", dict(every=2)),
    "logistic_hutchinson": ("logistic", "diagonal", dict(memory=0.9, weight_decay=0.1)),
    "mlp_hutchinson": ("mlp", "diagonal", dict(memory=0.9, every=2, smallest_curvature=0.1)),
}
STEPS, MICRO_BATCHES, SIZE, RATE = 9, 3, 4, 0.1


def toml(value):
    return json.dumps(value)


def main():
    random = np.random.default_rng(5)
    result = {"seed": SEED, "steps": STEPS, "micro_batches": MICRO_BATCHES, "micro_batch_size": SIZE, "rate": RATE,
              "models": {}, "cases": {}}
    drawn = {}
    for name, (model, text, task, sample, shapes) in MODELS.items():
        count = STEPS * MICRO_BATCHES * SIZE
        inputs = random.integers(0, 7, (count, *sample)) if name == "table" else random.normal(size=(count, *sample))
        targets = (random.normal(size=(count, 2)) if task == "regression"
                   else random.integers(0, 2 if task == "logistic" else 3, count))
        weights = random.integers(0, 4, count) / 2
        start = [random.normal(size=shape) / 2 for shape in shapes]
        drawn[name] = inputs, targets, weights, start
        result["models"][name] = {
            "toml": text, "sample": list(sample), "classes": {"regression": 0, "logistic": 2}.get(task, 3),
            "indices": name == "table", "inputs": inputs.ravel().tolist(), "targets": targets.ravel().tolist(),
            "weights": weights.tolist(), "start": [p.ravel().tolist() for p in start]}
    cases = [(name, model, Kfac(MODELS[model][0], adamw, **options), "kfac",
              options | ({"adamw": ["output.*"]} if adamw else {})) for name, (model, options, adamw) in CASES.items()]
    cases += [(name, model, Diagonal(MODELS[model][0], [], kind, **options), kind,
               options | ({"curvature": "hutchinson"} if kind == "diagonal" else {}))
              for name, (model, kind, options) in DIAGONAL_CASES.items()]
    for name, model_name, optimizer, kind, options in cases:
        task = MODELS[model_name][2]
        inputs, targets, weights, start = drawn[model_name]
        theta, path = [torch.tensor(p) for p in start], []
        for step in range(STEPS):
            batches = []
            for m in range(MICRO_BATCHES):
                at = slice((step * MICRO_BATCHES + m) * SIZE, (step * MICRO_BATCHES + m + 1) * SIZE)
                batches.append((torch.tensor(inputs[at]), torch.tensor(targets[at]), torch.tensor(weights[at])))
            theta, loss = optimizer.step(theta, batches, task, RATE, step)
            path.append(loss)
        text = f'type = "{kind}"\n' + "".join(f"{key} = {toml(value)}\n" for key, value in options.items())
        result["cases"][name] = {"model": model_name, "toml": text, "losses": path, "damping": optimizer.damping,
                                 "end": [p.numpy().ravel().tolist() for p in theta]}
        print(name, path[0], path[-1], optimizer.damping)
    with open("goldens/curvature.json", "w") as file:
        json.dump(result, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
