"""Which slices are done, so that a prediction that was stopped, even by `kill -9`, goes on where it was.

    DIR/journal.jsonl   first line: what makes the results (weights, options); then a line for every slice that is done
    DIR/summary.csv     the table, written whole at the end from the same lines

A slice gets its line when its results are complete. A later run keeps the results if its own first line would be the
same, and if neither the slice's file nor those of the results have changed (size, time of change). In all other cases,
such as a line that was cut off, the slice is segmented again.

Shards have files of their own (journal-2-of-4.jsonl) and read those of all others, so the same command without a shard
finds everything done and writes the one table.
"""

import errno
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
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
    "seconds",
    "error",
)


@dataclass(frozen=True)
class Outcome:
    """What became of one slice, in types that JSON knows.

    Attributes:
        place: where its results are, see `result_paths`.
        row: its line of the table without the path: a value for some or all of `SUMMARY_COLUMNS`.
        source: what its file was before it was read, see `identify_file`; None if the slice failed.
        results: what the files of its results are, see `identify_results`; None if the slice failed.
    """

    place: str
    row: dict
    source: list | None = None
    results: list | None = None

    @property
    def error(self) -> str | None:
        """Why the slice failed, in one line, or None."""
        return self.row.get("error")

    def holds(self, file: Path, out: Path) -> bool:
        """Whether the results in `out` are still those of this file."""
        try:
            return [identify_file(file), identify_results(out, self.place)] == [self.source, self.results]
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
        slices: place → file, in the order of the table.
        maker: what the results depend on besides the slice (weights, options), in types that JSON knows.
        suffix: tells the files of one shard from those of the others.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(self, out: Path, slices: dict[str, Path], maker: dict, suffix: str = ""):
        self.out = out
        self.slices = slices
        self._summary = out / f"summary{suffix}.csv"
        self._header = json.dumps(maker, sort_keys=True)
        self.outcomes = {outcome.place: outcome for path in out.glob("journal*.jsonl") for outcome in self._read(path)}
        lines = [self._header, *(outcome.to_json() for outcome in self.outcomes.values())]
        self._path = out / f"journal{suffix}.jsonl"
        write_atomically(self._path, "".join(f"{line}\n" for line in lines).encode())
        self._file = self._path.open("ab", buffering=0)

    @property
    def waiting(self) -> dict[str, Path]:
        """The slices without an outcome."""
        return {place: file for place, file in self.slices.items() if place not in self.outcomes}

    def add(self, outcome: Outcome):
        """Add an outcome, from any thread. A slice that failed gets no line, so the next run tries it again.

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
        """Write the table of all outcomes so far.

        Raises:
            OSError: the table cannot be written; one of an earlier run stays as it was.
        """
        self._file.close()
        done = ((file, self.outcomes.get(place)) for place, file in self.slices.items())
        table = to_csv(SUMMARY_COLUMNS, ({"path": file, **outcome.row} for file, outcome in done if outcome))
        # A name that is not valid Unicode must not cost the table.
        write_atomically(self._summary, table.encode("utf-8", "backslashreplace"))

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
                file = self.slices.get(outcome.place)
                if file is not None and outcome.holds(file, self.out):
                    yield outcome


def result_paths(out: Path, place: str) -> tuple[Path, Path]:
    """The files of one slice's mask and overlay."""
    return out / f"{place}_mask.png", out / f"{place}_overlay.png"


def identify_file(file: Path) -> list:
    """[path, size, time of change], which tell a file from a later one of the same name."""
    return [str(file.resolve()), *_state(file)]


def identify_results(out: Path, place: str) -> list:
    """[size, time of change] of a slice's mask and overlay; an OSError where one is missing."""
    return [_state(path) for path in result_paths(out, place)]


def _state(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]
