"""Pieces of the page, as HTML: what lies on the stage, what was measured, what else was opened."""

import base64
import html
import io
import zlib
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from modeling_unet.comparison import compare
from modeling_unet.figures import class_areas, describe_profile, distances, slice_figures
from modeling_unet.overlay import class_colors, draw_layer, draw_opacity, draw_overlay
from modeling_unet.pictures import COMPRESS_LEVEL, data_uri
from modeling_unet.report import definitions
from modeling_unet.segmentation import Lesion, Segmentation
from modeling_unet.volumes import Volume, VolumeLesion

from .network import Origin
from .outside import SUMMARY, TITLE
from .studies import Corrected, Settings, Slice, Study


PARTS = Path(__file__).with_name("parts")  # of the page's HTML, which the static page has, too
EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples" / "images").glob("*.png"))  # TYPE-PLANE-NUMBER.png
ON_ARRIVAL = next(path for path in EXAMPLES if path.stem == "glioma-sagittal-842")  # its Dice is about the median

# What lies on the left and right of slices as they are looked at (modeling_unet/volumes), if that is known.
SIDES = {"axial": "RL", "coronal": "RL", "sagittal": "AP"}

THUMBNAIL_SIDE = 128
MAX_LESIONS_LISTED = 20
MAX_REFUSED_LISTED = 8

HEADER = f"<h1>{TITLE}</h1><p>{SUMMARY}</p>"
EMPTY_STAGE = (
    "<label class='invitation' for='files'>Drop an MRI slice, click to choose one, or take an example.</label>"
)
EMPTY_REPORT = "<h2 class='verdict'>No slice yet</h2><p class='detail'>Its measurements will appear here.</p>"
UNKNOWN = "The network does not know such {}"
SPACING_LABEL = "Pixel size in mm (0: unknown)"
GLASS, TOOLS, VIEWS, BRUSH, PAINT = (
    (PARTS / f"{name}.html").read_text(encoding="utf-8") for name in ("glass", "tools", "views", "brush", "paint")
)
DROP_BOX = """
<div class="box">
    <label><input type="file" id="files" multiple aria-describedby="drop-hint">
    <span>Drop MRI slices or a volume, or <u>choose files</u></span></label>
    <label class="folder"><input type="file" webkitdirectory><u>or a folder</u></label>
    <small id="drop-hint" role="status">PNG, JPEG, TIFF, … · several or a ZIP · NIfTI · DICOM</small>
</div>
"""
VOLUME = """
<div class="room" data-program="{program}"><i class="ring" hidden></i><output class="note place"></output></div>
"""
NO_BRUSH = '<small class="no-brush">The brush is for models of one class; this one has {count}.</small>'
FOOTER = """
<p><strong>Not a medical device. For research and education.</strong> Made for T1-weighted slices with contrast. Every
slice of its data set shows a tumour: in a healthy slice, and more often in other kinds of images, it may report one
that is not there. What you drop is kept for your page alone, for an hour at most, or until you press “Clear”.</p>
<p>The wheel or two fingers zoom, a double click shows the whole slice again. Keys: H hides the overlay, O changes its
opacity, + and − zoom, 0 resets, arrows turn slices, B takes the brush: then arrows move it, Space paints, E erases. In
three planes and in 3-D, once they have been clicked, arrows, Page up and Page down move the crosshair, where the brush
paints, or turn the head.</p>
<p>Examples, of people the network has never seen: Jun Cheng,
<a href="https://doi.org/10.6084/m9.figshare.1512427">brain tumor dataset</a>, figshare, CC BY 4.0.</p>
"""


# ------------------------------------------------------------------------------------------------------------ the stage


def draw_slice(study: Study, run: str) -> str:
    """The slice on the stage, and its heat map, which no threshold changes; `run` names the server that draws it."""
    part = study.shown
    segmentation = part.segmentation
    height, width = segmentation.mask.shape
    title = html.escape(_title(study))
    sides = SIDES.get(study.volume.plane, "") if study.volume else ""
    viewed = "" if study.volume is None or study.voxels is None else _viewed(study.volume, study.token)
    link = '<button type="button" class="link">Copy link</button>' if study.example else ""
    return f"""
    <div class="slice" style="--width: {width}; --height: {height}" data-shown="{study.example or run}"
    data-index="{study.index}" data-count="{len(study.slices)}" data-study="{study.token}"
    data-name="{html.escape(f"{study.name}-{part.name}" if study.volume else part.name)}"{viewed}>
        <img src="{data_uri(segmentation.image)}" alt="MRI slice: {title}">
        <img class="tumor heatmap" src="{_heatmap(segmentation.probability)}" alt="">
        {"".join(f"<b>{side}</b>" for side in sides)}
    </div>
    <p class="caption"><span>{title}</span><span>{width} × {height} px</span>{link}
    <button type="button" class="clear">Clear</button></p>"""


