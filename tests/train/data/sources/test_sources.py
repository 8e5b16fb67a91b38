import hashlib
import io
import json
import logging
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from mat import mat_bytes, write_zip
from slices import draw_slice, write_data_set
from surroundings import ROOT

from modeling_unet import read_image, read_mask
from train.data.raw import DataError, Reading, as_file, encode_png, natural_order
from train.data.sources import figshare, hub, open_source


EXAMPLES = ROOT / "examples"


@pytest.fixture
def folder(tmp_path):
    return write_data_set(tmp_path / "data")


def problems(source) -> dict[str, tuple[str, str]]:
    return {raw.slice: (raw.problem_kind, raw.problem) for raw in open_source(source) if raw.problem}


# Any source


def test_what_is_not_there_is_named():
    with pytest.raises(DataError, match=r"/nowhere/at/all is not there; give a folder, a zip .* owner/name"):
        open_source("/nowhere/at/all")


def test_a_folder_of_something_else_is_told_what_is_expected(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(
        DataError, match=r"no slices in a known layout: images/ and masks/ .*metadata\.csv.*Parquet files\.$"
    ):
        open_source(tmp_path)
    (tmp_path / "p1").mkdir()
    (tmp_path / "p1" / "1.DCM").touch()
    with pytest.raises(
        DataError, match=r"Parquet files\. Volumes as \.dcm are not read here: save them, and their masks"
    ):
        open_source(tmp_path)


def test_natural_order_counts():
    names = ["b", "10", "a-10", "2", "a-2", "1-b", "01", "1", "a"]
    assert sorted(names, key=natural_order) == ["01", "1", "1-b", "2", "10", "a", "a-2", "a-10", "b"]


def test_pictures_open_as_path_or_as_a_file_with_a_name(folder):
    assert as_file({"path": "a/1.png", "bytes": None}) == Path("a/1.png")
    file = as_file({"path": "1.png", "bytes": b"no picture"})
    assert file.name == "1.png" and file.read() == b"no picture"
    with pytest.raises(ValueError, match=r"^1\.png: "):
        read_image(as_file({"path": "1.png", "bytes": b"no picture"}))


@pytest.mark.parametrize("values", [(0, 255), (0, 1), (-300, 1000), (0, 40_000), (-32768, 32767)])
def test_encoding_integers_loses_nothing_but_what_is_below_zero(values):
    rng = np.random.default_rng(0)
    pixels = rng.integers(values[0], values[1] + 1, (40, 30)).astype(np.int32)
    pixels[0, :2] = values
    decoded = read_image(io.BytesIO(encode_png(pixels)))
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded, pixels - min(values[0], 0))


def test_encoding_keeps_bits_bytes_and_colours():
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (20, 30, 3), np.uint8)
    np.testing.assert_array_equal(read_image(io.BytesIO(encode_png(colours))), colours)
    np.testing.assert_array_equal(read_image(io.BytesIO(encode_png(colours[..., 0]))), colours[..., 0])
    png = encode_png(colours[..., 0] > 99)
    assert png[24] == 1, "the bit depth in the header of a PNG"
    np.testing.assert_array_equal(read_mask(io.BytesIO(png)), colours[..., 0] > 99)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [(np.zeros((20, 20), np.float32), "float32"), (np.array([[-1, 65535]]), "from -1 to 65535 .* 16 bits")],
)
def test_what_a_png_cannot_hold_is_said(pixels, message):
    with pytest.raises(ValueError, match=message):
        encode_png(pixels)


# images/ and masks/


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp", ".PNG"])
def test_pairs_come_in_natural_order(tmp_path, suffix):
    folder = write_data_set(tmp_path / "data", suffix=suffix)
    opened = open_source(folder)
    slices = list(opened)
    assert len(opened) == 12
    assert [raw.slice for raw in slices] == [str(number) for number in range(1, 13)]
    assert all(raw.image["path"].endswith(f"/images/{raw.slice}{suffix}") for raw in slices)
    assert all(raw.mask["path"].endswith(f"/masks/{raw.slice}.png") and not raw.problem for raw in slices)


def test_missing_and_empty_folders_are_named(folder):
    for path in (folder / "masks").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"masks holds no images; accepted are .*\.png"):
        open_source(folder)
    (folder / "masks").rmdir()
    with pytest.raises(DataError, match=r"masks is not there; images/ and masks/ are needed"):
        open_source(folder)


