"""Pictures of evaluations: reliability of probabilities, Dice at other thresholds, Dice of every person.

name → evaluation ─ draw_reliability, draw_thresholds, draw_persons ─→ write_charts ─→ PNG files
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..style import INK, LOOKS, PALE, write_figure
from .metrics import person_means


def write_charts(evaluations: dict[str, dict], folder: Path) -> None:
    """Write `reliability.png`, `thresholds.png` and `persons.png`.

    Args:
        evaluations: name in the legends → what `evaluate` returned.
        folder: where the files go; older ones are replaced.
    """
    charts = {"reliability": draw_reliability, "thresholds": draw_thresholds, "persons": draw_persons}
    for name, draw in charts.items():
        write_figure(partial(draw, evaluations), folder / f"{name}.png")


def draw_reliability(evaluations: dict[str, dict]) -> Figure:
    """Share of tumour against the probability that was given, and how many pixels stand behind each point."""
    figure = Figure(figsize=(5.6, 7), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.plot([0, 1], [0, 1], color=PALE, linestyle="--", linewidth=1, label="as reliable as can be")
    curves = [curve for name, evaluation in evaluations.items() for curve in _reliabilities(name, evaluation)]
    for (name, bins, figures), (color, marker) in _with_looks(curves):
        points = [(part["mean_probability"], part["tumor_share"]) for part in bins if part["pixels"]]
        label = f"{name}: ECE {figures['ece']:.3f}, Brier {figures['brier']:.3f}" if points else f"{name}: no tumour"
        axes.plot(*_coordinates(points), color=color, marker=marker, markersize=5, linewidth=1.6, label=label)
        edges = [part["from"] for part in bins] + [1]
        counts.stairs([part["pixels"] for part in bins], edges, color=color, linewidth=1.6)
    axes.set_title("Reliability, on the tumour and 15 px around it (512-px grid)", loc="left")
    axes.set(ylabel="share of pixels that are tumour", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    counts.set(xlabel="tumour probability", ylabel="pixels per bin", yscale="log")
    _draw_grid(axes, counts)
    figure.legend(loc="outside lower left", frameon=False)
    return figure


def _reliabilities(name: str, evaluation: dict) -> Iterator[tuple[str, list[dict], dict]]:
    """Name, bins and figures of an evaluation, and of each of several classes that some slice shows."""
    yield name, evaluation["reliability"], evaluation["all"]
    for of_class, own in evaluation.get("by_class", {}).items():
        if own["figures"]:
            yield f"{name}, {of_class}", own["reliability"], own["figures"]


def draw_thresholds(evaluations: dict[str, dict]) -> Figure:
    """Mean Dice over slices at every threshold, and the threshold that all other figures are taken at."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    used = next(iter(evaluations.values()))["threshold"]
    axes.axvline(used, color=PALE, linestyle="--", linewidth=1, label=f"{used:g}, where all other figures are taken")
    for (name, evaluation), (color, marker) in _with_looks(evaluations.items()):
        points = [(point["threshold"], point["slice_dice"]) for point in evaluation["thresholds"]]
        axes.plot(*_coordinates(points), color=color, marker=marker, markersize=4, linewidth=1.6, label=name)
    axes.set_title("Dice by threshold", loc="left")
    axes.set(xlabel="threshold", ylabel="slice_dice", xlim=(0, 1))
    _draw_grid(axes)
    figure.legend(loc="outside lower left", frameon=False)
    return figure


def draw_persons(evaluations: dict[str, dict]) -> Figure:
    """Every person's mean Dice, in rising order, over the Dice of the person's slices; a panel per evaluation."""
    figure = Figure(figsize=(8.4, 0.7 + 3 * len(evaluations)), layout="constrained")
    panels = figure.subplots(len(evaluations), 1, squeeze=False)[:, 0]
    types = sorted({row["tumor_type"] for evaluation in evaluations.values() for row in evaluation["per_slice"]})
    looks = dict(_with_looks(types))
    for axes, (name, evaluation) in zip(panels, evaluations.items(), strict=True):
        _draw_persons(axes, evaluation["per_slice"], looks)
        mean = evaluation["all"]["person_dice"]
        axes.axhline(mean, color=INK, linestyle="--", linewidth=0.9)
        axes.set_title(f"{name}: person_dice {mean:.3f} (dashed)", loc="left")
        axes.set(ylabel="Dice", ylim=(-0.03, 1.03), xticks=[])
        _draw_grid(axes)
    panels[-1].set_xlabel("persons, by the mean of their slices")
    handles = [_handle(tumor_type, color, marker, size=7) for tumor_type, (color, marker) in looks.items()]
    handles.append(_handle("a single slice", PALE, "o", size=3))
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), frameon=False)
    return figure


def _draw_persons(axes: Axes, rows: list[dict], looks: dict[str, tuple[str, str]]) -> None:
    persons, dice = [row["person_id"] for row in rows], [row["dice"] for row in rows]
    means = person_means(dice, persons)
    places = {person: place for place, person in enumerate(sorted(means, key=means.__getitem__))}
    axes.plot(
        [places[person] for person in persons], dice, linestyle="", marker="o", markersize=3, color=PALE, alpha=0.6
    )
    types: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        types[row["person_id"]][row["tumor_type"]] += 1
    for person, place in places.items():
        color, marker = looks[types[person].most_common(1)[0][0]]
        axes.plot(place, means[person], color=color, marker=marker, markersize=7, markeredgecolor="white")
    axes.set_xlim(-1, len(places))


def _with_looks(items: Iterable) -> list[tuple]:
    """Each item with a colour and a marker of its own, as far as there are enough."""
    return list(zip(items, cycle(LOOKS), strict=False))


def _coordinates(points: list[tuple[float, float]]) -> np.ndarray:
    """[(x, y), …] → [xs, ys], both empty if there are no points."""
    return np.reshape(points, (-1, 2)).T


def _draw_grid(*panels: Axes) -> None:
    for axes in panels:
        axes.grid(axis="y")
        axes.set_axisbelow(True)


def _handle(label: str, color: str, marker: str, size: float) -> Line2D:
    return Line2D([], [], color=color, marker=marker, markersize=size, linestyle="", label=label)
