"""From pictures of several sequences, the channels of one slice, to masks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pages import encoded, slice_of
from tiny import tiny_config
from transformers import AutoImageProcessor

import app
from modeling_unet import InvalidImageError, TumorSegmenter, UNetForSemanticSegmentation, UNetImageProcessor
from modeling_unet.__main__ import main
from modeling_unet.export import describe
from modeling_unet.image_processing_unet import COLOURS, read_channels
from modeling_unet.overlay import to_display


NAMES = ["t1ce", "t1", "t2", "flair"]


def save_model(folder: Path, names: list[str]) -> Path:
    torch.manual_seed(0)
    config = tiny_config(num_channels=len(names), channel_names=names)
    UNetForSemanticSegmentation(config).save_pretrained(folder)
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


class TestElsewhere:
    def test_an_onnx_file_says_what_the_channels_are(self, segmenter):
        assert json.loads(describe(segmenter.model, segmenter.image_processor, "name")["channels"]) == NAMES
        assert "channels" not in describe(UNetForSemanticSegmentation(tiny_config()), UNetImageProcessor(), "name")

    def test_predict_and_static_pages_say_what_works(self, model, files, tmp_path, capsys):
        for command in (["predict", str(files[0]), "--out", str(tmp_path / "out")], ["export", "--web", str(tmp_path)]):
            assert main([*command, "--model", str(model)]) == 2
            error = capsys.readouterr().err
            assert "are for models of one channel; this one takes 4 (t1ce, t1, t2, flair): give TumorSegmenter" in error
            assert len(error.splitlines()) == 1
        assert not (tmp_path / "out").exists()

    def test_the_page_says_so_too(self, model):
        with pytest.raises(ValueError, match="slices of the page are for models of one channel; this one takes 4"):
            app.load_network(str(model))
