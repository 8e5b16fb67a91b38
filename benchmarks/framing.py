"""How much of a mask is kept when a slice comes as people have it: python -m benchmarks.framing --data_dir DATA

    slice → perturb(kind) → picture with its true mask → segmenter with framing "none" and "auto" → mean Dice

`kept` is the Dice with framing, by that of the plain slices; the first row is of these.
"""

import argparse
import csv
from pathlib import Path

import cv2
import numpy as np
from transformers.utils import logging

from modeling_unet import TumorSegmenter, read_image, read_mask
from modeling_unet.image_processing_unet import to_grayscale
from modeling_unet.provenance import SHIPPED_MODEL
from train.files import write_json

from .measuring import ROOT, print_table
from .perturbations import KINDS, Perturbed, perturb


SHEET_SIDE = 240


def read_slices(folder: Path, split: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name → image uint8 [H, W] and mask bool [H, W], in `images/` and `masks/`, of one split."""
    with (ROOT / "train" / "data" / "manifest.csv").open(newline="") as file:
        chosen = {row["slice"] for row in csv.DictReader(file) if row["split"] == split}
    paths = sorted(path for path in (folder / "images").iterdir() if split == "all" or path.stem in chosen)
    if not paths:
        raise SystemExit(f"no slices of the split {split} in {folder / 'images'}; --split all takes those of any name")
    return {
        path.stem: (to_grayscale(read_image(path)).astype(np.uint8), read_mask(folder / "masks" / f"{path.stem}.png"))
        for path in paths
    }


def score(segmenter: TumorSegmenter, pictures: list[Perturbed], framing: str) -> float:
    found = segmenter.batch([perturbed.picture for perturbed in pictures], framing=framing)
    return float(np.mean([one.dice(perturbed.mask) for one, perturbed in zip(found, pictures, strict=True)]))


def draw_sheet(segmenter: TumorSegmenter, pictures: list[Perturbed], columns: int = 8) -> np.ndarray:
    """Pictures with the parts that the network was shown, uint8 [H, W, 3], BGR; red where it was turned."""
    tiles = []
    for segmentation in segmenter.batch([perturbed.picture for perturbed in pictures]):
        tile, width = segmentation.overlay()[..., ::-1].copy(), max(max(segmentation.mask.shape) // 120, 1)
        for x, y, w, h in segmentation.frames:
            cv2.rectangle(tile, (x, y), (x + w, y + h), (0, 0, 255) if segmentation.inverted else (0, 255, 0), width)
        scale = SHEET_SIDE / max(tile.shape)
        tile = cv2.resize(tile, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)[:SHEET_SIDE, :SHEET_SIDE]
        tiles.append(np.pad(tile, [(0, SHEET_SIDE - tile.shape[0]), (0, SHEET_SIDE - tile.shape[1]), (0, 0)]))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)])


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.framing", allow_abbrev=False)
    add = parser.add_argument
    add("--data_dir", type=Path, default=ROOT / "examples", help="folder with images/ and masks/ (the examples)")
    add("--split", default="all", help="of the public data set, such as example; all takes every slice (%(default)s)")
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help=f"of {', '.join(KINDS)}")
    add("--model", type=Path, default=SHIPPED_MODEL, help="model folder (the shipped one)")
    add("--sheet", type=Path, metavar="FILE.png", help="draw the first eight pictures of every kind")
    add("--out", type=Path, metavar="FILE.json", help="write all figures")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> dict:
    """Print the table, and return what `--out` writes."""
    options = parse(arguments)
    logging.disable_progress_bar()
    segmenter = TumorSegmenter.from_pretrained(options.model, device="cpu", optimize="none")
    slices = read_slices(options.data_dir, options.split)
    pairs = list(slices.values())
    plain = score(segmenter, [perturb("plain", *pair, seed=0) for pair in pairs], "none")
    rows, sheets = {}, []
    for kind in options.kinds:
        pictures = [
            perturb(kind, *pair, seed=number, others=pairs[number + 1 :] + pairs[:number])
            for number, pair in enumerate(pairs)
        ]
        none, auto = score(segmenter, pictures, "none"), score(segmenter, pictures, "auto")
        rows[kind] = {"none": round(none, 4), "auto": round(auto, 4), "kept": round(auto / plain, 4)}
        sheets += [draw_sheet(segmenter, pictures[:8])] if options.sheet else []
    print_table(f"Dice of {len(slices)} slices, plain {plain:.4f}", rows)
    if options.sheet:
        cv2.imwrite(str(options.sheet), np.vstack(sheets))
    if options.out:
        write_json(options.out, {"slices": len(slices), "plain": plain, "kinds": rows})
    return rows


if __name__ == "__main__":
    main()
