"""Which weights are these: the model that comes with the project, and the name, commit and hashes of any other.

folder or Hub id ─ origin ─→ name and commit, to be shown
                 ├ identify_model ─→ changes with weights and settings: are earlier results still of this model?
                 └ weights_hash ─→ changes with the weights alone: does a record or an evaluation belong to them?
"""

import hashlib
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from transformers.utils import cached_file


SHIPPED_MODEL = Path(__file__).resolve().parents[1] / "weights" / "brain-tumor-unet"
WEIGHTS_FILE = "model.safetensors"
# What decides the results of a model.
MODEL_FILES = ("config.json", "preprocessor_config.json", "*.safetensors")


def find_shipped_model(otherwise: str) -> Path:
    """The folder of the model that comes with a clone.

    Args:
        otherwise: where to name another model, for the message, such as "with --model".

    Raises:
        ValueError: there is none.
    """
    if not (SHIPPED_MODEL / "config.json").is_file():
        raise ValueError(
            f"no model comes with this installation: there is none in {SHIPPED_MODEL}; name a folder or a Hub id "
            f"{otherwise}."
        )
    return SHIPPED_MODEL


def origin(path_or_id: str | Path, revision: str | None = None) -> tuple[str, str | None]:
    """(name, commit) of a model that was loaded: a folder has its own name and no commit.

    Raises:
        OSError: neither a folder nor a model of the Hub that was loaded before.
    """
    if Path(path_or_id).is_dir():
        return Path(path_or_id).resolve().name, None
    config = try_to_load_from_cache(str(path_or_id), "config.json", revision=revision)
    if not isinstance(config, str):
        raise OSError(f"{path_or_id} at revision {revision or 'main'} is not in the cache of the Hub; load it first.")
    return str(path_or_id), Path(config).parent.name


def identify_model(path_or_id: str | Path, revision: str | None = None) -> str:
    """What changes whenever the weights or settings of a model that was loaded do.

    Returns:
        SHA-256 over the files of a folder; id and commit of a model on the Hub.
    """
    if not Path(path_or_id).is_dir():
        name, commit = origin(path_or_id, revision)
        return f"{name}@{commit}"
    digest = hashlib.sha256()
    for pattern in MODEL_FILES:
        for path in sorted(Path(path_or_id).glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def weights_hash(path_or_id: str | Path) -> str | None:
    """SHA-256 of the weights in a model folder or on the Hub, in hexadecimal; None if there are none in one file."""
    try:
        path = cached_file(str(path_or_id), WEIGHTS_FILE)
        return path and hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return None
