"""What the page asks for: `Server`, whose methods are the listeners that app.py connects."""

import html
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import gradio as gr

from modeling_unet import InvalidImageError, read_mask
from modeling_unet.pictures import encode_png
from modeling_unet.segmentation import DEFAULT_THRESHOLD
from modeling_unet.segmenter import check_one_class

from . import downloads, views
from .downloads import Look
from .network import Network
from .outside import in_one_line_each
from .reading import segment_files, segment_slice
from .requests import BUSY, USED_UP, Mark, all_painted, all_uploaded, chosen, mark_of, refusal, said, uploaded, whole
from .sessions import DEFAULTS, Session, Sessions
from .studies import Settings, Study, measurements


# Limits of what is kept for all visitors together: bytes, seconds, and visitors.
MAX_KEPT_BYTES = 768 << 20
MAX_VISITORS = 1024
KEPT_SECONDS = 3300
# Of the persons in the data set that the examples are from.
EXAMPLE_SPACING = (0.49, 0.49)

NO_VOLUME = "What the page shows is no volume, or one that is too large to be seen as a whole."
NOTHING_SHOWN = "There is no slice on the page any more; choose one first."
FORGOTTEN = (
    f"The server keeps slices for {KEPT_SECONDS // 60} minutes, or less where many visitors come, and has forgotten "
    "what this page shows; open it again."
)
RESTARTED = "The server has started anew and has forgotten what this page shows; open it again."


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
    """The listeners. What they know of a visitor is the session of the page that asks (sessions.py).

    Attributes:
        run: a name of its own for every server that is started, by which pages know who has drawn what they show.
    """

    def __init__(self, network: Network):
        self.network = network
        self.sessions = Sessions(MAX_KEPT_BYTES, KEPT_SECONDS, MAX_VISITORS)
        self.run = uuid.uuid4().hex
        self._examples: dict[str, Study] = {}
        self._drawn: dict[str, View] = {}  # examples by the default settings, as nearly all see them

    def arrival(self) -> View:
        """What the page shows before anybody asks."""
        return self._draw(self._example(views.ON_ARRIVAL), DEFAULTS)

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
            return self._example(views.EXAMPLES[chosen(event, len(views.EXAMPLES))])

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
            study = self._study(mark_of(event), page.session_hash)
            stack = 1 + chosen(event, len(study.volume.stacks) if study.volume else 0)
            if not all(path.is_file() for path in study.paths):
                raise InvalidImageError("The files of the volume are gone from the server; please send them again.")
            return segment_files(
                [*study.paths], self.network, lambda done, total: progress((done, total), unit="slices"), stack
            )

        return self._show(read, (threshold, min_area, spacing), event, page.session_hash)

    @one_sentence()
    def clear(self, event: gr.EventData, page: gr.Request) -> View:
        """Take everything off the page, and forget it."""
        self.sessions.take(page.session_hash, Session.clear, mark_of(event).moment)
        return EMPTY_VIEW

    @one_sentence()
    def turn(
        self,
        mark: dict,
        threshold: float,
        min_area: int,
        spacing: float | None,
        index: float,
        page: gr.Request,
    ) -> View | dict:
        """Put another slice of the study on the stage; `index` counts from 1."""
        moment = self._ask((threshold, min_area, spacing), mark_of(mark), page.session_hash)
        return self._change(lambda study: study.turned_to(index - 1), moment, page.session_hash)

    @one_sentence()
    def pick(
        self, threshold: float, min_area: int, spacing: float | None, event: gr.EventData, page: gr.Request
    ) -> View | dict:
        """The same for a click on a slice in the overview."""
        moment = self._ask((threshold, min_area, spacing), mark_of(event), page.session_hash)
        view = self._change(lambda study: study.turned_to(chosen(event, len(study.slices))), moment, page.session_hash)
        if view is EMPTY_VIEW or not isinstance(view, View):
            return view
        return view._replace(scrubber=gr.update(value=whole(said(event, "index")) + 1))

    @one_sentence()
    def view_volume(
        self, threshold: float, min_area: int, spacing: float | None, event: gr.EventData, page: gr.Request
    ) -> list[str]:
        """Files for the viewer of volumes: the mask, and the scan unless the page has it already."""
        study = self._study(mark_of(event), page.session_hash)
        if study.voxels is None:
            raise refusal(NO_VOLUME)
        settings = Settings.given(threshold, min_area, spacing)
        return downloads.write_viewed(study, settings, with_scan=said(event, "scan") is True)

    @one_sentence()
    def compare(
        self,
        mark: dict,
        threshold: float,
        min_area: int,
        spacing: float | None,
        file: dict,
        page: gr.Request,
    ) -> View | dict:
        """Compare the slice on the stage with a mask drawn by hand."""
        self._study(mark_of(mark), page.session_hash)
        moment = self._ask((threshold, min_area, spacing), mark_of(mark), page.session_hash)
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
    def correct(
        self, threshold: float, min_area: int, spacing: float | None, event: gr.EventData, page: gr.Request
    ) -> View | dict:
        """Measure masks of slices as the visitor has corrected them; without one, the network's counts again."""
        check_one_class(self.network.class_names, "corrections by hand")
        moment = self._ask((threshold, min_area, spacing), mark_of(event), page.session_hash)

        def corrected(study: Study) -> Study:
            if said(event, "study") != study.token:  # it was painted on what was there before
                return study
            sizes = [part.segmentation.probability.shape for part in study.slices]
            return study.corrected(all_painted(said(event, "slices"), sizes), moment)

        study = self.sessions.take(page.session_hash, Session.amend, corrected).study
        measured = self._measured(study, page.session_hash) if study else None
        return View(layers=measured[0], report=measured[1]) if measured else NOTHING_NEW

    @one_sentence()
    def measure(
        self, mark: dict, threshold: float, min_area: int, spacing: float | None, page: gr.Request
    ) -> View | dict:
        """The slice on the stage by other settings, at once; the network does not run."""
        self._ask((threshold, min_area, spacing), mark_of(mark), page.session_hash)
        study = self.sessions.get(page.session_hash).study
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
        return overview if now.study and now.study.is_of(session.study) else NOTHING_NEW

    def _example(self, path: Path) -> Study:
        """An example with its truth; the network runs once for each of them."""
        name = path.stem
        if name not in self._examples:
            study = segment_files([path], self.network)
            truth = read_mask(path.parents[1] / "masks" / path.name)
            segmentation = study.shown.segmentation.cut(spacing=EXAMPLE_SPACING)
            part = replace(study.shown, title=views.describe(path), segmentation=segmentation, truth=truth)
            self._examples[name] = replace(study, slices=(part,), example=name)
        return self._examples[name]

    def _ask(self, asked: tuple, mark: Mark, page: str | None) -> int:
        """Note settings for what is on the page, and return the moment."""
        self._recall(mark, page)
        self.sessions.take(page, Session.ask, Settings.given(*asked), mark.moment)
        return mark.moment

    def _recall(self, mark: Mark, page: str | None):
        """Where nothing is known of what a page shows: an example is there again, anything else has to be opened again.

        Raises:
            gr.Error: it has to.
        """
        if not mark.shown or self.sessions.get(page).study is not None:
            return
        path = next((path for path in views.EXAMPLES if path.stem == mark.shown), None)
        if path is None:
            raise refusal(FORGOTTEN if mark.shown == self.run else RESTARTED)
        self.sessions.take(page, Session.adopt, self._example(path))

    def _change(self, change: Callable[[Study], Study], moment: int, page: str | None) -> View | dict:
        """The stage after a change."""
        session = self.sessions.take(page, Session.change, change, moment)
        if session.study is None:
            return EMPTY_VIEW
        if session.changed_at != moment:
            return NOTHING_NEW
        anatomy = views.draw_slice(session.study, self.run)
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
        moment = mark_of(event).moment

        def is_last(session: Session) -> bool:
            return session.chosen_at <= moment

        if not is_last(self.sessions.take(page, Session.choose, moment)):
            return NOTHING_NEW
        try:
            self.sessions.take(page, Session.ask, Settings.given(*asked), moment)
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
        if study.example is None or settings != DEFAULTS:
            return self._draw_anew(study, settings)
        if study.example not in self._drawn:
            self._drawn[study.example] = self._draw_anew(study, settings)
        return self._drawn[study.example]

    def _draw_anew(self, study: Study, settings: Settings) -> View:
        layers, report = self._measure(study, settings)
        count, volume = len(study.slices), study.volume
        return View(
            views.draw_slice(study, self.run),
            layers,
            report,
            views.draw_overview(study, settings),
            views.draw_stacks(volume),
            scrubber=gr.update(visible=volume is not None, maximum=max(count, 2), value=study.index + 1),
            everything=gr.update(
                visible=count > 1 or volume is not None, value="Whole mask (NIfTI)" if volume else "All results (ZIP)"
            ),
            spacing=gr.update(label=views.spacing_label(study), interactive=study.shown.segmentation.spacing is None),
        )

    def _measure(self, study: Study, settings: Settings) -> tuple[str, str]:
        cut = study.shown.cut(settings)
        layers = views.draw_layers(cut, study.shown.truth, settings.name)
        return layers, views.draw_report(study, cut, settings, self.network.origin)

    # --------------------------------------------------------------------------------------------------- to take away

    def saver(self, kind: str) -> Callable:
        """The listener of a button that saves: `kind` is one of `downloads.SAVERS`, or "everything"."""
        write = downloads.SAVERS.get(kind, downloads.save_everything)

        @one_sentence()
        def save(
            mark: dict,
            threshold: float,
            min_area: int,
            spacing: float | None,
            style: str,
            color: str,
            opacity: float,
            page: gr.Request,
        ) -> str:
            study, settings = (
                self._study(mark_of(mark), page.session_hash),
                Settings.given(threshold, min_area, spacing),
            )
            return write(study, settings, Look(style, color, opacity), self.network.origin)

        return save

    def _study(self, mark: Mark, page: str | None) -> Study:
        self._recall(mark, page)
        study = self.sessions.get(page).study
        if study is None:
            raise refusal(NOTHING_SHOWN)
        return study

    # ------------------------------------------------------------------------------------------------- the endpoints

    @one_sentence()
    @in_one_line_each
    def segment(
        self,
        image: dict,
        spacing: float | None = 0,
        threshold: float = DEFAULT_THRESHOLD,
        min_area_px: int = 0,
    ) -> tuple:
        """Find brain tumours in one MRI slice and measure them. Not a medical device: for research and education.

        Args:
            image: the slice, T1-weighted with contrast: a PNG, JPEG, WebP, TIFF, BMP, JPEG 2000, AVIF or .npy file of
                at least 16 px a side, which is scaled down if it has over 4096; or a scan of one slice as NIfTI, DICOM,
                MetaImage, NRRD, FreeSurfer or Analyze. Volumes, archives and files of several pages are for
                /segment_batch.
            spacing: size of a pixel of the file in mm, 0.01 to 100, for measurements in mm; 0 if it is not known. What
                a scan says itself counts first.
            threshold: pixels above this tumour probability, 0 to 1, make up the mask.
            min_area_px: pieces of the mask with fewer pixels are hidden; with 0 all of them stay, and those that are
                large enough for a lesion are listed.

        Returns:
            The slice with the tumour in colour; the measurements, with the "warnings" that the page shows; the mask as
            0 and 255. Both pictures are PNG files of the size that was read.
        """
        settings = Settings.given(threshold, min_area_px, spacing)
        segmentation, whole = segment_slice(uploaded(image), self.network)
        cut = settings.cut(segmentation)
        # As files of their own: Gradio gives equal pictures one file, and writes it again while somebody else reads it.
        overlay = downloads.write("overlay.png", encode_png(cut.overlay()))
        return overlay, measurements(cut, whole), downloads.write("mask.png", encode_png(cut.mask))

    @one_sentence()
    @in_one_line_each
    def segment_batch(
        self,
        files: list,
        spacing: float | None = 0,
        threshold: float = DEFAULT_THRESHOLD,
        min_area_px: int = 0,
    ) -> tuple:
        """Find brain tumours in many MRI slices. Not a medical device: for research and education.

        Args:
            files: slices as for /segment, archives (ZIP, tar) of them, or TIFF files of several pages; or a volume: a
                file, a DICOM series, or an archive of it.
            spacing: size of a pixel in mm, 0.01 to 100, the same for all slices; 0 if it is not known. A volume's own
                counts first.
            threshold: pixels above this tumour probability, 0 to 1, make up the masks.
            min_area_px: pieces of a mask with fewer pixels are hidden; with 0 all of them stay, and those that are
                large enough for a lesion are listed.

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
