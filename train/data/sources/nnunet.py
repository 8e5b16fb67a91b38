"""nnU-Net's raw data: every case a volume per channel, and labels; Medical Decathlon's, with all channels in one file.

    DATA/imagesTr/CASE_0000.nii.gz, CASE_0001.nii.gz, …        one for each of the channels in dataset.json
    DATA/imagesTr/CASE.nii.gz                                  or a volume for each in one file
    DATA/labelsTr/CASE.nii.gz
    DATA/dataset.json                                          {"channel_names": {"0": "T1Gd", …}, "labels": {…}}

`imagesTs` has no labels and is not read. A case counts as a person.
"""

import json
import re
from pathlib import Path

from ..raw import DataError, Reading, natural_order
from .pairs import FilePairs, Pair, bare_name, is_image
from .sequences import choose


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
    name, said = choose(channels.values(), reading, f"{folder.name}/{DESCRIPTION}")
    number = next(number for number, channel in channels.items() if channel == name)
    scans = {
        match["case"]: path
        for path in images.iterdir()
        if is_image(path) and (match := CHANNEL.fullmatch(bare_name(path))) and int(match["number"]) == int(number)
    }
    masks = {bare_name(path): path for path in labels.iterdir() if is_image(path)}
    layout, where = "nnU-Net raw: imagesTr/, labelsTr/ and dataset.json", f"channel {int(number):04d}"
    whole, in_file = {bare_name(path): path for path in images.iterdir() if is_image(path)}, None
    if whole.keys() & masks.keys():
        scans, in_file = whole, int(number) + 1
        layout, where = "Medical Decathlon: imagesTr/, labelsTr/ and dataset.json", f"volume {in_file} of each file"
    pairs = [
        _pair(case, scans.get(case), masks.get(case), int(number), in_file)
        for case in sorted({*scans, *masks}, key=natural_order)
    ]
    rows = {"sequence": f"{said} ({where})", "labels": _named(description.get("labels", {}))}
    return FilePairs(layout, tuple(pairs), reading, rows, (folder / DESCRIPTION,), folder) if pairs else None


def _pair(case: str, image: Path | None, mask: Path | None, number: int, in_file: int | None) -> Pair:
    pair = Pair(case, image, mask, person_id=case, number=str(in_file or ""))
    if image:
        return pair
    assert mask is not None  # or there would be no case
    wanted = case if in_file else f"{case}_{number:04d}"
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
