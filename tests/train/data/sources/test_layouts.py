"""The layouts in which labs have their data, each on real files: what is found, whose it is, and what is said of it."""

import json
import shutil

import cv2
import nibabel as nib
import numpy as np
import pytest
from labs import (
    AFFINE,
    SHAPE,
    axial,
    coronal,
    draw_head,
    write_brats,
    write_heads,
    write_nifti,
    write_nnunet,
)
from slices import draw_slice, write_data_set

from modeling_unet import read_image, read_mask
from modeling_unet.image_processing_unet import read_labels
from train.data.raw import DataError, Reading, as_file
from train.data.sources import open_source


def slices_of(source, **reading):
    return list(open_source(source, Reading(**reading)))


def problems(source, **reading) -> dict[str, tuple[str, str]]:
    return {raw.slice: (raw.problem_kind, raw.problem) for raw in slices_of(source, **reading) if raw.problem}


def assert_is_head(slices, seed: int, of=lambda labels: labels > 0):
    """The slices are those of `draw_head`, axial."""
    voxels, labels = draw_head(seed)
    assert len(slices) == SHAPE[2]
    for raw, image, mask in zip(slices, axial(voxels), axial(of(labels)), strict=True):
        np.testing.assert_array_equal(read_image(as_file(raw.image)), image)
        np.testing.assert_array_equal(read_labels(as_file(raw.mask)), mask)


# NIfTI volumes


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/p{}.nii.gz", "masks/p{}.nii.gz"),
        ("imgs/p{}.nii", "labels/p{}_seg.nii"),
        ("Images/p{}.nii.gz", "brain_masks/p{}.nii.gz"),
        ("p{0}/p{0}.nii.gz", "p{0}/p{0}_mask.nii.gz"),
        ("p{}.nii.gz", "p{}_corrected_mask.nii.gz"),  # as the page saves it
        ("p{}/images/p1.nii.gz", "p{}/masks/p1.nii.gz"),
    ],
)
def test_volumes_pair_up_by_their_names(image, mask, tmp_path):
    opened = open_source(write_heads(tmp_path, 2, image, mask))
    slices = list(opened)
    assert (len(opened), opened.unit, opened.facts()["images"]) == (2, "volume", "2 volumes")
    assert_is_head(slices[:6], 1)
    assert_is_head(slices[6:], 2)
    assert {raw.plane for raw in slices} == {"axial"} and {raw.spacing for raw in slices} == {(1.5, 1.0)}
    assert slices[0].slice == f"{slices[0].volume}-axial-001" and len({raw.volume for raw in slices}) == 2


def test_a_volume_is_one_person_where_nothing_says_whose_it_is(tmp_path):
    opened = open_source(write_heads(tmp_path, 2))
    assert opened.facts()["persons"] == "not said here; each of the 2 volumes counts as one"
    assert [raw.person_id for raw in opened] == ["p1"] * 6 + ["p2"] * 6


def test_volumes_are_cut_into_the_planes_that_are_asked_for(tmp_path):
    folder = write_heads(tmp_path, 1)
    assert problems(folder, planes=("coronal",)) == {
        "p1": ("unreadable", "p1: its coronal slices have 40 × 6 pixels; each side needs at least 16.")
    }
    thick, labels = (np.repeat(voxels, 4, axis=2) for voxels in draw_head(1))
    write_nifti(folder / "images" / "p1.nii.gz", thick)
    write_nifti(folder / "masks" / "p1.nii.gz", (labels > 0).astype(np.uint8))
    slices = slices_of(folder, planes=("coronal", "axial"))
    assert [raw.plane for raw in slices] == ["coronal"] * 36 + ["axial"] * 24
    assert slices[0].spacing == (3.0, 1.0) and slices[40].spacing == (1.5, 1.0)
    for raw, image, mask in zip(slices[:36], coronal(thick), coronal(labels > 0), strict=True):
        np.testing.assert_array_equal(read_image(as_file(raw.image)), image)
        np.testing.assert_array_equal(read_mask(as_file(raw.mask)), mask)
    assert "volumes are more than twice as long as wide" in open_source(folder, Reading(("coronal",))).facts()["planes"]


