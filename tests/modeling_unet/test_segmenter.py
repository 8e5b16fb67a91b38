"""From a slice to its measurements: hand-worked lesions, the threshold, the network behind one call."""

import json
import math
import re
from dataclasses import FrozenInstanceError
from math import hypot

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import tiny_config

from modeling_unet import InvalidImageError, UNetForSemanticSegmentation, UNetImageProcessor, read_pages
from modeling_unet.overlay import STYLES, draw_overlay
from modeling_unet.segmentation import MIN_LESION_AREA_PX, Segmentation, find_lesions, longest_diameter
from modeling_unet.segmenter import TumorSegmenter, put_together, resolve_device


@pytest.fixture
def model_dir(tmp_path):
    """A folder with a tiny model of random weights and its processor."""
    torch.manual_seed(0)
    UNetForSemanticSegmentation(tiny_config()).save_pretrained(tmp_path / "model")
    UNetImageProcessor(size={"longest_edge": 32}).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def segmenter(model_dir) -> TumorSegmenter:
    return TumorSegmenter.from_pretrained(model_dir, device="cpu", optimize="none")


def noise(*shape: int, seed: int = 0, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


def segmentation_of(probability: np.ndarray, **kwargs) -> Segmentation:
    image = np.zeros((*probability.shape, 3), np.uint8)
    return Segmentation(image, probability.astype(np.float32), **kwargs)


def two_lesions() -> np.ndarray:
    """Probability, 20 × 30: 3 × 4 px at 0.75 (one at 0.99), 5 × 4 px at 0.875, and a speck of 9 px at 0.625."""
    probability = np.zeros((20, 30), np.float32)
    probability[2:5, 6:10] = 0.75
    probability[3, 7] = 0.99
    probability[10:15, 20:24] = 0.875
    probability[17, 1:10] = 0.625
    return probability


def test_a_slice_that_is_too_large_is_scaled_down_and_says_so(segmenter):
    large = np.repeat(np.repeat(noise(20, 4100), 2, axis=0), 2, axis=1)
    segmentation = segmenter(large, spacing=(0.2, 0.1))
    assert segmentation.mask.shape == (20, 4100) and segmentation.full_size == (8200, 40)
    assert segmentation.spacing == pytest.approx((0.4, 0.2))  # of a pixel of the mask
    sentence = "The picture of 8200 × 40 pixels was scaled down to 4100 × 20, and so is the mask."
    assert sentence in segmentation.warnings and sentence in segmentation.to_dict()["warnings"]
    np.testing.assert_array_equal(segmentation.probability, segmenter(large[::2, ::2]).probability)


def test_pages_are_segmented_one_by_one(segmenter, tmp_path):
    pages = [noise(30 + number, 40, seed=number) for number in range(3)]
    first, *others = map(Image.fromarray, pages)
    first.save(tmp_path / "scan.tif", save_all=True, append_images=others)
    found = [*segmenter.batch(read_pages(tmp_path / "scan.tif"), batch_size=1)]
    for segmentation, page in zip(found, pages, strict=True):
        np.testing.assert_array_equal(segmentation.probability, segmenter(page).probability)
    with pytest.raises(InvalidImageError, match=r"3 pages; give one slice per file, or read .* by read_pages\.$"):
        segmenter(tmp_path / "scan.tif")


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_slice_whose_colours_differ_comes_with_a_warning(segmenter, depth):
    grey, colours = noise(30, 40, dtype=depth), noise(30, 40, 3, dtype=depth)
    plain = [segmenter(grey), segmenter(np.dstack([grey] * 3)), segmenter(np.dstack([grey, grey, grey - grey // 20]))]
    assert [segmentation.warnings for segmentation in plain] == [()] * 3
    (sentence,) = segmenter(colours).warnings
    assert "averaged to grey" in sentence


class TestLesions:
    def test_by_hand(self):
        probability = two_lesions()
        larger, smaller = find_lesions(probability > 0.5, probability)
        assert smaller.area_px == 12
        assert smaller.box == (6, 2, 4, 3)
        assert smaller.centroid == (7.5, 3.0)
        assert smaller.longest_diameter_px == pytest.approx(5)  # the diagonal of 3 × 4
        assert smaller.mean_probability == pytest.approx((11 * 0.75 + 0.99) / 12)
        assert smaller.area_mm2 is None and smaller.longest_diameter_mm is None
        assert larger.area_px == 20
        assert larger.box == (20, 10, 4, 5)
        assert larger.centroid == (21.5, 12.0)
        assert larger.longest_diameter_px == pytest.approx(hypot(4, 5))
        assert larger.mean_probability == pytest.approx(0.875)

    def test_spacing_is_row_then_column(self):
        probability = two_lesions()
        smaller = find_lesions(probability > 0.5, probability, spacing=(2.0, 0.5))[1]
        assert smaller.area_mm2 == pytest.approx(12)  # 12 pixels of 1 mm²
        assert smaller.longest_diameter_mm == pytest.approx(hypot(3 * 2.0, 4 * 0.5))
        assert smaller.longest_diameter_px == pytest.approx(5)

    def test_in_mm_another_pair_of_points_may_be_the_farthest(self):
        mask = np.zeros((40, 40), bool)  # an upside-down T, 20 px wide and 12 px high
        mask[21, 5:25] = True
        mask[10:21, 14] = True
        (lesion,) = find_lesions(mask, mask.astype(float), spacing=(3.0, 0.1))
        assert lesion.longest_diameter_px == pytest.approx(hypot(20, 1))
        assert lesion.longest_diameter_mm == pytest.approx(hypot(11 * 0.1, 12 * 3.0))

    def test_pixels_that_touch_at_a_corner_are_one_lesion(self):
        mask = np.zeros((20, 20), bool)
        mask[2, 2:7] = True
        mask[3, 7:12] = True
        (lesion,) = find_lesions(mask, mask.astype(float))
        assert lesion.area_px == 10 and lesion.box == (2, 2, 10, 2)

    @pytest.mark.parametrize(("area", "count"), [(MIN_LESION_AREA_PX - 1, 0), (MIN_LESION_AREA_PX, 1)])
    def test_least_area(self, area, count):
        mask = np.zeros((20, 40), bool)
        mask[5, 3 : 3 + area] = True
        assert len(find_lesions(mask, mask.astype(float))) == count

    def test_another_least_area(self):
        probability = two_lesions()
        assert [lesion.area_px for lesion in find_lesions(probability > 0.5, probability, min_area_px=9)] == [20, 12, 9]
        assert [lesion.area_px for lesion in find_lesions(probability > 0.5, probability, min_area_px=13)] == [20]
        assert find_lesions(probability > 0.5, probability, min_area_px=21) == []

    def test_a_hole_is_not_counted(self):
        mask = np.zeros((20, 20), bool)
        mask[5:10, 5:10] = True
        mask[6:9, 6:9] = False
        (lesion,) = find_lesions(mask, mask.astype(float))
        assert lesion.area_px == 16 and lesion.mean_probability == 1

    def test_neighbour_in_the_same_box_is_left_out(self):
        mask = np.zeros((30, 30), bool)
        mask[2:22, 2] = mask[2, 2:22] = True
        mask[10:14, 10:14] = True
        probability = np.where(mask, 0.6, 0.0)
        probability[10:14, 10:14] = 1.0
        corner, block = find_lesions(mask, probability)
        assert (corner.area_px, block.area_px) == (39, 16)
        assert corner.mean_probability == pytest.approx(0.6) and block.mean_probability == 1

    def test_largest_first(self):
        mask = np.zeros((60, 60), bool)
        for x, y, height in ((40, 30, 5), (5, 30, 4), (20, 2, 3), (30, 50, 6)):
            mask[y : y + height, x : x + 4] = True
        boxes = [lesion.box[:2] for lesion in find_lesions(mask, mask.astype(float))]
        assert boxes == [(30, 50), (40, 30), (5, 30), (20, 2)]

    def test_empty_mask(self):
        assert find_lesions(np.zeros((20, 20), bool), np.zeros((20, 20))) == []


class TestLongestDiameter:
    @pytest.mark.parametrize(
        ("height", "width", "expected"), [(1, 1, hypot(1, 1)), (1, 10, hypot(1, 10)), (3, 4, 5), (12, 5, 13)]
    )
    def test_rectangles(self, height, width, expected):
        mask = np.zeros((20, 20), bool)
        mask[3 : 3 + height, 2 : 2 + width] = True
        assert longest_diameter(mask) == pytest.approx(expected)

    def test_diagonal_of_pixels(self):
        assert longest_diameter(np.eye(10, dtype=bool)) == pytest.approx(10 * 2**0.5)

    @pytest.mark.parametrize("spacing", [(1.0, 1.0), (2.5, 0.7)])
    @pytest.mark.parametrize("seed", range(5))
    def test_equals_the_search_over_all_corners(self, seed, spacing):
        mask = np.random.default_rng(seed).random((9, 13)) < 0.2
        rows, columns = np.nonzero(mask)
        corners = [
            ((row + down) * spacing[0], (column + right) * spacing[1])
            for row, column in zip(rows, columns, strict=True)
            for down in (0, 1)
            for right in (0, 1)
        ]
        expected = max(hypot(a[0] - b[0], a[1] - b[1]) for a in corners for b in corners)
        assert longest_diameter(mask, spacing) == pytest.approx(expected)


class TestSegmentation:
    def test_mask_is_strictly_above_the_threshold(self):
        probability = np.full((16, 16), 0.5)
        probability[3, 4] = np.nextafter(np.float32(0.5), np.float32(1))
        mask = segmentation_of(probability).mask
        assert mask.dtype == bool and mask[3, 4] and mask.sum() == 1

    def test_measurements_by_hand(self):
        segmentation = segmentation_of(two_lesions(), spacing=(0.5, 0.4))
        assert segmentation.threshold == 0.5
        assert segmentation.tumor_found is True
        assert segmentation.highest_probability == pytest.approx(0.99)
        assert [lesion.area_px for lesion in segmentation.lesions] == [20, 12]
        assert segmentation.area_px == 20 + 12 + 9  # all of the mask, the speck included
        assert segmentation.area_percent == pytest.approx(100 * 41 / 600)
        assert segmentation.area_mm2 == pytest.approx(41 * 0.2)

    def test_without_spacing_nothing_is_in_mm(self):
        segmentation = segmentation_of(two_lesions())
        assert segmentation.area_mm2 is None
        assert {lesion.area_mm2 for lesion in segmentation.lesions} == {None}

    def test_specks_are_no_finding(self):
        probability = np.zeros((16, 16))
        probability[2, 2:11] = 0.9
        segmentation = segmentation_of(probability)
        assert segmentation.tumor_found is False and segmentation.lesions == []
        assert segmentation.area_px == 9

    def test_another_threshold(self):
        segmentation = segmentation_of(two_lesions(), spacing=(0.5, 0.4))
        higher = segmentation.at_threshold(0.8)
        assert [lesion.box for lesion in higher.lesions] == [(20, 10, 4, 5)]
        assert higher.area_px == 21 and higher.spacing == (0.5, 0.4)
        assert higher.probability is segmentation.probability and higher.image is segmentation.image
        assert segmentation.threshold == 0.5 and segmentation.area_px == 41
        assert higher.at_threshold(0.5).to_dict() == segmentation.to_dict()
        assert segmentation.at_threshold(0).area_px == 41
        assert not segmentation.at_threshold(1).tumor_found

    @pytest.mark.parametrize(("min_area_px", "areas"), [(0, [20, 12, 9]), (10, [20, 12]), (20, [20]), (21, [])])
    def test_another_least_area(self, min_area_px, areas):
        segmentation = segmentation_of(two_lesions(), min_area_px=min_area_px)
        assert [lesion.area_px for lesion in segmentation.lesions] == areas
        assert np.count_nonzero(segmentation.lesion_mask) == sum(areas)
        assert segmentation.tumor_found is bool(areas)
        # The mask keeps what is too small for a lesion.
        assert segmentation.area_px == np.count_nonzero(segmentation.mask) == 41

    def test_lesion_mask_by_hand(self):
        segmentation = segmentation_of(two_lesions())
        expected = np.zeros((20, 30), bool)
        expected[2:5, 6:10] = expected[10:15, 20:24] = True
        assert segmentation.lesion_mask.dtype == bool
        np.testing.assert_array_equal(segmentation.lesion_mask, expected)
        assert not segmentation_of(np.zeros((20, 30))).lesion_mask.any()
        assert segmentation_of(np.ones((20, 30))).lesion_mask.all()

    def test_cut_changes_what_it_is_told_and_keeps_the_rest(self):
        segmentation = segmentation_of(two_lesions(), spacing=(0.5, 0.4))
        cut = segmentation.cut(threshold=0.7, min_area_px=15)
        assert (cut.threshold, cut.min_area_px, cut.spacing) == (0.7, 15, (0.5, 0.4))
        assert [lesion.area_px for lesion in cut.lesions] == [20] and cut.area_px == 32
        assert cut.probability is segmentation.probability and cut.image is segmentation.image
        assert cut.at_threshold(0.5).min_area_px == 15
        assert cut.cut(spacing=None).area_mm2 is None
        assert segmentation.cut() is not segmentation and segmentation.cut().to_dict() == segmentation.to_dict()
        with pytest.raises(TypeError, match="colour"):
            segmentation.cut(colour="red")

    @pytest.mark.parametrize("style", STYLES)
    def test_overlay_is_that_of_the_mask(self, style):
        image, probability = noise(20, 30, 3), two_lesions()
        segmentation = Segmentation(image, probability, threshold=0.8)
        expected = draw_overlay(image, probability > 0.8, "#34c759", 0.6, style, probability)
        np.testing.assert_array_equal(segmentation.overlay("#34c759", 0.6, style), expected)

    def test_longest_diameter_is_that_of_any_lesion(self):
        probability = two_lesions()
        probability[17, 1:19] = 0.625  # longer than the lesion that is larger
        segmentation = segmentation_of(probability, spacing=np.float32([2, 0.5]))
        assert segmentation.lesions[0].area_px == 20
        assert segmentation.longest_diameter_px == pytest.approx(hypot(18, 1))
        assert segmentation.longest_diameter_mm == pytest.approx(hypot(4 * 0.5, 5 * 2))
        assert segmentation.cut(spacing=None).longest_diameter_mm is None
        empty = segmentation.at_threshold(1)
        assert empty.longest_diameter_px is None and empty.longest_diameter_mm is None

    def test_to_dict_survives_json(self):
        measurements = segmentation_of(two_lesions(), spacing=np.float32([2, 0.5])).to_dict()
        text = json.dumps(measurements)
        restored = json.loads(text)
        assert restored["height"] == 20 and restored["width"] == 30
        assert restored["spacing"] == [2, 0.5] and restored["threshold"] == 0.5 and restored["min_area_px"] == 10
        assert restored["tumor_found"] is True and restored["area_px"] == 41 and restored["area_mm2"] == 41
        assert restored["area_percent"] == pytest.approx(100 * 41 / 600)
        assert restored["highest_probability"] == pytest.approx(0.99)
        assert restored["lesions"][1]["box"] == [6, 2, 4, 3]
        assert restored["lesions"][1]["centroid"] == [7.5, 3.0]
        assert restored["lesions"][1]["longest_diameter_mm"] == pytest.approx(hypot(6, 2))

    def test_frozen(self):
        with pytest.raises(FrozenInstanceError):
            segmentation_of(two_lesions()).threshold = 0.4

    @pytest.mark.parametrize("threshold", [-0.1, 1.1, 50, float("nan")])
    def test_threshold_is_checked(self, threshold):
        with pytest.raises(ValueError, match=r"threshold is .* from 0 to 1"):
            segmentation_of(two_lesions()).at_threshold(threshold)

    @pytest.mark.parametrize("spacing", [(0, 1), (1, -1), (1,), (1, 1, 1), (1, float("inf")), (float("nan"), 1)])
    def test_spacing_is_checked(self, spacing):
        with pytest.raises(ValueError, match=r"spacing is .* two positive numbers"):
            segmentation_of(two_lesions(), spacing=spacing)

    @pytest.mark.parametrize("min_area_px", [-1, 10.5, float("nan"), float("inf")])
    def test_least_area_is_checked(self, min_area_px):
        with pytest.raises(ValueError, match=f"min_area_px is {min_area_px}; allowed are whole numbers from 0"):
            segmentation_of(two_lesions()).cut(min_area_px=min_area_px)

    def test_sizes_are_checked(self):
        with pytest.raises(ValueError, match=r"\(20, 30, 3\).*\(30, 20\)"):
            Segmentation(np.zeros((20, 30, 3), np.uint8), two_lesions().T)


class TestSegmenter:
    @pytest.mark.parametrize("shape", [(16, 16), (33, 57), (101, 40, 3)])
    def test_result_has_the_size_of_the_slice(self, segmenter, shape):
        image = noise(*shape)
        segmentation = segmenter(image)
        assert segmentation.probability.shape == segmentation.mask.shape == shape[:2]
        assert segmentation.probability.dtype == np.float32
        assert 0 <= segmentation.probability.min() < segmentation.probability.max() <= 1
        np.testing.assert_array_equal(segmentation.image, image if image.ndim == 3 else np.dstack([image] * 3))
        assert segmentation.threshold == 0.5 and segmentation.spacing is None

    def test_equals_model_and_processor_by_hand(self, segmenter, model_dir):
        image = noise(48, 40)
        processor = UNetImageProcessor.from_pretrained(model_dir)
        model = UNetForSemanticSegmentation.from_pretrained(model_dir).eval()
        with torch.inference_mode():
            outputs = model(**processor(image, return_tensors="pt"))
        expected = processor.post_process_probability(outputs, target_sizes=[(48, 40)])[0]
        labels = processor.post_process_semantic_segmentation(outputs, target_sizes=[(48, 40)])[0]
        segmentation = segmenter(image)
        np.testing.assert_allclose(segmentation.probability, expected.numpy(), atol=1e-6)
        np.testing.assert_array_equal(segmentation.mask, labels.numpy() == 1)
        assert segmentation.mask.any() and not segmentation.mask.all()

    def test_path_picture_array_and_tensor_agree(self, segmenter, tmp_path):
        image = noise(40, 30)
        Image.fromarray(image).save(tmp_path / "slice.png")
        expected = segmenter(image).probability
        sources = tmp_path / "slice.png", str(tmp_path / "slice.png"), Image.fromarray(image), torch.from_numpy(image)
        for source in sources:
            np.testing.assert_array_equal(segmenter(source).probability, expected)

    def test_16_bit_slice(self, segmenter):
        image = noise(40, 30, dtype=np.uint16)
        segmentation = segmenter(image)
        assert segmentation.image.dtype == np.uint8 and segmentation.image.max() == 255
        np.testing.assert_allclose(segmentation.probability, segmenter(image / 65535).probability, atol=1e-4)

    def test_model_in_bfloat16(self, model_dir, segmenter):
        model = UNetForSemanticSegmentation.from_pretrained(model_dir, dtype=torch.bfloat16)
        probability = TumorSegmenter(model, segmenter.image_processor, "cpu")(noise(40, 30)).probability
        assert probability.dtype == np.float32
        np.testing.assert_allclose(probability, segmenter(noise(40, 30)).probability, atol=0.05)

    @pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
    def test_batch_equals_single(self, segmenter, batch_size):
        images = [noise(40, 30, seed=0), noise(64, 64, 3, seed=1), noise(17, 90, seed=2), noise(33, 33, seed=3)]
        segmentations = list(segmenter.batch(images, batch_size=batch_size, spacing=(0.5, 0.4)))
        assert len(segmentations) == 4
        for segmentation, image in zip(segmentations, images, strict=True):
            single = segmenter(image, spacing=(0.5, 0.4))
            np.testing.assert_allclose(segmentation.probability, single.probability, atol=1e-5)
            np.testing.assert_array_equal(segmentation.image, single.image)
            assert segmentation.spacing == single.spacing == (0.5, 0.4)

    def test_batch_goes_through_the_network_together_and_only_in_its_turn(self, segmenter):
        sizes, taken = [], []
        segmenter.model.register_forward_hook(lambda model, arguments, outputs: sizes.append(len(outputs.logits)))

        def images():
            for seed in range(5):
                taken.append(seed)
                yield noise(20, 20, seed=seed)

        results = segmenter.batch(images(), batch_size=2)
        assert taken == []
        next(results)
        assert taken == [0, 1] and sizes == [2]
        assert len(list(results)) == 4 and sizes == [2, 2, 1]

    def test_empty_batch(self, segmenter):
        assert list(segmenter.batch([])) == []

    def test_batch_arguments_are_checked_at_once(self, segmenter):
        with pytest.raises(ValueError, match="batch_size is 0; allowed are whole numbers from 1"):
            segmenter.batch([noise(20, 20)], batch_size=0)
        with pytest.raises(ValueError, match="spacing is"):
            segmenter.batch([noise(20, 20)], spacing=(0, 1))

    def test_another_threshold_does_not_run_the_network(self, segmenter):
        segmentation = segmenter(noise(40, 40))
        segmenter.model.register_forward_hook(lambda *_: pytest.fail("the network ran again"))
        assert segmentation.at_threshold(0).mask.all()

    def test_bad_input(self, segmenter, tmp_path):
        (tmp_path / "notes.png").write_text("no picture")
        with pytest.raises(InvalidImageError, match=r"notes\.png"):
            segmenter(tmp_path / "notes.png")

    def test_inference_only(self, tmp_path):
        """No dropout, no gradients, and the faster memory layout."""
        segmenter = TumorSegmenter(UNetForSemanticSegmentation(tiny_config(dropout=0.5)).train(), UNetImageProcessor())
        outputs = []
        segmenter.model.register_forward_hook(lambda model, arguments, output: outputs.append(output.logits))
        image = noise(40, 40)
        np.testing.assert_array_equal(segmenter(image).probability, segmenter(image).probability)
        assert not segmenter.model.training
        assert outputs[0].is_inference() and not outputs[0].requires_grad
        kernels = [parameter for parameter in segmenter.model.parameters() if parameter.ndim == 4]
        assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


class TestFromPretrained:
    def test_another_model_type_is_refused_by_name(self, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "segformer"}')
        with pytest.raises(ValueError, match=r"model type of .* is segformer; allowed is brain_tumor_unet"):
            TumorSegmenter.from_pretrained(tmp_path)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"num_channels": 3},
                "the model takes 1, 2, 3 as its channels, and the image processor prepares grey values; give "
                "config.json and preprocessor_config.json the same `channel_names`",
            ),
            ({"num_labels": 9}, "there are 8 classes; at most 7 can be told apart by their colours"),
        ],
        ids=["colours", "too many classes"],
    )
    def test_a_model_that_slices_do_not_fit_is_refused_in_one_sentence(self, changes, message, tmp_path):
        model = UNetForSemanticSegmentation(tiny_config(**changes))
        model.save_pretrained(tmp_path)
        UNetImageProcessor().save_pretrained(tmp_path)
        for make in (
            lambda: TumorSegmenter(model, UNetImageProcessor()),
            lambda: TumorSegmenter.from_pretrained(tmp_path),
        ):
            with pytest.raises(ValueError, match=f"^{message}\\.$"):
                make()

    def test_folder_without_a_model(self, tmp_path):
        with pytest.raises(ValueError, match=r"model type of .* is unknown \(no config\.json\)"):
            TumorSegmenter.from_pretrained(tmp_path)

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(OSError, match=r"cannot load .*missing from the Hub, as there is no such folder"):
            TumorSegmenter.from_pretrained(tmp_path / "missing")

    def test_damaged_weights(self, model_dir):
        weights = model_dir / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:500])
        with pytest.raises(OSError, match=r"cannot load .*model from the folder"):
            TumorSegmenter.from_pretrained(model_dir)

    def test_incomplete_weights_are_not_made_up(self, model_dir):
        weights = load_file(model_dir / "model.safetensors")
        del weights["head.weight"]
        save_file(weights, model_dir / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"incomplete; missing are head\.weight"):
            TumorSegmenter.from_pretrained(model_dir)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("config.json", [1, 2], "is damaged"),
            ("config.json", "x", "is damaged"),
            ("config.json", {"dtype": "float33"}, "`dtype` is 'float33'; it must be one of"),
            ("config.json", {"norm_eps": math.nan}, "`norm_eps` is nan; it must be a finite number"),
            ("preprocessor_config.json", [1, 2], "is damaged"),
            ("preprocessor_config.json", {"image_mean": [[1]]}, "is damaged"),
            ("preprocessor_config.json", {"size": {"longest_edge": 16000}}, "`longest_edge` is 16000; it must be"),
            ("preprocessor_config.json", {"size": {"longest_edge": "256"}}, "`longest_edge` is '256'; it must be"),
            ("model.safetensors.index.json", [], "is damaged"),
            (
                "model.safetensors.index.json",
                {"weight_map": {"head.weight": "../others.safetensors"}, "metadata": {}},
                "names the file '../others.safetensors'; allowed are files beside it",
            ),
            ("model.safetensors.index.json", {"weight_map": {"head.weight": 7}, "metadata": {}}, "is damaged"),
        ],
        ids=str,
    )
    def test_json_that_holds_other_things_than_it_should_is_one_sentence(self, model_dir, name, content, message):
        path = model_dir / name
        if "index" in name:
            (model_dir / "model.safetensors").rename(model_dir / "part.safetensors")
        elif isinstance(content, dict):
            content = json.loads(path.read_text()) | content
        path.write_text(json.dumps(content))
        with pytest.raises(OSError, match=f"^cannot load {model_dir} from the folder: .*{re.escape(message)}") as error:
            TumorSegmenter.from_pretrained(model_dir)
        assert "\n" not in str(error.value)

    def test_weights_whose_logits_are_no_numbers_do_not_pass_for_healthy(self, model_dir):
        """Every one of them is finite, but a variance below 0 has no root."""
        weights = load_file(model_dir / "model.safetensors")
        next(tensor for name, tensor in weights.items() if name.endswith("running_var")).fill_(-1)
        save_file(weights, model_dir / "model.safetensors", metadata={"format": "pt"})
        for optimize in ("auto", "none"):
            segmenter = TumorSegmenter.from_pretrained(model_dir, device="cpu", optimize=optimize)
            with pytest.raises(ValueError, match="logits are NaN or infinite"):
                segmenter(noise(30, 40))

    def test_code_beside_the_weights_is_not_run(self, model_dir):
        assert "auto_map" in json.loads((model_dir / "config.json").read_text())
        for path in model_dir.glob("*.py"):
            path.write_text("raise SystemExit('code from the model folder was run')")
        assert TumorSegmenter.from_pretrained(str(model_dir), device="cpu")(noise(20, 20)).probability.shape == (20, 20)


