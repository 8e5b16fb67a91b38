"""The network with all that is before and behind it as one ONNX file, for programs that have pixels and nothing else.

    pixels ─ grey, fit, standardise, pad ─→ network ─ cut, enlarge, sigmoid ─→ probability
                                            └─ its own view of the picture ─→ familiarity

The graph takes `pixels`, float32 [height, width, channels], as `read_image` gives them; height, width and channels are
free. It gives `probability`, float32 [height, width], and `familiarity`, float64 [1], if one lies beside the weights.
It repeats image_processing_unet.py step by step; a test compares both. Weights are stored in half precision and
computed with in single precision: those of a model that was saved in half precision are not changed.

Needs the package `onnxscript`: `pip install onnxscript`.
"""

import copy
import importlib
from string import Template
from typing import Any

import torch
from torch import Tensor, nn

from .export import check_exporter, translate
from .familiarity import Familiarity, levels_of, pool
from .image_processing_unet import MAX_DEVIATION, UNetImageProcessor
from .modeling_unet import UNetForSemanticSegmentation


# Smaller tensors are biases and batch statistics, which half precision may not hold.
HALVED_FROM = 1024  # values
HIGHEST_HALF = 65504

# In the order of `_prepare_slice`, `_fit` and `standardize`. What Python computes in double precision is double here.
PREPARE = Template("""
<ir_version: $ir_version, opset_import: ["" : $opset]>
prepare (float[height, width, channels] pixels)
    => (float[1, 1, $side, $side] pixel_values, int64[2] native, int64[2] fitted)
{
    last = Constant <value = int64[1] {2}> ()
    grey = ReduceMean <keepdims = 0> (pixels, last)

    native = Shape (grey)
    size = Cast <to = 11> (native)
    longest = ReduceMax <keepdims = 0> (size)
    side = Constant <value = double {$side.0}> ()
    scale = Div (side, longest)
    scaled = Mul (size, scale)
    rounded = Round (scaled)
    one_pixel = Constant <value = double {1.0}> ()
    at_least_one = Max (rounded, one_pixel)
    fitted = Cast <to = 7> (at_least_one)
    ones = Constant <value = int64[2] {1, 1}> ()
    in_front = Constant <value = int64[2] {0, 1}> ()
    picture = Unsqueeze (grey, in_front)
    small_shape = Concat <axis = 0> (ones, fitted)
    small = Resize
        <mode = "linear", antialias = 1, exclude_outside = 1, coordinate_transformation_mode = "half_pixel">
        (picture, , , small_shape)

    zero = Constant <value = float {0.0}> ()
    lowest = ReduceMin <keepdims = 0> (small)
    below_zero = Min (lowest, zero)
    plane = Sub (small, below_zero)

    everything = Constant <value = int64[1] {-1}> ()
    values = Reshape (plane, everything)
    count = Size (values)
    one = Constant <value = int64 {1}> ()
    last_place = Sub (count, one)
    last_place_as_float = Cast <to = 1> (last_place)
    percentile = Constant <value = float {0.99}> ()
    place = Mul (last_place_as_float, percentile)
    place_below = Floor (place)
    beyond = Sub (place, place_below)
    index_below = Cast <to = 7> (place_below)
    how_many = Sub (count, index_below)
    how_many_1d = Reshape (how_many, everything)
    brightest, places = TopK (values, how_many_1d)
    from_last = Constant <value = int64[2] {-1, -2}> ()
    pair = Gather (brightest, from_last)
    first_place = Constant <value = int64 {0}> ()
    second_place = Constant <value = int64 {1}> ()
    value_below = Gather (pair, first_place)
    value_above = Gather (pair, second_place)
    step = Sub (value_above, value_below)
    part_of_step = Mul (step, beyond)
    bright = Add (value_below, part_of_step)

    bright_as_double = Cast <to = 11> (bright)
    fraction = Constant <value = double {$foreground_fraction}> ()
    limit_as_double = Mul (bright_as_double, fraction)
    limit = Cast <to = 1> (limit_as_double)
    is_head = Greater (plane, limit)
    weight = Cast <to = 1> (is_head)
    pixels_of_head = ReduceSum <keepdims = 0> (weight)
    weighted = Mul (plane, weight)
    sum = ReduceSum <keepdims = 0> (weighted)
    mean = Div (sum, pixels_of_head)
    apart = Sub (plane, mean)
    apart_in_head = Mul (apart, weight)
    squares = ReduceSumSquare <keepdims = 0> (apart_in_head)
    one_as_float = Constant <value = float {1.0}> ()
    freedom = Sub (pixels_of_head, one_as_float)
    variance = Div (squares, freedom)
    deviation = Sqrt (variance)

    is_dark = LessOrEqual (bright, zero)
    two = Constant <value = float {2.0}> ()
    has_no_head = Less (pixels_of_head, two)
    millionth = Constant <value = float {0.000001}> ()
    hardly_any = Mul (bright, millionth)
    is_even = LessOrEqual (deviation, hardly_any)
    is_dark_or_has_no_head = Or (is_dark, has_no_head)
    is_constant = Or (is_dark_or_has_no_head, is_even)
    divisor = Where (is_constant, one_as_float, deviation)
    subtrahend = Where (is_constant, zero, mean)
    centred = Sub (plane, subtrahend)
    divided = Div (centred, divisor)
    highest = Constant <value = float {$max_deviation}> ()
    lowest_allowed = Neg (highest)
    clipped = Clip (divided, lowest_allowed, highest)
    standardized = Where (is_constant, zero, clipped)
    minus_mean = Neg (subtrahend)
    black_divided = Div (minus_mean, divisor)
    black = Max (black_divided, lowest_allowed)

    square = Constant <value = int64[2] {$side, $side}> ()
    missing = Sub (square, fitted)
    nothing = Constant <value = int64[6] {0, 0, 0, 0, 0, 0}> ()
    margins = Concat <axis = 0> (nothing, missing)
    pixel_values = Pad <mode = "constant"> (standardized, margins, black)
}
""")

