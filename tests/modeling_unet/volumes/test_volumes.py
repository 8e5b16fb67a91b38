"""Volumes: slices turned as in the training data, masks turned back, and tags of a person that go nowhere."""

import gzip
import itertools
import logging
import tracemalloc
import zipfile
from pathlib import Path

import fresh
import nibabel as nib
import numpy as np
import phantoms
import pytest
from phantoms import noise
from pydicom.data import get_testdata_file
from pydicom.uid import MediaStorageDirectoryStorage as MediaStorageDirectory
from pydicom.uid import SecondaryCaptureImageStorage, UID_dictionary

from modeling_unet.volumes import scan
from modeling_unet.volumes.archives import members
from modeling_unet.volumes.dicom.apart import Apart
from modeling_unet.volumes.dicom.tags import HTJ2K
from modeling_unet.volumes.volume import DISPLAY, VolumeError, is_volume, read_volume


ALL_ORIENTATIONS = [
    tuple(code[sign] for code, sign in zip(axes, signs, strict=True))
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for signs in itertools.product((0, 1), repeat=3)
]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def zipped(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


def affine_of(axcodes: tuple[str, ...], sizes: tuple[float, ...]) -> np.ndarray:
    """An affine whose axes end where `axcodes` say, with voxels of the given sizes."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (code, size) in enumerate(zip(axcodes, sizes, strict=True)):
        patient_axis = next(index for index, codes in enumerate(("LR", "PA", "IS")) if code in codes)
        affine[patient_axis, axis] = size if code in "RAS" else -size
    affine[:3, 3] = (12, -34, 56)
    return affine


def mask_file(content: bytes) -> nib.Nifti1Image:
    return nib.Nifti1Image.from_bytes(gzip.decompress(content))


# Orientation


def place_of_end(code: str, plane: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """(axis of `slices`, index) at which the side `code` of the patient has to lie, by the documented table."""
    ends = {
        "axial": {"S": (0, -1), "I": (0, 0), "P": (1, -1), "A": (1, 0), "L": (2, -1), "R": (2, 0)},
        "coronal": {"A": (0, -1), "P": (0, 0), "I": (1, -1), "S": (1, 0), "L": (2, -1), "R": (2, 0)},
        "sagittal": {"L": (0, -1), "R": (0, 0), "I": (1, -1), "S": (1, 0), "P": (2, -1), "A": (2, 0)},
    }
    axis, end = ends[plane][code]
    return axis, end % shape[axis]


@pytest.mark.slow
@pytest.mark.parametrize("axcodes", ALL_ORIENTATIONS, ids="".join)
def test_every_nifti_orientation_is_turned_and_turned_back(tmp_path, axcodes):
    """The slab whose voxels are largest along one axis is looked at along it; every side of the patient shows where
    radiologists expect it, and a mask of one voxel comes back at that voxel."""
    for slice_axis in range(3):
        shape, sizes = [20, 22, 24], [0.5, 0.5, 0.5]
        shape[slice_axis], sizes[slice_axis] = 5, 4.0
        plane = {"R": "sagittal", "L": "sagittal", "A": "coronal", "P": "coronal"}.get(axcodes[slice_axis], "axial")
        affine = affine_of(axcodes, tuple(sizes))
        for axis, code in enumerate(axcodes):
            voxels = np.zeros(shape, np.int16)
            voxels[tuple(-1 if other == axis else slice(None) for other in range(3))] = 100
            volume = read_volume(write(tmp_path / "scan.nii", phantoms.nifti(voxels, affine, packed=False)))
            assert volume.plane == plane
            shown_axis, end = place_of_end(code, plane, volume.slices.shape)
            expected = np.zeros_like(volume.slices)
            expected[tuple(end if other == shown_axis else slice(None) for other in range(3))] = 100
            np.testing.assert_array_equal(volume.slices, expected)
        assert volume.spacing == pytest.approx((0.5, 0.5)) and volume.slice_spacing == pytest.approx(4)

        voxels = np.zeros(shape, np.int16)
        voxels[1, 2, 3] = 7
        volume = read_volume(write(tmp_path / "scan.nii", phantoms.nifti(voxels, affine, packed=False)))
        image = mask_file(volume.to_nifti(volume.slices == 7))
        np.testing.assert_array_equal(np.asarray(image.dataobj), voxels == 7)
        np.testing.assert_allclose(image.affine, affine, atol=1e-5)


def test_display_ends_where_the_documented_table_says():
    assert DISPLAY == {"axial": "SPL", "coronal": "AIL", "sagittal": "LIP"}


def test_equal_sides_are_shown_as_axial_slices(tmp_path):
    voxels = noise(20, 22, 24)
    volume = read_volume(write(tmp_path / "scan.nii.gz", phantoms.nifti(voxels, np.eye(4))))
    assert volume.plane == "axial"
    np.testing.assert_array_equal(volume.slices[3], voxels[::-1, ::-1, 3].T)


def test_oblique_scan_keeps_its_geometry(tmp_path):
    angle = np.deg2rad(20)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine = turn @ affine_of(("L", "A", "S"), (0.9, 0.8, 3.0))
    volume = read_volume(write(tmp_path / "scan.nii.gz", phantoms.nifti(noise(20, 22, 5), affine)))
    assert volume.plane == "axial"
    assert volume.spacing == pytest.approx((0.8, 0.9)) and volume.slice_spacing == pytest.approx(3)
    np.testing.assert_allclose(mask_file(volume.to_nifti(volume.slices > 500)).affine, affine, atol=1e-5)


@pytest.mark.parametrize("lean", [0.5, 0.02, 0.005])
def test_leaning_rows_and_columns_are_said_and_do_not_change_the_volume(tmp_path, lean):
    affine = np.array([[1, lean, 0, 0], [0, 1, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1.0]])
    volume = read_volume(write(tmp_path / "scan.nii", phantoms.nifti(noise(20, 22, 5), affine, packed=False)))
    assert volume.voxel_ml == pytest.approx(0.003)
    assert volume.volume_ml(np.ones(volume.slices.shape, bool)) == pytest.approx(20 * 22 * 5 * 0.003)
    said = [warning for warning in volume.warnings if "instead of 90°" in warning]
    assert len(said) == (lean > 0.01) and all(warning.endswith("are not exact.") for warning in said)


def test_leaning_stack_keeps_its_volume_without_a_warning(tmp_path):
    """Slices that follow each other aslant, as under a tilted gantry, are 3 mm apart all the same."""
    affine = np.array([[1, 0, 1, 0], [0, 1, 2, 0], [0, 0, 3, 0], [0, 0, 0, 1.0]])
    volume = read_volume(write(tmp_path / "scan.nii", phantoms.nifti(noise(20, 22, 5), affine, packed=False)))
    assert volume.voxel_ml == pytest.approx(0.003) and volume.slice_spacing == pytest.approx(3)
    assert not any("instead of 90°" in warning for warning in volume.warnings)


# NIfTI


def test_nifti_mask_has_shape_codes_and_unit_of_the_scan(tmp_path):
    def edit(header):
        header.set_qform(np.diag([2e-3, 2e-3, 5e-3, 1]), code=2)
        header.set_sform(np.diag([2e-3, 2e-3, 5e-3, 1]), code=4)
        header.set_xyzt_units("meter")
        header["descrip"] = b"Kowalska Zofia 1953"

    content = phantoms.nifti(noise(20, 22, 5, 1), packed=False, edit=edit)
    volume = read_volume(write(tmp_path / "scan.nii", content))
    assert volume.spacing == pytest.approx((2, 2)) and volume.slice_spacing == pytest.approx(5)
    assert volume.volume_ml(np.ones_like(volume.slices, bool)) == pytest.approx(20 * 22 * 5 * 0.02)
    packed = volume.to_nifti(volume.slices > 500)
    header = mask_file(packed).header
    assert header.get_data_shape() == (20, 22, 5, 1) and header.get_data_dtype() == np.uint8
    assert (int(header["sform_code"]), int(header["qform_code"])) == (4, 2)
    assert header.get_xyzt_units()[0] == "meter"
    assert b"Kowalska" not in gzip.decompress(packed)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("order", ["<", ">"])
def test_nifti_values_are_read_scaled(tmp_path, dtype, order):
    voxels = np.arange(20 * 20 * 2).reshape(20, 20, 2) % 200
    image = nib.Nifti1Image(voxels.astype(dtype), np.diag([-1.0, -1, 3, 1]))
    header = image.header.as_byteswapped(order)
    header.set_data_dtype(np.dtype(dtype).newbyteorder(order))
    header["scl_slope"], header["scl_inter"] = 2, -3
    header["vox_offset"] = 352
    raw = voxels.astype(np.dtype(dtype).newbyteorder(order))
    volume = read_volume(write(tmp_path / "a.nii", header.binaryblock + b"\0" * 4 + raw.tobytes(order="F")))
    np.testing.assert_allclose(volume.slices, np.moveaxis(voxels * 2.0 - 3, (0, 1, 2), (2, 1, 0)))
    assert volume.slices.dtype == np.float32 and volume.slices.flags.c_contiguous


def test_nifti_2_and_gzip_in_parts_are_read(tmp_path):
    voxels = noise(20, 22, 5)
    content = nib.Nifti2Image(voxels, np.diag([-1.0, -1, 3, 1])).to_bytes()
    parts = gzip.compress(content[:5000]) + gzip.compress(content[5000:])
    volume = read_volume(write(tmp_path / "scan.nii.gz", parts))
    np.testing.assert_array_equal(volume.slices, voxels.T)


def test_what_is_not_finite_becomes_0_and_is_said(tmp_path):
    voxels = noise(20, 20, 3).astype(np.float32)
    voxels[3, 4, 1], voxels[5, 6, 2] = np.nan, np.inf
    volume = read_volume(write(tmp_path / "scan.nii", phantoms.nifti(voxels, packed=False)))
    assert np.isfinite(volume.slices).all() and np.count_nonzero(volume.slices) <= voxels.size - 2
    assert any("not finite" in warning for warning in volume.warnings)


def test_what_is_not_finite_is_as_dark_as_what_is_darkest(tmp_path):
    """As around a brain whose values were brought to mean 0."""
    voxels = noise(20, 20, 3).astype(np.float32) - 900
    voxels[0, 0], lowest = np.nan, np.nanmin(voxels[1:])
    volume = read_volume(write(tmp_path / "scan.nii", phantoms.nifti(voxels, packed=False)))
    assert (volume.slices[:, -1, -1] == lowest).all() or (volume.slices[:, 0, 0] == lowest).all()
    assert f"Some values are not finite; they were taken for {lowest:g}." in volume.warnings


def test_voxels_of_colours_are_called_so(tmp_path):
    voxels = np.zeros((20, 20, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(VolumeError, match="the voxels are colours; allowed are integers and floats"):
        read_volume(write(tmp_path / "scan.nii", phantoms.nifti(voxels, packed=False)))


def test_nifti_says_that_sequence_and_orientation_are_unknown(tmp_path):
    def forget(header):
        header["sform_code"] = header["qform_code"] = 0

    volume = read_volume(write(tmp_path / "a.nii", phantoms.nifti(noise(20, 20, 3), packed=False)))
    assert volume.warnings == (
        "A NIfTI file does not say which sequence it is: the network knows T1-weighted MR with contrast alone.",
    )
    volume = read_volume(write(tmp_path / "b.nii", phantoms.nifti(noise(20, 20, 3), packed=False, edit=forget)))
    assert volume.plane == "unknown"
    assert any("turned or mirrored" in warning for warning in volume.warnings)


def edited(**fields):
    def edit(header):
        for name, value in fields.items():
            header[name] = value

    return phantoms.nifti(noise(20, 20, 3), packed=False, edit=edit)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (edited()[:-5], "truncated; 5 bytes"),
        (edited(dim=[5, 20, 20, 3, 100, 100, 1, 1]), "claims 10,000 volumes; allowed are 1 to 4,096"),
        (phantoms.nifti(noise(20, 20, 3).astype(np.complex64), packed=False), "type complex64"),
        (edited(dim=[3, 3000, 20, 3, 1, 1, 1, 1]), "3000 × 20 × 3 voxels; allowed are 1 to 2048"),
        (edited(dim=[3, 2000, 2000, 2000, 1, 1, 1, 1]), "at most 67,108,864"),
        (edited(dim=[3, -20, 20, 3, 1, 1, 1, 1]), "allowed are 1 to 2048"),
        (edited(dim=[9, 20, 20, 3, 1, 1, 1, 1]), "axes; allowed are 2 to 7"),
        (edited(vox_offset=1e9), "start at byte 1000000000"),
        (edited(srow_x=[np.nan, 0, 0, 0]), "not finite"),
        (edited(srow_x=[0, 0, 0, 0]), "same direction|voxels are"),
        (edited(srow_x=[1e9, 0, 0, 0]), "1e\\+09 .* mm; allowed are 0.01 to 100 mm"),
        (edited(magic=b"ni1"), "another file"),
        (phantoms.nifti(noise(5, 20, 3), packed=False), "20 × 5|5 × 20 pixels; each side needs at least 16"),
        (phantoms.nifti(noise(20, 20, 3))[:-300], "truncated"),
        (b"nothing of the kind" * 100, "no scan"),
    ],
)
def test_nifti_is_refused_in_one_sentence(tmp_path, content, said):
    with pytest.raises(VolumeError, match=said) as refusal:
        read_volume(write(tmp_path / "scan.nii", content))
    assert str(refusal.value).startswith("scan.nii: ") and str(tmp_path) not in str(refusal.value)


def test_flipped_bit_in_a_packed_file_is_found(tmp_path):
    content = bytearray(phantoms.nifti(noise(20, 20, 3)))
    content[-6] ^= 1  # of the checksum
    with pytest.raises(VolumeError, match="gzip and damaged"):
        read_volume(write(tmp_path / "scan.nii.gz", content))


# DICOM


@pytest.mark.parametrize("plane", list(phantoms.ORIENTATIONS))
def test_shuffled_series_is_sorted_by_place(tmp_path, plane):
    """The phantom's rows and columns are the displayed ones; the normal of a stack leads up, back or right."""
    voxels = noise(5, 20, 24)
    volume = read_volume(phantoms.series(tmp_path / "scan", voxels, plane))
    expected = voxels if plane == "axial" else voxels[::-1]
    assert volume.plane == plane
    np.testing.assert_array_equal(volume.slices, expected)
    assert volume.spacing == (0.5, 0.75) and volume.slice_spacing == pytest.approx(6)
    assert volume.warnings == ()
    assert volume.volume_ml(np.ones(volume.slices.shape, bool)) == pytest.approx(voxels.size * 0.5 * 0.75 * 6 / 1000)


def test_dicom_rows_and_columns_are_turned_upright(tmp_path):
    """Rows that run to the right of the patient and to the front are turned by 180 degrees."""
    voxels = noise(4, 20, 24)
    volume = read_volume(phantoms.series(tmp_path, voxels, ImageOrientationPatient=[-1, 0, 0, 0, -1, 0]))
    np.testing.assert_array_equal(volume.slices, voxels[:, ::-1, ::-1])


def test_mask_of_a_series_lies_where_the_tags_say(tmp_path):
    voxels = noise(5, 20, 24)
    volume = read_volume(phantoms.series(tmp_path, voxels, "sagittal", start=-9))
    masks = np.zeros(volume.slices.shape, bool)
    masks[3, 2, 7] = True
    image = mask_file(volume.to_nifti(masks))
    (index,) = np.argwhere(np.asarray(image.dataobj))
    # The stack lies at 9, 3, −3, −9 and −15 mm, positive to the left; slices go to the left, so slice 3 lies at 3 mm.
    # Column 7 lies 7 · 0.75 mm behind the first pixel, row 2 lies 2 · 0.5 mm below it.
    left, posterior, superior = 3, 7 * 0.75, -2 * 0.5
    np.testing.assert_allclose(image.affine @ [*index, 1], [-left, -posterior, superior, 1], atol=1e-4)


def test_rescaling_is_applied(tmp_path):
    pixels = noise(20, 20)
    path = write(tmp_path / "a", phantoms.dicom(pixels, RescaleSlope="2.5", RescaleIntercept="-100"))
    np.testing.assert_allclose(read_volume(path).slices[0], pixels * 2.5 - 100)


def test_monochrome_1_is_inverted_so_that_black_stays_0(tmp_path):
    pixels = noise(20, 20).astype(np.uint16)
    volume = read_volume(write(tmp_path / "a", phantoms.dicom(pixels, PhotometricInterpretation="MONOCHROME1")))
    np.testing.assert_array_equal(volume.slices[0], pixels.max() - pixels.astype(float))


def test_signed_and_8_bit_pixels(tmp_path):
    for dtype in (np.int16, np.uint8):
        pixels = (noise(20, 20) % 250 - (125 if dtype is np.int16 else 0)).astype(dtype)
        volume = read_volume(write(tmp_path / "a", phantoms.dicom(pixels)))
        np.testing.assert_array_equal(volume.slices[0], pixels)


def test_multi_frame_by_functional_groups(tmp_path):
    pixels = noise(4, 20, 20)
    volume = read_volume(write(tmp_path / "a", phantoms.enhanced(pixels, [8, 0, 12, 4], [1, 2, 3, 4])))
    np.testing.assert_array_equal(volume.slices, [pixels[1] * 2, pixels[3] * 4, pixels[0], pixels[2] * 3])
    assert volume.spacing == (0.5, 0.5) and volume.slice_spacing == pytest.approx(4)


def test_multi_frame_without_places_keeps_its_order(tmp_path):
    pixels = noise(4, 20, 20)
    content = phantoms.dicom(pixels, ImagePositionPatient=None)
    volume = read_volume(write(tmp_path / "a", content))
    np.testing.assert_array_equal(volume.slices, pixels)
    assert volume.slice_spacing == 6
    assert any("do not say where the slices lie" in warning for warning in volume.warnings)


def test_missing_tags_are_said_and_nothing_is_made_up(tmp_path):
    tags = ("PixelSpacing", "ImageOrientationPatient", "SpacingBetweenSlices", "SliceThickness", "InstanceNumber")
    pixels = noise(20, 24)
    volume = read_volume(write(tmp_path / "a", phantoms.dicom(pixels, **dict.fromkeys(tags))))
    np.testing.assert_array_equal(volume.slices[0], pixels)
    assert (volume.plane, volume.spacing, volume.slice_spacing) == ("unknown", None, None)
    masks = np.ones((1, 20, 24), bool)
    assert volume.volume_ml(masks) is None
    assert np.asarray(mask_file(volume.to_nifti(masks)).dataobj).shape == (24, 20, 1)
    assert len(volume.warnings) == 2


def test_one_slice_takes_its_thickness_from_the_tags(tmp_path):
    volume = read_volume(write(tmp_path / "a", phantoms.dicom(noise(20, 20), SpacingBetweenSlices=None)))
    assert volume.slice_spacing == pytest.approx(5)


def test_a_place_that_occurs_twice_is_said(tmp_path):
    voxels = noise(6, 20, 20)
    folder = phantoms.series(tmp_path / "twice", voxels)
    write(folder / "again", phantoms.dicom(noise(20, 20, seed=1), 7, ImagePositionPatient=[0, 0, 12]))
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.slices, voxels)
    assert any(warning.startswith("1 slices lie where another") for warning in volume.warnings)


