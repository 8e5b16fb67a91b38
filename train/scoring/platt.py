"""A scale and a shift for the logits of a trained model, after which its probabilities mean what they say.

probability, truth ─→ LogitCounts of a person ─ fit_platt ─→ Platt ─ fold_into_head ─→ the same model, calibrated
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from modeling_unet import UNetForSemanticSegmentation, UNetImageProcessor

from ..files import RECORD_FILE, read_json, save_model
from .reliability import evaluation_region


LOGIT_LIMIT = 16.0  # beyond it a float32 probability cannot tell two logits apart
NUM_BINS = 3200  # of a hundredth each
MAX_STEPS = 200
KEY = "calibration"  # in training.json


@dataclass(frozen=True)
class Platt:
    """`p' = σ(scale · z + shift)` of a logit z (Platt 1999); `1 / scale` is the temperature of Guo et al. 2017."""

    scale: float
    shift: float

    def of_probability(self, probability: np.ndarray) -> np.ndarray:
        """The calibrated probabilities, float32, for those of the model, both 0 … 1 and of any shape."""
        logits = self.scale * logit(probability) + self.shift
        return (1 / (1 + np.exp(-logits))).astype(np.float32)


class LogitCounts:
    """How many pixels have which logit, by whether they are tumour: int64 [2, NUM_BINS]."""

    def __init__(self):
        self.counts = np.zeros((2, NUM_BINS), np.int64)

    def add(self, probability: np.ndarray, true: np.ndarray) -> None:
        """Count the pixels of a slice that calibration is measured on: in and around its tumour."""
        region = evaluation_region(true)
        bins = ((logit(probability[region]) + LOGIT_LIMIT) * (NUM_BINS / (2 * LOGIT_LIMIT))).astype(int)
        for label in (0, 1):
            chosen = bins[true[region] == bool(label)]
            self.counts[label] += np.bincount(np.minimum(chosen, NUM_BINS - 1), minlength=NUM_BINS)


def logit(probability: np.ndarray) -> np.ndarray:
    """float64 within ±LOGIT_LIMIT."""
    probability = probability.astype(np.float64)
    with np.errstate(divide="ignore"):
        return np.clip(np.log(probability) - np.log1p(-probability), -LOGIT_LIMIT, LOGIT_LIMIT)


def fit_platt(parts: Iterable[LogitCounts]) -> Platt:
    """Scale and shift of the largest likelihood of the pixels of all parts together.

    Raises:
        ValueError: there are no tumour pixels or no others, or a higher logit does not mean more tumour.
    """
    background, tumor = sum(part.counts for part in parts)
    if not tumor.any() or not background.any():
        raise ValueError("calibration needs pixels with and without tumour; these slices do not show both.")
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
        raise ValueError("calibration found that a higher probability does not mean more tumour; the model is broken.")
    return Platt(scale, shift)


def fold_into_head(platt: Platt, source: str | Path, output_dir: Path) -> None:
    """Write a model, of a folder or the Hub, to a folder, perhaps its own, with the calibration in its weights."""
    model, processor = (cls.from_pretrained(source) for cls in (UNetForSemanticSegmentation, UNetImageProcessor))
    with torch.no_grad():
        model.head.weight.mul_(platt.scale)
        model.head.bias.mul_(platt.scale).add_(platt.shift)
    save_model(model, processor, output_dir)


def read_calibration(model_dir: str | Path) -> Platt:
    """What `calibrate` found for a model; raises ValueError if that was not calibrated."""
    path = Path(model_dir) / RECORD_FILE
    found = read_json(path).get(KEY) if path.is_file() else None
    if found is None:
        raise ValueError(f"{model_dir} was not calibrated: there is no {KEY} in its {RECORD_FILE}.")
    return Platt(found["scale"], found["shift"])
