"""What transformers' own tests ask of every model, processor and pipeline.

Theirs are in `ModelTesterMixin`, `ImageProcessingTestMixin` and `PipelineTesterMixin`, which the installed package does
not hold; a test here says which one it mirrors. `stock_mixins.py` runs theirs, from the source distribution.
"""

import copy
import inspect
import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import tiny_config
from torch import nn
from torch.testing import assert_close
from transformers import AutoImageProcessor, Trainer, TrainingArguments, pipeline
from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput
from transformers.image_utils import ChannelDimension
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.utils import TransformersKwargs

from modeling_unet import UNetConfig, UNetForSemanticSegmentation, UNetImageProcessor, UNetModel


CLASSES = pytest.mark.parametrize("model_class", [UNetModel, UNetForSemanticSegmentation])
CONFIGS = {
    "original": UNetConfig.ronneberger2015(widths=[4, 4, 6], depths=[1] * 3, strides=[1, 2, 2], decoder_widths=[6, 4]),
    "nearest upsampling": tiny_config(),
    "stem": tiny_config(stem_width=4, stem_stride=2, block_type="residual", deep_supervision=True),
    "inverted residuals": tiny_config(
        block_type="inverted_residual", kernel_sizes=[3, 3, 5], expansion_ratios=[1, 2, 2], attention_gates=True
    ),
}
EVERY_CONFIG = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def build(model_class: type, config: UNetConfig | None = None) -> nn.Module:
    torch.manual_seed(0)
    return model_class(copy.deepcopy(config or tiny_config())).eval()


def batch_of(height: int = 16, width: int = 12, batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "pixel_values": torch.randn(batch, 1, height, width, generator=generator),
        "labels": torch.randint(2, (batch, height, width), generator=generator),
    }


PIXELS = batch_of()["pixel_values"]


# --------------------------------------------------------------------------------------------------------------- models


class TestArguments:
    @CLASSES
    @pytest.mark.parametrize("name", sorted(TransformersKwargs.__annotations__.keys() - {"output_hidden_states"}))
    def test_what_tools_hand_to_every_model_changes_nothing(self, model_class, name):
        """As `test_attention_outputs` and the Trainer, which hands over `num_items_in_batch`."""
        model = build(model_class)
        expected = model(PIXELS)
        for value in (None, False, True):
            outputs = model(PIXELS, **{name: value})
            assert outputs.keys() == expected.keys() and torch.equal(outputs[0], expected[0])
        assert outputs.get("attentions") is None

    @CLASSES
    def test_signature_is_that_of_segformer(self, model_class):
        """As `test_forward_signature`: the main input comes first, and what is left over has the common type."""
        parameters = list(inspect.signature(model_class.forward).parameters.values())
        assert parameters[1].name == model_class.main_input_name
        assert parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
        assert parameters[-1].annotation.__args__ == (TransformersKwargs,)

    @CLASSES
    def test_a_slip_of_the_pen_is_still_refused(self, model_class):
        with pytest.raises(TypeError, match="unexpected keyword argument 'lables'"):
            build(model_class)(PIXELS, lables=None)

    @CLASSES
    @pytest.mark.parametrize(
        ("selection", "kept"),
        [([0], {0}), ([0, -1], {0, 4}), ((1, 3), {1, 3}), (2, {2}), (-2, {3}), ([7, -9], set()), (True, set(range(5)))],
        ids=str,
    )
    def test_hidden_states_are_selected_by_index(self, model_class, selection, kept):
        """As `test_can_capture_specific_layers_hidden_states`."""
        model = build(model_class)
        every = model(PIXELS, output_hidden_states=True).hidden_states
        selected = model(PIXELS, output_hidden_states=selection).hidden_states
        assert len(selected) == len(every) == 5
        for index, hidden_state in enumerate(selected):
            assert torch.equal(hidden_state, every[index]) if index in kept else hidden_state is None

    @CLASSES
    @pytest.mark.parametrize("selection", [False, None, []])
    def test_no_hidden_states_without_a_selection(self, model_class, selection):
        assert build(model_class)(PIXELS, output_hidden_states=selection).hidden_states is None

    @CLASSES
    @pytest.mark.parametrize("selection", [False, True, [0, -1]])
    def test_a_tuple_holds_the_same(self, model_class, selection):
        """As `test_model_outputs_equivalence`."""
        model = build(model_class)
        outputs = model(PIXELS, output_hidden_states=selection)
        as_tuple = model(PIXELS, output_hidden_states=selection, return_dict=False)
        assert len(as_tuple) == len(outputs.to_tuple())
        assert torch.equal(as_tuple[0], outputs[0])

    def test_selected_maps_do_not_change_a_deeply_supervised_loss(self):
        model, batch = build(UNetForSemanticSegmentation, CONFIGS["stem"]).train(), batch_of()
        losses = [copy.deepcopy(model)(**batch, output_hidden_states=some).loss for some in (None, True, [0])]
        assert losses[0] == losses[1] == losses[2]

    @CLASSES
    def test_hidden_states_keep_their_gradient(self, model_class):
        """As `test_retain_grad_hidden_states_attentions`."""
        outputs = build(model_class)(PIXELS, output_hidden_states=True)
        outputs.hidden_states[0].retain_grad()
        outputs[0].sum().backward()
        assert outputs.hidden_states[0].grad.any()

    def test_the_trainer_averages_over_accumulated_batches(self, tmp_path):
        """`**kwargs` alone would tell it that the model divides by `num_items_in_batch`: a loss four times as large."""
        model, batch = build(UNetForSemanticSegmentation), batch_of(batch=1)
        expected = copy.deepcopy(model).train()(**batch).loss.item()
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=1,
            gradient_accumulation_steps=4,
            max_steps=1,
            logging_steps=1,
            remove_unused_columns=False,
            report_to="none",
            use_cpu=True,
        )
        samples = [{name: value[0] for name, value in batch.items()}] * 4
        trainer = Trainer(model, arguments, train_dataset=samples)
        trainer.train()
        assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
