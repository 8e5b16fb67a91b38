"""Write the mean of a run's averaged and last weights: python docs/average_weights.py RUN OUT [CALIBRATED]

The newest checkpoint of RUN: (ema.safetensors + model.safetensors) / 2 ─→ OUT, a model folder with RUN's record.
CALIBRATED, a folder that `python -m train calibrate` wrote for the same recipe, gives OUT its calibration and figures.

The moving average of the recipe fewer-alarms still holds a third of the weights that it began with, which find a tumour
nearly everywhere; in the mean with the last weights it is half as much.
"""

import sys
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modeling_unet import UNetForSemanticSegmentation, UNetImageProcessor
from train.calibrate import KEY, read_calibration, take_over
from train.checkpoints import find_newest_intact
from train.files import RECORD_FILE, read_json, save_model, write_json


def main(run: str, output: str, calibrated: str | None = None) -> None:
    checkpoint, output_dir = find_newest_intact(Path(run)), Path(output)
    if checkpoint is None:
        sys.exit(f"error: {run} holds no checkpoint.")
    model = UNetForSemanticSegmentation.from_pretrained(checkpoint)
    last, averaged = model.state_dict(), load_file(checkpoint / "ema.safetensors")
    model.load_state_dict({name: last[name].lerp(tensor, 0.5) for name, tensor in averaged.items()}, strict=False)
    save_model(model, UNetImageProcessor.from_pretrained(checkpoint), output_dir)
    record = {**read_json(Path(run) / RECORD_FILE), "weights": "mean of the averaged and the last ones"}
    record.pop(KEY, None)
    if calibrated:
        record[KEY] = asdict(read_calibration(calibrated))
        take_over(calibrated, output_dir)
    write_json(output_dir / RECORD_FILE, record)


if __name__ == "__main__":
    main(*sys.argv[1:])
