"""BIDS: scans by subject, and masks of somebody's making in `derivatives/`.

    DATA/sub-01/ses-1/anat/sub-01_ses-1_ce-gadolinium_T1w.nii.gz
    DATA/derivatives/lesions/sub-01/ses-1/anat/sub-01_ses-1_label-lesion_mask.nii.gz    | …_dseg.nii.gz

A mask belongs to the scan of its subject, session and run, whatever it says of itself besides (`label-`, `desc-`, …);
those of the brain are left aside.
"""

import re
from collections import defaultdict
from pathlib import Path

from modeling_unet.channels import name_visit, parse_bids

from ..raw import DataError, Reading, listed, natural_order
from .pairs import FilePairs, Pair, bare_name, images_below
from .sequences import choose, gathered
from .slicing import is_nifti


SUBJECT = re.compile(r"sub-[0-9A-Za-z]+")
MASK_SUFFIXES = ("mask", "dseg", "roi", "label")
LESION = re.compile(r"lesion|tumou?r", re.IGNORECASE)
BRAIN = re.compile(r"(desc|label)-(brain|head|GM|WM|CSF)", re.IGNORECASE)


def find(folder: Path, reading: Reading) -> FilePairs | None:
    """Raises DataError if several masks could be a scan's, or which sequence to read is not clear."""
    if not any(SUBJECT.fullmatch(path.name) for path in folder.glob("sub-*/")):
        return None
    scans: dict[tuple[str, ...], dict[str, Path]] = defaultdict(dict)
    masks: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for path in filter(is_nifti, images_below(folder)):
        visit, sequence = parse_bids(bare_name(path))
        if sequence.rpartition("_")[2] in MASK_SUFFIXES and path.is_relative_to(folder / "derivatives"):
            masks[visit] += [] if BRAIN.search(path.name) else [path]
        elif path.relative_to(folder).parts[0].startswith("sub-") and path.parent.name == "anat":
            scans[visit][sequence] = path
    if not any(masks[visit] for visit in scans):
        return None
    chosen, said = choose((name for visit in scans.values() for name in visit), reading, folder.name)
    visits = sorted({*masks, *scans}, key=lambda visit: natural_order("_".join(visit)))
    pairs = [_pair(visit, *gathered(scans.get(visit, {}), chosen), _one(masks[visit])) for visit in visits]
    return FilePairs("BIDS, masks in derivatives/", tuple(pairs), reading, {"sequence": said}, folder=folder)


def _one(masks: list[Path]) -> Path | None:
    """Of several masks, such as one of the brain, the one that says lesion or tumour."""
    found = [path for path in masks if LESION.search(path.name)] or masks
    if len(found) > 1:
        names = listed([path.name for path in found])
        raise DataError(f"{names} could be masks of one scan; keep one of them, or list the pairs in a CSV file.")
    return found[0] if found else None


def _pair(visit: tuple[str, ...], images: tuple[Path, ...], missing: str, mask: Path | None) -> Pair:
    name = name_visit(visit)
    person = f"sub-{visit[0]}"
    if images:
        return Pair(name, images[0], mask, person_id=person, others=images[1:])
    problem = f"{name} has no {missing} in anat/."
    return Pair(name, None, mask, person_id=person, problem_kind="unpaired", problem=problem)
