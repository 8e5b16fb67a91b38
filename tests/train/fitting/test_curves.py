"""The pictures of a run: its curves, and the sheet of predictions."""

import csv
import io

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from train.fitting import curves
from train.fitting.curves import (
    BLUE,
    PREDICTION_COLOR,
    TRUTH_COLOR,
    VERMILION,
    Prediction,
    pick_examples,
    write_curves,
    write_predictions,
)


LOG = [
    {"epoch": 0.5, "loss": 2.5, "learning_rate": 1e-3, "step": 1},
    {"epoch": 1.0, "epoch_loss": 2.0, "epoch_dice": 0.25, "epoch_iou": 0.125, "step": 2},
    {
        "epoch": 1.0,
        "eval_loss": 1.5,
        "eval_dice_at_network_size": 0.5,
        "eval_iou_at_network_size": 0.375,
        "eval_zero_dice_rate": 0.1,
        "eval_runtime": 9.0,
        "step": 2,
    },
    {"epoch": 2.0, "epoch_loss": 1.0, "epoch_dice": 0.75, "epoch_iou": 0.625, "step": 4},
    {"epoch": 2.0, "train_runtime": 99.0, "train_loss": 1.4, "step": 4},
]

# What is left of linear RGB at full severity (Machado, Oliveira and Fernandes 2009, table 1).
COLOR_BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def colors_in(path) -> set[tuple[int, int, int]]:
    with Image.open(path) as picture:
        return set(picture.convert("RGB").get_flattened_data())


def bytes_of(color: str) -> tuple[int, ...]:
    return tuple(round(255 * part) for part in to_rgb(color))


# Curves


def test_the_table_has_a_row_per_epoch_and_empty_cells_for_what_is_missing(tmp_path):
    write_curves(LOG, tmp_path)
    assert (tmp_path / "curves.csv").read_text() == (
        "epoch,training_loss,training_dice,training_iou,"
        "validation_loss,validation_dice,validation_iou,validation_zero_dice_rate\n"
        "1,2.0,0.25,0.125,1.5,0.5,0.375,0.1\n"
        "2,1.0,0.75,0.625,,,,\n"
    )


def test_epochs_come_in_order_and_the_last_word_counts(tmp_path):
    """After a resume an epoch may be logged twice, and evaluations may fall between the epochs."""
    log = [*LOG, {"epoch": 1.5, "eval_loss": 1.25}, {"epoch": 1.0, "epoch_loss": 1.75}]
    write_curves(log, tmp_path)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "curves.csv").read_text())))
    assert [row["epoch"] for row in rows] == ["1", "1.5", "2"]
    assert rows[0]["training_loss"] == "1.75" and rows[0]["training_dice"] == "0.25"


def test_curves_show_training_and_validation(tmp_path):
    write_curves(LOG, tmp_path)
    assert {bytes_of(BLUE), bytes_of(VERMILION)} <= colors_in(tmp_path / "curves.png")


@pytest.mark.parametrize("log", [[], LOG[:2], LOG[2:3]], ids=["nothing", "training alone", "validation alone"])
def test_a_log_that_lacks_something_is_drawn_as_far_as_it_goes(log, tmp_path):
    write_curves(log, tmp_path)
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > picture.height > 400
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.csv", "curves.png"]


# Which slices are shown


def test_best_median_and_worst_are_picked():
    dice = [0.9, 0.1, 0.5, 0.8, 0.2, 0.4, 0.6, 0.3, 0.7]
    assert pick_examples(dice, per_row=2) == {"best": [0, 3], "median": [6, 2], "worst": [4, 1]}


def test_equal_dice_keep_the_order_of_the_slices():
    assert pick_examples([0.0] * 6, per_row=1) == {"best": [0], "median": [2], "worst": [5]}


def test_a_row_shows_different_persons_as_far_as_there_are():
    dice = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    persons = ["a", "a", "b", "c", "c", "c", "d", "d", "d"]
    assert pick_examples(dice, persons, per_row=2) == {"best": [0, 2], "median": [4, 6], "worst": [5, 8]}
    assert pick_examples(dice, ["a"] * 9, per_row=2) == {"best": [0, 1], "median": [3, 4], "worst": [7, 8]}


