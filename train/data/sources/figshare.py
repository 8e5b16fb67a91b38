"""Jun Cheng's *brain tumor dataset* as figshare gives it (doi:10.6084/m9.figshare.1512427, CC BY 4.0).

    all of it in one zip ─→ brainTumorDataPublic_1-766.zip, …_767-1532.zip, … ─→ 1.mat, 2.mat, … ─→ RawSlice

Each of these, or a folder of them, can be opened; nothing is unpacked to the disk. An `N.mat` is a MATLAB v7.3 file,
that is, HDF5: `cjdata/image` int16, `tumorMask` uint8, `label` 1…3, `PID` as character codes. (`tumorBorder`, the
outline that the mask was filled from, is not needed.) MATLAB stores columns first, so HDF5 shows its arrays transposed.
"""

import hashlib
import io
import logging
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Self

import numpy as np

from ..raw import DataError, RawSlice, Reading, Source, encode_png, natural_order, stamps


try:
    import h5py
except ImportError:
    h5py = None  # `open_file` and `find` say so

logger = logging.getLogger(__name__)

MAT_NAME = re.compile(r"\d+\.mat")

FIELDS = ("image", "tumorMask", "label", "PID")
TUMOR_TYPES = {1: "meningioma", 2: "glioma", 3: "pituitary"}
PUBLISHED_MD5 = {
    "brainTumorDataPublic_1-766.zip": "74b949ad33f042e6e103523091cd1428",
    "brainTumorDataPublic_767-1532.zip": "7e8a875500d2c8a346f270538e29890e",
    "brainTumorDataPublic_1533-2298.zip": "8227bf6080cb71f15a88be8d25c79ae7",
    "brainTumorDataPublic_2299-3064.zip": "b378a80d6174e5317d59eb28430c6652",
}
# What `zipfile` raises at damage, at a password and at a compression that it does not know.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)


def find(folder: Path, reading: Reading) -> "FigshareFiles | None":
    mat_files = [path for path in (*folder.glob("*.mat"), *folder.glob("*/*.mat")) if MAT_NAME.fullmatch(path.name)]
    files = sorted(mat_files or folder.glob("*.zip"), key=lambda path: natural_order(path.name))
    return _open(files) if files else None


def open_file(path: Path, reading: Reading) -> "FigshareFiles":
    """One of the zips, or the zip of them all."""
    return _open([path])


def _open(paths: list[Path]) -> "FigshareFiles":
    if h5py is None:
        raise DataError(f"{paths[0].name} needs h5py, for MATLAB's files: pip install h5py.")
    return FigshareFiles.open(paths)


@dataclass(frozen=True)
class FigshareFiles(Source):
    """Zips, or `N.mat` files, in the order in which they are read."""

    paths: tuple[Path, ...]
    count: int

    @classmethod
    def open(cls, paths: list[Path]) -> Self:
        """Count the slices.

        Raises:
            DataError: a zip is damaged, or there is no `N.mat` in any of them.
        """
        count = sum(1 for path in paths for _ in _mat_files(path))
        if not count:
            raise DataError(
                f"{paths[0]} holds no files 1.mat, 2.mat, … as figshare's zips do; a zip of images/ and masks/ has to "
                "be unpacked."
            )
        return cls(tuple(paths), count)

    def __len__(self) -> int:
        return self.count

    def stamp(self) -> object:
        return stamps(self.paths)

    def facts(self) -> dict[str, str]:
        return {"layout": "the original on figshare", "images": f"{self.count:,}", "persons": "said in every file"}

    def verify(self) -> None:
        for path in self.paths:
            for name, file in () if path.suffix == ".mat" else _zips(path):
                file.seek(0)
                if name in PUBLISHED_MD5 and hashlib.file_digest(file, "md5").hexdigest() != PUBLISHED_MD5[name]:
                    logger.warning("%s is not the file that figshare publishes: its MD5 sum differs.", name)

    def parts(self) -> Iterator[RawSlice]:
        for path in self.paths:
            for name, read in _mat_files(path):
                yield read_mat(name, read)


def read_mat(name: str, read: Callable[[], bytes]) -> RawSlice:
    """One slice; `read` gives the content of the file, and may raise what zips and disks do."""
    try:
        with h5py.File(io.BytesIO(read()), "r") as file:
            image, mask, label, codes = (_field(file, field) for field in FIELDS)
        return RawSlice(
            Path(name).stem,
            image={"path": name, "bytes": encode_png(image.T)},
            # A mask with other values stays as it is, so that whoever reads it next can say which.
            mask={"path": name, "bytes": encode_png(mask.T == 1 if np.isin(mask, (0, 1)).all() else mask.T)},
            person_id="".join(map(chr, codes.flat)).strip("\0 "),
            tumor_type=_tumor_type(label),
        )
    # h5py and NumPy raise any kind of error for a damaged or foreign file.
    except Exception as error:
        problem = f"{name} cannot be read as one of figshare's MATLAB v7.3 files: {str(error).rstrip('.')}."
        return RawSlice(Path(name).stem, None, None, problem_kind="unreadable", problem=problem)


def _field(file: "h5py.File", field: str) -> np.ndarray:
    if f"cjdata/{field}" not in file:
        raise ValueError(f"it has no cjdata.{field}.")
    return file["cjdata"][field][()]


def _tumor_type(label: np.ndarray) -> str:
    number = label.item()
    if number not in TUMOR_TYPES:
        raise ValueError(f"cjdata.label is {number:g}; known are {', '.join(map(str, TUMOR_TYPES))}.")
    return TUMOR_TYPES[number]


def _mat_files(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name and reader of an N.mat, or of every N.mat in a zip, in natural order; other members are passed over."""
    if path.suffix == ".mat":
        yield path.name, path.read_bytes
        return
    for _, file in _zips(path):
        with zipfile.ZipFile(file) as archive:
            for member in _members(archive, MAT_NAME):
                yield PurePosixPath(member).name, partial(archive.read, member)


def _zips(path: Path) -> Iterator[tuple[str, io.BufferedReader | io.BytesIO]]:
    """Name and content of a zip or, if it holds zips itself, of each of these."""
    name = path.name
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            inner = _members(archive, re.compile(r"[^.].*\.zip"))
            if not inner:
                yield name, file
            for member in inner:
                name = PurePosixPath(member).name
                # As a whole, 0.2 GB: a step back in a compressed member means decompressing it again from its start.
                content = io.BytesIO(archive.read(member))
                zipfile.ZipFile(content).close()
                yield name, content
    except ZIP_ERRORS as error:
        raise DataError(
            f"{name} cannot be read as a zip archive ({error}); if it should be one, download it again."
        ) from error


def _members(archive: zipfile.ZipFile, pattern: re.Pattern) -> list[str]:
    members = [member for member in archive.namelist() if pattern.fullmatch(PurePosixPath(member).name)]
    return sorted(members, key=natural_order)
