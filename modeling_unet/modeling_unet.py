"""U-Net for semantic segmentation as a `transformers` model: blocks → encoder → decoder → `UNetModel` → task head.

The network follows Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation"
(MICCAI 2015); the encoder may be built of residual blocks (He et al. 2016) or of the inverted residuals of MobileNetV2
(Sandler et al. 2018), as EfficientNet-Lite arranges them (Tan and Le 2019; Liu 2020).

Shapes in comments: B batch, C channels, H × W size of the input, K foreground labels (`num_labels - 1`).
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, SemanticSegmenterOutput
from transformers.processing_utils import Unpack
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, TransformersKwargs, can_return_tuple

from .configuration_unet import UNetConfig


# What `trust_remote_code=True` finds in this file.
AUTO_MAP = {
    "AutoModel": "modeling_unet.UNetModel",
    "AutoModelForSemanticSegmentation": "modeling_unet.UNetForSemanticSegmentation",
}
PRESENCE_SLOPE = 100.0  # by how much all logits fall for each unit that the surest spot lacks


# Far beyond any network for slices; 31 million are those of Ronneberger et al.
MAX_PARAMETERS = 500_000_000


# --------------------------------------------------------------------------------------------------------------- blocks


class UNetGroupNorm(nn.GroupNorm):
    """Group normalisation (Wu and He 2018) that takes a 1×1 map too, which `nn.GroupNorm` refuses."""

    def forward(self, hidden_state: Tensor) -> Tensor:
        return torch.group_norm(hidden_state, self.num_groups, self.weight, self.bias, self.eps)


class UNetConvLayer(nn.Sequential):
    """Convolution with 'same' padding, normalisation, activation; `act=None` leaves the last out."""

    def __init__(
        self,
        config: UNetConfig,
        in_width: int,
        width: int,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        act: str | None = None,
    ):
        layers: list[nn.Module] = [
            nn.Conv2d(
                in_width,
                width,
                kernel_size,
                stride=stride,
                padding=kernel_size // 2,
                groups=groups,
                bias=config.norm == "none",
            )
        ]
        if config.norm == "batch":
            layers.append(nn.BatchNorm2d(width, eps=config.norm_eps, momentum=config.norm_momentum))
        elif config.norm == "group":
            layers.append(UNetGroupNorm(config.norm_groups, width, eps=config.norm_eps))
        elif config.norm == "instance":
            layers.append(UNetGroupNorm(width, width, eps=config.norm_eps))  # one group per channel
        if act is not None:
            layers.append(ACT2FN[act])
        super().__init__(*layers)


class UNetBlock(GradientCheckpointingLayer):
    """A block that gradient checkpointing runs a second time."""

    def __call__(self, hidden_state: Tensor) -> Tensor:
        # Reentrant checkpointing reaches a block's weights only through an input that needs a gradient, which neither
        # the picture nor the map of a frozen block does.
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled() and not hidden_state.requires_grad:
            trains = any(parameter.requires_grad for parameter in self.parameters())
            hidden_state = hidden_state.detach().requires_grad_(trains)
        return super().__call__(hidden_state)


class UNetPlainBlock(UNetBlock):
    """Two 3×3 convolutions (Ronneberger et al. 2015)."""

    def __init__(self, config: UNetConfig, in_width: int, width: int, stride: int = 1, act: str = "relu"):
        super().__init__()
        self.conv1 = UNetConvLayer(config, in_width, width, stride=stride, act=act)
        self.conv2 = UNetConvLayer(config, width, width, act=act)

    def forward(self, hidden_state: Tensor) -> Tensor:
        return self.conv2(self.conv1(hidden_state))


class UNetResidualBlock(UNetBlock):
    """Two 3×3 convolutions and a shortcut, projected where the shape changes (He et al. 2016, figure 2)."""

    def __init__(self, config: UNetConfig, in_width: int, width: int, stride: int = 1, act: str = "relu"):
        super().__init__()
        self.conv1 = UNetConvLayer(config, in_width, width, stride=stride, act=act)
        self.conv2 = UNetConvLayer(config, width, width)
        changes_shape = stride != 1 or in_width != width
        self.shortcut = UNetConvLayer(config, in_width, width, kernel_size=1) if changes_shape else nn.Identity()
        self.stride = stride
        self.act = ACT2FN[act]

    def forward(self, hidden_state: Tensor) -> Tensor:
        # The stride is taken here: torch 2.13's backward pass of a strided 1×1 convolution writes beyond its memory on
        # CPUs (channels_last, few channels, odd batch).
        shortcut = self.shortcut(hidden_state[..., :: self.stride, :: self.stride])
        return self.act(self.conv2(self.conv1(hidden_state)) + shortcut)


class UNetInvertedResidualBlock(UNetBlock):
    """Expand, filter depthwise, project; added to the input where the shape allows (Sandler et al. 2018, figure 3b)."""

    def __init__(
        self,
        config: UNetConfig,
        in_width: int,
        width: int,
        stride: int = 1,
        act: str = "relu6",
        kernel_size: int = 3,
        expansion_ratio: int = 6,
    ):
        super().__init__()
        expanded = in_width * expansion_ratio
        self.expand = (
            UNetConvLayer(config, in_width, expanded, kernel_size=1, act=act) if expansion_ratio > 1 else nn.Identity()
        )
        self.depthwise = UNetConvLayer(
            config, expanded, expanded, kernel_size=kernel_size, stride=stride, groups=expanded, act=act
        )
        self.project = UNetConvLayer(config, expanded, width, kernel_size=1)
        self.has_shortcut = stride == 1 and in_width == width

    def forward(self, hidden_state: Tensor) -> Tensor:
        projected = self.project(self.depthwise(self.expand(hidden_state)))
        return hidden_state + projected if self.has_shortcut else projected


class UNetAttentionGate(nn.Module):
    """Weighs a skip by what the coarser level finds worth looking at (Oktay et al. 2018, figure 2)."""

    def __init__(self, config: UNetConfig, skip_width: int, gate_width: int):
        super().__init__()
        inner = max(skip_width // 2, 1)
        self.skip = nn.Conv2d(skip_width, inner, kernel_size=1, bias=False)
        self.gate = nn.Conv2d(gate_width, inner, kernel_size=1)
        self.attention = nn.Conv2d(inner, 1, kernel_size=1)

    def forward(self, skip: Tensor, gate: Tensor) -> Tensor:
        attention = self.attention(F.relu(self.skip(skip) + self.gate(gate)))  # [B, 1, h, w]
        return skip * attention.sigmoid()


# -------------------------------------------------------------------------------------------------- encoder and decoder


class UNetEncoderStage(nn.Sequential):
    """Blocks of one width; the first one changes width and resolution."""

    def __init__(self, config: UNetConfig, index: int, in_width: int):
        width, stride, act = config.widths[index], config.strides[index], config.hidden_act
        layers: list[nn.Module] = []
        if stride == 2 and config.downsampling == "max_pool":
            layers.append(nn.MaxPool2d(2))
            stride = 1
        for _ in range(config.depths[index]):
            if config.block_type == "inverted_residual":
                assert config.kernel_sizes and config.expansion_ratios  # as the config has checked
                kernel_size, ratio = config.kernel_sizes[index], config.expansion_ratios[index]
                layers.append(UNetInvertedResidualBlock(config, in_width, width, stride, act, kernel_size, ratio))
            else:
                block = UNetPlainBlock if config.block_type == "plain" else UNetResidualBlock
                layers.append(block(config, in_width, width, stride, act))
            in_width, stride = width, 1
        super().__init__(*layers)


class UNetEncoder(nn.Module):
    """Input → feature maps, the last one of every resolution, finest first."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        width = config.num_channels
        self.stem = None
        if config.stem_width:
            self.stem = UNetConvLayer(
                config, width, config.stem_width, config.stem_kernel_size, config.stem_stride, act=config.hidden_act
            )
            width = config.stem_width
        self.stem_pool = nn.MaxPool2d(3, stride=2, padding=1) if config.stem_pool else None
        self.stages = nn.ModuleList()
        for index, stage_width in enumerate(config.widths):
            self.stages.append(UNetEncoderStage(config, index, width))
            width = stage_width
        self.strides = config.strides
        self.dropout = nn.Dropout2d(config.dropout)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        feature_maps = []
        hidden_state = pixel_values if self.stem is None else self.stem(pixel_values)
        if self.stem_pool is not None:
            feature_maps.append(hidden_state)
            hidden_state = self.stem_pool(hidden_state)
        for stage, stride in zip(self.stages, self.strides, strict=True):
            if stride == 2:
                feature_maps.append(hidden_state)
            hidden_state = stage(hidden_state)
        feature_maps.append(self.dropout(hidden_state))
        return feature_maps


