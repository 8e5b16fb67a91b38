"""NIfTI: a `.nii` or `.nii.gz` → `Scan`; a mask → a `.nii.gz` that lies where the scan did.

The header alone is taken over into results, and of it the geometry alone: descriptions and extensions of a NIfTI may
name a person.
"""

import gzip
import itertools
import math
from pathlib import Path

import numpy as np

from ..image_processing_unet import MIB
from .gzipped import read_voxels, take
from .scan import Companion, Scan, VolumeError, check_affine, check_size, named_volumes, nib, pick


MAX_HEADER_BYTES = 16 * MIB
MAX_VOLUMES = 4096  # of one file; every one before the wanted one is unpacked
IMAGE = ".img"  # how the file of the voxels ends, where they have one

HEADER_BYTES = {1: 348, 2: 540}
SNIFF_BYTES = max(HEADER_BYTES.values())
PACKED_HEADER_BYTES = 64 * 1024  # enough for a header behind a long file name
MM_PER_UNIT = {"unknown": 1.0, "meter": 1000.0, "mm": 1.0, "micron": 0.001}
GEOMETRY_FIELDS = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
)

MAX_QFORM_OFF_MM = 0.05  # of rounding, in the corner of a scan

UNKNOWN_SEQUENCE = (
    "A NIfTI file does not say which sequence it is: the network knows T1-weighted MR with contrast alone."
)


def sniff_nifti(content: bytes) -> int | None:
    """The version of a NIfTI file, packed or not, by its first bytes; None if it is none."""
    try:
        head = take(content, SNIFF_BYTES)
    except VolumeError:
        return None
    if head[344:348] in (b"n+1\0", b"ni1\0"):
        return 1
    return 2 if head[4:8] in (b"n+2\0", b"ni2\0") else None


def read_nifti(content: bytes, name: str, companion: Companion, stack: int | None = None) -> Scan:
    """Read a NIfTI-1 or -2 file, packed or not.

    Args:
        content: the file's bytes.
        name: what to call it in a message.
        companion: gives the file beside it that holds the voxels, if they are not in it.
        stack: which volume of several, counted from 1; None for the first.

    Raises:
        VolumeError: damaged, over a limit, no such volume, or values that are no numbers.
    """
    header = _read_header(content, name)
    shape, count = _checked_shape(header, name)
    index, said_which = pick(count, stack, name)
    warnings = [UNKNOWN_SEQUENCE, *filter(None, [said_which])]
    try:
        if said := _without_empty_sform(header):
            warnings.append(said)
        dtype, affine = header.get_data_dtype(), header.get_best_affine()
        slope, intercept = header.get_slope_inter()
        unit = header.get_xyzt_units()[0]
        offset = int(header["vox_offset"])
    # nibabel raises any kind of error for a damaged header.
    except Exception as error:
        raise VolumeError(f"{name}: the header is damaged.") from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        found = "colours" if dtype.names else f"of type {dtype}"
        raise VolumeError(f"{name}: the voxels are {found}; allowed are integers and floats of up to 64 bits.")
    is_apart = _is_apart(content)
    first = 0 if is_apart else header.sizeof_hdr
    if not first <= offset <= MAX_HEADER_BYTES:
        raise VolumeError(f"{name}: the voxels start at byte {offset}; allowed are {first} to 16 MiB.")
    check_size(shape, dtype.itemsize, name)
    affine = np.diag([MM_PER_UNIT.get(unit, 1.0)] * 3 + [1.0]) @ affine
    check_affine(affine, name)
    return Scan(
        voxels=read_voxels(companion(IMAGE) if is_apart else content, offset, shape, dtype, name, index),
        affine=affine,
        header=_geometry(header, header.get_data_shape() if count == 1 else shape),
        slope=1.0 if slope is None else slope,
        intercept=0.0 if intercept is None else intercept,
        oriented=bool(header["qform_code"] > 0 or header["sform_code"] > 0),
        stacks=named_volumes(count),
        stack=index + 1,
        warnings=tuple(warnings),
    )


def count_volumes(file: Path) -> int:
    """How many volumes a file holds, by its header; 0 if it is no NIfTI, or damaged."""
    try:
        with file.open("rb") as stream:
            return _checked_shape(_read_header(stream.read(PACKED_HEADER_BYTES), file.name), file.name)[1]
    except (OSError, VolumeError):
        return 0


