"""Files that visitors send → their slices → network → `Study`."""

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np

from modeling_unet import InvalidImageError, read_image
from modeling_unet.image_processing_unet import MAX_FILE_BYTES, open_picture
from modeling_unet.segmentation import Segmentation
from modeling_unet.volumes import Volume, is_volume, read_volume
from modeling_unet.volumes.archives import MIB, Member, is_archive, members
from modeling_unet.volumes.volume import MAX_FILES as MAX_PATHS

from .network import BATCH_SIZE, Network
from .studies import Refusal, Settings, Slice, Study, in_half_precision


# What visitors can cost the server is bounded: by the sides of a slice, and by files and pixels together. All of it is
# known from the headers, before anything is decoded; volumes have the limits of modeling_unet/volumes/scan.py.
MAX_SIDE = 4096
MAX_FILES = 500
MAX_ARCHIVES = 16
MAX_PIXELS = 64_000_000
MAX_BATCH_PIXELS = BATCH_SIZE * 512 * 512
# Of the processor, for all slices of a request: some times what honest ones need that are as many as is allowed.
MAX_READING_SECONDS = 8

MAX_NAME_BYTES = 200  # of a file or folder to take away; file systems allow 255, and endings such as "_mask.png" follow
VOLUME_SUFFIXES = (".nii", ".nii.gz", ".dcm")

T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """A slice that waits to be read.

    Attributes:
        name: of the file, with the folder that it lies in if it comes from an archive.
        pixels: how many there are, by its header; 0 if that cannot be read.
        read: returns its pixels, or raises a ValueError that says what is wrong with the file.
    """

    name: str
    pixels: int
    read: Callable[[], np.ndarray]


def open_files(paths: list[Path]) -> tuple[list[Source], Volume | None]:
    """Look into files, and into archives, and say what is in them.

    Args:
        paths: slices, ZIPs of slices, or the one NIfTI file, DICOM series or ZIP of a volume.

    Returns:
        The slices, and the volume if they are those of one.

    Raises:
        ArchiveError, VolumeError: an archive or a volume cannot be used.
        InvalidImageError: too many files, too many pixels, or too much work.
    """
    if len(paths) > MAX_PATHS:
        raise InvalidImageError(f"These are {len(paths):,} files; the page takes up to {MAX_PATHS:,} at a time.")
    # An archive stays open as long as its files are wanted: one that is given twice is opened once.
    archives = [path for path in dict.fromkeys(paths) if is_archive(path)]
    if len(archives) > MAX_ARCHIVES:
        raise InvalidImageError(f"These are {len(archives)} archives; the page takes up to {MAX_ARCHIVES} at a time.")
    unpacked = {path: members(path) for path in archives}
    files = [file for path in paths for file in unpacked.get(path, [path])]
    if is_volume(files):
        volume = read_volume(files)
        slices = enumerate(volume.slices, 1)
        return [Source(f"slice-{number:03}", pixels.size, pixels.copy) for number, pixels in slices], volume
    if len(files) > MAX_FILES:
        raise InvalidImageError(f"These are {len(files):,} files; the page takes up to {MAX_FILES} at a time.")
    effort = Effort(MAX_READING_SECONDS)
    sizes = [effort(partial(_size, file)) for file in files]
    sources = [
        Source(file.name, int(np.prod(size)), partial(effort, partial(read_slice, file, size)))
        for file, size in zip(files, sizes, strict=True)
    ]
    if (pixels := sum(source.pixels for source in sources)) > MAX_PIXELS:
        raise InvalidImageError(f"The slices have {pixels:,} pixels together; the page takes up to {MAX_PIXELS:,}.")
    return sources, None


