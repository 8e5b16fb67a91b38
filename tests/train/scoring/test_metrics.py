import numpy as np
import pytest
from slices import box, mask, random_masks

from modeling_unet.comparison import Overlap
from modeling_unet.segmentation import find_lesions
from train.scoring.metrics import (
    LesionCounts,
    bootstrap_interval,
    detection_rates,
    paired_interval,
    person_interval,
    person_mean,
    pooled_dice,
    summarize,
    summarize_hd95,
)
from train.scoring.reliability import THRESHOLDS, Reliability, threshold_dice


EMPTY = mask(".... ....")


# Lesions


def test_lesions_by_hand():
    # True: A 20 px, found whole; B 20 px, missed; a speck of 9 px, which is none. Predicted: A and one elsewhere.
    a, b = box(np.s_[0:4], np.s_[0:5]), box(np.s_[20:24], np.s_[0:5])
    speck, elsewhere = box(np.s_[40:43], np.s_[0:3]), box(np.s_[40:45], np.s_[40:46])
    assert LesionCounts.of(a | elsewhere, a | b | speck) == LesionCounts(
        true=2, hit=1, predicted=2, false=1, largest_predicted=30
    )


def test_a_lesion_is_hit_above_a_tenth_of_overlap():
    true = box(np.s_[0:10], np.s_[0:10])
    assert LesionCounts.of(box(np.s_[0:1], np.s_[0:10]), true) == LesionCounts(1, 0, 1, 1, 10)
    assert LesionCounts.of(box(np.s_[0:1], np.s_[0:10]) | box(np.s_[1:2], np.s_[0:1]), true).hit == 1


def test_one_prediction_may_hit_two_lesions():
    true = box(np.s_[0:10], np.s_[0:4]) | box(np.s_[0:10], np.s_[6:10])
    assert LesionCounts.of(box(np.s_[0:10], np.s_[0:10]), true) == LesionCounts(2, 2, 1, 0, 100)


def test_nothing_there_and_nothing_found():
    assert LesionCounts.of(EMPTY, EMPTY) == LesionCounts(0, 0, 0, 0, 0)


def test_lesions_are_those_that_the_package_reports():
    for predicted, true in random_masks():
        counts, lesions = LesionCounts.of(predicted, true), find_lesions(predicted, predicted)
        assert counts.predicted == len(lesions)
        assert counts.largest_predicted == (lesions[0].area_px if lesions else 0)
        assert counts.true == len(find_lesions(true, true))


def test_detection_by_hand():
    assert detection_rates([True, True, False, True], [True, True, True, False]) == (pytest.approx(2 / 3), 0)
    assert detection_rates([True], [True]) == (1, None)
    assert detection_rates([False], [False]) == (None, 1)


# Reliability


def test_reliability_by_hand():
    """A tumour of one pixel on a 64-px grid: 15 px there are 1.9 here, so it and its 8 neighbours count."""
    true = box(np.s_[32:33], np.s_[32:33])
    probability = np.ones((64, 64), np.float32)  # far away from the tumour nothing counts
    probability[31:34, 31:34] = [[0.05, 0.1, 0.05], [0.1, 0.9, 0.1], [0.05, 0.1, 0.05]]
    reliability = Reliability.of(probability, true)
    assert [index for index, pixels in enumerate(reliability.pixels) if pixels] == [0, 1, 13]
    assert (reliability.pixels[0], reliability.pixels[1], reliability.pixels[13]) == (4, 4, 1)
    assert reliability.tumor[13] == sum(reliability.tumor) == 1
    assert reliability.ece == pytest.approx((4 * 0.05 + 4 * 0.1 + 0.1) / 9, abs=1e-4)
    assert reliability.brier == pytest.approx((4 * 0.05**2 + 4 * 0.1**2 + 0.1**2) / 9, abs=1e-4)
    last = reliability.to_bins()[13]
    assert (last["mean_probability"], last["tumor_share"]) == (pytest.approx(0.9, abs=1e-4), 1)
    assert reliability.to_bins()[5]["mean_probability"] is None


def test_reliability_adds_up_over_slices():
    # Half of the pixels are tumour and all get 0.8: one slice alone is off by 0.2 or 0.8, both together by 0.3.
    probability = np.full((8, 8), 0.8)
    right, wrong = Reliability.of(probability, np.ones((8, 8), bool)), Reliability((0,) * 15, (0,) * 15, (0,) * 15, 0)
    assert right.ece == pytest.approx(0.2)
    assert right.pixels[12] == 64
    assert wrong.ece is None and wrong.brier is None
    assert Reliability.total([right, wrong, right]).pixels[12] == 128
    mixed = Reliability.total([right, Reliability(right.pixels, right.probability, (0,) * 15, 0.64 * 64)])
    assert mixed.ece == pytest.approx(0.3)
    assert mixed.brier == pytest.approx((0.04 + 0.64) / 2)


def test_certainty_falls_into_the_last_bin_and_no_tumour_into_none():
    assert Reliability.of(np.ones((8, 8)), np.ones((8, 8), bool)).pixels[-1] == 64
    assert sum(Reliability.of(np.ones((8, 8)), np.zeros((8, 8), bool)).pixels) == 0


def test_threshold_curve_by_hand():
    true = mask("##.. ....")
    probability = np.array([[0.9, 0.4, 0.6, 0.0], [0.0] * 4])
    dice = dict(zip(THRESHOLDS, threshold_dice(probability, true), strict=True))
    assert dice[0.05] == dice[0.35] == pytest.approx(2 * 2 / 5)
    assert dice[0.4] == dice[0.5] == pytest.approx(2 * 1 / 4)
    assert dice[0.6] == dice[0.85] == pytest.approx(2 * 1 / 3)
    assert dice[0.95] == 0
    assert threshold_dice(np.zeros((2, 4)), EMPTY) == [1] * len(THRESHOLDS)


# Averages and intervals


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


def test_interval_of_a_person_mean_weighs_persons_alike():
    # A mean over slices would be drawn between 0.25 and 1 by person b's three slices.
    low, high = person_interval([1, 0, 0, 0], ["a", "b", "b", "b"])
    assert (low, high) == (0, 1)
    values, persons = [0.5, 0.1, 0.9, 0.5], ["a", "b", "b", "b"]
    assert person_interval(values, persons) == pytest.approx((0.5, 0.5))


def test_what_is_hard_for_both_cancels_out_of_a_paired_interval():
    first, persons = np.linspace(0, 0.9, 10), [f"p{number}" for number in range(10)]
    assert paired_interval(first, first + 0.1, persons) == pytest.approx((0.1, 0.1))
    low, high = paired_interval(first, first[::-1], persons)
    assert low < 0 < high


def test_an_undefined_distance_counts_as_the_diagonal_beside_the_median():
    figures = summarize_hd95([2.0, None, 4.0, None, None], [(30, 40)] * 5)
    assert figures == {"hd95_median": 3.0, "hd95_undefined": 3, "hd95_median_diagonal": 50.0}
    assert summarize_hd95([None], [(30, 40)])["hd95_median"] is None
