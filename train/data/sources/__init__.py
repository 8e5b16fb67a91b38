"""Where slices come from: what lies at a path, or on the Hub → one `RawSlice` after another.

| layout | module |
|---|---|
| `metadata.csv` or `.jsonl`, also in `train/`, `test/`; or a CSV file itself | `metadata` |
| nnU-Net raw, Medical Decathlon: `imagesTr/`, `labelsTr/`, `dataset.json` | `nnunet` |
| BIDS: `sub-01/anat/…`, masks in `derivatives/` | `bids` |
| `images/` and `masks/`, `imgs/` and `labels/`, …: files of equal stems | `two_folders` |
| BraTS: `ID_t1ce.nii.gz` and the other sequences beside `ID_seg.nii.gz` | `brats` |
| `NAME.tif` beside `NAME_mask.tif`, as in kaggle_3m | `beside` |
| COCO: `annotations.json` | `coco` |
| figshare's zips or `N.mat` | `figshare` |
| a ZIP of any of these | `cache.unpacked`, then as above |
| Parquet, or `owner/name` on the Hub, as `push_to_hub` writes it | `hub` |

**To add a layout**, write a module with `find(folder, reading)`: the `Source` that lies in the folder, or None if it is
laid out in another way. Then put it into `LAYOUTS`. Where files pair up, `find` has but to list them as `Pair`s,
volumes or pictures alike: `FilePairs` reads them. `beside` is a short example.

Single slices never raise errors: each comes with its `problem`, so that one pass over the data finds all of them.
"""

import re
from pathlib import Path

from ..cache import unpacked
from ..raw import DataError, HalfLayoutError, Reading, Source
from . import beside, bids, brats, coco, figshare, hub, metadata, nnunet, two_folders
from .pairs import files_below


# The first that fits is taken.
LAYOUTS = (metadata, nnunet, bids, two_folders, brats, beside, coco, figshare, hub)
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
AS_USUAL = Reading()
NOT_READ = {".dcm", ".ima", ".mha", ".mhd", ".nrrd", ".nhdr", ".mgh", ".mgz"}  # volumes that other programs convert
# Options that nothing but such a source can use.
USED_BY = {
    "planes": "volumes",
    "sequence": "sequences by name",
    "sequences": "sequences by name",
    "person_column": "table of persons (which --persons FILE.csv would be)",
}


def open_source(source: str | Path, reading: Reading = AS_USUAL) -> Source:
    """Find out what kind of source this is, and that it holds slices at all.

    Args:
        source: a folder, or a ZIP of one; a CSV file with a row per image, a COCO file, one of figshare's zips or the
            zip of them all, or the id of a data set on the Hub.
        reading: what the source cannot know of itself.

    Raises:
        DataError: there is no such source, no kind fits, a file of it is damaged, the Hub gives no answer or no data
            set.
    """
    opened = _open(source, reading)
    for option, of_what in USED_BY.items():
        if (value := getattr(reading, option)) and option not in opened.heeds:
            shown = " ".join(value) if isinstance(value, tuple) else value
            raise DataError(f"--{option} is {shown}, and {source} holds no {of_what}; leave it out.")
    return opened


def _open(source: str | Path, reading: Reading) -> Source:
    path = Path(source).expanduser().absolute()  # pictures keep it, in caches too
    if path.is_dir():
        return _open_folder(path, reading)
    if path.is_file():
        opened = {".csv": metadata.open_table, ".tsv": metadata.open_table, ".json": coco.open_file}
        if (suffix := path.suffix.lower()) in opened:
            return opened[suffix](path, reading)
        return figshare.open_file(path) or _open_folder(unpacked(path), reading, str(source))
    if HUB_ID.fullmatch(str(source)):
        return hub.open_id(str(source), reading)
    raise DataError(f"{source} is not there; give a folder, a zip or a data set id of the form owner/name.")


def _open_folder(folder: Path, reading: Reading, name: str | None = None) -> Source:
    half = None
    for layout in LAYOUTS:
        try:
            if (found := layout.find(folder, reading)) is not None:
                return found
        except HalfLayoutError as error:
            half = half or error
    foreign = ", ".join(sorted({path.suffix.lower() for path in files_below(folder)} & NOT_READ))
    said = str(half or "") or (
        f"{name or folder} holds no slices in a known layout: images/ and masks/ with files of the same stems, files "
        "beside their masks (NAME.tif, NAME_mask.tif), BraTS, BIDS, nnU-Net raw or Medical Decathlon (imagesTr/, "
        f"labelsTr/), COCO, figshare's zips or N.mat files, {' or '.join(metadata.NAMES)}, or Parquet files."
    )
    hint = f" Volumes as {foreign} are not read here: save them, and their masks, as NIfTI." if foreign else ""
    raise DataError(f"{said}{hint}")
