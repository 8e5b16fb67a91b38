"""`python -m train report`, on evaluations whose figures are known by hand."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from train.__main__ import main
from train.record import read_evaluation, write_evaluation
from train.scoring.aggregate import figures_of
from train.scoring.report import compare, evaluation_of, format_report


PERSONS = ("a", "a", "b", "c")


def row(number: int, intersection: int, **changes) -> dict:
    """A slice with 100 px of tumour, 100 px of prediction and so many in common: Dice is `intersection` percent."""
    return {
        "slice": str(number),
        "person_id": PERSONS[number],
        "tumor_type": ("glioma", "meningioma")[number % 2],
        "plane": "unknown",
        "height": 512,
        "width": 512,
        "intersection": intersection,
        "predicted": 100,
        "true": 100,
        "dice": intersection / 100,
        "nsd": 0.5,
        "hd95": None,
        "lesions": {"true": 1, "hit": 1, "predicted": 1, "false": 0, "largest_predicted": 100},
        "reliability": {"pixels": [5] * 15, "probability": [2.5] * 15, "tumor": [2] * 15, "squared_error": 3.0},
        "threshold_dice": np.linspace(0.4, 0.6, 19).tolist(),
        **changes,
    }


def evaluation(rows: list[dict], **changes) -> dict:
    facts = {"model": "runs/x", "fold": 0, "seen_in_training": False, "resolution": "native", "threshold": 0.5}
    return {**facts, **figures_of(rows), "per_slice": rows, "per_negative": [], **changes}


FIRST = evaluation([row(number, dice) for number, dice in enumerate((50, 70, 0, 90))])
SECOND = evaluation([row(number, dice) for number, dice in enumerate((60, 80, 10, 100))])


@pytest.fixture
def files(tmp_path) -> list[str]:
    for name, content in (("first", FIRST), ("second", SECOND)):
        write_evaluation(tmp_path / f"{name}.json", content)
    return [str(tmp_path / "first.json"), str(tmp_path / "second.json")]


def refusal(arguments: list[str], capsys) -> str:
    assert main(["report", *arguments]) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


# The report


@pytest.mark.slow
def test_a_report_has_the_tables_and_pictures_that_can_be_read(files, tmp_path):
    out = tmp_path / "report"
    assert main(["report", files[0], "--out", str(out)]) == 0
    text = (out / "report.md").read_text()
    assert "| first | runs/x | 0 | 4 | 3 | 0.5 | native |" in text
    assert "| all | 4 | 3 | 0.5250 |" in text
    assert "| type: glioma | 2 | 2 | 0.2500 |" in text and "| type: meningioma | 2 | 2 | 0.8000 |" in text
    assert "| Q1: 100–100 px on a 512-px grid | 4 |" in text
    assert "– stands for an interval where fewer than 6 persons are too few for one" in text
    assert "plane: unknown" not in text
    assert "| all | 0.5000 | – | – | 4 | 724.1 | 1.000 | 0.000 | 0.1000 | 0.0400 |" in text
    assert "against" not in text
    for name in ("reliability", "thresholds", "persons"):
        assert f"({name}.png)" in text
        picture = cv2.imread(str(out / f"{name}.png"))
        assert min(picture.shape[:2]) > 400 and len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    assert len(list(out.iterdir())) == 4


def test_slices_without_tumour_have_their_table():
    lesions = {"true": 0, "hit": 0, "predicted": 1, "false": 1, "largest_predicted": 20}
    negatives = [{"slice": "n", "person_id": "n", "predicted": 20, "true": 0, "lesions": lesions}]
    text = format_report({"first": {**FIRST, **figures_of(FIRST["per_slice"], negatives)}})
    assert "| a lesion of 10 px or more | 1 | 1 | 1 | 100.0 % |" in text
    assert "| a lesion of 50 px or more | 1 | 1 | 1 | 0.0 % |" in text
    assert "specificity 0.0 % on 1 without" in text


def test_a_model_that_has_seen_the_persons_is_reported_as_such():
    warning = "**This model was trained on the persons that are scored here"
    assert warning in format_report({"first": {**FIRST, "seen_in_training": True}})
    assert warning not in format_report({"first": FIRST})


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    paths = [tmp_path / folder / "evaluation.json" for folder in ("x", "y")]
    for path in paths:
        write_evaluation(path, FIRST)
    assert main(["report", *map(str, paths), "--out", str(tmp_path)]) == 0
    assert f"## {paths[1]} against {paths[0]}" in (tmp_path / "report.md").read_text()


def test_all_folds_together_are_compared_with_one():
    text = format_report({"first": FIRST, "second": {**SECOND, "fold": [0, 1, 2]}})
    assert "| second | runs/x | 0, 1, 2 |" in text
    assert "## second against first" in text


# The comparison


def test_a_comparison_by_hand():
    """Ten points of Dice better on every slice: certain, though the slices differ by far more than that."""
    comparison = compare(FIRST, SECOND, ("first", "second"))
    assert (comparison["slices"], comparison["persons"]) == (4, 3)
    metrics = comparison["metrics"]
    assert metrics["slice_dice"]["first"] == pytest.approx(0.525)
    assert metrics["slice_dice"]["second"] == pytest.approx(0.625)
    for metric in ("slice_dice", "person_dice"):
        assert metrics[metric]["difference"] == pytest.approx(0.1)
        assert metrics[metric]["interval"] == pytest.approx([0.1, 0.1])
    assert metrics["person_dice"]["first"] == pytest.approx((0.6 + 0 + 0.9) / 3)
    iou = [dice / (2 - dice) for dice in (0.5, 0.7, 0, 0.9)], [dice / (2 - dice) for dice in (0.6, 0.8, 0.1, 1)]
    assert metrics["slice_iou"]["difference"] == pytest.approx(np.mean(iou[1]) - np.mean(iou[0]))
    assert metrics["zero_dice_rate"]["difference"] == pytest.approx(-0.25)
    low, high = metrics["zero_dice_rate"]["interval"]
    assert -1 <= low < -0.25 < high == 0


def test_only_slices_that_both_scored_are_compared_in_whatever_order():
    second = evaluation([row(3, 100), row(1, 80), {**row(0, 10), "slice": "elsewhere"}])
    comparison = compare(FIRST, second, ("first", "second"))
    assert (comparison["slices"], comparison["only_first"], comparison["only_second"]) == (2, 2, 1)
    assert comparison["metrics"]["slice_dice"]["first"] == pytest.approx(0.8)
    assert comparison["metrics"]["slice_dice"]["difference"] == pytest.approx(0.1)
    text = format_report({"first": FIRST, "second": second})
    assert "On the 2 slices of 2 persons that both have scored. first has 2 more, left out here. second has 1" in text
    assert "| slice_dice | 0.8000 | 0.9000 | +0.1000 | – |" in text
    assert "2 persons are too few for an interval of the difference" in text


@pytest.mark.parametrize(("persons", "interval"), [(5, "–"), (6, "+0.1000 … +0.1000")])
def test_differences_have_an_interval_where_the_tables_have_one(persons, interval):
    first, second = (
        evaluation([{**row(0, dice), "slice": f"{n}", "person_id": f"p{n}"} for n in range(persons)])
        for dice in (80, 90)
    )
    text = format_report({"first": first, "second": second})
    assert f"| slice_dice | 0.8000 | 0.9000 | +0.1000 | {interval} |" in text
    assert ("| 0.800–0.800 |" in text) is (persons == 6)


def test_slices_with_tumour_alone_come_first_where_there_are_others():
    """Three found nothing where nothing is, which counts as 1; the figure to quote is that of the four others."""
    empty = {"true": 0, "predicted": 0, "dice": 1.0}
    rows = [row(number, dice) for number, dice in enumerate((50, 70, 0, 90))]
    others = [{**row(number, 0, **empty), "slice": f"empty {number}"} for number in range(3)]
    mixed = evaluation([*rows, *others])
    assert (mixed["all"]["slice_dice"], mixed["with_tumor"]) == (pytest.approx((2.1 + 3) / 7), FIRST["all"])
    text = format_report({"first": mixed})
    assert text.index("| with tumour | 4 | 3 | 0.5250 |") < text.index("| all | 7 | 3 | 0.7286 |")
    assert "left out of the row “with tumour”" in text and "with tumour |" not in format_report({"first": FIRST})
    better = evaluation([*(row(number, dice) for number, dice in enumerate((60, 80, 10, 100))), *others])
    metrics = compare(mixed, better, ("first", "second"))["metrics"]
    assert metrics["slice_dice, with tumour"]["difference"] == pytest.approx(0.1)
    assert metrics["slice_dice"]["difference"] == pytest.approx(0.4 / 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 0.4}, "first was scored at threshold 0.5 and second at threshold 0.4"),
        ({"resolution": "256"}, "first was scored at native resolution and second at 256 resolution"),
        ({"fold": 1}, "first was scored on fold 0 and second on fold 1"),
        ({"seen_in_training": True}, "second scores a model on persons it was trained on"),
        ({"per_slice": [{**row(0, 9), "slice": "x"}]}, "first and second have scored no slice in common"),
        ({"per_slice": [row(0, 9, true=99)]}, "scored on different data: slice 0"),
        ({"per_slice": [row(0, 9, person_id="b")]}, "scored on different data: slice 0"),
    ],
)
def test_an_unfair_comparison_is_refused_and_nothing_written(changes, message, files, tmp_path, capsys):
    write_evaluation(Path(files[1]), {**SECOND, **changes})
    assert message in refusal([*files, "--out", str(tmp_path / "report")], capsys)
    assert not (tmp_path / "report").exists()


def test_figures_that_an_older_version_did_not_know_come_from_its_rows(tmp_path):
    older = {name: value for name, value in FIRST.items() if name not in ("detection", "by_plane")}
    write_evaluation(tmp_path / "older.json", older)
    assert evaluation_of(tmp_path / "older.json") == FIRST


def test_bins_that_an_older_version_called_calibration_are_read(tmp_path):
    rows = [
        {("calibration" if name == "reliability" else name): row[name] for name in row} for row in FIRST["per_slice"]
    ]
    write_evaluation(tmp_path / "older.json", {**FIRST, "calibration": FIRST["reliability"], "per_slice": rows})
    assert evaluation_of(tmp_path / "older.json") == FIRST
    write_evaluation(tmp_path / "published.json", {"calibration": FIRST["reliability"], "calibration_groups": 5})
    expected = {"reliability": FIRST["reliability"], "calibration_groups": 5}
    assert read_evaluation(tmp_path / "published.json") == expected


# Bad files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "bad.json is not JSON"),
        ("[1]", "bad.json holds no mapping"),
        (json.dumps({"fold": 0}), "bad.json holds no evaluation"),
        (json.dumps({"per_slice": [{}], "fold": 0}), "bad.json was written by an older version and lacks model"),
    ],
)
def test_what_is_no_evaluation_is_named(content, message, tmp_path, capsys):
    (tmp_path / "bad.json").write_text(content)
    assert message in refusal([str(tmp_path / "bad.json"), "--out", str(tmp_path / "report")], capsys)
    assert not (tmp_path / "report").exists()


def test_a_missing_file_and_one_given_twice_are_named(files, tmp_path, capsys):
    assert "nowhere.json" in refusal(["nowhere.json", "--out", str(tmp_path / "report")], capsys)
    assert "given twice" in refusal([files[0], files[0], "--out", str(tmp_path / "report")], capsys)
