"""Many slices → masks, overlays and a table, while the network never waits for files.

    find_slices → Shard.take → Journal.waiting → segment_files → Journal.add, Journal.close

`segment_files` is a pipeline that holds three batches at most, one in each of its parts:

    read and decode            network                   measure, draw, encode, write
    (threads, a batch ahead) → (the calling thread)    → (threads, a batch behind)    → Outcome
"""

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .files import short_names, write_atomically
from .image_processing_unet import IMAGE_SUFFIXES, printable, read_image
from .journal import Journal, Outcome, identify_file, identify_results, result_paths
from .overlay import DEFAULT_ALPHA, DEFAULT_COLOR, check_alpha, parse_color
from .pictures import encode_png
from .segmentation import DEFAULT_THRESHOLD, Segmentation, check_spacing, check_threshold
from .segmenter import TumorSegmenter


DEFAULT_BATCH_SIZE = 8
# Decoders and encoders release Python's lock; with more threads than this, they would wait for it.
THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Options:
    """What the results of a slice depend on besides the weights; the names are those of `Segmentation`.

    Raises:
        ValueError: a value is out of range.
    """

    threshold: float = DEFAULT_THRESHOLD
    spacing: tuple[float, float] | None = None
    style: str = "fill"
    color: str | tuple[int, int, int] = DEFAULT_COLOR
    alpha: float = DEFAULT_ALPHA

    def __post_init__(self):
        check_threshold(self.threshold)
        check_spacing(self.spacing)
        check_alpha(self.alpha)
        parse_color(self.color)


# --------------------------------------------------------------------------------------------------------------- slices


def find_slices(paths: list[Path], out: Path) -> dict[str, Path]:
    """Find the slices and the place of each one's results.

    The places repeat the folders below the deepest folder that all paths share, so that equal names from different
    folders stay apart. They leave the suffix out, unless two slices differ in nothing else. A folder that cannot be
    searched stands among the slices, where it fails with the reason.

    Args:
        paths: files, taken whatever their suffix is, and folders, searched for `IMAGE_SUFFIXES`; hidden files, and
            results of an earlier run in `out`, are passed over.
        out: folder for the results.

    Returns:
        Place relative to `out`, with forward slashes → slice. The place of a folder ends in a slash.

    Raises:
        OSError: a path does not exist.
        ValueError: there is no slice, or results would overwrite a slice.
    """
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path}: there is no such file or folder.")
    roots = [path if path.is_dir() else path.parent for path in paths]
    shared = os.path.commonpath([root.resolve() for root in roots])
    slices: dict[Path, Path] = {}
    unsearched: dict[str, Path] = {}
    for path, root in zip(paths, roots, strict=True):
        folder = root.resolve().relative_to(shared)
        files, folders = _search(path, out) if path.is_dir() else ([path], [])
        slices |= {folder / file.relative_to(root): file for file in files}
        unsearched |= {f"{(folder / below.relative_to(root)).as_posix()}/": below for below in folders}
    if not (slices or unsearched):
        raise ValueError(f"no slices in {', '.join(map(str, paths))}; looked for {', '.join(IMAGE_SUFFIXES)}.")

    stems = {short_names(place.with_suffix("").as_posix()): file for place, file in slices.items()}
    # Lower case, because many file systems take "A.png" and "a.png" for the same file.
    if len({stem.lower() for stem in stems}) < len(slices):
        stems = {short_names(place.as_posix()): file for place, file in slices.items()}
    _refuse_overwriting(stems, out)
    return {**stems, **unsearched}


def _search(folder: Path, out: Path) -> tuple[list[Path], list[Path]]:
    """The slices below a folder, and the folders that could not be searched for more."""
    results = out.resolve()
    results_inside = folder.resolve() in results.parents
    files: list[Path] = []
    unsearched: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=lambda error: unsearched.append(Path(error.filename))):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in (Path(place, name) for name in names if not name.startswith(".")):
            earlier_result = results_inside and results in file.resolve().parents
            if file.suffix.lower() in IMAGE_SUFFIXES and _may_be_file(file) and not earlier_result:
                files.append(file)
    return sorted(files), sorted(unsearched)


def _may_be_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # which reading it will say
        return True


def _refuse_overwriting(slices: dict[str, Path], out: Path):
    inputs = {file.resolve() for file in slices.values()}
    for place in slices:
        for result in result_paths(out, place):
            if result.exists() and result.resolve() in inputs:
                raise ValueError(f"the results would overwrite the slice {result}; name another folder with --out.")


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

    def take(self, slices: dict[str, Path], batch_size: int) -> dict[str, Path]:
        """Every `count`-th batch: each batch has the same slices however many shards there are."""
        return {
            place: file
            for index, (place, file) in enumerate(slices.items())
            if index // batch_size % self.count == self.number - 1
        }


# ------------------------------------------------------------------------------------------------------------- pipeline


