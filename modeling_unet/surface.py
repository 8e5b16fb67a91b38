"""How far the outlines of two masks lie apart: HD95 and NSD.

    two masks → surface pixels of each → distances to the other surface, both ways → hd95, nsd

The surface of a mask are its pixels with a neighbour above, below, left or right that is not in it; pixels outside the
slice are not in the mask. Distances are Euclidean, from pixel centre to pixel centre. MONAI finds the same surfaces and
distances (without `use_subvoxels`); `hd95` and `nsd` say where it goes on differently.
"""

import cv2
import numpy as np


GRID_SIDE = 512  # px; lengths in the definition of a metric are meant on slices of this side
NSD_TOLERANCE = 2  # px on the 512-px grid, about 1 mm on the slices of the public data set
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
_KD_TREE: dict[str, bool | int | float | str] = {"algorithm": 4}  # FLANN_INDEX_KDTREE_SINGLE, the one that is exact


def scaled(length: float, shape: tuple[int, int]) -> float:
    """A length that is defined on a slice of `GRID_SIDE` pixels, in pixels of one whose longer side is another."""
    return length * max(shape) / GRID_SIDE


def bounding_window(mask: np.ndarray) -> tuple[slice, slice]:
    """The smallest window of an array [H, W] with all that is true in it, and of at least one pixel.

    Most of a slice is neither tumour nor taken for one, and nothing outside this window changes a metric.
    """
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return slice(y, y + max(height, 1)), slice(x, x + max(width, 1))


def surface_distances(
    predicted: np.ndarray, true: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0)
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of every surface pixel of one mask to the nearest one of the other.

    Args:
        predicted, true: bool [H, W].
        spacing: height and width of a pixel; the result is in the same unit, so in px unless given.

    Returns:
        Two flat arrays, from the prediction to the truth and back, each as long as its surface has pixels: empty where
        the mask is, and infinite where only the other one is.
    """
    window = bounding_window(predicted | true)
    one, other = _surface(predicted[window]), _surface(true[window])
    return _distances(one, other, spacing), _distances(other, one, spacing)


def hd95(distances: tuple[np.ndarray, np.ndarray]) -> float | None:
    """95th percentile of both directions' distances taken together (Hausdorff distance without its outliers).

    None if exactly one of the masks is empty, 0 if both are. MONAI's `compute_hausdorff_distance(percentile=95)` takes
    the percentile of each direction and of the two the larger, which is never below this one, and gives infinity for
    None.

    Args:
        distances: what `surface_distances` returns; the result is in their unit.
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
        distances: what `surface_distances` returns, in px.
        shape: (height, width) of the slice; the tolerance is 2 px where the longer side is 512, and grows with it.
    """
    pooled = np.concatenate(distances)
    return float(np.mean(pooled <= scaled(NSD_TOLERANCE, shape))) if pooled.size else 1.0


def _surface(mask: np.ndarray) -> np.ndarray:
    inner = cv2.erode(mask.astype(np.uint8), _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask & (inner == 0)


def _distances(surface: np.ndarray, other: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    if not other.any():
        return np.full(np.count_nonzero(surface), np.inf)
    row, column = spacing
    if row == column:
        to_other = cv2.distanceTransform((~other).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        return to_other[surface].astype(float) * row
    # OpenCV's distance transform knows square pixels only.
    points, other_points = ((np.argwhere(pixels) * spacing).astype(np.float32) for pixels in (surface, other))
    if not len(points):
        return np.empty(0)
    _, squared = cv2.flann.Index(other_points, _KD_TREE).knnSearch(points, 1)
    return np.sqrt(squared[:, 0].astype(float))