def _heatmap(probability: np.ndarray) -> str:
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    colors = draw_layer(np.zeros(ramp.shape), style="heatmap", probability=ramp)[0, :, :3]
    return _layer(draw_opacity(probability, "heatmap", probability), colors)


def _shape(mask: np.ndarray, style: str) -> str:
    """What CSS cuts a colour out by."""
    return _layer(draw_opacity(mask, style), np.zeros((256, 3), np.uint8))


def _layer(opacity: np.ndarray, colors: np.ndarray) -> str:
    """`draw_layer` in a fraction of its bytes: the colour of a pixel is one of 256, by its opacity."""
    picture, file = Image.fromarray(opacity), io.BytesIO()
    picture.putpalette(colors.tobytes())
    options: dict = {"compress_level": COMPRESS_LEVEL, "compress_type": zlib.Z_RLE}
    picture.save(file, "PNG", transparency=bytes(range(256)), **options)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _viewed(volume: Volume, token: str) -> str:
    """What the viewer of volumes has to know: which one it is, and whether places in it are known in mm."""
    return f' data-volume="{token}" data-places="{"voxels" if volume.affine is None else "mm"}"'


def draw_layers(cut: Segmentation, truth: np.ndarray | None, name: str = "") -> str:
    """What lies over the slice: shapes whose colour and opacity are left to CSS; `name` is that of the settings."""
    shapes = {f"tumor {style}": _shape(cut.mask, style) for style in ("fill", "contour")}
    several, classes = "", ""
    if cut.classes:
        several = "".join(_draw_classes(cut, style) for style in ("fill", "contour"))
        classes = f' data-classes="{" ".join(class_colors(len(cut.classes)))}"'
        shapes = {}
    if truth is not None:
        shapes["truth"] = _shape(truth, "contour")
    height, width = cut.mask.shape
    layers = several + "".join(
        f'<div class="{name}" style="mask-image: url({shape})"></div>' for name, shape in shapes.items()
    )
    spacing = f' data-spacing="{cut.spacing[0]:g} {cut.spacing[1]:g}"' if cut.spacing else ""
    corrected = " data-corrected" if isinstance(cut, Corrected) else ""
    facts = f'data-cut="{name}"{spacing}{corrected}{classes}'
    return f"""<div class="slice" style="--width: {width}; --height: {height}" {facts}>
    {layers}</div>"""


def _draw_classes(cut: Segmentation, style: str) -> str:
    """All classes in their colours, each to be hidden by itself; together they are as opaque as one."""
    layers = "".join(
        f'<i data-class="{number}" style="background: {color}; mask-image: url({shape})"></i>'
        for number, (color, shape) in enumerate(
            zip(
                class_colors(len(cut.classes)),
                (_shape(one.mask, style) for one in cut.classes),
                strict=True,
            ),
            start=1,
        )
    )
    return f'<div class="tumor {style} classes">{layers}</div>'


def draw_tools(class_names: Sequence[str]) -> str:
    """The buttons below the stage, and the colours of the heat map as it draws them on black.

    Args:
        class_names: of the model; masks of several classes are not for the brush.
    """
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    black = np.zeros((*ramp.shape, 3), np.uint8)
    brush = BRUSH
    if len(class_names) > 1:
        brush = BRUSH.replace("<button", "<button disabled", 1) + NO_BRUSH.format(count=len(class_names))
    bar = data_uri(draw_overlay(black, ramp > 0, alpha=1, style="heatmap", probability=ramp))
    return brush + TOOLS.replace("<i>", f'<i style="background-image: url({bar})">')


