"""DICOM series as scanners and programs write them: the right slices, each at its place, and what is odd is said."""

import gzip
import io
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import phantoms
import pytest
from phantoms import noise

from modeling_unet.volumes.volume import Volume, VolumeError, is_volume, read_volume


VOXELS = noise(8, 20, 24)
FROM = [-10.0, -20.0]  # where a phantom's slices begin, in mm towards left and posterior


def written(folder: Path, slices: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in slices.items():
        (folder / name).write_bytes(content)
    return folder


def stack(tags=lambda place: {}, voxels: np.ndarray = VOXELS, first: int = 1) -> dict[str, bytes]:
    """Axial slices, 6 mm apart, whose tags `tags` changes by their place; names and numbers begin at `first`."""
    return {
        f"{first + place:03d}": phantoms.dicom(
            pixels, first + place, **{"ImagePositionPatient": [*FROM, 6.0 * place], **tags(place)}
        )
        for place, pixels in enumerate(voxels)
    }


def mask_of(volume: Volume) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(volume.to_nifti(np.ones(volume.slices.shape, bool))))


def is_read_whole(volume: Volume, voxels: np.ndarray = VOXELS):
    np.testing.assert_array_equal(volume.slices, voxels)
    assert volume.slice_spacing == pytest.approx(6) and volume.voxel_ml == pytest.approx(0.5 * 0.75 * 6 / 1000)


# Which slices make one stack


def test_localizer_of_the_same_plane_does_not_change_the_size_of_pixels(tmp_path):
    localizer = phantoms.dicom(noise(20, 24, seed=1), 99, PixelSpacing=[2, 2], ImagePositionPatient=[*FROM, -30])
    volume = read_volume(written(tmp_path, {"000": localizer, **stack()}))
    is_read_whole(volume)
    assert volume.spacing == (0.5, 0.75)
    (said,) = volume.warnings
    assert "number 2 was read" in said and said.endswith("and not 1 (T1-weighted with contrast, axial, 1 slice).")


def test_a_series_uid_of_every_slice_is_said(tmp_path):
    volume = read_volume(written(tmp_path, stack(lambda place: {"SeriesInstanceUID": f"1.2.3.{place}"})))
    is_read_whole(volume)
    assert volume.warnings == ("Each of 8 slices names a series of its own; they are alike and were put together.",)


def test_single_slices_of_other_sequences_are_not_put_together(tmp_path):
    names = ("T1 +C", "T2 TSE")
    slices = stack(lambda place: {"SeriesInstanceUID": f"1.2.3.{place}", "SeriesDescription": names[place % 2]})
    np.testing.assert_array_equal(read_volume(written(tmp_path, slices)).slices, VOXELS[::2])


@pytest.mark.parametrize("cosine", [0.125, 0.005, 0.0])
def test_jitter_of_the_orientation_keeps_a_stack_together(tmp_path, cosine):
    """About these values rounding to a number of decimals would go up and down."""

    def tags(place):
        jittered = cosine + (1e-6 if place % 2 else -1e-6)
        orientation = [1, 0, 0, 0, np.sqrt(1 - jittered**2), jittered]
        position = 6.0 * place * np.cross(orientation[:3], orientation[3:])
        return {
            "ImageOrientationPatient": [f"{value:.6f}" for value in orientation],
            "ImagePositionPatient": [f"{value:.6f}" for value in position],
            "PixelSpacing": [0.5, 0.75 + 1e-7 * place],
        }

    volume = read_volume(written(tmp_path, stack(tags)))
    is_read_whole(volume)
    assert volume.warnings == () and int(mask_of(volume).header["qform_code"]) == 1


# Where slices lie


@pytest.mark.parametrize("position", [[0, 0, 0], [-10, -20, 6], None])
def test_slices_are_sorted_by_location_where_positions_say_nothing(tmp_path, position):
    slices = stack(
        lambda place: {"ImagePositionPatient": position, "SliceLocation": 6.0 * place - 12, "InstanceNumber": 9 - place}
    )
    volume = read_volume(written(tmp_path, slices))
    is_read_whole(volume)
    assert volume.plane == "axial"
    assert volume.warnings == (
        "The tags do not say where the slices lie; their order and distances are by SliceLocation.",
    )


