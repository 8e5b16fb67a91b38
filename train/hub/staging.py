"""What is published, laid out in a folder: nothing but what belongs there, and of every file where it comes from.

model folder ─ stage_model ─→ weights, config, processor, code, card, records, pictures
prepared folder ─ stage_dataset ─→ Parquet files, card
this project ─ stage_space ─→ page, package, requirements, examples, card
this project, a model ─ stage_static_space ─→ page that runs the model in the browser, card

A name in a folder may be a link to a file that nobody meant to publish: links that leave the folder are refused.
"""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Image, Value

from modeling_unet import TumorSegmenter
from modeling_unet.familiarity import FAMILIARITY_FILE
from modeling_unet.provenance import SHIPPED_MODEL, origin, weights_hash
from modeling_unet.web import page_sources, write_page

from ..data.folds import KNOWN_SPLITS
from ..data.raw import DataError
from ..data.sources import open_source
from ..data.sources.metadata import PIXEL_COLUMNS
from ..files import read_json, save_model
from ..record import EVALUATION_FILE, RECORD_FILE, STANDS_FOR, write_evaluation
from ..scoring.report import evaluation_of
from .cards import complete_model_card, write_data_card, write_model_card, write_space_card, write_static_card


logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
MODEL_CARD = ROOT / "model_card.md"
CARD_FILE = "README.md"
PICTURES = ("curves.csv", "curves.png", "predictions.png", "failures.png")
MODEL_FILES = ("*.json", "*.safetensors", CARD_FILE, *PICTURES)
ROWS_FILE = "metadata.jsonl"
ROWS = ("per_slice", "per_negative")  # of an evaluation: names of slices and persons, which are not published
SPACE_FILES = (
    *("app.py", "space/*.py", "space/page.css", "space/parts/*.html", "space/scripts/*.js", "space/vendor/*.*"),
    *("docs/page.png", "requirements.txt", "LICENSE"),
    *(
        "modeling_unet/**/*.py",
        "modeling_unet/*.html",
        "examples/ATTRIBUTION.md",
        "examples/images/*.png",
        "examples/masks/*.png",
    ),
)
DATA_FILE = "data/{split}-{index:05d}-of-{count:05d}.parquet"
SHARD_BYTES = 500_000_000  # as `push_to_hub` of 🤗 Datasets divides
DATA_FEATURES = Features(
    {
        **dict.fromkeys(("image", "mask"), Image()),
        **dict.fromkeys(("slice", "person_id", "tumor_type", "plane", "volume"), Value("string")),
        "fold": Value("int64"),
        **dict.fromkeys(PIXEL_COLUMNS, Value("float64")),
    }
)


def real_file(folder: Path, path: Path) -> Path:
    """The file behind a name in a folder, which must lie in the folder as well; raises ValueError if it does not."""
    target = path.resolve()
    if not target.is_relative_to(folder.resolve()):
        raise ValueError(
            f"{path} is a link to {target}, which is not in {folder}; publish takes only links that stay in the folder."
        )
    return target


# ---------------------------------------------------------------------------------------------------------------- model


def stage_model(
    folder: Path,
    staged: Path,
    repo_id: str,
    revision: str,
    dataset_id: str | None = None,
    license: str | None = None,
    base_model: str | None = None,
) -> dict[str, Path]:
    """Write what a model repository holds: weights, config, processor, code, card, records and pictures.

    The weights are read and written anew, so that config and code are those of this version, and nothing else of the
    folder (checkpoints, the optimizer's state, `best/`) comes along.

    Returns:
        Name of a staged file → the file that it comes from.

    Raises:
        ValueError: the folder holds a link that leaves it, or `evaluation.json` is none.
        OSError: the folder holds no model.
    """
    if not (folder / "config.json").is_file():
        raise OSError(f"{folder} holds no model: there is no config.json in it; name a folder that fit wrote.")
    own = {path.name: real_file(folder, path) for name in MODEL_FILES for path in folder.glob(name) if path.is_file()}
    segmenter = TumorSegmenter.from_pretrained(folder, device="cpu", optimize="none")
    model, processor = segmenter.model, segmenter.image_processor
    save_model(model, processor, staged)
    record = read_json(own[RECORD_FILE]) if RECORD_FILE in own else None
    evaluation = _read_evaluation(folder)
    if evaluation:
        figures = {name: value for name, value in evaluation.items() if name not in ROWS}
        write_evaluation(staged / EVALUATION_FILE, {**figures, "model": repo_id})
    for name in own.keys() & {RECORD_FILE, FAMILIARITY_FILE, *PICTURES}:
        shutil.copyfile(own[name], staged / name)
    if folder.resolve() == SHIPPED_MODEL:
        own[CARD_FILE] = MODEL_CARD
    if CARD_FILE in own:
        text = own[CARD_FILE].read_text(encoding="utf-8")
        card = complete_model_card(text, evaluation, repo_id, revision, dataset_id, license, base_model)
    else:
        if evaluation is None:
            logger.warning("%s has no evaluation of these weights, and the card will say so.", folder)
        card = write_model_card(
            model, processor, record, evaluation, repo_id, revision, dataset_id, license, base_model
        )
    if "\nlicense:" not in card:
        logger.warning("The card names no licence; give --license with the one that the weights have, e.g. apache-2.0.")
    (staged / CARD_FILE).write_text(card, encoding="utf-8")
    return own


