"""Where slices come from: what lies at a path, or on the Hub → one `RawSlice` after another.

    DIR/images/1.png, DIR/masks/1.png            the layout on Kaggle; stems pair up
    brainTumorDataPublic_1-766.zip, … | N.mat    the original on figshare, as downloaded (figshare.py)
    DIR/metadata.csv | metadata.jsonl            🤗 Datasets' `imagefolder`; also DIR/train/metadata.csv, …
    DIR/data/*.parquet | owner/name              what `push_to_hub` of 🤗 Datasets writes, in a folder or on the Hub

`open_source` finds out which of them it is, and raises an error if it is none. Single slices never raise errors: each
comes with its `problem`, so that one pass over the data finds all of them.
"""

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from datasets import ClassLabel, Dataset, Image, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetsError

from modeling_unet.image_processing_unet import IMAGE_SUFFIXES

from .raw import MAT_NAME, DataError, Picture, RawSlice, Source, image_files, natural_order, stamps


KINDS = ("images", "masks")
METADATA_NAMES = ("metadata.csv", "metadata.jsonl")
FILE_COLUMNS = ("image_file_name", "mask_file_name")
DETAIL_COLUMNS = ("person_id", "tumor_type", "plane", "split")
# Words for splits in data sets → our names.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("example", "examples"), "example"),
}
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
PARQUET_SHARD = re.compile(r"(?P<split>\w+(\.\w+)*)-\d{5}-of-\d{5}(-\w+)?\.parquet")


def open_source(source: str | Path) -> Source:
    """Find out what kind of source this is, and that it holds slices at all.

    Args:
        source: a folder, one of figshare's zips or the zip of them all, or the id of a data set on the Hub.

    Raises:
        DataError: there is no such source, no kind fits, a zip is damaged, the Hub gives no answer or no data set.
    """
    path = Path(source).expanduser().absolute()  # pictures keep it, in caches too
    if path.is_dir():
        return _open_folder(path)
    if path.is_file():
        return _open_figshare([path])
    if HUB_ID.fullmatch(str(source)):
        return _open_dataset(f"{source}, which is no folder here,", partial(load_dataset, str(source)))
    raise DataError(
        f"{source} is not there; give a folder, a zip from figshare or a data set id of the form owner/name."
    )


def _open_folder(folder: Path) -> Source:
    if metadata := _metadata_in(folder):
        return MetadataFolders((metadata,))
    if any((folder / kind).is_dir() for kind in KINDS):
        return _open_paired(folder)
    mat_files = [path for path in (*folder.glob("*.mat"), *folder.glob("*/*.mat")) if MAT_NAME.fullmatch(path.name)]
    if files := mat_files or list(folder.glob("*.zip")):
        return _open_figshare(sorted(files, key=lambda path: natural_order(path.name)))
    if files := _parquet_files(folder):
        return _open_dataset(str(folder), partial(load_dataset, "parquet", data_files=files))
    if metadata := [found for split in sorted(folder.glob("*/")) if (found := _metadata_in(split))]:
        return MetadataFolders(tuple(metadata))
    raise DataError(
        f"{folder} holds no slices in a known layout: images/ and masks/ with files of the same stems, figshare's zips "
        f"or N.mat files, {' or '.join(METADATA_NAMES)}, or Parquet files."
    )


def _open_figshare(paths: list[Path]) -> Source:
    try:
        from .figshare import FigshareFiles
    except ImportError as error:
        raise DataError(f"{paths[0].name} needs h5py, for MATLAB's files: pip install h5py.") from error
    return FigshareFiles.open(paths)


def _picture(path: Path) -> Picture:
    return {"path": str(path), "bytes": None}


# -------------------------------------------------------------------------------------------------- images/ and masks/


@dataclass(frozen=True)
class PairedFolder(Source):
    """`images/` and `masks/`, whose files pair up by their stems."""

    folder: Path

    def stamp(self) -> object:
        return stamps(path for kind in KINDS for path in image_files(self.folder / kind))

    def _slices(self) -> Iterator[RawSlice]:
        files = {kind: defaultdict(list) for kind in KINDS}
        for kind in KINDS:
            for path in image_files(self.folder / kind):
                files[kind][path.stem].append(path)
        for stem in sorted({*files["images"], *files["masks"]}, key=natural_order):
            yield _paired(stem, *(files[kind].get(stem, []) for kind in KINDS))


