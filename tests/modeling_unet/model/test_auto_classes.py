"""Stock tools of transformers: the Auto classes, the code that travels with the weights, the pipeline."""

import json
import os
from pathlib import Path

import fresh
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForSemanticSegmentation,
    pipeline,
)

from modeling_unet import UNetConfig, UNetForSemanticSegmentation, UNetImageProcessor, UNetModel


# Without the package, without a network, without anyone to answer a question.
STRANGER = """
import json, socket, sys
from pathlib import Path

sys.modules["modeling_unet"] = None
def refuse(*_):
    raise AssertionError("the network was touched")
socket.socket.connect = socket.getaddrinfo = refuse

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline

folder, picture, out = map(Path, sys.argv[1:])
try:
    AutoModelForSemanticSegmentation.from_pretrained(folder)
    refusal = None
except ValueError as error:
    refusal = str(error)

config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForSemanticSegmentation.from_pretrained(folder, trust_remote_code=True)
inputs = processor(picture, return_tensors="pt")
with torch.inference_mode():
    logits = model(**inputs).logits
save_file({"pixel_values": inputs["pixel_values"], "logits": logits}, out / "outputs.safetensors")

segments = pipeline("image-segmentation", model=str(folder), trust_remote_code=True)(str(picture))
model.save_pretrained(out / "again")
processor.save_pretrained(out / "again")
(out / "report.json").write_text(json.dumps({
    "refusal": refusal,
    "modules": [type(thing).__module__ for thing in (config, processor, model)],
    "segments": {segment["label"]: segment["mask"].size for segment in segments},
}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny model, undecided enough to find both labels in noise, with its processor."""
    torch.manual_seed(0)
    config = UNetConfig(
        stem_width=4,
        widths=[4, 6],
        depths=[1, 1],
        strides=[1, 2],
        kernel_sizes=[3, 5],
        expansion_ratios=[1, 2],
        decoder_widths=[6, 4],
    )
    folder = tmp_path_factory.mktemp("model")
    UNetForSemanticSegmentation(config).save_pretrained(folder)
    UNetImageProcessor(size={"longest_edge": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    """A slice of noise, 50 pixels wide and 41 high."""
    path = tmp_path_factory.mktemp("picture") / "slice.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (41, 50), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def model(folder) -> UNetForSemanticSegmentation:
    return UNetForSemanticSegmentation.from_pretrained(folder)


@pytest.fixture(scope="module")
def processor(folder) -> UNetImageProcessor:
    return UNetImageProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def stranger(folder, picture, tmp_path_factory) -> Path:
    """What a fresh, offline process that knows nothing of this package wrote."""
    out = tmp_path_factory.mktemp("stranger")
    environment = os.environ | {"HF_HOME": str(out / "huggingface"), "HF_HUB_OFFLINE": "1"}
    ran = fresh.alone().run(STRANGER, folder, picture, out, cwd=out, environment=environment)
    assert ran.returncode == 0, ran.stderr
    return out


@pytest.fixture
def report(stranger) -> dict:
    return json.loads((stranger / "report.json").read_text())


class TestAutoClasses:
    @pytest.mark.parametrize(
        ("auto", "ours"),
        [
            (AutoConfig, UNetConfig),
            (AutoModel, UNetModel),
            (AutoModelForSemanticSegmentation, UNetForSemanticSegmentation),
            (AutoImageProcessor, UNetImageProcessor),
        ],
    )
    @pytest.mark.parametrize("trust_remote_code", [None, False, True])
    def test_find_our_own_classes_in_a_folder(self, folder, auto, ours, trust_remote_code):
        assert type(auto.from_pretrained(folder, trust_remote_code=trust_remote_code)) is ours

    @pytest.mark.parametrize(
        ("auto", "ours"),
        [(AutoModel, UNetModel), (AutoModelForSemanticSegmentation, UNetForSemanticSegmentation)],
    )
    def test_build_a_model_from_a_config(self, folder, auto, ours):
        assert type(auto.from_config(UNetConfig.from_pretrained(folder))) is ours

    def test_a_folder_holds_the_code_it_names(self, folder):
        named = json.loads((folder / "config.json").read_text())["auto_map"]
        named |= json.loads((folder / "preprocessor_config.json").read_text())["auto_map"]
        assert named == {
            "AutoConfig": "configuration_unet.UNetConfig",
            "AutoModel": "modeling_unet.UNetModel",
            "AutoModelForSemanticSegmentation": "modeling_unet.UNetForSemanticSegmentation",
            "AutoImageProcessor": "image_processing_unet.UNetImageProcessor",
        }
        # And no other: overlay and segmenter need OpenCV, which a stranger may not have.
        assert {path.name for path in folder.glob("*.py")} == {
            "configuration_unet.py",
            "image_processing_unet.py",
            "modeling_unet.py",
        }


class TestStranger:
    def test_runs_the_code_of_the_folder(self, report):
        assert all(module.startswith("transformers_modules.") for module in report["modules"])

    def test_gets_the_same_pixels_and_the_same_logits(self, stranger, model, processor, picture):
        outputs = load_file(stranger / "outputs.safetensors")
        inputs = processor(picture, return_tensors="pt")
        assert torch.equal(outputs["pixel_values"], inputs["pixel_values"])
        with torch.inference_mode():
            logits = model(**inputs).logits
        # Another number of threads adds up in another order.
        assert_close(outputs["logits"], logits, rtol=1e-5, atol=1e-5)

    def test_can_use_the_stock_pipeline(self, report):
        assert report["segments"] == {"background": [50, 41], "tumor": [50, 41]}

    def test_is_asked_before_any_code_runs(self, report):
        assert "trust_remote_code=True" in report["refusal"]

    def test_saves_a_folder_that_is_whole_again(self, stranger, folder):
        assert {path.name for path in (stranger / "again").iterdir()} == {path.name for path in folder.iterdir()}
        again = AutoModelForSemanticSegmentation.from_pretrained(stranger / "again")
        assert_close(again.state_dict(), UNetForSemanticSegmentation.from_pretrained(folder).state_dict())


class TestPipeline:
    def test_masks_are_those_of_our_own_post_processing(self, model, processor, picture):
        segments = pipeline("image-segmentation", model=model, image_processor=processor)(str(picture))
        masks = {segment["label"]: np.asarray(segment["mask"]) == 255 for segment in segments}
        with torch.inference_mode():
            outputs = model(**processor(picture, return_tensors="pt"))
        (labels,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[(41, 50)])
        assert masks.keys() == {"background", "tumor"}
        np.testing.assert_array_equal(masks["tumor"], labels.numpy() == 1)
        np.testing.assert_array_equal(masks["background"], labels.numpy() == 0)

    def test_a_folder_is_enough(self, folder, picture):
        segments = pipeline("image-segmentation", model=str(folder))([str(picture)] * 2)
        assert [[segment["label"] for segment in image] for image in segments] == [["background", "tumor"]] * 2

    @pytest.mark.parametrize(("bias", "labels"), [(-100.0, ["background"]), (100.0, ["tumor"])])
    def test_only_labels_that_are_present_are_listed(self, folder, processor, picture, bias, labels):
        model = UNetForSemanticSegmentation.from_pretrained(folder)
        torch.nn.init.constant_(model.head.bias, bias)
        segments = pipeline("image-segmentation", model=model, image_processor=processor)(str(picture))
        assert [segment["label"] for segment in segments] == labels
