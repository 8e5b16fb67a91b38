"""`python -m train evaluate`: score a model on people it was not trained on, on the route that its users take.

    python -m train evaluate --data_dir DATA --model RUN --fold 0
    python -m train evaluate --data_dir DATA --model RUN0 RUN1 … --fold 0 1 …
    python -m train evaluate --data_dir DATA_OF_ANOTHER_HOSPITAL --model RUN

    slice ─ TumorSegmenter ─→ probability ┐
    true mask ────────────────────────────┴─ score_slice ─→ one row per slice ─ figures_of ─→ tables, FILE.json

Every slice goes from file to mask and is compared with the true mask at native resolution. The network computes in
float32 as it was saved, not by the faster copy of `optimize="auto"`, so that figures do not depend on the machine.
Pictures of the result, and comparisons of several, are drawn from FILE.json by `python -m train report`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from modeling_unet import TumorSegmenter, read_mask
from modeling_unet.comparison import Overlap
from modeling_unet.image_processing_unet import IMAGE_SUFFIXES
from modeling_unet.provenance import weights_hash
from modeling_unet.segmentation import DEFAULT_THRESHOLD, Segmentation
from modeling_unet.segmenter import QUALITIES
from modeling_unet.surface import hd95, nsd, surface_distances

from ..data.folds import KNOWN_SPLITS, split_fold
from ..data.masks import read_bits, to_planes
from ..data.raw import DataError, as_file, image_files
from ..data.slices import DataArguments, content_hash, load_slices
from ..files import check_writable
from ..record import ALL_PERSONS, CLASSES, is_seen_in_training, read_record, write_evaluation
from .aggregate import figures_of
from .metrics import LesionCounts
from .reliability import Reliability, threshold_dice
from .tables import SPREAD_OVER_FOLDS, format_table


Data = TypeVar("Data", bound=DataArguments)
ROW_COLUMNS = ("slice", "person_id", "tumor_type", "plane")
# BIDS names begin with the subject, and a folder of several data sets with what tells their subjects apart.
NEGATIVES_PERSON_PATTERN = r".*?sub-[0-9A-Za-z]+"
LEAST_DOUBT = 2.0**-26  # stands for 1 - 1, and lies below what float32 has next to 1


@dataclass(kw_only=True)
class ScoringArguments(DataArguments):
    """How slices are scored, and which ones without tumour besides."""

    negatives: str | None = field(
        default=None,
        metadata={"help": "Folder of slices without tumour, sub-folders included: how often is one reported there?"},
    )
    negatives_person_pattern: str = field(
        default=NEGATIVES_PERSON_PATTERN,
        metadata={
            "help": "Regular expression for the beginning of their file names that says whose slice it is, by default "
            "up to BIDS' sub-XX; a file that it does not fit counts as a person of its own."
        },
    )
    batch_size: int = field(default=16, metadata={"help": "Slices that go through the network together."})
    device: str = field(default="auto", metadata={"help": "auto, cuda, mps or cpu."})

    def __post_init__(self):
        super().__post_init__()
        try:
            re.compile(self.negatives_person_pattern)
        except re.error as error:
            raise ValueError(
                f"--negatives_person_pattern {self.negatives_person_pattern} is not a regular expression: {error}."
            ) from error


@dataclass(kw_only=True)
class EvaluateArguments(ScoringArguments):
    """What to score, and on what."""

    model: list[str] = field(
        metadata={"help": "Model folder or Hub id; or several of one recipe, one for each fold, scored together."}
    )
    fold: list[int] | None = field(
        default=None,
        metadata={
            "help": "The fold whose persons are scored, of as many as the model was trained with; of several models, "
            "that of each."
        },
    )
    split: str | None = field(
        default=None,
        metadata={"help": "The slices that the data set marks so are scored, e.g. test.", "choices": KNOWN_SPLITS},
    )
    all_persons: bool = field(
        default=False, metadata={"help": "Score every slice, even if the model was trained on some of them."}
    )
    quality: str = field(
        default="fast",
        metadata={"help": "fast looks at a slice once, best also mirrored and in three sizes.", "choices": QUALITIES},
    )
    output: str | None = field(
        default=None, metadata={"help": "JSON file to write, the score of every slice included; see report."}
    )

    def __post_init__(self):
        super().__post_init__()
        if (self.fold is not None) + (self.split is not None) + self.all_persons > 1:
            raise ValueError(
                "Give one of --fold K, the fold that the training left out, --all_persons to score every slice, and "
                "--split test to score those that are marked so; or none, to score every slice of data that the model "
                "has not seen."
            )
        if len(self.model) > 1 or (self.fold is not None and len(self.fold) > 1):
            check_folds_of(self.model, self.fold or [])
        if self.output is not None and Path(self.output).is_dir():
            raise ValueError(f"--output {self.output} is a folder; name a file in it.")

    @property
    def is_open(self) -> bool:
        """Whether nothing is said of which slices to score: every one, if the model has seen none."""
        return self.fold is None and self.split is None and not self.all_persons


def evaluate(arguments: EvaluateArguments) -> dict:
    """Score, print the tables, and write `arguments.output` if it is given.

    Returns:
        What was scored: `model`, `weights_sha256`, `fold` (a number, a split, or `ALL_PERSONS`), `seen_in_training`
        (None if the model does not say what it was trained on), `quality`, `slices_sha256`, `resolution`, `threshold`;
        the figures of `aggregate.figures_of`; and `per_slice` and `per_negative`, one row for each slice, from which
        those follow. Of several models, as `put_together`.

    Raises:
        DataError: the data set cannot be scored.
        ValueError, OSError: the model or a slice cannot be read, or the model was trained with other folds.
    """
    if arguments.output:
        check_writable(Path(arguments.output), "--output")
    negatives = find_negatives(Path(arguments.negatives)) if arguments.negatives else []
    reports = [_score(opened, negatives, arguments) for opened in _open(arguments)]
    report = reports[0] if len(reports) == 1 else put_together(reports, ", ".join(arguments.model))
    print(format_table(report))
    if arguments.output:
        write_evaluation(Path(arguments.output), report)
    return report


def check_folds_of(models: Sequence[str], folds: Sequence[int]) -> None:
    """Raise ValueError unless every model has a fold, and every fold one model."""
    if len(models) != len(folds) or len(set(folds)) < len(folds):
        raise ValueError("--model and --fold belong together, each fold once: give as many of the one as of the other.")


@dataclass(frozen=True)
class Opened:
    """A model, and the slices that it is to be scored on.

    Attributes:
        model: folder or Hub id.
        fold: a number, a split, or `ALL_PERSONS`.
        slices: those of it.
        seen_in_training: None where the model does not say.
        segmenter: the model.
    """

    model: str
    fold: int | str | None
    slices: Dataset
    seen_in_training: bool | None
    segmenter: TumorSegmenter


def _open(arguments: EvaluateArguments) -> list[Opened]:
    # The figures are of the network alone: every slice is taken whole.
    how = {"device": arguments.device, "optimize": "none", "quality": arguments.quality, "framing": "none"}
    segmenters = [TumorSegmenter.from_pretrained(model, **how) for model in arguments.model]
    for model, segmenter in zip(arguments.model, segmenters, strict=True):
        arguments = with_model(arguments, model, segmenter)
    opened = []
    for model, segmenter, (fold, slices) in zip(arguments.model, segmenters, _choose(arguments), strict=True):
        seen_in_training = is_seen_in_training(model, slices)
        if arguments.is_open and seen_in_training:
            raise ValueError(
                f"--model {model} was trained on some of these slices; give --fold K, the fold that it left out, "
                "or --all_persons to score every slice all the same."
            )
        opened.append(Opened(model, fold, slices, seen_in_training, segmenter))
    return opened


def _score(opened: Opened, negatives: list[Path], arguments: EvaluateArguments) -> dict:
    """The report of one model."""
    segmenter, slices = opened.segmenter, opened.slices
    # The fold's slices are checked already and the negatives are not: errors in them should show first.
    per_negative = score_negatives(
        segmenter, negatives, re.compile(arguments.negatives_person_pattern), arguments.batch_size
    )
    if len(segmenter.class_names) > 1:
        per_slice = score_classes(segment_slices(segmenter, slices, arguments.batch_size), slices)
    else:
        per_slice = score_fold(segment_fold(segmenter, slices, arguments.batch_size), slices)
    return {
        "model": opened.model,
        "fold": opened.fold,
        "weights_sha256": weights_hash(opened.model),
        "seen_in_training": opened.seen_in_training,
        "quality": arguments.quality,
        **report_of(slices, per_slice, per_negative),
    }


def _choose(arguments: EvaluateArguments) -> list[tuple[int | str | None, Dataset]]:
    """What each model is scored on, by its name and its slices."""
    if arguments.fold is not None:
        slices = load_slices(with_folds_of(arguments, {model: read_record(model) for model in arguments.model}))
        return [(fold, split_fold(slices, fold)[1]) for fold in arguments.fold]
    slices = load_slices(arguments, without_folds=True)
    if arguments.all_persons or arguments.is_open:
        return [(ALL_PERSONS, slices)]
    return [(arguments.split, marked_slices(slices, str(arguments.split), arguments.data_dir))]


def marked_slices(slices: Dataset, split: str, data_dir: str) -> Dataset:
    """The slices that a data set marks as a split; raises DataError if there are none."""
    marked = slices.select([index for index, own in enumerate(slices["split"]) if own == split])
    if not len(marked):
        raise DataError(f"--split is {split}, and no slice of {data_dir} is marked so.")
    return marked


def with_folds_of(arguments: Data, records: dict[str, dict]) -> Data:
    """The arguments, completed by the folds that the models were trained with.

    Args:
        arguments: of any command.
        records: model → what lies beside it about its training; one that was trained on all folds has left none out.

    Raises:
        ValueError: the arguments, or the models among each other, say different things.
    """
    for name, plain in (("num_folds", None), ("official_folds", False)):
        of_folds = {model: record for model, record in records.items() if record.get("fold") is not None}
        trained_with = {model: record[name] for model, record in of_folds.items() if name in record}
        if trained_with and getattr(arguments, name) == plain:
            arguments = replace(arguments, **{name: next(iter(trained_with.values()))})
        for model, value in trained_with.items():
            if (value_here := getattr(arguments, name)) != value:
                here = "not given" if value_here == plain else value_here
                there = "without it" if value == plain else f"with {value}"
                raise ValueError(
                    f"--{name} is {here}, and {model} was trained {there}, so its folds are others; leave --{name} "
                    "out, or score every slice by evaluate --all_persons."
                )
    return arguments


def with_model(arguments: Data, model: str, segmenter: TumorSegmenter) -> Data:
    """The arguments, completed by the classes and the channels of a model; raises as `with_classes_of`."""
    arguments = with_classes_of(arguments, model, segmenter.class_names)
    return with_channels_of(arguments, model, segmenter.channel_names)


def with_channels_of(arguments: Data, model: str, channel_names: Sequence[str]) -> Data:
    """The arguments, completed by the sequences that the model takes as its channels.

    Args:
        arguments: of any command; the sequences of other data may have other names.
        model: folder or Hub id.
        channel_names: of the model; none of one that takes grey slices.

    Raises:
        ValueError: the arguments name another number of sequences.
    """
    if channel_names and not arguments.sequences:
        return replace(arguments, sequences=list(channel_names))
    if len(given := arguments.sequences or ()) != len(channel_names):
        takes = f"{len(channel_names)} ({', '.join(channel_names)})" if channel_names else "one"
        raise ValueError(f"--sequences is {' '.join(given)}, and {model} takes {takes}; leave it out.")
    return arguments


def with_classes_of(arguments: Data, model: str, class_names: Sequence[str]) -> Data:
    """The arguments, completed by the classes that the model was trained with.

    Args:
        arguments: of any command.
        model: folder or Hub id.
        class_names: of the model.

    Raises:
        ValueError: the arguments and the model say different things, or neither says which values a class has.
    """
    trained_with = read_record(model).get(CLASSES)
    if len(class_names) == 1:
        if arguments.classes:
            raise ValueError(f"--classes is given, and {model} knows one class ({class_names[0]}); leave it out.")
        return arguments
    if not arguments.classes and not trained_with:
        raise ValueError(
            f"{model} tells {', '.join(class_names)} apart; say which values of the masks these have, by --classes "
            f"{class_names[0]}=VALUE …."
        )
    arguments = arguments if arguments.classes else replace(arguments, classes=trained_with)
    classes = arguments.tumor_classes()
    if classes is None or classes.names != tuple(class_names):
        raise ValueError(
            f"--classes is {' '.join(arguments.classes or ())}, and {model} tells {', '.join(class_names)} apart, in "
            "this order; leave it out."
        )
    return arguments


def report_of(scored: Dataset, per_slice: list[dict], per_negative: list[dict]) -> dict:
    """The part of a report that follows from the scores alone, not from the model."""
    return {
        "slices_sha256": content_hash(scored),
        "resolution": "native",
        "threshold": DEFAULT_THRESHOLD,
        **figures_of(per_slice, per_negative),
        "per_slice": per_slice,
        "per_negative": per_negative,
    }


def put_together(reports: Sequence[dict], model: str) -> dict:
    """One report on the slices of several folds, each scored by a model of its own that was trained without it.

    Returns:
        As `evaluate`, but `fold` is a list, `by_fold` and `over_folds` hold some figures of each and their spread, and
        every slice without tumour counts once for each model.
    """
    seen = [report["seen_in_training"] for report in reports]
    per_slice = [row for report in reports for row in report["per_slice"]]
    per_negative = [{**row, "fold": report["fold"]} for report in reports for row in report["per_negative"]]
    by_fold = [
        {"fold": report["fold"], **{name: report["all"][name] for name in ("slices", "persons", *SPREAD_OVER_FOLDS)}}
        for report in reports
    ]
    return {
        "model": model,
        "fold": [report["fold"] for report in reports],
        "seen_in_training": any(seen) if None not in seen else None,
        "resolution": reports[0]["resolution"],
        "threshold": reports[0]["threshold"],
        **figures_of(per_slice, per_negative),
        "by_fold": by_fold,
        "over_folds": {name: _spread([figures[name] for figures in by_fold]) for name in SPREAD_OVER_FOLDS},
        "per_slice": per_slice,
        "per_negative": per_negative,
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "standard_deviation": float(np.std(values, ddof=1))}


# ----------------------------------------------------------------------------------------------------------------- rows


def segment_slices(segmenter: TumorSegmenter, slices: Dataset, batch_size: int) -> Iterator[Segmentation]:
    """What is found on slices, from their files and in their order."""
    images = (as_file(row["image"]) for row in slices.select_columns(["image"]))
    return segmenter.batch(images, batch_size=batch_size)


def segment_fold(segmenter: TumorSegmenter, slices: Dataset, batch_size: int) -> Iterator[np.ndarray]:
    """The tumour's probabilities on slices, as `segment_slices` finds them: float32 [H, W] each."""
    return (segmentation.probability for segmentation in segment_slices(segmenter, slices, batch_size))


