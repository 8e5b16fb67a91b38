"""Configuration of the U-Net: every architectural choice and the weights of the loss, typed and validated."""

import math
from dataclasses import fields
from typing import Literal

import torch
from huggingface_hub.dataclasses import strict, validated_field
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN


# Raised by one whenever config.json changes in a way that older code would misread. 2: `presence_logit`; 3: overlapping
# classes; 4: `presence_cells`.
FORMAT_VERSION = 4
# Far beyond any network for slices; a file that asks for more is damaged, or made to use up the memory.
MAX_BLOCKS = 512
MAX_REDUCTION = 1024
DTYPES = ("float16", "bfloat16", "float32", "float64")
# transformers' word for classes of which a pixel may have several.
OVERLAPPING = "multi_label_classification"


def check_format_version(version: int):
    """Raise a `ValueError` for a format that is newer than this code, or for a version below 1."""
    if version > FORMAT_VERSION:
        raise ValueError(
            f"`format_version` is {version}; this release of brain-tumor-unet reads versions up to {FORMAT_VERSION}: "
            "upgrade the package to load these weights."
        )
    if version < 1:
        raise ValueError(f"`format_version` is {version}; it must be from 1 to {FORMAT_VERSION}.")


def check_labels(id2label: dict | None):
    """Raise a `ValueError` for fewer than two labels, or two of one name; None stands for background and tumour."""
    if id2label is not None and len(id2label) < 2:
        raise ValueError(f"`num_labels` is {len(id2label)}; it must be at least 2 (label 0 is the background).")
    names = list(map(str, (id2label or {}).values()))
    if not all(name.strip() for name in names) or len({*names}) < len(names):
        raise ValueError(f"`id2label` is {id2label}; every label needs a name of its own.")


def check_dtype(dtype):
    """Raise a `ValueError` for what is no type of weights, by its name or as PyTorch has it; None stands for any."""
    if dtype not in (None, *DTYPES, *(getattr(torch, name) for name in DTYPES)):
        raise ValueError(f"`dtype` is {dtype!r}; it must be one of {', '.join(DTYPES)}.")


