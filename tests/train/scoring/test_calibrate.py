"""`python -m train calibrate`, on a tiny network whose logits are made wrong on purpose."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from slices import write_data_set, write_persons
from tiny import tiny_config

from modeling_unet import TumorSegmenter, UNetForSemanticSegmentation, UNetImageProcessor
from modeling_unet.provenance import weights_hash
from train.__main__ import main
from train.files import save_model, write_json
from train.fitting.calibrated import (
    Calibration,
    Platt,
    calibrated_folders,
    fold_into_head,
    logit,
    read_calibration,
    take_over,
)
from train.scoring.calibration import cross_fit
from train.scoring.platt import LogitCounts, fit_platt
from train.scoring.report import evaluation_of


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def counted(rng: np.random.Generator, platt: Platt, pixels: int = 512) -> LogitCounts:
    """Pixels whose tumour probability is what `platt` makes of their logits."""
    counts = LogitCounts()
    logits = rng.normal(0, 3, (pixels, pixels))
    true = rng.random(logits.shape) < sigmoid(platt.scale * logits + platt.shift)
    counts.add(sigmoid(logits).astype(np.float32), true)
    return counts


# The fit


@pytest.mark.parametrize("platt", [Platt(1, 0), Platt(0.4, 0.7), Platt(2.5, -1)])
def test_scale_and_shift_are_found_again(platt):
    found = fit_platt([counted(np.random.default_rng(seed), platt) for seed in range(2)])
    assert (found.scale, found.shift) == (
        pytest.approx(platt.scale, rel=0.02),
        pytest.approx(platt.shift, abs=0.02),
    )


def test_only_the_tumor_and_its_surroundings_count():
    true = np.zeros((512, 512), bool)
    true[200:210, 200:210] = True
    counts = LogitCounts()
    counts.add(np.full(true.shape, 0.3, np.float32), true)
    assert counts.counts[1].sum() == 100
    assert 100 + 40 * 15 < counts.counts.sum() < 40 * 40


def test_the_extremes_of_a_float32_are_counted():
    probability, true = np.float32([[0, 1], [1e-30, 0.5]]), np.array([[True, True], [False, True]])
    counts = LogitCounts()
    counts.add(probability, true)
    assert counts.counts.sum() >= 3
    assert np.isfinite(logit(probability)).all()


def test_pixels_of_one_kind_cannot_be_calibrated_on():
    counts = LogitCounts()
    counts.add(np.full((8, 8), 0.3, np.float32), np.ones((8, 8), bool))
    with pytest.raises(ValueError, match="with and without tumour"):
        fit_platt([counts])


def test_a_network_that_has_it_the_wrong_way_round_is_refused():
    with pytest.raises(ValueError, match="does not mean more tumour"):
        fit_platt([counted(np.random.default_rng(0), Platt(-1, 0))])


def test_nobody_takes_part_in_the_own_calibration():
    """One of six persons differs from all others, and is calibrated as they are."""
    rng = np.random.default_rng(0)
    counts = {f"p{number}": (counted(rng, Platt(1, 0), 128),) for number in range(6)}
    counts["p3"] = (counted(rng, Platt(0.2, 2), 128),)
    scales = {person: crossed.platts[0].scale for person, crossed in cross_fit(counts).items()}
    assert scales["p3"] == pytest.approx(1, rel=0.05)
    assert all(scales[person] < 0.9 for person in counts if person != "p3")


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = write_data_set(tmp_path_factory.mktemp("data") / "slices", count=20)
    write_persons(folder / "persons.csv", [f"p{number // 2}" for number in range(20)])
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A network that answers by brightness, far too sure."""
    torch.manual_seed(1)
    model = UNetForSemanticSegmentation(tiny_config()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("head"):
                parameter.mul_(30)
    target = tmp_path_factory.mktemp("model")
    save_model(model, UNetImageProcessor(size={"longest_edge": 32}), target)
    write_json(target / "training.json", {"fold": 0})
    return target


def calibrate(folder: Path, model: Path, out: Path, *options: str) -> int:
    data = ("--data_dir", str(folder), "--persons", str(folder / "persons.csv"), "--fold", "0")
    return main(["calibrate", *data, "--model", str(model), "--output_dir", str(out), *options])


@pytest.fixture(scope="module")
def calibrated(folder, model, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("calibrated") / "model"
    assert calibrate(folder, model, out) == 0
    return out


def test_the_saved_network_gives_calibrated_probabilities(calibrated, model, folder):
    (platt,) = read_calibration(calibrated).platts
    assert platt.scale < 0.5
    (image, *_) = sorted((folder / "images").iterdir())
    segmenters = (TumorSegmenter.from_pretrained(place, optimize="none") for place in (model, calibrated))
    before, after = (segmenter(image).probability for segmenter in segmenters)
    known = np.abs(logit(before)) < 10  # beyond, a float32 probability has few digits left
    assert known.mean() > 0.3
    np.testing.assert_allclose(platt.of_probability(before)[known], after[known], atol=5e-3)


def test_the_evaluation_is_of_these_weights_and_better_calibrated(calibrated, model, folder, tmp_path):
    evaluation = json.loads((calibrated / "evaluation.json").read_text())
    assert evaluation["weights_sha256"] == weights_hash(calibrated)
    data = ("--data_dir", str(folder), "--persons", str(folder / "persons.csv"), "--fold", "0")
    assert main(["evaluate", *data, "--model", str(model), "--output", str(tmp_path / "before.json")]) == 0
    before = json.loads((tmp_path / "before.json").read_text())
    assert evaluation["all"]["ece"] < before["all"]["ece"]
    assert [row["slice"] for row in evaluation["per_slice"]] == [row["slice"] for row in before["per_slice"]]


@pytest.fixture(scope="module")
def both(folder, model, tmp_path_factory) -> Path:
    """Two folds, as if each had a network of its own."""
    out = tmp_path_factory.mktemp("both")
    assert calibrate(folder, model, out, "--model", str(model), str(model), "--fold", "0", "1") == 0
    return out


@pytest.mark.slow
def test_several_folds_get_one_calibration_from_all_their_logits(both, calibrated, folder, model, tmp_path):
    assert calibrate(folder, model, tmp_path, "--fold", "1") == 0
    one, other, together = (read_calibration(place).platts[0].scale for place in (calibrated, tmp_path, both))
    assert one != other and min(one, other) < together < max(one, other)
    assert calibrated_folders(both) == [both / "fold-0", both / "fold-1"]
    assert all(read_calibration(place) == read_calibration(both) for place in calibrated_folders(both))
    assert weights_hash(both / "fold-0") == weights_hash(both / "fold-1") != weights_hash(calibrated)
    assert calibrated_folders(calibrated) == [calibrated]


def test_several_folds_are_reported_together_and_each_by_itself(both):
    together, *folds = (evaluation_of(place / "evaluation.json") for place in (both, *calibrated_folders(both)))
    assert together["fold"] == [0, 1] and [part["fold"] for part in together["by_fold"]] == [0, 1]
    assert together["per_slice"] == [row for fold in folds for row in fold["per_slice"]]
    assert together["all"]["persons"] == sum(fold["all"]["persons"] for fold in folds)
    assert all(fold["weights_sha256"] == weights_hash(Path(fold["model"])) for fold in folds)


def test_a_slice_without_tumour_counts_once_however_many_models_answer(folder, model, tmp_path):
    negatives = folder / "images"
    data = ("--model", str(model), str(model), "--fold", "0", "1", "--negatives", str(negatives))
    assert calibrate(folder, model, tmp_path, *data) == 0
    evaluation = evaluation_of(tmp_path / "evaluation.json")
    alarms, detection = evaluation["false_alarms"][0], evaluation["detection"]
    assert (alarms["slices"], alarms["models"], len(evaluation["per_negative"])) == (20, 2, 40)
    assert detection["slices_without_tumor"] == 20


@pytest.mark.slow
def test_the_network_sees_every_slice_once(folder, model, tmp_path, monkeypatch):
    seen = []

    def counted(self, pixel_values, **options):
        seen.append(len(pixel_values))
        return forward(self, pixel_values, **options)

    forward = UNetForSemanticSegmentation.forward
    monkeypatch.setattr(UNetForSemanticSegmentation, "forward", counted)
    assert calibrate(folder, model, tmp_path / "one") == 0
    assert sum(seen) == 4
    seen.clear()
    options = ("--model", str(model), str(model), "--fold", "0", "1", "--negatives", str(folder / "images"))
    assert calibrate(folder, model, tmp_path / "two", *options) == 0
    assert sum(seen) == 2 * 4 + 2 * 20


def test_a_disk_that_is_too_small_for_the_probabilities_is_said(folder, model, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    assert calibrate(folder, model, tmp_path / "out") == 1
    *_, said = capsys.readouterr().err.splitlines()
    assert said == "error: the disk of --output_dir does not hold the probabilities: No space left on device."
    assert not (tmp_path / "out").exists()


def test_another_model_inherits_the_calibration_of_several_folds(both, model, tmp_path):
    fold_into_head(Calibration((Platt(1, 0),)), model, tmp_path)
    take_over(both, tmp_path)
    assert weights_hash(tmp_path) == weights_hash(both / "fold-0")
    assert evaluation_of(tmp_path / "evaluation.json")["stands_for"] == weights_hash(tmp_path)


def test_models_of_different_folds_are_refused(folder, model, tmp_path, capsys):
    models = []
    for number, folds in enumerate((3, 4)):
        models.append(str(shutil.copytree(model, tmp_path / f"run{number}")))
        write_json(Path(models[-1]) / "training.json", {"fold": number, "num_folds": folds})
    assert calibrate(folder, model, tmp_path / "out", "--model", *models, "--fold", "0", "1") == 1
    assert "run1 was trained with 4, so its folds are others" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("folds", [("0", "1"), ("0", "0")])
def test_every_model_needs_a_fold_of_its_own(folds, folder, model, tmp_path, capsys):
    models = [str(model)] * (1 if folds == ("0", "1") else 2)
    assert calibrate(folder, model, tmp_path / "out", "--model", *models, "--fold", *folds) == 1
    assert "--model and --fold belong together" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_twice_is_refused(calibrated, folder, tmp_path, capsys):
    assert calibrate(folder, calibrated, tmp_path / "again") == 1
    assert "is calibrated already" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_persons_that_were_trained_on_are_refused(model, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("train.scoring.calibration.is_seen_in_training", lambda *_: True)
    assert calibrate(folder, model, tmp_path / "out") == 1
    assert "was trained on persons of fold 0" in capsys.readouterr().err


def test_an_uncalibrated_model_has_no_calibration_to_lend(model):
    with pytest.raises(ValueError, match="was not calibrated"):
        read_calibration(model)


def test_a_calibration_can_be_folded_in_place(model, tmp_path):
    same = tmp_path / "model"
    fold_into_head(Calibration((Platt(1, 0),)), model, same)
    fold_into_head(Calibration((Platt(0.5, 0),)), same, same)
    plain, halved = (UNetForSemanticSegmentation.from_pretrained(place) for place in (model, same))
    torch.testing.assert_close(halved.head.weight, plain.head.weight / 2, rtol=1e-3, atol=1e-4)


def test_one_pair_is_put_into_the_head_to_the_bit(model, tmp_path):
    fold_into_head(Calibration((Platt(0.37, -1.234),)), model, tmp_path / "one")
    plain = UNetForSemanticSegmentation.from_pretrained(model)
    with torch.no_grad():
        plain.head.weight.mul_(0.37)
        plain.head.bias.mul_(0.37).add_(-1.234)
    save_model(plain, UNetImageProcessor.from_pretrained(model), tmp_path / "other")
    assert weights_hash(tmp_path / "one") == weights_hash(tmp_path / "other")