def score_fold(probabilities: Iterable[np.ndarray], slices: Dataset) -> list[dict]:
    """Compare the probabilities on every slice with its mask; one row per slice, see `score_slice`."""
    slices = slices.select_columns(["mask", *ROW_COLUMNS])
    pairs = tqdm(zip(probabilities, slices, strict=True), total=len(slices), desc="Scoring", unit="slice")
    return [
        {
            **{name: row[name] for name in ROW_COLUMNS},
            **score_slice(probability, read_mask(as_file(row["mask"]))),
        }
        for probability, row in pairs
    ]


def score_classes(segmentations: Iterable[Segmentation], slices: Dataset) -> list[dict]:
    """As `score_fold`, all classes as one; under `classes`, by name, what `score_slice` says of each."""
    slices = slices.select_columns(["mask", *ROW_COLUMNS])
    pairs = tqdm(zip(segmentations, slices, strict=True), total=len(slices), desc="Scoring", unit="slice")
    rows = []
    for segmentation, row in pairs:
        planes = to_planes(read_bits(as_file(row["mask"])), len(segmentation.classes)) > 0
        rows.append(
            {
                **{name: row[name] for name in ROW_COLUMNS},
                **score_slice(segmentation.probability, np.logical_or.reduce(planes)),
                "classes": {
                    one.name: score_slice(probability, true, one.mask)
                    for one, probability, true in zip(
                        segmentation.classes, probabilities_among(segmentation), planes, strict=True
                    )
                },
            }
        )
    return rows


