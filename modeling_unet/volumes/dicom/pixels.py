"""The pixels of DICOM files, decoded by pydicom itself (uncompressed, RLE), by Pillow (JPEG, JPEG 2000, HTJ2K), and in
a process apart by GDCM (JPEG Lossless, JPEG-LS, JPEG of 12 bits): no decoder whose frames could not be checked before
they are decoded.
"""

import io
import struct
from collections.abc import Iterator
from copy import copy
from itertools import islice

import numpy as np

from ...image_processing_unet import open_picture
from ..scan import VolumeError, pydicom, read_file
from .apart import Apart
from .tags import BY_PILLOW, HTJ2K, JPEG_2000, RLE, UNCOMPRESSED, Frame, Image, needs_gdcm, unpacked


SLACK_BYTES = 64 * 1024  # of a file, for what stands between its pixels and behind them
# Markers of JPEG: what begins a picture and a scan of it; what has no content; and what says how large the picture is:
# 192 to 207 but for three that do not, and 247 of JPEG-LS.
START, SCAN = 0xD8, 0xDA
WITHOUT_CONTENT = (0x01, *range(0xD0, 0xD8))
FRAMES = (*(number for number in range(0xC0, 0xD0) if number not in (0xC4, 0xC8, 0xCC)), 0xF7)


def decode(image: Image, frames: list[Frame], apart: Apart) -> Iterator[tuple[Frame, np.ndarray]]:
    """The frames that lie in one file, each with its values: float32 [H, W], rescaled.

    Args:
        apart: decodes what GDCM has to decode.

    Raises:
        VolumeError: the file ends before, or is damaged; it comes after the frames that could be decoded.
    """
    wanted = {frame.index: frame for frame in sorted(frames, key=lambda frame: frame.index)}
    try:
        longest = image.start + image.count * _longest_frame(image.tags) + SLACK_BYTES
        stream = io.BytesIO(unpacked(read_file(image.file), longest, image.label))
        stream.seek(image.start)
        (pixel_data,) = islice(pydicom.filereader.data_element_generator(stream, *image.tags.original_encoding), 1)
        data = image.tags.copy()
        data[pixel_data.tag] = pixel_data
        if needs_gdcm(data):
            decoded = _by_gdcm(data, [*wanted], apart)
        else:
            _check_encapsulated(data)
            # What was checked is what this decoder reads, whichever others are installed.
            decoder = "pillow" if data.file_meta.TransferSyntaxUID in BY_PILLOW else ""
            if data.file_meta.TransferSyntaxUID in HTJ2K:
                # Pillow reads both alike, by what the frame itself says; pydicom would want another package for it.
                data.file_meta = copy(data.file_meta)
                data.file_meta.TransferSyntaxUID = JPEG_2000
            decoded = pydicom.pixels.iter_pixels(data, raw=True, indices=[*wanted], decoding_plugin=decoder)
        for frame, pixels in zip(wanted.values(), decoded, strict=True):
            with np.errstate(over="ignore"):
                yield frame, pixels * np.float32(frame.slope) + np.float32(frame.intercept)
    except VolumeError:
        raise
    except Exception:
        raise VolumeError(f"{image.label} is truncated or damaged; its pixels cannot be decoded.") from None


def _longest_frame(tags: "pydicom.Dataset") -> int:
    """Most bytes of a frame: what a poor encoder makes of noise."""
    return tags.Rows * tags.Columns * tags.BitsAllocated // 8 * 3 // 2 + 1024


def _check_encapsulated(dataset: "pydicom.Dataset"):
    """Raise an error for a compressed frame that would unpack to more than the tags allow."""
    syntax, count = dataset.file_meta.TransferSyntaxUID, int(dataset.get("NumberOfFrames") or 1)
    if syntax in UNCOMPRESSED:
        return
    size = dataset.Columns, dataset.Rows
    for frame in pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=count):
        # From a longer one, two bytes at a time could unpack to 128.
        if syntax == RLE and len(frame) > _longest_frame(dataset):
            raise ValueError("a run-length coded frame is longer than its pixels.")
        if syntax in BY_PILLOW:
            with open_picture(io.BytesIO(frame), "frame", ("JPEG", "JPEG2000")) as image:
                if image.size != size:
                    raise ValueError("a compressed frame has another size than the tags say.")


def _by_gdcm(dataset: "pydicom.Dataset", indices: list[int], apart: Apart) -> Iterator[np.ndarray]:
    """The values of some frames, int32 [H, W], in their order."""
    count, stored = int(dataset.get("NumberOfFrames") or 1), int(dataset.BitsStored)
    for index, frame in enumerate(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=count)):
        if index not in indices:
            continue
        bits, *size = _jpeg_size(frame)
        if size != [dataset.Rows, dataset.Columns, 1] or not 2 <= bits <= 16:
            raise ValueError("a compressed frame has another size than the tags say, or is coloured.")
        values = apart.decode(frame, dataset.file_meta.TransferSyntaxUID, dataset.Rows, dataset.Columns, bits)
        values = values.astype(np.int32) & ((1 << stored) - 1)
        sign = 1 << (stored - 1) if dataset.PixelRepresentation else 0
        yield (values ^ sign) - sign


def _jpeg_size(frame: bytes) -> tuple[int, int, int, int]:
    """(bits of a value, height, width, components) of a JPEG or JPEG-LS picture, by the part that says so."""
    if frame[:2] != bytes([0xFF, START]):
        raise ValueError("a compressed frame is no JPEG.")
    place = 2
    while True:
        mark, marker = struct.unpack_from("BB", frame, place)
        if mark != 0xFF or marker == SCAN:
            raise ValueError("a compressed frame does not say how large it is.")
        if marker == 0xFF or marker in WITHOUT_CONTENT:
            place += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", frame, place + 2)
        if marker in FRAMES:
            return struct.unpack_from(">BHHB", frame, place + 4)
        place += 2 + length
