"""U-Nets small enough for a test."""

from modeling_unet import UNetConfig


# What leaves little of `UNetConfig.resnet34`, as for `--config`.
TINY = {
    "block_type": "residual",
    "stem_width": 4,
    "widths": [8, 16],
    "depths": [1, 1],
    "strides": [2, 2],
    "decoder_widths": [8, 8],
}


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