def _read_evaluation(folder: Path) -> dict | None:
    """The evaluation of these weights, or the one that stands for them, if there is one."""
    path = folder / EVALUATION_FILE
    if not path.is_file():
        return None
    evaluation = evaluation_of(path)
    if weights_hash(folder) not in (evaluation.get("weights_sha256"), evaluation.get(STANDS_FOR)):
        logger.warning("%s is of other weights and is left out; run evaluate --output again.", path)
        return None
    return evaluation


# -------------------------------------------------------------------------------------------------------------- dataset


def stage_dataset(folder: Path, staged: Path, repo_id: str) -> dict[str, Path]:
    """Write `data/SPLIT-….parquet`, a split for each value of the column `split`, and the card.

    Returns:
        Name of a staged file → the file that it comes from; of Parquet files the folder whose pictures they hold.

    Raises:
        DataError: the folder is not one of `prepare`.
        ValueError: it holds a link that leaves it.
    """
    own = {name: folder / name for name in (ROWS_FILE, CARD_FILE)}
    for name, path in own.items():
        if not path.is_file():
            raise DataError(f"{folder} holds no {name}; name a folder that `python -m train prepare` wrote.")
        own[name] = real_file(folder, path)
    if problems := [raw.problem for raw in open_source(folder) if raw.problem]:
        raise DataError(f"{folder} is not what `python -m train prepare` wrote any more. {problems[0]}")
    rows = [json.loads(line) for line in own[ROWS_FILE].read_text(encoding="utf-8").splitlines()]
    splits = sorted({row["split"] for row in rows}, key=KNOWN_SPLITS.index)
    (staged / "data").mkdir(parents=True)
    for split in splits:
        _write_split([row for row in rows if row["split"] == split], split, folder, staged)
    card = write_data_card(own[CARD_FILE].read_text(encoding="utf-8"), repo_id, splits)
    if "\nlicense:" not in card:
        logger.warning("The card of %s names no licence; add `license:` to its README.md before others use it.", folder)
    (staged / CARD_FILE).write_text(card, encoding="utf-8")
    parquet = [path.relative_to(staged).as_posix() for path in (staged / "data").iterdir()]
    return {**dict.fromkeys(parquet, folder.resolve()), CARD_FILE: own[CARD_FILE]}


def _write_split(rows: list[dict], split: str, folder: Path, staged: Path) -> None:
    size = sum((folder / row[name]).stat().st_size for row in rows for name in ("image_file_name", "mask_file_name"))
    count = size // SHARD_BYTES + 1
    for index, part in enumerate(np.array_split(np.arange(len(rows)), count)):
        shard = [rows[number] for number in part]
        # Of slices that are of no volume, `prepare` does not write one.
        columns = {name: [row.get(name) for row in shard] for name in DATA_FEATURES if name not in ("image", "mask")}
        for kind in ("image", "mask"):
            paths = [real_file(folder, folder / row[f"{kind}_file_name"]) for row in shard]
            columns[kind] = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
        path = staged / DATA_FILE.format(split=split, index=index, count=count)
        Dataset.from_dict(columns, features=DATA_FEATURES).to_parquet(path)


# ---------------------------------------------------------------------------------------------------------------- space


def stage_space(staged: Path, model_id: str, dataset_id: str | None = None) -> dict[str, Path]:
    """Write what a Space needs to run: the page, the package, the requirements, the examples, the front matter.

    Returns:
        Name of a staged file → the file that it comes from.
    """
    own = {CARD_FILE: ROOT / CARD_FILE}
    for pattern in SPACE_FILES:
        for path in ROOT.glob(pattern):
            name = path.relative_to(ROOT)
            own[name.as_posix()] = real_file(ROOT, path)
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, staged / name)
    card = write_space_card(own[CARD_FILE].read_text(encoding="utf-8"), model_id, dataset_id)
    (staged / CARD_FILE).write_text(card, encoding="utf-8")
    return own


def stage_static_space(
    staged: Path, model_id: str, dataset_id: str | None = None, runtime: Path | None = None
) -> dict[str, Path]:
    """Write what a static Space serves: the page that runs a model of the Hub in the browser, and the front matter.

    Returns:
        Name of a staged file → the file that it comes from.

    Raises:
        ImportError, OSError, ValueError: as `write_page`, or the model cannot be loaded.
    """
    own = {name: real_file(ROOT, path) for name, path in page_sources().items()} | {CARD_FILE: ROOT / CARD_FILE}
    segmenter = TumorSegmenter.from_pretrained(model_id, device="cpu", optimize="none")
    write_page(staged, segmenter, *origin(model_id), runtime)
    card = write_static_card(own[CARD_FILE].read_text(encoding="utf-8"), model_id, dataset_id)
    (staged / CARD_FILE).write_text(card, encoding="utf-8")
    return own
