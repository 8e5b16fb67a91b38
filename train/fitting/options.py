"""The options of `python -m train fit`, and the recipes that fill them in.

    recipes/default.yaml  ←  --recipe NAME | FILE  ←  command line          (the right overrides the left)

A recipe is a flat mapping from option names to values: a YAML file, or the `training.json` that lies beside trained
weights, which repeats their run. It may come from a stranger, so it says how to train and nothing else: not on which
slices, not where to, and not what is sent to others.
"""

import dataclasses
import importlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from modeling_unet import UNetConfig
from modeling_unet.provenance import weights_hash

from ..data.augmentation import Augmentation
from ..data.slices import DataArguments
from ..data.synthesis import Synthesis
from ..files import read_json
from ..help import PlainHelp
from ..record import BASE_WEIGHTS
from .precision import has_fast_bfloat16


ARCHITECTURES: dict[str, Callable[..., UNetConfig]] = {
    "efficientnet-lite0": UNetConfig,
    "resnet34": UNetConfig.resnet34,
    "ronneberger2015": UNetConfig.ronneberger2015,
}
METRICS = ("dice_at_network_size", "iou_at_network_size")  # that name the best epoch
TRACKERS = ("tensorboard", "trackio", "wandb", "mlflow")  # by the names of their packages
RECIPES = Path(__file__).parents[1] / "recipes"
DEFAULT_RECIPE = "default"
ALSO_SHARE = 0.5  # of an epoch; what is known counts as much as what is new
TEACHER_SHARE = 0.5  # of the loss; the masks, which teachers may miss, have the rest
MAX_RECIPE_BYTES = 64 * 1024  # a long one has 1 KiB
USAGE = "python -m train fit --data_dir DATA --output_dir RUN (--fold K | --all_persons true) [--recipe NAME] [options]"

DESCRIPTION = (
    "Train on all folds but one, and save the averaged weights. Started again, it goes on. The options of this project "
    "come first, then those of the Hugging Face Trainer; docs/train.md shows the usual ones."
)


@dataclass
class RunArguments:
    """One run: the fold that it leaves out, the network, and what that starts from."""

    fold: int | None = field(default=None, metadata={"help": "The fold that validates; the others train."})
    all_persons: bool = field(
        default=False,
        metadata={"help": "Train on every fold: for weights to share, of a recipe whose figures are known from folds."},
    )
    calibration: str | None = field(
        default=None,
        metadata={"help": "Model folder that calibrate wrote for a fold of the same recipe; for --all_persons."},
    )
    recipe: str = field(
        default=DEFAULT_RECIPE,
        metadata={
            "help": "A name (default, fast-cpu, fewer-alarms, notebook, refine), YAML file, or training.json to repeat."
        },
    )
    architecture: str | None = field(
        default=None, metadata={"help": "Encoder of the U-Net.", "choices": list(ARCHITECTURES)}
    )
    config: str | None = field(
        default=None,
        metadata={"help": 'JSON with the fields of UNetConfig to change, e.g. {"dropout": 0.2, "norm": "group"}.'},
    )
    encoder_weights: str | None = field(
        default=None,
        metadata={
            "help": "What the encoder starts from; by default imagenet for efficientnet-lite0, random for the others.",
            "choices": ["imagenet", "random"],
        },
    )
    init_from: str | None = field(
        default=None,
        metadata={"help": "Fine-tune: model folder or Hub id to start from, instead of an architecture."},
    )
    keep_calibration: bool = field(
        default=False,
        metadata={
            "help": "For --init_from: give the new weights its calibration and its presence_logit, which the training "
            "itself leaves out."
        },
    )
    also_data_dir: str | None = field(
        default=None,
        metadata={
            "help": "For --init_from: the data that it was trained on, whose slices are mixed in so that nothing is "
            "forgotten; read without other options, as a folder that prepare wrote can be."
        },
    )
    also_share: float | None = field(
        default=None, metadata={"help": f"Share of an epoch that comes from --also_data_dir; by default {ALSO_SHARE}."}
    )
    teachers: list[str] | None = field(
        default=None,
        metadata={"help": "Model folders or Hub ids whose average is learned beside the masks; see ensemble."},
    )
    teacher_share: float | None = field(
        default=None, metadata={"help": f"Share of the loss that is --teachers'; by default {TEACHER_SHARE}."}
    )
    image_size: int | None = field(
        default=None,
        metadata={"help": "Longest edge in pixels that the network sees; by default 256, or as in --init_from."},
    )
    augment: bool = field(default=True, metadata={"help": "Change the training slices at random, anew in every epoch."})
    keep_in_memory: bool = field(
        default=False,
        metadata={
            "help": "Hold the training slices in memory, 0.2 MB each at 256 pixels: workers take a third less time, "
            "which pays where a GPU waits for them."
        },
    )

    def __post_init__(self):
        if (self.fold is None) != self.all_persons:
            raise ValueError("Give --fold K, the fold that validates, or --all_persons true to train on every fold.")
        if self.calibration is not None and not self.all_persons:
            raise ValueError("--calibration is for --all_persons true; with --fold, run calibrate after the training.")
        if self.keep_calibration and self.calibration is not None:
            raise ValueError("--keep_calibration takes that of --init_from; leave --calibration out.")
        if self.also_data_dir is not None:
            if self.init_from is None:
                raise ValueError("--also_data_dir is what --init_from was trained on; give that too, or leave it out.")
            self.also_share = ALSO_SHARE if self.also_share is None else self.also_share
        elif self.also_share is not None:
            raise ValueError(f"--also_share is {self.also_share}, of --also_data_dir; give that too, or leave it out.")
        if self.also_share is not None and not 0 < self.also_share < 1:
            raise ValueError(f"--also_share is {self.also_share}; it must lie between 0 and 1.")
        if self.teachers is not None:
            self.teacher_share = TEACHER_SHARE if self.teacher_share is None else self.teacher_share
        elif self.teacher_share is not None:
            raise ValueError(f"--teacher_share is {self.teacher_share}, of --teachers; give them too, or leave it out.")
        if self.teacher_share is not None and not 0 < self.teacher_share <= 1:
            raise ValueError(f"--teacher_share is {self.teacher_share}; it must be above 0, and 1 at most.")


