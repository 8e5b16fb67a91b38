"""What is written down of a volume: lines of tables, and a picture of the slices that show most of the tumour."""

from typing import Any

import cv2
import numpy as np

from ..overlay import DEFAULT_ALPHA, DEFAULT_COLOR, to_display
from ..segmentation import Segmentation
from .segmenting import VolumeSegmentation


SHOWN, COLUMNS = 6, 3  # slices of the picture, and of one of its rows
MAX_TILE_PX = 512
NUMBER_PX, MARGIN_PX = 12, 4  # of a slice's number, in its corner
NUMBER_COLOR = (255, 255, 255)


def summarize_volume(segmentation: VolumeSegmentation) -> dict:
    """A volume's line of the table; the diameter is the longest of all lesions."""
    lesions = segmentation.lesions
    return {
        "tumor_found": segmentation.tumor_found,
        "highest_probability": round(float(segmentation.probability.max()), 4),
        "lesions": len(lesions),
        "longest_diameter_mm": max(filter(None, (_rounded(one.longest_diameter_mm) for one in lesions)), default=None),
        "volume_ml": _rounded(segmentation.volume_ml, 3),
        **{
            f"{name}_volume_ml": _rounded(segmentation.volume.volume_ml(mask), 3)
            for name, mask in segmentation.class_masks.items()
        },
    }


def list_lesions(segmentation: VolumeSegmentation) -> list[dict]:
    """The lines of the table of lesions, largest first; slices count from 1."""
    lines = []
    for number, lesion in enumerate(segmentation.lesions, start=1):
        right, anterior, superior = lesion.centre_mm or (None, None, None)
        lines.append(
            {
                "lesion": number,
                "volume_ml": _rounded(lesion.volume_ml, 3),
                "voxels": lesion.voxels,
                "first_slice": lesion.slices[0] + 1,
                "last_slice": lesion.slices[1] + 1,
                "right_mm": _rounded(right),
                "anterior_mm": _rounded(anterior),
                "superior_mm": _rounded(superior),
                "longest_diameter_mm": _rounded(lesion.longest_diameter_mm),
                "longest_in_slice_mm": _rounded(lesion.longest_in_slice_mm),
                "mean_probability": round(lesion.mean_probability, 4),
            }
        )
    return lines


def draw_montage(
    segmentation: VolumeSegmentation,
    color: str | tuple[int, int, int] = DEFAULT_COLOR,
    alpha: float = DEFAULT_ALPHA,
    style: str = "fill",
) -> np.ndarray:
    """The slices with the largest areas of tumour, each with its number; of a volume without any, slices all through.

    Args:
        color, alpha, style: as for `draw_overlay`.

    Returns:
        uint8 [H, W, 3], up to `SHOWN` slices, upright, in their order.
    """
    tiles = [_draw(segmentation, number, color, alpha, style) for number in shown_slices(segmentation)]
    columns = min(COLUMNS, len(tiles))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    return np.vstack(rows)


def shown_slices(segmentation: VolumeSegmentation) -> list[int]:
    """Which slices `draw_montage` shows, counted from 0."""
    areas = np.count_nonzero(segmentation.mask, axis=(1, 2))
    count = len(areas)
    if areas.any():
        largest = np.argsort(-areas, kind="stable")[:SHOWN]
        return sorted(int(number) for number in largest if areas[number])
    # In the middle of as many equal parts.
    parts = min(SHOWN, count)
    return [int((2 * part + 1) * count / (2 * parts)) for part in range(parts)]


def _draw(
    segmentation: VolumeSegmentation, number: int, color: str | tuple[int, int, int], alpha: float, style: str
) -> np.ndarray:
    image = to_display(segmentation.volume.slices[number])
    classes: dict[str, Any] = {}
    if segmentation.class_probabilities is not None:
        own = segmentation.class_probabilities[:, number]
        classes = {"class_names": segmentation.class_names, "class_probabilities": own}
        classes["classes_overlap"] = segmentation.classes_overlap
    of_slice = Segmentation(image, segmentation.probability[number], segmentation.threshold, **classes)
    picture = of_slice.overlay(color, alpha, style)
    row, column = segmentation.volume.spacing or (1.0, 1.0)
    height, width = picture.shape[0] * row, picture.shape[1] * column
    # Square pixels of the smaller side, as long as the tile does not become too large.
    scale = min(1 / min(row, column), MAX_TILE_PX / max(height, width))
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    if size != picture.shape[1::-1]:
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    place = MARGIN_PX, MARGIN_PX + NUMBER_PX
    font = cv2.FONT_HERSHEY_SIMPLEX
    return cv2.putText(picture, str(number + 1), place, font, NUMBER_PX / 24, NUMBER_COLOR, 1, cv2.LINE_AA)


def _rounded(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(value, digits)
