"""The page: drop an MRI slice, see the tumour in colour, move the overlay's opacity, read the measurements.

    python app.py                                  the model in weights/brain-tumor-unet
    MODEL_ID=FOLDER_OR_HUB_ID python app.py        another one

Layout and events only: what there is to compute about a slice is computed in `modeling_unet`. Opacity, style, colour
and the outline drawn by hand are left to CSS, so that changing them never asks the server.
"""

import base64
import html
import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder
from PIL import Image


try:
    import spaces  # ZeroGPU; it has to come before anything that touches CUDA
except ImportError:
    spaces = None

from modeling_unet import InvalidImageError, read_image, read_mask
from modeling_unet.overlay import DEFAULT_ALPHA, DEFAULT_COLOR, draw_layer
from modeling_unet.segmenter import DEFAULT_THRESHOLD, Segmentation, TumorSegmenter


HERE = Path(__file__).resolve().parent
SHIPPED_MODEL = HERE / "weights" / "brain-tumor-unet"
EXAMPLES = sorted((HERE / "examples" / "images").glob("*.png"))  # TYPE-PLANE-NUMBER.png, see examples/ATTRIBUTION.md

# What visitors can cost the server is bounded: by the size of a slice, and by how long and for how many it is kept.
MAX_SIDE = 4096
KEPT_SECONDS = 3300
SWEEP_SECONDS = 300  # together an hour, as the page promises
MAX_VISITORS = 64
MAX_WAITING = 32

STYLES = [("Fill", "fill"), ("Outline", "contour"), ("Heat map", "heatmap")]
# None is near the cyan of the outline drawn by hand.
COLORS = [("Red", DEFAULT_COLOR), ("Amber", "#ffb020"), ("Lime", "#a3e635"), ("Magenta", "#f062d4")]

SET_OPACITY = "value => { document.documentElement.style.setProperty('--tumor-opacity', value); return []; }"
SET_COLOR = "value => { document.documentElement.style.setProperty('--tumor-color', value); return []; }"
SET_STYLE = "value => { document.querySelector('#stage').dataset.style = value; return []; }"
SET_TRUTH = "value => { document.querySelector('#stage').dataset.truth = value; return []; }"
SELECT_EXAMPLE = """
element.addEventListener('click', event => {
    const button = event.target.closest('button');
    if (button) trigger('select', {index: Number(button.dataset.index)});
});
"""
SAVE_FILE = """
file => {
    const link = document.createElement('a');
    link.href = file.uri;
    link.download = file.name;
    link.click();
    return [];
}
"""

HEADER = "<h1>Brain Tumor U-Net</h1><p>Drop an MRI slice and see where a small neural network finds a tumour.</p>"
EMPTY_STAGE = "<p class='invitation'>Drop an MRI slice into the box, or choose an example.</p>"
EMPTY_REPORT = "<p class='verdict'>No slice yet</p><p class='detail'>Its measurements will appear here.</p>"
FOOTER = """
<p><strong>Not a medical device. For research and education.</strong> Made for T1-weighted slices with contrast, one at
a time. Every slice the network learned from showed a tumour: in healthy slices, and in other kinds of images, it often
reports one that is not there. Your slice is kept for your page alone, for an hour at most.</p>
<p>Examples, of people the network has never seen: Jun Cheng,
<a href="https://doi.org/10.6084/m9.figshare.1512427">brain tumor dataset</a>, figshare, CC BY 4.0.</p>
"""

THEME = gr.themes.Base(
    primary_hue="teal",
    neutral_hue="slate",
    radius_size="lg",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    body_background_fill="*neutral_100",
    body_text_color_subdued="*neutral_600",
    block_label_text_color="*neutral_600",
    block_title_text_color="*neutral_600",
    block_shadow="none",
    button_secondary_background_fill="white",
    button_secondary_background_fill_hover="*neutral_50",
    button_secondary_border_color="*neutral_200",
)
# What app.css shares with the controls.
STYLESHEET = f":root {{ --tumor-opacity: {DEFAULT_ALPHA}; --tumor-color: {DEFAULT_COLOR}; }}" + "".join(
    f'#color input[value="{color}"] {{ background: {color}; }}' for _, color in COLORS
)

# For `launch`, here and in the tests. Gradio serves nothing but its own temporary files, and browsers keep no history
# of the slices they have shown.
LAUNCH_OPTIONS = {
    "theme": THEME,
    "css": STYLESHEET,
    "css_paths": HERE / "app.css",
    "allowed_paths": [],
    "max_file_size": "32mb",
    "state_session_capacity": MAX_VISITORS,
    "run_history": False,
    "footer_links": ["api"],
    "share": False,
}


