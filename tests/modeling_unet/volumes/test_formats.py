"""MetaImage, NRRD, FreeSurfer's and Analyze: voxels and geometry as SimpleITK and nibabel read them."""

import gzip
import itertools
import zipfile
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import phantoms
import pytest
import SimpleITK as sitk  # noqa: N813 - as its own manual calls it
from nibabel.analyze import AnalyzeImage
from nibabel.freesurfer import MGHImage
from phantoms import noise

from modeling_unet.volumes import VolumeError, is_volume, read_volume


TURNS = [np.array(order) for order in itertools.permutations(range(3))]
OBLIQUE = sitk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 0.3)
DIRECTIONS = [
    *(np.diag(signs)[turn] for turn, signs in zip(TURNS, itertools.product((1, -1), repeat=3), strict=False)),
    np.reshape(OBLIQUE.GetMatrix(), (3, 3)),
]
BRIGHT = 500  # what marks the mask that has to lie where the voxels do


def image_of(voxels: np.ndarray, direction: np.ndarray | None = None) -> sitk.Image:
    """An image of SimpleITK, of voxels [K, J, I]."""
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.5, 0.75, 4.0))
    image.SetOrigin((-12.5, 30.25, 7.0))
    image.SetDirection(np.ravel(np.eye(3) if direction is None else direction).tolist())
    return image


def lies_as(path: Path, image: sitk.Image, **options):
    """The mask of bright voxels, written by us and read by SimpleITK, has those of `image`, in their place."""
    volume = read_volume(path, **options)
    mask = path.with_name("mask.nii.gz")
    mask.write_bytes(volume.to_nifti(volume.slices > BRIGHT))
    written = sitk.ReadImage(str(mask))
    assert written.GetSize() == image.GetSize()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), sitk.GetArrayFromImage(image) > BRIGHT)
    for what in ("Spacing", "Origin", "Direction"):
        found, expected = (getattr(one, f"Get{what}")() for one in (written, image))
        np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=what)


@pytest.mark.parametrize("direction", DIRECTIONS, ids=range(len(DIRECTIONS)))
@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr"])
def test_voxels_lie_where_simple_itk_puts_them(tmp_path, suffix, direction):
    image = image_of(noise(20, 24, 28), direction)
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(image, str(path), useCompression=suffix != ".mhd")
    assert is_volume(path)
    lies_as(path, image)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
def test_values_of_every_type_are_read(tmp_path, suffix, packed, kind):
    voxels = noise(4, 20, 24).astype(kind)
    sitk.WriteImage(image_of(voxels), str(tmp_path / f"scan{suffix}"), useCompression=packed)
    np.testing.assert_array_equal(read_volume(tmp_path / f"scan{suffix}").slices, voxels)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float32])
@pytest.mark.parametrize("suffix", [".mgh", ".mgz"])
@pytest.mark.parametrize("turn", TURNS, ids=str)
def test_freesurfer_lies_where_nibabel_puts_it(tmp_path, turn, suffix, kind):
    voxels = noise(20, 24, 28).astype(kind)
    affine = np.eye(4)
    affine[:3, :3] = (np.diag([0.5, -0.75, 4.0]) @ np.eye(3)[turn]).T
    affine[:3, 3] = -12.5, 30.25, 7.0
    path = tmp_path / f"t1{suffix}"
    nib.save(MGHImage(voxels, affine), path)
    volume = read_volume(path)
    mask = nib.Nifti1Image.from_bytes(gzip.decompress(volume.to_nifti(volume.slices > BRIGHT)))
    np.testing.assert_array_equal(np.asarray(mask.dataobj), voxels > BRIGHT)
    np.testing.assert_allclose(mask.affine, nib.load(path).affine, atol=1e-4)


def test_freesurfer_without_geometry_is_unknown(tmp_path):
    content = bytearray(MGHImage(noise(20, 24, 28).astype(np.float32), np.eye(4)).to_bytes())
    content[28:30] = bytes(2)
    (tmp_path / "t1.mgh").write_bytes(content)
    volume = read_volume(tmp_path / "t1.mgh")
    assert volume.plane == "unknown" and volume.spacing is None and volume.voxel_ml is None


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_analyze_has_sizes_and_no_orientation(tmp_path, kind):
    voxels = noise(20, 24, 5).astype(kind)
    image = AnalyzeImage(voxels, np.diag([0.5, 0.75, 4, 1]))
    nib.save(image, tmp_path / "scan.hdr")
    volume = read_volume(tmp_path / "scan.hdr")
    assert volume.plane == "unknown" and volume.voxel_ml == pytest.approx(0.5 * 0.75 * 4 / 1000)
    mask = nib.Nifti1Image.from_bytes(gzip.decompress(volume.to_nifti(volume.slices > BRIGHT)))
    np.testing.assert_array_equal(np.asarray(mask.dataobj), voxels > BRIGHT)


