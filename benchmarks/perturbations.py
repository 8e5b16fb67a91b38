"""Slices as people have them: each kind makes of a slice a picture with the true mask at its place in it.

Place, size, colours, words and light differ from slice to slice, and are the same each time for the same one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np


WORDS = (
    "AX T1 +C",
    "SE 4 IM 12",
    "TR 550 TE 12",
    "FOV 25.0 cm",
    "512 x 512",
    "W 420 L 210",
    "R",
    "L",
    "A",
    "P",
    "Zoom 1.6",
)
FONT = cv2.FONT_HERSHEY_SIMPLEX


@dataclass(frozen=True, eq=False)
class Perturbed:
    """A picture uint8 [H, W] or [H, W, 3] with the mask bool [H, W]; `heads` is its head alone."""

    picture: np.ndarray
    mask: np.ndarray
    heads: np.ndarray


def perturb(
    kind: str, image: np.ndarray, mask: np.ndarray, seed: int, others: Sequence[tuple[np.ndarray, np.ndarray]] = ()
) -> Perturbed:
    """Make a picture of one kind.

    Args:
        kind: a key of `KINDS`.
        image, mask: uint8 [H, W] and bool [H, W], as in the data set.
        seed: what else is chosen by chance follows from it and the kind.
        others: image and mask of slices that may stand beside it in a montage.
    """
    rng = np.random.default_rng([seed, *kind.encode()])
    return KINDS[kind](rng, image, mask, others)


def _place(canvas: np.ndarray, image: np.ndarray, mask: np.ndarray, x: int, y: int, side: int) -> Perturbed:
    """The slice in a canvas [H, W] or [H, W, 3], which is changed."""
    longest = max(image.shape)
    size = (round(image.shape[1] * side / longest), round(image.shape[0] * side / longest))
    method = cv2.INTER_AREA if side < longest else cv2.INTER_LINEAR
    image = cv2.resize(image, size, interpolation=method)
    small = cv2.resize(mask.astype(np.float32), size, interpolation=method) >= 0.5
    where = np.s_[y : y + size[1], x : x + size[0]]
    canvas[where] = image[..., None] if canvas.ndim == 3 else image
    whole, heads = np.zeros(canvas.shape[:2], bool), np.zeros(canvas.shape[:2], bool)
    whole[where] = small
    heads[where] = _head(image)
    return Perturbed(canvas, whole, heads)


def _head(image: np.ndarray) -> np.ndarray:
    """Bool [H, W]: the largest bright piece of a slice."""
    bright = cv2.morphologyEx(
        (image > 0.1 * np.percentile(image, 99)).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3))
    )
    _, labels, stats, _ = cv2.connectedComponentsWithStats(bright, connectivity=8)
    return labels == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])


def _anywhere(rng: np.random.Generator, room: int) -> int:
    return int(rng.integers(0, room + 1))


def _plain(rng, image, mask, others) -> Perturbed:
    return Perturbed(image, mask, _head(image))


def _border(rng, image, mask, others) -> Perturbed:
    """A border of half the side in all, black or of another grey."""
    side = round(max(image.shape) * rng.uniform(1.4, 2.0))
    canvas = np.full((side, side), rng.choice([0, 0, 0, 3, 40, 128, 255]), np.uint8)
    room = side - max(image.shape)
    x, y = (round(room * rng.uniform(0.25, 0.75)) for _ in range(2))
    return _place(canvas, image, mask, x, y, max(image.shape))


def _wide(rng, image, mask, others) -> Perturbed:
    """A slide of a talk."""
    height = round(max(image.shape) * rng.uniform(1.0, 1.25))
    width = round(height * rng.choice([16 / 9, 16 / 10, 2.2]))
    canvas = np.full((height, width), rng.choice([0, 0, 255, 235, 30]), np.uint8)
    side = max(image.shape)
    return _place(canvas, image, mask, _anywhere(rng, width - side), _anywhere(rng, height - side), side)


def _third(rng, image, mask, others) -> Perturbed:
    side = round(max(image.shape) * rng.uniform(2.3, 3.3))
    canvas = np.full((side, side), rng.choice([0, 0, 0, 20, 255]), np.uint8)
    room = side - max(image.shape)
    return _place(canvas, image, mask, _anywhere(rng, room), _anywhere(rng, room), max(image.shape))


def _write(rng, canvas: np.ndarray, x: int, y: int, w: int, h: int, lines: int, bright: int = 230):
    """Words in the corners of a box, and a scale bar."""
    scale = h / 1100
    for corner in range(4):
        for line in range(int(rng.integers(1, lines + 1))):
            word = str(rng.choice(WORDS))
            (length, height), _ = cv2.getTextSize(word, FONT, scale, 1)
            left = x + 4 if corner % 2 == 0 else x + w - length - 4
            base = y + (line + 1) * (height + 5) if corner < 2 else y + h - 5 - line * (height + 5)
            cv2.putText(canvas, word, (left, base), FONT, scale, (bright,) * 3, 1, cv2.LINE_AA)
    if rng.random() < 0.6:
        length, left = round(h * rng.uniform(0.1, 0.3)), x + w - round(0.03 * w)
        top = y + round((h - length) / 2)
        cv2.line(canvas, (left, top), (left, top + length), (bright,) * 3, 2)
        for tick in range(6):
            level = top + round(length * tick / 5)
            cv2.line(canvas, (left - 6, level), (left, level), (bright,) * 3, 1)


def _text(rng, image, mask, others) -> Perturbed:
    """Words and a scale bar in the corners of the slice itself."""
    canvas = image.copy()
    _write(rng, canvas, 0, 0, canvas.shape[1], canvas.shape[0], 3)
    return Perturbed(canvas, mask, _head(image))


def _screenshot(rng, image, mask, others) -> Perturbed:
    """A viewer with bars, icons, a list, words, perhaps small pictures, on a dark or a light desktop."""
    width, height = [(1920, 1080), (1440, 900), (1366, 768), (1280, 1024)][rng.integers(4)]
    light = rng.random() < 0.4
    base = rng.integers(190, 250, 3) if light else rng.integers(15, 75, 3)
    base = np.clip(base.mean() + rng.integers(-8, 9, 3), 0, 255)
    canvas = np.full((height, width, 3), base, np.uint8)
    top, bottom = int(rng.integers(30, 110)), int(rng.integers(0, 50))
    left, right = int(rng.integers(0, 320)), int(rng.integers(0, 260))
    accent = [int(value) for value in rng.integers(0, 256, 3)]
    cv2.rectangle(canvas, (0, 0), (width, top // 2), accent, -1)
    for number in range(int(rng.integers(6, 20))):
        x = 10 + number * int(top * 0.6 + 14)
        colour = [int(value) for value in rng.integers(0, 256, 3)]
        cv2.rectangle(canvas, (x, top // 2 + 4), (x + top // 3, top - 6), colour, -1 if rng.random() < 0.6 else 2)
    ink = (20,) * 3 if light else (215,) * 3
    for number in range(int(rng.integers(3, 22))):
        y = top + 30 + number * 28
        if left > 90 and y < height - bottom - 10:
            word = " ".join(rng.choice(WORDS, 2))[: left // 10]
            cv2.putText(canvas, word, (8, y), FONT, 0.45, ink, 1, cv2.LINE_AA)
    panel_width, panel_height = width - left - right, height - top - bottom
    canvas[top : top + panel_height, left : left + panel_width] = int(rng.choice([0, 0, 0, 12]))
    if right > 120:
        for number in range(3):
            thumb = cv2.resize(
                others[number % len(others)][0] if others else image, (90, 90), interpolation=cv2.INTER_AREA
            )
            y = top + 20 + number * 110
            canvas[y : y + 90, left + panel_width + 10 : left + panel_width + 100] = thumb[..., None]
    side = round(min(panel_width, panel_height) * rng.uniform(0.6, 1.0))
    x = left + _anywhere(rng, panel_width - side)
    y = top + _anywhere(rng, panel_height - side)
    placed = _place(canvas, image, mask, x, y, side)
    _write(rng, canvas, left, top, panel_width, panel_height, 4)
    if rng.random() < 0.3:
        colour = [0, 220, 220]
        middle = (x + round(side * rng.uniform(0.3, 0.7)), y + round(side * rng.uniform(0.3, 0.7)))
        cv2.line(canvas, (left, middle[1]), (left + panel_width, middle[1]), colour, 1)
        cv2.line(canvas, (middle[0], top), (middle[0], top + panel_height), colour, 1)
    return placed


def _inverted(rng, image, mask, others) -> Perturbed:
    return Perturbed(255 - image, mask, _head(image))


def _inverted_page(rng, image, mask, others) -> Perturbed:
    """A negative on a white page."""
    placed = _third(rng, image, mask, others) if rng.random() < 0.5 else _wide(rng, image, mask, others)
    inside = placed.picture.copy()
    ground = np.zeros_like(inside)
    x, y, w, h = cv2.boundingRect(placed.heads.astype(np.uint8))
    ground[y : y + h, x : x + w] = inside[y : y + h, x : x + w]
    return Perturbed(255 - ground, placed.mask, placed.heads)


def _uneven(rng, image, mask, others) -> Perturbed:
    """A black that is none, and brighter on one side, in the slice's own frame."""
    height, width = image.shape
    black = _slope(rng, height, width, 18, 55)
    picture = black + image * (1 - black / 255)
    return Perturbed(np.clip(picture, 0, 255).astype(np.uint8), mask, _head(image))