class UNetDecoderLevel(nn.Module):
    """Doubles the resolution, joins the skip of that resolution if there is one, and convolves."""

    def __init__(self, config: UNetConfig, in_width: int, skip_width: int, width: int):
        super().__init__()
        if config.upsampling == "transpose":
            self.upsample: nn.Module = nn.ConvTranspose2d(in_width, width, kernel_size=2, stride=2)
            in_width = width
        else:
            align = {} if config.upsampling == "nearest" else {"align_corners": False}
            self.upsample = nn.Upsample(scale_factor=2, mode=config.upsampling, **align)
        gated = config.attention_gates and skip_width > 0
        self.attention_gate = UNetAttentionGate(config, skip_width, in_width) if gated else None
        block = UNetPlainBlock if config.decoder_block_type == "plain" else UNetResidualBlock
        self.block = block(config, in_width + skip_width, width, act=config.decoder_act)

    def forward(self, hidden_state: Tensor, skip: Tensor | None) -> Tensor:
        hidden_state = self.upsample(hidden_state)
        if skip is not None:
            if self.attention_gate is not None:
                skip = self.attention_gate(skip, hidden_state)
            hidden_state = torch.cat([hidden_state, skip], dim=1)
        return self.block(hidden_state)


class UNetDecoder(nn.Module):
    """Feature maps of the encoder → one feature map per decoder level, coarsest first."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        skip_widths = config.skip_widths
        reduction = config.reduction
        width = skip_widths[reduction]
        self.levels = nn.ModuleList()
        self.level_has_skip = []
        for level_width in config.decoder_widths:
            reduction //= 2
            skip_width = skip_widths.get(reduction, 0)
            self.levels.append(UNetDecoderLevel(config, width, skip_width, level_width))
            self.level_has_skip.append(skip_width > 0)
            width = level_width

    def forward(self, feature_maps: list[Tensor]) -> list[Tensor]:
        *skips, hidden_state = feature_maps
        decoded = []
        for level, has_skip in zip(self.levels, self.level_has_skip, strict=True):
            hidden_state = level(hidden_state, skips.pop() if has_skip else None)
            decoded.append(hidden_state)
        return decoded


# ----------------------------------------------------------------------------------------------------------------- loss


def dice_loss(logits: Tensor, labels: Tensor, smoothing: float = 1.0, ignore_index: int = 255) -> Tensor:
    """Soft Dice loss of each sample, averaged over the foreground labels (Milletari et al. 2016, section 3, unsquared).

    Args:
        logits: [B, K + 1, H, W], label 0 is the background.
        labels: int [B, H, W]; 0…K, or `ignore_index`. Of classes that overlap [B, K, H, W]; 0, 1 or `ignore_index`.
        smoothing: added to numerator and denominator, in pixels.

    Returns:
        [B], in [0, 1].
    """
    counted = labels != ignore_index
    if labels.ndim == 4:
        probability = logits[:, 1:].sigmoid() * counted  # [B, K, H, W]
        truth = (labels == 1) & counted  # [B, K, H, W]
    else:
        counted = counted.unsqueeze(1)  # [B, 1, H, W]
        probability = logits.softmax(dim=1)[:, 1:] * counted  # [B, K, H, W]
        foreground = torch.arange(1, logits.shape[1], device=labels.device).view(1, -1, 1, 1)
        truth = (labels.unsqueeze(1) == foreground) & counted  # [B, K, H, W]
    intersection = (probability * truth).sum(dim=(2, 3))
    total = probability.sum(dim=(2, 3)) + truth.sum(dim=(2, 3))
    return (1 - (2 * intersection + smoothing) / (total + smoothing)).mean(dim=1)


def pixel_cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    """Cross-entropy of every pixel and, where classes overlap, of each of them: of the shape of `labels`, 0 if ignored.

    Args:
        logits, labels: as in `dice_loss`.
    """
    if labels.ndim == 3:
        return F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    truth = (labels == 1).to(logits.dtype)
    loss = F.binary_cross_entropy_with_logits(logits[:, 1:], truth, reduction="none")
    return loss * (labels != ignore_index)


def mean_over_counted(pixel_loss: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Mean of each sample over its pixels, and classes, that are not ignored: [B, …] → [B]."""
    dims = tuple(range(1, labels.ndim))
    return pixel_loss.sum(dim=dims) / (labels != ignore_index).sum(dim=dims).clamp(min=1)


