"""What is known of one slice: probability, mask, lesions and their measurements, with no network in sight.

Coordinates count pixels from the top left corner; the centre of the first pixel is (x, y) = (0, 0).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import cv2
import numpy as np

from .comparison import Overlap
from .familiarity import UNFAMILIAR
from .image_processing_unet import COLOURED, is_coloured
from .overlay import DEFAULT_ALPHA, DEFAULT_COLOR, draw_overlay, parse_color


DEFAULT_THRESHOLD = 0.5
# Smaller specks are noise more often than tumour: they stay in the mask, but by default do not count as a finding.
MIN_LESION_AREA_PX = 10
# Pixels of brain slices have 0.2 to 5 mm; a number outside this wider range is in another unit, or a mistake.
MIN_SPACING_MM, MAX_SPACING_MM = 0.01, 100.0

CUT_OUT = "What looks like a head was cut out of the picture; nothing was looked for outside it."
SEVERAL_CUT_OUT = "{count} parts that look like heads were cut out of the picture; nothing was looked for outside them."
SCALED_DOWN = "The picture of {full} pixels was scaled down to {size}, and so is the mask."
INVERTED = "White and black were exchanged, as the picture is a negative."
UNLIKE = (
    "This picture is unlike the T1-weighted slices with contrast that the network learned from: do not rely on what is "
    "marked."
)


@dataclass(frozen=True)
class Lesion:
    """One connected piece of the mask, large enough to count: pixels that touch at an edge or a corner.

    Attributes:
        area_px: number of pixels.
        area_mm2: area, or None if the spacing is unknown.
        box: (x, y, width, height) of the smallest upright rectangle around it, in px.
        centroid: (x, y), mean of its pixels' centres, in px.
        longest_diameter_px: largest distance between any two of its points, each pixel taken as a full square: from
            outer edge to outer edge, so a row of n pixels is √(n² + 1) long.
        longest_diameter_mm: the same in mm, or None; where pixels are not square, this may be another pair of points.
        mean_probability: mean tumour probability of its pixels, 0 … 1.
    """

    area_px: int
    area_mm2: float | None
    box: tuple[int, int, int, int]
    centroid: tuple[float, float]
    longest_diameter_px: float
    longest_diameter_mm: float | None
    mean_probability: float


@dataclass(frozen=True, eq=False)
class TumorClass:
    """One of several classes in a slice.

    Attributes:
        name: as the model calls it.
        mask: bool [H, W].
        probability: of the class against the background alone, float32 [H, W], 0 … 1.
        spacing, min_area_px: as in `Segmentation`.
    """

    name: str
    mask: np.ndarray
    probability: np.ndarray
    spacing: tuple[float, float] | None = None
    min_area_px: int = MIN_LESION_AREA_PX

    @cached_property
    def lesions(self) -> list[Lesion]:
        """The lesions of the mask, largest first."""
        return find_lesions(self.mask, self.probability, self.spacing, self.min_area_px)

    @cached_property
    def area_px(self) -> int:
        """Number of pixels in the mask."""
        return int(np.count_nonzero(self.mask))

    @property
    def area_mm2(self) -> float | None:
        """Area of the mask in mm², or None if the spacing is unknown."""
        return _area_mm2(self.area_px, self.spacing)

    def to_dict(self) -> dict:
        """All measurements in types that JSON knows."""
        return {
            "name": self.name,
            "highest_probability": float(self.probability.max()),
            "area_px": self.area_px,
            "area_percent": 100 * self.area_px / self.mask.size,
            "area_mm2": self.area_mm2,
            "lesions": [asdict(lesion) for lesion in self.lesions],
        }


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What the network says about one slice, and everything that follows from it.

    Attributes:
        image: the slice as it is displayed, uint8 [H, W, 3], RGB.
        probability: tumour probability of every pixel, float32 [H, W], 0 … 1; of several classes that of the likeliest.
        threshold: pixels above it belong to the mask.
        spacing: size of a pixel in mm as (row, column), the order of DICOM's PixelSpacing; None if unknown.
        min_area_px: pieces of the mask with fewer pixels are no lesions.
        frames: (x, y, width, height) in px of each part that the network was shown alone, with one head in it; empty
            where it was shown the slice as a whole.
        inverted: whether white and black were exchanged for the network.
        familiarity: the share of slices like those of the training, but of other persons, that are no more like them
            than this one, 0 … 1; of several frames the lowest. None if the model cannot tell.
        class_names: what the classes are called, if the model tells several apart; all else is of them together.
        class_probabilities: of each of these against the background alone, float32 [K, H, W], 0 … 1, or None.
        classes_overlap: whether a pixel may have several classes; otherwise it has the likeliest one.
        full_size: (width, height) in px of the picture before it was scaled down to be read; None if it was not.

    Raises:
        ValueError: the sizes differ, the threshold is outside 0 … 1, the spacing is not two numbers from 0.01 to 100,
            or the minimum area is not a whole number from 0.
    """

    image: np.ndarray
    probability: np.ndarray
    threshold: float = DEFAULT_THRESHOLD
    spacing: tuple[float, float] | None = None
    min_area_px: int = MIN_LESION_AREA_PX
    frames: tuple[tuple[int, int, int, int], ...] = ()
    inverted: bool = False
    familiarity: float | None = None
    class_names: tuple[str, ...] = ()
    class_probabilities: np.ndarray | None = None
    classes_overlap: bool = False
    full_size: tuple[int, int] | None = None

    def __post_init__(self):
        if self.image.shape[:2] != self.probability.shape:
            raise ValueError(f"image has shape {self.image.shape}, but the probability has {self.probability.shape}.")
        shape = None if self.class_probabilities is None else self.class_probabilities.shape
        if shape != ((len(self.class_names), *self.probability.shape) if self.class_names else None):
            raise ValueError(f"class_probabilities has shape {shape}; {len(self.class_names)} classes are named.")
        check_threshold(self.threshold)
        check_spacing(self.spacing)
        check_min_area(self.min_area_px)

    @cached_property
    def mask(self) -> np.ndarray:
        """Bool [H, W], true where the probability is above the threshold."""
        return self.probability > self.threshold

    @cached_property
    def classes(self) -> tuple[TumorClass, ...]:
        """Each class by itself, in the model's order; none if the model knows one kind of tumour."""
        if self.class_probabilities is None:
            return ()
        # The mask says what is left of them, where pieces of it are hidden.
        masks = class_masks(self.class_probabilities, self.threshold, self.classes_overlap) & self.mask
        return tuple(
            TumorClass(name, mask, probability, self.spacing, self.min_area_px)
            for name, mask, probability in zip(self.class_names, masks, self.class_probabilities, strict=True)
        )

    @cached_property
    def labels(self) -> np.ndarray:
        """Uint8 [H, W]: 0, or the number of the pixel's class, 1 … K; of several classes the last."""
        labels = self.mask.astype(np.uint8)
        for number, one in enumerate(self.classes, start=1):
            labels[one.mask] = number
        return labels

    @cached_property
    def lesions(self) -> list[Lesion]:
        """The lesions of the mask, largest first."""
        return find_lesions(self.mask, self.probability, self.spacing, self.min_area_px)

    @cached_property
    def lesion_mask(self) -> np.ndarray:
        """Bool [H, W], the mask without the pieces that are too small for a lesion."""
        labels, large, *_ = label_pieces(self.mask, self.min_area_px)
        return large[labels]

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know before trusting the mask, one sentence each."""
        height, width = self.probability.shape
        parts = self.frames or ((0, 0, width, height),)
        sentences = [] if self.is_familiar else [UNLIKE]
        if len(parts) > 1:
            sentences.append(SEVERAL_CUT_OUT.format(count=len(parts)))
        elif parts[0] != (0, 0, width, height):
            sentences.append(CUT_OUT)
        if self.inverted:
            sentences.append(INVERTED)
        if any(is_coloured(self.image[y : y + h, x : x + w]) for x, y, w, h in parts):
            sentences.append(COLOURED)
        if self.full_size:
            sentences.append(SCALED_DOWN.format(full="{} × {}".format(*self.full_size), size=f"{width} × {height}"))
        return tuple(sentences)

    @property
    def is_familiar(self) -> bool:
        """Whether the network may know such pictures: false for what is less familiar than 0.99 of held-out slices."""
        return self.familiarity is None or self.familiarity >= UNFAMILIAR

    @property
    def tumor_found(self) -> bool:
        """Whether there is any lesion."""
        return bool(self.lesions)

    @cached_property
    def highest_probability(self) -> float:
        """Highest tumour probability of any pixel, 0 … 1, whatever the threshold."""
        return float(self.probability.max())

    @cached_property
    def area_px(self) -> int:
        """Number of pixels in the mask, those of specks too small for a lesion included."""
        return int(np.count_nonzero(self.mask))

    @property
    def area_percent(self) -> float:
        """Area of the mask in percent of the whole image, background included."""
        return 100 * self.area_px / self.mask.size

    @property
    def area_mm2(self) -> float | None:
        """Area of the mask in mm², or None if the spacing is unknown."""
        return _area_mm2(self.area_px, self.spacing)

    @property
    def longest_diameter_px(self) -> float | None:
        """Longest diameter of any lesion in px, or None if there is no lesion."""
        return max((lesion.longest_diameter_px for lesion in self.lesions), default=None)

    @property
    def longest_diameter_mm(self) -> float | None:
        """The same in mm, or None if there is no lesion or the spacing is unknown."""
        diameters = [lesion.longest_diameter_mm for lesion in self.lesions]
        return max((diameter for diameter in diameters if diameter is not None), default=None)

    def at_threshold(self, threshold: float) -> "Segmentation":
        """The same probabilities cut at another threshold, 0 … 1; the network does not run again."""
        return self.cut(threshold=threshold)

    def cut(self, **changes) -> "Segmentation":
        """The same probabilities cut and measured in another way; the network does not run again.

        Args:
            changes: `threshold`, `min_area_px` and `spacing`, as far as they are to change.
        """
        return replace(self, **changes)

    def dice(self, truth: np.ndarray) -> float:
        """Dice of the mask with a true one, bool [H, W]: 0 … 1, and 1 where both are empty."""
        return Overlap.of(self.mask, truth).dice

    def overlay(
        self,
        color: str | tuple[int, int, int] = DEFAULT_COLOR,
        alpha: float = DEFAULT_ALPHA,
        style: str = "fill",
    ) -> np.ndarray:
        """The slice with the tumour in colour, uint8 [H, W, 3]; the arguments are those of `draw_overlay`.

        Each of several classes has a colour of its own, in the order of `overlay.CLASS_COLORS`; another `color` for
        them is refused with a ValueError.
        """
        mask = self.mask
        if self.classes:
            check_class_color(color, self.class_names)
            mask = np.stack([one.mask for one in self.classes])
        return draw_overlay(self.image, mask, color, alpha, style, self.probability)

    def to_dict(self) -> dict:
        """All measurements in types that JSON knows; the pictures are left out."""
        height, width = self.mask.shape
        return {
            "height": height,
            "width": width,
            "threshold": float(self.threshold),
            "spacing": None if self.spacing is None else [float(side) for side in self.spacing],
            "min_area_px": int(self.min_area_px),
            "tumor_found": self.tumor_found,
            "highest_probability": self.highest_probability,
            "area_px": self.area_px,
            "area_percent": self.area_percent,
            "area_mm2": self.area_mm2,
            "lesions": [asdict(lesion) for lesion in self.lesions],
            "familiarity": self.familiarity,
            "warnings": list(self.warnings),
            **({"classes": [one.to_dict() for one in self.classes]} if self.classes else {}),
        }


def class_masks(probabilities: np.ndarray, threshold: float, overlap: bool) -> np.ndarray:
    """Where each class is: likelier than the threshold and, unless classes overlap, than any other.

    Args:
        probabilities: float32 [K, …], 0 … 1.
        threshold: 0 … 1.
        overlap: whether a pixel or voxel may have several.

    Returns:
        Bool of the same shape.
    """
    masks = probabilities > threshold
    if not overlap:
        likeliest = probabilities.argmax(axis=0)
        for number, mask in enumerate(masks):
            mask &= likeliest == number
    return masks


def check_class_color(color: str | tuple[int, int, int], class_names: Sequence[str]):
    """Raise a ValueError for a colour of one's own where there are several classes."""
    if len(class_names) > 1 and parse_color(color) != parse_color(DEFAULT_COLOR):
        raise ValueError(
            f"color is {color}; the {len(class_names)} classes {', '.join(class_names)} have colours of their own: "
            "leave it out."
        )