def test_two_series_in_a_zip_give_the_larger(tmp_path):
    voxels = noise(5, 20, 20)
    folder = tmp_path / "study"
    phantoms.series(folder / "1", noise(3, 20, 20, seed=1), SeriesInstanceUID=phantoms.OTHER_SERIES)
    phantoms.series(folder / "2", voxels)
    (folder / "readme.txt").write_text("not a scan")
    path = zipped(tmp_path / "study.zip", folder)
    assert is_volume(path)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.slices, voxels)
    assert volume.warnings == (
        "The files hold 2 stacks of slices; number 2 was read (T1-weighted with contrast, axial, 5 slices 6.0 mm "
        "apart), and not 1 (T1-weighted with contrast, axial, 3 slices 6.0 mm apart).",
    )
    np.testing.assert_array_equal(read_volume(members(path)).slices, voxels)
    np.testing.assert_array_equal(read_volume(sorted((folder / "1").iterdir())).slices, noise(3, 20, 20, seed=1))


def test_scouts_in_three_planes_are_kept_apart(tmp_path):
    for plane in phantoms.ORIENTATIONS:
        phantoms.series(tmp_path / plane, noise(2 + (plane == "coronal"), 20, 20), plane)
    volume = read_volume(tmp_path)
    assert volume.plane == "coronal" and len(volume.slices) == 3


