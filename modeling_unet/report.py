"""One printed page about one slice: its pictures, its measurements, where they come from, and what they are not.

    Segmentation (+ Comparison) → pictures with scale bar and numbers, figures, table of lesions → HTML for one A4 page

The page needs no other file: no script, no font, no request. Text from outside, such as a file's name, is escaped and
shortened so that everything fits on the page.
"""

import base64
import html
import math
from collections.abc import Iterable, Mapping

import cv2
import numpy as np

from .comparison import Comparison
from .overlay import COLORMAP, DEFAULT_ALPHA, DEFAULT_COLOR, parse_color
from .pictures import encode_png
from .segmentation import Lesion, Segmentation


DISCLAIMER = (
    "<strong>Not a medical device. For research and education, not for diagnosis.</strong> The outline was drawn by a "
    "neural network and checked by nobody. It misses tumours, and it reports some that are not there."
)

# What leaves room for the rest on one page.
MAX_LESIONS = 8
MAX_WARNINGS = 2
MAX_TITLE = 120
MAX_NAME = 80
MAX_WARNING = 200
MAX_PICTURE_SIDE = 1200  # px, about 270 dpi on the page; a slice of 8192 px a side would make a file of 100 MB
MAX_SCALE_BAR = 0.3  # of the picture's width
DETAIL_MARGIN = 0.5  # of the lesion's longer side, on each side of it

STYLESHEET = """
@page { size: A4; margin: 0; }
:root { color-scheme: light; --ink: #0f172a; --soft: #64748b; --line: #e2e8f0; }
* { box-sizing: border-box; margin: 0; }
html { background: #e2e8f0; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
body { padding: 8mm; font: 9.5pt/1.45 system-ui, sans-serif; color: var(--ink); }
main {
    display: flex;
    flex-direction: column;
    gap: 5mm;
    width: 210mm;
    height: 296.5mm;
    margin: 0 auto;
    padding: 15mm 17mm 13mm;
    overflow: hidden;
    background: #fff;
    box-shadow: 0 2px 24px rgb(15 23 42 / 18%);
}
main > * { flex: none; }
header p { color: var(--soft); }
.cut {
    display: -webkit-box;
    -webkit-box-orient: vertical;
    -webkit-line-clamp: 2;
    overflow: hidden;
    overflow-wrap: anywhere;
    unicode-bidi: isolate;
}
h1 { margin: 0.5mm 0 2.5mm; font-size: 19pt; font-weight: 650; line-height: 1.2; letter-spacing: -0.015em; }
h2 { margin-bottom: 2mm; font-size: 9.5pt; font-weight: 650; }
header .verdict { display: flex; align-items: center; gap: 2mm; font-size: 12pt; font-weight: 600; color: inherit; }
.verdict::before { content: ""; width: 3mm; height: 3mm; border: 0.6mm solid #94a3b8; border-radius: 50%; }
.found::before { border-color: var(--tumor); background: var(--tumor); }
.verdict span { font-weight: 400; color: var(--soft); }

/* The pictures take 112 mm, or what the rest leaves them. */
main > .pictures { flex: 0 1 112mm; min-height: 0; }
.pictures { display: grid; grid-template: minmax(0, 1fr) minmax(0, 1fr) / 2fr 1fr; gap: 4mm; }
.pictures figure { display: flex; flex-direction: column; gap: 1.5mm; }
.pictures figure:first-child { grid-row: 1 / 3; }
.pictures svg { flex: 1; min-height: 0; width: 100%; background: #000; border-radius: 2mm; }
figcaption { display: flex; align-items: center; gap: 1.5mm; font-size: 8.5pt; color: var(--soft); }
.swatch { width: 4mm; height: 2.4mm; border-radius: 0.6mm; background: var(--tumor); }
.bar { width: 22mm; height: 2.4mm; border-radius: 0.6mm; }
.mark { font-weight: 700; fill: #fff; stroke: #000; paint-order: stroke; }
.frame { fill: none; stroke: #fff; stroke-opacity: 0.6; }

dl { display: grid; grid-template-columns: repeat(4, 1fr); gap: 4mm; }
.figures > div { padding-top: 1.5mm; border-top: 0.4mm solid var(--ink); }
dt { font-size: 8.5pt; color: var(--soft); }
dd { font-variant-numeric: tabular-nums; }
.figures dd { font-size: 14pt; font-weight: 600; line-height: 1.25; }
small { display: block; font-size: 8.5pt; font-weight: 400; color: var(--soft); }

table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.7mm 0 0.7mm 3mm; border-bottom: 0.2mm solid var(--line); text-align: right; }
th:first-child, td:first-child { padding-left: 0; text-align: left; }
thead th { font-size: 8.5pt; font-weight: 400; color: var(--soft); }
table + p { margin-top: 1.5mm; font-size: 8.5pt; color: var(--soft); }

.warnings { padding: 2mm 3mm; border-left: 1mm solid #f59e0b; background: #fffbeb; list-style: none; }
footer { margin-top: auto; }
footer dl { padding: 3mm 0; border-block: 0.2mm solid var(--line); font-size: 8.5pt; }
footer > p { margin-top: 3mm; font-size: 8.5pt; line-height: 1.4; }

@media print {
    html { background: none; }
    body { padding: 0; }
    main { box-shadow: none; }
}
@media screen and (max-width: 226mm) {
    body { padding: 0; }
    main { width: auto; height: auto; min-height: 100vh; padding: 6mm 5mm; }
    main > .pictures { flex: none; }
    dl { grid-template-columns: 1fr 1fr; }
}
@media screen and (max-width: 130mm) {
    .pictures { grid-template: auto / 1fr; }
    .pictures figure:first-child { grid-row: auto; }
    .position { display: none; }
}
"""


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

    Returns:
        A whole HTML document that prints on exactly one A4 page.

    Raises:
        ValueError: a colour, opacity or style is not allowed.
    """
    sections = [
        _head(segmentation, title),
        _pictures(segmentation, color, alpha, style),
        _figures(segmentation),
        _compared(comparison) if comparison else "",
        _lesions(segmentation),
        _warnings(list(warnings)),
        _foot(segmentation, model, revision),
    ]
    tumor = "#{:02x}{:02x}{:02x}".format(*parse_color(color))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title, MAX_TITLE)}: segmentation report</title>
<style>{STYLESHEET}:root {{ --tumor: {tumor}; }}</style>
</head>
<body>
<main>
{"".join(sections)}
</main>
</body>
</html>
"""


