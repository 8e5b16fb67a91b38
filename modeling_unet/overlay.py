"""Pictures of a segmentation: the slice at full contrast with the tumour in colour on top.

A picture has two parts, so that a viewer may blend them itself: the slice (`to_display`) and a layer of colour
(`draw_layer`). `draw_overlay` blends both: `slice + alpha * layer_alpha * (colour - slice)`.
"""

import math
import re

import cv2
import numpy as np

from .surface import bounding_window


STYLES = ("fill", "contour", "heatmap")
DEFAULT_COLOR = "#e69f00"  # of Okabe and Ito, who chose their colours for the colour-blind
# The same authors' colours, in the order of a model's classes; its eighth, black, does not show on a slice.
CLASS_COLORS = (DEFAULT_COLOR, "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
DEFAULT_ALPHA = 0.45

# Single bright pixels (vessels, artefacts) lie above this percentile; scaling to them would darken the rest.
WINDOW_PERCENTILE = 99.8
# A contour of two pixels is the thinnest that is drawn in its full colour on both sides of the edge.
MIN_CONTOUR_WIDTH = 2.0
CONTOUR_WIDTH_PER_SIDE = 1 / 200
# The bright end of PLASMA is a saturated yellow, whereas that of INFERNO or MAGMA is the white of enhancing tissue.
COLORMAP = cv2.COLORMAP_PLASMA


def to_display(image: np.ndarray) -> np.ndarray:
    """Turn a slice of any depth into an 8-bit RGB image.

    An 8-bit image keeps its values; any other is windowed linearly from its minimum … 99.8th percentile to 0 … 255.
    A constant image becomes black.

    Args:
        image: [H, W] or [H, W, 3], any numeric dtype, finite.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        ValueError: the shape is another one, or a value is not finite.
    """
    image = np.asarray(image)
    if image.size == 0 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise ValueError(f"image has shape {image.shape}; allowed are [H, W] and [H, W, 3].")
    if image.dtype != np.uint8:
        image = _window(image)
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image.copy()


def draw_overlay(
    image: np.ndarray,
    mask: np.ndarray,
    color: str | tuple[int, int, int] = DEFAULT_COLOR,
    alpha: float = DEFAULT_ALPHA,
    style: str = "fill",
    probability: np.ndarray | None = None,
) -> np.ndarray:
    """Blend the tumour in colour over a slice; the anatomy keeps its contrast.

    With "fill" and "contour" every pixel outside the drawn region equals `to_display(image)`; `alpha=0` gives
    `to_display(image)` with every style.

    Args:
        image: [H, W] or [H, W, 3], see `to_display`.
        mask: [H, W], bool or a number that is 0 outside the tumour; of several classes [K, H, W], see `draw_layer`.
        color: "#rrggbb" or (red, green, blue) of 0 … 255; "heatmap" does not use it.
        alpha: opacity of the colour, 0 … 1.
        style: "fill", "contour" or "heatmap", see `draw_layer`.
        probability: [H, W], 0 … 1; "heatmap" needs it.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        ValueError: an argument is outside its range, or the sizes differ.
    """
    alpha = check_alpha(alpha)
    display = to_display(image)
    layer = draw_layer(mask, color, style, probability)
    if layer.shape[:2] != display.shape[:2]:
        raise ValueError(f"mask has size {layer.shape[:2]}, but the image has size {display.shape[:2]}.")
    drawn = layer[..., 3] > 0
    below, above = display[drawn].astype(np.float32), layer[drawn].astype(np.float32)
    display[drawn] = np.rint(below + alpha / 255 * above[:, 3:] * (above[:, :3] - below))
    return display


def draw_layer(
    mask: np.ndarray,
    color: str | tuple[int, int, int] = DEFAULT_COLOR,
    style: str = "fill",
    probability: np.ndarray | None = None,
) -> np.ndarray:
    """Draw the colour of an overlay alone, at full opacity, for a viewer that blends it itself.

    The styles: "fill" covers the mask; "contour" is a smooth line along the mask's edge, half inside and half
    outside, whose width grows with the image; "heatmap" shows the probability as colour and as opacity.

    Of several classes, each has its own of `CLASS_COLORS`, and lies over those before it.

    Args:
        mask, color, style, probability: as in `draw_overlay`; `color` is that of one class.

    Returns:
        uint8 [H, W, 4], RGBA with straight (not premultiplied) alpha.

    Raises:
        ValueError: an argument is outside its range, or the sizes differ.
    """
    mask = np.asarray(mask)
    if mask.ndim not in (2, 3) or mask.size == 0:
        raise ValueError(f"mask has shape {mask.shape}; allowed is [H, W], or [K, H, W] of K classes.")
    if mask.ndim == 3 and style != "heatmap":
        return _stacked(
            [draw_layer(own, color, style) for own, color in zip(mask, class_colors(len(mask)), strict=True)]
        )
    color, opacity = parse_color(color), draw_opacity(mask, style, probability)
    if style == "heatmap":
        colors = cv2.applyColorMap(opacity, COLORMAP)[..., ::-1]
    else:
        colors = np.broadcast_to(np.array(color, np.uint8), (*mask.shape, 3))
    return np.dstack([colors, opacity])


def draw_opacity(mask: np.ndarray, style: str = "fill", probability: np.ndarray | None = None) -> np.ndarray:
    """How opaque a layer of one class is, without its colour.

    Args:
        mask: [H, W]; "heatmap" takes no more than its size.
        style, probability: as in `draw_layer`.

    Returns:
        uint8 [H, W].

    Raises:
        ValueError: an argument is outside its range, or the sizes differ.
    """
    if style == "heatmap":
        return _to_8_bit(_given_probability(probability, mask.shape[-2:]))
    if style not in STYLES:
        raise ValueError(f"style is {style!r}; allowed are {', '.join(STYLES)}.")
    return _to_8_bit(mask != 0 if style == "fill" else _contour_coverage(mask != 0))


def class_colors(count: int) -> tuple[str, ...]:
    """The colours of so many classes, or raise ValueError where they would not be told apart."""
    if count > len(CLASS_COLORS):
        raise ValueError(f"there are {count} classes; at most {len(CLASS_COLORS)} can be told apart by their colours.")
    return CLASS_COLORS[:count]


def parse_color(color: str | tuple[int, int, int]) -> tuple[int, int, int]:
    """Read "#rrggbb" (the "#" may be missing) or three whole numbers of 0 … 255 as (red, green, blue).

    Raises:
        ValueError: the colour is written in another way.
    """
    if isinstance(color, str):
        if re.fullmatch("#?[0-9a-fA-F]{6}", color):
            red, green, blue = bytes.fromhex(color.removeprefix("#"))
            return red, green, blue
    elif len(color) == 3 and all(value in range(256) for value in color):
        red, green, blue = map(int, color)
        return red, green, blue
    raise ValueError(f'color is {color!r}; allowed are "#rrggbb" and (red, green, blue) with values from 0 to 255.')


def check_alpha(alpha: float) -> float:
    """Return the opacity, or raise ValueError when it is outside 0 … 1."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; allowed are values from 0 to 1.")
    return alpha


def check_probability(probability: np.ndarray):
    """Raise ValueError when a probability is outside 0 … 1, or NaN."""
    low, high = probability.min(), probability.max()
    # Written so that NaN fails too.
    if not (low >= 0 and high <= 1):
        raise ValueError(f"probability spans {low} to {high}; allowed are values from 0 to 1.")


def _window(image: np.ndarray) -> np.ndarray:
    image = image.astype(np.result_type(image, np.float32))
    if not np.isfinite(image).all():
        raise ValueError("image holds NaN or infinite values; every pixel must be finite.")
    low, high = np.percentile(image, (0, WINDOW_PERCENTILE)).tolist()
    if high == low:
        high = float(image.max())
    return _to_8_bit(np.clip((image - low) / max(high - low, np.finfo(image.dtype).tiny), 0, 1))


def _stacked(layers: list[np.ndarray]) -> np.ndarray:
    """Layers, uint8 [H, W, 4] each, the later ones on top; where edges are soft, the more opaque one is seen."""
    below, *others = layers
    for layer in others:
        on_top = (layer[..., 3] > 0) & (layer[..., 3] >= below[..., 3])
        below = np.where(on_top[..., None], layer, below)
    return below


def _contour_coverage(mask: np.ndarray) -> np.ndarray:
    """How much of each pixel the outline covers, 0 … 1; a mask that touches the border is closed along it."""
    width = max(MIN_CONTOUR_WIDTH, min(mask.shape) * CONTOUR_WIDTH_PER_SIDE)
    coverage = np.zeros(mask.shape, np.float32)
    if mask.any():
        near = _window_about(mask, math.ceil(width))
        inside = np.pad(mask[near], 1).astype(np.uint8)
        distance = np.maximum(_distance_to_zero(inside), _distance_to_zero(1 - inside))[1:-1, 1:-1]
        # The nearest pixel on the other side is `distance` away, so the edge itself is half a pixel nearer.
        coverage[near] = np.clip(width / 2 + 0.5 - (distance - 0.5), 0, 1)
    return coverage


def _window_about(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Of an array, all that is true in the mask and so many pixels about it: elsewhere there is no outline."""
    rows, columns = (slice(max(side.start - margin, 0), side.stop + margin) for side in bounding_window(mask))
    return rows, columns


def _distance_to_zero(mask: np.ndarray) -> np.ndarray:
    return cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def _given_probability(probability: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
    if probability is None:
        raise ValueError('style "heatmap" needs the probability.')
    probability = np.asarray(probability)
    if probability.shape != shape:
        raise ValueError(f"probability has shape {probability.shape}, but the mask has shape {shape}.")
    check_probability(probability)
    return probability


def _to_8_bit(fraction: np.ndarray) -> np.ndarray:
    return np.rint(fraction * np.float32(255)).astype(np.uint8)
