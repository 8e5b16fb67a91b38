"""`python -m train calibrate`: make a trained model's probabilities match frequencies; its users need to do nothing.

    python -m train calibrate --data_dir DATA --model RUN --fold 0 --output_dir CALIBRATED
    python -m train calibrate --data_dir DATA --model RUN0 RUN1 … --fold 0 1 … --output_dir CALIBRATED

    slices of the fold ─ network ─→ logits of every person ─ fit_platt ─→ Platt ─ fold into the head ─→ CALIBRATED
                                    └ without a fifth of the persons ─ fit_platt ─ score that fifth ─→ evaluation.json

The network sees every slice once: while scale and shift are fitted, its probabilities wait on the disk of CALIBRATED, 1
MiB for a slice of 512 × 512 pixels.

The scores in `CALIBRATED/evaluation.json` are cross-fitted: nobody's slices took part in the fit that they are scored
with. They may differ a little from those that `evaluate` gives for CALIBRATED, whose fit saw all of them.

Of classes that overlap each has a scale and a shift of its own, fitted in and around its regions. Classes that do not
overlap share one pair, fitted on tumour of any class, so that a pixel's label stays what it was.

Several models of one recipe, each with the fold that it left out, get one calibration, from the logits of all folds
together: the one for a model that is trained on everybody. They go to `CALIBRATED/fold-K`.

Beside the weights goes what slices the model knows (`familiarity.py`). A model that was trained on everybody, whose
calibration comes from others, gets that alone:

    python -m train calibrate --only_familiarity --data_dir DATA --model MODEL --fold 4 --output_dir MODEL
"""

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from modeling_unet import TumorSegmenter
from modeling_unet.familiarity import FAMILIARITY_FILE
from modeling_unet.provenance import weights_hash
from modeling_unet.segmentation import Segmentation

from ..data.folds import split_fold
from ..data.masks import read_bits, to_planes
from ..data.raw import as_file
from ..data.slices import load_slices
from ..files import check_writable, scratch_file, write_json
from ..fitting.calibrated import Calibration, fold_into_head
from ..record import (
    CALIBRATION,
    EVALUATION_FILE,
    RECORD_FILE,
    is_seen_in_training,
    read_record,
    write_evaluation,
)
from .evaluation import (
    ScoringArguments,
    check_folds_of,
    find_negatives,
    put_together,
    report_of,
    score_classes,
    score_fold,
    score_negatives,
    segment_slices,
    with_folds_of,
    with_model,
)
from .familiarity import fit_familiarity
from .platt import LogitCounts, fit_platt
from .tables import format_table


logger = logging.getLogger(__name__)

GROUPS = 5  # of persons, one of which is left out of each fit


@dataclass(kw_only=True)
class CalibrateArguments(ScoringArguments):
    """What to calibrate, on what, and where the result goes."""

    model: list[str] = field(
        metadata={"help": "Model folder or Hub id, not calibrated yet; or several of one recipe, one for each fold."}
    )
    fold: list[int] = field(metadata={"help": "The fold that the training left out; of several models, that of each."})
    output_dir: str = field(metadata={"help": "Folder for the calibrated model, or for fold-K/, and its evaluation."})
    only_familiarity: bool = field(
        default=False,
        metadata={
            "help": "Calibrate nothing: write into --output_dir, the folder of the one --model, which pictures it "
            "knows. It may have seen the persons of --fold, and may be calibrated already."
        },
    )

    def __post_init__(self):
        check_folds_of(self.model, self.fold)
        if self.only_familiarity and list(map(Path, self.model)) != [Path(self.output_dir)]:
            raise ValueError("--only_familiarity writes into the folder of one --model: give that as --output_dir.")
        super().__post_init__()


@dataclass(frozen=True)
class HeldOut:
    """A model, and the fold that its training left out.

    Attributes:
        model: folder or Hub id.
        record: what lies beside it about its training.
        fold: number of the fold.
        slices: those of the fold.
        everything: those of all folds.
        seen_in_training: False, or None where the record does not say.
        segmenter: the model, not calibrated.
        folder: where the calibrated one goes.
    """

    model: str
    record: dict
    fold: int
    slices: Dataset
    everything: Dataset
    seen_in_training: bool | None
    segmenter: TumorSegmenter
    folder: Path


