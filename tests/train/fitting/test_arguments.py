import json
import sys
from dataclasses import MISSING, fields
from types import ModuleType

import pytest
import yaml

from train.data.augmentation import Augmentation
from train.data.slices import DataArguments
from train.data.synthesis import Synthesis
from train.fitting import run
from train.fitting.network import build_model
from train.fitting.options import (
    DEFAULT_RECIPE,
    IN_A_RECIPE,
    RECIPES,
    TRACKERS,
    FitArguments,
    RunArguments,
    parse_fit,
    read_recipe,
)


REQUIRED = ["--data_dir", "DATA", "--output_dir", "OUT", "--fold", "0"]


def test_the_default_recipe_is_what_nothing_else_is_said():
    options = parse_fit(REQUIRED)
    default = yaml.safe_load((RECIPES / "default.yaml").read_text())
    assert options.trainer.learning_rate == default["learning_rate"] == 8e-4
    assert options.trainer.num_train_epochs == default["num_train_epochs"]
    assert options.data.data_dir == "DATA" and options.run.fold == 0


def test_the_default_recipe_alone_gives_every_number_of_synthesis_and_augmentation():
    """What a class gave besides would not be seen by whoever reads the recipe."""
    groups = [
        field
        for group in (Augmentation, Synthesis)
        for field in fields(group)
        if "folder of" not in field.metadata["help"]
    ]
    assert all(field.default is field.default_factory is MISSING for field in groups)
    assert {field.name for field in groups} <= read_recipe(DEFAULT_RECIPE).keys()


def test_options_of_the_data_can_be_typed_again():
    given = ["--data_dir", "-odd", "--planes", "axial", "coronal", "--mask_color", "red", "--missing_mask", "empty"]
    given[:2] = ["--data_dir=-odd"]
    data = parse_fit([*REQUIRED[2:], *given]).data
    assert data.planes == ["axial", "coronal"] and data.missing_mask == "empty"
    assert parse_fit([*REQUIRED[2:], *data.as_options()]).data == data
    assert parse_fit(REQUIRED).data.as_options() == ["--data_dir=DATA"]


def test_a_recipe_changes_the_default_and_the_command_line_changes_both():
    options = parse_fit([*REQUIRED, "--recipe", "fast-cpu", "--num_train_epochs", "2"])
    assert options.run.image_size == 160
    assert options.trainer.num_train_epochs == 2
    assert options.trainer.weight_decay == 0.01  # the default recipe's


@pytest.mark.parametrize("written", [["--recipe=notebook"], ["--recipe", "default", "--recipe", "notebook"]])
def test_the_last_recipe_on_the_command_line_counts(written):
    assert parse_fit([*REQUIRED, *written]).run.architecture == "resnet34"


@pytest.mark.parametrize("name", [path.stem for path in RECIPES.glob("*.yaml")])
def test_every_recipe_can_be_read(name):
    options = parse_fit([*REQUIRED, "--recipe", name, "--init_from", "RUN"])
    for option, value in read_recipe(name).items():
        found = [getattr(group, option) for group in options if hasattr(group, option)]
        assert len(found) == 1
        assert (json.loads(found[0]) if isinstance(value, dict) else found[0]) == value


def test_the_notebook_recipe_builds_the_notebook_network():
    options = parse_fit([*REQUIRED, "--recipe", "notebook"])
    model, processor = build_model(options.run)
    assert round(model.num_parameters() / 1e6, 2) == 24.43
    assert (model.config.focal_loss_weight, model.config.cross_entropy_loss_weight) == (1, 0)
    assert processor.size["longest_edge"] == 256 and not options.run.augment
    assert (options.trainer.learning_rate, options.trainer.per_device_train_batch_size) == (1e-5, 4)


def test_a_recipe_of_ones_own_is_a_file(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "learning_rate: 1e-3\nscale: [0.5, 2]\nconfig: {dropout: 0.5}\naugment: false\n"
    )
    options = parse_fit([*REQUIRED, "--recipe", str(tmp_path / "mine.yaml")])
    assert options.trainer.learning_rate == 1e-3
    assert options.augmentation.scale == [0.5, 2.0] and options.run.augment is False
    assert build_model(options.run)[0].config.dropout == 0.5


