"""Which sources, slices or volumes, are done, so that a prediction that was stopped, even by `kill -9`, goes on there.

    DIR/journal.jsonl   first line: what makes the results (weights, options); then a line for every source that is done
    DIR/summary.csv     the table, written whole at the end from the same lines
    DIR/lesions.csv     likewise, if there are volumes: a line for each of their lesions

A source gets its line when its results are complete. A later run keeps the results if its own first line would be the
same, and if neither the source's files nor those of the results have changed (size, time of change). In all other
cases, such as a line that was cut off, the source is segmented again.

Shards have files of their own (journal-2-of-4.jsonl) and read those of all others, so the same command without a shard
finds everything done and writes the one table.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .files import write_atomically
from .tables import to_csv


SUMMARY_COLUMNS = (
    "path",
    "tumor_found",
    "highest_probability",
    "lesions",
    "area_px",
    "area_percent",
    "area_mm2",
    "longest_diameter_px",
    "longest_diameter_mm",
    "volume_ml",
    "seconds",
    "familiarity",
    "warnings",
    "error",
)
LESION_COLUMNS = (
    *("path", "lesion", "volume_ml", "voxels", "first_slice", "last_slice", "right_mm", "anterior_mm", "superior_mm"),
    *("longest_diameter_mm", "longest_in_slice_mm", "mean_probability"),
)


@dataclass(frozen=True)
class Source:
    """What is segmented as one, and has one line of the table.

    Attributes:
        path: what the table calls it: a file, the folder that holds its files, or behind a file that holds several
            slices what it is in there.
        files: what is read.
        is_volume: whether it is a volume, and not a slice.
        member: of a slice in an archive its name there; empty if it is the file itself.
        page: of a slice in a file of several pages its number, from 0; None of any other.
        numbers: where each file holds several volumes, which one of it is the channel, from 1.
        missing: the channels of which there is no file.
    """

    path: Path
    files: tuple[Path, ...]
    is_volume: bool = False
    member: str = ""
    page: int | None = None
    numbers: tuple[int, ...] = ()
    missing: tuple[str, ...] = ()

    @classmethod
    def of_slice(cls, file: Path) -> "Source":
        return cls(file, (file,))

    def to_dict(self) -> dict:
        """In types that JSON knows, for another process: with paths that do not depend on the current folder."""
        return asdict(self) | {
            "path": str(self.path.absolute()),
            "files": [str(file.absolute()) for file in self.files],
        }

    @classmethod
    def from_dict(cls, values: dict) -> "Source":
        """Undo `to_dict`."""
        texts = {name: tuple(values[name]) for name in ("numbers", "missing")}
        return cls(**values | texts | {"path": Path(values["path"]), "files": tuple(map(Path, values["files"]))})

    def identify(self) -> list:
        """What tells it from a later one of the same name: path, and size and time of change of every file.

        Raises:
            OSError: a file is missing.
        """
        states = [[str(file.absolute()), *_state(file)] for file in self.files] + [[*self.numbers]] * bool(self.numbers)
        seen = hashlib.sha256(json.dumps(states).encode()).hexdigest()
        return [str(self.path.resolve()), len(states), seen]


@dataclass(frozen=True)
class Outcome:
    """What became of one source, in types that JSON knows.

    Attributes:
        place: where its results are: what their paths in the folder of the results begin with.
        row: its line of the table without the path: a value for some or all of `SUMMARY_COLUMNS`, and for columns of
            single classes where the model tells several apart.
        source: what its files were before they were read, see `Source.identify`; None if it failed.
        results: what the files of its results are, see `identify_results`; None if it failed.
        lesions: of a volume, the lines of their table without the path.
    """

    place: str
    row: dict
    source: list | None = None
    results: dict[str, list[int]] | None = None
    lesions: list[dict] = field(default_factory=list)

    @property
    def error(self) -> str | None:
        """Why the source failed, in one line, or None."""
        return self.row.get("error")

    def holds(self, source: Source, out: Path) -> bool:
        """Whether the results in `out` are still those of this source."""
        try:
            return source.identify() == self.source and identify_results(out, self.results or {}) == self.results
        except OSError:
            return False

    def to_json(self) -> str:
        """One line of ASCII, which can hold any file name."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "Outcome":
        """Undo `to_json`; raises ValueError or TypeError for any other line."""
        return cls(**json.loads(line))