def test_files_without_partner_and_with_a_rival_come_with_their_problem(folder):
    (folder / "images" / "3.png").unlink()
    (folder / "masks" / "5.png").unlink()
    shutil.copy(folder / "images" / "7.png", folder / "images" / "7.jpg")
    (folder / "images" / "._9.png").touch()
    assert problems(folder) == {
        "3": ("unpaired", "masks/3.png has no partner of the same stem in images/."),
        "5": ("unpaired", "images/5.png has no partner of the same stem in masks/."),
        "7": ("repeated stem", "images/7.jpg and images/7.png have the same stem; keep one of them."),
    }
    assert len(open_source(folder)) == 12


def test_the_stamp_changes_with_a_file_and_pickling_keeps_it(folder):
    opened = open_source(folder)
    stamp = opened.stamp()
    assert pickle.loads(pickle.dumps(opened)).stamp() == stamp == open_source(folder).stamp()  # noqa: S301
    os.utime(folder / "masks" / "4.png", ns=(0, 0))
    assert opened.stamp() != stamp


def test_a_link_to_nothing_is_left_to_who_reads_it(folder):
    (folder / "images" / "3.png").unlink()
    (folder / "images" / "3.png").symlink_to(folder / "gone.png")
    opened = open_source(folder)
    assert opened.stamp() and len(opened) == 12
    with pytest.raises(ValueError, match=r"3\.png: there is no such file"):
        read_image(as_file(list(opened)[2].image))


def test_the_example_slices_are_pairs():
    slices = list(open_source(EXAMPLES))
    assert len(slices) == 9 and not any(raw.problem for raw in slices)
    assert [raw.slice for raw in slices][:2] == ["glioma-axial-726", "glioma-coronal-2248"]


# The original


@pytest.fixture
def drawn():
    """Pictures of three slices as the original stores them: int16 and uint8, taller than wide."""
    rng = np.random.default_rng(0)
    pictures = (draw_slice(rng) for _ in range(3))
    return [(image[:, :48].astype(np.int16) * 40, (mask[:, :48] > 0).astype(np.uint8)) for image, mask in pictures]


@pytest.fixture
def mat_files(drawn):
    """`1.mat`, `2.mat` and `10.mat`, one of each tumour type."""
    return {
        f"{number}.mat": mat_bytes(image, mask, label=label, pid=pid)
        for number, label, pid, (image, mask) in zip(
            (1, 2, 10), (1, 2, 3), ("0012", "MR040240B", "9"), drawn, strict=True
        )
    }


def assert_is_drawn(slices, drawn):
    assert [raw.problem for raw in slices] == [""] * 3
    assert [raw.slice for raw in slices] == ["1", "2", "10"]
    assert [raw.person_id for raw in slices] == ["0012", "MR040240B", "9"]
    assert [raw.tumor_type for raw in slices] == ["meningioma", "glioma", "pituitary"]
    for raw, (image, mask) in zip(slices, drawn, strict=True):
        np.testing.assert_array_equal(read_image(as_file(raw.image)), image)
        assert read_image(as_file(raw.image)).dtype == np.uint16
        np.testing.assert_array_equal(read_mask(as_file(raw.mask)), mask > 0)
        assert raw.mask["bytes"][24] == 1, "a mask is a PNG of 1 bit"


def test_mat_files_give_what_was_put_into_them(tmp_path, mat_files, drawn):
    for name, content in mat_files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "cvind.mat").write_bytes(b"the folds, of no interest here")
    assert_is_drawn(list(open_source(tmp_path)), drawn)


def test_mat_files_may_lie_in_the_folders_that_the_zips_become(tmp_path, mat_files, drawn):
    for number, (name, content) in enumerate(mat_files.items()):
        (tmp_path / f"part-{number}").mkdir()
        (tmp_path / f"part-{number}" / name).write_bytes(content)
    assert_is_drawn(list(open_source(tmp_path)), drawn)


@pytest.fixture
def zips(tmp_path, mat_files):
    """A folder with two of figshare's zips, whose members stand in no order and have company."""
    first = {name: mat_files[name] for name in ("2.mat", "1.mat")}
    write_zip(tmp_path / "zips" / "brainTumorDataPublic_1-766.zip", {"README.txt": b"read me", **first})
    write_zip(tmp_path / "zips" / "brainTumorDataPublic_767-1532.zip", {"part/10.mat": mat_files["10.mat"]})
    return tmp_path / "zips"


