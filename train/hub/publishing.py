"""`python -m train publish`: a trained folder, a prepared data set or the page, each as one commit on the Hub.

    python -m train publish model RUN --repo_id you/name
    python -m train publish dataset DIR --repo_id you/name
    python -m train publish space --repo_id you/name --model_id you/model

    source ─ stage_… ─→ temporary folder with exactly what belongs there ─ hub.upload ─→ commit
                        └─ --dry_run: its files are listed, and nothing is asked of the network

A model is then loaded by its id in a fresh process that does not know this project, and has to segment a made-up slice
as the folder did before.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Image, Value
from huggingface_hub import CommitInfo
from PIL import Image as PillowImage
from safetensors.torch import load_file

from modeling_unet import TumorSegmenter

from ..data.folds import KNOWN_SPLITS
from ..data.raw import DataError
from ..data.sources import open_source
from ..files import read_json, save_model, weights_hash
from ..record import EVALUATION_FILE, RECORD_FILE, STANDS_FOR, write_evaluation
from ..scoring.report import evaluation_of
from . import stranger
from .cards import complete_model_card, write_data_card, write_model_card, write_space_card
from .client import MAIN, check_repo_id, find_token, list_files, upload


logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
SHIPPED_MODEL = ROOT / "weights" / "brain-tumor-unet"
MODEL_CARD = ROOT / "model_card.md"
PICTURES = ("curves.csv", "curves.png", "predictions.png", "failures.png")
ROWS = ("per_slice", "per_negative")  # of an evaluation: names of slices and persons, which stay at home
# What of an earlier publication goes if this one has it no more; whatever else its owner put there stays.
MODEL_REPLACES = ("*_unet.py", RECORD_FILE, EVALUATION_FILE, *PICTURES)
SPACE_FILES = ("app.py", "space/*.py", "space/page.*", "requirements.txt", "LICENSE", "modeling_unet/**/*.py")
SPACE_FILES += ("examples/ATTRIBUTION.md", "examples/images/*.png", "examples/masks/*.png")
SPACE_REPLACES = ("space/*", "modeling_unet/*", "examples/*")
DATA_FILE = "data/{split}-{index:05d}-of-{count:05d}.parquet"
DATA_REPLACES = ("data/*.parquet",)
SHARD_BYTES = 500_000_000  # as `push_to_hub` of 🤗 Datasets divides
DATA_FEATURES = Features(
    {
        **dict.fromkeys(("image", "mask"), Image()),
        **dict.fromkeys(("slice", "person_id", "tumor_type", "plane"), Value("string")),
        "fold": Value("int64"),
    }
)
VERIFY_SECONDS = 600
PROBABILITY_TOLERANCE = 1e-4


# ---------------------------------------------------------------------------------------------------------------- model


def publish_model(
    folder: str | Path,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    dataset_id: str | None = None,
    license: str | None = None,
    base_model: str | None = None,
    token: str | None = None,
    dry_run: bool = False,
) -> CommitInfo | None:
    """Publish a model folder, and let a stranger load it from the Hub.

    Args:
        folder: what `fit` or `save_pretrained` wrote.
        repo_id: owner/name.
        private: create the repository so that its owner alone sees it.
        revision: the branch to publish to, by default `main`.
        dataset_id: of the slices it was trained on, for the card.
        license: of the weights, for the card; None leaves it out, or as it is in a README.md of the folder.
        base_model: id on the Hub of what was fine-tuned, for the card, where the record has the name of a folder.
        token: by default the one that `hf auth login` left.
        dry_run: list the files and do no more.

    Returns:
        The commit; None after a dry run.

    Raises:
        ValueError: an id that cannot be, or `evaluation.json` is none.
        OSError: the folder holds no model, the Hub refuses or is out of reach, or what was published does not segment
            as it should.
    """
    folder, revision = Path(folder), revision or MAIN
    check_repo_id("--repo_id", repo_id)
    if base_model:
        check_repo_id("--base_model", base_model)
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary, "model")
        stage_model(folder, staged, repo_id, revision, dataset_id, license, base_model)
        if dry_run:
            _list(staged, repo_id)
            return None
        token = find_token(token)
        picture = _draw_slice(Path(temporary, "slice.png"))
        expected = stranger.predict(str(staged), MAIN, picture)
        commit = upload(
            staged,
            repo_id,
            "model",
            message="Publish the model",
            token=token,
            private=private,
            revision=revision,
            replaces=MODEL_REPLACES,
        )
        _announce(commit)
        _verify(repo_id, commit, picture, expected, token)
    return commit


def stage_model(
    folder: Path,
    staged: Path,
    repo_id: str,
    revision: str,
    dataset_id: str | None = None,
    license: str | None = None,
    base_model: str | None = None,
) -> None:
    """Write what a model repository holds: weights, config, processor, code, card, records and pictures.

    The weights are read and written anew, so that config and code are those of this version, and nothing else of the
    folder (checkpoints, the optimizer's state, `best/`) comes along.
    """
    if not (folder / "config.json").is_file():
        raise OSError(f"{folder} holds no model: there is no config.json in it; name a folder that fit wrote.")
    segmenter = TumorSegmenter.from_pretrained(folder, device="cpu", optimize="none")
    model, processor = segmenter.model, segmenter.image_processor
    save_model(model, processor, staged)
    record = read_json(folder / RECORD_FILE) if (folder / RECORD_FILE).is_file() else None
    evaluation = _read_evaluation(folder)
    if evaluation:
        figures = {name: value for name, value in evaluation.items() if name not in ROWS}
        write_evaluation(staged / EVALUATION_FILE, {**figures, "model": repo_id})
    for name in (RECORD_FILE, *PICTURES):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, staged / name)
    own_card = MODEL_CARD if folder.resolve() == SHIPPED_MODEL else folder / "README.md"
    if own_card.is_file():
        text = own_card.read_text(encoding="utf-8")
        card = complete_model_card(text, evaluation, repo_id, revision, dataset_id, license, base_model)
    else:
        if evaluation is None:
            logger.warning("%s has no evaluation of these weights, and the card will say so.", folder)
        card = write_model_card(
            model, processor, record, evaluation, repo_id, revision, dataset_id, license, base_model
        )
    if "\nlicense:" not in card:
        logger.warning("The card names no licence; give --license with the one that the weights have, e.g. apache-2.0.")
    (staged / "README.md").write_text(card, encoding="utf-8")


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


def _draw_slice(path: Path) -> Path:
    """A made-up slice, the same every time: a bright disc in a grey head, 180 pixels wide and 200 high."""
    rows, columns = np.mgrid[:200, :180]
    head = ((rows - 100) / 90) ** 2 + ((columns - 90) / 75) ** 2 < 1
    disc = (rows - 80) ** 2 + (columns - 110) ** 2 < 18**2
    noise = np.random.default_rng(0).normal(0, 8, head.shape)
    picture = np.clip((90 * head + 100 * disc + noise) * head, 0, 255).astype(np.uint8)
    PillowImage.fromarray(picture).save(path)
    return path


def _verify(repo_id: str, commit: CommitInfo, picture: Path, expected: dict, token: str) -> None:
    """Load the model by its id in a fresh process without this project, and compare what it finds."""
    with tempfile.TemporaryDirectory() as home:
        # Nothing that lies in the caches here may help.
        places = {"HF_HUB_CACHE": f"{home}/hub", "HF_MODULES_CACHE": f"{home}/modules", "HF_TOKEN": token}
        out = Path(home, "prediction.safetensors")
        command = [sys.executable, "-I", stranger.__file__, repo_id, commit.oid, str(picture), str(out)]
        try:
            subprocess.run(
                command,
                cwd=home,
                env={**os.environ, **places},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
                text=True,
                timeout=VERIFY_SECONDS,
            )
        except subprocess.SubprocessError as error:
            *_, reason = (str(error), *(error.stderr or "").strip().splitlines())
            raise OSError(
                f"{repo_id} is published, but a fresh process could not load it from the Hub: {reason}"
            ) from error
        found = load_file(out)
    pixels = int((found["mask"] != expected["mask"]).sum())
    difference = float((found["probability"] - expected["probability"]).abs().max())
    if pixels or difference > PROBABILITY_TOLERANCE:
        raise OSError(
            f"{repo_id} is published, but from the Hub it segments otherwise than from the folder: {pixels} pixels of "
            f"a made-up slice differ, and probabilities by up to {difference:.2g}."
        )
    print(f"verified: a fresh process loaded {repo_id} at {commit.oid[:8]} and segmented as the folder does.")


# -------------------------------------------------------------------------------------------------------------- dataset


def publish_dataset(
    folder: str | Path, repo_id: str, private: bool = False, token: str | None = None, dry_run: bool = False
) -> CommitInfo | None:
    """Publish what `python -m train prepare` wrote, as Parquet files with the pictures in them.

    Args:
        folder: of `prepare`, with `metadata.jsonl` and `README.md`.
        repo_id, private, token, dry_run: as in `publish_model`.

    Returns:
        The commit; None after a dry run.

    Raises:
        DataError: the folder is not one of `prepare`.
        ValueError, OSError: as in `publish_model`.
    """
    check_repo_id("--repo_id", repo_id)
    with tempfile.TemporaryDirectory() as temporary:
        stage_dataset(Path(folder), Path(temporary), repo_id)
        what = {"repo_type": "dataset", "message": "Publish the data set", "replaces": DATA_REPLACES}
        return _send(Path(temporary), repo_id, private, token, dry_run, **what)


def stage_dataset(folder: Path, staged: Path, repo_id: str) -> None:
    """Write `data/SPLIT-….parquet`, a split for each value of the column `split`, and the card."""
    for name in ("metadata.jsonl", "README.md"):
        if not (folder / name).is_file():
            raise DataError(f"{folder} holds no {name}; name a folder that `python -m train prepare` wrote.")
    if problems := [raw.problem for raw in open_source(folder) if raw.problem]:
        raise DataError(f"{folder} is not what `python -m train prepare` wrote any more. {problems[0]}")
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    splits = sorted({row["split"] for row in rows}, key=KNOWN_SPLITS.index)
    (staged / "data").mkdir(parents=True)
    for split in splits:
        _write_split([row for row in rows if row["split"] == split], split, folder, staged)
    card = write_data_card((folder / "README.md").read_text(encoding="utf-8"), repo_id, splits)
    if "\nlicense:" not in card:
        logger.warning("The card of %s names no licence; add `license:` to its README.md before others use it.", folder)
    (staged / "README.md").write_text(card, encoding="utf-8")


def _write_split(rows: list[dict], split: str, folder: Path, staged: Path) -> None:
    size = sum((folder / row[name]).stat().st_size for row in rows for name in ("image_file_name", "mask_file_name"))
    count = size // SHARD_BYTES + 1
    for index, part in enumerate(np.array_split(np.arange(len(rows)), count)):
        shard = [rows[number] for number in part]
        columns = {name: [row[name] for row in shard] for name in DATA_FEATURES if name not in ("image", "mask")}
        for kind in ("image", "mask"):
            paths = [folder / row[f"{kind}_file_name"] for row in shard]
            columns[kind] = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
        path = staged / DATA_FILE.format(split=split, index=index, count=count)
        Dataset.from_dict(columns, features=DATA_FEATURES).to_parquet(path)


# ---------------------------------------------------------------------------------------------------------------- space


def publish_space(
    repo_id: str,
    model_id: str,
    dataset_id: str | None = None,
    private: bool = False,
    token: str | None = None,
    dry_run: bool = False,
) -> CommitInfo | None:
    """Publish the page, which reads its model from the Hub.

    Args:
        model_id: of the model; the Space's variable `MODEL_ID` names it.
        dataset_id: of the slices that the model was trained on, if they are on the Hub.
        repo_id, private, token, dry_run: as in `publish_model`.

    Returns:
        The commit; None after a dry run.

    Raises:
        ValueError, OSError: as in `publish_model`.
    """
    check_repo_id("--repo_id", repo_id)
    check_repo_id("--model_id", model_id)
    with tempfile.TemporaryDirectory() as temporary:
        stage_space(Path(temporary), model_id, dataset_id)
        what = {"repo_type": "space", "message": "Publish the page", "replaces": SPACE_REPLACES}
        return _send(Path(temporary), repo_id, private, token, dry_run, **what, variables={"MODEL_ID": model_id})


def stage_space(staged: Path, model_id: str, dataset_id: str | None = None) -> None:
    """Write what a Space needs to run: the page, the package, the requirements, the examples, the front matter."""
    for pattern in SPACE_FILES:
        for path in ROOT.glob(pattern):
            copy = staged / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    card = write_space_card((ROOT / "README.md").read_text(encoding="utf-8"), model_id, dataset_id)
    (staged / "README.md").write_text(card, encoding="utf-8")


def _send(staged: Path, repo_id: str, private: bool, token: str | None, dry_run: bool, **what) -> CommitInfo | None:
    if dry_run:
        _list(staged, repo_id)
        return None
    commit = upload(staged, repo_id, token=find_token(token), private=private, **what)
    _announce(commit)
    return commit


def _list(staged: Path, repo_id: str) -> None:
    sizes = {path.relative_to(staged).as_posix(): path.stat().st_size for path in list_files(staged)}
    for name, size in sizes.items():
        print(f"{size:>13,}  {name}")
    print(f"{sum(sizes.values()):>13,}  bytes in {len(sizes)} files would go to {repo_id}; nothing was uploaded.")


def _announce(commit: CommitInfo) -> None:
    print(f"published: {commit.commit_url}")
