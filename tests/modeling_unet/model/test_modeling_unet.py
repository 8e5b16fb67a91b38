"""The network: what every option builds, forward and backward passes, loading and saving, and the loss, by hand."""

import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import load_file, save_file
from tiny import tiny_config
from torch import nn
from torch.testing import assert_close
from transformers import AutoModelForSemanticSegmentation, ResNetConfig, ResNetModel, Trainer, TrainingArguments
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutput, SemanticSegmenterOutput

from modeling_unet import UNetConfig, UNetForSemanticSegmentation, UNetModel
from modeling_unet.modeling_unet import (
    UNetAttentionGate,
    UNetInvertedResidualBlock,
    UNetPlainBlock,
    UNetResidualBlock,
    cross_entropy_loss,
    dice_loss,
    focal_loss,
    segmentation_loss,
)


# The three networks of the project with a handful of channels, and one with everything that they leave out.
ARCHITECTURES = {
    "default": UNetConfig(
        stem_width=4, widths=[4, 4, 6, 6, 6, 8, 8], depths=[1, 2, 1, 1, 1, 1, 1], decoder_widths=[8, 6, 6, 4]
    ),
    "ronneberger2015": UNetConfig.ronneberger2015(widths=[4, 4, 6, 6, 8], decoder_widths=[6, 6, 4, 4]),
    "resnet34": UNetConfig.resnet34(
        stem_width=4, widths=[4, 6, 6, 8], depths=[1, 2, 1, 1], decoder_widths=[8, 6, 6, 4, 4]
    ),
    "all_options": UNetConfig(
        block_type="residual",
        stem_width=4,
        stem_stride=1,
        widths=[4, 8],
        depths=[1, 2],
        strides=[2, 2],
        downsampling="max_pool",
        decoder_widths=[8, 4],
        decoder_block_type="residual",
        upsampling="transpose",
        attention_gates=True,
        deep_supervision=True,
        norm="group",
        norm_groups=2,
        num_channels=2,
        num_labels=3,
        kernel_sizes=None,
        expansion_ratios=None,
        focal_loss_weight=1.0,
        presence_logit=1.0,
    ),
}


@pytest.fixture(params=ARCHITECTURES)
def config(request) -> UNetConfig:
    return copy.deepcopy(ARCHITECTURES[request.param])


def build(config: UNetConfig, seed: int = 0) -> UNetForSemanticSegmentation:
    torch.manual_seed(seed)
    return UNetForSemanticSegmentation(config).eval()


def inputs(config: UNetConfig, batch: int = 2, height: int = 64, width: int = 64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "pixel_values": torch.randn(batch, config.num_channels, height, width, generator=generator),
        "labels": torch.randint(config.num_labels, (batch, height, width), generator=generator),
    }


def modules(model: nn.Module, kind: type) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, kind)]


# ----------------------------------------------------------------------------------------------------- the architecture


class TestParameterCounts:
    @pytest.mark.parametrize(
        ("config", "parameters"),
        [
            pytest.param(UNetConfig(), 3_971_041, id="default"),
            pytest.param(UNetConfig.ronneberger2015(), 31_030_593, id="ronneberger2015"),
            # Two output maps, as in the paper: 64 weights and a bias more in the last convolution.
            pytest.param(UNetConfig.ronneberger2015(num_labels=3), 31_030_658, id="ronneberger2015-two-maps"),
            pytest.param(UNetConfig.resnet34(), 24_429_969, id="resnet34"),
            # Two input channels more for 64 kernels of 7 × 7: 6,272 weights.
            pytest.param(UNetConfig.resnet34(num_channels=3), 24_436_241, id="resnet34-three-channels"),
        ],
    )
    def test_are_those_of_the_papers(self, config, parameters):
        with torch.device("meta"):
            assert UNetForSemanticSegmentation(config).num_parameters() == parameters