def test_a_folder_of_zips_is_read_without_unpacking(zips, drawn):
    before = sorted(zips.iterdir())
    opened = open_source(zips)
    assert len(opened) == 3
    assert_is_drawn(list(opened), drawn)
    assert_is_drawn(list(pickle.loads(pickle.dumps(opened))), drawn)  # noqa: S301
    assert sorted(zips.iterdir()) == before


def test_one_zip_is_a_source(zips):
    assert [raw.slice for raw in open_source(zips / "brainTumorDataPublic_1-766.zip")] == ["1", "2"]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_zip_of_zips_is_a_source(tmp_path, zips, drawn, compression):
    parts = {f"1512427/{path.name}": path.read_bytes() for path in zips.iterdir()}
    outer = write_zip(tmp_path / "1512427.zip", {**parts, "cvind.mat": b"folds"}, compression)
    assert len(open_source(outer)) == 3
    assert_is_drawn(list(open_source(outer)), drawn)


def test_a_zip_that_is_none_is_named(tmp_path, zips):
    path = zips / "brainTumorDataPublic_767-1532.zip"
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"767-1532\.zip cannot be read as a zip archive .*download it again"):
            open_source(zips)
    path.write_bytes(whole[: len(whole) // 2])
    outer = write_zip(tmp_path / "outer.zip", {path.name: path.read_bytes() for path in zips.iterdir()})
    with pytest.raises(DataError, match=r"^brainTumorDataPublic_767-1532\.zip cannot be read"):
        open_source(outer)
    outer.write_bytes(outer.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"^outer\.zip cannot be read"):
        open_source(outer)


def test_a_zip_without_slices_is_named(tmp_path):
    with pytest.raises(DataError, match=r"photos\.zip holds no slices in a known layout"):
        open_source(write_zip(tmp_path / "photos.zip", {"a.png": b"picture"}))


def test_a_zip_of_any_layout_is_unpacked_once_and_read_as_its_folder(tmp_path):
    folder = write_data_set(tmp_path / "data", 2)
    members = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}
    path = write_zip(tmp_path / "data.zip", members)
    first, again, there = (list(open_source(place)) for place in (path, path, folder))
    assert first == again and [raw.slice for raw in first] == ["1", "2"]
    for zipped, plain in zip(first, there, strict=True):
        for kind in ("image", "mask"):
            picture, other = (Path(getattr(raw, kind)["path"]) for raw in (zipped, plain))
            assert picture.read_bytes() == other.read_bytes() and not picture.is_relative_to(tmp_path)


def test_a_zip_that_leads_out_of_its_folder_is_refused(tmp_path):
    path = write_zip(tmp_path / "data.zip", {"images/1.png": b"1", "../masks/1.png": b"1"})
    with pytest.raises(DataError, match=r"data\.zip: the name of entry 2 leads out of the archive"):
        open_source(path)


def test_damaged_members_are_problems_of_single_slices(tmp_path, mat_files, drawn):
    (image, mask), _, _ = drawn
    members = {
        "1.mat": mat_files["1.mat"],
        "2.mat": b"no MATLAB file",
        "3.mat": mat_files["1.mat"][:-2000],
        "4.mat": mat_bytes(image, mask, without="PID"),
        "5.mat": mat_bytes(image, mask, label=7),
        "6.mat": mat_bytes(image.astype(np.float64), mask),
        "b/1.mat": mat_files["2.mat"],
        "7.mat": b"DAMAGE" + mat_files["2.mat"],
    }
    path = write_zip(tmp_path / "some.zip", members, zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"DAMAGE", b"damage"))
    found = problems(path)
    assert len(open_source(path)) == 8
    assert {name: kind for name, (kind, _) in found.items()} == {
        **dict.fromkeys("234567", "unreadable"),
        "1": "repeated stem",
    }
    for name, said in {
        "2": "2.mat cannot be read",
        "3": "truncated",
        "4": "4.mat cannot be read as one of figshare's MATLAB v7.3 files: it has no cjdata.PID.",
        "5": "cjdata.label is 7; known are 1, 2, 3",
        "6": "values of type float64",
        "7": "Bad CRC-32 for file '7.mat'",
        "1": "Several slices have the name 1",
    }.items():
        assert said in found[name][1]


