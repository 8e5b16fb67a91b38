"""From corrected slices to better weights: `check`, `fit --recipe refine`, `compare`."""

import csv
import io
import json
import logging
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mat import write_zip
from slices import draw_slice, write_data_set
from tiny import TINY

from modeling_unet import UNetForSemanticSegmentation
from modeling_unet.provenance import weights_hash
from train.__main__ import main
from train.data.raw import DataError
from train.data.slices import AugmentedSlices, DataArguments, load_slices
from train.fitting.calibrated import Calibration, Platt, fold_into_head
from train.fitting.earlier.rehearsal import load_known
from train.fitting.options import parse_fit


pytestmark = pytest.mark.usefixtures("undrawn")

SLICES = 24
NETWORK = ["--architecture", "resnet34", "--config", json.dumps(TINY), "--image_size", "32"]
SCHEDULE = ["--max_steps", "4", "--eval_steps", "2", "--save_steps", "4", "--bf16", "false", "--disable_tqdm", "true"]
SCHEDULE += ["--dataloader_num_workers", "0"]


def metadata(rows: list[dict]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, ["image_file_name", "mask_file_name", "person_id", "tumor_type"])
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def described(number: int | str, person: str, tumor_type: str = "") -> dict:
    files = {"image_file_name": f"images/{number}.png", "mask_file_name": f"masks/{number}.png"}
    return {**files, "person_id": person, "tumor_type": tumor_type}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """24 slices of 12 persons of two tumour types, as `prepare` would write them."""
    folder = write_data_set(tmp_path_factory.mktemp("data") / "slices", SLICES)
    types = ("glioma", "meningioma")
    rows = [described(n, f"p{n // 2:02}", types[n // 2 % 2]) for n in range(1, SLICES + 1)]
    (folder / "metadata.csv").write_text(metadata(rows))
    return folder


def write_corrections(path: Path, data: Path, persons: tuple[str, ...], corrected: tuple[int, ...] = ()) -> Path:
    """The page's ZIP: two slices of every person, and slices of `data` with another mask."""
    rng, members, rows = np.random.default_rng(7), {}, []
    for person in persons:
        for number in (1, 2):
            name, pictures = f"{person}-{number}", draw_slice(rng)
            for kind, pixels in zip(("images", "masks"), pictures, strict=True):
                members[f"{kind}/{name}.png"] = cv2.imencode(".png", pixels)[1].tobytes()
            rows.append(described(name, person))
    for number in corrected:
        members[f"images/{number}.png"] = (data / "images" / f"{number}.png").read_bytes()
        mask = cv2.imread(str(data / "masks" / f"{number}.png"), cv2.IMREAD_UNCHANGED)
        members[f"masks/{number}.png"] = cv2.imencode(".png", cv2.dilate(mask, np.ones((3, 3))))[1].tobytes()
        rows.append(described(number, "q"))
    return write_zip(path, {**members, "metadata.csv": metadata(rows).encode()})


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "first"
    options = ["--data_dir", str(data), "--fold", "0", "--output_dir", str(run), *NETWORK, *SCHEDULE]
    assert main(["fit", *options]) == 0
    return run


def refine(trained: Path, corrections: Path, run: Path, *options: str) -> int:
    begins = ["fit", "--recipe", "refine", "--init_from", str(trained), "--data_dir", str(corrections)]
    return main([*begins, "--output_dir", str(run), *SCHEDULE, *options])


# Check


def test_the_zip_of_one_person_is_checked_and_needs_no_folds(data, tmp_path, capsys):
    assert main(["check", str(write_corrections(tmp_path / "corrections.zip", data, ("q",)))]) == 0
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "slices 2 persons 1" in printed
    assert "warning no folds 5 folds need at least 5 persons; this data set has 1. Train on all of them" in printed


# Fit


@pytest.fixture(scope="module")
def refined(trained, data, tmp_path_factory) -> Path:
    """Refined on one person, and slice 5 of the first training, with what that training has seen."""
    folder = tmp_path_factory.mktemp("refined")
    corrections = write_corrections(folder / "corrections.zip", data, ("q",), corrected=(5,))
    assert refine(trained, corrections, folder / "run", "--all_persons", "true", "--also_data_dir", str(data)) == 0
    return folder / "run"


@pytest.mark.parametrize("is_kept", [True, False])
def test_calibration_is_taken_out_for_the_training_and_handed_on(is_kept, trained, data, tmp_path):
    start, run = tmp_path / "start", tmp_path / "run"
    shutil.copytree(trained, start)
    platt = Platt(0.33, 0.54)
    fold_into_head(Calibration((platt,)), trained, start, presence_logit=1.8)
    record = json.loads((trained / "training.json").read_text())
    (start / "training.json").write_text(json.dumps({**record, "calibration": {"scale": 0.33, "shift": 0.54}}))
    corrections = write_corrections(tmp_path / "corrections.zip", data, ("q",))
    options = ["--all_persons", "true", "--learning_rate", "0", "--keep_calibration", str(is_kept).lower()]
    assert refine(start, corrections, run, *options) == 0
    expected, network = map(UNetForSemanticSegmentation.from_pretrained, (start if is_kept else trained, run))
    for name in ("weight", "bias"):  # both folders hold half precision
        assert torch.allclose(getattr(network.head, name), getattr(expected.head, name), rtol=4e-3, atol=2e-3)
    assert network.config.presence_logit == (1.8 if is_kept else None)
    kept = json.loads((run / "training.json").read_text()).get("calibration")
    assert kept == ({"scale": 0.33, "shift": 0.54} if is_kept else None)


def test_a_refined_model_keeps_in_mind_what_its_first_training_saw(refined, trained, data):
    first, second = (json.loads((run / "training.json").read_text()) for run in (trained, refined))
    assert second["recipe"]["also_share"] == 0.5 and second["recipe"]["learning_rate"] == 1e-4
    # Three corrected slices, and those of the first training but the one that is corrected.
    assert second["training_slices"] == 3 + first["training_slices"] - 1
    assert second["training_persons"] == first["training_persons"] + 1
    assert {*first["trained_on"].split()} < {*second["trained_on"].split()}
    assert weights_hash(refined) != weights_hash(trained)


def test_without_folds_one_person_is_no_fold_zero(trained, data, tmp_path, capsys):
    corrections = write_corrections(tmp_path / "corrections.zip", data, ("q",))
    assert refine(trained, corrections, tmp_path / "run", "--fold", "0") == 1
    assert "this data set has 1. Train on all of them by --all_persons true" in capsys.readouterr().err


def test_a_fold_that_was_left_out_stays_left_out_and_nobody_who_validates_trains(trained, data):
    slices = load_slices(DataArguments(str(data)))
    held_out = {row["person_id"] for row in slices if row["fold"] == 0}
    everything, rows = load_known(str(data), str(trained), slices.select([]), slices.select([]))
    persons = {everything[index]["person_id"] for index in rows}
    assert persons == {*slices["person_id"]} - held_out
    validating = next(index for index in rows if everything[index]["person_id"] != "p12")
    person = everything[validating]["person_id"]
    _, rows = load_known(str(data), str(trained), slices.select([]), everything.select([validating]))
    assert {everything[index]["person_id"] for index in rows} == persons - {person}


def test_data_of_another_training_is_refused(trained, tmp_path):
    other = write_data_set(tmp_path / "other", 6)
    for path in (other / "masks").iterdir():
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), np.roll(mask, 9, axis=0))
    nothing = load_slices(DataArguments(str(other))).select([])
    with pytest.raises(DataError, match=r"other holds no person whom --init_from .*first was trained on"):
        load_known(str(other), str(trained), nothing, nothing)


def test_an_epoch_takes_all_new_slices_and_draws_some_of_the_known():
    class Rows:
        def __len__(self):
            return 100

        def __getitem__(self, index):
            return {"pixel_values": np.full((1, 2, 2), index, np.float32), "labels": np.zeros((2, 2), np.uint8)}

    slices, epochs = AugmentedSlices(Rows(), seed=3, always=4, drawn=6), []
    for epoch in range(3):
        slices.set_epoch(epoch)
        epochs.append([int(slices[index]["pixel_values"].max()) for index in range(len(slices))])
        assert epochs[-1] == [int(slices[index]["pixel_values"].max()) for index in range(10)], "not repeatable"
    assert all(rows[:4] == [0, 1, 2, 3] and min(rows[4:]) >= 4 for rows in epochs)
    assert epochs[0][4:] != epochs[1][4:] != epochs[2][4:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--also_data_dir", "D"], "--also_data_dir is what --init_from was trained on; give that too"),
        (["--init_from", "M", "--also_share", "0.2"], "--also_share is 0.2, of --also_data_dir; give that too"),
        (["--init_from", "M", "--also_data_dir", "D", "--also_share", "1"], "it must lie between 0 and 1"),
    ],
)
def test_options_that_miss_each_other_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        parse_fit(["--data_dir", "C", "--output_dir", "OUT", "--fold", "0", *options])