def calibrate(arguments: CalibrateArguments) -> dict:
    """Fit, write each calibrated model with its cross-fitted evaluation to its folder, print the tables.

    Returns:
        The report, as `evaluate` returns it; of several models, as `evaluate.put_together` does.

    Raises:
        DataError: the data set cannot be scored.
        ValueError: a model was trained on these persons or with other folds, is calibrated already, or cannot be
            calibrated.
        OSError: a model or a slice cannot be read.
    """
    output_dir = Path(arguments.output_dir)
    check_writable(output_dir / RECORD_FILE, "--output_dir")
    negatives = find_negatives(Path(arguments.negatives)) if arguments.negatives else []
    held_out = _open(arguments)
    names = _calibrated_apart(held_out[0].segmenter)
    counts: dict[str, tuple[LogitCounts, ...]] = {}
    with scratch_file(output_dir / RECORD_FILE) as kept:
        for part in held_out:
            found = segment_slices(part.segmenter, part.slices, arguments.batch_size)
            counts |= count_logits(_keep(map(probabilities_of, found), kept), part.slices, len(names) or 1)
        calibration = fit_calibration(counts.values(), names)
        for platt, name in zip(calibration.platts, names or ("",), strict=True):
            logger.info("Calibration%s: logit × %.3f %+.3f.", f" of {name}" if name else "", platt.scale, platt.shift)
        crossed = cross_fit(counts, names)
        kept.seek(0)
        reports = [_score(part, kept, calibration, crossed, negatives, arguments) for part in held_out]
    report = reports[0]
    if len(reports) > 1:
        report = {**put_together(reports, str(output_dir)), "calibration_groups": GROUPS}
        write_json(output_dir / RECORD_FILE, {CALIBRATION: calibration.to_record()})
        write_evaluation(output_dir / EVALUATION_FILE, report)
    print(format_table(report))
    return report


def teach_familiarity(arguments: CalibrateArguments) -> None:
    """Write what slices a model knows into its folder, and change nothing else.

    Raises:
        DataError, ValueError, OSError: as `fit_familiarity`, and where the model or the data set cannot be read.
    """
    (model,), (fold,) = arguments.model, arguments.fold
    check_writable(Path(model, FAMILIARITY_FILE), "--output_dir")
    segmenter = TumorSegmenter.from_pretrained(model, device=arguments.device, optimize="none", framing="none")
    arguments = with_model(arguments, model, segmenter)
    slices = load_slices(with_folds_of(arguments, {model: read_record(model)}))
    fit_familiarity(model, segmenter, slices, fold)


def _open(arguments: CalibrateArguments) -> list[HeldOut]:
    records = [read_record(model) for model in arguments.model]
    for model, record in zip(arguments.model, records, strict=True):
        if CALIBRATION in record:
            raise ValueError(f"--model {model} is calibrated already.")
    segmenters = [
        TumorSegmenter.from_pretrained(model, device=arguments.device, optimize="none", framing="none")
        for model in arguments.model
    ]
    for model, segmenter in zip(arguments.model, segmenters, strict=True):
        arguments = with_model(arguments, model, segmenter)
        if _calibrated_apart(segmenter) != _calibrated_apart(segmenters[0]):
            raise ValueError(
                f"--model {model} and {arguments.model[0]} tell other classes apart; calibrate each alone."
            )
    everything = load_slices(with_folds_of(arguments, dict(zip(arguments.model, records, strict=True))))
    held_out = []
    for model, record, segmenter, fold in zip(arguments.model, records, segmenters, arguments.fold, strict=True):
        _, slices = split_fold(everything, fold)
        seen = is_seen_in_training(model, slices)
        if seen:
            raise ValueError(f"--model {model} was trained on persons of fold {fold}; give the fold it left out.")
        folder = Path(arguments.output_dir, *([f"fold-{fold}"] if len(segmenters) > 1 else []))
        held_out.append(HeldOut(model, record, fold, slices, everything, seen, segmenter, folder))
    return held_out


def _keep(probabilities: Iterable[np.ndarray], kept: BinaryIO) -> Iterator[np.ndarray]:
    """The same, each of them written to a file before it is handed on; `np.load` reads them one by one."""
    for probability in probabilities:
        try:
            np.save(kept, probability)
            kept.flush()
        except OSError as error:
            raise OSError(f"the disk of --output_dir does not hold the probabilities: {error.strerror}.") from error
        yield probability


