#!/usr/bin/env python3
"""Writes data/scipy_counts.json: what SciPy's minimizers need on the problems of Moré, Garbow and Hillstrom 1981.

Needs numpy, scipy and sympy; run it in this folder. With a folder of NIST's nonlinear regression sets (*.dat) as its
argument it also writes data/nist_strd.txt.
"""
import glob
import json
import os
import re
import sys
import warnings

import numpy as np
import scipy
import sympy as sp
from scipy.optimize import minimize


def problems():
    half = sp.Rational(1, 2)
    x, y, z, w, u, v = sp.symbols("x y z w u v")
    yield "rosenbrock", (x, y), [10 * (y - x**2), 1 - x], [-1.2, 1]
    yield ("freudenstein_roth", (x, y),
           [-13 + x + ((5 - y) * y - 2) * y, -29 + x + ((y + 1) * y - 14) * y], [0.5, -2])
    yield ("powell_badly_scaled", (x, y),
           [10000 * x * y - 1, sp.exp(-x) + sp.exp(-y) - sp.Rational(10001, 10000)], [0, 1])
    yield "brown_badly_scaled", (x, y), [x - 10**6, y - sp.Rational(2, 10**6), x * y - 2], [1, 1]
    yield ("beale", (x, y),
           [3 * half - x * (1 - y), sp.Rational(9, 4) - x * (1 - y**2), sp.Rational(21, 8) - x * (1 - y**3)], [1, 1])
    turn = sp.atan2(y, x) / (2 * sp.pi)
    yield "helical_valley", (x, y, z), [10 * (z - 10 * turn), 10 * (sp.sqrt(x**2 + y**2) - 1), z], [-1, 0, 0]
    yield ("powell_singular", (x, y, z, w),
           [x + 10 * y, sp.sqrt(5) * (z - w), (y - 2 * z)**2, sp.sqrt(10) * (x - w)**2], [3, -1, 0, 1])
    yield ("wood", (x, y, z, w),
           [10 * (y - x**2), 1 - x, sp.sqrt(90) * (w - z**2), 1 - z, sp.sqrt(10) * (y + w - 2),
            (y - w) / sp.sqrt(10)], [-3, -1, -3, -1])
    residuals = []
    for i in range(1, 14):
        t = sp.Rational(i, 10)
        target = sp.exp(-t) - 5 * sp.exp(-10 * t) + 3 * sp.exp(-4 * t)
        residuals.append(z * sp.exp(-t * x) - w * sp.exp(-t * y) + v * sp.exp(-t * u) - target)
    yield "biggs_exp6", (x, y, z, w, u, v), residuals, [1, 2, 1, 1, 1, 1]
    residuals = []
    for i in range(1, 21):
        t = sp.Rational(i, 5)
        residuals.append((x + t * y - sp.exp(t))**2 + (z + w * sp.sin(t) - sp.cos(t))**2)
    yield "brown_dennis", (x, y, z, w), residuals, [25, 5, -5, -1]
    many = sp.symbols("x1:11")
    residuals = [r for i in range(0, 10, 2) for r in (10 * (many[i + 1] - many[i]**2), 1 - many[i])]
    yield "extended_rosenbrock", many, residuals, [-1.2, 1] * 5


def counts():
    result = {"scipy": scipy.__version__}
    for name, symbols, residuals, start in problems():
        f = sum(r**2 for r in residuals) / 2
        g = [sp.diff(f, s) for s in symbols]
        make = lambda e: sp.lambdify([symbols], e, "numpy", cse=True)
        value, gradient = make(f), make(g)
        hessian = make([[sp.diff(a, s) for s in symbols] for a in g])
        common = dict(fun=lambda p: float(value(p)), x0=np.array(start, float),
                      jac=lambda p: np.array(gradient(p), float))
        lbfgs = minimize(method="L-BFGS-B", options=dict(gtol=1e-8, ftol=0, maxcor=10, maxiter=10000, maxfun=100000),
                         **common)
        ncg = minimize(method="trust-ncg", hess=lambda p: np.array(hessian(p), float),
                       options=dict(gtol=1e-8, maxiter=10000), **common)
        result[name] = {"lbfgs_evaluations": lbfgs.nfev, "lbfgs_value": lbfgs.fun, "trust_ncg_steps": ncg.nit,
                        "trust_ncg_value": ncg.fun}
    with open("data/scipy_counts.json", "w") as out:
        json.dump(result, out, indent=1)
        out.write("\n")


def nist(folder):
    note = ("# NIST Statistical Reference Datasets, nonlinear regression (National Institute of Standards and Technology, "
            "1999).\n# A work of the United States government, in the public domain (17 U.S.C. 105).\n"
            "# set NAME PARAMETERS OBSERVATIONS COLUMNS; a line a parameter: start 1, start 2, certified value;\n"
            "# the certified sum of squares; a line an observation: response, predictors.\n")
    with open("data/nist_strd.txt", "w") as out:
        out.write(note)
        for path in sorted(glob.glob(os.path.join(folder, "*.dat"))):
            lines = open(path).read().splitlines()
            parameters = [m.groups() for m in (re.match(r"\s*b\d+\s*=\s*(\S+)\s+(\S+)\s+(\S+)\s+\S+", s) for s in lines)
                          if m]
            squares = next(m[1] for m in (re.match(r"\s*Residual Sum of Squares:\s*(\S+)", s) for s in lines) if m)
            begin = max(i for i, s in enumerate(lines) if re.match(r"Data:\s+y", s))
            rows = [s.split() for s in lines[begin + 1:] if s.strip()]
            name = os.path.basename(path)[:-4]
            out.write(f"set {name} {len(parameters)} {len(rows)} {len(rows[0])}\n")
            for row in [*parameters, [squares], *rows]:
                out.write(" ".join(row) + "\n")


warnings.filterwarnings("ignore")
counts()
if len(sys.argv) > 1:
    nist(sys.argv[1])
