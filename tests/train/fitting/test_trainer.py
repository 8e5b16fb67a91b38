"""`python -m train fit` and what belongs to it, on slices and networks small enough for a test."""

import errno
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fresh
import pytest
import torch
from safetensors.torch import load_file
from slices import write_data_set, write_persons
from surroundings import ROOT, draw_nothing
from tiny import TINY
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from modeling_unet import TumorSegmenter, UNetConfig, UNetForSemanticSegmentation, UNetImageProcessor, read_mask
from modeling_unet.comparison import Overlap
from modeling_unet.provenance import weights_hash
from train.__main__ import main
from train.data.slices import DataArguments, load_slices
from train.files import read_json, save_model, write_json
from train.fitting import trainer
from train.fitting.ema import ExponentialMovingAverage
from train.fitting.options import FitArguments, parse_fit
from train.fitting.run import _commit, _finished_before, _recipe, _warn_of_another_recipe
from train.fitting.trainer import SegmentationTrainer
from train.record import is_seen_in_training


# Batch statistics depend on how a batch is divided; these do not.
WITHOUT_BATCH_STATISTICS = ("--config", json.dumps({**TINY, "norm": "group", "norm_groups": 2}))
EVERY_STEP = ("--logging_steps", "1", "--lr_scheduler_type", "constant", "--warmup_steps", "0")
# Runs `python -m train`, and is killed as `kill -9` does in the middle of writing the second checkpoint.
KILLED_WHILE_WRITING = """
import os, signal, sys
from train.fitting import trainer
from train.__main__ import main

def seal(checkpoint):
    if list(checkpoint.parent.glob("checkpoint-*/checksums.json")):
        os.kill(os.getpid(), signal.SIGKILL)
    whole(checkpoint)

whole, trainer.seal = trainer.seal, seal
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = write_data_set(tmp_path_factory.mktemp("data") / "slices", count=20)
    write_persons(folder / "persons.csv", [f"p{number // 2}" for number in range(20)])
    return folder


def fit_options(folder: Path, output: Path, *options: str) -> list[str]:
    return [
        *("fit", "--data_dir", str(folder), "--persons", str(folder / "persons.csv"), "--fold", "0"),
        *("--output_dir", str(output), "--architecture", "resnet34", "--config", json.dumps(TINY)),
        *("--image_size", "32", "--per_device_train_batch_size", "4", "--dataloader_num_workers", "0"),
        *("--disable_tqdm", "true", "--bf16", "false", *options),
    ]


def fit(folder: Path, output: Path, *options: str) -> int:
    return main(fit_options(folder, output, *options))


def log_of(run: Path, name: str = "loss") -> list[float]:
    newest = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    log = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    return [entry[name] for entry in log if name in entry]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("trained")
    schedule = ("--num_train_epochs", "24", "--learning_rate", "1e-2", "--ema_decay", "0.9", "--seed", "1")
    assert fit(folder, run, "--recipe", "fast-cpu", *schedule, "--save_strategy", "steps", "--save_steps", "90") == 0
    return run


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch):
    """The charts of the runs that tests share are drawn, as these are made before."""
    draw_nothing(monkeypatch)


# What a run leaves


def test_the_folder_loads_by_every_route(trained):
    assert isinstance(AutoModelForSemanticSegmentation.from_pretrained(trained), UNetForSemanticSegmentation)
    assert isinstance(AutoImageProcessor.from_pretrained(trained), UNetImageProcessor)
    assert {"configuration_unet.py", "modeling_unet.py"} <= {path.name for path in trained.iterdir()}
    assert "AutoModel" in json.loads((trained / "config.json").read_text())["auto_map"]


def test_the_record_says_what_the_run_was(trained):
    record = json.loads((trained / "training.json").read_text())
    assert record["fold"] == 0 and record["training_slices"] == 16 and record["training_persons"] == 8
    assert record["recipe"]["learning_rate"] == 1e-2 and record["recipe"]["rotation"] == 20
    assert len(record["validation"]) == 24
    assert "slices" not in json.dumps(record["recipe"])  # the folder's name is nobody's business
    assert record["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", record["commit"])


def test_the_commit_is_that_of_the_code_wherever_one_stands(tmp_path, monkeypatch):
    expected = _commit()
    monkeypatch.chdir(tmp_path)
    assert _commit() == expected
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert _commit() is None


@pytest.mark.parametrize(
    ("recipe", "start"),
    [
        *((name, ()) for name in ("default", "notebook", "fast-cpu")),
        *((name, ("--init_from", "me/weights")) for name in ("fewer-alarms", "refine")),
    ],
    ids=["default", "notebook", "fast-cpu", "fewer-alarms", "refine"],
)
def test_the_record_repeats_the_run(recipe, start, folder, tmp_path):
    own = ["--num_train_epochs", "3", "--per_device_train_batch_size", "8", "--weight_decay", "0", "--seed", "7"]
    options = parse_fit([*fit_options(folder, tmp_path / "first")[1:], "--recipe", recipe, *start, *own])
    write_json(tmp_path / "training.json", {"recipe": _recipe(options)})
    data = fit_options(folder, tmp_path / "again")[1:9]
    again = parse_fit([*data, "--disable_tqdm", "true", "--recipe", str(tmp_path / "training.json")])
    assert replace(again.run, recipe=recipe) == options.run and again.augmentation == options.augmentation
    assert again.trainer.to_sanitized_dict() == options.trainer.to_sanitized_dict() | {
        "output_dir": str(tmp_path / "again")
    }


def test_curves_and_predictions_lie_beside_the_weights(trained):
    lines = (trained / "curves.csv").read_text().splitlines()
    assert lines[0].startswith("epoch,training_loss,training_dice,training_iou,validation_loss")
    assert len(lines) == 25 and all("" not in line.split(",") for line in lines)
    first, last = (dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in (lines[1], lines[-1]))
    assert float(last["training_dice"]) > float(first["training_dice"])
    for name in ("curves.png", "predictions.png"):
        assert (trained / name).read_bytes().startswith(b"\x89PNG")


def test_the_best_epoch_is_kept_apart(trained):
    dice = [
        entry["eval_dice_at_network_size"]
        for entry in json.loads((trained / "training.json").read_text())["validation"]
    ]
    assert dice.index(max(dice)) < len(dice) - 1  # else this would prove nothing
    best = TumorSegmenter.from_pretrained(trained / "best").model.state_dict()
    last = TumorSegmenter.from_pretrained(trained).model.state_dict()
    assert not all(torch.equal(best[name], last[name]) for name in best)


def test_no_pickle_lies_beside_the_weights(trained):
    assert not [path.name for path in trained.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert not list(trained.rglob("training_args.bin"))


def test_storing_weights_as_float16_costs_less_than_a_thousandth_of_dice(trained, folder):
    newest = max(trained.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    stored = TumorSegmenter.from_pretrained(trained)
    exact = TumorSegmenter.from_pretrained(trained)
    exact.model.load_state_dict(load_file(newest / "ema.safetensors"), strict=False)
    images = sorted((folder / "images").iterdir())
    masks = [read_mask(folder / "masks" / image.name) for image in images]
    dice = [
        sum(Overlap.of(found.mask, mask).dice for found, mask in zip(segmenter.batch(images), masks, strict=True))
        for segmenter in (stored, exact)
    ]
    assert abs(dice[0] - dice[1]) / len(images) < 0.001


def test_saved_weights_are_the_average(trained):
    newest = max(trained.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    files = (trained / "model.safetensors", newest / "ema.safetensors", newest / "model.safetensors")
    saved, average, raw = (load_file(path) for path in files)
    name = "unet.encoder.stem.0.weight"
    torch.testing.assert_close(saved[name], average[name].half())
    assert not torch.equal(saved[name], raw[name].half())


# All persons


@pytest.fixture(scope="module")
def on_all(folder, tmp_path_factory) -> Path:
    """Trained on every fold, with the calibration of a fold's model."""
    donor, run = tmp_path_factory.mktemp("donor"), tmp_path_factory.mktemp("on_all")
    write_json(donor / "training.json", {"calibration": {"scale": 0.5, "shift": 0.25}})
    write_json(donor / "evaluation.json", {"weights_sha256": "of the fold's model"})
    options = fit_options(folder, run, "--num_train_epochs", "2", "--calibration", str(donor))
    fold = options.index("--fold")
    assert main([*options[:fold], "--all_persons", "true", *options[fold + 2 :]]) == 0
    return run