class TestEncoder:
    @pytest.mark.parametrize(
        ("changes", "shapes"),
        [
            pytest.param({}, [(4, 64), (6, 32), (8, 16)], id="no-stem"),
            pytest.param({"stem_width": 5}, [(4, 64), (6, 32), (8, 16)], id="stem"),
            pytest.param({"stem_width": 5, "stem_stride": 2}, [(4, 32), (6, 16), (8, 8)], id="strided-stem"),
            pytest.param({"stem_width": 5, "strides": [2, 1, 2]}, [(5, 64), (6, 32), (8, 16)], id="stem-is-a-skip"),
            pytest.param(
                {"stem_width": 5, "stem_stride": 2, "stem_pool": True},
                [(5, 32), (4, 16), (6, 8), (8, 4)],
                id="stem-and-pool",
            ),
            pytest.param(
                {"stem_width": 5, "stem_stride": 2, "stem_pool": True, "strides": [2, 1, 1]},
                [(5, 32), (5, 16), (8, 8)],
                id="stem-and-pool-and-stride",
            ),
            pytest.param({"downsampling": "max_pool"}, [(4, 64), (6, 32), (8, 16)], id="max-pool"),
        ],
    )
    def test_maps_have_the_widths_and_reductions_that_the_config_knows(self, changes, shapes):
        config = tiny_config(**changes)
        feature_maps = build(config).unet.encoder(torch.randn(1, 1, 64, 64))
        assert [tuple(feature_map.shape[1:3]) for feature_map in feature_maps] == shapes
        assert config.skip_widths == {64 // side: width for width, side in shapes}

    @pytest.mark.parametrize(
        ("block_type", "block"),
        [
            ("plain", UNetPlainBlock),
            ("residual", UNetResidualBlock),
            ("inverted_residual", UNetInvertedResidualBlock),
        ],
    )
    def test_block_type_and_depths_choose_the_blocks(self, block_type, block):
        config = tiny_config(block_type=block_type, depths=[1, 2, 3], kernel_sizes=[3] * 3, expansion_ratios=[2] * 3)
        stages = build(config).unet.encoder.stages
        assert [[type(layer) for layer in stage] for stage in stages] == [[block], [block] * 2, [block] * 3]

    def test_kernel_sizes_and_expansion_ratios_shape_the_inverted_residuals(self):
        config = tiny_config(block_type="inverted_residual", kernel_sizes=[3, 5, 7], expansion_ratios=[1, 3, 2])
        depthwise = [block.depthwise[0] for block in modules(build(config), UNetInvertedResidualBlock)]
        # Input channels times ratio, one group per channel: 1 · 1, 4 · 3 and 6 · 2.
        assert [(conv.groups, conv.kernel_size[0], conv.stride[0]) for conv in depthwise] == [
            (1, 3, 1),
            (12, 5, 2),
            (12, 7, 2),
        ]

    @pytest.mark.parametrize(("downsampling", "pools", "strided"), [("stride", 0, 2), ("max_pool", 2, 0)])
    def test_downsampling_is_by_stride_or_by_pooling(self, downsampling, pools, strided):
        encoder = build(tiny_config(downsampling=downsampling)).unet.encoder
        assert len(modules(encoder, nn.MaxPool2d)) == pools
        assert sum(conv.stride == (2, 2) for conv in modules(encoder, nn.Conv2d)) == strided

    def test_stem_options_shape_the_first_convolution(self):
        stem = build(tiny_config(stem_width=5, stem_kernel_size=7, stem_stride=2, num_channels=3)).unet.encoder.stem[0]
        assert (stem.weight.shape, stem.stride) == ((5, 3, 7, 7), (2, 2))

    @pytest.mark.parametrize("block_type", ["residual", "inverted_residual"])
    def test_a_silent_residual_branch_leaves_its_input(self, block_type):
        config = tiny_config(block_type=block_type, depths=[2, 1, 1], kernel_sizes=[3] * 3, expansion_ratios=[2] * 3)
        block = build(config).unet.encoder.stages[0][1]
        last = block.conv2 if block_type == "residual" else block.project
        nn.init.zeros_(last[1].weight)
        hidden_state = torch.rand(1, 4, 8, 8)  # positive, so that the activation changes nothing
        assert torch.equal(block(hidden_state), hidden_state)

    def test_the_residual_encoder_is_the_resnet_of_transformers(self):
        config = ARCHITECTURES["resnet34"]
        encoder = build(config).unet.encoder
        resnet = ResNetModel(
            ResNetConfig(
                num_channels=1,
                embedding_size=config.stem_width,
                hidden_sizes=config.widths,
                depths=config.depths,
                layer_type="basic",
            )
        ).eval()
        names = {
            r"embedder\.embedder\.": "stem.",
            r"encoder\.stages\.(\d+)\.layers\.(\d+)\.": r"stages.\1.\2.",
            r"layer\.0\.": "conv1.",
            r"layer\.1\.": "conv2.",
            r"convolution\.": "0.",
            r"normalization\.": "1.",
        }
        weights = {}
        for name, weight in resnet.state_dict().items():
            for theirs, ours in names.items():
                name = re.sub(theirs, ours, name)
            weights[name] = weight
        encoder.load_state_dict(weights)
        pixel_values = inputs(config)["pixel_values"]
        # Theirs: what the stem pools to, then the stages. Ours starts before that pool.
        theirs = resnet(pixel_values, output_hidden_states=True).hidden_states[1:]
        assert_close(encoder(pixel_values)[1:], list(theirs))


class TestDecoder:
    @pytest.mark.parametrize(
        ("upsampling", "kind", "mode"),
        [
            ("nearest", nn.Upsample, "nearest"),
            ("bilinear", nn.Upsample, "bilinear"),
            ("transpose", nn.ConvTranspose2d, None),
        ],
    )
    def test_upsampling_chooses_the_layer(self, upsampling, kind, mode):
        layers = [level.upsample for level in build(tiny_config(upsampling=upsampling)).unet.decoder.levels]
        assert [(type(layer), getattr(layer, "mode", None)) for layer in layers] == [(kind, mode)] * 2

    @pytest.mark.parametrize(
        ("decoder_block_type", "block"), [("plain", UNetPlainBlock), ("residual", UNetResidualBlock)]
    )
    def test_decoder_block_type_chooses_the_blocks(self, decoder_block_type, block):
        decoder = build(tiny_config(decoder_block_type=decoder_block_type)).unet.decoder
        assert [type(level.block) for level in decoder.levels] == [block] * 2

    def test_every_level_sees_the_skip_of_its_own_resolution(self):
        decoder = build(tiny_config(decoder_widths=[7, 5])).unet.decoder
        assert [level.block.conv1[0].in_channels for level in decoder.levels] == [8 + 6, 7 + 4]
        assert [level.block.conv1[0].out_channels for level in decoder.levels] == [7, 5]

    def test_a_level_without_a_skip_goes_without(self):
        # The stem reduces by 2 at once, so nothing waits at full resolution.
        decoder = build(tiny_config(stem_width=4, stem_stride=2, decoder_widths=[6, 4, 5])).unet.decoder
        assert [level.block.conv1[0].in_channels for level in decoder.levels] == [8 + 6, 6 + 4, 4]

    def test_fewer_levels_than_reductions_enlarge_the_logits_bilinearly(self):
        model = build(tiny_config(decoder_widths=[6]))
        pixel_values = inputs(model.config)["pixel_values"]
        coarse = model.unet(pixel_values).last_hidden_state
        assert coarse.shape == (2, 6, 32, 32)
        tumor = F.interpolate(model.head(coarse), size=(64, 64), mode="bilinear", align_corners=False)
        assert_close(model(pixel_values).logits[:, 1:], tumor)

    def test_attention_gates_stand_at_the_skips_only(self):
        config = tiny_config(stem_width=4, stem_stride=2, decoder_widths=[6, 4, 5])
        assert len(modules(build(config), UNetAttentionGate)) == 0
        config.attention_gates = True
        gates = [level.attention_gate for level in build(config).unet.decoder.levels]
        assert [type(gate) for gate in gates] == [UNetAttentionGate, UNetAttentionGate, type(None)]

    @pytest.mark.parametrize(("bias", "weight"), [(-100.0, 0.0), (0.0, 0.5), (100.0, 1.0)])
    def test_an_attention_gate_weighs_its_skip(self, bias, weight):
        gate = UNetAttentionGate(tiny_config(), skip_width=6, gate_width=8)
        nn.init.zeros_(gate.attention.weight)
        nn.init.constant_(gate.attention.bias, bias)
        skip = torch.randn(1, 6, 5, 7)
        assert_close(gate(skip, torch.randn(1, 8, 5, 7)), weight * skip)


class TestBothHalves:
    @pytest.mark.parametrize(
        ("norm", "kind", "groups"),
        [
            ("batch", nn.BatchNorm2d, None),
            ("group", nn.GroupNorm, {2}),
            ("instance", nn.GroupNorm, {4, 6, 8}),
        ],
    )
    def test_norm_chooses_the_layer_and_spares_the_bias(self, norm, kind, groups):
        unet = build(tiny_config(norm=norm, norm_groups=2, norm_eps=0.5)).unet
        norms, convs = modules(unet, (nn.BatchNorm2d, nn.GroupNorm)), modules(unet, nn.Conv2d)
        assert len(norms) == len(convs) == 10
        assert all(isinstance(layer, kind) and layer.eps == 0.5 for layer in norms)
        assert all(conv.bias is None for conv in convs)
        if groups:
            assert {layer.num_groups for layer in norms} == groups

    def test_without_norm_the_convolutions_have_a_bias(self):
        unet = build(tiny_config(norm="none")).unet
        assert modules(unet, (nn.BatchNorm2d, nn.GroupNorm)) == []
        assert all(conv.bias is not None for conv in modules(unet, nn.Conv2d))

    def test_instance_norm_is_that_of_pytorch(self):
        layer = build(tiny_config(norm="instance")).unet.encoder.stages[0][0].conv1[1]
        hidden_state = torch.randn(2, 4, 5, 7)
        assert_close(layer(hidden_state), F.instance_norm(hidden_state, eps=layer.eps))

    def test_norm_momentum_reaches_batch_norm(self):
        assert {layer.momentum for layer in modules(build(tiny_config(norm_momentum=0.3)), nn.BatchNorm2d)} == {0.3}

    def test_each_half_has_its_own_activation(self):
        unet = build(tiny_config(hidden_act="gelu", decoder_act="silu")).unet
        gelu, silu = type(ACT2FN["gelu"]), type(ACT2FN["silu"])
        assert (len(modules(unet.encoder, gelu)), len(modules(unet.decoder, gelu))) == (6, 0)
        assert (len(modules(unet.encoder, silu)), len(modules(unet.decoder, silu))) == (0, 4)

    def test_dropout_silences_whole_channels_of_the_deepest_map_in_training_only(self):
        encoder = build(tiny_config(dropout=0.5, widths=[4, 6, 64], hidden_act="gelu")).unet.encoder
        pixel_values = torch.randn(2, 1, 32, 32)
        *skips, deepest = encoder.train()(pixel_values)
        silent = deepest.abs().amax(dim=(2, 3)) == 0
        assert 0.3 < silent.float().mean() < 0.7
        assert not any((skip == 0).all(dim=3).any() for skip in skips)
        encoder.eval()
        assert all(torch.equal(*pair) for pair in zip(encoder(pixel_values), encoder(pixel_values), strict=True))
        assert encoder(pixel_values)[-1].abs().amax(dim=(2, 3)).min() > 0

    @pytest.mark.parametrize("num_channels", [1, 2, 3, 4])
    @pytest.mark.parametrize("num_labels", [2, 3, 5])
    def test_any_number_of_channels_and_labels(self, num_channels, num_labels):
        model = build(tiny_config(num_channels=num_channels, num_labels=num_labels))
        outputs = model(**inputs(model.config, height=9, width=12))
        assert outputs.logits.shape == (2, num_labels, 9, 12)
        assert outputs.loss.isfinite()


class TestDeepSupervision:
    config = tiny_config(stem_width=4, stem_stride=2, decoder_widths=[7, 6, 5], deep_supervision=True)

    def test_adds_a_head_to_every_coarser_level_finest_first(self):
        assert len(build(tiny_config()).auxiliary_heads) == 0
        assert [head.in_channels for head in build(self.config).auxiliary_heads] == [6, 7]

    def test_halves_the_weight_with_every_level(self):
        model, batch = build(self.config).train(), inputs(self.config)
        outputs = model(**batch, output_hidden_states=True)
        fine, middle, coarse = (
            self._loss(head, hidden_state, batch["labels"])
            for head, hidden_state in zip(
                [model.head, *model.auxiliary_heads], outputs.hidden_states[:-4:-1], strict=True
            )
        )
        assert_close(outputs.loss, (fine + middle / 2 + coarse / 4) / 1.75)

    def test_counts_while_training_only(self):
        model, batch = build(self.config), inputs(self.config)
        outputs = model(**batch)
        assert_close(outputs.loss, segmentation_loss(outputs.logits, batch["labels"], self.config))

    def test_leaves_the_logits_alone(self):
        plain = tiny_config(stem_width=4, stem_stride=2, decoder_widths=[7, 6, 5])
        supervised, unsupervised = build(self.config), build(plain, seed=1)
        assert unsupervised.load_state_dict(supervised.state_dict(), strict=False).missing_keys == []
        pixel_values = inputs(plain)["pixel_values"]
        assert torch.equal(supervised(pixel_values).logits, unsupervised(pixel_values).logits)

    def _loss(self, head: nn.Module, hidden_state: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        tumor = F.interpolate(head(hidden_state), size=labels.shape[1:], mode="bilinear", align_corners=False)
        return segmentation_loss(F.pad(tumor, (0, 0, 0, 0, 1, 0)), labels, self.config)


# ------------------------------------------------------------------------------------------------- forward and backward


class TestForward:
    @pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (17, 33), (31, 64), (64, 64)])
    def test_logits_have_the_size_of_the_input(self, config, height, width):
        model, batch = build(config), inputs(config, height=height, width=width)
        with torch.inference_mode():
            logits = model(batch["pixel_values"]).logits
        assert logits.shape == (2, config.num_labels, height, width)
        assert logits.isfinite().all()

    @pytest.mark.parametrize("norm", ["batch", "group", "instance", "none"])
    def test_one_pixel_alone_is_enough_for_every_norm(self, norm):
        logits = build(tiny_config(norm=norm, norm_groups=2))(torch.randn(1, 1, 1, 1)).logits
        assert logits.shape == (1, 2, 1, 1) and logits.isfinite().all()

    def test_odd_sizes_are_padded_at_bottom_and_right_by_the_edge(self, config):
        model, pixel_values = build(config), inputs(config, height=17, width=33)["pixel_values"]
        padded = F.pad(pixel_values, (0, 31, 0, 15), mode="replicate")  # 32 × 64, which every reduction divides
        padding = -17 % config.reduction, -33 % config.reduction
        padded = padded[..., : 17 + padding[0], : 33 + padding[1]]
        with torch.inference_mode():
            assert_close(model(pixel_values).logits, model(padded).logits[..., :17, :33])

    def test_a_sample_does_not_depend_on_its_batch(self, config):
        model, batch = build(config), inputs(config, batch=3, height=33, width=40)["pixel_values"]
        with torch.inference_mode():
            alone = torch.cat([model(sample[None]).logits for sample in batch])
            assert_close(model(batch).logits, alone)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_every_precision_gives_finite_logits_close_to_float64(self, config, dtype):
        model, pixel_values = build(config), inputs(config)["pixel_values"]
        with torch.inference_mode():
            logits = model.to(dtype)(pixel_values.to(dtype)).logits
            exact = model.double()(pixel_values.double()).logits
        assert logits.dtype == dtype and logits.isfinite().all()
        # A dozen layers, each rounding to `eps`, relative to the logits' own range.
        assert (logits - exact).abs().max() < 30 * torch.finfo(dtype).eps * exact.abs().max()

    def test_the_background_has_the_logit_zero(self, config):
        logits = build(config)(inputs(config)["pixel_values"]).logits
        assert (logits[:, 0] == 0).all() and (logits[:, 1:] != 0).any()

    def test_softmax_over_two_labels_is_the_sigmoid_of_the_tumor(self):
        logits = build(tiny_config())(inputs(tiny_config())["pixel_values"]).logits
        assert_close(logits.softmax(dim=1)[:, 1], logits[:, 1].sigmoid())

    def test_labels_bring_a_scalar_loss(self, config):
        model, batch = build(config), inputs(config)
        assert model(batch["pixel_values"]).loss is None
        outputs = model(**batch)
        assert isinstance(outputs, SemanticSegmenterOutput)
        assert outputs.loss.shape == () and outputs.loss > 0

    @pytest.mark.parametrize("supervised", [False, True])
    def test_return_dict_false_gives_the_same_as_a_tuple(self, supervised):
        model, batch = build(tiny_config(deep_supervision=supervised)), inputs(tiny_config())
        outputs = model(**batch)
        loss, logits = model(**batch, return_dict=False)
        assert torch.equal(loss, outputs.loss) and torch.equal(logits, outputs.logits)
        (alone,) = model(batch["pixel_values"], return_dict=False)
        assert torch.equal(alone, logits)
        (features,) = model.unet(batch["pixel_values"], return_dict=False)
        assert torch.equal(features, model.unet(batch["pixel_values"]).last_hidden_state)

    def test_hidden_states_are_encoder_then_decoder(self):
        model, batch = build(tiny_config(decoder_widths=[7, 5])), inputs(tiny_config())
        shapes = [(4, 64), (6, 32), (8, 16), (7, 32), (5, 64)]
        for network in (model, model.unet):
            hidden_states = network(batch["pixel_values"], output_hidden_states=True).hidden_states
            assert [tuple(state.shape[1:3]) for state in hidden_states] == shapes
            assert network(batch["pixel_values"]).hidden_states is None
        model.config.output_hidden_states = True
        assert len(model(**batch).hidden_states) == 5

    def test_the_last_hidden_state_is_the_finest_decoder_map(self):
        model = build(tiny_config()).unet
        outputs = model(torch.randn(1, 1, 17, 33), output_hidden_states=True)
        assert outputs.last_hidden_state is outputs.hidden_states[-1]
        assert outputs.last_hidden_state.shape == (1, 4, 20, 36)

    @pytest.mark.parametrize("shape", [(2, 3, 64, 64), (2, 64, 64), (64, 64)])
    def test_other_channels_than_the_configs_are_refused_with_both_shapes(self, shape):
        message = re.escape(f"`pixel_values` has shape {shape}; expected [batch, 1, height, width]")
        with pytest.raises(ValueError, match=message):
            build(tiny_config())(torch.zeros(shape))

    @pytest.mark.parametrize("shape", [(2, 1, 64, 64), (1, 64, 64), (2, 32, 64), (2, 64, 63)])
    def test_labels_of_another_shape_are_refused_with_both_shapes(self, shape):
        message = re.escape(f"`labels` has shape {shape}; ") + r".*\(2, 1, 64, 64\) needs \(2, 64, 64\)"
        with pytest.raises(ValueError, match=message):
            build(tiny_config())(torch.zeros(2, 1, 64, 64), labels=torch.zeros(shape, dtype=torch.long))


