"""The shipped model: what its folder holds, what it finds in the examples, and that this does not change unseen."""

import json

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from surroundings import ROOT
from transformers import AutoConfig, AutoModelForSemanticSegmentation

from docs import write_card
from modeling_unet import TumorSegmenter, read_mask
from modeling_unet.comparison import Overlap
from modeling_unet.provenance import weights_hash
from train.files import read_json
from train.record import read_evaluation


EXAMPLES = sorted((ROOT / "examples" / "images").glob("*.png"))
GOLDEN = ROOT / "tests" / "golden"

# Convolutions add in another order on every processor: float32 sums differ in the sixth digit, which the steepest
# sigmoid turns into less than 1e-3. The stored probabilities are 16-bit, another 1e-5.
TOLERANCE = 2e-3


@pytest.fixture(scope="module")
def segmenter(shipped_weights) -> TumorSegmenter:
    return TumorSegmenter.from_pretrained(shipped_weights, device="cpu", optimize="none")


def test_the_folder_holds_a_model_and_no_code(shipped_weights):
    assert {path.name for path in shipped_weights.iterdir()} == {
        "config.json",
        "familiarity.safetensors",
        "model.safetensors",
        "preprocessor_config.json",
        "training.json",
        "evaluation.json",
        "folds.json",
        "curves.png",
        "failures.png",
    }
    assert (shipped_weights / "model.safetensors").stat().st_size < 16 * 2**20
    assert "auto_map" not in json.loads((shipped_weights / "config.json").read_text())


def test_weights_are_stored_as_float16_and_load_as_float32(shipped_weights):
    stored = load_file(shipped_weights / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16, torch.int64}
    assert all(tensor.isfinite().all() for tensor in stored.values())
    model = AutoModelForSemanticSegmentation.from_pretrained(shipped_weights)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_config_names_initialisation_and_labels(shipped_weights):
    config = AutoConfig.from_pretrained(shipped_weights)
    assert config.encoder_initialization == "imagenet-efficientnet-lite0"
    assert config.id2label == {0: "background", 1: "tumor"}


def test_nobody_in_the_examples_was_trained_on(shipped_weights):
    record = json.loads((shipped_weights / "training.json").read_text())
    assert record["fold"] is None and record["training_persons"] == 172


def test_the_card_says_what_the_files_beside_the_weights_say(shipped_weights):
    """`python docs/write_card.py` would change nothing."""
    card = (ROOT / "model_card.md").read_text(encoding="utf-8")
    record = read_json(shipped_weights / "training.json")
    evaluation, folds = (read_evaluation(shipped_weights / name) for name in ("evaluation.json", "folds.json"))
    assert len(write_card.PART.findall(card)) == 4
    assert write_card.render(card, record, evaluation, folds) == card


def test_the_evaluation_is_of_these_weights(shipped_weights):
    evaluation = read_json(shipped_weights / "evaluation.json")
    assert evaluation["weights_sha256"] == weights_hash(shipped_weights)
    assert evaluation["seen_in_training"] is False


def test_it_finds_the_tumours_of_the_examples(segmenter):
    """People it has never seen; a preprocessing step gone wrong would cost more than this leaves."""
    segmentations = segmenter.batch(EXAMPLES)
    dice = [
        Overlap.of(segmentation.mask, read_mask(path.parents[1] / "masks" / path.name)).dice
        for segmentation, path in zip(segmentations, EXAMPLES, strict=True)
    ]
    assert len(dice) >= 6
    assert np.mean(dice) > 0.7


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.png")), ids=lambda path: path.stem)
def test_probabilities_are_those_stored(segmenter, path):
    """`tests/golden/NAME.png` holds the probability of `examples/images/NAME.png` as round(65535 · p), at half size."""
    golden = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) / 65535
    probability = segmenter(ROOT / "examples" / "images" / path.name).probability[::2, ::2]
    np.testing.assert_allclose(probability, golden, atol=TOLERANCE)


def test_golden_probabilities_cover_every_tumour_type():
    assert {path.stem.partition("-")[0] for path in GOLDEN.glob("*.png")} == {"glioma", "meningioma", "pituitary"}
