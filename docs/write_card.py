"""Write the figures of the model card from the files beside the weights: python docs/write_card.py

weights/brain-tumor-unet/{training,evaluation,folds}.json ─ sections_of ─→ what is between the marks of the card

`evaluation.json` is of the weights themselves, `folds.json` of the weights of each fold after the first two trainings.

A part of the card that begins with `<!-- NAME: … -->` and ends with `<!-- end -->` is replaced; the rest is prose.
"""

import re
import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modeling_unet.files import write_atomically
from modeling_unet.provenance import SHIPPED_MODEL
from train.files import read_json
from train.hub.cards import describe_scored
from train.record import CALIBRATION, EVALUATION_FILE, RECORD_FILE, SHARE_OF_START, TEACHERS, read_evaluation
from train.scoring.tables import (
    detail_table,
    fold_table,
    format_table,
    markdown_table,
    overlap_table,
)


ROOT = Path(__file__).resolve().parents[1]
CARD = ROOT / "model_card.md"
FOLDS_FILE = "folds.json"
INTERVALS = "Intervals are 95 %, by bootstrap over persons."
PART = re.compile(r"(<!-- (\w+): .*? -->)\n.*?(<!-- end -->)", re.DOTALL)


def render(card: str, record: dict, evaluation: dict, folds: dict) -> str:
    """The card with every part written anew; raises KeyError if it marks a part that nobody writes."""
    sections = sections_of(record, evaluation, folds)
    return PART.sub(lambda match: f"{match[1]}\n{sections[match[2]]}\n{match[3]}", card)


def sections_of(record: dict, evaluation: dict, folds: dict) -> dict[str, str]:
    """Name of a part → its Markdown."""
    types = {"all": folds["all"], **folds["by_tumor_type"]}
    of_folds = [overlap_table(types), detail_table(types), overlap_table(folds["by_plane"]), fold_table(folds)]
    return {
        "figures": "\n\n".join([describe_scored(evaluation), format_table(evaluation), INTERVALS]),
        "folds": "\n\n".join([*of_folds, INTERVALS]),
        "calibration": _calibration(record, folds),
        "training": _training(record),
    }


def _calibration(record: dict, evaluation: dict) -> str:
    rows = {
        f"{bin_['from']:.2f}–{bin_['to']:.2f}": [
            f"{bin_['pixels']:,}",
            f"{bin_['mean_probability']:.3f}",
            f"{bin_['tumor_share']:.3f}",
        ]
        for bin_ in evaluation["reliability"]
        if bin_["pixels"]
    }
    table = markdown_table(["pixels", "mean probability", "share of tumour"], rows, corner="probability")
    figures = f"ECE {evaluation['all']['ece']:.3f}, Brier score {evaluation['all']['brier']:.3f}."
    if platt := record.get(CALIBRATION):
        figures += f" Logits × {platt['scale']:.3f} {platt['shift']:+.3f}, in the weights of the head."
    return f"{figures}\n\n{table}"


def _training(record: dict) -> str:
    trainings, earlier = [record], record.get("started_from")
    while earlier:
        trainings.insert(0, earlier)
        earlier = earlier.get("started_from")
    commits = [training.get("commit") for training in trainings]
    seconds = sum(training["seconds_since_last_start"] for training in trainings)
    rows = {
        "slices, persons": [f"{record['training_slices']:,} of {record['training_persons']}"],
        "held out": ["nobody" if record["fold"] is None else f"fold {record['fold']}"],
        "schedule": ["; then ".join(map(_schedule, trainings))],
        "time": [f"{seconds / 3600:.1f} h since the last start, on {record['machine']}"],
        "seed": [", ".join(str(training["recipe"]["seed"]) for training in trainings)],
        "slices' SHA-256": [f"`{record['training_slices_sha256'][:16]}…`"],
        "commit": ["; then ".join(f"`{commit}`" if commit else "not recorded" for commit in commits)],
        "versions": [f"torch {record['torch']}, transformers {record['transformers']}"],
    }
    return markdown_table([""], rows)


def _schedule(training: dict) -> str:
    recipe = training["recipe"]
    text = f"{training['steps']:,} steps of {recipe['per_device_train_batch_size']} slices"
    if names := [teacher["name"] for teacher in training.get(TEACHERS, ())]:
        text += f", {recipe['teacher_share']:.0%} of the loss by the average of {' and '.join(names)}"
    if share := training.get(SHARE_OF_START):
        text += f", averaged with the weights before (their share is {share:g})"
    return text


def main() -> None:
    card = CARD.read_text(encoding="utf-8")
    evaluation, folds = (read_evaluation(SHIPPED_MODEL / name) for name in (EVALUATION_FILE, FOLDS_FILE))
    write_atomically(CARD, render(card, read_json(SHIPPED_MODEL / RECORD_FILE), evaluation, folds).encode())


if __name__ == "__main__":
    main()