def test_every_person_trains_and_nobody_validates(on_all):
    record = json.loads((on_all / "training.json").read_text())
    assert (record["fold"], record["training_slices"], record["training_persons"]) == (None, 20, 10)
    assert record["validation"] == [] and not (on_all / "best").exists()
    lines = (on_all / "curves.csv").read_text().splitlines()
    assert len(lines) == 3 and (on_all / "curves.png").is_file()


def test_the_calibration_of_a_fold_is_in_the_weights(on_all):
    newest = max(on_all.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    average, saved = load_file(newest / "ema.safetensors"), weights_of(on_all)
    torch.testing.assert_close(saved["head.weight"].float(), average["head.weight"] / 2, rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(saved["head.bias"].float(), average["head.bias"] / 2 + 0.25, rtol=2e-3, atol=1e-4)
    assert json.loads((on_all / "training.json").read_text())["calibration"] == {"scale": 0.5, "shift": 0.25}


def test_the_evaluation_of_a_fold_stands_for_the_weights(on_all):
    evaluation = json.loads((on_all / "evaluation.json").read_text())
    assert evaluation == {"weights_sha256": "of the fold's model", "stands_for": weights_hash(on_all)}


def test_a_calibration_of_another_recipe_is_said(folder, trained, tmp_path, caplog):
    record = json.loads((trained / "training.json").read_text())
    first = record["recipe"]
    second = {**first, "init_from": "RUN", "ema_warm_up": False}
    started = {"recipe": second, "started_from": {"recipe": first}}
    same = {**started, "recipe": {**second, "init_from": "ALL"}}
    write_json(tmp_path / "training.json", same)
    _warn_of_another_recipe(tmp_path, started)
    assert not caplog.text
    changed = {"recipe": {**second, "ema_warm_up": True}, "started_from": {"recipe": first, "canvases_sha256": "ab"}}
    write_json(tmp_path / "training.json", changed)
    _warn_of_another_recipe(tmp_path, started)
    assert "is of another recipe: ema_warm_up True, not False; canvases_sha256 ab, not None." in caplog.text


# Resuming


@pytest.fixture(scope="module")
def straight(folder, tmp_path_factory) -> Path:
    """Three epochs of four steps without a stop, with a checkpoint after every third step."""
    run = tmp_path_factory.mktemp("straight") / "run"
    fit(folder, run, "--num_train_epochs", "3", *EVERY_STEP, "--save_strategy", "steps", "--save_steps", "3")
    return run


def test_a_run_killed_while_it_writes_a_checkpoint_ends_like_one_that_never_was(folder, straight, tmp_path, caplog):
    options = ("--num_train_epochs", "3", *EVERY_STEP, "--save_strategy", "steps", "--save_steps", "3")
    killed = fresh.ours().run(KILLED_WHILE_WRITING, *fit_options(folder, tmp_path / "run", *options))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "run" / "model.safetensors").exists()
    with caplog.at_level(logging.INFO):
        assert fit(folder, tmp_path / "run", *options) == 0
    assert "checkpoint-6 is damaged" in caplog.text and "Resuming from" in caplog.text
    assert len(log_of(straight)) == 12 and log_of(tmp_path / "run") == log_of(straight)
    ours, theirs = weights_of(tmp_path / "run"), weights_of(straight)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_finished_run_is_left_as_it_is(straight, folder, caplog):
    before = {path: path.read_bytes() for path in straight.iterdir() if path.is_file()}
    with caplog.at_level(logging.INFO):
        fit(folder, straight, "--num_train_epochs", "3", *EVERY_STEP, "--save_strategy", "steps", "--save_steps", "3")
    assert "finished: nothing is left to do" in caplog.text
    assert {path: path.read_bytes() for path in straight.iterdir() if path.is_file()} == before


def test_what_was_left_out_makes_it_another_run(folder, straight, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    record = json.loads((run / "training.json").read_text())
    write_json(run / "training.json", {**record, "canvases_sha256": "of slices that are not given now"})
    options = ("--num_train_epochs", "3", *EVERY_STEP, "--save_strategy", "steps", "--save_steps", "3")
    assert fit(folder, run, *options) == 1
    write_json(run / "training.json", {**record, "calibration": {"scale": 2, "shift": 0}})
    assert _finished_before(run, {name: record[name] for name in ("fold", "recipe")}) is None


@pytest.mark.slow
def test_early_stopping_remembers_how_long_it_has_waited(folder, tmp_path):
    options = (*WITHOUT_BATCH_STATISTICS, "--learning_rate", "0", "--early_stopping_patience", "3")
    fit(folder, tmp_path, *options, "--num_train_epochs", "3")
    fit(folder, tmp_path, *options, "--num_train_epochs", "9")
    assert json.loads((tmp_path / "training.json").read_text())["steps"] == 4 * 4


@pytest.mark.slow
def test_the_last_intact_checkpoint_is_never_deleted_before_the_next_is_whole(folder, tmp_path, monkeypatch):
    def interrupted(checkpoint):
        if checkpoint.name == "checkpoint-12":
            raise KeyboardInterrupt
        seal(checkpoint)

    seal = trainer.seal
    monkeypatch.setattr(trainer, "seal", interrupted)
    assert fit(folder, tmp_path, "--num_train_epochs", "3", "--save_total_limit", "1") == 130
    assert (tmp_path / "checkpoint-8" / "checksums.json").is_file()


def test_a_finished_run_goes_on_when_it_is_given_more_epochs(folder, straight, tmp_path):
    options = ("--num_train_epochs", "1"), ("--num_train_epochs", "3")
    for epochs in options:
        fit(folder, tmp_path, *epochs, *EVERY_STEP)
    assert log_of(tmp_path) == log_of(straight)


def test_another_run_is_not_resumed(trained, folder, capsys):
    """Its weights would have been trained on the persons that the new fold holds out."""
    before = (trained / "training.json").read_bytes()
    assert fit(folder, trained, "--fold", "1") == 1
    assert "holds another run (fold was 0 and is now 1)" in capsys.readouterr().err
    assert fit(folder, trained, "--augment", "false") == 1
    assert "holds another run (augment was True and is now False)" in capsys.readouterr().err
    assert (trained / "training.json").read_bytes() == before


# Steps


@pytest.mark.slow
def test_accumulated_portions_weigh_as_one_batch(folder, tmp_path):
    options = (*WITHOUT_BATCH_STATISTICS, "--num_train_epochs", "2", *EVERY_STEP)
    fit(folder, tmp_path / "whole", *options, "--per_device_train_batch_size", "8")
    portions = ("--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "4")
    fit(folder, tmp_path / "portions", *options, *portions)
    assert len(log_of(tmp_path / "whole")) == 4
    for name in ("loss", "grad_norm"):
        assert log_of(tmp_path / "portions", name) == pytest.approx(log_of(tmp_path / "whole", name), rel=1e-3)


@pytest.mark.slow
def test_two_processes_train_as_one_on_the_same_global_batch(folder, tmp_path):
    options = (*WITHOUT_BATCH_STATISTICS, "--num_train_epochs", "2", *EVERY_STEP)
    fit(folder, tmp_path / "one", *options, "--per_device_train_batch_size", "8")
    ran = fresh.torchrun("train.__main__", *fit_options(folder, tmp_path / "two", *options))
    assert ran.returncode == 0, ran.stderr
    for name in ("loss", "grad_norm", "epoch_loss", "epoch_dice", "eval_loss", "eval_dice_at_network_size"):
        one, two = log_of(tmp_path / "one", name), log_of(tmp_path / "two", name)
        assert len(one) in (2, 4) and two == pytest.approx(one, rel=1e-3, abs=1e-6), name
    ours, theirs = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-3) for name in ours)


@pytest.mark.slow
def test_it_stops_when_nothing_gets_better_and_says_so(folder, tmp_path, caplog):
    options = ("--num_train_epochs", "9", "--learning_rate", "0", "--early_stopping_patience", "2")
    assert fit(folder, tmp_path, *WITHOUT_BATCH_STATISTICS, *options) == 0
    assert json.loads((tmp_path / "training.json").read_text())["steps"] == 3 * 4
    best = max(log_of(tmp_path, "eval_dice_at_network_size"))
    assert f"Stopped early, after 3 of 9 epochs: dice_at_network_size was {best:.4f} at best" in caplog.text


@pytest.mark.slow
def test_a_network_that_finds_nothing_is_said_aloud(folder, tmp_path, caplog):
    assert fit(folder, tmp_path / "short", "--num_train_epochs", "1", "--early_stopping_patience", "5") == 0
    assert "Stopped early" not in caplog.text
    model = UNetForSemanticSegmentation(UNetConfig(**TINY))
    torch.nn.init.constant_(model.head.bias, -20)
    save_model(model, UNetImageProcessor(size={"longest_edge": 32}), tmp_path / "blind")
    options = ("--init_from", str(tmp_path / "blind"), "--num_train_epochs", "1", "--learning_rate", "0")
    assert fine_tune(folder, tmp_path / "nothing", *options) == 0
    assert "The network finds nothing: Dice is 0 on every one of the 4 slices with tumour" in caplog.text


# Fine-tuning


def fine_tune(folder: Path, output: Path, *options: str) -> int:
    """`fit` without what says which network to build."""
    usual = fit_options(folder, output)
    network = usual.index("--architecture")
    return main([*usual[:network], *usual[network + 4 :], *options])


def test_training_starts_from_given_weights(trained, folder, tmp_path):
    options = ("--init_from", str(trained), "--num_train_epochs", "1", "--learning_rate", "0", "--ema_decay", "0")
    assert fine_tune(folder, tmp_path, *options) == 0
    ours, theirs = weights_of(tmp_path), weights_of(trained)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if name.endswith("conv1.0.weight"))
    assert json.loads((tmp_path / "training.json").read_text())["recipe"]["init_from"] == trained.name


