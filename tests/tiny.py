"""A U-Net small enough for a test."""

from modeling_unet import UNetConfig


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
