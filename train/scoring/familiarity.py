"""What slices a model knows: statistics that lie beside its weights, for `TumorSegmenter` to warn of other pictures.

    persons of the other folds ─→ mean and covariance of the network's features ┐
    persons of the fold, and those of the split "example" ─→ their distances ───┴─→ MODEL/familiarity.safetensors

A model that was trained on everybody has seen the persons of the fold too; they are then held out of mean and
covariance alone.
"""

import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from datasets import Dataset
from tqdm.auto import tqdm

from modeling_unet import TumorSegmenter
from modeling_unet.familiarity import Familiarity, levels_of, pool
from modeling_unet.modeling_unet import padded_size
from modeling_unet.provenance import weights_hash

from ..data.folds import split_fold
from ..data.raw import as_file


logger = logging.getLogger(__name__)

MAX_TRAINING_SLICES = 400  # neighbours say the same: mean and covariance of a sixth of 2,081 slices are those of all


def fit_familiarity(model_dir: str | Path, segmenter: TumorSegmenter, slices: Dataset, fold: int) -> Familiarity:
    """Fit what a model knows, and write it beside its weights.

    Args:
        model_dir: folder of the weights.
        segmenter: the model, not optimised.
        slices: of all folds, as `load_slices` gives them.
        fold: whose persons set the limit; all other folds give mean and covariance.

    Raises:
        DataError: there is no such fold, or no other.
        ValueError: the training slices are all the same.
        OSError: a slice cannot be read, or the file not written.
    """
    training, of_fold = split_fold(slices, fold)
    training = training.select(range(0, len(training), -(-len(training) // MAX_TRAINING_SLICES)))
    examples = slices.select([index for index, split in enumerate(slices["split"]) if split == "example"])
    held_out = torch.cat([features_of(segmenter, part) for part in (of_fold, examples) if len(part)])
    familiarity = Familiarity.fit(features_of(segmenter, training), held_out)
    digest = weights_hash(model_dir)
    familiarity.save_pretrained(model_dir, {"weights_sha256": digest} if digest else None)
    logger.info(
        "Familiarity: %d features of %d slices, limit by %d of other persons.",
        *(len(familiarity.mean), len(training), len(held_out)),
    )
    return familiarity


@torch.inference_mode()
def features_of(segmenter: TumorSegmenter, slices: Dataset) -> torch.Tensor:
    """Of every slice, each taken whole, by the encoder alone: float32 [M, D]."""
    levels, features = levels_of(segmenter.network.config), []
    for row in tqdm(slices.select_columns(["image"]), desc="Looking at slices", unit="slice"):
        prepared = segmenter.image_processor(as_file(row["image"]), return_tensors="pt")
        pixel_values = prepared["pixel_values"].to(segmenter.device)
        height, width = pixel_values.shape[-2:]
        padded = padded_size((height, width), segmenter.network.config.reduction)
        padding = (0, padded[1] - width, 0, padded[0] - height)
        maps = segmenter.network.unet.encoder(F.pad(pixel_values, padding, mode="replicate"))
        features.append(pool(pixel_values, [maps[level] for level in levels]).cpu())
    return torch.cat(features)