# ------------------------------------------------------------------------------------------------------------- sections


def _head(segmentation: Segmentation, title: str) -> str:
    kind, verdict = ("found", "Tumour found") if segmentation.tumor_found else ("clear", "No tumour found")
    return f"""
<header>
<p>Brain tumour segmentation report</p>
<h1 class="cut">{_text(title, MAX_TITLE)}</h1>
<p class="verdict {kind}">{verdict}</p>
</header>"""


def _pictures(segmentation: Segmentation, color: str | tuple[int, int, int], alpha: float, style: str) -> str:
    """The overlay, large; the bare slice; and the largest lesion, an enlarged part of the same overlay."""
    canvas = _Canvas(segmentation)
    marks, detail = canvas.scale_bar(), ""
    if segmentation.lesions:
        window = canvas.around(segmentation.lesions[0])
        marks += canvas.frame(window) + canvas.numbers()
        detail = _figure("The largest lesion", window, '<use href="#overlay"/>', "lesion 1, enlarged")
    overlay = f'<g id="overlay">{canvas.image(segmentation.overlay(color, alpha, style))}</g>'
    legend = _color_bar() if style == "heatmap" else '<span class="swatch"></span>tumour, as the network sees it'
    return f"""
<section class="pictures">
{_figure("The slice with the tumour in colour", canvas.whole, overlay + marks, legend)}
{_figure("The slice", canvas.whole, canvas.image(segmentation.image), "the slice")}
{detail}
</section>"""


def _figures(segmentation: Segmentation) -> str:
    area = [f"{segmentation.area_px:,} px", f"{segmentation.area_percent:.2f} % of the slice"]
    diameter = [f"{segmentation.longest_diameter_px or 0:.1f} px"]
    if segmentation.spacing:
        area.insert(0, f"{segmentation.area_mm2:,.0f} mm²")
        diameter.insert(0, f"{segmentation.longest_diameter_mm or 0:.1f} mm")
    return _definitions(
        {
            "Area": area,
            "Longest diameter": diameter,
            "Lesions": [str(len(segmentation.lesions))],
            "Highest probability": [f"{100 * segmentation.highest_probability:.0f} %"],
        },
        "figures",
    )


