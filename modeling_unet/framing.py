"""Where the heads are in whatever picture somebody has: a screenshot, a photograph of a film, a slide with a border.

    picture → find_frames → Frame.cut → (network) → paste → probability at the picture's own size, 0 outside the frames

A slice whose head fills the frame, as in the training data, has no frames: nothing is done to it. Where such a slice
lies on an even page of another grey, its own rectangle is its frame. Elsewhere a head is what is bright and uneven on
an even, dark ground, with a shape near an ellipse; of a negative, what is dark on white. User interfaces fail by being
even or coloured, text by being small, panels by being rectangles.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from .image_processing_unet import FOREGROUND_FRACTION, to_grayscale


FRAMINGS = ("auto", "none")
# What the longer side of a head takes of its frame. In the training data it is 0.80 (axial) to 0.93 (sagittal) in the
# median; of 0.72, 0.80, 0.85 and 0.92 the last keeps most: all of the Dice of the 54 example slices.
HEAD_SHARE = 0.92
# Of 2,663 slices of the training data five have a head that takes less of the longer side than the first. With an even
# border on all four sides, which none of them has, the second counts.
SMALLEST_SHARE, SMALLEST_SHARE_IN_BORDER = 0.56, 0.72
BORDER = 0.05  # of a side, on all four sides; the data have up to 0.02, and a little noise
MAX_FRAMES = 20  # as many as a film of 4 × 5 slices
# A page that slices lie on has one of the most frequent greys, and takes so much of the picture. What differs from it
# and fills so much of an upright rectangle may be a slice; half of one is head.
PAGES, SMALLEST_PAGE, FILLED_RECTANGLE, HEAD_OF_SLICE = 3, 0.02, 0.95, 0.5
LEAST_APART = 0.03  # of the range, from the page to the black of a slice; the noise of JPEG in that is less
STRAIGHT = 0.8  # of its edges, what differs from the page
MAX_BESIDE = 0.01  # of the picture, what is neither page nor slice
JPEG_BLOCK = 8  # px, how far from its edges a JPEG changes the page

# Heads are looked for in a copy whose longer side is so many px, and are at least so many px wide and high in it.
WORKING_SIDE = 512
MIN_HEAD_SIDE = 36
# What fills a picture is seen in a smaller one.
GLANCE_SIDE = 256
# A head is brighter than its ground by one of these shares of the range of grey values: the lowest in a slice, the
# highest in a photograph whose black is bright on one side.
LEVELS = (0.06, 0.1, 0.15, 0.22, 0.3, 0.4, 0.5, 0.62)
LEVELLED_LEVELS = (0.08, 0.15, 0.25)  # of what lies above the ground around it
# Grey values of a user interface, and their colours, differ by less and by more of the range.
EVEN, COLOURED = 0.005, 0.2
LARGE = 0.004  # of the picture, what is even
FOREIGN = 0.04  # of the picture, what is bright beside the head
# A film on a light box, the canvas of a viewer: a dark polygon on bright ground, so large a share of the picture.
PANEL_LEVELS = (0.3, 0.45, 0.6)
PANEL, MAX_CORNERS, FILLED_POLYGON = 0.06, 5, 0.93
GROUND = 0.1  # of the longer side: in so large a neighbourhood of every part of a head's edge there is ground
# A head is hardly dented, no rectangle, and not all of one grey; the deviation is in terms of its contrast.
MIN_SOLIDITY, MAX_EXTENT, MIN_UNEVENNESS = 0.74, 0.88, 0.15
MAX_FILLED_EXTENT = 0.93  # the frame of the slice may cut it off on three sides
# How much of its edge is sharp: the grey values there differ by more than so much of that contrast.
MIN_RIM, MIN_SHARPNESS = 0.25, 0.6
MIN_CONTRAST = 0.06  # of the range: how much brighter than its ground it is
SMALLEST_OF_SEVERAL = 0.4  # of the area of the largest head: pictures for choosing one are smaller
AROUND = 0.04  # of the head's longer side, what is kept around it


@dataclass(frozen=True, eq=False)
class Frame:
    """A square around one head, or the rectangle of a slice.

    Attributes:
        x, y: its top left corner in the picture, in px; it may lie outside.
        width, height: in px.
        inverted: whether white and black are exchanged in it.
        head: bool [h, w], the head and a little around it, in a copy of the picture of any size; the rest is blackened.
            None leaves everything in the frame, which then lies within the picture, as it is.
    """

    x: int
    y: int
    width: int
    height: int
    inverted: bool
    head: np.ndarray | None

    def box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(x, y, width, height) of what it shows of a picture of that size, in px."""
        left, top = max(self.x, 0), max(self.y, 0)
        return left, top, min(self.x + self.width, width) - left, min(self.y + self.height, height) - top

    def cut(self, image: np.ndarray) -> np.ndarray:
        """The head alone on black, float32 [height, width]; image as `read_image` gives it."""
        height, width = image.shape[:2]
        x, y, w, h = self.box(height, width)
        grey = to_grayscale(image[y : y + h, x : x + w])
        if self.head is None:
            return -grey if self.inverted else grey
        scale = np.array(self.head.shape) / (height, width)
        (top, left), (bottom, right) = (np.array([(y, x), (y + h, x + w)]) * scale).round().astype(int)
        top, left = (min(start, size - 1) for start, size in zip((top, left), self.head.shape, strict=True))
        part = self.head[top : max(bottom, top + 1), left : max(right, left + 1)].astype(np.uint8)
        head = cv2.resize(part, (w, h), interpolation=cv2.INTER_NEAREST) > 0
        grey = _level(-grey if self.inverted else grey, head)
        place = np.zeros((self.height, self.width), np.float32)
        place[y - self.y : y - self.y + h, x - self.x : x - self.x + w] = grey
        return place


