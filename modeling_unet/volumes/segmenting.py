"""A volume in, its lesions out: slices of all planes → one probability → one mask, lesions in mL, and what to know.

Volume ─ axial, coronal, sagittal slices ─→ segmenter ─→ mean probability ─→ confirmed pieces ─→ VolumeSegmentation
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any, Protocol

import numpy as np

from ..familiarity import UNFAMILIAR
from ..image_processing_unet import FOREGROUND_FRACTION
from ..segmentation import DEFAULT_THRESHOLD, Segmentation, check_threshold, class_masks
from .heads import extent, find_head, has_skull
from .lesions import MIN_LESION_ML, MIN_LESION_VOXELS, VolumeLesion, find_lesions, label_pieces
from .planes import Frame, frame_of, spacing_of, turned, turned_sizes
from .volume import PLANES, Volume


# Slices that lie farther apart give no picture in other planes; those of 6 mm still do.
MAX_SLICE_SPACING_MM = 7.0
# A stack that is thinner than this part of its slices' longer side shows no head in other planes, but a stripe of one.
LEAST_THICKNESS = 0.25
# A piece of the mask stays if this share of it has a mean probability above this one, which two planes cannot reach
# alone. Chosen on two normal persons: 0.16 and more of a pasted lesion, 0.04 and less of a false alarm.
CONFIRMED, CONFIRMED_SHARE = 0.75, 0.1
MAX_BATCH_PIXELS = 16 * 512 * 512
# So many slices in a row that are missing between others can be drawn from these; a tumour may lie within more.
MAX_FILLED = 2
UNLIKE = (
    "Most slices of this volume are unlike the T1-weighted slices with contrast that the network learned from: do not "
    "rely on what is marked."
)

ALONE = "No other plane confirms what is marked: the {plane} slices alone could be looked at."
FILLED = (
    "Empty slices between others: {count}; for the other planes they were drawn from their neighbours, and nothing is "
    "measured in them."
)
STRIPPED = (
    "The skull seems to have been cut off; the network learned from whole heads: take the scan as it was, if there is "
    "one."
)


class Segmenter(Protocol):
    """What segments slices: a `TumorSegmenter`, or what passes them on to one."""

    def batch(self, images: list[np.ndarray], batch_size: int = ..., *, framing: str = ...) -> Iterator[Segmentation]:
        """One segmentation per slice, in their order."""


@dataclass(frozen=True, eq=False)
class VolumeSegmentation:
    """What the network says about a volume, and everything that follows from it.

    Attributes:
        volume: as it was read.
        probability: tumour probability of every voxel, float32 [N, H, W], 0 … 1: the mean over `planes`, but 0.5 at
            most in pieces that too few of them confirm.
        planes: whose slices were looked at.
        familiarity: of the slices that hold most of the head, the median; see `Segmentation`. None if the model cannot
            tell.
        has_skull: false where it looks as if everything but the brain had been cut off.
        filled: number of slices that were drawn from their neighbours; nothing is in them.
        threshold: voxels above it belong to the mask.
        class_names, class_probabilities, classes_overlap: of several classes, as in `Segmentation`, with probabilities
            float32 [K, N, H, W]; all else is of them together.
    """

    volume: Volume
    probability: np.ndarray = field(repr=False)
    planes: tuple[str, ...]
    familiarity: float | None = None
    has_skull: bool = True
    filled: int = 0
    threshold: float = DEFAULT_THRESHOLD
    class_names: tuple[str, ...] = ()
    class_probabilities: np.ndarray | None = field(default=None, repr=False)
    classes_overlap: bool = False

    def __post_init__(self):
        check_threshold(self.threshold)

    @cached_property
    def mask(self) -> np.ndarray:
        """Bool [N, H, W], true where the probability is above the threshold."""
        return self.probability > self.threshold

    @cached_property
    def class_masks(self) -> dict[str, np.ndarray]:
        """Bool [N, H, W] of each of several classes, by its name; empty if the model knows one kind of tumour."""
        if self.class_probabilities is None:
            return {}
        masks = class_masks(self.class_probabilities, self.threshold, self.classes_overlap)
        return dict(zip(self.class_names, masks, strict=True))

    @cached_property
    def labels(self) -> np.ndarray:
        """Uint8 [N, H, W]: 0, or the number of the voxel's class, 1 … K; of several classes the last."""
        labels = self.mask.astype(np.uint8)
        for number, mask in enumerate(self.class_masks.values(), start=1):
            labels[mask] = number
        return labels

    @cached_property
    def lesions(self) -> list[VolumeLesion]:
        """The lesions of the mask, largest first."""
        return self.lesions_of(self.mask)

    def lesions_of(self, mask: np.ndarray) -> list[VolumeLesion]:
        """The lesions of another mask of the volume, bool [N, H, W], largest first."""
        voxel_ml = self.volume.voxel_ml
        fewest = MIN_LESION_VOXELS if voxel_ml is None else max(round(MIN_LESION_ML / voxel_ml), 1)
        return find_lesions(mask, self.probability, spacing_of(self.volume), self.volume.affine, fewest)

    @property
    def tumor_found(self) -> bool:
        """Whether there is any lesion."""
        return bool(self.lesions)

    @property
    def volume_ml(self) -> float | None:
        """Volume of the mask in mL, or None if the size of a voxel is unknown."""
        return self.volume.volume_ml(self.mask)

    @property
    def is_familiar(self) -> bool:
        """Whether the network may know such volumes: false where most slices are unlike those it learned from."""
        return self.familiarity is None or self.familiarity >= UNFAMILIAR

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know before trusting the mask, one sentence each."""
        alone = len(self.planes) == 1 < len(self.volume.slices)
        said = {
            UNLIKE: not self.is_familiar,
            STRIPPED: not self.has_skull,
            ALONE.format(plane=self.planes[0]): alone,
            FILLED.format(count=self.filled): self.filled > 0,
        }
        return (*(sentence for sentence, is_so in said.items() if is_so), *self.volume.warnings)

    def at_threshold(self, threshold: float) -> "VolumeSegmentation":
        """The same probabilities cut at another threshold, 0 … 1; the network does not run again."""
        return replace(self, threshold=threshold)

    def to_nifti(self) -> bytes:
        """The mask as `.nii.gz` in the geometry of the file that was read, with the values 0 and 1."""
        return self.volume.to_nifti(self.mask)


def segment_volume(
    volume: Volume,
    segmenter: Segmenter,
    *,
    planes: tuple[str, ...] | None = None,
    threshold: float = DEFAULT_THRESHOLD,
    batch_size: int = 8,
    report: Callable[[int, int], None] | None = None,
) -> VolumeSegmentation:
    """Segment a volume as one thing: all planes that its voxels allow, put together.

    Args:
        volume: as `read_volume` gives it or, for a model of several channels, `channels.read_channels`.
        segmenter: a `TumorSegmenter`, or what passes slices on to one.
        planes: whose slices are looked at, of those that `planes_of` allows; None takes all of these.
        threshold: voxels above it belong to the mask.
        batch_size: slices that go through the network together.
        report: is called with the number of slices done and of all, before every batch and at the end.

    Returns:
        The segmentation; in memory it takes 4 bytes a voxel, and 1 more for its mask; as much again for each of several
        classes.

    Raises:
        ValueError: the threshold is not in 0 … 1, the batch size is not a whole number from 1, or the voxels do not
            allow one of the planes.
    """
    check_threshold(threshold)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; allowed are whole numbers from 1.")
    allowed = planes_of(volume)
    planes = allowed if planes is None else planes
    if not planes or not {*planes} <= {*allowed}:
        raise ValueError(f"planes is {planes}; this volume allows {', '.join(allowed)}.")
    empty = empty_between(volume)
    others = tuple(_mended(other, empty_between(other)) for other in volume.others)
    whole = replace(_mended(volume, empty), others=others)
    head = find_head(whole.slices)
    looks = [_Look(whole, plane, head, empty) for plane in planes]
    total, done = sum(len(look.numbers) for look in looks), 0
    probability = np.zeros(volume.slices.shape, np.float32)
    familiarities: list[float | None] = []
    classes: dict[str, Any] = {}
    for look in looks:
        place = look.turned(probability)
        numbers, at_once = iter(look.numbers), max(min(batch_size, MAX_BATCH_PIXELS // look.frame.side**2), 1)
        while batch := list(islice(numbers, at_once)):
            if report:
                report(done, total)
            pictures = [look.picture(number) for number in batch]
            found = segmenter.batch(pictures, batch_size, framing="none")
            for number, segmentation in zip(batch, found, strict=True):
                if segmentation.class_probabilities is None:
                    place[number] += look.frame.paste(segmentation.probability, place.shape[1:]) / len(looks)
                else:
                    classes = classes or _no_class_yet(segmentation, volume)
                    of_classes = zip(classes["class_probabilities"], segmentation.class_probabilities, strict=True)
                    for of_volume, own in of_classes:
                        of_slice = look.turned(of_volume)[number]
                        of_slice += look.frame.paste(own, of_slice.shape) / len(looks)
                if number in look.with_most_head:
                    familiarities.append(segmentation.familiarity)
            done += len(batch)
    if report:
        report(done, total)
    if classes:
        classes["class_probabilities"].max(axis=0, out=probability)
    drop_unconfirmed(probability)
    probability[empty] = 0
    for of_volume in classes.get("class_probabilities", ()):
        np.minimum(of_volume, probability, out=of_volume)
    known = [value for value in familiarities if value is not None]
    familiarity = float(np.median(known)) if known else None
    count = len(empty) if {*planes} - {volume.plane} else 0
    return VolumeSegmentation(volume, probability, planes, familiarity, _is_whole(whole), count, threshold, **classes)


def _no_class_yet(segmentation: Segmentation, volume: Volume) -> dict[str, Any]:
    """What a volume has of classes before any slice is looked at, by the first slice that was."""
    names = segmentation.class_names
    empty = np.zeros((len(names), *volume.slices.shape), np.float32)
    return {"class_names": names, "class_probabilities": empty, "classes_overlap": segmentation.classes_overlap}


def _mended(volume: Volume, empty: list[int]) -> Volume:
    """A volume without its empty slices between others, whose black is 0."""
    return replace(volume, slices=from_black(filled(volume.slices, empty) if empty else volume.slices))


def drop_unconfirmed(probability: np.ndarray) -> None:
    """Lower pieces of the mask, of probability float32 [N, H, W], to the threshold where too little of them is sure."""
    labels, sizes = label_pieces(probability > DEFAULT_THRESHOLD)
    sure = np.bincount(labels[probability > CONFIRMED], minlength=len(sizes) + 1)[1:]
    dropped = np.concatenate([[False], sure < CONFIRMED_SHARE * sizes])
    np.minimum(probability, np.float32(DEFAULT_THRESHOLD), out=probability, where=dropped[labels])


def _is_whole(volume: Volume) -> bool:
    """Whether a head has its skull, as far as axial slices can be seen, and as the shipped network needs it."""
    sizes = spacing_of(volume)
    if volume.others or sizes is None or "axial" not in planes_of(volume):
        return True
    return has_skull(turned(volume.slices, volume.plane, "axial"), turned_sizes(sizes, volume.plane, "axial"))


def planes_of(volume: Volume) -> tuple[str, ...]:
    """The planes whose slices are worth looking at: all three, or those alone that were taken."""
    sizes = spacing_of(volume)
    fine = sizes is not None and round(max(sizes), 2) <= MAX_SLICE_SPACING_MM
    across, *along = np.multiply(volume.slices.shape, sizes or 1.0)
    thick = across >= LEAST_THICKNESS * max(along)
    # What is missing between others is black in the other planes.
    shown = _shown(volume)
    complete = len(shown) > 0 and np.diff(shown).max(initial=1) <= MAX_FILLED + 1
    return PLANES if volume.plane in PLANES and fine and thick and complete else (volume.plane,)


def _shown(volume: Volume) -> np.ndarray:
    """The numbers of the slices that show anything."""
    return _not_empty(volume.slices)


def _not_empty(slices: np.ndarray) -> np.ndarray:
    return np.flatnonzero(slices.any(axis=(1, 2)))


def from_black(slices: np.ndarray) -> np.ndarray:
    """Slices [N, H, W] whose lowest value is 0, as of everything that is added around them.

    Those without negative values stay as they are, unless all of them are so high that nothing would count as the
    ground of a head, as where signed values were saved as unsigned ones.
    """
    shown = _not_empty(slices)
    if not len(shown):
        return slices
    lowest = min(float(slices[number].min()) for number in shown)
    if 0 <= lowest <= FOREGROUND_FRACTION * np.percentile(slices[:, ::4, ::4][shown], 99):
        return slices
    return np.maximum(slices - np.float32(lowest), 0)


def empty_between(volume: Volume) -> list[int]:
    """The numbers of the slices that show nothing, between others that do."""
    shown = _shown(volume)
    return sorted({*range(shown[0], shown[-1])} - {*shown.tolist()}) if len(shown) else []


def filled(slices: np.ndarray, empty: list[int]) -> np.ndarray:
    """A copy of slices [N, H, W] in which the `empty` ones lie evenly between their neighbours."""
    slices = slices.copy()
    for number in empty:
        # The one before it is filled already.
        after = next(other for other in range(number, len(slices)) if other not in empty)
        slices[number] = slices[number - 1] + (slices[after] - slices[number - 1]) / (after - number + 1)
    return slices


class _Look:
    """The slices of one plane of a volume.

    Attributes:
        channels: of each the slices, float32 [N, H, W], a view of those of the volume.
        frame: what is shown of them.
        numbers: of those that show a part of the head, without those that nobody took.
        with_most_head: of those that show at least half as much of it as the one that shows most.
    """

    def __init__(self, volume: Volume, plane: str, head: np.ndarray, empty: list[int]):
        self._planes = volume.plane, plane
        self.channels = [self.turned(channel.slices) for channel in (volume, *volume.others)]
        head, shape = self.turned(head), self.channels[0].shape
        # How far slices are apart does not matter to those that were taken.
        sizes = spacing_of(volume) or (volume.spacing and (0.0, *volume.spacing))
        if sizes is not None and plane != volume.plane:
            sizes = turned_sizes(sizes, *self._planes)
        self.frame: Frame = frame_of(head, shape, sizes)
        untaken = empty if plane == volume.plane else []
        self.numbers = [number for number in range(*extent(head, 0, shape[0])) if number not in untaken]
        areas = head.sum(axis=(1, 2))
        scale = len(head) / shape[0]
        self.with_most_head = {number for number in self.numbers if areas[int(number * scale)] >= areas.max() / 2}

    def picture(self, number: int) -> np.ndarray:
        """What the network is shown of a slice, float32 [side, side], or [C, side, side] of several channels."""
        pictures = [self.frame.cut(slices[number]) for slices in self.channels]
        return np.stack(pictures) if len(pictures) > 1 else pictures[0]

    def turned(self, voxels: np.ndarray) -> np.ndarray:
        """Voxels in the grid of the volume as slices of this plane."""
        return voxels if self._planes[0] == self._planes[1] else turned(voxels, *self._planes)
