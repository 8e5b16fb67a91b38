import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from datasets import load_dataset
from mat import mat_bytes, write_zip
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from slices import write_data_set, write_manifest, write_persons
from surroundings import ROOT

from modeling_unet import read_image, read_mask
from train.data import folds
from train.data.prepare import prepare
from train.data.raw import DataError
from train.data.slices import DataArguments, load_slices, scan_slices
from train.data.sources import open_source


EXAMPLES = ROOT / "examples"
PERSONS = ["0012", "12", "a", "b", "c", "d"]


@pytest.fixture
def folder(tmp_path):
    return write_data_set(tmp_path / "data")


@pytest.fixture
def persons(tmp_path):
    return write_persons(tmp_path / "persons.csv", PERSONS * 2)


@pytest.fixture
def known(folder, tmp_path, monkeypatch):
    """`folder` as the public data set: a manifest that knows slices 1 to 10 by hash and 11, 12 as test slices."""
    rows = []
    for row in scan_slices(folder):
        number = int(row["slice"])
        split, fold, digest = ("test", "", "") if number > 10 else ("train", number % 5, row["mask_sha256"])
        person = f"0{number % 5 if number <= 10 else number}"
        rows.append({"slice": number, "person_id": person, "split": split, "fold": fold, "mask_sha256": digest})
    manifest = write_manifest(tmp_path / "manifest.csv", rows)
    monkeypatch.setattr(folds, "MANIFEST", manifest)
    return folder


def card_of(out: Path) -> tuple[dict, str]:
    """(YAML front matter, text) of the card."""
    _, front_matter, text = (out / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front_matter), text


def rows_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


def assert_same_slices(one, other):
    """Everything but where the pictures lie."""
    columns = ["slice", *folds.PERSON_COLUMNS, "height", "width", "image_sha256", "mask_sha256", "mask_area", "problem"]
    first, second = (load_slices(DataArguments(str(source))).select_columns(columns) for source in (one, other))
    assert first.to_list() == second.to_list()


def test_a_clean_folder_is_a_source_of_the_same_slices(tmp_path, known):
    out = prepare(known, tmp_path / "out" / "clean")
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "images", "masks", "metadata.jsonl"]
    assert [path.name for path in out.parent.iterdir()] == ["clean"], "nothing is left beside it"
    assert_same_slices(known, out)
    assert not any(raw.problem for raw in open_source(out))


def test_prepared_twice_it_is_the_same(tmp_path, folder, persons):
    first = prepare(folder, tmp_path / "first" / "data", persons=persons)
    second = prepare(first, tmp_path / "second" / "data")
    for path in (path for path in first.rglob("*") if path.is_file()):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes(), path.name


