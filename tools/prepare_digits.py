#!/usr/bin/env python3
"""Makes configs/data/digits.h5, the UCI handwritten digits, from the copy inside scikit-learn.

Needs scikit-learn, h5py and a built lockstep command, which seals the file:

  python3 tools/prepare_digits.py build/release/bin/lockstep configs/data/digits.h5
"""
import argparse
import pathlib
import subprocess
import tempfile

import h5py
import numpy as np
from sklearn.datasets import load_digits


def write_digits(path):
    """x: (1797, 8, 8, 1) fp32, the counts 0..16 divided by 16; y: (1797) int32."""
    digits = load_digits()
    with h5py.File(path, "w") as file:
        file["x"] = (digits.data / 16.0).astype(np.float32).reshape(-1, 8, 8, 1)
        file["y"] = digits.target.astype(np.int32)
        file.attrs["classes"] = 10
        file.attrs["source"] = (
            "Optical Recognition of Handwritten Digits, test part, UCI Machine Learning Repository; "
            "pixel counts 0..16 divided by 16"
        )
        file.attrs["licence"] = "CC BY 4.0"
        file.attrs["citation"] = (
            "Alpaydin, E. and Kaynak, C. (1998). Optical Recognition of Handwritten Digits. "
            "UCI Machine Learning Repository. https://doi.org/10.24432/C50P49"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lockstep", type=pathlib.Path, help="the lockstep command")
    parser.add_argument("output", type=pathlib.Path, help="HDF5 file to write")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plain = pathlib.Path(folder) / "digits.h5"
        write_digits(plain)
        subprocess.run([arguments.lockstep.resolve(), "prepare", plain, arguments.output], check=True)


if __name__ == "__main__":
    main()
