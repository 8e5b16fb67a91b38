"""`python -m train report`: tables and pictures of an evaluation, and a paired comparison of several with the first.

    A.json [B.json …], written by evaluate or cv ─→ DIR/report.md, reliability.png, thresholds.png, persons.png

Two models are compared on the slices that both have scored, slice by slice, and only where that is fair: the same data,
persons that neither was trained on, the same threshold and resolution.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modeling_unet.files import write_atomically

from ..data.folds import UNKNOWN
from ..record import read_evaluation
from .aggregate import figures_of, overlap_of
from .charts import write_charts
from .metrics import paired_interval, person_means
from .tables import (
    CLASSES_MEAN,
    EMPTY_MEANS,
    MIN_PERSONS_OF_AN_INTERVAL,
    NONE_MEANS,
    WITH_TUMOR,
    class_table,
    comparison_table,
    describe_detection,
    detail_table,
    false_alarm_table,
    main_groups,
    markdown_table,
    overlap_table,
)


logger = logging.getLogger(__name__)

NEEDED = {"per_negative", "model", "fold", "threshold", "resolution"}
EQUAL = {"resolution": "at {} resolution", "threshold": "at threshold {}"}

NOTES = """\
- `slice_dice` is the mean over slices, `person_dice` the mean over persons of their slices' means, `pooled_dice` the
  Dice of all pixels together. An empty prediction on a slice with tumour counts 0. Intervals are 95 %, by bootstrap
  over persons.
- `nsd` is the share of both outlines that lies within 2 px of the other, on a 512-px grid.
- `hd95` is the 95th percentile of the distances between the outlines, both ways together, in px of the slice; the
  spacing is not known, so nothing is in mm. Where one mask alone is empty it is undefined; in `hd95_median_diagonal`
  it counts as the slice's diagonal there.
- A lesion is a connected piece of at least 10 px. It is found if its IoU with a predicted one is above 0.1; a predicted
  one that finds none is false.
- `ece` and `brier` are taken on the tumour and 15 px around it, on a 512-px grid.
- "Is there a tumour?" is answered yes where any lesion is predicted, wherever it lies.
- {none_means}
- {empty_means}
- A threshold that is picked by its curve would have to be scored on other persons.
- Q1 to Q4 are quarters of the slices by tumour area, on a 512-px grid.
"""


def report(evaluations: Sequence[str | Path], out: str | Path) -> None:
    """Write the report on one or more evaluations, and compare each of the others with the first.

    Args:
        evaluations: JSON files that `evaluate --output` or `cv` wrote.
        out: folder for `report.md` and its pictures; older ones are replaced.

    Raises:
        ValueError: a file is no evaluation, or the others cannot be compared with the first; nothing is written then.
    """
    paths = [Path(path) for path in evaluations]
    by_name = {name: evaluation_of(path) for name, path in zip(_names(paths), paths, strict=True)}
    text = format_report(by_name)
    write_charts(by_name, Path(out))
    write_atomically(Path(out) / "report.md", text.encode())
    logger.info("The report is in %s.", Path(out) / "report.md")


def evaluation_of(path: Path) -> dict:
    """An evaluation, its figures worked out anew from its rows; raises ValueError if the file holds none."""
    content = read_evaluation(path)
    if not content.get("per_slice"):
        raise ValueError(f"{path} holds no evaluation; give a file that evaluate --output or cv wrote.")
    if missing := sorted(NEEDED - content.keys()):
        raise ValueError(
            f"{path} was written by an older version and lacks {', '.join(missing)}; run evaluate --output again."
        )
    try:
        return {**content, **figures_of(content["per_slice"], content["per_negative"])}
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged: its rows do not give the figures of an evaluation ({error!r})."
        ) from error


def _names(paths: Sequence[Path]) -> list[str]:
    """What to call the evaluations: by their files' stems, or by their paths where those are not distinct."""
    if len(set(paths)) < len(paths):
        raise ValueError(f"The same file is given twice: {', '.join(map(str, paths))}.")
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


# ----------------------------------------------------------------------------------------------------------- comparison


def compare(first: dict, second: dict, names: tuple[str, str]) -> dict:
    """The differences between two evaluations, `second` minus `first`, on the slices that both have scored.

    Returns:
        `slices`, `persons`, `only_first` and `only_second` (numbers of slices that the other has not scored);
        `metrics`: for `slice_dice`, `person_dice`, `slice_iou` and `zero_dice_rate`, and where slices without tumour
        are among them for `slice_dice` on the others, the values `first` and `second`, `difference` and its `interval`,
        95 % by paired bootstrap over persons.

    Raises:
        ValueError: there is no such slice, or the comparison would not be fair; the message says why.
    """
    _refuse_unfair(first, second, names)
    ours, theirs = ({row["slice"]: row for row in evaluation["per_slice"]} for evaluation in (first, second))
    shared = [name for name in ours if name in theirs]
    if not shared:
        raise ValueError(f"{names[0]} and {names[1]} have scored no slice in common; there is nothing to compare.")
    for name in shared:
        if any(ours[name][column] != theirs[name][column] for column in ("person_id", "true", "height", "width")):
            raise ValueError(
                f"{names[0]} and {names[1]} were scored on different data: slice {name} has another person, size or "
                "tumour area in each."
            )
    return {
        "slices": len(shared),
        "persons": len({ours[name]["person_id"] for name in shared}),
        "only_first": len(ours) - len(shared),
        "only_second": len(theirs) - len(shared),
        "metrics": differences([ours[name] for name in shared], [theirs[name] for name in shared]),
    }


