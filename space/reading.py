"""Files that visitors send → their slices → network → `Study`."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np

from modeling_unet import InvalidImageError, Picture, read_picture
from modeling_unet.files import NamedBytes, short_names
from modeling_unet.image_processing_unet import MAX_FILE_BYTES, MIB, read_sizes, size_within
from modeling_unet.overlay import to_display
from modeling_unet.segmentation import Segmentation
from modeling_unet.volumes import Volume, VolumeSegmentation, read_volume, segment_volume
from modeling_unet.volumes.archives import ARCHIVE_SUFFIXES, ArchiveError, Member, members, starts_archive
from modeling_unet.volumes.volume import SNIFF_BYTES, VOLUME_SUFFIXES, kind_of

from .network import BATCH_SIZE, Network
from .studies import Refusal, Settings, Slice, Study, in_half_precision


# What visitors can cost the server is bounded: by the sides of a slice, and by files and pixels together. All of it is
# known from the headers, before anything is decoded; volumes have the limits of modeling_unet/volumes/scan.py.
MAX_SLICE_SIDE = 4096  # of what is kept of a larger one
MAX_PATHS = 4000  # what one request can name
MAX_FILES = 500
MAX_ARCHIVES = 16
MAX_ARCHIVE_BYTES = 512 * MIB  # of all of them, unpacked
MAX_PIXELS = 64_000_000
MAX_BYTES = 256 * MIB  # of pictures: as many pixels in colour, with transparency, and not packed at all
MAX_BATCH_PIXELS = BATCH_SIZE * 512 * 512
MAX_VIEWED_VOXELS = 128 * 512 * 512  # a browser holds them several times, in colour
VIEWED_PERCENTILE = 99.8  # of a volume; what is brighter is white
# Processor time for all slices of a request: a few times what the largest allowed number of normal files needs.
MAX_READING_SECONDS = 8

DICOM_SUFFIXES = (".dcm", ".dcm.gz", *ARCHIVE_SUFFIXES)

T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """A file that was opened, once.

    Attributes:
        file: on disk or in an archive.
        kind: "archive", or what `kind_of` says of a scan; None if it may be a picture.
        content: of what may be a picture, all its bytes.
        error: why there are none of these.
    """

    file: Path | Member
    kind: str | None
    content: bytes = field(default=b"", repr=False)
    error: ValueError | None = None

    def picture(self) -> NamedBytes:
        """The bytes as a file, which messages call by its name; or the error, raised."""
        if self.error:
            raise self.error
        return NamedBytes(self.content, self.file.name)


class Opener:
    """Says what files are, and keeps the bytes of those that may be pictures, up to `MAX_BYTES` of all of them."""

    def __init__(self):
        self._left = MAX_BYTES

    def __call__(self, file: Path | Member) -> Found:
        try:
            return Found(file, *self._open(file))
        except (ArchiveError, InvalidImageError) as error:
            return Found(file, None, error=error)

    def _open(self, file: Path | Member) -> tuple[str | None, bytes]:
        if isinstance(file, Path):
            with file.open("rb") as stream:
                head = stream.read(SNIFF_BYTES)
                kind = "archive" if starts_archive(head) else kind_of(head)
                # Of one that is too large, enough to see that it is.
                room = min(MAX_FILE_BYTES, self._left) + 1
                content = b"" if kind else head + stream.read(max(room - len(head), 0))
            self._take(file, len(content))
            return kind, content
        if kind := kind_of(file.read(SNIFF_BYTES)):
            return kind, b""
        if file.size > MAX_FILE_BYTES:
            raise InvalidImageError(
                f"{PurePosixPath(file.name).name}: the file takes {file.size / MIB:,.0f} MiB; the page takes up to "
                f"{MAX_FILE_BYTES // MIB} MiB."
            )
        self._take(file, file.size)
        return None, file.read()

    def _take(self, file: Path | Member, size: int):
        """Count bytes before they are unpacked: those of a damaged file cost as much."""
        if size > self._left:
            raise InvalidImageError(
                f"{PurePosixPath(file.name).name}: with this file the pictures take over {MAX_BYTES // MIB} MiB, which "
                "is all that the page takes at a time."
            )
        self._left -= size


@dataclass(frozen=True)
class Source:
    """A slice that has not been read yet.

    Attributes:
        name: of the file, with the folder that it lies in if it comes from an archive, and its page of several.
        pixels: how many will be read, by its header; 0 if that cannot be said.
        read: returns them, or raises a ValueError that says what is wrong with the file.
    """

    name: str
    pixels: int
    read: Callable[[], Picture]


def open_files(paths: list[Path], stack: int | None = None) -> tuple[list[Source], Volume | None]:
    """Look into files, and into archives, and say what is in them.

    Args:
        paths: slices, archives of slices, or the one file, DICOM series or archive of a volume.
        stack: of a volume, as in `read_volume`.

    Returns:
        The slices; or none, and the volume.

    Raises:
        ArchiveError, VolumeError: an archive or a volume cannot be used.
        InvalidImageError: too many files, too many pixels, or too much work.
    """
    if len(paths) > MAX_PATHS:
        raise InvalidImageError(f"These are {len(paths):,} files; the page takes up to {MAX_PATHS:,} at a time.")
    opener = Opener()
    opened = {path: [opener(path)] for path in dict.fromkeys(paths)}
    # An archive stays open as long as its files are wanted: one that is given twice is opened once.
    archives = [path for path, (found,) in opened.items() if found.kind == "archive"]
    if len(archives) > MAX_ARCHIVES:
        raise InvalidImageError(f"These are {len(archives)} archives; the page takes up to {MAX_ARCHIVES} at a time.")
    left = MAX_ARCHIVE_BYTES
    for path in archives:
        found = members(path, max_total_bytes=left)
        left -= sum(member.size for member in found)
        opened[path] = [opener(member) for member in found]
    files = [found for path in paths for found in opened[path]]
    if any(found.kind for found in files):
        return [], read_volume([found.file for found in files], stack)
    if len(files) > MAX_FILES:
        raise InvalidImageError(f"These are {len(files):,} files; the page takes up to {MAX_FILES} at a time.")
    effort = Effort(MAX_READING_SECONDS)
    sources = [source for found in files for source in _sources_in(found, effort)]
    if len(sources) > MAX_FILES:
        raise InvalidImageError(f"These are {len(sources):,} slices; the page takes up to {MAX_FILES} at a time.")
    if (pixels := sum(source.pixels for source in sources)) > MAX_PIXELS:
        raise InvalidImageError(f"The slices have {pixels:,} pixels together; the page takes up to {MAX_PIXELS:,}.")
    return sources, None


def segment_files(
    paths: list[Path],
    network: Network,
    report: Callable[[int, int], None] | None = None,
    stack: int | None = None,
) -> Study:
    """Read and segment files, a batch at a time.

    Args:
        paths: as in `open_files`.
        network: for the segmentations.
        report: is called with the number of slices done and of all, as it goes on.
        stack: as in `open_files`.

    Returns:
        All slices that can be used, and what is wrong with the others; of a volume, the slice with most tumour in
        front.

    Raises:
        ValueError: as `open_files`; or not one slice can be used.
    """
    started = time.perf_counter()
    sources, volume = open_files(paths, stack)
    if volume:
        whole, parts = segment_slices_of(volume, network, report)
        # Names of DICOM files are left out: they often name persons.
        named = tuple(suffix for suffix in VOLUME_SUFFIXES if suffix not in DICOM_SUFFIXES)
        called = _name(paths) if paths[0].name.lower().endswith(named) else "volume"
        names = [f"slice-{number:03}" for number in range(1, len(parts) + 1)]
        slices = tuple(Slice(name, name, part) for name, part in zip(names, parts, strict=True))
        study = Study(
            called,
            slices,
            _timing(started, network),
            whole=whole,
            paths=tuple(paths),
            voxels=in_eight_bits(volume.slices) if volume.slices.size <= MAX_VIEWED_VOXELS else None,
        )
        return replace(study, index=first_shown([area for area, _ in study.extents(Settings())]))
    found: list[Slice] = []
    refused: list[Refusal] = []
    for batch in _batches(sources):
        done = len(found) + len(refused)
        if report:
            report(done, len(sources))
        readable = _read_all(batch, done, refused)
        if readable:
            segmentations = network([image for _, image in readable])
            found += [_slice(source, part) for (source, _), part in zip(readable, segmentations, strict=True)]
    if not found:
        raise InvalidImageError(refused[0].sentence)
    return Study(_name(paths), _with_names_that_differ(found), _timing(started, network), refused=tuple(refused))


def first_shown(areas: list[int]) -> int:
    """The slice with which the page opens a volume: that of the largest area; without a tumour, the middle one."""
    return int(np.argmax(areas)) if any(areas) else len(areas) // 2


def segment_slices_of(
    volume: Volume, network: Network, report: Callable[[int, int], None] | None = None
) -> tuple[VolumeSegmentation, list[Segmentation]]:
    """What is known of a volume, in half precision and without its voxels; and the same of its slices, one by one."""
    whole = segment_volume(volume, network, batch_size=BATCH_SIZE, report=report)
    probability = np.stack([in_half_precision(part) for part in whole.probability])
    own: list[dict[str, Any]] = [{}] * len(probability)
    if whole.class_probabilities is not None:
        of_classes = np.stack([in_half_precision(part) for part in whole.class_probabilities])
        whole = replace(whole, class_probabilities=of_classes)
        said = {"class_names": whole.class_names, "classes_overlap": whole.classes_overlap}
        own = [{**said, "class_probabilities": of_classes[:, number]} for number in range(len(probability))]
    parts = [
        Segmentation(_grey_once(to_display(image)), part, spacing=volume.spacing, **classes)
        for image, part, classes in zip(volume.slices, probability, own, strict=True)
    ]
    # Of the volume only its geometry is needed from now on.
    geometry = replace(volume, slices=np.broadcast_to(np.float32(0), volume.slices.shape))
    return replace(whole, volume=geometry, probability=probability), parts


def in_eight_bits(slices: np.ndarray) -> np.ndarray:
    """All slices of a volume by one window, which is no slice's own: float32 [N, H, W] → uint8."""
    # Of a large volume, every fourth voxel tells the window as well as all of them.
    low, high = np.percentile(slices[:, ::2, ::2], (0, VIEWED_PERCENTILE))
    scale = 255 / (high - low) if high > low else 0
    return np.stack([np.clip((image - low) * scale + 0.5, 0, 255).astype(np.uint8) for image in slices])


