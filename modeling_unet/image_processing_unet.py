"""Any image → `pixel_values`; logits → probabilities and masks at the image's own size.

`read_picture`, `read_image` and `read_mask` are the only doors through which pictures enter the project: they check the
header before anything is decoded, and their errors name the file, the value and what is allowed. `open_picture` is
behind all of them, and limits what a hostile file can cost: seconds of time, and a few times the memory of its pixels.
"""

import importlib.util
import io
import math
import os
import re
import struct
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageFile, TiffTags, features
from transformers import BatchFeature, PilBackend
from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput
from transformers.image_utils import ChannelDimension, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import logging


logger = logging.get_logger(__name__)


IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".heic", ".heif", ".avif"),
    *(".jp2", ".j2k", ".jpf", ".jpx", ".npy"),
)
# Pillow reads many more, and some of those start other programs (EPS). GIF is here so that its error says "frames".
FILE_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000")
MASK_VALUES = (1, 255, 65535)  # inside the mask; outside it is 0
MIN_SIDE = 16
MAX_SIDE = 8192
MAX_MILLION_PIXELS = 100  # of a picture that is scaled down to `MAX_SIDE` while it is read
MAX_PAGES = 500  # of one file
MAX_LONGEST_EDGE = 2048  # px, of what the network sees; memory grows with its square
MIB = 1024 * 1024
MAX_FILE_BYTES = 128 * MIB
# A header costs time and memory by its reads: Pillow keeps every piece, joins pieces again and again, and makes objects
# of the numbers in them. Colour profiles take up to a megabyte; encoders write pixels in pieces of kilobytes.
MAX_HEADER_BYTES = 2 * MIB
MAX_HEADER_READS = 20_000
MAX_PIXEL_READS = 1_000_000
READS_PER_PAGE, BYTES_PER_PAGE = 200, 64 * 1024
# Many EXIF entries may point to the same bytes, and each is read on its own. A JPEG segment holds no more.
MAX_EXIF_BYTES = 64 * 1024
EXIF = b"Exif\0\0"
# Encoders write two dozen scans of one picture at most; the decoder passes over all pixels for each.
MAX_SCANS = 100
JPEG_MAGIC, START_OF_SCAN = b"\xff\xd8\xff", b"\xff\xda"
# Phones put more pictures behind the first one, such as a depth map. Pillow would read the table of them, whose entries
# may all claim the same bytes. Pixels do not look like this: in them another byte follows the first.
TABLE_OF_PICTURES = re.compile(rb"(\xff\xe2..)MPF\0", re.DOTALL)
# Pillow keeps only the high byte of every 16-bit colour. To get the low bytes, the file is decoded a second time with
# the byte order swapped; grey with alpha is decoded as RGBA, which keeps all of its four bytes.
ORDERS = (("L", "B"), ("B", "L"), ("N", "B" if sys.byteorder == "little" else "L"))
LOW_BYTES = {f"{mode};16{this}": f"{mode};16{other}" for mode in ("RGB", "RGBX", "RGBA") for this, other in ORDERS}
LOW_BYTES["LA;16B"] = "RGBA"
TIFF_SUBFILE, TIFF_BITS, TIFF_PLANES = 254, 258, 284
NUMBERS = "buif"  # kinds of NumPy's types
SLICE_SHAPES = "expected [H, W], [H, W, 1|3|4] or [1|3|4, H, W]"
NPY_MAGIC = b"\x93NUMPY"
NOT_AN_IMAGE = "the file is not an image that can be read (PNG, JPEG, WebP, TIFF, BMP, JPEG 2000, AVIF or NumPy's .npy)"
# A box of JPEG 2000 promises a size, and the codestream in another box may hold a larger picture, or millions of tiles.
CODESTREAM_MAGIC, JP2_MAGIC, CODESTREAM_BOX = b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n", b"jp2c"
MAX_TILES = 4096
# HEIC needs a package of its own. It and AVIF say how they are turned without EXIF data, whose other tags nobody needs.
BRAND, HEIC_BRANDS, AVIF_BRANDS = b"ftyp", (b"heic", b"heix", b"heim", b"heis"), (b"avif", b"avis")
EXIF_ITEM = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", re.DOTALL)
# EXIF orientation → the turn that makes the picture upright; 1 is upright already.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
IGNORE_INDEX = 255
OVERLAPPING = "multi_label_classification"  # as in UNetConfig
COLOURS = ("red", "green", "blue")  # names of channels that are those of colour pictures
PROBLEM_TYPES = (None, "single_label_classification", OVERLAPPING)

# The colours of a pixel may differ by this fraction of the range of all values, and by more in this share of the
# pixels. Slices of the public data set as JPEG or WebP of any quality differ by up to 0.03, with a tint of 7 % by 0.07,
# with noise of 6 of 255 in each colour by more than 0.15 nowhere; other contrasts in each colour do in over 17 % of the
# pixels, and a circle of 20 pixels drawn in red in 0.04 %.
COLOUR_DIFFERENCE = 0.15
COLOURED_SHARE = 0.0002
COLOURED = (
    "The colours of the picture differ and were averaged to grey; if they hold several sequences, or lines that "
    "somebody drew, give the slice with contrast alone."
)

FOREGROUND_FRACTION = 0.1  # of the 99th percentile
# Contrast-enhanced vessels and fat reach 3 to 4 standard deviations above the mean of the head; what lies beyond is an
# artefact that should not set the scale of the first convolution.
MAX_DEVIATION = 5.0


class InvalidImageError(ValueError):
    """A picture that cannot be used; the message is one sentence that names it and says what is allowed."""


class NonBinaryMaskError(InvalidImageError):
    """A readable picture whose values are not those of a mask.

    Attributes:
        values: its values in rising order; None if the mask is coloured.
    """

    def __init__(self, message: str, values: np.ndarray | None = None):
        super().__init__(message)
        self.values = values


@dataclass(frozen=True, eq=False)
class Picture:
    """A slice as it was read.

    Attributes:
        pixels: as `read_image` gives them.
        full_size: (width, height) in px of what was scaled down to them; None if nothing was.
    """

    pixels: np.ndarray
    full_size: tuple[int, int] | None = None


# -------------------------------------------------------------------------------------------------------------- reading


def read_picture(source, max_side: int = MAX_SIDE, page: int | None = None) -> Picture:
    """Read one slice, and scale it down if it is too large: by a whole number, each new pixel the mean of a square.

    Args:
        source: as for `read_image`.
        max_side: most pixels of a side.
        page: which one of a file that holds several, from 0; None allows a single one.

    Raises:
        InvalidImageError: as `read_image`, but for sides over 8192 pixels; over 100 million pixels.
    """
    return _read(source, max_side=max_side, page=page)


