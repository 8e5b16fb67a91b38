"""The network as one ONNX file, for programs without PyTorch: model and processor → `to_onnx` → bytes of the file.

The graph takes `pixel_values`, float32 [batch, channels, height, width], and gives `logits`, float32 [batch, labels,
height, width]; batch, height and width are free. What the image processor does before and behind it is not part of the
graph: docs/onnx.md writes it out in NumPy and Pillow. The file says whose weights these are (`describe`).

Needs the package `onnxscript`: `pip install onnxscript`.
"""

import copy
import json
import logging
import warnings
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from .image_processing_unet import UNetImageProcessor
from .modeling_unet import UNetForSemanticSegmentation


DTYPES = {"float32": torch.float32, "float16": torch.float16}
DEFAULT_DTYPE = "float32"
NOTICE = "Not a medical device. For research and education."


class _Graph(nn.Module):
    """The model with float32 at both ends, whatever its weights are."""

    def __init__(self, model: UNetForSemanticSegmentation):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values.to(self.model.dtype)).logits.float()


def to_onnx(model: UNetForSemanticSegmentation, metadata: dict[str, str], dtype: str = DEFAULT_DTYPE) -> bytes:
    """Translate a model into an ONNX file; the model stays as it is.

    Args:
        model: on any device, in any mode; the file holds its evaluation mode.
        metadata: what the file says of itself, see `describe`.
        dtype: "float32", or "float16" for half the file; inputs and outputs are float32 with both.

    Returns:
        The content of the file.

    Raises:
        ImportError: `onnxscript` is not installed.
        ValueError: another dtype.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype}; allowed are {', '.join(DTYPES)}.")
    check_exporter()
    graph = _Graph(copy.deepcopy(model)).to("cpu", DTYPES[dtype]).eval()
    # Different sizes above 1: the exporter would take a size of 1 for a constant, and equal sizes for the same one.
    reduction = model.config.reduction
    example = torch.zeros(2, model.config.num_channels, 2 * reduction, 3 * reduction)
    free = {"pixel_values": {0: "batch", 2: "height", 3: "width"}}
    program = translate(graph, {"pixel_values": example}, ["logits"], dynamic_shapes=free)
    program.model.metadata_props.update(metadata)
    return program.model_proto.SerializeToString()


def check_exporter() -> None:
    """Raise an ImportError where the package that writes ONNX files is missing."""
    if find_spec("onnxscript") is None:
        raise ImportError("writing an ONNX file needs the package onnxscript; run: pip install onnxscript")


def translate(
    graph: nn.Module, example: dict[str, Tensor], output_names: list[str], **options
) -> torch.onnx.ONNXProgram:
    """A module as a program of ONNX, without a trace of this machine.

    Args:
        graph: in evaluation mode.
        example: its inputs by name.
        output_names: of its outputs.
        options: of `torch.onnx.export`.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is missing; it is not needed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch's, about its own code
        program = torch.onnx.export(
            graph, kwargs=example, output_names=output_names, dynamo=True, verbose=False, **options
        )
    assert program is not None  # the exporter before `dynamo` gave None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, with the paths of the machine
    return program


def describe(
    model: UNetForSemanticSegmentation, image_processor: UNetImageProcessor, name: str, revision: str | None = None
) -> dict[str, str]:
    """What an ONNX file says of itself: origin, labels, and what preprocessing needs to know.

    Args:
        name: of the model, e.g. its id on the Hub.
        revision: the commit it was loaded from, if it has one.
    """
    config = model.config
    return {
        "model": name,
        "revision": revision or "",
        "model_type": config.model_type,
        "format_version": str(config.to_dict()["format_version"]),
        "labels": json.dumps(config.label_names),
        **({"problem_type": str(config.problem_type)} if config.classes_overlap else {}),
        **({"channels": json.dumps(config.channels)} if config.num_channels > 1 else {}),
        "size": str(image_processor.size["longest_edge"]),
        "foreground_fraction": str(image_processor.foreground_fraction),
        "notice": NOTICE,
    }