def spacing_label(study: Study | None) -> str:
    """Of the box for the pixel size; what is known of a slice cannot be typed over."""
    spacing = study.shown.segmentation.spacing if study else None
    if not (study and spacing):
        return SPACING_LABEL
    height, width = spacing
    return f"Pixel size: {width:.3g} × {height:.3g} mm ({'data set' if study.example else 'file'})"


def _title(study: Study) -> str:
    if study.volume is None:
        return study.shown.title
    plane = "" if study.volume.plane == "unknown" else f"{study.volume.plane} "
    return f"{plane}slice {study.index + 1} of {len(study.slices)}".capitalize()


# ----------------------------------------------------------------------------------------------------------- the report


def draw_report(study: Study, cut: Segmentation, settings: Settings, origin: Origin) -> str:
    """Found or not, and the measurements of the slice on the stage; mm come first where they are known."""
    found, figures = cut.tumor_found, slice_figures(cut)
    if study.whole:
        in_slice = {f"{name}, this slice": values for name, values in figures.items()}
        found, figures = bool(study.lesions(settings)), {**study.volume_figures(settings), **in_slice}
    if study.shown.truth is not None:
        figures |= _agreement(cut, study.shown.truth)
    kind, verdict = ("found", "Tumour found") if found else ("clear", "No tumour found")
    doubt = ""
    if study.is_corrected:
        verdict = f"{verdict.removesuffix(' found')}, corrected by hand"
    elif not study.is_familiar:
        doubt = f"<p class='detail'>It says nevertheless: {verdict.lower()}.</p>"
        kind, verdict = "unknown", UNKNOWN.format("volumes" if study.whole else "pictures")
    probability = study.shown.segmentation.highest_probability
    revision = f", revision {html.escape(origin.revision)}" if origin.revision else ""
    return f"""
    <h2 class="verdict {kind}">{verdict}</h2>
    {doubt}
    <p class="detail">Highest probability {100 * probability:.0f} %{" in this slice" if len(study.slices) > 1 else ""}
    · {study.timing}</p>
    <p class="detail">Model {html.escape(origin.name)}{revision}</p>
    {_legend(study, cut, settings)}{_sentences(study.warnings)}
    {definitions(figures)}
    {_lesion_table(cut)}"""


def _legend(study: Study, cut: Segmentation, settings: Settings) -> str:
    """Of several classes: colour, name and size of each, with a box that hides it on the stage."""
    if not cut.classes:
        return ""
    sizes = class_areas(cut)
    if study.whole:
        whole = study.class_volumes(settings)
        sizes = [f"{size} · {area} here" if size else area for size, area in zip(whole, sizes, strict=True)]
    names, colors = (html.escape(name) for name in cut.class_names), class_colors(len(cut.classes))
    return "<fieldset class='legend'><legend>Classes, which can be hidden</legend>{}</fieldset>\n    ".format(
        "".join(
            f"<label><input type='checkbox' value='{number}' checked><i style='background: {color}'></i>"
            f"<span>{name}</span><span>{size}</span></label>"
            for number, (color, name, size) in enumerate(zip(colors, names, sizes, strict=True), start=1)
        )
    )


def _agreement(cut: Segmentation, truth: np.ndarray) -> dict[str, list[str]]:
    """With the outline drawn by hand."""
    agreement = compare(cut.mask, truth, cut.spacing)
    together = ["all classes as one"] if cut.classes else []
    return {
        "Dice": [f"{agreement.dice:.2f}", f"IoU {agreement.iou:.2f}", *together],
        "HD95": [*distances(agreement), "to the outline drawn by hand"],
    }


def _lesion_table(cut: Segmentation) -> str:
    """Every lesion, largest first."""
    if not cut.lesions:
        return ""
    area, diameter = ("Area, mm²", "Longest, mm") if cut.spacing else ("Area, px", "Longest, px")
    columns = ["Lesion", area, "%", diameter, "Mean prob."]
    rows = [
        [str(number), *_lesion_row(lesion, cut)] for number, lesion in enumerate(cut.lesions[:MAX_LESIONS_LISTED], 1)
    ]
    more = len(cut.lesions) - len(rows)
    note = f"<p class='detail'>and {more} smaller ones</p>" if more else ""
    return f'<div class="scroll" tabindex="0">{_table("Lesions of this slice", columns, rows)}{note}</div>'


