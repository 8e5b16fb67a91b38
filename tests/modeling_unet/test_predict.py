"""`python -m modeling_unet predict`: what it finds, writes, reports and leaves alone."""

import csv
import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from math import hypot
from pathlib import Path

import fresh
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from surroundings import ROOT
from tiny import EVEN_LOGIT, save_even_model

from modeling_unet import UNetForSemanticSegmentation, __main__, prediction, provenance
from modeling_unet.__main__ import main
from modeling_unet.files import write_atomically
from modeling_unet.journal import Source
from modeling_unet.overlay import DEFAULT_COLOR, draw_overlay
from modeling_unet.prediction import Shard
from modeling_unet.segmenter import TumorSegmenter


PROBABILITY = 1 / (1 + np.exp(-EVEN_LOGIT))


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    """A tiny model that gives every pixel of every slice the tumour probability `PROBABILITY`."""
    return save_even_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def predict(model_dir, tmp_path, monkeypatch):
    """Run the command in `tmp_path`; results go to `out` unless the arguments say otherwise."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, out="out") -> int:
        return main(["predict", "--out", str(out), "--model", str(model_dir), *map(str, arguments)])

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


def results_below(folder: Path) -> set[str]:
    """Without the journal, which is for later runs."""
    return files_below(folder) - {"journal.jsonl"}


class TestResults:
    def test_mask_overlay_and_measurements(self, predict, tmp_path, capsys):
        image = save_slice(tmp_path / "slice.png", 30, 40)
        assert predict("slice.png") == 0
        out = tmp_path / "out"
        assert results_below(out) == {"slice_mask.png", "slice_overlay.png", "summary.csv"}
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
            "volume_ml": "",
            "familiarity": "",
            "warnings": "",
            "error": "",
        }
        captured = capsys.readouterr()
        assert captured.out == "slices: 1, tumour found: 1, failed: 0; results in out\n"
        assert captured.err == ""

    def test_pages_of_a_file_are_slices(self, predict, tmp_path, capsys):
        pages = [Image.fromarray(np.full((20 + number, 30), 50 * number, np.uint8)) for number in range(3)]
        (tmp_path / "in").mkdir()
        pages[0].save(tmp_path / "in" / "scan.tif", save_all=True, append_images=pages[1:])
        pages[0].save(tmp_path / "in" / "one.tif")
        assert predict("in") == 0
        out = tmp_path / "out"
        names = ["one", "scan_page-1", "scan_page-2", "scan_page-3"]
        assert results_below(out) == {"summary.csv"} | {
            f"{name}_{kind}.png" for name in names for kind in ("mask", "overlay")
        }
        assert [read_png(out / f"{name}_mask.png").shape[0] for name in names] == [20, 20, 21, 22]
        paths = [row["path"] for row in summary(out)]
        assert paths == ["in/one.tif", "in/scan.tif/page-1", "in/scan.tif/page-2", "in/scan.tif/page-3"]
        capsys.readouterr()
        assert predict("in") == 0
        assert "slices: 4 (4 kept from before)" in capsys.readouterr().out

    def test_arrays_are_slices_and_four_sequences_are_none(self, predict, tmp_path):
        (tmp_path / "in").mkdir()
        np.save(tmp_path / "in" / "a.npy", np.random.default_rng(0).random((20, 30)))
        np.save(tmp_path / "in" / "four.npy", np.zeros((4, 20, 30), np.float32))
        assert predict("in") == 1
        assert results_below(tmp_path / "out") == {"a_mask.png", "a_overlay.png", "summary.csv"}
        whole, four = summary(tmp_path / "out")
        assert not whole["error"] and four["error"].startswith("four.npy: four channels of type float32")

    def test_pictures_in_an_archive_are_slices(self, predict, tmp_path, capsys):
        content = io.BytesIO()
        Image.fromarray(np.zeros((20, 30), np.uint8)).save(content, "PNG")
        stack = io.BytesIO()
        pages = [Image.fromarray(np.zeros((20, 30), np.uint8))] * 2
        pages[0].save(stack, "TIFF", save_all=True, append_images=pages[1:])
        with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
            archive.writestr("a/1.png", content.getvalue())
            archive.writestr("a/notes.txt", "These are no pixels.")
            archive.writestr("b.tif", stack.getvalue())
            archive.writestr("broken.png", b"no picture")
        assert predict("study.zip") == 1
        names = ["study/a/1", "study/b_page-1", "study/b_page-2"]
        assert results_below(tmp_path / "out") == {"summary.csv"} | {
            f"{name}_{kind}.png" for name in names for kind in ("mask", "overlay")
        }
        rows = summary(tmp_path / "out")
        inside = ["a/1.png", "b.tif/page-1", "b.tif/page-2", "broken.png"]
        assert [row["path"] for row in rows] == [f"study.zip/{name}" for name in inside]
        assert [row["error"][:12] for row in rows] == ["", "", "", "broken.png: "]
        assert "study.zip/broken.png: the file is not an image" in capsys.readouterr().err

    def test_pictures_in_an_archive_keep_out_of_the_folder_beside_it(self, predict, tmp_path):
        save_slice(tmp_path / "in" / "study" / "1.png")
        with zipfile.ZipFile(tmp_path / "in" / "study.zip", "w") as archive:
            archive.write(tmp_path / "in" / "study" / "1.png", "1.png")
        assert predict("in") == 0
        assert {"study/1_mask.png", "study.zip/1_mask.png"} < results_below(tmp_path / "out")

    def test_a_picture_that_was_scaled_down_says_so(self, predict, tmp_path, capsys):
        Image.fromarray(np.zeros((40, 8200), np.uint8)).save(tmp_path / "long.png")
        assert predict("long.png", "--spacing", 0.5, 0.25) == 0
        (row,) = summary(tmp_path / "out")
        assert row["area_px"] == "82000" and row["area_mm2"] == str(float(40 * 8200 * 0.5 * 0.25))
        assert row["warnings"] == "The picture of 8200 × 40 pixels was scaled down to 4100 × 20, and so is the mask."
        assert f"long: {row['warnings']}" in capsys.readouterr().err

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
        monkeypatch.setattr(provenance, "SHIPPED_MODEL", model_dir)
        save_slice(tmp_path / "slice.png")
        assert main(["predict", str(tmp_path / "slice.png"), "--out", str(tmp_path / "out")]) == 0
        assert summary(tmp_path / "out")[0]["area_percent"] == "100.0"

    def test_shipped_model_lies_beside_the_package(self):
        assert provenance.SHIPPED_MODEL == ROOT / "weights" / "brain-tumor-unet"


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
        assert results_below(tmp_path / "out") == results | {"summary.csv"}
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
        names = {name.lower() for name in results_below(tmp_path / "out")}
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

    @pytest.mark.parametrize("letter", ["n", "ę", "\N{BRAIN}", "\udcff"])
    def test_names_as_long_as_a_file_system_takes(self, predict, tmp_path, segmented, letter):
        """Results have longer names than their slices, and stay apart also where they differ at the end alone."""
        size = len(os.fsencode(letter))
        for end in "xy":
            save_slice(tmp_path / "in" / f"{letter * (246 // size)}{end}.png")
        assert predict("in") == 0
        names = results_below(tmp_path / "out")
        assert len(names) == 5 and max(len(os.fsencode(name)) for name in names) < 225
        assert predict("in") == 0
        assert sum(segmented) == 2

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
        assert results_below(tmp_path / "out") == expected | {"summary.csv"}

    def test_a_name_reaches_the_terminal_without_what_steers_it(self, predict, tmp_path, capsys):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a\x1b[31m\nb.png").write_text("not a picture")
        assert predict("in") == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(str(Path("in", "a\ufffd[31m\ufffdb.png: the file"))) and "\x1b" not in line

    @pytest.mark.parametrize("route", ["warning", "folder", "out", "argument", "network", "ray"])
    def test_no_message_steers_the_terminal(self, predict, tmp_path, monkeypatch, capsys, route):
        """Names come through warnings, folders, options, the shell and errors of others."""
        name = "a\x1b[31m\nb\x9b"
        save_slice(tmp_path / name / "1.png")
        colours = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(colours).save(tmp_path / name / f"{name}.png")

        def fail(*arguments):
            raise KeyError(name) if route == "network" else OSError(13, name, name)

        if route == "network":
            monkeypatch.setattr(TumorSegmenter, "batch", fail)
        elif route == "folder":
            monkeypatch.setattr(os, "scandir", fail)
        elif route == "ray":
            monkeypatch.setattr(__main__, "_segment_on_ray", fail)
        try:
            options = {"argument": [f"--{name}"], "ray": ["--ray"]}.get(route, [])
            code = predict(name, *options, out=name if route == "out" else "out")
        except SystemExit as stopped:
            code = stopped.code
        assert code == {"warning": 0, "folder": 1, "out": 0, "argument": 2, "network": 1, "ray": 2}[route]
        captured = capsys.readouterr()
        said = captured.out + captured.err
        assert "a\ufffd[31m" in said or "a\\x1b[31m" in said
        assert all(character.isprintable() or character == "\n" for character in said)
        assert not any(line.startswith("b") for line in said.splitlines())

    def test_a_folder_that_cannot_be_searched_is_named_and_counted(self, predict, tmp_path, monkeypatch, capsys):
        for place in ("a.png", "locked/b.png", "locked.png", "open/c.png"):
            save_slice(tmp_path / "in" / place)
        scan = os.scandir

        def refuse(path="."):
            if Path(path).name == "locked":
                raise PermissionError(13, "Permission denied", str(path))
            return scan(path)

        monkeypatch.setattr(os, "scandir", refuse)
        assert predict("in") == 1
        captured = capsys.readouterr()
        assert captured.err == f"{Path('in', 'locked')}: the folder cannot be read: Permission denied.\n"
        assert captured.out == "slices: 4, tumour found: 3, failed: 1; results in out\n"
        errors = {Path(row["path"]).name: row["error"] for row in summary(tmp_path / "out")}
        assert {name for name, error in errors.items() if error} == {"locked"}
        assert (tmp_path / "out" / "locked_mask.png").is_file(), "the folder takes no slice's place"
        assert predict("in/locked", out="other") == 1
        monkeypatch.setattr(os, "scandir", scan)
        assert predict("in") == 0

    def test_a_file_that_may_not_be_read_says_so(self, predict, tmp_path, monkeypatch, capsys):
        for name in ("a.png", "b.png", "c.png"):
            save_slice(tmp_path / "in" / name)
        opened, status = Path.open, Path.stat

        def refuse_to_open(self, *arguments, **options):
            if self.name == "a.png":
                raise PermissionError(13, "Permission denied", str(self))
            return opened(self, *arguments, **options)

        def refuse_to_tell(self, **options):
            if self.name == "b.png":
                raise PermissionError(13, "Permission denied", str(self))
            return status(self, **options)

        monkeypatch.setattr(Path, "open", refuse_to_open)
        monkeypatch.setattr(Path, "stat", refuse_to_tell)
        assert predict("in") == 1
        lines = [f"{Path('in', name)}: the file cannot be read: Permission denied." for name in ("a.png", "b.png")]
        assert capsys.readouterr().err.splitlines() == lines

    @pytest.mark.parametrize(("name", "value", "code"), [("head.weight", np.nan, 2), ("running_var", -1, 1)])
    def test_damaged_weights_never_say_that_there_is_no_tumour(self, model_dir, tmp_path, capsys, name, value, code):
        """NaN is seen at once, before anything is written; what becomes NaN in the network, with every slice."""
        model = shutil.copytree(model_dir, tmp_path / "model")
        weights = load_file(model / "model.safetensors")
        next(tensor for key, tensor in weights.items() if key.endswith(name)).fill_(value)
        save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
        slice_file = tmp_path / "slice.png"
        save_slice(slice_file)
        assert main(["predict", str(slice_file), "--model", str(model), "--out", str(tmp_path / "out")]) == code
        captured = capsys.readouterr()
        assert "NaN or infinite" in captured.err and "tumour found: 1" not in captured.out
        assert not list(tmp_path.glob("out/*.png"))

    def test_unexpected_errors_end_only_their_file(self, predict, tmp_path, capsys, monkeypatch):
        for name, side in (("a", 20), ("b", 30)):
            save_slice(tmp_path / "in" / f"{name}.png", side, side)
        segment = TumorSegmenter.batch

        def fail_for_a(self, images, *arguments):
            if any(picture.pixels.shape == (20, 20) for picture in images):
                raise KeyError("first\nsecond")
            return segment(self, images, *arguments)

        monkeypatch.setattr(TumorSegmenter, "batch", fail_for_a)
        assert predict("in") == 1
        assert [row["error"] for row in summary(tmp_path / "out")] == [r"KeyError: 'first\nsecond'", ""]
        assert len(capsys.readouterr().err.splitlines()) == 1

    def test_batch_too_large_for_the_memory_is_segmented_one_by_one(self, predict, tmp_path, monkeypatch):
        for name in "abc":
            save_slice(tmp_path / "in" / f"{name}.png")
        segment = TumorSegmenter.batch

        def fail_for_many(self, images, *arguments):
            if len(images) > 1:
                raise RuntimeError("out of memory")
            return segment(self, images, *arguments)

        monkeypatch.setattr(TumorSegmenter, "batch", fail_for_many)
        assert predict("in") == 0
        assert [row["area_percent"] for row in summary(tmp_path / "out")] == ["100.0"] * 3

    def test_interrupted_run_keeps_its_table(self, predict, tmp_path, monkeypatch, capsys):
        for name, side in (("a", 20), ("b", 30), ("c", 20)):
            save_slice(tmp_path / "in" / f"{name}.png", side, side)
        segment = TumorSegmenter.batch

        def interrupt(self, images, *arguments):
            if images[0].pixels.shape == (30, 30):
                raise KeyboardInterrupt
            return segment(self, images, *arguments)

        monkeypatch.setattr(TumorSegmenter, "batch", interrupt)
        assert predict("in", "--batch_size", 1) == 130
        captured = capsys.readouterr()
        assert captured.err.startswith("interrupted; ") and captured.err.count("\n") == 1 and not captured.out
        assert [Path(row["path"]).name for row in summary(tmp_path / "out")] == ["a.png"]
        assert not [name for name in files_below(tmp_path / "out") if name.endswith(".tmp")]


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["missing.png"], "missing.png: there is no such file or folder"),
            (["slice.png", "missing"], "missing: there is no such file or folder"),
            (["empty"], "no slices and no volumes in empty; looked for .png, .jpg"),
            (["slice.png", "--threshold", "1.5"], "threshold is 1.5; allowed are values from 0 to 1"),
            (["slice.png", "--alpha", "-1"], "alpha is -1.0; allowed are values from 0 to 1"),
            (["slice.png", "--color", "red"], "color is 'red'; allowed are"),
            (["slice.png", "--spacing", "0", "1"], "spacing is [0.0, 1.0]; allowed are two positive numbers"),
            (["slice.png", "--model", "empty"], "model type of empty is unknown"),
            (["slice.png", "--batch_size", "0"], "batch_size is 0; allowed are whole numbers from 1"),
            (["slice.png", "--shard", "3/2"], "shard is 3/2; allowed are 1/N to N/N"),
            (["slice.png", "--shard", "0/2"], "shard is 0/2; allowed are 1/N to N/N"),
            (["slice.png", "--shard", "2"], "shard is '2'; allowed are 1/N to N/N"),
        ],
    )
    def test_one_clear_line_and_nothing_written(self, model_dir, tmp_path, monkeypatch, capsys, arguments, message):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(provenance, "SHIPPED_MODEL", model_dir)
        save_slice(tmp_path / "slice.png")
        (tmp_path / "empty").mkdir()
        assert main(["predict", *arguments, "--out", "out"]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.startswith("error: ") and message in captured.err
        assert len(captured.err.splitlines()) == 1
        assert files_below(tmp_path) == {"slice.png"} and not (tmp_path / "out").exists()

    def test_no_model_anywhere(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(provenance, "SHIPPED_MODEL", tmp_path / "weights")
        save_slice(tmp_path / "slice.png")
        assert main(["predict", str(tmp_path / "slice.png"), "--out", str(tmp_path / "out")]) == 2
        assert "name a folder or a Hub id with --model" in capsys.readouterr().err

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
        options = "--out --model --quality --framing --threshold --alpha --color --style --spacing"
        options += " --batch_size --shard --ray"
        assert all(word in text for word in ("PATH", *options.split()))
        assert "examples:" in text and "not for diagnosis" in text

    @pytest.mark.slow
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


def test_a_slice_whose_colours_differ_is_named(predict, tmp_path, capsys):
    save_slice(tmp_path / "in" / "grey.png")
    colours = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "in" / "colours.png")
    assert predict("in") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "averaged to grey" in line]
    assert len([line for line in said if line.startswith("colours: The colours of the picture differ")]) == 1
    assert not [line for line in said if "grey: " in line.partition("The colours")[0]]


@pytest.fixture
def segmented(monkeypatch) -> list[int]:
    """How many slices went through the network, batch by batch."""
    sizes = []
    segment = TumorSegmenter.batch

    def count(self, images, *arguments):
        sizes.append(len(images))
        return segment(self, images, *arguments)

    monkeypatch.setattr(TumorSegmenter, "batch", count)
    return sizes


def write_slices(folder: Path, count: int):
    """Slices of different sizes, and one that is none."""
    for number in range(count):
        save_slice(folder / f"{number:02}.png", 20 + number, 30, seed=number)
    (folder / "03.png").write_text("not a picture")


def contents(out: Path) -> dict[str, object]:
    """Every result in a folder, and the table without what it took to make it."""
    rows = [{**row, "seconds": ""} for row in summary(out)]
    pictures = {name: (out / name).read_bytes() for name in files_below(out) if name.endswith(".png")}
    return {**pictures, "summary.csv": rows}


class TestPipeline:
    def test_batches(self, predict, tmp_path, segmented):
        for number in range(5):
            save_slice(tmp_path / "in" / f"{number}.png", 20 + number, 30)
        assert predict("in", "--batch_size", 2) == 0
        assert segmented == [2, 2, 1]
        heights = [read_png(tmp_path / "out" / f"{number}_mask.png").shape[0] for number in range(5)]
        assert heights == [20, 21, 22, 23, 24]

    def test_unreadable_slice_leaves_its_batch_alone(self, predict, tmp_path, segmented):
        for number in range(4):
            save_slice(tmp_path / "in" / f"{number}.png")
        (tmp_path / "in" / "1.png").write_text("not a picture")
        assert predict("in", "--batch_size", 4) == 1
        assert segmented == [3]

    def test_never_more_than_three_batches_in_memory(self, model_dir, tmp_path, monkeypatch):
        slices = {str(number): tmp_path / f"{number}.png" for number in range(40)}
        for file in slices.values():
            save_slice(file, 16, 16)
        entered, left, most = [], [], []
        read = prediction.read_slice

        def enter(*arguments):
            entered.append(arguments)
            most.append(len(entered) - len(left))
            return read(*arguments)

        monkeypatch.setattr(prediction, "read_slice", enter)
        segmenter = TumorSegmenter.from_pretrained(model_dir, device="cpu")
        arguments = {"segmenter": segmenter, "out": tmp_path, "options": prediction.Options(), "batch_size": 4}
        sources = {place: Source.of_slice(file) for place, file in slices.items()}
        assert len(list(prediction.segment_files(sources, left.append, **arguments))) == 40
        assert len(left) == 40 and max(most) <= 3 * 4 + 2


SIGNALLED = """
import os, signal, sys
from modeling_unet.__main__ import main
from modeling_unet.journal import Journal

