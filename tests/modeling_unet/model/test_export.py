"""ONNX: the file gives PyTorch's logits at every size, says what it is, and runs without PyTorch as in docs/onnx.md."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from surroundings import ROOT
from tiny import tiny_config

from modeling_unet import TumorSegmenter, UNetForSemanticSegmentation, UNetImageProcessor, __main__, export
from modeling_unet.export import describe, to_onnx
from modeling_unet.image_processing_unet import OVERLAPPING
from modeling_unet.provenance import origin


EXAMPLES = sorted((ROOT / "examples" / "images").glob("*.png"))

# Measured over the nine slices: 4.4e-5 and 1e-5. Another processor adds in another order.
LOGIT_TOLERANCE = 5e-4
PROBABILITY_TOLERANCE = 1e-4

# Every layer takes PyTorch a second to trace.
TWO_STAGES = {"widths": [4, 6], "depths": [1, 1], "strides": [1, 2], "decoder_widths": [4]}

WITHOUT_PYTORCH = """
import sys
for name in ("torch", "transformers", "cv2", "modeling_unet"):
    sys.modules[name] = None
"""


@pytest.fixture(scope="module")
def file(shipped_weights, tmp_path_factory) -> Path:
    """The shipped network as the command writes it."""
    file = tmp_path_factory.mktemp("onnx") / "new" / "brain-tumor-unet.onnx"
    assert __main__.main(["export", str(file), "--model", str(shipped_weights)]) == 0
    return file


@pytest.fixture(scope="module")
def session(file) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(file)


@pytest.fixture(scope="module")
def segmenter(shipped_weights) -> TumorSegmenter:
    return TumorSegmenter.from_pretrained(shipped_weights, device="cpu", optimize="none")


def run(session: onnxruntime.InferenceSession, pixel_values: torch.Tensor) -> torch.Tensor:
    (logits,) = session.run(["logits"], {"pixel_values": pixel_values.numpy()})
    return torch.from_numpy(logits)


@pytest.mark.slow
class TestShipped:
    def test_logits_and_masks_of_the_examples_are_those_of_pytorch(self, session, segmenter):
        pixel_values = segmenter.image_processor(EXAMPLES, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            expected = segmenter.model(pixel_values).logits
        logits = run(session, pixel_values)
        torch.testing.assert_close(logits, expected, rtol=0, atol=LOGIT_TOLERANCE)
        assert torch.equal(logits.argmax(dim=1), expected.argmax(dim=1))

    @pytest.mark.parametrize("size", [(1, 1), (17, 33), (256, 200), (300, 31)])
    def test_any_size_goes_through(self, session, segmenter, size):
        pixel_values = torch.randn(1, 1, *size)
        with torch.inference_mode():
            expected = segmenter.model(pixel_values).logits
        torch.testing.assert_close(run(session, pixel_values), expected, rtol=0, atol=LOGIT_TOLERANCE)

    def test_the_file_says_what_it_is(self, session):
        metadata = session.get_modelmeta().custom_metadata_map
        assert metadata == {
            "model": "brain-tumor-unet",
            "revision": "",
            "model_type": "brain_tumor_unet",
            "format_version": "4",
            "labels": '["background", "tumor"]',
            "size": "256",
            "foreground_fraction": "0.1",
            "notice": "Not a medical device. For research and education.",
        }

    def test_the_file_tells_nothing_of_the_machine(self, file):
        content = file.read_bytes()
        assert str(ROOT).encode() not in content and sys.prefix.encode() not in content

    def test_nothing_else_is_left_beside_it(self, file):
        assert [path.name for path in file.parent.iterdir()] == [file.name]

    def test_documented_snippet_gives_the_same_mask_without_pytorch(self, file, segmenter, tmp_path):
        (snippet,) = re.findall(
            r"```python\n(.*?)```", (ROOT / "docs" / "onnx.md").read_text(encoding="utf-8"), re.DOTALL
        )
        shutil.copy(file, tmp_path / "brain-tumor-unet.onnx")
        shutil.copy(EXAMPLES[0], tmp_path / "slice.png")
        program = f"{WITHOUT_PYTORCH}\n{snippet}\nnp.save('probability.npy', probability)"
        subprocess.run([sys.executable, "-I", "-c", program], cwd=tmp_path, check=True, timeout=120)
        probability, expected = np.load(tmp_path / "probability.npy"), segmenter(EXAMPLES[0])
        np.testing.assert_allclose(probability, expected.probability, atol=PROBABILITY_TOLERANCE)
        np.testing.assert_array_equal(probability > 0.5, expected.mask)


def test_four_channels_and_three_classes_give_the_masks_of_pytorch(tmp_path):
    """Overlapping or not: the graph is the same, and what is done with its logits differs, as docs/onnx.md says."""
    torch.manual_seed(0)
    names, labels = ["t1ce", "t1", "t2", "flair"], ["background", "whole", "core", "rim"]
    kind = {"num_channels": 4, "channel_names": names, "id2label": dict(enumerate(labels))}
    model = UNetForSemanticSegmentation(tiny_config(**TWO_STAGES, **kind, problem_type=OVERLAPPING))
    with torch.no_grad():
        model.head.weight.mul_(10)  # surer of what it finds
    model.save_pretrained(tmp_path)
    processor = UNetImageProcessor(size={"longest_edge": 32}, channel_names=names, problem_type=OVERLAPPING)
    processor.save_pretrained(tmp_path)
    assert __main__.main(["export", str(tmp_path / "model.onnx"), "--model", str(tmp_path)]) == 0

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["channels"]) == names and json.loads(metadata["labels"]) == labels
    assert metadata["problem_type"] == OVERLAPPING
    # Of the network's own size, so that nothing is resized behind it.
    channels = np.random.default_rng(0).integers(1, 255, (4, 32, 24), dtype=np.uint8)
    pixel_values = processor(channels, return_tensors="pt")["pixel_values"]
    logits = run(session, pixel_values)
    with torch.inference_mode():
        torch.testing.assert_close(logits, model.eval()(pixel_values).logits, rtol=0, atol=LOGIT_TOLERANCE)
    logits = logits[0, :, :, :24]
    for problem_type in (OVERLAPPING, None):
        model.config.problem_type = processor.problem_type = problem_type
        masks = [one.mask for one in TumorSegmenter(model, processor, "cpu")(channels).classes]
        for number, mask in enumerate(masks, start=1):
            found = logits[number] > 0 if problem_type else logits.argmax(dim=0) == number
            np.testing.assert_array_equal(found.numpy(), mask)
        assert sum(mask.any() for mask in masks) > 1


class TestOthers:
    @pytest.mark.slow
    def test_another_architecture_as_float16(self):
        torch.manual_seed(0)
        options = {"attention_gates": True, "upsampling": "transpose", "norm": "group", "norm_groups": 2}
        model = UNetForSemanticSegmentation(tiny_config(**TWO_STAGES, **options, num_channels=3)).train()
        session = onnxruntime.InferenceSession(to_onnx(model, {}, "float16"))
        assert model.training and model.dtype == torch.float32
        pixel_values = torch.randn(3, 3, 21, 9)
        with torch.inference_mode():
            expected = model.eval()(pixel_values).logits
        torch.testing.assert_close(run(session, pixel_values), expected, rtol=0, atol=0.05)

    def test_a_revision_is_named(self):
        model = UNetForSemanticSegmentation(tiny_config())
        metadata = describe(model, UNetImageProcessor(), "you/tiny", "c0ffee")
        assert (metadata["model"], metadata["revision"]) == ("you/tiny", "c0ffee")


@pytest.mark.slow
def test_a_program_of_torch_export_comes_back_from_its_file():
    model = UNetForSemanticSegmentation(tiny_config(**TWO_STAGES, presence_logit=1.0)).eval()
    free = {"pixel_values": dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)}
    program = torch.export.export(model, (), {"pixel_values": torch.randn(2, 1, 17, 33)}, dynamic_shapes=free)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    again = torch.export.load(file).module()
    pixel_values = torch.randn(3, 1, 30, 18)
    with torch.no_grad():
        torch.testing.assert_close(again(pixel_values=pixel_values).logits, model(pixel_values).logits)


class TestRefusals:
    def test_another_dtype(self):
        with pytest.raises(ValueError, match="dtype is int8; allowed are float32, float16"):
            to_onnx(UNetForSemanticSegmentation(tiny_config()), {}, "int8")

    def test_a_missing_package_is_named(self, monkeypatch, shipped_weights, tmp_path, capsys):
        monkeypatch.setattr(export, "find_spec", lambda _: None)
        assert __main__.main(["export", str(tmp_path / "out.onnx"), "--model", str(shipped_weights)]) == 2
        assert "pip install onnxscript" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    def test_a_folder_is_no_file_to_write(self, tmp_path, capsys):
        assert __main__.main(["export", str(tmp_path)]) == 2
        assert f"{tmp_path} is a folder" in capsys.readouterr().err

    def test_a_model_that_was_never_loaded_has_no_origin(self):
        with pytest.raises(OSError, match="nobody/nothing at revision v1 is not in the cache of the Hub"):
            origin("nobody/nothing", "v1")
