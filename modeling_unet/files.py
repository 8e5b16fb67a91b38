"""Whole files or none: everything is written under a hidden name beside its place and then renamed."""

import os
from pathlib import Path


def write_atomically(path: Path, content: bytes):
    """Write a file whole or not at all; its folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
