"""Archives of strangers: what is let in, what is refused in one sentence, and how much memory a lie can take."""

import gzip
import io
import os
import stat
import struct
import tarfile
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
    with pytest.raises(ArchiveError, match="is an archive itself; unpack it first"):
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


# ------------------------------------------------------------------------------------------------------------------ tar


def write_tar(path: Path, entries: dict[str, bytes] | list[tuple], form: int = tarfile.PAX_FORMAT) -> Path:
    """A tar of (name or TarInfo, bytes), packed if its name says so."""
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w", format=form) as archive:
        for name, content in entries.items() if isinstance(entries, dict) else entries:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def entry(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


LONG = "/".join(["a" * 90] * 4) + "/1.png"


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "without_a_suffix_gz"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_files_of_a_tar_are_listed_and_read_in_any_order(tmp_path, name, form):
    entries = [(entry("./b", tarfile.DIRTYPE), b""), ("./b/2.png", b"two"), ("Größe.png", RANDOM), ("empty", b"")]
    entries += [("b/.DS_Store", b"x")] + [(LONG, b"long")] * (form != tarfile.USTAR_FORMAT)
    path = write_tar(tmp_path / name, entries, form)
    found = {member.name: member for member in members(path)}
    assert [*found] == ["b/2.png", "Größe.png", "empty", LONG][: None if form != tarfile.USTAR_FORMAT else 3]
    assert found["Größe.png"].read() == RANDOM and found["b/2.png"].read() == b"two" and found["empty"].read() == b""
    assert found["Größe.png"].read(2) == RANDOM[:2] and found["Größe.png"].size == len(RANDOM)
    assert is_archive(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 10_240, gzip.compress(b"no tar"), b"\x1f\x8bno gzip", RANDOM],
    ids=["empty", "zeros", "another file in gzip", "no gzip", "noise"],
)
def test_what_is_no_tar_is_no_archive(tmp_path, content):
    (tmp_path / "a.tar.gz").write_bytes(content)
    assert not is_archive(tmp_path / "a.tar.gz")


@pytest.mark.parametrize("name", ["../1.png", "a/../../1.png", "/etc/1.png", "C:1.png"])
def test_names_in_a_tar_that_lead_out_are_refused(tmp_path, name):
    refused(write_tar(tmp_path / "a.tar", {"ok.png": b"1", name: b"2"}), "name of entry 2 leads out of the archive")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    path = write_tar(tmp_path / "a.tar", [("1.png", b"1"), (entry("link.png", kind, "1.png"), b"")])
    refused(path, "entry 2 is a link or a device")


def test_names_that_occur_twice_in_a_tar_are_refused(tmp_path):
    refused(write_tar(tmp_path / "a.tar", {"a/1.png": b"1", "A/1.PNG": b"2"}), "names must differ")


@pytest.mark.parametrize("name", ["a.tar", "a.tgz"])
def test_limits_of_a_tar(tmp_path, name):
    path = write_tar(tmp_path / name, {f"{number}.png": os.urandom(1000) for number in range(5)})
    assert len(members(path, max_entries=5, max_total_bytes=5000)) == 5
    refused(path, "holds over 4 entries; at most 4", max_entries=4)
    refused(path, "at most 0 MiB are accepted", max_total_bytes=4999)


def test_a_bomb_is_refused_before_all_of_it_is_unpacked(tmp_path):
    path = write_tar(tmp_path / "a.tar.gz", {"1.png": b"\0" * (40 * MIB)})
    refused(path, r"takes over \d+ MiB unpacked, which is more than is accepted|grows \d+ times when unpacked")
    refused(path, "takes over 1 MiB unpacked", max_total_bytes=MIB, max_entries=1)


def test_a_header_that_is_too_long_is_refused_before_it_is_read(tmp_path):
    info = tarfile.TarInfo("1.png")
    info.pax_headers = {"comment": "x" * MIB}
    refused(write_tar(tmp_path / "a.tar", [(info, b"1")]), "the header of an entry is too long")


def test_damaged_tars_are_refused(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"1.png": RANDOM, "2.png": RANDOM})
    content = path.read_bytes()
    second = content.index(b"2.png")
    path.write_bytes(content[:second] + b"X" + content[second + 1 :])
    refused(path, "the tar is damaged behind some of its files")
    path.write_bytes(content[: second + 700])
    refused(path, "the file is not a tar that can be read")
    content = write_tar(path, {"1.png": os.urandom(9000)}).read_bytes()
    path.write_bytes(gzip.compress(content)[:-500])
    refused(path, "gzip packed the file, and it is truncated")
    path.write_bytes(gzip.compress(content) + b"no gzip")
    refused(path, "gzip packed the file, and it is damaged")


def test_an_archive_in_a_tar_is_refused(tmp_path):
    inner = write_tar(tmp_path / "inner.tgz", {"1.png": b"1"}).read_bytes()
    (nested,) = members(write_tar(tmp_path / "a.tar", {"scan": inner}))
    with pytest.raises(ArchiveError, match="is an archive itself; unpack it first"):
        nested.read()


def test_many_parts_of_gzip_are_read_as_one(tmp_path):
    content = write_tar(tmp_path / "a.tar", {"1.png": RANDOM}).read_bytes()
    path = tmp_path / "a.tar.gz"
    path.write_bytes(
        b"".join(gzip.compress(content[start : start + 700]) for start in range(0, len(content), 700)) + bytes(512)
    )
    (member,) = members(path)
    assert member.read() == RANDOM
    path.write_bytes(gzip.compress(content) + gzip.compress(b"") * 10_001)
    refused(path, "gzip packed it in more than 10,000 parts")
