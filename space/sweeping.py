"""Deletes the files that visitors sent or saved, when they are old.

It replaces Gradio's own sweep (`delete_cache`), which leaves the folders behind, and stops for ever if a file arrives
while it goes through its list. This one goes through the folder itself. It deletes only in a folder that nobody else
can write to, and follows no links.
"""

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

from gradio.utils import get_upload_folder


NAME = "brain-tumor-unet"
SWEEP_SECONDS = 30
MAX_KEPT_BYTES = 2 << 30  # of all files together


@contextmanager
def own_folder() -> Iterator[Path]:
    """Let Gradio keep the files of visitors apart from those of other apps, until the page ends.

    Gradio has to be told before the page is built. What is yielded is the folder to sweep: it also holds what an app
    like this one has left that was killed.

    Raises:
        PermissionError: somebody else owns the folder or can write to it.
    """
    folder = Path(get_upload_folder()) / NAME
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_ours(folder):
        raise PermissionError(
            f"{folder} is a link, belongs to somebody else or is open to others; name a folder of your own in the "
            "variable GRADIO_TEMP_DIR."
        )
    with TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as own:
        os.environ["GRADIO_TEMP_DIR"] = own
        yield folder


def start_sweeping(folder: Path, seconds: float, forget: Callable[[], None], max_bytes: int = MAX_KEPT_BYTES):
    """From now on, sweep a folder again and again; arguments as in `sweep`, and `forget` is called each time."""

    def run():
        while True:
            with suppress(OSError):
                os.utime(get_upload_folder())  # in use, however long nobody has come
            sweep(folder, seconds, max_bytes)
            forget()
            time.sleep(SWEEP_SECONDS)

    Thread(target=run, name="sweep", daemon=True).start()


def sweep(folder: Path, seconds: float, max_bytes: int = MAX_KEPT_BYTES):
    """Delete files below a folder, if it is ours alone, and folders that they leave empty.

    Args:
        folder: it goes too if all of it is old.
        seconds: files go that have not changed for longer.
        max_bytes: where the others take more together, those that have not changed for longest go as well.
    """
    if not _is_ours(folder):
        return
    kept = []
    for place, folders, names in os.walk(folder, topdown=False):
        # A link to a folder is not walked through, and goes as a file does.
        names += [name for name in folders if Path(place, name).is_symlink()]
        # A folder changes with its files: its age is that before any of them goes.
        there = [(path, _status(path)) for path in (*(Path(place, name) for name in names), Path(place))]
        for path, status in there:
            if status is None:
                continue
            if time.time() - status.st_mtime > seconds:
                _delete(path, status)
            elif not stat.S_ISDIR(status.st_mode):
                kept.append((status.st_mtime, status.st_size, path, status))
    excess = sum(size for _, size, *_ in kept) - max_bytes
    for _, size, path, status in sorted(kept, key=lambda file: file[0]):
        if excess <= 0:
            break
        _delete(path, status)
        excess -= size


def _is_ours(folder: Path) -> bool:
    """Whether a folder is one, no link, and nobody else can look into it or put another in its place."""
    status, around = _status(folder), _status(folder.parent.resolve())
    if status is None or around is None or not stat.S_ISDIR(status.st_mode):
        return False
    if not hasattr(os, "getuid"):  # Windows, where every user has a temporary folder of their own
        return True
    is_private = status.st_uid == os.getuid() and not stat.S_IMODE(status.st_mode) & 0o077
    # Around it, where all may write, as in /tmp, they must not rename what is others'.
    is_open = around.st_mode & stat.S_IWOTH and not around.st_mode & stat.S_ISVTX
    return is_private and around.st_uid in (0, os.getuid()) and not is_open


def _delete(path: Path, status: os.stat_result):
    # It is gone already, or a folder that is not empty.
    with suppress(OSError):
        path.rmdir() if stat.S_ISDIR(status.st_mode) else path.unlink()


def _status(path: Path) -> os.stat_result | None:
    """Of a file, a folder or a link itself; None if it is gone."""
    with suppress(OSError):
        return path.lstat()
    return None
