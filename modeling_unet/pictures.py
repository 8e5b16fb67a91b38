"""Arrays as picture files: what the page, the report and the command line write.

mask, slice, overlay, layer → encode_png → the bytes of a PNG file
probability → to_16_bit → encode_png
any of them → data_uri, to stand in a page itself
"""

import base64
import io
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from .overlay import check_probability


# zlib's fastest: a third of the time that Pillow's default of 6 takes, for files a tenth larger.
COMPRESS_LEVEL = 1
MAX_16_BIT = np.iinfo(np.uint16).max


def encode_png(array: np.ndarray) -> bytes:
    """The bytes of a PNG file that holds exactly these pixels.

    Args:
        array: bool [H, W], written as 0 and 255; uint8 [H, W], grey; uint8 [H, W, 3], RGB; uint8 [H, W, 4], RGBA with
            straight alpha; or uint16 [H, W], 16-bit grey.

    Raises:
        ValueError: another shape or type.
    """
    grey = array.ndim == 2 and array.dtype in (bool, np.uint8, np.uint16)
    color = array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8
    if array.size == 0 or not (grey or color):
        raise ValueError(
            f"a PNG of shape {array.shape} and type {array.dtype}; allowed are [H, W] of bool, uint8 or uint16, "
            "and [H, W, 3] or [H, W, 4] of uint8."
        )
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    content = io.BytesIO()
    # Of one channel, runs alone make smaller files than repetitions do, and are found sooner.
    strategy = zlib.Z_RLE if grey else zlib.Z_DEFAULT_STRATEGY
    Image.fromarray(array).save(content, format="PNG", compress_level=COMPRESS_LEVEL, compress_type=strategy)
    return content.getvalue()


def encode_labels(labels: np.ndarray, colors: Sequence[tuple[int, int, int]]) -> bytes:
    """The bytes of a PNG file with a palette, whose indices are the labels.

    Args:
        labels: uint8 [H, W]; 0 is shown in black.
        colors: (red, green, blue) of the labels 1, 2, …
    """
    picture = Image.fromarray(labels, mode="P")
    picture.putpalette([0, 0, 0, *(value for color in colors for value in color)])
    content = io.BytesIO()
    picture.save(content, format="PNG", compress_level=COMPRESS_LEVEL)
    return content.getvalue()


def data_uri(picture: np.ndarray, file_format: str = "PNG") -> str:
    """A picture as a file that stands in a page itself; one whose colours are equal is written as grey.

    Args:
        picture: as for `encode_png`; for "WEBP", which loses some detail, uint8 [H, W], [H, W, 3] or [H, W, 4].
        file_format: "PNG" or "WEBP".
    """
    if picture.ndim == 3 and picture.shape[2] == 3 and (picture == picture[..., :1]).all():
        picture = picture[..., 0]
    if file_format == "PNG":
        content = encode_png(picture)
    else:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, format=file_format)
        content = file.getvalue()
    return f"data:image/{file_format.lower()};base64,{base64.b64encode(content).decode()}"


def to_16_bit(probability: np.ndarray) -> np.ndarray:
    """Probabilities as a 16-bit picture, in which 65535 stands for 1: dividing by it gives them back.

    Args:
        probability: [H, W], 0 … 1.

    Returns:
        uint16 [H, W]; no value is farther than half a step of 1/65535 from its probability.

    Raises:
        ValueError: a value is outside 0 … 1.
    """
    check_probability(probability)
    return np.rint(probability * np.float32(MAX_16_BIT)).astype(np.uint16)
