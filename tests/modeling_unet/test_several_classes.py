"""From a model of several classes to masks, measurements, overlays and files of each."""

import csv
import io
from pathlib import Path

import nibabel as nib
import numpy as np
import phantoms
import pytest
from tiny import save_nested_model, tiny_config

from modeling_unet import TumorSegmenter, UNetForSemanticSegmentation, UNetImageProcessor
from modeling_unet.__main__ import main
from modeling_unet.export import describe
from modeling_unet.figures import class_areas, slice_figures
from modeling_unet.image_processing_unet import read_labels
from modeling_unet.overlay import CLASS_COLORS, draw_layer, parse_color
from modeling_unet.pictures import encode_labels, encode_png
from modeling_unet.report import draw_report
from modeling_unet.segmentation import Segmentation


OVERLAPPING = "multi_label_classification"
SLICE = np.zeros((48, 40), np.uint8)
SLICE[6:42, 6:34] = 100
SLICE[10:30, 10:30] = 180
SLICE[16:24, 16:24] = 250
TYPES = pytest.mark.parametrize("problem_type", [None, OVERLAPPING], ids=["disjoint", "overlapping"])


def made(overlap: bool, **changes) -> Segmentation:
    """Three squares within each other, with their probabilities."""
    probabilities = np.zeros((3, 20, 20), np.float32)
    probabilities[0, 2:18, 2:18], probabilities[1, 5:15, 5:15], probabilities[2, 8:12, 8:12] = 0.7, 0.8, 0.9
    return Segmentation(
        np.zeros((20, 20, 3), np.uint8),
        probabilities.max(axis=0),
        class_names=("whole", "core", "rim"),
        class_probabilities=probabilities,
        classes_overlap=overlap,
        **changes,
    )


class TestSegmentation:
    def test_classes_that_overlap_hold_each_other(self):
        assert [one.area_px for one in made(overlap=True).classes] == [256, 100, 16]

    def test_of_others_a_pixel_has_the_likeliest(self):
        segmentation = made(overlap=False)
        assert [one.area_px for one in segmentation.classes] == [156, 84, 16]
        assert segmentation.area_px == 256

    @pytest.mark.parametrize("overlap", [True, False])
    @pytest.mark.parametrize("threshold", [0.5, 0.75, 0.85])
    def test_together_they_are_the_mask(self, overlap, threshold):
        segmentation = made(overlap).at_threshold(threshold)
        together = np.any([one.mask for one in segmentation.classes], axis=0)
        assert np.array_equal(together, segmentation.mask) and together.any()

    def test_each_is_measured(self):
        measured = made(overlap=True, spacing=(0.5, 2)).to_dict()["classes"]
        assert [one["name"] for one in measured] == ["whole", "core", "rim"]
        assert measured[1]["area_mm2"] == 100 and measured[1]["area_percent"] == 25
        assert measured[1]["lesions"][0]["box"] == (5, 5, 10, 10)
        assert measured[2]["highest_probability"] == pytest.approx(0.9)

    def test_reports_name_the_area_of_each(self):
        assert class_areas(made(overlap=True)) == ["256 px", "100 px", "16 px"]
        assert class_areas(made(overlap=True, spacing=(2, 2))) == ["1,024 mm²", "400 mm²", "64 mm²"]
        assert class_areas(made(overlap=True, threshold=0.85)) == ["not found", "not found", "16 px"]
        assert class_areas(made(overlap=True, min_area_px=20))[2] == "not found (16 px)"

    def test_the_report_shows_their_colours(self):
        page = draw_report(made(overlap=True), title="a slice", model="a model", revision=None)
        for color, words in zip(CLASS_COLORS, ("whole 256 px", "core 100 px", "rim 16 px"), strict=False):
            assert f'<span class="swatch" style="background: {color}"></span>{words.split()[0]}' in page
            assert words in page
        assert "tumour, as the network sees it" not in page

    @pytest.mark.parametrize("overlap", [True, False])
    def test_labels_are_the_last_class_of_each_pixel(self, overlap):
        segmentation = made(overlap)
        assert [np.count_nonzero(segmentation.labels == number) for number in range(4)] == [144, 156, 84, 16]
        labels = read_labels(io.BytesIO(encode_labels(segmentation.labels, list(map(parse_color, CLASS_COLORS[:3])))))
        assert np.array_equal(labels, segmentation.labels)

    def test_of_one_class_nothing_is_added(self):
        one = Segmentation(np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), np.float32))
        assert (
            one.classes == ()
            and "classes" not in one.to_dict()
            and class_areas(one) == []
            and len(slice_figures(one)) == 2
        )
        assert np.array_equal(one.labels, one.mask)

    @pytest.mark.parametrize("changes", [{"class_names": ("a", "b")}, {"class_probabilities": np.zeros((2, 4, 4))}])
    def test_names_and_probabilities_belong_together(self, changes):
        with pytest.raises(ValueError, match=r"class_probabilities has shape .* classes are named"):
            Segmentation(np.zeros((4, 4, 3), np.uint8), np.ones((4, 4), np.float32), **changes)