def test_slices_of_fractions_are_stretched_over_16_bits_and_look_the_same(tmp_path):
    voxels = np.random.default_rng(0).normal(0, 1, SHAPE).astype(np.float32)
    write_nifti(tmp_path / "images" / "a.nii.gz", voxels)
    write_nifti(tmp_path / "masks" / "a.nii.gz", (voxels > 2).astype(np.float32))
    for raw, image in zip(slices_of(tmp_path), axial(voxels), strict=True):
        stored = read_image(as_file(raw.image)).astype(np.float64)
        assert stored.min() == 0 and stored.max() == 65535
        back = stored / 65535 * (image.max() - image.min()) + image.min()
        assert np.abs(back - image).max() < 1e-4


def test_a_mask_on_another_grid_is_refused_by_name(tmp_path):
    folder = write_heads(tmp_path, 3)
    _, labels = draw_head(1)
    write_nifti(folder / "masks" / "p1.nii.gz", labels[..., :-1])
    write_nifti(folder / "masks" / "p2.nii.gz", labels, np.eye(4))
    write_nifti(folder / "masks" / "p3.nii.gz", labels, AFFINE + 1e-4)
    found = problems(folder)
    assert {name: kind for name, (kind, _) in found.items()} == {"p1": "size mismatch", "p2": "size mismatch"}
    assert "masks/p1.nii.gz has 40 × 36 × 5 voxels and images/p1.nii.gz 40 × 36 × 6" in found["p1"][1]
    assert (
        "lies up to 21.6 mm beside images/p2.nii.gz" in found["p2"][1] and "save it with its affine" in found["p2"][1]
    )


def test_a_damaged_volume_is_a_problem_of_its_own(tmp_path):
    folder = write_heads(tmp_path, 2)
    path = folder / "images" / "p1.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])
    assert [(name, kind) for name, (kind, _) in problems(folder).items()] == [("p1", "unreadable")]
    assert len(slices_of(folder)) == 1 + SHAPE[2]


def test_a_volume_that_does_not_say_how_it_lies_is_told_and_cannot_be_cut_anew(tmp_path):
    folder = write_heads(tmp_path, 1)
    for path in folder.glob("*/*.nii.gz"):
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None), path)
    assert open_source(folder).facts()["lying"].startswith("1 volumes do not say how the patient lies")
    assert {raw.plane for raw in slices_of(folder)} == {""}
    ((kind, problem),) = problems(folder, planes=("sagittal",)).values()
    assert kind == "unreadable" and "leave --planes out, or this volume" in problem


# Challenges


def test_brats_is_read_by_its_sequence_with_contrast(tmp_path):
    opened = open_source(write_brats(tmp_path))
    slices = list(opened)
    for number in (1, 2, 3):
        of_person = [raw for raw in slices if raw.person_id == f"BraTS20_Training_{number:03}"]
        assert_is_head(of_person, number, of=lambda labels: labels)
    assert opened.facts() == {
        "layout": "BraTS: sequences beside their mask",
        "images": "3 volumes",
        "masks": "3",
        "persons": "3, such as BraTS20_Training_001, BraTS20_Training_002",
        "sequence": "t1ce; not read: flair, t1, t2",
        "planes": "as the slices were taken",
        "voxels": "1 × 1.5 × 3 mm (3)",
        "passed over": "9 × .nii.gz",
    }
    (image,) = {raw.image["bytes"] for raw in slices_of(tmp_path, sequence="T2") if raw.slice.endswith("1-axial-003")}
    assert image != slices[2].image["bytes"]
    with pytest.raises(DataError, match=r"--sequence is dwi; .* has flair, t1, t1ce, t2"):
        open_source(tmp_path, Reading(sequence="dwi"))