def main():
    """Load the model and serve the page."""
    try:
        segmenter = load_segmenter(os.environ.get("MODEL_ID"))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    build_app(segmenter).launch(**LAUNCH_OPTIONS)


def load_segmenter(model_id: str | None) -> TumorSegmenter:
    if not model_id and not (SHIPPED_MODEL / "config.json").is_file():
        raise OSError(f"there is no model in {SHIPPED_MODEL}; name a folder or a Hub id in the variable MODEL_ID")
    return TumorSegmenter.from_pretrained(model_id or SHIPPED_MODEL)


# --------------------------------------------------------------------------------------------------------------- layout


def build_app(segmenter: TumorSegmenter) -> gr.Blocks:
    """The page around a segmenter; start it with `.launch(**LAUNCH_OPTIONS)`."""
    server = Server(segmenter)
    block = partial(gr.HTML, apply_default_css=False)
    sweep = (SWEEP_SECONDS, KEPT_SECONDS)
    with gr.Blocks(title="Brain Tumor U-Net", analytics_enabled=False, delete_cache=sweep) as page:
        shown = gr.State(time_to_live=KEPT_SECONDS)
        block(HEADER, elem_id="header")
        with gr.Row(elem_id="viewer"):
            with gr.Column(scale=7, min_width=320):
                with gr.Column(elem_id="stage", min_width=0):
                    anatomy = block(EMPTY_STAGE, elem_id="anatomy")
                    layers = block(elem_id="layers")
                examples = block(draw_examples(), elem_id="examples", js_on_load=SELECT_EXAMPLE)
            with gr.Column(scale=5, min_width=320):
                upload = gr.Image(
                    label="MRI slice",
                    show_label=False,
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    height=112,
                    placeholder="# Drop an MRI slice\nor click to choose",
                    elem_id="upload",
                )
                findings = block(EMPTY_REPORT, elem_id="report")
                with gr.Column(elem_id="controls", min_width=0):
                    opacity = gr.Slider(0, 1, DEFAULT_ALPHA, step=0.01, label="Opacity", buttons=[], elem_id="opacity")
                    with gr.Row():
                        style = gr.Radio(STYLES, value="fill", label="Style", elem_id="style", scale=3, min_width=250)
                        color = gr.Radio(
                            COLORS, value=DEFAULT_COLOR, label="Colour", elem_id="color", scale=2, min_width=150
                        )
                    threshold = gr.Slider(
                        0.05, 0.95, DEFAULT_THRESHOLD, step=0.01, label="Threshold", buttons=[], elem_id="threshold"
                    )
                    with gr.Row():
                        spacing = gr.Number(
                            0, label="Pixel size in mm (0: unknown)", minimum=0, elem_id="spacing", min_width=200
                        )
                        truth = gr.Checkbox(True, label="Outline drawn by hand", elem_id="truth", min_width=200)
                with gr.Row(elem_id="saving"):
                    save_overlay = gr.Button("Save overlay", size="md", min_width=120)
                    save_mask = gr.Button("Save mask", size="md", min_width=120)
        block(FOOTER, elem_id="footer")
        with gr.Row(visible=False):
            file, endpoint = gr.JSON(), gr.Button()
            results = [
                gr.Image(label="Overlay", format="png"),
                gr.JSON(label="Measurements"),
                gr.Image(label="Mask", format="png"),
            ]

        cut, view = [threshold, spacing], [shown, anatomy, layers, findings]
        network = {"concurrency_id": "network", "concurrency_limit": 1}
        slow = {**network, "api_visibility": "private", "trigger_mode": "always_last", "show_progress_on": anatomy}
        quick = {"api_visibility": "private", "trigger_mode": "always_last", "show_progress": "hidden"}
        # Left to itself (preprocess=True), Gradio opens the file first, and fails with words of its own.
        upload.upload(server.show_upload, [upload, *cut], [*view, upload], preprocess=False, **slow).failure(
            lambda: (None, EMPTY_STAGE, "", EMPTY_REPORT, None), None, [*view, upload], **quick
        )
        examples.select(server.show_example, cut, view, **slow)
        gr.on([threshold.input, spacing.input], server.measure, [shown, *cut], [layers, findings], **quick)
        settings = [shown, threshold, style, color, opacity]
        for button, what in ((save_overlay, "overlay"), (save_mask, "mask")):
            button.click(partial(server.save, what), settings, file, **quick).success(None, file, js=SAVE_FILE)
        endpoint.click(
            server.segment, [upload, spacing, threshold], results, preprocess=False, api_name="segment", **network
        )
        # No function, so no request: the browser does it alone.
        for control, script in ((opacity, SET_OPACITY), (style, SET_STYLE), (color, SET_COLOR), (truth, SET_TRUTH)):
            control.change(None, control, js=script)
    return page.queue(max_size=MAX_WAITING)