def _score(
    part: HeldOut,
    kept: BinaryIO,
    calibration: Calibration,
    crossed: dict[str, Calibration],
    negatives: list[Path],
    arguments: CalibrateArguments,
) -> dict:
    """Write the calibrated model, and its report with every person's slices by the calibration that left them out."""
    calibrated = (crossed[person].of_probability(np.load(kept)) for person in part.slices["person_id"])
    if len(part.segmenter.class_names) > 1:
        per_slice = score_classes((_with_classes(part.segmenter, own) for own in calibrated), part.slices)
    else:
        per_slice = score_fold(calibrated, part.slices)
    fold_into_head(calibration, part.model, part.folder)
    write_json(part.folder / RECORD_FILE, {**part.record, CALIBRATION: calibration.to_record()})
    segmenter = TumorSegmenter.from_pretrained(part.folder, device=arguments.device, optimize="none", framing="none")
    fit_familiarity(part.folder, segmenter, part.everything, part.fold)
    per_negative = score_negatives(
        segmenter,
        negatives,
        re.compile(arguments.negatives_person_pattern),
        arguments.batch_size,
    )
    report = {
        "model": str(part.folder),
        "fold": part.fold,
        "weights_sha256": weights_hash(part.folder),
        "seen_in_training": part.seen_in_training,
        "calibration_groups": GROUPS,
        **report_of(part.slices, per_slice, per_negative),
    }
    write_evaluation(part.folder / EVALUATION_FILE, report)
    return report


def probabilities_of(segmentation: Segmentation) -> np.ndarray:
    """Those of the tumour, float32 [H, W], or of several classes, [K, H, W]."""
    own = segmentation.class_probabilities
    return segmentation.probability if own is None else own


def count_logits(
    probabilities: Iterable[np.ndarray], slices: Dataset, count: int = 1
) -> dict[str, tuple[LogitCounts, ...]]:
    """Person → the logits of the pixels in and around that person's tumours; or those of each class, in and around it.

    Args:
        probabilities: of every slice, as `probabilities_of` gives them.
        slices: whose masks say what is true.
        count: of classes that are calibrated each by itself; with 1, several count as one, of their likeliest's logit.
    """
    counts: dict[str, tuple[LogitCounts, ...]] = defaultdict(lambda: tuple(LogitCounts() for _ in range(count)))
    pairs = zip(probabilities, slices.select_columns(["mask", "person_id"]), strict=True)
    for probability, row in tqdm(pairs, total=len(slices), desc="Counting logits", unit="slice"):
        bits = read_bits(as_file(row["mask"]))
        if count == 1:
            probability = probability[None] if probability.ndim == 2 else probability.max(axis=0, keepdims=True)
            bits = (bits > 0).astype(np.uint8)
        for own, found, true in zip(counts[row["person_id"]], probability, to_planes(bits, count) > 0, strict=True):
            own.add(found, true)
    return dict(counts)


def fit_calibration(parts: Iterable[Sequence[LogitCounts]], names: Sequence[str] = ()) -> Calibration:
    """That of all parts together.

    Raises:
        ValueError: as `fit_platt`; the message names the class.
    """
    platts = []
    for name, of_class in zip(names or ("",), zip(*parts, strict=True), strict=True):
        try:
            platts.append(fit_platt(of_class))
        except ValueError as error:
            raise ValueError(f"{name}: {error}" if name else str(error)) from error
    return Calibration(tuple(platts), tuple(names))


def cross_fit(counts: dict[str, tuple[LogitCounts, ...]], names: Sequence[str] = ()) -> dict[str, Calibration]:
    """Person → a calibration that was fitted without the person: on four of five groups of persons."""
    persons = sorted(counts)
    if len(persons) < 2:
        raise ValueError("A calibration needs at least two persons, to be tested on others than it was fitted on.")
    group_of = {person: number % GROUPS for number, person in enumerate(persons)}
    fits = {
        group: fit_calibration([counts[person] for person in persons if group_of[person] != group], names)
        for group in set(group_of.values())
    }
    return {person: fits[group] for person, group in group_of.items()}


def _calibrated_apart(segmenter: TumorSegmenter) -> tuple[str, ...]:
    """The classes of a model whose logits are calibrated each by itself; none where all share one calibration."""
    return segmenter.class_names if segmenter.model.config.classes_overlap else ()


def _with_classes(segmenter: TumorSegmenter, probabilities: np.ndarray) -> Segmentation:
    """What a model of several classes would say of a slice if its probabilities, [K, H, W], were these."""
    return Segmentation(
        np.broadcast_to(np.uint8(0), (*probabilities.shape[1:], 3)),
        probabilities.max(axis=0),
        class_names=segmenter.class_names,
        class_probabilities=probabilities,
        classes_overlap=segmenter.model.config.classes_overlap,
    )
