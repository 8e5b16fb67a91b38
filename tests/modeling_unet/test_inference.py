"""The faster copy of a network gives what the model gives, and leaves the model alone."""

import copy
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from surroundings import ROOT
from tiny import TINY, tiny_config
from torch import nn

from modeling_unet import TumorSegmenter, UNetConfig, UNetForSemanticSegmentation, UNetImageProcessor, inference
from modeling_unet.inference import UNetFoldedDecoderLevel, fastest_dtype, optimize_for_inference, transposed_kernel


EXAMPLES = sorted((ROOT / "examples" / "images").glob("*.png"))
# Folding measured 8e-6 over the nine examples and no pixel; another processor adds in another order.
FOLDED_TOLERANCE = 1e-4
# bfloat16 keeps three digits; measured over the nine examples 0.10, and 412 of 262,144 pixels, where a part of a glioma
# has a probability of about one half.
MAX_BFLOAT16_ERROR = 0.2
MAX_BFLOAT16_PIXELS = 600

CONFIGS = {
    "plain": tiny_config(),
    "level without a skip": UNetConfig(
        **{**TINY, "stem_width": 0, "stem_stride": 1, "strides": [1, 2], "decoder_widths": [8]}
    ),
    "inverted residuals": tiny_config(
        block_type="inverted_residual", kernel_sizes=[3, 3, 5], expansion_ratios=[1, 6, 6], hidden_act="relu6"
    ),
    "residual, stem": UNetConfig(**TINY),
    "residual decoder": tiny_config(decoder_block_type="residual"),
    "attention": tiny_config(attention_gates=True),
    "transposed": tiny_config(upsampling="transpose"),
    "bilinear": tiny_config(upsampling="bilinear"),
    "group norm": tiny_config(norm="group", norm_groups=2),
    "no norm": tiny_config(norm="none"),
    "SiLU": tiny_config(hidden_act="silu", decoder_act="leaky_relu"),
    "three labels": tiny_config(num_labels=3),
}


@pytest.fixture
def in_float32(monkeypatch):
    """A processor without instructions for bfloat16."""
    monkeypatch.setattr(inference, "cpu_has_bfloat16", lambda: False)


@pytest.fixture
def in_bfloat16(monkeypatch):
    """A processor with them, or one that has to emulate them."""
    monkeypatch.setattr(inference, "cpu_has_bfloat16", lambda: True)