@pytest.mark.parametrize("count", range(15))
def test_no_slice_is_picked_twice(count):
    dice = np.random.default_rng(count).random(count).tolist()
    picked = [index for row in pick_examples(dice).values() for index in row]
    assert len(picked) == len(set(picked)) == (count if count < 3 else 3 * min(4, count // 3))
    assert [dice[index] for index in picked] == sorted((dice[index] for index in picked), reverse=True)


# The sheet


def disc(center: tuple[int, int], shape: tuple[int, int] = (96, 80)) -> np.ndarray:
    return cv2.circle(np.zeros(shape, np.uint8), center, 16, 1, -1) > 0


def prediction(**changes) -> Prediction:
    image = np.random.default_rng(0).integers(0, 65535, (96, 80)).astype(np.uint16)
    parts = {"slice": "7", "tumor_type": "glioma", "image": image, "truth": disc((30, 40)), "predicted": disc((50, 40))}
    return Prediction(**{**parts, **changes})


def test_both_outlines_are_drawn(tmp_path):
    write_predictions({"best": [prediction()], "worst": [prediction()] * 3}, tmp_path / "predictions.png")
    assert {bytes_of(TRUTH_COLOR), bytes_of(PREDICTION_COLOR)} <= colors_in(tmp_path / "predictions.png")
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.png"]


def test_markers_at_0_and_1_are_drawn_whole():
    rows = [{"epoch": epoch, "training_dice": dice, "validation_dice": dice} for epoch, dice in ((1, 0.0), (2, 1.0))]
    figure = curves._draw_curves(rows)
    figure.draw_without_rendering()
    for axes in figure.axes[1:]:
        radius = 1.5 / 72 * figure.dpi  # pixels; markers are 3 points wide
        bottom, top = (axes.transData.transform((1, value))[1] for value in (0, 1))
        assert axes.bbox.y0 <= bottom - radius and top + radius <= axes.bbox.y1


def test_outlines_are_thin_on_small_slices_too(tmp_path):
    small = {name: getattr(prediction(), name)[::4, ::4] for name in ("image", "truth", "predicted")}
    write_predictions({"best": [prediction(**small)]}, tmp_path / "predictions.png")
    with Image.open(tmp_path / "predictions.png") as picture:
        distance = np.abs(np.int16(picture.convert("RGB")) - bytes_of(PREDICTION_COLOR)).max(axis=2)
    assert 0.002 < np.mean(distance < 60) < 0.02


def test_titles_say_which_slice_what_tumor_and_how_well(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    titles = []
    draw = Axes.set_title
    monkeypatch.setattr(Axes, "set_title", lambda axes, text, **style: titles.append(text) or draw(axes, text, **style))
    same = disc((30, 40))
    samples = [
        prediction(predicted=same),
        prediction(slice="cost_in_$_and_$" * 4, tumor_type="unknown", predicted=np.zeros_like(same)),
    ]
    write_predictions({"best": samples, "median": []}, tmp_path / "predictions.png")
    assert titles == ["7\nglioma, Dice 1.00", "cost_in_$_and_$cost_in_$_and_$c…\nDice 0.00"]


@pytest.mark.parametrize("confusion", COLOR_BLINDNESS.values(), ids=COLOR_BLINDNESS)
def test_color_blind_readers_tell_the_lines_apart(confusion):
    for pair in ((TRUTH_COLOR, PREDICTION_COLOR), (BLUE, VERMILION)):
        linear = np.float32([to_rgb(color) for color in pair]) ** 2.2
        seen = np.clip(linear @ np.float32(confusion).T, 0, 1) ** (1 / 2.2)
        first, second = cv2.cvtColor(seen[None], cv2.COLOR_RGB2LAB)[0]
        assert np.linalg.norm(first - second) > 40  # the usual red and green: 7 with deuteranopia
