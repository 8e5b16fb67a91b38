"""How good the probabilities are: whether they match frequencies, and what other thresholds would give.

probability, truth → Reliability (sums in bins) ─ add up over slices ─→ ECE, Brier score, reliability diagram
                   → threshold_dice (Dice at 0.05 … 0.95) ─ mean over slices ─→ threshold curve
"""

from collections.abc import Iterable
from dataclasses import astuple, dataclass

import cv2
import numpy as np

from modeling_unet.comparison import Overlap
from modeling_unet.surface import bounding_window, scaled


NUM_BINS = 15
REGION_MARGIN = 15  # px around the truth, on the 512-px grid
THRESHOLDS = tuple(step / 20 for step in range(1, 20))


@dataclass(frozen=True)
class Reliability:
    """Pixels by their tumour probability, in 15 bins of equal width, and how many of them are tumour.

    Counted are the pixels of the truth and those within 15 px of it (on the 512-px grid): elsewhere a slice is so
    clearly free of tumour that any network would look reliable. A slice without a tumour does not count.

    Attributes:
        pixels: number of pixels in each bin.
        probability: sum of their probabilities.
        tumor: number of tumour pixels among them.
        squared_error: sum of (probability - truth)² over all bins.
    """

    pixels: tuple[int, ...]
    probability: tuple[float, ...]
    tumor: tuple[int, ...]
    squared_error: float

    @classmethod
    def of(cls, probability: np.ndarray, true: np.ndarray) -> "Reliability":
        """The sums of one slice.

        Args:
            probability: float [H, W], 0 … 1.
            true: bool [H, W].
        """
        region = evaluation_region(true)
        probability, true = probability[region].astype(float), true[region]
        bins = np.minimum((probability * NUM_BINS).astype(int), NUM_BINS - 1)
        sums = [np.bincount(bins, weights, minlength=NUM_BINS).tolist() for weights in (None, probability, true)]
        # Four decimals of a sum over pixels are plenty, and a report holds the sums of every slice.
        return cls(
            pixels=tuple(sums[0]),
            probability=tuple(round(value, 4) for value in sums[1]),
            tumor=tuple(map(int, sums[2])),
            squared_error=round(float(np.square(probability - true).sum()), 4),
        )

    @classmethod
    def total(cls, parts: Iterable["Reliability"]) -> "Reliability":
        """The sums of several slices, at least one."""
        *bins, errors = zip(*map(astuple, parts), strict=True)
        pixels, probability, tumor = (tuple(np.sum(values, axis=0).tolist()) for values in bins)
        return cls(pixels, probability, tumor, squared_error=sum(errors))

    @property
    def ece(self) -> float | None:
        """Expected calibration error, 0 … 1: how far the share of tumour in a bin is from the mean probability there.

        The mean over bins, weighted by their pixels (Naeini et al. 2015; here of the tumour's probability, not of the
        more likely label's). None if no pixel counts.
        """
        gaps = np.abs(np.subtract(self.tumor, self.probability))
        return float(gaps.sum() / sum(self.pixels)) if any(self.pixels) else None

    @property
    def brier(self) -> float | None:
        """Mean of (probability - truth)², 0 … 1 (Brier 1950). None if no pixel counts."""
        return self.squared_error / sum(self.pixels) if any(self.pixels) else None

    def to_bins(self) -> list[dict[str, float | int | None]]:
        """The reliability diagram: limits, pixels, mean probability and share of tumour of every bin."""
        return [
            {
                "from": number / NUM_BINS,
                "to": (number + 1) / NUM_BINS,
                "pixels": pixels,
                "mean_probability": probability / pixels if pixels else None,
                "tumor_share": tumor / pixels if pixels else None,
            }
            for number, (pixels, probability, tumor) in enumerate(
                zip(self.pixels, self.probability, self.tumor, strict=True)
            )
        ]


def evaluation_region(true: np.ndarray) -> np.ndarray:
    """What reliability is measured on, bool [H, W]: the truth and the pixels within 15 px of it (512-px grid)."""
    return _dilated(true, scaled(REGION_MARGIN, true.shape))


def threshold_dice(probability: np.ndarray, true: np.ndarray) -> list[float]:
    """Dice of one slice at each of `THRESHOLDS`; pixels above the threshold belong to the mask."""
    window = bounding_window((probability > THRESHOLDS[0]) | true)
    probability, true = probability[window], true[window]
    return [Overlap.of(probability > threshold, true).dice for threshold in THRESHOLDS]


def _dilated(mask: np.ndarray, radius: float) -> np.ndarray:
    """The mask and every pixel within `radius` of one of its pixels."""
    if not mask.any():
        return mask
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= radius
