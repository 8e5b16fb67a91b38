"""Analyze 7.5, `.hdr` with `.img`: sizes alone, for the format does not say how the patient lies."""

import struct

import numpy as np

from ..nifti import MAX_HEADER_BYTES
from ..scan import Companion, Scan
from .layout import Layout, read_layout


HEADER_BYTES = 348
TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8"}
# Where the header has its length; the number of axes and their lengths; the type; sizes of a voxel; where voxels begin.
LENGTH, AXES, TYPE, SIZES, OFFSET = (0, "i"), (40, "8h"), (70, "h"), (76, "8f"), (108, "f")
VOXELS = ".img"


def sniff(head: bytes) -> bool:
    """Whether a file is the header of an Analyze file, by its first bytes."""
    return _order(head) is not None


def _order(head: bytes) -> str | None:
    """The order of bytes, or None if it is no such header."""
    if len(head) < HEADER_BYTES:
        return None
    for order in "<>":
        (length,), (axes, *_), (kind,) = (_field(head, order, field) for field in (LENGTH, AXES, TYPE))
        if length == HEADER_BYTES and 1 < axes <= 7 and kind in TYPES:
            return order
    return None


def _field(head: bytes, order: str, field: tuple[int, str]) -> tuple:
    return struct.unpack_from(order + field[1], head, field[0])


def read(content: bytes, name: str, companion: Companion, stack: int | None) -> Scan:
    """Read an Analyze file; see `read_format`."""
    order = _order(content) or "<"
    axes, *shape = _field(content, order, AXES)
    i, j, k, *more = [*shape[:axes], 1, 1, 1][: max(axes, 3)]
    _, *sizes = np.abs(_field(content, order, SIZES))
    (kind,), (offset,) = _field(content, order, TYPE), _field(content, order, OFFSET)
    is_known = bool(np.all(sizes[: min(axes, 3)]))
    return read_layout(
        Layout(
            shape=(i, j, k),
            dtype=np.dtype(order + TYPES[kind]),
            affine=np.diag([*(sizes[:3] if is_known else (1.0, 1.0, 1.0)), 1.0]),
            offset=int(offset) if 0 <= offset <= MAX_HEADER_BYTES else 0,
            volumes=int(np.prod(more, dtype=np.int64)) if more else 1,
            oriented=False,
            spacing_known=is_known,
        ),
        companion(VOXELS),
        name,
        stack,
    )