@dataclass
class _Job:
    """One slice on its way through the pipeline; if anything goes wrong with it, `error` says what."""

    place: str
    file: Path
    source: list | None = None
    image: np.ndarray | None = None
    segmentation: Segmentation | None = None
    seconds: float = 0.0
    error: Exception | None = None


def segment_files(
    slices: dict[str, Path],
    record: Callable[[Outcome], None],
    *,
    segmenter: TumorSegmenter,
    out: Path,
    options: Options,
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> Generator[Outcome, None, None]:
    """Segment slices and write the mask and the overlay of each; a slice that fails never stops another.

    Args:
        slices: place of the results → file.
        record: called with every outcome as soon as the results are written, from one of several threads.
        segmenter: runs in the calling thread.
        out: folder of the results.
        options: threshold, overlay and spacing.
        batch_size: how many slices go through the network together, at least 1.

    Returns:
        An iterator over one outcome per slice, in their order.
    """

    def finish(job: _Job) -> Outcome:
        outcome = _finish(job, out, options)
        record(outcome)
        return outcome

    jobs = (_Job(place, file) for place, file in slices.items())
    with ThreadPoolExecutor(THREADS) as pool:
        read = _ahead(pool, _read, jobs, batch_size)
        batches = iter(lambda: list(islice(read, batch_size)), [])
        segmented = (job for batch in batches for job in _segment(segmenter, batch, options.spacing))
        yield from _ahead(pool, finish, segmented, batch_size)


def _ahead(pool: ThreadPoolExecutor, function: Callable, items: Iterable, count: int) -> Iterator:
    """The results of a function in the order of its items, of which it is given at most `count` in advance."""
    futures: deque[Future] = deque()
    for item in items:
        futures.append(pool.submit(function, item))
        if len(futures) > count:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def _read(job: _Job) -> _Job:
    start = time.perf_counter()
    try:
        job.source = identify_file(job.file)
        if job.file.is_dir():
            os.scandir(job.file).close()  # says again why the folder could not be searched
        job.image = read_image(job.file)
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
    segmentations = list(segmenter.batch([job.image for job in jobs], max(len(jobs), 1), spacing))
    for job, segmentation in zip(jobs, segmentations, strict=True):
        job.segmentation, job.image = segmentation, None
        job.seconds += (time.perf_counter() - start) / len(jobs)


def _finish(job: _Job, out: Path, options: Options) -> Outcome:
    try:
        if job.segmentation is None:
            raise job.error or RuntimeError("the network has not seen this slice")
        segmentation = job.segmentation.at_threshold(options.threshold)
        mask_path, overlay_path = result_paths(out, job.place)
        for sentence in segmentation.warnings:
            tqdm.write(printable(f"{job.place}: {sentence}"), file=sys.stderr)
        write_atomically(mask_path, encode_png(segmentation.mask))
        write_atomically(overlay_path, encode_png(segmentation.overlay(options.color, options.alpha, options.style)))
        row = {**summarize(segmentation), "seconds": round(job.seconds, 3)}
        return Outcome(job.place, row, job.source, identify_results(out, job.place))
    # An error in one file must not stop the others.
    except Exception as error:
        return Outcome(job.place, {"error": one_line(error)})


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
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def one_line(error: Exception) -> str:
    """The message of an error in one line."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return printable(f"{error.filename}: {error.strerror}.")
    # The messages of these errors explain themselves; any other is shown with its type.
    kind = "" if isinstance(error, (ImportError, OSError, ValueError)) else f"{type(error).__name__}: "
    return kind + printable(" ".join(str(error).split()))


# -------------------------------------------------------------------------------------------------------------- the run


def predict(
    segment: Callable[[dict[str, Path], Callable[[Outcome], None]], Generator[Outcome, None, None]], journal: Journal
) -> int:
    """Segment every slice of a journal that is not done yet; the table comes last, even when interrupted.

    Args:
        segment: `segment_files` with all but its first two arguments given, or `segment_files_on_ray` likewise.
        journal: the slices that are done; new outcomes are added, and it is closed at the end.

    Returns:
        0, or 1 if any slice failed.

    Raises:
        OSError: the journal or the table cannot be written.
    """
    slices, waiting = journal.slices, journal.waiting
    kept = len(slices) - len(waiting)
    try:
        with closing(segment(waiting, journal.add)) as outcomes:
            for outcome in tqdm(outcomes, total=len(slices), initial=kept, unit="slice", disable=None):
                if outcome.error:
                    file = slices[outcome.place]
                    sentence = outcome.error.removeprefix(f"{printable(file.name)}: ")
                    tqdm.write(f"{printable(str(file))}: {sentence}", file=sys.stderr)
    finally:
        journal.close()
    rows = [outcome.row for outcome in journal.outcomes.values()]
    failed = sum("error" in row for row in rows)
    found = sum(row.get("tumor_found", False) for row in rows)
    from_before = f" ({kept} kept from before)" if kept else ""
    out = printable(str(journal.out))
    print(f"slices: {len(rows)}{from_before}, tumour found: {found}, failed: {failed}; results in {out}")
    return 1 if failed else 0
