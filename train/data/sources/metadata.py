"""A table with a row per slice or volume, which names the files.

    DATA/metadata.csv | metadata.jsonl, also DATA/train/metadata.csv    🤗 Datasets' `imagefolder`, as `prepare` writes
    python -m train check pairs.csv                                    a CSV file of any columns and separators

Of the first, every picture beside those that are named has to be named too; the second takes what it names.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..raw import DETAIL_COLUMNS, SPLITS, DataError, RawSlice, Reading, Source, image_files, stamps
from ..tables import find_person_column, listed_columns, read_table
from .pairs import MASK_ENDING, Details, FilePairs, Pair, bare_name, is_image, picture


NAMES = ("metadata.csv", "metadata.jsonl")
FILE_COLUMNS = ("image_file_name", "mask_file_name")
PIXEL_COLUMNS = ("row_mm", "column_mm")
MASK_WORD = re.compile(r"mask|seg|label|lesion|truth|annotation", re.IGNORECASE)  # in the name of a column


def find(folder: Path, reading: Reading) -> "MetadataFolders | None":
    """The table of the folder, or those of its sub-folders if only these have one."""
    found = [metadata] if (metadata := _metadata_in(folder)) else []
    found = found or [metadata for split in sorted(folder.glob("*/")) if (metadata := _metadata_in(split))]
    return MetadataFolders(tuple(found), reading.takes_missing_masks, reading.person_column) if found else None


# --------------------------------------------------------------------------------------------------------- metadata.csv


@dataclass(frozen=True)
class MetadataFolders(Source):
    """Metadata files with a row per slice, which name pictures below their own folders.

    They are not read by `load_dataset`, which turns the id 0012 of a CSV file into the number 12, notices missing files
    only when they are used, and ignores pictures that no row names.
    """

    heeds = frozenset({"person_column"})

    metadata: tuple[Path, ...]
    takes_missing_masks: bool = False
    person_column: str | None = None

    def facts(self) -> dict[str, str]:
        rows = [row for path in self.metadata for row in self._rows(path)]
        persons = {row["person_id"] for row in rows} - {""}
        return {
            "layout": " and ".join(f"{path.parent.name}/{path.name}" for path in self.metadata) + ", a row per slice",
            "images": f"{sum(1 for row in rows if row['image_file_name']):,}",
            "masks": f"{sum(1 for row in rows if row['mask_file_name']):,}",
            "persons": f"{len(persons):,}" if persons else "not said here",
        }

    def stamp(self) -> object:
        files = []
        for path in self.metadata:
            rows = self._rows(path)
            files += [path, *sorted({*_listed(path, rows), *_pictures_beside(path, rows)})]
        return stamps(files)

    def parts(self) -> Iterator[RawSlice]:
        for metadata in self.metadata:
            rows = self._rows(metadata)
            for number, row in enumerate(rows, start=1):
                yield _slice_of_row(metadata, number, row, self.takes_missing_masks)
            listed = _listed(metadata, rows)
            for path in _pictures_beside(metadata, rows):
                if path not in listed:
                    problem = f"{path.parent.name}/{path.name} is named in no row of {metadata.name}."
                    yield RawSlice(path.stem, picture(path), None, problem_kind="unpaired", problem=problem)

    def _rows(self, path: Path) -> list[dict[str, str]]:
        return _rows(path, self.person_column)


def _metadata_in(folder: Path) -> Path | None:
    found = [folder / name for name in NAMES if (folder / name).is_file()]
    if len(found) > 1:
        raise DataError(f"{folder} holds both {' and '.join(NAMES)}; keep one of them.")
    return found[0] if found else None


def _rows(metadata: Path, person_column: str | None) -> list[dict[str, str]]:
    """Every row, with all columns that matter, as strings; "" where nothing is given."""
    names = ("slice", *FILE_COLUMNS, *DETAIL_COLUMNS, "volume", *PIXEL_COLUMNS)
    try:
        text = metadata.read_text(encoding="utf-8-sig")
        if metadata.suffix == ".csv":
            rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(text)))
        else:
            # Numbers are taken as strings, and so stay as they are written.
            rows = [json.loads(line, parse_int=str, parse_float=str) for line in text.split("\n") if line.strip()]
        if person_column is not None:
            _check_column(metadata, person_column, rows)
            rows = [row | {"person_id": row.get(person_column)} for row in rows]
        rows = [{name: as_text(row.get(name)) for name in names} for row in rows]
        for row in rows:
            row["split"] = as_split(row["split"] or SPLITS.get(metadata.parent.name.lower(), ""))
    except DataError:
        raise
    except (OSError, ValueError, AttributeError, TypeError, csv.Error) as error:
        raise DataError(f"{metadata} cannot be read as rows with named columns: {error}.") from error
    if missing := [column for column in FILE_COLUMNS if not any(row[column] for row in rows)]:
        raise DataError(
            f"{metadata} gives no {' and no '.join(missing)}; every slice needs {' and '.join(FILE_COLUMNS)}."
        )
    return rows


def _check_column(metadata: Path, column: str, rows: list[dict]) -> None:
    found = list(dict.fromkeys(name for row in rows for name in row))
    if column not in found:
        raise DataError(f"--person_column is {column}; the columns of {metadata.name} are {listed_columns(found)}.")


def _slice_of_row(metadata: Path, number: int, row: dict[str, str], takes_missing_masks: bool) -> RawSlice:
    names = [row[column] for column in FILE_COLUMNS]
    if takes_missing_masks and names[0] and not names[1]:
        names.pop()
    problem_kind, problem = next(filter(None, (_problem_of_file(metadata, name) for name in names)), ("", ""))
    image, mask = (None if problem or not name else picture(metadata.parent / name) for name in (*names, "")[:2])
    return RawSlice(
        row["slice"] or Path(names[0]).stem or f"row {number}",
        image,
        mask,
        **{column: row[column] for column in DETAIL_COLUMNS},
        volume=row["volume"],
        spacing=spacing_of(row, f"Row {number} of {metadata.name}"),
        problem_kind=problem_kind,
        problem=problem and f"Row {number} of {metadata.parent.name}/{metadata.name} {problem}.",
    )


def spacing_of(row: dict[str, str], where: str) -> tuple[float, float] | None:
    """The size of a pixel in mm, as (row, column), or None; raises DataError if a row gives what is no number."""
    values = [row[column] for column in PIXEL_COLUMNS]
    if not all(values):
        return None
    try:
        return float(values[0]), float(values[1])
    except ValueError as error:
        raise DataError(
            f"{where} gives {' and '.join(PIXEL_COLUMNS)} as {' and '.join(values)}; they are numbers."
        ) from error


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


def as_text(value: object) -> str:
    return "" if value is None else str(value).strip()


def as_split(word: str) -> str:
    return SPLITS.get(word.lower(), word)


# ------------------------------------------------------------------------------------------------------------ any table


def open_table(path: Path, reading: Reading) -> FilePairs:
    """A CSV file with a row per picture or volume, in columns of any name; files are named from its folder on.

    Raises:
        DataError: it cannot be read, or which columns name images and masks is not clear.
    """
    columns, rows = read_table(path)
    image, mask = _file_columns(path, columns, rows)
    person = find_person_column(columns, reading.person_column, path.name)
    pairs = [_pair_of_row(path, number, row, image, mask, person) for number, row in enumerate(rows, start=1)]
    stems = Counter(pair.name for pair in pairs)
    said = {"columns": f"{image} and {mask}; persons: {person or 'no column'}"}
    named = [pair if stems[pair.name] == 1 else _with_folder(path, pair) for pair in pairs]
    return FilePairs(f"{path.name}, a row per image", tuple(named), reading, said, (path,))


def _file_columns(path: Path, columns: list[str], rows: list[dict[str, str]]) -> tuple[str, str]:
    """The columns of images and of masks: those whose values are names of files that are there."""
    found = {}
    for column in columns:
        files = [file for row in rows if (file := _file_of(path, row[column]))]
        if files and any(is_image(file) and file.is_file() for file in files):
            found[column] = files
    masks = [column for column in found if MASK_WORD.search(column)]
    masks = masks or [column for column, files in found.items() if MASK_ENDING.search(bare_name(files[0]))]
    if len(found) != 2 or len(masks) != 1:
        raise DataError(
            f"{path.name} has the columns {listed_columns(columns)}, and files that are there are named in "
            f"{listed_columns([*found]) or 'none'} of them; there have to be two, one called mask."
        )
    return next(column for column in found if column not in masks), masks[0]


def _pair_of_row(path: Path, number: int, row: dict[str, str], image: str, mask: str, person: str | None) -> Pair:
    files = [_file_of(path, row[column]) for column in (image, mask)]
    known = Details(
        person_id=row[person] if person else "",
        tumor_type=row.get("tumor_type", ""),
        plane=row.get("plane", ""),
        split=as_split(row.get("split", "")),
    )
    name = bare_name(files[0]) if files[0] else f"row {number}"
    lost = [column for column, file in zip((image, mask), files, strict=True) if file and not file.is_file()]
    if lost or not files[0]:
        said = f"names {row[lost[0]]}, which is not there" if lost else f"leaves {image} empty"
        problem = f"Row {number} of {path.name} {said}."
        return Pair(name, None, None, **known, problem_kind="unpaired", problem=problem)
    return Pair(name, files[0], files[1], **known)


def _file_of(path: Path, name: str) -> Path | None:
    """The file that a cell of a table names, also as Windows writes it."""
    return path.parent / name.replace("\\", "/") if name else None


def _with_folder(path: Path, pair: Pair) -> Pair:
    """One of several images of the same name, called by its path."""
    if pair.image is None or not pair.image.is_relative_to(path.parent):
        return pair
    name = (pair.image.parent.relative_to(path.parent) / pair.name).as_posix()
    return replace(pair, name=name)
