"""FreeSurfer's volumes, `.mgh` and `.mgz`: a header of fixed length, with big ends first, then the voxels."""

import struct

import numpy as np

from ..gzipped import take
from ..scan import Companion, Scan
from .layout import Layout, read_layout


# Version; columns, rows, slices and volumes; type; degrees of freedom; whether the geometry is known; sizes of a voxel;
# directions of the three axes towards right, anterior and superior; the centre of the scan in these.
HEADER = struct.Struct(">7ih3f9f3f")
VERSION, HEADER_BYTES = 1, 284
TYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}
MAX_SNIFFED = 1 << 16  # of an axis, to tell the format from whatever else begins with a 1


def sniff(head: bytes) -> bool:
    """Whether a file is FreeSurfer's, by its first bytes, unpacked."""
    if len(head) < HEADER_BYTES:
        return False
    version, *shape, kind, _, is_known = HEADER.unpack_from(head)[:8]
    return version == VERSION and kind in TYPES and is_known in (0, 1) and all(0 < size < MAX_SNIFFED for size in shape)


def read(content: bytes, name: str, companion: Companion, stack: int | None) -> Scan:
    """Read a FreeSurfer volume, packed or not; see `read_format`."""
    _, i, j, k, count, kind, _, is_known, *geometry = HEADER.unpack_from(bytes(take(content, HEADER_BYTES, name)))
    affine = np.eye(4)
    if is_known:
        sizes, directions, centre = np.array(geometry[:3]), np.reshape(geometry[3:12], (3, 3)).T, geometry[12:]
        affine[:3, :3] = directions * sizes
        affine[:3, 3] = centre - affine[:3, :3] @ (np.array([i, j, k]) / 2)
    return read_layout(
        Layout(
            shape=(i, j, k),
            dtype=np.dtype(TYPES[kind]),
            affine=affine,
            offset=HEADER_BYTES,
            volumes=count,
            oriented=bool(is_known),
            spacing_known=bool(is_known),
        ),
        content,
        name,
        stack,
    )