def test_nifti_in_two_files_is_read(tmp_path):
    affine = np.diag([0.5, 0.75, 4, 1])
    nib.save(nib.Nifti1Pair(noise(20, 24, 5), affine), tmp_path / "scan.img")
    nib.save(nib.Nifti1Image(noise(20, 24, 5), affine), tmp_path / "scan.nii")
    found, expected = read_volume(tmp_path / "scan.hdr"), read_volume(tmp_path / "scan.nii")
    np.testing.assert_array_equal(found.slices, expected.slices)
    np.testing.assert_array_equal(found.affine, expected.affine)


@pytest.mark.parametrize("way", ["zip", "list", "folder"])
def test_a_header_finds_the_voxels_that_came_with_it(tmp_path, way):
    image = image_of(noise(4, 20, 24))
    (tmp_path / "in").mkdir()
    sitk.WriteImage(image, str(tmp_path / "in" / "scan.mhd"))
    files = sorted((tmp_path / "in").iterdir())
    source = {"list": files, "folder": tmp_path / "in", "zip": tmp_path / "in.zip"}[way]
    if way == "zip":
        with zipfile.ZipFile(source, "w") as archive:
            for file in files:
                archive.write(file, f"study/{file.name}")
    np.testing.assert_array_equal(read_volume(source).slices, sitk.GetArrayFromImage(image))


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr", ".hdr"])
def test_a_header_without_its_voxels_is_named(tmp_path, suffix):
    image = image_of(noise(4, 20, 24))
    sitk.WriteImage(image, str(tmp_path / f"scan{suffix}"))
    for path in tmp_path.iterdir():
        if path.suffix != suffix:
            path.unlink()
    with pytest.raises(VolumeError, match=rf"^scan\{suffix}: its voxels are in another file, .*; give both\.$"):
        read_volume(tmp_path / f"scan{suffix}")


def test_no_header_reads_a_file_of_another_folder(tmp_path):
    (tmp_path / "secret.raw").write_bytes(bytes(20 * 24 * 2))
    (tmp_path / "in").mkdir()
    for place in ("../secret.raw", str(tmp_path / "secret.raw")):
        header = f"NDims = 3\nDimSize = 24 20 1\nElementType = MET_SHORT\nElementDataFile = {place}\n"
        (tmp_path / "in" / "scan.mhd").write_text(header)
        with pytest.raises(VolumeError, match="its voxels are in another file"):
            read_volume(tmp_path / "in" / "scan.mhd")


# Several volumes in one file


def four_dimensional(folder: Path, suffix: str, voxels: np.ndarray) -> Path:
    """A file of voxels [I, J, K, T]."""
    path = folder / f"scan{suffix}"
    if suffix == ".mgz":
        nib.save(MGHImage(voxels, np.eye(4)), path)
    elif suffix == ".nii.gz":
        path.write_bytes(phantoms.nifti(voxels))
    elif suffix == ".mha":
        header = "ObjectType = Image\nNDims = 4\nDimSize = {} {} {} {}\nElementSpacing = 1 1 4 1\n"
        header += "ElementType = MET_SHORT\nCompressedData = True\nElementDataFile = LOCAL\n"
        path.write_bytes(header.format(*voxels.shape).encode() + zlib.compress(voxels.tobytes(order="F")))
    else:
        first = suffix == ".first.nrrd"
        sizes = (voxels.shape[3], *voxels.shape[:3]) if first else voxels.shape
        directions = ["none", "(1,0,0) (0,1,0) (0,0,4)"] if first else ["(1,0,0) (0,1,0) (0,0,4)", "none"]
        header = f"NRRD0004\ntype: short\ndimension: 4\nsizes: {' '.join(map(str, sizes))}\nencoding: gzip\n"
        header += f"endian: little\nspace: RAS\nspace directions: {' '.join(directions)}\n\n"
        ordered = np.moveaxis(voxels, 3, 0) if first else voxels
        path.write_bytes(header.encode() + gzip.compress(ordered.tobytes(order="F")))
    return path


