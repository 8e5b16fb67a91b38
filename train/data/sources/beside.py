"""Every mask beside its image: the same name with an ending, pictures or NIfTI volumes.

    DATA/TCGA_CS_4941_19960909/TCGA_CS_4941_19960909_1.tif, …_1_mask.tif, …        kaggle_3m
    DATA/p07.nii.gz, DATA/p07_seg.nii.gz

Folders are persons; `train`, `val` and `test` are a given split.
"""

from pathlib import Path

from ..raw import Reading, natural_order
from .pairs import MASK_ENDING, FilePairs, Pair, bare_name, described, images_below, named


def find(folder: Path, reading: Reading) -> FilePairs | None:
    """None unless some image has a mask beside it."""
    images: dict[Path, list[Path]] = {}
    masks: dict[Path, list[Path]] = {}
    for path in images_below(folder):
        name = bare_name(path)
        files = masks if MASK_ENDING.search(name) else images
        files.setdefault(path.parent / MASK_ENDING.sub("", name), []).append(path)
    if not images.keys() & masks.keys():
        return None
    names = sorted({*images, *masks}, key=lambda name: natural_order(name.as_posix()))
    pairs = [_pair(folder, name, images.get(name, []), masks.get(name, [])) for name in names]
    return FilePairs("NAME beside NAME_mask", named(pairs), reading, folder=folder)


def _pair(folder: Path, name: Path, images: list[Path], masks: list[Path]) -> Pair:
    words = name.parent.relative_to(folder).parts
    kind = problem = ""
    for paths in (images, masks):
        shown = [f"{path.parent.name}/{path.name}" for path in paths]
        if len(shown) > 1:
            kind, problem = "repeated stem", f"{' and '.join(shown)} have the same stem; keep one of them."
    if masks and not images:
        kind, problem = "unpaired", f"{masks[0].parent.name}/{masks[0].name} has no image of its name beside it."
    image, mask = (paths[0] if paths else None for paths in (images, masks))
    return Pair("/".join((*words, name.name)), image, mask, **described(words), problem_kind=kind, problem=problem)
