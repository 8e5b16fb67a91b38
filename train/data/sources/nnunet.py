"""nnU-Net's raw data: every case a volume per channel, and labels; Medical Decathlon's, with all channels in one file.

    DATA/imagesTr/CASE_0000.nii.gz, CASE_0001.nii.gz, …        one for each of the channels in dataset.json
    DATA/imagesTr/CASE.nii.gz                                  or a volume for each in one file
    DATA/labelsTr/CASE.nii.gz
    DATA/dataset.json                                          {"channel_names": {"0": "T1Gd", …}, "labels": {…}}

`imagesTs` has no labels and is not read. A case counts as a person.
"""

import json
import re
from collections import defaultdict
from pathlib import Path

from ..raw import DataError, Reading, natural_order
from .pairs import FilePairs, Pair, bare_name, is_image
from .sequences import choose, gathered


DESCRIPTION = "dataset.json"
CHANNEL = re.compile(r"(?P<case>.+)_(?P<number>\d{4})")


def find(folder: Path, reading: Reading) -> FilePairs | None:
    """Raises DataError if dataset.json is missing or damaged, or which channel to read is not clear."""
    images, labels = folder / "imagesTr", folder / "labelsTr"
    if not (images.is_dir() and labels.is_dir()):
        return None
    description = _read(folder / DESCRIPTION)
    # Older versions of nnU-Net called them modalities.
    channels = description.get("channel_names") or description.get("modality") or {"0": "0"}
    names, said = choose(channels.values(), reading, f"{folder.name}/{DESCRIPTION}")
    numbers = [f"{int(next(number for number, own in channels.items() if own == name)):04d}" for name in names]
    scans: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in images.iterdir():
        if is_image(path) and (match := CHANNEL.fullmatch(bare_name(path))) and match["number"] in numbers:
            scans[match["case"]][match["number"]] = path
    masks = {bare_name(path): path for path in labels.iterdir() if is_image(path)}
    layout, where = "nnU-Net raw", f"channel {', '.join(numbers)}"
    in_file: tuple[int, ...] = ()
    whole = {bare_name(path): path for path in images.iterdir() if is_image(path)}
    if whole.keys() & masks.keys():
        in_file = tuple(int(number) + 1 for number in numbers)
        scans = {case: dict.fromkeys(numbers, path) for case, path in whole.items()}
        layout, where = "Medical Decathlon", f"volume {', '.join(map(str, in_file))} of each file"
    pairs = [
        _pair(case, *gathered(scans.get(case, {}), numbers), masks.get(case), in_file)
        for case in sorted({*scans, *masks}, key=natural_order)
    ]
    layout += ": imagesTr/, labelsTr/ and dataset.json"
    rows = {"sequence": f"{said} ({where})", "labels": _named(description.get("labels", {}))}
    return FilePairs(layout, tuple(pairs), reading, rows, (folder / DESCRIPTION,), folder) if pairs else None


def _pair(case: str, images: tuple[Path, ...], missing: str, mask: Path | None, in_file: tuple[int, ...]) -> Pair:
    if images:
        return Pair(case, images[0], mask, person_id=case, others=images[1:], numbers=in_file)
    problem = f"imagesTr/ has no channel {missing} of {case}."
    if mask:
        wanted = case if in_file else ", ".join(f"{case}_{number}" for number in missing.split(", "))
        problem = f"labelsTr/{mask.name} has no image {wanted} in imagesTr/."
    return Pair(case, None, mask, case, problem_kind="unpaired", problem=problem)


def _named(labels: dict) -> str:
    """Label values with their names; regions are lists of values, and older versions put the values first."""
    pairs = [(name, value) if str(name).isdecimal() else (value, name) for name, value in labels.items()]
    return ", ".join(f"{value} {name}" for value, name in pairs if str(value) != "0") or "not said"


def _read(path: Path) -> dict:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read, which says what the channels of imagesTr/ are: {error}.") from error
    names = ("channel_names", "modality", "labels")
    parts = [description, *(description.get(name, {}) for name in names if isinstance(description, dict))]
    channels = [number for part in parts[1:3] if isinstance(part, dict) for number in part]
    if not all(isinstance(part, dict) for part in parts) or not all(number.isdecimal() for number in channels):
        raise DataError(
            f"{path} is no description of a data set as nnU-Net has it: it needs mappings, and channels by number."
        )
    return description
