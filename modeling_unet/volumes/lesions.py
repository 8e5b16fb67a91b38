"""Lesions of a volume: the pieces of a mask in three dimensions, and how large they are and where they lie."""

from dataclasses import dataclass

import cv2
import numpy as np


# Smaller pieces stay in the mask, but do not count as a finding: a ball of 4 mm across has 0.03 mL.
MIN_LESION_ML = 0.03
MIN_LESION_VOXELS = 10  # where nobody knows how large a voxel is
MAX_PAIRS = 1 << 22  # of points whose distances are worked out at a time


@dataclass(frozen=True)
class VolumeLesion:
    """One connected piece of a volume's mask, large enough to count: voxels that touch at a side, an edge or a corner.

    Attributes:
        voxels: number of voxels.
        volume_ml: volume, or None if the size of a voxel is unknown.
        slices: first and last of the slices that it lies in, counted from 0.
        centre: (slice, row, column), mean of its voxels' centres, counted from 0.
        centre_mm: the same in mm towards the patient's right, front and head, from the origin of the file (RAS+);
            None if the file does not say how the patient lies.
        longest_diameter_mm: largest distance between any two of its points, each voxel taken as a full box; None if
            the size of a voxel is unknown.
        longest_in_slice_mm: the same within any one slice.
        mean_probability: mean tumour probability of its voxels, 0 … 1.
    """

    voxels: int
    volume_ml: float | None
    slices: tuple[int, int]
    centre: tuple[float, float, float]
    centre_mm: tuple[float, float, float] | None
    longest_diameter_mm: float | None
    longest_in_slice_mm: float | None
    mean_probability: float


def label_pieces(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 26-connected pieces of a mask, bool [N, H, W].

    Returns:
        The label of every voxel, int32 [N, H, W], 0 for the background; and the voxels of every piece, int64 [pieces],
        that of label 1 first.
    """
    labels = np.zeros(mask.shape, np.int32)
    parents = [0]
    square = np.ones((3, 3), np.uint8)

    def root(label: int) -> int:
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = parents[label]
        return label

    for number, image in enumerate(mask):
        if not image.any():
            continue
        count, own = cv2.connectedComponents(np.ascontiguousarray(image, np.uint8), connectivity=8, ltype=cv2.CV_32S)
        own[own > 0] += len(parents) - 1
        parents += range(len(parents), len(parents) + count - 1)
        labels[number] = own
        if number and labels[number - 1].any():
            # Every way in which voxels of two slices touch, one shift after another.
            below, (height, width) = np.pad(labels[number - 1], 1), own.shape
            for row, column in np.argwhere(square):
                shifted = below[row : row + height, column : column + width]
                both = (own > 0) & (shifted > 0)
                for one, other in np.unique(np.stack([own[both], shifted[both]]), axis=1).T.tolist():
                    parents[root(one)] = root(other)
    roots = np.array([root(label) for label in range(len(parents))])
    _, numbers = np.unique(roots, return_inverse=True)
    labels = numbers.astype(np.int32)[labels]
    return labels, np.bincount(labels.ravel())[1:]


def find_lesions(
    mask: np.ndarray,
    probability: np.ndarray,
    spacing: tuple[float, float, float] | None = None,
    affine: np.ndarray | None = None,
    min_voxels: int = MIN_LESION_VOXELS,
) -> list[VolumeLesion]:
    """Measure the pieces of a mask that have at least `min_voxels` voxels.

    Args:
        mask: bool [N, H, W].
        probability: [N, H, W], 0 … 1.
        spacing: size of a voxel in mm along the three axes, or None.
        affine: float64 [4, 4], index (slice, row, column, 1) → mm in the patient, or None.
        min_voxels: smaller pieces are left out.

    Returns:
        The lesions, largest first.
    """
    lesions = []
    for places in _pieces(mask):
        if (voxels := len(places)) < min_voxels:
            continue
        centre = places.mean(axis=0)
        lesions.append(
            VolumeLesion(
                voxels=voxels,
                volume_ml=None if spacing is None else float(voxels * np.prod(spacing) / 1000),
                slices=(int(places[:, 0].min()), int(places[:, 0].max())),
                centre=tuple(centre.tolist()),
                centre_mm=None if affine is None else tuple((affine[:3, :3] @ centre + affine[:3, 3]).tolist()),
                longest_diameter_mm=None if spacing is None else longest_diameter(places, spacing),
                longest_in_slice_mm=None if spacing is None else _longest_in_slice(places, spacing),
                mean_probability=float(probability[tuple(places.T)].mean(dtype=np.float64)),
            )
        )
    return sorted(lesions, key=lambda lesion: lesion.voxels, reverse=True)


def _pieces(mask: np.ndarray) -> list[np.ndarray]:
    """Where the voxels of every piece lie, int [M, 3], in the order of their slices."""
    labels, sizes = label_pieces(mask)
    places = np.argwhere(labels)
    order = np.argsort(labels[tuple(places.T)], kind="stable")
    return np.split(places[order], np.cumsum(sizes)[:-1]) if len(sizes) else []


def longest_diameter(places: np.ndarray, spacing: tuple[float, float, float]) -> float:
    """Largest distance between any two points of voxels at int [M, 3], boxes of the size `spacing`, in its unit."""
    corners = np.concatenate([_hull(places[places[:, 0] == number]) for number in np.unique(places[:, 0])])
    # A voxel reaches from its place to the next one along every axis.
    corners = np.concatenate([corners, corners + np.array((1, 0, 0))]) * spacing
    step = max(MAX_PAIRS // len(corners), 1)
    squares = (
        float(((corners[start : start + step, None] - corners) ** 2).sum(axis=2).max())
        for start in range(0, len(corners), step)
    )
    return max(squares) ** 0.5


def _longest_in_slice(places: np.ndarray, spacing: tuple[float, float, float]) -> float:
    longest = 0.0
    for number in np.unique(places[:, 0]):
        corners = _hull(places[places[:, 0] == number])[:, 1:] * spacing[1:]
        longest = max(longest, float(np.linalg.norm(corners[:, None] - corners, axis=2).max()))
    return longest


def _hull(places: np.ndarray) -> np.ndarray:
    """Corners of the convex hull of the voxels of one slice, int [M, 3]: no others can lie farthest apart."""
    corners = (places[:, None, 1:] + np.array([(0, 0), (0, 1), (1, 0), (1, 1)])).reshape(-1, 2)
    hull = cv2.convexHull(corners.astype(np.int32))[:, 0]
    return np.column_stack([np.full(len(hull), places[0, 0]), hull])