def test_new_weights_need_not_be_as_sure_as_the_given_ones(trained, folder, tmp_path):
    sure = shutil.copytree(trained, tmp_path / "sure")
    write_json(sure / "config.json", read_json(sure / "config.json") | {"presence_logit": 1.5, "format_version": 2})
    options = ("--init_from", str(sure), "--max_steps", "1")
    assert fine_tune(folder, tmp_path / "run", *options) == 0
    assert read_json(tmp_path / "run" / "config.json").get("presence_logit") is None


def test_what_the_given_weights_were_trained_on_is_not_forgotten(trained, folder, tmp_path):
    """Else the persons of fold 0, on whom the first training was not scored but the second is, would seem new."""
    options = ("--init_from", str(trained), "--fold", "1", "--max_steps", "1")
    assert fine_tune(folder, tmp_path, *options) == 0
    first, both = (json.loads((run / "training.json").read_text()) for run in (trained, tmp_path))
    for name in ("trained_on", "looks"):
        assert set(first[name].split()) < set(both[name].split())
    assert not {"trained_on", "looks"} & both["started_from"].keys()
    assert both["started_from"]["recipe"] == first["recipe"]


def test_of_weights_without_a_record_nobody_knows_what_they_have_seen(trained, folder, tmp_path, caplog):
    weights = shutil.copytree(trained / "best", tmp_path / "weights")
    assert is_seen_in_training(str(weights), load_slices(DataArguments(str(folder)))) is True
    options = ("--init_from", str(weights), "--fold", "1", "--max_steps", "1")
    assert fine_tune(folder, tmp_path / "warned", *options) == 0
    assert "This model was trained on" in caplog.text
    (weights / "training.json").unlink()
    assert fine_tune(folder, tmp_path / "run", *options) == 0
    assert is_seen_in_training(str(tmp_path / "run"), load_slices(DataArguments(str(folder)))) is None


