"""Data sets of 🤗 Datasets: on the Hub by their id, or a folder with the Parquet files that `push_to_hub` writes.

DATA/data/train-00000-of-00001.parquet | owner/name        columns image and mask, and perhaps slice, person_id, …
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Image, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetsError

from ...columns import values_of
from ..raw import DETAIL_COLUMNS, SPLITS, DataError, Picture, RawSlice, Reading, Source
from .metadata import PIXEL_COLUMNS, as_split, as_text, spacing_of


COLUMNS = ("image", "mask", "slice", *DETAIL_COLUMNS, "volume", *PIXEL_COLUMNS)
PARQUET_SHARD = re.compile(r"(?P<split>\w+(\.\w+)*)-\d{5}-of-\d{5}(-\w+)?\.parquet")


def find(folder: Path, reading: Reading) -> "DatasetRows | None":
    files = _parquet_files(folder)
    return _open(str(folder), partial(load_dataset, "parquet", data_files=files), reading) if files else None


def open_id(name: str, reading: Reading) -> "DatasetRows":
    """A data set on the Hub."""
    return _open(f"{name}, which is no folder here,", partial(load_dataset, name), reading)


@dataclass(frozen=True, eq=False)
class DatasetRows(Source):
    """A `datasets.Dataset` with the columns `image` and `mask`, and perhaps others of `COLUMNS`."""

    heeds = frozenset({"person_column"})

    dataset: Dataset
    takes_missing_masks: bool = False

    def __len__(self) -> int:
        return len(self.dataset)

    def stamp(self) -> object:
        return self.dataset._fingerprint

    def parts(self) -> Iterator[RawSlice]:
        for name, row in zip(self._names(), self.dataset, strict=True):
            texts = {column: as_text(row.get(column)) for column in ("volume", *PIXEL_COLUMNS)}
            raw = RawSlice(name, _named(row["image"], name), _named(row["mask"], name), **self._details(row))
            raw = replace(raw, volume=texts["volume"], spacing=spacing_of(texts, f"Slice {name}"))
            needed = ("image",) if self.takes_missing_masks else ("image", "mask")
            missing = [column for column in needed if getattr(raw, column) is None]
            if missing:
                raw = replace(raw, problem_kind="unpaired", problem=f"Slice {name} has no {' and no '.join(missing)}.")
            yield raw

    def facts(self) -> dict[str, str]:
        known = [name for name in DETAIL_COLUMNS if name in self.dataset.column_names]
        said = {"columns": f"image, mask{''.join(f', {name}' for name in known)}"}
        return {"layout": "a data set of 🤗 Datasets", "images": f"{len(self):,}", **said}

    def _names(self) -> list[str]:
        """The column `slice`; without it the stems of the images' names, if they differ, and otherwise 1, 2, …"""
        if "slice" in self.dataset.column_names:
            return [as_text(name) for name in values_of(self.dataset, "slice")]
        # Concatenated, a data set has a format, which names the columns that it had before it was flattened.
        paths = self.dataset.select_columns("image").flatten().with_format(None)["image.path"]
        stems = [Path(path or "").stem for path in paths]
        return stems if all(stems) and len({*stems}) == len(stems) else [str(n + 1) for n in range(len(stems))]

    def _details(self, row: dict) -> dict[str, Any]:
        found = {}
        for column in DETAIL_COLUMNS:
            value, feature = row.get(column), self.dataset.features.get(column)
            text = as_text(feature.int2str(value) if isinstance(feature, ClassLabel) and value is not None else value)
            found[column] = as_split(text) if column == "split" else text
        return found


def _parquet_files(folder: Path) -> dict[str, list[str]]:
    """Split → files, as their names say it; those whose names do not are of the split `train`."""
    files: dict[str, list[str]] = defaultdict(list)
    for path in sorted((*folder.glob("*.parquet"), *folder.glob("data/*.parquet"))):
        shard = PARQUET_SHARD.fullmatch(path.name)
        files[shard["split"] if shard else "train"].append(str(path))
    return dict(files)


def _open(name: str, load: Callable[[], dict[str, Dataset]], reading: Reading) -> DatasetRows:
    try:
        splits = load()
        parts = [_needed_columns(*item, len(splits) > 1, reading.person_column) for item in splits.items()]
        return DatasetRows(concatenate_datasets(parts), reading.takes_missing_masks)
    except (DatasetsError, OSError, TypeError, ValueError) as error:
        raise DataError(f"{name} cannot be used as a data set: {str(error).rstrip('.')}.") from error


def _needed_columns(name: str, split: Dataset, is_one_of_several: bool, person_column: str | None) -> Dataset:
    """A split with a column that names it, unless it has one of its own; a single one may be called anything."""
    found = split.column_names
    if not {"image", "mask"} <= {*found}:
        raise DataError(f"its columns are {', '.join(found)}, and image and mask are needed.")
    if person_column not in (None, "person_id"):
        if person_column not in found:
            raise DataError(f"--person_column is {person_column}, and its columns are {', '.join(found)}.")
        split = split.remove_columns([column for column in found if column == "person_id"])
        split = split.rename_column(person_column, "person_id")
        found = split.column_names
    if "split" not in found and (is_one_of_several or name.lower() in SPLITS):
        split = split.add_column("split", [name] * len(split))
        found = split.column_names
    split = split.select_columns([column for column in COLUMNS if column in found])
    return split.cast_column("image", Image(decode=False)).cast_column("mask", Image(decode=False))


def _named(picture: Picture | None, name: str) -> Picture | None:
    """None for an empty cell; bytes get a bare name, for messages."""
    if picture is None or picture["bytes"] is None:
        return picture if picture and picture["path"] else None
    return {"path": Path(picture["path"] or name).name, "bytes": picture["bytes"]}
