"""What slices a model knows: python docs/fit_familiarity.py DATA MODEL FOLD [EVERY [PERSONS]]

    persons of the other folds ─→ mean and covariance of the network's features ┐
    persons of the fold, and those of the split "example" ─→ their distances ───┴─→ MODEL/familiarity.safetensors

EVERY 6 takes every sixth slice of the other folds; PERSONS is the file of `python -m train fit --persons`. A model that
was trained on everybody has seen the persons of the fold too: they are then held out of mean and covariance alone.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from datasets import Dataset
from tqdm.auto import tqdm


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modeling_unet import TumorSegmenter, read_image
from modeling_unet.familiarity import Familiarity, levels_of, pool
from modeling_unet.modeling_unet import padded_size
from modeling_unet.provenance import weights_hash
from train.data.folds import split_fold
from train.data.raw import as_file
from train.data.slices import DataArguments, load_slices


@torch.inference_mode()
def features_of(segmenter: TumorSegmenter, slices: Dataset) -> torch.Tensor:
    """Of every slice, each taken whole, by the encoder alone: float32 [M, D]."""
    levels, features = levels_of(segmenter.network.config), []
    for row in tqdm(slices.select_columns(["image"]), unit="slice"):
        image = read_image(as_file(row["image"]))
        pixel_values = segmenter.image_processor([image], return_tensors="pt")["pixel_values"].to(segmenter.device)
        height, width = pixel_values.shape[-2:]
        padded = padded_size((height, width), segmenter.network.config.reduction)
        padding = (0, padded[1] - width, 0, padded[0] - height)
        maps = segmenter.network.unet.encoder(F.pad(pixel_values, padding, mode="replicate"))
        features.append(pool(pixel_values, [maps[level] for level in levels]).cpu())
    return torch.cat(features)


def main(data_dir: str, model: str, fold: str, every: str = "1", persons: str | None = None) -> None:
    segmenter = TumorSegmenter.from_pretrained(model, optimize="none", framing="none")
    slices = load_slices(DataArguments(data_dir=data_dir, persons=persons))
    training, of_fold = split_fold(slices, int(fold))
    examples = slices.select([index for index, split in enumerate(slices["split"]) if split == "example"])
    training = training.select(range(0, len(training), int(every)))
    held_out = torch.cat([features_of(segmenter, part) for part in (of_fold, examples) if len(part)])
    familiarity = Familiarity.fit(features_of(segmenter, training), held_out)
    hash_of_weights = weights_hash(model)
    familiarity.save_pretrained(model, {"weights_sha256": hash_of_weights} if hash_of_weights else None)
    print(f"{len(training)} slices, {len(held_out)} held out, {len(familiarity.mean)} features: {model}")


if __name__ == "__main__":
    main(*sys.argv[1:])