add = Journal.add

def add_and_signal(self, outcome):
    add(self, outcome)
    if len(self.outcomes) == 3:
        os.kill(os.getpid(), int(sys.argv[1]))

Journal.add = add_and_signal
sys.exit(main(sys.argv[2:]))
"""


def predict_and_signal(
    number: signal.Signals, batch_size: int, model_dir: Path, folder: Path
) -> subprocess.CompletedProcess:
    """`predict in --out out` in a process of its own, which gets the signal when the third slice is noted."""
    arguments = ["predict", "in", "--out", "out", "--batch_size", str(batch_size), "--model", str(model_dir)]
    return fresh.ours().run(SIGNALLED, int(number), *arguments, cwd=folder)


class TestGoingOn:
    @pytest.fixture
    def done(self, predict, tmp_path, segmented):
        """Two slices, done; what `segmented` counts comes after."""
        for name in "ab":
            save_slice(tmp_path / "in" / f"{name}.png")
        assert predict("in") == 0
        segmented.clear()
        return tmp_path / "out"

    def test_nothing_is_done_twice(self, done, predict, segmented, capsys):
        table = (done / "summary.csv").read_bytes()
        times = [(done / name).stat().st_mtime_ns for name in sorted(files_below(done)) if name.endswith(".png")]
        capsys.readouterr()
        assert predict("in") == 0
        assert not sum(segmented) and (done / "summary.csv").read_bytes() == table
        assert [
            (done / name).stat().st_mtime_ns for name in sorted(files_below(done)) if name.endswith(".png")
        ] == times
        assert capsys.readouterr().out == (
            "slices: 2 (2 kept from before), tumour found: 2, failed: 0; results in out\n"
        )

    def test_new_slice_is_added(self, done, predict, tmp_path, segmented):
        save_slice(tmp_path / "in" / "aa.png")
        assert predict("in") == 0
        assert segmented == [1]
        assert [Path(row["path"]).name for row in summary(done)] == ["a.png", "aa.png", "b.png"]

    @pytest.mark.parametrize(
        "change",
        [
            lambda folder: save_slice(folder / "in" / "a.png", seed=1),
            lambda folder: (folder / "out" / "a_mask.png").unlink(),
            lambda folder: (folder / "out" / "a_overlay.png").write_bytes(b"half"),
            lambda folder: (
                (folder / "in" / "b.png").replace(folder / "in" / "a.png") and save_slice(folder / "in" / "b.png")
            ),
        ],
        ids=["another slice", "no mask", "half an overlay", "two other slices"],
    )
    def test_what_changed_is_done_again(self, done, predict, tmp_path, segmented, change):
        change(tmp_path)
        assert predict("in") == 0
        assert 0 < sum(segmented) <= 2
        fresh = tmp_path / "fresh"
        assert predict("in", out=fresh) == 0
        assert contents(done) == contents(fresh)

    @pytest.mark.parametrize(
        "option",
        [
            ("--quality", "best"),
            ("--threshold", 0.4),
            ("--style", "contour"),
            ("--color", "00ff00"),
            ("--spacing", 1, 2),
        ],
    )
    def test_other_options_do_all_again(self, done, predict, segmented, option):
        assert predict("in", *option) == 0
        assert sum(segmented) == 2

    def test_the_same_options_in_other_words(self, done, predict, segmented):
        assert predict("in", "--color", DEFAULT_COLOR.upper(), "--threshold", "0.50", "--batch_size", 1) == 0
        assert not sum(segmented)

    def test_other_weights_do_all_again(self, done, predict, model_dir, tmp_path, segmented):
        other = tmp_path / "model"
        shutil.copytree(model_dir, other)
        assert predict("in", "--model", other) == 0
        assert not sum(segmented), "a copy holds the same weights"
        model = UNetForSemanticSegmentation.from_pretrained(other)
        torch.nn.init.constant_(model.head.bias, -2)
        model.save_pretrained(other)
        assert predict("in", "--model", other) == 0
        assert sum(segmented) == 2 and summary(done)[0]["tumor_found"] == "False"

    def test_equal_places_of_other_folders_are_other_slices(self, done, predict, tmp_path, segmented):
        shutil.copytree(tmp_path / "in", tmp_path / "other", copy_function=shutil.copy2)
        assert predict("other") == 0
        assert sum(segmented) == 2

    def test_results_that_another_run_replaced_are_done_again(self, predict, tmp_path, segmented):
        """The shard's journal is as it should be; the files are those of the run in between."""
        save_slice(tmp_path / "in" / "a.png")
        assert predict("in", "--shard", "1/2") == 0
        assert predict("in", "--threshold", 0.4) == 0
        assert predict("in") == 0
        assert segmented == [1, 1, 1]

    def test_failed_slice_is_tried_again(self, predict, tmp_path, segmented):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.png").write_text("not a picture")
        save_slice(tmp_path / "in" / "b.png")
        assert predict("in") == 1
        save_slice(tmp_path / "in" / "a.png")
        assert predict("in") == 0
        assert sum(segmented) == 2 and not any(row["error"] for row in summary(tmp_path / "out"))

    @pytest.mark.slow
    def test_killed_run_goes_on(self, predict, model_dir, tmp_path, segmented):
        """`kill -9` when the third of six slices is noted, in the middle of whatever else is under way."""
        for number in range(6):
            save_slice(tmp_path / "in" / f"{number}.png", 20 + number, 20)
        killed = predict_and_signal(signal.SIGKILL, 2, model_dir, tmp_path)
        assert killed.returncode == -signal.SIGKILL
        out = tmp_path / "out"
        assert not (out / "summary.csv").exists()
        for name in files_below(out):
            if name.endswith(".png"):
                read_png(out / name)
        with (out / "journal.jsonl").open("a") as journal:
            journal.write('{"place": "5", "row": {"tumor_')
        kept = len((out / "journal.jsonl").read_text().splitlines()) - 2
        assert kept >= 3
        assert predict("in", "--batch_size", 2) == 0
        assert sum(segmented) == 6 - kept
        assert predict("in", "--batch_size", 2, out="fresh") == 0
        assert contents(out) == contents(tmp_path / "fresh")

    @pytest.mark.slow
    def test_ctrl_c_is_one_sentence(self, predict, model_dir, tmp_path, segmented):
        """The signal itself, to the command itself, when the third of six slices is noted."""
        for number in range(6):
            save_slice(tmp_path / "in" / f"{number}.png", 20 + number, 20)
        done = predict_and_signal(signal.SIGINT, 1, model_dir, tmp_path)
        assert done.returncode == 130 and not done.stdout
        assert done.stderr == "interrupted; the same command goes on from where it can\n"
        kept = len(summary(tmp_path / "out"))
        assert 3 <= kept <= 6 and not [name for name in files_below(tmp_path / "out") if name.endswith(".tmp")]
        assert predict("in", "--batch_size", 1) == 0
        assert sum(segmented) == 6 - kept


