"""What the page asks for: `Server`, whose methods are the listeners that app.py connects."""

import html
import traceback
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
from .reading import segment_files, segment_slice
from .requests import BUSY, USED_UP, all_uploaded, chosen, moment_of, refusal, said, uploaded, whole
from .sessions import Session, Sessions
from .studies import Settings, Study, measurements


# Limits of what is kept for all visitors together: bytes, seconds, and visitors.
MAX_KEPT_BYTES = 768 << 20
MAX_VISITORS = 1024
KEPT_SECONDS = 3300
NOTHING_SHOWN = "There is no slice on the page any more; choose one first."


class View(NamedTuple):
    """What the page shows of a study, as HTML or as updates of controls; what is left out stays as it is."""

    anatomy: str | dict = gr.skip()
    layers: str | dict = gr.skip()
    report: str | dict = gr.skip()
    overview: str | dict = gr.skip()
    stacks: str | dict = gr.skip()
    scrubber: dict = gr.skip()
    everything: dict = gr.skip()
    spacing: dict = gr.skip()


NOTHING_NEW = gr.skip()  # of all outputs, where something later is what the page shows
EMPTY_VIEW = View(
    views.EMPTY_STAGE,
    "",
    views.EMPTY_REPORT,
    "",
    "",
    scrubber=gr.update(visible=False),
    everything=gr.update(visible=False),
    spacing=gr.update(label=views.spacing_label(None), interactive=True),
)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Show the package's message about a wrong input to the visitor; the server does not log it as its own error."""
    try:
        yield
    except ValueError as error:
        raise refusal(html.escape(str(error), quote=False)) from None
    except OSError as error:
        if error.errno not in USED_UP:
            raise
        raise refusal(BUSY) from None