class TestPresence:
    """`presence_logit`: a slice without a sure spot has no tumour."""

    @pytest.fixture
    def model(self) -> UNetForSemanticSegmentation:
        """Its logits are those of a 1×1 convolution of the slice: the decoder hands the slice on."""
        model = build(tiny_config(presence_logit=2.0)).eval()
        model.unet.forward = lambda pixel_values, **kwargs: BaseModelOutput(last_hidden_state=pixel_values)
        model.head = nn.Conv2d(1, 1, kernel_size=1)
        nn.init.ones_(model.head.weight)
        nn.init.zeros_(model.head.bias)
        return model

    def logits(self, model: UNetForSemanticSegmentation, *slices: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model(torch.stack(slices)[:, None]).logits[:, 1]

    def spot(self, logit: float, side: int = 3) -> torch.Tensor:
        slice_ = torch.full((64, 64), -1.0)
        slice_[20 : 20 + side, 30 : 30 + side] = logit
        slice_[40:60, 40:60] = 0.5  # a lesion that the network is not sure of
        return slice_

    def test_a_sure_spot_leaves_all_logits_of_its_slice(self, model):
        assert torch.equal(self.logits(model, self.spot(2.0))[0], self.spot(2.0))

    def test_without_one_the_slice_has_no_tumor(self, model):
        assert self.logits(model, self.spot(1.7)).max() < 0

    def test_one_sure_cell_is_not_enough(self, model):
        assert self.logits(model, self.spot(3.0, side=1)).max() < 0

    def test_a_wider_spot_must_be_sure_all_over(self, model):
        model.config.presence_cells = 5
        assert self.logits(model, self.spot(3.0)).max() < 0
        assert torch.equal(self.logits(model, self.spot(2.0, side=5))[0], self.spot(2.0, side=5))

    def test_each_slice_of_a_batch_is_judged_alone(self, model):
        sure, unsure = self.logits(model, self.spot(2.5), self.spot(1.0))
        assert torch.equal(sure, self.spot(2.5))
        assert unsure.max() < 0

    def test_a_little_less_sure_lowers_a_little(self, model):
        assert torch.allclose(self.logits(model, self.spot(1.99))[0], self.spot(1.99) - 1.0, atol=1e-4)

    def test_training_never_lowers(self, model):
        model.train()
        assert torch.equal(self.logits(model, self.spot(1.0))[0], self.spot(1.0))

    def test_a_config_without_it_lowers_nothing(self, model):
        model.config.presence_logit = None
        assert torch.equal(self.logits(model, self.spot(1.0))[0], self.spot(1.0))

    @pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf])
    def test_what_would_silence_nothing_or_everything_is_refused(self, value):
        with pytest.raises(StrictDataclassClassValidationError, match="`presence_logit` is"):
            tiny_config(presence_logit=value)

    @pytest.mark.parametrize("value", [0, -1, 4])
    def test_a_square_without_a_middle_is_refused(self, value):
        with pytest.raises(
            StrictDataclassClassValidationError, match=f"`presence_cells` is {value}; it must be an odd"
        ):
            tiny_config(presence_cells=value)


