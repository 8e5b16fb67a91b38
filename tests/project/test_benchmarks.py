"""The benchmarks run on a tiny model, and their figures are of what they say."""

import io
import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import fresh
import numpy as np
import phantoms
import pytest
import torch
from slices import write_data_set, write_persons
from tiny import TINY, tiny_config

from benchmarks import compare, contestants, framing, growth, load, measuring, profile, volumes
from benchmarks.perturbations import Perturbed
from modeling_unet import TumorSegmenter, UNetForSemanticSegmentation, UNetImageProcessor, read_image
from modeling_unet.volumes import read_volume


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    UNetForSemanticSegmentation(tiny_config()).save_pretrained(folder)
    UNetImageProcessor(size={"longest_edge": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """The benchmarks set their own number for the whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _small_peers(monkeypatch) -> None:
    """What peers see costs as much as what they are."""
    monkeypatch.setattr(contestants, "SIDE", 32)


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "new" / "figures.json"


class TestMeasuring:
    def test_tasks_take_turns_and_warm_up_is_not_counted(self):
        turns = []
        tasks = {name: lambda number, name=name: turns.append((name, number)) for name in ("a", "b")}
        seconds = measuring.take_turns(tasks, rounds=3)
        assert turns == [(name, number) for number in range(-measuring.WARM_UP_ROUNDS, 3) for name in ("a", "b")]
        assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}

    def test_summary_by_hand(self):
        summary = measuring.summarize({"a": [0.1, 0.2, 0.3], "b": [0.8, 0.8, 0.8]}, slices=4)
        assert summary["a"] == {"median_ms": 200, "p95_ms": 290, "slices_per_s": 20, "times_the_first": 1}
        assert summary["b"] == {"median_ms": 800, "p95_ms": 800, "slices_per_s": 5, "times_the_first": 4}

    def test_the_machine_is_described(self, monkeypatch):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
        machine = json.loads(json.dumps(measuring.describe_machine()))
        assert machine["cores"] >= 1 and machine["threads"] == torch.get_num_threads()
        assert machine["onednn_max_cpu_isa"] == "AVX2" and machine["torch"] == torch.__version__


class TestFraming:
    def test_summary_by_hand(self):
        plain, none, auto = (
            [{"dice": dice, "frames": frames} for dice, frames in looks]
            for looks in (
                [(0.8, ()), (0.8, ()), (0.4, ())],
                [(0.4, ()), (0.0, ()), (0.2, ())],
                [(0.6, ((0, 0, 9, 9),)), (0.8, ()), (0.4, ())],
            )
        )
        row = framing.summarize(plain, none, auto, ["a", "a", "b"])
        assert (row["none"], row["auto"], row["kept"], row["framed"]) == (0.2, 0.6, 0.9, 1)
        assert row["change"] == "-0.0667 (-0.1000 to +0.0000)"

    def test_of_plain_slices_the_framed_alone_are_looked_at_again(self):
        image = read_image(measuring.EXAMPLES[0])
        wide = np.pad(image, 300)
        pictures = [Perturbed(picture, picture > 0, picture > 0) for picture in (image, wide, image)]
        asked = []

        class Asked:
            def batch(self, images, framing):
                asked.append((framing, len(images)))
                found = SimpleNamespace(dice=lambda mask: 0.5, frames=((1, 2, 3, 4),), inverted=False)
                return iter([found for _ in images])

        none = [{"dice": 1.0, "frames": (), "inverted": False}] * 3
        looks = framing.look_again(Asked(), pictures, none)
        assert asked == [("auto", 1)] and framing.dice_of(looks) == [1.0, 0.5, 1.0]

    def test_folds_and_splits_that_hold_nothing_are_named(self):
        with pytest.raises(SystemExit, match="no slices of the split test and the fold 9"):
            framing.read_slices(measuring.ROOT / "examples", "test", "9")


@pytest.fixture
def _forked(monkeypatch) -> None:
    """The processes that a benchmark starts are forked, and peers see as little in them."""

    def run(command: list[str], *, cwd: Path, env=os.environ, **_) -> subprocess.CompletedProcess:
        _, kind, program, *arguments = command
        if kind == "-m":
            program = f"import sys, {program}; {program}.main(sys.argv[1:])"
        small = f"from benchmarks import contestants; contestants.SIDE = {contestants.SIDE}\n"
        ran = fresh.ours().run(small + program, *arguments, cwd=cwd, environment=env)
        assert ran.returncode == 0, ran.stderr
        return ran

    monkeypatch.setattr(subprocess, "run", run)


@pytest.mark.slow
class TestCompare:
    def test_slices(self, model_dir, out, capsys):
        report = compare.main(
            [f"--model={model_dir}", "--rounds=1", "--batch_size=2", "--threads=1", "--only_slices", f"--out={out}"]
        )
        assert report == json.loads(out.read_text())
        assert report.keys() == {"machine", "one slice", "2 slices"}
        for title in ("one slice", "2 slices"):
            assert report[title].keys() == contestants.MAKERS.keys()
            assert all(0 < row["median_ms"] <= row["p95_ms"] for row in report[title].values())
            assert title in capsys.readouterr().out or title == "2 slices"

    @pytest.mark.parametrize("name", contestants.MAKERS)
    def test_contestants_answer_at_the_size_of_the_slice(self, name, model_dir):
        rival = contestants.MAKERS[name](model_dir, "cpu")
        (probability,) = rival.from_arrays([np.eye(70, 50, dtype=np.uint8)])
        assert probability.shape == (70, 50) and 0 <= probability.min() <= probability.max() <= 1
        assert rival.from_file(measuring.EXAMPLES[0].read_bytes()).shape == (512, 512)

    @pytest.mark.usefixtures("_forked")
    def test_size_and_memory(self, model_dir):
        table = compare.compare_sizes({"ours": contestants.Ours(model_dir)}, rounds=1, sizes=[32, 64])
        assert table["ours"].keys() == {"32 px", "64 px"} and min(table["ours"].values()) > 0
        assert 50 < compare.peak_memory_mib("ours", model_dir) < 4000

    @pytest.mark.usefixtures("_forked")
    def test_avx2_is_measured_in_a_process_that_is_limited_to_it(self, model_dir):
        options = compare.parse([f"--model={model_dir}", "--rounds=1", "--batch_size=1", "--threads=1"])
        report = compare.compare_on_avx2(options)
        assert report["machine"]["onednn_max_cpu_isa"] == "AVX2"
        assert report["one slice"].keys() == contestants.MAKERS.keys()


class TestProfile:
    def test_a_slice(self, model_dir, out, capsys):
        report = profile.main([f"--model={model_dir}", "--rounds=2", "--device=cpu", f"--out={out}"])
        assert report == json.loads(out.read_text())
        stages = report["one slice"]
        assert sum(stage["percent"] for stage in stages.values()) == pytest.approx(100, abs=0.5)
        outside = report["percent_outside_the_network"]
        assert outside == pytest.approx(100 - stages["network"]["percent"], abs=0.1)
        assert f"outside the network: {outside} %" in capsys.readouterr().out

    def test_the_stages_are_those_of_the_segmenter(self, model_dir):
        segmenter = TumorSegmenter.from_pretrained(model_dir, device="cpu")
        content = measuring.EXAMPLES[0].read_bytes()
        staged = profile.segment_in_stages(segmenter, content, profile.Stopwatch(segmenter.device))
        expected = segmenter(io.BytesIO(content))
        np.testing.assert_array_equal(staged.probability, expected.probability)
        np.testing.assert_array_equal(staged.image, expected.image)

    @pytest.mark.slow
    def test_training(self, tmp_path, out):
        folder = write_data_set(tmp_path / "slices")
        persons = write_persons(tmp_path / "persons.csv", [f"p{number // 2}" for number in range(12)])
        report = profile.main(
            [
                *(f"--data_dir={folder}", "--steps=2", f"--out={out}", "--threads=1", "--persons", str(persons)),
                *("--architecture", "resnet34", "--encoder_weights", "random", "--config", json.dumps(TINY)),
                *("--image_size", "32", "--per_device_train_batch_size", "4", "--dataloader_num_workers", "0"),
            ]
        )
        stages = report["training step"]
        assert stages.keys() == {"waiting for data", "computing"}
        assert stages["computing"]["median_ms"] > 0
        assert sum(stage["percent"] for stage in stages.values()) == pytest.approx(100, abs=0.5)

    def test_an_option_of_training_needs_a_data_set(self, capsys):
        with pytest.raises(SystemExit):
            profile.main(["--learning_rate", "1"])
        assert "--learning_rate is no option of the profile of a slice" in capsys.readouterr().err


@pytest.mark.slow
class TestGrowth:
    def test_every_pass_is_measured_for_every_number_of_slices(self, out, monkeypatch, capsys):
        monkeypatch.setenv("HF_DATASETS_CACHE", os.environ["HF_HOME"])  # the benchmark gives its processes another one
        monkeypatch.setattr(growth, "ProcessPoolExecutor", lambda *_, **__: ThreadPoolExecutor(1))
        report = growth.main(["--slices", "60", "72", "--rows", "600", "--side=32", f"--out={out}"])
        assert report == json.loads(out.read_text())
        slices = [f"{count} slices of 32 px" for count in (60, 72)]
        assert report.keys() == {"machine", "side", *slices, "600 rows"}
        assert report[slices[0]].keys() == report[slices[1]].keys() >= {"scan", "near-duplicates", "cache", "donors"}
        assert all(row["s / 1,000"] >= 0 and 50 < row["MiB"] < 8000 for row in report[slices[1]].values())
        assert report["600 rows"].keys() == {"persons, findings", "near-duplicates"}
        assert "72 slices of 32 px" in capsys.readouterr().out


class TestLoad:
    @pytest.mark.slow
    def test_every_user_gets_the_own_answers(self, model_dir, out):
        report = load.main([f"--model={model_dir}", "--users", "1", "3", "--minutes=0.01", f"--out={out}"])
        assert report == json.loads(out.read_text())
        assert report["load"].keys() == {"1 users", "3 users"}
        for row in report["load"].values():
            assert row["answers"] > 0 and row["wrong"] == row["refused"] == 0
            assert row["p50_s"] <= row["p95_s"] and 50 < row["mib_before"] <= row["mib_peak"]

    @pytest.mark.parametrize(
        ("size", "flipped", "is_right"),
        [((40, 30), 0, True), ((40, 30), 6, True), ((40, 30), 7, False), ((30, 40), 0, False)],
    )
    def test_an_answer_to_another_slice_is_wrong(self, size, flipped, is_right):
        expected, mask = np.zeros((40, 30), bool), np.zeros(size, bool)
        mask.flat[:flipped] = True
        measurements = {"height": size[0], "width": size[1]}
        assert load.Question(Path("slice.png"), expected).is_answered_by(measurements, mask) == is_right

    def test_no_two_slices_have_the_same_size(self, model_dir, tmp_path):
        segmenter = TumorSegmenter.from_pretrained(model_dir, device="cpu")
        questions = [question for own in load.make_questions(segmenter, 3, tmp_path) for question in own]
        assert len({question.mask.shape for question in questions}) == len(questions) == 3 * load.SLICES_PER_USER


class TestVolumes:
    @pytest.fixture
    def normal(self, tmp_path) -> Path:
        """A head without a tumour, of voxels of 6 mm."""
        voxels, tumor = phantoms.head((6.0, 6.0, 6.0))
        path = tmp_path / "normal.nii.gz"
        path.write_bytes(phantoms.nifti(np.where(tumor, phantoms.BRAIN, voxels), np.diag([6.0, 6, 6, 1])))
        return path

    @pytest.mark.parametrize("ml", [3.0, 25.0])
    def test_a_pasted_lesion_has_its_size_and_is_brighter_than_the_brain(self, normal, ml):
        volume = read_volume(normal)
        phantom, truth = volumes.paste(volume, ml, np.random.default_rng(0))
        assert volume.volume_ml(truth) == pytest.approx(ml, abs=volume.voxel_ml)
        changed = phantom.slices != volume.slices
        assert changed[truth].all() and changed.sum() < 4 * truth.sum() + 60
        assert np.percentile(phantom.slices[truth], 80) > 1.2 * phantoms.BRAIN
        assert (volume.slices[truth] == phantoms.BRAIN).mean() > 0.8

    def test_every_picture_is_looked_at_once(self):
        asked = []

        class Counted:
            def batch(self, images, batch_size, framing):
                asked.append(len(images))
                return iter([image.sum() for image in images])

        remembering = volumes.Remembering(Counted())
        one, other = np.ones((4, 4), np.float32), np.zeros((4, 4), np.float32)
        assert [*remembering.batch([one, other])] == [16, 0] and [*remembering.batch([other, one])] == [0, 16]
        assert asked == [2, 0]

    def test_summary_by_hand(self):
        ways = (volumes.SLICES, "axial", "coronal", volumes.TOGETHER)
        marked = {"a": (9, 5, 6, 0), "b": (7, 5, 4, 1)}
        normal = {name: dict(zip(ways, figures, strict=True)) for name, figures in marked.items()}
        pasted = [{"found": dice == 1, "axial": 0.5, "coronal": 0.25, volumes.TOGETHER: dice} for dice in (1.0, 0.75)]
        rows = volumes.summarize(normal, pasted)
        assert rows[volumes.SLICES] == {"normal, median mL": 8, "largest mL": 9}
        assert rows["coronal"] == {"normal, median mL": 5, "largest mL": 6, "Dice": 0.25}
        assert rows[volumes.TOGETHER]["found"] == "50.0%"
        assert rows[volumes.TOGETHER]["better than the best alone by"] == "0.375 (0.250 to 0.500)"

    @pytest.mark.slow
    def test_it_runs(self, model_dir, normal, out, monkeypatch):
        volumes.main([str(normal), "--lesions", "1", "--model", str(model_dir), "--out", str(out)])
        figures = json.loads(out.read_text(encoding="utf-8"))
        ways = {"axial", "coronal", "sagittal", volumes.TOGETHER}
        assert figures["phantoms"][0].keys() == {"volume", "ml", "found"} | ways
        assert figures["normal"].keys() == {"normal.nii.gz"}
        monkeypatch.setattr(volumes, "COST_SIDE", 32)
        result = volumes.main([str(normal), "--cost", "--model", str(model_dir)])
        assert result["cost"]["voxels"] == 32**3 and result["cost"]["MiB at most"] >= result["cost"]["MiB before"]