class Journal:
    """The outcomes of one run or shard; a new one begins with those of earlier runs that are still valid.

    Args:
        out: folder of the results; it exists.
        sources: by the place of their results, in the order of the table.
        maker: what the results depend on besides the source (weights, options), in types that JSON knows.
        suffix: tells the files of one shard from those of the others.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, out: Path, sources: dict[str, Source], maker: dict, suffix: str = ""):
        self.out = out
        self.sources = sources
        self._suffix = suffix
        self._header = json.dumps(maker, sort_keys=True)
        self.outcomes = {outcome.place: outcome for path in out.glob("journal*.jsonl") for outcome in self._read(path)}
        lines = [self._header, *(outcome.to_json() for outcome in self.outcomes.values())]
        self._path = out / f"journal{suffix}.jsonl"
        write_atomically(self._path, "".join(f"{line}\n" for line in lines).encode())
        self._file = self._path.open("ab", buffering=0)

    @property
    def waiting(self) -> dict[str, Source]:
        """The sources without an outcome."""
        return {place: source for place, source in self.sources.items() if place not in self.outcomes}

    def add(self, outcome: Outcome):
        """Add an outcome, from any thread. A source that failed gets no line, so the next run tries it again.

        Raises:
            OSError: it cannot be written down.
        """
        if not outcome.error:
            self._write(f"{outcome.to_json()}\n".encode())
        self.outcomes[outcome.place] = outcome

    def _write(self, line: bytes):
        """Unbuffered, so that each line is written as a whole; on a disk that is nearly full, a part of it is."""
        try:
            whole = self._file.write(line) == len(line)
        except OSError as error:
            raise OSError(f"{self._path} cannot be written: {error.strerror}.") from error
        if not whole:
            raise OSError(f"{self._path} cannot be written: {os.strerror(errno.ENOSPC)}.")

    def close(self):
        """Write the tables of all outcomes so far.

        Raises:
            OSError: a table cannot be written; one of an earlier run stays as it was.
        """
        self._file.close()
        done = [(source.path, self.outcomes[place]) for place, source in self.sources.items() if place in self.outcomes]
        if any(source.is_volume for source in self.sources.values()):
            lesions = ({"path": path, **lesion} for path, outcome in done for lesion in outcome.lesions)
            self._write_table("lesions", LESION_COLUMNS, lesions)
        rows = [{"path": path, **outcome.row} for path, outcome in done]
        self._write_table("summary", _with_classes(rows), rows)

    def _write_table(self, name: str, columns: tuple[str, ...], rows: Iterable[dict]):
        # A name that is not valid Unicode must not cost the table.
        content = to_csv(columns, rows).encode("utf-8", "backslashreplace")
        write_atomically(self.out / f"{name}{self._suffix}.csv", content)

    def _read(self, path: Path) -> Iterator[Outcome]:
        """The outcomes of a journal that are still valid."""
        with path.open(encoding="utf-8", errors="replace") as lines:
            if next(lines, "").rstrip("\n") != self._header:
                return
            for line in lines:
                try:
                    outcome = Outcome.from_json(line)
                except (TypeError, ValueError):  # it broke off
                    continue
                source = self.sources.get(outcome.place)
                if source is not None and outcome.holds(source, self.out):
                    yield outcome


def _with_classes(rows: list[dict]) -> tuple[str, ...]:
    """`SUMMARY_COLUMNS`, and behind the measurements those of each of several classes."""
    own = dict.fromkeys(column for row in rows for column in row if column not in SUMMARY_COLUMNS)
    end = SUMMARY_COLUMNS.index("seconds")
    return (*SUMMARY_COLUMNS[:end], *own, *SUMMARY_COLUMNS[end:])


def identify_results(out: Path, names: Iterable[str]) -> dict[str, list[int]]:
    """Of every result, by its path in `out`: [size, time of change]; an OSError where one is missing."""
    return {name: _state(out / name) for name in names}


def _state(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]