class TestBackward:
    def test_gradients_reach_every_parameter(self, config):
        model = build(config).train()
        model(**inputs(config)).loss.backward()
        unreached = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert unreached == []
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    def test_checkpointing_equals_the_plain_path(self, config):
        config.dropout = 0.0
        plain = build(config).train()
        checkpointed = copy.deepcopy(plain)
        checkpointed.activation_checkpointing_enable()
        assert checkpointed.is_activation_checkpointing and not plain.is_activation_checkpointing
        loss, checkpointed_loss = (model(**inputs(config)).loss for model in (plain, checkpointed))
        assert torch.equal(loss, checkpointed_loss)
        loss.backward()
        checkpointed_loss.backward()
        for (name, parameter), twin in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
            assert_close(twin.grad, parameter.grad, msg=lambda text, name=name: f"{name}: {text}")

    def test_checkpointing_runs_every_block_a_second_time(self, config):
        model, calls = build(config).train(), []
        blocks = modules(model, (UNetPlainBlock, UNetResidualBlock, UNetInvertedResidualBlock))
        model.activation_checkpointing_enable()
        for block in blocks:
            next(iter(modules(block, nn.Conv2d))).register_forward_hook(lambda *_: calls.append(None))
        model(**inputs(config)).loss.backward()
        assert len(calls) == 2 * len(blocks)


