"""A ZIP that a stranger sent: `members(path)` → its files, with safe names and bytes that stay within bounds.

Nothing is written to disk. What the archive says about itself is checked before anything is unpacked, and no file gets
more memory than its entry announces. Messages count entries instead of naming them: names of files are often names of
persons.
"""

import errno
import io
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from ..image_processing_unet import MIB, printable


MAX_ENTRIES = 10_000  # a study with all of its series
MAX_TOTAL_BYTES = 512 * MIB
# Compressed scans and pictures have a half to a tenth of their size, a black mask a hundredth, a ZIP bomb a thousandth.
MAX_RATIO = 200

ZIP_MAGICS = (b"PK\3\4", b"PK\5\6")
ENCRYPTED = 0x1
DIRECTORY_BYTES_PER_ENTRY = 1024
TOO_MANY_OPEN = (errno.EMFILE, errno.ENFILE)  # files of the process, or of the system


class ArchiveError(ValueError):
    """An archive that cannot be used; the message is one sentence that names it and says what is allowed."""


@dataclass(frozen=True)
class Member:
    """One file of an archive.

    Attributes:
        name: its place in the archive, such as "scans/1.png": relative, forward slashes, no "..".
        size: number of its bytes.
    """

    name: str
    size: int
    _archive: ZipFile = field(repr=False)
    _info: ZipInfo = field(repr=False)

    def read(self, size: int | None = None) -> bytes:
        """The file's bytes, or its first `size`; never more than `self.size`.

        Raises:
            ArchiveError: the file is damaged, or is wanted whole and is a ZIP itself.
        """
        whole, size = size is None, self.size if size is None else min(size, self.size)
        try:
            with self._archive.open(self._info) as file:
                content = file.read(size)
        # zipfile raises whatever it stumbles over in a damaged file.
        except Exception as error:
            raise ArchiveError("A file in the archive is damaged and cannot be unpacked.") from error
        if len(content) < size:
            raise ArchiveError("A file in the archive is truncated.")
        if whole and content.startswith(ZIP_MAGICS):
            raise ArchiveError("A file in the archive is a ZIP itself; unpack it first.")
        return content


def display_name(path: Path) -> str:
    """The name of a file for a message, without line breaks and control codes, which may be in it on purpose."""
    return printable(path.name)


def is_archive(path: Path) -> bool:
    """Whether a file starts as a ZIP does."""
    with path.open("rb") as file:
        return file.read(4) in ZIP_MAGICS


def members(
    path: Path,
    *,
    max_entries: int = MAX_ENTRIES,
    max_total_bytes: int = MAX_TOTAL_BYTES,
    max_ratio: float = MAX_RATIO,
) -> list[Member]:
    """List the files of a ZIP in the order in which it holds them; folders and hidden files are left out.

    Args:
        path: the archive; it stays open as long as any of its members is kept.
        max_entries: most entries, folders included.
        max_total_bytes: most bytes of all files together, unpacked.
        max_ratio: most times that the archive may grow when it is unpacked.

    Raises:
        ArchiveError: not a ZIP, encrypted, over a limit, empty, with names that lead out of the archive or occur twice,
            with links, or packed by another method than deflate.
    """
    path = Path(path)
    archive = _open(path, max_entries)
    entries = archive.infolist()
    if len(entries) > max_entries:
        raise ArchiveError(
            f"{display_name(path)}: it holds {len(entries):,} entries; at most {max_entries:,} are accepted."
        )
    try:
        found = [
            Member(name, info.file_size, archive, info)
            for number, info in enumerate(entries, start=1)
            if (name := _checked_name(info, f"entry {number}")) and not _is_hidden(name)
        ]
    except ArchiveError as error:
        raise ArchiveError(f"{display_name(path)}: {error}") from None
    _check_sizes(path, found, max_total_bytes, max_ratio)
    _check_unique(path, found)
    return found


class _DirectoryGuard(io.FileIO):
    """A file that hands out no piece larger than `limit`: zipfile reads the table of contents as one piece."""

    limit: int

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > self.limit:
            raise ArchiveError("its table of contents is too long.")
        return super().read(size)


def _open(path: Path, max_entries: int) -> ZipFile:
    try:
        # Hundreds of thousands of entries take gigabytes as soon as they are listed.
        with _DirectoryGuard(path) as guard:
            guard.limit = max_entries * DIRECTORY_BYTES_PER_ENTRY
            ZipFile(guard).close()
        return ZipFile(path)
    except ArchiveError as error:
        problem = str(error).rstrip(".")
        raise ArchiveError(f"{display_name(path)}: {problem}; at most {max_entries:,} entries are accepted.") from None
    except FileNotFoundError as error:
        raise ArchiveError(f"{display_name(path)}: there is no such file.") from error
    # zipfile raises whatever it stumbles over in a damaged file.
    except Exception as error:
        if getattr(error, "errno", None) in TOO_MANY_OPEN:  # which says nothing about this one
            raise
        raise ArchiveError(f"{display_name(path)}: the file is not a ZIP that can be read.") from error


def _checked_name(info: ZipInfo, entry: str) -> str | None:
    """The safe name of an entry, None for a folder; `entry` is what to call it in a message."""
    name = info.orig_filename.replace("\\", "/")
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise ArchiveError(f"the name of {entry} holds control characters.")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
        raise ArchiveError(f"the name of {entry} leads out of the archive; allowed are relative names without '..'.")
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ArchiveError(f"{entry} is a link or a device; allowed are files and folders.")
    if info.flag_bits & ENCRYPTED:
        raise ArchiveError(f"{entry} is encrypted; pack the files without a password.")
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise ArchiveError(f"{entry} is packed by method {info.compress_type}; allowed are 0 (stored) and 8 (deflate).")
    return None if name.endswith("/") else str(PurePosixPath(name))


def _is_hidden(name: str) -> bool:
    """What systems leave behind: `.DS_Store`, and the doubles that macOS puts in `__MACOSX`."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _check_sizes(path: Path, found: list[Member], max_total_bytes: int, max_ratio: float):
    if not found:
        raise ArchiveError(f"{display_name(path)}: the archive holds no files.")
    total = sum(member.size for member in found)
    if total > max_total_bytes:
        raise ArchiveError(
            f"{display_name(path)}: its files take {total / MIB:,.0f} MiB unpacked; at most "
            f"{max_total_bytes / MIB:,.0f} MiB are accepted."
        )
    # The size on disk, because the packed sizes in the entries may be false, or count the same data many times.
    ratio = total / path.stat().st_size
    if ratio > max_ratio:
        raise ArchiveError(
            f"{display_name(path)}: it grows {ratio:,.0f} times when unpacked; at most {max_ratio:g} is accepted."
        )


def _check_unique(path: Path, found: list[Member]):
    # Without case, because many file systems take "A.png" and "a.png" for the same file.
    names = [member.name.casefold() for member in found]
    twice = len(names) - len(set(names))
    if twice:
        raise ArchiveError(
            f"{display_name(path)}: {twice} of its files have a name that another one has; names must differ."
        )
