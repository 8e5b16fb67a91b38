"""Rows of a scan, made by hand."""

import numpy as np


SIDE = 32


def thumbnail(seed: int) -> np.ndarray:
    """Noise, so that no two are alike."""
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE)).astype(np.uint8)


def row(number: int, **changes) -> dict:
    """One row of a scan after `assign_persons`; each number has an image, a mask and a person of its own."""
    values = {
        "slice": f"s{number}",
        "image": {"path": f"{number}.png", "bytes": None},
        "mask": {"path": f"{number}.png", "bytes": b""},
        "person_id": f"p{number}",
        "tumor_type": ("glioma", "meningioma")[number % 2],
        "plane": "axial",
        "height": 100,
        "width": 200,
        "mask_area": 300,
        "dtype": "uint8",
        "image_sha256": f"image {number}",
        "mask_sha256": f"mask {number}",
        "coloured": False,
        "labels_left_out": "",
        "mask_labels": "",
        "volume": "",
        "row_mm": None,
        "column_mm": None,
        "thumbnail": thumbnail(number).tobytes(),
        "problem_kind": "",
        "problem": "",
        "split": "train",
        "fold": number % 5,
    }
    return values | changes
