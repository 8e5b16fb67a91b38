"""NRRD, `.nrrd` and `.nhdr`: lines of "field: value", an empty one, then the voxels, or the name of their file."""

import re

import numpy as np

from ..gzipped import GZIP
from ..scan import Companion, Scan, VolumeError
from .layout import LPS, MAX_TEXT_BYTES, Layout, numbers, read_layout, whole_numbers


MAGIC = b"NRRD000"
END = re.compile(rb"\r?\n\r?\n")
TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
RAS = np.eye(4)
SPACES = {
    **dict.fromkeys(("right-anterior-superior", "ras"), RAS),
    **dict.fromkeys(("left-posterior-superior", "lps"), LPS),
    **dict.fromkeys(("left-anterior-superior", "las"), np.diag([-1.0, 1.0, 1.0, 1.0])),
}
ENCODINGS = {"raw": None, "gzip": GZIP, "gz": GZIP}
DIRECTION = re.compile(r"none|\([^()]*\)", re.IGNORECASE)


def sniff(head: bytes) -> bool:
    """Whether a file is NRRD, by its first bytes."""
    return head.startswith(MAGIC)


def read(content: bytes, name: str, companion: Companion, stack: int | None) -> Scan:
    """Read a NRRD file; see `read_format`."""
    end = END.search(content, 0, MAX_TEXT_BYTES)
    fields = _fields(content[: end.start() if end else MAX_TEXT_BYTES].decode("utf-8", "replace"))
    place = fields.get("data file", fields.get("datafile"))
    if place is None and end is None:
        raise VolumeError(f"{name}: the header is damaged; it does not end.")

    (axes,) = whole_numbers(fields.get("dimension", ""), name, "dimension", 1)
    sizes = whole_numbers(fields.get("sizes", ""), name, "sizes", axes)
    directions = _directions(fields, axes, name)
    in_space = [axis for axis, direction in enumerate(directions) if direction is not None]
    apart = [axis for axis in range(axes) if axis not in in_space]
    if not 2 <= len(in_space) <= 3 or len(apart) > 1 or apart not in ([], [0], [axes - 1]):
        raise VolumeError(f"{name}: the scan has {axes} axes, {len(in_space)} of them in space; allowed are 3, or 2.")
    kind, encoding = fields.get("type", ""), fields.get("encoding", "").lower()
    if kind not in TYPES:
        raise VolumeError(f"{name}: the type of its voxels is not known; allowed are integers and floats.")
    if encoding not in ENCODINGS:
        raise VolumeError(f"{name}: its voxels are encoded in a way that is not read here; allowed are raw and gzip.")
    if set(fields) & {"line skip", "lineskip"} or fields.get("byte skip", fields.get("byteskip", "0")) != "0":
        raise VolumeError(f"{name}: lines or bytes before its voxels are to be skipped, which is not done here.")

    affine = np.eye(4)
    for column, axis in enumerate(in_space):
        affine[:3, column] = directions[axis]
    if len(in_space) == 2:
        affine[:3, 2] = np.cross(affine[:3, 0], affine[:3, 1]) / np.linalg.norm(affine[:3, 0])
    if "space origin" in fields:
        affine[:3, 3] = numbers(fields["space origin"].strip("() "), name, "space origin", 3)
    space = fields.get("space", "").lower()
    i, j, k = (*(sizes[axis] for axis in in_space), 1)[:3]
    return read_layout(
        Layout(
            shape=(i, j, k),
            dtype=np.dtype((">" if fields.get("endian") == "big" else "<") + TYPES[kind]),
            affine=SPACES.get(space, RAS) @ affine,
            form=ENCODINGS[encoding],
            volumes=sizes[apart[0]] if apart else 1,
            volumes_first=apart == [0],
            oriented=space in SPACES and "space directions" in fields,
            spacing_known="space directions" in fields or "spacings" in fields,
        ),
        content[end.end() :] if place is None and end else companion(str(place)),
        name,
        stack,
    )


def _fields(text: str) -> dict[str, str]:
    """What the lines say; not what programs add for themselves, "key:=value"."""
    lines = (line for line in text.splitlines()[1:] if not line.startswith("#") and ":=" not in line)
    pairs = (line.partition(":") for line in lines)
    return {field.strip().lower(): value.strip() for field, colon, value in pairs if colon}


def _directions(fields: dict[str, str], axes: int, name: str) -> list[list[float] | None]:
    """From a voxel to the next along every axis, in the axes of the file; None along an axis that is none of space."""
    if "space directions" in fields:
        found = DIRECTION.findall(fields["space directions"])
        if len(found) != axes:
            raise VolumeError(f"{name}: the header is damaged; space directions needs one for every axis.")
        return [
            None if word.lower() == "none" else numbers(word.strip("()"), name, "space directions", 3) for word in found
        ]
    sizes = fields.get("spacings", " ".join(["1"] * axes)).lower().split()
    if len(sizes) != axes:
        raise VolumeError(f"{name}: the header is damaged; spacings needs one for every axis.")
    # Without directions, what has no size, or is the fourth, is no axis of space.
    known = [axis for axis, size in enumerate(sizes) if size != "nan"][:3]
    diagonal = np.eye(3)
    return [
        [*(numbers(sizes[axis], name, "spacings", 1)[0] * diagonal[known.index(axis)])] if axis in known else None
        for axis in range(axes)
    ]
