"""What is tumour in a mask: the rule for one picture, and what to advise where the picture fits no rule.

picture ─ MaskRule.read ─→ bool [H, W]        0/1, 0/255, 0/65535; or what lies above --mask_threshold, is one of
                                              --tumor_labels or has one of --mask_color
                        ─→ uint8 [H, W]       the classes of each pixel, by --classes: bit 0 is the first one
        ─ advise ─→ the end of a sentence     are these soft edges, losses of JPEG, or no mask at all?
        ─ labels_of, advise_colors            what values or colours are there to choose from?
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import cv2
import numpy as np
from PIL import ImageColor

from modeling_unet import read_image, read_mask
from modeling_unet.image_processing_unet import IGNORE_INDEX, MASK_VALUES, read_labels
from modeling_unet.overlay import CLASS_COLORS


MAX_LABELS = 16  # a mask with more values holds no labels, but grey
MAX_PLAIN_LABEL = 32  # of values up to it, nobody would see a thing: they were never meant as grey
COLOR_DISTANCE = 64  # of 255, in each channel: what JPEG and soft edges change
MOST_COLORS = 6  # that are named
MIN_COLOR_SHARE = 0.0005  # of the pixels
# Told apart by discs of 64 to 512 px: as labels, resized, smoothed by up to 2 px, saved as JPEG of quality 10 to 100,
# and by slices. Of the pixels between the lowest and the highest value,
MIN_AREA_OF_LABELS = 0.2  # have neighbours that lie between too (edges, at most 0.0 where values are few)
MIN_MIDDLE_OF_EDGES = 0.25  # have a value from a fifth to four fifths (edges 0.28 or more, JPEG 0.21 or less);
MIN_AREA_OF_GREY = 0.4  # and of those in the middle, have neighbours there too (pictures 0.6 or more, edges 0.25)
NEARLY = 1 / 512  # of the range: below it 8 bits show nothing, and fractions never end
SQUARE = np.ones((3, 3), np.uint8)
BACKGROUND = "background"  # the name of label 0
# The number of the lowest bit, 1, 2, …; 0 of none.
LABEL_OF_BITS = np.array([(bits & -bits).bit_length() for bits in range(256)], np.uint8)
LABEL_OF_BITS[IGNORE_INDEX] = IGNORE_INDEX


@dataclass(frozen=True)
class Classes:
    """Kinds or regions of a tumour, each by the values that it has in a mask, e.g. `whole=1,2,4 core=1,4`.

    Masks of them are kept as a bit for each class, uint8 [H, W]; with one class alone that would be 0 and 1.

    Attributes:
        names: in the order of the model's labels.
        values: of each class, in rising order.

    Raises:
        ValueError: there are fewer than two or more than seven, two are the same, or one that holds another is named
            after it.
    """

    names: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]

    def __post_init__(self):
        if not 2 <= len(self.names) <= len(CLASS_COLORS):
            raise ValueError(
                f"--classes names {len(self.names)}; allowed are 2 to {len(CLASS_COLORS)}, which colours tell apart; "
                "for one give --tumor_labels."
            )
        if len({*self.names}) < len(self.names) or BACKGROUND in self.names:
            raise ValueError(
                f"--classes names {', '.join(self.names)}; each needs a name of its own, not {BACKGROUND}."
            )
        for (name, own), (other, later) in combinations(zip(self.names, self.values, strict=True), 2):
            if {*own} == {*later}:
                raise ValueError(f"--classes gives {name} and {other} the same values; leave one of them out.")
            if {*own} < {*later}:
                raise ValueError(f"--classes names {name} before {other}, which holds it; name the larger one first.")

    @classmethod
    def parse(cls, words: Sequence[str]) -> "Classes":
        """`NAME=VALUE` or `NAME=VALUE,VALUE` each; raises a ValueError for anything else."""
        names: list[str] = []
        values: list[tuple[int, ...]] = []
        for word in words:
            name, _, numbers = word.partition("=")
            if not (name and re.fullmatch(r"[0-9]{1,5}(,[0-9]{1,5})*", numbers)) or 0 in map(int, numbers.split(",")):
                raise ValueError(f"--classes has {word}; allowed is NAME=VALUE or NAME=VALUE,VALUE, as in core=1,4.")
            names.append(name)
            values.append(tuple(sorted({*map(int, numbers.split(","))})))
        return cls(tuple(names), tuple(values))

    @property
    def words(self) -> list[str]:
        """What `parse` reads."""
        return [f"{name}={','.join(map(str, own))}" for name, own in zip(self.names, self.values, strict=True)]

    @property
    def overlap(self) -> bool:
        """Whether any value belongs to several classes."""
        return len({*chain(*self.values)}) < sum(map(len, self.values))

    def of_values(self, mask: np.ndarray) -> np.ndarray:
        """The values of a mask, [H, W] → a bit for each class, uint8 [H, W]."""
        return to_bits(np.stack([np.isin(mask, own) for own in self.values]))


def to_bits(planes: np.ndarray) -> np.ndarray:
    """bool [K, H, W] → a bit for each, uint8 [H, W]."""
    numbers = np.arange(len(planes), dtype=np.uint8)[:, None, None]
    return np.bitwise_or.reduce(planes.astype(np.uint8) << numbers)


def to_planes(bits: np.ndarray, count: int) -> np.ndarray:
    """Undo `to_bits`: uint8 [K, H, W] of 0 and 1, and 255 where all is to be ignored."""
    numbers = np.arange(count, dtype=np.uint8)[:, None, None]
    return np.where(bits == IGNORE_INDEX, IGNORE_INDEX, bits >> numbers & 1).astype(np.uint8)


def to_labels(bits: np.ndarray) -> np.ndarray:
    """Bits of classes that do not overlap → uint8 [H, W]: 0, the number of the class, 1, 2, …, or 255 as before."""
    return LABEL_OF_BITS[bits]


def read_bits(source) -> np.ndarray:
    """A mask as the scan keeps it → a bit for each class, uint8 [H, W]; of a binary one 0 and 1."""
    mask = read_labels(source)
    return np.where(mask == 255, 1, mask).astype(np.uint8)


@dataclass(frozen=True)
class MaskRule:
    """How masks are read; at most one of the four is given.

    Attributes:
        threshold: tumour is what lies above.
        labels: tumour is what has one of these values.
        colors: (red, green, blue) of what is tumour.
        classes: which values are which kind of tumour.
    """

    threshold: float | None = None
    labels: tuple[int, ...] = ()
    colors: tuple[tuple[int, int, int], ...] = ()
    classes: Classes | None = None

    def read(self, source) -> np.ndarray:
        """bool [H, W], or uint8 of a bit for each of the classes; raises as `read_mask`."""
        if self.classes:
            return self.classes.of_values(read_labels(source))
        if self.labels:
            return np.isin(read_labels(source), self.labels)
        if self.colors:
            return _has_color(read_image(source), self.colors)
        return read_mask(source, self.threshold)

    def left_out(self, source) -> list[float]:
        """The values of a mask, but for 0, that no label or class names; raises as `read_labels`."""
        named = self.labels or (tuple(chain(*self.classes.values)) if self.classes else ())
        return (
            [float(value) for value in np.unique(read_labels(source)) if value and value not in named] if named else []
        )


BINARY = MaskRule()


def parse_color(text: str) -> tuple[int, int, int]:
    """`red`, `#ff0000` or `rgb(255, 0, 0)`.

    Raises:
        ValueError: it is no colour.
    """
    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError as error:
        raise ValueError(
            f"--mask_color is {text}; allowed are names such as red, and numbers such as '#ff0000'."
        ) from error


def labels_of(source) -> list[float]:
    """The values of a mask that seem to be labels, the lowest first; none for any other. Raises as `read_labels`."""
    mask = read_labels(source)
    values = np.unique(mask)
    return [float(value) for value in values] if len(values) > 1 and _look(mask, values) == "labels" else []


def advise(source) -> str:
    """What to do about a grey mask that is neither binary nor of labels, as the end of a sentence.

    Raises as `read_labels`.
    """
    mask = read_labels(source)
    values = np.unique(mask)
    lowest, highest = float(values[0]), float(values[-1])
    if lowest == highest:
        return f"outside the tumour a mask has to be 0; if {lowest:g} is a label of it, give --tumor_labels {lowest:g}"
    full = next((value for value in MASK_VALUES if value >= highest), highest)
    half = (full if highest > full / 2 else highest) / 2
    half = half if half < 1 else int(half)
    taken = f"--mask_threshold {half:g} takes what lies above {half:g}"
    look = _look(mask, values)
    if look == "soft edges":
        labels = " ".join(f"{value:g}" for value in values[1:])
        instead = f", and if these are labels, --tumor_labels {labels} all of them" if len(values) <= MAX_LABELS else ""
        return f"its edges are soft, as those of a mask that was resized or smoothed; {taken}{instead}"
    if look == "two values":
        return f"it has the values {lowest:g} and {highest:g} alone; {taken}"
    if look == "losses":
        return f"its values scatter about 0 and {highest:g}, as JPEG leaves them; {taken}"
    return f"it is grey all over, as a picture or a map of probabilities; if it is a mask at all, {taken}"


def advise_labels(values: Iterable[float]) -> str:
    """What to do about masks that hold these labels together, the lowest of which is the background."""
    background, *labels = sorted({*values})
    if not all(label.is_integer() for label in labels):
        return f"--mask_threshold {background:g} takes all but {background:g}."
    named = " ".join(f"{label:g}" for label in labels)
    parts = "; with fewer of them, only these parts are tumour, and --classes tells parts apart"
    parts = parts if len(labels) > 1 else ""
    return f"If these are labels, --tumor_labels {named} takes all but {background:g}{parts}."


def advise_colors(source) -> str:
    """What to do about a coloured mask: its colours, the most frequent one being taken for the background.

    Greys come last: they are those of a slice on which the tumour is painted.
    """
    image = read_image(source)
    pixels = image.reshape(-1, image.shape[-1]).astype(np.int64)
    if image.dtype != np.uint8:
        return "save it in 8 bits, or in one channel with 0 outside the tumour"
    # What JPEG makes of one colour falls into few boxes; each is shown by its most frequent colour.
    _, of_pixel, counts = np.unique(pixels // COLOR_DISTANCE, axis=0, return_inverse=True, return_counts=True)
    order = [box for box in np.argsort(-counts) if counts[box] >= MIN_COLOR_SHARE * len(pixels)]
    found = []
    for box in order[1:]:
        colors, times = np.unique(pixels[of_pixel.ravel() == box], axis=0, return_counts=True)
        found.append(colors[times.argmax()])
    if not found:
        return "save it in one channel, with 0 outside the tumour"
    found.sort(key=lambda color: np.ptp(color) < COLOR_DISTANCE)
    named = ["'#{:02x}{:02x}{:02x}'".format(*color) for color in found[:MOST_COLORS]]
    return f"besides its background it has {', '.join(named)}; --mask_color {named[0]} takes what is of that colour"


def _look(mask: np.ndarray, values: np.ndarray) -> str:
    """ "labels", "two values", "soft edges", "losses" (of JPEG) or "picture"."""
    few = len(values) <= MAX_LABELS
    if few and values[-1] <= MAX_PLAIN_LABEL and (values == np.rint(values)).all():
        return "labels"
    if len(values) == 2:
        return "two values"
    shares = (mask.astype(np.float64) - values[0]) / (float(values[-1]) - float(values[0]))
    between = (shares > NEARLY) & (shares < 1 - NEARLY)
    middle = (shares > 0.2) & (shares < 0.8)
    if few and _inner(between) >= MIN_AREA_OF_LABELS:
        return "labels"
    if _inner(middle) >= MIN_AREA_OF_GREY:
        return "picture"
    return "soft edges" if middle.sum() >= MIN_MIDDLE_OF_EDGES * between.sum() else "losses"


def _inner(pixels: np.ndarray) -> float:
    """The share of some pixels whose eight neighbours are such pixels too."""
    inside = cv2.erode(pixels.astype(np.uint8), SQUARE, borderValue=(0.0,))
    return float(inside.sum()) / max(int(pixels.sum()), 1)


def _has_color(image: np.ndarray, colors: Sequence[tuple[int, int, int]]) -> np.ndarray:
    colored = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    distances = [np.abs(colored.astype(np.int64) - np.array(color)).max(axis=2) for color in colors]
    return np.min(distances, axis=0) <= COLOR_DISTANCE
