"""Whole files or none: everything is written to a temporary name beside its place and then renamed."""

import copy
import json
import os
import tempfile
from pathlib import Path

import torch

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
                f"float16 cannot hold the values of {', '.join(overflown[:3])}; the weights are not saved."
            )
        # Saving names only the class that is saved; the bare network can be loaded from the same file.
        half.config.auto_map = {"AutoModel": "modeling_unet.UNetModel"}
        half.save_pretrained(temporary)
        half.config.dtype = torch.float32
        half.config.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        for path in Path(temporary).iterdir():
            path.chmod(0o644)  # the weights come readable by their owner alone
            os.replace(path, folder / path.name)
