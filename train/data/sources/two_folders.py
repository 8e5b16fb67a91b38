"""Two folders, one of images and one of masks, whose files pair up: pictures or NIfTI volumes.

    DATA/images/1.png          DATA/masks/1.png                  the layout on Kaggle
    DATA/imgs/p07/1.nii.gz     DATA/labels/p07/1_seg.nii.gz      persons by their folders, names with an ending
    DATA/train/Images/1.png    DATA/train/Tumor_mask/1.png       a given split

The two folders nearest to DATA count, and in each the files that lie in it, or in its sub-folders if none do.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from modeling_unet.image_processing_unet import IMAGE_SUFFIXES

from ..raw import DataError, HalfLayoutError, Reading, natural_order
from .pairs import (
    IMAGE_ENDING,
    MASK_ENDING,
    FilePairs,
    Pair,
    bare_name,
    described,
    images_below,
    is_image,
    named,
)


USUAL = ("images", "masks")
IMAGES = re.compile(r"(.*[-_ ])?(images?|imgs?|slices|scans|volumes)", re.IGNORECASE)
MASKS = re.compile(
    r"(.*[-_ ])?(masks?|labels?|segs?|segmentations?|gt|ground[-_ ]?truths?|annotations|lesions?)", re.IGNORECASE
)
DEPTH = 2  # of folders above the two, such as DATA/train/p07/images


def find(folder: Path, reading: Reading) -> FilePairs | None:
    """Raises HalfLayoutError if `images` or `masks` is missing or empty, DataError if such a folder is there twice."""
    found = next(
        filter(None, ({parent: both for parent in level if (both := _both(parent))} for level in _levels(folder))), {}
    )
    if not found:
        if any((folder / kind).is_dir() for kind in USUAL):
            raise HalfLayoutError(_what_is_missing(folder))
        return None
    names = sorted({" and ".join(f"{path.name}/" for path in both) for both in found.values()})
    pairs = [pair for parent, both in found.items() for pair in _pairs(folder, parent, *both, reading)]
    return FilePairs(f"{', '.join(names)}: files of equal names", named(pairs), reading, folder=folder)


def _levels(folder: Path) -> Iterator[list[Path]]:
    """The folder itself, then the folders in it, and so on."""
    level = [folder]
    for _ in range(DEPTH + 1):
        yield level
        level = [path for parent in level for path in _folders(parent)]


def _folders(parent: Path) -> list[Path]:
    return [path for path in sorted(parent.glob("*/")) if not path.name.startswith(".")]


def _both(parent: Path) -> tuple[Path, Path] | None:
    """The folder of images and that of masks, both with files."""
    folders = _folders(parent)
    masks = [path for path in folders if MASKS.fullmatch(path.name)]
    images = [path for path in folders if IMAGES.fullmatch(path.name)]
    for found in (images, masks):
        if usual := [path for path in found if path.name in USUAL]:
            found[:] = usual
    images, masks = ([path for path in found if images_below(path)] for found in (images, masks))
    if not (images and masks):
        return None
    for found in (images, masks):
        if len(found) > 1:
            raise DataError(
                f"{parent} holds {' and '.join(f'{path.name}/' for path in found)}; keep one of them there, or list "
                "the files in a CSV file and give that instead."
            )
    return images[0], masks[0]


def _what_is_missing(folder: Path) -> str:
    for kind in USUAL:
        if not (folder / kind).is_dir():
            return f"{folder / kind} is not there; images/ and masks/ are needed, with files of equal stems."
    kind = next(kind for kind in USUAL if not images_below(folder / kind))
    return f"{folder / kind} holds no images; accepted are {', '.join(IMAGE_SUFFIXES)}, .nii and .nii.gz."


def _pairs(root: Path, parent: Path, images: Path, masks: Path, reading: Reading) -> Iterator[Pair]:
    above = parent.relative_to(root).parts
    first, second = ({**_by_name(folder)} for folder in (images, masks))
    _match_endings(first, second)
    for name in sorted({*first, *second}, key=natural_order):
        *inner, stem = name.split("/")
        words, files = (*above, *inner), (first.get(name, []), second.get(name, []))
        kind, problem = _problem(*files, images, masks, reading) or ("", "")
        image, mask = (found[0] if found else None for found in files)
        yield Pair("/".join((*words, stem)), image, mask, **described(words), problem_kind=kind, problem=problem)


def _by_name(folder: Path) -> dict[str, list[Path]]:
    """Path without folder and suffix → its files; those of sub-folders only where none lie in the folder itself."""
    found: dict[str, list[Path]] = defaultdict(list)
    direct = sorted(path for path in folder.iterdir() if is_image(path) and not path.is_dir())
    for path in direct or images_below(folder):
        found[(path.parent.relative_to(folder) / bare_name(path)).as_posix()].append(path)
    return found


def _match_endings(images: dict[str, list[Path]], masks: dict[str, list[Path]]) -> None:
    """Rename what has no partner of its very name, in place: `1_mask` pairs with `1`."""
    for files, others, ending in ((masks, images, MASK_ENDING), (images, masks, IMAGE_ENDING)):
        for name in [name for name in files if name not in others]:
            bare = ending.sub("", name)
            if bare != name and bare not in files:
                files[bare] = files.pop(name)


def _problem(
    images: list[Path], masks: list[Path], image_folder: Path, mask_folder: Path, reading: Reading
) -> tuple[str, str] | None:
    """Kind and sentence of what is wrong with the files of one name."""
    for paths, partners, folder in ((images, masks, mask_folder), (masks, images, image_folder)):
        names = [f"{path.parent.name}/{path.name}" for path in paths]
        if len(names) > 1:
            return "repeated stem", f"{' and '.join(names)} have the same stem; keep one of them."
        if names and not partners and not (folder is mask_folder and reading.takes_missing_masks):
            return "unpaired", f"{names[0]} has no partner of the same stem in {folder.name}/."
    return None
