"""One volume seen as axial, coronal and sagittal slices, in one grid, and with one frame for all slices of a plane.

    Volume.slices ─ turned ─→ the slices of another plane, a view of the same voxels ─ Frame.cut ─→ square pixels
    probability of a slice ─ Frame.paste ─→ where its voxels lie

The network learned from slices that a head fills. A volume may have wide margins, or voxels that are no cubes; yet its
head must not grow from slice to slice. So every plane has one frame, of one size in mm, for all of its slices.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from .lesions import label_pieces
from .scan import nib
from .volume import DISPLAY, Volume


# Side of a frame in mm. The slices of the training data have 512 pixels of 0.49 mm in the median: 251 mm.
FRAME_MM = 240.0
# Of the frame, what a head takes where nobody knows how large a pixel is.
HEAD_SHARE = 0.85
MARGIN = 0.03  # of the frame, above a head that is longer than it: the neck is what is left out
# Heads are looked for in a copy with so many voxels along its longest axis, above this share of the bright ones.
WORKING_SIDE, LEVEL = 96, 0.12


@dataclass(frozen=True)
class Frame:
    """A rectangle of pixels that is a square in mm, the same in all slices of a plane.

    Attributes:
        top, left: its first row and column in the slices; it may begin outside.
        height, width: in pixels of the slices.
        side: in pixels of what the network is shown, which are squares.
    """

    top: int
    left: int
    height: int
    width: int
    side: int

    def cut(self, image: np.ndarray) -> np.ndarray:
        """What it shows of a slice, float32 [side, side], black outside it."""
        inside, place = self._windows(image.shape)
        black = np.zeros((self.height, self.width), np.float32)
        black[place] = image[inside]
        return black if self._is_square else cv2.resize(black, (self.side, self.side), interpolation=cv2.INTER_LINEAR)

    def paste(self, probability: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The probability of what it showed, float32 [H, W] of a slice's size, 0 outside it."""
        if not self._is_square:
            probability = cv2.resize(probability, (self.width, self.height), interpolation=cv2.INTER_AREA)
        whole = np.zeros(size, np.float32)
        inside, place = self._windows(size)
        whole[inside] = probability[place]
        return whole

    @property
    def _is_square(self) -> bool:
        return self.height == self.width == self.side

    def _windows(self, size: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """What of a slice it shows, and where that lies in it."""
        inside, place = [], []
        for start, length, whole in zip((self.top, self.left), (self.height, self.width), size, strict=True):
            first, end = max(start, 0), min(start + length, whole)
            inside.append(slice(first, end))
            place.append(slice(first - start, end - start))
        return (inside[0], inside[1]), (place[0], place[1])


def turned(voxels: np.ndarray, start: str, end: str) -> np.ndarray:
    """Voxels [N, H, W] as slices of one plane → a view of them as slices of another one."""
    return nib.apply_orientation(voxels, _turn(start, end))


def turned_sizes(sizes: tuple[float, float, float], start: str, end: str) -> tuple[float, float, float]:
    """What belongs to the axes [N, H, W] of the slices of one plane, in the order of those of another one."""
    across, row, column = np.array(sizes)[np.argsort(_turn(start, end)[:, 0])].tolist()
    return across, row, column


def _turn(start: str, end: str) -> np.ndarray:
    codes = (nib.orientations.axcodes2ornt(DISPLAY[plane]) for plane in (start, end))
    return nib.orientations.ornt_transform(*codes)


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


def frame_of(head: np.ndarray, shape: tuple[int, ...], spacing: tuple[float, float] | None) -> Frame:
    """The frame of a plane's slices.

    Args:
        head: bool [n, h, w], as `find_head` gives it, turned to that plane.
        shape: (N, H, W) of the slices.
        spacing: size of a pixel in mm as (row, column), or None.
    """
    boxes = [extent(head, axis, shape[axis]) for axis in (1, 2)]
    row, column = spacing or (1.0, 1.0)
    side = FRAME_MM if spacing else max(end - start for start, end in boxes) / HEAD_SHARE
    sides = [max(round(side / size), 1) for size in (row, column)]
    starts = []
    for (start, end), length in zip(boxes, sides, strict=True):
        # A head with its neck is longer than the frame: its upper end counts.
        centred = round((start + end - length) / 2)
        starts.append(centred if end - start <= length else start - round(MARGIN * length))
    return Frame(starts[0], starts[1], sides[0], sides[1], max(sides))


def spacing_of(volume: Volume) -> tuple[float, float, float] | None:
    """Size of a voxel in mm along [N, H, W], or None if a part of it is unknown."""
    if volume.spacing is None or volume.slice_spacing is None:
        return None
    return volume.slice_spacing, *volume.spacing
