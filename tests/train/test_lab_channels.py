"""A lab's sequences as the channels of a slice: from --sequences to a network that takes them all, and its figures."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from labs import axial, draw_head, fit_options, write_brats, write_nifti, write_nnunet
from slices import write_data_set

from modeling_unet import TumorSegmenter
from modeling_unet.image_processing_unet import read_channels
from train.__main__ import main
from train.data.augmentation import Augmentation
from train.data.raw import DataError, as_file
from train.data.slices import DataArguments, load_slices, prepare_slices, scan
from train.files import read_json
from train.fitting.options import read_recipe
from train.hub.cards import write_model_card


NAMES = ["t1ce", "flair", "t2"]
FACTORS = {"flair": 2, "t1": 3, "t1ce": 1, "t2": 4}  # of `write_brats`


@pytest.fixture(scope="module")
def brats(tmp_path_factory) -> Path:
    return write_brats(tmp_path_factory.mktemp("desk") / "BRATS", 6)


def read(folder: Path, **reading):
    return load_slices(DataArguments(str(folder), tumor_labels=[1, 2, 4], **reading), without_folds=True)


@pytest.fixture(scope="module")
def trained(brats, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)
        labels = ("--tumor_labels", "1", "2", "4", "--view_probability", "0.5", "--max_steps", "2")
        assert main(fit_options(brats, run, "--sequences", *NAMES, *labels)) == 0
    return run


class TestReading:
    def test_the_channels_are_the_sequences_in_the_order_given(self, brats):
        slices = read(brats, sequences=NAMES)
        rows = [row for row in slices if row["person_id"] == "BraTS20_Training_001"]
        head = axial(draw_head(1)[0])
        for row, wanted in zip(rows, head[1:], strict=True):  # the lowest is black, and left out
            planes = read_channels(as_file(row["image"]), NAMES)
            assert np.array_equal(planes, np.stack([wanted * FACTORS[name] for name in NAMES]))

    def test_other_sequences_are_other_slices_with_the_same_masks(self, brats):
        slices = [read(brats, sequences=names) for names in (NAMES, NAMES[::-1])]
        hashes = [part["image_sha256"][:] for part in slices]
        assert not {*hashes[0]} & {*hashes[1]} and slices[0]["mask_sha256"][:] == slices[1]["mask_sha256"][:]

    def test_nnunet_names_its_channels_too(self, tmp_path):
        write_nnunet(tmp_path / "NN", 2)
        slices = load_slices(
            DataArguments(str(tmp_path / "NN"), sequences=["T1Gd", "t2w"], tumor_labels=[1, 2, 3]), without_folds=True
        )
        planes = read_channels(as_file(slices[0]["image"]), ["T1Gd", "t2w"])
        assert np.array_equal(planes[1], planes[0] * 2)

    def test_colours_are_channels(self, tmp_path):
        folder = write_data_set(tmp_path / "colours", count=4)
        for path in (folder / "images").iterdir():
            grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            cv2.imwrite(str(path), np.dstack([grey // 3, grey // 2, grey]))  # blue first
        slices = scan(DataArguments(str(folder), sequences=["red", "blue"]))
        planes = read_channels(as_file(slices[0]["image"]), ["red", "blue"])
        assert np.array_equal(planes[0] // 3, planes[1]) and not any(slices["problem"])

    def test_a_missing_one_is_named_with_its_person(self, brats, tmp_path):
        shutil.copytree(brats, tmp_path / "BRATS")
        case = "BraTS20_Training_004"
        for name in ("flair", "t2"):
            (tmp_path / "BRATS" / case / f"{case}_{name}.nii.gz").unlink()
        with pytest.raises(DataError, match=f"{case} holds no flair, t2 of {case}"):
            read(tmp_path / "BRATS", sequences=NAMES)

    def test_a_channel_of_another_size_is_named(self, brats, tmp_path):
        shutil.copytree(brats, tmp_path / "BRATS")
        path = tmp_path / "BRATS" / "BraTS20_Training_002" / "BraTS20_Training_002_flair.nii.gz"
        write_nifti(path, np.ones((40, 36, 7), np.int16))
        with pytest.raises(
            DataError,
            match=r"The channel \S+/BraTS20_Training_002_flair.nii.gz has 40 × 36 × 7 voxels",
        ):
            read(tmp_path / "BRATS", sequences=NAMES)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"sequences": ["t1ce", "pd"]}, "--sequences names pd; BRATS has flair, t1, t1ce, t2"),
            ({"sequences": ["t1ce"]}, "--sequences is t1ce; it takes two or more different ones"),
            ({"sequences": ["t1", "T1"]}, "--sequences is t1 T1; it takes two or more different ones"),
            ({"sequences": NAMES, "sequence": "t1"}, "--sequences names t1ce flair t2, and another option t1"),
        ],
    )
    def test_mistakes_are_one_sentence(self, options, message, brats):
        with pytest.raises(ValueError, match=message):
            read(brats, **options)

    def test_slices_without_sequences_have_none(self, tmp_path):
        folder = write_data_set(tmp_path / "plain", count=4)
        with pytest.raises(DataError, match=r"--sequences is t1 t2, and .* holds no sequences by name; leave it out"):
            read(folder, sequences=["t1", "t2"])


class TestTraining:
    def test_the_model_takes_them(self, trained, brats):
        segmenter = TumorSegmenter.from_pretrained(trained, "cpu", optimize="none")
        assert segmenter.model.config.channels == NAMES and segmenter.channel_names == tuple(NAMES)
        case = brats / "BraTS20_Training_001"
        assert read_json(trained / "training.json")["recipe"]["paste_probability"] == 0
        row = read(brats, sequences=NAMES)[0]
        assert segmenter(as_file(row["image"])).mask.shape == (row["height"], row["width"])
        assert case.is_dir()

    def test_prepared_slices_have_all_of_them(self, trained, brats):
        processor = TumorSegmenter.from_pretrained(trained, "cpu").image_processor
        prepared = prepare_slices(read(brats, sequences=NAMES), processor)
        assert prepared[0]["pixel_values"].shape == (3, 32, 32)

    def test_evaluate_and_calibrate_know_the_sequences(self, trained, brats, tmp_path):
        data = ("--data_dir", str(brats), "--tumor_labels", "1", "2", "4", "--fold", "0", "--model", str(trained))
        assert main(["evaluate", *data, "--output", str(tmp_path / "scores.json")]) == 0
        assert read_json(tmp_path / "scores.json")["all"]["slices"] > 0
        only = ("--only_familiarity", "true", "--output_dir", str(trained))
        assert main(["calibrate", *data, *only]) == 0
        assert TumorSegmenter.from_pretrained(trained, "cpu").familiarity is not None

    def test_the_card_says_what_they_are(self, trained):
        segmenter = TumorSegmenter.from_pretrained(trained, "cpu", optimize="none")
        record = read_json(trained / "training.json")
        card = write_model_card(segmenter.model, segmenter.image_processor, record, None, "you/channels", "main")
        assert 'processor(["t1ce.png", "flair.png", "t2.png"], return_tensors="pt")' in card
        assert "one slice of 3 channels of one size (t1ce, flair, t2)" in card

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--sequences", "t1", "t2"], "--sequences is t1 t2, and {} takes 3 (t1ce, flair, t2); leave it out"),
        ],
    )
    def test_evaluate_refuses_others(self, more, message, trained, brats, capsys):
        data = ("--data_dir", str(brats), "--tumor_labels", "1", "2", "4", "--fold", "0", "--model", str(trained))
        assert main(["evaluate", *data, *more]) == 1
        error = capsys.readouterr().err
        assert message.format(trained) in error and len(error.splitlines()) == 1

    @pytest.mark.parametrize("option", ["canvases", "also_data_dir", "teachers"])
    def test_what_is_for_one_channel_is_refused(self, option, brats, tmp_path, capsys):
        extra = ("--init_from", "any") if option == "also_data_dir" else ()
        options = ("--sequences", *NAMES, f"--{option}", str(tmp_path), *extra)
        assert main(fit_options(brats, tmp_path / "run", *options)) == 1
        assert f"--{option} is for models of one channel; leave it out with --sequences" in capsys.readouterr().err

    def test_prepare_refuses_them(self, brats, tmp_path, capsys):
        assert main(["prepare", str(brats), "--out", str(tmp_path / "out"), "--sequences", *NAMES]) == 1
        assert "--sequences is for check, fit, cv and evaluate" in capsys.readouterr().err


def test_channels_are_moved_as_one_and_each_has_its_own_intensities():
    recipe = read_recipe("default")
    names = Augmentation.__dataclass_fields__
    augmentation = Augmentation(**{name: recipe[name] for name in names})
    rng = np.random.default_rng(0)
    plane = np.zeros((48, 48), np.float32)
    plane[10:30, 12:40] = rng.uniform(1, 2, (20, 28))
    labels = (plane > 1.5).astype(np.uint8)
    alone, moved = augmentation(plane[None], labels, np.random.default_rng(1))
    images, same = augmentation(np.stack([plane, 3 * plane]), labels, np.random.default_rng(1))
    assert np.array_equal(moved, same) and images.shape == (2, 48, 48)
    assert np.array_equal(images[0], alone[0]) and not np.allclose(images[1], 3 * images[0])
