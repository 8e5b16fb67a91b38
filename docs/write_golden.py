"""Store what the shipped model says about three examples, after new weights: python docs/write_golden.py"""

import sys
from pathlib import Path

import cv2
import numpy as np


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modeling_unet import TumorSegmenter
from modeling_unet.provenance import SHIPPED_MODEL


ROOT = Path(__file__).resolve().parents[1]
NAMES = ("glioma-axial-726", "meningioma-coronal-415", "pituitary-sagittal-1275")


def main() -> None:
    segmenter = TumorSegmenter.from_pretrained(SHIPPED_MODEL, device="cpu", optimize="none")
    folder = ROOT / "tests" / "golden"
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        probability = segmenter(ROOT / "examples" / "images" / f"{name}.png").probability[::2, ::2]
        cv2.imwrite(str(folder / f"{name}.png"), np.round(probability * 65535).astype(np.uint16))


if __name__ == "__main__":
    main()