@pytest.fixture(scope="module")
def exported() -> tuple[UNetForSemanticSegmentation, nn.Module]:
    """(a model, its export from an input of 17 × 33 pixels with free batch, height and width)"""
    model = build(tiny_config())
    batch, free = torch.randn(2, 1, 17, 33), dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    with torch.no_grad():
        program = torch.export.export(model, (), {"pixel_values": batch}, dynamic_shapes={"pixel_values": free})
    return model, program.module()


class TestTools:
    @pytest.mark.slow
    def test_compiled_in_one_graph_it_gives_the_same(self):
        config = ARCHITECTURES["all_options"]
        model, batch = build(config), inputs(config, height=17, width=33)
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        with torch.no_grad():
            outputs, expected = compiled(**batch), model(**batch)
        assert_close(outputs.logits, expected.logits)
        assert_close(outputs.loss, expected.loss)

    @pytest.mark.parametrize(
        "shape", [(2, 1, 17, 33), (5, 1, 33, 18), (1, 1, 9, 5), (3, 1, 64, 64), (1, 1, 16, 33)], ids=str
    )
    def test_exported_once_it_takes_other_batches_and_sizes(self, exported, shape):
        model, program = exported
        pixel_values = torch.randn(shape)
        with torch.no_grad():
            assert_close(program(pixel_values=pixel_values).logits, model(pixel_values).logits)

    def test_the_trainer_leaves_the_loss_as_it_is(self, tmp_path):
        arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
        assert UNetForSemanticSegmentation.accepts_loss_kwargs is False
        assert Trainer(build(tiny_config()), arguments).model_accepts_loss_kwargs is False