def test_a_mask_of_other_values_is_kept_for_who_reads_it_next(tmp_path, drawn):
    image, mask = drawn[0]
    (tmp_path / "1.mat").write_bytes(mat_bytes(image, mask * 7 + mask.T[:1].max()))
    (raw,) = open_source(tmp_path)
    with pytest.raises(ValueError, match=r"1\.mat: the mask holds 2 different values"):
        read_mask(as_file(raw.mask))


def test_real_slices_survive_the_way_through_matlab(tmp_path):
    """Depth, values and transposition: two of the examples, stored as the original stores them."""
    names = ("glioma-axial-726", "pituitary-sagittal-1275")
    kinds = ("images", "masks")
    pictures = [
        [cv2.imread(str(EXAMPLES / kind / f"{name}.png"), cv2.IMREAD_UNCHANGED) for kind in kinds] for name in names
    ]
    members = {
        f"{name.split('-')[-1]}.mat": mat_bytes(image.astype(np.int16) * 9 - 5, mask > 0)
        for name, (image, mask) in zip(names, pictures, strict=True)
    }
    slices = list(open_source(write_zip(tmp_path / "brainTumorDataPublic_1-766.zip", members)))
    assert [raw.slice for raw in slices] == ["726", "1275"]
    for raw, (image, mask) in zip(slices, pictures, strict=True):
        np.testing.assert_array_equal(read_image(as_file(raw.image)), image.astype(np.uint16) * 9)
        np.testing.assert_array_equal(read_mask(as_file(raw.mask)), mask > 0)


def test_the_files_made_here_are_what_matlab_writes(mat_files):
    content = mat_files["2.mat"]
    assert content.startswith(b"MATLAB 7.3 MAT-file") and content[124:128] == b"\x00\x02IM"
    assert content[512:516] == b"\x89HDF"
    with h5py.File(io.BytesIO(content), "r") as file:
        assert file["cjdata/image"].shape == (48, 64) and file["cjdata/image"].dtype == np.int16
        assert file["cjdata/PID"].shape == (9, 1) and file["cjdata/PID"].dtype == np.uint16


def test_without_h5py_the_message_says_how_to_get_it(zips, monkeypatch):
    monkeypatch.setattr(figshare, "h5py", None)
    with pytest.raises(DataError, match=r"1-766\.zip needs h5py.*pip install h5py"):
        open_source(zips)


def test_zips_are_compared_with_the_published_ones(tmp_path, zips, caplog, monkeypatch):
    first, second = sorted(zips.iterdir())
    published = {first.name: hashlib.md5(first.read_bytes()).hexdigest(), second.name: "another"}
    monkeypatch.setattr(figshare, "PUBLISHED_MD5", published)
    outer = write_zip(tmp_path / "5", {path.name: path.read_bytes() for path in (first, second)})  # as wget names it
    for source in (zips, outer):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            open_source(source).verify()
        (message,) = caplog.messages
        assert message == f"{second.name} is not the file that figshare publishes: its MD5 sum differs."


# imagefolder


def write_metadata(folder: Path, name: str, rows: list[dict]) -> Path:
    """The rows as CSV, by the columns of the first, or as JSON lines."""
    if name.endswith(".csv"):
        lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def row_of(number: int, **details) -> dict:
    return {"image_file_name": f"images/{number}.png", "mask_file_name": f"masks/{number}.png", **details}


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_rows_name_files_and_keep_ids_as_written(tmp_path, name):
    folder = write_data_set(tmp_path / "data", 3)
    details = [("0012", "glioma", "axial"), ("12", "meningioma", ""), ("1e3", "pituitary", "sagittal")]
    rows = [
        row_of(3 - index, slice=f"s{index}", person_id=person, tumor_type=tumor_type, plane=plane)
        for index, (person, tumor_type, plane) in enumerate(details)
    ]
    slices = list(open_source(write_metadata(folder, name, rows)))
    assert not any(raw.problem for raw in slices)
    assert [raw.slice for raw in slices] == ["s0", "s1", "s2"]
    assert [(raw.person_id, raw.tumor_type, raw.plane) for raw in slices] == details
    assert [Path(raw.image["path"]).name for raw in slices] == ["3.png", "2.png", "1.png"]
    assert Path(slices[0].mask["path"]) == folder / "masks" / "3.png"


