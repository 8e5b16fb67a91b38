"""Caches that can be trusted: of every Arrow file that 🤗 Datasets keeps for this project, the checksum lies beside it.

    make ─→ the data set and its FILE.arrow ─ checked ─→ FILE.arrow.sha256, written if it is not there, else compared

The files are memory-mapped and taken as they are: where a disk has lost a bit, other pixels would be trained on.

    pixel_values, labels ─ pack ─→ two PNG files of 16 and 8 bits, a quarter of the size ─ unpack ─→ the same, nearly

A data set that comes as a ZIP is unpacked there too, once: `unpacked`.
"""

import hashlib
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import datasets
import numpy as np
from datasets import Dataset, Features, Value

from modeling_unet.volumes.archives import ArchiveError, members

from .raw import DataError


logger = logging.getLogger(__name__)

PACKED = Features(
    {**dict.fromkeys(("pixels", "labels"), Value("binary")), **dict.fromkeys(("low", "step"), Value("float64"))}
)
LEVELS = 2**16 - 1
TRIED = 8  # slices that are prepared to know what all of them will take
WORTH_SAYING = 500  # slices; fewer take some seconds


def checked(make: Callable[[], Dataset]) -> Dataset:
    """What `make` makes or finds in the cache, if the files there are as they were made.

    Raises:
        DataError: one of them is damaged; the message says which, and what to do.
    """
    try:
        made = make()
    except (OSError, ValueError):  # Arrow's own say neither which file nor what to do
        for seal in Path(datasets.config.HF_DATASETS_CACHE).rglob("*.arrow.sha256"):
            _check(seal.with_suffix(""))
        raise
    for file in made.cache_files:
        _check(Path(file["filename"]))
    return made


def pack(pixel_values: np.ndarray, labels: np.ndarray) -> dict:
    """A row of `PACKED`. The pixels of a slice are rounded to 65,536 steps from its lowest value to its highest.

    Args:
        pixel_values: float32 [C, S, S].
        labels: uint8 [S, S], which stay as they are.
    """
    low, high = float(pixel_values.min()), float(pixel_values.max())
    step = (high - low) / LEVELS or 1.0
    levels = np.rint((pixel_values.astype(np.float64) - low) / step).astype(np.uint16)
    return {"pixels": _png(levels.reshape(-1, levels.shape[-1])), "labels": _png(labels), "low": low, "step": step}


def unpack(rows: dict[str, list]) -> dict[str, list]:
    """What `pack` was given, of several rows; each pixel differs by half a step at most, and is the same every time."""
    return {
        "pixel_values": [_pixels(*row) for row in zip(rows["pixels"], rows["low"], rows["step"], strict=True)],
        "labels": list(map(_decode, rows["labels"])),
    }