# Compare


def compare(trained: Path, refined: Path, data: Path, *options: str) -> int:
    return main(["compare", str(trained), str(refined), "--data_dir", str(data), *options])


def test_two_models_are_compared_on_the_persons_of_a_fold(trained, refined, data, tmp_path, capsys):
    output = tmp_path / "comparison.json"
    assert compare(trained, refined, data, "--fold", "0", "--output", str(output)) == 0
    result, printed = json.loads(output.read_text()), capsys.readouterr().out
    scored = list(load_slices(DataArguments(str(data)))["fold"]).count(0)
    assert scored == result["slices"] == len(result["per_slice"][0]) == len(result["per_slice"][1])
    dice = [np.array([row["dice"] for row in rows]) for rows in result["per_slice"]]
    found = result["all"]["slice_dice"]
    assert found["difference"] == pytest.approx((dice[1] - dice[0]).mean())
    assert result["all"]["zero_dice_rate"]["second"] == (dice[1] == 0).mean()
    assert {"glioma", "meningioma"} == {*result["by_tumor_type"]} and "meningioma: " in printed
    assert result["seen_in_training"] == [0, 0] and "WARNING" not in printed


def test_a_model_that_was_trained_on_the_slices_is_named(trained, refined, data, capsys):
    assert compare(trained, refined, data) == 0
    printed = capsys.readouterr().out
    for run in (trained, refined):
        count = json.loads((trained / "training.json").read_text())["training_slices"]
        assert f"WARNING: {run} was trained on {count} of these {SLICES} slices" in printed


def test_equal_weights_and_too_much_said_are_refused(trained, data, capsys):
    assert compare(trained, trained, data) == 1
    assert "hold the same weights; there is nothing to compare." in capsys.readouterr().err
    assert compare(trained, trained, data, "--fold", "0", "--split", "test") == 1
    assert "Give --fold K or --split NAME, not both" in capsys.readouterr().err


def test_how_much_is_drawn_is_said(trained, data, tmp_path, caplog):
    corrections = write_corrections(tmp_path / "corrections.zip", data, ("q", "r"))
    share = ["--also_data_dir", str(data), "--also_share", "0.8"]
    with caplog.at_level(logging.INFO, logger="train"):
        assert refine(trained, corrections, tmp_path / "run", "--num_folds", "2", "--fold", "0", *share) == 0
    assert "Training on 2 slices of 1 persons, validating on 2 of 1." in caplog.text
    assert "To every epoch come 8 slices of the 18 that were trained on before." in caplog.text
