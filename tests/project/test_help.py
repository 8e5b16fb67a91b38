"""Every command explains itself: `--help` is the first thing that anybody types."""

import re
import runpy
import sys

import pytest
from surroundings import ROOT

from modeling_unet.__main__ import build_parser, main
from train.__main__ import COMMANDS


pytestmark = pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")  # as other tests import them

KINDS_TO_PUBLISH = ("model", "dataset", "space")


def subcommands() -> list[str]:
    (commands,) = (action.choices for action in build_parser()._actions if action.choices)
    return list(commands)


EVERY_COMMAND = [
    "train",
    *(f"train {command}" for command in COMMANDS),
    *(f"train publish {kind}" for kind in KINDS_TO_PUBLISH),
    "modeling_unet",
    *(f"modeling_unet {command}" for command in subcommands()),
    *(
        f"{path.parent.name}.{path.stem}"
        for folder in ("benchmarks", "docs")
        for path in sorted((ROOT / folder).glob("*.py"))
        if "ArgumentParser(" in path.read_text(encoding="utf-8")
    ),
]


def test_the_list_of_commands_is_whole():
    assert {"train fit", "train publish space", "modeling_unet predict", "benchmarks.load"} <= set(EVERY_COMMAND)


@pytest.mark.parametrize("command", EVERY_COMMAND)
def test_help_is_printed(command, monkeypatch, capsys):
    module, *options = command.split()
    monkeypatch.setattr(sys, "argv", [module, *options, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(module, run_name="__main__")
    output = capsys.readouterr()
    assert end.value.code in (0, None), output.err
    assert output.out.startswith("usage:") and not output.err


@pytest.mark.parametrize(
    ("program", "name"),
    [("bin/brain-tumor-unet", "brain-tumor-unet"), ("modeling_unet/__main__.py", "python -m modeling_unet")],
)
def test_help_names_the_command_as_it_was_typed(program, name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [program, "predict", "--help"])
    with pytest.raises(SystemExit):
        main()
    text = capsys.readouterr().out
    assert text.startswith(f"usage: {name} predict ")
    assert f"\n  {name} predict slice.png --out results\n" in text


def test_percent_signs_are_printed_as_they_are(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", "fit", "--help"])
    with pytest.raises(SystemExit):
        runpy.run_module("train", run_name="__main__")
    assert "each another ± 5 %, from and to" in re.sub(r"\s+", " ", capsys.readouterr().out)