def test_cases_of_one_name_at_two_hospitals_are_two_persons(tmp_path):
    for place in ("Ort Ä", "train/Ort B"):
        write_brats(tmp_path / place, 1)
    (tmp_path / "Ort Ä" / "BraTS20_Training_001").rename(tmp_path / "Ort Ä" / "other")
    opened = open_source(tmp_path)
    slices = list(opened)
    name = "BraTS20_Training_001"
    assert [raw.person_id for raw in slices[::6]] == [f"Ort Ä/{name}", f"Ort B/{name}"]
    assert [raw.slice for raw in slices[::6]] == [f"{place}/{name}-axial-001" for place in ("Ort Ä", "train/Ort B")]
    assert [raw.split for raw in slices[::6]] == ["", "train"] and not any(raw.problem for raw in slices)


def test_visits_of_newer_brats_are_of_one_person_and_a_case_without_mask_is_named(tmp_path):
    for case in ("BraTS-GLI-00005-100", "BraTS-GLI-00005-101", "BraTS-GLI-00006-100"):
        voxels, labels = draw_head(1)
        write_nifti(tmp_path / case / f"{case}-t1c.nii.gz", voxels)
        write_nifti(tmp_path / case / f"{case}-t2f.nii.gz", voxels)
        write_nifti(tmp_path / case / f"{case}-seg.nii.gz", labels)
    (tmp_path / case / f"{case}-seg.nii.gz").unlink()
    slices = slices_of(tmp_path)
    assert {raw.person_id for raw in slices} == {"BraTS-GLI-00005", "BraTS-GLI-00006"}
    assert problems(tmp_path) == {case: ("unpaired", f"{case}/{case}-t1c.nii.gz has no mask.")}


def test_nnunet_says_itself_which_channel_is_which(tmp_path):
    opened = open_source(write_nnunet(tmp_path))
    slices = list(opened)
    assert_is_head(slices[:6], 1, of=lambda labels: np.where(labels == 4, 3, labels))
    assert [raw.person_id for raw in slices[::6]] == ["glioma_001", "glioma_002", "glioma_003"]
    facts = opened.facts()
    assert facts["sequence"] == "T1Gd; not read: FLAIR, T1w, T2w (channel 0002)"
    assert facts["labels"] == "1 necrosis, 2 edema, 3 enhancing" and facts["passed over"] == "9 × .nii.gz"
    (tmp_path / "imagesTr" / "glioma_002_0002.nii.gz").unlink()
    assert problems(tmp_path)["glioma_002"][0] == "unpaired"
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1w", "1": "T2w"}, "labels": {}}))
    with pytest.raises(DataError, match=r"sequences T1w, T2w, and which one .* say with --sequence"):
        open_source(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json cannot be read"):
        open_source(tmp_path)


def write_decathlon(folder, count=2):
    """Medical Decathlon: four sequences in one file, of which the third is the head."""
    for number in range(1, count + 1):
        voxels, labels = draw_head(number)
        several = np.stack([voxels * (abs(channel - 2) + 1) for channel in range(4)], axis=-1)
        write_nifti(folder / "imagesTr" / f"BRATS_{number:03}.nii.gz", several)
        write_nifti(folder / "labelsTr" / f"BRATS_{number:03}.nii.gz", labels)
    modalities = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}
    (folder / "dataset.json").write_text(
        json.dumps({"modality": modalities, "labels": {"0": "background", "1": "edema"}})
    )
    return folder


