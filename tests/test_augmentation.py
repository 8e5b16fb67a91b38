import numpy as np
import pytest
from slices import draw_slice

from train.augmentation import Augmentation


STEPS = ("flip", "affine", "gamma", "contrast", "blur", "noise")
NOTHING = {f"{step}_probability": 0.0 for step in STEPS}


@pytest.fixture
def sample():
    image, mask = draw_slice(np.random.default_rng(3), side=96)
    return (image / 64 - 1).astype(np.float32)[None], (mask > 0).astype(np.uint8)


def test_shapes_types_and_labels_survive(sample):
    for seed in range(20):
        image, labels = Augmentation()(*sample, np.random.default_rng(seed))
        assert (image.shape, image.dtype) == (sample[0].shape, np.float32)
        assert (labels.shape, labels.dtype) == (sample[1].shape, np.uint8)
        assert set(np.unique(labels)) <= {0, 1}
        assert np.isfinite(image).all()


def test_inputs_are_left_alone(sample):
    before = [array.copy() for array in sample]
    Augmentation()(*sample, np.random.default_rng(0))
    for array, copy in zip(sample, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_nothing_happens_at_probability_zero(sample):
    image, labels = Augmentation(**NOTHING)(*sample, np.random.default_rng(0))
    np.testing.assert_array_equal(image, sample[0])
    np.testing.assert_array_equal(labels, sample[1])


def test_flip_mirrors_left_and_right(sample):
    image, labels = Augmentation(**NOTHING | {"flip_probability": 1.0})(*sample, np.random.default_rng(0))
    np.testing.assert_allclose(image, sample[0][..., ::-1], atol=1e-5)
    np.testing.assert_array_equal(labels, sample[1][:, ::-1])


def test_mask_follows_the_image(sample):
    """The tumour is the only bright region, so the warped image says where the warped mask must be."""
    geometry = Augmentation(**NOTHING | {"affine_probability": 1.0, "flip_probability": 0.5})
    for seed in range(20):
        image, labels = geometry(*sample, np.random.default_rng(seed))
        bright = image[0] > 1.2
        assert 2 * (bright & (labels == 1)).sum() / (bright.sum() + labels.sum()) > 0.85


def test_geometry_moves_within_its_ranges(sample):
    geometry = Augmentation(**NOTHING | {"affine_probability": 1.0})
    areas = [geometry(*sample, np.random.default_rng(seed))[1].sum() / sample[1].sum() for seed in range(60)]
    assert 0.8**2 * 0.8 < min(areas) < 0.9 and 1.1 < max(areas) < 1.25**2 * 1.2


@pytest.mark.parametrize("step", ["gamma", "contrast", "blur", "noise"])
def test_intensity_steps_change_the_image_alone(sample, step):
    image, labels = Augmentation(**NOTHING | {f"{step}_probability": 1.0})(*sample, np.random.default_rng(1))
    assert not np.array_equal(image, sample[0])
    np.testing.assert_array_equal(labels, sample[1])


def test_gamma_keeps_the_range(sample):
    image, _ = Augmentation(**NOTHING | {"gamma_probability": 1.0})(*sample, np.random.default_rng(1))
    assert image.min() == pytest.approx(sample[0].min()) and image.max() == pytest.approx(sample[0].max())
