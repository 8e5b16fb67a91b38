"""`python -m train check`: what is in a data set, and which of its faults would spoil a training.

python -m train check SOURCE --persons FILE --out DIR

SOURCE ─ scan_slices ─ assign_persons ─→ slices ─ audit ─→ findings ─→ a few lines on the terminal,
                                                       DIR/report.md, DIR/distributions.png, DIR/flagged.png
"""

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, cycle, islice, repeat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from datasets import Dataset
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from modeling_unet import InvalidImageError
from modeling_unet.files import write_atomically
from modeling_unet.overlay import draw_overlay, to_display

from ..columns import values_of
from ..files import check_writable
from ..style import LOOKS, TRUTH_COLOR, write_figure
from .arguments import DataArguments
from .audit import Finding, errors_first, fast_findings, near_duplicates, persons_known, slice_findings, sound_slices
from .folds import UNKNOWN, TooFewPersonsError, assign_persons
from .masks import read_bits
from .raw import SHOWN, DataError, as_file, shown_channel
from .slices import check_classes, format_rows, scan, take_share


REPORT, DISTRIBUTIONS, FLAGGED = "report.md", "distributions.png", "flagged.png"
CAPTIONS = {
    DISTRIBUTIONS: "The slices that have no fault, by tumour type where it is known.",
    FLAGGED: "Slices that were found, with the outline of their mask where there is one; the first of each kind.",
}
NOTHING_FOUND = "Nothing was found that would spoil a training."
WHO_IS_WHO = (
    "It is not known which slices are of the same person, so each counts as a person of its own, and every score will "
    "be better than for new persons. Give --persons FILE.csv with a column of slices and one of persons."
)
LINE_WIDTH = 100  # characters, on the terminal
MOST_VALUES = 6  # of a column that are named
BINS = 24
MOST_PANELS = 8  # slices of one finding that are drawn
COUPLES_PER_LINE = 4
PANEL_SIDE = 256  # pixels
LONGEST_LABEL = 20  # characters that fit above a panel


def check(source: str | Path, persons: str | Path | None = None, out: str | Path | None = None, **reading: Any) -> int:
    """Print what is in a data set and what is wrong with it, and write the same with pictures to `out`.

    Args:
        source: folder, file or id of a data set, see `sources.open_source`.
        persons: CSV file that says whose slices are whose.
        out: folder for `report.md`, `distributions.png` and `flagged.png`; older ones are replaced.
        reading: other fields of `ReadingArguments`.

    Returns:
        The number of errors; `fit` refuses data with any.

    Raises:
        DataError: the source as a whole cannot be used.
    """
    if out is not None:
        check_writable(Path(out) / REPORT, "--out")
    slices, findings = examine(DataArguments(str(source), persons=str(persons) if persons else None, **reading))
    facts = summarize(slices)
    print(format_text(facts, findings))
    if out is not None:
        pictures = write_pictures(slices, findings, Path(out))
        write_atomically(Path(out) / REPORT, format_markdown(str(source), facts, findings, pictures).encode())
        print(f"\nWith pictures: {Path(out) / REPORT}")
    return sum(finding.severity == "error" for finding in findings)


def examine(arguments: DataArguments) -> tuple[Dataset, list[Finding]]:
    """The slices, with persons if they could be assigned, and all findings, errors first."""
    found, said = scan(arguments), []
    check_classes(found, arguments.tumor_classes())
    how: dict[str, Any] = {"persons": arguments.persons_file(), "person_column": arguments.person_column}
    try:
        try:
            slices = assign_persons(found, num_folds=arguments.num_folds, **how)
        except TooFewPersonsError as error:  # enough for a training on all of them
            slices = assign_persons(found, without_folds=True, **how)
            said.append(Finding("no folds", "warning", (), str(error)))
    except DataError as error:
        return found, [Finding("persons", "error", (), str(error)), *slice_findings(found)]
    slices = take_share(slices, arguments.negative_share)
    said += [] if persons_known(slices) else [Finding("persons not known", "warning", (), WHO_IS_WHO)]
    return slices, errors_first([*said, *fast_findings(slices), *near_duplicates(slices)])


