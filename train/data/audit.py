"""Faults of a data set that would spoil a training, found in its scan before the training starts.

    scan ─ folds.assign_persons ─→ slices ─ fast_findings ─→ findings ─ refuse ─→ DataError, or warnings in the log
                                          ─ near_duplicates ─→ findings, for `python -m train check`

An error stops a training before it starts: slices that cannot be used, one image on both sides of a split, one image
with two different masks. A warning is about something that may be intended, such as slices without a tumour.
"""

import logging
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal

import cv2
import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from modeling_unet.segmentation import MIN_LESION_AREA_PX

from ..columns import values_of
from .cache import WORTH_SAYING
from .folds import UNKNOWN
from .masks import advise_labels
from .raw import SHOWN, DataError, listed


logger = logging.getLogger(__name__)

Severity = Literal["error", "warning"]
NOT_BINARY, EMPTY = "not binary", "empty masks"  # kinds of findings
MAX_MASK_SHARE = 0.5  # of the slice; a mask above it is more likely one of the background
MAX_PERSON_SHARE = 1 / 3  # of the slices; above it the scores are mostly one person's
MIN_PERSONS = 20  # with fewer, intervals over persons are too narrow

# In the public data set (2,663 slices of 178 persons) slices of two persons correlate by 0.966 at most, while a third
# of the persons have two slices of their own above 0.975. Above it are also copies saved as JPEG of quality 10, halved
# in size, made noisy or brighter (gamma 0.7), moved by two pixels or turned by a degree; not those moved by eight.
NEAR_DUPLICATE_CORRELATION = 0.975
CHUNK = 4096  # slices that are worked on at a time
# Slices are sorted so many times by the sides of so many planes on which they lie, and in each order compared with so
# many neighbours, by their positions in so many directions, which a sample of them gives.
ORDERS, PLANES, NEIGHBOURS, DIRECTIONS, MAX_SAMPLE, ORDER_SEED = 16, 32, 32, 32, 4096, 0

