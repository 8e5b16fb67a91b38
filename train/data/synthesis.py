"""Synthetic training slices: tumours removed, copied to the other side, or pasted in from other persons.

    slice ─ or a tumour-free canvas ─ mirror_region: tumour out, or twice ─ paste: a lesion, or healthy tissue ─→ slice
          └ cover: what other persons show at the place of the tumour, or beside it
    slice ─ darken: tissue becomes dark and smooth in the shape, and at the place, of another person's tumour ─→ slice
    slice ─ strip: what is not brain becomes black ─→ slice

Every slice of the data set shows a tumour, and a network that sees nothing else learns that there always is one. Traces
of the editing must not reveal whether there is a tumour, so every edit is made with and without one. Canvases of
another scanner come with and without a lesion. Mirrored regions remove a tumour or add one. Both then get a pasted
region, as often healthy tissue as a lesion, with the same seam. A tumour is covered by the same place of a similar
slice; as often the tumour stays, and a place beside it is covered in the same shape. Tumours that take up no contrast
are rare in the data set, and all that some persons have: darkening draws them. Many scans come without skull and skin;
a mask of the brain for each slice, which holds the place of the tumour whether it is still there or not, takes them
off. Pasting lesions is an idea of TumorCP
(Yang et al. 2021) and CarveMix (Zhang et al. 2021); the rest is ours.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
from tqdm.auto import tqdm

from modeling_unet import UNetImageProcessor, read_image, read_mask
from modeling_unet.image_processing_unet import IGNORE_INDEX, IMAGE_SUFFIXES, to_grayscale

from .augmentation import standardize
from .raw import image_files


# All lengths in pixels are for slices of this size and grow with them.
REFERENCE_SIDE = 256
SEAM = 3.0  # px over which a pasted region fades out
RIM = 5.0  # px around a lesion that go with it, and whose brightness says how bright the tissue is
DEPTH = 10.0  # px below the surface of the head: there a pasted lesion has its centre
MIN_PASTED_AREA = 30.0  # px²; a lesion that lands mostly outside the head is not pasted
MIN_SYMMETRY = 0.75  # least correlation of a slice with its mirror image for copying one half to the other
LESION_ON_MADE = 0.5  # how often a canvas or a mirrored slice gets a lesion; the others get healthy tissue
TRIES = 10  # to find a place without tumour
DONORS = 24  # most similar slices of other persons that may cover a tumour, or say where a dark one lies
DONOR_SIDE = 24  # px of the pictures by which they are found
DONOR_POOL = 4096  # slices at most among which they are looked for
SEARCH_SIDE = 64
# Of a place that is to get a tumour without contrast, what may be as dark as a ventricle: darker than this share of the
# head's median.
MAX_DARK_BEFORE, VENTRICLE = 0.1, 0.7
# Of a tumour without contrast, from and to: how wide its tissue is blurred and its edge fades out, in px; how much of
# the detail stays; and how bright it is, as a share of the tissue before.
DARK_SMOOTHING, DARK_EDGE, DARK_DETAIL, DARK_BRIGHTNESS = (2.0, 6.0), (0.7, 3.0), (0.2, 0.8), (0.5, 0.85)
STRIP_MARGIN = (-2.0, 3.0)  # px that are left around the brain, from and to: tools for brain extraction differ in that
MIN_BRAIN = 0.03  # of a slice; where there is less brain, nothing is taken off


def _help(meaning: str) -> dict[str, str]:
    return {"help": f"Synthesis: {meaning}."}


@dataclass(kw_only=True)
class Synthesis:
    """How often a training slice is replaced or changed before it is augmented: numbers that a recipe names."""

    canvases: str | None = field(
        default=None,
        metadata=_help("folder of slices without tumour, with its sub-folders; half of them get a lesion"),
    )
    canvas_probability: float = field(metadata=_help("how often one of --canvases takes a slice's place"))
    mirror_probability: float = field(
        metadata=_help("how often a tumour on one side is taken out, or copied to the other side")
    )
    paste_probability: float = field(
        metadata=_help("how often a slice gets another person's lesion, and how often healthy tissue")
    )
    cover_probability: float = field(
        metadata=_help("how often the place of the tumour, or one beside it, is covered by another person's"),
    )
    dark_probability: float = field(
        metadata=_help("how often a slice gets a tumour without contrast, where another person has one")
    )
    brain_masks: str | None = field(
        default=None,
        metadata=_help("folder of masks of the brain, named like the slices and canvases that they belong to"),
    )
    strip_probability: float = field(
        metadata=_help("how often skull and skin are taken off where --brain_masks has a mask")
    )

    def __post_init__(self):
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name.endswith("_probability") and not 0 <= value <= 1:
                raise ValueError(f"--{option.name} is {value}; it must be from 0 to 1.")
        if self.strip_probability and not self.brain_masks:
            raise ValueError(f"--strip_probability is {self.strip_probability}; it needs --brain_masks FOLDER.")


class Axis(NamedTuple):
    """Line of symmetry of a slice: it passes `offset` px right of the centre, turned by `angle` degrees.

    `symmetry` is the correlation of the slice, its tumour left out, with its mirror image: -1 … 1.
    """

    angle: float
    offset: float
    symmetry: float

    def reflection(self, side: int) -> np.ndarray:
        """Affine matrix [2, 3] that takes every pixel of a slice [side, side] to its mirror image."""
        center = (side - 1) / 2
        doubled = np.deg2rad(2 * self.angle)
        # The normal of an upright line is the x axis; turning the line by an angle turns the reflection by twice that.
        linear = np.array([[-np.cos(doubled), -np.sin(doubled)], [-np.sin(doubled), np.cos(doubled)]])
        normal = np.array([np.cos(np.deg2rad(self.angle)), np.sin(np.deg2rad(self.angle))])
        middle = np.full(2, center)
        return np.column_stack([linear, middle - linear @ middle + 2 * self.offset * normal])


class Slices(Protocol):
    """Prepared slices: of each `pixel_values`, float32 [1, S, S], and `labels`, uint8 [S, S], 0, 1 or bits."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, np.ndarray]: ...