# ----------------------------------------------------------------------------------------------------------------- text


def summarize(slices: Dataset) -> dict[str, str]:
    """What there is, in words.

    Args:
        slices: the scan, before or after `folds.assign_persons`.
    """
    sound = sound_slices(slices)
    faulty = len(slices) - len(sound)
    facts = {
        "slices": f"{len(slices):,}" + (f", {faulty:,} of them with a fault" if faulty else ""),
        "persons": f"{len({*values_of(slices, 'person_id')}):,}" if persons_known(slices) else "not known",
        "tumour types": _counted(values_of(slices, "tumor_type")),
        "planes": _counted(values_of(slices, "plane")),
        "sizes": _counted(_sizes(sound)),
        "pixels": _counted(values_of(sound, "dtype")),
        "masks": _describe_masks(_mask_percent(sound)),
    }
    if any(values_of(sound, "row_mm")):
        facts["pixel spacing"] = _counted(_spacings(sound))
    if "fold" in slices.column_names:
        folds = Counter(fold for fold in values_of(slices, "fold") if fold >= 0)
        facts["split"] = _counted(values_of(slices, "split"))
        facts["slices per fold"] = ", ".join(f"{folds[fold]:,}" for fold in sorted(folds)) or "–"
    return facts


def format_text(facts: dict[str, str], findings: Sequence[Finding]) -> str:
    """Facts and findings for a terminal."""
    parts = [format_rows(facts)]
    for finding in findings:
        severity = "ERROR" if finding.severity == "error" else "warning"
        message = textwrap.indent(textwrap.fill(finding.message, LINE_WIDTH, break_on_hyphens=False), "  ")
        parts.append(f"{severity}  {_title(finding)}\n{message}")
    return "\n\n".join(parts if findings else [*parts, NOTHING_FOUND])


def format_markdown(
    source: str, facts: dict[str, str], findings: Sequence[Finding], pictures: Sequence[str] = ()
) -> str:
    """Facts and findings as a document, with the names of all slices concerned.

    Args:
        pictures: which of `distributions.png` and `flagged.png` lie beside it.
    """
    shown = {name: [f"![{CAPTIONS[name]}]({name})", f"*{CAPTIONS[name]}*"] for name in pictures}
    parts = [f"# Check of {source}", "\n".join(f"- {name}: {fact}" for name, fact in facts.items())]
    parts += shown.get(DISTRIBUTIONS, [])
    for severity, title in (("error", "## Errors"), ("warning", "## Warnings")):
        chosen = [finding for finding in findings if finding.severity == severity]
        parts += [title, *(part for finding in chosen for part in _section(finding))] if chosen else []
    parts += shown.get(FLAGGED, []) if findings else [NOTHING_FOUND]
    return "\n\n".join(parts) + "\n"


def _section(finding: Finding) -> list[str]:
    names: Sequence[str] = finding.slices
    if finding.paired:
        names = [f"{first} / {second}" for first, second in zip(names[::2], names[1::2], strict=True)]
    parts = [f"### {_title(finding)}", finding.message]
    if len(names) > SHOWN:
        parts.append(f"<details><summary>all of them</summary>\n\n{', '.join(names)}\n\n</details>")
    return parts


