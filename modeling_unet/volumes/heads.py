"""Where the head is in a volume, and whether it still has its skull."""

import cv2
import numpy as np

from .lesions import label_pieces


# Heads are looked for in a copy with so many voxels along its longest axis, above this share of the bright ones.
WORKING_SIDE, LEVEL = 96, 0.12
# From the outline of a head inwards follow skin and fat, which are bright, bone, which is dark, and the brain. So much
# of the brain's brightness is lost on the way in: 0.2 and more in the IXI volumes, 0 once scalp and skull are cut off.
BONE = 0.1
STEP_MM, BONE_MM, BRAIN_MM = 2.0, 24.0, 40.0
BELOW_TOP_MM = (10.0, 70.0)  # of axial slices without face, ears and neck; the top is so many mm wide and more:
TOP_MM = 20.0


def find_head(slices: np.ndarray) -> np.ndarray:
    """The largest bright piece of a volume [N, H, W] in a coarse copy, bool [n, h, w]; all of it if it is even."""
    step = -(-max(slices.shape) // WORKING_SIDE)
    coarse = slices[:: step if len(slices) > WORKING_SIDE // 4 else 1, ::step, ::step]
    low, high = float(coarse.min()), float(np.percentile(coarse, 99))
    bright = coarse > low + LEVEL * (high - low)
    opened = np.stack([cv2.morphologyEx(image.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3))) for image in bright])
    labels, sizes = label_pieces(opened > 0)
    return labels == sizes.argmax() + 1 if len(sizes) else np.ones(coarse.shape, bool)


def extent(head: np.ndarray, axis: int, length: int) -> tuple[int, int]:
    """First voxel along an axis that holds a head, and the one after the last, in a volume of that length."""
    places = np.flatnonzero(head.any(axis=tuple(other for other in range(3) if other != axis)))
    scale = length / head.shape[axis]
    return int(places[0] * scale), min(int(np.ceil((places[-1] + 1) * scale)), length)


def has_skull(axial: np.ndarray, sizes: tuple[float, float, float]) -> bool:
    """Whether the axial slices [N, H, W] of a head, whose voxels have `sizes` in mm, show bone around a brain."""
    depth = depths(axial, sizes)
    tops = np.flatnonzero((depth > TOP_MM).any(axis=(1, 2)))
    if not len(tops):
        return True  # no head that could be without
    first, last = (max(tops[-1] - round(below / sizes[0]), 0) for below in reversed(BELOW_TOP_MM))
    depth, shown = depth[first : last + 1], axial[first : last + 1]
    rings = [shown[(depth > mm) & (depth <= mm + STEP_MM)] for mm in np.arange(0, BONE_MM, STEP_MM)]
    brain = shown[(depth > BONE_MM) & (depth <= BRAIN_MM)]
    medians = np.array([np.median(ring) for ring in rings if ring.size])
    lost = float((np.maximum.accumulate(medians) - medians).max())
    return not brain.size or lost > BONE * np.median(brain)


def depths(axial: np.ndarray, sizes: tuple[float, float, float]) -> np.ndarray:
    """How many mm a voxel lies inside the outline of the head in its slice, float32 [N, H, W], 0 outside."""
    bright = axial > LEVEL * np.percentile(axial, 99)
    depth = np.zeros(axial.shape, np.float32)
    for number, image in enumerate(bright):
        contours, _ = cv2.findContours(image.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        if contours:
            outline = np.zeros(np.add(image.shape, 2), np.uint8)
            largest = max(contours, key=cv2.contourArea)
            cv2.drawContours(outline, [largest], -1, 1, cv2.FILLED, offset=(1, 1))
            depth[number] = cv2.distanceTransform(outline, cv2.DIST_L2, 5)[1:-1, 1:-1] * min(sizes[1:])
    return depth