def _slope(rng, height: int, width: int, low: float, high: float) -> np.ndarray:
    """[H, W]: even from one side to the other."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:height, :width]
    along = np.cos(angle) * x / width + np.sin(angle) * y / height
    along = (along - along.min()) / (along.max() - along.min())
    return low + (high - low) * along


def _film(rng, image, mask, others) -> Perturbed:
    """A photograph of a film before a light box or a screen: turned, seen from aside, blurred, uneven, as JPEG."""
    side, longest = 900, max(image.shape)
    sheet = np.full((side, round(side * rng.uniform(0.8, 1.25))), int(rng.integers(8, 30)), np.uint8)
    size = round(min(sheet.shape) * rng.uniform(0.55, 0.95))
    gamma = rng.uniform(0.75, 1.2)
    toned = (255 * (image / 255) ** gamma).astype(np.uint8)
    x, y = _anywhere(rng, sheet.shape[1] - size), _anywhere(rng, sheet.shape[0] - size)
    bare = _place(sheet.copy(), image, mask, x, y, size).heads  # before the black of the film makes all of it bright
    placed = _place(sheet, np.maximum(toned, sheet[0, 0]), mask, x, y, size)
    _write(rng, sheet, 0, 0, sheet.shape[1], side, 3, 200)

    width, height = [(1600, 1200), (1200, 1600), (1500, 1500)][rng.integers(3)]
    share = rng.uniform(0.6, 0.95)
    around = share * min(width / sheet.shape[1], height / sheet.shape[0])
    corners = np.array([(0, 0), (sheet.shape[1], 0), (sheet.shape[1], side), (0, side)], np.float32)
    angle = np.deg2rad(rng.uniform(-7, 7))
    turn = np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])
    seen = (corners - corners.mean(axis=0)) * around @ turn.T + (width / 2, height / 2)
    seen += rng.uniform(-0.03, 0.03, (4, 2)) * max(width, height)
    matrix = cv2.getPerspectiveTransform(corners, seen.astype(np.float32))
    surround = float(rng.choice([235, 250, 15, 30]))  # light box, or the dark around a screen
    picture = cv2.warpPerspective(sheet, matrix, (width, height), flags=cv2.INTER_AREA, borderValue=surround)
    picture = picture.astype(np.float32)
    truth = cv2.warpPerspective(placed.mask.astype(np.float32), matrix, (width, height)) >= 0.5
    heads = cv2.warpPerspective(bare.astype(np.uint8), matrix, (width, height)) > 0

    picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.8, 2.2) * longest / 512)
    picture = 0.82 * picture + _slope(rng, height, width, 8, 40)
    gx, gy = rng.uniform(0, width), rng.uniform(0, height)
    y, x = np.mgrid[:height, :width]
    picture += rng.uniform(0, 45) * np.exp(-((x - gx) ** 2 + (y - gy) ** 2) / (2 * (0.18 * width) ** 2))
    tint = rng.uniform(0.9, 1.06, 3)
    picture = picture[..., None] * tint + rng.normal(0, 4, (height, width, 1))
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    _, content = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 92))])
    return Perturbed(cv2.imdecode(content, cv2.IMREAD_COLOR), truth, heads)


def _montage(rng, image, mask, others) -> Perturbed:
    """Several slices side by side."""
    rows, columns = [(1, 2), (2, 2), (2, 3), (3, 4), (1, 3)][rng.integers(5)]
    side, gap = int(rng.integers(180, 340)), int(rng.integers(0, 14))
    canvas = np.zeros((rows * (side + gap), columns * (side + gap)), np.uint8)
    canvas[:] = int(rng.choice([0, 0, 60]))
    own = int(rng.integers(rows * columns))
    parts = []
    for number in range(rows * columns):
        y, x = (place * (side + gap) for place in divmod(number, columns))
        pair = others[number % len(others)] if others and number != own else (image, mask)
        parts.append(_place(canvas, *pair, x, y, side))
    masks, heads = ([getattr(part, name) for part in parts] for name in ("mask", "heads"))
    return Perturbed(canvas, np.any(masks, axis=0), np.any(heads, axis=0))


KINDS: dict[str, Callable[..., Perturbed]] = {
    "plain": _plain,
    "border": _border,
    "wide": _wide,
    "third": _third,
    "text": _text,
    "screenshot": _screenshot,
    "inverted": _inverted,
    "inverted page": _inverted_page,
    "uneven black": _uneven,
    "film": _film,
    "montage": _montage,
}
