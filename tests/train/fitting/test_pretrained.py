import pytest
import torch

from modeling_unet import UNetConfig, UNetForSemanticSegmentation
from train.fitting import pretrained
from train.fitting.pretrained import load_imagenet_encoder


@pytest.fixture(scope="module")
def model() -> UNetForSemanticSegmentation:
    model = UNetForSemanticSegmentation(UNetConfig())
    load_imagenet_encoder(model)
    return model


def test_every_tensor_of_the_encoder_comes_from_imagenet(model):
    source = pretrained._read_imagenet_weights()
    encoder = model.unet.encoder.state_dict()
    torch.testing.assert_close(encoder["stages.0.0.depthwise.0.weight"], source["_blocks.0._depthwise_conv.weight"])
    torch.testing.assert_close(encoder["stages.6.0.project.1.running_var"], source["_blocks.15._bn2.running_var"])
    left_behind = {name for name in source if name.startswith(("_conv_head", "_bn1.", "_fc"))}
    assert len(encoder) == len(source) - len(left_behind)


def test_a_grey_slice_sees_the_sum_over_the_colours(model):
    source = pretrained._read_imagenet_weights()["_conv_stem.weight"]
    slices = torch.randn(2, 1, 32, 32)
    in_color = torch.nn.functional.conv2d(slices.expand(-1, 3, -1, -1), source, stride=2, padding=1)
    torch.testing.assert_close(model.unet.encoder.stem[0](slices), in_color, rtol=1e-4, atol=1e-4)


def test_the_weights_fit_the_architecture(model):
    """Features of a trained network keep their scale through 16 blocks; a wrong order or a wrong ε would not."""
    model.eval()
    with torch.inference_mode():
        deepest = model.unet.encoder(torch.randn(2, 1, 64, 64))[-1]
    assert 0.1 < deepest.std() < 10


def test_the_config_names_the_origin(model):
    assert model.config.encoder_initialization == "imagenet-efficientnet-lite0"


def test_three_channels_keep_the_colours():
    model = UNetForSemanticSegmentation(UNetConfig(num_channels=3))
    load_imagenet_encoder(model)
    source = pretrained._read_imagenet_weights()["_conv_stem.weight"]
    torch.testing.assert_close(model.unet.encoder.stem[0].weight.data, source)


def test_another_encoder_is_refused():
    config = UNetConfig.resnet34(widths=[8, 8, 8, 8], stem_width=8)
    with pytest.raises(ValueError, match="EfficientNet-Lite0"):
        load_imagenet_encoder(UNetForSemanticSegmentation(config))
