"""What README, model card and docs tell people to type.

Every Python snippet runs as it stands, in a process of its own; one that does not import the package runs without it.
The repository of the snippets is served from the loopback device; its weights are the shipped ones, and so are the
page's. `docs/onnx.md` has its turn in test_export.py; `docs/experiments.md` is a record, and its folders are gone.
Commands have options that exist, and links lead somewhere.
"""

import os
import re
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import phantoms
import pytest
from fresh import PYTORCH, Starter
from hub import Hub
from pages import served
from served import serve
from surroundings import ROOT

import app
from modeling_unet import UNetForSemanticSegmentation, UNetImageProcessor
from train.files import save_model


pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")  # as other tests import them

EXAMPLE = ROOT / "examples" / "images" / "glioma-axial-726.png"
PAGE = "http://127.0.0.1:7860"
TRANSFORMERS = "AutoImageProcessor, AutoModelForSemanticSegmentation, PreTrainedModel, pipeline"

DOCUMENTS = [
    path.relative_to(ROOT).as_posix()
    for path in (*(ROOT / name for name in ("README.md", "model_card.md", "CONTRIBUTING.md")), *ROOT.glob("docs/*.md"))
]
RUN_ELSEWHERE = ("docs/experiments.md", "docs/onnx.md")
GUIDES = ("start", "use", "volumes", "train", "share", "results", "how-it-works")
# Commands that hand their other options to fit.
HANDING_ON = ("train cv", "train ensemble")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
MAX_README_WORDS = 700  # it is a door; what is said at length is said in docs/


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def snippets() -> list:
    """(Python, the output that is shown below it) of every snippet; "" where none is shown."""
    fenced = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE)
    return [
        pytest.param(*found.groups(default=""), id=f"{name}-{number}")
        for name in DOCUMENTS
        if name not in RUN_ELSEWHERE
        for number, found in enumerate(fenced.finditer(read(name)), start=1)
    ]


def commands() -> dict[str, dict[str, set[str]]]:
    """Module and command, such as "train fit" → its options in the documents → where they stand."""
    found = {}
    for name in DOCUMENTS:
        for line in re.sub(r"\\\n\s*", " ", read(name)).split("\n"):
            for typed in re.findall(r"-m (train|modeling_unet|benchmarks\.\w+)\b([^`#|&]*)", line):
                words = typed[1].split()
                kinds = 0 if typed[0].startswith("benchmarks") else 2 if words[:1] == ["publish"] else 1
                if kinds and not (words and words[0].isalpha() and words[0].islower()):
                    continue  # a mention, such as `python -m train COMMAND`
                options = found.setdefault(" ".join([typed[0], *words[:kinds]]), {})
                for word in words:
                    if re.match(r"--\w", word):
                        options.setdefault(word.partition("=")[0], set()).add(name)
    return found


def anchors(document: str) -> set[str]:
    """Where links into a document may lead: its headings, as GitHub and the Hub name them."""
    prose = re.sub(r"^```.*?^```", "", read(document), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


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
def starter(hub) -> Starter:
    """Of processes that have imported transformers, but nothing of ours."""
    return Starter(f"{PYTORCH}; from transformers import {TRANSFORMERS}", os.environ | hub.environment)


@pytest.fixture(scope="module")
def desk(shipped_weights, tmp_path_factory) -> Path:
    """A folder with what a reader has at hand: a slice, a scan, the examples and the shipped weights, but no code."""
    desk = tmp_path_factory.mktemp("desk")
    shutil.copy(EXAMPLE, desk / "slice.png")
    (desk / "scan.nii.gz").write_bytes(phantoms.nifti(phantoms.noise(32, 32, 3)))
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


def test_every_guide_is_there_and_the_readme_is_a_door():
    text = read("README.md")
    for guide in GUIDES:
        assert f"docs/{guide}.md" in text and (ROOT / "docs" / f"{guide}.md").is_file()
    assert len(text.split("---\n", 2)[2].split()) <= MAX_README_WORDS
    assert "Not a medical device" in text


@pytest.mark.parametrize(("command", "options"), commands().items(), ids=commands())
def test_options_of_documented_commands_exist(command, options, monkeypatch, capsys):
    for asked in [command, *(["train fit"] if command in HANDING_ON else [])]:
        module, *words = asked.split()
        monkeypatch.setattr(sys, "argv", [module, *words, "--help"])
        with pytest.raises(SystemExit):
            runpy.run_module(module, run_name="__main__")
    known = {*re.findall(r"--\w+", capsys.readouterr().out)}
    assert not {option: places for option, places in options.items() if option not in known}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", read(document)):
        linked = (ROOT / document).parent / target if target else ROOT / document
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(os.path.relpath(linked, ROOT)), f"{target}#{anchor}"


@pytest.mark.slow
@pytest.mark.parametrize(("snippet", "shown"), snippets())
def test_snippet_runs_as_it_stands(snippet, shown, hub, starter, desk, request):
    if PAGE in snippet:
        snippet = snippet.replace(PAGE, request.getfixturevalue("page"))
    package = {"PYTHONPATH": str(ROOT)} if "modeling_unet" in snippet else {}
    without = "" if package else 'import sys; sys.modules["modeling_unet"] = None\n'
    ran = starter.run(without + snippet, cwd=desk, environment=os.environ | hub.environment | package)
    assert ran.returncode == 0, ran.stderr
    if shown:
        assert NUMBER.sub("#", ran.stdout) == NUMBER.sub("#", shown)
        printed, expected = ([float(number) for number in NUMBER.findall(text)] for text in (ran.stdout, shown))
        assert printed == pytest.approx(expected, rel=0.03)  # half precision moves an edge by some pixels