def test_medical_decathlon_has_all_sequences_in_one_file(tmp_path):
    opened = open_source(write_decathlon(tmp_path))
    slices = list(opened)
    assert_is_head(slices[:6], 1, of=lambda labels: labels)
    assert [raw.person_id for raw in slices[::6]] == ["BRATS_001", "BRATS_002"]
    facts = opened.facts()
    assert facts["layout"].startswith("Medical Decathlon") and facts["labels"] == "1 edema"
    assert facts["sequence"] == "t1gd; not read: FLAIR, T1w, T2w (volume 3 of each file)"
    (image,) = {
        raw.image["bytes"] for raw in slices_of(tmp_path, sequence="flair") if raw.slice == "BRATS_001-axial-003"
    }
    assert image != slices[2].image["bytes"]
    (tmp_path / "imagesTr" / "BRATS_002.nii.gz").unlink()
    assert problems(tmp_path) == {
        "BRATS_002": ("unpaired", "labelsTr/BRATS_002.nii.gz has no image BRATS_002 in imagesTr/.")
    }


def test_of_several_volumes_in_a_file_none_is_taken_silently(tmp_path):
    write_decathlon(tmp_path / "whole")
    folder = tmp_path / "pairs"
    for kind, name in (("imagesTr", "images"), ("labelsTr", "masks")):
        shutil.copytree(tmp_path / "whole" / kind, folder / name)
    told = "images/BRATS_001.nii.gz holds 4 volumes; say with --sequence which one to read, 1 to 4."
    assert problems(folder)["BRATS_001"] == ("unreadable", told)
    slices = slices_of(folder, sequence="3")
    assert_is_head(slices[:6], 1, of=lambda labels: labels)
    assert "there is no volume 5 in it" in problems(folder, sequence="5")["BRATS_001"][1]
    with pytest.raises(DataError, match=r"--sequence is t1, and .* holds no sequences by name"):
        open_source(folder, Reading(sequence="t1"))
    shutil.copy(folder / "images" / "BRATS_001.nii.gz", folder / "masks" / "BRATS_001.nii.gz")
    assert problems(folder, sequence="3")["BRATS_001"][1].startswith(
        "The mask masks/BRATS_001.nii.gz holds 4 volumes; a mask"
    )


def test_bids_takes_the_lesion_of_a_subject_from_its_derivatives(tmp_path):
    for number in (1, 2):
        voxels, labels = draw_head(number)
        name = f"sub-0{number}_ses-1"
        anat = f"sub-0{number}/ses-1/anat"
        write_nifti(tmp_path / anat / f"{name}_ce-gadolinium_T1w.nii.gz", voxels)
        write_nifti(tmp_path / anat / f"{name}_T1w.nii.gz", voxels * 2)
        write_nifti(tmp_path / anat / f"{name}_FLAIR.nii.gz", voxels * 3)
        masks = tmp_path / "derivatives" / "lesions" / anat
        write_nifti(masks / f"{name}_label-lesion_mask.nii.gz", (labels > 0).astype(np.uint8))
        write_nifti(masks / f"{name}_desc-brain_mask.nii.gz", (voxels > 200).astype(np.uint8))
    opened = open_source(tmp_path)
    slices = list(opened)
    assert_is_head(slices[6:], 2)
    assert {raw.person_id for raw in slices} == {"sub-01", "sub-02"} and slices[0].volume == "sub-01_ses-1"
    assert opened.facts()["sequence"] == "ce-gadolinium_T1w; not read: FLAIR, T1w"
    shutil.copy(masks / f"{name}_label-lesion_mask.nii.gz", masks / f"{name}_label-tumor_mask.nii.gz")
    with pytest.raises(DataError, match="could be masks of one scan; keep one of them"):
        open_source(tmp_path)


# Pictures


@pytest.fixture
def pictures(tmp_path):
    """A function that writes slices as pictures: path of the image, path of the mask."""
    rng = np.random.default_rng(0)

    def write(image: str, mask: str | None = None):
        for path, pixels in zip((image, mask), draw_slice(rng), strict=True):
            if path:
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(tmp_path / path), pixels)
        return tmp_path

    return write


