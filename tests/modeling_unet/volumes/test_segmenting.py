"""A volume as one thing: what is known in three dimensions comes back where it was, whichever way the scan lies."""

import gzip
from collections.abc import Iterator

import nibabel as nib
import numpy as np
import phantoms
import pytest
from phantoms import BRAIN, TUMOR, head

from modeling_unet.segmentation import Segmentation
from modeling_unet.volumes import read_volume, segment_volume, segmenting
from modeling_unet.volumes.planes import FRAME_MM
from modeling_unet.volumes.segmenting import (
    ALONE,
    CONFIRMED,
    CONFIRMED_SHARE,
    FILLED,
    STRIPPED,
    UNLIKE,
    drop_unconfirmed,
    filled,
    planes_of,
)


class Bright:
    """A segmenter that finds what is brighter than any brain, in the first `finding` pictures; it counts batches."""

    def __init__(self, finding: int = 10**6, familiarity: float | None = None):
        self.finding, self.familiarity = finding, familiarity
        self.batches: list[tuple[int, tuple[int, ...]]] = []

    def batch(self, images: list[np.ndarray], batch_size: int = 8, *, framing: str = "auto") -> Iterator[Segmentation]:
        assert framing == "none" and len(images) <= batch_size
        self.batches.append((len(images), images[0].shape))
        for image in images:
            self.finding -= 1
            probability = ((image > (BRAIN + TUMOR) / 2) & (self.finding >= 0)).astype(np.float32)
            picture = np.zeros((*image.shape, 3), np.uint8)
            yield Segmentation(picture, probability, familiarity=self.familiarity)

    @property
    def pictures(self) -> int:
        return sum(count for count, _ in self.batches)


def scan_of(voxels: np.ndarray, sizes: tuple[float, float, float], codes: str, turn: np.ndarray | None = None):
    """The bytes of a NIfTI file whose axes end at `codes`, its affine, and how an array is laid out like it."""
    lay = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    affine = np.diag([*sizes, 1.0])
    affine[:3, 3] = (-90, -100, -70)
    if turn is not None:
        affine[:3] = turn @ affine[:3]
    affine = affine @ nib.orientations.inv_ornt_aff(lay, voxels.shape)
    turned = nib.orientations.apply_orientation(voxels, lay)
    return phantoms.nifti(np.ascontiguousarray(turned), affine, packed=False), affine, lay


def read(folder, content: bytes):
    (folder / "scan.nii").write_bytes(content)
    return read_volume(folder / "scan.nii")


def mask_of(content: bytes) -> np.ndarray:
    return np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(content)).dataobj) > 0


def rotation(degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    around_x = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    around_z = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return around_x @ around_z


# Of voxels that are no cubes, the longest side is the distance of slices: axial, coronal and sagittal ones.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "plane"),
    [((3, 3, 3), "axial"), ((1.5, 1.5, 6), "axial"), ((1.5, 3, 1.5), "coronal"), ((3, 1.5, 1.5), "sagittal")],
)
@pytest.mark.parametrize(("codes", "degrees"), [("PIL", 0), ("SLA", 12)])
def test_a_tumour_comes_back_voxel_by_voxel(tmp_path, sizes, plane, codes, degrees):
    voxels, tumor = head(sizes)
    content, affine, lay = scan_of(voxels, sizes, codes, rotation(degrees))
    volume = read(tmp_path, content)
    segmentation = segment_volume(volume, Bright())
    assert volume.plane == plane
    assert {*segmentation.planes} == {"axial", "coronal", "sagittal"}
    expected = nib.orientations.apply_orientation(tumor, lay)
    np.testing.assert_array_equal(mask_of(segmentation.to_nifti()), expected)
    (lesion,) = segmentation.lesions
    assert lesion.volume_ml == pytest.approx(tumor.sum() * np.prod(sizes) / 1000)
    assert segmentation.volume_ml == pytest.approx(lesion.volume_ml)
    centre = nib.affines.apply_affine(affine, np.argwhere(expected).mean(axis=0))
    assert lesion.centre_mm == pytest.approx(centre, abs=1e-3)
    sides = [np.ptp(along) + 1 for along in np.nonzero(tumor)]
    assert lesion.longest_diameter_mm == pytest.approx(np.linalg.norm(np.multiply(sides, sizes)), rel=1e-4)
    assert segmentation.warnings == volume.warnings


@pytest.mark.parametrize("count", [1, 2, 8])
def test_a_thin_stack_is_looked_at_as_it_was_taken(tmp_path, count):
    """Of two slices the other planes would show a stripe, find nothing in it, and outvote what was found."""
    voxels, tumor = head((1.5, 1.5, 6))
    middle = int(np.median(np.nonzero(tumor)[2]))
    part = np.s_[:, :, middle : middle + count]
    segmentation = segment_volume(read(tmp_path, scan_of(voxels[part], (1.5, 1.5, 6), "LPS")[0]), Bright())
    assert segmentation.planes == ("axial",) and segmentation.mask.sum() == tumor[part].sum() > 0
    assert (ALONE.format(plane="axial") in segmentation.warnings) == (count > 1)