def _open_paired(folder: Path) -> PairedFolder:
    for kind in KINDS:
        if not (folder / kind).is_dir():
            raise DataError(f"{folder / kind} is not there; images/ and masks/ are needed, with files of equal stems.")
        if not image_files(folder / kind):
            raise DataError(f"{folder / kind} holds no images; accepted are {', '.join(IMAGE_SUFFIXES)}.")
    return PairedFolder(folder)


def _paired(stem: str, images: list[Path], masks: list[Path]) -> RawSlice:
    raw = RawSlice(stem, *(_picture(paths[0]) if paths else None for paths in (images, masks)))
    for paths, other in ((images, "masks"), (masks, "images")):
        names = [f"{path.parent.name}/{path.name}" for path in paths]
        if len(names) > 1:
            problem = f"{' and '.join(names)} have the same stem; keep one of them."
            return replace(raw, problem_kind="repeated stem", problem=problem)
        if names and not (images and masks):
            problem = f"{names[0]} has no partner of the same stem in {other}/."
            return replace(raw, problem_kind="unpaired", problem=problem)
    return raw


# --------------------------------------------------------------------------------------------------------- imagefolder


@dataclass(frozen=True)
class MetadataFolders(Source):
    """Metadata files with a row per slice, which name pictures below their own folders.

    They are not read by `load_dataset`, which turns the id 0012 of a CSV file into the number 12, notices missing files
    only when they are used, and ignores pictures that no row names.
    """

    metadata: tuple[Path, ...]

    def stamp(self) -> object:
        files = []
        for path in self.metadata:
            rows = _rows(path)
            files += [path, *sorted({*_listed(path, rows), *_pictures_beside(path, rows)})]
        return stamps(files)

    def _slices(self) -> Iterator[RawSlice]:
        for metadata in self.metadata:
            rows = _rows(metadata)
            for number, row in enumerate(rows, start=1):
                yield _slice_of_row(metadata, number, row)
            listed = _listed(metadata, rows)
            for path in _pictures_beside(metadata, rows):
                if path not in listed:
                    problem = f"{path.parent.name}/{path.name} is named in no row of {metadata.name}."
                    yield RawSlice(path.stem, _picture(path), None, problem_kind="unpaired", problem=problem)


def _metadata_in(folder: Path) -> Path | None:
    found = [folder / name for name in METADATA_NAMES if (folder / name).is_file()]
    if len(found) > 1:
        raise DataError(f"{folder} holds both {' and '.join(METADATA_NAMES)}; keep one of them.")
    return found[0] if found else None


def _rows(metadata: Path) -> list[dict[str, str]]:
    """Every row, with all columns that matter, as strings; "" where nothing is given."""
    try:
        text = metadata.read_text(encoding="utf-8-sig")
        if metadata.suffix == ".csv":
            rows = list(csv.DictReader(io.StringIO(text)))
        else:
            # Numbers are taken as strings, and so stay as they are written.
            rows = [json.loads(line, parse_int=str, parse_float=str) for line in text.split("\n") if line.strip()]
        rows = [{name: _text(row.get(name)) for name in ("slice", *FILE_COLUMNS, *DETAIL_COLUMNS)} for row in rows]
        for row in rows:
            row["split"] = _split(row["split"] or SPLITS.get(metadata.parent.name.lower(), ""))
    except (OSError, ValueError, AttributeError, csv.Error) as error:
        raise DataError(f"{metadata} cannot be read as rows with named columns: {error}.") from error
    if missing := [column for column in FILE_COLUMNS if not any(row[column] for row in rows)]:
        raise DataError(
            f"{metadata} gives no {' and no '.join(missing)}; every slice needs {' and '.join(FILE_COLUMNS)}."
        )
    return rows


def _slice_of_row(metadata: Path, number: int, row: dict[str, str]) -> RawSlice:
    names = [row[column] for column in FILE_COLUMNS]
    problem_kind, problem = next(filter(None, (_problem_of_file(metadata, name) for name in names)), ("", ""))
    return RawSlice(
        row["slice"] or Path(names[0]).stem or f"row {number}",
        *(None if problem else _picture(metadata.parent / name) for name in names),
        *(row[column] for column in DETAIL_COLUMNS),
        problem_kind=problem_kind,
        problem=problem and f"Row {number} of {metadata.parent.name}/{metadata.name} {problem}.",
    )