def test_abbreviations_are_refused_as_a_recipe_would_be_missed():
    with pytest.raises((SystemExit, ValueError)):
        parse_fit([*REQUIRED, "--recip", "fast-cpu"])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--num_train_epochs 0", "--num_train_epochs is 0.0; it must be above 0"),
        ("--gradient_accumulation_steps 0", "--gradient_accumulation_steps is 0; it must be at least 1"),
        ("--early_stopping_patience 0", "--early_stopping_patience is 0; it must be at least 1"),
        ("--early_stopping_patience 2 --eval_strategy no", "needs evaluations"),
        ("--metric_for_best_model loss", "allowed are dice_at_network_size, iou_at_network_size"),
        ("--label_smoothing_factor 0.1", "the loss is the model's own"),
        ("--resume_from_checkpoint RUN", "a run goes on from what is in --output_dir"),
        ("--scale 2 1", r"--scale is \[2.0, 1.0\]; give two numbers above 0, the smaller one first"),
        ("--scale 1", "--scale is"),
        ("--rotation -5", "--rotation is -5.0; it must be 0 or above"),
        ("--flip_probability 2", "--flip_probability is 2.0; it must be from 0 to 1"),
    ],
)
def test_values_out_of_range_are_named(option, message):
    with pytest.raises(ValueError, match=message):
        parse_fit([*REQUIRED, *option.split()])


def test_the_record_of_a_run_is_a_recipe(tmp_path):
    (tmp_path / "training.json").write_text(json.dumps({"fold": 3, "recipe": {"learning_rate": 0.5, "rotation": 7.0}}))
    options = parse_fit([*REQUIRED, "--recipe", str(tmp_path / "training.json")])
    assert (options.trainer.learning_rate, options.augmentation.rotation, options.run.fold) == (0.5, 7.0, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("learning_rat: 1e-3\n", r"mine\.yaml names learning_rat; a recipe may name .*, learning_rate, .*"),
        ("1: a\nb: 2\nnull: c\n", r"mine\.yaml names 1, None, b; a recipe may name"),
        ("- 1\n", r"mine\.yaml holds no mapping"),
        ("a: [\n", r"mine\.yaml is not YAML"),
        ("seed: 2020-99-99\n", r"mine\.yaml is not YAML"),
        ("config: " + 1000 * "[" + 1000 * "]", r"mine\.yaml is nested too deeply to be read"),
        ("config: &a [*a]\n", r"mine\.yaml gives config a value that is not allowed"),
        ("config: {widths: {deeper: 1}}\n", r"mine\.yaml gives config a value that is not allowed"),
        ("seed: 2020-01-01\n", r"mine\.yaml gives seed a value that is not allowed"),
        (f"# {'long' * 20_000}\n", r"mine\.yaml has 80,003 bytes; allowed are 65,536"),
    ],
)
def test_a_recipe_with_a_mistake_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        parse_fit([*REQUIRED, "--recipe", str(tmp_path / "mine.yaml")])


# What recipes never write: where to, for whom, on which slices and which machine.
FOREIGN = {field.name for group in (DataArguments, RunArguments, Synthesis, FitArguments) for field in fields(group)}
FOREIGN = sorted(FOREIGN - IN_A_RECIPE)


@pytest.mark.parametrize("suffix", ["yaml", "json"])
@pytest.mark.parametrize("name", FOREIGN)
def test_a_recipe_of_a_stranger_cannot_send_or_place_anything(name, suffix, tmp_path):
    recipe = {"learning_rate": 0.1, name: "somebody/else"}
    path = tmp_path / f"mine.{suffix}"
    path.write_text(json.dumps({"recipe": recipe} if suffix == "json" else recipe))
    with pytest.raises(ValueError, match=rf"{path} names {name}; a recipe may name adam_beta1, .*, weight_decay\."):
        parse_fit([*REQUIRED, "--recipe", str(path)])


def test_what_a_recipe_may_name_are_options_and_nothing_that_is_published():
    assert {"push_to_hub", "hub_token", "hub_model_id", "trackio_space_id", "report_to", "output_dir"} <= {*FOREIGN}
    options = {field.name for group in parse_fit(REQUIRED) for field in fields(group)}
    assert options >= IN_A_RECIPE


@pytest.mark.parametrize(
    "value", ["[0.5, 2, --push_to_hub, 'true']", "--push_to_hub", "{scale: --push_to_hub}", "[[0.5], 2]"]
)
def test_a_value_of_a_recipe_is_never_read_as_an_option(value, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"scale: {value}\n")
    with pytest.raises(ValueError, match=r"mine\.yaml gives scale a value that is not allowed"):
        parse_fit([*REQUIRED, "--recipe", str(tmp_path / "mine.yaml")])


def test_a_record_nested_too_deeply_is_one_sentence(tmp_path):
    (tmp_path / "training.json").write_text(100_000 * "[")
    with pytest.raises(ValueError, match=r"training\.json is not JSON"):
        parse_fit([*REQUIRED, "--recipe", str(tmp_path / "training.json")])