def test_compressed_pixels_are_the_same_pixels(tmp_path):
    pixels = noise(33, 40).astype(np.uint16)
    for make in (
        *(phantoms.run_length, phantoms.jpeg_2000, phantoms.jpeg_lossless, phantoms.jpeg_lossless_of_any_predictor),
        *(phantoms.jpeg_ls, phantoms.deflated),
    ):
        volume = read_volume(write(tmp_path / make.__name__, make(pixels)))
        np.testing.assert_array_equal(volume.slices[0], pixels, make.__name__)


@pytest.mark.parametrize("kind", phantoms.HTJ2K_FRAMES)
@pytest.mark.parametrize("syntax", HTJ2K)
def test_htj2k_has_the_pixels_of_its_encoder(tmp_path, kind, syntax):
    content, pixels = phantoms.htj2k(kind, syntax)
    np.testing.assert_array_equal(read_volume(write(tmp_path / "a", content)).slices[0], pixels)


def test_htj2k_of_another_size_is_not_decoded(tmp_path, monkeypatch):
    content, _ = phantoms.htj2k("uint16", HTJ2K[0])
    size = content.index(b"\xff\x4f\xff\x51") + 8
    decoded = []
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: decoded.append(self.size))
    with pytest.raises(VolumeError, match="cannot be decoded"):
        read_volume(write(tmp_path / "a", content[: size + 3] + b"\x40" + content[size + 4 :]))
    assert not decoded


