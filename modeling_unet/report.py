"""One printed page about one slice: its pictures, its measurements, where they come from, and what they are not.

    Segmentation (+ Comparison) → pictures with scale bar and numbers, figures, table of lesions → HTML for one A4 page

Its content is worked out here; its looks are in `report.html`, a Jinja template that escapes all text. The page needs
no other file: no script, no font, no request. Text from outside, such as a file's name, is shortened so that
everything fits on the page.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .comparison import Comparison
from .figures import class_areas, describe_profile, distances, slice_figures
from .image_processing_unet import printable
from .overlay import COLORMAP, DEFAULT_ALPHA, DEFAULT_COLOR, class_colors, parse_color
from .pictures import data_uri
from .segmentation import Lesion, Segmentation


# What leaves room for the rest on one page.
MAX_LESIONS = 8
MAX_LESIONS_WITH_PROFILE = 4
MAX_WARNINGS = 2
MAX_TITLE = 120
MAX_NAME = 80
MAX_CLASS_NAME = 24
MAX_WARNING = 200
MAX_PICTURE_SIDE = 1200  # px, about 270 dpi on the page; a slice of 8192 px a side would make a file of 100 MB
MAX_SCALE_BAR = 0.3  # of the picture's width
DETAIL_MARGIN = 0.5  # of the lesion's longer side, on each side of it

TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)


class Profile(NamedTuple):
    """How the tumour of a volume is spread over its slices.

    Attributes:
        areas_px: of the tumour in all slices, in their order.
        voxel_ml: volume of a voxel in mL; None if it is not known.
        index: of the slice that is reported.
    """

    areas_px: Sequence[int]
    voxel_ml: float | None
    index: int

    @property
    def sentence(self) -> str:
        return f"{describe_profile(self.areas_px, self.voxel_ml)} This is slice {self.index + 1}."

    @property
    def bars(self) -> str:
        """A bar per slice, 1 wide and up to 100 high, as an SVG path."""
        scale = 100 / max(*self.areas_px, 1)
        return "".join(f"M{index} 100v{-scale * area:.1f}h1V100z" for index, area in enumerate(self.areas_px) if area)


def draw_report(
    segmentation: Segmentation,
    *,
    title: str,
    model: str,
    revision: str | None,
    comparison: Comparison | None = None,
    color: str | tuple[int, int, int] = DEFAULT_COLOR,
    alpha: float = DEFAULT_ALPHA,
    style: str = "fill",
    warnings: Iterable[str] = (),
    volume: Mapping[str, list[str]] | None = None,
    profile: Profile | None = None,
    by_hand: bool = False,
) -> str:
    """Draw the report of one slice.

    Args:
        segmentation: the slice, cut as it is to be reported.
        title: what the slice is called, such as the name of its file.
        model: id or name of the model.
        revision: its commit, tag or hash; None if there is none.
        comparison: of the mask with the true one.
        color, alpha, style: of the overlay, as in `draw_overlay`.
        warnings: sentences about the slice that its reader has to know.
        volume: name → value and notes of the volume that the slice is of.
        profile: of the same volume.
        by_hand: whether somebody has corrected the mask, so that it is not the network's alone.

    Returns:
        A whole HTML document that prints on exactly one A4 page.

    Raises:
        ValueError: a colour, opacity or style is not allowed.
    """
    canvas, lesions = Canvas(segmentation), segmentation.lesions[: MAX_LESIONS_WITH_PROFILE if profile else MAX_LESIONS]
    names = [_shortened(name, MAX_CLASS_NAME) for name in segmentation.class_names]
    areas = [" ".join(both) for both in zip(names, class_areas(segmentation), strict=True)]
    return TEMPLATES.get_template("report.html").render(
        segmentation=segmentation,
        title=_shortened(title, MAX_TITLE),
        tumor="#{:02x}{:02x}{:02x}".format(*parse_color(color)),
        canvas=canvas,
        overlay=data_uri(_small(segmentation.overlay(color, alpha, style))),
        plain=data_uri(_small(segmentation.image)),
        detail=canvas.around(lesions[0]) if lesions else None,
        classes=dict(zip(names, class_colors(len(names)), strict=True)),
        steps=_color_steps() if style == "heatmap" else None,
        figures={
            **slice_figures(segmentation),
            **({"Area of each class": areas} if areas else {}),
            "Lesions": [str(len(segmentation.lesions))],
            "Highest probability": [f"{100 * segmentation.highest_probability:.0f} %"],
        },
        volume=volume,
        profile=profile,
        by_hand=by_hand,
        compared=_compared(comparison) if comparison else None,
        lesions=lesions,
        notes=_notes(segmentation, len(lesions)),
        warnings=_warnings(list(warnings)),
        model=_shortened(model, MAX_NAME),
        revision=_shortened(revision or "not stated", MAX_NAME),
        mask=[f"probability above {segmentation.threshold:g}", f"lesions from {segmentation.min_area_px:g} px"],
        size=_size(segmentation),
    )


def definitions(figures: dict[str, list[str]]) -> str:
    """Name → value and notes, as an HTML list; texts are escaped."""
    macros: Any = TEMPLATES.get_template("definitions.html").module
    return str(macros.definitions(figures))


# ------------------------------------------------------------------------------------------------------------- sections


def _compared(comparison: Comparison) -> dict[str, list[str]]:
    return {
        "Dice": [f"{comparison.dice:.3f}"],
        "IoU": [f"{comparison.iou:.3f}"],
        "HD95": distances(comparison),
        "True area": [f"{comparison.true_area_px:,} px"],
    }


def _notes(segmentation: Segmentation, count: int) -> list[str]:
    """What the table of the first `count` lesions leaves out."""
    notes = []
    if hidden := segmentation.lesions[count:]:
        notes.append(f"And {len(hidden)} smaller ones, {sum(lesion.area_px for lesion in hidden):,} px together.")
    if rest := segmentation.area_px - np.count_nonzero(segmentation.lesion_mask):
        notes.append(f"Pieces of fewer than {segmentation.min_area_px:g} px, {rest:,} px together, are no lesions.")
    return notes


def _warnings(warnings: list[str]) -> list[str]:
    shown = [_shortened(warning, MAX_WARNING) for warning in warnings[:MAX_WARNINGS]]
    hidden = len(warnings) - len(shown)
    return [*shown, f"And {hidden} more."] if hidden else shown


def _size(segmentation: Segmentation) -> list[str]:
    height, width = segmentation.mask.shape
    if not segmentation.spacing:
        return [f"{width} × {height} px"]
    row, column = segmentation.spacing
    return [f"{width} × {height} px", f"{column:.4g} × {row:.4g} mm a pixel"]


def _shortened(text: str, longest: int) -> str:
    """Text from outside, cut where it is too long."""
    text = printable(text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


# ------------------------------------------------------------------------------------------------------------- pictures


class Window(NamedTuple):
    """A part of a drawing."""

    x: float
    y: float
    width: float
    height: float


class Canvas:
    """Where things lie in the drawing of a slice. One unit is the shorter side of a pixel, so proportions are true."""

    def __init__(self, segmentation: Segmentation):
        self.spacing = segmentation.spacing
        row, column = segmentation.spacing or (1.0, 1.0)
        self.mm = 1 / min(row, column)  # units
        self.pixel_width, self.pixel_height = column / min(row, column), row / min(row, column)
        height, width = segmentation.mask.shape
        self.whole = Window(0, 0, width * self.pixel_width, height * self.pixel_height)
        self.letter = max(self.whole.width, self.whole.height) / 30

    def box(self, lesion: Lesion) -> Window:
        x, y, width, height = lesion.box
        return Window(x * self.pixel_width, y * self.pixel_height, width * self.pixel_width, height * self.pixel_height)

    def around(self, lesion: Lesion) -> Window:
        """A square around a lesion, moved into the slice as far as it fits."""
        x, y, width, height = self.box(lesion)
        side = max(width, height) * (1 + 2 * DETAIL_MARGIN)
        left = min(x + width / 2 - side / 2, self.whole.width - side)
        top = min(y + height / 2 - side / 2, self.whole.height - side)
        return Window(max(0, left), max(0, top), side, side)

    def numbers(self, lesions: list[Lesion]) -> Iterator[tuple[float, float, str]]:
        """(x, y, anchor) for the number of each lesion: beside it, on the side where there is more room."""
        gap = self.letter / 3
        for x, y, width, height in map(self.box, lesions):
            is_right = x + width / 2 > self.whole.width / 2
            yield x - gap if is_right else x + width + gap, y + height / 2 + gap, "end" if is_right else "start"

    @cached_property
    def scale_mm(self) -> float | None:
        """Length of the scale bar, 1, 2 or 5 times a power of ten mm; None where the spacing is not known."""
        if not self.spacing:
            return None
        longest = MAX_SCALE_BAR * self.whole.width / self.mm
        power = 10 ** math.floor(math.log10(longest))
        return max(step * power for step in (1, 2, 5) if step * power <= longest)

    @property
    def scale_bar(self) -> Window | None:
        if self.scale_mm is None:
            return None
        return Window(self.letter, self.whole.height - self.letter, self.scale_mm * self.mm, self.letter / 5)


def _color_steps() -> list[str]:
    """Colours of the heat map from probability 0 to 1, as CSS writes them."""
    steps = cv2.applyColorMap(np.linspace(0, 255, 9).astype(np.uint8)[None], COLORMAP)[0, :, ::-1].tolist()
    return ["rgb({}, {}, {})".format(*step) for step in steps]


def _small(picture: np.ndarray) -> np.ndarray:
    shrink = MAX_PICTURE_SIDE / max(picture.shape[:2])
    if shrink >= 1:
        return picture
    size = [max(1, round(side * shrink)) for side in picture.shape[1::-1]]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
