"""Several classes: the network's loss and labels, and the processor, with classes that overlap and with others."""

import json

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from tiny import tiny_config
from transformers.modeling_outputs import SemanticSegmenterOutput

from modeling_unet import UNetConfig, UNetForSemanticSegmentation, UNetImageProcessor
from modeling_unet.image_processing_unet import prepare_classes
from modeling_unet.modeling_unet import cross_entropy_loss, dice_loss, focal_loss


REGIONS = {0: "background", 1: "whole", 2: "core", 3: "enhancing"}
OVERLAPPING = "multi_label_classification"


def overlapping_config(**changes) -> UNetConfig:
    return tiny_config(id2label=REGIONS, problem_type=OVERLAPPING, **changes)


class TestConfig:
    def test_overlapping_classes_survive_json(self, tmp_path):
        overlapping_config().save_pretrained(tmp_path)
        config = UNetConfig.from_pretrained(tmp_path)
        assert config.classes_overlap and config.class_names == ["whole", "core", "enhancing"]
        assert config.num_labels == 4

    def test_the_binary_config_has_no_new_keys(self, tmp_path):
        UNetConfig().save_pretrained(tmp_path)
        written = json.loads((tmp_path / "config.json").read_text())
        assert not {"problem_type", "class_names", "classes_overlap"} & written.keys()

    def test_older_code_would_misread_classes_that_overlap(self):
        assert overlapping_config(presence_logit=1.5).to_dict()["format_version"] == 3
        assert tiny_config(id2label=REGIONS).to_dict()["format_version"] == 1

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"problem_type": OVERLAPPING}, "one class has nothing to overlap with"),
            ({"problem_type": "regression", "num_labels": 3}, "`problem_type` is regression; allowed are"),
            ({"id2label": {0: "background", 1: "core", 2: "core"}}, "every label needs a name of its own"),
            ({"id2label": {0: "background", 1: " "}}, "every label needs a name of its own"),
        ],
    )
    def test_what_makes_no_sense_is_refused_when_the_config_is_made(self, fields, message):
        with pytest.raises(StrictDataclassError, match=message):
            tiny_config(**fields)


class TestLoss:
    @pytest.mark.parametrize("term", [dice_loss, cross_entropy_loss, focal_loss])
    def test_one_overlapping_class_is_the_binary_loss(self, term):
        logits = torch.cat([torch.zeros(2, 1, 6, 8), torch.randn(2, 1, 6, 8)], dim=1)
        labels = torch.randint(2, (2, 6, 8))
        labels[..., 6:] = 255
        torch.testing.assert_close(term(logits, labels[:, None]), term(logits, labels))

    @pytest.mark.parametrize("term", [dice_loss, cross_entropy_loss, focal_loss])
    def test_classes_that_overlap_are_averaged(self, term):
        logits = torch.cat([torch.zeros(2, 1, 6, 8), torch.randn(2, 3, 6, 8)], dim=1)
        labels = torch.randint(2, (2, 3, 6, 8))
        alone = [term(logits[:, [0, k + 1]], labels[:, k]) for k in range(3)]
        torch.testing.assert_close(term(logits, labels), torch.stack(alone).mean(dim=0))

    def test_ignored_pixels_get_no_gradient(self):
        logits, labels = torch.randn(2, 4, 6, 8, requires_grad=True), torch.randint(2, (2, 3, 6, 8))
        labels[..., 5:] = 255
        for term in (dice_loss, cross_entropy_loss, focal_loss):
            (gradient,) = torch.autograd.grad(term(logits, labels).sum(), logits)
            assert not gradient[..., 5:].any() and gradient[:, 1:, :, :5].all()

    def test_a_model_learns_regions_that_overlap(self):
        torch.manual_seed(2)
        model = UNetForSemanticSegmentation(overlapping_config(norm="none")).train()
        pictures = torch.zeros(2, 1, 16, 16)
        pictures[..., 4:12, 4:12], pictures[..., 6:10, 6:10] = 1, 2
        labels = torch.stack([pictures[:, 0] > 0, pictures[:, 0] > 1, pictures[:, 0] > 1], dim=1).long()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(80):
            optimizer.zero_grad()
            model(pictures, labels=labels).loss.backward()
            optimizer.step()
        found = model.eval()(pictures).logits[:, 1:] > 0
        assert (found == labels.bool()).float().mean() > 0.9

    @pytest.mark.parametrize(
        ("config", "shape"),
        [(overlapping_config(), (1, 3, 9, 12)), (tiny_config(id2label=REGIONS), (1, 9, 12))],
        ids=["overlapping", "disjoint"],
    )
    def test_labels_of_the_other_form_are_refused(self, config, shape):
        model = UNetForSemanticSegmentation(config).eval()
        assert model(torch.zeros(1, 1, 9, 12), labels=torch.zeros(shape, dtype=torch.long)).loss.isfinite()
        other = (1, 9, 12) if len(shape) == 4 else (1, 3, 9, 12)
        with pytest.raises(ValueError, match=r"`labels` has shape .* needs"):
            model(torch.zeros(1, 1, 9, 12), labels=torch.zeros(other, dtype=torch.long))


