"""The network that a run trains, from an architecture or from trained weights."""

import json
import logging
from collections.abc import Sequence
from dataclasses import fields

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig

from modeling_unet import UNetConfig, UNetForSemanticSegmentation, UNetImageProcessor
from modeling_unet.configuration_unet import OVERLAPPING
from modeling_unet.image_processing_unet import MIN_SIDE
from modeling_unet.segmenter import loading

from ..data.masks import BACKGROUND, Classes
from .calibrated import calibration_of, take_out_of_head
from .options import ARCHITECTURES, RunArguments
from .pretrained import load_imagenet_encoder


logger = logging.getLogger(__name__)

DEFAULT_ARCHITECTURE = "efficientnet-lite0"


def build_model(
    run: RunArguments, classes: Classes | None = None, channels: Sequence[str] = ()
) -> tuple[UNetForSemanticSegmentation, UNetImageProcessor]:
    """The network to train and the processor that belongs to it, from an architecture or from trained weights.

    Args:
        run: the options.
        classes: that it is to tell apart; None for one.
        channels: what it takes, if there are several.
    """
    changes = _config_changes(run) | (_labels_of(classes, run) if classes else {})
    if channels:
        changes |= {"num_channels": len(channels), "channel_names": list(channels)}
    if run.init_from is None:
        architecture = run.architecture or DEFAULT_ARCHITECTURE
        try:
            config = ARCHITECTURES[architecture](**changes)
        except StrictDataclassError as error:
            raise ValueError(f"--config {run.config}: {error.__cause__ or error}") from error
        model = UNetForSemanticSegmentation(config)
        default = "imagenet" if architecture == DEFAULT_ARCHITECTURE else "random"
        if (run.encoder_weights or default) == "imagenet":
            load_imagenet_encoder(model)
        processor = UNetImageProcessor()
    elif run.architecture or run.encoder_weights:
        raise ValueError(
            "--init_from brings its own network and weights; leave --architecture and --encoder_weights out."
        )
    else:
        model = _load_to_fine_tune(run.init_from, changes)
        calibration = calibration_of(run.init_from, model.config.class_names)
        if calibration:
            take_out_of_head(calibration, model)
        processor = UNetImageProcessor.from_pretrained(run.init_from)
    if run.image_size is not None:
        if run.image_size < MIN_SIDE:
            raise ValueError(f"--image_size is {run.image_size}; it must be at least {MIN_SIDE}.")
        processor.size["longest_edge"] = run.image_size
    if model.config.num_labels != (len(classes.names) + 1 if classes else 2):
        names = ", ".join(model.config.label_names)
        raise ValueError(
            f"--config {run.config} names the labels {names}, and the masks are of one class; to tell several apart "
            "give --classes NAME=VALUE …."
        )
    processor.channel_names = list(channels) or None
    processor.problem_type = OVERLAPPING if model.config.classes_overlap else None
    # The stub of this method takes it for a plain function.
    return model.to(memory_format=torch.channels_last), processor  # type: ignore[call-arg]


def _config_changes(run: RunArguments) -> dict:
    try:
        changes = json.loads(run.config or "{}")
    except (RecursionError, ValueError) as error:
        raise ValueError(f"--config {run.config} is not JSON: {error}.") from error
    if not isinstance(changes, dict):
        raise ValueError(f"--config {run.config} is no mapping from fields of UNetConfig to values.")
    for name in ("num_channels", "channel_names"):
        if name in changes:
            raise ValueError(
                f"--config {run.config} gives {name}; the channels follow from --sequences NAME NAME …, or it is one."
            )
    if "num_labels" in changes:
        raise ValueError(f"--config {run.config} gives num_labels; it follows from --classes NAME=VALUE …, or is 2.")
    known = {field.name for field in fields(UNetConfig)}
    if unknown := sorted(changes.keys() - known):
        raise ValueError(f"--config names fields that UNetConfig does not have: {', '.join(unknown)}.")
    return changes


def _labels_of(classes: Classes, run: RunArguments) -> dict:
    """The fields of the config that follow from the classes."""
    changes = _config_changes(run)
    if "id2label" in changes:
        raise ValueError(f"--config {run.config} names the labels, and so does --classes; leave id2label out.")
    names = [BACKGROUND, *classes.names]
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: label for label, name in enumerate(names)}}
    problem_type = changes.get("problem_type", OVERLAPPING if classes.overlap else None)
    if classes.overlap and problem_type != OVERLAPPING:
        raise ValueError(
            f"--config {run.config} gives every pixel one label, but --classes {' '.join(classes.words)} overlap; give "
            f"problem_type {OVERLAPPING}, or leave it out."
        )
    return {**labels, "problem_type": problem_type}


def _load_to_fine_tune(init_from: str, changes: dict) -> UNetForSemanticSegmentation:
    """Trained weights in a network for grey slices and one tumour label, unless `changes` names others.

    Other shapes start anew, with a warning.
    """
    with loading(init_from):
        model_type = PreTrainedConfig.get_config_dict(init_from)[0].get("model_type")
    if model_type != UNetConfig.model_type:
        raise ValueError(
            f"--init_from {init_from} is a model of type {model_type}; allowed is {UNetConfig.model_type}."
        )
    labels = {"id2label": {0: "background", 1: "tumor"}, "label2id": {"background": 0, "tumor": 1}}
    # How sure the old weights had to be says nothing about the new ones.
    replaced = {
        "num_channels": 1,
        "channel_names": None,
        "presence_logit": None,
        "problem_type": None,
        **labels,
        **changes,
    }
    with loading(init_from):
        config = UNetConfig.from_pretrained(init_from, **replaced)
        model, found = UNetForSemanticSegmentation.from_pretrained(
            init_from, config=config, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
        )
    for name, stored, wanted in sorted(found["mismatched_keys"]):
        logger.warning("%s of %s has shape %s and %s is needed: it starts anew.", name, init_from, stored, wanted)
    if missing := sorted(found["missing_keys"]):
        logger.warning("%s has no %s: they start anew.", init_from, ", ".join(missing))
    return model
