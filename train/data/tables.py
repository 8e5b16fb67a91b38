"""Tables that a lab keeps: CSV files whose cells are separated by anything, and whose columns are called anything."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from .raw import DataError


SEPARATORS = (",", ";", "\t", "|")
# What columns of persons are called, without signs between words.
PERSON_NAMES = {
    f"{person}{number}"
    for person in ("person", "patient", "pat", "subject", "participant", "p", "sub")
    for number in ("", "id", "no", "nr", "number", "name")
} - {"p", "pno", "pnr"}
SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # how .xlsx and .ods, and .xls, begin
MOST_COLUMNS = 12  # that a message names


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Names of the columns, and the rows as strings, "" where a cell is empty or missing.

    Raises:
        DataError: the file cannot be read, or has no line of names.
    """
    try:
        content = path.read_bytes()
        if content.startswith(SPREADSHEETS):
            raise DataError(f"{path.name} is a spreadsheet, of which a CSV file is needed; save it as one.")
        text = _decoded(content)
        first = text.partition("\n")[0]
        separator = max(SEPARATORS, key=first.count)
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        rows = [{name: (row.get(name) or "").strip() for name in columns} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV file: {error}.") from error
    if len({*columns}) < len(columns) or not all(columns):
        raise DataError(f"{path.name} needs a first line with a name for each column, all different.")
    return columns, rows


def find_person_column(columns: Sequence[str], asked: str | None, where: str) -> str | None:
    """The column that says whose slice it is: the one that is asked for, `person_id`, or the only one that means it.

    Raises:
        DataError: the one that is asked for is not there, or several could be meant.
    """
    if asked is not None:
        if asked not in columns:
            raise DataError(f"--person_column is {asked}; the columns of {where} are {listed_columns(columns)}.")
        return asked
    if "person_id" in columns:
        return "person_id"
    found = [name for name in columns if re.sub(r"[^a-z0-9]", "", name.lower()) in PERSON_NAMES]
    if len(found) > 1:
        raise DataError(f"{where} has {' and '.join(found)}; say with --person_column which of them is the person.")
    return found[0] if found else None


def listed_columns(columns: Sequence[str]) -> str:
    more = len(columns) - MOST_COLUMNS
    return ", ".join([*columns[:MOST_COLUMNS], *([f"and {more} more"] if more > 0 else [])])


def _decoded(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252")