@pytest.mark.parametrize("make", [phantoms.dicom, phantoms.deflated, phantoms.jpeg_ls])
def test_dicom_packed_by_gzip_is_read(tmp_path, make):
    pixels = noise(33, 40)
    path = write(tmp_path / "1.dcm.gz", gzip.compress(make(pixels)))
    assert is_volume(path)
    np.testing.assert_array_equal(read_volume(path).slices[0], pixels)


def test_packed_dicom_is_unpacked_no_further_than_its_tags_say(tmp_path):
    path = write(tmp_path / "1.dcm.gz", gzip.compress(phantoms.dicom(noise(16, 16)) + bytes(64 * scan.MIB)))
    read_volume(path)
    tracemalloc.start()
    read_volume(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * scan.MIB


def test_pixels_of_32_bits_are_read(tmp_path):
    for kind in (np.uint32, np.int32):
        pixels = noise(20, 24).astype(kind) * 70_000
        volume = read_volume(write(tmp_path / "a", phantoms.dicom(pixels)))
        np.testing.assert_array_equal(volume.slices[0], pixels.astype(np.float32))


def test_jpeg_of_12_bits_is_decoded_nearly_as_it_was(tmp_path):
    row, column = np.mgrid[:64, :48]
    pixels = (2000 + 1900 * np.sin(row / 9) * np.cos(column / 7)).astype(np.uint16)
    volume = read_volume(write(tmp_path / "a", phantoms.jpeg_of_12_bits(pixels)))
    assert np.abs(volume.slices[0] - pixels).max() < 100 and np.abs(volume.slices[0] - pixels).mean() < 10


def test_jpeg_of_12_bits_has_the_values_of_another_decoder():
    """A real one that comes with pydicom; libjpeg of Thomas Richter has the same, but for roundings by 1."""
    (pixels,) = read_volume(get_testdata_file("JPGExtended.dcm")).slices
    assert pixels.shape == (1024, 256) and (pixels.min(), pixels.max()) == (0, 264)


@pytest.mark.parametrize("make", [phantoms.jpeg_lossless, phantoms.jpeg_ls, phantoms.jpeg_of_12_bits])
def test_a_decoder_that_is_missing_is_named(tmp_path, monkeypatch, make):
    path = write(tmp_path / "a", make(noise(20, 20).astype(np.uint16)))
    monkeypatch.setattr(Apart, "is_available", staticmethod(lambda: False))
    with pytest.raises(VolumeError, match=r"compressed as JPEG.*to decode it, run: pip install python-gdcm$"):
        read_volume(path)


@pytest.mark.parametrize("make", [phantoms.jpeg_lossless, phantoms.jpeg_ls])
@pytest.mark.parametrize("fault", ["size", "colours", "no picture", "no size"])
def test_what_gdcm_would_decode_is_checked_before(tmp_path, monkeypatch, make, fault):
    content = make(noise(40, 40).astype(np.uint16))
    start = content.index(b"\xff\xd8\xff", 200)
    size = min(place for mark in (b"\xff\xc3", b"\xff\xf7") if (place := content.find(mark, start)) > 0)
    edited = bytearray(content)
    if fault == "size":
        edited[size + 5] += 1
    elif fault == "colours":
        edited[size + 9] = 3
    elif fault == "no picture":
        edited[start] = 0
    else:
        edited[size + 1] = 0xE0
    decoded = []
    monkeypatch.setattr(Apart, "_ask", lambda *arguments: decoded.append(arguments))
    with pytest.raises(VolumeError, match="cannot be decoded"):
        read_volume(write(tmp_path / "a", bytes(edited)))
    assert not decoded


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.int8, np.uint8])
@pytest.mark.parametrize("make", [phantoms.jpeg_lossless, phantoms.jpeg_ls])
def test_gdcm_decodes_signed_values_and_those_of_fewer_bits(tmp_path, make, kind):
    pixels = (noise(20, 24) - (300 if np.iinfo(kind).min else 0)).astype(kind)
    np.testing.assert_array_equal(read_volume(write(tmp_path / "a", make(pixels))).slices[0], pixels)


