"""One volume seen as axial, coronal and sagittal slices, in one grid, and with one frame for all slices of a plane.

    Volume.slices ─ turned ─→ the slices of another plane, a view of the same voxels ─ Frame.cut ─→ square pixels
    probability of a slice ─ Frame.paste ─→ where its voxels lie

The network learned from slices that a head fills. A volume may have wide margins, or voxels that are no cubes; yet its
head must not grow from slice to slice. So every plane has one frame, of one size in mm, for all of its slices.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from .heads import extent
from .scan import nib
from .volume import DISPLAY, Volume


# Side of a frame in mm. The slices of the training data have 512 pixels of 0.49 mm in the median: 251 mm.
FRAME_MM = 240.0
# Of the frame, what a head takes where nobody knows how large a pixel is, and what it takes at least: that of a child.
USUAL_SHARE, SMALLEST_SHARE = 0.85, 0.6
MAX_SIDE = 1024  # px of what the network is shown, which are never finer than those of the slices
MARGIN = 0.03  # of the frame, above a head that is longer than it: the neck is what is left out


@dataclass(frozen=True)
class Frame:
    """A rectangle of pixels that is a square in mm, the same in all slices of a plane.

    Attributes:
        top, left: its first row and column in the slices; it may begin outside.
        height, width: in pixels of the slices; it may end outside.
        side: of the square that the network is shown, in pixels of it.
    """

    top: int
    left: int
    height: int
    width: int
    side: int

    def cut(self, image: np.ndarray) -> np.ndarray:
        """What it shows of a slice, float32 [side, side], black outside it."""
        inside, place = self._windows(image.shape)
        shown = np.zeros((self.side, self.side), np.float32)
        shown[place] = _resized(image[inside], shown[place].shape)
        return shown

    def paste(self, probability: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
        """The probability of what it showed, float32 [H, W] of a slice's size, 0 outside it."""
        inside, place = self._windows(size)
        whole = np.zeros(size, np.float32)
        whole[inside] = _resized(probability[place], whole[inside].shape)
        return whole

    def _windows(self, size: tuple[int, ...]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """What it shows of a slice of that size, and where that lies in the square."""
        inside, place = [], []
        for start, length, whole in zip((self.top, self.left), (self.height, self.width), size, strict=True):
            first, end, scale = max(start, 0), min(start + length, whole), self.side / length
            inside.append(slice(first, end))
            place.append(slice(round((first - start) * scale), round((end - start) * scale)))
        return (inside[0], inside[1]), (place[0], place[1])


def _resized(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """[H, W] → [h, w]; the same if that is its size."""
    if image.shape == size:
        return image
    shrinks = image.shape[0] >= size[0] and image.shape[1] >= size[1]
    image = np.ascontiguousarray(image, np.float32)
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


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


def frame_of(head: np.ndarray, shape: tuple[int, ...], sizes: tuple[float, float, float] | None) -> Frame:
    """The frame of a plane's slices.

    Args:
        head: bool [n, h, w], as `find_head` gives it, turned to that plane.
        shape: (N, H, W) of the slices.
        sizes: of a voxel in mm along them, or None.
    """
    boxes = [extent(head, axis, length) for axis, length in enumerate(shape)]
    across, row, column = sizes or (0.0, 1.0, 1.0)
    longest = max((end - start) * size for (start, end), size in zip(boxes, (across, row, column), strict=True))
    side = min(FRAME_MM, longest / SMALLEST_SHARE) if sizes else longest / USUAL_SHARE
    lengths = [max(round(side / size), 1) for size in (row, column)]
    starts = []
    for (start, end), length in zip(boxes[1:], lengths, strict=True):
        # Of a head that is longer, with its neck, the upper end counts.
        starts.append(round((start + end - length) / 2) if end - start <= length else start - round(MARGIN * length))
    return Frame(starts[0], starts[1], lengths[0], lengths[1], min(max(lengths), MAX_SIDE))


def spacing_of(volume: Volume) -> tuple[float, float, float] | None:
    """Size of a voxel in mm along [N, H, W], or None if a part of it is unknown."""
    if volume.spacing is None or volume.slice_spacing is None:
        return None
    return volume.slice_spacing, *volume.spacing