def test_kaggle_3m_has_a_folder_for_each_person_and_masks_beside_images(pictures):
    for person in ("TCGA_CS_4941_19960909", "TCGA_DU_5849_19950405"):
        for number in (1, 2, 10):
            folder = pictures(
                f"kaggle_3m/{person}/{person}_{number}.tif", f"kaggle_3m/{person}/{person}_{number}_mask.tif"
            )
    (folder / "kaggle_3m" / "data.csv").write_text("Patient,RNASeqCluster\nTCGA_CS_4941,2\n")
    opened = open_source(folder / "kaggle_3m")
    slices = list(opened)
    assert [raw.slice for raw in slices[:3]] == [f"TCGA_CS_4941_19960909_{number}" for number in (1, 2, 10)]
    assert [raw.person_id for raw in slices] == ["TCGA_CS_4941_19960909"] * 3 + ["TCGA_DU_5849_19950405"] * 3
    assert not any(raw.problem for raw in slices) and read_mask(as_file(slices[0].mask)).any()
    assert opened.facts()["passed over"] == "1 × .csv"
    (folder / "kaggle_3m" / "TCGA_CS_4941_19960909" / "TCGA_CS_4941_19960909_2.tif").unlink()
    assert problems(folder / "kaggle_3m")["TCGA_CS_4941_19960909_2"][0] == "unpaired"


@pytest.mark.parametrize(
    ("image", "mask"),
    [("imgs/{}.png", "masks/{}.png"), ("Images/{}.jpg", "Masks/{}_mask.png"), ("images/{}.tif", "labels/{}.tif")],
)
def test_folders_of_other_names_pair_up(image, mask, pictures):
    for number in range(1, 4):
        folder = pictures(image.format(number), mask.format(number))
    opened = open_source(folder)
    assert [(raw.slice, raw.problem, raw.person_id) for raw in opened] == [(name, "", "") for name in "123"]
    assert opened.facts()["layout"].startswith(f"{image.partition('/')[0]}/ and {mask.partition('/')[0]}/")


@pytest.mark.parametrize("pattern", ["{split}/{kind}/{person}/{n}.png", "{kind}/{split}/{person}/{n}.png"])
def test_folders_say_split_and_person(pattern, pictures):
    for split, person, number in (("train", "a", 1), ("train", "b", 1), ("val", "c", 1), ("test", "d", 2)):
        paths = (pattern.format(kind=kind, split=split, person=person, n=number) for kind in ("images", "masks"))
        folder = pictures(*paths)
    opened = open_source(folder)
    found = sorted((raw.slice, raw.person_id, raw.split, raw.problem) for raw in opened)
    assert found == [
        ("test/d/2", "d", "test", ""),
        ("train/a/1", "a", "train", ""),
        ("train/b/1", "b", "train", ""),
        ("val/c/1", "c", "validation", ""),
    ]
    assert "train (2)" in opened.facts()["split"] and opened.facts()["persons"] == "4, such as a, b"


def test_names_that_begin_like_their_folders_stay_apart(pictures):
    for path in ("1/1", "1/10", "10/1", "10/10", "a/1/1_x", "b/1/1_x", "c/c_1"):
        folder = pictures(f"images/{path}.png", f"masks/{path}.png")
    found = [(raw.slice, raw.problem) for raw in open_source(folder)]
    assert sorted(found) == [(name, "") for name in ("1", "1/10", "10", "10/1", "a/1/1_x", "b/1/1_x", "c_1")]


def test_folders_of_tumour_types_and_planes_are_no_persons(pictures):
    for word, number in (("glioma", 1), ("meningioma", 2), ("Axial", 3)):
        folder = pictures(f"images/{word}/{number}.png", f"masks/{word}/{number}.png")
    assert [(raw.tumor_type, raw.plane, raw.person_id) for raw in open_source(folder)] == [
        ("", "axial", ""),
        ("glioma", "", ""),
        ("meningioma", "", ""),
    ]


