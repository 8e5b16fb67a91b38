"""A mask against the truth: hand-worked overlaps and distances."""

import numpy as np
import pytest
from slices import box, mask

from modeling_unet.comparison import Comparison, Overlap, compare


EMPTY = mask(".... ....")


@pytest.mark.parametrize(
    ("predicted", "true", "dice", "iou"),
    [
        ("##.. ....", "##.. ....", 1.0, 1.0),
        ("##.. ....", ".##. ....", 2 * 1 / 4, 1 / 3),
        ("#### ....", "##.. ##..", 2 * 2 / 8, 2 / 6),
        ("##.. ....", "..## ....", 0.0, 0.0),
        (".... ....", "##.. ....", 0.0, 0.0),
        ("##.. ....", ".... ....", 0.0, 0.0),
        (".... ....", ".... ....", 1.0, 1.0),
    ],
)
def test_overlap_by_hand(predicted, true, dice, iou):
    overlap = Overlap.of(mask(predicted), mask(true))
    assert overlap.dice == pytest.approx(dice)
    assert overlap.iou == pytest.approx(iou)


def test_comparison_by_hand():
    """Two squares of 4 × 4 px, one 3 px beside the other: they share a column; their far columns lie 3 px apart."""
    found, true = box(np.s_[2:6], np.s_[5:9]), box(np.s_[2:6], np.s_[2:6])
    comparison = compare(found, true, spacing=(2.0, 0.5))
    assert comparison == Comparison(
        dice=2 * 4 / 32, iou=4 / 28, hd95_px=3, hd95_mm=pytest.approx(1.5), area_px=16, true_area_px=16
    )
    assert compare(found, true).hd95_mm is None


def test_areas_are_those_of_mask_and_truth():
    comparison = compare(mask("###. ...."), mask("#... #..."))
    assert (comparison.area_px, comparison.true_area_px) == (3, 2)
    assert comparison.dice == pytest.approx(2 * 1 / 5) and comparison.iou == pytest.approx(1 / 4)


@pytest.mark.parametrize("spacing", [None, (0.5, 0.5), (0.5, 0.4)])
def test_a_mask_equals_itself(spacing):
    square = box(np.s_[2:6], np.s_[5:9])
    comparison = compare(square, square, spacing)
    assert (comparison.dice, comparison.iou, comparison.hd95_px) == (1, 1, 0)
    assert comparison.hd95_mm == (None if spacing is None else 0)


@pytest.mark.parametrize("spacing", [None, (0.5, 0.5), (0.5, 0.4)])
def test_where_one_mask_is_empty_their_distance_is_undefined(spacing):
    for found, true in ((EMPTY, mask("##.. ....")), (mask("##.. ...."), EMPTY)):
        comparison = compare(found, true, spacing)
        assert (comparison.dice, comparison.iou) == (0, 0)
        assert comparison.hd95_px is None and comparison.hd95_mm is None


def test_nothing_there_and_nothing_found_is_right():
    assert compare(EMPTY, EMPTY, (0.5, 0.5)) == Comparison(1, 1, 0, 0, 0, 0)


def test_masks_must_agree_in_shape_and_be_boolean():
    with pytest.raises(ValueError, match=r"prediction has shape \(2, 4\) and the truth \(1, 4\)"):
        compare(EMPTY, EMPTY[:1])
    with pytest.raises(ValueError, match="masks are of type bool and uint8; allowed is bool"):
        compare(EMPTY, EMPTY.astype(np.uint8))
