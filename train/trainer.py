"""`python -m train fit`: from a folder of slices to a model folder, by the Hugging Face `Trainer`.

    python -m train fit --data_dir DATA --output_dir RUN --fold 0
    python -m train evaluate --data_dir DATA --model RUN --fold 0

The defaults are the recipe of the shipped weights; every field of `transformers.TrainingArguments` can be given too.
"""

import contextlib
import hashlib
import json
import logging
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import transformers
from datasets import Dataset
from torch import nn
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from modeling_unet import UNetConfig, UNetForSemanticSegmentation, UNetImageProcessor
from modeling_unet.image_processing_unet import IGNORE_INDEX

from .augmentation import Augmentation
from .data import AugmentedSlices, load_slices, prepare_slices, split_fold
from .files import save_model, write_json, write_whole
from .metrics import Overlap
from .pretrained import load_imagenet_encoder


logger = logging.getLogger(__name__)

ARCHITECTURES = {
    "efficientnet-lite0": UNetConfig,
    "resnet34": UNetConfig.resnet34,
    "ronneberger2015": UNetConfig.ronneberger2015,
}
EMA_FILE = "ema.safetensors"
RECORD_FILE = "training.json"
PRIVATE = {"output_dir", "logging_dir", "run_name", "hub_token", "hub_model_id", "resume_from_checkpoint"}
WATCHED = ("eval_dice_at_network_size", "eval_zero_dice_rate")


def has_fast_bfloat16() -> bool:
    """Whether the machine computes in bfloat16 natively: a GPU that does, or a CPU with AMX or AVX-512 BF16."""
    if torch.accelerator.is_available():
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # newer than the oldest torch we accept
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


@dataclass
class SliceArguments:
    """What to train, and on what."""

    data_dir: str = field(metadata={"help": "Folder with images/ and masks/ (stems pair up)."})
    fold: int = field(metadata={"help": "The fold that validates; the others train."})
    persons: str | None = field(
        default=None, metadata={"help": "CSV file with the columns slice and person_id, for data of your own."}
    )
    architecture: str = field(
        default="efficientnet-lite0", metadata={"help": "Encoder of the U-Net.", "choices": list(ARCHITECTURES)}
    )
    encoder_weights: str | None = field(
        default=None,
        metadata={
            "help": "What the encoder starts from; by default imagenet for efficientnet-lite0, random for the others.",
            "choices": ["imagenet", "random"],
        },
    )
    image_size: int = field(default=256, metadata={"help": "Longest edge in pixels that the network sees."})
    ema_decay: float = field(
        default=0.998, metadata={"help": "Per step, of the averaged weights that are evaluated and saved; 0 for none."}
    )


@dataclass
class FitArguments(TrainingArguments):
    """`TrainingArguments` with this project's recipe as defaults."""

    num_train_epochs: float = 15
    per_device_train_batch_size: int = 16
    per_device_eval_batch_size: int = 16
    learning_rate: float = 8e-4
    weight_decay: float = 0.01
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0.05
    bf16: bool | None = field(
        default=None, metadata={"help": "Mixed precision in bfloat16; by default where the hardware computes in it."}
    )
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    save_total_limit: int = 2
    logging_steps: float = 20
    dataloader_num_workers: int = 2
    # The Trainer reads the columns off forward()'s signature and would find none in a torch data set.
    remove_unused_columns: bool = False
    seed: int = 0

    def __post_init__(self):
        if self.output_dir is None:
            raise ValueError("--output_dir is missing; name the folder for checkpoints and the trained model.")
        if self.load_best_model_at_end:
            raise ValueError(
                "--load_best_model_at_end is not supported: what is saved is the average at the last epoch, because a "
                "best epoch chosen on the fold that scores it flatters the score."
            )
        # The Trainer refuses bfloat16 on a CPU unless it is told that the CPU is meant.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        if self.bf16 is None:
            self.bf16 = has_fast_bfloat16() and not self.fp16
        super().__post_init__()