def _compared(comparison: Comparison) -> str:
    distance = ["undefined", "one of the masks is empty"]
    if comparison.hd95_px is not None:
        distance = [f"{comparison.hd95_px:.1f} px"]
        if comparison.hd95_mm is not None:
            distance.insert(0, f"{comparison.hd95_mm:.1f} mm")
    figures = {
        "Dice": [f"{comparison.dice:.3f}"],
        "IoU": [f"{comparison.iou:.3f}"],
        "HD95": distance,
        "True area": [f"{comparison.true_area_px:,} px"],
    }
    return f"<section><h2>Compared with the outline drawn by hand</h2>{_definitions(figures, 'figures')}</section>"


def _lesions(segmentation: Segmentation) -> str:
    lesions = segmentation.lesions
    rows = "".join(_lesion(number, lesion) for number, lesion in enumerate(lesions[:MAX_LESIONS], 1))
    in_mm = "<th>area, mm²</th><th>longest diameter, mm</th>" if segmentation.spacing else ""
    table = f"""<table>
<thead><tr><th>Lesion</th>{in_mm}<th>area, px</th><th>longest diameter, px</th><th>mean probability</th>
<th class="position">centre (x, y), px</th></tr></thead>
<tbody>{rows}</tbody></table>"""
    notes = []
    if hidden := lesions[MAX_LESIONS:]:
        notes.append(f"And {len(hidden)} smaller ones, {sum(lesion.area_px for lesion in hidden):,} px together.")
    if rest := segmentation.area_px - np.count_nonzero(segmentation.lesion_mask):
        notes.append(f"Pieces of fewer than {segmentation.min_area_px:g} px, {rest:,} px together, are no lesions.")
    return f"<section>{table if lesions else ''}<p>{' '.join(notes)}</p></section>"


def _lesion(number: int, lesion: Lesion) -> str:
    in_mm = ""
    if lesion.area_mm2 is not None:
        in_mm = f"<td>{lesion.area_mm2:,.0f}</td><td>{lesion.longest_diameter_mm:.1f}</td>"
    x, y = lesion.centroid
    return (
        f"<tr><td>{number}</td>{in_mm}<td>{lesion.area_px:,}</td><td>{lesion.longest_diameter_px:.1f}</td>"
        f'<td>{100 * lesion.mean_probability:.0f} %</td><td class="position">{x:.0f}, {y:.0f}</td></tr>'
    )


def _warnings(warnings: list[str]) -> str:
    shown = [_text(warning, MAX_WARNING) for warning in warnings[:MAX_WARNINGS]]
    if hidden := len(warnings) - len(shown):
        shown.append(f"And {hidden} more.")
    items = "".join(f'<li class="cut">{warning}</li>' for warning in shown)
    return f'<ul class="warnings">{items}</ul>' if items else ""


def _foot(segmentation: Segmentation, model: str, revision: str | None) -> str:
    height, width = segmentation.mask.shape
    size = [f"{width} × {height} px"]
    if segmentation.spacing:
        row, column = segmentation.spacing
        size.append(f"{column:.4g} × {row:.4g} mm a pixel")
    origin = {
        "Model": [f'<span class="cut">{_text(model, MAX_NAME)}</span>'],
        "Revision": [f'<span class="cut">{_text(revision or "not stated", MAX_NAME)}</span>'],
        "Mask": [f"probability above {segmentation.threshold:g}", f"lesions from {segmentation.min_area_px:g} px"],
        "Slice, width × height": size,
    }
    return f"<footer>{_definitions(origin)}<p>{DISCLAIMER}</p></footer>"


# ------------------------------------------------------------------------------------------------------------- pictures


Window = tuple[float, float, float, float]  # x, y, width, height


