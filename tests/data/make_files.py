#!/usr/bin/env python3
"""Writes files/*.h5: data sets as people make them with h5py, the independent writer of the format.

Needs h5py and numpy: python3 tests/data/make_files.py
"""
import pathlib

import h5py
import numpy as np

FOLDER = pathlib.Path(__file__).parent / "files"


def open_new(name, **options):
    return h5py.File(FOLDER / name, "w", **options)


def main():
    FOLDER.mkdir(exist_ok=True)
    # Library defaults (superblock 0), byte images with a scale, attributes on the root group.
    with open_new("images_uint8.h5") as file:
        file["x"] = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3)
        file["y"] = np.array([0, 2, 1, 2, 0], dtype=np.int64)
        file.attrs["scale"] = 1 / 32
        file.attrs["classes"] = 4
        file.attrs["class_names"] = "ash\nbirch\ncherry\ndogwood"
        file.attrs["licence"] = "CC BY 4.0"
    # Newest layout (superblock 3), compressed chunks, doubles, attributes on the data sets they describe.
    with open_new("features_latest.h5", libver="latest") as file:
        file.create_dataset("x", data=np.linspace(-1, 1, 12).reshape(4, 3), chunks=(2, 3), compression="gzip")
        file.create_dataset("y", data=np.array([1, 0, 1, 1], dtype=np.uint8))
        file["x"].attrs["scale"] = 2
        file["y"].attrs["classes"] = np.uint8(2)
    # Targets of width 2.
    with open_new("regression.h5") as file:
        file["x"] = np.arange(6, dtype=np.float32).reshape(3, 2)
        file["y"] = np.array([[0.5, 1.5], [2.5, 3.5], [4.5, 5.5]])
    # Table indices.
    with open_new("tokens.h5") as file:
        file["x"] = np.array([[7, 0, 3], [1, 2, 65535]], dtype=np.uint16)
        file["y"] = np.array([1, 0], dtype=np.int32)
        file["x"].attrs["tokens"] = 1
    # Indices below 8, but for one near the end.
    with open_new("tokens_with_an_outlier.h5") as file:
        tokens = np.arange(2 * 600, dtype=np.uint8).reshape(600, 2) % 8
        tokens[590, 1] = 8
        file["x"] = tokens
        file["y"] = np.arange(600, dtype=np.uint8) % 3
        file["x"].attrs["tokens"] = 1
    # A terabyte announced, nothing stored.
    with open_new("terabyte.h5") as file:
        file.create_dataset("x", shape=(2**38, 4), dtype=np.float32, chunks=(1024, 4))
        file.create_dataset("y", shape=(2**38,), dtype=np.int32, chunks=(1024,))


if __name__ == "__main__":
    main()
