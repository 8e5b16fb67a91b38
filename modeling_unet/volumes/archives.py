"""A ZIP or tar that a stranger sent: `members(path)` → its files, with safe names and bytes that stay within bounds.

What the archive says about itself is checked before anything is unpacked, and no file gets more memory than its entry
announces. Nothing is written to disk, except that a tar that gzip packed is unpacked into a file without a name, which
is gone when it is closed. Messages count entries instead of naming them: names of files are often names of persons.
"""

import errno
import io
import re
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import IO
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

from ..image_processing_unet import MIB, printable


MAX_ENTRIES = 10_000  # a study with all of its series
MAX_TOTAL_BYTES = 512 * MIB
# Compressed scans and pictures have a half to a tenth of their size, a black mask a hundredth, a ZIP bomb a thousandth.
MAX_RATIO = 200

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
ZIP_MAGICS = (b"PK\3\4", b"PK\5\6")
ENCRYPTED = 0x1
DIRECTORY_BYTES_PER_ENTRY = 1024
TOO_MANY_OPEN = (errno.EMFILE, errno.ENFILE)  # files of the process, or of the system
GZIP_MAGIC, GZIP = b"\x1f\x8b", 16 + zlib.MAX_WBITS
CHUNK_BYTES = 64 * 1024
MAX_GZIP_PARTS = 10_000
BLOCK_BYTES = 512  # of a tar: its headers and files begin at multiples of it
TAR_BYTES_PER_ENTRY = 4 * BLOCK_BYTES
MAX_NAME_BYTES = 64 * 1024  # of an entry, and of what else its header says

TOO_MANY_ENTRIES = "it holds {count} entries; at most {most} are accepted."
NO_FILE = "{entry} is a link or a device; allowed are files and folders."


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
    _unpack: Callable[[int], bytes] = field(repr=False)

    def read(self, size: int | None = None) -> bytes:
        """The file's bytes, or its first `size`; never more than `self.size`.

        Raises:
            ArchiveError: the file is damaged, or is wanted whole and is an archive itself.
        """
        whole, size = size is None, self.size if size is None else min(size, self.size)
        try:
            content = self._unpack(size)
        # zipfile raises whatever it stumbles over in a damaged file.
        except Exception as error:
            raise ArchiveError("A file in the archive is damaged and cannot be unpacked.") from error
        if len(content) < size:
            raise ArchiveError("A file in the archive is truncated.")
        if whole and starts_archive(content):
            raise ArchiveError("A file in the archive is an archive itself; unpack it first.")
        return content


def display_name(path: Path) -> str:
    """The name of a file for a message, without line breaks and control codes, which may be in it on purpose."""
    return printable(path.name)


def is_archive(path: Path) -> bool:
    """Whether a file starts as a ZIP or a tar does."""
    with path.open("rb") as file:
        return starts_archive(file.read(CHUNK_BYTES))


def starts_archive(head: bytes) -> bool:
    """The same of the first `CHUNK_BYTES` of a file."""
    return head.startswith(ZIP_MAGICS) or _starts_tar(head)


def _starts_tar(head: bytes) -> bool:
    """Whether a file starts with the header of an entry, whose sum is right; it may be packed by gzip."""
    try:
        if head.startswith(GZIP_MAGIC):
            head = zlib.decompressobj(GZIP).decompress(head[:CHUNK_BYTES], BLOCK_BYTES)
        tarfile.TarInfo.frombuf(head[:BLOCK_BYTES], "utf-8", "replace")
    except (tarfile.HeaderError, zlib.error):
        return False
    return True


