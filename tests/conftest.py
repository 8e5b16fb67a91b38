"""What every test shares: an environment without network or traces, the browser and the shipped weights."""

import gc
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from surroundings import BROWSERS, ROOT, SLOW_FIXTURES, WEIGHTS, draw_nothing, missing


if TYPE_CHECKING:
    from playwright.sync_api import Browser


# torch, transformers, datasets and Gradio read these once, when they are imported. A home of our own keeps the tests
# clear of the caches and the token of whoever runs them, and of what earlier runs left behind. Networks as small as
# those of the tests gain nothing from a second thread, which another worker of `pytest -n 2` needs.
_HOME = tempfile.TemporaryDirectory(prefix="brain-tumor-unet-tests-", ignore_cleanup_errors=True)
os.environ.update(
    GRADIO_ANALYTICS_ENABLED="False",
    GRADIO_TEMP_DIR=f"{_HOME.name}/gradio",
    HF_HOME=f"{_HOME.name}/huggingface",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
    OMP_NUM_THREADS="1",
)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported stays: the collector need not look at it again in every test that trains or serves."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that ask for what is slow to make. Their files go first: who takes one last is waited for."""
    for item in items:
        if SLOW_FIXTURES.intersection(item.fixturenames):
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of an installed Chromium for Playwright's `executable_path`."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    missing(f"needs a browser: none of {', '.join(BROWSERS)} is on the PATH")


@pytest.fixture(scope="module")
def browser(request, chromium) -> Iterator["Browser"]:
    """The browser that visits the page, one for all tests of a file, which may set `BROWSER_OPTIONS`."""
    from playwright.sync_api import sync_playwright  # here, because most tests do without

    with sync_playwright() as playwright:
        options = getattr(request.module, "BROWSER_OPTIONS", ("--disable-gpu",))
        arguments = ["--no-sandbox", "--disable-background-networking", *options]
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def onnxruntime_web() -> Path:
    """What npm gives of the program that runs networks in a browser, for `--runtime`."""
    path = Path(os.environ.get("ONNXRUNTIME_WEB", "nowhere"))
    if not path.exists():
        missing("needs the file of npm that docs/static.md names, in the variable ONNXRUNTIME_WEB")
    return path.resolve()


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core, which finds barriers on a page, out of what npm gives."""
    path = Path(os.environ.get("AXE_CORE", "nowhere"))
    if not path.is_file():
        missing("needs the file of `npm pack axe-core@4.14.1`, in the variable AXE_CORE")
    with tarfile.open(path) as archive:
        script = archive.extractfile("package/axe.min.js")
        assert script
        return script.read().decode()


@pytest.fixture(scope="module")
def undrawn() -> Iterator[None]:
    """All trainings of a file leave their charts out."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        draw_nothing(monkeypatch)
        yield


@pytest.fixture(scope="session")
def shipped_weights() -> Path:
    """Folder of the shipped model, for `from_pretrained`."""
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        if not (WEIGHTS / name).is_file():
            missing(f"needs the shipped weights: {(WEIGHTS / name).relative_to(ROOT)} is missing")
    return WEIGHTS