def test_a_frame_that_ends_the_decoder_costs_its_slice_alone(tmp_path, monkeypatch):
    """As the C++ of GDCM does with some damaged frames of JPEG-LS."""
    for number in (1, 2, 3):
        write(tmp_path / f"{number}.dcm", phantoms.jpeg_ls(noise(20, 24, seed=number), number))
    ask = Apart._ask

    def kill_at_the_second(self, request):
        self.asked = getattr(self, "asked", 0) + 1
        if self.asked == 2:
            self._process.kill()
        return ask(self, request)

    monkeypatch.setattr(Apart, "_ask", kill_at_the_second)
    volume = read_volume(tmp_path)
    assert [bool(pixels.any()) for pixels in volume.slices] == [True, False, True]
    assert any("1 of 3 files were left out" in sentence for sentence in volume.warnings)


def test_a_coloured_secondary_capture_is_named(tmp_path):
    pixels = noise(20, 60).astype(np.uint8)
    tags = {"SOPClassUID": SecondaryCaptureImageStorage, "PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}
    with pytest.raises(VolumeError, match="is a secondary capture, as of a screen, and has pixels that are RGB"):
        read_volume(write(tmp_path / "a", phantoms.dicom(pixels, **tags, Columns=20)))


def test_other_compression_is_refused_by_its_name(tmp_path):
    syntax = "1.2.840.10008.1.2.4.92"
    name = UID_dictionary[syntax][0]
    with pytest.raises(VolumeError) as refusal:
        read_volume(write(tmp_path / "a", phantoms.with_syntax(syntax, noise(20, 20))))
    assert name in str(refusal.value) and "allowed are uncompressed, deflated, RLE, JPEG" in str(refusal.value)


def test_compressed_frame_of_another_size_is_not_decoded(tmp_path, monkeypatch):
    big = phantoms.jpeg_2000(noise(400, 400).astype(np.uint16))
    rows = big.index(b"\x28\x00\x10\x00US\x02\x00") + 8
    columns = big.index(b"\x28\x00\x11\x00US\x02\x00") + 8
    lying = bytearray(big)
    lying[rows : rows + 2] = lying[columns : columns + 2] = (20).to_bytes(2, "little")
    decoded = []
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: decoded.append(self.size))
    with pytest.raises(VolumeError, match="cannot be decoded"):
        read_volume(write(tmp_path / "a", bytes(lying)))
    assert not decoded


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR; allowed are MONOCHROME1 and MONOCHROME2"),
        ({"PhotometricInterpretation": "Kowalska"}, "of an unknown kind"),
        ({"BitsAllocated": 64}, "64 bits; allowed are 8, 16 and 32"),
        ({"Rows": 60000}, "60000 × 1 voxels; allowed are 1 to 2048"),
        ({"NumberOfFrames": 10**9}, "1000000000 voxels"),
        ({"Rows": 8, "Columns": 40}, "at least 16"),
        ({"Rows": 30}, "truncated or damaged"),
        ({"PixelData": None}, "truncated or damaged"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "ImageOrientationPatient"),
        ({"PixelSpacing": [1e-9, 1]}, "mm; allowed are 0.01 to 100"),
    ],
)
def test_dicom_is_refused_in_one_sentence(tmp_path, tags, said):
    with pytest.raises(VolumeError, match=said):
        read_volume(write(tmp_path / "a", phantoms.dicom(noise(20, 20), **tags)))


