"""Distances between outlines: hand-worked cases, empty masks, and MONAI beside them."""

import numpy as np
import pytest
from slices import box, mask, random_masks

from modeling_unet.surface import hd95, nsd, surface_distances


GRID = (512, 512)  # where the lengths in the metrics' definitions are pixels


def test_surface_metrics_by_hand():
    """Two squares of 4 × 4 px, one 3 px beside the other.

    Each surface is a ring of 12 px. The rings share a column (4 px at distance 0); then come 2 px at 1, 2 px at 2 and
    the far column, 4 px at 3.
    """
    predicted, true = box(np.s_[2:6], np.s_[5:9]), box(np.s_[2:6], np.s_[2:6])
    distances = surface_distances(predicted, true)
    expected = [0] * 4 + [1] * 2 + [2] * 2 + [3] * 4
    assert sorted(distances[0]) == sorted(distances[1]) == expected
    assert hd95(distances) == 3
    assert nsd(distances, GRID) == pytest.approx(8 / 12)


def test_tolerance_grows_with_the_longer_side():
    distances = np.array([0.0, 1.0, 2.0, 3.0]), np.array([4.0])
    assert nsd(distances, (256, 128)) == pytest.approx(2 / 5)
    assert nsd(distances, (512, 128)) == pytest.approx(3 / 5)
    assert nsd(distances, (512, 1024)) == 1


def test_the_percentile_is_taken_of_both_directions_together():
    true = box(np.s_[0:1], np.s_[0:10])
    predicted = true | box(np.s_[10:11], np.s_[0:1])
    # 10 zeros back, 10 zeros and a 10 there: place 19 of 0 … 20 is a zero. Of the way there alone it would be 5.
    assert hd95(surface_distances(predicted, true)) == 0
    assert np.percentile(surface_distances(predicted, true)[0], 95) == 5


def test_distances_are_euclidean_and_exact():
    pixels = np.argwhere(random_masks()[0][0])
    corner = np.zeros((48, 80), bool)
    corner[0, 0] = True
    _, there = surface_distances(corner, random_masks()[0][0])
    assert set(np.rint(there**2)) <= set((pixels**2).sum(axis=1))
    np.testing.assert_allclose(there, np.sqrt(np.rint(there**2)), rtol=1e-7)
    (way,), (way_back,) = surface_distances(box(np.s_[0:1], np.s_[0:1]), box(np.s_[3:4], np.s_[4:5]))
    assert way == way_back == 5


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 0.5), (2.0, 0.5), (0.43, 3.0)])
def test_distances_in_the_unit_of_the_spacing(spacing):
    corner, elsewhere = box(np.s_[0:1], np.s_[0:1]), box(np.s_[3:4], np.s_[4:5])
    (way,), (way_back,) = surface_distances(corner, elsewhere, spacing)
    assert way == way_back == pytest.approx(np.hypot(3 * spacing[0], 4 * spacing[1]))


def test_where_pixels_are_not_square_another_one_may_be_the_nearest():
    """From the corner it is 2 px to the right and 3 px down, but 8 mm and 1.5 mm."""
    corner = box(np.s_[0:1], np.s_[0:1])
    true = box(np.s_[0:1], np.s_[2:3]) | box(np.s_[3:4], np.s_[0:1])
    assert surface_distances(corner, true)[0] == 2
    assert surface_distances(corner, true, (0.5, 4.0))[0] == 1.5


def test_distances_equal_the_search_over_all_pairs():
    spacing = 0.9, 0.31
    for predicted, true in random_masks()[:3]:
        ways = surface_distances(predicted, true, spacing)
        points, others = (np.argwhere(pixels & ~inner(pixels)) * spacing for pixels in (predicted, true))
        pairs = np.linalg.norm(points[:, None] - others, axis=2)
        for found, expected in zip(ways, (pairs.min(axis=1), pairs.min(axis=0)), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def inner(mask: np.ndarray) -> np.ndarray:
    """The pixels whose four neighbours are in the mask."""
    padded = np.pad(mask, 1)
    return padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def test_the_border_of_the_slice_is_surface():
    full = np.ones((5, 5), bool)
    assert len(surface_distances(full, full)[0]) == 16


@pytest.mark.parametrize(
    ("predicted", "true", "distance", "dice"),
    [
        ("#... ....", ".... ....", None, 0),
        (".... ....", "#... ....", None, 0),
        (".... ....", ".... ....", 0, 1),
        ("#... ....", "#... ....", 0, 1),
    ],
)
@pytest.mark.parametrize("spacing", [(1, 1), (1, 2)])
def test_surface_metrics_of_empty_masks(predicted, true, distance, dice, spacing):
    distances = surface_distances(mask(predicted), mask(true), spacing)
    assert hd95(distances) == distance
    assert nsd(distances, GRID) == dice


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*monai:FutureWarning")
def test_surface_metrics_agree_with_monai():
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    for predicted, true in random_masks():
        batch = [torch.from_numpy(array)[None, None].float() for array in (predicted, true)]
        distances = surface_distances(predicted, true)
        (theirs,) = compute_surface_dice(*batch, class_thresholds=[2.0], include_background=True)
        assert nsd(distances, GRID) == pytest.approx(theirs.item(), abs=1e-6)
        (maximum,) = compute_hausdorff_distance(*batch, include_background=True)
        assert max(map(np.max, distances)) == pytest.approx(maximum.item(), rel=1e-6)
        (directed,) = compute_hausdorff_distance(*batch, include_background=True, percentile=95)
        assert max(np.percentile(way, 95) for way in distances) == pytest.approx(directed.item(), rel=1e-5)
        assert hd95(distances) <= directed.item() + 1e-4
