"""`python -m modeling_unet predict` of volumes: what belongs together, what is written, and what is said."""

import csv
import gzip
import shutil
import tarfile
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import phantoms
import pytest
from phantoms import noise
from PIL import Image
from pydicom import dcmread
from tiny import EVEN_LOGIT, save_even_model

from modeling_unet.__main__ import main
from modeling_unet.sources import find_sources
from modeling_unet.volumes import read_volume
from modeling_unet.volumes.results import shown_slices
from modeling_unet.volumes.segmenting import VolumeSegmentation


PROBABILITY = 1 / (1 + np.exp(-EVEN_LOGIT))
AFFINE = np.array([[-0.5, 0, 0, 30], [0, 0.5, 0, -20], [0, 0, 5, 10], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    """A tiny model that gives every pixel of every slice the tumour probability `PROBABILITY`."""
    return save_even_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def predict(model_dir, tmp_path, monkeypatch):
    """Run the command in `tmp_path`; results go to `out`."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments) -> int:
        return main(["predict", "--out", "out", "--model", str(model_dir), *map(str, arguments)])

    return run


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def write_series(folder: Path, count: int = 3, seed: int = 0, **tags):
    for number, pixels in enumerate(noise(count, 20, 24, seed=seed), start=1):
        write(folder / f"IM{number}", phantoms.dicom(pixels, number, **tags))


def save_slice(path: Path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(30, 40).astype(np.uint8)).save(path)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def results_below(folder: Path) -> set[str]:
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return found - {"journal.jsonl", "summary.csv", "lesions.csv"}


def written_mask(path: Path) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(path.read_bytes()))


def places_of(folder: Path, *names: str) -> dict[str, list[str]]:
    """Where the results go → the names of the files that are read for them."""
    found = find_sources([folder / name for name in names or ("",)], folder / "out")
    return {place: [file.name for file in source.files] for place, source in found.items()}


# Results


def test_mask_picture_and_tables_of_a_nifti(predict, tmp_path, capsys):
    path = write(tmp_path / "scan.nii.gz", phantoms.nifti(noise(20, 24, 3), AFFINE))
    assert predict("scan.nii.gz", "--probability") == 0
    out = tmp_path / "out"
    assert results_below(out) == {"scan_mask.nii.gz", "scan_overlay.png", "scan_probability.nii.gz"}
    captured = capsys.readouterr()
    assert captured.out == "volumes: 1, tumour found: 1, failed: 0; results in out\n"
    assert captured.err.startswith("scan: A NIfTI file does not say which sequence it is")

    mask = written_mask(out / "scan_mask.nii.gz")
    np.testing.assert_array_equal(mask.affine, AFFINE)
    assert mask.get_data_dtype() == np.uint8 and (np.asarray(mask.dataobj) == 1).all() and mask.shape == (20, 24, 3)
    probability = written_mask(out / "scan_probability.nii.gz")
    np.testing.assert_array_equal(probability.affine, AFFINE)
    assert probability.get_data_dtype() == np.float32
    np.testing.assert_allclose(probability.get_fdata(), PROBABILITY, atol=1e-6)

    (row,) = table(out / "summary.csv")
    assert row["path"] == "scan.nii.gz" and row["tumor_found"] == "True" and row["lesions"] == "1" and not row["error"]
    assert row["highest_probability"] == str(round(PROBABILITY, 4)) and row["area_px"] == ""
    assert row["volume_ml"] == "1.8" and row["longest_diameter_mm"] == str(round(np.hypot(np.hypot(10, 12), 15), 2))
    assert row["warnings"] == " ".join(read_volume(path).warnings)
    (lesion,) = table(out / "lesions.csv")
    assert lesion["path"] == "scan.nii.gz" and lesion["lesion"] == "1" and lesion["volume_ml"] == "1.8"
    assert (lesion["first_slice"], lesion["last_slice"], lesion["voxels"]) == ("1", "3", "1440")
    centre = AFFINE @ (9.5, 11.5, 1, 1)
    assert [float(lesion[f"{name}_mm"]) for name in ("right", "anterior", "superior")] == [*centre[:3].round(2)]


def test_probabilities_of_a_slice_are_a_16_bit_picture(predict, tmp_path):
    save_slice(tmp_path / "a.png")
    assert predict("a.png", "--probability") == 0
    with Image.open(tmp_path / "out" / "a_probability.png") as picture:
        assert (np.asarray(picture) == round(PROBABILITY * 65535)).all()


def test_slices_and_volumes_together(predict, tmp_path, capsys):
    save_slice(tmp_path / "in" / "a.png")
    write(tmp_path / "in" / "scan.nii", phantoms.nifti(noise(20, 24, 3), packed=False))
    write_series(tmp_path / "in" / "study")
    assert predict("in") == 0
    assert results_below(tmp_path / "out") == {
        *("a_mask.png", "a_overlay.png", "scan_mask.nii.gz", "scan_overlay.png"),
        *("study_mask.nii.gz", "study_overlay.png"),
    }
    assert capsys.readouterr().out == "slices: 1, volumes: 2, tumour found: 3, failed: 0; results in out\n"
    rows = table(tmp_path / "out" / "summary.csv")
    assert [Path(row["path"]).name for row in rows] == ["a.png", "scan.nii", "study"]
    assert {Path(row["path"]).name for row in table(tmp_path / "out" / "lesions.csv")} == {"scan.nii", "study"}


def test_the_mask_of_a_series_lies_where_its_slices_do(predict, tmp_path):
    write_series(tmp_path / "study")
    assert predict("study") == 0
    mask = written_mask(tmp_path / "out" / "study_mask.nii.gz")
    volume = read_volume(tmp_path / "study")
    expected = written_mask(write(tmp_path / "expected", volume.to_nifti(np.ones(volume.slices.shape, bool))))
    np.testing.assert_array_equal(mask.affine, expected.affine)
    np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(expected.dataobj))


def test_a_series_is_chosen_by_its_number(predict, tmp_path, capsys):
    write_series(tmp_path / "study" / "a", 3)
    write_series(tmp_path / "study" / "b", 4, SeriesInstanceUID=phantoms.OTHER_SERIES, SeriesDescription="T2")
    for number, count in ((None, 3), (2, 4), (1, 3)):
        assert predict("study", *(["--series", number] if number else [])) == 0
        assert written_mask(tmp_path / "out" / "study_mask.nii.gz").shape[2] == count
        assert f"number {number or 1} was read" in capsys.readouterr().err
    assert predict("study", "--series", 3) == 1
    assert "There is no stack 3" in table(tmp_path / "out" / "summary.csv")[0]["error"]


def test_a_volume_that_fails_does_not_stop_the_others(predict, tmp_path, capsys):
    content = phantoms.nifti(noise(20, 24, 3))
    write(tmp_path / "in" / "a.nii.gz", content[:-300])
    write(tmp_path / "in" / "b.nii.gz", content)
    write(tmp_path / "in" / "c.dcm", b"no DICOM at all, but a file of that name")
    with zipfile.ZipFile(tmp_path / "in" / "d.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    assert predict("in") == 1
    captured = capsys.readouterr()
    assert captured.out == "volumes: 4, tumour found: 1, failed: 3; results in out\n"
    errors = {Path(row["path"]).name: row["error"] for row in table(tmp_path / "out" / "summary.csv")}
    assert errors["a.nii.gz"].startswith("a.nii.gz: the file is") and not errors["b.nii.gz"]
    assert "there is no scan in it" in errors["c.dcm"] and "there is no scan in it" in errors["d.zip"]
    assert results_below(tmp_path / "out") == {"b_mask.nii.gz", "b_overlay.png"}


@pytest.mark.slow
def test_nothing_is_done_twice_and_what_changed_is_done_again(predict, tmp_path, capsys):
    write(tmp_path / "in" / "a.nii", phantoms.nifti(noise(20, 24, 3), packed=False))
    write_series(tmp_path / "in" / "study")
    assert predict("in") == 0
    lesions = (tmp_path / "out" / "lesions.csv").read_bytes()

    def kept() -> str:
        capsys.readouterr()
        assert predict("in") == 0
        return capsys.readouterr().out.partition(" kept")[0].rpartition("(")[2]

    assert kept() == "2"
    assert (tmp_path / "out" / "lesions.csv").read_bytes() == lesions
    write(tmp_path / "in" / "study" / "IM4", phantoms.dicom(noise(20, 24), 4))
    assert kept() == "1"
    assert written_mask(tmp_path / "out" / "study_mask.nii.gz").shape[2] == 4
    (tmp_path / "out" / "a_mask.nii.gz").unlink()
    assert kept() == "1"
    assert predict("in", "--probability") == 0
    (tmp_path / "out" / "a_probability.nii.gz").unlink()
    capsys.readouterr()
    assert predict("in", "--probability") == 0
    assert "(1 kept from before)" in capsys.readouterr().out


def test_a_study_in_a_tar_is_a_volume(predict, tmp_path):
    write_series(tmp_path / "study")
    with tarfile.open(tmp_path / "kept.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "study", ".")
    assert predict("kept.tar.gz", "study") == 0
    kept, study = (written_mask(tmp_path / "out" / f"{name}_mask.nii.gz") for name in ("kept", "study"))
    assert kept.shape == (24, 20, 3)
    np.testing.assert_array_equal(kept.affine, study.affine)
    np.testing.assert_array_equal(kept.dataobj, study.dataobj)
    assert [row["path"] for row in table(tmp_path / "out" / "summary.csv")] == ["kept.tar.gz", "study"]


def test_shards_of_volumes_and_slices_give_the_tables_of_one_run(predict, tmp_path):
    for name in "abc":
        save_slice(tmp_path / "in" / f"{name}.png")
        write(tmp_path / "in" / f"{name}.nii", phantoms.nifti(noise(20, 24, 3), packed=False))
    for number in (1, 2):
        assert predict("in", "--batch_size", 2, "--shard", f"{number}/2") == 0
    assert predict("in", "--batch_size", 2) == 0
    assert len(table(tmp_path / "out" / "summary.csv")) == 6 and len(table(tmp_path / "out" / "lesions.csv")) == 3
    paths = [row["path"] for number in (1, 2) for row in table(tmp_path / "out" / f"lesions-{number}-of-2.csv")]
    assert sorted(paths) == [row["path"] for row in table(tmp_path / "out" / "lesions.csv")]


def test_dicom_volumes_as_segmentation_objects(predict, tmp_path, capsys):
    for number, pixels in enumerate(noise(3, 20, 24), start=1):
        content = phantoms.dicom(pixels, number, SOPInstanceUID=f"1.2.3.{number}")
        write(tmp_path / "in" / "study" / f"IM{number}", content)
    write(tmp_path / "in" / "a.nii", phantoms.nifti(noise(20, 24, 3), packed=False))
    save_slice(tmp_path / "in" / "b.png")
    assert predict("in", "--dicom_seg") == 0
    errors = capsys.readouterr().err
    for name in "ab":
        assert f"{name}: --dicom_seg writes nothing for it, as it is no DICOM series." in errors
    assert "study: --dicom_seg" not in errors
    assert {name for name in results_below(tmp_path / "out") if name.endswith(".dcm")} == {"study_mask.dcm"}
    tags = dcmread(tmp_path / "out" / "study_mask.dcm")
    assert tags.Modality == "SEG" and tags.NumberOfFrames == 3 and tags.pixel_array.all()


def test_without_highdicom_nothing_begins(predict, tmp_path, monkeypatch, capsys):
    write(tmp_path / "a.nii", phantoms.nifti(noise(20, 24, 3), packed=False))
    monkeypatch.setattr("modeling_unet.volumes.dicom.segmentation.find_spec", lambda name: None)
    assert predict("a.nii", "--dicom_seg") == 2
    assert capsys.readouterr().err == "error: DICOM-SEG needs the package highdicom; run: pip install highdicom\n"
    assert not (tmp_path / "out").exists()


# What belongs together


def test_dicom_files_of_a_study_are_one_volume_wherever_they_lie(tmp_path):
    write_series(tmp_path / "in" / "p1" / "s1", 2)
    write_series(tmp_path / "in" / "p1" / "s2", 2, SeriesInstanceUID=phantoms.OTHER_SERIES)
    write_series(tmp_path / "in" / "p2", 2, StudyInstanceUID="1.2.3")
    write_series(tmp_path / "in" / "p3", 2, StudyInstanceUID=None)
    write_series(tmp_path / "in" / "p4", 2, StudyInstanceUID=None)
    assert places_of(tmp_path / "in") == {
        "p1": ["IM1", "IM2", "IM1", "IM2"],
        **{place: ["IM1", "IM2"] for place in ("p2", "p3", "p4")},
    }


def test_studies_in_one_folder_are_named_by_their_first_files(tmp_path):
    for study in "ab":
        for number in (1, 2):
            content = phantoms.dicom(noise(20, 24), number, StudyInstanceUID=f"1.2.{ord(study)}")
            write(tmp_path / "in" / f"{study}{number}.dcm", content)
    assert places_of(tmp_path / "in") == {"a1": ["a1.dcm", "a2.dcm"], "b1": ["b1.dcm", "b2.dcm"]}
    assert places_of(tmp_path / "in", "a1.dcm", "b2.dcm") == {"a1": ["a1.dcm"], "b2": ["b2.dcm"]}


def test_a_folder_that_is_one_study_gives_it_its_name(tmp_path):
    write_series(tmp_path / "in")
    assert [*places_of(tmp_path / "in")] == ["in"]


def test_an_empty_file_belongs_to_the_slices_beside_it(tmp_path):
    write_series(tmp_path / "in" / "study", 2)
    write(tmp_path / "in" / "study" / "IM3", b"")
    write(tmp_path / "in" / "other" / "notes", b"")
    write(tmp_path / "in" / "other" / "a.dcm", b"")
    assert places_of(tmp_path / "in") == {"study": ["IM1", "IM2", "IM3"], "other/a": ["a.dcm"]}
    assert any("1 of 3 files" in sentence for sentence in read_volume(tmp_path / "in" / "study").warnings)


def test_tables_of_contents_and_other_files_are_passed_over(tmp_path):
    write_series(tmp_path / "in", 2)
    write(tmp_path / "in" / "DICOMDIR", phantoms.dicom(noise(20, 24), StudyInstanceUID=None))
    write(tmp_path / "in" / "viewer.exe", b"MZ")
    write(tmp_path / "in" / ".hidden.nii", phantoms.nifti(noise(20, 24, 3)))
    assert places_of(tmp_path / "in") == {"in": ["IM1", "IM2"]}


def test_equal_names_of_a_slice_and_a_volume_keep_their_suffix(tmp_path):
    save_slice(tmp_path / "in" / "1.png")
    write(tmp_path / "in" / "1.nii.gz", phantoms.nifti(noise(20, 24, 3)))
    write_series(tmp_path / "in" / "1", 2)
    assert sorted(places_of(tmp_path / "in")) == ["1", "1.nii.gz", "1.png"]


def test_a_volume_is_told_by_its_content(tmp_path):
    write(tmp_path / "in" / "a", phantoms.nifti(noise(20, 24, 3)))
    write(tmp_path / "in" / "notes.txt", b"no scan")
    assert places_of(tmp_path / "in") == {"a": ["a"]}


def test_a_volume_is_never_overwritten(predict, tmp_path, capsys):
    content = phantoms.nifti(noise(20, 24, 3))
    write(tmp_path / "out" / "a.nii.gz", content)
    mask = write(tmp_path / "out" / "a_mask.nii.gz", content)
    assert predict("out") == 2
    assert "would overwrite the volume" in capsys.readouterr().err
    assert mask.read_bytes() == content


def test_masks_of_an_earlier_run_are_no_volumes(predict, tmp_path):
    write(tmp_path / "a.nii.gz", phantoms.nifti(noise(20, 24, 3)))
    for _ in range(2):
        assert predict(".") == 0
    assert [row["path"] for row in table(tmp_path / "out" / "summary.csv")] == ["a.nii.gz"]
    shutil.rmtree(tmp_path / "out")


# The picture


def with_tumour(tmp_path: Path, areas: list[int]) -> VolumeSegmentation:
    """A volume whose slices have so many pixels of tumour."""
    volume = read_volume(write(tmp_path / "a.nii", phantoms.nifti(noise(20, 24, len(areas)), packed=False)))
    probability = np.zeros(volume.slices.shape, np.float32)
    for pixels, area in zip(probability, areas, strict=True):
        pixels.flat[:area] = 1
    return VolumeSegmentation(volume, probability, ("axial",))


@pytest.mark.parametrize(
    ("areas", "shown"),
    [
        ([0, 3, 0, 9, 2], [1, 3, 4]),
        ([1, 2, 3, 4, 5, 6, 7, 8], [2, 3, 4, 5, 6, 7]),
        ([0] * 12, [1, 3, 5, 7, 9, 11]),
        ([0] * 2, [0, 1]),
    ],
)
def test_the_picture_shows_the_slices_with_most_tumour(tmp_path, areas, shown):
    assert shown_slices(with_tumour(tmp_path, areas)) == shown
