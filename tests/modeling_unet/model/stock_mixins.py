"""transformers' own tests, run on our classes: a command, not a part of the suite. `test_stock.py` mirrors what counts.

    pip download --no-deps --no-build-isolation --no-binary transformers "transformers==5.23.0"
    tar xf transformers-5.23.0.tar.gz
    TRANSFORMERS_SOURCE=transformers-5.23.0 pytest -o addopts= tests/modeling_unet/model/stock_mixins.py

Before an upgrade it tells what the new release asks. Its source distribution holds the mixins but not all that they
import; a clone holds everything. Tests that are set to None here ask for what a U-Net on grey slices has not.
"""

import importlib
import os
import sys
import unittest
from pathlib import Path
from types import ModuleType

import torch
from tiny import tiny_config
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from modeling_unet import UNetConfig, UNetForSemanticSegmentation, UNetImageProcessor, UNetModel


SOURCE = Path(os.environ["TRANSFORMERS_SOURCE"]).resolve()
SIDE = 32  # of the model's input
PROCESSED = 48  # of what the processor gives


def stand_in(name: str, path: Path, **contents):
    """A module that the source distribution leaves out."""
    if not path.exists():
        sys.modules[name] = ModuleType(name)
        vars(sys.modules[name]).update(contents)


def load(name: str) -> ModuleType:
    """A module of their tests, which are a package of another name here, as ours are called the same."""
    package = sys.modules.setdefault("transformers_tests", ModuleType("transformers_tests"))
    package.__path__ = [str(SOURCE / "tests")]
    for path, contents in (
        ("exporters/test_export", {"ExportTesterMixin": type("ExportTesterMixin", (), {})}),
        ("generation/test_utils", {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})}),
    ):
        folder, _, module = path.partition("/")
        stand_in(f"transformers_tests.{folder}", SOURCE / "tests" / folder, __path__=[])
        stand_in(f"transformers_tests.{folder}.{module}", SOURCE / "tests" / f"{path}.py", **contents)
    fetching = "fetch_hub_objects_for_ci"
    stand_in(fetching, SOURCE / "utils" / f"{fetching}.py", url_to_local_path=lambda url: url)
    return importlib.import_module(f"transformers_tests.{name}")


# They look up here which class has a loss, and of what shape its labels are.
MODEL_MAPPING_NAMES[UNetConfig.model_type] = UNetModel.__name__
MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES[UNetConfig.model_type] = UNetForSemanticSegmentation.__name__
modeling, processing = load("test_modeling_common"), load("test_image_processing_common")


class ModelTester:
    """What their model tests ask for."""

    __test__ = False
    batch_size = 3
    is_training = True

    def prepare_config_and_inputs_for_common(self) -> tuple[UNetConfig, dict[str, torch.Tensor]]:
        generator = torch.Generator().manual_seed(0)
        return tiny_config(), {"pixel_values": torch.randn(self.batch_size, 1, SIDE, SIDE, generator=generator)}


class UNetModelTest(modeling.ModelTesterMixin, unittest.TestCase):
    all_model_classes = (UNetModel, UNetForSemanticSegmentation)
    has_attentions = False
    test_resize_embeddings = False

    test_hidden_states_output = None  # of the shape of a sequence
    test_model_get_set_embeddings = None  # a table of tokens

    def setUp(self):
        self.model_tester = ModelTester()


class ProcessorTester(processing.ImageProcessingTester):
    __test__ = False

    def __init__(self, parent: unittest.TestCase):
        super().__init__(parent, size={"longest_edge": PROCESSED}, num_labels=2)

    def _get_image_processing_classes(self) -> dict[str, type]:
        return {"pil": UNetImageProcessor}

    def expected_output_image_shape(self, images: list) -> tuple[int, int, int]:
        return 1, PROCESSED, PROCESSED

    def prepare_post_process_semantic_segmentation_inputs(self) -> tuple[dict, dict]:
        logits = torch.randn(self.batch_size, self.num_labels, PROCESSED, PROCESSED)
        shape = {"num_labels": self.num_labels, "height": PROCESSED, "width": PROCESSED}
        return {"outputs": SemanticSegmenterOutput(logits=logits)}, shape


class UNetImageProcessorTest(
    processing.ImageProcessingTestMixin, processing.PostProcessSemanticSegmentationTestMixin, unittest.TestCase
):
    image_processor_tester_class = ProcessorTester
    test_cast_dtype = True

    test_new_models_require_torchvision_backend = None  # of models inside transformers
    test_pil_can_run_without_torchvision = None  # the same, and `test_auto_classes.py` runs without it