def cross_entropy_loss(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    """Cross-entropy of each sample, averaged over its counted pixels; arguments as in `dice_loss`, → [B]."""
    return mean_over_counted(pixel_cross_entropy(logits, labels, ignore_index), labels, ignore_index)


def focal_loss(
    logits: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0, ignore_index: int = 255
) -> Tensor:
    """α-balanced focal loss of each sample (Lin et al. 2017, equation 5), averaged over its counted pixels.

    Foreground pixels weigh `alpha`, background ones `1 - alpha`; `logits` and `labels` as in `dice_loss`, → [B].
    """
    pixel_loss = pixel_cross_entropy(logits, labels, ignore_index)
    pixel_weight = torch.where(labels == 0, 1 - alpha, alpha)
    pixel_loss = pixel_weight * (1 - (-pixel_loss).exp()) ** gamma * pixel_loss
    return mean_over_counted(pixel_loss, labels, ignore_index)


def segmentation_loss(logits: Tensor, labels: Tensor, config: UNetConfig) -> Tensor:
    """Weighted sum of the terms whose weight in `config` is above 0, averaged over the batch: a scalar, in float32."""
    logits, labels = logits.float(), labels.long()
    ignore_index = config.semantic_loss_ignore_index
    loss = logits.new_zeros(len(logits))
    if config.dice_loss_weight:
        loss = loss + config.dice_loss_weight * dice_loss(logits, labels, config.dice_smoothing, ignore_index)
    if config.cross_entropy_loss_weight:
        loss = loss + config.cross_entropy_loss_weight * cross_entropy_loss(logits, labels, ignore_index)
    if config.focal_loss_weight:
        focal = focal_loss(logits, labels, config.focal_alpha, config.focal_gamma, ignore_index)
        loss = loss + config.focal_loss_weight * focal
    return loss.mean()


# --------------------------------------------------------------------------------------------------------------- models


def padded_size(size: tuple[int, int], reduction: int) -> tuple[int, int]:
    """`size` rounded up to a multiple of `reduction`."""
    # Not by a negative remainder, which a compiled graph gets wrong from its second size on.
    height, width = ((side + reduction - 1) // reduction * reduction for side in size)
    return height, width


def lower_where_unsure(logits: Tensor, presence_logit: float, cells: int) -> Tensor:
    """Lower the foreground logits, [B, K, h, w], of each slice without a spot as sure as `presence_logit`.

    The network is sure of the heart of a tumour; of a false alarm it is often unsure all over. A spot is a square with
    sides of `cells`: one cell alone is noise. What a slice lacks is taken off all its logits `PRESENCE_SLOPE` times:
    few slices lie between.
    """
    spots = F.avg_pool2d(logits, kernel_size=cells, stride=1, padding=cells // 2, count_include_pad=False)
    surest = spots.amax(dim=(1, 2, 3), keepdim=True)
    return logits + PRESENCE_SLOPE * (surest - presence_logit).clamp(max=0)


def select_hidden_states(hidden_states: tuple[Tensor, ...], selection: bool | int | list[int] | None) -> tuple | None:
    """All maps, none, or, given indices, those maps and None in the places of the others, as in Segformer."""
    if selection is True or not selection:
        return hidden_states if selection else None
    count = len(hidden_states)
    indices = [selection] if isinstance(selection, int) else selection
    wanted = [index % count for index in indices if -count <= index < count]
    return tuple(hidden_state if index in wanted else None for index, hidden_state in enumerate(hidden_states))


def check_known(kwargs: dict):
    """Raise a `TypeError` for an argument that transformers' own tools do not pass to models."""
    for name in kwargs:
        if name not in TransformersKwargs.__annotations__:
            raise TypeError(f"forward() got an unexpected keyword argument {name!r}")


def check_finite(model: nn.Module, origin: str):
    """Raise a `ValueError` where a weight or a batch statistic is NaN or infinite: such a network finds no tumour.

    Args:
        model: one that was loaded; what accelerate leaves on disk is passed over.
        origin: where it comes from, for the message.
    """
    state = {name: tensor for name, tensor in model.state_dict().items() if not tensor.is_meta}
    bad = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise ValueError(f"the weights in {origin} are damaged: NaN or infinite are {', '.join(bad[:3])}{more}.")


def check_index(index: Path):
    """Raise a `ValueError` if the index of weights in several files names one that does not lie beside it."""
    if index.is_file():
        for name in json.loads(index.read_bytes())["weight_map"].values():
            if Path(name).name != name:
                raise ValueError(f"{index} names the file {name!r}; allowed are files beside it.")


class UNetPreTrainedModel(PreTrainedModel):
    """Weight initialisation, and what loading, saving and checkpointing need to know.

    Gradient checkpointing runs every block's forward pass twice; batch normalisation then updates its running
    statistics twice as well, as everywhere in PyTorch.

    `from_pretrained(…, device_map=…, offload_folder=…)` converts what it leaves on disk. Accelerate's own
    `load_checkpoint_and_dispatch` keeps the file's precision there and leaves out the batch statistics, unless it is
    given `dtype=torch.float32, offload_buffers=True`.
    """

    config: UNetConfig
    config_class = UNetConfig
    base_model_prefix = "unet"
    main_input_name = "pixel_values"
    input_modalities = ["image"]  # noqa: RUF012 - the base class's own attributes
    supports_gradient_checkpointing = True
    _no_split_modules = ["UNetPlainBlock", "UNetResidualBlock", "UNetInvertedResidualBlock"]  # noqa: RUF012
    # The loss is a mean over samples whatever the number of pixels, so the Trainer must not rescale it by item counts.
    accepts_loss_kwargs = False

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Load config and weights, of safetensors files alone unless told otherwise; arguments as ever.

        Raises:
            ValueError: a weight is NaN or infinite, or an index names files that are not beside it.
        """
        kwargs = {"use_safetensors": True, **kwargs}
        check_index(Path(str(pretrained_model_name_or_path)) / SAFE_WEIGHTS_INDEX_NAME)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        check_finite(loaded[0] if isinstance(loaded, tuple) else loaded, pretrained_model_name_or_path)
        return loaded

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Write config, weights and code, so that the folder loads by itself as either class; arguments as ever.

        The base class's method names only the class that is saved. For other classes the config would keep its old
        entry, or none, and could point to the code of the repository that the weights came from.
        """
        self.config.auto_map = dict(AUTO_MAP)
        super().save_pretrained(save_directory, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            for name, statistic in module.named_buffers():
                initialize = init.ones_ if name == "running_var" else init.zeros_
                initialize(statistic)


class UNetModel(UNetPreTrainedModel):
    """The bare U-Net: slice in, decoder features out, no head."""

    def __init__(self, config: UNetConfig):
        super().__init__(config)
        config.validate()  # again, because fields may have been changed since it was built
        self.encoder = UNetEncoder(config)
        self.decoder = UNetDecoder(config)
        if (parameters := self.num_parameters()) > MAX_PARAMETERS:
            raise ValueError(f"The network has {parameters:,} parameters; at most {MAX_PARAMETERS:,} are accepted.")
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The first convolution, which is what sees the picture."""
        return next(module for module in self.encoder.modules() if isinstance(module, nn.Conv2d))

    @can_return_tuple
    def forward(  # type: ignore[misc] # the common arguments have `output_hidden_states` too
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | int | list[int] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        r"""
        Args:
            pixel_values: [B, C, H, W], normalised by the image processor; any H, W ≥ 1. Sizes that the encoder's
                reduction does not divide are padded at the bottom and right by repeating the edge.
            output_hidden_states: also return the encoder's maps, finest first, then the decoder's, coarsest first;
                a list of indices returns those maps and None in the places of the others.
            return_dict: `False` for a plain tuple.
            kwargs: what transformers' tools pass to every model, such as `output_attentions`; it has no effect here.

        Returns:
            `BaseModelOutput` whose `last_hidden_state` is the finest decoder map, [B, decoder_widths[-1], h, w]: the
            *padded* input divided by what the decoder leaves of the reduction.
        """
        check_known(kwargs)
        if pixel_values.ndim != 4 or pixel_values.shape[1] != self.config.num_channels:
            raise ValueError(
                f"`pixel_values` has shape {tuple(pixel_values.shape)}; expected "
                f"[batch, {self.config.num_channels}, height, width]."
            )
        height, width = pixel_values.shape[-2:]
        padded_height, padded_width = padded_size((height, width), self.config.reduction)
        padding = (0, padded_width - width, 0, padded_height - height)
        feature_maps = self.encoder(F.pad(pixel_values, padding, mode="replicate"))
        decoded = self.decoder(feature_maps)

        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden_states = select_hidden_states((*feature_maps, *decoded), output_hidden_states)
        return BaseModelOutput(last_hidden_state=decoded[-1], hidden_states=hidden_states)


class UNetForSemanticSegmentation(UNetPreTrainedModel):
    r"""U-Net with a 1×1 convolution on top: one logit per pixel and foreground label.

    Inside, label 0 (background) has no weights of its own: its logit is fixed at 0. With two labels the softmax over
    `logits` is therefore exactly the sigmoid of the tumour's logit, and tools that expect one map per label just work.
    Of classes that overlap, each one's probability is the sigmoid of its own logit.

    Example:

    ```python
    >>> import torch
    >>> from modeling_unet import UNetConfig, UNetForSemanticSegmentation

    >>> model = UNetForSemanticSegmentation(UNetConfig()).eval()
    >>> with torch.inference_mode():
    ...     logits = model(torch.randn(1, 1, 256, 200)).logits
    >>> logits.shape
    torch.Size([1, 2, 256, 200])
    ```
    """

    def __init__(self, config: UNetConfig):
        super().__init__(config)
        foreground_labels = len(config.label_names) - 1
        self.unet = UNetModel(config)
        self.head = nn.Conv2d(config.decoder_widths[-1], foreground_labels, kernel_size=1)
        auxiliary_widths = config.decoder_widths[-2::-1] if config.deep_supervision else []
        self.auxiliary_heads = nn.ModuleList(nn.Conv2d(width, foreground_labels, 1) for width in auxiliary_widths)
        self.post_init()

    @can_return_tuple
    def forward(  # type: ignore[misc] # the common arguments have `output_hidden_states` too
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SemanticSegmenterOutput:
        r"""
        Args:
            pixel_values: [B, C, H, W], normalised by the image processor; any H, W ≥ 1.
            labels: int [B, H, W]; 0…num_labels - 1, or `semantic_loss_ignore_index`. Of classes that overlap
                [B, num_labels - 1, H, W]; 0, 1 or that index. With them, the output has a loss.
            output_hidden_states: also return the feature maps of encoder and decoder, or those of some indices.
            return_dict: `False` for a plain tuple.
            kwargs: as for [`UNetModel`].

        Returns:
            `SemanticSegmenterOutput` with `logits` [B, num_labels, H, W] at the input's size, and `loss`, a scalar.
        """
        size = pixel_values.shape[-2:]
        classes = (len(self.config.class_names),) if self.config.classes_overlap else ()
        if labels is not None and labels.shape != (len(pixel_values), *classes, *size):
            raise ValueError(
                f"`labels` has shape {tuple(labels.shape)}; `pixel_values` of shape {tuple(pixel_values.shape)} "
                f"needs {(len(pixel_values), *classes, *size)}."
            )
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        supervised = self.training and labels is not None and self.config.deep_supervision
        all_maps = supervised or bool(output_hidden_states)
        outputs = self.unet(pixel_values, output_hidden_states=all_maps, return_dict=True, **kwargs)
        presence_logit = None if self.training else self.config.presence_logit
        logits = self._logits(self.head, outputs.last_hidden_state, size, presence_logit)

        loss = None
        if labels is not None:
            loss = segmentation_loss(logits, labels, self.config)
            if supervised:
                loss = self._deeply_supervised_loss(loss, outputs.hidden_states, labels)
        hidden_states = select_hidden_states(outputs.hidden_states or (), output_hidden_states)
        return SemanticSegmenterOutput(loss=loss, logits=logits, hidden_states=hidden_states)

    def _logits(
        self, head: nn.Module, hidden_state: Tensor, size: torch.Size, presence_logit: float | None = None
    ) -> Tensor:
        """Decoder map → [B, K + 1, H, W]: enlarged to the padded input, cropped to it, background's zero in front."""
        logits = head(hidden_state)  # [B, K, h, w]
        if presence_logit is not None:
            logits = lower_where_unsure(logits, presence_logit, self.config.presence_cells)
        height, width = size
        padded = padded_size((height, width), self.config.reduction)
        logits = F.interpolate(logits, size=padded, mode="bilinear", align_corners=False)
        # Padding by a negative amount crops; unlike a slice, an exported graph takes it at every size.
        logits = F.pad(logits, (0, width - padded[1], 0, height - padded[0]))
        return torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)

    def _deeply_supervised_loss(self, loss: Tensor, hidden_states: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """Weighted mean over decoder levels, finest first; each coarser level counts half as much as the one before."""
        coarser_maps = hidden_states[-2 : -2 - len(self.auxiliary_heads) : -1]
        weight, total = 1.0, 1.0
        for head, hidden_state in zip(self.auxiliary_heads, coarser_maps, strict=True):
            weight /= 2
            total += weight
            loss = loss + weight * segmentation_loss(
                self._logits(head, hidden_state, labels.shape[-2:]), labels, self.config
            )
        return loss / total


# `save_pretrained` then writes this file too, wherever it was loaded from, for `trust_remote_code=True`.
UNetModel.register_for_auto_class("AutoModel")
UNetForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")

__all__ = ["UNetForSemanticSegmentation", "UNetModel", "UNetPreTrainedModel"]