def test_a_frozen_encoder_keeps_weights_and_statistics(trained, folder, tmp_path):
    options = (
        "--init_from",
        str(trained),
        "--freeze_encoder",
        "true",
        "--num_train_epochs",
        "2",
        "--learning_rate",
        "0.1",
    )
    assert fine_tune(folder, tmp_path, *options) == 0
    ours, theirs = weights_of(tmp_path), weights_of(trained)
    changed = {name for name in ours if not torch.allclose(ours[name].float(), theirs[name].float(), atol=1e-6)}
    assert changed and not [name for name in changed if name.startswith("unet.encoder")]
    assert any("running_mean" in name for name in changed)


@pytest.fixture(scope="module")
def fine_tuned(trained, folder, tmp_path_factory) -> Path:
    """A run beside that which it started from."""
    runs = tmp_path_factory.mktemp("runs")
    shutil.copytree(trained, runs / "first", ignore=shutil.ignore_patterns("checkpoint-*"))
    options = ("--init_from", str(runs / "first"), "--num_train_epochs", "2", "--seed", "3")
    assert fine_tune(folder, runs / "second", *options) == 0
    return runs / "second"


def repeat(run: Path, folder: Path, output: Path, *options: str) -> int:
    """Train by the record of a run alone."""
    where = ("--data_dir", str(folder), "--persons", str(folder / "persons.csv"), "--fold", "0")
    recipe = ("--recipe", str(run / "training.json"), "--disable_tqdm", "true")
    return main(["fit", *where, "--output_dir", str(output), *recipe, *options])


