"""Whole files or none: everything is written to a temporary name beside its place and then renamed."""

import copy
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import BinaryIO

import torch
from transformers.utils import cached_file

from modeling_unet import UNetForSemanticSegmentation, UNetImageProcessor


def write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # of a write that failed, e.g. on a full disk


def write_json(path: Path, content: dict) -> None:
    write_whole(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> dict:
    """The mapping that a JSON file holds; raises ValueError, with the file's name, if it holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no mapping, as it should.")
    return content


def weights_hash(model: str | Path) -> str | None:
    """SHA-256 of the weights in a model folder or on the Hub, in hexadecimal; None if there are none in one file."""
    try:
        return hashlib.sha256(Path(cached_file(str(model), "model.safetensors")).read_bytes()).hexdigest()
    except OSError:
        return None


def check_writable(path: Path, option: str) -> None:
    """Say before any work if a file cannot be written where it should be; leaves nothing behind.

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