# The masks of the public data set fit 3.3 times better as they are than changed in any way, those of its gliomas alone
# 1.9 times; masks of wrong images 0.9 to 1.1 times. With fewer masks than 50 it is a matter of chance.
MIN_FIT = 1.2
MIN_MASKS_TO_FIT = 50
MAX_MASKS_TO_FIT = 2000  # more of them would only take longer
RIM = np.ones((5, 5), np.uint8)
OTHER_IMAGES = "given to other images"
# What would have to be done to the masks → the opposite done to the images, [N, S, S].
CHANGES = {
    "mirrored left to right": lambda images: images[:, :, ::-1],
    "mirrored top to bottom": lambda images: images[:, ::-1],
    "turned upside down": lambda images: images[:, ::-1, ::-1],
    "turned a quarter to the right": lambda images: np.rot90(images, 1, axes=(1, 2)),
    "turned a quarter to the left": lambda images: np.rot90(images, -1, axes=(1, 2)),
    "transposed": lambda images: images.swapaxes(1, 2),
    "transposed along the other diagonal": lambda images: images.swapaxes(1, 2)[:, ::-1, ::-1],
    OTHER_IMAGES: lambda images: np.roll(images, len(images) // 2, axis=0),
}


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a data set, or may be.

    Attributes:
        kind: a few words, the same for whatever one check finds.
        severity: "error" if no training should start, else "warning".
        slices: names of the slices concerned.
        message: sentences that name the first slices and say what to do.
        paired: `slices` holds one pair after another.
    """

    kind: str
    severity: Severity
    slices: tuple[str, ...]
    message: str
    paired: bool = False


def fast_findings(slices: Dataset) -> list[Finding]:
    """All that is found in about a second, errors first: what `fit` asks for.

    Args:
        slices: the scan, after `folds.assign_persons`.
    """
    rows = _rows(sound_slices(slices))
    found = [*slice_findings(slices), *_shared_images(rows), *_repeated_slices(rows)]
    if rows and persons_known(slices):
        found += [*_doubtful_ids(rows), *_uneven_persons(rows)]
    return errors_first(found)


def slice_findings(slices: Dataset) -> list[Finding]:
    """The part of `fast_findings` that does not need the persons, only the scan."""
    sound = sound_slices(slices)
    rows = _rows(sound)
    checks = (_blank_images, _coloured_images, _contradictions, _odd_masks, _labels_left_out, _repeated_masks)
    problems, found = list(_problems(slices)), [finding for check in checks for finding in check(rows)]
    if any(problem.kind == NOT_BINARY for problem in problems):  # those may be all that show a tumour
        found = [finding for finding in found if (finding.kind, finding.severity) != (EMPTY, "error")]
    return errors_first([*problems, *found, *_misplaced_masks(sound)])


def errors_first(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: finding.severity != "error")


def refuse(findings: Iterable[Finding]) -> None:
    """Log the warnings.

    Raises:
        DataError: there are errors; the message gives the first five.
    """
    errors = []
    for finding in findings:
        if finding.severity == "error":
            errors.append(f"- {finding.kind}: {finding.message}")
        else:
            logger.warning("%s: %s", finding.kind.capitalize(), finding.message)
    if errors:
        more = [f"- and {len(errors) - SHOWN} more"] if len(errors) > SHOWN else []
        lines = ["This data set would spoil a training.", *errors[:SHOWN], *more]
        raise DataError("\n".join([*lines, "`python -m train check` shows all that was found, with pictures."]))


def persons_known(slices: Dataset) -> bool:
    """Whether the persons are known; if they are not, `person_id` is the name of the slice."""
    columns = zip(values_of(slices, "person_id"), values_of(slices, "slice"), strict=True)
    return any(person not in ("", name) for person, name in columns)


# ------------------------------------------------------------------------------------------------------- single slices


def _problems(slices: Dataset) -> Iterator[Finding]:
    """What the scan says of single slices, by kind."""
    by_kind: dict[str, dict[str, str]] = defaultdict(dict)
    labels: set[float] = set()
    is_of_labels = False
    needed = ("slice", "problem_kind", "problem", "mask_labels")
    columns = zip(*(values_of(slices, name) for name in needed), strict=True)
    for name, kind, problem, held in columns:
        labels |= {float(label) for label in held.split()}
        if kind:
            by_kind[kind].setdefault(name, problem)
            is_of_labels |= kind == NOT_BINARY and bool(held)
    for kind, problems in by_kind.items():
        names = tuple(problems)
        message = problems[names[0]] + (f" The same goes for {listed(names[1:])}." if len(names) > 1 else "")
        if kind == NOT_BINARY and is_of_labels:
            message += f" {advise_labels(labels)}"
        if kind == "unpaired" and _lacks_masks(slices):
            message += " If an image without mask is one without tumour, give --missing_mask empty."
        yield Finding(kind, "error", names, message)


def _lacks_masks(slices: Dataset) -> bool:
    """Whether some image is unpaired for want of a mask."""
    unpaired = [index for index, kind in enumerate(values_of(slices, "problem_kind")) if kind == "unpaired"]
    pictures = slices.select(unpaired).select_columns(["image", "mask"])
    return any(row["image"] is not None and row["mask"] is None for row in pictures)


def _blank_images(rows: list[dict]) -> Iterator[Finding]:
    if names := _names(row for row in rows if row["blank"] and row["mask_area"]):
        message = f"The image has one value throughout, and its mask shows a tumour: {listed(names)}."
        yield Finding("blank images", "error", names, message)


def _coloured_images(rows: list[dict]) -> Iterator[Finding]:
    if names := _names(row for row in rows if row["coloured"]):
        message = (
            f"The colours of an image differ, and the grey that the network sees would be their average: "
            f"{listed(names)}. Save the sequence that you mean in grey, and nothing drawn on it; or if each channel "
            "is a sequence, say which one by --image_channel red, green or blue."
        )
        yield Finding("coloured images", "error", names, message)


def _labels_left_out(rows: list[dict]) -> Iterator[Finding]:
    if found := {row["slice"]: row["labels_left_out"] for row in rows if row["labels_left_out"]}:
        shown = listed([f"{name} ({labels})" for name, labels in found.items()])
        message = f"Some values of masks are taken for background: {shown}. Is that meant?"
        yield Finding("labels left out", "warning", tuple(found), message)


def _odd_masks(rows: list[dict]) -> Iterator[Finding]:
    if empty := _names(row for row in rows if not row["mask_area"]):
        if len(empty) == len(rows):
            yield Finding(EMPTY, "error", empty, "No mask shows a tumour, so there is nothing to learn.")
        else:
            message = f"{len(empty):,} of {len(rows):,} masks show no tumour: {listed(empty)}. Is there none?"
            yield Finding(EMPTY, "warning", empty, message)
    if large := _names(row for row in rows if row["mask_area"] > MAX_MASK_SHARE * row["height"] * row["width"]):
        message = f"The mask covers more than half of its slice: {listed(large)}. Are tumour and background exchanged?"
        yield Finding("large masks", "warning", large, message)
    if tiny := _names(row for row in rows if 0 < row["mask_area"] < MIN_LESION_AREA_PX):
        message = f"The mask has fewer than {MIN_LESION_AREA_PX} pixels: {listed(tiny)}. Are these mistakes?"
        yield Finding("tiny masks", "warning", tiny, message)


# --------------------------------------------------------------------------------------------------- images and masks


def _contradictions(rows: list[dict]) -> Iterator[Finding]:
    if pairs := _pairs(_not_blank(rows), same=("image_sha256",), different="mask_sha256"):
        message = f"One image comes with different masks: {_listed_pairs(pairs)}. Keep the right one, or unite them."
        yield _paired_finding("one image, several masks", "error", pairs, message)


def _repeated_masks(rows: list[dict]) -> Iterator[Finding]:
    with_tumor = [row for row in rows if row["mask_area"]]
    if pairs := _pairs(with_tumor, same=("mask_sha256",), different="image_sha256"):
        message = f"Different images come with the very same mask: {_listed_pairs(pairs)}. Were files mixed up?"
        yield _paired_finding("repeated masks", "warning", pairs, message)


def _misplaced_masks(slices: Dataset) -> Iterator[Finding]:
    """Masks that lie no better on their images than if they were turned, mirrored or those of other images.

    A tumour differs from what surrounds it. How well a mask fits is the difference between the thumbnail's means inside
    and along the rim of the mask; where masks and images do not belong together, the median over all slices drops.
    """
    columns = zip(values_of(slices, "thumbnail"), values_of(slices, "mask_area"), strict=True)
    usable = [index for index, (thumbnail, area) in enumerate(columns) if any(thumbnail) and area]
    if len(usable) < MIN_MASKS_TO_FIT:
        return
    chosen = slices.select(usable[:: math.ceil(len(usable) / MAX_MASKS_TO_FIT)])
    images = _thumbnails(chosen)
    masks = np.stack([_mask_thumbnail(mask["bytes"], images.shape[1:]) for mask in values_of(chosen, "mask")])
    rims = np.stack([cv2.dilate(mask, RIM) for mask in masks]) - masks
    fit = _fit(images, masks, rims)
    changed = {name: _fit(change(images), masks, rims) for name, change in CHANGES.items()}
    best = max(changed, key=changed.__getitem__)
    if fit < MIN_FIT * changed[best]:
        what = best if changed[best] > MIN_FIT * fit else OTHER_IMAGES
        message = (
            f"What lies under the masks differs from its surroundings by {fit:.0f} grey levels of 255; if the masks "
            f"were {what}, by {changed[what]:.0f}. Does every mask belong to its image, and lie the same way?"
        )
        yield Finding("misplaced masks", "warning", tuple(values_of(chosen, "slice")), message)


def _fit(images: np.ndarray, masks: np.ndarray, rims: np.ndarray) -> float:
    return float(np.median(np.abs(_weighted_means(images, masks) - _weighted_means(images, rims))))


def _weighted_means(images: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return (images * weights).sum(axis=(1, 2)) / np.maximum(weights.sum(axis=(1, 2)), 1e-6)


def _mask_thumbnail(png: bytes, shape: tuple[int, int]) -> np.ndarray:
    """float32 [S, S]: the share of every cell that the mask covers."""
    mask = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert mask is not None  # the scan wrote it
    return cv2.resize((mask > 0).astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA)


# -------------------------------------------------------------------------------------------------------------- persons


def _shared_images(rows: list[dict]) -> Iterator[Finding]:
    if pairs := _pairs(_not_blank(rows), same=("image_sha256",), different="person_id"):
        message = (
            f"One image belongs to several persons, so a network could be scored on images that it was trained on: "
            f"{_listed_pairs(pairs)}. Keep one of each, or give both the same person_id."
        )
        yield _paired_finding("one image, several persons", "error", pairs, message)


def _repeated_slices(rows: list[dict]) -> Iterator[Finding]:
    same = ("person_id", "image_sha256", "mask_sha256")
    if pairs := _pairs(_not_blank(rows), same=same, different="slice"):
        message = f"Image and mask of a slice are there twice, and so count double: {_listed_pairs(pairs)}."
        yield _paired_finding("repeated slices", "warning", pairs, message)


def _doubtful_ids(rows: list[dict]) -> Iterator[Finding]:
    """Different ids that may be of one person, and single ids that may be of two persons."""
    spellings: dict[str, set[str]] = defaultdict(set)
    types: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        spellings[_bare_id(row["person_id"])].add(row["person_id"])
        types[row["person_id"]].add(row["tumor_type"])
    if alike := [" / ".join(sorted(ids)) for ids in spellings.values() if len(ids) > 1]:
        message = f"Ids differ in nothing but case, signs or leading zeros: {listed(alike)}. Are they the same persons?"
        yield Finding("similar person ids", "warning", (), message)
    if several := [f"{person} ({' / '.join(sorted(found))})" for person, found in types.items() if len(found) > 1]:
        message = f"Persons have several tumour types: {listed(several)}. Are ids used twice, once per type?"
        yield Finding("persons of several types", "warning", (), message)


def _bare_id(person: str) -> str:
    return re.sub(r"0*(\d+)", r"\1", re.sub(r"[\W_]+", "-", person.casefold()).strip("-"))


def _uneven_persons(rows: list[dict]) -> Iterator[Finding]:
    """Too few persons: altogether, of one tumour type, or because most slices are of one person."""
    counts: Counter[str] = Counter(row["person_id"] for row in rows)
    persons_of: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        persons_of[row["tumor_type"]].add(row["person_id"])
    if len(counts) < MIN_PERSONS:
        message = f"There are {len(counts)} persons; scores will hang on single ones, and say little about others."
        yield Finding("few persons", "warning", (), message)
    person, most = counts.most_common(1)[0]
    if most > MAX_PERSON_SHARE * len(rows):
        message = f"{most:,} of {len(rows):,} slices are of person {person}: the scores will be mostly this person's."
        yield Finding("dominant person", "warning", (), message)
    if lone := [name for name, persons in persons_of.items() if len(persons) == 1 and name != UNKNOWN]:
        message = f"A single person has this tumour type, so it is never both learned and scored: {listed(lone)}."
        yield Finding("lone tumour types", "warning", (), message)


# ------------------------------------------------------------------------------------------------------ near-duplicates


def near_duplicates(slices: Dataset) -> list[Finding]:
    """Slices of different persons whose thumbnails correlate almost perfectly: copies, or one person under two ids.

    For every slice the closest one of another person is looked at, so that there are at most as many pairs as slices.
    Time and memory grow with their number.

    Args:
        slices: the scan, after `folds.assign_persons`.
    """
    sound = sound_slices(slices)
    usable = sound.select([index for index, thumbnail in enumerate(values_of(sound, "thumbnail")) if any(thumbnail)])
    if len(usable) < 2:
        return []
    nearest, correlation = _nearest_strangers(usable)
    found: dict[tuple[int, ...], float] = {}
    for index in np.flatnonzero(correlation > NEAR_DUPLICATE_CORRELATION):
        found[tuple(sorted((int(index), int(nearest[index]))))] = correlation[index]
    if not found:
        return []
    rows = usable.select_columns(["slice", "person_id"])
    pairs = [(rows[first], rows[second]) for first, second in sorted(found, key=found.__getitem__, reverse=True)]
    message = (
        f"Slices of different persons look almost the same (thumbnails correlate by more than "
        f"{NEAR_DUPLICATE_CORRELATION}), the closest first: {_listed_pairs(pairs)}. Copies, and slices of one person, "
        f"need the same person_id."
    )
    return [_paired_finding("near-duplicates", "warning", pairs, message)]


def _nearest_strangers(slices: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """For every slice the index of the closest one of another person, and their correlation; equal images aside.

    Only pairs above `NEAR_DUPLICATE_CORRELATION` are looked for. Slices that look alike lie on the same side of most
    planes through the middle of all (Charikar 2002). Sorted by the sides on which they lie, they stand near each other;
    not in every such order, but in one of several (Bawa et al. 2005).
    """
    thumbnails = np.frombuffer(b"".join(values_of(slices, "thumbnail")), np.uint8).reshape(len(slices), -1)
    names = ("person_id", "image_sha256")
    persons, images = (np.unique(list(values_of(slices, name)), return_inverse=True)[1] for name in names)
    positions = _positions(thumbnails)
    nearest, correlation = np.zeros(len(slices), np.int64), np.full(len(slices), -1.0, np.float32)
    rng = np.random.default_rng(ORDER_SEED)
    rounds = tqdm(range(ORDERS), desc="Looking for near-duplicates", disable=len(slices) < WORTH_SAYING)
    for _ in rounds:
        sides = positions @ rng.normal(size=(positions.shape[1], PLANES)).astype(np.float32) > 0
        order = np.lexsort(sides.T)
        sorted_positions, sorted_persons, sorted_images = positions[order], persons[order], images[order]
        for step in range(1, min(NEIGHBOURS, len(order) - 1) + 1):
            apart = ((sorted_positions[step:] - sorted_positions[:-step]) ** 2).sum(axis=1)
            # Of two vectors of length 1, half the squared distance is 1 less their correlation.
            is_close = apart < 2 * (1 - NEAR_DUPLICATE_CORRELATION)
            is_close &= sorted_persons[step:] != sorted_persons[:-step]
            is_close &= sorted_images[step:] != sorted_images[:-step]
            found = np.flatnonzero(is_close)
            for start in range(0, len(found), CHUNK):
                chunk = found[start : start + CHUNK]
                first, second = order[chunk], order[chunk + step]
                alike = (_unit_vectors(thumbnails[first]) * _unit_vectors(thumbnails[second])).sum(axis=1)
                for own, other in ((first, second), (second, first)):
                    better = alike > correlation[own]
                    nearest[own[better]], correlation[own[better]] = other[better], alike[better]
    return nearest, correlation


def _positions(thumbnails: np.ndarray) -> np.ndarray:
    """Unit vectors in the directions in which they differ most, float32 [N, D]: nowhere farther apart than they are."""
    sample = _unit_vectors(thumbnails[:: math.ceil(len(thumbnails) / MAX_SAMPLE)])
    middle = sample.mean(axis=0)
    _, directions = np.linalg.eigh((sample - middle).T @ (sample - middle))
    directions = directions[:, -DIRECTIONS:]
    chunks = (thumbnails[start : start + CHUNK] for start in range(0, len(thumbnails), CHUNK))
    return np.concatenate([(_unit_vectors(chunk) - middle) @ directions for chunk in chunks])


def _unit_vectors(thumbnails: np.ndarray) -> np.ndarray:
    """float32 [N, P], of mean 0 and length 1: their products are correlations."""
    vectors = thumbnails.astype(np.float32)
    vectors -= vectors.mean(axis=1, keepdims=True)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# -------------------------------------------------------------------------------------------------------------- helpers


def sound_slices(slices: Dataset) -> Dataset:
    return slices.select([index for index, kind in enumerate(values_of(slices, "problem_kind")) if not kind])


def _rows(slices: Dataset) -> list[dict]:
    """What is known of every slice, without its pictures; `blank` tells an image that has one value throughout."""
    names = ["slice", "person_id", "tumor_type", "height", "width", "mask_area", "image_sha256", "mask_sha256"]
    names += ["coloured", "labels_left_out"]
    rows = slices.select_columns(names).to_list()
    thumbnails = values_of(slices, "thumbnail")
    return [{**row, "blank": not any(thumbnail)} for row, thumbnail in zip(rows, thumbnails, strict=True)]


def _not_blank(rows: list[dict]) -> list[dict]:
    return [row for row in rows if not row["blank"]]


def _thumbnails(slices: Dataset) -> np.ndarray:
    """float32 [N, S, S]"""
    values = np.frombuffer(b"".join(values_of(slices, "thumbnail")), np.uint8)
    side = math.isqrt(len(values) // len(slices))
    return values.reshape(-1, side, side).astype(np.float32)


def _pairs(rows: list[dict], same: tuple[str, ...], different: str) -> list[tuple[dict, dict]]:
    """Rows that agree in `same` and differ in `different`: the first of a group with each other one."""
    groups: dict[Any, dict[Any, dict]] = defaultdict(dict)
    for row in rows:
        groups[itemgetter(*same)(row)].setdefault(row[different], row)
    return [(first, other) for first, *others in map(dict.values, groups.values()) for other in others]


def _paired_finding(kind: str, severity: Severity, pairs: list[tuple[dict, dict]], message: str) -> Finding:
    return Finding(kind, severity, _names(row for pair in pairs for row in pair), message, paired=True)


def _names(rows: Iterable[dict]) -> tuple[str, ...]:
    return tuple(row["slice"] for row in rows)


def _listed_pairs(pairs: list[tuple[dict, dict]]) -> str:
    return listed([" / ".join(map(_with_person, pair)) for pair in pairs])


def _with_person(row: dict) -> str:
    person = row["person_id"]
    # Slices that were cut from a volume are often called by their person.
    is_said = person in ("", row["slice"]) or row["slice"].startswith(tuple(f"{person}{sign}" for sign in "-_/"))
    return row["slice"] if is_said else f"{row['slice']} (person {person})"