def probabilities_among(segmentation: Segmentation) -> np.ndarray:
    """Of every class, float32 [K, H, W]: each by itself if they overlap, otherwise among all of them (softmax)."""
    own = segmentation.class_probabilities
    assert own is not None  # the model has several
    if segmentation.classes_overlap:
        return own
    exact = own.astype(np.float64)
    odds = exact / np.maximum(1 - exact, LEAST_DOUBT)
    return (odds / (1 + odds.sum(axis=0))).astype(np.float32)


def score_negatives(
    segmenter: TumorSegmenter, paths: Iterable[Path], person_pattern: re.Pattern, batch_size: int
) -> list[dict]:
    """Segment slices without tumour; one row for each: `slice`, `person_id` and what was found.

    Args:
        paths: slices; see `find_negatives`.
        person_pattern: the beginning of a file name that fits it is the person; else every slice is a person.
    """
    paths = list(paths)
    segmentations = segmenter.batch(paths, batch_size=batch_size)
    pairs = tqdm(
        zip(segmentations, paths, strict=True),
        total=len(paths),
        desc="Scoring slices without tumour",
        unit="slice",
        disable=not paths,
    )
    return [
        {
            "slice": path.stem,
            "person_id": match[0] if (match := person_pattern.match(path.stem)) else path.stem,
            "predicted": segmentation.area_px,
            "true": 0,
            "lesions": asdict(LesionCounts.of(segmentation.mask, np.zeros_like(segmentation.mask))),
        }
        for segmentation, path in pairs
    ]


