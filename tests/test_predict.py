"""`python -m modeling_unet predict`: what it finds, writes, reports and leaves alone."""

import csv
import os
import subprocess
import sys
from math import hypot
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import tiny_config

from modeling_unet import UNetForSemanticSegmentation, UNetImageProcessor, __main__
from modeling_unet.__main__ import main, write_atomically
from modeling_unet.overlay import draw_overlay
from modeling_unet.segmenter import TumorSegmenter


ROOT = Path(__file__).resolve().parents[1]
PROBABILITY = 1 / (1 + np.exp(-2))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    """A tiny model that gives every pixel of every slice the tumour probability `PROBABILITY`."""
    folder = tmp_path_factory.mktemp("model")
    model = UNetForSemanticSegmentation(tiny_config())
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.constant_(model.head.bias, 2)
    model.save_pretrained(folder)
    UNetImageProcessor(size={"longest_edge": 32}).save_pretrained(folder)
    return folder


@pytest.fixture
def predict(model_dir, tmp_path, monkeypatch):
    """Run the command in `tmp_path`; results go to `out` unless the arguments say otherwise."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, out="out") -> int:
        return main(["predict", *map(str, arguments), "--out", str(out), "--model", str(model_dir)])

    return run


def save_slice(path: Path, height: int = 30, width: int = 40, seed: int = 0) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    Image.fromarray(image).save(path)
    return image


def read_png(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def summary(out: Path) -> list[dict[str, str]]:
    with (out / "summary.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


class TestResults:
    def test_mask_overlay_and_measurements(self, predict, tmp_path, capsys):
        image = save_slice(tmp_path / "slice.png", 30, 40)
        assert predict("slice.png") == 0
        out = tmp_path / "out"
        assert files_below(out) == {"slice_mask.png", "slice_overlay.png", "summary.csv"}
        mask = read_png(out / "slice_mask.png")
        assert mask.dtype == np.uint8 and mask.shape == (30, 40) and (mask == 255).all()
        np.testing.assert_array_equal(read_png(out / "slice_overlay.png"), draw_overlay(image, mask))
        (row,) = summary(out)
        assert float(row.pop("seconds")) >= 0
        assert row == {
            "path": "slice.png",
            "tumor_found": "True",
            "highest_probability": str(round(PROBABILITY, 4)),
            "lesions": "1",
            "area_px": "1200",
            "area_percent": "100.0",
            "area_mm2": "",
            "longest_diameter_px": "50.0",
            "longest_diameter_mm": "",
            "error": "",
        }
        captured = capsys.readouterr()
        assert captured.out == "slices: 1, tumour found: 1, failed: 0; results in out\n"
        assert captured.err == ""

    def test_spacing(self, predict, tmp_path):
        save_slice(tmp_path / "slice.png", 30, 40)
        assert predict("slice.png", "--spacing", 0.5, 0.25) == 0
        (row,) = summary(tmp_path / "out")
        assert row["area_mm2"] == "150.0" and row["longest_diameter_px"] == "50.0"
        assert row["longest_diameter_mm"] == str(round(hypot(15, 10), 2))

    def test_threshold_above_the_probability_finds_nothing(self, predict, tmp_path):
        image = save_slice(tmp_path / "slice.png")
        assert predict("slice.png", "--threshold", 0.9) == 0
        (row,) = summary(tmp_path / "out")
        assert row["tumor_found"] == "False" and row["lesions"] == row["area_px"] == "0"
        assert row["longest_diameter_px"] == "" and row["highest_probability"] == str(round(PROBABILITY, 4))
        assert not read_png(tmp_path / "out" / "slice_mask.png").any()
        np.testing.assert_array_equal(read_png(tmp_path / "out" / "slice_overlay.png")[..., 0], image)

    @pytest.mark.parametrize("color", ["34c759", "#34c759"])
    def test_overlay_options(self, predict, tmp_path, color):
        image = save_slice(tmp_path / "slice.png")
        assert predict("slice.png", "--style", "contour", "--color", color, "--alpha", 0.8) == 0
        expected = draw_overlay(image, np.ones(image.shape, bool), (0x34, 0xC7, 0x59), 0.8, "contour")
        np.testing.assert_array_equal(read_png(tmp_path / "out" / "slice_overlay.png"), expected)

    def test_heatmap(self, predict, tmp_path):
        image = save_slice(tmp_path / "slice.png")
        assert predict("slice.png", "--style", "heatmap") == 0
        probability = np.full(image.shape, PROBABILITY)
        expected = draw_overlay(image, probability > 0.5, style="heatmap", probability=probability)
        difference = np.abs(read_png(tmp_path / "out" / "slice_overlay.png").astype(int) - expected)
        assert difference.max() <= 1

    def test_shipped_model_is_the_default(self, model_dir, tmp_path, monkeypatch):
        monkeypatch.setattr(__main__, "SHIPPED_MODEL", model_dir)
        save_slice(tmp_path / "slice.png")
        assert main(["predict", str(tmp_path / "slice.png"), "--out", str(tmp_path / "out")]) == 0
        assert summary(tmp_path / "out")[0]["area_percent"] == "100.0"

    def test_shipped_model_lies_beside_the_package(self):
        assert __main__.SHIPPED_MODEL == ROOT / "weights" / "brain-tumor-unet"


class TestFinding:
    def test_folders_recursively_with_their_structure(self, predict, tmp_path):
        names = ("1.tiff", "2.webp", "3.BMP", "4.jpeg", "5.tif", "a/1.png", "b/1.png", "b/deep/2.JPG", "masks/1.png")
        for name in names:
            save_slice(tmp_path / "slices" / name)
        (tmp_path / "slices" / "notes.txt").write_text("not a slice")
        save_slice(tmp_path / "slices" / ".hidden.png")
        save_slice(tmp_path / "slices" / ".cache" / "8.png")
        (tmp_path / "slices" / "folder.png").mkdir()
        assert predict("slices") == 0
        places = [name.partition(".")[0] for name in names]
        results = {f"{place}_{ending}.png" for place in places for ending in ("mask", "overlay")}
        assert files_below(tmp_path / "out") == results | {"summary.csv"}
        paths = [row["path"] for row in summary(tmp_path / "out")]
        assert paths == sorted(paths, key=lambda path: Path(path).parts) and len(paths) == 9
        assert all((tmp_path / path).is_file() for path in paths)

    def test_equal_names_from_several_arguments_stay_apart(self, predict, tmp_path):
        for name in ("a/1.png", "b/c/1.png", "b/2.png"):
            save_slice(tmp_path / name)
        assert predict("a/1.png", "b") == 0
        masks = {name for name in files_below(tmp_path / "out") if name.endswith("_mask.png")}
        assert masks == {"a/1_mask.png", "b/c/1_mask.png", "b/2_mask.png"}

    def test_equal_stems_keep_their_suffix(self, predict, tmp_path):
        save_slice(tmp_path / "in" / "1.png", 30, 40)
        save_slice(tmp_path / "in" / "1.bmp", 20, 20)
        save_slice(tmp_path / "in" / "1.PNG.tif", 25, 25)
        assert predict("in") == 0
        shapes = {path.name: read_png(path).shape for path in (tmp_path / "out").glob("*_mask.png")}
        assert shapes == {"1.png_mask.png": (30, 40), "1.bmp_mask.png": (20, 20), "1.PNG.tif_mask.png": (25, 25)}

    def test_names_that_differ_in_case_only(self, predict, tmp_path):
        """On a file system that does not tell them apart, their results must not have one name either."""
        save_slice(tmp_path / "in" / "a.png")
        save_slice(tmp_path / "in" / "A.bmp")
        assert predict("in") == 0
        names = {name.lower() for name in files_below(tmp_path / "out")}
        assert len(names) == 5

    def test_named_twice_done_once(self, predict, tmp_path):
        save_slice(tmp_path / "in" / "1.png")
        assert predict("in", "in/1.png", tmp_path / "in") == 0
        assert len(summary(tmp_path / "out")) == 1

    def test_named_file_may_have_any_suffix(self, predict, tmp_path):
        save_slice(tmp_path / "slice.png")
        (tmp_path / "slice.png").rename(tmp_path / "slice.0001")
        assert predict("slice.0001") == 0
        assert (tmp_path / "out" / "slice_mask.png").is_file()

    def test_name_outside_ascii(self, predict, tmp_path):
        save_slice(tmp_path / "Schädel №1.png")
        assert predict("Schädel №1.png") == 0
        assert summary(tmp_path / "out")[0]["path"] == "Schädel №1.png"

    def test_results_inside_the_input_are_not_read_again(self, predict, tmp_path):
        save_slice(tmp_path / "in" / "1.png")
        for _ in range(2):
            assert predict("in", out="in/results") == 0
        assert [row["path"] for row in summary(tmp_path / "in" / "results")] == [str(Path("in/1.png"))]

    def test_results_above_the_input(self, predict, tmp_path):
        save_slice(tmp_path / "in" / "1.png")
        assert predict("in", out=".") == 0
        assert (tmp_path / "1_mask.png").is_file()

    def test_input_is_never_overwritten(self, predict, tmp_path, capsys):
        save_slice(tmp_path / "in" / "1.png")
        save_slice(tmp_path / "in" / "1_mask.png", seed=1)
        before = (tmp_path / "in" / "1_mask.png").read_bytes()
        assert predict("in", out="in") == 2
        assert "would overwrite the slice in/1_mask.png" in capsys.readouterr().err.replace(os.sep, "/")
        assert (tmp_path / "in" / "1_mask.png").read_bytes() == before
        assert files_below(tmp_path / "in") == {"1.png", "1_mask.png"}


class TestBadFiles:
    def test_reported_in_one_line_and_the_rest_goes_on(self, predict, tmp_path, capsys):
        save_slice(tmp_path / "in" / "a.png")
        (tmp_path / "in" / "b.png").write_text("not a picture")
        (tmp_path / "in" / "c.png").touch()
        save_slice(tmp_path / "in" / "d.png", 12, 40)
        save_slice(tmp_path / "in" / "e.png")
        assert predict("in") == 1
        captured = capsys.readouterr()
        lines = captured.err.splitlines()
        assert len(lines) == 3
        for line, name, reason in zip(lines, "bcd", ("not an image", "empty", "12"), strict=True):
            assert line.startswith(str(Path("in", f"{name}.png: "))) and reason in line
            assert line.count(f"{name}.png") == 1
        assert captured.out == "slices: 5, tumour found: 2, failed: 3; results in out\n"
        rows = summary(tmp_path / "out")
        assert [bool(row["error"]) for row in rows] == [False, True, True, True, False]
        assert rows[1]["tumor_found"] == rows[1]["area_px"] == rows[1]["seconds"] == ""
        expected = {f"{name}_{ending}.png" for name in "ae" for ending in ("mask", "overlay")}
        assert files_below(tmp_path / "out") == expected | {"summary.csv"}

    def test_unexpected_errors_end_only_their_file(self, predict, tmp_path, capsys, monkeypatch):
        for name in "ab":
            save_slice(tmp_path / "in" / f"{name}.png")
        segment = TumorSegmenter.__call__

        def fail_once(self, image, spacing=None):
            if image.name == "a.png":
                raise KeyError("first\nsecond")
            return segment(self, image, spacing)

        monkeypatch.setattr(TumorSegmenter, "__call__", fail_once)
        assert predict("in") == 1
        assert [row["error"] for row in summary(tmp_path / "out")] == [r"KeyError: 'first\nsecond'", ""]
        assert len(capsys.readouterr().err.splitlines()) == 1

    def test_interrupted_run_keeps_its_table(self, predict, tmp_path, monkeypatch):
        for name in "abc":
            save_slice(tmp_path / "in" / f"{name}.png")
        segment = TumorSegmenter.__call__

        def interrupt(self, image, spacing=None):
            if image.name == "b.png":
                raise KeyboardInterrupt
            return segment(self, image, spacing)

        monkeypatch.setattr(TumorSegmenter, "__call__", interrupt)
        with pytest.raises(KeyboardInterrupt):
            predict("in")
        assert [Path(row["path"]).name for row in summary(tmp_path / "out")] == ["a.png"]


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["missing.png"], "missing.png: there is no such file or folder"),
            (["slice.png", "missing"], "missing: there is no such file or folder"),
            (["empty"], "no slices in empty; looked for .png, .jpg"),
            (["slice.png", "--threshold", "1.5"], "threshold is 1.5; allowed are values from 0 to 1"),
            (["slice.png", "--alpha", "-1"], "alpha is -1.0; allowed are values from 0 to 1"),
            (["slice.png", "--color", "red"], "color is 'red'; allowed are"),
            (["slice.png", "--spacing", "0", "1"], "spacing is [0.0, 1.0]; allowed are two positive numbers"),
            (["slice.png", "--model", "empty"], "model type of empty is unknown"),
        ],
    )
    def test_one_clear_line_and_nothing_written(self, model_dir, tmp_path, monkeypatch, capsys, arguments, message):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(__main__, "SHIPPED_MODEL", model_dir)
        save_slice(tmp_path / "slice.png")
        (tmp_path / "empty").mkdir()
        assert main(["predict", *arguments, "--out", "out"]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.startswith("error: ") and message in captured.err
        assert len(captured.err.splitlines()) == 1
        assert files_below(tmp_path) == {"slice.png"} and not (tmp_path / "out").exists()

    def test_no_model_anywhere(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(__main__, "SHIPPED_MODEL", tmp_path / "weights")
        save_slice(tmp_path / "slice.png")
        assert main(["predict", str(tmp_path / "slice.png"), "--out", str(tmp_path / "out")]) == 2
        assert "name one with --model, a folder or a Hub id" in capsys.readouterr().err

    def test_out_is_a_file(self, predict, tmp_path, capsys):
        save_slice(tmp_path / "slice.png")
        assert predict("slice.png", out="slice.png") == 2
        assert capsys.readouterr().err.startswith("error: --out slice.png is a file; allowed is a folder")

    @pytest.mark.parametrize(
        "arguments",
        ["", "predict", "predict slice.png", "predict --out out", "predict slice.png --out out --style outline"],
    )
    def test_argparse_errors_exit_with_2(self, arguments, capsys):
        with pytest.raises(SystemExit) as stopped:
            main(arguments.split())
        assert stopped.value.code == 2
        assert "usage: python -m modeling_unet" in capsys.readouterr().err

    def test_help(self, capsys):
        with pytest.raises(SystemExit) as stopped:
            main(["predict", "--help"])
        assert stopped.value.code == 0
        text = capsys.readouterr().out
        for word in ("PATH", "--out", "--model", "--threshold", "--alpha", "--color", "--style", "--spacing"):
            assert word in text
        assert "examples:" in text and "not for diagnosis" in text

    def test_as_a_module(self, model_dir, tmp_path):
        """The real command: exit code, streams, no progress bar where no terminal is."""
        save_slice(tmp_path / "in" / "1.png")
        (tmp_path / "in" / "2.png").write_text("not a picture")
        command = [sys.executable, "-m", "modeling_unet", "predict", str(tmp_path / "in")]
        command += ["--out", str(tmp_path / "out"), "--model", str(model_dir)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 1
        assert done.stdout.startswith("slices: 2, tumour found: 1, failed: 1; ")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"{tmp_path / 'in' / '2.png'}: the file is not an image")


class TestWriting:
    def test_failed_write_leaves_the_old_file_and_nothing_else(self, tmp_path, monkeypatch):
        path = tmp_path / "summary.csv"
        path.write_text("old")
        write = Path.write_bytes

        def full_disk(self, content):
            write(self, content[:2])
            raise OSError("No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full_disk)
        with pytest.raises(OSError, match="No space left"):
            write_atomically(path, b"new content")
        assert path.read_text() == "old" and files_below(tmp_path) == {"summary.csv"}

    def test_written_whole_in_a_new_folder(self, tmp_path):
        write_atomically(tmp_path / "a" / "b" / "file", b"new content")
        assert (tmp_path / "a" / "b" / "file").read_bytes() == b"new content"
        assert files_below(tmp_path) == {"a/b/file"}

    def test_unwritable_result_fails_its_slice_only(self, predict, tmp_path, capsys):
        for name in "ab":
            save_slice(tmp_path / "in" / f"{name}.png")
        (tmp_path / "out" / "a_mask.png").mkdir(parents=True)
        assert predict("in") == 1
        assert len(capsys.readouterr().err.splitlines()) == 1
        assert [bool(row["error"]) for row in summary(tmp_path / "out")] == [True, False]
        assert files_below(tmp_path / "out") == {"b_mask.png", "b_overlay.png", "summary.csv"}