def segment_slice(file: Path, network: Network) -> tuple[Segmentation, VolumeSegmentation | None]:
    """Segment one slice; and what is known of the volume that it is the only slice of, if it came as NIfTI or DICOM.

    Raises:
        VolumeError: the volume cannot be used.
        InvalidImageError: as `read_image`; or larger than the page takes, or several slices.
    """
    found = Opener()(file)
    if found.kind == "archive":
        raise InvalidImageError(f"{file.name}: /segment takes one slice; /segment_batch takes archives.")
    if found.kind is None:
        if (count := len(_sizes(found))) > 1:
            raise InvalidImageError(f"{file.name}: these are {count} pages; /segment takes one, /segment_batch all.")
        (segmentation,) = network([_read_picture(found)])
        return segmentation, None
    volume = read_volume([file])
    if (count := len(volume.slices)) > 1:
        raise InvalidImageError(f"{file.name}: these are {count} slices; /segment takes one, /segment_batch all.")
    whole, (segmentation,) = segment_slices_of(volume, network)
    return segmentation, whole


def _sources_in(found: Found, effort: "Effort") -> Iterator[Source]:
    """The slice in a picture's file, or those on all of its pages."""
    sizes, name = effort(partial(_sizes, found)), PurePosixPath(found.file.name)
    for page, size in enumerate(sizes):
        of_page = name.with_stem(f"{name.stem}_page-{page + 1}") if len(sizes) > 1 else found.file.name
        pixels = int(np.prod(size_within(size, MAX_SLICE_SIDE)))
        yield Source(str(of_page), pixels, partial(effort, partial(_read_picture, found, page)))
    if not sizes:
        yield Source(found.file.name, 0, partial(effort, partial(_read_picture, found)))


