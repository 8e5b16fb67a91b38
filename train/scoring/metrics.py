"""What a mask is scored by: overlap with the truth, lesions found and missed, and the averages and intervals of both.

    two masks → Overlap (Dice, IoU), LesionCounts        slices → averages, 95 % intervals over persons

Overlaps are counted by `modeling_unet.comparison`, distances between outlines measured by `modeling_unet.surface`; what
the probabilities are worth is in `reliability`. An empty prediction on a slice with tumour scores 0 and stays in the
mean.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modeling_unet.comparison import Overlap, check_masks
from modeling_unet.segmentation import label_pieces
from modeling_unet.surface import bounding_window


MIN_LESION_IOU = 0.1
BOOTSTRAP_ROUNDS = 2000
BOOTSTRAP_SEED = 0


# -------------------------------------------------------------------------------------------------------------- lesions


@dataclass(frozen=True)
class LesionCounts:
    """How many lesions of a slice were found, and how many predicted ones are false.

    A lesion is what `modeling_unet` reports as one: an 8-connected piece of a mask of at least 10 px.

    Attributes:
        true: lesions of the truth.
        hit: those of them that overlap with a lesion of the prediction, IoU > 0.1.
        predicted: lesions of the prediction.
        false: those of them that hit none of the truth.
        largest_predicted: pixels of the largest one, 0 if there is none.
    """

    true: int
    hit: int
    predicted: int
    false: int
    largest_predicted: int

    @classmethod
    def of(cls, predicted: np.ndarray, true: np.ndarray) -> "LesionCounts":
        """Count; raises ValueError if the masks differ in shape or are not boolean."""
        check_masks(predicted, true)
        window = bounding_window(predicted | true)
        num_true, true_labels = _label_lesions(true[window])
        num_predicted, predicted_labels = _label_lesions(predicted[window])
        pairs = true_labels * (num_predicted + 1) + predicted_labels
        table = np.bincount(pairs.ravel(), minlength=(num_true + 1) * (num_predicted + 1))
        table = table.reshape(num_true + 1, num_predicted + 1)
        true_areas, predicted_areas, shared = table.sum(axis=1)[1:], table.sum(axis=0)[1:], table[1:, 1:]
        overlaps = shared / (true_areas[:, None] + predicted_areas - shared) > MIN_LESION_IOU
        return cls(
            true=num_true,
            hit=int(overlaps.any(axis=1).sum()),
            predicted=num_predicted,
            false=int((~overlaps.any(axis=0)).sum()),
            largest_predicted=int(predicted_areas.max(initial=0)),
        )


def _label_lesions(mask: np.ndarray) -> tuple[int, np.ndarray]:
    """Number of lesions, and [H, W] with 1, 2, … on the pixels of each and 0 elsewhere."""
    labels, large, *_ = label_pieces(mask)
    return int(large.sum()), np.where(large, large.cumsum(), 0)[labels]


def detection_rates(found: Sequence[bool], present: Sequence[bool]) -> tuple[float | None, float | None]:
    """(sensitivity, specificity) of "there is a tumour in this slice"; None where there is no slice to measure it on.

    Args:
        found: per slice, whether any lesion was predicted, wherever it lies.
        present: per slice, whether there is a tumour.
    """
    marked, ill = np.asarray(found, dtype=bool), np.asarray(present, dtype=bool)
    sensitivity = float(marked[ill].mean()) if ill.any() else None
    specificity = float(1 - marked[~ill].mean()) if (~ill).any() else None
    return sensitivity, specificity


# ----------------------------------------------------------------------------------------------- averages and intervals


def pooled_dice(overlaps: Sequence[Overlap]) -> float:
    """2ΣI / Σ(P + T): large tumours count more. 1 if every mask is empty."""
    intersection = sum(overlap.intersection for overlap in overlaps)
    total = sum(overlap.predicted + overlap.true for overlap in overlaps)
    return 2 * intersection / total if total else 1.0


def person_means(values: Sequence[float], persons: Sequence[str]) -> dict[str, float]:
    """Person → mean of the person's slices."""
    by_person = defaultdict(list)
    for value, person in zip(values, persons, strict=True):
        by_person[person].append(value)
    return {person: float(np.mean(own)) for person, own in by_person.items()}


def person_mean(values: Sequence[float], persons: Sequence[str]) -> float:
    """Mean over persons of the mean of their slices."""
    return float(np.mean(list(person_means(values, persons).values())))


def bootstrap_interval(values: Sequence[float], persons: Sequence[str]) -> tuple[float, float]:
    """95 % percentile interval of the mean over slices, persons drawn with replacement.

    Slices of one person are alike; drawing slices would make the interval far too narrow. Efron and Tibshirani 1993,
    chapter 13. Of one person alone there is none, and the interval is the mean twice.
    """
    names, person_index = np.unique(np.asarray(persons), return_inverse=True)
    sums = np.bincount(person_index, weights=np.asarray(values, dtype=float))
    counts = np.bincount(person_index)
    drawn = np.random.default_rng(BOOTSTRAP_SEED).integers(len(names), size=(BOOTSTRAP_ROUNDS, len(names)))
    low, high = np.percentile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [2.5, 97.5])
    return float(low), float(high)


def person_interval(values: Sequence[float], persons: Sequence[str]) -> tuple[float, float]:
    """95 % percentile interval of `person_mean`, persons drawn with replacement."""
    means = person_means(values, persons)
    return bootstrap_interval(list(means.values()), list(means))


def paired_interval(first: Sequence[float], second: Sequence[float], persons: Sequence[str]) -> tuple[float, float]:
    """95 % interval of the mean of `second` minus `first`, two scores of the same slices, persons drawn.

    The difficulty of a slice cancels out, so a difference may be clear even if the intervals of the two means overlap.
    """
    return bootstrap_interval(np.subtract(second, first, dtype=float).tolist(), persons)


def summarize(overlaps: Sequence[Overlap], persons: Sequence[str]) -> dict[str, float | int | list[float]]:
    """What the overlaps of a set of slices come to, by the names used in logs, card and README."""
    dice = [overlap.dice for overlap in overlaps]
    iou = [overlap.iou for overlap in overlaps]
    return {
        "slices": len(overlaps),
        "persons": len(set(persons)),
        "slice_dice": float(np.mean(dice)),
        "slice_dice_interval": list(bootstrap_interval(dice, persons)),
        "person_dice": person_mean(dice, persons),
        "person_dice_interval": list(person_interval(dice, persons)),
        "pooled_dice": pooled_dice(overlaps),
        "slice_iou": float(np.mean(iou)),
        "slice_iou_interval": list(bootstrap_interval(iou, persons)),
        "zero_dice_rate": float(np.mean([value == 0 for value in dice])),
    }


def summarize_hd95(values: Sequence[float | None], shapes: Sequence[tuple[int, int]]) -> dict[str, float | int | None]:
    """The median HD95 of slices, and what the undefined ones would make of it.

    Args:
        values: per slice, what `hd95` returns.
        shapes: (height, width) of each slice.

    Returns:
        `hd95_median` over the defined ones (None if there are none), in px of the slices themselves; `hd95_undefined`,
        the number of the others; `hd95_median_diagonal` over all, where undefined counts as the slice's diagonal.
    """
    defined = [value for value in values if value is not None]
    completed = [math.hypot(*shape) if value is None else value for value, shape in zip(values, shapes, strict=True)]
    return {
        "hd95_median": float(np.median(defined)) if defined else None,
        "hd95_undefined": len(values) - len(defined),
        "hd95_median_diagonal": float(np.median(completed)),
    }