def test_files_that_cannot_be_used_do_not_cost_the_others(tmp_path):
    voxels = noise(3, 20, 20)
    folder = phantoms.series(tmp_path, voxels)
    write(folder / "report", phantoms.dicom(noise(20, 20), PhotometricInterpretation="RGB"))
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.slices, voxels)
    assert any(warning.startswith("1 of 4 files were left out: ") for warning in volume.warnings)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({}, None),
        ({"ContrastBolusAgent": None}, None),
        ({"SeriesDescription": "AX T1 FLAIR POST"}, None),
        ({"SeriesDescription": "", "RepetitionTime": 600, "EchoTime": 12}, None),
        ({"SeriesDescription": "", "RepetitionTime": 4000, "EchoTime": 90}, "not T1-weighted"),
        ({"SeriesDescription": "AX T2 FLAIR"}, "not T1-weighted"),
        ({"SeriesDescription": "T1 SE", "ContrastBolusAgent": None}, "do not say"),
        ({"SeriesDescription": "T1 without", "ContrastBolusAgent": None}, "without contrast"),
        ({"SeriesDescription": None}, "do not say"),
        ({"Modality": "CT"}, "no MR scan"),
        (
            {"SeriesDescription": "SAG 3D POST", "SequenceName": "*tfl3d1", "RepetitionTime": 2300, "EchoTime": 2.9},
            None,
        ),
        ({"SeriesDescription": "AX T1 +C", "ProtocolName": "BRAIN W/WO CONTRAST"}, None),
        ({"SeriesDescription": "AX T1", "ContrastBolusAgent": None, "ProtocolName": "BRAIN W WO CONTRAST"}, "do not"),
        ({"SeriesDescription": "AX T1", "ContrastBolusAgent": None, "ProtocolName": "WITH AND WITHOUT"}, "do not say"),
        ({"SeriesDescription": "AX T1", "ContrastBolusAgent": "No contrast"}, "without contrast"),
    ],
)
def test_sequence_is_judged_by_the_tags(tmp_path, tags, said):
    volume = read_volume(write(tmp_path / "a", phantoms.dicom(noise(20, 20), **tags)))
    if said is None:
        assert volume.warnings == ()
    else:
        (warning,) = volume.warnings
        assert said in warning and warning.endswith("the network knows T1-weighted MR with contrast alone.")


NAMES = {
    None: (
        *("AX T1 +C", "Ax T1 FSE C+", "AX T1 POST", "AXT1POST", "AX T1 POSTGD", "T1 POST-CONTRAST", "T1 POSTCONTRAST"),
        *("AX T1 POST W/O FS", "AX T1 POST-OP +C", "Sag BRAVO Gd", "T1 MPRAGE GADO", "T1 W CONTRAST", "T1c", "t1ce"),
        *("T1W_3D_TFE_GD", "3D T1 TFE post", "sT1W_3D_FFE_Gd", "3DT1 post", "eT1W_SE_KM", "WIP T1W_3D_TFE CE"),
        *("t1_mprage_sag_p2_iso_km", "t1_tse_tra_mKM", "t1_se_cor_nach KM", "t1_mprage_iso_Kontrastmittel", "T1 nKM"),
        *("T1 SE POST W/O MT", "T1 TSE TRA KM ohne MTC", "T1 POST PRE-SAT", "T1 PRE-SAT KM", "T1 +C PRE BIOPSY"),
    ),
    "without contrast": (
        *("T1 NON CONTRAST", "T1_NON_CONTRAST", "T1 NON-CONTRAST", "T1 NONCON", "T1 NO CONTRAST", "T1 WO CONTRAST"),
        *("T1_WO", "AX T1 W/O", "AX T1 WITHOUT CONTRAST", "T1 UNENHANCED", "T1 NON-ENHANCED", "AX T1 PRE", "T1 preGad"),
        *("T1_PRE_CONTRAST", "T1 PRECONTRAST", "Ax T1 FSE C-", "Ax T1 FSE -C", "t1_tse_tra_nativ", "T1 native"),
        *("t1_se_tra_ohne_KM", "t1_tse_tra_oKM", "T1 o. KM", "t1_mprage_vor_KM", "T1 sans contraste"),
    ),
    "do not say": (
        *("AX T1 POSTERIOR FOSSA", "AX T1", "T1 POST-OP", "T1 POSTOP", "T1 PRE-OP", "T1 C-SPINE", "t1_mprage_sag_iso"),
        *("T1 PRESCAN NORM", "T1 PRE/POST CONTRAST", "AX T1 POST RESECTION", "T1 POST TREATMENT", "T1 NATIVE SPACE GD"),
    ),
    "not T1-weighted": ("SCOUT1", "AAHead_Scout", "3-PLANE LOCALIZER", "t2_tse_tra", "T2W_FLAIR_KM", "ep2d_diff_trace"),
}


