"""Overlap metrics of masks, their three averages, and 95 % intervals over persons.

Dice = 2|P∩T| / (|P| + |T|), IoU = |P∩T| / |P∪T| (Maier-Hein et al. 2024, "Metrics reloaded"). Masks are boolean arrays
of one shape. Where both are empty the prediction is right and scores 1; where only the prediction is empty it scores 0
and stays in the mean.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


BOOTSTRAP_ROUNDS = 2000
BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class Overlap:
    """Pixel counts of a predicted and a true mask; every overlap metric follows from them."""

    intersection: int
    predicted: int
    true: int

    @classmethod
    def of(cls, predicted: np.ndarray, true: np.ndarray) -> "Overlap":
        """Count; raises ValueError if the masks differ in shape or are not boolean."""
        if predicted.shape != true.shape:
            raise ValueError(
                f"The prediction has shape {predicted.shape} and the truth {true.shape}; they must be equal."
            )
        if predicted.dtype != bool or true.dtype != bool:
            raise ValueError(f"Masks are boolean; got {predicted.dtype} and {true.dtype}.")
        return cls(int((predicted & true).sum()), int(predicted.sum()), int(true.sum()))

    @property
    def dice(self) -> float:
        total = self.predicted + self.true
        return 2 * self.intersection / total if total else 1.0

    @property
    def iou(self) -> float:
        union = self.predicted + self.true - self.intersection
        return self.intersection / union if union else 1.0


def pooled_dice(overlaps: Sequence[Overlap]) -> float:
    """2ΣI / Σ(P + T): large tumours count more. 1 if every mask is empty."""
    intersection = sum(overlap.intersection for overlap in overlaps)
    total = sum(overlap.predicted + overlap.true for overlap in overlaps)
    return 2 * intersection / total if total else 1.0


def person_mean(values: Sequence[float], persons: Sequence[str]) -> float:
    """Mean over persons of the mean of their slices."""
    by_person = defaultdict(list)
    for value, person in zip(values, persons, strict=True):
        by_person[person].append(value)
    return float(np.mean([np.mean(own) for own in by_person.values()]))


def bootstrap_interval(values: Sequence[float], persons: Sequence[str]) -> tuple[float, float]:
    """95 % percentile interval of the mean over slices, persons drawn with replacement.

    Slices of one person are alike; drawing slices would make the interval far too narrow. Efron and Tibshirani 1993,
    chapter 13.
    """
    names, person_index = np.unique(np.asarray(persons), return_inverse=True)
    sums = np.bincount(person_index, weights=np.asarray(values, dtype=float))
    counts = np.bincount(person_index)
    drawn = np.random.default_rng(BOOTSTRAP_SEED).integers(len(names), size=(BOOTSTRAP_ROUNDS, len(names)))
    low, high = np.percentile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [2.5, 97.5])
    return float(low), float(high)


def summarize(overlaps: Sequence[Overlap], persons: Sequence[str]) -> dict[str, float | int | list[float]]:
    """Every figure that is reported for a set of slices, by the names used in logs, card and README."""
    dice = [overlap.dice for overlap in overlaps]
    return {
        "slices": len(overlaps),
        "persons": len(set(persons)),
        "slice_dice": float(np.mean(dice)),
        "slice_dice_interval": list(bootstrap_interval(dice, persons)),
        "person_dice": person_mean(dice, persons),
        "pooled_dice": pooled_dice(overlaps),
        "slice_iou": float(np.mean([overlap.iou for overlap in overlaps])),
        "zero_dice_rate": float(np.mean([value == 0 for value in dice])),
    }