@pytest.mark.parametrize("plane", list(phantoms.ORIENTATIONS))
def test_locations_grow_to_the_left_to_the_back_and_up(tmp_path, plane):
    columns, rows = phantoms.ORIENTATIONS[plane]
    normal = np.cross(columns, rows)
    slices = stack(
        lambda place: {
            "ImageOrientationPatient": [*columns, *rows],
            "ImagePositionPatient": None,
            "SliceLocation": 6.0 * place * normal.sum(),
        }
    )
    reference = phantoms.series(tmp_path / "reference", VOXELS, plane)
    np.testing.assert_array_equal(read_volume(written(tmp_path / "scan", slices)).slices, read_volume(reference).slices)


@pytest.mark.parametrize("location", [3.0, None])
def test_slices_are_sorted_by_number_where_nothing_else_is_known(tmp_path, location):
    slices = stack(
        lambda place: {"ImagePositionPatient": [0, 0, 0], "SliceLocation": location, "InstanceNumber": 9 - place}
    )
    volume = read_volume(written(tmp_path, slices))
    is_read_whole(volume, VOXELS[::-1])
    assert volume.warnings == ("The tags do not say where the slices lie; they are in the order of their numbers.",)


def test_missing_slices_stay_empty_and_later_ones_stay_in_place(tmp_path):
    slices = stack()
    for name in ("003", "004", "005", "007"):
        del slices[name]
    volume = read_volume(written(tmp_path / "gaps", slices))
    expected = VOXELS.copy()
    expected[[2, 3, 4, 6]] = 0
    is_read_whole(volume, expected)
    assert volume.warnings == (
        "4 of 8 slices are missing (3 to 5, 7): they are empty here, and what a tumour has in them is not measured.",
    )
    whole = read_volume(written(tmp_path / "whole", stack()))
    np.testing.assert_allclose(mask_of(volume).affine, mask_of(whole).affine, atol=1e-5)


def test_missing_slices_are_counted_as_they_are_shown(tmp_path):
    folder = phantoms.series(tmp_path, VOXELS, "coronal")
    for file in folder.iterdir():
        if b"\\6.0\\" in file.read_bytes():  # the position of the second, from the front
            file.unlink()
    volume = read_volume(folder)
    assert not volume.slices[6].any() and volume.slices[5].any()
    assert "1 of 8 slices are missing (7)" in volume.warnings[0]


def test_uneven_slices_are_said_with_numbers(tmp_path):
    heights = np.array([0, 4, 10, 14, 20, 26, 30, 36.0])
    volume = read_volume(written(tmp_path, stack(lambda place: {"ImagePositionPatient": [*FROM, heights[place]]})))
    np.testing.assert_array_equal(volume.slices, VOXELS)
    assert volume.warnings == (
        "The slices are 4.0 to 6.0 mm apart, and some may be missing: in the mask they lie up to 1.4 mm from where "
        "they were taken, and mL are not exact.",
    )
    assert volume.volume_ml(np.ones(VOXELS.shape, bool)) == pytest.approx(VOXELS.size * 0.5 * 0.75 * 36 / 7 / 1000)


@pytest.mark.parametrize("heights", [[0, 6, 12, 18, 25, 40, 44, 61], [0, 6, 12, 18, 24, 30, 36, 600]])
def test_slices_with_gaps_that_no_grid_explains_get_no_millilitres(tmp_path, heights):
    volume = read_volume(written(tmp_path, stack(lambda place: {"ImagePositionPatient": [*FROM, heights[place]]})))
    np.testing.assert_array_equal(volume.slices, VOXELS)
    assert volume.volume_ml(np.ones(VOXELS.shape, bool)) is None and volume.slice_spacing is None
    (said,) = volume.warnings
    assert said.endswith("and no mL are given.")


def test_slices_beside_each_other_are_said(tmp_path):
    def tags(place):
        return {"ImagePositionPatient": [-10.0 + 5 * (place == 3), -20.0, 6.0 * place]}

    volume = read_volume(written(tmp_path, stack(tags)))
    is_read_whole(volume)
    assert volume.warnings == ("Slices lie up to 5.0 mm beside each other; the mask is off by as much.",)


def test_mask_of_a_stack_that_leans_has_an_sform_alone(tmp_path):
    """A qform would put it at right angles, and ITK reads that first."""

    def tags(place):
        return {"ImagePositionPatient": [-10, -20 + 2.0 * place, 6.0 * place]}

    volume = read_volume(written(tmp_path, stack(tags)))
    is_read_whole(volume)
    image = mask_of(volume)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 0)
    np.testing.assert_allclose(image.affine @ [0, 0, 7, 1], [10, 20 - 14, 42, 1], atol=1e-4)
    (said,) = volume.warnings
    assert said.startswith("The slices follow each other aslant") and "ITK" in said


