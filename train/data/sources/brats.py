"""BraTS and what is named alike: the sequences of a case lie beside its mask.

    DATA/BraTS20_Training_001/BraTS20_Training_001_t1ce.nii.gz, …_flair.nii.gz, …_seg.nii.gz
    DATA/BraTS-GLI-00002-000/BraTS-GLI-00002-000-t1c.nii.gz, …-t2f.nii.gz, …-seg.nii.gz

A case counts as a person; of the names since 2023 what stands before the last number does, which counts visits.
"""

import re
from collections import defaultdict
from pathlib import Path

from ..raw import Reading, natural_order
from .pairs import MASK_ENDING, FilePairs, Pair, bare_name, described, images_below
from .sequences import choose, gathered
from .slicing import is_nifti


SEQUENCE = re.compile(r"(?P<case>.+)[-_](?P<sequence>t1\w*|t2\w*|flair|dwi|adc|swi)", re.IGNORECASE)
VISIT = re.compile(r"(?P<person>BraTS-[A-Za-z]+-\d+)-\d{3}")


def find(folder: Path, reading: Reading) -> FilePairs | None:
    """Raises DataError if it is not clear which sequence to read."""
    masks: dict[Path, Path] = {}
    scans: dict[Path, dict[str, Path]] = defaultdict(dict)
    for path in filter(is_nifti, images_below(folder)):
        name = bare_name(path)
        if MASK_ENDING.search(name):
            masks[path.parent / MASK_ENDING.sub("", name)] = path
        elif match := SEQUENCE.fullmatch(name):
            scans[path.parent / match["case"]][match["sequence"]] = path
    if not masks.keys() & scans.keys():
        return None
    chosen, said = choose((name for case in scans.values() for name in case), reading, folder.name)
    cases = sorted({*masks, *scans}, key=lambda case: natural_order(case.as_posix()))
    pairs = [_pair(folder, case, *gathered(scans.get(case, {}), chosen), masks) for case in cases]
    return FilePairs("BraTS: sequences beside their mask", tuple(pairs), reading, {"sequence": said}, folder=folder)


def _pair(folder: Path, case: Path, images: tuple[Path, ...], missing: str, masks: dict[Path, Path]) -> Pair:
    # Folders above that of the case may be those of a split, or of a kind of tumour.
    known = described(case.parent.relative_to(folder).parts[:-1]) | {"person_id": _person(case.name)}
    if images:
        return Pair(case.name, images[0], masks.get(case), **known, others=images[1:])
    problem = f"{case.parent.name} holds no {missing} of {case.name}."
    return Pair(case.name, None, masks.get(case), **known, problem_kind="unpaired", problem=problem)


def _person(case: str) -> str:
    return match["person"] if (match := VISIT.fullmatch(case)) else case
