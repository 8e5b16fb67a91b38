"""Small made-up slices for the tests of training, a bright disc, the tumour, in a grey head on black; small masks."""

import csv
from pathlib import Path

import cv2
import numpy as np


def draw_slice(rng: np.random.Generator, side: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """(image uint8 [side, side], mask uint8 of 0 and 255)."""
    image = np.zeros((side, side), np.uint8)
    cv2.ellipse(image, (side // 2, side // 2), (side * 2 // 5, side * 9 // 20), 0, 0, 360, 90, -1)
    mask = np.zeros_like(image)
    center = rng.integers(side * 3 // 8, side * 5 // 8, size=2).tolist()
    cv2.circle(mask, center, int(rng.integers(side // 12, side // 7)), 255, -1)
    image[mask > 0] = 190
    noise = rng.normal(0, 6, image.shape) * (image > 0)
    return np.clip(image + noise, 0, 255).astype(np.uint8), mask


def write_data_set(folder: Path, count: int = 12, side: int = 64, suffix: str = ".png") -> Path:
    """`folder/images` and `folder/masks` with slices named 1, 2, …"""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(1, count + 1):
        image, mask = draw_slice(rng, side)
        cv2.imwrite(str(folder / "images" / f"{number}{suffix}"), image)
        cv2.imwrite(str(folder / "masks" / f"{number}.png"), mask)
    return folder


def write_persons(path: Path, persons: list[str]) -> Path:
    """A `--persons` file that gives slice 1 to the first person, and so on."""
    lines = [f"{number},{person}" for number, person in enumerate(persons, start=1)]
    path.write_text("\n".join(["slice,person_id", *lines]) + "\n")
    return path


def write_manifest(path: Path, rows: list[dict]) -> Path:
    """A manifest of the public data set's form; what a row leaves out is a glioma on an axial slice that trains."""
    columns = ["slice", "patient_id", "person_id", "tumor_type", "plane", "official_fold", "split", "fold"]
    usual = {"tumor_type": "glioma", "plane": "axial", "official_fold": 1, "split": "train"}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*columns, "mask_sha256"])
        writer.writeheader()
        writer.writerows({**usual, "patient_id": row["person_id"], **row} for row in rows)
    return path


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
