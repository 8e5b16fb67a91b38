"""ZIPs of strangers: what is let in, what is refused in one sentence, and how much memory a lie can take."""

import io
import os
import stat
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from modeling_unet.volumes.archives import MIB, ArchiveError, is_archive, members


RANDOM = bytes(range(256)) * 8


def write(path: Path, entries: dict[str, bytes] | list[tuple], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A ZIP of (name or ZipInfo, bytes)."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items() if isinstance(entries, dict) else entries:
            archive.writestr(name, content, method)
    return path


def refused(path: Path, said: str, **limits):
    with pytest.raises(ArchiveError, match=said) as refusal:
        members(path, **limits)
    message = str(refusal.value)
    assert message.startswith(f"{path.name}: ") and message.endswith(".") and str(path.parent) not in message


def test_files_are_listed_and_read(tmp_path):
    path = write(tmp_path / "a.zip", {"b/2.png": b"two", "b/": b"", "1.png": RANDOM, "empty": b""})
    found = members(path)
    assert [(member.name, member.size) for member in found] == [("b/2.png", 3), ("1.png", len(RANDOM)), ("empty", 0)]
    assert [member.read() for member in found] == [b"two", RANDOM, b""]
    assert [member.read(2) for member in found] == [b"tw", RANDOM[:2], b""]
    assert is_archive(path)


def test_stored_files_are_read(tmp_path):
    (member,) = members(write(tmp_path / "a.zip", {"1.png": RANDOM}, zipfile.ZIP_STORED))
    assert member.read() == RANDOM


def test_names_get_forward_slashes_and_lose_what_means_nothing(tmp_path):
    path = write(tmp_path / "a.zip", {"a\\b\\1.png": b"1", "./c//2.png": b"2", "Größe.png": b"3"})
    assert [member.name for member in members(path)] == ["a/b/1.png", "c/2.png", "Größe.png"]


def test_what_systems_leave_behind_is_passed_over(tmp_path):
    entries = {"__MACOSX/._1.png": b"x", "a/.DS_Store": b"x", ".hidden/1.png": b"x", "a/1.png": b"1"}
    assert [member.name for member in members(write(tmp_path / "a.zip", entries))] == ["a/1.png"]


@pytest.mark.parametrize(
    "name", ["../1.png", "a/../../1.png", "a\\..\\1.png", "/etc/1.png", "\\\\host\\1.png", "C:1.png"]
)
def test_names_that_lead_out_are_refused(tmp_path, name):
    refused(write(tmp_path / "a.zip", {"ok.png": b"1", name: b"2"}), "name of entry 2 leads out of the archive")


def test_control_characters_in_names_are_refused(tmp_path):
    path = write(tmp_path / "a.zip", {"a_b.png": b"1"})
    path.write_bytes(path.read_bytes().replace(b"a_b.png", b"a\0b.png"))
    refused(path, "name of entry 1 holds control characters")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(tmp_path, kind):
    info = zipfile.ZipInfo("link.png")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    refused(write(tmp_path / "a.zip", [(info, b"/etc/passwd")]), "entry 1 is a link or a device")


def test_encrypted_and_exotic_entries_are_refused(tmp_path):
    path = write(tmp_path / "a.zip", {"1.png": RANDOM})
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\1\2")
    content[directory + 8] |= 1
    path.write_bytes(content)
    refused(path, "entry 1 is encrypted")
    refused(write(tmp_path / "b.zip", {"1.png": RANDOM}, zipfile.ZIP_BZIP2), r"by method 12; allowed are 0 \(stored\)")


def test_names_that_occur_twice_are_refused_also_in_other_case(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        path = write(tmp_path / "a.zip", [("1.png", b"1"), ("1.png", b"2")])
    refused(path, "1 of its files have a name that another one has")
    refused(write(tmp_path / "b.zip", {"a/1.png": b"1", "A/1.PNG": b"2"}), "names must differ")


def test_zip_in_a_zip_is_refused_and_the_rest_can_be_read(tmp_path):
    inner = write(tmp_path / "inner.zip", {"1.png": b"1"}).read_bytes()
    nested, plain = members(write(tmp_path / "a.zip", {"scan.png": inner, "1.png": b"1"}))
    with pytest.raises(ArchiveError, match="is a ZIP itself; unpack it first"):
        nested.read()
    assert nested.read(4) == b"PK\3\4", "enough to tell what it is"
    assert plain.read() == b"1"


def test_limits_are_checked_before_anything_is_unpacked(tmp_path):
    path = write(tmp_path / "a.zip", {f"{number}.png": os.urandom(1000) for number in range(5)})
    assert len(members(path, max_entries=5, max_total_bytes=5000)) == 5
    refused(path, "holds 5 entries; at most 4", max_entries=4)
    refused(path, "at most 0 MiB are accepted", max_total_bytes=4999)
    bomb = write(tmp_path / "b.zip", {"1.png": b"\0" * MIB})
    refused(bomb, r"grows \d+ times when unpacked; at most 200")
    assert len(members(bomb, max_ratio=2000)) == 1


def test_empty_damaged_and_missing_archives_are_refused(tmp_path):
    refused(write(tmp_path / "a.zip", {"folder/": b""}), "holds no files")
    for content in (b"", b"PK\3\4", b"no zip at all" * 10, write(tmp_path / "b.zip", {"1": RANDOM}).read_bytes()[:-30]):
        path = tmp_path / "c.zip"
        path.write_bytes(content)
        refused(path, "not a ZIP that can be read")
    refused(tmp_path / "missing.zip", "no such file")


def test_names_cannot_break_a_message_into_lines(tmp_path):
    path = tmp_path / "a\n\x1b[31mb.zip"
    path.write_bytes(b"no zip")
    with pytest.raises(ArchiveError, match=r"^a�{2}\[31mb\.zip: the file"):
        members(path)


def test_damaged_file_is_refused_when_it_is_read(tmp_path):
    path = write(tmp_path / "a.zip", {"1.png": RANDOM}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    (member,) = members(path)
    with pytest.raises(ArchiveError, match="damaged") as refusal:
        member.read()
    assert str(tmp_path) not in str(refusal.value)


def test_a_file_gets_no_more_memory_than_it_announced(tmp_path):
    """64 MiB of zeros that say they are 100 bytes."""
    path = write(tmp_path / "a.zip", {"1.png": b"\0" * (64 * MIB)})
    content = path.read_bytes()
    for signature, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        start = content.index(signature) + offset
        content = content[:start] + struct.pack("<I", 100) + content[start + 4 :]
    path.write_bytes(content)
    (member,) = members(path)
    tracemalloc.start()
    with pytest.raises(ArchiveError, match="damaged"):
        member.read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MIB


def test_long_table_of_contents_is_refused_before_it_is_read(tmp_path):
    """Also where the count of entries, which nobody needs to read the table, is a lie."""
    path = write(tmp_path / "a.zip", {f"{number:0200}": b"" for number in range(2000)}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    end = content.rindex(b"PK\5\6")
    content[end + 8 : end + 12] = struct.pack("<HH", 1, 1)
    path.write_bytes(content)
    refused(path, "table of contents is too long; at most 100 entries", max_entries=100)


def test_entries_that_share_their_data_are_counted_each(tmp_path):
    """Many entries over one piece of data: each alone grows 90 times, together they grow without end."""
    content = io.BytesIO()
    piece = os.urandom(MIB // 90) + b"\0" * MIB
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", piece)
        first = archive.infolist()[0]
        for number in range(1, 200):
            info = zipfile.ZipInfo(f"{number}.png")
            for name in ("header_offset", "compress_size", "file_size", "CRC", "compress_type"):
                setattr(info, name, getattr(first, name))
            archive.filelist.append(info)
        archive._didModify = True
    path = tmp_path / "a.zip"
    path.write_bytes(content.getvalue())
    refused(path, "grows .* times when unpacked")