def _lesion_row(lesion: Lesion, cut: Segmentation) -> list[str]:
    area, diameter = f"{lesion.area_px:,}", f"{lesion.longest_diameter_px:.1f}"
    if cut.spacing:
        area, diameter = f"{lesion.area_mm2:,.0f}", f"{lesion.longest_diameter_mm:.1f}"
    return [area, f"{100 * lesion.area_px / cut.mask.size:.2f}", diameter, f"{lesion.mean_probability:.2f}"]


def _volume_table(study: Study, settings: Settings) -> str:
    """Every lesion of a volume, largest first; a click leads to the slice in its middle."""
    lesions = study.lesions(settings)
    if not lesions:
        return "<h2>No lesion found in the volume</h2>"
    in_mm = lesions[0].volume_ml is not None
    size = ["mL", "Longest, mm"] if in_mm else ["Voxels"]
    columns = ["Lesion", *size, "Centre, mm" if lesions[0].centre_mm else "Slice", "Mean prob."]
    rows = [
        [_to_slice(lesion, number), *_volume_row(lesion)]
        for number, lesion in enumerate(lesions[:MAX_LESIONS_LISTED], 1)
    ]
    more = len(lesions) - len(rows)
    note = f"<p class='detail'>and {more} smaller ones</p>" if more else ""
    table = f'<div class="scroll" tabindex="0">{_table("Lesions of the volume", columns, rows)}{note}</div>'
    return f"<h2>{len(lesions)} {'lesion' if len(lesions) == 1 else 'lesions'} in the volume</h2>{table}"


def _to_slice(lesion: VolumeLesion, number: int) -> str:
    middle, row, column = (round(place) for place in lesion.centre)
    return (
        f'<button type="button" data-index="{middle}" data-row="{row}" data-column="{column}">'
        f"{number}, slice {middle + 1}</button>"
    )


def _volume_row(lesion: VolumeLesion) -> list[str]:
    size = [f"{lesion.voxels:,}"]
    if lesion.volume_ml is not None and lesion.longest_diameter_mm is not None:
        size = [f"{lesion.volume_ml:,.2f}", f"{lesion.longest_diameter_mm:.1f}"]
    first, last = lesion.slices
    place = f"{first + 1} to {last + 1}"
    if lesion.centre_mm:
        sides = zip(("RL", "AP", "SI"), lesion.centre_mm, strict=True)
        place = " ".join(f"{side[millimetres < 0]} {abs(millimetres):.0f}" for side, millimetres in sides)
    return [*size, place, f"{lesion.mean_probability:.2f}"]


def _table(caption: str, columns: list[str], rows: list[list[str]]) -> str:
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _sentences(sentences: Sequence[str], limit: int = MAX_REFUSED_LISTED) -> str:
    if not sentences:
        return ""
    shown = [html.escape(sentence) for sentence in sentences[:limit]]
    if len(sentences) > limit:
        shown.append(f"… and {len(sentences) - limit} more.")
    return f"<ul class='warnings'>{''.join(f'<li>{sentence}</li>' for sentence in shown)}</ul>"


# --------------------------------------------------------------------------------------------------------- the overview


def draw_overview(study: Study, settings: Settings) -> str:
    """What else was opened: of a volume, where along it the tumour lies; of several slices, all of them and a table."""
    if study.whole:
        return _profile(study.profile(settings), study.whole.volume.voxel_ml) + _volume_table(study, settings)
    if len(study.slices) == 1 and not study.refused:
        return ""
    found = sum(row["tumor_found"] for row in study.summaries(settings))
    refused = f" · {len(study.refused)} could not be read" if study.refused else ""
    choices = "".join(
        _choice(index, part, cut, chosen=index == study.index)
        for index, (part, cut) in enumerate(zip(study.slices, study.cuts(settings), strict=True))
    )
    return f"""
    <h2>{len(study.slices)} slices, tumour found in {found}{refused}</h2>
    {_sentences([refusal.sentence for refusal in study.refused])}
    <div class="gallery">{choices}</div>
    <details open>
        <summary>Table</summary>
        <div class="scroll" tabindex="0">{_slices_table(study, settings)}</div>
    </details>"""