class TestCompile:
    # Without a word about sizes, torch takes them as free from the second one on.
    @pytest.mark.parametrize(("changes", "dynamic"), [({}, None), ({"stem_width": 4, "stem_stride": 2}, True)])
    def test_at_every_size(self, changes, dynamic):
        """As `test_torch_compile_for_training` and `test_sdpa_can_compile_dynamic`."""
        torch.compiler.reset()
        two_stages = {"widths": [4, 4], "depths": [1, 1], "strides": [1, 2], "decoder_widths": [4], "norm": "none"}
        model = build(UNetForSemanticSegmentation, tiny_config(**two_stages, **changes))
        compiled = torch.compile(model, backend="aot_eager", dynamic=dynamic, fullgraph=True)
        for height, width in ((16, 12), (17, 13), (33, 18)):
            batch = batch_of(height, width)
            with torch.no_grad():
                outputs, expected = compiled(**batch), model(**batch)
            assert_close(outputs.logits, expected.logits)
            assert_close(outputs.loss, expected.loss)

    def test_one_graph_serves_every_size(self):
        torch.compiler.reset()
        graphs = []

        def backend(graph, example_inputs):
            graphs.append(graph)
            return graph

        compiled = torch.compile(build(UNetForSemanticSegmentation), backend=backend, dynamic=True, fullgraph=True)
        for height, width in ((17, 13), (33, 18), (24, 40)):
            compiled(batch_of(height, width)["pixel_values"])
        assert len(graphs) == 1


class Adapted(nn.Module):
    """A frozen convolution and a small one that trains, as an adapter is put into a model."""

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        self.convolution = convolution
        self.adapter = copy.deepcopy(convolution)
        nn.init.normal_(self.adapter.weight, std=0.1)

    def forward(self, hidden_state: torch.Tensor) -> torch.Tensor:
        return self.convolution(hidden_state) + self.adapter(hidden_state)


def freeze_nothing(model: UNetForSemanticSegmentation):
    pass


def freeze_the_encoder(model: UNetForSemanticSegmentation):
    model.unet.encoder.requires_grad_(False)


def adapt(model: UNetForSemanticSegmentation):
    model.requires_grad_(False)
    for stage in model.unet.encoder.stages:
        for layer in [layer for layer in stage.modules() if hasattr(layer, "conv1") or hasattr(layer, "project")]:
            part = layer.conv1 if hasattr(layer, "conv1") else layer.project
            part[0] = Adapted(part[0])
            part[0].adapter.requires_grad_(True)