@pytest.mark.parametrize("place", ["beside the run", "named", "elsewhere below"])
def test_the_record_of_a_fine_tuning_repeats_it_to_the_bit(place, fine_tuned, folder, tmp_path, caplog):
    runs, options = shutil.copytree(fine_tuned.parent, tmp_path / "runs"), ()
    if place == "named":
        (runs / "first").rename(tmp_path / "moved")
        options = ("--init_from", str(tmp_path / "moved"))
    if place == "elsewhere below":
        (runs / "older").mkdir()
        (runs / "first").rename(runs / "older" / "first")
    assert repeat(runs / "second", folder, tmp_path / "again", *options) == 0
    ours, theirs = weights_of(tmp_path / "again"), weights_of(fine_tuned)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert "does not repeat it" not in caplog.text


def test_the_record_of_a_fine_tuning_names_its_base_and_no_path(fine_tuned):
    record = json.loads((fine_tuned / "training.json").read_text())
    assert record["recipe"]["init_from"] == "first"
    assert record["init_from_sha256"] == weights_hash(fine_tuned.parent / "first")
    assert str(fine_tuned.parent) not in json.dumps(record)


@pytest.mark.parametrize("change", ["gone", "others"])
def test_weights_that_are_gone_are_said_at_once_and_nobody_is_asked(
    change, fine_tuned, folder, tmp_path, monkeypatch, capsys
):
    def ask(*_, **__):
        pytest.fail("something was looked for on the Hub")

    monkeypatch.setattr("transformers.utils.hub.hf_hub_download", ask)
    runs = shutil.copytree(fine_tuned.parent, tmp_path / "runs")
    if change == "gone":
        shutil.rmtree(runs / "first")
    else:
        shutil.copy(runs / "second" / "model.safetensors", runs / "first" / "model.safetensors")
    assert repeat(runs / "second", folder, tmp_path / "again") == 1
    (sentence,) = capsys.readouterr().err.strip().splitlines()
    assert "fine-tunes the weights of a folder first, and " in sentence
    assert "give --init_from with their place" in sentence
    assert ("holds other ones" in sentence) is (change == "others")
    assert not (tmp_path / "again").exists()