def test_positions_that_are_too_far_to_be_true_are_damaged_tags(tmp_path):
    slices = stack(lambda place: {"ImagePositionPatient": [0, 0, "1e300" if place == 7 else 6.0 * place]})
    volume = read_volume(written(tmp_path, slices))
    is_read_whole(volume, VOXELS[:7])
    assert "ImagePositionPatient needs numbers up to 1,000,000 mm." in volume.warnings[0]


# What is damaged, or not there


def truncated(content: bytes) -> bytes:
    return content[:-100]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncated, "is truncated or damaged; its pixels cannot be decoded."),
        (lambda content: content[:300], "is truncated; it ends before its pixels."),
        (lambda content: b"", "is empty (0 bytes)."),
    ],
    ids=["pixels", "tags", "empty"],
)
@pytest.mark.parametrize("in_zip", [False, True])
def test_a_damaged_slice_does_not_cost_the_others(tmp_path, damage, said, in_zip):
    slices = stack()
    slices["004"] = damage(slices["004"])
    source = written(tmp_path / "scan", slices)
    if in_zip:
        with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
            for name, content in slices.items():
                archive.writestr(name, content)
        source = tmp_path / "scan.zip"
    volume = read_volume(source)
    expected = VOXELS.copy()
    expected[3] = 0
    is_read_whole(volume, expected)
    left_out, missing = volume.warnings
    assert left_out.startswith("1 of 8 files were left out: DICOM file 4 of 8 ")
    assert left_out.endswith(said)
    assert missing.startswith("1 of 8 slices are missing (4)")


def test_black_of_an_inverted_stack_is_not_made_of_a_missing_slice(tmp_path):
    slices = stack(lambda place: {"PhotometricInterpretation": "MONOCHROME1"})
    del slices["003"]
    volume = read_volume(written(tmp_path, slices))
    assert not volume.slices[2].any()
    kept = np.delete(VOXELS, 2, axis=0).astype(float)
    np.testing.assert_array_equal(np.delete(volume.slices, 2, axis=0), kept.max() - kept)


def test_a_stack_of_nothing_but_damaged_slices_is_refused(tmp_path):
    slices = {name: truncated(content) for name, content in stack().items()}
    with pytest.raises(VolumeError, match="truncated or damaged; its pixels cannot be decoded"):
        read_volume(written(tmp_path, slices))


def bare(pixels: np.ndarray, number: int, begin: bytes, is_implicit: bool) -> bytes:
    """A slice that begins with its first tag, after `begin`."""
    data, content = phantoms.dataset(pixels, number), io.BytesIO()
    del data.file_meta
    data.save_as(content, implicit_vr=is_implicit, little_endian=True)
    return begin + content.getvalue()


PREAMBLE = bytes(128) + b"DICM"


@pytest.mark.parametrize("is_implicit", [True, False], ids=["implicit", "explicit"])
@pytest.mark.parametrize("preamble", [PREAMBLE, b""], ids=["preamble", "no preamble"])
@pytest.mark.parametrize("meta", ["", "1.2.840.10008.1.2"])
def test_files_without_preamble_or_meta_header_are_read(tmp_path, is_implicit, preamble, meta):
    syntax = f"{meta}.1\0" if meta and not is_implicit else meta + "\0" * (len(meta) % 2)
    begin = preamble + (b"\x02\0\x10\0UI" + bytes([len(syntax), 0]) + syntax.encode() if meta else b"")
    slices = {str(place): bare(pixels, place + 1, begin, is_implicit) for place, pixels in enumerate(VOXELS)}
    folder = written(tmp_path, slices)
    assert is_volume(folder)
    volume = read_volume(folder)
    is_read_whole(volume)
    assert volume.warnings == ()


@pytest.mark.parametrize("content", [bytes(500), b"\x08\0" * 400, b"\x08\0\x05\0" * 200, b"\x02\0text and text" * 50])
def test_what_begins_like_a_tag_is_no_dicom(tmp_path, content):
    assert not is_volume(written(tmp_path, {"a": content}) / "a")


@pytest.mark.parametrize("position", [[0, 0, 0], None])
def test_an_orientation_of_zeros_is_unknown(tmp_path, position):
    slices = stack(lambda place: {"ImageOrientationPatient": [0] * 6, "ImagePositionPatient": position})
    volume = read_volume(written(tmp_path, slices))
    is_read_whole(volume)
    assert volume.plane == "unknown"
    assert volume.warnings[1:] == (
        "The tags do not say how the patient lies; the slices are shown as they are stored.",
    )


