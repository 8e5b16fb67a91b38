"""Small masks for the tests of metrics, written down, drawn, or by chance."""

import cv2
import numpy as np


def mask(text: str) -> np.ndarray:
    return np.array([[character == "#" for character in row] for row in text.split()])


def box(rows: slice, columns: slice, side: int = 64) -> np.ndarray:
    result = np.zeros((side, side), bool)
    result[rows, columns] = True
    return result


def random_masks() -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of blotches, some of them cut off by the border, the second a distorted copy of the first."""
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(12):
        noise = cv2.GaussianBlur(rng.normal(size=(48, 80)), (0, 0), 4)
        other = noise + cv2.GaussianBlur(rng.normal(size=noise.shape), (0, 0), 3) / 2
        pairs.append((noise > noise.std(), other > noise.std()))
    return pairs
