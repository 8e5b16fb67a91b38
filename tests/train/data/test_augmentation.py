import numpy as np
import pytest
from augmentations import augmentation
from slices import draw_slice


STEPS = ("flip", "affine", "view", "scanner", "gamma", "contrast", "blur", "noise")
NOTHING = {f"{step}_probability": 0.0 for step in STEPS}


@pytest.fixture
def sample():
    image, mask = draw_slice(np.random.default_rng(3), side=96)
    return (image / 64 - 1).astype(np.float32)[None], (mask > 0).astype(np.uint8)


def test_shapes_types_and_labels_survive(sample):
    for seed in range(20):
        image, labels = augmentation()(*sample, np.random.default_rng(seed))
        assert (image.shape, image.dtype) == (sample[0].shape, np.float32)
        assert (labels.shape, labels.dtype) == (sample[1].shape, np.uint8)
        assert set(np.unique(labels)) <= {0, 1}
        assert np.isfinite(image).all()


def test_inputs_are_left_alone(sample):
    before = [array.copy() for array in sample]
    augmentation()(*sample, np.random.default_rng(0))
    for array, copy in zip(sample, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_nothing_happens_at_probability_zero(sample):
    image, labels = augmentation(**NOTHING)(*sample, np.random.default_rng(0))
    np.testing.assert_array_equal(image, sample[0])
    np.testing.assert_array_equal(labels, sample[1])


def test_flip_mirrors_left_and_right(sample):
    image, labels = augmentation(**NOTHING | {"flip_probability": 1.0})(*sample, np.random.default_rng(0))
    np.testing.assert_allclose(image, sample[0][..., ::-1], atol=1e-5)
    np.testing.assert_array_equal(labels, sample[1][:, ::-1])


def test_mask_follows_the_image(sample):
    """The tumour is the only bright region, so the warped image says where the warped mask must be."""
    geometry = augmentation(**NOTHING | {"affine_probability": 1.0, "flip_probability": 0.5})
    for seed in range(20):
        image, labels = geometry(*sample, np.random.default_rng(seed))
        bright = image[0] > 1.2
        assert 2 * (bright & (labels == 1)).sum() / (bright.sum() + labels.sum()) > 0.85


def test_geometry_moves_within_its_ranges(sample):
    geometry = augmentation(**NOTHING | {"affine_probability": 1.0})
    areas = [geometry(*sample, np.random.default_rng(seed))[1].sum() / sample[1].sum() for seed in range(60)]
    assert 0.8**2 * 0.8 < min(areas) < 0.9 and 1.1 < max(areas) < 1.25**2 * 1.2


def test_views_show_all_a_part_or_nothing_of_the_tumor_at_every_magnification(sample):
    """Else the magnification would tell whether there is a tumour."""
    views = augmentation(**NOTHING | {"view_probability": 1.0, "view_scale": [2.0, 2.0]})
    area = 4 * sample[1].sum()
    shown = [views(*sample, np.random.default_rng(seed))[1].sum() / area for seed in range(200)]
    for kind in (np.less(shown, 0.05), np.greater(shown, 0.9), np.less(np.abs(np.subtract(shown, 0.5)), 0.4)):
        assert np.mean(kind) > 0.1


def test_views_smaller_than_the_slice_show_all_of_it(sample):
    views = augmentation(**NOTHING | {"view_probability": 1.0, "view_scale": [0.5, 0.5]})
    for seed in range(20):
        image, labels = views(*sample, np.random.default_rng(seed))
        assert labels.sum() == pytest.approx(sample[1].sum() / 4, rel=0.15)
        assert image.shape == sample[0].shape


@pytest.mark.parametrize("step", ["view", "scanner"])
def test_what_looks_like_another_picture_is_standardised_again(sample, step):
    changed = augmentation(**NOTHING | {f"{step}_probability": 1.0})
    for seed in range(10):
        values = changed(*sample, np.random.default_rng(seed))[0]
        values = values - values.min()
        foreground = values[values > 0.1 * np.percentile(values, 99)]
        assert foreground.std() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("step", ["scanner", "gamma", "contrast", "blur", "noise"])
def test_intensity_steps_change_the_image_alone(sample, step):
    image, labels = augmentation(**NOTHING | {f"{step}_probability": 1.0})(*sample, np.random.default_rng(1))
    assert not np.array_equal(image, sample[0])
    np.testing.assert_array_equal(labels, sample[1])


def test_gamma_keeps_the_range(sample):
    image, _ = augmentation(**NOTHING | {"gamma_probability": 1.0})(*sample, np.random.default_rng(1))
    assert image.min() == pytest.approx(sample[0].min()) and image.max() == pytest.approx(sample[0].max())
