"""`python -m train calibrate` for models of several classes, which answer by brightness."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from slices import write_persons
from tiny import save_nested_model

from modeling_unet import TumorSegmenter, UNetForSemanticSegmentation
from modeling_unet.image_processing_unet import OVERLAPPING
from train.__main__ import main
from train.commands.cv import next_steps
from train.files import read_json, write_json
from train.fitting.calibrated import (
    Calibration,
    Platt,
    calibrated_folders,
    fold_into_head,
    read_calibration,
    take_over,
)
from train.hub.cards import write_model_card
from train.scoring.calibration import fit_calibration
from train.scoring.evaluation import probabilities_among
from train.scoring.platt import LogitCounts


NAMES = ("whole", "core", "rim")
REGIONS, PARTS = ["whole=1,2,3", "core=2,3", "rim=3"], ["whole=1", "core=2", "rim=3"]
TYPES = pytest.mark.parametrize("calibrated", [OVERLAPPING, None], ids=["overlapping", "disjoint"], indirect=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Heads with a tumour of three parts in each other, each brighter than the one around it; two slices a person."""
    folder, rng = tmp_path_factory.mktemp("data") / "slices", np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(1, 17):
        labels = np.zeros((48, 48), np.uint8)
        image = cv2.circle(np.zeros_like(labels), (24, 24), 22, 70, -1)
        center = rng.integers(18, 30, 2).tolist()
        for label, radius in ((1, 10), (2, 7), (3, 4)):
            cv2.circle(labels, center, radius, label, -1)
        image = np.where(labels, np.array([0, 110, 170, 240], np.uint8)[labels], image)
        image = np.clip(image + rng.normal(0, 20, image.shape) * (image > 0), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
        cv2.imwrite(str(folder / "masks" / f"{number}.png"), labels)
    write_persons(folder / "persons.csv", [f"p{number // 2}" for number in range(16)])
    return folder


def scored(folder: Path, command: str, model: Path, *more: str) -> int:
    data = ("--data_dir", str(folder), "--persons", str(folder / "persons.csv"), "--fold", "0", "--num_folds", "2")
    return main([command, *data, "--model", str(model), *more])


@pytest.fixture(scope="module")
def calibrated(folder, request, tmp_path_factory) -> tuple[Path, Path]:
    """A model, and the same calibrated."""
    place = tmp_path_factory.mktemp("models")
    model = save_nested_model(place / "model", request.param, NAMES)
    classes = REGIONS if request.param else PARTS
    write_json(model / "training.json", {"fold": 0, "num_folds": 2, "classes": classes})
    assert scored(folder, "calibrate", model, "--output_dir", str(place / "calibrated")) == 0
    return model, place / "calibrated"


@TYPES
def test_each_class_is_better_calibrated(calibrated, folder, tmp_path):
    model, better = calibrated
    assert scored(folder, "evaluate", model, "--output", str(tmp_path / "before.json")) == 0
    before, after = (json.loads(path.read_text()) for path in (tmp_path / "before.json", better / "evaluation.json"))
    assert after["all"]["ece"] < before["all"]["ece"]
    for name in NAMES if read_calibration(better).names else ():
        one, other = (report["by_class"][name] for report in (before, after))
        assert other["figures"]["ece"] < one["figures"]["ece"] / 2
        assert sum(part["pixels"] for part in other["reliability"]) > 0


@TYPES
def test_classes_that_overlap_have_a_pair_each_and_others_one_for_all(calibrated, folder):
    _, better = calibrated
    found = read_json(better / "training.json")["calibration"]
    before, after = (TumorSegmenter.from_pretrained(place, "cpu", optimize="none") for place in calibrated)
    image = folder / "images" / "1.png"
    one, other = before(image), after(image)
    assert after.familiarity is not None
    if before.model.config.classes_overlap:
        assert list(found["classes"]) == list(NAMES)
        own = read_calibration(better).of_probability(one.class_probabilities)
    else:
        assert {*found} == {"scale", "shift"}
        own = read_calibration(better).platts[0].of_probability(one.class_probabilities)
        # Which of the classes is the likeliest stays the same, but for ties that weights in half precision break.
        sure = (one.class_probabilities.max(axis=0) > 0.01) & (one.class_probabilities.max(axis=0) < 0.99)
        assert np.mean(np.equal(*(part.class_probabilities.argmax(axis=0)[sure] for part in (one, other)))) > 0.97
    known = (one.class_probabilities > 1e-4) & (one.class_probabilities < 1 - 1e-4)
    np.testing.assert_allclose(other.class_probabilities[known], own[known], atol=0.05)  # weights in half precision


@TYPES
def test_the_card_and_another_model_of_the_recipe_have_it_too(calibrated, tmp_path):
    model, better = calibrated
    segmenter = TumorSegmenter.from_pretrained(better, "cpu", optimize="none")
    record = read_json(better / "training.json")
    card = write_model_card(segmenter.model, segmenter.image_processor, record, None, "you/regions", "main")
    assert card.count("and shift ") == (3 if segmenter.model.config.classes_overlap else 1)
    fold_into_head(Calibration((Platt(1, 0),)), model, tmp_path)
    take_over(better, tmp_path)
    heads = [UNetForSemanticSegmentation.from_pretrained(place).head.weight for place in (better, tmp_path)]
    assert heads[0].equal(heads[1])


def test_several_folds_get_one_calibration_for_each_class(folder, tmp_path):
    model = save_nested_model(tmp_path / "model", OVERLAPPING, NAMES)
    write_json(model / "training.json", {"fold": 0, "num_folds": 2, "classes": REGIONS})
    both = ("--model", str(model), str(model), "--fold", "0", "1", "--output_dir", str(tmp_path / "both"))
    assert scored(folder, "calibrate", model, *both) == 0
    together = read_calibration(tmp_path / "both")
    assert together.names == NAMES
    assert [read_calibration(place) for place in calibrated_folders(tmp_path / "both")] == [together, together]
    evaluation = json.loads((tmp_path / "both" / "evaluation.json").read_text())
    assert evaluation["fold"] == [0, 1] and list(evaluation["by_class"]) == list(NAMES)


def test_after_a_cross_validation_they_are_calibrated():
    options = ["--data_dir", "DATA", "--classes", *REGIONS]
    steps = next_steps(options, Path("runs"), [0, 1])
    assert "calibrate --data_dir=DATA --classes whole=1,2,3 core=2,3 rim=3 --model runs/fold-0 runs/fold-1" in steps
    assert "--calibration runs/calibrated" in steps and "ensemble" not in steps


def test_a_calibration_of_other_classes_is_refused(tmp_path):
    model = save_nested_model(tmp_path / "model", OVERLAPPING, NAMES)
    other = Calibration((Platt(1, 0), Platt(2, 0)), ("edema", "core"))
    with pytest.raises(ValueError, match="tells whole, core, rim apart, and the calibration is of edema, core"):
        fold_into_head(other, model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_class_without_pixels_is_named():
    empty, full = LogitCounts(), LogitCounts()
    full.counts[:] = 1
    full.counts[1] += np.arange(full.counts.shape[1])
    with pytest.raises(ValueError, match="rim: A calibration needs pixels with and without tumour"):
        fit_calibration([(full, empty)], ("whole", "rim"))


@TYPES
def test_probabilities_of_classes_that_do_not_overlap_add_up_to_one_at_most(calibrated, folder):
    segmentation = TumorSegmenter.from_pretrained(calibrated[0], "cpu", optimize="none")(folder / "images" / "1.png")
    among = probabilities_among(segmentation)
    if segmentation.classes_overlap:
        assert among is segmentation.class_probabilities
    else:
        assert among.sum(axis=0).max() <= 1 + 1e-6
        assert np.array_equal(among.argmax(axis=0), segmentation.class_probabilities.argmax(axis=0))
