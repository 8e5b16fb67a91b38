"""Draw the U-Net that a config describes: python docs/draw_unet.py docs/unet.svg [MODEL_FOLDER]

Nothing is typed by hand: blocks, widths and sizes are those of the config, by default the shipped one's.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modeling_unet import UNetConfig


SIDE = 256  # of the slice, in pixels
ENCODER, DECODER, INK, SKIP = "#3b5bdb", "#e8590c", "#212529", "#868e96"
LEVEL_HEIGHT, BOX_HEIGHT, HALF_GAP = 1.4, 0.8, 2.4


def draw(config: UNetConfig, axes: Axes) -> None:
    """One row per resolution, finest on top; the encoder on the left, the decoder on the right."""
    levels = config.reduction.bit_length()
    row = {2**level: -level * LEVEL_HEIGHT for level in range(levels)}
    encoder = {reduction: _encoder_box(axes, config, reduction, row[reduction]) for reduction in config.skip_widths}
    decoder = {}
    for level, width in enumerate(config.decoder_widths):
        reduction = config.reduction >> (level + 1)
        decoder[reduction] = _box(axes, HALF_GAP, row[reduction], width, _size(reduction), DECODER)

    top = row[min(encoder.keys() | decoder.keys())] + LEVEL_HEIGHT
    _label(axes, -HALF_GAP, top, f"slice  {SIDE}×{SIDE}")
    _label(axes, HALF_GAP, top, f"tumour logits  {SIDE}×{SIDE}")
    _arrow(axes, (-HALF_GAP, top - 0.25), (-HALF_GAP, row[min(encoder)] + BOX_HEIGHT / 2), INK)
    _arrow(axes, (HALF_GAP, row[min(decoder)] + BOX_HEIGHT / 2), (HALF_GAP, top - 0.25), INK)
    axes.text(HALF_GAP + 0.15, top - 0.6, _head_text(min(decoder)), **_small(ha="left"))

    for fine, coarse in zip(sorted(encoder), sorted(encoder)[1:], strict=False):
        _arrow(axes, (-HALF_GAP, row[fine] - BOX_HEIGHT / 2), (-HALF_GAP, row[coarse] + BOX_HEIGHT / 2), ENCODER)
    deepest = config.reduction
    _arrow(axes, (-HALF_GAP + encoder[deepest], row[deepest]), (HALF_GAP, row[deepest // 2] - BOX_HEIGHT / 2), DECODER)
    for fine, coarse in zip(sorted(decoder), sorted(decoder)[1:], strict=False):
        _arrow(axes, (HALF_GAP, row[coarse] + BOX_HEIGHT / 2), (HALF_GAP, row[fine] - BOX_HEIGHT / 2), DECODER)
    for reduction in decoder.keys() & encoder.keys():
        start, end = -HALF_GAP + encoder[reduction], HALF_GAP - decoder[reduction]
        _arrow(axes, (start, row[reduction]), (end, row[reduction]), SKIP, dashed=True)
    axes.text(0, row[min(decoder.keys() & encoder.keys())] + 0.18, "skip: concatenated", **_small())

    axes.set_xlim(-6.6, 5.6)
    axes.set_ylim(row[deepest] - 0.5, top + 0.3)
    axes.set_aspect("equal")
    axes.axis("off")


def _encoder_box(axes: Axes, config: UNetConfig, reduction: int, y: float) -> float:
    """Draw all that the encoder does at one resolution; returns half the box's width."""
    parts = [f"stem {config.stem_width}"] if config.stem_width and reduction == config.stem_stride else []
    reached = config.stem_stride * (2 if config.stem_pool else 1)
    for width, depth, stride in zip(config.widths, config.depths, config.strides, strict=True):
        reached *= stride
        if reached == reduction:
            parts.append(f"{depth} × {width}")
    half = _box(axes, -HALF_GAP, y, config.skip_widths[reduction], _size(reduction), ENCODER)
    axes.text(-HALF_GAP - half - 0.2, y, " → ".join(parts), **_small(ha="right"))
    return half


def _box(axes: Axes, x: float, y: float, width: int, size: str, color: str) -> float:
    """A box as wide as its channels are many (on a root scale); returns half its width."""
    half = 0.55 + 0.06 * width**0.5
    _patch(axes, x, y, half, color)
    axes.text(x, y, f"{width} channels\n{size}", ha="center", va="center", color="white", fontsize=9)
    return half


def _label(axes: Axes, x: float, y: float, text: str) -> None:
    axes.text(x, y, text, ha="center", va="center", color=INK, fontsize=10, weight="bold")


def _patch(axes: Axes, x: float, y: float, half: float, color: str) -> None:
    corner = (x - half, y - BOX_HEIGHT / 2)
    style = "round,pad=0,rounding_size=0.12"
    axes.add_patch(FancyBboxPatch(corner, 2 * half, BOX_HEIGHT, boxstyle=style, facecolor=color, edgecolor="none"))


def _arrow(axes: Axes, start: tuple, end: tuple, color: str, dashed: bool = False) -> None:
    style = {"arrowstyle": "-|>", "color": color, "lw": 1.4, "linestyle": "--" if dashed else "-"}
    axes.annotate("", xy=end, xytext=start, arrowprops={**style, "shrinkA": 0, "shrinkB": 0})


def _small(ha: str = "center") -> dict:
    return {"ha": ha, "va": "center", "color": INK, "fontsize": 8.5}


def _size(reduction: int) -> str:
    return f"{SIDE // reduction}×{SIDE // reduction}"


def _head_text(reduction: int) -> str:
    return "1×1 convolution" + (f", ×{reduction} bilinear" if reduction > 1 else "")


def main(output: str, model: str | None = None) -> None:
    config = UNetConfig.from_pretrained(model) if model else UNetConfig()
    plt.rcParams["svg.hashsalt"] = "unet"  # the same drawing gives the same file
    figure, axes = plt.subplots(figsize=(9, 7))
    draw(config, axes)
    figure.savefig(output, bbox_inches="tight", metadata={"Date": None} if output.endswith(".svg") else None, dpi=150)


if __name__ == "__main__":
    main(*sys.argv[1:])