def _refuse_unfair(first: dict, second: dict, names: tuple[str, str]) -> None:
    for name, evaluation in zip(names, (first, second), strict=True):
        if evaluation.get("seen_in_training"):
            raise ValueError(
                f"{name} scores a model on persons it was trained on; a comparison with it would say nothing."
            )
    for column, phrase in EQUAL.items():
        values = [evaluation[column] for evaluation in (first, second)]
        if values[0] != values[1]:
            shown = [phrase.format(value) for value in values]
            raise ValueError(
                f"{names[0]} was scored {shown[0]} and {names[1]} {shown[1]}; a comparison would not be fair."
            )
    folds = [evaluation["fold"] for evaluation in (first, second)]
    if all(isinstance(fold, int) for fold in folds) and folds[0] != folds[1]:
        raise ValueError(
            f"{names[0]} was scored on fold {folds[0]} and {names[1]} on fold {folds[1]}; a comparison needs persons "
            "that both models have not seen."
        )


def differences(ours: list[dict], theirs: list[dict]) -> dict[str, dict]:
    """Metric → `first`, `second`, `difference` and its `interval`, from rows of the same slices in the same order."""
    persons = [row["person_id"] for row in ours]
    dice = [[row["dice"] for row in rows] for rows in (ours, theirs)]
    dice_of_persons = [list(person_means(values, persons).values()) for values in dice]
    iou = [[overlap_of(row).iou for row in rows] for rows in (ours, theirs)]
    zero = [[value == 0 for value in values] for values in dice]
    with_tumor = [index for index, row in enumerate(ours) if row["true"]]
    headline = {}
    if 0 < len(with_tumor) < len(ours):
        chosen = [[values[index] for index in with_tumor] for values in dice]
        headline[f"slice_dice, {WITH_TUMOR}"] = _difference(chosen, [persons[index] for index in with_tumor])
    return {
        **headline,
        "slice_dice": _difference(dice, persons),
        "person_dice": _difference(dice_of_persons, list(dict.fromkeys(persons))),
        "slice_iou": _difference(iou, persons),
        "zero_dice_rate": _difference(zero, persons),
    }


def _difference(scores: Sequence[Sequence[float]], persons: Sequence[str]) -> dict:
    first, second = scores
    means = float(np.mean(first)), float(np.mean(second))
    interval = list(paired_interval(first, second, persons))
    return {"first": means[0], "second": means[1], "difference": means[1] - means[0], "interval": interval}


# ----------------------------------------------------------------------------------------------------------------- text


def format_report(evaluations: dict[str, dict]) -> str:
    """The whole of `report.md`: what was scored, the tables of each evaluation, comparisons, pictures, notes."""
    first, *others = evaluations
    sections = [f"# Evaluation: {', '.join(evaluations)}", _overview(evaluations)]
    for name, evaluation in evaluations.items():
        sections += [f"## {name}", *_evaluation_sections(evaluation)]
    for name in others:
        sections += _comparison_sections(first, name, evaluations)
    sections += ["## Pictures", "![reliability](reliability.png)"]
    sections += ["![Dice at other thresholds](thresholds.png)", "![persons](persons.png)", "## Notes"]
    sections.append(NOTES.strip().format(none_means=NONE_MEANS, empty_means=EMPTY_MEANS))
    return "\n\n".join(sections) + "\n"


def _overview(evaluations: dict[str, dict]) -> str:
    rows = {}
    for name, evaluation in evaluations.items():
        fold = evaluation["fold"]
        folds = ", ".join(map(str, fold)) if isinstance(fold, list) else str(fold)
        columns = [evaluation["model"], folds, *(str(evaluation["all"][column]) for column in ("slices", "persons"))]
        rows[name] = [*columns, f"{evaluation['threshold']:g}", evaluation["resolution"]]
    return markdown_table(["model", "fold", "slices", "persons", "threshold", "resolution"], rows)


def describe_intervals(persons: int) -> str:
    if persons < MIN_PERSONS_OF_AN_INTERVAL:
        return f"{persons} persons are too few for an interval of the difference, and to tell which is better."
    return (
        "Intervals of the difference, by paired bootstrap over persons; one that spans 0 leaves open which is better."
    )


def _evaluation_sections(evaluation: dict) -> list[str]:
    groups = main_groups(evaluation)
    for part, label in (("by_tumor_type", "type"), ("by_plane", "plane")):
        if set(evaluation[part]) != {UNKNOWN}:
            groups |= {f"{label}: {name}": figures for name, figures in evaluation[part].items()}
    for name, figures in evaluation["by_lesion_size"].items():
        areas = f"{figures['smallest_area']:.0f}–{figures['largest_area']:.0f} px"
        groups[f"{name}: {areas} on a 512-px grid"] = figures
    warning = (
        "**This model was trained on the persons that are scored here: the figures say nothing about new people.**"
    )
    return [
        *([warning] if evaluation.get("seen_in_training") else []),
        *(overlap_table(groups), detail_table(groups)),
        *([class_table(evaluation["by_class"]), CLASSES_MEAN] if "by_class" in evaluation else []),
        describe_detection(evaluation["detection"]),
        *([false_alarm_table(evaluation["false_alarms"])] if evaluation["false_alarms"] else []),
    ]


def _comparison_sections(first: str, second: str, evaluations: dict[str, dict]) -> list[str]:
    comparison = compare(evaluations[first], evaluations[second], (first, second))
    left_out = {first: comparison["only_first"], second: comparison["only_second"]}
    aside = "".join(f" {name} has {count} more, left out here." for name, count in left_out.items() if count)
    return [
        f"## {second} against {first}",
        f"On the {comparison['slices']} slices of {comparison['persons']} persons that both have scored.{aside} "
        f"{describe_intervals(comparison['persons'])}",
        comparison_table(comparison, (first, second)),
    ]