def find_negatives(folder: Path) -> list[Path]:
    """The images in a folder and its sub-folders, in order of their paths; raises ValueError if there are none."""
    if not folder.is_dir():
        raise ValueError(f"--negatives {folder} is not there, or no folder.")
    paths = image_files(folder, "**/*")
    if not paths:
        raise ValueError(f"--negatives {folder} holds no images; accepted are {', '.join(IMAGE_SUFFIXES)}.")
    return paths


def score_slice(probability: np.ndarray, true: np.ndarray, mask: np.ndarray | None = None) -> dict:
    """Everything that a slice contributes to a figure.

    Args:
        probability: of tumour, float32 [H, W], at the slice's own size.
        true: bool [H, W].
        mask: bool [H, W]; None for what lies above the threshold. A class is not there where another one is likelier.

    Returns:
        `height` and `width`; `intersection`, `predicted` and `true` in px; `dice`, `nsd` and `hd95` (px; None if
        undefined); `lesions` and `reliability`, the fields of `LesionCounts` and `Reliability`; `threshold_dice` at
        `reliability.THRESHOLDS`.
    """
    mask = probability > DEFAULT_THRESHOLD if mask is None else mask
    overlap, distances = Overlap.of(mask, true), surface_distances(mask, true)
    height, width = true.shape
    return {
        "height": height,
        "width": width,
        **asdict(overlap),
        "dice": overlap.dice,
        "nsd": nsd(distances, true.shape),
        "hd95": hd95(distances),
        "lesions": asdict(LesionCounts.of(mask, true)),
        "reliability": asdict(Reliability.of(probability, true)),
        "threshold_dice": [round(dice, 6) for dice in threshold_dice(probability, true)],
    }


# ----------------------------------------------------------------------------------------------------------------- file