def test_another_base_than_that_of_the_record_is_said(fine_tuned, folder, tmp_path, caplog):
    assert repeat(fine_tuned, folder, tmp_path, "--init_from", str(fine_tuned), "--max_steps", "1") == 0
    assert "started from other weights than those of --init_from: this run does not repeat it" in caplog.text


def test_a_run_of_other_weights_by_the_same_name_is_not_resumed(fine_tuned, folder, tmp_path, capsys):
    runs = shutil.copytree(fine_tuned.parent, tmp_path / "runs")
    shutil.copy(runs / "second" / "model.safetensors", runs / "first" / "model.safetensors")
    options = ("--init_from", str(runs / "first"), "--num_train_epochs", "2", "--seed", "3")
    assert fine_tune(folder, runs / "second", *options) == 1
    assert "holds another run (init_from_sha256 was" in capsys.readouterr().err


def test_a_record_of_an_older_version_is_still_this_run(fine_tuned, folder, tmp_path, caplog):
    runs = shutil.copytree(fine_tuned.parent, tmp_path / "runs")
    record = json.loads((runs / "second" / "training.json").read_text())
    older = {name: value for name, value in record.items() if name not in ("looks", "init_from_sha256")}
    write_json(runs / "second" / "training.json", older)
    options = ("--init_from", str(runs / "first"), "--num_train_epochs", "2", "--seed", "3")
    with caplog.at_level(logging.INFO):
        assert fine_tune(folder, runs / "second", *options) == 0
    assert "finished: nothing is left to do" in caplog.text
    shutil.rmtree(tmp_path / "again", ignore_errors=True)
    assert repeat(runs / "second", folder, tmp_path / "again", "--max_steps", "1") == 0