class Darkest(Bright):
    """It keeps the lowest value of every picture, and how much of it is that dark."""

    def batch(self, images, batch_size=8, *, framing="auto"):
        self.seen = [*getattr(self, "seen", []), *((image.min(), (image == image.min()).mean()) for image in images)]
        return super().batch(images, batch_size, framing=framing)


@pytest.mark.parametrize("added", [-1024.0, 32768.0])
def test_around_a_scan_it_is_as_dark_as_in_it(tmp_path, added):
    """Also of values below 0, and of signed ones that were saved as unsigned."""
    voxels, tumor = head((3, 3, 3))
    volume = read(tmp_path, scan_of((voxels + added).astype(np.float32), (3, 3, 3), "RAS")[0])
    segmenter = Darkest()
    segmentation = segment_volume(volume, segmenter)
    assert segmentation.mask.sum() == tumor.sum() and {*segmentation.planes} == {"axial", "coronal", "sagittal"}
    assert {lowest for lowest, _ in segmenter.seen} == {0} and min(share for _, share in segmenter.seen) > 0.2
    assert volume.slices.min() == added


@pytest.mark.parametrize(("axis", "plane"), [(0, "sagittal"), (1, "coronal"), (2, "axial")])
def test_thick_slices_are_looked_at_as_they_were_taken(tmp_path, axis, plane):
    sizes = tuple(8.0 if axis == other else 1.5 for other in range(3))
    voxels, tumor = head(sizes)
    content, _, lay = scan_of(voxels, sizes, "LPS")
    segmentation = segment_volume(read(tmp_path, content), Bright())
    assert segmentation.planes == (plane,)
    assert ALONE.format(plane=plane) in segmentation.warnings
    np.testing.assert_array_equal(mask_of(segmentation.to_nifti()), nib.orientations.apply_orientation(tumor, lay))


def test_who_does_not_say_how_the_patient_lies_is_looked_at_as_stored(tmp_path):
    def forget(header):
        header["qform_code"] = header["sform_code"] = 0

    voxels, tumor = head((3, 3, 3))
    content = phantoms.nifti(voxels, np.diag([3.0, 3, 3, 1]), packed=False, edit=forget)
    segmentation = segment_volume(read(tmp_path, content), Bright())
    assert segmentation.planes == ("unknown",)
    np.testing.assert_array_equal(mask_of(segmentation.to_nifti()), tumor)
    assert segmentation.lesions[0].centre_mm is None


@pytest.mark.parametrize(("missing", "planes"), [(1, 3), (2, 3), (3, 1)])
def test_missing_slices_stay_empty_and_hide_nothing_else(tmp_path, missing, planes):
    voxels, tumor = head((3, 3, 3))
    voxels, tumor = voxels.copy(), tumor.copy()
    _, _, along = np.nonzero(tumor)
    middle = int(np.median(along))
    gap = np.s_[:, :, middle : middle + missing]
    voxels[gap] = 0
    volume = read(tmp_path, scan_of(voxels, (3, 3, 3), "RAS")[0])
    segmentation = segment_volume(volume, Bright())
    assert len(segmentation.planes) == len(planes_of(volume)) == planes
    assert (FILLED.format(count=missing) in segmentation.warnings) == (planes == 3)
    found = mask_of(segmentation.to_nifti())
    assert not found[gap].any()
    tumor[gap] = False
    # On both sides of the gap.
    np.testing.assert_array_equal(found, tumor)
    assert segmentation.volume_ml == pytest.approx(tumor.sum() * 27 / 1000)


def test_what_is_filled_lies_evenly_between_its_neighbours():
    slices = np.array([9.0, 0, 0, 3, 0, 1], np.float32)[:, None, None] * np.ones((6, 2, 2), np.float32)
    np.testing.assert_allclose(filled(slices, [1, 2, 4])[:, 0, 0], [9, 7, 5, 3, 2, 1])


@pytest.mark.parametrize("finding", [1, 2, 3])
def test_a_piece_that_one_plane_does_not_confirm_is_dropped(tmp_path, finding):
    voxels, tumor = head((3, 3, 3))
    volume = read(tmp_path, scan_of(voxels, (3, 3, 3), "RAS")[0])
    each = [Bright() for _ in range(3)]
    counts = []
    for plane, segmenter in zip(("sagittal", "coronal", "axial"), each, strict=True):
        assert segment_volume(volume, segmenter, planes=(plane,)).mask.any()
        counts.append(segmenter.pictures)
    segmentation = segment_volume(volume, Bright(finding=sum(counts[:finding])))
    assert segmentation.tumor_found == (finding == 3)
    assert segmentation.probability.max() == pytest.approx({1: 1 / 3, 2: 0.5, 3: 1}[finding])
    # Whoever lowers the threshold sees what two planes found.
    assert np.array_equal(segmentation.at_threshold(0.45).mask.sum(), tumor.sum() if finding > 1 else 0)


