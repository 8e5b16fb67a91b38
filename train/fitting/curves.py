"""Pictures of a run: its course by epoch, and predictions on slices that it was not trained on.

Trainer's log_history → write_curves → curves.csv, curves.png
Dice of every validation slice → pick_examples → the few to segment again → write_predictions → predictions.png
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from modeling_unet.comparison import Overlap
from modeling_unet.files import write_atomically
from modeling_unet.overlay import draw_overlay

from ..data.folds import UNKNOWN
from ..style import BLUE, PREDICTION_COLOR, TRUTH_COLOR, VERMILION, write_figure


# Name of a figure in the Trainer's log → its column.
TRAINING_COLUMNS = {"epoch_loss": "training_loss", "epoch_dice": "training_dice", "epoch_iou": "training_iou"}
VALIDATION_COLUMNS = {
    "eval_loss": "validation_loss",
    "eval_dice_at_network_size": "validation_dice",
    "eval_iou_at_network_size": "validation_iou",
    "eval_zero_dice_rate": "validation_zero_dice_rate",
}
COLUMNS = TRAINING_COLUMNS | VALIDATION_COLUMNS

LINES = {"training": (BLUE, "o"), "validation": (VERMILION, "s")}
PANELS = {"loss": "Loss", "dice": "Dice", "iou": "IoU"}
CURVES_CAPTION = (
    "Dice and IoU are taken at the network's own size. Training: mean over the epoch, on augmented slices, while the "
    "weights move.\nValidation: averaged weights at the end of the epoch, on slices as they are."
)

SHEET_CAPTION = "Dice is taken at the slice's own size."
EXAMPLES_PER_ROW = 4
LONGEST_NAME = 32  # characters that fit above a slice
DRAWN_SIDE = 512  # pixels

CAPTION = {"fontsize": 7.5, "x": 0.01, "ha": "left", "linespacing": 1.4}
ROW_TITLE = {"fontsize": 10, "fontweight": "bold", "ha": "right", "va": "center"}


# --------------------------------------------------------------------------------------------------------------- curves


def write_curves(log_history: list[dict], folder: Path) -> None:
    """Write `curves.csv`, one row per epoch, and `curves.png`, the same as three panels.

    Args:
        log_history: the entries that the Trainer logged; those without a figure of `COLUMNS` are passed over. Of
            several that give the same figure for the same epoch the last counts.
        folder: where the files go; older ones are replaced.
    """
    rows = curve_rows(log_history)
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, ["epoch", *COLUMNS.values()], lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "epoch": f"{row['epoch']:g}"} for row in rows)
    write_atomically(folder / "curves.csv", table.getvalue().encode())
    write_figure(lambda: _draw_curves(rows), folder / "curves.png")


def curve_rows(log_history: list[dict]) -> list[dict[str, float]]:
    """One row per epoch, in order: `epoch` and those of the figures named in `COLUMNS` that the log gives for it."""
    rows: dict[float, dict[str, float]] = {}
    for entry in log_history:
        figures = {column: entry[name] for name, column in COLUMNS.items() if name in entry}
        if figures:
            epoch = round(entry["epoch"], 4)
            rows.setdefault(epoch, {"epoch": epoch}).update(figures)
    return [rows[epoch] for epoch in sorted(rows)]


def _draw_curves(rows: list[dict[str, float]]) -> Figure:
    figure = Figure(figsize=(10.5, 3.4), layout=ConstrainedLayoutEngine(wspace=0.06))
    panels = figure.subplots(1, len(PANELS), sharex=True)
    for axes, (name, title) in zip(panels, PANELS.items(), strict=True):
        for subset, (color, marker) in LINES.items():
            points = [(row["epoch"], row[column]) for row in rows if (column := f"{subset}_{name}") in row]
            _draw_line(axes, points, subset, color, marker)
        axes.set_title(title, loc="left")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        # A marker at 0 or 1 is drawn whole.
        axes.set_ylim((0, None) if name == "loss" else (-0.03, 1.03))
    panels[0].set_xlim(left=0)
    panels[-1].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, borderaxespad=0)
    figure.supxlabel(CURVES_CAPTION, **CAPTION)
    return figure


def _draw_line(axes: Axes, points: list[tuple[float, float]], label: str, color: str, marker: str) -> None:
    epochs, values = zip(*points, strict=True) if points else ((), ())
    axes.plot(epochs, values, label=label, color=color, marker=marker, markersize=3, linewidth=1.6)


# ---------------------------------------------------------------------------------------------------------- predictions


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network found on one slice, and what is there.

    Attributes:
        slice: name of the slice.
        tumor_type: "unknown" is left out of the picture.
        image: [H, W] or [H, W, 3], any numeric dtype, finite; see `modeling_unet.overlay.to_display`.
        truth: bool [H, W].
        predicted: bool [H, W].
    """

    slice: str
    tumor_type: str
    image: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray

    @property
    def dice(self) -> float:
        return Overlap.of(self.predicted, self.truth).dice