def paste(frames: list[Frame], probabilities: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Put probabilities [h, w] of frames back: float32 [H, W] of `size`, 0 outside, the higher where two meet."""
    whole = np.zeros(size, np.float32)
    for frame, probability in zip(frames, probabilities, strict=True):
        x, y, w, h = frame.box(*size)
        part = whole[y : y + h, x : x + w]
        np.maximum(part, probability[y - frame.y : y - frame.y + h, x - frame.x : x - frame.x + w], out=part)
    return whole


# -------------------------------------------------------------------------------------------------------------- finding


def find_frames(image: np.ndarray) -> list[Frame]:
    """The frames of the heads in a picture; none where its one head fills it as in the training data, or none is found.

    Args:
        image: [H, W] or [H, W, 3] of any numeric type, as `read_image` gives it.
    """
    height, width = image.shape[:2]
    shrunk = _shrink(image, GLANCE_SIDE)
    glance, _ = _normalize(shrunk)
    if glance is None:
        return []
    if _is_filled(glance):
        return [_filled_frame((0, 0, width, height), shrunk)] if _is_raised(shrunk) else []
    small = _shrink(image, WORKING_SIDE)
    grey, colours = _normalize(small)
    if grey is None or min(grey.shape) < MIN_HEAD_SIDE:
        return []
    slices = _find_slices(image, small, grey)
    interface = _is_interface(grey, colours)
    panels = _find_panels(grey)
    heads: list[_Head] = []
    if panels is not None:
        # Beside a light box the picture is dark all over.
        dark, bright = np.percentile(grey[panels][::4], (0.2, 99.8))
        inside = np.clip((grey - dark) / max(bright - dark, 1e-6), 0, 1)
        heads = _find_heads(inside, interface | ~panels)
    inverted = False
    if not heads:
        heads = _find_heads(grey, interface)
        if not heads and not slices and _is_filled(1 - glance):
            return [_filled_frame((0, 0, width, height), shrunk, inverted=True)]
        negative = _find_heads(1 - grey, interface)
        inverted = _is_negative(heads, negative)
        heads = negative if inverted else heads
    found = [(frame, frame.width * frame.height / _scale(image, grey) ** 2 * HEAD_OF_SLICE) for frame in slices]
    boxes = [frame.box(height, width) for frame in slices]
    for head in heads:
        frame = _frame(head, inverted, (height, width), grey.shape)
        if all(_overlap(frame.box(height, width), box) < 0.2 for box in boxes):
            found.append((frame, head.area))
    least = SMALLEST_OF_SEVERAL * max((area for _, area in found), default=0)
    return [frame for frame, area in found if area > least][:MAX_FRAMES]


def _scale(image: np.ndarray, small: np.ndarray) -> float:
    """How many px of a picture are one of its smaller copy."""
    return image.shape[1] / small.shape[1]


def _is_raised(shrunk: np.ndarray) -> bool:
    """Whether all of a picture is so bright that nothing of it would count as the ground of a head."""
    grey = to_grayscale(shrunk)
    return bool(grey.min() > FOREGROUND_FRACTION * np.percentile(grey, 99))


def _filled_frame(box: tuple[int, int, int, int], shrunk: np.ndarray, inverted: bool = False) -> Frame:
    """The frame of a slice at (x, y, width, height) that one head fills; its black is made 0 where it is none."""
    return Frame(*box, inverted, np.ones((1, 1), bool) if inverted or _is_raised(shrunk) else None)


def _find_slices(image: np.ndarray, small: np.ndarray, grey: np.ndarray) -> list[Frame]:
    """The frames of the slices that lie, as in the training data, on an even page of another grey than their own black.

    Args:
        image: the picture.
        small, grey: its working copy, as it is and 0 … 1.
    """
    values, scale = to_grayscale(small), _scale(image, small)
    counts = np.bincount(np.round(255 * grey).astype(np.uint8).ravel(), minlength=256)
    frames: list[Frame] = []
    for level in np.argsort(counts)[::-1][:PAGES]:
        page = abs(grey - level / 255) <= 2 * EVEN
        if page.mean() < SMALLEST_PAGE:
            continue
        contours, _ = cv2.findContours((~page).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        on_page: list[Frame] = []
        foreign = ~page
        for contour in contours:
            x, y, w, h = cv2.boundingRect(contour)
            is_all = (w, h) == grey.shape[::-1]
            # A contour runs through the middle of its pixels.
            if is_all or min(w, h) < MIN_HEAD_SIDE or cv2.contourArea(contour) < FILLED_RECTANGLE * (w - 1) * (h - 1):
                continue
            # What tells its black from the page is in its corners, but for what JPEG makes of the edge.
            rows, columns = (
                np.r_[start + 5 : start + 9, start + size - 9 : start + size - 5] for start, size in ((y, h), (x, w))
            )
            ground = float(np.median(values[page]))
            apart = abs(float(np.median(values[np.ix_(rows, columns)])) - ground)
            if apart < LEAST_APART * np.ptp(values):
                continue
            box = _exact_box(image, (x, y, w, h), scale, ground, apart)
            if box is None or _edges(box, image) > 2:  # what ends with the picture is rather a part of a window
                continue
            if any(_overlap(box, frame.box(*image.shape[:2])) > 0.2 for frame in frames):
                continue
            left, top, width, height = box
            shrunk = _shrink(image[top : top + height, left : left + width], GLANCE_SIDE)
            glance, _ = _normalize(shrunk)
            if glance is not None and (_is_filled(glance) or _is_filled(1 - glance)):
                on_page.append(_filled_frame(box, shrunk, inverted=not _is_filled(glance)))
                foreign[max(y - 5, 0) : y + h + 5, max(x - 5, 0) : x + w + 5] = False
        # Among bars and icons a rectangle is rather the canvas of a viewer, in which the slice has a place of its own.
        if foreign.mean() <= MAX_BESIDE:
            frames += on_page
    return frames


def _exact_box(
    image: np.ndarray, box: tuple[int, int, int, int], scale: float, ground: float, apart: float
) -> tuple[int, int, int, int] | None:
    """(x, y, width, height) in px of a picture, of what was found at about `box` of its working copy; None unless it
    ends there, in straight lines.

    Args:
        scale: px of the picture for one of the copy.
        ground: grey value of the page around it.
        apart: from that to the black of the slice.
    """
    spans = []
    x, y, w, h = box
    reach = int(np.ceil(2 * scale))
    for start, length, across, thickness, axis in ((x, w, y, h, 1), (y, h, x, w, 0)):
        size = image.shape[axis]
        first, end = max(int(start * scale) - reach, 0), min(int((start + length) * scale) + reach, size)
        middle = slice(int((across + 2) * scale), int((across + thickness - 2) * scale))
        part = image[middle, first:end] if axis == 1 else image[first:end, middle]
        difference = abs(to_grayscale(part) - ground)
        shares = (difference > apart / 2).mean(axis=1 - axis)
        places = np.flatnonzero(shares > 0.5)
        if not len(places) or max(places[0], len(shares) - 1 - places[-1]) > 2 * reach + JPEG_BLOCK:
            return None
        # Some of the head may be as grey as the page.
        shares = (difference > apart / 16).mean(axis=1 - axis)
        if min(shares[places[:3]].max(), shares[places[-3:]].max()) < STRAIGHT:
            return None
        spans.append((first + int(places[0]), int(places[-1] - places[0]) + 1))
    (left, width), (top, height) = spans
    return left, top, width, height


def _edges(box: tuple[int, int, int, int], image: np.ndarray) -> int:
    """How many of its four sides (x, y, width, height) shares with a picture."""
    x, y, width, height = box
    return (x == 0) + (y == 0) + (x + width == image.shape[1]) + (y + height == image.shape[0])


def _shrink(image: np.ndarray, side: int) -> np.ndarray:
    """A copy whose longer side has so many px at most, float32."""
    height, width = image.shape[:2]
    scale = min(side / max(height, width), 1.0)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_AREA)


def _normalize(small: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Grey values, 0 … 1, or None where all are the same; and the colours in their unit."""
    grey = to_grayscale(small)
    low, high = float(grey.min()), float(np.percentile(grey[::2, ::2], 99.8))
    if high <= low:
        return None, small
    return np.clip((grey - low) / (high - low), 0, 1), small / (high - low)


@dataclass(frozen=True, eq=False)
class _Head:
    """A place that looks like a head: contour [N, 1, 2] and area in px of the working copy; how much it is like one."""

    contour: np.ndarray
    area: float
    score: float

    @property
    def box(self) -> tuple[int, int, int, int]:
        x, y, width, height = cv2.boundingRect(self.contour)
        return x, y, width, height


def _is_filled(grey: np.ndarray) -> bool:
    """Whether one head on black fills a picture, 0 … 1, as in the training data."""
    height, width = grey.shape
    bright = 0.1 * np.percentile(grey[::2, ::2], 99)
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    if np.median(edge) >= bright:
        return False
    foreground = (grey > bright).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(foreground, connectivity=8)
    label = 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])
    x, y, w, h, _ = stats[label]
    piece = (labels[y : y + h, x : x + w] == label).astype(np.uint8)
    contours, _ = cv2.findContours(piece, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if max(map(cv2.contourArea, contours)) > MAX_FILLED_EXTENT * w * h:
        return False
    has_border = _border(grey) > BORDER
    share = max(w, h) / max(height, width)
    if share < (SMALLEST_SHARE_IN_BORDER if has_border else SMALLEST_SHARE):
        return False
    outside = np.count_nonzero(foreground) - np.count_nonzero(foreground[y : y + h, x : x + w])
    return bool(outside < FOREIGN * grey.size)


def _border(grey: np.ndarray) -> float:
    """How wide the even border is that a picture has on all four sides, as a share of the side."""
    uneven = abs(grey - grey[0, 0]) > 2 * EVEN
    shares = []
    for lines in (uneven.any(axis=1), uneven.any(axis=0)):
        places = np.flatnonzero(lines)
        shares += [places[0] / len(lines), 1 - (places[-1] + 1) / len(lines)] if len(places) else [1.0]
    return min(shares)


def _is_interface(grey: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Bool [h, w]: what is even and bright over a large area, or coloured, as nothing in a slice is."""
    square = np.ones((3, 3), np.uint8)
    even = (cv2.dilate(grey, square) - cv2.erode(grey, square) < EVEN) & (grey > LEVELS[0])
    _, labels, stats, _ = cv2.connectedComponentsWithStats(even.astype(np.uint8), connectivity=4)
    large = stats[:, cv2.CC_STAT_AREA] > LARGE * grey.size
    large[0] = False
    interface = cv2.dilate(large[labels].astype(np.uint8), square) > 0
    if colours.ndim == 3:
        # A photograph has a tint of its own, which is no colour here.
        balanced = colours * (colours.mean() / np.maximum(colours.mean(axis=(0, 1)), 1e-6))
        coloured = np.minimum(np.ptp(colours, axis=2), np.ptp(balanced, axis=2)) > COLOURED
        # Thin lines that somebody drew over a head must not cut it in pieces.
        opened = cv2.morphologyEx(coloured.astype(np.uint8), cv2.MORPH_OPEN, np.ones((7, 7)))
        interface |= cv2.dilate(opened, square) > 0
    return interface


def _find_panels(grey: np.ndarray) -> np.ndarray | None:
    """Bool [h, w]: within the dark quadrilaterals on bright ground, such as films on a light box; None without any."""
    panels = np.zeros(grey.shape, np.uint8)
    for level in PANEL_LEVELS:
        dark = cv2.morphologyEx((grey < level).astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
        contours, _ = cv2.findContours(dark, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        for contour in contours:
            hull = cv2.convexHull(contour)
            area = cv2.contourArea(hull)
            if not PANEL < area / grey.size < 0.97 or cv2.contourArea(contour) < 0.7 * area or not _is_polygon(hull):
                continue
            filled = cv2.drawContours(np.zeros_like(panels), [hull], -1, 1, cv2.FILLED)
            around = (cv2.dilate(filled, np.ones((15, 15))) > 0) & ~(cv2.dilate(filled, np.ones((5, 5))) > 0)
            if around.any() and (grey[around] > level).mean() > 0.6:
                panels |= cv2.erode(filled, np.ones((5, 5)), borderValue=1).astype(np.uint8)
    return panels > 0 if panels.any() else None


def _is_polygon(hull: np.ndarray) -> bool:
    """Whether a convex contour has few corners, as a film seen from aside, cut off perhaps."""
    corners = cv2.approxPolyDP(hull, 0.03 * cv2.arcLength(hull, True), True)
    return len(corners) <= MAX_CORNERS and cv2.contourArea(corners) > FILLED_POLYGON * cv2.contourArea(hull)


def _find_heads(grey: np.ndarray, interface: np.ndarray) -> list[_Head]:
    """What looks like a head in a picture, 0 … 1, the largest first, without those that are far smaller or overlap."""
    levelled = grey - _ground(grey)
    edges = cv2.morphologyEx(cv2.blur(grey, (3, 3)), cv2.MORPH_GRADIENT, np.ones((7, 7), np.uint8))
    bright = [grey > level for level in LEVELS] + [levelled > level for level in LEVELLED_LEVELS]
    candidates = [head for part in bright for head in _heads_above(part, grey, edges, interface)]
    heads: list[_Head] = []
    for head in sorted(candidates, key=lambda head: head.score, reverse=True):
        if all(_overlap(head.box, other.box) < 0.2 for other in heads):
            heads.append(head)
    return [head for head in heads if head.area > SMALLEST_OF_SEVERAL * heads[0].area][:MAX_FRAMES]


def _ground(grey: np.ndarray) -> np.ndarray:
    """What is dark in the neighbourhood of every pixel, as lamps and reflections brighten it."""
    height, width = grey.shape
    small = cv2.resize(grey, (max(width // 4, 1), max(height // 4, 1)), interpolation=cv2.INTER_AREA)
    side = round(GROUND * max(small.shape)) | 1
    lowest = cv2.erode(small, np.ones((side, side), np.uint8))
    return cv2.resize(cv2.blur(lowest, (side, side)), (width, height), interpolation=cv2.INTER_LINEAR)


def _heads_above(bright: np.ndarray, grey: np.ndarray, edges: np.ndarray, interface: np.ndarray) -> list[_Head]:
    bright = (bright & ~interface).astype(np.uint8)
    bright = cv2.morphologyEx(bright, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(bright, connectivity=4)
    heads: list[_Head] = []
    for label, (x, y, w, h, _) in enumerate(stats.tolist()):
        if label and min(w, h) >= MIN_HEAD_SIDE and max(w, h) < 2 * min(w, h):
            piece = np.pad((labels[y : y + h, x : x + w] == label).astype(np.uint8), 1)
            # Letters, scale bars and cross-hairs may hang on to it.
            width = max(round(0.05 * min(w, h)), 3)
            contours, _ = cv2.findContours(piece, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            filled = cv2.drawContours(np.zeros_like(piece), contours, -1, 1, cv2.FILLED)
            filled = cv2.morphologyEx(filled, cv2.MORPH_OPEN, np.ones((width, width), np.uint8))
            contours, _ = cv2.findContours(filled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            if contours:
                contour = max(contours, key=cv2.contourArea)
                head = _judge(contour + np.array((x - 1, y - 1)), grey, edges, interface)
                heads += [head] if head else []
    return heads


def _judge(contour: np.ndarray, grey: np.ndarray, edges: np.ndarray, interface: np.ndarray) -> _Head | None:
    """A head, if it has its shape, and is bright and uneven on a ground that is neither."""
    x, y, w, h = cv2.boundingRect(contour)
    area = cv2.contourArea(contour)
    hull = cv2.contourArea(cv2.convexHull(contour))
    (_, sides, _) = cv2.minAreaRect(contour)
    if min(w, h) < MIN_HEAD_SIDE or max(w, h) > 1.8 * min(w, h):
        return None
    if area < MIN_SOLIDITY * hull or area > MAX_EXTENT * np.prod(sides):
        return None
    # Wider than the scalp, which of a negative is a dark ring around the bright skull.
    margin = max(round(0.1 * max(w, h)), 3)
    top, left = max(y - margin, 0), max(x - margin, 0)
    window = grey[top : y + h + margin, left : x + w + margin]
    inside = cv2.drawContours(np.zeros(window.shape, np.uint8), [contour - (left, top)], -1, 1, cv2.FILLED)
    near = cv2.dilate(inside, np.ones((5, 5), np.uint8)) > 0
    around = (cv2.dilate(inside, np.ones((2 * margin + 1,) * 2, np.uint8)) > 0) & ~near
    values = window[inside > 0]
    # The bright page that a narrow panel lies on is not its ground.
    around[interface[top : y + h + margin, left : x + w + margin] & (window > np.median(values))] = False
    if np.count_nonzero(around) < 0.5 * margin * (w + h):
        return None
    step = max(round(max(window.shape) / 64), 1)
    window = window - _plane(window, around, step)
    values, ground = window[::step, ::step][inside[::step, ::step] > 0], window[::step, ::step][around[::step, ::step]]
    # Where a panel ends, or a neck is cut off, other things follow.
    (darkest, dark), usual = np.percentile(ground, (10, 70)), np.median(values)
    if usual - dark < max(MIN_CONTRAST, 1.5 * (dark - darkest)):
        return None
    # It ends at an edge all around, unlike the bright side of an uneven black, but for where the picture ends.
    columns, rows = contour[:, 0].T
    free = (columns > 3) & (columns < grey.shape[1] - 4) & (rows > 3) & (rows < grey.shape[0] - 4)
    rows, columns = rows[free], columns[free]
    at_edge = edges[rows, columns][~interface[rows, columns]] > MIN_RIM * (usual - dark)
    sharpness = float(at_edge.mean()) if len(at_edge) else 0.0
    if sharpness < MIN_SHARPNESS:
        return None
    if values.std() < MIN_UNEVENNESS * (usual - dark):
        return None
    return _Head(contour, area, area * (area / hull) ** 6 * sharpness**4)


def _plane(grey: np.ndarray, ground: np.ndarray, step: int = 1) -> np.ndarray:
    """The even slope, float32 [h, w], that most of the ground lies on, but for letters and the edges of a film."""
    rows, columns = np.nonzero(ground[::step, ::step])
    values = grey[::step, ::step][rows, columns].astype(np.float64)
    usual = np.ones(len(values), bool)
    terms = np.stack([np.ones(len(values)), rows, columns], axis=1)
    for _ in range(3):
        chosen = terms[usual]
        weights = np.linalg.lstsq(chosen.T @ chosen, chosen.T @ values[usual], rcond=None)[0]
        error = abs(values - terms @ weights)
        usual = error <= 2.5 * np.median(error) + 1e-6
    y, x = np.ogrid[: grey.shape[0], : grey.shape[1]]
    return (weights[0] + weights[1] * y / step + weights[2] * x / step).astype(np.float32)


def _is_negative(positive: list[_Head], negative: list[_Head]) -> bool:
    """Whether the heads of the negative are the true ones."""
    if not positive or not negative:
        return bool(negative)
    # In a negative small things are bright; around a head that is bright, a whole black panel may be dark.
    return negative[0].area > 12 * positive[0].area


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> float:
    """Area that two boxes share, as a share of the smaller."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0) / min(one[2] * one[3], other[2] * other[3])


def _frame(head: _Head, inverted: bool, size: tuple[int, int], working: tuple[int, int]) -> Frame:
    x, y, w, h = head.box
    scale = size[1] / working[1]
    side = round(max(w, h) * scale / HEAD_SHARE)
    hull = cv2.drawContours(np.zeros(working, np.uint8), [cv2.convexHull(head.contour)], -1, 1, cv2.FILLED)
    width = 2 * max(round(AROUND * max(w, h)), 1) + 1
    around = cv2.dilate(hull, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))
    left, top = round((x + w / 2) * scale - side / 2), round((y + h / 2) * scale - side / 2)
    return Frame(left, top, side, side, inverted, around > 0)


def _level(grey: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Make the ground of a head 0, which may rise evenly from side to side, and blacken all but the head."""
    # The bright page that a narrow panel lies on is not its ground.
    ground = ~head & (grey < np.median(grey[head])) if head.any() else ~head
    if ground.mean() <= 0.02:
        return np.where(head, np.maximum(grey - np.percentile(grey, 2), 0), 0)
    dark, bright = float(np.median(grey[ground])), np.percentile(grey, 99)
    if dark < 0 or dark > 0.04 * bright:
        grey = grey - _plane(grey, ground, max(round(max(grey.shape) / 128), 1))
    return np.where(head, np.maximum(grey, 0), 0)
