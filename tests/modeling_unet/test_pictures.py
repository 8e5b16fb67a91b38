"""PNG files: every kind of picture comes back as it went in."""

import io

import numpy as np
import pytest
from PIL import Image

from modeling_unet.pictures import encode_png, to_16_bit


def noise(shape: tuple[int, ...], dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def decoded(png: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(png))
    assert picture.format == "PNG"
    return picture


@pytest.mark.parametrize(
    ("shape", "dtype", "mode"),
    [
        ((17, 23), np.uint8, "L"),
        ((17, 23), np.uint16, "I;16"),
        ((17, 23, 3), np.uint8, "RGB"),
        ((17, 23, 4), np.uint8, "RGBA"),
        ((1, 1), np.uint8, "L"),
    ],
)
def test_a_picture_comes_back_as_it_went_in(shape, dtype, mode):
    array = noise(shape, dtype)
    picture = decoded(encode_png(array))
    assert picture.mode == mode
    np.testing.assert_array_equal(np.asarray(picture), array)


def test_an_array_may_be_a_view_of_another():
    array = noise((40, 40, 3))
    view = array[5:30:2, ::-1, ::-1]
    np.testing.assert_array_equal(np.asarray(decoded(encode_png(view))), view)


def test_a_mask_is_black_and_white():
    mask = noise((9, 14)) > 128
    picture = decoded(encode_png(mask))
    assert picture.mode == "L"
    np.testing.assert_array_equal(np.asarray(picture), np.where(mask, 255, 0))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((8, 8), np.float32),
        ((8, 8, 3), np.uint16),
        ((8, 8, 3), bool),
        ((8, 8, 2), np.uint8),
        ((8,), np.uint8),
        ((0, 8), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused_by_shape_and_type(shape, dtype):
    with pytest.raises(ValueError, match=r"^a PNG of shape \(.*\) and type .*; allowed are \[H, W\] of bool"):
        encode_png(np.zeros(shape, dtype))


def test_probabilities_in_16_bit_by_hand():
    probability = np.float32([[0, 1, 0.5], [0.25, 1 / 65535, 0.4 / 65535]])
    picture = to_16_bit(probability)
    assert picture.dtype == np.uint16
    np.testing.assert_array_equal(picture, [[0, 65535, 32768], [16384, 1, 0]])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_probability_file_is_off_by_half_a_step_at_most(dtype):
    probability = np.random.default_rng(0).random((50, 60)).astype(dtype)
    restored = np.asarray(decoded(encode_png(to_16_bit(probability)))) / 65535
    assert np.abs(restored - probability).max() <= 0.5 / 65535 + 1e-7


@pytest.mark.parametrize("value", [-0.01, 1.01, np.nan, np.inf])
def test_what_is_no_probability_is_refused(value):
    with pytest.raises(ValueError, match=r"^probability spans .* allowed are values from 0 to 1\.$"):
        to_16_bit(np.array([[0.5, value]], np.float32))
