"""Several trainings, one model: a student of their average, and no figures on whom its parents have seen."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from slices import write_data_set, write_persons
from tiny import TINY, save_even_model, tiny_config
from torch.nn import functional as F
from transformers import Trainer

from modeling_unet import UNetConfig, UNetForSemanticSegmentation, UNetImageProcessor
from modeling_unet.provenance import weights_hash
from train.__main__ import main
from train.commands.ensemble import defaults, members_of
from train.data.folds import split_fold
from train.data.slices import DataArguments, load_slices
from train.files import save_model, write_json
from train.fitting.earlier.teachers import Teachers
from train.fitting.options import parse_fit
from train.fitting.trainer import EpochMeans, SegmentationTrainer


pytestmark = pytest.mark.usefixtures("undrawn")

SIDE = 32
SLICES = 20
SCHEDULE = ["--max_steps", "2", "--per_device_train_batch_size", "4", "--bf16", "false", "--disable_tqdm", "true"]
SCHEDULE += ["--dataloader_num_workers", "0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[str]:
    folder = write_data_set(tmp_path_factory.mktemp("data") / "slices", count=SLICES)
    persons = write_persons(folder / "persons.csv", [f"p{number // 2}" for number in range(SLICES)])
    return ["--data_dir", str(folder), "--persons", str(persons)]


def save_member(folder: Path, data: list[str], fold: int, seed: int) -> Path:
    """An untrained network with the record of a training that left out a fold."""
    torch.manual_seed(seed)
    config = UNetConfig.resnet34(**TINY)
    save_model(UNetForSemanticSegmentation(config), UNetImageProcessor(size={"longest_edge": SIDE}), folder)
    training, _ = split_fold(load_slices(DataArguments(data[1], persons=data[3])), fold)
    recipe = {"architecture": "resnet34", "config": TINY, "image_size": SIDE, "learning_rate": 0.01}
    seen = " ".join(digest[:8] for digest in training["mask_sha256"])
    write_json(folder / "training.json", {"fold": fold, "recipe": recipe, "trained_on": seen, "looks": ""})
    return folder


@pytest.fixture(scope="module")
def crossed(data, tmp_path_factory) -> Path:
    """The folder of a cross-validation of two folds of five."""
    folder = tmp_path_factory.mktemp("cv")
    for fold in (0, 1):
        save_member(folder / f"fold-{fold}", data, fold, seed=fold)
    return folder


@pytest.fixture(scope="module")
def seeds(data, tmp_path_factory) -> list[str]:
    """Two trainings that left out the same fold."""
    folder = tmp_path_factory.mktemp("seeds")
    return [str(save_member(folder / str(seed), data, 2, seed)) for seed in (3, 4)]


@pytest.mark.slow
def test_a_student_of_all_folds_has_seen_everybody_and_gets_no_figures(crossed, data, tmp_path, capsys):
    out = tmp_path / "student"
    assert main(["ensemble", str(crossed), *data, "--output_dir", str(out), *SCHEDULE]) == 0
    record = json.loads((out / "training.json").read_text())
    assert record["fold"] is None and record["recipe"]["learning_rate"] == 0.01
    assert [teacher["fold"] for teacher in record["teachers"]] == [0, 1]
    assert record["teachers"][1]["sha256"] == weights_hash(crossed / "fold-1")
    assert "there is nobody left there on whom it could be scored, and no figures are given" in capsys.readouterr().out
    assert not (out / "evaluation.json").exists()
    assert main(["evaluate", *data, "--model", str(out), "--split", "train"]) == 0
    assert str(crossed) not in json.dumps(record)


@pytest.mark.slow
def test_a_student_of_one_fold_leaves_it_out_and_is_scored_there(seeds, data, tmp_path, capsys):
    out = tmp_path / "student"
    assert main(["ensemble", *seeds, *data, "--output_dir", str(out), *SCHEDULE]) == 0
    assert json.loads((out / "training.json").read_text())["fold"] == 2
    assert "no figures" not in capsys.readouterr().out
    output = tmp_path / "evaluation.json"
    assert main(["evaluate", *data, "--model", str(out), "--fold", "2", "--output", str(output)]) == 0
    assert json.loads(output.read_text())["seen_in_training"] is False


def test_a_cross_validation_that_is_not_finished_is_no_ensemble(crossed, data, tmp_path, capsys):
    shutil.copytree(crossed, tmp_path / "cv")
    write_json(tmp_path / "cv" / "cv.json", {"options": []})
    assert main(["ensemble", str(tmp_path / "cv"), *data, "--output_dir", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "cv is a cross-validation that is not finished (2 folds are trained); the same cv command goes on" in error
    write_json(tmp_path / "cv" / "evaluation.json", {})
    assert len(members_of(str(tmp_path / "cv"))) == 2


def test_a_teacher_that_knows_who_validates_is_refused(crossed, data, tmp_path, capsys):
    command = ["ensemble", str(crossed), *data, "--fold", "0", "--output_dir", str(tmp_path / "out"), *SCHEDULE]
    assert main(command) == 1
    assert "fold-1 was trained on persons of fold 0; take teachers that left this fold out" in capsys.readouterr().err


@pytest.mark.slow
def test_who_was_seen_by_a_teacher_was_seen_by_the_student(crossed, data, tmp_path):
    out = tmp_path / "student"
    options = [*data, "--fold", "0", "--teachers", str(crossed / "fold-0"), "--output_dir", str(out), *SCHEDULE]
    assert main(["fit", "--recipe", str(crossed / "fold-0" / "training.json"), *options]) == 0
    first, second = (json.loads((run / "training.json").read_text()) for run in (crossed / "fold-0", out))
    assert {*first["trained_on"].split()} <= {*second["trained_on"].split()}


def test_one_model_is_no_ensemble_and_the_runs_come_first(seeds, data, tmp_path, capsys):
    assert main(["ensemble", seeds[0], *data, "--output_dir", str(tmp_path / "out")]) == 1
    assert "is one model; an ensemble needs at least two." in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["ensemble", *data, *seeds])
    assert "RUN" in capsys.readouterr().err


def test_what_the_options_say_is_not_taken_from_the_members(crossed, seeds):
    assert defaults(seeds, []) == ["--recipe", f"{seeds[0]}/training.json", "--fold", "2"]
    assert defaults(seeds, ["--recipe=fast-cpu", "--all_persons", "true"]) == []
    assert defaults(members_of(str(crossed)), ["--recipe", "default"]) == ["--all_persons", "true"]


# The loss


@pytest.fixture
def even(tmp_path) -> str:
    return str(save_even_model(tmp_path / "even"))


def test_the_aim_is_the_mean_of_the_teachers_and_padding_does_not_count(even, tmp_path):
    student = UNetForSemanticSegmentation(tiny_config())
    processor = UNetImageProcessor(size={"longest_edge": SIDE})
    teachers = Teachers([even, even], student, processor, 0.5)
    with torch.no_grad():
        teachers.networks[1].head.bias.fill_(-1.0)
    aim = torch.sigmoid(torch.tensor([2.0, -1.0])).mean()
    logits = torch.randn(2, 2, SIDE, SIDE, requires_grad=True)
    labels = torch.zeros(2, SIDE, SIDE, dtype=torch.long)
    labels[:, 10:] = 255
    loss = teachers.loss(logits, torch.zeros(2, 1, SIDE, SIDE), labels, 255)
    z = (logits[:, 1] - logits[:, 0])[:, :10]
    expected = F.binary_cross_entropy_with_logits(z, aim.expand_as(z))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert not logits.grad[:, :, 10:].any() and logits.grad[:, :, :10].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--teacher_share", "0.7"], r"^--teacher_share is 0\.7, of --teachers; give them too, or leave it out\.$"),
        (
            ["--teachers", "A", "--teacher_share", "0"],
            r"^--teacher_share is 0\.0; it must be above 0, and 1 at most\.$",
        ),
        (
            ["--teachers", "A", "--teacher_share", "1.1"],
            r"^--teacher_share is 1\.1; it must be above 0, and 1 at most\.$",
        ),
    ],
)
def test_the_share_of_the_teachers(options, message):
    start = ["--data_dir", "D", "--output_dir", "R", "--fold", "0"]
    assert parse_fit([*start, "--teachers", "A"]).run.teacher_share == 0.5
    assert parse_fit([*start, "--teachers", "A", "--teacher_share", "1"]).run.teacher_share == 1
    assert parse_fit(start).run.teacher_share is None
    with pytest.raises(ValueError, match=message):
        parse_fit([*start, *options])


def test_the_masks_have_the_share_that_the_teachers_leave(even, monkeypatch):
    student = UNetForSemanticSegmentation(tiny_config()).train()
    batch = {"pixel_values": torch.zeros(2, 1, SIDE, SIDE), "labels": torch.ones(2, SIDE, SIDE, dtype=torch.long)}
    outputs = student(**batch)
    trainer = object.__new__(SegmentationTrainer)
    trainer.args, trainer.model = SimpleNamespace(freeze_encoder=False), student
    trainer.teachers = Teachers([even], student, UNetImageProcessor(size={"longest_edge": SIDE}), 0.7)
    trainer.epoch_means = EpochMeans(torch.device("cpu"))
    monkeypatch.setattr(Trainer, "compute_loss", lambda *_: (outputs.loss, outputs))
    aim = trainer.teachers.loss(outputs.logits, batch["pixel_values"], batch["labels"], 255)
    torch.testing.assert_close(trainer.compute_loss(student, batch), 0.3 * outputs.loss + 0.7 * aim)
    student.eval()
    torch.testing.assert_close(trainer.compute_loss(student, batch), outputs.loss)


def test_a_teacher_of_another_size_is_named(even):
    student, processor = UNetForSemanticSegmentation(tiny_config()), UNetImageProcessor(size={"longest_edge": 64})
    with pytest.raises(ValueError, match=r"--teachers .*even has image_size 32, and the new network 64\."):
        Teachers([even], student, processor, 0.5)
