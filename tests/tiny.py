"""U-Nets small enough for a test."""

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
