"""The page: drop an MRI slice, see the tumour in colour, move the overlay's opacity, read the measurements.

    python app.py                                  the model in weights/brain-tumor-unet
    MODEL_ID=FOLDER_OR_HUB_ID python app.py        another one; of the Hub, MODEL_REVISION names the commit

Layout and wiring only: `space` holds what the page asks for (events.py), what it shows (views.py, page.css), and what
the browser does by itself (scripts).
"""

import os
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr


try:
    import spaces  # ZeroGPU; it has to come before anything that touches CUDA
except ImportError:
    spaces = None

from modeling_unet.overlay import DEFAULT_ALPHA, DEFAULT_COLOR
from modeling_unet.provenance import find_shipped_model, identify_model, origin
from modeling_unet.segmentation import DEFAULT_THRESHOLD
from modeling_unet.segmenter import TumorSegmenter, check_one_channel
from modeling_unet.volumes.dicom import MAX_FRAMES
from space import vendor, views
from space.downloads import SAVERS
from space.events import KEPT_SECONDS, Server
from space.memory import hold_memory_down, open_more_files
from space.network import BATCH_SIZE, Network, Origin
from space.outside import TITLE, Previews, describe
from space.requests import EXCEPTION_HANDLERS, Page, ShortBodies
from space.sweeping import own_folder, start_sweeping


HERE = Path(__file__).resolve().parent

MAX_WAITING = 32
# How many requests are worked on at a time. On a CPU, two, so that a large archive does not hold up all others; more
# would not be faster. On a GPU, the waiting ones fill the next batch.
MAX_AT_ONCE = 2
MAX_AT_ONCE_ON_GPU = BATCH_SIZE
MAX_MIN_AREA_PX = 500

STYLES = [("Fill", "fill"), ("Outline", "contour"), ("Heat map", "heatmap")]
# Of Okabe and Ito, who chose them for the colour-blind; their sky blue is left to the outline drawn by hand.
COLORS = [("Orange", DEFAULT_COLOR), ("Vermilion", "#d55e00"), ("Yellow", "#f0e442"), ("Purple", "#cc79a7")]

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
# Values that page.css takes from the controls.
STYLESHEET = f":root {{ --tumor-opacity: {DEFAULT_ALPHA}; --tumor-color: {DEFAULT_COLOR}; }}" + "".join(
    f'#color input[value="{color}"] {{ background: {color}; }}' for _, color in COLORS
)

# Of the endpoints: default, and an example for the API page.
PARAMETERS = {"spacing": (0, 0.49), "threshold": (DEFAULT_THRESHOLD, 0.5), "min_area_px": (0, 20)}
# In a clone of the project.
EXAMPLE_FILE = {"path": f"examples/images/{views.EXAMPLES[0].name}", "meta": {"_type": "gradio.FileData"}}

SCRIPTS = ("page", "connection", "look", "files", "choices", "viewer", "planes", "volume")
# One module: it waits until the page is read, and has what the first of them exports.
MODULE = ("packing", "brush")
SCRIPT, MODULE_SCRIPT = (
    "\n".join((HERE / "space" / "scripts" / f"{name}.js").read_text(encoding="utf-8") for name in names)
    for names in (SCRIPTS, MODULE)
)

# For `launch`, here and in the tests. Gradio serves nothing but its own temporary files, and browsers keep no history
# of the slices they have shown.
LAUNCH_OPTIONS: dict[str, Any] = {
    "theme": THEME,
    "css": STYLESHEET,
    "css_paths": HERE / "space" / "page.css",
    "head": f'<script>{SCRIPT}</script><script type="module">{MODULE_SCRIPT}</script>',
    "allowed_paths": [],
    "max_file_size": "128mb",
    "run_history": False,
    "enable_monitoring": False,
    "footer_links": ["api"],
    "mcp_server": True,
    "share": False,
    "_frontend": False,  # or Gradio ends what does not answer itself within 3 s, as on a busy machine
    "app_kwargs": {
        "exception_handlers": EXCEPTION_HANDLERS,
        "middleware": [(ShortBodies, (), {}), (Previews, (), {})],
        "routes": vendor.router.routes,
    },
}


def main():
    """Load the model and serve the page."""
    hold_memory_down()
    open_more_files()
    with ExitStack() as stack:
        try:
            network = load_network(os.environ.get("MODEL_ID"), os.environ.get("MODEL_REVISION"))
            folder = stack.enter_context(own_folder())
        except (OSError, ValueError) as error:
            sys.exit(f"error: {' '.join(str(error).split())}")
        network.warm_up()
        page = build_app(network)
        start_sweeping(folder, KEPT_SECONDS, page.forget)
        page.launch(**LAUNCH_OPTIONS)


