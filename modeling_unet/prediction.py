"""Many slices and volumes → masks, overlays and a table, while the network never waits for files.

    find_sources → Shard.take → Journal.waiting → segment_files → Journal.add, Journal.close

`segment_files` is a pipeline that holds three batches, or three volumes, at most, one in each of its parts:

    read and decode            network                   measure, draw, encode, write
    (threads, a batch ahead) → (the calling thread)    → (threads, a batch behind)    → Outcome
"""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from .files import write_atomically
from .image_processing_unet import Picture, printable
from .journal import Journal, Outcome, Source, identify_results
from .overlay import DEFAULT_ALPHA, DEFAULT_COLOR, check_alpha, class_colors, parse_color
from .pictures import encode_labels, encode_png, to_16_bit
from .segmentation import (
    DEFAULT_THRESHOLD,
    Segmentation,
    TumorClass,
    check_spacing,
    check_threshold,
)
from .segmenter import TumorSegmenter
from .sources import read_slice
from .volumes import Volume, VolumeSegmentation, read_volume, segment_volume
from .volumes.channels import read_channels
from .volumes.results import draw_montage, list_lesions, summarize_volume


T = TypeVar("T")

NO_DICOM = "--dicom_seg writes nothing for it, as it is no DICOM series."

DEFAULT_BATCH_SIZE = 8
# Decoders and encoders release Python's lock; with more threads than this, they would wait for it.
THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Options:
    """What results depend on besides the weights; the first names are those of `Segmentation`.

    Attributes:
        probability: whether the probabilities are written too.
        dicom_seg: whether masks of DICOM volumes are written as DICOM segmentations too.
        series: of volumes, which stack of slices is read; see `read_volume`.

    Raises:
        ValueError: a value is out of range.
    """

    threshold: float = DEFAULT_THRESHOLD
    spacing: tuple[float, float] | None = None
    style: str = "fill"
    color: str | tuple[int, int, int] = DEFAULT_COLOR
    alpha: float = DEFAULT_ALPHA
    probability: bool = False
    series: int | None = None
    dicom_seg: bool = False

    def __post_init__(self):
        check_threshold(self.threshold)
        check_spacing(self.spacing)
        check_alpha(self.alpha)
        parse_color(self.color)