def draw_stacks(volume: Volume | None) -> str:
    """What else could be read from the files of a volume, to choose from."""
    if volume is None or not volume.stacks:
        return ""
    options = "".join(
        f"<option{' selected' if number == volume.stack else ''}>{number}: {html.escape(words)}</option>"
        for number, words in enumerate(volume.stacks, start=1)
    )
    return f"<label><span>Stack of slices in these files</span><select>{options}</select></label>"


def _profile(areas: list[int], voxel_ml: float | None) -> str:
    """A bar per slice, as high as its share of the largest area."""
    heights = [100 * area / max(*areas, 1) for area in areas]
    bars = "".join(
        f'<rect x="{index}" y="{100 - height:.1f}" width="1" height="{height:.1f}"/>'
        for index, height in enumerate(heights)
    )
    return f"""<svg class="profile" viewBox="0 0 {len(areas)} 100" preserveAspectRatio="none" role="img"
    aria-label="{describe_profile(areas, voxel_ml)}">{bars}</svg>"""


def _choice(index: int, part: Slice, cut: Segmentation, chosen: bool) -> str:
    """A slice of the gallery, with its tumour outlined."""
    kind, verdict = ("found", "tumour found") if cut.tumor_found else ("clear", "no tumour found")
    doubt = "" if cut.is_familiar else " in a picture of a kind that the network does not know"
    if part.is_corrected:
        doubt = ", corrected by hand"
    label = html.escape(f"{part.title}: {verdict}{doubt}")
    return f"""<button type="button" class="{kind}" data-index="{index}" aria-pressed="{str(chosen).lower()}"
    title="{label}" aria-label="{label}"><img src="{_thumbnail(cut)}" alt=""></button>"""


def _slices_table(study: Study, settings: Settings) -> str:
    in_mm = bool(settings.spacing)
    area, diameter = ("area_mm2", "longest_diameter_mm") if in_mm else ("area_px", "longest_diameter_px")
    columns = ["Slice", "Lesions", *(("Area, mm²", "%", "Longest, mm") if in_mm else ("Area, px", "%", "Longest, px"))]
    rows = []
    for index, (part, row) in enumerate(zip(study.slices, study.summaries(settings), strict=True)):
        by_hand = ", corrected by hand" if part.is_corrected else ""
        title = f'<button type="button" data-index="{index}">{html.escape(part.title)}{by_hand}</button>'
        figures = [f"{row[area]:,.0f}", f"{row['area_percent']:.2f}", _or_dash(row[diameter], 1)]
        rows.append([title, str(row["lesions"]), *figures, _or_dash(row["mean_probability"], 2)])
    return _table("All slices", [*columns, "Mean prob."], rows)


def _or_dash(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _thumbnail(cut: Segmentation) -> str:
    """The slice with its tumour, small."""
    height, width = cut.mask.shape
    scale = THUMBNAIL_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(np.ascontiguousarray(cut.image), size, interpolation=cv2.INTER_AREA)
    masks = [one.mask for one in cut.classes] or [cut.mask]
    shrunk = [cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_AREA) > 0 for mask in masks]
    return data_uri(draw_overlay(small, np.stack(shrunk) if cut.classes else shrunk[0], alpha=0.6), "WEBP")


# --------------------------------------------------------------------------------------------------------- the examples


def draw_examples() -> str:
    """A button with a small picture for every example, grouped by tumour type; the first one is shown on arrival."""
    groups = []
    for tumor_type, members in groupby(enumerate(EXAMPLES), lambda member: member[1].stem.split("-")[0]):
        buttons = "".join(
            f"""<button type="button" data-index="{index}" data-name="{path.stem}" title="{describe(path)}"
            aria-pressed="{str(index == 0).lower()}" aria-label="{describe(path)}"><img alt=""
            src="{_example_thumbnail(path)}"></button>"""
            for index, path in members
        )
        groups.append(f"<div><p>{tumor_type.capitalize()}</p>{buttons}</div>")
    return f'<div class="strip">{"".join(groups)}</div>'


def describe(example: Path) -> str:
    """What an example is called, such as "Glioma axial, slice 726"."""
    tumor_type, plane, number = example.stem.split("-")
    return f"{tumor_type} {plane}, slice {number}".capitalize()


def _example_thumbnail(path: Path) -> str:
    with Image.open(path) as image:
        return data_uri(np.asarray(image.convert("L").resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE))), "WEBP")
