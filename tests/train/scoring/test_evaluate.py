"""`python -m train evaluate`, with a stand-in for the network that calls bright pixels tumour."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from slices import write_data_set, write_persons
from tiny import tiny_config

from modeling_unet import Segmentation, TumorSegmenter, UNetForSemanticSegmentation, UNetImageProcessor, read_image
from modeling_unet.comparison import Overlap
from modeling_unet.overlay import to_display
from train.__main__ import main
from train.data.slices import DataArguments, load_slices
from train.files import save_model, write_json
from train.record import RECORD_FILE
from train.scoring import evaluation
from train.scoring.aggregate import figures_of
from train.scoring.evaluation import EvaluateArguments, evaluate, score_slice
from train.scoring.metrics import LesionCounts
from train.scoring.reliability import Reliability
from train.scoring.tables import describe_detection, false_alarm_table, overlap_table


class BrightPixels:
    """Takes the place of a `TumorSegmenter`: the brighter a pixel, the more it is tumour; the drawn ones are at 190."""

    class_names = ("tumor",)
    channel_names = ()

    def batch(self, images, batch_size):
        for image in map(read_image, images):
            yield Segmentation(to_display(image), np.clip((image - 40.0) / 200, 0, 1).astype(np.float32))


@pytest.fixture(autouse=True)
def bright_pixels(monkeypatch):
    monkeypatch.setattr(TumorSegmenter, "from_pretrained", lambda *_, **__: BrightPixels())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = write_data_set(tmp_path_factory.mktemp("data") / "slices", count=20)
    write_persons(folder / "persons.csv", [f"p{number // 2}" for number in range(20)])
    return folder


@pytest.fixture
def negatives(tmp_path) -> Path:
    """Two slices of one person and one of another: nothing bright, a blot of 60 px, a blot of 20 px."""
    folder = tmp_path / "negatives"
    (folder / "more").mkdir(parents=True)
    image = np.full((64, 64), 60, np.uint8)
    for name, area in (("a_sub-01_ax_1", 0), ("more/a_sub-01_ax_2", 60), ("more/a_sub-02_ax_1", 20)):
        image[:2] = 60
        image[:2, : area // 2] = 250
        cv2.imwrite(str(folder / f"{name}.png"), image)
    (folder / "README.txt").write_text("not an image")
    return folder


def options(folder: Path, **more) -> list[str]:
    values = {"model": "any", "data_dir": folder, "persons": folder / "persons.csv", "fold": 0, **more}
    return ["evaluate", *(str(text) for name, value in values.items() for text in (f"--{name}", value))]


def run(folder: Path, **more) -> dict:
    values = {"model": "any", "data_dir": str(folder), "persons": str(folder / "persons.csv"), "fold": 0, **more}
    model, fold = values.pop("model"), values.pop("fold")
    return evaluate(EvaluateArguments(**values, model=[model], fold=None if fold is None else [fold]))


# Rows


@pytest.mark.parametrize("quality", ["fast", "best"])
def test_figures_say_how_the_network_looked(quality, folder, monkeypatch):
    asked = {}
    monkeypatch.setattr(TumorSegmenter, "from_pretrained", lambda *_, **how: asked.update(how) or BrightPixels())
    assert run(folder, quality=quality)["quality"] == asked["quality"] == quality
    assert asked["optimize"] == "none"


def test_a_row_by_hand():
    """Truth: a square of 4 × 4 px. Prediction: the same and a row of 12 px far below."""
    true = np.zeros((64, 64), bool)
    true[10:14, 10:14] = True
    probability = np.where(true, np.float32(0.8), 0)
    probability[50, 10:22] = 0.6
    row = score_slice(probability, true)
    assert (row["height"], row["width"]) == (64, 64)
    assert (row["intersection"], row["predicted"], row["true"]) == (16, 28, 16)
    assert row["dice"] == pytest.approx(32 / 44)
    assert row["nsd"] == pytest.approx(24 / 36)
    # 24 px of outline at 0 and the row of 12: from 37 down and 0 … 8 across; place 33.25 of 0 … 35 among the far ones.
    far = [np.hypot(37, across) for across in (0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8)]
    assert row["hd95"] == pytest.approx(far[9] + 0.25 * (far[10] - far[9]), rel=1e-6)
    assert row["lesions"] == {"true": 1, "hit": 1, "predicted": 2, "false": 1, "largest_predicted": 16}
    # A margin of 15 px on the 512-px grid is 1.9 here: the square and the 20 px around it, all of them right.
    assert sum(row["reliability"]["pixels"]) == 16 + 20
    assert row["reliability"]["squared_error"] == pytest.approx(16 * 0.04, abs=1e-3)
    assert row["threshold_dice"][9] == pytest.approx(row["dice"], abs=1e-6)  # at 0.5
    assert row["threshold_dice"][12] == pytest.approx(1)  # at 0.65


def test_an_empty_prediction_is_undefined_in_distance_and_zero_in_everything_else():
    true = np.ones((32, 32), bool)
    row = score_slice(np.zeros((32, 32), np.float32), true)
    assert (row["dice"], row["nsd"], row["hd95"], row["lesions"]["hit"]) == (0, 0, None, 0)


def test_every_slice_of_the_fold_is_scored_against_its_mask_as_it_lies_on_disk(folder):
    report = run(folder)
    assert len(report["per_slice"]) == 4 and report["all"]["persons"] == 2
    for row in report["per_slice"]:
        true = cv2.imread(str(folder / "masks" / f"{row['slice']}.png"), cv2.IMREAD_UNCHANGED) > 0
        predicted = cv2.imread(str(folder / "images" / f"{row['slice']}.png"), cv2.IMREAD_UNCHANGED) > 140
        assert row["dice"] == pytest.approx(2 * (predicted & true).sum() / (predicted.sum() + true.sum()))
        assert (row["tumor_type"], row["plane"]) == ("unknown", "unknown")


def test_models_of_several_folds_are_scored_together(folder, monkeypatch):
    """Each on the fold that it left out, all slices in one report; the data set is read once."""
    parts = [run(folder, fold=fold) for fold in (1, 3)]
    read = []
    monkeypatch.setattr(evaluation, "load_slices", lambda given: read.append(given) or load_slices(given))
    how = {"data_dir": str(folder), "persons": str(folder / "persons.csv"), "model": ["any", "other"], "fold": [1, 3]}
    together = evaluate(EvaluateArguments(**how))
    assert together["per_slice"] == [row for part in parts for row in part["per_slice"]]
    assert (together["fold"], together["model"]) == ([1, 3], "any, other")
    assert [row["fold"] for row in together["by_fold"]] == [1, 3]
    assert len(read) == 1


def test_models_of_other_folds_are_not_scored_together(folder, tmp_path):
    for name, folds in (("five", 5), ("four", 4)):
        write_json(tmp_path / name / RECORD_FILE, {"fold": 0, "num_folds": folds, "official_folds": False})
    models = [str(tmp_path / name) for name in ("five", "four")]
    with pytest.raises(ValueError, match=r"--num_folds is 5, and .*four was trained with 4"):
        evaluate(
            EvaluateArguments(data_dir=str(folder), persons=str(folder / "persons.csv"), model=models, fold=[0, 1])
        )


@pytest.mark.parametrize(("models", "folds"), [(2, [0]), (2, [1, 1]), (1, [0, 1]), (2, None)])
def test_every_model_has_a_fold_of_its_own(models, folds, folder):
    with pytest.raises(ValueError, match="belong together, each fold once"):
        EvaluateArguments(data_dir=str(folder), model=["any"] * models, fold=folds)


# Figures


def row(name: str, person: str, counts: tuple[int, int, int], **changes) -> dict:
    """A row of a 512-px slice whose surface metrics, lesions and probabilities say nothing."""
    overlap, empty = Overlap(*counts), [0] * 14
    return {
        "slice": name,
        "person_id": person,
        "tumor_type": "glioma",
        "plane": "axial",
        "height": 512,
        "width": 512,
        **asdict(overlap),
        "dice": overlap.dice,
        "nsd": 0.5,
        "hd95": 1.0,
        "lesions": asdict(LesionCounts(true=1, hit=1, predicted=1, false=0, largest_predicted=overlap.predicted)),
        "reliability": asdict(Reliability((*empty, 4), (*empty, 4.0), (*empty, 3), 1.0)),
        "threshold_dice": [0.5] * 19,
        **changes,
    }


def negative(name: str, person: str, largest: int) -> dict:
    lesions = {"true": 0, "hit": 0, "predicted": int(largest >= 10), "false": 0, "largest_predicted": largest}
    return {"slice": name, "person_id": person, "predicted": largest, "true": 0, "lesions": lesions}


def test_figures_by_hand():
    missed = {"true": 2, "hit": 0, "predicted": 0, "false": 0, "largest_predicted": 0}
    made_up = {"true": 1, "hit": 1, "predicted": 3, "false": 2, "largest_predicted": 90}
    rows = [
        row("1", "a", (100, 100, 100), lesions=made_up, hd95=3.0),
        row("2", "a", (0, 0, 50), nsd=0.0, hd95=None, lesions=missed, tumor_type="meningioma"),
        row("3", "b", (60, 90, 60), nsd=1.0, plane="coronal", threshold_dice=[0.0] * 18 + [1.0]),
    ]
    figures = figures_of(rows)
    everything = figures["all"]
    assert everything["slice_dice"] == pytest.approx((1 + 0 + 0.8) / 3)
    assert everything["person_dice"] == pytest.approx((0.5 + 0.8) / 2)
    assert everything["nsd"] == pytest.approx(0.5)
    assert (everything["hd95_median"], everything["hd95_undefined"]) == (2.0, 1)
    assert everything["hd95_median_diagonal"] == 3.0
    assert everything["lesion_sensitivity"] == pytest.approx(2 / 4)
    assert everything["false_lesions_per_slice"] == pytest.approx(2 / 3)
    assert (everything["ece"], everything["brier"]) == (pytest.approx(1 / 4), pytest.approx(1 / 4))
    assert {name: part["slices"] for name, part in figures["by_tumor_type"].items()} == {"glioma": 2, "meningioma": 1}
    assert {name: part["slices"] for name, part in figures["by_plane"].items()} == {"axial": 2, "coronal": 1}
    assert figures["thresholds"][0] == {"threshold": 0.05, "slice_dice": pytest.approx(1 / 3)}
    assert figures["thresholds"][-1] == {"threshold": 0.95, "slice_dice": pytest.approx(2 / 3)}
    assert figures["reliability"][-1]["tumor_share"] == pytest.approx(3 / 4)
    assert (figures["detection"]["slices_with_tumor"], figures["detection"]["slices_without_tumor"]) == (3, 0)
    assert figures["detection"]["sensitivity"] == pytest.approx(2 / 3)
    assert figures["detection"]["found_elsewhere"] == 0
    assert figures["detection"]["specificity"] is None
    assert figures["false_alarms"] == []


def test_quartiles_go_by_area_on_one_grid():
    # 800 px of a 256-px slice are 3200 on the 512-px grid: the largest tumour of the eight.
    areas = [800, 100, 200, 300, 400, 500, 600, 700]
    sides = [{"height": 256, "width": 256}] + [{}] * 7
    rows = [row(str(area), "a", (1, 1, area), **side) for area, side in zip(areas, sides, strict=True)]
    quartiles = figures_of([*rows, row("none", "a", (0, 5, 0))])["by_lesion_size"]
    limits = {name: (part["smallest_area"], part["largest_area"]) for name, part in quartiles.items()}
    assert limits == {"Q1": (100, 200), "Q2": (300, 400), "Q3": (500, 600), "Q4": (700, 3200)}
    assert [part["slices"] for part in quartiles.values()] == [2, 2, 2, 2]


def test_negatives_count_as_alarms_and_for_specificity_but_in_no_average():
    rows = [row("1", "a", (100, 100, 100))]
    negatives = [negative("n1", "x", 0), negative("n2", "x", 60), negative("n3", "y", 20), negative("n4", "y", 9)]
    figures = figures_of(rows, negatives)
    assert figures["all"]["slice_dice"] == 1 and figures["all"]["slices"] == 1
    assert figures["detection"]["specificity"] == pytest.approx(2 / 4)
    small, large = figures["false_alarms"]
    assert (small["min_area_px"], small["slice_rate"], small["person_rate"]) == (10, 0.5, 0.5)
    assert (large["min_area_px"], large["slice_rate"], large["person_rate"]) == (50, 0.25, 0.25)
    assert (large["slices"], large["persons"]) == (4, 2)
    assert (large["lowest_person_rate"], large["highest_person_rate"]) == (0, 0.5)


def test_a_lesion_beside_the_tumor_is_found_elsewhere():
    beside = {"true": 1, "hit": 0, "predicted": 1, "false": 1, "largest_predicted": 50}
    figures = figures_of([row("1", "a", (0, 50, 100), lesions=beside), row("2", "a", (100, 100, 100))])
    assert (figures["detection"]["sensitivity"], figures["detection"]["found_elsewhere"]) == (1, 1)
    assert "on 1 of them all that is found lies elsewhere" in describe_detection(figures["detection"])


def test_five_persons_are_too_few_for_an_interval():
    rows = [row(str(number), f"person {number}", (100, 100, 100)) for number in range(6)]
    assert "1.000–1.000" in overlap_table({"all": figures_of(rows)["all"]})
    assert "1.000–1.000" not in overlap_table({"all": figures_of(rows[:5])["all"]})
    alarms = [negative(f"n{number}", f"person {number}", 60 * (number % 2)) for number in range(5)]
    assert "| 40.0 % | – | 40.0 % | – | 0.0–100.0 % |" in false_alarm_table(figures_of(rows, alarms)["false_alarms"])


def test_rows_of_two_folds_together_give_the_figures_of_both():
    first, second = [row("1", "a", (100, 100, 100))], [row("2", "b", (0, 10, 10)), row("3", "c", (5, 10, 10))]
    assert figures_of(first + second)["all"]["slice_dice"] == pytest.approx((1 + 0 + 0.5) / 3)


# Slices without tumour


def test_negatives_are_found_in_sub_folders_and_belong_to_subjects(folder, negatives):
    report = run(folder, negatives=str(negatives))
    found = {row["slice"]: (row["person_id"], row["lesions"]["largest_predicted"]) for row in report["per_negative"]}
    assert found["a_sub-01_ax_1"] == ("a_sub-01", 0)
    assert found["a_sub-01_ax_2"] == ("a_sub-01", 60)
    assert found["a_sub-02_ax_1"] == ("a_sub-02", 20)
    assert [alarms["slice_rate"] for alarms in report["false_alarms"]] == pytest.approx([2 / 3, 1 / 3])
    assert [alarms["person_rate"] for alarms in report["false_alarms"]] == pytest.approx([3 / 4, 1 / 4])
    assert report["detection"]["slices_without_tumor"] == 3


def test_the_person_of_a_negative_follows_the_pattern_else_the_name(folder, negatives):
    rows = run(folder, negatives=str(negatives), negatives_person_pattern="[a-z]_")["per_negative"]
    assert {row["person_id"] for row in rows} == {"a_"}
    rows = run(folder, negatives=str(negatives), negatives_person_pattern="patient-[0-9]+")["per_negative"]
    assert [row["person_id"] for row in rows] == [row["slice"] for row in rows]


def test_an_unreadable_negative_is_named_before_the_fold_is_scored(folder, negatives, capsys):
    (negatives / "broken.png").write_bytes(b"no picture")
    assert main(options(folder, negatives=negatives)) == 1
    error = capsys.readouterr().err
    assert "broken.png" in error and "Scoring:" not in error


# The command


def test_the_tables_and_the_file_tell_the_same(folder, negatives, tmp_path, capsys):
    path = tmp_path / "results" / "fold0.json"
    assert main(options(folder, negatives=negatives, output=path)) == 0
    written = json.loads(path.read_text())
    printed = capsys.readouterr().out
    assert printed.startswith("|  | slices | persons | slice_dice | 95 % interval | person_dice | pooled_dice |")
    assert f"| all | 4 | 2 | {written['all']['slice_dice']:.4f} |" in printed
    assert f"| all | {written['all']['nsd']:.4f} |" in printed
    assert "Sensitivity 100.0 % on 4 slices with one (on 0 of them all that is found lies elsewhere)" in printed
    assert "specificity 33.3 % on 3 without." in printed
    assert "| a lesion of 50 px or more | 3 | 1 | 2 | 33.3 % |" in printed
    assert figures_of(written["per_slice"], written["per_negative"]) == {
        name: written[name] for name in figures_of(written["per_slice"])
    }
    assert (written["fold"], written["seen_in_training"], written["threshold"]) == (0, None, 0.5)
    assert [entry.name for entry in path.parent.iterdir()] == ["fold0.json"]


def test_every_row_has_a_line_of_its_own(folder, tmp_path):
    path = tmp_path / "fold0.json"
    main(options(folder, output=path))
    rows = [line for line in path.read_text().splitlines() if line.startswith('    {"slice": ')]
    assert len(rows) == 4 and all(json.loads(line.rstrip(","))["person_id"] for line in rows)
    main(options(folder, output=path))
    assert [line for line in path.read_text().splitlines() if line.startswith('    {"slice": ')] == rows


def test_without_output_nothing_is_written(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(options(folder, model=tmp_path)) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("held_out", [True, False, None])
def test_a_model_that_has_seen_a_slice_is_told_by_its_record(held_out, folder, tmp_path, caplog):
    """Whatever fold and persons were given when it was trained."""
    scored = [row["slice"] for row in run(folder)["per_slice"]]
    slices = load_slices(DataArguments(str(folder), persons=str(folder / "persons.csv")))
    masks = dict(zip(slices["slice"], slices["mask_sha256"], strict=True))
    trained_on = [digest[:8] for name, digest in masks.items() if name not in scored]
    if held_out is False:
        trained_on.append(masks[scored[0]][:8])
    if held_out is not None:
        write_json(tmp_path / "training.json", {"trained_on": " ".join(trained_on)})
    report = run(folder, model=str(tmp_path))
    assert report["seen_in_training"] is (None if held_out is None else not held_out)
    assert ("This model was trained on" in caplog.text) is (held_out is False)


@pytest.mark.parametrize("side", [32, 40, 128])
def test_slices_that_were_trained_on_are_found_when_they_were_resized(side, folder, tmp_path, caplog):
    slices = load_slices(DataArguments(str(folder), persons=str(folder / "persons.csv")))
    record = {"trained_on": " ".join(slices["mask_sha256"]), "looks": " ".join(slices["look"])}
    write_json(tmp_path / "model" / "training.json", record)
    resized = tmp_path / "resized"
    for kind, method in (("images", cv2.INTER_AREA), ("masks", cv2.INTER_NEAREST)):
        (resized / kind).mkdir(parents=True)
        for path in (folder / kind).iterdir():
            picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            cv2.imwrite(str(resized / kind / path.name), cv2.resize(picture, (side, side), interpolation=method))
    write_persons(resized / "persons.csv", [f"p{number // 2}" for number in range(20)])
    report = run(resized, model=str(tmp_path / "model"), fold=None, all_persons=True)
    assert report["seen_in_training"] is True
    found = re.search(r"trained on (\d+) of these 20 slices \((\d+) of them resized", caplog.text)
    assert found[1] == found[2] and int(found[1]) > 12
    caplog.clear()
    write_json(tmp_path / "model" / "training.json", {"trained_on": record["trained_on"]})  # of an older version
    assert run(resized, model=str(tmp_path / "model"), fold=None, all_persons=True)["seen_in_training"] is False


# Which slices are scored


def test_the_folds_are_those_that_the_model_was_trained_with(folder, tmp_path):
    write_json(tmp_path / "training.json", {"fold": 1, "num_folds": 3, "official_folds": False, "trained_on": ""})
    (scored, same, five) = (
        [row["slice"] for row in run(folder, fold=1, **more)["per_slice"]]
        for more in ({"model": str(tmp_path)}, {"num_folds": 3}, {})
    )
    assert scored == same != five
    write_json(tmp_path / "training.json", {"fold": 1, "num_folds": None, "official_folds": False, "trained_on": ""})
    assert [row["slice"] for row in run(folder, fold=1, model=str(tmp_path))["per_slice"]] == five


@pytest.mark.parametrize(
    ("trained_with", "more", "message"),
    [
        ({"num_folds": 3}, {"num_folds": 5}, "--num_folds is 5, and {} was trained with 3, so its folds are others"),
        ({"num_folds": None}, {"num_folds": 5}, "--num_folds is 5, and {} was trained without it"),
        ({"official_folds": True}, {}, "--official_folds are those of the public data set; leave --persons"),
    ],
)
def test_other_folds_than_those_of_the_training_are_refused(trained_with, more, message, folder, tmp_path, capsys):
    write_json(tmp_path / "training.json", {"fold": 0, **trained_with})
    assert main(options(folder, model=tmp_path, **more)) == 1
    error = capsys.readouterr().err
    assert message.format(tmp_path) in error and "Traceback" not in error


def test_of_a_model_trained_on_everybody_no_fold_was_left_out(folder, tmp_path):
    write_json(tmp_path / "training.json", {"fold": None, "num_folds": None, "official_folds": False})
    assert run(folder, model=str(tmp_path), num_folds=3)["fold"] == 0


@pytest.mark.parametrize("count", [1, 2, 6])
def test_a_whole_folder_is_scored_however_few_its_persons_are(count, folder, tmp_path, capsys):
    persons = write_persons(tmp_path / "persons.csv", [f"p{number % count}" for number in range(20)])
    where = ("--data_dir", str(folder), "--persons", str(persons), "--model", "any", "--all_persons")
    assert main(["evaluate", *where, "--output", str(tmp_path / "all.json")]) == 0
    printed, report = capsys.readouterr().out, json.loads((tmp_path / "all.json").read_text())
    assert (report["fold"], len(report["per_slice"]), report["all"]["persons"]) == ("all persons", 20, count)
    (row,) = [line for line in printed.splitlines() if line.startswith(f"| all | 20 | {count} |")]
    assert (" | – | " in row) is (count < 6)
    assert ("fewer than 6 persons are too few for one" in printed) is (count < 6)


def test_the_slices_of_a_split_are_scored(folder, tmp_path, capsys):
    persons = tmp_path / "persons.csv"
    lines = [f"{number},p{number},{'test' if number > 17 else ''}" for number in range(1, 21)]
    persons.write_text("\n".join(["slice,person_id,split", *lines]))
    report = run(folder, persons=str(persons), fold=None, split="test")
    assert (report["fold"], [row["slice"] for row in report["per_slice"]]) == ("test", ["18", "19", "20"])
    everything = run(folder, persons=str(persons), fold=None, all_persons=True)
    assert len(everything["per_slice"]) == 20
    where = ("--data_dir", str(folder), "--persons", str(persons), "--model", "any")
    assert main(["evaluate", *where, "--split", "example"]) == 1
    assert "--split is example, and no slice of" in capsys.readouterr().err


@pytest.mark.parametrize("which", [("--fold", "0", "--all_persons"), ("--split", "test", "--fold", "1")])
def test_what_is_scored_is_said_once(which, folder, capsys):
    assert main(["evaluate", "--data_dir", str(folder), "--model", "any", *which]) == 1
    assert "Give one of --fold K" in capsys.readouterr().err


def test_without_a_word_every_slice_is_scored_by_a_model_that_has_seen_none(folder, tmp_path, capsys):
    where = ("--data_dir", str(folder), "--model", str(tmp_path), "--output", str(tmp_path / "all.json"))
    write_json(tmp_path / "training.json", {"fold": 0, "trained_on": "00000000"})
    assert main(["evaluate", *where]) == 0
    report = json.loads((tmp_path / "all.json").read_text())
    assert (report["fold"], len(report["per_slice"]), report["seen_in_training"]) == ("all persons", 20, False)
    digest = load_slices(DataArguments(str(folder)))["mask_sha256"][3]
    write_json(tmp_path / "training.json", {"fold": 0, "trained_on": digest})
    assert main(["evaluate", *where]) == 1
    assert "was trained on some of these slices; give --fold K" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
def test_what_a_model_of_several_classes_lacks_is_said(command, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.undo()
    several = UNetForSemanticSegmentation(tiny_config(num_labels=4))
    save_model(several, UNetImageProcessor(size={"longest_edge": 32}), tmp_path / "model")
    output = ["--output_dir", str(tmp_path / "out")] if command == "calibrate" else []
    capsys.readouterr()  # the bar of what was saved
    assert main([command, *options(folder, model=tmp_path / "model")[1:], *output]) == 1
    error = capsys.readouterr().err
    assert "tells LABEL_1, LABEL_2, LABEL_3 apart; say which values of the masks these have, by --classes" in error
    assert "Traceback" not in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"negatives": "nowhere"}, "--negatives nowhere is not there"),
        ({"negatives_person_pattern": "sub-("}, "--negatives_person_pattern sub-( is not a regular expression"),
        ({"fold": 9}, "There is no fold 9"),
        ({"output": "."}, "--output . is a folder"),
    ],
)
def test_bad_options_are_one_sentence(changes, message, folder, capsys):
    assert main(options(folder, **changes)) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_network_is_scored_like_the_stand_in(folder, tmp_path, monkeypatch):
    monkeypatch.undo()
    save_model(UNetForSemanticSegmentation(tiny_config()), UNetImageProcessor(size={"longest_edge": 32}), tmp_path)
    report = run(folder, model=str(tmp_path))
    segmenter = TumorSegmenter.from_pretrained(tmp_path, optimize="none")
    for row in report["per_slice"]:
        assert row["predicted"] == segmenter(folder / "images" / f"{row['slice']}.png").area_px