@dataclass(frozen=True)
class Shard:
    """One part of the work, for one of `count` processes.

    Attributes:
        number: which one, 1 … `count`.
        count: how many there are.

    Raises:
        ValueError: the number is none of them.
    """

    number: int = 1
    count: int = 1

    def __post_init__(self):
        if not 1 <= self.number <= self.count:
            raise ValueError(f"shard is {self.number}/{self.count}; allowed are 1/N to N/N for N shards.")

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read "2/4"."""
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal()):
            raise ValueError(f"shard is {text!r}; allowed are 1/N to N/N for N shards.")
        return cls(int(number), int(count))

    @classmethod
    def from_environment(cls) -> "Shard":
        """The shard of a process that torchrun started, or everything."""
        if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
            return cls(int(os.environ["RANK"]) + 1, int(os.environ["WORLD_SIZE"]))
        return cls()

    @property
    def suffix(self) -> str:
        """Tells the files of this shard from those of the others; empty where there are no others."""
        return "" if self.count == 1 else f"-{self.number}-of-{self.count}"

    def take(self, sources: dict[str, T], batch_size: int) -> dict[str, T]:
        """Every `count`-th batch: each batch has the same slices however many shards there are."""
        return {
            place: source
            for index, (place, source) in enumerate(sources.items())
            if index // batch_size % self.count == self.number - 1
        }


@dataclass
class _Job:
    """One source on its way through the pipeline; if anything goes wrong with it, `error` says what."""

    place: str
    source: Source
    state: list | None = None
    content: Picture | np.ndarray | Volume | None = None
    segmentation: Segmentation | VolumeSegmentation | None = None
    seconds: float = 0.0
    error: Exception | None = None


def segment_files(
    sources: dict[str, Source],
    record: Callable[[Outcome], None],
    *,
    segmenter: TumorSegmenter,
    out: Path,
    options: Options,
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> Generator[Outcome, None, None]:
    """Segment slices, then volumes, and write the results of each; a source that fails never stops another.

    Args:
        sources: by the place of their results.
        record: called with every outcome as soon as the results are written, from one of several threads.
        segmenter: runs in the calling thread.
        out: folder of the results.
        options: threshold, overlay and so on.
        batch_size: how many slices go through the network together, at least 1.

    Returns:
        An iterator over one outcome per source: of slices, then of volumes, in their order.
    """

    def read(job: _Job) -> _Job:
        return _read(job, options.series, segmenter.channel_names)

    def finish(job: _Job) -> Outcome:
        outcome = _finish(job, out, options)
        record(outcome)
        return outcome

    jobs = [_Job(place, source) for place, source in sources.items()]
    with ThreadPoolExecutor(THREADS) as pool:
        slices = _ahead(pool, read, (job for job in jobs if not job.source.is_volume), batch_size)
        batches = iter(lambda: list(islice(slices, batch_size)), [])
        segmented = (job for batch in batches for job in _segment(segmenter, batch, options.spacing))
        yield from _ahead(pool, finish, segmented, batch_size)
        volumes = _ahead(pool, read, (job for job in jobs if job.source.is_volume), 1)
        segmented = (_segment_volume(segmenter, job, options.threshold, batch_size) for job in volumes)
        yield from _ahead(pool, finish, segmented, 1)


def _ahead(pool: ThreadPoolExecutor, function: Callable, items: Iterable, count: int) -> Iterator:
    """The results of a function in the order of its items, of which it is given at most `count` in advance."""
    futures: deque[Future] = deque()
    for item in items:
        futures.append(pool.submit(function, item))
        if len(futures) > count:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def _read(job: _Job, stack: int | None, channel_names: Sequence[str]) -> _Job:
    start, file = time.perf_counter(), job.source.files[0]
    try:
        job.state = job.source.identify()
        if job.source.missing:
            found = ", ".join(part.name for part in job.source.files)
            raise ValueError(f"There is no {', no '.join(job.source.missing)} of it, only {found}.")
        if job.source.is_volume and channel_names:
            job.content = read_channels(job.source.files, job.source.numbers)
        elif job.source.is_volume:
            job.content = read_volume(file if len(job.source.files) == 1 else [*job.source.files], stack)
        else:
            if file.is_dir():
                os.scandir(file).close()  # says again why the folder could not be searched
            job.content = read_slice(job.source, channel_names)
    except OSError as error:
        kind = "folder" if job.place.endswith("/") else "file"
        job.error = OSError(f"the {kind} cannot be read: {error.strerror}.")
    except Exception as error:
        job.error = error
    job.seconds = time.perf_counter() - start
    return job


def _segment(segmenter: TumorSegmenter, batch: list[_Job], spacing: tuple[float, float] | None) -> list[_Job]:
    readable = [job for job in batch if not job.error]
    try:
        _run_network(segmenter, readable, spacing)
    except Exception:
        # Either one slice cannot be processed, or all together need too much memory: try them one by one.
        for job in readable:
            try:
                _run_network(segmenter, [job], spacing)
            except Exception as error:
                job.error = error
    return batch


def _run_network(segmenter: TumorSegmenter, jobs: list[_Job], spacing: tuple[float, float] | None):
    start = time.perf_counter()
    segmentations = list(segmenter.batch([job.content for job in jobs], max(len(jobs), 1), spacing))
    for job, segmentation in zip(jobs, segmentations, strict=True):
        job.segmentation, job.content = segmentation, None
        job.seconds += (time.perf_counter() - start) / len(jobs)


def _segment_volume(segmenter: TumorSegmenter, job: _Job, threshold: float, batch_size: int) -> _Job:
    start, volume = time.perf_counter(), job.content
    job.content = None
    if isinstance(volume, Volume):
        try:
            with tqdm(unit="slice", leave=False, disable=None) as bar:

                def report(done: int, total: int):
                    bar.total = total
                    bar.update(done - bar.n)

                job.segmentation = segment_volume(
                    volume, segmenter, threshold=threshold, batch_size=batch_size, report=report
                )
        except Exception as error:
            job.error = error
    job.seconds += time.perf_counter() - start
    return job


def _finish(job: _Job, out: Path, options: Options) -> Outcome:
    try:
        if job.segmentation is None:
            raise job.error or RuntimeError("the network has not seen it")
        segmentation = job.segmentation.at_threshold(options.threshold)
        no_dicom = [NO_DICOM] * (options.dicom_seg and not _comes_from_dicom(segmentation))
        for sentence in (*segmentation.warnings, *no_dicom):
            tqdm.write(printable(f"{job.place}: {sentence}"), file=sys.stderr)
        if isinstance(segmentation, VolumeSegmentation):
            row, lesions = summarize_volume(segmentation), list_lesions(segmentation)
            results = _results_of_volume(segmentation, options)
        else:
            row, lesions = summarize(segmentation), []
            results = _results_of_slice(segmentation, options)
        row |= {"seconds": round(job.seconds, 3), **trust(segmentation)}
        names = []
        for suffix, content in results:
            names.append(f"{job.place}{suffix}")
            write_atomically(out / names[-1], content)
        return Outcome(job.place, row, job.state, identify_results(out, names), lesions)
    # An error in one file must not stop the others.
    except Exception as error:
        return Outcome(job.place, {"error": one_line(error)})


def _comes_from_dicom(segmentation: Segmentation | VolumeSegmentation) -> bool:
    return isinstance(segmentation, VolumeSegmentation) and bool(segmentation.volume.frames)


def _results_of_slice(segmentation: Segmentation, options: Options) -> Iterator[tuple[str, bytes]]:
    """What is written of a slice: how the name of each file goes on behind the place, and its content."""
    yield "_mask.png", encode_png(segmentation.mask)
    if segmentation.classes:
        colors = [parse_color(color) for color in class_colors(len(segmentation.classes))]
        yield "_labels.png", encode_labels(segmentation.labels, colors)
    for number, one in enumerate(segmentation.classes, start=1):
        yield f"_mask_{number}.png", encode_png(one.mask)
        if options.probability:
            yield f"_probability_{number}.png", encode_png(to_16_bit(one.probability))
    yield "_overlay.png", encode_png(segmentation.overlay(options.color, options.alpha, options.style))
    if options.probability:
        yield "_probability.png", encode_png(to_16_bit(segmentation.probability))


def _results_of_volume(segmentation: VolumeSegmentation, options: Options) -> Iterator[tuple[str, bytes]]:
    yield "_mask.nii.gz", segmentation.to_nifti()
    if segmentation.class_names:
        yield "_labels.nii.gz", segmentation.volume.to_nifti(segmentation.labels)
    for number, mask in enumerate(segmentation.class_masks.values(), start=1):
        yield f"_mask_{number}.nii.gz", segmentation.volume.to_nifti(mask)
    yield "_overlay.png", encode_png(draw_montage(segmentation, options.color, options.alpha, options.style))
    if options.probability:
        yield "_probability.nii.gz", segmentation.volume.to_nifti(segmentation.probability)
        if segmentation.class_probabilities is not None:
            for number, probability in enumerate(segmentation.class_probabilities, start=1):
                yield f"_probability_{number}.nii.gz", segmentation.volume.to_nifti(probability)
    if options.dicom_seg and _comes_from_dicom(segmentation):
        yield "_mask.dcm", segmentation.volume.to_dicom_seg(segmentation.mask)


def summarize(segmentation: Segmentation) -> dict:
    """The measurements of one slice as the table shows them; the diameters are the longest of all lesions."""
    return {
        "tumor_found": segmentation.tumor_found,
        "highest_probability": round(segmentation.highest_probability, 4),
        "lesions": len(segmentation.lesions),
        "area_px": segmentation.area_px,
        "area_percent": round(segmentation.area_percent, 3),
        "area_mm2": _rounded(segmentation.area_mm2),
        "longest_diameter_px": _rounded(segmentation.longest_diameter_px),
        "longest_diameter_mm": _rounded(segmentation.longest_diameter_mm),
        **{name: value for one in segmentation.classes for name, value in _summarize_class(one).items()},
    }


def _summarize_class(one: TumorClass) -> dict:
    """The columns of one of several classes; their names begin with that of the class."""
    return {
        f"{one.name}_lesions": len(one.lesions),
        f"{one.name}_area_px": one.area_px,
        f"{one.name}_area_mm2": _rounded(one.area_mm2),
    }


def trust(segmentation: Segmentation | VolumeSegmentation) -> dict:
    """What the table says of how far a slice or a volume is to be believed."""
    return {
        "familiarity": _rounded(segmentation.familiarity, 4),
        "warnings": " ".join(segmentation.warnings) or None,
    }


def _rounded(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(value, digits)


def one_line(error: Exception) -> str:
    """The message of an error in one line."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return printable(f"{error.filename}: {error.strerror}.")
    # The messages of these errors explain themselves; any other is shown with its type.
    kind = "" if isinstance(error, (ImportError, OSError, ValueError)) else f"{type(error).__name__}: "
    return kind + printable(" ".join(str(error).split()))


