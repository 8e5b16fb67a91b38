"""The Python snippets of README and model card, each run as it stands, in a process of its own.

A snippet that does not import the package runs without it. The repository of the snippets is served from the loopback
device; its weights are the shipped ones, and so are the page's. `docs/onnx.md` has its turn in test_export.py.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import phantoms
import pytest
from hub import Hub
from pages import served
from served import serve

import app
from modeling_unet import UNetForSemanticSegmentation, UNetImageProcessor
from train.files import save_model


ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "images" / "glioma-axial-726.png"
PAGE = "http://127.0.0.1:7860"


def snippets() -> list:
    found = []
    for name in ("README.md", "model_card.md"):
        blocks = re.findall(
            r"^```python\n(.*?)^```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        )
        found += [pytest.param(block, id=f"{name}-{number}") for number, block in enumerate(blocks, start=1)]
    return found


@pytest.fixture(scope="module")
def hub(shipped_weights, tmp_path_factory):
    """The Hub on which the shipped weights are published as the snippets have it."""
    folder = tmp_path_factory.mktemp("published")
    model = UNetForSemanticSegmentation.from_pretrained(shipped_weights)
    save_model(model, UNetImageProcessor.from_pretrained(shipped_weights), folder)
    with Hub() as hub:
        serve(hub, "YOU/brain-tumor-unet", folder, tag="v1")
        yield hub


@pytest.fixture(scope="module")
def desk(shipped_weights, tmp_path_factory) -> Path:
    """A folder with what a reader has at hand: a slice, a scan, the examples and the shipped weights, but no code."""
    desk = tmp_path_factory.mktemp("desk")
    shutil.copy(EXAMPLE, desk / "slice.png")
    (desk / "scan.nii.gz").write_bytes(phantoms.nifti(phantoms.noise(64, 64, 3)))
    (desk / "examples").symlink_to(ROOT / "examples")
    (desk / "weights").symlink_to(ROOT / "weights")
    return desk


@pytest.fixture(scope="module")
def page(shipped_weights) -> Iterator[str]:
    """Address of the page, at a port that is free."""
    with served(app.build_app(app.load_network())) as url:
        yield url.rstrip("/")


def test_there_are_snippets_for_every_way_of_loading():
    text = "\n".join(parameter.values[0] for parameter in snippets())
    for call in ("TumorSegmenter", "UNetForSemanticSegmentation", "AutoModelForSemanticSegmentation"):
        assert f"{call}.from_pretrained(" in text
    assert "pipeline(" in text
    assert len(re.findall(r"YOU/", text)) <= len(re.findall(r'revision="|\*\*published', text)), "pin the revision"


@pytest.mark.slow
@pytest.mark.parametrize("snippet", snippets())
def test_snippet_runs_as_it_stands(snippet, hub, desk, request):
    if PAGE in snippet:
        snippet = snippet.replace(PAGE, request.getfixturevalue("page"))
    package = {"PYTHONPATH": str(ROOT)} if "modeling_unet" in snippet else {}
    without = "" if package else 'import sys; sys.modules["modeling_unet"] = None\n'
    ran = subprocess.run(
        [sys.executable, "-c", without + snippet],
        cwd=desk,
        env=os.environ | hub.environment | package,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
