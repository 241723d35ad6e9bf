#!/usr/bin/env python3
"""Steps against the condition of a quadratic, as a picture: tools/plot_condition.py OUTPUT.svg [--lockstep PROGRAM]

The steps that `lockstep landscape --function quadratic:CONDITION` takes from (1, 1) to a value of at most 1e-12, for gradient
descent at its best constant rate 2 / (1 + CONDITION), descent with a diagonal preconditioner, L-BFGS and Newton-CG; both axes
logarithmic. Prints the table as well.
"""

import argparse
import json
import math
import pathlib
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONDITIONS = [1, 10, 100, 1000, 10000]
METHODS = {
    "sgd": ("gradient descent", "#d62728", lambda condition: 2.0 / (1.0 + condition)),
    "lbfgs": ("L-BFGS", "#9467bd", None),
    "diagonal": ("diagonal preconditioner", "#1f77b4", lambda _: 1.0),
    "newton_cg": ("Newton-CG", "#ff7f0e", None),
}
ENOUGH, MOST = 1e-12, 10**7
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 720, 440, 70, 50, 20, 40


def value(program, method, rate, condition, steps):
    command = [program, "landscape", "--function", f"quadratic:{condition}", "--methods", method, "--start", "1,1"]
    command += ["--steps", steps] + (["--learning-rate", repr(rate)] if rate is not None else [])
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    return json.loads(result.stdout)["value"]


def steps_to_minimum(program, method, rate, condition):
    low, high = 0, 1
    while not value(program, method, rate, condition, high) <= ENOUGH:
        low, high = high, 2 * high
        if high > MOST:
            raise SystemExit(f"plot_condition: {method} does not get there at condition {condition}")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if value(program, method, rate, condition, middle) <= ENOUGH else (middle, high)
    return high


def place(condition, steps):
    decades = 5.0
    x = LEFT + math.log10(condition) / math.log10(CONDITIONS[-1]) * (WIDTH - LEFT - RIGHT)
    return x, HEIGHT - BOTTOM - math.log10(steps) / decades * (HEIGHT - BOTTOM - TOP)


def picture(table):
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="13">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']  # fmt: skip
    for decade in range(6):
        _, y = place(1, 10**decade)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#dde"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{10**decade:,}</text>')
    for condition in CONDITIONS:
        x, _ = place(condition, 1)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{condition:,}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 8}" text-anchor="middle">condition of the quadratic</text>')
    parts.append(f'<text transform="translate(16 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">steps</text>')
    for line, (method, steps) in enumerate(table.items()):
        name, colour, _ = METHODS[method]
        dashes = ' stroke-dasharray="6 6"' if line == len(table) - 1 else ""  # over another one
        points = [place(*pair) for pair in zip(CONDITIONS, steps)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in points]
        parts.append(f'<text x="{LEFT + 16}" y="{TOP + 18 + 18 * line}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--lockstep", type=pathlib.Path, default=ROOT / "build/release/bin/lockstep")
    arguments = parser.parse_args()
    table = {
        method: [steps_to_minimum(arguments.lockstep, method, rate and rate(condition), condition) for condition in CONDITIONS]
        for method, (_, _, rate) in METHODS.items()
    }
    print("| condition | " + " | ".join(f"{condition:,}" for condition in CONDITIONS) + " |")
    print("|---|" + "---|" * len(CONDITIONS))
    for method, steps in table.items():
        print(f"| {METHODS[method][0]} | " + " | ".join(f"{count:,}" for count in steps) + " |")
    arguments.output.write_text(picture(table))


if __name__ == "__main__":
    main()