@pytest.fixture(scope="module")
def folded(shipped_weights) -> TumorSegmenter:
    """Its copy in float32."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(inference, "cpu_has_bfloat16", lambda: False)
        return TumorSegmenter.from_pretrained(shipped_weights, device="cpu")


@pytest.fixture(scope="module")
def plain(shipped_weights) -> TumorSegmenter:
    """The shipped model as it is."""
    return TumorSegmenter.from_pretrained(shipped_weights, device="cpu", optimize="none")


def make_model(config: UNetConfig) -> UNetForSemanticSegmentation:
    """Random weights and batch statistics: those of a new model would fold to nothing."""
    torch.manual_seed(0)
    model = UNetForSemanticSegmentation(config).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    return model


@torch.inference_mode()
def logits_of(network: nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
    return network(pixel_values.to(network.dtype, memory_format=torch.channels_last)).logits


class TestCopy:
    @pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
    @pytest.mark.parametrize("size", [(32, 32), (17, 30)])
    def test_folded_it_gives_the_same_logits(self, config, size, in_float32):
        model = make_model(config)
        pixel_values = torch.randn(2, 1, *size)
        expected, logits = logits_of(model, pixel_values), logits_of(optimize_for_inference(model), pixel_values)
        assert expected.std() > 0.01
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=FOLDED_TOLERANCE)

    @pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
    def test_in_bfloat16_it_is_close_and_its_logits_are_float32(self, config, in_bfloat16):
        model = make_model(config)
        pixel_values = torch.randn(2, 1, 32, 32)
        expected, logits = logits_of(model, pixel_values), logits_of(optimize_for_inference(model), pixel_values)
        assert logits.dtype == torch.float32
        # 0.02 where the CPU computes in bfloat16, up to 0.036 where oneDNN imitates it.
        assert (logits - expected).abs().mean() < 0.05 * expected.abs().mean()

    def test_nothing_is_left_to_normalize_or_to_enlarge(self):
        kinds = {type(module) for module in optimize_for_inference(make_model(UNetConfig(**TINY))).modules()}
        assert UNetFoldedDecoderLevel in kinds
        assert not kinds & {nn.BatchNorm2d, nn.Upsample}

    def test_the_model_stays_as_it_is(self):
        model = make_model(UNetConfig(**TINY)).train()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        network = optimize_for_inference(model)
        assert model.training and not network.training
        assert all(parameter.requires_grad for parameter in model.parameters())
        after = model.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())

    def test_no_random_number_is_drawn(self):
        model = make_model(tiny_config())
        state = torch.get_rng_state()
        optimize_for_inference(model)
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("size", [(1, 1), (5, 8)])
def test_the_transposed_convolution_is_that_of_the_enlarged_map(size):
    kernel, small = torch.randn(3, 2, 3, 3), torch.randn(1, 2, *size)
    expected = F.conv2d(F.interpolate(small, scale_factor=2, mode="nearest"), kernel, padding=1)
    torch.testing.assert_close(F.conv_transpose2d(small, transposed_kernel(kernel), stride=2, padding=1), expected)


class TestPrecision:
    @pytest.mark.parametrize(
        ("capabilities", "limit", "expected"),
        [
            ({"avx512_bf16": True}, None, torch.bfloat16),
            ({"amx_bf16": True}, None, torch.bfloat16),
            ({"avx512_f": True, "avx512_bf16": False}, None, torch.float32),
            ({}, None, torch.float32),
            ({"avx512_bf16": True}, "AVX2", torch.float32),
        ],
    )
    def test_cpu(self, capabilities, limit, expected, monkeypatch):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        if limit:
            monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        assert fastest_dtype(torch.device("cpu")) == expected

    def test_a_torch_that_cannot_tell(self, monkeypatch):
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
        assert fastest_dtype(torch.device("cpu")) == torch.float32

    def test_cuda(self):
        assert fastest_dtype(torch.device("cuda")) == torch.float16

    def test_mps(self):
        assert fastest_dtype(torch.device("mps")) == torch.float32


class TestSegmenter:
    @pytest.fixture
    def model_dir(self, tmp_path) -> Path:
        make_model(tiny_config()).save_pretrained(tmp_path / "model")
        UNetImageProcessor(size={"longest_edge": 32}).save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    def test_what_runs_is_the_copy_and_what_is_saved_the_model(self, model_dir, tmp_path):
        segmenter = TumorSegmenter.from_pretrained(model_dir, device="cpu")
        runs = []
        segmenter.network.register_forward_hook(lambda *_: runs.append(1))
        segmenter.model.register_forward_hook(lambda *_: pytest.fail("the model ran itself"))
        segmenter(np.eye(40, dtype=np.uint8))
        assert runs == [1]
        segmenter.model.save_pretrained(tmp_path / "saved")
        saved, loaded = (load_file(folder / "model.safetensors") for folder in (tmp_path / "saved", model_dir))
        assert saved.keys() == loaded.keys()
        assert all(torch.equal(saved[name], loaded[name]) for name in loaded)

    def test_without_it_the_model_runs_itself(self, model_dir):
        segmenter = TumorSegmenter.from_pretrained(model_dir, device="cpu", optimize="none")
        assert segmenter.network is segmenter.model

    def test_another_word_is_refused(self, model_dir):
        with pytest.raises(ValueError, match="optimize is 'fast'; allowed are auto, none"):
            TumorSegmenter.from_pretrained(model_dir, device="cpu", optimize="fast")


class TestShipped:
    @pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
    def test_folded_it_finds_the_same_pixels(self, path, plain, folded):
        fast, expected = folded(path), plain(path)
        np.testing.assert_allclose(fast.probability, expected.probability, atol=FOLDED_TOLERANCE)
        assert np.count_nonzero(fast.mask != expected.mask) <= 2

    @pytest.mark.parametrize("path", EXAMPLES[::4], ids=lambda path: path.stem)
    @pytest.mark.slow
    def test_in_bfloat16_it_moves_edges_by_little(self, path, plain, shipped_weights, in_bfloat16):
        fast = TumorSegmenter.from_pretrained(shipped_weights, device="cpu")(path)
        expected = plain(path)
        assert np.abs(fast.probability - expected.probability).max() < MAX_BFLOAT16_ERROR
        assert np.count_nonzero(fast.mask != expected.mask) <= MAX_BFLOAT16_PIXELS

    @pytest.mark.slow
    def test_in_float16_it_moves_edges_by_a_tenth_of_that(self, plain, shipped_weights, monkeypatch):
        """As on a GPU."""
        monkeypatch.setattr(inference, "fastest_dtype", lambda device: torch.float16)
        fast, expected = TumorSegmenter.from_pretrained(shipped_weights, device="cpu")(EXAMPLES[0]), plain(EXAMPLES[0])
        assert np.abs(fast.probability - expected.probability).max() < MAX_BFLOAT16_ERROR / 10
        assert np.count_nonzero(fast.mask != expected.mask) <= MAX_BFLOAT16_PIXELS / 10

    @pytest.mark.slow
    def test_it_can_be_copied_and_sent_to_another_process(self, shipped_weights):
        """As `multiprocessing`, joblib and Ray send it."""
        segmenter = TumorSegmenter.from_pretrained(shipped_weights, device="cpu")
        assert segmenter.network is not segmenter.model
        expected = segmenter(EXAMPLES[0])
        with get_context("spawn").Pool(1) as pool:
            elsewhere = pool.apply(segmenter, (EXAMPLES[0],))
        for found in (elsewhere, copy.deepcopy(segmenter)(EXAMPLES[0])):
            assert expected.mask.any()
            np.testing.assert_array_equal(found.mask, expected.mask)
            np.testing.assert_allclose(found.probability, expected.probability, atol=FOLDED_TOLERANCE)