class TestShards:
    @pytest.mark.parametrize(("slices", "shards", "batch_size"), [(0, 2, 8), (1, 2, 8), (50, 3, 4), (64, 4, 8)])
    def test_each_batch_is_in_one_shard(self, slices, shards, batch_size):
        slices = {str(number): Path(f"{number}.png") for number in range(slices)}
        parts = [list(Shard(number + 1, shards).take(slices, batch_size)) for number in range(shards)]
        assert sorted(place for part in parts for place in part) == sorted(slices)
        places = list(slices)
        batches = [places[start : start + batch_size] for start in range(0, len(places), batch_size)]
        for number, part in enumerate(parts):
            assert part == [place for batch in batches[number::shards] for place in batch]

    def test_torchrun_says_which(self, monkeypatch):
        assert Shard.from_environment() == Shard(1, 1)
        monkeypatch.setenv("RANK", "2")
        monkeypatch.setenv("WORLD_SIZE", "4")
        assert Shard.from_environment() == Shard.parse("3/4")

    def test_each_process_of_torchrun_takes_a_gpu_of_its_own(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert __main__.own_device() == "auto"
        monkeypatch.setenv("LOCAL_RANK", "3")
        assert __main__.own_device() == "cuda:1"
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        assert __main__.own_device() == "auto"

    @pytest.mark.slow
    def test_two_processes_give_the_files_of_one(self, predict, model_dir, tmp_path, segmented):
        """torchrun starts them, a bad file stops neither, and the run that joins their tables segments nothing."""
        write_slices(tmp_path / "in", 7)
        options = ("--batch_size", 2, "--style", "heatmap")
        arguments = ("predict", "in", "--out", "out", *options, "--model", model_dir)
        done = fresh.torchrun("modeling_unet.__main__", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        out = tmp_path / "out"
        tables = [(out / f"summary-{number}-of-2.csv").read_text().splitlines() for number in (1, 2)]
        assert [len(table) - 1 for table in tables] == [4, 3] and not (out / "summary.csv").exists()
        assert predict("in", *options) == 1
        assert not sum(segmented)
        assert predict("in", *options, out="one") == 1
        assert contents(out) == contents(tmp_path / "one")

    def test_shards_one_after_another(self, predict, tmp_path, segmented):
        write_slices(tmp_path / "in", 7)
        assert predict("in", "--shard", "2/2", "--batch_size", 2) == 1
        assert segmented == [1, 1] and not (tmp_path / "out" / "summary.csv").exists()
        assert predict("in", "--batch_size", 2) == 1
        assert sum(segmented) == 6, "what the missing shard should have done, and no more"
        assert predict("in", out="one") == 1
        assert contents(tmp_path / "out") == contents(tmp_path / "one")


WITHOUT_RAY = """
import sys
sys.modules["ray"] = None
from modeling_unet.__main__ import main

if code := main(sys.argv[1:]):
    sys.exit(code)
"""


class TestRay:
    @pytest.mark.slow
    def test_two_workers_give_the_files_of_one(self, predict, model_dir, tmp_path, segmented):
        write_slices(tmp_path / "in", 12)
        program = "import sys; from modeling_unet.__main__ import main; sys.exit(main(sys.argv[1:]))"
        arguments = ("predict", "in", "--out", "out", "--batch_size", 1, "--ray", "--model", model_dir)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # for Ray's workers
        done = fresh.ours().run(program, *arguments, cwd=tmp_path, environment=environment, timeout=600)
        assert done.returncode == 1, done.stderr
        assert done.stdout == "slices: 12, tumour found: 11, failed: 1; results in out\n"
        assert predict("in", out="one") == 1
        assert contents(tmp_path / "out") == contents(tmp_path / "one")
        segmented.clear()
        assert predict("in") == 1
        assert not sum(segmented)

    @pytest.mark.slow
    def test_missing_ray_is_said_in_one_line(self, model_dir, tmp_path):
        save_slice(tmp_path / "slice.png")
        arguments = ("predict", "slice.png", "--out", "out", "--model", model_dir, "--ray")
        done = fresh.ours().run(WITHOUT_RAY, *arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr == 'error: --ray needs the package ray; run: pip install "ray[data]"\n'
        assert files_below(tmp_path) == {"slice.png"}

    @pytest.mark.slow
    def test_nothing_of_it_is_needed_unasked(self, model_dir, tmp_path):
        save_slice(tmp_path / "slice.png")
        program = f'{WITHOUT_RAY}assert "modeling_unet.on_ray" not in sys.modules'
        done = fresh.ours().run(program, "predict", "slice.png", "--out", "out", "--model", model_dir, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


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

    @pytest.mark.parametrize(
        ("full", "written"),
        [("summary.csv", "both"), ("a_mask.png", "b"), ("a_overlay.png", "b"), ("journal.jsonl", "none")],
    )
    def test_full_disk_is_one_sentence_and_the_next_run_goes_on(
        self, predict, tmp_path, monkeypatch, capsys, full, written
    ):
        for name in "ab":
            save_slice(tmp_path / "in" / f"{name}.png")
        write = Path.write_bytes

        def write_on_full_disk(self, content):
            if full in self.name:
                write(self, content[:2])
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(self, content)

        monkeypatch.setattr(Path, "write_bytes", write_on_full_disk)
        code = 2 if full == "journal.jsonl" else 1  # which is the first that is written
        assert predict("in") == code
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith(f"{Path('out', full)} cannot be written: No space left on device.")
        assert not [name for name in files_below(tmp_path / "out") if name.endswith(".tmp") or name == full]
        monkeypatch.setattr(Path, "write_bytes", write)
        assert predict("in") == 0
        kept = {"both": " (2 kept from before)", "b": " (1 kept from before)", "none": ""}[written]
        assert capsys.readouterr().out.startswith(f"slices: 2{kept}, ")

    @pytest.mark.parametrize("cut", [False, True], ids=["nothing is written", "a part is written"])
    def test_a_journal_that_cannot_go_on_ends_the_run(self, predict, tmp_path, monkeypatch, capsys, cut):
        for name in "abc":
            save_slice(tmp_path / "in" / f"{name}.png")
        open_file = Path.open

        class FullDisk(io.FileIO):
            def write(self, line):
                if not cut:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return super().write(line[:5])

        def open_on_full_disk(self, mode="r", *arguments, **options):
            return FullDisk(self, "a") if mode == "ab" else open_file(self, mode, *arguments, **options)

        monkeypatch.setattr(Path, "open", open_on_full_disk)
        assert predict("in", "--batch_size", 1) == 1
        captured = capsys.readouterr()
        assert captured.err == f"error: {Path('out', 'journal.jsonl')} cannot be written: No space left on device.\n"
        assert not captured.out and not summary(tmp_path / "out")
        monkeypatch.setattr(Path, "open", open_file)
        assert predict("in", "--batch_size", 1) == 0
        assert len(summary(tmp_path / "out")) == 3

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
        assert results_below(tmp_path / "out") == {"b_mask.png", "b_overlay.png", "summary.csv"}
