"""What the page asks for: `Server`, whose methods are the listeners that app.py connects."""

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import gradio as gr

from modeling_unet import InvalidImageError, read_mask
from modeling_unet.pictures import encode_png
from modeling_unet.segmentation import DEFAULT_THRESHOLD

from . import downloads, views
from .downloads import Look
from .network import Network
from .reading import read_slice, segment_files
from .requests import BUSY, USED_UP, all_uploaded, chosen, refusal, said, uploaded
from .studies import Settings, Shelf, Study


# How much is kept of all visitors together, and for how long.
MAX_KEPT_BYTES = 768 << 20
KEPT_SECONDS = 3300
NOTHING_SHOWN = "There is no slice on the page any more; choose one first."


class View(NamedTuple):
    """What the page shows of a study, as HTML or as updates of controls; what is left out stays as it is."""

    anatomy: str | dict = gr.skip()
    layers: str | dict = gr.skip()
    report: str | dict = gr.skip()
    overview: str | dict = gr.skip()
    scrubber: dict = gr.skip()
    everything: dict = gr.skip()
    spacing: dict = gr.skip()


NOTHING_NEW = gr.skip()  # of all outputs, where something later is what the page shows
EMPTY_VIEW = View(
    views.EMPTY_STAGE,
    "",
    views.EMPTY_REPORT,
    "",
    scrubber=gr.update(visible=False),
    everything=gr.update(visible=False),
    spacing=gr.update(label=views.spacing_label(None), interactive=True),
)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Tell the person what is wrong with an input in the words of the package; it is no error of the server."""
    try:
        yield
    except ValueError as error:
        raise refusal(html.escape(str(error), quote=False)) from None
    except OSError as error:
        if error.errno not in USED_UP:
            raise
        raise refusal(BUSY) from None


class Server:
    """The listeners. Nothing about a visitor is kept but on the shelf, where only the visitor's ticket leads to it."""

    def __init__(self, network: Network):
        self.network = network
        self.shelf = Shelf(MAX_KEPT_BYTES, KEPT_SECONDS)
        self._last_choices: dict[str | None, object] = {}  # of the pages that wait for one

    # ------------------------------------------------------------------------------------------------------- to show

    @one_sentence()
    def show_files(
        self,
        ticket: str | None,
        threshold: float,
        min_area: int,
        spacing: float | None,
        event: gr.EventData,
        page: gr.Request,
        progress=gr.Progress(),  # noqa: B008 - how Gradio knows that a listener reports its progress
    ) -> tuple | dict:
        """Segment what was dropped: a slice, several, an archive of them, or a volume."""

        def read() -> Study:
            paths = all_uploaded(said(event, "files"))
            return segment_files(paths, self.network, lambda done, total: progress((done, total), unit="slices"))

        return self._show(read, ticket, (threshold, min_area, spacing), page.session_hash)

    @one_sentence()
    def show_example(
        self,
        ticket: str | None,
        threshold: float,
        min_area: int,
        spacing: float | None,
        event: gr.EventData,
        page: gr.Request,
    ) -> tuple | dict:
        """Segment an example, and show it with its truth."""

        def read() -> Study:
            path = views.EXAMPLES[chosen(event, len(views.EXAMPLES))]
            study = segment_files([path], self.network)
            truth = read_mask(path.parents[1] / "masks" / path.name)
            return replace(study, slices=(replace(study.shown, title=views.describe(path), truth=truth),))

        return self._show(read, ticket, (threshold, min_area, spacing), page.session_hash)

    @one_sentence()
    def turn(
        self, ticket: str | None, threshold: float, min_area: int, spacing: float | None, index: float
    ) -> View | dict:
        """Put another slice of the study on the stage; `index` counts from 1."""
        study = self.shelf.get(ticket)
        if study is None:
            return EMPTY_VIEW
        study.opening.asked = Settings.given(threshold, min_area, spacing)
        return self._change(study, study.turned_to(index - 1), ticket)

    @one_sentence()
    def pick(
        self, ticket: str | None, threshold: float, min_area: int, spacing: float | None, event: gr.EventData
    ) -> View | dict:
        """The same for a click on a slice in the overview."""
        study = self.shelf.get(ticket)
        index = chosen(event, len(study.slices)) if study else 0
        return self.turn(ticket, threshold, min_area, spacing, index + 1)

    @one_sentence()
    def measure(self, ticket: str | None, threshold: float, min_area: int, spacing: float | None) -> View | dict:
        """The slice on the stage by other settings, at once; the network does not run."""
        study = self.shelf.get(ticket)
        if study is None:
            return EMPTY_VIEW
        study.opening.asked = settings = Settings.given(threshold, min_area, spacing)
        layers, report = self._measure(study, settings)
        return View(layers=layers, report=report) if self.shelf.get(ticket) is study else NOTHING_NEW

    @one_sentence()
    def survey(self, ticket: str | None, threshold: float, min_area: int, spacing: float | None) -> str | dict:
        """The overview by other settings, which may take its time."""
        study = self.shelf.get(ticket)
        if study is None:
            return ""
        overview = views.draw_overview(study, Settings.given(threshold, min_area, spacing))
        # Whoever turns to another slice keeps the overview.
        kept = self.shelf.get(ticket)
        return overview if kept and kept.opening is study.opening else NOTHING_NEW

    @one_sentence()
    def compare(
        self, ticket: str | None, threshold: float, min_area: int, spacing: float | None, file: dict
    ) -> View | dict:
        """Compare the slice on the stage with a mask drawn by hand."""
        study = self._study(ticket)
        study.opening.asked = Settings.given(threshold, min_area, spacing)
        path = uploaded(file)
        truth = read_mask(path)
        if truth.shape != (size := study.shown.segmentation.mask.shape):
            raise InvalidImageError(
                f"{path.name}: the mask has {truth.shape[1]} × {truth.shape[0]} pixels, but the slice has "
                f"{size[1]} × {size[0]}; they must be of one size."
            )
        return self._change(study, study.with_truth(truth), ticket)

    def _change(self, study: Study, changed: Study, ticket: str | None) -> View | dict:
        """The stage after a change, unless the visitor has opened or changed something else meanwhile."""
        if not self.shelf.swap(study, changed, ticket):
            return NOTHING_NEW
        drawn = None
        while drawn is not (settings := changed.opening.asked):
            layers, report = self._measure(changed, settings)
            drawn = settings
        view = View(views.draw_slice(changed), layers, report)
        return view if self.shelf.get(ticket) is changed else NOTHING_NEW

    def _show(self, read: Callable[[], Study], ticket: str | None, asked: tuple, page: str | None) -> tuple | dict:
        """Ticket and view of what was chosen on a page: of several choices the last, whichever is ready first."""
        choice = self._last_choices[page] = object()

        def is_last() -> bool:
            return self._last_choices.get(page) is choice

        try:
            settings = Settings.given(*asked)
            earlier = self.shelf.get(ticket)
            asked_earlier = earlier and earlier.opening.asked
            study = read()
            if earlier and earlier.opening.asked is not asked_earlier:
                settings = earlier.opening.asked
            view = self._draw(study, settings)
            return (self.shelf.put(study, ticket), *view) if is_last() else NOTHING_NEW
        except Exception as error:
            if isinstance(error, ValueError) and not is_last():
                return NOTHING_NEW
            # What cannot be shown must not be taken for the slice that was there before.
            self.shelf.drop(ticket)
            raise
        finally:
            if is_last():
                del self._last_choices[page]

    def _draw(self, study: Study, settings: Settings) -> View:
        layers, report = self._measure(study, settings)
        count, volume = len(study.slices), study.volume
        return View(
            views.draw_slice(study),
            layers,
            report,
            views.draw_overview(study, settings),
            scrubber=gr.update(visible=volume is not None, maximum=max(count, 2), value=study.index + 1),
            everything=gr.update(
                visible=count > 1 or volume is not None, value="Whole mask (NIfTI)" if volume else "All results (ZIP)"
            ),
            spacing=gr.update(label=views.spacing_label(volume), interactive=not (volume and volume.spacing)),
        )

    def _measure(self, study: Study, settings: Settings) -> tuple[str, str]:
        cut = settings.cut(study.shown.segmentation)
        return views.draw_layers(cut, study.shown.truth), views.draw_report(study, cut, settings, self.network.origin)

    # --------------------------------------------------------------------------------------------------- to take away

    @one_sentence()
    def save(
        self,
        kind: str,
        ticket: str | None,
        threshold: float,
        min_area: int,
        spacing: float | None,
        style: str,
        color: str,
        opacity: float,
    ) -> str:
        """Path of a file for the browser to save; `kind` is one of `downloads.SAVERS`, or "everything"."""
        study = self._study(ticket)
        saver = downloads.SAVERS.get(kind, downloads.save_everything)
        settings = Settings.given(threshold, min_area, spacing)
        return saver(study, settings, Look(style, color, opacity), self.network.origin)

    def _study(self, ticket: str | None) -> Study:
        study = self.shelf.get(ticket)
        if study is None:
            raise refusal(NOTHING_SHOWN)
        return study

    # ------------------------------------------------------------------------------------------------- the endpoints

    @one_sentence()
    def segment(
        self,
        image: dict,
        spacing: float | None = 0,
        threshold: float = DEFAULT_THRESHOLD,
        min_area_px: int = 0,
    ) -> tuple:
        """Find brain tumours in one MRI slice and measure them. Not a medical device: for research and education.

        Args:
            image: the slice, T1-weighted with contrast; a PNG, JPEG, WebP, TIFF or BMP file of 16 to 4096 px a side.
            spacing: size of a pixel in mm, 0.01 to 100, for measurements in mm; 0 if it is not known.
            threshold: pixels above this tumour probability, 0 to 1, make up the mask.
            min_area_px: pieces of the mask with fewer pixels are hidden; with 0 all of them stay, and those that are
                large enough for a lesion are listed.

        Returns:
            The slice with the tumour in colour; the measurements; the mask as 0 and 255. Both pictures are PNG files of
            the slice's own size.
        """
        settings = Settings.given(threshold, min_area_px, spacing)
        (segmentation,) = self.network([read_slice(uploaded(image))])
        cut = settings.cut(segmentation)
        # As files of their own: Gradio gives equal pictures one file, and writes it again while somebody else reads it.
        overlay = downloads.write("overlay.png", encode_png(cut.overlay()))
        return overlay, cut.to_dict(), downloads.write("mask.png", encode_png(cut.mask))

    @one_sentence()
    def segment_batch(
        self,
        files: list,
        spacing: float | None = 0,
        threshold: float = DEFAULT_THRESHOLD,
        min_area_px: int = 0,
    ) -> tuple:
        """Find brain tumours in many MRI slices. Not a medical device: for research and education.

        Args:
            files: slices as for /segment, or ZIP archives of them; or a volume as one NIfTI file, DICOM series or ZIP.
            spacing: as for /segment, the same for all slices; a volume's own counts first.
            threshold: pixels above this tumour probability, 0 to 1, make up the masks.
            min_area_px: as for /segment.

        Returns:
            A ZIP with NAME_mask.png and NAME_overlay.png of every slice and summary.csv, or the mask of a volume as
            .nii.gz; and the measurements: a list with one entry per slice, in the order of the files, whose "slice" is
            its name; where a file could not be used, "error" says why.
        """
        settings = Settings.given(threshold, min_area_px, spacing)
        study = segment_files(all_uploaded(files), self.network)
        measurements = study.table(cut.to_dict() for cut in study.cuts(settings))
        return downloads.save_everything(study, settings, Look(), self.network.origin), measurements
