"""A faster copy of a network, for inference alone: the same result in fewer operations and, if it is faster, bfloat16.

    model ─ copy ─→ fold_normalization ─→ fold_upsampling ─→ channels_last, precision of the device ─→ network

Folding changes nothing but the order of rounding. Half precision moves the edge of a mask by a few pixels.
"""

import copy
import os

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .modeling_unet import UNetConvLayer, UNetDecoderLevel, UNetForSemanticSegmentation


def optimize_for_inference(model: UNetForSemanticSegmentation) -> UNetForSemanticSegmentation:
    """A copy of a model that computes the same logits faster on the model's device; the model stays as it is.

    The copy is neither to be saved nor to be trained: its layers are no longer those that its config describes.
    """
    network = copy.deepcopy(model).eval().requires_grad_(False)
    fold_normalization(network)
    if network.device.type == "cpu":
        fold_upsampling(network)
    for module in network.modules():
        if hasattr(module, "inplace"):
            module.inplace = True
    network.to(fastest_dtype(network.device), memory_format=torch.channels_last)
    # Computing the logits takes little time, and rounded ones would show as steps in the enlarged probability.
    network.head.float().register_forward_pre_hook(_in_float32)
    return network


def _in_float32(head: nn.Module, arguments: tuple[Tensor]) -> Tensor:
    """Hook of a layer. It is not a lambda, because a network with a lambda cannot be pickled."""
    return arguments[0].float()


def fastest_dtype(device: torch.device) -> torch.dtype:
    """The type of numbers that a device computes fastest with, among those that find the same tumours.

    A GPU is as fast in float16 as in bfloat16, and float16 keeps three more bits: probabilities differ from those of
    float32 by a tenth as much (docs/results.md). Logits that are too large for it are refused by the processor, not
    taken for an answer. CPUs are fast in bfloat16 alone.
    """
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if device.type == "cpu" and cpu_has_bfloat16() else torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether oneDNN multiplies bfloat16 natively, by AMX or AVX-512 BF16; emulated, it is fifty times slower."""
    # The oldest torch that we accept does not have `get_capabilities`.
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    is_limited = "ONEDNN_MAX_CPU_ISA" in os.environ
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")) and not is_limited


def fold_normalization(network: UNetForSemanticSegmentation):
    """Put every batch normalisation into the weights of the convolution in front of it."""
    for layer in network.modules():
        if isinstance(layer, UNetConvLayer):
            match [*layer]:
                case [nn.Conv2d() as convolution, nn.BatchNorm2d() as normalization, *_]:
                    layer[0] = fuse_conv_bn_eval(convolution, normalization)
                    del layer[1]


def fold_upsampling(network: UNetForSemanticSegmentation):
    """Replace the levels of a plain decoder that enlarges by repeating pixels; any other is left as it is."""
    config, levels = network.config, network.unet.decoder.levels
    if config.upsampling != "nearest" or config.decoder_block_type != "plain" or config.attention_gates:
        return
    in_widths = [config.skip_widths[config.reduction], *config.decoder_widths]
    for index, level in enumerate(levels):
        assert isinstance(level, UNetDecoderLevel)
        levels[index] = UNetFoldedDecoderLevel(level, in_widths[index])


class UNetFoldedDecoderLevel(nn.Module):
    """A decoder level whose upsampling, joining and first convolution are one operation.

    Convolving joined maps is convolving each and adding up. And a 3×3 convolution of a map that was enlarged by
    repeating its pixels sees only 2×2 different ones at a time: it equals a transposed 4×4 convolution of stride 2 of
    the small map, for 4/9 of the multiplications.
    """

    def __init__(self, level: UNetDecoderLevel, in_width: int):
        super().__init__()
        convolution, *rest = level.block.conv1
        assert isinstance(convolution, nn.Conv2d)
        self.kernel = nn.Parameter(transposed_kernel(convolution.weight[:, :in_width]))
        self.skip_kernel = nn.Parameter(convolution.weight[:, in_width:].clone())
        self.bias = convolution.bias
        self.rest = nn.Sequential(*rest, level.block.conv2)

    def forward(self, hidden_state: Tensor, skip: Tensor | None) -> Tensor:
        joined = F.conv_transpose2d(hidden_state, self.kernel, self.bias, stride=2, padding=1)
        if skip is not None:
            joined += F.conv2d(skip, self.skip_kernel, padding=1)
        return self.rest(joined)


def transposed_kernel(kernel: Tensor) -> Tensor:
    """Of a 3×3 convolution behind nearest-neighbour upsampling, [O, I, 3, 3] → of the transposed one, [I, O, 4, 4]."""
    O, I = kernel.shape[:2]  # noqa: E741
    planes = kernel.transpose(0, 1).flip(2, 3).reshape(-1, 1, 3, 3)
    return F.conv_transpose2d(planes, planes.new_ones(1, 1, 2, 2)).reshape(I, O, 4, 4)