# --------------------------------------------------------------------------------------------------- loading and saving


class TestLoading:
    def test_a_saved_model_gives_the_same_logits(self, config, tmp_path):
        model, pixel_values = build(config), inputs(config)["pixel_values"]
        model.save_pretrained(tmp_path)
        loaded = UNetForSemanticSegmentation.from_pretrained(tmp_path)
        assert not loaded.training
        assert torch.equal(loaded(pixel_values).logits, model(pixel_values).logits)

    def test_nothing_stays_on_the_meta_device_or_outside_the_file(self, config, tmp_path):
        build(config).save_pretrained(tmp_path)
        loaded = UNetForSemanticSegmentation.from_pretrained(tmp_path)
        tensors = dict(loaded.named_parameters()) | dict(loaded.named_buffers())
        assert {tensor.device.type for tensor in tensors.values()} == {"cpu"}
        assert tensors.keys() == load_file(tmp_path / "model.safetensors").keys()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_another_precision_on_request(self, dtype, tmp_path):
        build(tiny_config()).save_pretrained(tmp_path)
        loaded = UNetForSemanticSegmentation.from_pretrained(tmp_path, dtype=dtype)
        assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}

    def test_what_the_file_lacks_is_initialised_and_reported(self, config, tmp_path):
        build(config).save_pretrained(tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        kept = "head.weight"
        save_file({kept: weights[kept]}, tmp_path / "model.safetensors", metadata={"format": "pt"})
        loaded, info = UNetForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)
        assert set(info["missing_keys"]) | {kept} >= {name for name, _ in loaded.named_parameters()}
        assert torch.equal(loaded.head.weight, weights[kept])
        for module in modules(loaded, (nn.Conv2d, nn.ConvTranspose2d)):
            if module is not loaded.head:
                deviation = math.sqrt(2 / nn.init._calculate_fan_in_and_fan_out(module.weight)[0])
                # Of n normal numbers, the deviation's own spread is about 1 / √(2n).
                spread = 5 / math.sqrt(2 * module.weight.numel())
                assert module.weight.pow(2).mean().sqrt().item() == pytest.approx(deviation, rel=spread)
            assert module.bias is None or not module.bias.any()
        for module in modules(loaded, (nn.BatchNorm2d, nn.GroupNorm)):
            assert (module.weight == 1).all() and (module.bias == 0).all()
        for module in modules(loaded, nn.BatchNorm2d):
            assert (module.running_mean == 0).all() and (module.running_var == 1).all()
            assert module.num_batches_tracked == 0

    def test_a_head_of_another_size_is_refused_unless_asked_for(self, tmp_path):
        build(tiny_config()).save_pretrained(tmp_path)
        with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
            UNetForSemanticSegmentation.from_pretrained(tmp_path, num_labels=3)
        loaded, info = UNetForSemanticSegmentation.from_pretrained(
            tmp_path, num_labels=3, ignore_mismatched_sizes=True, output_loading_info=True
        )
        assert {name for name, *_ in info["mismatched_keys"]} == {"head.weight", "head.bias"}
        assert loaded(torch.randn(1, 1, 8, 8)).logits.shape == (1, 3, 8, 8)

    def test_the_base_loads_from_a_file_with_a_head(self, tmp_path):
        model, pixel_values = build(tiny_config()), inputs(tiny_config())["pixel_values"]
        model.save_pretrained(tmp_path)
        base, info = UNetModel.from_pretrained(tmp_path, output_loading_info=True)
        assert set(info["unexpected_keys"]) == {"head.weight", "head.bias"} and not info["missing_keys"]
        assert torch.equal(base(pixel_values).last_hidden_state, model.unet(pixel_values).last_hidden_state)

    def test_a_head_grows_on_a_saved_base(self, tmp_path):
        model, pixel_values = build(tiny_config()), inputs(tiny_config())["pixel_values"]
        model.unet.save_pretrained(tmp_path)
        loaded, info = UNetForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)
        assert set(info["missing_keys"]) == {"head.weight", "head.bias"} and not info["unexpected_keys"]
        assert torch.equal(loaded.unet(pixel_values).last_hidden_state, model.unet(pixel_values).last_hidden_state)
        assert loaded(pixel_values).logits.isfinite().all()

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    @pytest.mark.parametrize("name", ["head.weight", "unet.encoder.stages.0.0.conv1.1.running_var"])
    @pytest.mark.parametrize("auto", [UNetForSemanticSegmentation, AutoModelForSemanticSegmentation])
    def test_weights_that_are_no_numbers_are_refused_by_name(self, auto, name, value, tmp_path):
        """Whatever they see, they would find no tumour."""
        build(tiny_config()).save_pretrained(tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        weights[name].view(-1)[0] = value
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"the weights in {tmp_path} are damaged: NaN or infinite are {name}\\.$"):
            auto.from_pretrained(tmp_path)

    @pytest.mark.parametrize("auto", [UNetForSemanticSegmentation, UNetModel, AutoModelForSemanticSegmentation])
    def test_a_pickle_is_not_tried(self, auto, tmp_path):
        build(tiny_config()).save_pretrained(tmp_path)
        torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
        with pytest.raises(OSError, match=r"no file named model\.safetensors"):
            auto.from_pretrained(tmp_path)

    def test_a_network_of_gigabytes_is_refused_before_it_is_made(self):
        with torch.device("meta"), pytest.raises(ValueError, match=r"\d,\d{3} parameters; at most 500,000,000"):
            UNetForSemanticSegmentation(tiny_config(widths=[10_000] * 3))

    def test_files_are_safetensors_and_no_pickle(self, tmp_path):
        build(tiny_config()).save_pretrained(tmp_path)
        assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors", ".py"}


