"""Random changes to a standardised slice and its mask: geometry of both, then intensities of the slice alone.

One affine warp does all of the geometry, so that a slice is interpolated once. Gamma, contrast, blur and noise are the
kinds of change that nnU-Net makes too (Isensee et al. 2021, supplementary note 4); the ranges are ours.
"""

from dataclasses import dataclass, field, fields

import cv2
import numpy as np


def _help(meaning: str) -> dict[str, str]:
    return {"help": f"Augmentation: {meaning}."}


@dataclass
class Augmentation:
    """Callable `(pixel_values float32 [1, S, S], labels uint8 [S, S], rng) → the same`, without touching its inputs.

    Ranges are drawn from uniformly (`scale`: log-uniformly); `*_probability` says how often the step happens at all.
    """

    flip_probability: float = field(default=0.5, metadata=_help("how often left and right are exchanged"))
    affine_probability: float = field(
        default=0.9, metadata=_help("how often a slice is turned, scaled, sheared and shifted")
    )
    rotation: float = field(default=20.0, metadata=_help("± degrees"))
    scale: list[float] = field(
        default_factory=lambda: [0.8, 1.25], metadata=_help("factor of both axes, each another ± 5 %%, from and to")
    )
    shear: float = field(default=8.0, metadata=_help("± degrees"))
    shift: float = field(default=0.08, metadata=_help("± fraction of the side"))

    gamma_probability: float = field(default=0.3, metadata=_help("how often the gamma changes"))
    gamma: list[float] = field(default_factory=lambda: [0.7, 1.5], metadata=_help("exponent, from and to"))
    contrast_probability: float = field(default=0.3, metadata=_help("how often contrast and brightness change"))
    contrast: list[float] = field(default_factory=lambda: [0.75, 1.3], metadata=_help("factor, from and to"))
    brightness: float = field(default=0.25, metadata=_help("± deviations of the slice"))
    blur_probability: float = field(default=0.15, metadata=_help("how often a slice is blurred"))
    blur: list[float] = field(
        default_factory=lambda: [0.4, 1.2], metadata=_help("standard deviation in pixels, from and to")
    )
    noise_probability: float = field(default=0.2, metadata=_help("how often there is noise"))
    noise: float = field(default=0.15, metadata=_help("its largest standard deviation, in deviations of the slice"))

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
        image, labels = self._warp(pixel_values[0], labels, rng)
        return self._change_intensities(image, rng)[None], labels

    def _warp(self, image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        matrix = np.eye(3)
        if rng.random() < self.affine_probability:
            matrix = self._random_affine(rng)
        if rng.random() < self.flip_probability:
            matrix = matrix @ np.diag([-1.0, 1.0, 1.0])
        if np.array_equal(matrix, np.eye(3)):
            return image.copy(), labels.copy()
        height, width = image.shape
        center = np.array([[1, 0, (width - 1) / 2], [0, 1, (height - 1) / 2], [0, 0, 1]])
        offset = np.diag([width, height, 1.0]) @ [*matrix[:2, 2], 1]
        matrix[:2, 2] = offset[:2]
        matrix = (center @ matrix @ np.linalg.inv(center))[:2]
        black = float(image.min())
        size = (width, height)
        image = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderValue=black)
        labels = cv2.warpAffine(labels, matrix, size, flags=cv2.INTER_NEAREST, borderValue=0)
        return image, labels

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
        if rng.random() < self.gamma_probability:
            low, high = image.min(), image.max()
            span = max(high - low, 1e-6)
            image = ((image - low) / span) ** rng.uniform(*self.gamma) * span + low
        if rng.random() < self.contrast_probability:
            image = image * rng.uniform(*self.contrast) + rng.uniform(-self.brightness, self.brightness)
        if rng.random() < self.blur_probability:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(*self.blur))
        if rng.random() < self.noise_probability:
            image = image + rng.normal(0, rng.uniform(0, self.noise), image.shape)
        return image.astype(np.float32)
