"""Weights before and after a second training, mixed.

    python docs/mix_weights.py BEFORE OUT [AFTER SHARE [PRESENCE [CELLS]]]

    BEFORE ─ calibration out of its head ─→ OUT, to train on                                          (without AFTER)
    SHARE · that + (1 - SHARE) · AFTER ─ calibration into its head again ─→ OUT, to score

PRESENCE and CELLS are `presence_logit` and `presence_cells` of OUT's config: how sure the network must be somewhere,
and on how large a square, before it marks anything.

Fine-tuned weights forget; between them and those that they come from lie networks that know both (Wortsman et al. 2022,
"Robust fine-tuning of zero-shot models", section 3). AFTER was trained from the OUT of the first line.
"""

import sys
from pathlib import Path

import torch


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modeling_unet import UNetForSemanticSegmentation, UNetImageProcessor
from train.files import save_model, write_json
from train.fitting.calibrated import read_calibration
from train.record import CALIBRATION, RECORD_FILE, SHARE_OF_START, read_record


@torch.no_grad()
def main(
    before: str, out: str, after: str | None = None, share: str = "1", presence: str | None = None, cells: str = "3"
) -> None:
    model, (platt,) = UNetForSemanticSegmentation.from_pretrained(before), read_calibration(before).platts
    model.head.weight.div_(platt.scale)
    model.head.bias.sub_(platt.shift).div_(platt.scale)
    model.config.presence_logit = None if presence is None else float(presence)
    model.config.presence_cells = int(cells)
    record = read_record(before)
    calibration = record.pop(CALIBRATION)
    if after is not None:
        tuned = UNetForSemanticSegmentation.from_pretrained(after).state_dict()
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.lerp_(tuned[name], 1 - float(share))
        model.head.weight.mul_(platt.scale)
        model.head.bias.mul_(platt.scale).add_(platt.shift)
        record = {**read_record(after), CALIBRATION: calibration, SHARE_OF_START: float(share)}
    save_model(model, UNetImageProcessor.from_pretrained(before), Path(out))
    write_json(Path(out) / RECORD_FILE, record)


if __name__ == "__main__":
    main(*sys.argv[1:])