@pytest.mark.slow
def test_what_does_not_fit_starts_anew_and_is_said(folder, tmp_path, caplog):
    other = UNetForSemanticSegmentation(UNetConfig(**TINY, num_channels=3, num_labels=4))
    save_model(other, UNetImageProcessor(), tmp_path / "other")
    assert fine_tune(folder, tmp_path / "run", "--init_from", str(tmp_path / "other"), "--max_steps", "1") == 0
    assert "unet.encoder.stem.0.weight" in caplog.text and "head.weight" in caplog.text
    assert "it starts anew" in caplog.text
    config = TumorSegmenter.from_pretrained(tmp_path / "run").model.config
    assert (config.num_channels, config.num_labels, config.widths) == (1, 2, TINY["widths"])


def test_weights_of_another_kind_of_model_are_refused(folder, tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "segformer"}')
    assert fine_tune(folder, tmp_path / "run", "--init_from", str(tmp_path)) == 1
    assert "is a model of type segformer; allowed is brain_tumor_unet" in capsys.readouterr().err


def test_a_network_is_either_built_or_taken(trained, folder, tmp_path, capsys):
    assert fit(folder, tmp_path, "--init_from", str(trained)) == 1
    assert "leave --architecture and --encoder_weights out" in capsys.readouterr().err


def test_damaged_weights_are_named(trained, folder, tmp_path, capsys):
    shutil.copytree(trained / "best", tmp_path / "damaged")
    weights = tmp_path / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert fine_tune(folder, tmp_path / "run", "--init_from", str(tmp_path / "damaged")) == 1
    error = capsys.readouterr().err
    assert "cannot load " in error and "damaged from the folder" in error and "Traceback" not in error


