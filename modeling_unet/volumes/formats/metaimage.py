"""MetaImage, `.mha` and `.mhd`: lines of "name = value", then the voxels, or the name of the file that holds them."""

import re

import numpy as np

from ..gzipped import ZLIB
from ..scan import Companion, Scan, VolumeError
from .layout import LPS, MAX_TEXT_BYTES, Layout, numbers, read_layout, whole_numbers


FIRST_LINE = re.compile(rb"\s*(ObjectType|NDims|Comment|ObjectSubType)\s*=")
LAST_LINE = re.compile(rb"^ElementDataFile[ \t]*=[ \t]*([^\r\n]*)\r?\n?", re.MULTILINE)
TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
DIRECTIONS, ORIGINS = ("TransformMatrix", "Rotation", "Orientation"), ("Offset", "Position", "Origin")
ORDERS = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")


def sniff(head: bytes) -> bool:
    """Whether a file is MetaImage, by its first bytes."""
    return bool(FIRST_LINE.match(head)) and b"NDims" in head


def read(content: bytes, name: str, companion: Companion, stack: int | None) -> Scan:
    """Read a MetaImage; see `read_format`."""
    last = LAST_LINE.search(content, 0, MAX_TEXT_BYTES)
    if not last:
        raise VolumeError(f"{name}: the header is damaged; it does not say where the voxels are.")
    lines = content[: last.start()].decode("utf-8", "replace").splitlines()
    pairs = (line.partition("=") for line in lines)
    fields = {field.strip(): value.strip() for field, _, value in pairs}

    def first(names: tuple[str, ...]) -> str | None:
        return next((fields[field] for field in names if field in fields), None)

    def is_true(*names: str) -> bool:
        return (first(names) or "").lower() in ("true", "1", "t", "y", "yes")

    (axes,) = whole_numbers(fields.get("NDims", ""), name, "NDims", 1)
    if axes not in (2, 3, 4):
        raise VolumeError(f"{name}: the scan has {axes} axes; allowed are 2 to 4.")
    i, j, k, count = (*whole_numbers(fields.get("DimSize", ""), name, "DimSize", axes), 1, 1)[:4]
    if fields.get("ElementNumberOfChannels", "1") != "1":
        raise VolumeError(f"{name}: its voxels have several channels; allowed is one.")
    kind = fields.get("ElementType", "")
    if kind not in TYPES:
        raise VolumeError(f"{name}: the type of its voxels is not known; allowed are {', '.join(TYPES)}.")
    if fields.get("BinaryData", "True").lower() not in ("true", "1"):
        raise VolumeError(f"{name}: its voxels are written as text; allowed are binary ones.")

    affine, directions = np.eye(4), first(DIRECTIONS)
    if directions is not None:
        matrix = np.reshape(numbers(directions, name, DIRECTIONS[0], axes * axes), (axes, axes))
        space = min(axes, 3)
        affine[:space, :space] = matrix.T[:space, :space]
    spacing = fields.get("ElementSpacing")
    sizes = [1.0] * 3 if spacing is None else [*numbers(spacing, name, "ElementSpacing", axes), 1.0][:3]
    origin = first(ORIGINS)
    affine[:3, :3] *= sizes
    affine[:3, 3] = [0.0] * 3 if origin is None else [*numbers(origin, name, ORIGINS[0], axes), 0.0][:3]

    place = last[1].decode("utf-8", "replace").strip()
    is_local, is_packed = place.upper() == "LOCAL", is_true("CompressedData")
    voxels = content[last.end() :] if is_local else companion(place)
    dtype = np.dtype((">" if is_true(*ORDERS) else "<") + TYPES[kind])
    return read_layout(
        Layout(
            shape=(i, j, k),
            dtype=dtype,
            affine=LPS @ affine,
            offset=_offset(fields, len(voxels), i * j * k * count * dtype.itemsize, name),
            form=ZLIB if is_packed else None,
            volumes=count,
            oriented=directions is not None,
            spacing_known=spacing is not None,
        ),
        voxels,
        name,
        stack,
    )


def _offset(fields: dict[str, str], length: int, size: int, name: str) -> int:
    """Number of bytes before the voxels: -1 in the file means that they are its end."""
    (offset,) = numbers(fields.get("HeaderSize", "0"), name, "HeaderSize", 1)
    return max(length - size, 0) if offset == -1 else max(int(offset), 0)
