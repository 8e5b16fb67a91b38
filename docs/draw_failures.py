"""Draw the failures of the model card: python docs/draw_failures.py DATA EVALUATION.json docs/failures.png

The worst slice of each of the persons with the worst slices, with what is there and what was found.
"""

import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modeling_unet import TumorSegmenter, read_mask
from train.data.raw import as_file
from train.data.slices import DataArguments, load_slices
from train.files import read_json
from train.fitting.curves import Prediction, write_predictions


ROWS, PER_ROW = 2, 4


def main(data_dir: str, evaluation: str, output: str) -> None:
    report = read_json(Path(evaluation))
    worst = {}
    for row in sorted(report["per_slice"], key=lambda row: row["dice"]):
        worst.setdefault(row["person_id"], row["slice"])
    names = list(worst.values())[: ROWS * PER_ROW]
    slices = load_slices(DataArguments(data_dir=data_dir))
    number_of = {name: number for number, name in enumerate(slices["slice"])}
    rows = [slices[number_of[name]] for name in names]
    found = TumorSegmenter.from_pretrained(report["model"], optimize="none").batch(
        [as_file(row["image"]) for row in rows]
    )
    predictions = [
        Prediction(row["slice"], row["tumor_type"], one.image, read_mask(as_file(row["mask"])), one.mask)
        for row, one in zip(rows, found, strict=True)
    ]
    write_predictions({"worst": predictions[:PER_ROW], "next": predictions[PER_ROW:]}, Path(output))


if __name__ == "__main__":
    main(*sys.argv[1:])
