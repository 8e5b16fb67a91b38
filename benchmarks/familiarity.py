"""How many pictures a network says not to know: python -m benchmarks.familiarity KNOWN OTHERS …

    folder of pictures → segmenter → share that is warned of; AUROC against KNOWN, the first folder

AUROC is how often a picture of another folder is less familiar than one of KNOWN; ties count half.
"""

import argparse
from pathlib import Path

import numpy as np
from transformers.utils import logging

from modeling_unet import TumorSegmenter
from modeling_unet.image_processing_unet import IMAGE_SUFFIXES
from modeling_unet.provenance import SHIPPED_MODEL
from modeling_unet.segmentation import Segmentation

from .measuring import print_table


def auroc(known: list[float], others: list[float]) -> float:
    apart = np.subtract.outer(np.array(known), np.array(others))
    return float((apart > 0).mean() + (apart == 0).mean() / 2)


def segment(segmenter: TumorSegmenter, folder: Path) -> list[Segmentation]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise SystemExit(f"no pictures in {folder}")
    return list(segmenter.batch(paths))


def main(arguments: list[str] | None = None) -> dict:
    """Print the table, and return it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.familiarity", allow_abbrev=False)
    parser.add_argument("known", type=Path, help="folder of slices that the network knows")
    parser.add_argument("others", type=Path, nargs="*", help="folders of other pictures")
    parser.add_argument("--model", type=Path, default=SHIPPED_MODEL, help="model folder (the shipped one)")
    options = parser.parse_args(arguments)
    logging.disable_progress_bar()
    segmenter = TumorSegmenter.from_pretrained(options.model, device="cpu")
    if segmenter.familiarity is None:
        raise SystemExit(
            f"{options.model} cannot tell what it knows; python -m train calibrate --only_familiarity teaches it"
        )
    rows, known = {}, []
    for folder in (options.known, *options.others):
        found = segment(segmenter, folder)
        values = [segmentation.familiarity or 0.0 for segmentation in found]
        known = known or values
        warned = [not segmentation.is_familiar for segmentation in found]
        marked = [segmentation.tumor_found for segmentation in found]
        rows[str(folder)] = {
            "pictures": len(found),
            "warned": f"{np.mean(warned):.1%}",
            "AUROC": round(auroc(known, values), 3),
            "marked": f"{np.mean(marked):.1%}",
            "marked without a warning": f"{np.mean([m and not w for m, w in zip(marked, warned, strict=True)]):.1%}",
        }
    print_table("Pictures that the network does not know", rows)
    return rows


if __name__ == "__main__":
    main()
