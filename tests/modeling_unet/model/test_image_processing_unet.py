"""Any picture in, `pixel_values` out, and back to masks of the picture's own size; bad pictures in one sentence."""

import importlib.util
import io
import math
import re
import struct
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torch.testing import assert_close
from transformers import AutoImageProcessor
from transformers.modeling_outputs import SemanticSegmenterOutput

from modeling_unet import (
    InvalidImageError,
    UNetImageProcessor,
    image_processing_unet,
    read_image,
    read_mask,
    read_pages,
    read_picture,
)
from modeling_unet.image_processing_unet import (
    NonBinaryMaskError,
    is_coloured,
    read_sizes,
    standardize,
    to_grayscale,
)


SIDE = 64  # of the network's input here


def head(height: int = 120, width: int = 90) -> np.ndarray:
    """Something like a slice: skull, brain with texture and ventricles, a bright lesion, scanner noise, black air."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    radius = np.hypot(y / 0.92, x / 0.85)
    tissue = [
        (radius < 1, 150),
        (radius < 0.92, 30),
        (radius < 0.86, 90 + 15 * np.sin(6 * x) * np.cos(5 * y)),
        (np.hypot(2 * y, 4 * (abs(x) - 0.15)) < 0.5, 45),
        (np.hypot(y - 0.3, x - 0.35) < 0.14, 190),
    ]
    image = np.zeros((height, width))
    for inside, brightness in tissue:
        image = np.where(inside, brightness, image)
    noise = np.random.default_rng(0).normal(0, 4, image.shape)
    return (image + noise * (radius < 1)).clip(0, 255).round().astype(np.uint8)


HEAD = head()


@pytest.fixture
def processor() -> UNetImageProcessor:
    return UNetImageProcessor(size={"longest_edge": SIDE})


def prepare(*images, **kwargs) -> torch.Tensor:
    """[B, 1, SIDE, SIDE]"""
    return UNetImageProcessor(size={"longest_edge": SIDE})(list(images), return_tensors="pt", **kwargs)["pixel_values"]


def rgb(image: np.ndarray) -> np.ndarray:
    return np.stack([image] * 3, axis=-1)


def rgba(image: np.ndarray, opaque: float) -> np.ndarray:
    """[H, W, 4]: the picture where it is not black; elsewhere something bright, but transparent."""
    seen = image > 0
    bright = np.full_like(image, opaque)
    return np.stack([*[np.where(seen, image, bright)] * 3, np.where(seen, bright, 0)], axis=-1).astype(image.dtype)


def encode(image: Image.Image, file_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png(header: tuple[int, ...], *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG by hand; the header is (width, height, bits, kind of colours)."""
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0)), *chunks, (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return content


def png_16(image: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """uint16 [H, W, 2|3], grey with alpha or colours, as OpenCV does not write them."""
    height, width, channels = image.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in image)
    return png((width, height, 16, {2: 4, 3: 2}[channels]), *chunks, (b"IDAT", zlib.compress(rows)))


def white_air() -> np.ndarray:
    """The head before white; nothing else in it is white."""
    return np.where(HEAD > 0, HEAD, 255).astype(np.uint8)


def grey_palette() -> Image.Image:
    """Mode P with shuffled entries, so that an index says nothing about its brightness."""
    shuffled = np.random.default_rng(0).permutation(256)
    image = Image.fromarray(np.argsort(shuffled)[HEAD].astype(np.uint8), "L")
    image.putpalette(bytes(np.repeat(shuffled, 3).astype(np.uint8)))
    return image


def transparent_palette() -> Image.Image:
    """Mode P whose entry 0, the air, would be white if it were not transparent."""
    image = Image.fromarray(HEAD).convert("P")
    image.putpalette(bytes([255] * 3 + [value for value in range(1, 256) for _ in range(3)]))
    image.info["transparency"] = 0
    return image


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npy_header(shape: tuple[int, ...], dtype: str = "|u1") -> bytes:
    """Of a file that promises this array, and holds a hundred zeros."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"shape": shape, "fortran_order": False, "descr": dtype})
    return buffer.getvalue() + bytes(100)


def two_pictures() -> bytes:
    """The head as a JPEG, with a second, smaller picture behind it."""
    second = Image.fromarray(255 - HEAD[::2, ::2])
    return encode(Image.fromarray(HEAD), "MPO", save_all=True, append_images=[second], quality=100)


# --------------------------------------------------------------------------------------------------------- what goes in

LOOKS_LIKE_HEAD = {
    "PIL L": lambda: Image.fromarray(HEAD),
    "PIL RGB": lambda: Image.fromarray(rgb(HEAD)),
    "PIL RGBA": lambda: Image.fromarray(rgba(HEAD, 255)),
    "PIL LA": lambda: Image.fromarray(rgba(HEAD, 255)).convert("LA"),
    "PIL P": grey_palette,
    "PIL P transparent": transparent_palette,
    "PIL I;16": lambda: Image.fromarray(HEAD.astype(np.uint16) * 257),
    "PIL I": lambda: Image.fromarray(HEAD.astype(np.int32)),
    "PIL F": lambda: Image.fromarray(HEAD.astype(np.float32) / 255),
    "PIL CMYK": lambda: Image.fromarray(rgb(HEAD)).convert("CMYK"),
    **{
        f"array {dtype}": lambda dtype=dtype: HEAD.astype(dtype)
        for dtype in ("uint8", "uint16", "int16", "int32", "int64", "float16", "float32", "float64", ">u2")
    },
    "array H,W,1": lambda: HEAD[..., None],
    "array H,W,3": lambda: rgb(HEAD),
    "array H,W,4": lambda: rgba(HEAD, 255),
    "array H,W,4 uint16": lambda: rgba(HEAD.astype(np.uint16) * 257, 65535),
    "array H,W,4 int64": lambda: rgba(HEAD.astype(np.int64), 255),
    "array 1,H,W": lambda: HEAD[None],
    "array 3,H,W": lambda: rgb(HEAD).transpose(2, 0, 1),
    "array 4,H,W": lambda: rgba(HEAD, 255).transpose(2, 0, 1),
    "array turned twice": lambda: np.ascontiguousarray(HEAD[::-1, ::-1])[::-1, ::-1],
    "array read-only": lambda: np.frombuffer(HEAD.tobytes(), np.uint8).reshape(HEAD.shape),
    **{
        f"tensor {dtype}": lambda dtype=dtype: torch.from_numpy(HEAD).to(getattr(torch, dtype))
        for dtype in ("uint8", "uint16", "int16", "float16", "bfloat16", "float32", "float64")
    },
    "tensor 3,H,W": lambda: torch.from_numpy(rgb(HEAD)).permute(2, 0, 1),
    "tensor with gradient": lambda: torch.from_numpy(HEAD).float().requires_grad_(),
}


def tiff_with_preview() -> bytes:
    """A smaller copy of the picture behind it, as editors write one."""
    small = Image.fromarray(HEAD).resize((30, 30))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    return encode(Image.fromarray(HEAD), "TIFF", save_all=True, append_images=[small])


FILES_OF_HEAD = {
    "PNG": ("png", lambda: encode(Image.fromarray(HEAD), "PNG")),
    "PNG 16 bit": ("png", lambda: encode(Image.fromarray(HEAD.astype(np.uint16) * 257), "PNG")),
    "PNG RGBA": ("png", lambda: encode(Image.fromarray(rgba(HEAD, 255)), "PNG")),
    "PNG L transparent": ("png", lambda: encode(Image.fromarray(white_air()), "PNG", transparency=255)),
    "PNG RGB transparent": ("png", lambda: encode(Image.fromarray(rgb(white_air())), "PNG", transparency=(255,) * 3)),
    "PNG P transparent": ("png", lambda: encode(transparent_palette(), "PNG", transparency=0)),
    "TIFF": ("tif", lambda: encode(Image.fromarray(HEAD), "TIFF")),
    "TIFF LZW": ("tiff", lambda: encode(Image.fromarray(HEAD), "TIFF", compression="tiff_lzw")),
    "TIFF 16 bit": ("tif", lambda: encode(Image.fromarray(HEAD.astype(np.uint16) * 257), "TIFF")),
    "TIFF float": ("tif", lambda: encode(Image.fromarray(HEAD.astype(np.float32) / 255), "TIFF")),
    "BMP": ("bmp", lambda: encode(Image.fromarray(HEAD), "BMP")),
    "WebP lossless": ("webp", lambda: encode(Image.fromarray(HEAD), "WEBP", lossless=True)),
    "GIF": ("gif", lambda: encode(Image.fromarray(HEAD), "GIF")),
    "JPEG 2000": ("jp2", lambda: encode(Image.fromarray(HEAD), "JPEG2000")),
    "JPEG 2000 16 bit": ("jp2", lambda: encode(Image.fromarray(HEAD.astype(np.uint16) * 257), "JPEG2000")),
    "JPEG 2000 without boxes": ("j2k", lambda: encode(Image.fromarray(rgb(HEAD)), "JPEG2000", no_jp2=True)),
    "AVIF": ("avif", lambda: encode(Image.fromarray(HEAD), "AVIF", quality=100, speed=9)),
    "TIFF with a preview": ("tif", tiff_with_preview),
    "JPEG named PNG": ("png", lambda: encode(Image.fromarray(HEAD), "JPEG", quality=100)),
    "JPEG of a phone": ("jpg", two_pictures),
    "NumPy": ("npy", lambda: npy(HEAD)),
    "NumPy H,W,3 float": ("npy", lambda: npy(rgb(HEAD / 255))),
    "NumPy in columns": ("npy", lambda: npy(np.asfortranarray(HEAD.astype(">i2")))),
}


class TestAcceptedKinds:
    @pytest.mark.parametrize("make", LOOKS_LIKE_HEAD.values(), ids=LOOKS_LIKE_HEAD)
    def test_every_kind_gives_the_pixels_of_the_plain_grey_array(self, make):
        # float16 and /255 round at 5e-4 of the brightest pixel, which is about three deviations from the mean.
        assert_close(prepare(make()), prepare(HEAD), rtol=0, atol=2e-3)

    @pytest.mark.parametrize("path_type", [str, Path])
    @pytest.mark.parametrize(("suffix", "make"), FILES_OF_HEAD.values(), ids=FILES_OF_HEAD)
    def test_every_file_gives_the_pixels_of_the_plain_grey_array(self, suffix, make, path_type, tmp_path):
        path = tmp_path / f"slice.{suffix}"
        path.write_bytes(make())
        # JPEG at quality 100 rounds every pixel to a step of one or two in 255.
        tolerance = 0.05 if b"JFIF" in path.read_bytes() or suffix == "avif" else 1e-4
        assert_close(prepare(path_type(path)), prepare(HEAD), rtol=0, atol=tolerance)

    @pytest.mark.parametrize("name", [None, "slice.png"])
    def test_an_open_file_is_read_as_its_path_would_be(self, name):
        file = io.BytesIO(encode(Image.fromarray(HEAD), "PNG"))
        np.testing.assert_array_equal(read_image(file), HEAD)
        damaged = io.BytesIO(file.getvalue()[:-400])
        if name:
            damaged.name = f"somewhere/{name}"
        with pytest.raises(InvalidImageError, match=f"^{name or 'file'}: the image is truncated"):
            read_image(damaged)

    @pytest.mark.parametrize(
        "image",
        [HEAD > 60, torch.from_numpy(HEAD > 60), Image.fromarray(HEAD > 60)],
        ids=["array", "tensor", "PIL 1"],
    )
    def test_booleans_are_black_and_white(self, image):
        expected = np.where(HEAD > 60, 255, 0).astype(np.uint8)
        np.testing.assert_array_equal(read_image(image), expected)

    @pytest.mark.parametrize(
        "batch",
        [
            [HEAD, HEAD.T],
            (HEAD, HEAD.T),
            [Image.fromarray(HEAD), torch.from_numpy(HEAD.T.copy())],
        ],
        ids=["list", "tuple", "mixed list"],
    )
    def test_a_list_of_different_sizes_becomes_one_batch(self, batch, processor):
        pixel_values = processor(batch, return_tensors="pt")["pixel_values"]
        assert pixel_values.shape == (2, 1, SIDE, SIDE)
        assert_close(pixel_values, torch.cat([prepare(HEAD), prepare(HEAD.T)]))

    @pytest.mark.parametrize(
        "batch",
        [
            np.stack([HEAD, HEAD[::-1]])[:, None],
            np.stack([HEAD, HEAD[::-1]])[..., None],
            np.stack([rgb(HEAD), rgb(HEAD[::-1])]),
            torch.from_numpy(np.stack([HEAD, HEAD[::-1]])[:, None]),
        ],
        ids=["B,1,H,W", "B,H,W,1", "B,H,W,3", "tensor"],
    )
    def test_a_4d_array_is_a_batch(self, batch, processor):
        assert_close(processor(batch, return_tensors="pt")["pixel_values"], prepare(HEAD, HEAD[::-1]))

    def test_one_image_is_a_batch_of_one(self, processor):
        assert processor(HEAD, return_tensors="pt")["pixel_values"].shape == (1, 1, SIDE, SIDE)
        assert processor(HEAD, return_tensors="np")["pixel_values"].dtype == np.float32

    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
    def test_reading_keeps_values_and_type(self, dtype):
        image = read_image(HEAD.astype(dtype))
        assert image.dtype == dtype
        np.testing.assert_array_equal(image, HEAD)

    def test_colours_are_kept_by_reading_and_averaged_for_the_network(self):
        colour = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        np.testing.assert_array_equal(read_image(Image.fromarray(colour)), colour)
        np.testing.assert_allclose(to_grayscale(colour), colour.astype(float).mean(axis=2), rtol=1e-6)

    @pytest.mark.parametrize("quality", [10, 75, 95])
    @pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
    def test_what_compression_leaves_in_the_colours_of_a_grey_picture_is_no_colour(self, file_format, quality):
        file = io.BytesIO()
        Image.fromarray(np.dstack([HEAD.astype(np.uint8)] * 3)).save(file, file_format, quality=quality)
        assert not is_coloured(read_image(file))

    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
    def test_colours_are_those_that_show_different_things(self, dtype):
        head = HEAD.astype(dtype)
        assert not is_coloured(head) and not is_coloured(np.dstack([head] * 3))
        assert not is_coloured(np.dstack([head, head, (0.93 * head).astype(dtype)]))
        assert is_coloured(np.dstack([head, head.max() - head, head]))
        drawn = np.dstack([head] * 3)
        drawn[10:20, 20] = (head.max(), 0, 0)
        assert is_coloured(drawn)
        assert not is_coloured(np.zeros((16, 16, 3), dtype))

    # What an upright picture has to undergo so that the EXIF orientation undoes it.
    @pytest.mark.parametrize(
        ("orientation", "turn"),
        [
            (1, None),
            (2, Image.Transpose.FLIP_LEFT_RIGHT),
            (3, Image.Transpose.ROTATE_180),
            (4, Image.Transpose.FLIP_TOP_BOTTOM),
            (5, Image.Transpose.TRANSPOSE),
            (6, Image.Transpose.ROTATE_90),
            (7, Image.Transpose.TRANSVERSE),
            (8, Image.Transpose.ROTATE_270),
        ],
    )
    @pytest.mark.parametrize("opened", [False, True], ids=["path", "PIL"])
    def test_exif_orientations_are_turned_upright(self, orientation, turn, opened, tmp_path):
        path, exif = tmp_path / "photo.png", Image.Exif()
        exif[0x0112] = orientation
        for upright, read in ((HEAD, read_image), (HEAD > 60, read_mask)):
            image = Image.fromarray(upright)
            (image if turn is None else image.transpose(turn)).save(path, exif=exif)
            np.testing.assert_array_equal(read(Image.open(path) if opened else path), upright)

    def test_the_callers_image_stays_as_it_was(self):
        array, image = HEAD.copy(), grey_palette()
        prepare(array, image)
        np.testing.assert_array_equal(array, HEAD)
        assert image.mode == "P"


NOISE_16 = np.random.default_rng(0).integers(0, 65536, (60, 50, 3), dtype=np.uint16)
FILES_OF_16_BIT_COLOURS = {
    "PNG": (".png", []),
    "TIFF": (".tif", [cv2.IMWRITE_TIFF_COMPRESSION, 1]),
    "TIFF LZW": (".tif", [cv2.IMWRITE_TIFF_COMPRESSION, 5]),
    "TIFF deflate": (".tif", [cv2.IMWRITE_TIFF_COMPRESSION, 8]),
}


def squares(count: int) -> np.ndarray:
    """uint8 [3·count, 5·count], each square of `count` px a side of one value."""
    values = np.arange(0, 150, 10, dtype=np.uint8).reshape(3, 5)
    return np.kron(values, np.ones((count, count), np.uint8))


class TestTooLarge:
    """Pictures over a limit; it is set low, so that the pictures are small."""

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    @pytest.mark.parametrize("colors", [1, 3])
    def test_each_pixel_is_the_mean_of_a_square(self, dtype, colors):
        rng = np.random.default_rng(0)
        image = (rng.random((66, 99, colors)) * 200).astype(dtype)
        picture = read_picture(image, max_side=33)
        means = image.reshape(22, 3, 33, 3, colors).mean(axis=(1, 3), dtype=np.float64)
        assert picture.full_size == (99, 66) and picture.pixels.dtype == dtype
        expected = means if dtype == np.float32 else means.round()
        np.testing.assert_allclose(picture.pixels.reshape(expected.shape), expected, rtol=1e-6)

    def test_at_the_edge_it_is_the_mean_of_what_is_left(self):
        image = np.zeros((80, 71), np.uint8)
        image[79:, 70:] = 80
        pixels = read_picture(image, max_side=27).pixels
        assert pixels.shape == (27, 24) and pixels[-1, -1] == 20 and pixels.sum() == 20

    def test_what_is_not_too_large_is_as_it_was(self):
        picture = read_picture(HEAD, max_side=120)
        assert picture.full_size is None and picture.pixels is HEAD

    def test_what_was_read_is_read_again_as_it_is(self):
        picture = read_picture(HEAD, max_side=60)
        assert read_picture(picture) is picture and read_image(picture) is picture.pixels

    @pytest.mark.parametrize(
        ("factor", "turned", "halved"), [(2, False, 2), (4, True, 4), (3, False, 1), (6, True, 2), (8, False, 8)]
    )
    def test_a_jpeg_is_scaled_down_while_it_is_decoded(self, factor, turned, halved, tmp_path, monkeypatch):
        image, exif = Image.fromarray(squares(8 * factor)), Image.Exif()
        exif[0x0112] = 6 if turned else 1  # a quarter turn clockwise
        image.save(tmp_path / "photo.jpg", quality=95, exif=exif)
        decoded, decode = [], image_processing_unet._decode
        monkeypatch.setattr(
            image_processing_unet, "_decode", lambda image, *rest: decoded.append(image.size) or decode(image, *rest)
        )
        picture = read_picture(tmp_path / "photo.jpg", max_side=40)
        assert decoded == [(40 * factor // halved, 24 * factor // halved)]
        expected = squares(8)
        assert picture.full_size == (image.size[::-1] if turned else image.size)
        expected = np.rot90(expected, -1) if turned else expected
        assert picture.pixels.shape == expected.shape
        assert np.abs(picture.pixels.astype(int) - expected).mean() < 3

    @pytest.mark.parametrize("size", [(12_500, 8001), (8001, 12_500)], ids=str)
    @pytest.mark.usefixtures("refuse_to_decode")
    @pytest.mark.filterwarnings("error")
    def test_too_many_pixels_are_refused_before_they_are_decoded(self, size):
        said = rf"^file: the image has {size[0]} × {size[1]} pixels; at most 100 million are accepted\.$"
        with pytest.raises(InvalidImageError, match=said):
            read_picture(io.BytesIO(png_header(*size)))

    @pytest.mark.filterwarnings("error")
    def test_as_many_as_are_allowed_are_decoded(self):
        with pytest.raises(InvalidImageError, match="truncated or damaged"):
            read_picture(io.BytesIO(png_header(12_500, 8000)))

    @pytest.mark.usefixtures("refuse_to_decode")
    def test_a_side_that_nothing_would_be_left_of_is_refused(self):
        with pytest.raises(InvalidImageError, match="each side needs at least 32 pixels beside so long a one"):
            read_picture(io.BytesIO(png_header(8193, 31)))


class TestPages:
    def test_each_page_is_a_picture_of_its_own(self, tmp_path):
        pages = [HEAD, HEAD.astype(np.uint16) * 200, rgb(HEAD)[::-1], np.hypot(HEAD, 1).astype(np.float32)]
        first, *others = map(Image.fromarray, pages)
        first.save(tmp_path / "pages.tif", save_all=True, append_images=others)
        for source in (tmp_path / "pages.tif", io.BytesIO((tmp_path / "pages.tif").read_bytes())):
            found = [picture.pixels for picture in read_pages(source)]
            assert len(found) == len(pages)
            for pixels, page in zip(found, pages, strict=True):
                assert pixels.dtype == page.dtype
                np.testing.assert_array_equal(pixels, page)

    def test_sixteen_bit_colours_of_a_later_page(self, tmp_path):
        page = (rgb(HEAD).astype(np.uint16) * 257) ^ np.uint16(90)
        assert cv2.imwritemulti(str(tmp_path / "pages.tif"), [np.zeros_like(page), page[..., ::-1]])
        np.testing.assert_array_equal([*read_pages(tmp_path / "pages.tif")][1].pixels, page)

    @pytest.mark.parametrize("file_format", ["PNG", "JPEG"])
    def test_any_other_file_has_one(self, file_format):
        (picture,) = read_pages(io.BytesIO(encode(Image.fromarray(HEAD), file_format)))
        assert picture.pixels.shape == HEAD.shape

    @pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "AVIF"])
    def test_frames_are_no_pages(self, file_format):
        for read in (read_pages, read_sizes):
            with pytest.raises(InvalidImageError, match="3 frames; give one slice per file"):
                [*read(io.BytesIO(animation(file_format)))]

    def test_a_damaged_page_is_said(self):
        content = bytearray(animation("TIFF", 2))
        (first,) = struct.unpack_from("<I", content, 4)
        (count,) = struct.unpack_from("<H", content, first)
        (second,) = struct.unpack_from("<I", content, first + 2 + 12 * count)
        content[second : second + 2] = b"\0\0"  # without a single tag
        with pytest.raises(InvalidImageError, match="damaged; its frames cannot be counted"):
            read_sizes(io.BytesIO(bytes(content)))

    def test_a_page_that_is_not_there(self):
        with pytest.raises(InvalidImageError, match=r"^file: there is no page 4 in it; the file holds 3\.$"):
            read_picture(io.BytesIO(animation("TIFF")), page=3)

    def test_a_smaller_copy_is_no_page(self):
        assert len([*read_pages(io.BytesIO(tiff_with_preview()))]) == 1

    @pytest.mark.slow
    def test_many_pages_are_read(self):
        assert len([*read_pages(io.BytesIO(animation("TIFF", 150)))]) == 150

    def test_too_many_pages_are_refused(self, monkeypatch):
        monkeypatch.setattr(image_processing_unet, "MAX_PAGES", 5)
        content = animation("TIFF", 6)
        with pytest.raises(InvalidImageError, match=r"^file: the file holds over 5 pages; at most 5 are accepted\.$"):
            next(read_pages(io.BytesIO(content)))
        assert len([*read_pages(io.BytesIO(animation("TIFF", 5)))]) == 5


class TestSixteenBitColours:
    @pytest.mark.parametrize("opened", [str, Image.open, lambda path: io.BytesIO(path.read_bytes())])
    @pytest.mark.parametrize("transparent", [False, True])
    @pytest.mark.parametrize(("suffix", "options"), FILES_OF_16_BIT_COLOURS.values(), ids=FILES_OF_16_BIT_COLOURS)
    def test_files_are_read_in_full(self, suffix, options, transparent, opened, tmp_path):
        path, image, expected = tmp_path / f"slice{suffix}", NOISE_16[..., ::-1], NOISE_16.copy()
        if transparent:
            opaque = np.arange(60)[:, None, None] > 20
            image = np.concatenate([image, np.broadcast_to(opaque * np.uint16(65535), (60, 50, 1))], axis=2)
            expected *= opaque
        cv2.imwrite(str(path), image, options)
        read = read_image(opened(path))
        assert read.dtype == np.uint16
        np.testing.assert_array_equal(read, expected)

    @pytest.mark.parametrize("brightest", [255, 4095, 65535])
    def test_the_brightest_value_makes_no_difference(self, brightest, tmp_path):
        grey = np.round(HEAD / 255.0 * brightest).astype(np.uint16)
        cv2.imwrite(str(tmp_path / "slice.png"), rgb(grey))
        assert_close(prepare(tmp_path / "slice.png"), prepare(HEAD), rtol=0, atol=2e-3)

    def test_grey_with_alpha_is_read_in_full(self):
        grey, opaque = NOISE_16[..., :1], np.arange(60)[:, None, None] > 20
        alpha = np.broadcast_to(opaque * np.uint16(65535), grey.shape)
        read = read_image(io.BytesIO(png_16(np.concatenate([grey, alpha], axis=2))))
        np.testing.assert_array_equal(read, np.repeat(grey * opaque, 3, axis=2))

    def test_one_colour_may_be_transparent(self):
        transparent = NOISE_16[3, 4]
        read = read_image(io.BytesIO(png_16(NOISE_16, (b"tRNS", transparent.astype(">u2").tobytes()))))
        expected = NOISE_16.copy()
        expected[3, 4] = 0
        np.testing.assert_array_equal(read, expected)

    def test_they_are_turned_upright(self):
        exif = Image.Exif()
        exif[0x0112] = 6
        read = read_image(io.BytesIO(png_16(NOISE_16, (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))))
        np.testing.assert_array_equal(read, np.rot90(NOISE_16, -1))

    @pytest.mark.parametrize("compression", [1, 5])
    def test_other_orders_are_refused(self, compression):
        """Of a TIFF whose colours lie in planes Pillow would read something else."""
        _, content = cv2.imencode(".tif", NOISE_16, [cv2.IMWRITE_TIFF_COMPRESSION, compression])
        together, apart = (struct.pack("<HHIHH", 284, 3, 1, planes, 0) for planes in (1, 2))
        assert together in content.tobytes()
        with pytest.raises(InvalidImageError, match=r"^file: .* save it as a 16-bit PNG\.$") as refusal:
            read_image(io.BytesIO(content.tobytes().replace(together, apart)))
        assert_one_sentence(str(refusal.value))

    def test_a_truncated_file_is_refused(self):
        content = png_16(NOISE_16)
        with pytest.raises(InvalidImageError, match="truncated or damaged"):
            read_image(io.BytesIO(content[: len(content) // 2]))


# --------------------------------------------------------------------------------------------------------- pixel_values


class TestGeometry:
    @pytest.mark.parametrize(
        ("height", "width", "fitted"),
        [
            (120, 90, (64, 48)),
            (90, 120, (48, 64)),
            (20, 30, (43, 64)),
            (201, 77, (64, 25)),
            (16, 4000, (1, 64)),
        ],
    )
    def test_the_aspect_ratio_is_kept_and_the_rest_padded_with_black(self, height, width, fitted):
        rows, columns = fitted
        image = np.random.default_rng(0).integers(100, 200, (height, width)).astype(np.uint8)
        pixel_values = prepare(image)[0, 0]
        assert pixel_values.shape == (SIDE, SIDE)
        inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        inside[:rows, :columns] = True
        assert torch.equal(pixel_values > pixel_values.min(), inside)

    def test_black_padding_is_the_value_of_black_pixels(self):
        image = np.full((40, 80), 100, np.uint8)
        image[:, ::2] = 140
        image[:16, :16] = 0
        pixel_values = UNetImageProcessor(size={"longest_edge": 80})(image, return_tensors="pt")["pixel_values"][0, 0]
        assert_close(pixel_values[40:], pixel_values[0, 0].expand(40, 80))

    def test_without_resizing_the_image_keeps_its_size(self, processor):
        pixel_values = processor(HEAD, do_resize=False, return_tensors="pt")["pixel_values"]
        assert pixel_values.shape == (1, 1, *HEAD.shape)
        assert_close(pixel_values, UNetImageProcessor(do_resize=False)(HEAD, return_tensors="pt")["pixel_values"])

    def test_shrinking_averages_instead_of_skipping(self):
        # A checkerboard of single pixels is grey from afar; taking every eighth would leave it black and white.
        checkers = np.indices((512, 512)).sum(axis=0) % 2 * 200.0
        checkers[:256] = 20
        assert prepare(checkers)[0, 0, 34:].std() < 0.01


class TestStandardisation:
    def test_the_foreground_has_mean_0_and_deviation_1(self, processor):
        pixel_values = processor(HEAD, do_resize=False, return_tensors="np")["pixel_values"][0, 0]
        foreground = 0.1 * np.percentile(HEAD, 99) < HEAD
        mean, deviation = HEAD[foreground].mean(), HEAD[foreground].std()
        np.testing.assert_allclose(pixel_values, (HEAD - mean) / deviation, atol=1e-3)

    @pytest.mark.parametrize("factor", [1e-30, 1e-3, 257.0, 1e4, 1e30])
    def test_x_and_k_times_x_give_the_same(self, factor):
        assert_close(prepare(HEAD * factor), prepare(HEAD), rtol=0, atol=1e-4)

    @pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
    def test_8_and_16_bit_give_the_same(self, file_format, tmp_path):
        for name, image in {"8": HEAD, "16": HEAD.astype(np.uint16) * 257, "12": HEAD.astype(np.uint16) * 16}.items():
            Image.fromarray(image).save(tmp_path / name, file_format)
        eight, sixteen, twelve = (prepare(tmp_path / name) for name in ("8", "16", "12"))
        assert_close(sixteen, eight, rtol=0, atol=1e-4)
        assert_close(twelve, eight, rtol=0, atol=1e-4)

    @pytest.mark.parametrize(("file_format", "quality"), [("WEBP", 80), ("WEBP", 90), ("JPEG", 90)])
    def test_a_png_and_its_lossy_copy_give_practically_the_same(self, file_format, quality, processor):
        image = head(240, 200)
        copy = Image.open(io.BytesIO(encode(Image.fromarray(image), file_format, quality=quality)))
        assert (np.asarray(copy.convert("L"))[image == 0] > 0).mean() > 0.02  # the compression soils the black
        ours, theirs = (
            processor(picture, do_resize=False, return_tensors="pt")["pixel_values"] for picture in (image, copy)
        )
        # The codec may smooth the scanner's noise away, 3.2 grey values where a deviation is 45; nothing more.
        assert (theirs - ours).abs().mean() < 0.07
        inside = torch.from_numpy(image > 0)[None, None]
        assert abs(theirs[inside].mean() - ours[inside].mean()) < 0.01
        assert abs(theirs[inside].std() - ours[inside].std()) < 0.01

    @pytest.mark.parametrize("shift", [-100, -1000])
    def test_negative_values_are_shifted_to_start_at_0(self, shift):
        assert HEAD.min() == 0
        assert_close(prepare(HEAD.astype(np.int16) + shift), prepare(HEAD), rtol=0, atol=1e-4)

    @pytest.mark.parametrize("value", [0, 1, 255, 0.001, -3.5, 1e30])
    @pytest.mark.parametrize("shape", [(64, 64), (30, 50)])
    def test_a_constant_image_becomes_zeros(self, value, shape):
        assert not prepare(np.full(shape, value)).any()

    def test_a_single_bright_pixel_does_not_set_the_scale(self, processor):
        image = HEAD.astype(np.float32)
        image[60, 45] = 1e6
        pixel_values = processor(image, do_resize=False, return_tensors="pt")["pixel_values"]
        assert pixel_values.max() == 5 and pixel_values.min() >= -5

    def test_the_foreground_fraction_is_an_option(self, processor):
        # Two levels, 50 and 200: with a fraction of ½, 50 is background, and what is left is constant.
        image = np.full((64, 64), 50, np.uint8)
        image[:32] = 200
        assert processor(image, return_tensors="pt")["pixel_values"].any()
        assert not processor(image, foreground_fraction=0.5, return_tensors="pt")["pixel_values"].any()
        processor = UNetImageProcessor(size={"longest_edge": SIDE}, foreground_fraction=0.5)
        assert not processor(image, return_tensors="pt")["pixel_values"].any()


# ---------------------------------------------------------------------------------------------------------------- masks

TUMOR = np.zeros((120, 90), bool)
TUMOR[30:60, 20:70] = True


def two_colours(first: int, second: int, mask: np.ndarray = TUMOR) -> Image.Image:
    """Mode P: index 0 and 1 in any two shades of grey."""
    image = Image.fromarray(mask.astype(np.uint8), "L")
    image.putpalette([first] * 3 + [second] * 3)
    return image


MASKS = {
    "bool": lambda: TUMOR,
    "0/1": lambda: TUMOR.astype(np.uint8),
    "0/255": lambda: TUMOR.astype(np.uint8) * 255,
    "0/65535": lambda: TUMOR.astype(np.uint16) * 65535,
    "float 0/1": lambda: TUMOR.astype(np.float32),
    "int64 0/255": lambda: TUMOR.astype(np.int64) * 255,
    "tensor": lambda: torch.from_numpy(TUMOR),
    "1,H,W": lambda: TUMOR[None].astype(np.uint8),
    "H,W,3": lambda: rgb(TUMOR.astype(np.uint8)) * 255,
    "PIL L": lambda: Image.fromarray(TUMOR.astype(np.uint8) * 255),
    "PIL 1": lambda: Image.fromarray(TUMOR),
    "PIL RGB": lambda: Image.fromarray(rgb(TUMOR.astype(np.uint8) * 255)),
    "PIL P": lambda: two_colours(0, 255),
    "PIL P near black": lambda: two_colours(0, 128),
    "PIL P white first": lambda: two_colours(255, 0, ~TUMOR),
    "PIL P all black": lambda: two_colours(0, 0),
}


class TestMasks:
    @pytest.mark.parametrize("make", MASKS.values(), ids=MASKS)
    def test_every_kind_is_read_as_booleans(self, make):
        mask = read_mask(make())
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, TUMOR)

    @pytest.mark.parametrize(
        ("kind", "suffix"),
        # Pillow itself misreads a BMP of two colours, black and white, that spends eight bits on each pixel.
        [
            (kind, suffix)
            for kind in MASKS
            for suffix in ("png", "tif", "bmp")
            if kind.startswith("PIL") and (kind, suffix) != ("PIL P", "bmp")
        ],
    )
    def test_every_kind_is_read_from_a_file(self, kind, suffix, tmp_path):
        MASKS[kind]().save(tmp_path / f"mask.{suffix}")
        np.testing.assert_array_equal(read_mask(tmp_path / f"mask.{suffix}"), TUMOR)

    def test_black_is_no_tumor_whichever_index_it_has(self, tmp_path):
        for number, colours in enumerate([(0, 255), (255, 0)]):
            path = tmp_path / f"{number}.png"
            two_colours(*colours, mask=np.full(TUMOR.shape, colours[1] == 0)).save(path)
            assert not read_mask(path).any()

    @pytest.mark.parametrize("value", [0, 1, 255, False, True])
    def test_all_of_one_value_is_empty_or_full(self, value):
        mask = read_mask(np.full((20, 20), value))
        assert mask.all() if value else not mask.any()

    def test_with_a_threshold_any_values_are_taken(self):
        soiled = np.where(np.eye(32, dtype=bool), 250, 3).astype(np.uint8)
        with pytest.raises(NonBinaryMaskError):
            read_mask(soiled)
        np.testing.assert_array_equal(read_mask(soiled, threshold=127), np.eye(32, dtype=bool))
        np.testing.assert_array_equal(read_mask(np.full((32, 32), 127, np.uint8), threshold=127), np.zeros((32, 32)))

    @pytest.mark.parametrize(
        ("values", "shown"),
        [
            ([0, 1, 2], "3 different values (0, 1, 2)"),
            ([0, 128], "2 different values (0, 128)"),
            ([1, 255], "2 different values (1, 255)"),
            ([0, 1, 255], "3 different values (0, 1, 255)"),
            ([7], "1 different values (7)"),
            (range(0, 256, 5), "52 different values (0, 5, 10, 15, 20, 25, …)"),
        ],
        ids=str,
    )
    def test_other_values_are_refused_with_file_and_values(self, values, shown, tmp_path):
        values = np.asarray(values, np.uint8)
        Image.fromarray(np.resize(values, (32, 32))).save(tmp_path / "odd.png")
        with pytest.raises(InvalidImageError, match=r"^odd\.png: .*" + re.escape(shown) + ".* 0/1, 0/255"):
            read_mask(tmp_path / "odd.png")

    @pytest.mark.parametrize(("values", "shown"), [((-1, 0), "-1, 0"), ((0, 0.5), "0, 0.5")])
    def test_other_values_of_an_array_are_shown_as_they_are(self, values, shown):
        with pytest.raises(InvalidImageError, match=re.escape(f"({shown})")):
            read_mask(np.where(TUMOR, *values[::-1]))

    def test_a_coloured_mask_is_refused(self, tmp_path):
        red = rgb(TUMOR.astype(np.uint8) * 255) * np.array([1, 0, 0], np.uint8)
        Image.fromarray(red).save(tmp_path / "red.png")
        with pytest.raises(InvalidImageError, match=r"^red\.png: the mask is coloured"):
            read_mask(tmp_path / "red.png")

    def test_labels_are_0_and_1_and_255_where_the_slice_was_padded(self, processor):
        labels = processor(HEAD, TUMOR, return_tensors="pt")["labels"]
        assert labels.shape == (1, SIDE, SIDE) and labels.dtype == torch.int64
        assert (labels[0, :, 48:] == 255).all()
        assert set(labels[0, :, :48].unique().tolist()) == {0, 1}

    def test_labels_lie_where_the_tumor_lies(self, processor):
        image = np.where(TUMOR, 200, 20).astype(np.uint8)
        batch = processor(image, TUMOR, return_tensors="pt")
        pixel_values, labels = batch["pixel_values"][0, 0, :, :48], batch["labels"][0, :, :48]
        assert torch.equal(pixel_values > (pixel_values.min() + pixel_values.max()) / 2, labels == 1)

    def test_without_resizing_labels_are_the_mask(self, processor):
        labels = processor(HEAD, TUMOR, do_resize=False, return_tensors="np")["labels"]
        np.testing.assert_array_equal(labels[0], TUMOR)

    def test_lists_of_slices_and_masks_pair_up(self, processor):
        labels = processor([HEAD, HEAD.T], [TUMOR, TUMOR.T], return_tensors="pt")["labels"]
        assert_close(labels[1], labels[0].T)

    @pytest.mark.parametrize(("images", "masks"), [(2, 1), (1, 2)])
    def test_another_number_of_masks_is_refused_with_both_numbers(self, processor, images, masks):
        with pytest.raises(ValueError, match=f"{images} images and {masks} masks"):
            processor([HEAD] * images, [TUMOR] * masks)

    def test_a_mask_of_another_size_is_refused_with_name_and_both_sizes(self, processor, tmp_path):
        Image.fromarray(TUMOR[:100]).save(tmp_path / "cut.png")
        with pytest.raises(InvalidImageError, match=r"cut\.png.* 90 × 100 .* 90 × 120"):
            processor(HEAD, tmp_path / "cut.png")


# ------------------------------------------------------------------------------------------------------ post-processing


def outputs(logits: torch.Tensor) -> SemanticSegmenterOutput:
    """[B, S, S] logits of the tumour → what the model returns"""
    return SemanticSegmenterOutput(logits=torch.stack([torch.zeros_like(logits), logits], dim=1))


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


SIZES = [(64, 64), (48, 64), (120, 90), (31, 20), (77, 201), (300, 17), (16, 500)]


class TestPostProcessing:
    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_probability_and_labels_have_the_native_size(self, processor, size):
        (probability,) = processor.post_process_probability(outputs(noise(1, SIDE, SIDE)), target_sizes=[size])
        (labels,) = processor.post_process_semantic_segmentation(outputs(noise(1, SIDE, SIDE)), target_sizes=[size])
        assert probability.shape == labels.shape == size
        assert probability.dtype == torch.float32 and labels.dtype == torch.int64
        assert probability.min() >= 0 and probability.max() <= 1

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("size", SIZES, ids=str)
    def test_a_label_is_1_exactly_where_the_probability_is_above_one_half(self, processor, size, dtype):
        logits = outputs(noise(3, SIDE, SIDE).to(dtype))
        probabilities = processor.post_process_probability(logits, [size] * 3)
        labels = processor.post_process_semantic_segmentation(logits, [size] * 3)
        for probability, label in zip(probabilities, labels, strict=True):
            assert label.any() and not label.all()
            assert torch.equal(probability > 0.5, label == 1)

    def test_probability_is_the_sigmoid_of_the_logit(self, processor):
        logits = noise(2, SIDE, SIDE)
        probabilities = processor.post_process_probability(outputs(logits))
        assert_close(torch.stack(probabilities), logits.sigmoid())

    def test_probability_with_several_tumor_labels_is_that_of_any(self, processor):
        (probability,) = processor.post_process_probability(SemanticSegmenterOutput(logits=torch.zeros(1, 4, 8, 8)))
        assert_close(probability, torch.full((8, 8), 0.75))

    def test_every_sample_has_its_own_target_size(self, processor):
        sizes = [(20, 30), (64, 64), (100, 50)]
        probabilities = processor.post_process_probability(outputs(noise(3, SIDE, SIDE)), sizes)
        assert [tuple(probability.shape) for probability in probabilities] == sizes

    @pytest.mark.parametrize("sizes", [torch.tensor([[20, 30]]), np.array([[20, 30]]), [[20, 30]]])
    def test_target_sizes_may_be_any_pairs(self, processor, sizes):
        (labels,) = processor.post_process_semantic_segmentation(outputs(noise(1, SIDE, SIDE)), sizes)
        assert labels.shape == (20, 30)

    def test_without_target_sizes_the_networks_own_size_remains(self, processor):
        labels = processor.post_process_semantic_segmentation(outputs(noise(2, SIDE, SIDE)))
        assert [tuple(label.shape) for label in labels] == [(SIDE, SIDE)] * 2

    def test_what_lies_in_the_padding_is_dropped(self, processor):
        logits = torch.full((1, SIDE, SIDE), -10.0)
        logits[:, :, 48:] = 10.0
        (labels,) = processor.post_process_semantic_segmentation(outputs(logits), [(120, 90)])
        assert not labels.any()

    @pytest.mark.parametrize("method", ["post_process_probability", "post_process_semantic_segmentation"])
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_is_no_number_is_not_taken_for_no_tumour(self, processor, method, value):
        logits = outputs(noise(2, SIDE, SIDE))
        logits.logits[1, 1, 5, 5] = value
        with pytest.raises(ValueError, match="logits are NaN or infinite"):
            getattr(processor, method)(logits, [(50, 70)] * 2)

    def test_target_sizes_alone_suffice_whatever_the_processors_own_size(self):
        logits = outputs(noise(1, SIDE, SIDE))
        small, large = UNetImageProcessor(size={"longest_edge": 16}), UNetImageProcessor()
        assert torch.equal(*(processor.post_process_probability(logits, [(50, 70)])[0] for processor in (small, large)))

    def test_logits_of_the_native_size_are_left_alone(self, processor):
        (probability,) = processor.post_process_probability(outputs(noise(1, 41, 77)), [(41, 77)])
        assert_close(probability, noise(1, 41, 77)[0].sigmoid())

    @pytest.mark.parametrize("method", ["post_process_probability", "post_process_semantic_segmentation"])
    def test_another_number_of_target_sizes_is_refused_with_both_numbers(self, processor, method):
        with pytest.raises(ValueError, match="3 target sizes for 2 outputs"):
            getattr(processor, method)(outputs(noise(2, SIDE, SIDE)), [(20, 30)] * 3)

    @pytest.mark.parametrize("size", [(120, 90), (256, 256), (201, 77), (31, 20), (640, 480), (63, 500)], ids=str)
    @pytest.mark.parametrize("do_resize", [True, False])
    def test_a_rectangle_comes_back_where_it_was(self, size, do_resize):
        processor, (height, width) = UNetImageProcessor(), size
        mask = np.zeros(size, bool)
        mask[height // 5 : 4 * height // 5, width // 4 : 7 * width // 8] = True
        batch = processor(np.resize(HEAD, size), mask, do_resize=do_resize, return_tensors="pt")
        logits = torch.where(batch["labels"] == 1, 10.0, -10.0)
        (labels,) = processor.post_process_semantic_segmentation(outputs(logits), target_sizes=[size])
        found = labels.numpy() == 1
        assert (found & mask).sum() / (found | mask).sum() > 0.95


# ------------------------------------------------------------------------------------------------------------- settings


class TestStandardize:
    """The rule by itself, for whoever changes intensities and wants them back on its scale."""

    PLANE = torch.tensor([[0.0, 0.0, 10.0, 20.0], [0.5, 0.0, 30.0, 40.0]])

    def test_by_hand(self):
        """Above 4, a tenth of nearly 40, lie 10, 20, 30 and 40: mean 25, deviation √(500 / 3)."""
        found, black = standardize(self.PLANE)
        assert_close(found, (self.PLANE - 25) / math.sqrt(500 / 3))
        assert black == pytest.approx(-25 / math.sqrt(500 / 3))

    def test_neither_scale_nor_a_shift_below_zero_matters(self):
        (found, black), (scaled, black_of_scaled) = standardize(self.PLANE), standardize(1000 * self.PLANE)
        assert_close(scaled, found)
        assert black_of_scaled == pytest.approx(black)
        assert_close(standardize(self.PLANE - 7)[0], found)

    def test_what_lies_far_off_is_cut_off_unless_it_is_to_stay(self):
        plane = torch.full((100, 100), 10.0)
        plane[::2] += 1
        plane[0, 0] = 1000
        assert standardize(plane)[0].max() == 5
        assert standardize(plane, max_deviation=math.inf)[0].max() > 50

    def test_a_constant_plane_is_zero(self):
        found, black = standardize(torch.full((4, 5), 3.0))
        assert not found.any() and black == 0


class TestSettings:
    @pytest.mark.parametrize("auto", [UNetImageProcessor, AutoImageProcessor])
    def test_saved_and_loaded_it_is_the_same(self, auto, tmp_path):
        processor = UNetImageProcessor(size={"longest_edge": 48}, foreground_fraction=0.2)
        processor.save_pretrained(tmp_path)
        loaded = auto.from_pretrained(tmp_path)
        assert type(loaded) is UNetImageProcessor and loaded.to_dict() == processor.to_dict()
        (ours,), (theirs,) = (p(HEAD, return_tensors="pt")["pixel_values"] for p in (processor, loaded))
        assert theirs.shape == (1, 48, 48) and torch.equal(ours, theirs)

    def test_defaults_are_256_pixels_and_a_tenth(self):
        processor = UNetImageProcessor()
        assert (processor.size["longest_edge"], processor.foreground_fraction) == (256, 0.1)
        processor.size["longest_edge"] = 1
        assert UNetImageProcessor().size["longest_edge"] == 256

    def test_unknown_arguments_are_refused_by_name(self, processor):
        with pytest.raises(TypeError, match="shine"):
            processor(HEAD, shine=True)

    @pytest.mark.parametrize("size", [{"height": 64, "width": 64}, {"shortest_edge": 64}, 64], ids=str)
    def test_a_size_that_would_stretch_is_refused(self, processor, size):
        with pytest.raises(ValueError, match=r"`size` is .* needs `longest_edge`"):
            processor(HEAD, size=size)

    def test_another_resampling_is_refused(self, processor):
        with pytest.raises(ValueError, match=r"`resample` is .* bilinearly"):
            processor(HEAD, resample=Image.Resampling.LANCZOS)


# ------------------------------------------------------------------------------------------------------------ bad input


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises 8-bit grey pixels of this size, and holds a handful."""
    return png((width, height, 8, 0), (b"IDAT", zlib.compress(bytes(100))))


def animation(file_format: str, frames: int = 3) -> bytes:
    first, *others = [Image.fromarray(np.roll(HEAD, 5 * i)) for i in range(frames)]
    return encode(first, file_format, save_all=True, append_images=others)


def halved(file_format: str) -> bytes:
    content = encode(Image.fromarray(HEAD), file_format)
    return content[: len(content) // 2]


def lying_codestream(place: int, *numbers: int) -> bytes:
    """A JPEG 2000 with other numbers in its codestream: the size at place 8, the size of a tile at 24."""
    content = bytearray(encode(Image.fromarray(HEAD), "JPEG2000"))
    struct.pack_into(f">{len(numbers)}I", content, content.index(b"\xff\x4f\xff\x51") + place, *numbers)
    return bytes(content)


def avif_of(width: int, height: int) -> bytes:
    """An AVIF whose header promises this size."""
    content = bytearray(encode(Image.fromarray(HEAD), "AVIF", speed=9))
    struct.pack_into(">2I", content, content.index(b"ispe") + 8, width, height)
    return bytes(content)


BAD_FILES = {
    "zero bytes": ("empty.png", b"", "the file is empty (0 bytes)"),
    "text": ("notes.png", b"These are no pixels.", "not an image that can be read"),
    "PDF": ("report.pdf", b"%PDF-1.7\n1 0 obj <</Type /Catalog>> endobj\n%%EOF", "not an image that can be read"),
    "MP4 video": ("film.mp4", b"\0\0\0\x20ftypisom\0\0\2\0isomavc1" + bytes(99), "not an image that can be read"),
    "AVI video": ("film.avi", b"RIFF\x40\0\0\0AVI LIST" + bytes(99), "not an image that can be read"),
    "DICOM": ("slice.dcm", bytes(128) + b"DICM" + bytes(99), "not an image that can be read"),
    **{
        f"truncated {file_format}": (f"cut.{file_format.lower()}", halved(file_format), "truncated or damaged")
        for file_format in ("PNG", "JPEG", "TIFF", "BMP")
    },
    # Their decoders want the whole file before they say a word.
    "truncated WebP": ("cut.webp", halved("WEBP"), "not an image that can be read"),
    "truncated AVIF": ("cut.avif", halved("AVIF"), "not an image that can be read"),
    "8 × 8": ("tiny.png", encode(Image.new("L", (8, 8)), "PNG"), "8 × 8 pixels; each side needs at least 16"),
    "15 × 90": ("thin.png", encode(Image.new("L", (15, 90)), "PNG"), "15 × 90 pixels; each side needs at least 16"),
    "20,000 × 20,000": ("bomb.png", png_header(20_000, 20_000), "400,000,000 pixels; at most 100 million"),
    "12,000 × 12,000": ("large.png", png_header(12_000, 12_000), "12000 × 12000 pixels; each side may have at most"),
    "8193 × 16": ("wide.png", png_header(8193, 16), "8193 × 16 pixels; each side may have at most 8192"),
    "animated GIF": ("moving.gif", animation("GIF"), "3 frames; give one slice per file"),
    "animated WebP": ("moving.webp", animation("WEBP"), "3 frames; give one slice per file"),
    "multi-page TIFF": ("pages.tif", animation("TIFF"), "3 pages; give one slice per file, or read"),
    "animated PNG": ("moving.png", animation("PNG"), "3 frames; give one slice per file"),
    "animated AVIF": ("moving.avif", animation("AVIF"), "3 frames; give one slice per file"),
    "JPEG 2000 without a codestream": ("cut.jp2", encode(Image.fromarray(HEAD), "JPEG2000")[:85], "is damaged"),
    "JPEG 2000 of another size": ("lies.jp2", lying_codestream(8, 8192, 8192), "the JPEG 2000 is damaged"),
    "JPEG 2000 in many tiles": ("tiles.jp2", lying_codestream(24, 1, 1), "4,096 tiles"),
    "AVIF of 9000 × 16": ("wide.avif", avif_of(9000, 16), "9000 × 16 pixels; each side may have at most 8192"),
    "objects in a NumPy file": ("objects.npy", npy(np.array([[None] * 20] * 20)), "type object are not an image"),
    "truncated NumPy": ("cut.npy", npy(HEAD)[:-1], "10,799 bytes are not what its header promises"),
    "huge NumPy": ("huge.npy", npy_header((2**40, 2**40)), "100 bytes are not what its header promises"),
    "negative NumPy": ("negative.npy", npy_header((-10, -10)), "is damaged"),
    "empty NumPy": ("none.npy", npy_header((0, 2**62), "V0"), "type void are not an image"),
    "NumPy of another version": ("new.npy", b"\x93NUMPY\x09\x00" + bytes(100), "damaged or of another version"),
    "NumPy of many digits": ("digits.npy", npy_header((10**4000, 10**3000)), "is damaged"),
    "NumPy of many dimensions": ("flat.npy", npy_header((1,) * 98 + (10, 10)), "100 dimensions is not a slice"),
    "NumPy volume": ("volume.npy", npy(np.zeros((20, 20, 20))), "shape (20, 20, 20) is not a slice"),
    "NaN in a TIFF": (
        "nan.tif",
        encode(Image.fromarray(np.full((20, 20), np.nan, np.float32)), "TIFF"),
        "NaN or infinite values",
    ),
}


def assert_one_sentence(message: str):
    assert "\n" not in message and message.endswith(".")
    assert ". " not in message  # the full stop ends the only sentence


@pytest.fixture
def refuse_to_decode(monkeypatch):
    """Fail as soon as pixels are decoded."""

    def load(image, *_):
        raise AssertionError(f"{image.size} pixels were decoded")

    monkeypatch.setattr(Image.Image, "load", load)
    monkeypatch.setattr(ImageFile.ImageFile, "load", load)


class TestBadInput:
    @pytest.mark.parametrize("read", [read_image, read_mask, UNetImageProcessor()], ids=["image", "mask", "processor"])
    @pytest.mark.parametrize(("name", "content", "reason"), BAD_FILES.values(), ids=BAD_FILES)
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_a_bad_file_is_refused_in_one_sentence_with_its_name(self, read, name, content, reason, tmp_path):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidImageError, match=re.escape(reason)) as refusal:
            read(tmp_path / name)
        assert str(refusal.value).startswith(f"{name}: ")
        assert_one_sentence(str(refusal.value))

    def test_a_heic_picture_names_the_package_that_it_needs(self, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        heic = io.BytesIO(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(99))
        with pytest.raises(InvalidImageError, match=r"^file: HEIC .* package pillow-heif, .* not installed") as refusal:
            read_image(heic)
        assert_one_sentence(str(refusal.value))

    def test_a_heic_picture_is_read_by_that_package_without_its_exif_data(self, monkeypatch):
        """A stand-in for the package: what it is handed, and that no other decoder is asked."""
        handed = []

        def opened(file, formats):
            handed.append((file.read(), formats))
            return Image.fromarray(HEAD)

        package = SimpleNamespace(register_heif_opener=lambda thumbnails: None)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: package)
        monkeypatch.setitem(sys.modules, "pillow_heif", package)
        monkeypatch.setattr(Image, "open", opened)
        item = b"infe\2\0\0\0\0\1\0\0"
        content = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + item
        np.testing.assert_array_equal(read_image(io.BytesIO(content + b"Exif\0")), HEAD)
        assert handed == [(content + b"none\0", ("HEIF",))]

    @pytest.mark.parametrize("read", [read_image, read_mask])
    def test_a_missing_file_is_refused_by_name(self, read, tmp_path):
        with pytest.raises(InvalidImageError, match=r"^nowhere\.png: there is no such file\.$"):
            read(tmp_path / "nowhere.png")

    @pytest.mark.parametrize("read", [read_image, read_mask])
    def test_a_folder_is_refused_by_name(self, read, tmp_path):
        (tmp_path / "slices.png").mkdir()
        with pytest.raises(InvalidImageError, match=r"^slices\.png: .*\.$"):
            read(tmp_path / "slices.png")

    @pytest.mark.parametrize("path", ["", ".", "A" * 5000, "no\0thing.png"], ids=["empty", "dot", "long", "null"])
    def test_an_impossible_path_is_refused_in_one_sentence(self, path):
        with pytest.raises(InvalidImageError) as refusal:
            read_image(path)
        assert_one_sentence(str(refusal.value))
        assert not str(refusal.value).startswith(":")

    @pytest.mark.parametrize(
        "source",
        [None, 3, b"bytes", [[1, 2], [3, 4]], {"image": HEAD}],
        ids=lambda source: type(source).__name__,
    )
    def test_anything_else_is_refused_by_its_type(self, source):
        with pytest.raises(InvalidImageError, match=f"{type(source).__name__} is not an image") as refusal:
            read_image(source)
        assert_one_sentence(str(refusal.value))

    def test_none_is_refused_by_the_processor_too(self, processor):
        with pytest.raises(InvalidImageError, match="NoneType is not an image"):
            processor(None)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("make", [np.asarray, torch.as_tensor, Image.fromarray], ids=["array", "tensor", "PIL"])
    def test_values_that_are_not_finite_are_refused(self, value, make, processor):
        image = HEAD.astype(np.float32)
        image[3, 4] = value
        for read in (read_image, processor):
            with pytest.raises(InvalidImageError, match=r"NaN or infinite values; .* must be finite") as refusal:
                read(make(image))
            assert_one_sentence(str(refusal.value))

    @pytest.mark.parametrize(
        "shape", [(90,), (2, 60, 80), (60, 80, 2), (5, 60, 80), (60, 80, 5), (1, 1, 60, 80), (0, 0), (8, 8), (9000, 16)]
    )
    def test_an_array_of_an_impossible_shape_is_refused_with_it(self, shape):
        with pytest.raises(InvalidImageError) as refusal:
            read_image(np.zeros(shape, np.uint8))
        assert str(shape) in str(refusal.value) or f"{shape[1]} × {shape[0]} pixels" in str(refusal.value)
        assert_one_sentence(str(refusal.value))

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int16", "int32"])
    @pytest.mark.parametrize("make", [np.asarray, torch.as_tensor, lambda array: io.BytesIO(npy(array))])
    def test_four_sequences_are_no_colours_with_opacity(self, make, dtype):
        sequences = np.stack([np.roll(HEAD.astype(dtype) * 3, shift, axis=0) for shift in range(4)])
        with pytest.raises(InvalidImageError, match=r"four channels of type \w+ with values from 0 to") as refusal:
            read_image(make(sequences))
        assert_one_sentence(str(refusal.value))

    @pytest.mark.parametrize("dtype", [complex, object, "U1", "datetime64[s]"])
    def test_an_array_of_an_impossible_type_is_refused_with_it(self, dtype):
        with pytest.raises(InvalidImageError, match="use integers or floats"):
            read_image(np.empty((20, 20), dtype))

    @pytest.mark.parametrize("name", ["20,000 × 20,000", "12,000 × 12,000", "8193 × 16", "8 × 8", "AVIF of 9000 × 16"])
    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    @pytest.mark.usefixtures("refuse_to_decode")
    def test_a_wrong_size_is_refused_before_anything_is_decoded(self, name, tmp_path):
        file_name, content, _ = BAD_FILES[name]
        (tmp_path / file_name).write_bytes(content)
        with pytest.raises(InvalidImageError, match="pixels"):
            read_image(tmp_path / file_name)

    @pytest.mark.parametrize("name", ["JPEG 2000 of another size", "JPEG 2000 in many tiles"])
    @pytest.mark.usefixtures("refuse_to_decode")
    def test_a_codestream_that_its_header_does_not_promise_is_not_decoded(self, name, tmp_path):
        file_name, content, _ = BAD_FILES[name]
        (tmp_path / file_name).write_bytes(content)
        with pytest.raises(InvalidImageError, match="JPEG 2000"):
            read_image(tmp_path / file_name)

    @pytest.mark.usefixtures("refuse_to_decode")
    def test_a_large_image_already_opened_is_refused_before_it_is_decoded(self, tmp_path):
        (tmp_path / "wide.png").write_bytes(png_header(9000, 9000))
        with Image.open(tmp_path / "wide.png") as image, pytest.raises(InvalidImageError, match=r"^wide\.png: .*9000"):
            read_image(image)

    @pytest.mark.parametrize("file_format", ["GIF", "WEBP", "TIFF"])
    def test_several_frames_already_opened_are_refused_too(self, file_format):
        with pytest.raises(InvalidImageError, match=r"3 (frames|pages)"):
            read_image(Image.open(io.BytesIO(animation(file_format))))

    def test_of_a_jpeg_already_opened_the_first_picture_is_read(self):
        image = Image.open(io.BytesIO(two_pictures()))
        assert image.n_frames == 2
        assert read_image(image).shape == HEAD.shape

    @pytest.mark.parametrize("shape", [(16, 16), (16, 8192), (8192, 16)], ids=str)
    def test_the_limits_themselves_are_allowed(self, shape, processor):
        assert processor(np.zeros(shape, np.uint8), return_tensors="pt")["pixel_values"].shape == (1, 1, SIDE, SIDE)

    @pytest.mark.parametrize("name", ["8 × 8", "8193 × 16", "animated GIF", "truncated PNG"])
    def test_a_refused_file_is_closed_again(self, name, tmp_path, monkeypatch):
        file_name, content, _ = BAD_FILES[name]
        (tmp_path / file_name).write_bytes(content)
        image = Image.open(tmp_path / file_name)
        monkeypatch.setattr(Image, "open", lambda *_, **__: image)
        with pytest.raises(InvalidImageError):
            read_image(tmp_path / file_name)
        assert image.fp is None or image.fp.closed

    @pytest.mark.parametrize(
        ("file_format", "options"),
        [
            ("PNG", {"transparency": 0}),
            ("JPEG", {}),
            ("WEBP", {}),
            ("TIFF", {}),
            ("TIFF", {"compression": "tiff_lzw"}),
            ("BMP", {}),
            ("GIF", {}),
            ("GIF", {"save_all": True, "append_images": [Image.fromarray(HEAD[40:56, 40:56])]}),
            ("TIFF", {"save_all": True, "append_images": [Image.fromarray(HEAD[40:56, 40:56])]}),
        ],
        ids=["PNG", "JPEG", "WebP", "TIFF", "TIFF LZW", "BMP", "GIF", "animated GIF", "multi-page TIFF"],
    )
    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.slow
    def test_a_file_damaged_anywhere_is_read_or_refused_but_never_crashes(self, file_format, options, tmp_path):
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "a description"
        if file_format in ("PNG", "JPEG", "WEBP", "TIFF"):
            options = options | {"exif": exif}
        whole = encode(Image.fromarray(HEAD[30:46, 30:47]), file_format, **options)
        path, crashes = tmp_path / "damaged", []
        for position in range(len(whole)):
            flipped = bytearray(whole)
            flipped[position] ^= 0xFF
            for content in (whole[:position], flipped):
                path.write_bytes(content)
                try:
                    read_image(path)
                except InvalidImageError as error:
                    assert_one_sentence(str(error))
                except Exception as error:
                    crashes.append(f"{position}: {type(error).__name__}: {error}")
        assert crashes[:3] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"foreground_fraction": 2.0}, r"`foreground_fraction` is 2\.0; it must be a number in \[0, 1\)"),
        ({"foreground_fraction": math.nan}, r"`foreground_fraction` is nan; it must be a number"),
        ({"size": {"longest_edge": -5}}, r"`longest_edge` is -5; it must be a whole number from 1 to 2,048"),
        ({"size": {"longest_edge": 16000}}, r"`longest_edge` is 16000; .* from 1 to 2,048"),
    ],
)
@pytest.mark.parametrize("when", ["made", "called"])
def test_settings_out_of_range_are_named(options, message, when):
    with pytest.raises(ValueError, match=f"^{message}"):
        UNetImageProcessor(**options) if when == "made" else UNetImageProcessor()(HEAD, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"foreground_fraction": "0.1"}, r"`foreground_fraction` is '0\.1'; it must be a number"),
        ({"size": {"longest_edge": "256"}}, r"`longest_edge` is '256'; it must be a whole number"),
        ({"do_resize": "yes"}, r"`do_resize` is 'yes'; it must be true or false"),
    ],
)
def test_settings_of_another_type_are_named_when_they_are_read(options, message):
    """In a call, transformers refuses them by itself."""
    with pytest.raises(ValueError, match=f"^{message}"):
        UNetImageProcessor(**options)


def test_formats_that_start_other_programs_are_not_tried(tmp_path):
    path = tmp_path / "drawing.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n")
    with pytest.raises(InvalidImageError, match=r"drawing\.png: the file is not an image that can be read"):
        read_image(path)