def _title(finding: Finding) -> str:
    if not finding.slices:
        return finding.kind
    count, unit = (len(finding.slices) // 2, "pair") if finding.paired else (len(finding.slices), "slice")
    return f"{finding.kind} ({count:,} {unit}{'s' if count > 1 else ''})"


def _counted(values: Iterable[str]) -> str:
    """The values, most frequent first, with their counts where there are several."""
    counts = Counter(value or UNKNOWN for value in values).most_common()
    if len(counts) < 2:
        return "".join(value for value, _ in counts) or "–"
    more = f" and {len(counts) - MOST_VALUES:,} more" if len(counts) > MOST_VALUES else ""
    return ", ".join(f"{value} ({count:,})" for value, count in counts[:MOST_VALUES]) + more


def _describe_masks(percent: np.ndarray) -> str:
    filled = percent[percent > 0]
    if not filled.size:
        return f"{percent.size:,} empty" if percent.size else "–"
    low, median, high = np.percentile(filled, (0, 50, 100))
    empty = percent.size - filled.size
    return f"{low:.2g} to {high:.2g} % of the slice, median {median:.2g} %" + (f"; {empty:,} empty" if empty else "")


def _sizes(slices: Dataset) -> list[str]:
    sides = zip(values_of(slices, "width"), values_of(slices, "height"), strict=True)
    return [f"{width} × {height}" for width, height in sides]


def _spacings(slices: Dataset) -> list[str]:
    sides = zip(values_of(slices, "row_mm"), values_of(slices, "column_mm"), strict=True)
    return [f"{row:.3g} × {column:.3g} mm" if row else "" for row, column in sides]


def _mask_percent(slices: Dataset) -> np.ndarray:
    names = ("mask_area", "height", "width")
    area, height, width = (np.fromiter(values_of(slices, name), np.float64) for name in names)
    return 100 * area / (height * width)


# ------------------------------------------------------------------------------------------------------------- pictures


def write_pictures(slices: Dataset, findings: Sequence[Finding], folder: Path) -> list[str]:
    """Write `distributions.png` and `flagged.png`, each if there is anything to show, and return their names."""
    figures = {
        DISTRIBUTIONS: lambda: draw_distributions(slices),
        FLAGGED: lambda: draw_flagged(slices, findings),
    }
    return [name for name, draw in figures.items() if write_figure(draw, folder / name)]


def draw_distributions(slices: Dataset) -> Figure | None:
    """Slices per person, tumour area, image size and plane, by tumour type; None if every slice has a fault."""
    sound = sound_slices(slices)
    if not len(sound):
        return None
    types = [tumor_type or UNKNOWN for tumor_type in values_of(sound, "tumor_type")]
    figure = Figure(figsize=(10.5, 6.2), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    (persons, areas), (sizes, planes) = figure.subplots(2, 2)
    _draw_persons(persons, sound, types)
    _draw_areas(areas, _mask_percent(sound), types)
    _draw_counts(sizes, "Image size", _sizes(sound), types)
    _draw_counts(planes, "Plane", [plane or UNKNOWN for plane in values_of(sound, "plane")], types)
    if len(set(types)) > 1:
        handles, labels = planes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=len(labels), frameon=False)
    return figure


def _draw_persons(axes: Axes, slices: Dataset, types: list[str]) -> None:
    axes.set_title("Slices per person", loc="left")
    if not persons_known(slices):
        _write_instead(axes, "persons are not known")
        return
    persons = list(values_of(slices, "person_id"))
    counts, type_of = Counter(persons), dict(zip(persons, types, strict=True))
    step = math.ceil(max(counts.values()) / BINS)
    edges = np.arange(0, max(counts.values()) + step, step) + 0.5
    _draw_histogram(axes, edges, list(counts.values()), [type_of[person] for person in counts])
    axes.set(xlabel="slices", ylabel="persons")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))


