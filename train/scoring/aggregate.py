"""From the scores of single slices to every figure that is reported.

    rows (evaluate.score_slice) ─ figures_of ─→ all, by type, plane and lesion size, reliability, thresholds, alarms

A row holds everything that the averages need, so that rows of several folds can be put together.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from modeling_unet.comparison import Overlap
from modeling_unet.segmentation import MIN_LESION_AREA_PX
from modeling_unet.surface import scaled

from .metrics import (
    LesionCounts,
    bootstrap_interval,
    detection_rates,
    person_interval,
    person_mean,
    person_means,
    summarize,
    summarize_hd95,
)
from .reliability import THRESHOLDS, Reliability


# Specks count as lesions from 10 px on; false alarms of this larger size are plain to see.
ALARM_AREA_PX = 50


def figures_of(rows: Sequence[dict], negatives: Sequence[dict] = ()) -> dict:
    """Everything that follows from the scores of single slices.

    Args:
        rows: `per_slice` of one evaluation, or of several on different slices together; at least one.
        negatives: `per_negative` likewise: scores of slices without tumour, which enter no average with the others.

    Returns:
        `all`, `with_tumor` (the slices with one, where every Dice has a meaning; None if there are none),
        `by_tumor_type`, `by_plane` and `by_lesion_size` (Q1, the quarter of the slices with the smallest tumour areas,
        to Q4): figures as `summarize_rows` names them; `reliability`: the bins of its diagram;
        `thresholds`: `slice_dice` at each; `detection`: is there a tumour in the slice; `false_alarms` on negatives. Of
        several classes all these are about any of them, and `by_class` has for each the figures of the slices that show
        it (None if none does), its `detection`, and the bins of its `reliability`.
    """
    with_tumor = [row for row in rows if row["true"]]
    return {
        "all": summarize_rows(rows),
        "with_tumor": summarize_rows(with_tumor) if with_tumor else None,
        "by_tumor_type": _summarize_by("tumor_type", rows),
        "by_plane": _summarize_by("plane", rows),
        **({"by_class": _summarize_by_class(rows)} if "classes" in rows[0] else {}),
        "by_lesion_size": _summarize_by_lesion_size(rows),
        "reliability": _reliability(rows).to_bins(),
        "thresholds": _threshold_curve(rows),
        "detection": _detection(rows, negatives),
        "false_alarms": [_false_alarms(negatives, area) for area in (MIN_LESION_AREA_PX, ALARM_AREA_PX) if negatives],
    }


def summarize_rows(rows: Sequence[dict]) -> dict[str, float | int | list[float] | None]:
    """The figures of a set of slices: those of `metrics.summarize`, then surface, lesions and reliability.

    `lesion_sensitivity` is the share of all true lesions that were hit, None if there are none; `ece` and `brier` are
    taken over the pixels of all slices together.
    """
    persons = [row["person_id"] for row in rows]
    surface_dice = [row["nsd"] for row in rows]
    lesions = [LesionCounts(**row["lesions"]) for row in rows]
    true_lesions = sum(counts.true for counts in lesions)
    reliability = _reliability(rows)
    return {
        **summarize([overlap_of(row) for row in rows], persons),
        "nsd": float(np.mean(surface_dice)),
        "nsd_interval": list(bootstrap_interval(surface_dice, persons)),
        **summarize_hd95([row["hd95"] for row in rows], [(row["height"], row["width"]) for row in rows]),
        "lesion_sensitivity": sum(counts.hit for counts in lesions) / true_lesions if true_lesions else None,
        "false_lesions_per_slice": sum(counts.false for counts in lesions) / len(rows),
        "ece": reliability.ece,
        "brier": reliability.brier,
    }


def overlap_of(row: dict) -> Overlap:
    return Overlap(row["intersection"], row["predicted"], row["true"])


def _summarize_by(column: str, rows: Iterable[dict]) -> dict[str, dict]:
    groups = defaultdict(list)
    for row in rows:
        groups[row[column]].append(row)
    return {name: summarize_rows(groups[name]) for name in sorted(groups)}


def _summarize_by_class(rows: Sequence[dict]) -> dict[str, dict]:
    figures = {}
    for name in rows[0]["classes"]:
        own = [{**row, **row["classes"][name]} for row in rows]
        shown = [row for row in own if row["true"]]
        figures[name] = {
            "figures": summarize_rows(shown) if shown else None,
            "detection": _detection(own, ()),
            "reliability": _reliability(own).to_bins(),
        }
    return figures


def _summarize_by_lesion_size(rows: Iterable[dict]) -> dict[str, dict]:
    """Quartiles by the tumour's area in the slice, on the 512-px grid; slices without tumour are left out."""
    rows = [row for row in rows if row["true"]]
    areas = np.array([row["true"] / scaled(1, (row["height"], row["width"])) ** 2 for row in rows])
    quartiles = np.searchsorted(np.quantile(areas, [0.25, 0.5, 0.75]), areas) if rows else areas
    figures = {}
    for quartile in np.unique(quartiles):
        own = np.flatnonzero(quartiles == quartile)
        limits = {"smallest_area": float(areas[own].min()), "largest_area": float(areas[own].max())}
        figures[f"Q{quartile + 1}"] = {**summarize_rows([rows[index] for index in own]), **limits}
    return figures


def _reliability(rows: Iterable[dict]) -> Reliability:
    return Reliability.total(Reliability(**row["reliability"]) for row in rows)


def _threshold_curve(rows: Iterable[dict]) -> list[dict[str, float]]:
    means = np.mean([row["threshold_dice"] for row in rows], axis=0)
    return [
        {"threshold": threshold, "slice_dice": float(dice)} for threshold, dice in zip(THRESHOLDS, means, strict=True)
    ]


def _detection(rows: Sequence[dict], negatives: Sequence[dict]) -> dict[str, float | int | None]:
    everything = [*rows, *negatives]
    present = [row["true"] > 0 for row in everything]
    with_tumor = sum(present)
    sensitivity, specificity = detection_rates([row["lesions"]["predicted"] > 0 for row in everything], present)
    return {
        "slices_with_tumor": with_tumor,
        "sensitivity": sensitivity,
        "found_elsewhere": sum(
            row["true"] > 0 and row["intersection"] == 0 and row["lesions"]["predicted"] > 0 for row in rows
        ),
        "slices_without_tumor": len(rows) - with_tumor + len(negatives) // _models(negatives),
        "specificity": specificity,
    }


def _false_alarms(negatives: Sequence[dict], min_area: int) -> dict[str, float | int | list[float]]:
    """How often a lesion of at least `min_area` px, of the slice itself, is reported where there is none."""
    alarms = [row["lesions"]["largest_predicted"] >= min_area for row in negatives]
    persons = [row["person_id"] for row in negatives]
    rates = person_means(alarms, persons).values()
    return {
        "min_area_px": min_area,
        "slices": len(negatives) // _models(negatives),
        "models": _models(negatives),
        "persons": len(set(persons)),
        "slice_rate": float(np.mean(alarms)),
        "slice_rate_interval": list(bootstrap_interval(alarms, persons)),
        "person_rate": person_mean(alarms, persons),
        "person_rate_interval": list(person_interval(alarms, persons)),
        "lowest_person_rate": min(rates),
        "highest_person_rate": max(rates),
    }


def _models(negatives: Sequence[dict]) -> int:
    """How many models have answered each slice: after a cross-validation, that of every fold."""
    return len({row.get("fold") for row in negatives}) or 1
