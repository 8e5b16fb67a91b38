"""Slices that weights were trained on before, among those of a new training, so that they are not forgotten.

A few corrected slices teach a network what they show, and what it knew of others fades (French 1999, "Catastrophic
forgetting in connectionist networks"). So a share of every epoch comes from the data of the first training.
"""

import logging

from datasets import Dataset

from ...columns import values_of
from ...data.folds import all_indices
from ...data.raw import DataError
from ...data.slices import DataArguments, load_slices
from ...record import seen_slices


logger = logging.getLogger(__name__)


def load_known(data_dir: str, init_from: str, training: Dataset, validation: Dataset) -> tuple[Dataset, list[int]]:
    """The slices of a data set, and which of them may be trained on again.

    These are all slices of the persons whom the weights were trained on, where their record says it: a fold that was
    left out stays left out. A slice of `training` takes the place of its older self, whose mask it corrects, and nobody
    who validates is trained on.

    Args:
        data_dir: where they lie; they are read without other options.
        init_from: the weights, a folder or Hub id.
        training, validation: the slices of the new training.

    Raises:
        DataError: there is no such slice.
    """
    slices = load_slices(DataArguments(data_dir), without_folds=True)
    persons, images = list(values_of(slices, "person_id")), list(values_of(slices, "image_sha256"))
    seen = seen_slices(init_from, slices)
    known = {*persons} if seen is None else {person for person, is_seen in zip(persons, seen, strict=True) if is_seen}
    validating, corrected = ({*values_of(part, "image_sha256")} for part in (validation, training))
    known -= {person for person, image in zip(persons, images, strict=True) if image in validating}
    rows = [index for index in all_indices(slices) if persons[index] in known and images[index] not in corrected]
    if not rows:
        raise DataError(
            f"--also_data_dir {data_dir} holds no person whom --init_from {init_from} was trained on and who does not "
            "validate; give the data set of that training, or leave it out."
        )
    if seen is None:
        logger.warning("%s does not say whom it was trained on: all of %s may train.", init_from, data_dir)
    return slices, rows