def _draw_areas(axes: Axes, percent: np.ndarray, types: list[str]) -> None:
    axes.set_title("Tumour area", loc="left")
    if not percent.any():
        _write_instead(axes, "all masks are empty")
        return
    filled = percent[percent > 0]
    _draw_histogram(axes, np.geomspace(0.9 * filled.min(), 1.1 * filled.max(), BINS + 1), percent, types)
    axes.set(xlabel="% of the slice (empty masks left out)", ylabel="slices", xscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def _write_instead(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center")
    axes.axis("off")


def _draw_histogram(axes: Axes, edges: np.ndarray, values: Iterable[float], types: list[str]) -> None:
    groups = _by_type(values, types)
    colors = [color for color, _ in islice(cycle(LOOKS), len(groups))]
    axes.hist(list(groups.values()), edges.tolist(), stacked=True, color=colors, edgecolor="white", linewidth=0.4)
    axes.grid(axis="y")
    axes.set_axisbelow(True)


def _draw_counts(axes: Axes, title: str, values: list[str], types: list[str]) -> None:
    """A bar for each of the most frequent values."""
    names = [name for name, _ in Counter(values).most_common(MOST_VALUES)]
    left = np.zeros(len(names))
    for (color, _), (tumor_type, group) in zip(cycle(LOOKS), _by_type(values, types).items(), strict=False):
        widths = np.array([group.count(name) for name in names])
        bars = axes.barh(names, widths, left=left, color=color, label=tumor_type, height=0.6)
        left += widths
    axes.bar_label(bars, [f"{total:,.0f}" for total in left], padding=4)
    axes.set_title(title, loc="left")
    axes.set(xlabel="slices", xlim=(0, 1.1 * left.max()), ylim=(max(len(names), 3) - 0.5, -0.5))
    axes.grid(axis="x")
    axes.set_axisbelow(True)


def _by_type(values: Iterable, types: list[str]) -> dict[str, list]:
    groups: dict[str, list] = {tumor_type: [] for tumor_type in sorted(set(types))}
    for value, tumor_type in zip(values, types, strict=True):
        groups[tumor_type].append(value)
    return groups


def draw_flagged(slices: Dataset, findings: Sequence[Finding]) -> Figure | None:
    """The first slices of every finding, two by two; None if there is none that can be read."""
    places = {name: index for index, name in enumerate(values_of(slices, "slice"))}
    lines: list[list[tuple[str, list[tuple[str, np.ndarray]]]]] = [[]]
    for finding in findings:
        rows = [slices[places[name]] for name in finding.slices[:MOST_PANELS]]
        panels = [(_label(row), picture) for row in rows if (picture := _draw_slice(row)) is not None]
        couples = [panels[start : start + 2] for start in range(0, len(panels), 2)]
        if len(lines[-1]) + len(couples) > COUPLES_PER_LINE:
            lines.append([])
        # The title of a finding stands over its first couple.
        titles = chain([f"{finding.severity}: {_title(finding)}"], repeat(""))
        lines[-1] += zip(titles, couples, strict=False)
    if not lines[-1]:
        return None
    figure = Figure(figsize=(3.2 * COUPLES_PER_LINE, 2.1 * len(lines)), layout="constrained")
    grid = figure.subfigures(len(lines), COUPLES_PER_LINE, squeeze=False, wspace=0.08)
    for line, subfigures in zip(lines, grid, strict=True):
        for (title, couple), subfigure in zip(line, subfigures, strict=False):
            _draw_couple(subfigure, title, couple)
    return figure


def _draw_couple(figure: SubFigure, title: str, couple: list[tuple[str, np.ndarray]]) -> None:
    # A title of one space takes the height of any other.
    figure.suptitle(title or " ", x=0.02, ha="left", fontsize=9, fontweight="bold")
    panels = figure.subplots(1, 2)
    for axes in panels:
        axes.axis("off")
    for axes, (label, picture) in zip(panels, couple, strict=False):
        axes.imshow(picture)
        axes.set_title(label, fontsize=7.5, fontweight="normal")


def _label(row: dict) -> str:
    person = "" if row["person_id"] in ("", row["slice"]) else f"person {row['person_id']}"
    return "\n".join(
        text if len(text) <= LONGEST_LABEL else f"{text[:LONGEST_LABEL]}…" for text in (row["slice"], person)
    )


def _draw_slice(row: dict) -> np.ndarray | None:
    """uint8 [H, W, 3], at most `PANEL_SIDE` long, with the mask's outline if slice and mask have no fault.

    Of several channels the first is drawn. None if the image cannot be read.
    """
    try:
        image = to_display(shown_channel(row["image"])) if row["image"] else None
    except InvalidImageError:
        image = None
    if image is None:
        return None
    scale = PANEL_SIDE / max(image.shape[:2])
    size = [max(1, round(scale * side)) for side in image.shape[1::-1]]
    picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if row["problem_kind"]:
        return picture
    tumor = (read_bits(as_file(row["mask"])) > 0).astype(np.float32)
    mask = cv2.resize(tumor, size, interpolation=cv2.INTER_AREA)
    return draw_overlay(picture, mask > 0, TRUTH_COLOR, alpha=1, style="contour")