def _problem_of_file(metadata: Path, name: str) -> tuple[str, str] | None:
    if not name:
        return "unpaired", f"leaves {' or '.join(FILE_COLUMNS)} empty"
    if not _stays_below(name):
        return "unreadable", f"names {name}; files must lie below the folder of {metadata.name}"
    if not (metadata.parent / name).is_file():
        return "unpaired", f"names {name}, which is not there"
    return None


def _listed(metadata: Path, rows: list[dict[str, str]]) -> set[Path]:
    names = {row[column] for row in rows for column in FILE_COLUMNS}
    return {metadata.parent / name for name in names if name and _stays_below(name)}


def _pictures_beside(metadata: Path, rows: list[dict[str, str]]) -> list[Path]:
    """All pictures in folders of listed pictures; other folders are not part of the data set."""
    folders = {path.parent for path in _listed(metadata, rows)}
    return [path for folder in sorted(folders) if folder.is_dir() for path in image_files(folder)]


def _stays_below(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


def _split(word: str) -> str:
    return SPLITS.get(word.lower(), word)


# --------------------------------------------------------------------------------------------------------- 🤗 Datasets


@dataclass(frozen=True, eq=False)
class DatasetRows(Source):
    """A `datasets.Dataset` with the columns `image` and `mask`, and perhaps `slice`, `person_id` and the like."""

    dataset: Dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def stamp(self) -> object:
        return self.dataset._fingerprint

    def _slices(self) -> Iterator[RawSlice]:
        for name, row in zip(self._names(), self.dataset, strict=True):
            raw = RawSlice(name, *(_named(row[column], name) for column in ("image", "mask")), *self._details(row))
            missing = [column for column in ("image", "mask") if getattr(raw, column) is None]
            if missing:
                raw = replace(raw, problem_kind="unpaired", problem=f"Slice {name} has no {' and no '.join(missing)}.")
            yield raw

    def _names(self) -> list[str]:
        """The column `slice`; without it the stems of the images' names, if they differ, and otherwise 1, 2, …"""
        if "slice" in self.dataset.column_names:
            return [_text(name) for name in self.dataset["slice"]]
        # Concatenated, a data set has a format, which names the columns that it had before it was flattened.
        paths = self.dataset.select_columns("image").flatten().with_format(None)["image.path"]
        stems = [Path(path or "").stem for path in paths]
        return stems if all(stems) and len({*stems}) == len(stems) else [str(n + 1) for n in range(len(stems))]

    def _details(self, row: dict) -> Iterator[str]:
        for column in DETAIL_COLUMNS:
            value, feature = row.get(column), self.dataset.features.get(column)
            text = _text(feature.int2str(value) if isinstance(feature, ClassLabel) and value is not None else value)
            yield _split(text) if column == "split" else text


def _parquet_files(folder: Path) -> dict[str, list[str]]:
    """Split → files, as their names say it; those whose names do not are of the split `train`."""
    files = defaultdict(list)
    for path in sorted((*folder.glob("*.parquet"), *folder.glob("data/*.parquet"))):
        shard = PARQUET_SHARD.fullmatch(path.name)
        files[shard["split"] if shard else "train"].append(str(path))
    return dict(files)


def _open_dataset(name: str, load: Callable[[], dict[str, Dataset]]) -> DatasetRows:
    try:
        splits = load()
        return DatasetRows(concatenate_datasets([_needed_columns(*item, len(splits) > 1) for item in splits.items()]))
    except (DatasetsError, OSError, TypeError, ValueError) as error:
        raise DataError(f"{name} cannot be used as a data set: {str(error).rstrip('.')}.") from error


def _needed_columns(name: str, split: Dataset, is_one_of_several: bool) -> Dataset:
    """A split with a column that names it, unless it has one of its own; a single one may be called anything."""
    found = split.column_names
    if not {"image", "mask"} <= {*found}:
        raise DataError(f"its columns are {', '.join(found)}, and image and mask are needed.")
    if "split" not in found and (is_one_of_several or name.lower() in SPLITS):
        split = split.add_column("split", [name] * len(split))
        found = split.column_names
    split = split.select_columns([column for column in ("image", "mask", "slice", *DETAIL_COLUMNS) if column in found])
    return split.cast_column("image", Image(decode=False)).cast_column("mask", Image(decode=False))


def _named(picture: Picture | None, name: str) -> Picture | None:
    """None for an empty cell; bytes get a bare name, for messages."""
    if picture is None or picture["bytes"] is None:
        return picture if picture and picture["path"] else None
    return {"path": Path(picture["path"] or name).name, "bytes": picture["bytes"]}
