"""Mixed precision: where the hardware computes in bfloat16, and what is faster without it."""

from functools import partial

import torch
from torch import Tensor, nn

from modeling_unet.inference import cpu_has_bfloat16


def has_fast_bfloat16() -> bool:
    """Whether the machine computes in bfloat16 natively: such a GPU, or a CPU with AMX or AVX-512 BF16."""
    if torch.accelerator.is_available():
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return cpu_has_bfloat16()


def keep_depthwise_in_float32(model: nn.Module) -> None:
    """Let depthwise convolutions on a CPU leave autocast, in place.

    oneDNN's backward pass of them is two to five times slower in bfloat16 than in float32: a step of the default
    network takes 0.94 s instead of 1.44 s without it.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            module.forward = partial(_in_float32, module.forward)  # type: ignore[method-assign]


def _in_float32(convolution, features: Tensor) -> Tensor:
    with torch.autocast(features.device.type, enabled=False):
        return convolution(features.float()).to(features.dtype)