def _read_picture(found: Found, page: int | None = None) -> Picture:
    name = PurePosixPath(found.file.name).name
    if found.content and name.lower().endswith(VOLUME_SUFFIXES) and not _sizes(found):
        raise InvalidImageError(f"{name}: the file is no scan that can be read.")
    return read_picture(found.picture(), MAX_SLICE_SIDE, page)


def _sizes(found: Found) -> list[tuple[int, int]]:
    """(width, height) of all pages by the header; none if it cannot be read, which `_read_picture` says in words."""
    try:
        return read_sizes(found.picture())
    except ValueError:
        return []


def _batches(sources: list[Source]) -> Iterator[list[Source]]:
    """Sources that go through the network together; a very large slice goes alone."""
    batch: list[Source] = []
    pixels = 0
    for source in sources:
        if batch and (len(batch) == BATCH_SIZE or pixels + source.pixels > MAX_BATCH_PIXELS):
            yield batch
            batch, pixels = [], 0
        batch.append(source)
        pixels += source.pixels
    yield batch


def _read_all(sources: list[Source], done: int, refused: list[Refusal]) -> list[tuple[Source, Picture]]:
    """Read a batch of sources, after `done` others; those that cannot be read are added to `refused`."""
    readable = []
    for place, source in enumerate(sources, done):
        try:
            readable.append((source, source.read()))
        except ValueError as error:
            refused.append(Refusal(place, source.name, str(error)))
    return readable


