"""JSON files and model folders: written whole or not at all, and read with errors that name the file."""

import copy
import json
import os
import tempfile
from pathlib import Path
from typing import BinaryIO

import torch

from modeling_unet import UNetForSemanticSegmentation, UNetImageProcessor
from modeling_unet.files import write_atomically


def write_json(path: Path, content: dict) -> None:
    write_atomically(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict:
    """The mapping that a JSON file holds; raises ValueError, with the file's name, if it holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no mapping, as it should.")
    return content


def check_writable(path: Path, option: str) -> None:
    """Raise an error before any work if a file cannot be written there; no file is left behind.

    Raises:
        OSError: with the name of the option that names the place.
    """
    try:
        scratch_file(path).close()
    except OSError as error:
        raise OSError(f"{option} {path} cannot be written: {error.strerror}.") from error


def scratch_file(path: Path) -> BinaryIO:
    """A file without a name on the disk where `path` is or will be; it is gone when it is closed."""
    return tempfile.TemporaryFile(dir=next(folder for folder in path.absolute().parents if folder.exists()))


def save_model(model: UNetForSemanticSegmentation, processor: UNetImageProcessor, folder: Path) -> None:
    """Write config, weights, processor and code: a folder for `from_pretrained`, here and with `trust_remote_code`.

    The weights are stored as float16, half the size; the config says float32, so that a plain load computes in that.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        half = copy.deepcopy(model).half()
        overflown = [name for name, tensor in half.state_dict().items() if not tensor.isfinite().all()]
        if overflown:
            raise ValueError(
                f"The values of {', '.join(overflown[:3])} are not finite in float16: they lie beyond ±65504, or the "
                "training diverged; the weights are not saved."
            )
        half.save_pretrained(temporary)
        half.config.dtype = torch.float32
        half.config.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        for path in Path(temporary).iterdir():
            path.chmod(0o644)  # the weights come readable by their owner alone
            os.replace(path, folder / path.name)