def segment_files(paths: list[Path], network: Network, report: Callable[[int, int], None] | None = None) -> Study:
    """Read and segment files, a batch at a time.

    Args:
        paths: as in `open_files`.
        network: for the segmentations.
        report: is called with the number of slices done and of all, as it goes on.

    Returns:
        All slices that can be used, and what is wrong with the others; of a volume, the slice with most tumour in
        front.

    Raises:
        ValueError: as `open_files`; or not one slice can be used.
    """
    started = time.perf_counter()
    sources, volume = open_files(paths)
    spacing = volume.spacing if volume else None
    slices, refused = [], []
    for batch in _batches(sources):
        done = len(slices) + len(refused)
        if report:
            report(done, len(sources))
        readable = _read_all(batch, done, refused)
        if readable:
            segmentations = network([image for _, image in readable], spacing, "none" if volume else "auto")
            if volume:
                segmentations = map(in_half_precision, segmentations)
            slices += [_slice(source, part) for (source, _), part in zip(readable, segmentations, strict=True)]
    if not slices:
        raise InvalidImageError(refused[0].sentence)
    seconds = time.perf_counter() - started
    timing = f"{seconds:.1f} s on {network.place}" if seconds >= 1 else f"{1000 * seconds:.0f} ms on {network.place}"
    study = Study(_name(paths, volume), _with_names_that_differ(slices), timing, refused=tuple(refused))
    if volume is None:
        return study
    # Of the volume only its geometry is needed from now on.
    volume = replace(volume, slices=np.broadcast_to(np.float32(0), volume.slices.shape))
    areas = [area for area, _ in study.extents(Settings())]
    return replace(study, volume=volume, index=int(np.argmax(areas)))


def read_slice(file: Path | Member, size: tuple[int, int] | None = None) -> np.ndarray:
    """The pixels of a slice, which may not be larger than the page takes; see `read_image`.

    Args:
        file: on disk or in an archive.
        size: as `_size` tells it, where it has been asked already.
    """
    name = PurePosixPath(file.name).name
    width, height = size = size or _size(file)
    if max(size) > MAX_SIDE:
        raise InvalidImageError(
            f"{name}: the image is {width} × {height} pixels; the page takes up to {MAX_SIDE} × {MAX_SIDE}."
        )
    if not max(size) and name.lower().endswith(VOLUME_SUFFIXES):
        raise InvalidImageError(f"{name}: the file is not a NIfTI or DICOM file that can be read.")
    return read_image(_stream(file))


def _size(file: Path | Member) -> tuple[int, int]:
    """(width, height) by the header of a slice; (0, 0) if it cannot be read, which `read_slice` says in words."""
    try:
        with open_picture(_stream(file), file.name) as image:
            return image.size
    except ValueError:
        return 0, 0


def _stream(file: Path | Member) -> "Path | _NamedBytes":
    return file if isinstance(file, Path) else _NamedBytes(file)


def _batches(sources: list[Source]) -> Iterator[list[Source]]:
    """What goes through the network together; a slice that is too large for any company goes alone."""
    batch, pixels = [], 0
    for source in sources:
        if batch and (len(batch) == BATCH_SIZE or pixels + source.pixels > MAX_BATCH_PIXELS):
            yield batch
            batch, pixels = [], 0
        batch.append(source)
        pixels += source.pixels
    yield batch


def _read_all(sources: list[Source], done: int, refused: list[Refusal]) -> list[tuple[Source, np.ndarray]]:
    """Read what can be read, after so many sources that are done; what cannot is added to `refused`."""
    readable = []
    for place, source in enumerate(sources, done):
        try:
            readable.append((source, source.read()))
        except ValueError as error:
            refused.append(Refusal(place, source.name, str(error)))
    return readable


def _slice(source: Source, segmentation: Segmentation) -> Slice:
    """With a third of the memory where the picture is grey: its channels become one."""
    image = segmentation.image
    if (image == image[..., :1]).all():
        segmentation = replace(segmentation, image=np.broadcast_to(image[..., :1].copy(), image.shape))
    return Slice(source.name, _shortened(str(PurePosixPath(source.name).with_suffix(""))), segmentation)


def _shortened(name: str) -> str:
    """A name whose folders and file are short enough for every file system, which count bytes and not characters."""
    return "/".join(part.encode(errors="ignore")[:MAX_NAME_BYTES].decode(errors="ignore") for part in name.split("/"))


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


def _name(paths: list[Path], volume: Volume | None) -> str:
    """With which the names of saved archives begin; names of DICOM files are often those of persons."""
    name = paths[0].name
    if volume and not name.lower().endswith((".nii", ".nii.gz")):
        return "volume"
    return _shortened(name.split(".")[0]) if len(paths) == 1 else "slices"


class Effort:
    """Time of the processor that the files of one request may take; what comes after it is used up is refused."""

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


class _NamedBytes(io.BytesIO):
    """The bytes of a file in an archive; messages call it by its name."""

    def __init__(self, member: Member):
        if member.size > MAX_FILE_BYTES:
            raise InvalidImageError(
                f"{PurePosixPath(member.name).name}: the file takes {member.size / MIB:,.0f} MiB; the page takes up to "
                f"{MAX_FILE_BYTES // MIB} MiB."
            )
        super().__init__(member.read())
        self.name = member.name