def test_numbers_in_json_stay_as_written(tmp_path):
    folder = write_data_set(tmp_path / "data", 2)
    lines = [json.dumps(row_of(1))[:-1] + ', "person_id": 12.50}', json.dumps(row_of(2, person_id=None))]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    assert [raw.person_id for raw in open_source(folder)] == ["12.50", ""]


def test_a_csv_file_from_a_spreadsheet_is_read(tmp_path):
    folder = write_data_set(tmp_path / "data", 1)
    text = "image_file_name,mask_file_name,person_id\r\nimages/1.png,masks/1.png,007\r\n"
    (folder / "metadata.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (raw,) = open_source(folder)
    assert (raw.slice, raw.person_id, raw.problem) == ("1", "007", "")


def test_bad_rows_and_unlisted_files_come_with_their_problem(tmp_path):
    folder = write_data_set(tmp_path / "data", 6)
    (folder / "masks" / "2.png").unlink()
    (folder / "figures").mkdir()
    (folder / "figures" / "logo.png").touch()
    (tmp_path / "x.png").write_bytes((folder / "images" / "1.png").read_bytes())
    rows = [row_of(number) for number in (1, 2, 3, 4, 5)]
    rows[2]["image_file_name"] = "../x.png"
    rows[3]["image_file_name"] = str(tmp_path / "x.png")
    rows[4]["mask_file_name"] = ""
    write_metadata(folder, "metadata.csv", [*rows, {**rows[0], "image_file_name": "images/../images/1.png"}, rows[0]])
    slices = list(open_source(folder))
    found = [(raw.slice, raw.problem_kind, raw.problem) for raw in slices if raw.problem]
    below = "files must lie below the folder of metadata.csv."
    assert found == [
        ("2", "unpaired", "Row 2 of data/metadata.csv names masks/2.png, which is not there."),
        ("x", "unreadable", f"Row 3 of data/metadata.csv names ../x.png; {below}"),
        ("x", "unreadable", f"Row 4 of data/metadata.csv names {tmp_path / 'x.png'}; {below}"),
        ("5", "unpaired", "Row 5 of data/metadata.csv leaves image_file_name or mask_file_name empty."),
        ("1", "unreadable", f"Row 6 of data/metadata.csv names images/../images/1.png; {below}"),
        ("1", "repeated stem", "Several slices have the name 1; each needs one of its own."),
        *(
            (name, "unpaired", f"{kind}/{name}.png is named in no row of metadata.csv.")
            for kind, names in (("images", "346"), ("masks", "56"))
            for name in names
        ),
    ]
    assert all(raw.image is None for raw in slices if raw.problem_kind == "unreadable")
    assert len(open_source(folder)) == len(slices)


def test_splits_may_have_metadata_of_their_own(tmp_path):
    for split, count in (("train", 2), ("validation", 1)):
        folder = write_data_set(tmp_path / split, count)
        rows = [row_of(number, slice=f"{split}-{number}") for number in range(1, count + 1)]
        write_metadata(folder, "metadata.csv", rows)
    slices = list(open_source(tmp_path))
    assert [(raw.slice, raw.problem) for raw in slices] == [("train-1", ""), ("train-2", ""), ("validation-1", "")]
    assert Path(slices[2].image["path"]) == tmp_path / "validation" / "images" / "1.png"
    assert [raw.split for raw in slices] == ["train", "train", "validation"]


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_the_split_of_a_slice_is_read_by_any_of_its_names(name, folder):
    words = ["Train", "val", "dev", "TEST", "testing", "example", "", "holdout", *["training"] * 4]
    write_metadata(folder, name, [row_of(number, split=word) for number, word in enumerate(words, start=1)])
    found = [raw.split for raw in open_source(folder)]
    assert found[:8] == ["train", "validation", "validation", "test", "test", "example", "", "holdout"]
    assert found[8:] == ["train"] * 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "metadata.csv",
            b"file_name,person_id\n1.png,a\n",
            "gives no image_file_name and no mask_file_name; every slice",
        ),
        ("metadata.csv", b"\xff\xfe\x00", "metadata.csv cannot be read as rows"),
        ("metadata.csv", b"", "metadata.csv gives no image_file_name"),
        ("metadata.jsonl", b'{"image_file_name": ', "metadata.jsonl cannot be read as rows"),
        ("metadata.jsonl", b"5\n", "metadata.jsonl cannot be read as rows"),
    ],
)
def test_metadata_of_no_use_is_named(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(open_source(folder))


def test_persons_of_another_column_spacing_and_missing_masks_are_read_from_metadata(tmp_path):
    folder = write_data_set(tmp_path / "data", 2)
    (folder / "masks" / "2.png").unlink()
    rows = [row_of(1, patient="07", row_mm="0.5", column_mm="1.5"), row_of(2, patient="7")]
    rows[1]["mask_file_name"] = ""
    write_metadata(folder, "metadata.jsonl", rows)
    slices = list(open_source(folder, Reading(person_column="patient", missing_mask="empty")))
    assert [(raw.person_id, raw.spacing, raw.problem) for raw in slices] == [("07", (0.5, 1.5), ""), ("7", None, "")]
    assert slices[1].mask is None and open_source(folder).facts()["masks"] == "1"
    with pytest.raises(DataError, match=r"--person_column is who; the columns of metadata\.jsonl are image_file_name,"):
        list(open_source(folder, Reading(person_column="who")))


def test_a_table_that_cannot_be_read_is_not_passed_over_for_its_folders(folder):
    (folder / "metadata.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"metadata\.csv gives no image_file_name"):
        list(open_source(folder))


def test_two_metadata_files_are_one_too_many(folder):
    for name in ("metadata.csv", "metadata.jsonl"):
        write_metadata(folder, name, [row_of(1)])
    with pytest.raises(DataError, match=r"holds both metadata\.csv and metadata\.jsonl; keep one"):
        open_source(folder)


def test_the_stamp_of_metadata_changes_with_a_row_and_with_a_file(tmp_path):
    folder = write_metadata(write_data_set(tmp_path / "data", 2), "metadata.csv", [row_of(1), row_of(2)])
    opened = open_source(folder)
    stamps = [opened.stamp()]
    os.utime(folder / "images" / "1.png", ns=(0, 0))
    stamps.append(opened.stamp())
    write_metadata(folder, "metadata.csv", [row_of(1), row_of(2, person_id="a")])
    stamps.append(opened.stamp())
    assert stamps[0] != stamps[1] != stamps[2]


# 🤗 Datasets


def table(folder: Path, count: int = 3, **columns) -> Dataset:
    """The slices of a folder with their pictures' bytes embedded, as `push_to_hub` does it."""
    pictures = {
        column: [{"path": f"{n}.png", "bytes": (folder / kind / f"{n}.png").read_bytes()} for n in range(1, count + 1)]
        for column, kind in (("image", "images"), ("mask", "masks"))
    }
    features = Features({"image": Image(), "mask": Image()})
    features.update({name: Value("int64" if isinstance(v[0], int) else "string") for name, v in columns.items()})
    return Dataset.from_dict({**pictures, **columns}, features=features)


def write_parquet(folder: Path, **splits: Dataset) -> Path:
    (folder / "data").mkdir(parents=True)
    for split, rows in splits.items():
        rows.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def test_parquet_files_are_read_with_all_splits(tmp_path, folder):
    rows = table(
        folder, slice=["a", "b", "c"], person_id=["0012", "12", None], tumor_type=["glioma"] * 3, split=["x"] * 3
    )
    parquet = write_parquet(tmp_path / "parquet", train=rows.select([0, 1]), test=rows.select([2]))
    opened = open_source(parquet)
    slices = {raw.slice: raw for raw in opened}
    assert len(opened) == 3 and {*slices} == {"a", "b", "c"}
    assert [slices[name].person_id for name in "abc"] == ["0012", "12", ""]
    assert {raw.tumor_type for raw in slices.values()} == {"glioma"} and {raw.plane for raw in slices.values()} == {""}
    for number, name in enumerate("abc", start=1):
        raw = slices[name]
        assert not raw.problem and raw.image["path"] == f"{number}.png"
        expected = read_image(folder / "images" / f"{number}.png")
        np.testing.assert_array_equal(read_image(as_file(raw.image)), expected)
        np.testing.assert_array_equal(read_mask(as_file(raw.mask)), read_mask(folder / "masks" / f"{number}.png"))


def test_the_split_of_parquet_files_is_that_of_their_rows_or_names(tmp_path, folder):
    named = write_parquet(tmp_path / "named", train=table(folder).select([0, 1]), test=table(folder).select([2]))
    assert [raw.split for raw in open_source(named)] == ["test", "train", "train"]
    rows = table(folder, split=["train", "val", "test"])
    assert [raw.split for raw in open_source(write_parquet(tmp_path / "rows", train=rows))] == [
        *("train", "validation", "test"),
    ]
    alone = write_parquet(tmp_path / "alone", everything=table(folder))
    assert [raw.split for raw in open_source(alone)] == ["", "", ""]


def test_the_stamp_of_parquet_files_changes_with_them(tmp_path, folder):
    parquet = write_parquet(tmp_path / "parquet", train=table(folder))
    opened = open_source(parquet)
    assert pickle.loads(pickle.dumps(opened)).stamp() == open_source(parquet).stamp() == opened.stamp()  # noqa: S301
    shutil.rmtree(parquet)
    write_parquet(parquet, train=table(folder, 2))
    assert open_source(parquet).stamp() != opened.stamp()


def test_a_data_set_without_names_takes_those_of_its_pictures_or_numbers(tmp_path, folder):
    rows = table(folder)
    assert [raw.slice for raw in open_source(write_parquet(tmp_path / "one", train=rows))] == ["1", "2", "3"]
    rows = Dataset.from_dict({"image": rows["image"][1:], "mask": rows["mask"][1:]}, features=rows.features)
    assert [raw.slice for raw in open_source(write_parquet(tmp_path / "two", a=rows, b=rows))] == ["1", "2", "3", "4"]


def test_a_data_set_on_the_hub_is_asked_for_by_its_id(folder, monkeypatch):
    rows = table(folder, slice=[7, 8, 9], person_id=[1, 2, 3])
    rows = rows.add_column("tumor_type", [1, 0, 1]).cast_column(
        "tumor_type", ClassLabel(names=["glioma", "meningioma"])
    )
    asked = []
    monkeypatch.setattr(hub, "load_dataset", lambda name: asked.append(name) or DatasetDict(train=rows))
    slices = list(open_source("someone/brain-tumors"))
    assert asked == ["someone/brain-tumors"]
    assert [(raw.slice, raw.person_id, raw.tumor_type) for raw in slices] == [
        ("7", "1", "meningioma"),
        ("8", "2", "glioma"),
        ("9", "3", "meningioma"),
    ]


def test_a_data_set_may_call_its_persons_otherwise(tmp_path, folder):
    rows = table(folder, person_id=["x", "x", "x"], patient=["a", "b", "a"])
    parquet = write_parquet(tmp_path / "parquet", train=rows)
    assert [raw.person_id for raw in open_source(parquet, Reading(person_column="patient"))] == ["a", "b", "a"]
    with pytest.raises(DataError, match=r"--person_column is who, and its columns are image, mask, person_id, patient"):
        open_source(parquet, Reading(person_column="who"))


def test_empty_cells_are_problems_of_single_slices(folder, monkeypatch):
    rows = table(folder)
    cells = {"image": [*rows.cast_column("image", Image(decode=False))["image"][:2], None], "mask": [None] * 3}
    rows = Dataset.from_dict(cells, features=rows.features)
    monkeypatch.setattr(hub, "load_dataset", lambda name: DatasetDict(train=rows))
    kinds = {raw.slice: raw.problem for raw in open_source("someone/brain-tumors")}
    assert kinds == {
        "1": "Slice 1 has no mask.",
        "2": "Slice 2 has no mask.",
        "3": "Slice 3 has no image and no mask.",
    }


def test_a_data_set_of_other_columns_is_refused(tmp_path, folder):
    parquet = write_parquet(tmp_path / "parquet", train=table(folder).rename_column("mask", "label"))
    with pytest.raises(DataError, match="its columns are image, label, and image and mask are needed"):
        open_source(parquet)


def test_a_damaged_parquet_file_is_refused(tmp_path, folder):
    parquet = write_parquet(tmp_path / "parquet", train=table(folder))
    (path,) = (parquet / "data").iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"parquet cannot be used as a data set: "):
        open_source(parquet)


def test_an_id_that_cannot_be_loaded_is_refused_by_name():
    """The tests run with the Hub out of reach."""
    with pytest.raises(
        DataError, match=r"nobody/nothing-of-the-kind, which is no folder here, cannot be used as a data set: .*Hub"
    ):
        open_source("nobody/nothing-of-the-kind")