# Refusals


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_run_goes_on_later(folder, tmp_path, monkeypatch, capsys):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "seal", full)
        assert fit(folder, tmp_path, "--num_train_epochs", "1") == 1
    error = capsys.readouterr().err
    assert "checkpoint-4 could not be written" in error and "No space left" in error
    assert fit(folder, tmp_path, "--num_train_epochs", "1") == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_says_what_to_try(folder, tmp_path, monkeypatch, capsys, error):
    def exhausted(*args, **kwargs):
        raise error

    monkeypatch.setattr(SegmentationTrainer, "training_step", exhausted)
    assert fit(folder, tmp_path) == 1
    said = capsys.readouterr().err
    assert "out of memory at 4 slices of 32 pixels" in said
    assert "--per_device_train_batch_size 2 --gradient_accumulation_steps 2" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["fit", "--data_dir", "nowhere", "--fold", "0", "--output_dir", "OUT"], "nowhere is not there"),
        (["fit", "--data_dir", "nowhere", "--fold", "0"], "--output_dir is missing"),
        (
            ["fit", "--data_dir", "nowhere", "--fold", "0", "--output_dir", "OUT", "--load_best_model_at_end", "true"],
            "--load_best_model_at_end is not supported",
        ),
    ],
)
def test_bad_data_is_one_sentence_and_leaves_nothing(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(options) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_an_unknown_command_is_named(capsys):
    assert main(["learn"]) == 2
    assert "learn is not a command" in capsys.readouterr().err


@pytest.mark.slow
def test_help_lists_the_commands():
    shown = subprocess.run([sys.executable, "-m", "train"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "fit " in shown and "evaluate " in shown


# Parts


def test_average_follows_the_formula():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average = ExponentialMovingAverage(model, decay=0.5)
    expected = 0.0
    for step in range(30):
        torch.nn.init.constant_(model.weight, step)
        average.update(model)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.shadow["weight"].item() == pytest.approx(expected)
    with average.applied_to(model):
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 29


def test_without_warm_up_the_start_stays_in_the_average():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1)
    average = ExponentialMovingAverage(model, decay=0.9, warm_up=False)
    torch.nn.init.zeros_(model.weight)
    for _ in range(5):
        average.update(model)
    assert average.shadow["weight"].item() == pytest.approx(0.9**5)


def test_average_comes_back_from_its_file(tmp_path):
    model = torch.nn.BatchNorm2d(3)
    average = ExponentialMovingAverage(model, decay=0.9)
    torch.nn.init.normal_(model.weight)
    average.update(model)
    average.save(tmp_path / "ema.safetensors")
    again = ExponentialMovingAverage(torch.nn.BatchNorm2d(3), decay=0.9)
    again.load(tmp_path / "ema.safetensors")
    assert again.steps == 1
    assert all(torch.equal(again.shadow[name], average.shadow[name]) for name in average.shadow)
    assert [path.name for path in tmp_path.iterdir()] == ["ema.safetensors"]


def test_trainer_leaves_the_loss_as_it_is(tmp_path):
    model = UNetForSemanticSegmentation(UNetConfig(**TINY))
    data = {"train_dataset": [0], "eval_dataset": [0], "processing_class": UNetImageProcessor()}
    segmentation = SegmentationTrainer(model=model, args=FitArguments(output_dir=str(tmp_path), bf16=False), **data)
    assert segmentation.model_accepts_loss_kwargs is False
    assert segmentation.label_names == ["labels"]


def test_saved_models_are_half_the_size_and_load_as_float32(tmp_path):
    model = UNetForSemanticSegmentation(UNetConfig(**TINY)).eval()
    save_model(model, UNetImageProcessor(), tmp_path)
    stored = load_file(tmp_path / "model.safetensors").values()
    assert {tensor.dtype for tensor in stored} == {torch.float16, torch.int64}
    loaded = UNetForSemanticSegmentation.from_pretrained(tmp_path)
    assert loaded.dtype == torch.float32
    slices = torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(slices).logits, model(slices).logits, rtol=0.01, atol=0.01)
    assert model.dtype == torch.float32


def test_weights_that_float16_cannot_hold_are_not_saved(tmp_path):
    model = UNetForSemanticSegmentation(UNetConfig(**TINY))
    torch.nn.init.constant_(model.head.bias, 1e5)
    with pytest.raises(ValueError, match=r"head\.bias are not finite in float16"):
        save_model(model, UNetImageProcessor(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_files_are_replaced_whole(tmp_path):
    path = tmp_path / "figures.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["figures.json"]


def test_a_place_that_cannot_be_written_is_said_before_any_work(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert fit(folder, tmp_path / "file" / "run") == 1
    assert "--output_dir" in (error := capsys.readouterr().err) and "cannot be written: Not a directory" in error


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(tmp_path / "figures.json", {"a": 1})
    assert not list(tmp_path.iterdir())