def geometry_of(
    affine: np.ndarray, shape: tuple[int, int, int], oriented: bool
) -> tuple["nib.Nifti1Header", str | None]:
    """A header for voxels that were read from another format; arguments as in `Scan`.

    A qform cannot say that slices follow each other aslant: it would put them elsewhere than the sform does, and
    programs built on ITK read it first. Then the header has none, which is said beside it.
    """
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.uint8)
    header.set_xyzt_units("mm")
    header.set_sform(affine, code=int(oriented))
    header.set_qform(affine, code=int(oriented))
    corners = np.array([*itertools.product(*((0, size - 1) for size in shape))])
    off = (header.get_qform() - affine)[:3] @ np.column_stack([corners, np.ones(8)]).T
    off_mm = float(np.linalg.norm(off, axis=0).max())
    if not oriented or off_mm <= MAX_QFORM_OFF_MM:
        return header, None
    header["qform_code"] = 0
    return header, (
        f"The slices follow each other aslant: at right angles the mask would lie up to {off_mm:.1f} mm off, so its "
        "file has an sform alone, which programs built on ITK refuse."
    )


def write_nifti(values: np.ndarray, header: "nib.Nifti1Header") -> bytes:
    """A mask, bool or labels [I, J, K], as `.nii.gz` of uint8 with a scan's geometry; or floats, as float32."""
    kind = np.float32 if values.dtype.kind == "f" else np.uint8
    header = header.copy()
    header.set_data_dtype(kind)
    voxels = values.reshape(header.get_data_shape()).astype(kind)
    return gzip.compress(nib.Nifti1Image(voxels, None, header).to_bytes(), mtime=0)


def _read_header(content: bytes, name: str) -> "nib.Nifti1Header":
    version, head = sniff_nifti(content), take(content, SNIFF_BYTES)
    if version is None:
        raise VolumeError(f"{name}: the header is damaged.")
    try:
        header_type = {1: nib.Nifti1Header, 2: nib.Nifti2Header}[version]
        return header_type(bytes(head[: HEADER_BYTES[version]]), check=False)
    except Exception as error:
        raise VolumeError(f"{name}: the header is damaged.") from error


def _is_apart(content: bytes) -> bool:
    """Whether the voxels are in a file of their own."""
    head = take(content, SNIFF_BYTES)
    return b"ni" in (head[344:346], head[4:6])


def _without_empty_sform(header: "nib.Nifti1Header") -> str | None:
    """Strike an sform that spans no space where a qform does or where it is all 0; returns what to warn of."""
    if not header["sform_code"] > 0:
        return None
    sform, has_qform = header.get_sform(), header["qform_code"] > 0
    spans = np.isfinite(sform).all() and abs(np.linalg.det(sform[:3, :3])) > 0
    if spans or not (has_qform or not sform[:3].any()):
        return None
    header["sform_code"] = 0
    return "The file's sform is empty; the scan lies where its qform says." if has_qform else None


def _checked_shape(header: "nib.Nifti1Header", name: str) -> tuple[tuple[int, int, int], int]:
    """(I, J, K) of a volume in a file, and how many there are."""
    axes = int(header["dim"][0])
    shape = tuple(int(size) for size in header["dim"][1 : axes + 1]) if 2 <= axes <= 7 else ()
    if not shape:
        raise VolumeError(f"{name}: the scan has {axes} axes; allowed are 2 to 7.")
    count = math.prod(shape[3:])
    if not 1 <= count <= MAX_VOLUMES or min(shape[3:], default=1) < 1:
        raise VolumeError(f"{name}: the file claims {count:,} volumes; allowed are 1 to {MAX_VOLUMES:,}.")
    i, j, k = (*shape, 1)[:3]
    return (i, j, k), count


def _geometry(header: "nib.Nifti1Header", shape: tuple[int, ...]) -> "nib.Nifti1Header":
    clean = nib.Nifti1Header()
    clean.set_data_shape(shape)
    clean.set_data_dtype(np.uint8)
    for field in GEOMETRY_FIELDS:
        clean[field] = header[field]
    return clean
