import numpy as np
import pytest

from train.metrics import Overlap, bootstrap_interval, person_mean, pooled_dice, summarize


def mask(text: str) -> np.ndarray:
    return np.array([[character == "#" for character in row] for row in text.split()])


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


def test_masks_must_agree_in_shape_and_be_boolean():
    with pytest.raises(ValueError, match=r"\(2, 4\).*\(1, 4\)"):
        Overlap.of(EMPTY, EMPTY[:1])
    with pytest.raises(ValueError, match="uint8"):
        Overlap.of(EMPTY.astype(np.uint8), EMPTY)


def test_the_three_averages_weigh_slices_persons_and_pixels():
    # Person a: two slices of 10 px each, both right. Person b: one slice of 180 px, half of it found.
    overlaps = [Overlap(10, 10, 10), Overlap(10, 10, 10), Overlap(90, 180, 180)]
    figures = summarize(overlaps, ["a", "a", "b"])
    assert figures["slice_dice"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert figures["person_dice"] == pytest.approx((1 + 0.5) / 2)
    assert figures["pooled_dice"] == pytest.approx(2 * 110 / 400)
    assert figures["slice_iou"] == pytest.approx((1 + 1 + 90 / 270) / 3)
    assert (figures["slices"], figures["persons"], figures["zero_dice_rate"]) == (3, 2, 0)


def test_a_missed_tumour_stays_in_the_mean():
    figures = summarize([Overlap(0, 0, 50), Overlap(50, 50, 50)], ["a", "b"])
    assert figures["slice_dice"] == 0.5
    assert figures["zero_dice_rate"] == 0.5


def test_pooled_dice_of_nothing_is_one():
    assert pooled_dice([Overlap(0, 0, 0)]) == 1


def test_person_mean_needs_a_person_for_every_slice():
    with pytest.raises(ValueError, match="zip"):
        person_mean([1.0, 0.0], ["a"])


def test_interval_is_of_persons_not_of_slices():
    # Ten persons with a hundred equal slices each: drawing slices would give an interval ten times as narrow.
    values = np.repeat(np.linspace(0, 1, 10), 100)
    persons = np.repeat([f"p{number}" for number in range(10)], 100)
    low, high = bootstrap_interval(values, persons)
    standard_error = np.linspace(0, 1, 10).std() / np.sqrt(10)
    assert low == pytest.approx(0.5 - 1.96 * standard_error, abs=0.03)
    assert high == pytest.approx(0.5 + 1.96 * standard_error, abs=0.03)


def test_interval_is_the_same_every_time_and_closes_on_one_person():
    values, persons = [0.2, 0.9, 0.4], ["a", "b", "c"]
    assert bootstrap_interval(values, persons) == bootstrap_interval(values, persons)
    assert bootstrap_interval([0.2, 0.4], ["a", "a"]) == pytest.approx((0.3, 0.3))
