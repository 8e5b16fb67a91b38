import torch
from torch import nn

from train.fitting.precision import keep_depthwise_in_float32


def test_depthwise_convolutions_leave_autocast_and_others_do_not(monkeypatch):
    seen = []
    convolve = nn.functional.conv2d

    def watched(features, weight, *args):
        seen.append((weight.shape[1] == 1, torch.is_autocast_enabled("cpu"), features.dtype))
        return convolve(features, weight, *args)

    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 4, 1))
    pixels = torch.randn(2, 4, 8, 8)
    exact = model(pixels)
    keep_depthwise_in_float32(model)
    monkeypatch.setattr(nn.functional, "conv2d", watched)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(pixels)
    assert seen == [(False, True, torch.float32), (True, False, torch.float32), (False, True, torch.bfloat16)]
    torch.testing.assert_close(mixed.float(), exact, atol=0.05, rtol=0.05)
    mixed.float().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