class ExponentialMovingAverage:
    """Shadow of a model's floating-point state, ϑ' ← d·ϑ' + (1 - d)·ϑ after each step (Polyak and Juditsky 1992).

    The decay starts lower, as min(d, (1 + n) / (10 + n)) at step n, so that the random start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.steps = 0
        self.shadow = {name: tensor.clone() for name, tensor in self._floats(model).items()}

    @staticmethod
    def _floats(model: nn.Module) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        torch._foreach_lerp_(list(self.shadow.values()), list(self._floats(model).values()), 1 - decay)

    @contextlib.contextmanager
    @torch.no_grad()
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Within the block the model holds the averaged weights, afterwards its own again."""
        own = {name: tensor.clone() for name, tensor in self._floats(model).items()}
        model.load_state_dict(self.shadow, strict=False)
        try:
            yield
        finally:
            model.load_state_dict(own, strict=False)

    def save(self, path: Path) -> None:
        tensors = {name: tensor.contiguous() for name, tensor in self.shadow.items()}
        write_whole(path, safetensors.torch.save(tensors, {"steps": str(self.steps)}))

    def load(self, path: Path) -> None:
        with safetensors.safe_open(path, framework="pt") as file:
            self.steps = int(file.metadata()["steps"])
            for name, tensor in self.shadow.items():
                tensor.copy_(file.get_tensor(name))


