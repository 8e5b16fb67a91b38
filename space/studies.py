"""What visitors open, and by which settings it is measured: slices with what the network says about them."""

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from modeling_unet.image_processing_unet import MAX_SIDE
from modeling_unet.prediction import summarize
from modeling_unet.segmentation import (
    DEFAULT_THRESHOLD,
    MAX_SPACING_MM,
    MIN_SPACING_MM,
    Segmentation,
    check_min_area,
    check_threshold,
    spacing_within,
)
from modeling_unet.volumes import Volume, VolumeLesion, VolumeSegmentation


MAX_AREA_PX = MAX_SIDE**2
MAX_BITS = 63  # of whole numbers, which answers repeat

CORRECTED = (
    "The mask was corrected by hand: pictures and figures are of the corrected mask, and not the network's alone."
)
SLICES_CORRECTED = (
    "In {count} of the slices the mask was corrected by hand: pictures and figures are of the corrected masks, and not "
    "the network's alone."
)


class WithoutSpecks(Segmentation):
    """A segmentation whose mask holds its lesions alone; pictures, area and overlap leave out smaller pieces."""

    @cached_property
    def mask(self) -> np.ndarray:
        """Bool [H, W], the pieces of at least `min_area_px` pixels above the threshold."""
        whole = Segmentation(self.image, self.probability, self.threshold, min_area_px=self.min_area_px)
        return whole.lesion_mask


@dataclass(frozen=True, eq=False)
class Corrected(Segmentation):
    """A segmentation whose mask was corrected by hand, and follows no threshold any more.

    Attributes:
        by_hand: the corrected mask, bool [H, W].
    """

    by_hand: np.ndarray = field(kw_only=True)

    @cached_property
    def mask(self) -> np.ndarray:
        """Bool [H, W], to the pixel as it was painted."""
        return self.by_hand


@dataclass(frozen=True)
class Settings:
    """How probabilities become a mask and pixels become millimetres.

    Attributes:
        threshold: pixels above this probability are tumour.
        min_area_px: smaller pieces of the mask are hidden; with 0 they stay, and the package decides what is a lesion.
        spacing: side of a pixel of the file in mm, where it does not say so itself; 0 if nobody does.

    Raises:
        ValueError: no number, a threshold outside 0 … 1, no whole number of pixels, or a spacing that no pixel has.
    """

    threshold: float = DEFAULT_THRESHOLD
    min_area_px: int = 0
    spacing: float = 0

    def __post_init__(self):
        for name, value in vars(self).items():
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or (isinstance(value, int) and value.bit_length() > MAX_BITS):
                raise ValueError(f"{name} is no number that can be used; leave it out for the default.")
        check_threshold(self.threshold)
        if self.min_area_px > MAX_AREA_PX:
            raise ValueError(f"min_area_px is over {MAX_AREA_PX:,}, which is more than a slice has.")
        check_min_area(self.min_area_px)
        if self.spacing and not MIN_SPACING_MM <= self.spacing <= MAX_SPACING_MM:
            raise ValueError(
                f"The spacing is {self.spacing:g} mm; a pixel may have {MIN_SPACING_MM:g} to {MAX_SPACING_MM:g} mm, or "
                "0 where that is not known."
            )

    @classmethod
    def given(cls, threshold: float | None, min_area_px: int | None, spacing: float | None) -> "Settings":
        """What was asked for; an empty box counts as the default."""
        asked: dict[str, Any] = {"threshold": threshold, "min_area_px": min_area_px, "spacing": spacing}
        return cls(**{name: value for name, value in asked.items() if value is not None})

    @property
    def name(self) -> str:
        """Of the masks that they make."""
        return f"{self.threshold:g}_{self.min_area_px:g}"

    def cut(self, segmentation: Segmentation) -> Segmentation:
        """The same slice with mask and measurements by these settings; the network does not run."""
        given = (self.spacing, self.spacing) if self.spacing else None
        within = spacing_within(given, segmentation.full_size, segmentation.probability.shape)
        spacing = segmentation.spacing or within
        if not self.min_area_px:
            return segmentation.cut(threshold=self.threshold, spacing=spacing)
        fields = vars(segmentation.cut(threshold=self.threshold, spacing=spacing, min_area_px=self.min_area_px))
        return WithoutSpecks(**fields)