# ------------------------------------------------------------------------------------------------------------- the loss

LOG_3 = math.log(3)  # a logit of log 3 is a probability of ¾


def tumor_logits(*rows: list[float]) -> torch.Tensor:
    """Logits of the tumour in one sample → [1, 2, H, W]."""
    return F.pad(torch.tensor([[rows]]), (0, 0, 0, 0, 1, 0))


# Four pixels of which the first is tumour: everything uncertain, and everything right with probability ¾.
LABELS = torch.tensor([[[1, 0], [0, 0]]])
UNCERTAIN = tumor_logits([0.0, 0.0], [0.0, 0.0])
GOOD = tumor_logits([LOG_3, -LOG_3], [-LOG_3, -LOG_3])

TERMS = pytest.mark.parametrize("term", [dice_loss, cross_entropy_loss, focal_loss])


def random_batch(batch: int = 3, num_labels: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, num_labels, 6, 8, generator=generator)
    return logits, torch.randint(num_labels, (batch, 6, 8), generator=generator)


class TestLossTerms:
    @pytest.mark.parametrize(
        ("logits", "smoothing", "loss"),
        [
            pytest.param(UNCERTAIN, 1.0, 1 - (2 * 0.5 + 1) / (2 + 1 + 1), id="uncertain"),
            pytest.param(GOOD, 1.0, 1 - (2 * 0.75 + 1) / (1.5 + 1 + 1), id="good"),
            pytest.param(GOOD, 0.5, 1 - (2 * 0.75 + 0.5) / (1.5 + 1 + 0.5), id="less-smoothing"),
        ],
    )
    def test_dice_by_hand(self, logits, smoothing, loss):
        assert_close(dice_loss(logits, LABELS, smoothing), torch.tensor([loss]))

    def test_dice_is_averaged_over_the_foreground_labels(self):
        # One pixel each of background, 1 and 2, every probability ⅓: both labels lose 1 - (2/3 + 1) / (1 + 1 + 1).
        loss = dice_loss(torch.zeros(1, 3, 1, 3), torch.tensor([[[0, 1, 2]]]))
        assert_close(loss, torch.tensor([4 / 9]))

    def test_dice_of_an_empty_mask_is_defined(self):
        loss = dice_loss(UNCERTAIN, torch.zeros_like(LABELS))
        assert_close(loss, torch.tensor([1 - 1 / (2 + 1)]))

    @pytest.mark.parametrize(("logits", "loss"), [(UNCERTAIN, math.log(2)), (GOOD, math.log(4 / 3))])
    def test_cross_entropy_by_hand(self, logits, loss):
        assert_close(cross_entropy_loss(logits, LABELS), torch.tensor([loss]))

    @pytest.mark.parametrize(
        ("alpha", "gamma", "loss"),
        [
            # One tumour pixel weighs α, three of background 1 - α; each is ¼ away from certainty.
            (0.25, 2.0, (0.25 + 3 * 0.75) / 4 * 0.25**2 * math.log(4 / 3)),
            (0.9, 1.0, (0.9 + 3 * 0.1) / 4 * 0.25 * math.log(4 / 3)),
            (0.5, 0.0, 0.5 * math.log(4 / 3)),
        ],
    )
    def test_focal_by_hand(self, alpha, gamma, loss):
        assert_close(focal_loss(GOOD, LABELS, alpha, gamma), torch.tensor([loss]))

    @TERMS
    def test_a_perfect_prediction_loses_almost_nothing(self, term):
        assert term(40 * (GOOD / LOG_3), LABELS) < 1e-6

    @TERMS
    def test_the_opposite_of_the_truth_loses_more_than_a_guess(self, term):
        assert term(-GOOD, LABELS) > term(UNCERTAIN, LABELS) > term(GOOD, LABELS)

    @TERMS
    @pytest.mark.parametrize("num_labels", [2, 3, 5])
    def test_every_sample_has_its_own_loss(self, term, num_labels):
        logits, labels = random_batch(num_labels=num_labels)
        labels[0, :, :5] = 255  # samples of different weight, if they were pooled
        alone = torch.cat([term(logits[i : i + 1], labels[i : i + 1]) for i in range(3)])
        assert term(logits, labels).shape == (3,)
        assert_close(term(logits, labels), alone)

    @TERMS
    @pytest.mark.parametrize("ignore_index", [255, -1])
    def test_ignored_pixels_count_as_little_as_if_they_were_cut_off(self, term, ignore_index):
        logits, labels = random_batch()
        labels[..., 5:] = ignore_index
        assert_close(term(logits, labels, ignore_index=ignore_index), term(logits[..., :5], labels[..., :5]))

    @TERMS
    def test_ignored_pixels_get_no_gradient(self, term):
        logits, labels = random_batch()
        labels[..., 5:] = 255
        logits.requires_grad_()
        term(logits, labels).sum().backward()
        assert not logits.grad[..., 5:].any() and logits.grad[..., :5].all()

    @TERMS
    def test_a_sample_with_every_pixel_ignored_is_finite(self, term):
        logits, labels = random_batch()
        logits.requires_grad_()
        loss = term(logits, torch.full_like(labels, 255))
        loss.sum().backward()
        assert_close(loss, torch.zeros(3))
        assert not logits.grad.any()

    @TERMS
    def test_extreme_logits_stay_finite(self, term):
        logits = (1e4 * GOOD).requires_grad_()
        loss = term(logits, 1 - LABELS)
        loss.sum().backward()
        assert loss.isfinite().all() and logits.grad.isfinite().all()