def predict(
    segment: Callable[[dict[str, Source], Callable[[Outcome], None]], Generator[Outcome, None, None]], journal: Journal
) -> int:
    """Segment every source of a journal that is not done yet; the table comes last, even when interrupted.

    Args:
        segment: `segment_files` with all but its first two arguments given, or `segment_files_on_ray` likewise.
        journal: the sources that are done; new outcomes are added, and it is closed at the end.

    Returns:
        0, or 1 if any source failed.

    Raises:
        OSError: the journal or a table cannot be written.
    """
    sources, waiting = journal.sources, journal.waiting
    kept = len(sources) - len(waiting)
    unit = "file" if any(source.is_volume for source in sources.values()) else "slice"
    try:
        with closing(segment(waiting, journal.add)) as outcomes:
            for outcome in tqdm(outcomes, total=len(sources), initial=kept, unit=unit, disable=None):
                if outcome.error:
                    path = sources[outcome.place].path
                    sentence = outcome.error.removeprefix(f"{printable(path.name)}: ")
                    tqdm.write(f"{printable(str(path))}: {sentence}", file=sys.stderr)
    finally:
        journal.close()
    rows = [outcome.row for outcome in journal.outcomes.values()]
    failed = sum("error" in row for row in rows)
    found = sum(row.get("tumor_found", False) for row in rows)
    volumes = sum(sources[place].is_volume for place in journal.outcomes)
    slices = len(rows) - volumes
    counted = [f"slices: {slices}"] * (slices > 0 or not volumes) + [f"volumes: {volumes}"] * (volumes > 0)
    from_before = f" ({kept} kept from before)" if kept else ""
    out = printable(str(journal.out))
    print(f"{', '.join(counted)}{from_before}, tumour found: {found}, failed: {failed}; results in {out}")
    return 1 if failed else 0