class _Canvas:
    """What is drawn of a slice, as SVG. One unit is the shorter side of a pixel, so that proportions are true."""

    def __init__(self, segmentation: Segmentation):
        self.segmentation = segmentation
        row, column = segmentation.spacing or (1.0, 1.0)
        self.mm = 1 / min(row, column)  # units
        self.pixel_width, self.pixel_height = column / min(row, column), row / min(row, column)
        height, width = segmentation.mask.shape
        self.width, self.height = width * self.pixel_width, height * self.pixel_height
        self.letter = max(self.width, self.height) / 30

    @property
    def whole(self) -> Window:
        return 0, 0, self.width, self.height

    def image(self, picture: np.ndarray) -> str:
        return f'<image href="{_data_uri(picture)}" {_place(self.whole)} preserveAspectRatio="none"/>'

    def box(self, lesion: Lesion) -> Window:
        x, y, width, height = lesion.box
        return x * self.pixel_width, y * self.pixel_height, width * self.pixel_width, height * self.pixel_height

    def around(self, lesion: Lesion) -> Window:
        """A square around a lesion, moved into the slice as far as it fits."""
        x, y, width, height = self.box(lesion)
        side = max(width, height) * (1 + 2 * DETAIL_MARGIN)
        left = min(x + width / 2 - side / 2, self.width - side)
        top = min(y + height / 2 - side / 2, self.height - side)
        return max(0, left), max(0, top), side, side

    def frame(self, window: Window) -> str:
        return f'<rect class="frame" {_place(window)} stroke-width="{self.letter / 12:.2f}"/>'

    def numbers(self) -> str:
        """The number of each lesion in the table, beside it on the side where there is more room."""
        numbers = []
        for number, lesion in enumerate(self.segmentation.lesions[:MAX_LESIONS], 1):
            x, y, width, height = self.box(lesion)
            gap = self.letter / 3
            side, anchor = (x - gap, "end") if x + width / 2 > self.width / 2 else (x + width + gap, "start")
            numbers.append(self._text(side, y + height / 2 + gap, str(number), anchor))
        return "".join(numbers)

    def scale_bar(self) -> str:
        """A line of 1, 2 or 5 times a power of ten mm, where the spacing is known."""
        if not self.segmentation.spacing:
            return ""
        longest = MAX_SCALE_BAR * self.width / self.mm
        power = 10 ** math.floor(math.log10(longest))
        length = max(step * power for step in (1, 2, 5) if step * power <= longest)
        x, y = self.letter, self.height - self.letter
        line = f'<rect fill="#fff" {_place((x, y, length * self.mm, self.letter / 5))}/>'
        return line + self._text(x, y - self.letter / 2, f"{length:g} mm", "start")

    def _text(self, x: float, y: float, text: str, anchor: str) -> str:
        size = f'font-size="{self.letter:.2f}" stroke-width="{self.letter / 6:.2f}"'
        return f'<text class="mark" x="{x:.2f}" y="{y:.2f}" {size} text-anchor="{anchor}">{text}</text>'


def _figure(label: str, window: Window, drawing: str, caption: str) -> str:
    """What lies in a window of a drawing, as large as there is room."""
    view = " ".join(f"{value:.2f}" for value in window)
    return f"""<figure><svg viewBox="{view}" role="img" aria-label="{label}">{drawing}</svg>
<figcaption>{caption}</figcaption></figure>"""


def _place(window: Window) -> str:
    x, y, width, height = window
    return f'x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}"'


def _color_bar() -> str:
    steps = cv2.applyColorMap(np.linspace(0, 255, 9).astype(np.uint8)[None], COLORMAP)[0, :, ::-1].tolist()
    stops = ", ".join("rgb({}, {}, {})".format(*step) for step in steps)
    return f'probability 0 <span class="bar" style="background: linear-gradient(to right, {stops})"></span> 1'


def _data_uri(picture: np.ndarray) -> str:
    shrink = MAX_PICTURE_SIDE / max(picture.shape[:2])
    if shrink < 1:
        size = [max(1, round(side * shrink)) for side in picture.shape[1::-1]]
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return f"data:image/png;base64,{base64.b64encode(encode_png(picture)).decode()}"


# ----------------------------------------------------------------------------------------------------------------- text


def _definitions(figures: Mapping[str, list[str]], kind: str = "") -> str:
    """Name → value and notes, all of them HTML."""
    cells = "".join(
        f"<div><dt>{name}</dt><dd>{value}<small>{'<br>'.join(notes)}</small></dd></div>"
        for name, (value, *notes) in figures.items()
    )
    return f'<dl class="{kind}">{cells}</dl>'


def _text(text: str, longest: int) -> str:
    """Text from outside as HTML, cut where it is too long; a file's name need not be valid Unicode."""
    text = text.encode("utf-8", "replace").decode()
    return html.escape(text if len(text) <= longest else f"{text[: longest - 1]}…")
