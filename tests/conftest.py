"""What every test shares: an environment without network or traces, the browser and the shipped weights."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest


# transformers, datasets and Gradio read these once, when they are imported. A home of our own keeps the tests clear of
# the caches and the token of whoever runs them, and of what earlier runs left behind.
_HOME = tempfile.TemporaryDirectory(prefix="brain-tumor-unet-tests-", ignore_cleanup_errors=True)
os.environ.update(
    GRADIO_ANALYTICS_ENABLED="False",
    GRADIO_TEMP_DIR=f"{_HOME.name}/gradio",
    HF_HOME=f"{_HOME.name}/huggingface",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
)

import torch  # noqa: E402


ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "weights" / "brain-tumor-unet"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

torch.set_num_threads(2)


def missing(what: str) -> NoReturn:
    """Fail where the whole suite has to run (`CI=true`), skip with the reason anywhere else."""
    if os.environ.get("CI") == "true":
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of an installed Chromium for Playwright's `executable_path`."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    missing(f"needs a browser: none of {', '.join(BROWSERS)} is on the PATH")


@pytest.fixture(scope="session")
def shipped_weights() -> Path:
    """Folder of the shipped model, for `from_pretrained`."""
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        if not (WEIGHTS / name).is_file():
            missing(f"needs the shipped weights: {(WEIGHTS / name).relative_to(ROOT)} is missing")
    return WEIGHTS
