"""UNetConfig: what it keeps, what it refuses, and what it knows of the network that it describes."""

import json
import math

import pytest
from huggingface_hub.errors import StrictDataclassError
from tiny import tiny_config
from transformers import AutoConfig

from modeling_unet import UNetConfig, UNetForSemanticSegmentation, UNetModel


# Another value than the default for every option, together a valid network.
EVERY_OPTION_CHANGED = {
    "num_channels": 3,
    "channel_names": ["t1", "t2", "flair"],
    "block_type": "residual",
    "stem_width": 8,
    "stem_kernel_size": 5,
    "stem_stride": 1,
    "stem_pool": True,
    "widths": [8, 16],
    "depths": [2, 3],
    "strides": [1, 2],
    "kernel_sizes": [5, 7],
    "expansion_ratios": [2, 4],
    "downsampling": "max_pool",
    "hidden_act": "gelu",
    "decoder_widths": [12, 4],
    "decoder_block_type": "residual",
    "decoder_act": "silu",
    "upsampling": "bilinear",
    "attention_gates": True,
    "deep_supervision": True,
    "norm": "group",
    "norm_groups": 4,
    "norm_eps": 1e-4,
    "norm_momentum": 0.2,
    "dropout": 0.25,
    "dice_loss_weight": 0.5,
    "cross_entropy_loss_weight": 0.0,
    "focal_loss_weight": 2.0,
    "presence_logit": 1.5,
    "presence_cells": 5,
    "dice_smoothing": 0.1,
    "focal_alpha": 0.75,
    "focal_gamma": 1.5,
    "semantic_loss_ignore_index": -1,
    "encoder_initialization": "elsewhere",
}

LISTS = ("widths", "depths", "strides", "kernel_sizes", "expansion_ratios", "decoder_widths")


