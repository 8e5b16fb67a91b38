"""`python -m train publish`: a trained folder, a prepared data set or the page, each as one commit on the Hub.

    python -m train publish model RUN --repo_id you/name
    python -m train publish dataset DIR --repo_id you/name
    python -m train publish space --repo_id you/name --model_id you/model [--static]

    source ─ stage_… ─→ temporary folder with exactly what belongs there ─ client.upload ─→ commit
                        └─ --dry_run: its files and their origins are listed, and nothing is asked of the network

A published model is then loaded by its id in a fresh process without this project, and must segment a made-up slice
exactly as the folder does.
"""

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import CommitInfo
from safetensors.torch import load_file

from modeling_unet.pictures import encode_png

from ..record import EVALUATION_FILE, RECORD_FILE
from . import stranger
from .client import MAIN, check_repo_id, find_token, list_files, upload
from .staging import PICTURES, stage_dataset, stage_model, stage_space, stage_static_space


logger = logging.getLogger(__name__)

STATIC_FILES = ("index.html", "*.js", "*.css", "*.onnx", "settings.json", "app.webmanifest", "icon.svg", "runtime/*")
# Files of an earlier publication that are deleted if this one does not have them; other files of the repository stay.
MODEL_REPLACES = ("*_unet.py", RECORD_FILE, EVALUATION_FILE, *PICTURES)
SPACE_REPLACES = ("space/*", "modeling_unet/*", "examples/*", "app.py", "requirements.txt", *STATIC_FILES)
DATA_REPLACES = ("data/*.parquet",)
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
    """Publish a model folder, then load it from the Hub in a fresh process to check it.

    Args:
        folder: what `fit` or `save_pretrained` wrote.
        repo_id: owner/name.
        private: create the repository so that its owner alone sees it.
        revision: the branch to publish to, by default `main`.
        dataset_id: of the slices it was trained on, for the card.
        license: of the weights, for the card; None leaves it out, or as it is in a README.md of the folder.
        base_model: id on the Hub of what was fine-tuned, for the card, where the record has the name of a folder.
        token: by default the one that `hf auth login` left.
        dry_run: list the files and where they come from, and do no more.

    Returns:
        The commit; None after a dry run.

    Raises:
        ValueError: an id that cannot be, `evaluation.json` is none, or the folder holds a link that leaves it.
        OSError: the folder holds no model, the Hub refuses or is out of reach, or what was published does not segment
            as it should.
    """
    folder, revision = Path(folder), revision or MAIN
    check_repo_id("--repo_id", repo_id)
    if base_model:
        check_repo_id("--base_model", base_model)
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary, "model")
        origins = stage_model(folder, staged, repo_id, revision, dataset_id, license, base_model)
        if dry_run:
            _list(staged, origins, repo_id)
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


def _draw_slice(path: Path) -> Path:
    """A made-up slice, the same every time: a bright disc in a grey head, 180 pixels wide and 200 high."""
    rows, columns = np.mgrid[:200, :180]
    head = ((rows - 100) / 90) ** 2 + ((columns - 90) / 75) ** 2 < 1
    disc = (rows - 80) ** 2 + (columns - 110) ** 2 < 18**2
    noise = np.random.default_rng(0).normal(0, 8, head.shape)
    picture = np.clip((90 * head + 100 * disc + noise) * head, 0, 255).astype(np.uint8)
    path.write_bytes(encode_png(picture))
    return path


def _verify(repo_id: str, commit: CommitInfo, picture: Path, expected: dict, token: str) -> None:
    """Load the model by its id in a fresh process without this project, and compare what it finds."""
    with tempfile.TemporaryDirectory() as home:
        # The caches of this machine must not be used.
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
            reason = f"it was not done after {VERIFY_SECONDS} s"
            if isinstance(error, subprocess.CalledProcessError):
                reason = [str(error), *error.stderr.strip().splitlines()][-1]
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
        origins = stage_dataset(Path(folder), Path(temporary), repo_id)
        what = {"repo_type": "dataset", "message": "Publish the data set", "replaces": DATA_REPLACES}
        return _send(Path(temporary), origins, repo_id, private, token, dry_run, **what)


# ---------------------------------------------------------------------------------------------------------------- space


def publish_space(
    repo_id: str,
    model_id: str,
    dataset_id: str | None = None,
    private: bool = False,
    static: bool = False,
    runtime: str | Path | None = None,
    token: str | None = None,
    dry_run: bool = False,
) -> CommitInfo | None:
    """Publish the page, which reads its model from the Hub; or, static, the page that brings it to the browser.

    Args:
        model_id: of the model; the Space's variable `MODEL_ID` names it. A static page holds it, as it is now.
        dataset_id: of the slices that the model was trained on, if they are on the Hub.
        static: without Python: the network runs in the visitor's browser.
        runtime: what runs it there, see `write_page`; None asks npm.
        repo_id, private, token, dry_run: as in `publish_model`; a static page's dry run loads the model all the same.

    Returns:
        The commit; None after a dry run.

    Raises:
        ImportError: static, and `onnxscript` is not installed.
        ValueError, OSError: as in `publish_model`; or the model or the runtime cannot be used.
    """
    check_repo_id("--repo_id", repo_id)
    check_repo_id("--model_id", model_id)
    if runtime and not static:
        raise ValueError(f"--runtime {runtime} is for a static page; add --static, or leave it out.")
    what: dict[str, Any] = {"repo_type": "space", "message": "Publish the page", "replaces": SPACE_REPLACES}
    with tempfile.TemporaryDirectory() as temporary:
        if static:
            origins = stage_static_space(Path(temporary), model_id, dataset_id, Path(runtime) if runtime else None)
            what["space_sdk"] = "static"
        else:
            origins = stage_space(Path(temporary), model_id, dataset_id)
            what["variables"] = {"MODEL_ID": model_id}
        return _send(Path(temporary), origins, repo_id, private, token, dry_run, **what)


def _send(
    staged: Path, origins: dict[str, Path], repo_id: str, private: bool, token: str | None, dry_run: bool, **what
) -> CommitInfo | None:
    if dry_run:
        _list(staged, origins, repo_id)
        return None
    commit = upload(staged, repo_id, token=find_token(token), private=private, **what)
    _announce(commit)
    return commit


def _list(staged: Path, origins: dict[str, Path], repo_id: str) -> None:
    """Every file that would be uploaded, with its size and what is behind its name."""
    sizes = {path.relative_to(staged).as_posix(): path.stat().st_size for path in list_files(staged)}
    for name, size in sizes.items():
        print(f"{size:>13,}  {name}  ← {origins.get(name, 'written for this upload')}")
    print(f"{sum(sizes.values()):>13,}  bytes in {len(sizes)} files would go to {repo_id}; nothing was uploaded.")


def _announce(commit: CommitInfo) -> None:
    print(f"published: {commit.commit_url}")