def _is_tar(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _starts_tar(file.read(CHUNK_BYTES))
    except OSError:  # which opening it as a ZIP says
        return False


def members(
    path: Path,
    *,
    max_entries: int = MAX_ENTRIES,
    max_total_bytes: int = MAX_TOTAL_BYTES,
    max_ratio: float = MAX_RATIO,
) -> list[Member]:
    """List the files of a ZIP or tar in the order in which it holds them; folders and hidden files are left out.

    Args:
        path: the archive; it stays open as long as any of its members is kept.
        max_entries: most entries, folders included.
        max_total_bytes: most bytes of all files together, unpacked.
        max_ratio: most times that the archive may grow when it is unpacked.

    Raises:
        ArchiveError: no archive, encrypted, over a limit, empty, with names that lead out of the archive or occur
            twice, with links, or a ZIP packed by another method than deflate.
    """
    path = Path(path)
    try:
        if _is_tar(path):
            limit = int(min(max_total_bytes, max_ratio * path.stat().st_size)) + max_entries * TAR_BYTES_PER_ENTRY
            found = [*_in_tar(_TarFile(path, limit), max_entries)]
        else:
            found = [*_in_zip(_open_zip(path, max_entries), max_entries)]
    except _UnnamedError as error:
        raise ArchiveError(f"{display_name(path)}: {error}") from None
    _check_sizes(path, found, max_total_bytes, max_ratio)
    _check_unique(path, found)
    return found


class _UnnamedError(ArchiveError):
    """What is wrong with an archive, without its name."""


def _in_zip(archive: ZipFile, max_entries: int) -> Iterator[Member]:
    entries = archive.infolist()
    if len(entries) > max_entries:
        raise _UnnamedError(TOO_MANY_ENTRIES.format(count=f"{len(entries):,}", most=f"{max_entries:,}"))
    for number, info in enumerate(entries, start=1):
        name = _checked_name(info.orig_filename, f"entry {number}")
        _check_zip_entry(info, f"entry {number}")
        if not (info.is_dir() or _is_hidden(name)):
            yield Member(name, info.file_size, partial(_unpack_zip, archive, info))


def _unpack_zip(archive: ZipFile, info: ZipInfo, size: int) -> bytes:
    with archive.open(info) as file:
        return file.read(size)


class _TarFile:
    """The tar in a file, open as long as this is kept; what gzip packed is unpacked, up to `limit` bytes."""

    def __init__(self, path: Path, limit: int):
        self._lock = Lock()
        self._file: IO[bytes] = path.open("rb")
        if self._file.read(len(GZIP_MAGIC)) == GZIP_MAGIC:
            with self._file as packed:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this
                self._fill(packed, limit)

    def __del__(self):
        self._file.close()

    def _fill(self, packed: IO[bytes], limit: int):
        packed.seek(0)
        try:
            for piece in _unpacked(packed):
                if self._file.tell() + len(piece) > limit:
                    raise _UnnamedError(f"it takes over {limit // MIB:,} MiB unpacked, which is more than is accepted.")
                self._file.write(piece)
        except zlib.error as error:
            raise _UnnamedError("gzip packed the file, and it is damaged.") from error

    def unpack(self, start: int, size: int) -> bytes:
        """`size` bytes from `start` on, for one thread after another."""
        with self._lock:
            self._file.seek(start)
            return self._file.read(size)

    # What tarfile needs, which reads what a header says as one piece.

    def seek(self, place: int):
        self._file.seek(place)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int) -> bytes:
        """No piece larger than `MAX_NAME_BYTES`."""
        if size > MAX_NAME_BYTES:
            raise _UnnamedError("the header of an entry is too long.")
        return self._file.read(size)


def _in_tar(file: _TarFile, max_entries: int) -> Iterator[Member]:
    file.seek(0)
    try:
        archive = tarfile.TarFile(fileobj=file, errors="replace")  # type: ignore[arg-type]
        for number, info in enumerate(archive, start=1):
            if number > max_entries:
                raise _UnnamedError(TOO_MANY_ENTRIES.format(count=f"over {max_entries:,}", most=f"{max_entries:,}"))
            name = _checked_name(info.name, f"entry {number}")
            if not (info.isreg() or info.isdir()) or info.issparse():
                raise _UnnamedError(NO_FILE.format(entry=f"entry {number}"))
            if info.isreg() and not _is_hidden(name):
                yield Member(name, info.size, partial(file.unpack, info.offset_data))
        is_whole = not file.unpack(archive.offset, BLOCK_BYTES).strip(b"\0")
    except ArchiveError:
        raise
    # tarfile raises whatever it stumbles over in a damaged file.
    except Exception as error:
        raise _UnnamedError("the file is not a tar that can be read.") from error
    if not is_whole:
        raise _UnnamedError("the tar is damaged behind some of its files.")


def _unpacked(packed: IO[bytes]) -> Iterator[bytes]:
    """What gzip packed, in pieces of at most `CHUNK_BYTES`."""
    chunk, parts = packed.read(CHUNK_BYTES), 0
    while chunk:
        decompressor, parts = zlib.decompressobj(GZIP), parts + 1
        if parts > MAX_GZIP_PARTS:
            raise _UnnamedError(f"gzip packed it in more than {MAX_GZIP_PARTS:,} parts; pack it as one.")
        while chunk and not decompressor.eof:
            yield decompressor.decompress(chunk, CHUNK_BYTES)
            chunk = decompressor.unconsumed_tail or decompressor.unused_data or packed.read(CHUNK_BYTES)
        if not decompressor.eof:
            raise _UnnamedError("gzip packed the file, and it is truncated.")
        chunk = chunk.lstrip(b"\0") or packed.read(CHUNK_BYTES)  # tapes are filled up with zeros


class _DirectoryGuard(io.FileIO):
    """A file that hands out no piece larger than `limit`: zipfile reads the table of contents as one piece."""

    limit: int

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > self.limit:
            raise ArchiveError("its table of contents is too long.")
        return super().read(size)


def _open_zip(path: Path, max_entries: int) -> ZipFile:
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


def _checked_name(name: str, entry: str) -> str:
    """The safe name of an entry, with forward slashes; `entry` is what to call it in a message."""
    name = name.replace("\\", "/")
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        raise _UnnamedError(f"the name of {entry} holds control characters.")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
        raise _UnnamedError(f"the name of {entry} leads out of the archive; allowed are relative names without '..'.")
    return str(PurePosixPath(name))


def _check_zip_entry(info: ZipInfo, entry: str):
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _UnnamedError(NO_FILE.format(entry=entry))
    if info.flag_bits & ENCRYPTED:
        raise _UnnamedError(f"{entry} is encrypted; pack the files without a password.")
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise _UnnamedError(
            f"{entry} is packed by method {info.compress_type}; allowed are 0 (stored) and 8 (deflate)."
        )


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
