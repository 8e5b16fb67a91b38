"""`python -m train evaluate`: score a model on the persons of one fold, on the route that its users take.

Every slice goes through `TumorSegmenter` from file to mask and is compared with the true mask at native resolution.
"""

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from modeling_unet import TumorSegmenter, read_mask
from modeling_unet.segmenter import DEFAULT_THRESHOLD

from .data import load_slices, split_fold
from .files import write_json
from .metrics import Overlap, summarize


logger = logging.getLogger(__name__)


@dataclass
class EvaluateArguments:
    """What to score, and on what."""

    model: str = field(metadata={"help": "Model folder or Hub id."})
    data_dir: str = field(metadata={"help": "Folder with images/ and masks/ (stems pair up)."})
    fold: int = field(metadata={"help": "The fold whose persons are scored."})
    persons: str | None = field(
        default=None, metadata={"help": "CSV file with the columns slice and person_id, for data of your own."}
    )
    output: str | None = field(
        default=None, metadata={"help": "JSON file to write, the score of every slice included."}
    )
    batch_size: int = field(default=16, metadata={"help": "Slices that go through the network together."})
    device: str = field(default="auto", metadata={"help": "auto, cuda, mps or cpu."})


def evaluate(arguments: EvaluateArguments) -> dict:
    """Score, print a table, and write `arguments.output` if it is given.

    Returns:
        `all` and `by_tumor_type`: figures as `metrics.summarize` names them; `per_slice`: one row per slice.
    """
    _warn_if_trained_on(arguments)
    slices = load_slices(arguments.data_dir, arguments.persons)
    _, scored = split_fold(slices, arguments.fold)
    segmenter = TumorSegmenter.from_pretrained(arguments.model, device=arguments.device)
    segmentations = segmenter.batch(scored["image"], batch_size=arguments.batch_size)
    overlaps = [
        Overlap.of(segmentation.mask, read_mask(mask))
        for segmentation, mask in tqdm(
            zip(segmentations, scored["mask"], strict=True), total=len(scored), desc="Scoring", unit="slice"
        )
    ]
    report = {
        "model": str(arguments.model),
        "fold": arguments.fold,
        "resolution": "native",
        "threshold": DEFAULT_THRESHOLD,
        **_figures(overlaps, scored["person_id"], scored["tumor_type"]),
        "per_slice": [
            {"slice": name, "person_id": person, "tumor_type": tumor_type, **asdict(overlap), "dice": overlap.dice}
            for name, person, tumor_type, overlap in zip(
                scored["slice"], scored["person_id"], scored["tumor_type"], overlaps, strict=True
            )
        ],
    }
    print(format_table(report))
    if arguments.output:
        write_json(Path(arguments.output), report)
    return report


def format_table(report: dict) -> str:
    """The figures of a report as a Markdown table: a row for all slices and one per tumour type."""
    columns = ["slice_dice", "person_dice", "pooled_dice", "slice_iou"]
    header = ["", "slices", "persons", "slice_dice", "95 % interval", *columns[1:], "zero_dice_rate"]
    rows = [header, ["---"] * len(header)]
    for name, figures in {"all": report["all"], **report["by_tumor_type"]}.items():
        dice, *others = (f"{figures[column]:.4f}" for column in columns)
        interval = "{:.3f}–{:.3f}".format(*figures["slice_dice_interval"])
        zero = f"{100 * figures['zero_dice_rate']:.1f} %"
        rows.append([name, str(figures["slices"]), str(figures["persons"]), dice, interval, *others, zero])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _figures(overlaps: list[Overlap], persons: list[str], tumor_types: list[str]) -> dict[str, dict]:
    by_type = {}
    for tumor_type in sorted(set(tumor_types)):
        chosen = [index for index, other in enumerate(tumor_types) if other == tumor_type]
        by_type[tumor_type] = summarize([overlaps[i] for i in chosen], [persons[i] for i in chosen])
    return {"all": summarize(overlaps, persons), "by_tumor_type": by_type}


def _warn_if_trained_on(arguments: EvaluateArguments) -> None:
    """The record beside the weights says which fold was held out; any other fold was trained on."""
    record = Path(arguments.model) / "training.json"
    if record.is_file():
        held_out = json.loads(record.read_text()).get("fold")
        if held_out not in (None, arguments.fold):
            logger.warning(
                "THIS MODEL WAS TRAINED ON FOLD %d (it held out fold %d): these figures say nothing about new people.",
                arguments.fold,
                held_out,
            )
