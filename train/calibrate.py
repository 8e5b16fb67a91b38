"""`python -m train calibrate`: make a trained model's probabilities mean what they say, at no cost for its users.

    python -m train calibrate --data_dir DATA --model RUN --fold 0 --output_dir CALIBRATED

    slices of the fold ─ network ─→ logits of every person ─ fit_platt ─→ Platt ─ fold into the head ─→ CALIBRATED
                        └ without a fifth of the persons ─ fit_platt ─ score that fifth ─→ evaluation.json

The scores in `CALIBRATED/evaluation.json` are cross-fitted: nobody's slices took part in the fit that they are scored
with. They may differ a little from those that `evaluate` gives for CALIBRATED, whose fit saw all of them.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from datasets import Dataset
from tqdm.auto import tqdm

from modeling_unet import Segmentation, TumorSegmenter, read_mask

from .data import load_slices
from .evaluate import (
    EvaluateArguments,
    find_negatives,
    is_seen_in_training,
    report_of,
    score_fold,
    score_negatives,
    segment_fold,
    write_evaluation,
)
from .files import (
    EVALUATION_FILE,
    RECORD_FILE,
    STANDS_FOR,
    check_writable,
    read_json,
    read_record,
    weights_hash,
    write_json,
)
from .folds import split_fold
from .platt import KEY, LogitCounts, Platt, fit_platt, fold_into_head, read_calibration
from .sources import as_file
from .tables import format_table


logger = logging.getLogger(__name__)

GROUPS = 5  # of persons, one of which is left out of each fit


@dataclass(kw_only=True)
class CalibrateArguments(EvaluateArguments):
    """What to calibrate, on what, and where the result goes."""

    output_dir: str = field(metadata={"help": "Folder for the calibrated model and its evaluation."})

    def __post_init__(self):
        if self.output is not None:
            raise ValueError("--output is not an option of calibrate: the evaluation goes to --output_dir.")
        super().__post_init__()


def calibrate(arguments: CalibrateArguments) -> dict:
    """Fit, write the calibrated model to `arguments.output_dir` with its cross-fitted evaluation, print the tables.

    Returns:
        The report, as `evaluate` returns it.

    Raises:
        DataError: the data set cannot be scored.
        ValueError: the model was trained on these persons, is calibrated already, or cannot be calibrated.
        OSError: the model or a slice cannot be read.
    """
    output_dir = Path(arguments.output_dir)
    check_writable(output_dir / RECORD_FILE, "--output_dir")
    record = read_record(arguments.model)
    if KEY in record:
        raise ValueError(f"--model {arguments.model} is calibrated already.")
    negatives = find_negatives(Path(arguments.negatives)) if arguments.negatives else []
    segmenter = TumorSegmenter.from_pretrained(arguments.model, device=arguments.device, optimize="none")
    _, slices = split_fold(load_slices(arguments), arguments.fold)
    seen_in_training = is_seen_in_training(arguments.model, slices)
    if seen_in_training:
        raise ValueError(
            f"--model {arguments.model} was trained on persons of fold {arguments.fold}; give the fold it left out."
        )
    counts = count_logits(segment_fold(segmenter, slices, arguments.batch_size), slices)
    platt = fit_platt(counts.values())
    logger.info("Calibration: logit × %.3f %+.3f.", platt.scale, platt.shift)
    crossed = cross_fit(counts)
    pairs = zip(segment_fold(segmenter, slices, arguments.batch_size), slices["person_id"], strict=True)
    calibrated = (
        replace(segmentation, probability=crossed[person].of_probability(segmentation.probability))
        for segmentation, person in pairs
    )
    per_slice = score_fold(calibrated, slices)
    fold_into_head(platt, arguments.model, output_dir)
    write_json(output_dir / RECORD_FILE, {**record, KEY: asdict(platt)})
    per_negative = score_negatives(
        TumorSegmenter.from_pretrained(output_dir, device=arguments.device, optimize="none"),
        negatives,
        re.compile(arguments.negatives_person_pattern),
        arguments.batch_size,
    )
    report = {
        "model": str(output_dir),
        "fold": arguments.fold,
        "weights_sha256": weights_hash(output_dir),
        "seen_in_training": seen_in_training,
        "calibration_groups": GROUPS,
        **report_of(slices, per_slice, per_negative),
    }
    print(format_table(report))
    write_evaluation(output_dir / EVALUATION_FILE, report)
    return report


def count_logits(segmentations: Iterable[Segmentation], slices: Dataset) -> dict[str, LogitCounts]:
    """Person → the logits of the pixels in and around that person's tumours."""
    counts = defaultdict(LogitCounts)
    pairs = zip(segmentations, slices.select_columns(["mask", "person_id"]), strict=True)
    for segmentation, row in tqdm(pairs, total=len(slices), desc="Counting logits", unit="slice"):
        counts[row["person_id"]].add(segmentation.probability, read_mask(as_file(row["mask"])))
    return dict(counts)


def cross_fit(counts: dict[str, LogitCounts]) -> dict[str, Platt]:
    """Person → a calibration that was fitted without the person: on four of five groups of persons."""
    persons = sorted(counts)
    if len(persons) < 2:
        raise ValueError("calibration needs at least two persons, to be tested on others than it was fitted on.")
    group_of = {person: number % GROUPS for number, person in enumerate(persons)}
    fits = {
        group: fit_platt(counts[person] for person in persons if group_of[person] != group)
        for group in set(group_of.values())
    }
    return {person: fits[group] for person, group in group_of.items()}


def take_over(calibrated_dir: str | Path, output_dir: Path) -> None:
    """Give a model that was trained on everybody what is known of the same recipe from a fold.

    The calibration goes into its head. The evaluation comes to lie beside it, and names the weights that it stands for:
    nobody is left on whom these could be scored themselves.
    """
    fold_into_head(read_calibration(calibrated_dir), output_dir, output_dir)
    path = Path(calibrated_dir) / EVALUATION_FILE
    if path.is_file():
        write_evaluation(output_dir / EVALUATION_FILE, {**read_json(path), STANDS_FOR: weights_hash(output_dir)})