def read_pages(source, max_side: int = MAX_SIDE) -> Iterator[Picture]:
    """Read the pages of a TIFF one after another; any other file has one.

    Args:
        source: path or binary file object.
        max_side: as for `read_picture`.

    Raises:
        InvalidImageError: as `read_picture`.
    """
    name, content = _content_of(source)
    for page in range(len(_sizes(content, name))):
        yield _read_content(content, name, max_side=max_side, page=page)


def read_sizes(source) -> list[tuple[int, int]]:
    """(width, height) of every page of a file, by its header; sources and errors as for `read_pages`."""
    name, content = _content_of(source)
    return _sizes(content, name)


def size_within(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """(width, height) of what `read_picture` makes of a picture of that size."""
    factor = _factor(size, max_side)
    return -(-size[0] // factor), -(-size[1] // factor)


def read_image(source) -> np.ndarray:
    """Read one slice without changing its values.

    Args:
        source: path (`str` or `os.PathLike`), binary file object, PIL image, NumPy array, torch tensor or what
            `read_picture` returned. Arrays, also those of `.npy` files, are [H, W], channels last [H, W, 1|3|4] or
            channels first [1|3|4, H, W], of booleans, integers or floats. Four channels are red, green, blue and
            opacity, which are integers.

    Returns:
        [H, W] or [H, W, 3] in the source's own type (uint8, uint16, int32, float32, …), turned upright by the EXIF
        orientation, palettes expanded, transparency laid over black; of a JPEG with several pictures, the first, and of
        a TIFF with smaller copies of its picture, the picture.

    Raises:
        InvalidImageError: not an image, truncated, several pages or frames, a side under 16 or over 8192 pixels (known
            from the header, before decoding), NaN or infinite values, an impossible shape or type.
    """
    return _read(source).pixels


def read_channels(source, names: Sequence[str]) -> np.ndarray:
    """Read one slice of several channels.

    Args:
        source: a list of as many pictures, in the order of the names, each as in [`read_image`]; an array or a tensor
            [C, H, W], or a `.npy` file of one; where the names are those of colours, a colour picture.
        names: what the channels are called.

    Returns:
        [C, H, W] of a type that holds them all.

    Raises:
        InvalidImageError: as `read_image`, for one of them; another number of channels; or their sizes differ.
    """
    needed = f"{len(names)} channels ({', '.join(names)})"
    if isinstance(source, (list, tuple)):
        if len(source) != len(names):
            raise InvalidImageError(f"{len(source)} pictures were given for a slice of {needed}; give one for each.")
        planes = [image if image.ndim == 2 else to_grayscale(image) for image in map(read_image, source)]
    else:
        planes = _planes_of(source, names)
    if not planes:
        raise InvalidImageError(
            f"{_name(source)}: a slice has {needed} here; give a list of as many pictures, or an array "
            f"[{len(names)}, height, width]."
        )
    if len({plane.shape for plane in planes}) > 1:
        sizes = [f"{name} {plane.shape[1]} × {plane.shape[0]}" for name, plane in zip(names, planes, strict=True)]
        raise InvalidImageError(f"The channels of a slice have the sizes {', '.join(sizes)}; they must be of one size.")
    return np.stack(planes)


def _planes_of(source, names: Sequence[str]) -> list[np.ndarray]:
    """Those of an array or of a colour picture, [H, W] each; none of what has other channels."""
    name = _name(source)
    if isinstance(source, torch.Tensor):
        source = _array_of(source)
    if isinstance(source, (str, os.PathLike, io.IOBase)):
        _, content = _content_of(source)
        source = _open_array(content, name) if content.startswith(NPY_MAGIC) else _read_content(content, name)
    if isinstance(source, np.ndarray) and source.ndim == 3 and len(source) == len(names):
        return [_picture_of(plane, name, None).pixels for plane in source]
    if not {*names} <= {*COLOURS}:
        return []
    image = read_image(source)
    return [image[..., COLOURS.index(color)] for color in names] if image.ndim == 3 else []


def read_mask(source, threshold: float | None = None) -> np.ndarray:
    """Read one mask: a source as in [`read_image`] whose values are 0/1, 0/255, 0/65535 or booleans → bool [H, W].

    Args:
        source: as in `read_labels`.
        threshold: if given, any values are taken and those above it are the mask, e.g. 127 for a mask that was saved as
            JPEG.

    Raises:
        InvalidImageError: as `read_image`.
        NonBinaryMaskError: any other values (without a threshold), which the message lists, or colours.
    """
    mask, name = read_labels(source), _name(source)
    if threshold is not None:
        return mask > threshold
    values = np.unique(mask)
    if not any(np.isin(values, (0, inside)).all() for inside in MASK_VALUES):
        shown = ", ".join(f"{value:g}" for value in values[:6]) + (", …" if len(values) > 6 else "")
        raise NonBinaryMaskError(
            f"{name}: the mask holds {len(values)} different values ({shown}); allowed are 0/1, 0/255, 0/65535 or "
            "booleans.",
            values,
        )
    return mask != 0


def read_labels(source) -> np.ndarray:
    """Read one mask without changing its values: a source as in [`read_image`] → [H, W] of any type.

    The values of a picture with a palette are its indices, unless it shows black and white alone: then white is 255.

    Raises:
        InvalidImageError: as `read_image`.
        NonBinaryMaskError: colours.
    """
    mask, name = _read(source, keep_palette_indices=True).pixels, _name(source)
    if mask.ndim == 3:
        if (mask != mask[..., :1]).any():
            raise NonBinaryMaskError(
                f"{name}: the mask is coloured; a mask has one channel with the values 0/1, 0/255 or 0/65535."
            )
        mask = mask[..., 0]
    return mask


def to_grayscale(image: np.ndarray) -> np.ndarray:
    """[H, W] or [H, W, 3] of any numeric type → float32 [H, W]; colours are averaged, values are not rescaled."""
    image = image.astype(np.float32)
    return image.mean(axis=2) if image.ndim == 3 else image


def standardize(
    plane: torch.Tensor, foreground_fraction: float = FOREGROUND_FRACTION, max_deviation: float = MAX_DEVIATION
) -> tuple[torch.Tensor, float]:
    """The project's one rule for intensities: mean 0 and deviation 1 over the foreground, whatever the scale was.

    The foreground is every pixel above a fraction of the 99th percentile; a plane with values below 0 is first shifted
    to start there.

    Args:
        plane: float32 [H, W], finite.
        foreground_fraction: in [0, 1).
        max_deviation: what lies farther from the mean is cut off there; `math.inf` keeps it.

    Returns:
        float32 [H, W], all zeros for a constant plane; and the value that black, 0 in the plane, has in it.
    """
    plane = plane - min(plane.min().item(), 0.0)
    bright = float(np.percentile(plane.numpy(), 99))
    foreground = plane[plane > foreground_fraction * bright]
    if bright <= 0 or foreground.numel() < 2 or (deviation := foreground.std().item()) <= 1e-6 * bright:
        return torch.zeros_like(plane), 0.0
    mean = foreground.mean().item()
    standardized = ((plane - mean) / deviation).clamp(-max_deviation, max_deviation)
    return standardized, max(-mean / deviation, -max_deviation)


def is_coloured(image: np.ndarray) -> bool:
    """Whether the colours of a picture show different things, so that their average shows none of them.

    Noise, a slight tint and what JPEG and WebP leave in the colours of a grey picture do not count.

    Args:
        image: [H, W] or [H, W, 3], as `read_image` returns it.
    """
    if image.ndim == 2:
        return False
    red, green, blue = np.moveaxis(image if image.dtype.kind == "u" else image.astype(np.float32), 2, 0)
    highest, lowest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    limit = COLOUR_DIFFERENCE * (float(highest.max()) - float(lowest.min()))
    return bool((highest - lowest > limit).mean() > COLOURED_SHARE)


def _name(source) -> str:
    """What to call a source in a message."""
    if isinstance(source, (str, os.PathLike)):
        return printable(Path(source).name) or repr(os.fspath(source))
    if isinstance(source, Image.Image):
        return printable(Path(getattr(source, "filename", "")).name) or "image"
    if isinstance(source, io.IOBase):
        return printable(Path(str(getattr(source, "name", ""))).name) or "file"
    return "array"


def printable(text: str) -> str:
    """Text without the line breaks and control codes that somebody may have put into the name of a file."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _read(source, keep_palette_indices: bool = False, max_side: int | None = None, page: int | None = None) -> Picture:
    """What is behind every door; `max_side` as for `read_picture`, None refuses what has more than `MAX_SIDE`."""
    if isinstance(source, Picture):
        return source
    if isinstance(source, (str, os.PathLike, io.IOBase)):
        name, content = _content_of(source)
        return _read_content(content, name, keep_palette_indices, max_side, page)
    name = _name(source)
    if isinstance(source, Image.Image):
        _check_header(source, name, max_side)
        return _picture_of(_decode(source, name, keep_palette_indices), name, max_side)
    if isinstance(source, torch.Tensor):
        source = _array_of(source)
    if isinstance(source, np.ndarray):
        return _picture_of(source, name, max_side)
    raise InvalidImageError(
        f"An input of type {type(source).__name__} is not an image; give a path, a file, a PIL image, an array or a "
        "tensor."
    )


def _array_of(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _content_of(source) -> tuple[str, bytes]:
    """What to call a path or a file, and its bytes."""
    name = _name(source)
    return name, _content(source if isinstance(source, io.IOBase) else _existing_file(Path(source), name), name)


def _read_content(
    content: bytes,
    name: str,
    keep_palette_indices: bool = False,
    max_side: int | None = None,
    page: int | None = None,
) -> Picture:
    if content.startswith(NPY_MAGIC):
        return _picture_of(_open_array(content, name), name, max_side)
    with _open_content(content, name, FILE_FORMATS, max_side, page) as image:
        size, factor = image.size, 1 if max_side is None else _factor(image.size, max_side)
        # A decoder of JPEG halves a picture, up to three times, in less time than it takes to decode all of it.
        halved = min(factor & -factor, 8)
        if halved > 1 and image.format == "JPEG":
            image.draft(None, (size[0] // halved, size[1] // halved))
        decoded = image.size
        picture = _picture_of(pixels := _decode(image, name, keep_palette_indices), name, max_side)
    if decoded == size:
        return picture
    return Picture(picture.pixels, size if pixels.shape[1::-1] == decoded else size[::-1])


def _sizes(content: bytes, name: str) -> list[tuple[int, int]]:
    if content.startswith(NPY_MAGIC):
        height, width, *_ = _channels_last(_open_array(content, name), name).shape
        return [(width, height)]
    image, metered = _open_header(content, name, FILE_FORMATS)
    with image:
        return [size for _, size in _pages(image, name, metered)]


def _open_array(content: bytes, name: str) -> np.ndarray:
    """The array of a `.npy` file, which shares the memory of its content: nothing in it is run, nothing reserved."""
    file = io.BytesIO(content)
    try:
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[np.lib.format.read_magic(file)]
        shape, in_columns, dtype = read_header(file)
    except Exception as error:
        raise InvalidImageError(f"{name}: the header of the .npy file is damaged or of another version.") from error
    if dtype.kind not in NUMBERS:
        raise InvalidImageError(f"{name}: values of type {dtype.name} are not an image; use integers or floats.")
    if len(shape) not in (2, 3):
        raise InvalidImageError(f"{name}: an array of {len(shape)} dimensions is not a slice; {SLICE_SHAPES}.")
    size = len(content) - file.tell()
    if min(shape) < 1 or math.prod(shape) * dtype.itemsize != size:  # NumPy's own product would overflow
        raise InvalidImageError(f"{name}: the .npy file is damaged: {size:,} bytes are not what its header promises.")
    return np.frombuffer(content, dtype, offset=file.tell()).reshape(shape, order="F" if in_columns else "C")


def _existing_file(path: Path, name: str) -> Path:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise InvalidImageError(f"{name}: there is no such file.") from error
    except OSError as error:
        raise InvalidImageError(f"{name}: the file cannot be read: {error.strerror}.") from error
    return path


class _MeteredFile(io.BytesIO):
    """The bytes of a picture's file, with limits on the bytes and the reads that its header may take."""

    def __init__(self, content: bytes, name: str):
        super().__init__(content)
        self.picture = name
        self.reads_left, self.bytes_left, self.exif_bytes_left = MAX_HEADER_READS, MAX_HEADER_BYTES, MAX_EXIF_BYTES

    def read(self, size: int | None = -1) -> bytes:
        piece = super().read(size)
        self.reads_left -= 1
        # A decoder that wants the whole file (WebP) asks for no size.
        self.bytes_left -= len(piece) if size is not None and size >= 0 else 0
        # Pillow joins and parses the EXIF data of a JPEG while it opens the file, so they are counted here.
        self.exif_bytes_left -= len(piece) if piece.startswith(EXIF) else 0
        if min(self.reads_left, self.bytes_left, self.exif_bytes_left) < 0:
            raise InvalidImageError(
                f"{self.picture}: the file is in too many pieces or holds too much beside its pixels; save the slice "
                "as a plain PNG."
            )
        return piece

    def expect_page(self):
        """Call when one more page was found: its header may take some reads and bytes too."""
        self.reads_left += READS_PER_PAGE
        self.bytes_left += BYTES_PER_PAGE

    def expect_pixels(self, count: int):
        """Call when the header is read: pixels may take any number of bytes, in reads that grow with their `count`."""
        self.reads_left = min(MAX_HEADER_READS + 2 * count, MAX_PIXEL_READS)
        self.bytes_left = self.exif_bytes_left = sys.maxsize


def open_picture(file: Path | io.IOBase, name: str, formats: tuple[str, ...] = FILE_FORMATS) -> Image.Image:
    """Open a file that a stranger may have made: its header is read and checked, and its pixels may be decoded.

    Args:
        file: its path or the open file.
        name: what to call it in a message.
        formats: those that are tried, as Pillow calls them.

    Raises:
        InvalidImageError: as `read_image`.
    """
    return _open_content(_content(file, name), name, formats)


def _open_content(
    content: bytes, name: str, formats: tuple[str, ...], max_side: int | None = None, page: int | None = None
) -> Image.Image:
    image, metered = _open_header(content, name, formats)
    try:
        _check_header(image, name, max_side, page, metered)
        if image.format == "JPEG2000":
            _check_codestream(content, image.size, name)
        if image.format == "TIFF":
            _forget_nested_tags(image, name)
    except InvalidImageError:
        image.close()
        raise
    metered.expect_pixels(image.width * image.height)
    return image


def _open_header(content: bytes, name: str, formats: tuple[str, ...]) -> tuple[Image.Image, _MeteredFile]:
    if content.startswith(JPEG_MAGIC) and (scans := content.count(START_OF_SCAN)) > MAX_SCANS:
        raise InvalidImageError(f"{name}: the JPEG holds {scans:,} scans; at most {MAX_SCANS} are accepted.")
    if content.startswith(JPEG_MAGIC):
        content = TABLE_OF_PICTURES.sub(rb"\1\0\0\0\0", content)
    if content[4:8] == BRAND:
        content = EXIF_ITEM.sub(rb"\1none", content)
        formats = _by_brand(content, name, formats)
    metered = _MeteredFile(content, name)
    return _open(metered, name, formats), metered


def _by_brand(content: bytes, name: str, formats: tuple[str, ...]) -> tuple[str, ...]:
    """The formats; HEIC or AVIF alone if it is one of these."""
    if formats != FILE_FORMATS:
        return formats
    if any(brand in content[8:64] for brand in AVIF_BRANDS):
        if not features.check("avif"):
            raise InvalidImageError(f"{name}: this Pillow was built without AVIF; save the slice as PNG.")
        return ("AVIF",)
    if not any(brand in content[8:64] for brand in HEIC_BRANDS):
        return formats
    if importlib.util.find_spec("pillow_heif") is None:
        raise InvalidImageError(
            f"{name}: HEIC pictures need the package pillow-heif, which is not installed (pip install pillow-heif); or "
            "save the slice as PNG."
        )
    importlib.import_module("pillow_heif").register_heif_opener(thumbnails=False)
    return ("HEIF",)


def _check_codestream(content: bytes, size: tuple[int, int], name: str):
    """Raise an error where a JPEG 2000 would be decoded to another size than its header promises, or in many tiles."""
    start = 0
    while content.startswith(JP2_MAGIC) and content[start + 4 : start + 8] != CODESTREAM_BOX and start < len(content):
        length, longer = struct.unpack_from(">I4xQ", content.ljust(start + 16, b"\0"), start)
        start += max(longer if length == 1 else length, 8)
    start = content.find(CODESTREAM_MAGIC, start, start + 32)
    try:
        right, bottom, left, top, tile_width, tile_height = struct.unpack_from(">6I", content, start + 8)
        (channels,) = struct.unpack_from(">H", content, start + 40)
        tiles = -(-right // tile_width) * -(-bottom // tile_height)
    except (struct.error, ZeroDivisionError):
        start = -1
    if start < 0 or (right - left, bottom - top) != size or channels > 4 or tiles > MAX_TILES:
        raise InvalidImageError(
            f"{name}: the JPEG 2000 is damaged, or has over 4 channels or {MAX_TILES:,} tiles; save the slice as PNG."
        )


def _content(file: Path | io.IOBase, name: str) -> bytes:
    """The bytes of a file, from its start."""
    try:
        if isinstance(file, Path):
            with file.open("rb") as opened:
                return _content(opened, name)
        # Asking for more bytes than the file has would first reserve memory for all of them.
        size = file.seek(0, os.SEEK_END) if file.seekable() else MAX_FILE_BYTES + 1
        if file.seekable():
            file.seek(0)
        content = file.read(min(size, MAX_FILE_BYTES + 1))
    except InvalidImageError:
        raise
    except OSError as error:
        raise InvalidImageError(f"{name}: the file cannot be read: {error.strerror or error}.") from error
    except Exception as error:
        raise InvalidImageError(f"{name}: {NOT_AN_IMAGE}.") from error
    if not content:
        raise InvalidImageError(f"{name}: the file is empty (0 bytes).")
    if len(content) > MAX_FILE_BYTES:
        raise InvalidImageError(f"{name}: the file has over {MAX_FILE_BYTES // MIB} MiB, which no slice needs.")
    return content


def _open(file: _MeteredFile, name: str, formats: tuple[str, ...]) -> Image.Image:
    """Nothing but the header is read."""
    try:
        return _open_quietly(file, formats)
    except InvalidImageError:
        raise
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        number = f"{int(pixels.group()):,}" if pixels else "too many"
        raise InvalidImageError(
            f"{name}: the image has {number} pixels; at most {MAX_MILLION_PIXELS} million are accepted."
        ) from error
    # Pillow's decoders raise whatever they stumble over in a damaged file.
    except Exception as error:
        raise InvalidImageError(f"{name}: {NOT_AN_IMAGE}.") from error


def _open_quietly(file, formats: tuple[str, ...]) -> ImageFile.ImageFile:
    """Without Pillow's warning of many pixels, which are counted here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(file, formats=formats)


def _check_header(
    image: Image.Image,
    name: str,
    max_side: int | None,
    page: int | None = None,
    metered: _MeteredFile | None = None,
):
    """Raise an error for a picture that cannot be used; of several pages, turn to one."""
    _check_size(image.size, name, max_side)
    pages = _pages(image, name, metered)
    if page is None and len(pages) > 1:
        raise InvalidImageError(
            f"{name}: the file holds {len(pages)} pages; give one slice per file, or read one page after another by "
            "read_pages."
        )
    if page:
        if page >= len(pages):
            raise InvalidImageError(f"{name}: there is no page {page + 1} in it; the file holds {len(pages)}.")
        image.seek(pages[page][0])
        _check_size(image.size, name, max_side)


def _pages(image: Image.Image, name: str, metered: _MeteredFile | None = None) -> list[tuple[int, tuple[int, int]]]:
    """Place and size of the pages of a TIFF, without smaller copies; of any other file, which may hold one picture, and
    a JPEG more behind it.
    """
    pages = [(0, image.size)]
    try:
        if image.format != "TIFF":
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if frames > 1:
                raise InvalidImageError(f"{name}: the file holds {frames} frames; give one slice per file.")
            return pages
        for place in count(1) if getattr(image, "is_animated", False) else ():
            image.seek(place)
            if not getattr(image, "tag_v2", {}).get(TIFF_SUBFILE, 0) & 1:
                pages.append((place, image.size))
            if metered:
                metered.expect_page()
            if place >= MAX_PAGES:
                most = f"at most {MAX_PAGES} are accepted"
                raise InvalidImageError(f"{name}: the file holds over {MAX_PAGES} pages; {most}.")
    except EOFError:  # behind the last page
        image.seek(0)
    except InvalidImageError:
        raise
    except Exception as error:
        raise InvalidImageError(f"{name}: the image is damaged; its frames cannot be counted.") from error
    return pages


def _forget_nested_tags(image: Image.Image, name: str):
    """Keep Pillow from reading the nested tags of a TIFF, which it would do by itself after the pixels."""
    try:
        exif = image.getexif()
    except InvalidImageError:
        raise
    except Exception as error:
        raise InvalidImageError(f"{name}: the image is damaged; its tags cannot be read.") from error
    for tag in TiffTags.TAGS_V2_GROUPS:
        exif.pop(tag, None)


def _decode(image: Image.Image, name: str, keep_palette_indices: bool) -> np.ndarray:
    raw_mode = _deep_raw_mode(image)
    if raw_mode and raw_mode not in LOW_BYTES:
        raise InvalidImageError(
            f"{name}: 16-bit colours are not read in full the way this file holds them; save it as a 16-bit PNG."
        )
    try:
        pixels = _low_bytes(image, raw_mode, name) if raw_mode else None
        image = _upright(image, name)
    except InvalidImageError:
        raise
    except Exception as error:
        raise InvalidImageError(f"{name}: the image is truncated or damaged and cannot be decoded.") from error
    if pixels is not None:
        pixels.view(np.uint8)[..., 1::2] = np.asarray(image)
        if (transparent := image.info.get("transparency")) is not None:
            pixels *= (pixels != transparent).any(axis=2, keepdims=True)
        return pixels
    if image.mode == "P" and keep_palette_indices:
        return np.asarray(image.convert("L") if _is_black_and_white(image) else image)
    if image.mode in ("LA", "PA") or ("transparency" in image.info and image.mode in ("P", "L", "RGB")):
        image = image.convert("RGBA")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "RGB", "RGBA", "F", "I") and not image.mode.startswith("I;16"):
        image = image.convert("RGB")
    return np.asarray(image)


def _upright(image: Image.Image, name: str) -> Image.Image:
    """The decoded image, turned as its EXIF orientation says."""
    image.load()
    # EXIF data come as bytes, or as text with two characters per byte.
    exif = max(len(image.info.get(key) or b"") for key in ("exif", "Raw profile type exif"))
    if exif > MAX_EXIF_BYTES + len(EXIF):
        raise InvalidImageError(f"{name}: its EXIF data take {exif:,} bytes; at most {MAX_EXIF_BYTES:,} are accepted.")
    # Pillow's own `exif_transpose` would write all other tags anew, at any cost.
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if turn is None else image.transpose(turn)


def _deep_raw_mode(image: Image.Image) -> str | None:
    """Pillow's raw mode of a file with 16-bit colours that is not decoded yet; None if it has no such colours."""
    if image.format not in ("PNG", "TIFF") or len(image.getbands()) == 1:
        return None
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return None
    args = image.tile[0].args or ""
    raw_mode = args if isinstance(args, str) else args[0]
    tags = getattr(image, "tag_v2", {})
    if tags.get(TIFF_PLANES, 1) != 1:
        return f"{raw_mode} in planes" if max(tags.get(TIFF_BITS, (8,))) > 8 else None
    return raw_mode if ";16" in raw_mode else None


def _low_bytes(image: Image.Image, raw_mode: str, name: str) -> np.ndarray:
    """The low bytes of 16-bit colours, of which Pillow reads the high ones: little-endian [H, W, 3|4]."""
    assert isinstance(image, ImageFile.ImageFile) and image.fp  # only files have a raw mode
    again = _open_quietly(image.fp, FILE_FORMATS)
    again.seek(image.tell())
    for index, tile in enumerate(again.tile):
        args = LOW_BYTES[raw_mode] if isinstance(tile.args, str) else (LOW_BYTES[raw_mode], *(tile.args or ())[1:])
        again.tile[index] = tile._replace(args=args)
    low = np.asarray(_upright(again, name))
    return (low[..., [1, 1, 1, 3]] if raw_mode == "LA;16B" else low).astype("<u2", order="C")


def _is_black_and_white(image: Image.Image) -> bool:
    """Whether the picture shows black, and nothing else but white, each by one index; other palettes colour labels."""
    shown = {color for _, color in image.convert("RGB").getcolors(2) or ()}
    return (0, 0, 0) in shown <= {(0, 0, 0), (255, 255, 255)} and len(shown) == len(image.getcolors() or ())


def _factor(size: tuple[int, int], max_side: int) -> int:
    """By how much a picture is scaled down to have at most `max_side` px a side."""
    return max(-(-max(size) // max_side), 1)


def _check_size(size: tuple[int, int], name: str, max_side: int | None):
    width, height = size
    if max_side is None and max(size) > MAX_SIDE:
        raise InvalidImageError(
            f"{name}: the image is {width} × {height} pixels; each side may have at most {MAX_SIDE} pixels."
        )
    if width * height > MAX_MILLION_PIXELS * 1_000_000:
        raise InvalidImageError(
            f"{name}: the image has {width} × {height} pixels; at most {MAX_MILLION_PIXELS} million are accepted."
        )
    factor = _factor(size, max_side or MAX_SIDE)
    if min(size) < MIN_SIDE * factor:
        beside = " beside so long a one" if factor > 1 else ""
        least = f"at least {MIN_SIDE * factor} pixels{beside}"
        raise InvalidImageError(f"{name}: the image is {width} × {height} pixels; each side needs {least}.")


def _channels_last(array: np.ndarray, name: str) -> np.ndarray:
    """[H, W], [H, W, 1|3|4] or [1|3|4, H, W] of numbers → the first two."""
    if array.dtype.kind not in NUMBERS:
        raise InvalidImageError(f"{name}: values of type {array.dtype} are not an image; use integers or floats.")
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = np.moveaxis(array, 0, 2)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InvalidImageError(f"{name}: an array of shape {array.shape} is not a slice; {SLICE_SHAPES}.")
    return array


def _picture_of(array: np.ndarray, name: str, max_side: int | None) -> Picture:
    """An array of any shape and type that is allowed → what the doors return."""
    array = _channels_last(array, name)
    size = array.shape[1], array.shape[0]
    _check_size(size, name, max_side)
    with np.errstate(over="ignore"):
        finite = array.dtype.kind != "f" or np.isfinite(array.astype(np.float32)).all()
    if not finite:
        raise InvalidImageError(
            f"{name}: the image holds NaN or infinite values; every value must be finite (float32)."
        )
    if array.dtype.kind == "b":
        array = array.astype(np.uint8) * 255
    if array.ndim == 3 and array.shape[2] == 4:
        if array.dtype.kind == "f" or array.min() < 0 or array.max() > _opaque(array):
            raise InvalidImageError(
                f"{name}: four channels of type {array.dtype} with values from {array.min():g} to {array.max():g} are "
                "no colours with opacity, which are integers from 0 to 255; of several sequences give the one with "
                "contrast alone."
            )
        array = _over_black(array)
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    factor = 1 if max_side is None else _factor(size, max_side)
    return Picture(array) if factor == 1 else Picture(_scaled_down(array, factor), size)


def _scaled_down(image: np.ndarray, factor: int) -> np.ndarray:
    """The mean of every square of `factor` px a side, in the picture's own type; at the edge of what is left of one."""
    starts = np.arange(0, image.shape[1], factor)
    counts = np.diff(starts, append=image.shape[1]).reshape(-1, *[1] * (image.ndim - 2))
    scaled = np.empty((-(-image.shape[0] // factor), len(starts), *image.shape[2:]), image.dtype)
    # Row by row, as in `_over_black`.
    for row, target in enumerate(scaled):
        rows = image[row * factor : (row + 1) * factor]
        means = np.add.reduceat(rows.sum(axis=0, dtype=np.float64), starts, axis=0) / (len(rows) * counts)
        target[:] = means if image.dtype.kind == "f" else means.round()
    return scaled


def _over_black(rgba: np.ndarray) -> np.ndarray:
    """[H, W, 4] → [H, W, 3]: what is transparent becomes black, as the background of a slice is."""
    opaque = _opaque(rgba)
    rgb = np.empty((*rgba.shape[:2], 3), rgba.dtype)
    # Row by row, because the floats of a large image at once take gigabytes.
    for source, target in zip(rgba, rgb, strict=True):
        blended = source[:, :3] * (source[:, 3:].astype(np.float32) / opaque)
        target[:] = blended.round()
    return rgb


def _opaque(rgba: np.ndarray) -> int:
    """The highest value; other integers than these come from code that computed with 8-bit values."""
    return 65535 if rgba.dtype.name == "uint16" else 255


# ------------------------------------------------------------------------------------------------------------ processor

# Options of every image processor that this one does not have: the values that change nothing, and what it does
# instead. The factor is the base class's default, which earlier releases saved in their files.
STANDARDIZES = "standardises every slice by its own mean and deviation"
NOT_DONE = {
    "do_convert_rgb": ((None, False), "makes every slice grey"),
    "do_center_crop": ((None, False), "keeps every slice whole"),
    "crop_size": ((None,), "keeps every slice whole"),
    "do_rescale": ((None, False), STANDARDIZES),
    "rescale_factor": ((None, 1 / 255), STANDARDIZES),
    "do_normalize": ((None, False), STANDARDIZES),
    "image_mean": ((None, 0), STANDARDIZES),
    "image_std": ((None, 1), STANDARDIZES),
    "pad_size": ((None,), "pads to a square of `size`"),
    "data_format": ((None, ChannelDimension.FIRST), "puts channels first, as the model takes them"),
    "device": ((None, "cpu", torch.device("cpu")), "prepares slices on the CPU"),
}


class UNetImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    foreground_fraction (`float`, defaults to `self.foreground_fraction`):
        Pixels above this fraction of the 99th percentile are the head; mean and deviation are taken over them alone.
    problem_type (`str`, *optional*):
        As in [`UNetConfig`]: "multi_label_classification" for a model whose classes overlap.
    channel_names (`list[str]`, *optional*):
        As in [`UNetConfig`]: of a model that takes several channels, what they are called.
    """

    foreground_fraction: float
    problem_type: str | None
    channel_names: list[str] | None


class UNetImageProcessor(PilBackend):
    r"""
    Prepares slices for [`UNetForSemanticSegmentation`] and brings its logits back to the slices' own size.

    A slice is made grey, fitted into a square of `size["longest_edge"]` pixels with its aspect ratio kept,
    standardised, and padded at the bottom and right with the value of black.

    Standardisation is scale-free, so that x and k·x, 8 and 16 bit give the same `pixel_values`: the foreground is every
    pixel above `foreground_fraction` of the 99th percentile (a rule such as `x > 0` would count the noise that
    compression leaves in the background), and the slice is shifted and scaled to mean 0 and deviation 1 over it.
    Images with negative values are first shifted to start at 0.

    Accepts whatever [`read_image`] does, one or a list, or a 4-D batch; masks likewise, as [`read_mask`] does: of one
    class. With `channel_names`, a slice is what [`read_channels`] takes, and each channel is standardised by itself.

    Example:

    ```python
    >>> import numpy as np
    >>> from modeling_unet import UNetImageProcessor

    >>> processor = UNetImageProcessor()
    >>> processor(np.random.rand(300, 200), return_tensors="pt")["pixel_values"].shape
    torch.Size([1, 1, 256, 256])
    ```
    """

    valid_kwargs = UNetImageProcessorKwargs
    model_input_names = ["pixel_values"]  # noqa: RUF012 - the base class's own attribute

    do_resize = True
    size = {"longest_edge": 256}  # noqa: RUF012
    resample = PILImageResampling.BILINEAR
    default_to_square = False
    foreground_fraction = FOREGROUND_FRACTION
    problem_type: str | None = None
    channel_names: list[str] | None = None
    rescale_factor = None  # type: ignore[assignment] # so that none is saved

    def __init__(self, **kwargs: Unpack[UNetImageProcessorKwargs]):
        super().__init__(**kwargs)  # type: ignore[misc] # it takes every option that `valid_kwargs` names
        _check_numbers(self.do_resize, self.size, self.foreground_fraction)
        if self.problem_type not in PROBLEM_TYPES:
            allowed = ", ".join(map(str, PROBLEM_TYPES))
            raise ValueError(f"`problem_type` is {self.problem_type!r}; allowed are {allowed}.")
        _check_channel_names(self.channel_names)

    def preprocess(self, images, segmentation_maps=None, **kwargs: Unpack[UNetImageProcessorKwargs]) -> BatchFeature:
        r"""
        Args:
            images: one slice or a list of slices, as [`read_image`] takes them, or a batch [B, C, H, W] | [B, H, W, C];
                with `channel_names` as [`read_channels`] takes them, where a list of pictures is one slice, unless they
                are colour pictures.
            segmentation_maps: the masks that belong to them, of the same native size.
            return_tensors: `"pt"` or `"np"` for stacked arrays.

        Returns:
            `BatchFeature` with `pixel_values` float32 [B, C, S, S], where C is 1 without `channel_names`; and, given
            masks, `labels` int64 [B, S, S]: 0, 1, and 255 where the slice was padded.

        Raises:
            InvalidImageError: a picture that cannot be used, or a mask whose size is not its slice's.
            ValueError: no image at all, or an option that this processor does not have.
        """
        return super().preprocess(images, segmentation_maps, **kwargs)

    def to_dict(self) -> dict:
        """The options that have an effect; they are what is saved."""
        options = {name: value for name, value in super().to_dict().items() if not _asks_for_nothing(name, value)}
        for name in ("problem_type", "channel_names"):
            if getattr(self, name) is None:
                options.pop(name, None)
        return options

    def _validate_preprocess_kwargs(self, **kwargs):  # type: ignore[override] # options come by name alone
        for name, (_, instead) in NOT_DONE.items():
            value = kwargs.get(name)
            if not _asks_for_nothing(name, value):
                value = dict(value) if isinstance(value, SizeDict) else value
                raise ValueError(f"`{name}` is {value}; this processor {instead}: leave the option out.")
        do_pad = kwargs.get("do_pad")
        if do_pad not in (None, kwargs.get("do_resize")):
            raise ValueError(f"`do_pad` is {do_pad}; this processor pads what it resizes: leave the option out.")
        super()._validate_preprocess_kwargs(**kwargs)

    def _preprocess_image_like_inputs(  # type: ignore[override] # with every option that is read here
        self, images, segmentation_maps, size: SizeDict, do_resize: bool, foreground_fraction: float, **kwargs
    ) -> BatchFeature:
        _check_numbers(do_resize, size, foreground_fraction)
        side = self._longest_edge(size, kwargs.get("resample")) if do_resize else None
        names = kwargs.get("channel_names")
        _check_channel_names(names)
        if names:
            slices = [np.moveaxis(read_channels(image, names), 0, 2) for image in _as_slices(images, names)]
        else:
            slices = [read_image(image) for image in _as_list(images)]
        if not slices:
            raise ValueError("There are no images; give at least one.")
        if not names and any(map(is_coloured, slices)):
            logger.warning_once(COLOURED)
        prepare = _prepare_channels if names else _prepare_slice
        data = {"pixel_values": [prepare(image, side, foreground_fraction) for image in slices]}
        if segmentation_maps is not None:
            sources = _as_list(segmentation_maps)
            if len(sources) != len(slices):
                raise ValueError(f"There are {len(slices)} images and {len(sources)} masks; they must pair up.")
            masks = [read_mask(source) for source in sources]
            for source, mask, image in zip(sources, masks, slices, strict=True):
                if image.shape[:2] != mask.shape:
                    raise InvalidImageError(
                        f"{_name(source)}: the mask has {mask.shape[1]} × {mask.shape[0]} pixels and its image "
                        f"{image.shape[1]} × {image.shape[0]}; they must be of one size."
                    )
            data["labels"] = [_prepare_mask(mask, side) for mask in masks]
        return BatchFeature(data=data, tensor_type=kwargs.get("return_tensors"))

    @staticmethod
    def _longest_edge(size: SizeDict, resample) -> int:
        side = size.longest_edge
        if set(dict(size)) != {"longest_edge"} or side is None:
            raise ValueError(f"`size` is {dict(size)}; this processor needs `longest_edge` alone.")
        if resample != PILImageResampling.BILINEAR:
            raise ValueError(f"`resample` is {resample}; this processor resizes bilinearly (2) only.")
        return side

    def post_process_probability(
        self, outputs, target_sizes: list[tuple[int, int]] | None = None
    ) -> list[torch.Tensor]:
        """Tumour probability of every pixel, float32 [H, W] in [0, 1], at the slices' own size.

        Args:
            outputs: of the model; `logits` [B, num_labels, S, S].
            target_sizes: (height, width) of every slice before preprocessing; None keeps the logits' size.
        """
        # The sigmoid of the difference of the two logits equals the softmax, with one map less to enlarge.
        differences = outputs.logits[:, 1:] - outputs.logits[:, :1]
        native = (logits.float() for logits in self._native_logits(differences, target_sizes))
        return [(logits[0] if len(logits) == 1 else logits.logsumexp(dim=0)).sigmoid() for logits in native]

    def post_process_class_probabilities(
        self, outputs, target_sizes: list[tuple[int, int]] | None = None
    ) -> list[torch.Tensor]:
        """Probability of every class against the background alone, float32 [K, H, W], at the slices' own size.

        Of classes that overlap, this is their probability. Of others, the likeliest one above 0.5 is the pixel's label.

        Args:
            outputs, target_sizes: as in `post_process_probability`.
        """
        differences = outputs.logits[:, 1:] - outputs.logits[:, :1]
        native = [logits.float() for logits in self._native_logits(differences, target_sizes)]
        return [logits.sigmoid() if self.problem_type == OVERLAPPING else _sigmoid_apart(logits) for logits in native]

    def post_process_semantic_segmentation(
        self, outputs, target_sizes: list[tuple[int, int]] | None = None, return_segmentation_scores: bool = False
    ) -> list[torch.Tensor] | list[SemanticSegmentationPostProcessorOutput]:
        """Label of every pixel, int64 [H, W], at the slices' own size.

        Of classes that overlap, a pixel gets the last one that it has: the larger regions are named first.

        Args:
            outputs, target_sizes: as in `post_process_probability`.
            return_segmentation_scores: give the label as `segmentation`, and the logits [num_labels, H, W] that it was
                found by as `segmentation_scores`.
        """
        native = self._native_logits(outputs.logits, target_sizes)
        to_labels = _last_of_overlapping if self.problem_type == OVERLAPPING else _likeliest
        if not return_segmentation_scores:
            return [to_labels(logits) for logits in native]
        return [
            SemanticSegmentationPostProcessorOutput(
                data={"segmentation": to_labels(logits), "segmentation_scores": logits}
            )
            for logits in native
        ]

    @staticmethod
    def _native_logits(logits: torch.Tensor, target_sizes) -> list[torch.Tensor]:
        """Undo padding and resizing; the target sizes say how much there was of both.

        Raises:
            ValueError: a logit is NaN or infinite, which would pass for "no tumour"; or another number of sizes.
        """
        if not logits.isfinite().all():
            raise ValueError(
                "The network's logits are NaN or infinite: its weights or its config are damaged, or they are too "
                "large for half precision; there, try optimize='none'."
            )
        if target_sizes is None:
            return list(logits)
        if len(logits) != len(target_sizes):
            raise ValueError(f"There are {len(target_sizes)} target sizes for {len(logits)} outputs.")
        native = []
        for sample, target_size in zip(logits, target_sizes, strict=True):
            height, width = (int(side) for side in target_size)
            if sample.shape[-2:] != (height, width):
                fitted_height, fitted_width = _fit((height, width), max(sample.shape[-2:]))
                sample = sample[None, :, :fitted_height, :fitted_width]
                sample = F.interpolate(sample, size=(height, width), mode="bilinear", align_corners=False)[0]
            native.append(sample)
        return native


def _sigmoid_apart(logits: torch.Tensor) -> torch.Tensor:
    """The sigmoid of [K, H, W], where the likeliest stays above the others, though 17 and 18 would both become 1."""
    probabilities = logits.sigmoid()
    highest, is_likeliest = probabilities.amax(dim=0), torch.zeros_like(logits, dtype=torch.bool)
    is_likeliest.scatter_(0, logits.argmax(dim=0, keepdim=True), True)
    below = torch.nextafter(highest, torch.zeros_like(highest))
    return torch.where(is_likeliest, probabilities, torch.minimum(probabilities, below))


def _likeliest(logits: torch.Tensor) -> torch.Tensor:
    """[K + 1, H, W] → int64 [H, W]."""
    return logits.argmax(dim=0)


def _last_of_overlapping(logits: torch.Tensor) -> torch.Tensor:
    """[K + 1, H, W] → int64 [H, W]: the highest label that is likelier than the background, or 0."""
    numbers = torch.arange(len(logits), device=logits.device).view(-1, 1, 1)
    return ((logits > logits[:1]) * numbers).amax(dim=0)


def _check_numbers(do_resize, size, foreground_fraction):
    """Raise a `ValueError` for a setting of another type or beyond its range, whoever wrote it into the file."""
    if not isinstance(do_resize, bool):
        raise ValueError(f"`do_resize` is {do_resize!r}; it must be true or false.")
    for name, value in dict(size).items():
        if type(value) is not int or not 1 <= value <= MAX_LONGEST_EDGE:
            raise ValueError(f"`{name}` is {value!r}; it must be a whole number from 1 to {MAX_LONGEST_EDGE:,}.")
    is_number = isinstance(foreground_fraction, (int, float)) and not isinstance(foreground_fraction, bool)
    if not is_number or not 0 <= foreground_fraction < 1:
        raise ValueError(f"`foreground_fraction` is {foreground_fraction!r}; it must be a number in [0, 1).")


def _check_channel_names(names):
    """Raise a `ValueError` for what are no names of several channels."""
    if names is None:
        return
    is_list = isinstance(names, (list, tuple)) and all(isinstance(name, str) and name.strip() for name in names)
    if not is_list or len(names) < 2 or len({*names}) < len(names):
        raise ValueError(f"`channel_names` is {names!r}; it must be a list of two or more different names, or None.")


def _asks_for_nothing(name: str, value) -> bool:
    """Whether this value of an option that the processor does not have changes nothing, so that it may be ignored."""
    if name not in NOT_DONE:
        return False
    # Equal numbers for every channel mean the same as the one number.
    value = value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value
    return value in NOT_DONE[name][0]


def _as_list(images) -> list:
    if isinstance(images, (list, tuple)):
        return list(images)
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        return list(images)
    return [images]


def _as_slices(images, names: Sequence[str]) -> list:
    """As `_as_list`, of slices of several channels."""
    if not isinstance(images, (list, tuple)):
        return _as_list(images)
    are_parts = all(
        image.ndim == 2 if isinstance(image, (np.ndarray, torch.Tensor)) else not isinstance(image, (list, tuple))
        for image in images
    )
    return [images] if images and are_parts and not {*names} <= {*COLOURS} else list(images)


def _fit(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(height, width) scaled so that the longer one is `side`."""
    scale = side / max(size)
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def _resize(plane: torch.Tensor, side: int) -> torch.Tensor:
    """[H, W] → [h, w] with a longest edge of `side`; low-pass filtered where it shrinks."""
    height, width = plane.shape
    size = _fit((height, width), side)
    if size == (height, width):
        return plane
    return F.interpolate(plane[None, None], size=size, mode="bilinear", align_corners=False, antialias=True)[0, 0]


def _pad(plane: torch.Tensor, side: int, value: float) -> torch.Tensor:
    return F.pad(plane, (0, side - plane.shape[1], 0, side - plane.shape[0]), value=value)


def _prepare_slice(image: np.ndarray, side: int | None, foreground_fraction: float) -> np.ndarray:
    """[H, W] or [H, W, 3] → float32 [1, S, S], or [1, H, W] if `side` is None."""
    plane = torch.from_numpy(to_grayscale(image))
    if side is not None:
        plane = _resize(plane, side)
    plane, black = standardize(plane, foreground_fraction)
    if side is not None:
        plane = _pad(plane, side, black)
    return plane.numpy()[None]


def _prepare_channels(image: np.ndarray, side: int | None, foreground_fraction: float) -> np.ndarray:
    """[H, W, C] → float32 [C, S, S], or [C, H, W] if `side` is None: each channel as a slice by itself."""
    return np.concatenate([_prepare_slice(plane, side, foreground_fraction) for plane in np.moveaxis(image, 2, 0)])


def prepare_classes(planes: np.ndarray, side: int) -> np.ndarray:
    """bool [K, H, W] → uint8 [K, S, S]: a pixel has a class where at least half of it had; 255 where it is padding.

    Where half of it is tumour, but of several classes with less than half each, it has the one with the most.
    """
    shares = torch.stack([_resize(torch.from_numpy(plane.astype(np.float32)), side) for plane in planes])
    of_any = _resize(torch.from_numpy(planes.any(axis=0).astype(np.float32)), side)
    classes = shares >= 0.5
    nameless = (of_any >= 0.5) & ~classes.any(dim=0)
    classes |= nameless & (shares.argmax(dim=0) == torch.arange(len(shares)).view(-1, 1, 1))
    return torch.stack([_pad(plane.float(), side, IGNORE_INDEX) for plane in classes]).numpy().astype(np.uint8)


def _prepare_mask(mask: np.ndarray, side: int | None) -> np.ndarray:
    """bool [H, W] → int64 [S, S]: a pixel is tumour where at least half of it was."""
    plane = torch.from_numpy(mask.astype(np.float32))
    if side is not None:
        plane = _pad((_resize(plane, side) >= 0.5).float(), side, IGNORE_INDEX)
    return plane.numpy().astype(np.int64)


# `save_pretrained` then writes this file too, wherever it was loaded from, for `trust_remote_code=True`.
UNetImageProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = ["InvalidImageError", "UNetImageProcessor", "read_image", "read_mask", "standardize", "to_grayscale"]
