"""Cross-validation: every slice is scored once, by a network that was trained without it."""

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from slices import write_data_set, write_persons
from tiny import tiny_config
from transformers import HfArgumentParser

from modeling_unet import UNetForSemanticSegmentation, UNetImageProcessor
from train.__main__ import main
from train.commands import cv
from train.commands.ensemble import members_of
from train.data.folds import split_fold
from train.data.raw import DataError
from train.data.slices import DataArguments, content_hash, load_slices
from train.files import save_model, write_json
from train.fitting.options import parse_fit
from train.scoring.calibration import CalibrateArguments
from train.scoring.tables import format_table


pytestmark = pytest.mark.usefixtures("undrawn")

SLICES = 12
# A change of the default network's config that leaves little of it.
TINY = {
    "block_type": "plain",
    "stem_width": 0,
    "stem_stride": 1,
    "widths": [4, 6],
    "depths": [1, 1],
    "strides": [1, 2],
    "kernel_sizes": None,
    "expansion_ratios": None,
    "decoder_widths": [4],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[str]:
    """Options that name twelve slices of six persons, dealt out to three folds."""
    folder = write_data_set(tmp_path_factory.mktemp("data") / "slices", count=SLICES)
    persons = write_persons(folder / "persons.csv", [f"p{number // 2}" for number in range(SLICES)])
    return ["--data_dir", str(folder), "--persons", str(persons), "--num_folds", "3"]


def test_one_fold_that_is_given_is_nothing_to_cross(data, tmp_path):
    lines = [f"{number},p{number},{'validation' if number < 4 else 'train'}" for number in range(1, SLICES + 1)]
    (tmp_path / "persons.csv").write_text("\n".join(["slice,person_id,split", *lines]))
    options = ["--data_dir", value_of("--data_dir", data), "--persons", str(tmp_path / "persons.csv")]
    with pytest.raises(DataError, match="there is one fold and nothing to cross: train it with fit --fold 0"):
        cv.cross_validate(options, tmp_path / "out", [])
    assert not (tmp_path / "out").exists()


def value_of(name: str, command: list[str]) -> str:
    return command[command.index(name) + 1]


class Stub:
    """Stands in for the processes: `fit` saves an untrained network at once, `evaluate` is real.

    Args:
        done: folder of a cross-validation on three folds, whose networks and scores are taken for those of its folds.
    """

    def __init__(self, done: Path | None = None):
        self.done = done
        self.fails = {}  # command → folds in which it fails
        self.commands = []
        self.busy = set()
        self.most_at_once = 0
        self.gpus, self.logs = {}, {}

    async def __call__(self, command: list[str], gpu: str | None, log: Path | None) -> int:
        fold = int(value_of("--fold", command))
        assert gpu not in self.busy, "two processes on one GPU"
        self.commands.append(command)
        self.gpus.setdefault(fold, []).append(gpu)
        self.logs[fold] = log
        self.busy.add(gpu)
        self.most_at_once = max(self.most_at_once, len(self.busy))
        await asyncio.sleep(0)
        code = 1 if fold in self.fails.get(command[0], []) else self.carry_out(command, fold)
        self.busy.remove(gpu)
        return code

    def carry_out(self, command: list[str], fold: int) -> int:
        known = self.done is not None and value_of("--num_folds", command) == "3"
        if command[0] == "evaluate":
            if not known:
                return main(command)
            shutil.copy(self.done / f"fold-{fold}" / "evaluation.json", value_of("--output", command))
            return 0
        run = Path(value_of("--output_dir", command))
        if known:
            shutil.copytree(self.done / f"fold-{fold}", run, ignore=shutil.ignore_patterns("evaluation.json"))
            return 0
        processor = UNetImageProcessor(size={"longest_edge": 32})
        save_model(UNetForSemanticSegmentation(tiny_config()), processor, run)
        persons, num_folds = value_of("--persons", command), int(value_of("--num_folds", command))
        slices = load_slices(DataArguments(value_of("--data_dir", command), persons=persons, num_folds=num_folds))
        training, _ = split_fold(slices, fold)
        record = {"training_slices_sha256": content_hash(training), "trained_on": " ".join(training["mask_sha256"])}
        write_json(run / "training.json", record)
        return 0


@pytest.fixture
def stub(crossed, monkeypatch) -> Stub:
    stub = Stub(crossed.folder)
    monkeypatch.setattr(cv, "run_command", stub)
    return stub


@pytest.fixture(scope="module")
def options(data) -> list[str]:
    return [*data, "--recipe", "fast-cpu"]


@pytest.fixture(scope="module")
def crossed(options, tmp_path_factory) -> SimpleNamespace:
    """A cross-validation that is done: `folder`, `report`, and `commands`, all that were run."""
    folder, stub = tmp_path_factory.mktemp("crossed"), Stub()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(cv, "run_command", stub)
        report = cv.cross_validate(options, folder, [])
    return SimpleNamespace(folder=folder, report=report, commands=stub.commands)


@pytest.fixture
def done(crossed, stub, tmp_path) -> Path:
    """Its folder, to be changed and started again."""
    return shutil.copytree(crossed.folder, tmp_path / "done")


# What is run


def test_folds_of_another_recipe_are_not_averaged(options, done):
    path = done / "fold-1" / "training.json"
    write_json(path, {**json.loads(path.read_text()), "recipe": {"learning_rate": 0.5}})
    with pytest.raises(DataError, match="fold-1 was trained by another recipe, from other weights"):
        cv.cross_validate(options, done, [])


def test_every_slice_is_scored_once_by_the_network_that_left_it_out(crossed):
    assert [(command[0], value_of("--fold", command)) for command in crossed.commands] == [
        (name, fold) for fold in "012" for name in ("fit", "evaluate")
    ]
    assert all(value_of("--recipe", command) == "fast-cpu" for command in crossed.commands if command[0] == "fit")
    assert all(value_of("--num_folds", command) == "3" for command in crossed.commands)
    assert sorted(int(row["slice"]) for row in crossed.report["per_slice"]) == list(range(1, SLICES + 1))
    assert crossed.report["seen_in_training"] is False
    assert crossed.report == json.loads((crossed.folder / "evaluation.json").read_text())


def test_figures_are_those_of_all_slices_and_their_spread_over_folds(crossed):
    report = crossed.report
    assert report["fold"] == [0, 1, 2]
    assert (report["all"]["slices"], report["all"]["persons"]) == (SLICES, 6)
    assert report["all"]["slice_dice"] == pytest.approx(np.mean([row["dice"] for row in report["per_slice"]]))
    evaluations = [json.loads((crossed.folder / f"fold-{fold}" / "evaluation.json").read_text()) for fold in range(3)]
    ious = [evaluation["all"]["slice_iou"] for evaluation in evaluations]
    mean = sum(ious) / 3
    spread = (sum((iou - mean) ** 2 for iou in ious) / 2) ** 0.5
    assert report["over_folds"]["slice_iou"] == pytest.approx({"mean": mean, "standard_deviation": spread})
    table = format_table(report)
    assert f"| all | {SLICES} | 6 | {report['all']['slice_dice']:.4f} |" in table
    assert re.search(rf"\| mean ± SD \|  \|  \|.* {mean:.4f} ± {spread:.4f} \|", table)


# Starting again


def test_a_fold_that_fails_is_given_up_and_the_others_go_on(data, stub, tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.setattr(cv, "visible_gpus", list)
    stub.fails = {"fit": [0], "evaluate": [2]}
    assert main(["cv", *data, "--output_dir", str(tmp_path)]) == 1
    assert "2 of 3 folds failed (0, 2)" in capsys.readouterr().err
    assert "Fold 0 failed: fit ended with exit code 1." in caplog.text
    assert "Fold 2 failed: evaluate ended with exit code 1." in caplog.text
    assert (tmp_path / "fold-1" / "evaluation.json").is_file()
    assert not (tmp_path / "evaluation.json").exists()


def test_a_second_start_keeps_what_is_scored(data, stub, tmp_path, caplog):
    stub.fails = {"fit": [1]}
    with pytest.raises(ChildProcessError):
        cv.cross_validate(data, tmp_path, [])
    before = (tmp_path / "fold-0" / "evaluation.json").stat().st_mtime_ns
    stub.fails = {}
    stub.commands.clear()
    caplog.set_level("INFO")
    report = cv.cross_validate(data, tmp_path, [])
    assert [value_of("--fold", command) for command in stub.commands] == ["1", "1"]
    assert "Fold 0 is scored already and kept." in caplog.text
    assert (tmp_path / "fold-0" / "evaluation.json").stat().st_mtime_ns == before
    assert report["all"]["slices"] == SLICES


def test_folds_trained_in_different_ways_are_not_averaged(options, done):
    with pytest.raises(ValueError, match=r"holds a cross-validation with other options \(--data_dir"):
        cv.cross_validate([*options, "--learning_rate", "0.1"], done, [])


def test_scores_of_other_slices_are_not_taken_for_this_fold(data, done):
    (done / "cv.json").unlink()
    with pytest.raises(ValueError, match="was trained or scored on other slices than fold 0 has now"):
        cv.cross_validate([*data[:-1], "2"], done, [])


# GPUs


def test_each_gpu_has_one_fold_at_a_time(data, stub, tmp_path):
    cv.cross_validate(data, tmp_path, ["3", "5"])
    assert stub.most_at_once == 2
    assert all(len(set(own)) == 1 for own in stub.gpus.values()), "a fold changed its GPU"
    assert {own[0] for own in stub.gpus.values()} == {"3", "5"}
    assert stub.logs == {fold: tmp_path / f"fold-{fold}.log" for fold in range(3)}


def test_one_after_another_the_folds_talk_to_the_terminal(data, stub, tmp_path):
    cv.cross_validate(data, tmp_path, ["0"])
    assert stub.most_at_once == 1
    assert set(stub.logs.values()) == {None}


@pytest.mark.parametrize(
    ("listed", "count", "expected"),
    [(None, 2, ["0", "1"]), ("2,3", 2, ["2", "3"]), ("", 0, []), ("-1", 0, []), (None, 0, [])],
)
def test_gpus_that_this_process_may_not_use_stay_alone(listed, count, expected, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if listed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert cv.visible_gpus() == expected


# Processes


@pytest.fixture
def interpreter(tmp_path, monkeypatch):
    """Puts a shell script in the place of Python."""

    def install(script: str) -> None:
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return install


def test_a_process_sees_its_gpu_alone_and_writes_to_its_log(interpreter, tmp_path):
    interpreter('echo "$@ on $CUDA_VISIBLE_DEVICES"; echo failed >&2; exit 3')
    log = tmp_path / "fold-1.log"
    assert asyncio.run(cv.run_command(["fit", "--fold", "1"], "7", log)) == 3
    assert log.read_text() == "-m train fit --fold 1 on 7\nfailed\n"


def test_a_cancelled_run_leaves_no_process_behind(interpreter, tmp_path):
    """Otherwise a second start would train in a folder in which the first one still trains."""
    started = tmp_path / "started"
    interpreter(f'echo $$ > "{started}.new"; mv "{started}.new" "{started}"; exec sleep 600')

    async def cancel_when_started() -> None:
        task = asyncio.create_task(cv.run_command(["fit"], None, None))
        while not started.exists():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel_when_started())
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)


def test_a_terminated_run_waits_for_the_end_of_its_processes(data, tmp_path, monkeypatch):
    ended = []

    async def endless(command: list[str], gpu: str | None, log: Path | None) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.sleep(5)
        finally:
            await asyncio.sleep(0.05)
            ended.append(command[0])

    monkeypatch.setattr(cv, "run_command", endless)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # or a failure of this test would end all others
    try:
        assert main(["cv", *data, "--output_dir", str(tmp_path)]) == 128 + signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended == ["fit"]


# Refusals


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--epochs", "3"], "--epochs"),
        (["--recipe", "quick"], "There is no recipe quick"),
        (["--num_folds", "7"], "7 folds need at least 7 persons"),
        (["--fold", "1"], "--fold is not an option of cv"),
        (["--fold=1"], "--fold is not an option of cv"),
        (["--gpus", "0"], "CUDA finds no GPU here"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(wrong, message, data, stub, tmp_path, capsys):
    assert main(["cv", *data, "--output_dir", str(tmp_path / "out"), *wrong]) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not stub.commands and not (tmp_path / "out").exists()


# All of it


def assert_can_be_typed(printed: str) -> None:
    """The next steps are commands whose options exist."""
    steps = [shlex.split(line) for line in printed.splitlines() if line.startswith("  python -m train ")]
    assert [step[3] for step in steps] == ["calibrate", "fit", "publish", "ensemble"]
    (arguments,) = HfArgumentParser(CalibrateArguments).parse_args_into_dataclasses(steps[0][4:])
    assert [Path(model).name for model in arguments.model] == ["fold-0", "fold-1"] and arguments.fold == [0, 1]
    parsed = parse_fit(steps[1][4:])
    assert parsed.run.all_persons and parsed.run.calibration == arguments.output_dir
    assert parsed.data == DataArguments(arguments.data_dir, persons=arguments.persons, num_folds=2)
    assert steps[2][5] == parsed.trainer.output_dir
    assert [Path(member).name for member in members_of(steps[3][4])] == ["fold-0", "fold-1"]
    assert parse_fit([*steps[3][5:], "--all_persons", "true"]).data == parsed.data


@pytest.mark.slow
def test_two_folds_from_slices_to_figures(data, stub, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stub, "carry_out", lambda command, fold: main(command))
    network = ["--config", json.dumps(TINY), "--encoder_weights", "random", "--image_size", "32", "--bf16", "false"]
    training = ["--num_train_epochs", "1", "--dataloader_num_workers", "0", "--disable_tqdm", "true"]
    folds = [*data[:-1], "2"]
    assert main(["cv", *folds, "--output_dir", str(tmp_path), *network, *training]) == 0
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert report["fold"] == [0, 1] and report["all"]["slices"] == SLICES
    assert report["seen_in_training"] is False
    printed = capsys.readouterr().out
    assert "| mean ± SD |" in printed
    assert_can_be_typed(printed)
    for fold in (0, 1):
        record = json.loads((tmp_path / f"fold-{fold}" / "training.json").read_text())
        assert (record["fold"], record["training_slices"]) == (fold, SLICES // 2)
