"""The interface of all sources of a data set: their slices, unchanged, and what is wrong with each."""

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import cv2
import numpy as np

from modeling_unet.image_processing_unet import IMAGE_SUFFIXES, read_image


SHOWN = 5  # names in a message
DETAIL_COLUMNS = ("person_id", "tumor_type", "plane", "split")
# Words for splits in data sets → our names.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("example", "examples"), "example"),
}


class DataError(ValueError):
    """A data set that cannot be trained on; the message names the files and says what is expected."""


class HalfLayoutError(DataError):
    """A folder that could be laid out in some way if it held more; another layout may fit it as a whole."""


class Picture(TypedDict):
    """An encoded picture, as a cell of a `datasets.Image(decode=False)` column: a path alone, or bytes and a name."""

    path: str | None
    bytes: bytes | None


@dataclass(frozen=True)
class RawSlice:
    """A slice as its source gives it; "" stands for what the source does not say.

    `split` is one of `SPLITS`' values, or another word of the source, which `folds.assign_persons` refuses.
    `problem` is a sentence that names the file; `problem_kind` is "unpaired", "repeated stem" or "unreadable". Where
    there is none, `image` is there, and `mask` too unless `Reading.missing_mask` says that none means no tumour.
    `volume` is the name of the volume that it was cut from, `spacing` the size of a pixel in mm as (row, column).
    """

    slice: str
    image: Picture | None
    mask: Picture | None
    person_id: str = ""
    tumor_type: str = ""
    plane: str = ""
    split: str = ""
    problem_kind: str = ""
    problem: str = ""
    volume: str = ""
    spacing: tuple[float, float] | None = None


@dataclass(frozen=True)
class Reading:
    """What a source cannot know of itself; see the options of `slices.ReadingArguments`, whose names these are."""

    planes: tuple[str, ...] = ()
    sequence: str | None = None
    sequences: tuple[str, ...] = ()
    person_column: str | None = None
    missing_mask: str = "refuse"

    @property
    def takes_missing_masks(self) -> bool:
        return self.missing_mask == "empty"


class Source:
    """Slices in a fixed order, read again in every iteration; the object is small and can be pickled.

    It is read part by part: a part is one slice, or one volume that is cut into many. A class that derives from it
    gives its `parts`, `stamp` and `facts`, and `read` where a part is not yet a `RawSlice`.
    """

    @property
    def unit(self) -> str:
        """What a part is."""
        return "slice"

    @property
    def heeds(self) -> frozenset[str]:
        """Of `planes`, `sequence`, `sequences` and `person_column`, what it can use."""
        return frozenset()

    def __len__(self) -> int:
        """Number of parts."""
        return sum(1 for _ in self.parts())

    def __iter__(self) -> Iterator[RawSlice]:
        return self.slices(self.parts())

    def slices(self, parts: Iterable[Any]) -> Iterator[RawSlice]:
        """The slices of some parts; one whose name another one had before comes with that problem."""
        names: set[str] = set()
        for raw in (raw for part in parts for raw in self.read(part)):
            if raw.slice in names and not raw.problem:
                problem = f"Several slices have the name {raw.slice}; each needs one of its own."
                raw = replace(raw, problem_kind="repeated stem", problem=problem)
            names.add(raw.slice)
            yield raw

    def parts(self) -> Iterator[Any]:
        raise NotImplementedError

    def read(self, part: Any) -> Iterable[RawSlice]:
        return (part,)

    def stamp(self) -> object:
        """What changes whenever the content may have: paths, sizes and times of the files, or a fingerprint."""
        raise NotImplementedError

    def facts(self) -> dict[str, str]:
        """What was found, for the table that is shown before anything is read: `layout` first."""
        raise NotImplementedError

    def verify(self) -> None:
        """Warn of files that differ from those that were published; it reads them all."""


def as_file(picture: Picture) -> Path | io.BytesIO:
    """What `read_image`, `read_mask` and `TumorSegmenter` take: the path, or the bytes as a file with a name."""
    if picture["bytes"] is None:
        assert picture["path"] is not None  # it has one or the other
        return Path(picture["path"])
    file = io.BytesIO(picture["bytes"])
    file.name = picture["path"]
    return file


def joined(name: str, planes: Iterable[np.ndarray]) -> Picture:
    """One slice of several channels, [H, W] each, as a `.npy` file of [C, H, W], which `read_channels` takes."""
    file = io.BytesIO()
    np.save(file, np.stack([*planes]))
    return {"path": f"{name}.npy", "bytes": file.getvalue()}


def shown_channel(picture: Picture) -> np.ndarray:
    """What is drawn of a slice: the picture, or the first of several channels. Raises as `read_image`."""
    file = as_file(picture)
    is_joined = isinstance(file, io.BytesIO) and str(picture["path"]).endswith(".npy")
    return np.load(file)[0] if is_joined else read_image(file)


def listed(names: Sequence[str]) -> str:
    """The first few names, for a message, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")


def natural_order(name: str) -> list[tuple]:
    """A sort key under which 2 comes before 10, and a-2 before a-10."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part] + [(-1, 0, name)]


def encode_png(pixels: np.ndarray) -> bytes:
    """Without loss: bool [H, W] in 1 bit, uint8 [H, W] or [H, W, 3] in 8 bits, other integers [H, W] in 16 bits.

    A PNG has no negative values: an image that has some is shifted to start at 0, as the image processor does too.

    Raises:
        ValueError: the values are no integers, or too far apart for 16 bits.
    """
    # Of all ways to compress a slice, this one is the fastest and gives the smallest files but for a few percent.
    options = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    if pixels.dtype == np.bool_:
        options += [cv2.IMWRITE_PNG_BILEVEL, 1]
        pixels = pixels.astype(np.uint8)
    elif pixels.dtype.kind not in "iu":
        raise ValueError(f"values of type {pixels.dtype} do not fit into a PNG, which takes integers.")
    elif pixels.dtype != np.uint8:
        low, high = min(int(pixels.min()), 0), int(pixels.max())
        if high - low > 65535:
            raise ValueError(f"values from {low} to {high} do not fit into the 16 bits of a PNG.")
        pixels = (pixels.astype(np.int64) - low).astype(np.uint16)
    # OpenCV orders colours blue, green, red.
    return cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels, options)[1].tobytes()


def stamps(paths: Iterable[Path]) -> str:
    """A checksum over path, size and time of every file; a link to nothing has none."""
    digest = hashlib.sha256()
    for path in paths:
        if path.exists():
            status = path.stat()
            digest.update(f"{path}\0{status.st_size} {status.st_mtime_ns}\n".encode(errors="surrogatepass"))
    return digest.hexdigest()


def image_files(folder: Path, pattern: str = "*") -> list[Path]:
    """Pictures in a folder, with the pattern `**/*` in its sub-folders too; without hidden ones (macOS's `._1.png`)."""
    paths = (path for path in folder.glob(pattern) if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir())
    return sorted(path for path in paths if not any(part[0] == "." for part in path.relative_to(folder).parts))