class TestKeeping:
    def test_every_option_is_changed_in_the_round_trip(self):
        elsewhere = {"format_version", "id2label"}  # one value alone, and every config's own
        assert EVERY_OPTION_CHANGED.keys() == UNetConfig.__annotations__.keys() - elsewhere
        default = UNetConfig()
        assert [name for name, value in EVERY_OPTION_CHANGED.items() if getattr(default, name) == value] == []

    def test_json_keeps_every_option(self, tmp_path):
        config = UNetConfig(**EVERY_OPTION_CHANGED)
        config.save_pretrained(tmp_path)
        loaded = UNetConfig.from_pretrained(tmp_path)
        assert {name: getattr(loaded, name) for name in EVERY_OPTION_CHANGED} == EVERY_OPTION_CHANGED
        assert loaded.to_dict() == config.to_dict() | {"transformers_version": loaded.transformers_version}

    def test_config_json_names_the_model_type(self, tmp_path):
        tiny_config().save_pretrained(tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "brain_tumor_unet"
        assert type(AutoConfig.from_pretrained(tmp_path)) is UNetConfig

    def test_unknown_keys_survive(self, tmp_path):
        tiny_config(scanner={"tesla": 3}).save_pretrained(tmp_path)
        assert UNetConfig.from_pretrained(tmp_path).scanner == {"tesla": 3}

    @pytest.mark.parametrize("name", LISTS)
    def test_list_defaults_are_not_shared(self, name):
        untouched = list(getattr(UNetConfig(), name))
        getattr(UNetConfig(), name).append(99)
        assert getattr(UNetConfig(), name) == untouched

    def test_the_caller_keeps_his_own_list(self):
        widths = [4, 6, 8]
        tiny_config(widths=widths).widths.append(99)
        assert widths == [4, 6, 8]

    def test_tuples_become_lists_as_json_has_them(self):
        assert tiny_config(widths=(4, 6, 8)).widths == [4, 6, 8]


class TestLabels:
    def test_two_labels_are_background_and_tumor(self):
        config = UNetConfig()
        assert config.id2label == {0: "background", 1: "tumor"}
        assert config.label2id == {"background": 0, "tumor": 1}
        assert config.num_labels == 2

    def test_names_survive_json_with_integer_keys(self, tmp_path):
        UNetConfig(id2label={0: "air", 1: "oedema", 2: "core"}).save_pretrained(tmp_path)
        assert UNetConfig.from_pretrained(tmp_path).id2label == {0: "air", 1: "oedema", 2: "core"}

    @pytest.mark.parametrize("num_labels", [2, 3, 5])
    def test_num_labels_sets_the_names(self, num_labels):
        config = UNetConfig(num_labels=num_labels)
        assert config.num_labels == len(config.id2label) == num_labels


class TestPresets:
    @pytest.mark.parametrize(
        ("config", "skip_widths"),
        [
            (UNetConfig(), {2: 16, 4: 24, 8: 40, 16: 112, 32: 320}),
            (UNetConfig.ronneberger2015(), {1: 64, 2: 128, 4: 256, 8: 512, 16: 1024}),
            (UNetConfig.resnet34(), {2: 64, 4: 64, 8: 128, 16: 256, 32: 512}),
        ],
        ids=["default", "ronneberger2015", "resnet34"],
    )
    def test_skip_widths_and_reduction_follow_the_papers(self, config, skip_widths):
        assert config.skip_widths == skip_widths
        assert config.reduction == max(skip_widths)

    @pytest.mark.parametrize("preset", [UNetConfig.ronneberger2015, UNetConfig.resnet34])
    def test_arguments_win_over_a_preset(self, preset):
        config = preset(num_channels=3, hidden_act="gelu", num_labels=4)
        assert (config.num_channels, config.hidden_act, config.num_labels) == (3, "gelu", 4)

    def test_notebooks_loss_is_dice_plus_focal(self):
        config = UNetConfig.resnet34()
        assert (config.dice_loss_weight, config.cross_entropy_loss_weight, config.focal_loss_weight) == (1, 0, 1)


NONE_NEGATIVE = "none may be negative and one must be above 0"
REFUSALS = [
    ({"widths": []}, "`widths` is empty; .* at least one"),
    ({"depths": [1, 1]}, r"`depths` is \[1, 1\]; it needs 3 entries"),
    ({"strides": [1, 2]}, r"`strides` is \[1, 2\]; it needs 3 entries"),
    ({"widths": [4, 6]}, r"`\w+` is \[.*\]; it needs 2 entries"),
    ({"block_type": "inverted_residual"}, "`kernel_sizes` is None; it needs 3 entries"),
    (
        {"block_type": "inverted_residual", "kernel_sizes": [3, 3, 3], "expansion_ratios": [6]},
        r"`expansion_ratios` is \[6\]; it needs 3 entries",
    ),
    ({"widths": [4, 0, 8]}, r"`widths` is \[4, 0, 8\]; every entry must be at least 1"),
    ({"depths": [1, 0, 1]}, r"`depths` is \[1, 0, 1\]; every entry must be at least 1"),
    ({"decoder_widths": [6, -4]}, r"`decoder_widths` is \[6, -4\]; every entry must be at least 1"),
    ({"norm_groups": 0}, "`norm_groups` is .*0.* must be at least 1"),
    ({"strides": [1, 2, 3]}, r"`strides` is \[1, 2, 3\]; every entry must be 1 or 2"),
    ({"stem_width": 4, "stem_kernel_size": 4}, r"kernel sizes .* are \[4\]; every one must be odd"),
    ({"kernel_sizes": [3, 2, 3]}, r"kernel sizes .* are \[3, 3, 2, 3\]; every one must be odd"),
    ({"num_channels": 0}, "`num_channels` is 0; it must be at least 1"),
    ({"stem_width": -1}, r"`stem_width` is -1; it must be 0 \(no stem\) or more"),
    ({"stem_width": 4, "stem_stride": 3}, "`stem_stride` is 3; it must be 1 or 2"),
    ({"stem_stride": 2}, "`stem_width` is 0 .* `stem_stride` is 2, .* full resolution"),
    ({"stem_pool": True}, "`stem_width` is 0 .* `stem_pool` True, .* full resolution"),
    ({"strides": [2, 2, 2]}, r"`stem_width` is 0 .* `strides\[0\]` 2; .* full resolution"),
    ({"decoder_widths": []}, "`decoder_widths` has 0 entries; .* reduces by 4, .* 1 to 2"),
    ({"decoder_widths": [6, 4, 4]}, "`decoder_widths` has 3 entries; .* reduces by 4, .* 1 to 2"),
    ({"dropout": 1.0}, r"`dropout` is 1.0; it must be in \[0, 1\)"),
    ({"dropout": -0.1}, r"`dropout` is -0.1; it must be in \[0, 1\)"),
    ({"norm": "group", "norm_groups": 4}, r"`norm_groups` is 4; it does not divide the widths \[6\]"),
    ({"dice_loss_weight": -1.0}, f"'dice_loss_weight': -1.0.*{NONE_NEGATIVE}"),
    ({"focal_loss_weight": -0.5}, f"'focal_loss_weight': -0.5.*{NONE_NEGATIVE}"),
    ({"dice_loss_weight": 0.0, "cross_entropy_loss_weight": 0.0}, NONE_NEGATIVE),
    ({"norm_eps": 0.0}, "`norm_eps` is 0.0; it must be above 0"),
    ({"norm_eps": 2.0}, "`norm_eps` is 2.0; it must be above 0 and at most 1"),
    *(
        ({name: value}, f"`{name}` is {value}; it must be a finite number")
        for name in (
            "norm_eps",
            "norm_momentum",
            "dropout",
            "dice_smoothing",
            "focal_gamma",
            "cross_entropy_loss_weight",
        )
        for value in (math.nan, math.inf)
    ),
    ({"depths": [1, 10**6, 1]}, "`depths` add up to 1,000,002 blocks; at most 512"),
    (
        {"widths": [4] * 12, "depths": [1] * 12, "strides": [1] + [2] * 11},
        "The encoder reduces by 2,048; at most 1,024",
    ),
    *(
        ({"dtype": dtype}, f"`dtype` is {dtype!r}; it must be one of float16, bfloat16, float32, float64")
        for dtype in ("float33", "int8", 7)
    ),
    ({"focal_alpha": 1.5}, r"`focal_alpha` is 1.5; it must be in \[0, 1\]"),
    ({"focal_gamma": -1.0}, "`focal_gamma` is -1.0; it must not be negative"),
    ({"dice_smoothing": 0.0}, "`dice_smoothing` is 0.0; it must be above 0"),
    ({"num_labels": 1}, "`num_labels` is 1; it must be at least 2"),
    ({"id2label": {0: "tumor"}}, "`num_labels` is 1; it must be at least 2"),
    ({"hidden_act": "swoosh"}, "hidden_act.*swoosh"),
    ({"decoder_act": "swoosh"}, "decoder_act.*swoosh"),
    ({"block_type": "dense"}, "block_type.*'plain', 'residual', 'inverted_residual'.*dense"),
    ({"decoder_block_type": "dense"}, "decoder_block_type.*'plain', 'residual'.*dense"),
    ({"norm": "layer"}, "norm.*'batch', 'instance', 'group', 'none'.*layer"),
    ({"upsampling": "cubic"}, "upsampling.*'nearest', 'bilinear', 'transpose'.*cubic"),
    ({"downsampling": "mean"}, "downsampling.*'stride', 'max_pool'.*mean"),
    ({"num_channels": "three"}, "num_channels.*int.*three"),
    ({"widths": [4, 6.5, 8]}, r"widths.*\[4, 6.5, 8\]"),
    ({"attention_gates": "yes"}, "attention_gates.*bool.*yes"),
]


class TestRefusals:
    @pytest.mark.parametrize(("changes", "message"), REFUSALS, ids=[str(changes) for changes, _ in REFUSALS])
    def test_the_message_names_field_value_and_what_is_allowed(self, changes, message):
        with pytest.raises((ValueError, StrictDataclassError), match=f"(?s){message}"):
            tiny_config(**changes)

    def test_a_wrong_type_is_refused_when_assigned_later(self):
        config = tiny_config()
        with pytest.raises(StrictDataclassError, match="dropout"):
            config.dropout = "much"


class TestChangedLater:
    @pytest.mark.parametrize(
        ("name", "value"), [("num_labels", 1), ("num_labels", 0), ("id2label", {0: "tumor"}), ("id2label", {})], ids=str
    )
    def test_too_few_labels_are_refused_and_change_nothing(self, name, value):
        config = UNetConfig()
        with pytest.raises(StrictDataclassError, match=r"`num_labels` is [01]; it must be at least 2"):
            setattr(config, name, value)
        assert config.num_labels == 2 and config.id2label == {0: "background", 1: "tumor"}

    def test_more_labels_are_named(self):
        config = UNetConfig()
        config.num_labels = 3
        assert list(config.id2label) == list(config.label2id.values()) == [0, 1, 2]
        assert UNetForSemanticSegmentation(tiny_config(id2label=config.id2label)).head.out_channels == 2

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("widths", [], "`widths` is empty"),
            ("depths", [1, 1], "`depths` is .*; it needs 3 entries"),
            ("semantic_loss_ignore_index", 1, "must not be one of the 2 labels"),
        ],
    )
    @pytest.mark.parametrize("build", [UNetModel, UNetForSemanticSegmentation])
    def test_what_no_longer_fits_together_is_refused_by_the_model(self, name, value, message, build):
        config = tiny_config()
        setattr(config, name, value)
        with pytest.raises(StrictDataclassError, match=message):
            build(config)


def test_ignored_label_may_not_be_a_real_one():
    """Else the tumour itself would count in no term of the loss."""
    with pytest.raises(Exception, match="`semantic_loss_ignore_index` is 1; it must not be one of the 2 labels"):
        tiny_config(semantic_loss_ignore_index=1)


def test_whole_numbers_serve_as_weights():
    assert tiny_config(dice_loss_weight=2, focal_gamma=1).dice_loss_weight == 2
