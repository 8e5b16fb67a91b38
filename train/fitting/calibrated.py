"""Weights whose head holds a calibration: a scale and a shift of the logits that make probabilities match frequencies.

`scoring.platt` finds it; here it is read, put into a head, and taken over by weights that were trained on everybody.
Classes that overlap have a scale and a shift each; others share one pair, so that a pixel's label stays what it was.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from modeling_unet import UNetConfig, UNetForSemanticSegmentation, UNetImageProcessor
from modeling_unet.provenance import weights_hash

from ..files import read_json, save_model
from ..record import (
    CALIBRATION,
    EVALUATION_FILE,
    RECORD_FILE,
    STANDS_FOR,
    read_evaluation,
    read_record,
    write_evaluation,
)


LOGIT_LIMIT = 16.0  # beyond it a float32 probability cannot tell two logits apart


@dataclass(frozen=True)
class Platt:
    """`p' = σ(scale · z + shift)` of a logit z (Platt 1999); `1 / scale` is the temperature of Guo et al. 2017."""

    scale: float
    shift: float

    def of_probability(self, probability: np.ndarray) -> np.ndarray:
        """The calibrated probabilities, float32, for those of the model, both 0 … 1 and of any shape."""
        logits = self.scale * logit(probability) + self.shift
        return (1 / (1 + np.exp(-logits))).astype(np.float32)


@dataclass(frozen=True)
class Calibration:
    """What is put into a head.

    Attributes:
        platts: one for all logits, or one for each.
        names: of the classes that these belong to; empty where one is for all.
    """

    platts: tuple[Platt, ...]
    names: tuple[str, ...] = ()

    def of_probability(self, probability: np.ndarray) -> np.ndarray:
        """The calibrated probabilities, float32, for those of the model: of any shape, but [K, …] where K have one."""
        if not self.names:
            return self.platts[0].of_probability(probability)
        return np.stack([platt.of_probability(own) for platt, own in zip(self.platts, probability, strict=True)])

    def to_record(self) -> dict:
        """What is written down: `scale` and `shift`, or under `classes` those of each, by its name."""
        if not self.names:
            return asdict(self.platts[0])
        return {"classes": {name: asdict(platt) for name, platt in zip(self.names, self.platts, strict=True)}}

    @classmethod
    def from_record(cls, found: dict) -> "Calibration":
        """Undo `to_record`."""
        classes: dict[str, dict] = found.get("classes", {})
        parts = classes.values() if classes else [found]
        return cls(tuple(Platt(part["scale"], part["shift"]) for part in parts), tuple(classes))

    def check_fits(self, class_names: Sequence[str], source: str | Path) -> None:
        """Raise a ValueError where it is of other classes than those of a model."""
        if self.names and self.names != tuple(class_names):
            raise ValueError(
                f"{source} tells {', '.join(class_names)} apart, and the calibration is of {', '.join(self.names)}."
            )


def logit(probability: np.ndarray) -> np.ndarray:
    """float64 within ±LOGIT_LIMIT."""
    probability = probability.astype(np.float64)
    with np.errstate(divide="ignore"):
        return np.clip(np.log(probability) - np.log1p(-probability), -LOGIT_LIMIT, LOGIT_LIMIT)


def fold_into_head(
    calibration: Calibration, source: str | Path, output_dir: Path, presence_logit: float | None = None
) -> None:
    """Write a model, of a folder or the Hub, to a folder, perhaps its own, with the calibration in its weights.

    A `presence_logit` counts calibrated logits; without one, that of the model stays.

    Raises:
        ValueError: the calibration is of other classes.
    """
    model = UNetForSemanticSegmentation.from_pretrained(source)
    calibration.check_fits(model.config.class_names, source)
    scale, shift = _tensors(calibration, model)
    with torch.no_grad():
        model.head.weight.mul_(scale.view(-1, 1, 1, 1))
        model.head.bias.mul_(scale).add_(shift)
    model.config.presence_logit = presence_logit or model.config.presence_logit
    save_model(model, UNetImageProcessor.from_pretrained(source), output_dir)


def take_out_of_head(calibration: Calibration, model: UNetForSemanticSegmentation) -> None:
    """Undo `fold_into_head` in place: a training that started from soft logits would first of all undo it itself."""
    scale, shift = _tensors(calibration, model)
    with torch.no_grad():
        model.head.weight.div_(scale.view(-1, 1, 1, 1))
        assert model.head.bias is not None
        model.head.bias.sub_(shift).div_(scale)


def _tensors(calibration: Calibration, model: UNetForSemanticSegmentation) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift of the logits, [1] for all or [K]."""
    scales, shifts = zip(*((platt.scale, platt.shift) for platt in calibration.platts), strict=True)
    return torch.tensor(scales, dtype=model.dtype), torch.tensor(shifts, dtype=model.dtype)


def read_calibration(model_dir: str | Path) -> Calibration:
    """What `calibrate` found for a model; raises ValueError if that was not calibrated."""
    path = Path(model_dir) / RECORD_FILE
    found = read_json(path).get(CALIBRATION) if path.is_file() else None
    if found is None:
        raise ValueError(f"{model_dir} was not calibrated: there is no {CALIBRATION} in its {RECORD_FILE}.")
    return Calibration.from_record(found)


def calibration_of(model: str | Path, class_names: Sequence[str]) -> Calibration | None:
    """What lies in a model's head, by its record, in a folder or on the Hub; None if nothing does for these classes."""
    found = read_record(model).get(CALIBRATION)
    calibration = Calibration.from_record(found) if found else None
    return calibration if calibration and calibration.names in ((), tuple(class_names)) else None


def hand_on(calibration: Calibration, start: str | Path, output_dir: Path) -> None:
    """Give weights that were trained from others the calibration and the `presence_logit` of these."""
    fold_into_head(calibration, output_dir, output_dir, UNetConfig.from_pretrained(start).presence_logit)


def calibrated_folders(calibrated_dir: str | Path) -> list[Path]:
    """The folders of the models that were calibrated together: one per fold, or the folder itself for one model."""
    together = read_calibration(calibrated_dir)
    folders = sorted(path.parent for path in Path(calibrated_dir).glob(f"fold-*/{RECORD_FILE}"))
    return [folder for folder in folders if read_calibration(folder) == together] or [Path(calibrated_dir)]


def take_over(calibrated_dir: str | Path, output_dir: Path) -> None:
    """Give a model that was trained on all folds the calibration and figures of the same recipe.

    The calibration goes into its head. The evaluation of the folds is copied beside it and names these weights, because
    no person is left on whom they could be scored themselves.
    """
    fold_into_head(read_calibration(calibrated_dir), output_dir, output_dir)
    path = Path(calibrated_dir) / EVALUATION_FILE
    if path.is_file():
        write_evaluation(output_dir / EVALUATION_FILE, {**read_evaluation(path), STANDS_FOR: weights_hash(output_dir)})
