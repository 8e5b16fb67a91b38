"""A lab's masks of several classes: from --classes to a network that tells them apart, and its figures."""

import json
from pathlib import Path

import numpy as np
import pytest
from labs import fit_options, write_brats
from tiny import TINY

from modeling_unet import TumorSegmenter
from train.__main__ import main
from train.data.masks import Classes, MaskRule, read_bits, to_bits, to_labels, to_planes
from train.data.raw import DataError, as_file
from train.data.slices import DataArguments, load_slices, prepare_slices
from train.data.synthesis import Axis, mirror_region, paste
from train.files import read_json
from train.fitting.trainer import overlaps_of, planes_of
from train.hub.cards import write_model_card


REGIONS = ["whole=1,2,4", "core=1,4", "rim=4"]
PARTS = ["edema=2", "core=1,4"]
NAMES = ["whole", "core", "rim"]


@pytest.fixture(scope="module")
def brats(tmp_path_factory) -> Path:
    return write_brats(tmp_path_factory.mktemp("desk") / "BRATS", 6)


@pytest.fixture(scope="module")
def trained(brats, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)
        schedule = ("--num_train_epochs", "2", "--paste_probability", "0.3", "--view_probability", "0.5")
        assert main(fit_options(brats, run, "--classes", *REGIONS, *schedule)) == 0
    return run


class TestTraining:
    def test_the_model_tells_the_regions_apart(self, trained, brats):
        segmenter = TumorSegmenter.from_pretrained(trained, optimize="none", framing="none")
        assert segmenter.model.config.classes_overlap and list(segmenter.class_names) == NAMES
        row = load_slices(DataArguments(str(brats), classes=REGIONS))[0]
        assert [one.name for one in segmenter(as_file(row["image"])).classes] == NAMES

    def test_the_record_says_which_values_and_how_each_did(self, trained):
        record = read_json(trained / "training.json")
        assert record["classes"] == REGIONS
        last = record["validation"][-1]
        own = [last[f"eval_dice_at_network_size_{name}"] for name in NAMES]
        assert last["eval_dice_at_network_size"] == pytest.approx(np.mean(own))

    def test_evaluate_has_a_row_for_each(self, trained, brats, tmp_path, capsys):
        where = ("--model", str(trained), "--fold", "0", "--output", str(tmp_path / "scores.json"))
        assert main(["evaluate", "--data_dir", str(brats), *where]) == 0
        printed, report = capsys.readouterr().out, read_json(tmp_path / "scores.json")
        for name in (*NAMES, "mean of classes"):
            assert f"\n| {name} | " in printed
        assert list(report["by_class"]) == NAMES
        for name in NAMES:
            shown = [row["classes"][name]["dice"] for row in report["per_slice"] if row["classes"][name]["true"]]
            figures = report["by_class"][name]["figures"]
            assert figures["slice_dice"] == pytest.approx(np.mean(shown)) and figures["slices"] == len(shown)

    def test_the_card_says_what_the_labels_are(self, trained):
        segmenter = TumorSegmenter.from_pretrained(trained)
        record = read_json(trained / "training.json")
        card = write_model_card(segmenter.model, segmenter.image_processor, record, None, "you/regions", "main")
        assert "# 1 whole, 2 core, 3 rim; of several the last one" in card
        assert "`logits` [B, 4, H, W]: background (always 0), whole, core, rim; each class where its logit" in card

    def test_other_classes_than_those_of_the_model_are_refused(self, trained, brats, capsys):
        where = ("evaluate", "--data_dir", str(brats), "--model", str(trained), "--fold", "0")
        assert main([*where, "--classes", *PARTS]) == 1
        error = capsys.readouterr().err
        assert "tells whole, core, rim apart, in this order; leave it out" in error and len(error.splitlines()) == 1

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("command", "message"),
        [
            (
                ["evaluate", "--model", "any", "--tumor_labels", "1"],
                "--tumor_labels and --classes say different things",
            ),
            (["compare", "one", "other"], "--classes are not compared; give --tumor_labels with all of their values"),
        ],
    )
    def test_commands_that_do_not_take_them_say_so(self, command, message, brats, capsys):
        assert main([*command, "--data_dir", str(brats), "--classes", *PARTS]) == 1
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1

    @pytest.mark.parametrize(
        ("config", "overlap"), [({}, False), ({"problem_type": "multi_label_classification"}, True)], ids=str
    )
    def test_of_parts_the_config_chooses_softmax_or_sigmoid(self, config, overlap, brats, tmp_path, monkeypatch):
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)
        assert main(fit_options(brats, tmp_path, "--classes", *PARTS, "--max_steps", "1", **config)) == 0
        segmenter = TumorSegmenter.from_pretrained(tmp_path)
        assert segmenter.model.config.classes_overlap is overlap
        assert (segmenter.image_processor.problem_type is not None) is overlap

    @pytest.mark.parametrize(
        ("classes", "more", "message"),
        [
            ([*PARTS, "rim=7"], [], "--classes names rim=7, and no mask has these values"),
            (["core=1,4", "whole=1,2,4"], [], "names core before whole, which holds it; name the larger one first"),
            (["a=1", "b=1"], [], "gives a and b the same values"),
            (["a=1", "a=2"], [], "each needs a name of its own"),
            (["tumor=1"], [], "--classes names 1; allowed are 2 to 7"),
            (["a=1", "b"], [], "--classes has b; allowed is NAME=VALUE"),
            (["a=0", "b=1"], [], "--classes has a=0; allowed is NAME=VALUE"),
            (PARTS, ["--tumor_labels", "1"], "say different things about masks"),
            (PARTS, ["--dark_probability", "0.1"], "--dark_probability is 0.1; with --classes it must be 0"),
            (REGIONS, ["--config", '{"problem_type": "single_label_classification"}'], "overlap; give problem_type"),
            (PARTS, ["--config", '{"id2label": {"0": "a", "1": "b", "2": "c"}}'], "leave id2label out"),
        ],
    )
    def test_mistakes_are_one_sentence_before_anything_is_trained(
        self, classes, more, message, brats, tmp_path, capsys
    ):
        assert main(fit_options(brats, tmp_path / "run", "--classes", *classes, *more)) == 1
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error
        assert not list(tmp_path.glob("run/checkpoint-*"))

    def test_labels_that_the_masks_do_not_have_are_refused(self, brats, tmp_path, capsys):
        several = json.dumps({**TINY, "id2label": {"0": "background", "1": "core", "2": "rim"}})
        options = fit_options(brats, tmp_path / "run", "--classes", *PARTS)
        start = options.index("--classes")
        options[start : start + 3] = ["--tumor_labels", "1", "2", "4"]
        assert main([*options, "--config", several]) == 1
        assert "to tell several apart give --classes NAME=VALUE" in capsys.readouterr().err