@dataclass(frozen=True, eq=False)
class Slice:
    """A slice and its segmentation.

    Attributes:
        title: as the page calls it.
        name: with which the names of saved files begin; with the folder, if it came in one.
        segmentation: of that slice, as the network gave it; of a slice of a volume, what all planes say together.
        truth: the mask drawn by hand, bool [H, W]; None if there is none.
        by_hand: the network's mask as the visitor has corrected it, bool [H, W]; None where nothing was corrected.
        painted_at: moment of the newest correction.
    """

    title: str
    name: str
    segmentation: Segmentation
    truth: np.ndarray | None = None
    by_hand: np.ndarray | None = None
    painted_at: int = 0

    @property
    def is_corrected(self) -> bool:
        """Whether the mask is not the network's alone."""
        return self.by_hand is not None

    def cut(self, settings: Settings) -> Segmentation:
        """The slice with mask and measurements by these settings, and with its correction."""
        cut = settings.cut(self.segmentation)
        return cut if self.by_hand is None else Corrected(**vars(cut), by_hand=self.by_hand)


def measurements(segmentation: Segmentation, whole: VolumeSegmentation | None) -> dict:
    """Of a slice, for programs: the same warnings as on the page, which of a volume's slice are the volume's."""
    return {**segmentation.to_dict(), "warnings": list((whole or segmentation).warnings)}


def describe(
    whole: VolumeSegmentation, lesions: list[VolumeLesion], voxels: int, voxels_of: dict[str, int] | None = None
) -> dict:
    """A volume for programs: its measurements in types that JSON knows.

    Args:
        whole: what is known of it.
        lesions: of its mask.
        voxels: of its mask, those of specks too small for a lesion included.
        voxels_of: those of each of several classes, by its name.
    """
    volume_ml = whole.volume.voxel_ml
    classes = [
        {"name": name, "voxels": count, "volume_ml": None if volume_ml is None else count * volume_ml}
        for name, count in (voxels_of or {}).items()
    ]
    return {
        "tumor_found": bool(lesions),
        "volume_ml": None if volume_ml is None else voxels * volume_ml,
        "voxels": voxels,
        "lesions": [asdict(lesion) for lesion in lesions],
        "planes": list(whole.planes),
        "familiarity": whole.familiarity,
        "warnings": list(whole.warnings),
        **({"classes": classes} if classes else {}),
    }


class Refusal(NamedTuple):
    """A file that could not be used.

    Attributes:
        place: among all files, from 0.
        title: as the page would have called the slice.
        sentence: what is wrong with it.
    """

    place: int
    title: str
    sentence: str


