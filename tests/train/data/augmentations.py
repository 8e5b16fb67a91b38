"""The augmentation of a recipe, for tests of it and of what it belongs to."""

from dataclasses import fields

from train.data.augmentation import Augmentation
from train.fitting.options import DEFAULT_RECIPE, read_recipe


def augmentation(**changes) -> Augmentation:
    """That of the recipe fast-cpu, whose changes are the smaller ones, but for `changes`."""
    values = {**read_recipe(DEFAULT_RECIPE), **read_recipe("fast-cpu"), **changes}
    return Augmentation(**{field.name: values[field.name] for field in fields(Augmentation)})