def test_an_unknown_recipe_is_refused_with_those_that_are_there():
    names = "default, fast-cpu, fewer-alarms, notebook, refine"
    with pytest.raises(ValueError, match=f"There is no recipe slow; give a file or one of {names}"):
        parse_fit([*REQUIRED, "--recipe", "slow"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "is no mapping"),
        ('{"widht": 1}', "fields that UNetConfig does not have: widht"),
        ('{"num_channels": 3}', "gives num_channels; the channels follow from --sequences"),
        ('{"num_labels": 4}', "gives num_labels; it follows from --classes"),
        ('{"id2label": {"0": "a", "1": "b", "2": "c"}}', "names the labels a, b, c, and the masks are of one class"),
        ('{"problem_type": "multi_label_classification"}', "one class has nothing to overlap with"),
        ('{"norm": "layer"}', "--config .*norm"),
        ('{"widths": []}', "--config .*widths"),
    ],
)
def test_config_with_a_mistake_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        build_model(parse_fit([*REQUIRED, "--config", config]).run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--fold 0 --recipe fewer-alarms", "give --init_from RUN"),
        ("--all_persons true --early_stopping_patience 3", "with --all_persons there is none"),
    ],
)
def test_options_that_exclude_each_other_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        parse_fit([*REQUIRED[:4], *options.split()])


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_installed_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=f"--report_to {name} needs its package: pip install {name}"):
        parse_fit([*REQUIRED, "--report_to", name])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import a_part_that_is_gone", r"--report_to wandb lacks a part of its package \(No module named 'a_part_that"),
        ("raise TypeError('descriptors')", r"--report_to wandb: its package cannot be imported \(descriptors\); inst"),
    ],
)
def test_a_tracker_whose_package_is_broken_is_named(content, message, tmp_path, monkeypatch):
    (tmp_path / "wandb.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(ValueError, match=message):
        parse_fit([*REQUIRED, "--report_to", "wandb"])


def test_mlflow_without_a_database_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", ModuleType("mlflow"))
    monkeypatch.setattr("train.fitting.options.find_spec", lambda name: None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(
        ValueError, match=r"--report_to mlflow needs a database here, .*: pip install mlflow, or set MLF"
    ):
        parse_fit([*REQUIRED, "--report_to", "mlflow"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert parse_fit([*REQUIRED, "--report_to", "mlflow"]).trainer.report_to == ["mlflow"]


def test_what_a_tracker_raises_becomes_a_sentence_and_other_errors_stay():
    stopped = type("MlflowException", (Exception,), {"__module__": "mlflow.exceptions"})
    with pytest.raises(ValueError, match=r"^--report_to mlflow failed: no answer\.$"), run._tracker_named():
        raise stopped("no answer.\nTraceback of the server")
    with pytest.raises(RuntimeError, match="ours"), run._tracker_named():
        raise RuntimeError("ours")


def test_an_unknown_tracker_is_no_package_to_install():
    with pytest.raises(ValueError, match=r"--report_to is sheet; allowed are none, tensorboard, trackio, wandb, mlf"):
        FitArguments(output_dir="OUT", report_to="sheet")


def test_a_tracker_that_is_there_and_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", ModuleType("wandb"))
    assert parse_fit([*REQUIRED, "--report_to", "wandb"]).trainer.report_to == ["wandb"]
    assert parse_fit([*REQUIRED, "--report_to", "none"]).trainer.report_to == []


def test_synchronized_batch_statistics_need_gpus():
    with pytest.raises(ValueError, match="--sync_batch_norm needs GPUs"):
        FitArguments(output_dir="OUT", sync_batch_norm=True, use_cpu=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "Give --fold K, the fold that validates, or --all_persons true"),
        (["--fold", "0", "--all_persons", "true"], "Give --fold K"),
        (["--fold", "0", "--calibration", "RUN"], "--calibration is for --all_persons true"),
    ],
)
def test_either_one_fold_validates_or_all_persons_train(options, message):
    with pytest.raises(ValueError, match=message):
        parse_fit([*REQUIRED[:4], *options])


@pytest.mark.parametrize(
    ("fold", "tested", "said"),
    [
        (["--fold", "1"], False, "score it with: python -m train evaluate --data_dir=DATA --model=RUN --fold=1"),
        (
            ["--all_persons", "true"],
            True,
            "score it with: python -m train evaluate --data_dir=DATA --model=RUN --split=test",
        ),
        (["--all_persons", "true"], False, "it has seen all persons, so others judge it: python -m train evaluate"),
    ],
)
def test_a_training_ends_with_the_next_step(fold, tested, said):
    options = parse_fit(["--data_dir", "DATA", "--output_dir", "RUN", *fold])
    assert run.next_step(options, tested).startswith(said)
