"""Whole files or none, under names that every file system takes; and bytes that have the name of a file.

Everything is written under a hidden name beside its place and then renamed.
"""

import hashlib
import io
import os
from pathlib import Path


# Of a file or folder, without endings such as "_mask.png"; file systems allow 255 of a name.
MAX_NAME_BYTES = 200
DIGEST_LETTERS = 8


class NamedBytes(io.BytesIO):
    """Bytes as a file, which messages call by a name."""

    def __init__(self, content: bytes, name: str):
        super().__init__(content)
        self.name = name


def write_atomically(path: Path, content: bytes):
    """Write a file whole or not at all; its folder is made if it is missing.

    Raises:
        OSError: names the file and says why it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror or error}.") from error


def short_names(path: str) -> str:
    """A path with forward slashes, all of whose names are at most `MAX_NAME_BYTES` long, as file systems count them.

    A longer one ends in letters that are made of all of it, so that two long names stay two.
    """
    return "/".join(map(_short_name, path.split("/")))


def _short_name(name: str) -> str:
    content = name.encode(errors="surrogatepass")  # a name may be no valid Unicode
    if len(content) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(content).hexdigest()[:DIGEST_LETTERS]
    return f"{content[: MAX_NAME_BYTES - len(digest) - 1].decode(errors='ignore')}-{digest}"
