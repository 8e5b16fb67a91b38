"""What lies beside trained weights: the record of their training, and their evaluation."""

import json
import logging
from pathlib import Path

from datasets import Dataset
from transformers.utils import cached_file

from modeling_unet.files import write_atomically

from .columns import values_of
from .files import read_json
from .looks import recognize


logger = logging.getLogger(__name__)

RECORD_FILE = "training.json"  # what the run was, by `fit`
LOOKS = "looks"  # in it: what the slices look like that were trained on, see `looks.look_of`
BASE_WEIGHTS = "init_from_sha256"  # in it: hash of the weights that were fine-tuned
CANVASES = "canvases_sha256"  # in it: hash of the slices without tumour that were trained on
BRAINS = "brain_masks_sha256"  # in it: hash of the masks of the brain by which skull and skin were taken off
TEACHERS = "teachers"  # in it: the models whose average was learned too
CALIBRATION = "calibration"  # in it: scale and shift that were put into the head
CLASSES = "classes"  # in it: of a model of several classes, which values of the masks each has, as for --classes
SHARE_OF_START = "share_of_start"  # in it: of the weights before the training, in an average with those after it
EVALUATION_FILE = "evaluation.json"  # how it scored, by `evaluate` or `cv`
ALL_PERSONS = "all persons"  # in an evaluation, instead of a fold: all slices of a data set were scored
STANDS_FOR = "stands_for"  # in an evaluation: hash of the weights trained on all folds that it is published with


def read_record(model: str | Path) -> dict:
    """How weights were made, by the record beside them in a folder or on the Hub; empty without one."""
    try:
        path = cached_file(model, RECORD_FILE)
    except OSError:
        return {}
    return read_json(Path(path)) if path else {}


def is_seen_in_training(model: str, scored: Dataset) -> bool | None:
    """Whether any of the slices was trained on, by the record beside the weights; None if it does not say."""
    if (found := _find_seen(model, scored)) is None:
        return None
    equal, alike = found
    seen = sum(map(max, equal, alike))
    if seen:
        resized = f" ({seen - sum(equal)} of them resized or saved anew)" if seen > sum(equal) else ""
        logger.warning(
            "This model was trained on %d of these %d slices%s: the figures say nothing about new persons.",
            *(seen, len(scored), resized),
        )
    return seen > 0


def seen_slices(model: str, slices: Dataset) -> list[bool] | None:
    """Of every slice with tumour, whether it was trained on; None if the record beside the weights does not say."""
    found = _find_seen(model, slices)
    return None if found is None else list(map(max, *found))


def _find_seen(model: str, slices: Dataset) -> tuple[list[bool], list[bool]] | None:
    """Slices whose mask was trained on, and slices that look like one that was."""
    record = read_record(model)
    trained_on = record.get("trained_on")
    if trained_on is None:
        return None
    hashes = trained_on.split()
    known, digits = set(hashes), len(hashes[0]) if hashes else 0
    equal = [digest[:digits] in known for digest in values_of(slices, "mask_sha256")]
    looks = ["" if same else look for look, same in zip(values_of(slices, "look"), equal, strict=True)]
    return equal, recognize(looks, record.get(LOOKS, "").split())


def read_evaluation(path: Path) -> dict:
    """What `write_evaluation` wrote; bins that an older version called a calibration are called by their name of today.

    Raises:
        ValueError: the file is not JSON or holds no mapping.
        OSError: it cannot be read.
    """
    report = _renamed(read_json(path))
    if rows := report.get("per_slice"):
        report["per_slice"] = [_renamed(row) if isinstance(row, dict) else row for row in rows]
    return report


def _renamed(part: dict) -> dict:
    return {"reliability" if name == "calibration" else name: value for name, value in part.items()}


def write_evaluation(path: Path, report: dict) -> None:
    """Write a report as JSON: lists of rows with one row per line, so that two versions compare line by line."""
    parts = [f"  {json.dumps(name)}: {_indented(value)}" for name, value in report.items()]
    write_atomically(path, ("{\n" + ",\n".join(parts) + "\n}\n").encode())


def _indented(value) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        rows = ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in value)
        return f"[\n{rows}\n  ]"
    return json.dumps(value, indent=2, ensure_ascii=False).replace("\n", "\n  ")