class TestCheckpointing:
    @EVERY_CONFIG
    @pytest.mark.parametrize("use_reentrant", [True, False])
    @pytest.mark.parametrize("prepare", [freeze_nothing, freeze_the_encoder, adapt])
    def test_no_gradient_is_dropped(self, config, use_reentrant, prepare):
        """As `test_training_gradient_checkpointing_use_reentrant_true` and `…_false`."""
        plain = build(UNetForSemanticSegmentation, config).train()
        plain.unet.encoder.dropout.p = 0.0
        prepare(plain)
        checkpointed = copy.deepcopy(plain)
        checkpointed.activation_checkpointing_enable({"use_reentrant": use_reentrant})
        for model in (plain, checkpointed):
            model(**batch_of()).loss.backward()
        expected = {name: parameter.grad for name, parameter in plain.named_parameters()}
        found = {name: parameter.grad for name, parameter in checkpointed.named_parameters()}
        assert [name for name, gradient in found.items() if gradient is not None] == [
            name for name, gradient in expected.items() if gradient is not None
        ]
        assert_close(found, expected)

    def test_a_frozen_encoder_is_not_run_backwards(self):
        """Else freezing it would spare neither time nor memory."""
        model = build(UNetForSemanticSegmentation, CONFIGS["original"]).train()
        freeze_the_encoder(model)
        model.activation_checkpointing_enable()
        feature_maps = model.unet.encoder(PIXELS)
        assert not any(feature_map.requires_grad for feature_map in feature_maps)

    @CLASSES
    @EVERY_CONFIG
    def test_input_embeddings_are_the_first_convolution(self, model_class, config):
        """As `test_model_get_set_embeddings`."""
        model, seen = build(model_class, config), []
        model.get_input_embeddings().register_forward_hook(lambda layer, arguments, output: seen.append(arguments[0]))
        model(PIXELS)
        assert isinstance(model.get_input_embeddings(), nn.Conv2d)
        assert torch.equal(seen[0][..., :16, :12], PIXELS)  # what is more is padding

    @EVERY_CONFIG
    def test_they_can_be_made_to_need_gradients(self, config, caplog):
        """As `test_enable_input_require_grads_with_gradient_checkpointing`, which adapters switch on."""
        model = build(UNetForSemanticSegmentation, config).train()
        model.activation_checkpointing_enable({"use_reentrant": True})
        with caplog.at_level(logging.WARNING, "transformers"):
            model.enable_input_require_grads()
        model(**batch_of()).loss.backward()
        model.disable_input_require_grads()
        assert model.get_input_embeddings().weight.grad.any()
        assert "does not expose input embeddings" not in caplog.text


class TestOffload:
    @pytest.mark.parametrize(
        "device_map",
        [
            {"": "disk"},
            {"unet.encoder": "cpu", "unet.decoder": "disk", "head": "cpu"},
            {"unet.encoder": "disk", "unet.decoder": "cpu", "head": "disk"},
        ],
        ids=["disk", "decoder on disk", "encoder on disk"],
    )
    @pytest.mark.parametrize("dtype", ["auto", torch.float32, torch.float16])
    def test_half_a_file_and_a_whole_config(self, device_map, dtype, tmp_path):
        """As `test_disk_offload_safetensors`, of weights in float16 whose config says float32, as the shipped ones."""
        build(UNetForSemanticSegmentation).save_pretrained(tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        halved = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
        save_file(halved, tmp_path / "model.safetensors", metadata={"format": "pt"})
        assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"
        plain = UNetForSemanticSegmentation.from_pretrained(tmp_path, dtype=dtype)
        offloaded = UNetForSemanticSegmentation.from_pretrained(
            tmp_path, dtype=dtype, device_map=device_map, offload_folder=tmp_path / "offloaded"
        )
        pixel_values = PIXELS.to(plain.dtype)
        with torch.no_grad():
            logits, expected = offloaded(pixel_values).logits, plain(pixel_values).logits
        assert logits.dtype == expected.dtype == (torch.float16 if dtype == torch.float16 else torch.float32)
        assert torch.equal(logits, expected)


# ------------------------------------------------------------------------------------------------------------ processor

SLICE = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)
GREY = "makes every slice grey"
WHOLE = "keeps every slice whole"
OWN = "standardises every slice by its own mean and deviation"


