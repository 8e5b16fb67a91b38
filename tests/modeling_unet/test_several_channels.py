"""From pictures of several sequences, the channels of one slice, to masks."""

import csv
import json
import shutil
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pytest
import torch
from labs import axial, draw_head, write_brats, write_nifti, write_nnunet
from pages import encoded, slice_of
from tiny import save_even_model, tiny_config
from transformers import AutoImageProcessor

import app
from modeling_unet import InvalidImageError, TumorSegmenter, UNetForSemanticSegmentation, UNetImageProcessor
from modeling_unet.__main__ import main
from modeling_unet.export import describe
from modeling_unet.image_processing_unet import COLOURS, read_channels
from modeling_unet.overlay import to_display
from modeling_unet.pictures import encode_png
from modeling_unet.volumes import segment_volume
from modeling_unet.volumes.channels import read_channels as read_channels_of_volume


NAMES = ["t1ce", "t1", "t2", "flair"]


def save_model(folder: Path, names: list[str]) -> Path:
    torch.manual_seed(0)
    config = tiny_config(num_channels=len(names), channel_names=names)
    model = UNetForSemanticSegmentation(config)
    with torch.no_grad():
        model.head.weight.mul_(100)  # sure of what it finds
    model.save_pretrained(folder)
    UNetImageProcessor(size={"longest_edge": 32}, channel_names=names).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"), NAMES)


@pytest.fixture(scope="module")
def segmenter(model) -> TumorSegmenter:
    return TumorSegmenter.from_pretrained(model, "cpu", optimize="none")


@pytest.fixture(scope="module")
def channels() -> np.ndarray:
    return np.stack([slice_of(30, 40, np.uint16, seed) for seed in range(4)])


@pytest.fixture(scope="module")
def files(channels, tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("slice")
    for name, plane in zip(NAMES, channels, strict=True):
        (folder / f"{name}.png").write_bytes(encoded(plane))
    np.save(folder / "all.npy", channels)
    return [folder / f"{name}.png" for name in NAMES]


class TestConfig:
    @pytest.mark.parametrize("names", [["t1"], ["t1", "t1"], ["t1", " "]])
    def test_each_channel_needs_a_name_of_its_own(self, names):
        with pytest.raises(Exception, match=r"each of the 2 channels needs a name of its own"):
            tiny_config(num_channels=2, channel_names=names)

    def test_without_names_they_are_numbers_and_nothing_is_saved(self):
        assert tiny_config(num_channels=2).channels == ["1", "2"]
        assert "channel_names" not in json.loads(tiny_config().to_json_string())
        assert json.loads(tiny_config(num_channels=2, channel_names=["a", "b"]).to_json_string())["channel_names"]


class TestProcessor:
    def test_each_channel_is_prepared_as_a_slice_by_itself(self, channels):
        several, plain = UNetImageProcessor(channel_names=NAMES), UNetImageProcessor()
        (together,) = several(channels, return_tensors="np")["pixel_values"]
        apart = plain(list(channels), return_tensors="np")["pixel_values"]
        assert np.array_equal(together, apart[:, 0]) and together.shape == (4, 256, 256)

    def test_arrays_files_and_batches_are_the_same_slice(self, channels, files):
        processor = UNetImageProcessor(channel_names=NAMES)
        wanted = processor(channels, return_tensors="np")["pixel_values"]
        for source in (files, torch.from_numpy(channels.astype(np.int32)), [channels], files[0].parent / "all.npy"):
            assert np.array_equal(processor(source, return_tensors="np")["pixel_values"], wanted)
        for several in ([files, files], np.stack([channels, channels]), [files, channels]):
            assert processor(several, return_tensors="np")["pixel_values"].shape[:2] == (2, 4)

    def test_it_is_saved_and_loaded_with_its_names(self, model, tmp_path):
        assert AutoImageProcessor.from_pretrained(model).channel_names == NAMES
        UNetImageProcessor().save_pretrained(tmp_path)
        assert "channel_names" not in json.loads((tmp_path / "preprocessor_config.json").read_text())

    @pytest.mark.parametrize("names", [["t1"], ["t1", "t1"], "t1ce", [1, 2]])
    def test_other_names_are_refused(self, names):
        with pytest.raises((TypeError, ValueError)):
            UNetImageProcessor(channel_names=names)

    def test_colours_are_channels_where_they_are_called_so(self):
        picture = slice_of(30, 40)[..., None] // np.array([1, 2, 3], np.uint8)
        (values,) = UNetImageProcessor(channel_names=["blue", "red"])(picture, return_tensors="np")["pixel_values"]
        planes = UNetImageProcessor()([picture[..., 2], picture[..., 0]], return_tensors="np")["pixel_values"]
        assert np.array_equal(values, planes[:, 0])
        assert UNetImageProcessor(channel_names=[*COLOURS])([picture] * 3)["pixel_values"][0].shape[0] == 3

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda files: files[:3], r"3 pictures were given for a slice of 4 channels \(t1ce, t1, t2, flair\)"),
            (lambda files: files[0], r"t1ce.png: a slice has 4 channels \(t1ce, t1, t2, flair\) here; give a list of"),
            (lambda files: np.zeros((3, 30, 40)), r"array: a slice has 4 channels .*an array \[4, height, width\]"),
            (lambda files: [*files[:3], slice_of(20, 40)], "have the sizes t1ce 40 × 30, .*, flair 40 × 20; they must"),
            (lambda files: np.full((4, 30, 40), np.nan), "NaN or infinite"),
            (lambda files: [*files[:3], "gone.png"], r"gone\.png: there is no such file"),
        ],
    )
    def test_what_is_no_slice_of_them_is_one_sentence(self, change, message, files):
        with pytest.raises(InvalidImageError, match=message):
            read_channels(change(files), NAMES)