class SegmentationTrainer(Trainer):
    """`Trainer` that averages the weights, evaluates the average and keeps it in every checkpoint."""

    def __init__(self, *args, ema_decay: float = 0.998, **kwargs):
        super().__init__(*args, **kwargs)
        self.ema = ExponentialMovingAverage(self.model, ema_decay)
        self.add_callback(_EachStep(self))

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        with self.ema.applied_to(self.model):
            return super().evaluate(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.ema.load(Path(resume_from_checkpoint) / EMA_FILE)

    def _save(self, output_dir=None, state_dict=None):
        output_dir = output_dir or self.args.output_dir
        self.model.save_pretrained(output_dir, state_dict=state_dict)
        self.processing_class.save_pretrained(output_dir)
        self.ema.save(Path(output_dir) / EMA_FILE)

    def create_model_card(self, *args, **kwargs):
        """The project writes its own card from its own evaluation."""


class _EachStep(TrainerCallback):
    """What the Trainer has no method for: the average follows every step, the augmentation every epoch."""

    def __init__(self, trainer: SegmentationTrainer):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer.train_dataset.set_epoch(int(state.epoch or 0))

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.ema.update(self.trainer.model)


def fit(slice_arguments: SliceArguments, fit_arguments: FitArguments) -> dict:
    """Train on all folds but one, resuming what is found in `output_dir`, and save the averaged weights there.

    Returns:
        The record of the run that is written to `training.json`. The Dice in it is taken at the network's resolution,
        to watch the training; figures to report come from `python -m train evaluate`.
    """
    transformers.set_seed(fit_arguments.seed)
    slices = load_slices(slice_arguments.data_dir, slice_arguments.persons)
    training, validation = split_fold(slices, slice_arguments.fold)
    logger.info(
        "Training on %d slices of %d persons, validating on %d of %d.",
        *(len(training), len(set(training["person_id"]))),
        *(len(validation), len(set(validation["person_id"]))),
    )
    processor = UNetImageProcessor(size={"longest_edge": slice_arguments.image_size})
    trainer = SegmentationTrainer(
        model=build_model(slice_arguments),
        args=fit_arguments,
        train_dataset=AugmentedSlices(prepare_slices(training, processor), Augmentation(), fit_arguments.seed),
        eval_dataset=AugmentedSlices(prepare_slices(validation, processor)),
        processing_class=processor,
        preprocess_logits_for_metrics=_predicted_labels,
        compute_metrics=_watched_metrics,
        ema_decay=slice_arguments.ema_decay,
    )
    output_dir = Path(fit_arguments.output_dir)
    identity = _identity(slice_arguments, trainer.model.config, training)
    checkpoint = _find_checkpoint(output_dir, identity)
    if checkpoint is None:
        write_json(output_dir / RECORD_FILE, identity)
    trainer.train(resume_from_checkpoint=checkpoint)
    with trainer.ema.applied_to(trainer.model):
        save_model(trainer.model, processor, output_dir)
    record = {**identity, **_record(trainer)}
    write_json(output_dir / RECORD_FILE, record)
    logger.info(
        "The trained model is in %s; score it with: python -m train evaluate --data_dir %s --model %s --fold %d",
        *(output_dir, slice_arguments.data_dir, output_dir, slice_arguments.fold),
    )
    return record


def build_model(arguments: SliceArguments) -> UNetForSemanticSegmentation:
    model = UNetForSemanticSegmentation(ARCHITECTURES[arguments.architecture]())
    default = "imagenet" if arguments.architecture == "efficientnet-lite0" else "random"
    if (arguments.encoder_weights or default) == "imagenet":
        load_imagenet_encoder(model)
    return model.to(memory_format=torch.channels_last)


def _identity(slice_arguments: SliceArguments, config: UNetConfig, training: Dataset) -> dict:
    """What makes a run this run and no other: a checkpoint of another one must not be resumed."""
    mask_hashes = "".join(sorted(training["mask_sha256"]))
    return {
        "fold": slice_arguments.fold,
        "architecture": slice_arguments.architecture,
        "encoder_initialization": config.encoder_initialization,
        "image_size": slice_arguments.image_size,
        "ema_decay": slice_arguments.ema_decay,
        "training_persons": len(set(training["person_id"])),
        "training_slices": len(training),
        "training_masks_sha256": hashlib.sha256(mask_hashes.encode()).hexdigest(),
    }


def _find_checkpoint(output_dir: Path, identity: dict) -> str | None:
    """The checkpoint to go on from, if there is one; a ValueError if it is another run's."""
    checkpoint = get_last_checkpoint(output_dir) if output_dir.is_dir() else None
    if checkpoint is None:
        return None
    path = output_dir / RECORD_FILE
    previous = json.loads(path.read_text()) if path.is_file() else {}
    for name, value in identity.items():
        if previous.get(name) != value:
            raise ValueError(
                f"{output_dir} holds another run ({name} was {previous.get(name)} and is now {value}); "
                "name another --output_dir or delete its checkpoints."
            )
    logger.info("Resuming from %s.", checkpoint)
    return checkpoint


def _record(trainer: SegmentationTrainer) -> dict:
    """What it takes to repeat the run, and how it went; where the files lay stays private."""
    log = trainer.state.log_history
    settings, defaults = trainer.args.to_sanitized_dict(), FitArguments(output_dir="").to_sanitized_dict()
    return {
        "trainer": {
            name: value
            for name, value in settings.items()
            if name in FitArguments.__annotations__ or (value != defaults[name] and name not in PRIVATE)
        },
        "augmentation": asdict(trainer.train_dataset.augmentation),
        "steps": trainer.state.global_step,
        "seconds_since_last_start": round(log[-1].get("train_runtime", 0)),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {_accelerator()}",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "validation": [
            {name: entry[name] for name in ("epoch", "eval_loss", *WATCHED)} for entry in log if "eval_loss" in entry
        ],
    }


def _accelerator() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def _predicted_labels(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits.argmax(dim=1).to(torch.uint8)


def _watched_metrics(prediction: EvalPrediction) -> dict[str, float]:
    dice = [
        Overlap.of((predicted == 1) & (true != IGNORE_INDEX), true == 1).dice
        for predicted, true in zip(prediction.predictions, prediction.label_ids, strict=True)
    ]
    return {
        "dice_at_network_size": float(np.mean(dice)),
        "zero_dice_rate": float(np.mean([value == 0 for value in dice])),
    }