@strict
class UNetConfig(PreTrainedConfig):
    r"""
    Configuration of a [`UNetModel`]: an encoder of stages that halve the resolution, and a decoder that doubles it
    again and joins the encoder's feature map of the same resolution ("skip") at every level.

    The defaults describe the network that this project ships: the encoder of EfficientNet-Lite0 (inverted residuals)
    under a small decoder. [`UNetConfig.ronneberger2015`] and [`UNetConfig.resnet34`] give the two networks it is
    compared with.

    Encoder (lists have one entry per stage):
        num_channels (`int`, defaults to 1): Channels of `pixel_values`, such as MR sequences.
        channel_names (`list[str]`, *optional*): What they are called, in their order, as in the image processor; called
            red, green and blue, they are those of colour pictures.
        block_type (`str`): `"plain"` (two 3×3 convolutions; Ronneberger et al. 2015), `"residual"` (the same two with a
            shortcut; He et al. 2016, ResNet-18/34) or `"inverted_residual"` (expand, depthwise, project; Sandler et al.
            2018, MobileNetV2).
        stem_width (`int`): Output channels of the first convolution; 0 leaves the stem out.
        stem_kernel_size, stem_stride (`int`): Of that convolution.
        stem_pool (`bool`): Halve the resolution once more behind the stem (ResNet's max-pooling).
        widths, depths, strides (`list[int]`): Channels and blocks of each stage, and by how much its first block
            reduces the resolution (1 or 2).
        kernel_sizes, expansion_ratios (`list[int]`): Of the depthwise convolutions; read by inverted residuals only.
        downsampling (`str`): `"stride"` (strided convolution) or `"max_pool"` (2×2, before the stage).
        hidden_act (`str`): Activation in the encoder, a key of `transformers.activations.ACT2FN`.

    Decoder:
        decoder_widths (`list[int]`): Channels of each level, coarsest first; every level doubles the resolution. With
            fewer levels than the encoder has reductions, the logits are enlarged bilinearly to the size of the input.
        decoder_block_type (`str`): `"plain"` or `"residual"`.
        decoder_act (`str`): Activation in the decoder.
        upsampling (`str`): `"nearest"`, `"bilinear"` or `"transpose"` (learned 2×2 transposed convolution).
        attention_gates (`bool`): Weigh the skips by additive attention gates (Oktay et al. 2018).
        deep_supervision (`bool`): While training, apply the loss to the coarser decoder levels too, with weights 1, ½,
            ¼, … (Lee et al. 2015; weights as in nnU-Net, Isensee et al. 2021).

    Both:
        norm (`str`): `"batch"`, `"instance"`, `"group"` or `"none"` (then the convolutions have a bias).
        norm_groups (`int`): Groups of `"group"`; must divide every width.
        norm_eps (`float`), norm_momentum (`float`): Momentum is read by `"batch"` only, in PyTorch's sense.
        dropout (`float`): Channel dropout on the encoder's deepest feature map.

    Labels:
        id2label (`dict[int, str]`): Names of the labels; 0 is the background, each other one a class. As `num_labels`,
            a number alone, they are called `LABEL_1` and so on. By default background and tumor.
        problem_type (`str`, *optional*): With several classes, `"multi_label_classification"` lets them overlap (a
            sigmoid each), as regions do of which one holds the other: name the larger ones first. None, or
            `"single_label_classification"`, gives every pixel one label (softmax).

    Head:
        presence_logit (`float`, *optional*): How sure the network must be, at its surest spot, before a slice is given
            any tumour: the largest mean foreground logit of a square of the finest decoder map. If it is below this,
            all foreground logits of the slice fall, a hundred times as far; in training never. None: no such rule.
        presence_cells (`int`, defaults to 3): Side of that square in cells of the map; an odd number.

    Loss (each term is computed per sample, then averaged over the batch; a weight of 0 leaves the term out):
        dice_loss_weight, cross_entropy_loss_weight, focal_loss_weight (`float`): Weights of the terms.
        dice_smoothing (`float`): Added to numerator and denominator, so that an empty mask has a defined Dice.
        focal_alpha, focal_gamma (`float`): Weight of the foreground and focusing exponent (Lin et al. 2017).
        semantic_loss_ignore_index (`int`, defaults to 255): Label of pixels that count in no term.

    Provenance:
        format_version (`int`): Of the `config.json` that was read; weights of a later version than this code are
            refused. What is written has version 4 with a `presence_logit` of other `presence_cells` than 3, 3 with
            classes that overlap, 2 with a `presence_logit`, else 1.
        encoder_initialization (`str`): What the encoder's weights started from, e.g. `"random"` or
            `"imagenet-efficientnet-lite0"`. A statement only: building the model never loads anything.

    Raises a `StrictDataclassFieldValidationError` for a wrong type and a `StrictDataclassClassValidationError` for a
    wrong value (`huggingface_hub.errors`); the message names the field, its value and what is allowed.

    Example:

    ```python
    >>> from modeling_unet import UNetConfig, UNetForSemanticSegmentation

    >>> model = UNetForSemanticSegmentation(UNetConfig())
    >>> model.num_parameters()
    3971041
    ```
    """

    model_type = "brain_tumor_unet"

    # First, because a newer config may hold values that the fields below do not know. Without it, a file is version 1.
    format_version: int = validated_field(check_format_version, default=1)

    num_channels: int = 1
    channel_names: list[str] | tuple[str, ...] | None = None
    block_type: Literal["plain", "residual", "inverted_residual"] = "inverted_residual"
    stem_width: int = 32
    stem_kernel_size: int = 3
    stem_stride: int = 2
    stem_pool: bool = False
    widths: list[int] | tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    depths: list[int] | tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    strides: list[int] | tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
    kernel_sizes: list[int] | tuple[int, ...] | None = (3, 3, 5, 3, 5, 5, 3)
    expansion_ratios: list[int] | tuple[int, ...] | None = (1, 6, 6, 6, 6, 6, 6)
    downsampling: Literal["stride", "max_pool"] = "stride"
    hidden_act: str = "relu6"

    decoder_widths: list[int] | tuple[int, ...] = (128, 96, 64, 32)
    decoder_block_type: Literal["plain", "residual"] = "plain"
    decoder_act: str = "relu"
    upsampling: Literal["nearest", "bilinear", "transpose"] = "nearest"
    attention_gates: bool = False
    deep_supervision: bool = False

    norm: Literal["batch", "instance", "group", "none"] = "batch"
    norm_groups: int = 8
    norm_eps: float = 1e-3
    norm_momentum: float = 0.1
    dropout: float = 0.0

    presence_logit: float | int | None = None
    presence_cells: int = 3

    dice_loss_weight: float | int = 1.0
    cross_entropy_loss_weight: float | int = 1.0
    focal_loss_weight: float | int = 0.0
    dice_smoothing: float | int = 1.0
    focal_alpha: float | int = 0.25
    focal_gamma: float | int = 2.0
    semantic_loss_ignore_index: int = 255

    encoder_initialization: str = "random"

    # The setter of `num_labels` writes it as well, so every change of the labels is checked here.
    id2label: dict[int, str] | dict[str, str] | None = validated_field(check_labels, default=None)

    def __post_init__(self, **kwargs):
        lists = ("channel_names", "widths", "depths", "strides", "kernel_sizes", "expansion_ratios", "decoder_widths")
        for name in lists:
            value = getattr(self, name)
            setattr(self, name, None if value is None else list(value))
        if self.id2label is None and kwargs.get("num_labels") in (None, 2):
            self.id2label = {0: "background", 1: "tumor"}
            self.label2id = {"background": 0, "tumor": 1}
        check_dtype(self.dtype)
        super().__post_init__(**kwargs)

    @classmethod
    def ronneberger2015(cls, **kwargs) -> "UNetConfig":
        """The U-Net of Ronneberger et al. (MICCAI 2015, figure 1), with 'same' padding: 31.03 M parameters."""
        architecture = {
            "block_type": "plain",
            "stem_width": 0,
            "stem_stride": 1,
            "widths": [64, 128, 256, 512, 1024],
            "depths": [1, 1, 1, 1, 1],
            "strides": [1, 2, 2, 2, 2],
            "kernel_sizes": None,
            "expansion_ratios": None,
            "downsampling": "max_pool",
            "hidden_act": "relu",
            "decoder_widths": [512, 256, 128, 64],
            "upsampling": "transpose",
            "norm": "none",
            "dropout": 0.5,
        }
        return cls(**{**architecture, **kwargs})

    @classmethod
    def resnet34(cls, **kwargs) -> "UNetConfig":
        """The notebook's U-Net: ResNet-34 encoder (He et al. 2016), decoder 256-128-64-32-16, Dice + focal loss.

        24.43 M parameters with one input channel, 24.44 M with three. The notebook's Keras model counts 24.45 M: its
        blocks are pre-activated, its head is 3×3, and it counts the batch statistics, which are no parameters here.
        """
        architecture = {
            "block_type": "residual",
            "stem_width": 64,
            "stem_kernel_size": 7,
            "stem_stride": 2,
            "stem_pool": True,
            "widths": [64, 128, 256, 512],
            "depths": [3, 4, 6, 3],
            "strides": [1, 2, 2, 2],
            "kernel_sizes": None,
            "expansion_ratios": None,
            "hidden_act": "relu",
            "decoder_widths": [256, 128, 64, 32, 16],
            "norm_eps": 1e-5,
            "cross_entropy_loss_weight": 0.0,
            "focal_loss_weight": 1.0,
        }
        return cls(**{**architecture, **kwargs})

    def to_dict(self) -> dict:
        """As ever, with the `format_version` that these values need, and without names that channels do not have."""
        version = 3 if self.classes_overlap else 1 if self.presence_logit is None else 2
        if self.presence_logit is not None and self.presence_cells != 3:
            version = 4
        options = super().to_dict() | {"format_version": version}
        if self.channel_names is None:
            options.pop("channel_names", None)
        return options

    @property
    def skip_widths(self) -> dict[int, int]:
        """Reduction (1, 2, 4, …) → channels of the encoder's last feature map at that reduction, finest first."""
        maps = {}
        reduction, width = 1, self.num_channels
        if self.stem_width:
            reduction, width = self.stem_stride, self.stem_width
            maps[reduction] = width
        if self.stem_pool:
            reduction *= 2
            maps[reduction] = width
        for stride, width in zip(self.strides, self.widths, strict=True):
            reduction *= stride
            maps[reduction] = width
        return maps

    @property
    def channels(self) -> list[str]:
        """What the channels are called, in their order: by their numbers, if they have no names."""
        return list(self.channel_names or map(str, range(1, self.num_channels + 1)))

    @property
    def label_names(self) -> list[str]:
        """What the labels are called, in their order: label 0 is the background."""
        names = {int(label): name for label, name in (self.id2label or {}).items()}
        return [names[label] for label in range(len(names))]

    @property
    def class_names(self) -> list[str]:
        """What the labels are called, without the background."""
        return self.label_names[1:]

    @property
    def classes_overlap(self) -> bool:
        """Whether a pixel may have several classes."""
        return self.problem_type == OVERLAPPING

    @property
    def reduction(self) -> int:
        """Factor between the input's size and that of the encoder's deepest feature map."""
        return max(self.skip_widths)

    def validate_fields(self):
        """Check how the fields fit together; each check may rely on those before it."""
        self._check_finite()
        self._check_stages()
        self._check_stem()
        self._check_decoder()
        self._check_layers()
        self._check_loss()
        self._check_labels()

    def _check_finite(self):
        """No comparison finds NaN out of range."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"`{field.name}` is {value}; it must be a finite number.")

    def _check_stages(self):
        """The lists have one length and hold allowed values."""
        stages = len(self.widths)
        if stages == 0:
            raise ValueError("`widths` is empty; the encoder needs at least one stage.")
        lists: dict[str, list[int] | tuple[int, ...] | None] = {"depths": self.depths, "strides": self.strides}
        if self.block_type == "inverted_residual":
            lists |= {"kernel_sizes": self.kernel_sizes, "expansion_ratios": self.expansion_ratios}
        for name, values in lists.items():
            if values is None or len(values) != stages:
                raise ValueError(f"`{name}` is {values}; it needs {stages} entries, one per entry of `widths`.")
        positive = {"widths": self.widths, "decoder_widths": self.decoder_widths, "norm_groups": [self.norm_groups]}
        for name, values in (positive | lists).items():
            if any(value < 1 for value in values or ()):
                raise ValueError(f"`{name}` is {values}; every entry must be at least 1.")
        if (blocks := sum(self.depths)) > MAX_BLOCKS:
            raise ValueError(f"`depths` add up to {blocks:,} blocks; at most {MAX_BLOCKS} are accepted.")
        if any(stride not in (1, 2) for stride in self.strides):
            raise ValueError(f"`strides` is {self.strides}; every entry must be 1 or 2.")
        kernel_sizes = [self.stem_kernel_size, *(self.kernel_sizes or [])]
        if any(size < 1 or size % 2 == 0 for size in kernel_sizes):
            raise ValueError(f"kernel sizes (stem first) are {kernel_sizes}; every one must be odd.")

    def _check_stem(self):
        """The stem is described in full or left out."""
        if self.num_channels < 1:
            raise ValueError(f"`num_channels` is {self.num_channels}; it must be at least 1.")
        names = self.channels
        if len(names) != self.num_channels or len({*names}) < len(names) or not all(name.strip() for name in names):
            raise ValueError(
                f"`channel_names` is {names}; each of the {self.num_channels} channels needs a name of its own."
            )
        if self.stem_width < 0:
            raise ValueError(f"`stem_width` is {self.stem_width}; it must be 0 (no stem) or more.")
        if self.stem_stride not in (1, 2):
            raise ValueError(f"`stem_stride` is {self.stem_stride}; it must be 1 or 2.")
        if self.stem_width == 0 and (self.stem_stride != 1 or self.stem_pool or self.strides[0] != 1):
            raise ValueError(
                f"`stem_width` is 0 (no stem), but `stem_stride` is {self.stem_stride}, `stem_pool` {self.stem_pool}, "
                f"`strides[0]` {self.strides[0]}; without a stem the network starts at full resolution (1, False, 1)."
            )

    def _check_decoder(self):
        """The decoder may not enlarge beyond the input, nor the encoder reduce it to nothing."""
        if self.reduction > MAX_REDUCTION:
            raise ValueError(f"The encoder reduces by {self.reduction:,}; at most {MAX_REDUCTION:,} is accepted.")
        levels = self.reduction.bit_length() - 1
        if not 1 <= len(self.decoder_widths) <= levels:
            raise ValueError(
                f"`decoder_widths` has {len(self.decoder_widths)} entries; the encoder reduces by {self.reduction}, "
                f"which leaves room for 1 to {levels}."
            )

    def _check_layers(self):
        """Ranges of the numbers that encoder and decoder share."""
        for name in ("hidden_act", "decoder_act"):
            if getattr(self, name) not in ACT2FN:
                raise ValueError(f"`{name}` is {getattr(self, name)}; it must be one of {', '.join(ACT2FN)}.")
        # Beyond 1 it would rule over every deviation that a map can have.
        if not 0 < self.norm_eps <= 1:
            raise ValueError(f"`norm_eps` is {self.norm_eps}; it must be above 0 and at most 1.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` is {self.dropout}; it must be in [0, 1).")
        if self.presence_logit is not None and self.presence_logit <= 0:
            raise ValueError(f"`presence_logit` is {self.presence_logit}; it must be above 0, or None.")
        if self.presence_cells < 1 or self.presence_cells % 2 == 0:
            raise ValueError(f"`presence_cells` is {self.presence_cells}; it must be an odd number of 1 or more.")
        if self.norm == "group":
            widths = {*self.widths, *self.decoder_widths, *([self.stem_width] if self.stem_width else [])}
            indivisible = sorted(width for width in widths if width % self.norm_groups)
            if indivisible:
                raise ValueError(f"`norm_groups` is {self.norm_groups}; it does not divide the widths {indivisible}.")

    def _check_loss(self):
        """No weight is negative, and at least one is above 0."""
        names = ("dice_loss_weight", "cross_entropy_loss_weight", "focal_loss_weight")
        weights = {name: getattr(self, name) for name in names}
        if min(weights.values()) < 0 or max(weights.values()) == 0:
            raise ValueError(f"the loss weights are {weights}; none may be negative and one must be above 0.")
        if not 0 <= self.focal_alpha <= 1:
            raise ValueError(f"`focal_alpha` is {self.focal_alpha}; it must be in [0, 1].")
        if self.focal_gamma < 0:
            raise ValueError(f"`focal_gamma` is {self.focal_gamma}; it must not be negative.")
        if self.dice_smoothing <= 0:
            raise ValueError(f"`dice_smoothing` is {self.dice_smoothing}; it must be above 0.")

    def _check_labels(self):
        """The index to ignore may not be a label, and classes overlap only where there are several."""
        if self.num_labels is not None and 0 <= self.semantic_loss_ignore_index < self.num_labels:
            raise ValueError(
                f"`semantic_loss_ignore_index` is {self.semantic_loss_ignore_index}; it must not be one of the "
                f"{self.num_labels} labels."
            )
        if self.problem_type == "regression":
            raise ValueError(
                f"`problem_type` is regression; allowed are None, single_label_classification and {OVERLAPPING}."
            )
        if self.classes_overlap and self.num_labels == 2:
            raise ValueError(
                f"`problem_type` is {OVERLAPPING}, but `num_labels` is 2: one class has nothing to overlap with; leave "
                "`problem_type` out."
            )


# `save_pretrained` then writes this file too, wherever it was loaded from, for `trust_remote_code=True`.
UNetConfig.register_for_auto_class()

__all__ = ["UNetConfig"]