class TestDevice:
    @pytest.fixture
    def machine(self, monkeypatch):
        """Pretend that the machine has the named accelerators and no other."""

        def pretend(*present: str):
            monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in present)
            monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in present)

        return pretend

    @pytest.mark.parametrize(
        ("present", "expected"), [(("cuda", "mps"), "cuda"), (("cuda",), "cuda"), (("mps",), "mps"), ((), "cpu")]
    )
    def test_auto_takes_the_fastest(self, machine, present, expected):
        machine(*present)
        assert resolve_device() == resolve_device("auto") == torch.device(expected)

    def test_chosen_device(self, machine):
        machine("cuda")
        assert resolve_device("cpu") == torch.device("cpu")
        assert resolve_device("cuda:1") == torch.device("cuda", 1)
        assert resolve_device(torch.device("cuda", 0)) == torch.device("cuda", 0)

    @pytest.mark.parametrize("device", ["cuda", "cuda:0", "mps", "gpu", torch.device("meta")])
    def test_missing_device_is_refused(self, machine, device):
        machine()
        with pytest.raises(ValueError, match=f"device is '{device}'; allowed on this machine are auto, cpu\\.$"):
            resolve_device(device)

    def test_segmenter_moves_the_model(self, monkeypatch, model_dir):
        devices = {"elsewhere": torch.device("meta")}
        monkeypatch.setattr("modeling_unet.segmenter.resolve_device", devices.get)
        assert TumorSegmenter.from_pretrained(model_dir, device="elsewhere").device == torch.device("meta")


