"""Who is compared: the segmenter, and the networks that others would use.

The peers run in float32 and eager mode, at 256 px, and read the file with Pillow. Their weights are random, which costs
as much as any others.
"""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from modeling_unet import TumorSegmenter, UNetConfig, UNetForSemanticSegmentation


SIDE = 256  # of what the peers see, as with the shipped model


class Ours:
    """The segmenter as its users call it."""

    memory_format = torch.channels_last

    def __init__(self, model: Path, device: str = "cpu", optimize: str = "auto"):
        self.segmenter = TumorSegmenter.from_pretrained(model, device=device, optimize=optimize)
        self.network, self.dtype = self.segmenter.network, self.segmenter.network.dtype

    def from_file(self, content: bytes) -> np.ndarray:
        return self.segmenter(io.BytesIO(content)).probability

    def from_arrays(self, images: list[np.ndarray]) -> list[np.ndarray]:
        return [segmentation.probability for segmentation in self.segmenter.batch(images, batch_size=len(images))]


class Peer:
    """A network in float32, and the simplest code around it."""

    memory_format = torch.contiguous_format
    dtype = torch.float32

    def __init__(self, network: nn.Module, device: str = "cpu"):
        self.network = network.eval().to(device)

    def from_file(self, content: bytes) -> np.ndarray:
        return self.from_arrays([np.asarray(Image.open(io.BytesIO(content)).convert("L"))])[0]

    @torch.inference_mode()
    def from_arrays(self, images: list[np.ndarray]) -> list[np.ndarray]:
        resized = [
            np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for image in images
        ]
        pixel_values = torch.from_numpy(np.stack(resized)[:, None].astype(np.float32) / 255)
        outputs = self.network(pixel_values)
        logits = getattr(outputs, "logits", outputs)[:, -1:]
        return [
            F.interpolate(each[None], size=image.shape, mode="bilinear")[0, 0].sigmoid().numpy()
            for each, image in zip(logits, images, strict=True)
        ]


def make_resnet34(_: Path, device: str) -> Peer:
    return Peer(UNetForSemanticSegmentation(UNetConfig.resnet34()), device)


def make_basic_unet(_: Path, device: str) -> Peer:
    from monai.networks.nets import BasicUNet  # here, because it would count to the memory of the others

    return Peer(BasicUNet(spatial_dims=2, in_channels=1, out_channels=1), device)


# Name → what makes it of the model's folder and the device.
MAKERS: dict[str, Callable[[Path, str], Ours | Peer]] = {
    "ours": Ours,
    "ours, plain": partial(Ours, optimize="none"),
    "ResNet-34 U-Net": make_resnet34,
    "MONAI BasicUNet": make_basic_unet,
}