class TestOptions:
    @pytest.mark.parametrize(
        ("option", "value", "instead"),
        [
            ("do_convert_rgb", True, GREY),
            ("do_center_crop", True, WHOLE),
            ("crop_size", {"height": 20, "width": 20}, WHOLE),
            ("do_rescale", True, OWN),
            ("rescale_factor", 0.5, OWN),
            ("do_normalize", True, OWN),
            ("image_mean", [0.485, 0.456, 0.406], OWN),
            ("image_mean", 0.5, OWN),
            ("image_std", [0.5], OWN),
            ("do_pad", False, "pads what it resizes"),
            ("pad_size", {"height": 64, "width": 64}, "pads to a square of `size`"),
            ("data_format", "channels_last", "puts channels first, as the model takes them"),
            ("device", "cuda", "prepares slices on the CPU"),
        ],
    )
    @pytest.mark.parametrize("given", ["when built", "in the call"])
    def test_what_is_not_done_is_refused(self, option, value, instead, given):
        processor = UNetImageProcessor(**({option: value} if given == "when built" else {}))
        with pytest.raises(ValueError, match=f"^`{option}` is .*; this processor {instead}: leave the option out\\.$"):
            processor(SLICE, **({option: value} if given == "in the call" else {}))

    def test_padding_without_resizing_is_refused(self):
        with pytest.raises(ValueError, match="`do_pad` is True; this processor pads what it resizes"):
            UNetImageProcessor()(SLICE, do_resize=False, do_pad=True)

    @pytest.mark.parametrize(
        ("option", "values"),
        [
            ("do_convert_rgb", [None, False]),
            ("do_center_crop", [None, False]),
            ("crop_size", [None]),
            ("do_rescale", [None, False]),
            ("rescale_factor", [None, 1 / 255]),
            ("do_normalize", [None, False]),
            ("image_mean", [None, 0.0, [0.0, 0.0, 0.0, 0.0]]),
            ("image_std", [None, 1.0, [1.0, 1.0, 1.0]]),
            ("do_pad", [None, True]),
            ("pad_size", [None]),
            ("data_format", [None, "channels_first", ChannelDimension.FIRST]),
            ("input_data_format", [None, "channels_first", "channels_last"]),
            ("device", [None, "cpu", torch.device("cpu")]),
            ("disable_grouping", [None, True]),
            ("default_to_square", [None, False]),
        ],
    )
    def test_what_asks_for_nothing_changes_nothing(self, option, values):
        """As `test_call_numpy_4_channels`, which hands over a mean of 0 and a deviation of 1."""
        expected = UNetImageProcessor()(SLICE, return_tensors="pt")["pixel_values"]
        for value in values:
            for image in (SLICE, SLICE[..., None], SLICE[None]):
                found = UNetImageProcessor()(image, return_tensors="pt", **{option: value})["pixel_values"]
                assert torch.equal(found, expected)
            built = UNetImageProcessor(**{option: value})
            assert torch.equal(built(SLICE, return_tensors="pt")["pixel_values"], expected)

    def test_every_inherited_option_is_obeyed_refused_or_without_effect(self):
        """So that an option that a new transformers adds is seen here."""
        obeyed = {"do_resize", "size", "resample", "foreground_fraction", "problem_type", "channel_names"}
        obeyed |= {"return_tensors"}
        spelled_out = {"do_convert_rgb", "do_center_crop", "crop_size", "do_rescale", "rescale_factor", "do_normalize"}
        spelled_out |= {"image_mean", "image_std", "do_pad", "pad_size", "data_format", "device"}
        # The layout of an array is certain without being told; the others are of backends and models that are not ours.
        without_effect = {"input_data_format", "default_to_square", "disable_grouping", "image_seq_length"}
        assert obeyed | spelled_out | without_effect >= UNetImageProcessor.valid_kwargs.__annotations__.keys()

    def test_options_saved_are_those_that_count(self, shipped_weights, tmp_path):
        """As `test_image_processor_from_and_save_pretrained`; older files hold a factor that was never used."""
        counting = {"do_resize": True, "foreground_fraction": 0.1, "resample": 2, "size": {"longest_edge": 256}}
        old = {**counting, "image_processor_type": "UNetImageProcessor", "rescale_factor": 1 / 255}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
        for processor in (
            UNetImageProcessor(),
            UNetImageProcessor.from_pretrained(tmp_path),
            AutoImageProcessor.from_pretrained(shipped_weights),
        ):
            processor.save_pretrained(tmp_path / "again")
            saved = json.loads((tmp_path / "again" / "preprocessor_config.json").read_text())
            del saved["auto_map"], saved["image_processor_type"]
            assert saved == counting

    @pytest.mark.parametrize("do_convert_rgb", [False, True])
    def test_attributes_are_those_given(self, do_convert_rgb):
        """As `test_image_processor_from_dict_with_kwargs_has_attributes`: what is refused is the call."""
        processor = UNetImageProcessor.from_dict({"size": {"longest_edge": 48}}, do_convert_rgb=do_convert_rgb)
        assert processor.do_convert_rgb is do_convert_rgb and processor.size["longest_edge"] == 48
        assert processor.to_dict().get("do_convert_rgb", False) is do_convert_rgb

    @pytest.mark.parametrize("empty", [[], (), np.zeros((0, 1, 20, 20))], ids=["list", "tuple", "batch"])
    def test_no_image_at_all_is_refused(self, empty):
        with pytest.raises(ValueError, match=r"^There are no images; give at least one\.$"):
            UNetImageProcessor()(empty, return_tensors="pt")

    @pytest.mark.parametrize("size", [{"longest_edge": 32, "shortest_edge": 16}, {"max_height": 9, "max_width": 9}])
    def test_a_second_edge_is_refused(self, size):
        with pytest.raises(ValueError, match="this processor needs `longest_edge` alone"):
            UNetImageProcessor()(SLICE, size=size)

    def test_a_batch_is_cast(self):
        """As `test_cast_dtype_device`."""
        batch = UNetImageProcessor()(SLICE, return_tensors="pt").to("cpu", torch.bfloat16)
        assert batch["pixel_values"].dtype == torch.bfloat16


