"""What is tumour in masks of many kinds, and whether the advice that is given about a mask works."""

import io
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from slices import write_data_set
from surroundings import ROOT

from modeling_unet import read_mask
from train.data.arguments import DataArguments
from train.data.masks import advise, advise_labels
from train.data.raw import DataError, RawSlice, as_file, encode_png
from train.data.slices import examine, load_slices, scan_slices


SIDE = 64
EXAMPLE = ROOT / "examples" / "images" / "glioma-axial-726.png"


@pytest.fixture
def folder(tmp_path):
    return write_data_set(tmp_path / "data", 3)


def disc(side: int = SIDE) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    cv2.ellipse(mask, (side // 2, side * 2 // 5), (side // 8, side // 6), 30, 0, 360, 255, -1)
    return mask


def resized(interpolation: int) -> np.ndarray:
    return cv2.resize(disc(SIDE // 2), (SIDE, SIDE), interpolation=interpolation)


def rings(*labels: int) -> np.ndarray:
    """A label in each ring, the last one innermost."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for label, radius in zip(labels, (20, 13, 7), strict=False):
        cv2.circle(mask, (32, 32), radius, label, -1)
    return mask


def as_jpeg(mask: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, format="JPEG", quality=quality)
    return np.asarray(Image.open(file))


def write_masks(folder: Path, *masks: np.ndarray) -> Path:
    """A mask for each slice, the last one for all that are left."""
    for number in range(1, 4):
        mask = masks[min(number, len(masks)) - 1]
        cv2.imwrite(str(folder / "masks" / f"{number}.png"), mask[..., ::-1] if mask.ndim == 3 else mask)
    return folder


def refusal(folder: Path, **reading) -> str:
    with pytest.raises(DataError) as error:
        load_slices(DataArguments(str(folder), num_folds=2, **reading))
    return str(error.value)


def row_of(mask: np.ndarray, **options) -> dict:
    """What the scan says of a slice with this mask."""
    content = io.BytesIO()
    Image.fromarray(mask).save(content, format="PNG")
    grey = encode_png(np.random.default_rng(0).integers(0, 256, mask.shape[:2], np.uint8))
    pictures = ({"path": "1.png", "bytes": found} for found in (grey, content.getvalue()))
    return examine(RawSlice("1", *pictures), DataArguments("DATA", **options).mask_rule())


def advice_on(mask: np.ndarray) -> str:
    row = row_of(mask)
    assert row["problem_kind"] == "not binary"
    labels = [float(label) for label in row["mask_labels"].split()]
    return f"{row['problem']} {advise_labels(labels)}" if labels else row["problem"]


def advised(message: str) -> dict:
    """The first option that a message names, with its values."""
    name, values = re.search(r"--(mask_threshold|tumor_labels|mask_color)((?: (?:[\d.]+|'#\w+'))+)", message).groups()
    values = [value.strip("'") for value in values.split()]
    return {
        "mask_threshold": lambda: {"mask_threshold": float(values[0])},
        "tumor_labels": lambda: {"tumor_labels": [int(value) for value in values]},
        "mask_color": lambda: {"mask_color": values},
    }[name]()


def taken(mask: np.ndarray, **options) -> np.ndarray:
    row = row_of(mask, **options)
    assert not row["problem"], row["problem"]
    return read_mask(as_file(row["mask"]))


KINDS = {
    "JPEG of quality 10": (as_jpeg(disc(), 10), "as JPEG leaves them", disc()),
    "JPEG of quality 75": (as_jpeg(disc(), 75), "as JPEG leaves them", disc()),
    "JPEG of quality 95": (as_jpeg(disc(), 95), "as JPEG leaves them", disc()),
    "halved": (cv2.resize(disc(128), (64, 64), interpolation=cv2.INTER_AREA), "its edges are soft", disc()),
    "doubled": (resized(cv2.INTER_CUBIC), "its edges are soft", resized(cv2.INTER_NEAREST)),
    "smoothed": (cv2.GaussianBlur(disc(), (0, 0), 1.5), "its edges are soft", disc()),
    "a little darker": (np.minimum(cv2.GaussianBlur(disc(), (0, 0), 1), 200), "its edges are soft", disc()),
    "two values": (np.where(disc() > 0, 250, 3).astype(np.uint8), "has the values 3 and 250 alone", disc()),
    "labels": (rings(2, 4, 1), "If these are labels, --tumor_labels 1 2 4 takes all but 0;", rings(2, 4, 1)),
    "grey labels": (60 * rings(2, 4, 1), "--tumor_labels 60 120 240 takes all but 0;", rings(2, 4, 1)),
    "one label": (rings(2), "If these are labels, --tumor_labels 2 takes all but 0.", rings(2)),
    "labels from 1 on": (rings(2, 4, 1) + 1, "--tumor_labels 2 3 5 takes all but 1;", rings(2, 4, 1)),
}


@pytest.mark.parametrize(("mask", "words", "meant"), KINDS.values(), ids=KINDS)
def test_what_is_advised_takes_the_mask_as_it_is_meant(mask, words, meant):
    message = advice_on(mask)
    assert "1.png: the mask holds" in message and words in message
    found = taken(mask, **advised(message))
    assert (found != (meant > 0)).sum() <= 0.15 * (meant > 0).sum()


def test_fractions_that_fade_out_are_soft_edges():
    """As of a NIfTI mask that was resampled, where values as small as 1e-9 lie beside the tumour."""
    file = io.BytesIO()
    np.save(file, cv2.GaussianBlur(disc().astype(np.float32) / 255, (0, 0), 1.5))
    file.seek(0)
    advice = advise(file)
    assert "its edges are soft" in advice and "--mask_threshold 0.5 " in advice


def test_a_picture_among_the_masks_is_called_one():
    picture = cv2.resize(cv2.imread(str(EXAMPLE), cv2.IMREAD_GRAYSCALE), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    assert "it is grey all over, as a picture or a map of probabilities" in advice_on(picture)


def test_a_constant_mask_is_no_background():
    assert "outside the tumour a mask has to be 0" in advice_on(np.full((SIDE, SIDE), 7, np.uint8))


def test_labels_of_all_masks_are_advised_together(folder):
    write_masks(folder, rings(1), rings(2), rings(4, 2))
    message = refusal(folder)
    assert "2.png: the mask holds" in message, "alone, the first is a mask as it should be"
    assert "The same goes for 3. If these are labels, --tumor_labels 1 2 4 takes all but 0;" in message
    assert len(load_slices(DataArguments(str(folder), num_folds=2, **advised(message)))) == 3


def test_labels_are_taken_and_no_others():
    np.testing.assert_array_equal(taken(rings(4, 2), tumor_labels=[4]), rings(4, 2) == 4)
    assert not taken(rings(1), tumor_labels=[2, 4]).any()


@pytest.mark.parametrize("quality", [None, 60], ids=["drawn", "JPEG"])
def test_a_coloured_mask_is_taken_by_its_colour(quality):
    red = rings(1)[..., None] > 0
    green = np.roll(red, 30, axis=0) & ~red
    drawn = np.where(red, (255, 0, 0), np.where(green, (0, 180, 0), 0)).astype(np.uint8)
    mask = as_jpeg(drawn, quality) if quality else drawn
    message = advice_on(mask)
    assert "the mask is coloured" in message and "besides its background it has '#" in message
    for options in (advised(message), {"mask_color": ["red"]}):
        assert (taken(mask, **options) != red[..., 0]).sum() <= (0.15 if quality else 0) * red.sum()
    assert taken(mask, mask_color=["red", "#00b400"]).sum() > 1.3 * red.sum()


def test_a_mask_that_is_painted_on_its_slice_is_taken_by_the_paint():
    tumor = rings(1) > 0
    painted = np.repeat(np.where(np.indices(tumor.shape)[0] % 40 < 20, 120, 0)[..., None], 3, axis=2).astype(np.uint8)
    painted[tumor] = (255, 255, 0)
    message = advice_on(painted)
    assert "it has '#ffff00', '#" in message and "--mask_color '#ffff00' takes" in message
    np.testing.assert_array_equal(taken(painted, **advised(message)), tumor)


def test_labels_that_are_not_named_are_told(folder):
    write_masks(folder, rings(3, 4), rings(1, 4), rings(3, 4))
    scan = scan_slices(folder, tumor_labels=[3, 4])
    assert {row["slice"]: row["labels_left_out"] for row in scan if row["labels_left_out"]} == {"2": "1"}
    assert not any(scan_slices(folder, tumor_labels=[1, 3, 4])["labels_left_out"])


def test_palettes_count_as_labels_by_their_indices(folder):
    picture = Image.fromarray(rings(1, 2), mode="P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.save(folder / "1.png")
    for options in ({"tumor_labels": [2]}, {"mask_color": ["lime"]}):
        rule = DataArguments("DATA", **options).mask_rule()
        np.testing.assert_array_equal(rule.read(folder / "1.png"), rings(1, 2) == 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tumor_labels": [1], "mask_threshold": 3.0}, "--mask_threshold and --tumor_labels say different things"),
        ({"mask_color": ["reddish"]}, "--mask_color is reddish; allowed are names such as red"),
        ({"negative_share": 1.0}, "--negative_share is 1.0; it must be from 0 to below 1"),
        ({"planes": ["oblique"]}, "--planes is oblique; allowed are axial, coronal, sagittal"),
        ({"missing_mask": "zero"}, "--missing_mask is zero; allowed are refuse, empty"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DataArguments("DATA", **options)


def test_a_sequence_in_a_channel_is_read_alone(folder):
    grey = cv2.imread(str(folder / "images" / "2.png"), cv2.IMREAD_GRAYSCALE)
    for number in (1, 2, 3):
        own = cv2.imread(str(folder / "images" / f"{number}.png"), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), cv2.merge([own, own // 2, 255 - own]))  # blue comes first
    assert "say which one by --image_channel red, green or blue" in refusal(folder)
    slices = load_slices(DataArguments(str(folder), num_folds=2, image_channel="blue"))
    np.testing.assert_array_equal(np.asarray(Image.open(as_file(slices[1]["image"]))), grey)