class TestProcessor:
    def test_the_last_of_overlapping_classes_is_the_label(self):
        logits = torch.tensor([[0.0, 0, 0, 0], [5, 5, -1, 5], [-1, 2, -1, -1], [-1, 1, -1, 1]]).view(1, 4, 1, 4)
        outputs = SemanticSegmenterOutput(logits=logits)
        overlapping, plain = UNetImageProcessor(problem_type=OVERLAPPING), UNetImageProcessor()
        assert overlapping.post_process_semantic_segmentation(outputs)[0].tolist() == [[1, 3, 0, 3]]
        assert plain.post_process_semantic_segmentation(outputs)[0].tolist() == [[1, 1, 0, 1]]

    def test_the_likeliest_class_above_a_half_is_the_label(self):
        logits = torch.cat([torch.zeros(1, 1, 8, 8), torch.randn(1, 3, 8, 8)], dim=1)
        outputs, processor = SemanticSegmenterOutput(logits=logits), UNetImageProcessor()
        (classes,) = processor.post_process_class_probabilities(outputs, [(8, 8)])
        (label,) = processor.post_process_semantic_segmentation(outputs, [(8, 8)])
        highest, likeliest = classes.max(dim=0)
        assert torch.equal(torch.where(highest > 0.5, likeliest + 1, 0), label)

    def test_of_one_class_it_is_the_probability(self):
        outputs = SemanticSegmenterOutput(logits=torch.cat([torch.zeros(1, 1, 8, 8), torch.randn(1, 1, 8, 8)], dim=1))
        processor = UNetImageProcessor()
        (classes,) = processor.post_process_class_probabilities(outputs, [(20, 17)])
        assert torch.equal(classes[0], processor.post_process_probability(outputs, [(20, 17)])[0])

    def test_the_problem_type_is_saved_where_there_is_one(self, tmp_path):
        UNetImageProcessor(problem_type=OVERLAPPING).save_pretrained(tmp_path)
        assert UNetImageProcessor.from_pretrained(tmp_path).problem_type == OVERLAPPING
        assert "problem_type" not in UNetImageProcessor().to_dict()

    def test_another_problem_type_is_refused(self):
        with pytest.raises(ValueError, match="`problem_type` is 'regression'; allowed are None, single_label"):
            UNetImageProcessor(problem_type="regression")

    def test_a_pixel_of_several_classes_gets_the_one_with_the_most(self):
        planes = np.zeros((3, 8, 8), bool)
        planes[0, :, ::2], planes[1, :, 1::2] = True, True
        planes[0, 0, 0], planes[1, 0, 0] = False, True
        small = prepare_classes(planes, 4)
        assert small[:2].any(axis=0).all() and not small[2].any()
        assert prepare_classes(planes[:, :4], 8)[:, 4:].min() == 255