def pick_examples(
    dice: Sequence[float], persons: Sequence[str] | None = None, per_row: int = EXAMPLES_PER_ROW
) -> dict[str, list[int]]:
    """Choose which slices to show, each at most once: the `per_row` best, median and worst by Dice.

    Args:
        dice: one number per slice.
        persons: whose slices they are; a row shows one slice of a person, as far as there are enough persons.
        per_row: fewer are chosen where there are not enough slices for three full rows.

    Returns:
        "best", "median" and "worst" → indices into `dice`, in falling order of Dice, equal ones in their own order.
    """
    order = sorted(range(len(dice)), key=lambda index: -dice[index])
    per_row = min(per_row, max(1, len(order) // 3))
    place = {index: place for place, index in enumerate(order)}
    from_the_middle = sorted(order, key=lambda index: abs(place[index] - (len(order) - 1) / 2))
    rows, taken = {}, set()
    for title, candidates in (("best", order), ("worst", order[::-1]), ("median", from_the_middle)):
        left = [index for index in candidates if index not in taken]
        rows[title] = sorted(_of_different_persons(left, persons or range(len(dice)))[:per_row], key=place.__getitem__)
        taken.update(rows[title])
    return {title: rows[title] for title in ("best", "median", "worst")}


def _of_different_persons(indices: list[int], persons: Sequence) -> list[int]:
    """The first slice of every person, in the order given, then all others."""
    first = set({persons[index]: index for index in reversed(indices)}.values())
    return sorted(indices, key=lambda index: index not in first)


def write_predictions(samples: dict[str, list[Prediction]], path: Path) -> None:
    """Write a sheet of slices with the outlines of truth and prediction, a row for each list of `samples`.

    Args:
        samples: title of a row → what to show in it, as `pick_examples` names and orders them; empty rows are left out.
        path: PNG file; an older one is replaced.
    """
    write_figure(lambda: _draw_predictions({title: row for title, row in samples.items() if row}), path)


def _draw_predictions(samples: dict[str, list[Prediction]]) -> Figure:
    columns = max(map(len, samples.values()))
    size = (2.4 * columns + 0.4, 2.75 * len(samples) + 0.4)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.06))
    grid = figure.subplots(len(samples), columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for (title, row), line in zip(samples.items(), grid, strict=True):
        line[0].text(-0.06, 0.5, title.capitalize(), transform=line[0].transAxes, rotation=90, **ROW_TITLE)
        for prediction, axes in zip(row, line, strict=False):
            _draw_prediction(axes, prediction)
    lines = [Line2D([], [], color=color, linewidth=3) for color in (TRUTH_COLOR, PREDICTION_COLOR)]
    labels = ["truth", "prediction (on top)"]
    figure.legend(lines, labels, loc="outside upper left", ncols=2, frameon=False)
    figure.supxlabel(SHEET_CAPTION, **CAPTION)
    return figure


def _draw_prediction(axes: Axes, prediction: Prediction) -> None:
    picture, truth, predicted = map(_enlarge, (prediction.image, prediction.truth, prediction.predicted))
    picture = draw_overlay(picture, truth, TRUTH_COLOR, alpha=1, style="contour")
    axes.imshow(draw_overlay(picture, predicted, PREDICTION_COLOR, alpha=1, style="contour"))
    name, tumor_type = prediction.slice, prediction.tumor_type
    name = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
    facts = ([] if tumor_type == UNKNOWN else [tumor_type]) + [f"Dice {prediction.dice:.2f}"]
    # A name may hold the sign that opens a formula.
    axes.set_title(f"{name}\n{', '.join(facts)}", fontsize=8, fontweight="normal", parse_math=False)


def _enlarge(picture: np.ndarray) -> np.ndarray:
    """Make squares of a small slice's pixels, as an outline is some pixels wide and would cover much of it."""
    times = max(1, DRAWN_SIDE // max(picture.shape[:2]))
    return picture.repeat(times, axis=0).repeat(times, axis=1)