class TestSegmentationLoss:
    @pytest.mark.parametrize("weights", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0.5, 2, 3)], ids=str)
    def test_is_the_weighted_sum_of_its_terms(self, weights):
        dice, cross_entropy, focal = map(float, weights)
        config = tiny_config(
            dice_loss_weight=dice,
            cross_entropy_loss_weight=cross_entropy,
            focal_loss_weight=focal,
            dice_smoothing=0.1,
            focal_alpha=0.75,
            focal_gamma=1.5,
        )
        logits, labels = random_batch()
        expected = (
            dice * dice_loss(logits, labels, 0.1)
            + cross_entropy * cross_entropy_loss(logits, labels)
            + focal * focal_loss(logits, labels, 0.75, 1.5)
        )
        assert_close(segmentation_loss(logits, labels, config), expected.mean())

    def test_a_term_of_weight_zero_is_never_computed(self, monkeypatch):
        monkeypatch.delattr("modeling_unet.modeling_unet.focal_loss")
        monkeypatch.delattr("modeling_unet.modeling_unet.cross_entropy_loss")
        segmentation_loss(*random_batch(), tiny_config(cross_entropy_loss_weight=0.0))

    def test_of_a_batch_is_the_mean_of_its_samples(self):
        model, batch = build(tiny_config(focal_loss_weight=1.0)), inputs(tiny_config(), batch=3)
        batch["labels"][0, :, 10:] = 255
        batch["labels"][1] = 0
        alone = [model(**{name: value[i : i + 1] for name, value in batch.items()}).loss for i in range(3)]
        assert_close(model(**batch).loss, torch.stack(alone).mean())

    def test_the_models_ignore_index_is_the_configs(self):
        model, batch = build(tiny_config(semantic_loss_ignore_index=-7)), inputs(tiny_config())
        batch["labels"][:, :20] = -7
        loss = model(**batch).loss
        logits = model(batch["pixel_values"]).logits[:, :, 20:]
        assert_close(loss, segmentation_loss(logits, batch["labels"][:, 20:], tiny_config()))

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
    def test_labels_of_any_integer_type_are_taken(self, dtype):
        logits, labels = random_batch()
        assert_close(
            segmentation_loss(logits, labels.to(dtype), tiny_config()), segmentation_loss(logits, labels, tiny_config())
        )

    def test_is_float32_under_bfloat16_autocast(self, config):
        model, batch = build(config), inputs(config)
        config.deep_supervision = model.config.deep_supervision = False
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(**batch)
        assert outputs.logits.dtype == torch.bfloat16 and outputs.loss.dtype == torch.float32
        assert_close(outputs.loss, segmentation_loss(outputs.logits.float(), batch["labels"], config))