# Dice


@pytest.mark.parametrize(
    ("found", "true", "dice"), [(40, 40, 1.0), (40, 20, 2 * 20 / 60), (20, 0, 0.0), (0, 20, 0.0), (0, 0, 1.0)]
)
def test_dice_by_hand(found, true, dice):
    """Both masks are the first pixels of a row-major 10 × 10 slice, so the smaller lies inside the larger."""
    first = np.arange(100).reshape(10, 10)
    segmentation = Segmentation(np.zeros((10, 10, 3), np.uint8), (first < found).astype(np.float32))
    assert segmentation.dice(first < true) == pytest.approx(dice)


def test_dice_needs_a_truth_of_the_same_size():
    segmentation = Segmentation(np.zeros((10, 10, 3), np.uint8), np.zeros((10, 10), np.float32))
    with pytest.raises(ValueError, match=r"\(10, 10\).*\(5, 10\)"):
        segmentation.dice(np.zeros((5, 10), bool))


class TestQuality:
    """The best answer is the mean over three sizes and their mirror images."""

    @pytest.fixture
    def best(self, model_dir) -> TumorSegmenter:
        return TumorSegmenter.from_pretrained(model_dir, device="cpu", optimize="none", quality="best")

    def test_it_is_the_mean_of_six_looks(self, best, segmenter, model_dir):
        image = noise(40, 60)
        looks = []
        for side in (32, 40, 48):
            segmenter.image_processor = UNetImageProcessor(size={"longest_edge": side})
            looks += [segmenter(image).probability, segmenter(image[:, ::-1]).probability[:, ::-1]]
        # A slice that is padded at the right is padded at the left of its mirror image; this one fills the width.
        np.testing.assert_allclose(best(image).probability, np.mean(looks, axis=0), atol=1e-5)

    def test_the_first_look_says_whether_there_is_a_tumor(self):
        tumor, nothing = torch.tensor([[0.9, 0.6]]), torch.tensor([[0.1, 0.0]])
        assert torch.equal(put_together([nothing, tumor, tumor]), nothing)

    def test_looks_that_find_nothing_say_nothing_about_the_outline(self):
        wide, narrow, nothing = torch.tensor([[0.9, 0.6]]), torch.tensor([[0.7, 0.2]]), torch.tensor([[0.1, 0.0]])
        torch.testing.assert_close(put_together([wide, nothing, narrow]), torch.tensor([[0.8, 0.4]]))

    def test_a_slice_and_its_mirror_image_have_mirrored_answers(self, best):
        image = noise(48, 48)
        expected = best(image).probability[:, ::-1]
        np.testing.assert_allclose(best(image[:, ::-1]).probability, expected, atol=1e-5)

    def test_slices_of_any_size_keep_it(self, best):
        sizes = [(40, 30), (33, 65), (64, 64)]
        found = best.batch([noise(*size) for size in sizes])
        assert [segmentation.probability.shape for segmentation in found] == sizes

    def test_another_word_is_refused(self, model_dir):
        with pytest.raises(ValueError, match="quality is 'good'; allowed are fast, best"):
            TumorSegmenter.from_pretrained(model_dir, device="cpu", quality="good")
