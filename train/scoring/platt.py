"""A scale and a shift of a trained model's logits that make its probabilities match frequencies.

probability, truth ─→ LogitCounts of a person ─ fit_platt ─→ Platt ─ fold_into_head ─→ the same model, calibrated
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..fitting.calibrated import LOGIT_LIMIT, Platt, logit
from .reliability import evaluation_region


NUM_BINS = 3200  # of a hundredth each
MAX_STEPS = 200


class LogitCounts:
    """How many pixels have which logit, by whether they are tumour: int64 [2, NUM_BINS]."""

    def __init__(self):
        self.counts = np.zeros((2, NUM_BINS), np.int64)

    def add(self, probability: np.ndarray, true: np.ndarray) -> None:
        """Count the pixels of a slice that a calibration is fitted on: in and around its tumour."""
        region = evaluation_region(true)
        bins = ((logit(probability[region]) + LOGIT_LIMIT) * (NUM_BINS / (2 * LOGIT_LIMIT))).astype(int)
        for label in (0, 1):
            chosen = bins[true[region] == bool(label)]
            self.counts[label] += np.bincount(np.minimum(chosen, NUM_BINS - 1), minlength=NUM_BINS)


def fit_platt(parts: Iterable[LogitCounts]) -> Platt:
    """Scale and shift of the largest likelihood of the pixels of all parts together.

    Raises:
        ValueError: there are no tumour pixels or no others, or a higher logit does not mean more tumour.
    """
    background, tumor = np.sum([part.counts for part in parts], axis=0)
    if not tumor.any() or not background.any():
        raise ValueError("A calibration needs pixels with and without tumour; these slices do not show both.")
    centers = (torch.arange(NUM_BINS, dtype=torch.float64) + 0.5) * (2 * LOGIT_LIMIT / NUM_BINS) - LOGIT_LIMIT
    shares = torch.from_numpy(np.stack([background, tumor]) / (background.sum() + tumor.sum()))
    weights = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=MAX_STEPS, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def negative_log_likelihood() -> Tensor:
        optimizer.zero_grad()
        logits = weights[0] * centers + weights[1]
        loss = (shares[0] * F.softplus(logits) + shares[1] * F.softplus(-logits)).sum()
        loss.backward()
        return loss

    optimizer.step(negative_log_likelihood)
    scale, shift = weights.tolist()
    if not (math.isfinite(scale) and math.isfinite(shift) and scale > 0):
        raise ValueError(
            "A higher probability does not mean more tumour here, so no calibration helps: the model is broken."
        )
    return Platt(scale, shift)