# As `post_process_probability`.
FINISH = Template("""
<ir_version: $ir_version, opset_import: ["" : $opset]>
finish (float[1, 1, $side, $side] logit, int64[2] native_size, int64[2] fitted_size)
    => (float[height, width] probability)
{
    start = Constant <value = int64[2] {0, 0}> ()
    axes = Constant <value = int64[2] {2, 3}> ()
    cut = Slice (logit, start, fitted_size, axes)
    ones = Constant <value = int64[2] {1, 1}> ()
    whole_shape = Concat <axis = 0> (ones, native_size)
    enlarged = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (cut, , , whole_shape)
    flat = Reshape (enlarged, native_size)
    probability = Sigmoid (flat)
}
""")


class _Network(nn.Module):
    """`pixel_values` [1, 1, S, S] → the tumour's logit [1, 1, S, S], and how familiar the picture is, [1]."""

    # The exporter calls its own values "mean" and the like, and does not look for equal names.
    mean_features: Tensor
    precision_of_features: Tensor
    held_out_distances: Tensor

    def __init__(self, model: UNetForSemanticSegmentation, familiarity: Familiarity | None):
        super().__init__()
        self.model: nn.Module = model
        self.model.float()
        self.levels = levels_of(model.config) if familiarity else []
        if familiarity:
            self.register_buffer("mean_features", familiarity.mean.double())
            self.register_buffer("precision_of_features", familiarity.precision)
            self.register_buffer("held_out_distances", familiarity.distances)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(pixel_values, output_hidden_states=self.levels)
        logit = outputs.logits[:, 1:] - outputs.logits[:, :1]
        if not self.levels:
            return (logit,)
        features = pool(pixel_values, [outputs.hidden_states[level] for level in self.levels])
        apart = features.double() - self.mean_features
        distance = (apart @ self.precision_of_features.double() * apart).sum(dim=1).clamp(min=0).sqrt().float()
        # What is not a number is farther than all.
        nearer = 1 - (self.held_out_distances >= distance[:, None]).double().mean(dim=1)
        return logit, 1 - nearer


def to_whole_onnx(
    model: UNetForSemanticSegmentation,
    image_processor: UNetImageProcessor,
    familiarity: Familiarity | None,
    metadata: dict[str, str],
) -> bytes:
    """Translate a segmenter's parts into one ONNX file, float16 weights inside; they stay as they are.

    Args:
        model: of one grey channel and two labels, on any device; the file holds its evaluation mode.
        image_processor: what prepares its slices.
        familiarity: what lies beside its weights, or None.
        metadata: what the file says of itself, see `describe`.

    Returns:
        The content of the file.

    Raises:
        ImportError: `onnxscript` is not installed.
        ValueError: the processor does not resize.
    """
    check_exporter()
    if not image_processor.do_resize:
        raise ValueError("do_resize of the image processor is False; allowed is True, as the graph is for one size.")
    side = image_processor.size["longest_edge"]
    network = _Network(copy.deepcopy(model), familiarity).to("cpu").eval()
    names = ["logit", "familiarity"] if familiarity else ["logit"]
    # Not optimised: that would multiply batch statistics into the weights, which half precision then does not hold.
    program = translate(network, {"pixel_values": torch.zeros(1, 1, side, side)}, names, optimize=False)
    onnx: Any = importlib.import_module("onnx")  # it comes with onnxscript
    parser, compose = importlib.import_module("onnx.parser"), importlib.import_module("onnx.compose")
    middle = program.model_proto
    constants = {
        "ir_version": middle.ir_version,
        "opset": middle.opset_import[0].version,
        "side": side,
        "foreground_fraction": float(image_processor.foreground_fraction),
        "max_deviation": MAX_DEVIATION,
    }
    prepare, finish = (parser.parse_model(text.substitute(constants)) for text in (PREPARE, FINISH))
    whole = compose.merge_models(
        compose.add_prefix(prepare, "prepare/"),
        compose.add_prefix(middle, "network/"),
        io_map=[("prepare/pixel_values", "network/pixel_values")],
    )
    finish = compose.add_prefix(finish, "finish/")
    sizes = [("prepare/native", "finish/native_size"), ("prepare/fitted", "finish/fitted_size")]
    whole = compose.merge_models(whole, finish, io_map=[("network/logit", "finish/logit"), *sizes])
    _rename(whole, {"prepare/pixels": "pixels", "finish/probability": "probability"})
    _rename(whole, {"network/familiarity": "familiarity"})
    _halve(whole, onnx)
    onnx.helper.set_model_props(whole, metadata)
    return whole.SerializeToString()


def _rename(model: Any, names: dict[str, str]) -> None:
    """Give inputs and outputs of a graph other names."""
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]


def _halve(model: Any, onnx: Any) -> None:
    """Store the weights in half precision; nodes in front turn them into single precision when the file is loaded."""
    casts = []
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == "float32" and values.size >= HALVED_FROM and abs(values).max() <= HIGHEST_HALF:
            name = tensor.name
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype("float16"), f"{name}/half"))
            casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
