"""The Hugging Face `Trainer`, with an average of the weights, epoch means, and checkpoints that can be trusted."""

import sys
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    EarlyStoppingCallback,
    EvalPrediction,
    Trainer,
    TrainerCallback,
)

from modeling_unet import UNetForSemanticSegmentation, UNetImageProcessor
from modeling_unet.comparison import Overlap
from modeling_unet.files import write_atomically
from modeling_unet.image_processing_unet import IGNORE_INDEX

from ..data.slices import AugmentedSlices
from ..files import save_model
from .checkpoints import keep_newest, seal
from .earlier.teachers import Teachers
from .ema import ExponentialMovingAverage
from .options import FitArguments


EMA_FILE = "ema.safetensors"
EPOCH_MEANS_FILE = "epoch_means.safetensors"
BEST_FOLDER = "best"
WATCHED = ("eval_dice_at_network_size", "eval_iou_at_network_size", "eval_zero_dice_rate")


class SegmentationTrainer(Trainer):
    """`Trainer` that averages the weights, evaluates the average, and keeps it in every checkpoint, sealed."""

    args: FitArguments
    model: UNetForSemanticSegmentation
    processing_class: UNetImageProcessor
    train_dataset: AugmentedSlices

    def __init__(self, teachers: Teachers | None = None, **kwargs):
        super().__init__(compute_metrics=self._watch, preprocess_logits_for_metrics=predicted_labels, **kwargs)
        if self.args.freeze_encoder:
            self.model.unet.encoder.requires_grad_(False)
        self.ema = ExponentialMovingAverage(self.model, self.args.ema_decay, self.args.ema_warm_up)
        self.epoch_means = EpochMeans(self.args.device)
        self.teachers = teachers
        self.validation_dice: list[float] = []
        self.overlaps: list[list[Overlap]] = []
        self.add_callback(_EachStep(self))
        if self.args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(self.args.early_stopping_patience))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.args.freeze_encoder:
            # Before every step the Trainer puts the whole model into training mode, where batch statistics move.
            self.model.unet.encoder.eval()
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training and self.teachers is not None:
            ignored = self.model.config.semantic_loss_ignore_index
            aim = self.teachers.loss(outputs.logits, inputs["pixel_values"], inputs["labels"], ignored)
            loss = (1 - self.teachers.share) * loss + self.teachers.share * aim
        if model.training:
            self.epoch_means.add(loss, outputs.logits, inputs["labels"])
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        self.ema.synchronize()
        self.overlaps.clear()  # of an evaluation that was broken off
        with self.ema.applied_to(self.model):
            return super().evaluate(*args, **kwargs)

    def save_average(self, folder: Path) -> None:
        """Write the averaged weights as a model folder; on the first process only."""
        if self.args.should_save:
            with self.ema.applied_to(self.model):
                save_model(self.model, self.processing_class, folder)

    def log_epoch(self) -> None:
        """Log the means over the training slices since the last call, as `epoch_loss`, `epoch_dice`, `epoch_iou`."""
        if means := self.epoch_means.take(self.accelerator.reduce):
            self.log({f"epoch_{name}": value for name, value in means.items()})

    def _watch(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        """Dice and IoU at the network's size, to watch the training; figures to report come from `evaluate`.

        Of several classes they are the means over the classes, and `dice_at_network_size_NAME` is that of each.

        Args:
            prediction: of one batch after another, so that no mask is kept.
            compute_result: whether that was the last one; before it there are no figures.
        """
        names = self.model.config.class_names
        masks = (torch.as_tensor(part).cpu().numpy() for part in (prediction.predictions, prediction.label_ids))
        self.overlaps += [
            overlaps_of(planes_of(predicted, len(names)), planes_of(true, len(names)))
            for predicted, true in zip(*masks, strict=True)
        ]
        if not compute_result:
            return {}
        overlaps, self.overlaps = self.overlaps, []
        dice = np.array([[overlap.dice for overlap in of_slice] for of_slice in overlaps])
        self.validation_dice = dice.mean(axis=1).tolist()
        of_classes = zip(names, dice.mean(axis=0).tolist(), strict=True)
        return {
            "dice_at_network_size": float(np.mean(self.validation_dice)),
            "iou_at_network_size": float(np.mean([overlap.iou for of_slice in overlaps for overlap in of_slice])),
            "zero_dice_rate": float(np.mean([value == 0 for value in self.validation_dice])),
            **({f"dice_at_network_size_{name}": mean for name, mean in of_classes} if len(names) > 1 else {}),
        }

    def _determine_best_metric(self, metrics, trial):
        is_best = super()._determine_best_metric(metrics, trial)
        if is_best:
            self.save_average(Path(self.args.output_dir) / BEST_FOLDER)
        return is_best

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self.ema.load(Path(resume_from_checkpoint) / EMA_FILE)
        self.epoch_means.load(Path(resume_from_checkpoint) / EPOCH_MEANS_FILE, self.is_world_process_zero())

    def _save_checkpoint(self, model, trial):
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        # The Trainer would delete old checkpoints before the new one is sealed.
        keep, self.args.save_total_limit = self.args.save_total_limit, None
        epoch_sums = self.accelerator.reduce(self.epoch_means.sums, reduction="sum")
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process writes its own random state
            if self.args.should_save:
                write_atomically(checkpoint / EPOCH_MEANS_FILE, safetensors.torch.save({"sums": epoch_sums}))
                seal(checkpoint)
                keep_newest(checkpoint.parent, keep or sys.maxsize)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise OSError(
                f"{checkpoint} could not be written ({error}); is the disk full? Started again, the run goes on from "
                "the checkpoint before it."
            ) from error
        finally:
            self.args.save_total_limit = keep

    def _save(self, output_dir=None, state_dict=None):
        output_dir = output_dir or self.args.output_dir
        self.model.save_pretrained(output_dir, state_dict=state_dict)
        self.processing_class.save_pretrained(output_dir)
        self.ema.save(Path(output_dir) / EMA_FILE)

    def create_model_card(self, *args, **kwargs):
        """Do nothing: the project writes its own card."""


class _EachStep(TrainerCallback):
    """Updates for which the Trainer has no method: the average after every step, the augmentation in every epoch."""

    def __init__(self, trainer: SegmentationTrainer):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer.train_dataset.set_epoch(int(state.epoch or 0))

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.ema.update(self.trainer.model)

    def on_epoch_end(self, args, state, control, **kwargs):
        self.trainer.log_epoch()


class EpochMeans:
    """Loss, Dice and IoU of the training slices, all classes as one, summed on the device so that no step waits for it.

    Dice and IoU are taken at the network's size, on augmented slices, while the weights move: they show how the
    training goes, and are not comparable with the validation's to the last digit. (The Trainer's own `loss` is a mean
    over the last `logging_steps`, which starts anew at a resume.)
    """

    NAMES = ("loss", "dice", "iou")

    def __init__(self, device: torch.device):
        self.sums = torch.zeros(len(self.NAMES) + 1, device=device)

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        predicted, true = predicted_labels(logits, labels) > 0, (labels > 0) & (labels != IGNORE_INDEX)
        predicted = predicted & (labels != IGNORE_INDEX)
        if labels.ndim == 4:
            predicted, true = predicted.any(dim=1), true.any(dim=1)
        intersection = (predicted & true).sum(dim=(1, 2))
        total = predicted.sum(dim=(1, 2)) + true.sum(dim=(1, 2))
        dice = torch.where(total > 0, 2 * intersection / total, 1.0)
        iou = torch.where(total > 0, intersection / (total - intersection), 1.0)
        count = torch.tensor(len(labels), device=loss.device)
        self.sums += torch.stack([loss.detach().mean() * count, dice.sum(), iou.sum(), count])

    def load(self, path: Path, is_first_process: bool) -> None:
        """Go on from the sums of all processes, as they were in the middle of an epoch."""
        sums = safetensors.torch.load_file(path)["sums"].to(self.sums)
        self.sums.copy_(sums if is_first_process else torch.zeros_like(sums))

    def take(self, reduce) -> dict[str, float]:
        """Means over all slices and processes since the last call; {} if there were none."""
        *sums, count = reduce(self.sums, reduction="sum").tolist()
        self.sums.zero_()
        return {name: value / count for name, value in zip(self.NAMES, sums, strict=True)} if count else {}


def predicted_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """[B, K + 1, H, W] → uint8 of the shape of `labels`, as the Trainer passes them: [B, H, W], or [B, K, H, W]."""
    return (logits[:, 1:] > 0 if labels.ndim == 4 else logits.argmax(dim=1)).to(torch.uint8)


def overlaps_of(predicted: np.ndarray, true: np.ndarray) -> list[Overlap]:
    """Of each class, of the planes that `planes_of` gives."""
    return [
        Overlap.of((own == 1) & (other != IGNORE_INDEX), other == 1) for own, other in zip(predicted, true, strict=True)
    ]


def planes_of(labels: np.ndarray, count: int) -> np.ndarray:
    """[H, W] of 0…K, or [K, H, W] of 0 and 1 → [K, H, W] of 0 and 1; the index to ignore stays."""
    if labels.ndim == 3:
        return labels
    numbers = np.arange(1, count + 1)[:, None, None]
    return np.where(labels == IGNORE_INDEX, IGNORE_INDEX, labels == numbers)