class TestMasks:
    def test_bits_hold_overlapping_classes(self):
        values = np.array([[0, 1, 2, 4, 9]])
        bits = Classes.parse(REGIONS).of_values(values)
        assert bits.tolist() == [[0, 3, 1, 7, 0]]
        assert to_planes(bits, 3).tolist() == [[[0, 1, 1, 1, 0]], [[0, 1, 0, 1, 0]], [[0, 0, 0, 1, 0]]]
        assert np.array_equal(to_bits(to_planes(bits, 3) > 0), bits)
        assert MaskRule(classes=Classes.parse(REGIONS)).left_out(np.tile(values, (16, 4))) == [9]

    def test_padding_stays_padding(self):
        bits = np.array([[255, 1, 2, 0]], np.uint8)
        assert to_planes(bits, 2).tolist() == [[[255, 1, 0, 0]], [[255, 0, 1, 0]]]
        assert to_labels(bits).tolist() == [[255, 1, 2, 0]]

    def test_the_scan_keeps_the_classes(self, brats):
        slices = load_slices(DataArguments(str(brats), classes=REGIONS))
        plain = load_slices(DataArguments(str(brats), tumor_labels=[1, 2, 4]))
        assert slices["mask_area"][:] == plain["mask_area"][:] and slices["slice"][:] == plain["slice"][:]
        assert slices["mask_sha256"][:] != plain["mask_sha256"][:]
        for row, other in zip(slices.select(range(4)), plain.select(range(4)), strict=True):
            assert np.array_equal(read_bits(as_file(row["mask"])) > 0, read_bits(as_file(other["mask"])) == 1)

    def test_prepared_slices_keep_them_too(self, brats, trained):
        slices = load_slices(DataArguments(str(brats), classes=REGIONS))
        processor = TumorSegmenter.from_pretrained(trained).image_processor
        labels = np.stack([row["labels"] for row in prepare_slices(slices, processor, 3)])
        assert set(np.unique(labels)) == {0, 1, 3, 7, 255}

    def test_prepare_writes_no_classes_and_says_so(self, brats, tmp_path, capsys):
        assert main(["prepare", str(brats), "--out", str(tmp_path / "out"), "--classes", *PARTS]) == 1
        assert "--classes is for check, fit, cv and evaluate" in capsys.readouterr().err

    def test_check_counts_and_warns_of_what_is_left_out(self, brats, tmp_path, capsys):
        assert main(["check", str(brats), "--classes", "edema=2", "rim=4", "--out", str(tmp_path)]) == 0
        assert "Some values of masks are taken for background" in capsys.readouterr().out
        with pytest.raises(DataError, match="no mask has these values"):
            load_slices(DataArguments(str(brats), classes=["edema=2", "necrosis=3"]))


class TestSynthesis:
    SIDE = 64

    @pytest.fixture
    def tumor(self) -> tuple[np.ndarray, np.ndarray]:
        """A round head with a tumour of two classes on its left."""
        rows, columns = np.mgrid[: self.SIDE, : self.SIDE]
        image = np.where((rows - 31.5) ** 2 + (columns - 31.5) ** 2 < 30**2, 1.0, -1.0).astype(np.float32)
        distance = (rows - 31.5) ** 2 + (columns - 18) ** 2
        return image, np.select([distance < 9, distance < 25], [6, 1], 0).astype(np.uint8)

    def test_a_copied_tumour_keeps_its_classes(self, tumor):
        image, bits = tumor
        _, mirrored = mirror_region(image, bits, Axis(0.0, 0.0, 1.0), take_out=False)
        assert np.array_equal(mirrored[:, ::-1][:, :32], bits[:, :32]) and 6 in mirrored[:, 32:]

    def test_a_pasted_tumour_brings_its_classes(self, tumor):
        image, bits = tumor
        empty, rng = np.zeros_like(bits), np.random.default_rng(0)
        _, pasted = paste(image, empty, image, (bits > 0).astype(np.uint8), rng, label=bits)
        assert set(np.unique(pasted)) == {0, 1, 6}


def test_overlaps_of_label_maps_and_of_planes_agree():
    true, predicted = np.array([[0, 1, 2, 255]]), np.array([[1, 1, 2, 2]])
    of_map = overlaps_of(planes_of(predicted, 2), planes_of(true, 2))
    planes = [np.stack([labels == number for number in (1, 2)]).astype(int) for labels in (predicted, true)]
    planes[1][:, 0, 3] = 255
    assert of_map == overlaps_of(*planes)
    assert [overlap.dice for overlap in of_map] == [pytest.approx(2 / 3), 1]
