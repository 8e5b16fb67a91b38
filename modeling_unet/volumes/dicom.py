"""DICOM: the files of one or several series → one `Scan`, its slices in the order in which they lie in the patient.

Only the tags named below are ever read: no name, id or date enters the program, and the series' UID does nothing but
keep series apart. Messages count files instead of naming them, because archives name them by UIDs and persons, and show
a tag's value only if it is a number or one of DICOM's own terms.

Pixels are decoded by pydicom itself (uncompressed, RLE) and by Pillow (JPEG, JPEG 2000): no decoder whose frames could
not be checked before they are decoded.
"""

import io
import math
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np

from ..image_processing_unet import MIB, MIN_SIDE, open_picture
from .archives import ArchiveError
from .nifti import geometry_of
from .scan import File, Scan, VolumeError, check_affine, check_size, file_size, pydicom, read_file


PREAMBLE_BYTES = 128
MAGIC = b"DICM"

PIXEL_TAGS = (
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
)
SEQUENCE_TAGS = (
    *("Modality", "AcquisitionContrast", "SeriesDescription", "ProtocolName", "SequenceName"),
    *("RepetitionTime", "EchoTime", "ContrastBolusAgent", "ContrastBolusAgentSequence"),
)
PLACE_TAGS = (
    *("SeriesInstanceUID", "InstanceNumber", "ImageOrientationPatient", "ImagePositionPatient"),
    *("PixelSpacing", "SpacingBetweenSlices", "SliceThickness", "RescaleSlope", "RescaleIntercept"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
# The parts of an enhanced image's functional groups that hold tags read here.
MACROS = (
    *("PlanePositionSequence", "PlaneOrientationSequence"),
    *("PixelMeasuresSequence", "PixelValueTransformationSequence"),
)
PIXEL_DATA = 0x7FE00010
TRANSFER_SYNTAX = 0x00020010
META_GROUP = 0x0002

# What comes before the pixels takes kilobytes, and some megabytes where every one of a thousand frames has its own
# tags. pydicom needs hundreds of times the bytes that a short item of a sequence has in the file.
MAX_HEADER_BYTES = 8 * MIB
MAX_ITEMS = 50_000
MAX_ITEMS_OF_ALL = 100_000  # files together: of some large ones, or of a thousand that have a few each
ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")
ITEM_BYTES = 8  # of its tag and length, with which every compressed frame begins

# Of all files together, of any series: every frame becomes an object before the largest series is known.
MAX_FRAMES = 8000

COLORS = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
RLE = "1.2.840.10008.1.2.5"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
BY_PILLOW = ("1.2.840.10008.1.2.4.50", JPEG_EXTENDED, "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")

# Slices nearer than this lie at the same place; gaps that differ by more than the fraction are uneven.
SAME_PLACE_MM = 0.01
UNEVEN_GAP = 0.1
# Rounding in the tags turns the slices of one stack a little against each other.
ORIENTATION_DECIMALS = 2

# In names, digits end a word as blanks do: "3DT1", "T1GD", "AXT1POST".
T1_NAMES = re.compile(
    r"(?<![A-Z])(AX|SAG|COR|TRA|[23]D|[SE])?T1|MP2?-?RAGE|SPGR|BRAVO|VIBE|THRIVE|LAVA|TFL3D", re.IGNORECASE
)
OTHER_NAMES = re.compile(
    r"T2|FLAIR|DWI|DTI|ADC|SWI|SWAN|BOLD|PERF|TOF|ASL|TRACE|SCOUT|\bPD\b|LOCALI[SZ]ER", re.IGNORECASE
)
# An examination "w/wo contrast" has series of both kinds.
BOTH_NAMES = re.compile(
    r"\b(W(ITH)?\W*(AND\W*)?W(/?O|ITHOUT)|W(/?O|ITHOUT)\W*(AND\W*)?W(ITH)?|PRE\W*(AND\W*)?POST)\b( CON\w*| GAD\w*)?",
    re.IGNORECASE,
)
# "Pre" and "post" may mean a treatment or a saturation pulse, "without" the suppression of fat or other extras.
TREATMENT = r"OP|RT|SURG|RESEC|BIOPS|TREAT|TX|RAD|SAT"
WITHOUT_NAMES = re.compile(
    r"((?<![A-Z])(NON?|OHNE|SANS|SENZA|SIN|BEZ|PRE)[- ]?([CK]ON|ENH|GA?D|KM)"
    rf"|(?<![A-Z])PRE(?![A-Z]|[- ]?({TREATMENT}))"
    r"|(?<![A-Z])(W[/ ]?O|WITHOUT|OHNE)(?![A-Z]| ?(F|MT|MPR))|(?<![A-Z])(VOR|O\.?) ?KM"
    r"|(?<![A-Z])NATIV|UNENH|(?<![A-Z])C-(?!\w)|(?<!\S)-C(?![A-Z]))\w*(\W+([CK]ONTRAST|GA?D|KM)\w*)?",
    re.IGNORECASE,
)
CONTRAST_NAMES = re.compile(
    r"[CK]ONTRAST|GAD|(?<![A-Z])GD|\+ ?C\b|(?<![A-Z])C ?\+|T1-?C(?![A-Z])|(?<![A-Z])(CE|[MNP]?KM)(?![A-Z])"
    rf"|(?<![A-Z])POST((GD|KM|CON|C(?![A-Z]))|(?![A-Z]|[- ]?({TREATMENT})))",
    re.IGNORECASE,
)
NO_AGENT = re.compile(r"N(/?A)?|NO(NE)?(?!\.).*", re.IGNORECASE)
# In ms, for a spin echo: T1 weighting takes both short.
MAX_T1_REPETITION_MS = 1200
MAX_T1_ECHO_MS = 35

KNOWS = "the network knows T1-weighted MR with contrast alone."

if pydicom is not None:
    # A value that breaks DICOM's rules would be quoted in a warning, and may be a person's name in the wrong tag.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


@dataclass(frozen=True, eq=False)
class _Image:
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
class _Frame:
    """One slice, as the tags describe it; `None` where they do not.

    Attributes:
        image: the file that it lies in.
        index: its number in the file.
        series: what all slices of one stack share.
        shape: (rows, columns).
        inverted: whether high values are black.
        orientation: direction of growing columns, then of growing rows, in DICOM's axes.
        position: of the centre of the first pixel, in mm.
        spacing: (row, column) in mm.
        gap: distance between slices in mm.
        number: the order that the scanner gave it.
        warning: what to warn of in its sequence.
    """

    image: _Image
    index: int
    series: tuple
    shape: tuple[int, int]
    inverted: bool
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    gap: float | None
    number: float
    slope: float
    intercept: float
    warning: str | None


def sniff_dicom(content: bytes) -> bool:
    """Whether a file has DICOM's preamble, by its first bytes."""
    return content.startswith(MAGIC, PREAMBLE_BYTES)


def read_dicom(files: list[File]) -> Scan:
    """Read the largest stack of slices that the files hold.

    Raises:
        VolumeError: no images, damaged or missing tags, over a limit, coloured, or compressed in a way that is not
            decoded.
    """
    images, frames, refused = [], [], []
    items_left = MAX_ITEMS_OF_ALL
    for number, file in enumerate(files, start=1):
        label = "The DICOM file" if len(files) == 1 else f"DICOM file {number} of {len(files)}"
        try:
            head = read_file(file, MAX_HEADER_BYTES)
            items_left -= _count_items(head)
            images += _read_header(file, head, label) if items_left >= 0 else []
        except VolumeError as error:
            refused.append(error)
        except ArchiveError:
            refused.append(VolumeError(f"{label} is damaged and cannot be unpacked."))
    if items_left < 0:
        raise VolumeError(f"The {len(files):,} DICOM files have too many items in their tags; they are damaged.")
    if (claimed := sum(image.count for image in images)) > MAX_FRAMES:
        raise VolumeError(f"The DICOM files claim {claimed:,} slices together; at most {MAX_FRAMES:,} are accepted.")
    for image in images:
        try:
            frames += _read_frames(image)
        except VolumeError as error:
            refused.append(error)
    if not frames:
        raise refused[0] if refused else VolumeError("The DICOM files hold no images.")
    counts = Counter(frame.series for frame in frames)
    series, size = counts.most_common(1)[0]
    frames, order_warning = _sort([frame for frame in frames if frame.series == series])
    first = frames[0]
    check_size((first.shape[1], first.shape[0], len(frames)), np.dtype(np.float32).itemsize, "The DICOM series")
    affine, gap_warning = _affine(frames)
    check_affine(affine, "The DICOM series")

    slices = np.empty((len(frames), *first.shape), np.float32)
    for image in {frame.image for frame in frames}:
        _decode(image, frames, slices)
    if first.inverted:
        np.subtract(slices.max(), slices, out=slices)

    warnings = [first.warning, order_warning, gap_warning]
    if len(counts) > 1:
        warnings.append(f"The files hold {len(counts)} series; this is the largest, of {size} slices.")
    if refused:
        warnings.append(f"{len(refused)} of {len(files)} files were left out: {refused[0]}")
    if first.orientation is None:
        warnings.append("The tags do not say how the patient lies; the slices are shown as they are stored.")
    if first.spacing is None:
        warnings.append("The tags do not say how large pixels are; nothing can be measured in mm.")
    voxels = slices.T
    return Scan(
        voxels=voxels,
        affine=affine,
        header=geometry_of(affine, voxels.shape, oriented=first.orientation is not None),
        slice_axis=2,
        oriented=first.orientation is not None,
        spacing_known=first.spacing is not None,
        slice_spacing_known=_gap(frames) is not None,
        warnings=tuple(filter(None, warnings)),
    )


# ----------------------------------------------------------------------------------------------------------------- tags


def _read_header(file: File, head: bytes, label: str) -> list[_Image]:
    """The image in a file, or an empty list if there is none; `head` is its first bytes."""
    tags, start = _read_tags(head, label)
    if "Rows" not in tags:
        return []
    with _readable_tags(label):
        shape, count = _check_pixels(tags, label)
        _check_length(tags, shape, count, file_size(file) - start, label)
        return [_Image(file, label, tags, start, shape, count)]


def _read_frames(image: _Image) -> list[_Frame]:
    with _readable_tags(image.label):
        warning = _sequence_warning(image.tags)
        return [_read_frame(image, index, warning) for index in range(image.count)]


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
    if _count_items(head) > MAX_ITEMS:
        raise VolumeError(f"{label} has more than {MAX_ITEMS:,} items in its tags; it is damaged.")
    try:
        syntax = _transfer_syntax(head)
        if syntax in (*UNCOMPRESSED, RLE, *BY_PILLOW):
            tags = [*PIXEL_TAGS, *SEQUENCE_TAGS, *PLACE_TAGS]
            stream = io.BytesIO(head)
            return pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=tags), stream.tell()
    # pydicom raises any kind of error for a damaged file and quotes its values, so its message is not passed on.
    except Exception:
        raise VolumeError(f"{label} is damaged; its tags cannot be read.") from None
    raise VolumeError(
        f"{label} is compressed as {_syntax_name(syntax)}, which is not decoded here; allowed are uncompressed, RLE, "
        "JPEG of 8 bits and JPEG 2000."
    )


def _count_items(head: bytes) -> int:
    """An upper limit of the number of sequence items in a file's first bytes."""
    return max(head.count(item) for item in ITEMS)


def _transfer_syntax(head: bytes) -> str | None:
    """The transfer syntax, read without pydicom, which would inflate a deflated file however long it becomes."""
    elements = pydicom.filereader.data_element_generator(
        io.BytesIO(head[PREAMBLE_BYTES + len(MAGIC) :]),
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, vr, length: tag >> 16 != META_GROUP,
    )
    values = [element.value for element in elements if element.tag == TRANSFER_SYNTAX and element.value]
    return values[0].decode("ascii").strip("\0 ") if values else None


def _syntax_name(syntax: str | None) -> str:
    uid = pydicom.uid.UID(syntax or "")
    return uid.name if uid.type == "Transfer Syntax" else "something unknown"


def _check_pixels(dataset: "pydicom.Dataset", label: str) -> tuple[tuple[int, int], int]:
    """((rows, columns), number of frames), or a `VolumeError` if the pixels are not to be decoded."""
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    frames = int(dataset.get("NumberOfFrames") or 1)
    check_size((columns, rows, frames), np.dtype(np.float32).itemsize, label)
    if min(rows, columns) < MIN_SIDE:
        raise VolumeError(f"{label} has {columns} × {rows} pixels; each side needs at least {MIN_SIDE}.")
    photometric = str(dataset.get("PhotometricInterpretation", ""))
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or dataset.get("SamplesPerPixel", 1) != 1:
        named = photometric if photometric in COLORS else "of an unknown kind"
        raise VolumeError(f"{label} has pixels that are {named}; allowed are MONOCHROME1 and MONOCHROME2.")
    if dataset.BitsAllocated not in (8, 16):
        raise VolumeError(f"{label} has pixels of {int(dataset.BitsAllocated)} bits; allowed are 8 and 16.")
    if dataset.file_meta.TransferSyntaxUID == JPEG_EXTENDED and dataset.BitsStored != 8:
        raise VolumeError(f"{label} is compressed as JPEG Extended of more than 8 bits, which is not decoded here.")
    return (rows, columns), frames


def _check_length(tags: "pydicom.Dataset", shape: tuple[int, int], count: int, length: int, label: str):
    """Raise a `VolumeError` where several frames take more bytes than the file has left for them."""
    is_compressed = tags.file_meta.TransferSyntaxUID not in UNCOMPRESSED
    bytes_per_frame = ITEM_BYTES if is_compressed else math.prod(shape) * tags.BitsAllocated // 8
    if count > 1 and count * bytes_per_frame > length:
        raise VolumeError(f"{label} claims {count:,} slices and is too short for them; it is damaged.")


def _read_frame(image: _Image, index: int, warning: str | None) -> _Frame:
    tags, shape = image.tags, image.shape
    groups = [
        *(tags.get("PerFrameFunctionalGroupsSequence") or [])[index : index + 1],
        *(tags.get("SharedFunctionalGroupsSequence") or [])[:1],
    ]
    places = [*(group[macro][0] for group in groups for macro in MACROS if group.get(macro)), tags]

    def find(keyword: str, count: int) -> tuple[float, ...] | None:
        for place in places:
            if (value := place.get(keyword)) is not None and np.size(value) and value != "":
                numbers = tuple(float(number) for number in np.ravel(value))
                if len(numbers) != count or not np.isfinite(numbers).all():
                    raise VolumeError(f"{image.label} has a damaged tag: {keyword} needs {count} finite numbers.")
                return numbers
        return None

    def find_number(keyword: str) -> float | None:
        numbers = find(keyword, 1)
        return None if numbers is None else numbers[0]

    orientation = find("ImageOrientationPatient", 6)
    turned = None
    if orientation is not None:
        directions = np.reshape(orientation, (2, 3))
        if not np.allclose(directions @ directions.T, np.eye(2), atol=0.01):
            raise VolumeError(f"{image.label} has a damaged tag: ImageOrientationPatient needs two unit vectors.")
        turned = tuple(np.round(orientation, ORIENTATION_DECIMALS).tolist())
    inverted = tags.PhotometricInterpretation == "MONOCHROME1"
    slope = find_number("RescaleSlope")
    return _Frame(
        image=image,
        index=index,
        series=(str(tags.get("SeriesInstanceUID", "")), shape, inverted, turned),
        shape=shape,
        inverted=inverted,
        orientation=orientation,
        position=find("ImagePositionPatient", 3),
        spacing=find("PixelSpacing", 2),
        gap=abs(find_number("SpacingBetweenSlices") or find_number("SliceThickness") or 0) or None,
        number=find_number("InstanceNumber") or 0.0,
        slope=1.0 if slope is None else slope,
        intercept=find_number("RescaleIntercept") or 0.0,
        warning=warning,
    )


def _sequence_warning(dataset: "pydicom.Dataset") -> str | None:
    """A sentence unless the tags say that this is T1-weighted MR with contrast."""
    if str(dataset.get("Modality", "MR")) != "MR":
        return f"By its tags this is no MR scan: {KNOWS}"
    t1, contrast = _is_t1(dataset), _has_contrast(dataset)
    if t1 is False:
        return f"By its tags this series is not T1-weighted: {KNOWS}"
    if contrast is False:
        return f"By its tags this series was taken without contrast: {KNOWS}"
    return None if t1 and contrast else f"The tags do not say whether this is T1-weighted with contrast: {KNOWS}"


def _names(dataset: "pydicom.Dataset") -> list[str]:
    keywords = ("AcquisitionContrast", "SeriesDescription", "ProtocolName", "SequenceName")
    return [str(dataset.get(keyword, "")).replace("_", " ") for keyword in keywords]


def _is_t1(dataset: "pydicom.Dataset") -> bool | None:
    description = " ".join(_names(dataset))
    # "T1 FLAIR" is T1-weighted, "T2 FLAIR" is not.
    if T1_NAMES.search(description) and "T2" not in description.upper():
        return True
    if OTHER_NAMES.search(description):
        return False
    repetition, echo = dataset.get("RepetitionTime"), dataset.get("EchoTime")
    if not repetition or not echo:
        return None
    return float(repetition) <= MAX_T1_REPETITION_MS and float(echo) <= MAX_T1_ECHO_MS


def _has_contrast(dataset: "pydicom.Dataset") -> bool | None:
    """None if the tags say nothing about it, or contradict each other."""
    description = " ".join(BOTH_NAMES.sub("", name) for name in _names(dataset))
    agent = str(dataset.get("ContrastBolusAgent") or "").strip()
    no_agent = bool(NO_AGENT.fullmatch(agent))
    is_without = no_agent or bool(WITHOUT_NAMES.search(description))
    is_with = bool(
        (agent and not no_agent)
        or dataset.get("ContrastBolusAgentSequence")
        or CONTRAST_NAMES.search(WITHOUT_NAMES.sub(" ", description))
    )
    return None if is_with == is_without else is_with


# ------------------------------------------------------------------------------------------------------------- geometry


def _normal(frame: _Frame) -> np.ndarray:
    """The direction in which slices follow each other, in DICOM's axes."""
    orientation = frame.orientation or (1, 0, 0, 0, 1, 0)
    return np.cross(orientation[:3], orientation[3:])


def _sort(frames: list[_Frame]) -> tuple[list[_Frame], str | None]:
    """One frame for every place, in the order of the places, and what to warn of."""
    frames = sorted(frames, key=lambda frame: frame.number)
    if len(frames) == 1:
        return frames, None
    positions = _positions(frames)
    if positions is None:
        return frames, "The tags do not say where the slices lie; they are in the order of their numbers."
    heights = np.array([np.dot(place, _normal(frame)) for place, frame in zip(positions, frames, strict=True)])
    order = np.argsort(heights, kind="stable")
    new_place = np.diff(heights[order], prepend=-np.inf) > SAME_PLACE_MM
    kept = [frames[index] for index in order[new_place]]
    left_out = len(frames) - len(kept)
    return kept, f"{left_out} slices lie where another one does and were left out." if left_out else None


def _affine(frames: list[_Frame]) -> tuple[np.ndarray, str | None]:
    """Voxel index (column, row, slice, 1) → mm towards right, anterior, superior; and what to warn of."""
    first = frames[0]
    orientation = np.reshape(first.orientation or (1, 0, 0, 0, 1, 0), (2, 3))
    row_mm, column_mm = first.spacing or (1.0, 1.0)
    step = _normal(first) * (_gap(frames) or 1.0)
    warning = None
    positions = _positions(frames)
    if len(frames) > 1 and positions is not None:
        step = (positions[-1] - positions[0]) / (len(frames) - 1)
        gaps = np.diff(positions @ _normal(first))
        if gaps.max() - gaps.min() > UNEVEN_GAP * gaps.min():
            warning = f"The slices are {gaps.min():.1f} to {gaps.max():.1f} mm apart: some may be missing."
    affine = np.eye(4)
    affine[:3] = np.column_stack(
        [orientation[0] * column_mm, orientation[1] * row_mm, step, first.position or (0, 0, 0)]
    )
    # DICOM's axes point towards left, posterior and superior.
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, warning


def _positions(frames: list[_Frame]) -> np.ndarray | None:
    """Where the frames lie, float64 [N, 3] in mm, or None unless the tags say it of every one."""
    known = [frame.position for frame in frames if frame.position is not None]
    return np.array(known) if len(known) == len(frames) else None


def _gap(frames: list[_Frame]) -> float | None:
    """Distance between slices in mm: by their places where they have some, by the tags otherwise."""
    positions = _positions(frames)
    if len(frames) > 1 and positions is not None:
        return float(np.dot(positions[-1] - positions[0], _normal(frames[0])) / (len(frames) - 1))
    return frames[0].gap


# --------------------------------------------------------------------------------------------------------------- pixels


def _decode(image: _Image, frames: list[_Frame], slices: np.ndarray):
    """Put the frames that lie in one file where they belong in `slices`, float32 [N, H, W], rescaled."""
    places = {frame.index: place for place, frame in enumerate(frames) if frame.image is image}
    wanted = sorted(places)
    try:
        stream = io.BytesIO(read_file(image.file))
        stream.seek(image.start)
        (pixel_data,) = islice(pydicom.filereader.data_element_generator(stream, *image.tags.original_encoding), 1)
        data = image.tags.copy()
        data[PIXEL_DATA] = pixel_data
        _check_encapsulated(data)
        for index, pixels in zip(wanted, pydicom.pixels.iter_pixels(data, raw=True, indices=wanted), strict=True):
            frame = frames[places[index]]
            with np.errstate(over="ignore"):
                slices[places[index]] = pixels * np.float32(frame.slope) + np.float32(frame.intercept)
    except VolumeError:
        raise
    except Exception:
        raise VolumeError(f"{image.label} is truncated or damaged; its pixels cannot be decoded.") from None


def _check_encapsulated(dataset: "pydicom.Dataset"):
    """Raise an error for a compressed frame that would unpack to more than the tags allow."""
    syntax, count = dataset.file_meta.TransferSyntaxUID, int(dataset.get("NumberOfFrames") or 1)
    if syntax in UNCOMPRESSED:
        return
    rows, columns, bytes_per_pixel = dataset.Rows, dataset.Columns, dataset.BitsAllocated // 8
    # What a poor encoder makes of noise; from a longer frame two bytes at a time could unpack to 128.
    longest = rows * columns * bytes_per_pixel * 3 // 2 + 1024
    for frame in pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=count):
        if syntax == RLE and len(frame) > longest:
            raise ValueError("a run-length coded frame is longer than its pixels.")
        if syntax in BY_PILLOW:
            with open_picture(io.BytesIO(frame), "frame", ("JPEG", "JPEG2000")) as image:
                if image.size != (columns, rows):
                    raise ValueError("a compressed frame has another size than the tags say.")
