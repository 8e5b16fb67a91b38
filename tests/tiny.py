"""U-Nets small enough for a test."""

from collections.abc import Sequence
from pathlib import Path

import torch

from modeling_unet import UNetConfig, UNetForSemanticSegmentation, UNetImageProcessor


# What leaves little of `UNetConfig.resnet34`, as for `--config`.
TINY = {
    "block_type": "residual",
    "stem_width": 4,
    "widths": [8, 16],
    "depths": [1, 1],
    "strides": [2, 2],
    "decoder_widths": [8, 8],
}

NESTED = ("whole", "core", "=rim")  # classes of `save_nested_model`
EVEN_LOGIT = 2.0  # of tumour, everywhere, by `save_even_model`


def tiny_config(**changes) -> UNetConfig:
    """Three plain stages without a stem: maps of 4, 6 and 8 channels at reductions 1, 2 and 4."""
    architecture = {
        "block_type": "plain",
        "stem_width": 0,
        "stem_stride": 1,
        "widths": [4, 6, 8],
        "depths": [1, 1, 1],
        "strides": [1, 2, 2],
        "kernel_sizes": None,
        "expansion_ratios": None,
        "decoder_widths": [6, 4],
    }
    return UNetConfig(**{**architecture, **changes})


def save_even_model(folder: Path) -> Path:
    """Write a model that gives every pixel of every slice the logit `EVEN_LOGIT`; returns its folder."""
    model = UNetForSemanticSegmentation(tiny_config())
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.constant_(model.head.bias, EVEN_LOGIT)
    model.save_pretrained(folder)
    UNetImageProcessor(size={"longest_edge": 32}).save_pretrained(folder)
    return folder


def save_nested_model(folder: Path, problem_type: str | None, names: Sequence[str] = NESTED) -> Path:
    """Write a model of three classes: a blurred slice, and what of it lies above three limits."""
    labels = dict(enumerate(("background", *names)))
    sizes = {"widths": [1, 1], "depths": [1, 1], "strides": [1, 2], "decoder_widths": [1]}
    model = UNetForSemanticSegmentation(tiny_config(id2label=labels, problem_type=problem_type, norm="none", **sizes))
    with torch.no_grad():
        for layer in model.unet.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight.fill_(1 / 9)
                torch.nn.init.zeros_(layer.bias)
        model.head.weight.copy_(torch.tensor([1.0, 4, 8]).view(3, 1, 1, 1))
        model.head.bias.copy_(torch.tensor([-0.5, -6, -20]))
    model.save_pretrained(folder)
    UNetImageProcessor(size={"longest_edge": 48}, problem_type=problem_type).save_pretrained(folder)
    return folder