def find_lesions(
    mask: np.ndarray,
    probability: np.ndarray,
    spacing: tuple[float, float] | None = None,
    min_area_px: int = MIN_LESION_AREA_PX,
) -> list[Lesion]:
    """Measure the 8-connected pieces of a mask that have at least `min_area_px` pixels.

    Args:
        mask: bool [H, W].
        probability: [H, W], 0 … 1.
        spacing: size of a pixel in mm as (row, column), or None.
        min_area_px: smaller pieces are left out.

    Returns:
        The lesions, largest first.
    """
    labels, large, stats, centroids = label_pieces(mask, min_area_px)
    lesions = []
    for label in np.flatnonzero(large):
        x, y, width, height, area = stats[label].tolist()
        window = np.s_[y : y + height, x : x + width]
        inside = labels[window] == label
        lesions.append(
            Lesion(
                area_px=area,
                area_mm2=_area_mm2(area, spacing),
                box=(x, y, width, height),
                centroid=tuple(centroids[label].tolist()),
                longest_diameter_px=longest_diameter(inside),
                longest_diameter_mm=None if spacing is None else longest_diameter(inside, spacing),
                mean_probability=float(probability[window][inside].mean(dtype=np.float64)),
            )
        )
    return sorted(lesions, key=lambda lesion: lesion.area_px, reverse=True)


