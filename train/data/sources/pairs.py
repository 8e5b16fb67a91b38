"""Files that pair up: pictures or volumes and their masks, as any layout lists them → slices."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypedDict

from modeling_unet.image_processing_unet import IMAGE_SUFFIXES, InvalidImageError, read_channels

from ..raw import SPLITS, Picture, RawSlice, Reading, Source, joined, listed, stamps
from . import slicing


MASK_ENDING = re.compile(
    r"[-_. ]((tumou?r|corrected)_?)?(masks?|seg(mentation)?s?|labels?|gt|lesions?|annotations?)$", re.IGNORECASE
)
IMAGE_ENDING = re.compile(r"[-_. ](images?|imgs?|slices?|0000)$", re.IGNORECASE)
TUMOR_TYPES = {word: word for word in ("glioma", "meningioma", "pituitary", "metastasis")} | {
    "gliomas": "glioma",
    "meningiomas": "meningioma",
    "metastases": "metastasis",
}


class Details(TypedDict, total=False):
    """What a layout says of a pair, by its fields."""

    person_id: str
    tumor_type: str
    plane: str
    split: str


@dataclass(frozen=True)
class Pair:
    """A picture or volume and its mask; "" stands for what the layout does not say, None for a file that is not there.

    `problem_kind` and `problem` are those of its slices, see `RawSlice`. `others` are the further channels of `image`;
    `numbers` those of their volumes, from 1, where a file holds several and the layout says which one is meant.
    """

    name: str
    image: Path | None
    mask: Path | None
    person_id: str = ""
    tumor_type: str = ""
    plane: str = ""
    split: str = ""
    problem_kind: str = ""
    problem: str = ""
    others: tuple[Path, ...] = ()
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class FilePairs(Source):
    """Pairs of files.

    Attributes:
        layout: what the layout is called, in the table that is shown.
        pairs: in the order in which they are read.
        reading: the planes into which volumes are cut, and what a missing mask means.
        said: more rows of the table.
        others: files that belong to the source besides, such as a table; without these they count as passed over.
        folder: where files that no pair takes are looked for.
    """

    layout: str
    pairs: tuple[Pair, ...]
    reading: Reading
    said: dict[str, str] = field(default_factory=dict)
    others: tuple[Path, ...] = ()
    folder: Path | None = None

    def __post_init__(self):
        """Make each volume a person where nothing says whose they are: a volume's slices are never of two."""
        images = [pair.image for pair in self.pairs if pair.image]
        if images and all(map(slicing.is_nifti, images)) and not any(pair.person_id for pair in self.pairs):
            own = tuple(replace(pair, person_id=pair.name) for pair in self.pairs)
            said = {"persons": f"not said here; each of the {len(images):,} volumes counts as one"} | self.said
            for name, value in (("pairs", own), ("said", said)):
                object.__setattr__(self, name, value)  # as the class is frozen

    @property
    def unit(self) -> str:
        return "volume" if any(pair.image and slicing.is_nifti(pair.image) for pair in self.pairs) else "slice"

    @property
    def heeds(self) -> frozenset[str]:
        found = {"planes"} if self.unit == "volume" else set()
        found |= {"sequence", "sequences"} if "sequence" in self.said else set()
        found |= {"person_column"} if "columns" in self.said else set()
        return frozenset(found | ({"sequence"} if found and self._numbers else set()))

    @property
    def _numbers(self) -> tuple[int, ...]:
        """Which volume of files that hold several, if --sequence is a number and not the name of one."""
        sequence = self.reading.sequence or ""
        return (int(sequence),) if sequence.isdecimal() and "sequence" not in self.said else ()

    def parts(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, part: Pair) -> Iterable[RawSlice]:
        if part.image and not part.problem and not part.mask and not self.reading.takes_missing_masks:
            problem = f"{slicing.shown(part.image)} has no mask."
            part = replace(part, problem_kind="unpaired", problem=problem)
        raw = RawSlice(
            part.name,
            picture(part.image) if part.image else None,
            picture(part.mask) if part.mask else None,
            part.person_id,
            part.tumor_type,
            part.plane,
            part.split,
            part.problem_kind,
            part.problem,
        )
        if part.image and not part.problem and slicing.is_nifti(part.image):
            numbers = part.numbers or self._numbers
            return slicing.cut(raw, (part.image, *part.others), part.mask, self.reading.planes, numbers)
        if part.image and not part.problem and part.others:
            return (_joined(raw, (part.image, *part.others)),)
        return (raw,)

    def stamp(self) -> object:
        return stamps(self._files())

    def _files(self) -> list[Path]:
        return [
            *self.others,
            *(path for pair in self.pairs for path in (pair.image, *pair.others, pair.mask) if path),
        ]

    def facts(self) -> dict[str, str]:
        images = [pair.image for pair in self.pairs if pair.image]
        volumes = [path for path in images if slicing.is_nifti(path)]
        unmasked = sum(1 for pair in self.pairs if pair.image and not pair.mask)
        means = "empty, by --missing_mask" if self.reading.takes_missing_masks else "faults"
        counts = ((len(images) - len(volumes), " pictures"), (len(volumes), " volumes"))
        facts = {
            "layout": self.layout,
            "images": ", ".join(f"{count:,}{what}" for count, what in counts if count),
            "masks": f"{sum(1 for pair in self.pairs if pair.mask):,}"
            + (f"; {unmasked:,} images have none ({means})" if unmasked else ""),
            "persons": _persons_of(self.pairs),
            **self.said,
        }
        splits = Counter(pair.split for pair in self.pairs)
        if any(splits):
            facts["split"] = listed_splits(splits)
        if volumes:
            facts |= slicing.facts_of(volumes, self.reading.planes)
        if self.folder and (over := _passed_over(self.folder, {*self._files()})):
            facts["passed over"] = over
        return facts