class TestPostProcessing:
    @pytest.mark.parametrize("target_sizes", [None, [(20, 17), (48, 5)], torch.tensor([(20, 17), (48, 5)])])
    @pytest.mark.parametrize("num_labels", [2, 4])
    def test_scores_come_with_their_labels(self, target_sizes, num_labels):
        """As `PostProcessSemanticSegmentationTestMixin`."""
        processor = UNetImageProcessor()
        outputs = SemanticSegmenterOutput(logits=torch.randn(2, num_labels, 32, 32))
        labels = processor.post_process_semantic_segmentation(outputs, target_sizes)
        scored = processor.post_process_semantic_segmentation(outputs, target_sizes, return_segmentation_scores=True)
        assert len(scored) == len(labels) == 2
        for both, label in zip(scored, labels, strict=True):
            assert isinstance(both, SemanticSegmentationPostProcessorOutput)
            assert torch.equal(both.segmentation, label)
            assert both.segmentation_scores.shape == (num_labels, *label.shape)
            assert torch.equal(both.segmentation_scores.argmax(dim=0), label)

    def test_without_target_sizes_scores_are_the_logits(self):
        logits = torch.randn(1, 2, 8, 8)
        (both,) = UNetImageProcessor().post_process_semantic_segmentation(
            SemanticSegmenterOutput(logits=logits), return_segmentation_scores=True
        )
        assert torch.equal(both.segmentation_scores, logits[0])


# ------------------------------------------------------------------------------------------------------------- pipeline


class TestPipeline:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_segments_one_and_many(self, dtype):
        """As `test_pipeline_image_segmentation` and `…_fp16`."""
        processor = UNetImageProcessor(size={"longest_edge": 32})
        segment = pipeline(
            "image-segmentation", model=build(UNetForSemanticSegmentation).to(dtype), image_processor=processor
        )
        picture = Image.fromarray(SLICE)
        one = segment(picture, subtask="semantic")
        many = list(segment((picture for _ in range(3)), batch_size=2))
        assert {piece["mask"].size for piece in one} == {picture.size}
        assert sum(np.asarray(piece["mask"]) // 255 for piece in one).tolist() == np.ones_like(SLICE).tolist()
        for pieces in many:
            assert [piece["label"] for piece in pieces] == [piece["label"] for piece in one]

    def test_a_model_of_colours_says_that_it_is_one(self):
        model = build(UNetForSemanticSegmentation, tiny_config(num_channels=3))
        segment = pipeline("image-segmentation", model=model, image_processor=UNetImageProcessor())
        with pytest.raises(ValueError, match=r"has shape \(1, 1, 256, 256\); expected \[batch, 3, height, width\]"):
            segment(Image.fromarray(SLICE))