class TestSegmenter:
    def test_a_list_of_files_and_an_array_give_one_mask(self, segmenter, files, channels):
        one, other = segmenter(files), segmenter(channels)
        assert np.array_equal(one.probability, other.probability) and one.mask.shape == (30, 40)
        assert np.array_equal(one.image, to_display(channels[0]))
        assert segmenter.channel_names == tuple(NAMES)

    def test_the_order_matters_and_every_channel_counts(self, segmenter, channels):
        whole = segmenter(channels).probability
        for number in range(4):
            changed = channels.copy()
            changed[number] = changed[number, ::-1]
            assert not np.array_equal(segmenter(changed).probability, whole)

    def test_best_and_batches_work(self, model, channels):
        segmenter = TumorSegmenter.from_pretrained(model, "cpu", quality="best")
        assert [one.mask.shape for one in segmenter.batch([channels, channels[..., :24]])] == [(30, 40), (30, 24)]

    def test_processor_and_model_must_agree(self, segmenter):
        other = UNetImageProcessor(channel_names=NAMES[::-1])
        with pytest.raises(ValueError, match=r"takes t1ce, t1, t2, flair as its channels, and .* flair, t2, t1, t1ce"):
            TumorSegmenter(segmenter.model, other)


class TestPredict:
    @pytest.fixture
    def predict(self, model, tmp_path, monkeypatch, capsys):
        """Run the command in `tmp_path`; returns its exit code, the table and what it says of errors."""
        monkeypatch.chdir(tmp_path)

        def run(*arguments, of: Path = model) -> tuple[int, list[dict[str, str]], str]:
            code = main(["predict", "--out", "out", "--model", str(of), *map(str, arguments)])
            table = Path("out", "summary.csv")
            rows = list(csv.DictReader(table.open())) if table.exists() else []
            return code, rows, capsys.readouterr().err

        return run

    @pytest.mark.parametrize(
        "pattern",
        [
            "{}.png",
            "p1_7_{}.png",
            "p1-7-{}.PNG",
            "p1/7/{}.tif",
            "sub-01/anat/sub-01_acq-3d_{}.png",
        ],
    )
    def test_a_file_of_each_is_one_slice(self, predict, segmenter, channels, tmp_path, pattern):
        for name, plane in zip(NAMES, channels, strict=True):
            file = tmp_path / "in" / pattern.format(name.upper())
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), plane)
        cv2.imwrite(str(file.with_name("p1_7_mask.png")), plane)
        code, (row,), error = predict("in")
        assert (code, row["error"]) == (0, "") and error.startswith(
            "1 file is left out, being no channel (t1ce, t1, t2, flair), such as in"
        )
        (mask,) = Path("out").rglob("*_mask.png")
        assert mask.read_bytes() == encode_png(segmenter(channels).mask)
        assert row["area_px"] == str(segmenter(channels).area_px) != "0"

    def test_an_array_and_a_picture_in_colours_are_whole(self, predict, channels, tmp_path):
        np.save(tmp_path / "p1.npy", channels)
        assert [row["path"] for row in predict("p1.npy")[1]] == ["p1.npy"]
        of = save_model(tmp_path / "colours", ["red", "green", "blue"])
        cv2.imwrite(str(tmp_path / "p2.png"), channels[:3].transpose(1, 2, 0)[..., ::-1])
        code, (row,), _ = predict("p2.png", of=of)
        wanted = TumorSegmenter.from_pretrained(of, "cpu", optimize="none")(channels[:3])
        assert code == 0 and row["area_px"] == str(wanted.area_px)

    def test_volumes_of_labs_are_found_and_are_one(self, predict, tmp_path):
        of = save_model(tmp_path / "of", ["t1ce", "flair"])
        write_brats(tmp_path / "BRATS", 1)
        code, (row,), error = predict("BRATS", of=of)
        case = "BraTS20_Training_001"
        assert code == 0 and Path(row["path"]) == Path("BRATS", case) and float(row["volume_ml"]) > 0
        assert "3 files are left out" in error and "T1-weighted" not in error and "skull" not in error
        files = [tmp_path / "BRATS" / case / f"{case}_{name}.nii.gz" for name in ("t1ce", "flair")]
        found = nib.load(f"out/{case}/{case}_mask.nii.gz")
        wanted = segment_volume(read_channels_of_volume(files), TumorSegmenter.from_pretrained(of, "cpu")).mask
        assert np.array_equal(axial(found.get_fdata() > 0), wanted)
        assert np.array_equal(found.affine, nib.load(files[0]).affine)

        # The same head, of which each sequence is a multiple: it does not matter of which brightness.
        write_nnunet(tmp_path / "NN", 1)
        write_nifti(tmp_path / "all" / "p1.nii.gz", np.stack([nib.load(file).dataobj for file in files], axis=-1))
        for folder, place, more in (("NN/imagesTr", "glioma_001", ["T1Gd", "flair"]), ("all", "p1", ["t1ce", "flair"])):
            assert predict(folder, "--channels", *more, of=of)[0] == 0
            assert np.array_equal(axial(nib.load(f"out/{place}_mask.nii.gz").get_fdata() > 0), wanted)

    def test_what_is_missing_is_named_and_the_others_go_on(self, predict, files, tmp_path):
        for person, count in (("p1", 4), ("p2", 2)):
            (tmp_path / "in" / person).mkdir(parents=True)
            for file in files[:count]:
                shutil.copy(file, tmp_path / "in" / person)
        code, rows, error = predict("in")
        assert code == 1 and [row["error"] for row in rows] == [
            "",
            "There is no t2, no flair of it, only t1ce.png, t1.png.",
        ]
        assert f"{Path('in', 'p2')}: There is no t2, no flair of it" in error

    @pytest.mark.parametrize(
        ("names", "more", "message"),
        [
            (
                ["p1.png"],
                [],
                "error: no slice of the channels t1ce, t1, t2, flair in 1 files, such as in/p1.png: a file of",
            ),
            (["t1.png", "t1.tif"], [], "error: in/t1.png and in/t1.tif could both be the t1 of in."),
            (["t1.png"], ["--channels", "a", "b"], "error: --channels is a b; the model takes 4 (t1ce, t1, t2, flair)"),
            (["t1.png"], ["--series", "2"], "error: --series is 2, and the model takes 4 channels; leave it out."),
        ],
    )
    def test_what_cannot_be_joined_is_one_sentence(self, predict, files, tmp_path, names, more, message):
        (tmp_path / "in").mkdir()
        for name in names:
            shutil.copy(files[0], tmp_path / "in" / name)
        code, rows, error = predict("in", *more)
        assert (code, rows) == (2, []) and error.startswith(message) and len(error.splitlines()) == 1

    def test_channels_of_other_places_are_refused(self, predict, tmp_path):
        of = save_model(tmp_path / "of", ["t1ce", "flair"])
        voxels = draw_head(1)[0]
        write_nifti(tmp_path / "in" / "p_t1ce.nii.gz", voxels)
        write_nifti(tmp_path / "in" / "p_flair.nii.gz", voxels[..., :5])
        code, (row,), _ = predict("in", of=of)
        assert code == 1 and "The channel in/p_flair.nii.gz has 40 × 36 × 5 voxels" in row["error"]

    def test_models_of_one_channel_take_the_files_of_one(self, predict, files, tmp_path):
        even = save_even_model(tmp_path / "even")
        code, (row,), error = predict(files[0].parent, "--channels", "T1", of=even)
        assert code == 0 and Path(row["path"]) == files[0].parent and "4 files are left out, being no" in error
        code, _, error = predict(files[0].parent, "--channels", "t1", "t2", of=even)
        assert code == 2 and "--channels is t1 t2; the model takes 1 (grey values): give as many" in error


class TestElsewhere:
    def test_an_onnx_file_says_what_the_channels_are(self, segmenter):
        assert json.loads(describe(segmenter.model, segmenter.image_processor, "name")["channels"]) == NAMES
        assert "channels" not in describe(UNetForSemanticSegmentation(tiny_config()), UNetImageProcessor(), "name")

    def test_static_pages_say_what_works(self, model, tmp_path, capsys):
        assert main(["export", "--web", str(tmp_path), "--model", str(model)]) == 2
        error = capsys.readouterr().err
        assert "are for models of one channel; this one takes 4 (t1ce, t1, t2, flair): give TumorSegmenter" in error
        assert len(error.splitlines()) == 1

    def test_the_page_says_so_too(self, model):
        with pytest.raises(ValueError, match="slices of the page are for models of one channel; this one takes 4"):
            app.load_network(str(model))