def _slice(source: Source, segmentation: Segmentation) -> Slice:
    segmentation = replace(segmentation, image=_grey_once(segmentation.image))
    return Slice(source.name, _shortened(str(PurePosixPath(source.name).with_suffix(""))), segmentation)


def _grey_once(image: np.ndarray) -> np.ndarray:
    """The same picture in a third of the memory where it is grey: its channels become one."""
    return np.broadcast_to(image[..., :1].copy(), image.shape) if (image == image[..., :1]).all() else image


def _timing(started: float, network: Network) -> str:
    seconds = time.perf_counter() - started
    return f"{seconds:.1f} s on {network.place}" if seconds >= 1 else f"{1000 * seconds:.0f} ms on {network.place}"


def _shortened(name: str) -> str:
    """A name whose folders and file are short enough for every file system, and valid Unicode."""
    return short_names(name.encode(errors="ignore").decode())


def _with_names_that_differ(slices: list[Slice]) -> tuple[Slice, ...]:
    """Files of one name, from different folders or of different types, must not overwrite each other when saved."""
    taken, renamed = set(), []
    for part in slices:
        name, number = part.name, 1
        while name.casefold() in taken:
            number += 1
            name = f"{part.name}-{number}"
        taken.add(name.casefold())
        renamed.append(replace(part, name=name))
    return tuple(renamed)


def _name(paths: list[Path]) -> str:
    """The beginning of the names of saved archives."""
    return _shortened(paths[0].name.split(".")[0]) if len(paths) == 1 else "slices"


class Effort:
    """Processor time that the files of one request may take; when it is used up, the other files are refused."""

    def __init__(self, seconds: float):
        self.seconds = self._left = seconds

    def __call__(self, read: Callable[[], T]) -> T:
        """What `read` returns; an `InvalidImageError` if there is no time left for it."""
        if self._left < 0:
            raise InvalidImageError(
                f"These files take too long to read: the page spends up to {self.seconds} s of its processor on them."
            )
        started = time.thread_time()
        try:
            return read()
        finally:
            self._left -= time.thread_time() - started