@pytest.mark.slow
@pytest.mark.parametrize("second", ["test", "validation"])
def test_a_given_split_survives_and_is_obeyed(tmp_path, folder, second):
    splits = ["train"] * 8 + [second] * 2 + ["test", "example"]
    rows = [
        {"image_file_name": f"images/{n}.png", "mask_file_name": f"masks/{n}.png", "person_id": f"p{n}", "split": split}
        for n, split in enumerate(splits, start=1)
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = prepare(folder, tmp_path / "out")
    assert [row["split"] for row in rows_of(out)] == splits
    assert_same_slices(folder, out)
    kept_out = {row["slice"] for row in rows_of(out) if row["split"] in ("test", "example")}
    slices = load_slices(DataArguments(str(out)))
    for fold in folds.available_folds(slices):
        assert not kept_out & {name for side in folds.split_fold(slices, fold) for name in side["slice"]}


def test_rows_say_whose_slices_they_are(tmp_path, folder, persons):
    rows = rows_of(prepare(folder, tmp_path / "out", persons=persons))
    fold = load_slices(DataArguments(str(folder), persons=str(persons)))["fold"][0]
    assert rows[0] == {
        "image_file_name": "images/1.png",
        "mask_file_name": "masks/1.png",
        "slice": "1",
        "person_id": "0012",
        "tumor_type": "unknown",
        "plane": "unknown",
        "split": "train",
        "fold": fold,
    }
    assert [row["person_id"] for row in rows] == PERSONS * 2


def test_images_keep_their_pixels_and_nothing_else_and_masks_have_one_bit(tmp_path, folder):
    note = PngInfo()
    note.add_text("Comment", "patient Jane Doe")
    Image.open(folder / "images" / "1.png").save(folder / "images" / "1.png", pnginfo=note)
    assert b"Jane Doe" in (folder / "images" / "1.png").read_bytes()
    out = prepare(folder, tmp_path / "out")
    assert b"Jane Doe" not in (out / "images" / "1.png").read_bytes()
    for number in range(1, 13):
        name = f"{number}.png"
        np.testing.assert_array_equal(read_image(out / "images" / name), read_image(folder / "images" / name))
        mask = out / "masks" / name
        assert mask.read_bytes()[24] == 1, "the bit depth in the header of a PNG"
        np.testing.assert_array_equal(read_mask(mask), read_mask(folder / "masks" / name))


@pytest.mark.parametrize(("suffix", "shape"), [(".webp", (64, 64)), (".jpg", (64, 64)), (".tif", (64, 64))])
def test_other_formats_become_grey_png_without_loss(tmp_path, suffix, shape):
    folder = write_data_set(tmp_path / "data", suffix=suffix)
    out = prepare(folder, tmp_path / "out")
    stored = read_image(out / "images" / "3.png")
    assert stored.shape == shape and stored.dtype == np.uint8
    original = read_image(folder / "images" / f"3{suffix}")
    np.testing.assert_array_equal(stored, original if original.ndim == 2 else original[..., 0])


def test_depth_and_colours_are_kept(tmp_path, folder):
    rng = np.random.default_rng(0)
    deep, grey = rng.integers(0, 60_000, (64, 64)).astype(np.uint16), rng.integers(0, 250, (64, 64, 1), np.uint8)
    coloured = grey + rng.integers(0, 6, (64, 64, 3), np.uint8)
    for name, pixels in (("3", deep), ("4", coloured)):
        (folder / "images" / f"{name}.png").unlink()
        cv2.imwrite(str(folder / "images" / f"{name}.tif"), pixels)
    out = prepare(folder, tmp_path / "out")
    np.testing.assert_array_equal(cv2.imread(str(out / "images" / "3.png"), cv2.IMREAD_UNCHANGED), deep)
    np.testing.assert_array_equal(cv2.imread(str(out / "images" / "4.png"), cv2.IMREAD_UNCHANGED), coloured)


def test_an_image_of_floats_is_refused_and_nothing_is_left(tmp_path, folder):
    (folder / "images" / "3.png").unlink()
    cv2.imwrite(str(folder / "images" / "3.tif"), np.random.default_rng(0).random((64, 64), np.float32))
    with pytest.raises(DataError, match="The image of 3 cannot be stored: values of type float32"):
        prepare(folder, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


def test_the_example_slices_survive_matlab_and_preparation(tmp_path):
    members = {}
    for path in (EXAMPLES / "images").iterdir():
        image, mask = (
            cv2.imread(str(EXAMPLES / kind / path.name), cv2.IMREAD_UNCHANGED) for kind in ("images", "masks")
        )
        number = path.stem.split("-")[-1]
        members[f"{number}.mat"] = mat_bytes(image.astype(np.int16) * 8, mask > 0, pid=f"P{number}")
    out = prepare(write_zip(tmp_path / "brainTumorDataPublic_1-766.zip", members), tmp_path / "out")
    rows = {row["slice"]: row for row in rows_of(out)}
    assert list(rows) == ["7", "415", "449", "726", "842", "1156", "1275", "1409", "2248"]
    # Their masks are those of the manifest, which knows better than the file whose slices they are.
    assert (rows["726"]["person_id"], rows["726"]["tumor_type"], rows["726"]["plane"]) == ("103148", "glioma", "axial")
    assert {row["split"] for row in rows.values()} == {"example"}
    deep = read_image(out / "images" / "726.png")
    assert deep.dtype == np.uint16
    np.testing.assert_array_equal(deep, read_image(EXAMPLES / "images" / "glioma-axial-726.png").astype(np.uint16) * 8)
    front_matter, text = card_of(out)
    assert front_matter["license"] == "cc-by-4.0" and "10.6084/m9.figshare.1512427" in text


def test_datasets_loads_it_as_an_imagefolder(tmp_path, folder, persons):
    out = prepare(folder, tmp_path / "out", persons=persons)
    for arguments in ({"path": "imagefolder", "data_dir": str(out)}, {"path": str(out)}):
        loaded = load_dataset(**arguments, split="train")
        assert {"image", "mask", "slice", *folds.PERSON_COLUMNS} == {*loaded.column_names}
        assert loaded["person_id"][:] == PERSONS * 2, "ids stay strings"
        row = {name: index for index, name in enumerate(loaded["slice"])}["7"]
        np.testing.assert_array_equal(np.asarray(loaded[row]["image"]), read_image(folder / "images" / "7.png"))
        np.testing.assert_array_equal(np.asarray(loaded[row]["mask"]), read_mask(folder / "masks" / "7.png"))


def test_names_that_no_file_may_have_stay_in_the_rows(tmp_path, folder):
    rows = [
        {"image_file_name": f"images/{n}.png", "mask_file_name": f"masks/{n}.png", "slice": f"../hospital {n}/slice"}
        for n in range(1, 13)
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = prepare(folder, tmp_path / "out")
    assert rows_of(out)[2]["slice"] == "../hospital 3/slice"
    assert rows_of(out)[2]["image_file_name"] == "images/-hospital-3-slice.png"
    assert_same_slices(folder, out)


def test_names_that_some_systems_take_for_one_become_numbers(tmp_path, folder):
    for kind in ("images", "masks"):
        for number, name in ((1, "a b"), (2, "A-B")):
            (folder / kind / f"{number}.png").rename(folder / kind / f"{name}.png")
    rows = rows_of(prepare(folder, tmp_path / "out"))
    assert [(row["slice"], row["image_file_name"]) for row in rows][-2:] == [
        ("A-B", "images/11.png"),
        ("a b", "images/12.png"),
    ]


def test_names_by_which_datasets_would_divide_the_slices_become_numbers(tmp_path, folder):
    for kind in ("images", "masks"):
        for number in range(1, 13):
            name = f"{'Test' if number % 3 else 'train'}_{number}.png"
            (folder / kind / f"{number}.png").rename(folder / kind / name)
    out = prepare(folder, tmp_path / "out")
    loaded = load_dataset("imagefolder", data_dir=str(out))
    assert {*loaded} == {"train"} and loaded["train"].num_rows == 12
    assert {*loaded["train"]["slice"]} == {path.stem for path in (folder / "images").iterdir()}
    assert_same_slices(folder, out)


# The card


def test_the_card_of_the_public_data_set_names_author_licence_and_counts(tmp_path, known):
    front_matter, text = card_of(prepare(known, tmp_path / "out"))
    assert front_matter == {
        "license": "cc-by-4.0",
        "task_categories": ["image-segmentation"],
        "tags": ["brain-tumor", "mri", "medical-imaging"],
        "size_categories": ["n<1K"],
    }
    assert "they came as .png" in text
    assert "Jun Cheng" in text and "https://doi.org/10.6084/m9.figshare.1512427" in text
    assert "12 slices of brain MRI" in text
    for row in ("| test | 2 | 2 |", "| train | 10 | 5 |", "| glioma | 12 | 7 |", "| axial | 12 | 7 |"):
        assert row in text
    assert 'load_dataset("imagefolder", data_dir="out"' in text and "python -m train fit --data_dir out" in text


def test_the_card_of_other_slices_leaves_the_licence_to_their_owner(tmp_path, folder, persons):
    front_matter, text = card_of(prepare(folder, tmp_path / "out", persons=persons))
    assert "license" not in front_matter and "Jun Cheng" not in text
    assert "| train | 12 | 6 |" in text and "split by person" in text


def test_the_card_of_a_mixture_says_what_is_the_public_data_sets(tmp_path, known, persons):
    mask = np.zeros((64, 64), np.uint8)
    cv2.circle(mask, (30, 30), 7, 255, -1)
    cv2.imwrite(str(known / "masks" / "3.png"), mask)
    front_matter, text = card_of(prepare(known, tmp_path / "out", persons=persons))
    assert "license" not in front_matter
    assert "11 of the 12 masks are from" in text and "Jun Cheng" in text


def test_unknown_persons_stay_unknown(tmp_path, folder, caplog):
    """Else the slices' names would come back as persons, and nobody would be warned again."""
    out = prepare(folder, tmp_path / "out")
    assert {row["person_id"] for row in rows_of(out)} == {""}
    assert "Whose slices these are is not known" in card_of(out)[1]
    caplog.clear()
    load_slices(DataArguments(str(out)))
    assert "The persons are not known" in caplog.text


# What is refused


def test_a_folder_that_holds_something_is_not_touched(tmp_path, folder):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    for there in (out, out / "mine.txt"):
        with pytest.raises(DataError, match=r"(out|mine\.txt) is there already; name a folder that is new or empty"):
            prepare(folder, there)
    assert (out / "mine.txt").read_text() == "mine"
    shutil.rmtree(out)
    out.mkdir()
    assert (prepare(folder, out) / "metadata.jsonl").is_file()


def test_what_would_poison_a_training_is_not_written(tmp_path, folder):
    (folder / "masks" / "3.png").unlink()
    with pytest.raises(DataError, match=r"images/3\.png has no partner"):
        prepare(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_grey_masks_are_taken_with_a_threshold(tmp_path, folder):
    mask = read_mask(folder / "masks" / "3.png")
    cv2.imwrite(str(folder / "masks" / "3.png"), np.where(mask, 250, 3).astype(np.uint8))
    with pytest.raises(DataError, match="values 3 and 250 alone; --mask_threshold 127"):
        prepare(folder, tmp_path / "out")
    out = prepare(folder, tmp_path / "out", mask_threshold=127)
    np.testing.assert_array_equal(read_mask(out / "masks" / "3.png"), mask)


def test_pictures_that_cannot_be_written_leave_no_folder(tmp_path, folder, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    scan_slices(folder)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(folder, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
