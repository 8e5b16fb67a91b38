"""A scan as its file lays it out: nifti.py and dicom/ make it, volume.py turns it to be looked at.

The limits are checked against the header, before any voxel is read.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..image_processing_unet import MIB
from ..segmentation import MAX_SPACING_MM, MIN_SPACING_MM
from .archives import Member


try:
    import nibabel as nib
    import pydicom
except ImportError:
    nib = pydicom = None  # type: ignore[assignment] # `require_packages` comes first


MAX_VOXELS_OF_AN_AXIS = 2048
MAX_VOXELS = 256 * 512 * 512
MAX_BYTES = 256 * MIB

MAX_NAMED_VOLUMES = 100

File = Path | Member
# The bytes of the file beside a header that holds its voxels, by its name or, from a dot on, by how that ends.
Companion = Callable[[str], bytes]


class VolumeError(ValueError):
    """A scan that cannot be used; the message is one sentence that says what is wrong and what is allowed."""


@dataclass(frozen=True, eq=False)
class Scan:
    """Voxels, and where they lie in the patient.

    Attributes:
        voxels: [I, J, K] of any real type; times `slope`, plus `intercept`, they are the scan's values.
        affine: float64 [4, 4], index (i, j, k, 1) → mm towards the patient's right, anterior and superior side.
        header: a NIfTI header that holds the geometry of the file and nothing else.
        slice_axis: the axis along which slices were taken, None if the file does not say.
        oriented: whether the file says how the patient lies.
        spacing_known: whether it says how large pixels are.
        slice_spacing_known: whether it says how far slices are apart.
        stacks: what could have been read, in words, if there are several.
        stack: the number of what was read, counted from 1.
        missing: the slices that nobody took or that cannot be read, counted along `slice_axis`; their voxels are 0.
        frames: of every slice along `slice_axis` the DICOM file that it comes from, and its number in that file; None
            of one that is missing. Empty for other formats.
        warnings: what whoever looks at the scan has to know, one sentence each.
    """

    voxels: np.ndarray
    affine: np.ndarray
    header: "nib.Nifti1Header"
    slope: float = 1.0
    intercept: float = 0.0
    slice_axis: int | None = None
    oriented: bool = True
    spacing_known: bool = True
    slice_spacing_known: bool = True
    stacks: tuple[str, ...] = ()
    stack: int = 1
    missing: tuple[int, ...] = ()
    frames: "tuple[tuple[File, int] | None, ...]" = ()
    warnings: tuple[str, ...] = ()


def require_packages():
    """Raise a `VolumeError` if the packages that read volumes are not installed."""
    if nib is None or pydicom is None:
        raise VolumeError("Reading NIfTI and DICOM needs two more packages; run: pip install nibabel pydicom")


def read_file(file: File, size: int | None = None) -> bytes:
    """The bytes of a file, on disk or in an archive, or the first `size`; a `VolumeError` if it has too many."""
    try:
        if size is None and (whole := file_size(file)) > MAX_BYTES:
            raise VolumeError(f"A file has {whole / MIB:,.0f} MiB; at most {MAX_BYTES // MIB} MiB are accepted.")
        if isinstance(file, Path):
            with file.open("rb") as stream:
                return stream.read(-1 if size is None else size)
        return file.read(size)
    except OSError:
        raise VolumeError("A file of the scan is missing, or cannot be read.") from None


def file_size(file: File) -> int:
    """Number of bytes of a file, on disk or in an archive."""
    return file.stat().st_size if isinstance(file, Path) else file.size


def pick(count: int, number: int | None, name: str) -> tuple[int, str | None]:
    """Which of the volumes in one file is read, from 0, and what to say of it.

    Args:
        count: of the volumes.
        number: counted from 1, or None for the first.
        name: what to call the file in a message.

    Raises:
        VolumeError: there is no such volume.
    """
    if number is not None and not 1 <= number <= count:
        held = "one volume" if count == 1 else f"{count} volumes"
        raise VolumeError(f"{name}: there is no volume {number} in it; the file holds {held}.")
    index = (number or 1) - 1
    return index, None if count == 1 else f"The file holds {count} volumes; number {index + 1} was read."


def named_volumes(count: int) -> tuple[str, ...]:
    """How a choice names the volumes of one file; empty if there is none to choose from."""
    return tuple(f"volume {number}" for number in range(1, min(count, MAX_NAMED_VOLUMES) + 1)) if count > 1 else ()


def check_size(shape: tuple[int, ...], bytes_per_voxel: int, label: str):
    """Raise a `VolumeError` for a scan of too many voxels; `label` is what to call it."""
    written = " × ".join(map(str, shape))
    if min(shape) < 1 or max(shape) > MAX_VOXELS_OF_AN_AXIS:
        raise VolumeError(
            f"{label}: the scan has {written} voxels; allowed are 1 to {MAX_VOXELS_OF_AN_AXIS} along each axis."
        )
    voxels = math.prod(shape)
    if voxels > MAX_VOXELS:
        raise VolumeError(f"{label}: the scan has {written} voxels; at most {MAX_VOXELS:,} are accepted.")
    if voxels * bytes_per_voxel > MAX_BYTES:
        raise VolumeError(
            f"{label}: the scan takes {voxels * bytes_per_voxel / MIB:,.0f} MiB; at most {MAX_BYTES // MIB} MiB are "
            "accepted."
        )


def check_affine(affine: np.ndarray, label: str):
    """Raise a `VolumeError` for an affine whose voxels have an impossible size, or no volume."""
    if not np.isfinite(affine).all():
        raise VolumeError(f"{label}: the position of its voxels is not finite; the header is damaged.")
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if min(sizes) < MIN_SPACING_MM or max(sizes) > MAX_SPACING_MM:
        written = " × ".join(f"{size:g}" for size in sizes)
        raise VolumeError(
            f"{label}: its voxels are {written} mm; allowed are {MIN_SPACING_MM:g} to {MAX_SPACING_MM:g} mm."
        )
    # Axes at right angles span the whole product, those of a skewed scan nearly all of it.
    if abs(np.linalg.det(affine[:3, :3])) < 0.1 * math.prod(sizes):
        raise VolumeError(f"{label}: two axes of the scan point in the same direction; the header is damaged.")
