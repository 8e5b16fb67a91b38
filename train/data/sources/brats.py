"""BraTS and what is named alike: the sequences of a case lie beside its mask.

    DATA/BraTS20_Training_001/BraTS20_Training_001_t1ce.nii.gz, …_flair.nii.gz, …_seg.nii.gz
    DATA/BraTS-GLI-00002-000/BraTS-GLI-00002-000-t1c.nii.gz, …-t2f.nii.gz, …-seg.nii.gz

A case counts as a person; of the names since 2023 what stands before the last number does, which counts visits. Cases
of one name in several folders are different persons.
"""

import re
from collections import Counter, defaultdict
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
    times = Counter(case.name for case in cases)
    pairs = [
        _pair(folder, case, *gathered(scans.get(case, {}), chosen), masks.get(case), times[case.name] == 1)
        for case in cases
    ]
    return FilePairs("BraTS: sequences beside their mask", tuple(pairs), reading, {"sequence": said}, folder=folder)


def _pair(folder: Path, case: Path, images: tuple[Path, ...], missing: str, mask: Path | None, is_unique: bool) -> Pair:
    # Folders above that of the case may be those of a split, or of a kind of tumour; else they are hospitals.
    words = case.parent.relative_to(folder).parts[:-1]
    known = described(words)
    name, person = case.name, _person(case.name)
    if not is_unique:
        name, person = "/".join((*words, name)), "/".join(filter(None, (known["person_id"], person)))
    known["person_id"] = person
    if images:
        return Pair(name, images[0], mask, **known, others=images[1:])
    problem = f"{case.parent.name} holds no {missing} of {case.name}."
    return Pair(name, None, mask, **known, problem_kind="unpaired", problem=problem)


def _person(case: str) -> str:
    return match["person"] if (match := VISIT.fullmatch(case)) else case