class Synthesizer:
    """Callable `(index, rng) → pixel_values float32 [1, S, S], labels uint8 [S, S]` over prepared training slices.

    Args:
        slices: of training persons only; each has `pixel_values` float32 [1, S, S] and `labels` uint8 [S, S].
        axes: line of symmetry of every slice; read only where slices are mirrored.
        person_id: of every slice; where there are several persons, none gets a lesion of their own.
        options: how often what happens.
        canvases: slices without tumour, float32 [S, S] each.
        brains: where the brain is, uint8 [S, S] each: of every slice, then of every canvas; or nothing at all.
    """

    def __init__(
        self,
        slices: Slices,
        axes: Sequence[Axis],
        person_id: Sequence[str],
        options: Synthesis,
        canvases: Sequence[np.ndarray] = (),
        brains: Sequence[np.ndarray] = (),
    ):
        self.slices = slices
        self.axes = axes
        _, self.person, counts = np.unique(list(person_id), return_inverse=True, return_counts=True)
        self.slices_of = np.split(np.argsort(self.person, kind="stable"), np.cumsum(counts)[:-1])
        self.options = options
        self.canvases = canvases
        self.brains = brains
        needs_donors = options.cover_probability or options.dark_probability
        self.donors = Donors(slices, self.person) if needs_donors else None

    def __call__(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        shown = index
        if self.canvases and rng.random() < self.options.canvas_probability:
            number = int(rng.integers(len(self.canvases)))
            shown, canvas = len(self.slices) + number, self.canvases[number]
            image, labels = self._perhaps_paste(canvas, np.zeros(canvas.shape, np.uint8), index, LESION_ON_MADE, rng)
        else:
            image, labels = self._edit(*self._read(index), index, rng)
        if self.options.strip_probability and rng.random() < self.options.strip_probability:
            image, labels = strip(image, labels, self.brains[shown], rng)
        return image[None], labels

    def _edit(
        self, scanned: np.ndarray, labels: np.ndarray, index: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        image = scanned
        if rng.random() < self.options.mirror_probability:
            image, labels = mirror_region(image, labels, self.axes[index], take_out=rng.random() < 0.5)
        if image is scanned and self.donors is not None and rng.random() < self.options.cover_probability:
            image, labels = self._cover(image, labels, index, self.donors, rng)
        else:
            often = self.options.paste_probability if image is scanned else LESION_ON_MADE
            image, labels = self._perhaps_paste(image, labels, index, often, rng)
        if self.donors is not None and self.options.dark_probability and rng.random() < self.options.dark_probability:
            image, labels = self._darken(image, labels, index, self.donors, rng)
        return image, labels

    def _perhaps_paste(
        self, image: np.ndarray, labels: np.ndarray, index: int, often: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Paste a lesion, or as often healthy tissue, or leave it."""
        draw = rng.random()
        return self._paste(image, labels, index, rng, healthy=draw >= often) if draw < 2 * often else (image, labels)

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        sample = self.slices[index]
        return sample["pixel_values"][0], sample["labels"]

    def _paste(
        self, image: np.ndarray, labels: np.ndarray, index: int, rng: np.random.Generator, healthy: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Paste a lesion of another person or, as healthy tissue, what another slice shows beside its tumour."""
        shape = self._read(self._of_another_person(index, rng))
        lesion = tumor_of(shape[1])
        if not lesion.any():
            return image, labels
        if not healthy:
            return paste(image, labels, shape[0], lesion, rng, label=shape[1])
        for _ in range(TRIES):
            source, tumor = self._read(self._of_another_person(index, rng))
            tissue = moved_into_head(lesion, source, rng)
            if tissue.any() and not (tissue & tumor_of(tumor)).any():
                return paste(image, labels, source, tissue, rng, label=0)
        return image, labels

    def _cover(
        self, image: np.ndarray, labels: np.ndarray, index: int, donors: "Donors", rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cover the tumour, or as often a place of its shape beside it, by the same place of another person."""
        tumor = tumor_of(labels)
        if not tumor.any():
            return image, labels
        region = _grown(tumor, RIM * len(image) / REFERENCE_SIDE)
        if rng.random() < 0.5:
            region = moved_into_head(region, image, rng) & (1 - region)
        inside = head(image)
        region[~inside] = 0
        if not region.any():
            return image, labels
        for donor in rng.permutation(donors.of(index))[:TRIES]:
            source, other = self._read(int(donor))
            matrix = donors.overlay(int(donor), index)
            if not (_warp(tumor_of(other), matrix, 0, cv2.INTER_NEAREST) & region).any():
                return _lay(image, labels, source, matrix, region, inside, label=0)
        return image, labels

    def _darken(
        self, image: np.ndarray, labels: np.ndarray, index: int, donors: "Donors", rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw a tumour without contrast where another person has a tumour, and not into a ventricle or air."""
        inside, black = head(image), image.min()
        dark = image < black + VENTRICLE * (np.median(image[inside]) - black) if inside.any() else inside
        for donor in rng.permutation(donors.of(index))[:TRIES]:
            tumor = tumor_of(self._read(int(donor))[1])
            region = _warp(tumor, donors.overlay(int(donor), index), 0, cv2.INTER_NEAREST)
            region[~inside] = 0
            is_large = region.sum() >= MIN_PASTED_AREA * (len(image) / REFERENCE_SIDE) ** 2
            if is_large and not region[tumor_of(labels) > 0].any() and dark[region == 1].mean() <= MAX_DARK_BEFORE:
                return darken(image, labels, region, rng)
        return image, labels

    def _of_another_person(self, index: int, rng: np.random.Generator) -> int:
        own = self.slices_of[self.person[index]]
        others = len(self.person) - len(own)
        if not others:
            return index
        place = int(rng.integers(others))
        # How many of the person's own slices, which are in rising order, come before the one at this place.
        return place + int(np.searchsorted(own - np.arange(len(own)), place, side="right"))


class Donors:
    """Slices of other persons that show the same part of the head, laid over each other by their heads' boxes.

    They are looked for among all slices or, where these are many, among a part that is taken evenly: among thousands
    there are similar ones, and time grows with the number of slices alone.

    Args:
        slices: as in `Synthesizer`.
        person: of every slice, by number or name.
    """

    def __init__(self, slices: Slices, person: np.ndarray):
        step = math.ceil(len(slices) / DONOR_POOL)
        pool = np.arange(0, len(slices), step)
        persons, pictures = person[pool], np.zeros((len(pool), DONOR_SIDE**2), np.float32)
        self.boxes = np.zeros((len(slices), 4), np.int32)
        self.nearest = []
        with tqdm(total=len(pool) + len(slices), desc="Looking for similar slices", unit="slice") as progress:
            for place, index in enumerate(pool.tolist()):
                self.boxes[index], pictures[place] = _box_and_picture(slices[index]["pixel_values"][0])
                progress.update()
            for index, own in enumerate(person):
                picture = pictures[index // step]
                if index % step:
                    self.boxes[index], picture = _box_and_picture(slices[index]["pixel_values"][0])
                likeness = np.where(persons == own, -np.inf, pictures @ picture)
                best = np.argsort(-likeness)[:DONORS]
                self.nearest.append(pool[best[np.isfinite(likeness[best])]])
                progress.update()

    def of(self, index: int) -> np.ndarray:
        """The slices that may cover slice `index`, most similar first: int [≤ DONORS]."""
        return self.nearest[index]

    def overlay(self, donor: int, index: int) -> np.ndarray:
        """Affine matrix [2, 3] that lays the head of `donor` over that of slice `index`."""
        start, end = np.array(self.boxes[donor], float), np.array(self.boxes[index], float)
        scale = end[2:] / np.maximum(start[2:], 1)
        return np.column_stack([np.diag(scale), end[:2] - scale * start[:2]])


def _box_and_picture(image: np.ndarray) -> tuple[tuple[int, ...], np.ndarray]:
    """Where the head of a slice lies, as (x, y, width, height), and what it shows: float32 [DONOR_SIDE²] of mean 0."""
    x, y, width, height = box = cv2.boundingRect(head(image).astype(np.uint8))
    shown = image[y : y + height, x : x + width] if width and height else image
    picture = cv2.resize(shown, (DONOR_SIDE, DONOR_SIDE), interpolation=cv2.INTER_AREA).clip(-2, 2)
    return tuple(box), (picture - picture.mean()).ravel() / max(float(picture.std()), 1e-6)


def read_canvases(folder: str, processor: UNetImageProcessor) -> tuple[dict[str, np.ndarray], str]:
    """The images of a folder and its sub-folders, prepared, by their paths in it; and the SHA-256 of their pixels.

    The hash is over the pixels because prepared values depend on the number of threads in their last digits.

    Returns:
        float32 [S, S] each.

    Raises:
        ValueError: there are none.
    """
    paths = image_files(Path(folder), "**/*")
    if not paths:
        raise ValueError(f"--canvases {folder} holds no images; accepted are {', '.join(IMAGE_SUFFIXES)}.")
    images = [to_grayscale(read_image(path)) for path in paths]
    pixels = hashlib.sha256()
    for image in images:
        pixels.update(f"{image.shape}".encode() + image.tobytes())
    names = [path.relative_to(folder).as_posix() for path in paths]
    prepared = [processor(image, return_tensors="np")["pixel_values"][0, 0] for image in images]
    return dict(zip(names, prepared, strict=True)), pixels.hexdigest()


def read_brains(folder: str, names: Sequence[str], side: int) -> tuple[list[np.ndarray], str]:
    """The masks of the brain of slices and canvases, by their names; and the SHA-256 of their pixels.

    Args:
        names: without suffix; where the folder has no mask, or an empty one, nothing will be taken off.
        side: S of the prepared slices; masks are brought to it as they are, so slices must be square.

    Returns:
        uint8 [S, S] each, 1 = brain.

    Raises:
        ValueError: the folder holds a mask of none of them.
        InvalidImageError, NonBinaryMaskError: a mask cannot be read.
    """
    paths = {path.stem: path for path in image_files(Path(folder), "**/*")}
    if not paths.keys() & set(names):
        raise ValueError(
            f"--brain_masks {folder} holds no image that is named like a slice, for example {names[0]}.png."
        )
    brains: list[np.ndarray] = []
    pixels = hashlib.sha256()
    for name in names:
        path = paths.get(name)
        if path is None:
            brains.append(np.zeros((side, side), np.uint8))
            continue
        mask = read_mask(path).astype(np.uint8)
        pixels.update(f"{name} {mask.shape}".encode() + mask.tobytes())
        brains.append(cv2.resize(mask, (side, side), interpolation=cv2.INTER_NEAREST).astype(np.uint8))
    return brains, pixels.hexdigest()


# ------------------------------------------------------------------------------------------------------------- symmetry


def find_axis(image: np.ndarray, labels: np.ndarray) -> Axis:
    """The line across which a slice resembles its mirror image most.

    Args:
        image: float32 [S, S].
        labels: uint8 [S, S]; pixels of the tumour do not count.
    """
    scale = len(image) / SEARCH_SIDE
    small = cv2.resize(image, (SEARCH_SIDE, SEARCH_SIDE), interpolation=cv2.INTER_AREA)
    healthy = 1 - tumor_of(labels).astype(np.float32)
    counts = cv2.resize(healthy, (SEARCH_SIDE, SEARCH_SIDE), interpolation=cv2.INTER_AREA)
    coarse = [(angle, offset) for angle in range(-15, 16, 5) for offset in range(-8, 9, 2)]
    best = _most_symmetric(small, counts, coarse)
    fine = [
        (best.angle + angle, best.offset + offset)
        for angle in (-3, -1.5, 0, 1.5, 3)
        for offset in (-1, -0.5, 0, 0.5, 1)
    ]
    best = _most_symmetric(small, counts, fine)
    return best._replace(offset=best.offset * scale)


def _most_symmetric(image: np.ndarray, counts: np.ndarray, candidates: Sequence[tuple[float, float]]) -> Axis:
    axes = [Axis(angle, offset, 0.0) for angle, offset in candidates]
    return max(
        (axis._replace(symmetry=_symmetry(image, counts, axis)) for axis in axes), key=lambda axis: axis.symmetry
    )


def _symmetry(image: np.ndarray, counts: np.ndarray, axis: Axis) -> float:
    matrix = axis.reflection(len(image))
    mirrored = _warp(image, matrix, float(image.min()))
    weights = counts * _warp(counts, matrix, 0.0)
    total = max(float(weights.sum()), 1e-6)
    own, other = (values - (weights * values).sum() / total for values in (image, mirrored))
    spread = np.sqrt((weights * own**2).sum() * (weights * other**2).sum())
    return float((weights * own * other).sum() / max(spread, 1e-6))


def mirror_region(image: np.ndarray, labels: np.ndarray, axis: Axis, take_out: bool) -> tuple[np.ndarray, np.ndarray]:
    """Cover the tumour by what lies on the other side of the head (`take_out`), or the other side by the tumour.

    The slice comes back as it is where it is not symmetric enough or the tumour reaches the other half's region.
    """
    unit = len(image) / REFERENCE_SIDE
    matrix = axis.reflection(len(image))
    tumor = tumor_of(labels)
    region = _grown(tumor, RIM * unit)
    mirrored_region = _warp(region, matrix, 0, cv2.INTER_NEAREST)
    opposite = mirrored_region > 0
    if axis.symmetry < MIN_SYMMETRY or not region.any() or (opposite & (region > 0)).any():
        return image, labels
    if opposite.sum() < 0.9 * region.sum() or head(image)[opposite].mean() < 0.9:
        return image, labels
    mirrored = _warp(image, matrix, float(image.min()))
    if take_out:
        return _blend(image, mirrored, _faded(region, unit)), np.where(tumor == 1, 0, labels).astype(np.uint8)
    copied = _warp(np.where(tumor == 1, labels, 0).astype(np.uint8), matrix, 0, cv2.INTER_NEAREST)
    return _blend(image, mirrored, _faded(mirrored_region, unit)), np.where(copied > 0, copied, labels).astype(np.uint8)


# -------------------------------------------------------------------------------------------------------------- pasting


def paste(
    image: np.ndarray,
    labels: np.ndarray,
    source: np.ndarray,
    region: np.ndarray,
    rng: np.random.Generator,
    label: int | np.ndarray = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Paste a region of another slice somewhere into the head: turned, scaled, and as bright as its new surroundings.

    Args:
        image, source: float32 [S, S].
        labels: uint8 [S, S].
        region: uint8 [S, S], 1 where `source` is copied from, which must not be empty.
        label: what the region shows, 1 for tumour and 0 for healthy tissue; or the labels of `source`, uint8 [S, S].

    Returns:
        image and labels with the region labelled so; as they were if it would lie outside the head.
    """
    unit = len(image) / REFERENCE_SIDE
    inside = head(image)
    place = _random_place(inside, DEPTH * unit, rng)
    if place is None:
        return image, labels
    matrix = _random_move(_centroid(region), place, rng)
    moved = _warp(region, matrix, 0, cv2.INTER_NEAREST)
    moved[~inside] = 0
    if moved.sum() < MIN_PASTED_AREA * unit**2:
        return image, labels
    return _lay(image, labels, source, matrix, moved, inside, label, rng.uniform(0.7, 1.2))


def _lay(
    image: np.ndarray,
    labels: np.ndarray,
    source: np.ndarray,
    matrix: np.ndarray,
    moved: np.ndarray,
    inside: np.ndarray,
    label: int | np.ndarray,
    contrast: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Lay the region `moved`, uint8 [S, S], of a source that `matrix` brings into place over the head of a slice."""
    unit = len(image) / REFERENCE_SIDE
    moved_source = _warp(source, matrix, float(source.min()))
    around = (_grown(moved, RIM * unit) > 0) & (moved == 0)
    there = around & _warp(head(source).astype(np.uint8), matrix, 0, cv2.INTER_NEAREST).astype(bool)
    here = around & inside
    if not there.any() or not here.any():
        return image, labels
    gain = np.clip(image[inside].std() / max(source[head(source)].std(), 1e-6), 0.7, 1.4) * contrast
    matched = (moved_source - np.median(moved_source[there])) * gain + np.median(image[here])
    matched = np.maximum(matched, image.min()).astype(np.float32)
    blended = _blend(image, matched, _faded(moved, unit) * inside)
    if isinstance(label, np.ndarray):
        label = _warp(label, matrix, 0, cv2.INTER_NEAREST)
    return blended, np.where((moved == 1) & (labels != 255), label, labels).astype(np.uint8)


def darken(
    image: np.ndarray, labels: np.ndarray, region: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Make a region of a slice look like a tumour that takes up no contrast: darker and smoother than it was.

    Args:
        image: float32 [S, S].
        labels: uint8 [S, S].
        region: uint8 [S, S], 1 where the tumour is to be.

    Returns:
        image and labels with the region labelled as tumour.
    """
    unit, black = len(image) / REFERENCE_SIDE, float(image.min())
    smooth = cv2.GaussianBlur(image, (0, 0), rng.uniform(*DARK_SMOOTHING) * unit)
    detail = rng.uniform(*DARK_DETAIL) * (image - smooth)
    dark = black + rng.uniform(*DARK_BRIGHTNESS) * (smooth - black) + detail
    alpha = cv2.GaussianBlur(region.astype(np.float32), (0, 0), rng.uniform(*DARK_EDGE) * unit)
    made = np.maximum(_blend(image, dark, alpha), black).astype(np.float32)
    return made, np.where((region == 1) & (labels != 255), 1, labels).astype(np.uint8)


def tumor_of(labels: np.ndarray) -> np.ndarray:
    """uint8 [S, S]: 1 where labels, or bits of several classes, show tumour, and neither background nor padding."""
    return ((labels > 0) & (labels != IGNORE_INDEX)).astype(np.uint8)


def moved_into_head(lesion: np.ndarray, source: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The region of a lesion at another place of a slice, uint8 [S, S]; empty if the slice shows no head."""
    place = _random_place(head(source), DEPTH * len(source) / REFERENCE_SIDE, rng)
    if place is None:
        return np.zeros_like(lesion)
    shift = np.column_stack([np.eye(2), np.subtract(place, _centroid(lesion))])
    return _warp(lesion, shift, 0, cv2.INTER_NEAREST)


def strip(
    image: np.ndarray, labels: np.ndarray, brain: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Take skull and skin off, closer or wider, as tools for brain extraction leave a slice.

    Args:
        image: float32 [S, S].
        labels: uint8 [S, S].
        brain: uint8 [S, S], 1 where the brain is; where it is nearly empty, the slice comes back as it is.

    Returns:
        the standardised image, black outside the brain, and labels without what is black now.
    """
    if brain.mean() < MIN_BRAIN:
        return image, labels
    margin = rng.uniform(*STRIP_MARGIN) * len(image) / REFERENCE_SIDE
    kept = _grown(brain, margin) if margin > 0 else 1 - _grown(1 - brain, -margin)
    black = float(image.min())
    stripped = np.where(kept == 1, image, black).astype(np.float32)
    return standardize(stripped, black), np.where((kept == 0) & (labels != IGNORE_INDEX), 0, labels).astype(np.uint8)


def head(image: np.ndarray) -> np.ndarray:
    """Bool [S, S]: the largest bright piece of a slice with everything inside it."""
    low, high = float(image.min()), float(np.percentile(image, 99))
    bright = (image > low + 0.12 * (high - low)).astype(np.uint8)
    contours, _ = cv2.findContours(bright, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    filled = np.zeros(image.shape, np.uint8)
    if contours:
        cv2.drawContours(filled, [max(contours, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return filled.astype(bool)


def _random_place(inside: np.ndarray, depth: float, rng: np.random.Generator) -> tuple[int, int] | None:
    distance = cv2.distanceTransform(np.pad(inside, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    places = np.argwhere(distance > depth)
    return None if len(places) == 0 else tuple(places[rng.integers(len(places))][::-1].tolist())


def _random_move(start: np.ndarray, end: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Affine matrix [2, 3] that turns, scales, perhaps flips, and takes the point `start` to `end`."""
    angle, scale = rng.uniform(-np.pi, np.pi), np.exp(rng.uniform(np.log(0.6), np.log(1.4)))
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if rng.random() < 0.5:
        turn[:, 0] *= -1
    return np.column_stack([turn, np.subtract(end, turn @ start)])


def _centroid(region: np.ndarray) -> np.ndarray:
    return np.argwhere(region)[:, ::-1].mean(axis=0)


def _grown(region: np.ndarray, radius: float) -> np.ndarray:
    size = 2 * round(radius) + 1
    return cv2.dilate(region, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))


def _faded(region: np.ndarray, unit: float) -> np.ndarray:
    """1 in the region, 0 some pixels outside it, and a smooth slope between."""
    return cv2.GaussianBlur(_grown(region, SEAM * unit).astype(np.float32), (0, 0), SEAM * unit / 2)


def _blend(below: np.ndarray, above: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return below + alpha * (above - below)


def _warp(values: np.ndarray, matrix: np.ndarray, border: float, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    return cv2.warpAffine(values, matrix, values.shape[::-1], flags=interpolation, borderValue=border)
