"""Where the project lies, and what its tests need of the machine."""

import os
from pathlib import Path
from typing import NoReturn

import pytest


ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "weights" / "brain-tumor-unet"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WEBGL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")  # drawn on the processor
# What is trained for long, read by a browser, served, or made by fresh processes.
SLOW_FIXTURES = {
    *("chromium", "ended", "executed", "exported", "fine_tuned", "loaded", "published"),
    *("on_all", "received", "site", "straight", "stranger", "trained", "tuned", "url"),
}


def draw_nothing(monkeypatch: pytest.MonkeyPatch):
    """Trainings leave their charts out, which take half of a short one."""
    monkeypatch.setattr("train.fitting.curves.write_figure", lambda draw, path: False)
    monkeypatch.setattr("train.fitting.run._write_sheet", lambda *_: None)


def missing(what: str) -> NoReturn:
    """Fail where the whole suite has to run (`CI=true`), skip with the reason anywhere else."""
    if os.environ.get("CI") == "true":
        pytest.fail(what, pytrace=False)
    pytest.skip(what)