@dataclass
class FitArguments(TrainingArguments):
    """`TrainingArguments` with what this project's training needs as defaults; the recipes hold the rest."""

    output_dir: str = field(default="", metadata={"help": "Folder for checkpoints and the trained model."})
    ema_decay: float = field(
        default=0.0, metadata={"help": "Per step, of the averaged weights that are evaluated and saved; 0 for none."}
    )
    ema_warm_up: bool = field(
        default=True,
        metadata={"help": "Let the first weights lose their share of that average early; false keeps a share of them."},
    )
    freeze_encoder: bool = field(
        default=False, metadata={"help": "Train the decoder alone; the encoder keeps its weights and statistics."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after so many evaluations without a better Dice."}
    )
    sync_batch_norm: bool = field(
        default=False, metadata={"help": "Batch statistics over all GPUs of a step instead of each one's own."}
    )
    bf16: bool | None = field(  # type: ignore[assignment]  # None until it is known what the hardware computes in
        default=None, metadata={"help": "Mixed precision in bfloat16; by default where the hardware computes in it."}
    )
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    save_total_limit: int | None = 2
    metric_for_best_model: str = "dice_at_network_size"
    greater_is_better: bool = True
    logging_steps: float = 20
    dataloader_num_workers: int = 2
    batch_eval_metrics: bool = True  # else the predictions of all slices that validate are kept
    # The Trainer would keep only columns named in forward()'s signature; a torch data set has none.
    remove_unused_columns: bool = False
    restore_callback_states_from_checkpoint: bool = True  # so early stopping goes on counting
    ddp_find_unused_parameters: bool | None = False

    def __post_init__(self):
        if not self.output_dir:
            raise ValueError("--output_dir is missing; name the folder for checkpoints and the trained model.")
        self._check_ranges()
        if self.resume_from_checkpoint is not None:
            raise ValueError("--resume_from_checkpoint is not needed: a run goes on from what is in --output_dir.")
        if self.load_best_model_at_end:
            raise ValueError(
                "--load_best_model_at_end is not supported: what is saved is the average at the last epoch, because a "
                "best epoch chosen on the fold that scores it flatters the score. The best one is in best/."
            )
        if self.push_to_hub and not self.hub_model_id:
            raise ValueError("--push_to_hub needs --hub_model_id you/name.")
        # The Trainer refuses bfloat16 on a CPU unless it is told that the CPU is meant.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        if self.sync_batch_norm and self.use_cpu:
            raise ValueError('--sync_batch_norm needs GPUs; on CPUs use --config \'{"norm": "group"}\'.')
        if self.bf16 is None:
            self.bf16 = has_fast_bfloat16() and not self.fp16
        super().__post_init__()
        for name in self.report_to or []:
            if name not in TRACKERS:
                raise ValueError(f"--report_to is {name}; allowed are none, {', '.join(TRACKERS)}.")
            _check_tracker(name)

    def _check_ranges(self):
        """Raise an error for values that the Trainer would accept silently or fail on hours later."""
        if self.num_train_epochs <= 0 and self.max_steps <= 0:
            raise ValueError(f"--num_train_epochs is {self.num_train_epochs}; it must be above 0.")
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be at least 1.")
        if self.early_stopping_patience is not None:
            if self.early_stopping_patience < 1:
                raise ValueError(f"--early_stopping_patience is {self.early_stopping_patience}; it must be at least 1.")
            if self.eval_strategy == "no":
                raise ValueError("--early_stopping_patience needs evaluations; give --eval_strategy epoch or steps.")
        if self.label_smoothing_factor:
            raise ValueError("--label_smoothing_factor has no meaning here: the loss is the model's own (--config).")
        if self.metric_for_best_model not in METRICS:
            allowed = ", ".join(METRICS)
            raise ValueError(f"--metric_for_best_model is {self.metric_for_best_model}; allowed are {allowed}.")


def _check_tracker(name: str) -> None:
    """Raise an error if its package cannot be imported; the Trainer would say so when the slices have been read."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            raise ValueError(f"--report_to {name} needs its package: pip install {name}") from error
        raise ValueError(f"--report_to {name} lacks a part of its package ({error}); install it anew.") from error
    # A package that is broken, or does not fit another one, raises whatever it stumbles over.
    except Exception as error:
        raise ValueError(f"--report_to {name}: its package cannot be imported ({error}); install it anew.") from error
    if name == "mlflow" and "MLFLOW_TRACKING_URI" not in os.environ and find_spec("sqlalchemy") is None:
        raise ValueError(
            "--report_to mlflow needs a database here, which mlflow-skinny does not bring: pip install mlflow, or set "
            "MLFLOW_TRACKING_URI to the address of a server."
        )


class FitOptions(NamedTuple):
    """Everything that `fit` is told."""

    data: DataArguments
    run: RunArguments
    synthesis: Synthesis
    augmentation: Augmentation
    trainer: FitArguments


_GROUPS: Any = (DataArguments, RunArguments, Synthesis, Augmentation, FitArguments)

# What a recipe may hold, and what a run writes down of its own. The rest is for whoever starts a training to say.
IN_A_RECIPE = {"architecture", "config", "encoder_weights", "init_from", "image_size", "augment", "also_share"}
IN_A_RECIPE |= {"keep_calibration", "teacher_share"}
IN_A_RECIPE |= {"canvas_probability", "mirror_probability", "paste_probability", "cover_probability"}
IN_A_RECIPE |= {"dark_probability", "strip_probability"}
IN_A_RECIPE |= {field.name for field in dataclasses.fields(Augmentation)}
IN_A_RECIPE |= {
    "num_train_epochs",
    "max_steps",
    "early_stopping_patience",
    "metric_for_best_model",
    "greater_is_better",
}
IN_A_RECIPE |= {"per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"}
IN_A_RECIPE |= {"auto_find_batch_size", "dataloader_drop_last", "dataloader_num_workers", "train_sampling_strategy"}
IN_A_RECIPE |= {"optim", "optim_args", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"}
IN_A_RECIPE |= {"weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"}
IN_A_RECIPE |= {
    "ema_decay",
    "ema_warm_up",
    "freeze_encoder",
    "sync_batch_norm",
    "seed",
    "data_seed",
    "full_determinism",
}
IN_A_RECIPE |= {"bf16", "fp16", "tf32", "bf16_full_eval", "fp16_full_eval", "torch_compile", "torch_compile_mode"}
IN_A_RECIPE |= {"gradient_checkpointing", "gradient_checkpointing_kwargs"}
IN_A_RECIPE |= {"eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "save_strategy", "save_steps"}
IN_A_RECIPE |= {"save_total_limit", "logging_strategy", "logging_steps", "logging_first_step"}


def parse_fit(options: list[str]) -> FitOptions:
    """Options as on the command line → what `fit` takes, with the recipe's values where an option is not given.

    Raises:
        ValueError: there is no such recipe, it names an option that does not exist or starts from weights that are not
            found, or options exclude each other.
        SystemExit: an option does not exist or has an impossible value, as argparse does it.
    """
    how: Any = {"usage": USAGE, "description": DESCRIPTION, "formatter_class": PlainHelp, "allow_abbrev": False}
    parser = HfArgumentParser(_GROUPS, prog="python -m train fit", **how)
    name = _value_of("--recipe", options) or DEFAULT_RECIPE
    layers = [DEFAULT_RECIPE] if name == DEFAULT_RECIPE else [DEFAULT_RECIPE, name]
    recipes = [read_recipe(layer) for layer in layers]
    if recipes[-1].get("init_from") and _value_of("--init_from", options) is None:
        recipes[-1]["init_from"] = _find_base(Path(name), recipes[-1]["init_from"])
    from_recipes = [option for recipe in recipes for option in as_options(recipe)]
    parsed = FitOptions(*parser.parse_args_into_dataclasses([*from_recipes, *options]))
    _check_together(parsed.run, parsed.trainer)
    return parsed


def _check_together(run: RunArguments, trainer: FitArguments) -> None:
    if run.all_persons and trainer.early_stopping_patience is not None:
        raise ValueError(
            "--early_stopping_patience needs a fold that validates; with --all_persons there is none. If --recipe "
            "names it, take it out there."
        )
    if trainer.ema_decay and not trainer.ema_warm_up and run.init_from is None:
        raise ValueError(
            "--ema_warm_up false keeps a part of the first weights in the average, which without --init_from are "
            "random; give --init_from RUN (the recipe fewer-alarms is a second training), or --ema_warm_up true."
        )


def read_recipe(name: str) -> dict[str, Any]:
    """The values of a recipe, by its name in `recipes/` or by its file.

    Raises:
        ValueError: there is no such recipe, it is no mapping, it names another option than those of `IN_A_RECIPE`, or
            a value could be taken for an option.
    """
    path = RECIPES / f"{name}.yaml"
    path = path if path.is_file() else Path(name)
    if not path.is_file():
        names = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.yaml")))
        raise ValueError(f"There is no recipe {name}; give a file or one of {names}.")
    values = read_json(path).get("recipe") if path.suffix == ".json" else _read_yaml(path)
    if not isinstance(values, dict):
        raise ValueError(f"The recipe {path} holds no mapping from option names to values.")
    if others := sorted(map(str, values.keys() - IN_A_RECIPE)):
        raise ValueError(
            f"The recipe {path} names {', '.join(others)}; a recipe may name {', '.join(sorted(IN_A_RECIPE))}. Other "
            "options are given on the command line."
        )
    for option, value in values.items():
        if not _is_plain(value):
            raise ValueError(
                f"The recipe {path} gives {option} a value that is not allowed; allowed are a number, true, false, a "
                "word, a list of numbers, and a mapping from names to these."
            )
    return values


def _read_yaml(path: Path) -> object:
    if (size := path.stat().st_size) > MAX_RECIPE_BYTES:
        raise ValueError(f"The recipe {path} has {size:,} bytes; allowed are {MAX_RECIPE_BYTES:,}.")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:  # a ValueError is that of a date that does not exist
        raise ValueError(f"The recipe {path} is not YAML: {error}") from error
    except RecursionError as error:
        raise ValueError(f"The recipe {path} is nested too deeply to be read.") from error


def _is_plain(value: object, inside: bool = False) -> bool:
    """Whether a value of a recipe is one value on the command line as well, and not the name of another option."""
    if isinstance(value, dict):
        return not inside and all(isinstance(name, str) and _is_plain(own, inside=True) for name, own in value.items())
    if isinstance(value, list):
        return all(_is_number(item) for item in value)
    return value is None or _is_number(value) or (isinstance(value, str) and not value.startswith("-"))


def _is_number(value: Any) -> bool:
    try:
        float(value)  # 1e-3 is a word in YAML
    except (OverflowError, TypeError, ValueError):
        return False
    return True


def _find_base(recipe: Path, name: str) -> str:
    """The value of `--init_from` that a recipe stands for: an id or path as it is, or the place of a named folder.

    The record of a run holds the folder's name and the hash of its weights. The folder is looked for beside the run,
    inside the runs beside it, and in the current folder.
    """
    if "/" in name:
        return name
    expected = read_json(recipe).get(BASE_WEIGHTS) if recipe.suffix == ".json" else None
    runs = recipe.absolute().parent.parent
    places = [runs, Path(), *(sorted(runs.glob("*/")) if expected else [])]
    found = [place / name for place in places if (place / name / "config.json").is_file()]
    if same := [folder for folder in found if expected in (None, weights_hash(folder))]:
        return str(same[0])
    where = f"{found[0]} holds other ones" if found else f"there is no such folder in {runs} or here"
    raise ValueError(
        f"The recipe {recipe} fine-tunes the weights of a folder {name}, and {where}; give --init_from with their place"
        f"{f' (SHA-256 {expected[:12]}…)' if expected else ''}."
    )


def _value_of(name: str, options: list[str]) -> str | None:
    """The value that the command line gives an option, the last one if there are several."""
    value = None
    for option, following in zip(options, [*options[1:], None], strict=True):
        if option == name:
            value = following
        elif option.startswith(f"{name}="):
            value = option.partition("=")[2]
    return value


def as_options(recipe: dict[str, Any]) -> list[str]:
    options = []
    for name, value in recipe.items():
        if value is None:
            continue
        values = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        options += [f"--{name}", *map(str, values)]
    return options