@dataclass(frozen=True, eq=False)
class Study:
    """What one visitor has opened: a slice, several slices, or the slices of a volume.

    Attributes:
        name: with which the names of saved archives begin.
        slices: at least one.
        timing: how long they took, and on what.
        index: of the slice on the stage.
        refused: the files that could not be used, in their order.
        whole: what is known of the volume, without its voxels, if the slices are those of one.
        paths: the files that the volume was read from, as they were sent.
        voxels: of the volume, uint8 [N, H, W], for the viewer; None of slices, or if they are too many for it.
        example: name of the example that it is; None if a visitor brought it.
        token: of its own for whatever is opened, by which the page knows what was painted on it, and the viewer one
            volume from another.
    """

    name: str
    slices: tuple[Slice, ...]
    timing: str
    index: int = 0
    refused: tuple[Refusal, ...] = ()
    whole: VolumeSegmentation | None = None
    paths: tuple[Path, ...] = ()
    voxels: np.ndarray | None = field(default=None, repr=False)
    example: str | None = None
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    _measured: dict[tuple, list] = field(default_factory=dict, repr=False)

    @property
    def shown(self) -> Slice:
        """The slice on the stage."""
        return self.slices[self.index]

    @property
    def volume(self) -> Volume | None:
        """Where the slices come from, if they are those of a volume."""
        return self.whole.volume if self.whole else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know about a volume, or the slice on the stage, before believing its measurements."""
        known = (self.whole or self.shown.segmentation).warnings
        if not self.is_corrected:
            return known
        count = sum(part.is_corrected for part in self.slices)
        return (SLICES_CORRECTED.format(count=count) if self.whole else CORRECTED, *known)

    @property
    def is_corrected(self) -> bool:
        """Whether what is measured, a volume or the slice on the stage, is corrected by hand."""
        return any(part.is_corrected for part in (self.slices if self.whole else (self.shown,)))

    @property
    def is_familiar(self) -> bool:
        """Whether the network may know such volumes, or slices like the one on the stage."""
        return (self.whole or self.shown.segmentation).is_familiar

    def cuts(self, settings: Settings) -> Iterator[Segmentation]:
        """All slices by these settings, one after another."""
        return (part.cut(settings) for part in self.slices)

    def table(self, rows: Iterable[dict]) -> list[dict]:
        """A line for every file, in the order of the files: `rows` for the slices, an "error" for the others."""
        lines = [{"slice": part.title, **row} for part, row in zip(self.slices, rows, strict=True)]
        for place, title, sentence in self.refused:
            lines.insert(place, {"slice": title, "error": sentence})
        return lines

    def summaries(self, settings: Settings) -> list[dict]:
        """`summarize_slice` of all slices."""
        return self._measure(summarize_slice, settings)

    def extents(self, settings: Settings) -> list[tuple[int, bool]]:
        """Of all slices the area in px and whether a tumour is found: in a volume that is far faster than summaries."""
        return self._measure(extent, settings)

    def profile(self, settings: Settings) -> list[int]:
        """Of all slices the area in px, 0 where no tumour is found: a mere speck counts for none."""
        return [area if found else 0 for area, found in self.extents(settings)]

    def masks(self, settings: Settings) -> np.ndarray:
        """Of a volume, bool [N, H, W]."""
        return np.stack([cut.mask for cut in self.cuts(settings)])

    def labels(self, settings: Settings) -> np.ndarray:
        """Of a volume, uint8 [N, H, W]: 0, or the number of each voxel's class, of several the last."""
        return np.stack([cut.labels for cut in self.cuts(settings)])

    def class_bits(self, settings: Settings) -> np.ndarray:
        """Of a volume, uint8 [N, H, W]: a bit for each class of a voxel, the lowest for the first."""
        return np.stack(
            [sum(one.mask << np.uint8(bit) for bit, one in enumerate(cut.classes)) for cut in self.cuts(settings)]
        )

    def class_voxels(self, settings: Settings) -> dict[str, int]:
        """Of a volume, how many voxels each of several classes has."""
        names = self.shown.segmentation.class_names
        return dict(zip(names, np.sum(self._measure(class_extents, settings), axis=0).tolist(), strict=True))

    def class_volumes(self, settings: Settings) -> list[str]:
        """The same in words, in mL where that is known; "" of none."""
        voxel_ml = self.whole.volume.voxel_ml if self.whole else None
        return [
            "" if not count else f"{count:,} voxels" if voxel_ml is None else f"{count * voxel_ml:,.1f} mL"
            for count in self.class_voxels(settings).values()
        ]

    def lesions(self, settings: Settings) -> list[VolumeLesion]:
        """Of a volume, largest first."""
        whole = self.whole
        return self._once("lesions", settings, lambda: whole.lesions_of(self.masks(settings)) if whole else [])

    def volume_figures(self, settings: Settings) -> dict[str, list[str]]:
        """Name → value and notes of the volume; none of slices."""
        if self.whole is None:
            return {}
        areas, found = np.transpose(self.extents(settings))
        size = [f"{areas.sum():,} voxels"]
        if self.whole.volume.voxel_ml is not None:
            size.insert(0, f"{areas.sum() * self.whole.volume.voxel_ml:,.1f} mL")
        lesions, planes = self.lesions(settings), self.whole.planes
        longest = [lesion.longest_diameter_mm for lesion in lesions if lesion.longest_diameter_mm is not None]
        return {
            "Volume": size,
            "Lesions": [f"{len(lesions)}", *([f"longest {max(longest):.1f} mm"] if longest else [])],
            "Slices with tumour": [f"{found.sum()}", f"of {len(areas)}"],
            "Slices looked at": [" and ".join(filter(None, (", ".join(planes[:-1]), planes[-1])))],
        }

    def description(self, settings: Settings) -> dict | None:
        """`describe` of a volume; None of slices."""
        if self.whole is None:
            return None
        voxels = sum(area for area, _ in self.extents(settings))
        return describe(self.whole, self.lesions(settings), voxels, self.class_voxels(settings))

    def _measure(self, measure: Callable[[Segmentation], object], settings: Settings) -> list:
        """Measure all slices."""
        return self._once(measure, settings, lambda: [measure(cut) for cut in self.cuts(settings)])

    def _once(self, what: object, settings: Settings, measure: Callable[[], list]) -> list:
        """What is measured by the newest settings; showing another slice reuses it."""
        measured = self._measured.get((what, settings))
        if measured is None:
            measured = measure()
            # Whoever drags a slider asks for many settings, and for none of them again.
            for key in [key for key in self._measured if key[1] != settings]:
                self._measured.pop(key, None)
            self._measured[what, settings] = measured
        return measured

    def is_of(self, other: "Study") -> bool:
        """Whether both are of the same slices, whichever is on the stage, and whatever they are compared with."""
        return self.slices[0].segmentation is other.slices[0].segmentation

    def turned_to(self, index: float) -> "Study":
        """The same with another slice on the stage; an index beyond the last is that of the last."""
        return replace(self, index=min(max(int(index), 0), len(self.slices) - 1))

    def with_truth(self, truth: np.ndarray) -> "Study":
        """The same with a mask drawn by hand for the slice on the stage."""
        slices = [*self.slices]
        slices[self.index] = replace(self.shown, truth=truth)
        return replace(self, slices=tuple(slices))

    def corrected(self, masks: dict[int, np.ndarray | None], moment: int) -> "Study":
        """The same with other masks for some slices, or None for the network's own; what came later stays."""
        newer = [index for index in masks if moment >= self.slices[index].painted_at]
        if not newer:
            return self
        slices = [*self.slices]
        for index in newer:
            slices[index] = replace(slices[index], by_hand=masks[index], painted_at=moment)
        return replace(self, slices=tuple(slices), _measured={})

    @cached_property
    def nbytes(self) -> int:
        """Memory that the pictures take, at most."""
        pictures: list[tuple] = [(self.voxels,)]
        pictures += [
            (
                *(part.segmentation.image, part.segmentation.probability, part.segmentation.class_probabilities),
                *(part.truth, part.by_hand),
            )
            for part in self.slices
        ]
        return sum(picture.nbytes for part in pictures for picture in part if picture is not None)


def in_half_precision(probability: np.ndarray) -> np.ndarray:
    """Probabilities in half of the memory, rounded up, so that those above 0.5 stay the same ones."""
    half = probability.astype(np.float16)
    return np.where(half < probability, np.nextafter(half, np.float16(1)), half)


def extent(cut: Segmentation) -> tuple[int, bool]:
    """(area in px, whether a tumour is found) without measuring its lesions."""
    return cut.area_px, cut.area_px >= cut.min_area_px and bool(cut.lesion_mask.any())


def class_extents(cut: Segmentation) -> list[int]:
    """The area of each of several classes in px."""
    return [one.area_px for one in cut.classes]


def summarize_slice(cut: Segmentation) -> dict:
    """A slice's line in a table: what `predict` writes down, and the mean probability of the mask."""
    mean = round(float(cut.probability[cut.mask].mean()), 4) if cut.area_px else None
    return {**summarize(cut), "mean_probability": mean, "corrected_by_hand": isinstance(cut, Corrected)}
