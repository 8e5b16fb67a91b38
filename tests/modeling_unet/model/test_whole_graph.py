"""The whole graph: from pixels of any size, depth and number of channels it gives what `TumorSegmenter` does."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tiny import tiny_config

from modeling_unet import TumorSegmenter, UNetForSemanticSegmentation, UNetImageProcessor
from modeling_unet.familiarity import Familiarity
from modeling_unet.whole_graph import HALVED_FROM, to_whole_onnx


FEATURES, HELD_OUT = 24, 30
# ONNX computes how far the pixels of both sizes are apart in single precision, and the rule of presence multiplies what
# that changes by a hundred.
TOLERANCE = 0.01


def of(shape: tuple[int, ...], dtype=np.uint8, low: float = 0, high: float = 255) -> np.ndarray:
    return np.random.default_rng(sum(shape)).uniform(low, high, shape).astype(dtype)


PICTURES = {
    "as the network sees it": of((32, 32)),
    "larger": of((300, 200)),
    "smaller": of((17, 20)),
    "very wide": of((16, 400)),
    "very tall": of((400, 30)),
    "16 bit": of((64, 48), np.uint16, 100, 60_000),
    "colours": of((40, 50, 3)),
    "below zero": of((50, 40), np.float32, -3, 2),
    "faint": of((50, 40), np.float32, 0, 1e-6),
    "one bright pixel": np.pad(np.full((1, 1), 255, np.uint8), ((20, 11), (9, 22))),
    "constant": np.full((30, 40), 7, np.uint8),
    "black": np.zeros((32, 20), np.uint8),
}


@pytest.fixture(scope="module")
def segmenter() -> TumorSegmenter:
    torch.manual_seed(0)
    config = tiny_config(widths=[8, 16, 24], presence_logit=1.0)
    model = UNetForSemanticSegmentation(config).half().float()
    familiarity = Familiarity(torch.zeros(FEATURES), torch.eye(FEATURES), torch.logspace(-1, 1, HELD_OUT))
    processor = UNetImageProcessor(size={"longest_edge": 32})
    return TumorSegmenter(model, processor, "cpu", framing="none", familiarity=familiarity)


@pytest.fixture(scope="module")
def exported(segmenter) -> bytes:
    return to_whole_onnx(segmenter.model, segmenter.image_processor, segmenter.familiarity, {"model": "tiny"})


@pytest.fixture(scope="module")
def session(exported) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(exported)


@pytest.mark.parametrize("name", PICTURES)
def test_probability_and_familiarity_are_those_of_the_segmenter(name, session, segmenter):
    picture = PICTURES[name]
    expected = segmenter(picture)
    pixels = picture.reshape(*picture.shape[:2], -1).astype(np.float32)
    probability, familiarity = session.run(["probability", "familiarity"], {"pixels": pixels})
    np.testing.assert_allclose(probability, expected.probability, atol=TOLERANCE)
    assert abs(familiarity.item() - expected.familiarity) < 1.5 / HELD_OUT  # a distance may fall beside its neighbour


def test_the_pictures_reach_all_that_the_graph_does(segmenter):
    highest = [segmenter(picture).highest_probability for picture in PICTURES.values()]
    assert min(highest) < 0.1 and max(highest) > 0.5
    assert len({segmenter(picture).familiarity for picture in PICTURES.values()}) > 2


def test_the_file_says_what_it_is_and_keeps_large_tensors_in_half_precision(exported, session):
    assert session.get_modelmeta().custom_metadata_map == {"model": "tiny"}
    assert [value.name for value in session.get_inputs()] == ["pixels"]
    tensors = onnx.load_from_string(exported).graph.initializer
    large = [tensor for tensor in tensors if np.prod(tensor.dims) >= HALVED_FROM]
    assert large
    assert not [tensor.name for tensor in large if tensor.data_type == onnx.TensorProto.FLOAT]


@pytest.mark.slow
def test_without_a_familiarity_there_is_none(segmenter):
    exported = to_whole_onnx(segmenter.model, segmenter.image_processor, None, {})
    assert [value.name for value in onnxruntime.InferenceSession(exported).get_outputs()] == ["probability"]


def test_a_processor_that_does_not_resize_is_refused(segmenter):
    with pytest.raises(ValueError, match="do_resize of the image processor is False; allowed is True"):
        to_whole_onnx(segmenter.model, UNetImageProcessor(do_resize=False), None, {})
