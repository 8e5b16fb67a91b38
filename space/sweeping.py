"""Files that visitors send or take away, and how they go.

Gradio's own sweep (`delete_cache`) leaves their folders behind, and ends for good when a file arrives while it goes
through its list of them. This one, which goes through the folder instead, is therefore the only one.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

from gradio.utils import get_upload_folder


NAME = "brain-tumor-unet"
SWEEP_SECONDS = 300  # with KEPT_SECONDS an hour, as the page promises


@contextmanager
def own_folder() -> Iterator[Path]:
    """Let Gradio keep the files of visitors apart from those of other apps, until the page ends.

    Gradio has to be told before the page is built. What is yielded is the folder to sweep: it also holds what an app
    like this one has left that was killed.
    """
    folder = Path(get_upload_folder()) / NAME
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as own:
        os.environ["GRADIO_TEMP_DIR"] = own
        yield folder


def start_sweeping(folder: Path, seconds: float, lists: list[set[str]]):
    """From now on, delete what has lain in a folder for so many seconds, and forget Gradio's lists of files."""

    def run():
        while True:
            with suppress(OSError):
                os.utime(get_upload_folder())  # in use, however long nobody has come
            sweep(folder, seconds)
            for files in lists:  # only its own sweep would ever shorten them
                files.clear()
            time.sleep(SWEEP_SECONDS)

    Thread(target=run, name="sweep", daemon=True).start()


def sweep(folder: Path, seconds: float):
    """Delete the files below a folder that have not changed for so many seconds, and folders that they leave empty."""
    for place, _, names in os.walk(folder, topdown=False):
        # A folder changes with its files: its age is that before any of them goes.
        old = [path for path in (*(Path(place, name) for name in names), Path(place)) if _age(path) > seconds]
        for path in old:
            # It is gone already, or a folder that is not empty.
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()


def _age(path: Path) -> float:
    """Seconds since a file or folder changed; none if it is gone."""
    with suppress(OSError):
        return time.time() - path.stat().st_mtime
    return 0
