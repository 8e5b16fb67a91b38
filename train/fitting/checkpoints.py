"""Checkpoints that can be trusted: sealed when they are whole, checked before a run goes on from them.

A process may be killed, or a disk may fill, in the middle of writing a checkpoint. So its last file holds the checksums
of the others; a folder without it, or with other contents, is damaged and set aside.
"""

import hashlib
import logging
import re
import shutil
from pathlib import Path

from ..files import read_json, write_json


logger = logging.getLogger(__name__)

SEAL_FILE = "checksums.json"


def seal(checkpoint: Path) -> None:
    """Write down the checksums of all files of a finished checkpoint."""
    write_json(checkpoint / SEAL_FILE, _checksums(checkpoint))


def keep_newest(run: Path, count: int) -> None:
    """Delete all checkpoints but the `count` of most steps."""
    for checkpoint in _newest_first(run)[count:]:
        shutil.rmtree(checkpoint)


def find_newest_intact(run: Path) -> Path | None:
    """The newest intact checkpoint of a run, or None; damaged ones are renamed, with a warning.

    Raises:
        ValueError: it holds more than was written, which the Trainer might read.
    """
    for checkpoint in _newest_first(run):
        damage = _damage(checkpoint)
        if damage is None:
            _refuse_more(checkpoint)
            return checkpoint
        aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
        logger.warning("%s is damaged: %s. It is now %s; the one before it is used.", checkpoint, damage, aside.name)
        _set_aside(checkpoint, aside)
    return None


def _newest_first(run: Path) -> list[Path]:
    folders = [path for path in run.glob("checkpoint-*") if path.is_dir()]
    steps = {path: int(match[1]) for path in folders if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))}
    return sorted(steps, key=lambda path: -steps[path])


def _damage(checkpoint: Path) -> str | None:
    try:
        sealed = read_json(checkpoint / SEAL_FILE)
    except (OSError, ValueError):
        sealed = {}
    if not sealed:
        return f"it has no readable {SEAL_FILE}, so it was not finished"
    found = _checksums(checkpoint)
    changed = sorted(name for name in sealed if found.get(name) != sealed[name])
    return f"{', '.join(changed)} changed since it was written, or went missing" if changed else None


def _refuse_more(checkpoint: Path) -> None:
    sealed = {*read_json(checkpoint / SEAL_FILE), SEAL_FILE}
    more = sorted(path.name for path in checkpoint.iterdir() if path.name not in sealed and path.name[0] != ".")
    if more:
        raise ValueError(
            f"{checkpoint} holds {', '.join(more)}, which the training did not write there; take it away, and start "
            "again."
        )


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != SEAL_FILE)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _set_aside(checkpoint: Path, aside: Path) -> None:
    number = 1
    while aside.exists():
        number += 1
        aside = aside.with_name(f"damaged-{checkpoint.name}-{number}")
    checkpoint.rename(aside)