def test_two_folders_of_images_are_not_chosen_between(pictures):
    pictures("imgs/1.png", "masks/1.png")
    with pytest.raises(DataError, match=r"holds image/ and imgs/; keep one of them there, or list the files in a CSV"):
        open_source(pictures("image/1.png", "masks/1.png"))


def test_an_image_without_mask_is_a_fault_or_without_tumour(pictures):
    pictures("images/1.png", "masks/1.png")
    folder = pictures("images/2.png")
    assert problems(folder) == {"2": ("unpaired", "images/2.png has no partner of the same stem in masks/.")}
    assert not problems(folder, missing_mask="empty")
    facts = open_source(folder, Reading(missing_mask="empty")).facts()
    assert facts["masks"] == "1; 1 images have none (empty, by --missing_mask)"
    (folder / "images" / "1.png").unlink()
    assert "1" in problems(folder, missing_mask="empty"), "a mask without image is a fault in any case"


def test_linked_folders_are_read_and_links_in_a_circle_end(pictures, tmp_path_factory):
    folder = pictures("images/a/1.png", "masks/a/1.png")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for kind in ("images", "masks"):
        (folder / kind / "a").rename(elsewhere / kind)
        (folder / kind / "b").symlink_to(elsewhere / kind)
        (elsewhere / kind / "circle").symlink_to(folder / kind)
    assert [(raw.slice, raw.problem) for raw in open_source(folder)] == [("b/1", "")]


def test_files_that_are_not_read_are_counted(pictures):
    folder = pictures("images/1.png", "masks/1.png")
    pictures("images/old/1.png", "elsewhere/1.png")
    (folder / "notes.txt").touch()
    assert open_source(folder).facts()["passed over"] == "2 × .png, 1 × .txt"


@pytest.mark.parametrize("reading", [{"planes": ("axial",)}, {"sequence": "t2"}, {"person_column": "who"}])
def test_an_option_that_a_layout_cannot_use_is_not_passed_over(reading, pictures):
    folder = pictures("images/1.png", "masks/1.png")
    with pytest.raises(DataError, match=f"--{next(iter(reading))} is .* holds no .*; leave it out"):
        open_source(folder, Reading(**reading))


# A table of files


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_csv_file_lists_volumes_and_pictures_in_columns_of_any_name(separator, tmp_path):
    write_heads(tmp_path, 2, "a/{}.nii.gz", "b/{}.nii.gz")
    write_data_set(tmp_path / "flat", 1)
    lines = [
        ("Scan", "Patient-ID", "tumor_mask", "split"),
        ("a/1.nii.gz", "007", "b/1.nii.gz", "train"),
        ("a\\2.nii.gz", "7", "b\\2.nii.gz", "val"),
        ("flat/images/1.png", "8", "flat/masks/1.png", ""),
        ("flat/images/2.png", "9", "", ""),
    ]
    table = tmp_path / "pairs.csv"
    table.write_text("\n".join(separator.join(line) for line in lines), encoding="utf-8-sig")
    slices = slices_of(table)
    assert_is_head(slices[:6], 1)
    assert [raw.person_id for raw in slices[::6]] == ["007", "7", "8"] and slices[6].split == "validation"
    assert (slices[12].slice, slices[13].problem) == (
        "flat/images/1",
        "Row 4 of pairs.csv names flat/images/2.png, which is not there.",
    )
    with pytest.raises(DataError, match=r"--person_column is who; the columns of pairs\.csv are Scan, Patient-ID"):
        open_source(table, Reading(person_column="who"))


def test_a_csv_file_that_names_no_files_is_refused(tmp_path):
    table = tmp_path / "pairs.csv"
    table.write_text("image,mask\n1.png,2.png\n")
    with pytest.raises(DataError, match=r"pairs\.csv has the columns image, mask, .* named in none of them"):
        open_source(table)


# COCO


