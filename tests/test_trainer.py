"""The whole of `python -m train`, on slices and networks small enough for a test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from slices import write_data_set, write_persons
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

from modeling_unet import TumorSegmenter, UNetConfig, UNetForSemanticSegmentation, UNetImageProcessor, read_mask
from train.__main__ import main
from train.files import save_model, write_json
from train.metrics import Overlap
from train.trainer import ARCHITECTURES, ExponentialMovingAverage, FitArguments, SegmentationTrainer


ROOT = Path(__file__).resolve().parents[1]
TINY = {
    "block_type": "residual",
    "stem_width": 4,
    "widths": [8, 16],
    "depths": [1, 1],
    "strides": [2, 2],
    "decoder_widths": [8, 8],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = write_data_set(tmp_path_factory.mktemp("data") / "slices", count=20)
    write_persons(folder / "persons.csv", [f"p{number // 2}" for number in range(20)])
    return folder


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "resnet34", lambda: UNetConfig(**TINY))
        yield


def fit(folder: Path, output: Path, *options: str) -> int:
    return main(
        [
            *("fit", "--data_dir", str(folder), "--persons", str(folder / "persons.csv"), "--fold", "0"),
            *("--output_dir", str(output), "--architecture", "resnet34", "--encoder_weights", "random"),
            *("--image_size", "32", "--per_device_train_batch_size", "4", "--dataloader_num_workers", "0"),
            *("--disable_tqdm", "true", "--bf16", "false", *options),
        ]
    )


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("trained")
    schedule = ("--num_train_epochs", "24", "--learning_rate", "1e-2", "--ema_decay", "0.9")
    assert fit(folder, run, *schedule, "--save_strategy", "steps", "--save_steps", "90") == 0
    return run


# From data to figures


def test_training_learns_and_evaluation_proves_it(trained, folder, capsys):
    report = trained / "report.json"
    options = ["--model", str(trained), "--data_dir", str(folder), "--persons", str(folder / "persons.csv")]
    assert main(["evaluate", *options, "--fold", "0", "--output", str(report)]) == 0
    figures = json.loads(report.read_text())
    assert figures["all"]["slice_dice"] > 0.7
    assert figures["all"]["slices"] == len(figures["per_slice"]) == 4
    assert f"| all | 4 | 2 | {figures['all']['slice_dice']:.4f} |" in capsys.readouterr().out


def test_evaluation_scores_masks_at_native_size(trained, folder):
    """By hand: the same slices through the segmenter, compared with the masks as they lie on disk."""
    import cv2

    from train.evaluate import EvaluateArguments, evaluate

    persons = str(folder / "persons.csv")
    report = evaluate(EvaluateArguments(model=str(trained), data_dir=str(folder), fold=0, persons=persons))
    segmenter = TumorSegmenter.from_pretrained(trained)
    for row in report["per_slice"]:
        true = cv2.imread(str(folder / "masks" / f"{row['slice']}.png"), cv2.IMREAD_UNCHANGED) > 0
        predicted = segmenter(folder / "images" / f"{row['slice']}.png").mask
        assert predicted.shape == true.shape == (64, 64)
        assert row["dice"] == pytest.approx(2 * (predicted & true).sum() / (predicted.sum() + true.sum()))


def test_scoring_persons_the_model_was_trained_on_is_said_aloud(trained, folder, caplog):
    options = ["--model", str(trained), "--data_dir", str(folder), "--persons", str(folder / "persons.csv")]
    main(["evaluate", *options, "--fold", "1"])
    assert "THIS MODEL WAS TRAINED ON FOLD 1" in caplog.text


def test_the_folder_loads_by_every_route(trained):
    assert isinstance(AutoModelForSemanticSegmentation.from_pretrained(trained), UNetForSemanticSegmentation)
    assert isinstance(AutoImageProcessor.from_pretrained(trained), UNetImageProcessor)
    assert {"configuration_unet.py", "modeling_unet.py"} <= {path.name for path in trained.iterdir()}
    assert "AutoModel" in json.loads((trained / "config.json").read_text())["auto_map"]
    record = json.loads((trained / "training.json").read_text())
    assert record["fold"] == 0 and record["training_slices"] == 16


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


# Resuming


def test_a_resumed_run_ends_like_one_that_was_never_stopped(folder, tmp_path):
    options = ("--num_train_epochs", "3", "--logging_steps", "1", "--lr_scheduler_type", "constant")
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    fit(folder, straight, *options)
    fit(folder, stopped, *options[:1], "1", *options[2:])
    fit(folder, stopped, *options)
    states = [json.loads((run / "checkpoint-12" / "trainer_state.json").read_text()) for run in (straight, stopped)]
    losses = [[entry["loss"] for entry in state["log_history"] if "loss" in entry] for state in states]
    assert len(losses[0]) == 12 and losses[0] == losses[1]
    ours, theirs = (load_file(run / "model.safetensors") for run in (straight, stopped))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_another_run_is_not_resumed(trained, folder, capsys):
    """Its weights would have been trained on the persons that the new fold holds out."""
    before = (trained / "training.json").read_bytes()
    assert fit(folder, trained, "--fold", "1") == 1
    assert "holds another run (fold was 0 and is now 1)" in capsys.readouterr().err
    assert (trained / "training.json").read_bytes() == before


# Refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["fit", "--data_dir", "nowhere", "--fold", "0", "--output_dir", "OUT"], "nowhere/images is not there"),
        (["fit", "--data_dir", "nowhere", "--fold", "0"], "--output_dir is missing"),
        (
            ["fit", "--data_dir", "nowhere", "--fold", "0", "--output_dir", "OUT", "--load_best_model_at_end", "true"],
            "--load_best_model_at_end is not supported",
        ),
        (["evaluate", "--data_dir", "nowhere", "--fold", "0", "--model", "nowhere"], "nowhere/images is not there"),
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
    trainer = SegmentationTrainer(model, FitArguments(output_dir=str(tmp_path), bf16=False), **data)
    assert trainer.model_accepts_loss_kwargs is False
    assert trainer.label_names == ["labels"]


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
    with pytest.raises(ValueError, match=r"float16 cannot hold the values of head\.bias"):
        save_model(model, UNetImageProcessor(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_files_are_replaced_whole(tmp_path):
    path = tmp_path / "figures.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["figures.json"]
