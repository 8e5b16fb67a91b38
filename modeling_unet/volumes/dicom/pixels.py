"""The pixels of DICOM files, decoded by pydicom itself (uncompressed, RLE) and by Pillow (JPEG, JPEG 2000): no decoder
whose frames could not be checked before they are decoded.
"""

import io
from collections.abc import Iterator
from itertools import islice

import numpy as np

from ...image_processing_unet import open_picture
from ..scan import VolumeError, pydicom, read_file
from .tags import BY_PILLOW, RLE, UNCOMPRESSED, Frame, Image


PIXEL_DATA = 0x7FE00010


def decode(image: Image, frames: list[Frame]) -> Iterator[tuple[Frame, np.ndarray]]:
    """The frames that lie in one file, each with its values: float32 [H, W], rescaled.

    Raises:
        VolumeError: the file ends before, or is damaged; it comes after the frames that could be decoded.
    """
    wanted = {frame.index: frame for frame in sorted(frames, key=lambda frame: frame.index)}
    try:
        stream = io.BytesIO(read_file(image.file))
        stream.seek(image.start)
        (pixel_data,) = islice(pydicom.filereader.data_element_generator(stream, *image.tags.original_encoding), 1)
        data = image.tags.copy()
        data[PIXEL_DATA] = pixel_data
        _check_encapsulated(data)
        decoded = pydicom.pixels.iter_pixels(data, raw=True, indices=[*wanted])
        for frame, pixels in zip(wanted.values(), decoded, strict=True):
            with np.errstate(over="ignore"):
                yield frame, pixels * np.float32(frame.slope) + np.float32(frame.intercept)
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