class Held:
    """Prepared slices in memory, decoded once and not every time: the same values, for two thirds of a worker's time.

    They take 3 bytes a pixel of one channel, 0.2 MB a slice of 256 px. Workers that are forked share them.

    Args:
        prepared: as `prepare_slices` gives them.
    """

    def __init__(self, prepared: Dataset):
        self.rows = [
            (_decode(row["pixels"]), row["low"], row["step"], _decode(row["labels"]))
            for row in prepared.with_format(None)
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        *pixels, labels = self.rows[index]
        return {"pixel_values": _scaled(*pixels), "labels": labels.copy()}


def _pixels(png: bytes, low: float, step: float) -> np.ndarray:
    return _scaled(_decode(png), low, step)


def _scaled(levels: np.ndarray, low: float, step: float) -> np.ndarray:
    side = levels.shape[-1]
    return (low + levels.astype(np.float64) * step).astype(np.float32).reshape(-1, side, side)


def _png(values: np.ndarray) -> bytes:
    # Of all ways to compress, the fastest; others give files that are smaller by a few percent.
    return cv2.imencode(".png", values, [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE])[1].tobytes()


def _decode(png: bytes) -> np.ndarray:
    values = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise DataError("A prepared slice in the cache of Datasets is damaged; delete that cache, and start again.")
    return values


def say_cost(rows: Dataset, fingerprint: str, prepare: Callable[[dict], dict], num_proc: int | None) -> None:
    """Say what preparing takes, unless the rows were prepared before; see `foretell`.

    Raises:
        OSError: the disk of the cache does not hold them.
    """
    folder = _folder_of(rows)
    if any(folder.glob(f"cache-{fingerprint}*.arrow")):
        return
    tried = (prepare(row) for row in samples_of(rows))
    sizes = (sum(len(value) for value in row.values() if isinstance(value, bytes)) for row in tried)
    foretell("Preparing", len(rows), "slices, once", sizes, num_proc=num_proc)


def samples_of(rows: Dataset) -> Iterator[dict]:
    """Some rows from all over a data set."""
    return (rows[index] for index in range(0, len(rows), max(len(rows) // TRIED, 1)))


def foretell(
    doing: str,
    count: int,
    of_what: str,
    sizes: Iterable[int],
    folder: Path | None = None,
    num_proc: int | None = 0,
    worth_saying: int | None = None,
) -> None:
    """Say how long something takes, and how much of a disk; nothing where there is little to do.

    Args:
        doing, count, of_what: the beginning of the sentence.
        sizes: does it to some of them, one after another, and gives the bytes of each.
        folder: where they will lie; None for the cache of Datasets.
        num_proc: how many processes share the work; None for one where `--dataset_num_proc` could give more.
        worth_saying: from how many on; `WORTH_SAYING` by default.

    Raises:
        OSError: the disk does not hold them.
    """
    if count < (worth_saying or WORTH_SAYING):
        return
    start, tried = time.perf_counter(), [*sizes]
    seconds = (time.perf_counter() - start) / len(tried) * count / (num_proc or 1)
    size, place = sum(tried) / len(tried) * count, (folder or Path(datasets.config.HF_DATASETS_CACHE)).absolute()
    free = shutil.disk_usage(next(path for path in (place, *place.parents) if path.exists())).free
    if size > free:
        elsewhere = "name a folder on another one" if folder else "set HF_HOME to a folder on another one"
        raise OSError(
            f"{doing} {count:,} {of_what.partition(',')[0]} takes {_gigabytes(size)}, and the disk of {place} has "
            f"{_gigabytes(free)} left; {elsewhere}."
        )
    where = f"in {place}" if folder else f"in the cache of Datasets ({place})"
    more = ", less with --dataset_num_proc" if num_proc is None else ""
    logger.info(
        "%s %s %s: %s %s, about %s%s.",
        *(doing, f"{count:,}", of_what, _gigabytes(size), where, describe_seconds(seconds), more),
    )


def _folder_of(rows: Dataset) -> Path:
    """Where `map` puts its results."""
    files = rows.cache_files
    return Path(files[0]["filename"]).parent if files else Path(datasets.config.HF_DATASETS_CACHE)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2g} GB" if size < 1e10 else f"{size / 1e9:,.0f} GB"


def describe_seconds(seconds: float) -> str:
    if seconds < 100:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def unpacked(path: Path) -> Path:
    """The folder with the files of a ZIP, of any layout.

    Raises:
        DataError: the ZIP is damaged, holds unsafe names, or is too large to be unpacked without asking.
    """
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "unpacked" / f"{path.stem}-{str(_checksum(path))[:16]}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            for member in members(path):
                target = Path(temporary, folder.name, member.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(member.read())
            Path(temporary, folder.name).rename(folder)
    except ArchiveError as error:
        raise DataError(f"{str(error).rstrip('.')}; unpack it, and give the folder.") from error
    return folder


def _check(path: Path) -> None:
    """Compare a file with its checksum, or write that down where there is none."""
    seal = path.with_name(f"{path.name}.sha256")
    known, found = seal.read_text() if seal.is_file() else "", _checksum(path)
    if not known and found:
        seal.write_text(found)
    elif known != found:
        raise DataError(
            f"{path} is damaged: it is not what was written there. Delete the folder {path.parent}; what it holds is "
            "made anew."
        )


def _checksum(path: Path) -> str | None:
    """SHA-256 in hexadecimal; None of a file that is gone."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
