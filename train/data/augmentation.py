"""Random changes to a standardised slice and its mask: geometry of both, then intensities of the slice alone.

One affine warp does all of the geometry, so that a slice is interpolated once. Gamma, contrast, blur and noise are the
kinds of change that nnU-Net makes too (Isensee et al. 2021, supplementary note 4); the ranges are ours.

A view is a window on the slice, with the tumour inside, cut, or outside, at the same magnifications: most of a slice is
normal anatomy, and windows without the tumour teach that. Another scanner is imitated by an uneven brightness, another
contrast between tissues and another sharpness.
"""

from dataclasses import dataclass, field, fields

import cv2
import numpy as np

from modeling_unet.image_processing_unet import IGNORE_INDEX


def _help(meaning: str) -> dict[str, str]:
    return {"help": f"Augmentation: {meaning}."}


# Windows that are drawn for a view, of which the one that shows most, half, or least of the tumour is taken.
WINDOWS = 8
FOREGROUND_FRACTION = 0.1  # of the 99th percentile, as in UNetImageProcessor


@dataclass(kw_only=True)
class Augmentation:
    """Callable `(pixel_values float32 [C, S, S], labels uint8 [S, S], rng) → the same`, without touching its inputs.

    Several channels are moved as one, and each has intensities of its own.

    Ranges are drawn from uniformly (`scale`: log-uniformly); `*_probability` says how often the step happens at all. No
    value has a default here: `recipes/default.yaml` names them all.
    """

    flip_probability: float = field(metadata=_help("how often left and right are exchanged"))
    affine_probability: float = field(metadata=_help("how often a slice is turned, scaled, sheared and shifted"))
    rotation: float = field(metadata=_help("± degrees"))
    scale: list[float] = field(metadata=_help("factor of both axes, each another ± 5 %%, from and to"))
    shear: float = field(metadata=_help("± degrees"))
    shift: float = field(metadata=_help("± fraction of the side"))

    view_probability: float = field(metadata=_help("how often a window on the slice takes its place"))
    view_scale: list[float] = field(metadata=_help("magnification of that window, from and to"))

    scanner_probability: float = field(metadata=_help("how often another scanner is imitated"))
    bias: float = field(metadata=_help("largest logarithm of that scanner's brightness over the slice"))
    bend: float = field(metadata=_help("how unevenly it spreads the grey values; 0 keeps them"))
    sharpness: list[float] = field(metadata=_help("how much of the fine detail it adds again, from and to"))

    gamma_probability: float = field(metadata=_help("how often the gamma changes"))
    gamma: list[float] = field(metadata=_help("exponent, from and to"))
    contrast_probability: float = field(metadata=_help("how often contrast and brightness change"))
    contrast: list[float] = field(metadata=_help("factor, from and to"))
    brightness: float = field(metadata=_help("± deviations of the slice"))
    blur_probability: float = field(metadata=_help("how often a slice is blurred"))
    blur: list[float] = field(metadata=_help("standard deviation in pixels, from and to"))
    noise_probability: float = field(metadata=_help("how often there is noise"))
    noise: float = field(metadata=_help("its largest standard deviation, in deviations of the slice"))

    def __post_init__(self):
        for option in fields(self):
            value = getattr(self, option.name)
            if isinstance(value, list):
                if len(value) != 2 or not 0 < value[0] <= value[1]:
                    raise ValueError(f"--{option.name} is {value}; give two numbers above 0, the smaller one first.")
            elif value < 0 or (value > 1 and option.name.endswith("_probability")):
                allowed = "from 0 to 1" if option.name.endswith("_probability") else "0 or above"
                raise ValueError(f"--{option.name} is {value}; it must be {allowed}.")

    def __call__(
        self, pixel_values: np.ndarray, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        images, labels = self._warp(pixel_values, labels, rng)
        return np.stack([self._change_intensities(image, rng) for image in images]), labels

    def _warp(self, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        matrix, is_view = np.eye(3), self.view_probability and rng.random() < self.view_probability
        if rng.random() < self.affine_probability:
            matrix = self._random_affine(rng)
        if is_view:
            matrix = self._random_view(labels, matrix, rng)
        if rng.random() < self.flip_probability:
            matrix = matrix @ np.diag([-1.0, 1.0, 1.0])
        if np.array_equal(matrix, np.eye(3)):
            return images.copy(), labels.copy()
        height, width = labels.shape
        center = np.array([[1, 0, (width - 1) / 2], [0, 1, (height - 1) / 2], [0, 0, 1]])
        offset = np.diag([width, height, 1.0]) @ [*matrix[:2, 2], 1]
        matrix[:2, 2] = offset[:2]
        matrix = (center @ matrix @ np.linalg.inv(center))[:2]
        size, moved = (width, height), []
        for image in images:
            black = float(image.min())
            image = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderValue=black)
            moved.append(standardize(image, black) if is_view else image)
        labels = cv2.warpAffine(labels, matrix, size, flags=cv2.INTER_NEAREST, borderValue=0)
        return np.stack(moved), labels

    def _random_view(self, labels: np.ndarray, matrix: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The turn and shear of an affine matrix, at the magnification and place of a window: [3, 3].

        A window of magnification 1 or more lies within the slice, a smaller one shows all of it somewhere.
        """
        linear = matrix[:2, :2] / np.sqrt(abs(np.linalg.det(matrix[:2, :2])))
        linear = linear * np.exp(rng.uniform(*np.log(self.view_scale)))
        side = 1 / np.sqrt(abs(np.linalg.det(linear)))  # of the window, in sides of the slice
        centers = rng.uniform(-0.5, 0.5, (WINDOWS, 2)) * abs(1 - side)
        shown = [_share_within((labels > 0) & (labels != IGNORE_INDEX), center, side) for center in centers]
        wanted = rng.choice([0.0, 0.5, 1.0])
        center = centers[np.argmin(np.abs(np.subtract(shown, wanted)))]
        view = np.eye(3)
        view[:2, :2], view[:2, 2] = linear, -linear @ center
        return view

    def _random_affine(self, rng: np.random.Generator) -> np.ndarray:
        """Rotation · shear · scale about the centre, then a shift in fractions of the side: [3, 3]."""
        angle, shear = (
            np.deg2rad(rng.uniform(-self.rotation, self.rotation)),
            np.tan(np.deg2rad(rng.uniform(-self.shear, self.shear))),
        )
        low, high = np.log(self.scale)
        scale_x, scale_y = np.exp(rng.uniform(low, high) + rng.uniform(-0.05, 0.05, size=2))
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = np.eye(3)
        matrix[:2, :2] = rotation @ np.array([[1, shear], [0, 1]]) @ np.diag([scale_x, scale_y])
        matrix[:2, 2] = rng.uniform(-self.shift, self.shift, size=2)
        return matrix

    def _change_intensities(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.scanner_probability and rng.random() < self.scanner_probability:
            image = self._another_scanner(image, rng)
        if rng.random() < self.gamma_probability:
            low, high = image.min(), image.max()
            span = max(high - low, 1e-6)
            image = ((image - low) / span) ** _drawn(self.gamma, rng) * span + low
        if rng.random() < self.contrast_probability:
            image = image * _drawn(self.contrast, rng) + rng.uniform(-self.brightness, self.brightness)
        if rng.random() < self.blur_probability:
            image = cv2.GaussianBlur(image, (0, 0), _drawn(self.blur, rng))
        if rng.random() < self.noise_probability:
            image = image + rng.normal(0, rng.uniform(0, self.noise), image.shape)
        return image.astype(np.float32)

    def _another_scanner(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Another brightness over the slice, other grey values for the same tissues, other sharpness: [S, S]."""
        height, width = image.shape
        black = float(image.min())
        field = cv2.resize(rng.uniform(-self.bias, self.bias, (3, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
        values = (image - black) * np.exp(field)
        detail = values - cv2.GaussianBlur(values, (0, 0), 1.0)
        values = np.maximum(values + _drawn(self.sharpness, rng) * rng.choice([-0.5, 1]) * detail, 0)
        bright = max(float(np.percentile(values, 99.5)), 1e-6)
        steps = np.exp(rng.normal(0, self.bend, 6)) if self.bend else np.ones(6)
        curve = np.concatenate([[0.0], np.cumsum(steps) / steps.sum()])
        top = float(values.max() / bright)
        bent = np.interp(values / bright, [*np.linspace(0, 1, 7), max(top, 1.001)], [*curve, max(top, 1.001)])
        return standardize(bent, 0.0)


def _drawn(span: list[float], rng: np.random.Generator) -> float:
    low, high = span
    return rng.uniform(low, high)


def standardize(image: np.ndarray, black: float) -> np.ndarray:
    """Mean 0 and deviation 1 over what is brighter than the background, by the rule of UNetImageProcessor: [S, S].

    Very bright values are not clipped here, because the later changes of intensity would move the limit.
    """
    values = image - black
    foreground = values[values > FOREGROUND_FRACTION * np.percentile(values, 99)]
    if foreground.size < 2 or (deviation := foreground.std()) < 1e-6:
        return np.zeros_like(image)
    return ((values - foreground.mean()) / deviation).astype(np.float32)


def _share_within(tumor: np.ndarray, center: np.ndarray, side: float) -> float:
    """Share of a tumour in an upright window; its centre is counted from the slice's, all in sides of the slice."""
    (height, width), total = tumor.shape, np.count_nonzero(tumor)
    left, top = (0.5 + center - side / 2) * (width, height)
    rows = slice(max(round(top), 0), max(round(top + side * height), 0))
    columns = slice(max(round(left), 0), max(round(left + side * width), 0))
    return np.count_nonzero(tumor[rows, columns]) / total if total else 0.0
