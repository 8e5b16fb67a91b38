"""Trained networks whose average a new one learns, beside the masks (Hinton et al. 2015; Beyer et al. 2022).

    augmented slices ─ teacher, teacher, … ─→ mean of their probabilities ─ soft cross-entropy ┐
                     └ student ─→ logits ────────────────────────────────────────────────────┴─→ loss

An ensemble is better than its members, and costs as much as all of them for every slice. A student costs as much as
one, and is a model as any other: every route loads it, it can be exported and published. The teachers look at the very
pictures that the student sees, augmented as they are, so nothing has to be kept of their answers.
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from modeling_unet import UNetForSemanticSegmentation, UNetImageProcessor
from modeling_unet.provenance import weights_hash
from modeling_unet.segmenter import loading

from ...record import read_record


class Teachers:
    """The average of trained networks, as the aim of another one.

    Args:
        models: their folders or Hub ids.
        model: what is to learn.
        processor: that of `model`.
        share: of the loss that is theirs; the masks have the rest.

    Raises:
        ValueError: a teacher has other labels or channels, or was trained at another size.
        OSError: a teacher cannot be read.
    """

    def __init__(
        self, models: list[str], model: UNetForSemanticSegmentation, processor: UNetImageProcessor, share: float
    ):
        self.share = share
        self.networks = []
        for name in models:
            with loading(name):
                network = UNetForSemanticSegmentation.from_pretrained(name, dtype=torch.float32)
                size = UNetImageProcessor.from_pretrained(name).size["longest_edge"]
            for what, theirs, ours in (
                ("num_labels", network.config.num_labels, model.config.num_labels),
                ("num_channels", network.config.num_channels, model.config.num_channels),
                ("image_size", size, processor.size["longest_edge"]),
            ):
                if theirs != ours:
                    raise ValueError(f"--teachers {name} has {what} {theirs}, and the new network {ours}.")
            self.networks.append(network.eval().requires_grad_(False).to(memory_format=torch.channels_last))

    def loss(self, logits: Tensor, pixel_values: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        """How far a network is from the average of the teachers: soft cross-entropy, a scalar.

        Args:
            logits: of the network, [B, num_labels, H, W].
            pixel_values: what it saw, [B, num_channels, H, W].
            labels: int [B, H, W]; where they are `ignore_index`, nothing counts.
        """
        if labels.ndim != 3:
            raise ValueError("--teachers are for classes that exclude each other; leave them out.")
        with torch.no_grad():
            networks = [network.to(logits.device) for network in self.networks]
            looks = [network(pixel_values).logits.float().softmax(dim=1) for network in networks]
            aim = torch.stack(looks).mean(dim=0)
        pixel_loss = -(aim * F.log_softmax(logits.float(), dim=1)).sum(dim=1)
        counted = labels != ignore_index
        return (pixel_loss * counted).sum() / counted.sum().clamp(min=1)


def describe(models: list[str]) -> list[dict]:
    """What the record of a student keeps of its teachers: hash of the weights, fold and number of slices of each."""
    told = []
    for model in models:
        record = read_record(model)
        facts = {name: record.get(name) for name in ("fold", "training_slices", "training_persons")}
        told.append({"name": Path(model).name, "sha256": weights_hash(model), **facts})
    return told
