"""Arrays as picture files: what the page, the report and the command line write.

mask, slice, overlay, layer → encode_png → the bytes of a PNG file
probability → to_16_bit → encode_png
"""

import io

import numpy as np
from PIL import Image


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
    Image.fromarray(array).save(content, format="PNG", compress_level=COMPRESS_LEVEL)
    return content.getvalue()


def to_16_bit(probability: np.ndarray) -> np.ndarray:
    """Probabilities as a 16-bit picture, in which 65535 stands for 1: dividing by it gives them back.

    Args:
        probability: [H, W], 0 … 1.

    Returns:
        uint16 [H, W]; no value is farther than half a step of 1/65535 from its probability.

    Raises:
        ValueError: a value is outside 0 … 1.
    """
    low, high = probability.min(), probability.max()
    # Written so that NaN fails too.
    if not (low >= 0 and high <= 1):
        raise ValueError(f"probability spans {low} to {high}; allowed are values from 0 to 1.")
    return np.rint(probability * np.float32(MAX_16_BIT)).astype(np.uint16)