@pytest.mark.parametrize("suffix", [".nii.gz", ".mgz", ".mha", ".nrrd", ".first.nrrd"])
def test_of_several_volumes_the_first_is_read_or_the_one_that_is_asked_for(tmp_path, suffix):
    voxels = noise(20, 24, 5, 3)
    path = four_dimensional(tmp_path, suffix, voxels)
    for stack, index in ((None, 0), (1, 0), (2, 1), (3, 2)):
        volume = read_volume(path, stack)
        mask = nib.Nifti1Image.from_bytes(gzip.decompress(volume.to_nifti(volume.slices > BRIGHT)))
        np.testing.assert_array_equal(np.asarray(mask.dataobj), voxels[..., index] > BRIGHT)
        assert f"The file holds 3 volumes; number {index + 1} was read." in volume.warnings
        assert volume.stacks == ("volume 1", "volume 2", "volume 3") and volume.stack == index + 1
    with pytest.raises(VolumeError, match="there is no volume 4 in it; the file holds 3 volumes"):
        read_volume(path, 4)


# What is refused

META = "NDims = 3\nDimSize = 24 20 4\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 24 20 4\nencoding: raw\nendian: little\n\n"


@pytest.mark.parametrize(
    ("header", "change", "said"),
    [
        (META, ("", ""), "truncated; 3,840 bytes are missing"),
        (META, ("NDims = 3", "NDims = 5"), "5 axes; allowed are 2 to 4"),
        (META, ("24 20 4", "24 20"), "DimSize needs 3 finite numbers"),
        (META, ("24 20 4", "24 20 -4"), "whole numbers from 0"),
        (META, ("24 20 4", "24 20 4000"), "4000 voxels; allowed are 1 to 2048"),
        (META, ("24 20 4", "2000 2000 2000"), "at most 67,108,864"),
        (META, ("SHORT", "STRING"), "the type of its voxels is not known"),
        (META, ("ElementData", "ElementSpacing = 1 nan 1\nElementData"), "ElementSpacing needs 3 finite numbers"),
        (META, ("ElementData", "ElementSpacing = 1 0 1\nElementData"), "mm; allowed are 0.01 to 100"),
        (META, ("ElementData", "ElementNumberOfChannels = 3\nElementData"), "several channels"),
        (META, ("ElementData", "BinaryData = False\nElementData"), "written as text"),
        (META, ("ElementDataFile", "Nothing"), "does not say where the voxels are"),
        (META, ("ElementData", "CompressedData = True\nElementData"), "truncated"),
        (NRRD, ("", ""), "truncated; 3,840 bytes are missing"),
        (NRRD, ("24 20 4", "24 20"), "sizes needs 3 finite numbers"),
        (NRRD, ("raw", "bzip2"), "allowed are raw and gzip"),
        (NRRD, ("short", "block"), "the type of its voxels is not known"),
        (NRRD, ("\n\n", "\nbyte skip: 4\n\n"), "are to be skipped"),
        (NRRD, ("\n\n", "\nspace directions: (1,0,0) (0,1,0)\n\n"), "needs one for every axis"),
        (NRRD, ("\n\n", "\nspace directions: (1,0,0) (1,0,0) (0,0,1)\n\n"), "point in the same direction"),
        (NRRD, ("\n\n", "\nspace directions: none none (0,0,1)\n\n"), "1 of them in space"),
        (NRRD, ("\n\n", "\n"), "it does not end"),
    ],
)
def test_other_headers_are_refused_in_one_sentence(tmp_path, header, change, said):
    path = tmp_path / "scan.bin"
    path.write_bytes(header.replace(*change).encode())
    with pytest.raises(VolumeError, match=said) as refusal:
        read_volume(path)
    assert str(refusal.value).startswith("scan.bin: ")


def test_pictures_that_came_with_a_scan_are_said(tmp_path):
    (tmp_path / "scan.nii").write_bytes(phantoms.nifti(noise(20, 24, 3), packed=False))
    for name in ("a.png", "b.JPG", "notes.txt"):
        (tmp_path / name).write_bytes(b"whatever")
    assert any(said.startswith("2 pictures that came with it were left out") for said in read_volume(tmp_path).warnings)


def test_two_scans_in_one_archive_are_counted_by_their_kind(tmp_path):
    image = image_of(noise(4, 20, 24))
    for suffix in (".mha", ".nrrd"):
        sitk.WriteImage(image, str(tmp_path / f"scan{suffix}"))
    (tmp_path / "scan.nii").write_bytes(phantoms.nifti(noise(20, 24, 3), packed=False))
    with pytest.raises(VolumeError, match="it holds 1 NIfTI, 1 MetaImage, 1 NRRD and 0 DICOM files"):
        read_volume(tmp_path)