class TestOverlay:
    def test_each_class_has_its_colour_and_later_ones_lie_on_top(self):
        picture = made(overlap=True).overlay(alpha=1)
        seen = [tuple(picture[y, y].tolist()) for y in (3, 6, 9, 0)]
        assert seen == [*map(parse_color, CLASS_COLORS[:3]), (0, 0, 0)]

    def test_outlines_of_all_are_seen(self):
        picture = made(overlap=True).overlay(alpha=1, style="contour")
        seen = {tuple(color) for color in picture.reshape(-1, 3).tolist()}
        assert {*map(parse_color, CLASS_COLORS[:3])} <= seen

    def test_the_heat_map_is_that_of_all(self):
        segmentation = made(overlap=True)
        picture = segmentation.overlay(alpha=1, style="heatmap")
        whole = Segmentation(segmentation.image, segmentation.probability).overlay(alpha=1, style="heatmap")
        assert np.array_equal(picture, whole)

    def test_a_colour_for_all_is_refused(self):
        with pytest.raises(ValueError, match="the 3 classes whole, core, rim have colours of their own"):
            made(overlap=True).overlay(color="#ff0000")

    def test_colours_differ_and_too_many_are_refused(self):
        assert len({*CLASS_COLORS}) == 7
        with pytest.raises(ValueError, match="there are 8 classes; at most 7"):
            draw_layer(np.ones((8, 4, 4), bool))


class TestSegmenter:
    @TYPES
    def test_it_agrees_with_the_processor_to_the_pixel(self, problem_type, tmp_path):
        segmenter = TumorSegmenter.from_pretrained(save_nested_model(tmp_path, problem_type), "cpu", optimize="none")
        segmentation = segmenter(SLICE)
        processor = segmenter.image_processor
        outputs = segmenter.model(processor(SLICE, return_tensors="pt")["pixel_values"])
        (label,) = processor.post_process_semantic_segmentation(outputs, [SLICE.shape])
        found = np.zeros(SLICE.shape, int)
        for number, one in enumerate(segmentation.classes, start=1):
            found[one.mask] = number
        assert np.array_equal(found, label.numpy()) and len(np.unique(found)) > 1
        assert [one.name for one in segmentation.classes] == ["whole", "core", "=rim"]

    @TYPES
    def test_best_and_frames_keep_the_classes(self, problem_type, tmp_path):
        segmenter = TumorSegmenter.from_pretrained(save_nested_model(tmp_path, problem_type), "cpu", quality="best")
        wide = np.zeros((60, 200), np.uint8)
        wide[6:54, 80:120] = SLICE
        for picture in (SLICE, wide):
            assert segmenter(picture).class_probabilities.shape == (3, *picture.shape)

    def test_a_processor_for_other_classes_is_refused(self, tmp_path):
        save_nested_model(tmp_path, OVERLAPPING)
        UNetImageProcessor().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"`problem_type` is multi_label_classification in config.json and None"):
            TumorSegmenter.from_pretrained(tmp_path)


