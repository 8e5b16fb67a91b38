"""Draw the README's picture from the examples: python docs/draw_overlays.py docs/overlay.png

Top row: slices of people the network has never seen. Bottom row: the tumour it found, filled, and the true outline.
"""

import sys
from pathlib import Path

import cv2
import numpy as np


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modeling_unet import TumorSegmenter, read_mask
from modeling_unet.overlay import draw_overlay
from modeling_unet.provenance import SHIPPED_MODEL


ROOT = Path(__file__).resolve().parents[1]
NAMES = ("meningioma-axial-7", "glioma-axial-726", "pituitary-sagittal-1275")
TRUTH_COLOR = "#56b4e9"
GAP = 8


def main(output: str) -> None:
    segmenter = TumorSegmenter.from_pretrained(SHIPPED_MODEL, device="cpu")
    columns = []
    for name in NAMES:
        segmentation = segmenter(ROOT / "examples" / "images" / f"{name}.png")
        truth = read_mask(ROOT / "examples" / "masks" / f"{name}.png")
        found = draw_overlay(segmentation.overlay(), truth, color=TRUTH_COLOR, alpha=1, style="contour")
        columns.append(_stack([segmentation.image, found], axis=0))
    picture = _stack(columns, axis=1)
    cv2.imwrite(output, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9])


def _stack(pictures: list[np.ndarray], axis: int) -> np.ndarray:
    """Side by side or one above the other, with a white gap between."""
    gap = list(pictures[0].shape)
    gap[axis] = GAP
    parts = [part for picture in pictures for part in (np.full(gap, 255, np.uint8), picture)]
    return np.concatenate(parts[1:], axis=axis)


if __name__ == "__main__":
    main(*sys.argv[1:])