# --------------------------------------------------------------------------------------------------------------- events


@dataclass(frozen=True)
class Shown:
    """The slice on one visitor's page, as the server keeps it.

    Attributes:
        segmentation: of that slice.
        title: as the page calls it.
        name: with which the names of saved files begin.
        timing: how long it took, and on what.
        truth: the mask drawn by hand, bool [H, W]; None for an upload.
    """

    segmentation: Segmentation
    title: str
    name: str
    timing: str
    truth: np.ndarray | None = None


class Server:
    """What the page asks for. Nothing about a visitor is kept here, but in the visitor's own `gr.State`."""

    def __init__(self, segmenter: TumorSegmenter):
        def infer(image: np.ndarray) -> Segmentation:
            return segmenter(image)

        # On ZeroGPU it runs in a process of its own, so nothing but NumPy arrays goes in and out.
        self.infer = infer if spaces is None else spaces.GPU(infer)
        self.device = segmenter.device.type.upper()

    def show_upload(self, file: dict, threshold: float, spacing: float) -> tuple:
        with one_sentence():
            path = uploaded(file)
            # The box is emptied again: the slice is on the stage, where a TIFF can be seen as well.
            return *self._show(path, path.name, None, threshold, spacing), None

    def show_example(self, threshold: float, spacing: float, event: gr.EventData) -> tuple:
        path = EXAMPLES[event.index]
        truth = read_mask(path.parents[1] / "masks" / path.name)
        return self._show(path, describe(path), truth, threshold, spacing)

    def _show(self, path: Path, title: str, truth: np.ndarray | None, threshold: float, spacing: float) -> tuple:
        started = time.perf_counter()
        image = read_image(path)
        if max(image.shape[:2]) > MAX_SIDE:
            raise InvalidImageError(f"{path.name}: the page takes slices of up to {MAX_SIDE} × {MAX_SIDE} pixels.")
        segmentation = self.infer(image)
        timing = f"{1000 * (time.perf_counter() - started):.0f} ms on {self.device}"
        shown = Shown(segmentation, title, path.stem, timing, truth)
        return shown, draw_slice(shown), *self.measure(shown, threshold, spacing)

    def measure(self, shown: Shown | None, threshold: float, spacing: float) -> tuple[str, str]:
        """Layers and report of the slice on the page, if there is one (still); the network does not run."""
        if shown is None:
            return "", EMPTY_REPORT
        cut = cut_at(shown.segmentation, threshold, spacing)
        return draw_layers(cut, shown.truth), draw_report(cut, shown)

    def save(self, what: str, shown: Shown | None, threshold: float, style: str, color: str, opacity: float) -> dict:
        """Name and content of a file for the browser to save: "overlay" or "mask", in the slice's own size."""
        if shown is None:
            raise gr.Error("There is no slice to save yet; choose one first.", print_exception=False)
        cut = shown.segmentation.at_threshold(threshold)
        picture = to_picture(cut.mask) if what == "mask" else cut.overlay(color, opacity, style)
        return {"name": f"{shown.name}_{what}.png", "uri": data_uri(picture)}

    def segment(self, image: dict, spacing: float = 0, threshold: float = DEFAULT_THRESHOLD) -> tuple:
        """Find brain tumours in one MRI slice and measure them. Not a medical device: for research and education.

        Args:
            image: the slice, T1-weighted with contrast; a PNG, JPEG, WebP, TIFF or BMP file of 16 to 8192 px a side.
            spacing: size of a pixel in mm, for measurements in mm; 0 if it is not known.
            threshold: pixels above this tumour probability, 0 to 1, make up the mask.

        Returns:
            The slice with the tumour in colour; the measurements; the mask as 0 and 255. Both pictures are PNG files of
            the slice's own size.
        """
        with one_sentence():
            cut = cut_at(self.infer(read_image(uploaded(image))), threshold, spacing)
        return cut.overlay(), cut.to_dict(), to_picture(cut.mask)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Tell the person what is wrong with an input in the words of the package; it is no error of the server."""
    try:
        yield
    except ValueError as error:
        message = html.escape(str(error), quote=False)
        raise gr.Error(message, print_exception=False) from None


def uploaded(file: dict | None) -> Path:
    """Path of the file that came with a request; one that only names another file of the server is refused."""
    if not file:
        raise InvalidImageError("image: no file was given; give one MRI slice.")
    path = Path(file["path"]).resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()):
        raise InvalidImageError(f"{path.name}: the file was not uploaded.")
    return path


def cut_at(segmentation: Segmentation, threshold: float, spacing: float) -> Segmentation:
    """The same probabilities at another threshold, of square pixels of `spacing` mm (0: unknown)."""
    return replace(segmentation.at_threshold(threshold), spacing=(spacing, spacing) if spacing else None)


# --------------------------------------------------------------------------------------------------- pieces of the page


def draw_slice(shown: Shown) -> str:
    """The slice, and the heat map, which no threshold changes."""
    segmentation = shown.segmentation
    heatmap = draw_layer(segmentation.mask, style="heatmap", probability=segmentation.probability)
    height, width = segmentation.mask.shape
    title = html.escape(shown.title)
    return f"""
    <div class="slice" style="--width: {width}; --height: {height}">
        <img src="{data_uri(segmentation.image)}" alt="MRI slice: {title}">
        <img class="tumor heatmap" src="{data_uri(heatmap)}" alt="">
    </div>
    <p class="caption"><span>{title}</span><span>{width} × {height} px</span></p>"""


def draw_layers(cut: Segmentation, truth: np.ndarray | None) -> str:
    """What lies over the slice: shapes whose colour and opacity are left to CSS."""
    shapes = {"tumor fill": draw_layer(cut.mask), "tumor contour": draw_layer(cut.mask, style="contour")}
    if truth is not None:
        shapes["truth"] = draw_layer(truth, style="contour")
    height, width = cut.mask.shape
    layers = "".join(
        f'<div class="{name}" style="mask-image: url({data_uri(shape)})"></div>' for name, shape in shapes.items()
    )
    return f'<div class="slice" style="--width: {width}; --height: {height}">{layers}</div>'


def draw_report(cut: Segmentation, shown: Shown) -> str:
    """Found or not, and the measurements; mm come first where they are known."""
    areas = [f"{cut.area_px:,} px", f"{cut.area_percent:.2f} % of the image"]
    diameters = [f"{max((lesion.longest_diameter_px for lesion in cut.lesions), default=0):.1f} px"]
    if cut.spacing:
        areas.insert(0, f"{cut.area_mm2:,.0f} mm²")
        diameters.insert(0, f"{max((lesion.longest_diameter_mm for lesion in cut.lesions), default=0):.1f} mm")
    rows = {"Area": areas, "Longest diameter": diameters, "Lesions": [str(len(cut.lesions))]}
    if shown.truth is not None:
        rows["Dice"] = [f"{cut.dice(shown.truth):.2f}", "with the outline drawn by hand"]
    cells = "".join(
        f"<div><dt>{name}</dt><dd>{value}<small>{' · '.join(notes)}</small></dd></div>"
        for name, (value, *notes) in rows.items()
    )
    kind, verdict = ("found", "Tumour found") if cut.tumor_found else ("clear", "No tumour found")
    return f"""
    <p class="verdict {kind}">{verdict}</p>
    <p class="detail">Highest probability {100 * cut.highest_probability:.0f} % · {shown.timing}</p>
    <dl>{cells}</dl>"""


def draw_examples() -> str:
    """A button with a small picture for every example, grouped by tumour type."""
    groups = []
    for tumor_type, members in groupby(enumerate(EXAMPLES), lambda member: member[1].stem.split("-")[0]):
        buttons = "".join(
            f'<button data-index="{index}" title="{describe(path)}"><img src="{thumbnail(path)}" alt=""></button>'
            for index, path in members
        )
        groups.append(f"<div><p>{tumor_type.capitalize()}</p>{buttons}</div>")
    return f'<div class="strip">{"".join(groups)}</div>'


def describe(example: Path) -> str:
    tumor_type, plane, number = example.stem.split("-")
    return f"{tumor_type} {plane}, slice {number}".capitalize()


def thumbnail(path: Path, side: int = 128) -> str:
    with Image.open(path) as image:
        return data_uri(np.asarray(image.convert("L").resize((side, side))))


def to_picture(mask: np.ndarray) -> np.ndarray:
    return mask.astype(np.uint8) * 255


def data_uri(picture: np.ndarray) -> str:
    """A picture, uint8 [H, W], [H, W, 3] or [H, W, 4], as a PNG that stands in the page itself."""
    if picture.ndim == 3 and picture.shape[2] == 3 and (picture == picture[..., :1]).all():
        picture = picture[..., 0]
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


if __name__ == "__main__":
    main()