@pytest.mark.parametrize(("name", "said"), [(name, said) for said, names in NAMES.items() for name in names])
def test_sequence_is_judged_by_its_name(tmp_path, name, said):
    content = phantoms.dicom(noise(20, 20), SeriesDescription=name, ContrastBolusAgent=None)
    warnings = read_volume(write(tmp_path / "a", content)).warnings
    assert warnings == () if said is None else said in warnings[0]


@pytest.mark.parametrize(
    ("name", "agent", "said"),
    [
        ("AX T1", "Gadovist", None),
        ("AX T1", "No. 1 Gadovist", None),
        ("AX T1 POST W/O MT", "Gd", None),
        ("AX T1", "None", "without contrast"),
        ("AX T1", "n/a", "without contrast"),
        ("AX T1 PRE", "Gd", "do not say"),
        ("AX T1 +C", "none", "do not say"),
    ],
)
def test_agent_and_name_that_contradict_each_other_say_nothing(tmp_path, name, agent, said):
    content = phantoms.dicom(noise(20, 20), SeriesDescription=name, ContrastBolusAgent=agent)
    warnings = read_volume(write(tmp_path / "a", content)).warnings
    assert warnings == () if said is None else said in warnings[0]


# What nobody may see


def private_files(folder: Path) -> list[Path]:
    """DICOM files with a person's data in their tags and names: sound, misplaced, damaged, refused."""
    pixels = noise(20, 20)
    name = phantoms.SECRETS["PatientName"]
    sound = phantoms.dicom(pixels)
    contents = [
        sound,
        phantoms.dicom(pixels, SeriesDescription=name, ProtocolName=name, ContrastBolusAgent=None),
        phantoms.dicom(pixels, SeriesInstanceUID="1.02.Kowalska^Zofia", Modality="Kowalska^Zofia"),
        phantoms.dicom(pixels, PhotometricInterpretation="Kowalska^Zofia"),
        phantoms.dicom(pixels, PixelSpacing=None).replace(b"0.5\\0.75", b"Zofia 12"),
        sound.replace(b"0.5\\0.75", b"Zofia 12"),
        sound.replace(b"-10.0\\-20.0\\6.0", b"Kowalska\\Zofia\\1"),
        sound[:-100],
        sound[:400],
        phantoms.with_syntax("1.2.840.10008.1.2.4.70", pixels),
        phantoms.with_syntax("1.2.826.0.1.3680043.7", pixels),
    ]
    folder.mkdir()
    return [
        write(folder / f"{phantoms.SECRETS['PatientID']}.{number}", content) for number, content in enumerate(contents)
    ]