class Server:
    """The listeners. What they know of a visitor is the session of the page that asks (sessions.py)."""

    def __init__(self, network: Network):
        self.network = network
        self.sessions = Sessions(MAX_KEPT_BYTES, KEPT_SECONDS, MAX_VISITORS)

    # ------------------------------------------------------------------------------------------------------- to show

    @one_sentence()
    def show_files(
        self,
        threshold: float,
        min_area: int,
        spacing: float | None,
        event: gr.EventData,
        page: gr.Request,
        progress=gr.Progress(),  # noqa: B008 - how Gradio knows that a listener reports its progress
    ) -> View | dict:
        """Segment what was dropped: a slice, several, an archive of them, or a volume."""

        def read() -> Study:
            paths = all_uploaded(said(event, "files"))
            return segment_files(paths, self.network, lambda done, total: progress((done, total), unit="slices"))

        return self._show(read, (threshold, min_area, spacing), event, page.session_hash)

    @one_sentence()
    def show_example(
        self, threshold: float, min_area: int, spacing: float | None, event: gr.EventData, page: gr.Request
    ) -> View | dict:
        """Segment an example, and show it with its truth."""

        def read() -> Study:
            path = views.EXAMPLES[chosen(event, len(views.EXAMPLES))]
            study = segment_files([path], self.network)
            truth = read_mask(path.parents[1] / "masks" / path.name)
            return replace(study, slices=(replace(study.shown, title=views.describe(path), truth=truth),))

        return self._show(read, (threshold, min_area, spacing), event, page.session_hash)

    @one_sentence()
    def show_stack(
        self,
        threshold: float,
        min_area: int,
        spacing: float | None,
        event: gr.EventData,
        page: gr.Request,
        progress=gr.Progress(),  # noqa: B008 - as in `show_files`
    ) -> View | dict:
        """Read the files of the volume on the stage again: another stack of slices in them."""

        def read() -> Study:
            study = self._study(page.session_hash)
            stack = 1 + chosen(event, len(study.volume.stacks) if study.volume else 0)
            if not all(path.is_file() for path in study.paths):
                raise InvalidImageError("The files of the volume are gone from the server; please send them again.")
            return segment_files(
                [*study.paths], self.network, lambda done, total: progress((done, total), unit="slices"), stack
            )

        return self._show(read, (threshold, min_area, spacing), event, page.session_hash)

    @one_sentence()
    def turn(
        self,
        moment: int,
        threshold: float,
        min_area: int,
        spacing: float | None,
        index: float,
        page: gr.Request,
    ) -> View | dict:
        """Put another slice of the study on the stage; `index` counts from 1."""
        self._ask((threshold, min_area, spacing), moment, page.session_hash)
        return self._change(lambda study: study.turned_to(index - 1), moment, page.session_hash)

    @one_sentence()
    def pick(
        self, threshold: float, min_area: int, spacing: float | None, event: gr.EventData, page: gr.Request
    ) -> View | dict:
        """The same for a click on a slice in the overview."""
        moment = moment_of(event)
        self._ask((threshold, min_area, spacing), moment, page.session_hash)
        return self._change(lambda study: study.turned_to(chosen(event, len(study.slices))), moment, page.session_hash)

    @one_sentence()
    def compare(
        self,
        moment: int,
        threshold: float,
        min_area: int,
        spacing: float | None,
        file: dict,
        page: gr.Request,
    ) -> View | dict:
        """Compare the slice on the stage with a mask drawn by hand."""
        self._study(page.session_hash)
        self._ask((threshold, min_area, spacing), moment, page.session_hash)
        path = uploaded(file)
        truth = read_mask(path)

        def compared(study: Study) -> Study:
            if truth.shape != (size := study.shown.segmentation.mask.shape):
                raise InvalidImageError(
                    f"{path.name}: the mask has {truth.shape[1]} × {truth.shape[0]} pixels, but the slice has "
                    f"{size[1]} × {size[0]}; they must be of one size."
                )
            return study.with_truth(truth)

        return self._change(compared, moment, page.session_hash)

    @one_sentence()
    def measure(
        self, moment: int, threshold: float, min_area: int, spacing: float | None, page: gr.Request
    ) -> View | dict:
        """The slice on the stage by other settings, at once; the network does not run."""
        study = self._ask((threshold, min_area, spacing), moment, page.session_hash).study
        if study is None:
            return EMPTY_VIEW
        measured = self._measured(study, page.session_hash)
        return View(layers=measured[0], report=measured[1]) if measured else NOTHING_NEW

    @one_sentence()
    def survey(self, page: gr.Request) -> str | dict:
        """The overview by the newest settings, which may take its time."""
        session = self.sessions.get(page.session_hash)
        if session.study is None:
            return ""
        overview = views.draw_overview(session.study, session.settings)
        # Whoever turns to another slice keeps the overview.
        now = self.sessions.get(page.session_hash)
        return overview if now.study and now.shown_at == session.shown_at else NOTHING_NEW

    def _ask(self, asked: tuple, moment: object, page: str | None) -> Session:
        return self.sessions.take(page, Session.ask, Settings.given(*asked), whole(moment))

    def _change(self, change: Callable[[Study], Study], moment: int, page: str | None) -> View | dict:
        """The stage after a change."""
        session = self.sessions.take(page, Session.change, change, moment)
        if session.study is None:
            return EMPTY_VIEW
        if session.changed_at != moment:
            return NOTHING_NEW
        anatomy = views.draw_slice(session.study)
        measured = self._measured(session.study, page)
        return View(anatomy, *measured) if measured else NOTHING_NEW

    def _measured(self, study: Study, page: str | None) -> tuple[str, str] | None:
        """What `_measure` draws by the newest settings; None if the study is not what the page shows any more."""
        while (session := self.sessions.get(page)).study is study:
            measured = self._measure(study, session.settings)
            now = self.sessions.get(page)
            if now.study is study and now.settings == session.settings:
                return measured
        return None

    def _show(self, read: Callable[[], Study], asked: tuple, event: gr.EventData, page: str | None) -> View | dict:
        """What was chosen on a page, unless something else is chosen there before it is ready."""
        moment = moment_of(event)

        def is_last(session: Session) -> bool:
            return session.chosen_at <= moment

        if not is_last(self.sessions.take(page, Session.choose, moment)):
            return NOTHING_NEW
        try:
            self._ask(asked, moment, page)
            study = read()
            while is_last(session := self.sessions.get(page)):
                view = self._draw(study, session.settings)
                if self.sessions.take(page, Session.show, study, session.settings, moment).study is study:
                    return view
        except Exception as error:
            if is_last(self.sessions.take(page, Session.fail, moment)):
                raise
            # Nobody waits for it any more; but what is no fault of the visitor is to be known.
            if not isinstance(error, ValueError):
                traceback.print_exc()
        return NOTHING_NEW

    def _draw(self, study: Study, settings: Settings) -> View:
        layers, report = self._measure(study, settings)
        count, volume = len(study.slices), study.volume
        return View(
            views.draw_slice(study),
            layers,
            report,
            views.draw_overview(study, settings),
            views.draw_stacks(volume),
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

    def saver(self, kind: str) -> Callable:
        """The listener of a button that saves: `kind` is one of `downloads.SAVERS`, or "everything"."""
        write = downloads.SAVERS.get(kind, downloads.save_everything)

        @one_sentence()
        def save(
            threshold: float,
            min_area: int,
            spacing: float | None,
            style: str,
            color: str,
            opacity: float,
            page: gr.Request,
        ) -> str:
            study, settings = self._study(page.session_hash), Settings.given(threshold, min_area, spacing)
            return write(study, settings, Look(style, color, opacity), self.network.origin)

        return save

    def _study(self, page: str | None) -> Study:
        study = self.sessions.get(page).study
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
            image: the slice, T1-weighted with contrast; a PNG, JPEG, WebP, TIFF, BMP or .npy file of 16 to 4096 px a
                side, or a NIfTI or DICOM file of one slice.
            spacing: size of a pixel in mm, 0.01 to 100, for measurements in mm; 0 if it is not known. What a NIfTI or
                DICOM file says itself counts first.
            threshold: pixels above this tumour probability, 0 to 1, make up the mask.
            min_area_px: pieces of the mask with fewer pixels are hidden; with 0 all of them stay, and those that are
                large enough for a lesion are listed.

        Returns:
            The slice with the tumour in colour; the measurements, with the "warnings" that the page shows; the mask as
            0 and 255. Both pictures are PNG files of the slice's own size.
        """
        settings = Settings.given(threshold, min_area_px, spacing)
        segmentation, whole = segment_slice(uploaded(image), self.network)
        cut = settings.cut(segmentation)
        # As files of their own: Gradio gives equal pictures one file, and writes it again while somebody else reads it.
        overlay = downloads.write("overlay.png", encode_png(cut.overlay()))
        return overlay, measurements(cut, whole), downloads.write("mask.png", encode_png(cut.mask))

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
            .nii.gz; the measurements: a list with one entry per slice, in the order of the files, whose "slice" is its
            name; where a file could not be used, "error" says why; and of a volume its mL, its lesions in three
            dimensions and its "warnings", null of slices.
        """
        settings = Settings.given(threshold, min_area_px, spacing)
        study = segment_files(all_uploaded(files), self.network)
        rows = study.table(measurements(cut, study.whole) for cut in study.cuts(settings))
        packed = downloads.save_everything(study, settings, Look(), self.network.origin)
        return packed, rows, study.description(settings)
