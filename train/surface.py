"""How far the outlines of two masks lie apart: HD95 and NSD.

    two masks → surface pixels of each → distances to the other surface, both ways → hd95, nsd

The surface of a mask are its pixels with a neighbour above, below, left or right that is not in it; beyond the border
of the slice nothing is. Distances are Euclidean, from pixel centre to pixel centre. MONAI finds the same surfaces and
distances (without `use_subvoxels`); `hd95` and `nsd` say where it goes on differently.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from .metrics import bounding_window, scaled


NSD_TOLERANCE = 2  # px on the 512-px grid, about 1 mm on the slices of the public data set
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def surface_distances(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of every surface pixel of one mask to the nearest one of the other, in px.

    Args:
        predicted, true: bool [H, W].

    Returns:
        Two flat arrays, from the prediction to the truth and back, each as long as its surface has pixels: empty where
        the mask is, and infinite where only the other one is.
    """
    window = bounding_window(predicted | true)
    surfaces = [_surface(mask[window]) for mask in (predicted, true)]
    return _distances(*surfaces), _distances(*reversed(surfaces))


def hd95(distances: tuple[np.ndarray, np.ndarray]) -> float | None:
    """95th percentile of both directions' distances taken together, in px (Hausdorff distance without its outliers).

    None if exactly one of the masks is empty, 0 if both are. MONAI's `compute_hausdorff_distance(percentile=95)` takes
    the percentile of each direction and of the two the larger, which is never below this one, and gives infinity for
    None. In mm it could only be given where the spacing is known, which the data set does not say.

    Args:
        distances: what `surface_distances` returns.
    """
    pooled = np.concatenate(distances)
    if not pooled.size:
        return 0.0
    return float(np.percentile(pooled, 95)) if np.isfinite(pooled).all() else None


def nsd(distances: tuple[np.ndarray, np.ndarray], shape: tuple[int, int]) -> float:
    """Normalised surface Dice, 0 … 1: the share of both surfaces that lies within a tolerance of the other.

    Nikolov et al. 2021, "Clinically applicable segmentation of head and neck anatomy". 1 if both masks are empty, where
    MONAI's `compute_surface_dice` gives NaN, and 0 if one of them is.

    Args:
        distances: what `surface_distances` returns.
        shape: (height, width) of the slice; the tolerance is 2 px where the longer side is 512, and grows with it.
    """
    pooled = np.concatenate(distances)
    return float(np.mean(pooled <= scaled(NSD_TOLERANCE, shape))) if pooled.size else 1.0


def summarize_hd95(values: Sequence[float | None], shapes: Sequence[tuple[int, int]]) -> dict[str, float | int | None]:
    """The median HD95 of slices, and what the undefined ones would make of it.

    Args:
        values: per slice, what `hd95` returns.
        shapes: (height, width) of each slice.

    Returns:
        `hd95_median` over the defined ones (None if there are none), in px of the slices themselves; `hd95_undefined`,
        the number of the others; `hd95_median_diagonal` over all, where undefined counts as the slice's diagonal.
    """
    defined = [value for value in values if value is not None]
    completed = [math.hypot(*shape) if value is None else value for value, shape in zip(values, shapes, strict=True)]
    return {
        "hd95_median": float(np.median(defined)) if defined else None,
        "hd95_undefined": len(values) - len(defined),
        "hd95_median_diagonal": float(np.median(completed)),
    }


def _surface(mask: np.ndarray) -> np.ndarray:
    inner = cv2.erode(mask.astype(np.uint8), _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask & (inner == 0)


def _distances(surface: np.ndarray, other: np.ndarray) -> np.ndarray:
    if not other.any():
        return np.full(np.count_nonzero(surface), np.inf)
    to_other = cv2.distanceTransform((~other).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return to_other[surface].astype(float)