class TestPredict:
    @pytest.fixture
    def picture(self, tmp_path) -> Path:
        (tmp_path / "slice.png").write_bytes(encode_png(SLICE))
        return tmp_path / "slice.png"

    @TYPES
    def test_files_and_columns_of_each(self, problem_type, picture, tmp_path):
        model, out = save_nested_model(tmp_path / "model", problem_type), tmp_path / "out"
        assert main(["predict", str(picture), "--model", str(model), "--out", str(out), "--probability"]) == 0
        segmentation = TumorSegmenter.from_pretrained(model, "cpu")(SLICE)
        assert np.array_equal(read_labels(out / "slice_labels.png"), segmentation.labels)
        (row,) = csv.DictReader((out / "summary.csv").open())
        for number, (name, one) in enumerate(zip(("whole", "core", "'=rim"), segmentation.classes, strict=True), 1):
            assert (out / f"slice_mask_{number}.png").read_bytes() == encode_png(one.mask)
            assert (out / f"slice_probability_{number}.png").is_file()
            assert row[f"{name}_area_px"] == str(one.area_px)

    def test_a_colour_for_all_is_refused_before_anything_starts(self, picture, tmp_path, capsys):
        model, out = save_nested_model(tmp_path / "model", OVERLAPPING), tmp_path / "out"
        code = main(["predict", str(picture), "--model", str(model), "--out", str(out), "--color", "ff0000"])
        error = capsys.readouterr().err
        assert code == 2 and "have colours of their own: leave it out" in error and len(error.splitlines()) == 1
        assert not out.exists()

    @TYPES
    def test_volumes_have_masks_of_each_too(self, problem_type, tmp_path):
        voxels = phantoms.noise(40, 48, 3) // 50 + 20 * SLICE.T.astype(np.int16)[..., None]
        (tmp_path / "scan.nii.gz").write_bytes(phantoms.nifti(voxels))
        model, out = save_nested_model(tmp_path / "model", problem_type), tmp_path / "out"
        where = ["--model", str(model), "--out", str(out), "--probability"]
        assert main(["predict", str(tmp_path / "scan.nii.gz"), *where]) == 0
        whole, *classes = (nib.load(out / f"scan_mask{end}.nii.gz").get_fdata() > 0 for end in ("", "_1", "_2", "_3"))
        assert np.array_equal(np.any(classes, axis=0), whole) and whole.any()
        assert bool(np.sum(classes, axis=0).max() > 1) is (problem_type is not None)
        labels = np.max([number * one for number, one in enumerate(classes, start=1)], axis=0)
        assert np.array_equal(nib.load(out / "scan_labels.nii.gz").get_fdata(), labels)
        assert nib.load(out / "scan_probability_3.nii.gz").shape == whole.shape
        (row,) = csv.DictReader((out / "summary.csv").open())
        assert float(row["volume_ml"]) >= float(row["whole_volume_ml"]) > 0

    def test_an_onnx_file_says_that_classes_overlap(self, tmp_path):
        segmenter = TumorSegmenter.from_pretrained(save_nested_model(tmp_path, OVERLAPPING), "cpu", optimize="none")
        said = describe(segmenter.model, segmenter.image_processor, "name")
        assert said["problem_type"] == OVERLAPPING and said["format_version"] == "3"
        assert "problem_type" not in describe(UNetForSemanticSegmentation(tiny_config()), UNetImageProcessor(), "name")

    def test_a_static_page_is_refused(self, tmp_path, capsys):
        model = save_nested_model(tmp_path / "model", None)
        assert main(["export", "--web", str(tmp_path / "page"), "--model", str(model)]) == 2
        assert "static pages are for models of one class; this one has 3 (whole, core, =rim)" in capsys.readouterr().err
