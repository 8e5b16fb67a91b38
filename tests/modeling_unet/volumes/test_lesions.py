"""Lesions in three dimensions: pieces, sizes and places by hand."""

import numpy as np
import pytest

from modeling_unet.volumes.lesions import find_lesions, label_pieces, longest_diameter


def boxes(shape: tuple[int, int, int], *places: tuple[slice, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for place in places:
        mask[place] = True
    return mask


def test_voxels_that_touch_at_a_corner_are_one_piece():
    mask = boxes((4, 8, 8), np.s_[0, 2, 2], np.s_[1, 3, 1], np.s_[2, 4, 2], np.s_[2, 4, 4])
    labels, sizes = label_pieces(mask)
    assert sorted(sizes.tolist()) == [1, 3]
    assert labels[0, 2, 2] == labels[1, 3, 1] == labels[2, 4, 2] != labels[2, 4, 4]
    assert not labels[~mask].any() and labels[mask].all()
    assert [np.count_nonzero(labels == number + 1) for number in range(2)] == sizes.tolist()


def test_pieces_that_meet_in_a_later_slice_are_one():
    # A U: two arms that no slice but the last one joins.
    mask = boxes((5, 6, 9), np.s_[:, 2, 1], np.s_[:, 2, 7], np.s_[4, 2, 1:8])
    labels, sizes = label_pieces(mask)
    assert sizes.tolist() == [4 + 4 + 7] and set(labels[mask]) == {1}


def test_pieces_are_those_of_a_flood():
    mask = np.random.default_rng(0).random((12, 14, 10)) < 0.12
    _, sizes = label_pieces(mask)
    left, found = {tuple(place) for place in np.argwhere(mask)}, []
    while left:
        waiting, piece = [left.pop()], 1
        while waiting:
            n, y, x = waiting.pop()
            near = {(n + a, y + b, x + c) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)} & left
            left -= near
            waiting += near
            piece += len(near)
        found.append(piece)
    assert len(found) > 20 and sorted(sizes.tolist()) == sorted(found)


def test_an_empty_mask_has_no_pieces():
    labels, sizes = label_pieces(np.zeros((3, 4, 5), bool))
    assert not labels.any() and len(sizes) == 0
    assert find_lesions(np.zeros((3, 4, 5), bool), np.zeros((3, 4, 5)), (1, 1, 1)) == []


def test_lesions_by_hand():
    mask = boxes((10, 20, 20), np.s_[2:6, 3:9, 10:13], np.s_[8, 15:19, 2:5], np.s_[0, 0, 0])
    probability = np.where(mask, 0.75, 0.1)
    affine = np.array([[0, 0, -0.5, 9], [0, -2, 0, 8], [3, 0, 0, 7], [0, 0, 0, 1]])
    large, small = find_lesions(mask, probability, (3.0, 2.0, 0.5), affine, min_voxels=2)
    assert (large.voxels, small.voxels) == (72, 12)
    assert large.volume_ml == pytest.approx(72 * 0.003) and large.mean_probability == pytest.approx(0.75)
    assert large.slices == (2, 5) and small.slices == (8, 8)
    assert large.centre == (3.5, 5.5, 11)
    assert large.centre_mm == pytest.approx((9 - 0.5 * 11, 8 - 2 * 5.5, 7 + 3 * 3.5))
    assert large.longest_diameter_mm == pytest.approx(np.linalg.norm((4 * 3, 6 * 2, 3 * 0.5)))
    assert large.longest_in_slice_mm == pytest.approx(np.hypot(6 * 2, 3 * 0.5))


def test_without_sizes_there_are_no_millimetres():
    (lesion,) = find_lesions(boxes((4, 9, 9), np.s_[1:3, 2:6, 2:6]), np.ones((4, 9, 9)))
    assert lesion.voxels == 32
    assert lesion.volume_ml is lesion.centre_mm is lesion.longest_diameter_mm is lesion.longest_in_slice_mm is None


def test_the_longest_diameter_is_that_of_all_pairs():
    places = np.argwhere(np.random.default_rng(1).random((6, 7, 8)) < 0.1)
    sizes = np.array((2.0, 0.7, 1.1))
    corners = (places[:, None] + np.stack(np.meshgrid(*[(0, 1)] * 3), -1).reshape(-1, 3)).reshape(-1, 3) * sizes
    expected = np.linalg.norm(corners[:, None] - corners, axis=2).max()
    assert longest_diameter(places, tuple(sizes)) == pytest.approx(expected)
