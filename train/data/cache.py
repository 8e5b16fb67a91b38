"""Caches that can be trusted: of every Arrow file that 🤗 Datasets keeps for this project, the checksum lies beside it.

    make ─→ the data set and its FILE.arrow ─ checked ─→ FILE.arrow.sha256, written if it is not there, else compared

The files are memory-mapped and taken as they are: where a disk has lost a bit, other pixels would be trained on.
A data set that comes as a ZIP is unpacked there too, once: `unpacked`.
"""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import datasets
from datasets import Dataset

from modeling_unet.volumes.archives import ArchiveError, members

from .raw import DataError


def checked(make: Callable[[], Dataset]) -> Dataset:
    """What `make` makes or finds in the cache, if the files there are as they were made.

    Raises:
        DataError: one of them is damaged; the message says which, and what to do.
    """
    try:
        made = make()
    except (OSError, ValueError):  # Arrow's own say neither which file nor what to do
        for seal in Path(datasets.config.HF_DATASETS_CACHE).rglob("*.arrow.sha256"):
            _check(seal.with_suffix(""))
        raise
    for file in made.cache_files:
        _check(Path(file["filename"]))
    return made


def unpacked(path: Path) -> Path:
    """The folder with the files of a ZIP, of any layout.

    Raises:
        DataError: the ZIP is damaged, holds unsafe names, or is too large to be unpacked without asking.
    """
    digest = _checksum(path)
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "unpacked" / f"{path.stem}-{digest[:16]}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            for member in members(path):
                target = Path(temporary, folder.name, member.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(member.read())
            Path(temporary, folder.name).rename(folder)
    except ArchiveError as error:
        raise DataError(f"{str(error).rstrip('.')}; unpack it, and give the folder.") from error
    return folder


def _check(path: Path) -> None:
    """Compare a file with its checksum, or write that down where there is none."""
    seal = path.with_name(f"{path.name}.sha256")
    known, found = seal.read_text() if seal.is_file() else "", _checksum(path)
    if not known and found:
        seal.write_text(found)
    elif known != found:
        raise DataError(
            f"{path} is damaged: it is not what was written there. Delete the folder {path.parent}; what it holds is "
            "made anew."
        )


def _checksum(path: Path) -> str | None:
    """SHA-256 in hexadecimal; None of a file that is gone."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