def label_pieces(
    mask: np.ndarray, min_area_px: int = MIN_LESION_AREA_PX
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The 8-connected pieces of a mask, bool [H, W], and which of them are lesions.

    Returns:
        The label of every pixel, int32 [H, W], 0 for the background; and for each label whether it is a piece of at
        least `min_area_px` pixels, OpenCV's statistics (`cv2.CC_STAT_…`), and the centroid (x, y).
    """
    _, labels, stats, centroids = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    large = stats[:, cv2.CC_STAT_AREA] >= min_area_px
    large[0] = False  # the background
    return labels, large, stats, centroids


def longest_diameter(mask: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0)) -> float:
    """Largest distance between any two points of a mask whose pixels are rectangles of the size `spacing`.

    Args:
        mask: bool [H, W], not empty.
        spacing: height and width of a pixel; the result is in the same unit.
    """
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    pixels = np.concatenate(contours)  # [N, 1, 2], x before y
    corners = (pixels + np.array([(0, 0), (0, 1), (1, 0), (1, 1)])).reshape(-1, 2)
    # The two points that lie farthest apart are corners of the convex hull, and those are few enough to try every pair.
    hull = cv2.convexHull(corners.astype(np.int32))[:, 0] * spacing[::-1]
    return float(np.linalg.norm(hull[:, None] - hull, axis=2).max())


def spacing_within(
    spacing: tuple[float, float] | None, full_size: tuple[int, int] | None, shape: tuple[int, ...]
) -> tuple[float, float] | None:
    """Size of a pixel in mm as (row, column) of what was scaled down.

    Args:
        spacing: of the picture as it was, or None.
        full_size: (width, height) of it, or None if it was not scaled down.
        shape: (height, width, …) of what it was scaled down to.
    """
    if spacing is None or full_size is None:
        return spacing
    return spacing[0] * full_size[1] / shape[0], spacing[1] * full_size[0] / shape[1]


def check_threshold(threshold: float) -> float:
    """Return the threshold, or raise ValueError when it is outside 0 … 1."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; allowed are values from 0 to 1.")
    return threshold


def check_spacing(spacing: tuple[float, float] | None) -> tuple[float, float] | None:
    """Return the spacing, or raise ValueError when it is neither None nor two numbers from 0.01 to 100."""
    if spacing is None:
        return None
    if len(spacing) != 2 or not all(MIN_SPACING_MM <= side <= MAX_SPACING_MM for side in spacing):
        raise ValueError(
            f"spacing is {spacing}; allowed are two positive numbers, row and column in mm, from {MIN_SPACING_MM:g} to "
            f"{MAX_SPACING_MM:g}."
        )
    return spacing


def check_min_area(min_area_px: int) -> int:
    """Return the minimum area, or raise ValueError when it is not a whole number from 0."""
    if not (min_area_px >= 0 and float(min_area_px).is_integer()):
        raise ValueError(f"min_area_px is {min_area_px}; allowed are whole numbers from 0.")
    return min_area_px


def _area_mm2(area_px: int, spacing: tuple[float, float] | None) -> float | None:
    return None if spacing is None else float(area_px * spacing[0] * spacing[1])