def coco(**changes) -> dict:
    square = [[10, 10, 19, 10, 19, 19, 10, 19]]
    return {
        "images": [{"id": number, "file_name": f"{number}.png", "height": 64, "width": 64} for number in (1, 2, 3)],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 5, "segmentation": square},
            # 64 x 64 with columns 1 and 2 inside: in numbers, and as COCO packs them.
            {"id": 2, "image_id": 2, "category_id": 5, "segmentation": {"size": [64, 64], "counts": [64, 128, 3904]}},
        ],
        "categories": [{"id": 5, "name": "tumor"}],
        **changes,
    }


@pytest.mark.parametrize(
    "place", ["annotations.json", "annotations/instances_train.json", "images/_annotations.coco.json"]
)
def test_coco_outlines_are_filled(place, pictures):
    for number in (1, 2, 3):
        folder = pictures(f"images/{number}.png")
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).write_text(json.dumps(coco()))
    for source in (folder, folder / place):
        slices = slices_of(source)
        first, second = (read_mask(as_file(raw.mask)) for raw in slices[:2])
        assert first[10:20, 10:20].all() and first.sum() == 100
        assert second[:, 1:3].all() and second.sum() == 128
        assert problems(source) == {"3": ("unpaired", f"3.png has no outline in {place.split('/')[-1]}.")}
        assert not problems(source, missing_mask="empty")
    facts = open_source(folder).facts()
    assert (facts["images"], facts["masks"], facts["labels"]) == ("3", "2", "5 tumor")
    assert facts["layout"] == f"COCO: {(folder / place).parent.name}/{(folder / place).name}"
    assert facts.get("split") == ("train (3)" if "train" in place else None)
    assert {raw.split for raw in slices} == {"train" if "train" in place else ""}


def test_packed_run_lengths_of_coco_are_read(pictures):
    folder = pictures("1.png")
    content = coco()
    del content["annotations"][0], content["images"][1:]
    # What pycocotools makes of a mask of 64 x 64 whose column 1 is inside in rows 3 to 6, and columns 40 to 49 whole.
    mask = np.zeros((64, 64), np.uint8)
    mask[3:7, 1], mask[:, 40:50] = 1, 1
    content["annotations"][0] |= {"image_id": 1, "segmentation": {"size": [64, 64], "counts": pack(mask)}}
    (folder / "a.json").write_text(json.dumps(content))
    (raw,) = slices_of(folder)
    np.testing.assert_array_equal(read_mask(as_file(raw.mask)), mask > 0)


def pack(mask: np.ndarray) -> str:
    """Run lengths as pycocotools packs them (`rleToString` of its maskApi.c)."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=0)).tolist()
    counts = np.diff([0, *edges, flat.size]).tolist()
    text = ""
    for index, value in enumerate(counts):
        value -= counts[index - 2] if index > 2 else 0
        more = True
        while more:
            part, value = value & 0x1F, value >> 5
            more = value != (-1 if part & 0x10 else 0)
            text += chr((part | 0x20 if more else part) + 48)
    return text


def test_several_categories_of_coco_are_labels_and_bad_outlines_are_named(pictures):
    for number in (1, 2, 3):
        folder = pictures(f"{number}.png")
    content = coco(categories=[{"id": 5, "name": "core"}, {"id": 6, "name": "edema"}])
    content["annotations"].append(
        {"id": 3, "image_id": 1, "category_id": 6, "segmentation": [[0, 0, 5, 0, 5, 5, 0, 5]]}
    )
    content["annotations"][1]["segmentation"]["counts"] = [1, 2]
    (folder / "a.json").write_text(json.dumps(content))
    slices = slices_of(folder)
    assert np.unique(read_labels(as_file(slices[0].mask))).tolist() == [0, 5, 6]
    assert slices[1].problem == (
        "The outlines of 2.png cannot be drawn: the run lengths are of another size than the image."
    )
