"""Which pictures a network knows: distance by hand, what lies beside the weights, what is said of other pictures."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from slices import draw_slice, write_data_set, write_persons
from surroundings import ROOT
from tiny import tiny_config

from modeling_unet import TumorSegmenter, UNetConfig, UNetForSemanticSegmentation, UNetImageProcessor
from modeling_unet.familiarity import FAMILIARITY_FILE, Familiarity, levels_of, pool, shrunk_covariance
from modeling_unet.provenance import weights_hash
from modeling_unet.segmentation import UNLIKE, Segmentation
from space.network import Origin
from space.studies import Settings, Slice, Study
from space.views import UNKNOWN, draw_report
from train.__main__ import main


EXAMPLES = sorted((ROOT / "examples" / "images").glob("*.png"))


def line_of(count: int) -> Familiarity:
    """One feature, known to be about 0, and held-out slices at the distances 1, 2, …"""
    return Familiarity(torch.zeros(1), torch.eye(1), torch.arange(1.0, count + 1))


@pytest.fixture
def model_dir(tmp_path) -> Path:
    torch.manual_seed(0)
    UNetForSemanticSegmentation(tiny_config()).save_pretrained(tmp_path / "model")
    UNetImageProcessor(size={"longest_edge": 32}).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="module")
def shipped(shipped_weights) -> TumorSegmenter:
    return TumorSegmenter.from_pretrained(shipped_weights, device="cpu", optimize="none")


# The distance


def test_familiarity_is_the_share_of_held_out_slices_that_lie_as_far():
    assert line_of(4)(torch.tensor([[0.0], [2.0], [2.5], [-4.0], [4.1]])) == [1, 0.75, 0.5, 0.25, 0]
    assert line_of(4)(torch.tensor([[torch.nan], [torch.inf]])) == [0, 0]


def test_distance_counts_in_units_of_the_deviation():
    random = torch.Generator().manual_seed(0)
    training = torch.randn(5000, 2, generator=random) * torch.tensor([10.0, 0.1]) + 3
    familiarity = Familiarity.fit(training, training[:50])
    far = familiarity.distance(torch.tensor([[3.0, 3.0], [23.0, 3.0], [3.0, 3.2]]))
    assert far.tolist() == pytest.approx([0, 2, 2], abs=0.1)
    assert len(familiarity.distances) == 50 and familiarity.distances.diff().min() >= 0


def test_covariance_is_shrunk_where_slices_are_few():
    few = torch.randn(5, 20, generator=torch.Generator().manual_seed(0)).double()
    assert torch.linalg.eigvalsh(shrunk_covariance(few - few.mean(dim=0))).min() > 0.1


@pytest.mark.parametrize(
    ("training", "held_out"), [(torch.ones(5, 3), torch.ones(2, 3)), (torch.eye(3), torch.ones(0, 3))]
)
def test_slices_that_say_nothing_are_refused(training, held_out):
    with pytest.raises(ValueError, match="slices that differ, and slices of other persons"):
        Familiarity.fit(training, held_out)


def test_pooling_leaves_the_black_out():
    picture = torch.zeros(1, 1, 8, 8)
    picture[..., :4, :4] = 1
    channels = torch.stack([torch.full((4, 4), 5.0), torch.arange(16.0).reshape(4, 4)])[None]
    assert pool(picture, [channels]).tolist() == [[5, (0 + 1 + 4 + 5) / 4]]
    assert pool(torch.zeros(1, 1, 8, 8), [channels]).isfinite().all()


@pytest.mark.parametrize(
    ("config", "levels"),
    [(tiny_config(), [0, 1]), (UNetConfig(), [2, 3])],
    ids=["three maps", "EfficientNet-Lite0"],
)
def test_the_maps_before_the_deepest_are_looked_at(config, levels):
    assert levels_of(config)[-1] == len(config.skip_widths) - 2 and len(levels_of(config)) <= 2
    assert levels_of(config) == levels


# Beside the weights


def test_a_model_without_it_warns_of_nothing(model_dir):
    segmentation = TumorSegmenter.from_pretrained(model_dir, device="cpu")(draw_slice(np.random.default_rng(0))[0])
    assert segmentation.familiarity is None and segmentation.is_familiar and segmentation.warnings == ()


@pytest.mark.parametrize("quality", ["fast", "best"])
@pytest.mark.parametrize("optimize", ["none", "auto"])
def test_masks_are_the_same_with_it(model_dir, optimize, quality):
    image = draw_slice(np.random.default_rng(0))[0]
    how = {"device": "cpu", "optimize": optimize, "quality": quality}
    before = TumorSegmenter.from_pretrained(model_dir, **how)(image)
    Familiarity(torch.zeros(10), torch.eye(10), torch.tensor([1e6])).save_pretrained(model_dir)
    after = TumorSegmenter.from_pretrained(model_dir, **how)(image)
    assert np.array_equal(before.probability, after.probability)
    assert (before.familiarity, after.familiarity) == (None, 1)


def test_of_several_frames_the_least_familiar_counts(model_dir, monkeypatch):
    segmenter = TumorSegmenter.from_pretrained(model_dir, device="cpu")
    segmenter.familiarity = Familiarity(torch.zeros(10), torch.eye(10), torch.ones(1))
    found = [(np.zeros((4, 4), np.float32), 0.5), (np.zeros((4, 4), np.float32), 0.25)]
    monkeypatch.setattr(segmenter, "_look_at", lambda images: found[: len(images)])
    monkeypatch.setattr("modeling_unet.segmenter.paste", lambda frames, probabilities, size: probabilities[0])

    class Cut:
        def cut(self, image):
            return image

    assert segmenter._framed(np.zeros((4, 4)), [Cut(), Cut()], 8)[1] == 0.25


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"mean": torch.zeros(10), "precision": torch.eye(10)}, "missing are distances"),
        ({"mean": torch.zeros(10), "precision": torch.eye(9), "distances": torch.ones(1)}, "allowed are [D], [D, D]"),
        ({"mean": torch.zeros(10), "precision": torch.eye(10), "distances": torch.ones(0)}, "allowed are [D], [D, D]"),
        ({"mean": torch.zeros(9), "precision": torch.eye(9), "distances": torch.ones(1)}, "of another model"),
    ],
    ids=["missing", "not square", "empty", "another model"],
)
def test_a_damaged_file_is_said(model_dir, tensors, said):
    save_file(tensors, model_dir / FAMILIARITY_FILE)
    with pytest.raises((OSError, ValueError), match=re.escape(said)):
        TumorSegmenter.from_pretrained(model_dir, device="cpu")


@pytest.fixture
def teach(model_dir, tmp_path) -> Callable[..., int]:
    """`calibrate` on a data set of ten persons, two slices each, of whom two are in fold 0."""
    folder = write_data_set(tmp_path / "data", count=20)
    write_persons(folder / "persons.csv", [f"p{number // 2}" for number in range(20)])
    data = ("--data_dir", str(folder), "--persons", str(folder / "persons.csv"), "--fold", "0")
    return lambda *options: main(["calibrate", *data, "--model", str(model_dir), *options])


def check_that_it_knows(model: Path, tmp_path: Path) -> None:
    segmenter = TumorSegmenter.from_pretrained(model, device="cpu", optimize="none", framing="none")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    assert len(segmenter.familiarity.distances) == 4
    assert segmenter(tmp_path / "data" / "images" / "1.png").is_familiar and segmenter(noise).warnings == (UNLIKE,)
    with safe_open(model / FAMILIARITY_FILE, "pt") as file:
        assert file.metadata() == {"weights_sha256": weights_hash(model)}


def test_calibration_fits_it(model_dir, tmp_path, teach):
    assert teach("--output_dir", str(tmp_path / "calibrated")) == 0
    check_that_it_knows(tmp_path / "calibrated", tmp_path)
    assert not (model_dir / FAMILIARITY_FILE).exists()


def test_it_is_fitted_alone_for_a_model_that_saw_everybody(model_dir, tmp_path, teach):
    before = {path.name: path.read_bytes() for path in model_dir.iterdir()}
    assert teach("--only_familiarity", "--output_dir", f"{model_dir}/") == 0
    check_that_it_knows(model_dir, tmp_path)
    after = {path.name: path.read_bytes() for path in model_dir.iterdir()}
    assert after == {**before, FAMILIARITY_FILE: after[FAMILIARITY_FILE]}


def test_it_is_written_nowhere_but_beside_its_weights(tmp_path, teach, capsys):
    assert teach("--only_familiarity", "--output_dir", str(tmp_path / "other")) == 1
    assert "--only_familiarity writes into the folder of one --model" in capsys.readouterr().err


def test_of_many_slices_some_are_enough(model_dir, tmp_path, teach, monkeypatch):
    monkeypatch.setattr("train.scoring.familiarity.MAX_TRAINING_SLICES", 6)
    taken = []
    monkeypatch.setattr(Familiarity, "fit", lambda training, held_out: taken.append(len(training)) or line_of(10))
    teach("--only_familiarity", "--output_dir", str(model_dir))
    assert taken == [6]  # every third of 16


# The shipped model


def test_the_shipped_one_is_of_the_shipped_weights(shipped_weights):
    with safe_open(shipped_weights / FAMILIARITY_FILE, "pt") as file:
        assert file.metadata() == {"weights_sha256": weights_hash(shipped_weights)}
    assert (shipped_weights / FAMILIARITY_FILE).stat().st_size < 200_000


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_known(shipped, path):
    segmentation = shipped(path)
    assert segmentation.familiarity >= 0.01 and segmentation.warnings == ()


@pytest.mark.parametrize("kind", ["noise", "gradient", "rings", "page"])
def test_pictures_of_other_things_are_not(shipped, kind):
    y, x = np.mgrid[:256, :256]
    distance = np.hypot(x - 128, y - 128)
    picture = {
        "noise": np.random.default_rng(0).integers(0, 256, (256, 256)),
        "gradient": x,
        "rings": 127 + 127 * np.sin(distance / 5),
        "page": np.where((y // 8 % 3 == 0) & (x * 7 % 11 > 4), 0, 255),
    }[kind]
    assert UNLIKE in shipped(picture.astype(np.uint8)).warnings


# What is said


def test_the_limit_itself_is_familiar():
    def of(familiarity: float | None) -> Segmentation:
        return Segmentation(np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.float32), familiarity=familiarity)

    assert [of(value).is_familiar for value in (None, 1, 0.01, 0.0099, 0)] == [True, True, True, False, False]
    assert of(0.0).warnings == (UNLIKE,) and of(0.0).cut(threshold=0.2).familiarity == 0
    json.dumps(of(0.0).to_dict())


def test_the_page_says_first_that_the_network_does_not_know_it():
    segmentation = Segmentation(np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.float32), familiarity=0.0)

    def report(segmentation: Segmentation) -> str:
        study = Study("lion", (Slice("lion", "lion", segmentation),), "1 s")
        return draw_report(study, segmentation, Settings(), Origin("model", None))

    first = UNKNOWN.format("pictures")
    unknown, known = report(segmentation), report(dataclasses.replace(segmentation, familiarity=0.5))
    assert unknown.index(first) < unknown.index("tumour found") and UNLIKE in unknown
    assert "Tumour found" not in unknown
    assert first not in known and "Tumour found" in known
