"""A fixed sample of hostile files: every door lets each in or refuses it in one sentence, and soon."""

import io
import time
from pathlib import Path

import numpy as np
import pytest
from hostile import (
    AMPLIFIERS,
    EMPTY_SCAN,
    EXIF_MARK,
    KINDS,
    MIB,
    claiming_dicoms,
    compressed_claims,
    dicom_of_scans,
    dicoms_of_items,
    exif,
    gif_comments,
    hostile_file,
    jpeg,
    knock,
    mutated,
    png_chunk,
    png_of,
    raw_profile,
    segment,
    table_of_pictures,
    tiff,
    tiff_of_nested_tags,
    tiff_pages,
    write_file,
)

from benchmarks.hostile import MAX_MIB, MAX_SECONDS, try_file
from modeling_unet import InvalidImageError, read_image
from modeling_unet.image_processing_unet import (
    MAX_EXIF_BYTES,
    MAX_FILE_BYTES,
    MAX_HEADER_READS,
    MAX_PAGES,
    MAX_SCANS,
)
from modeling_unet.volumes import VolumeError, read_volume


# Two of every kind. Bombs take seconds: all of them are tried by `python -m benchmarks.hostile`.
BOMBS = ("picture_bomb", "nifti_bomb", "dicom_bomb", "zip_bomb", "many_frames")
SAMPLE = [seed for seed in range(2 * len(KINDS)) if KINDS[seed % len(KINDS)].__name__ not in BOMBS]
MUTATIONS = 40


@pytest.mark.filterwarnings("ignore")  # Pillow's, about odd files
@pytest.mark.parametrize("seed", SAMPLE, ids=lambda seed: f"{seed}-{KINDS[seed % len(KINDS)].__name__}")
def test_hostile_file_is_let_in_or_refused_in_one_sentence(tmp_path: Path, seed: int):
    knock(write_file(tmp_path, hostile_file(seed)))


@pytest.mark.filterwarnings("ignore")
def test_mutated_files_are_let_in_or_refused_in_one_sentence(tmp_path: Path):
    for seed in range(MUTATIONS):
        knock(write_file(tmp_path, mutated(np.random.default_rng(seed))))


def test_hostile_files_repeat():
    for seed in SAMPLE[:8]:
        assert hostile_file(seed) == hostile_file(seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", AMPLIFIERS)
def test_files_that_cost_minutes_or_gigabytes_are_answered_soon(tmp_path: Path, name: str):
    result = try_file(write_file(tmp_path, (name, AMPLIFIERS[name]())))
    assert not result.problem, f"{result}; allowed are {MAX_SECONDS} s and {MAX_MIB} MiB"


# ----------------------------------------------------------------------------------------- what is counted, and allowed


PIECES = "is in too many pieces or holds too much beside its pixels; save the slice as a plain PNG"
COLOUR_PROFILE = segment(0xE2, b"ICC_PROFILE\0\x01\x01" + bytes(60_000))
PICTURES_OF_TOO_MUCH = {
    "scans": (jpeg(after=EMPTY_SCAN * MAX_SCANS, progressive=True), r"holds 1\d\d scans; at most 100 are accepted"),
    "markers": (jpeg(segment(0xE5, b"") * MAX_HEADER_READS), PIECES),
    "a long header": (jpeg(COLOUR_PROFILE * 40), PIECES),
    "EXIF in two segments": (jpeg(segment(0xE1, EXIF_MARK + bytes(60_000)) * 2), PIECES),
    "long EXIF": (png_of(png_chunk(b"eXIf", exif(1, MAX_EXIF_BYTES + 2))), r"EXIF data take .* at most 65,536"),
    "long EXIF as text": (png_of(raw_profile(exif(1, MAX_EXIF_BYTES))), r"EXIF data take .* at most 65,536"),
    "chunks after the pixels": (png_of(*[png_chunk(b"prVt", b"")] * MAX_HEADER_READS, after=True), PIECES),
    "comments": (gif_comments(MAX_HEADER_READS // 2), PIECES),
    "pages": (tiff_pages(MAX_PAGES + 1), "holds over 500 pages; at most 500 are accepted"),
    "numbers": (tiff((282, 5, MIB // 8, None), (283, 5, MIB // 8, None), data=bytes(MIB)), PIECES),
}
PICTURES_OF_MUCH = {
    "scans": jpeg(after=EMPTY_SCAN * (MAX_SCANS - 20), progressive=True),
    "a colour profile of a megabyte": jpeg(COLOUR_PROFILE * 16),
    "EXIF data of a full segment": jpeg(segment(0xE1, EXIF_MARK + exif(100, 60_000))),
    "pixels in small pieces": png_of(*[png_chunk(b"IDAT", b"")] * 5000),
    "tags within tags": tiff_of_nested_tags(1, 8),
}


@pytest.mark.parametrize(("content", "said"), PICTURES_OF_TOO_MUCH.values(), ids=PICTURES_OF_TOO_MUCH)
def test_pictures_that_hold_too_much_are_refused_by_name(tmp_path: Path, content: bytes, said: str):
    with pytest.raises(InvalidImageError, match=rf"^slice\.png: .*{said}.*\.$"):
        read_image(write_file(tmp_path, ("slice.png", content)))


@pytest.mark.parametrize("content", PICTURES_OF_MUCH.values(), ids=PICTURES_OF_MUCH)
def test_pictures_that_hold_much_are_read(content: bytes):
    assert min(read_image(io.BytesIO(content)).shape[:2]) >= 16


def test_the_table_of_the_pictures_in_a_jpeg_is_not_read():
    started = time.process_time()
    assert read_image(io.BytesIO(jpeg(table_of_pictures(5000, 60_000)))).shape == (40, 40)
    assert time.process_time() - started < MAX_SECONDS


def test_pictures_are_turned_upright_without_their_other_tags_being_written_anew():
    picture = jpeg(segment(0xE1, EXIF_MARK + exif(5000, 65_000)[:65_500]))
    started = time.process_time()
    read_image(io.BytesIO(picture))
    assert time.process_time() - started < MAX_SECONDS


def test_files_that_no_picture_needs_are_refused_before_they_are_read_to_their_end(tmp_path: Path):
    path = tmp_path / "sparse.png"
    with path.open("wb") as file:
        file.truncate(4 * MAX_FILE_BYTES)
    with pytest.raises(InvalidImageError, match=r"^sparse\.png: the file has over 128 MiB"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (claiming_dicoms(2, 2048), "claims 2,048 slices and is too short for them"),
        (compressed_claims(5, 2048), "claim 10,240 slices together; at most 10,000 are accepted"),
        (dicoms_of_items(5, 49_000), "have too many items in their tags"),
        (dicom_of_scans(MAX_SCANS), "its pixels cannot be decoded"),
    ],
    ids=["too short", "too many slices", "too many items", "too many scans"],
)
def test_scans_that_claim_too_much_are_refused(tmp_path: Path, content: bytes, said: str):
    with pytest.raises(VolumeError, match=said):
        read_volume(write_file(tmp_path, ("scan.zip", content)))
