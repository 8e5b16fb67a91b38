"""How much of a mask is kept when a slice comes as people have it: python -m benchmarks.framing --data_dir DATA

    slice → perturb(kind) → picture with its true mask → segmenter with framing "none" and "auto" → mean Dice

`kept` is the Dice with framing, by that of the plain slices; `change` is what lies between the two, with its interval;
`framed` counts the pictures of which the network was shown a part alone. The first row is of plain slices: whether
framing changes them is what `--fold 0 --kinds plain` says.
"""

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from transformers.utils import logging

from modeling_unet import TumorSegmenter, read_image, read_mask
from modeling_unet.framing import find_frames
from modeling_unet.image_processing_unet import to_grayscale
from modeling_unet.provenance import SHIPPED_MODEL
from train.files import write_json
from train.scoring.metrics import paired_interval

from .measuring import ROOT, print_table
from .perturbations import KINDS, Perturbed, perturb


SHEET_SIDE = 240
SEEDS = 10_000  # what lies between those of two `--seed`, more than there are slices


@dataclass(frozen=True, eq=False)
class Slice:
    """A slice of the data set: image uint8 [H, W], mask bool [H, W]; whom nobody knows is a person by himself."""

    name: str
    person: str
    image: np.ndarray
    mask: np.ndarray


def read_slices(folder: Path, split: str = "all", fold: str | None = None) -> list[Slice]:
    """The slices in `images/` and `masks/` of one split, or of one fold; of the split "all", those of any name."""
    with (ROOT / "train" / "data" / "manifest.csv").open(newline="") as file:
        known = {row["slice"]: row for row in csv.DictReader(file)}
    found = []
    for path in sorted((folder / "images").iterdir()):
        row = known.get(path.stem, {})
        if (split == "all" or row.get("split") == split) and (fold is None or row.get("fold") == fold):
            image = to_grayscale(read_image(path)).astype(np.uint8)
            mask = read_mask(folder / "masks" / f"{path.stem}.png")
            found.append(Slice(path.stem, row.get("person_id", path.stem), image, mask))
    if not found:
        raise SystemExit(
            f"no slices of the split {split} and the fold {fold or 'any'} in {folder / 'images'}; --split all without "
            "--fold takes those of any name"
        )
    return found


def look(segmenter: TumorSegmenter, pictures: list[Perturbed], framing: str) -> list[dict]:
    """Of every picture the Dice, and (x, y, width, height) of what the network was shown alone."""
    found = segmenter.batch([perturbed.picture for perturbed in pictures], framing=framing)
    return [
        {"dice": one.dice(perturbed.mask), "frames": one.frames, "inverted": one.inverted}
        for one, perturbed in zip(found, pictures, strict=True)
    ]


def look_again(segmenter: TumorSegmenter, pictures: list[Perturbed], none: list[dict]) -> list[dict]:
    """As `look` with framing, where few pictures are framed: the others are not looked at a second time."""
    is_framed = [bool(find_frames(perturbed.picture)) for perturbed in pictures]
    framed = [perturbed for perturbed, so in zip(pictures, is_framed, strict=True) if so]
    again = iter(look(segmenter, framed, "auto"))
    return [next(again) if so else one for one, so in zip(none, is_framed, strict=True)]


def dice_of(looks: list[dict]) -> list[float]:
    return [one["dice"] for one in looks]


def summarize(plain: list[dict], none: list[dict], auto: list[dict], persons: list[str]) -> dict:
    """The row of a kind; the interval is one of 95 %, by bootstrap over persons."""
    means = [float(np.mean(dice_of(looks))) for looks in (plain, none, auto)]
    low, high = paired_interval(dice_of(plain), dice_of(auto), persons)
    return {
        "none": round(means[1], 4),
        "auto": round(means[2], 4),
        "kept": round(means[2] / means[0], 4),
        "change": f"{means[2] - means[0]:+.4f} ({low:+.4f} to {high:+.4f})",
        "framed": sum(bool(one["frames"]) for one in auto),
    }


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
    add("--fold", help="of the public data set, 0 to 4; its persons were trained on (any)")
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help=f"of {', '.join(KINDS)}")
    add("--model", type=Path, default=SHIPPED_MODEL, help="model folder (the shipped one)")
    add("--seed", type=int, default=0, help="another one makes other pictures of the same slices (%(default)s)")
    add("--sheet", type=Path, metavar="FILE.png", help="draw the first eight pictures of every kind")
    add("--out", type=Path, metavar="FILE.json", help="write all figures, those of every slice too")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> dict:
    """Print the table, and return what `--out` writes."""
    options = parse(arguments)
    logging.disable_progress_bar()
    segmenter = TumorSegmenter.from_pretrained(options.model, device="cpu", optimize="none")
    slices = read_slices(options.data_dir, options.split, options.fold)
    pairs = [(one.image, one.mask) for one in slices]
    plain = look(segmenter, [perturb("plain", *pair, seed=0) for pair in pairs], "none")
    rows, every, sheets = {}, [], []
    for kind in options.kinds:
        pictures = [
            perturb(kind, *pair, seed=SEEDS * options.seed + number, others=pairs[number + 1 :] + pairs[:number])
            for number, pair in enumerate(pairs)
        ]
        is_plain = kind == "plain"
        none = plain if is_plain else look(segmenter, pictures, "none")
        auto = look_again(segmenter, pictures, none) if is_plain else look(segmenter, pictures, "auto")
        rows[kind] = summarize(plain, none, auto, [one.person for one in slices])
        every += [
            {"kind": kind, "slice": one.name, "person": one.person, "plain": first["dice"], "none": second["dice"]}
            | third
            | {"head": cv2.boundingRect(perturbed.heads.astype(np.uint8))}
            for one, perturbed, first, second, third in zip(slices, pictures, plain, none, auto, strict=True)
        ]
        sheets += [draw_sheet(segmenter, pictures[:8])] if options.sheet else []
    print_table(f"Dice of {len(slices)} slices, plain {np.mean(dice_of(plain)):.4f}", rows)
    if options.sheet:
        cv2.imwrite(str(options.sheet), np.vstack(sheets))
    if options.out:
        write_json(options.out, {"slices": len(slices), "kinds": rows, "every": every})
    return rows


if __name__ == "__main__":
    main()
