"""`python -m train compare`: two models on the same slices, and whether one is better than the other.

    python -m train compare A B --data_dir DATA --fold 0

    slice ─ A ─→ row ┐
          └ B ─→ row ┴─ differences ─→ B minus A, of all slices and each tumour type, with intervals over persons

Two numbers, 0.83 and 0.84, do not say whether the second model is better. The slices are the same for both, and what is
difficult for one is mostly difficult for the other: the difference on each is far less scattered than the scores.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset

from modeling_unet import TumorSegmenter
from modeling_unet.provenance import weights_hash
from modeling_unet.segmenter import QUALITIES

from ..data.folds import KNOWN_SPLITS, UNKNOWN, split_fold
from ..data.slices import content_hash, load_slices
from ..files import check_writable, write_json
from ..record import read_record, seen_slices
from .evaluation import ScoringArguments, marked_slices, score_fold, segment_fold, with_channels_of, with_folds_of
from .report import describe_intervals, differences
from .tables import comparison_table


@dataclass(kw_only=True)
class CompareArguments(ScoringArguments):
    """What to compare two models on."""

    fold: int | None = field(
        default=None,
        metadata={"help": "Compare on the persons of this fold, of as many folds as the first model was trained with."},
    )
    split: str | None = field(
        default=None,
        metadata={"help": "Compare on the slices that the data set marks so, e.g. test.", "choices": KNOWN_SPLITS},
    )
    quality: str = field(
        default="fast",
        metadata={"help": "fast looks at a slice once, best also mirrored and in three sizes.", "choices": QUALITIES},
    )
    output: str | None = field(default=None, metadata={"help": "JSON file to write the figures and all scores to."})

    def __post_init__(self):
        super().__post_init__()
        if self.fold is not None and self.split is not None:
            raise ValueError("Give --fold K or --split NAME, not both; or none, to compare on all slices.")
        if self.classes is not None:
            raise ValueError(
                "--classes are not compared; give --tumor_labels with all of their values, to compare what is marked "
                "as tumour of any class."
            )
        if self.negatives is not None:
            raise ValueError("--negatives are not compared; score each model on them by evaluate.")
        if self.output is not None and Path(self.output).is_dir():
            raise ValueError(f"--output {self.output} is a folder; name a file in it.")


def compare_models(first: str, second: str, arguments: CompareArguments) -> dict:
    """Score both on the same slices, print the differences, and write `arguments.output` if it is given.

    Returns:
        `models` and `weights_sha256` of both; `slices_sha256`; `slices` and `persons`, how many; `seen_in_training`: of
        each model, on how many of the slices it was trained, or None if it does not say; `all` and `by_tumor_type`:
        what `report.differences` gives, `second` minus `first`; `per_slice`: the rows of both.

    Raises:
        DataError: the data set cannot be scored.
        ValueError, OSError: the models are the same, or one cannot be read.
    """
    if arguments.output:
        check_writable(Path(arguments.output), "--output")
    models = (first, second)
    hashes = [weights_hash(model) for model in models]
    if hashes[0] == hashes[1]:
        raise ValueError(f"{first} and {second} hold the same weights; there is nothing to compare.")
    how = {"device": arguments.device, "optimize": "none", "quality": arguments.quality, "framing": "none"}
    segmenters = [TumorSegmenter.from_pretrained(model, **how) for model in models]
    for model, segmenter in zip(models, segmenters, strict=True):
        arguments = with_channels_of(arguments, model, segmenter.channel_names)
    scored = _choose(first, arguments)
    rows = [score_fold(segment_fold(segmenter, scored, arguments.batch_size), scored) for segmenter in segmenters]
    seen = {model: _count_seen(model, scored) for model in models}
    result = {
        "models": list(models),
        "weights_sha256": hashes,
        "slices_sha256": content_hash(scored),
        "slices": len(scored),
        "persons": len({*scored["person_id"]}),
        "seen_in_training": list(seen.values()),
        "all": differences(*rows),
        "by_tumor_type": _by_type(*rows),
    }
    print(format_comparison(result))
    if arguments.output:
        write_json(Path(arguments.output), {**result, "per_slice": rows})
    return result


def _choose(first: str, arguments: CompareArguments) -> Dataset:
    if arguments.fold is not None:
        slices = load_slices(with_folds_of(arguments, {first: read_record(first)}))
        return split_fold(slices, arguments.fold)[1]
    slices = load_slices(arguments, without_folds=True)
    return slices if arguments.split is None else marked_slices(slices, arguments.split, arguments.data_dir)


def _count_seen(model: str, scored: Dataset) -> int | None:
    seen = seen_slices(model, scored)
    return None if seen is None else sum(seen)


def _by_type(ours: Sequence[dict], theirs: Sequence[dict]) -> dict[str, dict]:
    """Type → the differences on its slices; {} where no type is known, or all slices are of one."""
    groups = defaultdict(list)
    for pair in zip(ours, theirs, strict=True):
        groups[pair[0]["tumor_type"]].append(pair)
    if len(groups) < 2:
        return {}
    return {
        tumor_type or UNKNOWN: {
            "slices": len(pairs),
            "persons": len({row["person_id"] for row, _ in pairs}),
            "metrics": differences(*map(list, zip(*pairs, strict=True))),
        }
        for tumor_type, pairs in sorted(groups.items())
    }


def format_comparison(result: dict) -> str:
    """The tables for a terminal, and what they do not say."""
    names = ("A", "B")
    labels = [f"{name} is {model}." for name, model in zip(names, result["models"], strict=True)]
    counts = f"{result['slices']:,} slices of {result['persons']:,} persons."
    parts = [" ".join([*labels, counts])]
    parts.append(comparison_table({"persons": result["persons"], "metrics": result["all"]}, names))
    for tumor_type, group in result["by_tumor_type"].items():
        parts.append(f"{tumor_type}: {group['slices']:,} slices of {group['persons']:,} persons")
        parts.append(comparison_table(group, names))
    parts.append(describe_intervals(result["persons"]))
    for model, seen in zip(result["models"], result["seen_in_training"], strict=True):
        if seen is None:
            parts.append(f"{model} does not say what it was trained on: were these slices among it?")
        elif seen:
            parts.append(
                f"WARNING: {model} was trained on {seen:,} of these {result['slices']:,} slices; on new persons it may "
                "do worse than here."
            )
    return "\n\n".join(parts)