def load_network(model_id: str | None = None, revision: str | None = None) -> Network:
    """The model in a folder or on the Hub, by default the one that comes with the project."""
    model = model_id or find_shipped_model("in the variable MODEL_ID")
    segmenter = TumorSegmenter.from_pretrained(model, revision=revision)
    check_one_channel(segmenter.channel_names, "slices of the page")
    name, commit = origin(model, revision)
    return Network(segmenter, Origin(name, (commit or identify_model(model))[:12]), spaces and spaces.GPU)


def build_app(network: Network) -> Page:
    """The page around a network; start it with `.launch(**LAUNCH_OPTIONS)`."""
    server, several = Server(network), len(network.class_names) > 1
    arrival = server.arrival()
    block = partial(gr.HTML, apply_default_css=False)
    with Page(title=TITLE, analytics_enabled=False) as page:
        page.sessions = server.sessions
        block(views.HEADER, elem_id="header")
        with gr.Row(elem_id="viewer"):
            with gr.Column(elem_id="rail", min_width=0):
                upload = block(views.DROP_BOX, elem_id="upload", js_on_load="page.startFiles(element, trigger, upload)")
                examples = block(
                    views.draw_examples(), elem_id="examples", js_on_load="page.startExamples(element, trigger)"
                )
            with gr.Column(elem_id="middle", min_width=0):
                with gr.Column(elem_id="stage", min_width=0):
                    block(views.VIEWS, elem_id="views", js_on_load="page.startViews(element)")
                    anatomy = block(
                        arrival.anatomy,
                        elem_id="anatomy",
                        js_on_load="page.startStage(element, trigger, watch); watch('value', page.followVolume)",
                    )
                    layers = block(
                        arrival.layers,
                        elem_id="layers",
                        js_on_load="watch('value', page.whenMeasured); watch('value', page.followVolume)",
                    )
                    volume = block(
                        views.VOLUME.format(program=vendor.NIIVUE.name),
                        elem_id="volume",
                        js_on_load="page.startVolume(element, trigger)",
                    )
                    paint = block(views.PAINT, elem_id="paint", js_on_load="page.startBrush(element, trigger)")
                    block(views.GLASS, elem_id="glass", js_on_load="page.startGlass(element)")
                    block(
                        views.draw_tools(network.class_names),
                        elem_id="tools",
                        js_on_load="page.startLook(element); page.startTools(element)",
                    )
                with gr.Column(elem_id="study", min_width=0):
                    stacks = block(elem_id="stacks", js_on_load="page.startChoices(element, trigger)")
                    overview = block(elem_id="overview", js_on_load="page.startChoices(element, trigger)")
                    # Its range is that of any volume: what is sent is checked by the page as it was built.
                    scrubber = gr.Slider(
                        1, MAX_FRAMES, 1, step=1, label="Slice", buttons=[], visible=False, elem_id="scrubber"
                    )
            with gr.Column(elem_id="side", min_width=0):
                report = block(
                    arrival.report,
                    elem_id="report",
                    js_on_load="page.startLegend(element);"
                    "watch('value', () => { page.followLegend(element); page.announce(element); })",
                )
                with gr.Column(elem_id="controls", min_width=0):
                    opacity = gr.Slider(0, 1, DEFAULT_ALPHA, step=0.01, label="Opacity", buttons=[], elem_id="opacity")
                    with gr.Row():
                        style = gr.Radio(STYLES, value="fill", label="Style", elem_id="style", scale=3, min_width=220)
                        color = gr.Radio(
                            COLORS,
                            value=DEFAULT_COLOR,
                            label="Colour",
                            elem_id="color",
                            scale=2,
                            min_width=130,
                            visible=not several,
                        )
                    threshold = gr.Slider(
                        0.05, 0.95, DEFAULT_THRESHOLD, step=0.01, label="Threshold", buttons=[], elem_id="threshold"
                    )
                    min_area = gr.Slider(
                        0, MAX_MIN_AREA_PX, 0, step=1, label="Hide pieces below, px", buttons=[], elem_id="min-area"
                    )
                    # Without a minimum: Gradio would refuse what is below before `server` learns of the choice.
                    spacing = gr.Number(
                        0,
                        label=arrival.spacing["label"],
                        interactive=arrival.spacing["interactive"],
                        elem_id="spacing",
                    )
                    truth = gr.Checkbox(True, label="Outline drawn by hand", elem_id="truth")
                    mask = gr.UploadButton(
                        "Compare with a mask drawn by hand …", file_types=["image"], size="md", elem_id="mask"
                    )
                with gr.Row(elem_id="saving"):
                    savers = {
                        kind: gr.Button(kind, size="md", min_width=80, elem_classes=kind.lower().replace("'s ", "-"))
                        for kind in SAVERS
                    }
                    everything = gr.Button("All results (ZIP)", size="md", visible=False, elem_id="everything")
        block(views.FOOTER, elem_id="footer")
        with gr.Row(visible=False):
            mark = gr.JSON()
            file, segment, segment_batch = gr.File(), gr.Button(), gr.Button()
            viewed = gr.File(file_count="multiple")
            one_image, many_files = gr.Image(label="MRI slice"), gr.File(label="MRI slices", file_count="multiple")
            of_one, of_many = (
                [gr.Number(value, label=name) for name, (value, _) in PARAMETERS.items()] for _ in range(2)
            )
            results = [
                gr.Image(label="Overlay"),
                gr.JSON(label="Measurements"),
                gr.Image(label="Mask"),
            ]
            batch_results = [
                gr.File(label="Masks, overlays and table"),
                gr.JSON(label="Measurements"),
                gr.JSON(label="Volume"),
            ]

        cut = [threshold, min_area, spacing]
        asked = [mark, *cut]  # `stamp` puts the mark in
        view = [anatomy, layers, report, overview, stacks, scrubber, everything, spacing]
        at_once = MAX_AT_ONCE if network.place == "CPU" else MAX_AT_ONCE_ON_GPU
        network_options: dict[str, Any] = {"concurrency_id": "network", "concurrency_limit": at_once}
        # For settings, only the last change counts ("always_last"). Choices run one by one: with "always_last" Gradio
        # would repeat the first choice, and nothing after an error.
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        choice, setting = quiet | {"trigger_mode": "multiple"}, quiet | {"trigger_mode": "always_last"}
        stamped: dict[str, Any] = {"js": "page.stamp"}
        opening = {**network_options, **choice, "show_progress": "full", "show_progress_on": anatomy}
        for opened in (
            upload.upload(server.show_files, cut, view, **opening),
            examples.select(server.show_example, cut, view, **opening),
            stacks.select(server.show_stack, cut, view, **opening),
        ):
            opened.failure(None, js="page.showChosen")
        anatomy.clear(server.clear, None, view, **choice)
        scrubber.input(server.turn, [*asked, scrubber], view, **setting, **stamped)
        overview.select(server.pick, cut, view, **choice)
        viewing = volume.select(server.view_volume, cut, viewed, **choice)
        viewing.success(None, viewed, js="page.drawVolume")
        viewing.failure(None, js="page.leaveVolume")
        corrected = paint.submit(server.correct, cut, view, **choice)
        corrected.success(server.survey, None, overview, **setting)
        recut = [threshold.input, min_area.input, spacing.input]
        measured = gr.on(recut, server.measure, asked, view, **setting, **stamped)
        measured.success(server.survey, None, overview, **setting)
        # With preprocess=True, Gradio would open the file first and fail with a message of its own.
        mask.upload(server.compare, [*asked, mask], view, preprocess=False, **choice, **stamped)
        for kind, button in {**savers, "everything": everything}.items():
            saving = button.click(server.saver(kind), [*asked, style, color, opacity], file, **setting, **stamped)
            saving.success(None, file, js="page.save")

        examples_given = [example for _, example in PARAMETERS.values()]
        describe(server.segment, [one_image, *of_one], [EXAMPLE_FILE, *examples_given])
        describe(server.segment_batch, [many_files, *of_many], [[EXAMPLE_FILE], *examples_given])
        segment.click(
            server.segment,
            [one_image, *of_one],
            results,
            preprocess=False,
            api_name="segment",
            **network_options,
        )
        segment_batch.click(
            server.segment_batch,
            [many_files, *of_many],
            batch_results,
            preprocess=False,
            api_name="segment_batch",
            **network_options,
        )

        # No function, so no request: the browser does it alone.
        looks: dict[gr.Slider | gr.Radio | gr.Checkbox, str]
        looks = {opacity: "setOpacity", style: "setStyle", color: "setColor", truth: "setTruth"}
        for control, setter in looks.items():
            control.change(None, control, js=f"value => page.{setter}(value)")
    # Without `api_open`, no request can skip the queue.
    return page.queue(max_size=MAX_WAITING, api_open=False)


if __name__ == "__main__":
    main()
