"""A mask against the true one, drawn by hand: how much they share, and how far their outlines lie apart.

    mask, truth → Overlap (Dice, IoU)
                → surface distances (HD95) → Comparison

Dice = 2|P∩T| / (|P| + |T|), IoU = |P∩T| / |P∪T| (Maier-Hein et al. 2024, "Metrics reloaded"). Masks are boolean arrays
of one shape. Where both are empty the prediction is right and scores 1; where only one of them is, it scores 0.
"""

from dataclasses import dataclass

import numpy as np

from .surface import hd95, surface_distances


@dataclass(frozen=True)
class Comparison:
    """How well a mask agrees with the truth.

    Attributes:
        dice, iou: overlap, 0 … 1.
        hd95_px: 95th percentile of the distances between the outlines, see `surface.hd95`; None if exactly one of the
            masks is empty, 0 if both are.
        hd95_mm: the same in mm, or None where the spacing is unknown too.
        area_px: number of pixels in the mask.
        true_area_px: number of pixels in the truth.
    """

    dice: float
    iou: float
    hd95_px: float | None
    hd95_mm: float | None
    area_px: int
    true_area_px: int


def compare(mask: np.ndarray, truth: np.ndarray, spacing: tuple[float, float] | None = None) -> Comparison:
    """Compare a mask with the true one.

    Args:
        mask, truth: bool [H, W].
        spacing: size of a pixel in mm as (row, column), or None.

    Raises:
        ValueError: the masks differ in shape or are not boolean.
    """
    overlap = Overlap.of(mask, truth)
    return Comparison(
        dice=overlap.dice,
        iou=overlap.iou,
        hd95_px=hd95(surface_distances(mask, truth)),
        hd95_mm=None if spacing is None else hd95(surface_distances(mask, truth, spacing)),
        area_px=overlap.predicted,
        true_area_px=overlap.true,
    )


@dataclass(frozen=True)
class Overlap:
    """Pixel counts of a predicted and a true mask; every overlap metric follows from them."""

    intersection: int
    predicted: int
    true: int

    @classmethod
    def of(cls, predicted: np.ndarray, true: np.ndarray) -> "Overlap":
        """Count; raises ValueError if the masks differ in shape or are not boolean."""
        check_masks(predicted, true)
        return cls(int((predicted & true).sum()), int(predicted.sum()), int(true.sum()))

    @property
    def dice(self) -> float:
        total = self.predicted + self.true
        return 2 * self.intersection / total if total else 1.0

    @property
    def iou(self) -> float:
        union = self.predicted + self.true - self.intersection
        return self.intersection / union if union else 1.0


def check_masks(predicted: np.ndarray, true: np.ndarray) -> None:
    """Raise ValueError if two masks differ in shape or are not boolean."""
    if predicted.shape != true.shape:
        raise ValueError(f"the prediction has shape {predicted.shape} and the truth {true.shape}; they must be equal.")
    if predicted.dtype != bool or true.dtype != bool:
        raise ValueError(f"the masks are of type {predicted.dtype} and {true.dtype}; allowed is bool.")