def test_the_share_of_a_piece_that_is_sure_decides():
    probability = np.zeros((4, 9, 12), np.float32)
    probability[1:3, 1:6, 1:3] = 0.6  # 20 voxels
    probability[1:3, 1:6, 9:11] = 0.6
    probability[1, 1, 1] = probability[1, 1:3, 9] = CONFIRMED + 0.01
    probability[0, 0, 5] = 0.3
    before = probability.copy()
    drop_unconfirmed(probability)
    assert CONFIRMED_SHARE == 2 / 20
    np.testing.assert_array_equal(probability > 0.5, (before > 0.5) & (np.arange(12) >= 5))
    assert probability[1, 1, 1] == 0.5 and probability[0, 0, 5] == np.float32(0.3)


def test_all_slices_of_a_plane_have_one_frame_of_one_size_in_mm(tmp_path):
    for number, sizes in enumerate([(3, 3, 3), (2, 2, 3)]):
        voxels, _ = head(sizes)
        segmenter = Bright()
        segment_volume(read(tmp_path, scan_of(voxels, sizes, "RAS")[0]), segmenter)
        assert {shape for _, shape in segmenter.batches} == {(round(FRAME_MM / min(sizes)),) * 2}, number


def test_a_wide_margin_changes_nothing(tmp_path):
    voxels, tumor = head((3, 3, 3))
    content, _, _ = scan_of(np.pad(voxels, [(20, 40), (30, 10), (25, 0)]), (3, 3, 3), "RAS")
    segmenter, plain = Bright(), Bright()
    wide = segment_volume(read(tmp_path, content), segmenter)
    segment_volume(read(tmp_path, scan_of(voxels, (3, 3, 3), "RAS")[0]), plain)
    assert mask_of(wide.to_nifti()).sum() == tumor.sum()
    assert {shape for _, shape in segmenter.batches} == {shape for _, shape in plain.batches}
    # Slices beside the head are not looked at.
    assert segmenter.pictures == pytest.approx(plain.pictures, abs=6)


def test_batches_are_bounded_and_reported(tmp_path, monkeypatch):
    voxels, _ = head((3, 3, 3))
    volume = read(tmp_path, scan_of(voxels, (3, 3, 3), "RAS")[0])
    segmenter, reports = Bright(), []
    segment_volume(volume, segmenter, batch_size=5, report=lambda *done: reports.append(done))
    total = segmenter.pictures
    assert max(count for count, _ in segmenter.batches) == 5
    assert reports[0] == (0, total) and reports[-1] == (total, total)
    assert [done for done, _ in reports] == sorted({done for done, _ in reports})
    monkeypatch.setattr(segmenting, "MAX_BATCH_PIXELS", 2 * 80 * 80)
    segment_volume(volume, bounded := Bright())
    assert {count for count, _ in bounded.batches} <= {1, 2}


def test_pixels_as_small_as_a_file_can_say_take_no_memory(tmp_path):
    affine = np.diag([0.02, 0.04, 99.0, 1])
    volume = read(tmp_path, phantoms.nifti(phantoms.noise(40, 30, 3), affine, packed=False))
    segmenter = Bright()
    segment_volume(volume, segmenter)
    assert max(max(shape) for _, shape in segmenter.batches) <= 1024


@pytest.mark.parametrize(("familiarity", "said"), [(None, False), (0.5, False), (0.01, False), (0.0, True)])
def test_one_sentence_for_a_volume_that_the_network_does_not_know(tmp_path, familiarity, said):
    voxels, _ = head((3, 3, 3))
    volume = read(tmp_path, scan_of(voxels, (3, 3, 3), "RAS")[0])
    segmentation = segment_volume(volume, Bright(familiarity=familiarity))
    assert segmentation.familiarity == familiarity
    assert segmentation.warnings.count(UNLIKE) == said
    assert len(segmentation.warnings) == len(volume.warnings) + said


@pytest.mark.parametrize("sizes", [(3, 3, 3), (1.5, 1.5, 6)])
def test_a_head_without_skull_is_said(tmp_path, sizes):
    for skull in (True, False):
        voxels, _ = head(sizes, skull)
        segmentation = segment_volume(read(tmp_path, scan_of(voxels, sizes, "RAS")[0]), Bright())
        assert (STRIPPED in segmentation.warnings) != skull


def test_what_holds_nothing_is_no_error(tmp_path):
    volume = read(tmp_path, phantoms.nifti(np.zeros((20, 20, 5), np.int16), packed=False))
    segmentation = segment_volume(volume, Bright())
    assert segmentation.volume_ml == 0 and segmentation.lesions == []


def test_wrong_arguments_are_named(tmp_path):
    volume = read(tmp_path, phantoms.nifti(phantoms.noise(20, 20, 5), np.diag([1, 1, 9, 1]), packed=False))
    for wrong, said in (
        ({"threshold": 2}, "threshold is 2"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"planes": ("coronal",)}, "allows axial"),
        ({"planes": ()}, "allows axial"),
    ):
        with pytest.raises(ValueError, match=said):
            segment_volume(volume, Bright(), **wrong)