def test_slices_of_unknown_orientation_follow_their_positions(tmp_path):
    slices = stack(lambda place: {"ImageOrientationPatient": None, "ImagePositionPatient": [6.0 * place, 5, 5]})
    volume = read_volume(written(tmp_path, slices))
    is_read_whole(volume)
    assert volume.plane == "unknown"


def test_a_spacing_of_zeros_is_unknown(tmp_path):
    volume = read_volume(written(tmp_path, stack(lambda place: {"PixelSpacing": [0, 0]})))
    np.testing.assert_array_equal(volume.slices, VOXELS)
    assert volume.spacing is None and volume.voxel_ml is None
    assert volume.warnings == ("The tags do not say how large pixels are; nothing can be measured in mm.",)


# Several images of every place, and several series


BEFORE = VOXELS // 2

KINDS = {
    "magnitude": ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]}),
    "real": ({"ComplexImageComponent": "PHASE"}, {"ComplexImageComponent": "MAGNITUDE"}),
    "computed": ({"ImageType": ["DERIVED", "PRIMARY"]}, {"ImageType": ["ORIGINAL", "PRIMARY"]}),
    "contrast": ({"ContrastBolusAgent": None, "SeriesDescription": "T1"}, {"SeriesDescription": "T1"}),
    "echo": ({"EchoTime": 80}, {"EchoTime": 12}),
    "time": ({"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2}),
    "acquisition": ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_first", [False, True])
def test_of_two_images_of_every_place_the_one_that_the_network_knows_is_read(tmp_path, kind, is_first):
    """Whichever of them has the lower numbers."""
    other, right = KINDS[kind]
    slices = {
        **stack(lambda place: other, BEFORE, 50),
        **stack(lambda place: right, VOXELS, 1 if is_first else 90),
    }
    volume = read_volume(written(tmp_path, slices))
    is_read_whole(volume)
    named, said = volume.warnings[-2:]
    assert named.startswith("The files hold 2 stacks of slices; number ")
    assert said.startswith("A series holds 2 images of every place, and one of them was read: ")
    assert said.endswith(", the last, as contrast is given before it.") == (kind in ("time", "acquisition"))
    other_number = 2 if "and not 2 (" in named else 1
    np.testing.assert_array_equal(read_volume(tmp_path, stack=other_number).slices, BEFORE)


def test_of_two_images_that_no_tag_tells_apart_the_later_one_is_read(tmp_path):
    volume = read_volume(written(tmp_path, {**stack(voxels=BEFORE), **stack(first=9)}))
    is_read_whole(volume)
    assert volume.warnings[-1] == (
        "A series holds 2 images of every place, and one of them was read: number 2 of every place, the last, as "
        "contrast is given before it."
    )


def test_of_two_images_with_the_same_numbers_the_one_taken_later_is_read(tmp_path):
    before = stack(lambda place: {"AcquisitionTime": f"0959{place:02}.5"}, BEFORE)
    after = stack(lambda place: {"AcquisitionTime": f"1004{place:02}.5"})
    # In the order of their names, the later ones come first.
    files = {f"a{name}": content for name, content in after.items()}
    volume = read_volume(written(tmp_path, {**files, **{f"b{name}": content for name, content in before.items()}}))
    is_read_whole(volume)
    assert volume.warnings[-1].endswith("number 2 of every place, the last, as contrast is given before it.")


def test_a_slice_taken_again_does_not_replace_the_stack(tmp_path):
    again = phantoms.dicom(noise(20, 24, seed=3), 99, AcquisitionNumber=2, ImagePositionPatient=[*FROM, 18])
    volume = read_volume(written(tmp_path, {**stack(lambda place: {"AcquisitionNumber": 1}), "again": again}))
    is_read_whole(volume)
    assert volume.warnings == ("1 slices lie where another one does and were left out.",)


def test_slices_taken_in_turns_stay_one_stack(tmp_path):
    volume = read_volume(written(tmp_path, stack(lambda place: {"AcquisitionNumber": place % 2 + 1})))
    is_read_whole(volume)
    assert volume.warnings == ()


def test_a_slice_that_one_kind_lacks_is_not_taken_from_the_other(tmp_path):
    after = stack(lambda place: {"AcquisitionNumber": 2}, first=9)
    del after["012"]
    volume = read_volume(written(tmp_path, {**stack(lambda place: {"AcquisitionNumber": 1}, BEFORE), **after}))
    expected = VOXELS.copy()
    expected[3] = 0
    is_read_whole(volume, expected)


def test_magnitude_and_phase_of_unknown_places_are_told_apart(tmp_path):
    def kind(letter):
        return lambda place: {"ImagePositionPatient": None, "ImageType": ["ORIGINAL", "PRIMARY", letter]}

    volume = read_volume(written(tmp_path, {**stack(kind("M")), **stack(kind("P"), BEFORE, 9)}))
    is_read_whole(volume)


SERIES = {
    "t2": {"SeriesDescription": "T2 TSE", "ContrastBolusAgent": None},
    "before": {"SeriesDescription": "T1 SE", "ContrastBolusAgent": "NONE"},
    "after": {"SeriesDescription": "T1 SE +C"},
    "phase": {"SeriesDescription": "T1 SE +C", "ImageType": ["ORIGINAL", "PRIMARY", "P"]},
    "computed": {"SeriesDescription": "T1 SE +C SUB", "ImageType": ["DERIVED", "SECONDARY"]},
}


def study(folder: Path, *names: str) -> Path:
    """One folder for each series; all but the one after contrast have more slices."""
    for name in names:
        voxels = VOXELS if name == "after" else noise(12, 20, 24, seed=len(name))
        phantoms.series(folder / name, voxels, SeriesInstanceUID=f"1.2.3.{names.index(name)}", **SERIES[name])
    return folder


def test_the_series_after_contrast_is_read_and_the_others_are_named(tmp_path):
    volume = read_volume(study(tmp_path, *SERIES))
    is_read_whole(volume)
    (said,) = volume.warnings
    assert said == (
        "The files hold 5 stacks of slices; number 1 was read (T1-weighted with contrast, axial, 8 slices 6.0 mm "
        "apart), and not 2 (T1-weighted without contrast, axial, 12 slices 6.0 mm apart), 3 (T1-weighted with "
        "contrast, axial, 12 slices 6.0 mm apart, computed from others), 4 (T1-weighted with contrast, axial, 12 "
        "slices 6.0 mm apart, phase), 5 (not T1-weighted, axial, 12 slices 6.0 mm apart)."
    )


def test_another_stack_can_be_asked_for(tmp_path):
    volume = read_volume(study(tmp_path, "after", "t2"), stack=2)
    assert len(volume.slices) == 12 and any("not T1-weighted" in warning for warning in volume.warnings)
    for number in (0, 3):
        said = rf"no stack {number} in the files; they hold 1 \(T1-weighted .*\), 2 \(not T1-weighted, .*\)\.$"
        with pytest.raises(VolumeError, match=said):
            read_volume(tmp_path, stack=number)


def test_of_series_of_one_kind_the_finest_is_read_unless_it_shows_little_of_the_head(tmp_path):
    phantoms.series(tmp_path / "thick", noise(9, 20, 24))
    phantoms.series(tmp_path / "fine", noise(40, 20, 24, seed=1), gap=1.0, SeriesInstanceUID="1.2.3.1")
    phantoms.series(tmp_path / "short", noise(9, 20, 24, seed=2), gap=0.5, SeriesInstanceUID="1.2.3.2")
    assert len(read_volume(tmp_path).slices) == 40


# NIfTI


def test_an_empty_sform_gives_way_to_the_qform(tmp_path):
    turned = np.diag([-0.5, -0.75, 6, 1.0])
    turned[:3, 3] = 10, 20, -30

    def edit(header):
        header.set_qform(turned, code=1)
        header["sform_code"] = 1
        header["srow_x"] = header["srow_y"] = header["srow_z"] = 0

    voxels = noise(24, 20, 8)
    (tmp_path / "scan.nii").write_bytes(phantoms.nifti(voxels, packed=False, edit=edit))
    volume = read_volume(tmp_path / "scan.nii")
    assert volume.plane == "axial" and volume.spacing == pytest.approx((0.75, 0.5))
    np.testing.assert_array_equal(volume.slices, voxels.T)
    image = mask_of(volume)
    np.testing.assert_allclose(image.affine, turned, atol=1e-5)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (0, 1)
    assert "The file's sform is empty; the scan lies where its qform says." in volume.warnings


def test_an_empty_sform_without_a_qform_is_unknown(tmp_path):
    def edit(header):
        header["srow_x"] = header["srow_y"] = header["srow_z"] = 0

    (tmp_path / "scan.nii").write_bytes(phantoms.nifti(noise(24, 20, 8), packed=False, edit=edit))
    volume = read_volume(tmp_path / "scan.nii")
    assert volume.plane == "unknown" and volume.spacing == pytest.approx((0.5, 0.5))
    assert any("turned or mirrored" in warning for warning in volume.warnings)