def _joined(raw: RawSlice, images: Sequence[Path]) -> RawSlice:
    """The slice whose channels are pictures of their own."""
    try:
        planes = read_channels(images, [path.name for path in images])
    except InvalidImageError as error:
        return replace(raw, problem_kind="unreadable", problem=str(error))
    return replace(raw, image=joined(raw.slice, planes))


def picture(path: Path) -> Picture:
    return {"path": str(path), "bytes": None}


def is_image(path: Path) -> bool:
    """Whether a file is a picture or a volume, by its name; hidden ones are neither (macOS's `._1.png`)."""
    return not path.name.startswith(".") and (path.suffix.lower() in IMAGE_SUFFIXES or slicing.is_nifti(path))


def bare_name(path: Path) -> str:
    """The name of a file without what says its format: `a.nii.gz` → `a`."""
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE) if slicing.is_nifti(path) else path.stem


def images_below(folder: Path) -> list[Path]:
    """Pictures and volumes in a folder and its sub-folders, in the order of their paths."""
    return sorted(filter(is_image, files_below(folder)))


def files_below(folder: Path) -> Iterator[Path]:
    """All files but hidden ones, those in linked folders included."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := Path(place).resolve()) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in names if not name.startswith("."))


def described(words: Iterable[str]) -> Details:
    """What the folders above a file say of it: split, tumour type, plane; any other words are the person."""
    found: Details = {}
    persons = []
    for word in words:
        low = word.lower()
        if low in SPLITS:
            found["split"] = SPLITS[low]
        elif low in TUMOR_TYPES:
            found["tumor_type"] = TUMOR_TYPES[low]
        elif low in slicing.PLANES:
            found["plane"] = low
        else:
            persons.append(word)
    found["person_id"] = "/".join(persons)
    return found


def named(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    """Pairs that are called by their paths, under shorter names; the one folder that all of them lie in is no person.

    A file whose own name begins with that of its folder is called by that alone, if no other one is.
    """
    pairs = tuple(pairs)
    short = [_without_folders(pair.name) for pair in pairs]
    counts = Counter(short)
    if len({pair.person_id for pair in pairs}) == 1:
        pairs = tuple(replace(pair, person_id="") for pair in pairs)
    return tuple(
        replace(pair, name=name) if counts[name] == 1 else pair for pair, name in zip(pairs, short, strict=True)
    )


def _without_folders(path: str) -> str:
    *folders, name = path.split("/")
    return name if folders and re.match(rf"{re.escape(folders[-1])}([-_. ]|$)", name) else path


def listed_splits(splits: Counter[str]) -> str:
    """How many slices are of which given split, for the table of facts."""
    return ", ".join(f"{name or 'none'} ({count:,})" for name, count in splits.items())


def _persons_of(pairs: Iterable[Pair]) -> str:
    persons = {pair.person_id for pair in pairs} - {""}
    return f"{len(persons):,}, such as {listed(sorted(persons)[:2])}" if persons else "not said here"


def _passed_over(folder: Path, taken: set[Path]) -> str:
    """How many files of a folder are not read, by their kinds."""
    left = (path for path in files_below(folder) if path not in taken)
    kinds = Counter("".join(path.suffixes[-2:] if path.suffix == ".gz" else [path.suffix]).lower() for path in left)
    return ", ".join(f"{count:,} × {kind or 'no suffix'}" for kind, count in kinds.most_common())