def test_no_tag_of_the_person_is_ever_shown(tmp_path, recwarn, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    files = private_files(tmp_path / "files")
    shown = []
    for source in [*files, files, tmp_path / "files", zipped(tmp_path / "study.zip", tmp_path / "files")]:
        try:
            volume = read_volume(source)
            packed = volume.to_nifti(np.ones(volume.slices.shape, bool))
            shown += [repr(volume), *volume.warnings, gzip.decompress(packed).decode("latin-1"), repr(packed)]
        except VolumeError as error:
            assert error.__cause__ is None
            shown += [str(error), repr(error)]
    shown += [str(warning.message) for warning in recwarn] + [caplog.text, *capfd.readouterr()]
    text = "\n".join(shown)
    for secret in (*phantoms.SECRETS.values(), phantoms.SERIES, "Kowalska", "Zofia", "3680043"):
        assert secret not in text
    assert len(shown) > 20


# Sources


def test_kind_is_told_by_content(tmp_path):
    scan_file = write(tmp_path / "a.png", phantoms.nifti(noise(20, 20, 3)))
    assert is_volume(scan_file) and is_volume(write(tmp_path / "b.txt", phantoms.dicom(noise(20, 20))))
    for name, content in {"c.nii.gz": b"\x1f\x8b rubbish", "d.dcm": b"DICM", "e.zip": b"PK\3\4", "f.nii": b""}.items():
        assert not is_volume(write(tmp_path / name, content))
    assert not is_volume(tmp_path / "missing")
    assert not is_volume(write(tmp_path / "g.nii.gz", gzip.compress(b"x" * 1000)))


def test_one_nifti_in_a_zip_is_read_and_two_are_refused(tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    write(folder / "t1.nii.gz", phantoms.nifti(noise(20, 20, 3)))
    assert read_volume(zipped(tmp_path / "one.zip", folder)).slices.shape == (3, 20, 20)
    write(folder / "t2.nii.gz", phantoms.nifti(noise(20, 20, 3)))
    with pytest.raises(VolumeError, match=r"two\.zip: it holds 2 NIfTI and 0 DICOM files"):
        read_volume(zipped(tmp_path / "two.zip", folder))


def test_other_files_in_a_zip_are_passed_over(tmp_path):
    """A report (.docx) and a viewer (.jar) are ZIPs themselves, the first thing in the archive and small or large."""
    voxels = noise(3, 20, 20)
    folder = phantoms.series(tmp_path / "study", voxels)
    with zipfile.ZipFile(folder / "!report.docx", "w") as report:
        report.writestr("word/document.xml", "<w:document/>")
    with zipfile.ZipFile(folder / "viewer.jar", "w") as viewer:
        viewer.writestr("Viewer.class", noise(300, 300).tobytes())
    path = zipped(tmp_path / "study.zip", folder)
    assert members(path)[0].name == "!report.docx"
    assert is_volume(path)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.slices, voxels)
    assert volume.warnings == read_volume(folder).warnings == ()


def spoiled(path: Path, content: bytes) -> Path:
    """A ZIP without compression whose entry that holds `content` has a wrong bit, and so a wrong checksum."""
    packed = bytearray(path.read_bytes())
    packed[packed.index(content) + len(content) - 1] ^= 1
    return write(path, bytes(packed))


@pytest.mark.parametrize("side", [20, 200])
def test_damaged_slice_in_a_zip_is_said(tmp_path, side):
    """Small slices are known to be damaged as soon as one looks into them, large ones when their tags are read."""
    voxels = noise(4, side, side)
    folder = phantoms.series(tmp_path / "scan", voxels)
    write(folder / "readme.txt", b"not a scan")
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    path = spoiled(tmp_path / "scan.zip", voxels[1].tobytes())
    assert is_volume(path)
    volume = read_volume(path)
    voxels[1] = 0
    np.testing.assert_array_equal(volume.slices, voxels)
    assert any("1 of 4 slices are missing (2)" in warning for warning in volume.warnings)
    (said,) = (warning for warning in volume.warnings if "left out" in warning)
    assert said == "1 of 4 files were left out: DICOM file 4 of 4 is damaged and cannot be unpacked."


def test_damaged_pixels_of_a_long_file_in_a_zip_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_unet.volumes.dicom.series.MAX_HEADER_BYTES", 70_000)
    pixels = noise(200, 200)
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        archive.writestr("1", phantoms.dicom(pixels))
    with pytest.raises(VolumeError, match="The DICOM file is truncated or damaged"):
        read_volume(spoiled(tmp_path / "scan.zip", pixels.tobytes()))


def test_zip_of_nothing_but_damaged_files_is_no_scan(tmp_path):
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        archive.writestr("1", b"spoiled content")
    path = spoiled(tmp_path / "scan.zip", b"spoiled content")
    assert not is_volume(path)
    with pytest.raises(VolumeError, match=r"^scan\.zip: .* in it, and 1 of its files are empty or cannot be unpacked;"):
        read_volume(path)


def zip_of(path: Path, scans: int, others: int) -> Path:
    """An archive with slices in a deep folder, between other files."""
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(1, scans + 1):
            archive.writestr(f"a/b/c/d/{number}", phantoms.dicom(noise(20, 24, seed=number), number))
        for number in range(others):
            archive.writestr(f"texts/{number}", "text")
    return path


def test_a_zip_of_ten_thousand_files_is_read_and_one_more_is_refused(tmp_path):
    assert len(read_volume(zip_of(tmp_path / "a.zip", 3, 9_997)).slices) == 3
    with pytest.raises(ValueError, match="it holds 10,001 entries; at most 10,000 are accepted"):
        read_volume(zip_of(tmp_path / "b.zip", 3, 9_998))


def test_many_files_may_have_items_that_scanners_write(tmp_path, monkeypatch):
    """Sequences that are not read count too, before they are parsed; of many files they are many."""
    monkeypatch.setattr("modeling_unet.volumes.dicom.series.MAX_ITEMS_OF_ALL", 10)
    for number in range(1, 6):
        items = [phantoms.Dataset() for _ in range(11)]
        for item in items:
            item.ReferencedSOPInstanceUID = "1.2.3"
        write(tmp_path / f"{number}", phantoms.dicom(noise(20, 24), number, ReferencedImageSequence=items))
    assert len(read_volume(tmp_path).slices) == 5
    monkeypatch.setattr("modeling_unet.volumes.dicom.series.MORE_ITEMS_PER_FILE", 0)
    with pytest.raises(VolumeError, match="have too many items in their tags"):
        read_volume(tmp_path)


def test_a_table_of_contents_is_passed_over_and_alone_it_is_named(tmp_path):
    no_image = {"Rows": None, "Columns": None, "PixelData": None, "SOPClassUID": MediaStorageDirectory}
    for number in (1, 2):
        (tmp_path / f"S{number}").mkdir()
        write(tmp_path / f"S{number}" / "IM", phantoms.dicom(noise(20, 24, seed=number), number))
    write(tmp_path / "DICOMDIR", phantoms.dicom(noise(20, 24), **no_image))
    assert len(read_volume(tmp_path).slices) == 2 and not read_volume(tmp_path).warnings
    with pytest.raises(VolumeError, match=r"^DICOMDIR: this is a table of contents; give the folder"):
        read_volume(tmp_path / "DICOMDIR")


def test_missing_and_empty_sources(tmp_path):
    missing = tmp_path / "none.nii"
    sources = {"no such file": missing, "no scan in it": tmp_path, "0 files: there is no": [], "is missing": [missing]}
    for said, source in sources.items():
        with pytest.raises(VolumeError, match=said):
            read_volume(source)


def test_masks_of_another_shape_are_refused(tmp_path):
    volume = read_volume(write(tmp_path / "a", phantoms.dicom(noise(20, 20))))
    for use in (volume.to_nifti, volume.volume_ml):
        with pytest.raises(VolumeError, match=r"shape \(20, 20\), but the slices have \(1, 20, 20\)"):
            use(np.ones((20, 20), bool))


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "nib", None)
    with pytest.raises(VolumeError, match="pip install nibabel pydicom"):
        read_volume(tmp_path)


WITHOUT_READERS = """
import sys

sys.modules.update(nibabel=None, pydicom=None)
from modeling_unet.volumes.volume import read_volume

try:
    read_volume("scan.nii")
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
def test_modules_can_be_imported_without_them():
    ended = fresh.alone().run(WITHOUT_READERS)
    assert ended.returncode == 0, ended.stderr
    assert "pip install nibabel pydicom" in ended.stdout
