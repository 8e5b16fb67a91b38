"""The tags of DICOM files: a file → the `Image` in it → its `Frame`s.

Only the tags named below are ever read: no name, id or date enters the program, and the UIDs of study and series do
nothing but keep these apart. Messages show a tag's value only if it is a number or one of DICOM's own terms.
"""

import io
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ...image_processing_unet import MIB, MIN_SIDE
from ..gzipped import is_gzipped, take
from ..scan import File, VolumeError, check_size, pydicom, read_file
from .apart import Apart
from .protocol import Protocol, protocol_of


PREAMBLE_BYTES = 128
MAGIC = b"DICM"
DICOMDIR = "dicomdir"  # how DICOM names, in any case, the table of contents of a folder

PIXEL_TAGS = (
    *("SOPClassUID", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
)
PROTOCOL_TAGS = (
    *("Modality", "AcquisitionContrast", "SeriesDescription", "ProtocolName", "SequenceName"),
    *("RepetitionTime", "EchoTime", "ContrastBolusAgent", "ContrastBolusAgentSequence"),
)
PLACE_TAGS = (
    *("SeriesInstanceUID", "InstanceNumber", "ImageOrientationPatient", "ImagePositionPatient"),
    *("PixelSpacing", "SpacingBetweenSlices", "SliceThickness", "SliceLocation", "RescaleSlope", "RescaleIntercept"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
# What tells several images of one place apart.
TURN_TAGS = (
    *("ImageType", "ComplexImageComponent", "TemporalPositionIdentifier", "AcquisitionNumber"),
    "AcquisitionTime",  # of the day, without the day
)
COMPONENTS = {
    **dict.fromkeys(("M", "MAGNITUDE", "M_FFE", "M_SE", "M_IR", "M_TFE"), "magnitude"),
    **dict.fromkeys(("P", "PHASE", "PHASE MAP", "P_FFE", "P_SE", "P_IR"), "phase"),
    **dict.fromkeys(("R", "REAL", "R_FFE", "R_SE", "R_IR"), "real"),
    **dict.fromkeys(("I", "IMAGINARY", "I_FFE", "I_SE", "I_IR"), "imaginary"),
}
# The parts of an enhanced image's functional groups that hold tags read here.
MACROS = (
    *("PlanePositionSequence", "PlaneOrientationSequence"),
    *("PixelMeasuresSequence", "PixelValueTransformationSequence"),
    *("FrameContentSequence", "MREchoSequence", "MRImageFrameTypeSequence"),
)
TRANSFER_SYNTAX = 0x00020010
STUDY, STUDY_BYTES = 0x0020000D, 64 * 1024  # and where it is looked for: it stands far in front
META_GROUP = 0x0002
META_LENGTH, META_LENGTH_BYTES = 0x00000002, 12  # (0002,0000) as it lies in a file
# Of a file without a preamble the first elements say that it is DICOM: short ones, in the order of their tags.
FIRST_GROUPS = (META_GROUP, 0x0008)
FIRST_ELEMENTS = 4
ELEMENT_BYTES, LONG_ELEMENT_BYTES = 8, 12
LONG_VRS = (b"OB", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT")
MAX_FIRST_TAG = 0x0028FFFF
MAX_FIRST_LENGTH = 1024

# What comes before the pixels takes kilobytes, and some megabytes where every one of a thousand frames has its own
# tags. pydicom needs hundreds of times the bytes that a short item of a sequence has in the file.
MAX_HEADER_BYTES = 8 * MIB
MAX_ITEMS = 50_000
# Of all files together: of some large ones, and as many of every file as scanners write without need.
MAX_ITEMS_OF_ALL, MORE_ITEMS_PER_FILE = 100_000, 10
ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
ITEM_BYTES = 8  # of its tag and length, with which every compressed frame begins

# Of all files together, of any series: every frame becomes an object before the largest series is known.
MAX_FRAMES = 10_000

FARTHEST_MM = 1_000_000  # from which a slice may lie; farther away a tag is damaged

BITS = (8, 16, 32)
COLORS = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
DEFLATED = "1.2.840.10008.1.2.1.99"
RLE = "1.2.840.10008.1.2.5"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
HTJ2K = ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203")
BY_PILLOW = ("1.2.840.10008.1.2.4.50", JPEG_EXTENDED, JPEG_2000, "1.2.840.10008.1.2.4.91", *HTJ2K)
PILLOW_BITS = 8  # of JPEG Extended; what has more, GDCM decodes
# JPEG Lossless, with any predictor and with the first; JPEG-LS, lossless and nearly so.
BY_GDCM = (
    *("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"),
    *("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"),
)

if pydicom is not None:
    # A value that breaks DICOM's rules would be quoted in a warning, and may be a person's name in the wrong tag.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


@dataclass(frozen=True, eq=False)
class Image:
    """A file that holds slices.

    Attributes:
        file: where to read it.
        label: what to call it in a message.
        tags: ours, and no others.
        start: number of bytes before the pixels.
        shape: (rows, columns) of every frame.
        count: of its frames.
    """

    file: File
    label: str
    tags: "pydicom.Dataset"
    start: int
    shape: tuple[int, int]
    count: int


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice, as the tags describe it; `None` where they do not.

    Attributes:
        image: the file that it lies in.
        index: its number in the file.
        series: its UID, and nothing else of it.
        shape: (rows, columns).
        inverted: whether high values are black.
        orientation: direction of growing columns, then of growing rows, in DICOM's axes.
        position: of the centre of the first pixel, in mm.
        spacing: (row, column) in mm.
        gap: distance between slices in mm.
        location: along the stack, in mm from anywhere.
        number: the order that the scanner gave it.
        component: "magnitude", "phase", "real" or "imaginary".
        is_original: whether it was taken so, and not computed from others.
        echo: time of the echo in ms.
        time: its number in a series that repeats.
        acquisition: number of the acquisition.
        clock: time of the day when it was taken, as HHMMSS.
        protocol: how it was taken.
    """

    image: Image
    index: int
    series: str
    shape: tuple[int, int]
    inverted: bool
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    gap: float | None
    location: float | None
    number: float
    component: str | None
    is_original: bool
    echo: float | None
    time: float | None
    acquisition: float | None
    clock: float | None
    slope: float
    intercept: float
    protocol: Protocol


def sniff_dicom(content: bytes) -> bool:
    """Whether a file is DICOM, by its first bytes; some have no preamble and begin with their first tag."""
    return content.startswith(MAGIC, PREAMBLE_BYTES) or _begins_with_tags(content)


def _begins_with_tags(content: bytes) -> bool:
    """Whether a file begins with several elements, as DICOM does without a preamble, each where the last one ends."""
    start, last = 0, 0
    for _ in range(FIRST_ELEMENTS):
        if len(content) < start + LONG_ELEMENT_BYTES:
            return False
        group, element = struct.unpack_from("<HH", content, start)
        tag = group << 16 | element
        if (last == 0 and group not in FIRST_GROUPS) or not last < tag <= MAX_FIRST_TAG:
            return False
        vr, last = content[start + 4 : start + 6], tag
        if vr in LONG_VRS:
            (length,), header = struct.unpack_from("<I", content, start + 8), LONG_ELEMENT_BYTES
        elif vr.isalpha() and vr.isupper():
            (length,), header = struct.unpack_from("<H", content, start + 6), ELEMENT_BYTES
        else:
            (length,), header = struct.unpack_from("<I", content, start + 4), ELEMENT_BYTES
        if length > MAX_FIRST_LENGTH:
            return False
        start += header + length
    return True


def study_of(file: File) -> str:
    """The UID of the study that a file belongs to, or "" if it names none or cannot be read."""
    try:
        head = unpacked(read_file(file, STUDY_BYTES), STUDY_BYTES, "")
        if count_items(head) > MAX_ITEMS:
            return ""
        tags = pydicom.filereader.read_partial(
            io.BytesIO(head), lambda tag, vr, length: tag > STUDY, specific_tags=[STUDY], force=True
        )
        return str(tags[STUDY].value)
    # pydicom raises any kind of error for a damaged file.
    except Exception:
        return ""


def unpacked(content: bytes, size: int, label: str) -> bytes:
    """The first bytes of a file without the gzip around it, and without the deflation that DICOM knows itself.

    Args:
        content: the file's bytes, or its first ones; those of a file that is not packed are returned as they are.
        size: most bytes of one that is packed.
        label: what to call it in a message.
    """
    if is_gzipped(content):
        content = bytes(take(content, size, label))
    try:
        if _transfer_syntax(content) != DEFLATED:
            return content
        # Behind the group that says how the file is written, which begins with its own length.
        start = content.index(MAGIC) + len(MAGIC)
        tag, _, _, length = struct.unpack_from("<I2sHI", content, start)
        if tag != META_LENGTH:
            raise ValueError("the length of the first group is missing.")
        start += META_LENGTH_BYTES + length
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(content[start:], size)
    except Exception:
        raise VolumeError(f"{label} is damaged; its tags cannot be read.") from None


def read_header(file: File, head: bytes, length: int | None, label: str) -> list[Image]:
    """The image in a file, or an empty list if there is none.

    Args:
        head: its first bytes, unpacked.
        length: how many it has, or None if it is packed.
    """
    if not head:
        raise VolumeError(f"{label} is empty (0 bytes).")
    tags, start = _read_tags(head, label)
    if "Rows" not in tags:
        if _should_be_image(tags):
            raise VolumeError(f"{label} is truncated; it ends before its pixels.")
        return []
    with _readable_tags(label):
        shape, count = _check_pixels(tags, label)
        if length is not None:
            _check_length(tags, shape, count, length - start, label)
        return [Image(file, label, tags, start, shape, count)]


def read_frames(image: Image) -> list[Frame]:
    """The slices in a file, in its order."""
    with _readable_tags(image.label):
        protocol = protocol_of(image.tags)
        return [_read_frame(image, index, protocol) for index in range(image.count)]


@contextmanager
def _readable_tags(label: str) -> Iterator[None]:
    """Turn the errors that a wrong value of a tag may cause into a `VolumeError`."""
    try:
        yield
    except VolumeError:
        raise
    except Exception:
        raise VolumeError(f"{label} is damaged; one of its tags is not what it should be.") from None


def _read_tags(head: bytes, label: str) -> tuple["pydicom.Dataset", int]:
    """The tags listed above from a file's first bytes; and where the pixels start."""
    if count_items(head) > MAX_ITEMS:
        raise VolumeError(f"{label} has more than {MAX_ITEMS:,} items in its tags; it is damaged.")
    try:
        syntax = _transfer_syntax(head)
        if syntax in (None, *UNCOMPRESSED, RLE, *BY_PILLOW, *BY_GDCM):
            wanted = [*PIXEL_TAGS, *PROTOCOL_TAGS, *PLACE_TAGS, *TURN_TAGS]
            stream = io.BytesIO(head)
            tags = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=wanted, force=True)
            if syntax is None:
                tags.file_meta.TransferSyntaxUID = _plain_syntax(*tags.original_encoding)
            return tags, stream.tell()
    # pydicom raises any kind of error for a damaged file and quotes its values, so its message is not passed on.
    except Exception:
        raise VolumeError(f"{label} is damaged; its tags cannot be read.") from None
    raise VolumeError(
        f"{label} is compressed as {_syntax_name(syntax)}, which is not decoded here; allowed are uncompressed, "
        "deflated, RLE, JPEG, JPEG Lossless, JPEG-LS, JPEG 2000 and HTJ2K."
    )


def needs_gdcm(tags: "pydicom.Dataset") -> bool:
    """Whether nothing but GDCM decodes the pixels."""
    syntax = tags.file_meta.TransferSyntaxUID
    return syntax in BY_GDCM or (syntax == JPEG_EXTENDED and tags.BitsStored > PILLOW_BITS)


def count_items(head: bytes) -> int:
    """An upper limit of the number of sequence items in a file's first bytes."""
    return max(head.count(item) for item in ITEMS)


def _transfer_syntax(head: bytes) -> str | None:
    """The transfer syntax, or None if there is none; read without pydicom, which would inflate a deflated file however
    long it becomes."""
    start = PREAMBLE_BYTES + len(MAGIC) if head.startswith(MAGIC, PREAMBLE_BYTES) else 0
    if head[start : start + 2] != META_GROUP.to_bytes(2, "little"):
        return None
    elements = pydicom.filereader.data_element_generator(
        io.BytesIO(head[start:]),
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, vr, length: tag >> 16 != META_GROUP,
    )
    value = next((element.value for element in elements if element.tag == TRANSFER_SYNTAX), None)
    return value.decode("ascii").strip("\0 ") if value else None


def _should_be_image(tags: "pydicom.Dataset") -> bool:
    """Whether a file says that it holds an image, and not a report, for instance."""
    kind = tags.get("SOPClassUID") or tags.file_meta.get("MediaStorageSOPClassUID")
    return kind is not None and pydicom.uid.UID(str(kind)).name.endswith("Image Storage")


def _is_capture(tags: "pydicom.Dataset") -> bool:
    return "Secondary Capture" in pydicom.uid.UID(str(tags.get("SOPClassUID", ""))).name


def _plain_syntax(is_implicit: bool, is_little: bool) -> "pydicom.uid.UID":
    """How a file is written that does not say it, as pydicom found it by the first element."""
    if is_implicit:
        return pydicom.uid.ImplicitVRLittleEndian
    return pydicom.uid.ExplicitVRLittleEndian if is_little else pydicom.uid.ExplicitVRBigEndian


def _syntax_name(syntax: str) -> str:
    uid = pydicom.uid.UID(syntax)
    return uid.name if uid.type == "Transfer Syntax" else "something unknown"


def _check_pixels(dataset: "pydicom.Dataset", label: str) -> tuple[tuple[int, int], int]:
    """((rows, columns), number of frames), or a `VolumeError` if the pixels are not to be decoded."""
    rows, columns, syntax = int(dataset.Rows), int(dataset.Columns), dataset.file_meta.TransferSyntaxUID
    frames = int(dataset.get("NumberOfFrames") or 1)
    check_size((columns, rows, frames), np.dtype(np.float32).itemsize, label)
    if min(rows, columns) < MIN_SIDE:
        raise VolumeError(f"{label} has {columns} × {rows} pixels; each side needs at least {MIN_SIDE}.")
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or dataset.get("SamplesPerPixel", 1) != 1:
        named = photometric if photometric in COLORS else "of an unknown kind"
        kind = "is a secondary capture, as of a screen, and " if _is_capture(dataset) else ""
        raise VolumeError(f"{label} {kind}has pixels that are {named}; allowed are MONOCHROME1 and MONOCHROME2.")
    if dataset.BitsAllocated not in BITS:
        raise VolumeError(f"{label} has pixels of {int(dataset.BitsAllocated)} bits; allowed are 8, 16 and 32.")
    if needs_gdcm(dataset) and not Apart.is_available():
        raise VolumeError(f"{label} is compressed as {syntax.name}; to decode it, run: pip install python-gdcm")
    return (rows, columns), frames


def _check_length(tags: "pydicom.Dataset", shape: tuple[int, int], count: int, length: int, label: str):
    """Raise a `VolumeError` where several frames take more bytes than the file has left for them."""
    is_compressed = tags.file_meta.TransferSyntaxUID not in UNCOMPRESSED
    bytes_per_frame = ITEM_BYTES if is_compressed else math.prod(shape) * tags.BitsAllocated // 8
    if count > 1 and count * bytes_per_frame > length:
        raise VolumeError(f"{label} claims {count:,} slices and is too short for them; it is damaged.")


def _read_frame(image: Image, index: int, protocol: Protocol) -> Frame:
    tags, shape = image.tags, image.shape
    groups = [
        *(tags.get("PerFrameFunctionalGroupsSequence") or [])[index : index + 1],
        *(tags.get("SharedFunctionalGroupsSequence") or [])[:1],
    ]
    places = [*(group[macro][0] for group in groups for macro in MACROS if group.get(macro)), tags]

    def find_value(keyword: str):
        for place in places:
            if (value := place.get(keyword)) is not None and np.size(value) and value != "":
                return value
        return None

    def find(keyword: str, count: int) -> tuple[float, ...] | None:
        if (value := find_value(keyword)) is None:
            return None
        numbers = tuple(float(number) for number in np.ravel(value))
        if len(numbers) != count or not np.isfinite(numbers).all():
            raise VolumeError(f"{image.label} has a damaged tag: {keyword} needs {count} finite numbers.")
        return numbers

    def find_number(*keywords: str) -> float | None:
        """The first of several tags that is there."""
        return next((numbers[0] for keyword in keywords if (numbers := find(keyword, 1))), None)

    def find_hint(*keywords: str) -> float | None:
        """The same, of tags without which a slice can be read: damaged, they say nothing."""
        try:
            return find_number(*keywords)
        except (ValueError, TypeError):
            return None

    # Some programs write zeros for what they do not know.
    orientation, spacing = find("ImageOrientationPatient", 6), find("PixelSpacing", 2)
    if orientation is not None and not any(orientation):
        orientation = None
    if spacing is not None and not all(spacing):
        spacing = None
    if orientation is not None:
        directions = np.reshape(orientation, (2, 3))
        if not np.allclose(directions @ directions.T, np.eye(2), atol=0.01):
            raise VolumeError(f"{image.label} has a damaged tag: ImageOrientationPatient needs two unit vectors.")
    position = find("ImagePositionPatient", 3)
    if position is not None and max(map(abs, position)) > FARTHEST_MM:
        raise VolumeError(
            f"{image.label} has a damaged tag: ImagePositionPatient needs numbers up to {FARTHEST_MM:,} mm."
        )
    location = find_hint("SliceLocation")
    if location is not None and abs(location) > FARTHEST_MM:
        location = None
    slope = find_number("RescaleSlope")
    image_type = [str(value).upper() for value in np.ravel(find_value("FrameType") or find_value("ImageType") or [])]
    return Frame(
        image=image,
        index=index,
        series=str(tags.get("SeriesInstanceUID", "")),
        shape=shape,
        inverted=tags.PhotometricInterpretation == "MONOCHROME1",
        orientation=orientation,
        position=position,
        spacing=spacing,
        gap=abs(find_number("SpacingBetweenSlices") or find_number("SliceThickness") or 0) or None,
        location=location,
        number=find_number("InstanceNumber") or 0.0,
        component=_component([str(find_value("ComplexImageComponent") or "").upper(), *image_type]),
        is_original="DERIVED" not in image_type,
        echo=find_hint("EffectiveEchoTime", "EchoTime"),
        time=find_hint("TemporalPositionIndex", "TemporalPositionIdentifier"),
        acquisition=find_hint("FrameAcquisitionNumber", "AcquisitionNumber"),
        clock=find_hint("AcquisitionTime"),
        slope=1.0 if slope is None else slope,
        intercept=find_number("RescaleIntercept") or 0.0,
        protocol=protocol,
    )


def _component(image_type: list[str]) -> str | None:
    """Which part of the complex signal an image shows, by the values of its type."""
    return next((COMPONENTS[value] for value in image_type if value in COMPONENTS), None)
